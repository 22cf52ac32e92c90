"""What the normalisations share: statistics, the affine map after them, and the checks of their arguments.

Statistics are computed in two passes (the mean first), in float32 for float16 and bfloat16 inputs, as torch does.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jax import lax

from ...core.box import Box
from ._common import HALF_DTYPES, shape_list

Axes = tuple[int, ...]
Moments = tuple[jax.Array, jax.Array]


def standardize(
    x: jax.Array, axes: Axes, eps: float, mapped: tuple[str, ...] = ()
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """`(x - mean) / sqrt(var + eps)` with the biased variance; also the mean and the variance, dimensions kept.

    With `mapped`, the statistics are those of all members of these mapped axes. Members have equal shapes, so that
    the mean of their means is the mean of all.
    """
    mean = jnp.mean(x, axes, keepdims=True)
    mean = lax.pmean(mean, mapped) if mapped else mean
    centred = x - mean
    var = jnp.mean(lax.square(centred), axes, keepdims=True)
    var = lax.pmean(var, mapped) if mapped else var
    return centred * lax.rsqrt(var + eps), mean, var


def affine(x: jax.Array, weight: jax.Array | None, bias: jax.Array | None, shape: Axes) -> jax.Array:
    """`x * weight + bias`, the two reshaped to `shape`; None for 1 and 0."""
    if weight is not None:
        x = x * weight.astype(x.dtype).reshape(shape)
    if bias is not None:
        x = x + bias.astype(x.dtype).reshape(shape)
    return x


def channel_shape(ndim: int) -> Axes:
    """The shape by which a vector of channels broadcasts against `ndim` dimensions."""
    return (1, -1) + (1,) * (ndim - 2)


def moving_average(old: Moments, new: Moments, momentum: jax.Array | float) -> Moments:
    """Running statistics moved towards a batch's, in the dtype that they have. No gradient goes through them."""

    def move(old: jax.Array, new: jax.Array) -> jax.Array:
        share = jnp.asarray(momentum).astype(new.dtype)
        return lax.stop_gradient((1 - share) * old.astype(new.dtype) + share * new).astype(old.dtype)

    return move(old[0], new[0]), move(old[1], new[1])


def check_statistics(running_mean: object, running_var: object) -> None:
    """Both or neither.

    Raises:
        ValueError: there is one without the other.
    """
    if (running_mean is None) != (running_var is None):
        raise ValueError("running_mean and running_var must either both be None or neither be None")


def write_statistics(name: str, running_mean: object, running_var: object) -> tuple[Box, Box]:
    """The boxes of the statistics that a functional is about to write.

    Raises:
        TypeError: they are arrays, which can't be changed in place.
    """
    if isinstance(running_mean, Box) and isinstance(running_var, Box):
        return running_mean, running_var
    raise TypeError(
        f"{name} updates running_mean and running_var in place when it uses the input's own statistics, which arrays "
        f"do not allow: pass nn.Buffer(...) instead of {type(running_mean).__name__} and "
        f"{type(running_var).__name__}, or None"
    )


def check_channels(x: jax.Array, channels: int, vectors: Mapping[str, jax.Array | None]) -> None:
    """Every vector has an element for each channel.

    Raises:
        RuntimeError: one has not.
    """
    for name, array in vectors.items():
        if array is not None and array.shape != (channels,):
            raise RuntimeError(
                f"{name} should contain {channels} elements not {array.size}: "
                f"its size is {shape_list(array)}, the input's {shape_list(x)}"
            )


def check_dtypes(x: jax.Array, vectors: Mapping[str, jax.Array | None]) -> None:
    """Parameters, and statistics, have one dtype: the input's, or float32 beside a half-precision input.

    Raises:
        RuntimeError: one has another.
    """
    first = None
    for name, array in vectors.items():
        if array is None:
            continue
        allowed = array.dtype == x.dtype or (x.dtype in HALF_DTYPES and array.dtype == jnp.float32)
        if not allowed or (first is not None and array.dtype != first):
            raise RuntimeError(
                f"mixed dtype: expect {name} to have scalar type {x.dtype.name if first is None else first.name}, "
                f"{_reason(x, first)}, but found {array.dtype.name}"
            )
        first = array.dtype


def _reason(x: jax.Array, first: object) -> str:
    if first is not None:
        return "as the others have"
    return "the input's (or float32)" if x.dtype in HALF_DTYPES else "the input's"

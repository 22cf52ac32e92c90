"""Normalisation of a sample by itself: over trailing dimensions or groups of channels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
from jax import lax

from ...core.box import unbox
from ._autocast import autocasts
from ._common import ArrayLike, compiled, opmath_dtype, require_inexact, shape_list
from ._statistics import affine, channel_shape, check_dtypes, standardize

__all__ = ["group_norm", "layer_norm", "rms_norm"]


@compiled("n", "eps")
def _layer_norm(x: jax.Array, weight: jax.Array | None, bias: jax.Array | None, *, n: int, eps: float) -> jax.Array:
    wide = x.astype(opmath_dtype(x.dtype))
    y, _, _ = standardize(wide, tuple(range(x.ndim - n, x.ndim)), eps)
    return affine(y, weight, bias, (1,) * (x.ndim - n) + x.shape[x.ndim - n :]).astype(x.dtype)


@compiled("groups", "eps")
def _group_norm(
    x: jax.Array, weight: jax.Array | None, bias: jax.Array | None, *, groups: int, eps: float
) -> jax.Array:
    wide = x.astype(opmath_dtype(x.dtype)).reshape(x.shape[0], groups, x.shape[1] // groups, *x.shape[2:])
    y, _, _ = standardize(wide, tuple(range(2, wide.ndim)), eps)
    return affine(y.reshape(x.shape), weight, bias, channel_shape(x.ndim)).astype(x.dtype)


@compiled("n", "eps")
def _rms_norm(x: jax.Array, weight: jax.Array | None, *, n: int, eps: float) -> jax.Array:
    wide = x.astype(opmath_dtype(x.dtype))
    power = jnp.mean(lax.square(wide), tuple(range(x.ndim - n, x.ndim)), keepdims=True)
    y = wide * lax.rsqrt(power + eps)
    return affine(y, weight, None, (1,) * (x.ndim - n) + x.shape[x.ndim - n :]).astype(x.dtype)


@autocasts
def layer_norm(
    input: ArrayLike,
    normalized_shape: Sequence[int],
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    eps: float = 1e-5,
) -> jax.Array:
    """`(x - mean) / sqrt(var + eps) * weight + bias` over the trailing dimensions (Ba, Kiros and Hinton, 2016).

    Args:
        input: the array.
        normalized_shape: its trailing dimensions to normalise over.
        weight: the scale of each element, or None for 1.
        bias: the shift of each element, or None for 0.
        eps: added to the (biased) variance.

    Shape:
        - Input: `(*, *normalized_shape)`; weight and bias: `normalized_shape`.
        - Output: the input's.

    Raises:
        RuntimeError: the shapes or dtypes don't fit.
        TypeError: `normalized_shape` is a number.
        NotImplementedError: the input is not floating-point.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn import functional as F
        >>> F.layer_norm(jnp.array([[1.0, 3.0]]), (2,)).round(3).tolist()
        [[-1.0, 1.0]]
    """
    x, w, b = unbox(input), unbox(weight), unbox(bias)
    shape = _trailing_shape("layer_norm", normalized_shape)
    require_inexact(x, "layer_norm")
    _check_trailing(x, shape, {"weight": w, "bias": b})
    check_dtypes(x, {"weight": w, "bias": b})
    return _layer_norm(x, w, b, n=len(shape), eps=float(eps))


@autocasts
def rms_norm(
    input: ArrayLike,
    normalized_shape: Sequence[int],
    weight: ArrayLike | None = None,
    eps: float | None = None,
) -> jax.Array:
    """`x / sqrt(mean(x^2) + eps) * weight` over the trailing dimensions (Zhang and Sennrich, 2019).

    Args:
        input: the array.
        normalized_shape: its trailing dimensions to normalise over.
        weight: the scale of each element, or None for 1. Its dtype need not be the input's.
        eps: added to the mean square. None for the machine epsilon of the dtype it is computed in: the input's,
            float32's for half precision.

    Shape:
        - Input: `(*, *normalized_shape)`; weight: `normalized_shape`.
        - Output: the input's.

    Raises:
        RuntimeError: the shapes don't fit.
        ValueError: the input has fewer dimensions than `normalized_shape`.
        TypeError: `normalized_shape` is a number.
        NotImplementedError: the input is neither floating-point nor complex.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn import functional as F
        >>> F.rms_norm(jnp.array([[3.0, -3.0]]), (2,)).round(3).tolist()
        [[1.0, -1.0]]
    """
    x, w = unbox(input), unbox(weight)
    shape = _trailing_shape("rms_norm", normalized_shape)
    require_inexact(x, "rms_norm")
    if x.ndim < len(shape):
        raise ValueError(
            f"Input tensor must have at least {len(shape)} dimensions, but got {x.ndim}: "
            f"normalized_shape={list(shape)}, input of size {shape_list(x)}"
        )
    _check_trailing(x, shape, {"weight": w})
    added = float(jnp.finfo(opmath_dtype(x.dtype)).eps) if eps is None else float(eps)
    return _rms_norm(x, w, n=len(shape), eps=added)


@autocasts
def group_norm(
    input: ArrayLike,
    num_groups: int,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    eps: float = 1e-5,
) -> jax.Array:
    """`(x - mean) / sqrt(var + eps) * weight + bias` within each group of channels of each sample (Wu and He, 2018).

    Args:
        input: the batch.
        num_groups: into how many groups of neighbouring channels `C` is split.
        weight: the scale of each channel, or None for 1.
        bias: the shift of each channel, or None for 0.
        eps: added to the (biased) variance.

    Shape:
        - Input: `(N, C, *)`; weight and bias: `(C)`.
        - Output: the input's.

    Raises:
        RuntimeError: the shapes or dtypes don't fit, or `num_groups` doesn't divide `C`.
        ValueError: a single sample has one value a group.
        ZeroDivisionError: `num_groups` is 0.
        NotImplementedError: the input is not floating-point.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn import functional as F
        >>> F.group_norm(jnp.array([[1.0, 3.0, 5.0, 9.0]]), 2).round(3).tolist()
        [[-1.0, 1.0, -1.0, 1.0]]
    """
    x, w, b = unbox(input), unbox(weight), unbox(bias)
    require_inexact(x, "group_norm")
    if x.ndim < 2:
        raise RuntimeError(f"Expected at least 2 dimensions for input tensor but received {x.ndim}: {shape_list(x)}")
    channels = x.shape[1]
    if num_groups == 0:
        raise ZeroDivisionError(f"group_norm: an input of shape {shape_list(x)} can't be split into num_groups=0")
    if num_groups < 0:
        raise RuntimeError(f"Expected num groups to be greater than 0, got {num_groups}")
    if channels % num_groups:
        raise RuntimeError(
            "Expected number of channels in input to be divisible by num_groups, "
            f"but got input of shape {shape_list(x)} and num_groups={num_groups}"
        )
    if x.size == num_groups:
        raise ValueError(
            f"Expected more than 1 value per channel when training, got input size {shape_list(x)} "
            f"with num_groups={num_groups}"
        )
    for name, array in (("weight", w), ("bias", b)):
        if array is not None and array.shape != (channels,):
            raise RuntimeError(
                f"Expected {name} to be a vector of size equal to the number of channels in input, "
                f"but got {name} of shape {shape_list(array)} and input of shape {shape_list(x)}"
            )
    check_dtypes(x, {"weight": w, "bias": b})
    return _group_norm(x, w, b, groups=num_groups, eps=float(eps))


def _trailing_shape(name: str, normalized_shape: Sequence[int]) -> tuple[int, ...]:
    if isinstance(normalized_shape, int):
        raise TypeError(
            f"{name}(): argument 'normalized_shape' (position 2) must be tuple of ints, not int: ({normalized_shape},)"
        )
    shape = tuple(normalized_shape)
    if not shape:
        raise RuntimeError(
            "Expected normalized_shape to be at least 1-dimensional, i.e., containing at least one element, "
            "but got normalized_shape = []"
        )
    return shape


def _check_trailing(x: jax.Array, shape: tuple[int, ...], vectors: Mapping[str, jax.Array | None]) -> None:
    for name, array in vectors.items():
        if array is not None and array.shape != shape:
            raise RuntimeError(
                f"Expected {name} to be of same shape as normalized_shape, "
                f"but got {name} of shape {shape_list(array)} and normalized_shape = {list(shape)}"
            )
    if x.shape[max(x.ndim - len(shape), 0) :] != shape:
        expected = ", ".join(["*", *map(str, shape)])
        raise RuntimeError(
            f"Given normalized_shape={list(shape)}, expected input with shape [{expected}], "
            f"but got input of size{shape_list(x)}"
        )

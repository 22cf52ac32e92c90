"""Normalisation by statistics over the batch, the trailing dimensions or groups of channels.

Statistics are computed in two passes (the mean first), in float32 for float16 and bfloat16 inputs, as torch does.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from ...core.box import Box, unbox
from ._common import HALF_DTYPES, ArrayLike, compiled, opmath_dtype, require_inexact, shape_list

__all__ = ["batch_norm", "group_norm", "layer_norm"]

Axes = tuple[int, ...]


def _standardize(x: jax.Array, axes: Axes, eps: float) -> tuple[jax.Array, jax.Array, jax.Array]:
    """`(x - mean) / sqrt(var + eps)` with the biased variance; also the mean and the variance, dimensions kept."""
    mean = jnp.mean(x, axes, keepdims=True)
    centred = x - mean
    var = jnp.mean(lax.square(centred), axes, keepdims=True)
    return centred * lax.rsqrt(var + eps), mean, var


def _affine(x: jax.Array, weight: jax.Array | None, bias: jax.Array | None, shape: Axes) -> jax.Array:
    if weight is not None:
        x = x * weight.astype(x.dtype).reshape(shape)
    if bias is not None:
        x = x + bias.astype(x.dtype).reshape(shape)
    return x


@compiled("eps")
def _batch_norm_train(
    x: jax.Array,
    weight: jax.Array | None,
    bias: jax.Array | None,
    running: tuple[jax.Array, jax.Array] | None,
    momentum: jax.Array | float,
    *,
    eps: float,
) -> tuple[jax.Array, tuple[jax.Array, jax.Array] | None]:
    wide = x.astype(opmath_dtype(x.dtype))
    axes = (0, *range(2, x.ndim))
    y, mean, var = _standardize(wide, axes, eps)
    y = _affine(y, weight, bias, (1, -1) + (1,) * (x.ndim - 2)).astype(x.dtype)
    if running is None:
        return y, None
    count = x.size // x.shape[1]
    batch = lax.stop_gradient((mean.reshape(-1), var.reshape(-1) * (count / (count - 1))))
    return y, tuple(_moving_average(old, new, momentum) for old, new in zip(running, batch, strict=True))  # pyright: ignore[reportReturnType]


def _moving_average(old: jax.Array, new: jax.Array, momentum: jax.Array | float) -> jax.Array:
    momentum = jnp.asarray(momentum, new.dtype)
    return lax.stop_gradient((1 - momentum) * old.astype(new.dtype) + momentum * new).astype(old.dtype)


@compiled("eps")
def _batch_norm_eval(
    x: jax.Array,
    weight: jax.Array | None,
    bias: jax.Array | None,
    mean: jax.Array,
    var: jax.Array,
    *,
    eps: float,
) -> jax.Array:
    wide, shape = x.astype(opmath_dtype(x.dtype)), (1, -1) + (1,) * (x.ndim - 2)
    scale = lax.rsqrt(var.astype(wide.dtype) + eps).reshape(shape)
    y = (wide - mean.astype(wide.dtype).reshape(shape)) * scale
    return _affine(y, weight, bias, shape).astype(x.dtype)


@compiled("n", "eps")
def _layer_norm(x: jax.Array, weight: jax.Array | None, bias: jax.Array | None, *, n: int, eps: float) -> jax.Array:
    wide = x.astype(opmath_dtype(x.dtype))
    y, _, _ = _standardize(wide, tuple(range(x.ndim - n, x.ndim)), eps)
    return _affine(y, weight, bias, (1,) * (x.ndim - n) + x.shape[x.ndim - n :]).astype(x.dtype)


@compiled("groups", "eps")
def _group_norm(
    x: jax.Array, weight: jax.Array | None, bias: jax.Array | None, *, groups: int, eps: float
) -> jax.Array:
    wide = x.astype(opmath_dtype(x.dtype)).reshape(x.shape[0], groups, x.shape[1] // groups, *x.shape[2:])
    y, _, _ = _standardize(wide, tuple(range(2, wide.ndim)), eps)
    return _affine(y.reshape(x.shape), weight, bias, (1, -1) + (1,) * (x.ndim - 2)).astype(x.dtype)


def batch_norm(
    input: ArrayLike,
    running_mean: ArrayLike | None,
    running_var: ArrayLike | None,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    training: bool = False,
    momentum: float | jax.Array = 0.1,
    eps: float = 1e-5,
) -> jax.Array:
    """`(x - mean) / sqrt(var + eps) * weight + bias` for each channel (Ioffe and Szegedy, 2015).

    Args:
        input: the batch.
        running_mean: the mean to use when not training; updated when training. None for none.
        running_var: the variance, likewise.
        weight: the scale, or None for 1.
        bias: the shift, or None for 0.
        training: whether to normalise by the mean and biased variance of this batch, and to move the running mean
            and (unbiased) variance towards this batch's: `running = (1 - momentum) running + momentum batch`.
        momentum: how far they move.
        eps: added to the variance.

    Shape:
        - Input: `(N, C)` or `(N, C, *)`; the others `(C)`.
        - Output: the input's.

    Raises:
        ValueError: training with one value a channel, or one running statistic without the other.
        RuntimeError: another vector's size isn't `C`, there are no statistics to use, or dtypes don't fit.
        TypeError: training with running statistics that can't be changed in place.
        NotImplementedError: the input is not floating-point.

    Note:
        When training, the running statistics must be boxes (`nn.Buffer`): an array can't be updated in place.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> from jaxmodule.nn import functional as F
        >>> mean, var = nn.Buffer(jnp.zeros(1)), nn.Buffer(jnp.ones(1))
        >>> F.batch_norm(jnp.array([[1.0], [3.0]]), mean, var, training=True).round(3).tolist()
        [[-1.0], [1.0]]
        >>> round(float(mean.value[0]), 3), round(float(var.value[0]), 3)
        (0.2, 1.1)
    """
    x, mean, var, w, b = (unbox(array) for array in (input, running_mean, running_var, weight, bias))
    require_inexact(x, "batch_norm")
    if (mean is None) != (var is None):
        raise ValueError("running_mean and running_var must either both be None or neither be None")
    if not training and mean is None:
        raise RuntimeError("running_mean must be defined in evaluation mode")
    channels = x.shape[1] if x.ndim > 1 else 0
    if x.ndim < 2:
        raise RuntimeError(f"batch_norm expects an input of shape (N, C, *), but got {shape_list(x)}")
    if training and x.size == channels and x.size:
        raise ValueError(
            f"Expected more than 1 value per channel when training, got input size {shape_list(x)} "
            f"with {channels} channels"
        )
    for name, array in (("running_mean", mean), ("running_var", var), ("weight", w), ("bias", b)):
        if array is not None and array.shape != (channels,):
            raise RuntimeError(
                f"{name} should contain {channels} elements not {array.size}: "
                f"its size is {shape_list(array)}, the input's {shape_list(x)}"
            )
        _check_dtype(name, array, x)
    if not training:
        return _batch_norm_eval(x, w, b, mean, var, eps=float(eps))
    if x.size == 0:  # torch leaves the statistics of an empty batch out
        return x
    if mean is not None and not (isinstance(running_mean, Box) and isinstance(running_var, Box)):
        raise TypeError(
            "batch_norm updates running_mean and running_var in place when training, which arrays do not allow: pass "
            f"nn.Buffer(...) instead of {type(running_mean).__name__} and {type(running_var).__name__}, or None"
        )
    y, updated = _batch_norm_train(x, w, b, None if mean is None else (mean, var), momentum, eps=float(eps))
    if updated is not None and isinstance(running_mean, Box) and isinstance(running_var, Box):
        running_mean.value, running_var.value = updated
    return y


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
    if isinstance(normalized_shape, int):
        raise TypeError("layer_norm(): argument 'normalized_shape' (position 2) must be tuple of ints, not int")
    x, w, b = unbox(input), unbox(weight), unbox(bias)
    require_inexact(x, "layer_norm")
    shape = tuple(normalized_shape)
    if not shape:
        raise RuntimeError(
            "Expected normalized_shape to be at least 1-dimensional, i.e., containing at least one element, "
            "but got normalized_shape = []"
        )
    for name, array in (("weight", w), ("bias", b)):
        if array is not None and array.shape != shape:
            raise RuntimeError(
                f"Expected {name} to be of same shape as normalized_shape, "
                f"but got {name} of shape {shape_list(array)} and normalized_shape = {list(shape)}"
            )
        _check_dtype(name, array, x)
    if x.shape[max(x.ndim - len(shape), 0) :] != shape:
        expected = ", ".join(["*", *map(str, shape)])
        raise RuntimeError(
            f"Given normalized_shape={list(shape)}, expected input with shape [{expected}], "
            f"but got input of size{shape_list(x)}"
        )
    return _layer_norm(x, w, b, n=len(shape), eps=float(eps))


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
    if num_groups <= 0 or channels % num_groups:
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
        _check_dtype(name, array, x)
    return _group_norm(x, w, b, groups=num_groups, eps=float(eps))


def _check_dtype(name: str, array: jax.Array | None, x: jax.Array) -> None:
    """Parameters and statistics have the input's dtype, or float32 beside a half-precision input."""
    if array is None or array.dtype == x.dtype or (x.dtype in HALF_DTYPES and array.dtype == jnp.float32):
        return
    raise RuntimeError(
        f"mixed dtype: expect {name} to have scalar type {x.dtype.name}, the input's"
        f"{' (or float32)' if x.dtype in HALF_DTYPES else ''}, but found {array.dtype.name}"
    )

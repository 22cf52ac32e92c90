"""Rectifiers with a slope below 0: fixed, learnt or drawn."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from ...core.box import unbox
from ...random import next_key
from ._autocast import autocasts
from ._common import ArrayLike, along_axis, compiled, shape_list
from ._pointwise import require_floating, store, widen

__all__ = ["leaky_relu", "leaky_relu_", "prelu", "rrelu", "rrelu_"]


@compiled("slope")
def _leaky_relu(x: jax.Array, *, slope: float) -> jax.Array:
    wide = widen(x)
    return jnp.where(wide > 0, wide, wide * slope).astype(x.dtype)


@compiled()
def _prelu(x: jax.Array, weight: jax.Array) -> jax.Array:
    wide, slope = widen(x), widen(weight)
    if weight.ndim:
        slope = along_axis(slope, min(1, x.ndim - 1), x.ndim) if x.ndim else slope.reshape(())
    positive = wide > 0
    # The slope's gradient is a sum over the others' products: an infinity above 0 would make it NaN.
    return jnp.where(positive, wide, slope * jnp.where(positive, 0, wide)).astype(x.dtype)


@compiled("lower", "upper")
def _rrelu(x: jax.Array, key: jax.Array, *, lower: float, upper: float) -> jax.Array:
    wide = widen(x)
    slope = jax.random.uniform(key, x.shape, wide.dtype, lower, upper)
    return jnp.where(wide <= 0, wide * slope, wide).astype(x.dtype)


def leaky_relu(input: ArrayLike, negative_slope: float = 0.01, inplace: bool = False) -> jax.Array:
    """`max(0, x) + negative_slope min(0, x)` elementwise; its gradient at 0 is the slope.

    Args:
        input: any shape.
        negative_slope: the slope below 0.
        inplace: write the result into `input` and return that, if it is a box; an array can't change.

    Raises:
        NotImplementedError: the input is not floating-point.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn import functional as F
        >>> F.leaky_relu(jnp.array([-1.0, 2.0]), 0.5).tolist()
        [-0.5, 2.0]
    """
    x = unbox(input)
    require_floating(x, "leaky_relu")
    return store(input, _leaky_relu(x, slope=float(negative_slope)), inplace)


def leaky_relu_(input: ArrayLike, negative_slope: float = 0.01) -> jax.Array:
    """`leaky_relu` in place.

    Args:
        input: a box, which is written and returned; of an array the result is returned.
        negative_slope: the slope below 0.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> from jaxmodule.nn import functional as F
        >>> F.leaky_relu_(nn.Buffer(jnp.array([-1.0, 2.0])), 0.5).tolist()
        [-0.5, 2.0]
    """
    return leaky_relu(input, negative_slope, inplace=True)


@autocasts
def prelu(input: ArrayLike, weight: ArrayLike) -> jax.Array:
    """`max(0, x) + weight min(0, x)` elementwise, with a slope for each channel (He et al., 2015).

    Args:
        input: the array.
        weight: one slope, or one for each channel.

    Shape:
        - Input: `(*)` with one slope, else `(N, C, *)`; weight: `()`, `(1)` or `(C)`.
        - Output: the input's.

    Raises:
        RuntimeError: the weight has more than one dimension, another size than the channels, or another dtype than
            the input.
        NotImplementedError: the input is not floating-point.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn import functional as F
        >>> F.prelu(jnp.array([[-1.0, -1.0]]), jnp.array([0.25, 0.5])).tolist()
        [[-0.25, -0.5]]
    """
    x, w = unbox(input), unbox(weight)
    if w.ndim > 1:
        raise RuntimeError(
            f"prelu: Expected `weight` to be a scalar or 1D tensor, but got: ndim = {w.ndim} (size {shape_list(w)})"
        )
    if x.dtype != w.dtype:
        raise RuntimeError(f"prelu: Type promoting not supported. Got {x.dtype.name} and {w.dtype.name}")
    require_floating(x, "prelu")
    if w.size != 1:
        if x.ndim == 0:
            raise RuntimeError(f"Not allow zero-dim input tensor. Found a weight of size {shape_list(w)}")
        channels = x.shape[1] if x.ndim > 1 else 1
        if w.size != channels:
            raise RuntimeError(
                f"Mismatch of parameter numbers and input channel size. Found parameter numbers = {w.size} and "
                f"channel size = {channels}: an input of size {shape_list(x)}"
            )
    return _prelu(x, w)


def rrelu(
    input: ArrayLike, lower: float = 1.0 / 8, upper: float = 1.0 / 3, training: bool = False, inplace: bool = False
) -> jax.Array:
    """`max(0, x) + slope min(0, x)` elementwise, with random slopes when training (Xu et al., 2015).

    Args:
        input: any shape.
        lower: the least slope.
        upper: the greatest slope.
        training: whether to draw a slope for each element from U(lower, upper), with one draw a call from the current
            default generator. If not, it is their mean.
        inplace: write the result into `input` and return that, if it is a box; an array can't change.

    Raises:
        RuntimeError: `lower` or `upper` is not finite, or `lower` is greater.
        NotImplementedError: the input is not floating-point.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn import functional as F
        >>> F.rrelu(jnp.array([-1.0, 2.0]), 0.25, 0.75).tolist()
        [-0.5, 2.0]
        >>> -0.75 <= float(F.rrelu(jnp.array(-1.0), 0.25, 0.75, training=True)) <= -0.25
        True
    """
    for name, value in (("lower", lower), ("upper", upper)):
        if not math.isfinite(value):
            raise RuntimeError(f"rrelu: {name} bound must be finite, got {value}")
    if lower > upper:
        raise RuntimeError(f"Lower bound should be less than or equal to the upper bound, got {lower} and {upper}")
    x = unbox(input)
    require_floating(x, "rrelu")
    if training:
        y = _rrelu(x, next_key(), lower=float(lower), upper=float(upper))
    else:
        y = _leaky_relu(x, slope=(float(lower) + float(upper)) / 2)
    return store(input, y, inplace)


def rrelu_(input: ArrayLike, lower: float = 1.0 / 8, upper: float = 1.0 / 3, training: bool = False) -> jax.Array:
    """`rrelu` in place.

    Args:
        input: a box, which is written and returned; of an array the result is returned.
        lower: the least slope.
        upper: the greatest slope.
        training: whether to draw the slopes.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> from jaxmodule.nn import functional as F
        >>> F.rrelu_(nn.Buffer(jnp.array([-1.0, 2.0])), 0.25, 0.75).tolist()
        [-0.5, 2.0]
    """
    return rrelu(input, lower, upper, training, inplace=True)

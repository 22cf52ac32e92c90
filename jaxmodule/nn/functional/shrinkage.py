"""Shrinkage: what draws its input towards 0."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from ...core.box import unbox
from ._common import ArrayLike, compiled
from ._pointwise import as_inexact, require_floating, scalar_for, widen

__all__ = ["hardshrink", "softshrink", "tanhshrink"]


@compiled("lambd")
def _hardshrink(x: jax.Array, *, lambd: float) -> jax.Array:
    return jnp.where((x >= -lambd) & (x <= lambd), jnp.zeros_like(x), x)


@compiled("lambd")
def _softshrink(x: jax.Array, *, lambd: float) -> jax.Array:
    wide = widen(x)
    y = wide - jnp.sign(wide) * lambd
    return jnp.where((wide >= -lambd) & (wide <= lambd), jnp.zeros_like(wide), y).astype(x.dtype)


@compiled()
def _tanhshrink(x: jax.Array) -> jax.Array:
    wide = widen(x)
    return (wide - jnp.tanh(wide)).astype(x.dtype)


def hardshrink(input: ArrayLike, lambd: float = 0.5) -> jax.Array:
    """0 where `-lambd <= x <= lambd`, elsewhere `x`.

    Args:
        input: any shape.
        lambd: the half width of what becomes 0.

    Raises:
        NotImplementedError: the input is not floating-point.
        RuntimeError: the input's dtype doesn't hold `lambd`.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn import functional as F
        >>> F.hardshrink(jnp.array([-1.0, 0.5, 0.75])).tolist()
        [-1.0, 0.0, 0.75]
    """
    x = unbox(input)
    require_floating(x, "hardshrink")
    return _hardshrink(x, lambd=scalar_for(x, lambd))


def softshrink(input: ArrayLike, lambd: float = 0.5) -> jax.Array:
    """0 where `-lambd <= x <= lambd`, elsewhere `x - sign(x) lambd`.

    Args:
        input: any shape.
        lambd: the half width of what becomes 0, and how far the rest is moved.

    Raises:
        NotImplementedError: the input is not floating-point.
        RuntimeError: `lambd` is negative, or more than the input's dtype holds.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn import functional as F
        >>> F.softshrink(jnp.array([-1.0, 0.5, 0.75])).tolist()
        [-0.5, 0.0, 0.25]
    """
    x = unbox(input)
    require_floating(x, "softshrink")
    highest = float(jnp.finfo(x.dtype).max)
    if not 0.0 <= lambd <= highest:
        raise RuntimeError(
            f"lambda must be in range [0, {highest:g}] for input dtype {x.dtype.name}, but found {lambd}"
        )
    return _softshrink(x, lambd=float(lambd))


def tanhshrink(input: ArrayLike) -> jax.Array:
    """`x - tanh(x)` elementwise; integers give float32.

    Args:
        input: any shape.

    Raises:
        RuntimeError: the input is boolean.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn import functional as F
        >>> float(F.tanhshrink(jnp.array(100.0)))
        99.0
    """
    x = unbox(input)
    if x.dtype == jnp.bool_:
        raise RuntimeError(
            f"Subtraction, the `-` operator, with a bool tensor is not supported (input of size {list(x.shape)})"
        )
    return _tanhshrink(as_inexact(x))

"""What the pointwise functionals share: torch's dtype errors, scalars in an array's dtype, writing in place."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from ...core.box import Box
from ._common import ArrayLike, is_floating, opmath_dtype


def require_floating(x: jax.Array, name: str) -> None:
    """Raise as torch does where an operation has kernels for real floating-point dtypes only.

    Raises:
        NotImplementedError: `x` is integer, boolean or complex.
    """
    if not is_floating(x):
        raise NotImplementedError(
            f'"{name}" not implemented for {x.dtype.name!r} (input of size {list(x.shape)}): '
            "cast the input to a real float dtype"
        )


def as_inexact(x: jax.Array) -> jax.Array:
    """Integers and booleans as float32, as torch promotes them; anything else as it is."""
    return x if jnp.issubdtype(x.dtype, jnp.inexact) else x.astype(jnp.float32)


def widen(x: jax.Array) -> jax.Array:
    """`x` in the dtype it is computed with: float32 for half precision."""
    return x.astype(opmath_dtype(x.dtype))


def scalar_for(x: jax.Array, value: float) -> float | int:
    """A number as torch casts it to the dtype of `x`: truncated for integers, wrapped below 0 for unsigned ones.

    Raises:
        RuntimeError: the dtype doesn't hold it.
    """
    overflow = RuntimeError(f"value cannot be converted to type {x.dtype.name} without overflow: {value}")
    if is_floating(x):
        if math.isfinite(value) and abs(value) > float(jnp.finfo(x.dtype).max):
            raise overflow
        return float(value)
    info = jnp.iinfo(x.dtype)
    low = -int(info.max) if info.min == 0 else int(info.min)
    if not math.isfinite(value) or not low <= int(value) <= int(info.max):
        raise overflow
    return int(value) % (int(info.max) + 1) if info.min == 0 else int(value)


def store(input: ArrayLike, result: jax.Array, inplace: bool) -> jax.Array:
    """`result`; or with `inplace` the box that it was computed from, which now holds it."""
    if inplace and isinstance(input, Box):
        input.value = result
        return input
    return result

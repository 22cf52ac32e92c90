"""The p-norm of vectors, with torch's gradients where the norm has none of its own."""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2, 3))
def vector_norm(x: jax.Array, p: float, axes: tuple[int, ...], share: bool = True) -> jax.Array:
    """`sum(|x| ** p) ** (1 / p)` over `axes`, which are kept as dimensions of one element.

    The gradient is 0 at 0, that of the number of nonzeros (`p` = 0) everywhere. Elements that are equally the largest
    (`p` infinite) share it, or else each gets all of it.
    """
    size = jnp.abs(x)
    if p == 0:
        return jnp.sum((x != 0).astype(size.dtype), axes, keepdims=True)
    if math.isinf(p):
        return jnp.max(size, axes, keepdims=True) if p > 0 else jnp.min(size, axes, keepdims=True)
    if p == 1:
        return jnp.sum(size, axes, keepdims=True)
    if p == 2:
        return jnp.sqrt(jnp.sum(size * size, axes, keepdims=True))
    return jnp.sum(size**p, axes, keepdims=True) ** (1.0 / p)


@vector_norm.defjvp
def _vector_norm_jvp(
    p: float, axes: tuple[int, ...], share: bool, primals: tuple[jax.Array], tangents: tuple[jax.Array]
) -> tuple[jax.Array, jax.Array]:
    (x,), (dx,) = primals, tangents
    norm = vector_norm(x, p, axes, share)
    full = jnp.broadcast_to(norm, x.shape)
    slope = _slope(x, full, p)
    if math.isinf(p) and share:
        slope = slope / jnp.maximum(jnp.sum(_extreme(x, full).astype(norm.dtype), axes, keepdims=True), 1)
    moved = jnp.conj(slope) * dx
    return norm, jnp.sum(jnp.real(moved), axes, keepdims=True)


def _extreme(x: jax.Array, norm: jax.Array) -> jax.Array:
    return (jnp.abs(x) == norm) | (jnp.isnan(x) & jnp.isnan(norm))


def _slope(x: jax.Array, norm: jax.Array, p: float) -> jax.Array:
    """The derivative of the norm by each element."""
    if p == 0:
        return jnp.zeros_like(x)
    if math.isinf(p):
        return jnp.sign(x) * _extreme(x, norm).astype(norm.dtype)
    if p == 1:
        return jnp.sign(x)
    if p < 1:
        zero = x == 0
        size = jnp.abs(jnp.where(zero, jnp.ones_like(x), x))
        return jnp.where(zero, jnp.zeros_like(x), jnp.sign(x) * size ** (p - 1)) * norm ** (1 - p)
    zero = norm == 0
    safe = jnp.where(zero, jnp.ones_like(norm), norm)
    if p == 2:
        unit = x / safe
    else:
        # Of the ratio, as neither a power of a large element nor one of a small norm need be finite.
        unit = jnp.sign(x) * (jnp.abs(x) / safe) ** (p - 1)
    return jnp.where(zero, jnp.zeros_like(x), unit)

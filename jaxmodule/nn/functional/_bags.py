"""Sums, means and maxima of bags of rows: over a dimension where bags are equally large, else as segments.

A segment is told by the offset where it begins; offsets may be traced, so that one program serves all divisions.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


def reduce_rows(rows: jax.Array, counts: jax.Array, mode: str) -> jax.Array:
    """Bags `(B, N, D)` of those rows that count (`(B, N)`)."""
    keep = jnp.broadcast_to(counts[..., None], rows.shape)
    if mode == "max":
        first = jnp.argmax(counts, 1)
        leading = jnp.broadcast_to(jnp.arange(rows.shape[1], dtype=first.dtype), counts.shape) == first[:, None]
        key = _key(rows, keep, jnp.broadcast_to(leading[..., None], rows.shape))
        chosen = jnp.argmax(keep & (key == jnp.max(key, 1, keepdims=True, initial=-jnp.inf)), 1)
        best = jnp.take_along_axis(rows, chosen[:, None], 1)[:, 0]
        return jnp.where(jnp.any(keep, 1), best, jnp.zeros_like(best))
    total = jnp.sum(jnp.where(keep, rows, jnp.zeros_like(rows)), 1)
    return total if mode == "sum" else _divided(total, jnp.sum(counts, 1))


def reduce_segments(rows: jax.Array, counts: jax.Array, offsets: jax.Array, bags: int, mode: str) -> jax.Array:
    """Bags of those rows of `(N, D)` that count (`(N)`), each bag beginning at an offset."""
    # How many bags have begun at each row: rows before the first and after a last offset are of no bag.
    begun = jnp.zeros(rows.shape[0] + 1, jnp.int32).at[offsets].add(1, mode="drop")
    bag = jnp.cumsum(begun)[:-1] - 1

    def reduce(kind: str, values: jax.Array) -> jax.Array:
        return getattr(jax.ops, f"segment_{kind}")(values, bag, bags, indices_are_sorted=True)

    keep = jnp.broadcast_to(counts[:, None], rows.shape)
    if mode != "max":
        total = reduce("sum", jnp.where(keep, rows, jnp.zeros_like(rows)))
        return total if mode == "sum" else _divided(total, reduce("sum", counts.astype(jnp.int32)))
    last = rows.shape[0] - 1
    if last < 0 or not bags:
        return jnp.zeros((bags, rows.shape[1]), rows.dtype)
    position = jnp.arange(rows.shape[0], dtype=jnp.int32)
    first = reduce("min", jnp.where(counts, position, last + 1))  # beyond the last row for a bag of none
    leading = position == jnp.take(first, bag, mode="clip")
    key = _key(rows, keep, jnp.broadcast_to(leading[:, None], rows.shape))
    best = jnp.take(reduce("max", key), bag, axis=0, mode="clip")
    behind = jnp.broadcast_to(position[:, None], rows.shape)
    chosen = reduce("min", jnp.where(keep & (key == best), behind, jnp.full_like(behind, last)))
    found = jnp.take_along_axis(rows, jnp.clip(chosen, 0, last), 0)
    empty = jnp.broadcast_to((first > last)[:, None], found.shape)
    return jnp.where(empty, jnp.zeros_like(found), found)


def _key(rows: jax.Array, keep: jax.Array, leading: jax.Array) -> jax.Array:
    """What the maximum is taken of. torch compares with `>` from the first on: a NaN wins there and nowhere else."""
    fixed = jax.lax.stop_gradient(rows)
    nan = jnp.where(leading, jnp.full_like(fixed, jnp.inf), jnp.full_like(fixed, -jnp.inf))
    return jnp.where(keep, jnp.where(jnp.isnan(fixed), nan, fixed), jnp.full_like(fixed, -jnp.inf))


def _divided(total: jax.Array, count: jax.Array) -> jax.Array:
    count = jnp.maximum(count, 1).astype(total.dtype)
    return total / jnp.broadcast_to(count[:, None], total.shape)

"""Attention with functions of the indices: the scores of a block of queries at a time, computed again going back."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from ..functional._flash_tile import multiply

__all__ = ["MaskMod", "ScoreMod", "Segment", "Statistics", "attend", "over_indices"]

#: `(score, batch, head, query, key) -> score`, of scalars.
ScoreMod = Callable[[Any, Any, Any, Any, Any], Any]
#: `(batch, head, query, key) -> whether the key is seen`, of scalars.
MaskMod = Callable[[Any, Any, Any, Any], Any]

#: How many queries are taken at once, where the call does not say: the scores of that many are in memory.
BLOCK = 256


class Segment(NamedTuple):
    """A range of queries and the range of keys outside of which they see none."""

    rows: tuple[int, int]
    columns: tuple[int, int]


class Statistics(NamedTuple):
    """The output `(B, H, L, Ev)`; the logarithm of each row's sum, and its largest score, `(B, H, L)`."""

    out: jax.Array
    lse: jax.Array
    highest: jax.Array


def over_indices(function: Callable[..., Any], *, scored: bool) -> Callable[..., Any]:
    """A function of scalar indices, after a score or not, as one of vectors of them: `(B, H, L, S)`."""
    for axis in (3, 2, 1, 0):
        indices = tuple(0 if i == axis else None for i in range(4))
        function = jax.vmap(function, in_axes=((0,) if scored else ()) + indices)
    return function


def attend(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    score_mod: ScoreMod | None,
    mask_mod: MaskMod | None,
    *,
    scale: float,
    segments: list[Segment] | None = None,
    block: int = BLOCK,
) -> Statistics:
    """Attention of `(B, H_q, L, E)` to `(B, H, S, E)`, whose heads may serve several of the query's."""
    length, keys = q.shape[-2], k.shape[-2]
    parts = []
    for (begin, end), (first, last) in segments or [Segment((0, length), (0, keys))]:
        rows = functools.partial(
            _rows, k[..., first:last, :], v[..., first:last, :], score_mod, mask_mod, scale=scale, first=first
        )
        parts.append(_in_blocks(rows, q[..., begin:end, :], begin, block))
    if len(parts) == 1:
        return parts[0]
    out, lse, highest = zip(*parts, strict=True)
    return Statistics(jnp.concatenate(out, 2), jnp.concatenate(lse, 2), jnp.concatenate(highest, 2))


def _in_blocks(rows: Callable[..., Statistics], q: jax.Array, begin: int, block: int) -> Statistics:
    batch, heads, length, size = q.shape
    if length <= block:
        return rows(q, begin + jnp.arange(length, dtype=jnp.int32))
    count = -(-length // block)
    block = -(-length // count)
    missing = count * block - length
    padded = jnp.pad(q, ((0, 0), (0, 0), (0, missing), (0, 0))).reshape(batch, heads, count, block, size)
    # A row that is only padding asks for what the last one asks for: no index is out of range.
    indices = begin + jnp.minimum(jnp.arange(count * block, dtype=jnp.int32), length - 1).reshape(count, block)
    # Without the checkpoint the scores of every block would be kept for the way back.
    parts = lax.map(lambda one: jax.checkpoint(rows)(*one), (jnp.moveaxis(padded, 2, 0), indices))
    out, *others = (
        jnp.moveaxis(x, 0, 2).reshape(batch, heads, count * block, *x.shape[4:])[:, :, :length] for x in parts
    )
    return Statistics(out, *others)


def _rows(
    k: jax.Array,
    v: jax.Array,
    score_mod: ScoreMod | None,
    mask_mod: MaskMod | None,
    q: jax.Array,
    indices: jax.Array,
    *,
    scale: float,
    first: int,
) -> Statistics:
    batch, heads, length, size = q.shape
    groups = (batch, k.shape[1], heads // max(k.shape[1], 1), length)
    wide = jnp.float64 if q.dtype == jnp.float64 else jnp.float32
    scores = multiply("bhgqe,bhke->bhgqk", q.reshape(*groups, size).astype(wide), k.astype(wide)) * scale
    scores = scores.reshape(batch, heads, length, k.shape[-2])
    where = (
        *(jnp.arange(n, dtype=jnp.int32) for n in (batch, heads)),
        indices,
        first + jnp.arange(k.shape[-2], dtype=jnp.int32),
    )
    if score_mod is not None:
        scores = over_indices(score_mod, scored=True)(scores, *where).astype(wide)
    if mask_mod is not None:
        scores = jnp.where(over_indices(mask_mod, scored=False)(*where), scores, -jnp.inf)
    highest = jnp.max(scores, -1, initial=-jnp.inf)
    shift = lax.stop_gradient(jnp.where(highest == -jnp.inf, 0.0, highest))
    weights = jnp.exp(scores - shift[..., None])
    total = jnp.sum(weights, -1)
    seen = total > 0.0
    total = jnp.where(seen, total, 1.0)
    weights = (weights / total[..., None]).astype(q.dtype).reshape(*groups, k.shape[-2])
    out = multiply("bhgqk,bhke->bhgqe", weights, v).astype(q.dtype)
    lse = jnp.where(seen, jnp.log(total) + shift, -jnp.inf)
    return Statistics(out.reshape(batch, heads, length, v.shape[-1]), lse, highest)

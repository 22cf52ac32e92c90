"""One block of scores of attention, and how the operands are cut into blocks. Shapes: see `_flash.py`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from ._common import laid_out_like, opmath_dtype

__all__ = [
    "Band",
    "Blocks",
    "Size",
    "Spec",
    "Tile",
    "band_mask",
    "block_counts",
    "loop",
    "multiply",
    "pad",
    "put",
    "take",
]

#: A query at i sees the keys from i + first to i + last; None is no bound.
Band = tuple[int | None, int | None]
Size = tuple[int, int]
Index = jax.Array | int


class Spec(NamedTuple):
    """What of a call is known when it is traced."""

    band: Band
    scale: float
    dropout: float


class Blocks(NamedTuple):
    """How many queries and keys are taken at once, and how many blocks that makes."""

    q: int
    k: int
    n_q: int
    n_k: int


def multiply(equation: str, a: jax.Array, b: jax.Array) -> jax.Array:
    """An einsum accumulated, and given, in the dtype that torch accumulates in."""
    return jnp.einsum(equation, a, b.astype(a.dtype), preferred_element_type=opmath_dtype(a.dtype))


def band_mask(
    band: Band, shape: tuple[int, ...], row: Index = 0, column: Index = 0, *, rows: int = 0
) -> jax.Array | None:
    """Which pairs of a block a band allows; None: all.

    Args:
        band: the band.
        shape: of the block.
        row: the index of its first query.
        column: the index of its first key.
        rows: the axis of the queries; the other is that of the keys.
    """
    first, last = band
    distance = lax.broadcasted_iota(jnp.int32, shape, 1 - rows) - lax.broadcasted_iota(jnp.int32, shape, rows)
    distance = distance + (column - row)
    after = None if first is None else distance >= first
    if last is None:
        return after
    return distance <= last if after is None else after & (distance <= last)


def block_counts(length: int, keys: int, largest: Size) -> Blocks:
    """Blocks of one size, as small as their number allows: little is padded."""
    n_q, n_k = -(-length // largest[0]), -(-keys // largest[1])
    return Blocks(-(-length // n_q), -(-keys // n_k), n_q, n_k)


def pad(x: jax.Array, axis: int, size: int) -> jax.Array:
    """Zeros after the end of an axis, to a size."""
    missing = size - x.shape[axis]
    if not missing:
        return x
    pads = [(0, 0, 0)] * x.ndim
    pads[axis % x.ndim] = (0, missing, 0)
    return lax.pad(x, jnp.zeros((), x.dtype), pads)


def take(x: jax.Array, axis: int, block: Index, size: int) -> jax.Array:
    """A block of an axis."""
    return lax.dynamic_slice_in_dim(x, block * size, size, x.ndim + axis)


def put(x: jax.Array, part: jax.Array, axis: int, block: Index, size: int) -> jax.Array:
    """The array with a block of an axis replaced."""
    return lax.dynamic_update_slice_in_dim(x, part, block * size, x.ndim + axis)


def loop(first: Any, last: Any, step: Callable[[Any, Any], Any], carry: Any) -> Any:
    """`fori_loop`, without a loop where one step is all there is."""
    if isinstance(first, int) and isinstance(last, int) and last - first == 1:
        return step(first, carry)
    return lax.fori_loop(jnp.int32(first), jnp.int32(last), step, carry)


def _pad_mask(mask: jax.Array | None, blocks: Blocks) -> jax.Array | None:
    if mask is None:
        return None
    for axis, size in ((-2, blocks.q * blocks.n_q), (-1, blocks.k * blocks.n_k)):
        mask = mask if mask.shape[axis] == 1 else pad(mask, axis, size)
    return mask


class Tile(NamedTuple):
    """The padded operands, and how a block of scores is computed from them."""

    q: jax.Array
    k: jax.Array
    v: jax.Array
    mask: jax.Array | None
    key: jax.Array | None
    spec: Spec
    blocks: Blocks
    keys: int

    @classmethod
    def of(cls, spec: Spec, largest: Size, operands: tuple[Any, ...]) -> Tile:
        """Pad. Where that is exact the queries are scaled here, and not each score."""
        q, k, v, mask, key = operands
        blocks = block_counts(q.shape[-2], k.shape[-2], largest)
        if q.dtype == opmath_dtype(q.dtype):
            q, spec = q * spec.scale, spec._replace(scale=1.0)
        q = pad(q, -2, blocks.q * blocks.n_q)
        k, v = (pad(x, -2, blocks.k * blocks.n_k) for x in (k, v))
        return cls(q, k, v, _pad_mask(mask, blocks), key, spec, blocks, operands[1].shape[-2])

    def visited(self, i: Index) -> tuple[Any, Any]:
        """The range of the blocks of keys that the i-th block of queries may see."""
        (first, last), blocks = self.spec.band, self.blocks
        begin: Any = 0
        end: Any = blocks.n_k
        if first is not None:
            begin = jnp.maximum((i * blocks.q + first) // blocks.k, 0)
        if last is not None:
            end = jnp.minimum((i * blocks.q + blocks.q - 1 + last) // blocks.k + 1, blocks.n_k)
        return begin, end

    def masked(self, i: Index, j: Index, s: jax.Array, *, transposed: bool = False) -> jax.Array:
        """Scores `(..., G, q, k)`, transposed `(..., k, G, q)`, with minus infinity where a key is not seen."""
        blocks = self.blocks
        s = s if self.spec.scale == 1.0 else s * self.spec.scale
        shape = (blocks.k, blocks.q) if transposed else (blocks.q, blocks.k)
        rows = 1 if transposed else 0
        allowed = band_mask(self.spec.band, shape, i * blocks.q, j * blocks.k, rows=rows)
        if blocks.k * blocks.n_k != self.keys:
            exists = j * blocks.k + lax.broadcasted_iota(jnp.int32, shape, 1 - rows) < self.keys
            allowed = exists if allowed is None else allowed & exists
        if allowed is not None:
            allowed = allowed[:, None] if transposed else allowed
            s = jnp.where(lax.expand_dims(allowed, range(s.ndim - allowed.ndim)), s, -jnp.inf)
        if self.mask is None:
            return s
        mask = self.mask
        mask = mask if mask.shape[-2] == 1 else take(mask, -2, i, blocks.q)
        mask = mask if mask.shape[-1] == 1 else take(mask, -1, j, blocks.k)
        mask = jnp.moveaxis(mask, -1, -3) if transposed else mask
        return jnp.where(mask, s, -jnp.inf) if mask.dtype == jnp.bool_ else s + mask.astype(s.dtype)

    def drop(self, i: Index, j: Index, weights: jax.Array, *, transposed: bool = False) -> jax.Array:
        """Weights after dropout, the same ones for a block whenever it is asked."""
        rate = self.spec.dropout
        if self.key is None:
            return weights
        shape = (*weights.shape[:-3], *weights.shape[-2:], weights.shape[-3]) if transposed else weights.shape
        keep = jax.random.bernoulli(jax.random.fold_in(self.key, i * self.blocks.n_k + j), 1.0 - rate, shape)
        keep = laid_out_like(jnp.moveaxis(keep, -1, -3) if transposed else keep, weights)
        return jnp.where(keep, weights * (1.0 / (1.0 - rate)), 0.0)

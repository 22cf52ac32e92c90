"""Attention in blocks: the matrix of scores is never whole, and the backward pass computes it again.

Queries are taken in blocks, and for each block the keys; the softmax is carried as a running maximum and sum (Dao et
al., 2022). Of a band (causal attention, a window) only the blocks it touches are visited. Shapes in this file: query
`(*B, G, L, E)`, where the `G` heads of a group share their keys; key `(*B, S, E)`; value `(*B, S, Ev)`; mask
`(*B, G, L, S)` with 1 for a dimension it is broadcast over.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from ._common import opmath_dtype

__all__ = ["Band", "Spec", "band_mask", "flash_attention", "multiply"]

#: A query at i sees the keys from i + first to i + last; None is no bound.
Band = tuple[int | None, int | None]

Masks = tuple[jax.Array | None, jax.Array | None]
Size = tuple[int, int]


class Spec(NamedTuple):
    """What of a call is known when it is traced."""

    band: Band
    scale: float
    dropout: float


class _Blocks(NamedTuple):
    """How many queries and keys are taken at once, and how many blocks that makes."""

    q: int
    k: int
    n_q: int
    n_k: int


# benchmarks/attention.py: on CPU the scores of a block should stay in the cache. Elsewhere a block is a few large
# operations; these were not measured.
_CPU_BLOCK = (256, 512)
_DEFAULT_BLOCK = (1024, 1024)


def multiply(equation: str, a: jax.Array, b: jax.Array) -> jax.Array:
    """An einsum accumulated, and given, in the dtype that torch accumulates in."""
    return jnp.einsum(equation, a, b.astype(a.dtype), preferred_element_type=opmath_dtype(a.dtype))


def band_mask(
    band: Band, shape: tuple[int, ...], row: jax.Array | int = 0, column: jax.Array | int = 0
) -> jax.Array | None:
    """Which of a block of `shape` that begins at `(row, column)` a band allows; None: all."""
    first, last = band
    distance = lax.broadcasted_iota(jnp.int32, shape, 1) - lax.broadcasted_iota(jnp.int32, shape, 0)
    distance = distance + (column - row)
    after = None if first is None else distance >= first
    if last is None:
        return after
    return distance <= last if after is None else after & (distance <= last)


def _block_counts(length: int, keys: int, largest: Size) -> _Blocks:
    n_q, n_k = -(-length // largest[0]), -(-keys // largest[1])
    # Blocks of one size, as small as their number allows: little is padded.
    return _Blocks(-(-length // n_q), -(-keys // n_k), n_q, n_k)


def _pad(x: jax.Array, axis: int, size: int) -> jax.Array:
    """Zeros after the end of an axis."""
    missing = size - x.shape[axis]
    if not missing:
        return x
    pads = [(0, 0, 0)] * x.ndim
    pads[axis % x.ndim] = (0, missing, 0)
    return lax.pad(x, jnp.zeros((), x.dtype), pads)


def _pad_mask(mask: jax.Array | None, blocks: _Blocks) -> jax.Array | None:
    if mask is None:
        return None
    for axis, size in ((-2, blocks.q * blocks.n_q), (-1, blocks.k * blocks.n_k)):
        mask = mask if mask.shape[axis] == 1 else _pad(mask, axis, size)
    return mask


def _take(x: jax.Array, axis: int, block: jax.Array | int, size: int) -> jax.Array:
    return lax.dynamic_slice_in_dim(x, block * size, size, x.ndim + axis)


def _put(x: jax.Array, part: jax.Array, axis: int, block: jax.Array | int, size: int) -> jax.Array:
    return lax.dynamic_update_slice_in_dim(x, part, block * size, x.ndim + axis)


def _loop(first: Any, last: Any, step: Callable[[Any, Any], Any], carry: Any) -> Any:
    """`fori_loop`, without a loop where one step is all there is."""
    if isinstance(first, int) and isinstance(last, int) and last - first == 1:
        return step(first, carry)
    return lax.fori_loop(jnp.int32(first), jnp.int32(last), step, carry)


def _visited(i: jax.Array | int, spec: Spec, blocks: _Blocks) -> tuple[Any, Any]:
    """The range of the blocks of keys that the i-th block of queries may see."""
    first, last = spec.band
    begin: Any = 0
    end: Any = blocks.n_k
    if first is not None:
        begin = jnp.maximum((i * blocks.q + first) // blocks.k, 0)
    if last is not None:
        end = jnp.minimum((i * blocks.q + blocks.q - 1 + last) // blocks.k + 1, blocks.n_k)
    return begin, end


class _Tile(NamedTuple):
    """The padded operands, and how a block of scores is computed from them."""

    q: jax.Array
    k: jax.Array
    v: jax.Array
    mask: jax.Array | None
    key: jax.Array | None
    spec: Spec
    blocks: _Blocks
    keys: int

    @classmethod
    def of(cls, spec: Spec, largest: Size, operands: tuple[Any, ...]) -> _Tile:
        q, k, v, mask, key = operands
        blocks = _block_counts(q.shape[-2], k.shape[-2], largest)
        q = _pad(q, -2, blocks.q * blocks.n_q)
        k, v = (_pad(x, -2, blocks.k * blocks.n_k) for x in (k, v))
        return cls(q, k, v, _pad_mask(mask, blocks), key, spec, blocks, operands[1].shape[-2])

    def query(self, i: jax.Array | int) -> jax.Array:
        return _take(self.q, -2, i, self.blocks.q)

    def key_value(self, j: jax.Array | int) -> tuple[jax.Array, jax.Array]:
        return _take(self.k, -2, j, self.blocks.k), _take(self.v, -2, j, self.blocks.k)

    def scores(self, i: jax.Array | int, j: jax.Array | int, q: jax.Array, k: jax.Array) -> jax.Array:
        """The scores of a block, minus infinity where a key is not seen."""
        blocks = self.blocks
        s = multiply("...gqe,...ke->...gqk", q, k) * self.spec.scale
        allowed = band_mask(self.spec.band, (blocks.q, blocks.k), i * blocks.q, j * blocks.k)
        if blocks.k * blocks.n_k != self.keys:
            exists = j * blocks.k + lax.broadcasted_iota(jnp.int32, (blocks.q, blocks.k), 1) < self.keys
            allowed = exists if allowed is None else allowed & exists
        if allowed is not None:
            s = jnp.where(lax.expand_dims(allowed, range(s.ndim - 2)), s, -jnp.inf)
        if self.mask is None:
            return s
        mask = self.mask
        mask = mask if mask.shape[-2] == 1 else _take(mask, -2, i, blocks.q)
        mask = mask if mask.shape[-1] == 1 else _take(mask, -1, j, blocks.k)
        return jnp.where(mask, s, -jnp.inf) if mask.dtype == jnp.bool_ else s + mask.astype(s.dtype)

    def drop(self, i: jax.Array | int, j: jax.Array | int, weights: jax.Array) -> jax.Array:
        """Weights after dropout, the same for a block whenever it is asked."""
        rate = self.spec.dropout
        if self.key is None:
            return weights
        keep = jax.random.bernoulli(jax.random.fold_in(self.key, i * self.blocks.n_k + j), 1.0 - rate, weights.shape)
        return jnp.where(keep, weights * (1.0 / (1.0 - rate)), 0.0)


def _forward(spec: Spec, largest: Size, *operands: Any) -> tuple[jax.Array, jax.Array]:
    """The output, and the logarithm of each row's sum (0 for a row that sees no key)."""
    tile = _Tile.of(spec, largest, operands)
    blocks, wide = tile.blocks, opmath_dtype(tile.q.dtype)
    rows = (*tile.q.shape[:-2], blocks.q)

    def block_of_queries(i: Any, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        q = tile.query(i)

        def block_of_keys(j: Any, running: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
            highest, total, weighted = running
            k, v = tile.key_value(j)
            s = tile.scores(i, j, q, k)
            new = jnp.maximum(highest, jnp.max(s, -1))
            shift = jnp.where(new == -jnp.inf, 0.0, new)
            weights = jnp.exp(s - shift[..., None])
            before = jnp.exp(highest - shift)
            total = total * before + jnp.sum(weights, -1)
            part = multiply("...gqk,...ke->...gqe", tile.drop(i, j, weights).astype(v.dtype), v)
            return new, total, weighted * before[..., None] + part

        start = (
            jnp.full(rows, -jnp.inf, wide),
            jnp.zeros(rows, wide),
            jnp.zeros((*rows, tile.v.shape[-1]), wide),
        )
        highest, total, weighted = _loop(*_visited(i, spec, blocks), block_of_keys, start)
        total = jnp.where(total == 0.0, 1.0, total)
        out = (weighted / total[..., None]).astype(tile.q.dtype)
        lse = jnp.where(highest == -jnp.inf, 0.0, highest) + jnp.log(total)
        return _put(carry[0], out, -2, i, blocks.q), _put(carry[1], lse, -1, i, blocks.q)

    lead, length = tile.q.shape[:-2], tile.q.shape[-2]
    empty = jnp.zeros((*lead, length, tile.v.shape[-1]), tile.q.dtype), jnp.zeros((*lead, length), wide)
    out, lse = _loop(0, blocks.n_q, block_of_queries, empty)
    wanted = operands[0].shape[-2]
    return out[..., :wanted, :], lse[..., :wanted]


def _backward(spec: Spec, largest: Size, *arguments: Any) -> tuple[Any, ...]:
    """The gradients of query, key, value and (a floating-point) mask."""
    *operands, out, lse, gradient = arguments
    tile = _Tile.of(spec, largest, tuple(operands))
    blocks, wide = tile.blocks, opmath_dtype(tile.q.dtype)
    inner = jnp.sum(gradient.astype(wide) * out.astype(wide), -1)
    length = tile.q.shape[-2]
    gradient, lse, inner = _pad(gradient, -2, length), _pad(lse, -1, length), _pad(inner, -1, length)
    moving = tile.mask is not None and tile.mask.dtype != jnp.bool_

    def block_of_queries(i: Any, carry: tuple[Any, ...]) -> tuple[Any, ...]:
        dq, *others = carry
        q, d_out = tile.query(i), _take(gradient, -2, i, blocks.q)
        row_lse, row_inner = (_take(x, -1, i, blocks.q)[..., None] for x in (lse, inner))

        def block_of_keys(j: Any, carry: tuple[Any, ...]) -> tuple[Any, ...]:
            dq_i, dk, dv, dmask = carry
            k, v = tile.key_value(j)
            weights = jnp.exp(tile.scores(i, j, q, k) - row_lse)
            dropped = tile.drop(i, j, weights).astype(v.dtype)
            dv = _add(dv, multiply("...gqk,...gqe->...ke", dropped, d_out), -2, j, blocks.k)
            d_weights = tile.drop(i, j, multiply("...gqe,...ke->...gqk", d_out, v))
            d_scores = weights * (d_weights - row_inner)
            if moving:
                dmask = _add_mask(dmask, d_scores, i, j, blocks)
            d_scores = d_scores.astype(k.dtype)
            dk = _add(dk, multiply("...gqk,...gqe->...ke", d_scores, q), -2, j, blocks.k)
            return dq_i + multiply("...gqk,...ke->...gqe", d_scores, k), dk, dv, dmask

        start = (jnp.zeros(q.shape, wide), *others)
        dq_i, *others = _loop(*_visited(i, spec, blocks), block_of_keys, start)
        return (_put(dq, (dq_i * spec.scale).astype(dq.dtype), -2, i, blocks.q), *others)

    start = (
        jnp.zeros(tile.q.shape, tile.q.dtype),
        jnp.zeros(tile.k.shape, wide),
        jnp.zeros(tile.v.shape, wide),
        jnp.zeros(tile.mask.shape, wide) if tile.mask is not None and moving else None,
    )
    dq, dk, dv, dmask = _loop(0, blocks.n_q, block_of_queries, start)
    q, k, v, mask, _ = operands
    if dmask is not None:
        dmask = dmask[tuple(slice(size) for size in mask.shape)].astype(mask.dtype)
    dk = (dk[..., : k.shape[-2], :] * spec.scale).astype(k.dtype)
    return dq[..., : q.shape[-2], :], dk, dv[..., : v.shape[-2], :].astype(v.dtype), dmask


def _add(total: jax.Array, part: jax.Array, axis: int, block: Any, size: int) -> jax.Array:
    return _put(total, _take(total, axis, block, size) + part, axis, block, size)


def _add_mask(total: jax.Array, part: jax.Array, i: Any, j: Any, blocks: _Blocks) -> jax.Array:
    """Add a block's gradient to that of the mask, summed where the mask is broadcast."""
    axes = tuple(axis for axis in range(part.ndim) if total.shape[axis] == 1 and part.shape[axis] != 1)
    part = jnp.sum(part, axes, keepdims=True)
    row = 0 if total.shape[-2] == 1 else i * blocks.q
    column = 0 if total.shape[-1] == 1 else j * blocks.k
    start = (*(0,) * (total.ndim - 2), row, column)
    return lax.dynamic_update_slice(total, lax.dynamic_slice(total, start, part.shape) + part, start)


def _per_platform(function: Callable[..., Any], spec: Spec, *arguments: Any) -> Any:
    """Run with the blocks that suit the platform the program is lowered for."""
    length, keys = arguments[0].shape[-2], arguments[1].shape[-2]
    small, large = (_block_counts(length, keys, size) for size in (_CPU_BLOCK, _DEFAULT_BLOCK))
    on_cpu = functools.partial(function, spec, _CPU_BLOCK)
    if small == large:
        return on_cpu(*arguments)
    return lax.platform_dependent(*arguments, cpu=on_cpu, default=functools.partial(function, spec, _DEFAULT_BLOCK))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def flash_attention(
    spec: Spec, q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array | None, key: jax.Array | None
) -> jax.Array:
    """Attention of shape `(*B, G, L, Ev)`; a row that sees no key is 0. `key`: of the dropout, if any."""
    return _per_platform(_forward, spec, q, k, v, mask, key)[0]


def _flash_fwd(spec: Spec, *operands: Any) -> tuple[jax.Array, tuple[Any, ...]]:
    out, lse = _per_platform(_forward, spec, *operands)
    return out, (*operands, out, lse)


def _flash_bwd(spec: Spec, residuals: tuple[Any, ...], gradient: jax.Array) -> tuple[Any, ...]:
    return (*_per_platform(_backward, spec, *residuals, gradient), None)


flash_attention.defvjp(_flash_fwd, _flash_bwd)

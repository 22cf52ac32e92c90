"""Attention in blocks: the matrix of scores is never whole, and the backward pass computes it again.

Queries are taken in blocks, and for each block the keys; the softmax is carried as a running maximum and sum (Dao et
al., 2022). Of a band (causal attention, a window) only the blocks it touches are visited. Shapes in this file: query
`(*B, G, L, E)`, where the `G` heads of a group share their keys; key `(*B, S, E)`; value `(*B, S, Ev)`; mask
`(*B, G, L, S)` with 1 for a dimension it is broadcast over.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ._common import opmath_dtype
from ._flash_tile import Blocks, Size, Spec, Tile, block_counts, loop, multiply, pad, put, take

__all__ = ["flash_attention"]

# benchmarks/layers.py: on CPU the scores of a block should stay in the cache. Elsewhere a block is a few large
# operations; these were not measured.
_CPU_BLOCK = (256, 256)
_DEFAULT_BLOCK = (1024, 1024)


def _forward(spec: Spec, largest: Size, *operands: Any) -> tuple[jax.Array, jax.Array]:
    """The output, and the logarithm of each row's sum (0 for a row that sees no key)."""
    tile = Tile.of(spec, largest, operands)
    blocks, wide = tile.blocks, opmath_dtype(tile.q.dtype)
    rows = (*tile.q.shape[:-2], blocks.q)
    # Transposed once and not in each product, of which the CPU does those without a transposition faster.
    keys = tile.k.swapaxes(-1, -2)

    def block_of_queries(i: Any, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        q = take(tile.q, -2, i, blocks.q)

        def block_of_keys(j: Any, running: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
            highest, total, weighted = running
            v = take(tile.v, -2, j, blocks.k)
            s = tile.masked(i, j, multiply("...gqe,...ek->...gqk", q, take(keys, -1, j, blocks.k)))
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
        highest, total, weighted = loop(*tile.visited(i), block_of_keys, start)
        total = jnp.where(total == 0.0, 1.0, total)
        out = (weighted / total[..., None]).astype(tile.q.dtype)
        lse = jnp.where(highest == -jnp.inf, 0.0, highest) + jnp.log(total)
        return put(carry[0], out, -2, i, blocks.q), put(carry[1], lse, -1, i, blocks.q)

    lead, length = tile.q.shape[:-2], tile.q.shape[-2]
    empty = jnp.zeros((*lead, length, tile.v.shape[-1]), tile.q.dtype), jnp.zeros((*lead, length), wide)
    out, lse = loop(0, blocks.n_q, block_of_queries, empty)
    wanted = operands[0].shape[-2]
    return out[..., :wanted, :], lse[..., :wanted]


def _backward(spec: Spec, largest: Size, *arguments: Any) -> tuple[Any, ...]:
    """The gradients of query, key, value and (a floating-point) mask.

    A block of scores is `(*B, k, G, q)` here, and what else is transposed is so outside of the loop over the keys: then
    none of the five products transposes a block.
    """
    *operands, out, lse, gradient = arguments
    tile = Tile.of(spec, largest, tuple(operands))
    blocks, wide = tile.blocks, opmath_dtype(tile.q.dtype)
    inner = jnp.sum(gradient.astype(wide) * out.astype(wide), -1)
    length = tile.q.shape[-2]
    gradient, lse, inner = pad(gradient, -2, length), pad(lse, -1, length), pad(inner, -1, length)
    keys = tile.k.swapaxes(-1, -2)
    moving = tile.mask is not None and tile.mask.dtype != jnp.bool_

    def block_of_queries(i: Any, carry: tuple[Any, ...]) -> tuple[Any, ...]:
        dq, *others = carry
        q, d_out = (take(x, -2, i, blocks.q) for x in (tile.q, gradient))
        q_t, d_out_t = (jnp.moveaxis(x, -1, -3) for x in (q, d_out))
        row_lse, row_inner = (take(x, -1, i, blocks.q)[..., None, :, :] for x in (lse, inner))

        def block_of_keys(j: Any, carry: tuple[Any, ...]) -> tuple[Any, ...]:
            dq_i, dk, dv, dmask = carry
            k, v = (take(x, -2, j, blocks.k) for x in (tile.k, tile.v))
            s = tile.masked(i, j, multiply("...ke,...egq->...kgq", k, q_t), transposed=True)
            weights = jnp.exp(s - row_lse)
            dropped = tile.drop(i, j, weights, transposed=True).astype(v.dtype)
            dv = _add(dv, multiply("...kgq,...gqe->...ke", dropped, d_out), -2, j, blocks.k)
            d_weights = tile.drop(i, j, multiply("...ke,...egq->...kgq", v, d_out_t), transposed=True)
            d_scores = weights * (d_weights - row_inner)
            if moving:
                dmask = _add_mask(dmask, jnp.moveaxis(d_scores, -3, -1), i, j, blocks)
            d_scores = d_scores.astype(k.dtype)
            dk = _add(dk, multiply("...kgq,...gqe->...ke", d_scores, q), -2, j, blocks.k)
            dq_i = dq_i + multiply("...ek,...kgq->...egq", take(keys, -1, j, blocks.k), d_scores)
            return dq_i, dk, dv, dmask

        start = (jnp.zeros(q_t.shape, wide), *others)
        dq_i, *others = loop(*tile.visited(i), block_of_keys, start)
        dq_i = jnp.moveaxis(dq_i * spec.scale, -3, -1).astype(dq.dtype)
        return (put(dq, dq_i, -2, i, blocks.q), *others)

    start = (
        jnp.zeros(tile.q.shape, tile.q.dtype),
        jnp.zeros(tile.k.shape, wide),
        jnp.zeros(tile.v.shape, wide),
        jnp.zeros(tile.mask.shape, wide) if tile.mask is not None and moving else None,
    )
    dq, dk, dv, dmask = loop(0, blocks.n_q, block_of_queries, start)
    q, k, v, mask, _ = operands
    if dmask is not None:
        dmask = dmask[tuple(slice(size) for size in mask.shape)].astype(mask.dtype)
    # The scale is in the queries that dk was summed with, unless it is in each score.
    dk = (dk[..., : k.shape[-2], :] * tile.spec.scale).astype(k.dtype)
    return dq[..., : q.shape[-2], :], dk, dv[..., : v.shape[-2], :].astype(v.dtype), dmask


def _add(total: jax.Array, part: jax.Array, axis: int, block: Any, size: int) -> jax.Array:
    return put(total, take(total, axis, block, size) + part, axis, block, size)


def _add_mask(total: jax.Array, part: jax.Array, i: Any, j: Any, blocks: Blocks) -> jax.Array:
    """Add a block's gradient to that of the mask, summed where the mask is broadcast."""
    axes = tuple(axis for axis in range(part.ndim) if total.shape[axis] == 1 and part.shape[axis] != 1)
    part = jnp.sum(part, axes, keepdims=True)
    row = 0 if total.shape[-2] == 1 else i * blocks.q
    column = 0 if total.shape[-1] == 1 else j * blocks.k
    start = [jnp.asarray(index, jnp.int32) for index in (*(0,) * (total.ndim - 2), row, column)]
    return lax.dynamic_update_slice(total, lax.dynamic_slice(total, start, part.shape) + part, start)


def _per_platform(function: Callable[..., Any], spec: Spec, *arguments: Any) -> Any:
    """Run with the blocks that suit the platform the program is lowered for."""
    length, keys = arguments[0].shape[-2], arguments[1].shape[-2]
    small, large = (block_counts(length, keys, size) for size in (_CPU_BLOCK, _DEFAULT_BLOCK))
    on_cpu = functools.partial(function, spec, _CPU_BLOCK)
    # What is dropped is drawn for each block: with dropout the blocks are the same on every platform.
    if small == large or spec.dropout:
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

"""Attention of sequences of unequal length that lie one after the other in one array."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ...core.box import Box, unbox
from ..functional._common import ArrayLike, shape_list
from ._flex import attend

__all__ = ["AuxRequest", "varlen_attn", "varlen_attn_out"]


class AuxRequest(NamedTuple):
    """What `varlen_attn` returns beside its output: whether the logarithm of each row's sum of exponentials."""

    lse: bool = False


def varlen_attn(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    cu_seq_q: ArrayLike,
    cu_seq_k: ArrayLike | None,
    max_q: int,
    max_k: int,
    *,
    return_aux: AuxRequest | None = None,
    scale: float | None = None,
    window_size: tuple[int, int] = (-1, -1),
    enable_gqa: bool = False,
    seqused_k: ArrayLike | None = None,
    block_table: ArrayLike | None = None,
    num_splits: int | None = None,
) -> jax.Array | tuple[jax.Array, jax.Array]:
    r"""`softmax(scale * q k^T) v` within each of `N` sequences.

    Args:
        query: the queries of all sequences, one after the other.
        key: the keys; or with `block_table` pages of them.
        value: the values, as the keys.
        cu_seq_q: where in `query` each sequence begins, and where the last ends.
        cu_seq_k: the same of `key`; None with `block_table`.
        max_q: the most queries that a sequence has, a Python number.
        max_k: the most keys that a sequence has, a Python number.
        return_aux: ask for the logarithm of the sums, too.
        scale: a Python number, by default `D ** -0.5`.
        window_size: how many keys before and after its own a query sees; -1 for all. The last query's own key is the
            last key. `(-1, 0)` is causal attention.
        enable_gqa: each head of the keys and values serves as many neighbouring heads of the query.
        seqused_k: how many of its keys each sequence uses.
        block_table: the pages that each sequence's keys and values lie in, in order; needs `seqused_k`.
        num_splits: for torch's signature: there is one order of summation.

    Shape:
        - Query: `(T_q, H_q, D)`; key and value: `(T_k, H, D)`, or with `block_table` `(pages, size of a page, H, D)`.
        - `cu_seq_q`, `cu_seq_k`: `(N + 1)`; `seqused_k`: `(N)`; `block_table`: `(N, pages of a sequence)`.
        - Output: `(T_q, H_q, D)`, and the logarithms `(H_q, T_q)`.

    Raises:
        ValueError: heads don't fit, or an argument is missing.

    Note:
        The sequences are laid beside each other, padded to `max_q` and `max_k`: lengths may be traced values. A query
        that sees no key, or that is after the last sequence, gives 0.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn.attention.varlen import varlen_attn
        >>> x, ends = jnp.ones((7, 2, 8)), jnp.array([0, 3, 7])
        >>> varlen_attn(x, x, x, ends, ends, 4, 4, window_size=(-1, 0)).shape
        (7, 2, 8)
    """
    q, k, v = unbox(query), unbox(key), unbox(value)
    paged = block_table is not None
    _check_heads(q, k, v, enable_gqa, paged)
    if paged and seqused_k is None:
        raise ValueError("block_table needs seqused_k: the last page of a sequence is partly filled")
    if not paged and cu_seq_k is None:
        raise ValueError("cu_seq_k is missing: without block_table it says where the keys of each sequence begin")
    starts_q = unbox(cu_seq_q)
    length_q = jnp.diff(starts_q)
    of_queries = _within(starts_q[:-1], max_q, q.shape[0])
    if block_table is None:
        starts_k = unbox(cu_seq_k)
        length_k = jnp.diff(starts_k)
        of_keys = _within(starts_k[:-1], max_k, k.shape[0])
        k, v = k[of_keys], v[of_keys]
    else:
        pages = unbox(block_table)
        k, v = (x[pages].reshape(pages.shape[0], -1, *x.shape[2:])[:, :max_k] for x in (k, v))
        length_k = jnp.full_like(length_q, k.shape[1])
    if seqused_k is not None:
        length_k = jnp.minimum(unbox(seqused_k).astype(length_k.dtype), length_k)
    before, after = window_size

    def seen(sequence: jax.Array, head: jax.Array, i: jax.Array, j: jax.Array) -> jax.Array:
        own = i + (length_k[sequence] - length_q[sequence])
        allowed = j < length_k[sequence]
        if before >= 0:
            allowed = allowed & (j >= own - before)
        return allowed & (j <= own + after) if after >= 0 else allowed

    scale = (1.0 / math.sqrt(q.shape[-1]) if q.shape[-1] else 1.0) if scale is None else float(scale)
    queries, keys, values = (x.swapaxes(1, 2) for x in (q[of_queries], k, v))
    found = attend(queries, keys, values, None, seen, scale=scale)
    tokens = jnp.arange(q.shape[0], dtype=starts_q.dtype)
    sequence = jnp.clip(jnp.searchsorted(starts_q, tokens, side="right") - 1, 0, max(length_q.shape[0] - 1, 0))
    place = jnp.clip(tokens - starts_q[sequence], 0, max(max_q - 1, 0))
    exists = tokens < starts_q[-1]
    out = jnp.where(exists[:, None, None], found.out[sequence, :, place], 0.0)
    if return_aux is None or not return_aux.lse:
        return out
    return out, jnp.where(exists[:, None], found.lse[sequence, :, place], -jnp.inf).T


def varlen_attn_out(
    out: ArrayLike,
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    cu_seq_q: ArrayLike,
    cu_seq_k: ArrayLike | None,
    max_q: int,
    max_k: int,
    *,
    return_aux: AuxRequest | None = None,
    scale: float | None = None,
    window_size: tuple[int, int] = (-1, -1),
    enable_gqa: bool = False,
    seqused_k: ArrayLike | None = None,
    block_table: ArrayLike | None = None,
    num_splits: int | None = None,
) -> ArrayLike | tuple[ArrayLike, jax.Array]:
    """`varlen_attn`, written to `out`, a box (`nn.Buffer`), and returned.

    Args:
        out: the box, of the query's shape and dtype. An array can't be written to: see Raises.
        query: as of `varlen_attn`, as all that follow.
        key: see there.
        value: see there.
        cu_seq_q: see there.
        cu_seq_k: see there.
        max_q: see there.
        max_k: see there.
        return_aux: see there.
        scale: see there.
        window_size: see there.
        enable_gqa: see there.
        seqused_k: see there.
        block_table: see there.
        num_splits: see there.

    Raises:
        NotImplementedError: `out` is an array.
        ValueError: its shape or dtype is not the query's.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> from jaxmodule.nn.attention.varlen import varlen_attn_out
        >>> x, ends, out = jnp.ones((7, 2, 8)), jnp.array([0, 3, 7]), nn.Buffer(jnp.zeros((7, 2, 8)))
        >>> varlen_attn_out(out, x, x, x, ends, ends, 4, 4) is out
        True
    """
    if not isinstance(out, Box):
        raise NotImplementedError("arrays are immutable: give a box (nn.Buffer) as out, or use varlen_attn's result")
    q = unbox(query)
    if out.shape != q.shape or out.dtype != q.dtype:
        raise ValueError(f"out is {out.dtype.name}{shape_list(out.value)}, and query {q.dtype.name}{shape_list(q)}")
    found = varlen_attn(
        q,
        key,
        value,
        cu_seq_q,
        cu_seq_k,
        max_q,
        max_k,
        return_aux=AuxRequest(lse=True),
        scale=scale,
        window_size=window_size,
        enable_gqa=enable_gqa,
        seqused_k=seqused_k,
        block_table=block_table,
        num_splits=num_splits,
    )
    out.value = found[0]
    return (out, found[1]) if return_aux is not None and return_aux.lse else out


def _check_heads(q: jax.Array, k: jax.Array, v: jax.Array, enable_gqa: bool, paged: bool) -> None:
    shapes = f"query {shape_list(q)}, key {shape_list(k)}, value {shape_list(v)}"
    rank = 4 if paged else 3
    if q.ndim != 3 or k.ndim != rank or v.ndim != rank:
        raise ValueError(f"Expected query to be 3-D, key and value {rank}-D, but got {shapes}")
    of_q, of_k = q.shape[1], k.shape[-2]
    if of_q != of_k and not enable_gqa:
        raise ValueError(
            f"Expect query and key/value to have the same number of heads but got Hq={of_q} and Hkv={of_k}. "
            "Try setting enable_gqa=True for GQA."
        )
    if of_k == 0 or of_q % of_k:
        raise ValueError(
            "Expect number of query heads to be a multiple of kv heads for GQA "
            f"but got Hq={of_q} and Hkv={of_k}: {shapes}"
        )


def _within(starts: jax.Array, most: int, total: int) -> jax.Array:
    """The indices of each sequence's elements, `(N, most)`; those after its end are of others."""
    return jnp.clip(starts[:, None] + jnp.arange(most, dtype=starts.dtype)[None], 0, max(total - 1, 0))

"""The pure part of `multi_head_attention_forward`: projections, heads, masks, attention."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ...core.box import unbox
from ._attention_masks import merged
from ._common import ArrayLike, compiled, laid_out_like
from ._flash_tile import Band, Spec, multiply
from ._sdpa import attend
from ._sdpa_kernel import SDPBackend
from .linear import linear
from .softmax import softmax

__all__ = ["MHAOptions", "MHAWeights", "run_heads"]

Array = jax.Array | None


class MHAOptions(NamedTuple):
    """What of a call is known when it is traced."""

    num_heads: int
    same_key_value: bool
    same_query_key: bool
    add_zero_attn: bool
    dropout: float
    need_weights: bool
    average: bool
    band: Band
    backends: tuple[SDPBackend, ...] | None
    ordered: bool


class MHAWeights(NamedTuple):
    """The parameters of the layer."""

    in_proj: Array
    in_bias: Array
    q_proj: Array
    k_proj: Array
    v_proj: Array
    bias_k: Array
    bias_v: Array
    out_proj: jax.Array
    out_bias: Array


@compiled("options")
def run_heads(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    weights: MHAWeights,
    static: tuple[Array, Array],
    attn_mask: Array,
    padding: Array,
    drop_key: Array,
    *,
    options: MHAOptions,
) -> tuple[jax.Array, jax.Array | None]:
    """Query `(L, N, E)`; boolean masks are True where a key is hidden."""
    batch, heads = query.shape[1], options.num_heads
    q, k, v = _project(query, key, value, weights, options)
    if weights.bias_k is not None and weights.bias_v is not None:
        k, v = (_append(x, jnp.tile(b, (1, batch, 1)), 0) for x, b in ((k, weights.bias_k), (v, weights.bias_v)))
        attn_mask, padding = _one_more_key(attn_mask), _one_more_key(padding)
    q, k, v = (x.reshape(*x.shape[:2], heads, x.shape[2] // heads).transpose(1, 2, 0, 3) for x in (q, k, v))
    k, v = (x if s is None else s.reshape(batch, heads, *s.shape[1:]) for x, s in zip((k, v), static, strict=True))
    if options.add_zero_attn:
        k, v = (_append(x, jnp.zeros((batch, heads, 1, x.shape[-1]), x.dtype), 2) for x in (k, v))
        attn_mask, padding = _one_more_key(attn_mask), _one_more_key(padding)
    if attn_mask is not None:
        attn_mask = attn_mask.reshape(*((1, 1) if attn_mask.ndim == 2 else (batch, heads)), *attn_mask.shape[-2:])
    mask = merged(attn_mask, None if padding is None else padding[:, None, None, :], q.dtype)
    if options.need_weights:
        out, of_heads = _with_weights(q, k, v, mask, drop_key, options.dropout)
    else:
        out, of_heads = _without_weights(q, k, v, mask, drop_key, options), None
    out = out.transpose(2, 0, 1, 3).reshape(*query.shape[:2], heads * out.shape[-1])
    out = linear(out, weights.out_proj, weights.out_bias)
    if of_heads is not None and options.average:
        of_heads = jnp.mean(of_heads, 1)
    return out, of_heads


def _project(
    query: jax.Array, key: jax.Array, value: jax.Array, weights: MHAWeights, options: MHAOptions
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The linear maps, as one product where the same object is mapped."""
    packed, bias = weights.in_proj, weights.in_bias
    if packed is not None:
        same = options.same_key_value, options.same_query_key
        return project_packed(query, key, value, packed, bias, same_key_value=same[0], same_query_key=same[1])
    biases = [None] * 3 if bias is None else jnp.split(bias, 3)
    return _in_projection(query, key, value, weights.q_proj, weights.k_proj, weights.v_proj, *biases)  # pyright: ignore[reportArgumentType]


def project_packed(
    q: jax.Array, k: jax.Array, v: jax.Array, w: jax.Array, b: Array, *, same_key_value: bool, same_query_key: bool
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The linear maps whose weights are below each other in one, as few products as there are different operands."""
    biases = [None] * 3 if b is None else jnp.split(b, 3)
    if same_key_value and same_query_key:
        return tuple(jnp.split(linear(q, w, b), 3, -1))  # pyright: ignore[reportReturnType]
    if same_key_value:
        size = q.shape[-1]
        keys, values = jnp.split(linear(k, w[size:], None if b is None else b[size:]), 2, -1)
        return linear(q, w[:size], biases[0]), keys, values
    return _in_projection(q, k, v, *jnp.split(w, 3), *biases)


def _in_projection_packed(
    q: ArrayLike, k: ArrayLike, v: ArrayLike, w: ArrayLike, b: ArrayLike | None = None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The linear maps of query, key and value by one `(3 E, E)` weight: one product where they are one object."""
    same = {"same_key_value": k is v, "same_query_key": q is k}
    return project_packed(unbox(q), unbox(k), unbox(v), unbox(w), unbox(b), **same)


def _in_projection(
    q: ArrayLike,
    k: ArrayLike,
    v: ArrayLike,
    w_q: ArrayLike,
    w_k: ArrayLike,
    w_v: ArrayLike,
    b_q: ArrayLike | None = None,
    b_k: ArrayLike | None = None,
    b_v: ArrayLike | None = None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The linear maps of query, key and value by a weight each."""
    return linear(q, w_q, b_q), linear(k, w_k, b_k), linear(v, w_v, b_v)


def _append(x: jax.Array, more: jax.Array, axis: int) -> jax.Array:
    return jnp.concatenate([x, more.astype(x.dtype)], axis)


def _one_more_key(mask: Array) -> Array:
    """The mask with a key after the last that it does not hide."""
    return None if mask is None else _append(mask, jnp.zeros((*mask.shape[:-1], 1), mask.dtype), -1)


def _with_weights(
    q: jax.Array, k: jax.Array, v: jax.Array, mask: Array, drop_key: Array, dropout: float
) -> tuple[jax.Array, jax.Array]:
    scores = multiply("...qe,...ke->...qk", q, k) * _scale(q)
    if mask is not None:
        seen = mask.dtype == jnp.bool_
        scores = jnp.where(mask, scores, -jnp.inf) if seen else scores + mask.astype(scores.dtype)
    weights = softmax(scores, dim=-1)
    if drop_key is not None:
        keep = laid_out_like(jax.random.bernoulli(drop_key, 1.0 - dropout, weights.shape), weights)
        weights = jnp.where(keep, weights * (1.0 / (1.0 - dropout)), 0.0)
    elif dropout:  # 1: all of them
        weights = weights * 0.0
    weights = weights.astype(q.dtype)
    return multiply("...qk,...ke->...qe", weights, v).astype(q.dtype), weights


def _without_weights(
    q: jax.Array, k: jax.Array, v: jax.Array, mask: Array, drop_key: Array, options: MHAOptions
) -> jax.Array:
    if options.dropout == 1.0:
        return jnp.zeros((*q.shape[:-1], v.shape[-1]), q.dtype)
    out = attend(
        q[:, :, None],
        k,
        v,
        None if mask is None else mask[:, :, None],
        drop_key,
        spec=Spec(options.band, _scale(q), options.dropout),
        backends=options.backends,
        ordered=options.ordered,
    )
    return out[:, :, 0]


def _scale(q: jax.Array) -> float:
    return 1.0 / math.sqrt(q.shape[-1])

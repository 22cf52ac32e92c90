"""Attention: `softmax(q k^T / sqrt(E)) v`."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from ...core.box import unbox
from ...random import next_key
from ._autocast import autocasts
from ._causal_bias import CausalBias
from ._common import ArrayLike, is_floating, shape_list
from ._flash_tile import Band, Spec
from ._sdpa import attend
from ._sdpa_kernel import allowed_backends

__all__ = ["scaled_dot_product_attention"]


@autocasts
def scaled_dot_product_attention(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    attn_mask: ArrayLike | CausalBias | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> jax.Array:
    r"""`softmax(scale * q k^T + mask) v`, the softmax over the keys.

    Args:
        query: what asks.
        key: what is compared with it.
        value: what is averaged.
        attn_mask: boolean, True where a query sees a key; or floating-point, added to the scores, of the query's dtype
            or float32; or a `nn.attention.bias.CausalBias`.
        dropout_p: the probability with which a weight is dropped. It always is: give 0 in evaluation.
        is_causal: query i sees the keys up to i (the diagonal begins in the upper left corner).
        scale: a Python number, by default `E ** -0.5`.
        enable_gqa: each head of the keys and values serves as many neighbouring heads of the query.

    Shape:
        - Query: `(*, H_q, L, E)`; key: `(*, H, S, E)`; value: `(*, H, S, E_v)`. Leading dimensions broadcast; heads
          only without `enable_gqa`, with which `H` divides `H_q`.
        - Mask: `(..., L, S)`, or what broadcasts to the scores `(*, H_q, L, S)`.
        - Output: `(*, H_q, L, E_v)`.

    Raises:
        RuntimeError: shapes or dtypes don't fit, a mask comes with `is_causal`, `dropout_p` is not in `[0, 1]`, or no
            implementation that `nn.attention.sdpa_kernel` allows can run.
        IndexError: the mask has fewer than two dimensions.
        ValueError: a `CausalBias` comes with `is_causal`.
        NotImplementedError: the inputs are complex.

    Note:
        A query that sees no key gives 0, with gradient 0. A key that a boolean mask hides has no effect, not even
        if it is NaN, which in torch it has.
        Long sequences are taken in blocks, so that the `L x S` scores are never whole; that form has no forward-mode
        derivative (`jax.jvp`, `jax.hessian`): `with nn.attention.sdpa_kernel(SDPBackend.MATH):` has. In a program
        lowered for CUDA float16 and bfloat16 take cuDNN's kernel where it suits.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn import functional as F
        >>> q, k, v = jnp.ones((2, 8, 5, 16)), jnp.ones((2, 2, 7, 16)), jnp.ones((2, 2, 7, 32))
        >>> F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True).shape
        (2, 8, 5, 32)
    """
    q, k, v = unbox(query), unbox(key), unbox(value)
    _check_operands(q, k, v)
    band: Band = (None, None)
    if isinstance(attn_mask, CausalBias):
        band, mask = _band_of_bias(attn_mask, is_causal, q, k), None
    else:
        mask = unbox(attn_mask)
        if mask is not None and is_causal:
            raise RuntimeError(
                f"Explicit attn_mask should not be set when is_causal=True: attn_mask of shape {shape_list(mask)}"
            )
        if is_causal:
            band = (None, 0)
    if not 0.0 <= dropout_p <= 1.0:
        raise RuntimeError(f"dropout probability has to be between 0 and 1, but got {dropout_p}")
    if mask is not None:
        _check_mask(mask, q)
    q, k, v, mask, shape = _grouped(q, k, v, mask, enable_gqa)
    if dropout_p == 1.0:
        return jnp.zeros(shape, q.dtype)
    if scale is None:
        scale = 1.0 / math.sqrt(q.shape[-1]) if q.shape[-1] else 1.0
    backends, ordered = allowed_backends()
    spec = Spec(band, float(scale), float(dropout_p))
    out = attend(q, k, v, mask, next_key() if dropout_p else None, spec=spec, backends=backends, ordered=ordered)
    return out.reshape(shape)


def _check_operands(q: jax.Array, k: jax.Array, v: jax.Array) -> None:
    shapes = f"query {shape_list(q)}, key {shape_list(k)}, value {shape_list(v)}"
    if min(q.ndim, k.ndim, v.ndim) < 2:
        raise RuntimeError(f"Expected query, key, and value to all be at least 2 dimensional, but got {shapes}")
    if not q.dtype == k.dtype == v.dtype:
        raise RuntimeError(
            "Expected query, key, and value to have the same dtype, but got "
            f"query {q.dtype.name}, key {k.dtype.name}, value {v.dtype.name}"
        )
    if jnp.issubdtype(q.dtype, jnp.complexfloating):
        raise NotImplementedError(f'"softmax" not implemented for {q.dtype.name!r}: the scores have no order')
    if not is_floating(q):
        raise RuntimeError(f"expected a floating-point dtype but found {q.dtype.name}: cast query, key and value")
    if q.shape[-1] != k.shape[-1]:
        raise RuntimeError(f"query and key differ in their last size, {q.shape[-1]} and {k.shape[-1]}: {shapes}")
    if k.shape[-2] != v.shape[-2]:
        raise RuntimeError(f"key and value differ in their length, {k.shape[-2]} and {v.shape[-2]}: {shapes}")


def _band_of_bias(bias: CausalBias, is_causal: bool, q: jax.Array, k: jax.Array) -> Band:
    if is_causal:
        raise ValueError(f"CausalBias should not be used with is_causal=True: {bias.variant.name} of {bias.shape}")
    if bias.diagonal and bias.shape != (q.shape[-2], k.shape[-2]):
        raise RuntimeError(
            f"a causal_lower_right of size {bias.shape} does not fit {q.shape[-2]} queries and {k.shape[-2]} keys: "
            f"query {shape_list(q)}, key {shape_list(k)}"
        )
    return (None, bias.diagonal)


def _check_mask(mask: jax.Array, q: jax.Array) -> None:
    if mask.dtype not in (jnp.bool_, q.dtype, jnp.float32):
        raise RuntimeError(
            "Expected attn_mask dtype to be bool or float or to match query dtype, but got "
            f"attn_mask.dtype: {mask.dtype.name} and query.dtype: {q.dtype.name}"
        )
    if mask.ndim < 2:
        raise IndexError(
            f"Dimension out of range: attn_mask has {mask.ndim} dimensions, {shape_list(mask)}, and takes at least 2, "
            f"(L, S), for query {shape_list(q)}"
        )


def _grouped(
    q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array | None, enable_gqa: bool
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array | None, tuple[int, ...]]:
    """The operands in the layout of `_sdpa.py`, and the shape of the output."""
    length, keys = q.shape[-2], k.shape[-2]
    own = 3 if enable_gqa else 2  # the dimensions that don't broadcast
    lead = _broadcast_lead(q, k, v, own)
    heads, group = (), 1
    if enable_gqa:
        k, v = _common_heads(q, k, v)
        heads = (k.shape[-3],)
        group = q.shape[-3] // max(heads[0], 1)
    q = jnp.broadcast_to(q, (*lead, *q.shape[-own:])).reshape(*lead, *heads, group, length, q.shape[-1])
    k, v = (jnp.broadcast_to(x, (*lead, *x.shape[-own:])) for x in (k, v))
    scores = (*lead, heads[0] * group) if heads else lead
    if mask is not None:
        mask = _mask_in_groups(mask, (*scores, length, keys), heads, group)
    return q, k, v, mask, (*scores, length, v.shape[-1])


def _broadcast_lead(q: jax.Array, k: jax.Array, v: jax.Array, own: int) -> tuple[int, ...]:
    if min(q.ndim, k.ndim, v.ndim) < own:
        raise IndexError(
            "enable_gqa takes heads, (*, H, L, E): Dimension out of range for "
            f"query {shape_list(q)}, key {shape_list(k)}, value {shape_list(v)}"
        )
    try:
        return np.broadcast_shapes(*(x.shape[:-own] for x in (q, k, v)))
    except ValueError:
        advice = "" if own == 3 else ". If key and value have fewer heads, give enable_gqa=True"
        raise RuntimeError(
            "The leading sizes of query, key and value must match or be 1, but got "
            f"query {shape_list(q)}, key {shape_list(k)}, value {shape_list(v)}{advice}"
        ) from None


def _common_heads(q: jax.Array, k: jax.Array, v: jax.Array) -> tuple[jax.Array, jax.Array]:
    counts = (k.shape[-3], v.shape[-3])
    if any(q.shape[-3] % count if count else q.shape[-3] for count in counts):
        raise RuntimeError(
            "Number of heads in key and value must divide the number of heads in query, but got "
            f"query {shape_list(q)}, key {shape_list(k)}, value {shape_list(v)}"
        )
    if counts[0] == counts[1]:
        return k, v
    shared = math.lcm(*counts)  # torch takes this, against its documentation
    return jnp.repeat(k, shared // counts[0], -3), jnp.repeat(v, shared // counts[1], -3)


def _mask_in_groups(mask: jax.Array, scores: tuple[int, ...], heads: tuple[int, ...], group: int) -> jax.Array:
    padded = (1,) * (len(scores) - mask.ndim) + mask.shape
    if len(padded) != len(scores) or any(m not in (1, s) for m, s in zip(padded, scores, strict=True)):
        raise RuntimeError(
            f"attn_mask of shape {shape_list(mask)} does not broadcast to the scores, of shape {list(scores)}"
        )
    *lead, length, keys = padded
    if not heads:
        return mask.reshape(*lead, 1, length, keys)
    *lead, of_heads = lead
    return mask.reshape(*lead, *((1, 1) if of_heads == 1 else (heads[0], group)), length, keys)

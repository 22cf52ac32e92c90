"""The three implementations of attention, and which of them a call takes.

Shapes are those of `_flash.py`: query `(*B, G, L, E)`, key `(*B, S, E)`, value `(*B, S, Ev)`, mask `(*B, G, L, S)` with
1 for a dimension it is broadcast over, output `(*B, G, L, Ev)`. The last of `*B`, where there is one, are the heads.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ._common import HALF_DTYPES, compiled, laid_out_like
from ._flash import flash_attention
from ._flash_tile import Spec, band_mask, multiply
from ._sdpa_kernel import SDPBackend

__all__ = ["attend"]

#: From this many scores of a head on, and more queries than that, blocks train faster on CPU (benchmarks/layers.py).
_LONG = 512 * 512
_FEW_QUERIES = 32

Key = jax.Array | None
Mask = jax.Array | None


@compiled("spec", "backends", "ordered")
def attend(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    mask: Mask,
    key: Key,
    *,
    spec: Spec,
    backends: tuple[SDPBackend, ...] | None,
    ordered: bool,
) -> jax.Array:
    """Attention by one of the implementations allowed.

    Raises:
        RuntimeError: none of them can run.
    """
    for backend in _preference(q.shape[-2], k.shape[-2], backends, ordered):
        in_blocks = backend in (SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION)
        if backend == SDPBackend.MATH or (in_blocks and 0 in (q.size, k.size)):
            return _plain(spec, q, k, v, mask, key)
        if in_blocks:
            return _in_blocks(spec, q, k, v, mask, key)
        if backend == SDPBackend.CUDNN_ATTENTION and _fused_runs(q, k, v, mask, spec):
            return _fused_on_cuda(spec, q, k, v, mask, key, backends)
    allowed = "none" if not backends else ", ".join(getattr(backend, "name", repr(backend)) for backend in backends)
    raise RuntimeError(
        "No available kernel. Aborting execution. Allowed by sdpa_kernel: "
        f"{allowed}; cuDNN's is for float16 and bfloat16 without dropout, with cuDNN installed, where query "
        f"{list(q.shape)}, key {list(k.shape)} and value {list(v.shape)} suit it"
    )


def _in_blocks(spec: Spec, q: jax.Array, k: jax.Array, v: jax.Array, mask: Mask, key: Key) -> jax.Array:
    sharding = jax.typeof(q).sharding
    if all(axes is None for axes in sharding.spec):
        return flash_attention(spec, q, k, v, mask, key)
    # On a mesh of explicit axes the blocks' layouts are left to XLA.
    call: Any = jax.sharding.auto_axes(lambda *args: flash_attention(spec, *args), out_sharding=sharding)
    return call(q, k, v, mask, key)


def _preference(length: int, keys: int, backends: tuple[SDPBackend, ...] | None, ordered: bool) -> list[SDPBackend]:
    """The backends allowed, the best first."""
    if ordered and backends is not None:
        return list(backends)
    blocks = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION]
    long = length * keys >= _LONG and length > _FEW_QUERIES
    best = [SDPBackend.CUDNN_ATTENTION, *(blocks if long else ()), SDPBackend.MATH, *blocks]
    return [backend for backend in best if backends is None or backend in backends]


@jax.custom_jvp
def _softmax(scores: jax.Array) -> jax.Array:
    """Softmax of the last dimension; of a row of minus infinities: 0."""
    highest = jnp.max(scores, -1, keepdims=True, initial=-jnp.inf)
    weights = jnp.exp(scores - jnp.where(highest == -jnp.inf, 0.0, highest))
    total = jnp.sum(weights, -1, keepdims=True)
    return weights / jnp.where(total == 0.0, 1.0, total)


@_softmax.defjvp
def _softmax_jvp(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    # Not what differentiating the lines above gives: that is NaN where a score is minus infinity.
    weights = _softmax(*primals)
    return weights, weights * (tangents[0] - jnp.sum(weights * tangents[0], -1, keepdims=True))


def _plain(spec: Spec, q: jax.Array, k: jax.Array, v: jax.Array, mask: Mask, key: Key) -> jax.Array:
    """The formula."""
    scores = multiply("...gqe,...ke->...gqk", q, k) * spec.scale
    allowed = band_mask(spec.band, scores.shape[-2:])
    if allowed is not None:
        scores = jnp.where(lax.expand_dims(allowed, range(scores.ndim - 2)), scores, -jnp.inf)
    if mask is not None:
        masked = mask.dtype == jnp.bool_
        scores = jnp.where(mask, scores, -jnp.inf) if masked else scores + mask.astype(scores.dtype)
    weights = _softmax(scores)
    if key is not None:
        keep = laid_out_like(jax.random.bernoulli(key, 1.0 - spec.dropout, weights.shape), weights)
        weights = jnp.where(keep, weights * (1.0 / (1.0 - spec.dropout)), 0.0)
    return multiply("...gqk,...ke->...gqe", weights.astype(v.dtype), v).astype(q.dtype)


def _fused_on_cuda(
    spec: Spec, q: jax.Array, k: jax.Array, v: jax.Array, mask: Mask, key: Key, backends: tuple[SDPBackend, ...] | None
) -> jax.Array:
    """The kernel of cuDNN in what is lowered for CUDA, another one elsewhere."""
    fused = functools.partial(_fused, spec)
    if backends is not None and set(backends) == {SDPBackend.CUDNN_ATTENTION}:
        return lax.platform_dependent(q, k, v, mask, cuda=fused)
    # In blocks even where that is slower: under differentiation both branches give the residuals of both, and those
    # of the plain formula are the scores.
    in_blocks = backends is None or SDPBackend.MATH not in backends or len(backends) > 2

    def other(q: jax.Array, k: jax.Array, v: jax.Array, mask: Mask) -> jax.Array:
        return (_in_blocks if in_blocks else _plain)(spec, q, k, v, mask, key)

    return lax.platform_dependent(q, k, v, mask, cuda=fused, default=other)


def _fused(spec: Spec, q: jax.Array, k: jax.Array, v: jax.Array, mask: Mask) -> jax.Array:
    """The kernel of cuDNN, whose layout is `(B, L, heads, E)`."""
    *lead, group, length, _ = q.shape
    heads, batch = (lead[-1] if lead else 1), math.prod(lead[:-1])
    queries = q.reshape(batch, heads * group, length, q.shape[-1]).swapaxes(1, 2)
    keys, values = (x.reshape(batch, heads, *x.shape[-2:]).swapaxes(1, 2) for x in (k, v))
    bias, seen = _fused_masks(mask, tuple(lead), group, (length, k.shape[-2]))
    out = jax.nn.dot_product_attention(
        queries,
        keys,
        values,
        None if bias is None else bias.astype(q.dtype),
        seen,
        scale=spec.scale,
        is_causal=spec.band == (None, 0),
        implementation="cudnn",
    )
    out = out.swapaxes(1, 2)
    if seen is not None:
        # The kernel's minus infinity is a finite number: a row that sees no key would be the mean of all values.
        out = jnp.where(jnp.any(seen, -1, keepdims=True), out, 0.0)
    return out.reshape(*lead, group, length, v.shape[-1])


def _fused_masks(mask: Mask, lead: tuple[int, ...], group: int, size: tuple[int, int]) -> tuple[Mask, Mask]:
    """A bias without infinities and a boolean mask, each `(B or 1, heads or 1, L, S)`."""
    if mask is None:
        return None, None
    split = max(len(lead) - 1, 0)
    outer, inner = (
        (1,) * len(full) if math.prod(part) == 1 else full
        for part, full in ((mask.shape[:split], lead[:split]), (mask.shape[split:-2], (*lead[split:], group)))
    )
    mask = jnp.broadcast_to(mask, (*outer, *inner, *size)).reshape(math.prod(outer), math.prod(inner), *size)
    if mask.dtype == jnp.bool_:
        return None, mask
    seen = mask != -jnp.inf
    return jnp.where(seen, mask, 0.0), seen


def _fused_runs(q: jax.Array, k: jax.Array, v: jax.Array, mask: Mask, spec: Spec) -> bool:
    """Whether cuDNN's kernel takes these operands, forwards and backwards."""
    banded = spec.band != (None, None)
    if q.dtype not in HALF_DTYPES or spec.dropout or 0 in (q.size, k.size) or q.shape[-1] != v.shape[-1]:
        return False
    if banded and (spec.band != (None, 0) or mask is not None):
        return False
    shapes = tuple((x.shape, jnp.dtype(x.dtype)) for x in (q, k, v) + (() if mask is None else (mask,)))
    return _fused_is_accepted(spec, shapes)


@functools.lru_cache(maxsize=1024)
def _fused_is_accepted(spec: Spec, shapes: tuple[tuple[tuple[int, ...], np.dtype], ...]) -> bool:
    # The limits depend on the versions of cuDNN and of the device; JAX checks them while it traces, so it is asked.
    q, k, v, *masks = (jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in shapes)

    def train(q: jax.Array, k: jax.Array, v: jax.Array, *masks: jax.Array) -> Any:
        out, pull = jax.vjp(lambda q, k, v: _fused(spec, q, k, v, masks[0] if masks else None), q, k, v)
        return pull(out)

    try:
        jax.eval_shape(train, q, k, v, *masks)
    except (RuntimeError, NotImplementedError, ValueError):
        return False
    return True

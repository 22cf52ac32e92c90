"""Attention whose scores go through a function of one's own (Dong et al., 2024)."""

from __future__ import annotations

import math
import typing
import warnings
from typing import Any, Literal, NamedTuple, TypedDict

import jax
import jax.numpy as jnp
import numpy as np

from ...core.box import unbox
from ..functional._common import ArrayLike, is_floating, shape_list
from ._block_mask import BlockMask, visible_columns, within_blocks
from ._create import create_block_mask
from ._flex import BLOCK, ScoreMod, Segment, attend
from ._mask_mods import and_masks, create_mask, noop_mask, or_masks, sliced_mask_mod

__all__ = [
    "AuxOutput",
    "AuxRequest",
    "BlockMask",
    "FlexKernelOptions",
    "and_masks",
    "create_block_mask",
    "create_mask",
    "flex_attention",
    "noop_mask",
    "or_masks",
]

_Backend = Literal["AUTO", "TRITON", "FLASH", "TRITON_DECODE"]
#: Into how many ranges of queries, each with its range of keys, a mask of known blocks is cut.
_SEGMENTS = 8


class FlexKernelOptions(TypedDict, total=False):
    """Options of torch's kernels, each of which may begin with "fwd_" or "bwd_".

    `BLOCK_M` is how many queries are taken at once here, too. `BACKEND` is checked. The others tune kernels that are
    not here, and change nothing.
    """

    num_warps: int
    num_stages: int
    BLOCK_M: int
    BLOCK_N: int
    BLOCK_M1: int
    BLOCK_N1: int
    BLOCK_M2: int
    BLOCK_N2: int
    PRESCALE_QK: bool
    ROWS_GUARANTEED_SAFE: bool
    BLOCKS_ARE_CONTIGUOUS: bool
    WRITE_DQ: bool
    FORCE_USE_FLEX_ATTENTION: bool
    USE_TMA: bool
    kpack: int
    matrix_instr_nonkdim: int
    waves_per_eu: int
    BACKEND: _Backend


class AuxRequest(NamedTuple):
    """What `flex_attention` returns beside its output.

    Attributes:
        lse: the logarithm of each row's sum of exponentials.
        max_scores: each row's largest score.
    """

    lse: bool = False
    max_scores: bool = False


class AuxOutput(NamedTuple):
    """What was asked for with `AuxRequest`, `(B, H_q, L)` each; the rest is None."""

    lse: jax.Array | None = None
    max_scores: jax.Array | None = None


def flex_attention(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    score_mod: ScoreMod | None = None,
    block_mask: BlockMask | None = None,
    scale: float | None = None,
    enable_gqa: bool = False,
    return_lse: bool = False,
    kernel_options: FlexKernelOptions | dict[str, Any] | None = None,
    *,
    return_aux: AuxRequest | None = None,
) -> jax.Array | tuple[jax.Array, jax.Array] | tuple[jax.Array, AuxOutput]:
    """`softmax(score_mod(scale * q k^T)) v` where `block_mask` shows a key.

    Args:
        query: what asks.
        key: what is compared with it.
        value: what is averaged.
        score_mod: a function of `(score, batch, head, query, key)`, scalars, the score in float32 at least, that gives
            the score. It may read arrays, through which gradients flow.
        block_mask: which keys are seen, from `create_block_mask`.
        scale: a Python number, by default `E ** -0.5`.
        enable_gqa: each head of the keys and values serves as many neighbouring heads of the query.
        return_lse: deprecated in torch, with its warning: return the logarithms of the sums, too.
        kernel_options: see `FlexKernelOptions`.
        return_aux: what to return beside the output.

    Shape:
        - Query: `(B, H_q, L, E)`; key: `(B, H, S, E)`; value: `(B, H, S, E_v)`. With a `block_mask` keys and values may
          have one sample for all.
        - Output: `(B, H_q, L, E_v)`; with `return_lse` `(B, H_q, L)` beside it; with `return_aux` an `AuxOutput`.

    Raises:
        ValueError: shapes don't fit each other or the mask, or both kinds of auxiliary output are asked for.
        NotImplementedError: the inputs don't have four dimensions.
        RuntimeError: the mask is a slice without a `mask_mod` of its own.

    Note:
        The scores of `BLOCK_M` (256) queries are in memory at a time, and computed again for gradients; where the
        blocks of a mask are known when it is traced, keys that a range of queries does not see are left out.
        Called outside of `jm.jit` it is traced each time: call it in a compiled function.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn.attention.flex_attention import create_block_mask, flex_attention
        >>> def nearer_is_louder(score, b, h, q, k):
        ...     return score - 0.1 * (q - k).astype(score.dtype)
        >>> mask = create_block_mask(lambda b, h, q, k: q >= k, None, None, 300, 300)
        >>> x = jnp.ones((2, 4, 300, 16))
        >>> flex_attention(x, x, x, nearer_is_louder, mask).shape
        (2, 4, 300, 16)
    """
    q, k, v = unbox(query), unbox(key), unbox(value)
    _check(q, k, v, enable_gqa)
    _check_batch(q, k, block_mask)
    if return_lse and return_aux is not None:
        raise ValueError("Cannot specify both return_lse and return_aux: return_aux=AuxRequest(lse=True) is enough")
    if return_lse:
        message = "return_lse is deprecated. Please use return_aux=AuxRequest(lse=True) instead."
        warnings.warn(message, FutureWarning, stacklevel=2)
    options = _options(kernel_options)
    mask_mod, segments = None, None
    if block_mask is not None:
        _check_lengths(q, k, block_mask)
        mask_mod = within_blocks(block_mask)
        segments = _segments(visible_columns(block_mask), q.shape[-2], k.shape[-2], block_mask.BLOCK_SIZE)
    if k.shape[0] != q.shape[0]:
        k, v = (jnp.broadcast_to(x, (q.shape[0], *x.shape[1:])) for x in (k, v))
    if scale is None:
        scale = 1.0 / math.sqrt(q.shape[-1]) if q.shape[-1] else 1.0
    found = attend(
        q, k, v, score_mod, mask_mod, scale=float(scale), segments=segments, block=int(options.get("BLOCK_M", BLOCK))
    )
    if return_aux is not None:
        wanted = return_aux.lse, return_aux.max_scores
        return found.out, AuxOutput(*(x if want else None for x, want in zip(found[1:], wanted, strict=True)))
    return (found.out, found.lse) if return_lse else found.out


def _check(q: jax.Array, k: jax.Array, v: jax.Array, enable_gqa: bool) -> None:
    shapes = f"query {shape_list(q)}, key {shape_list(k)}, value {shape_list(v)}"
    if min(q.ndim, k.ndim, v.ndim) < 2:
        raise ValueError(f"Expected query, key, and value to all be at least 2 dimensional, but got {shapes}")
    if q.shape[-1] != k.shape[-1]:
        raise ValueError(
            "Expect query and key/value to have the same embedding dimension "
            f"but got E={q.shape[-1]} and E={k.shape[-1]}: {shapes}"
        )
    if not q.ndim == k.ndim == v.ndim == 4:
        raise NotImplementedError(f"query, key, and value must be 4D, (B, H, L, E), but got {shapes}: reshape them")
    if not is_floating(q):
        raise ValueError(f"Expected query to be floating-point, but got {q.dtype.name}")
    of_q, of_k = q.shape[1], k.shape[1]
    if of_q != of_k and not enable_gqa:
        raise ValueError(
            f"Expect query and key/value to have the same number of heads but got Hq={of_q} and Hkv={of_k}. "
            "Try setting enable_gqa=True for GQA."
        )
    if of_q != of_k and (of_k == 0 or of_q % of_k):
        raise ValueError(
            f"Expect number of query heads to be a multiple of kv heads for GQA but got Hq={of_q} and Hkv={of_k}."
        )
    if k.shape[:3] != v.shape[:3]:
        raise ValueError(f"Expect key and value to have the same batch, heads and length, but got {shapes}")


def _check_batch(q: jax.Array, k: jax.Array, block_mask: BlockMask | None) -> None:
    samples = q.shape[0], k.shape[0]
    if samples[0] == samples[1]:
        return
    if block_mask is None:
        raise ValueError(
            "Expect query and key/value to have the same batch size, or non-none block_mask, "
            f"but got block_mask=None, Bq={samples[0]}, and Bkv={samples[1]}."
        )
    if block_mask.kv_num_blocks.shape[0] != samples[0]:
        raise ValueError(
            "Expect query and key/value to have the same batch size, or block_mask and query to have the same batch "
            f"size, but got Bq={samples[0]}, Bkv={samples[1]}, B_block_mask={block_mask.kv_num_blocks.shape[0]}."
        )
    if samples[1] != 1:
        raise RuntimeError(f"Bq and Bkv must broadcast. Got Bq={samples[0]} and Bkv={samples[1]}")


def _check_lengths(q: jax.Array, k: jax.Array, block_mask: BlockMask) -> None:
    if block_mask.mask_mod is sliced_mask_mod:
        raise RuntimeError("Cannot use mask_mod from a sliced BlockMask: set it from the mask that was sliced")
    wanted, made = (q.shape[-2], k.shape[-2]), block_mask.shape[-2:]
    if wanted == made:
        return
    larger = any(w > m for w, m in zip(wanted, made, strict=True))
    advice = (
        "for a smaller length than you're using it for, you likely need to create a new block mask."
        if larger
        else "for a larger length than you're using it for, you can create a new block mask, or crop this one to its "
        "upper left corner with block_mask._adjust(q_len, kv_len)."
    )
    raise ValueError(
        f"block_mask was created for block_mask.shape={block_mask.shape} but got q_len={wanted[0]} and "
        f"kv_len={wanted[1]}. As the block mask was created {advice}"
    )


def _options(given: FlexKernelOptions | dict[str, Any] | None) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for name, value in dict(given or {}).items():
        options[name.removeprefix("fwd_")] = value
    backend = options.get("BACKEND", "AUTO")
    if "BACKEND" in options and options.get("FORCE_USE_FLEX_ATTENTION", False):
        raise RuntimeError("BACKEND cannot be combined with legacy FORCE_USE_FLEX_ATTENTION: BACKEND supersedes it")
    if backend not in typing.get_args(_Backend):
        raise ValueError(f"Invalid BACKEND value '{backend}'. Must be one of {typing.get_args(_Backend)}")
    return options


def _segments(visible: np.ndarray | None, length: int, keys: int, size: tuple[int, int]) -> list[Segment] | None:
    """Ranges of queries, each with the keys it may see, if leaving out the others is worth it."""
    if visible is None or length <= BLOCK:
        return None
    step = -(-len(visible) // _SEGMENTS)
    segments = []
    for begin in range(0, len(visible), step):
        seen = np.flatnonzero(visible[begin : begin + step].any(0))
        first, last = (int(seen[0]), int(seen[-1]) + 1) if seen.size else (0, 0)
        rows = begin * size[0], min((begin + step) * size[0], length)
        segments.append(Segment(rows, (first * size[1], min(last * size[1], keys))))
    visited = sum((s.rows[1] - s.rows[0]) * (s.columns[1] - s.columns[0]) for s in segments)
    return segments if visited < 0.75 * length * keys else None

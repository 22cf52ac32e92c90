"""Making a mask in blocks from a function of the indices."""

from __future__ import annotations

import warnings

import jax
import jax.numpy as jnp
from jax import lax

from ..modules.utils import Placement
from ._block_mask import DEFAULT_BLOCK, BlockMask
from ._blocks import as_pair, ordered
from ._flex import MaskMod, over_indices
from ._mask_mods import index_vectors, positional

__all__ = ["create_block_mask"]


def create_block_mask(
    mask_mod: MaskMod,
    B: int | None,
    H: int | None,
    Q_LEN: int,
    KV_LEN: int,
    device: Placement | None = None,
    BLOCK_SIZE: int | tuple[int, int] = DEFAULT_BLOCK,
    _compile: bool = False,
    separate_full_blocks: bool = True,
    compute_dq_write_order: bool = False,
    dq_kv_order: bool = True,
) -> BlockMask:
    """The `BlockMask` of a function.

    Args:
        mask_mod: a function of `(batch, head, query, key)`, scalars: whether the key is seen.
        B: the number of samples; None where they share the mask.
        H: the number of the query's heads; None where they share the mask.
        Q_LEN: the number of queries.
        KV_LEN: the number of keys.
        device: where the blocks' indices live.
        BLOCK_SIZE: how many queries and keys a block has.
        _compile: deprecated in torch, with its warning: compile the function.
        separate_full_blocks: whether blocks that hide nothing are kept apart.
        compute_dq_write_order: see Raises.
        dq_kv_order: for `compute_dq_write_order`.

    Raises:
        AssertionError: `mask_mod` does not take four arguments.
        ValueError: `dq_kv_order` is not a bool.
        NotImplementedError: `compute_dq_write_order`, which is for a kernel of torch's.

    Example:
        >>> from jaxmodule.nn.attention.flex_attention import create_block_mask
        >>> mask = create_block_mask(lambda b, h, q, k: q >= k, None, None, 256, 256)
        >>> mask.to_dense()[0, 0].tolist(), mask.sparsity()
        ([[1, 0], [1, 1]], 25.0)
    """
    if positional(mask_mod) != 4:
        raise AssertionError(f"create-block_mask requires a mask_mod function! Got {mask_mod}")
    if _compile:
        message = "_compile flag on create_block_mask will be removed in torch. Use jm.jit(create_block_mask) instead."
        warnings.warn(message, DeprecationWarning, stacklevel=2)
    if not isinstance(dq_kv_order, bool):
        raise ValueError(f"dq_kv_order must be a bool when using create_block_mask, got {dq_kv_order!r}")
    if compute_dq_write_order:
        raise NotImplementedError(
            "compute_dq_write_order orders the atomic additions of torch's FLASH kernel; here gradients are summed in "
            "one order: leave it out"
        )
    size = as_pair(BLOCK_SIZE)
    # A new function each time: compiled programs are kept by function, and one's closure may have changed.
    count = jax.jit(lambda: _count_seen(mask_mod, (B, H, Q_LEN, KV_LEN), size))()
    whole = size[0] * size[1]
    if separate_full_blocks:
        partial, full = ordered((count > 0) & (count < whole)), ordered(count == whole)
    else:
        partial, full = ordered(count > 0), (None, None)
    mask = BlockMask.from_kv_blocks(*partial, *full, BLOCK_SIZE=size, mask_mod=mask_mod, seq_lengths=(Q_LEN, KV_LEN))
    mask.mask_mod_is_whole = True
    return mask if device is None else mask.to(device)


def _count_seen(mask_mod: MaskMod, shape: tuple[int | None, int | None, int, int], size: tuple[int, int]) -> jax.Array:
    """How many pairs of each block are seen, `(B, H, rows, columns)`, without the whole mask at once."""
    b, h, rows, columns = index_vectors(*shape)
    n_q, n_k = -(-len(rows) // size[0]), -(-len(columns) // size[1])
    padded = jnp.arange(n_k * size[1], dtype=jnp.int32)
    mask = over_indices(mask_mod, scored=False)

    def count(i: jax.Array) -> jax.Array:
        row = i * size[0] + jnp.arange(size[0], dtype=jnp.int32)
        # What is after the end of a sequence is not seen; the function is not asked about it.
        seen = mask(b, h, jnp.minimum(row, len(rows) - 1), jnp.minimum(padded, len(columns) - 1))
        seen = seen & ((row < len(rows))[:, None] & (padded < len(columns))[None])[None, None]
        return jnp.sum(seen.reshape(*seen.shape[:2], size[0], n_k, size[1]), (2, 4), dtype=jnp.int32)

    return jnp.moveaxis(lax.map(count, jnp.arange(n_q, dtype=jnp.int32)), 0, 2)

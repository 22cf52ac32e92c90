"""A mask in blocks: which blocks of queries and keys see anything of each other, and a function for the rest."""

from __future__ import annotations

import itertools
import math
from typing import Any

import jax
import numpy as np

from ...core.context import Tracer
from ...core.device import place_of
from ..modules.utils import Placement
from ._blocks import as_pair, dense, ordered, transposed
from ._flex import MaskMod
from ._mask_mods import noop_mask, sliced_mask_mod

__all__ = ["DEFAULT_BLOCK", "BlockMask", "visible_columns", "within_blocks"]

DEFAULT_BLOCK = 128
_ARRAYS = (
    "kv_num_blocks",
    "kv_indices",
    "full_kv_num_blocks",
    "full_kv_indices",
    "q_num_blocks",
    "q_indices",
    "full_q_num_blocks",
    "full_q_indices",
    "dq_write_order",
    "dq_write_order_full",
    "dq_kv_order",
)
_STATIC = ("seq_lengths", "BLOCK_SIZE", "mask_mod", "dq_kv_order_spt", "mask_mod_is_whole")


@jax.tree_util.register_pytree_node_class
class BlockMask:
    """Which blocks of queries and keys see anything of each other, and a function for what is within them.

    Made by `create_block_mask`, or from its arrays by `from_kv_blocks`.

    Args:
        seq_lengths: the number of queries and of keys.
        kv_num_blocks: how many blocks of keys each block of queries sees, int32 `(..., rows)`.
        kv_indices: which, `(..., rows, columns)`; what comes after that many is not read.
        full_kv_num_blocks: the same of blocks that `mask_mod` is not asked about, as all of them is seen; or None.
        full_kv_indices: which.
        q_num_blocks: how many blocks of queries see each block of keys, or None.
        q_indices: which.
        full_q_num_blocks: the same of whole blocks, or None.
        full_q_indices: which.
        BLOCK_SIZE: how many queries and keys a block has.
        mask_mod: a function of `(batch, head, query, key)`.
        dq_write_order: for torch's signature: metadata of a kernel, kept.
        dq_write_order_full: the same.
        dq_kv_order: the same.
        dq_kv_order_spt: the same.

    Raises:
        RuntimeError: the indices have fewer than two dimensions.
        AssertionError: one of a pair is missing.

    Example:
        >>> from jaxmodule.nn.attention.flex_attention import create_block_mask
        >>> print(create_block_mask(lambda b, h, q, k: q >= k, None, None, 256, 256).to_string().strip())
        (0, 0)
        ██
        ████
    """

    def __init__(
        self,
        seq_lengths: tuple[int, int],
        kv_num_blocks: jax.Array,
        kv_indices: jax.Array,
        full_kv_num_blocks: jax.Array | None,
        full_kv_indices: jax.Array | None,
        q_num_blocks: jax.Array | None,
        q_indices: jax.Array | None,
        full_q_num_blocks: jax.Array | None,
        full_q_indices: jax.Array | None,
        BLOCK_SIZE: tuple[int, int] = (DEFAULT_BLOCK, DEFAULT_BLOCK),
        mask_mod: MaskMod = noop_mask,
        *,
        dq_write_order: jax.Array | None = None,
        dq_write_order_full: jax.Array | None = None,
        dq_kv_order: jax.Array | None = None,
        dq_kv_order_spt: bool | None = None,
    ) -> None:
        if kv_indices.ndim < 2:
            raise RuntimeError(f"BlockMask must have at least 2 dimensions, got kv_indices {list(kv_indices.shape)}")
        for name, one, other in (
            ("full_kv", full_kv_num_blocks, full_kv_indices),
            ("full_q", full_q_num_blocks, full_q_indices),
        ):
            if (one is None) != (other is None):
                raise AssertionError(f"{name}_num_blocks and {name}_indices must be both provided or omitted")
        if dq_write_order_full is not None and dq_write_order is None:
            raise ValueError("dq_write_order_full requires dq_write_order")
        self.seq_lengths = seq_lengths
        self.kv_num_blocks = kv_num_blocks
        self.kv_indices = kv_indices
        self.full_kv_num_blocks = full_kv_num_blocks
        self.full_kv_indices = full_kv_indices
        self.q_num_blocks = q_num_blocks
        self.q_indices = q_indices
        self.full_q_num_blocks = full_q_num_blocks
        self.full_q_indices = full_q_indices
        self.dq_write_order = dq_write_order
        self.dq_write_order_full = dq_write_order_full
        self.dq_kv_order = dq_kv_order
        self.dq_kv_order_spt = dq_kv_order_spt
        self.BLOCK_SIZE = BLOCK_SIZE
        self.mask_mod = mask_mod
        #: Whether mask_mod says all there is to say, so that the blocks need not be asked.
        self.mask_mod_is_whole = False

    @classmethod
    def from_kv_blocks(
        cls,
        kv_num_blocks: jax.Array,
        kv_indices: jax.Array,
        full_kv_num_blocks: jax.Array | None = None,
        full_kv_indices: jax.Array | None = None,
        BLOCK_SIZE: int | tuple[int, int] = DEFAULT_BLOCK,
        mask_mod: MaskMod | None = None,
        seq_lengths: tuple[int, int] | None = None,
        compute_q_blocks: bool = True,
        *,
        dq_write_order: jax.Array | None = None,
        dq_write_order_full: jax.Array | None = None,
        dq_kv_order: jax.Array | bool | None = None,
    ) -> BlockMask:
        """A mask from which blocks of keys each block of queries sees.

        Args:
            kv_num_blocks: how many.
            kv_indices: which.
            full_kv_num_blocks: how many of those that `mask_mod` is not asked about.
            full_kv_indices: which.
            BLOCK_SIZE: how many queries and keys a block has.
            mask_mod: what is seen within a block; None for all of it.
            seq_lengths: the number of queries and of keys, by default that of all blocks.
            compute_q_blocks: whether the reverse is made, too: which blocks of queries see each block of keys.
            dq_write_order: metadata of a kernel of torch's, kept.
            dq_write_order_full: the same.
            dq_kv_order: the same.
        """
        if kv_indices.ndim < 2:
            raise RuntimeError(f"BlockMask must have at least 2 dimensions, got kv_indices {list(kv_indices.shape)}")
        if (full_kv_num_blocks is None) != (full_kv_indices is None):
            raise AssertionError("full_kv_num_blocks and full_kv_indices must be both provided or omitted")
        backwards = (None,) * 4
        if compute_q_blocks:
            backwards = (*transposed(kv_num_blocks, kv_indices), *transposed(full_kv_num_blocks, full_kv_indices))
        size = as_pair(BLOCK_SIZE)
        if seq_lengths is None:
            seq_lengths = (kv_indices.shape[-2] * size[0], kv_indices.shape[-1] * size[1])
        is_flag = isinstance(dq_kv_order, bool)
        return cls(
            seq_lengths,
            kv_num_blocks,
            kv_indices,
            full_kv_num_blocks,
            full_kv_indices,
            *backwards,
            BLOCK_SIZE=size,
            mask_mod=noop_mask if mask_mod is None else mask_mod,
            dq_write_order=dq_write_order,
            dq_write_order_full=dq_write_order_full,
            dq_kv_order=None if is_flag else dq_kv_order,
            dq_kv_order_spt=dq_kv_order if is_flag else None,
        )

    def tree_flatten(self) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """For JAX: the arrays, and the rest."""
        return tuple(getattr(self, name) for name in _ARRAYS), tuple(getattr(self, name) for name in _STATIC)

    @classmethod
    def tree_unflatten(cls, static: tuple[Any, ...], arrays: tuple[Any, ...]) -> BlockMask:
        """For JAX: the reverse."""
        mask = cls.__new__(cls)
        mask.__dict__.update(zip(_ARRAYS, arrays, strict=True))
        mask.__dict__.update(zip(_STATIC, static, strict=True))
        return mask

    def as_tuple(self, flatten: bool = True) -> tuple[Any, ...]:
        """What it is made of.

        Args:
            flatten: whether lengths and block sizes are entries of their own, not pairs.
        """
        lengths = self.seq_lengths if flatten else (self.seq_lengths,)
        sizes = self.BLOCK_SIZE if flatten else (self.BLOCK_SIZE,)
        arrays = (getattr(self, name) for name in _ARRAYS)
        return (*lengths, *arrays, self.dq_kv_order_spt, *sizes, self.mask_mod)

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the mask it stands for: the leading dimensions, and the lengths."""
        return (*self.kv_indices.shape[:-2], *self.seq_lengths)

    def numel(self) -> int:
        """How many pairs there are."""
        return math.prod(self.shape)

    def sparsity(self) -> float:
        """The percentage of pairs that are in blocks that are not computed."""
        blocks = int(np.sum(np.asarray(self.kv_num_blocks)))
        if self.full_kv_num_blocks is not None:
            blocks += int(np.sum(np.asarray(self.full_kv_num_blocks)))
        return 100 * (1 - blocks * self.BLOCK_SIZE[0] * self.BLOCK_SIZE[1] / self.numel())

    def to_dense(self) -> jax.Array:
        """1 for each block that is seen or partly seen, else 0: int32 `(..., rows, columns)`."""
        blocks = dense(self.kv_num_blocks, self.kv_indices)
        if self.full_kv_num_blocks is not None and self.full_kv_indices is not None:
            blocks = blocks | dense(self.full_kv_num_blocks, self.full_kv_indices)
        return blocks

    def to_string(self, grid_size: int | tuple[int, int] = (20, 20), limit: int = 4) -> str:
        """A picture of the blocks, for each sample and head.

        Args:
            grid_size: the most rows and columns to show; -1 for all.
            limit: the most pictures.
        """
        dense = np.asarray(self.to_dense())
        rows, columns = dense.shape[-2:]
        if isinstance(grid_size, tuple):
            most = grid_size
        else:
            most = (rows, columns) if grid_size == -1 else (grid_size, grid_size)
        steps = [max(1, -(-n // m)) for n, m in zip((rows, columns), most, strict=True)]
        pictures = []
        for count, index in enumerate(itertools.product(*map(range, dense.shape[:-2]))):
            if count == limit:
                pictures += [
                    "...",
                    "To print out more, set BlockMask.to_string(limit=N)",
                    "You can also index (BlockMask[batch, head]) to choose a specific batch or head",
                ]
                break
            lines = [
                "".join(_shade(dense[index][r : r + steps[0], c : c + steps[1]]) for c in range(0, columns, steps[1]))
                for r in range(0, rows, steps[0])
            ]
            pictures.append("\n".join([str(index), *lines, ""]))
        return "\n".join(pictures)

    def __str__(self) -> str:
        return f"BlockMask(shape={self.shape}, sparsity={self.sparsity():.2f}%, \n{self.to_string().strip()}\n)"

    def __repr__(self) -> str:
        shapes = {name: None if (x := getattr(self, name)) is None else x.shape for name in _ARRAYS[:8]}
        shown = [f"{name}={shape}" for name, shape in shapes.items()]
        shown += [
            f"BLOCK_SIZE={self.BLOCK_SIZE}",
            f"shape={self.shape}",
            f"sparsity={self.sparsity():.2f}%",
            f"mask_mod={getattr(self.mask_mod, '__name__', self.mask_mod)}",
        ]
        return "BlockMask(\n" + ",\n".join(f"    {line}" for line in shown) + "\n)"

    def __getitem__(self, index: Any) -> BlockMask:
        """The mask of some samples, heads and blocks of queries; its `mask_mod` is to be set anew."""
        index = index if isinstance(index, tuple) else (index,)
        index = (*index, slice(None), slice(None), slice(None))[:3]
        index = tuple(
            slice(i % n if -n <= i < n else i, (i % n if -n <= i < n else i) + 1) if isinstance(i, int) else i
            for i, n in zip(index, self.kv_num_blocks.shape[:3], strict=True)
        )
        full = self.full_kv_num_blocks, self.full_kv_indices
        return BlockMask.from_kv_blocks(
            self.kv_num_blocks[index],
            self.kv_indices[index],
            *(None if x is None else x[index] for x in full),
            BLOCK_SIZE=self.BLOCK_SIZE,
            mask_mod=sliced_mask_mod,
            seq_lengths=self.seq_lengths,
            compute_q_blocks=self.q_indices is not None,
        )

    def _adjust(self, new_q_len: int, new_kv_len: int) -> BlockMask:
        """The upper left corner of the mask."""
        rows, columns = -(-new_q_len // self.BLOCK_SIZE[0]), -(-new_kv_len // self.BLOCK_SIZE[1])

        def crop(counts: jax.Array | None, indices: jax.Array | None) -> tuple[Any, Any]:
            if counts is None or indices is None:
                return None, None
            return ordered(dense(counts, indices)[..., :rows, :columns] > 0)

        mask = BlockMask.from_kv_blocks(
            *crop(self.kv_num_blocks, self.kv_indices),
            *crop(self.full_kv_num_blocks, self.full_kv_indices),
            BLOCK_SIZE=self.BLOCK_SIZE,
            mask_mod=self.mask_mod,
            seq_lengths=(new_q_len, new_kv_len),
            compute_q_blocks=self.q_indices is not None,
        )
        mask.mask_mod_is_whole = self.mask_mod_is_whole
        return mask

    def to(self, device: Placement) -> BlockMask:
        """The mask with its arrays on a device.

        Args:
            device: a device or a sharding.
        """
        return jax.tree.map(lambda x: jax.device_put(x, place_of(device)), self)


def _shade(part: np.ndarray) -> str:
    share = float(np.mean(part)) if part.size else 0.0
    return ("█" if share == 1.0 else " " if share == 0.0 else "░") * 2


def visible_columns(mask: BlockMask) -> np.ndarray | None:
    """Which blocks of keys a block of queries sees in any sample and head, if that is known: bool `(rows, columns)`."""
    pairs = [(mask.kv_num_blocks, mask.kv_indices), (mask.full_kv_num_blocks, mask.full_kv_indices)]
    if any(isinstance(x, Tracer) for pair in pairs for x in pair):
        return None
    rows, columns = mask.kv_indices.shape[-2:]
    seen = np.zeros((rows, columns), bool)
    for counts, indices in pairs:
        if counts is None or indices is None:
            continue
        # numpy: what jnp does with known arrays while a function is traced is traced, too
        listed = np.arange(columns) < np.asarray(counts).reshape(-1, rows, 1)
        _, row, _ = np.nonzero(listed)
        seen[row, np.asarray(indices).reshape(-1, rows, columns)[listed]] = True
    return seen


def within_blocks(mask: BlockMask) -> MaskMod:
    """A function of the indices that asks the blocks and, where they leave it open, `mask_mod`."""
    if mask.mask_mod_is_whole:
        return mask.mask_mod
    partial = _leading(dense(mask.kv_num_blocks, mask.kv_indices) > 0)
    full = None
    if mask.full_kv_num_blocks is not None and mask.full_kv_indices is not None:
        full = _leading(dense(mask.full_kv_num_blocks, mask.full_kv_indices) > 0)

    def seen(batch: Any, head: Any, token_q: Any, token_kv: Any) -> jax.Array:
        def of(blocks: jax.Array) -> jax.Array:
            samples, heads = blocks.shape[:2]
            where = (batch if samples > 1 else 0, head if heads > 1 else 0)
            return blocks[*where, token_q // mask.BLOCK_SIZE[0], token_kv // mask.BLOCK_SIZE[1]]

        found = of(partial) & mask.mask_mod(batch, head, token_q, token_kv)
        return found if full is None else found | of(full)

    return seen


def _leading(blocks: jax.Array) -> jax.Array:
    """With dimensions for samples and heads."""
    return blocks.reshape(*(1,) * (4 - blocks.ndim), *blocks.shape)

"""Sums, means and maxima of bags of a table's rows."""

from __future__ import annotations

import warnings

import jax
import jax.numpy as jnp
import numpy as np

from ...core.box import unbox
from ...core.context import Tracer
from ._bags import reduce_rows, reduce_segments
from ._common import (
    ArrayLike,
    compiled,
    concrete_range,
    is_floating,
    is_integer,
    opmath_dtype,
    shape_list,
    signed_index,
)
from ._table import SPARSE_MESSAGE, in_bounds, renormalized, taken_rows

__all__ = ["embedding_bag"]


@compiled("bags", "mode", "padding_idx", "scale_grad_by_freq")
def _embedding_bag(
    index: jax.Array,
    weight: jax.Array,
    offsets: jax.Array | None,
    factors: jax.Array | None,
    *,
    bags: int,
    mode: str,
    padding_idx: int | None,
    scale_grad_by_freq: bool,
) -> jax.Array:
    index = in_bounds(index, weight.shape[0])
    rows = taken_rows(index, weight, scale_grad_by_freq).astype(opmath_dtype(weight.dtype))
    if factors is not None:
        rows = rows * jnp.broadcast_to(factors.astype(rows.dtype)[..., None], rows.shape)
    counts = jnp.ones(index.shape, bool) if padding_idx is None else index != padding_idx
    if offsets is None:
        return reduce_rows(rows, counts, mode).astype(weight.dtype)
    return reduce_segments(rows, counts, signed_index(offsets), bags, mode).astype(weight.dtype)


def embedding_bag(
    input: ArrayLike,
    weight: ArrayLike,
    offsets: ArrayLike | None = None,
    max_norm: float | None = None,
    norm_type: float = 2,
    scale_grad_by_freq: bool = False,
    mode: str = "mean",
    sparse: bool = False,
    per_sample_weights: ArrayLike | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> jax.Array:
    """The sum, mean or maximum of the rows of a table that each bag of indices names.

    Args:
        input: the indices: bags of one size, or one bag after the other.
        weight: the table.
        offsets: where in `input` each bag begins, for one bag after the other; the first is 0. They may be traced: one
            program serves all divisions.
        max_norm: first scale the rows in question down to this norm, in the table itself, which must then be a
            Parameter or a Buffer.
        norm_type: the `p` of that norm.
        scale_grad_by_freq: divide a row's gradient by how often it is looked up in this call; not for "max".
        mode: "sum", "mean" or "max". A bag of nothing gives 0.
        sparse: must be False.
        per_sample_weights: a factor for each row, only for "sum".
        include_last_offset: whether the last offset is where the last bag ends.
        padding_idx: the index of a row that is left out of its bags, and gets no gradient.

    Shape:
        - Input: `(B, N)`, or `(N)` with offsets.
        - Weight: `(V, D)`.
        - Offsets: `(B)`, or `(B + 1)` with the last one.
        - Per_sample_weights: as the input.
        - Output: `(B, D)`.

    Raises:
        ValueError: an argument has another rank, mode or shape, or `sparse` is True.
        NotImplementedError: factors for another mode than "sum".
        RuntimeError: an index is out of range or the offsets don't divide the input, where they are concrete; a
            dtype does not fit; `padding_idx` is not a row.
        TypeError: `max_norm` with an array that can't be changed in place.

    Note:
        Under `jm.jit` neither indices nor offsets can be checked: there a row of NaN stands for one out of range, and
        rows outside of every bag are left out.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn import functional as F
        >>> table = jnp.arange(6.0).reshape(3, 2)
        >>> F.embedding_bag(jnp.array([0, 2, 1]), table, jnp.array([0, 2]), mode="sum").tolist()
        [[4.0, 6.0], [2.0, 3.0]]
    """
    if is_integer(unbox(weight)) and is_floating(unbox(input)):
        message = (
            "Argument order of nn.functional.embedding_bag was changed. Usage `embedding_bag(weight, input, ...)` is "
            "deprecated, and should now be `embedding_bag(input, weight, ...)`."
        )
        warnings.warn(message, stacklevel=2)
        input, weight = weight, input
    index, table, starts, factors = unbox(input), unbox(weight), unbox(offsets), unbox(per_sample_weights)
    _check_bags(index, table, starts, factors, mode, scale_grad_by_freq, sparse)
    bags = _check_values(index, table, starts, factors, include_last_offset)
    row = _padding_row(padding_idx, len(table))
    if max_norm is not None:
        table = renormalized(index, weight, max_norm, norm_type)
    return _embedding_bag(
        index,
        table,
        starts,
        factors,
        bags=bags,
        mode=mode,
        padding_idx=row,
        scale_grad_by_freq=bool(scale_grad_by_freq),
    )


def _check_bags(
    index: jax.Array,
    table: jax.Array,
    offsets: jax.Array | None,
    factors: jax.Array | None,
    mode: str,
    scale_grad_by_freq: bool,
    sparse: bool,
) -> None:
    """Raise errors of rank and mode, in torch's order."""
    if factors is not None and factors.shape != index.shape:
        raise ValueError(
            f"embedding_bag: If per_sample_weights ({shape_list(factors)}) is not None, then it must have the same "
            f"shape as the input ({shape_list(index)})"
        )
    if table.ndim != 2:
        raise ValueError(f"weight has to be a 2D Tensor, but got Tensor of dimension {table.ndim}: {shape_list(table)}")
    if index.ndim not in (1, 2):
        raise ValueError(
            f"input has to be 1D or 2D Tensor, but got Tensor of dimension {index.ndim}: {shape_list(index)}"
        )
    if index.ndim == 2 and offsets is not None:
        raise ValueError(
            "if input is 2D, then offsets has to be None, as input is treated is a mini-batch of fixed length "
            f"sequences. However, found offsets of size {shape_list(offsets)}"
        )
    if index.ndim == 1 and (offsets is None or offsets.ndim != 1):
        got = "None" if offsets is None else f"one of size {shape_list(offsets)}"
        raise ValueError(f"offsets has to be a 1D Tensor but got {got}")
    if mode not in ("sum", "mean", "max"):
        raise ValueError(f"mode has to be one of sum, mean or max, but got {mode!r}")
    if mode == "max" and scale_grad_by_freq:
        raise ValueError("max mode does not support scaling the gradient by the frequency")
    if sparse:
        raise ValueError("max mode does not support sparse weights" if mode == "max" else SPARSE_MESSAGE)
    if factors is not None and mode != "sum":
        raise NotImplementedError(
            "embedding_bag: per_sample_weights was not None. per_sample_weights is only supported for mode='sum' "
            f"(got mode='{mode}')."
        )


def _check_values(
    index: jax.Array,
    table: jax.Array,
    offsets: jax.Array | None,
    factors: jax.Array | None,
    include_last_offset: bool,
) -> int:
    """Raise errors of dtype and value; returns the number of bags."""
    for name, array in (("indices", index), ("offsets", offsets)):
        if array is not None and not is_integer(array):
            raise RuntimeError(f"Expected '{name}' to have an integer scalar type; but got {array.dtype.name} instead")
    if not is_floating(table):
        raise RuntimeError(f"Expected 'weight' to have a float scalar type; but got {table.dtype.name} instead")
    if factors is not None and factors.dtype != table.dtype:
        raise RuntimeError(
            f"Expected 'weight' to have the same type as 'per_sample_weights'; but {table.dtype.name} does not equal "
            f"{factors.dtype.name}"
        )
    extremes = concrete_range(index)
    if extremes is not None and (extremes[0] < 0 or extremes[1] >= table.shape[0]):
        worst = extremes[0] if extremes[0] < 0 else extremes[1]
        raise RuntimeError(f"input takes value {worst} which is not in the valid range [0, {table.shape[0]})")
    if offsets is None:
        if index.shape[1] == 0:
            raise RuntimeError(f"step must be nonzero: an input of size {shape_list(index)} has bags of no indices")
        return index.shape[0]
    if include_last_offset and not offsets.size:
        raise RuntimeError("include_last_offset: number of offset should be at least 1, but there are none")
    if not isinstance(offsets, Tracer) and offsets.size and offsets.is_fully_addressable:
        _check_offsets(np.asarray(offsets), index.shape[0])
    return offsets.shape[0] - bool(include_last_offset)


def _check_offsets(offsets: np.ndarray, length: int) -> None:
    if offsets[0] != 0:
        raise RuntimeError(
            "offsets[0] has to be 0, i.e., the first sequence in the mini-batch has to start from position 0. "
            f"However, got {offsets[0]}"
        )
    if offsets[-1] > length:
        raise RuntimeError(
            f"offsets[-1] can not be greater than input's length {length} but got offsets[-1] of {offsets[-1]}"
        )
    if (np.diff(offsets.astype(np.int64)) < 0).any():
        raise RuntimeError(f"offsets must not decrease, but they are {offsets.tolist()}")


def _padding_row(index: int | None, rows: int) -> int | None:
    """The padding row counted from the front."""
    if index is None:
        return None
    if not -rows <= index < rows:
        raise RuntimeError(
            f"padding_idx must be within the number of embeddings, {-rows} through {rows - 1}, but got {index}"
        )
    return index % rows

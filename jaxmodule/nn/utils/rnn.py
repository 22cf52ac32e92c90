"""Sequences of different lengths: packed, padded, and as lists."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ...core.box import unbox
from .._packed_sequence import PackedSequence, constant, invert_permutation
from ..functional._common import ArrayLike, shape_list
from ..functional._packed import sizes_of, sort_and_pack, unpack_and_sort
from ._padding import is_traced, pad_sequence, unpad_sequence

__all__ = [
    "PackedSequence",
    "invert_permutation",
    "pack_padded_sequence",
    "pack_sequence",
    "pad_packed_sequence",
    "pad_sequence",
    "unpack_sequence",
    "unpad_sequence",
]

_NOT_SORTED = (
    "`lengths` array must be sorted in decreasing order when `enforce_sorted` is True. "
    "You can pass `enforce_sorted=False` to pack_padded_sequence and/or pack_sequence to sidestep this requirement"
)


def pack_padded_sequence(
    input: ArrayLike,
    lengths: ArrayLike | Sequence[int],
    batch_first: bool = False,
    enforce_sorted: bool = True,
) -> PackedSequence:
    """Pack padded sequences: leave out what is behind their ends.

    Args:
        input: the sequences.
        lengths: how long each is, of any dtype. See Note for an array that is traced.
        batch_first: whether the sequences are the first dimension.
        enforce_sorted: whether the lengths must fall. If not, the sequences are sorted.

    Shape:
        - Input: `(T, N, *)`, or with `batch_first` `(N, T, *)`; what is behind the greatest length is left out.
        - Lengths: `(N)`.

    Raises:
        IndexError: the input has less than two dimensions.
        RuntimeError: the input is empty, there isn't one length a sequence, or one is below 1 or above `T`, or they
            don't fall and should.

    Note:
        Inside a compiled function of which `lengths` is an argument, no length can be checked: they count as the
        nearest in `[0, T]`, the sequences are always sorted, and the shapes are the largest possible. See
        `PackedSequence`.
        Sequences of the same length keep their order; in torch that is so for few of them.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn.utils.rnn import pack_padded_sequence
        >>> x = jnp.array([[1, 2, 0], [3, 4, 5]])
        >>> p = pack_padded_sequence(x, [2, 3], batch_first=True, enforce_sorted=False)
        >>> p.data.tolist(), p.batch_sizes.tolist(), p.sorted_indices.tolist()
        ([3, 1, 4, 2, 5], [2, 2, 1], [1, 0])
    """
    x = unbox(input)
    if x.ndim < 2:
        raise IndexError(f"padded sequences have two dimensions or more, but got input of size {shape_list(x)}")
    steps, batch = (x.shape[1], x.shape[0]) if batch_first else x.shape[:2]
    if x.size == 0:
        raise RuntimeError(f"Cannot pack empty tensors: got input of size {shape_list(x)}")
    traced = is_traced(lengths)
    counts: Any = unbox(lengths) if traced else np.asarray(lengths)
    if counts.ndim != 1:
        raise RuntimeError(f"'lengths' argument should be a 1D tensor, but got {counts.ndim}D {shape_list(counts)}")
    if counts.shape[0] != batch:
        raise RuntimeError(
            f"Expected `len(lengths)` to be equal to batch_size, but got {counts.shape[0]} (batch_size={batch}) "
            f"for input of size {shape_list(x)}"
        )
    if traced:
        return _pack_traced(x, counts, steps, batch_first)
    counts = counts.astype(np.int64)
    order = None if enforce_sorted else np.argsort(-counts, kind="stable")
    falling = counts if order is None else counts[order]
    _check_lengths(falling, steps)
    sizes = np.sum(falling[None] > np.arange(falling[0])[:, None], axis=1)
    inverse = None if order is None else constant(np.argsort(order))
    batch_sizes, order = constant(sizes), None if order is None else constant(order)
    data = sort_and_pack(x, order, batch_sizes, batch_first=batch_first, count=int(counts.sum()))
    return PackedSequence(data, batch_sizes, order, inverse)


def _pack_traced(x: jax.Array, lengths: jax.Array, steps: int, batch_first: bool) -> PackedSequence:
    lengths = lengths.astype(int)  # out of range they count as the nearest in it
    order = jnp.argsort(lengths, descending=True, stable=True).astype(int)
    sizes = sizes_of(lengths, steps)
    data = sort_and_pack(x, order, sizes, batch_first=batch_first, count=steps * lengths.shape[0])
    return PackedSequence(data, sizes, order)


def _check_lengths(lengths: np.ndarray, steps: int) -> None:
    if np.any(lengths[:-1] < lengths[1:]):
        raise RuntimeError(f"{_NOT_SORTED}: got {lengths.tolist()}")
    if lengths.min() <= 0:
        raise RuntimeError(
            "Length of all samples has to be greater than 0, but found an element in 'lengths' that is <= 0: "
            f"{lengths.min()}"
        )
    if lengths[0] > steps:
        raise RuntimeError(f"a length of {lengths[0]} is greater than the {steps} time steps of the input")


def pad_packed_sequence(
    sequence: PackedSequence,
    batch_first: bool = False,
    padding_value: float = 0.0,
    total_length: int | None = None,
) -> tuple[jax.Array, jax.Array]:
    """The padded sequences of a packed one, in their original order, and their lengths.

    Args:
        sequence: what `pack_padded_sequence` made.
        batch_first: whether the sequences are to be the first dimension.
        padding_value: what is put behind their ends.
        total_length: how many time steps to return, None for those of `batch_sizes`.

    Shape:
        - Output: `(T, N, *)`, or with `batch_first` `(N, T, *)`, and `(N)`.

    Raises:
        ValueError: `total_length` is less than `T`.
        RuntimeError: there are fewer rows than `batch_sizes` says, where it is concrete.

    Note:
        Of a sequence that was packed with traced lengths, `T` is that of the padded input.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn.utils.rnn import pack_sequence, pad_packed_sequence
        >>> x, lengths = pad_packed_sequence(pack_sequence([jnp.array([1, 2]), jnp.array([3])]), batch_first=True)
        >>> x.tolist(), lengths.tolist()
        ([[1, 2], [3, 0]], [2, 1])
    """
    sizes, data = sequence.batch_sizes, sequence.data
    total = sizes.shape[0]
    if total_length is not None:
        if total_length < total:
            raise ValueError(
                "Expected total_length to be at least the length of the longest sequence in input, but got "
                f"total_length={total_length} and max sequence length being {total}"
            )
        total = total_length
    order, batch = sequence.unsorted_indices, sequence._batch
    padded, lengths = unpack_and_sort(
        data, sizes, order, padding_value, batch=batch, batch_first=batch_first, total=total
    )
    return padded, lengths if is_traced([sizes, order]) else _known_lengths(data, sizes, order, batch)


def _known_lengths(data: jax.Array, batch_sizes: jax.Array, order: jax.Array | None, batch: int) -> jax.Array:
    """The lengths of concrete fields, as a concrete array inside a trace too."""
    sizes = np.asarray(batch_sizes)
    if sizes.sum() > data.shape[0]:
        raise RuntimeError(
            f"data of size {shape_list(data)} has fewer rows than batch_sizes {sizes.tolist()} add up to"
        )
    lengths = np.sum(sizes > np.arange(batch)[:, None], axis=1)
    return constant(lengths if order is None else lengths[np.asarray(order)])


def pack_sequence(sequences: Sequence[ArrayLike], enforce_sorted: bool = True) -> PackedSequence:
    """Pack sequences of different lengths: `pad_sequence`, then `pack_padded_sequence`.

    Args:
        sequences: the sequences.
        enforce_sorted: whether the lengths must fall. If not, the sequences are sorted.

    Shape:
        - Sequences: `(L, *)` each, `L` at least 1.

    Raises:
        RuntimeError: a sequence is empty, or the lengths don't fall and should; or as of `pad_sequence`.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn.utils.rnn import pack_sequence
        >>> pack_sequence([jnp.array([1, 2, 3]), jnp.array([4, 5]), jnp.array([6])]).data.tolist()
        [1, 4, 6, 2, 5, 3]
    """
    arrays = [unbox(s) for s in sequences]
    padded = pad_sequence(arrays)
    return pack_padded_sequence(padded, [a.shape[0] for a in arrays], enforce_sorted=enforce_sorted)


def unpack_sequence(packed_sequences: PackedSequence) -> list[jax.Array]:
    """The sequences of a packed one, in their original order: the inverse of `pack_sequence`.

    Args:
        packed_sequences: what `pack_sequence` made.

    Raises:
        TypeError: the lengths are traced; see `unpad_sequence`.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn.utils.rnn import pack_sequence, unpack_sequence
        >>> p = pack_sequence([jnp.array([1]), jnp.array([2, 3])], enforce_sorted=False)
        >>> [s.tolist() for s in unpack_sequence(p)]
        [[1], [2, 3]]
    """
    padded, lengths = pad_packed_sequence(packed_sequences, batch_first=True)
    return unpad_sequence(padded, lengths, batch_first=True)

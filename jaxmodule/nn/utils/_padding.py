"""Sequences of different lengths as one array, and back."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ...core.box import unbox
from ...core.context import Tracer
from ..functional._common import ArrayLike, shape_list

__all__ = ["is_traced", "pad_sequence", "unpad_sequence"]


def is_traced(values: Any) -> bool:
    """Is an array, or anything in a list, a value that is only known when the program runs?"""
    if isinstance(values, (list, tuple)):
        return any(map(is_traced, values))
    return isinstance(unbox(values) if hasattr(values, "__jax_array__") else values, Tracer)


def pad_sequence(
    sequences: ArrayLike | Iterable[ArrayLike],
    batch_first: bool = False,
    padding_value: float = 0.0,
    padding_side: str = "right",
) -> jax.Array:
    """Stack sequences of different lengths, padded to the greatest.

    Args:
        sequences: the sequences, of the dtype and trailing dimensions of the first.
        batch_first: whether the sequences are to be the first dimension.
        padding_value: what is added.
        padding_side: "right" adds it behind their ends, "left" before their beginnings.

    Shape:
        - Sequences: `(L, *)` each.
        - Output: `(T, N, *)`, or with `batch_first` `(N, T, *)`, `T` the greatest length.

    Raises:
        RuntimeError: `sequences` can't be iterated over or has nothing, a sequence has no dimension or other trailing
            ones, or `padding_side` is neither "left" nor "right".

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn.utils.rnn import pad_sequence
        >>> pad_sequence([jnp.array([1, 2]), jnp.array([3])], batch_first=True, padding_value=-1).tolist()
        [[1, 2], [3, -1]]
    """
    if not isinstance(sequences, Iterable):
        raise RuntimeError(f"pad_sequence: Expected iterable for input sequences, got {type(sequences)}")
    arrays = [unbox(s) if hasattr(s, "__jax_array__") else s for s in sequences]
    arrays = [a if isinstance(a, jax.Array) else np.asarray(a) for a in arrays]
    if not arrays:
        raise RuntimeError("received an empty list of sequences")
    if padding_side not in ("left", "right"):
        raise RuntimeError(f"Expected padding_side to be one of left or right, but got {padding_side}.")
    shapes = [a.shape for a in arrays]
    if () in shapes:
        raise RuntimeError(f"pad_sequence: a sequence has one dimension or more, but got sizes {shapes}")
    trailing, steps = shapes[0][1:], max(shape[0] for shape in shapes)
    try:
        arrays = [a if a.shape[1:] == trailing else _broadcast(a, trailing) for a in arrays]
    except ValueError:
        raise RuntimeError(
            f"pad_sequence: the sizes of all sequences but their lengths must match, but got {[*map(list, shapes)]}"
        ) from None
    if is_traced(arrays):
        padded = _pad_traced(arrays, steps, padding_value, padding_side)
    else:  # on the host: a pad on the device would be a program for each length
        padded = np.full((len(arrays), steps, *trailing), padding_value, arrays[0].dtype)
        for row, a in zip(padded, arrays, strict=True):
            row[steps - a.shape[0] if padding_side == "left" else 0 :][: a.shape[0]] = np.asarray(a)
    padded = padded if batch_first else padded.swapaxes(0, 1)
    first: Any = arrays[0]
    if isinstance(padded, jax.Array) or not _is_placed(first):
        return jnp.asarray(padded)
    return jax.device_put(padded, first.sharding)


def _broadcast(a: Any, trailing: tuple[int, ...]) -> Any:
    return (jnp if isinstance(a, jax.Array) else np).broadcast_to(a, (a.shape[0], *trailing))


def _is_placed(x: Any) -> bool:
    """Was the array put on a device on purpose?"""
    return isinstance(x, jax.Array) and x.committed and isinstance(x.sharding, jax.sharding.SingleDeviceSharding)


def _pad_traced(arrays: list[Any], steps: int, value: float, side: str) -> jax.Array:
    rows = []
    for a in arrays:
        a = jnp.asarray(a).astype(arrays[0].dtype)
        extent = (steps - a.shape[0], 0) if side == "left" else (0, steps - a.shape[0])
        rows.append(jnp.pad(a, (extent, *((0, 0),) * (a.ndim - 1)), constant_values=jnp.asarray(value).astype(a.dtype)))
    return jnp.stack(rows)


def unpad_sequence(padded_sequences: ArrayLike, lengths: ArrayLike, batch_first: bool = False) -> list[jax.Array]:
    """The sequences of a padded array, each of its own length: the inverse of `pad_sequence`.

    Args:
        padded_sequences: the padded array.
        lengths: how long each sequence is.
        batch_first: whether the sequences are the first dimension.

    Shape:
        - Padded sequences: `(T, N, *)`, or with `batch_first` `(N, T, *)`.
        - Lengths: `(N)`.

    Raises:
        IndexError: the padded array has less than two dimensions.
        ValueError: there isn't one length a sequence.
        TypeError: the lengths are no vector, or not known: what a compiled function returns can't depend on them. Use
            the padded array and `jnp.arange(T) < lengths[:, None]` there.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn.utils.rnn import unpad_sequence
        >>> [s.tolist() for s in unpad_sequence(jnp.array([[1, 2], [3, 0]]), jnp.array([2, 1]), batch_first=True)]
        [[1, 2], [3]]
    """
    x = unbox(padded_sequences)
    if x.ndim < 2:
        raise IndexError(f"padded sequences have two dimensions or more, but got size {shape_list(x)}")
    if is_traced(lengths):
        raise TypeError(
            "unpad_sequence: the lengths are traced, so the shapes of the sequences aren't known. Inside a compiled "
            "function keep the padded array, with `jnp.arange(T) < lengths[:, None]` for what is part of a sequence"
        )
    counts: Any = np.asarray(lengths)
    if counts.ndim != 1:
        raise TypeError(f"lengths is a vector, but got an array of size {shape_list(counts)}")
    batch, steps = x.shape[:2] if batch_first else (x.shape[1], x.shape[0])
    if counts.shape[0] != batch:
        raise ValueError(f"got {counts.shape[0]} lengths for {batch} sequences of size {shape_list(x)}")
    ends = np.sum(np.arange(steps) < counts[:, None], axis=1).tolist()
    # Known values are cut on the host: a slice on the device would be a program for each length.
    values = x if isinstance(x, Tracer) else np.asarray(x)
    values = values if batch_first else values.swapaxes(0, 1)
    return [jnp.asarray(values[n, :end]) for n, end in enumerate(ends)]

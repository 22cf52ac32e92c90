"""Packed sequences as arrays: the rows of all sequences by time step, and how many there are at each.

With the sequences in order of falling length, the rows of time step `t` are those of the first `batch_sizes[t]`
sequences. *Unpacked* is the same as an array of `(T, N, *)`. Both ways are gathers whose indices are computed from
`batch_sizes`, so that one program serves all lengths.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from ._common import compiled

__all__ = ["lengths_of", "pack_rows", "sizes_of", "sort_and_pack", "unpack_and_sort", "unpack_rows"]


def sizes_of(lengths: jax.Array, steps: int) -> jax.Array:
    """How many of the sequences are longer than `t`, for each of `steps` time steps."""
    t = jnp.arange(steps, dtype=lengths.dtype)
    return jnp.sum(lengths[None] > t[:, None], axis=1, dtype=lengths.dtype)


@compiled("batch")
def lengths_of(batch_sizes: jax.Array, *, batch: int) -> jax.Array:
    """The lengths of `batch` sequences, falling."""
    return sizes_of(batch_sizes, batch)  # the same count, of time steps that have more than n sequences


@compiled("batch")
def unpack_rows(rows: jax.Array, batch_sizes: jax.Array, fill: jax.Array | float = 0.0, *, batch: int) -> jax.Array:
    """`(R, *)` as `(T, batch, *)`, with `fill` where a sequence has ended."""
    n = jnp.arange(batch, dtype=batch_sizes.dtype)[None]
    starts = jnp.cumsum(batch_sizes) - batch_sizes
    present = (n < batch_sizes[:, None]).reshape((-1, batch) + (1,) * (rows.ndim - 1))
    padded = jnp.take(rows, starts[:, None] + n, axis=0, mode="clip")
    return jnp.where(present, padded, jnp.asarray(fill).astype(rows.dtype))


@compiled("count")
def pack_rows(padded: jax.Array, batch_sizes: jax.Array, *, count: int) -> jax.Array:
    """`(T, N, *)` as `count` rows, zeros in those behind the last."""
    steps, batch = padded.shape[:2]
    row = jnp.arange(count, dtype=batch_sizes.dtype)
    ends = jnp.cumsum(batch_sizes)
    t = jnp.minimum(jnp.searchsorted(ends, row, side="right").astype(row.dtype), steps - 1)
    n = row - (ends - batch_sizes)[t]
    rows = jnp.take(padded.reshape((steps * batch, *padded.shape[2:])), t * batch + n, axis=0, mode="clip")
    present = (row < ends[-1]).reshape((-1,) + (1,) * (rows.ndim - 1))
    return jnp.where(present, rows, jnp.zeros_like(rows))


@compiled("batch_first", "count")
def sort_and_pack(
    x: jax.Array, order: jax.Array | None, batch_sizes: jax.Array, *, batch_first: bool, count: int
) -> jax.Array:
    """The rows of padded sequences taken in another order."""
    x = jnp.swapaxes(x, 0, 1) if batch_first else x
    x = x[: batch_sizes.shape[0]]
    return pack_rows(x if order is None else jnp.take(x, order, axis=1, mode="clip"), batch_sizes, count=count)


@compiled("batch", "batch_first", "total")
def unpack_and_sort(
    rows: jax.Array,
    batch_sizes: jax.Array,
    order: jax.Array | None,
    fill: jax.Array | float,
    *,
    batch: int,
    batch_first: bool,
    total: int,
) -> tuple[jax.Array, jax.Array]:
    """Padded sequences of `total` time steps in another order, and their lengths."""
    lengths = sizes_of(batch_sizes, batch)
    sizes = jnp.concatenate([batch_sizes, jnp.zeros(total - batch_sizes.shape[0], batch_sizes.dtype)])
    padded = unpack_rows(rows, sizes, fill, batch=batch)
    if order is not None:
        padded = jnp.take(padded, order, axis=1, mode="clip")
        lengths = jnp.take(lengths, order, mode="clip")
    return jnp.swapaxes(padded, 0, 1) if batch_first else padded, lengths

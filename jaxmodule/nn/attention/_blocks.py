"""Blocks as lists of columns and as a matrix."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

__all__ = ["as_pair", "dense", "ordered", "transposed"]


def as_pair(size: int | tuple[int, int]) -> tuple[int, int]:
    """How many queries and keys a block has."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def ordered(blocks: jax.Array) -> tuple[jax.Array, jax.Array]:
    """How many blocks of each row are marked, and the indices of the columns with those first."""
    columns = jnp.argsort(~blocks, -1, stable=True)
    return jnp.sum(blocks, -1, dtype=jnp.int32), columns.astype(jnp.int32)


def dense(counts: jax.Array, columns: jax.Array) -> jax.Array:
    """The reverse: int32, 1 where a block is marked."""
    n = columns.shape[-1]
    order = jnp.arange(n, dtype=jnp.int32).reshape(*(1,) * counts.ndim, n)
    listed = order < counts[..., None]
    # An entry that is not listed is written to a column that is then left out.
    target = jnp.where(listed, columns, n)[..., None] == order[..., None, :]
    return jnp.any(target, -2).astype(jnp.int32)


def transposed(counts: jax.Array | None, columns: jax.Array | None) -> tuple[Any, Any]:
    """The lists of the transpose."""
    if counts is None or columns is None:
        return None, None
    return ordered(dense(counts, columns).swapaxes(-1, -2) > 0)

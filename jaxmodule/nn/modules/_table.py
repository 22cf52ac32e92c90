"""What the layers that own a table of rows share in their constructors."""

from __future__ import annotations

import jax
from jax.typing import DTypeLike

from ...core.box import unbox
from ...core.device import given, place_of
from ..functional._common import ArrayLike
from ..parameter import Parameter
from .utils import Placement


def padding_row(index: int | None, rows: int) -> int | None:
    """The padding row counted from the front.

    Raises:
        AssertionError: it is no row.
    """
    if index is None:
        return None
    if not -rows <= index < rows:
        raise AssertionError(f"Padding_idx must be within num_embeddings, but got {index} for {rows} rows")
    return index % rows


def matrix_shape(table: jax.Array) -> tuple[int, int]:
    """The numbers of rows and columns.

    Raises:
        AssertionError: the table is not a matrix.
    """
    if table.ndim != 2:
        raise AssertionError(f"Embeddings parameter is expected to be 2-dimensional, but is {list(table.shape)}")
    rows, columns = table.shape
    return rows, columns


def given_table(
    weight: ArrayLike,
    shape: tuple[int, int],
    device: Placement | None,
    dtype: DTypeLike | None,
    requires_grad: bool = True,
) -> Parameter:
    """A table to start from, as a parameter.

    Raises:
        AssertionError: it has another shape.
    """
    table = unbox(weight)
    if table.shape != shape:
        raise AssertionError(
            f"Shape of weight does not match num_embeddings and embedding_dim: {list(table.shape)}, not {list(shape)}"
        )
    table = table if dtype is None else table.astype(dtype)
    table = table if device is None else jax.device_put(table, place_of(device))
    with given(device):
        return Parameter(table, requires_grad=requires_grad)


def clear_padding(weight: Parameter, padding_idx: int | None) -> None:
    """Zeros in the padding row, where there is one."""
    if padding_idx is not None and not weight.is_meta:
        weight.value = weight.value.at[padding_idx].set(0)

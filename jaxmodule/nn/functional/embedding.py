"""Look-up of rows of a table."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from ...core.box import unbox
from ._common import ArrayLike, compiled, concrete_range, is_integer, shape_list
from ._table import SPARSE_MESSAGE, in_bounds, renormalized, taken_rows

__all__ = ["embedding"]


@compiled("padding_idx", "scale_grad_by_freq")
def _embedding(index: jax.Array, weight: jax.Array, *, padding_idx: int | None, scale_grad_by_freq: bool) -> jax.Array:
    index = in_bounds(index, weight.shape[0])
    y = taken_rows(index, weight, scale_grad_by_freq)
    if padding_idx is not None:
        y = jnp.where((index == padding_idx)[..., None], lax.stop_gradient(y), y)
    return y


def embedding(
    input: ArrayLike,
    weight: ArrayLike,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> jax.Array:
    """`weight[input]`: the rows of a table.

    Args:
        input: the indices, of any integer dtype.
        weight: the table.
        padding_idx: the index of a row that gets no gradient.
        max_norm: first scale the rows in question down to this norm, in the table itself, which must then be a
            Parameter or a Buffer. The gradient is taken with respect to the rows as scaled.
        norm_type: the `p` of that norm.
        scale_grad_by_freq: divide a row's gradient by how often the row is looked up in this call.
        sparse: must be False.

    Shape:
        - Input: `(*)`.
        - Weight: `(V, D)`.
        - Output: `(*, D)`.

    Raises:
        IndexError: an index is negative or not below `V`, where indices are concrete. See Note.
        RuntimeError: the weight is not a matrix, or the indices are not integers.
        AssertionError: `padding_idx` is not a row.
        TypeError: `max_norm` with an array that can't be changed in place.
        ValueError: `sparse` is True.

    Note:
        Under `jm.jit` no index can be checked: there a row of NaN stands for one out of range.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn import functional as F
        >>> F.embedding(jnp.array([2, 0]), jnp.arange(6.0).reshape(3, 2)).tolist()
        [[4.0, 5.0], [0.0, 1.0]]
    """
    index, table = unbox(input), unbox(weight)
    if sparse:
        raise ValueError(SPARSE_MESSAGE)
    if table.ndim != 2:
        raise RuntimeError(f"'weight' must be 2-D, but got a weight of size {shape_list(table)}")
    rows = table.shape[0]
    if not is_integer(index):
        raise RuntimeError(
            "Expected tensor for argument #1 'indices' to have an integer scalar type; "
            f"but got {index.dtype.name} instead"
        )
    if padding_idx is not None:
        if not -rows <= padding_idx < rows:
            raise AssertionError(f"Padding_idx must be within num_embeddings, but got {padding_idx} for {rows} rows")
        padding_idx %= rows
    extremes = concrete_range(index)
    if extremes is not None and (extremes[0] < 0 or extremes[1] >= rows):
        worst = extremes[0] if extremes[0] < 0 else extremes[1]
        raise IndexError(f"index out of range in self: {worst} for a weight of size {shape_list(table)}")
    if max_norm is not None:
        table = renormalized(index, weight, max_norm, norm_type)
    return _embedding(index, table, padding_idx=padding_idx, scale_grad_by_freq=bool(scale_grad_by_freq))

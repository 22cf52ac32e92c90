"""Look-up of rows of a table."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from ...core.box import Box, unbox
from ._common import ArrayLike, compiled, concrete_range, is_integer, opmath_dtype, shape_list, signed_index

__all__ = ["embedding"]

SPARSE_MESSAGE = (
    "sparse=True asks for sparse gradients, which JAX's arrays don't have. Use sparse=False: under jm.jit the gradient "
    "of a look-up is a scatter into the table, and only its rows in use are computed"
)


@jax.custom_jvp
def _scale_gradient(x: jax.Array, scale: jax.Array) -> jax.Array:
    del scale
    return x


@_scale_gradient.defjvp
def _scale_gradient_jvp(
    primals: tuple[jax.Array, jax.Array], tangents: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    x, scale = primals
    return x, tangents[0] * scale


@jax.custom_jvp
def _replace(x: jax.Array, new: jax.Array) -> jax.Array:
    del x
    return new


@_replace.defjvp
def _replace_jvp(
    primals: tuple[jax.Array, jax.Array], tangents: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    # What torch's in-place renormalisation under no_grad does: another value, the same variable to differentiate by.
    return primals[1], tangents[0]


def _in_bounds(index: jax.Array, rows: int) -> jax.Array:
    """Send negative indices past the end, where `mode="fill"` sees them: JAX would count them from the back."""
    index = signed_index(index)
    return jnp.where(index < 0, index.dtype.type(rows), index)


@compiled("padding_idx", "scale_grad_by_freq")
def _embedding(index: jax.Array, weight: jax.Array, *, padding_idx: int | None, scale_grad_by_freq: bool) -> jax.Array:
    index = _in_bounds(index, weight.shape[0])
    y = jnp.take(weight, index, axis=0, mode="fill")
    if scale_grad_by_freq:
        counts = jnp.zeros(weight.shape[0], jnp.int32).at[index].add(1, mode="drop")
        frequency = jnp.maximum(jnp.take(counts, index, mode="clip"), 1)
        y = _scale_gradient(y, 1.0 / frequency[..., None].astype(y.dtype))
    if padding_idx is not None:
        y = jnp.where((index == padding_idx)[..., None], lax.stop_gradient(y), y)
    return y


@compiled("max_norm", "norm_type")
def _renormalize(index: jax.Array, weight: jax.Array, *, max_norm: float, norm_type: float) -> jax.Array:
    """`weight` with the rows that `index` names scaled down to the norm `max_norm` where theirs is greater."""
    fixed = lax.stop_gradient(weight)
    index = _in_bounds(index, weight.shape[0]).reshape(-1)
    rows = jnp.take(fixed, index, axis=0, mode="fill").astype(opmath_dtype(weight.dtype))
    norm = jnp.linalg.norm(rows, ord=norm_type, axis=1, keepdims=True)
    rows = jnp.where(norm > max_norm, rows * (max_norm / (norm + 1e-7)), rows)
    return _replace(weight, fixed.at[index].set(rows.astype(weight.dtype), mode="drop"))


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
        if not isinstance(weight, Box):
            raise TypeError(
                "max_norm rescales rows of the weight in place, which an array does not allow: "
                f"pass nn.Parameter(weight) or nn.Buffer(weight), not a {type(weight).__name__}"
            )
        table = _renormalize(index, table, max_norm=float(max_norm), norm_type=float(norm_type))
        weight.value = table
    return _embedding(index, table, padding_idx=padding_idx, scale_grad_by_freq=bool(scale_grad_by_freq))

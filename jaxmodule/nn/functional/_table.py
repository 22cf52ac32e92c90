"""Rows of a table: what looking them up one by one and in bags share."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from ...core.box import Box
from ._common import ArrayLike, compiled, opmath_dtype, signed_index
from ._gradients import replaced, scaled_gradient

SPARSE_MESSAGE = (
    "sparse=True asks for sparse gradients, which JAX's arrays don't have. Use sparse=False: under jm.jit the gradient "
    "of a look-up is a scatter into the table, and only its rows in use are computed"
)


def in_bounds(index: jax.Array, rows: int) -> jax.Array:
    """Send negative indices past the end, where `mode="fill"` sees them: JAX would count them from the back."""
    index = signed_index(index)
    return jnp.where(index < 0, index.dtype.type(rows), index)


def taken_rows(index: jax.Array, weight: jax.Array, scale_grad_by_freq: bool) -> jax.Array:
    """The rows that an index from `in_bounds` names; NaN for those that there are not."""
    y = jnp.take(weight, index, axis=0, mode="fill")
    if scale_grad_by_freq:
        counts = jnp.zeros(weight.shape[0], jnp.int32).at[index].add(1, mode="drop")
        frequency = jnp.maximum(jnp.take(counts, index, mode="clip"), 1)
        y = scaled_gradient(y, 1.0 / frequency[..., None].astype(y.dtype))
    return y


@compiled("max_norm", "norm_type")
def _renormalize(index: jax.Array, weight: jax.Array, *, max_norm: float, norm_type: float) -> jax.Array:
    """`weight` with the rows that `index` names scaled down to the norm `max_norm` where theirs is greater."""
    fixed = lax.stop_gradient(weight)
    index = in_bounds(index, weight.shape[0]).reshape(-1)
    rows = jnp.take(fixed, index, axis=0, mode="fill").astype(opmath_dtype(weight.dtype))
    norm = jnp.linalg.norm(rows, ord=norm_type, axis=1, keepdims=True)
    rows = jnp.where(norm > max_norm, rows * (max_norm / (norm + 1e-7)), rows)
    # What torch does in place under no_grad: another value, the same variable to differentiate by.
    return replaced(weight, fixed.at[index].set(rows.astype(weight.dtype), mode="drop"))


def renormalized(index: jax.Array, weight: ArrayLike, max_norm: float, norm_type: float) -> jax.Array:
    """The table after its rows in use are rescaled, in the box too."""
    if not isinstance(weight, Box):
        raise TypeError(
            "max_norm rescales rows of the weight in place, which an array does not allow: "
            f"pass nn.Parameter(weight) or nn.Buffer(weight), not a {type(weight).__name__}"
        )
    table = _renormalize(index, weight.value, max_norm=float(max_norm), norm_type=float(norm_type))
    weight.value = table
    return table

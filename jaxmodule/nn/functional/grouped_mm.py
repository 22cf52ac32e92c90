"""Products of matrices in groups of unequal size: the experts of a mixture, each with its own weight."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

from ...core.box import unbox
from ._common import ArrayLike, compiled, is_floating, opmath_dtype, shape_list

__all__ = ["grouped_mm"]

_ROWS = lax.RaggedDotDimensionNumbers(
    dot_dimension_numbers=(((1,), (1,)), ((), ())), lhs_ragged_dimensions=[0], rhs_group_dimensions=[0]
)
_CONTRACTED = lax.RaggedDotDimensionNumbers(
    dot_dimension_numbers=(((1,), (0,)), ((), ())), lhs_ragged_dimensions=[1], rhs_group_dimensions=[]
)


def grouped_mm(
    mat_a: ArrayLike,
    mat_b: ArrayLike,
    *,
    offs: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    out_dtype: DTypeLike | None = None,
) -> jax.Array:
    """`out_g = a_g b_g` for groups `g`, which are slices of a matrix, or matrices of a stack.

    Args:
        mat_a: the left factors: a matrix that `offs` cuts, or a stack.
        mat_b: the right factors, the same.
        offs: int32, where in the cut dimension each group ends. None if both are stacks.
        bias: added to the product of each group.
        out_dtype: the dtype of the output, by default that of `mat_a`. Sums are in float32 at least.

    Shape:
        - `(T, K)` by `(G, K, N)` gives `(T, N)`: the rows are cut.
        - `(M, T)` by `(T, N)` gives `(G, M, N)`: what is summed over is cut.
        - `(G, M, K)` by `(K, T)` gives `(M, T)`: the columns are cut.
        - `(G, M, K)` by `(G, K, N)` gives `(G, M, N)`, without `offs`.
        - Offsets: `(G)`, ascending; bias: what broadcasts to the output.

    Raises:
        RuntimeError: shapes, dtypes or the number of offsets don't fit.

    Note:
        Where the last offset is less than `T`, the rest of the output is 0 before the bias, which torch leaves
        undefined. `bias` and another `out_dtype` are what torch documents: its kernels refuse them.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn import functional as F
        >>> tokens, experts = jnp.ones((6, 4)), jnp.ones((3, 4, 2))
        >>> F.grouped_mm(tokens, experts, offs=jnp.array([1, 1, 6], jnp.int32)).shape
        (6, 2)
    """
    a, b, ends, extra = unbox(mat_a), unbox(mat_b), unbox(offs), unbox(bias)
    check_groups(a, b, ends)
    if not is_floating(a):
        raise RuntimeError(f"Expected mat_a to be a floating-point matrix, got {a.dtype.name}")
    if a.dtype != b.dtype:
        raise RuntimeError(f"expected m1 and m2 to have the same dtype, but got: {a.dtype.name} != {b.dtype.name}")
    out = grouped_product(a, b, ends)
    return finish(out, extra, dtype=jnp.dtype(a.dtype if out_dtype is None else out_dtype))


def finish(out: jax.Array, bias: jax.Array | None, *, dtype: jnp.dtype) -> jax.Array:
    """Add a bias and cast.

    Raises:
        RuntimeError: the bias does not broadcast.
    """
    if bias is None:
        return out.astype(dtype)
    shape = (1,) * (out.ndim - bias.ndim) + bias.shape
    if len(shape) != out.ndim or any(n not in (1, m) for n, m in zip(shape, out.shape, strict=True)):
        raise RuntimeError(f"bias of shape {shape_list(bias)} does not broadcast to the output, {shape_list(out)}")
    return (out + bias.reshape(shape).astype(out.dtype)).astype(dtype)


def check_groups(a: jax.Array, b: jax.Array, ends: jax.Array | None) -> None:
    """Raise where two operands and their offsets don't fit.

    Raises:
        RuntimeError: they don't.
    """
    shapes = f"mat_a {shape_list(a)}, mat_b {shape_list(b)}"
    for name, x in (("mat_a", a), ("mat_b", b)):
        if x.ndim not in (2, 3):
            raise RuntimeError(f"{name} has to be 2 or 3d: {shapes}")
    if (ends is None) != (a.ndim == b.ndim == 3):
        raise RuntimeError(
            "Have to provide offsets if there is a 2d matrix, or no offset if both matrices are 3d: "
            f"{shapes}, offs {None if ends is None else shape_list(ends)}"
        )
    if a.shape[-1] != b.shape[-2]:
        raise RuntimeError(f"contraction dimension of mat_a and mat_b must match: {shapes}")
    if ends is None:
        if a.shape[0] != b.shape[0]:
            raise RuntimeError(f"batched dimension has to match: {shapes}")
        return
    if ends.dtype != jnp.int32:
        raise RuntimeError(f"Offsets have to be int32, but they are {ends.dtype.name}: cast them")
    groups = a.shape[0] if a.ndim == 3 else b.shape[0]
    if ends.ndim != 1 or (a.ndim + b.ndim == 5 and ends.shape[0] != groups):
        raise RuntimeError(f"matrix batch sizes have to match: {shapes} and offs {shape_list(ends)}")


@compiled()
def grouped_product(a: jax.Array, b: jax.Array, ends: jax.Array | None) -> jax.Array:
    """The products, in the dtype they are summed in."""
    wide = opmath_dtype(a.dtype)
    if ends is None:
        return jnp.einsum("gmk,gkn->gmn", a, b, preferred_element_type=wide)
    sizes = jnp.diff(ends, prepend=jnp.zeros(1, ends.dtype))
    if a.ndim == 2 and b.ndim == 2:
        return _cut_contraction(a, b, sizes)
    if a.ndim == 2:
        return _ragged(a, b, sizes, _ROWS)
    return _ragged(b.T, a.swapaxes(1, 2), sizes, _ROWS).T


def _ragged(a: jax.Array, b: jax.Array, sizes: jax.Array, dimensions: lax.RaggedDotDimensionNumbers) -> jax.Array:
    wide = opmath_dtype(a.dtype)
    product = functools.partial(
        lax.ragged_dot_general, ragged_dot_dimension_numbers=dimensions, preferred_element_type=wide
    )
    if a.dtype == wide:
        return product(a, b, sizes)

    def widened(a: jax.Array, b: jax.Array, sizes: jax.Array) -> jax.Array:
        return product(a.astype(wide), b.astype(wide), sizes)

    # XLA's CPU refuses some of these sums of products of half precision in single precision.
    return lax.platform_dependent(a, b, sizes, cpu=widened, default=product)


@jax.custom_vjp
def _cut_contraction(a: jax.Array, b: jax.Array, sizes: jax.Array) -> jax.Array:
    return _ragged(a, b, sizes, _CONTRACTED)


def _cut_contraction_fwd(
    a: jax.Array, b: jax.Array, sizes: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array, jax.Array]]:
    return _cut_contraction(a, b, sizes), (a, b, sizes)


def _cut_contraction_bwd(
    residuals: tuple[jax.Array, jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, jax.Array, None]:
    # JAX has no rule of its own for this one: each gradient is a product whose rows are cut.
    a, b, sizes = residuals
    gradient = gradient.astype(a.dtype)
    da = _ragged(b, gradient.swapaxes(1, 2), sizes, _ROWS).T
    db = _ragged(a.T, gradient, sizes, _ROWS)
    return da.astype(a.dtype), db.astype(b.dtype), None


_cut_contraction.defvjp(_cut_contraction_fwd, _cut_contraction_bwd)

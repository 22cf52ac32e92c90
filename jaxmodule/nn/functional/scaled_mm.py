"""Products of matrices in eight bits or fewer, whose scales turn their numbers into the ones they stand for."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

from ...core.box import unbox
from ._common import ArrayLike, compiled, shape_list
from ._scales import (
    Factors,
    Recipe,
    Scales,
    ScalingType,
    Swizzle,
    SwizzleType,
    check_dtypes,
    check_small,
    factors,
    listed,
    refuse_swizzles,
    rescaled,
    unboxed,
)
from .grouped_mm import check_groups, finish, grouped_product

__all__ = ["ScalingType", "SwizzleType", "scaled_grouped_mm", "scaled_mm"]


def scaled_mm(
    mat_a: ArrayLike,
    mat_b: ArrayLike,
    scale_a: Scales,
    scale_recipe_a: Recipe,
    scale_b: Scales,
    scale_recipe_b: Recipe,
    swizzle_a: Swizzle = None,
    swizzle_b: Swizzle = None,
    bias: ArrayLike | None = None,
    output_dtype: DTypeLike | None = jnp.bfloat16,
    contraction_dim: Sequence[int] = (),
    use_fast_accum: bool = False,
) -> jax.Array:
    """`(scale_a a) (scale_b b) + bias`, summed in float32, of matrices in a float8 or float4 dtype.

    Args:
        mat_a: the left matrix.
        mat_b: the right matrix.
        scale_a: its scales; a list for several recipes, whose scales multiply.
        scale_recipe_a: what each of them stands for.
        scale_b: the scales of `mat_b`.
        scale_recipe_b: what each of them stands for.
        swizzle_a: the order of `scale_a` in memory. See Raises.
        swizzle_b: the order of `scale_b` in memory. See Raises.
        bias: added to each row.
        output_dtype: the dtype of the output; None for that of `mat_a`.
        contraction_dim: which dimensions of the two are summed over, `(1, 0)` by default.
        use_fast_accum: on CUDA, and with a scale a tensor or a row, sums may be less exact than float32.

    Shape:
        - Left: `(M, K)`; right: `(K, N)`; bias: `(N)`; output: `(M, N)`.
        - Scales: one number for `TensorWise`; `(M, 1)` and `(1, N)` for `RowWise`; `(M, K / n)` and `(N, K / n)` for
          `BlockWise1xn`; `(K / 128, M / 128)` and `(K / 128, N / 128)` for `BlockWise128x128`. Quotients are rounded
          up; there may be more rows, which are not read.

    Raises:
        ValueError: the matrices have another dtype, or shapes don't fit.
        NotImplementedError: scales are swizzled, which is for one kind of GPU.

    Note:
        This is plain mathematics that runs on every platform; kernels for eight bits are XLA's to choose.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn import functional as F
        >>> a, b = jnp.ones((4, 8), jnp.float8_e4m3fn), jnp.ones((8, 2), jnp.float8_e4m3fn)
        >>> scale, whole = jnp.array(0.5), F.ScalingType.TensorWise
        >>> F.scaled_mm(a, b, scale, whole, scale, whole).tolist()[0]
        [2.0, 2.0]
    """
    a, b = unbox(mat_a), unbox(mat_b)
    for name, x in (("mat_a", a), ("mat_b", b)):
        if x.ndim != 2:
            raise ValueError(f"{name} must be a matrix, got shape {shape_list(x)}")
    refuse_swizzles(swizzle_a, swizzle_b)
    a, b = check_small(a, b, contraction_dim)
    of_a = factors("scale_a", a.shape, unboxed(scale_a), listed(scale_recipe_a))
    of_b = factors("scale_b", b.T.shape, unboxed(scale_b), listed(scale_recipe_b))
    extra = unbox(bias)
    if extra is not None and extra.shape != (b.shape[1],):
        raise ValueError(f"Bias must be size {b.shape[1]} but got {shape_list(extra)}")
    out = _product(a, b, of_a, of_b, fast=use_fast_accum)
    return finish(out, extra, dtype=jnp.dtype(a.dtype if output_dtype is None else output_dtype))


def scaled_grouped_mm(
    mat_a: ArrayLike,
    mat_b: ArrayLike,
    scale_a: Scales,
    scale_recipe_a: Recipe,
    scale_b: Scales,
    scale_recipe_b: Recipe,
    swizzle_a: Swizzle = None,
    swizzle_b: Swizzle = None,
    bias: ArrayLike | None = None,
    offs: ArrayLike | None = None,
    output_dtype: DTypeLike | None = jnp.bfloat16,
    contraction_dim: Sequence[int] = (),
    use_fast_accum: bool = False,
) -> jax.Array:
    """`grouped_mm` of matrices in a float8 or float4 dtype with scales, as in `scaled_mm`.

    Args:
        mat_a: the left factors: a matrix that `offs` cuts, or a stack.
        mat_b: the right factors, the same.
        scale_a: the scales of `mat_a`; a list for several recipes.
        scale_recipe_a: what each of them stands for: not `BlockWise128x128`.
        scale_b: the scales of `mat_b`.
        scale_recipe_b: what each of them stands for.
        swizzle_a: the order of `scale_a` in memory. See Raises.
        swizzle_b: the order of `scale_b` in memory. See Raises.
        bias: added to the product of each group.
        offs: int32, where in the cut dimension each group ends. None if both are stacks.
        output_dtype: the dtype of the output; None for that of `mat_a`.
        contraction_dim: for torch's signature: `()` or the last dimension of `mat_a` and the last but one of `mat_b`.
        use_fast_accum: for torch's signature: sums are in float32, or in what XLA takes for it.

    Shape:
        - Matrices, offsets and output: as in `grouped_mm`.
        - Scales: one number for `TensorWise`. For `RowWise` one a row of `mat_a` and a column of `mat_b`: `(T)` or
          `(G, M)`, and `(G, N)` or `(T)`; where the sum is cut, one a row and group, `(G M)` and `(G N)`. For
          `BlockWise1xn` `(T, K / n)` or `(G, M, K / n)`, and `(G, N, K / n)` or `(T, K / n)`; `K` uncut.

    Raises:
        RuntimeError: shapes of the matrices or the number of offsets don't fit.
        ValueError: the matrices have another dtype, or scales don't fit.
        NotImplementedError: scales are swizzled, or a recipe has no meaning here.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn import functional as F
        >>> a, b = jnp.ones((6, 4), jnp.float8_e4m3fn), jnp.ones((2, 4, 3), jnp.float8_e4m3fn)
        >>> rows, offs = F.ScalingType.RowWise, jnp.array([2, 6], jnp.int32)
        >>> F.scaled_grouped_mm(a, b, jnp.ones(6), rows, jnp.ones((2, 3)), rows, offs=offs).shape
        (6, 3)
    """
    a, b, ends = unbox(mat_a), unbox(mat_b), unbox(offs)
    refuse_swizzles(swizzle_a, swizzle_b)
    check_groups(a, b, ends)
    check_dtypes(a, b)
    summed = (a.ndim - 1, b.ndim - 2)
    if contraction_dim and tuple(d % x.ndim for d, x in zip(contraction_dim, (a, b), strict=True)) != summed:
        raise ValueError(f"contraction_dim has to be {list(summed)} or empty, but got {list(contraction_dim)}")
    right = b.swapaxes(-1, -2)
    cut = ends.shape[0] if ends is not None and a.ndim == b.ndim == 2 else 1
    of_a = factors("scale_a", a.shape, unboxed(scale_a), listed(scale_recipe_a), cut)
    of_b = factors("scale_b", right.shape, unboxed(scale_b), listed(scale_recipe_b), cut)
    if ends is not None and a.ndim == b.ndim == 2:
        return _finish_cut(a, b, of_a, of_b, ends, unbox(bias), output_dtype)
    out = grouped_product(rescaled(a, of_a), rescaled(right, of_b).swapaxes(-1, -2), ends)
    return finish(out, unbox(bias), dtype=jnp.dtype(a.dtype if output_dtype is None else output_dtype))


def _product(
    a: jax.Array,
    b: jax.Array,
    of_a: Factors,
    of_b: Factors,
    *,
    fast: bool,
) -> jax.Array:
    recipes = [recipe for recipe, _ in (*of_a, *of_b)]
    if not all(recipe in (ScalingType.TensorWise, ScalingType.RowWise) for recipe in recipes):
        return rescaled(a, of_a) @ rescaled(b.T, of_b).T
    out = _narrow_product(a, b, fast=fast)
    for _, scale in of_a:
        out = out * scale
    for _, scale in of_b:
        out = out * scale.T
    return out


@compiled("fast")
def _narrow_product(a: jax.Array, b: jax.Array, *, fast: bool) -> jax.Array:
    def exact(a: jax.Array, b: jax.Array) -> jax.Array:
        return a.astype(jnp.float32) @ b.astype(jnp.float32)

    def quick(a: jax.Array, b: jax.Array) -> jax.Array:
        algorithm = lax.DotAlgorithmPreset.ANY_F8_ANY_F8_F32_FAST_ACCUM
        return lax.dot(a, b, precision=algorithm, preferred_element_type=jnp.float32)

    if fast and all(x.dtype.name.startswith("float8") for x in (a, b)):
        return lax.platform_dependent(a, b, cuda=quick, default=exact)
    return exact(a, b)


def _finish_cut(
    a: jax.Array,
    b: jax.Array,
    of_a: Factors,
    of_b: Factors,
    ends: jax.Array,
    bias: jax.Array | None,
    dtype: DTypeLike | None,
) -> jax.Array:
    """The groups of a sum: the scales are those of rows in each group, so that they come after it."""
    out = grouped_product(a.astype(jnp.float32), b.astype(jnp.float32), ends)
    for name, found, rows in (("scale_a", of_a, a.shape[0]), ("scale_b", of_b, b.shape[1])):
        for recipe, scale in found:
            if recipe == ScalingType.TensorWise:
                out = out * scale[0, 0]
                continue
            if recipe != ScalingType.RowWise:
                raise NotImplementedError(f"{recipe.name} in {name}: the groups cut its blocks; use RowWise")
            out = out * scale.reshape(ends.shape[0], *((rows, 1) if name == "scale_a" else (1, rows)))
    return finish(out, bias, dtype=jnp.dtype(a.dtype if dtype is None else dtype))

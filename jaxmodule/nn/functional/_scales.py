"""The scales of matrices in eight bits or fewer: what there is, whether they fit, and which element has which."""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import IntEnum

import jax
import jax.numpy as jnp

from ...core.box import unbox
from ._common import ArrayLike, shape_list

__all__ = [
    "Factors",
    "Recipe",
    "Scales",
    "ScalingType",
    "Swizzle",
    "SwizzleType",
    "check_dtypes",
    "check_small",
    "factors",
    "listed",
    "refuse_swizzles",
    "rescaled",
    "unboxed",
]

Scales = ArrayLike | Sequence[ArrayLike]


class ScalingType(IntEnum):
    """What one scale stands for: a whole matrix, a row of it, or a block of a row or of rows."""

    TensorWise = 0
    RowWise = 1
    BlockWise1x16 = 2
    BlockWise1x32 = 3
    BlockWise1x128 = 4
    BlockWise128x128 = 5


class SwizzleType(IntEnum):
    """In which order scales lie in memory."""

    NO_SWIZZLE = 0
    SWIZZLE_32_4_4 = 1


Recipe = ScalingType | Sequence[ScalingType]
Swizzle = SwizzleType | Sequence[SwizzleType] | None

_BLOCK = {ScalingType.BlockWise1x16: 16, ScalingType.BlockWise1x32: 32, ScalingType.BlockWise1x128: 128}


#: Recipes with their scales.
Factors = list[tuple[ScalingType, jax.Array]]


def unboxed(scales: Scales) -> list[jax.Array]:
    return [unbox(scale) for scale in (scales if isinstance(scales, list | tuple) else [scales])]


def listed(recipe: Recipe) -> list[ScalingType]:
    return [ScalingType(one) for one in (recipe if isinstance(recipe, list | tuple) else [recipe])]


def refuse_swizzles(*swizzles: Swizzle) -> None:
    for swizzle in swizzles:
        for one in swizzle if isinstance(swizzle, list | tuple) else [swizzle]:
            if one is not None and SwizzleType(one) != SwizzleType.NO_SWIZZLE:
                raise NotImplementedError(
                    f"{SwizzleType(one).name}: swizzled scales are the layout of one kind of GPU's kernels, which JAX "
                    "does not call. Give the scales in the order of the matrix, one a block, `(rows, K / n)`"
                )


def check_dtypes(a: jax.Array, b: jax.Array) -> None:
    for name, x in (("mat_a", a), ("mat_b", b)):
        if not jnp.issubdtype(x.dtype, jnp.floating) or x.dtype.itemsize != 1:
            raise ValueError(
                f"Invalid scaling configuration: {name} should be float8 (or float4), but its dtype is {x.dtype.name}; "
                "use a plain product for wider ones"
            )


def check_small(a: jax.Array, b: jax.Array, contraction_dim: Sequence[int]) -> tuple[jax.Array, jax.Array]:
    """The matrices as `(M, K)` and `(K, N)`, checked."""
    check_dtypes(a, b)
    dim_a, dim_b = (d % 2 for d in contraction_dim) if contraction_dim else (1, 0)
    if a.shape[dim_a] != b.shape[dim_b]:
        raise ValueError(
            f"mat_a and mat_b shapes cannot be multiplied ({shape_list(a)} and {shape_list(b)}) "
            f"with contraction dims mat_a: {dim_a}, mat_b: {dim_b}"
        )
    return (a if dim_a == 1 else a.T), (b if dim_b == 0 else b.T)


def factors(
    name: str, shape: tuple[int, ...], scales: list[jax.Array], recipes: list[ScalingType], groups: int = 1
) -> Factors:
    """Each recipe and its scales, checked, for a matrix `(..., rows, K)` whose `K` is cut into groups."""
    if not scales or len(scales) != len(recipes):
        raise ValueError(f"{name} has {len(scales)} arrays for {len(recipes)} recipes")
    found = []
    for scale, recipe in zip(scales, recipes, strict=True):
        if not jnp.issubdtype(scale.dtype, jnp.floating):
            raise ValueError(f"{name} should be floating-point, but its dtype is {scale.dtype.name}")
        found.append((recipe, _shaped(name, shape, scale.astype(jnp.float32), recipe, groups)))
    return found


def _shaped(name: str, shape: tuple[int, ...], scale: jax.Array, recipe: ScalingType, groups: int) -> jax.Array:
    """The scales of one recipe in a shape that broadcasts to the matrix, or is to be repeated in blocks."""
    *lead, size = shape
    if recipe == ScalingType.TensorWise:
        expected, fits = "one element", scale.size == 1
        shaped = (1,) * len(shape)
    elif recipe == ScalingType.RowWise:
        rows = math.prod(lead) * groups
        expected, fits = f"{rows} elements, one a row{' and group' if groups > 1 else ''}", scale.size == rows
        shaped = (*lead, 1) if groups == 1 else (groups, *lead)
    elif recipe == ScalingType.BlockWise128x128:
        if len(shape) != 2:
            raise NotImplementedError(f"BlockWise128x128 in {name}: in groups a block may be cut; use BlockWise1x128")
        counts = (-(-size // 128), -(-lead[0] // 128))
        expected = f"shape {list(counts)}"
        fits = scale.ndim == 2 and scale.shape[0] >= counts[0] and scale.shape[1] == counts[1]
        scale, shaped = (scale[: counts[0]].T, counts[::-1]) if fits else (scale, counts)
    else:
        shaped = (*lead, -(-size // _BLOCK[recipe]))
        expected, fits = f"shape {list(shaped)}", scale.shape == shaped
    if not fits:
        raise ValueError(
            f"{name} must have {expected} for {recipe.name} of a matrix {list(shape)} (rows, K), "
            f"but its shape is {shape_list(scale)}"
        )
    return scale.reshape(shaped)


def _expanded(recipe: ScalingType, scale: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """The scale of every element, or what broadcasts to it."""
    if recipe in (ScalingType.TensorWise, ScalingType.RowWise):
        return scale
    if recipe == ScalingType.BlockWise128x128:
        return jnp.repeat(jnp.repeat(scale, 128, 0)[: shape[0]], 128, 1)[:, : shape[1]]
    return jnp.repeat(scale, _BLOCK[recipe], -1)[..., : shape[-1]]


def rescaled(x: jax.Array, factors: Factors) -> jax.Array:
    wide = x.astype(jnp.float32)
    for recipe, scale in factors:
        wide = wide * _expanded(recipe, scale, x.shape)
    return wide

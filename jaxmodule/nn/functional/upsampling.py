"""Resizing of sequences, images and volumes."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ...core.box import unbox
from . import adaptive_pooling
from ._autocast import autocasts
from ._common import ArrayLike, IntOrTuple, compiled, is_floating, opmath_dtype, shape_list
from ._resampling import Resize, resized, resized_bytes

__all__ = ["interpolate", "upsample", "upsample_bilinear", "upsample_nearest"]

_RANKS = {"linear": 3, "bilinear": 4, "trilinear": 5}
_KERNELS = {
    "linear": "linear",
    "bilinear": "linear",
    "trilinear": "linear",
    "bicubic": "cubic",
    "lanczos": "lanczos",
    "nearest": "nearest",
    "nearest-exact": "nearest-exact",
}
_UNALIGNED = ("nearest", "area", "nearest-exact")
_ANTIALIASED = ("bilinear", "bicubic", "lanczos")
_BYTES = ("nearest", "nearest-exact", *_ANTIALIASED)


@compiled("plan")
def _interpolate(x: jax.Array, *, plan: tuple[Resize, ...]) -> jax.Array:
    if plan[0].kernel.startswith("nearest"):
        for resize in plan:
            x = resized(x, resize)
        return x
    if x.dtype == jnp.uint8:
        for resize in reversed(plan):
            x = resized_bytes(x, resize)
        return x
    y = x.astype(opmath_dtype(x.dtype))
    for resize in reversed(plan):
        y = resized(y, resize)
    return y.astype(x.dtype)


@autocasts
def interpolate(
    input: ArrayLike,
    size: IntOrTuple | None = None,
    scale_factor: float | Sequence[float] | None = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> jax.Array:
    r"""Resize the spatial dimensions, to `size` or by `scale_factor`.

    Result `i` is read at `s (i + 1/2) - 1/2` of the input, where the step `s` is `size_in / size_out`, or `1 /
    scale_factor` where that is given.

    Args:
        input: sequences, images or volumes.
        size: the sizes to get, one number or one for each spatial dimension.
        scale_factor: the factors instead, one number or one for each; sizes are rounded down.
        mode: "nearest" (the element at `floor(s i)`), "nearest-exact" (the nearest one), "area" (means of cells, as
            `adaptive_avg_pool2d`); "linear", "bilinear" or "trilinear" for three, four and five dimensions; for
            images "bicubic" and, with `antialias`, "lanczos".
        align_corners: read at `i (size_in - 1) / (size_out - 1)` instead, so that the corners are the input's. Only
            for the modes that interpolate, where None is False.
        recompute_scale_factor: use `scale_factor` for the sizes alone; `s` is then `size_in / size_out`.
        antialias: widen the filter where the image is reduced, as Pillow does. Only for the three modes of images.

    Shape:
        - Input: `(N, C, L)`, `(N, C, H, W)` or `(N, C, D, H, W)`.
        - Output: the same with other spatial sizes.

    Raises:
        ValueError: not one of `size` and `scale_factor` is given, their number is not that of the spatial dimensions,
            or an option does not go with the mode.
        NotImplementedError: the mode is not for inputs of this rank or dtype.
        RuntimeError: a size is not positive.
        TypeError: a size is not an integer.

    Note:
        "nearest" and "nearest-exact" round in float32 as torch does. Where a factor gives just the size of the input
        (or twice it) without being 1 (or 2), torch's kernels differ: some ignore the factor, in the value or in the
        gradient alone. Here the value is that of its general kernels, and the gradient is the value's. In half
        precision `antialias` works too, where torch has no CPU kernel. A number that is not finite reaches what it
        has a share in, as in torch, but its whole line where `antialias` takes more than 16 elements for one.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn import functional as F
        >>> F.interpolate(jnp.array([[[1.0, 3.0]]]), scale_factor=2, mode="linear").tolist()
        [[[1.0, 1.5, 2.5, 3.0]]]
    """
    x = unbox(input)
    if mode in _UNALIGNED and align_corners is not None:
        raise ValueError(
            "align_corners option can only be set with the interpolating modes: linear | bilinear | bicubic | "
            f"trilinear, but mode is {mode!r}"
        )
    sizes, factors = _sizes_or_factors(x, size, scale_factor)
    if recompute_scale_factor and size is not None:
        raise ValueError("recompute_scale_factor is not meaningful with an explicit size.")
    sizes = sizes if factors is None else _scaled(x, factors)
    factors = None if recompute_scale_factor else factors
    if antialias and not (mode in _ANTIALIASED and x.ndim == 4):
        raise ValueError(
            "Anti-alias option is restricted to bilinear, bicubic, and lanczos modes and requires a 4-D tensor as "
            f"input, but mode is {mode!r} and the input has size {shape_list(x)}"
        )
    _check_mode(x, mode, align_corners, antialias)
    if mode == "area":
        return getattr(adaptive_pooling, f"adaptive_avg_pool{x.ndim - 2}d")(x, sizes)
    _check_sizes(x, sizes)
    if not is_floating(x) and not (x.dtype == jnp.uint8 and mode in _BYTES):
        raise NotImplementedError(f'"upsample_{mode}" not implemented for {x.dtype.name!r}: cast the input to a float')
    resizes = zip(sizes, factors or (None,) * len(sizes), strict=True)
    plan = tuple(
        Resize(axis, x.shape[axis], out, factor, _KERNELS[mode], bool(align_corners), antialias)
        for axis, (out, factor) in enumerate(resizes, start=2)
    )
    return _interpolate(x, plan=plan)


def _sizes_or_factors(
    x: jax.Array, size: IntOrTuple | None, scale_factor: float | Sequence[float] | None
) -> tuple[tuple[int, ...], tuple[float, ...] | None]:
    """One of both for each spatial dimension."""
    spatial = max(x.ndim - 2, 0)
    if size is not None and scale_factor is not None:
        raise ValueError(f"only one of size or scale_factor should be defined, but got {size} and {scale_factor}")
    if size is not None:
        sizes: tuple[Any, ...] = tuple(size) if isinstance(size, list | tuple) else (size,) * spatial
        if len(sizes) != spatial:
            raise ValueError(
                "Input and output must have the same number of spatial dimensions, but got input with spatial "
                f"dimensions of {shape_list(x)[2:]} and output size of {size}. Please provide input tensor in "
                "(N, C, d1, d2, ...,dK) format and output size in (o1, o2, ...,oK) format."
            )
        if not all(isinstance(n, int | np.integer) for n in sizes):
            raise TypeError(
                "expected size to be one of int or Tuple[int] or Tuple[int, int] or Tuple[int, int, int], "
                f"but got size with types {[type(n) for n in sizes]}"
            )
        return tuple(int(n) for n in sizes), None
    if scale_factor is None:
        raise ValueError("either size or scale_factor should be defined")
    factors: tuple[Any, ...] = (
        tuple(scale_factor) if isinstance(scale_factor, list | tuple) else (scale_factor,) * spatial
    )
    if len(factors) != spatial:
        raise ValueError(
            "Input and scale_factor must have the same number of spatial dimensions, but got input with spatial "
            f"dimensions of {shape_list(x)[2:]} and scale_factor of shape {scale_factor}. Please provide input tensor "
            "in (N, C, d1, d2, ...,dK) format and scale_factor in (s1, s2, ...,sK) format."
        )
    if not all(isinstance(f, int | float | np.integer | np.floating) for f in factors):
        raise TypeError(f"expected scale_factor to be numbers, but got types {[type(f) for f in factors]}")
    return (), tuple(float(f) for f in factors)


def _scaled(x: jax.Array, factors: tuple[float, ...]) -> tuple[int, ...]:
    scaled = [n * factor for n, factor in zip(x.shape[2:], factors, strict=True)]
    if not np.isfinite(scaled).all():
        raise RuntimeError(f"value cannot be converted to type int64_t without overflow: scale_factor={factors}")
    return tuple(int(n) for n in scaled)


def _check_mode(x: jax.Array, mode: str, align_corners: bool | None, antialias: bool) -> None:
    needed = _RANKS.get(mode, 4 if mode in ("bicubic", "lanczos") else x.ndim)
    if not 3 <= x.ndim <= 5 or (mode != "area" and mode not in _KERNELS):
        raise NotImplementedError(
            f"Input Error: Only 3D, 4D and 5D input Tensors supported (got {x.ndim}D: {shape_list(x)}) for the modes: "
            f"nearest | linear | bilinear | bicubic | trilinear | lanczos | area | nearest-exact (got {mode})"
        )
    if x.ndim != needed:
        raise NotImplementedError(
            f"Got {x.ndim}D input, but {mode} mode needs {needed}D input: the input has size {shape_list(x)}"
        )
    if mode == "lanczos" and align_corners:
        raise ValueError("Lanczos mode does not support align_corners=True")
    if mode == "lanczos" and not antialias:
        raise ValueError("Lanczos mode requires antialias=True")


def _check_sizes(x: jax.Array, sizes: tuple[int, ...]) -> None:
    if min(*x.shape[2:], *sizes) <= 0:
        raise RuntimeError(
            "Input and output sizes should be greater than 0, "
            f"but got input {shape_list(x)[2:]} and output {list(sizes)}"
        )
    if x.shape[1] == 0:
        raise RuntimeError(f"Non-empty {x.ndim}D data tensor expected but got a tensor with sizes {shape_list(x)}")


def upsample(
    input: ArrayLike,
    size: IntOrTuple | None = None,
    scale_factor: float | Sequence[float] | None = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
) -> jax.Array:
    """`interpolate` under the name that torch deprecates, with torch's warning.

    Args:
        input: see `interpolate`, as for the others.
        size: the sizes to get.
        scale_factor: the factors instead.
        mode: the kind of interpolation.
        align_corners: whether the corners are the input's.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn import functional as F
        >>> import warnings
        >>> with warnings.catch_warnings(action="ignore"):
        ...     F.upsample(jnp.array([[[1.0, 3.0]]]), 4).tolist()
        [[[1.0, 1.0, 3.0, 3.0]]]
    """
    warnings.warn("`nn.functional.upsample` is deprecated. Use `nn.functional.interpolate` instead.", stacklevel=2)
    return interpolate(input, size, scale_factor, mode, align_corners)


def upsample_nearest(
    input: ArrayLike, size: IntOrTuple | None = None, scale_factor: float | Sequence[float] | None = None
) -> jax.Array:
    """`interpolate` with mode "nearest", under the name that torch deprecates, with torch's warning.

    Args:
        input: see `interpolate`, as for the others.
        size: the sizes to get.
        scale_factor: the factors instead.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn import functional as F
        >>> import warnings
        >>> with warnings.catch_warnings(action="ignore"):
        ...     F.upsample_nearest(jnp.array([[[1.0, 3.0]]]), scale_factor=2).tolist()
        [[[1.0, 1.0, 3.0, 3.0]]]
    """
    warnings.warn(
        "`nn.functional.upsample_nearest` is deprecated. Use `nn.functional.interpolate` instead.", stacklevel=2
    )
    return interpolate(input, size, scale_factor, mode="nearest")


def upsample_bilinear(
    input: ArrayLike, size: IntOrTuple | None = None, scale_factor: float | Sequence[float] | None = None
) -> jax.Array:
    """`interpolate` with mode "bilinear" and aligned corners, under the name that torch deprecates, with its warning.

    Args:
        input: see `interpolate`, as for the others.
        size: the sizes to get.
        scale_factor: the factors instead.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn import functional as F
        >>> import warnings
        >>> with warnings.catch_warnings(action="ignore"):
        ...     F.upsample_bilinear(jnp.array([[[[1.0, 3.0]]]]), (1, 3)).tolist()
        [[[[1.0, 2.0, 3.0]]]]
    """
    warnings.warn(
        "`nn.functional.upsample_bilinear` is deprecated. Use `nn.functional.interpolate` instead.", stacklevel=2
    )
    return interpolate(input, size, scale_factor, mode="bilinear", align_corners=True)

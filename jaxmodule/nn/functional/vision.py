"""Sampling images and volumes at positions that a grid gives."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ...core.box import unbox
from ._autocast import autocasts
from ._common import ArrayLike, along_axis, compiled, is_floating, opmath_dtype, require_inexact, shape_list

__all__ = ["affine_grid", "grid_sample"]

_MODES = ("bilinear", "nearest", "bicubic")
_PADDINGS = ("zeros", "border", "reflection")
_UNSPECIFIED = (
    "Default grid_sample and affine_grid behavior has changed to align_corners=False since 1.3.0. Please specify "
    "align_corners=True if the old behavior is desired. See the documentation of grid_sample for details."
)


def _pixel(at: jax.Array, size: int, align_corners: bool) -> jax.Array:
    """From [-1, 1] to pixels: between the corners' centres, or between the image's borders."""
    return (at + 1) * ((size - 1) / 2) if align_corners else (at + 1) * (size / 2) - 0.5


def _clipped(at: jax.Array, size: int) -> jax.Array:
    # On the border the gradient is 0 already, and NaN is the first pixel: torch's rules.
    at = jnp.where(at > 0, at, jnp.zeros_like(at))
    return jnp.where(at < size - 1, at, jnp.full_like(at, size - 1))


def _reflected(at: jax.Array, size: int, align_corners: bool) -> jax.Array:
    """Reflect at the corners' centres, or at the image's borders, until inside."""
    low = 0.0 if align_corners else -0.5
    span = float(size - 1 if align_corners else size)
    if span == 0:
        return jnp.zeros_like(at)
    distance = jnp.where(at < low, low - at, at - low)
    within = lax.rem(distance, jnp.full_like(distance, span))
    even = lax.rem(jnp.floor(distance / span), jnp.full_like(distance, 2)) == 0
    return _clipped(jnp.where(even, within, span - within) + low, size)


def _padded(at: jax.Array, size: int, padding: str, align_corners: bool) -> jax.Array:
    if padding == "border":
        return _clipped(at, size)
    return _reflected(at, size, align_corners) if padding == "reflection" else at


def _near(x: jax.Array) -> jax.Array:
    return (1.25 * x - 2.25) * x * x + 1  # Keys' cubic convolution with a = -0.75, up to a distance of 1


def _far(x: jax.Array) -> jax.Array:
    return ((-0.75 * x + 3.75) * x - 6) * x + 3  # and from 1 to 2


def _neighbours(at: jax.Array, size: int, mode: str, padding: str, align_corners: bool) -> tuple[jax.Array, jax.Array]:
    """Along one dimension, the pixels (as floats, perhaps outside) that make up each sample, and their weights.

    The neighbours are the leading dimension; they are told apart by constants that broadcast, as XLA does not fuse
    what is stacked.
    """
    at = _pixel(at, size, align_corners)[None]
    if mode == "nearest":
        at = lax.stop_gradient(jnp.round(_padded(at, size, padding, align_corners)))
        return at, jnp.ones_like(at)
    at = at if mode == "bicubic" else _padded(at, size, padding, align_corners)
    first = lax.stop_gradient(jnp.floor(at))
    offsets = np.arange(-1, 3) if mode == "bicubic" else np.arange(2)
    shape = (len(offsets), *at.shape[1:])
    offset = jnp.broadcast_to(jnp.asarray(offsets, at.dtype).reshape(-1, *(1,) * (at.ndim - 1)), shape)
    first, fraction = jnp.broadcast_to(first, shape), jnp.broadcast_to(at - first, shape)
    if mode == "bilinear":
        return first + offset, jnp.where(offset == 0, 1 - fraction, fraction)
    distance = jnp.where(offset <= 0, fraction - offset, offset - fraction)
    weight = jnp.where((offset == 0) | (offset == 1), _near(distance), _far(distance))
    return _padded(first + offset, size, padding, align_corners), weight


@compiled("mode", "padding", "align_corners")
def _grid_sample(x: jax.Array, grid: jax.Array, *, mode: str, padding: str, align_corners: bool) -> jax.Array:
    n, channels, *sizes = x.shape
    wide = x.astype(opmath_dtype(x.dtype))
    coordinates = grid.reshape(n, math.prod(grid.shape[1:-1]), len(sizes)).astype(wide.dtype)
    samples = coordinates.shape[:2]
    # One row of channels a pixel: a gather copies a row, and its transpose, a scatter, adds one.
    pixels = math.prod(sizes)
    rows = jnp.moveaxis(wide.reshape(n, channels, pixels), 1, 2).reshape(n * pixels, channels)
    index = jnp.broadcast_to(jnp.arange(n, dtype=jnp.int32)[:, None], samples)[None]
    weight = jnp.ones((1, *samples), wide.dtype)
    for i, size in enumerate(sizes):  # (x, y, z) of a position are the last, second to last, ... dimension
        pixel, share = _neighbours(coordinates[..., -1 - i], size, mode, padding, align_corners)
        inside = (pixel >= 0) & (pixel < size)
        # As in torch, between the zeros around an image a position of NaN gives NaN; around a volume it gives 0.
        seen = inside | jnp.isnan(share) if len(sizes) == 2 else inside
        share = jnp.where(seen, share, jnp.zeros_like(share))
        pixel = jnp.where(inside, pixel, jnp.zeros_like(pixel)).astype(jnp.int32)
        shape, flat = (len(index), len(pixel), *samples), (len(index) * len(pixel), *samples)
        index = (jnp.broadcast_to(index[:, None] * size, shape) + jnp.broadcast_to(pixel, shape)).reshape(flat)
        weight = (jnp.broadcast_to(weight[:, None], shape) * jnp.broadcast_to(share, shape)).reshape(flat)

    def add(total: jax.Array, corner: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        taken = rows.at[corner[0]].get(mode="promise_in_bounds")
        return total + taken * jnp.broadcast_to(corner[1][..., None], taken.shape), None

    total = jnp.zeros((*samples, channels), wide.dtype)
    if len(index) <= 4:
        for corner in zip(index, weight, strict=True):
            total, _ = add(total, corner)
    else:  # sixteen gathers, and as many scatters in the gradient, would take far longer to compile
        total, _ = lax.scan(add, total, (index, weight))
    return jnp.moveaxis(total, 2, 1).reshape(n, channels, *grid.shape[1:-1]).astype(x.dtype)


@autocasts
def grid_sample(
    input: ArrayLike,
    grid: ArrayLike,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool | None = None,
) -> jax.Array:
    """Read an image or a volume at the positions that `grid` gives (Jaderberg et al., 2015).

    Args:
        input: the images or volumes.
        grid: positions `(x, y)` or `(x, y, z)` in `[-1, 1]`, where `x` is along the last dimension.
        mode: "bilinear" (in a volume between eight neighbours), "nearest", or for images "bicubic".
        padding_mode: what is outside: "zeros", the nearest pixel of the "border", or the image's "reflection".
        align_corners: whether -1 and 1 are the centres of the corner pixels, or the outer borders of those. None is
            False, with torch's warning.

    Shape:
        - Input: `(N, C, H, W)` or `(N, C, D, H, W)`.
        - Grid: `(N, H_out, W_out, 2)` or `(N, D_out, H_out, W_out, 3)`.
        - Output: `(N, C, H_out, W_out)` or `(N, C, D_out, H_out, W_out)`.

    Raises:
        ValueError: there is no such mode or padding.
        RuntimeError: the shapes don't go together, the input has an empty spatial dimension, the dtypes differ, or
            "bicubic" for a volume.
        NotImplementedError: the input is not floating-point.

    Note:
        A coordinate of NaN is -1 with "border" and "reflection", and gives NaN with "zeros" or "bicubic" in an image.
        torch's CPU kernels do the same for images; for volumes theirs depend on the sign of the overflow.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn import functional as F
        >>> image = jnp.arange(4.0).reshape(1, 1, 2, 2)
        >>> F.grid_sample(image, jnp.array([[[[0.0, 0.0], [1.0, -1.0]]]]), align_corners=True).tolist()
        [[[[1.5, 1.0]]]]
    """
    x, g = unbox(input), unbox(grid)
    if mode not in _MODES:
        raise ValueError(
            f"nn.functional.grid_sample(): expected mode to be 'bilinear', 'nearest' or 'bicubic', but got: '{mode}'"
        )
    if padding_mode not in _PADDINGS:
        raise ValueError(
            "nn.functional.grid_sample(): expected padding_mode to be 'zeros', 'border', or 'reflection', "
            f"but got: '{padding_mode}'"
        )
    if align_corners is None:
        warnings.warn(_UNSPECIFIED, stacklevel=3)
    _check_grid(x, g)
    if x.ndim == 5 and mode == "bicubic":
        raise RuntimeError(f"grid_sampler(): bicubic interpolation only supports 4D input, not {shape_list(x)}")
    require_inexact(x, "grid_sampler")
    if x.dtype != g.dtype:
        raise RuntimeError(f"expected grid to have the input's dtype {x.dtype.name} but found {g.dtype.name}")
    return _grid_sample(x, g, mode=mode, padding=padding_mode, align_corners=bool(align_corners))


def _check_grid(x: jax.Array, grid: jax.Array) -> None:
    sizes = f"input with sizes {shape_list(x)} and grid with sizes {shape_list(grid)}"
    if x.ndim not in (4, 5) or x.ndim != grid.ndim:
        raise RuntimeError(
            "grid_sampler(): expected 4D or 5D input and grid with same number of dimensions, but got " + sizes
        )
    if x.shape[0] != grid.shape[0]:
        raise RuntimeError("grid_sampler(): expected grid and input to have same batch size, but got " + sizes)
    if grid.shape[-1] != x.ndim - 2:
        raise RuntimeError(
            f"grid_sampler(): expected grid to have size {x.ndim - 2} in last dimension, but got " + sizes
        )
    if 0 in x.shape[2:]:
        raise RuntimeError(
            f"grid_sampler(): expected input to have non-empty spatial dimensions, but input has sizes {shape_list(x)}"
        )


@compiled("sizes", "align_corners")
def _affine_grid(theta: jax.Array, *, sizes: tuple[int, ...], align_corners: bool) -> jax.Array:
    wide = theta.astype(opmath_dtype(theta.dtype))
    shape = (theta.shape[0], *sizes, len(sizes))

    def column(i: int) -> jax.Array:
        entries = wide[:, :, i].reshape(theta.shape[0], *(1,) * len(sizes), len(sizes))
        return jnp.broadcast_to(entries, shape)

    total = column(len(sizes))
    for i, size in enumerate(reversed(sizes)):
        ends = 1.0 if align_corners else (size - 1) / size
        # torch puts a dimension of one pixel at its centre.
        at = np.linspace(-ends, ends, size) if size > 1 else np.zeros(1)
        line = along_axis(jnp.asarray(at, wide.dtype), len(sizes) - i, len(shape))
        total = total + column(i) * jnp.broadcast_to(line, shape)
    return total.astype(theta.dtype)


@autocasts
def affine_grid(theta: ArrayLike, size: Sequence[int], align_corners: bool | None = None) -> jax.Array:
    """The grid for `grid_sample` that an affine map of the output's positions gives: `theta (x, y, 1)`.

    Args:
        theta: the maps, one for each image.
        size: the size of the images to make, `(N, C, H, W)` or `(N, C, D, H, W)`.
        align_corners: as for `grid_sample`. None is False, with torch's warning.

    Shape:
        - Theta: `(N, 2, 3)` or `(N, 3, 4)`.
        - Output: `(N, H, W, 2)` or `(N, D, H, W, 3)`.

    Raises:
        ValueError: theta is not floating-point, has another shape than `size` asks for, or a size is not positive.
        NotImplementedError: `size` has neither four nor five numbers.
        RuntimeError: `size` has another `N` than theta.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn import functional as F
        >>> F.affine_grid(jnp.eye(2, 3)[None], (1, 1, 2, 2), align_corners=True)[0, 0].tolist()
        [[-1.0, -1.0], [1.0, -1.0]]
    """
    matrix, sizes = unbox(theta), tuple(int(n) for n in size)
    if align_corners is None:
        warnings.warn(_UNSPECIFIED, stacklevel=3)
    if not is_floating(matrix):
        raise ValueError(f"Expected theta to have floating point type, but got {matrix.dtype.name}")
    n = len(sizes) - 2
    if n not in (2, 3):
        raise NotImplementedError(
            "affine_grid only supports 4D and 5D sizes, for 2D and 3D affine transforms, respectively. "
            f"Got size {sizes}."
        )
    if matrix.ndim != 3 or matrix.shape[1:] != (n, n + 1):
        raise ValueError(
            f"Expected a batch of {n}D affine matrices of shape Nx{n}x{n + 1} for size {sizes}. "
            f"Got {shape_list(matrix)}."
        )
    if align_corners and min(sizes[2:]) == 1:
        message = (
            "Since version 1.3.0, affine_grid behavior has changed for unit-size grids when align_corners=True. "
            "This is not an intended use case of affine_grid. See the documentation of affine_grid for details."
        )
        warnings.warn(message, stacklevel=3)
    elif min(sizes) <= 0:
        raise ValueError(f"Expected non-zero, positive output size. Got {sizes}")
    if matrix.shape[0] != sizes[0]:
        raise RuntimeError(f"Expected {sizes[0]} matrices for size {sizes}, but got theta of size {shape_list(matrix)}")
    return _affine_grid(matrix, sizes=sizes[2:], align_corners=bool(align_corners))

"""Sums and means of windows, one dimension after the other."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ._common import is_integer, opmath_dtype
from ._pool_windows import MOST_SLICES, Cells, Window


def _sum_dtype(x: jax.Array) -> Any:
    if is_integer(x) and x.dtype.itemsize < 4:
        return jnp.int32
    return opmath_dtype(x.dtype)


def _sum_along(x: jax.Array, window: Window) -> jax.Array:
    if window.kernel <= MOST_SLICES:
        return functools.reduce(jnp.add, window.taps(x, 0))
    shape, strides, padding = [1] * x.ndim, [1] * x.ndim, [(0, 0)] * x.ndim
    shape[window.axis], strides[window.axis] = window.kernel, window.stride
    padding[window.axis] = (window.padding, window.pad_high)
    total = lax.reduce_window(x, np.zeros((), x.dtype), lax.add, shape, strides, padding)
    return lax.slice_in_dim(total, 0, window.out, axis=window.axis)


def _count(window: Window, include_pad: bool) -> np.ndarray:
    """How many elements each window divides by. What ceil_mode adds behind the padding never counts."""
    low, high = (-window.padding, window.size + window.padding) if include_pad else (0, window.size)
    start = window.positions()[:, 0]
    return np.minimum(start + window.kernel, high) - np.maximum(start, low)


def mean_of_windows(
    x: jax.Array, windows: tuple[Window, ...], divisor: int | None = None, count_include_pad: bool = True
) -> jax.Array:
    """The sum of each window over the number of its elements, or over `divisor`."""
    total = x.astype(_sum_dtype(x))
    for window in reversed(windows):
        total = _sum_along(total, window)
    if divisor is not None:
        counts = np.array(divisor)
    else:
        counts = functools.reduce(np.multiply, [w.along(_count(w, count_include_pad), x.ndim) for w in windows])
    count = jnp.broadcast_to(jnp.asarray(counts, total.dtype), total.shape)
    # lax.div truncates integers towards zero, as C++ does in torch.
    return lax.div(total, count).astype(x.dtype)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _mean_of_unequal(x: jax.Array, cells: Cells) -> jax.Array:
    # No product with a matrix of weights: an infinity would make a NaN of every cell.
    inside = cells.inside()
    if cells.kernel <= MOST_SLICES:
        total = jnp.zeros((), x.dtype)
        for tap, valid in zip(cells.taps(x), inside.T, strict=True):
            total = total + (tap if valid.all() else _masked(tap, cells.along(valid, x.ndim)))
    else:
        laid = cells.lay(x)
        valid = inside.reshape(*inside.shape, *(1,) * (x.ndim - 1 - cells.axis))
        total = jnp.sum(_masked(laid, valid), cells.axis + 1)
    return total / jnp.broadcast_to(jnp.asarray(cells.along(cells.counts(), x.ndim), x.dtype), total.shape)


@_mean_of_unequal.defjvp
def _mean_of_unequal_jvp(
    cells: Cells, primals: tuple[jax.Array], tangents: tuple[jax.Array]
) -> tuple[jax.Array, jax.Array]:
    # One small matrix, in full precision on every platform: the transpose of a gather is slow on CPU.
    weights = np.zeros((cells.out, cells.size))
    np.add.at(weights, (np.arange(cells.out)[:, None], cells.positions()), cells.inside() / cells.counts()[:, None])
    matrix = jnp.asarray(weights, tangents[0].dtype)
    mean = jnp.tensordot(tangents[0], matrix, ((cells.axis,), (1,)), precision="highest")
    return _mean_of_unequal(primals[0], cells), jnp.moveaxis(mean, -1, cells.axis)


def _masked(x: jax.Array, valid: np.ndarray) -> jax.Array:
    return jnp.where(jnp.broadcast_to(valid, x.shape), x, x.dtype.type(0))


def mean_of_cells(x: jax.Array, cells: tuple[Window | Cells, ...]) -> jax.Array:
    """The mean of each cell."""
    y = x.astype(opmath_dtype(x.dtype))
    for cell in reversed(cells):
        if isinstance(cell, Cells):
            y = _mean_of_unequal(y, cell)
        else:
            y = jnp.mean(cell.lay(y, 0), cell.axis + 1)
    return y.astype(x.dtype)

"""Resizing one dimension of an array: which elements, with which weights, make each element of the result.

The tables are computed on the host in torch's arithmetic: a coordinate in float32 for float32 and half precision, in
float64 for float64. Which pixel the nearest one is, is decided there, and rounding it otherwise picks another.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ._common import along_axis

# Beyond this many elements a result, shifted gathers compile slower than a product with a matrix of weights, which
# lets what is not finite reach every element of its line.
_MOST_TAPS = 16


class Resize(NamedTuple):
    """How one dimension is resized: from `size` to `out` elements, by `scale` where the caller gave a factor."""

    axis: int
    size: int
    out: int
    scale: float | None
    kernel: str  # "nearest", "nearest-exact", "linear", "cubic" or "lanczos"
    align_corners: bool
    antialias: bool

    @property
    def is_identity(self) -> bool:
        """Whether torch leaves this dimension as it is: equal sizes are, with some kernels whatever the scale."""
        kept = self.antialias or self.align_corners or self.kernel == "linear" or self.scale in (None, 1.0)
        return self.size == self.out and kept


class Table(NamedTuple):
    """For each result the elements it is made of, their weights, and which of them only fill the row up."""

    source: np.ndarray  # (out, taps)
    weight: np.ndarray  # (out, taps)
    inside: np.ndarray  # (out, taps)


@functools.lru_cache(maxsize=128)
def table(resize: Resize, dtype: np.dtype) -> Table:
    """The table in the arithmetic of `dtype`, float32 or float64."""
    if resize.antialias:
        return _windows(resize, dtype.type)
    if resize.kernel.startswith("nearest"):
        index = _nearest(resize, dtype.type)[:, None]
        return Table(index, np.ones(index.shape, dtype), np.ones(index.shape, bool))
    at = _coordinates(resize, dtype.type)
    base = np.minimum(np.floor(at.astype(np.float32)).astype(np.int64), resize.size - 1)
    fraction = np.clip(at - base.astype(dtype), 0, 1)
    if resize.kernel == "linear":
        offsets, weights = np.arange(2), [1 - fraction, fraction]
    else:
        offsets = np.arange(-1, 3)
        weights = [_cubic(np.abs(fraction - offset), dtype.type(-0.75)) for offset in offsets]
    index = np.clip(base[:, None] + offsets, 0, resize.size - 1)
    return Table(index, np.stack(weights, 1).astype(dtype), np.ones(index.shape, bool))


def _ratio(resize: Resize, of: type[np.floating]) -> np.floating:
    """The step in the input from one result to the next."""
    if resize.align_corners:
        return of(resize.size - 1) / of(resize.out - 1) if resize.out > 1 else of(0)
    return of(1.0 / resize.scale) if resize.scale else of(resize.size) / of(resize.out)


def _coordinates(resize: Resize, of: type[np.floating]) -> np.ndarray:
    step, i = _ratio(resize, of), np.arange(resize.out).astype(of)
    if resize.align_corners:
        return step * i
    at = step * (i + of(0.5)) - of(0.5)
    return at if resize.kernel == "cubic" else np.maximum(at, of(0))


def _nearest(resize: Resize, of: type[np.floating]) -> np.ndarray:
    if resize.kernel == "nearest":
        at = _ratio(resize, of) * np.arange(resize.out).astype(of)
    else:
        at = _coordinates(resize, of) + of(0.5)
    # torch rounds a float64 coordinate to float32 before it takes the floor.
    return np.minimum(np.floor(at.astype(np.float32)).astype(np.int64), resize.size - 1)


def _cubic(x: np.ndarray, a: np.floating) -> np.ndarray:
    """Keys' cubic convolution at distances `x >= 0`."""
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return np.where(x < 1, near, np.where(x < 2, far, x.dtype.type(0)))


def _triangle(x: np.ndarray) -> np.ndarray:
    return np.maximum(1 - x, x.dtype.type(0))


def _keys(x: np.ndarray) -> np.ndarray:
    return _cubic(x, x.dtype.type(-0.5))


def _lanczos(x: np.ndarray) -> np.ndarray:
    return np.where(x < 3, np.sinc(x) * np.sinc(x / 3), 0).astype(x.dtype)


_FILTERS: dict[str, tuple[float, Callable[[np.ndarray], np.ndarray]]] = {
    "linear": (1.0, _triangle),
    "cubic": (2.0, _keys),
    "lanczos": (3.0, _lanczos),
}


def _windows(resize: Resize, of: type[np.floating]) -> Table:
    """Windows as wide as the filter, which a reduction stretches: what Pillow does."""
    radius, kernel = _FILTERS[resize.kernel]
    step = _ratio(resize, of)
    support = of(radius) * max(step, of(1))
    center = (step * (np.arange(resize.out) + 0.5)).astype(of)
    taps = int(np.ceil(support)) * 2 + 1
    low = np.maximum((center - support + of(0.5)).astype(np.int64), 0)
    high = np.minimum((center + support + of(0.5)).astype(np.int64), resize.size)
    index = low[:, None] + np.arange(taps)
    inside = index < np.minimum(high, low + taps)[:, None]
    distance = ((index - center[:, None] + 0.5) * (1 / max(step, of(1)))).astype(of)
    weight = np.where(inside, kernel(np.abs(distance)), of(0)).astype(of)
    total = weight.sum(1, keepdims=True, dtype=of)
    weight = np.divide(weight, total, out=weight, where=total != 0)
    used = int(inside.sum(1).max())
    return Table(np.minimum(index, resize.size - 1)[:, :used], weight[:, :used], inside[:, :used])


@functools.lru_cache(maxsize=128)
def transposed(resize: Resize, dtype: np.dtype) -> Table:
    """For each element of the input the results it goes into: the table of the transposed map."""
    forward = table(resize, dtype)
    result, tap = np.nonzero(forward.inside & (forward.weight != 0))
    pair = forward.source[result, tap] * resize.out + result
    pair, where = np.unique(pair, return_inverse=True)  # a clamped element is in one result more than once
    weight = np.bincount(where, forward.weight[result, tap], pair.size)
    element = pair // resize.out
    column = np.arange(pair.size) - np.searchsorted(element, element)
    taps = int(column.max(initial=0)) + 1
    index, weights = np.zeros((resize.size, taps), np.int64), np.zeros((resize.size, taps), dtype)
    index[element, column], weights[element, column] = pair % resize.out, weight
    return Table(index, weights, np.ones(index.shape, bool))


def _gathered(x: jax.Array, axis: int, rows: Table) -> jax.Array:
    total = None
    for index, weight, inside in zip(rows.source.T, rows.weight.T, rows.inside.T, strict=True):
        tap = jnp.take(x, index, axis=axis, mode="clip")
        tap = tap * jnp.broadcast_to(along_axis(jnp.asarray(weight), axis, x.ndim), tap.shape)
        if not inside.all():
            keep = jnp.broadcast_to(along_axis(jnp.asarray(inside), axis, x.ndim), tap.shape)
            tap = jnp.where(keep, tap, jnp.zeros_like(tap))
        total = tap if total is None else total + tap
    if total is None:
        raise ValueError("a table without taps")
    return total


def _scattered(x: jax.Array, axis: int, rows: Table, out: int) -> jax.Array:
    shape = (*x.shape[:axis], out, *x.shape[axis + 1 :])
    total = jnp.zeros(shape, x.dtype)
    before = (slice(None),) * axis
    for index, weight in zip(rows.source.T, rows.weight.T, strict=True):
        scaled = x * jnp.broadcast_to(along_axis(jnp.asarray(weight), axis, x.ndim), x.shape)
        total = total.at[(*before, index)].add(scaled, mode="promise_in_bounds")
    return total


def _multiplied(x: jax.Array, axis: int, rows: Table) -> jax.Array:
    matrix = np.zeros((rows.source.shape[0], x.shape[axis]), rows.weight.dtype)
    np.add.at(matrix, (np.arange(len(matrix))[:, None], rows.source), np.where(rows.inside, rows.weight, 0))
    product = lax.dot_general(x, jnp.asarray(matrix), (((axis,), (1,)), ((), ())), precision="highest")
    return jnp.moveaxis(product, -1, axis)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _weighted(x: jax.Array, resize: Resize) -> jax.Array:
    rows = table(resize, np.dtype(x.dtype))
    apply = _gathered if rows.source.shape[1] <= _MOST_TAPS else _multiplied
    return apply(x, resize.axis, rows)


@_weighted.defjvp
def _weighted_jvp(resize: Resize, primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    # The same linear map, spelled so that its transpose, the gradient, is gathers too: what JAX makes of a gather is
    # a scatter, ten times slower on CPU.
    (x,), (dx,) = primals, tangents
    columns = transposed(resize, np.dtype(x.dtype))
    if columns.source.shape[1] <= _MOST_TAPS:
        moved = _scattered(dx, resize.axis, columns, resize.out)
    else:
        moved = _multiplied(dx, resize.axis, table(resize, np.dtype(x.dtype)))
    return _weighted(x, resize), moved


def _picked(x: jax.Array, resize: Resize) -> jax.Array:
    """Single elements, in any dtype."""
    index = table(resize, _arithmetic(x)).source[:, 0]
    axis, size = resize.axis, resize.size
    copies = resize.out // size
    if resize.out == copies * size and np.array_equal(index, np.arange(resize.out) // copies):
        shape = (*x.shape[: axis + 1], copies, *x.shape[axis + 1 :])
        return jnp.broadcast_to(jnp.expand_dims(x, axis + 1), shape).reshape(
            *x.shape[:axis], resize.out, *x.shape[axis + 1 :]
        )
    if jnp.issubdtype(x.dtype, jnp.floating):
        return _weighted(x, resize)
    return jnp.take(x, index, axis=axis, mode="clip")


def _arithmetic(x: jax.Array) -> np.dtype:
    return np.dtype(np.float64 if x.dtype == np.float64 else np.float32)


def resized(x: jax.Array, resize: Resize) -> jax.Array:
    """`x` with one dimension resized; half precision in float32."""
    if resize.is_identity:
        return x
    if resize.kernel.startswith("nearest"):
        return _picked(x, resize)
    return _weighted(x, resize)


def resized_bytes(x: jax.Array, resize: Resize) -> jax.Array:
    """`x` of uint8 with one dimension resized and rounded, with torch's and Pillow's integer weights."""
    if resize.size == resize.out:
        return x
    rows = _byte_table(resize)
    # The largest precision with which the largest weight fits an int16.
    largest = float(rows.weight.max())
    bits = next(n for n in range(23) if n == 22 or int(0.5 + largest * (1 << (n + 1))) >= 1 << 15)
    scaled = rows.weight * (1 << bits)
    whole = np.trunc(scaled + np.copysign(0.5, scaled)).astype(np.int32)
    total = _gathered(x.astype(jnp.int32), resize.axis, Table(rows.source, whole, rows.inside))
    return jnp.clip((total + (1 << (bits - 1))) >> bits, 0, 255).astype(jnp.uint8)


def _byte_table(resize: Resize) -> Table:
    rows = table(resize, np.dtype(np.float64))
    if resize.antialias:
        return rows
    # Weights of clamped elements are added before they are rounded, as there is one weight an element.
    weight = np.zeros((resize.out, resize.size))
    np.add.at(weight, (np.arange(resize.out)[:, None], rows.source), rows.weight)
    first = rows.source.min(1)
    index = np.minimum(first[:, None] + np.arange(rows.source.shape[1]), resize.size - 1)
    inside = first[:, None] + np.arange(rows.source.shape[1]) <= rows.source.max(1)[:, None]
    return Table(index, np.where(inside, np.take_along_axis(weight, index, 1), 0.0), inside)

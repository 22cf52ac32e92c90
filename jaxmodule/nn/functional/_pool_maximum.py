"""The largest element of windows, which of them it is, and its gradient, one dimension after the other.

A window is separable: pooling along the last dimension and then along the one before visits the sum of the kernel's
extents instead of their product, and picks the same element where several are equal (torch's: the first of a maximum,
the last of several NaNs).

Small kernels are a running maximum of shifted slices: on CPU that takes a quarter of the time of XLA's window reduction
or less, and so does its gradient, which keeps one int8 an output (benchmarks/layers.py). Large ones would make large
programs: they are laid out along a dimension of their own where they don't overlap, or else found by doubling.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ._common import is_floating
from ._pool_windows import MOST_SLICES, Cells, Window

Windows = tuple[Window | Cells, ...]
State = tuple[jax.Array, ...]


def lowest(x: jax.Array) -> float | int | np.generic:
    """What is never larger than an element of `x`."""
    return -np.inf if is_floating(x) else jnp.iinfo(x.dtype).min


def _isnan(x: jax.Array) -> jax.Array | None:
    return jnp.isnan(x) if is_floating(x) else None


def _small(window: Window | Cells) -> bool:
    return window.kernel <= MOST_SLICES


def _running(taps: Sequence[jax.Array], window: Window | Cells) -> tuple[jax.Array, jax.Array]:
    """The running maximum over a kernel and which of its elements it is, by torch's rule for equals and NaN."""
    best = taps[0]
    chosen = jnp.zeros(best.shape, jnp.int8)
    inside = window.inside()
    for i, tap in enumerate(taps[1:], start=1):
        better, nan = tap > best, _isnan(tap)
        if nan is not None:
            better = better | nan
        first = inside[:, i] & ~inside[:, :i].any(1)
        if first.any():  # padding never wins, not even against an input of -inf
            better = better | jnp.broadcast_to(window.along(first, tap.ndim), tap.shape)
        best = jnp.where(better, tap, best)
        chosen = jnp.where(better, chosen.dtype.type(i), chosen)
    return best, chosen


def choose_laid(x: jax.Array, axis: int, inside: np.ndarray | None = None) -> tuple[jax.Array, jax.Array]:
    """The maximum along `axis + 1` and where it is, by torch's rule; of nothing but padding, the first.

    Comparing with the maximum is faster on CPU than an argmax. `inside`: `(out, kernel)`, all if None.
    """
    best = lax.reduce_max(x, axes=(axis + 1,))
    steps = lax.broadcasted_iota(jnp.int32, x.shape, axis + 1)
    found = x == jnp.expand_dims(best, axis + 1)
    if inside is not None and not inside.all():
        found = found & jnp.broadcast_to(inside.reshape(*inside.shape, *(1,) * (x.ndim - axis - 2)), x.shape)
    kernel = x.shape[axis + 1]
    chosen = jnp.min(jnp.where(found, steps, kernel), axis + 1)
    chosen = jnp.where(chosen == kernel, 0, chosen)
    nan = _isnan(x)
    if nan is not None:
        last = jnp.max(jnp.where(nan, steps, -1), axis + 1)
        chosen = jnp.where(last >= 0, last, chosen)
        best = jnp.where(last >= 0, best.dtype.type(np.nan), best)  # see _max_laid
    return best, chosen


def _better(a: State, b: State) -> State:
    """The larger of two values with their positions, by torch's rule. A pair is equal to itself."""
    (x, i), (y, j) = a, b
    second = (y > x) | ((y == x) & (j < i))
    x_nan, y_nan = _isnan(x), _isnan(y)
    if x_nan is not None and y_nan is not None:
        second = jnp.where(x_nan | y_nan, y_nan & (~x_nan | (j > i)), second)
    return jnp.where(second, y, x), jnp.where(second, j, i)


def _double(state: State, window: Window, combine: Callable[[State, State], State]) -> State:
    """Of padded arrays, what `combine` makes of 2, 4, 8, ... elements, and of the kernel's from two that overlap."""

    def part(start: int, stop: int, step: int = 1) -> State:
        return tuple(lax.slice_in_dim(x, start, stop, step, window.axis) for x in state)

    width = 1
    while 2 * width <= window.kernel:
        shift = width * window.dilation
        count = state[0].shape[window.axis] - shift
        state = combine(part(0, count), part(shift, shift + count))
        width *= 2
    span, rest = (window.out - 1) * window.stride + 1, (window.kernel - width) * window.dilation
    first = part(0, span, window.stride)
    return combine(first, part(rest, rest + span, window.stride)) if rest else first


def _choose_by_doubling(x: jax.Array, window: Window) -> tuple[jax.Array, jax.Array]:
    far = np.int32(2**31 - 1)  # padding loses against its equals
    position = window.pad(lax.broadcasted_iota(jnp.int32, x.shape, window.axis), far)
    best, position = _double((window.pad(x, lowest(x)), position), window, _better)
    start = jnp.broadcast_to(window.along(window.positions()[:, 0].astype(np.int32), x.ndim), position.shape)
    return best, jnp.where(position == far, 0, (position - start) // window.dilation)


def choose(x: jax.Array, window: Window | Cells) -> tuple[jax.Array, jax.Array]:
    """The maximum of each window along its dimension, and which element of the window it is."""
    if isinstance(window, Cells):
        if _small(window):
            return _running(window.taps(x), window)
        return choose_laid(window.lay(x), window.axis)
    if _small(window):
        return _running(window.taps(x, lowest(x)), window)
    if window.apart:
        return choose_laid(window.lay(x, lowest(x)), window.axis, window.inside())
    return _choose_by_doubling(x, window)


def _coordinates(chosen: jax.Array, window: Window | Cells) -> jax.Array:
    """From elements of windows to coordinates in the input."""

    def along(values: np.ndarray) -> jax.Array:
        return jnp.broadcast_to(jnp.asarray(window.along(values, chosen.ndim), int), chosen.shape)

    start, chosen = along(window.positions()[:, 0]), chosen.astype(int)
    if isinstance(window, Window):
        return start + chosen * window.dilation
    return start + jnp.minimum(chosen, along(window.counts() - 1))  # a repetition stands for the cell's last element


def select(x: jax.Array, window: Window | Cells, chosen: jax.Array) -> jax.Array:
    """The chosen elements of the windows of `x`, 0 in the padding. Linear in `x`."""
    zero = x.dtype.type(0)
    if isinstance(window, Window) and _small(window):
        # Transposes to a sum of padded slices.
        picked = [jnp.where(chosen == i, tap, zero) for i, tap in enumerate(window.taps(x, 0))]
        return functools.reduce(jnp.add, picked)
    if isinstance(window, Window) and window.apart:
        laid, axis = window.lay(x, 0), window.axis + 1
        here = lax.broadcasted_iota(jnp.int32, laid.shape, axis) == jnp.expand_dims(chosen, axis)
        return lax.reduce_sum(jnp.where(here, laid, zero), axes=(axis,))
    index = _coordinates(chosen, window)
    if isinstance(window, Window):
        x, index = window.pad(x, 0), index + window.padding
    return jnp.take_along_axis(x, index, window.axis)


def _max_value(x: jax.Array, window: Window | Cells) -> jax.Array:
    if _small(window):
        taps = window.taps(x) if isinstance(window, Cells) else window.taps(x, lowest(x))
        return functools.reduce(jnp.maximum, taps)
    if isinstance(window, Window) and not window.apart:
        return _double((window.pad(x, lowest(x)),), window, lambda a, b: (jnp.maximum(a[0], b[0]),))[0]
    return _max_laid(window.lay(x) if isinstance(window, Cells) else window.lay(x, lowest(x)), window.axis + 1)


def _max_laid(x: jax.Array, axis: int) -> jax.Array:
    best, nan = lax.reduce_max(x, axes=(axis,)), _isnan(x)
    # On CPU XLA's reductions and window reductions by maximum may lose NaNs, from 4096 elements (seen in JAX 0.10.2).
    return best if nan is None else jnp.where(jnp.any(nan, axis), best.dtype.type(np.nan), best)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def max_along(x: jax.Array, window: Window | Cells) -> jax.Array:
    """The maximum of each window along its dimension."""
    return _max_value(x, window)


@max_along.defjvp
def _max_along_jvp(
    window: Window | Cells, primals: tuple[jax.Array], tangents: tuple[jax.Array]
) -> tuple[jax.Array, jax.Array]:
    best, chosen = choose(primals[0], window)
    return best, select(tangents[0], window, chosen)


def max_of_windows(x: jax.Array, windows: Windows) -> jax.Array:
    """The maximum of each window."""
    for window in reversed(windows):
        x = max_along(x, window)
    return x


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def max_with_indices(x: jax.Array, windows: Windows) -> tuple[jax.Array, jax.Array]:
    """The maximum of each window, and its flat index in the pooled dimensions."""
    best, index, _ = _search(x, windows, None)
    return best, index


@max_with_indices.defjvp
def _max_with_indices_jvp(
    windows: Windows, primals: tuple[jax.Array], tangents: tuple[jax.Array]
) -> tuple[tuple[jax.Array, jax.Array], tuple[jax.Array, np.ndarray]]:
    best, index, tangent = _search(primals[0], windows, tangents[0])
    return (best, index), (tangent, np.zeros(index.shape, jax.dtypes.float0))


def _search(x: jax.Array, windows: Windows, tangent: Any) -> tuple[jax.Array, jax.Array, Any]:
    """The maxima, their flat indices, and what `tangent`, if there is one, has at these."""
    flat, scale = jnp.zeros((), int), 1
    for window in reversed(windows):
        x, chosen = choose(x, window)
        carried = select(flat, window, chosen) if flat.ndim else jnp.broadcast_to(flat, x.shape)
        flat = carried + _coordinates(chosen, window) * scale
        tangent = None if tangent is None else select(tangent, window, chosen)
        scale *= window.size
    return x, _of_padding_alone(flat, windows), tangent


def _of_padding_alone(flat: jax.Array, windows: Windows) -> jax.Array:
    """The index of a window that has no element (dilation steps over a small input): of its first corner, as torch."""
    alone, corner, scale = np.zeros(1, bool), np.zeros(1, int), 1
    for window in reversed(windows):
        first = window.positions()[:, 0]
        step = window.dilation if isinstance(window, Window) else 1
        corner = corner + window.along(np.where(first < 0, first % step, first), flat.ndim) * scale
        alone = alone | window.along(np.logical_not(window.inside().any(axis=1)), flat.ndim)
        scale *= window.size
    if not alone.any():
        return flat
    corner = jnp.broadcast_to(jnp.asarray(corner, flat.dtype), flat.shape)
    return jnp.where(jnp.broadcast_to(alone, flat.shape), corner, flat)

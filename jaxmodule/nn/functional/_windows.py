"""Windows along an axis: taken out of an array beside each other (`unfold_axes`), and added back (`fold_axes`).

A position `q * stride + r` is element `q` of phase `r`. With the phases as an axis of their own, neighbouring taps of a
kernel are one slice with step 1, and the transpose of each of the two functions is made of what the other is made of:
slices, pads and one concatenation. (A strided slice would transpose to a sum of arrays that are mostly zeros.)
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax


def integers(name: str, value: Any) -> tuple[int, ...]:
    """An argument that is an integer or several of them, as a tuple.

    Raises:
        TypeError: something else is in it; a bool is, as in torch.
    """
    try:
        values = tuple(value) if isinstance(value, Iterable) else (value,)
        if not any(isinstance(v, bool) for v in values):
            return tuple(map(operator.index, values))
    except TypeError:
        pass
    raise TypeError(f"{name} must be an int or a sequence of ints, but got {value!r}")


class Window(NamedTuple):
    """`number` windows over an axis of `size` elements and `padding` zeros on both sides.

    The windows begin `stride` apart; each sees `kernel` elements that are `dilation` apart.
    """

    size: int
    kernel: int
    stride: int
    padding: int
    dilation: int
    number: int

    @property
    def extent(self) -> int:
        """From the first to the last element that a window sees."""
        return self.dilation * (self.kernel - 1) + 1

    @property
    def length(self) -> int:
        """How many elements of a phase the windows reach."""
        return self.number + (self.extent - 1) // self.stride

    def blocks(self) -> list[tuple[int, int, int]]:
        """The kernel's taps as `(taps, phase, offset)`: so many, in phases that follow each other, at one offset."""
        found: list[tuple[int, int, int]] = []
        for tap in range(self.kernel):
            offset, phase = divmod(tap * self.dilation, self.stride)
            if found and found[-1][1:] == (phase - found[-1][0], offset):
                found[-1] = (found[-1][0] + 1, *found[-1][1:])
            else:
                found.append((1, phase, offset))
        return found


def unfold_axes(x: jax.Array, axis: int, windows: Sequence[Window]) -> jax.Array:
    """`(..., size_1, ..., size_n)` from `axis` on becomes `(..., kernel_1, ..., kernel_n, number_1, ..., number_n)`."""
    for i, window in enumerate(windows):
        x = _unfold(x, axis + i, axis + 2 * i, window)
    return x


def fold_axes(x: jax.Array, axis: int, windows: Sequence[Window]) -> jax.Array:
    """The sum over all windows that see an element: the transpose of `unfold_axes`."""
    for i in reversed(range(len(windows))):
        x = _fold(x, axis + i, axis + 2 * i + 1, windows[i])
    return x


def _pad(x: jax.Array, edges: dict[int, tuple[int, int]]) -> jax.Array:
    config = [(*edges.get(axis, (0, 0)), 0) for axis in range(x.ndim)]
    return lax.pad(x, jnp.zeros((), x.dtype), config) if any(map(any, config)) else x


def _unfold(x: jax.Array, taps: int, axis: int, window: Window) -> jax.Array:
    """Replace `axis` by the windows' positions, and insert an axis `taps` (which isn't behind it) of their elements."""
    covered = window.length * window.stride
    x = _pad(x, {axis: (window.padding, covered - window.size - window.padding)})
    x = x.reshape(*x.shape[:axis], window.length, window.stride, *x.shape[axis + 1 :])
    phases = jnp.moveaxis(x, axis + 1, taps)
    axis += 1
    blocks = []
    for count, phase, offset in window.blocks():
        block = lax.slice_in_dim(phases, phase, phase + count, axis=taps)
        blocks.append(lax.slice_in_dim(block, offset, offset + window.number, axis=axis))
    return lax.concatenate(blocks, taps)


def _fold(x: jax.Array, taps: int, axis: int, window: Window) -> jax.Array:
    """Undo what `_unfold` did to the axes, adding up what falls on one element."""
    blocks = window.blocks()
    # lax.split, for it transposes to one concatenation
    parts = lax.split(x, [count for count, _, _ in blocks], taps)
    placed = []
    for part, (count, phase, offset) in zip(parts, blocks, strict=True):
        behind = (window.stride - phase - count, window.length - window.number - offset)
        placed.append(_pad(part, {taps: (phase, behind[0]), axis: (offset, behind[1])}))
    total = jnp.moveaxis(functools.reduce(jnp.add, placed), taps, axis)
    axis -= 1
    covered = window.length * window.stride
    total = total.reshape(*total.shape[:axis], covered, *total.shape[axis + 2 :])
    return _pad(total, {axis: (-window.padding, window.size + window.padding - covered)})

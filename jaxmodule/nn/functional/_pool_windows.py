"""How pooling cuts a dimension into windows: the arithmetic, the checks, and what each element of a window sees."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ._common import IntOrTuple, is_floating, shape_list

# Beyond this many elements along a dimension shifted slices make the program larger than what they save.
MOST_SLICES = 16

_COUNTS = {1: "one int", 2: "two ints", 3: "three ints"}

# Where torch reads the channels' size before it looks at the rank.
_LOW_RANK_IS_AN_INDEX_ERROR = ("avg_pool2d", "lp_pool2d", "fractional_max_pool2d", "fractional_max_pool3d")


class Window(NamedTuple):
    """How one dimension is cut into windows: `kernel` elements `dilation` apart, `out` windows `stride` apart."""

    axis: int
    size: int
    kernel: int
    stride: int
    padding: int
    dilation: int
    out: int

    @property
    def reach(self) -> int:
        """From a window's first element to behind its last."""
        return (self.kernel - 1) * self.dilation + 1

    @property
    def pad_high(self) -> int:
        """The padding behind the input that the last window reaches into (ceil_mode makes it more than `padding`)."""
        return max((self.out - 1) * self.stride + self.reach - self.size - self.padding, 0)

    @property
    def apart(self) -> bool:
        """Whether no two windows overlap."""
        return self.out == 1 or self.reach <= self.stride

    def pad(self, x: jax.Array, fill: float | int | np.generic, high: int | None = None) -> jax.Array:
        """`x` with what the windows see beyond it, behind it `high`."""
        high = self.pad_high if high is None else high
        if not self.padding and not high:
            return x
        config = [(0, 0, 0)] * x.ndim
        config[self.axis] = (self.padding, high, 0)
        return lax.pad(x, jnp.asarray(fill, x.dtype), config)

    def taps(self, x: jax.Array, fill: float | int | np.generic) -> list[jax.Array]:
        """For each element of the kernel, what it sees in every window."""
        x = self.pad(x, fill)
        span = (self.out - 1) * self.stride + 1
        starts = range(0, self.kernel * self.dilation, self.dilation)
        return [lax.slice_in_dim(x, s, s + span, self.stride, self.axis) for s in starts]

    def lay(self, x: jax.Array, fill: float | int | np.generic) -> jax.Array:
        """Windows that are `apart`, each along a new dimension behind `axis`."""
        step = self.reach if self.out == 1 else self.stride
        length = self.out * step
        x = self.pad(x, fill, max(length - self.size - self.padding, 0))
        x = lax.slice_in_dim(x, 0, length, axis=self.axis)
        x = x.reshape(*x.shape[: self.axis], self.out, step, *x.shape[self.axis + 1 :])
        return lax.slice_in_dim(x, 0, self.reach, self.dilation, self.axis + 1)

    def positions(self) -> np.ndarray:
        """The coordinate in the input of each window's each element, `(out, kernel)`; outside it in the padding."""
        starts = np.arange(self.out) * self.stride - self.padding
        return starts[:, None] + np.arange(self.kernel) * self.dilation

    def inside(self) -> np.ndarray:
        """Which elements of the windows are no padding, `(out, kernel)`."""
        positions = self.positions()
        return (positions >= 0) & (positions < self.size)

    def along(self, values: np.ndarray, ndim: int) -> np.ndarray:
        """`values`, one for each window, shaped to broadcast along this dimension of an `ndim`-dimensional array."""
        return values.reshape((-1,) + (1,) * (ndim - 1 - self.axis))


class Cells(NamedTuple):
    """How one dimension is cut into `out` cells of nearly equal extent, which cover it and may overlap by one."""

    axis: int
    size: int
    out: int

    def starts(self) -> np.ndarray:
        """Each cell's first coordinate: `floor(i size / out)`."""
        return np.arange(self.out) * self.size // self.out

    def counts(self) -> np.ndarray:
        """Each cell's extent; it ends at `ceil((i + 1) size / out)`."""
        return -(-(np.arange(self.out) + 1) * self.size // self.out) - self.starts()

    @property
    def kernel(self) -> int:
        """The largest extent."""
        return int(self.counts().max())

    def positions(self) -> np.ndarray:
        """The coordinates of each cell's elements, `(out, kernel)`; the smaller cells repeat their last one."""
        steps = np.minimum(np.arange(self.kernel), self.counts()[:, None] - 1)
        return self.starts()[:, None] + steps

    def inside(self) -> np.ndarray:
        """Which elements of `positions` are no repetition."""
        return np.arange(self.kernel) < self.counts()[:, None]

    def taps(self, x: jax.Array) -> list[jax.Array]:
        """For each column of `positions`, what it sees in every cell."""
        columns = self.positions().T
        return [jnp.take(x, column, axis=self.axis, mode="clip") for column in columns]

    def lay(self, x: jax.Array) -> jax.Array:
        """Each cell along a new dimension behind `axis`."""
        x = jnp.take(x, self.positions().reshape(-1), axis=self.axis, mode="clip")
        return x.reshape(*x.shape[: self.axis], self.out, self.kernel, *x.shape[self.axis + 1 :])

    def along(self, values: np.ndarray, ndim: int) -> np.ndarray:
        """As `Window.along`."""
        return values.reshape((-1,) + (1,) * (ndim - 1 - self.axis))


def adaptive_windows(x: jax.Array, out: Sequence[int]) -> tuple[Window | Cells, ...]:
    """The last dimensions of `x` cut into `out` cells: windows where the cells are equal and apart."""
    windows: list[Window | Cells] = []
    for axis, n in zip(range(x.ndim - len(out), x.ndim), out, strict=True):
        size = x.shape[axis]
        step = size // n
        windows.append(Cells(axis, size, n) if size % n else Window(axis, size, step, step, 0, 1, n))
    return tuple(windows)


def check_rank(name: str, x: jax.Array, n: int) -> None:
    """Check that an input has channels and `n` dimensions to pool, and that none of these is empty.

    Raises:
        RuntimeError: it doesn't. (IndexError where torch has one for an input of too low a rank.)
    """
    ranks = f"{n + 1}D or {n + 2}D"
    if x.ndim not in (n + 1, n + 2):
        low = x.ndim <= n and name in _LOW_RANK_IS_AN_INDEX_ERROR
        message = f"{name}: non-empty {ranks} (batch mode) tensor expected for input, but got {shape_list(x)}"
        raise (IndexError if low else RuntimeError)(message)
    if 0 in x.shape[-n - 1 :]:
        raise RuntimeError(
            f"{name}: Expected {ranks} (batch mode) tensor with optional 0 dim batch size for input, "
            f"but got:{shape_list(x)}"
        )


def require_numbers(x: jax.Array, name: str) -> None:
    """Raise as torch does for bool and complex.

    Raises:
        NotImplementedError: `x` is neither integer nor floating-point.
    """
    if x.dtype == jnp.bool_ or jnp.iscomplexobj(x):
        raise NotImplementedError(f'"{name}" not implemented for {x.dtype.name!r}')


def require_floating(x: jax.Array, name: str) -> None:
    """Raise as torch does where there is no integer kernel.

    Raises:
        NotImplementedError: `x` is not floating-point.
    """
    if not is_floating(x):
        raise NotImplementedError(f'"{name}" not implemented for {x.dtype.name!r}: cast the input to a float dtype')


def per_dimension(name: str, argument: str, value: IntOrTuple, n: int) -> tuple[int, ...]:
    """One int for each of `n` dimensions, from one or from `n`.

    Raises:
        TypeError: these aren't ints.
        RuntimeError: there are more or fewer.
    """
    values: tuple = tuple(value) if isinstance(value, Sequence) else (value,)
    if any(isinstance(v, bool) or not hasattr(v, "__index__") for v in values):
        raise TypeError(f"{name}(): argument {argument!r} must be an int or a tuple of ints, but got {value!r}")
    if len(values) not in (1, n):
        raise RuntimeError(f"{name}: {argument} must either be a single int, or a tuple of {_COUNTS[n]}, got {values}")
    found = tuple(operator.index(v) for v in values)
    return found * n if len(found) == 1 else found


def make_windows(
    name: str,
    x: jax.Array,
    n: int,
    kernel_size: IntOrTuple,
    stride: IntOrTuple | None,
    padding: IntOrTuple = 0,
    dilation: IntOrTuple = 1,
    ceil_mode: bool = False,
) -> tuple[Window, ...]:
    """The windows of the last `n` dimensions, from torch's arguments.

    Raises:
        RuntimeError: the input's rank is another, an argument is out of range, or no window fits.
        TypeError: an argument isn't made of ints.
    """
    check_rank(name, x, n)
    kernels = per_dimension(name, "kernel_size", kernel_size, n)
    omitted = stride is None or (isinstance(stride, Sequence) and len(stride) == 0)
    strides = kernels if omitted else per_dimension(name, "stride", stride, n)  # pyright: ignore[reportArgumentType]
    pads, dilations = per_dimension(name, "padding", padding, n), per_dimension(name, "dilation", dilation, n)
    _check_parameters(name, kernels, strides, pads, dilations)
    windows = []
    for axis, size, kernel, step, pad, gap in zip(
        range(x.ndim - n, x.ndim), x.shape[-n:], kernels, strides, pads, dilations, strict=True
    ):
        room = size + 2 * pad - gap * (kernel - 1) - 1
        out = (-(-room // step) if ceil_mode else room // step) + 1
        if ceil_mode and (out - 1) * step >= size + pad:  # a window that would begin behind the input
            out -= 1
        windows.append(Window(axis, size, kernel, step, pad, gap, out))
    if min(window.out for window in windows) < 1:
        shapes = ((x.shape[-n - 1], *sizes) for sizes in (x.shape[-n:], [max(w.out, 0) for w in windows]))
        size, out = ("x".join(map(str, shape)) for shape in shapes)
        raise RuntimeError(
            f"{name}: Given input size: ({size}). Calculated output size: ({out}). Output size is too small "
            f"for kernel_size={kernels}, padding={pads}, dilation={dilations}"
        )
    if name in ("avg_pool3d", "lp_pool3d") and any(w.size < w.kernel for w in windows):
        raise RuntimeError(
            f"{name}: Given input size: {x.shape[-n:]} smaller than kernel size {kernels}, whatever the padding"
        )
    return tuple(windows)


def _check_parameters(name: str, kernels: tuple, strides: tuple, pads: tuple, dilations: tuple) -> None:
    if min(kernels) <= 0:
        raise RuntimeError(f"{name}: kernel size should be greater than zero, but got {kernels}")
    if min(strides) <= 0:
        raise RuntimeError(f"{name}: stride should not be zero or negative, but got {strides}")
    if min(dilations) <= 0:
        raise RuntimeError(f"{name}: dilation should be greater than zero, but got {dilations}")
    if min(pads) < 0:
        raise RuntimeError(f"{name}: pad must be non-negative, but got pad: {pads}")
    if any(pad > kernel // 2 for pad, kernel in zip(pads, kernels, strict=True)):
        raise RuntimeError(
            f"{name}: pad should be at most half of effective kernel size, "
            f"but got pad={pads}, kernel_size={kernels} and dilation={dilations}"
        )

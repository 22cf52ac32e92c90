"""Pooling: windows of a fixed shape, or of a fixed number.

A window is separable: pooling along the last dimension and then along the one before visits the sum of the kernel's
extents instead of their product, and picks the same element where several are equal (torch's: the first of a maximum,
the last of several NaNs).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Literal, NamedTuple, overload

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ...core.box import unbox
from ._common import ArrayLike, IntOrTuple, compiled, opmath_dtype, require_inexact, shape_list

__all__ = ["adaptive_avg_pool2d", "avg_pool2d", "max_pool2d"]

# Beyond this many elements along a dimension a sum of shifted slices compiles slower than XLA's window reduction.
_MOST_SLICES = 16


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
    def pad_high(self) -> int:
        """The padding behind the input that the last window reaches into (ceil_mode makes it more than `padding`)."""
        reach = (self.out - 1) * self.stride + (self.kernel - 1) * self.dilation + 1
        return max(reach - self.size - self.padding, 0)

    def taps(self, x: jax.Array, fill: float | int | np.generic) -> list[jax.Array]:
        """For each element of the kernel, what it sees in every window."""
        if self.padding or self.pad_high:
            config = [(0, 0, 0)] * x.ndim
            config[self.axis] = (self.padding, self.pad_high, 0)
            x = lax.pad(x, jnp.asarray(fill, x.dtype), config)
        span = (self.out - 1) * self.stride + 1
        starts = range(0, self.kernel * self.dilation, self.dilation)
        return [lax.slice_in_dim(x, s, s + span, self.stride, self.axis) for s in starts]

    def positions(self) -> np.ndarray:
        """The coordinate in the input of each window's each element, `(out, kernel)`; outside it in the padding."""
        starts = np.arange(self.out) * self.stride - self.padding
        return starts[:, None] + np.arange(self.kernel) * self.dilation

    def along(self, values: np.ndarray, ndim: int) -> np.ndarray:
        """`values`, one for each window, shaped to broadcast along this dimension of an `ndim`-dimensional array."""
        return values.reshape((-1,) + (1,) * (ndim - 1 - self.axis))


def _lowest(x: jax.Array) -> float | int | np.generic:
    return -np.inf if jnp.issubdtype(x.dtype, jnp.inexact) else jnp.iinfo(x.dtype).min


def _argmax_taps(taps: Sequence[jax.Array], window: Window) -> tuple[jax.Array, jax.Array]:
    """The running maximum over a kernel and which of its elements it is, by torch's rule for equals and NaN."""
    best = taps[0]
    chosen = jnp.zeros(best.shape, jnp.int8 if window.kernel <= 127 else jnp.int32)
    inside = (window.positions() >= 0) & (window.positions() < window.size)
    for i, tap in enumerate(taps[1:], start=1):
        better = tap > best
        if jnp.issubdtype(tap.dtype, jnp.inexact):
            better = better | jnp.isnan(tap)
        first = inside[:, i] & ~inside[:, :i].any(1)
        if first.any():  # padding never wins, not even against an input of -inf
            better = better | jnp.broadcast_to(window.along(first, tap.ndim), tap.shape)
        best = jnp.where(better, tap, best)
        chosen = jnp.where(better, chosen.dtype.type(i), chosen)
    return best, chosen


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _max_along(x: jax.Array, window: Window) -> jax.Array:
    return functools.reduce(jnp.maximum, window.taps(x, _lowest(x)))


@_max_along.defjvp
def _max_along_jvp(
    window: Window, primals: tuple[jax.Array], tangents: tuple[jax.Array]
) -> tuple[jax.Array, jax.Array]:
    # Linear in the tangent, so it transposes to a sum of padded slices: the residual is one int8 an output, where XLA's
    # select-and-scatter needs the input, has no dilation, and is slow on CPU.
    best, chosen = _argmax_taps(window.taps(*primals, _lowest(*primals)), window)
    moved = window.taps(tangents[0], 0)
    picked = [jnp.where(chosen == i, tap, jnp.zeros_like(tap)) for i, tap in enumerate(moved)]
    return best, functools.reduce(jnp.add, picked)


@compiled("windows")
def _max_pool(x: jax.Array, *, windows: tuple[Window, ...]) -> jax.Array:
    for window in reversed(windows):
        x = _max_along(x, window)
    return x


@compiled("windows")
def _max_pool_indices(x: jax.Array, *, windows: tuple[Window, ...]) -> jax.Array:
    """The flat index, in the pooled dimensions, of each window's maximum."""
    flat, scale = jnp.zeros(x.shape, int), 1
    for window in reversed(windows):
        x, chosen = _argmax_taps(window.taps(x, _lowest(x)), window)
        carried = window.taps(flat, 0)
        start = window.along(window.positions()[:, 0] * scale, x.ndim)
        index = jnp.broadcast_to(start, x.shape).astype(flat.dtype)
        for i, tap in enumerate(carried):
            index = jnp.where(chosen == i, index + tap + i * window.dilation * scale, index)
        flat, scale = index, scale * window.size
    return flat


@compiled("windows", "divisor", "count_include_pad")
def _avg_pool(x: jax.Array, *, windows: tuple[Window, ...], divisor: int | None, count_include_pad: bool) -> jax.Array:
    total = x.astype(opmath_dtype(x.dtype))
    for window in reversed(windows):
        total = _sum_along(total, window)
    if divisor is not None:
        counts = np.array(divisor)
    else:
        counts = functools.reduce(np.multiply, [w.along(_count(w, count_include_pad), x.ndim) for w in windows])
    count = jnp.broadcast_to(jnp.asarray(counts, total.dtype), total.shape)
    # lax.div truncates integers towards zero, as C++ does in torch.
    return lax.div(total, count).astype(x.dtype)


def _sum_along(x: jax.Array, window: Window) -> jax.Array:
    if window.kernel <= _MOST_SLICES:
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


@overload
def max_pool2d(
    input: ArrayLike,
    kernel_size: IntOrTuple,
    stride: IntOrTuple | None = None,
    padding: IntOrTuple = 0,
    dilation: IntOrTuple = 1,
    ceil_mode: bool = False,
    return_indices: Literal[False] = False,
) -> jax.Array: ...
@overload
def max_pool2d(
    input: ArrayLike,
    kernel_size: IntOrTuple,
    stride: IntOrTuple | None = None,
    padding: IntOrTuple = 0,
    dilation: IntOrTuple = 1,
    ceil_mode: bool = False,
    *,
    return_indices: Literal[True],
) -> tuple[jax.Array, jax.Array]: ...
@overload
def max_pool2d(
    input: ArrayLike,
    kernel_size: IntOrTuple,
    stride: IntOrTuple | None = None,
    padding: IntOrTuple = 0,
    dilation: IntOrTuple = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> jax.Array | tuple[jax.Array, jax.Array]: ...
def max_pool2d(
    input: ArrayLike,
    kernel_size: IntOrTuple,
    stride: IntOrTuple | None = None,
    padding: IntOrTuple = 0,
    dilation: IntOrTuple = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> jax.Array | tuple[jax.Array, jax.Array]:
    """The largest element of each window of an image.

    Args:
        input: the images.
        kernel_size: the window's extent, one number or `(vertical, horizontal)`, as the three below.
        stride: the step between windows; None is `kernel_size`.
        padding: how far windows reach over the border, at most half of the kernel. Padding is never the maximum.
        dilation: the step between a window's elements.
        ceil_mode: round the number of windows up, so that the last one may reach further over the border.
        return_indices: return the maxima's flat indices in `H * W` as well.

    Shape:
        - Input: `(N, C, H, W)` or `(C, H, W)`.
        - Output: `(N, C, H_out, W_out)` or `(C, H_out, W_out)`, where
          `H_out = (H + 2 padding - dilation (kernel_size - 1) - 1) / stride + 1`, rounded down (or up).

    Raises:
        RuntimeError: the input has another rank, a parameter is out of range or no window fits.

    Note:
        The indices have JAX's default integer dtype: int32, or int64 with `jax_enable_x64`.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn import functional as F
        >>> F.max_pool2d(jnp.arange(16.0).reshape(1, 1, 4, 4), 2)[0, 0].tolist()
        [[5.0, 7.0], [13.0, 15.0]]
    """
    x = unbox(input)
    if x.dtype == jnp.bool_:
        require_inexact(x, "max_pool2d")
    _check_images("max_pool2d", x)
    windows = _windows("max_pool2d", x, kernel_size, stride, padding, dilation, ceil_mode)
    y = _max_pool(x, windows=windows)
    return (y, _max_pool_indices(lax.stop_gradient(x), windows=windows)) if return_indices else y


def avg_pool2d(
    input: ArrayLike,
    kernel_size: IntOrTuple,
    stride: IntOrTuple | None = None,
    padding: IntOrTuple = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> jax.Array:
    """The mean of each window of an image.

    Args:
        input: the images.
        kernel_size: the window's extent, one number or `(vertical, horizontal)`, as the two below.
        stride: the step between windows; None is `kernel_size`.
        padding: zeros added to both sides, at most half of the kernel.
        ceil_mode: round the number of windows up, so that the last one may reach further over the border.
        count_include_pad: whether the padding's zeros count as elements of the mean.
        divisor_override: divide every window's sum by this instead.

    Shape:
        - Input: `(N, C, H, W)` or `(C, H, W)`.
        - Output: `(N, C, H_out, W_out)` or `(C, H_out, W_out)`, where
          `H_out = (H + 2 padding - kernel_size) / stride + 1`, rounded down (or up).

    Raises:
        RuntimeError: the input has another rank, a parameter is out of range or no window fits.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn import functional as F
        >>> F.avg_pool2d(jnp.arange(16.0).reshape(1, 1, 4, 4), 2)[0, 0].tolist()
        [[2.5, 4.5], [10.5, 12.5]]
    """
    x = unbox(input)
    _check_images("avg_pool2d", x)
    if divisor_override == 0:
        raise RuntimeError("divisor must be not zero, but got divisor_override=0")
    windows = _windows("avg_pool2d", x, kernel_size, stride, padding, 1, ceil_mode)
    return _avg_pool(x, windows=windows, divisor=divisor_override, count_include_pad=bool(count_include_pad))


def adaptive_avg_pool2d(input: ArrayLike, output_size: int | Sequence[int | None] | None) -> jax.Array:
    """Cut an image into a grid of `output_size` cells, which overlap where it doesn't divide, and take their means.

    Args:
        input: the images.
        output_size: `(H_out, W_out)`, or one number for both; None keeps that dimension's size.

    Shape:
        - Input: `(N, C, H, W)` or `(C, H, W)`.
        - Output: `(N, C, H_out, W_out)` or `(C, H_out, W_out)`, where cell `i` of `n` is
          `floor(i H / n) : ceil((i + 1) H / n)`.

    Raises:
        RuntimeError: the input has another rank or an empty dimension, or `output_size` isn't two sizes.
        NotImplementedError: the input is not floating-point.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn import functional as F
        >>> F.adaptive_avg_pool2d(jnp.arange(6.0).reshape(1, 1, 2, 3), (1, 2))[0, 0].tolist()
        [[2.0, 3.0]]
    """
    x = unbox(input)
    if x.ndim not in (3, 4):
        raise RuntimeError(f"adaptive_avg_pool2d(): Expected 3D or 4D tensor, but got {shape_list(x)}")
    if 0 in x.shape[-3:]:
        raise RuntimeError(
            "adaptive_avg_pool2d(): Expected input to have non-zero size for non-batch dimensions, "
            f"but input has sizes {shape_list(x)}"
        )
    require_inexact(x, "adaptive_avg_pool2d")
    sizes = (output_size, output_size) if output_size is None or isinstance(output_size, int) else tuple(output_size)
    if len(sizes) != 2:
        raise RuntimeError(f"adaptive_avg_pool2d: output_size must be 2 sizes, but got {sizes}")
    out = tuple(n if size is None else size for n, size in zip(x.shape[-2:], sizes, strict=True))
    if min(out) < 0:
        raise RuntimeError(
            f"adaptive_avg_pool2d: elements of output_size must be greater than or equal to 0 but received {out}"
        )
    return _adaptive_avg_pool(x, out=out)


@compiled("out")
def _adaptive_avg_pool(x: jax.Array, *, out: tuple[int, ...]) -> jax.Array:
    y = x.astype(opmath_dtype(x.dtype))
    for axis, n in zip(range(x.ndim - len(out), x.ndim), out, strict=True):
        size = y.shape[axis]
        if n == 0:
            y = lax.slice_in_dim(y, 0, 0, axis=axis)
        elif size % n == 0:
            y = jnp.mean(y.reshape(*y.shape[:axis], n, size // n, *y.shape[axis + 1 :]), axis + 1)
        else:
            # Cells of different extents: one small matrix of weights, in full precision on every platform.
            cells = jnp.asarray(_cell_weights(size, n), y.dtype)
            y = jnp.moveaxis(jnp.tensordot(y, cells, ((axis,), (1,)), precision="highest"), -1, axis)
    return y.astype(x.dtype)


def _cell_weights(size: int, n: int) -> np.ndarray:
    weights = np.zeros((n, size))
    for i in range(n):
        start, stop = i * size // n, -(-(i + 1) * size // n)
        weights[i, start:stop] = 1.0 / (stop - start)
    return weights


def _check_images(name: str, x: jax.Array) -> None:
    if x.ndim not in (3, 4):
        raise RuntimeError(
            f"{name}: non-empty 3D or 4D (batch mode) tensor expected for input, but got {shape_list(x)}"
        )
    if 0 in x.shape[-3:]:
        raise RuntimeError(
            f"{name}: Expected 3D or 4D (batch mode) tensor with optional 0 dim batch size for input, "
            f"but got:{shape_list(x)}"
        )


def _pair(name: str, argument: str, value: IntOrTuple) -> tuple[int, int]:
    values = (value,) if isinstance(value, int) else tuple(value)
    if len(values) not in (1, 2):
        raise RuntimeError(f"{name}: {argument} must either be a single int, or a tuple of two ints, but got {values}")
    return values[0], values[-1]


def _windows(
    name: str,
    x: jax.Array,
    kernel_size: IntOrTuple,
    stride: IntOrTuple | None,
    padding: IntOrTuple,
    dilation: IntOrTuple,
    ceil_mode: bool,
) -> tuple[Window, ...]:
    kernels = _pair(name, "kernel_size", kernel_size)
    strides = kernels if stride is None or stride == () else _pair(name, "stride", stride)
    pads, dilations = _pair(name, "padding", padding), _pair(name, "dilation", dilation)
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
    windows = []
    for axis in range(2):
        size, kernel, step, pad = x.shape[x.ndim - 2 + axis], kernels[axis], strides[axis], pads[axis]
        room = size + 2 * pad - dilations[axis] * (kernel - 1) - 1
        out = (-(-room // step) if ceil_mode else room // step) + 1
        if ceil_mode and (out - 1) * step >= size + pad:  # a window that would begin behind the input
            out -= 1
        windows.append(Window(x.ndim - 2 + axis, size, kernel, step, pad, dilations[axis], out))
    if min(window.out for window in windows) < 1:
        channels = x.shape[-3]
        size, out = (f"{channels}x{a}x{b}" for a, b in (x.shape[-2:], [max(w.out, 0) for w in windows]))
        raise RuntimeError(
            f"{name}: Given input size: ({size}). Calculated output size: ({out}). Output size is too small "
            f"for kernel_size={kernels}, padding={pads}, dilation={dilations}"
        )
    return tuple(windows)

"""Sliding blocks of images as columns, and columns added up to images."""

from __future__ import annotations

from collections.abc import Iterable

import jax
import jax.numpy as jnp

from ...core.box import unbox
from ._common import ArrayLike, IntOrTuple, compiled, require_inexact, shape_list
from ._windows import Window, fold_axes, integers, unfold_axes

__all__ = ["fold", "unfold"]

Windows = tuple[Window, Window]


@compiled("windows")
def _unfold(x: jax.Array, *, windows: Windows) -> jax.Array:
    rows = x.shape[-3] * windows[0].kernel * windows[1].kernel
    columns = unfold_axes(x, x.ndim - 2, windows)
    return columns.reshape(*x.shape[:-3], rows, windows[0].number * windows[1].number)


@compiled("windows")
def _fold(x: jax.Array, *, windows: Windows) -> jax.Array:
    kernel, number = [w.kernel for w in windows], [w.number for w in windows]
    channels = x.shape[-2] // (kernel[0] * kernel[1])
    columns = x.reshape(*x.shape[:-2], channels, *kernel, *number)
    return fold_axes(columns, columns.ndim - 4, windows)


def unfold(
    input: ArrayLike,
    kernel_size: IntOrTuple,
    dilation: IntOrTuple = 1,
    padding: IntOrTuple = 0,
    stride: IntOrTuple = 1,
) -> jax.Array:
    """Take the sliding blocks of images as columns (im2col).

    Args:
        input: the images.
        kernel_size: a block's extent, one number or `(vertical, horizontal)`, as the three below.
        dilation: the step between a block's elements.
        padding: zeros added to both sides.
        stride: the step between blocks.

    Shape:
        - Input: `(N, C, H, W)` or `(C, H, W)`.
        - Output: `(N, C * K_H * K_W, L)` or `(C * K_H * K_W, L)`, where `L = L_H * L_W` and
          `L_H = (H + 2 padding - dilation (K_H - 1) - 1) // stride + 1`.

    Raises:
        RuntimeError: the input has another rank or an empty dimension, an argument is out of range or no block fits.
        IndexError: the input has fewer dimensions.
        NotImplementedError: the input holds integers.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn import functional as F
        >>> F.unfold(jnp.arange(6.0).reshape(1, 1, 2, 3), 2)[0].tolist()
        [[0.0, 1.0], [1.0, 2.0], [3.0, 4.0], [4.0, 5.0]]
    """
    x = unbox(input)
    _check_dtype(x, "im2col")
    kernels, dilations, pads, strides = _arguments(kernel_size, dilation, padding, stride)
    if x.ndim not in (3, 4) or 0 in x.shape[-3:]:
        kind = IndexError if x.ndim < 3 else RuntimeError  # torch's types
        raise kind(
            "Expected 3D or 4D (batch mode) tensor with possibly 0 batch size and other non-zero dimensions "
            f"for input, but got: {shape_list(x)}"
        )
    windows = _windows(x.shape[-2:], kernels, strides, pads, dilations)
    if min(window.number for window in windows) < 1:
        raise RuntimeError(
            f"Given input with spatial size {tuple(x.shape[-2:])}, kernel_size={kernels}, dilation={dilations}, "
            f"padding={pads}, calculated shape of the array of sliding blocks as "
            f"{tuple(window.number for window in windows)}, but its components must be at least one."
        )
    return _unfold(x, windows=windows)


def fold(
    input: ArrayLike,
    output_size: IntOrTuple,
    kernel_size: IntOrTuple,
    dilation: IntOrTuple = 1,
    padding: IntOrTuple = 0,
    stride: IntOrTuple = 1,
) -> jax.Array:
    """Add columns up to the images whose sliding blocks they are (col2im): the transpose of `unfold`.

    Args:
        input: the columns.
        output_size: the images' size, one number or `(H, W)`.
        kernel_size: a block's extent, one number or `(vertical, horizontal)`, as the three below.
        dilation: the step between a block's elements.
        padding: how far blocks reach over the border; what falls there is dropped.
        stride: the step between blocks.

    Shape:
        - Input: `(N, C * K_H * K_W, L)` or `(C * K_H * K_W, L)`, with `unfold`'s `L` for `output_size`.
        - Output: `(N, C, H, W)` or `(C, H, W)`.

    Raises:
        RuntimeError: the input's rank or sizes don't fit, or an argument is out of range.
        NotImplementedError: the input holds integers.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn import functional as F
        >>> F.fold(jnp.ones((1, 4, 2)), (2, 3), 2)[0, 0].tolist()
        [[1.0, 2.0, 1.0], [1.0, 2.0, 1.0]]
    """
    x = unbox(input)
    _check_dtype(x, "col2im")
    size = _pair("output_size", output_size)
    kernels, dilations, pads, strides = _arguments(kernel_size, dilation, padding, stride)
    if x.ndim not in (2, 3) or 0 in x.shape[-2:]:
        raise RuntimeError(
            "Expected 2D or 3D (batch mode) tensor for input with possibly 0 batch size and non-zero dimensions "
            f"for input, but got: {shape_list(x)}"
        )
    if x.shape[-2] % (kernels[0] * kernels[1]):
        raise RuntimeError(
            "Expected size of input's dimension 1 to be divisible by the product of kernel_size, "
            f"but got input.size(1)={x.shape[-2]} and kernel_size={kernels} (input {shape_list(x)})"
        )
    windows = _windows(size, kernels, strides, pads, dilations)
    high, wide = (window.number for window in windows)
    if min(high, wide) < 1 or x.shape[-1] != high * wide:
        raise RuntimeError(
            f"Given output_size={size}, kernel_size={kernels}, dilation={dilations}, padding={pads}, "
            f"stride={strides}, expected size of input's dimension 2 to match the calculated number of sliding blocks "
            f"{high} * {wide} = {high * wide}, but got input.size(2)={x.shape[-1]} (input {shape_list(x)})"
        )
    return _fold(x, windows=windows)


def _check_dtype(x: jax.Array, name: str) -> None:
    if x.dtype != jnp.bool_:
        require_inexact(x, name)


def _pair(name: str, value: IntOrTuple) -> tuple[int, int]:
    values = integers(name, value) * (1 if isinstance(value, Iterable) else 2)
    if len(values) != 2:
        raise RuntimeError(f"It is expected {name} equals to 2, but got size {len(values)}")
    return values[0], values[1]


def _arguments(
    kernel_size: IntOrTuple, dilation: IntOrTuple, padding: IntOrTuple, stride: IntOrTuple
) -> tuple[tuple[int, int], ...]:
    kernels, dilations = _pair("kernel_size", kernel_size), _pair("dilation", dilation)
    pads, strides = _pair("padding", padding), _pair("stride", stride)
    for name, values in (("kernel size", kernels), ("stride", strides), ("dilation", dilations)):
        if min(values) <= 0:
            raise RuntimeError(f"{name} should be greater than zero, but got {values}")
    if min(pads) < 0:
        raise RuntimeError(f"padding should be non-negative, but got {pads}")
    return kernels, dilations, pads, strides


def _windows(
    size: tuple[int, ...],
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
) -> Windows:
    made = []
    for n, k, s, p, d in zip(size, kernel, stride, padding, dilation, strict=True):
        made.append(Window(n, k, s, p, d, (n + 2 * p - d * (k - 1) - 1) // s + 1))
    return made[0], made[1]

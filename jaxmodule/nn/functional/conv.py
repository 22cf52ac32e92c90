"""Convolutions of one, two and three dimensions in one implementation, with torch's layouts and padding arithmetic."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from ...core.box import unbox
from ._autocast import autocasts
from ._common import ArrayLike, IntOrTuple, compiled, shape_list
from ._conv import (
    Ints,
    Pads,
    check_dtypes,
    check_not_empty,
    check_ranks,
    check_steps,
    check_weight,
    convolve,
    per_dimension,
    same_pads,
)
from ._windows import integers

__all__ = ["conv1d", "conv2d", "conv3d", "conv_tbc"]


@autocasts
def conv1d(
    input: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    stride: IntOrTuple = 1,
    padding: str | IntOrTuple = 0,
    dilation: IntOrTuple = 1,
    groups: int = 1,
) -> jax.Array:
    """Cross-correlate a signal with kernels: `y[o, i] = b[o] + sum_ck w[o, c, k] x[c, i * stride + k * dilation]`.

    Args:
        input: the signal.
        weight: the kernels.
        bias: one value an output channel, or None.
        stride: the step between windows.
        padding: zeros added to both ends; "valid" is 0, "same" keeps the length (stride 1 only).
        dilation: the step between the elements of a kernel.
        groups: into how many independent groups the channels are split.

    Shape:
        - Input: `(N, C_in, L)` or `(C_in, L)`.
        - Weight: `(C_out, C_in / groups, K)`; bias: `(C_out)`.
        - Output: `(N, C_out, L_out)` or `(C_out, L_out)`, where
          `L_out = (L + 2 padding - dilation (K - 1) - 1) // stride + 1`.

    Raises:
        RuntimeError: ranks, channel counts, groups or dtypes don't fit, or the kernel is larger than the padded input.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn import functional as F
        >>> F.conv1d(jnp.ones((2, 3, 8)), jnp.ones((4, 3, 3)), padding="same").shape
        (2, 4, 8)
    """
    return _conv_nd(1, input, weight, bias, stride, padding, dilation, groups)


@autocasts
def conv2d(
    input: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    stride: IntOrTuple = 1,
    padding: str | IntOrTuple = 0,
    dilation: IntOrTuple = 1,
    groups: int = 1,
) -> jax.Array:
    """Cross-correlate images with `weight`: `conv1d` over two spatial dimensions.

    Args:
        input: the images.
        weight: the kernels.
        bias: one value an output channel, or None.
        stride: the step between windows: one number or `(vertical, horizontal)`, as the two below.
        padding: zeros added to both sides; "valid" is 0, "same" keeps the size (stride 1 only).
        dilation: the step between the elements of a kernel.
        groups: into how many independent groups the channels are split.

    Shape:
        - Input: `(N, C_in, H, W)` or `(C_in, H, W)`.
        - Weight: `(C_out, C_in / groups, K_H, K_W)`; bias: `(C_out)`.
        - Output: `(N, C_out, H_out, W_out)` or `(C_out, H_out, W_out)`.

    Raises:
        RuntimeError: ranks, channel counts, groups or dtypes don't fit, or the kernel is larger than the padded input.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn import functional as F
        >>> F.conv2d(jnp.ones((2, 4, 8, 8)), jnp.ones((6, 2, 3, 3)), stride=2, padding=1, groups=2).shape
        (2, 6, 4, 4)
    """
    return _conv_nd(2, input, weight, bias, stride, padding, dilation, groups)


@autocasts
def conv3d(
    input: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    stride: IntOrTuple = 1,
    padding: str | IntOrTuple = 0,
    dilation: IntOrTuple = 1,
    groups: int = 1,
) -> jax.Array:
    """Cross-correlate volumes with `weight`: `conv1d` over three spatial dimensions.

    Args:
        input: the volumes.
        weight: the kernels.
        bias: one value an output channel, or None.
        stride: the step between windows: one number or one a dimension, as the two below.
        padding: zeros added to both sides; "valid" is 0, "same" keeps the size (stride 1 only).
        dilation: the step between the elements of a kernel.
        groups: into how many independent groups the channels are split.

    Shape:
        - Input: `(N, C_in, D, H, W)` or `(C_in, D, H, W)`.
        - Weight: `(C_out, C_in / groups, K_D, K_H, K_W)`; bias: `(C_out)`.
        - Output: `(N, C_out, D_out, H_out, W_out)` or `(C_out, D_out, H_out, W_out)`.

    Raises:
        RuntimeError: ranks, channel counts, groups or dtypes don't fit, or the kernel is larger than the padded input.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn import functional as F
        >>> F.conv3d(jnp.ones((1, 2, 4, 4, 4)), jnp.ones((3, 2, 3, 3, 3))).shape
        (1, 3, 2, 2, 2)
    """
    return _conv_nd(3, input, weight, bias, stride, padding, dilation, groups)


def _conv_nd(
    n: int,
    input: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None,
    stride: IntOrTuple,
    padding: str | IntOrTuple,
    dilation: IntOrTuple,
    groups: int,
) -> jax.Array:
    x, w, b = unbox(input), unbox(weight), unbox(bias)
    check_ranks(f"conv{n}d", n, x, w)
    strides, dilations = per_dimension("stride", stride, n), per_dimension("dilation", dilation, n)
    check_steps(strides, dilations)
    pads = _resolve_padding(padding, strides, w.shape[2:], dilations)
    check_weight(x, w, b, groups, transposed=False)
    check_dtypes(x, w, f"conv{n}d")
    if b is not None and x.dtype != b.dtype:
        raise RuntimeError(f"Input type ({x.dtype.name}) and bias type ({b.dtype.name}) should be the same")
    _check_window(x, w, pads, dilations)
    check_not_empty(x, n)
    return convolve(x, w, b, stride=strides, pads=pads, dilation=dilations, groups=groups)


def _resolve_padding(padding: str | IntOrTuple, stride: Ints, kernel: Ints, dilation: Ints) -> Pads:
    n = len(stride)
    if not isinstance(padding, str):
        sizes = per_dimension("padding", padding, n)
        if min(sizes) < 0:
            raise RuntimeError(f"negative padding is not supported, but got {list(sizes)}")
        return tuple((size, size) for size in sizes)
    if padding == "valid":
        return ((0, 0),) * n
    if padding != "same":
        raise RuntimeError(f"Invalid padding string: {padding!r}, which is one of 'same' and 'valid'")
    if max(stride) > 1:
        raise RuntimeError(f"padding='same' is not supported for strided convolutions, but got stride={list(stride)}")
    return same_pads(kernel, dilation)


def _check_window(x: jax.Array, w: jax.Array, pads: Pads, dilation: Ints) -> None:
    padded = [size + sum(pad) for size, pad in zip(x.shape[x.ndim - len(pads) :], pads, strict=True)]
    extent = [d * (k - 1) + 1 for k, d in zip(w.shape[2:], dilation, strict=True)]
    if any(k > size for k, size in zip(extent, padded, strict=True)):
        raise RuntimeError(
            f"Calculated padded input size per channel: ({' x '.join(map(str, padded))}). "
            f"Kernel size: ({' x '.join(map(str, extent))}). Kernel size can't be greater than actual input size "
            f"(input {shape_list(x)}, weight {shape_list(w)})"
        )


@compiled("pad")
def _conv_tbc(x: jax.Array, weight: jax.Array, bias: jax.Array, *, pad: int) -> jax.Array:
    x = lax.pad(x, jnp.zeros((), x.dtype), ((pad, pad, 0), (0, 0, 0), (0, 0, 0)))
    bias = bias.astype(x.dtype)
    if 0 in (*weight.shape, *x.shape):  # XLA has no convolution with a kernel of nothing
        shape = (x.shape[0] - weight.shape[0] + 1, x.shape[1], weight.shape[2])
        return jnp.broadcast_to(bias.reshape(1, 1, -1), shape)
    y = lax.conv_general_dilated(x, weight, (1,), ((0, 0),), dimension_numbers=("WNC", "WIO", "WNC"))
    return y + bias.reshape(1, 1, -1)


@autocasts
def conv_tbc(input: ArrayLike, weight: ArrayLike, bias: ArrayLike, pad: int = 0) -> jax.Array:
    """Cross-correlate sequences whose time comes first: `y[t, n, o] = b[o] + sum_kc w[k, c, o] x[t + k - pad, n, c]`.

    Args:
        input: the sequences.
        weight: the kernels.
        bias: one value an output channel.
        pad: how many steps of zeros are added to both ends; a negative number takes steps away.

    Shape:
        - Input: `(T, N, C_in)`.
        - Weight: `(K, C_in, C_out)`; bias: `(C_out)`.
        - Output: `(T + 2 pad - K + 1, N, C_out)`.

    Raises:
        RuntimeError: ranks, channel counts or dtypes don't fit, or the kernel is larger than the padded input.
        TypeError: `bias` is None, or `pad` no int.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn import functional as F
        >>> F.conv_tbc(jnp.ones((5, 2, 3)), jnp.ones((2, 3, 4)), jnp.zeros(4), pad=1).shape
        (6, 2, 4)
    """
    if bias is None:
        raise TypeError("conv_tbc(): argument 'bias' must be an array, not None")
    x, w, b = unbox(input), unbox(weight), unbox(bias)
    steps = integers("conv_tbc(): argument 'pad'", (pad,))[0]
    shapes = f"input {shape_list(x)}, weight {shape_list(w)}, bias {shape_list(b)}"
    if x.ndim != 3:
        raise RuntimeError(f"Input must have 3 dims: time, batch, in_channel, but got {shapes}")
    if w.ndim != 3:
        raise RuntimeError(f"Weight tensor must have 3 dims: kernel_width, in_channels, out_channels, but got {shapes}")
    if b.ndim != 1:
        raise RuntimeError(f"Bias must be 1-D, but got {shapes}")
    if x.shape[2] != w.shape[1]:
        raise RuntimeError(f"Input dim 2 (input channels) is not == dim 1 in the weight tensor: {shapes}")
    if b.shape[0] != w.shape[2]:
        raise RuntimeError(f"Bias size must equal dim 2 in the weight tensor (output channels): {shapes}")
    check_dtypes(x, w, "conv_tbc")
    if x.shape[0] + 2 * min(steps, 0) < 0 or x.shape[0] + 2 * steps - w.shape[0] + 1 < 0:
        raise RuntimeError(
            f"Trying to create tensor with negative dimension: the kernel is larger than the input with pad={steps}: "
            f"{shapes}"
        )
    return _conv_tbc(x, w, b, pad=steps)

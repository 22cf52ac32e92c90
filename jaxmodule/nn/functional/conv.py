"""Convolutions of one, two and three dimensions in one implementation, with torch's layouts and padding arithmetic.

The lowering is XLA's own convolution everywhere. A 1x1 kernel as an einsum on CPU was tried: it was faster
forwards, and slower forwards and backwards together.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from ...core.box import unbox
from ._common import ArrayLike, IntOrTuple, compiled, shape_list

__all__ = ["conv1d", "conv2d", "conv3d"]

Pads = tuple[tuple[int, int], ...]

_SPATIAL = {1: "W", 2: "HW", 3: "DHW"}
_PAD_MODES = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}


@compiled("stride", "pads", "dilation", "groups")
def _conv(
    x: jax.Array,
    weight: jax.Array,
    bias: jax.Array | None,
    *,
    stride: tuple[int, ...],
    pads: Pads,
    dilation: tuple[int, ...],
    groups: int,
) -> jax.Array:
    n = len(stride)
    batched = x if x.ndim == n + 2 else x[None]
    layout = _SPATIAL[n]
    y = lax.conv_general_dilated(
        batched,
        weight,
        stride,
        pads,
        rhs_dilation=dilation,
        dimension_numbers=("NC" + layout, "OI" + layout, "NC" + layout),
        feature_group_count=groups,
    )
    if bias is not None:
        y = y + bias.reshape((1, -1) + (1,) * n)
    return y if x.ndim == n + 2 else y[0]


@compiled("pads", "mode")
def _pad(x: jax.Array, *, pads: Pads, mode: str) -> jax.Array:
    return jnp.pad(x, ((0, 0),) * (x.ndim - len(pads)) + pads, mode=mode)


def pad_spatial(input: ArrayLike, pads: Pads, mode: str) -> jax.Array:
    """Pad the last `len(pads)` dimensions by `(low, high)` with values of the input itself.

    Args:
        input: the array to pad.
        pads: a pair for each padded dimension, in the order of the dimensions.
        mode: "reflect" (mirror without the border), "replicate" (the border) or "circular" (the other end).

    Raises:
        RuntimeError: the padding takes more values than the input has.
    """
    x = unbox(input)
    for size, pad in zip(x.shape[x.ndim - len(pads) :], pads, strict=True):
        if mode == "reflect" and max(pad) >= size and max(pad) > 0:
            raise RuntimeError(
                "Padding size should be less than the corresponding input dimension, "
                f"but got: padding {pad} of a dimension of size {size} of input {shape_list(x)}"
            )
        if mode == "circular" and max(pad) > size:
            raise RuntimeError(
                "Padding value causes wrapping around more than once: "
                f"padding {pad} of a dimension of size {size} of input {shape_list(x)}"
            )
    return _pad(x, pads=pads, mode=_PAD_MODES[mode])


def same_pads(kernel_size: Sequence[int], dilation: Sequence[int]) -> Pads:
    """The padding of `padding="same"`: where the total is odd, the larger half comes after, as in torch."""
    totals = [d * (k - 1) for k, d in zip(kernel_size, dilation, strict=True)]
    return tuple((total // 2, total - total // 2) for total in totals)


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
    if x.ndim not in (n + 1, n + 2):
        raise RuntimeError(
            f"Expected {n + 1}D (unbatched) or {n + 2}D (batched) input to conv{n}d, "
            f"but got input of size: {shape_list(x)} with weight of size: {shape_list(w)}"
        )
    if w.ndim != n + 2:
        raise RuntimeError(
            f"expected a {n + 2}D weight to match the convolution dimensions of conv{n}d, "
            f"but got weight of size {shape_list(w)} for input of size {shape_list(x)}"
        )
    strides = _per_dimension("stride", stride, n)
    dilations = _per_dimension("dilation", dilation, n)
    if min(strides) <= 0:
        raise RuntimeError(f"non-positive stride is not supported, but got {list(strides)}")
    if min(dilations) <= 0:
        raise RuntimeError(f"dilation should be greater than zero, but got {list(dilations)}")
    pads = _resolve_padding(padding, strides, w.shape[2:], dilations)
    _check_channels(x.shape[-n - 1], x, w, b, groups)
    _check_window(x, w, pads, dilations)
    return _conv(x, w, b, stride=strides, pads=pads, dilation=dilations, groups=groups)


def _per_dimension(name: str, value: IntOrTuple, n: int) -> tuple[int, ...]:
    values = (value,) * n if isinstance(value, int) else tuple(value)
    if len(values) == 1:
        values = values * n
    if len(values) != n:
        raise RuntimeError(
            f"expected {name} to be a single integer value or a list of {n} values "
            f"to match the convolution dimensions, but got {name}={list(values)}"
        )
    return values


def _resolve_padding(
    padding: str | IntOrTuple, stride: tuple[int, ...], kernel: tuple[int, ...], dilation: tuple[int, ...]
) -> Pads:
    n = len(stride)
    if not isinstance(padding, str):
        sizes = _per_dimension("padding", padding, n)
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


def _check_channels(channels: int, x: jax.Array, w: jax.Array, b: jax.Array | None, groups: int) -> None:
    if groups <= 0:
        raise RuntimeError(f"non-positive groups is not supported, but got {groups}")
    if w.shape[0] % groups:
        raise RuntimeError(
            f"Given groups={groups}, expected weight to be divisible by {groups} at dimension 0, "
            f"but got weight of size {shape_list(w)} instead"
        )
    if channels != w.shape[1] * groups:
        raise RuntimeError(
            f"Given groups={groups}, weight of size {shape_list(w)}, expected input{shape_list(x)} "
            f"to have {w.shape[1] * groups} channels, but got {channels} channels instead"
        )
    if x.dtype != w.dtype:
        raise RuntimeError(f"Input type ({x.dtype.name}) and weight type ({w.dtype.name}) should be the same")
    if b is None:
        return
    if b.shape != (w.shape[0],):
        raise RuntimeError(
            f"Given weight of size {shape_list(w)}, expected bias to be 1-dimensional with {w.shape[0]} elements, "
            f"but got bias of size {shape_list(b)} instead"
        )
    if x.dtype != b.dtype:
        raise RuntimeError(f"Input type ({x.dtype.name}) and bias type ({b.dtype.name}) should be the same")


def _check_window(x: jax.Array, w: jax.Array, pads: Pads, dilation: tuple[int, ...]) -> None:
    padded = [size + sum(pad) for size, pad in zip(x.shape[x.ndim - len(pads) :], pads, strict=True)]
    extent = [d * (k - 1) + 1 for k, d in zip(w.shape[2:], dilation, strict=True)]
    if any(k > size for k, size in zip(extent, padded, strict=True)):
        raise RuntimeError(
            f"Calculated padded input size per channel: ({' x '.join(map(str, padded))}). "
            f"Kernel size: ({' x '.join(map(str, extent))}). Kernel size can't be greater than actual input size "
            f"(input {shape_list(x)}, weight {shape_list(w)})"
        )

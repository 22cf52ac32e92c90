"""Convolution layers and their transposes; what they do is in `_conv.py`, once."""

from __future__ import annotations

from .. import functional as F
from ._conv import _ConvForwardNd, _ConvTransposeForwardNd
from ._conv import _ConvNd as _ConvNd  # code for torch looks for them here
from ._conv import _ConvTransposeNd as _ConvTransposeMixin  # noqa: F401  (deprecated in torch)
from ._conv import _ConvTransposeNd as _ConvTransposeNd
from ._lazy_bases import _LazyConvForward, _LazyConvTranspose
from ._lazy_bases import _LazyConvXdMixin as _LazyConvXdMixin

__all__ = [
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "ConvTranspose3d",
    "LazyConv1d",
    "LazyConv2d",
    "LazyConv3d",
    "LazyConvTranspose1d",
    "LazyConvTranspose2d",
    "LazyConvTranspose3d",
]


class Conv1d(_ConvForwardNd):
    """Cross-correlation of a signal with learned kernels: `y[o, i] = b[o] + sum_ck w[o, c, k] x[c, i s + k d]`.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: the kernels' extent.
        stride: the step `s` between windows.
        padding: how much is added to both ends; "valid" is 0, "same" keeps the length (stride 1 only).
        dilation: the step `d` between the elements of a kernel.
        groups: into how many independent groups the channels are split.
        bias: whether to add `b`.
        padding_mode: what is added: "zeros", "reflect", "replicate" or "circular".
        device: where the parameters live, a device or a sharding.
        dtype: the parameters' dtype, float32 by default.

    Shape:
        - Input: `(N, C_in, L)` or `(C_in, L)`.
        - Output: `(N, C_out, L_out)` or `(C_out, L_out)`, where
          `L_out = (L + 2 padding - dilation (kernel_size - 1) - 1) // stride + 1`.

    Attributes:
        weight: `(C_out, C_in / groups, kernel_size)`, from U(-k, k) with `k = (C_in / groups * kernel_size) ** -0.5`.
        bias: `(C_out)`, from the same distribution, or None.

    Raises:
        ValueError: an argument is out of range.
        RuntimeError: on call, the input's rank, channels or dtype don't fit, or it is smaller than the kernel.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> nn.Conv1d(16, 33, 3, stride=2)(jnp.ones((20, 16, 50))).shape
        (20, 33, 24)
    """

    _dimensions = 1
    _function = staticmethod(F.conv1d)


class Conv2d(_ConvForwardNd):
    """Cross-correlation of images with learned kernels: `Conv1d` over two spatial dimensions.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: the kernels' extent, one number or `(vertical, horizontal)`, as the three below.
        stride: the step between windows.
        padding: how much is added to both sides; "valid" is 0, "same" keeps the size (stride 1 only).
        dilation: the step between the elements of a kernel.
        groups: into how many independent groups the channels are split.
        bias: whether to add a number to each output channel.
        padding_mode: what is added: "zeros", "reflect", "replicate" or "circular".
        device: where the parameters live, a device or a sharding.
        dtype: the parameters' dtype, float32 by default.

    Shape:
        - Input: `(N, C_in, H, W)` or `(C_in, H, W)`.
        - Output: `(N, C_out, H_out, W_out)` or `(C_out, H_out, W_out)`, where
          `H_out = (H + 2 padding - dilation (kernel_size - 1) - 1) // stride + 1`.

    Attributes:
        weight: `(C_out, C_in / groups, K_H, K_W)`, from U(-k, k) with `k = (C_in / groups * K_H * K_W) ** -0.5`.
        bias: `(C_out)`, from the same distribution, or None.

    Raises:
        ValueError: an argument is out of range.
        RuntimeError: on call, the input's rank, channels or dtype don't fit, or it is smaller than the kernel.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> nn.Conv2d(16, 33, (3, 5), stride=(2, 1), padding=(4, 2))(jnp.ones((20, 16, 50, 100))).shape
        (20, 33, 28, 100)
    """

    _dimensions = 2
    _function = staticmethod(F.conv2d)


class Conv3d(_ConvForwardNd):
    """Cross-correlation of volumes with learned kernels: `Conv1d` over three spatial dimensions.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: the kernels' extent, one number or one a dimension, as the three below.
        stride: the step between windows.
        padding: how much is added to both sides; "valid" is 0, "same" keeps the size (stride 1 only).
        dilation: the step between the elements of a kernel.
        groups: into how many independent groups the channels are split.
        bias: whether to add a number to each output channel.
        padding_mode: what is added: "zeros", "reflect", "replicate" or "circular".
        device: where the parameters live, a device or a sharding.
        dtype: the parameters' dtype, float32 by default.

    Shape:
        - Input: `(N, C_in, D, H, W)` or `(C_in, D, H, W)`.
        - Output: `(N, C_out, D_out, H_out, W_out)` or `(C_out, D_out, H_out, W_out)`, sizes as in `Conv1d`.

    Attributes:
        weight: `(C_out, C_in / groups, K_D, K_H, K_W)`, from U(-k, k) with
            `k = (C_in / groups * K_D * K_H * K_W) ** -0.5`.
        bias: `(C_out)`, from the same distribution, or None.

    Raises:
        ValueError: an argument is out of range.
        RuntimeError: on call, the input's rank, channels or dtype don't fit, or it is smaller than the kernel.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> nn.Conv3d(3, 8, 3, padding="same")(jnp.ones((2, 3, 4, 5, 6))).shape
        (2, 8, 4, 5, 6)
    """

    _dimensions = 3
    _function = staticmethod(F.conv3d)


class ConvTranspose1d(_ConvTransposeForwardNd):
    """The transpose of `Conv1d`: each `x[c, i]` adds `x[c, i] w[c, o, k]` to `y[o, i * stride + k * dilation]`.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: the kernels' length.
        stride: how far apart the windows lie that neighbouring elements add to.
        padding: how much is cut off both ends: the padding of the `Conv1d` that this is the transpose of.
        output_padding: how much longer the output is at its end; less than `stride` or `dilation`.
        groups: into how many independent groups the channels are split.
        bias: whether to add a number to each output channel.
        dilation: the step between the elements of a kernel.
        padding_mode: "zeros", the only one.
        device: where the parameters live, a device or a sharding.
        dtype: the parameters' dtype, float32 by default.

    Shape:
        - Input: `(N, C_in, L)` or `(C_in, L)`.
        - `output_size`, an optional second input: the output's shape, or its last dimension, in place of the one that
          `output_padding` gives; `stride` sizes are possible.
        - Output: `(N, C_out, L_out)` or `(C_out, L_out)`, where
          `L_out = (L - 1) stride - 2 padding + dilation (kernel_size - 1) + output_padding + 1`.

    Attributes:
        weight: `(C_in, C_out / groups, kernel_size)`, from U(-k, k) with `k = (C_out / groups * kernel_size) ** -0.5`.
        bias: `(C_out)`, from the same distribution, or None.

    Raises:
        ValueError: an argument is out of range; on call, no output has the `output_size`.
        RuntimeError: on call, the input's rank, channels or dtype or another argument doesn't fit.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> nn.ConvTranspose1d(16, 33, 3, stride=2)(jnp.ones((20, 16, 50))).shape
        (20, 33, 101)
    """

    _dimensions = 1
    _function = staticmethod(F.conv_transpose1d)


class ConvTranspose2d(_ConvTransposeForwardNd):
    """The transpose of `Conv2d`: `ConvTranspose1d` over two spatial dimensions.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: the kernels' extent, one number or `(vertical, horizontal)`, as the four below.
        stride: how far apart the windows lie that neighbouring elements add to.
        padding: how much is cut off both sides: the padding of the `Conv2d` that this is the transpose of.
        output_padding: how much larger the output is at its end; less than `stride` or `dilation`.
        groups: into how many independent groups the channels are split.
        bias: whether to add a number to each output channel.
        dilation: the step between the elements of a kernel, one number or two.
        padding_mode: "zeros", the only one.
        device: where the parameters live, a device or a sharding.
        dtype: the parameters' dtype, float32 by default.

    Shape:
        - Input: `(N, C_in, H, W)` or `(C_in, H, W)`.
        - `output_size`, an optional second input: the output's shape, or its last two dimensions.
        - Output: `(N, C_out, H_out, W_out)` or `(C_out, H_out, W_out)`, where
          `H_out = (H - 1) stride - 2 padding + dilation (kernel_size - 1) + output_padding + 1`.

    Attributes:
        weight: `(C_in, C_out / groups, K_H, K_W)`, from U(-k, k) with `k = (C_out / groups * K_H * K_W) ** -0.5`.
        bias: `(C_out)`, from the same distribution, or None.

    Raises:
        ValueError: an argument is out of range; on call, no output has the `output_size`.
        RuntimeError: on call, the input's rank, channels or dtype or another argument doesn't fit.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> image = jnp.ones((1, 16, 12, 12))
        >>> halved = nn.Conv2d(16, 16, 3, stride=2, padding=1)(image)
        >>> up = nn.ConvTranspose2d(16, 16, 3, stride=2, padding=1)
        >>> up(halved).shape, up(halved, output_size=image.shape).shape
        ((1, 16, 11, 11), (1, 16, 12, 12))
    """

    _dimensions = 2
    _function = staticmethod(F.conv_transpose2d)


class ConvTranspose3d(_ConvTransposeForwardNd):
    """The transpose of `Conv3d`: `ConvTranspose1d` over three spatial dimensions.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: the kernels' extent, one number or one a dimension, as the four below.
        stride: how far apart the windows lie that neighbouring elements add to.
        padding: how much is cut off both sides: the padding of the `Conv3d` that this is the transpose of.
        output_padding: how much larger the output is at its end; less than `stride` or `dilation`.
        groups: into how many independent groups the channels are split.
        bias: whether to add a number to each output channel.
        dilation: the step between the elements of a kernel, one number or three.
        padding_mode: "zeros", the only one.
        device: where the parameters live, a device or a sharding.
        dtype: the parameters' dtype, float32 by default.

    Shape:
        - Input: `(N, C_in, D, H, W)` or `(C_in, D, H, W)`.
        - `output_size`, an optional second input: the output's shape, or its last three dimensions.
        - Output: `(N, C_out, D_out, H_out, W_out)` or `(C_out, D_out, H_out, W_out)`, sizes as in `ConvTranspose1d`.

    Attributes:
        weight: `(C_in, C_out / groups, K_D, K_H, K_W)`, from U(-k, k) with
            `k = (C_out / groups * K_D * K_H * K_W) ** -0.5`.
        bias: `(C_out)`, from the same distribution, or None.

    Raises:
        ValueError: an argument is out of range; on call, no output has the `output_size`.
        RuntimeError: on call, the input's rank, channels or dtype or another argument doesn't fit.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> nn.ConvTranspose3d(4, 8, 2, stride=2)(jnp.ones((2, 4, 2, 3, 4))).shape
        (2, 8, 4, 6, 8)
    """

    _dimensions = 3
    _function = staticmethod(F.conv_transpose3d)


class LazyConv1d(_LazyConvForward, Conv1d):
    """A `Conv1d` that takes `in_channels` from its first input, and then is a `Conv1d`.

    Args: those of `Conv1d` without `in_channels`.

    Attributes:
        weight: as of `Conv1d`; an `nn.UninitializedParameter` before the first call.
        bias: likewise, or None.

    Raises:
        RuntimeError: on the first call, the input has another rank.
        ValueError: on the first call, `groups` doesn't divide the channels.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> layer = nn.LazyConv1d(4, 3)
        >>> layer(jnp.ones((2, 3, 8))).shape, layer.in_channels
        ((2, 4, 6), 3)
    """

    cls_to_become = Conv1d


class LazyConv2d(_LazyConvForward, Conv2d):
    """A `Conv2d` that takes `in_channels` from its first input, and then is a `Conv2d`.

    Args: those of `Conv2d` without `in_channels`.

    Attributes:
        weight: as of `Conv2d`; an `nn.UninitializedParameter` before the first call.
        bias: likewise, or None.

    Raises:
        RuntimeError: on the first call, the input has another rank.
        ValueError: on the first call, `groups` doesn't divide the channels.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> layer = nn.LazyConv2d(4, 3)
        >>> layer(jnp.ones((2, 3, 8, 8))).shape, layer.in_channels
        ((2, 4, 6, 6), 3)
    """

    cls_to_become = Conv2d


class LazyConv3d(_LazyConvForward, Conv3d):
    """A `Conv3d` that takes `in_channels` from its first input, and then is a `Conv3d`.

    Args: those of `Conv3d` without `in_channels`.

    Attributes:
        weight: as of `Conv3d`; an `nn.UninitializedParameter` before the first call.
        bias: likewise, or None.

    Raises:
        RuntimeError: on the first call, the input has another rank.
        ValueError: on the first call, `groups` doesn't divide the channels.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> layer = nn.LazyConv3d(4, 3)
        >>> layer(jnp.ones((2, 3, 8, 8, 8))).shape, layer.in_channels
        ((2, 4, 6, 6, 6), 3)
    """

    cls_to_become = Conv3d


class LazyConvTranspose1d(_LazyConvTranspose, ConvTranspose1d):
    """A `ConvTranspose1d` that takes `in_channels` from its first input, and then is a `ConvTranspose1d`.

    Args: those of `ConvTranspose1d` without `in_channels`.

    Attributes:
        weight: as of `ConvTranspose1d`; an `nn.UninitializedParameter` before the first call.
        bias: likewise, or None.

    Raises:
        RuntimeError: on the first call, the input has another rank.
        ValueError: on the first call, `groups` doesn't divide the channels.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> layer = nn.LazyConvTranspose1d(4, 3)
        >>> layer(jnp.ones((2, 3, 8))).shape, layer.in_channels
        ((2, 4, 10), 3)
    """

    cls_to_become = ConvTranspose1d


class LazyConvTranspose2d(_LazyConvTranspose, ConvTranspose2d):
    """A `ConvTranspose2d` that takes `in_channels` from its first input, and then is a `ConvTranspose2d`.

    Args: those of `ConvTranspose2d` without `in_channels`.

    Attributes:
        weight: as of `ConvTranspose2d`; an `nn.UninitializedParameter` before the first call.
        bias: likewise, or None.

    Raises:
        RuntimeError: on the first call, the input has another rank.
        ValueError: on the first call, `groups` doesn't divide the channels.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> layer = nn.LazyConvTranspose2d(4, 3)
        >>> layer(jnp.ones((2, 3, 8, 8))).shape, layer.in_channels
        ((2, 4, 10, 10), 3)
    """

    cls_to_become = ConvTranspose2d


class LazyConvTranspose3d(_LazyConvTranspose, ConvTranspose3d):
    """A `ConvTranspose3d` that takes `in_channels` from its first input, and then is a `ConvTranspose3d`.

    Args: those of `ConvTranspose3d` without `in_channels`.

    Attributes:
        weight: as of `ConvTranspose3d`; an `nn.UninitializedParameter` before the first call.
        bias: likewise, or None.

    Raises:
        RuntimeError: on the first call, the input has another rank.
        ValueError: on the first call, `groups` doesn't divide the channels.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> layer = nn.LazyConvTranspose3d(4, 3)
        >>> layer(jnp.ones((2, 3, 8, 8, 8))).shape, layer.in_channels
        ((2, 4, 10, 10, 10), 3)
    """

    cls_to_become = ConvTranspose3d

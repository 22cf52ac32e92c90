"""Convolution layers: one implementation, three numbers of dimensions."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import ClassVar, Literal

import jax
from jax.typing import DTypeLike

from .. import functional as F
from .. import init
from ..functional._common import ArrayLike, IntOrTuple
from ..functional.conv import pad_spatial, same_pads
from ..module import Module
from ..parameter import Parameter
from .utils import Placement, empty_parameter, ntuple

__all__ = ["Conv1d", "Conv2d", "Conv3d"]

PaddingMode = Literal["zeros", "reflect", "replicate", "circular"]


class _ConvNd(Module):
    _dimensions: ClassVar[int]
    _function: ClassVar[Callable[..., jax.Array]]
    weight: Parameter
    bias: Parameter | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: IntOrTuple,
        stride: IntOrTuple = 1,
        padding: str | IntOrTuple = 0,
        dilation: IntOrTuple = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: PaddingMode = "zeros",
        device: Placement | None = None,
        dtype: DTypeLike | None = None,
    ) -> None:
        super().__init__()
        n = self._dimensions
        if groups <= 0:
            raise ValueError(f"groups must be a positive integer, but got {groups}")
        if in_channels % groups:
            raise ValueError(f"in_channels must be divisible by groups, but got {in_channels} and {groups}")
        if out_channels % groups:
            raise ValueError(f"out_channels must be divisible by groups, but got {out_channels} and {groups}")
        if padding_mode not in ("zeros", "reflect", "replicate", "circular"):
            raise ValueError(
                "padding_mode must be one of 'zeros', 'reflect', 'replicate' and 'circular', "
                f"but got padding_mode={padding_mode!r}"
            )
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = ntuple("kernel_size", kernel_size, n)
        self.stride = ntuple("stride", stride, n)
        self.padding = padding if isinstance(padding, str) else ntuple("padding", padding, n)
        self.dilation = ntuple("dilation", dilation, n)
        self.groups = groups
        self.padding_mode = padding_mode
        self._check_padding_string()
        self.weight = empty_parameter((out_channels, in_channels // groups, *self.kernel_size), device, dtype)
        if bias:
            self.bias = empty_parameter((out_channels,), device, dtype)
        else:
            self.register_parameter("bias", None)
        self.reset_parameters()

    def _check_padding_string(self) -> None:
        if not isinstance(self.padding, str):
            return
        if self.padding not in ("same", "valid"):
            raise ValueError(f"Invalid padding string {self.padding!r}, should be one of 'same' and 'valid'")
        if self.padding == "same" and max(self.stride) > 1:
            raise ValueError(f"padding='same' is not supported for strided convolutions (stride={self.stride})")

    def reset_parameters(self) -> None:
        """Draw the parameters anew."""
        if self.weight.size:
            # With a = sqrt(5) He's bound is 1 / sqrt(fan_in), the one of the bias.
            init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None and self.bias.size:
            fan_in = math.prod(self.weight.shape[1:])
            bound = 1 / math.sqrt(fan_in) if fan_in > 0 else 0.0
            init.uniform_(self.bias, -bound, bound)

    def forward(self, input: ArrayLike) -> jax.Array:
        """Convolve the input."""
        padding = self.padding
        if self.padding_mode != "zeros" and padding != "valid":
            if isinstance(padding, str):
                pads = same_pads(self.kernel_size, self.dilation)
            else:
                pads = tuple((size, size) for size in padding)
            input, padding = pad_spatial(input, pads, self.padding_mode), 0
        convolve = type(self)._function
        return convolve(input, self.weight, self.bias, self.stride, padding, self.dilation, self.groups)

    def extra_repr(self) -> str:
        """The constructor's arguments, those at their default left out."""
        parts = [
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}",
            f"padding={self.padding}" if self.padding != (0,) * self._dimensions else "",
            f"dilation={self.dilation}" if self.dilation != (1,) * self._dimensions else "",
            f"groups={self.groups}" if self.groups != 1 else "",
            "bias=False" if self.bias is None else "",
            f"padding_mode={self.padding_mode}" if self.padding_mode != "zeros" else "",
        ]
        return ", ".join(part for part in parts if part)


class Conv1d(_ConvNd):
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


class Conv2d(_ConvNd):
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


class Conv3d(_ConvNd):
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

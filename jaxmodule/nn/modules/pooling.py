"""Pooling layers."""

from __future__ import annotations

from collections.abc import Sequence

import jax

from .. import functional as F
from ..functional._common import ArrayLike, IntOrTuple
from ..module import Module

__all__ = ["AdaptiveAvgPool2d", "AvgPool2d", "MaxPool2d"]


class MaxPool2d(Module):
    """The largest element of each window of an image.

    Args:
        kernel_size: the window's extent, one number or `(vertical, horizontal)`, as the three below.
        stride: the step between windows; None is `kernel_size`.
        padding: how far windows reach over the border, at most half of the kernel. Padding is never the maximum.
        dilation: the step between a window's elements.
        return_indices: return the maxima's flat indices in `H * W` as well.
        ceil_mode: round the number of windows up, so that the last one may reach further over the border.

    Shape:
        - Input: `(N, C, H, W)` or `(C, H, W)`.
        - Output: `(N, C, H_out, W_out)` or `(C, H_out, W_out)`, where
          `H_out = (H + 2 padding - dilation (kernel_size - 1) - 1) / stride + 1`, rounded down (or up).

    Raises:
        RuntimeError: on call, the input has another rank, an argument is out of range or no window fits.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> nn.MaxPool2d(3, stride=2)(jnp.ones((20, 16, 50, 32))).shape
        (20, 16, 24, 15)
    """

    def __init__(
        self,
        kernel_size: IntOrTuple,
        stride: IntOrTuple | None = None,
        padding: IntOrTuple = 0,
        dilation: IntOrTuple = 1,
        return_indices: bool = False,
        ceil_mode: bool = False,
    ) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.stride = kernel_size if stride is None else stride
        self.padding = padding
        self.dilation = dilation
        self.return_indices = return_indices
        self.ceil_mode = ceil_mode

    def forward(self, input: ArrayLike) -> jax.Array | tuple[jax.Array, jax.Array]:
        """Pool the images."""
        return F.max_pool2d(
            input,
            self.kernel_size,
            self.stride,
            self.padding,
            self.dilation,
            ceil_mode=self.ceil_mode,
            return_indices=self.return_indices,
        )

    def extra_repr(self) -> str:
        """The constructor's arguments."""
        return (
            f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}, "
            f"dilation={self.dilation}, ceil_mode={self.ceil_mode}"
        )


class AvgPool2d(Module):
    """The mean of each window of an image.

    Args:
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
        RuntimeError: on call, the input has another rank, an argument is out of range or no window fits.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> nn.AvgPool2d(2)(jnp.arange(4.0).reshape(1, 2, 2)).tolist()
        [[[1.5]]]
    """

    def __init__(
        self,
        kernel_size: IntOrTuple,
        stride: IntOrTuple | None = None,
        padding: IntOrTuple = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.stride = kernel_size if stride is None else stride
        self.padding = padding
        self.ceil_mode = ceil_mode
        self.count_include_pad = count_include_pad
        self.divisor_override = divisor_override

    def forward(self, input: ArrayLike) -> jax.Array:
        """Pool the images."""
        return F.avg_pool2d(
            input,
            self.kernel_size,
            self.stride,
            self.padding,
            self.ceil_mode,
            self.count_include_pad,
            self.divisor_override,
        )

    def extra_repr(self) -> str:
        """The constructor's arguments, as far as torch prints them."""
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class AdaptiveAvgPool2d(Module):
    """Means of a grid of `output_size` cells, which overlap where it doesn't divide the image.

    Args:
        output_size: `(H_out, W_out)`, or one number for both; None keeps that dimension's size.

    Shape:
        - Input: `(N, C, H, W)` or `(C, H, W)`.
        - Output: `(N, C, H_out, W_out)` or `(C, H_out, W_out)`.

    Raises:
        RuntimeError: on call, the input has another rank, or `output_size` isn't two sizes.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> nn.AdaptiveAvgPool2d((5, None))(jnp.ones((1, 64, 8, 9))).shape
        (1, 64, 5, 9)
    """

    def __init__(self, output_size: int | Sequence[int | None] | None) -> None:
        super().__init__()
        self.output_size = output_size

    def forward(self, input: ArrayLike) -> jax.Array:
        """Pool the images."""
        return F.adaptive_avg_pool2d(input, self.output_size)

    def extra_repr(self) -> str:
        """The constructor's argument."""
        return f"output_size={self.output_size}"

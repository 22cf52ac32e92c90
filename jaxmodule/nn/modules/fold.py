"""Sliding blocks of images as columns, and back."""

from __future__ import annotations

import jax

from .. import functional as F
from ..functional._common import ArrayLike, IntOrTuple
from ..module import Module

__all__ = ["Fold", "Unfold"]


class Fold(Module):
    """Add columns up to the images whose sliding blocks they are: the transpose of `Unfold`.

    Args:
        output_size: the images' size, one number or `(H, W)`.
        kernel_size: a block's extent, one number or `(vertical, horizontal)`, as the three below.
        dilation: the step between a block's elements.
        padding: how far blocks reach over the border; what falls there is dropped.
        stride: the step between blocks.

    Shape:
        - Input: `(N, C * K_H * K_W, L)` or `(C * K_H * K_W, L)`, with `Unfold`'s `L` for `output_size`.
        - Output: `(N, C, H, W)` or `(C, H, W)`.

    Raises:
        RuntimeError: on call, the input's rank or sizes don't fit, or an argument is out of range.
        NotImplementedError: on call, the input holds integers.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> nn.Fold((4, 5), (2, 2))(jnp.ones((1, 3 * 2 * 2, 12))).shape
        (1, 3, 4, 5)
    """

    def __init__(
        self,
        output_size: IntOrTuple,
        kernel_size: IntOrTuple,
        dilation: IntOrTuple = 1,
        padding: IntOrTuple = 0,
        stride: IntOrTuple = 1,
    ) -> None:
        super().__init__()
        self.output_size = output_size
        self.kernel_size = kernel_size
        self.dilation = dilation
        self.padding = padding
        self.stride = stride

    def forward(self, input: ArrayLike) -> jax.Array:
        """Add the columns up."""
        return F.fold(input, self.output_size, self.kernel_size, self.dilation, self.padding, self.stride)

    def extra_repr(self) -> str:
        """The constructor's arguments."""
        return (
            f"output_size={self.output_size}, kernel_size={self.kernel_size}, dilation={self.dilation}, "
            f"padding={self.padding}, stride={self.stride}"
        )


class Unfold(Module):
    """Take the sliding blocks of images as columns.

    Args:
        kernel_size: a block's extent, one number or `(vertical, horizontal)`, as the three below.
        dilation: the step between a block's elements.
        padding: zeros added to both sides.
        stride: the step between blocks.

    Shape:
        - Input: `(N, C, H, W)` or `(C, H, W)`.
        - Output: `(N, C * K_H * K_W, L)` or `(C * K_H * K_W, L)`, where `L = L_H * L_W` and
          `L_H = (H + 2 padding - dilation (K_H - 1) - 1) // stride + 1`.

    Raises:
        RuntimeError: on call, the input's rank or sizes don't fit, or an argument is out of range.
        NotImplementedError: on call, the input holds integers.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> nn.Unfold((2, 3))(jnp.ones((2, 5, 3, 4))).shape
        (2, 30, 4)
    """

    def __init__(
        self,
        kernel_size: IntOrTuple,
        dilation: IntOrTuple = 1,
        padding: IntOrTuple = 0,
        stride: IntOrTuple = 1,
    ) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.dilation = dilation
        self.padding = padding
        self.stride = stride

    def forward(self, input: ArrayLike) -> jax.Array:
        """Take the blocks."""
        return F.unfold(input, self.kernel_size, self.dilation, self.padding, self.stride)

    def extra_repr(self) -> str:
        """The constructor's arguments."""
        return f"kernel_size={self.kernel_size}, dilation={self.dilation}, padding={self.padding}, stride={self.stride}"

"""Layers that move elements between channels and pixels."""

from __future__ import annotations

import jax

from .. import functional as F
from ..functional._common import ArrayLike
from ..module import Module

__all__ = ["PixelShuffle", "PixelUnshuffle"]


class PixelShuffle(Module):
    """Make each `r ** 2` channels one of `r` times the height and width (Shi et al., 2016).

    Args:
        upscale_factor: `r`.

    Shape:
        - Input: `(*, C r^2, H, W)`.
        - Output: `(*, C, H r, W r)`.

    Raises:
        RuntimeError: on call, the input has fewer than three dimensions or its number of channels is not divisible.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> nn.PixelShuffle(3)(jnp.ones((1, 9, 4, 4))).shape
        (1, 1, 12, 12)
    """

    def __init__(self, upscale_factor: int) -> None:
        super().__init__()
        self.upscale_factor = upscale_factor

    def forward(self, input: ArrayLike) -> jax.Array:
        """Move channels to pixels."""
        return F.pixel_shuffle(input, self.upscale_factor)

    def extra_repr(self) -> str:
        """The constructor's argument."""
        return f"upscale_factor={self.upscale_factor}"


class PixelUnshuffle(Module):
    """Make `r ** 2` channels of each, with the height and width divided by `r`: `PixelShuffle` undone.

    Args:
        downscale_factor: `r`.

    Shape:
        - Input: `(*, C, H r, W r)`.
        - Output: `(*, C r^2, H, W)`.

    Raises:
        RuntimeError: on call, the input has fewer than three dimensions or its height or width is not divisible.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> nn.PixelUnshuffle(3)(jnp.ones((1, 1, 12, 12))).shape
        (1, 9, 4, 4)
    """

    def __init__(self, downscale_factor: int) -> None:
        super().__init__()
        self.downscale_factor = downscale_factor

    def forward(self, input: ArrayLike) -> jax.Array:
        """Move pixels to channels."""
        return F.pixel_unshuffle(input, self.downscale_factor)

    def extra_repr(self) -> str:
        """The constructor's argument."""
        return f"downscale_factor={self.downscale_factor}"

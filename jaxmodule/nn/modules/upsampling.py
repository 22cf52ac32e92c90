"""Layers that resize sequences, images and volumes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax

from .. import functional as F
from ..functional._common import ArrayLike, IntOrTuple
from ..module import Module

__all__ = ["Upsample", "UpsamplingBilinear2d", "UpsamplingNearest2d"]


class Upsample(Module):
    """Resize the spatial dimensions, to `size` or by `scale_factor`: `nn.functional.interpolate`.

    Args:
        size: the sizes to get, one number or one for each spatial dimension.
        scale_factor: the factors instead, one number or one for each.
        mode: "nearest", "nearest-exact", "area", "linear", "bilinear", "trilinear" or "bicubic".
        align_corners: whether the result's corners are the input's, for the modes that interpolate.
        recompute_scale_factor: use `scale_factor` for the sizes alone.

    Shape:
        - Input: `(N, C, L)`, `(N, C, H, W)` or `(N, C, D, H, W)`.
        - Output: the same with other spatial sizes.

    Raises:
        ValueError: on call, not one of `size` and `scale_factor` is given, or another number than of dimensions.
        NotImplementedError: on call, the mode is not for inputs of this rank.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> nn.Upsample(scale_factor=2, mode="linear")(jnp.array([[[1.0, 3.0]]])).tolist()
        [[[1.0, 1.5, 2.5, 3.0]]]
    """

    def __init__(
        self,
        size: IntOrTuple | None = None,
        scale_factor: float | Sequence[float] | None = None,
        mode: str = "nearest",
        align_corners: bool | None = None,
        recompute_scale_factor: bool | None = None,
    ) -> None:
        super().__init__()
        self.name = type(self).__name__
        self.size = size
        factor: Any = scale_factor
        self.scale_factor = (
            tuple(map(float, factor)) if isinstance(factor, tuple) else float(factor) if factor else None
        )
        self.mode = mode
        self.align_corners = align_corners
        self.recompute_scale_factor = recompute_scale_factor

    def forward(self, input: ArrayLike) -> jax.Array:
        """Resize the input."""
        return F.interpolate(
            input,
            self.size,
            self.scale_factor,
            self.mode,
            self.align_corners,
            recompute_scale_factor=self.recompute_scale_factor,
        )

    def extra_repr(self) -> str:
        """The factor or else the size, and the mode."""
        if self.scale_factor is not None:
            return f"scale_factor={self.scale_factor!r}, mode={self.mode!r}"
        return f"size={self.size!r}, mode={self.mode!r}"


class UpsamplingNearest2d(Upsample):
    """Resize images, each result the element at `floor(i size_in / size_out)`.

    Args:
        size: the sizes to get, `(H, W)` or one number for both.
        scale_factor: the factors instead.

    Shape:
        - Input: `(N, C, H, W)`.
        - Output: `(N, C, H_out, W_out)`.

    Raises:
        ValueError: on call, not one of `size` and `scale_factor` is given.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> nn.UpsamplingNearest2d(scale_factor=2)(jnp.array([[[[1.0, 2.0]]]])).tolist()
        [[[[1.0, 1.0, 2.0, 2.0], [1.0, 1.0, 2.0, 2.0]]]]
    """

    def __init__(self, size: IntOrTuple | None = None, scale_factor: float | Sequence[float] | None = None) -> None:
        super().__init__(size, scale_factor, mode="nearest")


class UpsamplingBilinear2d(Upsample):
    """Resize images by bilinear interpolation with aligned corners.

    Args:
        size: the sizes to get, `(H, W)` or one number for both.
        scale_factor: the factors instead.

    Shape:
        - Input: `(N, C, H, W)`.
        - Output: `(N, C, H_out, W_out)`.

    Raises:
        ValueError: on call, not one of `size` and `scale_factor` is given.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> nn.UpsamplingBilinear2d(size=(1, 3))(jnp.array([[[[1.0, 2.0]]]])).tolist()
        [[[[1.0, 1.5, 2.0]]]]
    """

    def __init__(self, size: IntOrTuple | None = None, scale_factor: float | Sequence[float] | None = None) -> None:
        super().__init__(size, scale_factor, mode="bilinear", align_corners=True)

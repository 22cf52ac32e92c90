"""Adaptive pooling layers: one implementation of each, three numbers of dimensions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import jax

from .. import functional as F
from ..functional._common import ArrayLike
from ..functional.adaptive_pooling import OutputSize
from ..module import Module

__all__ = [
    "AdaptiveAvgPool1d",
    "AdaptiveAvgPool2d",
    "AdaptiveAvgPool3d",
    "AdaptiveMaxPool1d",
    "AdaptiveMaxPool2d",
    "AdaptiveMaxPool3d",
]


class _AdaptiveMaxPoolNd(Module):
    _function: ClassVar[Callable[..., Any]]

    def __init__(self, output_size: OutputSize, return_indices: bool = False) -> None:
        super().__init__()
        self.output_size = output_size
        self.return_indices = return_indices

    def forward(self, input: ArrayLike) -> jax.Array | tuple[jax.Array, jax.Array]:
        """Pool the input."""
        return type(self)._function(input, self.output_size, self.return_indices)

    def extra_repr(self) -> str:
        """The constructor's argument that torch prints."""
        return f"output_size={self.output_size}"


class _AdaptiveAvgPoolNd(Module):
    _function: ClassVar[Callable[..., jax.Array]]

    def __init__(self, output_size: OutputSize) -> None:
        super().__init__()
        self.output_size = output_size

    def forward(self, input: ArrayLike) -> jax.Array:
        """Pool the input."""
        return type(self)._function(input, self.output_size)

    def extra_repr(self) -> str:
        """The constructor's argument."""
        return f"output_size={self.output_size}"


class AdaptiveMaxPool1d(_AdaptiveMaxPoolNd):
    """The largest elements of a grid of `output_size` cells, which overlap where it doesn't divide the signal.

    Args:
        output_size: `L_out`, one number.
        return_indices: return the maxima's flat indices in `L` as well.

    Shape:
        - Input: `(N, C, L)` or `(C, L)`.
        - Output: `(N, C, L_out)` or `(C, L_out)`, where
          cell `i` of `n` is `floor(i L / n) : ceil((i + 1) L / n)`.

    Raises:
        RuntimeError: on call, the input has another rank or an empty dimension, or `output_size` isn't one size.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> nn.AdaptiveMaxPool1d(5)(jnp.ones((1, 64, 8))).shape
        (1, 64, 5)
    """

    _function = staticmethod(F.adaptive_max_pool1d)


class AdaptiveMaxPool2d(_AdaptiveMaxPoolNd):
    """The largest elements of a grid of `output_size` cells, which overlap where it doesn't divide the image.

    Args:
        output_size: `(H_out, W_out)`, None for what keeps its size, or one number for both.
        return_indices: return the maxima's flat indices in `H * W` as well.

    Shape:
        - Input: `(N, C, H, W)` or `(C, H, W)`.
        - Output: `(N, C, H_out, W_out)` or `(C, H_out, W_out)`, where
          cell `i` of `n` is `floor(i H / n) : ceil((i + 1) H / n)`.

    Raises:
        RuntimeError: on call, the input has another rank or an empty dimension, or `output_size` isn't two sizes.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> nn.AdaptiveMaxPool2d((5, None))(jnp.ones((1, 64, 8, 9))).shape
        (1, 64, 5, 9)
    """

    _function = staticmethod(F.adaptive_max_pool2d)


class AdaptiveMaxPool3d(_AdaptiveMaxPoolNd):
    """The largest elements of a grid of `output_size` cells, which overlap where it doesn't divide the volume.

    Args:
        output_size: `(D_out, H_out, W_out)`, None for what keeps its size, or one number for all.
        return_indices: return the maxima's flat indices in `D * H * W` as well.

    Shape:
        - Input: `(N, C, D, H, W)` or `(C, D, H, W)`.
        - Output: `(N, C, D_out, H_out, W_out)` or `(C, D_out, H_out, W_out)`, where
          cell `i` of `n` is `floor(i D / n) : ceil((i + 1) D / n)`.

    Raises:
        RuntimeError: on call, the input has another rank or an empty dimension, or `output_size` isn't three sizes.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> nn.AdaptiveMaxPool3d((5, None, 2))(jnp.ones((1, 4, 8, 9, 10))).shape
        (1, 4, 5, 9, 2)
    """

    _function = staticmethod(F.adaptive_max_pool3d)


class AdaptiveAvgPool1d(_AdaptiveAvgPoolNd):
    """Means of a grid of `output_size` cells, which overlap where it doesn't divide the signal.

    Args:
        output_size: `L_out`, one number.

    Shape:
        - Input: `(N, C, L)` or `(C, L)`.
        - Output: `(N, C, L_out)` or `(C, L_out)`, where
          cell `i` of `n` is `floor(i L / n) : ceil((i + 1) L / n)`.

    Raises:
        RuntimeError: on call, the input has another rank or an empty dimension, or `output_size` isn't one size.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> nn.AdaptiveAvgPool1d(5)(jnp.ones((1, 64, 8))).shape
        (1, 64, 5)
    """

    _function = staticmethod(F.adaptive_avg_pool1d)


class AdaptiveAvgPool2d(_AdaptiveAvgPoolNd):
    """Means of a grid of `output_size` cells, which overlap where it doesn't divide the image.

    Args:
        output_size: `(H_out, W_out)`, None for what keeps its size, or one number for both.

    Shape:
        - Input: `(N, C, H, W)` or `(C, H, W)`.
        - Output: `(N, C, H_out, W_out)` or `(C, H_out, W_out)`, where
          cell `i` of `n` is `floor(i H / n) : ceil((i + 1) H / n)`.

    Raises:
        RuntimeError: on call, the input has another rank or an empty dimension, or `output_size` isn't two sizes.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> nn.AdaptiveAvgPool2d((5, None))(jnp.ones((1, 64, 8, 9))).shape
        (1, 64, 5, 9)
    """

    _function = staticmethod(F.adaptive_avg_pool2d)


class AdaptiveAvgPool3d(_AdaptiveAvgPoolNd):
    """Means of a grid of `output_size` cells, which overlap where it doesn't divide the volume.

    Args:
        output_size: `(D_out, H_out, W_out)`, None for what keeps its size, or one number for all.

    Shape:
        - Input: `(N, C, D, H, W)` or `(C, D, H, W)`.
        - Output: `(N, C, D_out, H_out, W_out)` or `(C, D_out, H_out, W_out)`, where
          cell `i` of `n` is `floor(i D / n) : ceil((i + 1) D / n)`.

    Raises:
        RuntimeError: on call, the input has another rank or an empty dimension, or `output_size` isn't three sizes.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> nn.AdaptiveAvgPool3d((5, None, 2))(jnp.ones((1, 4, 8, 9, 10))).shape
        (1, 4, 5, 9, 2)
    """

    _function = staticmethod(F.adaptive_avg_pool3d)

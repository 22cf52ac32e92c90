"""Max pooling layers and their partial inverses: one implementation of each, three numbers of dimensions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import jax

from .. import functional as F
from ..functional._common import ArrayLike, IntOrTuple
from ..module import Module

__all__ = ["MaxPool1d", "MaxPool2d", "MaxPool3d", "MaxUnpool1d", "MaxUnpool2d", "MaxUnpool3d"]


def each(value: Any, n: int) -> tuple:
    """A number for each of `n` dimensions, or the numbers given; the functional checks them."""
    return tuple(value) if isinstance(value, Sequence) else (value,) * n


class _MaxPoolNd(Module):
    _function: ClassVar[Callable[..., Any]]

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
        """Pool the input."""
        return type(self)._function(
            input,
            self.kernel_size,
            self.stride,
            self.padding,
            self.dilation,
            ceil_mode=self.ceil_mode,
            return_indices=self.return_indices,
        )

    def extra_repr(self) -> str:
        """The constructor's arguments, as far as torch prints them."""
        return (
            f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}, "
            f"dilation={self.dilation}, ceil_mode={self.ceil_mode}"
        )


class MaxPool1d(_MaxPoolNd):
    """The largest element of each window of a signal.

    Args:
        kernel_size: the window's extent.
        stride: the step between windows; None is `kernel_size`.
        padding: how far windows reach over the border, at most half of the kernel. Padding is never the maximum.
        dilation: the step between a window's elements.
        return_indices: return the maxima's flat indices in `L` as well, for `MaxUnpool1d`.
        ceil_mode: round the number of windows up, so that the last one may reach further over the border.

    Shape:
        - Input: `(N, C, L)` or `(C, L)`.
        - Output: `(N, C, L_out)` or `(C, L_out)`, where
          `L_out = (L + 2 padding - dilation (kernel_size - 1) - 1) / stride + 1`, rounded down (or up).

    Raises:
        RuntimeError: on call, the input has another rank, an argument is out of range or no window fits.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> nn.MaxPool1d(3, stride=2)(jnp.ones((20, 16, 50))).shape
        (20, 16, 24)
    """

    _function = staticmethod(F.max_pool1d)


class MaxPool2d(_MaxPoolNd):
    """The largest element of each window of an image.

    Args:
        kernel_size: the window's extent, one number or `(vertical, horizontal)`, as the three below.
        stride: the step between windows; None is `kernel_size`.
        padding: how far windows reach over the border, at most half of the kernel. Padding is never the maximum.
        dilation: the step between a window's elements.
        return_indices: return the maxima's flat indices in `H * W` as well, for `MaxUnpool2d`.
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

    _function = staticmethod(F.max_pool2d)


class MaxPool3d(_MaxPoolNd):
    """The largest element of each window of a volume.

    Args:
        kernel_size: the window's extent, one number or one a dimension, as the three below.
        stride: the step between windows; None is `kernel_size`.
        padding: how far windows reach over the border, at most half of the kernel. Padding is never the maximum.
        dilation: the step between a window's elements.
        return_indices: return the maxima's flat indices in `D * H * W` as well, for `MaxUnpool3d`.
        ceil_mode: round the number of windows up, so that the last one may reach further over the border.

    Shape:
        - Input: `(N, C, D, H, W)` or `(C, D, H, W)`.
        - Output: `(N, C, D_out, H_out, W_out)` or `(C, D_out, H_out, W_out)`, where
          `D_out = (D + 2 padding - dilation (kernel_size - 1) - 1) / stride + 1`, rounded down (or up).

    Raises:
        RuntimeError: on call, the input has another rank, an argument is out of range or no window fits.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> nn.MaxPool3d((3, 2, 2), stride=(2, 1, 2))(jnp.ones((2, 3, 9, 8, 7))).shape
        (2, 3, 4, 7, 3)
    """

    _function = staticmethod(F.max_pool3d)


class _MaxUnpoolNd(Module):
    _dimensions: ClassVar[int]
    _function: ClassVar[Callable[..., jax.Array]]

    def __init__(self, kernel_size: IntOrTuple, stride: IntOrTuple | None = None, padding: IntOrTuple = 0) -> None:
        super().__init__()
        n = self._dimensions
        self.kernel_size = each(kernel_size, n)
        self.stride = each(kernel_size if stride is None else stride, n)
        self.padding = each(padding, n)

    def forward(self, input: ArrayLike, indices: ArrayLike, output_size: Sequence[int] | None = None) -> jax.Array:
        """Put the maxima back."""
        return type(self)._function(input, indices, self.kernel_size, self.stride, self.padding, output_size)

    def extra_repr(self) -> str:
        """The constructor's arguments."""
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class MaxUnpool1d(_MaxUnpoolNd):
    """Put maxima back to where `MaxPool1d` found them, and zeros elsewhere.

    Args:
        kernel_size: the pooling window's extent.
        stride: the step between windows; None is `kernel_size`.
        padding: the pooling's padding.

    Shape:
        - Input and indices: `(N, C, L)` or `(C, L)`.
        - Output: `(N, C, L_out)` or `(C, L_out)`, where by default
          `L_out = (L - 1) stride - 2 padding + kernel_size`. Several sizes pool to the same:
          `output_size` of the call, with or without `(N, C)` in front, is one that differs by less than `stride`.

    Raises:
        RuntimeError: on call, the rank, the indices' shape or dtype, or an index (where its value is known) is wrong.
        ValueError: on call, `output_size` is none that could have been pooled.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> y, index = nn.MaxPool1d(2, return_indices=True)(jnp.array([[[1.0, 3.0, 4.0, 2.0, 9.0]]]))
        >>> nn.MaxUnpool1d(2)(y, index, output_size=(1, 1, 5)).tolist()
        [[[0.0, 3.0, 4.0, 0.0, 0.0]]]
    """

    _dimensions = 1
    _function = staticmethod(F.max_unpool1d)


class MaxUnpool2d(_MaxUnpoolNd):
    """Put maxima back to where `MaxPool2d` found them, and zeros elsewhere.

    Args:
        kernel_size: the pooling window's extent, one number or `(vertical, horizontal)`, as the two below.
        stride: the step between windows; None is `kernel_size`.
        padding: the pooling's padding.

    Shape:
        - Input and indices: `(N, C, H, W)` or `(C, H, W)`.
        - Output: `(N, C, H_out, W_out)` or `(C, H_out, W_out)`, where by default
          `H_out = (H - 1) stride - 2 padding + kernel_size`. Several sizes pool to the same:
          `output_size` of the call, with or without `(N, C)` in front, is one that differs by less than `stride`.

    Raises:
        RuntimeError: on call, the rank, the indices' shape or dtype, or an index (where its value is known) is wrong.
        ValueError: on call, `output_size` is none that could have been pooled.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> y, index = nn.MaxPool2d(2, return_indices=True)(jnp.arange(4.0).reshape(1, 1, 2, 2))
        >>> nn.MaxUnpool2d(2)(y, index).tolist()
        [[[[0.0, 0.0], [0.0, 3.0]]]]
    """

    _dimensions = 2
    _function = staticmethod(F.max_unpool2d)


class MaxUnpool3d(_MaxUnpoolNd):
    """Put maxima back to where `MaxPool3d` found them, and zeros elsewhere.

    Args:
        kernel_size: the pooling window's extent, one number or one a dimension, as the two below.
        stride: the step between windows; None is `kernel_size`.
        padding: the pooling's padding.

    Shape:
        - Input and indices: `(N, C, D, H, W)` or `(C, D, H, W)`.
        - Output: `(N, C, D_out, H_out, W_out)` or `(C, D_out, H_out, W_out)`, where by default
          `D_out = (D - 1) stride - 2 padding + kernel_size`. Several sizes pool to the same:
          `output_size` of the call, with or without `(N, C)` in front, is one that differs by less than `stride`.

    Raises:
        RuntimeError: on call, the rank, the indices' shape or dtype, or an index (where its value is known) is wrong.
        ValueError: on call, `output_size` is none that could have been pooled.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> y, index = nn.MaxPool3d(3, stride=2, return_indices=True)(jnp.ones((2, 3, 5, 7, 9)))
        >>> nn.MaxUnpool3d(3, stride=2)(y, index).shape
        (2, 3, 5, 7, 9)
    """

    _dimensions = 3
    _function = staticmethod(F.max_unpool3d)

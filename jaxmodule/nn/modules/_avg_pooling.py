"""Average and power-average pooling layers: one implementation of each, three numbers of dimensions."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import jax

from .. import functional as F
from ..functional._common import ArrayLike, IntOrTuple
from ..module import Module
from ._max_pooling import each

__all__ = ["AvgPool1d", "AvgPool2d", "AvgPool3d", "LPPool1d", "LPPool2d", "LPPool3d"]


class _AvgPoolNd(Module):
    def extra_repr(self) -> str:
        """The constructor's arguments, as far as torch prints them."""
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class AvgPool1d(_AvgPoolNd):
    """The mean of each window of a signal.

    Args:
        kernel_size: the window's extent.
        stride: the step between windows; None is `kernel_size`.
        padding: zeros added to both ends, at most half of the kernel.
        ceil_mode: round the number of windows up, so that the last one may reach further over the border.
        count_include_pad: whether the padding's zeros count as elements of the mean.

    Shape:
        - Input: `(N, C, L)` or `(C, L)`.
        - Output: `(N, C, L_out)` or `(C, L_out)`, where
          `L_out = (L + 2 padding - kernel_size) / stride + 1`, rounded down (or up).

    Raises:
        RuntimeError: on call, the input has another rank, an argument is out of range or no window fits.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> nn.AvgPool1d(3, stride=2)(jnp.arange(7.0).reshape(1, 1, 7)).tolist()
        [[[1.0, 3.0, 5.0]]]
    """

    def __init__(
        self,
        kernel_size: IntOrTuple,
        stride: IntOrTuple | None = None,
        padding: IntOrTuple = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
    ) -> None:
        super().__init__()
        self.kernel_size = each(kernel_size, 1)
        self.stride = each(kernel_size if stride is None else stride, 1)
        self.padding = each(padding, 1)
        self.ceil_mode = ceil_mode
        self.count_include_pad = count_include_pad

    def forward(self, input: ArrayLike) -> jax.Array:
        """Pool the input."""
        return F.avg_pool1d(input, self.kernel_size, self.stride, self.padding, self.ceil_mode, self.count_include_pad)


class _AvgPoolWithDivisor(_AvgPoolNd):
    _function: ClassVar[Callable[..., jax.Array]]

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
        """Pool the input."""
        return type(self)._function(
            input,
            self.kernel_size,
            self.stride,
            self.padding,
            self.ceil_mode,
            self.count_include_pad,
            self.divisor_override,
        )


class AvgPool2d(_AvgPoolWithDivisor):
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

    _function = staticmethod(F.avg_pool2d)


class AvgPool3d(_AvgPoolWithDivisor):
    """The mean of each window of a volume.

    Args:
        kernel_size: the window's extent, one number or one a dimension, as the two below.
        stride: the step between windows; None is `kernel_size`.
        padding: zeros added to both sides, at most half of the kernel.
        ceil_mode: round the number of windows up, so that the last one may reach further over the border.
        count_include_pad: whether the padding's zeros count as elements of the mean.
        divisor_override: divide every window's sum by this instead.

    Shape:
        - Input: `(N, C, D, H, W)` or `(C, D, H, W)`.
        - Output: `(N, C, D_out, H_out, W_out)` or `(C, D_out, H_out, W_out)`, where
          `D_out = (D + 2 padding - kernel_size) / stride + 1`, rounded down (or up).

    Raises:
        RuntimeError: on call, the input has another rank, an argument is out of range or no window fits.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> nn.AvgPool3d((3, 2, 2), stride=(2, 1, 2))(jnp.ones((2, 3, 9, 8, 7))).shape
        (2, 3, 4, 7, 3)
    """

    _function = staticmethod(F.avg_pool3d)


class _LPPoolNd(Module):
    _function: ClassVar[Callable[..., jax.Array]]

    def __init__(
        self,
        norm_type: float,
        kernel_size: IntOrTuple,
        stride: IntOrTuple | None = None,
        ceil_mode: bool = False,
    ) -> None:
        super().__init__()
        self.norm_type = norm_type
        self.kernel_size = kernel_size
        self.stride = stride
        self.ceil_mode = ceil_mode

    def forward(self, input: ArrayLike) -> jax.Array:
        """Pool the input."""
        return type(self)._function(input, float(self.norm_type), self.kernel_size, self.stride, self.ceil_mode)

    def extra_repr(self) -> str:
        """The constructor's arguments."""
        return (
            f"norm_type={self.norm_type}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"ceil_mode={self.ceil_mode}"
        )


class LPPool1d(_LPPoolNd):
    """The p-norm of each window of a signal: `y = (sum x ** p) ** (1 / p)`, without absolute values.

    Args:
        norm_type: `p`. Infinity is the largest absolute value, minus infinity the smallest.
        kernel_size: the window's extent.
        stride: the step between windows; None is `kernel_size`.
        ceil_mode: round the number of windows up, so that the last one may reach over the border. It is then the mean
            of the powers it has, times the kernel's size.

    Shape:
        - Input: `(N, C, L)` or `(C, L)`.
        - Output: `(N, C, L_out)` or `(C, L_out)`, where
          `L_out = (L - kernel_size) / stride + 1`, rounded down (or up).

    Raises:
        RuntimeError: on call, the input has another rank, an argument is out of range or no window fits.
        ZeroDivisionError: on call, `norm_type` is 0.

    Note:
        A sum of 0 has the gradient 0, and a negative one (of odd powers) the value NaN, as in torch.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> nn.LPPool1d(2, 2)(jnp.array([[[3.0, 4.0, 6.0, 8.0]]])).tolist()
        [[[5.0, 10.0]]]
    """

    _function = staticmethod(F.lp_pool1d)


class LPPool2d(_LPPoolNd):
    """The p-norm of each window of an image: `y = (sum x ** p) ** (1 / p)`, without absolute values.

    Args:
        norm_type: `p`. Infinity is the largest absolute value, minus infinity the smallest.
        kernel_size: the window's extent, one number or `(vertical, horizontal)`, as the one below.
        stride: the step between windows; None is `kernel_size`.
        ceil_mode: round the number of windows up, so that the last one may reach over the border. It is then the mean
            of the powers it has, times the kernel's size.

    Shape:
        - Input: `(N, C, H, W)` or `(C, H, W)`.
        - Output: `(N, C, H_out, W_out)` or `(C, H_out, W_out)`, where
          `H_out = (H - kernel_size) / stride + 1`, rounded down (or up).

    Raises:
        RuntimeError: on call, the input has another rank, an argument is out of range or no window fits.
        ZeroDivisionError: on call, `norm_type` is 0.

    Note:
        A sum of 0 has the gradient 0, and a negative one (of odd powers) the value NaN, as in torch.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> nn.LPPool2d(2, 3, stride=2)(jnp.ones((20, 16, 50, 32))).shape
        (20, 16, 24, 15)
    """

    _function = staticmethod(F.lp_pool2d)


class LPPool3d(_LPPoolNd):
    """The p-norm of each window of a volume: `y = (sum x ** p) ** (1 / p)`, without absolute values.

    Args:
        norm_type: `p`. Infinity is the largest absolute value, minus infinity the smallest.
        kernel_size: the window's extent, one number or one a dimension, as the one below.
        stride: the step between windows; None is `kernel_size`.
        ceil_mode: round the number of windows up, so that the last one may reach over the border. It is then the mean
            of the powers it has, times the kernel's size.

    Shape:
        - Input: `(N, C, D, H, W)` or `(C, D, H, W)`.
        - Output: `(N, C, D_out, H_out, W_out)` or `(C, D_out, H_out, W_out)`, where
          `D_out = (D - kernel_size) / stride + 1`, rounded down (or up).

    Raises:
        RuntimeError: on call, the input has another rank, an argument is out of range or no window fits.
        ZeroDivisionError: on call, `norm_type` is 0.

    Note:
        A sum of 0 has the gradient 0, and a negative one (of odd powers) the value NaN, as in torch.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> nn.LPPool3d(1.2, (3, 2, 2), stride=(2, 1, 2))(jnp.ones((2, 3, 9, 8, 7))).shape
        (2, 3, 4, 7, 3)
    """

    _function = staticmethod(F.lp_pool3d)

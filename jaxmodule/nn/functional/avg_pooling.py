"""Average pooling: the mean of windows of a fixed shape."""

from __future__ import annotations

import operator

import jax

from ...core.box import unbox
from ._autocast import autocasts
from ._common import ArrayLike, IntOrTuple, compiled
from ._pool_average import mean_of_windows
from ._pool_windows import Window, make_windows, require_numbers

__all__ = ["avg_pool1d", "avg_pool2d", "avg_pool3d"]


@compiled("windows", "divisor", "count_include_pad")
def _avg_pool(x: jax.Array, *, windows: tuple[Window, ...], divisor: int | None, count_include_pad: bool) -> jax.Array:
    return mean_of_windows(x, windows, divisor, count_include_pad)


def _avg_pool_nd(
    n: int,
    input: ArrayLike,
    kernel_size: IntOrTuple,
    stride: IntOrTuple | None,
    padding: IntOrTuple,
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int | None,
) -> jax.Array:
    x, name = unbox(input), f"avg_pool{n}d"
    windows = make_windows(name, x, n, kernel_size, stride, padding, 1, bool(ceil_mode))
    require_numbers(x, name)
    if divisor_override is not None:
        if isinstance(divisor_override, bool) or not hasattr(divisor_override, "__index__"):
            raise TypeError(f"{name}(): argument 'divisor_override' must be int, but got {divisor_override!r}")
        divisor_override = operator.index(divisor_override)
    if divisor_override == 0:
        raise RuntimeError(f"{name}: divisor must be not zero, but got divisor_override=0")
    return _avg_pool(x, windows=windows, divisor=divisor_override, count_include_pad=bool(count_include_pad))


def avg_pool1d(
    input: ArrayLike,
    kernel_size: IntOrTuple,
    stride: IntOrTuple | None = None,
    padding: IntOrTuple = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> jax.Array:
    """The mean of each window of a signal.

    Args:
        input: the signals.
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
        RuntimeError: the input has another rank, a parameter is out of range or no window fits.
        TypeError: a parameter isn't made of ints.
        NotImplementedError: the input is bool or complex.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn import functional as F
        >>> F.avg_pool1d(jnp.arange(6.0).reshape(1, 1, 6), 3, stride=2).tolist()
        [[[1.0, 3.0]]]
    """
    return _avg_pool_nd(1, input, kernel_size, stride, padding, ceil_mode, count_include_pad, None)


def avg_pool2d(
    input: ArrayLike,
    kernel_size: IntOrTuple,
    stride: IntOrTuple | None = None,
    padding: IntOrTuple = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> jax.Array:
    """The mean of each window of an image.

    Args:
        input: the images.
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
        RuntimeError: the input has another rank, a parameter is out of range or no window fits. (IndexError, as in
            torch, if the rank is below three.)
        TypeError: a parameter isn't made of ints.
        NotImplementedError: the input is bool or complex.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn import functional as F
        >>> F.avg_pool2d(jnp.arange(16.0).reshape(1, 1, 4, 4), 2)[0, 0].tolist()
        [[2.5, 4.5], [10.5, 12.5]]
    """
    return _avg_pool_nd(2, input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)


@autocasts
def avg_pool3d(
    input: ArrayLike,
    kernel_size: IntOrTuple,
    stride: IntOrTuple | None = None,
    padding: IntOrTuple = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> jax.Array:
    """The mean of each window of a volume.

    Args:
        input: the volumes.
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
        RuntimeError: the input has another rank or is smaller than the kernel, or a parameter is out of range.
        TypeError: a parameter isn't made of ints.
        NotImplementedError: the input is bool or complex.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn import functional as F
        >>> F.avg_pool3d(jnp.arange(8.0).reshape(1, 1, 2, 2, 2), 2).tolist()
        [[[[[3.5]]]]]
    """
    return _avg_pool_nd(3, input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)

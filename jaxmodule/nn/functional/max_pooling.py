"""Max pooling: the largest element of windows of a fixed shape."""

from __future__ import annotations

from typing import Literal, overload

import jax

from ...core.box import unbox
from ._autocast import autocasts
from ._common import ArrayLike, IntOrTuple, compiled
from ._pool_maximum import max_of_windows, max_with_indices
from ._pool_windows import Window, make_windows, require_numbers

__all__ = [
    "max_pool1d",
    "max_pool2d",
    "max_pool3d",
]

Pooled = jax.Array | tuple[jax.Array, jax.Array]


@compiled("windows")
def _max_pool(x: jax.Array, *, windows: tuple[Window, ...]) -> jax.Array:
    return max_of_windows(x, windows)


@compiled("windows")
def _max_pool_with_indices(x: jax.Array, *, windows: tuple[Window, ...]) -> tuple[jax.Array, jax.Array]:
    return max_with_indices(x, windows)


def _prepare(
    n: int,
    input: ArrayLike,
    kernel_size: IntOrTuple,
    stride: IntOrTuple | None,
    padding: IntOrTuple,
    dilation: IntOrTuple,
    ceil_mode: bool,
) -> tuple[jax.Array, tuple[Window, ...]]:
    x, name = unbox(input), f"max_pool{n}d"
    windows = make_windows(name, x, n, kernel_size, stride, padding, dilation, bool(ceil_mode))
    require_numbers(x, name)
    return x, windows


@overload
def max_pool1d(
    input: ArrayLike,
    kernel_size: IntOrTuple,
    stride: IntOrTuple | None = None,
    padding: IntOrTuple = 0,
    dilation: IntOrTuple = 1,
    ceil_mode: bool = False,
    return_indices: Literal[False] = False,
) -> jax.Array: ...
@overload
def max_pool1d(
    input: ArrayLike,
    kernel_size: IntOrTuple,
    stride: IntOrTuple | None = None,
    padding: IntOrTuple = 0,
    dilation: IntOrTuple = 1,
    ceil_mode: bool = False,
    *,
    return_indices: Literal[True],
) -> tuple[jax.Array, jax.Array]: ...
@overload
def max_pool1d(
    input: ArrayLike,
    kernel_size: IntOrTuple,
    stride: IntOrTuple | None = None,
    padding: IntOrTuple = 0,
    dilation: IntOrTuple = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Pooled: ...
def max_pool1d(
    input: ArrayLike,
    kernel_size: IntOrTuple,
    stride: IntOrTuple | None = None,
    padding: IntOrTuple = 0,
    dilation: IntOrTuple = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Pooled:
    """The largest element of each window of a signal.

    Args:
        input: the signals.
        kernel_size: the window's extent.
        stride: the step between windows; None is `kernel_size`.
        padding: how far windows reach over the border, at most half of the kernel. Padding is never the maximum.
        dilation: the step between a window's elements.
        ceil_mode: round the number of windows up, so that the last one may reach further over the border.
        return_indices: return the maxima's flat indices in `L` as well.

    Shape:
        - Input: `(N, C, L)` or `(C, L)`.
        - Output: `(N, C, L_out)` or `(C, L_out)`, where
          `L_out = (L + 2 padding - dilation (kernel_size - 1) - 1) / stride + 1`, rounded down (or up).

    Raises:
        RuntimeError: the input has another rank, a parameter is out of range or no window fits.
        TypeError: a parameter isn't made of ints.
        NotImplementedError: the input is bool or complex.

    Note:
        The indices have JAX's default integer dtype: int32, or int64 with `jax_enable_x64`.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn import functional as F
        >>> F.max_pool1d(jnp.arange(6.0).reshape(1, 1, 6), 2).tolist()
        [[[1.0, 3.0, 5.0]]]
    """
    x, windows = _prepare(1, input, kernel_size, stride, padding, dilation, ceil_mode)
    return _max_pool_with_indices(x, windows=windows) if return_indices else _max_pool(x, windows=windows)


@overload
def max_pool2d(
    input: ArrayLike,
    kernel_size: IntOrTuple,
    stride: IntOrTuple | None = None,
    padding: IntOrTuple = 0,
    dilation: IntOrTuple = 1,
    ceil_mode: bool = False,
    return_indices: Literal[False] = False,
) -> jax.Array: ...
@overload
def max_pool2d(
    input: ArrayLike,
    kernel_size: IntOrTuple,
    stride: IntOrTuple | None = None,
    padding: IntOrTuple = 0,
    dilation: IntOrTuple = 1,
    ceil_mode: bool = False,
    *,
    return_indices: Literal[True],
) -> tuple[jax.Array, jax.Array]: ...
@overload
def max_pool2d(
    input: ArrayLike,
    kernel_size: IntOrTuple,
    stride: IntOrTuple | None = None,
    padding: IntOrTuple = 0,
    dilation: IntOrTuple = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Pooled: ...
def max_pool2d(
    input: ArrayLike,
    kernel_size: IntOrTuple,
    stride: IntOrTuple | None = None,
    padding: IntOrTuple = 0,
    dilation: IntOrTuple = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Pooled:
    """The largest element of each window of an image.

    Args:
        input: the images.
        kernel_size: the window's extent, one number or `(vertical, horizontal)`, as the three below.
        stride: the step between windows; None is `kernel_size`.
        padding: how far windows reach over the border, at most half of the kernel. Padding is never the maximum.
        dilation: the step between a window's elements.
        ceil_mode: round the number of windows up, so that the last one may reach further over the border.
        return_indices: return the maxima's flat indices in `H * W` as well.

    Shape:
        - Input: `(N, C, H, W)` or `(C, H, W)`.
        - Output: `(N, C, H_out, W_out)` or `(C, H_out, W_out)`, where
          `H_out = (H + 2 padding - dilation (kernel_size - 1) - 1) / stride + 1`, rounded down (or up).

    Raises:
        RuntimeError: the input has another rank, a parameter is out of range or no window fits.
        TypeError: a parameter isn't made of ints.
        NotImplementedError: the input is bool or complex.

    Note:
        The indices have JAX's default integer dtype: int32, or int64 with `jax_enable_x64`.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn import functional as F
        >>> F.max_pool2d(jnp.arange(16.0).reshape(1, 1, 4, 4), 2)[0, 0].tolist()
        [[5.0, 7.0], [13.0, 15.0]]
    """
    x, windows = _prepare(2, input, kernel_size, stride, padding, dilation, ceil_mode)
    return _max_pool_with_indices(x, windows=windows) if return_indices else _max_pool(x, windows=windows)


@overload
def max_pool3d(
    input: ArrayLike,
    kernel_size: IntOrTuple,
    stride: IntOrTuple | None = None,
    padding: IntOrTuple = 0,
    dilation: IntOrTuple = 1,
    ceil_mode: bool = False,
    return_indices: Literal[False] = False,
) -> jax.Array: ...
@overload
def max_pool3d(
    input: ArrayLike,
    kernel_size: IntOrTuple,
    stride: IntOrTuple | None = None,
    padding: IntOrTuple = 0,
    dilation: IntOrTuple = 1,
    ceil_mode: bool = False,
    *,
    return_indices: Literal[True],
) -> tuple[jax.Array, jax.Array]: ...
@overload
def max_pool3d(
    input: ArrayLike,
    kernel_size: IntOrTuple,
    stride: IntOrTuple | None = None,
    padding: IntOrTuple = 0,
    dilation: IntOrTuple = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Pooled: ...
@autocasts
def max_pool3d(
    input: ArrayLike,
    kernel_size: IntOrTuple,
    stride: IntOrTuple | None = None,
    padding: IntOrTuple = 0,
    dilation: IntOrTuple = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Pooled:
    """The largest element of each window of a volume.

    Args:
        input: the volumes.
        kernel_size: the window's extent, one number or one a dimension, as the three below.
        stride: the step between windows; None is `kernel_size`.
        padding: how far windows reach over the border, at most half of the kernel. Padding is never the maximum.
        dilation: the step between a window's elements.
        ceil_mode: round the number of windows up, so that the last one may reach further over the border.
        return_indices: return the maxima's flat indices in `D * H * W` as well.

    Shape:
        - Input: `(N, C, D, H, W)` or `(C, D, H, W)`.
        - Output: `(N, C, D_out, H_out, W_out)` or `(C, D_out, H_out, W_out)`, where
          `D_out = (D + 2 padding - dilation (kernel_size - 1) - 1) / stride + 1`, rounded down (or up).

    Raises:
        RuntimeError: the input has another rank, a parameter is out of range or no window fits.
        TypeError: a parameter isn't made of ints.
        NotImplementedError: the input is bool or complex.

    Note:
        The indices have JAX's default integer dtype: int32, or int64 with `jax_enable_x64`.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn import functional as F
        >>> F.max_pool3d(jnp.arange(64.0).reshape(1, 1, 4, 4, 4), 2)[0, 0, 0].tolist()
        [[21.0, 23.0], [29.0, 31.0]]
    """
    x, windows = _prepare(3, input, kernel_size, stride, padding, dilation, ceil_mode)
    return _max_pool_with_indices(x, windows=windows) if return_indices else _max_pool(x, windows=windows)

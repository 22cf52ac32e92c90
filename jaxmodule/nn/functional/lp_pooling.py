"""Power-average pooling: the p-norm of windows."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax import lax

from ...core.box import unbox
from ._autocast import autocasts
from ._common import ArrayLike, IntOrTuple, compiled, is_floating, opmath_dtype
from ._pool_average import mean_of_windows
from ._pool_maximum import max_of_windows
from ._pool_windows import Window, make_windows, require_numbers

__all__ = ["lp_pool1d", "lp_pool2d", "lp_pool3d"]


@compiled("windows", "largest")
def _extreme_pool(x: jax.Array, *, windows: tuple[Window, ...], largest: bool) -> jax.Array:
    side = _sign(x)  # jnp.abs has another gradient at 0 and at NaN
    return max_of_windows(side * x, windows) if largest else -max_of_windows(-side * x, windows)


def _sign(x: jax.Array) -> jax.Array:
    """1, -1, or 0 for what is neither positive nor negative, NaN too. A constant in gradients."""
    return lax.stop_gradient((x > 0).astype(x.dtype) - (x < 0).astype(x.dtype))


def _power(x: jax.Array, exponent: float) -> jax.Array:
    if exponent == 0.5:
        return jnp.sqrt(x)
    if float(exponent).is_integer() and abs(exponent) <= 64:
        return lax.integer_pow(x, int(exponent))
    return lax.pow(x, jnp.full_like(x, exponent))


@compiled("windows", "norm_type")
def _lp_pool(x: jax.Array, *, windows: tuple[Window, ...], norm_type: float) -> jax.Array:
    mean = mean_of_windows(_power(x.astype(opmath_dtype(x.dtype)), norm_type), windows)
    if not is_floating(mean):
        mean = mean.astype(jnp.float32)
    # Windows that ceil_mode lets reach over the border are means of fewer elements, times the whole kernel: as torch.
    size = math.prod(window.kernel for window in windows)
    # A sum of 0 has gradient 0, of which the root's infinite one would make a NaN. Of NaN it is a product with 0.
    dead, sign = mean == 0, _sign(mean)
    root = _power(jnp.where(dead, jnp.ones_like(mean), sign * (sign * mean)) * size, 1.0 / norm_type)
    root = jnp.where(dead, jnp.full_like(root, 0.0 if norm_type > 0 else math.inf), root)
    return root.astype(x.dtype) if is_floating(x) else root


def _lp_pool_nd(
    n: int,
    input: ArrayLike,
    norm_type: float,
    kernel_size: IntOrTuple,
    stride: IntOrTuple | None,
    ceil_mode: bool,
) -> jax.Array:
    x, extreme = unbox(input), math.isinf(norm_type)
    name = f"max_pool{n}d" if extreme else f"lp_pool{n}d"
    windows = make_windows(name, x, n, kernel_size, stride, ceil_mode=bool(ceil_mode))
    if extreme:
        if jnp.iscomplexobj(x):
            x = jnp.abs(x)
        require_numbers(x, name)
        return _extreme_pool(x, windows=windows, largest=norm_type > 0)
    if norm_type == 0:
        raise ZeroDivisionError(f"{name}: norm_type is 0, and its root the power of 1 / norm_type")
    if x.dtype == jnp.bool_:
        x = x.astype(int)
    require_numbers(x, name)
    if not is_floating(x) and not isinstance(norm_type, int):
        x = x.astype(jnp.float32)
    return _lp_pool(x, windows=windows, norm_type=norm_type)


@autocasts
def lp_pool1d(
    input: ArrayLike,
    norm_type: float,
    kernel_size: IntOrTuple,
    stride: IntOrTuple | None = None,
    ceil_mode: bool = False,
) -> jax.Array:
    """The p-norm of each window of a signal: `y = (sum x ** p) ** (1 / p)`, without absolute values.

    Args:
        input: the signals.
        norm_type: `p`. Infinity is the largest absolute value, minus infinity the smallest.
        kernel_size: the window's extent.
        stride: the step between windows; None is `kernel_size`.
        ceil_mode: round the number of windows up, so that the last one may reach over the border. It is then the mean
            of the powers it has, times `kernel_size`.

    Shape:
        - Input: `(N, C, L)` or `(C, L)`.
        - Output: `(N, C, L_out)` or `(C, L_out)`, where `L_out = (L - kernel_size) / stride + 1`, rounded down (or up).

    Raises:
        RuntimeError: the input has another rank, a parameter is out of range or no window fits.
        TypeError: a parameter isn't made of ints.
        ZeroDivisionError: `norm_type` is 0.

    Note:
        A sum of 0 has the gradient 0, and a negative one (of odd powers) the value NaN, as in torch.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn import functional as F
        >>> F.lp_pool1d(jnp.array([[[3.0, 4.0, 6.0, 8.0]]]), 2, 2).tolist()
        [[[5.0, 10.0]]]
    """
    return _lp_pool_nd(1, input, norm_type, kernel_size, stride, ceil_mode)


@autocasts
def lp_pool2d(
    input: ArrayLike,
    norm_type: float,
    kernel_size: IntOrTuple,
    stride: IntOrTuple | None = None,
    ceil_mode: bool = False,
) -> jax.Array:
    """The p-norm of each window of an image: `lp_pool1d` over two dimensions.

    Args:
        input: the images.
        norm_type: `p`. Infinity is the largest absolute value, minus infinity the smallest.
        kernel_size: the window's extent, one number or `(vertical, horizontal)`, as the one below.
        stride: the step between windows; None is `kernel_size`.
        ceil_mode: round the number of windows up, so that the last one may reach over the border.

    Shape:
        - Input: `(N, C, H, W)` or `(C, H, W)`.
        - Output: `(N, C, H_out, W_out)` or `(C, H_out, W_out)`, where `H_out = (H - kernel_size) / stride + 1`.

    Raises:
        RuntimeError: the input has another rank, a parameter is out of range or no window fits. (IndexError, as in
            torch, if the rank is below three.)
        TypeError: a parameter isn't made of ints.
        ZeroDivisionError: `norm_type` is 0.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn import functional as F
        >>> F.lp_pool2d(jnp.array([[[3.0, -4.0], [0.0, 12.0]]]), 2, 2).tolist()
        [[[13.0]]]
    """
    return _lp_pool_nd(2, input, norm_type, kernel_size, stride, ceil_mode)


@autocasts
def lp_pool3d(
    input: ArrayLike,
    norm_type: float,
    kernel_size: IntOrTuple,
    stride: IntOrTuple | None = None,
    ceil_mode: bool = False,
) -> jax.Array:
    """The p-norm of each window of a volume: `lp_pool1d` over three dimensions.

    Args:
        input: the volumes.
        norm_type: `p`. Infinity is the largest absolute value, minus infinity the smallest.
        kernel_size: the window's extent, one number or one a dimension, as the one below.
        stride: the step between windows; None is `kernel_size`.
        ceil_mode: round the number of windows up, so that the last one may reach over the border.

    Shape:
        - Input: `(N, C, D, H, W)` or `(C, D, H, W)`.
        - Output: `(N, C, D_out, H_out, W_out)` or `(C, D_out, H_out, W_out)`, sizes as in `lp_pool1d`.

    Raises:
        RuntimeError: the input has another rank or is smaller than the kernel, or a parameter is out of range.
        TypeError: a parameter isn't made of ints.
        ZeroDivisionError: `norm_type` is 0.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn import functional as F
        >>> F.lp_pool3d(jnp.full((1, 2, 2, 2), 2.0), 3, 2).tolist()
        [[[[4.0]]]]
    """
    return _lp_pool_nd(3, input, norm_type, kernel_size, stride, ceil_mode)

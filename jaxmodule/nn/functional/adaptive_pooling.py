"""Adaptive pooling: a fixed number of cells, whatever the input's size."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Literal, overload

import jax
import jax.numpy as jnp

from ...core.box import unbox
from ._autocast import autocasts
from ._common import ArrayLike, compiled, shape_list
from ._pool_average import mean_of_cells
from ._pool_maximum import max_of_windows, max_with_indices
from ._pool_windows import adaptive_windows, require_floating

__all__ = [
    "adaptive_avg_pool1d",
    "adaptive_avg_pool2d",
    "adaptive_avg_pool3d",
    "adaptive_max_pool1d",
    "adaptive_max_pool2d",
    "adaptive_max_pool3d",
]

OutputSize = int | Sequence[int | None]
Pooled = jax.Array | tuple[jax.Array, jax.Array]


@compiled("out")
def _adaptive_avg_pool(x: jax.Array, *, out: tuple[int, ...]) -> jax.Array:
    if 0 in out:
        return jnp.zeros((*x.shape[: x.ndim - len(out)], *out), x.dtype)
    return mean_of_cells(x, adaptive_windows(x, out))


@compiled("out", "return_indices")
def _adaptive_max_pool(x: jax.Array, *, out: tuple[int, ...], return_indices: bool) -> Pooled:
    if 0 in out:
        shape = (*x.shape[: x.ndim - len(out)], *out)
        empty = jnp.zeros(shape, x.dtype)
        return (empty, jnp.zeros(shape, int)) if return_indices else empty
    cells = adaptive_windows(x, out)
    return max_with_indices(x, cells) if return_indices else max_of_windows(x, cells)


def _sizes(name: str, n: int, x: jax.Array, output_size: OutputSize) -> tuple[int, ...]:
    """The number of cells of each dimension."""
    sizes = tuple(output_size) if isinstance(output_size, Sequence) else (output_size,) * n
    alone = not isinstance(output_size, Sequence)
    if any(isinstance(size, bool) or not (hasattr(size, "__index__") or size is None) for size in sizes) or (
        None in sizes and (alone or n == 1)
    ):
        raise TypeError(f"{name}(): argument 'output_size' must be an int or a tuple of ints, but got {output_size!r}")
    if not alone and n > 1 and x.ndim <= len(sizes):
        raise ValueError(f"{name}: Input dimension should be at least {len(sizes) + 1}, but got {shape_list(x)}")
    if x.ndim not in (n + 1, n + 2):
        raise RuntimeError(f"{name}(): Expected {n + 1}D or {n + 2}D tensor, but got {shape_list(x)}")
    if len(sizes) != n:
        raise RuntimeError(f"{name}: output_size must be {n} sizes, but got {output_size}")
    found = tuple(k if size is None else operator.index(size) for k, size in zip(x.shape[-n:], sizes, strict=True))
    if min(found) < 0:
        raise RuntimeError(
            f"{name}: elements of output_size must be greater than or equal to 0 but received {found} "
            f"for input of size {shape_list(x)}"
        )
    return found


def _prepare(kind: str, n: int, input: ArrayLike, output_size: OutputSize) -> tuple[jax.Array, tuple[int, ...]]:
    x, name = unbox(input), f"adaptive_{kind}_pool{n}d"
    out = _sizes(name, n, x, output_size)
    # As torch: no channels are an average of nothing in one and two dimensions, and an error elsewhere.
    first = x.ndim - n if kind == "avg" and n < 3 else 1
    if 0 in x.shape[first:]:
        raise RuntimeError(
            f"{name}(): Expected input to have non-zero size for non-batch dimensions, "
            f"but input has sizes {shape_list(x)}"
        )
    require_floating(x, name)
    return x, out


def adaptive_avg_pool1d(input: ArrayLike, output_size: OutputSize) -> jax.Array:
    """Cut a signal into a grid of `output_size` cells, which overlap where it doesn't divide, and take their means.

    Args:
        input: the signals.
        output_size: `L_out`, one number.

    Shape:
        - Input: `(N, C, L)` or `(C, L)`.
        - Output: `(N, C, L_out)` or `(C, L_out)`, where cell `i` of `n` is
          `floor(i L / n) : ceil((i + 1) L / n)`.

    Raises:
        RuntimeError: the input has another rank or an empty dimension, or `output_size` isn't one size.
        TypeError: `output_size` isn't made of ints.
        NotImplementedError: the input is not floating-point.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn import functional as F
        >>> F.adaptive_avg_pool1d(jnp.arange(5.0).reshape(1, 1, 5), 2).tolist()
        [[[1.0, 3.0]]]
    """
    x, out = _prepare("avg", 1, input, output_size)
    return _adaptive_avg_pool(x, out=out)


def adaptive_avg_pool2d(input: ArrayLike, output_size: OutputSize) -> jax.Array:
    """Cut an image into a grid of `output_size` cells, which overlap where it doesn't divide, and take their means.

    Args:
        input: the images.
        output_size: `(H_out, W_out)`, None for what keeps its size, or one number for both.

    Shape:
        - Input: `(N, C, H, W)` or `(C, H, W)`.
        - Output: `(N, C, H_out, W_out)` or `(C, H_out, W_out)`, where cell `i` of `n` is
          `floor(i H / n) : ceil((i + 1) H / n)`.

    Raises:
        RuntimeError: the input has another rank or an empty dimension, or `output_size` isn't two sizes.
        ValueError: `output_size` is a tuple and the input has fewer than 3 dimensions.
        TypeError: `output_size` isn't made of ints.
        NotImplementedError: the input is not floating-point.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn import functional as F
        >>> F.adaptive_avg_pool2d(jnp.arange(6.0).reshape(1, 1, 2, 3), (1, 2))[0, 0].tolist()
        [[2.0, 3.0]]
    """
    x, out = _prepare("avg", 2, input, output_size)
    return _adaptive_avg_pool(x, out=out)


@autocasts
def adaptive_avg_pool3d(input: ArrayLike, output_size: OutputSize) -> jax.Array:
    """Cut a volume into a grid of `output_size` cells, which overlap where it doesn't divide, and take their means.

    Args:
        input: the volumes.
        output_size: `(D_out, H_out, W_out)`, None for what keeps its size, or one number for all.

    Shape:
        - Input: `(N, C, D, H, W)` or `(C, D, H, W)`.
        - Output: `(N, C, D_out, H_out, W_out)` or `(C, D_out, H_out, W_out)`, where cell `i` of `n` is
          `floor(i D / n) : ceil((i + 1) D / n)`.

    Raises:
        RuntimeError: the input has another rank or an empty dimension, or `output_size` isn't three sizes.
        ValueError: `output_size` is a tuple and the input has fewer than 4 dimensions.
        TypeError: `output_size` isn't made of ints.
        NotImplementedError: the input is not floating-point.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn import functional as F
        >>> F.adaptive_avg_pool3d(jnp.ones((2, 3, 8, 9, 10)), (5, None, 2)).shape
        (2, 3, 5, 9, 2)
    """
    x, out = _prepare("avg", 3, input, output_size)
    return _adaptive_avg_pool(x, out=out)


@overload
def adaptive_max_pool1d(
    input: ArrayLike, output_size: OutputSize, return_indices: Literal[False] = False
) -> jax.Array: ...
@overload
def adaptive_max_pool1d(
    input: ArrayLike, output_size: OutputSize, return_indices: Literal[True]
) -> tuple[jax.Array, jax.Array]: ...
@overload
def adaptive_max_pool1d(input: ArrayLike, output_size: OutputSize, return_indices: bool = False) -> Pooled: ...
def adaptive_max_pool1d(input: ArrayLike, output_size: OutputSize, return_indices: bool = False) -> Pooled:
    """Cut a signal into a grid of `output_size` cells, as `adaptive_avg_pool1d`, and take their largest elements.

    Args:
        input: the signals.
        output_size: `L_out`, one number.
        return_indices: return the maxima's flat indices in `L` as well, in JAX's default integer dtype.

    Shape:
        - Input: `(N, C, L)` or `(C, L)`.
        - Output: `(N, C, L_out)` or `(C, L_out)`.

    Raises:
        RuntimeError: the input has another rank or an empty dimension, or `output_size` isn't one size.
        TypeError: `output_size` isn't made of ints.
        NotImplementedError: the input is not floating-point.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn import functional as F
        >>> F.adaptive_max_pool1d(jnp.arange(5.0).reshape(1, 1, 5), 2).tolist()
        [[[2.0, 4.0]]]
    """
    x, out = _prepare("max", 1, input, output_size)
    return _adaptive_max_pool(x, out=out, return_indices=bool(return_indices))


@overload
def adaptive_max_pool2d(
    input: ArrayLike, output_size: OutputSize, return_indices: Literal[False] = False
) -> jax.Array: ...
@overload
def adaptive_max_pool2d(
    input: ArrayLike, output_size: OutputSize, return_indices: Literal[True]
) -> tuple[jax.Array, jax.Array]: ...
@overload
def adaptive_max_pool2d(input: ArrayLike, output_size: OutputSize, return_indices: bool = False) -> Pooled: ...
def adaptive_max_pool2d(input: ArrayLike, output_size: OutputSize, return_indices: bool = False) -> Pooled:
    """Cut an image into a grid of `output_size` cells, as `adaptive_avg_pool2d`, and take their largest elements.

    Args:
        input: the images.
        output_size: `(H_out, W_out)`, None for what keeps its size, or one number for both.
        return_indices: return the maxima's flat indices in `H * W` as well, in JAX's default integer dtype.

    Shape:
        - Input: `(N, C, H, W)` or `(C, H, W)`.
        - Output: `(N, C, H_out, W_out)` or `(C, H_out, W_out)`.

    Raises:
        RuntimeError: the input has another rank or an empty dimension, or `output_size` isn't two sizes.
        ValueError: `output_size` is a tuple and the input has fewer than 3 dimensions.
        TypeError: `output_size` isn't made of ints.
        NotImplementedError: the input is not floating-point.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn import functional as F
        >>> F.adaptive_max_pool2d(jnp.arange(6.0).reshape(1, 1, 2, 3), (1, 2))[0, 0].tolist()
        [[4.0, 5.0]]
    """
    x, out = _prepare("max", 2, input, output_size)
    return _adaptive_max_pool(x, out=out, return_indices=bool(return_indices))


@overload
def adaptive_max_pool3d(
    input: ArrayLike, output_size: OutputSize, return_indices: Literal[False] = False
) -> jax.Array: ...
@overload
def adaptive_max_pool3d(
    input: ArrayLike, output_size: OutputSize, return_indices: Literal[True]
) -> tuple[jax.Array, jax.Array]: ...
@overload
def adaptive_max_pool3d(input: ArrayLike, output_size: OutputSize, return_indices: bool = False) -> Pooled: ...
@autocasts
def adaptive_max_pool3d(input: ArrayLike, output_size: OutputSize, return_indices: bool = False) -> Pooled:
    """Cut a volume into a grid of `output_size` cells, as `adaptive_avg_pool3d`, and take their largest elements.

    Args:
        input: the volumes.
        output_size: `(D_out, H_out, W_out)`, None for what keeps its size, or one number for all.
        return_indices: return the maxima's flat indices in `D * H * W` as well, in JAX's default integer dtype.

    Shape:
        - Input: `(N, C, D, H, W)` or `(C, D, H, W)`.
        - Output: `(N, C, D_out, H_out, W_out)` or `(C, D_out, H_out, W_out)`.

    Raises:
        RuntimeError: the input has another rank or an empty dimension, or `output_size` isn't three sizes.
        ValueError: `output_size` is a tuple and the input has fewer than 4 dimensions.
        TypeError: `output_size` isn't made of ints.
        NotImplementedError: the input is not floating-point.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn import functional as F
        >>> F.adaptive_max_pool3d(jnp.ones((2, 3, 8, 9, 10)), (5, None, 2)).shape
        (2, 3, 5, 9, 2)
    """
    x, out = _prepare("max", 3, input, output_size)
    return _adaptive_max_pool(x, out=out, return_indices=bool(return_indices))

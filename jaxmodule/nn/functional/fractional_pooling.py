"""Fractional max pooling: windows of a fixed shape at steps drawn at random (Graham, 2014)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, overload

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ...core.box import unbox
from ...random import next_key
from ._autocast import autocasts
from ._common import ArrayLike, IntOrTuple, compiled, opmath_dtype, shape_list
from ._pool_maximum import choose_laid
from ._pool_windows import per_dimension, require_floating

__all__ = [
    "fractional_max_pool2d",
    "fractional_max_pool3d",
]

Ratio = float | Sequence[float]
Pooled = jax.Array | tuple[jax.Array, jax.Array]


def _starts(sample: jax.Array, size: int, kernel: int, out: int) -> jax.Array:
    """Where each of `out` windows begins: `floor((i + u) a) - floor(u a)`, and the last at the end.

    Each operation is rounded to the sample's dtype, as in torch: a step that is one off is another window.
    """
    last = jnp.full((*sample.shape, 1), size - kernel, jnp.int32)
    if out == 1:
        return last
    info = jnp.finfo(sample.dtype)

    def rounded(x: jax.Array) -> jax.Array:
        return lax.reduce_precision(x, info.nexp, info.nmant)

    wide = opmath_dtype(sample.dtype)
    alpha = float(np.divide(np.asarray(size - kernel, sample.dtype), np.asarray(out - 1, sample.dtype)))
    u = sample.astype(wide)[..., None]
    i = jnp.arange(out - 1).astype(wide).reshape((1,) * sample.ndim + (-1,))
    ahead, offset = rounded(rounded(i + u) * alpha), rounded(u * alpha)
    return jnp.concatenate([ahead.astype(jnp.int32) - offset.astype(jnp.int32), last], -1)


def _search(x: jax.Array, samples: jax.Array, kernel: tuple[int, ...], out: tuple[int, ...]) -> jax.Array:
    """The flat index of each window's maximum; `x` is `(N, C, *sizes)`, `samples` one number a plane and dimension."""
    n, best = len(kernel), x
    flat, scale = jnp.zeros((), jnp.int32), 1
    for d in reversed(range(n)):
        axis = d + 2
        # torch's order: width first in two dimensions, depth first in three.
        sample = samples[..., n - 1 - d if n == 2 else d]
        starts = _starts(sample, x.shape[axis], kernel[d], out[d])
        shape = (*starts.shape[:2], *(1,) * d, out[d], *(1,) * (n - 1 - d))
        spread = starts[..., None] + jnp.arange(kernel[d], dtype=jnp.int32).reshape(1, 1, 1, -1)
        index = spread.reshape(*shape[:axis], out[d] * kernel[d], *shape[axis + 1 :])
        laid = jnp.take_along_axis(best, index, axis, mode="clip")
        laid = laid.reshape(*best.shape[:axis], out[d], kernel[d], *best.shape[axis + 1 :])
        best, chosen = choose_laid(laid, axis)
        position = chosen + jnp.broadcast_to(starts.reshape(shape), chosen.shape)
        carried = jnp.take_along_axis(flat, position, axis, mode="clip") if flat.ndim else flat
        flat = jnp.broadcast_to(carried, position.shape) + position * scale
        scale *= x.shape[axis]
    return flat.astype(int)


@compiled("kernel", "out")
def _fractional_max_pool(
    x: jax.Array, samples: jax.Array, *, kernel: tuple[int, ...], out: tuple[int, ...]
) -> tuple[jax.Array, jax.Array]:
    n = len(kernel)
    batched = x if x.ndim == n + 2 else x[None]
    planes, shape = batched.shape[:2], (*x.shape[: x.ndim - n], *out)
    if 0 in shape:
        return jnp.zeros(shape, x.dtype), jnp.zeros(shape, int)
    index = _search(lax.stop_gradient(batched), samples[: planes[0]], kernel, out)
    value = jnp.take_along_axis(batched.reshape(*planes, -1), index.reshape(*planes, -1), 2, mode="clip")
    return value.reshape(shape), index.reshape(shape)


def _fractional_max_pool_nd(
    n: int,
    input: ArrayLike,
    kernel_size: IntOrTuple,
    output_size: IntOrTuple | None,
    output_ratio: Ratio | None,
    samples: ArrayLike | None,
) -> tuple[jax.Array, jax.Array]:
    x, name = unbox(input), f"fractional_max_pool{n}d"
    if output_size is None and output_ratio is None:
        raise ValueError(f"{name} requires specifying either an output_size or an output_ratio")
    if x.ndim not in (n + 1, n + 2):
        message = f"{name}(): Expected {n + 1}D or {n + 2}D tensor, but got: {shape_list(x)}"
        raise (IndexError if x.ndim <= n else RuntimeError)(message)
    if output_size is None:
        ratios = tuple(output_ratio) if isinstance(output_ratio, Sequence) else (output_ratio,) * n
        if len(ratios) != n:
            raise ValueError(f"{name} requires output_ratio to be a single number or {n}, but got {output_ratio}")
        output_size = tuple(int(size * ratio) for size, ratio in zip(x.shape[-n:], ratios, strict=True))
    if 0 in x.shape[1:]:
        raise RuntimeError(
            f"{name}(): Expected input to have non-zero size for non-batch dimensions, but got {shape_list(x)}"
        )
    require_floating(x, name)
    kernel, out = (
        _sizes(name, argument, value, n)
        for argument, value in (("kernel_size", kernel_size), ("output_size", output_size))
    )
    for size, k, o in zip(x.shape[-n:], kernel, out, strict=True):
        # In three dimensions torch refuses a window at every place, too.
        if k + o - 1 > size - (n == 3):
            raise RuntimeError(
                f"{name}(): kernel_size {kernel} and output_size {out} too large relative to input {shape_list(x)}"
            )
    planes = (1 if x.ndim == n + 1 else x.shape[0], x.shape[-n - 1])
    if samples is None:
        drawn = jax.random.uniform(next_key(), (*planes, n), x.dtype)
    else:
        drawn = unbox(samples)
        _check_samples(name, drawn, x, planes, n)
    return _fractional_max_pool(x, drawn, kernel=kernel, out=out)


def _sizes(name: str, argument: str, value: IntOrTuple, n: int) -> tuple[int, ...]:
    if isinstance(value, Sequence) and len(value) != n:
        raise RuntimeError(f"{name}: {argument} must either be a single Int or tuple of {n} Ints, but got {value}")
    sizes = per_dimension(name, argument, value, n)
    if min(sizes) < (argument == "kernel_size"):
        raise RuntimeError(f"{name}: {argument} must not be negative, nor a window empty, but got {sizes}")
    return sizes


def _check_samples(name: str, samples: jax.Array, x: jax.Array, planes: tuple[int, int], n: int) -> None:
    expected = f"{name}: Expect _random_samples to be {[*planes, n]} and {x.dtype.name}, for input {shape_list(x)}"
    if samples.dtype != x.dtype:
        raise RuntimeError(f"{expected} (the same dtype as input), but got {samples.dtype.name}")
    fits = samples.ndim == 3 and samples.shape[0] >= planes[0] and samples.shape[1:] == (planes[1], n)
    if not fits:
        raise RuntimeError(f"{expected}, but got {shape_list(samples)}")


@overload
def fractional_max_pool2d(
    input: ArrayLike,
    kernel_size: IntOrTuple,
    output_size: IntOrTuple | None = None,
    output_ratio: Ratio | None = None,
    return_indices: Literal[False] = False,
    _random_samples: ArrayLike | None = None,
) -> jax.Array: ...
@overload
def fractional_max_pool2d(
    input: ArrayLike,
    kernel_size: IntOrTuple,
    output_size: IntOrTuple | None = None,
    output_ratio: Ratio | None = None,
    *,
    return_indices: Literal[True],
    _random_samples: ArrayLike | None = None,
) -> tuple[jax.Array, jax.Array]: ...
@overload
def fractional_max_pool2d(
    input: ArrayLike,
    kernel_size: IntOrTuple,
    output_size: IntOrTuple | None = None,
    output_ratio: Ratio | None = None,
    return_indices: bool = False,
    _random_samples: ArrayLike | None = None,
) -> Pooled: ...
@autocasts
def fractional_max_pool2d(
    input: ArrayLike,
    kernel_size: IntOrTuple,
    output_size: IntOrTuple | None = None,
    output_ratio: Ratio | None = None,
    return_indices: bool = False,
    _random_samples: ArrayLike | None = None,
) -> Pooled:
    """The largest element of windows at random steps of an image, so that there are `output_size` of them.

    Args:
        input: the images.
        kernel_size: the window's extent, one number or `(vertical, horizontal)`.
        output_size: the number of windows, likewise.
        output_ratio: or that number as a fraction of the input's size, one or one a dimension.
        return_indices: return the maxima's flat indices in `H * W` as well, in JAX's default integer dtype.
        _random_samples: numbers in [0, 1) that decide where the windows begin, one a plane and dimension, of the
            input's dtype; drawn from the default generator if None. torch's give torch's windows.

    Shape:
        - Input: `(N, C, H, W)` or `(C, H, W)`; `_random_samples`: `(N, C, 2)`, `N = 1` without a batch.
        - Output: `(N, C, H_out, W_out)` or `(C, H_out, W_out)`, and
          `kernel_size + H_out - 1` is at most `H`.

    Raises:
        ValueError: there is neither an output size nor a ratio, or not as many ratios as dimensions.
        RuntimeError: the input has another rank, the windows don't fit, or the samples' shape or dtype doesn't. (As in
            torch, IndexError if the rank is below 3.)
        NotImplementedError: the input is not floating-point.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn import functional as F
        >>> F.fractional_max_pool2d(jnp.ones((20, 16, 50, 32)), 3, output_ratio=(0.5, 0.5)).shape
        (20, 16, 25, 16)
    """
    both = _fractional_max_pool_nd(2, input, kernel_size, output_size, output_ratio, _random_samples)
    return both if return_indices else both[0]


@overload
def fractional_max_pool3d(
    input: ArrayLike,
    kernel_size: IntOrTuple,
    output_size: IntOrTuple | None = None,
    output_ratio: Ratio | None = None,
    return_indices: Literal[False] = False,
    _random_samples: ArrayLike | None = None,
) -> jax.Array: ...
@overload
def fractional_max_pool3d(
    input: ArrayLike,
    kernel_size: IntOrTuple,
    output_size: IntOrTuple | None = None,
    output_ratio: Ratio | None = None,
    *,
    return_indices: Literal[True],
    _random_samples: ArrayLike | None = None,
) -> tuple[jax.Array, jax.Array]: ...
@overload
def fractional_max_pool3d(
    input: ArrayLike,
    kernel_size: IntOrTuple,
    output_size: IntOrTuple | None = None,
    output_ratio: Ratio | None = None,
    return_indices: bool = False,
    _random_samples: ArrayLike | None = None,
) -> Pooled: ...
@autocasts
def fractional_max_pool3d(
    input: ArrayLike,
    kernel_size: IntOrTuple,
    output_size: IntOrTuple | None = None,
    output_ratio: Ratio | None = None,
    return_indices: bool = False,
    _random_samples: ArrayLike | None = None,
) -> Pooled:
    """The largest element of windows at random steps of a volume, so that there are `output_size` of them.

    Args:
        input: the volumes.
        kernel_size: the window's extent, one number or one a dimension.
        output_size: the number of windows, likewise.
        output_ratio: or that number as a fraction of the input's size, one or one a dimension.
        return_indices: return the maxima's flat indices in `D * H * W` as well, in JAX's default integer dtype.
        _random_samples: numbers in [0, 1) that decide where the windows begin, one a plane and dimension, of the
            input's dtype; drawn from the default generator if None. torch's give torch's windows.

    Shape:
        - Input: `(N, C, D, H, W)` or `(C, D, H, W)`; `_random_samples`: `(N, C, 3)`, `N = 1` without a batch.
        - Output: `(N, C, D_out, H_out, W_out)` or `(C, D_out, H_out, W_out)`, and
          `kernel_size + D_out - 1` is less than `D`.

    Raises:
        ValueError: there is neither an output size nor a ratio, or not as many ratios as dimensions.
        RuntimeError: the input has another rank, the windows don't fit, or the samples' shape or dtype doesn't. (As in
            torch, IndexError if the rank is below 4.)
        NotImplementedError: the input is not floating-point.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn import functional as F
        >>> F.fractional_max_pool3d(jnp.ones((2, 3, 10, 8, 6)), 2, output_size=(4, 3, 2)).shape
        (2, 3, 4, 3, 2)
    """
    both = _fractional_max_pool_nd(3, input, kernel_size, output_size, output_ratio, _random_samples)
    return both if return_indices else both[0]

"""The partial inverse of max pooling: what was the maximum goes back to where it came from."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from ...core.box import unbox
from ._autocast import autocasts
from ._common import ArrayLike, IntOrTuple, compiled, concrete_range, is_integer, shape_list, signed_index
from ._pool_windows import require_floating

__all__ = ["max_unpool1d", "max_unpool2d", "max_unpool3d"]


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def _place(x: jax.Array, index: jax.Array, size: int) -> jax.Array:
    """`(rows, k)` values at their places in `(rows, size)` zeros."""
    rows = jnp.arange(x.shape[0])[:, None]
    return jnp.zeros((x.shape[0], size), x.dtype).at[rows, index].set(x, mode="drop")


@_place.defjvp
def _place_jvp(size: int, primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
    # Where indices repeat one value stays, but torch gives each of them the gradient: adding transposes to reading.
    x, index = primals
    rows = jnp.arange(x.shape[0])[:, None]
    moved = jnp.zeros((x.shape[0], size), x.dtype).at[rows, index].add(tangents[0], mode="drop")
    return _place(x, index, size), moved


@compiled("out")
def _max_unpool(x: jax.Array, index: jax.Array, *, out: tuple[int, ...]) -> jax.Array:
    lead, size = x.shape[: x.ndim - len(out)], math.prod(out)
    shape = (*lead, *out)
    if 0 in shape:
        return jnp.zeros(shape, x.dtype)
    index = jnp.where(index < 0, size, index)  # a negative index counts from the end in JAX, and is an error in torch
    rows = math.prod(lead)
    return _place(x.reshape(rows, -1), index.reshape(rows, -1), size).reshape(shape)


def _ints(name: str, argument: str, value: IntOrTuple, n: int, *, short: type[Exception]) -> tuple[int, ...]:
    values = tuple(value) if isinstance(value, Sequence) else (value,) * n
    if len(values) != n:
        kind = short if len(values) < n else IndexError if argument == "kernel_size" else RuntimeError
        raise kind(f"{name}: {argument} must be an int or a tuple of {n} ints, but got {values}")
    return tuple(map(operator.index, values))


def _output_size(
    x: jax.Array,
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    wanted: Sequence[int] | None,
) -> tuple[int, ...]:
    """The size that pooling came from: what fits, or of the sizes that fit the one wanted."""
    n = len(kernel)
    default = [(size - 1) * s + k - 2 * p for size, k, s, p in zip(x.shape[-n:], kernel, stride, padding, strict=True)]
    out = default
    if wanted is not None:
        out = list(wanted)[2:] if len(wanted) == n + 2 else list(wanted)
        if len(out) != n:
            raise ValueError(
                f"output_size should be a sequence containing {n} or {n + 2} elements, "
                f"but it has a length of '{len(wanted)}'"
            )
        for d in range(n):
            low, high = default[d] - stride[d], default[d] + stride[d]
            if not low < out[d] < high:
                raise ValueError(
                    f'invalid output_size "{tuple(out)}" (dim {d} must be between {low} and {high}) '
                    f"for input of size {shape_list(x)}"
                )
    if min(out) < 0:
        raise ValueError(
            f"max_unpooling: output_size must contain non-negative spatial dimensions, but got {tuple(out)} "
            f"for input of size {shape_list(x)}"
        )
    return tuple(map(operator.index, out))


def _max_unpool_nd(
    n: int,
    input: ArrayLike,
    indices: ArrayLike,
    kernel_size: IntOrTuple,
    stride: IntOrTuple | None,
    padding: IntOrTuple,
    output_size: Sequence[int] | None,
) -> jax.Array:
    x, index, name = unbox(input), unbox(indices), f"max_unpool{n}d"
    if x.ndim not in (n + 1, n + 2):
        message = f"Input to {name} should be a {n + 1}d or {n + 2}d Tensor, but got a tensor of size {shape_list(x)}"
        raise (IndexError if x.ndim < n else RuntimeError)(message)
    kernel = _ints(name, "kernel_size", kernel_size, n, short=RuntimeError)
    strides = kernel if stride is None else _ints(name, "stride", stride, n, short=IndexError)
    pads = _ints(name, "padding", padding, n, short=IndexError)
    out = _output_size(x, kernel, strides, pads, output_size)
    if n == 3 and min(strides) <= 0:
        raise RuntimeError(f"{name}: strides should be greater than zero, but got stride: {list(strides)}")
    if not is_integer(index):
        raise RuntimeError(f"{name}: elements in indices should be of an integer type but got: {index.dtype.name}")
    if index.shape != x.shape:
        raise RuntimeError(
            f"{name}: Expected shape of indices to be same as that of the input tensor ({shape_list(x)}) "
            f"but got indices tensor with shape: {shape_list(index)}"
        )
    if 0 in x.shape[1:]:
        raise RuntimeError(
            f"{name}: Expected input to have non-zero size for non-batch dimensions, but got {shape_list(x)}"
        )
    require_floating(x, name)
    index = signed_index(index)
    extremes = concrete_range(index) if math.prod(out) else None
    if extremes is not None and (extremes[0] < 0 or extremes[1] >= math.prod(out)):
        wrong = extremes[0] if extremes[0] < 0 else extremes[1]
        raise RuntimeError(
            f"{name}: Found an invalid max index: {wrong} (output volumes are of size {'x'.join(map(str, out))}, "
            f"the input is {shape_list(x)})"
        )
    return _max_unpool(x, index, out=out)


@autocasts
def max_unpool1d(
    input: ArrayLike,
    indices: ArrayLike,
    kernel_size: IntOrTuple,
    stride: IntOrTuple | None = None,
    padding: IntOrTuple = 0,
    output_size: Sequence[int] | None = None,
) -> jax.Array:
    """Put maxima back to where `max_pool1d` found them, and zeros elsewhere.

    Args:
        input: the maxima.
        indices: their indices, as `max_pool1d(return_indices=True)` returns them.
        kernel_size: the pooling window's extent.
        stride: the step between windows; None is `kernel_size`.
        padding: the pooling's padding.
        output_size: the size before pooling, `(L_out)` or `(N, C, L_out)`: several give the same pooled size.

    Shape:
        - Input and indices: `(N, C, L)` or `(C, L)`.
        - Output: `(N, C, L_out)` or `(C, L_out)`, where by default `L_out = (L - 1) stride - 2 padding + kernel_size`;
          `output_size` differs from that by less than `stride`.

    Raises:
        RuntimeError: the input's rank is another, the indices' shape or dtype doesn't fit, or an index is out of range
            (where their values are known).
        ValueError: `output_size` has another length or is none that could have been pooled.
        NotImplementedError: the input is not floating-point.

    Note:
        Indices of any integer dtype are taken. One out of range writes nothing in a compiled program. If indices
        repeat, one of their values is written, on CPU the last.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn import functional as F
        >>> y, index = F.max_pool1d(jnp.array([[[1.0, 3.0, 4.0, 2.0]]]), 2, return_indices=True)
        >>> F.max_unpool1d(y, index, 2).tolist()
        [[[0.0, 3.0, 4.0, 0.0]]]
    """
    return _max_unpool_nd(1, input, indices, kernel_size, stride, padding, output_size)


@autocasts
def max_unpool2d(
    input: ArrayLike,
    indices: ArrayLike,
    kernel_size: IntOrTuple,
    stride: IntOrTuple | None = None,
    padding: IntOrTuple = 0,
    output_size: Sequence[int] | None = None,
) -> jax.Array:
    """Put maxima back to where `max_pool2d` found them, and zeros elsewhere: `max_unpool1d` over two dimensions.

    Args:
        input: the maxima.
        indices: their flat indices in `H_out * W_out`, as `max_pool2d(return_indices=True)` returns them.
        kernel_size: the pooling window's extent, one number or `(vertical, horizontal)`, as the two below.
        stride: the step between windows; None is `kernel_size`.
        padding: the pooling's padding.
        output_size: the size before pooling, `(H_out, W_out)` or `(N, C, H_out, W_out)`.

    Shape:
        - Input and indices: `(N, C, H, W)` or `(C, H, W)`.
        - Output: `(N, C, H_out, W_out)` or `(C, H_out, W_out)`, sizes as in `max_unpool1d`.

    Raises: as `max_unpool1d`.

    Note: as `max_unpool1d`.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn import functional as F
        >>> F.max_unpool2d(jnp.array([[[9.0]]]), jnp.array([[[2]]]), 2).tolist()
        [[[0.0, 0.0], [9.0, 0.0]]]
    """
    return _max_unpool_nd(2, input, indices, kernel_size, stride, padding, output_size)


@autocasts
def max_unpool3d(
    input: ArrayLike,
    indices: ArrayLike,
    kernel_size: IntOrTuple,
    stride: IntOrTuple | None = None,
    padding: IntOrTuple = 0,
    output_size: Sequence[int] | None = None,
) -> jax.Array:
    """Put maxima back to where `max_pool3d` found them, and zeros elsewhere: `max_unpool1d` over three dimensions.

    Args:
        input: the maxima.
        indices: their flat indices in `D_out * H_out * W_out`, as `max_pool3d(return_indices=True)` returns them.
        kernel_size: the pooling window's extent, one number or one a dimension, as the two below.
        stride: the step between windows; None is `kernel_size`.
        padding: the pooling's padding.
        output_size: the size before pooling, `(D_out, H_out, W_out)` or with `(N, C)` in front.

    Shape:
        - Input and indices: `(N, C, D, H, W)` or `(C, D, H, W)`.
        - Output: `(N, C, D_out, H_out, W_out)` or `(C, D_out, H_out, W_out)`, sizes as in `max_unpool1d`.

    Raises: as `max_unpool1d`. RuntimeError also for a stride that isn't positive.

    Note: as `max_unpool1d`.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn import functional as F
        >>> F.max_unpool3d(jnp.full((1, 1, 1, 1), 9.0), jnp.full((1, 1, 1, 1), 7), 2)[0, 1].tolist()
        [[0.0, 0.0], [0.0, 9.0]]
    """
    return _max_unpool_nd(3, input, indices, kernel_size, stride, padding, output_size)

"""What convolutions and transposed convolutions share: torch's checks, and how the one primitive is called."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from ._common import IntOrTuple, compiled, shape_list
from ._conv_primitive import convolution
from ._conv_xla import INPUT, OUTPUT, Geometry, Ints, Pads
from ._windows import integers


@compiled("stride", "pads", "dilation", "groups")
def convolve(
    x: jax.Array,
    weight: jax.Array,
    bias: jax.Array | None,
    *,
    stride: Ints,
    pads: Pads,
    dilation: Ints,
    groups: int,
) -> jax.Array:
    """A convolution of a batch or of one signal."""
    n = len(stride)
    batched = x if x.ndim == n + 2 else x[None]
    geometry = Geometry(batched.shape[2:], weight.shape[2:], stride, pads, dilation, groups)
    return _finish(x, convolution(OUTPUT, batched, weight, geometry), bias, n)


@compiled("stride", "padding", "size", "dilation", "groups")
def convolve_transposed(
    x: jax.Array,
    weight: jax.Array,
    bias: jax.Array | None,
    *,
    stride: Ints,
    padding: Ints,
    size: Ints,
    dilation: Ints,
    groups: int,
) -> jax.Array:
    """The transpose by its input, of this `size`, of the convolution with these arguments."""
    n = len(stride)
    batched = x if x.ndim == n + 2 else x[None]
    kernel = weight.shape[2:]
    # What makes the windows as many as the input's elements: an output padding may reach where no window begins.
    ends = [
        (count - 1) * s + d * (k - 1) + 1 - out - p
        for count, s, d, k, out, p in zip(batched.shape[2:], stride, dilation, kernel, size, padding, strict=True)
    ]
    geometry = Geometry(size, kernel, stride, tuple(zip(padding, ends, strict=True)), dilation, groups)
    return _finish(x, convolution(INPUT, weight, batched, geometry), bias, n)


def _finish(x: jax.Array, y: jax.Array, bias: jax.Array | None, n: int) -> jax.Array:
    if bias is not None:
        y = y + bias.astype(y.dtype).reshape((1, -1) + (1,) * n)
    return y if x.ndim == n + 2 else y[0]


def same_pads(kernel_size: Sequence[int], dilation: Sequence[int]) -> Pads:
    """The padding of `padding="same"`: where the total is odd, the larger half comes after, as in torch."""
    totals = [d * (k - 1) for k, d in zip(kernel_size, dilation, strict=True)]
    return tuple((total // 2, total - total // 2) for total in totals)


def per_dimension(name: str, value: IntOrTuple, n: int) -> Ints:
    """One integer for each of `n` dimensions.

    Raises:
        RuntimeError: there is neither one integer nor `n`.
        TypeError: they aren't integers.
    """
    values = integers(name, value)
    if len(values) == 1:
        values = values * n
    if len(values) != n:
        raise RuntimeError(
            f"expected {name} to be a single integer value or a list of {n} values "
            f"to match the convolution dimensions, but got {name}={list(values)}"
        )
    return values


def check_ranks(name: str, n: int, x: jax.Array, w: jax.Array) -> None:
    """Raise a RuntimeError unless `x` is a signal of `n` dimensions or a batch of them, and `w` kernels for it."""
    if x.ndim not in (n + 1, n + 2):
        raise RuntimeError(
            f"Expected {n + 1}D (unbatched) or {n + 2}D (batched) input to {name}, "
            f"but got input of size: {shape_list(x)} with weight of size: {shape_list(w)}"
        )
    if w.ndim != n + 2:
        raise RuntimeError(
            f"expected a {n + 2}D weight to match the convolution dimensions of {name}, "
            f"but got weight of size {shape_list(w)} for input of size {shape_list(x)}"
        )


def check_steps(stride: Ints, dilation: Ints) -> None:
    """Raise a RuntimeError unless windows and their elements move forwards."""
    if min(stride) <= 0:
        raise RuntimeError(f"non-positive stride is not supported, but got {list(stride)}")
    if min(dilation) <= 0:
        raise RuntimeError(f"dilation should be greater than zero, but got {list(dilation)}")


def check_weight(x: jax.Array, w: jax.Array, b: jax.Array | None, groups: int, *, transposed: bool) -> None:
    """Raise a RuntimeError unless the weight's and the bias's shapes fit each other, the groups and the input."""
    if groups <= 0:
        raise RuntimeError(f"non-positive groups is not supported, but got {groups}")
    if w.shape[0] < groups or w.shape[0] % groups:
        raise RuntimeError(
            f"Given groups={groups}, expected weight to be at least {groups} and to be divisible by {groups} "
            f"at dimension 0, but got weight of size {shape_list(w)} instead"
        )
    if 0 in w.shape[2:]:
        raise RuntimeError(f"kernel size should be greater than zero, but got weight of size {shape_list(w)}")
    what = f"Given transposed={int(transposed)}, groups={groups}, weight of size {shape_list(w)}, expected"
    expected = w.shape[0] if transposed else w.shape[1] * groups
    channels = x.shape[1 - w.ndim]
    if channels != expected:
        raise RuntimeError(
            f"{what} input{shape_list(x)} to have {expected} channels, but got {channels} channels instead"
        )
    outputs = w.shape[1] * groups if transposed else w.shape[0]
    if b is not None and b.shape != (outputs,):
        raise RuntimeError(
            f"{what} bias to be 1-dimensional with {outputs} elements, but got bias of size {shape_list(b)} instead"
        )


def check_dtypes(x: jax.Array, w: jax.Array, name: str) -> None:
    """Raise unless input and weight have one dtype, and one that is computed with.

    Raises:
        RuntimeError: they have two.
        NotImplementedError: it is bool.
    """
    if x.dtype != w.dtype:
        raise RuntimeError(f"Input type ({x.dtype.name}) and weight type ({w.dtype.name}) should be the same")
    if x.dtype == jnp.bool_:
        raise NotImplementedError(f"{name} is not implemented for bool: cast input and weight to another dtype")


def check_not_empty(x: jax.Array, n: int) -> None:
    """Raise a RuntimeError where there are signals, but with an empty dimension."""
    batch = x.shape[0] if x.ndim == n + 2 else 1
    if 0 in x.shape[-n:] and batch and x.shape[-n - 1]:
        raise RuntimeError(
            f"Only zero batch or zero channel inputs are supported, but got input shape: {shape_list(x)}"
        )

"""What convolutions and transposed convolutions share: torch's checks, and how they are computed.

A convolution is XLA's own everywhere. A 1x1 kernel as an einsum on CPU was tried: it was faster forwards, and slower
forwards and backwards together.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from ._common import IntOrTuple, compiled, opmath_dtype, shape_list
from ._windows import Window, fold_axes, integers

Ints = tuple[int, ...]
Pads = tuple[tuple[int, int], ...]

_SPATIAL = {1: "W", 2: "HW", 3: "DHW"}


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
    y = _general(batched, weight, stride, pads, (1,) * n, dilation, groups)
    return _finish(x, y, bias, n)


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
    shared = {"stride": stride, "padding": padding, "size": size, "dilation": dilation, "groups": groups}
    general = functools.partial(_transposed, **shared)
    if max(stride) == 1 and groups == 1:
        y = general(batched, weight)
    else:
        # XLA's is slow on CPU. 16x128x16x16, 4x4 kernel, stride 2, 64 channels out: weight gradient 1,360 ms to 34;
        # 2x64x8x16x16, 2x2x2 kernel, stride 2: forwards 143 to 3; 8x64x32x32 with 64 groups: forwards 175 to 13.
        columns = functools.partial(_transposed_by_columns, **shared)
        y = lax.platform_dependent(batched, weight, cpu=columns, default=general)
    return _finish(x, y, bias, n)


def _finish(x: jax.Array, y: jax.Array, bias: jax.Array | None, n: int) -> jax.Array:
    if bias is not None:
        y = y + bias.astype(y.dtype).reshape((1, -1) + (1,) * n)
    return y if x.ndim == n + 2 else y[0]


def _general(
    x: jax.Array,
    weight: jax.Array,
    stride: Ints,
    pads: Pads,
    input_dilation: Ints,
    dilation: Ints,
    groups: int,
) -> jax.Array:
    layout = _SPATIAL[len(stride)]
    return lax.conv_general_dilated(
        x,
        weight,
        stride,
        pads,
        lhs_dilation=input_dilation,
        rhs_dilation=dilation,
        dimension_numbers=("NC" + layout, "OI" + layout, "NC" + layout),
        feature_group_count=groups,
    )


def _transposed(
    x: jax.Array, weight: jax.Array, *, stride: Ints, padding: Ints, size: Ints, dilation: Ints, groups: int
) -> jax.Array:
    """A convolution of the input with zeros between its elements, with the flipped kernel: what XLA recognises."""
    inputs, outputs, *kernel = weight.shape
    grouped = weight.reshape(groups, inputs // groups, outputs, *kernel).swapaxes(1, 2)
    flipped = lax.rev(grouped.reshape(groups * outputs, inputs // groups, *kernel), tuple(range(2, weight.ndim)))
    pads = []
    for n, s, p, out, d, k in zip(x.shape[2:], stride, padding, size, dilation, kernel, strict=True):
        low = d * (k - 1) - p
        pads.append((low, out + d * (k - 1) - low - ((n - 1) * s + 1)))
    return _general(x, flipped, (1,) * len(stride), tuple(pads), stride, dilation, groups)


def _transposed_by_columns(
    x: jax.Array, weight: jax.Array, *, stride: Ints, padding: Ints, size: Ints, dilation: Ints, groups: int
) -> jax.Array:
    """What each input element adds to its window, in one matrix product, and the windows added up."""
    batch, inputs, *counts = x.shape
    outputs, *kernel = weight.shape[1:]
    wide = opmath_dtype(x.dtype)
    split = x.reshape(batch, groups, inputs // groups, math.prod(counts))
    matrix = weight.reshape(groups, inputs // groups, math.prod(weight.shape[1:]))
    columns = jnp.einsum("ngcl,gck->ngkl", split, matrix, preferred_element_type=wide)
    columns = columns.reshape(batch, groups * outputs, *kernel, *counts)
    windows = [Window(*args) for args in zip(size, kernel, stride, padding, dilation, counts, strict=True)]
    return fold_axes(columns, 2, windows).astype(x.dtype)


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

"""How convolutions are spelled on CPU, where XLA's own is slow (figures: benchmarks/layers.py).

- One group in one or two dimensions: XLA's convolution, and its two gradients, with their arrays transposed to
  channels last. Outside of loops XLA does that itself; in the body of a loop it doesn't, and is 10 to 30 times slower.
- Depthwise: a sum over the kernel's taps of shifted slices times one number a channel. All of it is one loop.
- Windows that don't overlap (1x1 kernels, patches): a matrix product.
- Groups: XLA's convolution for some groups at a time. Several small groups are made into one with zeros in its weight:
  more arithmetic in less time, and fewer convolutions to compile. Where there would be very many (the weight under
  `vmap`), a sum over the taps of products of all groups: XLA's convolutions inside of a loop are slow.
- Three dimensions: XLA's convolution of two, of which the kernel's first dimension is input channels.

The gradients of the last three spellings are the transposes that JAX finds for them.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from jax import lax

from ._common import opmath_dtype
from ._conv_xla import INPUT, OUTPUT, WEIGHT, Geometry, Ints, Pads, edges_by_input, forward_by_xla, from_forward
from ._windows import Window, unfold_axes

#: Of more taps, or more convolutions, the program would be too large.
_MOST_TAPS = 128
_MOST_PARTS = 32
#: Groups are put together until they have so many channels.
_CHANNELS = 32


def spelled(wanted: int, a: jax.Array, b: jax.Array, geometry: Geometry) -> jax.Array:
    """What `_conv_primitive.convolution` gives, by the fastest spelling."""
    outputs, inputs = _channels(wanted, a, b, geometry)
    taps = math.prod(geometry.kernel) * outputs // geometry.groups
    if inputs == 1 < geometry.groups and taps <= _MOST_TAPS:
        return {OUTPUT: _depthwise, INPUT: _depthwise_by_input, WEIGHT: _depthwise_by_weight}[wanted](a, b, geometry)
    if geometry.groups == 1 and len(geometry.stride) < 3 and not _separate(geometry) and not _on_a_mesh(a, b):
        return {OUTPUT: _dense, INPUT: _dense_by_input, WEIGHT: _dense_by_weight}[wanted](a, b, geometry)
    return from_forward(functools.partial(_forward, geometry=geometry), wanted, a, b, geometry)


def _on_a_mesh(*arrays: jax.Array) -> bool:
    """Are axes of a mesh part of their types? There JAX has rules for its own transposes only."""
    return any(part is not None for x in arrays for part in jax.typeof(x).sharding.spec)


def _channels(wanted: int, a: jax.Array, b: jax.Array, geometry: Geometry) -> tuple[int, int]:
    """The first two dimensions of the weight."""
    if wanted == WEIGHT:
        return b.shape[1], a.shape[1] // geometry.groups
    weight = a if wanted == INPUT else b
    return weight.shape[0], weight.shape[1]


def _separate(geometry: Geometry) -> bool:
    """Do windows not overlap?"""
    sizes = zip(geometry.kernel, geometry.stride, geometry.dilation, strict=True)
    return all(k <= s and (d == 1 or k == 1) for k, s, d in sizes)


def _forward(x: jax.Array, weight: jax.Array, geometry: Geometry) -> jax.Array:
    if _separate(geometry):
        return _product(x, weight, geometry)
    if geometry.groups == 1:
        return _dense(x, weight, geometry)
    groups, outputs, inputs = geometry.groups, weight.shape[0] // geometry.groups, weight.shape[1]
    few = max(1, _CHANNELS // max(inputs, outputs))
    together = max(n for n in range(1, few + 1) if groups % n == 0)
    parts = groups // together
    if parts > _MOST_PARTS:
        by_taps = math.prod(geometry.kernel) <= _MOST_TAPS
        return _by_taps(x, weight, geometry) if by_taps else forward_by_xla(x, weight, geometry)
    weight = weight.reshape(parts, together, outputs, inputs, *geometry.kernel)
    weight = jax.vmap(_on_diagonal)(weight) if together > 1 else weight[:, 0]
    one = geometry._replace(groups=1)
    xs = lax.split(x, [x.shape[1] // parts] * parts, 1)
    return lax.concatenate([_dense(part, weight[i], one) for i, part in enumerate(xs)], 1)


def _by_taps(x: jax.Array, weight: jax.Array, geometry: Geometry) -> jax.Array:
    """A matrix product for each tap of the kernel, of all groups at once."""
    groups, counts = geometry.groups, _counts(geometry)
    matrices = weight.reshape(groups, weight.shape[0] // groups, *weight.shape[1:])
    terms = []
    shifted = _shifted(_pad(x, geometry.pads), geometry.kernel, geometry.stride, geometry.dilation, counts)
    for tap, part in shifted:
        matrix = matrices[(..., *tap)].astype(part.dtype)
        part = part.reshape(x.shape[0], groups, -1, math.prod(counts))
        terms.append(jnp.einsum("goi,ngit->ngot", matrix, part))
    return functools.reduce(jnp.add, terms).astype(x.dtype).reshape(x.shape[0], -1, *counts)


def _on_diagonal(weight: jax.Array) -> jax.Array:
    """The dense weight of some groups, `(groups, outputs, inputs, *kernel)`."""
    groups, _, inputs, *kernel = weight.shape
    rows = [
        lax.pad(
            weight[i],
            jnp.zeros((), weight.dtype),
            [(0, 0, 0), (i * inputs, (groups - 1 - i) * inputs, 0)] + [(0, 0, 0)] * len(kernel),
        )
        for i in range(groups)
    ]
    return lax.concatenate(rows, 0)


def _dense(x: jax.Array, weight: jax.Array, geometry: Geometry) -> jax.Array:
    if len(geometry.stride) < 3:
        ones = (1,) * len(geometry.stride)
        kernel = jnp.moveaxis(weight, (1, 0), (-2, -1))
        return _channels_last(x, kernel, geometry.stride, geometry.pads, ones, geometry.dilation)
    size, kernels, strides, pads, dilations, _ = geometry
    x = _pad(x, pads[:1])
    number = _counts(geometry)[0]
    columns = unfold_axes(x, 2, [Window(x.shape[2], kernels[0], strides[0], 0, dilations[0], number)])
    columns = jnp.moveaxis(columns, 3, 1).reshape(-1, x.shape[1] * kernels[0], *x.shape[3:])
    flat = weight.reshape(weight.shape[0], -1, *weight.shape[3:])
    y = forward_by_xla(columns, flat, Geometry(size[1:], kernels[1:], strides[1:], pads[1:], dilations[1:], 1))
    return jnp.moveaxis(y.reshape(x.shape[0], number, *y.shape[1:]), 1, 2)


def _dense_by_input(weight: jax.Array, y: jax.Array, geometry: Geometry) -> jax.Array:
    """A convolution of the output with zeros between its elements, with the flipped kernel."""
    flipped = jnp.moveaxis(lax.rev(weight, tuple(range(2, weight.ndim))), (0, 1), (-2, -1))
    ends = edges_by_input(y.shape[2:], geometry)
    return _channels_last(y, flipped, (1,) * len(ends), ends, geometry.stride, geometry.dilation)


def _dense_by_weight(x: jax.Array, y: jax.Array, geometry: Geometry) -> jax.Array:
    """A convolution of the input with the output, in which the samples are the channels."""
    size, kernel, stride, pads, dilation, _ = geometry
    # As much of the input as its windows cover: its end may be cut off.
    highs = [
        d * (k - 1) + s * (t - 1) + 1 - n - low
        for n, k, s, (low, _), d, t in zip(size, kernel, stride, pads, dilation, y.shape[2:], strict=True)
    ]
    x = _pad(x, tuple((0, min(0, high)) for high in highs))
    ends = tuple((low, max(0, high)) for (low, _), high in zip(pads, highs, strict=True))
    out = _channels_last(x.swapaxes(0, 1), jnp.moveaxis(y, (0, 1), (-2, -1)), dilation, ends, (1,) * len(ends), stride)
    return out.swapaxes(0, 1)


def _channels_last(
    x: jax.Array, kernel: jax.Array, stride: Ints, pads: Pads, spread: Ints, dilation: Ints
) -> jax.Array:
    """XLA's convolution of `(N, C, *)` with `(*, C, O)`."""
    layout = "HW"[-len(stride) :]
    y = lax.conv_general_dilated(
        jnp.moveaxis(x, 1, -1),
        kernel,
        stride,
        pads,
        lhs_dilation=spread,
        rhs_dilation=dilation,
        dimension_numbers=(f"N{layout}C", f"{layout}IO", f"N{layout}C"),
    )
    return jnp.moveaxis(y, -1, 1)


def _product(x: jax.Array, weight: jax.Array, geometry: Geometry) -> jax.Array:
    """Windows that don't overlap: each is a row of a matrix."""
    n, groups, counts = len(geometry.stride), geometry.groups, _counts(geometry)
    covered = zip(counts, geometry.stride, geometry.size, geometry.pads, strict=True)
    x = _pad(x, tuple((low, t * s - size - low) for t, s, size, (low, _) in covered))
    if max(geometry.stride) > 1:
        split = [part for pair in zip(counts, geometry.stride, strict=True) for part in pair]
        x = x.reshape(*x.shape[:2], *split)
        x = x[(..., *(index for k in geometry.kernel for index in (slice(None), slice(k))))]
        x = x.transpose(0, 1, *range(3, 3 + 2 * n, 2), *range(2, 2 + 2 * n, 2))
    wide = opmath_dtype(x.dtype)
    if groups == 1:
        columns = x.reshape(x.shape[0], -1, math.prod(counts))
        y = jnp.einsum("ok,nkt->not", weight.reshape(weight.shape[0], -1), columns, preferred_element_type=wide)
    else:
        columns = x.reshape(x.shape[0], groups, -1, math.prod(counts))
        matrix = weight.reshape(groups, weight.shape[0] // groups, -1)
        y = jnp.einsum("gok,ngkt->ngot", matrix, columns, preferred_element_type=wide)
    return y.astype(x.dtype).reshape(x.shape[0], -1, *counts)


def _counts(geometry: Geometry) -> Ints:
    """How many windows there are."""
    size, kernel, stride, pads, dilation, _ = geometry
    return tuple(
        (n + low + high - d * (k - 1) - 1) // s + 1
        for n, k, s, (low, high), d in zip(size, kernel, stride, pads, dilation, strict=True)
    )


def _pad(x: jax.Array, ends: Pads, step: Ints | None = None) -> jax.Array:
    """Zeros around the spatial dimensions, and `step - 1` between their elements."""
    inner = step or (1,) * len(ends)
    config = [(low, high, s - 1) for (low, high), s in zip(ends, inner, strict=True)]
    config = [(0, 0, 0)] * 2 + config + [(0, 0, 0)] * (x.ndim - 2 - len(config))
    return lax.pad(x, jnp.zeros((), x.dtype), config) if any(map(any, config)) else x


def _shifted(
    x: jax.Array, kernel: Ints, stride: Ints, dilation: Ints, counts: Ints
) -> Iterator[tuple[Ints, jax.Array]]:
    """For each tap of the kernel, what it sees in every window; widened for the sum."""
    for tap in itertools.product(*map(range, kernel)):
        start = [t * d for t, d in zip(tap, dilation, strict=True)]
        stop = [a + (t - 1) * s + 1 for a, t, s in zip(start, counts, stride, strict=True)]
        part = lax.slice(x, (0, 0, *start), (*x.shape[:2], *stop), (1, 1, *stride))
        yield tap, part.astype(opmath_dtype(x.dtype))


def _tap(weight: jax.Array, tap: Ints) -> jax.Array:
    """One number a channel, for every sample and position."""
    column = weight[(slice(None), 0, *tap)].astype(opmath_dtype(weight.dtype))
    return column.reshape(1, -1, *(1,) * len(tap))


def _repeated(x: jax.Array, times: int) -> jax.Array:
    return x if times == 1 else jnp.repeat(x, times, 1)


def _depthwise(x: jax.Array, weight: jax.Array, geometry: Geometry) -> jax.Array:
    _, kernel, stride, pads, dilation, groups = geometry
    padded = _repeated(_pad(x, pads), weight.shape[0] // groups)
    parts = _shifted(padded, kernel, stride, dilation, _counts(geometry))
    return functools.reduce(jnp.add, (part * _tap(weight, tap) for tap, part in parts)).astype(x.dtype)


def _depthwise_by_input(weight: jax.Array, y: jax.Array, geometry: Geometry) -> jax.Array:
    """The same, of the output with zeros between its elements."""
    size, kernel, stride, _, dilation, groups = geometry
    ends = edges_by_input(y.shape[2:], geometry)
    each = weight.shape[0] // groups
    weight = lax.rev(weight, tuple(range(2, weight.ndim)))
    terms = []
    for i in range(each):  # of the outputs of each channel
        padded = _pad(y[:, i::each], ends, stride)
        parts = _shifted(padded, kernel, (1,) * len(size), dilation, size)
        terms += [part * _tap(weight[i::each], tap) for tap, part in parts]
    return functools.reduce(jnp.add, terms).astype(y.dtype)


def _depthwise_by_weight(x: jax.Array, y: jax.Array, geometry: Geometry) -> jax.Array:
    """A sum for each tap, all of them in one pass over the arrays."""
    _, kernel, stride, pads, dilation, groups = geometry
    padded = _repeated(_pad(x, pads), y.shape[1] // groups)
    wide = y.astype(opmath_dtype(y.dtype))
    terms = tuple(part * wide for _, part in _shifted(padded, kernel, stride, dilation, y.shape[2:]))
    zeros = (jnp.zeros((), wide.dtype),) * len(terms)
    sums = lax.reduce(terms, zeros, lambda a, b: tuple(map(jnp.add, a, b)), (0, *range(2, y.ndim)))
    return jnp.stack(sums, -1).reshape(y.shape[1], 1, *kernel).astype(y.dtype)

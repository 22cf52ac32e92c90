"""What XLA has for a convolution and its two gradients: the lowering of every platform but the CPU."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

Ints = tuple[int, ...]
Pads = tuple[tuple[int, int], ...]

_SPATIAL = {1: "W", 2: "HW", 3: "DHW"}

#: The three arrays: input `(N, C, *size)`, weight `(O, C / groups, *kernel)`, output `(N, O, *)`.
INPUT, WEIGHT, OUTPUT = range(3)


class Geometry(NamedTuple):
    """The arguments of a convolution, with the sizes that two of the three arrays don't tell."""

    size: Ints
    kernel: Ints
    stride: Ints
    pads: Pads
    dilation: Ints
    groups: int


def forward_by_xla(x: jax.Array, weight: jax.Array, geometry: Geometry, precision: Any = None) -> jax.Array:
    """XLA's convolution."""
    _, _, stride, pads, dilation, groups = geometry
    return _general(x, weight, stride, pads, (1,) * len(stride), dilation, groups, precision)


def _input_by_xla(weight: jax.Array, y: jax.Array, geometry: Geometry, precision: Any) -> jax.Array:
    """A convolution of the output with zeros between its elements, with the flipped kernel: what XLA recognises."""
    _, kernel, stride, _, dilation, groups = geometry
    outputs, inputs = weight.shape[0] // groups, weight.shape[1]
    grouped = weight.reshape(groups, outputs, inputs, *kernel).swapaxes(1, 2)
    flipped = lax.rev(grouped.reshape(groups * inputs, outputs, *kernel), tuple(range(2, weight.ndim)))
    ends = edges_by_input(y.shape[2:], geometry)
    return _general(y, flipped, (1,) * len(stride), ends, stride, dilation, groups, precision)


def edges_by_input(counts: Ints, geometry: Geometry) -> Pads:
    """The zeros around the spread out output (so many elements) whose convolution is the gradient by the input."""
    lows = [d * (k - 1) - low for d, k, (low, _) in zip(geometry.dilation, geometry.kernel, geometry.pads, strict=True)]
    highs = [
        n + d * (k - 1) - low - ((t - 1) * s + 1)
        for n, d, k, low, t, s in zip(
            geometry.size, geometry.dilation, geometry.kernel, lows, counts, geometry.stride, strict=True
        )
    ]
    return tuple(zip(lows, highs, strict=True))


def _general(
    x: jax.Array, weight: jax.Array, stride: Ints, pads: Pads, spread: Ints, dilation: Ints, groups: int, precision: Any
) -> jax.Array:
    layout = _SPATIAL[len(stride)]
    return lax.conv_general_dilated(
        x,
        weight,
        stride,
        pads,
        lhs_dilation=spread,
        rhs_dilation=dilation,
        dimension_numbers=("NC" + layout, "OI" + layout, "NC" + layout),
        feature_group_count=groups,
        precision=precision,
    )


def from_forward(
    forward: Callable[[jax.Array, jax.Array], jax.Array], wanted: int, a: jax.Array, b: jax.Array, geometry: Geometry
) -> jax.Array:
    """What is wanted, by a spelling of the convolution or by that spelling's transpose."""
    if wanted == OUTPUT:
        return forward(a, b)
    # Types of the operands, for a shape and a dtype don't tell which axes of a mesh an array varies over.
    like: Any = jax.typeof(b if wanted == INPUT else a)
    if wanted == INPUT:
        x = like.update(shape=(b.shape[0], a.shape[1] * geometry.groups, *geometry.size))
        return jax.linear_transpose(lambda x: forward(x, a), x)(b)[0]
    shape = (b.shape[1], a.shape[1] // geometry.groups, *geometry.kernel)
    weight = like.update(shape=shape, sharding=NamedSharding(like.sharding.mesh, PartitionSpec()))
    return jax.linear_transpose(lambda weight: forward(a, weight), weight)(b)[0]


def by_xla(a: jax.Array, b: jax.Array, *, wanted: int, geometry: Geometry, precision: Any) -> jax.Array:
    """The lowering of every platform but the CPU."""
    if wanted == INPUT:  # not by a transposition, which integers don't have
        return _input_by_xla(a, b, geometry, precision)
    forward = functools.partial(forward_by_xla, geometry=geometry, precision=precision)
    return from_forward(forward, wanted, a, b, geometry)

"""A convolution and its two gradients as one JAX primitive, so that each of the three has a lowering of its own on CPU.

Take the sum of `y * convolve(x, w)`. It is linear in `x`, in `w` and in `y`; its gradient by `y` is the convolution, by
`x` a transposed convolution, by `w` the gradient of the weight. The primitive takes two of the three and gives the
gradient by the third (`wanted`), and so each of its transposes is the primitive again: forward mode, reverse mode and
derivatives of every order are right, and all of them get the fast spellings. A `custom_vjp` has no forward mode, and
`lax.platform_dependent` under differentiation keeps the residuals of every platform.

On GPU and TPU it is what XLA has (`_conv_xla.py`); the spellings for CPU are in `_conv_cpu.py`.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.interpreters import ad, batching, mlir

from ._conv_cpu import spelled
from ._conv_xla import INPUT, OUTPUT, WEIGHT, Geometry, by_xla


def convolution(wanted: int, a: jax.Array, b: jax.Array, geometry: Geometry) -> jax.Array:
    """The output, or the gradient by the input or the weight, from the two others (in the order of the constants)."""
    axes = _varying(a) | _varying(b)
    a, b = (lax.pcast(x, rest, to="varying") if (rest := tuple(axes - _varying(x))) else x for x in (a, b))
    # Here, for the lowering may happen outside of the block that sets it.
    precision = jax.config.jax_default_matmul_precision  # pyright: ignore[reportAttributeAccessIssue]
    return _primitive().bind(a, b, wanted=wanted, geometry=geometry, precision=precision)


def _varying(x: jax.Array) -> frozenset[Any]:
    """The mesh axes that an array varies over inside a `jax.shard_map`."""
    return jax.typeof(x).mat.varying  # pyright: ignore[reportAttributeAccessIssue]


def _on_cpu(a: jax.Array, b: jax.Array, *, wanted: int, geometry: Geometry, precision: Any) -> jax.Array:
    if 0 in a.shape or 0 in b.shape or not jnp.issubdtype(a.dtype, jnp.inexact):
        return by_xla(a, b, wanted=wanted, geometry=geometry, precision=precision)
    return spelled(wanted, a, b, geometry)


@functools.lru_cache(maxsize=4096)
def _abstract(a: Any, b: Any, wanted: int, geometry: Geometry) -> Any:
    find = functools.partial(by_xla, wanted=wanted, geometry=geometry, precision=None)
    return jax.make_jaxpr(find)(a, b).out_avals[0]


def _transpose(which: int, cotangent: Any, a: Any, b: Any, *, wanted: int, **params: Any) -> Any:
    """By operand `which`: the primitive on the cotangent and the other operand."""
    slots = [slot for slot in (INPUT, WEIGHT, OUTPUT) if slot != wanted]
    given = {wanted: cotangent, slots[1 - which]: (b, a)[which]}
    operands = [given[slot] for slot in sorted(given)]
    return _primitive().bind(*operands, wanted=slots[which], **params)


def _batch(operands: Any, axes: Any, *, wanted: int, geometry: Geometry, precision: Any) -> tuple[jax.Array, int]:
    """The batch goes into `N` where one weight serves all of it, else into the groups."""
    slots = [slot for slot in (INPUT, WEIGHT, OUTPUT) if slot != wanted]
    count = next(x.shape[axis] for x, axis in zip(operands, axes, strict=True) if axis is not None)
    shared = WEIGHT in slots and axes[slots.index(WEIGHT)] is None
    merged = []
    for x, axis, slot in zip(operands, axes, slots, strict=True):
        if slot == WEIGHT and shared:
            merged.append(x)
            continue
        x = jnp.broadcast_to(x, (count, *x.shape)) if axis is None else jnp.moveaxis(x, axis, 0)
        into = 0 if shared or slot == WEIGHT else 1
        x = jnp.moveaxis(x, 0, into)
        merged.append(x.reshape(*x.shape[:into], -1, *x.shape[into + 2 :]))
    geometry = geometry if shared else geometry._replace(groups=count * geometry.groups)
    out = _primitive().bind(*merged, wanted=wanted, geometry=geometry, precision=precision)
    at = 0 if shared or wanted == WEIGHT else 1
    return out.reshape(*out.shape[:at], count, -1, *out.shape[at + 1 :]), at


@functools.cache
def _primitive() -> Any:
    """Made on first use: `jax.extend` is a twentieth of importing JAX."""
    from jax.extend.core import Primitive

    primitive = Primitive("jaxmodule_convolution")
    run = jax.jit(primitive.bind, static_argnames=("wanted", "geometry", "precision"))

    @primitive.def_impl
    def _(a: jax.Array, b: jax.Array, **params: Any) -> jax.Array:
        compiled = not jax.config.jax_disable_jit  # pyright: ignore[reportAttributeAccessIssue]
        return run(a, b, **params) if compiled else by_xla(a, b, **params)

    primitive.def_abstract_eval(lambda a, b, *, wanted, geometry, precision: _abstract(a, b, wanted, geometry))
    ad.defbilinear(primitive, functools.partial(_transpose, 0), functools.partial(_transpose, 1))
    batching.primitive_batchers[primitive] = _batch
    mlir.register_lowering(primitive, mlir.lower_fun(by_xla, multiple_results=False))
    mlir.register_lowering(primitive, mlir.lower_fun(_on_cpu, multiple_results=False), platform="cpu")
    return primitive

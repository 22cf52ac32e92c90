"""What the losses share: operands of one shape and dtype, torch's warning about shapes, checks of concrete values."""

from __future__ import annotations

import functools
import math
import warnings

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from ...core.context import Tracer
from ._common import (
    Reduction,
    broadcast_shape,
    compiled,
    concrete_range,
    is_floating,
    is_integer,
    opmath_dtype,
    reduce_loss,
    shape_list,
)


def promoted(*dtypes: DTypeLike) -> np.dtype:
    """What torch promotes to, also where JAX is set to refuse: a caller's target may have another dtype."""
    with jax.numpy_dtype_promotion("standard"):
        return jnp.dtype(functools.reduce(jnp.promote_types, dtypes))


def aligned(*arrays: jax.Array) -> tuple[list[jax.Array], np.dtype]:
    """The arrays in their common shape and in the dtype torch accumulates in, and the dtype torch returns."""
    dtype = promoted(*(a.dtype for a in arrays))
    wide, shape = opmath_dtype(dtype), jnp.broadcast_shapes(*(a.shape for a in arrays))
    return [jnp.broadcast_to(a.astype(wide), shape) for a in arrays], dtype


def hinge(z: jax.Array) -> jax.Array:
    """`max(z, 0)` whose gradient at 0 is 1: that of torch's `clamp_min`."""
    return jnp.where(z >= 0, z, jnp.zeros_like(z))


def reduced(losses: jax.Array, reduction: Reduction, dtype: np.dtype) -> jax.Array:
    """The reduction over every element, in `dtype`."""
    return reduce_loss(losses, reduction).astype(dtype)


def warn_sizes(x: jax.Array, target: jax.Array) -> None:
    """Warn as torch does where a regression target is broadcast.

    Raises:
        RuntimeError: the shapes don't broadcast.
    """
    if x.shape == target.shape:
        return
    message = (
        f"Using a target size ({shape_list(target)}) that is different to the input size ({shape_list(x)}). This will "
        "likely lead to incorrect results due to broadcasting. Please ensure they have the same size."
    )
    warnings.warn(message, UserWarning, stacklevel=4)
    broadcast_shape(x, target)


def check_weight_size(weight: jax.Array | None, x: jax.Array) -> None:
    """Raise where the weight of a regression loss has another size than the input.

    Raises:
        ValueError: the sizes differ.
    """
    if weight is not None and weight.shape != x.shape:
        raise ValueError(
            f"Weights and input must have the same size, but got {shape_list(weight)} and {shape_list(x)}."
        )


def require_floating_pair(x: jax.Array, target: jax.Array, name: str) -> None:
    """Raise where neither operand makes the result floating-point.

    Raises:
        NotImplementedError: both are integers, or one is complex.
    """
    if jnp.iscomplexobj(x) or not is_floating(target):
        require_real(x, name)
    if jnp.iscomplexobj(target):
        require_real(target, name)


def require_real(x: jax.Array, name: str) -> None:
    """Raise as torch does where an operation has a kernel for real floating-point numbers only.

    Raises:
        NotImplementedError: `x` is anything else.
    """
    if not is_floating(x):
        raise NotImplementedError(f'"{name}" not implemented for {x.dtype.name!r}: cast the input to a float dtype')


def check_broadcast(*arrays: jax.Array) -> None:
    """Raise where the arrays don't broadcast together.

    Raises:
        RuntimeError: they don't.
    """
    for i, array in enumerate(arrays):
        for other in arrays[:i]:
            broadcast_shape(other, array)


@compiled()
def _extremes(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    return jnp.min(x), jnp.max(x)


def check_between_0_and_1(x: jax.Array, name: str) -> None:
    """Raise for values outside of [0, 1], NaN among them, where the array is concrete.

    Raises:
        RuntimeError: there is one.
    """
    if isinstance(x, Tracer) or x.size == 0 or not x.is_fully_addressable:
        return
    low, high = (float(bound) for bound in _extremes(x))
    if not (low >= 0.0 and high <= 1.0):
        raise RuntimeError(
            f"all elements of {name} should be between 0 and 1, but those of shape {shape_list(x)} reach from {low} to "
            f"{high}"
        )


def check_labels(target: jax.Array, low: int, classes: int, message: str) -> None:
    """Raise for an index outside of `[low, classes)` where the array is concrete.

    Raises:
        RuntimeError: there is one.
    """
    extremes = concrete_range(target)
    if extremes is not None and not (extremes[0] >= low and extremes[1] < classes):
        outside = extremes[0] if extremes[0] < low else extremes[1]
        raise RuntimeError(f"{message}: {outside} is not in [{low}, {classes - 1}] (target {shape_list(target)})")


def check_vector_or_matrix(x: jax.Array) -> None:
    """Raise where the input of a multi-class margin is no `(C)` or `(N, C)` with classes.

    Raises:
        RuntimeError: it isn't.
    """
    if x.ndim > 2 or math.prod(x.shape[x.ndim - 1 :]) == 0:
        raise RuntimeError(
            f"Expected non-empty vector or matrix with optional 0-dim batch size, but got: {shape_list(x)}"
        )


def check_class_weight(weight: jax.Array | None, x: jax.Array | jax.ShapeDtypeStruct, axis: int) -> None:
    """Raise where the weight isn't one for each class, in the input's dtype.

    Raises:
        RuntimeError: it isn't.
    """
    if weight is None:
        return
    classes = x.shape[axis]
    if weight.shape != (classes,):
        raise RuntimeError(
            f"weight tensor should be defined either for all {classes} classes or no classes "
            f"but got weight tensor of shape: {shape_list(weight)} for input of shape {list(x.shape)}"
        )
    if weight.dtype != x.dtype:
        raise RuntimeError(f"expected scalar type {x.dtype.name} of the input for weight but found {weight.dtype.name}")


def check_class_targets(
    x: jax.Array | jax.ShapeDtypeStruct, target: jax.Array, weight: jax.Array | None, ignore_index: int
) -> tuple[jax.Array, int]:
    """The target shaped as the input without its class axis, and that axis.

    Raises:
        ValueError: the batch sizes differ.
        RuntimeError: other sizes or the dtypes don't fit.
        IndexError: a concrete target is no class.
    """
    axis = 0 if x.ndim == 1 else 1
    expected = x.shape[:axis] + x.shape[axis + 1 :]
    sizes = f"input {list(x.shape)}, target {shape_list(target)}"
    if x.ndim == 1 and target.shape == (1,):
        target = target.reshape(())
    if x.ndim <= 2 and target.ndim > 1:
        raise RuntimeError(f"0D or 1D target tensor expected, multi-target not supported ({sizes})")
    if target.ndim and x.ndim > 1 and target.shape[0] != x.shape[0]:
        raise ValueError(
            f"Expected input batch_size ({x.shape[0]}) to match target batch_size ({target.shape[0]}): {sizes}"
        )
    if target.shape != expected:
        raise RuntimeError(f"Expected target size {list(expected)}, got {shape_list(target)} (size mismatch: {sizes})")
    if not is_integer(target):
        raise RuntimeError(f"expected target dtype to be an integer one, but got {target.dtype.name} ({sizes})")
    check_class_weight(weight, x, axis)
    _check_concrete_targets(target, x.shape[axis], ignore_index)
    return target, axis


def _check_concrete_targets(target: jax.Array, classes: int, ignore_index: int) -> None:
    extremes = concrete_range(target)
    if extremes is None or (extremes[0] >= 0 and extremes[1] < classes):
        return
    outside = target[((target < 0) | (target >= classes)) & (target != ignore_index)]
    if outside.size:
        raise IndexError(f"Target {int(outside[0])} is out of bounds for {classes} classes.")

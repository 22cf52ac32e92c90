"""Losses. Every one computes in float32 for float16 and bfloat16 inputs and returns the input's dtype."""

from __future__ import annotations

import warnings

import jax
import jax.numpy as jnp
from jax import lax

from ...core.box import unbox
from ._common import (
    ArrayLike,
    Reduction,
    along_axis,
    broadcast_shape,
    compiled,
    concrete_range,
    is_floating,
    is_integer,
    opmath_dtype,
    reduce_loss,
    require_inexact,
    resolve_reduction,
    shape_list,
    signed_index,
)
from .activation import log_softmax_axis

__all__ = ["binary_cross_entropy_with_logits", "cross_entropy", "mse_loss", "nll_loss"]


def _select_class(values: jax.Array, target: jax.Array, axis: int) -> jax.Array:
    """`values[..., target, ...]` along the class axis; 0 where target is no class.

    A comparison with each class instead of a gather: it fuses with what made `values`, and its gradient is a
    comparison too, where a gather's is a scatter, slow on CPU and atomic on GPU.
    """
    classes = lax.broadcasted_iota(target.dtype, values.shape, axis)
    hit = classes == jnp.expand_dims(target, axis)
    return jnp.sum(jnp.where(hit, values, jnp.zeros_like(values)), axis)


def _class_losses(
    log_probs: jax.Array,
    target: jax.Array,
    weight: jax.Array | None,
    axis: int,
    ignore_index: int,
    reduction: Reduction,
    smoothing: float,
) -> jax.Array:
    classes = log_probs.shape[axis]
    target = signed_index(target)
    kept = target != ignore_index
    valid = (target >= 0) & (target < classes)
    weighted = jnp.ones(target.shape, log_probs.dtype)
    if weight is not None:
        weight = weight.astype(log_probs.dtype)
        weighted = jnp.take(weight, jnp.where(valid, target, 0))
    losses = -_select_class(log_probs, target, axis) * weighted
    if smoothing:
        if weight is not None:
            log_probs = log_probs * along_axis(weight, axis, log_probs.ndim)
        losses = (1.0 - smoothing) * losses - (smoothing / classes) * jnp.sum(log_probs, axis)
    # An index that is no class can't raise inside a compiled program: NaN makes it visible.
    losses = jnp.where(kept, jnp.where(valid, losses, jnp.nan), 0.0)
    if reduction == "mean":
        return jnp.sum(losses) / jnp.sum(jnp.where(kept, weighted, 0.0))
    return reduce_loss(losses, reduction)


@compiled("axis", "ignore_index", "reduction")
def _nll_loss(
    x: jax.Array, target: jax.Array, weight: jax.Array | None, *, axis: int, ignore_index: int, reduction: Reduction
) -> jax.Array:
    wide = x.astype(opmath_dtype(x.dtype))
    return _class_losses(wide, target, weight, axis, ignore_index, reduction, 0.0).astype(x.dtype)


@compiled("axis", "ignore_index", "reduction", "smoothing")
def _cross_entropy_indices(
    x: jax.Array,
    target: jax.Array,
    weight: jax.Array | None,
    *,
    axis: int,
    ignore_index: int,
    reduction: Reduction,
    smoothing: float,
) -> jax.Array:
    log_probs = log_softmax_axis(x.astype(opmath_dtype(x.dtype)), axis)
    return _class_losses(log_probs, target, weight, axis, ignore_index, reduction, smoothing).astype(x.dtype)


@compiled("axis", "reduction", "smoothing")
def _cross_entropy_probabilities(
    x: jax.Array, target: jax.Array, weight: jax.Array | None, *, axis: int, reduction: Reduction, smoothing: float
) -> jax.Array:
    dtype = jnp.promote_types(x.dtype, target.dtype)
    wide = opmath_dtype(dtype)
    log_probs, probs = log_softmax_axis(x.astype(wide), axis), target.astype(wide)
    classes = x.shape[axis]
    if smoothing:
        probs = probs * (1.0 - smoothing) + smoothing / classes
    if weight is not None:
        probs = probs * along_axis(weight.astype(wide), axis, x.ndim)
    return reduce_loss(-jnp.sum(log_probs * probs, axis), reduction).astype(dtype)


@compiled("reduction")
def _mse_loss(x: jax.Array, target: jax.Array, weight: jax.Array | None, *, reduction: Reduction) -> jax.Array:
    dtype = jnp.promote_types(x.dtype, target.dtype)
    wide, shape = opmath_dtype(dtype), jnp.broadcast_shapes(x.shape, target.shape)
    x, target = (jnp.broadcast_to(array.astype(wide), shape) for array in (x, target))
    losses = lax.square(x - target)
    if weight is None:
        return reduce_loss(losses, reduction).astype(dtype)
    weight = jnp.broadcast_to(weight.astype(wide), shape)
    losses = losses * weight
    if reduction == "mean":
        return (jnp.sum(losses) / jnp.sum(weight)).astype(dtype)
    return reduce_loss(losses, reduction).astype(dtype)


@compiled("reduction")
def _bce_with_logits(
    x: jax.Array, target: jax.Array, weight: jax.Array | None, pos_weight: jax.Array | None, *, reduction: Reduction
) -> jax.Array:
    dtype = jnp.promote_types(x.dtype, target.dtype)
    wide = opmath_dtype(dtype)
    x, target = x.astype(wide), target.astype(wide)
    minus_log_sigmoid = jax.nn.softplus(-x)
    if pos_weight is not None:
        positive = jnp.broadcast_to(pos_weight.astype(wide), x.shape)
        minus_log_sigmoid = minus_log_sigmoid * ((positive - 1.0) * target + 1.0)
    losses = (1.0 - target) * x + minus_log_sigmoid
    if weight is not None:
        losses = losses * jnp.broadcast_to(weight.astype(wide), x.shape)
    return reduce_loss(losses, reduction).astype(dtype)


def nll_loss(
    input: ArrayLike,
    target: ArrayLike,
    weight: ArrayLike | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> jax.Array:
    """`-weight[target] * input[target]`: the negative log likelihood of class indices.

    Args:
        input: log-probabilities of the classes.
        target: the index of each element's class, of any integer dtype.
        weight: a factor for each class. The mean is weighted by it.
        size_average: deprecated, see `reduction`.
        ignore_index: a target that is left out of the loss and of the mean.
        reduce: deprecated, see `reduction`.
        reduction: "none", "mean" or "sum".

    Shape:
        - Input: `(C)`, `(N, C)` or `(N, C, d_1, ..., d_K)`; weight: `(C)`.
        - Target: `()`, `(N)` or `(N, d_1, ..., d_K)`.
        - Output: `()`, or the target's with "none".

    Raises:
        ValueError: the batch sizes differ, or `reduction` is another word.
        RuntimeError: other sizes or the dtypes don't fit.
        IndexError: a target is no class, where targets are concrete. See Note.

    Note:
        Under `jm.jit` no target can be checked: there the loss of one that is no class is NaN.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn import functional as F
        >>> float(F.nll_loss(jnp.array([[-1.0, -2.0]]), jnp.array([1])))
        2.0
    """
    how = resolve_reduction(size_average, reduce, reduction)
    x, t, w = unbox(input), unbox(target), unbox(weight)
    if x.ndim < 1:
        raise ValueError(f"Expected 1 or more dimensions (got {x.ndim})")
    require_inexact(x, "nll_loss")
    t, axis = _check_class_targets(x, t, w, ignore_index)
    return _nll_loss(x, t, w, axis=axis, ignore_index=ignore_index, reduction=how)


def cross_entropy(
    input: ArrayLike,
    target: ArrayLike,
    weight: ArrayLike | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> jax.Array:
    """`-sum_c weight[c] target[c] log(softmax(input)[c])`: class logits against class indices or probabilities.

    Args:
        input: unnormalised logits of the classes.
        target: the index of each element's class (any integer dtype), or a probability for each class (floating).
        weight: a factor for each class. With class indices, the mean is weighted by it.
        size_average: deprecated, see `reduction`.
        ignore_index: a class index that is left out of the loss and of the mean.
        reduce: deprecated, see `reduction`.
        reduction: "none", "mean" or "sum". The mean is over elements, not over classes.
        label_smoothing: the share of the uniform distribution in the target, in `[0, 1]` (Szegedy et al., 2016).

    Shape:
        - Input: `(C)`, `(N, C)` or `(N, C, d_1, ..., d_K)`; weight: `(C)`.
        - Target: indices `()`, `(N)` or `(N, d_1, ..., d_K)`; probabilities: the input's.
        - Output: `()`, or with "none" the shape of indices.

    Raises:
        ValueError: the batch sizes differ, or `reduction` is another word.
        RuntimeError: other sizes or the dtypes don't fit, or `label_smoothing` is out of range.
        IndexError: a target is no class, where targets are concrete. See Note.

    Note:
        Under `jm.jit` no target can be checked: there the loss of one that is no class is NaN.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn import functional as F
        >>> round(float(F.cross_entropy(jnp.zeros((2, 4)), jnp.array([0, 3]))), 4)
        1.3863
    """
    how = resolve_reduction(size_average, reduce, reduction)
    x, t, w = unbox(input), unbox(target), unbox(weight)
    if not 0.0 <= label_smoothing <= 1.0:
        raise RuntimeError(f"label_smoothing must be between 0.0 and 1.0. Got: {label_smoothing}")
    require_inexact(x, "cross_entropy")
    if x.shape != t.shape or (x.ndim == 0 and not is_floating(t)):
        if x.ndim == 0:
            raise RuntimeError(
                f"cross_entropy expects input of shape (C), (N, C) or (N, C, *), but got {shape_list(x)}"
            )
        t, axis = _check_class_targets(x, t, w, ignore_index)
        return _cross_entropy_indices(
            x, t, w, axis=axis, ignore_index=ignore_index, reduction=how, smoothing=float(label_smoothing)
        )
    if not is_floating(t):
        raise RuntimeError(
            f"Expected floating point type for target with class probabilities, got {t.dtype.name}: "
            f"input and target are both of size {shape_list(x)}"
        )
    if ignore_index >= 0:
        raise RuntimeError(f"ignore_index is not supported for floating point target, but got {ignore_index}")
    axis = 0 if x.ndim == 1 else 1
    _check_class_weight(w, x, axis)
    return _cross_entropy_probabilities(x, t, w, axis=axis, reduction=how, smoothing=float(label_smoothing))


def mse_loss(
    input: ArrayLike,
    target: ArrayLike,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    weight: ArrayLike | None = None,
) -> jax.Array:
    """`weight (input - target)^2`: the squared error.

    Args:
        input: predictions.
        target: what they should be.
        size_average: deprecated, see `reduction`.
        reduce: deprecated, see `reduction`.
        reduction: "none", "mean" or "sum".
        weight: a factor for each element, of the input's shape. The mean is weighted by it.

    Shape:
        - Input: any; target: the same, or one that broadcasts with it (with a warning).
        - Output: `()`, or the broadcast shape with "none".

    Raises:
        RuntimeError: the shapes don't broadcast.
        ValueError: the weight has another size, or `reduction` is another word.
        NotImplementedError: input and target are not floating-point.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn import functional as F
        >>> float(F.mse_loss(jnp.array([1.0, 2.0]), jnp.array([1.0, 4.0])))
        2.0
    """
    x, t, w = unbox(input), unbox(target), unbox(weight)
    if x.shape != t.shape:
        message = (
            f"Using a target size ({shape_list(t)}) that is different to the input size ({shape_list(x)}). This will "
            "likely lead to incorrect results due to broadcasting. Please ensure they have the same size."
        )
        warnings.warn(message, UserWarning, stacklevel=2)
    how = resolve_reduction(size_average, reduce, reduction)
    broadcast_shape(x, t)
    if not is_floating(x) and not is_floating(t):
        require_inexact(x, "mse_loss")
    if w is not None and w.shape != x.shape:
        raise ValueError(f"Weights and input must have the same size, but got {shape_list(w)} and {shape_list(x)}.")
    return _mse_loss(x, t, w, reduction=how)


def binary_cross_entropy_with_logits(
    input: ArrayLike,
    target: ArrayLike,
    weight: ArrayLike | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    pos_weight: ArrayLike | None = None,
) -> jax.Array:
    """`-weight (pos_weight target log(s) + (1 - target) log(1 - s))` with `s = sigmoid(input)`, without overflow.

    Args:
        input: logits.
        target: probabilities, floating-point, of the input's shape.
        weight: a factor for each element, broadcast to the input.
        size_average: deprecated, see `reduction`.
        reduce: deprecated, see `reduction`.
        reduction: "none", "mean" or "sum".
        pos_weight: a factor for the positive term, broadcast to the input.

    Shape:
        - Input and target: any, the same.
        - Output: `()`, or the input's with "none".

    Raises:
        ValueError: input and target have different sizes, or `reduction` is another word.
        RuntimeError: a weight doesn't broadcast to the input, or the target is not floating-point.
        NotImplementedError: the input is not floating-point.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn import functional as F
        >>> round(float(F.binary_cross_entropy_with_logits(jnp.zeros(3), jnp.ones(3))), 4)
        0.6931
    """
    how = resolve_reduction(size_average, reduce, reduction)
    x, t, w, p = (unbox(array) for array in (input, target, weight, pos_weight))
    if x.shape != t.shape:
        raise ValueError(f"Target size ({shape_list(t)}) must be the same as input size ({shape_list(x)})")
    require_inexact(x, "binary_cross_entropy_with_logits")
    if not is_floating(t):
        raise RuntimeError(f"binary_cross_entropy_with_logits expects a floating point target, but got {t.dtype.name}")
    for name, array in (("weight", w), ("pos_weight", p)):
        if array is not None and broadcast_shape(array, x) != x.shape:
            raise RuntimeError(f"{name} of shape {shape_list(array)} doesn't broadcast to the input's {shape_list(x)}")
    return _bce_with_logits(x, t, w, p, reduction=how)


def _check_class_weight(weight: jax.Array | None, x: jax.Array, axis: int) -> None:
    if weight is None:
        return
    classes = x.shape[axis]
    if weight.shape != (classes,):
        raise RuntimeError(
            f"weight tensor should be defined either for all {classes} classes or no classes "
            f"but got weight tensor of shape: {shape_list(weight)} for input of shape {shape_list(x)}"
        )
    if weight.dtype != x.dtype:
        raise RuntimeError(f"expected scalar type {x.dtype.name} of the input for weight but found {weight.dtype.name}")


def _check_class_targets(
    x: jax.Array, target: jax.Array, weight: jax.Array | None, ignore_index: int
) -> tuple[jax.Array, int]:
    """The target shaped as the input without its class axis, and that axis."""
    axis = 0 if x.ndim == 1 else 1
    expected = x.shape[:axis] + x.shape[axis + 1 :]
    sizes = f"input {shape_list(x)}, target {shape_list(target)}"
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
    _check_class_weight(weight, x, axis)
    _check_concrete_targets(target, x.shape[axis], ignore_index)
    return target, axis


def _check_concrete_targets(target: jax.Array, classes: int, ignore_index: int) -> None:
    extremes = concrete_range(target)
    if extremes is None or (extremes[0] >= 0 and extremes[1] < classes):
        return
    outside = target[((target < 0) | (target >= classes)) & (target != ignore_index)]
    if outside.size:
        raise IndexError(f"Target {int(outside[0])} is out of bounds for {classes} classes.")

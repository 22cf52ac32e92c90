"""Classification losses: class scores against class indices or probabilities.

Every loss of the library computes in float32 for float16 and bfloat16 inputs and returns the input's dtype.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from ...core.box import unbox
from ._autocast import autocasts
from ._common import (
    ArrayLike,
    Reduction,
    along_axis,
    compiled,
    is_floating,
    opmath_dtype,
    reduce_loss,
    require_inexact,
    resolve_reduction,
    shape_list,
    signed_index,
)
from ._loss import check_class_targets, check_class_weight, promoted
from .softmax import log_softmax_axis

__all__ = ["cross_entropy", "nll_loss"]


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
    dtype = promoted(x.dtype, target.dtype)
    wide = opmath_dtype(dtype)
    log_probs, probs = log_softmax_axis(x.astype(wide), axis), target.astype(wide)
    classes = x.shape[axis]
    if smoothing:
        probs = probs * (1.0 - smoothing) + smoothing / classes
    if weight is not None:
        probs = probs * along_axis(weight.astype(wide), axis, x.ndim)
    return reduce_loss(-jnp.sum(log_probs * probs, axis), reduction).astype(dtype)


@autocasts
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
    t, axis = check_class_targets(x, t, w, ignore_index)
    return _nll_loss(x, t, w, axis=axis, ignore_index=ignore_index, reduction=how)


@autocasts
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
        t, axis = check_class_targets(x, t, w, ignore_index)
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
    check_class_weight(w, x, axis)
    return _cross_entropy_probabilities(x, t, w, axis=axis, reduction=how, smoothing=float(label_smoothing))

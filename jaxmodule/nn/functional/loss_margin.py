"""Margin losses of scores: hinge, ranking, multi-class and multi-label."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from ...core.box import unbox
from ._autocast import autocasts
from ._common import (
    ArrayLike,
    Reduction,
    compiled,
    is_floating,
    is_integer,
    opmath_dtype,
    reduce_loss,
    resolve_reduction,
    shape_list,
    signed_index,
)
from ._loss import aligned, check_broadcast, check_labels, check_vector_or_matrix, hinge, require_real

__all__ = ["hinge_embedding_loss", "margin_ranking_loss", "multi_margin_loss", "multilabel_margin_loss"]


@compiled("margin", "reduction")
def _hinge_embedding_loss(x: jax.Array, target: jax.Array, *, margin: float, reduction: Reduction) -> jax.Array:
    dtype = x.dtype  # torch's: a wider target doesn't widen the result
    shape = jnp.broadcast_shapes(x.shape, target.shape)
    x, target = jnp.broadcast_to(x.astype(opmath_dtype(dtype)), shape), jnp.broadcast_to(target, shape)
    zero = jnp.zeros_like(x)
    losses = jnp.where(target != 1, hinge(margin - x), zero) + jnp.where(target != -1, x, zero)
    return reduce_loss(losses, reduction).astype(dtype)


@compiled("margin", "reduction")
def _margin_ranking_loss(
    x1: jax.Array, x2: jax.Array, target: jax.Array, *, margin: float, reduction: Reduction
) -> jax.Array:
    (x1, x2, target), dtype = aligned(x1, x2, target)
    losses = hinge(-target * (x1 - x2) + margin)
    return reduce_loss(losses, reduction).astype(dtype)


@compiled("p", "margin", "reduction")
def _multi_margin_loss(
    x: jax.Array, target: jax.Array, weight: jax.Array | None, *, p: int, margin: float, reduction: Reduction
) -> jax.Array:
    # x is (N, C), target (N)
    dtype = x.dtype
    x, target = x.astype(opmath_dtype(dtype)), signed_index(target)
    mine = lax.broadcasted_iota(target.dtype, x.shape, 1) == target[:, None]
    score = jnp.sum(jnp.where(mine, x, 0.0), 1, keepdims=True)
    z = margin - score + x
    z = jnp.where(~mine & (z > 0), z, 0.0)
    losses = jnp.sum(z * z if p == 2 else z, 1) / x.shape[1]
    valid = (target >= 0) & (target < x.shape[1])
    if weight is not None:
        losses = losses * jnp.take(weight.astype(x.dtype), jnp.where(valid, target, 0))
    # An index that is no class can't raise inside a compiled program: NaN makes it visible.
    return reduce_loss(jnp.where(valid, losses, jnp.nan), reduction).astype(dtype)


@compiled("reduction")
def _multilabel_margin_loss(x: jax.Array, target: jax.Array, *, reduction: Reduction) -> jax.Array:
    # x and target are (N, C)
    dtype, classes = x.dtype, x.shape[1]
    x, target = x.astype(opmath_dtype(dtype)), signed_index(target)
    listed = jnp.cumprod((target >= 0).astype(jnp.int8), 1).astype(bool)
    hits = listed[:, :, None] & (target[:, :, None] == lax.broadcasted_iota(target.dtype, (1, 1, classes), 2))
    count = jnp.sum(hits, 1).astype(x.dtype)  # a class that is listed twice counts twice
    z = 1.0 - (x[:, :, None] - x[:, None, :])
    z = jnp.where((z > 0) & (count == 0)[:, None, :], z, 0.0)
    losses = jnp.sum(count * jnp.sum(z, 2), 1) / classes
    known = jnp.all((target >= -1) & (target < classes), 1)
    return reduce_loss(jnp.where(known, losses, jnp.nan), reduction).astype(dtype)


@autocasts
def hinge_embedding_loss(
    input: ArrayLike,
    target: ArrayLike,
    margin: float = 1.0,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> jax.Array:
    """`input` where the target is 1, `max(0, margin - input)` where it is -1: of distances between pairs.

    Args:
        input: distances.
        target: 1 for similar pairs, -1 for others, of any dtype. Anywhere else the two terms are added.
        margin: the distance that different pairs should have.
        size_average: deprecated, see `reduction`.
        reduce: deprecated, see `reduction`.
        reduction: "none", "mean" or "sum".

    Shape:
        - Input: any; target: the same, or one that broadcasts with it.
        - Output: `()`, or the broadcast shape with "none".

    Raises:
        RuntimeError: the shapes don't broadcast, or "mean" is asked of integers.
        ValueError: `reduction` is another word.
        NotImplementedError: the input is complex.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn import functional as F
        >>> F.hinge_embedding_loss(jnp.array([0.25, 0.25]), jnp.array([1, -1]), reduction="none").tolist()
        [0.25, 0.75]
    """
    how = resolve_reduction(size_average, reduce, reduction)
    x, t = unbox(input), unbox(target)
    check_broadcast(t, x)
    if jnp.iscomplexobj(x):
        raise NotImplementedError(f"clamp is not supported for complex types, got {x.dtype.name}")
    if how == "mean" and not is_floating(x):
        raise RuntimeError(f"mean(): could not infer output dtype from {x.dtype.name}: cast the input to a float dtype")
    # Of integers torch rounds the margin to one.
    return _hinge_embedding_loss(x, t, margin=float(margin) if is_floating(x) else int(margin), reduction=how)


@autocasts
def margin_ranking_loss(
    input1: ArrayLike,
    input2: ArrayLike,
    target: ArrayLike,
    margin: float = 0,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> jax.Array:
    """`max(0, -target (input1 - input2) + margin)`: which of two should be ranked higher.

    Args:
        input1: scores.
        input2: scores to compare with.
        target: 1 where the first should be higher, -1 where the second should.
        margin: by how much.
        size_average: deprecated, see `reduction`.
        reduce: deprecated, see `reduction`.
        reduction: "none", "mean" or "sum".

    Shape:
        - Inputs and target: any shapes that broadcast, of equally many dimensions.
        - Output: `()`, or the broadcast shape with "none".

    Raises:
        RuntimeError: the dimensions differ in number, or the shapes don't broadcast.
        ValueError: `reduction` is another word.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn import functional as F
        >>> float(F.margin_ranking_loss(jnp.array([1.0]), jnp.array([3.0]), jnp.array([1]), margin=0.5))
        2.5
    """
    how = resolve_reduction(size_average, reduce, reduction)
    x1, x2, t = unbox(input1), unbox(input2), unbox(target)
    if not x1.ndim == x2.ndim == t.ndim:
        raise RuntimeError(
            "margin_ranking_loss : All input tensors should have same dimension but got sizes: "
            f"input1: {shape_list(x1)}, input2: {shape_list(x2)}, target: {shape_list(t)}"
        )
    check_broadcast(x1, x2, t)
    return _margin_ranking_loss(x1, x2, t, margin=margin, reduction=how)


@autocasts
def multi_margin_loss(
    input: ArrayLike,
    target: ArrayLike,
    p: int = 1,
    margin: float = 1.0,
    weight: ArrayLike | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> jax.Array:
    """`weight[y] / C sum_{c != y} max(0, margin - input[y] + input[c])^p`: the hinge loss of the target class `y`.

    Args:
        input: scores of the classes.
        target: the index of each element's class, of any integer dtype.
        p: the exponent, 1 or 2.
        margin: by how much the target class should lead.
        weight: a factor for each class. The mean is not weighted by it.
        size_average: deprecated, see `reduction`.
        reduce: deprecated, see `reduction`.
        reduction: "none", "mean" or "sum".

    Shape:
        - Input: `(N, C)` or `(C)`; target: `(N)` or `()`; weight: `(C)`.
        - Output: `()`, or the target's with "none".

    Raises:
        ValueError: `p` is another number, the weight is not one-dimensional, or `reduction` is another word.
        RuntimeError: the sizes or dtypes don't fit, or a target is no class where targets are concrete. See Note.
        NotImplementedError: the input is not floating-point.

    Note:
        Under `jm.jit` no target can be checked: there the loss of one that is no class is NaN. The mean over an empty
        batch is NaN; torch's is what was in memory.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn import functional as F
        >>> float(F.multi_margin_loss(jnp.array([[1.0, 0.5, -1.0, 2.0]]), jnp.array([0])))
        0.625
    """
    how = resolve_reduction(size_average, reduce, reduction)
    x, t, w = unbox(input), unbox(target), unbox(weight)
    if p not in (1, 2):
        raise ValueError(f"only p == 1 and p == 2 supported, but got {p}")
    if w is not None and w.ndim != 1:
        raise ValueError(f"weight must be one-dimensional, but is of shape {shape_list(w)}")
    check_vector_or_matrix(x)
    rows = x.reshape(1, -1) if x.ndim < 2 else x
    if t.ndim > 1 or t.size != rows.shape[0]:
        raise RuntimeError(
            "multi_margin_loss: target tensor should be 1-D with size equal to the number of input samples (batch "
            f"size). Expected target size [{rows.shape[0]}], but got {shape_list(t)}. Input has shape {shape_list(x)}."
        )
    if w is not None and w.shape[0] != rows.shape[1]:
        raise RuntimeError(f"inconsistent weight size, expected {rows.shape[1]} but got {shape_list(w)}")
    require_real(x, "multi_margin_loss")
    _check_label_dtype(t)
    if w is not None and w.dtype != x.dtype:
        raise RuntimeError(f"expected scalar type {x.dtype.name} of the input for weight but found {w.dtype.name}")
    check_labels(t, 0, rows.shape[1], "target out of range")
    losses = _multi_margin_loss(rows, t.reshape(-1), w, p=int(p), margin=margin, reduction=how)
    return losses.reshape(t.shape) if how == "none" else losses
    return losses.reshape(()) if x.ndim < 2 else losses


@autocasts
def multilabel_margin_loss(
    input: ArrayLike,
    target: ArrayLike,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> jax.Array:
    """`1/C sum_{j, c not in targets} max(0, 1 - (input[target[j]] - input[c]))`: every target class leads all others.

    Args:
        input: scores of the classes.
        target: the indices of each element's classes, then a -1; what follows it is ignored.
        size_average: deprecated, see `reduction`.
        reduce: deprecated, see `reduction`.
        reduction: "none", "mean" or "sum".

    Shape:
        - Input: `(N, C)` or `(C)`; target: the same.
        - Output: `()`, or `(N)` with "none".

    Raises:
        RuntimeError: the sizes don't fit, or a concrete target is neither -1 nor a class. See Note.
        ValueError: `reduction` is another word.
        NotImplementedError: the input is not floating-point.

    Note:
        Under `jm.jit` no target can be checked: there the loss of one that is no class is NaN. The mean over an empty
        batch is NaN; torch's is what was in memory.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn import functional as F
        >>> x, y = jnp.array([[0.5, 0.25, 0.5, 1.0]]), jnp.array([[3, 0, -1, 1]])
        >>> float(F.multilabel_margin_loss(x, y))
        0.625
    """
    how = resolve_reduction(size_average, reduce, reduction)
    x, t = unbox(input), unbox(target)
    check_vector_or_matrix(x)
    if t.shape != x.shape:
        raise RuntimeError(f"inconsistent target size: {shape_list(t)} for input of size: {shape_list(x)}")
    require_real(x, "multilabel_margin_loss")
    _check_label_dtype(t)
    classes = x.shape[-1] if x.ndim else 1
    check_labels(t, -1, classes, "argument #2 'target' is out of range")
    losses = _multilabel_margin_loss(x.reshape(-1, classes), t.reshape(-1, classes), reduction=how)
    return losses.reshape(()) if x.ndim < 2 else losses
    return losses.reshape(()) if x.ndim < 2 else losses


def _check_label_dtype(target: jax.Array) -> None:
    if not is_integer(target):
        raise RuntimeError(f"expected target dtype to be an integer one, but got {target.dtype.name}")

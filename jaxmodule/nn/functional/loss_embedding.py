"""Losses of embeddings: how near vectors should be to each other."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from ...core.box import unbox
from ._autocast import autocasts
from ._common import ArrayLike, Reduction, compiled, get_enum, opmath_dtype, reduce_loss, resolve_reduction, shape_list
from ._loss import check_broadcast, hinge, promoted
from .distance import pairwise_distance

__all__ = ["cosine_embedding_loss", "triplet_margin_loss", "triplet_margin_with_distance_loss"]

# torch's, of each squared length.
_COSINE_EPS = 1e-12

Distance = Callable[[jax.Array, jax.Array], jax.Array]


@compiled("margin", "reduction")
def _cosine_embedding_loss(
    x1: jax.Array, x2: jax.Array, target: jax.Array, *, margin: float, reduction: Reduction
) -> jax.Array:
    dtype = _float_dtype(x1, x2)
    wide, shape = opmath_dtype(dtype), jnp.broadcast_shapes(x1.shape, x2.shape)
    x1, x2 = (jnp.broadcast_to(x.astype(wide), shape) for x in (x1, x2))
    product, square1, square2 = (jnp.sum(a * b, -1) for a, b in ((x1, x2), (x1, x1), (x2, x2)))
    cosine = product / jnp.sqrt((square1 + _COSINE_EPS) * (square2 + _COSINE_EPS))
    shape = jnp.broadcast_shapes(cosine.shape, target.shape)
    cosine, target = jnp.broadcast_to(cosine, shape), jnp.broadcast_to(target, shape)
    zero = jnp.zeros_like(cosine)
    losses = jnp.where(target == 1, 1.0 - cosine, zero) + jnp.where(target == -1, hinge(cosine - margin), zero)
    return reduce_loss(losses, reduction).astype(dtype)


@compiled("margin", "p", "eps", "swap", "reduction")
def _triplet_margin_loss(
    anchor: jax.Array,
    positive: jax.Array,
    negative: jax.Array,
    *,
    margin: float,
    p: float,
    eps: float,
    swap: bool,
    reduction: Reduction,
) -> jax.Array:
    dtype = _float_dtype(anchor, positive, negative)
    a, positive, negative = (x.astype(opmath_dtype(dtype)) for x in (anchor, positive, negative))
    losses = _triplet(a, positive, negative, lambda x, y: pairwise_distance(x, y, p, eps), margin, swap)
    return reduce_loss(losses, reduction).astype(dtype)


def _triplet(
    anchor: jax.Array, positive: jax.Array, negative: jax.Array, distance: Distance, margin: float, swap: bool
) -> jax.Array:
    near, far = distance(anchor, positive), distance(anchor, negative)
    if swap:
        far = jnp.minimum(far, distance(positive, negative))
    shape = jnp.broadcast_shapes(near.shape, far.shape)
    return hinge(margin + jnp.broadcast_to(near, shape) - jnp.broadcast_to(far, shape))


@autocasts
def cosine_embedding_loss(
    input1: ArrayLike,
    input2: ArrayLike,
    target: ArrayLike,
    margin: float = 0,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> jax.Array:
    """`1 - cos(input1, input2)` where the target is 1, `max(0, cos(input1, input2) - margin)` where it is -1.

    Args:
        input1: vectors.
        input2: vectors to compare with.
        target: 1 for similar pairs, -1 for others, of any dtype. Anything else has no loss.
        margin: the cosine that different pairs may have.
        size_average: deprecated, see `reduction`.
        reduce: deprecated, see `reduction`.
        reduction: "none", "mean" or "sum".

    Shape:
        - Inputs: `(N, D)` or `(D)`; target: `(N)` or `()`.
        - Output: `()`, or the target's with "none".

    Raises:
        RuntimeError: the dimensions don't fit each other, or the sizes don't broadcast.
        ValueError: `reduction` is another word.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn import functional as F
        >>> x, y = jnp.array([[1.0, 0.0], [1.0, 0.0]]), jnp.array([[0.0, 1.0], [2.0, 0.0]])
        >>> F.cosine_embedding_loss(x, y, jnp.array([1, -1]), reduction="none").tolist()
        [1.0, 1.0]
    """
    how = resolve_reduction(size_average, reduce, reduction)
    x1, x2, t = unbox(input1), unbox(input2), unbox(target)
    sizes = f"inputs with sizes {shape_list(x1)} and {shape_list(x2)}, target {shape_list(t)}"
    if t.ndim > 1:
        raise RuntimeError(f"0D or 1D target tensor expected, multi-target not supported: {sizes}")
    if not x1.ndim == x2.ndim == t.ndim + 1:
        raise RuntimeError(
            f"{t.ndim}D target tensor expects {t.ndim + 1}D input tensors, but found inputs with sizes "
            f"{shape_list(x1)} and {shape_list(x2)}."
        )
    check_broadcast(x1, x2)
    rows = jnp.broadcast_shapes(x1.shape, x2.shape)[:-1]
    if t.ndim and rows != t.shape and 1 not in (*rows, *t.shape):
        raise RuntimeError(
            f"The size of tensor a ({t.shape[0]}) must match the size of tensor b ({rows[0]}) at non-singleton "
            f"dimension 0: {sizes}"
        )
    return _cosine_embedding_loss(x1, x2, t, margin=margin, reduction=how)


@autocasts
def triplet_margin_loss(
    anchor: ArrayLike,
    positive: ArrayLike,
    negative: ArrayLike,
    margin: float = 1.0,
    p: float = 2,
    eps: float = 1e-6,
    swap: bool = False,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> jax.Array:
    """`max(0, margin + |anchor - positive + eps|_p - |anchor - negative + eps|_p)` (Balntas et al., 2016).

    Args:
        anchor: vectors.
        positive: vectors that should be near to them.
        negative: vectors that should be farther away.
        margin: by how much.
        p: the norm's degree.
        eps: added to each coordinate of the differences.
        swap: whether the negative's distance to the positive counts, where that is smaller.
        size_average: deprecated, see `reduction`.
        reduce: deprecated, see `reduction`.
        reduction: "none", "mean" or "sum".

    Shape:
        - Inputs: `(*, D)`, or shapes of equally many dimensions that broadcast.
        - Output: `()`, or `(*)` with "none".

    Raises:
        ValueError: the margin is not positive, or `reduction` is another word.
        RuntimeError: the dimensions differ in number, or the shapes don't broadcast.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn import functional as F
        >>> a, p, n = jnp.array([[0.0, 0.0]]), jnp.array([[3.0, 4.0]]), jnp.array([[0.0, 4.0]])
        >>> float(F.triplet_margin_loss(a, p, n, eps=0.0))
        2.0
    """
    how = resolve_reduction(size_average, reduce, reduction)
    a, pos, neg = _check_triplet(anchor, positive, negative, margin)
    check_broadcast(a, pos, neg)
    options = {"margin": float(margin), "p": float(p), "eps": float(eps), "swap": bool(swap)}
    return _triplet_margin_loss(a, pos, neg, **options, reduction=how)


def triplet_margin_with_distance_loss(
    anchor: ArrayLike,
    positive: ArrayLike,
    negative: ArrayLike,
    *,
    distance_function: Distance | None = None,
    margin: float = 1.0,
    swap: bool = False,
    reduction: str = "mean",
) -> jax.Array:
    """`max(0, margin + d(anchor, positive) - d(anchor, negative))` with a distance `d` of one's own.

    Args:
        anchor: vectors.
        positive: vectors that should be near to them.
        negative: vectors that should be farther away.
        distance_function: from two arrays to their distances; `pairwise_distance` by default.
        margin: by how much.
        swap: whether the negative's distance to the positive counts, where that is smaller.
        reduction: "none", "mean" or "sum".

    Shape:
        - Inputs: `(N, *)`, whatever the distance takes.
        - Output: `()`, or with "none" what the distance gives.

    Raises:
        ValueError: the margin is not positive, or `reduction` is another word.
        RuntimeError: the dimensions differ in number.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn import functional as F
        >>> a, p, n = jnp.array([[0.0, 0.0]]), jnp.array([[3.0, 4.0]]), jnp.array([[0.0, 4.0]])
        >>> manhattan = lambda x, y: jnp.sum(jnp.abs(x - y), -1)
        >>> float(F.triplet_margin_with_distance_loss(a, p, n, distance_function=manhattan))
        4.0
    """
    how = get_enum(reduction)
    arrays = _check_triplet(anchor, positive, negative, margin)
    distance = pairwise_distance if distance_function is None else distance_function
    losses = _triplet(*arrays, distance, margin, swap)  # not compiled: the function is the caller's
    return reduce_loss(losses, how)


def _check_triplet(
    anchor: ArrayLike, positive: ArrayLike, negative: ArrayLike, margin: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
    a, p, n = unbox(anchor), unbox(positive), unbox(negative)
    if margin <= 0:
        raise ValueError(f"margin must be greater than 0, got {margin}")
    if not a.ndim == p.ndim == n.ndim:
        raise RuntimeError(
            "The anchor, positive, and negative tensors are expected to have the same number of dimensions, but got: "
            f"anchor {a.ndim}D, positive {p.ndim}D, and negative {n.ndim}D inputs "
            f"({shape_list(a)}, {shape_list(p)} and {shape_list(n)})"
        )
    return a, p, n


def _float_dtype(*arrays: jax.Array) -> np.dtype:
    dtype = promoted(*(a.dtype for a in arrays))
    return dtype if jnp.issubdtype(dtype, jnp.floating) else jnp.dtype(jnp.float32)

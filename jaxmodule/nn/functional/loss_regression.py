"""Regression losses: a distance of each element from its target."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ...core.box import unbox
from ._autocast import autocasts
from ._common import ArrayLike, Reduction, compiled, get_enum, opmath_dtype, reduce_loss, resolve_reduction
from ._loss import aligned, check_weight_size, promoted, require_floating_pair, warn_sizes

__all__ = ["huber_loss", "l1_loss", "mse_loss", "smooth_l1_loss"]


def _finish(
    losses: jax.Array, weight: jax.Array | None, reduction: Reduction, dtype: np.dtype, weighted_mean: bool = True
) -> jax.Array:
    """Weight and reduce `losses`, whose result has `dtype`; with a weight, what it and `dtype` promote to."""
    if weight is None:
        return reduce_loss(losses, reduction).astype(dtype)
    dtype = promoted(dtype, weight.dtype)
    wide = opmath_dtype(dtype)
    weight = jnp.broadcast_to(weight.astype(wide), losses.shape)
    losses = losses.astype(wide) * weight
    if reduction == "mean" and weighted_mean:
        return (jnp.sum(losses) / jnp.sum(weight)).astype(dtype)
    return reduce_loss(losses, reduction).astype(dtype)


def _distance(x: jax.Array, target: jax.Array) -> jax.Array:
    difference = x - target
    if jnp.iscomplexobj(difference):
        return jnp.abs(difference)
    return difference * lax.stop_gradient(jnp.sign(difference))  # the gradient at 0 is 0: jnp.abs has 1 there


def _huber(x: jax.Array, target: jax.Array, delta: float) -> jax.Array:
    distance = _distance(x, target)
    # Not a choice between two formulas: the one that isn't meant could overflow and make the gradient NaN.
    below = jnp.where(distance < delta, distance, delta)
    return below * (distance - 0.5 * below)


@compiled("reduction")
def _l1_loss(x: jax.Array, target: jax.Array, weight: jax.Array | None, *, reduction: Reduction) -> jax.Array:
    (x, target), dtype = aligned(x, target)
    losses = _distance(x, target)
    return _finish(losses, weight, reduction, losses.dtype if jnp.iscomplexobj(x) else dtype)


@compiled("reduction")
def _mse_loss(x: jax.Array, target: jax.Array, weight: jax.Array | None, *, reduction: Reduction) -> jax.Array:
    (x, target), dtype = aligned(x, target)
    return _finish(jnp.square(x - target), weight, reduction, dtype)


@compiled("reduction", "beta")
def _smooth_l1_loss(x: jax.Array, target: jax.Array, *, reduction: Reduction, beta: float) -> jax.Array:
    (x, target), dtype = aligned(x, target)
    losses = _huber(x, target, beta) / beta if beta else _distance(x, target)
    return reduce_loss(losses, reduction).astype(dtype)


@compiled("reduction", "delta")
def _huber_loss(
    x: jax.Array, target: jax.Array, weight: jax.Array | None, *, reduction: Reduction, delta: float
) -> jax.Array:
    dtype = x.dtype  # torch's: a wider target doesn't widen the result
    (x, target), _ = aligned(x, target)
    return _finish(_huber(x, target, delta), weight, reduction, dtype, weighted_mean=False)


@autocasts
def l1_loss(
    input: ArrayLike,
    target: ArrayLike,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    weight: ArrayLike | None = None,
) -> jax.Array:
    """`weight |input - target|`: the absolute error. Its gradient at 0 is 0.

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
        RuntimeError: the shapes don't broadcast, an array is boolean, or "mean" is asked of integers.
        ValueError: the weight has another size, or `reduction` is another word.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn import functional as F
        >>> float(F.l1_loss(jnp.array([1.0, 2.0]), jnp.array([1.0, 4.0])))
        1.0
    """
    x, t, w = unbox(input), unbox(target), unbox(weight)
    warn_sizes(x, t)
    how = resolve_reduction(size_average, reduce, reduction)
    for array in (x, t):
        if array.dtype == jnp.bool_:
            raise RuntimeError("Subtraction, the `-` operator, with a bool tensor is not supported by l1_loss")
    if how == "mean" and w is None and not any(jnp.issubdtype(array.dtype, jnp.inexact) for array in (x, t)):
        raise RuntimeError(
            f"mean(): could not infer output dtype from {x.dtype.name} and {t.dtype.name}: cast one to a float dtype"
        )
    check_weight_size(w, x)
    return _l1_loss(x, t, w, reduction=how)


@autocasts
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
    warn_sizes(x, t)
    how = resolve_reduction(size_average, reduce, reduction)
    require_floating_pair(x, t, "mse_loss")
    check_weight_size(w, x)
    return _mse_loss(x, t, w, reduction=how)


@autocasts
def smooth_l1_loss(
    input: ArrayLike,
    target: ArrayLike,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    beta: float = 1.0,
) -> jax.Array:
    """`0.5 d^2 / beta` where `d = |input - target|` is below `beta`, `d - 0.5 beta` elsewhere (Girshick, 2015).

    Args:
        input: predictions.
        target: what they should be.
        size_average: deprecated, see `reduction`.
        reduce: deprecated, see `reduction`.
        reduction: "none", "mean" or "sum".
        beta: where the square becomes a line; with 0 this is the absolute error.

    Shape:
        - Input: any; target: the same, or one that broadcasts with it (with a warning).
        - Output: `()`, or the broadcast shape with "none".

    Raises:
        RuntimeError: the shapes don't broadcast, or `beta` is negative.
        ValueError: `reduction` is another word.
        NotImplementedError: input and target are not floating-point.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn import functional as F
        >>> F.smooth_l1_loss(jnp.array([1.0, 2.0]), jnp.array([1.5, 5.0]), reduction="none").tolist()
        [0.125, 2.5]
    """
    x, t = unbox(input), unbox(target)
    warn_sizes(x, t)
    how = resolve_reduction(size_average, reduce, reduction)
    if beta < 0:
        raise RuntimeError(f"smooth_l1_loss does not support negative values for beta, but got {beta}")
    require_floating_pair(x, t, "smooth_l1_loss")
    return _smooth_l1_loss(x, t, reduction=how, beta=float(beta))


@autocasts
def huber_loss(
    input: ArrayLike,
    target: ArrayLike,
    reduction: str = "mean",
    delta: float = 1.0,
    weight: ArrayLike | None = None,
) -> jax.Array:
    """`0.5 d^2` where `d = |input - target|` is below `delta`, `delta (d - 0.5 delta)` elsewhere (Huber, 1964).

    Args:
        input: predictions.
        target: what they should be.
        reduction: "none", "mean" or "sum".
        delta: where the square becomes a line.
        weight: a factor for each element, of the input's shape. The mean is not weighted by it, in torch neither.

    Shape:
        - Input: any; target: the same, or one that broadcasts with it (with a warning).
        - Output: `()`, or the broadcast shape with "none".

    Raises:
        RuntimeError: the shapes don't broadcast, `delta` is not positive, or the input is an integer.
        ValueError: the weight has another size, or `reduction` is another word.
        NotImplementedError: input and target are not floating-point.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn import functional as F
        >>> F.huber_loss(jnp.array([1.0, 2.0]), jnp.array([1.5, 5.0]), reduction="none").tolist()
        [0.125, 2.5]
    """
    x, t, w = unbox(input), unbox(target), unbox(weight)
    warn_sizes(x, t)
    how = get_enum(reduction)
    if delta <= 0:
        raise RuntimeError(f"huber_loss does not support non-positive values for delta, but got {delta}")
    require_floating_pair(x, t, "huber_loss")
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise RuntimeError(f"result type {t.dtype.name} can't be cast to the input's {x.dtype.name}")
    check_weight_size(w, x)
    return _huber_loss(x, t, w, reduction=how, delta=float(delta))

"""Divergences and negative log likelihoods of distributions."""

from __future__ import annotations

import math
import warnings

import jax
import jax.numpy as jnp
from jax import lax

from ...core.box import unbox
from ...core.context import Tracer
from ._autocast import autocasts
from ._common import ArrayLike, Reduction, compiled, get_enum, is_floating, reduce_loss, resolve_reduction, shape_list
from ._loss import aligned, check_broadcast

__all__ = ["gaussian_nll_loss", "kl_div", "poisson_nll_loss"]


@compiled("reduction", "batch", "log_target")
def _kl_div(x: jax.Array, target: jax.Array, *, reduction: Reduction, batch: int | None, log_target: bool) -> jax.Array:
    (x, target), dtype = aligned(x, target)
    if log_target:
        losses = jnp.exp(target) * (target - x)
    else:
        zero = target == 0  # 0 log(0) = 0; the inner choice keeps the logarithm's gradient finite there
        losses = jnp.where(zero, 0.0, target * jnp.log(jnp.where(zero, 1.0, target))) - target * x
    loss = reduce_loss(losses, reduction)
    return (loss if batch is None else loss / batch).astype(dtype)


@compiled("log_input", "full", "eps", "reduction")
def _poisson_nll_loss(
    x: jax.Array, target: jax.Array, *, log_input: bool, full: bool, eps: float, reduction: Reduction
) -> jax.Array:
    if not is_floating(x) and not is_floating(target):
        x = x.astype(jnp.float32)  # torch's default dtype
    (x, target), dtype = aligned(x, target)
    losses = jnp.exp(x) - target * x if log_input else x - target * jnp.log(x + eps)
    if full:
        above = target > 1
        t = jnp.where(above, target, 1.0)
        stirling = t * jnp.log(t) - t + 0.5 * jnp.log(2 * math.pi * t)
        losses = losses + jnp.where(above, stirling, 0.0)
    return reduce_loss(losses, reduction).astype(dtype)


@compiled("full", "eps", "reduction")
def _gaussian_nll_loss(
    x: jax.Array, target: jax.Array, var: jax.Array, *, full: bool, eps: float, reduction: Reduction
) -> jax.Array:
    (x, target, var), dtype = aligned(x, target, var)
    # The clamped value with the gradient of the variance itself: torch clamps outside of the graph.
    var = jnp.where(var < eps, eps + (var - lax.stop_gradient(var)), var)
    losses = 0.5 * (jnp.log(var) + jnp.square(x - target) / var)
    if full:
        losses = losses + 0.5 * math.log(2 * math.pi)
    return reduce_loss(losses, reduction).astype(dtype)


@autocasts
def kl_div(
    input: ArrayLike,
    target: ArrayLike,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    log_target: bool = False,
) -> jax.Array:
    """`target (log(target) - input)`: the Kullback-Leibler divergence of a target from log-probabilities.

    Args:
        input: log-probabilities.
        target: probabilities, or their logarithms with `log_target`.
        size_average: deprecated, see `reduction`.
        reduce: deprecated, see `reduction`.
        reduction: "none", "batchmean" (the divergence: the sum over the first dimension's size), "mean" or "sum".
        log_target: whether the target is a logarithm.

    Shape:
        - Input: any; target: the same, or one that broadcasts with it.
        - Output: `()`, or the broadcast shape with "none".

    Raises:
        RuntimeError: the shapes don't broadcast, or an array is not floating-point.
        ValueError: `reduction` is another word.

    Note:
        "mean" warns, as in torch: it divides by the number of classes too.
        The gradient of a target of 0 counts `0 log(0)` as constant, where torch's is NaN.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn import functional as F
        >>> log_probs = F.log_softmax(jnp.zeros((3, 2)), 1)
        >>> round(float(F.kl_div(log_probs, jnp.array([[1.0, 0.0]] * 3), reduction="batchmean")), 4)
        0.6931
    """
    x, t = unbox(input), unbox(target)
    legacy = size_average is not None or reduce is not None
    if reduction == "mean" and not legacy:
        warnings.warn(
            "reduction: 'mean' divides the total loss by both the batch size and the support size. 'batchmean' divides "
            "only by the batch size, and aligns with the KL div math definition.",
            UserWarning,
            stacklevel=3,
        )
    batchmean = reduction == "batchmean"
    how = resolve_reduction(size_average, reduce, "sum" if batchmean else reduction)
    for array in (x, t):
        if not is_floating(array):
            kind = "Complex" if jnp.iscomplexobj(array) else "Integral"
            raise RuntimeError(f"kl_div: {kind} inputs not supported, got {x.dtype.name} and {t.dtype.name}.")
    check_broadcast(t, x)
    batch = x.shape[0] if batchmean and x.ndim else None
    return _kl_div(x, t, reduction=how, batch=batch, log_target=bool(log_target))


@autocasts
def poisson_nll_loss(
    input: ArrayLike,
    target: ArrayLike,
    log_input: bool = True,
    full: bool = False,
    size_average: bool | None = None,
    eps: float = 1e-8,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> jax.Array:
    """`exp(input) - target input`: the negative log likelihood of a Poisson distribution, whose log-rate is the input.

    Args:
        input: the log of the expected count, or the expected count without `log_input`.
        target: the count.
        log_input: without it the loss is `input - target log(input + eps)`.
        full: whether to add Stirling's `target log(target) - target + 0.5 log(2 pi target)` where the target is over 1.
        size_average: deprecated, see `reduction`.
        eps: keeps the logarithm finite.
        reduce: deprecated, see `reduction`.
        reduction: "none", "mean" or "sum".

    Shape:
        - Input: any; target: the same, or one that broadcasts with it.
        - Output: `()`, or the broadcast shape with "none".

    Raises:
        RuntimeError: the shapes don't broadcast.
        ValueError: `reduction` is another word.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn import functional as F
        >>> F.poisson_nll_loss(jnp.array([0.0, 1.0]), jnp.array([2.0, 0.0]), reduction="none").tolist()
        [1.0, 2.718...]
    """
    how = resolve_reduction(size_average, reduce, reduction)
    x, t = unbox(input), unbox(target)
    check_broadcast(t, x)
    return _poisson_nll_loss(x, t, log_input=bool(log_input), full=bool(full), eps=float(eps), reduction=how)


@autocasts
def gaussian_nll_loss(
    input: ArrayLike,
    target: ArrayLike,
    var: ArrayLike | float,
    full: bool = False,
    eps: float = 1e-6,
    reduction: str = "mean",
) -> jax.Array:
    """`0.5 (log(v) + (input - target)^2 / v)` with `v = max(var, eps)`: of a normal distribution.

    Args:
        input: the expectation.
        target: the sample.
        var: the variance: one number, of the input's shape, or of that shape with one dimension of size 1 or without
            its last dimension.
        full: whether to add the constant `0.5 log(2 pi)`.
        eps: the least variance. The gradient ignores this clamp.
        reduction: "none", "mean" or "sum".

    Shape:
        - Input: `(N, *)` or `(*)`; target: the same, or one that broadcasts with it.
        - Output: `()`, or the input's with "none".

    Raises:
        ValueError: a variance is negative, where it is concrete; its size is another; `reduction` is another word.
        RuntimeError: the shapes don't broadcast, or no array is floating-point.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn import functional as F
        >>> float(F.gaussian_nll_loss(jnp.array([1.0, 2.0]), jnp.array([1.0, 4.0]), 1.0))
        1.0
    """
    x, t = unbox(input), unbox(target)
    if isinstance(var, int | float):
        v = jnp.full(x.shape, var, x.dtype if is_floating(x) else jnp.float32)
    else:
        v = unbox(var)
    if not isinstance(v, Tracer) and v.is_fully_addressable and bool(jnp.any(v < 0)):
        raise ValueError(f"var has negative entry/entries (of shape {shape_list(v)})")
    v = _variance_of_size(v, x)
    how = get_enum(reduction)
    check_broadcast(x, t, v)
    if not any(is_floating(array) for array in (x, t, v)):
        raise RuntimeError(f"gaussian_nll_loss needs floating-point arrays, but got {x.dtype.name} and {t.dtype.name}")
    return _gaussian_nll_loss(x, t, v, full=bool(full), eps=float(eps), reduction=how)


def _variance_of_size(var: jax.Array, x: jax.Array) -> jax.Array:
    if var.shape == x.shape:
        return var
    if var.shape == x.shape[:-1]:
        return var[..., None]
    if var.ndim == x.ndim and [v for v, n in zip(var.shape, x.shape, strict=True) if v != n] == [1]:
        return var
    raise ValueError(
        f"var is of incorrect size {shape_list(var)}: for an input of {shape_list(x)} it has the same, with one "
        "dimension of size 1 instead or the last one missing"
    )

"""Binary cross entropy and its relatives: each element is a decision of its own."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from ...core.box import unbox
from ._autocast import autocasts
from ._common import (
    ArrayLike,
    Reduction,
    broadcast_shape,
    compiled,
    is_floating,
    reduce_loss,
    resolve_reduction,
    shape_list,
)
from ._loss import aligned, check_between_0_and_1, check_broadcast, require_real

__all__ = [
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "multilabel_soft_margin_loss",
    "soft_margin_loss",
]

# torch's: a logarithm is no smaller than this, and the denominator of the gradient no smaller than that.
_LEAST_LOG = -100.0
_LEAST_DENOMINATOR = 1e-12


def _logs(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    return jnp.maximum(jnp.log(x), _LEAST_LOG), jnp.maximum(jnp.log1p(-x), _LEAST_LOG)


@jax.custom_jvp
def _bce(x: jax.Array, target: jax.Array) -> jax.Array:
    log_x, log_rest = _logs(x)
    return (target - 1.0) * log_rest - target * log_x


@_bce.defjvp
def _bce_jvp(
    primals: tuple[jax.Array, jax.Array], tangents: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    # torch's gradient, not that of the clamped logarithms: at 0 and 1 it is large and points the right way.
    x, target = primals
    log_x, log_rest = _logs(x)
    by_x = (x - target) / jnp.maximum((1.0 - x) * x, _LEAST_DENOMINATOR)
    return _bce(x, target), by_x * tangents[0] + (log_rest - log_x) * tangents[1]


@compiled("reduction")
def _binary_cross_entropy(
    x: jax.Array, target: jax.Array, weight: jax.Array | None, *, reduction: Reduction
) -> jax.Array:
    (x, target), dtype = aligned(x, target)
    losses = _bce(x, target)
    if weight is not None:
        losses = losses * jnp.broadcast_to(weight.astype(x.dtype), x.shape)
    return reduce_loss(losses, reduction).astype(dtype)


@compiled("reduction")
def _bce_with_logits(
    x: jax.Array, target: jax.Array, weight: jax.Array | None, pos_weight: jax.Array | None, *, reduction: Reduction
) -> jax.Array:
    (x, target), dtype = aligned(x, target)
    wide = x.dtype
    minus_log_sigmoid = jax.nn.softplus(-x)
    if pos_weight is not None:
        positive = jnp.broadcast_to(pos_weight.astype(wide), x.shape)
        minus_log_sigmoid = minus_log_sigmoid * ((positive - 1.0) * target + 1.0)
    losses = (1.0 - target) * x + minus_log_sigmoid
    if weight is not None:
        losses = losses * jnp.broadcast_to(weight.astype(wide), x.shape)
    return reduce_loss(losses, reduction).astype(dtype)


@compiled("reduction")
def _soft_margin_loss(x: jax.Array, target: jax.Array, *, reduction: Reduction) -> jax.Array:
    dtype = x.dtype  # torch's: a wider target doesn't widen the result
    (x, target), _ = aligned(x, target)
    return reduce_loss(jax.nn.softplus(-target * x), reduction).astype(dtype)


@compiled("reduction", "axis")
def _multilabel_soft_margin_loss(
    x: jax.Array, target: jax.Array, weight: jax.Array | None, *, reduction: Reduction, axis: int
) -> jax.Array:
    classes = x.shape[axis]
    arrays, dtype = aligned(x, target) if weight is None else aligned(x, target, weight)
    x, target = arrays[:2]
    losses = target * jax.nn.softplus(-x) + (1.0 - target) * jax.nn.softplus(x)
    if weight is not None:
        losses = losses * arrays[2]
    return reduce_loss(jnp.sum(losses, axis) / classes, reduction).astype(dtype)


@autocasts
def binary_cross_entropy(
    input: ArrayLike,
    target: ArrayLike,
    weight: ArrayLike | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> jax.Array:
    """`-weight (target log(input) + (1 - target) log(1 - input))`, each logarithm no smaller than -100.

    Args:
        input: probabilities. For logits see `binary_cross_entropy_with_logits`, which is exact near 0 and 1 too.
        target: probabilities, of the input's shape and dtype.
        weight: a factor for each element, broadcast to the input.
        size_average: deprecated, see `reduction`.
        reduce: deprecated, see `reduction`.
        reduction: "none", "mean" or "sum".

    Shape:
        - Input and target: any, the same.
        - Output: `()`, or the input's with "none".

    Raises:
        ValueError: input and target have different sizes, or `reduction` is another word.
        RuntimeError: the dtypes differ, the weight doesn't broadcast, or a concrete value is outside of [0, 1].
        NotImplementedError: the input is not floating-point.

    Note:
        The gradient of the target is clamped as the loss is, where torch's is infinite for an input of 0 or 1.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn import functional as F
        >>> F.binary_cross_entropy(jnp.array([0.5, 0.0]), jnp.array([1.0, 1.0]), reduction="none").tolist()
        [0.693..., 100.0]
    """
    how = resolve_reduction(size_average, reduce, reduction)
    x, t, w = unbox(input), unbox(target), unbox(weight)
    if x.shape != t.shape:
        raise ValueError(
            f"Using a target size ({shape_list(t)}) that is different to the input size ({shape_list(x)}) is "
            "deprecated. Please ensure they have the same size."
        )
    if not is_floating(x) and x.dtype == t.dtype:
        raise NotImplementedError(f'"binary_cross_entropy" not implemented for {x.dtype.name!r}')
    if x.dtype != t.dtype:
        raise RuntimeError(f"Found dtype {t.dtype.name} of the target but expected {x.dtype.name}, the input's")
    _check_weight_broadcasts(w, x, "weight")
    check_between_0_and_1(x, "input")
    check_between_0_and_1(t, "target")
    return _binary_cross_entropy(x, t, w, reduction=how)


@autocasts
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
    require_real(x, "binary_cross_entropy_with_logits")
    if not is_floating(t):
        raise RuntimeError(f"binary_cross_entropy_with_logits expects a floating point target, but got {t.dtype.name}")
    _check_weight_broadcasts(w, x, "weight")
    _check_weight_broadcasts(p, x, "pos_weight")
    return _bce_with_logits(x, t, w, p, reduction=how)


@autocasts
def soft_margin_loss(
    input: ArrayLike,
    target: ArrayLike,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> jax.Array:
    """`log(1 + exp(-target input))`: the logistic loss of scores against labels 1 and -1.

    Args:
        input: scores.
        target: labels, 1 or -1, of any dtype.
        size_average: deprecated, see `reduction`.
        reduce: deprecated, see `reduction`.
        reduction: "none", "mean" or "sum".

    Shape:
        - Input: any; target: the same, or one that broadcasts to it.
        - Output: `()`, or the input's with "none".

    Raises:
        RuntimeError: the target doesn't broadcast to the input, or the input is not floating-point.
        ValueError: `reduction` is another word.

    Note:
        Where the exponential overflows torch's loss is infinite and its gradient NaN; here both are finite.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn import functional as F
        >>> F.soft_margin_loss(jnp.array([0.0, -100.0]), jnp.array([1, 1]), reduction="none").tolist()
        [0.693..., 100.0]
    """
    how = resolve_reduction(size_average, reduce, reduction)
    x, t = unbox(input), unbox(target)
    if not is_floating(x):
        raise RuntimeError(f"result type float can't be cast to the desired output type {x.dtype.name}, the input's")
    if broadcast_shape(x, t) != x.shape:
        raise RuntimeError(
            f"output with shape {shape_list(x)} doesn't match the broadcast shape {list(broadcast_shape(x, t))} "
            f"of the target {shape_list(t)}"
        )
    return _soft_margin_loss(x, t, reduction=how)


@autocasts
def multilabel_soft_margin_loss(
    input: ArrayLike,
    target: ArrayLike,
    weight: ArrayLike | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> jax.Array:
    """`-1/C sum_c weight[c] (target[c] log(s[c]) + (1 - target[c]) log(1 - s[c]))` with `s = sigmoid(input)`.

    Args:
        input: logits of the classes, the last dimension.
        target: for each class 1 or 0, or a probability.
        weight: a factor for each class.
        size_average: deprecated, see `reduction`.
        reduce: deprecated, see `reduction`.
        reduction: "none", "mean" or "sum".

    Shape:
        - Input: `(C)`, `(N, C)` or with more dimensions in front; target: the same; weight: `(C)`.
        - Output: `()`, or the input's without its last dimension with "none".

    Raises:
        RuntimeError: the shapes don't broadcast, or the target is boolean.
        IndexError: the input has no dimension.
        ValueError: `reduction` is another word.
        NotImplementedError: the input is not floating-point.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn import functional as F
        >>> round(float(F.multilabel_soft_margin_loss(jnp.zeros((2, 3)), jnp.ones((2, 3)))), 4)
        0.6931
    """
    how = resolve_reduction(size_average, reduce, reduction)
    x, t, w = unbox(input), unbox(target), unbox(weight)
    require_real(x, "multilabel_soft_margin_loss")
    if t.dtype == jnp.bool_:
        raise RuntimeError("Subtraction, the `-` operator, with a bool tensor is not supported: cast the target")
    check_broadcast(*(array for array in (x, t, w) if array is not None))
    if x.ndim == 0:
        raise IndexError(f"Dimension specified as -1 but tensor has no dimensions (target {shape_list(t)})")
    return _multilabel_soft_margin_loss(x, t, w, reduction=how, axis=x.ndim - 1)


def _check_weight_broadcasts(weight: jax.Array | None, x: jax.Array, name: str) -> None:
    if weight is not None and broadcast_shape(weight, x) != x.shape:
        raise RuntimeError(f"{name} of shape {shape_list(weight)} doesn't broadcast to the input's {shape_list(x)}")

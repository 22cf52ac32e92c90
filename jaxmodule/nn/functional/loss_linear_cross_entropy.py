"""Cross entropy of a linear map's output."""

from __future__ import annotations

import warnings

import jax
import jax.numpy as jnp

from ...core.box import unbox
from ._common import ArrayLike, Reduction, compiled, is_integer, shape_list, signed_index
from ._linear_cross_entropy import chunked_losses
from ._linear_cross_entropy_options import LinearCrossEntropyOptions, Plan
from ._loss import check_class_targets
from .linear import linear
from .loss import cross_entropy

__all__ = ["linear_cross_entropy"]


@compiled("reduction", "ignore_index", "plan")
def _chunked(
    x: jax.Array,
    linear_weight: jax.Array,
    linear_bias: jax.Array | None,
    target: jax.Array,
    weight: jax.Array | None,
    *,
    reduction: Reduction,
    ignore_index: int,
    plan: Plan,
) -> jax.Array:
    target = signed_index(target)
    kept = target != ignore_index
    valid = (target >= 0) & (target < linear_weight.shape[0])
    scale = (kept & valid).astype(plan.acc_dtype)
    if weight is not None:
        scale = scale * jnp.take(weight.astype(plan.acc_dtype), jnp.where(valid, target, 0))
    losses = chunked_losses(x, linear_weight, linear_bias, target, scale, reduction != "none", plan)
    if reduction == "mean":
        total = jnp.sum(scale)
        nothing = total == 0  # the mean of nothing is NaN, but its gradient 0
        losses = jnp.where(nothing, jnp.nan, losses / jnp.where(nothing, 1.0, total))
    # An index that is no class can't raise inside a compiled program: NaN makes it visible.
    unknown = kept & ~valid
    return jnp.where(unknown if reduction == "none" else jnp.any(unknown), jnp.nan, losses).astype(x.dtype)


def linear_cross_entropy(
    input: ArrayLike,
    linear_weight: ArrayLike,
    target: ArrayLike,
    *,
    linear_bias: ArrayLike | None = None,
    weight: ArrayLike | None = None,
    reduction: str = "mean",
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    options: LinearCrossEntropyOptions | None = None,
) -> jax.Array:
    """`cross_entropy(linear(input, linear_weight, linear_bias), target)`.

    Args:
        input: features.
        linear_weight: the matrix that makes logits of them, or one for each position of a K-dimensional loss.
        target: the index of each element's class (any integer dtype), or a probability for each class (floating).
        linear_bias: what is added to the logits.
        weight: a factor for each class. With class indices, the mean is weighted by it.
        reduction: "none", "mean" or "sum".
        ignore_index: a class index that is left out of the loss and of the mean, -100 by default.
        label_smoothing: the share of the uniform distribution in the target.
        options: in which chunks to compute, so that never all logits exist at once; None for all at once. For class
            indices without smoothing and without further dimensions; other calls warn and ignore it.

    Shape:
        - Input: `(N, F)` or `(F)`.
        - Linear weight: `(C, F)` or `(C, d_1, ..., d_K, F)`; linear bias: the same without `F`; weight: `(C)`.
        - Target: indices `()`, `(N)` or `(N, d_1, ..., d_K)`; probabilities `(C)`, `(N, C)` or `(N, C, d_1, ..., d_K)`.
        - Output: `()`, or with "none" the shape of indices.

    Raises:
        RuntimeError: sizes or dtypes don't fit, or `ignore_index` is given with probabilities.
        ValueError: the batch sizes differ, `reduction` is another word, or the options contradict each other.
        IndexError: a target is no class, where targets are concrete; compiled, its loss is NaN. With options this and
            other batch sizes are a RuntimeError, as in torch.

    Note:
        In chunks, forward-mode differentiation is not supported, as in torch; unlike there, `jm.jit`, `jm.vmap` and
        any number of gradients are.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> from jaxmodule.nn import functional as F
        >>> x, w, y = jnp.zeros((4, 3)), jnp.zeros((8, 3)), jnp.array([0, 1, 2, 3])
        >>> options = nn.LinearCrossEntropyOptions(batch_chunk_size=2)
        >>> round(float(F.linear_cross_entropy(x, w, y, options=options)), 4)
        2.0794
    """
    x, w, t, b, of_class = (unbox(array) for array in (input, linear_weight, target, linear_bias, weight))
    logits_shape = _check_sizes(x, w, b)
    if t.shape == logits_shape and ignore_index is not None:
        raise RuntimeError(
            f"ignore_index cannot be specified when target contains probabilities: {ignore_index} for a target of "
            f"shape {shape_list(t)}, that of the logits"
        )
    ignored = -100 if ignore_index is None else ignore_index
    if options is not None:
        plain = w.ndim == 2 and reduction in ("mean", "sum", "none") and label_smoothing == 0.0 and is_integer(t)
        if plain:
            return _in_chunks(x, w, b, t, of_class, reduction, ignored, options)  # pyright: ignore[reportArgumentType]
        warnings.warn(
            "linear_cross_entropy: ``options`` ignored; chunked path needs reduction in {'mean','sum','none'}, "
            f"label_smoothing == 0, an integer target, out_features == (). Got reduction={reduction!r}, "
            f"label_smoothing={label_smoothing}, target dtype {t.dtype.name}, out_features={w.shape[1:-1]}.",
            UserWarning,
            stacklevel=2,
        )
    logits = linear(x, w.reshape(-1, w.shape[-1]), None if b is None else b.reshape(-1)).reshape(logits_shape)
    return cross_entropy(
        logits, t, of_class, ignore_index=ignored, reduction=reduction, label_smoothing=label_smoothing
    )


def _in_chunks(
    x: jax.Array,
    w: jax.Array,
    b: jax.Array | None,
    target: jax.Array,
    weight: jax.Array | None,
    reduction: Reduction,
    ignore_index: int,
    options: LinearCrossEntropyOptions,
) -> jax.Array:
    if w.dtype != x.dtype:
        raise RuntimeError(
            f"expected m1 and m2 to have the same dtype, but got: input {x.dtype.name} != linear_weight {w.dtype.name}"
        )
    if weight is not None and weight.shape != w.shape[:1]:
        raise RuntimeError(f"expected weight shape {w.shape[:1]}, one for each class, got {weight.shape}")
    rows = x.reshape(-1, x.shape[-1])
    like_logits = jax.ShapeDtypeStruct((*x.shape[:-1], w.shape[0]), x.dtype)
    try:
        t, _ = check_class_targets(like_logits, target, None, ignore_index)
    except (ValueError, IndexError) as error:
        raise RuntimeError(str(error)) from None  # torch's type, on this path
    plan = options._adjust(rows.shape[0], rows.shape[1], w.shape[0], x.dtype, jax.default_backend())
    losses = _chunked(rows, w, b, t.reshape(-1), weight, reduction=reduction, ignore_index=ignore_index, plan=plan)
    return losses.reshape(()) if x.ndim == 1 else losses


def _check_sizes(x: jax.Array, w: jax.Array, b: jax.Array | None) -> tuple[int, ...]:
    """The shape of the logits."""
    if x.ndim not in (1, 2):
        raise RuntimeError(f"expected input with dimensionality 1 or 2, got {x.ndim} (shape {shape_list(x)})")
    if w.ndim < 2:
        raise RuntimeError(f"expected linear_weight with dimensionality at least 2, got {w.ndim}")
    sizes = f"input {shape_list(x)}, linear_weight {shape_list(w)}"
    if x.shape[-1] != w.shape[-1]:
        raise RuntimeError(
            "expected equal input and linear_weight last dimensions (in_features), got "
            f"{x.shape[-1]} and {w.shape[-1]}, respectively ({sizes})"
        )
    if b is not None and b.shape != w.shape[:-1]:
        raise RuntimeError(f"expected linear_bias shape {w.shape[:-1]}, got {b.shape} ({sizes})")
    if w.ndim > 2 and x.ndim == 1:
        raise RuntimeError(
            f"K-dimensional loss defined by linear_weight shape {w.shape} requires batched input, (N, {x.shape[-1]}), "
            f"got unbatched input with shape {x.shape}"
        )
    return (*x.shape[:-1], *w.shape[:-1])

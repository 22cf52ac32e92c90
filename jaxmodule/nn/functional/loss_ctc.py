"""Connectionist temporal classification."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from ...core.box import Box, unbox
from ._autocast import autocasts
from ._common import (
    ArrayLike,
    Reduction,
    compiled,
    concrete_range,
    get_enum,
    is_integer,
    opmath_dtype,
    reduce_loss,
    shape_list,
    signed_index,
)
from ._ctc import ctc_losses, pad_labels
from ._loss import require_real

__all__ = ["ctc_loss"]

Lengths = ArrayLike | Sequence[int]


@compiled("blank", "width", "reduction", "zero_infinity")
def _ctc_loss(
    log_probs: jax.Array,
    targets: jax.Array,
    input_lengths: jax.Array,
    target_lengths: jax.Array,
    *,
    blank: int,
    width: int,
    reduction: Reduction,
    zero_infinity: bool,
) -> jax.Array:
    dtype, classes = log_probs.dtype, log_probs.shape[2]
    input_lengths, target_lengths = input_lengths.astype(int), target_lengths.astype(int)
    wide = log_probs.astype(opmath_dtype(dtype))
    labels = targets[:, :width] if targets.ndim == 2 else pad_labels(targets, target_lengths, width)
    used = jnp.arange(width, dtype=target_lengths.dtype)[None, :] < target_lengths[:, None]
    unknown = jnp.any(used & ((labels < 0) | (labels >= classes)), 1)
    unknown |= (target_lengths < 0) | (input_lengths < 0) | (input_lengths > log_probs.shape[0])
    if targets.ndim == 2:
        unknown |= target_lengths > targets.shape[1]
    labels = jnp.clip(labels, 0, classes - 1)
    losses = jnp.asarray(ctc_losses(wide, labels, input_lengths, target_lengths, blank, zero_infinity))
    # A label that is no class can't raise inside a compiled program: NaN makes it visible.
    losses = jnp.where(unknown, jnp.nan, losses)
    if reduction == "mean":
        losses = losses / jnp.maximum(target_lengths, 1).astype(losses.dtype)
    return reduce_loss(losses, reduction).astype(dtype)


@autocasts
def ctc_loss(
    log_probs: ArrayLike,
    targets: ArrayLike,
    input_lengths: Lengths,
    target_lengths: Lengths,
    blank: int = 0,
    reduction: str = "mean",
    zero_infinity: bool = False,
) -> jax.Array:
    """`-log p(target | log_probs)` over all alignments of a label sequence with a longer input (Graves et al., 2006).

    Args:
        log_probs: log-probabilities of the classes at each time, as `log_softmax` gives them.
        targets: labels, padded to equal lengths, or all sequences one after the other.
        input_lengths: how many times of each element count.
        target_lengths: how many labels each element has.
        blank: the class that stands for no label.
        reduction: "none", "mean" or "sum". The mean is of losses divided by the target's length.
        zero_infinity: whether an infinite loss, of a target that is too long for its input, is 0 with no gradient.

    Shape:
        - Log-probabilities: `(T, N, C)` or `(T, C)`.
        - Targets: `(N, S)` or `(sum(target_lengths))`.
        - Lengths: `(N)`, or `()` for an input without batch; arrays, lists or tuples.
        - Output: `()`, or `(N)` with "none".

    Raises:
        RuntimeError: the sizes don't fit, the blank is no class, a length is too long or a label no class, where they
            are concrete. See Note.
        ValueError: `reduction` is another word.
        NotImplementedError: the log-probabilities are not floating-point.

    Note:
        The gradient is torch's: that of the logits under the `log_softmax`, `exp(log_probs)` less each class's share,
        0 where a log-probability is -inf (torch: NaN). An infinite loss has a gradient of NaN without `zero_infinity`.
        Under `jm.jit` lengths and labels can't be checked: one out of range makes the loss NaN.
        Half precision is computed in float32; torch has none.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn import functional as F
        >>> log_probs = F.log_softmax(jnp.zeros((3, 1, 2)), 2)
        >>> round(float(F.ctc_loss(log_probs, jnp.array([[1]]), (3,), (1,))), 4)
        0.2877
    """
    how = get_enum(reduction)
    x, t = unbox(log_probs), unbox(targets)
    given, wanted = _lengths(input_lengths, "input_lengths"), _lengths(target_lengths, "target_lengths")
    batched = x.ndim == 3
    if x.ndim not in (2, 3):
        raise RuntimeError(
            f"Expected 2-dimensional or 3-dimensional log_probs (T, C) or (T, N, C), but got {shape_list(x)}"
        )
    if not batched:
        x, given, wanted = x[:, None], given.reshape(-1), wanted.reshape(-1)
    if x.size == 0:
        raise RuntimeError(f"log_probs tensor must not be empty, but is of shape {shape_list(x)}")
    require_real(x, "ctc_loss")
    if not 0 <= blank < x.shape[2]:
        raise RuntimeError(f"blank must be in label range, but got {blank} for {x.shape[2]} classes")
    t = signed_index(t if is_integer(t) else t.astype(int))
    for name, lengths in (("input_lengths", given), ("target_lengths", wanted)):
        if lengths.shape != (x.shape[1],):
            raise RuntimeError(
                f"{name} must be of size batch_size ({x.shape[1]}), but got {list(lengths.shape)} for log_probs "
                f"{shape_list(x)}"
            )
    width = _check_targets(x, t, given, wanted)
    losses = _ctc_loss(
        x, t, given, wanted, blank=int(blank), width=width, reduction=how, zero_infinity=bool(zero_infinity)
    )
    return losses if batched or how != "none" else losses.reshape(())


def _lengths(lengths: Lengths, name: str) -> jax.Array | np.ndarray:
    """The lengths as an array: of numpy where they aren't JAX's, as what a trace makes of those hides their values."""
    if isinstance(lengths, Sequence) and any(isinstance(n, jax.Array | Box) for n in lengths):
        array = jnp.stack([unbox(n) for n in lengths])
    elif isinstance(lengths, jax.Array | Box):
        array = unbox(lengths)
    else:
        array = np.asarray(lengths, None if np.size(lengths) else int)
    if not jnp.issubdtype(array.dtype, jnp.integer):
        raise RuntimeError(f"{name} must be integral, but got {array.dtype.name}")
    return array


def _range(lengths: jax.Array | np.ndarray) -> tuple[int, int] | None:
    return (int(lengths.min()), int(lengths.max())) if isinstance(lengths, np.ndarray) else concrete_range(lengths)


def _check_targets(
    x: jax.Array, targets: jax.Array, given: jax.Array | np.ndarray, wanted: jax.Array | np.ndarray
) -> int:
    """Check the concrete lengths and labels; how many labels of an element can matter, a static number."""
    times, batch, classes = x.shape
    of_inputs, of_targets = _range(given), _range(wanted)
    for name, found, most in (("input_lengths", of_inputs, times), ("target_lengths", of_targets, None)):
        if found is not None and found[0] < 0:
            raise RuntimeError(f"Expected {name} to have value at least 0, but got value {found[0]}")
        if found is not None and most is not None and found[1] > most:
            raise RuntimeError(f"Expected {name} to have value at most {most}, but got value {found[1]}")
    if targets.ndim == 2:
        longest = targets.shape[1]
        if targets.shape[0] != batch:
            raise RuntimeError(
                f"Expected tensor to have size {batch} at dimension 0, but got size {targets.shape[0]} for argument #2 "
                f"'targets' {shape_list(targets)} with log_probs {shape_list(x)}"
            )
        if of_targets is not None and of_targets[1] > longest:
            raise RuntimeError(
                f"Expected tensor to have size at least {of_targets[1]} at dimension 1, but got size {longest} for "
                f"argument #2 'targets' {shape_list(targets)}"
            )
    elif targets.ndim == 1:
        total = None if of_targets is None else int(np.asarray(wanted).sum())
        if total is not None and total != targets.size:
            raise RuntimeError(
                f"Expected tensor to have size {total} at dimension 0, but got size {targets.size} for argument #2 "
                f"'targets': the target_lengths add up to {total}"
            )
        longest = targets.size if of_targets is None else of_targets[1]
    else:
        raise RuntimeError(f"Expected 1 to 2 dimensions, but got {targets.ndim}-dimensional tensor for 'targets'")
    _check_labels(targets, wanted, classes)
    # No alignment exists for more labels than there are times: such a target needs no states of its own.
    return min(longest, times)


def _check_labels(targets: jax.Array, wanted: jax.Array | np.ndarray, classes: int) -> None:
    found = concrete_range(targets)
    if found is None or (found[0] >= 0 and found[1] < classes):
        return
    if targets.ndim == 2:  # what is behind a target's length is padding, of any value
        if _range(wanted) is None:
            return
        host = np.asarray(targets)
        host = host[np.arange(host.shape[1])[None, :] < np.asarray(wanted)[:, None]]
        if not host.size or (host.min() >= 0 and host.max() < classes):
            return
        found = int(host.min()), int(host.max())
    outside = found[0] if found[0] < 0 else found[1]
    raise RuntimeError(f"Expected targets to be classes in [0, {classes - 1}], but got {outside}")

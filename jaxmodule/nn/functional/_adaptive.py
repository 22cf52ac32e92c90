"""The adaptive softmax: log-probabilities of frequent classes, and of clusters of rare ones (Grave et al., 2016).

The head has a logit for each class of the shortlist and for each cluster; a tail one for each class of its cluster.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from ._common import compiled, opmath_dtype, reduce_loss, signed_index
from .softmax import log_softmax_axis


def _log_probs(logits: jax.Array) -> jax.Array:
    return log_softmax_axis(logits.astype(opmath_dtype(logits.dtype)), 1)


def _pick(values: jax.Array, index: jax.Array) -> jax.Array:
    """`values[n, index[n]]`, 0 where there is no such class. A comparison, not a gather: its gradient is one too."""
    hit = lax.broadcasted_iota(index.dtype, values.shape, 1) == index[:, None]
    return jnp.sum(jnp.where(hit, values, 0.0), 1)


@compiled("cutoffs")
def adaptive_log_softmax_with_loss(
    head: jax.Array, tails: Sequence[jax.Array], target: jax.Array, *, cutoffs: tuple[int, ...]
) -> tuple[jax.Array, jax.Array]:
    """The log-probability of each target (N), NaN where it is no class, and minus their mean.

    Every tail has a row for every element: which rows a cluster needs depends on the targets, and no shape may.
    """
    target = signed_index(target)
    shortlist = cutoffs[0]
    of_head = target
    found = jnp.zeros(head.shape[:1], opmath_dtype(head.dtype))
    for i, tail in enumerate(tails):
        inside = (target >= cutoffs[i]) & (target < cutoffs[i + 1])
        of_head = jnp.where(inside, shortlist + i, of_head)
        found = found + jnp.where(inside, _pick(_log_probs(tail), target - cutoffs[i]), 0.0)
    found = found + _pick(_log_probs(head), of_head)
    known = (target >= 0) & (target < cutoffs[-1])
    found = jnp.where(known, found, jnp.nan)
    return found.astype(head.dtype), reduce_loss(-found, "mean").astype(head.dtype)


@compiled()
def adaptive_log_prob(head: jax.Array, tails: Sequence[jax.Array]) -> jax.Array:
    """The log-probability of every class, (N, n_classes)."""
    of_head = _log_probs(head)
    shortlist = head.shape[1] - len(tails)
    parts = [of_head[:, :shortlist]]
    for i, tail in enumerate(tails):
        parts.append(_log_probs(tail) + of_head[:, shortlist + i, None])
    return jnp.concatenate(parts, 1).astype(head.dtype)


@compiled()
def adaptive_predict(head: jax.Array, tails: Sequence[jax.Array]) -> jax.Array:
    """The most probable class (N): of the shortlist, where no cluster is more probable than each of its classes."""
    first = jnp.argmax(head, 1)
    shortlist = head.shape[1] - len(tails)
    return jnp.where(first < shortlist, first, jnp.argmax(adaptive_log_prob(head, tails), 1))

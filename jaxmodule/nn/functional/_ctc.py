"""Connectionist temporal classification: the recursions over time, and torch's gradient.

The paths of a label sequence of length S run through 2S + 1 states: a blank, a label, a blank, ..., a blank. `alpha`
is the log-probability of reaching a state with the labels up to a time, `beta` that of the rest of the path after it
(Graves et al., 2006). Before the first step all paths are in state 0, so an element without time steps needs no care.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax import lax

Residuals = tuple[jax.Array, jax.Array, jax.Array, jax.Array, jax.Array, jax.Array, jax.Array]


def _log_sum(*terms: jax.Array) -> jax.Array:
    """`log(sum(exp(term)))`, -inf where all are."""
    top = functools.reduce(jnp.maximum, terms)
    shift = jnp.where(jnp.isneginf(top), 0.0, top)
    return shift + jnp.log(sum((jnp.exp(term - shift) for term in terms), jnp.zeros_like(top)))


def _shifted(states: jax.Array, by: int) -> jax.Array:
    """`states[:, i - by]`, -inf where there is none."""
    width = states.shape[1]
    pad = jnp.full((states.shape[0], min(abs(by), width)), -jnp.inf, states.dtype)
    return jnp.concatenate([pad, states[:, :-by]] if by > 0 else [states[:, -by:], pad], 1)[:, :width]


def _states(labels: jax.Array, blank: int) -> tuple[jax.Array, jax.Array]:
    """The class of each state, and which states may be entered from two before: labels unlike the one before."""
    n, s = labels.shape
    states = jnp.full((n, 2 * s + 1), blank, labels.dtype).at[:, 1::2].set(labels)
    skips = jnp.zeros(states.shape, bool).at[:, 2:].set(states[:, 2:] != states[:, :-2])
    return states, skips


def _alphas(
    emissions: jax.Array, skips: jax.Array, input_lengths: jax.Array, keep: bool
) -> tuple[jax.Array, jax.Array | None]:
    """The last alpha of each element, and with `keep` those of every time."""
    start = jnp.full(emissions.shape[1:], -jnp.inf, emissions.dtype).at[:, 0].set(0.0)

    def step(alpha: jax.Array, at: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array | None]:
        time, emission = at
        two_before = jnp.where(skips, _shifted(alpha, 2), -jnp.inf)
        after = _log_sum(alpha, _shifted(alpha, 1), two_before) + emission
        alpha = jnp.where((time < input_lengths)[:, None], after, alpha)
        return alpha, alpha if keep else None

    return lax.scan(step, start, (jnp.arange(emissions.shape[0]), emissions))


def _ends(target_lengths: jax.Array, width: int) -> jax.Array:
    """Whether a path may end in the state: the last label or the blank after it; none, if the labels don't fit."""
    state, last = jnp.arange(width)[None, :], 2 * target_lengths[:, None]
    return (state == last) | (state == last - 1)


def _loss(alpha: jax.Array, target_lengths: jax.Array) -> jax.Array:
    reached = jnp.where(_ends(target_lengths, alpha.shape[1]), alpha, -jnp.inf)
    top = jnp.max(reached, 1, keepdims=True)
    shift = jnp.where(jnp.isneginf(top), 0.0, top)
    return -(shift[:, 0] + jnp.log(jnp.sum(jnp.exp(reached - shift), 1)))


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def ctc_losses(
    log_probs: jax.Array,
    labels: jax.Array,
    input_lengths: jax.Array,
    target_lengths: jax.Array,
    blank: int,
    zero_infinity: bool,
) -> jax.Array:
    """The loss of each element: log_probs (T, N, C), labels (N, S) of classes, lengths (N)."""
    states, skips = _states(labels, blank)
    emissions = jnp.take_along_axis(log_probs, states[None], 2)
    alpha, _ = _alphas(emissions, skips, input_lengths, keep=False)
    losses = _loss(alpha, target_lengths)
    return jnp.where(jnp.isposinf(losses), 0.0, losses) if zero_infinity else losses


def _forward(
    log_probs: jax.Array,
    labels: jax.Array,
    input_lengths: jax.Array,
    target_lengths: jax.Array,
    blank: int,
    zero_infinity: bool,
) -> tuple[jax.Array, Residuals]:
    states, skips = _states(labels, blank)
    emissions = jnp.take_along_axis(log_probs, states[None], 2)
    alpha, alphas = _alphas(emissions, skips, input_lengths, keep=True)
    losses = _loss(alpha, target_lengths)
    shown = jnp.where(jnp.isposinf(losses), 0.0, losses) if zero_infinity else losses
    return shown, (log_probs, labels, input_lengths, target_lengths, emissions, alphas, losses)  # pyright: ignore[reportReturnType]


def _backward(
    blank: int, zero_infinity: bool, residuals: Residuals, cotangent: jax.Array
) -> tuple[jax.Array, None, None, None]:
    # torch's gradient: exp(log_probs) less the share of the paths that is in each class, which is the gradient of the
    # logits before a log_softmax. That of a log_softmax maps it to itself.
    log_probs, labels, input_lengths, target_lengths, emissions, alphas, losses = residuals
    states, skips = _states(labels, blank)
    ends = jnp.where(_ends(target_lengths, states.shape[1]), 0.0, -jnp.inf).astype(log_probs.dtype)

    def step(
        after: jax.Array, at: tuple[jax.Array, jax.Array, jax.Array]
    ) -> tuple[jax.Array, jax.Array]:  # after: beta and emission of the next time
        time, emission, alpha = at
        skipped = _shifted(jnp.where(skips, after, -jnp.inf), -2)
        beta = jnp.where((time == input_lengths - 1)[:, None], ends, _log_sum(after, _shifted(after, -1), skipped))
        return beta + emission, jnp.exp(alpha + beta + losses[:, None])

    times = jnp.arange(log_probs.shape[0])
    start = jnp.full_like(ends, -jnp.inf)
    _, shares = lax.scan(step, start, (times, emissions, alphas), reverse=True)
    gradient = jnp.exp(log_probs) - _by_class(shares, states, log_probs.shape[2])
    lost = jnp.isposinf(losses)
    gradient = jnp.where(lost[None, :, None], 0.0 if zero_infinity else jnp.nan, gradient) * cotangent[None, :, None]
    inside = times[:, None] < input_lengths[None, :]
    return jnp.where(inside[:, :, None], gradient, 0.0), None, None, None


def _by_class(shares: jax.Array, states: jax.Array, classes: int) -> jax.Array:
    """`shares` (T, N, 2S + 1) summed over the states of each class: (T, N, C)."""
    rows = jnp.arange(states.shape[0])[:, None]
    zeros = jnp.zeros((*shares.shape[:2], classes), shares.dtype)
    return zeros.at[:, rows, states].add(shares)


ctc_losses.defvjp(_forward, _backward)


def pad_labels(targets: jax.Array, lengths: jax.Array, width: int) -> jax.Array:
    """Concatenated label sequences as the rows of (N, width); what is behind a row's length is arbitrary."""
    if not targets.size:
        return jnp.zeros((lengths.shape[0], width), targets.dtype)
    starts = jnp.cumsum(lengths) - lengths
    index = starts[:, None] + jnp.arange(width, dtype=lengths.dtype)[None, :]
    return targets[jnp.clip(index, 0, targets.size - 1)]

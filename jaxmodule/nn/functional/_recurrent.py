"""Recurrent layers and cells on arrays: all layers and directions, and a single step.

`torch.nn.functional` has no public functions for them; the modules check arguments and call these.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from ._autocast import autocasts
from ._common import along_axis, compiled, laid_out_like, opmath_dtype
from ._recurrent_scan import Hidden, Mode, State, over_time, step, times

__all__ = ["Layer", "Mode", "State", "cell", "recurrent"]


class Layer(NamedTuple):
    """The parameters of one direction of one layer, by torch's names."""

    weight_ih: jax.Array
    weight_hh: jax.Array
    bias_ih: jax.Array | None = None
    bias_hh: jax.Array | None = None
    weight_hr: jax.Array | None = None


def _prepare(mode: Mode, x: jax.Array, layer: Layer) -> tuple[jax.Array, Hidden]:
    """The input's share of the gates at all time steps, in one product, with every bias that is only added."""
    gates = times(x, layer.weight_ih)
    bias, inner = layer.bias_ih, None
    if bias is not None and layer.bias_hh is not None:
        outer = layer.bias_hh
        if mode == "GRU":  # the bias of n is inside the product with r
            size = outer.shape[0] // 3
            outer, inner = jnp.concatenate([outer[: 2 * size], jnp.zeros_like(outer[2 * size :])]), outer[2 * size :]
        bias = bias.astype(gates.dtype) + outer.astype(gates.dtype)
        gates = gates + along_axis(bias, gates.ndim - 1, gates.ndim)
    return gates.astype(x.dtype), Hidden(layer.weight_hh, inner, layer.weight_hr)


def _drop(x: jax.Array, key: jax.Array, p: float) -> jax.Array:
    if p == 1.0:
        return x * 0.0
    keep = laid_out_like(jax.random.bernoulli(key, 1.0 - p, x.shape), x)
    return jnp.where(keep, x * (1.0 / (1.0 - p)), jnp.zeros_like(x))


@autocasts
@compiled("mode", "bidirectional", "batch_first", "dropout")
def recurrent(
    x: jax.Array,
    state: State | None,
    layers: list[Layer],
    lengths: jax.Array | None,
    keys: tuple[jax.Array, ...],
    *,
    mode: Mode,
    bidirectional: bool,
    batch_first: bool,
    dropout: float,
) -> tuple[jax.Array, State]:
    """A stack of recurrent layers.

    Args:
        x: `(T, N, I)`, with `batch_first` `(N, T, I)`; or `(T, I)`.
        state: the initial states of all layers and directions, arrays of `(L D, N, *)` or `(L D, *)`; None for zeros.
        layers: their parameters, layer by layer, forward before reverse.
        lengths: the sequences' lengths, `(N)`, or None. Outputs behind a sequence's end are of no use.
        keys: of the dropout masks on the outputs of every layer but the last, or empty for no dropout.
        mode: the kind of the layers.
        bidirectional: whether there is a second direction to every layer.
        batch_first: see `x`. The states are the same either way.
        dropout: the probability of zeroing.

    Returns:
        The last layer's outputs, both directions side by side, and the last states of all layers and directions.
    """
    batched = x.ndim == 3
    if not batched:
        x = x[:, None]
        state = None if state is None else tuple(s[:, None] for s in state)
    elif batch_first:
        x = jnp.swapaxes(x, 0, 1)
    directions = 2 if bidirectional else 1
    lasts: list[State] = []
    for first in range(0, len(layers), directions):
        outputs = []
        for k in range(first, first + directions):
            gates, hidden = _prepare(mode, x, layers[k])
            start = _zeros(mode, x, layers[k]) if state is None else tuple(s[k] for s in state)
            y, last = over_time(mode, k > first, gates, hidden, start, lengths)
            outputs.append(y)
            lasts.append(last)
        x = jnp.concatenate(outputs, axis=-1) if bidirectional else outputs[0]
        if keys and first + directions < len(layers):
            x = _drop(x, keys[first // directions], dropout)
    final = tuple(jnp.stack(states) for states in zip(*lasts, strict=True))
    if not batched:
        return x[:, 0], tuple(s[:, 0] for s in final)
    return jnp.swapaxes(x, 0, 1) if batch_first else x, final


def _zeros(mode: Mode, x: jax.Array, layer: Layer) -> State:
    batch, size = x.shape[1], layer.weight_hh.shape[1]
    h = jnp.zeros((batch, size), x.dtype)
    return (h, jnp.zeros((batch, layer.weight_hh.shape[0] // 4), x.dtype)) if mode == "LSTM" else (h,)


@autocasts
@compiled("mode")
def cell(x: jax.Array, state: State | None, layer: Layer, *, mode: Mode) -> State:
    """One step of one layer: the new state from an input of `(N, I)` or `(I)` and states of `(N, H)` or `(H)`."""
    batched = x.ndim == 2
    rows = x if batched else x[None]
    if state is None:
        state = _zeros(mode, rows[None], layer)
    elif not batched:
        state = tuple(s[None] for s in state)
    gates, hidden = _prepare(mode, rows, layer)
    new, _ = step(mode, gates, hidden, tuple(s.astype(opmath_dtype(x.dtype)) for s in state))
    return tuple((s if batched else s[0]).astype(x.dtype) for s in new)

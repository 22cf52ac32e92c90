"""One direction of one recurrent layer over time, and its derivative.

*Gates*: the rows of a layer's matrices, in torch's order: i, f, g, o of an LSTM; r, z, n of a GRU.
*State*: the tuple that goes from step to step, `(h,)` or an LSTM's `(h, c)`. It is carried in the dtype that torch
accumulates in, and stored in the input's.

The derivative is a rule of its own. From the stored states every product of a weight's tangent with a state is one
matrix product over all time steps, before a linear scan that holds one small product a step. Transposed, so are the
weights' gradients, where JAX's own rule adds an outer product to a matrix in every step: forwards and backwards, about
two thirds of its time (benchmarks/layers.py). `unroll` of the scans was tried: longer to compile, and as long to run.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero

from ._common import along_axis, opmath_dtype

Mode = Literal["RNN_TANH", "RNN_RELU", "LSTM", "GRU"]
State = tuple[jax.Array, ...]

#: Matrices of fewer entries are widened before a product: XLA's CPU refuses some of bfloat16 in a scan (JAX 0.10.0).
_SMALL = 64 * 64


class Hidden(NamedTuple):
    """What a layer multiplies with its state: `weight` `(G, P)`, GRU's `bias` `(H)` of n, `projection` `(P, H)`."""

    weight: jax.Array
    bias: jax.Array | None
    projection: jax.Array | None


def times(x: jax.Array, weight: jax.Array) -> jax.Array:
    """`x W^T` over the last dimension, in the dtype that torch accumulates in."""
    wide = opmath_dtype(weight.dtype)
    x = x.astype(weight.dtype)
    if weight.size < _SMALL:
        x, weight = x.astype(wide), weight.astype(wide)
    return lax.dot_general(x, weight, (((x.ndim - 1,), (1,)), ((), ())), preferred_element_type=wide)


def step(mode: Mode, x: jax.Array, hidden: Hidden, state: State) -> tuple[State, State]:
    """One time step: the new state from the input's share of the gates, and what the derivative needs of the gates."""
    u = times(state[0], hidden.weight)
    x = x.astype(u.dtype)
    if mode == "LSTM":
        i, f, g, o = jnp.split(x + u, 4, axis=-1)
        i, f, g, o = jax.nn.sigmoid(i), jax.nn.sigmoid(f), jnp.tanh(g), jax.nn.sigmoid(o)
        c = f * state[1] + i * g
        h = o * jnp.tanh(c)
        return (h if hidden.projection is None else times(h, hidden.projection), c), (i, f, g, o)
    if mode == "GRU":
        (xr, xz, xn), (ur, uz, un) = jnp.split(x, 3, axis=-1), jnp.split(u, 3, axis=-1)
        un = un if hidden.bias is None else un + along_axis(hidden.bias.astype(u.dtype), 1, 2)
        r, z = jax.nn.sigmoid(xr + ur), jax.nn.sigmoid(xz + uz)
        n = jnp.tanh(xn + r * un)
        return (n + z * (state[0] - n),), (r, z, n, un)
    return (jnp.tanh(x + u) if mode == "RNN_TANH" else jax.nn.relu(x + u),), ()


def _convert(tree: Any, dtype: Any) -> Any:
    return jax.tree.map(lambda x: x.astype(dtype), tree)


def _advance(t: jax.Array, lengths: jax.Array | None, new: State, old: State) -> State:
    """The new state, of a sequence that has ended the old one."""
    if lengths is None:
        return new
    alive = (t < lengths)[:, None]
    return tuple(jnp.where(alive, a, b) for a, b in zip(new, old, strict=True))


def _times_of(x: jax.Array, lengths: jax.Array | None) -> jax.Array:
    return jnp.arange(x.shape[0], dtype=jnp.int32 if lengths is None else lengths.dtype)


def _scan(
    mode: Mode, reverse: bool, x: jax.Array, hidden: Hidden, state: State, lengths: jax.Array | None, keep: bool
) -> tuple[State, Any]:
    """The last state, and the output of every step, with `keep` every state and the gates."""

    def body(state: State, xs: tuple[jax.Array, jax.Array]) -> tuple[State, Any]:
        new, gates = step(mode, xs[0], hidden, state)
        new = _advance(xs[1], lengths, new, state)
        return new, _convert((new, gates) if keep else new[0], x.dtype)

    start = _convert(state, opmath_dtype(x.dtype))
    last, kept = lax.scan(body, start, (x, _times_of(x, lengths)), reverse=reverse)
    return _convert(last, x.dtype), kept


@partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def over_time(
    mode: Mode, reverse: bool, x: jax.Array, hidden: Hidden, state: State, lengths: jax.Array | None
) -> tuple[jax.Array, State]:
    """Run one direction of a layer.

    Args:
        mode: the kind of the layer.
        reverse: whether it starts at the end.
        x: the input's share of the gates, `(T, N, G)`.
        hidden: the other parameters.
        state: the initial state, arrays of `(N, P)` and `(N, H)`.
        lengths: `(N)`, or None if all are T long. A state stays as it is from its sequence's end on; in reverse, up to
            there.

    Returns:
        The outputs, `(T, N, P)`, and the last state.
    """
    last, outputs = _scan(mode, reverse, x, hidden, state, lengths, keep=False)
    return outputs, last


def _over_time_jvp(mode: Mode, reverse: bool, primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Any, Any]:
    x, hidden, state, lengths = primals
    last, (states, gates) = _scan(mode, reverse, x, hidden, state, lengths, keep=True)
    op = opmath_dtype(x.dtype)
    dx, dhidden, dstate = (_convert(_dense(tangent), op) for tangent in (tangents[0], tangents[1], tangents[2]))
    before = [_shift(s, first, reverse) for s, first in zip(states, state, strict=True)]
    constants = _linearize(mode, before, states, gates, op)
    drive = _drive(mode, dx, dhidden, before, states, gates)

    def body(dstate: State, xs: Any) -> tuple[State, jax.Array]:
        drive, constants, t = xs
        new = _linear_step(mode, drive, _convert(constants, op), hidden, dstate)
        new = _advance(t, lengths, new, dstate)
        return new, new[0].astype(x.dtype)

    xs = (drive, _convert(constants, x.dtype), _times_of(x, lengths))
    dlast, doutputs = lax.scan(body, dstate, xs, reverse=reverse)
    return (states[0], last), (doutputs, _convert(dlast, x.dtype))


# Symbolic zeros, so that a frozen weight costs no product.
over_time.defjvp(_over_time_jvp, symbolic_zeros=True)


def _is_zero(tangent: Any) -> bool:
    return isinstance(tangent, SymbolicZero)


def _dense(tangents: Any) -> Any:
    """The tangents of an argument as arrays; those of its weights that are zero as None."""
    if isinstance(tangents, Hidden):
        return Hidden._make(None if _is_zero(t) else t for t in tangents)
    return jax.tree.map(lambda t: jnp.zeros(t.shape, t.dtype) if _is_zero(t) else t, tangents, is_leaf=_is_zero)


def _shift(states: jax.Array, first: jax.Array, reverse: bool) -> jax.Array:
    """The states from which the steps start."""
    first = first[None]
    return jnp.concatenate([states[1:], first] if reverse else [first, states[:-1]])


def _linearize(mode: Mode, before: list[jax.Array], after: State, gates: State, op: Any) -> State:
    """The factors of `_linear_step` at all time steps."""
    gates, before, after = _convert((gates, before, after), op)
    if mode == "LSTM":
        i, f, g, o = gates
        cell = jnp.tanh(after[1])
        inward = (g * i * (1 - i), before[1] * f * (1 - f), i * (1 - g * g))
        return (*inward, f, cell * o * (1 - o), o * (1 - cell * cell))
    if mode == "GRU":
        r, z, n, un = gates
        return (un * r * (1 - r), (before[0] - n) * z * (1 - z), (1 - n * n) * (1 - z), r, z)
    h = after[0]
    return (1 - h * h,) if mode == "RNN_TANH" else ((h > 0).astype(op),)


def _drive(
    mode: Mode, dx: jax.Array, dhidden: Hidden, before: list[jax.Array], after: State, gates: State
) -> tuple[jax.Array, jax.Array | None]:
    """What the tangents of input and weights add to the gates of all time steps, and to an LSTM's projection."""
    added = None if dhidden.weight is None else times(before[0].astype(dx.dtype), dhidden.weight)
    if mode == "GRU":
        xr, xz, xn = jnp.split(dx, 3, axis=-1)
        r = gates[0].astype(dx.dtype)
        if added is not None:
            ur, uz, un = jnp.split(added, 3, axis=-1)
            xr, xz, xn = xr + ur, xz + uz, xn + r * un
        if dhidden.bias is not None:
            xn = xn + r * along_axis(dhidden.bias, 2, 3)
        return jnp.concatenate([xr, xz, xn], axis=-1), None
    if dhidden.projection is None:
        projected = None
    else:
        o, c = gates[3].astype(dx.dtype), after[1].astype(dx.dtype)
        projected = times(o * jnp.tanh(c), dhidden.projection)
    return dx if added is None else dx + added, projected


def _linear_step(
    mode: Mode, drive: tuple[jax.Array, jax.Array | None], constants: State, hidden: Hidden, dstate: State
) -> State:
    """The tangent of a new state, linear in `drive` and in the tangent of the old one."""
    dgates = times(dstate[0], hidden.weight)
    if mode == "GRU":
        (xr, xz, xn), (ur, uz, un) = jnp.split(drive[0], 3, axis=-1), jnp.split(dgates, 3, axis=-1)
        kr, kz, kn, r, z = constants
        return (kn * (xn + r * un + kr * (xr + ur)) + kz * (xz + uz) + z * dstate[0],)
    dgates = drive[0] + dgates
    if mode != "LSTM":
        return (constants[0] * dgates,)
    di, df, dg, do = jnp.split(dgates, 4, axis=-1)
    ki, kf, kg, f, ko, kc = constants
    dc = f * dstate[1] + ki * di + kf * df + kg * dg
    dh = ko * do + kc * dc
    if hidden.projection is not None:
        dh = times(dh, hidden.projection)
    return (dh if drive[1] is None else dh + drive[1], dc)

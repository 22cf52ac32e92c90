"""Equal layers as one `lax.scan`, on arrays: where the weights of a step come from, and the derivative.

*Stacking* makes one array of all layers' weights, a second copy that lives through the step. *Selecting* takes the
weights of one layer with a `lax.switch` when their turn comes: a copy of one layer at a time. JAX's own derivative of
that would add a gradient of all layers in each step, so the rule is written here: the forward scan keeps what a layer's
derivative needs, but for its weights, which the backward scan selects again, and each step gives its layer's gradient.
"""

import functools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero

Arrays = list[Any]


class _Parts(NamedTuple):
    """The arguments of one layer, flat: its weights, what all layers share, and what goes from layer to layer."""

    own: Arrays
    shared: Arrays
    carry: Arrays


class Run:
    """One call of `scan_layers`.

    Args:
        layer: `layer(weights, state, carried) -> (state, carried, extra outputs)`, traced once.
        weights: for each layer its weights, pytrees of arrays.
        state: what goes from layer to layer.
        carried: the values of boxes that do.
        policy: False, or what `jax.checkpoint` of a layer is to save (None: nothing).
        unroll: of the scan.
        at: given the number of a layer, a block in which its derivative is taken.
    """

    def __init__(
        self,
        layer: Callable[..., Any],
        weights: list[Any],
        state: Arrays,
        carried: list[Any],
        policy: Any,
        unroll: int,
        at: Callable[[jax.Array], AbstractContextManager[Any]],
    ) -> None:
        self.count = len(weights)
        self.unroll = unroll
        self.at = at
        self.own = [jax.tree.leaves(of_layer) for of_layer in weights]
        leaves, self._carry_tree = jax.tree.flatten((state, carried))
        self.carry = leaves
        tree = jax.tree.structure(weights[0])
        out_trees: list[Any] = []

        def flat(own: Arrays, carry: Arrays) -> Arrays:
            new, moved, extra = layer(jax.tree.unflatten(tree, own), *jax.tree.unflatten(self._carry_tree, carry))
            carry_out, carry_tree = jax.tree.flatten((new, moved))
            if carry_tree != self._carry_tree:
                raise TypeError(f"a layer's state has the form {self._carry_tree} before and {carry_tree} after it")
            out_trees[:] = [len(carry_out)]
            return [*carry_out, *extra]

        from jax.extend.core import jaxpr_as_fun  # a twentieth of importing JAX

        jaxpr = jax.make_jaxpr(flat)(self.own[0], leaves)
        self.shared: Arrays = list(jaxpr.consts)
        self._cut = out_trees[0]
        n = len(self.shared)

        # Of its constants too: a rule must be given all that it differentiates.
        def whole(*args: Any) -> Any:
            return jaxpr_as_fun(type(jaxpr)(jaxpr.jaxpr, list(args[:n])))(*args[n:])

        self._call = whole if policy is False else jax.checkpoint(whole, policy=policy)

    def stacking(self) -> tuple[Any, Any, Arrays]:
        """With one array of all layers' weights."""
        stacked = [jnp.stack(row) for row in zip(*self.own, strict=True)]

        def step(carry: Arrays, own: Arrays) -> tuple[Arrays, Arrays]:
            return self._cut_out(self._call(*self.shared, *own, *carry))

        last, extra = lax.scan(step, self.carry, stacked, self.count, unroll=self.unroll)
        return *jax.tree.unflatten(self._carry_tree, last), extra

    def selecting(self) -> tuple[Any, Any, Arrays]:
        """With one layer's weights at a time."""
        last, extra = _selected(self, list(zip(*self.own, strict=True)), self.shared, self.carry)  # pyright: ignore
        return *jax.tree.unflatten(self._carry_tree, last), extra

    def call(self, parts: _Parts) -> tuple[Arrays, Arrays]:
        """One layer: what goes on, and the extra outputs."""
        return self._cut_out(self._call(*parts.shared, *parts.own, *parts.carry))

    def _cut_out(self, out: Sequence[Any]) -> tuple[Arrays, Arrays]:
        return list(out[: self._cut]), list(out[self._cut :])


def _select(rows: Sequence[Sequence[Any]], i: jax.Array) -> Arrays:
    """The i-th entry of each row."""
    if not rows:
        return []
    count = len(rows[0])
    return list(lax.switch(i, [functools.partial(lambda j: tuple(row[j] for row in rows), j) for j in range(count)]))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _selected(run: Run, rows: list[Any], shared: Arrays, carry: Arrays) -> tuple[Arrays, Arrays]:
    def step(carry: Arrays, i: jax.Array) -> tuple[Arrays, Arrays]:
        return run.call(_Parts(_select(rows, i), shared, carry))

    return lax.scan(step, carry, jnp.arange(run.count, dtype=jnp.int32), unroll=run.unroll)


class _Rule:
    """What the forward pass tells the backward one: a static residual."""

    def __init__(self) -> None:
        self.moving = _Parts([], [], [])  # the places of what is differentiated
        self.outputs: list[list[int]] = [[], []]  # of what goes on and of the extra outputs, those with tangents
        self.tree: Any = None
        self.kept: list[tuple[str, int]] = []  # for each leaf of the derivative: ("own" | "shared" | "saved", place)


jax.tree_util.register_static(_Rule)


def _inexact(x: Any) -> bool:
    return jnp.issubdtype(jnp.result_type(x), jnp.inexact)


def _forward(run: Run, rows: list[Any], shared: Arrays, carry: Arrays) -> Any:
    rule = _Rule()
    own_moves = [k for k, row in enumerate(rows) if any(p.perturbed for p in row) and _inexact(row[0].value)]
    rows = [[p.value for p in row] for row in rows]
    shared_moves = [k for k, p in enumerate(shared) if p.perturbed and _inexact(p.value)]
    shared = [p.value for p in shared]
    carry = [p.value for p in carry]
    rule.moving = _Parts(own_moves, shared_moves, [k for k, x in enumerate(carry) if _inexact(x)])

    def step(carry: Arrays, i: jax.Array) -> tuple[Arrays, Any]:
        parts = _Parts(_select(rows, i), shared, carry)

        def moved(moving: _Parts) -> Any:
            new, extra = run.call(_Parts(*(_put(*three) for three in zip(parts, rule.moving, moving, strict=True))))
            rule.outputs = [[k for k, x in enumerate(side) if _inexact(x)] for side in (new, extra)]
            return [_take(side, places) for side, places in zip((new, extra), rule.outputs, strict=True)], (new, extra)

        start = _Parts(*(_take(side, places) for side, places in zip(parts, rule.moving, strict=True)))
        _, derivative, (new, extra) = jax.vjp(moved, start, has_aux=True)
        leaves, rule.tree = jax.tree.flatten(derivative)
        rule.kept, saved = _sorted(leaves, parts)
        return new, (extra, saved)

    last, (extra, saved) = lax.scan(step, carry, jnp.arange(run.count, dtype=jnp.int32), unroll=run.unroll)
    return (last, extra), (rule, rows, shared, carry, saved)


def _sorted(leaves: list[Any], parts: _Parts) -> tuple[list[tuple[str, int]], Arrays]:
    """Where each array that a derivative needs comes from; what has to be saved."""
    known = {id(x): ("shared", k) for k, x in enumerate(parts.shared)}
    known.update({id(x): ("own", k) for k, x in enumerate(parts.own)})
    kept, saved = [], []
    for leaf in leaves:
        place = known.get(id(leaf))
        if place is None:
            place = known[id(leaf)] = ("saved", len(saved))
            saved.append(leaf)
        kept.append(place)
    return kept, saved


def _backward(run: Run, residuals: Any, cotangents: Any) -> Any:
    rule, rows, shared, carry, saved = residuals
    of_last, of_extra = (_take(side, places) for side, places in zip(cotangents, rule.outputs, strict=True))
    of_last, of_extra = (jax.tree.map(_dense, side, is_leaf=_is_zero) for side in (of_last, of_extra))
    needed = sorted({k for kind, k in rule.kept if kind == "own"})
    totals = [jnp.zeros_like(shared[k]) for k in rule.moving.shared]

    def step(state: tuple[Arrays, Arrays], xs: Any) -> Any:
        of_carry, totals = state
        i, of_extra, saved = xs
        own = dict(zip(needed, _select([rows[k] for k in needed], i), strict=True))
        sources = {"own": own, "shared": shared, "saved": saved}
        derivative = jax.tree.unflatten(rule.tree, [sources[kind][k] for kind, k in rule.kept])
        with run.at(i):
            (found,) = derivative([of_carry, of_extra])
        return (found.carry, [a + b for a, b in zip(totals, found.shared, strict=True)]), found.own

    steps = (jnp.arange(run.count, dtype=jnp.int32), of_extra, saved)
    (of_first, totals), stacks = lax.scan(step, (of_last, totals), steps, reverse=True, unroll=run.unroll)
    gradients = dict(zip(rule.moving.own, stacks, strict=True))
    of_rows = [
        tuple(gradients[k][i] for i in range(run.count)) if k in gradients else tuple(None for _ in row)
        for k, row in enumerate(rows)
    ]
    by_place = [dict(zip(rule.moving.shared, totals, strict=True)), dict(zip(rule.moving.carry, of_first, strict=True))]
    return of_rows, [by_place[0].get(k) for k in range(len(shared))], [by_place[1].get(k) for k in range(len(carry))]


_selected.defvjp(_forward, _backward, symbolic_zeros=True)


def _take(side: Sequence[Any], places: Sequence[int]) -> Arrays:
    return [side[k] for k in places]


def _put(side: Arrays, places: Sequence[int], new: Arrays) -> Arrays:
    out = list(side)
    for k, x in zip(places, new, strict=True):
        out[k] = x
    return out


def _is_zero(x: Any) -> bool:
    return isinstance(x, SymbolicZero)


def _dense(x: Any) -> Any:
    return jnp.zeros(x.shape, x.dtype) if _is_zero(x) else x

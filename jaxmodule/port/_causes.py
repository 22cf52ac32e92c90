"""Why a module differs: configuration, weights, arguments, numbers, or the code between its children."""

import itertools
from typing import Any

import numpy as np

from ._compare import default_rtol, wide
from ._judge import BAD, Pair, Tolerance
from ._numbers import Cause, applied, near, relations
from ._settings import different_settings, different_weights
from ._tree import paired, to_numpy

__all__ = ["configured", "explain", "explain_buffer", "explain_gradient"]

_MOST_TERMS = 14
_SAMPLE = 4096


def configured(pair: Pair) -> list[Cause]:
    """What is configured otherwise in the port's module."""
    theirs, ours = pair.calls
    found = []
    for name, a, b, remark in different_settings(theirs.module, ours.module):
        kind = {"training": "mode", "class": "class"}.get(name, "settings")
        what = {"training": "", "class": "the class is "}.get(name, f"{name} is ")
        found.append(Cause(kind, f"{what}{a} in torch, {b} in the port", remark))
    return found


def explain(pair: Pair, tolerance: Tolerance) -> list[Cause]:
    """The probable causes of a pair that differs by itself, the most telling first."""
    theirs, ours = pair.calls
    found = configured(pair)
    for name, what in different_weights(theirs.module, ours.module):
        found.append(Cause("weights", f"{name} is {what}", "compared as the run found them"))
    found += _options(pair)
    worst = theirs.results.get(pair.worst)
    results = (pair.repeated or ours).results
    mine = results.get(pair.worst, next(iter(results.values()), None))
    if pair.children:
        found += _between(pair, tolerance)
    if paired(theirs.outputs, ours.outputs) is None:
        labels = [list(x) for x in (theirs.outputs, ours.outputs)]
        found.append(Cause("structure", f"torch returns {labels[0]}, the port {labels[1]}", "the arrays in the output"))
    elif worst is not None and mine is not None and not any(cause.kind == "function" for cause in found):
        found += relations(to_numpy(worst), to_numpy(mine), default_rtol(worst.dtype))
        found += _as_functions(pair, worst, mine)
    return found or [Cause("unknown", "nothing usual: compare the two forward methods line by line", "")]


def _as_functions(pair: Pair, theirs: Any, ours: Any) -> list[Cause]:
    """An elementwise module that computes another function."""
    inputs = pair.calls[0].inputs
    if len(inputs) != 1 or pair.children:
        return []
    x = to_numpy(next(iter(inputs.values())))
    names = applied(x, to_numpy(theirs)), applied(x, to_numpy(ours))
    if None in names or names[0] == names[1]:
        return []
    return [Cause("function", f"torch computes {names[0]}, the port {names[1]}", "both fit the values")]


def _options(pair: Pair) -> list[Cause]:
    """Flags and numbers that the module was called with, and arrays that only one side gave it."""
    theirs, ours = pair.calls
    found = []
    for name, value in theirs.options.items():
        if (
            name in ours.options
            and ours.options[name] != value
            and ours.options[name] is not None
            and value is not None
        ):
            text = f"{name} is {value!r} in torch's call, {ours.options[name]!r} in the port's"
            found.append(Cause("arguments", text, "the arguments of the call"))
    return found + _given(pair)


def _given(pair: Pair) -> list[Cause]:
    theirs, ours = pair.calls
    if len(theirs.inputs) == len(ours.inputs):
        return []
    text = []
    for who, these, others in (("torch", theirs.inputs, ours.inputs), ("the port", ours.inputs, theirs.inputs)):
        extra = [f"{name} {x.dtype}{list(x.shape)}" for name, x in these.items() if name not in others]
        text += [f"only {who} passes {', '.join(extra)} to {theirs.title}"] if extra else []
    kind = "mask" if "mask" in " ".join(text) else "arguments"
    return [Cause(kind, "; ".join(text) or "another number of arrays is passed", "the arguments of the call")]


# -- between the children --------------------------------------------------------------------------------------------


def _between(pair: Pair, tolerance: Tolerance) -> list[Cause]:
    """Where in a parent's own `forward` the difference arises."""
    shared = [child for child in pair.children if child.theirs is not None and child.ours is not None]
    found = _order(shared) + _only_one(pair)
    shared.sort(key=lambda child: child.calls[0].start)
    before: Pair | None = None
    for child in shared:
        if not child.inputs_agree:
            return _gap(pair, before, child, tolerance) + found
        if child.row.status in BAD:
            break
        before = child
    return _gap(pair, before, None, tolerance) + found


def _order(shared: list[Pair]) -> list[Cause]:
    orders = [[c.row.title for c in sorted(shared, key=lambda c: c.calls[i].start)] for i in (0, 1)]
    if orders[0] == orders[1]:
        return []
    at = next(i for i, (a, b) in enumerate(zip(*orders, strict=True)) if a != b)
    short = [", ".join(order[at : at + 3]) for order in orders]
    return [Cause("order", f"torch calls {short[0]}; the port {short[1]}", "the order in which the calls began")]


def _only_one(pair: Pair) -> list[Cause]:
    found = []
    for child in pair.children:
        call = child.theirs or child.ours
        if call is None or (child.theirs is not None and child.ours is not None):
            continue
        both = paired(call.inputs, call.outputs)
        if both and all(a.shape == b.shape and np.array_equal(to_numpy(a), to_numpy(b)) for _, a, b in both):
            continue  # it does nothing here: dropout, identity
        who, other = ("torch", "the port") if child.theirs is not None else ("the port", "torch")
        says = f"{who} calls {child.row.title} ({child.row.kind}), {other} does not"
        found.append(Cause("calls", says, f"perhaps {other} has it as a function"))
    return found


def _gap(pair: Pair, before: Pair | None, after: Pair | None, tolerance: Tolerance) -> list[Cause]:
    parent = pair.calls
    name = type(parent[1].module).__name__
    start = "its start" if before is None else f"the call of {before.row.title}"
    end = "its return" if after is None else f"the call of {after.row.title}"
    seen = "its output" if after is None else f"what it gives {after.row.title}"
    says = f"the difference arises in {name}.forward itself, between {start} and {end}"
    found = [Cause("function", says, f"all that was computed before agrees, {seen} does not")]
    if after is not None:
        found += _given(after)
    values = _differing(pair, after, tolerance)
    if values is None:
        return found
    formulas = [_formula(_terms(pair, after, i), wide(values[i])) for i in (0, 1)]
    if None not in formulas and formulas[0] != formulas[1]:
        target = "returns" if after is None else f"gives {after.row.title}"
        evidence = "both fit the values that were seen"
        found.insert(0, Cause("function", f"torch {target} {formulas[0]}, the port {formulas[1]}", evidence))
    else:
        found += relations(*values, default_rtol(values[0].dtype))
        if None in formulas and formulas != [None, None]:
            who, formula = ("torch", formulas[0]) if formulas[0] else ("the port", formulas[1])
            found.append(Cause("function", f"{who} has {formula} there, the other side has not", "it fits the values"))
    return found


def _differing(pair: Pair, after: Pair | None, tolerance: Tolerance) -> tuple[np.ndarray, np.ndarray] | None:
    calls = pair.calls if after is None else after.calls
    both = paired(*((c.outputs if after is None else c.inputs) for c in calls))
    for _, a, b in both or ():
        if not tolerance.of(a, b).close:
            return to_numpy(a), to_numpy(b)
    return None


def _terms(pair: Pair, after: Pair | None, side: int) -> dict[str, np.ndarray]:
    """What the parent's code had at hand: its own inputs, and its children's outputs."""
    found = {f"its input {label}": to_numpy(x) for label, x in pair.calls[side].inputs.items()}
    for child in pair.children:
        call = child.theirs if side == 0 else child.ours
        if call is None or (after is not None and call.start >= after.calls[side].start):
            continue
        for label, x in call.outputs.items():
            suffix = "" if len(call.outputs) == 1 else f" {label}"
            found[f"{child.row.title.rpartition('.')[2]}'s output{suffix}"] = to_numpy(x)
    return {name: wide(x) for name, x in list(found.items())[-_MOST_TERMS:] if x.dtype.kind in "fV"}


def _formula(terms: dict[str, np.ndarray], value: np.ndarray) -> str | None:
    """`value` as one of the terms, a usual function of one, or a sum of two, if it is."""
    fitting = {name: x for name, x in terms.items() if x.shape == value.shape}
    for name, x in reversed(fitting.items()):
        if near(value, x):
            return name
    for name, x in reversed(fitting.items()):
        function = applied(x.astype(np.float32), value.astype(np.float32))
        if function is not None:
            return f"{function} of {name}"
    picked = np.linspace(0, value.size - 1, min(value.size, _SAMPLE)).astype(int)
    flat = {name: x.ravel()[picked] for name, x in fitting.items()}
    for names in [(name,) for name in fitting] + list(itertools.combinations(fitting, 2)):
        basis = np.stack([flat[name] for name in names], 1)
        factors, *_ = np.linalg.lstsq(basis, value.ravel()[picked], rcond=None)
        whole = sum(f * fitting[name] for f, name in zip(factors, names, strict=True))
        if near(value, np.asarray(whole)) and min(abs(factors)) > 1e-4:
            return " + ".join(_times(f, name) for f, name in zip(factors, names, strict=True))
    return None


def _times(factor: float, name: str) -> str:
    return name if abs(factor - 1) < 1e-4 else f"{factor:.4g} × {name}"


# -- gradients and buffers -------------------------------------------------------------------------------------------


def explain_gradient(pair: Pair, theirs: np.ndarray, ours: np.ndarray) -> list[Cause]:
    """The causes of a gradient that differs where the forward pass agrees."""
    found = configured(pair)
    if not np.any(wide(ours)) and np.any(wide(theirs)):
        says = "no gradient passes in the port: stop_gradient, no_grad, a rounding, or requires_grad=False"
        found.insert(0, Cause("detached", says, "the port's gradient is zero, torch's is not"))
    elif not np.any(wide(theirs)) and np.any(wide(ours)):
        says = "torch passes no gradient here (detach, no_grad); the port lacks a jax.lax.stop_gradient"
        found.insert(0, Cause("detached", says, "torch's gradient is zero, the port's is not"))
    else:
        found += relations(theirs, ours, 10 * default_rtol(theirs.dtype))
    return found or [Cause("unknown", "the outputs agree, the gradients don't: a custom gradient?", "")]


def explain_buffer(
    pair: Pair | None, before: np.ndarray, theirs: np.ndarray, ours: np.ndarray, name: str
) -> list[Cause]:
    """The causes of a buffer that a training step has changed otherwise."""
    found = [] if pair is None else configured(pair)
    if theirs.shape == ours.shape == before.shape and theirs.dtype.kind == "f":
        old, a, b = wide(before), wide(theirs), wide(ours)
        if np.array_equal(b, old):
            says = f"the port leaves {name} as it was: evaluation mode, or the write is missing"
            found.append(Cause("mode", says, "torch has changed it"))
        elif near(a - old, (b - old) * _part(a - old, b - old), 1e-3):
            part = 1 / _part(a - old, b - old)
            found.append(
                Cause("settings", "another momentum", f"the port moves {name} {part:.4g} times as far as torch")
            )
    return found + relations(theirs, ours, default_rtol(theirs.dtype)) if not found else found


def _part(a: np.ndarray, b: np.ndarray) -> float:
    total = float((b * b).sum())
    return float((a * b).sum()) / total if total else 0.0

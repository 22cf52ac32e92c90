"""Gradients, compared at every module: which one is the first in the backward pass to differ by itself."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ._causes import explain_gradient
from ._compare import Difference, default_rtol
from ._judge import BAD, Pair, Row, Tolerance
from ._numbers import Cause
from ._run import Run

__all__ = ["Gradients", "gradient_rows"]


@dataclass
class Gradients:
    """The rows, and the first that differs by itself."""

    rows: list[Row] = field(default_factory=list)
    first: Row | None = None
    causes: list[Cause] = field(default_factory=list)


def gradient_rows(
    pairs: list[Pair], runs: tuple[Run, Run], tolerance: Tolerance, renamed: Callable[[str], str]
) -> Gradients:
    """Compare gradients in the order of the backward pass: at modules' inputs, of their parameters, of the inputs.

    A module's backward differs by itself if the gradients of its outputs agree and those of its inputs or parameters
    don't, and the same isn't true of a module inside it.
    """
    found = Gradients()
    floor = 1e-3 * max((float(np.max(np.abs(g), initial=0.0)) for g in runs[0].parameters.values()), default=0.0)
    wrong: set[int] = set()
    both = [pair for pair in pairs if pair.theirs is not None and pair.ours is not None]
    owned = _owners(list(runs[0].parameters), {pair.calls[0].name for pair in both})
    # Within the backward pass what is inside a module is over before the module is.
    for pair in sorted(both, key=lambda p: -p.calls[0].start):
        incoming = _at(pair, runs, "out", tolerance)
        checks = [("", *item) for item in _at(pair, runs, "in", tolerance)]
        for name in owned.pop(pair.calls[0].name, ()):
            theirs, ours = runs[0].parameters[name], runs[1].parameters.get(renamed(name))
            if ours is None:  # the load has split it, say, as it does with old names of weight_norm
                shape, note = tuple(theirs.shape), "the port has no parameter of this name"
                found.rows.append(Row("gradient", name, "parameter", shape=shape, status="torch only", note=note))
                continue
            checks.append((name, _looser(tolerance, theirs).of(theirs, ours, floor), theirs, ours))
        inner = any(id(child) in wrong for child in pair.below())
        forward = pair.row.status in ("ok", "rounding") and pair.inputs_agree
        by_itself = forward and not inner and all(difference.close for difference, _, _ in incoming)
        for name, difference, theirs, ours in checks:
            row = Row("gradient", name or pair.row.path, "parameter" if name else pair.row.kind, pair.row.call)
            row.call = 0 if name else row.call
            row.take(difference)
            if not difference.close:
                row.status = "differs" if by_itself else "follows"
                wrong |= {id(pair)} if by_itself else set()
                if by_itself and found.first is None:
                    found.first = row
                    found.causes = _between(pair, runs, tolerance) or explain_gradient(pair, theirs, ours)
            found.rows.append(row)
    for label, theirs in runs[0].inputs.items():
        ours = runs[1].inputs.get(label)
        if ours is not None:
            label = label.removeprefix("[0]").removeprefix("[1].")
            _add(found, f"input {label}", _looser(tolerance, theirs).of(theirs, ours))
    return found


def _owners(parameters: list[str], called: set[str]) -> dict[str, list[str]]:
    """Parameters by the innermost module around them that was called: MultiheadAttention never calls its out_proj."""
    found: dict[str, list[str]] = {}
    for name in parameters:
        owner = name.rpartition(".")[0]
        while owner and owner not in called:
            owner = owner.rpartition(".")[0]
        found.setdefault(owner, []).append(name)
    return found


def _between(pair: Pair, runs: tuple[Run, Run], tolerance: Tolerance) -> list[Cause]:
    """Where in a parent's own `forward` the gradient goes another way."""
    after = "its return"
    for child in sorted((c for c in pair.children if c.theirs and c.ours), key=lambda c: -c.calls[0].start):
        for difference, theirs, ours in _at(child, runs, "out", tolerance):
            if not difference.close:
                name = type(pair.calls[1].module).__name__
                says = f"the gradient goes another way in {name}.forward, between {child.row.title} and {after}"
                evidence = f"of all that is computed later it agrees, of {child.row.title}'s output it does not"
                return [*explain_gradient(child, theirs, ours), Cause("function", says, evidence)]
        after = child.row.title
    return []


def _at(pair: Pair, runs: tuple[Run, Run], where: str, tolerance: Tolerance) -> list[tuple[Difference, Any, Any]]:
    """The worst of the gradients at a module's inputs or outputs, as a list of one or none."""
    found = []
    for place in range(64):
        keys = [f"{call.start}:{where}:{place}" for call in pair.calls]
        if keys[0] in runs[0].probes and keys[1] in runs[1].probes:
            theirs, ours = runs[0].probes[keys[0]], runs[1].probes[keys[1]]
            found.append((_looser(tolerance, theirs).of(theirs, ours), theirs, ours))
    return [max(found, key=lambda item: (not item[0].close, item[0].max_rel))] if found else []


def _looser(tolerance: Tolerance, like: Any) -> Tolerance:
    return tolerance.looser(10, default_rtol(like.dtype))


def _add(found: Gradients, name: str, difference: Difference) -> None:
    row = Row("gradient", name, "input")
    row.take(difference)
    if not difference.close:
        row.status = "follows" if any(r.status in BAD for r in found.rows) else "differs"
        if row.status == "differs":
            found.first, found.causes = row, [Cause("unknown", "only this gradient differs", "")]
    found.rows.append(row)

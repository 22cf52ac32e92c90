"""Which calls of the two models belong together, and which of them differ by themselves.

*Differs*: the outputs differ although the inputs agree, or although the port's module was given torch's own inputs.
*Follows*: the outputs differ because something before or inside did.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from ._compare import Difference, compare
from ._probe import Call
from ._run import Run, alone
from ._tree import paired, to_numpy

__all__ = ["BAD", "Pair", "Row", "Tolerance", "aligned", "buffer_rows", "judge"]

BAD = ("differs", "follows")
_NOTHING = Difference((), "", 0.0, 0.0, None, True)


@dataclass(frozen=True)
class Tolerance:
    """`rtol` and `atol` as the caller gave them, None for each dtype's own."""

    rtol: float | None = None
    atol: float | None = None

    def of(self, theirs: Any, ours: Any, floor: float = 0.0) -> Difference:
        """The difference of two arrays."""
        return compare(to_numpy(theirs), to_numpy(ours), self.rtol, self.atol, floor)

    def looser(self, factor: float, dtype_rtol: float) -> "Tolerance":
        """For what sums up more rounding; what the caller gave stays."""
        return self if self.rtol is not None else Tolerance(factor * dtype_rtol, self.atol or 1e-8)


@dataclass
class Row:
    """One line of a report's table.

    Attributes:
        section: "output", "gradient" or "buffer".
        path: the module's name in torch's model (in the port's, if it is only there), or the tensor's.
        kind: the class.
        call: which call of the module, from 0.
        shape, dtype: of the output that differs most.
        max_abs, max_rel, ulp: the differences; `max_rel` is relative to the tensor's largest value.
        status: "ok", "differs" (by itself), "follows" (from what differs), "rounding" (beyond the tolerance, but in
            float64 it agrees), "torch only", "port only", "not seen" (inside a JAX transform) or "not compared" (the
            model's result has nothing in it that can be).
        note: what a number can't say.
    """

    section: str
    path: str
    kind: str = ""
    call: int = 0
    shape: tuple[int, ...] = ()
    dtype: str = ""
    max_abs: float = 0.0
    max_rel: float = 0.0
    ulp: int | None = None
    status: str = "ok"
    note: str = ""

    @property
    def title(self) -> str:
        """Path and call as they are shown."""
        return (self.path or "(model)") + (f" #{self.call + 1}" if self.call else "")

    def take(self, found: Difference) -> None:
        """Fill in the numbers."""
        for name, value in asdict(found).items():
            if name != "close":
                setattr(self, name, value)

    def to_json(self) -> dict[str, Any]:
        """Its attributes; an infinite difference (other shapes, NaN) is None."""
        out = asdict(self)
        out["shape"] = list(self.shape)
        for name in ("max_abs", "max_rel"):
            out[name] = float(out[name]) if np.isfinite(out[name]) else None
        return out


@dataclass(eq=False)
class Pair:
    """A call in torch and the same one in the port, as far as both are there."""

    theirs: Call | None
    ours: Call | None
    row: Row
    children: list["Pair"] = field(default_factory=list)
    inputs: list[tuple[str, Difference]] = field(default_factory=list)
    inputs_agree: bool = True
    worst: str = ""
    repeated: Call | None = None

    @property
    def calls(self) -> tuple[Call, Call]:
        """Both calls, for a pair that has both."""
        if self.theirs is None or self.ours is None:
            raise LookupError(self.row.path)
        return self.theirs, self.ours

    def below(self) -> Iterator["Pair"]:
        """The pairs inside it."""
        for child in self.children:
            yield child
            yield from child.below()


def _names(model: Any) -> dict[int, list[str]]:
    found: dict[int, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        found.setdefault(id(module), []).append(name)
    return found


def aligned(theirs: Any, ours: Any, runs: tuple[Run, Run], renamed: Callable[[str], str]) -> list[Pair]:
    """The calls of both runs by module name and number, in the order in which they ended.

    Args:
        theirs, ours: the models.
        runs: what they did.
        renamed: from the name of a module in torch to the port's.
    """
    modules = {name: id(m) for name, m in ours.named_modules(remove_duplicate=False)}
    aliases = _names(theirs)
    by_module = {(id(call.module), call.number): call for call in runs[1].calls}
    pairs: dict[Call, Pair] = {}
    found: list[tuple[tuple[float, int], Pair]] = []
    for call in runs[0].calls:
        other = next((modules[n] for name in aliases[id(call.module)] if (n := renamed(name)) in modules), None)
        match = by_module.pop((other, call.number), None) if other is not None else None
        pair = Pair(call, match, Row("output", call.name, type(call.module).__name__, call.number))
        pairs[call] = pair
        if match is not None:
            pairs[match] = pair
        found.append(((call.end, 0), pair))
    for call in by_module.values():
        pair = pairs[call] = Pair(None, call, Row("output", call.name, type(call.module).__name__, call.number))
        ended = [p.theirs.end for p in pairs.values() if p.ours and p.theirs and p.ours.end < call.end]
        found.append(((max(ended, default=-1) + 0.5, call.end), pair))
    found.sort(key=lambda item: item[0])
    for pair in sorted((p for _, p in found), key=lambda p: (p.theirs or p.ours).start):  # pyright: ignore
        parent = (pair.theirs or pair.ours).parent  # pyright: ignore[reportOptionalMemberAccess]
        if parent is not None:
            pairs[parent].children.append(pair)
    return [pair for _, pair in found]


def judge(pairs: list[Pair], tolerance: Tolerance) -> None:
    """Fill in the rows of pairs in the order in which they ended."""
    for pair in pairs:
        row = pair.row
        if pair.theirs is None or pair.ours is None:
            row.status = "port only" if pair.theirs is None else "torch only"
            outputs = (pair.theirs or pair.ours).outputs  # pyright: ignore[reportOptionalMemberAccess]
            row.shape = next((tuple(x.shape) for x in outputs.values()), ())
            continue
        theirs, ours = pair.calls
        if type(ours.module).__name__ != row.kind:
            row.note = f"{type(ours.module).__name__} in the port"
        if theirs.hidden or ours.hidden:
            row.status = "not seen"
            row.note = "inside a JAX transform"
            continue
        pair.inputs_agree, pair.inputs = _inputs(theirs, ours, tolerance)
        pair.inputs_agree |= theirs.parent is None  # the model was given the same, in a lower precision perhaps
        found, pair.worst, extra = _outputs(theirs, ours, tolerance)
        note = row.note
        row.take(found)
        row.note = "; ".join(part for part in (note, row.note, extra) if part)
        if not found.close:
            row.status = _cause_or_consequence(pair, tolerance)
        elif found is _NOTHING and theirs.parent is None:
            row.status = "not compared"


def _inputs(theirs: Call, ours: Call, tolerance: Tolerance) -> tuple[bool, list[tuple[str, Difference]]]:
    both = paired(theirs.inputs, ours.inputs)
    if both is None:
        return False, []
    found = [(label, tolerance.of(a, b)) for label, a, b in both]
    return all(difference.close for _, difference in found), found


def _returned(call: Call, other: Call) -> dict[str, Any]:
    """The arrays that a call returned, and the numbers for which the other has a number or an array."""
    return call.outputs | {label: x for label, x in call.numbers.items() if label in other.results}


def _outputs(theirs: Call, ours: Call, tolerance: Tolerance) -> tuple[Difference, str, str]:
    """The worst difference of the outputs, the label of the output that has it, and what is to be said besides."""
    both = paired(_returned(theirs, ours), _returned(ours, theirs))
    if both is None:
        shapes = [f"{len(x.outputs)} arrays" for x in (theirs, ours)]
        first = next(iter(theirs.outputs.values()), np.zeros(()))
        return (
            Difference(tuple(first.shape), "", np.inf, np.inf, None, False),
            "",
            f"torch {shapes[0]}, port {shapes[1]}",
        )
    found = [(tolerance.of(a, b), label) for label, a, b in both]
    if not found:
        return _NOTHING, "", f"nothing to compare: {theirs.returned} in torch, {ours.returned} in the port"
    worst, label = max(found, key=lambda item: (not item[0].close, item[0].max_rel))
    return worst, label, f"output {label}" if len(found) > 1 else ""


def _cause_or_consequence(pair: Pair, tolerance: Tolerance) -> str:
    if any(inner.row.status == "differs" for inner in pair.below()):
        return "follows"
    theirs, ours = pair.calls
    exact = pair.inputs_agree and all(difference.max_abs == 0 for _, difference in pair.inputs)
    if not theirs.children and not exact:  # a container is told by what is in it
        pair.repeated = alone(theirs, ours)
        if pair.repeated is not None:
            return "follows" if _outputs(theirs, pair.repeated, tolerance)[0].close else "differs"
    return "differs" if pair.inputs_agree else "follows"


def buffer_rows(runs: tuple[Run, Run], tolerance: Tolerance, renamed: Callable[[str], str]) -> list[Row]:
    """The buffers after a step, by name."""
    rows = []
    rest = dict(runs[1].buffers)
    for name, value in runs[0].buffers.items():
        row = Row("buffer", name, shape=tuple(value.shape))
        rows.append(row)
        mine = rest.pop(renamed(name), None)
        if mine is None:
            row.status = "torch only"
            continue
        found = tolerance.of(value, mine)
        row.take(found)
        row.status = "ok" if found.close else "differs"
    return rows + [Row("buffer", name, shape=tuple(x.shape), status="port only") for name, x in rest.items()]

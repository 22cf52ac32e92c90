"""`ParityReport`: what a comparison found, to be printed, kept as JSON, or asked."""

from dataclasses import dataclass, field
from typing import Any

from ..nn.statedict import LoadReport
from ._judge import Row
from ._numbers import Cause
from ._table import as_html, as_text, rendered, verdict

__all__ = ["ParityReport"]


@dataclass(repr=False)
class ParityReport:
    """What `parity` finds. Printing it gives a table; in a notebook it is one.

    Attributes:
        ok: whether everything agrees: outputs, and gradients and buffers where they were asked for.
        rows: a `Row` for each module call, in the order in which the calls ended, then the gradients' and buffers'.
        first: the row of the first module that differs by itself, innermost first; None if everything agrees.
        causes: why `first` differs, probably; the most telling first.
        notes: what else is to be known: other configuration, dropout that was off, rounding.
        loaded: what `load_state_dict` reported; None with `load=False`.
        double: whether the models ran in float64.
    """

    ok: bool
    rows: list[Row]
    first: Row | None = None
    causes: list[Cause] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    loaded: LoadReport | None = None
    double: bool = False

    def __rich__(self) -> Any:
        return rendered(self)

    def __repr__(self) -> str:
        first = "" if self.first is None else f", first={self.first.title!r}"
        return f"ParityReport(ok={self.ok}{first}, {len(self.rows)} rows)"

    def _repr_html_(self) -> str:
        return as_html(self)

    def __str__(self) -> str:
        return as_text(self)

    def summary(self) -> str:
        """The verdict in a few lines: what differs first, and why."""
        return "\n".join(verdict(self))

    def to_json(self) -> dict[str, Any]:
        """Everything as plain dicts, lists, numbers and strings, for `json.dumps`."""
        loaded = None
        if self.loaded is not None:
            loaded = {
                "loaded": list(self.loaded.loaded),
                "missing": list(self.loaded.missing_keys),
                "unexpected": list(self.loaded.unexpected_keys),
                "cast": [list(item) for item in self.loaded.cast],
                "renamed": [list(item) for item in self.loaded.renamed],
                "tied": [list(item) for item in self.loaded.tied],
            }
        return {
            "ok": self.ok,
            "first": None if self.first is None else self.first.to_json(),
            "causes": [vars(cause) for cause in self.causes],
            "notes": list(self.notes),
            "double": self.double,
            "loaded": loaded,
            "rows": [row.to_json() for row in self.rows],
        }

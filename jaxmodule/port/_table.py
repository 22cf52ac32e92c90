"""A report as a table of rich's, and as text."""

from typing import Any

import numpy as np

from ._judge import Row

__all__ = ["as_html", "as_text", "rendered", "verdict"]

_SHOWN = 40  # rows of a section before the uninteresting ones are left out
_AROUND = 3
_MOST_DIFFERING = 6
_TITLES = {
    "output": "Outputs, in the order in which the modules finished",
    "gradient": "Gradients at modules' inputs and of parameters, in the order of the backward pass",
    "buffer": "Buffers after the step",
}
_STYLES = {"differs": "bold red", "follows": "yellow", "rounding": "cyan", "ok": "green"}
_LEGEND = (
    "rel: max abs relative to the tensor's largest value. ulp: steps between representable values, at most; "
    "large near zero."
)
_WORDS = "FIRST, differs: by itself, its inputs agree. follows: only because something before or inside it differs."


def number(value: float) -> str:
    """A difference in seven characters."""
    return "0" if value == 0 else "–" if not np.isfinite(value) else f"{value:.1e}"


def steps(value: int | None) -> str:
    """A number of units in the last place in five characters."""
    if value is None:
        return ""
    return str(value) if value < 10**4 else f"{value // 1000}k" if value < 10**7 else ">1e7"


def verdict(report: Any) -> list[str]:
    """The first that differs and why, in lines; the counts if nothing does."""
    outputs = [row for row in report.rows if row.section == "output"]
    compared = [row for row in outputs if row.status in ("ok", "rounding", "differs", "follows")]
    if report.ok:
        worst = max((row.max_rel for row in compared), default=0.0)
        parts = [f"{len(compared)} module calls agree, relative difference at most {worst:.1e}"]
        for section, what in (("gradient", "gradients"), ("buffer", "buffers")):
            count = sum(row.section == section and row.status in ("ok", "rounding") for row in report.rows)
            parts += [f"{count} {what} agree"] if count else []
        return ["; ".join(parts), *(f"note: {note}" for note in report.notes)]
    row = report.first
    lines = []
    if row is not None:
        what = {"gradient": "the gradient of ", "buffer": "the buffer "}.get(row.section, "")
        kind = f" ({row.kind})" if row.kind else ""
        lines.append(f"first to differ: {what}{row.title}{kind}{_amount(row)}")
    lines += [f"  probable cause: {cause}" for cause in report.causes[:1]]
    lines += [f"  or: {cause}" for cause in report.causes[1:5]]
    others = [r.title for r in report.rows if r.status == "differs" and r is not row and r.section == "output"]
    if others:
        more = f" and {len(others) - 6} more" if len(others) > 6 else ""
        lines.append(f"given torch's own inputs, these differ too: {', '.join(others[:6])}{more}")
    return lines + [f"note: {note}" for note in report.notes]


def _amount(row: Row) -> str:
    if row.note and (row.status == "not compared" or not np.isfinite(row.max_abs)):
        return f": {row.note}"
    return f": max abs {row.max_abs:.2e}, relative {row.max_rel:.2e}" + (f"; {row.note}" if row.note else "")


def chosen(rows: list[Row], first: Row | None, everything: bool) -> list[Row | int]:
    """The rows to show, and for those left out between them how many."""
    if everything or len(rows) <= _SHOWN:
        return list(rows)
    kept = {0, 1, 2, len(rows) - 2, len(rows) - 1}
    differing = [i for i, row in enumerate(rows) if row.status == "differs" and row is not first]
    kept |= set(differing[:_MOST_DIFFERING])
    for i, row in enumerate(rows):
        if row is first:
            kept |= set(range(i - _AROUND, i + _AROUND + 1))
    out: list[Row | int] = []
    for i, row in enumerate(rows):
        if i in kept:
            out.append(row)
        elif out and isinstance(out[-1], int):
            out[-1] += 1
        else:
            out.append(1)
    return out


def rendered(report: Any, everything: bool = False) -> Any:
    """Tables and the verdict."""
    from rich.console import Group
    from rich.text import Text

    parts: list[Any] = []
    for section, title in _TITLES.items():
        rows = [row for row in report.rows if row.section == section]
        if rows:
            table = _table(section, chosen(rows, report.first, everything), report.first)
            parts += [Text(title, style="bold"), table, Text("")]
    head, *rest = verdict(report)
    parts.append(Text(("agrees: " if report.ok else "") + head, style="bold green" if report.ok else "bold red"))
    parts += [*map(Text, rest), Text(_LEGEND if report.ok else f"{_LEGEND}\n{_WORDS}", style="dim")]
    return Group(*parts)


def _table(section: str, rows: list[Row | int], first: Row | None) -> Any:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("module" if section == "output" else "name", overflow="fold", min_width=16)
    if section != "buffer":
        table.add_column("class" if section == "output" else "of", overflow="ellipsis", no_wrap=True, max_width=18)
    table.add_column("shape", no_wrap=True)
    for name in ("max abs", "rel", "ulp"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("", overflow="fold")
    for row in rows:
        if isinstance(row, int):
            table.add_row(f"… {row} more …", style="dim")
            continue
        cells = [row.title, row.kind, "×".join(map(str, row.shape)) or "()"]
        cells = cells if section != "buffer" else [cells[0], cells[2]]
        table.add_row(*cells, *_numbers(row), _status(row, row is first))
    return table


def _numbers(row: Row) -> list[str]:
    if row.status not in ("ok", "rounding", "differs", "follows"):
        return ["", "", ""]
    return [number(row.max_abs), number(row.max_rel), steps(row.ulp)]


def _status(row: Row, first: bool) -> Any:
    from rich.text import Text

    word = "FIRST" if first else row.status
    note = f" {row.note}" if row.note and not first else ""
    return Text.assemble((word, _STYLES.get(row.status, "dim")), (note, "dim"))


def as_text(report: Any, width: int = 120, everything: bool = False) -> str:
    """The same without colours."""
    lines = _console(report, width, everything).export_text().splitlines()
    return "\n".join(line.rstrip() for line in lines)


def as_html(report: Any) -> str:
    """The same for a notebook."""
    return _console(report, 120, False).export_html(inline_styles=True, code_format="<pre>{code}</pre>")


def _console(report: Any, width: int, everything: bool) -> Any:
    import io

    from rich.console import Console

    console = Console(file=io.StringIO(), width=width, record=True, highlight=False, force_jupyter=False)
    console.print(rendered(report, everything))
    return console

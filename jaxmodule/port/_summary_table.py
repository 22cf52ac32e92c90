"""A summary as a table of rich's, with the columns that the width has room for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ._summary_tree import (
    Branch,
    extra_of,
    flops_of,
    inputs_of,
    outputs_of,
    params_of,
    sharding_of,
    size_of,
    totals,
    tree_of,
    walk,
)

_GAP = 2  # one of padding, one of the line between columns
_LONGEST = 40  # of a cell, before it is broken
_SHORTEST = 8  # of an extra_repr that is cut


@dataclass
class _Column:
    """A column after the first; the one with the highest `rank` is left out first where there is no room."""

    title: str
    rank: int
    lines: Callable[[Branch], tuple[str, ...]]
    right: bool = False
    style: str = ""

    def width(self, branches: list[Branch]) -> int:
        """What it needs so that no array's shape is broken."""
        cells = [line for branch in branches for line in self.lines(branch)]
        words = [word for cell in cells for word in cell.split(" ")]
        longest = max(map(len, cells), default=0)
        return max(len(self.title), min(longest, max(_LONGEST, *map(len, words), 0)))


def table(summary: Any, width: int, expand: bool) -> Any:
    """What rich prints for a summary in so many characters."""
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    lines = list(walk(tree_of(summary.rows, summary.depth, expand)))
    branches = [branch for _, branch in lines]
    columns = _columns(summary, branches)
    first = max(len(lead) + len(_title(branch)) for lead, branch in lines)
    widths = {column.title: column.width(branches) for column in columns}
    # An optional column goes where another one needs the room.
    while first + sum(widths.values()) + _GAP * len(columns) > width and max(c.rank for c in columns):
        gone = max(columns, key=lambda column: column.rank)
        columns.remove(gone)
        del widths[gone.title]
    room = first + max(0, width - first - sum(widths.values()) - _GAP * len(columns))

    grid = Table(box=box.SIMPLE_HEAD, padding=(0, _GAP - 1, 0, 0), pad_edge=False, show_edge=False, header_style="bold")
    grid.add_column("Module", no_wrap=True, overflow="ellipsis")
    for column in columns:
        grid.add_column(
            column.title,
            justify="right" if column.right else "left",
            style=column.style,
            overflow="fold",
            no_wrap=column.right,
            max_width=widths[column.title],
        )
    for lead, branch in lines:
        name = Text(lead, style="dim", no_wrap=True, overflow="ellipsis")
        name.append(f"{branch.label} " if branch.row.path else "", style="bold")
        name.append(branch.type, style="cyan")
        name.append(_cut(extra_of(branch.row), room - name.cell_len - 2), style="dim")
        grid.add_row(name, *[Text("\n".join(column.lines(branch))) for column in columns])
    foot = Table.grid(padding=(0, _GAP))
    for subject, words in totals(summary):
        foot.add_row(Text(subject, style="bold"), Text(words))
    many = any(branch.count > 1 for branch in branches)
    said = [Text("The numbers of “n × Layer” are those of one of them.", style="dim")] if many else []
    return Group(grid, Text(""), foot, *said)


def _title(branch: Branch) -> str:
    return f"{branch.label} {branch.type}" if branch.row.path else branch.type


def _cut(extra: str, room: int) -> str:
    if not extra or room < min(_SHORTEST, len(extra)):
        return ""
    return f"({extra})" if len(extra) <= room else f"({extra[: room - 1]}…)"


def _columns(summary: Any, branches: list[Branch]) -> list[_Column]:
    called = any(branch.row.calls for branch in branches)
    found = []
    if called:
        found.append(_Column("Input", 5, lambda b: inputs_of(b.row) or ("–",), style="dim"))
        found.append(_Column("Output", 0, lambda b: outputs_of(b.row) or ("–",)))
    found.append(_Column("Parameters", 0, lambda b: (params_of(b.row),), True, "green"))
    if len(summary.rows[0].dtypes) > 1:
        found.append(_Column("Dtype", 2, lambda b: (", ".join(b.row.dtypes),), style="dim"))
    found.append(_Column("Memory", 4, lambda b: (size_of(b.row),), True))
    if any(branch.row.shardings for branch in branches):
        found.append(_Column("Sharding", 1, lambda b: (sharding_of(b.row),), style="magenta"))
    if called:
        found.append(_Column("FLOPs", 0, lambda b: (flops_of(b.row),), True, "yellow"))
    if summary.flops_backward is not None:
        found.append(_Column("Backward", 3, lambda b: (flops_of(b.row, True),), True, "yellow"))
    return found

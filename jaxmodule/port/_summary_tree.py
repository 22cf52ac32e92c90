"""The rows of a summary as a tree, with equal layers in a row as one branch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ._summary_rows import SummaryRow, big, shown, size


@dataclass
class Branch:
    """A row with its place in the tree. `last` is the last of equal ones in a row, `count` how many they are."""

    row: SummaryRow
    children: list[Branch] = field(default_factory=list)
    last: SummaryRow | None = None
    count: int = 1

    @property
    def label(self) -> str:
        """Its name, or the first and the last of the names."""
        return self.row.name if self.last is None else f"{self.row.name}–{self.last.name}"

    @property
    def type(self) -> str:
        """Its class, and how many there are."""
        return self.row.type if self.count == 1 else f"{self.count} × {self.row.type}"


def tree_of(rows: list[SummaryRow], depth: int | None, expand: bool) -> Branch:
    """The tree down to `depth`; without `expand` equal neighbours are one branch."""
    found: dict[str, Branch] = {}
    for row in rows:
        branch = found[row.path] = Branch(row)
        if row.path:
            found[row.path.rpartition(".")[0]].children.append(branch)
    root = found[""]
    if not expand:
        _merge(root)
    _cut(root, depth)
    return root


def _cut(branch: Branch, depth: int | None) -> None:
    if depth is not None and branch.row.depth >= depth:
        branch.children = []
    for child in branch.children:
        _cut(child, depth)


def _merge(branch: Branch) -> Any:
    """Merge equal neighbours below `branch`; what has to be equal for it to be merged itself."""
    kept: list[Branch] = []
    signatures: list[Any] = []
    everything: list[Any] = []
    for child in branch.children:
        signature = _merge(child)
        everything.append((child.row.name, signature))
        if signatures and signatures[-1] == signature:
            kept[-1].last = child.row
            kept[-1].count += 1
        else:
            kept.append(child)
            signatures.append(signature)
    branch.children = kept
    row = branch.row
    numbers = (row.params, row.trainable, row.buffers, row.param_bytes, row.buffer_bytes, row.flops, row.flops_backward)
    about = (row.type, row.extra, row.training, row.dtypes, row.uninitialized, len(row.names))
    shared = (tuple(row.tied.items()), tuple(row.shardings.items()))
    return about, numbers, shared, inputs_of(row), outputs_of(row), tuple(everything)


def walk(branch: Branch, prefix: str = "", mark: str = "") -> Iterator[tuple[str, Branch]]:
    """Each branch with the lines of the tree in front of it."""
    yield prefix + mark, branch
    if mark:
        prefix += "   " if mark == "└─ " else "│  "
    for child in branch.children:
        yield from walk(child, prefix, "└─ " if child is branch.children[-1] else "├─ ")


# -- cells --------------------------------------------------------------------------------------------------------


def inputs_of(row: SummaryRow) -> tuple[str, ...]:
    """The inputs of its calls in words, equal ones once."""
    return _counted([shown(call.args, call.kwargs) for call in row.calls])


def outputs_of(row: SummaryRow) -> tuple[str, ...]:
    """The outputs of its calls in words, equal ones once."""
    return _counted([shown((call.output,), {}) for call in row.calls])


def _counted(texts: list[str]) -> tuple[str, ...]:
    return tuple(text if (n := texts.count(text)) == 1 else f"{text} × {n}" for text in dict.fromkeys(texts))


def params_of(row: SummaryRow) -> str:
    """The number of parameters, and whether they are frozen, tied or not there yet."""
    if row.uninitialized and not row.params:
        return "not yet"
    if not row.params:
        return "tied" if row.tied else "–"
    text = f"{row.params:,}"
    return f"{text} frozen" if row.frozen == row.params else text


def flops_of(row: SummaryRow, backward: bool = False) -> str:
    """The FLOPs of its calls."""
    found = row.flops_backward if backward else row.flops
    if found is None:
        return "–" if not row.calls else "?"
    return ("≥ " if row.at_least else "") + big(found) if found else "0"


def size_of(row: SummaryRow) -> str:
    """Bytes of parameters and buffers."""
    total = row.param_bytes + row.buffer_bytes
    return size(total) if total else "–"


def sharding_of(row: SummaryRow) -> str:
    """How its own arrays lie on the devices."""
    return ", ".join(f"{name} {spec}" for name, spec in row.shardings.items())


def extra_of(row: SummaryRow) -> str:
    """`extra_repr` on one line, and other names of the module."""
    parts = [" ".join(row.extra.split())] if row.extra else []
    if len(row.names) > 1:
        parts.append("also " + ", ".join(row.names[1:]))
    return ", ".join(parts)


def totals(summary: Any) -> list[tuple[str, str]]:
    """What is said of the whole model: (subject, words)."""
    row = summary.rows[0]
    said = f"{row.params:,}: {row.trainable:,} trainable, {row.frozen:,} frozen"
    found = [("Parameters", f"{said} ({', '.join(row.dtypes)})" if row.dtypes else said)]
    if row.tied:
        pairs = list(row.tied.items())
        words = ", ".join(f"{name} = {first}" for name, first in pairs[:4]) + (", …" if len(pairs) > 4 else "")
        found.append(("Tied", f"{words} (counted once)"))
    if row.uninitialized:
        found.append(("Not yet", f"{', '.join(row.uninitialized)} have no shape before the first call"))
    buffers = f", buffers {size(row.buffer_bytes)}" if row.buffers else ""
    found.append(("Memory", f"{size(row.param_bytes + row.buffer_bytes)}: parameters {size(row.param_bytes)}{buffers}"))
    if row.calls:
        backward = "" if row.flops_backward is None else f", backward {flops_of(row, True)}"
        found.append(("FLOPs", f"forward {flops_of(row)}{backward}, for {summary.inputs}"))
    return found

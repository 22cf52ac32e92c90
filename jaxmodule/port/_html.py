"""A summary as a piece of HTML: a tree to fold, with no script and nothing fetched."""

from __future__ import annotations

from html import escape
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
)

_STYLE = """
.jm-summary{font:12px/1.6 ui-monospace,Menlo,Consolas,monospace;overflow-x:auto}
.jm-summary details>div,.jm-summary .jm-leaf{margin-left:1.4em}
.jm-summary summary{cursor:pointer;white-space:nowrap}
.jm-summary .jm-leaf{white-space:nowrap;padding-left:1em}
.jm-summary .jm-type{color:#0b7285}
.jm-summary .jm-dim{opacity:.65}
.jm-summary .jm-num{color:#2b8a3e}
.jm-summary .jm-flops{color:#b35900}
.jm-summary table{border:0;margin-top:.6em}
.jm-summary td{text-align:left;padding:0 1.2em 0 0}
"""
_OPEN = 2  # levels that are unfolded at first


def page(summary: Any) -> str:
    """The HTML of a summary."""
    root = tree_of(summary.rows, summary.depth, False)
    foot = "".join(f"<tr><td><b>{escape(a)}</b></td><td>{escape(b)}</td></tr>" for a, b in totals(summary))
    return f'<div class="jm-summary"><style>{_STYLE}</style>{_branch(root)}<table>{foot}</table></div>'


def _branch(branch: Branch) -> str:
    line = _line(branch)
    if not branch.children:
        return f'<div class="jm-leaf">{line}</div>'
    inside = "".join(map(_branch, branch.children))
    unfolded = " open" if branch.row.depth < _OPEN else ""
    return f"<details{unfolded}><summary>{line}</summary><div>{inside}</div></details>"


def _line(branch: Branch) -> str:
    row = branch.row
    extra = extra_of(row)
    parts = [
        f"<b>{escape(branch.label)}</b>" if row.path else "",
        f'<span class="jm-type">{escape(branch.type)}</span>'
        + (f'<span class="jm-dim">({escape(extra)})</span>' if extra else ""),
    ]
    if row.calls:
        shapes = f"{'; '.join(inputs_of(row))} → {'; '.join(outputs_of(row))}"
        parts.append(f"<span>{escape(shapes)}</span>")
    if row.params or row.tied or row.uninitialized:
        parts.append(f'<span class="jm-num">{escape(params_of(row))} parameters</span>')
        parts.append(f'<span class="jm-dim">{escape(", ".join(row.dtypes))} {escape(size_of(row))}</span>')
    if row.shardings:
        parts.append(f'<span class="jm-dim">{escape(sharding_of(row))}</span>')
    if row.calls:
        backward = "" if row.flops_backward is None else f" + {flops_of(row, True)}"
        parts.append(f'<span class="jm-flops">{escape(flops_of(row) + backward)} FLOPs</span>')
    return "&ensp;".join(part for part in parts if part)

"""The module zoo: one table of layers, each with its arguments, inputs and what is particular about it.

One file a family, each with `ROWS`, and `STATEFUL` for those rows whose layer has parameters or buffers. Each property
of all layers is one test over the table: tests/test_zoo.py, and against torch tests/parity/test_layers.py.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from tests.zoo import (
    activation,
    adaptive,
    attention,
    conv,
    distance,
    dropout,
    flatten,
    fold,
    linear,
    loss,
    loss_elementwise,
    norm,
    padding,
    pixelshuffle,
    pooling,
    rnn,
    sparse,
    upsampling,
)
from tests.zoo.row import Bad, Row

__all__ = [
    "BAD",
    "BAD_IDS",
    "CONTAINERS",
    "LAZY",
    "ROWS",
    "STATEFUL",
    "Bad",
    "Row",
    "every",
]

FAMILIES = (
    activation,
    adaptive,
    attention,
    conv,
    distance,
    dropout,
    flatten,
    fold,
    linear,
    loss,
    loss_elementwise,
    norm,
    padding,
    pixelshuffle,
    pooling,
    rnn,
    sparse,
    upsampling,
)

#: Modules that hold modules or parameters, or are bases, and compute nothing of their own.
CONTAINERS = rnn.BASES | {
    "Container",
    "DataParallel",
    "Module",
    "ModuleDict",
    "ModuleList",
    "ParameterDict",
    "ParameterList",
    "Sequential",
}

#: Prefix of the layers that become others at their first call: tests/parity/test_lazy.py.
LAZY = "Lazy"

ROWS: list[Row] = [row for family in FAMILIES for row in family.ROWS]
STATEFUL: list[Row] = [row for family in FAMILIES for row in getattr(family, "STATEFUL", ())]
BAD: list[tuple[Row, Bad]] = [(row, bad) for row in ROWS for bad in row.bad]
BAD_IDS = [f"{row.id}-{i}" for row in ROWS for i in range(len(row.bad))]


def every(
    rows: Iterable[Row] = ROWS,
    *,
    modes: bool = False,
    sweep: bool = True,
    random: bool = True,
    half: int | None = None,
) -> Any:
    """Parametrize a test by `row`, or with `modes` by `row` and `training` (False only where that is something else).

    With `sweep`, rows that are variants of another are marked slow: the property depends on little but the layer.
    Without `random`, training of a layer that draws then is left out. With `half` of 0 or 1, the rows with odd or even
    numbers are marked slow too: for what costs much and another test has looked at from another side.
    """
    cases = []
    for number, row in enumerate(rows):
        slow = (sweep and row.variant) or half == (number + 1) % 2
        marks = [pytest.mark.slow] if slow else []
        if not modes:
            cases.append(pytest.param(row, id=row.id, marks=marks))
            continue
        for training in (True, False) if row.modes_differ else (True,):
            if training and row.random and not random:
                continue
            cases.append(pytest.param(row, training, id=f"{row.id}-{'train' if training else 'eval'}", marks=marks))
    return pytest.mark.parametrize(("row", "training") if modes else "row", cases)

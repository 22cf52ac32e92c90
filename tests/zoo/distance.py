"""Distances and similarities."""

from typing import Any

import numpy as np

from tests.zoo.row import Bad, Inputs, Row, normal, zeros


def _two(first: tuple[int, ...], second: tuple[int, ...]) -> Inputs:
    def make(seed: int) -> tuple[Any, ...]:
        return (*normal(*first)(seed), *normal(*second)(seed + 100))

    return make


_MISMATCH = Bad(RuntimeError, "must match the size", inputs=(zeros(3, 2), zeros(3, 4)))

ROWS = [
    Row("PairwiseDistance", _two((4, 3), (4, 3)), bad=(_MISMATCH,)),
    Row("PairwiseDistance", _two((4, 3), (4, 3)), (1.0, 0.1, True), variant=True),
    Row("PairwiseDistance", _two((2, 4, 3), (4, 1)), (np.inf,), variant=True),
    Row("PairwiseDistance", _two((4, 3), (4, 3)), (-2,), variant=True),
    Row("PairwiseDistance", _two((4, 3), (4, 3)), (0,), variant=True),
    Row(
        "CosineSimilarity",
        _two((4, 5), (4, 5)),
        bad=(
            _MISMATCH,
            Bad(IndexError, "Dimension out of range", inputs=(zeros(3), zeros(3))),
            Bad(RuntimeError, "floating point", inputs=(zeros(3, 2, dtype=np.int32), zeros(3, 2, dtype=np.int32))),
        ),
    ),
    Row("CosineSimilarity", _two((4, 5, 2), (4, 1, 2)), (0, 10.0), variant=True),
]

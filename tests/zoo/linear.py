"""Linear layers."""

from typing import Any

import numpy as np

from tests.zoo.row import Bad, Inputs, Row, normal, zeros


def _two(batch: tuple[int, ...], first: int, second: int) -> Inputs:
    def make(seed: int) -> tuple[Any, ...]:
        return (*normal(*batch, first)(seed), *normal(*batch, second)(seed + 100))

    return make


ROWS = [
    Row("Identity", normal(2, 3), (54,), {"anything": True}),
    Row(
        "Linear",
        normal(2, 3, 5),
        (5, 4),
        bad=(
            Bad(RuntimeError, r"cannot be multiplied \(2x4 and 5x4\)", inputs=(zeros(2, 4),)),
            Bad(RuntimeError, "same dtype", inputs=(zeros(2, 5, dtype=np.float16),)),
            Bad(RuntimeError, "negative dimension -1", (-1, 4)),
        ),
    ),
    Row("Linear", normal(5), (5, 4), {"bias": False}),
    Row(
        "Bilinear",
        _two((3,), 5, 2),
        (5, 2, 4),
        bad=(
            Bad(ValueError, r"in1_features must be > 0, but got \(in1_features=0\)", (0, 2, 3)),
            Bad(RuntimeError, "negative dimension -2", (2, -2, 3)),
            Bad(RuntimeError, "batch dimensions do not match at dim 0: got 3 and 1", inputs=(zeros(3, 5), zeros(1, 2))),
            Bad(RuntimeError, "input dimensions do not match: got 2 and 1", inputs=(zeros(3, 5), zeros(2))),
            Bad(RuntimeError, "input1 size does not match weight size: got 4", inputs=(zeros(3, 4), zeros(3, 2))),
            Bad(RuntimeError, "input2 size does not match weight size: got 3", inputs=(zeros(3, 5), zeros(3, 3))),
            Bad(RuntimeError, "must have the same dtype", inputs=(zeros(3, 5, dtype=np.float16), zeros(3, 2))),
        ),
    ),
    Row("Bilinear", _two((2, 3), 2, 5), (2, 5, 3), {"bias": False}, variant=True),
]
STATEFUL = [row for row in ROWS if row.layer in ("Linear", "Bilinear")]

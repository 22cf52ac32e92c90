"""The adaptive softmax."""

from __future__ import annotations

import numpy as np

from tests.zoo.row import Bad, Inputs, Row, indices, normal, zeros

_INCREASING = "unique, positive integers sorted in an increasing order"


def elements(features: int, count: int, *batch: int) -> Inputs:
    """Features, and the indices of classes."""
    return lambda seed: (*normal(*batch, features)(seed), np.asarray(indices(count, *batch)(seed)[0], np.int64))


ROWS = [
    Row(
        "AdaptiveLogSoftmaxWithLoss",
        elements(8, 12, 9),
        (8, 12, [3, 7], 2.0),
        bad=(
            Bad(ValueError, "length larger than 0", (8, 12, [])),
            *(Bad(ValueError, _INCREASING, (8, 12, cutoffs)) for cutoffs in ([7, 3], [0, 3], [3, 12], [3, 3], [2.5])),
            Bad(RuntimeError, "multi-target not supported", inputs=(zeros(2, 8), zeros(2, 1, dtype=np.int64))),
            Bad(RuntimeError, "same size in the batch", inputs=(zeros(2, 8), zeros(3, dtype=np.int64))),
            Bad(RuntimeError, "0D target tensor expects 1D", inputs=(zeros(2, 8), zeros(dtype=np.int64))),
            Bad(RuntimeError, "1D target tensor expects 2D", inputs=(zeros(2, 2, 8), zeros(2, dtype=np.int64))),
            Bad(RuntimeError, r"should be in \[0, 11\]", inputs=(zeros(2, 8), zeros(2, dtype=np.int64) + 12)),
            Bad(RuntimeError, "cannot be multiplied", inputs=(zeros(2, 7), zeros(2, dtype=np.int64))),
        ),
    ),
    Row("AdaptiveLogSoftmaxWithLoss", elements(8, 12), (8, 12, (5,)), {"head_bias": True}),
]
STATEFUL = ROWS

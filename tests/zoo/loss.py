"""Losses."""

import numpy as np

from tests.zoo.row import Bad, Row, classes, pair, zeros

_WEIGHTS = np.array([0.5, 1.0, 2.0, 0.25, 1.5], np.float32)

ROWS = [
    Row(
        "CrossEntropyLoss",
        classes((6, 5), 6),
        bad=(
            Bad(ValueError, "to match target batch_size", inputs=(zeros(3, 5), zeros(2, dtype=np.int64))),
            Bad(IndexError, "Target 5 is out of bounds", inputs=(zeros(3, 5), zeros(3, dtype=np.int64) + 5)),
        ),
    ),
    Row("CrossEntropyLoss", classes((2, 5, 3), 2, 3), (_WEIGHTS,), {"ignore_index": 1, "label_smoothing": 0.1}),
    Row("CrossEntropyLoss", pair(3, 5), kwargs={"weight": _WEIGHTS, "reduction": "sum"}),
    Row("CrossEntropyLoss", classes((5,)), kwargs={"reduction": "none"}),
    Row("MSELoss", pair(4, 3)),
    Row("MSELoss", pair(4, 3), kwargs={"reduction": "none"}),
    Row(
        "BCEWithLogitsLoss",
        pair(4, 5),
        bad=(Bad(ValueError, "must be the same as input size", inputs=(zeros(3), zeros(4))),),
    ),
    Row("BCEWithLogitsLoss", pair(4, 5), (_WEIGHTS,), {"pos_weight": 2 * _WEIGHTS, "reduction": "sum"}),
]

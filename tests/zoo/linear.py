"""Linear layers."""

import numpy as np

from tests.zoo.row import Bad, Row, normal, zeros

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
]
STATEFUL = [row for row in ROWS if row.layer == "Linear"]

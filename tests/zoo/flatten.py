"""Layers that only change shapes."""

from tests.zoo.row import Bad, Row, normal, zeros

ROWS = [
    Row(
        "Flatten",
        normal(2, 3, 4),
        bad=(Bad(IndexError, "Dimension out of range", inputs=(zeros(3),)),),
    ),
    Row(
        "Flatten",
        normal(2, 3, 4, 5),
        (-3, 2),
        bad=(Bad(RuntimeError, "start_dim cannot come after end_dim", inputs=(zeros(2, 3, 4, 5, 6, 7),)),),
    ),
]

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
    Row(
        "Unflatten",
        normal(2, 6, 4),
        (1, (2, 3)),
        bad=(
            Bad(IndexError, "Dimension out of range", inputs=(zeros(3),)),
            Bad(RuntimeError, "don't multiply up to the size of dim 1 .4.", inputs=(zeros(2, 4),)),
            Bad(TypeError, "found element of type tuple at pos 0", ("channels", (("a", 2), ("b", 3)))),
            Bad(TypeError, "found element of type float at pos 1", (1, (2, 3.0))),
            Bad(TypeError, "tuple of ints, but found type str", (1, "ab")),
        ),
    ),
    Row(
        "Unflatten",
        normal(2, 6, 4),
        (-2, [3, -1]),
        variant=True,
        bad=(Bad(RuntimeError, "don't multiply up", inputs=(zeros(1, 4, 2),)),),
    ),
    Row("Unflatten", normal(2, 4), (1, (4,)), variant=True),
]

"""Dropout."""

from tests.zoo.row import Bad, Row, normal

ROWS = [
    Row(
        "Dropout",
        normal(4, 50),
        (0.3,),
        modes_differ=True,
        random=True,
        bad=(Bad(ValueError, "has to be between 0 and 1, but got 1.5", (1.5,)),),
    ),
    Row("Dropout", normal(4, 5), (0.0, True)),
    Row("Dropout", normal(4, 5), (1.0,), modes_differ=True),
]

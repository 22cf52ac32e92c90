"""Sliding blocks."""

from tests.zoo.row import Bad, Row, normal, zeros

ROWS = [
    Row(
        "Unfold",
        normal(2, 3, 5, 4),
        (2,),
        bad=(
            Bad(RuntimeError, "Expected 3D or 4D", inputs=(zeros(1, 1, 3, 5, 4),)),
            Bad(RuntimeError, "Expected 3D or 4D", inputs=(zeros(1, 0, 5, 4),)),
            Bad(RuntimeError, "must be at least one", inputs=(zeros(1, 3, 5, 1),)),
            Bad(NotImplementedError, "not implemented for 'int32'", inputs=(zeros(1, 3, 5, 4, dtype="int32"),)),
        ),
    ),
    Row("Unfold", normal(3, 5, 4), ((3, 2), (1, 2), (2, 0), (2, 3)), variant=True),
    Row(
        "Fold",
        normal(2, 12, 12),
        ((5, 4), 2),
        bad=(
            Bad(RuntimeError, "Expected 2D or 3D", inputs=(zeros(12),)),
            Bad(RuntimeError, r"input.size\(1\)=10 and kernel_size=\(2, 2\)", inputs=(zeros(1, 10, 12),)),
            Bad(RuntimeError, r"sliding blocks 4 \* 3 = 12, but got input.size\(2\)=11", inputs=(zeros(1, 12, 11),)),
            Bad(NotImplementedError, "not implemented for 'int32'", inputs=(zeros(1, 12, 12, dtype="int32"),)),
        ),
    ),
    Row("Fold", normal(18, 4), (4, (3, 2), (1, 2), (2, 0), (3, 1)), variant=True),
]

"""Pooling."""

from tests.zoo.row import IMAGE, Bad, Row, zeros

_POOL_BAD = (
    Bad(RuntimeError, "Output size is too small", inputs=(zeros(1, 2, 1, 1),)),
    Bad(RuntimeError, "3D or 4D", inputs=(zeros(1, 1, 2, 5, 5),)),
)

ROWS = [
    Row("MaxPool2d", IMAGE, (2,), bad=_POOL_BAD),
    Row("MaxPool2d", IMAGE, ((3, 2), (2, 1), (1, 0), (1, 2)), {"ceil_mode": True}),
    Row("MaxPool2d", IMAGE, (3,), {"stride": 2, "padding": 1, "return_indices": True}),
    Row("AvgPool2d", IMAGE, (2,), bad=_POOL_BAD),
    Row("AvgPool2d", IMAGE, ((3, 2), (2, 1), (1, 0)), {"ceil_mode": True, "count_include_pad": False}),
    Row("AvgPool2d", IMAGE, (3, 2, 1, True), {"divisor_override": 5}),
    Row("AdaptiveAvgPool2d", IMAGE, (1,)),
    Row("AdaptiveAvgPool2d", IMAGE, ((3, None),)),
    Row("AdaptiveAvgPool2d", IMAGE, (4,), bad=(Bad(RuntimeError, "Expected 3D or 4D", inputs=(zeros(5, 5),)),)),
]

"""Convolutions."""

import numpy as np

from tests.zoo.row import IMAGE, Bad, Row, normal, zeros

ROWS = [
    Row("Conv1d", normal(2, 4, 9), (4, 6, 3), {"stride": 2, "padding": 1, "dilation": 2}),
    Row("Conv1d", normal(4, 9), (4, 6, 4), {"groups": 2, "padding": "same", "padding_mode": "circular"}),
    Row(
        "Conv2d",
        IMAGE,
        (4, 6, 3),
        bad=(
            Bad(RuntimeError, "to have 4 channels, but got 3", inputs=(zeros(2, 3, 7, 6),)),
            Bad(RuntimeError, "Expected 3D .unbatched. or 4D .batched. input", inputs=(zeros(7, 6),)),
            Bad(RuntimeError, r"padded input size per channel: \(2 x 2\)", inputs=(zeros(1, 4, 2, 2),)),
            Bad(RuntimeError, "should be the same", inputs=(zeros(2, 4, 7, 6, dtype=np.float16),)),
            Bad(ValueError, "in_channels must be divisible by groups", (3, 4, 3), {"groups": 2}),
            Bad(ValueError, "out_channels must be divisible by groups", (4, 5, 3), {"groups": 2}),
            Bad(ValueError, "groups must be a positive integer", (4, 4, 3), {"groups": 0}),
            Bad(ValueError, "Invalid padding string", (4, 4, 3), {"padding": "x"}),
            Bad(ValueError, "not supported for strided", (4, 4, 3), {"padding": "same", "stride": 2}),
            Bad(ValueError, "padding_mode must be one of", (4, 4, 3), {"padding_mode": "x"}),
            Bad(ValueError, "kernel_size must be an int or a tuple of 2", (4, 4, (3, 3, 3)), torch_raises=False),
        ),
    ),
    Row("Conv2d", IMAGE, (4, 8, (3, 2), (2, 1), (1, 0), (1, 2), 4, False)),
    Row("Conv2d", IMAGE, (4, 6, 1)),
    Row("Conv2d", IMAGE, (4, 6, 3), {"padding": "valid", "padding_mode": "reflect"}),
    Row(
        "Conv2d",
        IMAGE,
        (4, 6, 3),
        {"padding": (2, 1), "padding_mode": "reflect"},
        bad=(Bad(RuntimeError, "Padding size should be less than", inputs=(zeros(1, 4, 2, 2),)),),
    ),
    Row("Conv2d", IMAGE, (4, 6, 3), {"padding": 2, "padding_mode": "replicate", "stride": 2}),
    Row(
        "Conv2d",
        IMAGE,
        (4, 6, 3),
        {"padding": 3, "padding_mode": "circular"},
        bad=(Bad(RuntimeError, "wrapping around more than once", inputs=(zeros(1, 4, 2, 2),)),),
    ),
    Row("Conv2d", IMAGE, (4, 6, (3, 4)), {"padding": "same", "padding_mode": "reflect"}),
    Row("Conv3d", normal(2, 2, 4, 5, 6), (2, 4, 3), {"padding": (0, 1, 2), "groups": 2}),
    Row("Conv3d", normal(2, 4, 5, 6), (2, 4, 3), {"padding": "same", "dilation": (1, 2, 1)}),
]
STATEFUL = ROWS

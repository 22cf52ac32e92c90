"""Convolutions and their transposes."""

import numpy as np

from tests.zoo.row import IMAGE, Bad, Row, normal, zeros

_SMALL = normal(2, 4, 4, 3)

_CONSTRUCTOR_BAD = (
    Bad(ValueError, "in_channels must be divisible by groups", (3, 4, 3), {"groups": 2}),
    Bad(ValueError, "out_channels must be divisible by groups", (4, 5, 3), {"groups": 2}),
    Bad(ValueError, "groups must be a positive integer", (4, 4, 3), {"groups": 0}),
    Bad(ValueError, "padding_mode must be one of|Only .zeros. padding mode", (4, 4, 3), {"padding_mode": "x"}),
    Bad(RuntimeError, "negative dimension -1", (4, 4, -1)),
    Bad(ValueError, "kernel_size must be an int or a tuple of 2", (4, 4, (3, 3, 3)), torch_raises=False),
)

_CONV = [
    Row(
        "Conv2d",
        IMAGE,
        (4, 6, 3),
        bad=(
            Bad(RuntimeError, "to have 4 channels, but got 3", inputs=(zeros(2, 3, 7, 6),)),
            Bad(RuntimeError, "Expected 3D .unbatched. or 4D .batched. input", inputs=(zeros(7, 6),)),
            Bad(RuntimeError, r"padded input size per channel: \(2 x 2\)", inputs=(zeros(1, 4, 2, 2),)),
            Bad(RuntimeError, "should be the same", inputs=(zeros(2, 4, 7, 6, dtype=np.float16),)),
            Bad(ValueError, "Invalid padding string", (4, 4, 3), {"padding": "x"}),
            Bad(ValueError, "not supported for strided", (4, 4, 3), {"padding": "same", "stride": 2}),
            *_CONSTRUCTOR_BAD,
        ),
    ),
    Row("Conv1d", normal(2, 4, 9), (4, 6, 3), {"stride": 2, "padding": 1, "dilation": 2}),
    Row("Conv1d", normal(4, 9), (4, 6, 4), {"groups": 2, "padding": "same", "padding_mode": "circular"}, variant=True),
    Row("Conv2d", IMAGE, (4, 8, (3, 2), (2, 1), (1, 0), (1, 2), 4, False)),
    Row("Conv2d", IMAGE, (4, 6, 1), variant=True),
    Row("Conv2d", IMAGE, (4, 6, 3), {"padding": "valid", "padding_mode": "reflect"}, variant=True),
    Row(
        "Conv2d",
        IMAGE,
        (4, 6, 3),
        {"padding": (2, 1), "padding_mode": "reflect"},
        bad=(
            Bad(RuntimeError, "Padding size should be less than", inputs=(zeros(1, 4, 2, 2),)),
            Bad(NotImplementedError, "Padding size 4 is not supported for 2D input", inputs=(zeros(7, 6),)),
        ),
    ),
    Row("Conv2d", IMAGE, (4, 6, 3), {"padding": 2, "padding_mode": "replicate", "stride": 2}, variant=True),
    Row(
        "Conv2d",
        IMAGE,
        (4, 6, 3),
        {"padding": 3, "padding_mode": "circular"},
        variant=True,
        bad=(Bad(RuntimeError, "wrapping around more than once", inputs=(zeros(1, 4, 2, 2),)),),
    ),
    Row("Conv2d", IMAGE, (4, 6, (3, 4)), {"padding": "same", "padding_mode": "reflect"}, variant=True),
    Row("Conv3d", normal(2, 2, 4, 5, 6), (2, 4, 3), {"padding": (0, 1, 2), "groups": 2}),
    Row("Conv3d", normal(2, 4, 5, 6), (2, 4, 3), {"padding": "same", "dilation": (1, 2, 1)}, variant=True),
]

_CONV_TRANSPOSE = [
    Row(
        "ConvTranspose2d",
        _SMALL,
        (4, 6, 3),
        {"stride": 2, "padding": 1, "output_padding": 1},
        bad=(
            Bad(RuntimeError, "to have 4 channels, but got 3", inputs=(zeros(2, 3, 4, 3),)),
            Bad(RuntimeError, "Expected 3D .unbatched. or 4D .batched. input", inputs=(zeros(4, 3),)),
            Bad(RuntimeError, "should be the same", inputs=(zeros(2, 4, 4, 3, dtype=np.float16),)),
            Bad(
                ValueError,
                r"range from \[7, 5\] to \[8, 6\]",
                inputs=(zeros(1, 4, 4, 3),),
                call={"output_size": (7, 7)},
            ),
            Bad(ValueError, "must have 2 or 4 elements", inputs=(zeros(1, 4, 4, 3),), call={"output_size": (6, 7, 5)}),
            *_CONSTRUCTOR_BAD,
        ),
    ),
    Row("ConvTranspose2d", _SMALL, (4, 6, (3, 2), (2, 3), (1, 2), (0, 2), 2, False, (3, 1)), variant=True),
    Row("ConvTranspose2d", _SMALL, (4, 6, 3), {"stride": 2}, call={"output_size": [10, 7]}, variant=True),
    Row("ConvTranspose2d", _SMALL, (4, 6, 3), {"padding": 1}),
    Row("ConvTranspose2d", _SMALL, (4, 8, 4), {"stride": 2, "padding": 1, "groups": 4}, variant=True),
    Row("ConvTranspose1d", normal(2, 4, 5), (4, 6, 4), {"stride": 3, "padding": 1, "dilation": 2, "output_padding": 2}),
    Row("ConvTranspose1d", normal(4, 5), (4, 6, 3), {"groups": 2}, call={"output_size": (1, 7)}, variant=True),
    Row("ConvTranspose3d", normal(2, 2, 2, 3, 2), (2, 4, 2), {"stride": (1, 2, 3), "output_padding": (0, 1, 2)}),
    Row("ConvTranspose3d", normal(2, 2, 3, 2), (2, 4, (3, 2, 1)), {"padding": (1, 0, 0), "groups": 2}, variant=True),
]

ROWS = [*_CONV, *_CONV_TRANSPOSE]
STATEFUL = ROWS

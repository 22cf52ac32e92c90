"""Layers that move elements between channels and pixels, and among channels."""

from tests.zoo.row import Bad, Row, normal, zeros

ROWS = [
    Row(
        "PixelShuffle",
        normal(2, 8, 3, 2),
        (2,),
        bad=(
            Bad(RuntimeError, "divisible by the square of upscale_factor", inputs=(zeros(1, 6, 3, 3),)),
            Bad(RuntimeError, "at least 3 dimensions", inputs=(zeros(4, 4),)),
        ),
    ),
    Row(
        "PixelShuffle",
        normal(2, 3, 9, 1, 2),
        (3,),
        variant=True,
        bad=(Bad(RuntimeError, "not divisible by 9", inputs=(zeros(4, 4, 4),)),),
    ),
    Row(
        "PixelUnshuffle",
        normal(2, 3, 4, 6),
        (2,),
        edges={"empty": "torch gives an empty input back as it is"},
        bad=(
            Bad(RuntimeError, "height to be divisible by downscale_factor", inputs=(zeros(1, 1, 3, 4),)),
            Bad(RuntimeError, "width to be divisible by downscale_factor", inputs=(zeros(1, 1, 4, 3),)),
            Bad(RuntimeError, "at least 3 dimensions", inputs=(zeros(4, 4),)),
        ),
    ),
    Row(
        "ChannelShuffle",
        normal(2, 6, 3),
        (3,),
        bad=(
            Bad(RuntimeError, "divisible by groups. Got 4 channels and 3 groups", inputs=(zeros(1, 4, 3),)),
            Bad(RuntimeError, "input with > 2 dims", inputs=(zeros(4, 6),)),
        ),
    ),
    Row("ChannelShuffle", normal(2, 4, 3, 2), (2,), variant=True),
]

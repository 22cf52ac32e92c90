"""Resizing."""

from tests.zoo.row import Bad, Row, normal, zeros

_SIGNAL, _IMAGE, _VOLUME = normal(2, 3, 7), normal(2, 3, 5, 6), normal(2, 2, 3, 4, 3)

ROWS = [
    Row(
        "Upsample",
        _IMAGE,
        kwargs={"scale_factor": 2},
        bad=(
            Bad(NotImplementedError, "Only 3D, 4D and 5D", inputs=(zeros(3, 3),)),
            Bad(RuntimeError, "Non-empty 4D data tensor expected", inputs=(zeros(1, 0, 3, 3),)),
            Bad(RuntimeError, "should be greater than 0", inputs=(zeros(1, 2, 0, 3),)),
            Bad(NotImplementedError, "not implemented for 'int32'", inputs=(zeros(1, 2, 3, 3, dtype="int32"),)),
        ),
    ),
    Row("Upsample", _VOLUME, ((5, 3, 7),), variant=True),
    Row("Upsample", _SIGNAL, kwargs={"scale_factor": 1.7, "mode": "nearest-exact"}, variant=True),
    Row(
        "Upsample",
        _SIGNAL,
        (11,),
        {"mode": "linear"},
        variant=True,
        bad=(Bad(NotImplementedError, "linear mode needs 3D input", inputs=(zeros(1, 1, 3, 3),)),),
    ),
    Row("Upsample", _IMAGE, (None, (1.5, 0.7)), {"mode": "bilinear", "recompute_scale_factor": True}, variant=True),
    Row(
        "Upsample",
        _IMAGE,
        (None, (1.5, 0.7)),
        {"mode": "bilinear", "align_corners": True},
        variant=True,
        bad=(Bad(ValueError, "same number of spatial dimensions", inputs=(zeros(1, 1, 3),)),),
    ),
    Row("Upsample", _IMAGE, (None, 2.3, "bicubic", False), variant=True),
    Row("Upsample", _VOLUME, (None, (2.0, 0.5, 1.3), "trilinear"), variant=True),
    Row("Upsample", _IMAGE, ((3, 8),), {"mode": "area"}, variant=True),
    Row("UpsamplingNearest2d", _IMAGE, (8,)),
    Row("UpsamplingNearest2d", _IMAGE, (None, (0.5, 2)), variant=True),
    Row("UpsamplingBilinear2d", _IMAGE, ((7, 4),)),
    Row("UpsamplingBilinear2d", _IMAGE, kwargs={"scale_factor": 1.5}, variant=True),
]

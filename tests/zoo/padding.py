"""Padding."""

from tests.zoo.row import Bad, Row, normal, zeros

_SIGNAL, _IMAGE, _VOLUME = normal(2, 3, 5), normal(2, 3, 4, 5), normal(2, 2, 3, 4, 3)
_RANK = Bad(NotImplementedError, "Padding size 4 is not supported for 2D input", inputs=(zeros(4, 5),))

ROWS = [
    Row("ConstantPad1d", _SIGNAL, ((2, 1), 1.5)),
    Row(
        "ConstantPad2d",
        _IMAGE,
        (1, -0.5),
        bad=(Bad(RuntimeError, "two times the input dimension", inputs=(zeros(4),)),),
    ),
    Row("ConstantPad2d", normal(4, 5), ((-1, 2, 1, -2),), {"value": 3}, variant=True),
    Row("ConstantPad3d", _VOLUME, ((1, 0, -1, 1, 0, 2), 2.0)),
    Row("ZeroPad1d", _SIGNAL, (2,), bad=(Bad(RuntimeError, "two times the input dimension", inputs=(zeros(),)),)),
    Row("ZeroPad2d", _IMAGE, ((1, 0, 2, -1),)),
    Row("ZeroPad3d", _VOLUME, (1,)),
    Row("ReflectionPad1d", _SIGNAL, ((3, 1),)),
    Row(
        "ReflectionPad2d",
        _IMAGE,
        (2,),
        bad=(
            _RANK,
            Bad(RuntimeError, "Padding size should be less than", inputs=(zeros(1, 3, 2, 2),)),
            Bad(RuntimeError, "other non-zero dimensions", inputs=(zeros(1, 0, 4, 5),)),
            Bad(NotImplementedError, "not implemented for 'bool'", inputs=(zeros(1, 3, 4, 5, dtype=bool),)),
        ),
    ),
    Row("ReflectionPad2d", normal(3, 4, 5), ((1, -2, 0, 3),), variant=True),
    Row("ReflectionPad3d", _VOLUME, ((1, 2, 3, 0, 1, 2),)),
    Row("ReplicationPad1d", _SIGNAL, ((6, 1),)),
    Row(
        "ReplicationPad2d",
        _IMAGE,
        (2,),
        bad=(_RANK, Bad(RuntimeError, "other non-zero dimensions", inputs=(zeros(1, 3, 0, 5),))),
    ),
    Row("ReplicationPad2d", normal(3, 4, 5), ((1, -2, 0, 7),), variant=True),
    Row("ReplicationPad3d", _VOLUME, ((1, 2, 3, 0, 1, 4),)),
    Row("CircularPad1d", _SIGNAL, ((5, 1),)),
    Row(
        "CircularPad2d",
        _IMAGE,
        (3,),
        bad=(
            Bad(ValueError, "expected 3D or 4D input .got 2D input", inputs=(zeros(4, 5),)),
            Bad(RuntimeError, "wrapping around more than once", inputs=(zeros(1, 3, 4, 2),)),
        ),
    ),
    Row("CircularPad2d", normal(3, 4, 5), ((1, -2, 0, 3),), variant=True),
    Row("CircularPad3d", _VOLUME, ((1, 2, 3, 0, 1, 2),)),
]

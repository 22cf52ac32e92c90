"""Dropout."""

from tests.zoo.row import Bad, Row, normal, zeros

_BAD = (Bad(ValueError, "has to be between 0 and 1, but got 1.5", (1.5,)),)
_DRAWN = {"modes_differ": True, "random": True}

ROWS = [
    Row("Dropout", normal(4, 50), (0.3,), **_DRAWN, bad=_BAD),
    Row("Dropout", normal(4, 5), (0.0, True)),
    Row("Dropout", normal(4, 5), (1.0,), modes_differ=True),
    Row(
        "Dropout1d",
        normal(4, 10, 3),
        (0.3,),
        **_DRAWN,
        bad=(*_BAD, Bad(RuntimeError, "Expected 2D or 3D input, but received a 1D input", inputs=(zeros(3),))),
    ),
    Row("Dropout1d", normal(4, 5, 2), (1.0, True), modes_differ=True, variant=True),
    Row("Dropout2d", normal(4, 10, 3, 2), **_DRAWN, bad=_BAD),
    Row("Dropout2d", normal(4, 5, 2, 3), (0.0,), variant=True),
    Row("Dropout3d", normal(4, 10, 2, 1, 2), (0.3,), **_DRAWN, bad=_BAD),
    Row("Dropout3d", normal(5, 2, 3, 2), (1.0,), modes_differ=True, variant=True),
    Row("AlphaDropout", normal(4, 50), (0.3,), **_DRAWN, bad=_BAD),
    Row("AlphaDropout", normal(4, 5), (1.0, True), modes_differ=True, variant=True),
    Row(
        "FeatureAlphaDropout",
        normal(4, 10, 3),
        **_DRAWN,
        bad=(*_BAD, Bad(RuntimeError, "requires at least 2 dimensions", inputs=(zeros(3) + 1,))),
    ),
    Row("FeatureAlphaDropout", normal(4, 5, 2), (0.0,), variant=True),
]

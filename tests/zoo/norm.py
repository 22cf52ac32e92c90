"""Normalisations."""

from tests.zoo.row import ROUNDING, STEPS, Bad, Row, normal, spread, zeros

_BATCH = {"modes_differ": True, "rtol": 5e-5, "reason": ROUNDING}

ROWS = [
    Row(
        "BatchNorm1d",
        spread(6, 3),
        (3,),
        **_BATCH,
        bad=(
            Bad(ValueError, "Expected more than 1 value per channel when training", inputs=(zeros(1, 3),)),
            Bad(ValueError, "expected 2D or 3D input .got 1D", inputs=(zeros(3),)),
            Bad(RuntimeError, "running_mean should contain 4 elements not 3", inputs=(zeros(2, 4),)),
        ),
    ),
    Row("BatchNorm1d", spread(4, 3, 5), (3,), {"momentum": None}, **_BATCH),
    Row(
        "BatchNorm2d",
        spread(4, 3, 5, 2),
        (3, 1e-3, 0.4),
        **_BATCH,
        bad=(Bad(ValueError, "expected 4D input .got 3D", inputs=(zeros(2, 3, 4),)),),
    ),
    Row("BatchNorm2d", spread(4, 3, 5, 2), (3,), {"affine": False}, **_BATCH),
    Row("BatchNorm2d", spread(4, 3, 5, 2), (3,), {"bias": False}, **_BATCH),
    Row(
        "BatchNorm2d",
        spread(4, 3, 5, 2),
        (3,),
        {"track_running_stats": False},
        rtol=5e-5,
        reason=ROUNDING,
    ),
    Row(
        "BatchNorm3d",
        spread(2, 3, 2, 3, 4),
        (3,),
        **_BATCH,
        bad=(Bad(ValueError, "expected 5D input .got 4D", inputs=(zeros(2, 3, 4, 4),)),),
    ),
    Row(
        "LayerNorm",
        normal(4, 6),
        (6,),
        rtol=2e-5,
        reason=STEPS,
        bad=(Bad(RuntimeError, r"expected input with shape \[\*, 6\], but got", inputs=(zeros(2, 5),)),),
    ),
    Row("LayerNorm", normal(2, 3, 4), ((3, 4),), {"bias": False, "eps": 1e-3}, rtol=2e-5, reason=STEPS),
    Row("LayerNorm", normal(2, 3, 4), ((3, 4),), {"elementwise_affine": False}, rtol=2e-5, reason=ROUNDING),
    Row(
        "GroupNorm",
        spread(2, 6, 5),
        (3, 6),
        rtol=2e-5,
        reason=STEPS,
        bad=(
            Bad(ValueError, r"num_channels \(6\) must be divisible by num_groups \(4\)", (4, 6)),
            Bad(RuntimeError, "divisible by num_groups", inputs=(zeros(2, 5, 4),)),
        ),
    ),
    Row("GroupNorm", spread(2, 6, 3, 4), (2, 6), {"affine": False, "eps": 1e-3}, rtol=2e-5, reason=ROUNDING),
    Row("GroupNorm", spread(2, 6, 3, 4), (6, 6), {"bias": False}, rtol=2e-5, reason=STEPS),
]
STATEFUL = ROWS

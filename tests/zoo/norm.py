"""Normalisations."""

import numpy as np

from tests.zoo.row import ROUNDING, STEPS, Bad, Row, normal, spread, zeros

_BATCH = {"modes_differ": True, "rtol": 5e-5, "reason": ROUNDING}
_INSTANCE = {"rtol": 5e-5, "reason": ROUNDING}
_EMPTY = {"empty": "torch repeats the weight for no samples, and fails with an IndexError"}

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
        "SyncBatchNorm",
        spread(4, 3, 5),
        (3,),
        **_BATCH,
        bad=(
            Bad(ValueError, "expected at least 2D input .got 1D", inputs=(zeros(3),)),
            Bad(ValueError, "input channels should be non-zero", inputs=(zeros(3, 0, 2),)),
            Bad(ValueError, "Expected more than 1 value per channel when training", inputs=(zeros(1, 3),)),
            Bad(RuntimeError, "running_mean should contain 4 elements not 3", inputs=(zeros(2, 4),)),
            Bad(TypeError, "the name of a mapped axis", (3,), {"process_group": 5}, torch_raises=False),
        ),
    ),
    Row("SyncBatchNorm", spread(6, 3), (3, 1e-3, None), {"bias": False}, **_BATCH, variant=True),
    Row(
        "SyncBatchNorm",
        spread(4, 3, 2, 2),
        (3,),
        {"affine": False, "track_running_stats": False},
        rtol=5e-5,
        reason=ROUNDING,
        variant=True,
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
    Row(
        "RMSNorm",
        normal(4, 6),
        (6,),
        rtol=2e-5,
        reason=STEPS,
        bad=(
            Bad(RuntimeError, r"expected input with shape \[\*, 6\], but got", inputs=(zeros(2, 5),)),
            Bad(ValueError, "must have at least 1 dimensions, but got 0", inputs=(zeros(),)),
            Bad(NotImplementedError, "not implemented for 'int32'", inputs=(zeros(2, 6, dtype=np.int32),)),
        ),
    ),
    Row("RMSNorm", normal(2, 3, 4), ((3, 4), 1e-2), rtol=2e-5, reason=STEPS, variant=True),
    Row("RMSNorm", normal(2, 3, 4), (4,), {"elementwise_affine": False}, variant=True),
    Row(
        "InstanceNorm1d",
        spread(2, 3, 5),
        (3,),
        **_INSTANCE,
        bad=(
            Bad(ValueError, "expected 2D or 3D input .got 1D", inputs=(zeros(3),)),
            Bad(ValueError, "Expected more than 1 spatial element", inputs=(zeros(2, 3, 1),)),
            Bad(NotImplementedError, "not implemented for 'int32'", inputs=(zeros(2, 3, 4, dtype=np.int32),)),
        ),
    ),
    Row(
        "InstanceNorm1d",
        spread(2, 3, 5),
        (3, 1e-3, 0.4, True, True),
        **_BATCH,
        edges=_EMPTY,
        variant=True,
        bad=(
            Bad(ValueError, r"at dim=1 to match num_features \(3\), but got: 4", inputs=(zeros(2, 4, 5),)),
            Bad(ValueError, r"at dim=0 to match num_features \(3\), but got: 4", inputs=(zeros(4, 5),)),
        ),
    ),
    Row("InstanceNorm1d", spread(2, 3, 5), (3,), {"track_running_stats": True}, **_BATCH, variant=True),
    Row("InstanceNorm1d", normal(3, 5), (3,), {"affine": True, "bias": False}, **_INSTANCE, variant=True),
    Row(
        "InstanceNorm2d",
        spread(2, 3, 4, 3),
        (3,),
        {"affine": True},
        **_INSTANCE,
        edges=_EMPTY,
        bad=(Bad(ValueError, "expected 3D or 4D input .got 2D", inputs=(zeros(2, 3),)),),
    ),
    Row("InstanceNorm2d", normal(3, 4, 3), (3,), {"track_running_stats": True, "affine": True}, **_BATCH, variant=True),
    Row(
        "InstanceNorm3d",
        spread(2, 3, 2, 3, 2),
        (3,),
        {"affine": True},
        **_INSTANCE,
        edges=_EMPTY,
        bad=(Bad(ValueError, "expected 4D or 5D input .got 3D", inputs=(zeros(2, 3, 4),)),),
    ),
    Row("InstanceNorm3d", spread(2, 3, 2, 3, 2), (3,), {"track_running_stats": True}, **_BATCH, variant=True),
    Row(
        "LocalResponseNorm",
        normal(2, 5, 4),
        (3, 0.5),
        bad=(
            Bad(ValueError, "Expected 3D or higher dimensionality input", inputs=(zeros(2, 3),)),
            Bad(NotImplementedError, "'bool'", inputs=(zeros(2, 3, 4, dtype=np.bool_),)),
        ),
    ),
    Row("LocalResponseNorm", normal(2, 3, 2, 4), (4, 2.0, 1.5, 0.5), variant=True),
    Row("LocalResponseNorm", normal(1, 3, 2, 2, 2), (2,), {"alpha": 1.0, "k": 2.0}, variant=True),
    # Every channel sees all others: elsewhere torch's gradient is not that of its output.
    Row(
        "CrossMapLRN2d",
        normal(2, 3, 2, 4),
        (7, 0.5),
        bad=(Bad(ValueError, "Expected input to be 4D, got 3D", inputs=(zeros(2, 3, 4),)),),
    ),
    Row("CrossMapLRN2d", normal(2, 3, 2, 2), (6, 2.0, 1.5, 0.5), variant=True),
]
STATEFUL = [row for row in ROWS if row.layer not in ("LocalResponseNorm", "CrossMapLRN2d")]

"""Pooling."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.zoo.row import IMAGE, Bad, Inputs, Row, normal, zeros

SIGNAL, VOLUME = normal(2, 3, 9), normal(2, 2, 5, 4, 6)

_SMALL = "Output size is too small"
_LINE_BAD = (
    Bad(RuntimeError, _SMALL, inputs=(zeros(1, 2, 1),)),
    Bad(RuntimeError, "2D or 3D", inputs=(zeros(1, 1, 2, 5),)),
)
_POOL_BAD = (
    Bad(RuntimeError, _SMALL, inputs=(zeros(1, 2, 1, 1),)),
    Bad(RuntimeError, "3D or 4D", inputs=(zeros(1, 1, 2, 5, 5),)),
)
_VOLUME_BAD = (
    Bad(RuntimeError, "4D or 5D", inputs=(zeros(2, 5, 5),)),
    Bad(RuntimeError, "(?i)input.* size", inputs=(zeros(1, 2, 1, 1, 1),)),
)


def maxima(pooled: tuple[int, ...], size: tuple[int, ...]) -> Inputs:
    """Values and, for each plane, as many different places of `size`."""

    def make(seed: int) -> tuple[np.ndarray, ...]:
        (x,) = normal(*pooled)(seed)
        draw = np.random.default_rng((seed, 2))
        planes, count = int(np.prod(pooled[:2])), int(np.prod(pooled[2:]))
        places = [draw.permutation(int(np.prod(size)))[:count] for _ in range(planes)]
        return x, np.stack(places).reshape(pooled).astype(np.int64)

    return make


def _unpool_bad(*shape: int) -> tuple[Bad, ...]:
    """For a layer of kernel 2 with an input of `shape`."""
    x, index = zeros(*shape), zeros(*shape, dtype=np.int64)
    outside = int(np.prod([2 * size for size in shape[2:]]))
    return (
        Bad(RuntimeError, f"invalid max index: {outside}", inputs=(x, index + outside)),
        Bad(RuntimeError, "invalid max index: -1", inputs=(x, index - 1)),
        Bad(RuntimeError, "Expected shape of indices to be same", inputs=(x, index[:, :1])),
        Bad(RuntimeError, "elements in indices should be", inputs=(x, x)),
        Bad(RuntimeError, "Input to max_unpool", inputs=(x[None], index[None])),
        Bad(ValueError, "invalid output_size", inputs=(x, index), call={"output_size": (99,) * (len(shape) - 2)}),
        Bad(
            ValueError,
            "output_size should be a sequence",
            inputs=(x, index),
            call={"output_size": (4,) * len(shape[1:])},
        ),
    )


def _samples(*shape: int) -> dict[str, Any]:
    """Quarters, and steps that are halves: exact in half precision, so that the windows are the same there."""
    return {"_random_samples": np.random.default_rng(shape).integers(0, 4, shape).astype(np.float32) / 4}


_ratio_bad = "between 0 and 1"

ROWS = [
    Row("MaxPool1d", SIGNAL, (2,), bad=_LINE_BAD),
    Row("MaxPool1d", SIGNAL, (3, 2, 1, 2, True, True), variant=True),
    Row("MaxPool2d", IMAGE, (2,), bad=_POOL_BAD),
    Row("MaxPool2d", IMAGE, ((3, 2), (2, 1), (1, 0), (1, 2)), {"ceil_mode": True}),
    Row("MaxPool2d", IMAGE, (3,), {"stride": 2, "padding": 1, "return_indices": True}),
    Row("MaxPool3d", VOLUME, (2,), bad=_VOLUME_BAD),
    Row("MaxPool3d", VOLUME, ((3, 2, 3), 2, (1, 1, 0), (1, 1, 2), True, True), variant=True),
    Row(
        "MaxPool2d",
        normal(1, 2, 20, 19),
        ((18, 17),),
        {"stride": (20, 1), "padding": (1, 3), "return_indices": True},
        variant=True,
    ),
    Row("MaxUnpool1d", maxima((2, 3, 4), (8,)), (2,), bad=_unpool_bad(2, 3, 4)),
    Row("MaxUnpool1d", maxima((2, 3, 4), (9,)), (3, 2, 0), call={"output_size": [2, 3, 10]}, variant=True),
    Row("MaxUnpool2d", maxima((2, 3, 3, 2), (6, 4)), (2,), bad=_unpool_bad(2, 3, 3, 2)),
    Row("MaxUnpool2d", maxima((2, 3, 3, 2), (5, 5)), ((3, 2), (2, 3), (1, 0)), variant=True),
    Row("MaxUnpool3d", maxima((2, 2, 2, 3, 2), (4, 6, 4)), (2,), bad=_unpool_bad(2, 2, 2, 3, 2)),
    Row("MaxUnpool3d", maxima((2, 2, 2, 3, 2), (3, 5, 3)), (3, 2, 1), call={"output_size": (3, 6, 3)}, variant=True),
    Row("AvgPool1d", SIGNAL, (2,), bad=_LINE_BAD),
    Row("AvgPool1d", SIGNAL, (3, 2, 1, True, False), variant=True),
    Row("AvgPool2d", IMAGE, (2,), bad=_POOL_BAD),
    Row("AvgPool2d", IMAGE, ((3, 2), (2, 1), (1, 0)), {"ceil_mode": True, "count_include_pad": False}),
    Row("AvgPool2d", IMAGE, (3, 2, 1, True), {"divisor_override": 5}),
    Row("AvgPool3d", VOLUME, (2,), bad=_VOLUME_BAD),
    Row("AvgPool3d", VOLUME, ((3, 2, 3), 2, (1, 1, 0), True, False), variant=True),
    Row("AvgPool3d", VOLUME, (3, 2, 1, False, True, 7), variant=True),
    Row("FractionalMaxPool2d", normal(2, 3, 7, 6), ((2, 2), (3, 3)), _samples(2, 3, 2)),
    Row("FractionalMaxPool2d", normal(2, 3, 7, 6), (2,), {"output_ratio": 0.5, **_samples(2, 3, 2)}, variant=True),
    Row(
        "FractionalMaxPool2d",
        normal(2, 3, 7, 6),
        (3, 1),
        {"return_indices": True, **_samples(3, 3, 2)},
        variant=True,
        bad=(
            Bad(ValueError, "either an output size, or a pooling ratio", (2,)),
            Bad(ValueError, "only one of", (2, 2, 0.5)),
            Bad(ValueError, _ratio_bad, (2,), {"output_ratio": 1.0}),
            Bad(ValueError, _ratio_bad, (2,), {"output_ratio": (0.5, -0.5)}),
            Bad(RuntimeError, "too large relative to input", inputs=(zeros(2, 3, 2, 2),)),
            Bad(RuntimeError, "Expect _random_samples", inputs=(zeros(2, 4, 7, 6),)),
            Bad(RuntimeError, "Expect _random_samples", inputs=(zeros(4, 3, 7, 6),)),
            Bad(RuntimeError, "the same dtype", inputs=(zeros(2, 3, 7, 6, dtype=np.float16),)),
            Bad(RuntimeError, "3D or 4D", inputs=(zeros(1, 1, 3, 7, 6),)),
        ),
    ),
    Row("FractionalMaxPool3d", normal(2, 2, 6, 5, 7), ((2, 1, 2), (3, 3, 3)), _samples(2, 2, 3)),
    Row(
        "FractionalMaxPool3d",
        normal(2, 2, 6, 5, 7),
        (2,),
        {"output_ratio": (0.5, 0.4, 0.45), "return_indices": True, **_samples(2, 2, 3)},
        variant=True,
        bad=(
            Bad(ValueError, "kernel_size must be greater than 0", (0, 1)),
            Bad(ValueError, "kernel_size must be greater than 0", ((1, -1, 1), 1)),
            Bad(ValueError, "either an output size, or a pooling ratio", (2,)),
            Bad(ValueError, "only one of", (2, 2, 0.5)),
            Bad(ValueError, _ratio_bad, (2,), {"output_ratio": (0.5, 0.5, 1.5)}),
            Bad(RuntimeError, "too large relative to input", inputs=(zeros(2, 2, 2, 3, 3),)),
            Bad(RuntimeError, "Expect _random_samples", inputs=(zeros(2, 3, 6, 5, 7),)),
        ),
    ),
    Row("LPPool1d", SIGNAL, (2, 3), bad=_LINE_BAD),
    Row("LPPool1d", SIGNAL, (np.inf, 3), {"stride": 2, "ceil_mode": True}, variant=True),
    Row("LPPool2d", IMAGE, (2.0, (3, 2), (2, 1)), bad=_POOL_BAD),
    Row("LPPool2d", IMAGE, (4, 2), {"stride": 3, "ceil_mode": True}, variant=True),
    Row("LPPool2d", IMAGE, (1, 2), variant=True),
    Row("LPPool2d", IMAGE, (-np.inf, 2), variant=True),
    Row("LPPool3d", VOLUME, (2, 2), bad=_VOLUME_BAD),
    Row("LPPool3d", VOLUME, (2, (2, 1, 3), 2, True), variant=True),
    Row("AdaptiveMaxPool1d", SIGNAL, (4,), bad=(Bad(RuntimeError, "Expected 2D or 3D", inputs=(zeros(5),)),)),
    Row("AdaptiveMaxPool1d", SIGNAL, (3, True), variant=True),
    Row("AdaptiveMaxPool2d", IMAGE, ((3, None),), bad=(Bad(ValueError, "at least 3", inputs=(zeros(5, 5),)),)),
    Row(
        "AdaptiveMaxPool2d",
        IMAGE,
        (4, True),
        variant=True,
        bad=(
            Bad(RuntimeError, "Expected 3D or 4D", inputs=(zeros(5, 5),)),
            Bad(RuntimeError, "non-zero size", inputs=(zeros(2, 4, 0, 5),)),
            Bad(RuntimeError, "non-zero size", inputs=(zeros(2, 0, 4, 5),)),
            Bad(NotImplementedError, "not implemented", inputs=(zeros(2, 2, 4, 5, dtype=np.int32),)),
        ),
    ),
    Row("AdaptiveMaxPool3d", VOLUME, ((2, None, 4),), bad=(Bad(ValueError, "at least 4", inputs=(zeros(5, 5),)),)),
    Row("AdaptiveMaxPool3d", VOLUME, (3,), {"return_indices": True}, variant=True),
    Row("AdaptiveAvgPool1d", SIGNAL, (4,), bad=(Bad(RuntimeError, "Expected 2D or 3D", inputs=(zeros(5),)),)),
    Row("AdaptiveAvgPool1d", SIGNAL, ((3,),), variant=True),
    Row("AdaptiveAvgPool2d", IMAGE, (1,)),
    Row("AdaptiveAvgPool2d", IMAGE, ((3, None),)),
    Row(
        "AdaptiveAvgPool2d",
        IMAGE,
        (4,),
        bad=(
            Bad(RuntimeError, "Expected 3D or 4D", inputs=(zeros(5, 5),)),
            Bad(RuntimeError, "non-zero size", inputs=(zeros(2, 4, 0, 5),)),
            Bad(NotImplementedError, "not implemented", inputs=(zeros(2, 2, 4, 5, dtype=np.int32),)),
        ),
    ),
    Row("AdaptiveAvgPool3d", VOLUME, ((2, None, 4),), bad=(Bad(ValueError, "at least 4", inputs=(zeros(5, 5),)),)),
    Row("AdaptiveAvgPool3d", VOLUME, (1,), variant=True),
]

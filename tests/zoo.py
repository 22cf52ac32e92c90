"""The module zoo: one table of layers, each with its arguments, inputs and what is particular about it.

The constructor's arguments are the same in jaxmodule and in torch, so a row holds them once. Each property of all
layers is one test over the table: tests/test_zoo.py, and against torch tests/parity/test_layers.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import jaxmodule as jm
from jaxmodule import nn

Inputs = Callable[[int], tuple[np.ndarray, ...]]

#: Modules that hold modules or parameters and compute nothing of their own; they have a specification of their own.
CONTAINERS = frozenset({"Module", "ModuleDict", "ModuleList", "ParameterDict", "ParameterList", "Sequential"})


@dataclass(frozen=True)
class Bad:
    """A use that raises: a constructor's arguments, or inputs for the row's module."""

    kind: type[Exception]
    match: str
    args: tuple[Any, ...] | None = None
    kwargs: dict[str, Any] = field(default_factory=dict)
    inputs: tuple[np.ndarray, ...] = ()
    torch_raises: bool = True  # False where torch has no such error


@dataclass(frozen=True)
class Row:
    """A layer with arguments.

    `modes_differ`: train() and eval() compute different things. `random`: training draws random numbers. `rtol`: the
    tolerance against torch, relative to the largest value, looser than the default only for the `reason` beside it.
    """

    layer: str
    inputs: Inputs
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    modes_differ: bool = False
    random: bool = False
    rtol: float = 1e-5
    reason: str = ""
    bad: tuple[Bad, ...] = ()

    @property
    def id(self) -> str:
        """The layer and its arguments, as one writes the call."""
        shown = [_shown(a) for a in self.args] + [f"{k}={_shown(v)}" for k, v in self.kwargs.items()]
        return f"{self.layer}({','.join(shown)})"

    def make(self, seed: int = 0) -> nn.Module:
        """The layer, with parameters drawn from `seed`."""
        jm.manual_seed(seed)
        return getattr(nn, self.layer)(*self.args, **self.kwargs)

    def make_torch(self) -> Any:
        """torch's layer of the same name and arguments."""
        import torch

        def tensor(value: Any) -> Any:
            return torch.from_numpy(value.copy()) if isinstance(value, np.ndarray) else value

        args = [tensor(a) for a in self.args]
        return getattr(torch.nn, self.layer)(*args, **{k: tensor(v) for k, v in self.kwargs.items()})


def _shown(value: Any) -> str:
    return f"array{list(value.shape)}" if isinstance(value, np.ndarray) else repr(value).replace(" ", "")


def normal(*shape: int) -> Inputs:
    """One input from N(0, 1)."""
    return lambda seed: (np.random.default_rng((seed, *shape)).standard_normal(shape).astype(np.float32),)


def spread(*shape: int) -> Inputs:
    """One input whose channels have different means and variances."""

    def make(seed: int) -> tuple[np.ndarray, ...]:
        channels = np.arange(1, shape[1] + 1, dtype=np.float32).reshape(-1, *(1,) * (len(shape) - 2))
        return (normal(*shape)(seed)[0] * channels + channels,)

    return make


def indices(high: int, *shape: int) -> Inputs:
    """One input of integers below `high`."""
    return lambda seed: (np.random.default_rng((seed, *shape)).integers(0, high, shape, np.int32),)


def classes(logits: tuple[int, ...], *target: int) -> Inputs:
    """Logits, and the indices of their classes (int64, the only one torch takes)."""
    count = logits[0] if len(logits) == 1 else logits[1]
    return lambda seed: (*normal(*logits)(seed), indices(count, *target)(seed)[0].astype(np.int64))


def pair(*shape: int) -> Inputs:
    """An input and a target between 0 and 1."""

    def make(seed: int) -> tuple[np.ndarray, ...]:
        target = np.random.default_rng((seed, 1)).random(shape, np.float32)
        return (*normal(*shape)(seed), target)

    return make


def zeros(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    """Of this shape."""
    return np.zeros(shape, dtype)


_WEIGHTS = np.array([0.5, 1.0, 2.0, 0.25, 1.5], np.float32)
_IMAGE = normal(2, 4, 7, 6)
_ROUNDING = "a gradient through batch statistics is a difference of sums that nearly cancel"
_STEPS = "five steps of training add up the rounding of sums taken in another order"

POINTWISE = [
    Row("Identity", normal(2, 3), (54,), {"anything": True}),
    Row("ReLU", normal(3, 5)),
    Row("ReLU", normal(3, 5), (True,)),
    Row(
        "GELU",
        normal(3, 5),
        bad=(Bad(NotImplementedError, "not implemented for 'int32'", inputs=(zeros(3, dtype=np.int32),)),),
    ),
    Row("GELU", normal(3, 5), kwargs={"approximate": "tanh"}),
    Row("SiLU", normal(3, 5)),
    Row("SiLU", normal(3, 5), (True,)),
    Row("Tanh", normal(3, 5)),
    Row("Sigmoid", normal(3, 5)),
    Row("Softmax", normal(3, 5), (1,), bad=(Bad(IndexError, "but got 1", inputs=(zeros(3),)),)),
    Row("Softmax", normal(2, 3, 4), kwargs={"dim": -2}),
    Row("LogSoftmax", normal(3, 5), (1,), bad=(Bad(IndexError, "but got 1", inputs=(zeros(3),)),)),
    Row(
        "Dropout",
        normal(4, 50),
        (0.3,),
        modes_differ=True,
        random=True,
        bad=(Bad(ValueError, "has to be between 0 and 1, but got 1.5", (1.5,)),),
    ),
    Row("Dropout", normal(4, 5), (0.0, True)),
    Row("Dropout", normal(4, 5), (1.0,), modes_differ=True),
    Row(
        "Flatten",
        normal(2, 3, 4),
        bad=(Bad(IndexError, "Dimension out of range", inputs=(zeros(3),)),),
    ),
    Row(
        "Flatten",
        normal(2, 3, 4, 5),
        (-3, 2),
        bad=(Bad(RuntimeError, "start_dim cannot come after end_dim", inputs=(zeros(2, 3, 4, 5, 6, 7),)),),
    ),
]

LINEAR = [
    Row(
        "Linear",
        normal(2, 3, 5),
        (5, 4),
        bad=(
            Bad(RuntimeError, r"cannot be multiplied \(2x4 and 5x4\)", inputs=(zeros(2, 4),)),
            Bad(RuntimeError, "same dtype", inputs=(zeros(2, 5, dtype=np.float16),)),
            Bad(RuntimeError, "negative dimension -1", (-1, 4)),
        ),
    ),
    Row("Linear", normal(5), (5, 4), {"bias": False}),
    Row(
        "Embedding",
        indices(7, 2, 4),
        (7, 3),
        bad=(
            Bad(IndexError, "index out of range in self", inputs=(zeros(2, dtype=np.int32) + 7,)),
            Bad(RuntimeError, "integer scalar type; but got float32", inputs=(zeros(2),)),
            Bad(AssertionError, "Padding_idx must be within num_embeddings", (7, 3, 7)),
            Bad(AssertionError, "Shape of weight does not match", (7, 3), {"_weight": zeros(6, 3)}),
            Bad(ValueError, "Use sparse=False", (7, 3), {"sparse": True}, torch_raises=False),
        ),
    ),
    Row("Embedding", indices(7, 2, 4), (7, 3), {"padding_idx": -5}),
    Row("Embedding", indices(7, 2, 4), (7, 3), {"max_norm": 1.0, "norm_type": 1.0}),
    Row("Embedding", indices(7, 20), (7, 3), {"scale_grad_by_freq": True, "padding_idx": 1}),
]

CONVOLUTIONS = [
    Row("Conv1d", normal(2, 4, 9), (4, 6, 3), {"stride": 2, "padding": 1, "dilation": 2}),
    Row("Conv1d", normal(4, 9), (4, 6, 4), {"groups": 2, "padding": "same", "padding_mode": "circular"}),
    Row(
        "Conv2d",
        _IMAGE,
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
    Row("Conv2d", _IMAGE, (4, 8, (3, 2), (2, 1), (1, 0), (1, 2), 4, False)),
    Row("Conv2d", _IMAGE, (4, 6, 1)),
    Row("Conv2d", _IMAGE, (4, 6, 3), {"padding": "valid", "padding_mode": "reflect"}),
    Row(
        "Conv2d",
        _IMAGE,
        (4, 6, 3),
        {"padding": (2, 1), "padding_mode": "reflect"},
        bad=(Bad(RuntimeError, "Padding size should be less than", inputs=(zeros(1, 4, 2, 2),)),),
    ),
    Row("Conv2d", _IMAGE, (4, 6, 3), {"padding": 2, "padding_mode": "replicate", "stride": 2}),
    Row(
        "Conv2d",
        _IMAGE,
        (4, 6, 3),
        {"padding": 3, "padding_mode": "circular"},
        bad=(Bad(RuntimeError, "wrapping around more than once", inputs=(zeros(1, 4, 2, 2),)),),
    ),
    Row("Conv2d", _IMAGE, (4, 6, (3, 4)), {"padding": "same", "padding_mode": "reflect"}),
    Row("Conv3d", normal(2, 2, 4, 5, 6), (2, 4, 3), {"padding": (0, 1, 2), "groups": 2}),
    Row("Conv3d", normal(2, 4, 5, 6), (2, 4, 3), {"padding": "same", "dilation": (1, 2, 1)}),
]

_BATCH = {"modes_differ": True, "rtol": 5e-5, "reason": _ROUNDING}
NORMALIZATIONS = [
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
        reason=_ROUNDING,
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
        reason=_STEPS,
        bad=(Bad(RuntimeError, r"expected input with shape \[\*, 6\], but got", inputs=(zeros(2, 5),)),),
    ),
    Row("LayerNorm", normal(2, 3, 4), ((3, 4),), {"bias": False, "eps": 1e-3}, rtol=2e-5, reason=_STEPS),
    Row("LayerNorm", normal(2, 3, 4), ((3, 4),), {"elementwise_affine": False}, rtol=2e-5, reason=_ROUNDING),
    Row(
        "GroupNorm",
        spread(2, 6, 5),
        (3, 6),
        rtol=2e-5,
        reason=_STEPS,
        bad=(
            Bad(ValueError, r"num_channels \(6\) must be divisible by num_groups \(4\)", (4, 6)),
            Bad(RuntimeError, "divisible by num_groups", inputs=(zeros(2, 5, 4),)),
        ),
    ),
    Row("GroupNorm", spread(2, 6, 3, 4), (2, 6), {"affine": False, "eps": 1e-3}, rtol=2e-5, reason=_ROUNDING),
    Row("GroupNorm", spread(2, 6, 3, 4), (6, 6), {"bias": False}, rtol=2e-5, reason=_STEPS),
]

_POOL_BAD = (
    Bad(RuntimeError, "Output size is too small", inputs=(zeros(1, 2, 1, 1),)),
    Bad(RuntimeError, "3D or 4D", inputs=(zeros(1, 1, 2, 5, 5),)),
)
POOLING = [
    Row("MaxPool2d", _IMAGE, (2,), bad=_POOL_BAD),
    Row("MaxPool2d", _IMAGE, ((3, 2), (2, 1), (1, 0), (1, 2)), {"ceil_mode": True}),
    Row("MaxPool2d", _IMAGE, (3,), {"stride": 2, "padding": 1, "return_indices": True}),
    Row("AvgPool2d", _IMAGE, (2,), bad=_POOL_BAD),
    Row("AvgPool2d", _IMAGE, ((3, 2), (2, 1), (1, 0)), {"ceil_mode": True, "count_include_pad": False}),
    Row("AvgPool2d", _IMAGE, (3, 2, 1, True), {"divisor_override": 5}),
    Row("AdaptiveAvgPool2d", _IMAGE, (1,)),
    Row("AdaptiveAvgPool2d", _IMAGE, ((3, None),)),
    Row("AdaptiveAvgPool2d", _IMAGE, (4,), bad=(Bad(RuntimeError, "Expected 3D or 4D", inputs=(zeros(5, 5),)),)),
]

LOSSES = [
    Row(
        "CrossEntropyLoss",
        classes((6, 5), 6),
        bad=(
            Bad(ValueError, "to match target batch_size", inputs=(zeros(3, 5), zeros(2, dtype=np.int64))),
            Bad(IndexError, "Target 5 is out of bounds", inputs=(zeros(3, 5), zeros(3, dtype=np.int64) + 5)),
        ),
    ),
    Row("CrossEntropyLoss", classes((2, 5, 3), 2, 3), (_WEIGHTS,), {"ignore_index": 1, "label_smoothing": 0.1}),
    Row("CrossEntropyLoss", pair(3, 5), kwargs={"weight": _WEIGHTS, "reduction": "sum"}),
    Row("CrossEntropyLoss", classes((5,)), kwargs={"reduction": "none"}),
    Row("MSELoss", pair(4, 3)),
    Row("MSELoss", pair(4, 3), kwargs={"reduction": "none"}),
    Row(
        "BCEWithLogitsLoss",
        pair(4, 5),
        bad=(Bad(ValueError, "must be the same as input size", inputs=(zeros(3), zeros(4))),),
    ),
    Row("BCEWithLogitsLoss", pair(4, 5), (_WEIGHTS,), {"pos_weight": 2 * _WEIGHTS, "reduction": "sum"}),
]

STATEFUL = [*LINEAR, *CONVOLUTIONS, *NORMALIZATIONS]
ROWS = [*POINTWISE, *LINEAR, *CONVOLUTIONS, *NORMALIZATIONS, *POOLING, *LOSSES]
BAD = [(row, bad) for row in ROWS for bad in row.bad]
BAD_IDS = [f"{row.id}-{i}" for row in ROWS for i in range(len(row.bad))]
IDS = [row.id for row in ROWS]
#: Every row in training mode, and in evaluation mode where that is something else.
MODES = [(row, training) for row in ROWS for training in (True, False) if training or row.modes_differ]
MODE_IDS = [f"{row.id}-{'train' if training else 'eval'}" for row, training in MODES]

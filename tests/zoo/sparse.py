"""Embeddings."""

from typing import Any

import numpy as np

from tests.zoo.row import Bad, Inputs, Row, indices, normal, zeros


def _bags(*offsets: int, factors: bool = False) -> Inputs:
    """Ten indices below 7, their division into bags, and a factor for each."""

    def make(seed: int) -> tuple[Any, ...]:
        division = (np.array(offsets, np.int32),)
        return (*indices(7, 10)(seed), *division, *(normal(10)(seed) if factors else ()))

    return make


def _often(*shape: int, offsets: tuple[int, ...] = ()) -> Inputs:
    """Indices of which only the largest repeats: else torch's CPU kernel takes a frequency for another index's."""

    def make(seed: int) -> tuple[Any, ...]:
        values = np.minimum(np.arange(np.prod(shape)), 6)
        shuffled = np.random.default_rng(seed).permutation(values).reshape(shape).astype(np.int32)
        return (shuffled, np.array(offsets, np.int32)) if offsets else (shuffled,)

    return make


def _ints(*values: int) -> np.ndarray:
    return np.array(values, np.int32)


_BAG_BAD = (
    Bad(RuntimeError, "takes value 7 which is not in the valid range", inputs=(_ints(1, 7), _ints(0))),
    Bad(RuntimeError, r"offsets\[0\] has to be 0", inputs=(_ints(1, 2), _ints(1))),
    Bad(RuntimeError, r"offsets\[-1\] can not be greater than", inputs=(_ints(1, 2), _ints(0, 3))),
    Bad(RuntimeError, "integer scalar type; but got float32", inputs=(zeros(2), _ints(0))),
    Bad(ValueError, "offsets has to be a 1D Tensor but got None", inputs=(_ints(1, 2),)),
    Bad(ValueError, "if input is 2D, then offsets has to be None", inputs=(_ints(1, 2)[None], _ints(0))),
    Bad(ValueError, "input has to be 1D or 2D Tensor", inputs=(_ints(1, 2)[None, None],)),
    Bad(ValueError, "must have the same shape as the input", inputs=(_ints(1, 2), _ints(0), zeros(3))),
    Bad(NotImplementedError, "only supported for mode='sum'", inputs=(_ints(1, 2), _ints(0), zeros(2))),
    Bad(AssertionError, "Padding_idx must be within num_embeddings", (7, 3), {"padding_idx": 7}),
    Bad(AssertionError, "Shape of weight does not match", (7, 3), {"_weight": zeros(6, 3)}),
    Bad(ValueError, "Use sparse=False", (7, 3), {"sparse": True}, torch_raises=False),
)

ROWS = [
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
    Row("EmbeddingBag", _bags(0, 4, 4, 9), (7, 3), bad=_BAG_BAD),
    Row("EmbeddingBag", _often(3, 4), (7, 3), {"padding_idx": -5, "scale_grad_by_freq": True}, variant=True),
    Row(
        "EmbeddingBag",
        _bags(0, 2, 7, 10, factors=True),
        (7, 3),
        {"mode": "sum", "include_last_offset": True, "padding_idx": 2},
        variant=True,
        edges={"one": "with factors and no bag torch aborts the process"},
    ),
    Row(
        "EmbeddingBag",
        _bags(0, 3, 3),
        (7, 3),
        {"mode": "max", "padding_idx": 0},
        variant=True,
        bad=(Bad(RuntimeError, "not in the valid range", inputs=(_ints(1, -1), _ints(0))),),
    ),
    Row("EmbeddingBag", indices(7, 3, 4), (7, 3), {"mode": "max"}, variant=True),
    Row("EmbeddingBag", indices(7, 3, 4), (7, 3), {"max_norm": 1.0, "norm_type": 1.0, "mode": "sum"}, variant=True),
    Row("EmbeddingBag", _often(10, offsets=(0, 1, 5)), (7, 3), {"scale_grad_by_freq": True}, variant=True),
]
STATEFUL = ROWS

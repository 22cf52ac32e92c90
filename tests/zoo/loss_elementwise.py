"""Losses of elements and of pairs: regression, likelihoods, binary decisions, margins, embeddings."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.zoo.row import Bad, Inputs, Row, classes, indices, normal, pair, zeros

_WEIGHTS = np.array([0.5, 1.0, 2.0, 0.25, 1.5], np.float32)


class _Manhattan:
    """A distance for arrays and tensors, that pickles, and whose repr is the same in each process."""

    def __call__(self, x: Any, y: Any) -> Any:
        return abs(x - y).sum(-1)

    def __repr__(self) -> str:
        return "manhattan"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Manhattan)

    def __hash__(self) -> int:
        return hash(_Manhattan)


def signs(*shape: int) -> Inputs:
    """Labels 1 and -1 (int64: torch has no gradient for floating ones everywhere)."""
    return lambda seed: (np.asarray(2 * indices(2, *shape)(seed)[0] - 1, np.int64),)


def both(*makers: Inputs) -> Inputs:
    """The inputs of several, each from a seed of its own."""
    return lambda seed: tuple(x for i, make in enumerate(makers) for x in make(10 * seed + i))


def probabilities(*shape: int) -> Inputs:
    """Probabilities, and probabilities to compare them with."""

    def make(seed: int) -> tuple[np.ndarray, ...]:
        x, target = pair(*shape)(seed)
        return 0.1 + 0.8 / (1 + np.exp(-x)), target

    return make


def distributions(*shape: int) -> Inputs:
    """Log-probabilities, and the probabilities of another distribution."""

    def make(seed: int) -> tuple[np.ndarray, ...]:
        x, y = both(normal(*shape), normal(*shape))(seed)
        p, q = (np.exp(a) / np.exp(a).sum(-1, keepdims=True) for a in (x, y))
        return np.log(p), q

    return make


def log_distributions(*shape: int) -> Inputs:
    """Log-probabilities of two distributions."""

    def make(seed: int) -> tuple[np.ndarray, ...]:
        x, q = distributions(*shape)(seed)
        return x, np.log(q)

    return make


def variances(*shape: int, of: tuple[int, ...]) -> Inputs:
    """An expectation, a sample, and a variance of shape `of`."""

    def make(seed: int) -> tuple[np.ndarray, ...]:
        x, y, v = both(normal(*shape), normal(*shape), normal(*of))(seed)
        return x, y, 0.2 + np.abs(v)

    return make


def label_lists(*shape: int) -> Inputs:
    """Scores, and for each row the indices of some classes and then -1."""

    def make(seed: int) -> tuple[np.ndarray, ...]:
        generator = np.random.default_rng((seed, *shape))
        order = generator.permuted(np.broadcast_to(np.arange(shape[-1]), shape), axis=-1)
        end = generator.integers(1, shape[-1], shape[:-1])[..., None]
        return (*normal(*shape)(seed), np.where(np.arange(shape[-1]) < end, order, -1))

    return make


_TRIPLET = both(normal(4, 3), normal(4, 3), normal(4, 3))
_DIMS = Bad(RuntimeError, "same number of dimensions", inputs=(zeros(4, 3), zeros(4, 3), zeros(3)))
_UNWRITTEN = {"empty": "torch's mean of nothing is memory that nothing has been written into; here it is NaN"}
_MISMATCH = Bad(ValueError, "different to the input size|same as input size", inputs=(zeros(3), zeros(4)))

ROWS = [
    Row("L1Loss", pair(4, 3)),
    Row("L1Loss", pair(4, 3), kwargs={"reduction": "none"}, variant=True),
    Row("MSELoss", pair(4, 3)),
    Row("MSELoss", pair(4, 3), kwargs={"reduction": "none"}, variant=True),
    Row("SmoothL1Loss", pair(4, 3)),
    Row("SmoothL1Loss", pair(4, 3), kwargs={"beta": 0.3, "reduction": "sum"}, variant=True),
    Row("SmoothL1Loss", pair(4, 3), kwargs={"beta": 0, "reduction": "none"}, variant=True),
    Row("HuberLoss", pair(4, 3), bad=(Bad(TypeError, "delta must be a float or int", (), {"delta": "1"}),)),
    Row("HuberLoss", pair(4, 3), ("none", 0.3), variant=True),
    Row("PoissonNLLLoss", pair(4, 3)),
    Row("PoissonNLLLoss", probabilities(4, 3), (False, True), {"eps": 1e-3, "reduction": "sum"}, variant=True),
    Row(
        "GaussianNLLLoss",
        variances(4, 3, of=(4, 3)),
        bad=(
            Bad(ValueError, "var has negative", inputs=(zeros(4, 3), zeros(4, 3), zeros(4, 3) - 1)),
            Bad(ValueError, "var is of incorrect size", inputs=(zeros(4, 3), zeros(4, 3), zeros(2, 3))),
        ),
    ),
    Row("GaussianNLLLoss", variances(4, 3, of=(4,)), kwargs={"full": True, "eps": 0.5, "reduction": "none"}),
    Row(
        "KLDivLoss",
        distributions(4, 3),
        kwargs={"reduction": "batchmean"},
        bad=(Bad(RuntimeError, "Integral inputs not supported", inputs=(zeros(3), zeros(3, dtype=np.int64))),),
    ),
    Row("KLDivLoss", log_distributions(4, 3), kwargs={"reduction": "sum", "log_target": True}, variant=True),
    Row(
        "BCELoss",
        probabilities(4, 5),
        bad=(_MISMATCH, Bad(RuntimeError, "between 0 and 1", inputs=(zeros(3) + 2, zeros(3)))),
    ),
    Row("BCELoss", probabilities(4, 5), (_WEIGHTS,), {"reduction": "none"}, variant=True),
    Row("BCEWithLogitsLoss", pair(4, 5), bad=(_MISMATCH,)),
    Row("BCEWithLogitsLoss", pair(4, 5), (_WEIGHTS,), {"pos_weight": 2 * _WEIGHTS, "reduction": "sum"}),
    Row("SoftMarginLoss", both(normal(4, 3), signs(4, 3))),
    Row("SoftMarginLoss", both(normal(4, 3), signs(4, 3)), kwargs={"reduction": "none"}, variant=True),
    Row("MultiLabelSoftMarginLoss", pair(4, 5)),
    Row("MultiLabelSoftMarginLoss", pair(4, 5), (_WEIGHTS,), {"reduction": "none"}, variant=True),
    Row("HingeEmbeddingLoss", both(normal(4, 3), signs(4, 3))),
    Row("HingeEmbeddingLoss", both(normal(4, 3), signs(4, 3)), (0.5,), {"reduction": "none"}, variant=True),
    Row(
        "MarginRankingLoss",
        both(normal(4), normal(4), signs(4)),
        bad=(Bad(RuntimeError, "should have same dimension", inputs=(zeros(4), zeros(4), zeros(4, 1))),),
    ),
    Row("MarginRankingLoss", both(normal(4), normal(4), signs(4)), (0.7,), {"reduction": "none"}, variant=True),
    Row(
        "MultiLabelMarginLoss",
        label_lists(4, 5),
        edges=_UNWRITTEN,
        bad=(
            Bad(RuntimeError, "inconsistent target size", inputs=(zeros(2, 5), zeros(2, 4, dtype=np.int64))),
            Bad(RuntimeError, "target' is out of range", inputs=(zeros(2, 5), zeros(2, 5, dtype=np.int64) + 5)),
        ),
    ),
    Row("MultiLabelMarginLoss", label_lists(5), kwargs={"reduction": "none"}, variant=True),
    Row(
        "MultiMarginLoss",
        classes((4, 5), 4),
        edges=_UNWRITTEN,
        bad=(
            Bad(ValueError, "only p == 1 and p == 2", (3,)),
            Bad(ValueError, "or 1D tensor, got 2D", (), {"weight": zeros(5, 1)}),
            Bad(RuntimeError, r"Expected target size \[2\]", inputs=(zeros(2, 5), zeros(3, dtype=np.int64))),
            Bad(RuntimeError, "target out of range", inputs=(zeros(2, 5), zeros(2, dtype=np.int64) - 1)),
        ),
    ),
    Row("MultiMarginLoss", classes((4, 5), 4), (2, 0.5, _WEIGHTS), {"reduction": "none"}),
    Row(
        "CosineEmbeddingLoss",
        both(normal(4, 3), normal(4, 3), signs(4)),
        bad=(
            Bad(RuntimeError, "multi-target not supported", inputs=(zeros(4, 3), zeros(4, 3), zeros(4, 1))),
            Bad(RuntimeError, "1D target tensor expects 2D", inputs=(zeros(3), zeros(3), zeros(1))),
        ),
    ),
    Row(
        "CosineEmbeddingLoss",
        both(normal(3), normal(3), signs()),
        (0.3,),
        {"reduction": "none"},
        variant=True,
        edges={"one": "of a vector of one number the cosine is 1, and what is left of 1 - 1 is rounding"},
    ),
    Row("TripletMarginLoss", _TRIPLET, bad=(Bad(ValueError, "margin to be greater than 0", (0,)), _DIMS)),
    Row("TripletMarginLoss", _TRIPLET, (2.0, 3.0, 1e-3, True), {"reduction": "none"}, variant=True),
    Row(
        "TripletMarginWithDistanceLoss",
        _TRIPLET,
        bad=(Bad(ValueError, "margin to be greater than 0", (), {"margin": -1.0}), _DIMS),
    ),
    Row(
        "TripletMarginWithDistanceLoss",
        _TRIPLET,
        kwargs={"distance_function": _Manhattan(), "margin": 2.0, "swap": True, "reduction": "sum"},
    ),
]

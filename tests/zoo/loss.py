"""Losses of classes: indices, probabilities, label sequences, and the layers that own the last map themselves."""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any

import numpy as np

from jaxmodule import nn
from tests.zoo.row import Bad, Inputs, Row, classes, indices, normal, pair, zeros

_WEIGHTS = np.array([0.5, 1.0, 2.0, 0.25, 1.5], np.float32)


class _Deprecated(Row):
    """A layer whose constructor warns."""

    def make(self, seed: int = 0) -> nn.Module:
        with warnings.catch_warnings(action="ignore", category=FutureWarning):
            return super().make(seed)

    def make_torch(self) -> Any:
        with warnings.catch_warnings(action="ignore", category=FutureWarning):
            return super().make_torch()


class _Chunked(Row):
    """A layer with options, which torch has a class of its own for."""

    def make_torch(self) -> Any:
        import torch

        options = dataclasses.asdict(self.kwargs["options"])
        translated = {**self.kwargs, "options": torch.nn.LinearCrossEntropyOptions(**options)}
        return Row(self.layer, self.inputs, self.args, translated).make_torch()


def log_probabilities(shape: tuple[int, ...], *target: int) -> Inputs:
    """Log-probabilities, and the indices of their classes."""
    made = classes(shape, *target)

    def make(seed: int) -> tuple[np.ndarray, ...]:
        x, index = made(seed)
        axis = 0 if x.ndim == 1 else 1
        return (x - np.log(np.exp(x).sum(axis, keepdims=True))).astype(np.float32), index

    return make


def features(shape: tuple[int, ...], count: int, *target: int) -> Inputs:
    """Features, and the indices of classes."""
    return lambda seed: (*normal(*shape)(seed), np.asarray(indices(count, *target)(seed)[0], np.int64))


def sequences(times: int, batch: int, count: int, longest: int, concatenated: bool = False) -> Inputs:
    """Log-probabilities, label sequences and the lengths of both. The sequences' lengths are the same for each seed."""

    def make(seed: int) -> tuple[np.ndarray, ...]:
        x = normal(times, batch, count)(seed)[0]
        x = (x - np.log(np.exp(x).sum(2, keepdims=True))).astype(np.float32)
        labels = 1 + indices(count - 1, batch, longest)(seed)[0].astype(np.int64)
        input_lengths = times - np.arange(batch) % 2
        lengths = np.maximum(longest - np.arange(batch), 0)
        if concatenated:
            labels = np.concatenate([row[:n] for row, n in zip(labels, lengths, strict=True)])
        return x, labels, input_lengths, lengths

    return make


def unbatched_sequence(seed: int) -> tuple[np.ndarray, ...]:
    x, labels, input_lengths, lengths = sequences(5, 1, 4, 2)(seed)
    return x[:, 0], labels[0], input_lengths.reshape(()), lengths.reshape(())


_INDEX_ERRORS = (
    Bad(ValueError, "to match target batch_size", inputs=(zeros(3, 5), zeros(2, dtype=np.int64))),
    Bad(IndexError, "Target 5 is out of bounds", inputs=(zeros(3, 5), zeros(3, dtype=np.int64) + 5)),
)
_CTC = sequences(6, 2, 5, 3)(0)
_HEAD = {"options": nn.LinearCrossEntropyOptions(batch_chunk_size=4)}

ROWS = [
    Row("CrossEntropyLoss", classes((6, 5), 6), bad=_INDEX_ERRORS),
    Row("CrossEntropyLoss", classes((2, 5, 3), 2, 3), (_WEIGHTS,), {"ignore_index": 1, "label_smoothing": 0.1}),
    Row("CrossEntropyLoss", pair(3, 5), kwargs={"weight": _WEIGHTS, "reduction": "sum"}),
    Row("CrossEntropyLoss", classes((5,)), kwargs={"reduction": "none"}, variant=True),
    Row("NLLLoss", log_probabilities((6, 5), 6), bad=_INDEX_ERRORS),
    Row("NLLLoss", log_probabilities((2, 5, 3, 2), 2, 3, 2), (_WEIGHTS,), {"ignore_index": 1}),
    Row("NLLLoss", log_probabilities((5,)), kwargs={"reduction": "none"}, variant=True),
    Row("NLLLoss", log_probabilities((6, 5), 6), kwargs={"weight": _WEIGHTS, "reduction": "sum"}, variant=True),
    _Deprecated("NLLLoss2d", log_probabilities((2, 5, 3, 2), 2, 3, 2), (_WEIGHTS,), {"ignore_index": 1}),
    Row(
        "CTCLoss",
        sequences(6, 2, 5, 3),
        bad=(
            Bad(RuntimeError, "input_lengths must be of size batch_size", inputs=(*_CTC[:2], _CTC[2][:1], _CTC[3])),
            Bad(RuntimeError, "target_lengths must be of size batch_size", inputs=(*_CTC[:3], _CTC[3][:1])),
            Bad(RuntimeError, "at most 6, but got value 8", inputs=(*_CTC[:2], _CTC[2] + 2, _CTC[3])),
            Bad(RuntimeError, "size at least 4 at dimension 1", inputs=(*_CTC[:3], _CTC[3] + 1)),
            Bad(RuntimeError, "must not be empty", inputs=(zeros(0, 2, 5), *_CTC[1:])),
            Bad(
                RuntimeError,
                "Expected targets to be classes",
                inputs=(_CTC[0], _CTC[1] + 9, *_CTC[2:]),
                torch_raises=False,
            ),
        ),
    ),
    Row("CTCLoss", sequences(5, 3, 4, 5, True), kwargs={"blank": 0, "reduction": "none", "zero_infinity": True}),
    Row("CTCLoss", unbatched_sequence, kwargs={"reduction": "sum"}, variant=True),
    Row(
        "LinearCrossEntropyLoss",
        features((6, 4), 5, 6),
        (4, 5),
        {"bias": True},
        bad=(
            Bad(RuntimeError, "expected weight shape", (4, 5), {"weight": zeros(4)}),
            Bad(RuntimeError, "label_smoothing to be in range", (4, 5), {"label_smoothing": 1.5}),
            Bad(RuntimeError, r"in_features\), got 3 and 4", inputs=(zeros(2, 3), zeros(2, dtype=np.int64))),
            Bad(RuntimeError, "dimensionality 1 or 2, got 3", inputs=(zeros(2, 3, 4), zeros(2, dtype=np.int64))),
        ),
    ),
    Row(
        "LinearCrossEntropyLoss",
        features((3, 4), 5, 3, 2),
        (4, 5),
        {"out_features": (2,), "bias": True, "reduction": "none", "ignore_index": 1, "label_smoothing": 0.1},
        variant=True,
    ),
    _Chunked(
        "LinearCrossEntropyLoss",
        features((6, 4), 5, 6),
        (4, 5),
        {"bias": True, "ignore_index": 1, **_HEAD},
    ),
    _Chunked(
        "LinearCrossEntropyLoss",
        features((4,), 5),
        (4, 5),
        {"reduction": "none", **_HEAD},
        variant=True,
    ),
]
STATEFUL = [row for row in ROWS if row.layer == "LinearCrossEntropyLoss"]

"""Recurrent layers and cells. Packed sequences, projections and dropout masks: tests/parity/test_rnn.py."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.zoo.row import Bad, Inputs, Row, normal, zeros

#: Base classes without a forward.
BASES = frozenset({"RNNBase", "RNNCellBase"})


def with_state(x: tuple[int, ...], *states: tuple[int, ...]) -> Inputs:
    """An input with its state, or the pair of its states."""

    def make(seed: int) -> tuple[Any, ...]:
        drawn = [normal(*shape)(seed + k)[0] for k, shape in enumerate(states)]
        return (*normal(*x)(seed), drawn[0] if len(drawn) == 1 else tuple(drawn))

    return make


X = normal(4, 2, 3)
_H, _DEEP = zeros(1, 2, 4), {"num_layers": 2, "bidirectional": True}
_DROPOUT = {"modes_differ": True, "random": True}


def _bad(*, lstm: bool = False) -> tuple[Bad, ...]:
    """What RNN, LSTM and GRU refuse alike."""

    def state(array: np.ndarray) -> Any:
        return (array, array) if lstm else array

    hidden = r"hidden\[0\]" if lstm else "hidden"
    return (
        Bad(ValueError, "Expected input to be 2D or 3D, got 1D", inputs=(zeros(3),)),
        Bad(ValueError, "Expected input to be 2D or 3D, got 4D", inputs=(zeros(1, 4, 2, 3),)),
        Bad(RuntimeError, "equal to input_size. Expected 3, got 5", inputs=(zeros(4, 2, 5),)),
        Bad(RuntimeError, "equal to input_size. Expected 3, got 2", inputs=(zeros(4, 2),)),
        Bad(RuntimeError, "sequence length to be larger than 0", inputs=(zeros(0, 2, 3),)),
        Bad(ValueError, "does not match weight dtype .float32", inputs=(zeros(4, 2, 3, dtype=np.float16),)),
        Bad(ValueError, "RNN input dtype .int32.", inputs=(zeros(4, 2, 3, dtype=np.int32),)),
        Bad(
            RuntimeError,
            rf"Expected {hidden} size \(1, 2, 4\), got \[1, 3, 4\]",
            inputs=(zeros(4, 2, 3), state(zeros(1, 3, 4))),
        ),
        Bad(
            RuntimeError,
            rf"Expected {hidden} size \(1, 2, 4\), got \[2, 2, 4\]",
            inputs=(zeros(4, 2, 3), state(zeros(2, 2, 4))),
        ),
        Bad(RuntimeError, "For batched 3-D input, hx ", inputs=(zeros(4, 2, 3), state(zeros(1, 4)))),
        Bad(RuntimeError, "For unbatched 2-D input, hx ", inputs=(zeros(4, 3), state(_H))),
        Bad(RuntimeError, "the same dtype", inputs=(zeros(4, 2, 3), state(_H.astype(np.float16)))),
        Bad(ValueError, "dropout should be a number in range", (3, 4), {"dropout": 1.5}),
        Bad(ValueError, "dropout should be a number in range", (3, 4), {"dropout": True}),
        Bad(ValueError, "input_size must be greater than zero", (0, 4)),
        Bad(ValueError, "hidden_size must be greater than zero", (3, 0)),
        Bad(ValueError, "num_layers must be greater than zero", (3, 4, 0)),
        Bad(TypeError, "input_size should be of type int, got: float", (3.0, 4)),
        Bad(TypeError, "hidden_size should be of type int, got: float", (3, 4.0)),
        Bad(TypeError, "bias should be of type bool, got: int", (3, 4), {"bias": 1}),
        Bad(TypeError, "batch_first should be of type bool, got: int", (3, 4), {"batch_first": 1}),
        Bad(TypeError, "unexpected keyword argument", (3, 4), {"hidden": 1}),
    )


_NO_PROJECTION = Bad(ValueError, "proj_size argument is only supported for LSTM", (3, 4), {"proj_size": 2})


def _bad_cell(*, lstm: bool = False) -> tuple[Bad, ...]:
    """What the cells refuse alike."""

    def state(array: np.ndarray) -> Any:
        return (array, array) if lstm else array

    what = r"hx\[0\]" if lstm else "hidden"
    return (
        Bad(ValueError, "Expected input to be 1D or 2D, got 3D", inputs=(zeros(1, 2, 3),)),
        Bad(ValueError, f"Expected {what} to be 1D or 2D, got 3D", inputs=(zeros(2, 3), state(_H))),
        Bad(RuntimeError, "inconsistent input_size: got 4 expected 3", inputs=(zeros(2, 4),)),
        Bad(RuntimeError, "inconsistent hidden_size: got 3, expected 4", inputs=(zeros(2, 3), state(zeros(2, 3)))),
        Bad(RuntimeError, "Input batch size doesn't match", inputs=(zeros(2, 3), state(zeros(1, 4)))),
        Bad(RuntimeError, "the same dtype", inputs=(zeros(2, 3, dtype=np.float16),)),
        Bad(RuntimeError, "the same dtype", inputs=(zeros(2, 3), state(zeros(2, 4, dtype=np.float16)))),
        Bad(RuntimeError, "negative dimension", (-1, 4)),
    )


ROWS = [
    Row(
        "RNN",
        X,
        (3, 4),
        bad=(
            *_bad(),
            _NO_PROJECTION,
            Bad(ValueError, "Unknown nonlinearity 'sin'", (3, 4), {"nonlinearity": "sin"}),
        ),
    ),
    Row("RNN", with_state((2, 4, 3), (4, 2, 4)), (3, 4, 2, "relu", False, True, 0.0, True), variant=True),
    Row("RNN", X, (3, 4, 2), {"dropout": 0.5}, variant=True, **_DROPOUT),
    Row(
        "LSTM",
        X,
        (3, 4),
        bad=(
            *_bad(lstm=True),
            Bad(RuntimeError, r"Expected hidden\[1\] size", inputs=(zeros(4, 2, 3), (_H, zeros(1, 2, 3)))),
            Bad(IndexError, "got 1 arrays", inputs=(zeros(4, 2, 3), (_H,))),
            Bad(TypeError, "the pair .h_0, c_0.", inputs=(zeros(4, 2, 3), zeros(2, 1, 2, 4))),
            Bad(ValueError, "proj_size should be a positive integer or zero", (3, 4), {"proj_size": -1}),
            Bad(ValueError, "proj_size has to be smaller than hidden_size", (3, 4), {"proj_size": 4}),
        ),
    ),
    Row("LSTM", with_state((2, 4, 3), (4, 2, 4), (4, 2, 4)), (3, 4, 2, False, True, 0.0, True), variant=True),
    Row("LSTM", X, (3, 4), {**_DEEP, "dropout": 0.5}, variant=True, **_DROPOUT),
    Row("GRU", X, (3, 4), bad=(*_bad(), _NO_PROJECTION)),
    Row("GRU", with_state((2, 4, 3), (4, 2, 4)), (3, 4, 2, False, True, 0.0, True), variant=True),
    Row("GRU", X, (3, 4), {**_DEEP, "dropout": 0.5}, variant=True, **_DROPOUT),
    Row("RNNCell", normal(2, 3), (3, 4), bad=_bad_cell()),
    Row("RNNCell", with_state((2, 3), (2, 4)), (3, 4, False, "relu"), variant=True),
    Row("LSTMCell", with_state((2, 3), (2, 4), (2, 4)), (3, 4), bad=_bad_cell(lstm=True)),
    Row(
        "LSTMCell",
        normal(2, 3),
        (3, 4, False),
        variant=True,
        bad=(
            Bad(RuntimeError, "lstm_cell expects two hidden states", inputs=(zeros(2, 3), (zeros(2, 4),))),
            Bad(TypeError, "must be a tuple", inputs=(zeros(2, 3), zeros(2, 2, 4))),
        ),
    ),
    Row("GRUCell", with_state((2, 3), (2, 4)), (3, 4), bad=_bad_cell()),
    Row("GRUCell", normal(2, 3), (3, 4, False), variant=True),
]
STATEFUL = [row for row in ROWS if not row.random]  # five steps of training under a mask have no counterpart in torch

"""A bidirectional LSTM tagger: embedding, packed sentences, linear head."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.parity.architectures.framework import Framework, check, cross_entropy

WORDS, TAGS, WIDTH, HIDDEN = 20, 5, 6, 8
LENGTHS = [3, 7, 1, 5]


def build(fw: Framework, known: list[int] | None) -> Any:
    """With `known` the lengths are part of the program; without, they are an argument of it."""
    nn, rnn = fw.nn, fw.nn.utils.rnn

    class Tagger(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(WORDS, WIDTH, padding_idx=0)
            self.lstm = nn.LSTM(WIDTH, HIDDEN, num_layers=2, bidirectional=True, batch_first=True)
            self.classifier = nn.Linear(2 * HIDDEN, TAGS)

        def forward(self, words: Any, lengths: Any) -> Any:
            x, lengths = self.embedding(words), lengths if known is None else known
            packed = rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
            states, _ = self.lstm(packed)
            states, _ = rnn.pad_packed_sequence(states, batch_first=True, total_length=words.shape[1])
            return fw.permute(self.classifier(states), (0, 2, 1))

    return Tagger()


@pytest.mark.parametrize("known", [None, LENGTHS], ids=["any-lengths", "known-lengths"])
def test_lstm_tagger(known: list[int] | None, rng: np.random.Generator) -> None:
    size, lengths = (len(LENGTHS), max(LENGTHS)), np.array(LENGTHS)
    behind = np.arange(size[1]) >= lengths[:, None]
    words, tags = rng.integers(1, WORDS, size), rng.integers(0, TAGS, size)
    inputs = np.where(behind, 0, words), lengths
    loss = cross_entropy(np.where(behind, -100, tags))  # the class that a loss leaves out
    check(lambda fw: build(fw, known), inputs, loss, outputs_rtol=1e-5, lr=0.5)

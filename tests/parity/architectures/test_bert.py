"""BERT (Devlin et al., 2018) with the names of the usual checkpoints: embeddings, padding mask, pooler."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from tests.parity.architectures.framework import Framework, check


def build(fw: Framework, layers: int, width: int, heads: int, vocabulary: int) -> Any:
    nn, F = fw.nn, fw.F

    class Embeddings(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.word_embeddings = nn.Embedding(vocabulary, width, padding_idx=0)
            self.position_embeddings = nn.Embedding(64, width)
            self.token_type_embeddings = nn.Embedding(2, width)
            self.LayerNorm = nn.LayerNorm(width, eps=1e-12)
            self.dropout = nn.Dropout(0.0)
            self.register_buffer("position_ids", fw.arange(64).reshape(1, 64), persistent=False)

        def forward(self, ids: Any, types: Any) -> Any:
            words = self.word_embeddings(ids)
            positions = self.position_embeddings(self.position_ids[:, : ids.shape[1]])
            x = words + self.token_type_embeddings(types) + fw.expand(positions, words.shape)
            return self.dropout(self.LayerNorm(x))

    class SelfAttention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.query = nn.Linear(width, width)
            self.key = nn.Linear(width, width)
            self.value = nn.Linear(width, width)

        def split(self, x: Any) -> Any:
            return fw.permute(x.reshape(*x.shape[:2], heads, width // heads), (0, 2, 1, 3))

        def forward(self, x: Any, mask: Any) -> Any:
            q, k, v = self.split(self.query(x)), self.split(self.key(x)), self.split(self.value(x))
            scores = q @ fw.permute(k, (0, 1, 3, 2)) / math.sqrt(width // heads)
            weights = F.softmax(scores + fw.expand(mask, scores.shape), dim=-1)
            return fw.permute(weights @ v, (0, 2, 1, 3)).reshape(x.shape)

    class Output(nn.Module):
        def __init__(self, inputs: int) -> None:
            super().__init__()
            self.dense = nn.Linear(inputs, width)
            self.LayerNorm = nn.LayerNorm(width, eps=1e-12)

        def forward(self, x: Any, residual: Any) -> Any:
            return self.LayerNorm(self.dense(x) + residual)

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.ModuleDict({"self": SelfAttention(), "output": Output(width)})
            self.intermediate = nn.ModuleDict({"dense": nn.Linear(width, 4 * width)})
            self.output = Output(4 * width)

        def forward(self, x: Any, mask: Any) -> Any:
            x = self.attention["output"](self.attention["self"](x, mask), x)
            return self.output(F.gelu(self.intermediate["dense"](x)), x)

    class Bert(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embeddings = Embeddings()
            self.encoder = nn.ModuleDict({"layer": nn.ModuleList([Layer() for _ in range(layers)])})
            self.pooler = nn.ModuleDict({"dense": nn.Linear(width, width), "activation": nn.Tanh()})
            self.classifier = nn.Linear(width, 3)

        def forward(self, ids: Any, attention_mask: Any, types: Any) -> Any:
            x = self.embeddings(ids, types)
            n, length = ids.shape
            mask = (1.0 - attention_mask.reshape(n, 1, 1, length)) * -10000.0
            for layer in self.encoder["layer"]:
                x = layer(x, mask)
            pooled = self.pooler["activation"](self.pooler["dense"](x[:, 0]))
            return self.classifier(pooled), x

    return Bert()


@pytest.mark.parametrize(
    ("layers", "width", "heads", "vocabulary"),
    [
        pytest.param(12, 768, 12, 30522, id="base", marks=pytest.mark.slow),
        pytest.param(2, 48, 4, 99, id="two layers"),
    ],
)
def test_bert(layers: int, width: int, heads: int, vocabulary: int, rng: np.random.Generator) -> None:
    ids = rng.integers(1, vocabulary, (2, 20))
    mask = np.ones((2, 20), np.float32)
    mask[1, 13:] = 0
    ids[1, 13:] = 0
    types = np.repeat([[0, 1]], 10, axis=1).repeat(2, axis=0)

    def loss(fw: Framework, output: Any) -> Any:
        logits, hidden = output
        return (logits * logits).mean() + (hidden[:, 0] * hidden[:, 3]).mean()

    check(lambda fw: build(fw, layers, width, heads, vocabulary), (ids, mask, types), loss)

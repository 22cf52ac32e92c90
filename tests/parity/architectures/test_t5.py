"""A T5 encoder and decoder block (Raffel et al., 2019): relative position buckets, RMSNorm, cross-attention."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from tests.parity.architectures.framework import Framework, check


def build(fw: Framework, width: int, heads: int, hidden: int, buckets: int = 8, distance: int = 20) -> Any:
    nn, F = fw.nn, fw.F

    class LayerNorm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(fw.ones(width))
            self.variance_epsilon = 1e-6

        def forward(self, x: Any) -> Any:
            variance = (x * x).mean(-1).reshape(*x.shape[:-1], 1)
            return x * fw.rsqrt(variance + self.variance_epsilon) * fw.expand(self.weight, x.shape)

    class Attention(nn.Module):
        def __init__(self, relative: bool, bidirectional: bool) -> None:
            super().__init__()
            self.bidirectional = bidirectional
            for name in "qkvo":
                setattr(self, name, nn.Linear(width, width, bias=False))
            self.has_relative_attention_bias = relative
            if relative:
                self.relative_attention_bias = nn.Embedding(buckets, heads)

        def bucket(self, relative: Any) -> Any:
            count, found = buckets, 0 * relative
            if self.bidirectional:
                count //= 2
                found = found + fw.int(relative > 0) * count
                relative = abs(relative)
            else:
                relative = -fw.minimum(relative, 0 * relative)
            exact = count // 2
            ratio = fw.log(fw.float(fw.where(relative < 1, 0 * relative + 1, relative)) / exact)
            far = exact + fw.int(ratio / math.log(distance / exact) * (count - exact))
            far = fw.minimum(far, 0 * far + count - 1)
            return found + fw.where(relative < exact, relative, far)

        def bias(self, queries: int, keys: int) -> Any:
            relative = fw.arange(keys).reshape(1, -1) - fw.arange(queries).reshape(-1, 1)
            values = self.relative_attention_bias(self.bucket(relative))
            return fw.permute(values, (2, 0, 1)).reshape(1, heads, queries, keys)

        def split(self, x: Any) -> Any:
            return fw.permute(x.reshape(*x.shape[:2], heads, width // heads), (0, 2, 1, 3))

        def forward(self, x: Any, memory: Any = None, bias: Any = None) -> Any:
            source = x if memory is None else memory
            q, k, v = self.split(self.q(x)), self.split(self.k(source)), self.split(self.v(source))
            scores = q @ fw.permute(k, (0, 1, 3, 2))  # T5 does not scale
            if bias is not None:
                scores = scores + fw.expand(bias, scores.shape)
            y = F.softmax(scores, dim=-1) @ v
            return self.o(fw.permute(y, (0, 2, 1, 3)).reshape(x.shape))

    class FeedForward(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.wi_0 = nn.Linear(width, hidden, bias=False)
            self.wi_1 = nn.Linear(width, hidden, bias=False)
            self.wo = nn.Linear(hidden, width, bias=False)

        def forward(self, x: Any) -> Any:
            return self.wo(F.gelu(self.wi_0(x), approximate="tanh") * self.wi_1(x))

    class Block(nn.Module):
        def __init__(self, decoder: bool) -> None:
            super().__init__()
            self.SelfAttention = Attention(relative=True, bidirectional=not decoder)
            self.EncDecAttention = Attention(relative=False, bidirectional=False) if decoder else None
            self.DenseReluDense = FeedForward()
            self.norms = nn.ModuleList([LayerNorm() for _ in range(3 if decoder else 2)])

        def forward(self, x: Any, memory: Any = None) -> Any:
            norms = iter(self.norms)
            bias = self.SelfAttention.bias(x.shape[1], x.shape[1])
            if memory is not None:
                causal = fw.bool(fw.tril(fw.ones((x.shape[1], x.shape[1]))))
                bias = fw.where(fw.expand(causal, bias.shape), bias, 0 * bias - 1e9)
            x = x + self.SelfAttention(next(norms)(x), bias=bias)
            if memory is not None:
                x = x + self.EncDecAttention(next(norms)(x), memory)
            return x + self.DenseReluDense(next(norms)(x))

    class T5(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = Block(decoder=False)
            self.decoder = Block(decoder=True)

        def forward(self, x: Any, y: Any) -> Any:
            return self.decoder(y, self.encoder(x))

    return T5()


@pytest.mark.parametrize(
    ("width", "heads", "hidden"),
    [pytest.param(512, 8, 1024, id="small", marks=pytest.mark.slow), pytest.param(24, 3, 32, id="tiny")],
)
def test_t5_block(width: int, heads: int, hidden: int, rng: np.random.Generator) -> None:
    x = rng.standard_normal((2, 30, width)).astype(np.float32)
    y = rng.standard_normal((2, 25, width)).astype(np.float32)
    check(lambda fw: build(fw, width, heads, hidden), (x, y), lambda fw, out: (out * out).mean())

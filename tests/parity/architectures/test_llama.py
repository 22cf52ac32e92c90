"""Llama (Touvron et al., 2023): rotary positions, grouped-query attention, RMSNorm, SwiGLU."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.parity.architectures.framework import Framework, check
from tests.parity.architectures.test_gpt import next_token_loss


def build(fw: Framework, layers: int, width: int, heads: int, kv_heads: int, hidden: int, vocabulary: int) -> Any:
    nn, F = fw.nn, fw.F
    dim = width // heads

    def rotate_half(x: Any) -> Any:
        return fw.cat([-x[..., dim // 2 :], x[..., : dim // 2]], -1)

    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q_proj = nn.Linear(width, heads * dim, bias=False)
            self.k_proj = nn.Linear(width, kv_heads * dim, bias=False)
            self.v_proj = nn.Linear(width, kv_heads * dim, bias=False)
            self.o_proj = nn.Linear(heads * dim, width, bias=False)

        def forward(self, x: Any, cos: Any, sin: Any) -> Any:
            n, length, _ = x.shape

            def split(y: Any, count: int) -> Any:
                return fw.permute(y.reshape(n, length, count, dim), (0, 2, 1, 3))

            def rotated(y: Any) -> Any:
                return y * fw.expand(cos, y.shape) + rotate_half(y) * fw.expand(sin, y.shape)

            q, k = rotated(split(self.q_proj(x), heads)), rotated(split(self.k_proj(x), kv_heads))
            v = split(self.v_proj(x), kv_heads)
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
            return self.o_proj(fw.permute(y, (0, 2, 1, 3)).reshape(n, length, heads * dim))

    class MLP(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate_proj = nn.Linear(width, hidden, bias=False)
            self.up_proj = nn.Linear(width, hidden, bias=False)
            self.down_proj = nn.Linear(hidden, width, bias=False)

        def forward(self, x: Any) -> Any:
            return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.input_layernorm = nn.RMSNorm(width, eps=1e-5)
            self.self_attn = Attention()
            self.post_attention_layernorm = nn.RMSNorm(width, eps=1e-5)
            self.mlp = MLP()

        def forward(self, x: Any, cos: Any, sin: Any) -> Any:
            x = x + self.self_attn(self.input_layernorm(x), cos, sin)
            return x + self.mlp(self.post_attention_layernorm(x))

    class Llama(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed_tokens = nn.Embedding(vocabulary, width)
            self.layers = nn.ModuleList([Layer() for _ in range(layers)])
            self.norm = nn.RMSNorm(width, eps=1e-5)
            self.lm_head = nn.Linear(width, vocabulary, bias=False)
            inverse = 1.0 / 10000.0 ** (fw.float(fw.arange(0, dim, 2)) / dim)
            self.register_buffer("inv_freq", inverse, persistent=False)

        def forward(self, ids: Any) -> Any:
            x = self.embed_tokens(ids)
            angles = fw.outer(fw.like(fw.arange(ids.shape[1]), self.inv_freq), self.inv_freq)
            angles = fw.cat([angles, angles], -1).reshape(1, 1, ids.shape[1], dim)
            cos, sin = fw.cos(angles), fw.sin(angles)
            for layer in self.layers:
                x = layer(x, cos, sin)
            return self.lm_head(self.norm(x))

    return Llama()


@pytest.mark.parametrize(
    ("layers", "width", "heads", "kv_heads", "hidden", "vocabulary"),
    [
        pytest.param(4, 512, 8, 2, 1376, 32000, id="four layers of 512", marks=pytest.mark.slow),
        pytest.param(2, 48, 6, 2, 64, 101, id="two layers"),
    ],
)
def test_llama(
    layers: int, width: int, heads: int, kv_heads: int, hidden: int, vocabulary: int, rng: np.random.Generator
) -> None:
    tokens = rng.integers(0, vocabulary, (2, 24))
    check(lambda fw: build(fw, layers, width, heads, kv_heads, hidden, vocabulary), (tokens,), next_token_loss(tokens))

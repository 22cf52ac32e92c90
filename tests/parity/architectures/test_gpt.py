"""GPT-2 (Radford et al., 2019): learned positions, pre-norm, tied head; weights moved with the tie."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import jaxmodule as jm
from tests.parity.architectures.framework import JAX, TORCH, Framework, check


def build(fw: Framework, layers: int, width: int, heads: int, vocabulary: int, context: int) -> Any:
    nn, F = fw.nn, fw.F

    class CausalSelfAttention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.c_attn = nn.Linear(width, 3 * width)
            self.c_proj = nn.Linear(width, width)

        def forward(self, x: Any) -> Any:
            n, length, _ = x.shape
            qkv = fw.permute(self.c_attn(x).reshape(n, length, 3, heads, width // heads), (2, 0, 3, 1, 4))
            y = F.scaled_dot_product_attention(qkv[0], qkv[1], qkv[2], is_causal=True)
            return self.c_proj(fw.permute(y, (0, 2, 1, 3)).reshape(n, length, width))

    class MLP(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.c_fc = nn.Linear(width, 4 * width)
            self.gelu = nn.GELU(approximate="tanh")
            self.c_proj = nn.Linear(4 * width, width)

        def forward(self, x: Any) -> Any:
            return self.c_proj(self.gelu(self.c_fc(x)))

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.ln_1 = nn.LayerNorm(width)
            self.attn = CausalSelfAttention()
            self.ln_2 = nn.LayerNorm(width)
            self.mlp = MLP()

        def forward(self, x: Any) -> Any:
            x = x + self.attn(self.ln_1(x))
            return x + self.mlp(self.ln_2(x))

    class GPT(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.transformer = nn.ModuleDict(
                {
                    "wte": nn.Embedding(vocabulary, width),
                    "wpe": nn.Embedding(context, width),
                    "h": nn.ModuleList([Block() for _ in range(layers)]),
                    "ln_f": nn.LayerNorm(width),
                }
            )
            self.lm_head = nn.Linear(width, vocabulary, bias=False)
            self.lm_head.weight = self.transformer.wte.weight
            self.apply(self._init_weights)
            for name, parameter in self.named_parameters():
                if name.endswith("c_proj.weight"):
                    nn.init.normal_(parameter, mean=0.0, std=0.02 / math.sqrt(2 * layers))

        def _init_weights(self, module: Any) -> None:
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.normal_(module.weight, mean=0.0, std=0.02)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)

        def forward(self, idx: Any) -> Any:
            positions = self.transformer.wpe(fw.arange(idx.shape[1]))
            tokens = self.transformer.wte(idx)
            x = tokens + fw.expand(positions, tokens.shape)
            for block in self.transformer.h:
                x = block(x)
            return self.lm_head(self.transformer.ln_f(x))

    return GPT()


def next_token_loss(tokens: np.ndarray) -> Any:
    def loss(fw: Framework, logits: Any) -> Any:
        targets = tokens[:, 1:].reshape(-1)
        if fw is TORCH:
            import torch

            targets = torch.from_numpy(targets)
        flat = logits[:, :-1].reshape(-1, logits.shape[-1])
        return fw.F.cross_entropy(flat, targets)

    return loss


@pytest.mark.parametrize(
    ("layers", "width", "heads", "vocabulary", "context"),
    [
        pytest.param(12, 768, 12, 50257, 1024, id="124M", marks=pytest.mark.slow),
        pytest.param(2, 48, 4, 101, 32, id="two layers"),
    ],
)
def test_gpt(layers: int, width: int, heads: int, vocabulary: int, context: int, rng: np.random.Generator) -> None:
    tokens = rng.integers(0, vocabulary, (2, 24))
    check(lambda fw: build(fw, layers, width, heads, vocabulary, context), (tokens,), next_token_loss(tokens))


def test_the_tie_survives_loading_and_counts_once() -> None:
    theirs, ours = build(TORCH, 1, 16, 2, 11, 8), build(JAX, 1, 16, 2, 11, 8)
    report = ours.load_state_dict(theirs.state_dict())
    assert ours.lm_head.weight is ours.transformer.wte.weight
    assert report.tied == [("transformer.wte.weight", "lm_head.weight")]
    assert len(list(ours.parameters())) == len(list(theirs.parameters()))
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert "lm_head.weight" not in jm.split(ours)[0]

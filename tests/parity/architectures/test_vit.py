"""ViT-B/16 (Dosovitskiy et al., 2020), on `nn.MultiheadAttention`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.parity.architectures.framework import Framework, check, cross_entropy


def build(fw: Framework, depth: int, width: int, heads: int, image: int, patch: int = 16, classes: int = 10) -> Any:
    nn = fw.nn

    class EncoderBlock(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.ln_1 = nn.LayerNorm(width, eps=1e-6)
            self.self_attention = nn.MultiheadAttention(width, heads, batch_first=True)
            self.ln_2 = nn.LayerNorm(width, eps=1e-6)
            self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

        def forward(self, x: Any) -> Any:
            y = self.ln_1(x)
            y, _ = self.self_attention(y, y, y, need_weights=False)
            x = x + y
            return x + self.mlp(self.ln_2(x))

    class ViT(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv_proj = nn.Conv2d(3, width, patch, stride=patch)
            self.class_token = nn.Parameter(fw.zeros((1, 1, width)))
            tokens = (image // patch) ** 2 + 1
            self.pos_embedding = nn.Parameter(fw.zeros((1, tokens, width)))
            nn.init.normal_(self.pos_embedding, std=0.02)
            self.layers = nn.Sequential(*[EncoderBlock() for _ in range(depth)])
            self.ln = nn.LayerNorm(width, eps=1e-6)
            self.head = nn.Linear(width, classes)

        def forward(self, x: Any) -> Any:
            n = x.shape[0]
            x = fw.permute(self.conv_proj(x).reshape(n, width, -1), (0, 2, 1))
            x = fw.cat([fw.expand(self.class_token, (n, 1, width)), x], 1)
            positions = fw.expand(self.pos_embedding, x.shape)
            return self.head(self.ln(self.layers(x + positions))[:, 0])

    return ViT()


@pytest.mark.parametrize(
    ("depth", "width", "heads", "image"),
    [pytest.param(12, 768, 12, 224, id="B/16", marks=pytest.mark.slow), pytest.param(2, 64, 4, 48, id="two layers")],
)
def test_vit(depth: int, width: int, heads: int, image: int, rng: np.random.Generator) -> None:
    images = rng.standard_normal((2, 3, image, image)).astype(np.float32)
    check(lambda fw: build(fw, depth, width, heads, image), (images,), cross_entropy(rng.integers(0, 10, 2)))

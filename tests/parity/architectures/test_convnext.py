"""ConvNeXt-T (Liu et al., 2022)."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from tests.parity.architectures.framework import Framework, check, cross_entropy


def build(fw: Framework, depths: tuple[int, ...], dims: tuple[int, ...], classes: int = 10) -> Any:
    nn = fw.nn

    class LayerNorm2d(nn.LayerNorm):
        def forward(self, x: Any) -> Any:
            return fw.permute(super().forward(fw.permute(x, (0, 2, 3, 1))), (0, 3, 1, 2))

    class Block(nn.Module):
        def __init__(self, dim: int) -> None:
            super().__init__()
            self.dwconv = nn.Conv2d(dim, dim, 7, padding=3, groups=dim)
            self.norm = nn.LayerNorm(dim, eps=1e-6)
            self.pwconv1 = nn.Linear(dim, 4 * dim)
            self.act = nn.GELU()
            self.pwconv2 = nn.Linear(4 * dim, dim)
            self.gamma = nn.Parameter(1e-2 * fw.ones((dim,)))

        def forward(self, x: Any) -> Any:
            out = self.norm(fw.permute(self.dwconv(x), (0, 2, 3, 1)))
            out = self.pwconv2(self.act(self.pwconv1(out)))
            gamma = fw.reshape(self.gamma, (1, 1, 1, -1))
            return x + fw.permute(gamma * out, (0, 3, 1, 2))

    class ConvNeXt(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            stem = nn.Sequential(nn.Conv2d(3, dims[0], 4, stride=4), LayerNorm2d(dims[0], eps=1e-6))
            self.downsample_layers = nn.ModuleList([stem])
            for before, after in itertools.pairwise(dims):
                down = nn.Sequential(LayerNorm2d(before, eps=1e-6), nn.Conv2d(before, after, 2, stride=2))
                self.downsample_layers.append(down)
            self.stages = nn.ModuleList(
                [nn.Sequential(*[Block(dim) for _ in range(n)]) for n, dim in zip(depths, dims, strict=True)]
            )
            self.norm = nn.LayerNorm(dims[-1], eps=1e-6)
            self.head = nn.Linear(dims[-1], classes)

        def forward(self, x: Any) -> Any:
            for downsample, stage in zip(self.downsample_layers, self.stages, strict=True):
                x = stage(downsample(x))
            return self.head(self.norm(x.mean((2, 3))))

    return ConvNeXt()


@pytest.mark.parametrize(
    ("depths", "dims"),
    [
        pytest.param((3, 3, 9, 3), (96, 192, 384, 768), id="T", marks=pytest.mark.slow),
        pytest.param((1, 1), (24, 48), id="two blocks"),
    ],
)
def test_convnext(depths: tuple[int, ...], dims: tuple[int, ...], rng: np.random.Generator) -> None:
    images = rng.standard_normal((2, 3, 64, 64)).astype(np.float32)
    check(lambda fw: build(fw, depths, dims), (images,), cross_entropy(rng.integers(0, 10, 2)))

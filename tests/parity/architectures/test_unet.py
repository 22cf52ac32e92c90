"""U-Net (Ronneberger et al., 2015), with transposed convolutions or with bilinear upsampling."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from tests.parity.architectures.framework import Framework, check, cross_entropy


def build(fw: Framework, widths: tuple[int, ...], bilinear: bool, classes: int = 3) -> Any:
    nn, F = fw.nn, fw.F

    class DoubleConv(nn.Module):
        def __init__(self, inputs: int, outputs: int) -> None:
            super().__init__()
            self.double_conv = nn.Sequential(
                nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
                nn.BatchNorm2d(outputs),
                nn.ReLU(inplace=True),
                nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
                nn.BatchNorm2d(outputs),
                nn.ReLU(inplace=True),
            )

        def forward(self, x: Any) -> Any:
            return self.double_conv(x)

    class Up(nn.Module):
        def __init__(self, inputs: int, outputs: int) -> None:
            super().__init__()
            if bilinear:
                up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
                self.up = nn.Sequential(up, nn.Conv2d(inputs, outputs, 1))
            else:
                self.up = nn.ConvTranspose2d(inputs, outputs, 2, stride=2)
            self.conv = DoubleConv(2 * outputs, outputs)

        def forward(self, x: Any, skip: Any) -> Any:
            x = self.up(x)
            down, right = skip.shape[2] - x.shape[2], skip.shape[3] - x.shape[3]
            x = F.pad(x, [right // 2, right - right // 2, down // 2, down - down // 2])
            return self.conv(fw.cat([skip, x], 1))

    class UNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inc = DoubleConv(3, widths[0])
            pairs = list(itertools.pairwise(widths))
            self.downs = nn.ModuleList([nn.Sequential(nn.MaxPool2d(2), DoubleConv(a, b)) for a, b in pairs])
            self.ups = nn.ModuleList([Up(b, a) for a, b in reversed(pairs)])
            self.outc = nn.Conv2d(widths[0], classes, 1)

        def forward(self, x: Any) -> Any:
            skips = [self.inc(x)]
            for down in self.downs:
                skips.append(down(skips[-1]))
            x = skips.pop()
            for up in self.ups:
                x = up(x, skips.pop())
            return self.outc(x)

    return UNet()


@pytest.mark.parametrize("bilinear", [False, True])
@pytest.mark.parametrize(
    "widths", [pytest.param((64, 128, 256, 512, 1024), id="full", marks=pytest.mark.slow), (6, 12, 24)]
)
def test_unet(widths: tuple[int, ...], bilinear: bool, rng: np.random.Generator) -> None:
    images = rng.standard_normal((2, 3, 37, 50)).astype(np.float32)
    targets = rng.integers(0, 3, (2, 37, 50))
    check(lambda fw: build(fw, widths, bilinear), (images,), cross_entropy(targets))

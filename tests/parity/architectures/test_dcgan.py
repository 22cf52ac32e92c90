"""DCGAN (Radford et al., 2015): generator and discriminator."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.parity.architectures.framework import Framework, check


def initialize(nn: Any, model: Any) -> Any:
    def weights_init(module: Any) -> None:
        if type(module).__name__.startswith("Conv"):
            nn.init.normal_(module.weight, 0.0, 0.02)
        elif type(module).__name__.startswith("BatchNorm"):
            nn.init.normal_(module.weight, 1.0, 0.02)
            nn.init.zeros_(module.bias)

    return model.apply(weights_init)


def generator(fw: Framework, noise: int = 20, width: int = 8) -> Any:
    nn = fw.nn
    layers = [nn.ConvTranspose2d(noise, width * 4, 4, 1, 0, bias=False), nn.BatchNorm2d(width * 4), nn.ReLU(True)]
    for factor in (4, 2):
        layers += [
            nn.ConvTranspose2d(width * factor, width * factor // 2, 4, 2, 1, bias=False),
            nn.BatchNorm2d(width * factor // 2),
            nn.ReLU(True),
        ]
    layers += [nn.ConvTranspose2d(width, 3, 4, 2, 1, bias=False), nn.Tanh()]
    return initialize(nn, nn.Sequential(*layers))


def discriminator(fw: Framework, width: int = 8) -> Any:
    nn = fw.nn
    layers = [nn.Conv2d(3, width, 4, 2, 1, bias=False), nn.LeakyReLU(0.2, inplace=True)]
    for factor in (1, 2):
        layers += [
            nn.Conv2d(width * factor, width * factor * 2, 4, 2, 1, bias=False),
            nn.BatchNorm2d(width * factor * 2),
            nn.LeakyReLU(0.2, inplace=True),
        ]
    layers += [nn.Conv2d(width * 4, 1, 4, 1, 0, bias=False), nn.Sigmoid(), nn.Flatten(0)]
    return initialize(nn, nn.Sequential(*layers))


def test_generator(rng: np.random.Generator) -> None:
    noise = rng.standard_normal((4, 20, 1, 1)).astype(np.float32)
    check(generator, (noise,), lambda fw, images: (images * images).mean() + images.mean())


def test_discriminator(rng: np.random.Generator) -> None:
    images = rng.standard_normal((6, 3, 32, 32)).astype(np.float32)
    check(
        discriminator,
        (images,),
        lambda fw, p: fw.nn.BCELoss()(
            p, fw.where(fw.arange(6) < 3, fw.ones(6, dtype=p.dtype), fw.zeros(6, dtype=p.dtype))
        ),
    )

"""MobileNetV3-Small (Howard et al., 2019) and EfficientNet-B0 (Tan and Le, 2019)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.parity.architectures.framework import Framework, check, cross_entropy


def conv_norm(nn: Any, inputs: int, outputs: int, kernel: int, stride: int, groups: int, activation: Any) -> Any:
    layers = [
        nn.Conv2d(inputs, outputs, kernel, stride, (kernel - 1) // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs, eps=0.001, momentum=0.01),
    ]
    if activation is not None:
        layers.append(activation(inplace=True))
    return nn.Sequential(*layers)


def squeeze_excitation(nn: Any, channels: int, squeezed: int, activation: Any, gate: Any) -> Any:
    class SqueezeExcitation(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.avgpool = nn.AdaptiveAvgPool2d(1)
            self.fc1 = nn.Conv2d(channels, squeezed, 1)
            self.fc2 = nn.Conv2d(squeezed, channels, 1)
            self.activation = activation()
            self.scale_activation = gate()

        def forward(self, x: Any) -> Any:
            scale = self.fc2(self.activation(self.fc1(self.avgpool(x))))
            return self.scale_activation(scale) * x

    return SqueezeExcitation()


def inverted_residual(
    nn: Any, inputs: int, expanded: int, outputs: int, kernel: int, stride: int, se: Any, activation: Any
) -> Any:
    class InvertedResidual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.use_res_connect = stride == 1 and inputs == outputs
            layers = []
            if expanded != inputs:
                layers.append(conv_norm(nn, inputs, expanded, 1, 1, 1, activation))
            layers.append(conv_norm(nn, expanded, expanded, kernel, stride, expanded, activation))
            if se is not None:
                layers.append(se)
            layers.append(conv_norm(nn, expanded, outputs, 1, 1, 1, None))
            self.block = nn.Sequential(*layers)

        def forward(self, x: Any) -> Any:
            return self.block(x) + x if self.use_res_connect else self.block(x)

    return InvertedResidual()


def classifier(nn: Any, features: Any, channels: int, head: Any) -> Any:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features = nn.Sequential(*features)
            self.avgpool = nn.AdaptiveAvgPool2d(1)
            self.classifier = head

        def forward(self, x: Any) -> Any:
            return self.classifier(self.avgpool(self.features(x)).reshape(-1, channels))

    return Model()


# kernel, expanded, outputs, squeeze and excitation, hard swish, stride
_SMALL = [
    (3, 16, 16, True, False, 2),
    (3, 72, 24, False, False, 2),
    (3, 88, 24, False, False, 1),
    (5, 96, 40, True, True, 2),
    (5, 240, 40, True, True, 1),
    (5, 240, 40, True, True, 1),
    (5, 120, 48, True, True, 1),
    (5, 144, 48, True, True, 1),
    (5, 288, 96, True, True, 2),
    (5, 576, 96, True, True, 1),
    (5, 576, 96, True, True, 1),
]


def mobilenet(fw: Framework, rows: list[Any], classes: int = 10) -> Any:
    nn = fw.nn
    features = [conv_norm(nn, 3, 16, 3, 2, 1, nn.Hardswish)]
    inputs = 16
    for kernel, expanded, outputs, se, hard_swish, stride in rows:
        activation = nn.Hardswish if hard_swish else nn.ReLU
        squeezed = max(8, (expanded // 4 + 4) // 8 * 8)
        gate = squeeze_excitation(nn, expanded, squeezed, nn.ReLU, nn.Hardsigmoid) if se else None
        features.append(inverted_residual(nn, inputs, expanded, outputs, kernel, stride, gate, activation))
        inputs = outputs
    features.append(conv_norm(nn, inputs, 6 * inputs, 1, 1, 1, nn.Hardswish))
    head = nn.Sequential(nn.Linear(6 * inputs, 64), nn.Hardswish(inplace=True), nn.Linear(64, classes))
    return classifier(nn, features, 6 * inputs, head)


# expansion, kernel, stride, outputs, repetitions
_B0 = [
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
]


def efficientnet(fw: Framework, rows: list[Any], classes: int = 10) -> Any:
    nn = fw.nn
    features = [conv_norm(nn, 3, 32, 3, 2, 1, nn.SiLU)]
    inputs = 32
    for expansion, kernel, stride, outputs, count in rows:
        stage = []
        for i in range(count):
            expanded = inputs * expansion
            se = squeeze_excitation(nn, expanded, max(1, inputs // 4), nn.SiLU, nn.Sigmoid)
            stage.append(inverted_residual(nn, inputs, expanded, outputs, kernel, stride if i == 0 else 1, se, nn.SiLU))
            inputs = outputs
        features.append(nn.Sequential(*stage))
    features.append(conv_norm(nn, inputs, 4 * inputs, 1, 1, 1, nn.SiLU))
    return classifier(nn, features, 4 * inputs, nn.Sequential(nn.Linear(4 * inputs, classes)))


@pytest.mark.parametrize(
    ("make", "rows"),
    [
        pytest.param(mobilenet, _SMALL, id="MobileNetV3-Small", marks=pytest.mark.slow),
        pytest.param(mobilenet, [_SMALL[0], _SMALL[1], _SMALL[3], _SMALL[4]], id="MobileNetV3, four blocks"),
        pytest.param(efficientnet, _B0, id="EfficientNet-B0", marks=pytest.mark.slow),
        pytest.param(efficientnet, [(1, 3, 1, 16, 1), (6, 5, 2, 24, 2)], id="EfficientNet, three blocks"),
    ],
)
def test_mobile(make: Any, rows: list[Any], rng: np.random.Generator) -> None:
    images = rng.standard_normal((4, 3, 48, 48)).astype(np.float32)
    check(lambda fw: make(fw, rows), (images,), cross_entropy(rng.integers(0, 10, 4)))

"""Nonlinearities as layers, under the names that torch's module of this name has."""

from __future__ import annotations

from ._attention import MultiheadAttention
from ._elu import CELU, ELU, SELU
from ._leaky import LeakyReLU, PReLU, RReLU
from ._shrinkage import Hardshrink, Softshrink, Tanhshrink
from ._smooth import GELU, GLU, LogSigmoid, Mish, Sigmoid, SiLU, Softplus, Softsign, Tanh
from ._softmax import LogSoftmax, Softmax, Softmax2d, Softmin
from ._threshold import Hardsigmoid, Hardswish, Hardtanh, ReLU, ReLU6, Threshold

__all__ = [
    "CELU",
    "ELU",
    "GELU",
    "GLU",
    "SELU",
    "Hardshrink",
    "Hardsigmoid",
    "Hardswish",
    "Hardtanh",
    "LeakyReLU",
    "LogSigmoid",
    "LogSoftmax",
    "Mish",
    "MultiheadAttention",
    "PReLU",
    "RReLU",
    "ReLU",
    "ReLU6",
    "SiLU",
    "Sigmoid",
    "Softmax",
    "Softmax2d",
    "Softmin",
    "Softplus",
    "Softshrink",
    "Softsign",
    "Tanh",
    "Tanhshrink",
    "Threshold",
]

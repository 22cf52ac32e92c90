"""Activations."""

import numpy as np

from tests.zoo.row import Bad, Row, normal, zeros

_INTEGERS = (Bad(NotImplementedError, "not implemented for 'int32'", inputs=(zeros(3, dtype=np.int32),)),)
_SIXTH = {"float64": "torch's derivative has 1/6 rounded to float32"}
_BOOL = zeros(3, dtype=np.bool_)

ROWS = [
    Row("Threshold", normal(3, 5), (0.1, -2.0), bad=(Bad(NotImplementedError, "'bool'", inputs=(_BOOL,)),)),
    Row("Threshold", normal(3, 5), (0.1, 20.0, True), variant=True),
    Row("ReLU", normal(3, 5), bad=(Bad(RuntimeError, "Boolean inputs not supported", inputs=(_BOOL,)),)),
    Row("ReLU", normal(3, 5), (True,), variant=True),
    Row("ReLU6", normal(3, 5), bad=(Bad(RuntimeError, "Bool inputs not supported", inputs=(_BOOL,)),)),
    Row("ReLU6", normal(3, 5), (True,), variant=True),
    Row(
        "RReLU",
        normal(3, 5),
        modes_differ=True,
        random=True,
        bad=_INTEGERS,
    ),
    Row("RReLU", normal(3, 5), (0.1, 0.5, True), modes_differ=True, random=True, variant=True),
    Row("RReLU", normal(3, 5), (0.1, 0.1), random=True, variant=True),
    Row(
        "Hardtanh",
        normal(3, 5),
        bad=(
            Bad(AssertionError, r"max_val \(2\) must be greater than min_val \(2\)", (2, 2)),
            Bad(RuntimeError, "Bool inputs not supported", inputs=(_BOOL,)),
        ),
    ),
    Row("Hardtanh", normal(3, 5), (-0.5, 2.0, True), variant=True),
    Row("Hardsigmoid", normal(3, 5), edges=_SIXTH, bad=_INTEGERS),
    Row("Hardsigmoid", normal(3, 5), (True,), edges=_SIXTH, variant=True),
    Row("Hardswish", normal(3, 5), bad=_INTEGERS),
    Row("Hardswish", normal(3, 5), (True,), variant=True),
    Row("Hardshrink", normal(3, 5), bad=_INTEGERS),
    Row("Hardshrink", normal(3, 5), (0.2,), variant=True),
    Row("Softshrink", normal(3, 5), bad=_INTEGERS),
    Row("Softshrink", normal(3, 5), (0.2,), variant=True),
    Row("Tanhshrink", normal(3, 5), bad=(Bad(RuntimeError, "with a bool tensor is not supported", inputs=(_BOOL,)),)),
    Row("LeakyReLU", normal(3, 5), bad=_INTEGERS),
    Row("LeakyReLU", normal(3, 5), (0.2, True), variant=True),
    Row(
        "PReLU",
        normal(3, 5),
        bad=(
            Bad(RuntimeError, "Type promoting not supported. Got float16", inputs=(zeros(3, dtype=np.float16),)),
            Bad(RuntimeError, "negative dimension -1", (-1,)),
        ),
    ),
    Row(
        "PReLU",
        normal(2, 3, 4),
        (3, 0.1),
        variant=True,
        bad=(
            Bad(RuntimeError, "parameter numbers = 3 and channel size = 4", inputs=(zeros(2, 4),)),
            Bad(RuntimeError, "parameter numbers = 3 and channel size = 1", inputs=(zeros(3),)),
            Bad(RuntimeError, "zero-dim input", inputs=(zeros(),)),
        ),
    ),
    Row("ELU", normal(3, 5), bad=_INTEGERS),
    Row("ELU", normal(3, 5), (0.5, True), variant=True),
    Row("CELU", normal(3, 5), bad=_INTEGERS),
    Row(
        "CELU",
        normal(3, 5),
        (0.5, True),
        variant=True,
    ),
    Row("SELU", normal(3, 5), bad=_INTEGERS),
    Row("SELU", normal(3, 5), (True,), variant=True),
    Row("GELU", normal(3, 5), bad=_INTEGERS),
    Row("GELU", normal(3, 5), kwargs={"approximate": "tanh"}, variant=True),
    Row("SiLU", normal(3, 5), bad=_INTEGERS),
    Row("SiLU", normal(3, 5), (True,), variant=True),
    Row("Mish", normal(3, 5), bad=_INTEGERS),
    Row("Mish", normal(3, 5), (True,), variant=True),
    Row(
        "GLU",
        normal(3, 4),
        bad=(
            Bad(RuntimeError, "Halving dimension must be even, but dimension 0 is size 3", inputs=(zeros(3),)),
            Bad(RuntimeError, "glu does not support scalars", inputs=(zeros(),)),
            Bad(NotImplementedError, "not implemented for 'int32'", inputs=(zeros(4, dtype=np.int32),)),
        ),
    ),
    Row(
        "GLU",
        normal(2, 4, 3),
        (1,),
        variant=True,
        bad=(Bad(IndexError, "but got 1", inputs=(zeros(4),)),),
    ),
    Row("Softplus", normal(3, 5), bad=_INTEGERS),
    Row("Softplus", normal(3, 5), (2.0, 1.0), variant=True),
    Row("LogSigmoid", normal(3, 5), bad=_INTEGERS),
    Row("Softsign", normal(3, 5), bad=(Bad(NotImplementedError, "'bool'", inputs=(_BOOL,)),)),
    Row("Tanh", normal(3, 5)),
    Row("Sigmoid", normal(3, 5)),
    Row(
        "Softmax",
        normal(3, 5),
        (1,),
        bad=(
            Bad(IndexError, "but got 1", inputs=(zeros(3),)),
            Bad(NotImplementedError, "not implemented for 'int32'", inputs=(zeros(3, 5, dtype=np.int32),)),
        ),
    ),
    Row("Softmax", normal(2, 3, 4), kwargs={"dim": -2}, variant=True),
    Row("LogSoftmax", normal(3, 5), (1,), bad=(Bad(IndexError, "but got 1", inputs=(zeros(3),)),)),
    Row(
        "Softmin",
        normal(3, 5),
        (1,),
        bad=(
            Bad(IndexError, "but got 1", inputs=(zeros(3),)),
            Bad(RuntimeError, "Negation", inputs=(zeros(2, 2, dtype=np.bool_),)),
        ),
    ),
    Row(
        "Softmax2d",
        normal(2, 3, 2, 2),
        bad=(Bad(ValueError, "expected input to be 3D or 4D, got 2D", inputs=(zeros(2, 3),)),),
    ),
]
STATEFUL = [row for row in ROWS if row.layer == "PReLU"]

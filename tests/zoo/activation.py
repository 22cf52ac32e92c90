"""Activations."""

import numpy as np

from tests.zoo.row import Bad, Row, normal, zeros

ROWS = [
    Row("ReLU", normal(3, 5)),
    Row("ReLU", normal(3, 5), (True,)),
    Row(
        "GELU",
        normal(3, 5),
        bad=(Bad(NotImplementedError, "not implemented for 'int32'", inputs=(zeros(3, dtype=np.int32),)),),
    ),
    Row("GELU", normal(3, 5), kwargs={"approximate": "tanh"}),
    Row("SiLU", normal(3, 5)),
    Row("SiLU", normal(3, 5), (True,)),
    Row("Tanh", normal(3, 5)),
    Row("Sigmoid", normal(3, 5)),
    Row("Softmax", normal(3, 5), (1,), bad=(Bad(IndexError, "but got 1", inputs=(zeros(3),)),)),
    Row("Softmax", normal(2, 3, 4), kwargs={"dim": -2}),
    Row("LogSoftmax", normal(3, 5), (1,), bad=(Bad(IndexError, "but got 1", inputs=(zeros(3),)),)),
]

"""Embeddings."""

import numpy as np

from tests.zoo.row import Bad, Row, indices, zeros

ROWS = [
    Row(
        "Embedding",
        indices(7, 2, 4),
        (7, 3),
        bad=(
            Bad(IndexError, "index out of range in self", inputs=(zeros(2, dtype=np.int32) + 7,)),
            Bad(RuntimeError, "integer scalar type; but got float32", inputs=(zeros(2),)),
            Bad(AssertionError, "Padding_idx must be within num_embeddings", (7, 3, 7)),
            Bad(AssertionError, "Shape of weight does not match", (7, 3), {"_weight": zeros(6, 3)}),
            Bad(ValueError, "Use sparse=False", (7, 3), {"sparse": True}, torch_raises=False),
        ),
    ),
    Row("Embedding", indices(7, 2, 4), (7, 3), {"padding_idx": -5}),
    Row("Embedding", indices(7, 2, 4), (7, 3), {"max_norm": 1.0, "norm_type": 1.0}),
    Row("Embedding", indices(7, 20), (7, 3), {"scale_grad_by_freq": True, "padding_idx": 1}),
]
STATEFUL = ROWS

"""Pure functions of arrays under torch's names and defaults: `from jaxmodule.nn import functional as F`.

Each takes boxes (`nn.Parameter`, `nn.Buffer`), JAX and numpy arrays alike, and knows nothing of modules.
"""

from .activation import gelu, log_softmax, relu, sigmoid, silu, softmax, tanh
from .conv import conv1d, conv2d, conv3d
from .dropout import dropout
from .embedding import embedding
from .linear import linear
from .loss import binary_cross_entropy_with_logits, cross_entropy, mse_loss, nll_loss
from .norm import batch_norm, group_norm, layer_norm
from .pooling import adaptive_avg_pool2d, avg_pool2d, max_pool2d

__all__ = [
    "adaptive_avg_pool2d",
    "avg_pool2d",
    "batch_norm",
    "binary_cross_entropy_with_logits",
    "conv1d",
    "conv2d",
    "conv3d",
    "cross_entropy",
    "dropout",
    "embedding",
    "gelu",
    "group_norm",
    "layer_norm",
    "linear",
    "log_softmax",
    "max_pool2d",
    "mse_loss",
    "nll_loss",
    "relu",
    "sigmoid",
    "silu",
    "softmax",
    "tanh",
]

"""Pure functions of arrays under torch's names and defaults: `from jaxmodule.nn import functional as F`.

Each takes boxes (`nn.Parameter`, `nn.Buffer`), JAX and numpy arrays alike, and knows nothing of modules.
"""

# The names with an underscore are torch's own helpers, which ports of its code call.
from ._attention_masks import _canonical_mask  # noqa: F401
from ._multi_head import _in_projection, _in_projection_packed  # noqa: F401
from .activation import gelu, glu, logsigmoid, mish, sigmoid, silu, softplus, softsign, tanh
from .adaptive_pooling import (
    adaptive_avg_pool1d,
    adaptive_avg_pool2d,
    adaptive_avg_pool3d,
    adaptive_max_pool1d,
    adaptive_max_pool2d,
    adaptive_max_pool3d,
)
from .attention import scaled_dot_product_attention
from .avg_pooling import avg_pool1d, avg_pool2d, avg_pool3d
from .batchnorm import _verify_batch_size, batch_norm  # noqa: F401
from .conv import conv1d, conv2d, conv3d, conv_tbc
from .conv_transpose import conv_transpose1d, conv_transpose2d, conv_transpose3d
from .distance import cosine_similarity, normalize, one_hot, pairwise_distance, pdist
from .dropout import alpha_dropout, dropout, dropout1d, dropout2d, dropout3d, feature_alpha_dropout
from .elu import celu, celu_, elu, elu_, selu, selu_
from .embedding import embedding
from .embedding_bag import embedding_bag
from .fold import fold, unfold
from .fractional_pooling import fractional_max_pool2d, fractional_max_pool3d
from .grouped_mm import grouped_mm
from .instancenorm import instance_norm
from .leaky import leaky_relu, leaky_relu_, prelu, rrelu, rrelu_
from .linear import bilinear, linear
from .local_response import local_response_norm
from .loss import cross_entropy, nll_loss
from .loss_binary import (
    binary_cross_entropy,
    binary_cross_entropy_with_logits,
    multilabel_soft_margin_loss,
    soft_margin_loss,
)
from .loss_ctc import ctc_loss
from .loss_embedding import cosine_embedding_loss, triplet_margin_loss, triplet_margin_with_distance_loss
from .loss_likelihood import gaussian_nll_loss, kl_div, poisson_nll_loss
from .loss_linear_cross_entropy import linear_cross_entropy
from .loss_margin import hinge_embedding_loss, margin_ranking_loss, multi_margin_loss, multilabel_margin_loss
from .loss_regression import huber_loss, l1_loss, mse_loss, smooth_l1_loss
from .lp_pooling import lp_pool1d, lp_pool2d, lp_pool3d
from .max_pooling import max_pool1d, max_pool2d, max_pool3d
from .multi_head_attention import _mha_shape_check, multi_head_attention_forward  # noqa: F401
from .norm import group_norm, layer_norm, rms_norm
from .padding import pad
from .pixelshuffle import channel_shuffle, native_channel_shuffle, pixel_shuffle, pixel_unshuffle
from .pooling_with_indices import (
    adaptive_max_pool1d_with_indices,
    adaptive_max_pool2d_with_indices,
    adaptive_max_pool3d_with_indices,
    fractional_max_pool2d_with_indices,
    fractional_max_pool3d_with_indices,
    max_pool1d_with_indices,
    max_pool2d_with_indices,
    max_pool3d_with_indices,
)
from .scaled_mm import ScalingType, SwizzleType, scaled_grouped_mm, scaled_mm
from .shrinkage import hardshrink, softshrink, tanhshrink
from .softmax import _get_softmax_dim, gumbel_softmax, log_softmax, softmax, softmin  # noqa: F401
from .threshold import hardsigmoid, hardswish, hardtanh, hardtanh_, relu, relu6, relu_, threshold, threshold_
from .unpooling import max_unpool1d, max_unpool2d, max_unpool3d
from .upsampling import interpolate, upsample, upsample_bilinear, upsample_nearest
from .vision import affine_grid, grid_sample

__all__ = [
    "ScalingType",
    "SwizzleType",
    "adaptive_avg_pool1d",
    "adaptive_avg_pool2d",
    "adaptive_avg_pool3d",
    "adaptive_max_pool1d",
    "adaptive_max_pool1d_with_indices",
    "adaptive_max_pool2d",
    "adaptive_max_pool2d_with_indices",
    "adaptive_max_pool3d",
    "adaptive_max_pool3d_with_indices",
    "affine_grid",
    "alpha_dropout",
    "avg_pool1d",
    "avg_pool2d",
    "avg_pool3d",
    "batch_norm",
    "bilinear",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "celu",
    "celu_",
    "channel_shuffle",
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_tbc",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
    "cosine_embedding_loss",
    "cosine_similarity",
    "cross_entropy",
    "ctc_loss",
    "dropout",
    "dropout1d",
    "dropout2d",
    "dropout3d",
    "elu",
    "elu_",
    "embedding",
    "embedding_bag",
    "feature_alpha_dropout",
    "fold",
    "fractional_max_pool2d",
    "fractional_max_pool2d_with_indices",
    "fractional_max_pool3d",
    "fractional_max_pool3d_with_indices",
    "gaussian_nll_loss",
    "gelu",
    "glu",
    "grid_sample",
    "group_norm",
    "grouped_mm",
    "gumbel_softmax",
    "hardshrink",
    "hardsigmoid",
    "hardswish",
    "hardtanh",
    "hardtanh_",
    "hinge_embedding_loss",
    "huber_loss",
    "instance_norm",
    "interpolate",
    "kl_div",
    "l1_loss",
    "layer_norm",
    "leaky_relu",
    "leaky_relu_",
    "linear",
    "linear_cross_entropy",
    "local_response_norm",
    "log_softmax",
    "logsigmoid",
    "lp_pool1d",
    "lp_pool2d",
    "lp_pool3d",
    "margin_ranking_loss",
    "max_pool1d",
    "max_pool1d_with_indices",
    "max_pool2d",
    "max_pool2d_with_indices",
    "max_pool3d",
    "max_pool3d_with_indices",
    "max_unpool1d",
    "max_unpool2d",
    "max_unpool3d",
    "mish",
    "mse_loss",
    "multi_head_attention_forward",
    "multi_margin_loss",
    "multilabel_margin_loss",
    "multilabel_soft_margin_loss",
    "native_channel_shuffle",
    "nll_loss",
    "normalize",
    "one_hot",
    "pad",
    "pairwise_distance",
    "pdist",
    "pixel_shuffle",
    "pixel_unshuffle",
    "poisson_nll_loss",
    "prelu",
    "relu",
    "relu6",
    "relu_",
    "rms_norm",
    "rrelu",
    "rrelu_",
    "scaled_dot_product_attention",
    "scaled_grouped_mm",
    "scaled_mm",
    "selu",
    "selu_",
    "sigmoid",
    "silu",
    "smooth_l1_loss",
    "soft_margin_loss",
    "softmax",
    "softmin",
    "softplus",
    "softshrink",
    "softsign",
    "tanh",
    "tanhshrink",
    "threshold",
    "threshold_",
    "triplet_margin_loss",
    "triplet_margin_with_distance_loss",
    "unfold",
    "upsample",
    "upsample_bilinear",
    "upsample_nearest",
]

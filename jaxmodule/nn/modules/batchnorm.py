"""Batch normalisation: one implementation, three ranks of input, and one over several devices."""

from __future__ import annotations

from ._lazy_bases import _LazyNormBase
from ._norm_base import _BatchNorm, _NormBase  # noqa: F401  (torch has them here)
from ._sync_batchnorm import SyncBatchNorm

__all__ = [
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "LazyBatchNorm1d",
    "LazyBatchNorm2d",
    "LazyBatchNorm3d",
    "SyncBatchNorm",
]


class BatchNorm1d(_BatchNorm):
    """`(x - mean) / sqrt(var + eps) * weight + bias` for each channel over a batch (Ioffe and Szegedy, 2015).

    Args:
        num_features: the number of channels `C`.
        eps: added to the variance.
        momentum: how far the running statistics move towards a batch's; None for the average of all batches.
        affine: whether there is a weight, and a bias.
        track_running_stats: whether to keep running statistics and use them in `eval()`. If not, every batch is
            normalised by its own.
        device: where parameters and buffers live, a device or a sharding.
        dtype: the dtype of parameters and running statistics, float32 by default.
        bias: whether there is a bias, if affine.

    Shape:
        - Input and output: `(N, C)` or `(N, C, L)`.

    Attributes:
        weight: `(C)`, 1 at first, or None.
        bias: `(C)`, 0 at first, or None.
        running_mean: `(C)`, 0 at first, or None.
        running_var: `(C)`, 1 at first, or None: of unbiased variances, where normalisation uses the biased one.
        num_batches_tracked: how many batches they have seen, or None.

    Raises:
        ValueError: on call, the input has another rank, or one value a channel when training.
        RuntimeError: on call, the input has another number of channels, or a dtype that doesn't fit.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> norm = nn.BatchNorm1d(2)
        >>> norm(jnp.array([[1.0, 10.0], [3.0, 30.0]])).round(3).tolist()
        [[-1.0, -1.0], [1.0, 1.0]]
        >>> [round(x, 3) for x in norm.running_mean.tolist()]
        [0.2, 2.0]
    """

    _ranks = (2, 3)


class BatchNorm2d(_BatchNorm):
    """Batch normalisation of images: `BatchNorm1d`, over the two spatial dimensions too.

    Args:
        num_features: the number of channels `C`.
        eps: added to the variance.
        momentum: how far the running statistics move towards a batch's; None for the average of all batches.
        affine: whether there is a weight, and a bias.
        track_running_stats: whether to keep running statistics and use them in `eval()`.
        device: where parameters and buffers live, a device or a sharding.
        dtype: the dtype of parameters and running statistics, float32 by default.
        bias: whether there is a bias, if affine.

    Shape:
        - Input and output: `(N, C, H, W)`.

    Attributes:
        weight: `(C)`, 1 at first, or None; `bias`, `running_mean`, `running_var` and `num_batches_tracked` as in
            `BatchNorm1d`.

    Raises:
        ValueError: on call, the input has another rank, or one value a channel when training.
        RuntimeError: on call, the input has another number of channels, or a dtype that doesn't fit.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> nn.BatchNorm2d(3)(jnp.ones((2, 3, 4, 4))).shape
        (2, 3, 4, 4)
    """

    _ranks = (4,)


class BatchNorm3d(_BatchNorm):
    """Batch normalisation of volumes: `BatchNorm1d`, over the three spatial dimensions too.

    Args:
        num_features: the number of channels `C`.
        eps: added to the variance.
        momentum: how far the running statistics move towards a batch's; None for the average of all batches.
        affine: whether there is a weight, and a bias.
        track_running_stats: whether to keep running statistics and use them in `eval()`.
        device: where parameters and buffers live, a device or a sharding.
        dtype: the dtype of parameters and running statistics, float32 by default.
        bias: whether there is a bias, if affine.

    Shape:
        - Input and output: `(N, C, D, H, W)`.

    Attributes:
        weight: `(C)`, 1 at first, or None; `bias`, `running_mean`, `running_var` and `num_batches_tracked` as in
            `BatchNorm1d`.

    Raises:
        ValueError: on call, the input has another rank, or one value a channel when training.
        RuntimeError: on call, the input has another number of channels, or a dtype that doesn't fit.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> nn.BatchNorm3d(3)(jnp.ones((2, 3, 4, 4, 4))).shape
        (2, 3, 4, 4, 4)
    """

    _ranks = (5,)


class LazyBatchNorm1d(_LazyNormBase, BatchNorm1d):
    """A `BatchNorm1d` that takes `num_features` from its first input, and then is a `BatchNorm1d`.

    Args: those of `BatchNorm1d` without `num_features`.

    Attributes:
        weight, bias, running_mean, running_var: as of `BatchNorm1d`; uninitialised before the first call.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> layer = nn.LazyBatchNorm1d()
        >>> layer(jnp.ones((2, 3, 8))).shape, layer.num_features
        ((2, 3, 8), 3)
    """

    cls_to_become = BatchNorm1d


class LazyBatchNorm2d(_LazyNormBase, BatchNorm2d):
    """A `BatchNorm2d` that takes `num_features` from its first input, and then is a `BatchNorm2d`.

    Args: those of `BatchNorm2d` without `num_features`.

    Attributes:
        weight, bias, running_mean, running_var: as of `BatchNorm2d`; uninitialised before the first call.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> layer = nn.LazyBatchNorm2d()
        >>> layer(jnp.ones((2, 3, 8, 8))).shape, layer.num_features
        ((2, 3, 8, 8), 3)
    """

    cls_to_become = BatchNorm2d


class LazyBatchNorm3d(_LazyNormBase, BatchNorm3d):
    """A `BatchNorm3d` that takes `num_features` from its first input, and then is a `BatchNorm3d`.

    Args: those of `BatchNorm3d` without `num_features`.

    Attributes:
        weight, bias, running_mean, running_var: as of `BatchNorm3d`; uninitialised before the first call.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> layer = nn.LazyBatchNorm3d()
        >>> layer(jnp.ones((2, 3, 8, 8, 8))).shape, layer.num_features
        ((2, 3, 8, 8, 8), 3)
    """

    cls_to_become = BatchNorm3d

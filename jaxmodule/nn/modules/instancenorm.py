"""Instance normalisation: one implementation, three ranks of input."""

from __future__ import annotations

import warnings
from collections.abc import MutableMapping
from typing import Any, ClassVar

import jax
from jax.typing import DTypeLike

from ...core.box import unbox
from .. import functional as F
from ..functional._common import ArrayLike
from ._lazy_bases import _LazyNormBase
from ._norm_base import _NormBase
from .utils import Placement

__all__ = [
    "InstanceNorm1d",
    "InstanceNorm2d",
    "InstanceNorm3d",
    "LazyInstanceNorm1d",
    "LazyInstanceNorm2d",
    "LazyInstanceNorm3d",
]


class _InstanceNorm(_NormBase):
    """Instance normalisation of inputs of `_no_batch` dimensions, or one more."""

    _no_batch: ClassVar[int]

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = False,
        track_running_stats: bool = False,
        device: Placement | None = None,
        dtype: DTypeLike | None = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype, bias=bias)

    def _check_input_dim(self, input: jax.Array) -> None:
        if input.ndim not in (self._no_batch, self._no_batch + 1):
            raise ValueError(
                f"expected {self._no_batch}D or {self._no_batch + 1}D input "
                f"(got {input.ndim}D input of size {list(input.shape)})"
            )

    def forward(self, input: ArrayLike) -> jax.Array:
        """Normalise each sample; when training, move the running statistics towards the batch's."""
        x = unbox(input)
        self._check_input_dim(x)
        dim = x.ndim - self._no_batch
        if x.shape[dim] != self.num_features:
            if self.affine:
                raise ValueError(
                    f"expected input's size at dim={dim} to match num_features ({self.num_features}), "
                    f"but got: {x.shape[dim]}, in an input of size {list(x.shape)}."
                )
            message = (
                f"input's size at dim={dim} does not match num_features. You can silence this warning by not passing "
                "in num_features, which is not used because affine=False"
            )
            warnings.warn(message, UserWarning, stacklevel=3)
        y = F.instance_norm(
            x if dim else x[None],
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            self.training or not self.track_running_stats,
            0.0 if self.momentum is None else self.momentum,
            self.eps,
        )
        return y if dim else y[0]

    def _load_from_state_dict(
        self,
        state_dict: MutableMapping[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        version = local_metadata.get("version")
        if (version is None or version < 2) and not self.track_running_stats:
            names = [prefix + name for name in ("running_mean", "running_var") if prefix + name in state_dict]
            if names:
                kind = type(self).__name__
                error_msgs.append(
                    f"Unexpected running stats buffer(s) {' and '.join(f'{name!r}' for name in names)} for {kind} with "
                    "track_running_stats=False. A file from before torch 0.4.0 has them, because running statistics "
                    "were the default then: please remove these keys from state_dict, or set track_running_stats=True "
                    f"in {kind} if they are needed."
                )
                for name in names:
                    del state_dict[name]
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )


class InstanceNorm1d(_InstanceNorm):
    """`(x - mean) / sqrt(var + eps) * weight + bias` for each channel of each sample (Ulyanov et al., 2016).

    Args:
        num_features: the number of channels `C`.
        eps: added to the (biased) variance.
        momentum: how far the running statistics move towards a batch's.
        affine: whether there is a weight, and a bias.
        track_running_stats: whether to keep running statistics and use them in `eval()`. If not, every sample is
            normalised by its own.
        device: where parameters and buffers live, a device or a sharding.
        dtype: the dtype of parameters and running statistics, float32 by default.
        bias: whether there is a bias, if affine.

    Shape:
        - Input and output: `(N, C, L)` or `(C, L)`.

    Attributes:
        weight: `(C)`, 1 at first, or None.
        bias: `(C)`, 0 at first, or None.
        running_mean: `(C)`, 0 at first, or None: of the samples' means.
        running_var: `(C)`, 1 at first, or None: of the samples' unbiased variances.
        num_batches_tracked: 0, or None: torch doesn't count here.

    Raises:
        ValueError: on call, the input has another rank, another number of channels (if affine), or one value a channel.
        RuntimeError: on call, the running statistics are of another number of channels, or a dtype doesn't fit.

    Note:
        Without parameters and statistics a wrong number of channels is only a warning, as in torch.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> nn.InstanceNorm1d(2)(jnp.array([[1.0, 3.0], [10.0, 30.0]])).round(3).tolist()
        [[-1.0, 1.0], [-1.0, 1.0]]
    """

    _no_batch = 2


class InstanceNorm2d(_InstanceNorm):
    """Instance normalisation of images: `InstanceNorm1d`, over the two spatial dimensions.

    Args:
        num_features: the number of channels `C`.
        eps: added to the (biased) variance.
        momentum: how far the running statistics move towards a batch's.
        affine: whether there is a weight, and a bias.
        track_running_stats: whether to keep running statistics and use them in `eval()`.
        device: where parameters and buffers live, a device or a sharding.
        dtype: the dtype of parameters and running statistics, float32 by default.
        bias: whether there is a bias, if affine.

    Shape:
        - Input and output: `(N, C, H, W)` or `(C, H, W)`.

    Attributes:
        weight: `(C)`, 1 at first, or None; `bias`, `running_mean`, `running_var` and `num_batches_tracked` as in
            `InstanceNorm1d`.

    Raises:
        ValueError: on call, the input has another rank, another number of channels (if affine), or one value a channel.
        RuntimeError: on call, the running statistics are of another number of channels, or a dtype doesn't fit.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> nn.InstanceNorm2d(3)(jnp.ones((2, 3, 4, 4))).shape
        (2, 3, 4, 4)
    """

    _no_batch = 3


class InstanceNorm3d(_InstanceNorm):
    """Instance normalisation of volumes: `InstanceNorm1d`, over the three spatial dimensions.

    Args:
        num_features: the number of channels `C`.
        eps: added to the (biased) variance.
        momentum: how far the running statistics move towards a batch's.
        affine: whether there is a weight, and a bias.
        track_running_stats: whether to keep running statistics and use them in `eval()`.
        device: where parameters and buffers live, a device or a sharding.
        dtype: the dtype of parameters and running statistics, float32 by default.
        bias: whether there is a bias, if affine.

    Shape:
        - Input and output: `(N, C, D, H, W)` or `(C, D, H, W)`.

    Attributes:
        weight: `(C)`, 1 at first, or None; `bias`, `running_mean`, `running_var` and `num_batches_tracked` as in
            `InstanceNorm1d`.

    Raises:
        ValueError: on call, the input has another rank, another number of channels (if affine), or one value a channel.
        RuntimeError: on call, the running statistics are of another number of channels, or a dtype doesn't fit.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> nn.InstanceNorm3d(3)(jnp.ones((2, 3, 2, 4, 4))).shape
        (2, 3, 2, 4, 4)
    """

    _no_batch = 4


class LazyInstanceNorm1d(_LazyNormBase, InstanceNorm1d):
    """An `InstanceNorm1d` that takes `num_features` from its first input, and then is an `InstanceNorm1d`.

    Args: those of `InstanceNorm1d` without `num_features`, with `affine` and `track_running_stats` on by default.

    Attributes:
        weight, bias, running_mean, running_var: as of `InstanceNorm1d`; uninitialised before the first call.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> layer = nn.LazyInstanceNorm1d()
        >>> layer(jnp.ones((2, 3, 8))).shape, layer.num_features
        ((2, 3, 8), 3)
    """

    cls_to_become = InstanceNorm1d


class LazyInstanceNorm2d(_LazyNormBase, InstanceNorm2d):
    """An `InstanceNorm2d` that takes `num_features` from its first input, and then is an `InstanceNorm2d`.

    Args: those of `InstanceNorm2d` without `num_features`, with `affine` and `track_running_stats` on by default.

    Attributes:
        weight, bias, running_mean, running_var: as of `InstanceNorm2d`; uninitialised before the first call.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> layer = nn.LazyInstanceNorm2d()
        >>> layer(jnp.ones((2, 3, 8, 8))).shape, layer.num_features
        ((2, 3, 8, 8), 3)
    """

    cls_to_become = InstanceNorm2d


class LazyInstanceNorm3d(_LazyNormBase, InstanceNorm3d):
    """An `InstanceNorm3d` that takes `num_features` from its first input, and then is an `InstanceNorm3d`.

    Args: those of `InstanceNorm3d` without `num_features`, with `affine` and `track_running_stats` on by default.

    Attributes:
        weight, bias, running_mean, running_var: as of `InstanceNorm3d`; uninitialised before the first call.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> layer = nn.LazyInstanceNorm3d()
        >>> layer(jnp.ones((2, 3, 8, 8, 8))).shape, layer.num_features
        ((2, 3, 8, 8, 8), 3)
    """

    cls_to_become = InstanceNorm3d

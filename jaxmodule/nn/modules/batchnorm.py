"""Batch normalisation: one implementation, three ranks of input."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from ...core.box import unbox
from .. import functional as F
from .. import init
from ..functional._common import ArrayLike
from ..module import Module
from ..parameter import Buffer, Parameter
from .utils import DEFAULT_DTYPE, Placement, empty_parameter

__all__ = ["BatchNorm1d", "BatchNorm2d", "BatchNorm3d"]


class _BatchNorm(Module):
    _version = 2  # torch's: since 2 there is num_batches_tracked
    _ranks: ClassVar[tuple[int, ...]]
    weight: Parameter | None
    bias: Parameter | None
    running_mean: Buffer | None
    running_var: Buffer | None
    num_batches_tracked: Buffer | None

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Placement | None = None,
        dtype: DTypeLike | None = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.num_features = num_features
        self.eps = eps
        self.momentum = momentum
        self.affine = affine
        self.track_running_stats = track_running_stats
        for name, wanted in (("weight", affine), ("bias", affine and bias)):
            self.register_parameter(name, empty_parameter((num_features,), device, dtype) if wanted else None)
        statistics: dict[str, jax.Array | None] = dict.fromkeys(("running_mean", "running_var", "num_batches_tracked"))
        if track_running_stats:
            kind = DEFAULT_DTYPE if dtype is None else dtype
            statistics["running_mean"] = jnp.zeros(num_features, kind, device=device)
            statistics["running_var"] = jnp.ones(num_features, kind, device=device)
            statistics["num_batches_tracked"] = jnp.zeros((), int, device=device)
        for name, value in statistics.items():
            self.register_buffer(name, value)
        self.reset_parameters()

    def reset_running_stats(self) -> None:
        """Forget the batches seen: mean 0, variance 1, count 0."""
        for box, fill in (
            (self.running_mean, init.zeros_),
            (self.running_var, init.ones_),
            (self.num_batches_tracked, init.zeros_),
        ):
            if box is not None:
                fill(box)

    def reset_parameters(self) -> None:
        """Weight 1, bias 0, and no batches seen."""
        self.reset_running_stats()
        if self.weight is not None:
            init.ones_(self.weight)
        if self.bias is not None:
            init.zeros_(self.bias)

    def _check_input_dim(self, input: jax.Array) -> None:
        if input.ndim not in self._ranks:
            expected = " or ".join(f"{rank}D" for rank in self._ranks)
            raise ValueError(f"expected {expected} input (got {input.ndim}D input of size {list(input.shape)})")

    def forward(self, input: ArrayLike) -> jax.Array:
        """Normalise the batch; when training, move the running statistics towards its own."""
        x = unbox(input)
        self._check_input_dim(x)
        tracked = self.num_batches_tracked if self.training and self.track_running_stats else None
        count = None if tracked is None else tracked.value + 1
        momentum: float | jax.Array = 0.0 if self.momentum is None else self.momentum
        if self.momentum is None and count is not None:
            momentum = 1.0 / count.astype(jnp.float32)  # the plain average of all batches so far
        mean, var = self.running_mean, self.running_var
        by_batch = self.training or (mean is None and var is None)
        if self.training and not self.track_running_stats:
            mean = var = None
        y = F.batch_norm(x, mean, var, self.weight, self.bias, by_batch, momentum, self.eps)
        if tracked is not None:
            tracked.value = count
        return y

    def extra_repr(self) -> str:
        """The constructor's arguments."""
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}, "
            f"bias={self.bias is not None}, track_running_stats={self.track_running_stats}"
        )

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
        key = prefix + "num_batches_tracked"
        if (version is None or version < 2) and self.num_batches_tracked is not None and key not in state_dict:
            # A file from before version 2: the count stays what it is.
            state_dict[key] = self.num_batches_tracked.value
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )


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

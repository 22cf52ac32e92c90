"""What the layers with running statistics share, and batch normalisation itself."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any, ClassVar

import jax
from jax.typing import DTypeLike

from ...core.box import unbox
from .. import functional as F
from .. import init
from ..functional._common import ArrayLike
from ..module import Module
from ..parameter import Buffer, Parameter
from .utils import Placement, empty_parameter, filled_buffer


class _NormBase(Module):
    """Affine parameters and running statistics of `num_features` channels."""

    _version = 2  # torch's: since 2 there is num_batches_tracked
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
        statistics = (
            ("running_mean", (num_features,), 0, dtype),
            ("running_var", (num_features,), 1, dtype),
            ("num_batches_tracked", (), 0, int),
        )
        for name, shape, value, kind in statistics:
            self.register_buffer(name, filled_buffer(shape, value, device, kind) if track_running_stats else None)
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


class _BatchNorm(_NormBase):
    """Batch normalisation of inputs of `_ranks` dimensions."""

    _ranks: ClassVar[tuple[int, ...]]

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
            momentum = 1.0 / count.astype(float)  # the plain average of all batches so far
        mean, var = self.running_mean, self.running_var
        by_batch = self.training or (mean is None and var is None)
        if self.training and not self.track_running_stats:
            mean = var = None
        y = self._normalize(x, mean, var, by_batch, momentum)
        if tracked is not None:
            tracked.value = count
        return y

    def _normalize(
        self, x: jax.Array, mean: Buffer | None, var: Buffer | None, by_batch: bool, momentum: float | jax.Array
    ) -> jax.Array:
        return F.batch_norm(x, mean, var, self.weight, self.bias, by_batch, momentum, self.eps)

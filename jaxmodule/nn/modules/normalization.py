"""Normalisation that doesn't look across the batch."""

from __future__ import annotations

from collections.abc import Sequence

import jax
from jax.typing import DTypeLike

from .. import functional as F
from .. import init
from ..functional._common import ArrayLike
from ..functional.local_response import cross_map_lrn2d
from ..module import Module
from ..parameter import Parameter
from .utils import Placement, empty_parameter

__all__ = ["CrossMapLRN2d", "GroupNorm", "LayerNorm", "LocalResponseNorm", "RMSNorm"]


class LayerNorm(Module):
    """`(x - mean) / sqrt(var + eps) * weight + bias` over the trailing dimensions (Ba, Kiros and Hinton, 2016).

    Args:
        normalized_shape: the trailing dimensions, or the size of the last one.
        eps: added to the (biased) variance.
        elementwise_affine: whether there is a weight, and a bias.
        bias: whether there is a bias, if affine.
        device: where the parameters live, a device or a sharding.
        dtype: the parameters' dtype, float32 by default.

    Shape:
        - Input and output: `(*, *normalized_shape)`.

    Attributes:
        weight: `normalized_shape`, 1 at first, or None.
        bias: `normalized_shape`, 0 at first, or None.

    Raises:
        RuntimeError: on call, the input's trailing dimensions differ, or its dtype doesn't fit.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> nn.LayerNorm(2)(jnp.array([[1.0, 3.0]])).round(3).tolist()
        [[-1.0, 1.0]]
    """

    weight: Parameter | None
    bias: Parameter | None

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        device: Placement | None = None,
        dtype: DTypeLike | None = None,
    ) -> None:
        super().__init__()
        shape = tuple(normalized_shape) if isinstance(normalized_shape, Sequence) else (int(normalized_shape),)
        self.normalized_shape = shape
        self.eps = eps
        self.elementwise_affine = elementwise_affine
        for name, wanted in (("weight", elementwise_affine), ("bias", elementwise_affine and bias)):
            self.register_parameter(name, empty_parameter(shape, device, dtype) if wanted else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Weight 1, bias 0."""
        if self.weight is not None:
            init.ones_(self.weight)
        if self.bias is not None:
            init.zeros_(self.bias)

    def forward(self, input: ArrayLike) -> jax.Array:
        """Normalise the trailing dimensions."""
        return F.layer_norm(input, self.normalized_shape, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        """The constructor's arguments."""
        return (
            f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}, "
            f"bias={self.bias is not None}"
        )


class GroupNorm(Module):
    """`(x - mean) / sqrt(var + eps) * weight + bias` in each group of channels of each sample (Wu and He, 2018).

    Args:
        num_groups: into how many groups of neighbours the channels are split.
        num_channels: the number of channels `C`.
        eps: added to the (biased) variance.
        affine: whether there is a weight, and a bias.
        device: where the parameters live, a device or a sharding.
        dtype: the parameters' dtype, float32 by default.
        bias: whether there is a bias, if affine.

    Shape:
        - Input and output: `(N, C, *)`.

    Attributes:
        weight: `(C)`, 1 at first, or None.
        bias: `(C)`, 0 at first, or None.

    Raises:
        ValueError: `num_groups` doesn't divide `num_channels`.
        RuntimeError: on call, the input has another number of channels, or a dtype that doesn't fit.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> nn.GroupNorm(3, 6)(jnp.ones((20, 6, 10, 10))).shape
        (20, 6, 10, 10)
    """

    weight: Parameter | None
    bias: Parameter | None

    def __init__(
        self,
        num_groups: int,
        num_channels: int,
        eps: float = 1e-5,
        affine: bool = True,
        device: Placement | None = None,
        dtype: DTypeLike | None = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__()
        if num_groups <= 0 or num_channels % num_groups:
            raise ValueError(f"num_channels ({num_channels}) must be divisible by num_groups ({num_groups})")
        self.num_groups = num_groups
        self.num_channels = num_channels
        self.eps = eps
        self.affine = affine
        for name, wanted in (("weight", affine), ("bias", affine and bias)):
            self.register_parameter(name, empty_parameter((num_channels,), device, dtype) if wanted else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Weight 1, bias 0."""
        if self.weight is not None:
            init.ones_(self.weight)
        if self.bias is not None:
            init.zeros_(self.bias)

    def forward(self, input: ArrayLike) -> jax.Array:
        """Normalise each group of channels."""
        return F.group_norm(input, self.num_groups, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        """The constructor's arguments."""
        return (
            f"{self.num_groups}, {self.num_channels}, eps={self.eps}, affine={self.affine}, "
            f"bias={self.bias is not None}"
        )


class RMSNorm(Module):
    """`x / sqrt(mean(x^2) + eps) * weight` over the trailing dimensions (Zhang and Sennrich, 2019).

    Args:
        normalized_shape: the trailing dimensions, or the size of the last one.
        eps: added to the mean square. None for the machine epsilon of the dtype it is computed in: the input's,
            float32's for half precision.
        elementwise_affine: whether there is a weight.
        device: where the parameter lives, a device or a sharding.
        dtype: its dtype, float32 by default.

    Shape:
        - Input and output: `(*, *normalized_shape)`.

    Attributes:
        weight: `normalized_shape`, 1 at first, or None.

    Raises:
        RuntimeError: on call, the input's trailing dimensions differ.
        ValueError: on call, the input has fewer dimensions than `normalized_shape`.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> nn.RMSNorm(2)(jnp.array([[3.0, 3.0]])).round(3).tolist()
        [[1.0, 1.0]]
    """

    weight: Parameter | None

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float | None = None,
        elementwise_affine: bool = True,
        device: Placement | None = None,
        dtype: DTypeLike | None = None,
    ) -> None:
        super().__init__()
        shape = tuple(normalized_shape) if isinstance(normalized_shape, Sequence) else (int(normalized_shape),)
        self.normalized_shape = shape
        self.eps = eps
        self.elementwise_affine = elementwise_affine
        self.register_parameter("weight", empty_parameter(shape, device, dtype) if elementwise_affine else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Weight 1."""
        if self.weight is not None:
            init.ones_(self.weight)

    def forward(self, input: ArrayLike) -> jax.Array:
        """Normalise the trailing dimensions."""
        return F.rms_norm(input, self.normalized_shape, self.weight, self.eps)

    def extra_repr(self) -> str:
        """The constructor's arguments."""
        return f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}"


class _ResponseNorm(Module):
    def __init__(self, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1) -> None:
        super().__init__()
        self.size = size
        self.alpha = alpha
        self.beta = beta
        self.k = k

    def extra_repr(self) -> str:
        """The constructor's arguments."""
        return f"{self.size}, alpha={self.alpha}, beta={self.beta}, k={self.k}"


class LocalResponseNorm(_ResponseNorm):
    """`x / (k + alpha mean(x^2))^beta`, the mean over `size` neighbouring channels (Krizhevsky et al., 2012).

    Args:
        size: the number of channels to average over: `size // 2` before the channel, itself, and the rest after it.
            Channels that don't exist count as 0.
        alpha: the weight of the mean.
        beta: the exponent.
        k: what the mean is added to.

    Shape:
        - Input and output: `(N, C, *)`, of at least three dimensions.

    Raises:
        ValueError: on call, the input has fewer than three dimensions.
        RuntimeError: on call, `size` is not positive.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> nn.LocalResponseNorm(1, alpha=1.0, beta=1.0)(jnp.ones((1, 2, 1))).tolist()
        [[[0.5], [0.5]]]
    """

    def __init__(self, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> None:
        super().__init__(size, alpha, beta, k)

    def forward(self, input: ArrayLike) -> jax.Array:
        """Normalise each element by the channels beside its own."""
        return F.local_response_norm(input, self.size, self.alpha, self.beta, self.k)


class CrossMapLRN2d(_ResponseNorm):
    """`x (k + alpha / size sum(x^2))^-beta`, the sum over neighbouring channels, as Torch 7 had it.

    Args:
        size: the number of channels to sum over (one less if it is even), centred on the channel; also the divisor.
        alpha: the weight of the sum.
        beta: the exponent.
        k: what the sum is added to.

    Shape:
        - Input and output: `(N, C, H, W)`.

    Raises:
        ValueError: on call, the input has another rank.
        ZeroDivisionError: on call, `size` is 0.
        RuntimeError: on call, `size` is negative, or the input is not floating-point.

    Note:
        The numbers are torch's, whose sum never leaves out channel 0 again: `LocalResponseNorm` has none of that. The
        gradient is that of these numbers; torch's own is another function's unless every channel sees all, and an
        error for `size=1`.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn.modules.normalization import CrossMapLRN2d
        >>> CrossMapLRN2d(1, alpha=1.0, beta=1.0)(jnp.ones((1, 1, 1, 1))).tolist()
        [[[[0.5]]]]
    """

    def forward(self, input: ArrayLike) -> jax.Array:
        """Normalise each element by the channels beside its own."""
        return cross_map_lrn2d(input, self.size, self.alpha, self.beta, self.k)

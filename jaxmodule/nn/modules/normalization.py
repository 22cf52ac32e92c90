"""Normalisation that doesn't look across the batch."""

from __future__ import annotations

from collections.abc import Sequence

import jax
from jax.typing import DTypeLike

from .. import functional as F
from .. import init
from ..functional._common import ArrayLike
from ..module import Module
from ..parameter import Parameter
from .utils import Placement, empty_parameter

__all__ = ["GroupNorm", "LayerNorm"]


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
        shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
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

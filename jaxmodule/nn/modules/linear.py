"""The identity, the affine and the bilinear map."""

from __future__ import annotations

import math
from typing import Any

import jax
from jax.typing import DTypeLike

from .. import functional as F
from .. import init
from ..functional._common import ArrayLike
from ..module import Module
from ..parameter import Parameter, UninitializedParameter
from .lazy import LazyModuleMixin
from .utils import Placement, empty_parameter

__all__ = ["Bilinear", "Identity", "LazyLinear", "Linear"]


class Identity(Module):
    """Return the input: a placeholder for a layer.

    Args:
        args: anything. Arguments are accepted so that the class can stand in for any other, as in torch.
        kwargs: anything.

    Shape:
        - Input and output: `(*)`.

    Example:
        >>> from jaxmodule import nn
        >>> nn.Identity(54, anything=True)(3)
        3
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()

    def forward(self, input: Any) -> Any:
        """Return `input`."""
        return input


class Linear(Module):
    r"""`y = x A^T + b`.

    Args:
        in_features: the size of the input's last dimension.
        out_features: the size of the output's last dimension.
        bias: whether to add `b`.
        device: where the parameters live, a device or a sharding.
        dtype: the parameters' dtype, float32 by default.

    Shape:
        - Input: `(*, in_features)`.
        - Output: `(*, out_features)`.

    Attributes:
        weight: `A`, `(out_features, in_features)`, from U(-k, k) with `k = in_features ** -0.5`.
        bias: `b`, `(out_features)`, from the same distribution, or None.

    Raises:
        RuntimeError: on call, the input has another number of features or another dtype.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> nn.Linear(20, 30)(jnp.ones((128, 20))).shape
        (128, 30)
    """

    weight: Parameter
    bias: Parameter | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: Placement | None = None,
        dtype: DTypeLike | None = None,
    ) -> None:
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        self.weight = empty_parameter((out_features, in_features), device, dtype)
        if bias:
            self.bias = empty_parameter((out_features,), device, dtype)
        else:
            self.register_parameter("bias", None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the parameters anew."""
        if self.weight.size:
            # With a = sqrt(5) He's bound is 1 / sqrt(fan_in): torch's way of writing LeCun's distribution.
            init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None and self.bias.size:
            bound = 1 / math.sqrt(self.in_features) if self.in_features > 0 else 0.0
            init.uniform_(self.bias, -bound, bound)

    def forward(self, input: ArrayLike) -> jax.Array:
        """Apply the map to the last dimension."""
        return F.linear(input, self.weight, self.bias)

    def extra_repr(self) -> str:
        """The constructor's arguments."""
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


class NonDynamicallyQuantizableLinear(Linear):
    """A `Linear` by another name: the class that torch's repr shows for the `out_proj` of an attention."""


class Bilinear(Module):
    r"""`y_o = x1^T A_o x2 + b_o`.

    Args:
        in1_features: the size of the first input's last dimension, not 0.
        in2_features: the size of the second input's.
        out_features: the size of the output's.
        bias: whether to add `b`.
        device: where the parameters live, a device or a sharding.
        dtype: the parameters' dtype, float32 by default.

    Shape:
        - Input1: `(*, in1_features)`.
        - Input2: `(*, in2_features)`.
        - Output: `(*, out_features)`.

    Attributes:
        weight: `A`, `(out_features, in1_features, in2_features)`, from U(-k, k) with `k = in1_features ** -0.5`.
        bias: `b`, `(out_features)`, from the same distribution, or None.

    Raises:
        ValueError: `in1_features` is 0.
        RuntimeError: on call, the inputs' shapes or dtypes don't go together.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> nn.Bilinear(20, 30, 40)(jnp.ones((128, 20)), jnp.ones((128, 30))).shape
        (128, 40)
    """

    weight: Parameter
    bias: Parameter | None

    def __init__(
        self,
        in1_features: int,
        in2_features: int,
        out_features: int,
        bias: bool = True,
        device: Placement | None = None,
        dtype: DTypeLike | None = None,
    ) -> None:
        super().__init__()
        self.in1_features = in1_features
        self.in2_features = in2_features
        self.out_features = out_features
        self.weight = empty_parameter((out_features, in1_features, in2_features), device, dtype)
        if bias:
            self.bias = empty_parameter((out_features,), device, dtype)
        else:
            self.register_parameter("bias", None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the parameters anew."""
        if self.in1_features <= 0:
            raise ValueError(f"in1_features must be > 0, but got (in1_features={self.in1_features})")
        bound = 1 / math.sqrt(self.weight.shape[1])
        for parameter in (self.weight, self.bias):
            if parameter is not None and parameter.size:
                init.uniform_(parameter, -bound, bound)

    def forward(self, input1: ArrayLike, input2: ArrayLike) -> jax.Array:
        """Apply the map to the last dimensions."""
        return F.bilinear(input1, input2, self.weight, self.bias)

    def extra_repr(self) -> str:
        """The constructor's arguments."""
        return (
            f"in1_features={self.in1_features}, in2_features={self.in2_features}, "
            f"out_features={self.out_features}, bias={self.bias is not None}"
        )


class LazyLinear(LazyModuleMixin, Linear):
    """A `Linear` that takes `in_features` from its first input, and then is a `Linear`.

    Args: those of `Linear` without `in_features`.

    Attributes:
        weight: as of `Linear`; an `nn.UninitializedParameter` before the first call.
        bias: likewise, or None.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> layer = nn.LazyLinear(4)
        >>> layer(jnp.ones((2, 3))).shape
        (2, 4)
        >>> layer
        Linear(in_features=3, out_features=4, bias=True)
    """

    cls_to_become = Linear

    def __init__(
        self,
        out_features: int,
        bias: bool = True,
        device: Placement | None = None,
        dtype: DTypeLike | None = None,
    ) -> None:
        super().__init__(0, 0, False)
        self.out_features = out_features
        self.weight = UninitializedParameter(device=device, dtype=dtype)
        if bias:
            self.bias = UninitializedParameter(device=device, dtype=dtype)

    def initialize_parameters(self, input: ArrayLike) -> None:
        """Make the parameters for the input's last dimension."""
        if self.has_uninitialized_params():
            self.in_features = int(input.shape[-1])
            for box, shape in ((self.weight, (self.out_features, self.in_features)), (self.bias, (self.out_features,))):
                if isinstance(box, UninitializedParameter):
                    box.materialize(shape)
            self.reset_parameters()
        elif not self.in_features:  # a file was loaded
            self.in_features = self.weight.shape[-1]

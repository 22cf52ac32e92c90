"""Rectifiers with a slope below 0 as layers."""

from __future__ import annotations

import jax
from jax.typing import DTypeLike

from .. import functional as F
from .. import init as initializers
from ..functional._common import ArrayLike
from ..module import Module
from ..parameter import Parameter
from ._inplace import InPlace
from .utils import Placement, empty_parameter


class LeakyReLU(InPlace):
    """`max(0, x) + negative_slope min(0, x)` elementwise.

    Args:
        negative_slope: the slope below 0.
        inplace: write the result into the input, if it is a box; an array can't change.

    Shape:
        - Input and output: `(*)`.

    Raises:
        NotImplementedError: on call, the input is not floating-point.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> nn.LeakyReLU(0.5)(jnp.array([-1.0, 2.0])).tolist()
        [-0.5, 2.0]
    """

    def __init__(self, negative_slope: float = 1e-2, inplace: bool = False) -> None:
        super().__init__(inplace)
        self.negative_slope = negative_slope

    def forward(self, input: ArrayLike) -> jax.Array:
        """Apply the function."""
        return F.leaky_relu(input, self.negative_slope, self.inplace)

    def extra_repr(self) -> str:
        """The constructor's arguments."""
        return self._repr_of("negative_slope")


class RReLU(InPlace):
    """`max(0, x) + slope min(0, x)` elementwise, with random slopes when training (Xu et al., 2015).

    When training, each element's slope is drawn from U(lower, upper); in `eval()` it is their mean.

    Args:
        lower: the least slope.
        upper: the greatest slope.
        inplace: write the result into the input, if it is a box; an array can't change.

    Shape:
        - Input and output: `(*)`.

    Raises:
        RuntimeError: on call, `lower` or `upper` is not finite, or `lower` is greater.
        NotImplementedError: on call, the input is not floating-point.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> nn.RReLU(0.25, 0.75).eval()(jnp.array([-1.0, 2.0])).tolist()
        [-0.5, 2.0]
    """

    def __init__(self, lower: float = 1.0 / 8, upper: float = 1.0 / 3, inplace: bool = False) -> None:
        super().__init__(inplace)
        self.lower = lower
        self.upper = upper

    def forward(self, input: ArrayLike) -> jax.Array:
        """Apply the function."""
        return F.rrelu(input, self.lower, self.upper, self.training, self.inplace)

    def extra_repr(self) -> str:
        """The constructor's arguments."""
        return self._repr_of("lower", "upper")


class PReLU(Module):
    """`max(0, x) + weight min(0, x)` elementwise, with a learnt slope for each channel (He et al., 2015).

    Args:
        num_parameters: the number of slopes: 1, or the number of channels `C`.
        init: their first value.
        device: where the parameter lives, a device or a sharding.
        dtype: its dtype, float32 by default.

    Shape:
        - Input and output: `(*)` with one slope, else `(N, C, *)`.

    Attributes:
        weight: `(num_parameters)`, `init` at first.

    Raises:
        RuntimeError: on call, the input has another number of channels, or another dtype than the weight.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> nn.PReLU()(jnp.array([-1.0, 2.0])).tolist()
        [-0.25, 2.0]
    """

    weight: Parameter

    def __init__(
        self,
        num_parameters: int = 1,
        init: float = 0.25,
        device: Placement | None = None,
        dtype: DTypeLike | None = None,
    ) -> None:
        super().__init__()
        self.num_parameters = num_parameters
        self.init = init
        self.weight = empty_parameter((num_parameters,), device, dtype)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Every slope `init`."""
        initializers.constant_(self.weight, self.init)

    def forward(self, input: ArrayLike) -> jax.Array:
        """Apply the function."""
        return F.prelu(input, self.weight)

    def extra_repr(self) -> str:
        """The number of slopes."""
        return f"num_parameters={self.num_parameters}"

"""The softmax family as layers."""

from __future__ import annotations

import jax

from ...core.box import unbox
from .. import functional as F
from ..functional._common import ArrayLike
from ..module import Module


class _AlongDim(Module):
    def __init__(self, dim: int | None = None) -> None:
        super().__init__()
        self.dim = dim

    def extra_repr(self) -> str:
        """The constructor's argument."""
        return f"dim={self.dim}"


class Softmax(_AlongDim):
    """`exp(x_i) / sum_j exp(x_j)` along `dim`.

    Args:
        dim: the dimension that sums to 1. None picks one from the rank, with torch's warning.

    Shape:
        - Input and output: `(*)`.

    Raises:
        IndexError: on call, there is no such dimension.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> nn.Softmax(dim=1)(jnp.zeros((1, 4))).tolist()
        [[0.25, 0.25, 0.25, 0.25]]
    """

    def forward(self, input: ArrayLike) -> jax.Array:
        """Apply the function."""
        return F.softmax(input, self.dim, _stacklevel=5)


class LogSoftmax(_AlongDim):
    """`x_i - log(sum_j exp(x_j))` along `dim`.

    Args:
        dim: the dimension whose exponentials sum to 1. None picks one from the rank, with torch's warning.

    Shape:
        - Input and output: `(*)`.

    Raises:
        IndexError: on call, there is no such dimension.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> nn.LogSoftmax(dim=0)(jnp.zeros(1)).tolist()
        [0.0]
    """

    def forward(self, input: ArrayLike) -> jax.Array:
        """Apply the function."""
        return F.log_softmax(input, self.dim, _stacklevel=5)


class Softmin(_AlongDim):
    """`exp(-x_i) / sum_j exp(-x_j)` along `dim`.

    Args:
        dim: the dimension that sums to 1. None picks one from the rank, with torch's warning.

    Shape:
        - Input and output: `(*)`.

    Raises:
        IndexError: on call, there is no such dimension.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> nn.Softmin(dim=0)(jnp.array([0.0, 1000.0])).tolist()
        [1.0, 0.0]
    """

    def forward(self, input: ArrayLike) -> jax.Array:
        """Apply the function."""
        return F.softmin(input, self.dim, _stacklevel=5)


class Softmax2d(Module):
    """Softmax over the channels of each pixel.

    Shape:
        - Input and output: `(N, C, H, W)` or `(C, H, W)`.

    Raises:
        ValueError: on call, the input has another rank.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> nn.Softmax2d()(jnp.zeros((4, 1, 1))).tolist()
        [[[0.25]], [[0.25]], [[0.25]], [[0.25]]]
    """

    def forward(self, input: ArrayLike) -> jax.Array:
        """Apply the function."""
        x = unbox(input)
        if x.ndim not in (3, 4):
            raise ValueError(f"Softmax2d: expected input to be 3D or 4D, got {x.ndim}D instead (size {list(x.shape)})")
        return F.softmax(x, -3, _stacklevel=5)

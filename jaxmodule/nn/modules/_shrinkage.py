"""Shrinkage as layers."""

from __future__ import annotations

import jax

from .. import functional as F
from ..functional._common import ArrayLike
from ..module import Module


class Hardshrink(Module):
    """0 where `-lambd <= x <= lambd`, elsewhere `x`.

    Args:
        lambd: the half width of what becomes 0.

    Shape:
        - Input and output: `(*)`.

    Raises:
        NotImplementedError: on call, the input is not floating-point.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> nn.Hardshrink()(jnp.array([-1.0, 0.5, 0.75])).tolist()
        [-1.0, 0.0, 0.75]
    """

    def __init__(self, lambd: float = 0.5) -> None:
        super().__init__()
        self.lambd = lambd

    def forward(self, input: ArrayLike) -> jax.Array:
        """Apply the function."""
        return F.hardshrink(input, self.lambd)

    def extra_repr(self) -> str:
        """The constructor's argument."""
        return str(self.lambd)


class Softshrink(Module):
    """0 where `-lambd <= x <= lambd`, elsewhere `x - sign(x) lambd`.

    Args:
        lambd: the half width of what becomes 0, and how far the rest is moved.

    Shape:
        - Input and output: `(*)`.

    Raises:
        RuntimeError: on call, `lambd` is negative.
        NotImplementedError: on call, the input is not floating-point.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> nn.Softshrink()(jnp.array([-1.0, 0.5, 0.75])).tolist()
        [-0.5, 0.0, 0.25]
    """

    def __init__(self, lambd: float = 0.5) -> None:
        super().__init__()
        self.lambd = lambd

    def forward(self, input: ArrayLike) -> jax.Array:
        """Apply the function."""
        return F.softshrink(input, self.lambd)

    def extra_repr(self) -> str:
        """The constructor's argument."""
        return str(self.lambd)


class Tanhshrink(Module):
    """`x - tanh(x)` elementwise; integers give float32.

    Shape:
        - Input and output: `(*)`.

    Raises:
        RuntimeError: on call, the input is boolean.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> float(nn.Tanhshrink()(jnp.array(100.0)))
        99.0
    """

    def forward(self, input: ArrayLike) -> jax.Array:
        """Apply the function."""
        return F.tanhshrink(input)

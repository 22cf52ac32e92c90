"""Exponential linear units as layers."""

from __future__ import annotations

import jax

from .. import functional as F
from ..functional._common import ArrayLike
from ._inplace import InPlace


class ELU(InPlace):
    """`x` above 0, else `alpha (exp(x) - 1)` (Clevert et al., 2015).

    Args:
        alpha: minus the limit below.
        inplace: write the result into the input, if it is a box; an array can't change.

    Shape:
        - Input and output: `(*)`.

    Raises:
        NotImplementedError: on call, the input is not floating-point.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> nn.ELU(alpha=0.5)(jnp.array([-100.0, 2.0])).tolist()
        [-0.5, 2.0]
    """

    def __init__(self, alpha: float = 1.0, inplace: bool = False) -> None:
        super().__init__(inplace)
        self.alpha = alpha

    def forward(self, input: ArrayLike) -> jax.Array:
        """Apply the function."""
        return F.elu(input, self.alpha, self.inplace)

    def extra_repr(self) -> str:
        """The constructor's arguments."""
        return self._repr_of("alpha")


class CELU(InPlace):
    """`max(0, x) + min(0, alpha (exp(x / alpha) - 1))` elementwise (Barron, 2017).

    Args:
        alpha: minus the limit below.
        inplace: write the result into the input, if it is a box; an array can't change.

    Shape:
        - Input and output: `(*)`.

    Raises:
        RuntimeError: on call, `alpha` is 0.
        NotImplementedError: on call, the input is not floating-point.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> nn.CELU(alpha=0.5)(jnp.array([-100.0, 2.0])).tolist()
        [-0.5, 2.0]
    """

    def __init__(self, alpha: float = 1.0, inplace: bool = False) -> None:
        super().__init__(inplace)
        self.alpha = alpha

    def forward(self, input: ArrayLike) -> jax.Array:
        """Apply the function."""
        return F.celu(input, self.alpha, self.inplace)

    def extra_repr(self) -> str:
        """The constructor's arguments."""
        return self._repr_of("alpha")


class SELU(InPlace):
    """`scale elu(x, alpha)` with the constants that keep mean 0 and variance 1 (Klambauer et al., 2017).

    Args:
        inplace: write the result into the input, if it is a box; an array can't change.

    Shape:
        - Input and output: `(*)`.

    Raises:
        NotImplementedError: on call, the input is not floating-point.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> round(float(nn.SELU()(jnp.array(1.0))), 4)
        1.0507
    """

    def forward(self, input: ArrayLike) -> jax.Array:
        """Apply the function."""
        return F.selu(input, self.inplace)

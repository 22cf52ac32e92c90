"""Nonlinearities as layers."""

from __future__ import annotations

import jax

from .. import functional as F
from ..functional._common import ArrayLike
from ..module import Module

__all__ = ["GELU", "LogSoftmax", "ReLU", "SiLU", "Sigmoid", "Softmax", "Tanh"]


class ReLU(Module):
    """`max(0, x)` elementwise.

    Args:
        inplace: for torch's signature. See Note.

    Shape:
        - Input and output: `(*)`.

    Note:
        Arrays are immutable: `inplace` does not change the input, and has no effect on the result.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> nn.ReLU()(jnp.array([-1.0, 2.0])).tolist()
        [0.0, 2.0]
    """

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.inplace = inplace

    def forward(self, input: ArrayLike) -> jax.Array:
        """Apply the function."""
        return F.relu(input, self.inplace)

    def extra_repr(self) -> str:
        """`inplace=True`, or nothing."""
        return "inplace=True" if self.inplace else ""


class SiLU(Module):
    """`x sigmoid(x)` elementwise, also called swish.

    Args:
        inplace: for torch's signature. See Note.

    Shape:
        - Input and output: `(*)`.

    Note:
        Arrays are immutable: `inplace` does not change the input, and has no effect on the result.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> round(float(nn.SiLU()(jnp.array(1.0))), 4)
        0.7311
    """

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.inplace = inplace

    def forward(self, input: ArrayLike) -> jax.Array:
        """Apply the function."""
        return F.silu(input, self.inplace)

    def extra_repr(self) -> str:
        """`inplace=True`, or nothing."""
        return "inplace=True" if self.inplace else ""


class GELU(Module):
    """`x Phi(x)` elementwise, where `Phi` is the normal distribution function (Hendrycks and Gimpel, 2016).

    Args:
        approximate: "none", or "tanh" for `0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))`.

    Shape:
        - Input and output: `(*)`.

    Raises:
        RuntimeError: on call, `approximate` is neither.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> round(float(nn.GELU()(jnp.array(1.0))), 4)
        0.8413
    """

    def __init__(self, approximate: str = "none") -> None:
        super().__init__()
        self.approximate = approximate

    def forward(self, input: ArrayLike) -> jax.Array:
        """Apply the function."""
        return F.gelu(input, approximate=self.approximate)

    def extra_repr(self) -> str:
        """The constructor's argument."""
        return f"approximate={self.approximate!r}"


class Tanh(Module):
    """`tanh(x)` elementwise.

    Shape:
        - Input and output: `(*)`.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> float(nn.Tanh()(jnp.array(0.0)))
        0.0
    """

    def forward(self, input: ArrayLike) -> jax.Array:
        """Apply the function."""
        return F.tanh(input)


class Sigmoid(Module):
    """`1 / (1 + exp(-x))` elementwise.

    Shape:
        - Input and output: `(*)`.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> float(nn.Sigmoid()(jnp.array(0.0)))
        0.5
    """

    def forward(self, input: ArrayLike) -> jax.Array:
        """Apply the function."""
        return F.sigmoid(input)


class Softmax(Module):
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

    def __init__(self, dim: int | None = None) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, input: ArrayLike) -> jax.Array:
        """Apply the function."""
        return F.softmax(input, self.dim, _stacklevel=5)

    def extra_repr(self) -> str:
        """The constructor's argument."""
        return f"dim={self.dim}"


class LogSoftmax(Module):
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

    def __init__(self, dim: int | None = None) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, input: ArrayLike) -> jax.Array:
        """Apply the function."""
        return F.log_softmax(input, self.dim, _stacklevel=5)

    def extra_repr(self) -> str:
        """The constructor's argument."""
        return f"dim={self.dim}"

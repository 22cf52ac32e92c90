"""Smooth nonlinearities as layers."""

from __future__ import annotations

import jax

from .. import functional as F
from ..functional._common import ArrayLike
from ..module import Module
from ._inplace import InPlace


class SiLU(InPlace):
    """`x sigmoid(x)` elementwise, also called swish.

    Args:
        inplace: write the result into the input, if it is a box; an array can't change.

    Shape:
        - Input and output: `(*)`.

    Raises:
        NotImplementedError: on call, the input is integer or boolean.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> round(float(nn.SiLU()(jnp.array(1.0))), 4)
        0.7311
    """

    def forward(self, input: ArrayLike) -> jax.Array:
        """Apply the function."""
        return F.silu(input, self.inplace)


class Mish(InPlace):
    """`x tanh(softplus(x))` elementwise (Misra, 2019).

    Args:
        inplace: write the result into the input, if it is a box; an array can't change.

    Shape:
        - Input and output: `(*)`.

    Raises:
        NotImplementedError: on call, the input is not floating-point.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> round(float(nn.Mish()(jnp.array(1.0))), 4)
        0.8651
    """

    def forward(self, input: ArrayLike) -> jax.Array:
        """Apply the function."""
        return F.mish(input, self.inplace)


class GELU(Module):
    """`x Phi(x)` elementwise, where `Phi` is the normal distribution function (Hendrycks and Gimpel, 2016).

    Args:
        approximate: "none", or "tanh" for `0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))`.

    Shape:
        - Input and output: `(*)`.

    Raises:
        RuntimeError: on call, `approximate` is neither.
        NotImplementedError: on call, the input is not floating-point.

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


class GLU(Module):
    """`a sigmoid(b)`, where `a` and `b` are the halves of the input along `dim` (Dauphin et al., 2016).

    Args:
        dim: the dimension to halve.

    Shape:
        - Input: `(*, 2 M, *)`.
        - Output: `(*, M, *)`.

    Raises:
        RuntimeError: on call, the input is a scalar, or its size along `dim` is odd.
        IndexError: on call, there is no such dimension.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> nn.GLU()(jnp.array([4.0, 0.0])).tolist()
        [2.0]
    """

    def __init__(self, dim: int = -1) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, input: ArrayLike) -> jax.Array:
        """Apply the function."""
        return F.glu(input, self.dim)

    def extra_repr(self) -> str:
        """The constructor's argument."""
        return f"dim={self.dim}"


class Softplus(Module):
    """`log(1 + exp(beta x)) / beta` elementwise, and `x` itself where `beta x` is greater than `threshold`.

    Args:
        beta: how sharply it bends.
        threshold: from where it is taken as linear.

    Shape:
        - Input and output: `(*)`.

    Raises:
        NotImplementedError: on call, the input is not floating-point.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> round(float(nn.Softplus()(jnp.array(0.0))), 4)
        0.6931
    """

    def __init__(self, beta: float = 1.0, threshold: float = 20.0) -> None:
        super().__init__()
        self.beta = beta
        self.threshold = threshold

    def forward(self, input: ArrayLike) -> jax.Array:
        """Apply the function."""
        return F.softplus(input, self.beta, self.threshold)

    def extra_repr(self) -> str:
        """The constructor's arguments."""
        return f"beta={self.beta}, threshold={self.threshold}"


class Tanh(Module):
    """`tanh(x)` elementwise; integers and booleans give float32.

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
    """`1 / (1 + exp(-x))` elementwise; integers and booleans give float32.

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


class LogSigmoid(Module):
    """`log(sigmoid(x))` elementwise, without the underflow.

    Shape:
        - Input and output: `(*)`.

    Raises:
        NotImplementedError: on call, the input is not floating-point.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> float(nn.LogSigmoid()(jnp.array(-1000.0)))
        -1000.0
    """

    def forward(self, input: ArrayLike) -> jax.Array:
        """Apply the function."""
        return F.logsigmoid(input)


class Softsign(Module):
    """`x / (1 + |x|)` elementwise; integers give float32.

    Shape:
        - Input and output: `(*)`.

    Raises:
        NotImplementedError: on call, the input is boolean.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> nn.Softsign()(jnp.array([-1.0, 3.0])).tolist()
        [-0.5, 0.75]
    """

    def forward(self, input: ArrayLike) -> jax.Array:
        """Apply the function."""
        return F.softsign(input)

"""Random zeroing of elements."""

from __future__ import annotations

import jax

from .. import functional as F
from ..functional._common import ArrayLike
from ..module import Module

__all__ = ["Dropout"]


class Dropout(Module):
    """When training, zero each element with probability `p` and scale the others by `1 / (1 - p)`.

    Args:
        p: the probability of zeroing.
        inplace: for torch's signature. See Note.

    Shape:
        - Input and output: `(*)`.

    Raises:
        ValueError: `p` is not in `[0, 1]`.

    Note:
        Arrays are immutable: `inplace` does not change the input, and has no effect on the result.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> sorted(set(nn.Dropout(0.5)(jnp.ones(100)).tolist()))
        [0.0, 2.0]
        >>> nn.Dropout(0.5).eval()(jnp.ones(3)).tolist()
        [1.0, 1.0, 1.0]
    """

    def __init__(self, p: float = 0.5, inplace: bool = False) -> None:
        super().__init__()
        if p < 0 or p > 1:
            raise ValueError(f"dropout probability has to be between 0 and 1, but got {p}")
        self.p = p
        self.inplace = inplace

    def forward(self, input: ArrayLike) -> jax.Array:
        """Draw a mask and apply it, when training."""
        return F.dropout(input, self.p, self.training, self.inplace)

    def extra_repr(self) -> str:
        """The constructor's arguments."""
        return f"p={self.p}, inplace={self.inplace}"

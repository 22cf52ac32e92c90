"""Merging of dimensions."""

from __future__ import annotations

import math

import jax

from ...core.box import unbox
from ..functional._common import ArrayLike, normalize_dim
from ..module import Module

__all__ = ["Flatten"]


class Flatten(Module):
    """Merge the dimensions `start_dim` to `end_dim`, both included, into one.

    Args:
        start_dim: the first; negative counts from the back, as below.
        end_dim: the last.

    Shape:
        - Input: `(*, S_start, ..., S_end, *)`.
        - Output: `(*, S_start * ... * S_end, *)`. A scalar becomes `(1)`.

    Raises:
        IndexError: on call, the input has no such dimension.
        RuntimeError: on call, `start_dim` comes after `end_dim`.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> nn.Flatten()(jnp.ones((32, 1, 5, 5))).shape
        (32, 25)
    """

    def __init__(self, start_dim: int = 1, end_dim: int = -1) -> None:
        super().__init__()
        self.start_dim = start_dim
        self.end_dim = end_dim

    def forward(self, input: ArrayLike) -> jax.Array:
        """Merge the dimensions."""
        x = unbox(input)
        start, end = normalize_dim(self.start_dim, x.ndim), normalize_dim(self.end_dim, x.ndim)
        if start > end:
            raise RuntimeError(
                "flatten() has invalid args: start_dim cannot come after end_dim, "
                f"but start_dim={self.start_dim}, end_dim={self.end_dim} and the input has size {list(x.shape)}"
            )
        return x.reshape(*x.shape[:start], math.prod(x.shape[start : end + 1]), *x.shape[end + 1 :])

    def extra_repr(self) -> str:
        """The constructor's arguments."""
        return f"start_dim={self.start_dim}, end_dim={self.end_dim}"

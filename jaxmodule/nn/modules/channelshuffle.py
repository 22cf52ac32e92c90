"""The layer that interleaves groups of channels."""

from __future__ import annotations

import jax

from .. import functional as F
from ..functional._common import ArrayLike
from ..module import Module

__all__ = ["ChannelShuffle"]


class ChannelShuffle(Module):
    """Interleave the channels of `groups` groups: the first of each, then the second of each (Zhang et al., 2018).

    Args:
        groups: the number of groups.

    Shape:
        - Input and output: `(N, C, *)`.

    Raises:
        RuntimeError: on call, the input has fewer than three dimensions or its number of channels is not divisible.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> nn.ChannelShuffle(2)(jnp.arange(4.0).reshape(1, 4, 1)).reshape(-1).tolist()
        [0.0, 2.0, 1.0, 3.0]
    """

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, input: ArrayLike) -> jax.Array:
        """Reorder the channels."""
        return F.channel_shuffle(input, self.groups)

    def extra_repr(self) -> str:
        """The constructor's argument."""
        return f"groups={self.groups}"

"""Random zeroing of elements and of whole channels."""

from __future__ import annotations

import jax

from .. import functional as F
from ..functional._common import ArrayLike
from ..module import Module

__all__ = ["AlphaDropout", "Dropout", "Dropout1d", "Dropout2d", "Dropout3d", "FeatureAlphaDropout"]


class _DropoutNd(Module):
    def __init__(self, p: float = 0.5, inplace: bool = False) -> None:
        super().__init__()
        if p < 0 or p > 1:
            raise ValueError(f"dropout probability has to be between 0 and 1, but got {p}")
        self.p = p
        self.inplace = inplace

    def extra_repr(self) -> str:
        """The constructor's arguments."""
        return f"p={self.p}, inplace={self.inplace}"


class Dropout(_DropoutNd):
    """When training, zero each element with probability `p` and scale the others by `1 / (1 - p)`.

    Args:
        p: the probability of zeroing.
        inplace: write the result into the input, if that is a box; an array can't change.

    Shape:
        - Input and output: `(*)`.

    Raises:
        ValueError: `p` is not in `[0, 1]`.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> sorted(set(nn.Dropout(0.5)(jnp.ones(100)).tolist()))
        [0.0, 2.0]
        >>> nn.Dropout(0.5).eval()(jnp.ones(3)).tolist()
        [1.0, 1.0, 1.0]
    """

    def forward(self, input: ArrayLike) -> jax.Array:
        """Draw a mask and apply it, when training."""
        return F.dropout(input, self.p, self.training, self.inplace)


class Dropout1d(_DropoutNd):
    """When training, zero each channel of a sequence with probability `p` and scale the others by `1 / (1 - p)`.

    Args:
        p: the probability of zeroing.
        inplace: write the result into the input, if that is a box; an array can't change.

    Shape:
        - Input and output: `(N, C, L)` or `(C, L)`.

    Raises:
        ValueError: `p` is not in `[0, 1]`.
        RuntimeError: on call, the input has another rank.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> len(set(nn.Dropout1d()(jnp.ones((1, 1, 9))).reshape(-1).tolist()))
        1
    """

    def forward(self, input: ArrayLike) -> jax.Array:
        """Draw a mask of channels and apply it, when training."""
        return F.dropout1d(input, self.p, self.training, self.inplace)


class Dropout2d(_DropoutNd):
    """When training, zero each channel of an image with probability `p` and scale the others by `1 / (1 - p)`.

    Args:
        p: the probability of zeroing.
        inplace: write the result into the input, if that is a box; an array can't change.

    Shape:
        - Input and output: `(N, C, H, W)`. As in torch, three dimensions are `(N, C, L)`, with a warning.

    Raises:
        ValueError: `p` is not in `[0, 1]`.
        RuntimeError: on call, the input has fewer than two dimensions.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> len(set(nn.Dropout2d()(jnp.ones((1, 1, 4, 4))).reshape(-1).tolist()))
        1
    """

    def forward(self, input: ArrayLike) -> jax.Array:
        """Draw a mask of channels and apply it, when training."""
        return F.dropout2d(input, self.p, self.training, self.inplace)


class Dropout3d(_DropoutNd):
    """When training, zero each channel of a volume with probability `p` and scale the others by `1 / (1 - p)`.

    Args:
        p: the probability of zeroing.
        inplace: write the result into the input, if that is a box; an array can't change.

    Shape:
        - Input and output: `(N, C, D, H, W)` or `(C, D, H, W)`.

    Raises:
        ValueError: `p` is not in `[0, 1]`.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> len(set(nn.Dropout3d()(jnp.ones((1, 2, 2, 2))).reshape(-1).tolist()))
        1
    """

    def forward(self, input: ArrayLike) -> jax.Array:
        """Draw a mask of channels and apply it, when training."""
        return F.dropout3d(input, self.p, self.training, self.inplace)


class AlphaDropout(_DropoutNd):
    """When training, set each element to SELU's negative saturation with probability `p`, then scale and shift all so
    that a mean of 0 and a variance of 1 stay (Klambauer et al., 2017).

    Args:
        p: the probability of that.
        inplace: for torch's signature; torch's layer does not change its input either.

    Shape:
        - Input and output: `(*)`.

    Raises:
        ValueError: `p` is not in `[0, 1]`.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> [round(v, 3) for v in sorted(set(nn.AlphaDropout()(jnp.zeros(100)).tolist()))]
        [-0.779, 0.779]
    """

    def forward(self, input: ArrayLike) -> jax.Array:
        """Draw a mask and apply it, when training."""
        return F.alpha_dropout(input, self.p, self.training)


class FeatureAlphaDropout(_DropoutNd):
    """`AlphaDropout` of whole channels: one draw a channel.

    Args:
        p: the probability of setting a channel to SELU's negative saturation.
        inplace: for torch's signature; torch's layer does not change its input either.

    Shape:
        - Input and output: `(N, C, *)`.

    Raises:
        ValueError: `p` is not in `[0, 1]`.
        RuntimeError: on call, the input has fewer than two dimensions.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> len(set(nn.FeatureAlphaDropout()(jnp.zeros((1, 1, 9))).reshape(-1).tolist()))
        1
    """

    def forward(self, input: ArrayLike) -> jax.Array:
        """Draw a mask of channels and apply it, when training."""
        return F.feature_alpha_dropout(input, self.p, self.training)

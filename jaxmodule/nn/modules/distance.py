"""Distances and similarities of vectors, as layers."""

from __future__ import annotations

import jax

from .. import functional as F
from ..functional._common import ArrayLike
from ..module import Module

__all__ = ["CosineSimilarity", "PairwiseDistance"]


class PairwiseDistance(Module):
    """`|x1 - x2 + eps|_p` over the last dimension.

    Args:
        p: the norm's degree; 0, infinities and negative numbers are allowed.
        eps: added to each coordinate of the difference.
        keepdim: keep the last dimension, with one element.

    Shape:
        - Input1: `(N, D)` or `(D)`.
        - Input2: the same, or what broadcasts with it.
        - Output: `(N)` or `()`, with `keepdim` `(N, 1)` or `(1)`.

    Raises:
        RuntimeError: on call, the shapes don't broadcast.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> nn.PairwiseDistance(eps=0.0)(jnp.array([[3.0, 0.0]]), jnp.array([[0.0, 4.0]])).tolist()
        [5.0]
    """

    def __init__(self, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False) -> None:
        super().__init__()
        self.norm = p
        self.eps = eps
        self.keepdim = keepdim

    def forward(self, x1: ArrayLike, x2: ArrayLike) -> jax.Array:
        """Measure the distances."""
        return F.pairwise_distance(x1, x2, self.norm, self.eps, self.keepdim)


class CosineSimilarity(Module):
    """`x1 . x2 / (max(|x1|, eps) max(|x2|, eps))` along `dim`.

    Args:
        dim: the vectors' dimension.
        eps: the smallest norm to divide by.

    Shape:
        - Input1: `(*, D, *)`, with `D` at `dim`.
        - Input2: the same, or what broadcasts with it.
        - Output: `(*, *)`.

    Raises:
        RuntimeError: on call, the shapes don't broadcast.
        IndexError: on call, there is no such dimension.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> nn.CosineSimilarity()(jnp.array([[2.0, 0.0]]), jnp.array([[3.0, 0.0]])).tolist()
        [1.0]
    """

    def __init__(self, dim: int = 1, eps: float = 1e-8) -> None:
        super().__init__()
        self.dim = dim
        self.eps = eps

    def forward(self, x1: ArrayLike, x2: ArrayLike) -> jax.Array:
        """Compare the vectors."""
        return F.cosine_similarity(x1, x2, self.dim, self.eps)

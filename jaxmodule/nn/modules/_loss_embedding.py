"""Losses of embeddings as layers."""

from __future__ import annotations

import jax

from .. import functional as F
from ..functional._common import ArrayLike
from ..functional.loss_embedding import Distance
from ._loss_base import _Loss
from .distance import PairwiseDistance

__all__ = ["CosineEmbeddingLoss", "TripletMarginLoss", "TripletMarginWithDistanceLoss"]


class CosineEmbeddingLoss(_Loss):
    """`1 - cos(input1, input2)` where the target is 1, `max(0, cos(input1, input2) - margin)` where it is -1.

    Args:
        margin: the cosine that different pairs may have.
        size_average: deprecated, see `reduction`.
        reduce: deprecated, see `reduction`.
        reduction: "none", "mean" or "sum".

    Shape:
        - Inputs: `(N, D)` or `(D)`; target: `(N)` or `()`.
        - Output: `()`, or the target's with "none".

    Raises:
        RuntimeError: on call, the dimensions don't fit each other, or the sizes don't broadcast.
        ValueError: on call, `reduction` is another word.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> x, y = jnp.array([[1.0, 0.0], [1.0, 0.0]]), jnp.array([[0.0, 1.0], [2.0, 0.0]])
        >>> nn.CosineEmbeddingLoss(reduction="none")(x, y, jnp.array([1, -1])).tolist()
        [1.0, 1.0]
    """

    def __init__(
        self,
        margin: float = 0.0,
        size_average: bool | None = None,
        reduce: bool | None = None,
        reduction: str = "mean",
    ) -> None:
        super().__init__(size_average, reduce, reduction)
        self.margin = margin

    def forward(self, input1: ArrayLike, input2: ArrayLike, target: ArrayLike) -> jax.Array:
        """The loss of the pairs of `input1` and `input2` against `target`."""
        return F.cosine_embedding_loss(input1, input2, target, margin=self.margin, reduction=self.reduction)


class TripletMarginLoss(_Loss):
    """`max(0, margin + |anchor - positive + eps|_p - |anchor - negative + eps|_p)` (Balntas et al., 2016).

    Args:
        margin: by how much farther the negative should be.
        p: the norm's degree.
        eps: added to each coordinate of the differences.
        swap: whether the negative's distance to the positive counts, where that is smaller.
        size_average: deprecated, see `reduction`.
        reduce: deprecated, see `reduction`.
        reduction: "none", "mean" or "sum".

    Shape:
        - Inputs: `(N, D)` or `(D)`.
        - Output: `()`, or `(N)` with "none".

    Raises:
        ValueError: the margin is not positive; on call, `reduction` is another word.
        RuntimeError: on call, the dimensions differ in number, or the shapes don't broadcast.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> a, p, n = jnp.array([[0.0, 0.0]]), jnp.array([[3.0, 4.0]]), jnp.array([[0.0, 4.0]])
        >>> float(nn.TripletMarginLoss(eps=0.0)(a, p, n))
        2.0
    """

    def __init__(
        self,
        margin: float = 1.0,
        p: float = 2.0,
        eps: float = 1e-6,
        swap: bool = False,
        size_average: bool | None = None,
        reduce: bool | None = None,
        reduction: str = "mean",
    ) -> None:
        super().__init__(size_average, reduce, reduction)
        if margin <= 0:
            raise ValueError(f"TripletMarginLoss: expected margin to be greater than 0, got {margin} instead")
        self.margin = margin
        self.p = p
        self.eps = eps
        self.swap = swap

    def forward(self, anchor: ArrayLike, positive: ArrayLike, negative: ArrayLike) -> jax.Array:
        """The loss of each triplet."""
        options = {"margin": self.margin, "p": self.p, "eps": self.eps, "swap": self.swap}
        return F.triplet_margin_loss(anchor, positive, negative, **options, reduction=self.reduction)


class TripletMarginWithDistanceLoss(_Loss):
    """`max(0, margin + d(anchor, positive) - d(anchor, negative))` with a distance `d` of one's own.

    Args:
        distance_function: from two arrays to their distances, a function or a module; `PairwiseDistance()` by default.
        margin: by how much farther the negative should be.
        swap: whether the negative's distance to the positive counts, where that is smaller.
        reduction: "none", "mean" or "sum".

    Shape:
        - Inputs: `(N, *)`, whatever the distance takes.
        - Output: `()`, or with "none" what the distance gives.

    Raises:
        ValueError: the margin is not positive; on call, `reduction` is another word.
        RuntimeError: on call, the dimensions differ in number.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> a, p, n = jnp.array([[0.0, 0.0]]), jnp.array([[3.0, 4.0]]), jnp.array([[0.0, 4.0]])
        >>> manhattan = lambda x, y: jnp.sum(jnp.abs(x - y), -1)
        >>> float(nn.TripletMarginWithDistanceLoss(distance_function=manhattan)(a, p, n))
        4.0
    """

    def __init__(
        self,
        *,
        distance_function: Distance | None = None,
        margin: float = 1.0,
        swap: bool = False,
        reduction: str = "mean",
    ) -> None:
        super().__init__(None, None, reduction)
        if margin <= 0:
            raise ValueError(
                f"TripletMarginWithDistanceLoss: expected margin to be greater than 0, got {margin} instead"
            )
        self.distance_function = PairwiseDistance() if distance_function is None else distance_function
        self.margin = margin
        self.swap = swap

    def forward(self, anchor: ArrayLike, positive: ArrayLike, negative: ArrayLike) -> jax.Array:
        """The loss of each triplet."""
        return F.triplet_margin_with_distance_loss(
            anchor,
            positive,
            negative,
            distance_function=self.distance_function,
            margin=self.margin,
            swap=self.swap,
            reduction=self.reduction,
        )

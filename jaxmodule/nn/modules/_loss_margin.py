"""Margin losses as layers."""

from __future__ import annotations

import jax
import numpy as np

from .. import functional as F
from ..functional._common import ArrayLike
from ._loss_base import _Loss, _WeightedLoss

__all__ = ["HingeEmbeddingLoss", "MarginRankingLoss", "MultiLabelMarginLoss", "MultiMarginLoss"]


class HingeEmbeddingLoss(_Loss):
    """`input` where the target is 1, `max(0, margin - input)` where it is -1: of distances between pairs.

    Args:
        margin: the distance that different pairs should have.
        size_average: deprecated, see `reduction`.
        reduce: deprecated, see `reduction`.
        reduction: "none", "mean" or "sum".

    Shape:
        - Input and target: any, the same.
        - Output: `()`, or the input's with "none".

    Raises:
        RuntimeError: on call, the shapes don't broadcast, or "mean" is asked of integers.
        ValueError: on call, `reduction` is another word.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> nn.HingeEmbeddingLoss(reduction="none")(jnp.array([0.25, 0.25]), jnp.array([1, -1])).tolist()
        [0.25, 0.75]
    """

    def __init__(
        self,
        margin: float = 1.0,
        size_average: bool | None = None,
        reduce: bool | None = None,
        reduction: str = "mean",
    ) -> None:
        super().__init__(size_average, reduce, reduction)
        self.margin = margin

    def forward(self, input: ArrayLike, target: ArrayLike) -> jax.Array:
        """The loss of `input` against `target`."""
        return F.hinge_embedding_loss(input, target, margin=self.margin, reduction=self.reduction)


class MarginRankingLoss(_Loss):
    """`max(0, -target (input1 - input2) + margin)`: which of two should be ranked higher.

    Args:
        margin: by how much.
        size_average: deprecated, see `reduction`.
        reduce: deprecated, see `reduction`.
        reduction: "none", "mean" or "sum".

    Shape:
        - Inputs and target: `(N)` or `()`, or shapes of equally many dimensions that broadcast.
        - Output: `()`, or the inputs' with "none".

    Raises:
        RuntimeError: on call, the dimensions differ in number, or the shapes don't broadcast.
        ValueError: on call, `reduction` is another word.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> float(nn.MarginRankingLoss(margin=0.5)(jnp.array([1.0]), jnp.array([3.0]), jnp.array([1])))
        2.5
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
        """The loss of the scores `input1` and `input2` against `target`."""
        return F.margin_ranking_loss(input1, input2, target, margin=self.margin, reduction=self.reduction)


class MultiLabelMarginLoss(_Loss):
    """`1/C sum_{j, c not in targets} max(0, 1 - (input[target[j]] - input[c]))`: every target class leads all others.

    Args:
        size_average: deprecated, see `reduction`.
        reduce: deprecated, see `reduction`.
        reduction: "none", "mean" or "sum".

    Shape:
        - Input: `(C)` or `(N, C)`; target: the same, indices of classes and then a -1.
        - Output: `()`, or `(N)` with "none".

    Raises:
        RuntimeError: on call, the sizes don't fit, or a concrete target is neither -1 nor a class; compiled, its loss
            is NaN.
        ValueError: on call, `reduction` is another word.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> x, y = jnp.array([[0.5, 0.25, 0.5, 1.0]]), jnp.array([[3, 0, -1, 1]])
        >>> float(nn.MultiLabelMarginLoss()(x, y))
        0.625
    """

    def forward(self, input: ArrayLike, target: ArrayLike) -> jax.Array:
        """The loss of `input` against `target`."""
        return F.multilabel_margin_loss(input, target, reduction=self.reduction)


class MultiMarginLoss(_WeightedLoss):
    """`weight[y] / C sum_{c != y} max(0, margin - input[y] + input[c])^p`: the hinge loss of the target class `y`.

    Args:
        p: the exponent, 1 or 2.
        margin: by how much the target class should lead.
        weight: a factor for each class. The mean is not weighted by it.
        size_average: deprecated, see `reduction`.
        reduce: deprecated, see `reduction`.
        reduction: "none", "mean" or "sum".

    Shape:
        - Input: `(N, C)` or `(C)`; target: `(N)` or `()`.
        - Output: `()`, or the target's with "none".

    Attributes:
        weight: a buffer `(C)`, or None.

    Raises:
        ValueError: `p` is another number, or the weight is not one-dimensional; on call, `reduction` is another word.
        RuntimeError: on call, the sizes or dtypes don't fit, or a concrete target is no class; compiled, its loss is
            NaN.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> float(nn.MultiMarginLoss()(jnp.array([[1.0, 0.5, -1.0, 2.0]]), jnp.array([0])))
        0.625
    """

    def __init__(
        self,
        p: int = 1,
        margin: float = 1.0,
        weight: ArrayLike | None = None,
        size_average: bool | None = None,
        reduce: bool | None = None,
        reduction: str = "mean",
    ) -> None:
        super().__init__(weight, size_average, reduce, reduction)
        if p not in (1, 2):
            raise ValueError(f"only p == 1 and p == 2 supported, but got {p}")
        if weight is not None and np.ndim(weight) != 1:
            raise ValueError(
                f"MultiMarginLoss: expected weight to be None or 1D tensor, got {np.ndim(weight)}D instead"
            )
        self.p = p
        self.margin = margin

    def forward(self, input: ArrayLike, target: ArrayLike) -> jax.Array:
        """The loss of `input` against `target`."""
        return F.multi_margin_loss(
            input, target, p=self.p, margin=self.margin, weight=self.weight, reduction=self.reduction
        )

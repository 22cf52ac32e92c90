"""Losses of class scores against class indices as layers."""

from __future__ import annotations

import warnings
from typing import Any

import jax

from .. import functional as F
from ..functional._common import ArrayLike
from ._loss_base import _WeightedLoss

__all__ = ["CrossEntropyLoss", "NLLLoss", "NLLLoss2d"]


class CrossEntropyLoss(_WeightedLoss):
    """`-sum_c weight[c] target[c] log(softmax(input)[c])`: class logits against class indices or probabilities.

    Args:
        weight: a factor for each class. With class indices, the mean is weighted by it.
        size_average: deprecated, see `reduction`.
        ignore_index: a class index that is left out of the loss and of the mean.
        reduce: deprecated, see `reduction`.
        reduction: "none", "mean" or "sum".
        label_smoothing: the share of the uniform distribution in the target, in `[0, 1]` (Szegedy et al., 2016).

    Shape:
        - Input: `(C)`, `(N, C)` or `(N, C, d_1, ..., d_K)`.
        - Target: indices `()`, `(N)` or `(N, d_1, ..., d_K)`; or probabilities, the input's shape.
        - Output: `()`, or with "none" the shape of indices.

    Attributes:
        weight: a buffer `(C)`, or None.

    Raises:
        ValueError: on call, the batch sizes differ, or `reduction` is another word.
        RuntimeError: on call, other sizes or the dtypes don't fit.
        IndexError: on call, a target is no class, where targets are concrete; compiled, its loss is NaN.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> round(float(nn.CrossEntropyLoss()(jnp.zeros((2, 4)), jnp.array([0, 3]))), 4)
        1.3863
    """

    def __init__(
        self,
        weight: ArrayLike | None = None,
        size_average: bool | None = None,
        ignore_index: int = -100,
        reduce: bool | None = None,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(weight, size_average, reduce, reduction)
        self.ignore_index = ignore_index
        self.label_smoothing = label_smoothing

    def forward(self, input: ArrayLike, target: ArrayLike) -> jax.Array:
        """The loss of `input` against `target`."""
        return F.cross_entropy(
            input,
            target,
            weight=self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            label_smoothing=self.label_smoothing,
        )


class NLLLoss(_WeightedLoss):
    """`-weight[target] input[target]`: the negative log likelihood of class indices.

    Args:
        weight: a factor for each class. The mean is weighted by it.
        size_average: deprecated, see `reduction`.
        ignore_index: a target that is left out of the loss and of the mean.
        reduce: deprecated, see `reduction`.
        reduction: "none", "mean" or "sum".

    Shape:
        - Input: `(C)`, `(N, C)` or `(N, C, d_1, ..., d_K)`, log-probabilities.
        - Target: `()`, `(N)` or `(N, d_1, ..., d_K)`.
        - Output: `()`, or the target's with "none".

    Attributes:
        weight: a buffer `(C)`, or None.

    Raises:
        ValueError: on call, the batch sizes differ, or `reduction` is another word.
        RuntimeError: on call, other sizes or the dtypes don't fit.
        IndexError: on call, a target is no class, where targets are concrete; compiled, its loss is NaN.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> float(nn.NLLLoss()(jnp.array([[-1.0, -2.0]]), jnp.array([1])))
        2.0
    """

    def __init__(
        self,
        weight: ArrayLike | None = None,
        size_average: bool | None = None,
        ignore_index: int = -100,
        reduce: bool | None = None,
        reduction: str = "mean",
    ) -> None:
        super().__init__(weight, size_average, reduce, reduction)
        self.ignore_index = ignore_index

    def forward(self, input: ArrayLike, target: ArrayLike) -> jax.Array:
        """The loss of `input` against `target`."""
        return F.nll_loss(input, target, self.weight, ignore_index=self.ignore_index, reduction=self.reduction)


class NLLLoss2d(NLLLoss):
    """`NLLLoss`, which takes inputs of any number of dimensions. Deprecated: warns.

    Args:
        args: those of `NLLLoss`.
        kwargs: those of `NLLLoss`.

    Shape:
        - Input: `(N, C, H, W)`; target: `(N, H, W)`.
        - Output: `()`, or the target's with "none".

    Attributes:
        weight: a buffer `(C)`, or None.

    Example:
        >>> import warnings, jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> with warnings.catch_warnings(action="ignore"):
        ...     loss = nn.NLLLoss2d()
        >>> float(loss(jnp.full((1, 2, 3, 3), -1.0), jnp.zeros((1, 3, 3), int)))
        1.0
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        message = "`NLLLoss2d` has been deprecated. Please use `NLLLoss` instead as a drop-in replacement."
        warnings.warn(message, FutureWarning, stacklevel=2)
        super().__init__(*args, **kwargs)

"""Losses as layers."""

from __future__ import annotations

import jax

from ...core.box import unbox
from .. import functional as F
from ..functional._common import ArrayLike, legacy_reduction
from ..module import Module
from ..parameter import Buffer

__all__ = ["BCEWithLogitsLoss", "CrossEntropyLoss", "MSELoss"]


class _Loss(Module):
    def __init__(self, size_average: bool | None = None, reduce: bool | None = None, reduction: str = "mean") -> None:
        super().__init__()
        legacy = size_average is not None or reduce is not None
        self.reduction = legacy_reduction(size_average, reduce, stacklevel=4) if legacy else reduction


class CrossEntropyLoss(_Loss):
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

    weight: Buffer | None

    def __init__(
        self,
        weight: ArrayLike | None = None,
        size_average: bool | None = None,
        ignore_index: int = -100,
        reduce: bool | None = None,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(size_average, reduce, reduction)
        self.register_buffer("weight", unbox(weight))
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


class MSELoss(_Loss):
    """`(input - target)^2`: the squared error.

    Args:
        size_average: deprecated, see `reduction`.
        reduce: deprecated, see `reduction`.
        reduction: "none", "mean" or "sum".

    Shape:
        - Input and target: any, the same.
        - Output: `()`, or the input's with "none".

    Raises:
        RuntimeError: on call, the shapes don't broadcast.
        ValueError: on call, `reduction` is another word.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> float(nn.MSELoss()(jnp.array([1.0, 2.0]), jnp.array([1.0, 4.0])))
        2.0
    """

    def forward(self, input: ArrayLike, target: ArrayLike) -> jax.Array:
        """The loss of `input` against `target`."""
        return F.mse_loss(input, target, reduction=self.reduction)


class BCEWithLogitsLoss(_Loss):
    """`-weight (pos_weight target log(s) + (1 - target) log(1 - s))` with `s = sigmoid(input)`, without overflow.

    Args:
        weight: a factor for each element, broadcast to the input.
        size_average: deprecated, see `reduction`.
        reduce: deprecated, see `reduction`.
        reduction: "none", "mean" or "sum".
        pos_weight: a factor for the positive term, broadcast to the input.

    Shape:
        - Input and target: any, the same.
        - Output: `()`, or the input's with "none".

    Attributes:
        weight: a buffer, or None.
        pos_weight: a buffer, or None.

    Raises:
        ValueError: on call, input and target have different sizes, or `reduction` is another word.
        RuntimeError: on call, a weight doesn't broadcast, or the target is not floating-point.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> round(float(nn.BCEWithLogitsLoss()(jnp.zeros(3), jnp.ones(3))), 4)
        0.6931
    """

    weight: Buffer | None
    pos_weight: Buffer | None

    def __init__(
        self,
        weight: ArrayLike | None = None,
        size_average: bool | None = None,
        reduce: bool | None = None,
        reduction: str = "mean",
        pos_weight: ArrayLike | None = None,
    ) -> None:
        super().__init__(size_average, reduce, reduction)
        self.register_buffer("weight", unbox(weight))
        self.register_buffer("pos_weight", unbox(pos_weight))

    def forward(self, input: ArrayLike, target: ArrayLike) -> jax.Array:
        """The loss of `input` against `target`."""
        return F.binary_cross_entropy_with_logits(
            input, target, self.weight, reduction=self.reduction, pos_weight=self.pos_weight
        )

"""Losses whose elements are decisions of their own, as layers."""

from __future__ import annotations

import jax

from ...core.box import unbox
from .. import functional as F
from ..functional._common import ArrayLike
from ..parameter import Buffer
from ._loss_base import _Loss, _WeightedLoss

__all__ = ["BCELoss", "BCEWithLogitsLoss", "MultiLabelSoftMarginLoss", "SoftMarginLoss"]


class BCELoss(_WeightedLoss):
    """`-weight (target log(input) + (1 - target) log(1 - input))`, each logarithm no smaller than -100.

    Args:
        weight: a factor for each element, broadcast to the input.
        size_average: deprecated, see `reduction`.
        reduce: deprecated, see `reduction`.
        reduction: "none", "mean" or "sum".

    Shape:
        - Input and target: any, the same.
        - Output: `()`, or the input's with "none".

    Attributes:
        weight: a buffer, or None.

    Raises:
        ValueError: on call, input and target have different sizes, or `reduction` is another word.
        RuntimeError: on call, the dtypes differ, the weight doesn't broadcast, or a concrete value is not in [0, 1].

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> nn.BCELoss(reduction="none")(jnp.array([0.5, 0.0]), jnp.array([1.0, 1.0])).tolist()
        [0.693..., 100.0]
    """

    def forward(self, input: ArrayLike, target: ArrayLike) -> jax.Array:
        """The loss of `input` against `target`."""
        return F.binary_cross_entropy(input, target, self.weight, reduction=self.reduction)


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


class SoftMarginLoss(_Loss):
    """`log(1 + exp(-target input))`: the logistic loss of scores against labels 1 and -1.

    Args:
        size_average: deprecated, see `reduction`.
        reduce: deprecated, see `reduction`.
        reduction: "none", "mean" or "sum".

    Shape:
        - Input and target: any, the same.
        - Output: `()`, or the input's with "none".

    Raises:
        RuntimeError: on call, the target doesn't broadcast to the input, or the input is not floating-point.
        ValueError: on call, `reduction` is another word.

    Note:
        Where the exponential overflows torch's loss is infinite and its gradient NaN; here both are finite.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> nn.SoftMarginLoss(reduction="none")(jnp.array([0.0, -100.0]), jnp.array([1, 1])).tolist()
        [0.693..., 100.0]
    """

    def forward(self, input: ArrayLike, target: ArrayLike) -> jax.Array:
        """The loss of `input` against `target`."""
        return F.soft_margin_loss(input, target, reduction=self.reduction)


class MultiLabelSoftMarginLoss(_WeightedLoss):
    """`-1/C sum_c weight[c] (target[c] log(s[c]) + (1 - target[c]) log(1 - s[c]))` with `s = sigmoid(input)`.

    Args:
        weight: a factor for each class.
        size_average: deprecated, see `reduction`.
        reduce: deprecated, see `reduction`.
        reduction: "none", "mean" or "sum".

    Shape:
        - Input: `(C)` or `(N, C)`; target: the same.
        - Output: `()`, or the input's without its last dimension with "none".

    Attributes:
        weight: a buffer `(C)`, or None.

    Raises:
        RuntimeError: on call, the shapes don't broadcast.
        ValueError: on call, `reduction` is another word.
        NotImplementedError: on call, the input is not floating-point.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> round(float(nn.MultiLabelSoftMarginLoss()(jnp.zeros((2, 3)), jnp.ones((2, 3)))), 4)
        0.6931
    """

    def forward(self, input: ArrayLike, target: ArrayLike) -> jax.Array:
        """The loss of `input` against `target`."""
        return F.multilabel_soft_margin_loss(input, target, self.weight, reduction=self.reduction)

"""Regression losses as layers."""

from __future__ import annotations

import jax

from .. import functional as F
from ..functional._common import ArrayLike
from ._loss_base import _Loss

__all__ = ["HuberLoss", "L1Loss", "MSELoss", "SmoothL1Loss"]


class L1Loss(_Loss):
    """`|input - target|`: the absolute error. Its gradient at 0 is 0.

    Args:
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
        >>> float(nn.L1Loss()(jnp.array([1.0, 2.0]), jnp.array([1.0, 4.0])))
        1.0
    """

    def forward(self, input: ArrayLike, target: ArrayLike) -> jax.Array:
        """The loss of `input` against `target`."""
        return F.l1_loss(input, target, reduction=self.reduction)


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
        NotImplementedError: on call, input and target are not floating-point.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> float(nn.MSELoss()(jnp.array([1.0, 2.0]), jnp.array([1.0, 4.0])))
        2.0
    """

    def forward(self, input: ArrayLike, target: ArrayLike) -> jax.Array:
        """The loss of `input` against `target`."""
        return F.mse_loss(input, target, reduction=self.reduction)


class SmoothL1Loss(_Loss):
    """`0.5 d^2 / beta` where `d = |input - target|` is below `beta`, `d - 0.5 beta` elsewhere (Girshick, 2015).

    Args:
        size_average: deprecated, see `reduction`.
        reduce: deprecated, see `reduction`.
        reduction: "none", "mean" or "sum".
        beta: where the square becomes a line; with 0 this is the absolute error.

    Shape:
        - Input and target: any, the same.
        - Output: `()`, or the input's with "none".

    Raises:
        RuntimeError: on call, the shapes don't broadcast, or `beta` is negative.
        ValueError: on call, `reduction` is another word.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> nn.SmoothL1Loss(reduction="none")(jnp.array([1.0, 2.0]), jnp.array([1.5, 5.0])).tolist()
        [0.125, 2.5]
    """

    def __init__(
        self,
        size_average: bool | None = None,
        reduce: bool | None = None,
        reduction: str = "mean",
        beta: float = 1.0,
    ) -> None:
        super().__init__(size_average, reduce, reduction)
        self.beta = beta

    def forward(self, input: ArrayLike, target: ArrayLike) -> jax.Array:
        """The loss of `input` against `target`."""
        return F.smooth_l1_loss(input, target, reduction=self.reduction, beta=self.beta)


class HuberLoss(_Loss):
    """`0.5 d^2` where `d = |input - target|` is below `delta`, `delta (d - 0.5 delta)` elsewhere (Huber, 1964).

    Args:
        reduction: "none", "mean" or "sum".
        delta: where the square becomes a line.

    Shape:
        - Input and target: any, the same.
        - Output: `()`, or the input's with "none".

    Raises:
        TypeError: `delta` is no number.
        RuntimeError: on call, the shapes don't broadcast, or `delta` is not positive.
        ValueError: on call, `reduction` is another word.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> nn.HuberLoss(reduction="none", delta=2.0)(jnp.array([1.0, 2.0]), jnp.array([1.5, 5.0])).tolist()
        [0.125, 4.0]
    """

    def __init__(self, reduction: str = "mean", delta: float = 1.0) -> None:
        if not isinstance(delta, int | float):
            raise TypeError(f"delta must be a float or int, got: {type(delta)}")
        super().__init__(reduction=reduction)
        self.delta = delta

    def forward(self, input: ArrayLike, target: ArrayLike) -> jax.Array:
        """The loss of `input` against `target`."""
        return F.huber_loss(input, target, reduction=self.reduction, delta=self.delta)

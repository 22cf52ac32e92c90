"""Divergences and negative log likelihoods as layers."""

from __future__ import annotations

import jax

from .. import functional as F
from ..functional._common import ArrayLike
from ..functional.loss_ctc import Lengths
from ._loss_base import _Loss

__all__ = ["CTCLoss", "GaussianNLLLoss", "KLDivLoss", "PoissonNLLLoss"]


class PoissonNLLLoss(_Loss):
    """`exp(log_input) - target log_input`: the negative log likelihood of a Poisson distribution.

    Args:
        log_input: whether the input is the log of the expected count; if not, the loss is
            `input - target log(input + eps)`.
        full: whether to add Stirling's `target log(target) - target + 0.5 log(2 pi target)` where the target is over 1.
        size_average: deprecated, see `reduction`.
        eps: keeps the logarithm finite.
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
        >>> nn.PoissonNLLLoss(reduction="none")(jnp.array([0.0, 1.0]), jnp.array([2.0, 0.0])).tolist()
        [1.0, 2.718...]
    """

    def __init__(
        self,
        log_input: bool = True,
        full: bool = False,
        size_average: bool | None = None,
        eps: float = 1e-8,
        reduce: bool | None = None,
        reduction: str = "mean",
    ) -> None:
        super().__init__(size_average, reduce, reduction)
        self.log_input = log_input
        self.full = full
        self.eps = eps

    def forward(self, log_input: ArrayLike, target: ArrayLike) -> jax.Array:
        """The loss of `log_input` against the counts `target`."""
        return F.poisson_nll_loss(
            log_input, target, log_input=self.log_input, full=self.full, eps=self.eps, reduction=self.reduction
        )


class GaussianNLLLoss(_Loss):
    """`0.5 (log(v) + (input - target)^2 / v)` with `v = max(var, eps)`: of a normal distribution.

    Args:
        full: whether to add the constant `0.5 log(2 pi)`.
        eps: the least variance. The gradient ignores this clamp.
        reduction: "none", "mean" or "sum".

    Shape:
        - Input and target: `(N, *)` or `(*)`.
        - Variance: a number; or the input's, with one dimension of size 1 instead, or without its last dimension.
        - Output: `()`, or the input's with "none".

    Raises:
        ValueError: on call, a variance is negative, where it is concrete; its size is another; `reduction` is another
            word.
        RuntimeError: on call, the shapes don't broadcast.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> float(nn.GaussianNLLLoss()(jnp.array([1.0, 2.0]), jnp.array([1.0, 4.0]), jnp.ones(2)))
        1.0
    """

    def __init__(self, *, full: bool = False, eps: float = 1e-6, reduction: str = "mean") -> None:
        super().__init__(None, None, reduction)
        self.full = full
        self.eps = eps

    def forward(self, input: ArrayLike, target: ArrayLike, var: ArrayLike | float) -> jax.Array:
        """The loss of the expectation `input` and the variance `var` against `target`."""
        return F.gaussian_nll_loss(input, target, var, full=self.full, eps=self.eps, reduction=self.reduction)


class KLDivLoss(_Loss):
    """`target (log(target) - input)`: the Kullback-Leibler divergence of a target from log-probabilities.

    Args:
        size_average: deprecated, see `reduction`.
        reduce: deprecated, see `reduction`.
        reduction: "none", "batchmean" (the divergence: the sum over the first dimension's size), "mean" or "sum".
        log_target: whether the target is a logarithm.

    Shape:
        - Input and target: any, the same.
        - Output: `()`, or the input's with "none".

    Raises:
        RuntimeError: on call, the shapes don't broadcast, or an array is not floating-point.
        ValueError: on call, `reduction` is another word.

    Note:
        "mean" warns on call, as in torch: it divides by the number of classes too.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> from jaxmodule.nn import functional as F
        >>> log_probs = F.log_softmax(jnp.zeros((3, 2)), 1)
        >>> round(float(nn.KLDivLoss(reduction="batchmean")(log_probs, jnp.array([[1.0, 0.0]] * 3))), 4)
        0.6931
    """

    def __init__(
        self,
        size_average: bool | None = None,
        reduce: bool | None = None,
        reduction: str = "mean",
        log_target: bool = False,
    ) -> None:
        super().__init__(size_average, reduce, reduction)
        self.log_target = log_target

    def forward(self, input: ArrayLike, target: ArrayLike) -> jax.Array:
        """The divergence of `target` from `input`."""
        return F.kl_div(input, target, reduction=self.reduction, log_target=self.log_target)


class CTCLoss(_Loss):
    """`-log p(targets | log_probs)` over all alignments of a label sequence with a longer input (Graves et al., 2006).

    Args:
        blank: the class that stands for no label.
        reduction: "none", "mean" or "sum". The mean is of losses divided by the target's length.
        zero_infinity: whether an infinite loss, of a target that is too long for its input, is 0 with no gradient.

    Shape:
        - Log-probabilities: `(T, N, C)` or `(T, C)`.
        - Targets: `(N, S)` or `(sum(target_lengths))`.
        - Lengths: `(N)`, or `()` for an input without batch; arrays, lists or tuples.
        - Output: `()`, or `(N)` with "none".

    Raises:
        RuntimeError: on call, the sizes don't fit, the blank is no class, a length is too long or a label no class,
            where they are concrete; compiled, the loss is NaN.
        ValueError: on call, `reduction` is another word.

    Note:
        The gradient is torch's: see `ctc_loss`.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> from jaxmodule.nn import functional as F
        >>> log_probs = F.log_softmax(jnp.zeros((3, 1, 2)), 2)
        >>> round(float(nn.CTCLoss()(log_probs, jnp.array([[1]]), (3,), (1,))), 4)
        0.2877
    """

    def __init__(self, blank: int = 0, reduction: str = "mean", zero_infinity: bool = False) -> None:
        super().__init__(reduction=reduction)
        self.blank = blank
        self.zero_infinity = zero_infinity

    def forward(
        self, log_probs: ArrayLike, targets: ArrayLike, input_lengths: Lengths, target_lengths: Lengths
    ) -> jax.Array:
        """The loss of `log_probs` against `targets`."""
        return F.ctc_loss(
            log_probs, targets, input_lengths, target_lengths, self.blank, self.reduction, self.zero_infinity
        )

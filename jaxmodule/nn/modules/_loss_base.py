"""What the loss layers share: a reduction, and for some a weight."""

from __future__ import annotations

from ...core.box import unbox
from ..functional._common import ArrayLike, legacy_reduction
from ..module import Module
from ..parameter import Buffer


class _Loss(Module):
    """A loss with a reduction, which the deprecated `size_average` and `reduce` decide where they are given."""

    def __init__(self, size_average: bool | None = None, reduce: bool | None = None, reduction: str = "mean") -> None:
        super().__init__()
        legacy = size_average is not None or reduce is not None
        self.reduction = legacy_reduction(size_average, reduce, stacklevel=4) if legacy else reduction


class _WeightedLoss(_Loss):
    """A loss with a weight, a buffer."""

    weight: Buffer | None

    def __init__(
        self,
        weight: ArrayLike | None = None,
        size_average: bool | None = None,
        reduce: bool | None = None,
        reduction: str = "mean",
    ) -> None:
        super().__init__(size_average, reduce, reduction)
        self.register_buffer("weight", unbox(weight))

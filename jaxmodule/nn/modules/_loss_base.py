"""What the loss layers share: a reduction, and for some a weight."""

from __future__ import annotations

import sys

from ...core.box import unbox
from ..functional._common import ArrayLike, legacy_reduction
from ..module import Module
from ..parameter import Buffer


class _Loss(Module):
    """A loss with a reduction, which the deprecated `size_average` and `reduce` decide where they are given."""

    def __init__(self, size_average: bool | None = None, reduce: bool | None = None, reduction: str = "mean") -> None:
        super().__init__()
        legacy = size_average is not None or reduce is not None
        self.reduction = (
            legacy_reduction(size_average, reduce, stacklevel=_constructors(self) + 2) if legacy else reduction
        )


def _constructors(module: Module) -> int:
    """How many constructors of `module` are running: a warning is for the line that called the first."""
    count, frame = 0, sys._getframe(1)
    while frame is not None and frame.f_code.co_name == "__init__" and frame.f_locals.get("self") is module:
        count, frame = count + 1, frame.f_back
    return count


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

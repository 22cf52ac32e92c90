"""`ReduceLROnPlateau`: a lower rate when a metric no longer improves."""

import math
import warnings
from typing import Any, Literal, SupportsFloat

from .base import EPOCH_DEPRECATION_WARNING, LRScheduler
from .groups import checked, per_group, values_of


class ReduceLROnPlateau(LRScheduler):
    """`lr *= factor` once the metric given to `step` has not improved for more than `patience` steps.

    Args:
        optimizer: the optimizer.
        mode: "min" or "max": whether less is better.
        factor: less than 1.
        patience: how many steps without improvement are borne.
        threshold: by how much it must improve to count.
        threshold_mode: "rel": in proportion to the best so far, or "abs".
        cooldown: the steps after a reduction in which none is counted.
        min_lr: the least rate, or a list with one for each group.
        eps: a smaller change of the rate is not made.

    Attributes:
        best: the best metric so far.
        num_bad_epochs: the steps since that improved.
        cooldown_counter: the steps of the cooldown that are left.

    Raises:
        ValueError: `factor` is not less than 1, a mode is unknown, or a list has another length than the groups.
        TypeError: `optimizer` is none.

    Note:
        `step(metric)` reads the metric, and so waits for the program that computes it: call it once an epoch.

    Example:
        >>> import jaxmodule as jm
        >>> from jaxmodule import nn
        >>> optimizer = jm.optim.SGD(nn.Linear(2, 1).parameters(), lr=0.1)
        >>> scheduler = jm.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=1, factor=0.5)
        >>> for loss in (1.0, 2.0, 2.0):
        ...     scheduler.step(loss)
        >>> scheduler.get_last_lr()
        [0.05]
    """

    def __init__(
        self,
        optimizer: Any,
        mode: Literal["min", "max"] = "min",
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        threshold_mode: Literal["rel", "abs"] = "rel",
        cooldown: int = 0,
        min_lr: list[float] | float = 0,
        eps: float = 1e-8,
    ) -> None:
        if factor >= 1.0:
            raise ValueError("Factor should be < 1.0.")
        self.factor = factor
        self.optimizer = checked(optimizer)
        several = isinstance(min_lr, (list, tuple))
        if several and len(min_lr) != len(optimizer.param_groups):
            raise ValueError(f"expected {len(optimizer.param_groups)} min_lrs, got {len(min_lr)}")
        self.default_min_lr = None if several else min_lr
        self.min_lrs = per_group("min_lr", optimizer, min_lr)
        self.patience = patience
        self.cooldown = cooldown
        self.eps = eps
        self.last_epoch = 0
        self._last_lr = values_of(optimizer, "lr")
        if mode not in ("min", "max"):
            raise ValueError(f"mode {mode} is unknown!")
        if threshold_mode not in ("rel", "abs"):
            raise ValueError(f"threshold mode {threshold_mode} is unknown!")
        self.mode_worse = math.inf if mode == "min" else -math.inf
        self.mode = mode
        self.threshold = threshold
        self.threshold_mode = threshold_mode
        self._untouched = None
        self._step_count = 0  # the base's; not torch's here
        self._reset()

    _unsaved = (*LRScheduler._unsaved, "_step_count")

    def _reset(self) -> None:
        self.best = self.mode_worse
        self.cooldown_counter = 0
        self.num_bad_epochs = 0

    def step(self, metrics: SupportsFloat, epoch: int | None = None) -> None:  # pyright: ignore
        """Take note of the metric, and lower the rate if it is time.

        Args:
            metrics: the metric: a number, or an array of one.
            epoch: deprecated in torch.

        Raises:
            StateError: called inside a transform.
        """
        self._check_step()
        current = float(metrics)
        if epoch is not None:
            warnings.warn(EPOCH_DEPRECATION_WARNING, UserWarning, stacklevel=2)
        self.last_epoch = self.last_epoch + 1 if epoch is None else epoch
        if self._is_better(current):
            self.best = current
            self.num_bad_epochs = 0
        else:
            self.num_bad_epochs += 1
        if self.in_cooldown:
            self.cooldown_counter -= 1
            self.num_bad_epochs = 0
        if self.num_bad_epochs > self.patience:
            self._reduce()
            self.cooldown_counter = self.cooldown
            self.num_bad_epochs = 0
        self._last_lr = self._lrs()

    @property
    def in_cooldown(self) -> bool:
        """Was the rate lowered less than `cooldown` steps ago?"""
        return self.cooldown_counter > 0

    def _is_better(self, metric: float) -> bool:
        if self.threshold_mode == "abs":
            return metric < self.best - self.threshold if self.mode == "min" else metric > self.best + self.threshold
        if self.mode == "min":
            return metric < self.best * (1.0 - self.threshold)
        return metric > self.best * (1.0 + self.threshold)

    def _reduce(self) -> None:
        groups = self.optimizer.param_groups
        if len(groups) != len(self.min_lrs):
            if self.default_min_lr is None:
                raise RuntimeError(
                    f"The number of param groups in the `optimizer` ({len(groups)}) differs from when "
                    f"`ReduceLROnPlateau` was initialized ({len(self.min_lrs)}), usually due to a new param group "
                    "being added to the optimizer. Please modify the `min_lrs` field to match the length of the "
                    "`optimizer` param groups."
                )
            self.min_lrs = [self.default_min_lr] * len(groups)
        for group, least in zip(groups, self.min_lrs, strict=True):
            old = float(group["lr"])
            new = max(old * self.factor, least)
            if old - new > self.eps:
                group["lr"] = new

"""`CyclicLR`: up and down between two rates."""

import math
from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from .base import LRScheduler
from .groups import checked, per_group, state_of_function


class CyclicLR(LRScheduler):
    """Between `base_lr` and `max_lr`, up in `step_size_up` steps and down in `step_size_down`, again and again.

    Args:
        optimizer: the optimizer.
        base_lr: the least rate, or a list with one for each group.
        max_lr: the greatest, as `base_lr`.
        step_size_up: the steps of the rise.
        step_size_down: the steps of the fall; as many as of the rise if None.
        mode: "triangular"; "triangular2": each cycle half as high as the one before; "exp_range": lower by
            `gamma**step`. Not in use where there is a `scale_fn`.
        gamma: of "exp_range".
        scale_fn: what the height of a cycle is multiplied by, as a function of the cycle's number from 1, or of the
            step.
        scale_mode: "cycle" or "iterations": what `scale_fn` is a function of.
        cycle_momentum: let the momentum (or β₁) go from `max_momentum` to `base_momentum` as the rate goes up.
        base_momentum, max_momentum: as `base_lr`.
        last_epoch: as in `LRScheduler`.

    Raises:
        ValueError: `mode` is unknown; a list has another length than the groups; or `cycle_momentum`, and the optimizer
            has neither momentum nor betas.

    Source: Smith, "Cyclical learning rates for training neural networks", 2017.

    Example:
        >>> import jaxmodule as jm
        >>> rate = jm.optim.lr_scheduler.CyclicLR.schedule(1.0, base_lr=0.1, max_lr=0.3, step_size_up=2)
        >>> [round(float(rate(step)), 3) for step in range(6)]
        [0.1, 0.2, 0.3, 0.2, 0.1, 0.2]
    """

    def __init__(
        self,
        optimizer: Any,
        base_lr: float | list[float],
        max_lr: float | list[float],
        step_size_up: int = 2000,
        step_size_down: int | None = None,
        mode: Literal["triangular", "triangular2", "exp_range"] = "triangular",
        gamma: float = 1.0,
        scale_fn: Callable[[float], float] | None = None,
        scale_mode: Literal["cycle", "iterations"] = "cycle",
        cycle_momentum: bool = True,
        base_momentum: float | list[float] = 0.8,
        max_momentum: float | list[float] = 0.9,
        last_epoch: int = -1,
    ) -> None:
        self.optimizer = checked(optimizer)
        base_lrs = per_group("base_lr", optimizer, base_lr)
        self.max_lrs = per_group("max_lr", optimizer, max_lr)
        up = float(step_size_up)
        self.total_size = up + (up if step_size_down is None else float(step_size_down))
        self.step_ratio = up / self.total_size
        if scale_fn is None and mode not in ("triangular", "triangular2", "exp_range"):
            raise ValueError("mode is invalid and scale_fn is None")
        self.mode = mode
        self.gamma = gamma
        self._scale_fn_custom = scale_fn
        self.scale_mode = scale_mode if scale_fn is not None else "iterations" if mode == "exp_range" else "cycle"
        self.cycle_momentum = cycle_momentum
        if cycle_momentum:
            self.use_beta1 = uses_beta1(optimizer)
            self.base_momentums = per_group("base_momentum", optimizer, base_momentum)
            self.max_momentums = per_group("max_momentum", optimizer, max_momentum)
        if last_epoch == -1:
            for group, lr in zip(optimizer.param_groups, base_lrs, strict=True):
                group["lr"] = lr
            if cycle_momentum:
                begin_momentum(optimizer, self.use_beta1, self.base_momentums, self.max_momentums)
        super().__init__(optimizer, last_epoch)
        self.base_lrs = base_lrs

    def scale_fn(self, x: Any) -> Any:
        """What the height is multiplied by: `x` is the cycle's number, or the step where `scale_mode` says so."""
        if self._scale_fn_custom is not None:
            return self._scale_fn_custom(x)
        if self.mode == "triangular2":
            return 1 / 2.0 ** (x - 1)
        return self.gamma**x if self.mode == "exp_range" else 1.0

    def get_lr(self) -> list[float]:
        """The rates at `last_epoch`. With `cycle_momentum` it sets the momentum, as in torch."""
        self._warn_outside_of_step()
        height = self._height(self.last_epoch, np)
        if self.cycle_momentum:
            for group, low, high in zip(
                self.optimizer.param_groups, self.base_momentums, self.max_momentums, strict=True
            ):
                set_momentum(group, self.use_beta1, float(high - (high - low) * height))
        bounds = zip(self.base_lrs, self.max_lrs, strict=True)
        return [float(base + (top - base) * height) for base, top in bounds]

    def _height(self, step: Any, xp: Any) -> Any:
        """How far up from the least rate to the greatest a step is."""
        cycle = xp.floor(1 + step / self.total_size)
        cycle = int(cycle) if xp is np else cycle  # a scale_fn of the user's may look it up
        x = 1.0 + step / self.total_size - cycle
        part = xp.where(x <= self.step_ratio, x / self.step_ratio, (x - 1) / (self.step_ratio - 1 or math.nan))
        return part * self.scale_fn(cycle if self.scale_mode == "cycle" else step)

    def _rate(self, base: Any, step: Any, group: int, xp: Any) -> Any:
        return base + (self.max_lrs[group] - base) * self._height(step, xp)

    def _get_closed_form_lr(self) -> list[float]:
        return self.get_lr()  # which sets the momentum too

    def state_dict(self) -> dict[str, Any]:
        """All but the optimizer. `scale_fn` is in it if it is a callable object, by its attributes."""
        function = self._scale_fn_custom
        return {**super().state_dict(), "_scale_fn_custom": None if function is None else state_of_function(function)}

    def _apply(self, state: dict[str, Any]) -> None:
        attributes = state.pop("_scale_fn_custom")
        if attributes is not None and self._scale_fn_custom is not None:
            vars(self._scale_fn_custom).update(attributes)
        super()._apply(state)


# -- the momentum -----------------------------------------------------------------------------------------------------


def uses_beta1(optimizer: Any) -> bool:
    """Is it β₁ that is the optimizer's momentum?

    Raises:
        ValueError: it has neither.
    """
    if "momentum" not in optimizer.defaults and "betas" not in optimizer.defaults:
        raise ValueError("optimizer must support momentum or beta1 with `cycle_momentum` option enabled")
    return "betas" in optimizer.defaults


def begin_momentum(optimizer: Any, beta1: bool, base: list[float], top: list[float]) -> None:
    """Set the groups' momentum to the greatest, and note both bounds in them."""
    for group, low, high in zip(optimizer.param_groups, base, top, strict=True):
        set_momentum(group, beta1, high)
        group["max_momentum"] = high
        group["base_momentum"] = low


def set_momentum(group: Any, beta1: bool, value: float) -> None:
    """Set a group's momentum."""
    if beta1:
        group["betas"] = (value, *group["betas"][1:])
    else:
        group["momentum"] = value

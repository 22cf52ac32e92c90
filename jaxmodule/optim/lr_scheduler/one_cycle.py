"""`OneCycleLR`: up to a rate and down to a much lower one, once."""

from typing import Any, Literal

import numpy as np

from .base import LRScheduler
from .cosine import half_cosine
from .cyclic import begin_momentum, set_momentum, uses_beta1
from .groups import checked, per_group


class OneCycleLR(LRScheduler):
    """The 1cycle policy: from `max_lr / div_factor` up to `max_lr`, then down to a `final_div_factor`-th of the start.

    Args:
        optimizer: the optimizer.
        max_lr: the greatest rate, or a list with one for each group.
        total_steps: the steps of the cycle.
        epochs, steps_per_epoch: their product is `total_steps` where that is None.
        pct_start: the part of the steps in which the rate rises.
        anneal_strategy: "cos" or "linear".
        cycle_momentum: let the momentum (or β₁) go down to `base_momentum` as the rate goes up, and back up.
        base_momentum, max_momentum: as `max_lr`.
        div_factor: the first rate is `max_lr / div_factor`.
        final_div_factor: the last rate is the first one divided by this.
        three_phase: go down to the first rate in as many steps as up, and from there to the last one.
        last_epoch: as in `LRScheduler`.

    Raises:
        ValueError: no number of steps; `pct_start` no float in [0, 1]; an unknown strategy; a list of another length
            than the groups; `cycle_momentum`, and the optimizer has neither momentum nor betas; or more than
            `total_steps` steps are taken.

    Source: Smith and Topin, "Super-convergence: very fast training of neural networks using large learning rates",
    2018.

    Example:
        >>> import jaxmodule as jm
        >>> rate = jm.optim.lr_scheduler.OneCycleLR.schedule(1.0, max_lr=1.0, total_steps=11, div_factor=10.0)
        >>> [round(float(rate(step)), 3) for step in (0, 2, 3, 10)]
        [0.1, 0.963, 0.98, 0.0]
    """

    def __init__(
        self,
        optimizer: Any,
        max_lr: float | list[float],
        total_steps: int | None = None,
        epochs: int | None = None,
        steps_per_epoch: int | None = None,
        pct_start: float = 0.3,
        anneal_strategy: Literal["cos", "linear"] = "cos",
        cycle_momentum: bool = True,
        base_momentum: float | list[float] = 0.85,
        max_momentum: float | list[float] = 0.95,
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
        three_phase: bool = False,
        last_epoch: int = -1,
    ) -> None:
        self.optimizer = checked(optimizer)
        self.total_steps = _total(total_steps, epochs, steps_per_epoch)
        self._schedule_phases = _phases(self.total_steps, pct_start, three_phase)
        if not isinstance(pct_start, float) or not 0 <= pct_start <= 1:
            raise ValueError(f"Expected float between 0 and 1 pct_start, but got {pct_start}")
        if anneal_strategy not in ("cos", "linear"):
            raise ValueError(f"anneal_strategy must be one of 'cos' or 'linear', instead got {anneal_strategy}")
        self._anneal_func_type = anneal_strategy
        max_lrs = per_group("max_lr", optimizer, max_lr)
        self.cycle_momentum = cycle_momentum
        if cycle_momentum:
            self.use_beta1 = uses_beta1(optimizer)
            low = per_group("base_momentum", optimizer, base_momentum)
            high = per_group("max_momentum", optimizer, max_momentum)
            if last_epoch == -1:
                begin_momentum(optimizer, self.use_beta1, low, high)
        if last_epoch == -1:
            for group, lr in zip(optimizer.param_groups, max_lrs, strict=True):
                group["initial_lr"] = lr / div_factor
                group["max_lr"] = lr
                group["min_lr"] = group["initial_lr"] / final_div_factor
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        """The rates at `last_epoch`. With `cycle_momentum` it sets the momentum, as in torch."""
        self._warn_outside_of_step()
        step = self.last_epoch
        if step > self.total_steps:
            raise ValueError(f"Tried to step {step} times. The specified number of total steps is {self.total_steps}")
        if self.cycle_momentum:
            for group in self.optimizer.param_groups:
                set_momentum(group, self.use_beta1, float(self._at(group, "momentum", float(step), np)))
        return [float(self._at(group, "lr", float(step), np)) for group in self.optimizer.param_groups]

    def _at(self, group: Any, what: str, step: Any, xp: Any) -> Any:
        """The rate or the momentum of a group at a step."""
        value: Any = None
        start = 0.0
        for phase in self._schedule_phases:
            end = phase["end_step"]
            part = (step - start) / (end - start) if end != start else 1.0
            first, last = group[phase[f"start_{what}"]], group[phase[f"end_{what}"]]
            here = self._between(first, last, part, xp)
            value = here if value is None else xp.where(step > start, here, value)
            start = end
        return value

    def _between(self, first: Any, last: Any, part: Any, xp: Any) -> Any:
        if self._anneal_func_type == "cos":
            return last + (first - last) * half_cosine(part, xp)
        return (last - first) * part + first

    def _get_closed_form_lr(self) -> list[float]:
        return self.get_lr()  # which sets the momentum too

    def _rate(self, base: Any, step: Any, group: int, xp: Any) -> Any:
        return self._at(self.optimizer.param_groups[group], "lr", step, xp)


def _total(total_steps: int | None, epochs: int | None, steps_per_epoch: int | None) -> int:
    if total_steps is None and (epochs is None or steps_per_epoch is None):
        raise ValueError("You must define either total_steps OR (epochs AND steps_per_epoch)")
    given = {"epochs": epochs, "steps_per_epoch": steps_per_epoch} if total_steps is None else {}
    for name, value in (given or {"total_steps": total_steps}).items():
        if not isinstance(value, int) or value <= 0:
            raise ValueError(f"Expected positive integer {name}, but got {value}")
    return total_steps if total_steps is not None else epochs * steps_per_epoch  # pyright: ignore


def _phases(total: int, pct_start: float, three: bool) -> list[dict[str, Any]]:
    """Where each phase ends, and the names of what it starts from and goes to; as torch has them in its state."""
    names = ("end_step", "start_lr", "end_lr", "start_momentum", "end_momentum")
    up = (float(pct_start * total) - 1, "initial_lr", "max_lr", "max_momentum", "base_momentum")
    down = (total - 1, "max_lr", "min_lr", "base_momentum", "max_momentum")
    if not three:
        return [dict(zip(names, phase, strict=True)) for phase in (up, down)]
    back = (float(2 * pct_start * total) - 2, "max_lr", "initial_lr", "base_momentum", "max_momentum")
    out = (total - 1, "initial_lr", "min_lr", "max_momentum", "max_momentum")
    return [dict(zip(names, phase, strict=True)) for phase in (up, back, out)]

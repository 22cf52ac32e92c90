"""Schedulers that multiply the learning rate by a factor of the step."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

from .base import LRScheduler


class FactorLR(LRScheduler):
    """A scheduler whose rate is `initial_lr * factor(step)`, and which can be chained with others of its kind.

    What it multiplies the last rate by is the quotient of two factors, so that what others do to the rate stays.
    """

    def _factor(self, step: Any, xp: Any) -> Any:
        """The factor at a step, a float or an array."""
        raise NotImplementedError

    def _rate(self, base: Any, step: Any, group: int, xp: Any) -> Any:
        return base * self._factor(step, xp)

    def _times(self, factor: float) -> list[float]:
        return [lr * factor for lr in self._lrs()]


class StepLR(FactorLR):
    """`lr *= gamma` every `step_size` steps.

    Args:
        optimizer: the optimizer.
        step_size: after how many steps.
        gamma: by what.
        last_epoch: as in `LRScheduler`.

    Example:
        >>> import jaxmodule as jm
        >>> rate = jm.optim.lr_scheduler.StepLR.schedule(0.05, step_size=30, gamma=0.5)
        >>> [round(float(rate(step)), 4) for step in (0, 29, 30, 60)]
        [0.05, 0.05, 0.025, 0.0125]
    """

    def __init__(self, optimizer: Any, step_size: int, gamma: float = 0.1, last_epoch: int = -1) -> None:
        self.step_size = step_size
        self.gamma = gamma
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        """The rates, times `gamma` where the step is a multiple of `step_size`."""
        self._warn_outside_of_step()
        due = self.last_epoch != 0 and self.last_epoch % self.step_size == 0
        return self._times(self.gamma) if due else self._lrs()

    def _factor(self, step: Any, xp: Any) -> Any:
        return self.gamma ** (step // self.step_size)


class MultiStepLR(FactorLR):
    """`lr *= gamma` at each of some steps.

    Args:
        optimizer: the optimizer.
        milestones: the steps; one that is there n times counts n times.
        gamma: by what.
        last_epoch: as in `LRScheduler`.

    Example:
        >>> import jaxmodule as jm
        >>> rate = jm.optim.lr_scheduler.MultiStepLR.schedule(0.05, milestones=[30, 80])
        >>> [round(float(rate(step)), 4) for step in (0, 30, 80)]
        [0.05, 0.005, 0.0005]
    """

    def __init__(self, optimizer: Any, milestones: Iterable[int], gamma: float = 0.1, last_epoch: int = -1) -> None:
        self.milestones = Counter(milestones)
        self.gamma = gamma
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        """The rates, times `gamma` where the step is a milestone."""
        self._warn_outside_of_step()
        times = self.milestones.get(self.last_epoch, 0)
        return self._times(self.gamma**times) if times else self._lrs()

    def _factor(self, step: Any, xp: Any) -> Any:
        passed = sum(times * xp.where(step >= milestone, 1.0, 0.0) for milestone, times in self.milestones.items())
        return self.gamma**passed

    def _apply(self, state: dict[str, Any]) -> None:
        counts = {int(milestone): int(times) for milestone, times in state["milestones"].items()}
        super()._apply({**state, "milestones": Counter(counts)})


class ConstantLR(FactorLR):
    """`lr = initial_lr * factor` for the first `total_iters` steps.

    Args:
        optimizer: the optimizer.
        factor: in [0, 1].
        total_iters: for how many steps.
        last_epoch: as in `LRScheduler`.

    Raises:
        ValueError: `factor` is out of its range.

    Example:
        >>> import jaxmodule as jm
        >>> rate = jm.optim.lr_scheduler.ConstantLR.schedule(0.1, factor=0.5, total_iters=4)
        >>> [round(float(rate(step)), 4) for step in (0, 3, 4)]
        [0.05, 0.05, 0.1]
    """

    def __init__(self, optimizer: Any, factor: float = 1.0 / 3, total_iters: int = 5, last_epoch: int = -1) -> None:
        if not 0 <= factor <= 1:
            raise ValueError("Constant multiplicative factor expected to be between 0 and 1.")
        self.factor = factor
        self.total_iters = total_iters
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        """The rates, times `factor` at first and divided by it at `total_iters`."""
        self._warn_outside_of_step()
        if self.last_epoch == 0:
            return self._times(self.factor)
        return self._times(1.0 / self.factor) if self.last_epoch == self.total_iters else self._lrs()

    def _factor(self, step: Any, xp: Any) -> Any:
        return xp.where(step >= self.total_iters, 1.0, self.factor)


class LinearLR(FactorLR):
    """`lr = initial_lr * f` with f going linearly from `start_factor` to `end_factor` in `total_iters` steps.

    Args:
        optimizer: the optimizer.
        start_factor: f at step 0, in (0, 1].
        end_factor: f from step `total_iters` on, in [0, 1].
        total_iters: in how many steps.
        last_epoch: as in `LRScheduler`.

    Raises:
        ValueError: a factor is out of its range.

    Example:
        >>> import jaxmodule as jm
        >>> rate = jm.optim.lr_scheduler.LinearLR.schedule(0.1, start_factor=0.5, total_iters=4)
        >>> [round(float(rate(step)), 4) for step in range(6)]
        [0.05, 0.0625, 0.075, 0.0875, 0.1, 0.1]
    """

    def __init__(
        self,
        optimizer: Any,
        start_factor: float = 1.0 / 3,
        end_factor: float = 1.0,
        total_iters: int = 5,
        last_epoch: int = -1,
    ) -> None:
        if not 0 < start_factor <= 1:
            raise ValueError("Starting multiplicative factor expected to be greater than 0 and less or equal to 1.")
        if not 0 <= end_factor <= 1:
            raise ValueError("Ending multiplicative factor expected to be between 0 and 1.")
        self.start_factor = start_factor
        self.end_factor = end_factor
        self.total_iters = total_iters
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        """The rates, times the quotient of this step's factor and the last one's."""
        self._warn_outside_of_step()
        if self.last_epoch == 0:
            return self._times(self.start_factor)
        if self._is_initial or self.last_epoch > self.total_iters:
            return self._lrs()
        rise = self.end_factor - self.start_factor
        return self._times(1.0 + rise / (self.total_iters * self.start_factor + (self.last_epoch - 1) * rise))

    def _factor(self, step: Any, xp: Any) -> Any:
        rise = self.end_factor - self.start_factor
        return self.start_factor + rise * xp.minimum(self.total_iters, step) / self.total_iters


class ExponentialLR(FactorLR):
    """`lr *= gamma` every step.

    Args:
        optimizer: the optimizer.
        gamma: by what.
        last_epoch: as in `LRScheduler`.

    Example:
        >>> import jaxmodule as jm
        >>> rate = jm.optim.lr_scheduler.ExponentialLR.schedule(0.1, gamma=0.5)
        >>> [round(float(rate(step)), 4) for step in range(3)]
        [0.1, 0.05, 0.025]
    """

    def __init__(self, optimizer: Any, gamma: float, last_epoch: int = -1) -> None:
        self.gamma = gamma
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        """The rates times `gamma`."""
        self._warn_outside_of_step()
        return self._lrs() if self._is_initial else self._times(self.gamma)

    def _factor(self, step: Any, xp: Any) -> Any:
        return self.gamma**step


class PolynomialLR(FactorLR):
    """`lr = initial_lr * (1 - step / total_iters)^power`, and 0 from `total_iters` on.

    Args:
        optimizer: the optimizer.
        total_iters: in how many steps.
        power: of the polynomial.
        last_epoch: as in `LRScheduler`.

    Example:
        >>> import jaxmodule as jm
        >>> rate = jm.optim.lr_scheduler.PolynomialLR.schedule(0.1, total_iters=4, power=2.0)
        >>> [round(float(rate(step)), 4) for step in range(6)]
        [0.1, 0.0563, 0.025, 0.0063, 0.0, 0.0]
    """

    def __init__(self, optimizer: Any, total_iters: int = 5, power: float = 1.0, last_epoch: int = -1) -> None:
        self.total_iters = total_iters
        self.power = power
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        """The rates, times the quotient of this step's factor and the last one's."""
        self._warn_outside_of_step()
        if self._is_initial or self.last_epoch > self.total_iters:
            return self._lrs()
        now = 1.0 - self.last_epoch / self.total_iters
        before = 1.0 - (self.last_epoch - 1) / self.total_iters
        return self._times((now / before) ** self.power)

    def _factor(self, step: Any, xp: Any) -> Any:
        return (1.0 - xp.minimum(self.total_iters, step) / self.total_iters) ** self.power

"""Schedulers along a cosine: annealing, with warm restarts, and after a warm-up."""

import math
from typing import Any

from .base import LRScheduler


def half_cosine(part: Any, xp: Any) -> Any:
    """From 1 at 0 to 0 at 1, along a cosine."""
    return (1 + xp.cos(math.pi * part)) / 2


class CosineAnnealingLR(LRScheduler):
    """`lr = eta_min + (initial_lr - eta_min) * (1 + cos(pi * step / T_max)) / 2`.

    Args:
        optimizer: the optimizer.
        T_max: the step at which the rate is `eta_min`; after it the rate rises again.
        eta_min: the least rate.
        last_epoch: as in `LRScheduler`.

    Source: Loshchilov and Hutter, "SGDR: stochastic gradient descent with warm restarts", 2017, without the restarts.

    Note:
        As in torch each rate is computed from the last one, so that what others do to the rate is kept in proportion.

    Example:
        >>> import jaxmodule as jm
        >>> rate = jm.optim.lr_scheduler.CosineAnnealingLR.schedule(0.1, T_max=4)
        >>> [round(float(rate(step)), 4) for step in range(5)]
        [0.1, 0.0854, 0.05, 0.0146, 0.0]
    """

    def __init__(self, optimizer: Any, T_max: int, eta_min: float = 0.0, last_epoch: int = -1) -> None:
        self.T_max = T_max
        self.eta_min = eta_min
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        """The rates, each from the last one."""
        self._warn_outside_of_step()
        if self._is_initial:
            return self._lrs()
        if self._step_count == 1 and self.last_epoch > 0:
            return self._get_closed_form_lr()
        if (self.last_epoch - 1 - self.T_max) % (2 * self.T_max) == 0:  # the last rate was eta_min: no quotient
            rise = (1 - math.cos(math.pi / self.T_max)) / 2
            return [lr + (base - self.eta_min) * rise for lr, base in zip(self._lrs(), self.base_lrs, strict=True)]
        now, before = (1 + math.cos(math.pi * step / self.T_max) for step in (self.last_epoch, self.last_epoch - 1))
        return [now / before * (lr - self.eta_min) + self.eta_min for lr in self._lrs()]

    def _rate(self, base: Any, step: Any, group: int, xp: Any) -> Any:
        return self.eta_min + (base - self.eta_min) * half_cosine(step / self.T_max, xp)


class CosineAnnealingWarmRestarts(LRScheduler):
    """Cosine annealing that starts again from `initial_lr` after `T_0` steps, then after `T_0 * T_mult`, and so on.

    Args:
        optimizer: the optimizer.
        T_0: the steps until the first restart.
        T_mult: by what the steps until the next restart grow.
        eta_min: the least rate.
        last_epoch: as in `LRScheduler`.

    Attributes:
        T_cur: the steps since the last restart.
        T_i: the steps between it and the next.

    Raises:
        ValueError: `T_0` or `T_mult` is no positive int, or `eta_min` no number.

    Source: Loshchilov and Hutter, "SGDR: stochastic gradient descent with warm restarts", 2017.

    Example:
        >>> import jaxmodule as jm
        >>> rate = jm.optim.lr_scheduler.CosineAnnealingWarmRestarts.schedule(0.1, T_0=2, T_mult=2)
        >>> [round(float(rate(step)), 4) for step in range(7)]
        [0.1, 0.05, 0.1, 0.0854, 0.05, 0.0146, 0.1]
    """

    def __init__(
        self,
        optimizer: Any,
        T_0: int,
        T_mult: int = 1,
        eta_min: float = 0.0,
        last_epoch: int = -1,
    ) -> None:
        if not isinstance(T_0, int) or T_0 <= 0:
            raise ValueError(f"Expected positive integer T_0, but got {T_0}")
        if not isinstance(T_mult, int) or T_mult < 1:
            raise ValueError(f"Expected integer T_mult >= 1, but got {T_mult}")
        if not isinstance(eta_min, (float, int)):
            raise ValueError(f"Expected float or int eta_min, but got {eta_min} of type {type(eta_min)}")
        self.T_0 = T_0
        self.T_i = T_0
        self.T_mult = T_mult
        self.eta_min = eta_min
        self.T_cur: float = last_epoch
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        """The rates at `T_cur` of `T_i`."""
        self._warn_outside_of_step()
        part = (1 + math.cos(math.pi * self.T_cur / self.T_i)) / 2
        return [self.eta_min + (base - self.eta_min) * part for base in self.base_lrs]

    def step(self, epoch: float | None = None) -> None:
        """Go to the next rate, or to that at `epoch`, which may be a fraction: `epoch + i / batches`.

        Raises:
            ValueError: `epoch` is negative.
            StateError: called inside a transform.
        """
        if epoch is not None and epoch < 0:
            raise ValueError(f"Expected non-negative epoch, but got {epoch}")
        self._check_step()
        if epoch is None and self.last_epoch < 0:
            epoch = 0
        if epoch is None:
            epoch = self.last_epoch + 1
            self.T_cur += 1
            if self.T_cur >= self.T_i:
                self.T_cur %= self.T_i
                self.T_i *= self.T_mult
        elif epoch < self.T_0:
            self.T_i = self.T_0
            self.T_cur = epoch
        elif self.T_mult == 1:
            self.T_cur = epoch % self.T_0
        else:
            restarts = int(math.log(epoch / self.T_0 * (self.T_mult - 1) + 1, self.T_mult))
            self.T_cur = epoch - self._start_of(restarts)
            self.T_i = self.T_0 * self.T_mult**restarts
        self.last_epoch = math.floor(epoch)
        with self._within_step():
            rates = self.get_lr()
        self._set(rates)

    def _get_closed_form_lr(self) -> list[float]:
        return self.get_lr()

    def _start_of(self, restarts: int) -> float:
        """The step of a restart, counted from 0."""
        return self.T_0 * (self.T_mult**restarts - 1) / (self.T_mult - 1)

    def _rate(self, base: Any, step: Any, group: int, xp: Any) -> Any:
        if self.T_mult == 1:
            since, period = step % self.T_0, self.T_0
        else:  # a logarithm in float32 is off where it matters, at the restarts: compare with each that int32 has
            since, period, restarts = step, self.T_0, 1
            while self._start_of(restarts) < 2**31:
                start = self._start_of(restarts)
                since = xp.where(step >= start, step - start, since)
                period = xp.where(step >= start, float(self.T_0 * self.T_mult**restarts), period)
                restarts += 1
        return self.eta_min + (base - self.eta_min) * half_cosine(since / period, xp)


class WarmupCosineLR(LRScheduler):
    """Linear warm-up from `start_factor * initial_lr`, then a cosine down to `eta_min`, where it stays.

    The same numbers as `SequentialLR(optimizer, [LinearLR(optimizer, start_factor, total_iters=warmup_iters),
    CosineAnnealingLR(optimizer, total_iters - warmup_iters, eta_min)], [warmup_iters])` up to step `total_iters`, after
    which that one rises again.

    Args:
        optimizer: the optimizer.
        warmup_iters: the steps of the warm-up; at step `warmup_iters` the rate is `initial_lr`.
        total_iters: the steps of the whole schedule, the warm-up among them.
        start_factor: of the first step's rate; 0 wastes the first step.
        eta_min: the least rate.
        last_epoch: as in `LRScheduler`.

    Raises:
        ValueError: `total_iters` is not greater than `warmup_iters`, or `start_factor` not in [0, 1].

    Note:
        torch has no such scheduler.

    Example:
        >>> import jaxmodule as jm
        >>> rate = jm.optim.lr_scheduler.WarmupCosineLR.schedule(1.0, warmup_iters=2, total_iters=6, start_factor=0.5)
        >>> [round(float(rate(step)), 3) for step in range(8)]
        [0.5, 0.75, 1.0, 0.854, 0.5, 0.146, 0.0, 0.0]
    """

    def __init__(
        self,
        optimizer: Any,
        warmup_iters: int,
        total_iters: int,
        start_factor: float = 0.01,
        eta_min: float = 0.0,
        last_epoch: int = -1,
    ) -> None:
        if not 0 <= warmup_iters < total_iters:
            raise ValueError(
                f"total_iters has the warm-up in it and must be greater: got warmup_iters={warmup_iters}, "
                f"total_iters={total_iters}"
            )
        if not 0 <= start_factor <= 1:
            raise ValueError(f"start_factor must be between 0 and 1, got {start_factor}")
        self.warmup_iters = warmup_iters
        self.total_iters = total_iters
        self.start_factor = start_factor
        self.eta_min = eta_min
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        """The rates at `last_epoch`."""
        self._warn_outside_of_step()
        return self._get_closed_form_lr()

    def _rate(self, base: Any, step: Any, group: int, xp: Any) -> Any:
        after = xp.clip((step - self.warmup_iters) / (self.total_iters - self.warmup_iters), 0.0, 1.0)
        cosine = self.eta_min + (base - self.eta_min) * half_cosine(after, xp)
        rise = self.start_factor + (1 - self.start_factor) * step / max(1, self.warmup_iters)
        return xp.where(step < self.warmup_iters, base * rise, cosine)

"""Schedulers of schedulers: one after the other, and all at once."""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from .base import LRScheduler, Schedule
from .factors import FactorLR
from .groups import values_of
from .plateau import ReduceLROnPlateau


class _Combined(LRScheduler):
    """What the schedulers of schedulers share."""

    _schedulers: Sequence[LRScheduler]

    def _initial_step(self) -> None:
        for scheduler in self._schedulers:
            scheduler._untouched = None  # in a scheduler that this one is in, they take their first step twice
        super()._initial_step()

    def _check(self, schedulers: Sequence[Any], optimizer: Any) -> None:
        name = type(self).__name__
        for i, scheduler in enumerate(schedulers):
            if not hasattr(scheduler, "optimizer"):
                raise TypeError(f"{name} at index {i} should have `optimizer` as its attribute.")
            if isinstance(scheduler, ReduceLROnPlateau):
                raise ValueError(
                    f"{name} does not support `ReduceLROnPlateau` scheduler as it requires additional kwargs to be "
                    f"specified when calling `step`, but got one at index {i} in the given schedulers sequence."
                )
            if scheduler.optimizer is not optimizer:
                raise ValueError(
                    f"{name} expects all schedulers to belong to the same optimizer, but got scheduler "
                    f"{type(scheduler).__name__} at index {i} has {scheduler.optimizer}, which is different from "
                    f"{type(optimizer).__name__}."
                )

    def state_dict(self) -> dict[str, Any]:
        """All but the optimizer, with the states of the schedulers."""
        return {**super().state_dict(), "_schedulers": [scheduler.state_dict() for scheduler in self._schedulers]}

    def _checked_state(self, state_dict: Mapping[str, Any]) -> dict[str, Any]:
        given = state_dict.get("_schedulers", ())
        state = super()._checked_state(state_dict)
        if len(given) != len(self._schedulers):
            raise ValueError(
                f"the state that is loaded into {type(self).__name__} is of {len(given)} schedulers, not of "
                f"{len(self._schedulers)}"
            )
        pairs = zip(self._schedulers, given, strict=True)
        return {**state, "_schedulers": [scheduler._checked_state(one) for scheduler, one in pairs]}

    def _apply(self, state: dict[str, Any]) -> None:
        for scheduler, one in zip(self._schedulers, state.pop("_schedulers"), strict=True):
            scheduler._apply(one)
        super()._apply(state)

    @classmethod
    def schedule(cls, lr: float, *args: Any, **kwargs: Any) -> Schedule:
        """Not for these: join the schedules of the parts, as `optax.join_schedules` does.

        Raises:
            TypeError: always.
        """
        raise TypeError(
            f"{cls.__name__} is made of schedulers, which have an optimizer: call as_optax() on one, or join schedules "
            "with optax.join_schedules"
        )


class SequentialLR(_Combined):
    """One scheduler after the other.

    Args:
        optimizer: the optimizer.
        schedulers: the schedulers, all of this optimizer.
        milestones: the steps at which the second, the third, ... begins.
        last_epoch: the number of the last step.

    Raises:
        ValueError: no scheduler, one of another optimizer, a `ReduceLROnPlateau`, or a wrong number of milestones.
        TypeError: something in `schedulers` is none.

    Note:
        For the frequent pair of a warm-up and a cosine there is `WarmupCosineLR`.

    Example:
        >>> import jaxmodule as jm
        >>> from jaxmodule import nn
        >>> from jaxmodule.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR
        >>> optimizer = jm.optim.SGD(nn.Linear(2, 1).parameters(), lr=0.1)
        >>> parts = [LinearLR(optimizer, 0.5, total_iters=2), CosineAnnealingLR(optimizer, T_max=4)]
        >>> rate = SequentialLR(optimizer, parts, milestones=[2]).as_optax()
        >>> [round(float(rate(step)), 4) for step in range(7)]
        [0.05, 0.075, 0.1, 0.0854, 0.05, 0.0146, 0.0]
    """

    def __init__(
        self, optimizer: Any, schedulers: Sequence[LRScheduler], milestones: Sequence[int], last_epoch: int = -1
    ) -> None:
        if len(schedulers) < 1:
            raise ValueError(f"{type(self).__name__} expects at least one scheduler, but got no scheduler.")
        self._check(schedulers, optimizer)
        if len(milestones) != len(schedulers) - 1:
            raise ValueError(
                "Sequential Schedulers expects number of schedulers provided to be one more than the number of "
                f"milestone points, but got number of schedulers {len(schedulers)} and the number of milestones to be "
                f"equal to {len(milestones)}"
            )
        self._schedulers = schedulers
        self._milestones = list(milestones)
        self.last_epoch = last_epoch + 1
        self.optimizer = optimizer
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"]
        _undo(self)  # each scheduler took its first step when it was made
        first = schedulers[bisect_right(self._milestones, 0)]
        first._initial_step()
        self._last_lr = first.get_last_lr()

    def step(self) -> None:  # pyright: ignore
        """Take a step of the scheduler whose turn it is.

        Raises:
            StateError: called inside a transform.
        """
        index = bisect_right(self._milestones, self.last_epoch + 1)
        scheduler = self._schedulers[index]
        if index > 0 and self._milestones[index - 1] == self.last_epoch + 1:
            scheduler._check_step()
            scheduler._update_lr(0)
        else:
            scheduler.step()
        self.last_epoch += 1
        self._last_lr = scheduler.get_last_lr()

    def _is_closed(self) -> bool:
        return all(scheduler._is_closed() for scheduler in self._schedulers)

    def as_optax(self, group: int = 0) -> Schedule:
        """The schedulers' schedules, joined. See `LRScheduler.as_optax`."""
        schedules = [scheduler.as_optax(group) for scheduler in self._schedulers]
        starts = [0, *self._milestones]

        def schedule(count: Any) -> jax.Array:
            count = jnp.asarray(count)
            value = schedules[0](count)
            for start, part in zip(starts[1:], schedules[1:], strict=True):
                value = jnp.where(count >= start, part(count - start), value)
            return value

        return schedule


def _undo(scheduler: Any) -> None:
    if isinstance(scheduler, _Combined):
        for part in scheduler._schedulers:
            _undo(part)
    else:
        scheduler.last_epoch -= 1


class ChainedScheduler(_Combined):
    """Several schedulers at once: each step is one step of all, one after the other.

    Args:
        schedulers: the schedulers, all of one optimizer.
        optimizer: the optimizer; that of the first scheduler if None.

    Raises:
        ValueError: no scheduler, one of another optimizer, or a `ReduceLROnPlateau`.
        TypeError: something in `schedulers` is none.

    Example:
        >>> import jaxmodule as jm
        >>> from jaxmodule import nn
        >>> from jaxmodule.optim.lr_scheduler import ChainedScheduler, ConstantLR, ExponentialLR
        >>> optimizer = jm.optim.SGD(nn.Linear(2, 1).parameters(), lr=1.0)
        >>> parts = [ConstantLR(optimizer, factor=0.1, total_iters=2), ExponentialLR(optimizer, gamma=0.5)]
        >>> rate = ChainedScheduler(parts).as_optax()
        >>> [round(float(rate(step)), 3) for step in range(4)]
        [0.1, 0.05, 0.25, 0.125]
    """

    def __init__(self, schedulers: Sequence[LRScheduler], optimizer: Any = None) -> None:
        if len(schedulers) < 1:
            raise ValueError(
                f"{type(self).__name__} expects at least one scheduler to be chained, but got no scheduler."
            )
        optimizer = getattr(schedulers[0], "optimizer", None) if optimizer is None else optimizer
        self._check(schedulers, optimizer)
        self._schedulers = schedulers
        self.optimizer = optimizer
        self._last_lr = values_of(optimizer, "lr")

    def step(self) -> None:  # pyright: ignore
        """Take a step of each scheduler.

        Raises:
            StateError: called inside a transform.
        """
        for scheduler in self._schedulers:
            scheduler.step()
        self._last_lr = values_of(self.optimizer, "lr")

    def _is_closed(self) -> bool:
        return all(isinstance(scheduler, FactorLR) and scheduler._is_closed() for scheduler in self._schedulers)

    @property
    def base_lrs(self) -> list[float]:
        """The learning rates that the schedulers start from."""
        return self._schedulers[0].base_lrs

    def _rate(self, base: Any, step: Any, group: int, xp: Any) -> Any:
        for scheduler in self._schedulers:
            base = scheduler._rate(base, step, group, xp)
        return base

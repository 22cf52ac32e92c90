"""Schedulers whose rate a function of the user's gives."""

from collections.abc import Callable, Mapping
from typing import Any

from .base import LRScheduler
from .groups import per_group, state_of_function

Factor = Callable[[int], float]


class _OfFunctions(LRScheduler):
    """What the schedulers of one function for each group share."""

    lr_lambdas: list[Factor]

    def __init__(self, optimizer: Any, lr_lambda: Factor | list[Factor], last_epoch: int = -1) -> None:
        groups = len(getattr(optimizer, "param_groups", ()))
        if isinstance(lr_lambda, (list, tuple)) and len(lr_lambda) != groups:
            raise ValueError(f"Expected {groups} lr_lambdas, but got {len(lr_lambda)}")
        self.lr_lambdas = per_group("lr_lambda", optimizer, lr_lambda) if groups else []
        for function in self.lr_lambdas:
            if not callable(function):
                raise TypeError(f"lr_lambda should be a function, but got {type(function).__name__}")
        super().__init__(optimizer, last_epoch)

    def state_dict(self) -> dict[str, Any]:
        """All but the optimizer. Of the functions those that are callable objects are in it, by their attributes."""
        return {**super().state_dict(), "lr_lambdas": [state_of_function(f) for f in self.lr_lambdas]}

    def _apply(self, state: dict[str, Any]) -> None:
        for function, attributes in zip(self.lr_lambdas, state.pop("lr_lambdas"), strict=True):
            if attributes is not None:
                vars(function).update(attributes)
        super()._apply(state)

    def _checked_state(self, state_dict: Mapping[str, Any]) -> dict[str, Any]:
        state = super()._checked_state(state_dict)
        if len(state["lr_lambdas"]) != len(self.lr_lambdas):
            raise ValueError(f"Expected {len(self.lr_lambdas)} lr_lambdas, but got {len(state['lr_lambdas'])}")
        return state


class LambdaLR(_OfFunctions):
    """`lr = initial_lr * lr_lambda(step)`.

    Args:
        optimizer: the optimizer.
        lr_lambda: a function of the step, or a list of them with one for each group.
        last_epoch: as in `LRScheduler`.

    Raises:
        ValueError: another number of functions than groups.
        TypeError: something in it is not callable.

    Note:
        `as_optax()` calls the function with a traced array: it must be one of `jax.numpy` then.

    Example:
        >>> import jaxmodule as jm
        >>> rate = jm.optim.lr_scheduler.LambdaLR.schedule(0.1, lambda step: 0.5**step)
        >>> round(float(rate(2)), 4)
        0.025
    """

    def get_lr(self) -> list[float]:
        """`initial_lr * lr_lambda(last_epoch)` for each group."""
        self._warn_outside_of_step()
        return [base * f(self.last_epoch) for f, base in zip(self.lr_lambdas, self.base_lrs, strict=True)]

    def _rate(self, base: Any, step: Any, group: int, xp: Any) -> Any:
        return base * self.lr_lambdas[group](step)

    def _get_closed_form_lr(self) -> list[float]:
        return self.get_lr()  # the user's function gets an int, as in torch


class MultiplicativeLR(_OfFunctions):
    """`lr *= lr_lambda(step)`.

    Args:
        optimizer: the optimizer.
        lr_lambda: a function of the step, or a list of them with one for each group.
        last_epoch: as in `LRScheduler`.

    Raises:
        ValueError: another number of functions than groups.
        TypeError: something in it is not callable.

    Example:
        >>> import jaxmodule as jm
        >>> from jaxmodule import nn
        >>> optimizer = jm.optim.SGD(nn.Linear(2, 1).parameters(), lr=0.1)
        >>> jm.optim.lr_scheduler.MultiplicativeLR(optimizer, lambda step: 0.95).get_last_lr()
        [0.1]
    """

    def get_lr(self) -> list[float]:
        """Each group's rate times `lr_lambda(last_epoch)`."""
        self._warn_outside_of_step()
        if self._is_initial:
            return self._lrs()
        return [lr * f(self.last_epoch) for f, lr in zip(self.lr_lambdas, self._lrs(), strict=True)]

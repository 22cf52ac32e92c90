"""An optimizer's groups, as the schedulers see them."""

import types
import weakref
from typing import Any

import jax
import numpy as np

from ..optimizer import OptimizerBase


class Untouched:
    """Do an optimizer's parameters still hold the arrays that they held when this was made?"""

    def __init__(self, optimizer: Any) -> None:
        boxes = [box for group in optimizer.param_groups for box in group.get("params", ()) if box.requires_grad]
        self._boxes = boxes if all(isinstance(box._value, jax.Array) for box in boxes) else []
        self._arrays = [weakref.ref(box._value) for box in self._boxes]

    def __call__(self) -> bool:
        pairs = zip(self._boxes, self._arrays, strict=True)
        return bool(self._boxes) and all(box._value is array() for box, array in pairs)

    def __reduce__(self) -> Any:
        return (type(None), ())  # a copy or a pickle goes on without


class Rates:
    """What a scheduler needs of an optimizer, with one group: for `schedule`."""

    def __init__(self, lr: float) -> None:
        self.defaults: dict[str, Any] = {"lr": lr, "momentum": 0.9}
        self.param_groups: list[dict[str, Any]] = [dict(self.defaults)]


def checked(optimizer: Any) -> Any:
    """The optimizer.

    Raises:
        TypeError: it is none, or one without learning rates.
    """
    if not isinstance(optimizer, (OptimizerBase, Rates)):
        raise TypeError(f"{type(optimizer).__name__} is not an Optimizer")
    if any("lr" not in group for group in optimizer.param_groups):
        raise TypeError(
            f"the groups of {type(optimizer).__name__} have no 'lr' that a scheduler could set. An optax "
            "transformation takes the schedule itself: "
            "optax.adamw(jm.optim.lr_scheduler.StepLR.schedule(1e-3, step_size=30))"
        )
    return optimizer


def values_of(optimizer: Any, key: str) -> list[float]:
    """`group[key]` of each group."""
    return [group[key] for group in optimizer.param_groups]


def per_group(name: str, optimizer: Any, value: Any) -> list[Any]:
    """An argument for each group: a list of the right length, or one value for all.

    Raises:
        ValueError: the list has another length.
    """
    groups = len(optimizer.param_groups)
    if not isinstance(value, (list, tuple)):
        return [value] * groups
    if len(value) != groups:
        raise ValueError(
            f"{name} must have the same length as optimizer.param_groups. {name} has {len(value)} values, param_groups "
            f"has {groups}."
        )
    return list(value)


def state_of_function(function: Any) -> Any:
    """What a state dict has of a function: the attributes of a callable object, None for a function or lambda."""
    return None if isinstance(function, types.FunctionType) else dict(vars(function))


def plain(value: Any) -> Any:
    """A loaded value in Python's types: files have arrays."""
    if isinstance(value, (jax.Array, np.ndarray, np.generic)):
        return value.tolist()
    return type(value)(map(plain, value)) if type(value) in (list, tuple) else value

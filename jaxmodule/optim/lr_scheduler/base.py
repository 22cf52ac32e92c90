"""`LRScheduler`: the base of the schedulers, with torch's `step()` interface."""

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from ...core.context import tls, trace_state
from ...core.errors import StateError
from .groups import Rates, Untouched, checked, plain, values_of

Schedule = Callable[[Any], Any]

EPOCH_DEPRECATION_WARNING = (
    "The epoch parameter in `scheduler.step()` was not necessary and is being deprecated where possible. Please use "
    "`scheduler.step()` to step the scheduler: with an epoch it is the closed form that is used, where there is one, "
    "not the chainable form."
)
_TOO_EARLY = (
    "Detected call of `lr_scheduler.step()` before `optimizer.step()`: no parameter of the optimizer has changed since "
    "the scheduler was made. Call `optimizer.step()` first, or the first value of the learning rate is skipped."
)
#: What the states of older versions of torch have besides.
_OF_OLD_TORCH = ("verbose",)
_IN_PROGRAM = (
    "lr_scheduler.step() is called inside jm.jit or another transform, where it would run once, when the function is "
    "traced, and not on each call."
)
_BETWEEN = (
    "Call it after the compiled step: `loss = train_step(model, optimizer, x); scheduler.step()`. A new rate compiles\n"
    "nothing anew. For a rate that the program computes itself, give an optax transformation `scheduler.as_optax()`."
)


class LRScheduler:
    """The base of the schedulers: sets the learning rate of each of an optimizer's groups, once a `step()`.

    A subclass defines `get_lr`, the next rates from the last ones (so that schedulers can be chained). Where the rate
    is a function of the step alone it defines `_rate` too, which is then the closed form and the optax schedule.

    Args:
        optimizer: an optimizer whose groups have an "lr".
        last_epoch: the number of the last step; -1 to begin. Only for going on with an optimizer whose state was
            loaded, as its groups must have an "initial_lr" then.

    Attributes:
        optimizer: the optimizer.
        last_epoch: how many times `step()` was called.
        base_lrs: the learning rates it starts from: `initial_lr` of the groups.

    Raises:
        TypeError: `optimizer` is no optimizer, or has no "lr" (an optax transformation has its rate in itself).
        KeyError: `last_epoch` is given, and a group has no "initial_lr".

    Note:
        torch warns of a `step()` before `optimizer.step()` by replacing the optimizer's method. Here it is seen from
        the parameters, none of which has changed then, so that compiled steps count as well.

    Example:
        >>> import jaxmodule as jm
        >>> from jaxmodule import nn
        >>> class Halve(jm.optim.lr_scheduler.LRScheduler):
        ...     def get_lr(self):
        ...         return [lr / 2**self.last_epoch for lr in self.base_lrs]
        >>> model = nn.Linear(2, 1)
        >>> optimizer = jm.optim.SGD(model.parameters(), lr=0.8)
        >>> scheduler = Halve(optimizer)
        >>> optimizer.step({name: parameter.value for name, parameter in model.named_parameters()})
        >>> scheduler.step()
        >>> scheduler.get_last_lr(), optimizer.param_groups[0]["lr"]
        ([0.4], 0.4)
    """

    _get_lr_called_within_step: bool = False
    _is_initial: bool = False
    _unsaved: ClassVar[tuple[str, ...]] = ("optimizer", "_untouched")

    def __init__(self, optimizer: Any, last_epoch: int = -1) -> None:
        self.optimizer = checked(optimizer)
        for i, group in enumerate(optimizer.param_groups):
            if last_epoch == -1:
                group.setdefault("initial_lr", group["lr"])
            elif "initial_lr" not in group:
                raise KeyError(
                    f"param 'initial_lr' is not specified in param_groups[{i}] when resuming a scheduler with "
                    f"last_epoch={last_epoch}: load the optimizer's state first, or leave last_epoch at -1"
                )
        self.base_lrs = values_of(optimizer, "initial_lr")
        self.last_epoch = last_epoch
        self._untouched = Untouched(optimizer)
        self._initial_step()

    def _initial_step(self) -> None:
        self._step_count = 0
        self._is_initial = True
        try:
            self.step()
        finally:
            self._is_initial = False

    # -- the interface --------------------------------------------------------------------------------------------
    def get_last_lr(self) -> list[float]:
        """The learning rate of each group that the last `step()` has set."""
        return self._last_lr

    def get_lr(self) -> list[float]:
        """The next learning rate of each group; `step` calls it. See `get_last_lr` for the present ones."""
        raise NotImplementedError

    def step(self, epoch: int | None = None) -> None:
        """Go to the next learning rate. Call it after `optimizer.step()`, outside of compiled functions.

        Args:
            epoch: deprecated in torch: go to this step, by the closed form where there is one.

        Raises:
            StateError: called inside a transform.
        """
        self._check_step()
        self._step_count += 1
        if epoch is not None:
            warnings.warn(EPOCH_DEPRECATION_WARNING, UserWarning, stacklevel=2)
        self._update_lr(epoch)

    def _check_step(self) -> None:
        if tls.overlay is not None or trace_state() is not None:
            raise StateError(_IN_PROGRAM, _BETWEEN)
        if self._step_count == 1 and self._untouched is not None:
            if self._untouched():
                warnings.warn(_TOO_EARLY, UserWarning, stacklevel=3)
            self._untouched = None

    def _update_lr(self, epoch: int | None = None) -> None:
        with self._within_step():
            if epoch is None:
                self.last_epoch += 1
                rates = self.get_lr()
            else:
                self.last_epoch = epoch
                rates = self._get_closed_form_lr() if self._is_closed() else self.get_lr()
        self._set(rates)

    def _set(self, rates: list[float]) -> None:
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        self._last_lr = values_of(self.optimizer, "lr")

    @contextmanager
    def _within_step(self) -> Iterator[None]:
        self._get_lr_called_within_step = True
        try:
            yield
        finally:
            self._get_lr_called_within_step = False

    def _warn_outside_of_step(self) -> None:
        if not self._get_lr_called_within_step:
            warnings.warn(
                "To get the last learning rate computed by the scheduler, please use `get_last_lr()`.",
                UserWarning,
                stacklevel=3,
            )

    def _lrs(self) -> list[float]:
        """The groups' learning rates now."""
        return values_of(self.optimizer, "lr")

    # -- the closed form ------------------------------------------------------------------------------------------
    def _rate(self, base: Any, step: Any, group: int, xp: Any) -> Any:
        """The rate at a step, a float or an array, in the functions of `xp`: numpy, or jax.numpy."""
        raise NotImplementedError

    def _is_closed(self) -> bool:
        """Is the rate a function of the step alone?"""
        return type(self)._rate is not LRScheduler._rate

    def _get_closed_form_lr(self) -> list[float]:
        step = float(self.last_epoch)
        return [float(self._rate(base, step, i, np)) for i, base in enumerate(self.base_lrs)]

    def as_optax(self, group: int = 0) -> Schedule:
        """The learning rate as a function of the number of steps taken: an optax schedule, to be used under `jm.jit`.

        It starts at step 0 whatever `last_epoch` is, and has the hyper-parameters that the scheduler has now.

        Args:
            group: the parameter group whose rate it is.

        Raises:
            TypeError: the rate depends on more than the step (`ReduceLROnPlateau`, `MultiplicativeLR`, ...).

        Example:
            >>> import optax, jaxmodule as jm
            >>> from jaxmodule import nn
            >>> rate = jm.optim.lr_scheduler.StepLR.schedule(0.1, step_size=30)
            >>> [round(float(rate(step)), 4) for step in (0, 29, 30)]
            [0.1, 0.1, 0.01]
            >>> optimizer = jm.optim.Optimizer(nn.Linear(2, 2).parameters(), optax.adamw(rate))
        """
        if not self._is_closed():
            raise TypeError(
                f"the rate of {type(self).__name__} is no function of the step alone: call its step() after each step "
                "of the optimizer"
            )
        base = self.base_lrs[group]

        def schedule(count: Any) -> jax.Array:
            return jnp.asarray(self._rate(base, jnp.asarray(count).astype(float), group, jnp), float)

        return schedule

    @classmethod
    def schedule(cls, lr: float, *args: Any, **kwargs: Any) -> Schedule:
        """`as_optax()` of this scheduler for a learning rate, without an optimizer.

        Args:
            lr: the learning rate that the optimizer would have.
            args, kwargs: the scheduler's own arguments, after the optimizer.
        """
        return cls(Rates(lr), *args, **kwargs).as_optax()

    # -- files ----------------------------------------------------------------------------------------------------
    def state_dict(self) -> dict[str, Any]:
        """All but the optimizer, under torch's names."""
        return {key: value for key, value in self.__dict__.items() if key not in self._unsaved}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave, or what torch's scheduler of this class gave.

        As in torch it does not touch the optimizer: load its state as well, which has the learning rates.

        Raises:
            ValueError: it is the state of another kind of scheduler, or of other groups. Nothing has changed then.
        """
        self._apply(self._checked_state(state_dict))

    def _apply(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._untouched = None  # it goes on: whether the optimizer has stepped was seen before

    def _checked_state(self, state_dict: Mapping[str, Any]) -> dict[str, Any]:
        """The state to take over, in Python's types."""
        state = {key: plain(value) for key, value in state_dict.items() if key not in _OF_OLD_TORCH}
        own = self.state_dict()
        if state.keys() != own.keys():
            raise ValueError(
                f"the state that is loaded into {type(self).__name__} is another scheduler's: it lacks "
                f"{sorted(own.keys() - state.keys())} and has {sorted(state.keys() - own.keys())} besides"
            )
        if len(state.get("base_lrs", ())) != len(own.get("base_lrs", ())):
            raise ValueError(
                f"the state that is loaded into {type(self).__name__} is of {len(state['base_lrs'])} parameter groups, "
                f"the optimizer has {len(self.optimizer.param_groups)}"
            )
        return state

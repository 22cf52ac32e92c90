"""Averages of weights: `torch.optim.swa_utils`."""

import math
from collections.abc import Callable, Iterable
from copy import deepcopy
from typing import Any, Literal
from weakref import WeakKeyDictionary

import jax
import jax.numpy as jnp

from ..core.box import Box, unbox
from ..core.context import tls, trace_state
from ..nn.module import Module
from ..nn.modules._norm_base import _BatchNorm
from ..transforms import jit
from ._averages import (
    AvgFn,
    Mean,
    MultiAvgFn,
    Several,
    get_ema_avg_fn,
    get_ema_multi_avg_fn,
    get_swa_avg_fn,
    get_swa_multi_avg_fn,
)
from .lr_scheduler import LRScheduler
from .lr_scheduler.groups import per_group

__all__ = [
    "SWALR",
    "AveragedModel",
    "get_ema_avg_fn",
    "get_ema_multi_avg_fn",
    "get_swa_avg_fn",
    "get_swa_multi_avg_fn",
    "update_bn",
]


class AveragedModel(Module):
    """A copy of a model whose parameters are an average of the model's at several times.

    `update_parameters(model)` takes the model's parameters into the average; the first time they are copied. Calling it
    calls the averaged model. In a `jm.jit` step it goes along as an argument, and is updated as the model is.

    Args:
        model: the model; the average is another object.
        device: where the average is kept.
        avg_fn: `avg_fn(averaged, current, num_averaged)`, the new average of one parameter; the mean of all if neither
            is given.
        multi_avg_fn: the same for the lists of all parameters. It returns the list of the new ones.
        use_buffers: average the buffers too. Without it they are those of the model.

    Attributes:
        module: the averaged model.
        n_averaged: how many models are in the average, a buffer.

    Raises:
        AssertionError: both functions are given.

    Source: Izmailov and others, "Averaging weights leads to wider optima and better generalization", 2018.

    Note:
        A `multi_avg_fn` of torch writes into its first list; arrays can't be written to, so here it returns one.
        Averages are computed in float32 where the parameters are in half precision, and are kept in it.

    Example:
        >>> import jax.numpy as jnp, jaxmodule as jm
        >>> from jaxmodule import nn
        >>> from jaxmodule.optim.swa_utils import AveragedModel, get_ema_avg_fn
        >>> model = nn.Linear(1, 1, bias=False)
        >>> averaged = AveragedModel(model, avg_fn=get_ema_avg_fn(0.5))
        >>> for value in (1.0, 3.0):
        ...     model.weight.value = jnp.array([[value]])
        ...     averaged.update_parameters(model)
        >>> float(averaged.module.weight[0, 0]), list(averaged.state_dict())
        (2.0, ['n_averaged', 'module.weight'])
    """

    def __init__(
        self,
        model: Module,
        device: Any = None,
        avg_fn: AvgFn | None = None,
        multi_avg_fn: MultiAvgFn | None = None,
        use_buffers: bool = False,
    ) -> None:
        super().__init__()
        if avg_fn is not None and multi_avg_fn is not None:
            raise AssertionError("Only one of avg_fn and multi_avg_fn should be provided")
        self.module = deepcopy(model)
        if device is not None:
            self.module.to(device)
        self.register_buffer("n_averaged", jnp.zeros((), int))
        self.avg_fn = avg_fn
        self.multi_avg_fn = multi_avg_fn
        self.use_buffers = use_buffers

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The averaged model's output."""
        return self.module(*args, **kwargs)

    def update_parameters(self, model: Module) -> None:
        """Take the parameters of `model` into the average.

        Raises:
            ValueError: `model` has other parameters or buffers than the average.
            TypeError: `multi_avg_fn` returns no list of as many arrays.
        """
        pairs = _pairs(self.module.named_parameters(), model.named_parameters())
        buffers = _pairs(self.module.named_buffers(), model.named_buffers())
        averaged, copied = (pairs + buffers, []) if self.use_buffers else (pairs, buffers)
        count: Any = self.n_averaged
        n = count.value
        old = [mine.value for mine, _ in averaged]
        now = [_beside(theirs.value, mine.value) for mine, theirs in averaged]
        function = self.multi_avg_fn or Several(self.avg_fn or Mean())
        new = function(list(old), list(now), n)
        if not isinstance(new, (list, tuple)) or len(new) != len(old):
            raise TypeError(
                f"multi_avg_fn must return the list of the {len(old)} new averages, got {type(new).__name__}"
                + ("" if new is not None else ": arrays can't be written to")
            )
        for (mine, _), before, current, value in zip(averaged, old, now, new, strict=True):
            first = (n == 0).reshape((1,) * before.ndim)
            mine.value = jnp.where(first, current.astype(before.dtype), unbox(value).astype(before.dtype))
        for mine, theirs in copied:
            mine.value = _beside(theirs.value, mine.value).astype(mine.dtype)
        count.value = n + 1


def _pairs(mine: Iterable[tuple[str, Box]], theirs: Iterable[tuple[str, Box]]) -> list[tuple[Box, Box]]:
    ours, others = dict(mine), dict(theirs)
    for name in {**ours, **others}:
        shapes = [tuple(side[name].shape) if name in side else None for side in (ours, others)]
        if shapes[0] != shapes[1]:
            what = [f"{list(shape)}" if shape is not None else "not there" for shape in shapes]
            raise ValueError(f"AveragedModel: {str(name)!r} is {what[0]} in the average, and {what[1]} in the model")
    return [(box, others[name]) for name, box in ours.items()]


def _beside(value: Any, like: Any) -> Any:
    """A value where `like` is, if it is elsewhere."""
    if tls.overlay is not None or trace_state() is not None or value.sharding == like.sharding:
        return value
    return jax.device_put(value, like.sharding)


def update_bn(loader: Iterable[Any], model: Module, device: Any = None) -> None:
    """Compute the statistics of a model's BatchNorm layers anew, as the means over the batches of one pass over data.

    Args:
        loader: batches: arrays, or lists and tuples whose first element is what the model is called with.
        model: the model. The pass is in training mode, and in a compiled program unless it is in a transform itself.
        device: where batches are put.

    Note:
        torch puts the whole model into the mode of its root afterwards; here each module is in its own again.

    Example:
        >>> import jax.numpy as jnp, jaxmodule as jm
        >>> from jaxmodule import nn
        >>> from jaxmodule.optim.swa_utils import update_bn
        >>> model = nn.BatchNorm1d(2)
        >>> update_bn([jnp.ones((3, 2)), 3 * jnp.ones((3, 2))], model.eval())
        >>> model.running_mean.tolist(), model.training
        ([2.0, 2.0], False)
    """
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    if not norms:
        return
    momenta = [module.momentum for module in norms]
    modes = [(module, module.training) for module in model.modules()]
    for module in norms:
        module.reset_running_stats()
    model.train()
    for module in norms:
        module.momentum = None
    traced = tls.overlay is not None or trace_state() is not None
    forward = _forward if traced else _compiled.setdefault(model, jit(_forward))
    try:
        for batch in loader:
            batch = batch[0] if isinstance(batch, (list, tuple)) else batch
            forward(model, batch if device is None else jax.device_put(batch, device))
    finally:
        for module, momentum in zip(norms, momenta, strict=True):
            module.momentum = momentum
        for module, training in modes:
            module.training = training


def _forward(model: Any, batch: Any) -> None:
    model(batch)


#: One for each model: a second pass compiles nothing, and other models are no retraces.
_compiled: WeakKeyDictionary[Module, Callable[[Any, Any], None]] = WeakKeyDictionary()


class SWALR(LRScheduler):
    """From each group's rate to `swa_lr` in `anneal_epochs` steps, where it stays.

    Args:
        optimizer: the optimizer.
        swa_lr: the last rate, or a list with one for each group.
        anneal_epochs: in how many steps.
        anneal_strategy: along a cosine ("cos") or a line ("linear").
        last_epoch: as in `LRScheduler`.

    Raises:
        ValueError: `anneal_epochs` is no int or negative, the strategy is unknown, or a list has another length than
            the groups.

    Example:
        >>> import jaxmodule as jm
        >>> from jaxmodule.optim.swa_utils import SWALR
        >>> rate = SWALR.schedule(1.0, swa_lr=0.2, anneal_epochs=4, anneal_strategy="linear")
        >>> [round(float(rate(step)), 2) for step in range(6)]
        [1.0, 0.8, 0.6, 0.4, 0.2, 0.2]
    """

    def __init__(
        self,
        optimizer: Any,
        swa_lr: float | list[float],
        anneal_epochs: int = 10,
        anneal_strategy: Literal["cos", "linear"] = "cos",
        last_epoch: int = -1,
    ) -> None:
        for rate, group in zip(per_group("swa_lr", optimizer, swa_lr), optimizer.param_groups, strict=True):
            group["swa_lr"] = rate
        if anneal_strategy not in ("cos", "linear"):
            raise ValueError(f"anneal_strategy must be one of 'cos' or 'linear', instead got {anneal_strategy}")
        if not isinstance(anneal_epochs, int) or anneal_epochs < 0:
            raise ValueError(f"anneal_epochs must be equal or greater than 0, got {anneal_epochs}")
        self._anneal_strategy = anneal_strategy
        self.anneal_epochs = anneal_epochs
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        """The rates, each from the last one, so that another scheduler may have changed it before."""
        self._warn_outside_of_step()
        step = self._step_count - 1
        if self.anneal_epochs == 0:
            step = max(1, step)
        before, now = (self._part(max(0.0, min(1.0, s / max(1, self.anneal_epochs)))) for s in (step - 1, step))
        rates = []
        for group in self.optimizer.param_groups:
            last = group["swa_lr"]
            first = last if before == 1 else (group["lr"] - before * last) / (1 - before)
            rates.append(last * now + first * (1 - now))
        return rates

    def _part(self, t: Any, xp: Any = math) -> Any:
        return (1 - xp.cos(math.pi * t)) / 2 if self._anneal_strategy == "cos" else t

    def _rate(self, base: Any, step: Any, group: int, xp: Any) -> Any:
        step = xp.maximum(step, 1.0) if self.anneal_epochs == 0 else step
        part = self._part(xp.clip(step / max(1, self.anneal_epochs), 0.0, 1.0), xp)
        return self.optimizer.param_groups[group]["swa_lr"] * part + base * (1 - part)

    def _get_closed_form_lr(self) -> list[float]:
        return self.get_lr()

"""ASGD with torch's arguments, defaults and update rule."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from .given import Groups
from .group import ParamGroup
from .rule import RuleOptimizer, StateDtype, check, check_lr, decayed, hints


class ASGD(RuleOptimizer):
    """Averaged stochastic gradient descent: `p = (1 - lambd·η)p - η·g`, `ax` the mean of p since step `t0`.

    `η = lr / (1 + lambd·lr·t)^alpha`. The mean is in the state: `optimizer.state["fc.weight"]["ax"]`.

    Args:
        params: `model.parameters()`, `model.named_parameters()`, a list of parameters, a list of group dicts, or
            `jm.optim.groups(model, …)`.
        lr: learning rate.
        lambd: decay.
        alpha: the power in η.
        t0: the step from which on `ax` is a mean; before, it is p.
        weight_decay: adds `weight_decay·p` to the gradient.
        maximize: ascend.
        foreach, differentiable, capturable: choose an implementation in torch; XLA has one, so they change nothing.
        state_dtype, master_weights: see `RuleOptimizer`.

    Raises:
        ValueError: a hyper-parameter is out of its range, or there are no parameters.

    Source: Polyak and Juditsky, "Acceleration of stochastic approximation by averaging", 1992.

    Example:
        >>> import jaxmodule as jm
        >>> from jaxmodule import nn
        >>> optimizer = jm.optim.ASGD(nn.Linear(2, 2).parameters(), lr=1e-2, t0=100)
    """

    _gates = ("weight_decay",)
    _scalars = {"eta": 0.0, "mu": 1.0}  # noqa: RUF012

    def __init__(
        self,
        params: Groups,
        lr: float = 1e-2,
        lambd: float = 1e-4,
        alpha: float = 0.75,
        t0: float = 1e6,
        weight_decay: float = 0,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        capturable: bool = False,
        *,
        state_dtype: StateDtype = None,
        master_weights: bool = False,
    ) -> None:
        numbers = {"lr": lr, "lambd": lambd, "alpha": alpha, "t0": t0, "weight_decay": weight_decay}
        choices = {"maximize": maximize}
        kept = hints(foreach=foreach, capturable=capturable, differentiable=differentiable)
        super().__init__(params, {**numbers, **choices, **kept}, state_dtype=state_dtype, master_weights=master_weights)

    def _validate(self, items: Mapping[str, Any]) -> None:
        check_lr(items["lr"])
        check(items["weight_decay"] >= 0, "weight_decay value", items["weight_decay"])

    def _numbers(self, group: Mapping[str, Any]) -> dict[str, Any]:
        return {name: group[name] for name in ("lr", "lambd", "alpha", "t0", "weight_decay")}

    def _slots_of(self, group: ParamGroup) -> tuple[str, ...]:
        return ("ax",)

    def _rule(self, group: ParamGroup, h: dict[str, Any], g: Any, p: Any, s: dict[str, Any], t: Any) -> tuple[Any, Any]:
        g, p = decayed(group, h, g, p)
        eta = jnp.where(t == 1, h["lr"], s["eta"])  # η is that of the step before
        p = p * (1 - h["lambd"] * eta) - eta * g
        mean = jnp.where(s["mu"] == 1, p, s["ax"] + (p - s["ax"]) * s["mu"])
        t = t.astype(h["lr"].dtype)
        eta = h["lr"] / (1 + h["lambd"] * h["lr"] * t) ** h["alpha"]
        return p, {"ax": mean, "eta": eta, "mu": 1 / jnp.maximum(1, t - h["t0"])}

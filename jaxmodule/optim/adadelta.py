"""Adadelta with torch's arguments, defaults and update rule."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from .given import Groups
from .group import ParamGroup
from .rule import RuleOptimizer, StateDtype, check, check_lr, decayed, hints


class Adadelta(RuleOptimizer):
    """Steps in the size of earlier ones: `Δ = √(u + eps)/√(v + eps) · g`, `p -= lr·Δ`.

    `v = ρv + (1-ρ)g²` before, `u = ρu + (1-ρ)Δ²` after the step.

    Args:
        params: `model.parameters()`, `model.named_parameters()`, a list of parameters, a list of group dicts, or
            `jm.optim.groups(model, …)`.
        lr: factor of the step.
        rho: see the formula.
        eps: see the formula.
        weight_decay: adds `weight_decay·p` to the gradient.
        maximize: ascend.
        foreach, capturable, differentiable: choose an implementation in torch; XLA has one, so they change nothing.
        state_dtype, master_weights: see `RuleOptimizer`.

    Raises:
        ValueError: a hyper-parameter is out of its range, or there are no parameters.

    Source: Zeiler, "ADADELTA: an adaptive learning rate method", 2012.

    Example:
        >>> import jaxmodule as jm
        >>> from jaxmodule import nn
        >>> optimizer = jm.optim.Adadelta(nn.Linear(2, 2).parameters(), lr=1.0)
    """

    _gates = ("weight_decay",)

    def __init__(
        self,
        params: Groups,
        lr: float = 1.0,
        rho: float = 0.9,
        eps: float = 1e-6,
        weight_decay: float = 0,
        foreach: bool | None = None,
        *,
        capturable: bool = False,
        maximize: bool = False,
        differentiable: bool = False,
        state_dtype: StateDtype = None,
        master_weights: bool = False,
    ) -> None:
        numbers = {"lr": lr, "rho": rho, "eps": eps, "weight_decay": weight_decay}
        choices = {"maximize": maximize}
        kept = hints(foreach=foreach, capturable=capturable, differentiable=differentiable)
        super().__init__(params, {**numbers, **choices, **kept}, state_dtype=state_dtype, master_weights=master_weights)

    def _validate(self, items: Mapping[str, Any]) -> None:
        check_lr(items["lr"])
        check(0 <= items["rho"] <= 1, "rho value", items["rho"])
        check(items["eps"] >= 0, "epsilon value", items["eps"])
        check(items["weight_decay"] >= 0, "weight_decay value", items["weight_decay"])

    def _numbers(self, group: Mapping[str, Any]) -> dict[str, Any]:
        return {**{name: group[name] for name in ("lr", "rho", "eps", "weight_decay")}, "rest": 1 - group["rho"]}

    def _slots_of(self, group: ParamGroup) -> tuple[str, ...]:
        return ("square_avg", "acc_delta")

    def _rule(self, group: ParamGroup, h: dict[str, Any], g: Any, p: Any, s: dict[str, Any], t: Any) -> tuple[Any, Any]:
        g, p = decayed(group, h, g, p)
        v = h["rho"] * s["square_avg"] + h["rest"] * g * g
        delta = jnp.sqrt(s["acc_delta"] + h["eps"]) / jnp.sqrt(v + h["eps"]) * g
        u = h["rho"] * s["acc_delta"] + h["rest"] * delta * delta
        return p - h["lr"] * delta, {"square_avg": v, "acc_delta": u}

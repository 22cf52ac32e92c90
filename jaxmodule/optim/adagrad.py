"""Adagrad with torch's arguments, defaults and update rule."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from .given import Groups
from .group import ParamGroup
from .rule import RuleOptimizer, StateDtype, check, check_lr, decayed, hints


class Adagrad(RuleOptimizer):
    """Steps over the root of all squares so far: `v += g²`, `p -= lr/(1 + (t-1)·lr_decay) · g / (√v + eps)`.

    Args:
        params: `model.parameters()`, `model.named_parameters()`, a list of parameters, a list of group dicts, or
            `jm.optim.groups(model, …)`.
        lr: learning rate.
        lr_decay: see the formula.
        weight_decay: adds `weight_decay·p` to the gradient.
        initial_accumulator_value: what v begins with.
        eps: see the formula.
        maximize: ascend.
        foreach, differentiable, fused: choose an implementation in torch; XLA has one, so they change nothing.
        state_dtype, master_weights: see `RuleOptimizer`.

    Raises:
        ValueError: a hyper-parameter is out of its range, or there are no parameters.

    Source: Duchi, Hazan and Singer, "Adaptive subgradient methods", 2011.

    Example:
        >>> import jaxmodule as jm
        >>> from jaxmodule import nn
        >>> optimizer = jm.optim.Adagrad(nn.Linear(2, 2).parameters(), lr=0.01, initial_accumulator_value=0.1)
    """

    _gates = ("weight_decay",)

    def __init__(
        self,
        params: Groups,
        lr: float = 1e-2,
        lr_decay: float = 0,
        weight_decay: float = 0,
        initial_accumulator_value: float = 0,
        eps: float = 1e-10,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        state_dtype: StateDtype = None,
        master_weights: bool = False,
    ) -> None:
        numbers = {"lr": lr, "lr_decay": lr_decay, "eps": eps, "weight_decay": weight_decay}
        choices = {"initial_accumulator_value": initial_accumulator_value, "maximize": maximize}
        kept = hints(foreach=foreach, differentiable=differentiable, fused=fused)
        super().__init__(params, {**numbers, **choices, **kept}, state_dtype=state_dtype, master_weights=master_weights)

    def _validate(self, items: Mapping[str, Any]) -> None:
        check_lr(items["lr"])
        for name in ("lr_decay", "weight_decay", "initial_accumulator_value"):
            check(items[name] >= 0, f"{name} value", items[name])
        check(items["eps"] >= 0, "epsilon value", items["eps"])

    def _numbers(self, group: Mapping[str, Any]) -> dict[str, Any]:
        return {name: group[name] for name in ("lr", "lr_decay", "weight_decay", "eps")}

    def _slots_of(self, group: ParamGroup) -> tuple[str, ...]:
        return ("sum",)

    def _first(self, group: ParamGroup, slot: str, p: Any, dtype: Any) -> Any:
        value = group["initial_accumulator_value"]
        both = complex(value, value) if jnp.issubdtype(dtype, jnp.complexfloating) else value
        return jnp.full_like(p, both, dtype=dtype)

    def _rule(self, group: ParamGroup, h: dict[str, Any], g: Any, p: Any, s: dict[str, Any], t: Any) -> tuple[Any, Any]:
        g, p = decayed(group, h, g, p)
        v = s["sum"] + g * g
        rate = h["lr"] / (1 + (t - 1).astype(h["lr"].dtype) * h["lr_decay"])
        return p - rate * (g / (jnp.sqrt(v) + h["eps"])), {"sum": v}

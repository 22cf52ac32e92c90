"""Adamax with torch's arguments, defaults and update rule."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from .given import Groups
from .group import ParamGroup
from .rule import RuleOptimizer, StateDtype, adam_numbers, check_adam, decayed, hints


class Adamax(RuleOptimizer):
    """Adam in the infinity norm: `m = β₁m + (1-β₁)g`, `u = max(β₂u, |g| + eps)`, `p -= lr/(1 - β₁ᵗ) · m/u`.

    Args:
        params: `model.parameters()`, `model.named_parameters()`, a list of parameters, a list of group dicts, or
            `jm.optim.groups(model, …)`.
        lr: learning rate.
        betas: (β₁, β₂).
        eps: see the formula.
        weight_decay: adds `weight_decay·p` to the gradient.
        maximize: ascend.
        foreach, differentiable, capturable: choose an implementation in torch; XLA has one, so they change nothing.
        state_dtype, master_weights: see `RuleOptimizer`.

    Raises:
        ValueError: a hyper-parameter is out of its range, or there are no parameters.

    Source: Kingma and Ba, "Adam: a method for stochastic optimization", 2015, section 7.

    Example:
        >>> import jaxmodule as jm
        >>> from jaxmodule import nn
        >>> optimizer = jm.optim.Adamax(nn.Linear(2, 2).parameters(), lr=2e-3)
    """

    _gates = ("weight_decay",)

    def __init__(
        self,
        params: Groups,
        lr: float = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        capturable: bool = False,
        state_dtype: StateDtype = None,
        master_weights: bool = False,
    ) -> None:
        numbers = {"lr": lr, "betas": tuple(betas), "eps": eps, "weight_decay": weight_decay}
        choices = {"maximize": maximize}
        kept = hints(foreach=foreach, differentiable=differentiable, capturable=capturable)
        super().__init__(params, {**numbers, **choices, **kept}, state_dtype=state_dtype, master_weights=master_weights)

    def _validate(self, items: Mapping[str, Any]) -> None:
        check_adam(items)

    def _numbers(self, group: Mapping[str, Any]) -> dict[str, Any]:
        return adam_numbers(group)

    def _slots_of(self, group: ParamGroup) -> tuple[str, ...]:
        return ("exp_avg", "exp_inf")

    def _rule(self, group: ParamGroup, h: dict[str, Any], g: Any, p: Any, s: dict[str, Any], t: Any) -> tuple[Any, Any]:
        g, p = decayed(group, h, g, p)
        m = h["beta1"] * s["exp_avg"] + h["rest1"] * g
        u = jnp.maximum(h["beta2"] * s["exp_inf"], jnp.abs(g) + h["eps"])
        correction = -jnp.expm1(t.astype(h["log1"].dtype) * h["log1"])
        return p - h["lr"] / correction * (m / u), {"exp_avg": m, "exp_inf": u}

"""Adam with torch's arguments, defaults and update rule."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from .given import Groups
from .group import ParamGroup
from .rule import RuleOptimizer, StateDtype, adam_numbers, check_adam, decayed, hints


class Adam(RuleOptimizer):
    """Adam: `m = β₁m + (1-β₁)g`, `v = β₂v + (1-β₂)g²`, `p -= lr·m̂ / (√v̂ + eps)` with bias-corrected m̂, v̂.

    Args:
        params: `model.parameters()`, `model.named_parameters()`, a list of parameters, a list of group dicts, or
            `jm.optim.groups(model, …)`.
        lr: learning rate.
        betas: (β₁, β₂).
        eps: see the formula.
        weight_decay: adds `weight_decay·p` to the gradient.
        amsgrad: divide by the largest v so far.
        maximize: ascend.
        decoupled_weight_decay: shrink p by `lr·weight_decay` instead, which is AdamW.
        foreach, capturable, differentiable, fused: choose an implementation in torch; XLA has one, so they change
            nothing.
        state_dtype, master_weights: see `RuleOptimizer`.

    Raises:
        ValueError: a hyper-parameter is out of its range, or there are no parameters.

    Source: Kingma and Ba, "Adam: a method for stochastic optimization", 2015; amsgrad: Reddi, Kale and Kumar, 2018.

    Example:
        >>> import jaxmodule as jm
        >>> from jaxmodule import nn
        >>> optimizer = jm.optim.Adam(nn.Linear(2, 2).parameters(), lr=1e-3)
        >>> optimizer.param_groups[0]["lr"] = 1e-4
    """

    _gates = ("weight_decay",)

    def __init__(
        self,
        params: Groups,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        amsgrad: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        decoupled_weight_decay: bool = False,
        state_dtype: StateDtype = None,
        master_weights: bool = False,
    ) -> None:
        numbers = {"lr": lr, "betas": tuple(betas), "eps": eps, "weight_decay": weight_decay}
        choices = {"amsgrad": amsgrad, "maximize": maximize, "decoupled_weight_decay": decoupled_weight_decay}
        kept = hints(foreach=foreach, capturable=capturable, differentiable=differentiable, fused=fused)
        super().__init__(params, {**numbers, **choices, **kept}, state_dtype=state_dtype, master_weights=master_weights)

    def _validate(self, items: Mapping[str, Any]) -> None:
        check_adam(items)

    def _numbers(self, group: Mapping[str, Any]) -> dict[str, Any]:
        return adam_numbers(group)

    def _slots_of(self, group: ParamGroup) -> tuple[str, ...]:
        return ("exp_avg", "exp_avg_sq", *(("max_exp_avg_sq",) if group["amsgrad"] else ()))

    def _rule(self, group: ParamGroup, h: dict[str, Any], g: Any, p: Any, s: dict[str, Any], t: Any) -> tuple[Any, Any]:
        g, p = decayed(group, h, g, p)
        m = s["exp_avg"] + (g - s["exp_avg"]) * h["rest1"]
        v = h["beta2"] * s["exp_avg_sq"] + h["rest2"] * g * g
        new = {"exp_avg": m, "exp_avg_sq": v}
        largest = v
        if group["amsgrad"]:
            largest = new["max_exp_avg_sq"] = jnp.maximum(s["max_exp_avg_sq"], v)
        t = t.astype(h["log1"].dtype)
        correction1 = -jnp.expm1(t * h["log1"])
        correction2 = -jnp.expm1(t * h["log2"])
        denominator = jnp.sqrt(largest) / jnp.sqrt(correction2) + h["eps"]
        return p - (h["lr"] / correction1) * (m / denominator), new

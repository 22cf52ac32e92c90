"""NAdam with torch's arguments, defaults and update rule."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from .given import Groups
from .group import ParamGroup
from .rule import RuleOptimizer, StateDtype, adam_numbers, check, check_adam, decayed, hints


class NAdam(RuleOptimizer):
    """Adam with Nesterov's momentum: `p -= lr·((1-μₜ)/(1-Πμ)·g + μₜ₊₁/(1-Πμ·μₜ₊₁)·m) / (√v̂ + eps)`.

    `μₜ = β₁(1 - ½·0.96^(t·momentum_decay))`, Πμ is the product of those so far, m and v are Adam's.

    Args:
        params: `model.parameters()`, `model.named_parameters()`, a list of parameters, a list of group dicts, or
            `jm.optim.groups(model, …)`.
        lr: learning rate.
        betas: (β₁, β₂).
        eps: see the formula.
        weight_decay: adds `weight_decay·p` to the gradient.
        momentum_decay: see the formula.
        decoupled_weight_decay: shrink p by `lr·weight_decay` instead.
        maximize: ascend.
        foreach, capturable, differentiable: choose an implementation in torch; XLA has one, so they change nothing.
        state_dtype, master_weights: see `RuleOptimizer`.

    Raises:
        ValueError: a hyper-parameter is out of its range, or there are no parameters.

    Source: Dozat, "Incorporating Nesterov momentum into Adam", 2016.

    Example:
        >>> import jaxmodule as jm
        >>> from jaxmodule import nn
        >>> optimizer = jm.optim.NAdam(nn.Linear(2, 2).parameters(), lr=2e-3, decoupled_weight_decay=True)
    """

    _gates = ("weight_decay",)
    _scalars = {"mu_product": 1.0}  # noqa: RUF012

    def __init__(
        self,
        params: Groups,
        lr: float = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum_decay: float = 4e-3,
        decoupled_weight_decay: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        state_dtype: StateDtype = None,
        master_weights: bool = False,
    ) -> None:
        numbers = {"lr": lr, "betas": tuple(betas), "eps": eps, "weight_decay": weight_decay}
        numbers["momentum_decay"] = momentum_decay
        choices = {"decoupled_weight_decay": decoupled_weight_decay, "maximize": maximize}
        kept = hints(foreach=foreach, capturable=capturable, differentiable=differentiable)
        super().__init__(params, {**numbers, **choices, **kept}, state_dtype=state_dtype, master_weights=master_weights)

    def _validate(self, items: Mapping[str, Any]) -> None:
        check_adam(items)
        check(items["momentum_decay"] >= 0, "momentum_decay value", items["momentum_decay"])

    def _numbers(self, group: Mapping[str, Any]) -> dict[str, Any]:
        return {**adam_numbers(group), "momentum_decay": group["momentum_decay"]}

    def _slots_of(self, group: ParamGroup) -> tuple[str, ...]:
        return ("exp_avg", "exp_avg_sq")

    def _rule(self, group: ParamGroup, h: dict[str, Any], g: Any, p: Any, s: dict[str, Any], t: Any) -> tuple[Any, Any]:
        g, p = decayed(group, h, g, p)
        t = t.astype(h["lr"].dtype)
        mu, mu_next = (h["beta1"] * (1 - 0.5 * 0.96 ** (n * h["momentum_decay"])) for n in (t, t + 1))
        product = s["mu_product"] * mu
        m = h["beta1"] * s["exp_avg"] + h["rest1"] * g
        v = h["beta2"] * s["exp_avg_sq"] + h["rest2"] * g * g
        denominator = jnp.sqrt(v / -jnp.expm1(t * h["log2"])) + h["eps"]
        step = (1 - mu) / (1 - product) * g + mu_next / (1 - product * mu_next) * m
        return p - h["lr"] * step / denominator, {"exp_avg": m, "exp_avg_sq": v, "mu_product": product}

"""RAdam with torch's arguments, defaults and update rule."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from .given import Groups
from .group import ParamGroup
from .rule import RuleOptimizer, StateDtype, adam_numbers, check_adam, decayed, hints


class RAdam(RuleOptimizer):
    """Adam whose step is multiplied by a rectification of the variance of v, and is `lr·m̂` where that is unknown.

    `ρ∞ = 2/(1-β₂) - 1`, `ρ = ρ∞ - 2t·β₂ᵗ/(1-β₂ᵗ)`; for `ρ > 5` the factor is
    `√((ρ-4)(ρ-2)ρ∞ / ((ρ∞-4)(ρ∞-2)ρ))`.

    Args:
        params: `model.parameters()`, `model.named_parameters()`, a list of parameters, a list of group dicts, or
            `jm.optim.groups(model, …)`.
        lr: learning rate.
        betas: (β₁, β₂).
        eps: added to √v, before its bias is corrected.
        weight_decay: adds `weight_decay·p` to the gradient.
        decoupled_weight_decay: shrink p by `lr·weight_decay` instead.
        maximize: ascend.
        foreach, capturable, differentiable: choose an implementation in torch; XLA has one, so they change nothing.
        state_dtype, master_weights: see `RuleOptimizer`.

    Raises:
        ValueError: a hyper-parameter is out of its range, or there are no parameters.

    Source: Liu et al., "On the variance of the adaptive learning rate and beyond", 2020.

    Example:
        >>> import jaxmodule as jm
        >>> from jaxmodule import nn
        >>> optimizer = jm.optim.RAdam(nn.Linear(2, 2).parameters(), lr=1e-3, weight_decay=0.1)
    """

    _gates = ("weight_decay",)

    def __init__(
        self,
        params: Groups,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
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
        choices = {"decoupled_weight_decay": decoupled_weight_decay, "maximize": maximize}
        kept = hints(foreach=foreach, capturable=capturable, differentiable=differentiable)
        super().__init__(params, {**numbers, **choices, **kept}, state_dtype=state_dtype, master_weights=master_weights)

    def _validate(self, items: Mapping[str, Any]) -> None:
        check_adam(items)

    def _numbers(self, group: Mapping[str, Any]) -> dict[str, Any]:
        return {**adam_numbers(group), "rho_inf": 2 / (1 - group["betas"][1]) - 1}

    def _slots_of(self, group: ParamGroup) -> tuple[str, ...]:
        return ("exp_avg", "exp_avg_sq")

    def _rule(self, group: ParamGroup, h: dict[str, Any], g: Any, p: Any, s: dict[str, Any], t: Any) -> tuple[Any, Any]:
        g, p = decayed(group, h, g, p)
        m = h["beta1"] * s["exp_avg"] + h["rest1"] * g
        v = h["beta2"] * s["exp_avg_sq"] + h["rest2"] * g * g
        t = t.astype(h["lr"].dtype)
        correction1 = -jnp.expm1(t * h["log1"])
        correction2 = -jnp.expm1(t * h["log2"])
        rho, limit = _rho(t, h), h["rho_inf"]
        rectified = jnp.sqrt((rho - 4) * (rho - 2) * limit / ((limit - 4) * (limit - 2) * rho))
        adaptive = rectified * jnp.sqrt(correction2) / (jnp.sqrt(v) + h["eps"])
        step = m / correction1 * jnp.where(rho > 5, adaptive, 1)
        return p - h["lr"] * step, {"exp_avg": m, "exp_avg_sq": v}


def _rho(t: Any, h: dict[str, Any]) -> Any:
    """`ρ∞ - 2t·β₂ᵗ/(1-β₂ᵗ)`.

    For small t that is the difference of two numbers near 2/(1-β₂), which float32 lacks the digits for. There, in
    powers of `x = -log β₂` and `y = t·x`: `t - (t²-1)x/6 + (t⁴-1)x³/360 - (t⁶-1)x⁵/15120 + …`.
    """
    x = -h["log2"]
    y = t * x
    series = t - (t * y - x) / 6 + (t * y**3 - x**3) / 360 - (t * y**5 - x**5) / 15120
    direct = h["rho_inf"] - 2 * t * jnp.exp(-y) / -jnp.expm1(-y)
    return jnp.where(y < 0.5, series, direct)

"""RMSprop with torch's arguments, defaults and update rule."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from .given import Groups
from .group import ParamGroup
from .rule import RuleOptimizer, StateDtype, check, check_lr, decayed, hints


class RMSprop(RuleOptimizer):
    """Steps over the root mean square of the gradient: `v = αv + (1-α)g²`, `p -= lr·g / (√v + eps)`.

    Args:
        params: `model.parameters()`, `model.named_parameters()`, a list of parameters, a list of group dicts, or
            `jm.optim.groups(model, …)`.
        lr: learning rate.
        alpha: α.
        eps: see the formula; added outside of the root, unlike TensorFlow's.
        weight_decay: adds `weight_decay·p` to the gradient.
        momentum: step along `b = momentum·b + g / (√v + eps)` instead.
        centered: take the square of the mean gradient off v, which makes it a variance.
        maximize: ascend.
        capturable, foreach, differentiable: choose an implementation in torch; XLA has one, so they change nothing.
        state_dtype, master_weights: see `RuleOptimizer`.

    Raises:
        ValueError: a hyper-parameter is out of its range, or there are no parameters.

    Note:
        With `centered` a variance that rounding has made negative counts as 0; its root is NaN in torch.

    Source: Hinton, lecture 6 of "Neural networks for machine learning", 2012; centered: Graves, 2013.

    Example:
        >>> import jaxmodule as jm
        >>> from jaxmodule import nn
        >>> optimizer = jm.optim.RMSprop(nn.Linear(2, 2).parameters(), lr=1e-3, momentum=0.9)
    """

    _gates = ("weight_decay", "momentum")

    def __init__(
        self,
        params: Groups,
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum: float = 0,
        centered: bool = False,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        *,
        state_dtype: StateDtype = None,
        master_weights: bool = False,
    ) -> None:
        numbers = {"lr": lr, "momentum": momentum, "alpha": alpha, "eps": eps, "weight_decay": weight_decay}
        choices = {"centered": centered, "maximize": maximize}
        kept = hints(foreach=foreach, capturable=capturable, differentiable=differentiable)
        super().__init__(params, {**numbers, **choices, **kept}, state_dtype=state_dtype, master_weights=master_weights)

    def _validate(self, items: Mapping[str, Any]) -> None:
        check_lr(items["lr"])
        check(items["eps"] >= 0, "epsilon value", items["eps"])
        for name in ("momentum", "weight_decay", "alpha"):
            check(items[name] >= 0, f"{name} value", items[name])

    def _numbers(self, group: Mapping[str, Any]) -> dict[str, Any]:
        plain = {name: group[name] for name in ("lr", "momentum", "alpha", "eps", "weight_decay")}
        return {**plain, "rest": 1 - group["alpha"]}

    def _slots_of(self, group: ParamGroup) -> tuple[str, ...]:
        wanted = {"square_avg": True, "momentum_buffer": group.in_use("momentum"), "grad_avg": group["centered"]}
        return tuple(slot for slot, needed in wanted.items() if needed)

    def _rule(self, group: ParamGroup, h: dict[str, Any], g: Any, p: Any, s: dict[str, Any], t: Any) -> tuple[Any, Any]:
        g, p = decayed(group, h, g, p)
        v = h["alpha"] * s["square_avg"] + h["rest"] * g * g
        new = {"square_avg": v}
        if group["centered"]:
            mean = new["grad_avg"] = h["alpha"] * s["grad_avg"] + h["rest"] * g
            v = jnp.maximum(v - mean * mean, 0)
        step = g / (jnp.sqrt(v) + h["eps"])
        if group.in_use("momentum"):
            step = new["momentum_buffer"] = h["momentum"] * s["momentum_buffer"] + step
        return p - h["lr"] * step, new

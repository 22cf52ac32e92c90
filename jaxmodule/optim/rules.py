"""SGD, Adam and AdamW with torch's arguments, defaults and update rules."""

import math
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from .group import ParamGroup
from .optimizer import Groups
from .rule import RuleOptimizer, check, hints


class SGD(RuleOptimizer):
    """Stochastic gradient descent: `v = momentum·v + (1 - dampening)·g`, `p -= lr·v`; the first v is g.

    Args:
        params: `model.parameters()`, `model.named_parameters()`, a list of parameters, or a list of group dicts.
        lr: learning rate.
        momentum, dampening: see the formula.
        weight_decay: adds `weight_decay·p` to the gradient.
        nesterov: step along `g + momentum·v`; needs a momentum and no dampening.
        maximize: ascend.
        foreach, differentiable, fused: choose an implementation in torch; XLA has one, so they change nothing.

    Raises:
        ValueError: a hyper-parameter is out of its range, or there are no parameters.

    Example:
        >>> import jax.numpy as jnp, jaxmodule as jm
        >>> from jaxmodule import nn
        >>> model = nn.Linear(1, 1, bias=False)
        >>> model.weight.value = jnp.array([[1.0]])
        >>> optimizer = jm.optim.SGD(model.parameters(), lr=0.5)
        >>> optimizer.step(jm.grad(lambda m: m(jnp.ones((1, 1))).sum())(model))
        >>> float(model.weight[0, 0])
        0.5
    """

    def __init__(
        self,
        params: Groups,
        lr: float = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        numbers = {"lr": lr, "momentum": momentum, "dampening": dampening, "weight_decay": weight_decay}
        choices = {"nesterov": nesterov, "maximize": maximize}
        super().__init__(
            params, {**numbers, **choices, **hints(foreach=foreach, differentiable=differentiable, fused=fused)}
        )

    _gates = ("momentum", "dampening", "weight_decay")

    def _validate(self, items: Mapping[str, Any]) -> None:
        check(items["lr"] >= 0, "learning rate", items["lr"])
        check(items["momentum"] >= 0, "momentum value", items["momentum"])
        check(items["weight_decay"] >= 0, "weight_decay value", items["weight_decay"])
        if items["nesterov"] and (items["momentum"] <= 0 or items["dampening"] != 0):
            raise ValueError("Nesterov momentum requires a momentum and zero dampening")

    def _numbers(self, group: Mapping[str, Any]) -> dict[str, Any]:
        return {name: group[name] for name in ("lr", "momentum", "dampening", "weight_decay")}

    def _slots_of(self, group: ParamGroup) -> tuple[str, ...]:
        return ("momentum_buffer",) if group.in_use("momentum") else ()

    def _rule(self, group: ParamGroup, h: dict[str, Any], g: Any, p: Any, s: dict[str, Any], t: Any) -> tuple[Any, Any]:
        if group.in_use("weight_decay"):
            g = g + h["weight_decay"] * p
        if s:
            v = h["momentum"] * s["momentum_buffer"]
            if group.in_use("dampening"):
                v = jnp.where(t == 1, g, v + (1 - h["dampening"]) * g)
            else:
                v = v + g
            s = {"momentum_buffer": v}
            g = g + h["momentum"] * v if group["nesterov"] else v
        return p - h["lr"] * g, s


class Adam(RuleOptimizer):
    """Adam: `m = β₁m + (1-β₁)g`, `v = β₂v + (1-β₂)g²`, `p -= lr·m̂ / (√v̂ + eps)` with bias-corrected m̂, v̂.

    Args:
        params: `model.parameters()`, `model.named_parameters()`, a list of parameters, or a list of group dicts.
        lr: learning rate.
        betas: (β₁, β₂).
        eps: see the formula.
        weight_decay: adds `weight_decay·p` to the gradient.
        amsgrad: divide by the largest v so far.
        maximize: ascend.
        decoupled_weight_decay: shrink p by `lr·weight_decay` instead, which is AdamW.
        foreach, capturable, differentiable, fused: choose an implementation in torch; XLA has one, so they change
            nothing.

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
    ) -> None:
        numbers = {"lr": lr, "betas": tuple(betas), "eps": eps, "weight_decay": weight_decay}
        choices = {"amsgrad": amsgrad, "maximize": maximize, "decoupled_weight_decay": decoupled_weight_decay}
        kept = hints(foreach=foreach, capturable=capturable, differentiable=differentiable, fused=fused)
        super().__init__(params, {**numbers, **choices, **kept})

    def _validate(self, items: Mapping[str, Any]) -> None:
        check(items["lr"] >= 0, "learning rate", items["lr"])
        check(items["eps"] >= 0, "epsilon value", items["eps"])
        for i, beta in enumerate(items["betas"]):
            check(0 <= beta < 1, f"beta parameter at index {i}", beta)
        check(items["weight_decay"] >= 0, "weight_decay value", items["weight_decay"])

    def _numbers(self, group: Mapping[str, Any]) -> dict[str, Any]:
        b1, b2 = group["betas"]
        plain = {name: group[name] for name in ("lr", "eps", "weight_decay")}
        # 1 - β and log β, because 1 - float32(0.999) is off in the fifth digit.
        derived = {f"{what}{i}": f(b) for i, b in ((1, b1), (2, b2)) for what, f in _OF_BETA.items()}
        return {**plain, **derived}

    def _slots_of(self, group: ParamGroup) -> tuple[str, ...]:
        return ("exp_avg", "exp_avg_sq", *(("max_exp_avg_sq",) if group["amsgrad"] else ()))

    def _rule(self, group: ParamGroup, h: dict[str, Any], g: Any, p: Any, s: dict[str, Any], t: Any) -> tuple[Any, Any]:
        if group.in_use("weight_decay"):
            if group["decoupled_weight_decay"]:
                p = p * (1 - h["lr"] * h["weight_decay"])
            else:
                g = g + h["weight_decay"] * p
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


_OF_BETA = {"beta": lambda b: b, "rest": lambda b: 1 - b, "log": lambda b: math.log(b) if b > 0 else -1e30}


class AdamW(Adam):
    """Adam with decoupled weight decay: `p -= lr·weight_decay·p`, then Adam's step.

    Args: as `Adam`; `weight_decay` is 0.01 unless given.

    Source: Loshchilov and Hutter, "Decoupled weight decay regularization", 2019.

    Example:
        >>> import jaxmodule as jm
        >>> from jaxmodule import nn
        >>> jm.optim.AdamW(nn.Linear(2, 2).parameters()).param_groups[0]["weight_decay"]
        0.01
    """

    def __init__(
        self,
        params: Groups,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        super().__init__(
            params,
            lr,
            betas,
            eps,
            weight_decay,
            amsgrad,
            foreach=foreach,
            maximize=maximize,
            capturable=capturable,
            differentiable=differentiable,
            fused=fused,
            decoupled_weight_decay=True,
        )

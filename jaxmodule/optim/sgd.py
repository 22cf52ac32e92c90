"""SGD with torch's arguments, defaults and update rule."""

from collections.abc import Container, Mapping
from typing import Any

import jax.numpy as jnp

from .given import Groups
from .group import ParamGroup
from .optimizer import Trees
from .rule import RuleOptimizer, StateDtype, check, check_lr, decayed, hints


class SGD(RuleOptimizer):
    """Stochastic gradient descent: `v = momentum·v + (1 - dampening)·g`, `p -= lr·v`; the first v is g.

    Args:
        params: `model.parameters()`, `model.named_parameters()`, a list of parameters, a list of group dicts, or
            `jm.optim.groups(model, …)`.
        lr: learning rate.
        momentum, dampening: see the formula.
        weight_decay: adds `weight_decay·p` to the gradient.
        nesterov: step along `g + momentum·v`; needs a momentum and no dampening.
        maximize: ascend.
        foreach, differentiable, fused: choose an implementation in torch; XLA has one, so they change nothing.
        state_dtype, master_weights: see `RuleOptimizer`.

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

    _gates = ("momentum", "dampening", "weight_decay")
    _buffered: frozenset[int] = frozenset()  # the groups that have, or have had, a momentum

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
        state_dtype: StateDtype = None,
        master_weights: bool = False,
    ) -> None:
        numbers = {"lr": lr, "momentum": momentum, "dampening": dampening, "weight_decay": weight_decay}
        choices = {"nesterov": nesterov, "maximize": maximize}
        kept = hints(foreach=foreach, differentiable=differentiable, fused=fused)
        super().__init__(params, {**numbers, **choices, **kept}, state_dtype=state_dtype, master_weights=master_weights)

    def _validate(self, items: Mapping[str, Any]) -> None:
        check_lr(items["lr"])
        check(items["momentum"] >= 0, "momentum value", items["momentum"])
        check(items["weight_decay"] >= 0, "weight_decay value", items["weight_decay"])
        if items["nesterov"] and (items["momentum"] <= 0 or items["dampening"] != 0):
            raise ValueError("Nesterov momentum requires a momentum and zero dampening")

    def _numbers(self, group: Mapping[str, Any]) -> dict[str, Any]:
        return {name: group[name] for name in ("lr", "momentum", "dampening", "weight_decay")}

    def _ensure_state(self, index: int, also: Container[str] = ()) -> Trees | None:
        group = self.param_groups[index]
        loaded = isinstance(also, Mapping) and any("momentum_buffer" in also.get(n, {}) for n in group["names"])
        # A momentum that passes through 0 keeps its buffer, as in torch.
        if (loaded or group.in_use("momentum")) and index not in self._buffered:
            self._buffered |= {index}
        return super()._ensure_state(index, also)

    def _snapshot(self) -> Any:
        return super()._snapshot(), self._buffered

    def _restore(self, before: Any) -> None:
        rest, self._buffered = before
        super()._restore(rest)

    def _slots_of(self, group: ParamGroup) -> tuple[str, ...]:
        index = next(i for i, own in enumerate(self.param_groups) if own is group)
        return ("momentum_buffer",) if index in self._buffered else ()

    def _rule(self, group: ParamGroup, h: dict[str, Any], g: Any, p: Any, s: dict[str, Any], t: Any) -> tuple[Any, Any]:
        g, p = decayed(group, h, g, p)
        if not group.in_use("momentum"):
            return p - h["lr"] * g, {}
        v = h["momentum"] * s["momentum_buffer"]
        if group.in_use("dampening"):
            v = jnp.where(t == 1, g, v + (1 - h["dampening"]) * g)
        else:
            v = v + g
        g = g + h["momentum"] * v if group["nesterov"] else v
        return p - h["lr"] * g, {"momentum_buffer": v}

    def _to_torch(self, entry: dict[str, Any]) -> dict[str, Any]:
        entry = super()._to_torch(entry)
        entry.pop("step", None)
        return entry

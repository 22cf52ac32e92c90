"""Adafactor with torch's arguments, defaults and update rule."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from .given import Groups
from .group import ParamGroup
from .rule import RuleOptimizer, StateDtype, check_lr, hints


class Adafactor(RuleOptimizer):
    """Adam without m, and with v as the product of a row and a column, so that its state is small.

    `v = row·col / mean(row)`, both moving means of g² with `β = 1 - t^beta2_decay`; `u = g/√v`, shrunk to a root mean
    square of d at most; `p -= max(eps₂, rms(p)) · min(lr, 1/√t) · u`. Vectors and scalars have a v of their own.

    Args:
        params: `model.parameters()`, `model.named_parameters()`, a list of parameters, a list of group dicts, or
            `jm.optim.groups(model, …)`.
        lr: the largest relative step, and the factor of the weight decay.
        beta2_decay: see the formula.
        eps: (eps₁, eps₂): the smallest √v (None is the resolution of the parameter's dtype), and see the formula.
        d: see the formula.
        weight_decay: shrinks p by `lr·weight_decay`.
        maximize: ascend.
        foreach: chooses an implementation in torch; XLA has one, so it changes nothing.
        state_dtype, master_weights: see `RuleOptimizer`.

    Raises:
        ValueError: a hyper-parameter is out of its range, or there are no parameters.

    Source: Shazeer and Stern, "Adafactor: adaptive learning rates with sublinear memory cost", 2018.

    Example:
        >>> import jaxmodule as jm
        >>> from jaxmodule import nn
        >>> optimizer = jm.optim.Adafactor(nn.Linear(64, 32).parameters())
        >>> {name: value.shape for name, value in sorted(optimizer.state["weight"].items())}
        {'col_var': (1, 64), 'row_var': (32, 1), 'step': ()}
    """

    _gates = ("weight_decay",)
    _complex = False

    def __init__(
        self,
        params: Groups,
        lr: float = 1e-2,
        beta2_decay: float = -0.8,
        eps: tuple[float | None, float] = (None, 1e-3),
        d: float = 1.0,
        weight_decay: float = 0.0,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        state_dtype: StateDtype = None,
        master_weights: bool = False,
    ) -> None:
        numbers = {"lr": lr, "beta2_decay": beta2_decay, "eps": tuple(eps), "d": d, "weight_decay": weight_decay}
        choices = {"maximize": maximize}
        kept = hints(foreach=foreach)
        super().__init__(params, {**numbers, **choices, **kept}, state_dtype=state_dtype, master_weights=master_weights)

    def _validate(self, items: Mapping[str, Any]) -> None:
        smallest, scale = items["eps"]
        check_lr(items["lr"], "Learning rate should be >= 0 but is: ")
        for ok, what, value in (
            (items["beta2_decay"] <= 0, "beta2_decay should be <= 0", items["beta2_decay"]),
            (smallest is None or smallest >= 0, "epsilon1 should be >= 0", smallest),
            (scale >= 0, "epsilon2 should be >= 0", scale),
            (items["d"] >= 1, "Clipping threshold d should be >= 1", items["d"]),
            (items["weight_decay"] >= 0, "weight_decay should be >= 0", items["weight_decay"]),
        ):
            if not ok:
                raise ValueError(f"{what} but is: {value}")

    def _numbers(self, group: Mapping[str, Any]) -> dict[str, Any]:
        smallest, scale = group["eps"]
        plain = {name: group[name] for name in ("lr", "beta2_decay", "d", "weight_decay")}
        return {**plain, "eps1": 0 if smallest is None else smallest, "eps2": scale}

    def _slots_of(self, group: ParamGroup) -> tuple[str, ...]:
        return ("row_var", "col_var", "variance")

    def _first(self, group: ParamGroup, slot: str, p: Any, dtype: Any) -> Any:
        if (slot == "variance") == (p.ndim > 1):
            return None
        if slot == "variance":
            return jnp.zeros_like(p, dtype=dtype)
        *others, rows, columns = p.shape
        return jnp.zeros((*others, rows, 1) if slot == "row_var" else (*others, 1, columns), dtype)

    def _rule(self, group: ParamGroup, h: dict[str, Any], g: Any, p: Any, s: dict[str, Any], t: Any) -> tuple[Any, Any]:
        rest = t.astype(h["lr"].dtype) ** h["beta2_decay"]
        relative = jnp.minimum(h["lr"], 1 / jnp.sqrt(t.astype(h["lr"].dtype)))
        alpha = jnp.maximum(h["eps2"], _rms(p)) * relative
        if group.in_use("weight_decay"):
            p = p * (1 - h["lr"] * h["weight_decay"])
        if g.ndim > 1:
            row = s["row_var"] + ((g * g).mean(-1, keepdims=True) - s["row_var"]) * rest
            column = s["col_var"] + ((g * g).mean(-2, keepdims=True) - s["col_var"]) * rest
            new = {"row_var": row, "col_var": column}
            v = row * column / jnp.maximum(row.mean(-2, keepdims=True), h["eps1"])
        else:
            v = s["variance"] + (g * g - s["variance"]) * rest
            new = {"variance": v}
        u = g / jnp.sqrt(jnp.maximum(v, h["eps1"] * h["eps1"]))
        return p - alpha / jnp.maximum(1, _rms(u) / h["d"]) * u, new

    def _one(
        self, group: ParamGroup, h: dict[str, Any], g: Any, p: Any, own: dict[str, Any], t: Any
    ) -> tuple[Any, dict[str, Any]]:
        if group["eps"][0] is None:  # of the parameter's dtype, which the rule does not see
            h = {**h, "eps1": jnp.asarray(jnp.finfo(p.dtype).eps, h["lr"].dtype)}
        return super()._one(group, h, g, p, own, t)


def _rms(x: Any) -> Any:
    return jnp.sqrt((x * x).mean())

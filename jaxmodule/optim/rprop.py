"""Rprop with torch's arguments, defaults and update rule."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from .given import Groups
from .group import ParamGroup
from .rule import RuleOptimizer, StateDtype, check, check_lr, hints


class Rprop(RuleOptimizer):
    """Resilient backpropagation, for full batches: steps whose size depends on the signs of gradients alone.

    An element's step grows by `etas[1]` while the sign of its gradient stays, and shrinks by `etas[0]` where it
    changed; there the element waits for one step.

    Args:
        params: `model.parameters()`, `model.named_parameters()`, a list of parameters, a list of group dicts, or
            `jm.optim.groups(model, …)`.
        lr: the size of the first step.
        etas: the factors for a step that overshot, and for one that did not.
        step_sizes: the smallest and the largest step.
        maximize: ascend.
        capturable, foreach, differentiable: choose an implementation in torch; XLA has one, so they change nothing.
        state_dtype, master_weights: see `RuleOptimizer`.

    Raises:
        ValueError: a hyper-parameter is out of its range, or there are no parameters.

    Source: Riedmiller and Braun, "A direct adaptive method for faster backpropagation learning", 1993.

    Example:
        >>> import jaxmodule as jm
        >>> from jaxmodule import nn
        >>> optimizer = jm.optim.Rprop(nn.Linear(2, 2).parameters(), lr=1e-2)
    """

    def __init__(
        self,
        params: Groups,
        lr: float = 1e-2,
        etas: tuple[float, float] = (0.5, 1.2),
        step_sizes: tuple[float, float] = (1e-6, 50),
        *,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        state_dtype: StateDtype = None,
        master_weights: bool = False,
    ) -> None:
        numbers = {"lr": lr, "etas": tuple(etas), "step_sizes": tuple(step_sizes)}
        choices = {"maximize": maximize}
        kept = hints(foreach=foreach, capturable=capturable, differentiable=differentiable)
        super().__init__(params, {**numbers, **choices, **kept}, state_dtype=state_dtype, master_weights=master_weights)

    def _validate(self, items: Mapping[str, Any]) -> None:
        check_lr(items["lr"])
        down, up = items["etas"]
        check(0 < down < 1 < up, "eta values", f"{down}, {up}")

    def _numbers(self, group: Mapping[str, Any]) -> dict[str, Any]:
        (down, up), (smallest, largest) = group["etas"], group["step_sizes"]
        return {"lr": group["lr"], "down": down, "up": up, "smallest": smallest, "largest": largest}

    def _slots_of(self, group: ParamGroup) -> tuple[str, ...]:
        return ("prev", "step_size")

    def _rule(self, group: ParamGroup, h: dict[str, Any], g: Any, p: Any, s: dict[str, Any], t: Any) -> tuple[Any, Any]:
        turn = jnp.sign(g) * jnp.sign(s["prev"])
        size = jnp.where(t == 1, h["lr"], s["step_size"])  # the learning rate of the first step, not of the constructor
        size = size * jnp.where(turn > 0, h["up"], jnp.where(turn < 0, h["down"], 1))
        size = jnp.clip(size, h["smallest"], h["largest"])
        g = jnp.where(turn < 0, 0, g)
        return p - jnp.sign(g) * size, {"prev": g, "step_size": size}

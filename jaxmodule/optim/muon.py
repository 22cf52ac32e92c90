"""Muon with torch's arguments, defaults and update rule."""

import math
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from ..core.parameter import Parameter
from .given import Groups
from .group import ParamGroup
from .rule import RuleOptimizer, StateDtype, check_lr

ADJUSTMENTS = (None, "original", "match_rms_adamw")


class Muon(RuleOptimizer):
    """Momentum whose step is made nearly orthogonal: `b += (1-momentum)(g - b)`, `p -= lr·weight_decay·p + lr'·O(b)`.

    O is a few steps of Newton and Schulz, `x = a·x + (b·xxᵀ + c·(xxᵀ)²)x`, in bfloat16 as in torch. For the matrices
    of hidden layers; give biases, norms and embeddings to another optimizer.

    Args:
        params: `model.parameters()`, `model.named_parameters()`, a list of parameters, a list of group dicts, or
            `jm.optim.groups(model, …)`.
        lr: learning rate.
        weight_decay: shrinks p by `lr·weight_decay`.
        momentum: see the formula.
        nesterov: step along `g + momentum·(b - g)`.
        ns_coefficients: (a, b, c).
        eps: the smallest norm that the matrix is divided by.
        ns_steps: how many steps of Newton and Schulz.
        adjust_lr_fn: `lr'` is `lr·√max(1, rows/columns)` ("original", or None), or `0.2·lr·√max(rows, columns)`
            ("match_rms_adamw": learning rates tuned for AdamW fit).
        state_dtype, master_weights: see `RuleOptimizer`.

    Raises:
        ValueError: a hyper-parameter is out of its range, or there are no parameters.

    Source: Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024; "match_rms_adamw": Liu et
    al., "Muon is scalable for LLM training", 2025.

    Example:
        >>> import jaxmodule as jm
        >>> from jaxmodule import nn
        >>> model = nn.Linear(4, 4)
        >>> muon = jm.optim.Muon([p for p in model.parameters() if p.ndim == 2], lr=0.02)
        >>> adamw = jm.optim.AdamW([p for p in model.parameters() if p.ndim != 2], lr=3e-4)
    """

    _gates = ("weight_decay",)
    _complex = False
    _counts = False

    def __init__(
        self,
        params: Groups,
        lr: float = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_coefficients: tuple[float, float, float] = (3.4445, -4.7750, 2.0315),
        eps: float = 1e-7,
        ns_steps: int = 5,
        adjust_lr_fn: str | None = None,
        *,
        state_dtype: StateDtype = None,
        master_weights: bool = False,
    ) -> None:
        numbers = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "eps": eps}
        choices = {"nesterov": nesterov, "ns_coefficients": tuple(ns_coefficients), "ns_steps": ns_steps}
        kept = {"adjust_lr_fn": adjust_lr_fn}
        super().__init__(params, {**numbers, **choices, **kept}, state_dtype=state_dtype, master_weights=master_weights)

    def _check_parameters(self, named: list[tuple[str, Parameter]]) -> None:
        super()._check_parameters(named)
        for i, (name, p) in enumerate(named):
            if p.ndim != 2:
                raise ValueError(
                    f"Muon only supports 2D parameters whereas we found a parameter with size: {tuple(p.shape)}, "
                    f"{name or str(i)!r}. Give it to another optimizer, jm.optim.AdamW say."
                )

    def _validate(self, items: Mapping[str, Any]) -> None:
        check_lr(items["lr"], "Learning rate should be >= 0 but is: ")
        for name, words in (("momentum", "momentum"), ("weight_decay", "weight decay")):
            if not items[name] >= 0:
                raise ValueError(f"{words} should be >= 0 but is: {items[name]}")
        if items["adjust_lr_fn"] not in ADJUSTMENTS:
            raise ValueError(f"Adjust learning rate function {items['adjust_lr_fn']} is not supported")
        if items["ns_steps"] >= 100:
            raise ValueError("Number of steps must be less than 100 for computational efficiency")
        if len(items["ns_coefficients"]) != 3:
            raise ValueError("Coefficients must be a tuple of exactly 3 values")

    def _numbers(self, group: Mapping[str, Any]) -> dict[str, Any]:
        plain = {name: group[name] for name in ("lr", "weight_decay", "momentum", "eps")}
        a, b, c = group["ns_coefficients"]
        return {**plain, "rest": 1 - group["momentum"], "a": a, "b": b, "c": c}

    def _slots_of(self, group: ParamGroup) -> tuple[str, ...]:
        return ("momentum_buffer",)

    def _rule(self, group: ParamGroup, h: dict[str, Any], g: Any, p: Any, s: dict[str, Any], t: Any) -> tuple[Any, Any]:
        b = h["momentum"] * s["momentum_buffer"] + h["rest"] * g
        along = h["rest"] * g + h["momentum"] * b if group["nesterov"] else b
        step = _orthogonal(along, group["ns_steps"], h).astype(p.dtype)
        rows, columns = p.shape
        if group["adjust_lr_fn"] == "match_rms_adamw":
            adjusted = 0.2 * math.sqrt(max(rows, columns))
        else:
            adjusted = math.sqrt(max(1, rows / columns))
        return p * (1 - h["lr"] * h["weight_decay"]) - adjusted * h["lr"] * step, {"momentum_buffer": b}


def _orthogonal(x: Any, steps: int, h: dict[str, Any]) -> Any:
    """Nearly the orthogonal factor of the polar decomposition: singular values between 0.5 and 1.5."""
    wide = x.shape[0] <= x.shape[1]
    half = jnp.bfloat16
    x = (x if wide else x.T).astype(half)
    norm = jnp.sqrt((x.astype(jnp.float32) ** 2).sum()).astype(half)
    x = x / jnp.maximum(norm, h["eps"].astype(half))
    a, b, c = (h[name].astype(jnp.float32) for name in "abc")
    for _ in range(steps):  # each line rounds once, as torch's addmm
        gram = x @ x.T
        square = jnp.matmul(gram, gram, preferred_element_type=jnp.float32)
        gram = (b * gram.astype(jnp.float32) + c * square).astype(half)
        x = (a * x.astype(jnp.float32) + jnp.matmul(gram, x, preferred_element_type=jnp.float32)).astype(half)
    return x if wide else x.T

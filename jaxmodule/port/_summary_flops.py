"""XLA's count of a traced program's operations, with its loops as often as they run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax

#: What is counted are XLA's own operations: on CPU some layers have another spelling of the same mathematics.
_PLATFORM = "tpu"


def flops(traced: Any) -> tuple[float, bool]:
    """The floating-point operations of a traced program, and whether a loop of unknown length is counted once.

    XLA's cost analysis counts the body of a loop once. A `scan` says how often its body runs; the rest is added here.
    """
    total, platform = _by_xla(traced)
    found = _Loops(platform)
    found.look(traced.jaxpr.jaxpr)
    for length, body in found.scans:
        of_body = _trace_body(body)
        once, _ = _by_xla(of_body)
        true, at_least = flops(of_body)
        found.unknown |= at_least
        total += length * true - once
    return total, found.unknown


def _trace_body(closed: Any) -> Any:
    from jax.extend.core import jaxpr_as_fun  # a twentieth of importing JAX

    shapes = [jax.ShapeDtypeStruct(aval.shape, aval.dtype) for aval in closed.in_avals]
    return jax.jit(lambda *args: jaxpr_as_fun(closed)(*args)).trace(*shapes)


def _by_xla(traced: Any) -> tuple[float, str]:
    """XLA's count, and the platform it is for."""
    platform = _PLATFORM
    try:
        lowered = traced.lower(lowering_platforms=(platform,))
    except Exception:  # a kernel that was written for one platform
        platform = jax.default_backend()
        lowered = traced.lower()
    costs = lowered.cost_analysis()
    costs = costs[0] if isinstance(costs, list) else costs
    return max(float((costs or {}).get("flops", 0.0)), 0.0), platform


class _Loops:
    """The loops of a program for one platform that are in no other loop."""

    def __init__(self, platform: str) -> None:
        self.platform = platform
        self.scans: list[tuple[int, Any]] = []
        self.unknown = False

    def look(self, jaxpr: Any) -> None:
        for equation in jaxpr.eqns:
            if equation.primitive.name == "scan":
                self.scans.append((equation.params["length"], equation.params["jaxpr"]))
                continue
            if equation.primitive.name == "while":
                self.unknown = True
            for part in self._parts(equation.params):
                inner = getattr(part, "jaxpr", part)  # of a closed jaxpr, or one itself
                if hasattr(inner, "eqns"):
                    self.look(inner)

    def _parts(self, params: dict[str, Any]) -> Iterator[Any]:
        platforms = params.get("branches_platforms")
        if platforms is not None:  # of lax.platform_dependent; None among them is the default
            fits = [i for i, names in enumerate(platforms) if names is None or self.platform in names]
            yield params["branches"][fits[0]] if fits else None
            return
        for value in params.values():
            yield from value if isinstance(value, (tuple, list)) else (value,)

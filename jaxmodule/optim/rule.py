"""`RuleOptimizer`: the base of the named optimizers, whose step is a rule for one parameter at a time."""

from collections.abc import Container, Mapping
from typing import Any

import jax.numpy as jnp

from .group import HINTS, ParamGroup
from .optimizer import OptimizerBase, Trees, matching


class RuleOptimizer(OptimizerBase):
    """An optimizer whose step is a rule for one parameter at a time.

    The state of a group is `{"step": (n,) int32, slot: {name: array}, …}`: one counter array for all parameters, as a
    compiled call pays for every array it carries. A rule without arrays of its own has no state at all.
    """

    def _slots_of(self, group: ParamGroup) -> tuple[str, ...]:
        """The names of the arrays that a parameter has in the state."""
        raise NotImplementedError

    def _rule(self, group: ParamGroup, h: dict[str, Any], g: Any, p: Any, s: dict[str, Any], t: Any) -> tuple[Any, Any]:
        """The new parameter and its new arrays, from gradient, parameter, arrays and step number (from 1)."""
        raise NotImplementedError

    def _init(self, group: ParamGroup, params: dict[str, Any]) -> Any:
        slots = {slot: {name: jnp.zeros_like(p) for name, p in params.items()} for slot in self._slots_of(group)}
        return {"step": jnp.zeros(len(params), jnp.int32), **slots} if slots else {}

    def _state_kind(self, group: ParamGroup) -> Any:
        return self._slots_of(group)

    def _ensure_state(self, index: int, also: Container[str] = ()) -> Trees | None:
        name = f"{index}['step']"
        old = self._state[name].value if name in self._state else None
        before = super()._ensure_state(index, also)
        if before is not None and old is not None and name in self._state:
            place = {n: i for i, n in enumerate(before.names)}
            zero = jnp.zeros((), jnp.int32)
            steps = [old[place[n]] if n in place else zero for n in self._trees[index].names]
            self._state[name].value = jnp.stack(steps)
        return before

    def _update(
        self, group: ParamGroup, grads: dict[str, Any], state: Any, params: dict[str, Any]
    ) -> tuple[dict[str, Any], Any]:
        h = group.hyper()
        names = list(params)
        steps = [None] * len(names)
        if state:
            steps = state["step"] + jnp.array([name in grads for name in names], jnp.int32)
        new_state = {slot: dict(arrays) for slot, arrays in state.items() if slot != "step"}
        new = {}
        for i, name in enumerate(names):
            if name in grads:
                p = params[name]
                g = -grads[name] if group["maximize"] else grads[name]
                kind = _kind(p.dtype)
                own = {slot: arrays[name].astype(kind) for slot, arrays in new_state.items()}
                value, own = self._rule(group, _cast(h, kind), g.astype(kind), p.astype(kind), own, steps[i])
                new[name] = value.astype(p.dtype)
                for slot, value in own.items():
                    new_state[slot][name] = value.astype(p.dtype)
        return new, {"step": steps, **new_state} if state else {}

    def _split_state(self, index: int, state: Any, found: dict[str, dict[str, Any]]) -> None:
        for i, name in enumerate(self._trees[index].names if state else ()):
            found[name] = {k: v[i] if k == "step" else v[name] for k, v in state.items()}

    def _join_state(self, index: int, state: Any, given: Mapping[str, Mapping[str, Any]]) -> Any:
        if not state:
            return state
        steps = []
        joined = {slot: dict(arrays) for slot, arrays in state.items() if slot != "step"}
        for i, name in enumerate(self._trees[index].names):
            own = given.get(name, {})
            steps.append(jnp.asarray(own.get("step", state["step"][i])).astype(jnp.int32).reshape(()))
            for slot, arrays in joined.items():
                arrays[name] = matching(own[slot], arrays[name], name) if slot in own else arrays[name]
        return {"step": jnp.stack(steps), **joined}


def _kind(dtype: Any) -> Any:
    """What a step computes in: half precision has neither 0.999 nor the small steps."""
    return jnp.float32 if dtype in (jnp.bfloat16, jnp.float16) else dtype


def _cast(h: dict[str, Any], dtype: Any) -> dict[str, Any]:
    return {name: value.astype(dtype) if jnp.issubdtype(dtype, jnp.floating) else value for name, value in h.items()}


def check(ok: bool, what: str, value: Any) -> None:
    """Raise torch's ValueError for a hyper-parameter out of its range."""
    if not ok:
        raise ValueError(f"Invalid {what}: {value}")


def hints(**given: Any) -> dict[str, Any]:
    """The arguments that choose torch's implementation, kept for `state_dict` (see `group.HINTS`)."""
    return {name: given[name] for name in HINTS if name in given}

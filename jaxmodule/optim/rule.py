"""`RuleOptimizer`: the base of the named optimizers, whose step is a rule for one parameter at a time."""

import math
from collections.abc import Container, Mapping
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np

from ..core.parameter import Parameter
from .given import Groups
from .group import HINTS, ParamGroup
from .optimizer import OptimizerBase, Trees
from .saved import matching

StateDtype = Any | Literal["param"] | None

MASTER = "master_param"


class RuleOptimizer(OptimizerBase):
    """An optimizer whose step is a rule for one parameter at a time.

    The state of a group is `{"step": (n,) int32, scalar: (n,), slot: {name: array}, …}`: one array of counters for all
    parameters, as a compiled call pays for every array it carries. A rule without arrays of its own has no state.

    Args:
        params: `model.parameters()`, `model.named_parameters()`, a list of parameters, a list of group dicts, or
            `jm.optim.groups(model, …)`.
        defaults: the hyper-parameters of a group that does not say otherwise.
        state_dtype: what the moments are kept in. None: float32 for parameters in half precision, else the
            parameter's dtype. "param": the parameter's dtype, as torch does. Or a dtype. (A step computes in float32
            at least, whatever its arrays are kept in.) Complex parameters have complex moments.
        master_weights: keep a float32 copy of each parameter in half precision (`master_param` in the state): steps
            move the copy, and the parameter is its rounding, so that steps too small for the parameter's dtype add up.
            Where a parameter was written by something else (`load_state_dict`, say) the copy follows it.

    Note:
        A complex parameter is moved as its real and imaginary part, as in torch; gradients of complex parameters are
        taken as `jm.grad` and `jax.grad` give them, which is the conjugate of torch's.
    """

    #: Numbers of torch's that a parameter has in the state, and what they begin with.
    _scalars: ClassVar[Mapping[str, float]] = {}
    _counts: ClassVar[bool] = True  # is there a "step"?
    _complex: ClassVar[bool] = True  # does the rule make sense for the parts of a complex parameter?

    def __init__(
        self,
        params: Groups,
        defaults: Mapping[str, Any],
        *,
        state_dtype: StateDtype = None,
        master_weights: bool = False,
    ) -> None:
        self.state_dtype = state_dtype if state_dtype in (None, "param") else jnp.dtype(state_dtype)
        self.master_weights = bool(master_weights)
        if isinstance(self.state_dtype, jnp.dtype) and not jnp.issubdtype(self.state_dtype, jnp.floating):
            raise ValueError(f"state_dtype must be a floating-point dtype, 'param' or None, not {state_dtype}")
        super().__init__(params, defaults)

    # -- what a subclass says ---------------------------------------------------------------------------------------
    def _slots_of(self, group: ParamGroup) -> tuple[str, ...]:
        """The names of the arrays that a parameter has in the state."""
        raise NotImplementedError

    def _first(self, group: ParamGroup, slot: str, p: Any, dtype: Any) -> Any:
        """What a slot of parameter p begins with, in the state's dtype; None where p has no such slot."""
        return jnp.zeros_like(p, dtype=dtype)

    def _rule(self, group: ParamGroup, h: dict[str, Any], g: Any, p: Any, s: dict[str, Any], t: Any) -> tuple[Any, Any]:
        """The new parameter and its new arrays, from gradient, parameter, arrays and step number (from 1)."""
        raise NotImplementedError

    # -- state ------------------------------------------------------------------------------------------------------
    def _check_parameters(self, named: list[tuple[str, Parameter]]) -> None:
        for i, (name, p) in enumerate(named):
            if not self._complex and jnp.issubdtype(p.dtype, jnp.complexfloating):
                kind = type(self).__name__
                raise RuntimeError(f"{kind} does not support complex parameters: {name or str(i)!r} is one")

    def _kept_in(self, dtype: Any) -> Any:
        """The dtype of the moments of a parameter."""
        if self.state_dtype == "param" or jnp.issubdtype(dtype, jnp.complexfloating):
            return dtype
        return kind_of(dtype) if self.state_dtype is None else self.state_dtype

    def _init(self, group: ParamGroup, params: dict[str, Any]) -> Any:
        slots: dict[str, dict[str, Any]] = {}
        for slot in self._slots_of(group):
            made = {name: self._first(group, slot, p, self._kept_in(p.dtype)) for name, p in params.items()}
            slots[slot] = {name: array for name, array in made.items() if array is not None}
        if self.master_weights:
            slots[MASTER] = {n: p.astype(kind_of(p.dtype)) for n, p in params.items() if kind_of(p.dtype) != p.dtype}
        if not any(slots.values()) and not self._scalars:
            return {}
        vectors = {name: jnp.full(len(params), value, float) for name, value in self._scalars.items()}
        steps = {"step": jnp.zeros(len(params), jnp.int32)} if self._counts else {}
        return {**steps, **vectors, **{slot: arrays for slot, arrays in slots.items() if arrays}}

    def _state_kind(self, group: ParamGroup) -> Any:
        return self._slots_of(group)

    def _vectors(self) -> tuple[str, ...]:
        return ("step", *self._scalars)

    def _ensure_state(self, index: int, also: Container[str] = ()) -> Trees | None:
        names = {vector: f"{index}[{vector!r}]" for vector in self._vectors()}
        old = {vector: self._state[name].value for vector, name in names.items() if name in self._state}
        before = super()._ensure_state(index, also)
        if before is not None:
            place = {n: i for i, n in enumerate(before.names)}
            for vector, values in old.items():
                if names[vector] in self._state:
                    start = jnp.asarray(self._scalars.get(vector, 0), values.dtype)
                    kept = [values[place[n]] if n in place else start for n in self._trees[index].names]
                    self._state[names[vector]].value = jnp.stack(kept)
        return before

    # -- the step ---------------------------------------------------------------------------------------------------
    def _update(
        self, group: ParamGroup, grads: dict[str, Any], state: Any, params: dict[str, Any], **extra: Any
    ) -> tuple[dict[str, Any], Any]:
        h = group.hyper()
        names = list(params)
        vectors = {name: state[name] for name in self._vectors() if name in state}
        slots = {slot: dict(arrays) for slot, arrays in state.items() if slot not in vectors}
        if "step" in vectors:
            vectors["step"] = vectors["step"] + jnp.array([name in grads for name in names], jnp.int32)
        scalars = {name: [vector[i] for i in range(len(names))] for name, vector in vectors.items()}
        steps = scalars.pop("step", [None] * len(names))
        new = {}
        for i, name in enumerate(names):
            if name in grads:
                own = {slot: arrays[name] for slot, arrays in slots.items() if name in arrays}
                own.update({scalar: values[i] for scalar, values in scalars.items()})
                new[name], own = self._one(group, h, grads[name], params[name], own, steps[i])
                for key, value in own.items():
                    if key in scalars:
                        scalars[key][i] = value.astype(vectors[key].dtype)
                    else:
                        slots[key][name] = value.astype(slots[key][name].dtype)
        for scalar, values in scalars.items():
            vectors[scalar] = jnp.stack(values)
        return new, {**vectors, **slots}

    def _one(
        self, group: ParamGroup, h: dict[str, Any], g: Any, p: Any, own: dict[str, Any], t: Any
    ) -> tuple[Any, dict[str, Any]]:
        """The rule for one parameter, in the dtype that its step computes in."""
        kind = kind_of(p.dtype)
        master = own.pop(MASTER, None)
        x = p.astype(kind)
        if master is not None:  # where it is not what the parameter was rounded from, somebody else wrote that
            x = jnp.where(master.astype(p.dtype) == p, master, x)
        g = g.astype(kind)
        if group.get("maximize"):
            g = -g
        complex_ = jnp.issubdtype(kind, jnp.complexfloating)
        real = jnp.finfo(kind).dtype if jnp.issubdtype(kind, jnp.inexact) else kind
        view, back = (_parts, _whole) if complex_ else (_same, _same)
        own = {s: a.astype(real) if s in self._scalars else view(a.astype(kind)) for s, a in own.items()}
        x, changed = self._rule(group, _cast(h, real), view(g.conj() if complex_ else g), view(x), own, t)
        x = back(x)
        changed = {s: a if s in self._scalars else back(a) for s, a in changed.items()}
        if master is not None:
            changed[MASTER] = x
        return x.astype(p.dtype), changed

    # -- files ------------------------------------------------------------------------------------------------------
    def _from_torch(self, entry: dict[str, Any]) -> dict[str, Any]:
        # SGD of torch's doesn't count its steps: that there is a buffer says that the first one is past.
        return {"step": np.ones(()), **entry} if entry and self._counts else entry

    def _to_torch(self, entry: dict[str, Any]) -> dict[str, Any]:
        entry.pop(MASTER, None)
        if not self._counts:
            return entry
        step = entry.pop("step", 0)
        return {"step": step.astype(jnp.float32), **entry} if step else {}  # torch has no state before the first step

    def _completed(self, given: Mapping[str, Any]) -> Mapping[str, Any]:
        if not self.master_weights:
            return given
        halves = {name: p for name, p in self._params.items() if kind_of(p.dtype) != p.dtype}
        return {
            name: {MASTER: halves[name].value.astype(jnp.float32), **entry} if name in halves else entry
            for name, entry in given.items()
        }

    def _split_state(self, index: int, state: Any, found: dict[str, dict[str, Any]]) -> None:
        for i, name in enumerate(self._trees[index].names if state else ()):
            for slot, value in state.items():
                if not isinstance(value, dict):
                    found[name][slot] = value[i]
                elif name in value:
                    found[name][slot] = value[name]

    def _join_state(self, index: int, state: Any, given: Mapping[str, Mapping[str, Any]]) -> Any:
        joined: dict[str, Any] = {}
        for slot, value in state.items():
            if isinstance(value, dict):
                joined[slot] = {
                    name: matching(given[name][slot], array, name) if slot in given.get(name, {}) else array
                    for name, array in value.items()
                }
                continue
            rows = []
            for i, name in enumerate(self._trees[index].names):
                row = given.get(name, {}).get(slot, value[i])
                row = row if isinstance(row, jax.Array) else np.array(row)  # a copy: torch writes into its own
                rows.append(jnp.asarray(row).astype(value.dtype).reshape(()))
            joined[slot] = jnp.stack(rows)
        return joined


def kind_of(dtype: Any) -> Any:
    """What a step computes in: half precision has neither 0.999 nor the small steps."""
    half = jnp.issubdtype(dtype, jnp.floating) and jnp.dtype(dtype).itemsize < 4
    return jnp.dtype(jnp.float32) if half else dtype


def _cast(h: dict[str, Any], dtype: Any) -> dict[str, Any]:
    return {name: value.astype(dtype) if jnp.issubdtype(dtype, jnp.floating) else value for name, value in h.items()}


def _same(x: Any) -> Any:
    return x


def _parts(x: Any) -> Any:
    return jnp.stack([x.real, x.imag], axis=-1)


def _whole(x: Any) -> Any:
    return jax.lax.complex(x[..., 0], x[..., 1])


def check(ok: Any, what: str, value: Any) -> None:
    """Raise torch's ValueError for a hyper-parameter out of its range."""
    if not ok:
        raise ValueError(f"Invalid {what}: {value}")


def check_lr(lr: Any, words: str = "Invalid learning rate: ") -> None:
    """Raise torch's ValueErrors for a learning rate."""
    if getattr(lr, "size", 1) != 1:
        raise ValueError("Tensor lr must be 1-element")
    if not lr >= 0:
        raise ValueError(f"{words}{lr}")


def check_adam(items: Mapping[str, Any]) -> None:
    """Raise torch's ValueErrors for what Adam and its relatives have in common."""
    check_lr(items["lr"])
    check(items["eps"] >= 0, "epsilon value", items["eps"])
    for i, beta in enumerate(items["betas"]):
        check(0 <= beta < 1, f"beta parameter at index {i}", beta)
    check(items["weight_decay"] >= 0, "weight_decay value", items["weight_decay"])


def adam_numbers(group: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers that Adam and its relatives have in common; of each β also 1 - β and log β.

    Both in double precision here: 1 - float32(0.999) is off in the fifth digit.
    """
    plain = {name: group[name] for name in ("lr", "eps", "weight_decay")}
    of_beta = {}
    for i, beta in enumerate(group["betas"], start=1):
        of_beta |= {f"beta{i}": beta, f"rest{i}": 1 - beta, f"log{i}": math.log(beta) if beta > 0 else -1e30}
    return {**plain, **of_beta}


def decayed(group: ParamGroup, h: dict[str, Any], g: Any, p: Any) -> tuple[Any, Any]:
    """Gradient and parameter after weight decay: added to the gradient, or decoupled, taken off the parameter."""
    if not group.in_use("weight_decay"):
        return g, p
    if group.get("decoupled_weight_decay"):
        return g, p * (1 - h["lr"] * h["weight_decay"])
    return g + h["weight_decay"] * p, p


def hints(**given: Any) -> dict[str, Any]:
    """The arguments that choose torch's implementation, kept for `state_dict` (see `group.HINTS`)."""
    if given.get("fused") and given.get("differentiable"):
        raise RuntimeError("`fused` does not support `differentiable`")
    if given.get("fused") and given.get("foreach"):
        raise RuntimeError("`fused` and `foreach` cannot be `True` together.")
    return {name: given[name] for name in HINTS if name in given}

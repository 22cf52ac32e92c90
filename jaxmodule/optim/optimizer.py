"""`Optimizer`: torch's optimizer interface over an optax transformation, and the base of the named ones."""

import warnings
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from ..core.box import Box, Parameter, ParamName, Slot, unbox
from ..core.registry import Registry
from ..core.state import Stateful
from ..nn.module import Module
from .group import HINTS, ParamGroup

Groups = Any  # parameters, (name, parameter) pairs, or dicts of torch's form


class OptimizerBase(Stateful):
    """What all optimizers share: groups, names, `step`, `zero_grad`, `state_dict`.

    Its state (moments, counters) and the parameters it moves are in boxes, so that `jm.jit` carries them. A subclass says
    how the state of a group begins (`_init`) and what one step does (`_update`), both on plain dicts of arrays.
    """

    _registries = ("_params", "_state", "_hyper", "_slots")
    _internal: ClassVar[frozenset[str]] = frozenset({*_registries, "param_groups", "defaults", "_trees", "_order"})

    def __init__(self, params: Groups, defaults: Mapping[str, Any]) -> None:
        own = self.__dict__
        for name in ("_params", "_state", "_hyper"):
            own[name] = Registry()
        own["defaults"] = dict(defaults)
        own["param_groups"] = []
        own["_trees"] = []  # for each group: (names that have state, treedef of the state)
        if isinstance(params, (jax.Array, Box, Module)):
            raise TypeError(
                f"params argument given to the optimizer should be an iterable of Parameters or dicts, but got "
                f"{type(params).__name__}" + (": pass model.parameters()" if isinstance(params, Module) else "")
            )
        given = _as_groups(params)
        for group in given:
            self.add_param_group(group)
        if not self._params:
            raise ValueError("optimizer got an empty parameter list")

    # -- groups ---------------------------------------------------------------------------------------------------
    def add_param_group(self, param_group: Mapping[str, Any]) -> None:
        """Add a group: `{"params": ..., hyper-parameters that differ from the defaults}`.

        Raises:
            TypeError: something in it is no Parameter.
            ValueError: a parameter is in another group already, or a hyper-parameter is unknown or out of its range.
        """
        if not isinstance(param_group, Mapping):
            raise TypeError(f"param_group must be a dict, but got {type(param_group)}")
        items = dict(param_group)
        named = _named(items.pop("params"))
        unknown = items.keys() - self.defaults.keys() - {"names", "initial_lr"}
        if unknown:
            raise ValueError(f"{type(self).__name__} has no hyper-parameter {sorted(unknown)[0]!r}")
        items = {**self.defaults, **items}
        self._validate(items)
        known = set(self._params.values())
        if any(box in known for _, box in named):
            raise ValueError("some parameters appear in more than one parameter group")
        names = []
        for name, box in named:
            name = _unique(name or str(len(self._params)), self._params)
            self._params[name] = box
            names.append(name)
        group = ParamGroup({"params": [box for _, box in named], "names": names, **items}, self._numbers)
        self._hyper[str(len(self.param_groups))] = group.box
        self.param_groups.append(group)
        self._trees.append(None)
        self._ensure_state(len(self.param_groups) - 1)

    def _validate(self, items: Mapping[str, Any]) -> None:
        """Raise ValueError for a hyper-parameter out of its range."""

    def _numbers(self, group: Mapping[str, Any]) -> dict[str, Any]:
        """The numbers that a step uses, derived from a group's hyper-parameters on the host, in double precision."""
        return {"unused": 0.0}

    def _structure_extra(self) -> Any:
        state = tuple((names, tree) for names, tree in self._trees)
        return (tuple(group.static_key() for group in self.param_groups), state)

    # -- state ----------------------------------------------------------------------------------------------------
    def _init(self, group: ParamGroup, params: dict[str, Any]) -> Any:
        raise NotImplementedError

    def _update(
        self, group: ParamGroup, grads: dict[str, Any], state: Any, params: dict[str, Any]
    ) -> tuple[dict[str, Any], Any]:
        """New values of the parameters in `grads`, and the new state. `params` may have more."""
        raise NotImplementedError

    def _trainable(self, group: ParamGroup) -> dict[str, Parameter]:
        return {name: self._params[name] for name in group["names"] if self._params[name].requires_grad}

    def _ensure_state(self, index: int) -> None:
        """Make state for the parameters of a group that need it and have none; the others keep theirs."""
        group = self.param_groups[index]
        before = self._trees[index]
        names = before[0] if before else ()
        wanted = tuple(n for n in group["names"] if n in names or self._params[n].requires_grad)
        if before is not None and wanted == names:
            return
        state = self._init(group, {name: self._params[name].value for name in wanted})
        paths, tree = jax.tree_util.tree_flatten_with_path(state)
        boxes = {}
        for path, leaf in paths:
            name = f"{index}{jax.tree_util.keystr(path)}"
            boxes[name] = self._state.get(name) or Slot(jnp.asarray(leaf))
        for name in [n for n in self._state if n.startswith(f"{index}[") or n.startswith(f"{index}.")]:
            del self._state[name]
        self._state.update(boxes)
        self._trees[index] = (wanted, tree)

    def _group_state(self, index: int) -> tuple[list[Box], Any]:
        _, tree = self._trees[index]
        boxes = [box for name, box in self._state.items() if name.startswith((f"{index}[", f"{index}."))]
        return boxes, tree

    # -- the step -------------------------------------------------------------------------------------------------
    def step(self, grads: Any = None) -> Any:
        """Move the parameters.

        Args:
            grads: what `jm.grad` returned (or several of those, or a module of gradients from `jax.grad`, or a plain
                dict by parameter name); None takes each parameter's `.grad`; a callable is torch's closure: it is called
                first and its value returned.

        Raises:
            KeyError: a gradient belongs to none of the optimizer's parameters.

        Note:
            A parameter without a gradient, or with `requires_grad = False`, is left alone, weight decay included.
        """
        loss = None
        if callable(grads) and not isinstance(grads, Module):
            loss, grads = grads(), None
        found = self._from_grad() if grads is None else self._resolve(grads)
        for index, group in enumerate(self.param_groups):
            mine = {name: found[name] for name in self._trainable(group) if name in found}
            if mine:
                self._ensure_state(index)
                self._step_group(index, group, mine)
        return loss

    def _step_group(self, index: int, group: ParamGroup, grads: dict[str, Any]) -> None:
        boxes, tree = self._group_state(index)
        state = jax.tree_util.tree_unflatten(tree, [box.value for box in boxes])
        params = {name: self._params[name].value for name in self._trees[index][0]}
        new, state = self._update(group, grads, state, params)
        for name, value in new.items():
            self._params[name].value = value
        for box, value in zip(boxes, jax.tree.leaves(state), strict=True):
            if value is not box.value:
                box.value = value

    def _from_grad(self) -> dict[str, Any]:
        return {name: box.grad for name, box in self._params.items() if box.grad is not None}

    def _resolve(self, grads: Any) -> dict[str, Any]:
        """Gradients by the optimizer's names: by the parameter that a name remembers, else by the name itself."""
        if isinstance(grads, Module):
            grads = {str(name): box.value for name, box in grads.named_parameters()}
        if isinstance(grads, (tuple, list)):
            found: dict[str, Any] = {}
            for part in grads:
                found.update(self._resolve(part))
            return found
        if not isinstance(grads, Mapping):
            raise TypeError(f"step() takes the gradients that jm.grad returns, got {type(grads).__name__}")
        by_box = {box: name for name, box in self._params.items()}
        found = {}
        for name, gradient in grads.items():
            box = name.box if isinstance(name, ParamName) else None
            mine = by_box.get(box) if box is not None else None
            if mine is None and name in self._params:
                mine = str(name)
            if mine is None:
                raise KeyError(f"the gradient {str(name)!r} belongs to no parameter of this optimizer: {list(self._params)[:5]}, …")
            if gradient is not None:
                found[mine] = unbox(gradient)
        return found

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients in the parameters' `.grad`, or with `set_to_none=False` make them zeros."""
        for box in self._params.values():
            if box.grad is not None:
                box.grad = None if set_to_none else jnp.zeros_like(box.grad)

    # -- files ----------------------------------------------------------------------------------------------------
    @property
    def state(self) -> dict[str, dict[str, Any]]:
        """The state by parameter name: `{"fc.weight": {"step": …, "exp_avg": …}}`; what is no parameter's is under ""."""
        found: dict[str, dict[str, Any]] = defaultdict(dict)
        for index in range(len(self.param_groups)):
            boxes, tree = self._group_state(index)
            self._split_state(index, tree.unflatten([box.value for box in boxes]), found)
        return dict(found)

    def _split_state(self, index: int, state: Any, found: dict[str, dict[str, Any]]) -> None:
        for path, leaf in jax.tree_util.tree_flatten_with_path(state)[0]:
            owner = next((k.key for k in path if getattr(k, "key", None) in self._params), "")
            rest = [k for k in path if getattr(k, "key", None) != owner] if owner else list(path)
            found[owner][f"{index}{jax.tree_util.keystr(tuple(rest))}"] = leaf

    def _join_state(self, index: int, state: Any, given: Mapping[str, Mapping[str, Any]]) -> Any:
        """The state of a group with the leaves that `given` has; the inverse of `_split_state`."""
        paths, tree = jax.tree_util.tree_flatten_with_path(state)
        leaves = []
        for path, leaf in paths:
            owner = next((k.key for k in path if getattr(k, "key", None) in self._params), "")
            rest = [k for k in path if getattr(k, "key", None) != owner] if owner else list(path)
            name = f"{index}{jax.tree_util.keystr(tuple(rest))}"
            leaves.append(_matching(given[owner][name], leaf, owner) if name in given.get(owner, {}) else leaf)
        return tree.unflatten(leaves)

    def state_dict(self) -> dict[str, Any]:
        """`{"state": {parameter name: {…}}, "param_groups": [{…, "params": [names]}]}`, of arrays and plain values."""
        groups = []
        for group in self.param_groups:
            plain = {key: group[key] for key in group if key not in ("params", "names")}
            groups.append({**plain, "params": list(group["names"])})
        return {"state": self.state, "param_groups": groups}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave. A load that raises has changed nothing.

        Raises:
            ValueError: the groups or the parameters' names or shapes differ.
        """
        groups = state_dict["param_groups"]
        if len(groups) != len(self.param_groups):
            raise ValueError("loaded state dict has a different number of parameter groups")
        for saved, group in zip(groups, self.param_groups, strict=True):
            if list(saved["params"]) != list(group["names"]):
                raise ValueError(
                    f"loaded state dict contains a parameter group of other parameters: {list(saved['params'])[:5]} "
                    f"against {list(group['names'])[:5]}"
                )
        joined = []
        for index in range(len(groups)):
            boxes, tree = self._group_state(index)
            state = self._join_state(index, tree.unflatten([box.value for box in boxes]), state_dict["state"])
            joined.append((boxes, jax.tree.leaves(state)))
        for boxes, leaves in joined:
            for box, leaf in zip(boxes, leaves, strict=True):
                box.value = leaf
        for saved, group in zip(groups, self.param_groups, strict=True):
            for key, value in saved.items():
                if key != "params":
                    group[key] = tuple(value) if isinstance(value, list) else value

    def _assemble(self, parts: dict[str, Any], nodes: list[Any], boxes: dict[Box, Box]) -> None:
        super()._assemble(parts, nodes, boxes)
        groups = []
        for i, group in enumerate(parts["param_groups"]):
            new = ParamGroup.__new__(ParamGroup)
            dict.update(new, {**dict(group), "params": [self._params[name] for name in group["names"]]})
            new.__dict__.update(group.__dict__, box=self._hyper[str(i)])
            groups.append(new)
        self.__dict__["param_groups"] = groups

    def __repr__(self) -> str:
        lines = [f"{type(self).__name__} ("]
        for i, group in enumerate(self.param_groups):
            lines.append(f"Parameter Group {i}")
            lines += [f"    {key}: {group[key]}" for key in sorted(group) if key not in ("params", "names")]
        return "\n".join([*lines, ")"])


def _matching(value: Any, like: Any, owner: str) -> Any:
    value = unbox(value)
    if value.shape != like.shape:
        raise ValueError(f"loaded state of {owner!r} has shape {value.shape}, the parameter needs {like.shape}")
    return value.astype(like.dtype)


def _as_groups(params: Any) -> list[Any]:
    """Torch's forms of `params` as a list of group dicts."""
    if hasattr(params, "named"):
        return [{"params": params}]
    given = list(params)
    if not given:
        raise ValueError("optimizer got an empty parameter list")
    return given if isinstance(given[0], Mapping) else [{"params": given}]


def _named(params: Any) -> list[tuple[str, Parameter]]:
    """(name, parameter) pairs of a group, each parameter once; "" where no name is known."""
    if isinstance(params, set):
        raise TypeError("optimizer parameters need to be organized in ordered collections; use a list instead of a set.")
    if isinstance(params, Parameter):
        params = [params]
    found: dict[Parameter, str] = {}
    for item in params.named() if hasattr(params, "named") else params:
        name, box = item if isinstance(item, tuple) else (getattr(item, "name_hint", ""), item)
        if not isinstance(box, Parameter):
            raise TypeError(f"optimizer can only optimize Parameters, but one of the params is {type(box).__name__}")
        if box in found:
            warnings.warn("optimizer contains a parameter group with duplicate parameters", UserWarning, stacklevel=4)
        found.setdefault(box, str(name))
    return [(name, box) for box, name in found.items()]


def _unique(name: str, taken: Iterable[str]) -> str:
    candidate, n = name, 0
    while candidate in taken:
        n += 1
        candidate = f"{name}#{n}"
    return candidate


class Optimizer(OptimizerBase):
    """Torch's optimizer interface over any optax transformation.

    Args:
        params: `model.parameters()`, `model.named_parameters()`, or a list of parameters.
        transform: an `optax.GradientTransformation`.

    Example:
        >>> import jax.numpy as jnp, optax, jaxmodule as jm
        >>> from jaxmodule import nn
        >>> model = nn.Linear(3, 1)
        >>> optimizer = jm.optim.Optimizer(model.parameters(), optax.lion(1e-4))
        >>> grads = jm.grad(lambda m: m(jnp.ones((1, 3))).sum())(model)
        >>> optimizer.step(grads)
    """

    def __init__(self, params: Groups, transform: Any) -> None:
        if not (hasattr(transform, "init") and hasattr(transform, "update")):
            raise TypeError(f"transform must be an optax.GradientTransformation, got {type(transform).__name__}")
        self.transform = transform
        super().__init__(params, {})

    def _init(self, group: ParamGroup, params: dict[str, Any]) -> Any:
        return self.transform.init(params)

    def _update(
        self, group: ParamGroup, grads: dict[str, Any], state: Any, params: dict[str, Any]
    ) -> tuple[dict[str, Any], Any]:
        full = {name: grads[name] if name in grads else jnp.zeros_like(p) for name, p in params.items()}
        updates, new_state = self.transform.update(full, state, params)
        new = {name: params[name] + updates[name].astype(params[name].dtype) for name in grads}
        if len(grads) == len(params):
            return new, new_state
        # What has no gradient is left alone: its own part of the state stays as it was.
        old = dict(jax.tree_util.tree_flatten_with_path(state)[0])
        paths, tree = jax.tree_util.tree_flatten_with_path(new_state)
        skipped = params.keys() - grads.keys()
        kept = [old[path] if any(getattr(k, "key", None) in skipped for k in path) else leaf for path, leaf in paths]
        return new, tree.unflatten(kept)


class RuleOptimizer(OptimizerBase):
    """An optimizer whose step is a rule for one parameter at a time.

    The state of a group is `{"step": (n,) int32, slot: {name: array}, …}`: one counter array for all parameters, as a
    compiled call pays for every array it carries.
    """

    def _slots_of(self, group: Mapping[str, Any]) -> tuple[str, ...]:
        """The names of the arrays that a parameter has in the state."""
        raise NotImplementedError

    def _rule(self, group: ParamGroup, h: dict[str, Any], g: Any, p: Any, s: dict[str, Any], t: Any) -> tuple[Any, Any]:
        """The new parameter and its new arrays, from gradient, parameter, arrays and step number (from 1)."""
        raise NotImplementedError

    def _init(self, group: ParamGroup, params: dict[str, Any]) -> Any:
        slots = {slot: {name: jnp.zeros_like(p) for name, p in params.items()} for slot in self._slots_of(group)}
        return {"step": jnp.zeros(len(params), jnp.int32), **slots}

    def _ensure_state(self, index: int) -> None:
        before = self._trees[index]
        steps = dict(zip(before[0], self._state[f"{index}['step']"].value, strict=True)) if before else {}
        super()._ensure_state(index)
        after = self._trees[index]
        if before is not None and after is not before:
            zero = jnp.zeros((), jnp.int32)
            self._state[f"{index}['step']"] = Slot(jnp.stack([steps.get(name, zero) for name in after[0]]))

    def _update(
        self, group: ParamGroup, grads: dict[str, Any], state: Any, params: dict[str, Any]
    ) -> tuple[dict[str, Any], Any]:
        h = group.hyper()
        names = list(params)
        moved = jnp.array([name in grads for name in names], jnp.int32)
        steps = state["step"] + moved
        new_state = {slot: dict(arrays) for slot, arrays in state.items() if slot != "step"}
        new = {}
        for i, name in enumerate(names):
            if name in grads:
                p = params[name]
                g = -grads[name] if group["maximize"] else grads[name]
                own = {slot: arrays[name] for slot, arrays in new_state.items()}
                new[name], own = self._rule(group, _cast(h, p.dtype), g.astype(p.dtype), p, own, steps[i])
                for slot, value in own.items():
                    new_state[slot][name] = value.astype(p.dtype)
        return new, {"step": steps, **new_state}

    def _split_state(self, index: int, state: Any, found: dict[str, dict[str, Any]]) -> None:
        for i, name in enumerate(self._trees[index][0]):
            found[name] = {"step": state["step"][i], **{k: v[name] for k, v in state.items() if k != "step"}}

    def _join_state(self, index: int, state: Any, given: Mapping[str, Mapping[str, Any]]) -> Any:
        steps = []
        joined = {slot: dict(arrays) for slot, arrays in state.items() if slot != "step"}
        for i, name in enumerate(self._trees[index][0]):
            own = given.get(name, {})
            steps.append(jnp.asarray(own.get("step", state["step"][i])).astype(jnp.int32).reshape(()))
            for slot, arrays in joined.items():
                arrays[name] = _matching(own[slot], arrays[name], name) if slot in own else arrays[name]
        return {"step": jnp.stack(steps), **joined}


def _cast(h: dict[str, Any], dtype: Any) -> dict[str, Any]:
    return {name: value.astype(dtype) if jnp.issubdtype(dtype, jnp.floating) else value for name, value in h.items()}


def check(ok: bool, what: str, value: Any) -> None:
    """Raise torch's ValueError for a hyper-parameter out of its range."""
    if not ok:
        raise ValueError(f"Invalid {what}: {value}")


def hints(**given: Any) -> dict[str, Any]:
    """The arguments that choose torch's implementation, kept for `state_dict` (see `group.HINTS`)."""
    return {name: given[name] for name in HINTS if name in given}


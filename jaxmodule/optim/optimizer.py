"""`Optimizer`: torch's optimizer interface over an optax transformation, and the base of the named ones."""

import inspect
from collections.abc import Callable, Container, Mapping
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from ..core.box import Box, Slot, unbox
from ..core.device import abstract_names
from ..core.errors import AbstractError, StateError
from ..core.parameter import Parameter, ParamName
from ..core.registry import Registry
from ..core.state import Stateful
from ..nn.module import Module
from .given import Groups, as_groups, pairs_of, unique
from .group import ParamGroup
from .hooks import (
    KINDS,
    Hooked,
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
    step_with_hooks,
)
from .injected import Injected
from .saved import Saved

__all__ = ["Optimizer", "register_optimizer_step_post_hook", "register_optimizer_step_pre_hook"]


class Trees(NamedTuple):
    """The state of one group: whose it is, of what kind, how it is nested, and the names of its boxes."""

    names: tuple[str, ...]
    kind: Any
    tree: Any
    boxes: tuple[str, ...]


class OptimizerBase(Saved, Hooked, Stateful):
    """What all optimizers share: groups, names, `step`, `zero_grad`, `state_dict`.

    Its state (moments, counters) and the parameters it moves are in boxes, so that `jm.jit` carries them. A subclass
    says how the state of a group begins (`_init`) and what one step does (`_update`), both on plain dicts of arrays.
    """

    _registries = ("_params", "_state", "_hyper", "_slots")
    _gates: ClassVar[tuple[str, ...]] = ()  # hyper-parameters that cost nothing while they are zero
    _internal: ClassVar[frozenset[str]] = frozenset(
        {*_registries, *KINDS, "param_groups", "defaults", "_trees", "_detached"}
    )
    _detached = False

    def __init__(self, params: Groups, defaults: Mapping[str, Any]) -> None:
        own = self.__dict__
        for name in ("_params", "_state", "_hyper", "_trees"):
            own[name] = Registry(watched=True)
        self._no_hooks()
        own["defaults"] = dict(defaults)
        own["param_groups"] = []
        if isinstance(params, (jax.Array, Box, Module)):
            raise TypeError(
                f"params argument given to the optimizer should be an iterable of Parameters or dicts, but got "
                f"{type(params).__name__}" + (": pass model.parameters()" if isinstance(params, Module) else "")
            )
        for group in as_groups(params):
            self.add_param_group(group)

    # -- groups ---------------------------------------------------------------------------------------------------
    def add_param_group(self, param_group: Mapping[str, Any]) -> None:
        """Add a group: `{"params": ..., hyper-parameters that differ from the defaults}`.

        Raises:
            TypeError: something in it is no Parameter.
            ValueError: a parameter is in another group already, or a hyper-parameter is out of its range.

        Note:
            As in torch a group may have further keys, for your own use.
        """
        if not isinstance(param_group, Mapping):
            raise TypeError(f"param_group must be a dict, but got {type(param_group)}")
        items = dict(param_group)
        named = pairs_of(items.pop("params"))
        items = {**self.defaults, **items}
        self._validate(items)
        known = set(self._params.values())
        if any(box in known for _, box in named):
            raise ValueError("some parameters appear in more than one parameter group")
        without = abstract_names(named)
        if without:
            raise AbstractError(without, f"{type(self).__name__} was to train a model")
        self._check_parameters(named)
        names = []
        for name, box in named:
            name = unique(name or str(len(self._params)), self._params)
            self._params[name] = box
            names.append(name)
        group = ParamGroup({**items, "params": [box for _, box in named], "names": names}, self._numbers, self._gates)
        self._hyper[str(len(self.param_groups))] = group.box
        self.param_groups.append(group)
        self._ensure_state(len(self.param_groups) - 1)

    def _validate(self, items: Mapping[str, Any]) -> None:
        """Raise ValueError for a hyper-parameter out of its range."""

    def _check_parameters(self, named: list[tuple[str, Parameter]]) -> None:
        """Raise for parameters that this optimizer cannot move."""

    def _numbers(self, group: Mapping[str, Any]) -> dict[str, Any]:
        """The numbers that a step uses, derived from a group's hyper-parameters on the host, in double precision."""
        return {"unused": 0.0}

    def _structure_extra(self) -> Any:
        groups = tuple(group.static_key() for group in self.param_groups)
        return (groups, tuple(self._trees.values()), self._hooks_key())

    # -- state ----------------------------------------------------------------------------------------------------
    def _init(self, group: ParamGroup, params: dict[str, Any]) -> Any:
        raise NotImplementedError

    def _update(
        self, group: ParamGroup, grads: dict[str, Any], state: Any, params: dict[str, Any], **extra: Any
    ) -> tuple[dict[str, Any], Any]:
        """New values of the parameters in `grads`, and the new state. `params` may have more."""
        raise NotImplementedError

    def _trainable(self, group: ParamGroup) -> dict[str, Parameter]:
        return {name: self._params[name] for name in group["names"] if self._params[name].requires_grad}

    def _state_kind(self, group: ParamGroup) -> Any:
        """What else than the parameters decides what the state looks like."""
        return None

    def _ensure_state(self, index: int, also: Container[str] = ()) -> Trees | None:
        """Make state for the parameters of a group that need it and have none; the others keep theirs.

        Args:
            index: the group's.
            also: names of frozen parameters that get state too.

        Returns:
            What `_trees` had of this group before, if it had something and that has changed.
        """
        group = self.param_groups[index]
        before: Trees | None = self._trees.get(index)
        had = before.names if before else ()
        wanted = tuple(n for n in group["names"] if n in had or n in also or self._params[n].requires_grad)
        kind = self._state_kind(group)
        if before is not None and wanted == had and kind == before.kind:
            return None
        state = self._init(group, {name: self._params[name].value for name in wanted})
        paths, tree = jax.tree_util.tree_flatten_with_path(state)
        boxes = {}
        for path, leaf in paths:
            name, leaf = f"{index}{jax.tree_util.keystr(path)}", jnp.asarray(leaf)
            known = self._state.get(name)
            boxes[name] = Slot(leaf) if known is None or known.shape != leaf.shape else known
        for name in before.boxes if before else ():
            del self._state[name]
        self._state.update(boxes)
        self._trees[index] = Trees(wanted, kind, tree, tuple(boxes))
        return before

    def _group_state(self, index: int) -> tuple[list[Box], Any]:
        trees = self._trees[index]
        return [self._state[name] for name in trees.boxes], trees.tree

    # -- the step -------------------------------------------------------------------------------------------------
    @step_with_hooks
    def step(self, grads: Any = None, *, closure: Callable[[], Any] | None = None, **extra: Any) -> Any:
        """Move the parameters.

        Args:
            grads: what `jm.grad` returned (or several of those, or a module of gradients from `jax.grad`, or a plain
                dict by parameter name); None takes each parameter's `.grad`; a callable is a closure.
            closure: torch's: computes loss and gradients, before anything moves. It returns the loss and leaves the
                gradients in the parameters' `.grad`; or it returns `(loss, grads)`, as `jm.value_and_grad` does.
            extra: what an optax transformation takes besides: `optimizer.step(grads, value=loss)`.

        Returns:
            The closure's loss; None without one.

        Raises:
            KeyError: a plain name is none of the optimizer's, or not one of the gradients is for its parameters.
            TypeError: there are both gradients and a closure, or the optimizer takes none of `extra`.

        Note:
            A parameter without a gradient, or with `requires_grad = False`, is left alone, weight decay included. So
            is, as in torch, one that `jm.grad` differentiated and this optimizer does not have: another one may.
        """
        if self._detached:
            raise StateError(
                "this optimizer is a copy that a raw JAX transform (jax.jit, jax.tree.map, ...) has made: its "
                "parameters are copies too, and no model would see the step.",
                "Use jm.jit in place of jax.jit; or the optax transformation itself on `jm.split(model)[0]`.",
            )
        self._check_extra(extra)
        if callable(grads) and not isinstance(grads, Module):
            grads, closure = closure, grads
        if grads is not None and closure is not None:
            raise TypeError("step() takes gradients or a closure that computes them, and was given both")
        loss = None
        if closure is not None:
            loss, found = self._evaluate(closure)
        else:
            found = self._from_grad() if grads is None else self._resolve(grads)
        for index, group in enumerate(self.param_groups):
            mine = {name: found[name] for name in self._trainable(group) if name in found}
            if mine:
                self._ensure_state(index)
                self._step_group(index, group, mine, **extra)
        return loss

    def _check_extra(self, extra: Mapping[str, Any]) -> None:
        """Raise TypeError for arguments of a step that it does not take."""
        if extra:
            raise TypeError(f"{type(self).__name__}.step() takes nothing besides the gradients, got {sorted(extra)}")

    def _evaluate(self, closure: Callable[[], Any]) -> tuple[Any, dict[str, Any]]:
        """A closure's loss, and the gradients by the optimizer's names."""
        result = closure()
        if not (isinstance(result, tuple) and len(result) == 2):
            return result, self._from_grad()
        value, second = result
        if self._is_gradients(second):
            return value[0] if isinstance(value, tuple) else value, self._resolve(second)
        # jm.backward's (loss, aux); or, where no parameter has a gradient, a mistake that `_resolve` names.
        return result, self._from_grad() or self._resolve(second)

    def _is_gradients(self, x: Any) -> bool:
        """Is it what `_resolve` takes, with the name of a parameter in it?"""
        if isinstance(x, (tuple, list)):
            return any(map(self._is_gradients, x))
        if isinstance(x, Mapping):
            return not x or any(isinstance(name, ParamName) or name in self._params for name in x)
        return isinstance(x, Module)

    def _step_group(self, index: int, group: ParamGroup, grads: dict[str, Any], **extra: Any) -> None:
        boxes, tree = self._group_state(index)
        state = jax.tree_util.tree_unflatten(tree, [box.value for box in boxes])
        params = {name: self._params[name].value for name in self._trees[index].names}
        new, state = self._update(group, grads, state, params, **extra)
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
        others = []
        for name, gradient in grads.items():
            box = name.box if isinstance(name, ParamName) else None
            mine = by_box.get(box) if box is not None else None
            if mine is None and box is not None and box._birth is None:
                others.append(str(name))  # a parameter, no clone of one in a raw transform: its name may be another's
                continue
            if mine is None and name not in self._params:
                raise KeyError(
                    f"the gradient {str(name)!r} belongs to no parameter of this optimizer, which has {self._some()}"
                )
            if gradient is not None:
                found[str(name) if mine is None else mine] = unbox(gradient)
        if others and not found:
            raise KeyError(
                f"the gradients {others[:5]} are of parameters that this optimizer does not have; it has "
                f"{self._some()}. To use them for its own parameters of the same names, pass "
                "`{str(name): g for name, g in grads.items()}`."
            )
        return found

    def _some(self) -> str:
        names = list(self._params)
        return ", ".join(map(repr, names[:5])) + (", …" if len(names) > 5 else "")

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients in the parameters' `.grad`, or with `set_to_none=False` make them zeros."""
        for box in self._params.values():
            if box.grad is not None:
                box.grad = None if set_to_none else jnp.zeros_like(box.grad)

    # -- copies ---------------------------------------------------------------------------------------------------
    def __getstate__(self) -> dict[str, Any]:
        # A treedef can't be pickled with optax's node types in it; a tree of its kind can.
        trees = {i: t._replace(tree=t.tree.unflatten(range(len(t.boxes)))) for i, t in self._trees.items()}
        return {**{name: value for name, value in self.__dict__.items() if name not in KINDS}, "_trees": trees}

    def __setstate__(self, state: dict[str, Any]) -> None:
        own = self.__dict__
        own.update(state)
        self._no_hooks()
        trees = {i: t._replace(tree=jax.tree_util.tree_structure(t.tree)) for i, t in state["_trees"].items()}
        own["_trees"] = Registry(trees, watched=True)
        own["param_groups"] = [self._group_again(i, group) for i, group in enumerate(state["param_groups"])]

    def _group_again(self, index: int, items: Mapping[str, Any]) -> ParamGroup:
        """A group with this object's own parameters and numbers."""
        items = {**items, "params": [self._params[name] for name in items["names"]]}
        return ParamGroup(items, self._numbers, self._gates, self._hyper[str(index)])

    def _assemble(self, parts: dict[str, Any], nodes: list[Any], boxes: dict[Box, Box]) -> None:
        super()._assemble(parts, nodes, boxes)
        groups = [self._group_again(i, group.raw()) for i, group in enumerate(parts["param_groups"])]
        self.__dict__["param_groups"] = groups
        self.__dict__["_detached"] = nodes[0] is self

    def __repr__(self) -> str:
        lines = [f"{type(self).__name__} ("]
        for i, group in enumerate(self.param_groups):
            lines.append(f"Parameter Group {i}")
            lines += [f"    {key}: {group[key]}" for key in sorted(group) if key not in ("params", "names")]
        return "\n".join([*lines, ")"])


class Optimizer(OptimizerBase):
    """Torch's optimizer interface over any optax transformation.

    Args:
        params: `model.parameters()`, `model.named_parameters()`, or a list of parameters.
        transform: an `optax.GradientTransformation`.

    Note:
        What a transformation takes besides gradients goes to the step: `optimizer.step(grads, value=loss)`. It is one
        transformation for each group; `optax.multi_transform` and `optax.masked` tell parameters apart by name.

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

    @property
    def hyperparams(self) -> Injected:
        """What `optax.inject_hyperparams` has made settable: `optimizer.hyperparams["learning_rate"] = 1e-4`.

        Setting one compiles nothing again.
        """
        return Injected(self._state)

    def _check_extra(self, extra: Mapping[str, Any]) -> None:
        try:
            inspect.signature(self.transform.update).bind(None, None, None, **extra)
        except TypeError as error:
            raise TypeError(f"the optax transformation takes nothing of {sorted(extra)} in a step: {error}") from None

    def _init(self, group: ParamGroup, params: dict[str, Any]) -> Any:
        return self.transform.init(params)

    def _update(
        self, group: ParamGroup, grads: dict[str, Any], state: Any, params: dict[str, Any], **extra: Any
    ) -> tuple[dict[str, Any], Any]:
        full = {name: grads[name] if name in grads else jnp.zeros_like(p) for name, p in params.items()}
        updates, new_state = self.transform.update(full, state, params, **extra)
        new = {name: params[name] + updates[name].astype(params[name].dtype) for name in grads}
        if len(grads) == len(params):
            return new, new_state
        # What has no gradient is left alone: its own part of the state stays as it was.
        old = dict(jax.tree_util.tree_flatten_with_path(state)[0])
        paths, tree = jax.tree_util.tree_flatten_with_path(new_state)
        skipped = params.keys() - grads.keys()
        kept = [old[path] if any(getattr(k, "key", None) in skipped for k in path) else leaf for path, leaf in paths]
        return new, tree.unflatten(kept)

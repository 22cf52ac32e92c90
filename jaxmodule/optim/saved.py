"""What an optimizer saves and loads: its state by parameter name, all of it or nothing."""

from collections import defaultdict
from collections.abc import Callable, Container, Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from ..core.box import Box
from ..core.registry import Registry
from .group import ParamGroup
from .torch_state import from_torch, is_torch, to_torch


class Saved:
    """`state`, `state_dict` and `load_state_dict` of an optimizer."""

    if TYPE_CHECKING:  # what OptimizerBase has
        param_groups: list[ParamGroup]
        _params: Registry
        _state: Registry
        _trees: Registry

        def _init(self, group: ParamGroup, params: dict[str, Any]) -> Any: ...
        def _ensure_state(self, index: int, also: Container[str] = ()) -> Any: ...
        def _group_state(self, index: int) -> tuple[list[Box], Any]: ...
        def _run_hooks(self, kind: str, *state_dict: Any) -> Any: ...

    @property
    def state(self) -> dict[str, dict[str, Any]]:
        """The state by parameter name: `{"fc.weight": {"step": …}}`; what is no parameter's is under ""."""
        found: dict[str, dict[str, Any]] = defaultdict(dict)
        for index in range(len(self.param_groups)):
            self._split_state(index, self._state_of(index), found)
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
            leaves.append(matching(given[owner][name], leaf, owner) if name in given.get(owner, {}) else leaf)
        return tree.unflatten(leaves)

    def state_dict(self) -> dict[str, Any]:
        """`{"state": {parameter name: {…}}, "param_groups": [{…, "params": [names]}]}`, of arrays and plain values.

        A transformation's PRNG keys are in there as their data, which files can hold; a load makes keys of it again.
        """
        self._run_hooks("_optimizer_state_dict_pre_hooks")
        groups = []
        for group in self.param_groups:
            plain = {key: group[key] for key in group if key not in ("params", "names")}
            groups.append({**plain, "params": list(group["names"])})
        state = {name: {slot: _data(leaf) for slot, leaf in entry.items()} for name, entry in self.state.items()}
        return self._run_hooks("_optimizer_state_dict_post_hooks", {"state": state, "param_groups": groups})

    def torch_state_dict(self, convert: Callable[[np.ndarray], Any] = np.asarray) -> dict[str, Any]:
        """The state as `torch.optim` keeps it: keyed by the index of the parameter, with torch's slot names.

        Args:
            convert: makes the arrays what is wanted: `torch.from_numpy` for `load_state_dict` of a torch optimizer.
                (`jm.save(optimizer.torch_state_dict(), "optimizer.pt")` writes what `torch.load` reads as tensors.)

        Raises:
            TypeError: an optimizer over optax, which torch has none of.

        Example:
            >>> import jaxmodule as jm
            >>> from jaxmodule import nn
            >>> optimizer = jm.optim.AdamW(nn.Linear(2, 2).parameters())
            >>> optimizer.torch_state_dict()["param_groups"][0]["params"]
            [0, 1]
        """
        return to_torch(self, convert)

    def _from_torch(self, entry: dict[str, Any]) -> dict[str, Any]:
        """Torch's state of one parameter as this optimizer keeps it."""
        raise TypeError(f"torch has no {type(self).__name__} like this one: only states of named optimizers convert")

    def _to_torch(self, entry: dict[str, Any]) -> dict[str, Any]:
        """The inverse of `_from_torch`; empty where torch has no state yet."""
        return self._from_torch(entry)

    def _completed(self, given: Mapping[str, Any]) -> Mapping[str, Any]:
        """A state to be loaded with what can be told from the parameters, where it lacks that."""
        return given

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave, or a torch optimizer's. A load that raises has changed nothing.

        Args:
            state_dict: from `state_dict`; or from `torch.optim`, keyed by index, as `jm.load("optimizer.pt")` reads it
                or as torch has it: its parameters are those of the groups in their order.

        Raises:
            ValueError: the groups or the parameters' names or shapes differ.
        """
        state_dict = self._run_hooks("_optimizer_load_state_dict_pre_hooks", dict(state_dict))
        if is_torch(state_dict):
            state_dict = from_torch(self, state_dict)
        groups = state_dict["param_groups"]
        given = self._completed(state_dict["state"])
        if len(groups) != len(self.param_groups):
            raise ValueError("loaded state dict has a different number of parameter groups")
        for saved, group in zip(groups, self.param_groups, strict=True):
            if list(saved["params"]) != list(group["names"]):
                raise ValueError(
                    "loaded state dict contains a parameter group that doesn't match the optimizer's group: it has "
                    f"{list(saved['params'])[:5]}, the optimizer {list(group['names'])[:5]}"
                )
        unknown = [name for name in given if name and name not in self._params]
        if unknown:
            raise ValueError(
                f"loaded state dict has state of parameters that the optimizer doesn't have: {unknown[:5]}"
            )
        before = self._snapshot()
        try:
            for index, (saved, group) in enumerate(zip(groups, self.param_groups, strict=True)):
                group.update(
                    {k: tuple(v) if type(v) is list else v for k, v in saved.items() if k not in ("params", "names")}
                )
                self._ensure_state(index, also=given)
            self._check_state(given)
            joined = [self._join_state(index, self._base_of(index, given), given) for index in range(len(groups))]
        except Exception:
            self._restore(before)
            raise
        for index, state in enumerate(joined):
            for box, leaf in zip(self._group_state(index)[0], jax.tree.leaves(state), strict=True):
                box.value = leaf
        self._run_hooks("_optimizer_load_state_dict_post_hooks")

    def _base_of(self, index: int, given: Container[str]) -> Any:
        """What a loaded state is filled up from: that of a parameter which `given` does not have begins anew."""
        names = self._trees[index].names
        if all(name in given for name in names):
            return self._state_of(index)
        return self._init(self.param_groups[index], {name: self._params[name].value for name in names})

    def _snapshot(self) -> Any:
        """All that a load or a step changes of this object, for `_restore`; the parameters apart."""
        values = {name: (box, box.value) for name, box in self._state.items()}
        return values, list(self._trees.items()), [dict(group.items()) for group in self.param_groups]

    def _restore(self, before: Any) -> None:
        """Go back to what `_snapshot` has seen."""
        values, trees, groups = before
        self._state.reorder([(name, box) for name, (box, _) in values.items()])
        self._trees.reorder(trees)
        for group, old in zip(self.param_groups, groups, strict=True):
            group.restore(old)
        for box, value in values.values():
            if box.value is not value:
                box.value = value

    def _state_of(self, index: int) -> Any:
        boxes, tree = self._group_state(index)
        return tree.unflatten([box.value for box in boxes])

    def _check_state(self, given: Mapping[str, Mapping[str, Any]]) -> None:
        own = self.state
        for name, entries in given.items():
            needed = own.get(name, {})
            if entries.keys() != needed.keys():
                raise ValueError(
                    f"loaded state of {name!r} has {sorted(entries)}, {type(self).__name__} needs {sorted(needed)}"
                )


def matching(value: Any, like: Any, owner: str) -> Any:
    """`value` as the state of `owner` in the dtype and place of `like`; ValueError if the shapes differ."""
    value = value.value if isinstance(value, Box) else value
    if _is_key(like):
        data = matching(_data(value), jax.random.key_data(like), owner)
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(like))
    if not hasattr(value, "shape"):
        value = np.asarray(value)
    shape = tuple(value.shape)
    if shape != like.shape:
        raise ValueError(f"loaded state of {owner!r} has shape {shape}, the parameter needs {like.shape}")
    if not isinstance(value, jax.Array):
        host = value.read() if hasattr(value, "read") else np.array(value)  # memory of its own: JAX takes it over
        value = jax.device_put(host.astype(like.dtype, copy=False))
    value = value.astype(like.dtype)
    elsewhere = getattr(like, "committed", False) and value.sharding != like.sharding
    return jax.device_put(value, like.sharding) if elsewhere else value


def _is_key(x: Any) -> bool:
    return isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def _data(x: Any) -> Any:
    """The data of a PRNG key; anything else as it is."""
    return jax.random.key_data(x) if _is_key(x) else x

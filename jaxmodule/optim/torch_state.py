"""Optimizer states as torch keeps them: keyed by the index of the parameter, hyper-parameters and steps as tensors."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["from_torch", "is_torch", "to_torch"]


def is_torch(state_dict: Mapping[str, Any]) -> bool:
    """Is it keyed by index?"""
    return any(isinstance(key, (int, np.integer)) for group in state_dict["param_groups"] for key in group["params"])


def from_torch(optimizer: Any, state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """The state dict keyed by the names of the optimizer's parameters, in the order of its groups.

    Raises:
        ValueError: the groups have other numbers of parameters.
    """
    groups = state_dict["param_groups"]
    if len(groups) != len(optimizer.param_groups):
        raise ValueError("loaded state dict has a different number of parameter groups")
    names: dict[int, str] = {}
    renamed = []
    for i, (saved, group) in enumerate(zip(groups, optimizer.param_groups, strict=True)):
        if len(saved["params"]) != len(group["names"]):
            raise ValueError(
                "loaded state dict contains a parameter group that doesn't match the size of optimizer's group: "
                f"group {i} has {len(saved['params'])} parameters, the optimizer's {len(group['names'])}"
            )
        names.update(zip(saved["params"], group["names"], strict=True))
        rest = {key: array_of(value) for key, value in saved.items() if key not in ("params", "param_names")}
        renamed.append({**rest, "params": list(group["names"])})
    state = {}
    for key, entry in state_dict["state"].items():
        if key not in names:
            raise ValueError(f"loaded state dict has state of a parameter {key!r} that none of its groups has")
        plain = {slot: array_of(value) for slot, value in entry.items() if value is not None}
        state[names[key]] = optimizer._from_torch(plain)
    return {"state": {name: entry for name, entry in state.items() if entry}, "param_groups": renamed}


def to_torch(optimizer: Any, convert: Callable[[np.ndarray], Any]) -> dict[str, Any]:
    """Torch's form of the optimizer's `state_dict`."""
    own = optimizer.state_dict()
    index = {name: i for i, name in enumerate(n for group in own["param_groups"] for n in group["params"])}

    def plain(value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return type(value)(map(plain, value))
        if not isinstance(value, (jax.Array, np.ndarray)):
            return value
        floating = jnp.issubdtype(value.dtype, jnp.floating)
        half = floating and value.dtype.itemsize < 4  # torch casts to the parameter's dtype; numpy has no bfloat16
        return convert(np.array(value, np.float32 if half else None))  # a copy: torch may write into it

    state = {}
    for name, entry in own["state"].items():
        entry = optimizer._to_torch(dict(entry))
        if entry:
            state[index[name]] = {slot: plain(value) for slot, value in entry.items()}
    groups = [{**group, "params": [index[name] for name in group["params"]]} for group in own["param_groups"]]
    return {"state": dict(sorted(state.items())), "param_groups": groups}


def array_of(value: Any) -> Any:
    """A torch tensor as numpy array; lists of them likewise; anything else as it is."""
    if isinstance(value, list):
        return [array_of(each) for each in value]
    if not (hasattr(value, "detach") and hasattr(value, "cpu") and hasattr(value, "numpy")):
        return value
    tensor = value.detach().cpu().resolve_conj()
    half = tensor.is_floating_point() and tensor.element_size() < 4  # numpy has no bfloat16
    return (tensor.float() if half else tensor).numpy().copy()

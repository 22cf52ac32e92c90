"""The arrays inside the arguments and results of a module call, named, for both frameworks.

*Label*: where an array is, `x`, `[0]` or `hidden_states[1]`: the words a person would use.
"""

import dataclasses
import inspect
import sys
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np

from ..core.box import Box, unbox

__all__ = [
    "BY_BITS",
    "is_array",
    "is_number",
    "is_torch",
    "labelled",
    "mapped",
    "named_arguments",
    "paired",
    "plain",
    "to_numpy",
]

#: dtypes that numpy can't take from torch, nor torch from numpy.
BY_BITS = (
    "bfloat16",
    "float8_e4m3fn",
    "float8_e5m2",
    "float8_e4m3fnuz",
    "float8_e5m2fnuz",
    "float8_e8m0fnu",
)


def is_torch(value: Any) -> bool:
    """Is `value` a torch tensor? Without importing torch: who has a tensor has done so."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def is_array(value: Any) -> bool:
    """Is `value` an array of either framework, or of numpy?"""
    return isinstance(value, (jax.Array, np.ndarray, Box)) or is_torch(value)


def is_number(value: Any) -> bool:
    """Is `value` a number or flag of Python or numpy? One that no numpy dtype has room for is none."""
    return isinstance(value, (bool, int, float, complex, np.number, np.bool_)) and np.asarray(value).dtype.kind != "O"


def to_numpy(value: Any) -> np.ndarray:
    """A numpy array of the same values and dtype. A torch tensor is copied: the model may write into it later."""
    if isinstance(value, np.ndarray):
        return value  # as it is: `unbox` would cut 64 bits to 32
    if not is_torch(value):
        return np.asarray(unbox(value))
    tensor = value.detach().cpu()
    tensor = tensor.to_dense() if tensor.is_sparse else tensor
    if (name := str(tensor.dtype).removeprefix("torch.")) in BY_BITS:
        import torch  # the caller handed us a torch tensor, so it is there

        dtype = jax.numpy.dtype(name)
        return tensor.contiguous().view(torch.uint8 if dtype.itemsize == 1 else torch.int16).numpy().view(dtype).copy()
    return tensor.resolve_conj().resolve_neg().numpy().copy()


def _parts(value: Any) -> list[tuple[str, Any]] | None:
    """The (label, part) of a container, None for anything else."""
    if isinstance(value, Mapping):  # Hugging Face's outputs too
        return [(f".{key}" if isinstance(key, str) else f"[{key!r}]", part) for key, part in value.items()]
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        fields: Any = value
        return [(f".{name}", getattr(value, name)) for name in fields._fields]
    if isinstance(value, (tuple, list)):
        return [(f"[{i}]", part) for i, part in enumerate(value)]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [(f".{field.name}", getattr(value, field.name, None)) for field in dataclasses.fields(value)]
    if isinstance(value, SimpleNamespace):
        return [(f".{name}", part) for name, part in vars(value).items()]
    return None


def labelled(value: Any, label: str = "", wanted: Callable[[Any], bool] = is_array) -> dict[str, Any]:
    """The arrays in `value` by label, in order; or what else is `wanted`."""
    if wanted(value):
        return {label or "output": value}
    found: dict[str, Any] = {}
    for name, part in _parts(value) or ():
        found |= labelled(part, f"{label}{name}" if label else name.removeprefix("."), wanted)
    return found


def plain(value: Any, label: str) -> dict[str, Any]:
    """The numbers, flags and words in `value` by label."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return {label: value}
    found: dict[str, Any] = {}
    for name, part in _parts(value) or ():
        if not is_array(part):
            found |= plain(part, f"{label}{name}")
    return found


def mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    """`value` with every array in it replaced; containers are made anew, other objects stay."""
    if is_array(value):
        return change(value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        make: Any = type(value)
        return make._make(mapped(part, change) for part in value)  # past a constructor that checks
    if type(value) in (tuple, list):
        return type(value)(mapped(part, change) for part in value)
    if isinstance(value, Mapping):
        new = {key: mapped(part, change) for key, part in value.items()}
        return (
            new if type(value) is dict else type(value)(**new) if dataclasses.is_dataclass(value) else _like(value, new)
        )
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: mapped(getattr(value, f.name), change) for f in dataclasses.fields(value) if f.init}
        return dataclasses.replace(value, **fields)
    if type(value) is SimpleNamespace:
        return SimpleNamespace(**{name: mapped(part, change) for name, part in vars(value).items()})
    return value


def _like(value: Any, new: dict[Any, Any]) -> Any:
    try:
        return type(value)(new)
    except TypeError:
        return new


def named_arguments(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a call by the names that `forward` has for them, defaults included."""
    try:
        signature = inspect.signature(module.forward)
        bound = signature.bind(*args, **kwargs)
    except (TypeError, ValueError):
        return {**{f"[{i}]": arg for i, arg in enumerate(args)}, **kwargs}
    bound.apply_defaults()
    found: dict[str, Any] = {}
    for name, value in bound.arguments.items():
        kind = signature.parameters[name].kind
        found |= value if kind is inspect.Parameter.VAR_KEYWORD else {name: value}
    return found


def paired(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> list[tuple[str, Any, Any]] | None:
    """(label, torch's, the port's): by label if they have the same ones, else in order; None if the numbers differ."""
    if set(theirs) == set(ours):
        return [(label, value, ours[label]) for label, value in theirs.items()]
    if len(theirs) != len(ours):
        return None
    return [(label, value, mine) for (label, value), mine in zip(theirs.items(), ours.values(), strict=True)]

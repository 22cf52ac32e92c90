"""What the layers share in their constructors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from ...core import fill
from ...core.device import PlacementLike, blank, given, here, place_of
from ..parameter import Buffer, Parameter

#: What a layer's `device=` takes: a device or sharding of JAX's, "meta", the name of a platform, a `jm.device`.
Placement = PlacementLike

#: What a layer is made of when no dtype is given, with and without `jax_enable_x64`: torch's default.
DEFAULT_DTYPE = jnp.float32


def empty_parameter(
    shape: tuple[int, ...], device: Placement | None, dtype: DTypeLike | None, requires_grad: bool = True
) -> Parameter:
    """A parameter of this shape, for `reset_parameters` to fill.

    Raises:
        RuntimeError: a size is negative.
    """
    if min(shape, default=0) < 0:
        raise RuntimeError(f"Trying to create tensor with negative dimension {min(shape)}: {list(shape)}")
    with given(device):
        return Parameter(_constant(shape, 0, device, dtype), requires_grad)


def filled_buffer(
    shape: tuple[int, ...], value: float, device: Placement | None = None, dtype: DTypeLike | None = None
) -> Buffer:
    """A buffer of one number."""
    with given(device):
        return Buffer(_constant(shape, value, device, dtype))


def _constant(shape: tuple[int, ...], value: float, device: Placement | None, dtype: DTypeLike | None) -> Any:
    meta, place = here()
    place = place if device is None else place_of(device)
    kind = DEFAULT_DTYPE if dtype is None else dtype
    # fill.full: a compiled jnp.empty a shape would be most of the time that constructing a large model takes
    return blank(shape, kind) if meta else fill.full(shape, value, kind, device=place)


def ntuple(name: str, value: int | Sequence[int], n: int) -> tuple[int, ...]:
    """One number for each of `n` dimensions.

    Raises:
        ValueError: there is neither one number nor `n`.
    """
    values = (int(value),) if isinstance(value, (int, np.integer)) else tuple(value)
    if len(values) == 1:
        return values * n
    if len(values) != n:
        raise ValueError(f"{name} must be an int or a tuple of {n} ints, but got {values}")
    return values


def _ntuple(n: int, name: str = "parse") -> Callable[[Any], tuple[Any, ...]]:
    """A function that gives `n` times its argument, or what an iterable argument holds: unlike `ntuple`, unchecked."""

    def parse(x: Any) -> tuple[Any, ...]:
        return tuple(x) if isinstance(x, Iterable) else (x,) * n

    parse.__name__ = name
    return parse


_single = _ntuple(1, "_single")
_pair = _ntuple(2, "_pair")
_triple = _ntuple(3, "_triple")
_quadruple = _ntuple(4, "_quadruple")


def _reverse_repeat_tuple(t: Sequence[Any], n: int) -> tuple[Any, ...]:
    """The elements from last to first, each `n` times: a convolution's padding as `F.pad` takes it."""
    return tuple(x for x in reversed(t) for _ in range(n))


def _list_with_default(out_size: int | Sequence[int | None], defaults: Sequence[int]) -> int | list[int]:
    """A size with the last of `defaults` where it says None; one number as it is.

    Raises:
        ValueError: there are not more defaults than sizes.
    """
    if isinstance(out_size, int):
        return out_size
    if len(defaults) <= len(out_size):
        raise ValueError(f"Input dimension should be at least {len(out_size) + 1}")
    last = defaults[len(defaults) - len(out_size) :]
    return [default if size is None else size for size, default in zip(out_size, last, strict=True)]


def factory_kwargs(kwargs: dict[str, Any] | None) -> dict[str, Any]:
    """What of a constructor's keyword arguments makes arrays: `device` and `dtype`, given so or in `factory_kwargs`.

    Raises:
        TypeError: there is another key, or one is given both ways.

    Example:
        >>> from jaxmodule import nn
        >>> nn.factory_kwargs({"dtype": "float16", "factory_kwargs": {"device": None}})
        {'device': None, 'dtype': 'float16'}
    """
    given = dict(kwargs or {})
    found = dict(given.pop("factory_kwargs", {}))
    if unknown := given.keys() - {"device", "dtype", "memory_format"}:
        raise TypeError(f"unexpected kwargs {sorted(unknown)}")
    if twice := given.keys() & found.keys():
        raise TypeError(f"{', '.join(sorted(twice))} specified twice, in **kwargs and in factory_kwargs")
    return {**found, **given}


def consume_prefix_in_state_dict_if_present(state_dict: dict[str, Any], prefix: str) -> None:
    """Take `prefix` off the names of a state dict that have it, in place; its `_metadata` too.

    Example:
        >>> from jaxmodule.nn.modules.utils import consume_prefix_in_state_dict_if_present
        >>> state = {"module.weight": 1, "other": 2}
        >>> consume_prefix_in_state_dict_if_present(state, "module.")
        >>> state
        {'weight': 1, 'other': 2}
    """
    metadata = getattr(state_dict, "_metadata", None)
    renamed = {key.removeprefix(prefix): value for key, value in state_dict.items()}
    state_dict.clear()
    state_dict.update(renamed)
    if metadata is not None:
        # The whole model's own entry is "", what is below it has the prefix: "module" and "module.fc".
        paths = {path: path.removeprefix(prefix) if path != prefix[:-1] else "" for path in metadata if path}
        moved = {new: metadata[old] for old, new in paths.items()}
        kept = {"": metadata[""]} if "" in metadata and "" not in moved else {}
        metadata.clear()
        metadata.update({**kept, **moved})

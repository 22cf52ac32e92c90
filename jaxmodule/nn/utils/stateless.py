"""Calling a module with other parameters than its own. `jaxmodule.functional_call` is this, without the warning."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from copy import copy
from typing import Any

from ...core.box import Box, unbox
from ...core.effects import take
from ...core.errors import ImmutableError, StateError
from ...core.overlay import overlaid
from ..module import Module
from ..traversal import boxes_of
from ._parametrized import replace
from .parametrize import is_parametrized

__all__ = ["functional_call"]


def functional_call(
    module: Module,
    parameters_and_buffers: Mapping[str, Any],
    args: Any = None,
    kwargs: Mapping[str, Any] | None = None,
    *,
    tie_weights: bool = True,
    strict: bool = False,
) -> Any:
    """Deprecated in torch: `jm.functional_call` with one dict, after a FutureWarning.

    Args:
        module: the module.
        parameters_and_buffers: dotted name → array.
        args, kwargs, tie_weights, strict: as in `jm.functional_call`.

    Note:
        torch puts what the call writes to a buffer into the dict that it was given. Here that raises ImmutableError,
        and `jm.functional_call(..., mutable=True)` returns it.

    Example:
        >>> import warnings
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> model = nn.Linear(2, 1)
        >>> with warnings.catch_warnings():
        ...     warnings.simplefilter("ignore", FutureWarning)
        ...     nn.utils.stateless.functional_call(model, {"bias": jnp.zeros(1)}, jnp.zeros((1, 2))).tolist()
        [[0.0]]
    """
    warnings.warn(
        "`torch.nn.utils.stateless.functional_call` is deprecated as of PyTorch 2.0 and will be removed in a future "
        "version of PyTorch. Please use `torch.func.functional_call` instead: here `jaxmodule.functional_call`.",
        FutureWarning,
        stacklevel=2,
    )
    return call(module, parameters_and_buffers, args, kwargs, tie_weights=tie_weights, strict=strict)


def call(
    module: Module,
    states: Mapping[str, Any] | Sequence[Mapping[str, Any]],
    args: Any = None,
    kwargs: Mapping[str, Any] | None = None,
    *,
    tie_weights: bool = True,
    strict: bool = False,
    mutable: bool = False,
) -> Any:
    """What `jm.functional_call` does."""
    given = _one_dict(states)
    boxes = boxes_of(module)
    if strict:
        _check_names(module, boxes, given, tie_weights)
    args = () if args is None else args if isinstance(args, tuple) else (args,)
    if not tie_weights:
        module = _untied(module, given)
        boxes = boxes_of(module)
    values = _bound(boxes, given)
    with overlaid(dict(values), closed=False) as overlay:
        for name, value in given.items():
            _replace_parametrized(overlay, module, name, value)
        out = module(*args, **dict(kwargs or {}))
        overlay.settle()
        written = {name: overlay.values[box] for name, box in boxes.items() if box in overlay.written and box in values}
        if written and not mutable:
            raise ImmutableError(
                f"functional_call ran code that writes {sorted(written)}, which it was given as values.",
                "Pass mutable=True to get `(output, written)`, or put the module into eval mode.",
            )
        for box in values:
            overlay.written.pop(box, None)
        effects, arrays = take(overlay)
    try:
        effects.apply(arrays)
    except StateError as error:  # a write to what was not given, in a raw transform
        error.path = next((name for name, box in boxes.items() if box is error.box), "")
        error.owner = type(module).__name__
        raise
    return (out, written) if mutable else out


def _bound(boxes: dict[str, Box], given: dict[str, Any]) -> dict[Any, Any]:
    """What each box that a name stands for is to hold.

    Raises:
        ValueError: two names of one box are given different values.
    """
    values: dict[Any, Any] = {}
    for name, value in given.items():
        box = boxes.get(name)
        if box is not None:
            array = unbox(value)
            if box in values and values[box] is not array:
                same = [n for n, b in boxes.items() if b is box and n in given]
                raise ValueError(
                    f"functional_call got multiple values for keys {sorted(same)}, which are tied. "
                    "Consider using tie_weights=False"
                )
            values[box] = array
    return values


def _replace_parametrized(overlay: Any, module: Any, name: str, value: Any) -> None:
    """Take a value for the name of a parametrized tensor as that tensor, whatever its parametrizations."""
    path, _, last = name.rpartition(".")
    for part in path.split(".") if path else ():
        module = module._modules.get(part)
        if module is None:
            return
    if is_parametrized(module, last):
        replace(overlay, module, last, unbox(value))


def _one_dict(states: Any) -> dict[str, Any]:
    """The names and values of a dict or of several."""
    if isinstance(states, Mapping):
        return dict(states)
    if not isinstance(states, Sequence) or isinstance(states, str):
        raise ValueError(
            f"Expected parameter_and_buffer_dicts to be a dict, or a list/tuple of dicts, but got {type(states)}"
        )
    if not all(isinstance(state, Mapping) for state in states):
        raise ValueError("Expected all elements of parameter_and_buffer_dicts to be dictionaries")
    counts = Counter(name for state in states for name in state)
    repeated = [name for name, n in counts.items() if n > 1]
    if repeated:
        raise ValueError(f"{repeated} appeared in multiple dictionaries; behavior of functional call is ambiguous")
    return {name: value for state in states for name, value in state.items()}


def _check_names(module: Module, boxes: dict[str, Box], given: dict[str, Any], tied: bool) -> None:
    """Raise torch's error for names that are missing or unknown. One name of a tied parameter stands for all."""
    have = {boxes[name] for name in given if name in boxes} if tied else set()
    missing = [name for name, box in boxes.items() if name not in given and box not in have]
    unknown = [name for name in given if name not in boxes]
    parts = [
        f"{what} key(s): {', '.join(map(repr, names))}."
        for what, names in (("Unexpected", unknown), ("Missing", missing))
        if names
    ]
    if parts:
        raise RuntimeError(f"Error(s) in reparametrizing for {type(module).__name__}:\n\t" + "\n\t".join(parts))


def _untied(module: Module, given: dict[str, Any]) -> Module:
    """A shallow copy of the tree in which each given name has a box of its own."""

    def visit(node: Module, path: str) -> Module:
        new = copy(node)
        for registry in (new._parameters, new._buffers):
            for name, box in list(registry.items()):
                if box is not None and f"{path}{name}" in given:
                    registry[name] = box._clone(box.value)  # pyright: ignore[reportArgumentType]
        for name, child in list(new._modules.items()):
            if child is not None:
                new._modules[name] = visit(child, f"{path}{name}.")
        return new

    return visit(module, "")

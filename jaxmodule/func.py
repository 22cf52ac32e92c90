"""A Module as a pure function of dicts of arrays: `functional_call`, `split`, `merge`, `stack_module_state`."""

from collections import Counter
from collections.abc import Mapping, Sequence
from copy import copy
from typing import Any

import jax
import jax.numpy as jnp

from .core.box import Box, unbox
from .core.effects import take
from .core.errors import ImmutableError, StateError
from .core.overlay import overlaid
from .nn.module import Module


def split(module: Module) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
    """The parameters and the buffers of a module as plain dicts from dotted names to arrays. A tied one is there once.

    Example:
        >>> import jaxmodule as jm
        >>> from jaxmodule import nn
        >>> params, buffers = jm.split(nn.BatchNorm1d(2))
        >>> list(params), list(buffers)
        (['weight', 'bias'], ['running_mean', 'running_var', 'num_batches_tracked'])
    """
    return (
        {str(name): box.value for name, box in module.named_parameters()},
        {name: box.value for name, box in module.named_buffers()},
    )


def merge(module: Module, *states: Mapping[str, Any]) -> Module:
    """A copy of `module` that holds the arrays of `states`; names that none of them has keep the module's.

    Raises:
        KeyError: a name is no parameter or buffer of the module.

    Example:
        >>> import jax, jaxmodule as jm
        >>> from jaxmodule import nn
        >>> model = nn.Linear(2, 1)
        >>> params, buffers = jm.split(model)
        >>> zeroed = jm.merge(model, jax.tree.map(lambda p: p * 0, params), buffers)
        >>> float(abs(zeroed.weight.value).sum())
        0.0
    """
    new: Any = jax.tree.map(lambda x: x, module)
    boxes = _boxes(new)
    for state in states:
        for name, value in state.items():
            if name not in boxes:
                raise KeyError(f"{type(module).__name__} has no parameter or buffer {name!r}")
            boxes[name].value = unbox(value)
    return new


def _boxes(module: Module) -> dict[str, Box]:
    found: dict[str, Any] = dict(module.named_parameters(remove_duplicate=False))
    found.update(module.named_buffers(remove_duplicate=False))
    return found


def functional_call(
    module: Module,
    parameter_and_buffer_dicts: Mapping[str, Any] | Sequence[Mapping[str, Any]],
    args: Any = None,
    kwargs: Mapping[str, Any] | None = None,
    *,
    tie_weights: bool = True,
    strict: bool = False,
    mutable: bool = False,
) -> Any:
    """Call a module with other parameters and buffers than its own: torch.func's `functional_call`.

    Works in any JAX transform. What is not in the dicts is the module's own.

    Args:
        module: the module.
        parameter_and_buffer_dicts: dotted name → array; or several such dicts.
        args: the arguments of the call; one that is no tuple counts as the only one.
        kwargs: its keyword arguments.
        tie_weights: a value given for one name of a tied parameter stands for all of them.
        strict: raise if a name is missing or unknown.
        mutable: also return what the call wrote to the given values, as `{name: array}` (BatchNorm's new statistics).

    Returns:
        The module's output; with `mutable` the pair (output, written).

    Raises:
        ImmutableError: the call writes to a given buffer and `mutable` is False: the new value would be lost.
        RuntimeError: `strict`, and the names don't match. Without it unknown names are ignored.
        ValueError: two names of one tied parameter have different values, a name is in several of the dicts, or what is
            given is no dict.

    Example:
        >>> import jax, jax.numpy as jnp, jaxmodule as jm
        >>> from jaxmodule import nn
        >>> model = nn.Linear(2, 1)
        >>> params, buffers = jm.split(model)
        >>> loss = lambda params: jm.functional_call(model, params, jnp.ones((1, 2))).sum()
        >>> jax.grad(loss)(params)["bias"]
        Array([1.], dtype=float32)
    """
    given = _one_dict(parameter_and_buffer_dicts)
    boxes = _boxes(module)
    if strict:
        _check_names(module, boxes, given, tie_weights)
    args = () if args is None else args if isinstance(args, tuple) else (args,)
    if not tie_weights:
        module = _untied(module, given)
        boxes = _boxes(module)
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
    with overlaid(dict(values), closed=False) as overlay:
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


def stack_module_state(models: Sequence[Module]) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
    """The parameters and buffers of equal models, each stacked along a new first axis, for `jax.vmap`.

    Raises:
        RuntimeError: there are no models, or they differ in class or in mode.

    Example:
        >>> import jax, jax.numpy as jnp, jaxmodule as jm
        >>> from jaxmodule import nn
        >>> models = [nn.Linear(3, 2) for _ in range(5)]
        >>> params, buffers = jm.stack_module_state(models)
        >>> call = lambda p, b, x: jm.functional_call(models[0], (p, b), x)
        >>> jax.vmap(call, in_axes=(0, 0, None))(params, buffers, jnp.ones((4, 3))).shape
        (5, 4, 2)
    """
    models = list(models)
    if not models:
        raise RuntimeError("stack_module_state: Expected at least one model, got 0.")
    if len({type(m) for m in models}) > 1:
        raise RuntimeError("stack_module_state: Expected all models to be of the same class.")
    if len({m.training for m in models}) > 1:
        raise RuntimeError("stack_module_state: Expected all models to have the same training/eval mode.")
    states = [split(m) for m in models]
    if len({tuple(p) + tuple(b) for p, b in states}) > 1:
        raise RuntimeError("stack_module_state: Expected all models to have the same parameters and buffers.")
    stacked = [{name: jnp.stack([state[i][name] for state in states]) for name in states[0][i]} for i in range(2)]
    return stacked[0], stacked[1]

"""A Module as a pure function of dicts of arrays: `functional_call`, `split`, `merge`, `stack_module_state`."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from .core.box import unbox
from .nn.module import Module
from .nn.traversal import boxes_of


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
    boxes = boxes_of(new)
    for state in states:
        for name, value in state.items():
            if name not in boxes:
                raise KeyError(f"{type(module).__name__} has no parameter or buffer {name!r}")
            boxes[name].value = unbox(value)
    return new


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

    Works in any JAX transform. What is not in the dicts is the module's own. A value for the name of a parametrized
    tensor takes its place, and its parametrizations do not run.

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
    from .nn.utils.stateless import call  # with nn.utils, on demand

    return call(
        module,
        parameter_and_buffer_dicts,
        args,
        kwargs,
        tie_weights=tie_weights,
        strict=strict,
        mutable=mutable,
    )


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

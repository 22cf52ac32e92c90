"""Pruning: a parameter times a mask, with the original kept as `<name>_orig` and the mask as `<name>_mask`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

import jax.numpy as jnp

from ...core.box import unbox
from ..derived import pre_hooks
from ..functional._common import ArrayLike
from ..module import Module
from ._pruning import BasePruningMethod, PruningContainer
from ._pruning_methods import (
    CustomFromMask,
    Identity,
    L1Unstructured,
    LnStructured,
    RandomStructured,
    RandomUnstructured,
)
from .convert_parameters import parameters_to_vector

__all__ = [
    "BasePruningMethod",
    "CustomFromMask",
    "Identity",
    "L1Unstructured",
    "LnStructured",
    "PruningContainer",
    "RandomStructured",
    "RandomUnstructured",
    "custom_from_mask",
    "global_unstructured",
    "identity",
    "is_pruned",
    "l1_unstructured",
    "ln_structured",
    "random_structured",
    "random_unstructured",
    "remove",
]

M = TypeVar("M", bound=Module)


def identity(module: M, name: str) -> M:
    """Prune nothing: a mask of ones.

    Args:
        module: the module.
        name: a parameter of it.

    Returns:
        The module, with the parameter `<name>_orig`, the buffer `<name>_mask` and their product under `name`.

    Note:
        `module.<name>` is computed when it is read; torch's is that of the last call.

    Example:
        >>> from jaxmodule import nn
        >>> from jaxmodule.nn.utils import prune
        >>> prune.identity(nn.Linear(2, 3), "bias").bias_mask.tolist()
        [1.0, 1.0, 1.0]
    """
    Identity.apply(module, name)
    return module


def random_unstructured(module: M, name: str, amount: float) -> M:
    """Prune elements at random.

    Args:
        module: the module.
        name: a parameter of it.
        amount: how many elements: an int, or a float that is the part of those not pruned yet.

    Returns:
        The module, as `identity` does.

    Raises:
        TypeError: `amount` is no number.
        ValueError: it is negative, above 1, or more elements than there are.

    Example:
        >>> from jaxmodule import nn
        >>> from jaxmodule.nn.utils import prune
        >>> layer = prune.random_unstructured(nn.Linear(2, 3), "weight", amount=1)
        >>> int((layer.weight == 0).sum())
        1
    """
    RandomUnstructured.apply(module, name, amount)
    return module


def l1_unstructured(module: M, name: str, amount: float, importance_scores: ArrayLike | None = None) -> M:
    """Prune the elements with the smallest absolute values.

    Args:
        module: the module.
        name: a parameter of it.
        amount: as in `random_unstructured`.
        importance_scores: an array of the parameter's shape, to choose by instead of its values.

    Returns:
        The module, as `identity` does.

    Raises:
        TypeError: `amount` is no number.
        ValueError: it is negative, above 1, or more elements than there are.
        AssertionError: the scores have another shape.

    Example:
        >>> from jaxmodule import nn
        >>> from jaxmodule.nn.utils import prune
        >>> layer = prune.l1_unstructured(nn.Linear(2, 3), "weight", amount=0.5)
        >>> sorted(layer.state_dict())
        ['bias', 'weight_mask', 'weight_orig']
    """
    L1Unstructured.apply(module, name, amount=amount, importance_scores=importance_scores)
    return module


def random_structured(module: M, name: str, amount: float, dim: int) -> M:
    """Prune channels at random.

    Args:
        module: the module.
        name: a parameter of it, with two dimensions or more.
        amount: how many channels: an int, or a float that is the part of those not wholly pruned yet.
        dim: the dimension of the channels.

    Returns:
        The module, as `identity` does.

    Raises:
        TypeError: `amount` is no number.
        ValueError: it is negative, above 1, or more channels than there are; or there is one dimension.
        IndexError: there is no such dimension.

    Example:
        >>> from jaxmodule import nn
        >>> from jaxmodule.nn.utils import prune
        >>> layer = prune.random_structured(nn.Linear(5, 3), "weight", amount=3, dim=1)
        >>> int((layer.weight_mask.sum(0) == 0).sum())
        3
    """
    RandomStructured.apply(module, name, amount, dim)
    return module


def ln_structured(
    module: M, name: str, amount: float, n: float | str, dim: int, importance_scores: ArrayLike | None = None
) -> M:
    """Prune the channels with the smallest norms.

    Args:
        module: the module.
        name: a parameter of it, with two dimensions or more.
        amount: as in `random_structured`.
        n: the norm: a number, `inf`, `-inf`, "fro" or "nuc" (those two where a channel is a matrix).
        dim: the dimension of the channels.
        importance_scores: an array of the parameter's shape, to choose by instead of its values.

    Returns:
        The module, as `identity` does.

    Raises:
        TypeError: `amount` is no number.
        ValueError: it is negative, above 1, or more channels than there are; or there is one dimension.
        IndexError: there is no such dimension.
        AssertionError: the scores have another shape.

    Example:
        >>> from jaxmodule import nn
        >>> from jaxmodule.nn.utils import prune
        >>> layer = prune.ln_structured(nn.Conv2d(5, 3, 2), "weight", amount=0.3, dim=1, n=float("-inf"))
        >>> int((layer.weight_mask.sum((0, 2, 3)) == 0).sum())
        2
    """
    LnStructured.apply(module, name, amount, n, dim, importance_scores=importance_scores)
    return module


def global_unstructured(
    parameters: Iterable[tuple[Module, str]],
    pruning_method: type[BasePruningMethod],
    importance_scores: dict[tuple[Module, str], ArrayLike] | None = None,
    **kwargs: Any,
) -> None:
    """Prune several parameters as if they were one.

    Args:
        parameters: pairs of a module and a parameter's name.
        pruning_method: a class with the type "unstructured", such as `L1Unstructured`.
        importance_scores: for some of the pairs an array to choose by instead of the parameter's values.
        kwargs: the arguments of `pruning_method`.

    Raises:
        TypeError: `parameters` is no iterable, `importance_scores` no dict, or the method is structured.

    Example:
        >>> from jaxmodule import nn
        >>> from jaxmodule.nn.utils import prune
        >>> net = nn.Sequential(nn.Linear(10, 4), nn.Linear(4, 1))
        >>> pairs = [(net[0], "weight"), (net[1], "weight")]
        >>> prune.global_unstructured(pairs, prune.L1Unstructured, amount=10)
        >>> int(sum((mask == 0).sum() for mask in net.buffers()))
        10
    """
    if not isinstance(parameters, Iterable):
        raise TypeError("global_unstructured(): parameters is not an Iterable")
    scores = {} if importance_scores is None else importance_scores
    if not isinstance(scores, dict):
        raise TypeError("global_unstructured(): importance_scores must be of type dict")
    pairs = list(parameters)
    method = pruning_method(**kwargs)
    if method.PRUNING_TYPE != "unstructured":
        raise TypeError(
            'Only "unstructured" PRUNING_TYPE supported for the `pruning_method`. '
            f"Found method {pruning_method} of type {method.PRUNING_TYPE}"
        )
    values: list[Any] = [unbox(getattr(module, name)) for module, name in pairs]
    given: list[Any] = [scores.get(pair, value) for pair, value in zip(pairs, values, strict=True)]
    masks: list[Any] = [
        getattr(module, f"{name}_mask", jnp.ones_like(value))
        for (module, name), value in zip(pairs, values, strict=True)
    ]
    container = PruningContainer()
    container._tensor_name = method._tensor_name = "all of them"
    container.add_pruning_method(method)
    mask = container.compute_mask(parameters_to_vector(given), parameters_to_vector(masks))
    start = 0
    for (module, name), value in zip(pairs, values, strict=True):
        custom_from_mask(module, name, mask[start : start + value.size].reshape(value.shape))
        start += value.size


def custom_from_mask(module: M, name: str, mask: ArrayLike) -> M:
    """Prune what a mask says.

    Args:
        module: the module.
        name: a parameter of it.
        mask: an array of its shape, 0 for what is pruned and 1 for the rest.

    Returns:
        The module, as `identity` does.

    Raises:
        AssertionError: the mask has another shape.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> from jaxmodule.nn.utils import prune
        >>> prune.custom_from_mask(nn.Linear(5, 3), name="bias", mask=jnp.array([0, 1, 0])).bias_mask.tolist()
        [0.0, 1.0, 0.0]
    """
    CustomFromMask.apply(module, name, mask)
    return module


def remove(module: M, name: str) -> M:
    """Make the pruned parameter an ordinary one. What was pruned stays zero.

    Args:
        module: the module.
        name: the parameter.

    Returns:
        The module; the parameter is the object that `<name>_orig` was.

    Raises:
        ValueError: it is not pruned.

    Example:
        >>> from jaxmodule import nn
        >>> from jaxmodule.nn.utils import prune
        >>> layer = prune.random_unstructured(nn.Linear(5, 7), name="weight", amount=0.2)
        >>> sorted(prune.remove(layer, "weight").state_dict())
        ['bias', 'weight']
    """
    for key, hook in list(pre_hooks(module).items()):
        if isinstance(hook, BasePruningMethod) and hook._tensor_name == name:
            hook.remove(module)
            del pre_hooks(module)[key]
            return module
    raise ValueError(f"Parameter '{name}' of module {module} has to be pruned before pruning can be removed")


def is_pruned(module: Module) -> bool:
    """Is any parameter of the module or of those in it pruned?

    Example:
        >>> from jaxmodule import nn
        >>> from jaxmodule.nn.utils import prune
        >>> prune.is_pruned(nn.Linear(5, 7))
        False
    """
    return any(isinstance(hook, BasePruningMethod) for m in module.modules() for hook in pre_hooks(m).values())

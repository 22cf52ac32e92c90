"""Tied weights: one parameter in two places, as it is or as a function of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import jax

from ..module import Module
from ..parameter import Parameter
from .parametrize import is_parametrized, register_parametrization

__all__ = ["Tied", "tie"]

M = TypeVar("M", bound=Module)


class Tied(Module):
    """The parametrization of a tied weight: a function of another parameter.

    Args:
        transform: from the other parameter's array to this weight.
    """

    def __init__(self, transform: Callable[[jax.Array], jax.Array]) -> None:
        super().__init__()
        self.transform = transform

    def forward(self, source: jax.Array) -> jax.Array:
        """The weight."""
        return self.transform(source)


def tie(model: M, target: str, source: str, transform: Callable[[jax.Array], jax.Array] | None = None) -> M:
    """Let one parameter of a model be another one, or a function of it: `tie(model, "head.weight", "embed.weight")`.

    Args:
        model: the model; it is changed in place.
        target: the dotted name of the parameter that goes.
        source: that of the parameter that stays. It is one for the optimizer, and has the gradient of both places.
        transform: a function from the source's array to the target, as `jnp.transpose` for a decoder whose matrix is
            its encoder's the other way round. None for the array itself, which is
            `model.head.weight = model.embed.weight`.

    Returns:
        The model. With a `transform` the parameter's second name is `<module>.parametrizations.<name>.original`.

    Raises:
        AttributeError: there is no parameter of that name.
        ValueError: the shapes differ, or a parameter is parametrized.

    Note:
        torch has the assignment only.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> model = nn.Sequential(nn.Linear(5, 2, bias=False), nn.Linear(2, 5, bias=False))
        >>> model = nn.utils.tie(model, "1.weight", "0.weight", jnp.transpose)
        >>> [str(name) for name, _ in model.named_parameters()], model[1].weight.shape
        (['0.weight'], (5, 2))
    """
    (module, name), kept = _place(model, target), model.get_parameter(source)
    gone = module.get_parameter(name)
    if gone is kept:
        return model
    shape = kept.shape if transform is None else jax.eval_shape(transform, _abstract(kept)).shape
    if tuple(shape) != tuple(gone.shape):
        hint = "" if transform is not None else ": give a transform, as jnp.transpose"
        raise ValueError(f"tie: {target} has shape {list(gone.shape)}, and {source} gives {list(shape)}{hint}")
    setattr(module, name, kept)
    if transform is not None:
        register_parametrization(module, name, Tied(transform), unsafe=True)
    return model


def _abstract(parameter: Any) -> Any:
    return jax.ShapeDtypeStruct(parameter.shape, parameter.dtype)


def _place(model: Module, full: str) -> tuple[Module, str]:
    path, _, name = full.rpartition(".")
    module = model.get_submodule(path)
    if is_parametrized(module, name):
        raise ValueError(f"tie: {full} is parametrized: remove_parametrizations first")
    if not isinstance(module._parameters.get(name), Parameter):
        raise AttributeError(f"tie: the model has no parameter {full!r}")
    return module, name

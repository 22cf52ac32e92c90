"""Parametrizations: a parameter or buffer as a function of others, computed whenever it is read."""

from __future__ import annotations

from typing import Any, TypeVar

from ...core.box import unbox
from ...core.parameter import Buffer, Parameter
from ..modes import carry_no_gradient, no_grad
from ..module import Module
from ..modules.container import ModuleDict
from ._parametrization_list import ParametrizationList, check_same, inverted, register
from ._parametrized import cached, parametrized_class

__all__ = [
    "ParametrizationList",
    "cached",
    "is_parametrized",
    "register_parametrization",
    "remove_parametrizations",
    "transfer_parametrizations_and_params",
    "type_before_parametrizations",
]

M = TypeVar("M", bound=Module)


def register_parametrization(module: M, tensor_name: str, parametrization: Module, *, unsafe: bool = False) -> M:
    """Let `module.<tensor_name>` be `parametrization(original)`, computed whenever it is read.

    The parameter becomes `module.parametrizations.<tensor_name>.original`; it is the same object, so an optimizer that
    has it goes on. Assigning to the attribute sets the original to `parametrization.right_inverse(value)`; a
    `right_inverse` that returns several arrays makes `original0`, `original1`, … of them. Another parametrization of
    the same tensor is applied to the result of the first.

    Args:
        module: the module. Its class becomes a subclass of its own with the name `Parametrized…`.
        tensor_name: a parameter or buffer of it.
        parametrization: a module from arrays to an array.
        unsafe: don't check that dtype and shape stay the same.

    Returns:
        The module.

    Raises:
        ValueError: the module has no such parameter or buffer, or the dtype or shape would change.
        AttributeError: the parameter is None.

    Note:
        A parametrized module can be pickled, which torch refuses; parametrizations get arrays, not Parameters.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> from jaxmodule.nn.utils import parametrize
        >>> class Symmetric(nn.Module):
        ...     def forward(self, x):
        ...         return jnp.triu(x) + jnp.triu(x, 1).T
        ...     def right_inverse(self, a):
        ...         return jnp.triu(a)
        >>> layer = parametrize.register_parametrization(nn.Linear(3, 3), "weight", Symmetric())
        >>> bool((layer.weight == layer.weight.T).all())
        True
        >>> [str(name) for name, _ in layer.named_parameters()]
        ['bias', 'parametrizations.weight.original']
    """
    parametrization.train(module.training)
    if is_parametrized(module, tensor_name):
        _append(module, tensor_name, parametrization, unsafe)
        return module
    if tensor_name not in module._parameters and tensor_name not in module._buffers:
        raise ValueError(
            f"Module '{module}' does not have a parameter, a buffer, "
            f"or a parametrized element with name '{tensor_name}'"
        )
    original = module._parameters.get(tensor_name, module._buffers.get(tensor_name))
    if original is None:
        raise AttributeError(f"'{tensor_name}' of {type(module).__name__} is None: there is nothing to parametrize")
    parametrizations = ParametrizationList([parametrization], original, unsafe=unsafe)
    delattr(module, tensor_name)
    if not is_parametrized(module):
        module.parametrizations = ModuleDict()
    module.parametrizations[tensor_name] = parametrizations  # pyright: ignore
    _change_class(module, _names(module) | {tensor_name})
    return module


def _append(module: Any, name: str, parametrization: Any, unsafe: bool) -> None:
    """Add a parametrization to those of a tensor, after torch's checks."""
    if not unsafe:
        y = getattr(module, name)
        x = parametrization(y)
        labels = (f"module.{name}", f"parametrization(module.{name})")
        check_same(x, y, labels)
        if hasattr(parametrization, "right_inverse"):
            try:
                z = inverted(parametrization, unbox(x))
            except NotImplementedError:
                pass
            else:
                check_same(z, y, (f"module.{name}", "returned"), inverse=True)
    parametrizations = module.parametrizations[name]
    parametrizations.append(parametrization)
    parametrizations.unsafe |= unsafe


def _names(module: Module) -> frozenset[str]:
    return getattr(type(module), "_parametrized_names", frozenset())


def _change_class(module: Module, names: frozenset[str]) -> None:
    base = type_before_parametrizations(module)
    module.__class__ = parametrized_class(base, names)


def is_parametrized(module: Module, tensor_name: str | None = None) -> bool:
    """Is this tensor of the module parametrized, or without a name any of them?

    Example:
        >>> from jaxmodule import nn
        >>> from jaxmodule.nn.utils import parametrizations, parametrize
        >>> parametrize.is_parametrized(parametrizations.weight_norm(nn.Linear(3, 2)), "bias")
        False
    """
    names = _names(module)
    return bool(names) if tensor_name is None else tensor_name in names


def remove_parametrizations(module: M, tensor_name: str, leave_parametrized: bool = True) -> M:
    """Make a parametrized tensor an ordinary parameter or buffer again.

    Args:
        module: the module.
        tensor_name: the tensor.
        leave_parametrized: keep the value that the parametrizations give; else that of the original.

    Returns:
        The module. Where there is one original, the parameter is that object; else it is a new one, for the
        optimizer too (a buffer, as in torch, where nothing that it comes from requires a gradient).

    Raises:
        ValueError: the tensor is not parametrized; or `leave_parametrized=False` and there are several originals.

    Example:
        >>> from jaxmodule import nn
        >>> from jaxmodule.nn.utils import parametrizations, parametrize
        >>> layer = parametrizations.weight_norm(nn.Linear(3, 2))
        >>> parametrize.remove_parametrizations(layer, "weight")
        Linear(in_features=3, out_features=2, bias=True)
    """
    if not is_parametrized(module, tensor_name):
        raise ValueError(f"Module {module} does not have a parametrization on {tensor_name}")
    lists: Any = module.parametrizations
    parametrizations = lists[tensor_name]
    if parametrizations.is_tensor:
        box = parametrizations.original
        if leave_parametrized:
            with no_grad():
                box.value = carry_no_gradient(getattr(module, tensor_name))
    elif leave_parametrized:
        value = getattr(module, tensor_name)
        trained = any(p.requires_grad for p in parametrizations.parameters())
        box = Parameter(value) if trained else Buffer(value)
    else:
        raise ValueError(
            "Cannot leave unparametrized (`leave_parametrized=False`) a tensor "
            "that is parametrized in terms of a sequence of tensors."
        )
    del lists[tensor_name]
    _change_class(module, _names(module) - {tensor_name})
    register(module, tensor_name, box)
    if not is_parametrized(module):
        del module.parametrizations
    return module


def type_before_parametrizations(module: Module) -> type:
    """The class of a module, or what it was before it was parametrized.

    Example:
        >>> from jaxmodule import nn
        >>> from jaxmodule.nn.utils import parametrizations, parametrize
        >>> layer = parametrizations.weight_norm(nn.Linear(3, 2))
        >>> type(layer).__name__, parametrize.type_before_parametrizations(layer).__name__
        ('ParametrizedLinear', 'Linear')
    """
    return type(module).__bases__[0] if is_parametrized(module) else type(module)


def transfer_parametrizations_and_params(from_module: Module, to_module: M, tensor_name: str | None = None) -> M:
    """Give `to_module` the parametrizations of `from_module` and the parameters they start from; both share them then.

    Args:
        from_module: where they are; if nothing of it is parametrized, nothing is done.
        to_module: where they go. A tensor that it doesn't have is made.
        tensor_name: only this tensor; None for all that are parametrized.

    Returns:
        `to_module`.

    Example:
        >>> from jaxmodule import nn
        >>> from jaxmodule.nn.utils import parametrizations, parametrize
        >>> source = parametrizations.weight_norm(nn.Linear(3, 2))
        >>> target = parametrize.transfer_parametrizations_and_params(source, nn.Linear(3, 2))
        >>> target.parametrizations.weight.original1 is source.parametrizations.weight.original1
        True
    """
    if not is_parametrized(from_module):
        return to_module
    lists: Any = from_module.parametrizations
    for name in list(lists) if tensor_name is None else [tensor_name]:
        if not hasattr(to_module, name):
            setattr(to_module, name, Parameter(getattr(from_module, name)))
        for parametrization in lists[name]:
            register_parametrization(to_module, name, parametrization)
        target: Any = to_module.parametrizations
        source = lists[name]
        for original in ["original"] if source.is_tensor else [f"original{i}" for i in range(source.ntensors)]:
            setattr(target[name], original, getattr(source, original))
    return to_module

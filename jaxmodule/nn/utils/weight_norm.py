"""Weight normalisation by a hook: torch's older form, with the parameters `weight_g` and `weight_v`."""

from __future__ import annotations

import warnings
from typing import Any, TypeVar

import jax

from ...core.box import unbox
from ...core.parameter import Parameter
from ..derived import Derived, pre_hooks
from ..module import Module
from ..parameter import is_lazy
from . import _weights

__all__ = ["WeightNorm", "remove_weight_norm", "weight_norm"]

M = TypeVar("M", bound=Module)


class WeightNorm(Derived):
    """The hook of `weight_norm`.

    Args:
        name: the parameter.
        dim: as there.
    """

    def __init__(self, name: str, dim: int | None) -> None:
        self.name = name
        self.dim = -1 if dim is None else dim

    @property
    def _derived_name(self) -> str:
        return self.name

    def _derive(self, module: Any) -> jax.Array:
        return self.compute_weight(module)

    def compute_weight(self, module: Module) -> jax.Array:
        """`g v / ||v||` of the module's parameters."""
        g, v = module._parameters[self.name + "_g"], module._parameters[self.name + "_v"]
        return _weights.weight_norm(unbox(v), unbox(g), self.dim)

    @staticmethod
    def apply(module: Module, name: str, dim: int | None) -> WeightNorm:
        """Put the hook on a module, and the two parameters in the place of the one."""
        warnings.warn(
            "`torch.nn.utils.weight_norm` is deprecated in favor of `torch.nn.utils.parametrizations.weight_norm`: "
            "here `jaxmodule.nn.utils.parametrizations.weight_norm`.",
            FutureWarning,
            stacklevel=3,
        )
        for hook in pre_hooks(module).values():
            if isinstance(hook, WeightNorm) and hook.name == name:
                raise RuntimeError(f"Cannot register two weight_norm hooks on the same parameter {name}")
        fn = WeightNorm(name, dim)
        weight: Any = getattr(module, name)
        if is_lazy(weight):
            raise ValueError(
                "The module passed to `WeightNorm` can't have uninitialized parameters. "
                "Make sure to run the dummy forward before applying weight normalization"
            )
        if weight is None:
            raise TypeError(f"`WeightNorm` cannot be applied as parameter `{name}` is None")
        norm = _weights.norm_except_dim(unbox(weight), fn.dim)
        del module._parameters[name]
        module.register_parameter(name + "_g", Parameter(norm))
        module.register_parameter(name + "_v", Parameter(unbox(weight)))
        module.register_forward_pre_hook(fn)
        return fn

    def remove(self, module: Module) -> None:
        """Make the weight, as it is now, the one parameter again."""
        weight = self.compute_weight(module)
        self._forget_assigned(module)
        del module._parameters[self.name + "_g"]
        del module._parameters[self.name + "_v"]
        module._parameters[self.name] = Parameter(weight)

    def __call__(self, module: Module, inputs: Any) -> None:
        self._forget_assigned(module)


def weight_norm(module: M, name: str = "weight", dim: int | None = 0) -> M:
    """`w = g v / ||v||` by a hook. Deprecated in torch: use `parametrizations.weight_norm`, which loads its files.

    Args:
        module: the module.
        name: the parameter.
        dim: there is one length for each index of this dimension; None for one in all.

    Returns:
        The module, with the parameters `<name>_g` and `<name>_v`.

    Raises:
        RuntimeError: it has that hook already.
        ValueError: the parameter is not initialized.

    Note:
        `module.<name>` is computed when it is read; torch's is that of the last call. A warning comes with it, torch's
        FutureWarning.

    Example:
        >>> import warnings
        >>> from jaxmodule import nn
        >>> with warnings.catch_warnings():
        ...     warnings.simplefilter("ignore", FutureWarning)
        ...     layer = nn.utils.weight_norm(nn.Linear(20, 40))
        >>> layer.weight_g.shape, layer.weight_v.shape
        ((40, 1), (40, 20))
    """
    WeightNorm.apply(module, name, dim)
    return module


def remove_weight_norm(module: M, name: str = "weight") -> M:
    """Undo `weight_norm`: the weight as it is now becomes one parameter again.

    Raises:
        ValueError: the module has no such hook.
    """
    for key, hook in list(pre_hooks(module).items()):
        if isinstance(hook, WeightNorm) and hook.name == name:
            hook.remove(module)
            del pre_hooks(module)[key]
            return module
    raise ValueError(f"weight_norm of '{name}' not found in {module}")

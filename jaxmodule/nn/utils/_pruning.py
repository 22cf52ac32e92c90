"""What every method of pruning has: the hook that stands for the pruned parameter, and how masks combine."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from ...core.box import unbox
from ..derived import Derived, pre_hooks
from ..functional._common import ArrayLike
from ..module import Module


class BasePruningMethod(Derived):
    """A way of pruning. A subclass defines `compute_mask` and `PRUNING_TYPE`, and if it takes arguments `apply`.

    Attributes:
        PRUNING_TYPE: what of an already pruned tensor the method is shown: "unstructured": a vector of the elements
            that are left; "structured": the channels along its attribute `dim` that are left; "global": everything.

    Example:
        >>> from jaxmodule import nn
        >>> from jaxmodule.nn.utils import prune
        >>> class EveryOther(prune.BasePruningMethod):
        ...     PRUNING_TYPE = "unstructured"
        ...     def compute_mask(self, t, default_mask):
        ...         return default_mask.reshape(-1).at[::2].set(0).reshape(default_mask.shape)
        >>> layer = nn.Linear(3, 4)
        >>> _ = EveryOther.apply(layer, "bias")
        >>> layer.bias_mask.tolist()
        [0.0, 1.0, 0.0, 1.0]
    """

    PRUNING_TYPE: ClassVar[str]
    _tensor_name: str

    @property
    def _derived_name(self) -> str:
        return self._tensor_name

    def _derive(self, module: Any) -> jax.Array:
        return self.apply_mask(module)

    def __call__(self, module: Module, inputs: Any) -> None:
        self._forget_assigned(module)

    @abstractmethod
    def compute_mask(self, t: jax.Array, default_mask: jax.Array) -> jax.Array:
        """The mask for a tensor.

        Args:
            t: what to choose by, its values or importance scores.
            default_mask: the mask so far, of the same shape.
        """

    def apply_mask(self, module: Module) -> jax.Array:
        """The pruned tensor: original times mask."""
        original: Any = unbox(module._parameters[self._tensor_name + "_orig"])
        mask: Any = unbox(module._buffers[self._tensor_name + "_mask"])
        return mask.astype(original.dtype) * original

    @classmethod
    def apply(
        cls, module: Module, name: str, *args: Any, importance_scores: ArrayLike | None = None, **kwargs: Any
    ) -> BasePruningMethod:
        """Prune a parameter; one that is pruned already further.

        Args:
            module: the module.
            name: the parameter.
            args: the arguments of the class.
            importance_scores: an array of the parameter's shape, to choose by instead of its values.
            kwargs: the keyword arguments of the class.

        Returns:
            The hook: the method, or the container of all methods that the parameter was pruned by.
        """
        value: Any = unbox(getattr(module, name))
        scores: Any = value if importance_scores is None else unbox(importance_scores)
        if scores.shape != value.shape:
            raise AssertionError(
                f"importance_scores should have the same shape as parameter {name} of {module}, "
                f"got {scores.shape} vs {value.shape}"
            )
        old = {
            key: hook
            for key, hook in pre_hooks(module).items()
            if isinstance(hook, BasePruningMethod) and hook._tensor_name == name
        }
        if len(old) > 1:
            raise AssertionError(
                f"Avoid adding multiple pruning hooks to the same tensor {name} of module {module}. "
                "Use a PruningContainer."
            )
        method: BasePruningMethod = cls(*args, **kwargs)
        method._tensor_name = name
        default = jnp.ones_like(value)
        for hook in old.values():
            default = unbox(module._buffers[name + "_mask"])
            container = PruningContainer(*(hook if isinstance(hook, PruningContainer) else (hook,)))
            container.add_pruning_method(method)
            method = container
        mask = method.compute_mask(scores, default_mask=default)  # it may raise: nothing has changed so far
        if old:
            for key in old:
                del pre_hooks(module)[key]
        else:
            parameter = module._parameters[name]
            module.register_parameter(name + "_orig", parameter)
            del module._parameters[name]
        module.register_buffer(name + "_mask", mask)
        module.register_forward_pre_hook(method)
        return method

    def prune(
        self, t: ArrayLike, default_mask: ArrayLike | None = None, importance_scores: ArrayLike | None = None
    ) -> jax.Array:
        """A tensor pruned by this method.

        Args:
            t: the tensor.
            default_mask: the mask so far, ones if None.
            importance_scores: an array of its shape, to choose by instead of its values.

        Raises:
            AssertionError: the scores have another shape.
        """
        tensor: Any = unbox(t)
        scores: Any = tensor if importance_scores is None else unbox(importance_scores)
        if scores.shape != tensor.shape:
            raise AssertionError(
                f"importance_scores should have the same shape as tensor t, got {scores.shape} vs {tensor.shape}"
            )
        mask: Any = jnp.ones_like(tensor) if default_mask is None else unbox(default_mask)
        return tensor * self.compute_mask(scores, default_mask=mask).astype(tensor.dtype)

    def remove(self, module: Module) -> None:
        """Make the pruned tensor the parameter again, without the hook being taken away: see `prune.remove`."""
        pruned = self.apply_mask(module)
        self._forget_assigned(module)
        original: Any = module._parameters.pop(self._tensor_name + "_orig")
        del module._buffers[self._tensor_name + "_mask"]
        original.value = pruned
        module._parameters[self._tensor_name] = original


class PruningContainer(BasePruningMethod):
    """The methods that one parameter was pruned by, in order.

    Args:
        args: methods; they act on one parameter.
    """

    def __init__(self, *args: BasePruningMethod) -> None:
        self._pruning_methods: tuple[BasePruningMethod, ...] = ()
        if args:
            self._tensor_name = args[0]._tensor_name
        for method in args:
            self.add_pruning_method(method)

    def add_pruning_method(self, method: BasePruningMethod | None) -> None:
        """Add a method.

        Raises:
            TypeError: it is none.
            ValueError: it acts on another parameter.
        """
        if method is None:
            return
        if not isinstance(method, BasePruningMethod):
            raise TypeError(f"{type(method)} is not a BasePruningMethod subclass")
        if self._tensor_name != method._tensor_name:
            raise ValueError(
                f"Can only add pruning methods acting on the parameter named '{self._tensor_name}' to "
                f"PruningContainer {self}. Found '{method._tensor_name}'"
            )
        self._pruning_methods += (method,)

    def __len__(self) -> int:
        return len(self._pruning_methods)

    def __iter__(self) -> Iterator[BasePruningMethod]:
        return iter(self._pruning_methods)

    def __getitem__(self, index: Any) -> Any:
        return self._pruning_methods[index]

    def compute_mask(self, t: jax.Array, default_mask: jax.Array) -> jax.Array:
        """The mask so far, changed by the last method on what that mask has left of `t`."""
        method = self._pruning_methods[-1]
        kind = method.PRUNING_TYPE
        part: Any = ...
        if kind == "unstructured":
            part = _indices(default_mask == 1)
        elif kind == "structured":
            dim = getattr(method, "dim", None)
            if dim is None:
                raise AttributeError(
                    'Pruning methods of PRUNING_TYPE "structured" need to have the attribute `dim` defined.'
                )
            if dim < -t.ndim:
                raise IndexError(f"Index is out of bounds for tensor with dimensions {t.ndim}")
            left = jnp.sum(default_mask, [d for d in range(t.ndim) if d != dim % t.ndim]) != 0
            part = (slice(None),) * (dim % t.ndim) + _indices(left)
        elif kind != "global":
            raise ValueError(f"Unrecognized PRUNING_TYPE {kind}")
        mask = default_mask.astype(t.dtype)
        return mask.at[part].set(method.compute_mask(t[part], default_mask=default_mask[part]).astype(mask.dtype))


def _indices(chosen: jax.Array) -> tuple[Any, ...]:
    """Where a mask is True, as indices: known sizes, so concrete; JAX says so in a trace."""
    return tuple(map(jnp.asarray, np.nonzero(np.asarray(chosen))))

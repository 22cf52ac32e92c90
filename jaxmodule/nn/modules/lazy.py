"""`LazyModuleMixin`: layers that learn their input's size from their first call."""

from __future__ import annotations

from typing import Any, ClassVar

from ..module import Module
from ..notes import annotate
from ..parameter import is_lazy

__all__ = ["LazyModuleMixin"]


class LazyModuleMixin:
    """A module whose parameters get their shapes from the first input.

    Put it before the module's class in a subclass's bases, make `nn.UninitializedParameter` in `__init__`, and define
    `initialize_parameters`, which is given the arguments of the first call and materializes them. The object then
    becomes one of class `cls_to_become`; its parameters stay the same objects, so that an optimizer may have them
    already. A file may be loaded before the first call: the parameters take the file's shapes.

    Attributes:
        cls_to_become: the class of the initialised module; None keeps the class.

    Note:
        The first call may be inside `jm.jit`; its program is used once. `jm.grad` and the optimizers' state need
        shapes: make the first call, a dry run, before. In torch the inference is a forward pre-hook and shows up among
        them; here it is part of the call.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> class LazyScale(nn.modules.lazy.LazyModuleMixin, nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.scale = nn.UninitializedParameter()
        ...     def initialize_parameters(self, x):
        ...         if self.has_uninitialized_params():
        ...             self.scale.materialize(x.shape[-1:])
        ...             nn.init.ones_(self.scale)
        ...     def forward(self, x):
        ...         return x * self.scale
        >>> layer = LazyScale()
        >>> layer.scale
        <UninitializedParameter>
        >>> layer(jnp.ones(3))
        Array([1., 1., 1.], dtype=float32)
    """

    cls_to_become: ClassVar[type[Module] | None] = None
    _initialized = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        module: Any = self
        if not module._initialized:
            try:
                self._infer_parameters(args, kwargs)
            except Exception as error:
                annotate(error, self, args, kwargs)
                raise
        return Module.__call__(module, *args, **kwargs)

    def initialize_parameters(self, *args: Any, **kwargs: Any) -> None:
        """Materialize the parameters for the arguments of the first call; a subclass defines it."""
        raise NotImplementedError(f"initialize_parameters is not implemented for {type(self).__name__}")

    def has_uninitialized_params(self) -> bool:
        """Is there a parameter or buffer of this module, not of its submodules, without a shape?"""
        module: Any = self
        return any(map(is_lazy, (*module._parameters.values(), *module._buffers.values())))

    def _infer_parameters(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        module: Any = self
        self.initialize_parameters(*args, **kwargs)
        if self.has_uninitialized_params():
            raise RuntimeError(f"module {module._get_name()} has not been fully initialized")
        if self.cls_to_become is not None:
            module.__class__ = self.cls_to_become
        else:
            self._initialized = True

"""Attributes that a forward pre-hook stands for: pruned, weight-normed and spectrally normed parameters.

torch's hooks leave a plain tensor on the module before each call. Here the attribute is computed when it is read:
nothing that a raw JAX transform could not write, and no output more for a compiled call.
"""

from abc import ABC, abstractmethod
from typing import Any

import jax

from ..core.registry import Registry


class Derived(ABC):
    """A forward pre-hook whose module has an attribute that is computed from the module's boxes."""

    @property
    @abstractmethod
    def _derived_name(self) -> str:
        """The attribute."""

    @abstractmethod
    def _derive(self, module: Any) -> jax.Array:
        """Its value."""

    def _forget_assigned(self, module: Any) -> None:
        """Drop what was assigned to the attribute: as in torch, it lasts until the next call."""
        name = self._derived_name
        slots = module.__dict__["_slots"]
        if name in slots:
            del slots[name]


def pre_hooks(module: Any) -> Registry:
    """The forward pre-hooks of a module."""
    return module.__dict__["_forward_pre_hooks"]


def find_derived(own: dict[str, Any], name: str) -> Derived | None:
    """The hook that stands for the attribute `name`, given a module's attribute dict."""
    if name in own.get("_slots", ()):
        return None
    for hook in own.get("_forward_pre_hooks", {}).values():
        if isinstance(hook, Derived) and hook._derived_name == name:
            return hook
    return None

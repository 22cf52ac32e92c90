"""Parameter groups: torch's dicts, whose numbers live in one array so that changing them compiles nothing again."""

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp

from ..core.box import Slot
from ..core.context import Tracer, tls, touch
from ..core.freeze import Freezer
from ..core.overlay import journal

#: Hyper-parameters that choose an implementation of torch's. XLA has one, so they change nothing; kept for `state_dict`.
HINTS = ("foreach", "fused", "capturable", "differentiable")


class ParamGroup(dict[str, Any]):
    """One group: `params`, `names`, and the hyper-parameters.

    Numbers can be set between steps, or inside a compiled step, without compiling again; only whether one is zero, and
    everything that is no number, belongs to the program.
    """

    def __init__(self, items: Mapping[str, Any], derive: Callable[[Mapping[str, Any]], dict[str, Any]]) -> None:
        super().__init__(items)
        self._fields: tuple[str, ...] = ()
        self._derive = derive
        numbers = derive(dict(items))
        self._fields = tuple(numbers)
        self.box = Slot(self._vector(numbers))
        self._host = self.box._value  # the array that the dict's own numbers stand for

    def _vector(self, numbers: Mapping[str, Any]) -> Any:
        return jnp.stack([jnp.asarray(x, jnp.float32) for x in numbers.values()])

    def hyper(self) -> dict[str, Any]:
        """The derived numbers as scalars, here and now."""
        vector = self.box.value
        return {name: vector[i] for i, name in enumerate(self._fields)}

    def static_key(self) -> Any:
        """What of the group belongs to a compiled program."""
        numbers = tuple((k, dict.__getitem__(self, k) == 0) for k in self if k in self._fields)
        freeze = Freezer()
        rest = tuple((k, freeze(v)) for k, v in self.items() if k not in self._fields and k not in ("params", "betas"))
        return (numbers, rest)

    def __getitem__(self, key: str) -> Any:
        if key in self._fields and (tls.overlay is not None or self.box._value is not self._host):
            value = self.box.value[self._fields.index(key)]
            return value if isinstance(value, Tracer) else float(value)
        return super().__getitem__(key)

    def __setitem__(self, key: str, value: Any) -> None:
        if key in self._fields and tls.overlay is not None:
            self.box.value = self.box.value.at[self._fields.index(key)].set(value)
            return
        old = dict(self)
        journal(self)
        super().__setitem__(key, value)
        numbers = self._derive(dict(self))
        if numbers != self._derive(old):
            self._host = self._vector(numbers)
            self.box.value = self._host
        if key not in self._fields or (old.get(key) == 0) != (value == 0):
            touch()

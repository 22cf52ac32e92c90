"""Parameter groups: torch's dicts, whose numbers live in one array so that changing them compiles nothing again."""

from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..core.box import Box, Slot
from ..core.context import Tracer, tls, touch
from ..core.freeze import Freezer
from ..core.overlay import journal

#: Hyper-parameters that choose an implementation of torch's. XLA has one: they change nothing, and are in `state_dict`.
HINTS = ("foreach", "fused", "capturable", "differentiable")

#: Hyper-parameters that are several numbers: steps use what the optimizer derives from them, as numbers in the array.
SEVERAL = ("betas", "etas", "step_sizes", "ns_coefficients", "eps")

Derive = Callable[[Mapping[str, Any]], dict[str, Any]]


class ParamGroup(MutableMapping[str, Any], dict[str, Any]):  # pyright: ignore[reportGeneralTypeIssues]
    """One group: `params`, `names`, and the hyper-parameters.

    Numbers can be set between steps, or inside a compiled step, without compiling again; everything that is no number
    belongs to the program, and so does whether one of the `gates` is zero: what is not in use costs nothing.

    Copying or pickling a group by itself gives a plain dict; an optimizer makes its groups anew.
    """

    def __init__(
        self, items: Mapping[str, Any], derive: Derive, gates: tuple[str, ...], box: Box | None = None
    ) -> None:
        dict.update(self, {key: _plain(key, value) for key, value in items.items()})
        numbers = derive(self.raw())
        self._derive = derive
        self._gates = gates
        self._fields = tuple(numbers)
        self.box = Slot(_vector(numbers)) if box is None else box
        self._host = self.box._value  # the array that the dict's own numbers stand for

    def raw(self) -> dict[str, Any]:
        """The dict's own numbers: those of the last change outside of a compiled program."""
        return {key: dict.__getitem__(self, key) for key in self}

    def in_use(self, gate: str) -> bool:
        """Is a hyper-parameter not zero? That belongs to the program; the value does not."""
        return dict.__getitem__(self, gate) != 0

    def hyper(self) -> dict[str, Any]:
        """The derived numbers as scalars, here and now."""
        vector = self.box.value
        return {name: vector[i] for i, name in enumerate(self._fields)}

    def static_key(self) -> Any:
        """What of the group belongs to a compiled program."""
        freeze = Freezer()
        rest = tuple(
            (key, freeze(_given(value) if key in SEVERAL else value))
            for key, value in self.raw().items()
            if key not in self._fields and key != "params"
        )
        return (tuple(map(self.in_use, self._gates)), rest)

    __iter__: Callable[..., Iterator[str]] = dict.__iter__
    __len__ = dict.__len__
    __contains__ = dict.__contains__
    __repr__ = dict.__repr__

    def __getitem__(self, key: str) -> Any:
        value = dict.__getitem__(self, key)
        if key in self._fields and (tls.overlay is not None or self.box._value is not self._host):
            now = self.box.value[self._fields.index(key)]
            if isinstance(now, Tracer):
                return now
            return value if now == np.asarray(value, now.dtype) else float(now)
        return value

    def __setitem__(self, key: str, value: Any) -> None:
        traced = tls.overlay is not None
        if traced and key in self._fields:
            if key in self._gates and not self.in_use(key):
                raise RuntimeError(
                    f"{key} is 0, so the program that is being traced has no {key}. "
                    "Set it outside of the transform first."
                )
            vector = self.box.value
            self.box.value = vector.at[self._fields.index(key)].set(jnp.asarray(value).astype(vector.dtype))
            return
        if not traced:
            self._catch_up()
        old = self.raw()
        new = {**old, key: _plain(key, value)}
        before, after = self._derive(old), self._derive(new)  # raises before anything has changed
        journal(self)
        dict.__setitem__(self, key, new[key])
        if traced:
            for i, name in enumerate(self._fields):
                if before[name] != after[name]:
                    self.box.value = self.box.value.at[i].set(after[name])
        elif before != after:
            self.box.value = _vector(after)
            self._host = self.box._value
        if key in self._fields:
            structural = key in self._gates and (old.get(key) == 0) != (new[key] == 0)
        else:
            structural = key not in SEVERAL or _given(old.get(key)) != _given(new[key])
        if structural:
            touch()

    def __delitem__(self, key: str) -> None:
        self._derive({k: v for k, v in self.raw().items() if k != key})  # a number that steps use can't go
        journal(self)
        dict.__delitem__(self, key)
        touch()

    def restore(self, items: Mapping[str, Any]) -> None:
        """Set the contents to what `raw` gave before."""
        self.update(items)
        for key in self.keys() - items.keys():
            del self[key]

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return (dict, (dict(self.items()),))

    def _catch_up(self) -> None:
        """Take over what compiled programs have made of the numbers."""
        if self.box._value is not self._host:
            for name in self._fields:
                if name in self:
                    dict.__setitem__(self, name, self[name])
            self._host = self.box._value


def _plain(key: str, value: Any) -> Any:
    """A number that came as an array of one, as torch takes learning rates, as the number; several as a tuple."""
    if key in SEVERAL and isinstance(value, list):
        return tuple(value)
    scalar = (
        isinstance(value, (jax.Array, Box, np.ndarray, np.generic))
        and not isinstance(value, Tracer)
        and value.size == 1
    )
    return value.item() if scalar else value


def _vector(numbers: Mapping[str, Any]) -> Any:
    # `float` is float64 where x64 is enabled: a float32 learning rate would show in float64 parameters.
    if any(isinstance(x, jax.Array) for x in numbers.values()):
        return jnp.stack([jnp.asarray(x, float) for x in numbers.values()])
    return jnp.asarray(np.array(list(numbers.values()), float), float)


def _given(value: Any) -> Any:
    """What of several numbers belongs to the program: which of them are there."""
    return tuple(x is None for x in value) if isinstance(value, tuple) else value

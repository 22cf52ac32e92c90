"""The numbers of `optax.inject_hyperparams` in an optimizer's state, to be read and set by name."""

import re
from collections.abc import Iterator, MutableMapping
from typing import Any

import jax.numpy as jnp

from ..core.box import Box

_NAME = re.compile(r"\.hyperparams\['([^']+)'\]$")


class Injected(MutableMapping[str, Any]):
    """`{"learning_rate": …}`, of all groups: setting one sets it in each."""

    def __init__(self, state: dict[str, Box]) -> None:
        self._boxes: dict[str, list[Box]] = {}
        for name, box in state.items():
            found = _NAME.search(name)
            if found:
                self._boxes.setdefault(found[1], []).append(box)

    def __getitem__(self, name: str) -> Any:
        return self._boxes[name][0].value

    def __setitem__(self, name: str, value: Any) -> None:
        if name not in self._boxes:
            raise KeyError(f"no hyper-parameter {name!r} was injected (optax.inject_hyperparams), only {list(self)}")
        for box in self._boxes[name]:
            box.value = jnp.asarray(value).astype(box.dtype)

    def __delitem__(self, name: str) -> None:
        raise TypeError(f"{name!r} belongs to the transformation, and cannot be deleted")

    def __iter__(self) -> Iterator[str]:
        return iter(self._boxes)

    def __len__(self) -> int:
        return len(self._boxes)

    def __repr__(self) -> str:
        return f"Injected({dict(self)})"

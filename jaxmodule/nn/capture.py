"""`jm.capture`: the outputs of chosen submodules, out of eager or compiled calls."""

import itertools
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any, Self

from ..core.context import set_ambient, tls
from .module import Module

_ids = itertools.count()


class Capture(Mapping[str, Any]):
    """What `capture` yields: module name → its output in the last call; `calls[name]` has those of all calls."""

    def __init__(self, model: Module, patterns: tuple[str, ...]) -> None:
        if not patterns:
            raise ValueError('jm.capture needs at least one pattern: names of submodules, "*" for all of them')
        modules = dict(model.named_modules(remove_duplicate=False))
        unmatched = [p for p in patterns if not any(fnmatchcase(name, p) for name in modules)]
        if unmatched:
            some = ", ".join(list(modules)[1:6])
            raise ValueError(
                f"no module of {type(model).__name__} has a name like {unmatched[0]!r}; there are: {some}, …"
            )
        names: dict[str, Any] = {}
        for name, module in modules.items():  # one that has several names is captured under the first that matches
            if any(fnmatchcase(name, p) for p in patterns) and not any(module is other for other in names.values()):
                names[name] = module
        self._modules = dict(zip(map(id, names.values()), names, strict=True))
        self._kept = list(names.values())  # so that an id stays one module's
        self.calls: dict[str, list[Any]] = {}
        self.key = next(_ids)

    def name_of(self, module: Any) -> str | None:
        """The name to capture a module's output under, None to leave it."""
        return self._modules.get(id(module))

    def relation(self, index: dict[int, int]) -> Any:
        """Which of the numbered modules are captured under which name: what a compiled program depends on."""
        return tuple(sorted((index[i], name) for i, name in self._modules.items() if i in index))

    def receive(self, name: str, value: Any) -> None:
        """Take a captured value; called when the call that made it is over."""
        self.calls.setdefault(name, []).append(value)

    def __getitem__(self, name: str) -> Any:
        if name not in self.calls:
            raise KeyError(f"{name}: captured are {sorted(self.calls)}")
        return self.calls[name][-1]

    def __iter__(self) -> Iterator[str]:
        return iter(self.calls)

    def __len__(self) -> int:
        return len(self.calls)

    def clear(self) -> None:
        """Forget what was captured."""
        self.calls.clear()

    def __repr__(self) -> str:
        return f"Capture({', '.join(f'{name}: {len(values)} call(s)' for name, values in self.calls.items())})"

    def __enter__(self) -> Self:
        set_ambient(captures=(*tls.captures, self))
        return self

    def __exit__(self, *exc: object) -> None:
        set_ambient(captures=tuple(c for c in tls.captures if c is not self))


def capture(model: Module, *patterns: str | Iterable[str]) -> Capture:
    """Capture outputs of submodules in a `with` block, out of compiled calls too.

    Args:
        model: the module tree; it must be the object that is called (a clone in a raw `jax.jit` is not).
        *patterns: dotted names (or lists of them), with `*`, `?` and `[...]`; `""` is the model itself.

    Returns:
        A context manager that yields a mapping from names to outputs (of the last call; all are in `.calls`).

    Raises:
        ValueError: a pattern matches no module, or there is none.

    Example:
        >>> import jax.numpy as jnp, jaxmodule as jm
        >>> from jaxmodule import nn
        >>> model = nn.Sequential(nn.Linear(3, 4), nn.ReLU())
        >>> with jm.capture(model, "0") as acts:
        ...     out = jm.jit(model)(jnp.ones((2, 3)))
        >>> acts["0"].shape
        (2, 4)
    """
    return Capture(model, tuple(p for given in patterns for p in ([given] if isinstance(given, str) else given)))

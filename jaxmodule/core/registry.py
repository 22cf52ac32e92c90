"""Counted dicts, and the handles that take hooks out of them."""

import itertools
import weakref
from collections.abc import Callable, Iterable
from typing import Any

from .context import tls, touch, trace_state
from .overlay import journal

_MISSING: Any = object()


class Registry(dict[Any, Any]):
    """A dict whose changes count as changes of structure, once a layout has seen it (`watched`).

    A change inside a trace is remembered first, so that it can be undone if the trace fails. `birth` is the state of
    the trace that made it, None outside of all overlays.
    """

    __slots__ = ("__weakref__", "birth", "watched")

    def __init__(self, items: Any = (), *, watched: bool = False) -> None:
        super().__init__(items)
        self.birth = None if tls.overlay is None else trace_state()
        self.watched = watched

    def _changed(self) -> None:
        if self.watched:
            touch()

    def __setitem__(self, key: Any, value: Any) -> None:
        if self.get(key, _MISSING) is value:
            return
        journal(self, self.birth)
        super().__setitem__(key, value)
        self._changed()

    def __delitem__(self, key: Any) -> None:
        journal(self, self.birth)
        super().__delitem__(key)
        self._changed()

    def pop(self, key: Any, *default: Any) -> Any:
        journal(self, self.birth)
        value = super().pop(key, *default)
        self._changed()
        return value

    def popitem(self) -> tuple[Any, Any]:
        journal(self, self.birth)
        item = super().popitem()
        self._changed()
        return item

    def clear(self) -> None:
        journal(self, self.birth)
        super().clear()
        self._changed()

    def update(self, *args: Any, **kwargs: Any) -> None:
        journal(self, self.birth)
        super().update(*args, **kwargs)
        self._changed()

    def __ior__(self, other: Any) -> "Registry":
        self.update(other)
        return self

    def setdefault(self, key: Any, default: Any = None) -> Any:
        if key not in self:
            self[key] = default
        return self[key]

    def move_to_end(self, key: Any, last: bool = True) -> None:
        """Move an entry to the end, or to the front."""
        items = [(k, v) for k, v in self.items() if k != key]
        items.insert(len(items) if last else 0, (key, self[key]))
        self.reorder(items)

    def reorder(self, items: Iterable[tuple[Any, Any]]) -> None:
        """Replace the contents by `items`, in their order."""
        items = list(items)
        journal(self, self.birth)
        super().clear()
        super().update(items)
        self._changed()

    def __reduce__(self) -> tuple[Any, ...]:
        return (Registry, (), None, None, iter(self.items()))


class RemovableHandle:
    """What registering a hook returns: `remove()` takes the hook away again; also a context manager.

    Example:
        >>> from jaxmodule import nn
        >>> layer = nn.Identity()
        >>> with layer.register_forward_hook(lambda module, args, out: print("called")):
        ...     _ = layer(1.0)
        called
        >>> _ = layer(1.0)
    """

    _ids = itertools.count()

    def __init__(self, registry: Registry, key: int, also: tuple[Registry, ...] = ()) -> None:
        self._registries = [weakref.ref(r) for r in (registry, *also)]
        self.id = key

    @classmethod
    def add(
        cls, registry: Registry, hook: Callable[..., Any], *, first: bool = False, also: tuple[Registry, ...] = ()
    ) -> "RemovableHandle":
        """Put `hook` into `registry` under an id never used before; `remove` also cleans the registries in `also`."""
        key = next(cls._ids)
        while key in registry:  # an unpickled registry has ids of another process
            key = next(cls._ids)
        registry[key] = hook
        if first:
            registry.move_to_end(key, last=False)
        return cls(registry, key, also)

    def remove(self) -> None:
        """Take the hook away; nothing happens if it is gone already."""
        for reference in self._registries:
            registry = reference()
            if registry is not None and self.id in registry:
                del registry[self.id]

    def __enter__(self) -> "RemovableHandle":
        return self

    def __exit__(self, *exc: object) -> None:
        self.remove()

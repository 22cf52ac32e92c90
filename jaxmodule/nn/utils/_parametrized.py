"""The classes of parametrized modules, and how a parametrized tensor is read.

The class of a parametrized module has a property for each parametrized name. There is one such class for a class and a
set of names, so that modules that are alike share their compiled programs, copies are independent, and pickling works.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax

from ...core.context import set_ambient, tls, trace_state
from ...core.parameter import Buffer, Parameter
from ..module import Module

_MISSING: Any = object()
_classes: dict[tuple[type, frozenset[str]], type] = {}
_classes_lock = threading.RLock()


# -- classes ----------------------------------------------------------------------------------------------------------


def parametrized_class(base: type, names: frozenset[str]) -> type:
    """The subclass of `base` whose attributes `names` are parametrized; `base` itself without names."""
    if not names:
        return base
    with _classes_lock:
        found = _classes.get((base, names))
        if found is None:
            found = _classes[base, names] = _make_class(base, names)
    return found


def _make_class(base: Any, names: frozenset[str]) -> type:
    def set_attribute(self: Any, name: str, value: Any) -> None:
        if name in names and isinstance(value, (Parameter, Buffer, Module)):
            raise KeyError(f"attribute '{name}' already exists")
        base.__setattr__(self, name, value)

    def reduce(self: Any) -> Any:
        return _rebuild, (base, names), self.__getstate__()

    body = {
        "__doc__": base.__doc__,
        "__module__": base.__module__,
        "__setattr__": set_attribute,
        "__reduce__": reduce,
        "_parametrized_names": names,
        **{name: _property(name) for name in names},
    }
    return type(base)(f"Parametrized{base.__name__}", (base,), body)


def _rebuild(base: type, names: frozenset[str]) -> Any:
    cls: Any = parametrized_class(base, names)
    return cls.__new__(cls)


def _property(name: str) -> property:
    return property(
        lambda self: _read(self, name),
        lambda self, value: _lists(self)[name].right_inverse(value),
        doc=f"`{name}` as its parametrizations give it.",
    )


def _lists(module: Any) -> Any:
    return module.__dict__["_modules"]["parametrizations"]._modules


# -- reading ----------------------------------------------------------------------------------------------------------


class _Block:
    """A `cached` block, and what was computed in the trace that it was entered in."""

    __slots__ = ("overlay", "state", "values")

    def __init__(self) -> None:
        self.overlay = tls.overlay
        self.state = trace_state()
        self.values: dict[Any, Any] = {}


class _Blocks(threading.local):
    def __init__(self) -> None:
        self.stack: list[_Block] = []


_blocks = _Blocks()


@contextmanager
def cached() -> Iterator[None]:
    """In the block each parametrized tensor is computed once, when it is first read.

    For a tensor that forward reads more than once: a recurrent kernel, or a shared weight. The block may be around a
    call of a compiled function, or inside of it.

    Note:
        A value belongs to the trace it was computed in: code under `jm.jit` or `jm.grad` computes its own, once.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> from jaxmodule.nn.utils import parametrizations, parametrize
        >>> layer = parametrizations.weight_norm(nn.Linear(3, 2))
        >>> with parametrize.cached():
        ...     layer.weight is layer.weight
        True
        >>> layer.weight is layer.weight
        False
    """
    outer = tls.cached
    _blocks.stack.append(_Block())
    set_ambient(cached=True)
    try:
        yield
    finally:
        _blocks.stack.pop()
        set_ambient(cached=outer)


def _read(module: Any, name: str) -> jax.Array:
    value = _replaced(module, name)
    if value is not _MISSING:
        return value
    if not tls.cached:
        return _lists(module)[name]()
    key = (id(module), name, tls.no_grad)
    value = _look_up(key)
    if value is _MISSING:
        value = _lists(module)[name]()
        _keep(key, module, value)
    return value


def _look_up(key: Any) -> Any:
    """What was computed under the innermost overlay: its trace is still going on, be it this one or one around it."""
    overlay = tls.overlay
    for block in _blocks.stack:
        if block.overlay is overlay and key in block.values:
            return block.values[key][1]
    return _MISSING if overlay is None else overlay.derived.get(key, (None, _MISSING))[1]


def _keep(key: Any, module: Any, value: Any) -> None:
    """Keep a value where it is dropped no later than its trace: with the block, or with the overlay."""
    overlay, state = tls.overlay, trace_state()
    entry = (module, value)  # the module too, so that its id stays its own
    for block in _blocks.stack:  # the outermost first: as in torch, the end of an inner block drops nothing
        if block.overlay is overlay and block.state == state:
            block.values[key] = entry
            return
    if overlay is not None and overlay.state == state:
        overlay.derived[key] = entry


# -- replacing: functional_call with the name of a parametrized tensor ------------------------------------------------


def replace(overlay: Any, module: Any, name: str, value: Any) -> None:
    """Let a parametrized tensor be `value` under `overlay`: its parametrization does not run."""
    overlay.derived["replaced", id(module), name] = value


def _replaced(module: Any, name: str) -> Any:
    overlay = tls.overlay
    while overlay is not None:
        if overlay.derived:
            value = overlay.derived.get(("replaced", id(module), name), _MISSING)
            if value is not _MISSING:
                return value
        overlay = None if overlay.closed else overlay.parent
    return _MISSING

"""Static attributes as hashable keys, and plain containers as skeletons.

`freeze` turns a static value into a key that compares by value and by type (1, 1.0 and True differ, as they can make
different programs). `encode` takes a plain container apart into a *skeleton* (hashable), its arrays, the boxes and
Stateful objects in it, and its static values; `decode` puts one together again.
"""

import argparse
import dataclasses
import types
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from copy import copy, deepcopy
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import jax
import numpy as np

from .box import Box
from .context import Tracer
from .overlay import read, write

_PLAIN = frozenset({type(None), str, bytes, type(Ellipsis)})
_TAGGED = frozenset({int, bool})
_REAL = frozenset({float, complex})
ATOMS = _PLAIN | _TAGGED | _REAL | {type, types.FunctionType, types.BuiltinFunctionType, types.ModuleType}
_NAMESPACES = (types.SimpleNamespace, argparse.Namespace)
_CONTAINERS = frozenset({list, dict, OrderedDict, set, deque})


class Node:
    """What the structure code knows of an object with state: the base of `Stateful`, apart to keep imports a DAG."""

    __slots__ = ("__weakref__", "_birth", "_layout", "_watched")

    if TYPE_CHECKING:  # what Stateful adds
        _registries: ClassVar[tuple[str, ...]]
        _internal: ClassVar[frozenset[str]]

        def _structure_extra(self) -> Any: ...
        def _named_trainable(self) -> dict[str, Any]: ...
        def _parts(self, index: dict[int, int]) -> dict[str, Any]: ...
        def _assemble(self, parts: dict[str, Any], nodes: list[Any], boxes: dict[Any, Any]) -> None: ...


class _Opaque:
    """Any other static value: the same object, or one of the same type that says it is equal."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __hash__(self) -> int:
        return hash(type(self.value))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Opaque):
            return False
        a, b = self.value, other.value
        if a is b:
            return True
        try:
            return type(a) is type(b) and bool(a == b)
        except Exception:  # an __eq__ that gives no truth value tells nothing
            return False


def _no_index(node: Node) -> Any:
    return id(node)


class Freezer:
    """Makes keys; `mutable` says afterwards whether a value can change in place, so that calls must compare it again.

    `index` names Stateful objects that a static value refers to (bound methods), without holding them.
    """

    __slots__ = ("index", "mutable", "seen")

    def __init__(self, index: Callable[[Node], Any] = _no_index) -> None:
        self.index = index
        self.mutable = False
        self.seen: set[int] = set()

    def __call__(self, value: Any) -> Any:
        kind = type(value)
        if kind in _PLAIN:
            return value
        if kind in _TAGGED:
            return (kind, value)
        if kind in _REAL:
            return (kind, repr(value))  # -0.0 and nan included
        if kind is tuple:
            return (tuple, *map(self, value))
        if kind is types.MethodType and isinstance(value.__self__, Node):
            return (types.MethodType, self.index(value.__self__), value.__func__)
        if isinstance(value, np.ndarray) and value.dtype != object:
            self.mutable |= value.flags.writeable
            return (np.ndarray, value.dtype.str, value.shape, value.tobytes())
        if isinstance(value, np.generic):
            return (kind, value.tobytes())
        fields = self._fields(value)
        if fields is None:
            return _Opaque(value)
        self.mutable = True
        if id(value) in self.seen:
            return (kind, "cycle")
        self.seen.add(id(value))
        try:
            return (kind, *map(self, fields))
        finally:
            self.seen.discard(id(value))

    def _fields(self, value: Any) -> Any:
        """The parts of a value that can change in place, None for any other."""
        if isinstance(value, (list, deque)):
            return value
        if isinstance(value, dict):
            return [part for item in value.items() for part in item]
        if isinstance(value, (set, bytearray)):
            return [_Frozen(frozenset(value))] if isinstance(value, set) else [bytes(value)]
        if isinstance(value, _NAMESPACES) or (dataclasses.is_dataclass(value) and not isinstance(value, type)):
            return [part for item in vars(value).items() for part in item] if hasattr(value, "__dict__") else None
        return None


class _Frozen(_Opaque):
    __slots__ = ()


def traced(value: Any, seen: frozenset[int] = frozenset()) -> bool:
    """Is a tracer in a static value that can change in place?"""
    if isinstance(value, Tracer):
        return True
    fields = None if type(value) in ATOMS or id(value) in seen else Freezer()._fields(value)
    return any(traced(field, seen | {id(value)}) for field in fields or ())


def is_container(value: Any) -> bool:
    """Does `value` belong in a ContainerSlot: is it a mutable container, or one of arrays or objects with state?"""
    kind = type(value)
    if kind in ATOMS:
        return False
    if kind in _CONTAINERS:
        return True
    if isinstance(value, (type, np.ndarray, np.generic)):
        return False
    parts = list(value) if kind is tuple else (_children(value) or ((), None))[0]
    return any(isinstance(v, (jax.Array, Box, Node)) or is_container(v) for v in parts)


def _children(value: Any) -> tuple[list[Any], Any] | None:
    """One level of a registered pytree and its treedef, None for a leaf."""
    children, tree = jax.tree_util.tree_flatten(value, is_leaf=lambda x: x is not value)
    return None if len(children) == 1 and children[0] is value else (children, tree)


class Encoding(NamedTuple):
    """A container taken apart. Two are alike when skeleton and refs are; the arrays flow, the statics rebuild."""

    skeleton: Any
    arrays: list[Any]
    refs: list[Any]
    statics: list[Any]

    def stripped(self) -> "Encoding":
        """Without the arrays, for keeping: old arrays and tracers must not live on in a cache."""
        return self._replace(arrays=[None] * len(self.arrays))

    def same_shape(self, other: "Encoding") -> bool:
        return self.skeleton == other.skeleton and _identical(self.refs, other.refs)

    def same(self, other: "Encoding") -> bool:
        return self.same_shape(other) and _identical(self.arrays, other.arrays)


def _identical(a: list[Any], b: list[Any]) -> bool:
    return len(a) == len(b) and all(x is y for x, y in zip(a, b, strict=True))


def encode(value: Any) -> Encoding:
    """Take a container apart."""
    arrays: list[Any] = []
    refs: list[Any] = []
    statics: list[Any] = []
    freeze = Freezer()

    def visit(v: Any) -> Any:
        if isinstance(v, (Box, Node)):
            refs.append(v)
            return "r"
        if isinstance(v, jax.Array):
            arrays.append(v)
            return "a"
        kind = type(v)
        if kind is list or kind is tuple:
            return (kind, *map(visit, v))
        if kind is dict or kind is OrderedDict:
            statics.append(list(v))
            return (kind, tuple(map(freeze, v)), *map(visit, v.values()))
        if kind is deque:
            return (deque, v.maxlen, *map(visit, v))
        if kind not in ATOMS and not isinstance(v, (np.ndarray, set, *_NAMESPACES)):
            parts = _children(v)
            if parts is not None:
                statics.append(parts[1])
                return ("pytree", parts[1], *map(visit, parts[0]))
        statics.append(v)
        return ("static", freeze(v))

    return Encoding(visit(value), arrays, refs, statics)


def decode(skeleton: Any, arrays: Iterator[Any], refs: Iterator[Any], statics: Iterator[Any]) -> Any:
    """Put a container together from its skeleton and parts. Mutable parts are new objects."""
    if skeleton == "r":
        return next(refs)
    if skeleton == "a":
        return next(arrays)
    kind = skeleton[0]
    if kind == "static":
        static = next(statics)
        return copy(static) if isinstance(static, (set, bytearray, np.ndarray)) else static
    if kind is dict or kind is OrderedDict:
        keys = next(statics)
        return kind(zip(keys, [decode(s, arrays, refs, statics) for s in skeleton[2:]], strict=True))
    if kind == "pytree":
        tree = next(statics)
        return jax.tree_util.tree_unflatten(tree, [decode(s, arrays, refs, statics) for s in skeleton[2:]])
    if kind is deque:
        return deque([decode(s, arrays, refs, statics) for s in skeleton[2:]], skeleton[1])
    return kind([decode(s, arrays, refs, statics) for s in skeleton[1:]])


def rebuild(encoding: Encoding, arrays: list[Any] | None = None, refs: list[Any] | None = None) -> Any:
    """The container of `encoding`, with other arrays or other objects in it."""
    return decode(
        encoding.skeleton,
        iter(encoding.arrays if arrays is None else arrays),
        iter(encoding.refs if refs is None else refs),
        iter(encoding.statics),
    )


class ContainerSlot(Box):
    """The box of a plain container attribute.

    Inside a trace the function is given a copy, so that what it does in place cannot leave a tracer in the object;
    when the trace ends, a copy that was changed counts as written.
    """

    __slots__ = ()
    _container = True

    @property
    def value(self) -> Any:
        """The container itself; inside a trace, this trace's copy of it."""
        return read(self)

    @value.setter
    def value(self, new: Any) -> None:
        write(self, new)

    def _enter(self, overlay: Any, value: Any) -> Any:
        """The copy of the container for `overlay`."""
        if self in overlay.copies or self in overlay.written or self in overlay.born:
            return overlay.values[self]
        return self._hand_out(overlay, rebuild(encode(value)))

    def _hand_out(self, overlay: Any, container: Any) -> Any:
        overlay.values[self] = container
        overlay.copies[self] = encode(container)
        return container

    def _changed(self, value: Any, before: Encoding) -> bool:
        return not encode(value).same(before)

    def __deepcopy__(self, memo: dict[int, Any]) -> Box:
        return self._clone(deepcopy(self.value, memo))

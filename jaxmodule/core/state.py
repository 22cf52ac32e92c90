"""`Stateful`: the base of everything whose state flows through transforms (Module, Optimizer, Generator).

An attribute is *state* when it is an array, a box, another Stateful, or a plain container (kept in the `_slots`
registry, inside a box, and given back as itself); everything else is *static* and part of the structure.
"""

import types
from contextlib import suppress
from copy import deepcopy
from functools import cached_property
from inspect import getattr_static
from typing import Any, ClassVar, Self

import jax

from .box import Box, Slot
from .context import tls, touch, trace_state
from .errors import ForeignTraceError
from .freeze import ATOMS, ContainerSlot, Node, is_container
from .overlay import check_attribute, journal, meet, on_roll_back
from .parameter import Parameter
from .registry import Registry
from .structure import register_node

_MISSING: Any = object()
_INTERNAL = frozenset({"_slots"})


class Stateful(Node):
    """An object whose arrays flow through transforms and whose other attributes are part of the traced program.

    A subclass's objects are pytree nodes: leaves are the arrays of its unique boxes, keyed by dotted names.
    """

    #: The names of the dicts of boxes and objects, in the order of the walk.
    _registries: ClassVar[tuple[str, ...]] = ("_slots",)
    #: Attributes that are neither state nor static.
    _internal: ClassVar[frozenset[str]] = _INTERNAL

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        self = super().__new__(cls)
        self._birth = trace_state()
        self._layout = None
        self._watched = False
        self.__dict__["_slots"] = Registry()
        return self

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name, value in list(cls.__dict__.items()):
            if type(value) is cached_property:
                replaced = _CachedProperty(value.func)
                replaced.__set_name__(cls, name)
                setattr(cls, name, replaced)
        register_node(cls)

    # -- attributes ---------------------------------------------------------------------------------------------
    def __setattr__(self, name: str, value: Any) -> None:
        if name == "__class__":
            self._set_class(value)
            return
        of_class = getattr(type(self), name, None)
        if name in _NODE_SLOTS or (of_class is not None and hasattr(type(of_class), "__set__")):
            object.__setattr__(self, name, value)
        else:
            self._set_plain(name, value)

    def _set_class(self, cls: type) -> None:
        """Become an object of another class: parametrizations and lazy modules do."""
        old = type(self)
        on_roll_back(lambda: object.__setattr__(self, "__class__", old))
        object.__setattr__(self, "__class__", cls)
        touch()

    def _set_plain(self, name: str, value: Any) -> None:
        """Set an attribute that is registered as nothing: static, array or container."""
        own = self.__dict__
        slots = own["_slots"]
        kind = type(value)
        if kind not in ATOMS:
            if isinstance(value, jax.Array):
                return self._set_slot(name, value, Slot)
            if isinstance(value, (Box, Node)):
                self._make_way(name)
                slots[name] = value
                return None
            if is_container(value):
                return self._set_slot(name, value, ContainerSlot)
        old = own.get(name, _MISSING)
        if old is value or (type(old) is kind and kind in _COMPARABLE and old == value):
            return None
        if tls.overlay is not None:
            meet(self)
            journal(own, self._birth)
        own[name] = value
        if name in slots:
            del slots[name]
        if self._watched:
            touch()
        return None

    def _set_slot(self, name: str, value: Any, kind: type[Box]) -> None:
        slots = self.__dict__["_slots"]
        box = slots.get(name)
        if type(box) is kind:
            box.value = value
            return
        check_attribute(value, self._birth)
        if tls.overlay is not None:
            meet(self)
        self._make_way(name)
        slots[name] = kind(value)

    def _make_way(self, name: str) -> None:
        """Let `name` be looked up in the slots: Python asks the attribute dict and the class first."""
        if name in self.__dict__:
            journal(self.__dict__, self._birth)
            del self.__dict__[name]
        if hasattr(type(self), name):
            default = getattr_static(type(self), name)
            if not isinstance(default, (_Default, _CachedProperty)):
                setattr(type(self), name, _Default(name, default))

    def __getattr__(self, name: str) -> Any:
        slots = self.__dict__.get("_slots")
        if slots is not None and name in slots:
            return _content(slots[name])
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __delattr__(self, name: str) -> None:
        slots = self.__dict__["_slots"]
        if name in slots:
            del slots[name]
            return
        if name in self.__dict__ and tls.overlay is not None:
            meet(self)
            journal(self.__dict__, self._birth)
        object.__delattr__(self, name)
        if self._watched:
            touch()

    # -- copies -------------------------------------------------------------------------------------------------
    def __getstate__(self) -> dict[str, Any]:
        return dict(self.__dict__)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        new = memo[id(self)] = type(self).__new__(type(self))
        state = self.__getstate__()
        for value in state.values():
            if isinstance(value, _JAX_FUNCTIONS):  # deepcopy would make another function of them
                memo[id(value)] = value
        new.__setstate__(deepcopy(state, memo))
        return new

    def __copy__(self) -> Self:
        new = type(self).__new__(type(self))
        new.__dict__.update({k: Registry(v) if isinstance(v, Registry) else v for k, v in self.__getstate__().items()})
        return new

    def _named_trainable(self) -> dict[str, Parameter]:
        """What `jm.grad` differentiates when it is given this object: parameters by dotted name."""
        return {}

    # -- for core.structure ---------------------------------------------------------------------------------------
    def _structure_extra(self) -> Any:
        """What else of this object can make programs differ, as a hashable value."""
        return None

    def _parts(self, index: dict[int, int]) -> dict[str, Any]:
        """The attribute dict with the objects of one walk replaced by their index; for a Template."""

        def part(value: Any) -> Any:
            if isinstance(value, Registry):
                return _Registered({k: part(v) for k, v in value.items()})
            if id(value) in index:
                return _Reference(index[id(value)])
            if isinstance(value, types.MethodType) and id(value.__self__) in index:
                return _Reference(index[id(value.__self__)], value.__func__)
            return value

        return {name: part(value) for name, value in self.__dict__.items()}

    def _assemble(self, parts: dict[str, Any], nodes: list[Any], boxes: dict[Box, Box]) -> None:
        """The inverse of `_parts` on a new object, with other nodes and boxes."""

        def whole(part: Any) -> Any:
            if isinstance(part, _Registered):
                return Registry({k: whole(v) for k, v in part.items.items()})
            if isinstance(part, _Reference):
                node = nodes[part.index]
                return node if part.function is None else types.MethodType(part.function, node)
            return boxes.get(part, part) if isinstance(part, Box) else part

        self.__dict__.update({name: whole(part) for name, part in parts.items()})


def _content(box: Any) -> Any:
    return box.value if isinstance(box, (Slot, ContainerSlot)) else box


class _Default:
    """A class attribute (`cache = None`) that an object has state under the name of: gives that, else the default."""

    __slots__ = ("_default", "_name")

    def __init__(self, name: str, default: Any) -> None:
        self._name = name
        self._default = default

    def __get__(self, obj: Any, owner: Any = None) -> Any:
        if obj is not None and any(self._name in obj.__dict__.get(registry, ()) for registry in obj._registries):
            return obj.__getattr__(self._name)
        default = self._default
        return default.__get__(obj, owner) if hasattr(type(default), "__get__") else default


class _CachedProperty(cached_property):
    """`functools.cached_property` that keeps its value as state, where Python's would leave a tracer in the object."""

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        if instance is None:
            return self
        name = str(self.attrname)
        if name in instance._slots:
            return _content(instance._slots[name])
        value = self.func(instance)
        with suppress(ForeignTraceError):  # inside a raw transform: right for this trace, and not to be kept
            instance._set_plain(name, value)
        return value


class _Registered:
    __slots__ = ("items",)

    def __init__(self, items: dict[Any, Any]) -> None:
        self.items = items


class _Reference:
    __slots__ = ("function", "index")

    def __init__(self, index: int, function: Any = None) -> None:
        self.index = index
        self.function = function


_JAX_FUNCTIONS = (type(jax.jit(lambda: None)), jax.custom_jvp, jax.custom_vjp)
_NODE_SLOTS = frozenset(Node.__slots__)
_COMPARABLE = frozenset({str, bytes, int, bool})

register_node(Stateful)

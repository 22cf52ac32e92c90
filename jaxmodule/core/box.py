"""Boxes: small mutable cells round one `jax.Array`, and the arrays' operators on them.

All state of this library is in boxes, so that one mechanism (the overlay) can carry it through every transform. What
modules register is in `parameter.py`; `Slot` holds a plain array attribute.
"""

import operator
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NoReturn, Self

import jax
import jax.numpy as jnp
import numpy as np

from .context import HOLE, Tracer, tls
from .device import device, is_abstract, rewritten
from .errors import DONATED, KEEP_IT, AbstractError, StateError
from .overlay import ESCAPED, birth, read, write
from .rendering import render

if TYPE_CHECKING:  # to a type checker a box is an array with a mutable value
    _ArrayLike = jax.Array
else:
    _ArrayLike = object


def unbox(x: Any) -> Any:
    """The array behind `x`: a box's value, an array itself, `None` for `None`, anything else through `jnp.asarray`."""
    if isinstance(x, Box):
        return x.value
    if x is None or isinstance(x, (jax.Array, jax.ShapeDtypeStruct)):
        return x
    return jnp.asarray(x)


def strong(x: Any) -> Any:
    """`x` without JAX's weak type, which torch has none of: it would compile everything again once it is lost."""
    if not getattr(x, "weak_type", False):
        return x
    return x.update(weak_type=False) if is_abstract(x) else jax.lax.convert_element_type(x, x.dtype)


def _strip(x: Any) -> Any:
    return x.value if isinstance(x, Box) else x


def _flatten(box: Any) -> tuple[Any, Any]:
    if tls.collector is not None:
        tls.collector.append(box)
        return (), HOLE
    return (box.value,), (type(box), box._flags())


def _unflatten(aux: Any, leaves: Any) -> Any:
    if aux is HOLE:
        return next(tls.restore)
    new: Any = object.__new__(aux[0])
    (value,) = leaves
    birth(new, value)
    new._restore_flags(aux[1])
    return new


def _register(cls: type) -> None:
    jax.tree_util.register_pytree_node(cls, _flatten, _unflatten)


class Box(_ArrayLike):
    """A mutable cell round one array: `.value` (alias `.data`). Every array operation works on it."""

    __slots__ = ("__weakref__", "_birth", "_promise", "_value")
    _birth: Any  # the trace state it was made in, None for eager code and for the trace of an overlay
    _value: Any
    _promise: Any  # core/lazy.py's, unset otherwise: a box that changes class keeps its layout

    __array_priority__ = 101  # numpy's operators leave `ndarray + box` to the box, as they do for a jax.Array
    _container = False  # is the value a container of arrays?
    _lazy = False  # is there no value yet, only a promise of one (core/lazy.py)?
    _random = False  # is it the state of a generator?
    _foreign = ""  # what to say of a write in a foreign trace, where there is something better to say
    _remedy = ""

    def __init__(self, value: Any) -> None:
        birth(self, strong(value))

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        _register(cls)

    @property
    def value(self) -> jax.Array:
        """The array. Setting it replaces the array; inside a `jm` transform the new value becomes an output."""
        value = read(self)
        return jax.lax.stop_gradient(value) if tls.no_grad and isinstance(value, Tracer) else value

    @value.setter
    def value(self, new: Any) -> None:
        write(self, rewritten(self, strong(unbox(new))))

    data = value

    @property
    def is_meta(self) -> bool:
        """Whether it has a shape and a dtype but no value, as under `jm.device("meta")`."""
        return is_abstract(self.value)

    @property
    def raw_shape(self) -> tuple[int, ...] | None:
        """The shape as far as it can be told without reading the value; for error messages."""
        return getattr(self._value, "shape", None)

    def _set_raw(self, value: Any) -> None:
        set_value(self, value)

    def _flags(self) -> Any:
        """What of this box belongs to the structure, as a hashable value."""
        return None

    def _restore_flags(self, flags: Any) -> None:
        """Set what `_flags` told, on a box made without its constructor."""

    def _clone(self, value: Any) -> "Box":
        """A box of the same kind and flags round another value."""
        new = object.__new__(type(self))
        birth(new, value)
        return new

    # -- in place, as torch spells it ---------------------------------------------------------------------------
    def copy_(self, other: Any) -> Self:
        """Write `other`, broadcast to this shape and cast to this dtype."""
        old, other = self.value, unbox(other)
        if is_abstract(other):
            raise AbstractError([], f"an array of shape {other.shape} was copied")
        new = jnp.broadcast_to(other, old.shape).astype(old.dtype)
        self.value = jax.device_put(new, old.sharding) if is_abstract(old) else new
        return self

    def fill_(self, value: Any) -> Self:
        """Write `value` everywhere."""
        old = self.value
        if not is_abstract(old):
            self.value = jnp.full_like(old, _strip(value))
        return self

    def zero_(self) -> Self:
        """Write zeros."""
        return self.fill_(0)

    def _update(self, function: Callable[[Any, Any], Any], other: Any) -> Self:
        old = self.value
        if not is_abstract(old):
            self.value = function(old, _strip(other))
        return self

    def add_(self, other: Any, *, alpha: Any = 1) -> Self:
        """Add `alpha * other` in place."""
        return self._update(operator.add, other if alpha == 1 else alpha * _strip(other))

    def sub_(self, other: Any, *, alpha: Any = 1) -> Self:
        """Subtract `alpha * other` in place."""
        return self._update(operator.sub, other if alpha == 1 else alpha * _strip(other))

    def mul_(self, other: Any) -> Self:
        """Multiply in place."""
        return self._update(operator.mul, other)

    def div_(self, other: Any) -> Self:
        """Divide in place."""
        return self._update(operator.truediv, other)

    def detach(self) -> jax.Array:
        """The array, with no gradient through it."""
        return jax.lax.stop_gradient(self.value)

    # -- what Python and numpy ask of an array ------------------------------------------------------------------
    __hash__ = object.__hash__  # pyright: ignore[reportAssignmentType]

    def __jax_array__(self) -> jax.Array:
        return self._alive(self.value)

    def _alive(self, value: Any) -> Any:
        """`value`, which is to be used.

        Raises:
            AbstractError: there is none.
            StateError: it was given away.
        """
        if is_abstract(value):
            self._refuse("was used in a computation")
        if isinstance(value, jax.Array) and not isinstance(value, Tracer) and value.is_deleted():
            raise StateError(DONATED, KEEP_IT, self)
        return value

    def _refuse(self, action: str) -> NoReturn:
        raise AbstractError([], f"a {type(self).__name__} of shape {self.raw_shape} {action}")

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:  # pyright: ignore
        array = np.asarray(self.__jax_array__())
        return array.astype(dtype) if dtype is not None else array.copy() if copy else array

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        value = self.value
        try:
            return getattr(value, name)
        except AttributeError:
            if not is_abstract(value):
                raise
        if name == "device":
            return device("meta")
        if name == "nbytes":
            return value.size * value.dtype.itemsize
        raise AttributeError(
            f"{type(self).__name__!r} object has no attribute {name!r} while it is abstract: it has a shape and a "
            "dtype, and no value (jm.device('meta')). Load a state dict, or use to_empty and reset_parameters, before."
        )

    def __iter__(self) -> Iterator[jax.Array]:
        return iter(self.__jax_array__())

    def __repr__(self) -> str:
        if isinstance(self._value, type(ESCAPED)) and tls.overlay is None:
            return f"{type(self).__name__}(escaped from its trace)"
        return f"{type(self).__name__} containing:\n{self._shown()}"

    def _shown(self) -> str:
        """The value as `repr` shows it."""
        value = self.value
        gone = isinstance(value, jax.Array) and not isinstance(value, Tracer) and value.is_deleted()
        return f"{value.dtype}{list(value.shape)}, donated to a compiled call and gone" if gone else repr(value)

    def __treescope_repr__(self, path: str | None, subtree_renderer: Any) -> Any:
        shown: dict[str, Any] = {"value": None if self._lazy else self.value}
        for name, slot in (("requires_grad", "_requires_grad"), ("persistent", "persistent")):
            if hasattr(type(self), slot):
                shown[name] = getattr(self, name)
        return render(type(self), shown, path, subtree_renderer)

    def __copy__(self) -> "Box":
        return self._clone(self.value)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Box":
        found = memo.get(id(self))
        if found is None:
            # A copy, not a second reference: a donated step must not delete the copy's array.
            value = self.value if self._container or is_abstract(self.value) else self._alive(self.value)
            found = memo[id(self)] = self._clone(jax.tree.map(fresh_copy, value))
        return found

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return (rebuild_box, (type(self), jax.tree.map(to_host, self.value)))


def fresh_copy(x: Any) -> Any:
    """An array of its own memory; anything else as it is."""
    return x.copy() if isinstance(x, jax.Array) else x


def to_host(x: Any) -> Any:
    """An array as numpy's, for pickling; anything else as it is."""
    if is_abstract(x):
        return x.update(sharding=None)  # devices are no other process's
    return np.asarray(x) if isinstance(x, jax.Array) and not jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x


def rebuild_box(cls: type[Box], value: Any, *args: Any) -> Box:
    """What a pickled box is made by."""
    return cls(jax.tree.map(lambda x: jnp.asarray(x) if isinstance(x, np.ndarray) else x, value), *args)


_register(Box)
set_value: Callable[[Box, Any], None] = Box.__dict__["_value"].__set__


def _operator(name: str, function: Callable[..., Any], reflected: bool = False) -> None:
    def method(self: Box, *args: Any) -> Any:
        mine = self._alive(self.value)
        return function(_strip(args[0]), mine) if reflected else function(mine, *map(_strip, args))

    method.__name__ = name
    method.__qualname__ = f"Box.{name}"
    setattr(Box, name, method)


for _name in (
    "add",
    "sub",
    "mul",
    "truediv",
    "floordiv",
    "mod",
    "pow",
    "matmul",
    "lshift",
    "rshift",
    "and",
    "or",
    "xor",
):
    _function = getattr(operator, f"{_name}_" if _name in ("and", "or") else _name)
    _operator(f"__{_name}__", _function)
    _operator(f"__r{_name}__", _function, reflected=True)
for _name in ("eq", "ne", "lt", "le", "gt", "ge", "getitem", "contains", "neg", "pos", "invert", "index"):
    _operator(f"__{_name}__", getattr(operator, _name))
for _name, _function in (
    ("abs", abs),
    ("bool", bool),
    ("int", int),
    ("float", float),
    ("complex", complex),
    ("len", len),
    ("round", round),
    ("divmod", divmod),
    ("format", format),
):
    _operator(f"__{_name}__", _function)
_operator("__rdivmod__", divmod, reflected=True)


def _in_place(name: str, function: Callable[[Any, Any], Any]) -> None:
    def method(self: Box, other: Any) -> Box:
        return self._update(function, other)

    setattr(Box, f"__i{name}__", method)


for _name in ("add", "sub", "mul", "truediv"):
    _in_place(_name, getattr(operator, _name))


class Slot(Box):
    """The box of a plain array attribute of a Stateful object."""

    __slots__ = ()

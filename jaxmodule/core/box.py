"""Boxes: small mutable cells round one `jax.Array`, and the arrays' operators on them.

`Parameter` and `Buffer` are what modules register; `Slot` holds a plain array attribute, `ContainerSlot` a plain
container attribute, `GradBox` a parameter's `.grad`. All state of this library is in boxes, so that one mechanism (the
overlay) can carry it through every transform.
"""

import operator
import weakref
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Self

import jax
import jax.numpy as jnp
import numpy as np

from .context import HOLE, Tracer, tls, touch
from .overlay import ESCAPED, birth, journal, raise_escaped, read, write
from .registry import Registry, RemovableHandle

if TYPE_CHECKING:  # to a type checker a box is an array with a mutable value
    _ArrayLike = jax.Array
else:
    _ArrayLike = object


def unbox(x: Any) -> Any:
    """The array behind `x`: a box's value, an array itself, `None` for `None`, anything else through `jnp.asarray`."""
    if isinstance(x, Box):
        return x.value
    if x is None or isinstance(x, jax.Array):
        return x
    return jnp.asarray(x)


def _strong(x: Any) -> Any:
    """`x` without JAX's weak type, which torch has none of: it would compile everything again once it is lost."""
    return jax.lax.convert_element_type(x, x.dtype) if getattr(x, "weak_type", False) else x


def _strip(x: Any) -> Any:
    return x.value if isinstance(x, Box) else x


class ParamName(str):
    """A dotted parameter name that remembers its parameter: the keys of the dict that `jm.grad` returns.

    It compares, hashes, sorts and pickles as the plain string.
    """

    __slots__ = ("_ref",)

    def __new__(cls, name: str, box: "Parameter | None" = None) -> Self:
        self = super().__new__(cls, name)
        self._ref = None if box is None else weakref.ref(box)
        return self

    @property
    def box(self) -> "Parameter | None":
        """The parameter that the name stands for, or None if it is gone."""
        return None if self._ref is None else self._ref()

    def __reduce__(self) -> tuple[Any, ...]:
        return (str, (str(self),))


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

    __slots__ = ("__weakref__", "_birth", "_value")
    _birth: Any  # the trace state it was made in, None for eager code and for the trace of an overlay
    _value: Any

    __array_priority__ = 101  # numpy's operators leave `ndarray + box` to the box, as they do for a jax.Array
    _container = False  # is the value a container of arrays?
    _foreign = ""  # what to say of a write in a foreign trace, where there is something better to say
    _remedy = ""

    def __init__(self, value: Any) -> None:
        birth(self, _strong(value))

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
        write(self, _strong(unbox(new)))

    data = value

    @property
    def raw_shape(self) -> tuple[int, ...] | None:
        """The shape as far as it can be told without reading the value; for error messages."""
        return getattr(self._value, "shape", None)

    def _set_raw(self, value: Any) -> None:
        _set_value(self, value)

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
        old = self.value
        self.value = jnp.broadcast_to(unbox(other), old.shape).astype(old.dtype)
        return self

    def fill_(self, value: Any) -> Self:
        """Write `value` everywhere."""
        old = self.value
        self.value = jnp.full_like(old, _strip(value))
        return self

    def zero_(self) -> Self:
        """Write zeros."""
        return self.fill_(0)

    def add_(self, other: Any, *, alpha: Any = 1) -> Self:
        """Add `alpha * other` in place."""
        self.value = self.value + (_strip(other) if alpha == 1 else alpha * _strip(other))
        return self

    def sub_(self, other: Any, *, alpha: Any = 1) -> Self:
        """Subtract `alpha * other` in place."""
        self.value = self.value - (_strip(other) if alpha == 1 else alpha * _strip(other))
        return self

    def mul_(self, other: Any) -> Self:
        """Multiply in place."""
        self.value = self.value * _strip(other)
        return self

    def div_(self, other: Any) -> Self:
        """Divide in place."""
        self.value = self.value / _strip(other)
        return self

    def detach(self) -> jax.Array:
        """The array, with no gradient through it."""
        return jax.lax.stop_gradient(self.value)

    # -- what Python and numpy ask of an array ------------------------------------------------------------------
    __hash__ = object.__hash__  # pyright: ignore[reportAssignmentType]

    def __jax_array__(self) -> jax.Array:
        return self.value

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:  # pyright: ignore
        array = np.asarray(self.value)
        return array.astype(dtype) if dtype is not None else array.copy() if copy else array

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(self.value, name)

    def __iter__(self) -> Iterator[jax.Array]:
        return iter(self.value)

    def __repr__(self) -> str:
        if isinstance(self._value, type(ESCAPED)) and tls.overlay is None:
            return f"{type(self).__name__}(escaped from its trace)"
        return f"{type(self).__name__} containing:\n{self.value!r}"

    def __copy__(self) -> "Box":
        return self._clone(self.value)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Box":
        found = memo.get(id(self))
        if found is None:
            # A copy, not a second reference: a donated step must not delete the copy's array.
            found = memo[id(self)] = self._clone(jax.tree.map(_fresh_copy, self.value))
        return found

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return (_rebuild, (type(self), jax.tree.map(_to_host, self.value)))


def _fresh_copy(x: Any) -> Any:
    return x.copy() if isinstance(x, jax.Array) else x


def _to_host(x: Any) -> Any:
    return np.asarray(x) if isinstance(x, jax.Array) and not jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x


def _rebuild(cls: type[Box], value: Any, *args: Any) -> Box:
    return cls(jax.tree.map(lambda x: jnp.asarray(x) if isinstance(x, np.ndarray) else x, value), *args)


_register(Box)
_set_value: Callable[[Box, Any], None] = Box.__dict__["_value"].__set__


def _operator(name: str, function: Callable[..., Any], reflected: bool = False) -> None:
    def method(self: Box, *args: Any) -> Any:
        mine = self.value
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
        self.value = function(self.value, _strip(other))
        return self

    setattr(Box, f"__i{name}__", method)


for _name in ("add", "sub", "mul", "truediv"):
    _in_place(_name, getattr(operator, _name))


class Slot(Box):
    """The box of a plain array attribute of a Stateful object."""

    __slots__ = ()


class GradBox(Box):
    """A parameter's gradient: an array or None. Which of the two it is belongs to the structure."""

    __slots__ = ()

    def __init__(self, value: Any = None) -> None:
        _set_value(self, None)
        birth(self, value)

    def _set_raw(self, value: Any) -> None:
        changed = (self._value is None) != (value is None)
        _set_value(self, value)
        if changed:
            touch()


class Parameter(Box):
    """An array that is trained: found by `Module.parameters()` and the optimizers when assigned to a module attribute.

    Args:
        data: the array (or numpy array, list, number).
        requires_grad: whether gradients are computed for it. False freezes it: it costs nothing in `jm.grad`, and the
            optimizers leave it alone, weight decay included.

    Attributes:
        value: the array; alias `data`.
        grad: the gradient that `jm.backward` has added up, or None.
        name_hint: the dotted name that `Module.parameters()` last listed it under, for optimizers; or "".

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> p = nn.Parameter(jnp.zeros(3))
        >>> p.value = p + 1
        >>> float(p.sum())
        3.0
    """

    __slots__ = ("__dict__", "_grad", "_hooks", "_requires_grad", "name_hint")
    _grad: GradBox | None
    _hooks: Registry | None
    _requires_grad: bool
    name_hint: str

    def __init__(self, data: Any = None, requires_grad: bool = True) -> None:
        birth(self, jnp.empty(0) if data is None else _strong(unbox(data)))
        _set_slots(self, bool(requires_grad))

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in _PARAMETER_NAMES:  # a mark of the user's, which code under a transform may read
            journal(self.__dict__)
        object.__setattr__(self, name, value)
        if name not in _PARAMETER_NAMES:
            touch()

    def __delattr__(self, name: str) -> None:
        journal(self.__dict__)
        object.__delattr__(self, name)
        touch()

    @property
    def value(self) -> jax.Array:
        """The array. Setting it replaces the array; inside a `jm` transform the new value becomes an output."""
        if tls.overlay is None:
            value = self._value
            if value is ESCAPED:
                raise_escaped(self)
            # A clone inside a raw transform: a frozen parameter carries no gradient there either.
            frozen = not self._requires_grad and self._birth is not None
        else:
            value = read(self)
            frozen = False
        return jax.lax.stop_gradient(value) if (frozen or tls.no_grad) and isinstance(value, Tracer) else value

    @value.setter
    def value(self, new: Any) -> None:
        write(self, _strong(unbox(new)))

    data = value

    @property
    def requires_grad(self) -> bool:
        """Whether `jm.grad` differentiates it and optimizers move it."""
        return self._requires_grad

    @requires_grad.setter
    def requires_grad(self, on: bool) -> None:
        self.requires_grad_(on)

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Freeze (False) or release (True) this parameter."""
        if bool(requires_grad) != self._requires_grad:
            _set_requires_grad(self, bool(requires_grad))
            touch()
        return self

    @property
    def is_leaf(self) -> bool:
        """Always True, as for every parameter in torch."""
        return True

    @property
    def grad_box(self) -> GradBox:
        """The box of the gradient, made on first use."""
        if self._grad is None:
            _set_grad(self, GradBox())
        return self._grad  # pyright: ignore[reportReturnType]

    @property
    def grad(self) -> jax.Array | None:
        """The gradient that `jm.backward` has added up, or None."""
        return None if self._grad is None else read(self._grad)

    @grad.setter
    def grad(self, new: Any) -> None:
        if new is None and self._grad is None:
            return
        new = unbox(new)
        if new is not None and new.shape != self.shape:
            raise RuntimeError(f"assigned grad has data of a different size: {new.shape} against {self.shape}")
        write(self.grad_box, new)

    def register_hook(self, hook: Callable[[jax.Array], jax.Array | None]) -> RemovableHandle:
        """Call `hook(gradient)` when `jm.grad`, `jm.value_and_grad` or `jm.backward` has this parameter's gradient.

        What it returns, if not None, replaces the gradient.

        Returns:
            A handle whose `remove()` takes the hook away; also a context manager.
        """
        if not self._requires_grad:
            raise RuntimeError("cannot register a hook on a parameter that doesn't require gradient")
        hooks = self._hooks
        if hooks is None:
            hooks = Registry(watched=True)
            _set_hooks(self, hooks)
        return RemovableHandle.add(hooks, hook)

    def _apply_hooks(self, gradient: jax.Array) -> jax.Array:
        for hook in tuple((self._hooks or {}).values()):
            replaced = hook(gradient)
            gradient = gradient if replaced is None else replaced
        return gradient

    def _flags(self) -> Any:
        hooks = tuple(self._hooks) if self._hooks else ()
        return (self._requires_grad, hooks)

    def _restore_flags(self, flags: Any) -> None:
        _set_slots(self, flags[0])

    def _clone(self, value: Any) -> Box:
        new = super()._clone(value)
        _set_slots(new, self._requires_grad)
        new.__dict__.update(self.__dict__)
        if self._hooks:
            _set_hooks(new, Registry(self._hooks, watched=True))
        return new

    def __deepcopy__(self, memo: dict[int, Any]) -> Box:
        known = id(self) in memo
        new = super().__deepcopy__(memo)
        if not known and self.grad is not None:
            new.grad = _fresh_copy(self.grad)  # pyright: ignore[reportAttributeAccessIssue]
        return new

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        state = dict(self.__dict__)
        return (_rebuild, (type(self), _to_host(self.value), self._requires_grad), state or None)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    def __repr__(self) -> str:
        frozen = "" if self._requires_grad else " (requires_grad=False)"
        return f"Parameter containing{frozen}:\n{self.value!r}"


_set_requires_grad = Parameter.__dict__["_requires_grad"].__set__
_set_grad = Parameter.__dict__["_grad"].__set__
_set_hooks = Parameter.__dict__["_hooks"].__set__
_PARAMETER_NAMES = frozenset(dir(Parameter))


def _set_slots(parameter: Any, requires_grad: bool) -> None:
    _set_requires_grad(parameter, requires_grad)
    _set_grad(parameter, None)
    parameter.name_hint = ""
    _set_hooks(parameter, None)


class Buffer(Box):
    """An array that belongs to a module's state but is not trained, such as BatchNorm's running mean.

    Args:
        data: the array.
        persistent: whether it is part of `state_dict`.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> class Count(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.calls = nn.Buffer(jnp.zeros((), jnp.int32))
        ...     def forward(self, x):
        ...         self.calls += 1
        ...         return x
        >>> model = Count()
        >>> _ = model(1.0)
        >>> int(model.state_dict()["calls"])
        1
    """

    __slots__ = ("persistent",)
    persistent: bool

    def __init__(self, data: Any = None, *, persistent: bool = True) -> None:
        birth(self, jnp.empty(0) if data is None else _strong(unbox(data)))
        self.persistent = persistent

    @property
    def requires_grad(self) -> bool:
        """Always False: buffers are not differentiated."""
        return False

    def _flags(self) -> Any:
        return self.persistent

    def _restore_flags(self, flags: Any) -> None:
        self.persistent = flags

    def _clone(self, value: Any) -> Box:
        new: Any = super()._clone(value)
        new.persistent = self.persistent
        return new

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return (_rebuild_buffer, (type(self), _to_host(self.value), self.persistent))


def _rebuild_buffer(cls: type[Buffer], value: Any, persistent: bool) -> Buffer:
    return cls(jnp.asarray(value), persistent=persistent)

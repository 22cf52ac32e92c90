"""The boxes that modules register: `Parameter` with its gradient, `Buffer`; and the names of gradients."""

import functools
import weakref
from collections.abc import Callable
from typing import Any, Self

import jax
import jax.numpy as jnp

from .box import Box, rebuild_box, set_value, strong, to_host, unbox
from .context import Tracer, alike, tls, touch
from .device import rewritten, settled
from .overlay import ESCAPED, birth, journal, on_roll_back, raise_escaped, read, settle_beside, write
from .registry import Registry, RemovableHandle


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


class GradBox(Box):
    """A parameter's gradient: an array or None. Which of the two it is belongs to the structure."""

    __slots__ = ()

    def __init__(self, value: Any = None) -> None:
        set_value(self, None)
        birth(self, value)

    def _set_raw(self, value: Any) -> None:
        changed = (self._value is None) != (value is None)
        set_value(self, value)
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
        name_hint: the dotted name that `Module.parameters()` or `named_parameters()` listed it under, for optimizers;
            or "".

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
        birth(self, settled(jnp.empty(0) if data is None else strong(unbox(data))))
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
        write(self, rewritten(self, strong(unbox(new))))

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
            if tls.overlay is not None and self not in tls.overlay.born:
                on_roll_back(functools.partial(_set_requires_grad, self, self._requires_grad))
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
            settle_beside(self._grad, self, None)
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
        hooks = self._hooks or {}
        return (self._requires_grad, tuple(map(alike, hooks.values())) if tls.alike else tuple(hooks))

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
        if not known:
            _set_hooks(new, None)  # as torch does, which also leaves the gradient behind
        return new

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        state = dict(self.__dict__)
        return (rebuild_box, (type(self), to_host(self.value), self._requires_grad), state or None)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    def __repr__(self) -> str:
        frozen = "" if self._requires_grad else " (requires_grad=False)"
        return f"Parameter containing{frozen}:\n{self._shown()}"


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
        birth(self, settled(jnp.empty(0) if data is None else strong(unbox(data)), real=not persistent))
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
        return (_rebuild_buffer, (type(self), to_host(self.value), self.persistent))


def _rebuild_buffer(cls: type[Buffer], value: Any, persistent: bool) -> Buffer:
    return cls(value, persistent=persistent)

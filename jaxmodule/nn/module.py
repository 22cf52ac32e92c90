"""`Module`: registration of parameters, buffers and submodules, the call with its hooks, modes, and printing."""

import warnings
from collections.abc import Callable
from typing import Any, ClassVar, Self

import jax
import numpy as np

from ..core.box import Box
from ..core.context import PLAIN, Tracer, tls, touch, trace_state
from ..core.freeze import is_container
from ..core.overlay import emit
from ..core.parameter import Buffer, Parameter
from ..core.registry import Registry, RemovableHandle
from ..core.rendering import render
from ..core.state import Stateful
from . import hooks
from .compiled import CompiledCall
from .conversion import Conversion
from .derived import find_derived
from .modes import carry_no_gradient, check_inference
from .notes import annotate
from .scopes import call_in_scope
from .statedict import StateDict
from .traversal import Traversal, contains_module

_STATE_HOOKS = (
    "_state_dict_hooks",
    "_state_dict_pre_hooks",
    "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
)
_REGISTRIES = ("_parameters", "_buffers", "_slots", "_modules")
_INTERNAL = frozenset(
    {*_REGISTRIES, *hooks.KINDS, *hooks.FLAGS, *_STATE_HOOKS, "_non_persistent_buffers_set", "_compiled_call"}
)
_warned: set[tuple[type, str]] = set()


class Module(Traversal, Conversion, StateDict, Stateful):
    """The base of all layers and models, with the contract of `torch.nn.Module`.

    A subclass calls `super().__init__()`, then assigns parameters, buffers and submodules to attributes, and defines
    `forward`; calling the object runs `forward` and the hooks. A Module is a JAX pytree of its arrays, and an argument
    like any other to `jm.jit`, `jm.grad` and their kin, which write state back into the object.

    Attributes:
        training: whether the module is in training mode (`train()`, `eval()`).
        call_super_init: a class that sets it to True has its arguments of `super().__init__` passed on to the next
            class of a multiple inheritance.

    Note:
        A plain array on an attribute is no parameter and is not in `state_dict`, as in torch, but it is state: it flows
        through transforms. A plain list or dict of modules is not registered, as in torch, and warns.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> class Net(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.fc = nn.Linear(3, 2)
        ...     def forward(self, x):
        ...         return self.fc(x)
        >>> Net()(jnp.ones((4, 3))).shape
        (4, 2)
        >>> Net()
        Net(
          (fc): Linear(in_features=3, out_features=2, bias=True)
        )
    """

    _version: ClassVar[int] = 1
    call_super_init: ClassVar[bool] = False
    _registries = _REGISTRIES
    _internal = _INTERNAL
    _compiled_call: Any = None
    _non_persistent_buffers_set: set[str]
    training: bool

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if not self.call_super_init and (args or kwargs):
            what = f"got an unexpected keyword argument '{next(iter(kwargs))}'" if kwargs else ""
            what = what or f"takes 1 positional argument but {len(args) + 1} were given"
            raise TypeError(f"{type(self).__name__}.__init__() {what}")
        own = self.__dict__
        for name in ("_parameters", "_buffers", "_modules", *hooks.KINDS, *hooks.FLAGS, *_STATE_HOOKS):
            own[name] = Registry()
        own["_non_persistent_buffers_set"] = set()
        own["training"] = True
        if self.call_super_init:
            super().__init__(*args, **kwargs)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The computation; every subclass defines it."""
        raise NotImplementedError(f'Module [{type(self).__name__}] is missing the required "forward" function')

    # -- the call -------------------------------------------------------------------------------------------------
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        try:
            if (
                self._compiled_call is None
                and tls.ambient is PLAIN
                and not (
                    self._forward_hooks or self._forward_pre_hooks or self._backward_hooks or self._backward_pre_hooks
                )
                and not hooks.any_global()
            ):
                # Eager code, unless a raw transform is at work: its clones have a birth, its other modules tracers.
                if tls.overlay is None and self._birth is None and not (args and isinstance(args[0], Tracer)):
                    return self.forward(*args, **kwargs)
                return call_in_scope(self.forward, self, args, kwargs)
            if tls.overlay is None and trace_state() is None:
                if self._compiled_call is not None:
                    return self._compiled_call(self, *args, **kwargs)
                return self._call(args, kwargs)
            return call_in_scope(self._call, self, (args, kwargs), {})
        except Exception as error:
            better = annotate(error, self, args, kwargs)
            if better is not None:
                raise better from error
            raise

    def _call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The call with all that can accompany it: no_grad, hooks, captures."""
        if tls.no_grad:
            check_inference(self)
            args, kwargs = carry_no_gradient((args, kwargs))
        try:
            args, kwargs = hooks.run_pre_hooks(self, args, kwargs)
        except Exception:
            hooks.run_always_called(self, args, kwargs, None)
            raise
        if self._backward_hooks or self._backward_pre_hooks or hooks.any_global_backward():
            result = hooks.BackwardHooks(self).call(args, kwargs)
        else:
            result = hooks.run_forward(self, args, kwargs)
        for capture in tls.captures:
            name = capture.name_of(self)
            if name is not None:
                emit(capture, name, result)
        return carry_no_gradient(result) if tls.no_grad else result

    def compile(self, *, donate: bool = False) -> None:
        """Make the call a compiled one (`jm.jit`), state and hooks included.

        Arguments of the call that are no arrays or floats (flags, sizes, names) are compiled in, one program for each
        value. Copies of the module are not compiled, as in torch.

        Args:
            donate: as in `jm.jit`.

        Example:
            >>> import jax.numpy as jnp
            >>> from jaxmodule import nn
            >>> layer = nn.Linear(3, 2)
            >>> layer.compile()
            >>> layer(jnp.ones((4, 3))).shape
            (4, 2)
        """
        self.__dict__["_compiled_call"] = CompiledCall(donate)

    # -- registration ---------------------------------------------------------------------------------------------
    def _check_name(self, what: str, name: Any, registry: str) -> None:
        if registry not in self.__dict__:
            raise AttributeError(f"cannot assign {what} before Module.__init__() call")
        if not isinstance(name, str):
            raise TypeError(f"{what} name should be a string. Got {type(name).__name__}")
        if hasattr(self, name) and name not in self.__dict__[registry]:
            raise KeyError(f"attribute '{name}' already exists")
        if "." in name:
            raise KeyError(f'{what} name can\'t contain ".", got: {name}')
        if name == "":
            raise KeyError(f'{what} name can\'t be empty string ""')

    def register_parameter(self, name: str, param: Parameter | None) -> None:
        """Add a parameter under `name`; None is a parameter that is not there.

        Raises:
            AttributeError: before `super().__init__()`.
            KeyError: the name is empty, has a dot, or is taken by another attribute.
            TypeError: `param` is no Parameter, or `name` no string.
        """
        self._check_name("parameter", name, "_parameters")
        if param is not None and not isinstance(param, Parameter):
            raise TypeError(
                f"cannot assign '{type(param).__name__}' object to parameter '{name}' (nn.Parameter or None required)"
            )
        self._parameters[name] = hooks.run_registration_hooks("parameter", self, name, param)

    def register_buffer(self, name: str, tensor: Any, persistent: bool = True) -> None:
        """Add a buffer under `name`: state that is not trained. None is a buffer that is not there.

        Args:
            name: the attribute.
            tensor: an array, a Buffer or None.
            persistent: whether it is part of `state_dict`.

        Raises: as `register_parameter`.
        """
        self._check_name("buffer", name, "_buffers")
        if tensor is not None and not isinstance(tensor, (jax.Array, Box, np.ndarray, jax.ShapeDtypeStruct)):
            raise TypeError(
                f"cannot assign '{type(tensor).__name__}' object to buffer '{name}' (array or None required)"
            )
        if tensor is not None and not isinstance(tensor, Buffer):
            tensor = Buffer(tensor, persistent=persistent)
        self._set_buffer(name, tensor, persistent)

    def _set_buffer(self, name: str, box: Buffer | None, persistent: bool) -> None:
        if box is not None:
            box.persistent = persistent
        self._buffers[name] = hooks.run_registration_hooks("buffer", self, name, box)
        if persistent:
            self._non_persistent_buffers_set.discard(name)
        else:
            self._non_persistent_buffers_set.add(name)

    def add_module(self, name: str, module: "Module | None") -> None:
        """Add a submodule under `name`.

        Raises: as `register_parameter`.
        """
        if module is not None and not isinstance(module, Module):
            raise TypeError(f"{type(module).__name__} is not a Module subclass")
        self._check_name("module", name, "_modules")
        self._modules[name] = hooks.run_registration_hooks("module", self, name, module)

    def register_module(self, name: str, module: "Module | None") -> None:
        """The same as `add_module`."""
        self.add_module(name, module)

    # -- attributes -----------------------------------------------------------------------------------------------
    def __setattr__(self, name: str, value: Any) -> None:
        own = self.__dict__
        if isinstance(value, Parameter):
            self._claim(name, "_parameters", "parameters")
            self.register_parameter(name, value)
        elif name in own.get("_parameters", ()):
            self._replace_kind("_parameters", name, value, "parameter", "nn.Parameter")
        elif isinstance(value, Module):
            self._claim(name, "_modules", "module")
            self._modules[name] = hooks.run_registration_hooks("module", self, name, value)
        elif name in own.get("_modules", ()):
            self._replace_kind("_modules", name, value, "child module", "nn.Module")
        elif isinstance(value, Buffer):
            self.register_buffer(name, value, value.persistent)
        elif name in own.get("_buffers", ()):
            self._write_buffer(name, value)
        else:
            if is_container(value) and contains_module(value):
                _warn_unregistered(type(self), name, value)
            super().__setattr__(name, value)

    def _claim(self, name: str, registry: str, what: str) -> None:
        """Make room for `name` in one registry: take it out of every other place."""
        own = self.__dict__
        if registry not in own:
            raise AttributeError(f"cannot assign {what} before Module.__init__() call")
        for other in _REGISTRIES:
            if other != registry and name in own[other]:
                del own[other][name]
        own["_non_persistent_buffers_set"].discard(name)
        was_static = name in own
        self._make_way(name)
        if was_static:
            touch()

    def _replace_kind(self, registry: str, name: str, value: Any, what: str, kind: str) -> None:
        if value is not None:
            raise TypeError(f"cannot assign '{type(value).__name__}' as {what} '{name}' ({kind} or None expected)")
        self.__dict__[registry][name] = None

    def _write_buffer(self, name: str, value: Any) -> None:
        if value is not None and not isinstance(value, (jax.Array, Box, np.ndarray, np.generic, jax.ShapeDtypeStruct)):
            raise TypeError(
                f"cannot assign '{type(value).__name__}' as buffer '{name}' (array, nn.Buffer or None expected)"
            )
        box = self._buffers[name]
        if value is None or box is None:
            persistent = name not in self._non_persistent_buffers_set
            self._set_buffer(name, None if value is None else Buffer(value, persistent=persistent), persistent)
        elif value is not box:
            box.value = value

    def __getattr__(self, name: str) -> "Box | Module | jax.Array":
        own = self.__dict__
        for registry in ("_parameters", "_buffers", "_modules"):
            found = own.get(registry)
            if found is not None and name in found:
                return found[name]
        if name in _INTERNAL and name != "_slots":
            raise AttributeError(
                f"'{type(self).__name__}' object has no attribute '{name}': "
                "its __init__ has not called super().__init__()"
            )
        descriptor = getattr(type(self), name, None)
        if isinstance(descriptor, property) and descriptor.fget is not None:
            return descriptor.fget(self)  # Python comes here when a property raised AttributeError: say what it said
        derived = find_derived(own, name)
        if derived is not None:
            return derived._derive(self)
        return super().__getattr__(name)

    def __delattr__(self, name: str) -> None:
        for registry in ("_parameters", "_buffers", "_modules"):
            if name in self.__dict__.get(registry, ()):
                del self.__dict__[registry][name]
                self._non_persistent_buffers_set.discard(name)
                return
        super().__delattr__(name)

    def __dir__(self) -> list[str]:
        own = self.__dict__
        names = {*dir(type(self)), *own, *(key for registry in _REGISTRIES for key in own.get(registry, ()))}
        return sorted(name for name in names if not name[0].isdigit())

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_compiled_call"}

    def __copy__(self) -> Self:
        new = super().__copy__()
        new.__dict__["_non_persistent_buffers_set"] = set(self._non_persistent_buffers_set)
        return new

    def _structure_extra(self) -> Any:
        own = self.__dict__
        if hooks.KINDS[0] not in own:
            raise AttributeError(f"the __init__ of {type(self).__name__} has not called super().__init__()")
        for name in (*hooks.KINDS, *hooks.FLAGS):
            own[name].watched = True
        return hooks.hooks_key(own)

    # -- modes ----------------------------------------------------------------------------------------------------
    def train(self, mode: bool = True) -> Self:
        """Put the tree into training mode (Dropout drops, BatchNorm uses and updates statistics of the batch)."""
        if not isinstance(mode, bool):
            raise ValueError("training mode is expected to be boolean")
        self.training = mode
        for module in self.children():
            module.train(mode)
        return self

    def eval(self) -> Self:
        """Put the tree into evaluation mode: `train(False)`."""
        return self.train(False)

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Freeze (False) or release (True) all parameters."""
        for parameter in self.parameters():
            parameter.requires_grad_(requires_grad)
        return self

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients in `.grad`, or with `set_to_none=False` make them zeros."""
        for parameter in self.parameters():
            if parameter.grad is not None:
                parameter.grad = None if set_to_none else jax.numpy.zeros_like(parameter.grad)

    # -- hooks ----------------------------------------------------------------------------------------------------
    def _hook(self, kind: str, hook: Callable[..., Any], prepend: bool, **flags: bool) -> RemovableHandle:
        registries = {name: getattr(self, name) for name in flags}
        handle = RemovableHandle.add(getattr(self, kind), hook, first=prepend, also=tuple(registries.values()))
        for name, on in flags.items():
            if on:
                registries[name][handle.id] = True
        return handle

    def register_forward_pre_hook(
        self, hook: Callable[..., Any], *, prepend: bool = False, with_kwargs: bool = False
    ) -> RemovableHandle:
        """Run `hook(module, args)` before forward; what it returns, if not None, replaces the arguments.

        Args:
            hook: with `with_kwargs` it is called as `hook(module, args, kwargs)` and returns None or `(args, kwargs)`.
            prepend: run it before the hooks that are there.
            with_kwargs: see `hook`.

        Returns:
            A handle whose `remove()` takes the hook away.
        """
        return self._hook("_forward_pre_hooks", hook, prepend, _forward_pre_hooks_with_kwargs=with_kwargs)

    def register_forward_hook(
        self,
        hook: Callable[..., Any],
        *,
        prepend: bool = False,
        with_kwargs: bool = False,
        always_call: bool = False,
        on_host: bool = False,
    ) -> RemovableHandle:
        """Run `hook(module, args, output)` after forward; what it returns, if not None, replaces the output.

        Args:
            hook: with `with_kwargs` it is called as `hook(module, args, kwargs, output)`.
            prepend: run it before the hooks that are there.
            with_kwargs: see `hook`.
            always_call: run it even if forward raises.
            on_host: run it on concrete arrays, on each execution of a compiled call too; it must return None then.
                Under `jm.jit` it runs asynchronously: `jax.effects_barrier()` waits.

        Returns:
            A handle whose `remove()` takes the hook away.

        Example:
            >>> import jax.numpy as jnp
            >>> from jaxmodule import nn
            >>> layer = nn.Linear(3, 2)
            >>> handle = layer.register_forward_hook(lambda module, args, output: jnp.zeros_like(output))
            >>> layer(jnp.ones(3))
            Array([0., 0.], dtype=float32)
            >>> handle.remove()
        """
        return self._hook(
            "_forward_hooks",
            hooks.OnHost(hook, self) if on_host else hook,
            prepend,
            _forward_hooks_with_kwargs=with_kwargs,
            _forward_hooks_always_called=always_call,
        )

    def register_full_backward_hook(self, hook: Callable[..., Any], prepend: bool = False) -> RemovableHandle:
        """Run `hook(module, grad_input, grad_output)` when the gradients through this module are computed.

        `grad_input` has one entry for each positional argument (None for what is no floating-point array),
        `grad_output` one for each output array. What the hook returns, if not None, replaces `grad_input`.

        Note:
            In torch `grad_input` is also None for an input that doesn't require gradients, and `grad_output` for an
            output that the loss doesn't use; here the one is computed and the other is zero. An output that is neither
            an array nor a tuple has its arrays listed in the order of the pytree.
        """
        return self._hook("_backward_hooks", hook, prepend)

    def register_full_backward_pre_hook(self, hook: Callable[..., Any], prepend: bool = False) -> RemovableHandle:
        """Run `hook(module, grad_output)` before the gradients through this module are computed.

        What it returns, if not None, replaces `grad_output`.
        """
        return self._hook("_backward_pre_hooks", hook, prepend)

    def register_backward_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """Deprecated in torch in favour of `register_full_backward_hook`; here it is the same."""
        warnings.warn(
            "register_backward_hook is deprecated, use register_full_backward_hook", FutureWarning, stacklevel=2
        )
        return self.register_full_backward_hook(hook)

    # -- printing -------------------------------------------------------------------------------------------------
    def _get_name(self) -> str:
        return type(self).__name__

    def extra_repr(self) -> str:
        """What `repr` shows in the brackets; a subclass defines it."""
        return ""

    def __repr__(self) -> str:
        extra = self.extra_repr()
        lines = extra.split("\n") if extra else []
        children = [f"({name}): {_addindent(repr(module), 2)}" for name, module in self._modules.items()]
        if not children and len(lines) <= 1:
            return f"{self._get_name()}({extra})"
        return f"{self._get_name()}(\n  " + "\n  ".join(lines + children) + "\n)"

    def __treescope_repr__(self, path: str | None, subtree_renderer: Any) -> Any:
        own = self.__dict__
        shown = {name: value for name, value in own.items() if name not in _INTERNAL and name[:1] != "_"}
        for registry in _REGISTRIES:
            shown.update((name, getattr(self, name)) for name in own[registry])
        return render(type(self), shown, path, subtree_renderer)


def _addindent(s_: str, numSpaces: int) -> str:
    """The text with all lines but the first moved to the right."""
    return s_.replace("\n", "\n" + " " * numSpaces)


def _warn_unregistered(cls: type, name: str, value: Any) -> None:
    if (cls, name) not in _warned:
        _warned.add((cls, name))
        remedy = "nn.ModuleDict" if isinstance(value, dict) else "nn.ModuleList"
        warnings.warn(
            f"{cls.__name__}.{name} is a plain {type(value).__name__} of modules: they are not registered, so "
            f"parameters(), state_dict() and train() don't see them. Use {remedy}.",
            UserWarning,
            stacklevel=4,
        )

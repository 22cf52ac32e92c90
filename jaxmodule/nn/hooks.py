"""Hooks: their registries, the order they run in, and how a module call is wrapped so that gradients pass them.

Hooks run while a function is traced, as under `torch.compile`, and belong to the structure, so that adding or
removing one after compilation is seen. A full backward hook wraps the module call in a `custom_vjp` whose forward is
`jax.vjp` of the call: so the hook gets `grad_input` and `grad_output` together, and may replace them.
"""

import itertools
import warnings
import weakref
from collections.abc import Callable, Container
from typing import Any

import jax
import jax.numpy as jnp

from ..core.context import Tracer, alike, process_keys, tls
from ..core.effects import take
from ..core.overlay import overlaid
from ..core.parameter import Buffer
from ..core.registry import Registry, RemovableHandle
from ..core.structure import flatten_args, layout_of, unflatten_args

#: The hook registries of a module, and of the process (`register_module_*`).
KINDS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
FLAGS = ("_forward_pre_hooks_with_kwargs", "_forward_hooks_with_kwargs", "_forward_hooks_always_called")
GLOBAL: dict[str, Registry] = {name: Registry(watched=True) for name in (*KINDS, *FLAGS, "_registration")}


class _Identity:
    """A hook in a structure: the same function, without keeping it (and what it closes over) alive."""

    __slots__ = ("hash", "reference")

    def __init__(self, hook: Any) -> None:
        try:
            self.reference = weakref.WeakMethod(hook) if hasattr(hook, "__self__") else weakref.ref(hook)
        except TypeError:
            self.reference = lambda: hook
        self.hash = hash(id(hook)) if not hasattr(hook, "__self__") else hash(id(hook.__self__))

    def __hash__(self) -> int:
        return self.hash

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Identity):
            return False
        mine = self.reference()
        theirs = other.reference()
        return mine is not None and (mine is theirs or (hasattr(mine, "__self__") and mine == theirs))


def hooks_key(owner: dict[str, Any]) -> Any:
    """The hooks in an attribute dict (or `GLOBAL`), as a hashable value."""
    present = [(kind, registry) for kind in KINDS if (registry := owner[kind])]
    if not present:
        return None
    if tls.alike:  # by place instead of by handle
        places = {key: i for i, key in enumerate(key for _, registry in present for key in registry)}
        hooks = [(kind, tuple(map(alike, registry.values()))) for kind, registry in present]
        return (*hooks, *[tuple([places[key] for key in owner[flag]]) for flag in FLAGS])
    hooks = [(kind, tuple([(i, _Identity(hook)) for i, hook in registry.items()])) for kind, registry in present]
    return (*hooks, *[tuple(owner[flag]) for flag in FLAGS])


process_keys.append(lambda: hooks_key(GLOBAL))


def any_global() -> bool:
    """Is any process-wide hook of a call registered?"""
    return bool(GLOBAL["_forward_hooks"] or GLOBAL["_forward_pre_hooks"] or any_global_backward())


def any_global_backward() -> bool:
    """Is any process-wide backward hook registered?"""
    return bool(GLOBAL["_backward_hooks"] or GLOBAL["_backward_pre_hooks"])


class OnHost:
    """A forward hook that runs on concrete arrays, through a callback where the call is traced.

    `home` is the module it was registered on: a compiled program must not keep a module alive, and outlives the clones
    that raw JAX transforms make.
    """

    def __init__(self, hook: Callable[..., Any], home: Any) -> None:
        self.hook = hook
        self.home = home

    @property
    def _alike(self) -> Any:
        return (OnHost, self.hook)

    def __call__(self, module: Any, *values: Any) -> None:
        """Run the hook, now or whenever the program that is being traced runs."""
        leaves, treedef, objects = flatten_args(values)
        places = [i for i, leaf in enumerate(leaves) if is_array(leaf)]
        if not any(isinstance(leaves[i], Tracer) for i in places):
            self._run(module, values)
            return
        arrays = [leaves[i] for i in places]
        static = [None if is_array(leaf) else leaf for leaf in leaves]
        index, modules = in_each_layer(module)
        own, called = weakref.ref(self), [weakref.ref(each) for each in modules]

        def run(index: Any, *arrays: Any) -> None:
            host = own()
            if host is not None:  # otherwise the hook is gone
                full = list(static)
                for i, array in zip(places, arrays, strict=True):
                    full[i] = array
                target = called[int(index)]()
                eager = target is not None and target._birth is None
                host._run(target if eager else host.home, unflatten_args(treedef, full, objects))

        jax.debug.callback(run, index, *arrays)

    def _run(self, module: Any, values: Any) -> None:
        if self.hook(module, *values) is not None:
            raise TypeError("a forward hook with on_host=True sees values and cannot replace them: return None")


def in_each_layer(module: Any) -> tuple[Any, tuple[Any, ...]]:
    """The layer of a `jm.scan_layers` whose body runs, and what `module` is in each; 0 and itself elsewhere."""
    stack = tls.stack
    modules = None if stack is None else stack.counterparts(module)
    return (0, (module,)) if stack is None or modules is None else (stack.index, modules)


def run_pre_hooks(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Forward pre-hooks: the process's, then the module's. One that returns a value replaces the arguments."""
    for owner in (GLOBAL, module.__dict__):
        for key, hook in tuple(owner["_forward_pre_hooks"].items()):
            if key in owner["_forward_pre_hooks_with_kwargs"]:
                result = hook(module, args, kwargs)
                if result is not None:
                    if not (isinstance(result, tuple) and len(result) == 2):
                        raise RuntimeError(
                            f"forward pre-hook must return None or a tuple of (new_args, new_kwargs), but got {result}."
                        )
                    args, kwargs = result
            else:
                result = hook(module, args)
                if result is not None:
                    args = result if isinstance(result, tuple) else (result,)
    return args, kwargs


def _forward_hooks(module: Any) -> list[tuple[str, int, Callable[..., Any], bool, bool]]:
    """(whose, id, hook, with kwargs, always called) of the forward hooks: the process's, then the module's."""
    return [
        (whose, key, hook, key in owner["_forward_hooks_with_kwargs"], key in owner["_forward_hooks_always_called"])
        for whose, owner in (("global module", GLOBAL), ("module", module.__dict__))
        for key, hook in owner["_forward_hooks"].items()
    ]


def run_forward(module: Any, args: Any, kwargs: Any) -> Any:
    """Forward and the forward hooks. A hook that returns a value replaces the result.

    If any of it raises, what is left of the always-called hooks is run with the result as far as it is known; a failure
    of theirs is only reported, as the first error is the one to see.
    """
    result = None
    ran: set[int] = set()
    try:
        result = module.forward(*args, **kwargs)
        for _, key, hook, with_kwargs, _ in _forward_hooks(module):
            ran.add(key)
            replaced = hook(module, args, kwargs, result) if with_kwargs else hook(module, args, result)
            result = result if replaced is None else replaced
    except Exception:
        run_always_called(module, args, kwargs, result, ran)
        raise
    return result


def run_always_called(module: Any, args: Any, kwargs: Any, result: Any, ran: Container[int] = ()) -> None:
    """The always-called hooks that are not in `ran`, after a failure."""
    for whose, key, hook, with_kwargs, always in _forward_hooks(module):
        if not always or key in ran:
            continue
        try:
            replaced = hook(module, args, kwargs, result) if with_kwargs else hook(module, args, result)
            result = result if replaced is None else replaced
        except Exception as error:
            warnings.warn(
                f"{whose} forward hook with ``always_call=True`` raised an exception that was silenced as another "
                f"error was raised in forward: {error}",
                stacklevel=2,
            )


def is_array(x: Any) -> bool:
    """Is `x` something JAX traces?"""
    return isinstance(x, jax.Array)


class BackwardHooks:
    """One call of one module with its backward hooks."""

    def __init__(self, module: Any) -> None:
        self.module = module
        own = module.__dict__
        self.pre = [*GLOBAL["_backward_pre_hooks"].values(), *own["_backward_pre_hooks"].values()]
        self.full = [*GLOBAL["_backward_hooks"].values(), *own["_backward_hooks"].values()]

    def call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Forward and the forward hooks, with the backward hooks in the way of the gradients."""
        leaves, treedef, objects = flatten_args((args, kwargs))
        places = [i for i, leaf in enumerate(leaves) if is_array(leaf)]
        boxes, values = self._surroundings()
        arrays = [leaves[i] for i in places]
        if not any(isinstance(x, Tracer) for x in (*arrays, *values)):
            return run_forward(self.module, args, kwargs)
        static = [None if is_array(leaf) else leaf for leaf in leaves]
        info: list[Any] = []

        def primal(values: list[Any], arrays: list[Any]) -> Any:
            full = list(static)
            for i, array in zip(places, arrays, strict=True):
                full[i] = array
            with overlaid(dict(zip(boxes, values, strict=True)), closed=False) as overlay:
                inner_args, inner_kwargs = unflatten_args(treedef, full, objects)
                result = run_forward(self.module, inner_args, inner_kwargs)
                out, tree, found = flatten_args(result)
                effects, written = take(overlay)
            info[:] = [tree, found, effects, [None if is_array(x) else x for x in out], _places(result)]
            return [x for x in out if is_array(x)], written

        wrapped = jax.custom_vjp(primal)
        inputs = _places(args)

        def backward(vjp: Any, cotangents: Any) -> Any:
            of_outputs, of_written = cotangents
            outputs = info[4]
            grad_output = self._run_pre(_spread(of_outputs, outputs))
            of_values, of_arrays = vjp((_gathered(grad_output, of_outputs, outputs, keep=True), of_written))
            grad_input = self._run_full(_spread(of_arrays, inputs), grad_output)
            return of_values, _gathered(grad_input, of_arrays, inputs, keep=False)

        wrapped.defvjp(lambda values, arrays: jax.vjp(primal, values, arrays), backward)
        out, written = wrapped(values, arrays)
        tree, found, effects, full, _ = info
        effects.apply(written)
        rest = iter(out)
        return unflatten_args(tree, [next(rest) if x is None else x for x in full], found)

    def _surroundings(self) -> tuple[list[Any], list[Any]]:
        """Every box that is traced here: of all overlays around, or of the module itself in a raw transform.

        A custom_vjp must not close over a value that is being differentiated, whoever owns it.
        """
        found: dict[Any, Any] = {}
        overlay = tls.overlay
        while overlay is not None:
            for box, value in overlay.values.items():
                if box not in found:
                    found[box] = value
            overlay = None if overlay.closed else overlay.parent
        for box in layout_of(self.module).boxes:
            found.setdefault(box, box.value)
        traced = [(box, value) for box, value in found.items() if isinstance(value, Tracer)]
        return [box for box, _ in traced], [value for _, value in traced]

    def _run_pre(self, grad_output: tuple[Any, ...]) -> tuple[Any, ...]:
        for hook in self.pre:
            result = hook(self.module, grad_output)
            if result is not None:
                grad_output = _checked(result, len(grad_output), "Backward pre hook", "grad_output")
        return grad_output

    def _run_full(self, grad_input: tuple[Any, ...], grad_output: tuple[Any, ...]) -> tuple[Any, ...]:
        for hook in self.full:
            result = hook(self.module, grad_input, grad_output)
            if result is not None:
                grad_input = _checked(result, len(grad_input), "Backward hook", "grad_input")
        return grad_input


def _places(values: Any) -> list[int | None]:
    """For each entry of a tuple its place among the arrays in the whole tree, None for one that is no array, as torch
    has it. Anything else than a tuple of arrays and plain values counts as all its arrays.
    """
    entries = values if isinstance(values, tuple) else (values,)
    found: list[int | None] = []
    n = 0
    for entry in entries:
        arrays = [leaf for leaf in flatten_args(entry)[0] if is_array(leaf)]
        found.append(n if is_array(entry) else None)
        n += len(arrays)
    return found if isinstance(values, tuple) or is_array(values) else list(range(n))


def _spread(gradients: list[Any], places: list[int | None]) -> tuple[Any, ...]:
    """The gradients as a hook sees them: None for what has none (no array, or one of integers)."""
    return tuple(None if n is None or gradients[n].dtype == jax.dtypes.float0 else gradients[n] for n in places)


def _gathered(shown: tuple[Any, ...], gradients: list[Any], places: list[int | None], *, keep: bool) -> list[Any]:
    """`gradients` with what hooks have made of them. A None of theirs means no gradient, or with `keep` no change."""
    found = list(gradients)
    for n, new in zip(places, shown, strict=True):
        if n is None or found[n].dtype == jax.dtypes.float0:
            continue
        if new is not None:
            found[n] = jnp.asarray(new).astype(found[n].dtype)
        elif not keep:
            found[n] = jnp.zeros_like(found[n])
    return found


def _checked(result: Any, expected: int, which: str, what: str) -> tuple[Any, ...]:
    result = result if isinstance(result, (tuple, list)) else (result,)
    if len(result) != expected:
        raise RuntimeError(f"{which} returned an invalid number of {what}, got {len(result)}, but expected {expected}")
    return tuple(result)


def _global(kind: str, hook: Callable[..., Any], *flags: str) -> RemovableHandle:
    handle = RemovableHandle.add(GLOBAL[kind], hook, also=tuple(GLOBAL[flag] for flag in flags))
    for flag in flags:
        GLOBAL[flag][handle.id] = True
    return handle


def register_module_forward_pre_hook(hook: Callable[..., Any]) -> RemovableHandle:
    """Run `hook(module, args)` before every module's forward; what it returns replaces the arguments."""
    return _global("_forward_pre_hooks", hook)


def register_module_forward_hook(
    hook: Callable[..., Any], *, with_kwargs: bool = False, always_call: bool = False
) -> RemovableHandle:
    """Run `hook(module, args, output)` after every module's forward; what it returns replaces the output."""
    flags = [("_forward_hooks_with_kwargs", with_kwargs), ("_forward_hooks_always_called", always_call)]
    return _global("_forward_hooks", hook, *itertools.compress(*zip(*flags, strict=True)))


def register_module_full_backward_pre_hook(hook: Callable[..., Any]) -> RemovableHandle:
    """Run `hook(module, grad_output)` before every module's backward; what it returns replaces the gradients."""
    return _global("_backward_pre_hooks", hook)


def register_module_full_backward_hook(hook: Callable[..., Any]) -> RemovableHandle:
    """Run `hook(module, grad_input, grad_output)` after every module's backward; its value replaces grad_input."""
    return _global("_backward_hooks", hook)


def register_module_backward_hook(hook: Callable[..., Any]) -> RemovableHandle:
    """Deprecated in torch in favour of `register_module_full_backward_hook`; here it is the same."""
    return register_module_full_backward_hook(hook)


def _registration(kind: str) -> Callable[[Callable[..., Any]], RemovableHandle]:
    def register(hook: Callable[..., Any]) -> RemovableHandle:
        return RemovableHandle.add(GLOBAL["_registration"], (kind, hook))  # pyright: ignore[reportArgumentType]

    register.__doc__ = f"Run `hook(module, name, {kind})` whenever a {kind} is registered; what it returns replaces it."
    register.__name__ = register.__qualname__ = f"register_module_{kind}_registration_hook"
    return register


register_module_parameter_registration_hook = _registration("parameter")
register_module_buffer_registration_hook = _registration("buffer")
register_module_module_registration_hook = _registration("module")


def run_registration_hooks(kind: str, module: Any, name: str, value: Any) -> Any:
    """The value to register, after the process's registration hooks. As in torch, a parameter None has none."""
    if kind == "parameter" and value is None:
        return None
    for of_kind, hook in tuple(GLOBAL["_registration"].values()):
        if of_kind == kind:
            replaced = hook(module, name, value)
            value = value if replaced is None else replaced
    return Buffer(value) if kind == "buffer" and isinstance(value, jax.Array) else value

"""Hooks: their registries, the order they run in, and how a module call is wrapped so that gradients pass them.

Hooks run while a function is traced, as under `torch.compile`, and belong to the structure, so that adding or removing
one after compilation is seen. A full backward hook wraps the module call in a `custom_vjp` whose forward is `jax.vjp` of
the call: so the hook gets `grad_input` and `grad_output` together, and may replace them.
"""

import itertools
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ..core.context import Tracer, process_keys, tls
from ..core.effects import take
from ..core.overlay import overlaid
from ..core.registry import Registry, RemovableHandle
from ..core.structure import flatten_args, layout_of, unflatten_args

#: The hook registries of a module, and of the process (`register_module_*`).
KINDS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
FLAGS = ("_forward_pre_hooks_with_kwargs", "_forward_hooks_with_kwargs", "_forward_hooks_always_called")
GLOBAL: dict[str, Registry] = {name: Registry() for name in (*KINDS, *FLAGS, "_registration")}
for _registry in GLOBAL.values():
    _registry.watched = True


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
    found = [
        (kind, tuple([(i, _Identity(hook)) for i, hook in registry.items()]))
        for kind in KINDS
        if (registry := owner[kind])
    ]
    return (*found, *[tuple(owner[flag]) for flag in FLAGS]) if found else None


process_keys.append(lambda: hooks_key(GLOBAL))


def any_global() -> bool:
    """Is any process-wide hook registered?"""
    return bool(
        GLOBAL["_forward_hooks"]
        or GLOBAL["_forward_pre_hooks"]
        or GLOBAL["_backward_hooks"]
        or GLOBAL["_backward_pre_hooks"]
    )


def on_host(hook: Callable[..., Any], module: Any, with_kwargs: bool) -> Callable[..., None]:
    """A forward hook that runs on concrete arrays, through a callback where the call is traced."""
    reference = weakref.ref(module)

    def run(*arrays: Any) -> None:
        target = reference()
        if target is not None and hook(target, *arrays) is not None:
            raise TypeError("a forward hook with on_host=True sees values and cannot replace them: return None")

    def host_hook(module: Any, *values: Any) -> None:
        if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(values)):
            jax.debug.callback(run, *values)
        else:
            run(*values)

    return host_hook


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


def run_forward_hooks(module: Any, args: Any, kwargs: Any, result: Any, ran: set[int], always_only: bool = False) -> Any:
    """Forward hooks: the process's, then the module's. One that returns a value replaces the result.

    `ran` collects the ids of those that have run, and those in it are not run again.
    """
    for owner in (GLOBAL, module.__dict__):
        for key, hook in tuple(owner["_forward_hooks"].items()):
            if key in ran or (always_only and key not in owner["_forward_hooks_always_called"]):
                continue
            ran.add(key)
            if key in owner["_forward_hooks_with_kwargs"]:
                replaced = hook(module, args, kwargs, result)
            else:
                replaced = hook(module, args, result)
            result = result if replaced is None else replaced
    return result


def run_always_called(module: Any, args: Any, kwargs: Any, result: Any, ran: set[int]) -> None:
    """Run what is left of the always-called hooks after a failure; a failure of theirs is only reported."""
    try:
        run_forward_hooks(module, args, kwargs, result, ran, always_only=True)
    except Exception as error:  # the first error is the one to see
        warnings.warn(f"forward hook with always_call=True raised an exception that was silenced: {error}", stacklevel=2)


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

    def call(self, run: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """`run(*args, **kwargs)`, with the hooks in the way of its gradients."""
        leaves, treedef, objects = flatten_args((args, kwargs))
        places = [i for i, leaf in enumerate(leaves) if is_array(leaf)]
        boxes, values = self._surroundings()
        arrays = [leaves[i] for i in places]
        if not any(isinstance(x, Tracer) for x in (*arrays, *values)):
            return run(*args, **kwargs)
        info: list[Any] = []

        def primal(values: list[Any], arrays: list[Any]) -> Any:
            full = list(leaves)
            for i, array in zip(places, arrays, strict=True):
                full[i] = array
            with overlaid(dict(zip(boxes, values, strict=True)), closed=False) as overlay:
                inner_args, inner_kwargs = unflatten_args(treedef, full, objects)
                out, tree, found = flatten_args(run(*inner_args, **inner_kwargs))
                effects, written = take(overlay)
            info[:] = [tree, found, effects]
            return [jnp.asarray(x) for x in out], written

        wrapped = jax.custom_vjp(primal)
        positions = self._positions(args, places, leaves)

        def backward(vjp: Any, cotangents: Any) -> Any:
            grad_output = tuple(_visible(g) for g in cotangents[0])
            changed = self._run_pre(grad_output)
            outputs = [new if new is not None else old for new, old in zip(changed, cotangents[0], strict=True)]
            of_values, of_arrays = vjp((outputs, cotangents[1]))
            self._run_full(of_arrays, positions, changed)
            return of_values, of_arrays

        wrapped.defvjp(lambda values, arrays: jax.vjp(primal, values, arrays), backward)
        out, written = wrapped(values, arrays)
        tree, found, effects = info
        effects.apply(written)
        return unflatten_args(tree, out, found)

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

    def _positions(self, args: tuple[Any, ...], places: list[int], leaves: list[Any]) -> list[int | None]:
        """For each positional argument its place among the traced arrays; None for one that is no array."""
        index = {id(leaves[i]): n for n, i in enumerate(places)}
        return [index.get(id(arg)) if is_array(arg) else None for arg in args]

    def _run_pre(self, grad_output: tuple[Any, ...]) -> tuple[Any, ...]:
        for hook in self.pre:
            result = hook(self.module, grad_output)
            if result is not None:
                grad_output = _checked(result, len(grad_output), "grad_output")
        return grad_output

    def _run_full(self, of_arrays: list[Any], positions: list[int | None], grad_output: tuple[Any, ...]) -> None:
        grad_input = tuple(None if n is None else _visible(of_arrays[n]) for n in positions)
        for hook in self.full:
            result = hook(self.module, grad_input, grad_output)
            if result is not None:
                grad_input = _checked(result, len(grad_input), "grad_input")
        for n, gradient in zip(positions, grad_input, strict=True):
            if n is not None and _visible(of_arrays[n]) is not None:
                old = of_arrays[n]
                of_arrays[n] = jnp.zeros_like(old) if gradient is None else jnp.asarray(gradient).astype(old.dtype)


def _visible(gradient: Any) -> Any:
    """A gradient as a hook sees it: None for what has none (integers)."""
    return None if gradient.dtype == jax.dtypes.float0 else gradient


def _checked(result: Any, expected: int, what: str) -> tuple[Any, ...]:
    result = result if isinstance(result, tuple) else (result,)
    if len(result) != expected:
        raise RuntimeError(
            f"Backward hook returned an invalid number of {what}, got {len(result)}, but expected {expected}"
        )
    return result


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
    """Run `hook(module, grad_input, grad_output)` after every module's backward; what it returns replaces grad_input."""
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
    """The value to register, after the process's registration hooks."""
    for of_kind, hook in tuple(GLOBAL["_registration"].values()):
        if of_kind == kind:
            replaced = hook(module, name, value)
            value = value if replaced is None else replaced
    return value

"""Where an error happened: each module call that an exception passes through adds a note with its path and inputs."""

import weakref
from typing import Any

import jax

from ..core.context import Tracer
from ..core.device import abstract_names
from ..core.errors import DONATED, KEEP_IT, AbstractError, StateError
from ..core.structure import Layout

_MOST_INPUTS = 6


class _Trail:
    """What has been noted on one exception so far: the last module, and for each level its note's place and parts."""

    def __init__(self) -> None:
        self.last: weakref.ref[Any] | None = None
        self.levels: list[tuple[int, str, str]] = []

    def __reduce__(self) -> Any:  # an exception is pickled with its attributes
        return _Trail, ()


def annotate(error: Exception, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Exception | None:
    """Add a note for the call of `module`, and put its name for the module below in front of the notes that are there.

    The path in a `StateError` grows likewise.

    Returns:
        An error to raise instead, which says that the module has no values so far, where that is so; else None.
    """
    without = abstract_names([*module.named_parameters(), *module.named_buffers()])
    if without:
        action = f"{module._get_name()} was called with {described(args, kwargs)}"
        if not isinstance(error, AbstractError):
            return AbstractError(without, action)
        error.what, error.names = action, without
        return None
    trail: _Trail | None = error.__dict__.get("_module_trail")
    if trail is None:
        trail = error.__dict__["_module_trail"] = _Trail()
    below = None if trail.last is None else trail.last()
    name = None
    if below is not None:
        name = next((name for name, found in module.named_modules() if found is below and name), None)
    if isinstance(error, StateError):
        _grow_path(error, module, name, inner=trail.last is None)
    if name is not None:
        trail.levels = [(place, f"{name}.{path}" if path else name, text) for place, path, text in trail.levels]
        for place, path, text in trail.levels:
            error.__notes__[place] = f"in {path}: {text}"
    what = module._get_name() if module._modules else repr(module)
    text = f"{what}, called with {described(args, kwargs)}"
    error.add_note(f"in {text}")
    trail.levels.append((len(error.__notes__) - 1, "", text))
    if trail.last is None and isinstance(error, (RuntimeError, ValueError)) and "deleted" in str(error):
        for name in _deleted(module):
            error.add_note(f"in {name}: {DONATED}\n{KEEP_IT}")
            trail.levels.append((len(error.__notes__) - 1, name, f"{DONATED}\n{KEEP_IT}"))
    trail.last = weakref.ref(module)
    return None


def _deleted(module: Any) -> list[str]:
    """The names of the boxes below `module` whose arrays JAX has deleted."""
    layout = Layout((module,))
    held = [(name, box._value) for name, box in zip(layout.names, layout.boxes, strict=False)]
    return [
        name
        for name, value in held
        if isinstance(value, jax.Array) and not isinstance(value, Tracer) and value.is_deleted()
    ]


def _grow_path(error: StateError, module: Any, name: str | None, *, inner: bool) -> None:
    if inner and error.box is not None:
        own = {**module._parameters, **module._buffers, **module.__dict__["_slots"]}
        name = next((key for key, box in own.items() if box is error.box), None)
    if name is not None:
        error.path = f"{name}.{error.path}" if error.path else name
    error.owner = repr(module) if not module._modules else module._get_name()


def described(args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """The inputs of a call in few words: dtypes and shapes."""
    parts = [_value(x) for x in args] + [f"{key}={_value(x)}" for key, x in kwargs.items()]
    if len(parts) > _MOST_INPUTS:
        parts[_MOST_INPUTS:] = ["…"]
    return ", ".join(parts) if parts else "nothing"


def _value(x: Any) -> str:
    """An array by its dtype and shape, a container by what is in it, anything else by its type or short repr."""
    if x is None or isinstance(x, (bool, int, float, str)):
        return repr(x) if len(repr(x)) <= 20 else type(x).__name__
    shape, dtype = getattr(x, "shape", None), getattr(x, "dtype", None)
    if shape is not None and dtype is not None:
        return f"{dtype}{list(shape)}"
    if type(x) in (tuple, list) and 0 < len(x) <= _MOST_INPUTS:
        inside = ", ".join(map(_value, x))
        return f"({inside})" if isinstance(x, tuple) else f"[{inside}]"
    return type(x).__name__

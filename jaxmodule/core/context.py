"""What the whole core shares: the thread's current context, the structure epoch, and JAX's trace state.

*Epoch*: one token for the whole process. Whatever changes the structure of an object that some cached layout has seen
replaces the token; a cached layout is current when it was made under the token that stands now. Tokens are compared by
identity and never reused, so a lost update between threads cannot make a stale layout look current.
"""

import threading
from collections.abc import Callable
from typing import Any

from jax.core import Tracer as Tracer

_read: Callable[[], Any] | None = None
_eager: Any = None


def trace_state() -> Any:
    """What JAX is tracing just now, comparable by ==; None in eager code.

    Eager code's state is equal in all threads and contexts (checked: meshes, precision, x64, disable_jit).
    """
    if _read is None:
        _prepare()
    state = _read()  # pyright: ignore[reportOptionalCall]
    return None if state == _eager else state


def _prepare() -> None:
    """Find JAX's function, and eager code's state, on first use: `jax.extend` is a twentieth of importing JAX."""
    global _read, _eager
    try:
        from jax.extend.core import get_opaque_trace_state as read
    except ImportError:  # pragma: no cover - where 0.10.0 keeps it
        from jax.core import get_opaque_trace_state as read  # pyright: ignore
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(read()))  # a thread of its own is in no trace
    thread.start()
    thread.join()
    _eager = found[0]
    _read = read


#: The aux data of an object that our own flatten leaves out (see `structure.flatten_args`).
HOLE = object()


class _Local(threading.local):
    """The context of one thread. Class attributes are every thread's starting values."""

    overlay: Any = None  # the innermost Overlay, or None in eager code
    collector: Any = None  # a list while our own flatten wants Stateful objects as holes, see structure.flatten_args
    restore: Any = None  # an iterator while our own unflatten puts them back
    no_grad: bool = False
    cached: bool = False  # inside a block of parametrize.cached
    autocast: Any = None  # what jm.autocast has set: a dtype and the name of its lists; hashable
    captures: tuple[Any, ...] = ()  # the active jm.capture blocks, outermost first
    ambient: tuple[Any, ...] = (False,)  # no_grad, cached, autocast, captures: part of the key of a compiled program
    generator: Any = None  # the Generator of the innermost use_rng block, or None
    alike: bool = False  # structures are being compared with hooks taken by what they do, not by their handles
    stack: Any = None  # the layers of the jm.scan_layers whose body is being traced


tls = _Local()
#: The ambient key of ordinary code; `tls.ambient is PLAIN` is the one check a module call makes of the modes.
PLAIN = _Local.ambient


def alike(hook: Any) -> Any:
    """What two hooks of equal layers have in common: the function, or what one of the library's own stands for."""
    return getattr(hook, "_alike", hook)


_AS_IT_IS: Any = object()


def set_ambient(
    *,
    no_grad: bool | None = None,
    captures: tuple[Any, ...] | None = None,
    cached: bool | None = None,
    autocast: Any = _AS_IT_IS,
) -> None:
    """Change this thread's modes, and the key that compiled programs know them by."""
    if no_grad is not None:
        tls.no_grad = no_grad
    if cached is not None:
        tls.cached = cached
    if captures is not None:
        tls.captures = captures
    if autocast is not _AS_IT_IS:
        tls.autocast = autocast
    cast = () if tls.autocast is None else (tls.autocast,)
    ambient = (tls.no_grad, *(("cached",) if tls.cached else ()), *cast, *[capture.key for capture in tls.captures])
    tls.ambient = PLAIN if ambient == PLAIN else ambient  # ordinary code tests it by identity


def modes() -> dict[str, Any]:
    """This thread's modes, as `set_ambient` takes them."""
    return {"no_grad": tls.no_grad, "cached": tls.cached, "captures": tls.captures, "autocast": tls.autocast}


class _Epoch:
    __slots__ = ("token",)

    def __init__(self) -> None:
        self.token = object()


epoch = _Epoch()


#: Functions that give the parts of a program's key that belong to the whole process (global hooks). A change in what
#: one gives must `touch` the epoch.
process_keys: list[Callable[[], Any]] = []


def touch() -> None:
    """Say that a structure has changed. Call it after the change, never before."""
    epoch.token = object()

"""The overlay: where boxes are read and written while a function is traced.

A transform pushes an `Overlay` that maps boxes to their values in this trace, runs the function, and takes the boxes
that were *written* as extra outputs; the objects themselves are never touched. So an exception rolls everything back,
no tracer can stay in an object, threads trace independently, and nesting is a stack.

An overlay is *closed* (`jit`: what it does not hold is not part of the program, reading it is an error) or
*transparent* (`grad`: what it does not hold is read from the overlay below, or from the object).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from jax import ShapeDtypeStruct

from .context import Tracer, tls, touch, trace_state
from .errors import AbstractError, ClosedOverError, EscapedError, ForeignTraceError

MISSING: Any = object()
ORDER: Any = object()
_COMPARABLE = frozenset({str, bytes, int, bool, float})


class _Escaped:
    """The value of a box that was born in a trace which has ended."""


ESCAPED: Any = _Escaped()

CLOSED_OVER = (
    "a function compiled by jm.jit uses it, but it does not belong to any of the function's arguments.\n"
    "It would be baked into the program as a constant and go stale."
)
PASS_IT = (
    "Pass the module (optimizer, generator) as an argument:\n"
    "    @jm.jit\n    def step(model, x): ...\n    step(model, x)"
)
_FOREIGN = (
    "it is written inside a raw JAX transform (jax.jit, jax.grad, jax.vmap, jax.lax.scan, ...), "
    "which would lose the new value."
)
_USE_JM = (
    "Use the transform of the same name in jaxmodule (jm.jit, jm.grad, jm.value_and_grad, ...), "
    "which writes the state back;\n"
    "or `out, written = jm.functional_call(model, state, args, mutable=True)`; or `model.eval()` if it should stay."
)


class Entry(NamedTuple):
    """A mapping that a trace has changed: what it held before, and the trace that its owner was made in."""

    mapping: dict[Any, Any]
    before: dict[Any, Any]
    birth: Any

    def changes(self) -> Iterator[tuple[Any, Any, Any]]:
        """(key, before, now) of what differs, `MISSING` where it isn't there; `ORDER` for the key if only that does."""
        for key in {**self.before, **self.mapping}:
            old, new = self.before.get(key, MISSING), self.mapping.get(key, MISSING)
            if old is not new and not (type(old) is type(new) and type(old) in _COMPARABLE and old == new):
                yield key, old, new
        if self.before.keys() == self.mapping.keys() and list(self.before) != list(self.mapping):
            yield ORDER, MISSING, MISSING


class Overlay:
    """Boxes' values in one trace, and what the trace did: writes, births, emissions and structural changes."""

    __slots__ = (
        "born",
        "closed",
        "copies",
        "derived",
        "emitted",
        "fork",
        "journal",
        "met",
        "parent",
        "state",
        "undo",
        "values",
        "written",
    )

    def __init__(self, values: dict[Any, Any], *, closed: bool) -> None:
        self.values = values
        self.closed = closed
        self.state = trace_state()
        self.parent: Overlay | None = tls.overlay
        self.written: dict[Any, None] = {}  # in order of first write
        self.born: dict[Any, None] = {}
        self.copies: dict[Any, Any] = {}  # container boxes handed out as copies, with what the copy held
        self.derived: dict[Any, Any] = {}  # what was computed from boxes and may be used again in this trace
        self.emitted: list[tuple[Any, Any, Any]] = []  # (sink, key, value): values on their way out, see `emit`
        self.journal: dict[int, Entry] = {}  # by the mapping's id
        self.met: dict[int, Any] = {}  # objects made outside that the trace uses, by id, see `meet`
        self.undo: list[Callable[[], None]] = []  # the same for changes of class
        self.fork: Callable[[Any, Any], Any] | None = None  # (box, value below) -> a random state of this trace's own

    def lookup(self, box: Any) -> Any:
        """The value of `box` in this trace, `MISSING` where nothing below a closed overlay may be read."""
        overlay: Overlay | None = self
        while overlay is not None:
            value = overlay.values.get(box, MISSING)
            if value is not MISSING:
                return value
            if overlay.fork is not None and box._random:
                return overlay._forked(box)
            if overlay.closed:
                # A box made inside a raw transform inside this trace holds its own tracer.
                return box._value if box._birth is not None else MISSING
            overlay = overlay.parent
        return box._value

    def _forked(self, box: Any) -> Any:
        """The state of a generator that this trace meets for the first time."""
        below = box._value if self.parent is None else self.parent.lookup(box)
        if below is MISSING or self.fork is None:
            return below
        forked = self.fork(box, below)
        if trace_state() == self.state:  # what an inner trace computes belongs to that trace
            self.values[box] = forked
        return forked

    def read(self, box: Any) -> Any:
        value = self.lookup(box)
        if value is MISSING:
            raise ClosedOverError(CLOSED_OVER, PASS_IT, box)
        if value is ESCAPED:
            raise_escaped(box)
        if type(value) is ShapeDtypeStruct and trace_state() is not None:  # JAX would take it, and fail at the end
            raise AbstractError([], f"a {type(box).__name__} of shape {value.shape} was used in a computation")
        return box._enter(self, value) if box._container else value

    def roll_back(self) -> None:
        """Undo the structural changes of a trace that failed."""
        for mapping, before, _ in self.journal.values():
            dict.clear(mapping)
            dict.update(mapping, before)
        for undo in reversed(self.undo):
            undo()
        if self.journal or self.undo:
            touch()

    def settle(self) -> None:
        """Turn what happened in place to the copies of containers into writes."""
        for box, before in self.copies.items():
            if box not in self.written and box._changed(self.values[box], before):
                self.written[box] = None


def raise_escaped(box: Any) -> None:
    """Raise for a box whose trace has ended."""
    raise EscapedError(
        "it was made while a function was traced, and the trace has ended.",
        "Return the module from the function, or make it outside and pass it in.",
        box,
    )


def read(box: Any) -> Any:
    """The value of `box` here and now."""
    overlay = tls.overlay
    if overlay is not None:
        return overlay.read(box)
    if box._value is ESCAPED:
        raise_escaped(box)
    return box._value


def write(box: Any, value: Any) -> None:
    """Set the value of `box`: in the overlay while tracing, in the box in eager code; an error in a foreign trace."""
    overlay: Overlay | None = tls.overlay
    state = trace_state()
    if overlay is not None and state == overlay.state:
        if overlay.lookup(box) is MISSING:
            raise ClosedOverError(CLOSED_OVER, PASS_IT, box)
        overlay.values[box] = value
        overlay.written[box] = None
        return
    if state == box._birth and (overlay is None or state is not None):
        box._set_raw(value)
        return
    raise ForeignTraceError(box._foreign or _FOREIGN, box._remedy or _USE_JM, box)


def birth(box: Any, value: Any) -> None:
    """Give a new box its first value, in the overlay of the trace that makes it."""
    overlay: Overlay | None = tls.overlay
    state = trace_state()
    if overlay is not None and state == overlay.state:
        box._birth = None
        box._set_raw(ESCAPED)
        overlay.values[box] = value
        overlay.born[box] = None
    else:
        box._birth = state
        box._set_raw(value)


def settle_beside(new: Any, box: Any, value: Any) -> None:
    """Let a box that was just made be at home where `box` is, not in the trace that happened to make it."""
    here: Overlay | None = tls.overlay
    if here is not None:
        here.values.pop(new, None)
        here.born.pop(new, None)
    home = here
    while home is not None and box not in home.born:
        home = home.parent
    new._birth = box._birth
    if home is None:
        new._set_raw(value)
    else:
        home.values[new] = value
        home.born[new] = None


def check_attribute(value: Any, home: Any) -> None:
    """Raise where a traced `value` is to become an attribute of an object that does not live in that trace.

    `home` is the trace state that the object was made in, None for eager code.
    """
    if isinstance(value, Tracer):
        overlay: Overlay | None = tls.overlay
        state = trace_state()
        if state not in (None if overlay is None else overlay.state, home):
            raise ForeignTraceError(_FOREIGN.replace("written", "assigned a traced array"), _USE_JM)


def journal(mapping: dict[Any, Any], birth: Any = None) -> None:
    """Remember `mapping` as it is before the first change of the current trace, so that a failure can undo it.

    `birth` is the trace state that its owner was made in.
    """
    overlay: Overlay | None = tls.overlay
    if overlay is not None and id(mapping) not in overlay.journal:
        overlay.journal[id(mapping)] = Entry(mapping, dict(mapping), birth)


def meet(node: Any) -> None:
    """Note that a trace uses an object: of a closed overlay's program it may be no argument."""
    overlay: Overlay | None = tls.overlay
    if node._birth is None:
        while overlay is not None and not overlay.closed:
            overlay = overlay.parent
        if overlay is not None:
            overlay.met[id(node)] = node


def on_roll_back(undo: Callable[[], None]) -> None:
    """Call `undo` if the current trace fails."""
    if tls.overlay is not None:
        tls.overlay.undo.append(undo)


def emit(sink: Any, key: Any, value: Any) -> None:
    """Hand `value` to `sink.receive(key, value)` as a concrete array, out of whatever is being traced."""
    overlay: Overlay | None = tls.overlay
    if trace_state() != (None if overlay is None else overlay.state):
        raise ForeignTraceError("a value is to be captured inside a raw JAX transform.", "Use the jaxmodule one.")
    if overlay is None:
        sink.receive(key, value)
    else:
        overlay.emitted.append((sink, key, value))


@contextmanager
def overlaid(values: dict[Any, Any], *, closed: bool) -> Iterator[Overlay]:
    """Run a block under a new overlay; undo its structural changes if it raises."""
    overlay = Overlay(values, closed=closed)
    tls.overlay = overlay
    try:
        yield overlay
    except BaseException:
        overlay.roll_back()
        raise
    finally:
        tls.overlay = overlay.parent
        if overlay.parent is not None:
            for key, entry in overlay.journal.items():
                overlay.parent.journal.setdefault(key, entry)
            overlay.parent.undo += overlay.undo

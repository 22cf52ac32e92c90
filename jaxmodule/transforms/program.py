"""Compiled programs: a function of objects as a pure function of arrays, and what its outputs mean.

A `Program` belongs to one structure. Each of its traces describes itself in a `Spec`, which travels as the aux data of
the output pytree: so whatever trace JAX picks for a call, the caller gets that trace's description with the arrays.
"""

import operator
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import jax

from ..core.box import Box
from ..core.context import Tracer, tls, trace_state
from ..core.device import is_abstract
from ..core.effects import Effects, take
from ..core.errors import DONATED, KEEP_IT, AbstractError, ClosedOverError, StateError
from ..core.freeze import traced
from ..core.overlay import CLOSED_OVER, PASS_IT, Overlay, meet, overlaid
from ..core.parameter import GradBox, ParamName
from ..core.registry import Registry
from ..core.structure import Layout, flatten_args, layout_of, unflatten_args

_MOST_ATTEMPTS = 100
_DRAWN = f"{_MOST_ATTEMPTS} times in a row others have drawn from this generator while a compiled function did."
_OWN_GENERATOR = (
    "Other threads, or a callback in the function, draw from it all the time. Give each a generator of its own:\n"
    "`with jm.use_rng(jm.Generator(seed)): ...`."
)
_NOTHING = nullcontext()
_raw_value = operator.attrgetter("_value")


class Spec:
    """What one trace of a program found, kept in the output's treedef so that it belongs to that trace's outputs."""

    __slots__ = ("effects", "objects", "out_tree", "renames", "structural")

    def __init__(self) -> None:
        self.effects: Effects
        self.out_tree: Any = None
        self.objects: list[tuple[str, Any]] = []
        self.renames: list[tuple[Any, list[int]]] = []
        self.structural = False


class Result:
    """A traced call's outputs with their description.

    It must come back from JAX as a pytree of arrays too: a result with any other leaf keeps JAX from its fast path in
    C++, and each call then runs Python for every tensor (tests/test_structure.py counts it).
    """

    __slots__ = ("arrays", "spec")

    def __init__(self, spec: Spec, arrays: tuple[list[Any], list[Any]]) -> None:
        self.spec = spec
        self.arrays = arrays


jax.tree_util.register_pytree_node(Result, lambda r: (r.arrays, r.spec), Result)


class Plan:
    """How to call a program with particular objects: where their boxes are."""

    __slots__ = ("_generators", "_roots", "_written", "layout", "program", "targets", "watchers")

    def __init__(self, layout: Layout, program: Any) -> None:
        self.layout = layout
        self.program = program
        self.targets = layout.targets()
        self._written: dict[Spec, tuple[list[Box], bool, bool]] = {}
        self._generators: list[Any] = sorted((box for box in layout.boxes if box._random), key=id)
        # Those of the active captures that want to know of every call's end; a plan is for one set of captures.
        self.watchers = tuple([capture for capture in tls.captures if hasattr(capture, "returned")])

    def current(self) -> bool:
        """Is everything still as it was when the plan was made?"""
        return self.layout.current() and (not self.program.strangers or self.program.fresh())

    def call(self, objects: list[Any], leaves: list[Any]) -> Any:
        """Run the program on these objects, whose layout the plan has; returns the function's value."""
        eager = tls.overlay is None and trace_state() is None
        if self.program.donate and self.program.draws and eager:  # it can run only once
            with self._drawing():
                return self._attempt(objects, leaves, eager)
        for _ in range(_MOST_ATTEMPTS):
            found = self._attempt(objects, leaves, eager)
            if found is not None:
                return found
        raise StateError(_DRAWN, _OWN_GENERATOR, self._generators[-1])

    @contextmanager
    def _drawing(self) -> Iterator[None]:
        """The block in which no other thread draws from the generators among the objects."""
        with ExitStack() as stack:
            for box in self._generators:
                stack.enter_context(box.lock)
            yield

    def _attempt(self, objects: list[Any], leaves: list[Any], eager: bool) -> Any:
        """One run; None, with nothing done, if another thread has drawn the same random numbers meanwhile."""
        program = self.program
        before = list(map(_raw_value, self._generators))
        values = self.layout.values()
        if program.donate:
            values = _unaliased(values, self.layout.boxes, leaves)
        program.pending.call = (self.layout, objects, False)
        try:
            result = program.compiled(values, leaves)
        except Exception as error:
            _explain(error, self.layout, values)
            raise
        finally:
            program.pending.call = None
        if program.strangers and tls.overlay is not None:  # the program around depends on them as well
            for ref, _ in program.strangers:
                meet(ref())
        spec = result.spec
        out, arrays = result.arrays
        written = self._written.get(spec)
        if written is None:
            boxes = [self.targets[i] for i in spec.effects.boxes]
            plain, draws = not any(isinstance(box, GradBox) for box in boxes), any(box._random for box in boxes)
            written = self._written[spec] = (boxes, plain, draws)
            program.draws |= draws
        boxes, plain, draws = written
        alone = draws and eager
        with self._drawing() if alone else _NOTHING:
            if alone and not program.donate and any(map(operator.is_not, map(_raw_value, self._generators), before)):
                return None
            spec.effects.apply(arrays, self.member, boxes, plain and eager)
        for watcher in self.watchers:
            watcher.returned()
        return spec, output(spec, out, self.member)

    def lower(self, objects: list[Any], leaves: list[Any]) -> Any:
        """JAX's `Lowered` of the program. What its trace changed in the objects' structure is undone."""
        program = self.program
        program.pending.call = (self.layout, objects, True)
        try:
            return program.compiled.lower(self.layout.values(), leaves)
        finally:
            program.pending.call = None

    def member(self, place: Any) -> Any:
        """The box or object with a number (see `describe`), of those that this plan is for."""
        if not isinstance(place, int):
            return place
        n = len(self.targets)
        return self.targets[place] if place < n else self.layout.nodes[place - n]()

    def watch(self, objects: list[Any], forget: Callable[[Any], None]) -> None:
        """Call `forget` as soon as one of the objects is gone: the plan holds boxes, and must not outlive them."""
        self._roots = [weakref.ref(obj, forget) for obj in objects]


def output(spec: Spec, out: list[Any], member: Callable[[Any], Any]) -> Any:
    """What the function returned, with this call's objects in it."""
    if not spec.objects and not spec.renames:
        return jax.tree_util.tree_unflatten(spec.out_tree, out)
    objects = []
    end = len(out)
    for kind, what in reversed(spec.objects):
        if kind == "tree":
            tree, start = what
            objects.append(jax.tree_util.tree_unflatten(tree, out[start:end]))
            end = start
        else:
            objects.append(member(what))
    value = unflatten_args(spec.out_tree, out[:end], objects[::-1])
    _rename(value, spec.renames, member)
    return value


def _name(error: StateError, layout: Layout, objects: list[Any]) -> None:
    """Say which box of the arguments an error is about, if no module call that it passed has done so."""
    boxes = [*layout.boxes[: len(layout.names)], *[box for box, _ in layout.cells]]
    for box, name in zip(boxes, [*layout.names, *layout.cell_names], strict=True):
        if box is error.box and not error.path:
            error.path, error.owner = name, type(objects[0]).__name__


def _unaliased(values: list[Any], boxes: list[Box], leaves: list[Any]) -> list[Any]:
    """The values to donate: what else is a reference to one array, and generators' states, are replaced by copies."""
    seen = set(map(id, leaves))
    for i, value in enumerate(values):
        if id(value) in seen or (i < len(boxes) and boxes[i]._foreign):
            values[i] = value.copy()
        seen.add(id(values[i]))
    return values


def _explain(error: Exception, layout: Layout, values: list[Any]) -> None:
    """Raise a better error where a call failed for an array that isn't there, or was given to an earlier call.

    Where the call itself failed after it was given arrays, a note says so.
    """
    without = [name for value, name in zip(values, layout.names, strict=False) if is_abstract(value)]
    if without:
        raise AbstractError(without, "a compiled function was called with a model") from error
    for value, box, name in zip(values, layout.boxes, [*layout.names, *[None] * len(values)], strict=False):
        if isinstance(value, jax.Array) and not isinstance(value, Tracer) and value.is_deleted():
            if not any(word in str(error) for word in ("deleted", "donated")):
                error.add_note(f"{name or 'A gradient'} and what else was donated to this call is gone: load a state.")
                return
            better = StateError(DONATED, KEEP_IT, box)
            better.path, better.owner = name or "a parameter's gradient", "an argument"
            raise better from error


class Program:
    """A `jax.jit` function of one structure; it is traced again by JAX for other shapes and dtypes.

    Args:
        function: the user's.
        treedef: the tree of its arguments, with holes for objects.
        statics: its static arguments.
        donate: whether all boxes' arrays are donated.
        arrangement: single donated arguments, and shardings.
        history: called with (treedef, statics, objects, values, leaves) by every trace.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        treedef: Any,
        statics: Any,
        donate: bool,
        arrangement: Any = None,
        history: Callable[..., None] | None = None,
    ) -> None:
        self.function = function
        self.treedef = treedef
        self.statics = statics
        self.arrangement = arrangement
        self.donate = donate and arrangement is None
        self.history = history
        self.pending = threading.local()
        self.draws = False  # has a trace drawn random numbers?
        self.strangers: list[tuple[weakref.ref[Any], Any]] = []  # with the structure that they had, see `strangers`

        def pure(values: list[Any], leaves: list[Any]) -> Result:
            return self._pure(values, leaves)

        pure.__name__ = pure.__qualname__ = getattr(function, "__name__", "function")  # names the program in profiles
        self.compiled: Any
        if arrangement is None:
            self.compiled = jax.jit(pure, donate_argnums=(0,) if donate else ())
        else:
            self.compiled = arrangement.compile(pure)

    def _pure(self, values: list[Any], leaves: list[Any]) -> Result:
        layout, objects, lowering = self.pending.call
        if self.history is not None and not lowering:
            self.history(self.treedef, self.statics, objects, values, leaves)
        with tracing(layout, values) as overlay:
            args, kwargs = unflatten_args(self.treedef, leaves, objects)
            try:
                out = self.function(*self.statics.merge(args), **kwargs, **self.statics.kwargs)
            except StateError as error:
                _name(error, layout, objects)
                raise
            if self.donate:  # what is donated and not written comes back as it is, or the box would hold a dead array
                for box in (*layout.boxes, *[box for box, _ in layout.cells]):
                    overlay.written.setdefault(box)
            if self.arrangement is not None:
                out = self.arrangement.finish(overlay, layout, out)
            spec, out_leaves, arrays = describe(overlay, layout, objects, out)
            found = strangers(overlay, layout)
            if lowering:
                overlay.roll_back()
        known = [ref() for ref, _ in self.strangers]
        new = [node for node in found if not any(node is other for other in known)]
        self.strangers += [(weakref.ref(node), layout_of(node).structure) for node in new]
        return Result(spec, (out_leaves, arrays))

    def fresh(self) -> bool:
        """Are the objects that it uses beside its arguments as they were when it was traced?"""
        found = [(ref(), structure) for ref, structure in self.strangers]
        return all(node is not None and layout_of(node).structure is structure for node, structure in found)


@contextmanager
def tracing(layout: Layout, values: list[Any]) -> Iterator[Overlay]:
    """The closed overlay in which the boxes of `layout` have `values`."""
    bound, containers = layout.bind(values)
    with overlaid(bound, closed=True) as overlay:
        for box, container in containers:
            box._hand_out(overlay, container)
        yield overlay


def describe(overlay: Overlay, layout: Layout, objects: list[Any], out: Any) -> tuple[Spec, list[Any], list[Any]]:
    """The outputs of a traced call: the function's own, with references for the objects in it, and the effects."""
    spec = Spec()
    _check_watched(layout)
    after = Layout(objects) if overlay.journal or overlay.undo else layout
    targets = layout.targets()
    position = {id(member): i for i, member in enumerate([*targets, *[ref() for ref in layout.nodes]])}
    spec.structural = after.structure is not layout.structure or set(map(id, after.targets())) != set(map(id, targets))
    changed = [_changed(overlay, node) for node in strangers(overlay, layout, after)]
    spec.structural |= True in changed
    kept = [box for box in after.targets() if box in overlay.born] if spec.structural else []
    effects, arrays = take(overlay, kept)

    def place(member: Any) -> Any:
        spec.structural |= id(member) not in position  # a container was given an object that is no argument's
        return position.get(id(member), member)

    spec.effects = effects.located(place)
    paths, _ = jax.tree_util.tree_flatten_with_path(out)
    spec.renames = _renames(paths, position)
    leaves, spec.out_tree, found = flatten_args(out)
    here = {id(member) for member in (*kept, *[ref() for ref in after.nodes])}
    for item in found:
        if id(item) in position and not spec.structural:
            spec.objects.append(("place", position[id(item)]))
        elif id(item) in position or id(item) in here or not _born(item, overlay):
            spec.objects.append(("place", item))
        else:
            inside, tree = jax.tree_util.tree_flatten(item)
            spec.objects.append(("tree", (tree, len(leaves))))
            leaves += inside
    return spec, leaves, arrays


def _check_watched(layout: Layout) -> None:
    """Raise where a tracer was put into a plain Python object that a module holds: it would stay there."""
    for value, _, name in layout.watched:
        if traced(value):
            raise StateError(
                f"a traced array was put into {name!r}, a {type(value).__name__}, and can't get out of the trace.",
                "Keep arrays in attributes of the module itself, in a dict or list there, or return them.",
            )


def strangers(overlay: Overlay, *layouts: Layout) -> list[Any]:
    """The objects that a trace used though they are in no argument: a loss module, say, that the function closes over.

    They are read while it is traced, so a program depends on their structure; arrays of theirs can't be read.
    """
    known = {id(ref()) for layout in layouts for ref in layout.nodes}
    return [node for node in overlay.met.values() if id(node) not in known]


def _changed(overlay: Overlay, node: Any) -> bool:
    """Did a trace change the structure of an object?

    Raises:
        ClosedOverError: it gave it an array, which could not get out of the trace.
    """
    own = node.__dict__
    mappings = [own, *[value for value in own.values() if isinstance(value, Registry)]]
    changes = [c for m in mappings if id(m) in overlay.journal for c in overlay.journal[id(m)].changes()]
    for key, _, new in changes:
        if isinstance(new, Box) and new in overlay.born:
            error = ClosedOverError(CLOSED_OVER, PASS_IT, new)
            error.path, error.owner = str(key), type(node).__name__
            raise error
    return bool(changes)


def _born(item: Any, overlay: Overlay) -> bool:
    """Was a box or object made in this trace?"""
    if isinstance(item, Box):
        return item in overlay.born
    return item._birth == overlay.state or any(box in overlay.born for box in Layout((item,)).targets())


def _renames(paths: list[tuple[Any, Any]], position: dict[int, int]) -> list[tuple[Any, list[int]]]:
    """The gradient dicts in an output: where they are, and which boxes their names stand for."""
    found: dict[Any, list[int]] = {}
    for path, _ in paths:
        for depth, key in enumerate(path):
            name = getattr(key, "key", None)
            box = name.box if isinstance(name, ParamName) else None
            if id(box) in position:
                found.setdefault(path[:depth], []).append(position[id(box)])
                break
    return list(found.items())


def _rename(out: Any, renames: list[tuple[Any, list[int]]], member: Callable[[Any], Any]) -> None:
    """Let gradient dicts name the boxes of this call's objects, not those of the objects that were traced."""
    for path, places in renames:
        grads = out
        for key in path:
            if isinstance(key, jax.tree_util.SequenceKey):
                grads = grads[key.idx]
            else:
                grads = grads[key.key] if isinstance(key, jax.tree_util.DictKey) else getattr(grads, key.name)
        first = next(iter(grads))
        if first.box is not member(places[0]) and len(grads) == len(places):
            items = [(ParamName(str(k), member(i)), v) for (k, v), i in zip(grads.items(), places, strict=True)]
            grads.clear()
            grads.update(items)

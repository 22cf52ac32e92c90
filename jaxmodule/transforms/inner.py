"""What the transforms other than `jit` and `grad` share: running a function of objects inside a JAX transform.

The function runs under a transparent overlay. What it reads comes from around it, as JAX allows; what it writes leaves
the transform as extra outputs and is then written around it. Objects in arguments and results are *sealed*: one that
was there before stands for itself and carries no arrays, one that was made inside carries its arrays.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import jax

from ..core.box import Box, unbox
from ..core.context import tls, trace_state
from ..core.errors import StateError
from ..core.freeze import Encoding, Node, encode, rebuild
from ..core.overlay import MISSING, ORDER, Overlay, birth, emit, overlaid, read, write
from ..core.structure import Layout

T = TypeVar("T")


class Ref:
    """An object in a sealed tree: no arrays, and equal only to itself."""

    __slots__ = ("target",)

    def __init__(self, obj: Any) -> None:
        self.target = obj


class _Identity:
    __slots__ = ("target",)

    def __init__(self, obj: Any) -> None:
        self.target = obj

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Identity) and self.target is other.target

    def __hash__(self) -> int:
        return id(self.target)

    def __repr__(self) -> str:
        return f"<this {type(self.target).__name__}>"


class Made:
    """An object that was made inside a transform: its arrays, and how to put it together."""

    __slots__ = ("leaves", "tree")

    def __init__(self, leaves: Any, tree: Any) -> None:
        self.leaves = leaves
        self.tree = tree


jax.tree_util.register_pytree_node(Ref, lambda r: ((), _Identity(r.target)), lambda aux, _: Ref(aux.target))
jax.tree_util.register_pytree_node(Made, lambda m: (m.leaves, m.tree), lambda tree, leaves: Made(leaves, tree))


def _is_object(x: Any) -> bool:
    return isinstance(x, (Node, Box))


def seal(tree: Any, overlay: Overlay | None = None) -> Any:
    """A tree of arrays only. `overlay`: of the trace that ends, whose new objects carry their arrays; a box in a result
    is its array.
    """

    def one(x: Any) -> Any:
        if overlay is None:
            return Ref(x) if _is_object(x) else x
        if isinstance(x, Box):
            return unbox(x)
        if isinstance(x, Node):
            return Made(*jax.tree_util.tree_flatten(x)) if _made_in(overlay, x) else Ref(x)
        return x

    return jax.tree.map(one, tree, is_leaf=_is_object)


def _made_in(overlay: Overlay, node: Any) -> bool:
    return node._birth == overlay.state or any(box in overlay.born for box in Layout((node,)).targets())


def unseal(tree: Any) -> Any:
    """The inverse of `seal`."""

    def one(x: Any) -> Any:
        if isinstance(x, Ref):
            return x.target
        return jax.tree_util.tree_unflatten(x.tree, x.leaves) if isinstance(x, Made) else x

    return jax.tree.map(one, tree, is_leaf=lambda x: isinstance(x, (Ref, Made)))


class States:
    """The values of some boxes as a list of pytrees, in and out of a transform."""

    def __init__(self, boxes: Iterable[Box]) -> None:
        self.boxes = list(boxes)
        self._encodings: dict[Box, Encoding] = {}

    def read(self) -> list[Any]:
        """The values here and now."""
        values: list[Any] = []
        for box in self.boxes:
            value = read(box)
            if box._container:
                encoding = encode(value)
                self._encodings[box] = encoding.stripped()
                value = encoding.arrays
            values.append(value)
        return values

    def enter(self, overlay: Overlay, values: Sequence[Any]) -> None:
        """Let the boxes have these values in `overlay`."""
        for box, value in zip(self.boxes, values, strict=True):
            if box._container:
                box._hand_out(overlay, rebuild(self._encodings[box], value))  # pyright: ignore
            else:
                overlay.values[box] = value

    def leave(self, overlay: Overlay, boxes: Iterable[Box] | None = None) -> list[Any]:
        """What the boxes (or these of them) hold at the end of a trace."""
        return [self._left(box, overlay.values[box]) for box in (self.boxes if boxes is None else boxes)]

    def _left(self, box: Box, value: Any) -> Any:
        if not box._container:
            return value
        encoding = encode(value)
        if not encoding.same_shape(self._encodings[box]):
            raise StateError(
                "a container in it has other keys, another length or other objects after the body than before.",
                "In a loop or a branch a container keeps its form: give it its full size before.",
                box,
            )
        return encoding.arrays

    def write(self, values: Sequence[Any], boxes: Iterable[Box] | None = None) -> None:
        """Write values that have left a transform, where it was called."""
        for box, value in zip(self.boxes if boxes is None else boxes, values, strict=True):
            write(box, rebuild(self._encodings[box], value) if box._container else value)

    def put_back(self, values: Sequence[Any], *bodies: "Body") -> None:
        """Write the values of those boxes that one of the bodies wrote."""
        written = {box for body in bodies for box in body.written}
        kept = [(box, value) for box, value in zip(self.boxes, values, strict=True) if box in written]
        self.write([value for _, value in kept], [box for box, _ in kept])


class NewWrites(Exception):
    """A transform that has been traced to its end is to be traced again, with these boxes going through it."""

    def __init__(self, boxes: list[Box]) -> None:
        super().__init__()
        self.boxes = boxes


def repeated(attempt: Callable[[list[Box]], T]) -> T:
    """Call `attempt` with the boxes that are to go through a transform, until it asks for no more by `NewWrites`."""
    boxes: list[Box] = []
    while True:
        try:
            return attempt(boxes)
        except NewWrites as more:
            boxes = [*boxes, *more.boxes]


def undo(overlay: Overlay) -> None:
    """Undo the structural changes of a trace that goes on to its end, though it is to be done again.

    To raise in it would be simpler. But of a trace that an exception ends, JAX keeps the tracers for as long as any
    array lives that it closes over.
    """
    overlay.roll_back()
    overlay.journal.clear()
    overlay.undo.clear()


def settled(trace: Callable[[States], tuple[T, Sequence["Body"]]]) -> tuple[States, T]:
    """Trace a transform's functions until all boxes that they write go through it.

    Args:
        trace: traces them to the end with these states going through, and returns what it made and the bodies.

    Returns:
        The states that go through, and what `trace` made last.
    """
    boxes: list[Box] = []
    while True:
        states = States(boxes)
        made, bodies = trace(states)
        more = dict.fromkeys(box for body in bodies for box in body.unknown)
        if not more:
            return states, made
        boxes = [*boxes, *more]


def once(function: Callable[..., T], *examples: Any) -> Callable[..., T]:
    """A function of pytrees of arrays, traced once, for JAX to trace again without running Python."""
    from jax.extend.core import jaxpr_as_fun  # a twentieth of importing JAX

    jaxpr, shapes = jax.make_jaxpr(function, return_shape=True)(*examples)
    tree = jax.tree.structure(shapes)
    run = jaxpr_as_fun(jaxpr)
    return lambda *args: jax.tree.unflatten(tree, run(*jax.tree.leaves(args)))


class Body:
    """One run of a function inside a transform, and what it did besides returning a value.

    Args:
        once_only: the transform, for a message, if its function runs never or many times and may therefore not change
            the structure of what was there before.
        births: whether it may set attributes that were not there before all the same.

    Attributes:
        overlay: where it ran.
        written: the boxes that it wrote and did not make, in order.
        unknown: those of them that do not go through the transform: it is to be traced again with them.
        sinks: (sink, key) of the values that it emitted.
        born: the boxes that it made and gave to objects, with the encoding of those that hold no array (`extras`).
    """

    def __init__(self, once_only: str = "", *, births: bool = False) -> None:
        self.once_only = once_only
        self.births = births
        self._around = [None, trace_state()]
        outer: Overlay | None = tls.overlay
        while outer is not None:
            self._around.append(outer.state)
            outer = outer.parent
        self.overlay: Overlay
        self.written: list[Box] = []
        self.unknown: list[Box] = []
        self.sinks: list[tuple[Any, Any]] = []
        self.born: list[tuple[Box, Encoding | None]] = []

    @contextmanager
    def run(self, *entering: tuple[States, Sequence[Any]], known: bool = True) -> Iterator[Overlay]:
        """The overlay to run the function in.

        Args:
            entering: the states that go through the transform.
            known: whether it may write to no other boxes than theirs.
        """
        with overlaid({}, closed=False) as overlay:
            for states, values in entering:
                states.enter(overlay, values)
            self.overlay = overlay
            yield overlay
            overlay.settle()
            if self.once_only:
                self._check_structure()
            self.written = [box for box in overlay.written if box not in overlay.born]
            have = {box for states, _ in entering for box in states.boxes}
            self.unknown = [box for box in self.written if box not in have] if known else []
            if self.unknown:
                undo(overlay)
            self.sinks = [(sink, key) for sink, key, _ in overlay.emitted]

    def _check_structure(self) -> None:
        """Raise for a change of structure: it would happen once, however often the function runs."""
        overlay = self.overlay
        for entry in overlay.journal.values():
            if entry.birth not in self._around:  # of an object that was made inside
                continue
            for key, old, new in entry.changes():
                made = old is MISSING and (new in overlay.born if isinstance(new, Box) else _made(overlay, new))
                if not (made and self.births):
                    raise _structural(self.once_only, key, old, new, made)
        if overlay.undo:
            raise _structural(self.once_only, None, MISSING, MISSING, False)

    def wrote(self, states: States) -> list[Box]:
        """Which of these boxes it wrote."""
        written = set(self.written)
        return [box for box in states.boxes if box in written]

    def extras(self) -> tuple[list[Any], list[Any]]:
        """What else leaves the transform: the values of boxes that it made and gave to objects, and emitted values."""
        overlay = self.overlay
        kept = {box: None for mapping, *_ in overlay.journal.values() for box in mapping.values() if _is_object(box)}
        born, values = [], []
        for box in overlay.born:
            if box not in kept:
                continue
            value = overlay.values[box]
            encoding = encode(value) if box._container or value is None else None
            born.append((box, encoding and encoding.stripped()))
            values.append(value if encoding is None else encoding.arrays)
        self.born = born
        emitted = [jax.tree.map(unbox, value, is_leaf=_is_object) for _, _, value in overlay.emitted]
        return values, emitted

    def give_back(self, extras: tuple[list[Any], list[Any]], of_born: Callable[[Any], Any] = lambda x: x) -> None:
        """Do with `extras`, which have left the transform, what the function did. `of_born`: for each array."""
        born, emitted = extras
        for (box, encoding), value in zip(self.born, born, strict=True):
            value = jax.tree.map(of_born, value)
            birth(box, value if encoding is None else rebuild(encoding, value))
        for (sink, key), value in zip(self.sinks, emitted, strict=True):
            emit(sink, key, value)

    def refuse_emissions(self, what: str) -> None:
        """Raise for a value that cannot leave the transform."""
        if self.sinks:
            raise StateError(
                f"a value is captured inside {what}, where it may be made never or many times.",
                "Capture a module outside of it, or return the value.",
            )


def _made(overlay: Overlay, value: Any) -> bool:
    return isinstance(value, Node) and value._birth == overlay.state


def _structural(what: str, key: Any, old: Any, new: Any, made: bool) -> StateError:
    """The error about a change of structure inside a transform."""
    if made:
        return StateError(
            f"a function sets the attribute {key!r} for the first time inside {what}, where it may run never or many "
            "times.",
            "Set it in __init__ (to an array of the shape that it will have), or call the module once outside of it.",
        )
    shown = ["nothing" if x is MISSING else repr(x) if isinstance(x, _SHOWN) else type(x).__name__ for x in (old, new)]
    if key is None:
        change = "requires_grad, or the class, of something"
    elif isinstance(key, str) and key is not ORDER:
        change = f"the attribute {key!r} ({shown[0]} -> {shown[1]})"
    else:
        change = "hooks"
    return StateError(
        f"the function of {what} changes {change}. It is traced once, so that the change would happen once, however "
        "often the function runs.",
        "Do it outside; or keep what changes in an array: a buffer, or an attribute that holds a jax.Array.",
    )


_SHOWN = (bool, int, float, str, type(None))


def objects_in(tree: Any) -> list[Any]:
    """The objects of a tree, each once, in order."""
    found = [x for x in jax.tree.leaves(tree, is_leaf=_is_object) if _is_object(x)]
    return list({id(x): x for x in found}.values())


def boxes_of(obj: Any) -> list[Box]:
    """The boxes of an object, or the box itself; gradients are not among them."""
    if isinstance(obj, Box):
        return [obj]
    layout = Layout((obj,))
    return [*layout.boxes[: len(layout.names)], *[box for box, _ in layout.cells]]


def named_boxes(obj: Any) -> dict[str, Box]:
    """The same by dotted name."""
    if isinstance(obj, Box):
        return {"": obj}
    layout = Layout((obj,))
    return dict(zip([*layout.names, *layout.cell_names], boxes_of(obj), strict=True))

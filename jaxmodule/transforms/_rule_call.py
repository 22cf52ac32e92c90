"""One call of a function with a rule of its own (`custom.py`): what goes into JAX's function, and what comes out."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_derivatives import SymbolicZero

from ..core.box import Box, unbox
from ..core.context import Tracer, modes, set_ambient, tls
from ..core.errors import StateError
from ..core.freeze import Node
from ..core.structure import unflatten_args
from .inner import Body, NewWrites, States, boxes_of, named_boxes, seal, undo, unseal

_CLOSED_OVER = (
    "{what}: it is being differentiated, but the function closes over it, and the rule gives no gradient of it."
)
_PASS_IT = "Pass its module as an argument of the function: `f(model, x)` rather than `f(x)`."
_ONLY_RULE = "{what}: the rule {does} it, and the function itself does not: JAX runs either of the two."
_SAME = "Let both use the same state: write and draw in both, or in neither."


class Call:
    """One call: what goes into JAX's function, and what the function did besides returning a value.

    Attributes:
        states: the boxes that go in: those of the arguments, then the others.
        missed: the boxes that were found to be missing among them.
        more: the boxes that are to go in too.
        used: the boxes that were looked up.
        vary: the mesh axes that the inputs vary over, of the boxes and of the arrays.
    """

    def __init__(self, what: str, fixed: dict[int, Any], treedef: Any, objects: list[Any], extras: list[Box]) -> None:
        self.what = what
        self.fixed = fixed
        self.treedef = treedef
        self.objects = objects
        own = dict.fromkeys(box for obj in objects for box in boxes_of(obj))
        self.extras = [box for box in extras if box not in own]
        self.states = States([*own, *self.extras])
        self.missed: dict[Box, None] = {}
        self.more: list[Box] = []
        self.used: set[Box] = set()
        self.vary: list[list[frozenset[Any]]] = []
        self._done = False
        self._around = frozenset(traced(around()))
        self._modes = tls.generator, modes()
        self._first: tuple[list[Box], Any] | None = None
        self._body: Body | None = None

    # -- running -------------------------------------------------------------------------------------------------
    def run(self, function: Callable[..., Any], values: list[Any], leaves: list[Any]) -> tuple[Any, Any]:
        """What `function(args)` returns, sealed, and what else leaves."""
        body = Body()
        with self._then(), body.run((self.states, values), known=False) as overlay:
            overlay.values = Inputs(overlay.values, self.used.add, lambda box: self.outside(box, overlay))
            out = seal(function(self.args(leaves)), overlay)
            overlay.settle()
            written = [box for box in overlay.written if box not in overlay.born]
            known = set(self.states.boxes)  # boxes compare elementwise: no list can be asked
            others = [box for box in (*self.missed, *written) if box not in known]
            if others:
                if self._done:
                    does = "reads" if self.missed else "writes"
                    raise StateError(_ONLY_RULE.format(what=self.what, does=does), _SAME, others[0])
                self.more = list(dict.fromkeys(others))
                undo(overlay)
                written = [box for box in written if box in known]
            return out, self._leave(body, overlay, written)

    def args(self, leaves: Sequence[Any]) -> Any:
        """The arguments that are differentiated, with these arrays, and None for the others."""
        return unflatten_args(self.treedef, leaves, self.objects)

    def full(self, args: Sequence[Any]) -> list[Any]:
        """The arguments with those that are not differentiated."""
        return [self.fixed.get(i, arg) for i, arg in enumerate(args)]

    def _leave(self, body: Body, overlay: Any, written: list[Box]) -> Any:
        """What leaves the trace beside the result: in the form of the first run of those that there are."""
        born, emitted = body.extras()
        form = jax.tree.structure((born, emitted))
        if self._first is None:
            self._first, self._body = (written, form), body
        first, expected = self._first
        more = [box for box in written if box not in set(first)]
        if more:
            raise StateError(_ONLY_RULE.format(what=self.what, does="writes"), _SAME, more[0])
        if form != expected:
            raise StateError(
                f"{self.what}: the function and its rule make different attributes or captured values.",
                "Give an attribute its first value before the call; capture the same modules in both.",
            )
        return self.states.leave(overlay, first), (born, emitted)

    @contextmanager
    def _then(self) -> Iterator[None]:
        """The modes of the call, for a rule that is traced when the call is over."""
        if not self._done:
            yield
            return
        now = tls.overlay, tls.generator, modes()
        tls.overlay, tls.generator = None, self._modes[0]
        set_ambient(**self._modes[1])
        try:
            yield
        finally:
            tls.overlay, tls.generator = now[:2]
            set_ambient(**now[2])

    def finish(self, result: Any) -> Any:
        """Do what the function did, and return its result.

        Raises:
            NewWrites: it is to be called again, with more.
        """
        if self.more:
            raise NewWrites(self.more)
        out, (left, extras) = result
        if self._first is None or self._body is None:  # pragma: no cover - one of the two has run
            raise RuntimeError(f"{self.what}: JAX ran neither the function nor its rule")
        self.states.write(left, self._first[0])
        self._body.give_back(extras)
        self._body = None  # it holds tracers, and JAX holds this as long as what was traced
        self._done = True
        return unseal(out)

    # -- what is differentiated ----------------------------------------------------------------------------------
    def outside(self, box: Box, overlay: Any) -> None:
        """`box` is looked up and not among the inputs."""
        if self._done:
            traced = box in self._around
        else:
            value = box._value if overlay.parent is None else overlay.parent.lookup(box)
            traced = is_traced(value)
        if traced:
            self.missed[box] = None

    def refuse_closed_over(self, moves: Callable[[Any], bool], marks: list[Any]) -> None:
        """Raise if something that is used and no argument's is differentiated; `marks` are JAX's, for each box."""
        for box, mark in zip(self.extras, marks[len(marks) - len(self.extras) :], strict=True):
            leaves = jax.tree.leaves(mark, is_leaf=lambda x: hasattr(x, "perturbed") or isinstance(x, SymbolicZero))
            if box in self.used and any(map(moves, leaves)):
                raise StateError(_CLOSED_OVER.format(what=self.what), _PASS_IT, box)

    def names(self, obj: Any) -> dict[str, Box]:
        """The boxes of one of `objects` that have a derivative of their own."""
        return {name: box for name, box in named_boxes(obj).items() if not box._container and not box._random}

    def gathered(self, of_args: Any) -> tuple[list[Any], list[Any]]:
        """What a rule returned for the arguments as gradients of the boxes and of the arrays; None is zero."""
        n, what = self.treedef.num_leaves, self.what
        count = len(self.treedef.children()) - len(self.fixed)
        if not isinstance(of_args, (tuple, list)) or len(of_args) != count:
            got = len(of_args) if isinstance(of_args, (tuple, list)) else type(of_args).__name__
            raise TypeError(f"{what}: bwd must return a tuple with an entry for each of {count} arguments, got {got}")
        entries = iter(of_args)
        places = unflatten_args(self.treedef, range(n), range(n, n + len(self.objects)))
        found: dict[int, Any] = {}
        for i, place in enumerate(places):
            entry = None if i in self.fixed else next(entries)
            order, tree = jax.tree_util.tree_flatten(place)
            found.update(zip(order, [None] * len(order) if entry is None else tree.flatten_up_to(entry), strict=True))
        of_boxes: dict[Box, Any] = {}
        for i, obj in enumerate(self.objects):
            given, boxes = found[n + i], self.names(obj)
            if isinstance(obj, Box):
                given = {"": given}
            elif not isinstance(given, Mapping | None):
                raise TypeError(
                    f"{what}: bwd must return a dict {{dotted name: gradient}} or None for a {type(obj).__name__}, got "
                    f"{type(given).__name__}"
                )
            for name, gradient in (given or {}).items():
                if name not in boxes:
                    raise KeyError(
                        f"{what}: bwd returns a gradient for {name!r}; {type(obj).__name__} has {list(boxes)}"
                    )
                if gradient is not None:
                    box, gradient = boxes[name], unbox(gradient)
                    of_boxes[box] = of_boxes[box] + gradient if box in of_boxes else gradient
        return (
            [as_varying(of_boxes.get(box), axes) for box, axes in zip(self.states.boxes, self.vary[0], strict=True)],
            [as_varying(unbox(found[i]), axes) for i, axes in enumerate(self.vary[1])],
        )

    def tangents(self, values: list[Any], leaves: list[Any]) -> tuple[Any, ...]:
        """The tangents in the shape of the arguments: a dict by name for an object."""
        of_boxes = dict(zip(self.states.boxes, values, strict=True))
        shown = []
        for obj in self.objects:
            named = {name: as_array(of_boxes[box]) for name, box in self.names(obj).items()}
            named = {name: tangent for name, tangent in named.items() if tangent.dtype != jax.dtypes.float0}
            shown.append(named.get("") if isinstance(obj, Box) else named)
        return unflatten_args(self.treedef, list(map(as_array, leaves)), shown)


class Inputs(dict[Any, Any]):
    """The values of an overlay, which tell what is looked up in them.

    Args:
        values: the values.
        used: called with a box that is among them.
        outside: called with one that is not, before the overlays around are asked.
    """

    def __init__(self, values: dict[Any, Any], used: Callable[[Box], Any], outside: Callable[[Box], Any]) -> None:
        super().__init__(values)
        self.used = used
        self.outside = outside

    def get(self, box: Any, default: Any = None) -> Any:
        """What an overlay asks for the value of a box."""
        (self.used if box in self else self.outside)(box)
        return super().get(box, default)


def zero_tangent(shape: tuple[int, ...], dtype: Any) -> Any:
    """The zero tangent of an array."""
    return jnp.zeros(shape, dtype) if jnp.issubdtype(dtype, jnp.inexact) else np.zeros(shape, jax.dtypes.float0)


def as_array(x: Any) -> Any:
    """A tangent or cotangent as an array."""
    zero: Any = x
    return zero_tangent(zero.shape, zero.dtype) if isinstance(x, SymbolicZero) else x


def varying(x: Any) -> frozenset[Any]:
    """The mesh axes that an array varies over inside a `shard_map`."""
    return jax.typeof(x).mat.varying if isinstance(x, jax.Array) else frozenset()  # pyright: ignore


def as_varying(gradient: Any, axes: frozenset[Any]) -> Any:
    """The gradient of what varies over these mesh axes: a sum over those where only the gradient's parts differ."""
    if gradient is None:
        return None
    now = varying(gradient)
    if now - axes:
        gradient = lax.psum(gradient, tuple(now - axes))
    return lax.pcast(gradient, tuple(axes - now), to="varying") if axes - now else gradient


def is_traced(value: Any) -> bool:
    """Is it a tracer, or a container of one?"""
    leaves: list[Any] = jax.tree.leaves(value, is_leaf=lambda x: isinstance(x, (Box, Node)))
    return any(isinstance(leaf, Tracer) for leaf in leaves)


def around() -> list[Box]:
    """The boxes that the overlays around hold a value of."""
    found: dict[Box, None] = {}
    overlay = tls.overlay
    while overlay is not None:
        found.update(dict.fromkeys(overlay.values))
        overlay = None if overlay.closed else overlay.parent
    return list(found)


def traced(boxes: Iterable[Any]) -> list[Box]:
    """Those of some boxes whose value is traced here."""
    overlay = tls.overlay
    return [box for box in boxes if is_traced(box._value if overlay is None else overlay.lookup(box))]

"""What a traced function did besides returning a value, on its way out of the trace.

`take` ends a trace: it turns writes, births and emissions into a list of arrays (which become outputs of the pure
function) and an `Effects` that says what each array is. `apply` gives the arrays back, to the objects or, if another
trace is going on around this one, to that trace's overlay.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax

from .box import Box, set_value
from .context import tls
from .freeze import Encoding, encode, rebuild
from .overlay import Overlay, birth, emit, write


class Effects:
    """The static half of a trace's effects.

    A *place* is a box or object, or its number among those of a layout (`located`), so that what one trace found can be
    done to other objects of the same structure, and does not keep the traced ones alive.

    Attributes:
        boxes: the places of the boxes that were written and hold one array now.
        cleared: those of the gradient boxes that were set to None.
        containers: (place, encoding) of the containers that were written.
        births: the boxes made in the trace that live on, with the encoding of those that hold no array.
        emitted: (sink, key, treedef, number of leaves); a sink may be its place in `tls.captures`.
    """

    __slots__ = ("births", "boxes", "cleared", "containers", "emitted")

    def __init__(self) -> None:
        self.boxes: list[Any] = []
        self.cleared: list[Any] = []
        self.containers: list[tuple[Any, Encoding]] = []
        self.births: list[tuple[Box, Encoding | None]] = []
        self.emitted: list[tuple[Any, Any, Any, int]] = []

    def located(self, place: Callable[[Any], Any]) -> "Effects":
        """The same effects with `place(member)` for every box and object."""
        new = Effects()
        new.boxes = list(map(place, self.boxes))
        new.cleared = list(map(place, self.cleared))
        new.containers = [(place(box), e._replace(refs=list(map(place, e.refs)))) for box, e in self.containers]
        new.births = self.births
        new.emitted = [(tls.captures.index(sink), key, tree, n) for sink, key, tree, n in self.emitted]
        return new

    def apply(
        self,
        arrays: list[Any],
        member: Callable[[Any], Any] = lambda place: place,
        boxes: Sequence[Box] | None = None,
        fast: bool = False,
    ) -> None:
        """Give the arrays back.

        Args:
            arrays: what `take` returned, out of the trace.
            member: the box or object of a place.
            boxes: `member` of each of `self.boxes`, where that is known already.
            fast: no trace is going on and none of `boxes` is a gradient's, so that no box need be asked.
        """
        if boxes is None:
            boxes = list(map(member, self.boxes))
        n = len(boxes)
        deque(map(set_value if fast else write, boxes, arrays), maxlen=0)
        rest = iter(arrays[n:])
        for place in self.cleared:
            write(member(place), None)
        for place, encoding in self.containers:
            write(member(place), _rebuilt(encoding, rest, list(map(member, encoding.refs))))
        for box, encoding in self.births:
            birth(box, next(rest) if encoding is None else _rebuilt(encoding, rest, encoding.refs))
        for sink, key, tree, count in self.emitted:
            value = jax.tree_util.tree_unflatten(tree, [next(rest) for _ in range(count)])
            emit(tls.captures[sink] if isinstance(sink, int) else sink, key, value)


def _rebuilt(encoding: Encoding, arrays: Iterator[Any], refs: list[Any]) -> Any:
    return rebuild(encoding, [next(arrays) for _ in encoding.arrays], refs)


def take(overlay: Overlay, births: Sequence[Box] | None = None) -> tuple[Effects, list[Any]]:
    """End the trace of `overlay`: its effects, and their arrays. `births` are the born boxes to keep, all if None."""
    overlay.settle()
    effects = Effects()
    arrays: list[Any] = []
    packed: list[Any] = []
    for box in overlay.written:
        if box in overlay.born:
            continue
        value = overlay.values[box]
        if box._container:
            encoding = encode(value)
            effects.containers.append((box, encoding.stripped()))
            packed += encoding.arrays
        elif value is None:
            effects.cleared.append(box)
        else:
            effects.boxes.append(box)
            arrays.append(value)
    for box in overlay.born if births is None else births:
        value = overlay.values[box]
        encoding = encode(value) if box._container or value is None else None
        effects.births.append((box, encoding and encoding.stripped()))
        packed += [value] if encoding is None else encoding.arrays
    for sink, key, value in overlay.emitted:
        leaves, tree = jax.tree_util.tree_flatten(value)
        effects.emitted.append((sink, key, tree, len(leaves)))
        packed += leaves
    return effects, arrays + packed

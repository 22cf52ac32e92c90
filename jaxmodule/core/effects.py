"""What a traced function did besides returning a value, on its way out of the trace.

`take` ends a trace: it turns writes, births and emissions into a list of arrays (which become outputs of the pure
function) and an `Effects` that says what each array is. `apply` gives the arrays back, to the objects or, if another
trace is going on around this one, to that trace's overlay.
"""

from collections import deque
from collections.abc import Sequence
from typing import Any

import jax

from .box import Box, _set_value
from .context import tls
from .freeze import Encoding, encode, rebuild
from .overlay import Overlay, birth, emit, write


class Effects:
    """The static half of a trace's effects.

    Attributes:
        boxes: the boxes that were written and hold one array now.
        cleared: the gradient boxes that were set to None.
        containers: (box, encoding) of the containers that were written.
        births: the boxes made in the trace that live on.
        emitted: (sink, key, treedef, number of leaves); a sink may be its place in `tls.captures`.
    """

    __slots__ = ("births", "boxes", "cleared", "containers", "emitted")

    def __init__(self) -> None:
        self.boxes: list[Box] = []
        self.cleared: list[Box] = []
        self.containers: list[tuple[Box, Encoding]] = []
        self.births: list[tuple[Box, Encoding | None]] = []
        self.emitted: list[tuple[Any, Any, Any, int]] = []

    def apply(self, arrays: list[Any], boxes: Sequence[Box] | None = None, fast: bool = False) -> None:
        """Give the arrays back. `boxes` stands in for `self.boxes` (another object of the same structure).

        `fast` says that no trace is going on and no box is a gradient's: 0.03 µs a box instead of 1
        (benchmarks/dispatch.py).
        """
        boxes = self.boxes if boxes is None else boxes
        n = len(boxes)
        if fast:
            deque(map(_set_value, boxes, arrays), maxlen=0)
        else:
            deque(map(write, boxes, arrays), maxlen=0)
        if n == len(arrays) and not self.cleared and not self.births:
            return
        rest = iter(arrays[n:])
        for box in self.cleared:
            write(box, None)
        for box, encoding in self.containers:
            write(box, rebuild(encoding, [next(rest) for _ in encoding.arrays]))
        for box, encoding in self.births:
            if encoding is None:
                birth(box, next(rest))
            else:
                birth(box, rebuild(encoding, [next(rest) for _ in encoding.arrays]))
        for sink, key, tree, count in self.emitted:
            emit(
                tls.captures[sink] if isinstance(sink, int) else sink,
                key,
                jax.tree_util.tree_unflatten(tree, [next(rest) for _ in range(count)]),
            )


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

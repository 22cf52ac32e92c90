"""`in_axes` and `in_specs`: what a prefix of the tree of arguments says of each array and of each object's boxes.

A *place* is a leaf or an object of the arguments. The prefix gives it a value: for an array one of JAX's, for an object
one for all of its boxes, or a dict of name patterns.
"""

from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import jax

from ..core.box import Box
from ..core.parameter import Parameter
from ..core.structure import unflatten_args
from .inner import named_boxes


class Prefix(NamedTuple):
    """A transform's argument of this kind.

    Attributes:
        transform: its name.
        argument: the argument's.
        what: what an array's value must be, in words.
        accepts: whether something is such a value.
        whole: whether patterns must name every box; if not, the others have None.
    """

    transform: str
    argument: str
    what: str
    accepts: Callable[[Any], bool]
    whole: bool

    def spread(self, prefix: Any, treedef: Any, leaves: list[Any], objects: list[Any]) -> tuple[list[Any], Any]:
        """The values of the leaves, and those of the objects' boxes, gradients included, by box."""
        places = [_Place(leaf) for leaf in leaves], [_Place(obj) for obj in objects]
        self._assign(prefix, unflatten_args(treedef, *places))
        for place in places[0]:
            if not self.accepts(place.given):
                raise TypeError(f"{self} of an array must be {self.what}, got {place.given!r}")
        found: dict[Box, Any] = {}
        for place in places[1]:
            for box, given in self._of_boxes(place).items():
                if found.setdefault(box, given) != given:
                    raise ValueError(
                        f"{self}: a {type(box).__name__} of shape {box.raw_shape} is reached from two arguments, with "
                        f"{found[box]} and {given}: give both the same"
                    )
        return [place.given for place in places[0]], found

    def _assign(self, prefix: Any, full: Any) -> None:
        if isinstance(full, _Place):
            full.given = prefix
        elif self.accepts(prefix):
            for place in jax.tree.leaves(full):
                place.given = prefix
        else:
            given, of_given = jax.tree_util.tree_flatten(prefix, is_leaf=lambda x: x is not prefix)
            parts, of_parts = jax.tree_util.tree_flatten(full, is_leaf=lambda x: x is not full)
            if of_given != of_parts:
                raise ValueError(f"{self} must be a prefix of the arguments: {of_given} and {of_parts}")
            for one, part in zip(given, parts, strict=True):
                self._assign(one, part)

    def _of_boxes(self, place: "_Place") -> dict[Box, Any]:
        found: dict[Box, Any] = {}
        used: set[str] = set()
        kind = type(place.value).__name__
        by_name = place.given if isinstance(place.given, Mapping) else {}
        boxes = named_boxes(place.value)
        for name, box in boxes.items():
            given = place.given
            if isinstance(given, Mapping):
                pattern = next((p for p in given if fnmatchcase(name, p)), None)
                if pattern is None and self.whole:
                    raise ValueError(f"{self} has no pattern that fits {name!r} of {kind}: add a '*'")
                given = None if pattern is None else given[pattern]
                used.add(str(pattern))
            if not self.accepts(given):
                raise TypeError(f"{self} of a {kind} must be {self.what} or a dict of those, got {given!r}")
            found[box] = given
            if isinstance(box, Parameter):
                found[box.grad_box] = given
        unused = [pattern for pattern in by_name if pattern not in used]
        if unused:
            raise ValueError(
                f"{self} has the pattern {unused[0]!r}, which fits no name that an earlier one does not: {list(boxes)}"
            )
        return found

    def __str__(self) -> str:
        return f"{self.transform}: {self.argument}"


class _Place:
    """A leaf or an object of the arguments, and what the prefix says of it."""

    def __init__(self, value: Any) -> None:
        self.value = value
        self.given: Any = None

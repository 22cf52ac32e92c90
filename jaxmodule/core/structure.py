"""Structure and the one flatten.

A *layout* is what one walk over objects with state finds: their unique boxes in a fixed order with their dotted names,
and the *structure*: everything else that can make a traced program differ (classes, static attributes, flags, sharing,
hooks), interned, so that two equal structures are one object. A layout stays current until the epoch changes;
attributes that can change in place (plain lists, dicts, numpy arrays) are compared by value on each use.
"""

import weakref
from collections.abc import Iterable, Iterator
from copy import copy
from operator import attrgetter
from typing import Any

import jax

from . import context
from .box import Box
from .context import HOLE, PLAIN, epoch, tls
from .freeze import ContainerSlot, Encoding, Freezer, Node, encode, rebuild
from .parameter import Parameter
from .registry import Registry

_raw_value = attrgetter("_value")


class Structure:
    """An interned description: equal ones are the same object, so that comparing is comparing identities."""

    __slots__ = ("__weakref__", "hash", "key")

    def __init__(self, key: Any) -> None:
        self.key = key
        self.hash = hash(key)

    def __hash__(self) -> int:
        return self.hash


_interned: "weakref.WeakValueDictionary[Any, Structure]" = weakref.WeakValueDictionary()


def intern(key: Any) -> Structure:
    """The one structure with this key."""
    found = _interned.get(key)
    if found is None:
        found = _interned.setdefault(key, Structure(key))
    return found


class Layout:
    """What a walk over `roots` found.

    Attributes:
        structure: see `Structure`.
        boxes: the boxes that hold one array: the objects' own, then those of the parameters' gradients.
        names: the dotted names of the objects' own boxes.
        cells: the boxes of plain containers, with their encoding at the time of the walk.
        cell_names: their dotted names.
        absent: the boxes that hold None: gradients that are not there, and parameters without a shape so far.
        watched: static values that can change in place, with their keys and dotted names.
        nodes: weak references to the objects, in order of the walk.
    """

    __slots__ = (
        "_template",
        "absent",
        "boxes",
        "cell_names",
        "cells",
        "names",
        "nodes",
        "structure",
        "token",
        "watched",
    )

    def __init__(self, roots: Iterable[Node]) -> None:
        # Before the walk: a change during it makes the result stale, as it must. What an overlay holds (gradients that
        # are there, containers that have grown) is only true inside of it: such a layout is never current again.
        self.token = epoch.token if tls.overlay is None else None
        walk = _Walk()
        indices = tuple([walk.entry(root, "") for root in roots])
        self.boxes = walk.boxes + walk.gradients
        self.names = walk.names
        self.cells = walk.cells
        self.cell_names = walk.cell_names
        self.absent = walk.absent
        self.watched = walk.watched
        self.nodes = [weakref.ref(node) for node in walk.nodes]
        self.structure = intern((indices, tuple(walk.records), tuple(walk.box_records)))
        self._template: Template | None = None

    def current(self) -> bool:
        """Is this still how the objects are?"""
        if tls.overlay is not None or self.token is not epoch.token:
            return False
        return not (self.watched or self.cells) or self._unchanged()

    def _unchanged(self) -> bool:
        return all(Freezer()(value) == key for value, key, _ in self.watched) and all(
            encode(box._value).same_shape(encoding) for box, encoding in self.cells
        )

    def targets(self) -> list[Box]:
        """Every box that a program over this layout can write, in a fixed order."""
        return [*self.boxes, *[box for box, _ in self.cells], *self.absent]

    def values(self) -> list[Any]:
        """The arrays of all boxes, as they are here and now: of `boxes`, then of the cells."""
        if tls.overlay is None:
            values = list(map(_raw_value, self.boxes))
        else:
            values = [box.value for box in self.boxes]
        for box, _ in self.cells:
            values += encode(box.value).arrays
        return values

    def bind(self, values: list[Any]) -> tuple[dict[Box, Any], list[tuple[ContainerSlot, Any]]]:
        """The inverse of `values`: what an overlay starts with, and the containers to hand out in it."""
        n = len(self.boxes)
        bound: dict[Box, Any] = dict(zip(self.boxes, values[:n], strict=True))
        bound.update(dict.fromkeys(self.absent))
        rest = iter(values[n:])
        containers = [(box, rebuild(e, [next(rest) for _ in e.arrays])) for box, e in self.cells]
        return bound, containers

    def template(self) -> "Template":
        """What makes clones of the first root; for raw JAX, which hands out and takes in leaves."""
        if self._template is None:
            self._template = Template(self)
        return self._template if tls.ambient is PLAIN else self._template.under(tls.ambient)


class _Walk:
    """One depth-first walk in the order of torch's state_dict: parameters, buffers, plain state, then submodules."""

    def __init__(self) -> None:
        self.boxes: list[Box] = []
        self.names: list[str] = []
        self.gradients: list[Box] = []
        self.cells: list[tuple[ContainerSlot, Encoding]] = []
        self.cell_names: list[str] = []
        self.absent: list[Box] = []
        self.watched: list[tuple[Any, Any, str]] = []
        self.nodes: list[Node] = []
        self.records: list[Any] = []
        self.box_records: list[Any] = []
        self._node_index: dict[int, int] = {}
        self._box_index: dict[Box, int] = {}

    def node(self, node: Any, path: str) -> int:
        index = self._node_index.get(id(node))
        if index is not None:
            return index
        index = self._node_index[id(node)] = len(self.nodes)
        self.nodes.append(node)
        self.records.append(None)
        node._watched = True
        own = node.__dict__
        prefix = f"{path}." if path else ""
        extra = node._structure_extra()  # first: it says so where an __init__ has not called its parent's
        registries = []
        for name in node._registries:
            registry = own[name]
            registry.watched = True
            registries.append(
                tuple([(key, self.entry(value, prefix + key)) for key, value in registry.items()]) if registry else ()
            )
        self.records[index] = (type(node), self._statics(own, node._internal, prefix), extra, *registries)
        return index

    def entry(self, value: Any, path: str) -> Any:
        if value is None:
            return None
        return ("node", self.node(value, path)) if isinstance(value, Node) else self.box(value, path)

    def box(self, box: Box, path: str) -> int:
        index = self._box_index.get(box)
        if index is not None:
            return index
        index = self._box_index[box] = len(self._box_index)
        self.box_records.append(None)
        extra: Any = None
        if isinstance(box, ContainerSlot):
            encoding = encode(box.value)
            self.cells.append((box, encoding.stripped()))
            self.cell_names.append(path)
            extra = (encoding.skeleton, tuple([self.entry(ref, f"{path}[{i}]") for i, ref in enumerate(encoding.refs)]))
        elif box._lazy:
            self.absent.append(box)
        else:
            self.boxes.append(box)
            self.names.append(path)
            if isinstance(box, Parameter):
                extra = self._parameter(box)
        self.box_records[index] = (type(box), box._flags(), extra)
        return index

    def _parameter(self, box: Parameter) -> Any:
        present = box.grad is not None
        (self.gradients if present else self.absent).append(box.grad_box)
        marks = tuple([(k, self._freeze(v, k)) for k, v in box.__dict__.items()]) if box.__dict__ else ()
        return (present, marks)

    def _freeze(self, value: Any, path: str) -> Any:
        if isinstance(value, (Box, Node)):
            return self.entry(value, path)
        freezer = Freezer(lambda node: self.node(node, path))
        key = freezer(value)
        if freezer.mutable:
            self.watched.append((value, Freezer()(value), path))
        return key

    def _statics(self, own: dict[str, Any], internal: frozenset[str], prefix: str) -> tuple[Any, ...]:
        found = []
        for name, value in own.items():
            if name in internal:
                continue
            kind = type(value)
            if kind is int or kind is bool:
                found.append((name, kind, value))
            elif value is None or kind is str:
                found.append((name, value))
            else:
                found.append((name, self._freeze(value, prefix + name)))
        return tuple(found)


class Template:
    """The aux data of an object in raw JAX: equal to another of the same structure, and able to build a clone.

    It holds copies of the attribute dicts, not the objects, so that it still builds what was flattened after the
    original has changed or gone. The thread's modes and the process's hooks are part of it: raw `jax.jit` knows of no
    other difference between two calls.
    """

    __slots__ = ("_boxes", "_cells", "_lazy", "_names", "_nodes", "_watched", "_whole", "around", "structure")

    def __init__(self, layout: Layout) -> None:
        self.structure = layout.structure
        self.around: tuple[Any, ...] = (PLAIN, *[key() for key in context.process_keys])
        nodes = [reference() for reference in layout.nodes]
        index = {id(node): i for i, node in enumerate(nodes)}
        self._nodes = [(type(node), node._parts(index)) for node in nodes if node is not None]
        self._boxes = layout.boxes[: len(layout.names)]
        self._names = layout.names
        self._watched = layout.watched
        self._lazy = [box for box in layout.absent if box._lazy]
        # A clone has no gradients, and its containers are its own: only then is its structure this one.
        self._whole = len(self._boxes) == len(layout.boxes) and not layout.cells and not self._lazy
        self._cells = [
            (box, e, [index[id(ref)] if id(ref) in index else ref for ref in e.refs]) for box, e in layout.cells
        ]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Template) and self.structure is other.structure and self.around == other.around

    def __hash__(self) -> int:
        return self.structure.hash

    def under(self, ambient: tuple[Any, ...]) -> "Template":
        """The same in other modes."""
        new = copy(self)
        new.around = (ambient, *self.around[1:])
        return new

    def build(self, leaves: Iterable[Any]) -> Node:
        """A clone whose boxes hold `leaves`, whatever they are."""
        born = context.trace_state()
        rest = iter(leaves)
        boxes: dict[Box, Box] = {box: box._clone(next(rest)) for box in self._boxes}
        boxes.update((box, box._clone(None)) for box in self._lazy)
        nodes = [object.__new__(kind) for kind, _ in self._nodes]
        for box, encoding, refs in self._cells:
            arrays = [next(rest) for _ in encoding.arrays]
            inside = [nodes[ref] if isinstance(ref, int) else boxes[ref] for ref in refs]
            boxes[box] = box._clone(rebuild(encoding, arrays, inside))
        for node, (_, parts) in zip(nodes, self._nodes, strict=True):
            node._birth = born
            node._layout = None
            node._watched = False
            node._assemble(parts, nodes, boxes)
        if self._whole:
            nodes[0]._layout = self._layout_of_clone(nodes, boxes)
        return nodes[0]

    def _layout_of_clone(self, nodes: list[Any], boxes: dict[Box, Box]) -> Layout:
        """The layout that a walk over the clone would find."""
        layout: Any = Layout.__new__(Layout)
        layout.token = epoch.token
        layout.structure = self.structure
        layout.boxes = [boxes[box] for box in self._boxes]
        layout.names = self._names
        layout.cells, layout.cell_names, layout.watched = [], [], self._watched
        layout.absent = [box.grad_box for box in layout.boxes if isinstance(box, Parameter)]
        layout.nodes = [weakref.ref(node) for node in nodes]
        layout._template = self
        for node in nodes:
            node._watched = True
            for value in node.__dict__.values():
                if isinstance(value, Registry):
                    value.watched = True
        return layout


def layout_of(node: Node) -> Layout:
    """The layout of one object, kept on it while it is current."""
    layout: Layout | None = node._layout
    if layout is None or not layout.current():
        layout = Layout((node,))
        node._layout = layout
    return layout


# -- pytree registration ------------------------------------------------------------------------------------------


def _leaves(layout: Layout) -> list[Any]:
    """The values of a layout as raw JAX sees them: without the parameters' gradients."""
    values = layout.values()
    own, all_boxes = len(layout.names), len(layout.boxes)
    return values if own == all_boxes else values[:own] + values[all_boxes:]


def _flatten(node: Node) -> tuple[Any, Any]:
    if tls.collector is not None:
        tls.collector.append(node)
        return (), HOLE
    layout = layout_of(node)
    return _leaves(layout), layout.template()


def _flatten_with_keys(node: Node) -> tuple[Any, Any]:
    if tls.collector is not None:
        return _flatten(node)
    layout = layout_of(node)
    names = list(layout.names)
    for name, (_, encoding) in zip(layout.cell_names, layout.cells, strict=True):
        names += [f"{name}[{i}]" for i in range(len(encoding.arrays))]
    keys = map(jax.tree_util.GetAttrKey, names)
    return list(zip(keys, _leaves(layout), strict=True)), layout.template()


def _unflatten(aux: Any, leaves: Iterable[Any]) -> Any:
    return next(tls.restore) if aux is HOLE else aux.build(leaves)


def register_node(cls: type) -> None:
    """Make the objects of a class pytree nodes."""
    jax.tree_util.register_pytree_with_keys(cls, _flatten_with_keys, _unflatten, _flatten)


def flatten_args(tree: Any) -> tuple[list[Any], Any, list[Any]]:
    """Flatten arguments with the objects with state left out: the leaves, a treedef with holes, the objects."""
    outer, tls.collector = tls.collector, []
    try:
        leaves, treedef = jax.tree_util.tree_flatten(tree)
        return leaves, treedef, tls.collector
    finally:
        tls.collector = outer


def unflatten_args(treedef: Any, leaves: Iterable[Any], objects: Iterable[Any]) -> Any:
    """The inverse of `flatten_args`, with these very objects in the holes."""
    outer: Iterator[Any] | None = tls.restore
    tls.restore = iter(objects)
    try:
        return jax.tree_util.tree_unflatten(treedef, leaves)
    finally:
        tls.restore = outer

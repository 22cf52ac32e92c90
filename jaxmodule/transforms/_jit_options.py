"""`jm.jit`'s donation of single arguments and its shardings: which of a program's arrays they concern, and how.

A program takes two lists: the boxes' arrays, and the arguments' own. An `Arrangement` says for one program which
entries of these lists are donated and how each is sharded; programs without such options have none.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import jax

from ..core.box import Box
from ..core.parameter import Parameter
from ..core.structure import Layout, flatten_args, unflatten_args
from ._jit_args import Mark, Statics, marked

_SHARDINGS = (jax.sharding.Sharding, jax.sharding.PartitionSpec)


@dataclass(frozen=True)
class Options:
    """How a `jm.jit` function was made: what it donates and how it is sharded."""

    donate: bool = False
    donate_nums: tuple[int, ...] = ()
    donate_names: frozenset[str] = frozenset()
    in_shardings: Any = None
    out_shardings: Any = None

    @property
    def arranged(self) -> bool:
        """Does it take more than donating all boxes?"""
        return bool(self.donate_nums or self.donate_names) or self.sharded

    @property
    def sharded(self) -> bool:
        return self.in_shardings is not None or self.out_shardings is not None


class Arrangement:
    """What the options mean for the arrays of one program.

    Attributes:
        donated: the places of the donated arrays, in one list of the boxes' arrays and the arguments'.
        shardings: for each place its sharding or None; None if there is none at all.
    """

    def __init__(
        self, options: Options, layout: Layout, objects: list[Any], treedef: Any, statics: Statics, prefix: int
    ) -> None:
        self.out_shardings = options.out_shardings
        self._boxes = _Places(layout)
        self._count = self._boxes.count
        total = self._count + treedef.num_leaves
        args, kwargs = marked(treedef, objects)
        bound, args = args[:prefix], args[prefix:]
        self.donated = self._donated(options, args, kwargs, statics)
        self.shardings: list[Any] | None = None
        if options.in_shardings is not None:
            self.shardings = shardings = [None] * total
            whole = isinstance(options.in_shardings, _SHARDINGS)
            if not whole and kwargs:
                raise ValueError(
                    f"jm.jit: in_shardings speaks of positional arguments; {sorted(kwargs)} came by name. "
                    "Pass them by position, or give one sharding for all."
                )
            tree = (bound, args, kwargs) if whole else args
            given = options.in_shardings
            for mark, sharding in spread(tuple(given) if isinstance(given, list) else given, tree, "in_shardings"):
                self._shard(shardings, mark, sharding)
        self._fresh = {i for i, box in enumerate(layout.boxes) if box._foreign}

    def _donated(self, options: Options, args: Any, kwargs: Any, statics: Statics) -> list[int]:
        count = len(args) + len(statics.places)
        nums = {n % count for n in options.donate_nums if -count <= n < count}
        static = sorted((nums & set(statics.places)) or (options.donate_names & set(statics.kwargs)), key=str)
        if static:
            raise ValueError(f"jm.jit: argument {static[0]!r} is static, and cannot be donated")
        original = [i for i in range(count) if i not in statics.places]
        trees = [arg for i, arg in zip(original, args, strict=True) if i in nums]
        trees += [arg for name, arg in kwargs.items() if name in options.donate_names]
        found = set(range(self._count)) if options.donate else set()
        for mark in jax.tree_util.tree_leaves(trees):
            found.update([self._count + mark.index] if mark.obj is None else self._boxes.all_of(mark.obj))
        return sorted(found)

    def _shard(self, shardings: list[Any], mark: Mark, sharding: Any) -> None:
        if mark.obj is None:
            shardings[self._count + mark.index] = sharding
            return
        for name, box, s in _named(mark.obj, sharding, "in_shardings"):
            for place in self._boxes.of.get(box, ()):
                if shardings[place] not in (None, s):
                    raise ValueError(f"jm.jit: in_shardings gives two shardings to {name!r}, which two arguments share")
                shardings[place] = s

    # -- the program ----------------------------------------------------------------------------------------------
    def compile(self, pure: Any) -> "Arranged":
        """`jax.jit` of `pure(values, leaves)` with these options."""
        return Arranged(pure, self._count, self.donated, self.shardings, self._fresh)

    def finish(self, overlay: Any, layout: Layout, out: Any) -> Any:
        """At the end of a trace: shard the output, and keep what was written sharded as it came in.

        What is donated and not written is written back as it is, or its box would hold a dead array.
        """
        boxes = [*layout.boxes, *[box for box, e in layout.cells for _ in e.arrays]]
        for place in self.donated:
            if place < self._count:
                overlay.written.setdefault(boxes[place])
        if self.shardings is not None:
            for box, sharding in zip(layout.boxes, self.shardings, strict=False):
                if sharding is not None and box in overlay.written and overlay.values[box] is not None:
                    overlay.values[box] = constrain(overlay.values[box], sharding)
        return out if self.out_shardings is None else self._shard_output(overlay, out)

    def _shard_output(self, overlay: Any, out: Any) -> Any:
        leaves, treedef, objects = flatten_args(out)
        for mark, sharding in spread(self.out_shardings, marked(treedef, objects), "out_shardings"):
            if mark.obj is None:
                leaves[mark.index] = constrain(leaves[mark.index], sharding)
                continue
            for _, box, s in _named(mark.obj, sharding, "out_shardings"):
                if box in overlay.values and not box._container and overlay.values[box] is not None:
                    overlay.values[box] = constrain(overlay.values[box], s)
                    overlay.written.setdefault(box)
        return unflatten_args(treedef, leaves, objects)


class Arranged:
    """A compiled function of (values, leaves) that donates some entries and not others."""

    def __init__(self, pure: Any, count: int, donated: list[int], shardings: list[Any] | None, fresh: set[int]) -> None:
        self._given = donated
        self._set = set(donated)
        self._fresh = fresh & self._set

        def arranged(given: list[Any], kept: list[Any]) -> Any:
            total = len(given) + len(kept)
            first, second = iter(given), iter(kept)
            flat = [next(first) if i in self._set else next(second) for i in range(total)]
            return pure(flat[:count], flat[count:])

        arranged.__name__ = arranged.__qualname__ = pure.__name__
        options: dict[str, Any] = {"donate_argnums": (0,)} if donated else {}
        if shardings is not None:
            options["in_shardings"] = self._split(shardings)
        self._compiled = jax.jit(arranged, **options)

    def _split(self, flat: list[Any]) -> tuple[list[Any], list[Any]]:
        return [flat[i] for i in self._given], [x for i, x in enumerate(flat) if i not in self._set]

    def _inputs(self, values: list[Any], leaves: list[Any]) -> tuple[list[Any], list[Any]]:
        """The two lists. Of an array that is there twice, and of a generator's state, copies are donated."""
        given, kept = self._split([*values, *leaves])
        seen = set(map(id, kept))
        for k, (place, value) in enumerate(zip(self._given, given, strict=True)):
            if (id(value) in seen or place in self._fresh) and isinstance(value, jax.Array):
                given[k] = value.copy()
            seen.add(id(given[k]))
        return given, kept

    def __call__(self, values: list[Any], leaves: list[Any]) -> Any:
        return self._compiled(*self._inputs(values, leaves))

    def lower(self, values: list[Any], leaves: list[Any]) -> Any:
        """JAX's `Lowered`."""
        return self._compiled.lower(*self._split([*values, *leaves]))

    def executable(self, compiled: Any) -> Any:
        """JAX's `Compiled` of what `lower` gave, as a function of (values, leaves)."""
        return lambda values, leaves: compiled(*self._inputs(values, leaves))


class _Places:
    """Where the boxes of a layout are among a program's values."""

    def __init__(self, layout: Layout) -> None:
        self.of: dict[Any, list[int]] = {box: [i] for i, box in enumerate(layout.boxes)}
        self.count = len(layout.boxes)
        for box, encoding in layout.cells:
            self.of[box] = list(range(self.count, self.count + len(encoding.arrays)))
            self.count += len(encoding.arrays)

    def all_of(self, obj: Any) -> Iterator[int]:
        """The places of every array of a box or object, gradients included."""
        boxes = [obj, getattr(obj, "_grad", None)] if isinstance(obj, Box) else Layout((obj,)).targets()
        for box in boxes:
            yield from self.of.get(box, ())


def _named(obj: Any, sharding: Any, what: str) -> Iterator[tuple[str, Box, Any]]:
    """The boxes of a box or object with their names and shardings; a parameter's gradient is sharded as it is."""
    if isinstance(obj, Box):
        named = [("", obj)]
    else:
        layout = Layout((obj,))
        named = [*zip(layout.names, layout.boxes, strict=False)]
        named += [(name, box) for name, (box, _) in zip(layout.cell_names, layout.cells, strict=True)]
    if isinstance(sharding, Mapping):
        idle = [p for p in sharding if not any(fnmatchcase(name, p) for name, _ in named)]
        if idle:
            some = ", ".join([name for name, _ in named][:5])
            raise ValueError(
                f"jm.jit: {what} has the pattern {idle[0]!r}, which no array of {type(obj).__name__} is called; "
                f"there are: {some}, …"
            )
    for name, box in named:
        s = sharding
        if isinstance(sharding, Mapping):
            s = next((s for pattern, s in sharding.items() if fnmatchcase(name, pattern)), None)
        if s is not None:
            yield name, box, s
            if isinstance(box, Parameter) and box.grad is not None:
                yield f"{name}.grad", box.grad_box, s


def spread(prefix: Any, tree: Any, what: str, path: str = "") -> Iterator[tuple[Mark, Any]]:
    """Each mark in `tree` with what a prefix of the tree, as `jax.jit` takes it, has for it. None has nothing.

    For an object with state the prefix may have a dict {pattern of dotted names: sharding}.
    """
    if prefix is None:
        return
    if isinstance(prefix, _SHARDINGS):
        yield from ((mark, prefix) for mark in jax.tree_util.tree_leaves(tree))
        return
    if isinstance(tree, Mark):
        if tree.obj is None or not isinstance(prefix, Mapping):
            kind = "an array" if tree.obj is None else f"a {type(tree.obj).__name__}"
            raise ValueError(f"jm.jit: {what}{path} is {type(prefix).__name__}, and there is {kind} in this place")
        yield tree, prefix
        return
    ours, wanted = _level(prefix), _level(tree)
    if ours[1] != wanted[1]:
        raise ValueError(
            f"jm.jit: {what}{path} must have the structure of what it is for, or be one sharding or None: "
            f"{type(prefix).__name__} of {len(ours[0])} against {type(tree).__name__} of {len(wanted[0])}"
        )
    for (key, part), (_, subtree) in zip(ours[0], wanted[0], strict=True):
        yield from spread(part, subtree, what, path + jax.tree_util.keystr(key))


def _level(tree: Any) -> tuple[list[tuple[Any, Any]], Any]:
    """One level of a pytree: the children with their keys, and its treedef."""
    return jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda x: x is not tree)


def constrain(x: Any, sharding: Any) -> Any:
    """`x` with a sharding, inside a trace."""
    mesh = jax.sharding.get_abstract_mesh() if isinstance(sharding, jax.sharding.PartitionSpec) else None
    mesh = getattr(sharding, "mesh", None) if mesh is None else mesh
    explicit = jax.sharding.AxisType.Explicit in (getattr(mesh, "axis_types", None) or ())
    if not explicit:
        return jax.lax.with_sharding_constraint(x, sharding)
    # An axis of explicit type is part of the array's type, which a constraint cannot change.
    return jax.device_put(x, sharding)

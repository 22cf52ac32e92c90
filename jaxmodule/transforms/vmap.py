"""`jm.vmap`: `jax.vmap` for functions of Modules.

A Module is either mapped, its boxes holding stacked arrays (`stack_module_state`), or shared by all lanes. What is
written to a mapped one is stacked again; to a shared one only what is the same in all lanes can be written.
"""

import re
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from typing import Any, Literal

import jax
import jax.numpy as jnp

from ..core.box import Box
from ..core.errors import StateError
from ..core.overlay import read, write
from ..core.parameter import Parameter
from ..core.structure import flatten_args, unflatten_args
from ..random import advanced, forked
from .inner import Body, States, named_boxes, seal, unseal

Randomness = Literal["different", "same", "error"]


def vmap(
    fun: Callable[..., Any],
    in_axes: Any = 0,
    out_axes: Any = 0,
    axis_name: Any = None,
    axis_size: int | None = None,
    spmd_axis_name: Any = None,
    *,
    randomness: Randomness = "different",
) -> Callable[..., Any]:
    """Like `jax.vmap`, for functions of Modules.

    Args:
        fun: the function.
        in_axes: as in JAX. For a Module: the axis along which all its boxes are stacked; None if all lanes share it; or
            a dict from patterns of dotted names to either (`{"*.weight": 0, "*": None}`; the first that fits counts).
            What `fun` closes over is shared.
        out_axes, axis_name, axis_size, spmd_axis_name: as in JAX.
        randomness: what a lane draws: "different" random numbers from the others', the "same", or an "error".

    Returns:
        The mapped function. State that it writes to a mapped Module is stacked along the axis that it came by. Values
        that `jm.capture` takes in it have the lanes first.

    Raises:
        StateError: the lanes write different values to what they share, or draw with `randomness="error"`.

    Example:
        >>> import jax.numpy as jnp, jaxmodule as jm
        >>> from jaxmodule import nn
        >>> jm.vmap(nn.Linear(3, 2))(jnp.ones((5, 3))).shape
        (5, 2)
    """
    if randomness not in ("different", "same", "error"):
        raise ValueError(f'randomness must be "different", "same" or "error", got {randomness!r}')

    def vmap_of(*args: Any, **kwargs: Any) -> Any:
        leaves, treedef, objects = flatten_args((args, kwargs))
        places = [_Place(leaf) for leaf in leaves], [_Place(obj) for obj in objects]
        inner_args, inner_kwargs = unflatten_args(treedef, *places)
        _assign(tuple(in_axes) if isinstance(in_axes, list) else in_axes, inner_args)
        _assign(0, inner_kwargs)
        axes = [place.axis() for place in places[0]]
        of_boxes = _axes_of_boxes(places[1])
        mapped = States(of_boxes)
        states = mapped.read()
        run = _Run(fun, treedef, objects, mapped, randomness)
        call = jax.vmap(
            run.pure,
            in_axes=(0, axes, list(of_boxes.values())),
            out_axes=(out_axes, list(of_boxes.values()), None, 0),
            axis_name=axis_name,
            axis_size=axis_size,
            spmd_axis_name=spmd_axis_name,
        )
        size = axis_size or _size([*leaves, *states], [*axes, *of_boxes.values()])
        try:
            out, states, shared, extras = call(jnp.arange(size, dtype=jnp.uint32), leaves, states)
        except ValueError as error:
            raise run.explained(error) from error
        run.give_back(states, shared, extras)
        return unseal(out)

    vmap_of.__name__ = f"vmap_{getattr(fun, '__name__', type(fun).__name__)}"
    return vmap_of


class _Run:
    """One mapped call."""

    def __init__(self, fun: Any, treedef: Any, objects: list[Any], mapped: States, randomness: str) -> None:
        self.fun = fun
        self.treedef = treedef
        self.objects = objects
        self.mapped = mapped
        self.randomness = randomness
        self.body = Body()
        self.shared: list[Box] = []
        self.drawn: list[Box] = []

    def pure(self, lane: jax.Array, leaves: list[Any], states: list[Any]) -> Any:
        """The function of one lane's arrays."""
        body = self.body
        with body.run((self.mapped, states), known=False) as overlay:
            if self.randomness == "different":
                overlay.fork = lambda box, state: forked(state, lane)
            args, kwargs = unflatten_args(self.treedef, leaves, self.objects)
            out = seal(self.fun(*args, **kwargs), overlay)
        mapped = set(self.mapped.boxes)
        others = [box for box in body.written if box not in mapped]
        self.drawn = [box for box in others if box._random]
        if self.drawn and self.randomness == "error":
            raise StateError(
                'a random number is drawn in a function under jm.vmap(..., randomness="error").',
                'Choose randomness="different" or "same", or put the model into eval mode.',
            )
        self.shared = [box for box in others if not (box._random and self.randomness == "different")]
        containers = [box for box in self.shared if box._container]
        if containers:
            raise StateError(
                "a plain container that all lanes share is written under jm.vmap.",
                "Map its module (in_axes=0 over stack_module_state), or return the values.",
                containers[0],
            )
        return out, self.mapped.leave(overlay), [overlay.values[box] for box in self.shared], body.extras()

    def give_back(self, states: list[Any], shared: list[Any], extras: Any) -> None:
        """Do what the function did."""
        self.mapped.put_back(states, self.body)
        for box, value in zip(self.shared, shared, strict=True):
            write(box, value)
        if self.randomness == "different":
            for box in self.drawn:
                write(box, advanced(read(box)))
        self.body.give_back(extras)

    def explained(self, error: ValueError) -> Exception:
        """JAX's error about an output that differs between the lanes, as one about the box that it is of."""
        found = re.search(r"out_axes\[2\]\[(\d+)\]", str(error))
        if found is None:
            return error
        return StateError(
            "the lanes of a jm.vmap share it, and each would write another value to it.",
            "Map the module: jm.vmap(..., in_axes=0) over one whose boxes are stacked (jm.stack_module_state);\n"
            "or reduce over the lanes first (axis_name and SyncBatchNorm); or put it into eval mode.",
            self.shared[int(found[1])],
        )


class _Place:
    """A leaf or an object of the arguments, and what `in_axes` says of it."""

    def __init__(self, value: Any) -> None:
        self.value = value
        self.axes: Any = None

    def axis(self) -> int | None:
        """The axis of an array."""
        if self.axes is None or isinstance(self.axes, int):
            return self.axes
        raise TypeError(f"jm.vmap: in_axes of an array must be an int or None, got {self.axes!r}")

    def of_boxes(self) -> dict[Box, int]:
        """The mapped boxes of an object, gradients included, with their axes."""
        found: dict[Box, int] = {}
        used: set[str] = set()
        for name, box in named_boxes(self.value).items():
            axis = self.axes
            if isinstance(axis, Mapping):
                pattern = next((p for p in axis if fnmatchcase(name, p)), None)
                axis = None if pattern is None else axis[pattern]
                used.add(str(pattern))
            if axis is None:
                continue
            if not isinstance(axis, int):
                raise TypeError(f"jm.vmap: in_axes of a Module must be an int, None or a dict of those, got {axis!r}")
            found[box] = axis
            if isinstance(box, Parameter):
                found[box.grad_box] = axis
        unused = [p for p in self.axes if p not in used] if isinstance(self.axes, Mapping) else []
        if unused:
            raise ValueError(
                f"jm.vmap: in_axes has the pattern {unused[0]!r}, which fits no name: {list(named_boxes(self.value))}"
            )
        return found


def _assign(prefix: Any, full: Any) -> None:
    """Spread `in_axes`, a prefix of the tree of arguments, over the places in it."""
    if isinstance(full, _Place):
        full.axes = prefix
    elif prefix is None or isinstance(prefix, int):
        for place in jax.tree.leaves(full):
            place.axes = prefix
    else:
        axes, of_axes = jax.tree_util.tree_flatten(prefix, is_leaf=lambda x: x is not prefix)
        parts, of_parts = jax.tree_util.tree_flatten(full, is_leaf=lambda x: x is not full)
        if of_axes != of_parts:
            raise ValueError(f"jm.vmap: in_axes must be a prefix of the arguments: {of_axes} and {of_parts}")
        for axis, part in zip(axes, parts, strict=True):
            _assign(axis, part)


def _axes_of_boxes(places: list[_Place]) -> dict[Box, int]:
    found: dict[Box, int] = {}
    seen: dict[int, Any] = {}
    for place in places:
        if seen.setdefault(id(place.value), place.axes) != place.axes:
            raise ValueError(
                f"jm.vmap: one {type(place.value).__name__} has two in_axes, {seen[id(place.value)]} and {place.axes}"
            )
        found.update(place.of_boxes())
    return found


def _size(values: list[Any], axes: list[Any]) -> int:
    for value, axis in zip(values, axes, strict=True):
        for leaf in jax.tree.leaves(value):
            if axis is not None:
                shape = jnp.shape(leaf)
                if not -len(shape) <= axis < len(shape):
                    raise ValueError(f"jm.vmap: axis {axis} of an array of shape {list(shape)} is to be mapped")
                return shape[axis]
    raise ValueError("jm.vmap: nothing is mapped: in_axes is None for every argument, and there is no axis_size")

"""`jm.vmap`: `jax.vmap` for functions of Modules.

A Module is either mapped, its boxes holding stacked arrays (`stack_module_state`), or shared by all lanes. What is
written to a mapped one is stacked again; to a shared one only what is the same in all lanes can be written.
"""

import re
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp

from ..core.box import Box
from ..core.errors import StateError
from ..core.overlay import read, write
from ..core.structure import flatten_args, unflatten_args
from ..random import advanced, forked
from ._prefix import Prefix
from .inner import Body, States, seal, unseal

Randomness = Literal["different", "same", "error"]
_IN_AXES = Prefix(
    "jm.vmap", "in_axes", "an int or None", lambda axis: axis is None or isinstance(axis, int), whole=False
)


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
        prefix = (tuple(in_axes) if isinstance(in_axes, list) else in_axes, 0)
        axes, of_all = _IN_AXES.spread(prefix, treedef, leaves, objects)
        of_boxes = {box: axis for box, axis in of_all.items() if axis is not None}
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


def _size(values: list[Any], axes: list[Any]) -> int:
    for value, axis in zip(values, axes, strict=True):
        for leaf in jax.tree.leaves(value):
            if axis is not None:
                shape = jnp.shape(leaf)
                if not -len(shape) <= axis < len(shape):
                    raise ValueError(f"jm.vmap: axis {axis} of an array of shape {list(shape)} is to be mapped")
                return shape[axis]
    raise ValueError("jm.vmap: nothing is mapped: in_axes is None for every argument, and there is no axis_size")

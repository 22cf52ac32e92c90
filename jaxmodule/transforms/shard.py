"""`jm.shard_map`: `jax.shard_map` for functions of Modules.

The boxes of a Module argument go in by a spec each, and what is written to one comes back by the same. Whatever else
is written must be the same on all devices.
"""

from collections.abc import Callable, Set
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import PartitionSpec

from ..core.box import Box
from ..core.context import Tracer
from ..core.errors import StateError
from ..core.overlay import read, write
from ..core.structure import flatten_args, unflatten_args
from ..random import advanced, forked
from ._prefix import Prefix
from ._rule_call import Inputs, varying
from .inner import Body, NewWrites, States, repeated, seal, undo, unseal

_WHOLE = PartitionSpec()
_IN_SPECS = Prefix(
    "jm.shard_map", "in_specs", "a PartitionSpec", lambda spec: isinstance(spec, PartitionSpec), whole=True
)


def shard_map(
    f: Callable[..., Any] | None = None,
    /,
    *,
    mesh: Any = None,
    in_specs: Any,
    out_specs: Any,
    axis_names: Set[Any] = frozenset(),
    check_vma: bool = True,
    randomness: Literal["different", "same"] = "different",
) -> Callable[..., Any]:
    """Like `jax.shard_map`, for functions of Modules: `f` runs on each device of a mesh, on its part of the arguments.

    Args:
        f: the function. Without it, a decorator is returned.
        mesh: the devices; that of `jax.set_mesh` if None.
        in_specs: as in JAX, a tree prefix of the arguments. For a Module: one `PartitionSpec` for all its boxes, or a
            dict from patterns of dotted names to specs (`{"*.weight": P("data"), "*": P()}`; the first that fits
            counts). What `f` closes over is the same on all devices.
        out_specs, axis_names, check_vma: as in JAX.
        randomness: what a device draws: "different" random numbers from the others', or the "same".

    Returns:
        The mapped function, of positional arguments. State that it writes to a Module among them comes back by the
        Module's spec. Values that `jm.capture` takes in it have the devices first.

    Raises:
        StateError: the devices write different values to what is the same on all of them.
        ValueError: a pattern fits no name, or one Module has two specs.

    Note:
        Call it inside `jm.jit`. A function that writes state is traced once more: what is written is found by trying.
        With `check_vma=False` JAX cannot tell whether the devices agree: for the boxes of arguments that is yours to
        ensure; other boxes can't be written then.

    Example:
        >>> import jax, jax.numpy as jnp, jaxmodule as jm
        >>> from jax.sharding import PartitionSpec as P
        >>> from jaxmodule import nn
        >>> mesh = jax.sharding.Mesh(jax.devices()[:1], ("data",))
        >>> call = jm.shard_map(lambda m, x: m(x), mesh=mesh, in_specs=(P(), P("data")), out_specs=P("data"))
        >>> jm.jit(call)(nn.Linear(3, 2), jnp.ones((4, 3))).shape
        (4, 2)
    """
    if randomness not in ("different", "same"):
        raise ValueError(f'randomness must be "different" or "same", got {randomness!r}')
    if f is None:
        options: Any = {"mesh": mesh, "in_specs": in_specs, "out_specs": out_specs, "axis_names": axis_names}
        return lambda f: shard_map(f, check_vma=check_vma, randomness=randomness, **options)
    specs = tuple(in_specs) if isinstance(in_specs, list) else in_specs

    def shard_map_of(*args: Any) -> Any:
        leaves, treedef, objects = flatten_args(args)
        of_leaves, of_boxes = _IN_SPECS.spread(specs, treedef, leaves, objects)
        run = _Run(f, treedef, objects, of_boxes, _axes(mesh, axis_names))
        run.randomness, run.check_vma = randomness, check_vma

        def attempt(written: list[Box]) -> Any:
            run.start(States(written))
            mapped = jax.shard_map(
                run.pure,
                mesh=mesh,
                in_specs=(of_leaves, run.specs_in(), [_WHOLE] * len(run.others.boxes)),
                out_specs=(out_specs, run.specs_out(), (_WHOLE, PartitionSpec(run.axes))),
                axis_names=axis_names,  # pyright: ignore[reportArgumentType]
                check_vma=check_vma,
            )
            out, states, extras = mapped(leaves, run.mapped.read(), run.others.read())
            if run.more:
                raise NewWrites(run.more)
            run.give_back(states, extras)
            return unseal(out)

        return repeated(attempt)

    shard_map_of.__name__ = f"shard_map_{getattr(f, '__name__', type(f).__name__)}"
    return shard_map_of


class _Run:
    """One mapped call."""

    randomness = "different"
    check_vma = True

    def __init__(
        self, fun: Any, treedef: Any, objects: list[Any], specs: dict[Box, Any], axes: tuple[Any, ...]
    ) -> None:
        self.fun = fun
        self.treedef = treedef
        self.objects = objects
        self.axes = axes
        # a generator that is the same everywhere is forked where it is met, as one that is closed over
        self.specs = {box: spec for box, spec in specs.items() if not (box._random and not _mentioned(spec))}
        self.mapped = States(self.specs)

    def start(self, written: States) -> None:
        """Prepare an attempt, with the boxes that are known to be written, or to go in beside the arguments."""
        self.body = Body()
        self.others = States(box for box in written.boxes if box not in self.specs)
        self.written = States(box for box in written.boxes if not self._is_forked(box))
        self.written.read()  # for the form of the containers
        self.missed: dict[Box, None] = {}
        self.more: list[Box] = []

    def specs_in(self) -> list[Any]:
        return list(self.specs.values())

    def specs_out(self) -> list[Any]:
        return [self.specs.get(box, _WHOLE) for box in self.written.boxes]

    def pure(self, leaves: list[Any], states: list[Any], others: list[Any]) -> Any:
        """The function of one device's arrays."""
        body = self.body
        with body.run((self.mapped, states), (self.others, others), known=False) as overlay:
            if self.randomness == "different":
                overlay.fork = self._fork
                for box in filter(self._is_forked, self.others.boxes):
                    overlay.values[box] = self._fork(box, overlay.values[box])
            overlay.values = Inputs(overlay.values, lambda box: None, lambda box: self._outside(box, overlay))
            out = seal(self.fun(*unflatten_args(self.treedef, leaves, self.objects)), overlay)
            overlay.settle()
            known = {*self.written.boxes, *self.others.boxes, *overlay.born}
            new = [box for box in overlay.written if box not in known and not self._is_forked(box)]
            self.more = list(dict.fromkeys([*self.missed, *new]))
            if self.more:
                undo(overlay)
        for box in () if self.more else self.written.boxes:
            self._check(box, overlay.values[box])
        born, emitted = body.extras()
        if not self.more and not all(self._agrees(value, _WHOLE) for value in born):
            raise StateError(
                "an attribute is first set inside jm.shard_map, to a value that is not known to be the same on all "
                "devices.",
                "Give it its first value before, in a module that is an argument with a spec for it.",
            )
        stacked = jax.tree.map(lambda x: jnp.asarray(x)[None], emitted)
        return out, self.written.leave(overlay), (born, stacked)

    def _is_forked(self, box: Box) -> bool:
        """Does each device draw from a state of its own?"""
        return box._random and self.randomness == "different" and box not in self.specs

    def _fork(self, box: Box, state: Any) -> Any:
        return forked(state, lax.axis_index(self.axes).astype(jnp.uint32))

    def _outside(self, box: Box, overlay: Any) -> None:
        """`box` is looked up and not among the inputs. JAX cannot close over what is laid out on a mesh already: it is
        to go in, and until then a value like it is read instead.
        """
        value = box._value if overlay.parent is None else overlay.parent.lookup(box)
        if isinstance(value, jax.Array) and not jax.typeof(value).sharding.mesh.empty:
            self.missed[box] = None
            overlay.values[box] = (
                jnp.zeros(value.shape, value.dtype) if isinstance(value, Tracer) else jnp.asarray(np.asarray(value))
            )

    def _agrees(self, value: Any, spec: Any) -> bool:
        """Is a value known to be the same along the axes that its spec does not name?"""
        free = set(self.axes) - _mentioned(spec)
        return self.check_vma and not any(free & varying(leaf) for leaf in jax.tree.leaves(value))

    def _check(self, box: Box, value: Any) -> None:
        """Raise if the devices would write different values to what is one."""
        own = box in self.specs
        spec = self.specs.get(box, _WHOLE)
        if self._agrees(value, spec) or box._random or (own and not self.check_vma):
            return
        if own:
            raise StateError(
                f"the devices of a jm.shard_map write different values to it, but its spec {spec} says that it is the "
                f"same along the other axes of {self.axes}.",
                "Reduce over the devices first (jax.lax.pmean of gradients or of the loss, nn.SyncBatchNorm); or put "
                "it into eval mode; or give it a spec of its own by name in in_specs.",
                box,
            )
        why = (
            "each would write another value" if self.check_vma else "check_vma=False, so nobody checks that they agree"
        )
        raise StateError(
            f"the devices of a jm.shard_map share it, which is written and belongs to no argument; {why}.",
            "Pass its module as an argument with a spec in in_specs; or reduce over the devices first (jax.lax.pmean, "
            "nn.SyncBatchNorm).",
            box,
        )

    def give_back(self, states: list[Any], extras: Any) -> None:
        """Do what the function did."""
        self.written.put_back(states, self.body)
        for box in filter(self._is_forked, self.body.written):
            write(box, advanced(read(box)))
        self.body.give_back(extras)


def _axes(mesh: Any, axis_names: Set[Any]) -> tuple[Any, ...]:
    """The axes that the function is mapped over, in the order of the mesh."""
    mesh = jax.sharding.get_abstract_mesh() if mesh is None else mesh
    return tuple(name for name in mesh.axis_names if not axis_names or name in axis_names)


def _mentioned(spec: Any) -> set[Any]:
    """The mesh axes in a spec."""
    return {name for entry in spec if entry is not None for name in (entry if isinstance(entry, tuple) else (entry,))}

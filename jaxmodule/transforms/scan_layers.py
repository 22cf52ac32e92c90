"""`jm.scan_layers`: a list of equal layers as one `lax.scan`, so that a program does not grow with its depth."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp

from ..core.box import Box
from ..core.context import set_ambient, tls
from ..core.overlay import emit
from ..core.structure import Layout
from ._jit_diff import structure_differences
from ._scan_weights import Run
from .branches import policy_of
from .inner import Body, States, seal, settled, unseal


def scan_layers(
    layers: Iterable[Any],
    *,
    remat: bool | str | Callable[..., Any] = False,
    has_aux: bool = False,
    weights: str = "select",
    unroll: int = 1,
) -> Callable[..., Any]:
    """Run equal layers one after the other as one loop: `for layer in layers: x = layer(x, *args, **kwargs)`.

    Compiling takes the time of one layer. Parameters, their names, their gradients and the optimizer's state stay those
    of the layers; results, statistics and random numbers are the Python loop's.

    Args:
        layers: a `ModuleList`, a `Sequential`, or any modules of one structure.
        remat: whether the backward pass computes each layer again: True, or a policy as of `jm.remat`.
        has_aux: whether a layer returns `(x, aux)`; the aux of all are then stacked.
        weights: "select" takes each layer's weights when their turn comes, so that none is in memory twice; a forward
            derivative (`jm.jvp`, `jm.hessian`) is an error. "stack" stacks all weights first: a second copy of them,
            and every transform of JAX.
        unroll: how many layers are written out in one step of the loop.

    Returns:
        A function of `(x, *args, **kwargs)`: x goes from layer to layer and keeps its shapes and dtypes, the rest is
        given to each. It returns x, or `(x, aux)`.

    Raises:
        ValueError: the layers differ (the message names the first difference), or there are none.
        TypeError: a layer's output has another shape or dtype than its input.

    Note:
        `jm.capture` gets each layer's values under the layer's own name. Hooks must be the same functions on all
        layers. They run once, when the first layer is traced; those with `on_host=True` run for each layer.
        What it costs and saves: benchmarks/compile_depth.py.

    Example:
        >>> import jax.numpy as jnp, jaxmodule as jm
        >>> from jaxmodule import nn
        >>> layers = nn.ModuleList(nn.Sequential(nn.Linear(4, 4), nn.Tanh()) for _ in range(6))
        >>> jm.scan_layers(layers, remat=True)(jnp.ones((2, 4))).shape
        (2, 4)
    """
    if weights not in ("select", "stack"):
        raise ValueError(f'weights must be "select" or "stack", got {weights!r}')
    policy = False if remat is False else policy_of(None if remat is True else remat)

    def scan_layers_of(x: Any, *args: Any, **kwargs: Any) -> Any:
        stack = _Stack(list(layers))
        first = stack.layers[0]

        leaves, tree = jax.tree.flatten(seal(x))
        leaves = [jnp.asarray(leaf) for leaf in leaves]
        of_aux: list[Any] = []

        def trace(carried: States) -> Any:
            body = Body("jm.scan_layers")
            captures = tuple(_Captures(capture, stack) for capture in tls.captures)

            def layer(own: list[Any], state: Any, of_carried: list[Any]) -> Any:
                *own, i = own
                with stack.at(i), _captured(captures), body.run((stack.states, own), (carried, of_carried)) as overlay:
                    out = first(unseal(jax.tree.unflatten(tree, state)), *args, **kwargs)
                    if has_aux and not (isinstance(out, tuple) and len(out) == 2):
                        raise TypeError(f"with has_aux=True a layer must return (x, aux), got {type(out).__name__}")
                    new, aux = out if has_aux else (out, None)
                    new_leaves, new_tree = jax.tree.flatten(seal(new, overlay))
                    _check_same(tree, state, new_tree, new_leaves)
                    aux = seal(aux, overlay)
                flat, structure = jax.tree.flatten((aux, stack.written(body), body.extras()))
                of_aux[:] = [structure]
                return new_leaves, carried.leave(overlay), flat

            weights_of = [[*states.read(), jnp.int32(i)] for i, states in enumerate(stack.states_of)]
            return (Run(layer, weights_of, leaves, carried.read(), policy, unroll, stack.at), body), [body]

        carried, (run, body) = settled(trace)
        last, of_carried, rest = run.selecting() if weights == "select" else run.stacking()
        aux, written, (_, emitted) = jax.tree.unflatten(of_aux[0], rest)
        carried.put_back(of_carried, body)
        stack.write(body, written)
        for (proxy, place), values in zip(body.sinks, emitted, strict=True):
            proxy.hand_on(place, values)
        new = unseal(jax.tree.unflatten(tree, last))
        return (new, unseal(aux)) if has_aux else new

    return scan_layers_of


class _Stack:
    """Layers of one structure, and which boxes and modules of theirs correspond.

    Attributes:
        index: which layer it is whose body, or derivative, is being traced; for hooks that see values.
        began: for `jm.debug`, when it saw something in here first.
    """

    def __init__(self, layers: list[Any]) -> None:
        if not layers:
            raise ValueError("jm.scan_layers got no layers")
        self.layers = layers
        self.index: Any = None
        self.began: dict[Any, int] = {}
        tls.alike = True
        try:
            self.layouts = [Layout((layer,)) for layer in layers]
        finally:
            tls.alike = False
        structure = self.layouts[0].structure
        for i, layout in enumerate(self.layouts):
            if layout.structure is not structure:
                found = structure_differences(structure.key, layout.structure.key, [""], [""])
                what = found[0].removeprefix(": ") if found else "their structure"
                raise ValueError(
                    f"jm.scan_layers: layers 0 and {i} differ in {what}. Only equal layers can be run as one loop."
                )
        rows = list(zip(*[self._boxes(layout) for layout in self.layouts], strict=True))
        names = [*self.layouts[0].names, *self.layouts[0].cell_names]
        for name, row in zip(names, rows, strict=True):
            self._check(name, row)
        own = [row for row in rows if len(set(row)) == len(layers)]  # the others are shared by all layers
        self._check_apart(dict(zip(rows, names, strict=True)))
        nodes = [[ref() for ref in layout.nodes] for layout in self.layouts]
        self._nodes = {id(row[0]): row for row in zip(*nodes, strict=True)}
        self.rows: list[tuple[Box, ...]] = own
        self.states_of = [States(boxes) for boxes in zip(*own, strict=True)] or [States(()) for _ in layers]
        self.states = self.states_of[0]

    @contextmanager
    def at(self, index: Any) -> Iterator[None]:
        """The block in which the first layer stands for the one of this number."""
        outer, tls.stack = (tls.stack, self.index), self
        self.index = index
        try:
            yield
        finally:
            tls.stack, self.index = outer

    def counterparts(self, module: Any) -> tuple[Any, ...] | None:
        """What a module of the first layer is in each layer; None for one that isn't in it."""
        return self._nodes.get(id(module))

    @staticmethod
    def _check_apart(names: dict[tuple[Box, ...], str]) -> None:
        """Raise for a box that is in different places of different layers: its value would be two."""
        place: dict[Box, str] = {}
        for row, name in names.items():
            for box in set(row):
                if box in place:
                    raise ValueError(
                        f"jm.scan_layers: {place[box]} of one layer is {name} of another. Layers that share state all "
                        "share it under one name, or can't be run as one loop."
                    )
                place[box] = name

    @staticmethod
    def _boxes(layout: Layout) -> list[Box]:
        return [*layout.boxes[: len(layout.names)], *[box for box, _ in layout.cells]]

    def _check(self, name: str, row: tuple[Box, ...]) -> None:
        if 1 < len(set(row)) < len(row):
            seen: dict[Box, int] = {}
            first, second = next((seen[b], i) for i, b in enumerate(row) if seen.setdefault(b, i) != i)
            raise ValueError(f"jm.scan_layers: layers {first} and {second} share {name}, and others don't.")
        if row[0]._container:
            return
        kinds = [(box.value.shape, box.value.dtype) for box in row]
        for i, (shape, dtype) in enumerate(kinds):
            if (shape, dtype) != kinds[0]:
                (first_shape, first_dtype) = kinds[0]
                raise ValueError(
                    f"jm.scan_layers: {name} is {first_dtype}{list(first_shape)} in layer 0 and {dtype}{list(shape)} "
                    f"in layer {i}. Only equal layers can be run as one loop."
                )

    def written(self, body: Body) -> list[Any]:
        """What the body left in those of its own boxes that it wrote."""
        return self.states.leave(body.overlay, body.wrote(self.states))

    def write(self, body: Body, stacks: Sequence[Any]) -> None:
        """Write the stacked values of those to each layer's boxes."""
        rows = {row[0]: row for row in self.rows}
        for box, stack in zip(body.wrote(self.states), stacks, strict=True):
            for i, target in enumerate(rows[box]):
                self.states_of[i].write([jax.tree.map(lambda a, i=i: a[i], stack)], [target])


class _Captures:
    """Stands in for a `jm.capture` in the first layer: values come out stacked, each layer's under its own name."""

    def __init__(self, capture: Any, stack: _Stack) -> None:
        self.capture = capture
        self.key = capture.key
        nodes = [[ref() for ref in layout.nodes] for layout in stack.layouts]
        self._names = {i: [capture.name_of(node) for node in row] for i, row in enumerate(zip(*nodes, strict=True))}
        self._places = {id(node): i for i, node in enumerate(nodes[0])}
        self._outside = capture.name_of

    def name_of(self, module: Any) -> Any:
        """The place of a module in its layer, None if no layer's is captured."""
        place = self._places.get(id(module))
        if place is None:
            name = self._outside(module)
            return None if name is None else [name]  # shared by the layers: every call is one
        return place if any(name is not None for name in self._names[place]) else None

    def relation(self, index: dict[int, int]) -> Any:
        """As of the capture."""
        return self.capture.relation(index)

    def hand_on(self, place: Any, values: Any) -> None:
        """Give the capture what belongs to it."""
        count = jax.tree.leaves(values)[0].shape[0]
        names = self._names[place] if isinstance(place, int) else [*place] * count
        for i, name in enumerate(names):
            if name is not None:
                emit(self.capture, name, jax.tree.map(lambda a, i=i: a[i], values))


@contextmanager
def _captured(captures: tuple[Any, ...]) -> Iterator[None]:
    outer = tls.captures
    set_ambient(captures=captures)
    try:
        yield
    finally:
        set_ambient(captures=outer)


def _check_same(tree: Any, before: list[Any], new_tree: Any, after: list[Any]) -> None:
    """Raise where a layer's output is not like its input."""
    kinds = [[f"{x.dtype}{list(x.shape)}" for x in map(jnp.asarray, side)] for side in (before, after)]
    if tree != new_tree or kinds[0] != kinds[1]:
        raise TypeError(
            f"jm.scan_layers: a layer takes x as {', '.join(kinds[0])} and returns {', '.join(kinds[1])}: what goes "
            f"from layer to layer keeps its form{'' if tree == new_tree else f' ({tree} and {new_tree})'}."
        )

"""Running a model on shapes: what each module is called with and returns, and XLA's count of operations.

It happens on a clone whose boxes hold shapes, so that neither state nor structure nor hooks of the model change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..core.box import Box
from ..core.device import blank, describe, is_abstract
from ..core.freeze import Freezer
from ..core.parameter import Parameter
from ..core.structure import Layout, flatten_args, unflatten_args
from ..nn.functional._sdpa_kernel import SDPBackend, sdpa_kernel
from ..nn.module import Module
from ..random import default_generator
from ..transforms.program import describe as describe_outputs
from ..transforms.program import tracing
from ._summary_flops import flops

_HELP = (
    "jm.summary traces the forward, as jax.jit does: what depends on the values of arrays in Python (`if x.sum() > 0`, "
    "`.item()`, numpy functions) has no answer there. Write it with jnp.where or jm.cond, or call jm.summary(model) "
    "without inputs, which lists the parameters."
)
_SHAPES = (
    "Inputs that were given as shapes are float32. Give jax.ShapeDtypeStruct(shape, jnp.int32) for token ids, and pass "
    "each argument of the forward by itself."
)


@dataclass
class Call:
    """One call of a module.

    Attributes:
        args, kwargs, output: its inputs and output, with `jax.ShapeDtypeStruct` for arrays.
        flops: of the call, XLA's estimate; None where it is not known.
        flops_backward: of its gradients by the parameters and the inputs, None where they were not asked for.
        at_least: whether there is a loop of unknown length in it, counted once.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Any = None
    flops: float | None = None
    flops_backward: float | None = None
    at_least: bool = False


def as_inputs(tree: Any) -> tuple[Any, bool]:
    """`tree` with a description for every array and every shape in it; and whether there was a shape."""
    found = False

    def one(item: Any) -> Any:  # an alias: `type(x) is tuple` narrows for good
        nonlocal found
        x: Any = item
        if type(x) is tuple and x and all(type(n) is int for n in x):
            found = True
            return jax.ShapeDtypeStruct(x, jnp.float32)
        if isinstance(x, (jax.Array, Box)):
            return describe(x.value if isinstance(x, Box) else x)
        if isinstance(x, (np.ndarray, np.generic)):
            return blank(x.shape, x.dtype)
        if type(x).__module__.partition(".")[0] == "torch" and hasattr(x, "dtype"):
            return blank(item.shape, jnp.dtype(str(item.dtype).removeprefix("torch.")))
        if type(x) in (list, tuple):
            return type(x)(map(one, x))
        if isinstance(x, dict):
            return type(x)({key: one(value) for key, value in x.items()})
        return x

    return one(tree), found


def clone_of(model: Module) -> Module:
    """A copy of the model that holds shapes."""
    return jax.tree.map(describe, model)


def run(model: Module, args: tuple[Any, ...], kwargs: dict[str, Any], backward: bool) -> dict[str, list[Call]]:
    """Call a clone of the model on shapes.

    Returns:
        The calls of each module that was called, by its (first) path.
    """
    (args, kwargs), shapes_given = as_inputs((args, kwargs))
    clone = clone_of(model)
    modules = dict(clone.named_modules())
    calls: dict[str, list[Call]] = {}
    handles = [handle for path, module in modules.items() for handle in _recorders(module, path, calls)]
    try:
        traced = _Traced(clone, args, kwargs)
    except Exception as error:
        error.add_note(_HELP)
        if shapes_given:
            error.add_note(_SHAPES)
        raise
    finally:
        for handle in handles:
            handle.remove()
    counter = _Counter(backward)
    for path, of_module in calls.items():
        for call in of_module:
            counter.count(modules[path], call, traced if path == "" and len(of_module) == 1 else None)
    return calls


def _recorders(module: Module, path: str, calls: dict[str, list[Call]]) -> Iterator[Any]:
    running: list[Call] = []

    def before(_: Any, args: Any, kwargs: Any) -> None:
        call = Call(_specs(args), _specs(kwargs))
        running.append(call)
        calls.setdefault(path, []).append(call)

    def after(_: Any, args: Any, output: Any) -> None:
        if running:
            running.pop().output = _specs(output)

    yield module.register_forward_pre_hook(before, with_kwargs=True)
    yield module.register_forward_hook(after)


def _specs(tree: Any) -> Any:
    def one(x: Any) -> Any:
        x = x.value if isinstance(x, Box) and not x._container else x
        return jax.ShapeDtypeStruct(x.shape, x.dtype) if isinstance(x, (jax.Array, np.ndarray)) else x

    return jax.tree.map(one, tree, is_leaf=lambda x: isinstance(x, (Box, Module)))


class _Traced:
    """A module's call, traced on shapes."""

    def __init__(self, module: Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        leaves, treedef, self.objects = flatten_args((module, args, kwargs))
        self.objects.append(default_generator())
        self.layout = Layout(self.objects)
        self.values = self.layout.values()
        self.dynamic = [i for i, leaf in enumerate(leaves) if is_abstract(leaf)]
        self.arrays = [leaves[i] for i in self.dynamic]
        self.leaves, self.treedef = leaves, treedef
        self.traced = jax.jit(self.pure).trace(self.values, self.arrays)

    def pure(self, values: list[Any], arrays: list[Any]) -> tuple[list[Any], list[Any]]:
        """The outputs, and what the call writes."""
        leaves = list(self.leaves)
        for i, array in zip(self.dynamic, arrays, strict=True):
            leaves[i] = array
        # Attention by its formula: blocks are loops whose lengths no cost analysis knows.
        with sdpa_kernel(SDPBackend.MATH), tracing(self.layout, values) as overlay:
            module, args, kwargs = unflatten_args(self.treedef, leaves, self.objects)
            _, out, written = describe_outputs(overlay, self.layout, self.objects, module(*args, **kwargs))
            overlay.roll_back()
        return [x for x in out if isinstance(x, jax.Array)], written

    def backward(self, by_inputs: bool) -> Any:
        """The same with the gradients by the trainable parameters, and by the inputs."""
        trained = [isinstance(box, Parameter) and box.requires_grad for box in self.layout.boxes]
        trained += [False] * (len(self.values) - len(trained))
        of_values = [i for i, on in enumerate(trained) if on and _floating(self.values[i])]
        of_arrays = [i for i, array in enumerate(self.arrays) if by_inputs and _floating(array)]

        def pure(values: list[Any], arrays: list[Any]) -> Any:
            def forward(some_values: list[Any], some_arrays: list[Any]) -> Any:
                out, written = self.pure(
                    _replaced(values, of_values, some_values), _replaced(arrays, of_arrays, some_arrays)
                )
                return [x for x in out if _floating(x)], (out, written)

            chosen = [values[i] for i in of_values], [arrays[i] for i in of_arrays]
            out, pull, written = jax.vjp(forward, *chosen, has_aux=True)
            return pull([jnp.ones_like(x) for x in out]), written

        return jax.jit(pure).trace(self.values, self.arrays)


def _replaced(items: list[Any], places: list[int], new: list[Any]) -> list[Any]:
    items = list(items)
    for place, item in zip(places, new, strict=True):
        items[place] = item
    return items


def _floating(x: Any) -> bool:
    return jnp.issubdtype(x.dtype, jnp.inexact)


class _Counter:
    """XLA's counts; equal modules that are called alike are counted once."""

    def __init__(self, backward: bool) -> None:
        self.backward = backward
        self.known: dict[Any, tuple[float | None, float | None, bool]] = {}

    def count(self, module: Module, call: Call, traced: _Traced | None) -> None:
        """Put the counts of a call into it. `traced`: the call, where that is done already."""
        key = _key(module, call)
        if key is None or key not in self.known:
            found = _attempt(lambda: self._counts(traced or _Traced(module, call.args, call.kwargs), traced is None))
            found = (None, None, False) if found is None else found
            if key is not None:
                self.known[key] = found
        else:
            found = self.known[key]
        call.flops, call.flops_backward, call.at_least = found

    def _counts(self, traced: _Traced, by_inputs: bool) -> tuple[float | None, float | None, bool]:
        forward, at_least = flops(traced.traced)
        if not self.backward:
            return forward, None, at_least
        both = _attempt(lambda: flops(traced.backward(by_inputs))[0])
        return forward, None if both is None else max(both - forward, 0.0), at_least


def _attempt(count: Callable[[], Any]) -> Any:
    """What `count` returns; None where a module cannot be called by itself, or XLA cannot count."""
    try:
        return count()
    except Exception:
        return None


def _key(module: Module, call: Call) -> Any:
    layout = Layout((module,))
    arrays = tuple((x.shape, x.dtype) for x in layout.values())
    leaves, treedef, objects = flatten_args((call.args, call.kwargs))
    if objects:
        return None
    freeze = Freezer()
    inputs = tuple((x.shape, x.dtype) if is_abstract(x) else freeze(x) for x in leaves)
    key = (layout.structure, arrays, treedef, inputs)
    return key if _attempt(lambda: hash(key)) is not None else None

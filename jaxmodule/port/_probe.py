"""Recording what every module of a model is called with and returns, alike for torch and for jaxmodule.

*Call*: one call of one module. *Probe*: a zero that is added to an array on its way into or out of a module, so that
the gradient of the probe is the gradient of that array there.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from ..core.box import unbox
from ..core.context import Tracer
from ._tree import is_array, is_number, is_torch, labelled, mapped, named_arguments, plain, to_numpy

__all__ = ["Call", "Recorder", "has_gradient", "is_floating", "key_of"]


@dataclass(eq=False)
class Call:
    """One call of one module.

    Attributes:
        name: the module's dotted name; "" for the model.
        number: which call of this module it is, from 0.
        module: the module.
        start: how many calls had begun before it.
        parent: the call that it happened in.
        inputs: its arrays by label, as they were before the call.
        options: the other arguments by label.
        args, kwargs: the arguments, their arrays as they were before the call.
        end: how many calls had ended before it, -1 if it raised.
        outputs: the arrays that it returned, by label.
        numbers: the plain numbers that it returned, as arrays by label.
        returned: the class of what it returned.
        children: the calls that happened in it.
        hidden: it happened inside a JAX transform, where there are no values to see.
    """

    name: str
    number: int
    module: Any
    start: int
    parent: "Call | None"
    inputs: dict[str, Any]
    options: dict[str, Any]
    args: Any
    kwargs: Any
    end: int = -1
    outputs: dict[str, Any] = field(default_factory=dict)
    numbers: dict[str, np.ndarray] = field(default_factory=dict)
    returned: str = ""
    children: list["Call"] = field(default_factory=list)
    hidden: bool = False

    @property
    def results(self) -> dict[str, Any]:
        """The arrays and numbers that it returned, by label."""
        return self.outputs | self.numbers

    def keep(self, output: Any, snapshot: Callable[[Any], Any] = lambda x: x) -> None:
        """Note what it returned."""
        self.outputs = {label: snapshot(x) for label, x in labelled(output).items()}
        self.numbers = {label: np.asarray(x) for label, x in labelled(output, wanted=is_number).items()}
        self.returned = type(output).__name__

    @property
    def title(self) -> str:
        """Its name as a person is shown it."""
        return (self.name or "(model)") + (f" #{self.number + 1}" if self.number else "")


def key_of(start: int, where: str, label: str) -> str:
    """The name of a probe: of the `start`-th call, `where` is "in" or "out"."""
    return f"{start}:{where}:{label}"


def is_floating(value: Any) -> bool:
    """Is an array one of real floating-point numbers?"""
    if is_torch(value):
        return value.is_floating_point()
    return bool(jax.numpy.issubdtype(value.dtype, np.floating))


def has_gradient(value: Any) -> bool:
    """Can an array have a gradient: are its numbers real or complex, not integers?"""
    if is_torch(value):
        return value.is_floating_point() or value.is_complex()
    return bool(jax.numpy.issubdtype(value.dtype, np.inexact))


class Recorder:
    """Hooks on every module of a model.

    Args:
        model: of either framework: both call hooks in the same way.
        values: whether to keep the arrays; without, only `probes` are added.
        probes: arrays to add, by `key_of`.
    """

    def __init__(self, model: Any, *, values: bool = True, probes: dict[str, Any] | None = None) -> None:
        self.model = model
        self.values = values
        self.probes = probes or {}
        self.calls: list[Call] = []
        self._open: list[Call] = []
        self._ended = 0
        self._numbers: dict[int, int] = {}
        self._copies: dict[int, tuple[Any, int, np.ndarray]] = {}

    @contextlib.contextmanager
    def attached(self) -> Iterator["Recorder"]:
        """Record in a block."""
        with contextlib.ExitStack() as stack:
            for name, module in self.model.named_modules():
                before = module.register_forward_pre_hook(self._before(name), with_kwargs=True)
                stack.callback(before.remove)
                after = module.register_forward_hook(self._after, with_kwargs=True)
                stack.callback(after.remove)
            yield self
        self._copies.clear()

    def _snapshot(self, value: Any) -> Any:
        """The array as it is now. Most arrays are seen twice, as an output and as an input: one copy does for both."""
        if not is_torch(value):
            return value.copy() if isinstance(value, np.ndarray) else unbox(value)
        known = self._copies.get(id(value))
        if known is not None and known[0] is value and known[1] == value._version:
            return known[2]
        copy = to_numpy(value)
        self._copies[id(value)] = (value, value._version, copy)
        return copy

    def _before(self, name: str) -> Callable[..., Any]:
        def hook(module: Any, args: Any, kwargs: Any) -> Any:
            number = self._numbers[id(module)] = self._numbers.get(id(module), -1) + 1
            parent = self._open[-1] if self._open else None
            call = Call(name, number, module, len(self.calls), parent, {}, {}, (), {})
            if self.values:
                given = named_arguments(module, args, kwargs)
                call.args, call.kwargs = mapped(args, self._snapshot), mapped(kwargs, self._snapshot)
                for label, value in given.items():
                    call.inputs |= {at: self._snapshot(x) for at, x in labelled(value, label).items()}
                    call.options |= {} if is_array(value) else plain(value, label)
                call.hidden = any(isinstance(x, Tracer) for x in call.inputs.values())
            if parent is not None:
                parent.children.append(call)
            self.calls.append(call)
            self._open.append(call)
            if not self.probes:
                return None
            probed: dict[int, Any] = {}
            return self._probed(call, "in", args, probed), self._probed(call, "in", kwargs, probed)

        return hook

    def _after(self, module: Any, args: Any, kwargs: Any, output: Any) -> Any:
        while self._open[-1].module is not module:  # a call that raised, and was caught
            self._open.pop()
        call = self._open.pop()
        call.end = self._ended
        self._ended += 1
        if self.values:
            call.keep(output, self._snapshot)
            call.hidden = call.hidden or any(isinstance(x, Tracer) for x in call.outputs.values())
        return self._probed(call, "out", output, {}) if self.probes else None

    def _probed(self, call: Call, where: str, value: Any, done: dict[int, Any]) -> Any:
        """`value` with the probes of this place added; an array that is there twice stays one."""

        def change(array: Any) -> Any:
            if id(array) not in done:
                probe = self.probes.get(key_of(call.start, where, str(len(done))))
                done[id(array)] = (array if probe is None else array + probe, array)
            return done[id(array)][0]

        return mapped(value, change)

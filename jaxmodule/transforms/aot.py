"""Ahead-of-time compilation: what `jm.jit(f).lower(...)` returns, and what its `compile()` does.

They are JAX's `Lowered` and `Compiled`, told of the objects: the compiled function is called with Modules and arrays,
and writes state back as the `jm.jit` function does, but never traces: arguments of another structure, shape or dtype
are an error that says what differs.
"""

import threading
import weakref
from typing import Any, Generic, TypeVar

from ..core.context import tls
from ..core.structure import Layout
from ._jit_report import array_differences, described, program_differences
from .program import Plan

R = TypeVar("R")
Names = tuple[list[str], list[str]]


class Lowered(Generic[R]):
    """A traced and lowered call: JAX's `Lowered`, whose boxes' arrays are ordinary inputs and outputs."""

    def __init__(self, lowered: Any, plan: Plan, leaves: list[Any], key: Any, names: Names, function: Any) -> None:
        self._lowered = lowered
        self._key = key
        self._names = names
        self._function = function
        self._program = plan.program
        self._types = [described(x) for x in (*plan.layout.values(), *leaves)]
        self._spec = lowered.out_tree.node_data()[1]
        if self._spec.structural:  # the trace is JAX's to use again, and a call must make one of its own
            function._drop(plan)

    def compile(self, compiler_options: dict[str, Any] | None = None) -> "Compiled[R]":
        """Compile for these arguments' structure, shapes and dtypes."""
        compiled = self._lowered.compile() if compiler_options is None else self._lowered.compile(compiler_options)
        return Compiled(compiled, self)

    def as_text(self, dialect: str | None = None, *, debug_info: bool = False) -> str:
        """The program as text, of "stablehlo" (the default) or "hlo"."""
        return self._lowered.as_text(dialect, debug_info=debug_info)

    def compiler_ir(self, dialect: str | None = None) -> Any:
        """The program as the compiler's own object."""
        return self._lowered.compiler_ir(dialect)

    def cost_analysis(self) -> Any:
        """An estimate of the program's cost before optimization."""
        return self._lowered.cost_analysis()

    @property
    def args_info(self) -> Any:
        """Shapes, dtypes and donation of the inputs: the boxes' arrays, then the arguments' own."""
        return self._lowered.args_info

    @property
    def out_info(self) -> Any:
        """Shapes and dtypes of the outputs: the function's own, then what is written."""
        return self._lowered.out_info

    @property
    def in_tree(self) -> Any:
        """The tree of the inputs."""
        return self._lowered.in_tree

    @property
    def out_tree(self) -> Any:
        """The tree of the outputs."""
        return self._lowered.out_tree

    def __repr__(self) -> str:
        return f"Lowered({self._function._label})"


class Compiled(Generic[R]):
    """A compiled call: call it with Modules and arrays like those it was lowered for.

    Raises:
        TypeError: on a call whose arguments differ in structure, shape, dtype or mode: it never compiles again.
    """

    def __init__(self, compiled: Any, lowered: Lowered[R]) -> None:
        self._compiled = compiled
        self._lowered = lowered
        self._function = lowered._function
        self._program = _Executable(compiled, lowered._program)
        self._plan: tuple[Any, Plan] | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> R:
        if self._lowered._spec.structural:
            raise TypeError(
                f"{self._function._label} changes the structure of its arguments (it adds, removes or replaces parts, "
                "or sets attributes that are no arrays), which it can do only while traced: call the jm.jit function."
            )
        leaves, treedef, objects, statics = self._function._inputs(args, kwargs)
        plan = self._plan_for(objects, treedef, statics)
        try:
            _, out = plan.call(objects, leaves)
        except (TypeError, ValueError) as error:
            differences = self._array_differences(plan, leaves)
            if not differences:
                raise
            raise TypeError(self._mismatch(differences)) from error
        return out

    def _plan_for(self, objects: list[Any], treedef: Any, statics: Any) -> Plan:
        kept = self._plan
        call = (treedef, tls.ambient, statics.key(), *map(id, objects))
        if kept is not None and kept[0] == call and kept[1].current():
            return kept[1]
        layout = Layout(objects)
        key, expected = self._function._key(layout, treedef, statics), self._lowered._key
        if _no_matter(key) != _no_matter(expected):
            roots = self._lowered._names[1]
            raise TypeError(self._mismatch(program_differences(expected, key, roots, roots)))
        if not self._program.fresh():
            raise TypeError(self._mismatch(["an object that the function uses, though it is no argument, has changed"]))
        plan = Plan(layout, self._program)
        plan.watch(objects, _forgetter(self))
        self._plan = (call, plan)
        return plan

    def _array_differences(self, plan: Plan, leaves: list[Any]) -> list[str]:
        now = [described(x) for x in (*plan.layout.values(), *leaves)]
        return array_differences(self._lowered._key, self._lowered._types, now, *self._lowered._names)

    def _mismatch(self, differences: list[str]) -> str:
        lines = "\n".join(f"  - {line}" for line in differences)
        return (
            f"the compiled {self._function._label} was called with other arguments than it was lowered for:\n{lines}\n"
            "Lower and compile it for these, or call the jm.jit function, which does so by itself."
        )

    def as_text(self) -> str:
        """The optimized program as text."""
        return self._compiled.as_text()

    def cost_analysis(self) -> Any:
        """The compiler's estimate of the program's cost."""
        return self._compiled.cost_analysis()

    def memory_analysis(self) -> Any:
        """What memory the program needs: its arguments, outputs and temporary arrays."""
        return self._compiled.memory_analysis()

    def runtime_executable(self) -> Any:
        """The loaded executable."""
        return self._compiled.runtime_executable()

    @property
    def input_shardings(self) -> Any:
        """The shardings of the inputs: the boxes' arrays, then the arguments' own."""
        return self._compiled.input_shardings

    @property
    def output_shardings(self) -> Any:
        """The shardings of the outputs: the function's own, then what is written."""
        return self._compiled.output_shardings

    @property
    def in_tree(self) -> Any:
        """The tree of the inputs."""
        return self._compiled.in_tree

    @property
    def out_tree(self) -> Any:
        """The tree of the outputs."""
        return self._compiled.out_tree

    def __repr__(self) -> str:
        return f"Compiled({self._function._label})"


class _Executable:
    """What a `Plan` needs of a program, round one that is compiled already."""

    def __init__(self, compiled: Any, program: Any) -> None:
        self.donate = program.donate
        self.draws = program.draws
        self.strangers, self.fresh = program.strangers, program.fresh
        self.pending = threading.local()
        arrangement = program.arrangement
        self.compiled = compiled if arrangement is None else program.compiled.executable(compiled)


def _no_matter(key: Any) -> Any:
    """A program's key without `no_grad`: nothing can be differentiated through what is compiled already."""
    treedef, structure, modes, statics = key
    return treedef, structure, modes[1:], statics


def _forgetter(compiled: Compiled[Any]) -> Any:
    """Forgets the plan when one of its objects has gone."""
    own = weakref.ref(compiled)

    def forget(_: Any) -> None:
        found = own()
        if found is not None:
            found._plan = None

    return forget

"""`jm.jit`: `jax.jit` for functions of Modules, optimizers and generators.

A call flattens its arguments with the objects left out, looks up the *plan* for these objects (their layout and the
program), hands the boxes' arrays to a plain `jax.jit` function, and puts the boxes that were written back.
"""

import functools
import types
import weakref
from collections.abc import Callable, Iterable
from typing import Any, Generic, ParamSpec, TypeVar, overload

import jax

from ..core.box import Box
from ..core.context import process_keys, tls
from ..core.freeze import Node
from ..core.structure import Layout, flatten_args, unflatten_args
from ..random import default_generator
from ._jit_args import NO_STATICS, Statics, argument_names, by_place_and_name, check_leaves, unbind
from ._jit_options import Arrangement, Options
from ._jit_report import History
from .aot import Lowered
from .program import Plan, Program, describe, output, tracing

P = ParamSpec("P")
R = TypeVar("R")

_MAX_PROGRAMS = 8  # of one key
_MAX_PLANS = 256  # plans are cheap to make again; a capture block or a short-lived object makes one


class JitFunction(Generic[P, R]):
    """What `jit` returns. `lower(*args)` compiles ahead of time; `clear_cache()` forgets the compiled programs."""

    def __init__(
        self,
        fun: Callable[P, R],
        static_argnums: int | Iterable[int] | None,
        static_argnames: str | Iterable[str] | None,
        options: Options,
    ) -> None:
        self._function, self._prefix, self._bound = unbind(fun)
        self._static_nums, self._static_names = by_place_and_name(
            fun, static_argnums, static_argnames, "static_argnames"
        )
        self._options = options
        self._programs: dict[Any, list[Program]] = {}  # several where the objects that they close over differ
        self._plans: dict[Any, Plan] = {}
        self._last: _Last | None = None
        self._label = getattr(fun, "__qualname__", type(fun).__name__)
        self._history = History(self._label)
        functools.update_wrapper(self, fun if hasattr(fun, "__name__") else self._function)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        last = self._last
        again = None if last is None or kwargs else last.match(args)
        if last is not None and again is not None:
            plan, (objects, leaves) = last.plan, again
        else:
            plan, objects, leaves = self._plan(args, kwargs)
            simple = not (kwargs or self._prefix or self._bound or self._static_nums or self._static_names)
            self._last = _Last(plan, args, objects[-1]) if simple and all(map(_is_simple, args)) else None
        spec, out = plan.call(objects, leaves)
        if spec.structural:  # what it did to the objects' structure happens only while it is traced
            self._drop(plan)
        return out

    def _drop(self, plan: Plan) -> None:
        self._last = None
        self._plans = {k: p for k, p in self._plans.copy().items() if p is not plan}
        for programs in self._programs.copy().values():
            if plan.program in programs:
                programs.remove(plan.program)

    def _inputs(self, args: Any, kwargs: Any) -> tuple[list[Any], Any, list[Any], Statics]:
        """The arguments of a call as arrays, the tree that they and the objects make, the objects, what is static."""
        statics = NO_STATICS
        if self._static_nums or self._static_names:
            args, kwargs, statics = self._split(args, kwargs)
        leaves, treedef, objects = flatten_args((self._prefix + args, {**self._bound, **kwargs}))
        objects.append(default_generator())
        return leaves, treedef, objects, statics

    def _plan(self, args: Any, kwargs: Any) -> tuple[Plan, list[Any], list[Any]]:
        leaves, treedef, objects, statics = self._inputs(args, kwargs)
        key = (treedef, tls.ambient, statics.key() if statics is not NO_STATICS else None, *map(id, objects))
        plan = self._plans.get(key)
        if plan is None or not plan.current():
            if len(self._plans) > _MAX_PLANS:
                self._plans.clear()
            args, kwargs = self._split(args, kwargs)[:2] if statics is not NO_STATICS else (args, kwargs)
            check_leaves(args, kwargs)
            layout = Layout(objects)
            plan = self._plans[key] = Plan(layout, self._program(layout, objects, treedef, statics))
            plan.watch(objects, functools.partial(_forget, weakref.ref(self), key))
        return plan, objects, leaves

    def _key(self, layout: Layout, treedef: Any, statics: Statics) -> Any:
        """All that two calls of one program have in common, but for shapes and dtypes."""
        index = {id(ref()): i for i, ref in enumerate(layout.nodes)}
        captured = tuple([capture.relation(index) for capture in tls.captures])
        modes = (tls.no_grad, tls.cached, tls.autocast, captured, tuple([key() for key in process_keys]))
        return (treedef, layout.structure, modes, statics.key() if statics is not NO_STATICS else None)

    def _program(self, layout: Layout, objects: list[Any], treedef: Any, statics: Statics) -> Program:
        key = self._key(layout, treedef, statics)
        programs = self._programs.setdefault(key, [])
        program = next((program for program in programs if program.fresh()), None)
        if program is None:
            arrangement = None
            if self._options.arranged:
                prefix = len(self._prefix)
                arrangement = Arrangement(self._options, layout, objects, treedef, statics, prefix)
            history = functools.partial(self._history.note, key, functools.partial(argument_names, self._function))
            program = Program(self._function, treedef, statics, self._options.donate, arrangement, history)
            programs[:] = [*programs[1 - _MAX_PROGRAMS :], program]
        return program

    def _split(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any], Statics]:
        nums = {n if n >= 0 else n + len(args) for n in self._static_nums}
        places = {i: args[i] for i in nums if i < len(args)}
        named = {k: v for k, v in kwargs.items() if k in self._static_names}
        rest = tuple(a for i, a in enumerate(args) if i not in places)
        return rest, {k: v for k, v in kwargs.items() if k not in named}, Statics(places, named, len(self._prefix))

    def lower(self, *args: P.args, **kwargs: P.kwargs) -> Lowered[R]:
        """Trace and lower for these arguments without running. Nothing is written to the objects.

        Arrays may be given as `jax.ShapeDtypeStruct`, and so may those of a Module (`jm.eval_shape`).

        Returns:
            JAX's `Lowered` in a wrapper whose `compile()` gives something that is called as this function is.

        Example:
            >>> import jax.numpy as jnp, jaxmodule as jm
            >>> from jaxmodule import nn
            >>> model, x = nn.Linear(3, 2), jnp.ones((4, 3))
            >>> forward = jm.jit(lambda model, x: model(x)).lower(model, x).compile()
            >>> forward(model, x).shape
            (4, 2)
        """
        plan, objects, leaves = self._plan(args, kwargs)
        lowered = plan.lower(objects, leaves)
        _, _, _, statics = self._inputs(args, kwargs)
        names = argument_names(self._function, plan.program.treedef, objects, statics)
        return Lowered(lowered, plan, leaves, self._key(plan.layout, plan.program.treedef, statics), names, self)

    def clear_cache(self) -> None:
        """Forget all compiled programs."""
        self._last = None
        self._plans.clear()
        self._programs.clear()
        self._history.clear()

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        return self if instance is None else types.MethodType(self, instance)

    def __repr__(self) -> str:
        return f"jm.jit({self._label})"


def _forget(function: Any, key: Any, _: Any) -> None:
    """Drop a plan, as an object of its has gone: the plan holds boxes, and the object's id will be another's."""
    jitted = function()
    if jitted is not None:
        jitted._plans.pop(key, None)
        jitted._last = None


def _is_simple(arg: Any) -> bool:
    return isinstance(arg, (Node, Box, jax.Array))


class _Last:
    """The plan of the last call, for a next one like it: the same objects, and arrays, as positional arguments.

    Spares that call the flattening and the look-up.
    """

    __slots__ = ("ambient", "generator", "kinds", "plan")

    def __init__(self, plan: Plan, args: tuple[Any, ...], generator: Any) -> None:
        self.plan = plan
        self.ambient = tls.ambient
        self.generator = id(generator)
        self.kinds = [id(arg) if isinstance(arg, (Node, Box)) else type(arg) for arg in args]

    def match(self, args: tuple[Any, ...]) -> tuple[list[Any], list[Any]] | None:
        """The objects and the arrays of a call that the plan serves, None for another call."""
        if len(args) != len(self.kinds) or tls.ambient is not self.ambient:
            return None
        objects: list[Any] = []
        leaves: list[Any] = []
        for arg, kind in zip(args, self.kinds, strict=True):
            if type(arg) is kind:
                leaves.append(arg)
            elif id(arg) == kind:
                objects.append(arg)
            else:
                return None
        generator = default_generator()
        if id(generator) != self.generator or not self.plan.current():
            return None
        objects.append(generator)
        return objects, leaves


@overload
def jit(
    fun: Callable[P, R],
    *,
    static_argnums: int | Iterable[int] | None = None,
    static_argnames: str | Iterable[str] | None = None,
    donate: bool = False,
    donate_argnums: int | Iterable[int] | None = None,
    donate_argnames: str | Iterable[str] | None = None,
    in_shardings: Any = None,
    out_shardings: Any = None,
) -> JitFunction[P, R]: ...
@overload
def jit(
    fun: None = None,
    *,
    static_argnums: int | Iterable[int] | None = None,
    static_argnames: str | Iterable[str] | None = None,
    donate: bool = False,
    donate_argnums: int | Iterable[int] | None = None,
    donate_argnames: str | Iterable[str] | None = None,
    in_shardings: Any = None,
    out_shardings: Any = None,
) -> Callable[[Callable[P, R]], JitFunction[P, R]]: ...
def jit(
    fun: Any = None,
    *,
    static_argnums: int | Iterable[int] | None = None,
    static_argnames: str | Iterable[str] | None = None,
    donate: bool = False,
    donate_argnums: int | Iterable[int] | None = None,
    donate_argnames: str | Iterable[str] | None = None,
    in_shardings: Any = None,
    out_shardings: Any = None,
) -> Any:
    """Compile a function whose arguments may be, or contain, Modules, optimizers and generators.

    What the function does to them (BatchNorm statistics, optimizer steps, random draws) is done to the objects when the
    call returns; if it raises, nothing is. A change of structure between calls (mode, freezing, hooks, attributes,
    sharing, ...) is seen, and compiles a new program; the fourth trace of one function warns (`RetraceWarning`) and
    says what differs.

    Args:
        fun: the function; or a Module, a Module's bound method, or a `functools.partial` with a Module in it, which
            then count as arguments.
        static_argnums, static_argnames: as in `jax.jit`: arguments that are compiled in, compared by value.
        donate: hand the old arrays of all boxes to the program for reuse. A step then needs the memory of one set of
            parameters and optimizer state, not two; other references to the old arrays (a `state_dict` taken before)
            are deleted by it.
        donate_argnums, donate_argnames: as in `jax.jit`: hand the arrays of these arguments to the program, those of
            an object's boxes likewise.
        in_shardings: as in `jax.jit`: a sharding, or None for whatever an array has, for all arguments; or a tuple with
            an entry for each positional argument that is not static. An object may be given one sharding for all its
            arrays, or a dict {pattern of dotted names: sharding}, where a name that none matches is left as it is. What
            is written to a box that is given a sharding keeps it.
        out_shardings: the same for what the function returns.

    Returns:
        A callable with `lower` and `clear_cache`.

    Raises:
        ClosedOverError: the function uses a Module, Parameter or Generator that it was not passed.

    Example:
        >>> import jax.numpy as jnp, jaxmodule as jm
        >>> from jaxmodule import nn
        >>> model = nn.Linear(3, 2)
        >>> forward = jm.jit(lambda model, x: model(x))
        >>> forward(model, jnp.ones((4, 3))).shape
        (4, 2)
    """

    def make(fun: Any) -> JitFunction[Any, Any]:
        if not callable(fun):
            raise TypeError(f"jm.jit needs a callable, got {type(fun).__name__}")
        nums, names = by_place_and_name(fun, donate_argnums, donate_argnames, "donate_argnames")
        options = Options(donate, nums, names, in_shardings, out_shardings)
        return JitFunction(fun, static_argnums, static_argnames, options)

    return make if fun is None else make(fun)


def eval_shape(fun: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """The shapes and dtypes of `fun(*args, **kwargs)`, without computing. Nothing is written to the arguments' state.

    Returns:
        What `fun` returns, with `jax.ShapeDtypeStruct` for arrays; a Module made in `fun` comes back holding those.

    Example:
        >>> import jaxmodule as jm
        >>> from jaxmodule import nn
        >>> jm.eval_shape(nn.Linear, 3, 2).weight.shape
        (2, 3)
    """
    function, prefix, bound = unbind(fun)
    leaves, treedef, objects = flatten_args((prefix + args, {**bound, **kwargs}))
    objects.append(default_generator())
    dynamic = [i for i, leaf in enumerate(leaves) if hasattr(leaf, "shape") and hasattr(leaf, "dtype")]
    layout = Layout(objects)
    found: list[Any] = []

    def pure(values: list[Any], arrays: list[Any]) -> list[Any]:
        all_leaves = list(leaves)
        for i, array in zip(dynamic, arrays, strict=True):
            all_leaves[i] = array
        with tracing(layout, values) as overlay:
            args, kwargs = unflatten_args(treedef, all_leaves, objects)
            spec, out, _ = describe(overlay, layout, objects, function(*args, **kwargs))
            overlay.roll_back()
        found.append(spec)
        return out

    out = jax.eval_shape(pure, layout.values(), [leaves[i] for i in dynamic])
    return output(found[0], out, Plan(layout, None).member)

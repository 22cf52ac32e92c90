"""`jm.jit`: `jax.jit` for functions of Modules, optimizers and generators.

A call flattens its arguments with the objects left out, looks up the *plan* for these objects (their layout and the
program), hands the boxes' arrays to a plain `jax.jit` function, and puts the boxes that were written back.
"""

import functools
import inspect
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
from .program import Plan, Program, describe, output, tracing

P = ParamSpec("P")
R = TypeVar("R")


class _Statics:
    """The static arguments of one call: compared by value, and put back in their places when the program is traced."""

    __slots__ = ("kwargs", "places", "prefix")

    def __init__(self, places: dict[int, Any], kwargs: dict[str, Any], prefix: int) -> None:
        self.places = places
        self.kwargs = kwargs
        self.prefix = prefix

    def merge(self, args: tuple[Any, ...]) -> list[Any]:
        merged = list(args)
        for place in sorted(self.places):
            merged.insert(self.prefix + place, self.places[place])
        return merged

    def key(self) -> Any:
        items = [*self.places.items(), *sorted(self.kwargs.items())]
        key = tuple([(name, type(value), value) for name, value in items])
        try:
            hash(key)
        except TypeError:
            raise ValueError(
                f"static arguments must be hashable, got {[(n, type(v).__name__) for n, v in items]}"
            ) from None
        return key


_MAX_PLANS = 256  # plans are cheap to make again; a capture block or a short-lived object makes one
_NO_STATICS = _Statics({}, {}, 0)


class JitFunction(Generic[P, R]):
    """What `jit` returns. `lower(*args)` gives JAX's `Lowered`; `clear_cache()` forgets the compiled programs."""

    def __init__(
        self,
        fun: Callable[P, R],
        static_argnums: int | Iterable[int] | None,
        static_argnames: str | Iterable[str] | None,
        donate: bool,
    ) -> None:
        self._function, self._prefix, self._bound = _unbind(fun)
        self._static_nums, self._static_names = _static_arguments(fun, static_argnums, static_argnames)
        self._donate = donate
        self._programs: dict[Any, Program] = {}
        self._plans: dict[Any, Plan] = {}
        self._last: _Last | None = None
        self._label = getattr(fun, "__qualname__", type(fun).__name__)
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
            self._last = None
            self._plans = {k: p for k, p in self._plans.items() if p is not plan}
            self._programs = {k: p for k, p in self._programs.items() if p is not plan.program}
        return out

    def _plan(self, args: Any, kwargs: Any) -> tuple[Plan, list[Any], list[Any]]:
        statics = _NO_STATICS
        if self._static_nums or self._static_names:
            args, kwargs, statics = self._split(args, kwargs)
        leaves, treedef, objects = flatten_args((self._prefix + args, {**self._bound, **kwargs}))
        objects.append(default_generator())
        key = (treedef, tls.ambient, statics.key() if statics is not _NO_STATICS else None, *map(id, objects))
        plan = self._plans.get(key)
        if plan is None or not plan.layout.current():
            if len(self._plans) > _MAX_PLANS:
                self._plans.clear()
            _check_leaves(args, kwargs)
            plan = self._plans[key] = self._make_plan(objects, treedef, statics)
            plan.watch(objects, functools.partial(_forget, weakref.ref(self), key))
        return plan, objects, leaves

    def _make_plan(self, objects: list[Any], treedef: Any, statics: _Statics) -> Plan:
        layout = Layout(objects)
        index = {id(ref()): i for i, ref in enumerate(layout.nodes)}
        captured = [capture.relation(index) for capture in tls.captures]
        modes = (tls.no_grad, tls.cached, *captured, *[key() for key in process_keys])
        static_key = statics.key() if statics is not _NO_STATICS else None
        key = (treedef, layout.structure, modes, static_key)
        program = self._programs.get(key)
        if program is None:
            program = self._programs.setdefault(key, Program(self._function, treedef, statics, self._donate))
        return Plan(layout, program)

    def _split(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any], _Statics]:
        nums = {n if n >= 0 else n + len(args) for n in self._static_nums}
        places = {i: args[i] for i in nums if i < len(args)}
        named = {k: v for k, v in kwargs.items() if k in self._static_names}
        rest = tuple(a for i, a in enumerate(args) if i not in places)
        return rest, {k: v for k, v in kwargs.items() if k not in named}, _Statics(places, named, len(self._prefix))

    def lower(self, *args: P.args, **kwargs: P.kwargs) -> Any:
        """Trace and lower for these arguments without running: JAX's `Lowered`. Nothing is written to the objects."""
        plan, objects, leaves = self._plan(args, kwargs)
        plan.program.pending.call = (plan.layout, objects)
        try:
            return plan.program.compiled.lower(plan.layout.values(), leaves)
        finally:
            plan.program.pending.call = None

    def clear_cache(self) -> None:
        """Forget all compiled programs."""
        self._last = None
        self._plans.clear()
        self._programs.clear()

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        return self if instance is None else types.MethodType(self, instance)

    def __repr__(self) -> str:
        return f"jm.jit({self._label})"


def _check_leaves(args: Any, kwargs: Any) -> None:
    """Raise for an argument that JAX can't take, by its own name rather than by its place among ours."""
    _, _, objects = flatten_args((args, kwargs))
    paths = jax.tree_util.tree_flatten_with_path((args, kwargs), is_leaf=lambda x: any(x is obj for obj in objects))[0]
    for path, leaf in paths:
        if (
            not isinstance(leaf, (Node, Box))
            and not hasattr(leaf, "dtype")
            and not isinstance(leaf, (int, float, complex))
        ):
            where = jax.tree_util.keystr(path[1:])
            raise TypeError(
                f"jm.jit: argument {where} is a {type(leaf).__name__}, which is no array. "
                "Name it in static_argnames or static_argnums to compile it in."
            )


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
        if id(generator) != self.generator or not self.plan.layout.current():
            return None
        objects.append(generator)
        return objects, leaves


def _unbind(fun: Any) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    """The function under bound methods, callable modules and partials, and the arguments that they bind."""
    if isinstance(fun, Node) and callable(fun):
        return _call_object, (fun,), {}
    if isinstance(fun, types.MethodType) and isinstance(fun.__self__, (Node, Box)):
        return fun.__func__, (fun.__self__,), {}
    if isinstance(fun, functools.partial):
        inner, prefix, bound = _unbind(fun.func)
        _, _, objects = flatten_args((fun.args, fun.keywords))
        if prefix or objects:
            return inner, prefix + fun.args, {**bound, **fun.keywords}
    return fun, (), {}


def _call_object(obj: Any, *args: Any, **kwargs: Any) -> Any:
    return obj(*args, **kwargs)


def _static_arguments(fun: Any, nums: Any, names: Any) -> tuple[tuple[int, ...], frozenset[str]]:
    """Static arguments by position and by name, each inferred from the other where the signature tells, as in JAX."""
    nums = () if nums is None else (nums,) if isinstance(nums, int) else tuple(nums)
    names = () if names is None else (names,) if isinstance(names, str) else tuple(names)
    if not nums and not names:
        return (), frozenset()
    try:
        parameters = list(inspect.signature(fun).parameters.values())
    except (TypeError, ValueError):
        return nums, frozenset(names)
    positional = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    accepts_any = any(p.kind is p.VAR_KEYWORD for p in parameters)
    unknown = [n for n in names if n not in {p.name for p in parameters}]
    if unknown and not accepts_any:
        raise ValueError(f"jm.jit: {fun} has no argument named {unknown[0]!r} (static_argnames)")
    by_name = {positional.index(n) for n in names if n in positional}
    by_num = {positional[n] for n in nums if -len(positional) <= n < len(positional)}
    return tuple(sorted({*nums, *by_name})), frozenset({*names, *by_num})


@overload
def jit(
    fun: Callable[P, R],
    *,
    static_argnums: int | Iterable[int] | None = None,
    static_argnames: str | Iterable[str] | None = None,
    donate: bool = False,
) -> JitFunction[P, R]: ...
@overload
def jit(
    fun: None = None,
    *,
    static_argnums: int | Iterable[int] | None = None,
    static_argnames: str | Iterable[str] | None = None,
    donate: bool = False,
) -> Callable[[Callable[P, R]], JitFunction[P, R]]: ...
def jit(
    fun: Any = None,
    *,
    static_argnums: int | Iterable[int] | None = None,
    static_argnames: str | Iterable[str] | None = None,
    donate: bool = False,
) -> Any:
    """Compile a function whose arguments may be, or contain, Modules, optimizers and generators.

    What the function does to them (BatchNorm statistics, optimizer steps, random draws) is done to the objects when the
    call returns; if it raises, nothing is. A change of structure between calls (mode, freezing, hooks, attributes,
    sharing, ...) is seen, and compiles a new program.

    Args:
        fun: the function; or a Module, a Module's bound method, or a `functools.partial` with a Module in it, which
            then count as arguments.
        static_argnums, static_argnames: as in `jax.jit`: arguments that are compiled in, compared by value.
        donate: hand the old arrays of all boxes to the program for reuse. A step then needs the memory of one set of
            parameters and optimizer state, not two; other references to the old arrays (a `state_dict` taken before)
            are deleted by it.

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
    if fun is None:
        return lambda fun: JitFunction(fun, static_argnums, static_argnames, donate)
    if not callable(fun):
        raise TypeError(f"jm.jit needs a callable, got {type(fun).__name__}")
    return JitFunction(fun, static_argnums, static_argnames, donate)


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
    function, prefix, bound = _unbind(fun)
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

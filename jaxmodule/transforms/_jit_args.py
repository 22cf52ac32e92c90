"""The arguments of a `jm.jit` function: what is bound in it, what is static, and what each argument is called."""

import functools
import inspect
import types
from collections.abc import Callable, Iterable
from typing import Any

import jax

from ..core.box import Box
from ..core.freeze import Node
from ..core.structure import flatten_args, unflatten_args


class Statics:
    """The static arguments of one call: compared by value, and put back in their places when the program is traced."""

    __slots__ = ("kwargs", "places", "prefix")

    def __init__(self, places: dict[int, Any], kwargs: dict[str, Any], prefix: int) -> None:
        self.places = places
        self.kwargs = kwargs
        self.prefix = prefix

    def merge(self, args: tuple[Any, ...]) -> list[Any]:
        """The positional arguments with the static ones among them."""
        merged = list(args)
        for place in sorted(self.places):
            merged.insert(self.prefix + place, self.places[place])
        return merged

    def key(self) -> Any:
        """The values, hashable, with their types."""
        items = [*self.places.items(), *sorted(self.kwargs.items())]
        key = tuple([(name, type(value), value) for name, value in items])
        try:
            hash(key)
        except TypeError:
            raise ValueError(
                f"static arguments must be hashable, got {[(n, type(v).__name__) for n, v in items]}"
            ) from None
        return key


NO_STATICS = Statics({}, {}, 0)


def unbind(fun: Any) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    """The function under bound methods, callable modules and partials, and the arguments that they bind."""
    if isinstance(fun, Node) and callable(fun):
        return call_object, (fun,), {}
    if isinstance(fun, types.MethodType) and isinstance(fun.__self__, (Node, Box)):
        return fun.__func__, (fun.__self__,), {}
    if isinstance(fun, functools.partial):
        inner, prefix, bound = unbind(fun.func)
        _, _, objects = flatten_args((fun.args, fun.keywords))
        if prefix or objects:
            return inner, prefix + fun.args, {**bound, **fun.keywords}
    return fun, (), {}


def call_object(obj: Any, *args: Any, **kwargs: Any) -> Any:
    """Call `obj`: the function that a callable object is compiled as."""
    return obj(*args, **kwargs)


def by_place_and_name(
    fun: Any, nums: int | Iterable[int] | None, names: str | Iterable[str] | None, what: str
) -> tuple[tuple[int, ...], frozenset[str]]:
    """Arguments by position and by name, each inferred from the other where the signature tells, as in JAX."""
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
        raise ValueError(f"jm.jit: {fun} has no argument named {unknown[0]!r} ({what})")
    by_name = {positional.index(n) for n in names if n in positional}
    by_num = {positional[n] for n in nums if -len(positional) <= n < len(positional)}
    return tuple(sorted({*nums, *by_name})), frozenset({*names, *by_num})


def check_leaves(args: Any, kwargs: Any) -> None:
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


class Mark:
    """Stands for an array (`obj` is None) or an object with state in an argument tree, and says which."""

    __slots__ = ("index", "obj")

    def __init__(self, index: int, obj: Any = None) -> None:
        self.index = index
        self.obj = obj


def marked(treedef: Any, objects: list[Any]) -> Any:
    """The tree of `treedef` with a `Mark` in the place of each array and object."""
    arrays = [Mark(i) for i in range(treedef.num_leaves)]
    return unflatten_args(treedef, arrays, [Mark(i, obj) for i, obj in enumerate(objects)])


def argument_names(
    function: Callable[..., Any], treedef: Any, objects: list[Any], statics: Statics
) -> tuple[list[str], list[str]]:
    """What to call each array and each object of a call: `x`, `batch['image']`, `model`.

    `objects` ends with the default generator, which is no argument.
    """
    args, kwargs = marked(treedef, objects)
    merged = statics.merge(args)
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        parameters = []
    places = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    rest = next((p.name for p in parameters if p.kind is p.VAR_POSITIONAL), "args")
    arrays = [""] * treedef.num_leaves
    names = [""] * len(objects)
    names[-1] = "the default generator"

    def name(tree: Any, root: str) -> None:
        for path, mark in jax.tree_util.tree_flatten_with_path(tree)[0]:
            if isinstance(mark, Mark):  # the others are static
                place = root + jax.tree_util.keystr(path)
                if mark.obj is None:
                    arrays[mark.index] = place
                else:
                    names[mark.index] = type(mark.obj).__name__ if function is call_object and not place else place

    for i, arg in enumerate(merged):
        n = i - (function is call_object)
        root = places[i] if i < len(places) else f"{rest}[{n - len(places) + (function is call_object)}]"
        name(arg, "" if function is call_object and i == 0 else root)
    for key, arg in kwargs.items():
        name(arg, key)
    return arrays, names

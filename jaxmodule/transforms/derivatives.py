"""`jm.vjp`, `jm.jvp`, `jm.linearize`, `jm.jacrev`, `jm.jacfwd`, `jm.hessian`: JAX's other derivatives, of Modules.

To each of them an object with state among the differentiated arguments is the dict `{dotted name: array}` of its
trainable parameters, as in `jm.grad`. The function runs once, and what it writes is kept.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax

from ..core.box import Box, unbox
from ..core.freeze import Node
from ..core.parameter import Parameter
from ._rule_call import zero_tangent
from .grad import Differentiated, Run, named, numbers


def vjp(fun: Callable[..., Any], *primals: Any, has_aux: bool = False) -> tuple[Any, ...]:
    """Like `jax.vjp`, for functions of Modules.

    Args:
        fun: the function. It may write to any Module: the writes are kept.
        primals: its arguments, all of which are differentiated.
        has_aux: whether it returns `(value, aux)`.

    Returns:
        `(value, pullback)`, or `(value, pullback, aux)`. `pullback(cotangent)` is a tuple with an entry for each
        primal: for a Module the dict `{dotted name: array}` over its parameters with `requires_grad`, a tied one under
        its first name. Hooks of the parameters (`Parameter.register_hook`) run, as in `jm.grad`.

    Example:
        >>> import jax.numpy as jnp, jaxmodule as jm
        >>> from jaxmodule import nn
        >>> model = nn.Linear(3, 1)
        >>> y, pullback = jm.vjp(lambda m, x: m(x), model, jnp.ones((4, 3)))
        >>> of_model, of_x = pullback(jnp.ones((4, 1)))
        >>> of_model["bias"], of_x.shape
        (Array([4.], dtype=float32), (4, 3))
    """
    run = Run(fun, range(len(primals)), has_aux, primals, {})
    value, pullback, extras = jax.vjp(run.pure, run.over.values, run.over.leaves, has_aux=True)
    aux = run.finish(extras)
    run.over.forget_arrays()
    pulled = jax.tree_util.Partial(partial(_pull_back, run.over), pullback)
    return (value, pulled, aux) if has_aux else (value, pulled)


def _pull_back(over: Differentiated, pullback: Any, cotangent: Any) -> Any:
    return over.in_place(*pullback(_unboxed(cotangent)), hooks=True)


def jvp(
    fun: Callable[..., Any], primals: Sequence[Any], tangents: Sequence[Any], has_aux: bool = False
) -> tuple[Any, ...]:
    """Like `jax.jvp`, for functions of Modules.

    Args:
        fun: the function. It may write to any Module: the writes are kept.
        primals: its arguments.
        tangents: the direction, in the shape of the primals; for a Module a dict `{dotted name: array}`. What the dict
            does not name does not move, and costs nothing.
        has_aux: whether `fun` returns `(value, aux)`.

    Returns:
        `(value, its tangent)`, or `(value, its tangent, aux)`.

    Raises:
        KeyError: a tangent is given for a name that is no trainable parameter's.

    Example:
        >>> import jax.numpy as jnp, jaxmodule as jm
        >>> from jaxmodule import nn
        >>> model = nn.Linear(3, 1)
        >>> y, dy = jm.jvp(lambda m: m(jnp.ones((2, 3))), (model,), ({"bias": jnp.ones(1)},))
        >>> dy.tolist()
        [[1.0], [1.0]]
    """
    for what, given in (("primals", primals), ("tangents", tangents)):
        if not isinstance(given, (tuple, list)):
            raise TypeError(f"jm.jvp: {what} must be a tuple or a list, got {type(given).__name__}")
    run = Run(fun, range(len(primals)), has_aux, tuple(primals), {})
    over = run.over
    of_boxes, of_leaves = _tangents(over, tangents, "jm.jvp")
    now = dict(zip(over.boxes, over.values, strict=True))

    def pure(moving: list[Any], leaves: list[Any]) -> Any:
        return run.pure(list({**now, **dict(zip(of_boxes, moving, strict=True))}.values()), leaves)

    moving = [now[box] for box in of_boxes]
    value, tangent, extras = jax.jvp(pure, (moving, over.leaves), (list(of_boxes.values()), of_leaves), has_aux=True)
    aux = run.finish(extras)
    return (value, tangent, aux) if has_aux else (value, tangent)


def linearize(fun: Callable[..., Any], *primals: Any, has_aux: bool = False) -> tuple[Any, ...]:
    """Like `jax.linearize`, for functions of Modules.

    Args:
        fun: the function. It may write to any Module: the writes are kept.
        primals: its arguments.
        has_aux: whether it returns `(value, aux)`.

    Returns:
        `(value, pushforward)`, or `(value, pushforward, aux)`. `pushforward(*tangents)` is the tangent of the value,
        for tangents as `jm.jvp` takes them; it does not run `fun` again.

    Raises:
        KeyError: (the pushforward) a tangent is given for a name that is no trainable parameter's.

    Example:
        >>> import jax.numpy as jnp, jaxmodule as jm
        >>> from jaxmodule import nn
        >>> model = nn.Linear(3, 1)
        >>> y, push = jm.linearize(lambda m: m(jnp.ones((2, 3))), model)
        >>> push({"bias": jnp.ones(1)}).tolist()
        [[1.0], [1.0]]
    """
    run = Run(fun, range(len(primals)), has_aux, primals, {})
    over = run.over
    value, pushforward, extras = jax.linearize(run.pure, over.values, over.leaves, has_aux=True)
    aux = run.finish(extras)
    shapes = [(value.shape, value.dtype) for value in over.values]
    over.forget_arrays()
    pushed = jax.tree_util.Partial(partial(_push_forward, over, shapes), pushforward)
    return (value, pushed, aux) if has_aux else (value, pushed)


def _push_forward(over: Differentiated, shapes: list[Any], pushforward: Any, *tangents: Any) -> Any:
    of_boxes, of_leaves = _tangents(over, tangents, "the function that jm.linearize returned")
    every = [
        of_boxes[box] if box in of_boxes else zero_tangent(*shape)
        for box, shape in zip(over.boxes, shapes, strict=True)
    ]
    return pushforward(every, of_leaves)


def jacrev(
    fun: Callable[..., Any],
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    holomorphic: bool = False,
    allow_int: bool = False,
) -> Callable[..., Any]:
    """Like `jax.jacrev`, for functions of Modules: the Jacobian, row by row in reverse mode.

    Args:
        fun: the function. It may write to any Module: the writes are kept, once.
        argnums: which arguments to differentiate.
        has_aux, holomorphic, allow_int: as in JAX.

    Returns:
        A function that returns the Jacobian, or `(jacobian, aux)`: in the place of each array of the value, what
        `jm.grad` would return of a scalar, the shape of the array in front of each shape.

    Note:
        Hooks of the parameters don't run: the rows of a Jacobian are no gradients of a loss.

    Example:
        >>> import jax.numpy as jnp, jaxmodule as jm
        >>> from jaxmodule import nn
        >>> jacobian = jm.jacrev(lambda m: m(jnp.ones((2, 3))))(nn.Linear(3, 4))
        >>> {name: found.shape for name, found in jacobian.items()}
        {'weight': (2, 4, 4, 3), 'bias': (2, 4, 4)}
    """
    options = {"holomorphic": holomorphic, "allow_int": allow_int}
    return named(_jacobian(jax.jacrev, fun, argnums, has_aux, options, "jacrev"), fun)


def jacfwd(
    fun: Callable[..., Any], argnums: int | Sequence[int] = 0, has_aux: bool = False, holomorphic: bool = False
) -> Callable[..., Any]:
    """Like `jax.jacfwd`, for functions of Modules: the Jacobian, column by column in forward mode. See `jacrev`.

    Example:
        >>> import jax.numpy as jnp, jaxmodule as jm
        >>> from jaxmodule import nn
        >>> jm.jacfwd(lambda m, x: m(x), argnums=1)(nn.Linear(3, 4), jnp.ones(3)).shape
        (4, 3)
    """
    return named(_jacobian(jax.jacfwd, fun, argnums, has_aux, {"holomorphic": holomorphic}, "jacfwd"), fun)


def _jacobian(
    transform: Any, fun: Any, argnums: int | Sequence[int], has_aux: bool, options: dict[str, Any], name: str
) -> Callable[..., Any]:
    nums = numbers(argnums, f"jm.{name}")

    def jacobian_of(*args: Any, **kwargs: Any) -> Any:
        run = Run(fun, nums, has_aux, args, kwargs)
        over = run.over
        found, aux = _all(run, transform(run.pure, (0, 1), has_aux=True, **options))
        jacobian = _by_output(run.out, found, lambda part: _chosen(argnums, over.in_place(*part)))
        return (jacobian, aux) if has_aux else jacobian

    jacobian_of.__name__ = name
    return jacobian_of


def hessian(
    fun: Callable[..., Any], argnums: int | Sequence[int] = 0, has_aux: bool = False, holomorphic: bool = False
) -> Callable[..., Any]:
    """Like `jax.hessian`, for functions of Modules.

    Args:
        fun: the function. It may write to any Module: the writes are kept, once.
        argnums: which arguments to differentiate.
        has_aux, holomorphic: as in JAX.

    Returns:
        A function that returns the Hessian, or `(hessian, aux)`: for a Module a dict by name of dicts by name.

    Example:
        >>> import jax.numpy as jnp, jaxmodule as jm
        >>> from jaxmodule import nn
        >>> found = jm.hessian(lambda m: (m(jnp.ones((2, 3))) ** 2).sum())(nn.Linear(3, 1))
        >>> found["bias"]["weight"].shape
        (1, 1, 3)
    """
    nums = numbers(argnums, "jm.hessian")

    def hessian_of(*args: Any, **kwargs: Any) -> Any:
        run = Run(fun, nums, has_aux, args, kwargs)
        over = run.over
        rows = jax.jacrev(run.pure, (0, 1), has_aux=True, holomorphic=holomorphic)
        found, aux = _all(run, jax.jacfwd(rows, (0, 1), has_aux=True, holomorphic=holomorphic))

        def second(part: Any) -> Any:
            return _chosen(argnums, over.in_place(*part))

        def first(part: Any) -> Any:
            values, leaves = part
            return _chosen(argnums, over.in_place(list(map(second, values)), list(map(second, leaves))))

        found = _by_output(run.out, found, first)
        return (found, aux) if has_aux else found

    hessian_of.__name__ = "hessian"
    return named(hessian_of, fun)


def _all(run: Run, transformed: Callable[..., Any]) -> tuple[Any, Any]:
    """What a Jacobian of `run` gives, and aux. JAX's refuse to differentiate nothing, as where all is frozen."""
    over = run.over
    if over.values or over.leaves:
        found, extras = transformed(over.values, over.leaves)
    else:
        value, extras = run.pure([], [])
        found = jax.tree.map(lambda _: ([], []), value)
    return found, run.finish(extras)


def _chosen(argnums: int | Sequence[int], by_argument: Any) -> Any:
    return by_argument[0] if isinstance(argnums, int) else by_argument


def _by_output(out: Any, tree: Any, form: Callable[[Any], Any]) -> Any:
    """`tree` with `form` of what is in the place of each leaf of the output."""
    return jax.tree_util.tree_unflatten(out, list(map(form, out.flatten_up_to(tree))))


def _unboxed(tree: Any) -> Any:
    return jax.tree.map(lambda x: unbox(x) if isinstance(x, Box) else x, tree, is_leaf=lambda x: isinstance(x, Box))


def _tangents(over: Differentiated, tangents: Sequence[Any], what: str) -> tuple[dict[Parameter, Any], list[Any]]:
    """What is given for parameters, and for each array, in tangents of the shape of the arguments."""
    n, total = over.treedef.num_leaves, over.treedef.num_leaves + len(over.objects)
    places = jax.tree.structure(over.form(list(range(n)), list(range(n, total))))
    order = jax.tree.leaves(over.form(list(range(n)), list(range(n, total))))
    try:
        parts = dict(zip(order, places.flatten_up_to(tuple(tangents)), strict=True))
    except ValueError as error:
        raise ValueError(f"{what}: the tangents must have the structure of the primals. {error}") from error
    of_boxes: dict[Parameter, Any] = {}
    for i, obj in enumerate(over.objects):
        given = parts[n + i]
        if isinstance(obj, Box):
            given = {"": given} if over.named[i] else {}
        elif not isinstance(given, Mapping):
            raise TypeError(
                f"{what}: the tangent of a {type(obj).__name__} is a dict {{dotted name: array}}, got "
                f"{type(given).__name__}"
            )
        for name, tangent in given.items():
            box = over.named[i].get(name)
            if box is None:
                raise KeyError(_unknown(what, name, obj, over.named[i]))
            if box in of_boxes:
                raise ValueError(
                    f"{what}: two tangents are given for one parameter, {name!r} of a {type(obj).__name__}"
                )
            of_boxes[box] = unbox(tangent)
    return of_boxes, [unbox(parts[i]) if isinstance(parts[i], Box) else parts[i] for i in range(n)]


def _unknown(what: str, name: str, obj: Any, known: Mapping[str, Any]) -> str:
    every = obj._named_trainable() if isinstance(obj, Node) else {}
    why = "is frozen (requires_grad=False)" if name in every else "is no parameter"
    return f"{what}: a tangent is given for {name!r}, which {why} of this {type(obj).__name__}; it has {list(known)}"

"""`jm.cond`, `jm.switch`: JAX's branches for functions of Modules, and `jm.remat`.

What a branch writes comes out of it; where the branch that runs does not write it, it stays as it was.
"""

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
from jax import lax

from ..core.box import unbox
from ..core.effects import Effects, take
from ..core.overlay import overlaid
from ..core.structure import flatten_args, unflatten_args
from .inner import Body, States, once, seal, settled, unseal


def cond(pred: Any, true_fun: Callable[..., Any], false_fun: Callable[..., Any], *operands: Any) -> Any:
    """Like `jax.lax.cond`, for functions of Modules.

    Args:
        pred: which function runs.
        true_fun, false_fun: functions of the operands, whose results have the same shapes. They may write to any
            Module; the random numbers drawn are those of the branch that runs.
        operands: arguments of both; Modules may be among them.

    Raises:
        StateError: a branch calls a module that `jm.capture` takes a value of.

    Example:
        >>> import jax.numpy as jnp, jaxmodule as jm
        >>> from jaxmodule import nn
        >>> layer, x = nn.Linear(2, 2), jnp.ones((1, 2))
        >>> jm.cond(x.sum() > 0, lambda layer, x: layer(x), lambda layer, x: x, layer, x).shape
        (1, 2)
    """
    return _choose(
        lambda branches, *args: lax.cond(unbox(pred), *branches, *args), "jm.cond", (true_fun, false_fun), operands
    )


def switch(index: Any, branches: Sequence[Callable[..., Any]], *operands: Any) -> Any:
    """Like `jax.lax.switch`, for functions of Modules. See `cond`.

    Args:
        index: which function runs, clamped to the range there is.
        branches: functions of the operands, whose results have the same shapes.
        operands: arguments of all; Modules may be among them.

    Example:
        >>> import jax.numpy as jnp, jaxmodule as jm
        >>> from jaxmodule import nn
        >>> experts = nn.ModuleList([nn.Linear(2, 3) for _ in range(4)])
        >>> jm.switch(2, experts, jnp.ones((1, 2))).shape
        (1, 3)
    """
    return _choose(lambda branches, *args: lax.switch(unbox(index), branches, *args), "jm.switch", branches, operands)


def _choose(run: Callable[..., Any], what: str, functions: Iterable[Callable[..., Any]], operands: Any) -> Any:
    functions, sealed = list(functions), seal(operands)

    def trace(carried: States) -> Any:
        bodies: list[Body] = []

        def branch(function: Callable[..., Any]) -> Callable[..., Any]:
            body = Body(what)
            bodies.append(body)

            def call(args: Any, states: list[Any]) -> Any:
                with body.run((carried, states)) as overlay:
                    out = seal(function(*unseal(args)), overlay)
                body.refuse_emissions(what)
                return out, carried.leave(overlay)

            return once(call, sealed, carried.read())

        return ([branch(function) for function in functions], bodies), bodies

    carried, (branches, bodies) = settled(trace)
    out, states = run(branches, sealed, carried.read())
    carried.put_back(states, *bodies)
    return unseal(out)


def remat(
    fun: Callable[..., Any] | None = None,
    *,
    prevent_cse: bool = True,
    policy: str | Callable[..., Any] | None = None,
    static_argnums: int | tuple[int, ...] = (),
) -> Callable[..., Any]:
    """Like `jax.checkpoint`, for functions of Modules: the backward pass computes `fun` again, and saves memory.

    Args:
        fun: the function, or a Module. What it writes is written once, and the second computation draws the same
            random numbers.
        prevent_cse: as in JAX.
        policy: what is saved nevertheless: a function, or the name of one of `jax.checkpoint_policies`
            (`"dots_saveable"`, `"nothing_saveable"`, …).
        static_argnums: arguments that are no arrays and that `fun` decides by.

    Raises:
        ValueError: there is no policy of that name.

    Example:
        >>> import jax.numpy as jnp, jaxmodule as jm
        >>> from jaxmodule import nn
        >>> block = nn.Sequential(nn.Linear(4, 16), nn.GELU(), nn.Linear(16, 4))
        >>> sorted(jm.grad(lambda m, x: jm.remat(m)(x).sum())(block, jnp.ones((2, 4))))
        ['0.bias', '0.weight', '2.bias', '2.weight']
    """
    options: dict[str, Any] = {"prevent_cse": prevent_cse, "policy": policy_of(policy)}
    if fun is None:
        return lambda fun: remat(fun, prevent_cse=prevent_cse, policy=policy, static_argnums=static_argnums)
    nums = (static_argnums,) if isinstance(static_argnums, int) else tuple(static_argnums)

    def remat_of(*args: Any, **kwargs: Any) -> Any:
        fixed = {n % len(args): args[n] for n in nums}
        rest = tuple(None if i in fixed else arg for i, arg in enumerate(args))
        leaves, treedef, objects = flatten_args((rest, kwargs))
        found: list[Effects] = []

        def pure(leaves: list[Any]) -> Any:
            with overlaid({}, closed=False) as overlay:
                inner_args, inner_kwargs = unflatten_args(treedef, leaves, objects)
                out = fun(*[fixed.get(i, arg) for i, arg in enumerate(inner_args)], **inner_kwargs)
                sealed = seal(out, overlay)
                effects, arrays = take(overlay)
            found[:] = [effects]
            return sealed, arrays

        out, arrays = jax.checkpoint(pure, **options)(leaves)
        found[0].apply(arrays)
        return unseal(out)

    name = getattr(fun, "__name__", type(fun).__name__)
    remat_of.__name__ = f"remat_{name}"
    return functools.wraps(fun)(remat_of) if hasattr(fun, "__wrapped__") else remat_of


checkpoint = remat


def policy_of(policy: str | Callable[..., Any] | None) -> Callable[..., Any] | None:
    """The policy of a name."""
    if not isinstance(policy, str):
        return policy
    found = getattr(jax.checkpoint_policies, policy, None)
    if found is None or policy.startswith("_"):
        known = ", ".join(sorted(name for name in dir(jax.checkpoint_policies) if not name.startswith("_")))
        raise ValueError(f"there is no checkpoint policy {policy!r}: JAX has {known}")
    return found

"""`jm.custom_vjp`, `jm.custom_jvp`: derivatives of one's own for functions that use Modules.

All boxes of the objects among the arguments go into JAX's function as inputs, and so does whatever else is traced and
read; what is written comes out. JAX may run the function and its rule at different times (the rule of a call inside a
`scan` is traced when the loop is differentiated), so neither relies on where it was called.
"""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from ..core.errors import StateError
from ..core.freeze import Node
from ..core.overlay import overlaid
from ..core.structure import flatten_args
from ..random import default_generator
from ._rule_call import Call, around, as_array, traced, varying, zero_tangent
from .inner import NewWrites, States, boxes_of, objects_in, unseal


class _Custom:
    """What the two have in common: the function, and how a call of it finds what it needs."""

    what = ""

    def __init__(self, fun: Callable[..., Any], nondiff_argnums: int | Sequence[int] = ()) -> None:
        functools.update_wrapper(self, fun)
        self.fun = fun
        nums = (nondiff_argnums,) if isinstance(nondiff_argnums, int) else nondiff_argnums
        self.nondiff_argnums = tuple(sorted(nums))
        self.rule: Callable[..., Any] | None = None

    def _as_jax(self, call: "Call") -> Callable[..., Any]:
        raise NotImplementedError

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.rule is None:
            raise AttributeError(f"{self.what}: no rule is defined for {getattr(self.fun, '__name__', self.fun)!r}")
        args = _positional(self.fun, args, kwargs)
        fixed = {n: args[n] for n in self.nondiff_argnums}
        rest = tuple(None if i in fixed else arg for i, arg in enumerate(args))
        extras = traced(default_generator()._slots.values())
        while True:
            leaves, treedef, objects = flatten_args(rest)
            call = Call(self.what, fixed, treedef, objects, extras)
            try:
                return call.finish(self._as_jax(call)(call.states.read(), leaves))
            except NewWrites as more:
                extras = [*extras, *more.boxes]
            except Exception:
                # JAX refuses what a function closes over; what else it would have read cannot be told
                if not call.missed:
                    raise
                extras = list(dict.fromkeys([*extras, *call.missed, *traced(around())]))


class custom_vjp(_Custom):
    """Like `jax.custom_vjp`, for functions that use Modules: a function with a backward pass of its own.

    Args:
        fun: the function. It may write to the Modules among its arguments, and to others.
        nondiff_argnums: arguments that are no arrays; they are handed on as they are.

    Raises:
        StateError: a Module that `fun` closes over is differentiated; or `fwd` writes to what `fun` doesn't.

    Note:
        No gradient goes through state that `fun` writes.

    Example:
        >>> import jax.numpy as jnp, jaxmodule as jm
        >>> from jaxmodule import nn
        >>> @jm.custom_vjp
        ... def clipped(model, x):
        ...     return model(x)
        >>> def fwd(model, x):
        ...     return model(x), x
        >>> def bwd(x, g):
        ...     return {"bias": jnp.clip(g.sum(0), -1, 1)}, None
        >>> clipped.defvjp(fwd, bwd)
        >>> grads = jm.grad(lambda m: clipped(m, jnp.ones((4, 3))).sum())(nn.Linear(3, 1))
        >>> grads["bias"].tolist(), float(abs(grads["weight"]).sum())
        ([1.0], 0.0)
    """

    what = "jm.custom_vjp"

    def defvjp(self, fwd: Callable[..., Any], bwd: Callable[..., Any]) -> None:
        """Define the derivative.

        Args:
            fwd: takes what `fun` takes, returns `(fun's result, residuals)`; it writes the state that `fun` writes. The
                residuals are any pytree of arrays; a Module in them is, in `bwd`, as it was here.
            bwd: `bwd(*nondiff arguments, residuals, cotangent)` returns a tuple with an entry for each other argument:
                for a Module a dict `{dotted name: gradient}`, where what is missing is zero; or None. It writes
                nothing.
        """
        self.rule, self.bwd = fwd, bwd

    def _as_jax(self, call: Call) -> Callable[..., Any]:
        kept: list[States] = []

        def primal(values: list[Any], leaves: list[Any]) -> Any:
            return call.run(lambda args: self.fun(*call.full(args)), values, leaves)

        def forward(values: list[Any], leaves: list[Any]) -> Any:
            def both(args: Any) -> Any:
                out = self.rule(*call.full(args))  # pyright: ignore[reportOptionalCall]
                if not (isinstance(out, tuple) and len(out) == 2):
                    raise TypeError(f"{self.what}: fwd must return (result, residuals), got {type(out).__name__}")
                inside = [obj for obj in objects_in(out[1]) if isinstance(obj, Node)]
                kept[:] = [States(dict.fromkeys(box for obj in inside for box in boxes_of(obj)))]
                return (*out, kept[0].read())

            arrays = jax.tree.map(lambda x: x.value, (values, leaves))
            call.vary = [list(map(varying, part)) for part in arrays]
            (out, residuals, states), left = call.run(both, *arrays)
            call.refuse_closed_over(_is_perturbed, values)
            return (out, left), (residuals, states)

        def backward(saved: Any, cotangent: Any) -> Any:
            residuals, states = saved
            of_out = jax.tree.map(as_array, cotangent[0], is_leaf=lambda x: isinstance(x, SymbolicZero))
            with overlaid({}, closed=False) as overlay:
                kept[0].enter(overlay, states)
                of_args = self.bwd(*call.fixed.values(), unseal(residuals), unseal(of_out))
                gathered = call.gathered(of_args)
                overlay.settle()
            if overlay.written:
                raise StateError(
                    f"{self.what}: bwd writes it, or draws a random number from it.",
                    "Write in fwd; draw there and hand on what was drawn in the residuals.",
                    next(iter(overlay.written)),
                )
            return gathered

        wrapped = jax.custom_vjp(primal)
        wrapped.defvjp(forward, backward, symbolic_zeros=True)
        return wrapped


class custom_jvp(_Custom):
    """Like `jax.custom_jvp`, for functions that use Modules: a function with a derivative of its own.

    Args:
        fun: the function. It may write to the Modules among its arguments, and to others.
        nondiff_argnums: arguments that are no arrays; they are handed on as they are.

    Raises:
        StateError: a Module that `fun` closes over is differentiated; or the rule writes to what `fun` doesn't.

    Note:
        No derivative goes through state that `fun` writes.

    Example:
        >>> import jax.numpy as jnp, jaxmodule as jm
        >>> from jaxmodule import nn
        >>> @jm.custom_jvp
        ... def scaled(model, x):
        ...     return model.bias.value * x
        >>> @scaled.defjvp
        ... def scaled_jvp(primals, tangents):
        ...     (model, x), (of_model, of_x) = primals, tangents
        ...     return scaled(model, x), 10 * of_model["bias"] * x
        >>> jm.grad(lambda m: scaled(m, jnp.ones(1)).sum())(nn.Linear(3, 1))["bias"].tolist()
        [10.0]
    """

    what = "jm.custom_jvp"

    def defjvp(self, jvp: Callable[..., Any]) -> Callable[..., Any]:
        """Define the derivative.

        Args:
            jvp: `jvp(*nondiff arguments, primals, tangents)` returns `(fun's result, its tangent)`; it writes the state
                that `fun` writes. The tangent of a Module is a dict `{dotted name: array}` of all its floating arrays.

        Returns:
            `jvp`, so that this can be a decorator.
        """
        self.rule = jvp
        return jvp

    def defjvps(self, *jvps: Callable[..., Any] | None) -> None:
        """Define the derivative by one function for each argument, whose results are added up.

        Args:
            jvps: `jvp(tangent, fun's result, *primals)`, or None where the derivative is zero.
        """
        if self.nondiff_argnums:
            raise TypeError(f"{self.what}: defjvps goes without nondiff_argnums; use defjvp")

        def jvp(primals: Any, tangents: Any) -> Any:
            result = self(*primals)
            each = zip(jvps, tangents, strict=True)
            parts = [rule(tangent, result, *primals) for rule, tangent in each if rule is not None]
            zero = jax.tree.map(lambda x: zero_tangent(jnp.shape(x), jnp.result_type(x)), result)
            return result, functools.reduce(lambda a, b: jax.tree.map(jnp.add, a, b), parts) if parts else zero

        self.defjvp(jvp)

    def _as_jax(self, call: Call) -> Callable[..., Any]:
        def primal(values: list[Any], leaves: list[Any]) -> Any:
            return call.run(lambda args: self.fun(*call.full(args)), values, leaves)

        def rule(primals: Any, tangents: Any) -> Any:
            def both(args: Any) -> Any:
                differentiated = tuple(arg for i, arg in enumerate(args) if i not in call.fixed)
                moved = call.tangents(*tangents)
                moved = tuple(t for i, t in enumerate(moved) if i not in call.fixed)
                out = self.rule(*call.fixed.values(), differentiated, moved)  # pyright: ignore[reportOptionalCall]
                if not (isinstance(out, tuple) and len(out) == 2):
                    raise TypeError(f"{self.what}: the rule must return (result, tangent), got {type(out).__name__}")
                return out

            (out, tangent), left = call.run(both, *primals)
            call.refuse_closed_over(
                lambda mark: not isinstance(mark, SymbolicZero) and mark.dtype != jax.dtypes.float0, tangents[0]
            )
            still = jax.tree.map(lambda x: zero_tangent(jnp.shape(x), jnp.result_type(x)), left)
            return (out, left), (tangent, still)

        wrapped = jax.custom_jvp(primal)
        wrapped.defjvp(rule, symbolic_zeros=True)
        return wrapped


def _is_perturbed(mark: Any) -> bool:
    """Is an input of a forward pass differentiated? JAX's loops say so of integers too, such as a generator's state."""
    return mark.perturbed and jnp.issubdtype(mark.value.dtype, jnp.inexact)


def _positional(fun: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
    """The arguments of a call by position, defaults filled in, as JAX's custom rules take them."""
    try:
        bound = inspect.signature(fun).bind(*args, **kwargs)
    except ValueError:  # a function in C
        if kwargs:
            raise
        return args
    bound.apply_defaults()
    if bound.kwargs:
        raise TypeError(f"keyword-only arguments have no place in a custom rule: {list(bound.kwargs)}")
    return bound.args

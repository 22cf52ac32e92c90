"""`no_grad`: module calls, and what a decorated function is given and returns, carry no gradient."""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import jax

from ..core.context import Tracer, set_ambient, tls
from ..core.structure import flatten_args, unflatten_args

P = ParamSpec("P")
R = TypeVar("R")

#: The ambient key of ordinary code; `tls.ambient is PLAIN` is the one check a module call makes of the modes.
PLAIN = type(tls).ambient


def carry_no_gradient(tree: Any) -> Any:
    """`tree` with its traced arrays cut off from differentiation."""
    leaves, treedef, objects = flatten_args(tree)
    if not any(isinstance(leaf, Tracer) for leaf in leaves):
        return tree
    cut = [jax.lax.stop_gradient(leaf) if isinstance(leaf, Tracer) else leaf for leaf in leaves]
    return unflatten_args(treedef, cut, objects)


class _GradMode:
    """A block, or a decorator of functions, with gradients on or off. See `no_grad`."""

    _off: bool

    def __init__(self) -> None:
        self._outer: list[bool] = []

    def __enter__(self) -> None:
        self._outer.append(tls.no_grad)
        set_ambient(no_grad=self._off)

    def __exit__(self, *exc: object) -> None:
        set_ambient(no_grad=self._outer.pop())

    def _again(self) -> "_GradMode":
        return type(self)()

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
            with self._again():
                if not self._off:
                    return function(*args, **kwargs)
                inside, named = carry_no_gradient((args, kwargs))
                plain: Callable[..., R] = function
                return carry_no_gradient(plain(*inside, **named))

        return wrapper


class no_grad(_GradMode):  # torch's name
    """In the block, reading a parameter and calling a module carry no gradient; also a decorator.

    BatchNorm statistics and random draws are updated as usual, as in torch.

    Note:
        Operations on plain arrays between module calls are JAX's own and are not cut off; the decorator cuts off
        everything that goes through the function.

    Example:
        >>> import jax.numpy as jnp, jaxmodule as jm
        >>> from jaxmodule import nn
        >>> model = nn.Linear(3, 1)
        >>> def loss(model, x):
        ...     with jm.no_grad():
        ...         features = model(x)
        ...     return features.sum()
        >>> jm.grad(loss)(model, jnp.ones((1, 3)))["bias"]
        Array([0.], dtype=float32)
    """

    _off = True

    def __new__(cls, function: Any = None) -> Any:
        return super().__new__(cls) if function is None else cls()(function)


class enable_grad(_GradMode):  # torch's name
    """Undo `no_grad` in a block or a decorated function."""

    _off = False

    def __new__(cls, function: Any = None) -> Any:
        return super().__new__(cls) if function is None else cls()(function)


def is_grad_enabled() -> bool:
    """Is this code outside of every `no_grad` block?"""
    return not tls.no_grad


def set_grad_enabled(mode: bool) -> _GradMode:
    """`enable_grad()` or `no_grad()`, for a `with` block.

    Note:
        torch's form without `with` changes the mode for good; here it is a context manager only.
    """
    return enable_grad() if mode else no_grad()

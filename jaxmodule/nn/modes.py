"""`no_grad`: module calls, and what a decorated function is given and returns, carry no gradient; `inference`."""

import functools
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

import jax

from ..core.context import Tracer, set_ambient, tls
from ..core.errors import StateError
from ..core.structure import flatten_args, unflatten_args

P = ParamSpec("P")
R = TypeVar("R")


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


class _Guard:
    """The mark of an `inference` block among what this thread captures: so it is in the key of every program."""

    key = "inference"

    def name_of(self, module: Any) -> None:
        """Nothing is captured."""

    def relation(self, index: dict[int, int]) -> str:
        """A program that is traced in such a block is used in such blocks only."""
        return self.key


_GUARD = _Guard()


@contextmanager
def inference() -> Iterator[None]:
    """`no_grad`, and a guard against the forgotten `eval()`: a module in train mode that would behave otherwise raises.

    Such a module is one whose class (or a base of it) reads `self.training` in a method: Dropout, BatchNorm, attention
    with dropout, and classes of your own that do. A loss or a Linear that nobody has put into evaluation mode does the
    same in both, and passes. Each module is asked as it is called, those deep in a model too.

    Raises:
        StateError: such a module is called in train mode; it is named by its path.

    Example:
        >>> import jax.numpy as jnp, jaxmodule as jm
        >>> from jaxmodule import nn
        >>> model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5))
        >>> with jm.inference():
        ...     out = model.eval()(jnp.ones((2, 3)))
    """
    no_grad, captures = tls.no_grad, tls.captures
    set_ambient(no_grad=True, captures=captures if _GUARD in captures else (*captures, _GUARD))
    try:
        yield
    finally:
        set_ambient(no_grad=no_grad, captures=captures)


def check_inference(module: Any) -> None:
    """Raise if `module`, which is being called, is in train mode in an `inference` block and that matters."""
    if module.training and _GUARD in tls.captures and _reads_training(type(module)):
        raise StateError(
            f"{type(module).__name__} is called in train mode inside jm.inference().",
            "Call `model.eval()` first (a module that is added afterwards is in train mode again).",
        )


@functools.cache
def _reads_training(cls: type) -> bool:
    """Does a method of this class read an attribute `training`?"""
    bases = [base for base in cls.__mro__ if "__call__" not in vars(base) and base is not object]
    methods = [getattr(m, "__func__", getattr(m, "fget", m)) for base in bases for m in vars(base).values()]
    return any(_names_training(code) for m in methods if (code := getattr(m, "__code__", None)) is not None)


def _names_training(code: types.CodeType) -> bool:
    inner = [const for const in code.co_consts if isinstance(const, types.CodeType)]
    return "training" in code.co_names or any(map(_names_training, inner))

"""`jm.grad`, `jm.value_and_grad`, `jm.backward`: differentiation with respect to Modules' parameters.

The function runs under a transparent overlay that holds the traced parameters; what it writes comes out as auxiliary
output and is put back, so BatchNorm updates as it does in torch.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from ..core.box import Box, unbox
from ..core.device import abstract_names
from ..core.effects import Effects, take
from ..core.errors import AbstractError
from ..core.freeze import Node
from ..core.overlay import overlaid
from ..core.parameter import Parameter, ParamName
from ..core.structure import flatten_args, unflatten_args


class Differentiated:
    """The arguments to differentiate: their arrays as usual, and the trainable parameters of the objects in them.

    Attributes:
        boxes: the parameters, each once.
        values: their arrays.
        leaves: the arrays of the arguments themselves.
    """

    def __init__(self, args: Sequence[Any]) -> None:
        self.leaves, self.treedef, self.objects = flatten_args(tuple(args))
        self.named = [_trainable(obj) for obj in self.objects]
        unique = {box: None for named in self.named for box in named.values()}
        self.boxes: list[Parameter] = list(unique)
        self.values = [box.value for box in self.boxes]
        without = abstract_names((name, box) for named in self.named for name, box in named.items())
        if without:
            raise AbstractError(without, "a model was to be differentiated")

    def args(self, leaves: list[Any]) -> Any:
        """The arguments, with other arrays."""
        return self.form(leaves, self.objects)

    def form(self, leaves: Sequence[Any], objects: Sequence[Any]) -> Any:
        """The arguments' tree, with other arrays and other things in the place of the objects."""
        return unflatten_args(self.treedef, leaves, objects)

    def forget_arrays(self) -> None:
        """Keep the arguments' form only, for what outlives the call."""
        self.leaves, self.values = [], []

    def in_place(self, of_boxes: Sequence[Any], of_leaves: Sequence[Any], hooks: bool = False) -> Any:
        """What there is for each parameter and array in the shape of the arguments: a dict by name for an object.

        Args:
            of_boxes, of_leaves: something for each of `boxes` and `leaves`.
            hooks: these are gradients, which the parameters' hooks are to see.
        """
        by_box: dict[Any, Any] = dict(zip(self.boxes, of_boxes, strict=True))
        if hooks:
            by_box = {box: box._apply_hooks(gradient) for box, gradient in by_box.items()}
        shown = [
            by_box.get(obj) if isinstance(obj, Box) else {ParamName(n, box): by_box[box] for n, box in named.items()}
            for obj, named in zip(self.objects, self.named, strict=True)
        ]
        return self.form(of_leaves, shown)


def _trainable(obj: Any) -> dict[str, Parameter]:
    if isinstance(obj, Node):
        return {name: p for name, p in obj._named_trainable().items() if p.requires_grad}
    return {"": obj} if isinstance(obj, Parameter) and obj.requires_grad else {}


class Run:
    """One call of a function, as a pure one of the parameters and arrays to differentiate.

    Args:
        fun: the function.
        nums: which of its arguments are differentiated.
        has_aux: whether it returns `(value, aux)`.
        args, kwargs: its arguments.

    Attributes:
        over: what is differentiated.
        out: the structure of the value, once it has run.
    """

    def __init__(self, fun: Any, nums: Sequence[int], has_aux: bool, args: Any, kwargs: Any) -> None:
        self.fun = fun
        self.has_aux = has_aux
        self.rest = args, kwargs
        self.places = [_place(n, args) for n in nums]
        self.over = Differentiated([args[place] for place in self.places])
        self.out: Any = None
        self._left: tuple[Effects, Any, list[Any]]

    def pure(self, values: list[Any], leaves: list[Any]) -> Any:
        """`(value, extras)`; the extras go to `finish`, out of the transform."""
        over, (args, kwargs) = self.over, self.rest
        with overlaid(dict(zip(over.boxes, values, strict=True)), closed=False) as overlay:
            full = list(args)
            for place, arg in zip(self.places, over.args(leaves), strict=True):
                full[place] = arg
            out = self.fun(*full, **kwargs)
            if self.has_aux and not (isinstance(out, tuple) and len(out) == 2):
                raise TypeError(f"with has_aux=True the function must return (value, aux), got {type(out).__name__}")
            value, aux = out if self.has_aux else (out, None)
            value = _without_boxes(value)
            self.out = jax.tree.structure(value)
            effects, arrays = take(overlay)
            aux_leaves, aux_tree, aux_objects = flatten_args(aux)
        self._left = effects, aux_tree, aux_objects
        return value, (aux_leaves, arrays)

    def finish(self, extras: tuple[list[Any], list[Any]]) -> Any:
        """Write what the function has written, and return its aux."""
        effects, aux_tree, aux_objects = self._left
        aux_leaves, arrays = extras
        effects.apply(arrays)
        return unflatten_args(aux_tree, aux_leaves, aux_objects)


def _place(num: int, args: tuple[Any, ...]) -> int:
    if not -len(args) <= num < len(args):
        raise ValueError(f"argnums={num}, but the function was called with {len(args)} positional arguments")
    return num % len(args)


def numbers(argnums: Any, caller: str) -> tuple[int, ...]:
    """`argnums` as a tuple.

    Raises:
        TypeError: it is no int and no sequence of them, as where a model was given to the transform itself.
    """
    if isinstance(argnums, int):
        return (argnums,)
    if not isinstance(argnums, Sequence) or not all(isinstance(num, (int, np.integer)) for num in argnums):
        raise TypeError(
            f"{caller}: argnums is an int or a tuple of ints, got {type(argnums).__name__}. The arguments go to the "
            f"function that it returns: {caller}(loss)(model)"
        )
    return tuple(argnums)


def _without_boxes(value: Any) -> Any:
    """The value of a differentiated function, boxes as their arrays."""
    if isinstance(value, jax.Array):
        return value

    def one(x: Any) -> Any:
        if isinstance(x, Node):
            raise TypeError(
                f"a differentiated function returns a {type(x).__name__}, which has no derivative: return arrays, "
                "and the object as aux (has_aux=True)"
            )
        return unbox(x)

    return jax.tree.map(one, value, is_leaf=lambda x: isinstance(x, (Box, Node)))


def _value_and_grad(run: Run, **options: Any) -> tuple[Any, Any, list[Any], list[Any]]:
    """The value, aux, and the gradients by `run.over`'s parameters and arrays."""
    transformed = jax.value_and_grad(run.pure, (0, 1), has_aux=True, **options)
    (value, extras), (of_boxes, of_leaves) = transformed(run.over.values, run.over.leaves)
    return value, run.finish(extras), of_boxes, of_leaves


def named(wrapper: Callable[..., Any], fun: Any) -> Callable[..., Any]:
    """The wrapper, with a name that says what it wraps."""
    wrapper.__name__ = f"{wrapper.__name__}_{getattr(fun, '__name__', type(fun).__name__)}"
    return wrapper


def value_and_grad(
    fun: Callable[..., Any],
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    holomorphic: bool = False,
    allow_int: bool = False,
) -> Callable[..., Any]:
    """Like `jax.value_and_grad`, for functions of Modules.

    Args:
        fun: returns a scalar, or `(scalar, aux)` with `has_aux`. It may write to any Module: the writes are kept.
        argnums: which arguments to differentiate.
        has_aux, holomorphic, allow_int: as in JAX.

    Returns:
        A function that returns `(value, gradients)`, or `((value, aux), gradients)`. For a Module among the arguments
        the gradient is a plain dict `{dotted name: array}` over its parameters with `requires_grad`; a tied parameter
        has one entry, under its first name. Other pytrees of arrays are differentiated as JAX does.

    Example:
        >>> import jax.numpy as jnp, jaxmodule as jm
        >>> from jaxmodule import nn
        >>> model = nn.Linear(3, 1)
        >>> loss, grads = jm.value_and_grad(lambda m, x: m(x).sum())(model, jnp.ones((4, 3)))
        >>> grads["bias"]
        Array([4.], dtype=float32)
    """
    nums = numbers(argnums, "jm.value_and_grad")

    def value_and_grad_of(*args: Any, **kwargs: Any) -> Any:
        run = Run(fun, nums, has_aux, args, kwargs)
        value, aux, *found = _value_and_grad(run, holomorphic=holomorphic, allow_int=allow_int)
        gradients = run.over.in_place(*found, hooks=True)
        return ((value, aux) if has_aux else value), (gradients[0] if isinstance(argnums, int) else gradients)

    return named(value_and_grad_of, fun)


def grad(
    fun: Callable[..., Any],
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    holomorphic: bool = False,
    allow_int: bool = False,
) -> Callable[..., Any]:
    """Like `jax.grad`, for functions of Modules. See `value_and_grad`.

    Returns:
        A function that returns the gradients, or `(gradients, aux)` with `has_aux`.

    Example:
        >>> import jax.numpy as jnp, jaxmodule as jm
        >>> from jaxmodule import nn
        >>> sorted(jm.grad(lambda m: m(jnp.ones((1, 3))).sum())(nn.Linear(3, 1)))
        ['bias', 'weight']
    """
    numbers(argnums, "jm.grad")
    both = value_and_grad(fun, argnums, has_aux, holomorphic, allow_int)

    def grad_of(*args: Any, **kwargs: Any) -> Any:
        value, gradients = both(*args, **kwargs)
        return (gradients, value[1]) if has_aux else gradients

    return named(grad_of, fun)


def backward(fun: Callable[..., Any], argnums: int | Sequence[int] = 0, has_aux: bool = False) -> Callable[..., Any]:
    """Compute a loss and add its gradients into each parameter's `.grad`: torch's `loss.backward()`.

    Args:
        fun: the loss, a function of Modules (or Parameters) and data; returns a scalar, or `(scalar, aux)`.
        argnums: which arguments hold the parameters to differentiate; they must be Modules or Parameters.
        has_aux: whether `fun` returns `(loss, aux)`.

    Returns:
        A function that returns the loss, or `(loss, aux)`.

    Example:
        >>> import jax.numpy as jnp, jaxmodule as jm
        >>> from jaxmodule import nn
        >>> model = nn.Linear(3, 1)
        >>> loss = jm.backward(lambda m, x: m(x).sum())(model, jnp.ones((4, 3)))
        >>> model.bias.grad
        Array([4.], dtype=float32)
    """
    nums = numbers(argnums, "jm.backward")

    def backward_of(*args: Any, **kwargs: Any) -> Any:
        run = Run(fun, nums, has_aux, args, kwargs)
        if run.over.leaves:
            raise TypeError("jm.backward adds into parameters' .grad: differentiate Modules and Parameters, not arrays")
        value, aux, of_boxes, _ = _value_and_grad(run)
        for box, gradient in zip(run.over.boxes, of_boxes, strict=True):
            gradient = box._apply_hooks(gradient)
            box.grad = gradient if box.grad is None else box.grad + gradient  # pyright: ignore
        return (value, aux) if has_aux else value

    return named(backward_of, fun)

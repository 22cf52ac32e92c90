"""`jm.grad`, `jm.value_and_grad`, `jm.backward`: differentiation with respect to Modules' parameters.

The function runs under a transparent overlay that holds the traced parameters; what it writes comes out as auxiliary
output and is put back, so BatchNorm updates as it does in torch.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax

from ..core.box import Box, unbox
from ..core.effects import take
from ..core.freeze import Node
from ..core.overlay import overlaid
from ..core.parameter import Parameter, ParamName
from ..core.structure import flatten_args, unflatten_args


class _Differentiated:
    """The arguments to differentiate: their arrays as usual, and the trainable parameters of the objects in them."""

    def __init__(self, args: Sequence[Any]) -> None:
        self.leaves, self.treedef, self.objects = flatten_args(tuple(args))
        self.named = [_trainable(obj) for obj in self.objects]
        unique = {box: None for named in self.named for box in named.values()}
        self.boxes: list[Parameter] = list(unique)
        self.values = [box.value for box in self.boxes]

    def args(self, leaves: list[Any]) -> Any:
        return unflatten_args(self.treedef, leaves, self.objects)


def _trainable(obj: Any) -> dict[str, Parameter]:
    if isinstance(obj, Node):
        return {name: p for name, p in obj._named_trainable().items() if p.requires_grad}
    return {"": obj} if isinstance(obj, Parameter) and obj.requires_grad else {}


class _Run:
    """One differentiated call: `value` and `aux`, and the gradients of `over`'s parameters and arrays."""

    def __init__(self, fun: Any, nums: Sequence[int], has_aux: bool, args: Any, kwargs: Any, **options: Any) -> None:
        places = [_place(n, args) for n in nums]
        self.over = over = _Differentiated([args[place] for place in places])
        static: list[Any] = []

        def pure(values: list[Any], leaves: list[Any]) -> Any:
            with overlaid(dict(zip(over.boxes, values, strict=True)), closed=False) as overlay:
                full = list(args)
                for place, arg in zip(places, over.args(leaves), strict=True):
                    full[place] = arg
                out = fun(*full, **kwargs)
                if has_aux and not (isinstance(out, tuple) and len(out) == 2):
                    raise TypeError(
                        f"with has_aux=True the function must return (value, aux), got {type(out).__name__}"
                    )
                value, aux = out if has_aux else (out, None)
                effects, arrays = take(overlay)
                aux_leaves, aux_tree, aux_objects = flatten_args(aux)
            static[:] = [effects, aux_tree, aux_objects]
            return unbox(value), (aux_leaves, arrays)

        transformed = jax.value_and_grad(pure, (0, 1), has_aux=True, **options)
        (self.value, (aux_leaves, arrays)), (of_boxes, self.of_leaves) = transformed(over.values, over.leaves)
        effects, aux_tree, aux_objects = static
        effects.apply(arrays)
        self.aux = unflatten_args(aux_tree, aux_leaves, aux_objects)
        self.of_boxes = {box: box._apply_hooks(g) for box, g in zip(over.boxes, of_boxes, strict=True)}

    def gradients(self) -> Any:
        """The gradients in the shape of the arguments: a dict by name for an object, an array for a Parameter."""
        over = self.over
        in_place: list[Any] = []
        for obj, named in zip(over.objects, over.named, strict=True):
            if isinstance(obj, Box):
                in_place.append(self.of_boxes.get(obj))  # pyright: ignore[reportArgumentType]
            else:
                in_place.append({ParamName(name, box): self.of_boxes[box] for name, box in named.items()})
        return unflatten_args(over.treedef, self.of_leaves, in_place)


def _place(num: int, args: tuple[Any, ...]) -> int:
    if not -len(args) <= num < len(args):
        raise ValueError(f"argnums={num}, but the function was called with {len(args)} positional arguments")
    return num % len(args)


def _named(wrapper: Callable[..., Any], fun: Any) -> Callable[..., Any]:
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
    nums = (argnums,) if isinstance(argnums, int) else tuple(argnums)

    def value_and_grad_of(*args: Any, **kwargs: Any) -> Any:
        run = _Run(fun, nums, has_aux, args, kwargs, holomorphic=holomorphic, allow_int=allow_int)
        gradients = run.gradients()
        gradients = gradients[0] if isinstance(argnums, int) else gradients
        return ((run.value, run.aux) if has_aux else run.value), gradients

    return _named(value_and_grad_of, fun)


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
    both = value_and_grad(fun, argnums, has_aux, holomorphic, allow_int)

    def grad_of(*args: Any, **kwargs: Any) -> Any:
        value, gradients = both(*args, **kwargs)
        return (gradients, value[1]) if has_aux else gradients

    return _named(grad_of, fun)


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
    nums = (argnums,) if isinstance(argnums, int) else tuple(argnums)

    def backward_of(*args: Any, **kwargs: Any) -> Any:
        run = _Run(fun, nums, has_aux, args, kwargs)
        if run.over.leaves:
            raise TypeError("jm.backward adds into parameters' .grad: differentiate Modules and Parameters, not arrays")
        for box, gradient in run.of_boxes.items():
            box.grad = gradient if box.grad is None else box.grad + gradient  # pyright: ignore
        return (run.value, run.aux) if has_aux else run.value

    return _named(backward_of, fun)

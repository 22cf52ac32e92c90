"""`jm.accumulate`: the gradient of a large batch in the memory of a small one."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp

from ..core.box import Box
from ..core.freeze import Node
from .grad import Differentiated, named, numbers, value_and_grad
from .loops import scan


def accumulate(
    n: int,
    *,
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    batch_argnums: int | Sequence[int] | None = None,
    reduction: Literal["mean", "sum"] = "mean",
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """`value_and_grad` over `n` microbatches, one after the other in one `jm.scan`.

    What the loss writes goes from one microbatch to the next, as in a loop over batches: BatchNorm sees each microbatch
    by itself, and Dropout draws another mask for each. Hooks on parameters see the gradient of each microbatch.

    Args:
        n: the number of microbatches.
        argnums: which arguments are differentiated, as in `jm.value_and_grad`.
        has_aux: whether the loss returns `(value, aux)`.
        batch_argnums: which arguments are split along axis 0. None for every argument, named ones too, that is not
            differentiated: its arrays of at least one dimension are split, its scalars and objects are not.
        reduction: "mean" for a loss that is a mean over the batch: the mean of losses and gradients is that of the
            whole batch then. "sum" for one that is a sum.

    Returns:
        A decorator. The decorated function returns `(value, gradients)`, or `((value, aux), gradients)` with the aux of
        the microbatches stacked.

    Raises:
        ValueError: a batch does not split into `n` equal parts, two arrays have batches of different sizes, or there is
            nothing to split.

    Note:
        Gradients in bfloat16 or float16 are summed in float32. Call it inside of `jm.jit`: by itself it compiles the
        loop at each call, as every `scan` outside of a compiled function does.

    Example:
        >>> import jax.numpy as jnp, jaxmodule as jm
        >>> from jaxmodule import nn
        >>> from jaxmodule.transforms.accumulate import accumulate
        >>> model, x = nn.Linear(3, 1), jnp.ones((8, 3))
        >>> @jm.jit
        ... def train_step(model, x):
        ...     return accumulate(4)(lambda model, x: model(x).mean())(model, x)
        >>> loss, grads = train_step(model, x)
        >>> grads["bias"]
        Array([1.], dtype=float32)
    """
    if not isinstance(n, int) or isinstance(n, bool) or n < 1:
        raise ValueError(f"jm.accumulate: the number of microbatches is a positive int, got {n!r}")
    if reduction not in ("mean", "sum"):
        raise ValueError(f"jm.accumulate: reduction is 'mean' or 'sum', got {reduction!r}")
    nums = numbers(argnums, "jm.accumulate(n)")
    chosen = (batch_argnums,) if isinstance(batch_argnums, int) else batch_argnums

    def decorate(fun: Callable[..., Any]) -> Callable[..., Any]:
        def accumulate_of(*args: Any, **kwargs: Any) -> Any:
            over = [args[num] for num in nums]
            batch = _Batch(n, args, kwargs, {num % len(args) for num in nums}, chosen)
            run = value_and_grad(fun, nums, has_aux)
            found = Differentiated(over)
            start = [jnp.zeros(x.shape, _wide(x.dtype)) for x in [*found.values, *found.leaves]]

            def step(sums: list[jax.Array], rows: list[jax.Array]) -> Any:
                part, named_part = batch.arguments(rows)
                value, grads = run(*part, **named_part)
                flat = _flat(grads, found)
                return [total + g.astype(total.dtype) for total, g in zip(sums, flat, strict=True)], value

            sums, values = scan(step, start, batch.rows)
            values, aux = values if has_aux else (values, None)
            if reduction == "mean":
                sums = [total / n for total in sums]
            narrow = [total.astype(x.dtype) for total, x in zip(sums, [*found.values, *found.leaves], strict=True)]
            boxes = len(found.values)
            grads = found.in_place(narrow[:boxes], narrow[boxes:])
            value = values.mean(0) if reduction == "mean" else values.sum(0)
            return ((value, aux) if has_aux else value), (grads[0] if isinstance(argnums, int) else grads)

        return named(accumulate_of, fun)

    return decorate


def _wide(dtype: Any) -> Any:
    return jnp.float32 if dtype in (jnp.bfloat16, jnp.float16) else dtype


def _flat(grads: Any, over: Differentiated) -> list[jax.Array]:
    """The gradients in the order of the parameters and arrays of `over`; a tied one is in two objects' dicts."""
    by_box: dict[Any, Any] = {}
    places = over.in_place(list(range(len(over.boxes))), [-1 - i for i in range(len(over.leaves))])
    numbers = jax.tree.leaves(places)
    for number, gradient in zip(numbers, jax.tree.leaves(grads), strict=True):
        by_box[number] = gradient
    return [by_box[i] for i in range(len(over.boxes))] + [by_box[-1 - i] for i in range(len(over.leaves))]


class _Batch:
    """The arguments of a call, those of the batch as rows of microbatches.

    Attributes:
        rows: the arrays that are split, each `(n, size / n, ...)`.
    """

    def __init__(self, n: int, args: Any, kwargs: Any, differentiated: set[int], chosen: Any) -> None:
        self._tree: Any
        paths, self._tree = jax.tree_util.tree_flatten_with_path((args, kwargs), is_leaf=_is_object)
        wanted = None if chosen is None else {num % len(args) for num in chosen}
        if wanted is not None and wanted & differentiated:
            raise ValueError("jm.accumulate: an argument of batch_argnums is differentiated, and has one value for all")
        self._leaves = [leaf for _, leaf in paths]
        self._places: list[int] = []
        self.rows: list[jax.Array] = []
        size, first = None, ""
        for i, (path, leaf) in enumerate(paths):
            kind, key = path[0].idx, path[1]
            positional = kind == 0
            mine = getattr(key, "idx", None) if positional else None
            if mine in differentiated or _is_object(leaf) or not getattr(leaf, "ndim", 0):
                continue
            if wanted is not None and mine not in wanted:
                continue
            name = f"argument {mine}" if positional else f"argument {key.key!r}"
            name += jax.tree_util.keystr(path[2:])
            _check(n, name, leaf.shape, size, first)
            size, first = leaf.shape[0], name
            self._places.append(i)
            self.rows.append(jnp.reshape(leaf, (n, size // n, *leaf.shape[1:])))
        if not self.rows:
            raise ValueError(
                "jm.accumulate: no argument has an array to split along axis 0: the batch is to be an argument of the "
                "loss, beside what is differentiated"
            )

    def arguments(self, rows: list[jax.Array]) -> tuple[Any, Any]:
        """The arguments with one microbatch in the place of the batch."""
        leaves = list(self._leaves)
        for i, row in zip(self._places, rows, strict=True):
            leaves[i] = row
        return jax.tree.unflatten(self._tree, leaves)


def _check(n: int, name: str, shape: tuple[int, ...], size: int | None, first: str) -> None:
    if shape[0] % n:
        raise ValueError(
            f"jm.accumulate({n}): {name} has shape {list(shape)}, and {shape[0]} rows don't split into {n} "
            f"microbatches of one size. Use a multiple of {n} (drop the rest of the last batch), or name the "
            "arguments that are the batch in batch_argnums"
        )
    if size is not None and shape[0] != size:
        raise ValueError(
            f"jm.accumulate({n}): {name} has shape {list(shape)}, and {first} a batch of {size}. If one of them is no "
            "part of the batch, name those that are in batch_argnums"
        )


def _is_object(x: Any) -> bool:
    return isinstance(x, (Node, Box))

"""`jm.scan`, `jm.fori_loop`, `jm.while_loop`: JAX's loops for functions of Modules.

What the body writes (BatchNorm statistics, random draws, optimizer steps) is carried from one iteration to the next, as
in a Python loop, so the results are the loop's to the bit of the random numbers.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ..core.box import Box, unbox
from ..core.errors import StateError
from .inner import Body, States, boxes_of, objects_in, once, seal, settled, unseal


def scan(
    f: Callable[[Any, Any], tuple[Any, Any]],
    init: Any,
    xs: Any = None,
    length: int | None = None,
    reverse: bool = False,
    unroll: int | bool = 1,
) -> tuple[Any, Any]:
    """Like `jax.lax.scan`, for functions of Modules.

    Args:
        f: `f(carry, x) -> (carry, y)`. It may write to any Module: the next iteration sees it, and so does who comes
            after the loop.
        init: the first carry. A Module in it stays that Module: its state is carried by itself.
        xs: what is sliced along its first axis. A Module in it is one whose boxes hold stacked arrays
            (`stack_module_state`); the body sees it with one slice in each, and what it writes to it is stacked again.
        length: the number of iterations, where there is no `xs`.
        reverse, unroll: as in JAX.

    Returns:
        The last carry, and the ys, stacked.

    Note:
        Values that `jm.capture` takes in the body arrive stacked. Random draws differ from one iteration to the next.
        A body that writes a box is traced once more: what is carried is found by trying.

    Raises:
        TypeError: the carry has another shape, dtype or structure after the body than before.
        StateError: so has state that the body writes.

    Example:
        >>> import jax.numpy as jnp, jaxmodule as jm
        >>> from jaxmodule import nn
        >>> norm, batches = nn.BatchNorm1d(2), jnp.ones((5, 4, 2))
        >>> last, ys = jm.scan(lambda carry, x: (carry + 1, norm(x).sum()), 0, batches)
        >>> int(last), ys.shape, int(norm.num_batches_tracked)
        (5, (5,), 5)
    """
    sliced = States(dict.fromkeys(box for obj in objects_in(xs) for box in boxes_of(obj)))
    first, inputs = seal(init), (seal(xs), sliced.read())
    row = jax.eval_shape(lambda xs: jax.tree.map(_row, xs), inputs)
    stacked: list[Box] = []

    def trace(carried: States) -> Any:
        body = Body("jm.scan", births=True)

        def step(carry: Any, x: Any) -> Any:
            with body.run((carried, carry[1]), (sliced, x[1])) as overlay:
                out = f(unseal(carry[0]), unseal(x[0]))
                if not (isinstance(out, tuple) and len(out) == 2):
                    raise TypeError(f"the body of jm.scan must return (carry, y), got {type(out).__name__}")
                new, y = seal(out[0], overlay), seal(out[1], overlay)
            stacked[:] = body.wrote(sliced)
            kept = _like(carried, carried.leave(overlay), carry[1])
            return (new, kept), (y, sliced.leave(overlay, stacked), body.extras())

        return (once(step, (first, carried.read()), row), body), [body]

    carried, (step, body) = settled(trace)
    start = (first, carried.read())
    (last, states), (ys, slices, extras) = lax.scan(step, start, inputs, length, reverse=reverse, unroll=unroll)
    carried.put_back(states, body)
    sliced.write(slices, stacked)
    if length != 0 and not any(x.shape[0] == 0 for x in jax.tree.leaves(inputs)):
        body.give_back(extras, lambda stack: stack[0 if reverse else -1])
    return unseal(last), unseal(ys)


def _row(x: Any) -> Any:
    """One slice of what a scan is over; of no slices, one of the same shape."""
    return x[0] if x.shape[0] else jnp.zeros(x.shape[1:], x.dtype)


def fori_loop(lower: Any, upper: Any, body_fun: Callable[[Any, Any], Any], init_val: Any, *, unroll: Any = None) -> Any:
    """Like `jax.lax.fori_loop`, for functions of Modules.

    Args:
        lower, upper: the range of the index.
        body_fun: `body_fun(i, value) -> value`. It may write to any Module.
        init_val: the first value; a Module in it stays that Module.
        unroll: as in JAX.

    Example:
        >>> import jax.numpy as jnp, jaxmodule as jm
        >>> from jaxmodule import nn
        >>> layer = nn.Linear(3, 3)
        >>> jm.fori_loop(0, 4, lambda i, x: jnp.tanh(layer(x)), jnp.ones((1, 3))).shape
        (1, 3)
    """
    # Plain numbers stay plain: with a known number of iterations JAX can differentiate the loop.
    lower, upper = (x.value if isinstance(x, Box) else x for x in (lower, upper))
    first = seal(init_val)

    def trace(carried: States) -> Any:
        body = Body("jm.fori_loop")

        def step(i: Any, carry: Any) -> Any:
            with body.run((carried, carry[1])) as overlay:
                new = seal(body_fun(i, unseal(carry[0])), overlay)
            body.refuse_emissions("jm.fori_loop")
            return new, _like(carried, carried.leave(overlay), carry[1])

        return (once(step, lower, (first, carried.read())), body), [body]

    carried, (step, body) = settled(trace)
    last, states = lax.fori_loop(lower, upper, step, (first, carried.read()), unroll=unroll)
    carried.put_back(states, body)
    return unseal(last)


def while_loop(cond_fun: Callable[[Any], Any], body_fun: Callable[[Any], Any], init_val: Any) -> Any:
    """Like `jax.lax.while_loop`, for functions of Modules.

    Args:
        cond_fun: `cond_fun(value)`: whether to go on. It may read Modules, and write to none.
        body_fun: `body_fun(value) -> value`. It may write to any Module.
        init_val: the first value; a Module in it stays that Module.

    Raises:
        StateError: `cond_fun` writes to a Module or draws a random number.

    Example:
        >>> import jax.numpy as jnp, jaxmodule as jm
        >>> from jaxmodule import nn
        >>> counter = nn.Buffer(jnp.zeros((), int))
        >>> def body(x):
        ...     counter.value = counter + 1
        ...     return x * 2
        >>> float(jm.while_loop(lambda x: x < 100, body, jnp.float32(1))), int(counter)
        (128.0, 7)
    """
    first = seal(init_val)

    def trace(carried: States) -> Any:
        body, test = Body("jm.while_loop"), Body("jm.while_loop")

        def go_on(carry: Any) -> Any:
            with test.run((carried, carry[1]), known=False):
                answer = unbox(cond_fun(unseal(carry[0])))
            if test.written:
                raise StateError(
                    "the condition of jm.while_loop writes it.", "Write in the body, or decide there.", test.written[0]
                )
            test.refuse_emissions("jm.while_loop")
            return answer

        def step(carry: Any) -> Any:
            with body.run((carried, carry[1])) as overlay:
                new = seal(body_fun(unseal(carry[0])), overlay)
            body.refuse_emissions("jm.while_loop")
            return new, _like(carried, carried.leave(overlay), carry[1])

        start = (first, carried.read())
        return (once(go_on, start), once(step, start), body), [body]

    carried, (go_on, step, body) = settled(trace)
    last, states = lax.while_loop(go_on, step, (first, carried.read()))
    carried.put_back(states, body)
    return unseal(last)


def _like(carried: States, after: list[Any], before: list[Any]) -> list[Any]:
    """The states after an iteration.

    Raises:
        StateError: one has another shape or dtype than before, or is there where none was.
    """
    for box, new, old in zip(carried.boxes, after, before, strict=True):
        found, given = (jax.tree.map(jax.typeof, x) for x in (new, old))
        shapes = [[(a.shape, a.dtype) for a in jax.tree.leaves(avals)] for avals in (found, given)]
        if shapes[0] != shapes[1]:
            what = [", ".join(f"{dtype}{list(shape)}" for shape, dtype in side) or "None" for side in shapes]
            raise StateError(
                f"the body of a loop writes {what[0]} to it, which was {what[1]}: in a loop, state keeps its form.",
                "Give it that shape before the loop (a gradient: `zero_grad(set_to_none=False)` after a first step).",
                box,
            )
    return after

"""Every layer under pairs of transforms: results, gradients, state and random numbers are those of an eager call.

The pairs go round, so that all of them meet all kinds of layers: every third layer meets one, and with `--slow` each
layer four.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmodule as jm
from jaxmodule import nn
from tests.test_zoo import assert_no_tracer, assert_same, total
from tests.zoo import LAZY, ROWS, Row

Step = Callable[[nn.Module, list[Any]], Any]


def in_scan(f: Step) -> Step:
    def call(module: nn.Module, arrays: list[Any]) -> Any:
        _, ys = jm.scan(lambda carry, x: (carry, f(module, x)), None, [jnp.asarray(x)[None] for x in arrays], length=1)
        return jax.tree.map(lambda y: y[0], ys)

    return call


def in_cond(f: Step) -> Step:
    return lambda module, arrays: jm.cond(jnp.asarray(True), f, f, module, arrays)


def in_switch(f: Step) -> Step:
    return lambda module, arrays: jm.switch(jnp.asarray(1), [f, f, f], module, arrays)


def in_fori_loop(f: Step) -> Step:
    def call(module: nn.Module, arrays: list[Any]) -> Any:
        start = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jm.eval_shape(f, module, arrays))
        return jm.fori_loop(0, 1, lambda i, _: f(module, arrays), start)

    return call


def in_vmap(f: Step) -> Step:
    """Of one lane, with the module stacked."""

    def call(module: nn.Module, arrays: list[Any]) -> Any:
        boxes = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        for box in boxes.values():
            box.value = box.value[None]
        out = jm.vmap(f, randomness="same")(module, [jnp.asarray(x)[None] for x in arrays])
        for box in boxes.values():
            box.value = box.value[0]
        return jax.tree.map(lambda y: y[0], out)

    return call


TRANSFORMS: dict[str, Callable[[Step], Step]] = {
    "jit": jm.jit,
    "remat": jm.remat,
    "scan": in_scan,
    "cond": in_cond,
    "switch": in_switch,
    "fori_loop": in_fori_loop,
    "vmap": in_vmap,
}
PAIRS = [(outer, inner) for outer, inner in product(TRANSFORMS, TRANSFORMS) if outer != inner]
LAYERS = [row for row in ROWS if not row.variant and not row.layer.startswith(LAZY)]


def cases() -> list[Any]:
    found = []
    for k, row in enumerate(LAYERS):
        for turn in range(4):
            outer, inner = PAIRS[(k + turn * 11) % len(PAIRS)]
            marks = [pytest.mark.slow] if turn or k % 3 else []
            found.append(pytest.param(row, outer, inner, id=f"{row.id}-{outer}-{inner}", marks=marks))
    return found


def split(row: Row) -> tuple[list[Any], Callable[[list[Any]], Any]]:
    """The floating-point arrays of a row's inputs, and the inputs with others in their place."""
    leaves, tree = jax.tree.flatten(row.inputs(0))
    floating = [isinstance(x, np.ndarray) and bool(jnp.issubdtype(x.dtype, jnp.floating)) for x in leaves]

    def fill(arrays: list[Any]) -> Any:
        rest = iter(arrays)
        return jax.tree.unflatten(tree, [next(rest) if f else x for x, f in zip(leaves, floating, strict=True)])

    return [x for x, f in zip(leaves, floating, strict=True) if f], fill


@pytest.mark.parametrize(("row", "outer", "inner"), cases())
def test_a_pair_of_transforms_changes_nothing(row: Row, outer: str, inner: str) -> None:
    arrays, fill = split(row)

    def step(module: nn.Module, arrays: list[Any]) -> Any:
        """The output, and gradients, which run the module a second time."""
        output = jax.tree.map(jnp.asarray, row.run(module, fill(arrays)))
        return output, jm.grad(lambda m: total(row.run(m, fill(arrays))))(module)

    plain, nested = row.make(), row.make()
    jm.manual_seed(1)
    expected = step(plain, arrays)
    state = jm.get_rng_state()
    jm.manual_seed(1)
    found = TRANSFORMS[outer](TRANSFORMS[inner](step))(nested, arrays)
    assert_same(found[0], expected[0], 1e-5)
    assert_same(dict(found[1]), dict(expected[1]), 2e-5)
    assert_same(dict(nested.state_dict()), dict(plain.state_dict()), 1e-5)
    assert jnp.array_equal(jm.get_rng_state(), state)
    assert_no_tracer(nested)

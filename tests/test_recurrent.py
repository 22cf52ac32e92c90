"""The derivative of the recurrent layers, and what of them needs no torch to be told."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

import jaxmodule as jm
from jaxmodule import nn
from jaxmodule.nn.functional._recurrent_scan import Hidden, Mode, _scan, over_time

T, N, H, P = 4, 3, 3, 2  # T: the longest of the lengths below
GATES: dict[Mode, int] = {"RNN_TANH": 1, "RNN_RELU": 1, "LSTM": 4, "GRU": 3}

ARGUMENTS = ("mode", "reverse", "ragged", "projected")
CASES = [
    ("RNN_TANH", False, True, False),
    ("RNN_RELU", True, False, False),
    ("LSTM", False, False, True),
    ("LSTM", True, True, False),
    ("GRU", False, False, False),
    ("GRU", True, True, False),
]


def problem(mode: Mode, ragged: bool, projected: bool, dtype: Any = np.float32) -> tuple[Any, Any]:
    """What is differentiated (input, parameters, state), and the lengths."""
    draws = np.random.default_rng(0)

    def draw(*shape: int) -> np.ndarray:
        return draws.uniform(-1, 1, shape).astype(dtype)

    size, rows = P if projected else H, GATES[mode] * H
    hidden = Hidden(draw(rows, size), draw(H) if mode == "GRU" else None, draw(P, H) if projected else None)
    state = (draw(N, size), draw(N, H)) if mode == "LSTM" else (draw(N, size),)
    return (draw(T, N, rows), hidden, state), np.array([4, 2, 0], np.int32) if ragged else None


SWEEP = [pytest.param(*case, 2, marks=pytest.mark.slow) for case in CASES]


@pytest.mark.parametrize((*ARGUMENTS, "order"), [(*CASES[0], 1), (*CASES[5], 1), *SWEEP])
def test_check_grads(mode: Mode, reverse: bool, ragged: bool, projected: bool, order: int) -> None:
    with jax.enable_x64(True):
        arguments, lengths = problem(mode, ragged, projected, np.float64)
        run = jax.jit(lambda *arguments: over_time(mode, reverse, *arguments, lengths))
        check_grads(run, arguments, order=order, modes=("fwd", "rev"))


@pytest.mark.parametrize(ARGUMENTS, CASES)
def test_the_rule_is_the_derivative_of_the_scan(mode: Mode, reverse: bool, ragged: bool, projected: bool) -> None:
    arguments, lengths = problem(mode, ragged, projected)

    def plain(*arguments: Any) -> Any:
        last, outputs = _scan(mode, reverse, *arguments, lengths, keep=False)
        return outputs, last

    def ours(*arguments: Any) -> Any:
        return over_time(mode, reverse, *arguments, lengths)

    def gradient(function: Any) -> Any:
        def loss(*arguments: Any) -> jax.Array:
            return sum(jnp.sum(jnp.sin(3 * x + k)) for k, x in enumerate(jax.tree.leaves(function(*arguments))))

        return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))(*arguments)

    for a, b in zip(jax.tree.leaves(gradient(ours)), jax.tree.leaves(gradient(plain)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=2e-6)


def dots(jaxpr: Any) -> int:
    """How many matrix products there are, those of a scan's body counted once."""
    count = 0
    for equation in jaxpr.eqns:
        count += equation.primitive.name == "dot_general"
        for value in equation.params.values():
            if hasattr(value, "jaxpr"):
                count += dots(value.jaxpr)
            elif hasattr(value, "eqns"):
                count += dots(value)
    return count


@pytest.mark.parametrize("mode", ["RNN_TANH", "LSTM", "GRU"])
def test_a_frozen_weight_costs_no_product(mode: Mode) -> None:
    """Forward one product a step, backward one; the weight's own gradient is one more, over all steps."""
    (x, hidden, state), _ = problem(mode, False, False)

    def loss(x: Any, weight: Any) -> jax.Array:
        return over_time(mode, False, x, hidden._replace(weight=weight), state, None)[0].sum()

    def count(argnums: Any) -> int:
        return dots(jax.make_jaxpr(jax.grad(loss, argnums=argnums))(x, hidden.weight).jaxpr)

    assert count(0) == 2
    assert count((0, 1)) == 3


def test_the_rule_maps_over_modules_and_inputs() -> None:
    modules = [nn.LSTM(2, 3, proj_size=2) for _ in range(2)]
    x = np.random.default_rng(0).standard_normal((2, 4, 3, 2)).astype(np.float32)
    parameters, _ = jm.stack_module_state(modules)

    def loss(parameters: Any, x: Any) -> jax.Array:
        return jnp.sum(jm.functional_call(modules[0], parameters, (x,))[0] ** 2)

    found = jax.jit(jax.vmap(jax.grad(loss)))(parameters, jnp.asarray(x))
    alone = jax.jit(jax.grad(loss))
    for k, module in enumerate(modules):
        expected = alone({name: p.value for name, p in module.named_parameters()}, jnp.asarray(x[k]))
        for name, value in expected.items():
            np.testing.assert_allclose(found[name][k], value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_half_precision_carries_its_state_in_single(kind: str, dtype: Any) -> None:
    """200 steps: a state rounded at every one would be off by more than the rounding of one number."""
    half, single = getattr(nn, kind)(2, 3).to(dtype), getattr(nn, kind)(2, 3)
    for a, b in zip(single.parameters(), half.parameters(), strict=True):
        a.value = b.value.astype(jnp.float32)
    x = np.random.default_rng(0).standard_normal((200, 1, 2)).astype(dtype)
    found, last = half(x)
    expected, _ = single(x.astype(np.float32))
    assert all(leaf.dtype == dtype for leaf in jax.tree.leaves((found, last)))
    assert float(jnp.abs(found.astype(jnp.float32) - expected).max()) <= 3 * float(jnp.finfo(dtype).eps)


def test_a_changed_weight_is_seen() -> None:
    module = nn.GRU(2, 3)
    x = jnp.ones((4, 1, 2))
    run = jm.jit(lambda module, x: module(x)[0])
    before = run(module, x)
    module.weight_hh_l0 = nn.Parameter(module.weight_hh_l0.value + 1)
    assert bool((run(module, x) != before).any())
    np.testing.assert_allclose(run(module, x), module(x)[0], rtol=1e-6)


def test_a_shared_weight_is_one_parameter() -> None:
    """Tied layers: one box under two names, whose gradient is the sum."""
    module = nn.RNN(3, 3, 2)
    module.weight_hh_l1 = module.weight_hh_l0
    x = jnp.ones((4, 1, 3))
    gradients = jm.grad(lambda module: module(x)[0].sum())(module)
    assert "weight_hh_l1" not in gradients
    other = nn.RNN(3, 3, 2)
    other.load_state_dict(module.state_dict())
    apart = jm.grad(lambda module: module(x)[0].sum())(other)
    total = apart["weight_hh_l0"] + apart["weight_hh_l1"]
    np.testing.assert_allclose(gradients["weight_hh_l0"], total, rtol=1e-5, atol=1e-6)

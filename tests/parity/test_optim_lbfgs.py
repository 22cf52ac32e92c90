"""L-BFGS against torch's: the same evaluations, the same iterates, and states that go both ways."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import jaxmodule as jm
from tests.parity.oracle import assert_close

X = np.random.default_rng(0).standard_normal((40, 6))
Y = np.random.default_rng(1).standard_normal((40, 2))


@pytest.fixture(autouse=True)
def _double() -> Iterator[None]:
    """In float32 the order of a sum decides, some twenty iterations later, in the second digit."""
    with jax.enable_x64(True):
        yield


def pair(**options: Any) -> tuple[Any, Any, Any, Any]:
    """A model and its optimizer, here and in torch."""
    torch.manual_seed(0)
    theirs = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Tanh(), torch.nn.Linear(5, 2)).double()
    ours = jm.nn.Sequential(jm.nn.Linear(6, 5), jm.nn.Tanh(), jm.nn.Linear(5, 2))
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        p.value = jnp.asarray(q.detach().numpy())
    reference = torch.optim.LBFGS(theirs.parameters(), **options)
    return ours, jm.optim.LBFGS(ours.parameters(), **options), theirs, reference


def closures(ours: Any, optimizer: Any, theirs: Any, reference: Any) -> tuple[Any, Any]:
    x, y = torch.from_numpy(X), torch.from_numpy(Y)

    def torchs() -> Any:
        reference.zero_grad()
        loss = ((theirs(x) - y) ** 2).mean()
        loss.backward()
        return loss

    compiled = jm.jit(jm.value_and_grad(lambda m, x, y: ((m(x) - y) ** 2).mean()))
    return lambda: compiled(ours, jnp.asarray(X), jnp.asarray(Y)), torchs


OPTIONS: list[dict[str, Any]] = [
    {"lr": 0.3},
    {"lr": 0.3, "history_size": 3, "max_iter": 5},
    {"line_search_fn": "strong_wolfe"},
    {"line_search_fn": "strong_wolfe", "history_size": 4, "max_iter": 6, "lr": 0.5},
    {"line_search_fn": "strong_wolfe", "max_eval": 9},
    {"lr": 0.3, "tolerance_grad": 0.1},
    {"lr": 0.3, "tolerance_change": 0.05},
    {"lr": 0.0},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_the_iterates_and_the_evaluations_are_torchs(options: dict[str, Any]) -> None:
    given = pair(**options)
    ours, optimizer, theirs, reference = given
    mine, torchs = closures(*given)
    for _ in range(4):
        assert_close(optimizer.step(mine), reference.step(torchs))
        entry, expected = optimizer.state["0.weight"], reference.state_dict()["state"][0]
        for count in ("n_iter", "func_evals"):
            assert int(entry[count]) == expected[count], count
        for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
            assert_close(p, q)


def test_a_torch_closure_line_by_line() -> None:
    given = pair(line_search_fn="strong_wolfe")
    ours, optimizer, _, reference = given
    _, torchs = closures(*given)

    def closure() -> Any:
        optimizer.zero_grad()
        return jm.backward(lambda m: ((m(jnp.asarray(X)) - jnp.asarray(Y)) ** 2).mean())(ours)

    for _ in range(2):
        assert_close(optimizer.step(closure), reference.step(torchs))


@pytest.mark.parametrize("line_search_fn", [None, "strong_wolfe"])
def test_states_go_both_ways(line_search_fn: str | None) -> None:
    options = {"line_search_fn": line_search_fn, "lr": 0.5, "max_iter": 6, "history_size": 8}
    first, second = pair(**options), pair(**options)
    mine, torchs = closures(*first)
    for _ in range(2):
        first[1].step(mine)
        first[3].step(torchs)
    second[1].load_state_dict(first[3].state_dict())
    second[3].load_state_dict(first[1].torch_state_dict(torch.from_numpy))
    second[0].load_state_dict(first[0].state_dict())
    second[2].load_state_dict(first[2].state_dict())
    others = closures(*second)
    for _ in range(2):
        expected = first[1].step(mine)
        assert_close(second[1].step(others[0]), expected)
        assert_close(second[3].step(others[1]), expected)


def test_the_parts_on_the_device_compile_once() -> None:
    from jaxmodule.optim import lbfgs

    given = pair(line_search_fn="strong_wolfe", history_size=5)
    mine, _ = closures(*given)
    given[1].step(mine)
    counts = [f._cache_size() for f in (lbfgs._direction, lbfgs._moved, lbfgs._flat)]
    for _ in range(3):
        given[1].step(mine)
    assert [f._cache_size() for f in (lbfgs._direction, lbfgs._moved, lbfgs._flat)] == counts

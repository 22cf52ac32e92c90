"""Objects that a `jm.jit` function uses though they are no arguments: those without arrays, as loss modules are."""

from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmodule as jm
from jaxmodule import nn

X = jnp.linspace(-1.0, 1.0, 12).reshape(3, 4)


class Counts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.n = 0

    def forward(self, x: jax.Array) -> jax.Array:
        self.n += 1
        return x


def traced(function: Any) -> tuple[Any, list[int]]:
    """The compiled function, and a list with an entry for each of its traces."""
    traces: list[int] = []

    def noting(*args: Any) -> Any:
        traces.append(1)
        return function(*args)

    return jm.jit(noting), traces


def test_a_change_of_mode_is_seen_and_both_programs_are_kept() -> None:
    drop, layer = nn.Dropout(0.5), nn.Linear(4, 4)
    call, traces = traced(lambda layer, x: drop(layer(x)))
    for training in (True, False, True, False):
        drop.train(training)
        assert bool((call(layer, X) == 0).any()) is training
    assert len(traces) == 2


@pytest.mark.parametrize("how", ["closed over", "static", "nested", "by name", "in a container"])
def test_a_change_of_an_attribute_is_seen(how: str) -> None:
    act = nn.LeakyReLU(0.1)
    holder = SimpleNamespace(act=act)
    inner = jm.jit(lambda x: act(x))
    by_place = jm.jit(lambda act, x: act(x), static_argnums=0)
    by_name = jm.jit(lambda x, act: act(x), static_argnames="act")
    call = {
        "closed over": jm.jit(lambda x: act(x)),
        "static": lambda x: by_place(act, x),
        "by name": lambda x: by_name(x, act=act),
        "nested": jm.jit(lambda x: inner(x) * 1),
        "in a container": jm.jit(lambda x: holder.act(x)),
    }[how]
    for slope in (0.1, 0.5, 0.1):
        act.negative_slope = slope
        np.testing.assert_allclose(call(-jnp.ones(2)), -slope * np.ones(2))


def test_a_warm_call_traces_nothing() -> None:
    loss = nn.CrossEntropyLoss(label_smoothing=0.1)
    call, traces = traced(lambda model, x: loss(model(x), jnp.zeros(3, jnp.int32)))
    model = nn.Linear(4, 2)
    for _ in range(3):
        call(model, X)
    nn.Linear(2, 2).eval()  # other objects don't disturb it
    call(model, X)
    assert len(traces) == 1


def test_what_a_call_changes_it_changes_each_time() -> None:
    counts, drop = Counts(), nn.Dropout()
    call = jm.jit(lambda x: counts(x))
    for _ in range(3):
        call(X)
    assert counts.n == 3

    @jm.jit
    def evaluate(x: jax.Array) -> jax.Array:
        drop.eval()
        return x

    for _ in range(2):
        evaluate(X)
        assert not drop.training
        drop.train()


def test_an_array_cannot_be_given_to_it() -> None:
    counts = Counts()

    @jm.jit
    def keep(x: jax.Array) -> jax.Array:
        counts.last = x
        return x

    with pytest.raises(jm.ClosedOverError, match=r"'last' of Counts.*(.|\n)*as an argument"):
        keep(X)
    assert not hasattr(counts, "last")
    assert jm.jit(lambda counts, x: counts(x))(counts, X).shape == X.shape


def test_what_is_compiled_ahead_of_time_refuses_a_change() -> None:
    act = nn.LeakyReLU(0.1)
    compiled = jm.jit(lambda x: act(x)).lower(X).compile()
    compiled(X)
    act.negative_slope = 0.2
    with pytest.raises(TypeError, match="no argument, has changed"):
        compiled(X)


def test_a_tracer_in_a_plain_object_of_a_module_is_an_error() -> None:
    model = nn.Linear(4, 4)
    model.notes = SimpleNamespace(last=None)

    def keep(model: Any, x: jax.Array) -> jax.Array:
        model.notes.last = x
        return model(x)

    with pytest.raises(jm.StateError, match="a traced array was put into 'notes', a SimpleNamespace"):
        jm.jit(keep)(model, X)


class TestRawJit:
    """Raw `jax.jit` of a function of a Module: what is not in its arguments makes other programs too."""

    def test_no_grad(self) -> None:
        model, total = nn.Linear(4, 2), jax.jit(lambda m, x: m(x).sum())
        with jm.no_grad():
            total(model, X)
        np.testing.assert_allclose(jax.grad(total)(model, X).bias.value, [3.0, 3.0])

    def test_autocast(self) -> None:
        model, call = nn.Linear(4, 2), jax.jit(lambda m, x: m(x))
        with jm.autocast(jnp.bfloat16):
            assert call(model, X).dtype == jnp.bfloat16
        assert call(model, X).dtype == jnp.float32

    def test_hooks_of_the_process(self) -> None:
        from jaxmodule.nn.modules.module import register_module_forward_hook

        model, call = nn.Linear(4, 2), jax.jit(lambda m, x: m(x))
        before = call(model, X)
        with register_module_forward_hook(lambda module, args, out: out * 0):
            assert not call(model, X).any()
        np.testing.assert_array_equal(call(model, X), before)

    def test_inference(self) -> None:
        model, call = nn.BatchNorm1d(4), jax.jit(lambda m, x: m(x))
        call(model, X)
        with jm.inference(), pytest.raises(jm.StateError, match="train mode inside"):
            call(model, X)

"""The specification of `jm.capture`: outputs of chosen submodules, out of eager and compiled calls alike."""

import gc
import weakref
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmodule as jm
from jaxmodule import nn

X = jnp.asarray(np.random.default_rng(0).standard_normal((4, 3)), jnp.float32)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attn = nn.Linear(3, 3)
        self.mlp = nn.Tanh()

    def forward(self, x: jax.Array) -> jax.Array:
        return self.mlp(self.attn(x)) + x


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Block(), Block()])
        self.head = nn.Linear(3, 2)

    def forward(self, x: jax.Array) -> jax.Array:
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


def by_forward_hooks(model: nn.Module, x: jax.Array) -> dict[str, jax.Array]:
    """The output of every module in one eager call."""
    found: dict[str, Any] = {}
    handles = [
        module.register_forward_hook(lambda m, args, out, name=name: found.__setitem__(name, out))
        for name, module in model.named_modules()
    ]
    model(x)
    for handle in handles:
        handle.remove()
    return found


def loss(m: nn.Module, x: jax.Array) -> jax.Array:
    return (m(x) ** 2).sum()


CALLS = {
    "eager": lambda m, x: m(x),
    "jm.jit": jm.jit(lambda m, x: m(x)),
    "jm.grad": jm.grad(loss),
    "jm.grad in jm.jit": jm.jit(lambda m, x: jm.grad(loss)(m, x)),
    "jm.jit in jm.grad": jm.grad(jm.jit(loss)),
    "jm.jit in jm.jit": jm.jit(lambda m, x: jm.jit(loss)(m, x)),
    "jm.backward": jm.backward(loss),
}


@pytest.mark.parametrize("call", CALLS)
def test_what_is_captured_is_what_forward_hooks_see(call: str) -> None:
    model = Net()
    expected = by_forward_hooks(model, X)
    with jm.capture(model, "layers.*.attn", "head", "") as acts:
        CALLS[call](model, X)
    assert sorted(acts) == ["", "head", "layers.0.attn", "layers.1.attn"]
    assert len(acts) == 4
    for name, value in acts.items():
        assert not isinstance(value, jax.core.Tracer)
        np.testing.assert_allclose(value, expected[name], rtol=1e-5, atol=1e-6)


def test_a_capture_leaves_the_result_alone() -> None:
    model = Net()
    plain = jm.grad(loss)(model, X)
    with jm.capture(model, "*"):
        captured = jm.grad(loss)(model, X)
    for name in plain:
        np.testing.assert_array_equal(plain[name], captured[name])


def test_a_second_block_compiles_nothing() -> None:
    """And neither does a call outside of a block after one inside."""
    model, traces = Net(), []

    @jm.jit
    def call(model: nn.Module, x: jax.Array) -> jax.Array:
        traces.append(1)
        return model(x)

    call(model, X)
    for i in range(3):
        with jm.capture(model, "layers.*") as acts:
            call(model, X + i)
            call(model, X - i)
        assert len(traces) == 2
        expected = by_forward_hooks(model, X - i)["layers.0"]
        np.testing.assert_allclose(acts["layers.0"], expected, rtol=1e-5, atol=1e-6)
        assert len(acts.calls["layers.0"]) == 2
        call(model, X)
    with jm.capture(model, "head") as acts:
        call(model, X)
    assert list(acts) == ["head"]
    assert len(traces) == 3


def test_all_calls_of_a_module_are_kept_and_the_last_is_given() -> None:
    layer = nn.Linear(3, 3)
    model = nn.Sequential(layer, layer)
    first = layer(X)
    with jm.capture(model, "0") as acts:
        out = jm.jit(model)(X)
    assert len(acts.calls["0"]) == 2
    np.testing.assert_allclose(acts.calls["0"][0], first, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(acts["0"], out, rtol=1e-5, atol=1e-6)
    assert repr(acts) == "Capture(0: 2 call(s))"
    acts.clear()
    assert len(acts) == 0
    with pytest.raises(KeyError, match="captured are"):
        acts["0"]


def test_a_module_with_two_names_is_found_by_either() -> None:
    layer = nn.Linear(3, 3)
    model = nn.Sequential(layer, layer)
    with jm.capture(model, "1") as acts:
        model(X)
    assert list(acts) == ["1"]


def test_a_replacement_by_a_forward_hook_is_what_is_captured() -> None:
    model = Net()
    model.head.register_forward_hook(lambda module, args, out: out * 0 + 3)
    with jm.capture(model, "head") as acts:
        jm.jit(model)(X)
    assert (acts["head"] == 3).all()


def test_outputs_that_are_containers_are_captured_whole() -> None:
    class Pair(nn.Module):
        def forward(self, x: jax.Array) -> Any:
            return {"a": x, "b": (x + 1, None)}

    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pair = Pair()

        def forward(self, x: jax.Array) -> jax.Array:
            return self.pair(x)["a"]

    model = Outer()
    for call in (model, jm.jit(model)):
        with jm.capture(model, "pair") as acts:
            call(X)
        np.testing.assert_array_equal(acts["pair"]["b"][0], X + 1)
        assert acts["pair"]["b"][1] is None


def test_blocks_nest() -> None:
    model, call = Net(), jm.jit(lambda m, x: m(x))
    with jm.capture(model, "head") as outer:
        call(model, X)
        with jm.capture(model, "layers.0", "head") as inner:
            call(model, X)
        call(model, X)
    call(model, X)
    assert [len(outer.calls[name]) for name in outer] == [3]
    assert {name: len(calls) for name, calls in inner.calls.items()} == {"layers.0": 1, "head": 1}


def test_another_model_is_not_captured() -> None:
    model, other = Net(), Net()
    call = jm.jit(lambda m, x: m(x))
    with jm.capture(model, "head") as acts:
        call(other, X)
        assert len(acts) == 0
        call(model, X)
    assert len(acts.calls["head"]) == 1


def test_a_call_that_fails_captures_nothing_under_jit() -> None:
    model = Net()

    @jm.jit
    def call(model: nn.Module, x: jax.Array) -> jax.Array:
        model(x)
        raise ValueError("afterwards")

    with jm.capture(model, "head") as acts, pytest.raises(ValueError, match="afterwards"):
        call(model, X)
    assert len(acts) == 0


def test_a_pattern_that_matches_nothing_raises() -> None:
    with pytest.raises(ValueError, match=r"no module of Net has a name like 'layer\.\*'; there are: layers, layers\.0"):
        jm.capture(Net(), "head", "layer.*")
    with pytest.raises(ValueError, match="at least one pattern"):
        jm.capture(Net())


def test_capturing_inside_a_raw_transform_raises() -> None:
    """Its values could not get out; the error names the module."""
    model = Net()
    params, _ = jm.split(model)
    with (
        jm.capture(model, "head"),
        pytest.raises(jm.ForeignTraceError, match="captured inside a raw JAX transform"),
    ):
        jax.jit(lambda x: model(x))(X)
    with jm.capture(model, "head") as acts:
        jm.functional_call(model, params, (X,))
    assert len(acts) == 1


def test_neither_capture_nor_program_keeps_anything_alive() -> None:
    model, call = Net(), jm.jit(lambda m, x: m(x))
    with jm.capture(model, "head") as acts:
        call(model, X)
    value, block = weakref.ref(acts["head"]), weakref.ref(acts)
    del acts
    gc.collect()
    assert block() is None
    assert value() is None


def test_patterns_may_come_as_a_list():
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    with jm.capture(model, ["0", "1"]) as acts:
        model(jnp.ones((1, 2)))
    assert set(acts) == {"0", "1"}

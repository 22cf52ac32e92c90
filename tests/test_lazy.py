"""Uninitialised parameters and lazy modules: the first call, loading, transforms, copies."""

from __future__ import annotations

import copy
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmodule as jm
from jaxmodule import nn
from jaxmodule.nn.modules.lazy import LazyModuleMixin
from jaxmodule.nn.parameter import UninitializedBuffer, UninitializedParameter, is_lazy


class Scale(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(jnp.ones(size))
        self.register_buffer("seen", jnp.zeros(size))

    def forward(self, x: jax.Array) -> jax.Array:
        self.seen = self.seen + 1
        return x * self.weight


class LazyScale(LazyModuleMixin, Scale):
    cls_to_become = Scale

    def __init__(self, device: object = None, dtype: object = None) -> None:
        super().__init__(0)
        self.weight = UninitializedParameter(device=device, dtype=dtype)
        self.seen = UninitializedBuffer(device=device, dtype=dtype)

    def initialize_parameters(self, x: jax.Array) -> None:
        if self.has_uninitialized_params():
            self.weight.materialize(x.shape[-1:])
            self.weight.fill_(2.0)
            self.seen.materialize(x.shape[-1:])


def test_the_first_call_gives_the_same_boxes_a_shape_and_the_module_its_class() -> None:
    layer = LazyScale()
    weight, seen = layer.weight, layer.seen
    assert layer.has_uninitialized_params()
    assert is_lazy(weight)
    assert is_lazy(seen)
    assert layer(jnp.ones(3)).shape == (3,)
    assert type(layer) is Scale
    assert layer.weight is weight
    assert type(weight) is nn.Parameter
    assert type(seen) is nn.Buffer
    assert weight.tolist() == [2.0, 2.0, 2.0]
    assert list(dict(layer.named_parameters())) == ["weight"]


def test_the_first_call_inside_jit_and_its_program() -> None:
    model = nn.Sequential(LazyScale())
    traces = []

    @jm.jit
    def call(model: nn.Module, x: jax.Array) -> jax.Array:
        traces.append(1)
        return model(x)

    for _ in range(3):
        assert call(model, jnp.ones(3)).tolist() == [2.0] * 3
    assert type(model[0]) is Scale
    assert model[0].seen.tolist() == [3.0] * 3
    assert len(traces) == 2  # the lazy one's program is used once


def test_a_trace_that_fails_leaves_it_lazy() -> None:
    layer = LazyScale()

    @jm.jit
    def fails(layer: nn.Module, x: jax.Array) -> None:
        layer(x)
        raise ValueError("later")

    with pytest.raises(ValueError, match="later"):
        fails(layer, jnp.ones(3))
    assert type(layer) is LazyScale
    assert type(layer.weight) is UninitializedParameter
    assert layer.has_uninitialized_params()
    assert layer(jnp.ones(2)).shape == (2,)


def test_eval_shape_leaves_it_lazy() -> None:
    layer = LazyScale()
    assert jm.eval_shape(lambda layer, x: layer(x), layer, jnp.ones(3)).shape == (3,)
    assert type(layer) is LazyScale
    assert is_lazy(layer.weight)


def test_reading_one_says_what_to_do() -> None:
    layer = LazyScale()
    for use in (
        lambda: layer.weight + 1,
        lambda: jnp.sum(layer.weight),
        lambda: jm.grad(lambda m: m(jnp.ones(3)).sum())(layer),
        lambda: jm.split(layer),
        lambda: nn.init.ones_(layer.weight),
    ):
        with pytest.raises(ValueError, match="uninitialized parameter.*Call|uninitialized.*call `forward`"):
            use()
    with pytest.raises(RuntimeError, match="Can't access the shape of an uninitialized"):
        layer.weight.shape
    with pytest.raises(ValueError, match="use `materialize"):
        layer.weight.value = jnp.ones(3)


def test_what_initializes_nothing_is_an_error() -> None:
    class Forgetful(LazyScale):
        def initialize_parameters(self, x: jax.Array) -> None: ...

    with pytest.raises(RuntimeError, match="Forgetful has not been fully initialized") as caught:
        Forgetful()(jnp.ones(3))
    assert caught.value.__notes__ == ["in Forgetful(), called with float32[3]"]


def test_a_class_that_becomes_no_other_initializes_once() -> None:
    calls = []

    class Own(LazyModuleMixin, nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = UninitializedParameter()

        def initialize_parameters(self, x: jax.Array) -> None:
            calls.append(x.shape)
            self.weight.materialize(x.shape)

        def forward(self, x: jax.Array) -> jax.Array:
            return x + self.weight

    layer = Own()
    for _ in range(2):
        layer(jnp.ones(2))
    assert calls == [(2,)]
    assert type(layer) is Own


def test_loading_before_the_first_call_gives_the_shapes() -> None:
    source = LazyScale()
    source(jnp.ones(3))
    layer = LazyScale(dtype=jnp.bfloat16)
    report = layer.load_state_dict(source.state_dict())
    assert report.missing_keys == []
    assert sorted(report.loaded) == ["seen", "weight"]
    assert layer.weight.tolist() == [2.0] * 3
    assert layer.weight.dtype == jnp.bfloat16
    assert layer(jnp.ones(3, jnp.bfloat16)).shape == (3,)
    assert type(layer) is Scale


def test_a_load_that_fails_leaves_it_lazy() -> None:
    layer = LazyScale()
    with pytest.raises(RuntimeError, match="Missing key"):
        layer.load_state_dict({"weight": jnp.ones(3)})
    assert is_lazy(layer.weight)


def test_state_of_a_lazy_module_saves_and_loads_as_lazy() -> None:
    state = LazyScale().state_dict()
    assert all(map(is_lazy, state.values()))
    layer = LazyScale()
    assert layer.load_state_dict(state).missing_keys == []
    assert is_lazy(layer.weight)
    ready = LazyScale()
    ready(jnp.ones(3))
    with pytest.raises(RuntimeError, match="no value for weight yet"):
        ready.load_state_dict(state)


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_are_lazy_on_their_own(duplicate: object) -> None:
    layer = LazyScale(dtype=jnp.float16)
    twin = duplicate(layer)
    if duplicate is not copy.copy:
        assert twin.weight is not layer.weight
        twin(jnp.ones(3, jnp.float16))
        assert is_lazy(layer.weight)
        assert twin.weight.dtype == jnp.float16
    box = duplicate(layer.weight)
    assert is_lazy(box)
    assert box is not layer.weight


def test_raw_jax_gets_clones_and_leaves_the_original_lazy() -> None:
    layer = LazyScale()
    assert jax.tree.leaves(layer) == []
    clone = jax.tree.map(lambda x: x, layer)
    clone(jnp.ones(3))
    assert is_lazy(layer.weight)
    returned = jax.jit(lambda layer, x: layer(x))(layer, jnp.ones(3))
    assert returned.shape == (3,)
    assert is_lazy(layer.weight)


def test_conversion_is_remembered() -> None:
    device = jax.devices()[-1]
    layer = LazyScale().to(jnp.bfloat16).to(device)
    layer(jax.device_put(jnp.ones(3, jnp.bfloat16), device))
    assert layer.weight.dtype == jnp.bfloat16
    assert layer.weight.devices() == {device}
    plain = LazyScale().half()
    plain(jnp.ones(3, jnp.float16))
    assert not plain.weight.committed


def test_freezing_before_the_shape_is_known() -> None:
    layer = LazyScale().requires_grad_(False)
    layer(jnp.ones(3))
    assert not layer.weight.requires_grad
    with pytest.raises(ValueError, match="a buffer has no gradient"):
        UninitializedBuffer(requires_grad=True)
    assert not UninitializedBuffer(persistent=False).persistent


def test_numpy_input() -> None:
    assert LazyScale()(np.ones(3, np.float32)).shape == (3,)


def test_class_changes_are_seen_by_compiled_functions() -> None:
    class Twice(Scale):
        def forward(self, x: jax.Array) -> jax.Array:
            return 2 * super().forward(x)

    layer = Scale(2)
    for call in (jm.jit(lambda m, x: m(x)), jax.jit(lambda m, x: m(x))):
        layer.__class__ = Scale
        assert call(layer, jnp.ones(2)).tolist() == [1.0, 1.0]
        layer.__class__ = Twice
        assert call(layer, jnp.ones(2)).tolist() == [2.0, 2.0]

"""Pruning under transforms."""

import copy
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmodule as jm
from jaxmodule import nn
from jaxmodule.nn.utils import parametrize, prune

X = jnp.asarray([[1.0, 2.0, 3.0], [-1.0, 0.5, 2.0]])


def close(a, b, rel=1e-5, abs=1e-6):
    a, b = np.asarray(a), np.asarray(b)
    return a.shape == b.shape and np.allclose(a, b, rel, abs)


def pruned(amount=4):
    return prune.l1_unstructured(nn.Linear(3, 3), "weight", amount=amount)


def compiled():
    traces = []

    @jm.jit
    def call(model, x):
        traces.append(1)
        return model(x)

    return call, traces


CHANGES = {
    "prune": lambda m: prune.l1_unstructured(m[0], "weight", amount=3),
    "prune again": lambda m: prune.l1_unstructured(m[1], "weight", amount=3),
    "prune another": lambda m: prune.l1_unstructured(m[1], "bias", amount=1),
    "remove": lambda m: prune.remove(m[1], "weight"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_compiled_call_sees_the_change(name):
    model, (call, traces) = nn.Sequential(nn.Linear(3, 3), pruned()), compiled()
    call(model, X)
    call(model, X)
    assert len(traces) == 1
    CHANGES[name](model)
    assert close(call(model, X), model(X), abs=1e-6)
    call(model, X)
    assert len(traces) == 2


def test_a_new_mask_or_original_needs_no_new_program():
    layer, (call, traces) = pruned(), compiled()
    call(layer, X)
    layer.weight_mask.value = jnp.zeros((3, 3))
    assert close(call(layer, X), jnp.tile(layer.bias.value, (2, 1)))
    layer.weight_mask.value = jnp.ones((3, 3))
    layer.weight_orig.value = jnp.ones((3, 3))
    assert float(layer.weight.sum()) == 9  # computed when it is read
    assert close(call(layer, X), X.sum(1, keepdims=True) + layer.bias.value[None])
    assert len(traces) == 1


def test_training():
    layer = pruned()
    optimizer = jm.optim.SGD(layer.parameters(), lr=0.1)

    @jm.jit
    def step(layer, optimizer, x):
        gradients = jm.grad(lambda layer: (layer(x) ** 2).sum())(layer)
        optimizer.step(gradients)
        return gradients

    zeros = layer.weight_mask.value == 0
    gradients = step(layer, optimizer, X)
    assert float(abs(gradients["weight_orig"][zeros]).sum()) == 0
    assert float(abs(layer.weight[zeros]).sum()) == 0
    assert not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(layer))


def test_raw_transforms():
    layer = pruned().eval()
    expected = layer(X)
    assert close(jax.vmap(layer)(X), expected, rel=1e-6)
    assert close(jax.jit(layer)(X), expected, rel=1e-6)
    assert close(jax.jit(lambda m, x: m(x))(layer, X), expected, rel=1e-6)
    assert jax.grad(lambda m: m(X).sum())(layer).weight_orig.shape == (3, 3)
    out = jm.functional_call(layer, {"weight_orig": jnp.zeros((3, 3))}, X)
    assert close(out, jnp.tile(layer.bias.value, (2, 1)))


def test_a_compiled_call_carries_the_mask_and_writes_nothing():
    layer = pruned()
    lowered = jm.jit(lambda m, x: m(x)).lower(layer, X)
    assert len(jax.tree.leaves(lowered.out_info)) == 1


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies(duplicate):
    layer = prune.custom_from_mask(pruned(), "weight", np.tril(np.ones((3, 3))))
    other = duplicate(layer)
    assert prune.is_pruned(other)
    assert close(other(X), layer(X))
    prune.remove(other, "weight")
    assert prune.is_pruned(layer)
    assert close(other(X), layer(X))
    prune.l1_unstructured(layer, "weight", amount=1)
    assert len(next(iter(layer._forward_pre_hooks.values()))) == 3


def test_random_pruning_follows_the_seed():
    def mask(seed):
        jm.manual_seed(seed)
        return np.asarray(prune.random_unstructured(nn.Linear(9, 9), "weight", amount=0.5).weight_mask)

    assert np.array_equal(mask(1), mask(1))
    assert not np.array_equal(mask(1), mask(2))


def test_pruning_inside_a_compiled_function():
    @jm.jit
    def shrink(layer):
        prune.random_unstructured(layer, "weight", amount=2)
        prune.custom_from_mask(layer, "bias", jnp.zeros(3))

    layer = nn.Linear(3, 3)
    with jax.checking_leaks():  # a hook keeps its mask
        shrink(layer)
    assert int((layer.weight == 0).sum()) == 2
    assert float(abs(layer.bias).sum()) == 0
    assert not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(layer))

    @jm.jit
    def fails(layer):
        prune.identity(layer, "weight")
        raise RuntimeError("later")

    layer = nn.Linear(3, 3)
    with pytest.raises(RuntimeError, match="later"):
        fails(layer)
    assert not prune.is_pruned(layer)
    assert list(layer.state_dict()) == ["weight", "bias"]


def test_what_is_assigned_lasts_until_the_next_call():
    layer = pruned()
    expected, value = layer(X), layer.weight
    layer.weight = jnp.zeros((3, 3))
    assert float(abs(layer.weight).sum()) == 0
    assert close(layer(X), expected)
    assert close(layer.weight, value)
    layer.weight = jnp.zeros((3, 3))
    assert close(jm.jit(lambda m, x: m(x))(layer, X), expected)
    assert close(layer.weight, value)
    with pytest.raises(KeyError, match="attribute 'weight' already exists"):
        layer.weight = nn.Parameter(jnp.zeros((3, 3)))


def test_half_precision():
    layer = pruned().bfloat16()
    assert layer.weight.dtype == jnp.bfloat16
    assert layer(X.astype(jnp.bfloat16)).dtype == jnp.bfloat16
    half = prune.l1_unstructured(nn.Linear(3, 3, dtype=jnp.bfloat16), "weight", amount=3)
    assert (half.weight_mask.dtype, half.weight.dtype) == (jnp.bfloat16, jnp.bfloat16)


def test_pruning_and_parametrizations_on_one_module():
    class Twice(nn.Module):
        def forward(self, x):
            return 2 * x

    layer = pruned()
    parametrize.register_parametrization(layer, "bias", Twice())
    parametrize.register_parametrization(layer, "weight_orig", Twice())
    # torch reads the attribute too.
    with pytest.raises(KeyError, match="weight_orig"):
        prune.remove(layer, "weight")

"""The hook-based normalisations under transforms; fusing, `skip_init`, import paths."""

import copy
import importlib
import pickle
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmodule as jm
from jaxmodule import nn
from jaxmodule.nn import utils

X = jnp.asarray([[1.0, 2.0, 3.0], [-1.0, 0.5, 2.0]])


def close(a, b, rel=1e-5, abs=1e-6):
    a, b = np.asarray(a), np.asarray(b)
    return a.shape == b.shape and np.allclose(a, b, rel, abs)


pytestmark = pytest.mark.filterwarnings("ignore:.torch.nn.utils.weight_norm. is deprecated:FutureWarning")


def test_import_paths():
    for path in (
        "clip_grad",
        "convert_parameters",
        "fusion",
        "init",
        "memory_format",
        "parametrizations",
        "parametrize",
    ):
        assert importlib.import_module(f"jaxmodule.nn.utils.{path}").__all__
    for path in ("prune", "rnn", "spectral_norm", "stateless", "weight_norm"):
        assert importlib.import_module(f"jaxmodule.nn.utils.{path}").__all__
    assert all(hasattr(utils, name) for name in utils.__all__)
    assert utils is nn.utils


@pytest.mark.parametrize("function", ["weight_norm", "spectral_norm"])
def test_hooks_under_transforms(function):
    traces = []

    @jm.jit
    def call(model, x):
        traces.append(1)
        return model(x)

    layer = nn.Linear(3, 4)
    call(layer, X)
    getattr(utils, function)(layer)
    layer.eval()
    expected = call(layer, X)
    assert len(traces) == 2
    assert close(layer(X), expected, rel=1e-5)
    assert close(jax.vmap(layer)(X), expected, rel=1e-5)
    assert close(jax.jit(layer)(X), expected, rel=1e-5)
    assert close(jax.jit(lambda m, x: m(x))(layer, X), expected, rel=1e-5)
    gradients = jm.jit(jm.grad(lambda m: (m(X) ** 2).sum()))(layer)
    assert all(float(abs(g).sum()) > 0 for g in gradients.values())
    other = pickle.loads(pickle.dumps(copy.deepcopy(layer)))
    assert close(other(X), expected, rel=1e-5)
    getattr(utils, f"remove_{function}")(other)
    assert close(other(X), expected, rel=1e-5)
    assert type(other.weight) is nn.Parameter
    assert not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(layer))


def test_spectral_norm_iterates_in_training_only():
    layer = utils.spectral_norm(nn.Linear(3, 4))
    before = layer.weight_u.value
    layer.eval()(X)
    layer.weight
    assert layer.weight_u.value is before
    jm.jit(lambda m, x: m(x))(layer.train(), X)
    assert not jnp.array_equal(layer.weight_u.value, before)
    with pytest.raises(jm.ForeignTraceError, match="weight_u"):
        jax.vmap(layer)(X)


def test_what_is_assigned_lasts_until_the_next_call():
    layer = utils.weight_norm(nn.Linear(3, 4))
    expected = layer(X)
    layer.weight = jnp.zeros((4, 3))
    assert float(abs(layer.weight).sum()) == 0
    assert close(layer(X), expected)
    assert float(abs(layer.weight).sum()) > 0


def test_both_hooks_on_one_module():
    layer = utils.spectral_norm(utils.weight_norm(nn.Linear(3, 4), "bias", dim=None))
    assert sorted(layer.state_dict()) == ["bias_g", "bias_v", "weight_orig", "weight_u", "weight_v"]
    layer(X)
    utils.remove_weight_norm(layer, "bias")
    assert sorted(layer.state_dict()) == ["bias", "weight_orig", "weight_u", "weight_v"]
    utils.remove_spectral_norm(layer)
    assert sorted(layer.state_dict()) == ["bias", "weight"]


def test_skip_init_draws_nothing_and_computes_nothing():
    class Slow(nn.Module):
        def __init__(self, n, device=None):
            super().__init__()
            self.inner = nn.Linear(n, n, device=device)
            self.register_buffer("total", self.inner.weight.sum())

    state = jm.get_rng_state()
    model = utils.skip_init(Slow, 4)
    assert jnp.array_equal(jm.get_rng_state(), state)
    assert {name: value.shape for name, value in model.state_dict().items()} == {
        "total": (),
        "inner.weight": (4, 4),
        "inner.bias": (4,),
    }
    assert float(abs(model.inner.weight).sum()) == 0
    device = jax.devices()[1]
    placed = utils.skip_init(nn.BatchNorm1d, 4, device=device)
    assert placed.running_var.devices() == {device}
    half = utils.skip_init(nn.Linear, 4, 2, dtype=jnp.bfloat16)
    assert half.weight.dtype == jnp.bfloat16


def test_a_fused_layer_is_a_new_one_and_trains():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    images = jnp.asarray(np.random.default_rng(0).standard_normal((2, 1, 5, 5)), jnp.float32)
    for _ in range(3):
        model(images)
    model.eval()
    fused = utils.fuse_conv_bn_eval(model[0], model[1])
    assert close(fused(images), model(images), abs=1e-5)
    assert fused.weight is not model[0].weight
    gradients = jm.jit(jm.grad(lambda m: (m(images) ** 2).sum()))(fused)
    assert sorted(gradients) == ["bias", "weight"]


def test_every_deprecated_name_warns():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        utils.weight_norm(nn.Linear(2, 2))
        utils.clip_grad_norm([], 1.0)
        utils.stateless.functional_call(nn.ReLU(), {}, X)
    assert [w.category for w in caught] == [FutureWarning] * 3
    assert {w.filename for w in caught} == {__file__}

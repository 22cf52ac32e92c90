"""Clipping of gradients under transforms, of dicts, and over several devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmodule as jm
from jaxmodule import nn
from jaxmodule.nn import utils
from jaxmodule.nn.utils import clip_grad

X = jnp.asarray([[1.0, 2.0, 3.0], [-1.0, 0.5, 2.0]])


def close(a, b, rel=1e-5, abs=1e-6):
    a, b = np.asarray(a), np.asarray(b)
    return a.shape == b.shape and np.allclose(a, b, rel, abs)


def loss(model, x):
    return (model(x) ** 2).sum()


def with_gradients(*arrays):
    parameters = [nn.Parameter(jnp.zeros(a.shape)) for a in arrays]
    for parameter, array in zip(parameters, arrays, strict=True):
        parameter.grad = array
    return parameters


def test_the_dict_of_grad_is_changed_in_place_and_still_knows_its_parameters():
    model = nn.Linear(3, 2)
    gradients = jm.grad(loss)(model, X)
    before = dict(gradients)
    norm = utils.clip_grad_norm_(gradients, 0.5)
    assert float(norm) == pytest.approx(float(utils.get_total_norm(before)))
    assert float(utils.get_total_norm(gradients)) == pytest.approx(0.5, rel=1e-4)
    start = model.weight.value
    jm.optim.SGD(model.parameters(), lr=1.0).step(gradients)
    assert close(model.weight, start - gradients["weight"])
    for name, value in before.items():
        assert close(gradients[name], value * float(0.5 / norm), rel=1e-4)


def test_a_dict_with_holes():
    gradients = {"a": jnp.ones(4), "b": None}
    utils.clip_grad_value_(gradients, 0.25)
    assert float(utils.clip_grad_norm_(gradients, 10.0)) == 0.5
    assert gradients["b"] is None


def test_inside_jit_gradients_of_parameters_are_written_back():
    @jm.jit
    def step(model, x):
        jm.backward(loss)(model, x)
        return utils.clip_grad_norm_(model.parameters(), 0.5)

    model = nn.Linear(3, 2)
    norm = step(model, X)
    assert isinstance(norm, jax.Array)
    assert float(norm) > 0.5
    assert float(utils.get_total_norm([p.grad for p in model.parameters()])) == pytest.approx(0.5, rel=1e-4)
    assert not isinstance(model.weight.grad, jax.core.Tracer)


def test_the_limit_may_be_an_array():
    @jm.jit
    def clip(gradients, limit):
        utils.clip_grad_norm_(gradients, limit)
        return gradients

    clipped = clip({"a": jnp.full(4, 3.0)}, jnp.float32(3.0))
    assert close(clipped["a"], jnp.full(4, 1.5))


def test_error_if_nonfinite_in_a_compiled_step_leaves_the_model_as_it_was():
    @jm.jit
    def step(model, x):
        gradients = jm.grad(loss)(model, x)
        utils.clip_grad_norm_(gradients, 0.5, error_if_nonfinite=True)
        for name, gradient in gradients.items():
            parameter = model.get_parameter(name)
            parameter.value = parameter.value - gradient

    model = nn.Linear(3, 2)
    step(model, X)
    before = model.state_dict()
    with pytest.raises(RuntimeError, match="The total norm of order 2.0 for gradients from `parameters` is non-finite"):
        step(model, X * jnp.inf)
    assert model.state_dict() == before
    step(model, X)
    assert jnp.isfinite(model.weight.value).all()


def test_error_if_nonfinite_in_eager_code_leaves_the_gradients_as_they_were():
    (parameter,) = with_gradients(jnp.array([1.0, jnp.nan]))
    before = parameter.grad
    with pytest.raises(RuntimeError, match="non-finite"):
        utils.clip_grad_norm_(parameter, 1.0, error_if_nonfinite=True)
    assert parameter.grad is before


@pytest.mark.parametrize("foreach", [None, False])
def test_gradients_on_several_devices(foreach):
    devices = jax.devices()
    assert len(devices) > 1
    arrays = [jax.device_put(jnp.full(4, 1.0 + i), devices[i]) for i in range(2)]
    parameters = with_gradients(*arrays)
    norm = utils.clip_grad_norm_(parameters, 1.0, foreach=foreach)
    assert float(norm) == pytest.approx(np.sqrt(20))
    assert norm.devices() == {devices[0]}
    for parameter, array in zip(parameters, arrays, strict=True):
        assert parameter.grad.devices() == array.devices()
        assert close(parameter.grad, np.asarray(array) / np.sqrt(20), rel=1e-4)
    utils.clip_grad_value_(parameters, 0.1, foreach=foreach)
    assert parameters[1].grad.devices() == {devices[1]}


def test_sharded_gradients():
    mesh = jax.make_mesh((2,), ("x",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:2])
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x"))
    sharded = jax.device_put(jnp.full(4, 3.0), sharding)
    elsewhere = jax.device_put(jnp.full(4, 4.0), jax.devices()[3])
    parameters = with_gradients(sharded, elsewhere)
    assert float(utils.clip_grad_norm_(parameters, 1.0)) == pytest.approx(10.0)
    assert parameters[0].grad.sharding == sharding
    assert close(parameters[1].grad, jnp.full(4, 0.4), rel=1e-4)


def test_one_program_for_all_gradients_or_one_for_each_shape():
    parameters = with_gradients(*[jnp.ones((5, 7)) for _ in range(6)], jnp.ones(11))
    for foreach, programs in ((None, 1), (True, 1), (False, 2)):
        clip_grad._norms_program.clear_cache()
        for _ in range(2):
            utils.clip_grad_norm_(parameters, 0.5, foreach=foreach)
        assert clip_grad._norms_program._cache_size() == programs
    assert float(utils.get_total_norm([p.grad for p in parameters])) == pytest.approx(0.5, rel=1e-4)


def test_what_is_no_parameter_is_an_error():
    with pytest.raises(TypeError, match="the dict that jm.grad returns"):
        utils.clip_grad_norm_([jnp.ones(3)], 1.0)
    buffer = nn.Buffer(jnp.ones(3))
    assert float(utils.clip_grad_norm_(buffer, 1.0)) == 0  # it has no gradient, as in torch


def test_norms_are_differentiable():
    gradient = jax.grad(lambda x: utils.get_total_norm([x, 2 * x]))(jnp.array([3.0, 4.0]))
    assert close(gradient, np.sqrt(5) * np.array([0.6, 0.8]), rel=1e-5)


def test_vectors_and_parameters_inside_jit():
    @jm.jit
    def double(model):
        vector = utils.parameters_to_vector(model.parameters())
        utils.vector_to_parameters(2 * vector, model.parameters())
        return vector

    model = nn.Linear(3, 2)
    before = model.weight.value
    double(model)
    assert close(model.weight, 2 * before)
    arrays = [jax.device_put(jnp.ones(2), device) for device in jax.devices()[:2]]
    with pytest.raises(TypeError, match="different devices"):
        utils.parameters_to_vector(arrays)

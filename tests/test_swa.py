"""Averages of weights under JAX's transforms."""

import copy
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmodule as jm
from jaxmodule import nn
from jaxmodule.optim.swa_utils import (
    SWALR,
    AveragedModel,
    get_ema_avg_fn,
    get_ema_multi_avg_fn,
    get_swa_avg_fn,
    update_bn,
)


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2))


@pytest.mark.parametrize("donate", [False, True])
def test_a_compiled_step_is_traced_once(donate):
    """The first update copies and the later ones average, in one program."""
    model, by_hand, traces = net(), [], []
    ema = AveragedModel(model, avg_fn=get_ema_avg_fn(0.75))
    optimizer = jm.optim.SGD(model.parameters(), lr=0.1)

    def train(model, ema, optimizer, x):
        traces.append(1)
        optimizer.step(jm.grad(lambda m: (m(x) ** 2).mean())(model))
        ema.update_parameters(model)

    step = jm.jit(train, donate=donate)
    for seed in range(6):
        step(model, ema, optimizer, jax.random.normal(jax.random.key(seed), (5, 3)))
        value = np.asarray(model[0].weight)
        by_hand.append(value if not by_hand else 0.75 * by_hand[-1] + 0.25 * value)
    assert len(traces) == 1
    np.testing.assert_allclose(ema.module[0].weight, by_hand[-1], rtol=1e-5)
    np.testing.assert_array_equal(ema.module[1].running_mean, model[1].running_mean)
    assert int(ema.n_averaged) == 6


def test_an_average_in_a_scan():
    model = nn.Linear(1, 1, bias=False)
    mean = AveragedModel(model)

    def body(carry, value):
        model.weight.value = value.reshape(1, 1)
        mean.update_parameters(model)
        return carry, None

    jm.scan(body, 0, jnp.arange(1.0, 6.0))
    np.testing.assert_allclose(mean.module.weight, [[3.0]], rtol=1e-6)


@pytest.mark.parametrize("how", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["copy", "pickle"])
def test_copies_and_equal_functions_share_programs(how):
    model, traces = net(), []
    averaged = [AveragedModel(model, avg_fn=get_ema_avg_fn(0.5)) for _ in range(2)]
    averaged.append(how(averaged[0]))

    @jm.jit
    def update(averaged, model):
        traces.append(1)
        averaged.update_parameters(model)

    for one in averaged:
        update(one, model)
    assert len(traces) == 1


def test_half_precision_is_averaged_in_float32():
    model = nn.Linear(4, 4, bias=False).to(jnp.bfloat16)
    averaged = AveragedModel(model, avg_fn=get_ema_avg_fn(0.9))
    averaged.update_parameters(model)
    before = averaged.module.weight.value.astype(jnp.float32)
    model.weight.value = model.weight.value * 2
    averaged.update_parameters(model)
    expected = (0.9 * before + 0.1 * model.weight.value.astype(jnp.float32)).astype(jnp.bfloat16)
    assert averaged.module.weight.dtype == jnp.bfloat16
    np.testing.assert_array_equal(averaged.module.weight, expected)


def test_another_device_keeps_the_average():
    device = jax.devices()[1]
    model = net()
    averaged = AveragedModel(model, device=device)
    for _ in range(2):
        averaged.update_parameters(model)
    assert averaged.module[0].weight.devices() == {device}
    assert model[0].weight.devices() == {jax.devices()[0]}


def test_another_model_is_refused():
    averaged = AveragedModel(nn.Linear(3, 2))
    for other, match in (
        (nn.Linear(3, 4), r"'weight' is \[2, 3\] in the average, and \[4, 3\] in the model"),
        (nn.Linear(3, 2, bias=False), "'bias' is .* and not there in the model"),
    ):
        with pytest.raises(ValueError, match=match):
            averaged.update_parameters(other)


def test_a_function_that_writes_in_place_is_told_to_return():
    averaged = AveragedModel(nn.Linear(3, 2), multi_avg_fn=lambda averaged, current, n: None)
    with pytest.raises(TypeError, match="arrays can't be written to"):
        averaged.update_parameters(nn.Linear(3, 2))
    AveragedModel(nn.Linear(3, 2), multi_avg_fn=get_ema_multi_avg_fn()).update_parameters(nn.Linear(3, 2))


def test_update_bn_compiles_once_for_a_model():
    traces = []

    class Net(nn.BatchNorm1d):
        def forward(self, x):
            traces.append(1)
            return super().forward(x)

    first, second = Net(2), Net(2)
    for _ in range(3):
        for model in (first, second):
            update_bn([jnp.ones((4, 2)), jnp.ones((4, 2))], model)
    assert len(traces) == 2


def test_update_bn_puts_everything_back():
    model = net()
    model[2].eval()
    x = [jax.random.normal(jax.random.key(i), (6, 3)) for i in range(3)]
    update_bn(x, model, device=jax.devices()[0])
    assert model[1].momentum == 0.1
    assert [module.training for module in model.modules()] == [True, True, True, False, True]
    hidden = model[0](jnp.stack(x))
    np.testing.assert_allclose(model[1].running_mean, hidden.mean((0, 1)), rtol=1e-4, atol=1e-5)
    with pytest.raises(RuntimeError):
        update_bn([jnp.ones((2, 9))], model)
    assert model[1].momentum == 0.1
    update_bn(iter(()), nn.Linear(2, 2))  # nothing to compute


def test_swalr_as_a_schedule():
    optimizer = jm.optim.SGD(nn.Linear(2, 1).parameters(), lr=0.3)
    rate = SWALR(optimizer, 0.05, anneal_epochs=4).as_optax()
    found = []
    scheduler = SWALR(optimizer, 0.05, anneal_epochs=4)
    optimizer.step({"weight": jnp.zeros((1, 2)), "bias": jnp.zeros(1)})
    for _ in range(8):
        found += scheduler.get_last_lr()
        scheduler.step()
    np.testing.assert_allclose(jax.vmap(rate)(jnp.arange(8)), found, rtol=1e-5)


def test_the_mean_function_takes_plain_arrays():
    assert float(get_swa_avg_fn()(jnp.float32(1), jnp.float32(4), jnp.int32(2))) == 2.0

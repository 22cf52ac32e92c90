"""`jm.accumulate`: the whole batch's gradient from microbatches, their state, their memory."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmodule as jm
from jaxmodule import nn
from jaxmodule.nn import functional as F
from jaxmodule.transforms.accumulate import accumulate


def data(rows: int = 12) -> tuple[jax.Array, jax.Array]:
    return jax.random.normal(jax.random.key(0), (rows, 5)), jnp.arange(rows) % 3


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))


def loss(model, x, y):
    return F.cross_entropy(model(x), y)


@pytest.mark.parametrize("n", [1, 3, 12])
@pytest.mark.parametrize("compiled", [True, False])
def test_it_is_the_whole_batchs_gradient(n, compiled):
    model, (x, y) = mlp(), data()
    run = accumulate(n)(loss)
    value, grads = (jm.jit(lambda m, x, y: run(m, x, y)) if compiled else run)(model, x, y)
    expected, reference = jm.value_and_grad(loss)(model, x, y)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    assert set(grads) == set(reference)
    for name in grads:
        np.testing.assert_allclose(grads[name], reference[name], rtol=1e-5, atol=1e-7)
    jm.optim.SGD(model.parameters(), lr=0.1).step(grads)  # its names are the parameters'


def test_a_sum_is_summed():
    model, (x, y) = mlp(), data()

    def total(model, x, y):
        return F.cross_entropy(model(x), y, reduction="sum")

    value, grads = accumulate(4, reduction="sum")(total)(model, x, y)
    expected, reference = jm.value_and_grad(total)(model, x, y)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(grads["0.weight"], reference["0.weight"], rtol=1e-4, atol=1e-6)


def test_state_goes_from_one_microbatch_to_the_next():
    """BatchNorm's statistics and dropout's masks are those of a loop over the microbatches."""
    make = lambda: nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 3))  # noqa: E731
    model, by_hand, (x, y) = make(), make(), data()
    by_hand.load_state_dict(model.state_dict())
    jm.manual_seed(3)
    _, grads = jm.jit(lambda m, x, y: accumulate(3)(loss)(m, x, y))(model, x, y)
    jm.manual_seed(3)
    parts = [jm.grad(loss)(by_hand, x[i : i + 4], y[i : i + 4]) for i in (0, 4, 8)]
    for name in grads:
        np.testing.assert_allclose(grads[name], sum(part[name] for part in parts) / 3, rtol=1e-5, atol=1e-6)
    assert int(model[1].num_batches_tracked) == 3
    np.testing.assert_allclose(model[1].running_mean, by_hand[1].running_mean, rtol=1e-5)


def test_aux_is_stacked_and_other_arguments_are_whole():
    model, (x, y) = mlp(), data()

    def with_aux(model, x, y, scale, *, weight):
        logits = model(x)
        return F.cross_entropy(logits, y["labels"], weight) * scale, {"logits": logits, "scale": scale}

    run = accumulate(3, has_aux=True, batch_argnums=(1, 2))(with_aux)
    (value, aux), grads = run(model, x, {"labels": y}, jnp.float32(2.0), weight=jnp.ones(3))
    assert aux["logits"].shape == (3, 4, 3)
    np.testing.assert_allclose(aux["logits"].reshape(12, 3), model(x), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(value, 2 * loss(model, x, y), rtol=1e-5)
    assert set(grads) == {"0.weight", "0.bias", "2.weight", "2.bias"}


def test_several_differentiated_arguments_and_tied_parameters():
    a, b = nn.Linear(5, 5, bias=False), nn.Linear(5, 5, bias=False)
    b.weight = a.weight
    shift = jnp.ones(5)
    x, _ = data()

    def f(a, b, shift, x):
        return (b(jnp.tanh(a(x) + shift[None])) ** 2).mean()

    value, grads = accumulate(4, argnums=(0, 1, 2))(f)(a, b, shift, x)
    expected, reference = jm.value_and_grad(f, argnums=(0, 1, 2))(a, b, shift, x)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    for mine, theirs in zip(jax.tree.leaves(grads), jax.tree.leaves(reference), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-6)


def test_frozen_and_half_precision_parameters():
    model, (x, y) = mlp(), data()
    model[0].requires_grad_(False)
    model.to(jnp.bfloat16)
    _, grads = accumulate(12)(lambda m, x, y: loss(m, x.astype(jnp.bfloat16), y).astype(jnp.float32))(model, x, y)
    assert set(grads) == {"2.weight", "2.bias"}
    assert grads["2.weight"].dtype == jnp.bfloat16
    whole = jm.grad(lambda m: loss(m, x.astype(jnp.bfloat16), y).astype(jnp.float32))(model)
    np.testing.assert_allclose(
        grads["2.weight"].astype(jnp.float32), whole["2.weight"].astype(jnp.float32), rtol=0.03, atol=3e-3
    )


def test_the_memory_is_that_of_a_microbatch():
    model = nn.Sequential(*[nn.Sequential(nn.Linear(64, 64), nn.Tanh()) for _ in range(6)])
    x = jnp.ones((512, 64))

    def square(model, x):
        return (model(x) ** 2).mean()

    def temporary(step):
        return jm.jit(step).lower(model, x).compile().memory_analysis().temp_size_in_bytes

    whole = temporary(lambda model, x: jm.value_and_grad(square)(model, x))
    parts = temporary(lambda model, x: accumulate(16)(square)(model, x))
    assert parts < whole / 3, (parts, whole)


def test_it_is_traced_once():
    model, (x, y), traces = mlp(), data(), []
    optimizer = jm.optim.SGD(model.parameters(), lr=0.1)

    @jm.jit
    def train(model, optimizer, x, y):
        traces.append(1)
        value, grads = accumulate(3)(loss)(model, x, y)
        optimizer.step(grads)
        return value

    losses = [float(train(model, optimizer, x, y)) for _ in range(10)]
    assert len(traces) == 1
    assert losses[-1] < losses[0]


ERRORS = {
    "no division": (lambda m, x, y: accumulate(5)(loss)(m, x, y), r"accumulate(5): argument 1 has shape [12, 5]"),
    "different batches": (lambda m, x, y: accumulate(2)(loss)(m, x, y[:6]), "argument 2 has shape [6], and argument 1"),
    "nothing to split": (lambda m, x, y: accumulate(2)(lambda m: m.sum())(m), "no argument has an array to split"),
    "no number": (lambda m, x, y: accumulate(0), "positive int, got 0"),
    "no reduction": (lambda m, x, y: accumulate(2, reduction="max"), "'mean' or 'sum'"),
    "differentiated": (lambda m, x, y: accumulate(2, batch_argnums=0)(loss)(m, x, y), "is differentiated"),
    "by name": (lambda m, x, y: accumulate(5)(loss)(m, x=x, y=y), "argument 'x' has shape [12, 5]"),
}


@pytest.mark.parametrize(("call", "match"), ERRORS.values(), ids=ERRORS.keys())
def test_errors_name_the_shapes(call, match):
    with pytest.raises(ValueError, match=re.escape(match)):
        call(mlp(), *data())

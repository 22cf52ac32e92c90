"""`jm.grad`, `jm.value_and_grad`, `jm.backward`: what is differentiated, and what happens to state on the way."""

import re

import jax
import jax.numpy as jnp
import pytest
from jax.test_util import check_grads

import jaxmodule as jm
from jaxmodule import nn


def dots(function, *args):
    """The number of matrix products in a jaxpr, those in inner ones included."""
    fresh = jax.make_jaxpr(lambda *args: function(*args))  # JAX keeps the jaxpr of a function that it has seen
    return _count(fresh(*args).jaxpr)


def _count(jaxpr):
    inner = [p for eqn in jaxpr.eqns for p in eqn.params.values() if hasattr(p, "jaxpr")]
    own = sum(eqn.primitive.name == "dot_general" for eqn in jaxpr.eqns)
    return own + sum(_count(p.jaxpr) for p in inner)


def test_gradients_are_a_plain_dict_by_dotted_name():
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
    x = jnp.ones((4, 3))
    loss, grads = jm.value_and_grad(lambda m, x: m(x).sum())(model, x)
    assert type(grads) is dict
    assert list(grads) == ["0.weight", "0.bias", "1.weight", "1.bias"]
    assert loss == model(x).sum()
    params, _ = jm.split(model)
    expected = jax.grad(lambda p: jm.functional_call(model, p, x).sum())(params)
    for name, gradient in grads.items():
        assert jnp.allclose(gradient, expected[name], rtol=1e-6), name
        assert name.box is model.get_parameter(name)
    moved = jax.tree.map(lambda p, g: p - g, params, grads)  # mixes with other dicts
    assert list(moved) == sorted(grads)


def test_gradients_agree_with_differences():
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.LayerNorm(4))
    params, _ = jm.split(model)
    call = lambda p: jm.functional_call(model, p, jnp.ones((2, 3)))  # noqa: E731
    check_grads(call, (params,), 1, modes=["rev"], atol=1e-2, rtol=1e-2)


def test_argnums_and_mixed_arguments():
    a, b, x = nn.Linear(2, 2), nn.Linear(2, 1), jnp.ones((1, 2))

    def loss(a, b, x):
        return b["b"](a(x)).sum()

    ga, gb, gx = jm.grad(loss, argnums=(0, 1, 2))(a, {"b": b}, x)
    assert list(ga) == ["weight", "bias"]
    assert list(gb) == ["b"]
    assert gx.shape == x.shape
    assert jm.grad(loss, argnums=-1)(a, {"b": b}, x).shape == x.shape
    assert jm.grad(lambda p: (p**2).sum())(a.weight).shape == (2, 2)
    with pytest.raises(ValueError, match="argnums=3"):
        jm.grad(loss, argnums=3)(a, {"b": b}, x)


@pytest.mark.parametrize("name", ["grad", "value_and_grad", "backward", "jacrev", "jacfwd", "hessian", "accumulate"])
@pytest.mark.parametrize("argnums", [nn.Sequential(nn.Tanh()), nn.Linear(1, 1), (nn.Tanh(),), jnp.ones(2), None, "0"])
def test_a_model_in_the_place_of_argnums_raises_with_the_remedy(name, argnums):
    first, call = (2, "jm.accumulate(n)") if name == "accumulate" else (jnp.sum, f"jm.{name}")
    with pytest.raises(TypeError, match=rf"argnums is an int or a tuple of ints(.|\n)* {re.escape(call)}.loss..model"):
        getattr(jm, name)(first, argnums=argnums)


def test_has_aux():
    model = nn.BatchNorm1d(2)
    x = jnp.array([[1.0, 2.0], [3.0, 5.0]])
    loss = lambda m: (m(x).sum(), {"out": m(x), "m": m, "none": None})  # noqa: E731
    (_, aux), _ = jm.value_and_grad(loss, has_aux=True)(model)
    assert aux["m"] is model
    assert aux["none"] is None
    assert aux["out"].shape == (2, 2)
    assert int(model.num_batches_tracked) == 2
    _, aux = jm.grad(lambda m: (m(x).sum(), m.weight), has_aux=True)(model)
    assert aux is model.weight
    with pytest.raises(TypeError, match="must return"):
        jm.grad(lambda m: m(x).sum(), has_aux=True)(model)


def test_frozen_parameters_cost_nothing():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    x = jnp.ones((2, 3))

    def run(x):
        return jm.value_and_grad(lambda m: m(x).sum())(model)

    assert dots(run, x) == 2 + 3  # two forward; two weight gradients and one input gradient
    model[0].requires_grad_(False)
    assert dots(run, x) == 2 + 1
    assert list(run(x)[1]) == ["1.weight", "1.bias"]
    model.requires_grad_(False)
    assert dots(run, x) == 2
    assert run(x)[1] == {}


def test_frozen_parameters_carry_no_gradient_in_raw_jax():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[0].requires_grad_(False)
    grads = jax.grad(lambda m: m(jnp.ones((2, 3))).sum())(model)
    assert isinstance(grads, nn.Sequential)
    assert not grads[0].weight.any()
    assert grads[1].weight.any()


def test_a_tied_parameter_has_one_gradient():
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Tanh(), nn.Linear(2, 2, bias=False))
    model[2].weight = model[0].weight
    x = jnp.ones((1, 2))
    grads = jm.grad(lambda m: m(x).sum())(model)
    assert list(grads) == ["0.weight"]
    w = model[0].weight.value
    expected = jax.grad(lambda w: (jnp.tanh(x @ w.T) @ w.T).sum())(w)
    assert jnp.allclose(grads["0.weight"], expected, rtol=1e-6)


def test_state_is_written_in_order():
    model = nn.BatchNorm1d(2)
    twin = nn.BatchNorm1d(2)
    x = jnp.array([[1.0, 2.0], [3.0, 5.0]])
    jm.grad(lambda m: m(x).sum() + m(2 * x).sum())(model)
    twin(x), twin(2 * x)
    for name, value in twin.state_dict().items():
        assert jnp.array_equal(model.state_dict()[name], value), name


def test_an_exception_in_the_loss_writes_nothing():
    model = nn.BatchNorm1d(2)

    def loss(m):
        m(jnp.ones((2, 2)))
        raise KeyError("x")

    with pytest.raises(KeyError, match="x"):
        jm.grad(loss)(model)
    assert int(model.num_batches_tracked) == 0


def test_nested():
    model = nn.Linear(2, 1, bias=False)
    x = jnp.array([[1.0, 2.0]])

    def norm(m):
        return (jm.grad(lambda m: (m(x) ** 2).sum())(m)["weight"] ** 2).sum()

    w = model.weight.value
    expected = jax.grad(lambda w: (jax.grad(lambda w: ((x @ w.T) ** 2).sum())(w) ** 2).sum())(w)
    assert jnp.allclose(jm.grad(norm)(model)["weight"], expected)
    assert jnp.allclose(jm.jit(jm.grad(norm))(model)["weight"], expected)


def test_backward_adds_into_grad():
    model = nn.Linear(2, 1)
    x = jnp.ones((3, 2))
    backward = jm.backward(lambda m: m(x).sum())
    assert backward(model) == model(x).sum()
    assert model.bias.grad == 3
    backward(model)
    assert model.bias.grad == 6
    model.zero_grad()
    assert model.bias.grad is None
    _, aux = jm.backward(lambda m: (m(x).sum(), 1.5), has_aux=True)(model)
    assert aux == 1.5
    model.zero_grad(set_to_none=False)
    assert model.bias.grad == 0
    with pytest.raises(TypeError, match="Modules and Parameters, not arrays"):
        jm.backward(lambda x: x.sum())(x)
    with pytest.raises(RuntimeError, match="different size"):
        model.bias.grad = jnp.ones(7)


def test_a_torch_loop_compiles_once_and_keeps_no_gradients_it_cleared():
    traces = []

    @jm.jit
    def step(model, optimizer, x):
        traces.append(1)
        optimizer.zero_grad()
        loss = jm.backward(lambda m: (m(x) ** 2).sum())(model)
        optimizer.step()
        optimizer.zero_grad()
        return loss

    model = nn.Linear(2, 1)
    optimizer = jm.optim.SGD(model.parameters(), lr=0.01)
    losses = [float(step(model, optimizer, jnp.ones((3, 2)))) for _ in range(4)]
    assert losses == sorted(losses, reverse=True)
    assert len(traces) == 1
    assert model.weight.grad is None


def test_no_grad_carries_nothing():
    backbone, head = nn.Linear(3, 3), nn.Linear(3, 1)
    x = jnp.ones((2, 3))

    def loss(b, h):
        with jm.no_grad():
            features = b(x)
        return h(features).sum()

    gb, gh = jm.grad(loss, argnums=(0, 1))(backbone, head)
    assert not any(g.any() for g in gb.values())
    assert gh["bias"] == 2
    assert dots(lambda x: jm.grad(loss, (0, 1))(backbone, head), x) == 3


def test_what_is_made_inside_lives_on():
    model = nn.Identity()

    def loss(m, x):
        m.fc = nn.Linear(2, 1)
        return m.fc(x).sum()

    jm.grad(loss, argnums=1)(model, jnp.ones((1, 2)))
    assert model.fc(jnp.ones((1, 2))).shape == (1, 1)
    assert isinstance(model.fc.weight.value, jax.Array)

"""Specification of `functional_call`, `split`, `merge`, `stack_module_state`: modules as pure functions of dicts."""

import copy
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmodule as jm
from jaxmodule import nn

X = jnp.asarray(np.random.default_rng(0).standard_normal((4, 3)), jnp.float32)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(3, 3, bias=False)
        self.b = nn.Linear(3, 3, bias=False)
        self.b.weight = self.a.weight

    def forward(self, x: jax.Array) -> jax.Array:
        return self.b(self.a(x))


class Counter(nn.Module):
    """A buffer that is saved, one that isn't, and a plain array."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(jnp.asarray(2.0))
        self.register_buffer("calls", jnp.asarray(0))
        self.register_buffer("scratch", jnp.asarray(0.0), persistent=False)
        self.last = jnp.zeros(())

    def forward(self, x: jax.Array) -> jax.Array:
        self.calls += 1
        return x * self.scale.value.reshape((1,) * x.ndim)


def norm_net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def contents(model: nn.Module) -> dict[str, np.ndarray]:
    return {name: np.asarray(value) for part in jm.split(model) for name, value in part.items()}


def assert_close(a: Any, b: Any) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6), a, b)


# -- split and merge ----------------------------------------------------------------------------------------------
def test_split_gives_plain_dicts_of_arrays_by_name() -> None:
    params, buffers = jm.split(nn.Sequential(norm_net(), Counter()))
    assert list(params)[:2] == ["0.0.weight", "0.0.bias"]
    assert list(buffers)[-2:] == ["1.calls", "1.scratch"]
    assert all(type(name) is str for name in [*params, *buffers])
    assert all(isinstance(value, jax.Array) for value in [*params.values(), *buffers.values()])
    assert list(jm.split(Tied())[0]) == ["a.weight"]


def test_merge_gives_a_copy_with_other_arrays() -> None:
    model = norm_net()
    before, (params, _) = contents(model), jm.split(model)
    other = jm.merge(model, jax.tree.map(lambda p: p * 2, params), {"1.running_mean": jnp.ones(4)})
    assert type(other) is nn.Sequential
    assert_close(contents(model), before)
    np.testing.assert_array_equal(other[0].weight, 2 * before["0.weight"])
    assert (other[1].running_mean == 1).all()
    np.testing.assert_array_equal(other[1].running_var, before["1.running_var"])  # not given: the model's
    other[0].weight.zero_()
    assert_close(contents(model), before)
    np.testing.assert_array_equal(jm.merge(model)(X), copy.deepcopy(model)(X))


def test_merge_keeps_ties_and_modes() -> None:
    model = Tied().eval()
    model.a.weight.requires_grad = False
    other = jm.merge(model, {"b.weight": jnp.eye(3)})
    assert other.a.weight is other.b.weight
    assert (other.a.weight == jnp.eye(3)).all()
    assert not other.training
    assert not other.a.weight.requires_grad


def test_merge_raises_for_a_name_that_is_not_there() -> None:
    with pytest.raises(KeyError, match="Linear has no parameter or buffer 'wieght'"):
        jm.merge(nn.Linear(1, 1), {"wieght": jnp.ones((1, 1))})


def test_split_and_merge_work_inside_transforms() -> None:
    model = norm_net().eval()

    @jax.jit
    def doubled(params: dict[str, jax.Array]) -> jax.Array:
        return jm.merge(model, jax.tree.map(lambda p: p * 2, params))(X)

    params, _ = jm.split(model)
    expected = jm.merge(model, jax.tree.map(lambda p: p * 2, params))(X)
    np.testing.assert_allclose(doubled(params), expected, rtol=1e-5)
    names = jm.jit(lambda m: jm.split(m)[0])(model)
    assert_close(names, params)


# -- functional_call ----------------------------------------------------------------------------------------------
def test_it_calls_with_the_values_given_and_leaves_the_module_alone() -> None:
    model = nn.Linear(3, 2)
    before = contents(model)
    out = jm.functional_call(model, {"weight": jnp.ones((2, 3)), "bias": jnp.zeros(2)}, (X,))
    np.testing.assert_allclose(out, X.sum(1, keepdims=True) * jnp.ones((1, 2)), rtol=1e-5)
    partial = jm.functional_call(model, {"weight": jnp.zeros((2, 3))}, (X,))  # the bias is the module's own
    np.testing.assert_allclose(partial[0], before["bias"])
    assert_close(contents(model), before)


def test_values_may_be_numpy_arrays_or_boxes() -> None:
    model, other = nn.Linear(3, 2), nn.Linear(3, 2)
    expected = other(X)
    np.testing.assert_allclose(jm.functional_call(model, dict(other.named_parameters()), X), expected, rtol=1e-6)
    as_numpy = {name: np.asarray(box) for name, box in other.named_parameters()}
    np.testing.assert_allclose(jm.functional_call(model, as_numpy, X), expected, rtol=1e-6)


def test_hooks_run_and_are_given_the_module() -> None:
    model, seen = nn.Linear(3, 2), []
    model.register_forward_hook(lambda module, args, out: seen.append((module, module.weight.value)))
    params = {"weight": jnp.ones((2, 3))}
    jm.functional_call(model, params, X)
    assert seen[0][0] is model
    assert (seen[0][1] == 1).all()


TRANSFORMS = {
    "jax.jit": lambda f: jax.jit(f),
    "jax.vmap": lambda f: lambda p, x: jax.vmap(f, in_axes=(None, 0))(p, x[:, None]).reshape(4, 2),
    "jax.checkpoint": lambda f: jax.checkpoint(f),
    "jax.jit of jax.jit": lambda f: jax.jit(jax.jit(f)),
    "jm.jit": lambda f: jax.jit(f),
    "jax.lax.map": lambda f: lambda p, x: jax.lax.map(lambda row: f(p, row[None])[0], x),
}


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_it_works_in_raw_transforms(transform: str) -> None:
    model = norm_net().eval()
    params, buffers = jm.split(model)

    def call(params: Any, x: jax.Array) -> jax.Array:
        return jm.functional_call(model, (params, buffers), (x,))

    run = TRANSFORMS[transform](call)
    np.testing.assert_allclose(run(params, X), model(X), rtol=1e-5, atol=1e-6)
    grads = jax.grad(lambda p: (run(p, X) ** 2).sum())(params)
    assert_close(grads, {str(k): v for k, v in jm.grad(lambda m: (m(X) ** 2).sum())(model).items()})
    assert_close(jax.jvp(lambda p: run(p, X), (params,), (params,))[0], model(X))


def test_a_frozen_parameter_is_differentiated_when_it_is_given() -> None:
    """As in torch.func: what is differentiated is the dict."""
    model = nn.Linear(3, 2).requires_grad_(False)
    params, _ = jm.split(model)
    grads = jax.grad(lambda p: jm.functional_call(model, p, (X,)).sum())(params)
    assert (grads["bias"] == 4).all()


# -- what the call writes -----------------------------------------------------------------------------------------
def test_a_write_to_a_given_buffer_is_returned_or_raises() -> None:
    model = norm_net()
    before, (params, buffers) = contents(model), jm.split(model)
    reference = copy.deepcopy(model)
    expected = reference(X)
    out, written = jm.functional_call(model, (params, buffers), (X,), mutable=True)
    np.testing.assert_allclose(out, expected, rtol=1e-5)
    assert_close(written, jm.split(reference)[1])
    assert_close(contents(model), before)
    match = r"writes \['1\.num_batches_tracked', '1\.running_mean', '1\.running_var'\], which it was given"
    with pytest.raises(jm.ImmutableError, match=match):
        jm.functional_call(model, (params, buffers), (X,))
    assert_close(contents(model), before)
    out, written = jm.functional_call(model.eval(), (params, buffers), (X,), mutable=True)
    assert written == {}


def test_the_written_values_come_out_of_raw_transforms() -> None:
    model = norm_net()
    params, buffers = jm.split(model)

    @jax.jit
    def step(params: Any, buffers: Any) -> Any:
        def loss(params: Any) -> Any:
            out, written = jm.functional_call(model, (params, buffers), (X,), mutable=True)
            return (out**2).sum(), written

        return jax.grad(loss, has_aux=True)(params)

    for _ in range(3):
        grads, written = step(params, buffers)
        buffers = {**buffers, **written}
        jm.grad(lambda m: (m(X) ** 2).sum())(model)
    assert_close(buffers, jm.split(model)[1])
    assert set(grads) == set(params)


def test_a_write_to_what_was_not_given_goes_to_the_module() -> None:
    """Where it can: in a raw transform it would be lost, and raises."""
    model = norm_net()
    params, _ = jm.split(model)
    _, written = jm.functional_call(model, params, (X,), mutable=True)
    assert written == {}
    assert int(model[1].num_batches_tracked) == 1
    with pytest.raises(jm.ForeignTraceError, match=r"'1\.running_mean' of Sequential: it is written inside a raw"):
        jax.jit(lambda p: jm.functional_call(model, p, (X,)))(params)
    assert int(model[1].num_batches_tracked) == 1


def test_buffers_that_are_not_saved_can_be_given_too() -> None:
    model = Counter()
    out, written = jm.functional_call(model, {"scratch": 1.0, "calls": jnp.asarray(4)}, (X,), mutable=True)
    assert {name: int(value) for name, value in written.items()} == {"calls": 5}
    assert int(model.calls) == 0
    np.testing.assert_allclose(out, 2 * X)


def test_a_call_that_raises_writes_nothing() -> None:
    model = nn.Sequential(Counter(), nn.Linear(7, 7))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        jm.functional_call(model, {"0.scale": jnp.ones(())}, (X,))
    assert int(model[0].calls) == 0


# -- ensembles ----------------------------------------------------------------------------------------------------
def test_stacked_states_are_an_ensemble_under_vmap() -> None:
    models = [norm_net().eval() for _ in range(3)]
    params, buffers = jm.stack_module_state(models)
    assert params["0.weight"].shape == (3, 4, 3)
    assert buffers["1.running_var"].shape == (3, 4)
    call = jax.vmap(lambda p, b, x: jm.functional_call(models[0], (p, b), x), in_axes=(0, 0, None))
    np.testing.assert_allclose(call(params, buffers, X), jnp.stack([m(X) for m in models]), rtol=1e-5, atol=1e-6)
    grads = jax.grad(lambda p: (call(p, buffers, X) ** 2).sum())(params)
    one = jm.grad(lambda m: (m(X) ** 2).sum())(models[1])
    np.testing.assert_allclose(grads["2.weight"][1], one["2.weight"], rtol=1e-5)


def test_stacked_states_train_with_batch_norm() -> None:
    models = nn.ModuleList([norm_net() for _ in range(2)])
    params, buffers = jm.stack_module_state(models)
    call = jax.vmap(lambda p, b: jm.functional_call(models[0], (p, b), X, mutable=True))
    out, written = call(params, buffers)
    for i, model in enumerate(models):
        np.testing.assert_allclose(out[i], model(X), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(written["1.running_mean"][i], model[1].running_mean, rtol=1e-5, atol=1e-6)

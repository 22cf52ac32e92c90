"""Parametrizations under transforms: what a compiled call sees, where gradients go, what `cached` keeps."""

import copy
import pickle
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmodule as jm
from jaxmodule import nn
from jaxmodule.nn.utils import _parametrized, parametrizations, parametrize

X = jnp.asarray([[1.0, 2.0, 3.0], [-1.0, 0.5, 2.0]])


def close(a, b, rel=1e-5, abs=1e-6):
    a, b = np.asarray(a), np.asarray(b)
    return a.shape == b.shape and np.allclose(a, b, rel, abs)


class Twice(nn.Module):
    """A parametrization that counts how often it is computed (traced), in a list that all copies share."""

    calls: list[int] = []

    def forward(self, x):
        self.calls.append(1)
        return 2 * x

    def right_inverse(self, y):
        return y / 2


class Shift(nn.Module):
    def forward(self, x):
        return x + 1

    def right_inverse(self, y):
        return y - 1


@pytest.fixture(autouse=True)
def _count_from_zero():
    Twice.calls.clear()
    yield
    assert not _parametrized._blocks.stack
    assert not _parametrized.tls.cached


def parametrized(*parametrizations, layer=None):
    layer = nn.Linear(3, 3) if layer is None else layer
    for each in parametrizations or (Twice(),):
        parametrize.register_parametrization(layer, "weight", each)
    return layer


def compiled(function=lambda model, x: model(x)):
    traces = []

    @jm.jit
    def call(model, x):
        traces.append(1)
        return function(model, x)

    return call, traces


def no_tracers(*objects):
    assert not any(isinstance(leaf, jax.core.Tracer) for obj in objects for leaf in jax.tree.leaves(obj))


# -- the structure ----------------------------------------------------------------------------------------------------

CHANGES = {
    "register": lambda m: parametrize.register_parametrization(m[0], "weight", Shift()),
    "register of a buffer": lambda m: parametrize.register_parametrization(m[2], "running_mean", Shift()),
    "register another": lambda m: parametrize.register_parametrization(m[1], "weight", Shift()),
    "register on another tensor": lambda m: parametrize.register_parametrization(m[1], "bias", Shift()),
    "remove": lambda m: parametrize.remove_parametrizations(m[1], "weight"),
    "remove to the original": lambda m: parametrize.remove_parametrizations(m[1], "weight", leave_parametrized=False),
    "replace": lambda m: m[1].parametrizations["weight"].__setitem__(0, Shift()),
    "freeze": lambda m: m[1].parametrizations.weight.original.requires_grad_(False),
    "transfer": lambda m: parametrize.transfer_parametrizations_and_params(m[1], m[0]),
    "change of class": lambda m: setattr(m[0], "__class__", Renamed),
}


class Renamed(nn.Linear):
    def forward(self, input):
        return -super().forward(input)


def model():
    return nn.Sequential(nn.Linear(3, 3), parametrized(), nn.BatchNorm1d(3)).eval()


@pytest.mark.parametrize("name", CHANGES)
def test_a_compiled_call_sees_the_change(name):
    net, (call, traces) = model(), compiled()
    call(net, X)
    call(net, X)
    assert len(traces) == 1
    CHANGES[name](net)
    assert close(call(net, X), net(X), abs=1e-6)
    assert len(traces) == 2
    call(net, X)
    assert len(traces) == 2


def test_modules_that_are_alike_share_a_program():
    call, traces = compiled()
    shift = Shift()
    for _ in range(3):
        call(parametrized(shift), X)
    assert len(traces) == 1
    layer = parametrized(shift)
    call(copy.deepcopy(layer), X)
    call(pickle.loads(pickle.dumps(layer)), X)
    assert len(traces) == 1
    assert type(layer) is type(parametrized(Twice()))
    assert type(layer).__name__ == "ParametrizedLinear"
    assert isinstance(layer, nn.Linear)


def test_removing_gives_the_old_program_back():
    layer, (call, traces) = nn.Linear(3, 3), compiled()
    call(layer, X)
    parametrized(layer=layer)
    call(layer, X)
    parametrize.remove_parametrizations(layer, "weight")
    assert type(layer) is nn.Linear
    # The weight comes after the bias now: another order of state.
    assert list(layer.state_dict()) == ["bias", "weight"]
    call(layer, X)
    assert len(traces) == 3


def test_registering_inside_a_compiled_function():
    @jm.jit
    def wrap(layer, x):
        return parametrized(layer=layer)(x)

    layer = nn.Linear(3, 3)
    before = layer.weight
    out = wrap(layer, X)
    assert layer.parametrizations.weight.original is before
    no_tracers(layer)
    assert close(out, layer(X))


def test_a_failure_inside_a_compiled_function_undoes_it():
    @jm.jit
    def wrap(layer):
        parametrized(layer=layer)
        raise RuntimeError("later")

    layer = nn.Linear(3, 3)
    before = layer.state_dict()
    with pytest.raises(RuntimeError, match="later"):
        wrap(layer)
    assert type(layer) is nn.Linear
    assert layer.state_dict() == before
    no_tracers(layer)


def test_eval_shape_leaves_no_trace():
    layer = nn.Linear(3, 3)
    jm.eval_shape(lambda layer: parametrized(layer=layer).weight, layer)
    assert type(layer) is nn.Linear
    assert list(layer.state_dict()) == ["weight", "bias"]


# -- gradients and state ----------------------------------------------------------------------------------------------


def test_gradients_reach_the_originals_and_an_optimizer_from_before_goes_on():
    layer = nn.Linear(3, 3)
    optimizer = jm.optim.SGD(layer.parameters(), lr=0.1)
    start = layer.weight.value
    parametrized(layer=layer)
    layer.weight = start

    @jm.jit
    def step(layer, optimizer, x):
        gradients = jm.grad(lambda layer: (layer(x) ** 2).sum())(layer)
        optimizer.step(gradients)
        return gradients

    before = layer.parametrizations.weight.original.value
    gradients = step(layer, optimizer, X)
    assert sorted(gradients) == ["bias", "parametrizations.weight.original"]
    gradient = gradients["parametrizations.weight.original"]
    assert close(layer.parametrizations.weight.original, before - 0.1 * gradient)
    fresh = jm.optim.SGD(layer.parameters(), lr=0.1)
    step(layer, fresh, X)
    no_tracers(layer)


def test_gradient_values():
    layer = parametrized()
    w = layer.parametrizations.weight.original.value

    def plain(w):
        return ((X @ (2 * w).T + layer.bias.value[None]) ** 2).sum()

    for gradients in (
        jm.grad(lambda m: (m(X) ** 2).sum())(layer),
        jm.jit(jm.grad(lambda m: (m(X) ** 2).sum()))(layer),
    ):
        assert close(gradients["parametrizations.weight.original"], jax.grad(plain)(w), rel=1e-5)


def test_assignment_inside_transforms():
    @jm.jit
    def assign(layer, value):
        layer.weight = value
        return layer.weight

    layer = parametrized(Twice(), Shift())
    value = jnp.arange(9.0).reshape(3, 3)
    assert close(assign(layer, value), value)
    assert close(layer.parametrizations.weight.original, (value - 1) / 2)
    assert close(layer.weight, value)
    layer.weight = np.zeros((3, 3), np.float32)
    assert float(abs(layer.weight).max()) == 0

    def through(scale):
        layer.weight = scale * value
        return layer.weight.sum()

    # As in torch, what is assigned carries no gradient.
    assert float(jm.grad(through)(jnp.float32(2.0))) == 0


def test_raw_transforms():
    layer = parametrized(Twice(), Shift()).eval()
    expected = layer(X)
    assert close(jax.vmap(layer)(X), expected, rel=1e-6)
    assert close(jax.jit(lambda m, x: m(x))(layer, X), expected, rel=1e-6)
    gradient = jax.grad(lambda m: m(X).sum())(layer)
    assert close(gradient.parametrizations.weight.original, jnp.tile(2 * X.sum(0), (3, 1)))
    assert close(jax.tree.map(lambda x: x, layer)(X), expected)
    with parametrize.cached():
        assert close(jax.vmap(layer)(X), expected, rel=1e-6)
        assert close(jax.jit(lambda m, x: m(x) + m(x))(layer, X), 2 * expected, rel=1e-6)
    no_tracers(layer)


def test_spectral_norm_in_training_writes_its_vectors_where_it_may():
    layer = parametrizations.spectral_norm(nn.Linear(3, 4))
    before = layer.parametrizations.weight[0]._u.value
    layer.parametrizations.weight.original.value += 1.0
    jm.jit(lambda m, x: m(x))(layer, X)
    assert not jnp.array_equal(layer.parametrizations.weight[0]._u.value, before)
    with pytest.raises(jm.ForeignTraceError, match="parametrizations.weight.0._u"):
        jax.vmap(layer)(X)
    layer.eval()
    before = layer.parametrizations.weight[0]._u.value
    jax.vmap(layer)(X)
    assert layer.parametrizations.weight[0]._u.value is before
    no_tracers(layer)


def test_every_parametrization_trains_compiled_with_donation():
    net = nn.Sequential(
        parametrizations.weight_norm(nn.Linear(3, 4)),
        parametrizations.spectral_norm(nn.Linear(4, 4)),
        parametrizations.orthogonal(nn.Linear(4, 3)),
    )
    optimizer = jm.optim.Adam(net.parameters(), lr=1e-2)

    def step(net, optimizer, x):
        loss, gradients = jm.value_and_grad(lambda net: (net(x) ** 2).mean())(net)
        optimizer.step(gradients)
        return loss

    step = jm.jit(step, donate=True)
    losses = [float(step(net, optimizer, X)) for _ in range(20)]
    assert losses[-1] < losses[0]
    q = net[2].weight
    assert close(q @ q.T, jnp.eye(3), abs=1e-5)


# -- copies -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_are_independent(duplicate):
    layer = parametrized()
    parametrize.register_parametrization(layer, "bias", Shift())
    other = duplicate(layer)
    assert repr(other) == repr(layer)
    assert close(other(X), layer(X))
    parametrize.remove_parametrizations(other, "weight")  # in torch this takes the property off the original's class
    assert parametrize.is_parametrized(layer, "weight")
    assert close(layer(X), other(X))
    assert not parametrize.is_parametrized(other, "weight")
    assert parametrize.is_parametrized(other, "bias")


def test_a_shallow_copy_shares_the_parameters():
    layer = parametrized()
    other = copy.copy(layer)
    assert other.parametrizations.weight.original is layer.parametrizations.weight.original
    assert close(other(X), layer(X))


def test_every_parametrization_can_be_pickled():
    net = nn.Sequential(
        parametrizations.weight_norm(nn.Linear(3, 4)),
        parametrizations.spectral_norm(nn.Linear(4, 4)),
        parametrizations.orthogonal(nn.Linear(4, 3)),
    ).eval()
    again = pickle.loads(pickle.dumps(net))
    assert close(again(X), net(X))
    again.load_state_dict(net.state_dict())


def test_conversion():
    layer = parametrized().bfloat16()
    assert layer.weight.dtype == jnp.bfloat16
    assert layer(X.astype(jnp.bfloat16)).dtype == jnp.bfloat16


def test_an_error_in_a_parametrization_is_shown_as_it_is():
    class Broken(nn.Module):
        def forward(self, x):
            return x.nothing

    with pytest.raises(AttributeError, match="nothing"):
        parametrized(Broken())
    layer = parametrized(Shift())
    layer.parametrizations.weight[0] = Broken()
    with pytest.raises(AttributeError, match="nothing"):
        layer.weight


def test_a_registration_that_fails_changes_nothing():
    class Halved(nn.Module):
        def forward(self, x):
            return x[:1]

        def right_inverse(self, x):
            return 5 * x

    layer = nn.Linear(3, 3)
    before = layer.state_dict()
    with pytest.raises(ValueError, match=r"(?s)may not change the shape.*\(3, 3\).*\(1, 3\)"):
        parametrized(Halved(), layer=layer)
    assert layer.state_dict() == before  # in torch the weight is 5 times what it was
    layer = parametrized()
    with pytest.raises(ValueError, match="may not change the shape"):
        parametrized(Halved(), layer=layer)
    assert len(layer.parametrizations.weight) == 1


# -- cached -----------------------------------------------------------------------------------------------------------


def twice(model, x):
    return model(x) + model(x)


def test_cached_computes_once_in_a_block():
    layer = parametrized()
    Twice.calls.clear()
    twice(layer, X)
    assert len(Twice.calls) == 2
    Twice.calls.clear()
    with parametrize.cached():
        twice(layer, X)
        with parametrize.cached():
            twice(layer, X)
        twice(layer, X)
    assert len(Twice.calls) == 1
    with parametrize.cached():
        twice(layer, X)
    assert len(Twice.calls) == 2


def test_cached_around_compiled_calls_and_in_them():
    layer = parametrized()
    Twice.calls.clear()
    call, traces = compiled(twice)
    expected = call(layer, X)
    assert (len(Twice.calls), len(traces)) == (2, 1)
    with parametrize.cached():
        assert close(call(layer, X), expected)
        assert (len(Twice.calls), len(traces)) == (3, 2)
        call(layer, X)
    with parametrize.cached():
        call(layer, X)
    call(layer, X)
    assert (len(Twice.calls), len(traces)) == (3, 2)

    def inside(model, x):
        with parametrize.cached():
            return twice(model, x)

    call, traces = compiled(inside)
    Twice.calls.clear()
    assert close(call(layer, X), expected)
    assert close(call(layer, X), expected)
    assert len(Twice.calls) == 1
    no_tracers(layer)


def test_cached_values_of_one_trace_are_not_used_in_another():
    layer = parametrized()
    with parametrize.cached():
        eager = layer.weight
        gradients = jm.grad(lambda m: twice(m, X).sum())(layer)  # a value from outside would have no gradient
        assert float(abs(gradients["parametrizations.weight.original"]).sum()) > 0
        assert layer.weight is eager
        compiled_gradients = jm.jit(jm.grad(lambda m: twice(m, X).sum()))(layer)
        assert layer.weight is eager
    for name, gradient in gradients.items():
        assert close(compiled_gradients[name], gradient)

    def nested(m):
        with parametrize.cached():
            outer = m.weight
            jm.grad(lambda m: m(X).sum())(m)
            assert m.weight is outer
            return outer

    with jax.checking_leaks():
        jm.jit(nested)(layer)
    no_tracers(layer)


def test_cached_inside_raw_transforms():
    layer = parametrized().eval()

    def inside(m):
        with parametrize.cached():
            return twice(m, X).sum()

    Twice.calls.clear()
    with jax.checking_leaks():
        jax.jit(inside)(layer)
    assert len(Twice.calls) == 1
    Twice.calls.clear()
    jax.grad(inside)(layer)
    assert len(Twice.calls) == 1

    def scanned(m, xs):
        with parametrize.cached():
            m.weight  # once outside, and all steps use it
            return jax.lax.scan(lambda c, x: (c, m(x)), 0, xs)[1]

    Twice.calls.clear()
    with jax.checking_leaks():
        out = jm.jit(scanned)(layer, X)
    assert len(Twice.calls) == 1
    assert close(out, layer(X))

    def inner_first(m, xs):
        with parametrize.cached():
            return jax.lax.scan(lambda c, x: (c, m(x)), 0, xs)[1] + m(xs)

    with jax.checking_leaks():
        assert close(jm.jit(inner_first)(layer, X), 2 * layer(X))


def test_cached_iterates_spectral_norm_once():
    def moved(run):
        jm.manual_seed(0)
        layer = parametrizations.spectral_norm(nn.Linear(3, 4))
        layer.parametrizations.weight.original.value += 1.0
        run(layer)
        return layer.parametrizations.weight[0]._u.value

    def cached(function):
        def run(layer):
            with parametrize.cached():
                function(layer)

        return run

    once = moved(lambda layer: layer(X))
    assert close(moved(cached(lambda layer: twice(layer, X))), once)
    assert close(moved(cached(lambda layer: jm.jit(twice)(layer, X))), once)
    assert close(moved(cached(lambda layer: jm.grad(lambda m: twice(m, X).sum())(layer))), once)
    assert not close(moved(lambda layer: twice(layer, X)), once)


def test_cached_belongs_to_the_thread():
    layer = parametrized()
    Twice.calls.clear()
    with parametrize.cached():
        layer(X)
        thread = threading.Thread(target=lambda: twice(layer, X))
        thread.start()
        thread.join()
    assert len(Twice.calls) == 3


def test_cached_and_no_grad_don_t_mix():
    layer = parametrized()

    def loss(m):
        with parametrize.cached():
            with jm.no_grad():
                m(X)
            return m(X).sum()

    assert float(abs(jm.grad(loss)(layer)["parametrizations.weight.original"]).sum()) > 0


def test_an_exception_ends_the_block():
    layer = parametrized()

    def fails():
        with parametrize.cached():
            layer(X)
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fails()
    Twice.calls.clear()
    twice(layer, X)
    assert len(Twice.calls) == 2

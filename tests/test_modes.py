"""Specification of the modes: train and eval, no_grad, and the random numbers that modules draw."""

import copy
import pickle
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmodule as jm
from jaxmodule import nn
from jaxmodule.nn import functional as F

X = jnp.asarray([[1.0, 2.0, 3.0], [-1.0, 0.5, 2.0]])
ONES = jnp.ones(64)


def net():
    return nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Dropout(0.5))


# -- train and eval ---------------------------------------------------------------------------------------------------


def test_a_module_starts_in_training_mode():
    assert net().training
    assert all(module.training for module in net().modules())


def test_train_and_eval_go_through_the_whole_tree_and_return_the_module():
    model = nn.Sequential(net(), nn.ModuleList([nn.Dropout()]), nn.ModuleDict({"a": nn.Dropout()}))
    assert model.eval() is model
    assert not any(module.training for module in model.modules())
    assert model.train() is model
    assert all(module.training for module in model.modules())
    model.train(False)
    assert not any(module.training for module in model.modules())
    model[0].train()
    assert [m.training for m in model] == [True, False, False]


@pytest.mark.parametrize("mode", [1, None, "yes"])
def test_a_mode_is_a_bool(mode):
    with pytest.raises(ValueError, match="training mode is expected to be boolean"):
        net().train(mode)


def test_an_overridden_train_is_called():
    class FrozenNorm(nn.BatchNorm1d):
        def train(self, mode=True):
            return super().train(False)

    model = nn.Sequential(FrozenNorm(3)).train()
    assert model.training
    assert not model[0].training


def test_a_module_in_several_places_and_none_children():
    shared = nn.Dropout()
    model = nn.Sequential(shared, nn.Sequential(shared))
    model.add_module("nothing", None)
    model.eval()
    assert not shared.training


@pytest.mark.parametrize("compiled", [False, True])
def test_the_modes_switch_dropout_and_batch_norm(compiled):
    call = jm.jit(lambda m, x: m(x)) if compiled else lambda m, x: m(x)
    drop = nn.Dropout(0.5)
    kept = call(drop, ONES)
    assert set(np.unique(kept)) == {0.0, 2.0}
    np.testing.assert_array_equal(call(drop.eval(), ONES), ONES)
    assert set(np.unique(call(drop.train(), ONES))) == {0.0, 2.0}

    norm = nn.BatchNorm1d(3)
    out = call(norm, X)
    np.testing.assert_allclose(out.mean(0), jnp.zeros(3), atol=1e-6)
    np.testing.assert_allclose(norm.running_mean, 0.1 * X.mean(0), rtol=1e-6)
    np.testing.assert_allclose(norm.running_var, 0.9 + 0.1 * X.var(0, ddof=1), rtol=1e-6)
    assert int(norm.num_batches_tracked) == 1
    state = norm.state_dict()
    norm.eval()
    mean, var = norm.running_mean.value, norm.running_var.value
    np.testing.assert_allclose(call(norm, X), (X - mean[None]) / jnp.sqrt(var[None] + 1e-5), rtol=1e-5)
    assert all((norm.state_dict()[name] == state[name]).all() for name in state)


def test_batch_norm_updates_inside_grad_too():
    norm = nn.BatchNorm1d(3)
    jm.grad(lambda m: (m(X) ** 2).sum())(norm)
    jm.jit(jm.grad(lambda m: (m(X) ** 2).sum()))(norm)
    assert int(norm.num_batches_tracked) == 2
    assert not isinstance(norm.running_mean.value, jax.core.Tracer)


def test_setting_training_by_hand_is_seen_by_compiled_functions():
    drop = nn.Dropout(0.5)
    call = jm.jit(lambda m, x: m(x))
    call(drop, ONES)
    drop.training = False
    np.testing.assert_array_equal(call(drop, ONES), ONES)


def test_modes_changed_inside_a_compiled_function():
    model = net()

    @jm.jit
    def evaluate(model, x):
        model.eval()
        return model(x)

    np.testing.assert_allclose(evaluate(model, X), evaluate(model, X))
    assert not model.training  # it is the model's state like any other


# -- no_grad ----------------------------------------------------------------------------------------------------------


def dot_count(function, *args):
    return str(jax.make_jaxpr(function)(*args)).count("dot_general")


def test_module_calls_in_no_grad_carry_no_gradient():
    features, head = nn.Linear(3, 3), nn.Linear(3, 1)

    def loss(pair, no_grad):
        if no_grad:
            with jm.no_grad():
                y = pair[0](X)
        else:
            y = pair[0](X)
        return pair[1](y).sum()

    pair = nn.ModuleList([features, head])
    grads = jm.grad(loss)(pair, False)
    assert grads["0.weight"].any()
    for cut in (jm.grad(loss)(pair, True), jm.jit(jm.grad(loss), static_argnums=1)(pair, True)):
        assert not cut["0.weight"].any()
        assert not cut["0.bias"].any()
        np.testing.assert_allclose(cut["1.weight"], grads["1.weight"], rtol=1e-6)


def test_the_input_of_a_call_in_no_grad_gets_no_gradient():
    layer = nn.Linear(3, 3)

    def run(x):
        with jm.no_grad():
            return layer(x).sum()

    assert not jax.grad(run)(X).any()
    assert not jm.grad(run)(X).any()
    assert jax.grad(lambda x: layer(x).sum())(X).any()


def test_reading_a_parameter_in_no_grad_carries_no_gradient():
    layer = nn.Linear(3, 1)

    def penalty(layer):
        with jm.no_grad():
            w = layer.weight.value * 1.0
        return (layer.weight * w).sum()

    np.testing.assert_allclose(jm.grad(penalty)(layer)["weight"], layer.weight)


def test_no_grad_as_a_decorator():
    layer = nn.Linear(3, 3)

    @jm.no_grad()
    def features(layer, x, *, scale):
        """Doc."""
        return layer(jnp.sin(x)) * scale

    @jm.no_grad
    def bare(layer, x):
        return jnp.sin(x) * layer.weight.value.sum()

    assert (features.__name__, features.__doc__) == ("features", "Doc.")
    assert not jm.grad(lambda m: features(m, X, scale=2.0).sum())(layer)["weight"].any()
    assert not jax.grad(lambda x: features(layer, x, scale=2.0).sum())(X).any()
    assert not jax.grad(lambda x: bare(layer, x).sum())(X).any()
    assert not jm.grad(lambda m: bare(m, X).sum())(layer)["weight"].any()
    np.testing.assert_allclose(features(layer, X, scale=2.0), layer(jnp.sin(X)) * 2.0)


def test_no_backward_work_is_traced():
    model = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3))
    params, _ = jm.split(model)

    def pure(params):
        def loss(m):
            with jm.no_grad():
                y = m[1](m[0](X))
            return m[2](y).sum()

        return jm.grad(loss)(jm.merge(model, params))

    assert dot_count(pure, params) == 3  # two forward, one for the second layer's weight


def test_state_is_updated_in_no_grad_as_usual():
    model = net()
    before = jm.get_rng_state()
    with jm.no_grad():
        model(X)
        jm.jit(lambda m, x: m(x))(model, X)
    assert int(model[1].num_batches_tracked) == 2
    assert not (jm.get_rng_state() == before).all()
    np.testing.assert_array_equal(jm.get_rng_state()[-1], before[-1] + 2)


def test_nesting_enable_grad_and_is_grad_enabled():
    assert jm.is_grad_enabled()
    with jm.no_grad():
        assert not jm.is_grad_enabled()
        with jm.enable_grad():
            assert jm.is_grad_enabled()
        with jm.set_grad_enabled(True):
            assert jm.is_grad_enabled()
            with jm.set_grad_enabled(False):
                assert not jm.is_grad_enabled()
        assert not jm.is_grad_enabled()
    assert jm.is_grad_enabled()

    @jm.enable_grad()
    def enabled():
        return jm.is_grad_enabled()

    with jm.no_grad():
        assert enabled()
        assert not jm.is_grad_enabled()


def test_the_mode_ends_with_the_block_and_belongs_to_the_thread():
    with pytest.raises(ValueError, match="on purpose"), jm.no_grad():
        raise ValueError("on purpose")
    assert jm.is_grad_enabled()
    seen = []
    with jm.no_grad():
        thread = threading.Thread(target=lambda: seen.append(jm.is_grad_enabled()))
        thread.start()
        thread.join()
    assert seen == [True]


def test_one_object_can_be_entered_again():
    mode = jm.no_grad()
    with mode:
        with mode:
            pass
        assert not jm.is_grad_enabled()
    assert jm.is_grad_enabled()


def test_a_compiled_function_called_in_no_grad_is_another_program():
    layer = nn.Linear(3, 1)
    traces = []

    @jm.jit
    def grads(layer):
        traces.append(jm.is_grad_enabled())
        return jm.grad(lambda m: m(X).sum())(layer)

    for _ in range(2):
        assert grads(layer)["weight"].any()
        with jm.no_grad():
            assert not grads(layer)["weight"].any()
    assert traces == [True, False]


# -- seeds ------------------------------------------------------------------------------------------------------------

DRAWS = {
    "dropout": lambda: F.dropout(ONES, 0.5),
    "weights": lambda: nn.Linear(3, 4).weight.value,
    "key": lambda: jax.random.key_data(jm.next_key()),
}


@pytest.mark.parametrize("draw", DRAWS)
def test_the_same_seed_gives_the_same_bits(draw):
    draw = DRAWS[draw]
    generator = jm.manual_seed(7)
    assert generator is jm.default_generator()
    first, second = draw(), draw()
    assert not (first == second).all()
    jm.manual_seed(7)
    np.testing.assert_array_equal(first, draw())
    np.testing.assert_array_equal(second, draw())
    jm.manual_seed(8)
    assert not (first == draw()).all()


def test_eager_and_compiled_draw_the_same_bits():
    def run(call):
        jm.manual_seed(5)
        model = net()
        return [call(model, X) for _ in range(3)], jm.get_rng_state()

    eager, state = run(lambda m, x: m(x))
    got, after = run(jm.jit(lambda m, x: m(x)))
    np.testing.assert_allclose(got, eager, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(after, state)


@pytest.mark.parametrize(
    "run",
    [
        lambda drop: jm.jit(lambda m: m(ONES))(drop),
        lambda drop: jm.grad(lambda m, x: m(x).sum(), argnums=1)(drop, ONES),  # the mask is the derivative
        lambda drop: jm.jit(jm.grad(lambda m, x: m(x).sum(), argnums=1))(drop, ONES),
        lambda drop: jm.jit(jm.jit(lambda m: m(ONES)))(drop),
        lambda drop: jm.jit(drop)(ONES),
    ],
    ids=["jit", "grad", "jit of grad", "jit of jit", "jit of the module"],
)
def test_every_transform_draws_the_same_mask(run):
    drop = nn.Dropout(0.5)
    jm.manual_seed(11)
    masks = [drop(ONES) for _ in range(2)]
    state = jm.get_rng_state()
    jm.manual_seed(11)
    for mask in masks:
        np.testing.assert_array_equal(run(drop), mask)
    np.testing.assert_array_equal(jm.get_rng_state(), state)


def test_a_compiled_call_never_repeats_a_mask():
    drop = nn.Dropout(0.5)
    call = jm.jit(lambda m: m(ONES))
    masks = {np.asarray(call(drop)).tobytes() for _ in range(20)}
    assert len(masks) == 20


def test_a_failed_call_draws_nothing():
    drop = nn.Dropout(0.5)

    @jm.jit
    def fails(m):
        m(ONES)
        raise ValueError("on purpose")

    before = jm.get_rng_state()
    with pytest.raises(ValueError, match="on purpose"):
        fails(drop)
    np.testing.assert_array_equal(jm.get_rng_state(), before)


def test_initial_seed_and_seed():
    jm.manual_seed(123)
    assert jm.initial_seed() == 123
    a, b = jm.seed(), jm.seed()
    assert a != b
    assert jm.initial_seed() == b
    jm.manual_seed(-1)
    assert jm.initial_seed() == -1


def test_get_and_set_rng_state():
    state = jm.get_rng_state()
    assert (state.dtype, state.shape) == (jnp.uint32, (3,))
    first = F.dropout(ONES)
    jm.set_rng_state(np.asarray(state))
    np.testing.assert_array_equal(F.dropout(ONES), first)
    for bad in (jnp.zeros(2, jnp.uint32), jnp.zeros(3, jnp.int32)):
        with pytest.raises(ValueError, match=r"RNG state must be uint32\(3,\)"):
            jm.set_rng_state(bad)


@pytest.mark.parametrize("raises", [False, True])
def test_fork_rng(raises):
    before = jm.get_rng_state()
    try:
        with jm.fork_rng():
            jm.manual_seed(99)
            F.dropout(ONES)
            if raises:
                raise ValueError("on purpose")
    except ValueError:
        pass
    np.testing.assert_array_equal(jm.get_rng_state(), before)
    with jm.fork_rng(enabled=False):
        F.dropout(ONES)
    assert not (jm.get_rng_state() == before).all()


def test_fork_rng_restores_the_seed_and_the_kind_of_generator():
    jm.manual_seed(4)
    first = jm.next_key()
    jm.manual_seed(4)
    with jm.fork_rng():
        jm.default_generator().manual_seed(jax.random.key(99, impl="rbg"))
        assert not (jax.random.key_data(jm.next_key()).shape == jax.random.key_data(first).shape)
    assert jm.initial_seed() == 4
    assert (jm.next_key() == first).all()


def test_a_new_seed_compiles_nothing():
    traces = []

    @jm.jit
    def draw(drop):
        traces.append(1)
        return drop(ONES)

    drop = nn.Dropout(0.5)
    for seed in range(3):
        jm.manual_seed(seed)
        draw(drop)
        with jm.use_rng(seed + 10):
            draw(drop)
        with jm.use_rng(jax.random.key(seed)):
            draw(drop)
        with jm.fork_rng():
            draw(drop)
    assert len(traces) == 1


# -- generators -------------------------------------------------------------------------------------------------------


def test_a_generator_of_its_own():
    a, b = jm.Generator(3), jm.Generator(3)
    assert (a.next_key() == b.next_key()).all()
    assert not (a.next_key() == jm.Generator(4).next_key()).all()
    state = a.get_state()
    key = a.next_key()
    assert a.set_state(state) is a
    assert (a.next_key() == key).all()
    assert a.initial_seed() == 3
    assert a.manual_seed(5) is a
    assert a.initial_seed() == 5
    assert (a.next_key() == jm.Generator(5).next_key()).all()
    assert a.seed() == a.initial_seed()
    clone = b.clone_state()
    assert (clone.next_key() == b.next_key()).all()
    assert repr(jm.Generator(3)) == "Generator(seed=3, impl='threefry2x32')"


def test_a_generator_from_a_key():
    generator = jm.Generator(jax.random.key(3))
    assert (generator.next_key() == jm.Generator(3).next_key()).all()
    assert (jm.Generator(jax.random.PRNGKey(3)).next_key() == jm.Generator(3).next_key()).all()
    with pytest.raises(RuntimeError, match="seeded with a key, not an int"):
        generator.initial_seed()
    other = jm.Generator(jax.random.key(3, impl="rbg"))
    assert str(jax.random.key_impl(other.next_key())) == "rbg"


def test_a_draw_is_fold_in_of_key_and_counter():
    generator = jm.Generator(3)
    for i in range(3):
        assert (generator.next_key() == jax.random.fold_in(jax.random.key(3), i)).all()


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda g: pickle.loads(pickle.dumps(g))])
def test_copies_of_a_generator(copied):
    generator = jm.Generator(3)
    generator.next_key()
    new = copied(generator)
    state = np.asarray(generator.get_state())
    key = new.next_key()
    np.testing.assert_array_equal(generator.get_state(), state)  # they are apart
    assert (key == generator.next_key()).all()
    assert new.initial_seed() == 3


def test_the_generator_argument():
    a, b = jm.Generator(1), jm.Generator(1)
    before = jm.get_rng_state()
    w, v = nn.Parameter(jnp.zeros((4, 4))), nn.Parameter(jnp.zeros((4, 4)))
    nn.init.normal_(w, generator=a)
    nn.init.normal_(v, generator=b)
    np.testing.assert_array_equal(w, v)
    np.testing.assert_array_equal(jm.get_rng_state(), before)


def test_a_generator_as_an_argument_and_as_an_attribute():
    @jm.jit
    def draw(generator):
        return jax.random.uniform(generator.next_key(), (4,))

    generator = jm.Generator(1)
    a = [draw(generator) for _ in range(3)]
    fresh = jm.Generator(1)
    b = [jax.random.uniform(fresh.next_key(), (4,)) for _ in range(3)]
    np.testing.assert_array_equal(a, b)

    class Noise(nn.Module):
        def __init__(self):
            super().__init__()
            self.generator = jm.Generator(1)

        def forward(self, x):
            return x + jax.random.uniform(self.generator.next_key(), x.shape)

    model = Noise()
    call = jm.jit(lambda m: m(jnp.zeros(4)))
    np.testing.assert_array_equal([call(model) for _ in range(3)], b)


def test_a_generator_that_is_closed_over_raises():
    generator = jm.Generator(1)
    with pytest.raises(jm.ClosedOverError, match="Pass the module .* as an argument"):
        jm.jit(lambda: generator.next_key())()


def test_a_generator_through_raw_jax():
    generator = jm.Generator(1)

    @jax.jit
    def draw(generator):
        return jax.random.key_data(generator.next_key()), generator

    a, generator = draw(generator)
    b, generator = draw(generator)
    fresh = jm.Generator(1)
    for value in (a, b):
        np.testing.assert_array_equal(value, jax.random.key_data(fresh.next_key()))


# -- use_rng ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rng", [3, jax.random.key(3), lambda: jm.Generator(3)])
def test_use_rng(rng):
    rng = rng() if callable(rng) else rng
    before = jm.get_rng_state()
    jm_state = np.asarray(before)
    with jm.use_rng(rng) as generator:
        assert jm.default_generator() is generator
        first = F.dropout(ONES)
    assert jm.default_generator() is not generator
    np.testing.assert_array_equal(jm.get_rng_state(), jm_state)
    with jm.use_rng(3):
        np.testing.assert_array_equal(F.dropout(ONES), first)
        with jm.use_rng(4):
            assert not (F.dropout(ONES) == first).all()
    if isinstance(rng, jm.Generator):  # the block has advanced it
        with jm.use_rng(rng):
            assert not (F.dropout(ONES) == first).all()


def test_use_rng_round_compiled_calls():
    call = jm.jit(lambda m: m(ONES))
    drop = nn.Dropout(0.5)
    call(drop)
    for seed in (1, 2, 1):
        with jm.use_rng(seed):
            masks = [call(drop), call(drop)]
        with jm.use_rng(seed):
            np.testing.assert_array_equal(masks, [drop(ONES), drop(ONES)])


def test_use_rng_inside_raw_transforms():
    drop = nn.Dropout(0.5)

    def draw(key):
        with jm.use_rng(key):
            return drop(ONES)

    keys = jax.random.split(jax.random.key(0), 3)
    masks = jax.vmap(draw)(keys)
    assert len({np.asarray(m).tobytes() for m in masks}) == 3
    np.testing.assert_array_equal(masks[1], draw(keys[1]))
    np.testing.assert_array_equal(jax.jit(draw)(keys[2]), masks[2])
    _, scanned = jax.lax.scan(lambda c, k: (c, draw(k)), None, keys)
    np.testing.assert_array_equal(scanned, masks)
    assert jax.grad(lambda x: _drop(x, keys[0]).sum())(ONES).shape == ONES.shape


def _drop(x, key):
    with jm.use_rng(key):
        return F.dropout(x)


def test_use_rng_belongs_to_the_thread_and_ends_with_the_block():
    seen = []
    with jm.use_rng(3) as generator:
        thread = threading.Thread(target=lambda: seen.append(jm.default_generator()))
        thread.start()
        thread.join()
    assert seen[0] is not generator
    assert seen[0] is jm.default_generator()
    with pytest.raises(ValueError, match="on purpose"), jm.use_rng(generator):
        raise ValueError("on purpose")
    assert jm.default_generator() is seen[0]


# -- raw transforms ---------------------------------------------------------------------------------------------------

RAW = {
    "jit": lambda f: jax.jit(f)(X),
    "grad": lambda f: jax.grad(lambda x: f(x).sum())(X),
    "value_and_grad": lambda f: jax.value_and_grad(lambda x: f(x).sum())(X),
    "vmap": lambda f: jax.vmap(f)(X[None]),
    "scan": lambda f: jax.lax.scan(lambda c, x: (c, f(x)), None, X[None]),
    "jvp": lambda f: jax.jvp(f, (X,), (X,)),
    "checkpoint": lambda f: jax.checkpoint(f)(X),
    "cond": lambda f: jax.lax.cond(X.sum() > 0, f, lambda x: x, X),
    "fori_loop": lambda f: jax.lax.fori_loop(0, 2, lambda i, x: f(x), X),
    "make_jaxpr": lambda f: jax.make_jaxpr(f)(X),
}


@pytest.mark.parametrize("transform", RAW)
@pytest.mark.parametrize("within", ["eager", "jm.jit"])
class TestRaw:
    def run(self, transform, within, model):
        if within == "eager":
            return RAW[transform](model)
        return jm.jit(lambda m: RAW[transform](m) and None if transform == "make_jaxpr" else RAW[transform](m))(model)

    def test_a_draw_raises(self, transform, within):
        before = jm.get_rng_state()
        with pytest.raises(jm.ForeignTraceError, match=r"(?s)random number.*jm\.jit.*with jm\.use_rng\(key\)"):
            self.run(transform, within, nn.Dropout(0.5))
        np.testing.assert_array_equal(jm.get_rng_state(), before)

    def test_a_batch_norm_update_raises(self, transform, within):
        model = nn.Sequential(nn.Identity(), nn.BatchNorm1d(3))
        with pytest.raises(
            jm.ForeignTraceError, match=r"(?s)'1\.running_mean' of Sequential.*jm\.jit.*model\.eval\(\)"
        ):
            self.run(transform, within, model)
        assert not model[1].running_mean.any()

    def test_in_eval_mode_nothing_is_written(self, transform, within):
        model = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm1d(3)).eval()
        self.run(transform, within, model)


def test_a_module_that_is_an_argument_of_raw_jit_is_a_clone():
    model = nn.BatchNorm1d(3)
    new = jax.jit(lambda m, x: (m(x), m))(model, X)[1]
    assert int(new.num_batches_tracked) == 1
    assert int(model.num_batches_tracked) == 0
    with pytest.raises(jm.ForeignTraceError, match="random number"):
        jax.jit(lambda m, x: m(x))(nn.Dropout(0.5), X)

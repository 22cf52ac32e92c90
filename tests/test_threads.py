"""Threads: one compiled model called by many at once, traced by many at once, and generators that keep apart."""

import threading
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import pytest

import jaxmodule as jm
from jaxmodule import nn

THREADS = 8


def together(work, n=THREADS):
    """The results of `work(i)` in threads that start at the same time; the first exception is raised."""
    barrier = threading.Barrier(n)

    def run(i):
        barrier.wait(timeout=60)
        return work(i)

    with ThreadPoolExecutor(n) as pool:
        return list(pool.map(run, range(n)))


class Net(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 3))
        self.cache = {"scale": jnp.ones(3)}

    def forward(self, x):
        return self.layers(x) * self.cache["scale"][None]


def inputs(i):
    return jax.random.normal(jax.random.key(i), (2, 4))


def test_eight_threads_call_one_compiled_model():
    model = Net().eval()
    call = jm.jit(lambda m, x: m(x))
    call(model, inputs(0))
    expected = [model(inputs(i)) for i in range(THREADS)]

    def work(i):
        return [jnp.allclose(call(model, inputs(i)), expected[i], atol=1e-6) for _ in range(50)]

    assert all(map(all, together(work)))


@pytest.mark.parametrize("round", range(5))
def test_eight_threads_trace_it_for_the_first_time_at_once(round):
    model = Net(width=8 + round)
    expected = [model(inputs(i)) for i in range(THREADS)]
    traces = []

    @jm.jit
    def call(model, x):
        traces.append(threading.get_ident())
        return model(x)

    for i, out in enumerate(together(lambda i: call(model, inputs(i)))):
        assert jnp.allclose(out, expected[i], atol=1e-6)
    count = len(traces)
    assert 1 <= count <= THREADS
    together(lambda i: call(model, inputs(i)))
    assert len(traces) == count, "warm in every thread"


def test_eight_threads_trace_for_eight_shapes_and_with_gradients():
    model = Net()
    step = jm.jit(jm.value_and_grad(lambda m, x: m(x).sum()))
    expected = [jm.value_and_grad(lambda m, x: m(x).sum())(model, jnp.ones((i + 1, 4))) for i in range(THREADS)]
    for (loss, grads), (want, wanted) in zip(
        together(lambda i: step(model, jnp.ones((i + 1, 4)))), expected, strict=True
    ):
        assert jnp.allclose(loss, want, rtol=1e-5)
        assert set(grads) == set(wanted)
        assert all(jnp.allclose(grads[k], wanted[k], rtol=1e-4) for k in grads)


def test_each_thread_trains_a_model_of_its_own_with_one_function():
    def make(seed):
        with jm.use_rng(seed):
            model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 1))
        return model, jm.optim.SGD(model.parameters(), lr=0.1)

    def loss(model, x):
        return (model(x) ** 2).mean()

    def step(model, optimizer, x):
        value, grads = jm.value_and_grad(loss)(model, x)
        optimizer.step(grads)
        return value

    x = jax.random.normal(jax.random.key(1), (16, 4))
    compiled, alone = jm.jit(step), jm.jit(step)
    expected = []
    for seed in range(4):
        model, optimizer = make(seed)
        expected.append([float(alone(model, optimizer, x)) for _ in range(5)])

    def work(i):
        model, optimizer = make(i)
        return [float(compiled(model, optimizer, x)) for _ in range(5)], int(model[1].num_batches_tracked)

    for (losses, count), want in zip(together(work, 4), expected, strict=True):
        assert losses == pytest.approx(want, rel=1e-4)
        assert count == 5


def test_two_generators_do_not_disturb_each_other():
    def draws(seed, n=30):
        drop, call = nn.Dropout(0.5), jm.jit(lambda m, x: m(x))
        with jm.use_rng(jm.Generator(seed)):
            return [call(drop, jnp.ones(16)) if i % 2 else drop(jnp.ones(16)) for i in range(n)]

    expected = [draws(seed) for seed in (0, 1)]
    before = jm.get_rng_state()
    found = together(draws, 2)
    assert all(
        jnp.array_equal(a, b) for got, want in zip(found, expected, strict=True) for a, b in zip(got, want, strict=True)
    )
    assert jnp.array_equal(before, jm.get_rng_state())


def test_modes_hooks_and_captures_are_of_their_thread():
    model = Net().eval()
    call = jm.jit(lambda m, x: m(x))

    def work(i):
        for _ in range(10):
            if i % 4 == 0:
                with jm.capture(model, "layers.0") as acts:
                    call(model, inputs(i))
                assert jnp.allclose(acts["layers.0"], model.layers[0](inputs(i)), atol=1e-6)
            elif i % 4 == 1:
                with jm.no_grad():
                    assert not jm.is_grad_enabled()
                    grads = jm.jit(jm.grad(lambda m, x: m(x).sum()))(model, inputs(i))
                assert not any(g.any() for g in grads.values())
            else:
                grads = jm.grad(lambda m, x: m(x).sum())(model, inputs(i))
                assert any(g.any() for g in grads.values())
        return True

    assert all(together(work))


def test_a_trace_that_fails_in_one_thread_leaves_the_others_alone():
    model = Net().eval()

    def forward(model, x, fail):
        out = model(x)
        if fail:
            raise ValueError("on purpose")
        return out

    call = jm.jit(forward, static_argnames="fail")
    expected = model(inputs(0))

    def work(i):
        if i % 2:
            with pytest.raises(ValueError, match="on purpose"):
                call(model, inputs(0), fail=True)
            return expected
        return call(model, inputs(0), fail=False)

    assert all(jnp.allclose(out, expected, atol=1e-6) for out in together(work))


def test_structure_changes_in_one_thread_are_seen_in_the_others():
    models = [Net().eval() for _ in range(4)]
    call = jm.jit(lambda m, x: m(x))

    def work(i):
        model = models[i]
        for n in range(8):
            model.layers.append(nn.ReLU()) if n % 2 else model.layers.append(nn.Identity())
            assert jnp.allclose(call(model, inputs(i)), model(inputs(i)), atol=1e-6)
        return True

    assert all(together(work, 4))


@pytest.mark.parametrize("how", ["jit", "donate", "eager"])
def test_no_two_threads_draw_the_same_mask(how):
    drop, x = nn.Dropout(), jnp.ones(64)
    call = drop if how == "eager" else jm.jit(lambda m, x: m(x), donate=how == "donate")
    jm.manual_seed(0)
    call(drop, x) if how != "eager" else call(x)
    masks = together(lambda i: [bytes(jax.device_get(call(x) if how == "eager" else call(drop, x))) for _ in range(20)])
    assert len({mask for found in masks for mask in found}) == 20 * THREADS
    assert int(jm.get_rng_state()[-1]) == 1 + 20 * THREADS


def test_a_callback_that_draws_from_the_same_generator_is_an_error_and_no_hang():
    drop = nn.Dropout()

    def draw(x):
        jm.random.next_key()
        return x

    @jm.jit
    def call(drop, x):
        return jax.pure_callback(draw, x, drop(x))

    with pytest.raises(jm.StateError, match=r"times in a row others have drawn(.|\n)*jm\.use_rng"):
        call(drop, jnp.ones(4))

"""`jm.amp` under JAX's transforms: no stale program, gradients in the parameters' dtype, precision of products."""

import copy
import inspect
import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmodule as jm
from jaxmodule import amp, nn
from jaxmodule.amp import GradScaler, autocast
from jaxmodule.nn import functional as F
from jaxmodule.nn.functional import _autocast
from jaxmodule.transforms.accumulate import accumulate

X = jnp.ones((4, 3))


def model() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 5), nn.GELU(), nn.Linear(5, 2))


def kind(x) -> str:
    return x.dtype.name


@pytest.mark.parametrize("how", ["eager", "jm.jit", "jax.jit", "compile", "nested jax.jit"])
def test_a_change_between_two_calls_is_seen(how):
    net = model()
    if how == "compile":
        net.compile()
        call = net
    elif how == "nested jax.jit":
        inner = jax.jit(lambda net, x: net(x))
        outer = jm.jit(lambda net, x: inner(net, x))
        call = lambda x: outer(net, x)  # noqa: E731
    else:
        jit = {"jm.jit": jm.jit, "jax.jit": jax.jit, "eager": lambda f: f}[how]
        run = jit(lambda net, x: net(x))
        call = lambda x: run(net, x)  # noqa: E731
    for _ in range(2):
        assert kind(call(X)) == "float32"
        with autocast(jnp.bfloat16):
            assert kind(call(X)) == "bfloat16"
            with autocast(enabled=False):
                assert kind(call(X)) == "float32"
            with autocast(jnp.float16):
                assert kind(call(X)) == "float16"
            assert kind(call(X)) == "bfloat16"
        assert kind(call(X)) == "float32"


def test_a_compiled_step_is_traced_once_for_each_mode():
    net, traces = model(), []

    @jm.jit
    def forward(net, x):
        traces.append(1)
        return net(x)

    for _ in range(3):
        forward(net, X)
        with autocast():
            forward(net, X)
        with autocast("cpu"):  # other lists
            forward(net, X)
    assert len(traces) == 3


def step_loss(net, x):
    return F.cross_entropy(net(x), jnp.zeros(x.shape[0], int))


@pytest.mark.parametrize(
    "how", ["grad", "jit of grad", "around grad", "remat", "scan", "vmap", "scan_layers", "accumulate", "backward"]
)
def test_gradients_are_in_the_parameters_dtype_and_near_those_of_float32(how):
    net = model()
    expected = jm.grad(step_loss)(net, X)

    def inside(net, x):
        with autocast():
            assert kind(net(x)) == "bfloat16"
            return step_loss(net, x)

    if how == "grad":
        grads = jm.grad(inside)(net, X)
    elif how == "jit of grad":
        grads = jm.jit(lambda net, x: jm.grad(inside)(net, x))(net, X)
    elif how == "around grad":
        with autocast():
            grads = jm.grad(step_loss)(net, X)
    elif how == "remat":
        grads = jm.grad(lambda net, x: jm.remat(inside)(net, x))(net, X)
    elif how == "scan":
        grads = jm.grad(lambda net, xs: jm.scan(lambda c, x: (c, inside(net, x)), 0, xs)[1].mean())(net, X[None])
    elif how == "vmap":
        grads = jm.grad(lambda net, xs: jm.vmap(lambda x: inside(net, x))(xs).mean())(net, X[None])
    elif how == "scan_layers":
        layers = nn.ModuleList([nn.Sequential(nn.LayerNorm(3), nn.Linear(3, 3), nn.LayerNorm(3)) for _ in range(3)])
        deep = lambda layers: jm.scan_layers(layers)(X).sum()  # noqa: E731
        expected = jm.grad(deep)(layers)
        with autocast():
            grads = jm.grad(deep)(layers)
    elif how == "accumulate":
        _, grads = accumulate(2)(inside)(net, X)
    else:
        jm.backward(inside)(net, X)
        grads = {name: p.grad for name, p in net.named_parameters()}
    assert grads.keys() == expected.keys()
    for name, gradient in grads.items():
        assert kind(gradient) == "float32"
        np.testing.assert_allclose(gradient, expected[name], rtol=0.1, atol=0.02)
    assert any((grads[name] != expected[name]).any() for name in grads)


def test_it_decorates_functions_and_can_be_used_again():
    net = model()

    @autocast(jnp.bfloat16)
    def forward(x):
        """The model."""
        return net(x)

    assert kind(forward(X)) == "bfloat16"
    assert forward.__doc__ == "The model."
    block = autocast()
    for _ in range(2):
        with block, block:
            assert kind(net(X)) == "bfloat16"
    assert kind(net(X)) == "float32"
    with pytest.raises(ZeroDivisionError), block:
        _ = 1 / 0
    assert kind(net(X)) == "float32"
    with pytest.raises(TypeError, match="requires a callable"):
        autocast()(3)


@pytest.mark.parametrize(
    ("args", "dtype", "lists"),
    [
        ((), "bfloat16", "cuda"),
        ((jnp.float16,), "float16", "cuda"),
        (("bfloat16",), "bfloat16", "cuda"),
        (("cuda",), "float16", "cuda"),
        (("cuda", jnp.bfloat16), "bfloat16", "cuda"),
        (("tpu",), "bfloat16", "cuda"),
        (("cpu",), "bfloat16", "cpu"),
        (("cpu", "float16"), "float16", "cpu"),
    ],
    ids=str,
)
def test_the_arguments(args, dtype, lists):
    assert not amp.is_autocast_enabled()
    with autocast(*args):
        assert amp.is_autocast_enabled("cuda")
        assert amp.get_autocast_dtype() == dtype
        assert kind(F.linear(X, X)) == dtype
        assert kind(F.softmax(X.astype(dtype), -1)) == ("float32" if lists == "cuda" else dtype)
    assert amp.get_autocast_dtype() == jnp.bfloat16


@pytest.mark.parametrize(
    ("args", "match"),
    [
        ((jnp.float32,), "bfloat16 or float16, got float32"),
        (("quantum",), "neither a device nor a dtype"),
        (("quantum", jnp.bfloat16), "no device is called 'quantum'"),
        ((3,), "neither a device nor a dtype"),
    ],
)
def test_wrong_arguments(args, match):
    with pytest.raises(ValueError, match=match):
        autocast(*args)


def test_what_is_written_with_jnp_computes_as_it_comes():
    with autocast():
        assert kind(X @ X.T) == "float32"
        assert kind(jnp.exp(X.astype(jnp.bfloat16))) == "bfloat16"


def test_float64_and_integers_are_left_alone():
    with jax.enable_x64(True), autocast():
        assert kind(F.linear(jnp.ones((2, 3), jnp.float64), jnp.ones((2, 3), jnp.float64))) == "float64"
    with autocast():
        assert kind(F.pad(jnp.ones((1, 3), jnp.int32), (1, 1), mode="replicate")) == "int32"


def test_it_belongs_to_its_thread():
    found = []
    with autocast():
        thread = threading.Thread(target=lambda: found.append(kind(F.linear(X, X))))
        thread.start()
        thread.join()
    assert found == ["float32"]


def test_statistics_and_hooks_as_without():
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    net[0].register_forward_hook(lambda module, args, out: out * 2)
    with autocast():
        out = net(X + jnp.arange(4.0)[:, None])
    assert kind(net[1].running_mean) == "float32"
    assert int(net[1].num_batches_tracked) == 1
    assert out.shape == (4, 4)


def test_functionals_look_as_they_did():
    """What the decorator makes of them: signature, module, documentation for the doctests."""
    assert list(inspect.signature(F.linear).parameters) == ["input", "weight", "bias"]
    assert F.linear.__module__ == "jaxmodule.nn.functional.linear"
    assert F.linear.__globals__ is inspect.getmodule(F.linear.__wrapped__).__dict__
    assert pickle.loads(pickle.dumps(F.linear)) is F.linear
    names = {name for policies in _autocast.LISTS.values() for name in policies}
    marked = {name for name in F.__all__ if hasattr(getattr(F, name), "__wrapped__")}
    assert names - set(F.__all__) == {"recurrent", "cell", "mha"}
    assert names & set(F.__all__) <= marked


def test_a_functional_in_no_list_can_not_be_marked():
    with pytest.raises(KeyError, match="nothing is in no list"):

        @_autocast.autocasts
        def nothing(x):
            return x


# -- the gradient scaler ----------------------------------------------------------------------------------------------


def test_gradients_in_a_dict_are_unscaled_clipped_and_stepped():
    net, traces = model(), []
    by_hand = copy.deepcopy(net)
    optimizer, scaler = jm.optim.SGD(net.parameters(), lr=0.1), GradScaler(init_scale=2.0**10, growth_interval=2)
    reference = jm.optim.SGD(by_hand.parameters(), lr=0.1)

    @jm.jit
    def train(net, optimizer, scaler, x):
        traces.append(1)
        grads = jm.grad(lambda net: scaler.scale(step_loss(net, x)))(net)
        scaler.unscale_(optimizer, grads)
        norm = nn.utils.clip_grad_norm_(grads, 0.1)
        scaler.step(optimizer, grads)
        scaler.update()
        return norm

    for _ in range(4):
        norm = train(net, optimizer, scaler, X)
        grads = jm.grad(step_loss)(by_hand, X)
        np.testing.assert_allclose(norm, nn.utils.clip_grad_norm_(grads, 0.1), rtol=1e-5)
        reference.step(grads)
    assert len(traces) == 1
    np.testing.assert_allclose(net[0].weight, by_hand[0].weight, rtol=1e-5)
    assert scaler.get_scale() == 2.0**12


def test_a_step_that_overflows_changes_nothing_but_the_scale():
    net = model()
    optimizer, scaler = jm.optim.AdamW(net.parameters(), lr=0.1), GradScaler(init_scale=4.0)

    @jm.jit
    def train(net, optimizer, scaler, x):
        grads = jm.grad(lambda net: scaler.scale(step_loss(net, x)))(net)
        kept = dict(grads)
        scaler.step(optimizer, grads)
        assert all(grads[name] is kept[name] for name in kept)  # the caller's dict is as it was
        scaler.update()

    train(net, optimizer, scaler, X)
    before = jax.tree.map(np.asarray, (net.state_dict(), optimizer.state))
    train(net, optimizer, scaler, X * jnp.inf)
    for a, b in zip(jax.tree.leaves(before), jax.tree.leaves((net.state_dict(), optimizer.state)), strict=True):
        np.testing.assert_array_equal(a, b)
    assert scaler.get_scale() == 2.0
    train(net, optimizer, scaler, X)
    assert (net[0].weight != before[0]["0.weight"]).any()


def test_an_iteration_may_span_programs():
    """`step` compiled, `update` outside of it."""
    net = model()
    optimizer, scaler = jm.optim.SGD(net.parameters(), lr=0.1), GradScaler(init_scale=4.0)

    @jm.jit
    def train(net, optimizer, scaler, x):
        grads = jm.grad(lambda net: scaler.scale(step_loss(net, x)))(net)
        scaler.step(optimizer, grads)

    for x, scale in ((X, 4.0), (X * jnp.inf, 2.0), (X, 2.0)):
        train(net, optimizer, scaler, x)
        scaler.update()
        assert scaler.get_scale() == scale
    with pytest.raises(AssertionError, match="No inf checks"):
        scaler.update()


def test_two_optimizers_are_looked_at_apart():
    a, b = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
    first, second = (jm.optim.SGD(m.parameters(), lr=0.1) for m in (a, b))
    scaler = GradScaler(init_scale=2.0)
    before = a.weight.value, b.weight.value

    @jm.jit
    def train(a, b, first, second, scaler):
        scaler.step(first, {"weight": jnp.full((1, 1), jnp.inf)})
        scaler.step(second, {"weight": jnp.full((1, 1), 2.0)})
        scaler.update()

    train(a, b, first, second, scaler)
    np.testing.assert_array_equal(a.weight, before[0])
    np.testing.assert_allclose(b.weight, before[1] - 0.1)
    assert scaler.get_scale() == 1.0


def test_a_trace_that_fails_leaves_the_scaler_usable():
    net = model()
    optimizer, scaler = jm.optim.SGD(net.parameters(), lr=0.1), GradScaler()

    def train(net, optimizer, scaler, fail):
        scaler.step(optimizer, jm.grad(step_loss)(net, X))
        if fail:
            raise ZeroDivisionError
        scaler.update()

    with pytest.raises(ZeroDivisionError):
        jm.jit(train, static_argnames="fail")(net, optimizer, scaler, fail=True)
    jm.jit(train, static_argnames="fail")(net, optimizer, scaler, fail=False)


def test_half_precision_gradients_are_refused_and_setters_work():
    net = model().to(jnp.float16)
    optimizer, scaler = jm.optim.SGD(net.parameters(), lr=0.1), GradScaler()
    with pytest.raises(ValueError, match="FP16 gradients"):
        scaler.step(optimizer, jm.grad(lambda net: net(X.astype(jnp.float16)).sum())(net))
    with pytest.raises(TypeError, match="dict of gradients"):
        scaler.unscale_(optimizer, [1])
    scaler.set_growth_factor(3.0)
    scaler.set_backoff_factor(0.25)
    scaler.set_growth_interval(7)
    assert (scaler.get_growth_factor(), scaler.get_backoff_factor(), scaler.get_growth_interval()) == (3.0, 0.25, 7)
    scaler.update(5.0)
    assert scaler.get_scale() == 5.0
    assert scaler.is_enabled()
    assert pickle.loads(pickle.dumps(scaler)).state_dict() == copy.deepcopy(scaler).state_dict() == scaler.state_dict()
    with pytest.raises(KeyError):
        scaler.load_state_dict({"scale": 1.0})
    assert scaler.get_scale() == 5.0


# -- precision --------------------------------------------------------------------------------------------------------


@pytest.fixture
def _precision():
    before = jax.config.jax_default_matmul_precision
    yield
    jax.config.update("jax_default_matmul_precision", before)


@pytest.mark.usefixtures("_precision")
def test_the_precision_of_products_belongs_to_the_program():
    net, traces = nn.Linear(3, 2), []

    def forward(net, x):
        traces.append(1)
        return net(x)

    run = jm.jit(forward)
    assert amp.get_float32_matmul_precision() == "highest"  # of CPUs
    texts = {}
    for name in ("highest", "high", "medium", "high"):
        amp.set_float32_matmul_precision(name)
        assert amp.get_float32_matmul_precision() == name
        run(net, X)
        texts[name] = run.lower(net, X).as_text()
    assert len(set(texts.values())) == 3
    assert len(traces) >= 3
    with jax.default_matmul_precision("default"):
        assert amp.get_float32_matmul_precision() == "medium"
    with pytest.raises(ValueError, match=r"one of .*'highest', 'medium'.*, got 'best'"):
        amp.set_float32_matmul_precision("best")


def test_the_first_block_of_a_process_compiles_once():
    code = """
import jax.numpy as jnp
import jaxmodule as jm

traces = []

@jm.jit
def step(model, x):
    traces.append(1)
    with jm.autocast(jnp.bfloat16):
        return model(x).mean()

model, x = jm.nn.Linear(3, 2), jnp.ones((4, 3))
for _ in range(3):
    step(model, x)
assert len(traces) == 1, len(traces)
"""
    root = str(Path(__file__).parent.parent)
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": root})

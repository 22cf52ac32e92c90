"""A Module is a citizen of JAX: what takes pytrees, functions and arrays takes Modules and their functional form."""

import functools
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
import pytest
from jax import export
from jax.experimental import checkify

import jaxmodule as jm
from jaxmodule import nn
from jaxmodule.nn import functional as F


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3, padding=1)
        self.norm = nn.BatchNorm2d(2)
        self.head = nn.Linear(2, 3)

    def forward(self, x):
        return self.head(F.relu(self.norm(self.conv(x))).mean((2, 3)))


X = jax.random.normal(jax.random.key(0), (2, 1, 4, 4))
NAMES = ["conv.weight", "conv.bias", "norm.weight", "norm.bias", "norm.running_mean", "norm.running_var"]
NAMES += ["norm.num_batches_tracked", "head.weight", "head.bias"]


# -- trees ------------------------------------------------------------------------------------------------------------
def test_tree_functions():
    model = Net()
    leaves, treedef = jax.tree.flatten(model)
    assert len(leaves) == treedef.num_leaves == len(NAMES)
    doubled = jax.tree.map(lambda x: x * 2, model)
    assert isinstance(doubled, Net)
    assert jnp.array_equal(doubled.head.weight.value, model.head.weight.value * 2)
    assert jax.tree.structure(doubled) == treedef
    assert jax.tree.reduce(lambda n, x: n + x.size, model, 0) == sum(x.size for x in leaves)
    assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), jax.tree.unflatten(treedef, leaves), model))
    pairs = jax.tree.transpose(treedef, jax.tree.structure((0, 0)), jax.tree.map(lambda x: (x, x + 1), model))
    assert jnp.array_equal(pairs[1].head.bias.value, model.head.bias.value + 1)
    assert jax.tree.broadcast(0, model).head.bias.value == 0


def test_paths_are_dotted_names():
    paths, _ = jax.tree_util.tree_flatten_with_path(Net())
    assert [jax.tree_util.keystr(path) for path, _ in paths] == [f".{name}" for name in NAMES]
    assert [jax.tree_util.keystr(path, simple=True) for path, _ in paths] == NAMES
    assert list(jax.tree.leaves(jax.tree.map_with_path(lambda path, x: path[0].name, Net()))) == NAMES
    nested = jax.tree_util.tree_flatten_with_path({"model": [Net()]})[0]
    assert jax.tree_util.keystr(nested[0][0]) == "['model'][0].conv.weight"


def test_arrays_of_a_module_move_and_cast():
    model = Net()
    moved = jax.device_put(model, jax.devices()[1])
    assert moved.head.weight.value.devices() == {jax.devices()[1]}
    assert isinstance(jax.device_get(model), Net)
    assert isinstance(jax.block_until_ready(model), Net)
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16) if x.dtype == jnp.float32 else x, model)
    assert half.head.weight.dtype == jnp.bfloat16


def test_eval_shape_makes_a_model_without_its_arrays():
    def make():
        with jm.use_rng(0):  # a draw in a raw transform is an error otherwise; jm.eval_shape needs none
            return Net()

    abstract = jax.eval_shape(make)
    assert isinstance(abstract, Net)
    assert [x.shape for x in jax.tree.leaves(abstract)] == [x.shape for x in jax.tree.leaves(Net())]
    assert all(isinstance(x, jax.ShapeDtypeStruct) for x in jax.tree.leaves(abstract))
    out = jax.eval_shape(lambda m, x: m(x), Net().eval(), X)
    assert (out.shape, out.dtype) == ((2, 3), jnp.float32)


# -- programs ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("form", ["functional", "module"])
@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_export(platform, form):
    model = Net().eval()
    params, buffers = jm.split(model)
    if form == "functional":
        function = jax.jit(lambda state, x: jm.functional_call(model, state, x))
        args = ({**params, **buffers}, X)
    else:
        function = jax.jit(lambda model, x: model(x))
        args = (model, X)
    exported = export.export(function, platforms=[platform])(*args)
    assert exported.platforms == (platform,)
    assert len(exported.in_avals) == len(NAMES) + 1
    assert "stablehlo" in exported.mlir_module()
    if platform == "cpu":
        assert jnp.allclose(exported.call(*args), model(X), atol=1e-6)


def test_an_exported_program_goes_through_a_file():
    model = Net().eval()
    # A file knows pytrees by name: a Module goes as its leaves, and is put together round them.
    leaves, treedef = jax.tree.flatten(model)
    exported = export.export(jax.jit(lambda leaves, x: jax.tree.unflatten(treedef, leaves)(x)))(leaves, X)
    again = export.deserialize(exported.serialize())
    assert jnp.allclose(again.call(leaves, X), model(X), atol=1e-6)


def test_export_of_a_function_of_modules_and_of_any_batch():
    model = Net().eval()
    exported = export.export(jax.jit(lambda m, x: m(x)), platforms=["cpu", "cuda", "tpu"])(model, X)
    assert jnp.allclose(exported.call(model, X), model(X), atol=1e-6)
    params, buffers = jm.split(model)
    (batch,) = export.symbolic_shape("b")
    shape = jax.ShapeDtypeStruct((batch, 1, 4, 4), jnp.float32)
    any_batch = export.export(jax.jit(lambda s, x: jm.functional_call(model, s, x)))({**params, **buffers}, shape)
    for n in (1, 5):
        x = jnp.ones((n, 1, 4, 4))
        assert jnp.allclose(any_batch.call({**params, **buffers}, x), model(x), atol=1e-6)


def test_make_jaxpr():
    model = Net().eval()
    jaxpr = jax.make_jaxpr(lambda m, x: m(x))(model, X)
    assert len(jaxpr.in_avals) == len(NAMES) + 1
    assert not jaxpr.consts, "no parameter is baked in"
    assert "conv" in str(jaxpr)
    assert len(jax.make_jaxpr(lambda m, x: (m(x), m)[1])(model, X).out_avals) == len(NAMES)
    inner = jax.make_jaxpr(jm.jit(lambda m, x: m(x)))(model, X)
    assert len(inner.in_avals) == len(NAMES) + 1


def test_checkify():
    class Positive(nn.Module):
        def forward(self, x):
            checkify.check(jnp.all(x > 0), "must be positive")
            return jnp.log(x)

    model = nn.Sequential(nn.Identity(), Positive())
    checked = checkify.checkify(jax.jit(lambda m, x: m(x)))
    error, _ = checked(model, jnp.ones(3))
    assert error.get() is None
    error, _ = checked(model, -jnp.ones(3))
    assert "must be positive" in error.get()
    error, _ = checkify.checkify(lambda m, x: m(x), errors=checkify.float_checks)(Net().eval(), X * jnp.nan)
    assert "nan" in error.get()
    with pytest.raises(checkify.JaxRuntimeError, match="must be positive"):
        checkify.check_error(jax.jit(checkify.checkify(lambda m, x: m(x)))(model, -jnp.ones(3))[0])


def test_debug_print(capfd):
    class Telling(nn.Module):
        def forward(self, x):
            jax.debug.print("sum {s} of {n}", s=x.sum(), n=x.shape[0])
            return x

    model = nn.Sequential(Telling(), Telling())
    for call in (model, jm.jit(model), jax.jit(lambda x: model(x)), jm.grad(lambda x: model(x).sum())):
        call(jnp.ones(3))
        jax.effects_barrier()
        assert capfd.readouterr().out == "sum 3.0 of 3\n" * 2


# -- neighbours -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("form", ["dict", "module"])
def test_optax_masked_and_multi_transform_by_name(form):
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
    params = jm.split(model)[0] if form == "dict" else model
    grads = jax.tree.map(jnp.ones_like, params)

    def named(function):
        """What `function` says of each name, as a tree like the parameters: a mask or labels, as a function of them.

        optax calls whatever is callable; a Module full of labels is, so labels always come from a function.
        """
        return lambda params: jax.tree.map_with_path(
            lambda path, _: function(jax.tree_util.keystr(path, simple=True)), params
        )

    def weight(tree, name):
        return tree[name] if form == "dict" else tree.get_parameter(name).value

    masked = optax.masked(optax.scale(-10.0), named(lambda name: name.endswith("bias")))
    updates, _ = masked.update(grads, masked.init(params), params)
    new = optax.apply_updates(params, updates)
    assert jnp.allclose(weight(new, "0.bias"), weight(params, "0.bias") - 10)
    assert jnp.allclose(weight(new, "0.weight"), weight(params, "0.weight") + 1)
    labels = named(lambda name: "head" if name.startswith("1") else "frozen")
    transforms = {"head": optax.sgd(0.5, momentum=0.9), "frozen": optax.set_to_zero()}
    tx = optax.multi_transform(transforms, labels)
    state = tx.init(params)
    updates, state = jax.jit(tx.update)(grads, state, params)
    new = optax.apply_updates(params, updates)
    assert jnp.array_equal(weight(new, "0.weight"), weight(params, "0.weight"))
    assert jnp.allclose(weight(new, "1.weight"), weight(params, "1.weight") - 0.5, atol=1e-5)


def test_orbax_saves_and_restores_state(tmp_path):
    import orbax.checkpoint as checkpoint  # with flax

    model, other = Net(), Net()
    model(X)  # moves the statistics
    with checkpoint.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", dict(model.state_dict()))
        checkpointer.wait_until_finished()
        abstract = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), dict(other.state_dict())
        )
        restored = checkpointer.restore(tmp_path / "state", abstract)
    other.load_state_dict(restored)
    assert jnp.allclose(other.eval()(X), model.eval()(X))
    assert int(other.norm.num_batches_tracked) == 1


CACHE = """
import sys, jax, jax.numpy as jnp
import jaxmodule as jm
from jaxmodule import nn
events = []
jax.monitoring.register_event_listener(lambda name, **_: events.append(name))
jm.manual_seed(0)
model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.1), nn.Linear(4, 1))
optimizer = jm.optim.AdamW(model.parameters(), lr=1e-3)
@jm.jit
def step(model, optimizer, x):
    loss, grads = jm.value_and_grad(lambda m: (m(x) ** 2).mean())(model)
    optimizer.step(grads)
    return loss
model.register_forward_hook(lambda module, args, out: None)
events.clear()
loss = step(model, optimizer, jnp.ones((8, 3)))
print(float(loss), sum("cache_hits" in e for e in events), sum("cache_misses" in e for e in events))
"""


def test_the_persistent_cache_is_hit_in_a_new_process(tmp_path):
    environment = {
        **os.environ,
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "PYTHONPATH": str(Path(jm.__file__).parents[1]),
    }

    def run(seed):
        environment["PYTHONHASHSEED"] = seed  # nothing may depend on the order of a set of strings
        return subprocess.run(
            [sys.executable, "-c", CACHE], env=environment, capture_output=True, text=True, check=True
        ).stdout.split()

    loss, hits, misses = run("1")
    assert int(misses) > 0
    files = sorted(os.listdir(tmp_path))
    again, hits, misses = run("2")
    assert loss == again
    assert int(hits) > 0
    assert int(misses) == 0
    assert [f for f in sorted(os.listdir(tmp_path)) if f.endswith("-cache")] == [
        f for f in files if f.endswith("-cache")
    ]


# -- transforms of raw JAX --------------------------------------------------------------------------------------------
def test_raw_transforms_of_functions_of_modules():
    model = Net().eval()
    expected = model(X)
    assert jnp.allclose(jax.jit(lambda m, x: m(x))(model, X), expected, atol=1e-6)
    assert jnp.allclose(jax.vmap(lambda x: model(x[None])[0])(X), expected, atol=1e-6)
    assert jnp.allclose(jax.checkpoint(lambda m, x: m(x))(model, X), expected, atol=1e-6)
    stacked = jax.tree.map(lambda x: jnp.stack([x, x]), model)
    assert jnp.allclose(jax.vmap(lambda m: m(X))(stacked)[1], expected, atol=1e-6)
    gradient = jax.grad(lambda m, x: m(x).sum(), allow_int=True)(model, X)
    wanted = jm.grad(lambda m, x: m(x).sum())(model, X)
    assert jnp.allclose(gradient.head.weight.value, wanted["head.weight"], atol=1e-6)
    _, out = jax.lax.scan(lambda m, x: (m, m(x[None])), model, X)
    assert jnp.allclose(out[:, 0], expected, atol=1e-6)
    tangent = jax.tree.map(jnp.zeros_like, jm.split(model)[0])
    buffers = jm.split(model)[1]
    call = functools.partial(jm.functional_call, model)
    primal, moved = jax.jvp(lambda p: call({**p, **buffers}, X), (jm.split(model)[0],), (tangent,))
    assert jnp.allclose(primal, expected, atol=1e-6)
    assert not moved.any()

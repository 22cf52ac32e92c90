"""What holds for every layer of the library: each property is one test over the table in tests/zoo."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmodule as jm
from jaxmodule import nn
from tests.zoo import BAD, BAD_IDS, CONTAINERS, LAZY, ROWS, STATEFUL, Bad, Row, every

every_layer = every()
every_layer_and_mode = every(modes=True)

# Compiled whole, a program may fuse what eager calls keep apart: a few units in the last place of the largest value.
FUSION = 2e-6


def assert_same(a: Any, b: Any, rtol: float = 0.0) -> None:
    """Equal structures of arrays of equal dtype, equal within `rtol` of each array's largest value."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype
        assert x.shape == y.shape
        x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        np.testing.assert_allclose(x, y, rtol=rtol, atol=rtol * np.max(np.abs(y), initial=0.0))


def total(output: Any) -> jax.Array:
    """A scalar whose gradient reaches every floating-point output with weights that differ."""
    leaves = [x for x in jax.tree.leaves(output) if jnp.issubdtype(x.dtype, jnp.floating)]
    parts = [
        jnp.sum(x.astype(jnp.float32) * jnp.sin(jnp.arange(x.size, dtype=jnp.float32)).reshape(x.shape)) for x in leaves
    ]
    return jnp.sum(jnp.stack(parts))


def cast(tree: Any, dtype: Any, of: Any = np.float32) -> Any:
    """`tree` with its arrays of one floating-point dtype in another."""
    return jax.tree.map(lambda x: x.astype(dtype) if getattr(x, "dtype", None) == of else x, tree)


def gradients(row: Row, module: nn.Module, inputs: tuple[Any, ...]) -> Any:
    """The gradients of `total` by the parameters and by the floating-point inputs."""
    arrays, treedef = jax.tree.flatten(inputs)
    floating = [isinstance(x, np.ndarray) and bool(jnp.issubdtype(x.dtype, jnp.floating)) for x in arrays]

    def loss(module: nn.Module, moving: list[jax.Array]) -> jax.Array:
        left = list(moving)
        filled = [left.pop(0) if f else x for x, f in zip(arrays, floating, strict=True)]
        return total(row.run(module, jax.tree.unflatten(treedef, filled)))

    moving = [jnp.asarray(x) for x, f in zip(arrays, floating, strict=True) if f]
    return jm.grad(loss, argnums=(0, 1))(module, moving)


def assert_no_tracer(module: nn.Module) -> None:
    boxes = module.state_dict(keep_vars=True)
    assert [name for name, box in boxes.items() if isinstance(box.value, jax.core.Tracer)] == []


def test_every_public_layer_has_a_row() -> None:
    public = {
        name
        for name in dir(nn)
        if not name.startswith("_") and isinstance(cls := getattr(nn, name), type) and issubclass(cls, nn.Module)
    }
    missing = {name for name in public - CONTAINERS - {row.layer for row in ROWS} if not name.startswith(LAZY)}
    assert not missing, f"add a row to tests/zoo for {sorted(missing)}"


def test_ids_are_unique() -> None:
    assert len({row.id for row in ROWS}) == len(ROWS)


def test_every_layer_has_a_row_that_is_no_variant() -> None:
    assert {row.layer for row in ROWS} == {row.layer for row in ROWS if not row.variant}


@every_layer_and_mode
def test_compiled_equals_eager_and_compiles_once(row: Row, training: bool) -> None:
    eager, compiled = row.make().train(training), row.make().train(training)
    traces = []

    @jm.jit
    def step(module: nn.Module, inputs: tuple[Any, ...]) -> Any:
        traces.append(row.id)
        return row.run(module, inputs)

    for seed in range(2):
        jm.manual_seed(5)
        expected = row.run(eager, row.inputs(seed))
        jm.manual_seed(5)
        assert_same(step(compiled, row.inputs(seed)), expected, FUSION)
    assert len(traces) == 1
    assert_no_tracer(compiled)
    assert_same(dict(compiled.state_dict()), dict(eager.state_dict()), FUSION)


@every(modes=True, half=1)
def test_gradients_are_finite_and_equal_when_compiled(row: Row, training: bool) -> None:
    inputs = row.inputs(0)
    module, twin = row.make().train(training), row.make().train(training)
    jm.manual_seed(1)
    eager = gradients(row, module, inputs)
    assert all(np.isfinite(np.asarray(g)).all() for g in jax.tree.leaves(eager))
    assert_no_tracer(module)
    jm.manual_seed(1)
    assert_same(jm.jit(lambda twin: gradients(row, twin, inputs))(twin), eager, 5 * FUSION)
    assert_no_tracer(twin)


@every_layer
def test_train_and_eval_differ_where_the_table_says_so(row: Row) -> None:
    module = row.make()
    training, evaluating = row.run(module, row.inputs(0)), row.run(module.eval(), row.inputs(0))
    pairs = zip(jax.tree.leaves(training), jax.tree.leaves(evaluating), strict=True)
    assert any(not np.allclose(a, b, rtol=1e-5) for a, b in pairs) == row.modes_differ


@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))], ids=["deepcopy", "pickle"]
)
@every_layer
def test_copies_are_equal_and_independent(row: Row, duplicate: Any) -> None:
    module = row.make()
    twin = duplicate(module)
    assert repr(twin) == repr(module)
    assert_same(dict(twin.state_dict()), dict(module.state_dict()))
    jm.manual_seed(5)
    expected = row.run(module, row.inputs(0))
    jm.manual_seed(5)
    assert_same(row.run(twin, row.inputs(0)), expected)
    before = {name: np.array(value) for name, value in module.state_dict().items()}
    for parameter in twin.parameters():
        parameter.value = parameter.value + 1
    assert_same(dict(module.state_dict()), before)


@every_layer
def test_state_dict_round_trip(row: Row) -> None:
    module, fresh = row.make(seed=0), row.make(seed=1)
    row.run(module, row.inputs(0))  # so that buffers are not at their start
    report = fresh.load_state_dict(module.state_dict())
    assert report.missing_keys == []
    assert report.unexpected_keys == []
    assert_same(dict(fresh.state_dict()), dict(module.state_dict()))
    assert_same(row.run(fresh.eval(), row.inputs(1)), row.run(module.eval(), row.inputs(1)))


@every(STATEFUL, half=0)
def test_half_precision_stays_half_and_is_near_single(row: Row) -> None:
    half_precision(row, jnp.bfloat16)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16], ids=["float16", "bfloat16"])
@every_layer
def test_half_precision_of_every_layer(row: Row, dtype: Any) -> None:
    half_precision(row, dtype)


def half_precision(row: Row, dtype: Any) -> None:
    module, single = row.make().to(dtype), row.make()
    inputs, cast_row = cast(row.inputs(0), dtype), dataclasses.replace(row, call=cast(row.call, dtype))
    widened, wide_row = (
        cast(inputs, np.float32, dtype),
        dataclasses.replace(row, call=cast(cast_row.call, np.float32, dtype)),
    )
    for mine, half in zip(single.parameters(), module.parameters(), strict=True):
        mine.value = half.value.astype(jnp.float32)
    found = jm.jit(lambda module: gradients(cast_row, module, inputs))(module)
    for gradient in jax.tree.leaves(found):
        assert gradient.dtype == dtype
        assert np.isfinite(np.asarray(gradient, np.float32)).all()
    floating = [v for v in module.state_dict().values() if jnp.issubdtype(v.dtype, jnp.floating)]
    assert all(v.dtype == dtype for v in floating)
    jm.manual_seed(3)
    output = jax.tree.leaves(cast_row.run(module, inputs))[0]
    jm.manual_seed(3)
    expected = jax.tree.leaves(wide_row.run(single, widened))[0]
    assert output.dtype == dtype
    scale = max(float(jnp.max(jnp.abs(expected))), 1.0)
    # Eight units in the last place: sums of a hundred products, some of them rounded to half precision on the way.
    assert float(jnp.max(jnp.abs(expected - output.astype(jnp.float32)))) <= 8 * float(jnp.finfo(dtype).eps) * scale


@every_layer
def test_vmap_equals_a_loop(row: Row) -> None:
    module = row.make().eval()
    if getattr(module, "max_norm", None) is not None:
        return  # a look-up that rescales the table is a write, which raw transforms refuse
    batch = [row.inputs(seed) for seed in range(3)]
    stacked = jax.tree.map(lambda *xs: jnp.stack([jnp.asarray(x) for x in xs]), *batch)
    mapped = jax.vmap(lambda inputs: row.run(module, inputs))(stacked)
    looped = jax.tree.map(lambda *xs: jnp.stack(xs), *[row.run(module, inputs) for inputs in batch])
    assert_same(mapped, looped, 5 * FUSION)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32], ids=["bfloat16", "float32"])
@every(STATEFUL)
def test_constructors_take_dtype_and_device(row: Row, dtype: Any) -> None:
    cls = getattr(nn, row.layer)
    device = jax.devices()[-1]
    for place in (device, jax.sharding.SingleDeviceSharding(device)):
        module = cls(*row.args, **row.kwargs, device=place, dtype=dtype)
        for name, value in module.state_dict().items():
            assert value.devices() == {device}, name
            assert value.dtype == (dtype if jnp.issubdtype(value.dtype, jnp.floating) else jnp.zeros((), int).dtype)
        module.reset_parameters()
        assert all(value.devices() == {device} for value in module.state_dict().values())


@pytest.mark.parametrize(("row", "bad"), BAD, ids=BAD_IDS)
def test_bad_use_raises(row: Row, bad: Bad) -> None:
    if bad.args is not None:
        with pytest.raises(bad.kind, match=bad.match):
            getattr(nn, row.layer)(*bad.args, **bad.kwargs)
        return
    module = row.make()
    before = {name: np.array(value) for name, value in module.state_dict().items()}
    with pytest.raises(bad.kind, match=bad.match):
        module(*bad.inputs, **bad.call)
    assert_same({name: np.array(value) for name, value in module.state_dict().items()}, before)


def test_batch_norm_loads_a_file_from_before_num_batches_tracked() -> None:
    module = nn.BatchNorm1d(3)
    old = {name: value for name, value in module.state_dict().items() if name != "num_batches_tracked"}
    names = set(old)
    module(np.arange(6.0, dtype=np.float32).reshape(2, 3))
    module.load_state_dict(old)
    assert set(old) == names
    assert int(module.num_batches_tracked) == 1
    new = module.state_dict()
    del new["num_batches_tracked"]
    with pytest.raises(RuntimeError, match=r"Missing key\(s\) in state_dict: \"num_batches_tracked\""):
        module.load_state_dict(new)


def test_embedding_from_pretrained() -> None:
    table = np.arange(6.0, dtype=np.float32).reshape(3, 2)
    frozen = nn.Embedding.from_pretrained(table, padding_idx=-1)
    assert not frozen.weight.requires_grad
    assert frozen.padding_idx == 2
    assert frozen(np.array([2])).tolist() == [[4.0, 5.0]]  # the padding row is kept as given
    assert nn.Embedding.from_pretrained(table, freeze=False).weight.requires_grad
    with pytest.raises(AssertionError, match="expected to be 2-dimensional"):
        nn.Embedding.from_pretrained(np.zeros(3, np.float32))


def test_embedding_padding_row_starts_as_zeros() -> None:
    assert nn.Embedding(4, 3, padding_idx=1).weight[1].tolist() == [0.0] * 3

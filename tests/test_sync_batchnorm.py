"""`SyncBatchNorm` over a mapped axis is `BatchNorm` over the whole batch: outputs, gradients, running statistics."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxmodule as jm
from jaxmodule import nn

MEMBERS, CHANNELS = 4, 3


def batch(shape: tuple[int, ...] = (8, CHANNELS, 5), dtype: Any = jnp.float32) -> jax.Array:
    """Members whose means and variances differ: what a mean of variances gets wrong."""
    x = np.random.default_rng(0).standard_normal(shape)
    scale = np.repeat(np.arange(1, MEMBERS + 1), shape[0] // MEMBERS).reshape(-1, *(1,) * (len(shape) - 1))
    return jnp.asarray(x * scale + 10 * scale, dtype)


def pair(process_group: Any, **options: Any) -> tuple[nn.BatchNorm1d, nn.SyncBatchNorm]:
    """The layer on the whole batch, and that on its parts, with equal parameters."""
    whole = nn.BatchNorm1d(CHANNELS, **options)
    for i, parameter in enumerate(whole.parameters()):
        parameter.value = jnp.asarray(np.random.default_rng(i).standard_normal(CHANNELS), parameter.dtype)
    parts = nn.SyncBatchNorm(CHANNELS, process_group=process_group, **options)
    parts.load_state_dict(whole.state_dict())
    return whole, parts


def close(a: Any, b: Any, rtol: float = 2e-5) -> None:
    assert a.shape == b.shape
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * np.abs(b).max(initial=1e-3))


def whole_batch(module: nn.Module, x: jax.Array) -> tuple[Any, ...]:
    """Output, gradients by the parameters and by the input, what is written."""
    params, buffers = jm.split(module)

    def loss(params: Any, x: jax.Array) -> tuple[jax.Array, Any]:
        y, written = jm.functional_call(module, (params, buffers), x, mutable=True)
        return jnp.sum(y.astype(jnp.float32) * weights(y.shape)), (y, written)

    (of_params, of_x), (y, written) = jax.grad(loss, argnums=(0, 1), has_aux=True)(params, x)
    return y, of_params, of_x, written


def weights(shape: tuple[int, ...]) -> jax.Array:
    return jnp.cos(jnp.arange(np.prod(shape), dtype=jnp.float32)).reshape(shape)


def under_vmap(module: nn.Module, x: jax.Array, compiled: bool) -> tuple[Any, ...]:
    params, buffers = jm.split(module)

    def member(params: Any, part: jax.Array) -> tuple[jax.Array, Any]:
        return jm.functional_call(module, (params, buffers), part, mutable=True)

    def loss(params: Any, x: jax.Array) -> tuple[jax.Array, Any]:
        parts = x.reshape(MEMBERS, -1, *x.shape[1:])
        # None: the statistics are known to be the same on every member
        mapped = jax.vmap(member, in_axes=(None, 0), out_axes=(0, None), axis_name="batch")
        y, written = mapped(params, parts)
        y = y.reshape(x.shape)
        return jnp.sum(y.astype(jnp.float32) * weights(y.shape)), (y, written)

    run = jax.grad(loss, argnums=(0, 1), has_aux=True)
    (of_params, of_x), (y, written) = (jax.jit(run) if compiled else run)(params, x)
    return y, of_params, of_x, written


def mesh() -> Mesh:
    return Mesh(np.array(jax.devices()[:MEMBERS]), ("data",))


def under_shard_map(module: nn.Module, x: jax.Array, check_vma: bool) -> tuple[Any, ...]:
    params, buffers = jm.split(module)

    def member(params: Any, part: jax.Array) -> tuple[jax.Array, Any]:
        return jm.functional_call(module, (params, buffers), part, mutable=True)

    mapped = jax.shard_map(
        member, mesh=mesh(), in_specs=(P(), P("data")), out_specs=(P("data"), P()), check_vma=check_vma
    )

    def loss(params: Any, x: jax.Array) -> tuple[jax.Array, Any]:
        y, written = mapped(params, x)
        return jnp.sum(y.astype(jnp.float32) * weights(y.shape)), (y, written)

    (of_params, of_x), (y, written) = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))(params, x)
    return y, of_params, of_x, written


def assert_equal(found: tuple[Any, ...], expected: tuple[Any, ...], rtol: float = 2e-5) -> None:
    for mine, other in zip(found[:1] + found[2:3], expected[:1] + expected[2:3], strict=True):
        close(mine, other, rtol)
    for mine, other in ((found[1], expected[1]), (found[3], expected[3])):
        assert set(mine) == set(other)
        for name in other:
            close(mine[name], other[name], rtol)


OPTIONS = [
    {},
    {"momentum": None},
    {"momentum": 0.4, "eps": 1e-2, "bias": False},
    {"affine": False},
    {"track_running_stats": False},
]


@pytest.mark.parametrize("options", OPTIONS)
def test_vmap(options: dict[str, Any]) -> None:
    whole, parts = pair("batch", **options)
    assert_equal(under_vmap(parts, batch(), compiled=False), whole_batch(whole, batch()))


def test_vmap_compiled() -> None:
    whole, parts = pair("batch")
    assert_equal(under_vmap(parts, batch(), compiled=True), whole_batch(whole, batch()))


@pytest.mark.parametrize("check_vma", [True, False])
@pytest.mark.parametrize("options", OPTIONS[:3])
def test_shard_map(options: dict[str, Any], check_vma: bool) -> None:
    whole, parts = pair("data", **options)
    assert_equal(under_shard_map(parts, batch(), check_vma), whole_batch(whole, batch()))


def test_one_value_a_channel_on_each_member() -> None:
    whole, parts = pair("batch")
    x = batch((MEMBERS, CHANNELS))
    assert_equal(under_vmap(parts, x, compiled=False), whole_batch(whole, x))
    with pytest.raises(ValueError, match="Expected more than 1 value per channel when training"):
        jax.vmap(parts, axis_name="batch")(jnp.ones((1, 1, CHANNELS)))


def test_statistics_far_from_zero() -> None:
    """In one pass over sums and squares the variance would be lost."""
    whole, parts = pair("batch", affine=False)
    x = batch() * 1e-2 + 1000.0
    expected = (np.asarray(x, np.float64) - np.asarray(x, np.float64).mean((0, 2), keepdims=True)) / np.sqrt(
        np.asarray(x, np.float64).var((0, 2), keepdims=True) + 1e-5
    )
    found = under_vmap(parts, x, compiled=True)
    np.testing.assert_allclose(found[0], expected, atol=2e-3)
    close(found[3]["running_var"], whole_batch(whole, x)[3]["running_var"])


def test_several_axes() -> None:
    whole, parts = pair(("rows", "columns"), affine=False)
    _, buffers = jm.split(parts)

    def member(part: jax.Array) -> tuple[jax.Array, Any]:
        return jm.functional_call(parts, buffers, part, mutable=True)

    x = batch().reshape(2, 2, 2, CHANNELS, 5)
    columns = jax.vmap(member, out_axes=(0, None), axis_name="columns")
    y, written = jax.vmap(columns, out_axes=(0, None), axis_name="rows")(x)
    expected, _, _, updated = whole_batch(whole, batch())
    close(y.reshape(batch().shape), expected)
    close(written["running_var"], updated["running_var"])
    # over one of two axes, the other's members keep to themselves
    alone = nn.SyncBatchNorm(CHANNELS, affine=False, track_running_stats=False, process_group="columns")
    y = jax.vmap(jax.vmap(alone, axis_name="columns"), axis_name="rows")(x)
    local = nn.BatchNorm1d(CHANNELS, affine=False, track_running_stats=False)
    close(y[1].reshape(4, CHANNELS, 5), local(x[1].reshape(4, CHANNELS, 5)))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision(dtype: Any) -> None:
    whole, parts = pair("batch", dtype=jnp.float32)
    x = batch(dtype=dtype)
    found, expected = under_vmap(parts, x, compiled=True), whole_batch(whole, x)
    assert found[0].dtype == dtype
    assert found[3]["running_mean"].dtype == jnp.float32
    assert_equal(found, expected, 2 * float(jnp.finfo(dtype).eps))
    close(found[3]["running_mean"], expected[3]["running_mean"])


def test_float64() -> None:
    with jax.enable_x64(True):
        whole, parts = pair("batch", dtype=jnp.float64, momentum=None)
        x = batch(dtype=jnp.float64)
        assert_equal(under_vmap(parts, x, compiled=False), whole_batch(whole, x), 1e-12)


def test_empty_parts_leave_the_statistics() -> None:
    _, parts = pair("batch")
    _, buffers = jm.split(parts)

    def member(part: jax.Array) -> tuple[jax.Array, Any]:
        return jm.functional_call(parts, buffers, part, mutable=True)

    y, written = jax.vmap(member, out_axes=(0, None), axis_name="batch")(jnp.zeros((MEMBERS, 0, CHANNELS)))
    assert y.shape == (MEMBERS, 0, CHANNELS)
    assert set(written) == {"num_batches_tracked"}


def test_eval_needs_no_axis() -> None:
    whole, parts = pair("batch")
    close(parts.eval()(batch()), whole.eval()(batch()), 0)
    # without statistics the batch's own are used; shared they are only when training, as in torch
    alone = nn.SyncBatchNorm(CHANNELS, track_running_stats=False, process_group="batch").eval()
    close(alone(batch()), nn.BatchNorm1d(CHANNELS, track_running_stats=False)(batch()), 0)


def test_an_axis_that_is_not_mapped_is_an_error() -> None:
    _, parts = pair("batch")
    before = {name: np.asarray(value) for name, value in parts.state_dict().items()}
    with pytest.raises(NameError, match=r"\('batch',\), but not all of them are mapped here(.|\n)*axis_name='batch'"):
        parts(batch())
    for name, value in parts.state_dict().items():
        np.testing.assert_array_equal(value, before[name])
    with pytest.raises(TypeError, match="the name of a mapped axis, a tuple of names, or None"):
        nn.SyncBatchNorm(3, process_group=object())


def test_no_group_takes_the_statistics_of_the_global_array() -> None:
    """Under jit a sharded array is the whole batch: no axis needs a name."""
    whole, parts = pair(None)
    x = jax.device_put(batch(), NamedSharding(mesh(), P("data")))
    expected = whole(batch())
    y = jm.jit(lambda module, x: module(x))(parts, x)
    close(y, expected)
    for name, value in whole.state_dict().items():
        close(parts.state_dict()[name], value)


def test_the_gradient_inside_a_member() -> None:
    """As data-parallel training takes it: each member differentiates its own loss, and the mean is applied."""
    whole, parts = pair("data")
    params, buffers = jm.split(parts)
    cotangent = weights(batch().shape)

    def member(params: Any, part: jax.Array, weight: jax.Array) -> Any:
        # varying: otherwise JAX sums the gradients of what is the same everywhere by itself
        params = jax.tree.map(lambda p: jax.lax.pcast(p, "data", to="varying"), params)

        def loss(params: Any) -> jax.Array:
            y, _ = jm.functional_call(parts, (params, buffers), part, mutable=True)
            return jnp.sum(y * weight)

        return jax.lax.psum(jax.grad(loss)(params), "data")

    mapped = jax.shard_map(member, mesh=mesh(), in_specs=(P(), P("data"), P("data")), out_specs=P())
    found, expected = jax.jit(mapped)(params, batch(), cotangent), whole_batch(whole, batch())[1]
    for name in expected:
        close(found[name], expected[name])


# -- conversion -------------------------------------------------------------------------------------------------
class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3, 1e-3, 0.2))
        self.second = nn.BatchNorm2d(4, affine=False, track_running_stats=False)
        self.again = self.first[1]
        self.third = nn.InstanceNorm1d(3)

    def forward(self, x: jax.Array) -> jax.Array:
        return self.first(x)


def test_conversion_keeps_parameters_buffers_and_modes() -> None:
    net = Net()
    net.first[1].eval()
    weight, mean = net.first[1].weight, net.first[1].running_mean
    before = list(net.state_dict())
    assert nn.SyncBatchNorm.convert_sync_batchnorm(net, "batch") is net
    new = net.first[1]
    assert type(new) is type(net.second) is nn.SyncBatchNorm
    assert new is net.again
    assert new.weight is weight
    assert new.running_mean is mean
    assert (new.eps, new.momentum, new.process_group, new.training) == (1e-3, 0.2, "batch", False)
    assert (net.second.affine, net.second.track_running_stats, net.second.training) == (False, False, True)
    assert type(net.third) is nn.InstanceNorm1d
    assert list(net.state_dict()) == before


def test_conversion_of_a_layer_makes_a_new_one() -> None:
    old = nn.BatchNorm1d(3, bias=False, dtype=jnp.bfloat16)
    old.weight.requires_grad = False
    new = nn.SyncBatchNorm.convert_sync_batchnorm(old)
    assert type(old) is nn.BatchNorm1d
    assert type(new) is nn.SyncBatchNorm
    assert new.weight is old.weight
    assert new.bias is None
    assert new.process_group is None
    assert new.weight.dtype == jnp.bfloat16
    twice = nn.SyncBatchNorm.convert_sync_batchnorm(new, ("a", "b"))
    assert twice.process_group == ("a", "b")
    close(new(jnp.ones((2, 3, 4, 4), jnp.bfloat16)), jnp.zeros((2, 3, 4, 4), jnp.bfloat16))


def test_a_converted_net_trains_over_a_mapped_axis() -> None:
    whole, parts = Net(), Net()
    parts.load_state_dict(whole.state_dict())
    nn.SyncBatchNorm.convert_sync_batchnorm(parts, "batch")
    x = batch((8, 3))
    expected = whole(x)
    params, buffers = jm.split(parts)

    def member(part: jax.Array) -> tuple[jax.Array, Any]:
        return jm.functional_call(parts, (params, buffers), part, mutable=True)

    y, written = jax.vmap(member, out_axes=(0, None), axis_name="batch")(x.reshape(MEMBERS, 2, 3))
    close(y.reshape(8, 3), expected)
    close(written["first.1.running_var"], whole.first[1].running_var.value)

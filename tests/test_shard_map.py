"""shard_map of functions of Modules: a data-parallel step is the single device's, state and random numbers included."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

import jaxmodule as jm
from jaxmodule import nn
from jaxmodule.transforms.custom import custom_jvp, custom_vjp
from jaxmodule.transforms.shard import shard_map

DEVICES = 4
X = jnp.asarray(np.random.default_rng(0).standard_normal((8, 3)), jnp.float32)
Y = jnp.asarray(np.random.default_rng(1).standard_normal((8, 2)), jnp.float32)

pytestmark = pytest.mark.skipif(len(jax.devices()) < DEVICES, reason="the suite forces four CPU devices")


def mesh(shape: tuple[int, ...] = (DEVICES,), names: tuple[str, ...] = ("data",)) -> Mesh:
    return Mesh(np.array(jax.devices()[: int(np.prod(shape))]).reshape(shape), names)


def same(a: Any, b: Any, tolerance: float = 1e-5) -> None:
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance), a, b)


def net(norm: nn.Module) -> nn.Sequential:
    jm.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4, bias=False), norm, nn.Tanh(), nn.Linear(4, 2))


def both() -> tuple[nn.Sequential, nn.Sequential]:
    """The net for the whole batch, and that for its parts."""
    return net(nn.BatchNorm1d(4)), net(nn.SyncBatchNorm(4, process_group="data"))


def loss_of(model: nn.Module, x: jax.Array, y: jax.Array) -> jax.Array:
    return ((model(x) - y) ** 2).mean()


def mean_loss(model: nn.Module, x: jax.Array, y: jax.Array) -> jax.Array:
    return jax.lax.pmean(loss_of(model, x, y), "data")


SPECS: dict[str, Any] = {"in_specs": (P(), P("data"), P("data")), "out_specs": P()}


class TestDataParallel:
    def steps(self, step: Any, model: nn.Sequential) -> Any:
        optimizer = jm.optim.AdamW(model.parameters(), lr=0.1)
        losses = [step(model, optimizer, X, Y) for _ in range(3)]
        return losses, dict(model.state_dict()), optimizer.state_dict()["state"]

    def single(self) -> Any:
        def step(model: Any, optimizer: Any, x: jax.Array, y: jax.Array) -> jax.Array:
            loss, grads = jm.value_and_grad(loss_of)(model, x, y)
            optimizer.step(grads)
            return loss

        return self.steps(jm.jit(step), both()[0])

    def test_the_gradient_outside(self) -> None:
        @jm.jit
        def step(model: Any, optimizer: Any, x: jax.Array, y: jax.Array) -> jax.Array:
            loss, grads = jm.value_and_grad(shard_map(mean_loss, mesh=mesh(), **SPECS))(model, x, y)
            optimizer.step(grads)
            return loss

        same(self.steps(step, both()[1]), self.single(), 1e-4)

    def test_the_whole_step_inside(self) -> None:
        def step(model: Any, optimizer: Any, x: jax.Array, y: jax.Array) -> jax.Array:
            loss, grads = jm.value_and_grad(mean_loss)(model, x, y)
            optimizer.step(grads)
            return loss

        specs = (P(), P(), P("data"), P("data"))
        step = jm.jit(shard_map(step, mesh=mesh(), in_specs=specs, out_specs=P()))
        same(self.steps(step, both()[1]), self.single(), 1e-4)

    def test_the_mesh_of_the_context(self) -> None:
        whole, parts = both()
        call = jm.jit(shard_map(lambda m, x: m(x), in_specs=(P(), P("data")), out_specs=P("data")))
        with jax.set_mesh(jax.make_mesh((DEVICES,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))):
            found = call(parts, X)
        same(found, whole(X))
        same(dict(parts.state_dict()), dict(whole.state_dict()))


@pytest.mark.parametrize("jit", [False, True], ids=["eager", "jit"])
class TestState:
    def call(self, jit: bool, f: Any, *args: Any, **options: Any) -> Any:
        mapped = shard_map(f, mesh=mesh(), **options)
        return (jm.jit(mapped) if jit else mapped)(*args)

    def test_sync_batchnorm_is_batchnorm_of_the_whole_batch(self, jit: bool) -> None:
        whole, parts = nn.BatchNorm1d(3), nn.SyncBatchNorm(3, process_group="data")
        out = self.call(jit, lambda m, x: m(x), parts, X, in_specs=(P(), P("data")), out_specs=P("data"))
        same(out, whole(X))
        same(dict(parts.state_dict()), dict(whole.state_dict()))

    def test_state_comes_back_by_its_spec(self, jit: bool) -> None:
        class Rows(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.weight = nn.Parameter(jnp.arange(24.0).reshape(8, 3))
                self.calls = nn.Buffer(jnp.zeros((), jnp.int32))
                self.seen = {"sum": jnp.zeros((4,))}

            def forward(self, x: jax.Array) -> jax.Array:
                assert self.weight.shape == (2, 3)
                self.calls += 1
                self.weight.value = self.weight + x
                self.seen["sum"] = self.seen["sum"] + self.weight.value.sum(keepdims=True)[0]
                return self.weight.value

        model = Rows()
        before = model.weight.value
        spec = {"weight": P("data"), "se*": P("data"), "*": P()}
        out = self.call(jit, lambda m, x: m(x), model, X, in_specs=(spec, P("data")), out_specs=P("data"))
        same(out, before + X)
        same(model.weight.value, before + X)
        same(model.seen["sum"], (before + X).reshape(4, -1).sum(1))
        assert int(model.calls) == 1

    def test_what_is_closed_over(self, jit: bool) -> None:
        model, counter = nn.Linear(3, 2), nn.Buffer(jnp.zeros((), jnp.int32))

        def f(x: jax.Array) -> jax.Array:
            counter.value = counter + 1
            return model(x)

        specs: dict[str, Any] = {"mesh": mesh(), "in_specs": P("data"), "out_specs": P("data")}
        run = shard_map(f, **specs)
        for calls in (1, 2):  # the second time the counter is laid out on the mesh
            found = jm.jit(lambda model, counter, x: run(x))(model, counter, X) if jit else run(X)
            same(found, model(X))
            assert int(counter) == calls
        on_mesh = jax.sharding.NamedSharding(mesh(), P())
        for parameter in model.parameters():
            parameter.value = jax.device_put(parameter.value, on_mesh)
        found = jm.jit(lambda model, counter, x: run(x))(model, counter, X) if jit else run(X)
        same(found, model(X))

        def gradient(model: nn.Module) -> Any:
            return jm.grad(lambda m: (shard_map(lambda x: m(x), **specs)(X) ** 2).sum())(model)

        same((jm.jit(gradient) if jit else gradient)(model), jm.grad(lambda m: (m(X) ** 2).sum())(model))

    def test_gradients_inside_without_a_mean_are_sums(self, jit: bool) -> None:
        model = nn.Linear(3, 2)
        found = self.call(jit, lambda m, x, y: jm.grad(loss_of)(m, x, y), model, X, Y, **SPECS)
        same(found, jax.tree.map(lambda g: DEVICES * g, jm.grad(loss_of)(model, X, Y)))

    def test_randomness(self, jit: bool) -> None:
        drop, x = nn.Dropout(0.5), jnp.ones((DEVICES, 64))

        def draw(**options: Any) -> Any:
            jm.manual_seed(0)
            specs: dict[str, Any] = {"in_specs": (P(), P("data")), "out_specs": P("data")}
            first = self.call(jit, lambda m, x: m(x), drop, x, **specs, **options)
            return first, jm.get_rng_state(), self.call(jit, lambda m, x: m(x), drop, x, **specs, **options)

        first, state, second = draw()
        assert len({tuple(row) for row in np.asarray(first).tolist()}) == DEVICES
        assert not jnp.array_equal(first, second)
        equal, after, _ = draw(randomness="same")
        jm.manual_seed(0)
        same(equal, jnp.broadcast_to(drop(x[:1]), x.shape))
        same(after, jm.get_rng_state())
        same(state, after)  # either way one draw
        jm.manual_seed(0)
        same(jm.vmap(lambda x: drop(x))(x), first)  # a device is a lane

    def test_captured_values_have_the_devices_first(self, jit: bool) -> None:
        model = nn.Sequential(nn.Linear(3, 2))
        with jm.capture(model, "0") as acts:
            self.call(jit, lambda m, x: m(x), model, X, in_specs=(P(), P("data")), out_specs=P("data"))
        same(acts["0"].reshape(8, 2), model(X))

    def test_devices_that_disagree_are_refused(self, jit: bool) -> None:
        local = nn.Sequential(nn.BatchNorm1d(3))
        with pytest.raises(jm.StateError, match=r"its spec .* says that it is the same(.|\n)*SyncBatchNorm"):
            self.call(jit, lambda m, x: m(x), local, X, in_specs=(P(), P("data")), out_specs=P("data"))
        seen = nn.Buffer(jnp.zeros(()))

        def f(seen: Any, x: jax.Array, replicated: bool) -> jax.Array:
            def write(x: jax.Array) -> jax.Array:
                seen.value = jnp.zeros(()) if replicated else x.sum()
                return x

            specs: dict[str, Any] = {"in_specs": P("data"), "out_specs": P("data"), "check_vma": not replicated}
            return shard_map(write, mesh=mesh(), **specs)(x)

        for replicated, message in ((False, "each would write another value"), (True, "nobody checks")):
            with pytest.raises(jm.StateError, match=f"{message}(.|\n)*as an argument with a spec"):
                (jm.jit(f, static_argnums=2) if jit else f)(seen, X, replicated)
        assert int(local[0].num_batches_tracked) == 0
        assert float(seen) == 0


def test_two_axes_and_a_manual_one() -> None:
    model = nn.Linear(3, 2)
    rows = mesh((2, 2), ("data", "model"))
    spec: dict[str, Any] = {"in_specs": ({"*": P("model")}, P("data")), "out_specs": P("data", "model")}
    same(jm.jit(shard_map(lambda m, x: m(x), mesh=rows, **spec))(model, X), model(X))
    partly = shard_map(
        lambda m, x: m(x), mesh=rows, in_specs=(P(), P("data")), out_specs=P("data"), axis_names={"data"}
    )
    same(jm.jit(partly)(model, X), model(X))


def test_as_a_decorator_and_with_objects_in_results() -> None:
    model = nn.Linear(3, 2)

    @shard_map(mesh=mesh(), in_specs=P(), out_specs=P())
    def f(args: Any) -> Any:
        return args["model"], args["model"].bias

    found, bias = f({"model": model})
    assert found is model
    same(bias, model.bias.value)


def test_gradients_into_grad() -> None:
    model, twin = nn.Linear(3, 2), nn.Linear(3, 2)
    twin.load_state_dict(model.state_dict())
    jm.jit(shard_map(lambda m, x, y: jm.backward(mean_loss)(m, x, y), mesh=mesh(), **SPECS))(model, X, Y)
    jm.backward(loss_of)(twin, X, Y)
    same(model.weight.grad, twin.weight.grad)


@pytest.mark.parametrize("kind", ["vjp", "jvp"])
def test_a_rule_of_ones_own_inside(kind: str) -> None:
    """The gradient of what is the same on all devices is the sum over them, as without a rule."""
    model, weight = nn.Linear(3, 2), jnp.stack([2 * X.sum(0)] * 2)
    f: Any = {"vjp": custom_vjp, "jvp": custom_jvp}[kind](lambda m, x: m(x))
    if kind == "vjp":
        f.defvjp(lambda m, x: (m(x), x), lambda x, g: ({"weight": 2 * g.T @ x}, jnp.ones((2, 3))))
    else:
        f.defjvp(lambda p, t: (f(*p), 2 * (p[1] @ t[0]["weight"].T)))

    def loss(m: nn.Module, x: jax.Array, y: jax.Array) -> jax.Array:
        return jax.lax.psum(f(m, x).sum(), "data")

    same(jm.jit(jm.grad(shard_map(loss, mesh=mesh(), **SPECS)))(model, X, Y)["weight"], weight)
    same(jm.jit(shard_map(jm.grad(loss), mesh=mesh(), **SPECS))(model, X, Y)["weight"], weight)
    of_x = jm.jit(jm.grad(shard_map(loss, mesh=mesh(), **SPECS), 1))(model, X, Y)
    same(of_x, jnp.ones_like(X) if kind == "vjp" else jnp.zeros_like(X))


def test_inside_a_scan_and_around_one() -> None:
    whole, parts = both()
    xs = jnp.stack([X, 2 * X])

    @jm.jit
    def inside(model: nn.Module, xs: jax.Array) -> jax.Array:
        call = shard_map(lambda m, x: m(x), mesh=mesh(), in_specs=(P(), P("data")), out_specs=P("data"))
        return jm.scan(lambda c, x: (c, call(model, x)), None, xs)[1]

    @jm.jit
    def around(model: nn.Module, xs: jax.Array) -> jax.Array:
        scanned = lambda m, xs: jm.scan(lambda c, x: (c, m(x)), None, xs)[1]  # noqa: E731
        spec = P(None, "data")
        return shard_map(scanned, mesh=mesh(), in_specs=(P(), spec), out_specs=spec)(model, xs)

    for function in (inside, around):
        expected = jnp.stack([whole(x) for x in xs])
        same(function(parts, xs), expected)
        same(dict(parts.state_dict()), dict(whole.state_dict()), 1e-4)


class TestSpecs:
    def run(self, *in_specs: Any, args: Any = None) -> None:
        args = (nn.Linear(3, 2), X) if args is None else args
        shard_map(lambda *a: jnp.zeros(()), mesh=mesh(), in_specs=in_specs, out_specs=P())(*args)

    def test_errors(self) -> None:
        with pytest.raises(ValueError, match=r"the pattern 'wieght', which fits no name .*\['weight', 'bias'\]"):
            self.run({"wieght": P(), "*": P()}, P())
        with pytest.raises(ValueError, match="in_specs has no pattern that fits 'bias' of Linear"):
            self.run({"weight": P()}, P())
        with pytest.raises(TypeError, match="in_specs of a Linear must be a PartitionSpec or a dict of those, got 0"):
            self.run(0, P())
        with pytest.raises(TypeError, match="in_specs of an array must be a PartitionSpec, got None"):
            self.run(P(), None)
        with pytest.raises(ValueError, match="in_specs must be a prefix of the arguments"):
            self.run(P())
        model = nn.Linear(4, 4)
        with pytest.raises(ValueError, match="reached from two arguments, with "):
            self.run(P(), P("data"), args=(model, {"again": model}))
        with pytest.raises(ValueError, match='randomness must be "different" or "same"'):
            shard_map(lambda x: x, mesh=mesh(), in_specs=P(), out_specs=P(), randomness="error")  # pyright: ignore


def test_dropout_in_a_scan_differs_between_devices_and_iterations() -> None:
    drop, x = nn.Dropout(0.5), jnp.ones((3, 4, 64))

    def run(rows: jax.Array) -> jax.Array:
        return jm.scan(lambda c, row: (c, drop(row)), None, rows)[1]

    spec = jax.sharding.PartitionSpec(None, "data")
    masks = jm.shard_map(run, mesh=mesh(), in_specs=spec, out_specs=spec)(x)
    assert len({tuple(row) for row in np.asarray(masks).reshape(12, 64).tolist()}) == 12

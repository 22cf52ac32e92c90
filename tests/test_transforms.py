"""The transforms other than jit and grad: results, written state and random numbers are those of plain Python."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmodule as jm
from jaxmodule import nn
from jaxmodule.nn import functional as F


def same(a: Any, b: Any, **tolerance: float) -> None:
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **{"rtol": 1e-5, "atol": 1e-6, **tolerance}), a, b)


class Net(nn.Module):
    """Parameters, statistics, dropout, a plain array and a container."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 3, bias=False)  # before a normalisation a bias has no gradient but rounding
        self.norm = nn.BatchNorm1d(3)
        self.drop = nn.Dropout(0.3)
        self.count = jnp.zeros((), jnp.int32)
        self.cache = {"last": jnp.zeros((4, 3))}

    def forward(self, x: jax.Array) -> jax.Array:
        self.count = self.count + 1
        x = self.drop(self.norm(self.fc(x)))
        self.cache["last"] = x
        return x


def state(model: nn.Module) -> dict[str, Any]:
    return {**model.state_dict(), "count": model.count, "last": model.cache["last"], "rng": jm.get_rng_state()}


@pytest.fixture
def data() -> jax.Array:
    return jax.random.normal(jax.random.key(1), (5, 4, 3))


def fresh() -> Net:
    jm.manual_seed(0)
    return Net()


@pytest.mark.parametrize("jit", [False, True], ids=["eager", "jit"])
class TestLoops:
    def run(self, jit: bool, step: Any) -> tuple[Any, dict[str, Any]]:
        model = fresh()
        out = (jm.jit(step) if jit else step)(model)
        return out, state(model)

    def test_scan(self, jit: bool, data: jax.Array) -> None:
        def by_hand(model: Net) -> Any:
            ys = [model(x) for x in data]
            return sum(jnp.sum(y) for y in ys), jnp.stack(ys)

        def scanned(model: Net) -> Any:
            def body(total: jax.Array, x: jax.Array) -> Any:
                y = model(x)
                return total + jnp.sum(y), y

            return jm.scan(body, jnp.zeros(()), data)

        same(self.run(jit, scanned), self.run(False, by_hand))

    def test_fori_and_while(self, jit: bool, data: jax.Array) -> None:
        def by_hand(model: Net) -> Any:
            x = data[0]
            for _ in range(3):
                x = jnp.tanh(model(x))
            return x

        def fori(model: Net) -> Any:
            return jm.fori_loop(0, 3, lambda i, x: jnp.tanh(model(x)), data[0])

        def through_while(model: Net) -> Any:
            return jm.while_loop(
                lambda c: c[0] < 3, lambda c: (c[0] + 1, jnp.tanh(model(c[1]))), (jnp.zeros((), int), data[0])
            )[1]

        expected = self.run(False, by_hand)
        same(self.run(jit, fori), expected)
        same(self.run(jit, through_while), expected)

    @pytest.mark.parametrize("chosen", [0, 1])
    def test_cond_and_switch(self, jit: bool, chosen: int, data: jax.Array) -> None:
        def used(model: Net, x: jax.Array) -> jax.Array:
            return model(x)

        def by_hand(model: Net) -> Any:
            return model(data[0]) if chosen else data[0]

        def through_cond(model: Net) -> Any:
            return jm.cond(jnp.asarray(chosen == 1), used, lambda model, x: x, model, data[0])

        def through_switch(model: Net) -> Any:
            return jm.switch(jnp.asarray(chosen), [lambda model, x: x, used, used], model, data[0])

        expected = self.run(False, by_hand)
        same(self.run(jit, through_cond), expected)
        same(self.run(jit, through_switch), expected)

    def test_remat(self, jit: bool, data: jax.Array) -> None:
        def by_hand(model: Net) -> Any:
            return jm.value_and_grad(lambda m: jnp.sum(m(data[0]) ** 2))(model)

        def through_remat(model: Net) -> Any:
            return jm.value_and_grad(lambda m: jnp.sum(jm.remat(m, policy="dots_saveable")(data[0]) ** 2))(model)

        same(self.run(jit, through_remat), self.run(False, by_hand))

    def test_gradients_through_a_scan(self, jit: bool, data: jax.Array) -> None:
        def by_hand(model: Net) -> Any:
            return jm.grad(lambda m: sum(jnp.sum(m(x) ** 2) for x in data))(model)

        def scanned(model: Net) -> Any:
            def loss(m: Net) -> jax.Array:
                return jm.scan(lambda total, x: (total + jnp.sum(m(x) ** 2), None), jnp.zeros(()), data)[0]

            return jm.grad(loss)(model)

        same(self.run(jit, scanned), self.run(False, by_hand), rtol=1e-4, atol=1e-5)

    def test_gradients_inside_a_scan(self, jit: bool, data: jax.Array) -> None:
        """A whole training loop: optimizer, statistics, random numbers."""

        def train(model: Net, x: jax.Array, optimizer: Any) -> jax.Array:
            loss, grads = jm.value_and_grad(lambda m: jnp.mean((m(x) - 1.0) ** 2))(model)
            optimizer.step(grads)
            return loss

        results = []
        for scanned in (False, True):
            model = fresh()
            optimizer = jm.optim.AdamW(model.parameters(), lr=0.1)

            def whole(model: Net, optimizer: Any, scanned: bool = scanned) -> Any:
                if scanned:
                    return jm.scan(lambda c, x: (c, train(model, x, optimizer)), None, data)[1]
                return jnp.stack([train(model, x, optimizer) for x in data])

            losses = jm.jit(whole)(model, optimizer) if jit else whole(model, optimizer)
            results.append((losses, state(model), optimizer.state_dict()["state"]))
        same(results[1], results[0], rtol=1e-4)


def test_a_module_in_the_carry_stays_itself(data: jax.Array) -> None:
    model = fresh()

    def body(carry: Any, x: jax.Array) -> Any:
        module, total = carry
        assert module is model
        return (module, total + jnp.sum(module(x))), None

    (last, _), _ = jm.scan(body, (model, jnp.zeros(())), data)
    assert last is model
    assert int(model.count) == 5


def test_captured_values_of_a_scan_are_stacked(data: jax.Array) -> None:
    model = fresh().eval()
    with jm.capture(model, "fc") as acts:
        jm.jit(lambda model, data: jm.scan(lambda c, x: (c, model(x)), None, data))(model, data)
    same(acts["fc"], jnp.stack([model.fc(x) for x in data]))


def test_an_attribute_first_set_in_a_scan_has_the_last_value(data: jax.Array) -> None:
    class Keeps(nn.Module):
        def forward(self, x: jax.Array) -> jax.Array:
            self.last = x * 2
            return x

    for reverse, expected in ((False, data[-1]), (True, data[0])):
        model = Keeps()
        jm.scan(lambda c, x, model=model: (c, model(x)), None, data, reverse=reverse)
        same(model.last, expected * 2)
        jm.scan(lambda c, x, model=model: (c, model(x)), None, data + 1, reverse=reverse)
        same(model.last, (expected + 1) * 2)


class Alternates(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.flip = False
        self.drop = nn.Dropout()

    def forward(self, x: jax.Array) -> jax.Array:
        self.flip = not self.flip
        return x * 2 if self.flip else x


class Freezes(Alternates):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(jnp.ones(()))

    def forward(self, x: jax.Array) -> jax.Array:
        self.weight.requires_grad_(False)
        return x


class Evaluates(Alternates):
    def forward(self, x: jax.Array) -> jax.Array:
        self.drop.eval()
        return x


class HookedOnce(Alternates):
    def __init__(self) -> None:
        super().__init__()
        self.handle = [self.register_forward_hook(lambda *_: self.handle[0].remove())]

    def forward(self, x: jax.Array) -> jax.Array:
        return x


CHANGES = {Alternates: "'flip' .False -> True", Freezes: "requires_grad", Evaluates: "'training'", HookedOnce: "hooks"}
ONCE_TRACED = {
    "cond": lambda m, x: jm.cond(True, m, lambda x: x, x),
    "cond, not taken": lambda m, x: jm.cond(False, m, lambda x: x, x),
    "switch": lambda m, x: jm.switch(0, [m, lambda x: x], x),
    "scan": lambda m, x: jm.scan(lambda c, _: (m(c), None), x, None, 4),
    "fori_loop": lambda m, x: jm.fori_loop(0, 4, lambda i, c: m(c), x),
    "while_loop": lambda m, x: jm.while_loop(lambda c: c.sum() < 9, m, x),
    "scan_layers": lambda m, x: jm.scan_layers([m, m])(x),
}


@pytest.mark.parametrize("jit", [False, True], ids=["eager", "jit"])
@pytest.mark.parametrize("change", CHANGES, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("how", ONCE_TRACED)
def test_changes_of_structure_that_would_happen_once_are_refused(how: str, change: Any, jit: bool) -> None:
    model = change()
    run = ONCE_TRACED[how]
    before = (model.flip, model.drop.training, len(model._forward_hooks))
    with pytest.raises(jm.StateError, match=f"(?s){CHANGES[change]}.*traced once"):
        (jm.jit(run) if jit else run)(model, jnp.ones(2))
    assert (model.flip, model.drop.training, len(model._forward_hooks)) == before
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("how", [how for how in ONCE_TRACED if how != "scan"])
def test_an_attribute_first_set_in_a_branch_or_a_loop_is_refused(how: str) -> None:
    class Keeps(nn.Module):
        def forward(self, x: jax.Array) -> jax.Array:
            self.last = x * 2
            return x * 2

    model = Keeps()
    call = jm.jit(ONCE_TRACED[how])
    for _ in range(2):
        with pytest.raises(jm.StateError, match="'last' for the first time inside jm"):
            call(model, jnp.ones(2))
    assert not hasattr(model, "last")
    model.last = jnp.zeros(2)
    call(model, jnp.ones(2))


def test_a_change_that_is_undone_inside_is_none(data: jax.Array) -> None:
    model = fresh()

    def body(carry: Any, x: jax.Array) -> Any:
        model.eval()
        y = model(x)
        model.train()
        return carry, y

    ys = jm.scan(body, None, data)[1]
    same(ys, jnp.stack([fresh().eval()(x) for x in data]))


def test_a_scan_over_nothing() -> None:
    model = fresh()
    last, ys = jm.scan(lambda c, x: (c + model(x).sum(), x), jnp.float32(1), jnp.ones((0, 4, 3)))
    assert float(last) == 1
    assert ys.shape == (0, 4, 3)
    assert int(model.count) == 0


def test_a_container_that_changes_its_form_is_named(data: jax.Array) -> None:
    model = fresh()
    model.log = []

    def run(model: Net, data: jax.Array) -> Any:
        def body(carry: Any, x: jax.Array) -> Any:
            model.log.append(x)
            return carry, None

        return jm.scan(body, None, data)

    with pytest.raises(jm.StateError, match=r"'log' of Net: .*a container"):
        jm.jit(run)(model, data)


def test_state_that_changes_its_shape_is_refused(data: jax.Array) -> None:
    class Grows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("seen", jnp.zeros((1,)))

        def forward(self, x: jax.Array) -> jax.Array:
            self.seen = jnp.concatenate([self.seen.value, x[0, :1]])
            return x

    model = nn.Sequential(Grows())
    with pytest.raises(jm.StateError, match=r"writes float32\[2\] to it, which was float32\[1\]"):
        jm.scan(lambda c, x: (c, model(x)), None, data)
    assert model[0].seen.shape == (1,)


def test_a_condition_that_writes_is_refused() -> None:
    counter = nn.Buffer(jnp.zeros(()))

    def test(x: jax.Array) -> jax.Array:
        counter.value = counter + 1
        return x < 3

    with pytest.raises(jm.StateError, match="the condition of jm.while_loop writes it"):
        jm.while_loop(test, lambda x: x + 1, jnp.zeros(()))


def test_capture_in_a_branch_is_refused(data: jax.Array) -> None:
    model = fresh().eval()
    with jm.capture(model, "fc"), pytest.raises(jm.StateError, match=r"inside jm\.cond"):
        jm.cond(True, model, lambda x: x, data[0])


def test_remat_draws_the_same_mask_twice() -> None:
    drop, x = nn.Dropout(0.5), jnp.ones((100,))

    def loss(x: jax.Array) -> jax.Array:
        return jnp.sum(jm.remat(lambda x: drop(x) * x)(x))

    jm.manual_seed(3)
    value, gradient = jax.value_and_grad(lambda x: with_own_rng(loss, x))(x)
    jm.manual_seed(3)
    same(gradient, 2 * with_own_rng(lambda x: drop(x), x))
    same(value, jnp.sum(gradient) / 2)


def with_own_rng(function: Any, x: jax.Array) -> Any:
    with jm.use_rng(3):
        return function(x)


def test_unknown_policy() -> None:
    with pytest.raises(ValueError, match="dots_saveable"):
        jm.remat(lambda x: x, policy="nothing")


class TestVmap:
    def test_a_shared_module(self, data: jax.Array) -> None:
        model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Dropout(0.5)).eval()
        same(jm.vmap(lambda x: model(x))(data), jnp.stack([model(x) for x in data]))

    def test_ensemble_has_state_of_its_own(self, data: jax.Array) -> None:
        jm.manual_seed(0)
        models = [nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)) for _ in range(5)]
        whole = _stacked(models)
        out = jm.vmap(lambda m, x: m(x))(whole, data)
        expected = jnp.stack([m(x) for m, x in zip(models, data, strict=True)])
        same(out, expected)
        for name, value in whole.state_dict().items():
            same(value, jnp.stack([m.state_dict()[name] for m in models]))

    def test_lanes_that_write_to_what_they_share_are_refused(self, data: jax.Array) -> None:
        model = nn.Sequential(nn.BatchNorm1d(3))
        with pytest.raises(jm.StateError, match="the lanes of a jm.vmap share it"):
            jm.vmap(lambda x: model(x))(data)
        assert int(model[0].num_batches_tracked) == 0

    def test_what_is_the_same_in_all_lanes_may_be_written(self, data: jax.Array) -> None:
        counter = nn.Buffer(jnp.zeros((), jnp.int32))

        def count(x: jax.Array) -> jax.Array:
            counter.value = counter + 1
            return x

        jm.vmap(count)(data)
        assert int(counter) == 1

    def test_randomness(self) -> None:
        drop, x = nn.Dropout(0.5), jnp.ones((4, 64))
        jm.manual_seed(0)
        different = jm.vmap(lambda x: drop(x))(x)
        assert len({tuple(row) for row in np.asarray(different).tolist()}) == 4
        again = jm.vmap(lambda x: drop(x))(x)
        assert not jnp.array_equal(again, different)
        jm.manual_seed(0)
        same(jm.jit(lambda drop, x: jm.vmap(lambda x: drop(x))(x))(drop, x), different)
        jm.manual_seed(0)
        equal = jm.vmap(lambda x: drop(x), randomness="same")(x)
        jm.manual_seed(0)
        same(equal, jnp.broadcast_to(drop(x[0]), (4, 64)))
        with pytest.raises(jm.StateError, match="randomness"):
            jm.vmap(lambda x: drop(x), randomness="error")(x)

    def test_axes_by_name(self) -> None:
        layer = nn.Linear(3, 2)
        layer.bias.value = jnp.arange(8.0).reshape(4, 2)
        out = jm.vmap(lambda m, x: m(x), in_axes=({"bias": 0, "*": None}, None))(layer, jnp.zeros(3))
        same(out, layer.bias.value)
        with pytest.raises(ValueError, match="fits no name"):
            jm.vmap(lambda m, x: m(x), in_axes=({"bais": 0}, None))(layer, jnp.zeros(3))

    def test_per_example_gradients(self) -> None:
        model, x = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)), jnp.arange(15.0).reshape(5, 3) / 10

        def gradients(x: jax.Array) -> Any:
            return jm.grad(lambda m: m(x).sum())(model)

        found = jm.vmap(gradients)(x)
        for name, value in found.items():
            same(value, jnp.stack([gradients(row)[name] for row in x]))

    def test_captured_values_have_the_lanes_first(self, data: jax.Array) -> None:
        model = nn.Sequential(nn.Linear(3, 2))
        with jm.capture(model, "0") as acts:
            jm.vmap(lambda x: model(x))(data)
        same(acts["0"], model(data))

    def test_out_axes_and_names(self, data: jax.Array) -> None:
        layer = nn.Linear(3, 2)
        out = jm.vmap(lambda x: (layer(x), jax.lax.psum(1, "lanes")), out_axes=(1, None), axis_name="lanes")(data)
        same(out[0], jnp.swapaxes(layer(data), 0, 1))
        assert int(out[1]) == 5


def _stacked(models: list[Any]) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *models)


def test_sync_batchnorm_over_a_mapped_axis(data: jax.Array) -> None:
    sync, plain = nn.SyncBatchNorm(3, process_group="lanes"), nn.BatchNorm1d(3)
    out = jm.vmap(lambda x: sync(x), axis_name="lanes")(data)
    same(out.reshape(-1, 3), plain(data.reshape(-1, 3)), atol=1e-5)
    same(sync.running_mean.value, plain.running_mean.value)
    same(sync.running_var.value, plain.running_var.value, rtol=1e-4)


def test_functions_of_torchs_spelling(data: jax.Array) -> None:
    """Functional code without modules goes through unchanged."""
    same(jm.vmap(F.relu)(data), jax.vmap(F.relu)(data))


def test_dropout_in_a_scan_under_vmap() -> None:
    """Lanes and iterations all draw other numbers; compiled as eager."""
    drop, x = nn.Dropout(0.5), jnp.ones((3, 4, 64))

    def run(drop: nn.Module, x: jax.Array) -> jax.Array:
        return jm.vmap(lambda rows: jm.scan(lambda c, row: (c, drop(row)), None, rows)[1])(x)

    jm.manual_seed(0)
    masks = run(drop, x)
    assert len({tuple(row) for row in np.asarray(masks).reshape(12, 64).tolist()}) == 12
    jm.manual_seed(0)
    same(jm.jit(run)(drop, x), masks)

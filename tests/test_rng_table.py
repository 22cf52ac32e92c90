"""One table of random numbers: which masks are equal across transforms, which differ, and the state after each."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

import jaxmodule as jm
from jaxmodule import nn

STEPS = 3
WIDTH = 96
ONES = jnp.ones((4, WIDTH))


class Drop(nn.Module):
    """A dropout that draws from the default generator, or from one of its own."""

    def __init__(self, generator: jm.Generator | None = None) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.5)
        self.generator = generator

    def forward(self, x: jax.Array) -> jax.Array:
        with contextlib.nullcontext() if self.generator is None else jm.use_rng(self.generator):
            return self.drop(x)


class Layers(nn.Module):
    """Dropouts in a row, which all draw from one place: a mask of `scan_layers` is the product of its layers'."""

    def __init__(self, like: Drop) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Seen(like.generator) for _ in range(STEPS))


class Seen(Drop):
    """Keeps its own mask."""

    def __init__(self, generator: jm.Generator | None = None) -> None:
        super().__init__(generator)
        self.mask = jnp.zeros(ONES.shape)

    def forward(self, x: jax.Array) -> jax.Array:
        self.mask = super().forward(jnp.ones_like(x))
        return x * self.mask


def mask(m: Drop, x: jax.Array = ONES) -> jax.Array:
    return m(x)


def gradient(f: Callable[[jax.Array], jax.Array]) -> jax.Array:
    """The mask as the backward pass knows it."""
    return jm.grad(lambda x: jnp.sum(f(x)))(ONES)


def both_passes(f: Callable[[jax.Array], jax.Array]) -> jax.Array:
    """The mask, after a check that it is the same in the backward pass."""

    def loss(x: jax.Array) -> Any:
        y = f(x)
        return jnp.sum(y * jax.lax.stop_gradient(y)), y  # its gradient is mask * y, which is mask² at x = 1

    backward, forward = jm.grad(loss, has_aux=True)(ONES)
    return jnp.where(backward == forward * forward, forward, jnp.nan)


def in_layers(m: Drop, run: Callable[[Layers, jax.Array], Any]) -> jax.Array:
    layers = Layers(m)
    run(layers, ONES)
    return jnp.stack([layer.mask for layer in layers.layers])


def layer_loop(layers: Layers, x: jax.Array) -> jax.Array:
    for layer in layers.layers:
        x = layer(x)
    return x


def remat_in_layers(how: Any) -> Callable[[Drop], jax.Array]:
    """Masks that the backward pass computes again: with the product of the others known, each gradient tells them."""

    def run(m: Drop) -> jax.Array:
        layers = Layers(m)

        def loss(x: jax.Array, layers: Layers) -> jax.Array:
            return jnp.sum(jm.scan_layers(layers.layers, **how)(x))

        found = jm.jit(lambda layers, x: jm.grad(loss)(x, layers))(layers, ONES)
        masks = jnp.stack([layer.mask for layer in layers.layers])
        return jnp.where(found == jnp.prod(masks, axis=0), masks, jnp.nan)

    return run


def sharded(m: Drop, devices: int) -> jax.Array:
    """One mask of a batch that lies on some devices."""
    mesh = jax.sharding.Mesh(jax.devices()[:devices], ("batch",))
    return jm.jit(mask)(m, jax.device_put(ONES, NamedSharding(mesh, PartitionSpec("batch"))))


# Each gives STEPS masks one after the other, equal to the Python loop's to the bit.
THE_LOOPS: dict[str, Callable[[Drop], Any]] = {
    "eager": lambda m: jnp.stack([mask(m) for _ in range(STEPS)]),
    "jit": lambda m: jnp.stack([jm.jit(mask)(m) for _ in range(STEPS)]),
    "one jit": jm.jit(lambda m: jnp.stack([mask(m) for _ in range(STEPS)])),
    "grad": lambda m: jnp.stack([gradient(m) for _ in range(STEPS)]),
    "grad, both passes": lambda m: jnp.stack([both_passes(m) for _ in range(STEPS)]),
    "grad in jit": jm.jit(lambda m: jnp.stack([both_passes(m) for _ in range(STEPS)])),
    "scan": lambda m: jm.scan(lambda c, _: (c, mask(m)), None, length=STEPS)[1],
    "scan in jit": jm.jit(lambda m: jm.scan(lambda c, _: (c, mask(m)), None, length=STEPS)[1]),
    "scan unrolled": lambda m: jm.scan(lambda c, _: (c, mask(m)), None, length=STEPS, unroll=2)[1],
    "grad in scan": jm.jit(lambda m: jm.scan(lambda c, _: (c, both_passes(m)), None, length=STEPS)[1]),
    "fori_loop": lambda m: jm.fori_loop(0, STEPS, lambda i, out: out.at[i].set(mask(m)), jnp.zeros((STEPS, 4, WIDTH))),
    "while_loop": lambda m: jm.while_loop(
        lambda c: c[0] < STEPS, lambda c: (c[0] + 1, c[1].at[c[0]].set(mask(m))), (0, jnp.zeros((STEPS, 4, WIDTH)))
    )[1],
    "cond": lambda m: jnp.stack([jm.cond(i >= 0, mask, lambda m: mask(m) * 0, m) for i in range(STEPS)]),
    "switch": lambda m: jnp.stack([jm.switch(1, [lambda m: ONES, mask], m) for _ in range(STEPS)]),
    "remat": lambda m: jnp.stack([jm.remat(m)(ONES) for _ in range(STEPS)]),
    "remat, both passes": lambda m: jnp.stack([both_passes(jm.remat(m)) for _ in range(STEPS)]),
    "remat in grad in jit": jm.jit(lambda m: jnp.stack([both_passes(jm.remat(m)) for _ in range(STEPS)])),
    "remat that saves nothing": jm.jit(
        lambda m: jnp.stack([gradient(jm.remat(m, policy="nothing_saveable")) for _ in range(STEPS)])
    ),
    "vmap same": lambda m: jnp.stack(
        [jm.vmap(lambda _: mask(m), randomness="same")(jnp.zeros(2))[1] for _ in range(STEPS)]
    ),
    "layers": lambda m: in_layers(m, layer_loop),
    "scan_layers": lambda m: in_layers(m, lambda layers, x: jm.scan_layers(layers.layers)(x)),
    "scan_layers in jit": lambda m: in_layers(m, jm.jit(lambda layers, x: jm.scan_layers(layers.layers)(x))),
    "scan_layers stack": lambda m: in_layers(m, lambda layers, x: jm.scan_layers(layers.layers, weights="stack")(x)),
    "scan_layers remat": remat_in_layers({"remat": True}),
    "scan_layers remat stack": remat_in_layers({"remat": True, "weights": "stack"}),
    "scan_layers remat policy": remat_in_layers({"remat": "nothing_saveable"}),
    "one device": lambda m: jnp.stack([np.asarray(sharded(m, 1)) for _ in range(STEPS)]),
    "four devices": lambda m: jnp.stack([np.asarray(sharded(m, 4)) for _ in range(STEPS)]),
}

# Each gives STEPS masks made at once: all different, from each other and from the loop's. One draw for all of them.
AT_ONCE: dict[str, Callable[[Drop], Any]] = {
    "vmap": lambda m: jm.vmap(lambda _: mask(m))(jnp.zeros(STEPS)),
    "vmap in jit": jm.jit(lambda m: jm.vmap(lambda _: mask(m))(jnp.zeros(STEPS))),
    "vmap of grad": lambda m: jm.vmap(lambda _: both_passes(m))(jnp.zeros(STEPS)),
    "grad of vmap": lambda m: jm.grad(
        lambda x: jnp.sum(jm.vmap(m)(x)),
    )(jnp.broadcast_to(ONES, (STEPS, 4, WIDTH))),
    "vmap of jit": lambda m: jm.vmap(lambda _: jm.jit(mask)(m))(jnp.zeros(STEPS)),
    "vmap of remat": lambda m: jm.vmap(lambda _: both_passes(jm.remat(m)))(jnp.zeros(STEPS)),
    "vmap of a scan": lambda m: jm.vmap(lambda _: jm.scan(lambda c, _: (c, mask(m)), None, length=1)[1][0])(
        jnp.zeros(STEPS)
    ),
}

WITH_EVERY_SOURCE = frozenset(
    {
        *("eager", "one jit", "grad in jit", "scan in jit", "while_loop", "cond", "remat in grad in jit"),
        *("vmap same", "scan_layers in jit", "scan_layers remat", "four devices", "vmap in jit", "vmap of remat"),
    }
)


# Where a model draws from: the model, the block that it runs in, the generator; each seeded alike.
def of_default() -> tuple[Drop, Any, jm.Generator]:
    return Drop(), contextlib.nullcontext(), jm.manual_seed(7)


def of_own() -> tuple[Drop, Any, jm.Generator]:
    generator = jm.Generator(7)
    return Drop(generator), contextlib.nullcontext(), generator


def of_block() -> tuple[Drop, Any, jm.Generator]:
    generator = jm.Generator(7)
    return Drop(), jm.use_rng(generator), generator


def drawn(run: Callable[[Drop], Any], source: Callable[[], Any]) -> tuple[np.ndarray, np.ndarray]:
    """The masks, and the state of the generator after them."""
    other = jm.get_rng_state()
    model, block, generator = source()
    with block:
        masks = np.asarray(run(model))
    assert set(np.unique(masks)) == {0.0, 2.0}, "a mask of dropout(0.5), the same in both passes"
    if source is not of_default:
        np.testing.assert_array_equal(jm.get_rng_state(), other, err_msg="the default generator is none the wiser")
    return masks, np.asarray(generator.get_state())


def rows(table: dict[str, Any]) -> Any:
    """Every row with the default generator, some with the others too."""
    others = [(name, source) for name in table if name in WITH_EVERY_SOURCE for source in (of_own, of_block)]
    return pytest.mark.parametrize(("name", "source"), [*[(name, of_default) for name in table], *others])


@pytest.fixture(scope="module")
def by_hand() -> tuple[np.ndarray, np.ndarray]:
    """The eager loop's masks and state."""
    return drawn(THE_LOOPS["eager"], of_own)


@rows(THE_LOOPS)
def test_what_is_the_loops(name: str, source: Any, by_hand: tuple[np.ndarray, np.ndarray]) -> None:
    masks, state = drawn(THE_LOOPS[name], source)
    np.testing.assert_array_equal(masks, by_hand[0])
    np.testing.assert_array_equal(state, by_hand[1])
    assert state[-1] == STEPS
    assert len({m.tobytes() for m in masks}) == STEPS, "each another"


@pytest.fixture(scope="module")
def lanes() -> np.ndarray:
    return drawn(AT_ONCE["vmap"], of_own)[0]


@rows(AT_ONCE)
def test_what_is_made_at_once(
    name: str, source: Any, by_hand: tuple[np.ndarray, np.ndarray], lanes: np.ndarray
) -> None:
    masks, state = drawn(AT_ONCE[name], source)
    assert len({m.tobytes() for m in (*masks, *by_hand[0])}) == 2 * STEPS
    np.testing.assert_array_equal(masks, lanes)
    assert state[-1] == 1
    np.testing.assert_array_equal(state[:-1], by_hand[1][:-1])


@pytest.mark.parametrize("name", ["eager", "one jit", "scan in jit", "vmap in jit", "scan_layers in jit"])
def test_the_same_seed_gives_the_same_bits(name: str) -> None:
    run = {**THE_LOOPS, **AT_ONCE}[name]
    model = Drop(jm.Generator(3))
    masks = [np.asarray(run(model))]
    for seed in (3, 4, 3):
        model.generator.manual_seed(seed)  # pyright: ignore
        masks.append(np.asarray(run(model)))
    np.testing.assert_array_equal(masks[1], masks[0])
    np.testing.assert_array_equal(masks[3], masks[0])
    assert not np.array_equal(masks[2], masks[0])
    state = model.generator.get_state()  # pyright: ignore
    after = run(model)
    model.generator.set_state(state)  # pyright: ignore
    np.testing.assert_array_equal(run(model), after)


def test_a_draw_is_a_fold_of_the_counter_into_the_key() -> None:
    """The contract that every row of the table rests on."""
    generator, key = jm.Generator(7), jax.random.key(7)
    for i in range(STEPS):
        assert generator.next_key() == jax.random.fold_in(key, i)


def test_consecutive_calls_of_a_vmap_differ() -> None:
    model = Drop(jm.Generator(7))
    calls = [np.asarray(AT_ONCE["vmap"](model)) for _ in range(3)]
    assert len({m.tobytes() for masks in calls for m in masks}) == 3 * STEPS


def test_the_default_generator_goes_on_where_a_block_ends() -> None:
    jm.manual_seed(7)
    model = Drop()
    first = mask(model)
    with jm.use_rng(11) as inner:
        other = mask(model)
        assert inner.get_state()[-1] == 1
    second = mask(model)
    expected = drawn(THE_LOOPS["eager"], of_own)[0]
    np.testing.assert_array_equal(jnp.stack([first, second]), expected[:2])
    assert not any(np.array_equal(other, row) for row in expected)


def test_a_block_inside_a_compiled_function_is_that_functions() -> None:
    """The seed is compiled in, so each call draws the same; the default generator is not touched."""

    @jm.jit
    def call(m: Drop, x: jax.Array) -> Any:
        with jm.use_rng(7):
            return mask(m, x), mask(m, x)

    model, before = Drop(), jm.get_rng_state()
    first, again = call(model, ONES), call(model, ONES)
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(jnp.stack(first), drawn(THE_LOOPS["eager"], of_own)[0][:2])
    np.testing.assert_array_equal(jm.get_rng_state(), before)


def test_two_generators_in_one_program() -> None:
    a, b = Drop(jm.Generator(7)), Drop(jm.Generator(8))
    call = jm.jit(lambda a, b: (mask(a), mask(b), mask(a)))
    one, other, two = call(a, b)
    np.testing.assert_array_equal(jnp.stack([one, two]), drawn(THE_LOOPS["eager"], of_own)[0][:2])
    np.testing.assert_array_equal(other, mask(Drop(jm.Generator(8))))
    assert (a.generator.get_state()[-1], b.generator.get_state()[-1]) == (2, 1)


@pytest.mark.parametrize("jit", [False, True], ids=["eager", "jit"])
def test_only_the_branch_that_runs_draws(jit: bool) -> None:
    def either(m: Drop, pred: jax.Array) -> jax.Array:
        return jm.cond(pred, mask, lambda m: ONES * 1, m)

    call = jm.jit(either) if jit else either
    model = Drop(jm.Generator(7))
    assert bool((call(model, jnp.asarray(False)) == 1).all())
    assert model.generator.get_state()[-1] == 0
    np.testing.assert_array_equal(call(model, jnp.asarray(True)), drawn(THE_LOOPS["eager"], of_own)[0][0])
    assert model.generator.get_state()[-1] == 1


MASKS_OF_DEVICES = """
import hashlib, jax, numpy as np, jaxmodule as jm
from jax.sharding import NamedSharding, PartitionSpec
from jaxmodule.nn import functional as F
jm.manual_seed(7)
mesh = jax.make_mesh((len(jax.devices()),), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
x = jax.device_put(np.ones((8, 96), np.float32), NamedSharding(mesh, PartitionSpec("batch")))
masks = [F.dropout(x), jm.jit(F.dropout)(x), jm.vmap(F.dropout)(x)]
masks += [jm.jit(lambda x: jm.scan(lambda c, x: (c, F.dropout(x)), None, x)[1])(x)]
masks += [jm.grad(lambda x: jm.remat(F.dropout)(x).sum())(x)]
print(len(jax.devices()), *(hashlib.sha256(np.asarray(m).tobytes()).hexdigest() for m in masks))
"""


def test_one_and_eight_devices_draw_the_same() -> None:
    def run(devices: int) -> list[str]:
        env = {**os.environ, "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
        done = subprocess.run([sys.executable, "-c", MASKS_OF_DEVICES], env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.split()

    one, eight = run(1), run(8)
    assert (one[0], eight[0]) == ("1", "8")
    assert one[1:] == eight[1:]
    assert len(set(one)) == 6


def test_the_sharding_of_a_batch_stays() -> None:
    out = sharded(Drop(jm.Generator(7)), 4)
    assert out.sharding.spec[0] == "batch"
    assert len(out.sharding.device_set) == 4
    np.testing.assert_array_equal(out, sharded(Drop(jm.Generator(7)), 1))


class Attended(nn.Module):
    """Attention with dropout; long sequences go another way than short ones."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self.length = length

    def forward(self, x: jax.Array) -> jax.Array:
        q = jnp.sin(x[:, None, :1] * jnp.arange(1.0, self.length + 1)[None, :, None])
        return nn.functional.scaled_dot_product_attention(q, q, q, dropout_p=0.5)


class SelfAttended(nn.MultiheadAttention):
    def forward(self, x: jax.Array) -> Any:  # pyright: ignore
        return super().forward(x, x, x)[0]


ON_A_MESH: dict[str, Callable[[], nn.Module]] = {
    "dropout": lambda: nn.Dropout(0.5),
    "attention": lambda: Attended(8),
    "attention in blocks": lambda: Attended(1024),
    "MultiheadAttention": lambda: SelfAttended(64, 2, dropout=0.5, batch_first=True),
}


@pytest.mark.parametrize("what", ON_A_MESH)
def test_dropout_of_an_array_on_a_mesh_with_explicit_axes(what: str) -> None:
    """The mask is that of the same array on one device."""
    model, x = ON_A_MESH[what](), jnp.linspace(-1.0, 1.0, 1024).reshape(4, 4, 64)
    x = x if what == "MultiheadAttention" else x[:, 0]
    mesh = jax.make_mesh((4,), ("rows",), axis_types=(jax.sharding.AxisType.Explicit,))
    spread = jax.device_put(x, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("rows")))
    call = jm.jit(lambda model, x: model(x))
    jm.manual_seed(0)
    expected = call(model, x)
    jm.manual_seed(0)
    np.testing.assert_allclose(jax.device_get(call(model, spread)), expected, rtol=1e-5, atol=1e-5)

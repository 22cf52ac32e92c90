"""`jm.scan_layers`: the loop's results, gradients, state, random numbers and names, compiled once."""

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


class Block(nn.Module):
    """Statistics, dropout, a residual, and an argument that all layers share."""

    def __init__(self, shared: nn.Module | None = None) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.norm = nn.BatchNorm1d(4)
        self.drop = nn.Dropout(0.2)
        self.shared = shared
        self.calls = jnp.zeros((), jnp.int32)

    def forward(self, x: jax.Array, scale: Any = 1.0) -> jax.Array:
        self.calls = self.calls + 1
        y = self.drop(F.gelu(self.norm(self.fc(x))))
        return x + y * scale if self.shared is None else x + self.shared(y) * scale


class Net(nn.Module):
    def __init__(self, depth: int = 4, shared: bool = False) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4) if shared else None
        self.blocks = nn.ModuleList(Block(self.inner) for _ in range(depth))

    def forward(self, x: jax.Array, scale: Any, how: Any) -> jax.Array:
        if how is None:
            for block in self.blocks:
                x = block(x, scale)
            return x
        return jm.scan_layers(self.blocks, **how)(x, scale)


HOW = {
    "select": {},
    "remat": {"remat": True},
    "policy": {"remat": "dots_saveable"},
    "stack": {"weights": "stack"},
    "unroll": {"unroll": 2},
}
every_way = pytest.mark.parametrize("how", HOW.values(), ids=HOW)


def run(how: Any, shared: bool = False, jit: bool = True, training: bool = True) -> Any:
    jm.manual_seed(0)
    model = Net(shared=shared).train(training)
    x, scale = jax.random.normal(jax.random.key(1), (6, 4)), jnp.full((1, 4), 0.7)

    def step(model: Net, x: jax.Array, scale: jax.Array) -> Any:
        return jm.value_and_grad(lambda m, x, s: jnp.sum(m(x, s, how) ** 2), argnums=(0, 1, 2))(model, x, scale)

    value, (of_model, *others) = (jm.jit(step) if jit else step)(model, x, scale)
    calls = [block.calls for block in model.blocks]
    return value, dict(of_model), others, model.state_dict(), calls, jm.get_rng_state()


@every_way
@pytest.mark.parametrize("shared", [False, True], ids=["own", "shared"])
def test_equals_the_loop(how: Any, shared: bool) -> None:
    """Outputs, gradients of every layer, of the input and of a closed-over array; statistics, plain state, the RNG."""
    same(run(how, shared), run(None, shared), rtol=2e-5, atol=1e-5)


def test_eager_and_eval() -> None:
    same(run({}, jit=False), run(None), rtol=2e-5, atol=1e-5)
    same(run({}, training=False), run(None, training=False), rtol=2e-5, atol=1e-5)


def test_frozen_layers_have_no_gradient() -> None:
    model = Net()
    for name, parameter in model.named_parameters():
        parameter.requires_grad = "norm" in name
    x = jnp.ones((3, 4))
    found, expected = (jm.grad(lambda m, how=how: jnp.sum(m.eval()(x, 1.0, how) ** 2))(model) for how in ({}, None))
    assert set(found) == {f"blocks.{i}.norm.{name}" for i in range(4) for name in ("weight", "bias")}
    same(found, expected)


def test_training_with_an_optimizer() -> None:
    results = []
    for how in (None, {"remat": True}):
        jm.manual_seed(0)
        model = Net()
        optimizer = jm.optim.SGD(model.named_parameters(), lr=0.05, momentum=0.9)

        @jm.jit
        def step(model: Net, optimizer: Any, x: jax.Array, how: Any = how) -> jax.Array:
            loss, grads = jm.value_and_grad(lambda m: jnp.mean((m(x, 1.0, how) - 1) ** 2))(model)
            optimizer.step(grads)
            return loss

        losses = [step(model, optimizer, jax.random.normal(jax.random.key(i), (5, 4))) for i in range(4)]
        results.append((losses, model.state_dict(), optimizer.state_dict()["state"]))
    same(results[1], results[0], rtol=1e-4, atol=1e-5)


def test_aux_outputs_are_stacked() -> None:
    class WithAux(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(3, 3)

        def forward(self, x: jax.Array) -> Any:
            y = self.fc(x)
            return y, {"mean": jnp.mean(y), "count": jnp.int32(2)}

    layers, x = nn.Sequential(*[WithAux() for _ in range(3)]), jnp.ones((2, 3))

    def scanned(layers: Any, x: jax.Array) -> Any:
        return jm.scan_layers(layers, has_aux=True)(x)

    def loop(layers: Any, x: jax.Array) -> Any:
        auxes = []
        for layer in layers:
            x, aux = layer(x)
            auxes.append(aux)
        return x, jax.tree.map(lambda *a: jnp.stack(a), *auxes)

    same(scanned(layers, x), loop(layers, x))
    found, expected = (
        jm.grad(lambda m, f=f: jnp.sum(f(m, x)[1]["mean"] * jnp.arange(3.0)))(layers) for f in (scanned, loop)
    )
    same(found, expected)


def test_captured_values_have_the_layers_names() -> None:
    model, x = Net().eval(), jnp.ones((2, 4))
    with jm.capture(model, "blocks.*.fc") as expected:
        model(x, 1.0, None)
    with jm.capture(model, "blocks.*.fc") as found:
        jm.jit(lambda m, x: m(x, 1.0, {}))(model, x)
    assert set(found) == set(expected)
    same(dict(found), dict(expected))
    with jm.capture(model, "blocks.2.fc") as one:
        model(x, 1.0, {})
    assert list(one) == ["blocks.2.fc"]
    same(one["blocks.2.fc"], expected["blocks.2.fc"])


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda blocks: setattr(blocks[2].drop, "p", 0.5), r"layers 0 and 2 differ in .*drop.*p"),
        (lambda blocks: blocks[1].eval(), r"layers 0 and 1 differ in .*"),
        (lambda blocks: blocks[3].fc.weight.requires_grad_(False), r"layers 0 and 3 differ in .*fc\.weight"),
        (lambda blocks: blocks.append(nn.Linear(4, 4)), r"layers 0 and 4 differ in .*"),
        (lambda blocks: setattr(blocks[1], "fc", nn.Linear(4, 4, bias=False)), r"layers 0 and 1 differ in .*fc.*"),
        (
            lambda blocks: setattr(blocks[1].fc, "weight", nn.Parameter(jnp.ones((4, 5)))),
            r"fc\.weight is float32\[4, 4\]",
        ),
        (lambda blocks: setattr(blocks[2].fc, "weight", blocks[1].fc.weight), r"layers 1 and 2 share fc\.weight"),
    ],
)
def test_layers_that_differ_are_refused(change: Any, match: str) -> None:
    model = Net()
    change(model.blocks)
    with pytest.raises(ValueError, match=match):
        jm.scan_layers(model.blocks)(jnp.ones((2, 4)))


def test_other_mistakes() -> None:
    x = jnp.ones((2, 4))
    with pytest.raises(ValueError, match="no layers"):
        jm.scan_layers([])(x)
    with pytest.raises(ValueError, match="select"):
        jm.scan_layers(Net().blocks, weights="both")
    with pytest.raises(TypeError, match=r"takes x as float32\[2, 4\] and returns float32\[2, 4, 1\]"):
        jm.scan_layers([nn.Unflatten(1, (4, 1)) for _ in range(2)])(x)

    class Keeps(nn.Module):
        def forward(self, x: jax.Array) -> jax.Array:
            self.last = x
            return x

    with pytest.raises(jm.StateError, match="'last' for the first time"):
        jm.scan_layers([Keeps(), Keeps()])(x)


def test_forward_mode_where_the_weights_are_stacked() -> None:
    layers, x = nn.ModuleList(nn.Sequential(nn.Linear(4, 4), nn.Tanh()) for _ in range(3)), jnp.ones((2, 4))
    found = jax.jvp(jm.scan_layers(layers, weights="stack"), (x,), (x,))
    same(found, jax.jvp(nn.Sequential(*layers), (x,), (x,)))
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(jm.scan_layers(layers), (x,), (x,))


def test_under_vmap_and_inside_a_scan() -> None:
    model, x = Net().eval(), jax.random.normal(jax.random.key(0), (3, 2, 4))
    expected = jnp.stack([model(row, 1.0, None) for row in x])
    same(jm.vmap(lambda x: model(x, 1.0, {}))(x), expected)
    same(jm.scan(lambda c, x: (c, model(x, 1.0, {})), None, x)[1], expected)


def test_no_second_copy_of_the_weights() -> None:
    """The memory of a step beside that of the loop, which the gradients take; stacking takes the weights once more."""
    layers = nn.ModuleList(nn.Sequential(nn.Linear(64, 64), nn.Tanh()) for _ in range(8))
    weights = sum(p.value.nbytes for p in layers.parameters())

    def temp(**how: Any) -> int:
        def step(layers: Any, x: jax.Array) -> Any:
            return jm.grad(lambda m: jnp.sum(jm.scan_layers(m, **how)(x)))(layers)

        return jm.jit(step).lower(layers, jnp.ones((2, 64))).compile().memory_analysis().temp_size_in_bytes

    assert temp() < 1.3 * weights  # the stacked gradients
    assert temp(remat=True) < 1.3 * weights
    assert temp(weights="stack") > 1.9 * weights


def test_the_program_does_not_grow() -> None:
    def lines(depth: int) -> int:
        jm.manual_seed(0)
        layers = nn.ModuleList(nn.Sequential(*[nn.Linear(4, 4) for _ in range(20)]) for _ in range(depth))
        text = jm.jit(lambda m, x: jm.scan_layers(m)(x)).lower(layers, jnp.ones((2, 4))).as_text()
        return sum(" = stablehlo." in line for line in text.splitlines())

    two, eight = lines(2), lines(8)
    assert eight <= two + 6  # a branch of the switch for each layer

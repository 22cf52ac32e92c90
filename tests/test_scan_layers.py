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


class Poison(nn.Module):
    """Divides by a number, and multiplies again."""

    def __init__(self, number: float = 1.0) -> None:
        super().__init__()
        self.number = nn.Buffer(jnp.asarray(number))

    def forward(self, x: jax.Array) -> jax.Array:
        return jnp.sqrt(x / self.number * self.number)


class Stack(nn.Module):
    def __init__(self, *numbers: float, **how: Any) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Identity(), Poison(n)) for n in numbers)
        self.how = how

    def forward(self, x: jax.Array) -> jax.Array:
        return jm.scan_layers(self.blocks, **self.how)(x)


@pytest.mark.parametrize("how", [{}, {"remat": True}, {"weights": "stack"}], ids=str)
def test_nans_names_the_layer(how: dict[str, Any]) -> None:
    x = jnp.ones((2, 4))
    model = Stack(1.0, 1.0, 1.0, **how)
    with jm.debug.nans(model):
        jm.jit(jm.grad(lambda m, x: m(x).sum()))(model, x)
    model = Stack(1.0, 0.0, 1.0, **how)
    with pytest.raises(FloatingPointError, match=r"forward pass of blocks\.1\.1: Poison"), jm.debug.nans(model):
        jm.jit(model)(x)


@pytest.mark.parametrize(
    ("how", "where"),
    [({}, r"blocks\.2\.1"), ({"weights": "stack"}, r"blocks\.0\.1 or blocks\.1\.1 or blocks\.2\.1")],
    ids=str,
)
def test_nans_names_the_layer_of_a_gradient(how: dict[str, Any], where: str) -> None:
    model = Stack(1.0, 1.0, 1.0, **how)
    with pytest.raises(FloatingPointError, match=f"backward pass of {where}: Poison"), jm.debug.nans(model):
        jm.jit(jm.grad(lambda x, m: m(x).sum()))(jnp.zeros((2, 4)), model)  # the root of zero has no slope


def test_host_hooks_see_every_layer() -> None:
    model, x = Stack(1.0, 2.0, 3.0), jnp.ones((2, 4))
    seen = []

    def hook(module: nn.Module, args: Any, out: jax.Array) -> None:
        seen.append((next(i for i, block in enumerate(model.blocks) if block is module), float(out.sum())))

    for block in model.blocks:
        block.register_forward_hook(hook, on_host=True)
    for call in (model, jm.jit(model)):
        call(x)
        jax.effects_barrier()
        assert seen == [(0, 8.0), (1, 8.0), (2, 8.0)]
        seen.clear()


def test_the_same_hooks_on_all_layers_run_as_in_the_loop() -> None:
    layers, x = nn.ModuleList(nn.Sequential(nn.Linear(4, 4), nn.Tanh()) for _ in range(3)), jnp.ones((2, 4))

    def double(module: nn.Module, args: Any, out: jax.Array) -> jax.Array:
        return out * 2

    def triple(module: nn.Module, grad_input: Any, grad_output: Any) -> Any:
        return (grad_input[0] * 3,)

    def halve(gradient: jax.Array) -> jax.Array:
        return gradient / 2

    for layer in layers:
        layer.register_forward_hook(double)
        layer.register_full_backward_hook(triple)
        layer[0].weight.register_hook(halve)

    def loop(layers: nn.ModuleList, x: jax.Array) -> jax.Array:
        for layer in layers:
            x = layer(x)
        return x.sum()

    same(
        jm.jit(jm.grad(lambda layers, x: jm.scan_layers(layers)(x).sum()))(layers, x),
        jm.jit(jm.grad(loop))(layers, x),
        rtol=1e-4,
    )
    layers[1].register_forward_hook(lambda *_: None)
    with pytest.raises(ValueError, match="layers 0 and 1 differ in forward hooks"):
        jm.scan_layers(layers)(x)


def test_a_layer_that_is_captured_itself() -> None:
    layers, x = nn.ModuleList(nn.Linear(4, 4) for _ in range(3)), jnp.ones((2, 4))
    with jm.capture(layers[2], "") as acts:
        last = jm.scan_layers(layers)(x)
    same(acts[""], last)


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

    class Hands(nn.Module):
        def __init__(self, taken: nn.Buffer, given: nn.Buffer) -> None:
            super().__init__()
            self.taken, self.given = taken, given

        def forward(self, x: jax.Array) -> jax.Array:
            self.given.value = self.given + 1
            return x + self.taken

    boxes = [nn.Buffer(jnp.zeros(())) for _ in range(4)]
    with pytest.raises(ValueError, match="taken of one layer is given of another|given of one layer is taken"):
        jm.scan_layers([Hands(boxes[i], boxes[i + 1]) for i in range(3)])(x)


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

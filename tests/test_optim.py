"""The specification of optimizers, apart from what tests/parity/test_optim.py compares with torch.

An optimizer's state and the parameters it moves flow through `jm.*` transforms; gradients find their parameters by
identity; numbers change between steps without compiling again; and optimizers over optax are plain optax.
"""

import copy
import pickle
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxmodule as jm
from jaxmodule import nn

X = jnp.asarray(np.random.default_rng(0).standard_normal((6, 3)), jnp.float32)
Y = jnp.asarray(np.random.default_rng(1).standard_normal((6, 2)), jnp.float32)


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


def loss(m: nn.Module, x: jax.Array = X) -> jax.Array:
    return ((m(x) - Y) ** 2).mean()


def values(model: nn.Module) -> dict[str, np.ndarray]:
    return {str(name): np.asarray(p) for name, p in model.named_parameters()}


def assert_close(a: Any, b: Any, rtol: float = 1e-5) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=1e-6), a, b)


def train(model: nn.Module, optimizer: Any, steps: int = 3) -> None:
    for _ in range(steps):
        optimizer.step(jm.grad(loss)(model))


class Step:
    """A jitted train step that counts its traces."""

    def __init__(self, **options: Any) -> None:
        self.traces = 0

        def step(model: nn.Module, optimizer: Any) -> jax.Array:
            self.traces += 1
            value, grads = jm.value_and_grad(loss)(model)
            optimizer.step(grads)
            return value

        self.jitted = jm.jit(step, **options)

    def __call__(self, model: nn.Module, optimizer: Any) -> jax.Array:
        return self.jitted(model, optimizer)


OPTIMIZERS = {
    "SGD": lambda p: jm.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01),
    "Adam": lambda p: jm.optim.Adam(p, lr=0.01, amsgrad=True),
    "AdamW": lambda p: jm.optim.AdamW(p, lr=0.01),
    "optax.lion": lambda p: jm.optim.Optimizer(p, optax.lion(0.01)),
    "optax.chain": lambda p: jm.optim.Optimizer(p, optax.chain(optax.clip_by_global_norm(0.1), optax.adam(0.01))),
}
each_optimizer = pytest.mark.parametrize("kind", OPTIMIZERS)


@pytest.fixture(autouse=True)
def _optax_promotes(request: pytest.FixtureRequest) -> Iterator[None]:
    """optax.adam itself is not made for strict dtype promotion."""
    promotes = any(name in request.node.name for name in ("optax.chain", "[adamw-", "[chain-"))
    with jax.numpy_dtype_promotion("standard" if promotes else "strict"):
        yield


# -- how gradients find their parameters --------------------------------------------------------------------------
WAYS = {
    "parameters()": lambda m: m.parameters(),
    "named_parameters()": lambda m: m.named_parameters(),
    "list(parameters())": lambda m: list(m.parameters()),
    "a filtered list": lambda m: [p for p in m.parameters() if p.requires_grad],
    "in another order": lambda m: list(m.parameters())[::-1],
    "boxes from attributes": lambda m: [m[0].weight, m[0].bias, m[2].weight, m[2].bias],
    "groups": lambda m: [{"params": m[0].parameters()}, {"params": m[2].parameters()}],
    "groups of named ones": lambda m: [{"params": m[2].named_parameters()}, {"params": list(m[0].named_parameters())}],
}


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_gradients_find_their_parameters_however_those_were_given(way: str, compiled: bool) -> None:
    model, reference = net(), net()
    reference.load_state_dict(model.state_dict())
    train(reference, jm.optim.SGD(reference.parameters(), lr=0.1))
    optimizer = jm.optim.SGD(WAYS[way](model), lr=0.1)
    step = Step()
    for _ in range(3):
        if compiled:
            step(model, optimizer)
        else:
            train(model, optimizer, 1)
    assert_close(values(model), values(reference))


def test_names_are_those_that_parameters_and_named_parameters_tell() -> None:
    model = net()
    names = ["0.weight", "0.bias", "2.weight", "2.bias"]
    for given in (model.parameters(), model.named_parameters(), list(model.parameters())):
        assert jm.optim.SGD(given).param_groups[0]["names"] == names
    assert list(jm.optim.Adam([p for p in model.parameters() if p.ndim > 1]).state) == ["0.weight", "2.weight"]
    assert jm.optim.SGD([nn.Parameter(jnp.zeros(1)), nn.Parameter(jnp.zeros(1))]).param_groups[0]["names"] == ["0", "1"]


@pytest.mark.parametrize("between", ["nothing", "all", "a part", "a part by name", "with a prefix", "moved"])
@pytest.mark.parametrize("before", [False, True])
def test_names_do_not_depend_on_what_else_was_listed(between: str, before: bool) -> None:
    model = net()
    list_it = {
        "nothing": lambda: None,
        "all": lambda: list(model.parameters()),
        "a part": lambda: [list(part.parameters()) for part in model],
        "a part by name": lambda: [list(part.named_parameters()) for part in model],
        "with a prefix": lambda: list(model.named_parameters(prefix="a.b")),
        "moved": lambda: list(nn.Sequential(nn.Tanh(), nn.Tanh(), nn.Tanh(), model[0], model[2]).parameters()),
    }[between]
    if before:
        list_it()
    matrices = [p for _, p in model.named_parameters() if p.ndim > 1]
    if not before and between != "moved":
        list_it()
    assert list(jm.optim.Adam(matrices).state) == ["0.weight", "2.weight"]


def test_a_name_is_the_one_that_is_seen_from_furthest_up() -> None:
    inner = net()
    outer = nn.Sequential(inner, nn.Linear(2, 2))
    assert len(list(outer.parameters())) == 6
    assert jm.optim.SGD(list(inner.parameters())).param_groups[0]["names"][0] == "0.0.weight"
    assert jm.optim.SGD(inner.parameters()).param_groups[0]["names"][0] == "0.weight"  # the iterator knows its own


def test_two_models_in_one_optimizer() -> None:
    a, b = nn.Linear(3, 2), nn.Linear(3, 2)
    optimizer = jm.optim.SGD([*a.parameters(), *b.parameters()], lr=0.1)
    assert optimizer.param_groups[0]["names"] == ["weight", "bias", "weight#1", "bias#1"]
    before = values(a), values(b)
    grads = jm.grad(lambda a, b: a(X).sum() + 2 * b(X).sum(), argnums=(0, 1))(a, b)
    optimizer.step(grads)
    np.testing.assert_allclose(a.bias, before[0]["bias"] - 0.1 * 6, rtol=1e-5)
    np.testing.assert_allclose(b.bias, before[1]["bias"] - 0.1 * 12, rtol=1e-5)


def test_compiled_gradients_belong_to_the_model_they_were_computed_for() -> None:
    """Two models of one structure share a program, traced with the first."""
    gradients = jm.jit(lambda m: {"all": [jm.grad(loss)(m)]})
    models = [net(), net()]
    optimizers = [jm.optim.SGD([p for p in m.parameters() if p.ndim > 1], lr=0.1) for m in models]
    for model, optimizer in zip(models, optimizers, strict=True):
        before = [values(m) for m in models]
        grads = gradients(model)["all"][0]
        assert all(name.box is model.get_parameter(name) for name in grads)
        optimizer.step(grads)
        for m, old in zip(models, before, strict=True):
            assert np.array_equal(m[0].weight, old["0.weight"]) == (m is not model)


def test_one_models_gradients_serve_several_optimizers() -> None:
    """Each takes those of its own parameters, as each takes its own `.grad` in torch."""
    model = net()
    optimizers = [jm.optim.SGD(model[i].parameters(), lr=rate) for i, rate in ((0, 0.1), (2, 0.5))]
    before, grads = values(model), jm.grad(loss)(model)
    for optimizer in optimizers:
        optimizer.step(grads)
    np.testing.assert_allclose(model[0].bias, before["0.bias"] - 0.1 * grads["0.bias"], rtol=1e-5)
    np.testing.assert_allclose(model[2].bias, before["2.bias"] - 0.5 * grads["2.bias"], rtol=1e-5)


def test_gradients_of_another_model_are_not_taken_by_name() -> None:
    a, b = nn.Linear(3, 2), nn.Linear(3, 2)
    optimizer = jm.optim.SGD(a.parameters(), lr=0.1)
    before, grads = values(a), jm.grad(loss)(b)
    with pytest.raises(KeyError, match=r"\['weight', 'bias'\] are of parameters that this optimizer does not have"):
        optimizer.step(grads)
    assert_close(values(a), before)
    optimizer.step({str(name): grad for name, grad in grads.items()})  # plain names are, as the error says
    assert not np.array_equal(a.weight, before["weight"])


def test_an_unknown_name_raises_and_moves_nothing() -> None:
    model = nn.Linear(3, 2)
    optimizer, before = jm.optim.SGD(model.parameters(), lr=0.1), values(model)
    with pytest.raises(
        KeyError, match="the gradient 'typo' belongs to no parameter of this optimizer, which has 'weight'"
    ):
        optimizer.step({"weight": jnp.ones((2, 3)), "typo": jnp.ones(2)})
    assert_close(values(model), before)
    with pytest.raises(TypeError, match="takes the gradients that jm.grad returns, got int"):
        optimizer.step(3)


@pytest.mark.parametrize("how", ["jax.grad of a module", "jax.grad of a dict", "jm.grad in jax.jit", "jax.tree.map"])
def test_gradients_from_raw_jax_are_taken(how: str) -> None:
    model = net()
    optimizer, before, expected = jm.optim.SGD(model.parameters(), lr=0.1), values(model), jm.grad(loss)(model)
    params, _ = jm.split(model)
    grads = {
        "jax.grad of a module": lambda: jax.grad(loss)(model),
        "jax.grad of a dict": lambda: jax.grad(lambda p: ((jm.functional_call(model, p, (X,)) - Y) ** 2).mean())(
            params
        ),
        "jm.grad in jax.jit": lambda: jax.jit(lambda m: jm.grad(loss)(m))(model),
        "jax.tree.map": lambda: jax.tree.map(lambda g: g * 1, jm.grad(loss)(model)),
    }[how]()
    optimizer.step(grads)
    assert_close(values(model), {name: before[name] - 0.1 * np.asarray(expected[name]) for name in before})


def test_a_tied_parameter_moves_once() -> None:
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    model[1].weight = model[0].weight
    optimizer, before = jm.optim.SGD(model.parameters(), lr=0.1), values(model)["0.weight"]
    grads = jm.grad(lambda m: m(X).sum())(model)
    optimizer.step(grads)
    np.testing.assert_allclose(model[1].weight, before - 0.1 * grads["0.weight"], rtol=1e-5)
    assert len(optimizer.param_groups[0]["params"]) == 1


# -- what a step leaves alone -------------------------------------------------------------------------------------
@each_optimizer
def test_frozen_parameters_and_those_without_gradient_are_left_alone(kind: str) -> None:
    """Their state too."""
    model = net()
    model[0].weight.requires_grad = False
    optimizer = OPTIMIZERS[kind](model.parameters())
    before = values(model)
    grads = jm.grad(loss)(model)
    grads = {name: None if name == "2.bias" else grad for name, grad in grads.items()}
    for _ in range(2):
        optimizer.step(grads)
    moved = {name for name, value in values(model).items() if not np.array_equal(value, before[name])}
    assert moved == {"0.bias", "2.weight"}
    assert "0.weight" not in optimizer.state
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(optimizer.state["2.bias"]))
    assert any(np.any(leaf) for leaf in jax.tree.leaves(optimizer.state["2.weight"]))


@each_optimizer
def test_a_parameter_that_is_released_later_is_moved(kind: str) -> None:
    """From then on, and with state of its own; the others keep theirs."""
    model, step = net(), Step()
    model[0].weight.requires_grad = False
    optimizer = OPTIMIZERS[kind](model.parameters())
    step(model, optimizer)
    state, before = optimizer.state, values(model)
    model[0].weight.requires_grad = True
    with pytest.raises(ValueError, match="afterwards"):
        jm.jit(_step_and_fail)(model, optimizer)
    assert_close(optimizer.state, state)
    _, other = copy.deepcopy((model, optimizer))
    other.step({"0.weight": jnp.zeros((4, 3))})
    assert_close(other.state["0.bias"], state["0.bias"])
    step(model, optimizer)
    step(model, optimizer)
    assert step.traces <= 3
    assert not np.array_equal(model[0].weight, before["0.weight"])
    assert "0.weight" in optimizer.state
    if kind == "AdamW":
        assert [int(optimizer.state[n]["step"]) for n in ("0.weight", "0.bias")] == [2, 3]


def _step_and_fail(model: nn.Module, optimizer: Any) -> None:
    optimizer.step(jm.grad(loss)(model))
    raise ValueError("afterwards")


def test_zero_grad_and_steps_from_the_parameters_gradients() -> None:
    model = net()
    optimizer = jm.optim.SGD(model.parameters(), lr=0.1)
    expected, before = jm.grad(loss)(model), values(model)
    jm.backward(loss)(model)
    optimizer.step()
    assert_close(values(model), {name: before[name] - 0.1 * np.asarray(expected[name]) for name in before})
    optimizer.zero_grad(set_to_none=False)
    assert all((p.grad == 0).all() for p in model.parameters())
    optimizer.zero_grad()
    assert all(p.grad is None for p in model.parameters())
    before = values(model)
    optimizer.step()
    assert_close(values(model), before)


# -- compiled steps -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("donate", [False, True])
@each_optimizer
def test_a_compiled_step_is_the_eager_one(kind: str, donate: bool) -> None:
    model = net()
    other = copy.deepcopy(model)
    eager, compiled = OPTIMIZERS[kind](model.parameters()), OPTIMIZERS[kind](other.parameters())
    step = Step(donate=donate)
    train(model, eager, 4)
    for _ in range(4):
        step(other, compiled)
    assert step.traces == 1
    assert_close(values(other), values(model))
    assert_close(compiled.state, eager.state)
    assert compiled.param_groups[0].get("lr") == eager.param_groups[0].get("lr")


def test_a_compiled_step_from_the_parameters_gradients() -> None:
    model, other = net(), net()
    other.load_state_dict(model.state_dict())
    optimizer = jm.optim.Adam(model.parameters(), lr=0.1)
    traces = []

    @jm.jit
    def step(model: nn.Module, optimizer: Any) -> jax.Array:
        traces.append(1)
        optimizer.zero_grad()
        value = jm.backward(loss)(model)
        optimizer.step()
        return value

    for _ in range(4):
        step(model, optimizer)
    train(other, jm.optim.Adam(other.parameters(), lr=0.1), 4)
    assert_close(values(model), values(other))
    assert len(traces) <= 2  # the first call finds no gradients in the parameters


def test_changing_a_number_between_steps_takes_effect_and_compiles_nothing() -> None:
    model = nn.Linear(3, 2)
    optimizer, step = jm.optim.SGD(model.parameters(), lr=0.1, momentum=0.5), Step()
    step(model, optimizer)
    group = optimizer.param_groups[0]
    for change in (
        lambda: group.__setitem__("lr", 0.0),
        lambda: group.update(lr=0.0),
        lambda: group.update({"lr": np.float32(0)}),
        lambda: group.__setitem__("lr", jnp.zeros(())),
    ):
        group["lr"] = 0.2
        before = values(model)
        step(model, optimizer)
        assert not np.array_equal(model.weight, before["weight"])
        change()
        assert group["lr"] == group.get("lr") == dict(group.items())["lr"] == 0
        before = values(model)
        step(model, optimizer)
        assert_close(values(model), before)
    group["momentum"] = 0.7
    step(model, optimizer)
    assert step.traces == 1
    group["weight_decay"] = 0.1  # from unused to used
    step(model, optimizer)
    group["nesterov"] = True
    step(model, optimizer)
    assert step.traces == 3


def test_several_numbers_as_a_list_are_a_tuple_and_compile_nothing() -> None:
    model, step = net(), Step()
    optimizer = jm.optim.Adam([{"params": model.parameters(), "betas": [0.8, 0.9], "mine": [1]}], lr=0.01)
    group = optimizer.param_groups[0]
    assert group["betas"] == (0.8, 0.9)
    for i in range(3):
        group["betas"] = [0.5 + i / 10, 0.9]
        step(model, optimizer)
    assert step.traces == 1
    assert group["betas"] == (0.7, 0.9)
    assert group["mine"] == [1]


@pytest.mark.parametrize("saved", [False, True])
def test_a_momentum_that_passes_through_zero_keeps_its_buffer(saved: bool) -> None:
    torch = pytest.importorskip("torch")
    model = nn.Linear(3, 2)
    reference = torch.nn.Linear(3, 2)
    reference.load_state_dict({name: torch.tensor(p) for name, p in values(model).items()})
    theirs = torch.optim.SGD(reference.parameters(), lr=0.1, momentum=0.9, dampening=0.5)
    optimizer = jm.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, dampening=0.5)
    x = torch.tensor(np.asarray(X))
    for momentum in (0.9, 0.9, 0.0, 0.0, 0.8, 0.9):
        theirs.param_groups[0]["momentum"] = optimizer.param_groups[0]["momentum"] = momentum
        if saved:
            state, optimizer = optimizer.state_dict(), jm.optim.SGD(model.parameters(), lr=1.0)
            optimizer.load_state_dict(state)
        theirs.zero_grad()
        ((reference(x) - torch.tensor(np.asarray(Y))) ** 2).mean().backward()
        theirs.step()
        train(model, optimizer, 1)
        np.testing.assert_allclose(model.weight, reference.weight.detach().numpy(), rtol=1e-5, atol=1e-6)


def test_a_number_may_be_set_inside_a_compiled_step() -> None:
    """A schedule in the program: what it set last is read afterwards, and survives other changes."""
    model = nn.Linear(3, 2)
    optimizer, traces = jm.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.5), []

    @jm.jit
    def step(model: nn.Module, optimizer: Any, lr: jax.Array) -> None:
        traces.append(1)
        optimizer.param_groups[0]["lr"] = lr
        optimizer.step(jm.grad(loss)(model))

    for lr in (0.5, 0.25, 0.0):
        step(model, optimizer, jnp.asarray(lr))
    assert len(traces) == 1
    before = values(model)
    group = optimizer.param_groups[0]
    assert group["lr"] == 0.0
    group["weight_decay"] = 0.25
    assert group["lr"] == 0.0
    train(model, optimizer, 1)
    assert_close(values(model), before)
    assert "lr: 0.0" in repr(optimizer)


def test_setting_what_the_program_does_not_have_raises() -> None:
    """Rather than being ignored: with a weight decay of 0 there is none in the program."""
    model = nn.Linear(3, 2)
    optimizer = jm.optim.SGD(model.parameters(), lr=0.1)

    def step(model: nn.Module, optimizer: Any) -> None:
        optimizer.param_groups[0]["weight_decay"] = 0.1
        optimizer.step(jm.grad(loss)(model))

    with pytest.raises(
        RuntimeError, match="weight_decay is 0, so the program that is being traced has no weight_decay"
    ):
        jm.jit(step)(model, optimizer)


def test_a_failed_compiled_step_changes_nothing() -> None:
    model = net()
    optimizer = jm.optim.Adam(model.parameters())
    before, state = values(model), optimizer.state
    with pytest.raises(ValueError, match="afterwards"):
        jm.jit(_step_and_fail)(model, optimizer)
    assert_close(values(model), before)
    assert_close(optimizer.state, state)


def test_a_group_added_after_compilation_is_trained() -> None:
    model = net()
    optimizer, step = jm.optim.SGD(model[0].parameters(), lr=0.1), Step()
    step(model, optimizer)
    before = values(model)
    step(model, optimizer)
    assert np.array_equal(model[2].weight, before["2.weight"])
    optimizer.add_param_group({"params": model[2].parameters(), "lr": 0.5, "tag": "head"})
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.5]
    step(model, optimizer)
    assert step.traces == 2
    assert not np.array_equal(model[2].weight, before["2.weight"])


# -- state --------------------------------------------------------------------------------------------------------
def test_state_is_keyed_by_parameter_name() -> None:
    model = net()
    optimizer = jm.optim.AdamW(model.parameters(), lr=0.5)
    train(model, optimizer, 2)
    saved = optimizer.state_dict()
    assert list(saved["state"]) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    entry = saved["state"]["0.weight"]
    assert sorted(entry) == ["exp_avg", "exp_avg_sq", "step"]
    assert entry["exp_avg"].shape == (4, 3)
    assert int(entry["step"]) == 2
    (group,) = saved["param_groups"]
    assert group["params"] == list(saved["state"])
    assert (group["lr"], group["betas"], group["amsgrad"]) == (0.5, (0.9, 0.999), False)
    pickle.dumps(saved)


@pytest.mark.parametrize("compiled", [False, True])
@each_optimizer
def test_a_loaded_optimizer_goes_on_as_the_saved_one(kind: str, compiled: bool) -> None:
    def advance(model: nn.Module, optimizer: Any) -> None:
        step = Step()
        for _ in range(3):
            step(model, optimizer) if compiled else train(model, optimizer, 1)

    model, again = net(), net()
    optimizer = OPTIMIZERS[kind](model.parameters())
    advance(model, optimizer)
    if kind == "SGD":
        optimizer.param_groups[0]["lr"] = 0.3
    weights, saved = model.state_dict(), pickle.loads(pickle.dumps(optimizer.state_dict()))
    advance(model, optimizer)
    resumed = OPTIMIZERS[kind](again.parameters())
    advance(again, resumed)
    again.load_state_dict(weights)
    resumed.load_state_dict(saved)
    advance(again, resumed)
    assert_close(values(again), values(model))
    assert_close(resumed.state_dict()["state"], optimizer.state_dict()["state"])
    assert resumed.param_groups[0].get("lr") == optimizer.param_groups[0].get("lr")


def broken(saved: dict[str, Any], how: str) -> dict[str, Any]:
    saved = copy.deepcopy(saved)
    saved["param_groups"][0]["lr"] = 99.0
    entry = saved["state"]["0.bias"]
    match how:
        case "groups":
            saved["param_groups"].append(saved["param_groups"][0])
        case "names":
            saved["param_groups"][0]["params"] = saved["param_groups"][0]["params"][::-1]
        case "shape":
            entry["exp_avg"] = jnp.zeros(7)
        case "entries":
            entry["other"] = entry.pop("exp_avg")
        case "owners":
            saved["state"]["typo"] = entry
    return saved


@pytest.mark.parametrize(
    ("how", "match"),
    {
        "groups": "has a different number of parameter groups",
        "names": r"it has \['2.bias', .*, the optimizer \['0.weight'",
        "shape": r"loaded state of '0.bias' has shape \(7,\), the parameter needs \(4,\)",
        "entries": r"loaded state of '0.bias' has \['exp_avg_sq', 'other', 'step'\], Adam needs \['exp_avg', '",
        "owners": r"state of parameters that the optimizer doesn't have: \['typo'\]",
    }.items(),
)
def test_a_load_that_does_not_fit_raises_and_changes_nothing(how: str, match: str) -> None:
    model = net()
    optimizer = jm.optim.Adam(model.parameters())
    train(model, optimizer, 2)
    before = optimizer.state_dict()
    with pytest.raises(ValueError, match=match):
        optimizer.load_state_dict(broken(before, how))
    assert_close(optimizer.state_dict()["state"], before["state"])
    assert optimizer.state_dict()["param_groups"] == before["param_groups"]
    train(model, optimizer, 1)


@each_optimizer
def test_copies_of_model_and_optimizer_together_stay_connected(kind: str) -> None:
    model = net()
    optimizer = OPTIMIZERS[kind](model.parameters())
    train(model, optimizer)
    copies = [copy.deepcopy((model, optimizer))]
    if not kind.startswith("optax"):  # optax's functions are closures, which pickle refuses
        copies.append(pickle.loads(pickle.dumps((model, optimizer))))
    train(model, optimizer)
    for other, of_other in copies:
        boxes = of_other.param_groups[0]["params"]
        assert [box is p for box, p in zip(boxes, other.parameters(), strict=True)] == [True] * 4
        if "lr" in of_other.param_groups[0]:
            assert of_other.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"]
        step = Step()
        for _ in range(3):
            step(other, of_other)
        assert_close(values(other), values(model))
        assert repr(of_other) == repr(optimizer)


def test_a_copy_of_an_optimizer_alone_has_parameters_of_its_own() -> None:
    model = net()
    optimizer = jm.optim.SGD(model.parameters(), lr=0.1)
    other = copy.deepcopy(optimizer)
    other.param_groups[0]["lr"] = 0.5
    before = values(model)
    other.step({str(name): jnp.ones(p.shape) for name, p in model.named_parameters()})
    assert_close(values(model), before)
    assert optimizer.param_groups[0]["lr"] == 0.1
    assert copy.deepcopy(optimizer.param_groups)[0]["lr"] == 0.1


# -- optax --------------------------------------------------------------------------------------------------------
TRANSFORMS = {
    "sgd": optax.sgd(0.1, momentum=0.9),
    "adamw": optax.adamw(0.01),
    "lion": optax.lion(0.01),
    "chain": optax.chain(
        optax.clip_by_global_norm(0.5), optax.scale_by_adam(), optax.scale_by_schedule(lambda t: -0.1 / (t + 1.0))
    ),
    "masked": optax.masked(optax.sgd(0.1), lambda p: {name: value.ndim > 1 for name, value in p.items()}),
    "bare state": optax.GradientTransformation(
        lambda p: jnp.zeros(()), lambda g, s, p: (jax.tree.map(lambda x: -(s + 1.0) * x * 0.1, g), s + 1.0)
    ),
}


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("name", TRANSFORMS)
def test_an_optimizer_over_optax_is_plain_optax(name: str, compiled: bool) -> None:
    model, transform = net(), TRANSFORMS[name]
    params = {str(n): p.value for n, p in model.named_parameters()}
    state = transform.init(params)
    optimizer, step = jm.optim.Optimizer(model.parameters(), transform), Step()
    for _ in range(5):
        grads = jax.grad(lambda p: ((jm.functional_call(model, p, (X,)) - Y) ** 2).mean())(params)
        updates, state = transform.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        step(model, optimizer) if compiled else train(model, optimizer, 1)
    assert_close(values(model), params)
    assert step.traces == compiled


def test_what_is_no_optax_transform_raises() -> None:
    with pytest.raises(TypeError, match="transform must be an optax.GradientTransformation, got float"):
        jm.optim.Optimizer(net().parameters(), 0.1)


# -- construction -------------------------------------------------------------------------------------------------
def test_a_model_instead_of_its_parameters_raises_with_the_remedy() -> None:
    with pytest.raises(TypeError, match=r"iterable of Parameters or dicts, but got Linear: pass model\.parameters\(\)"):
        jm.optim.SGD(nn.Linear(1, 1))


def test_a_group_that_does_not_fit_changes_nothing() -> None:
    model = net()
    optimizer = jm.optim.SGD(model[0].parameters(), lr=0.1)
    with pytest.raises(ValueError, match="Invalid learning rate: -1"):
        optimizer.add_param_group({"params": model[2].parameters(), "lr": -1})
    assert len(optimizer.param_groups) == 1
    optimizer.add_param_group({"params": model[2].parameters()})
    train(model, optimizer)


def test_float64_parameters_are_moved_in_float64() -> None:
    with jax.enable_x64(True):
        p = nn.Parameter(jnp.asarray(1.0, jnp.float64))
        optimizer = jm.optim.SGD([p], lr=0.1)
        optimizer.step({"0": jnp.asarray(1.0, jnp.float64)})
        assert p.dtype == jnp.float64
        assert float(p.value) == pytest.approx(0.9, rel=1e-15)


def test_an_optimizer_that_went_through_a_raw_transform_refuses_to_step():
    model = nn.Linear(2, 1)
    optimizer = jm.optim.SGD(model.parameters(), lr=0.1)
    grads = {name: jnp.ones_like(p.value) for name, p in model.named_parameters()}
    with pytest.raises(jm.StateError, match="no model would see the step(.|\n)*jm.jit"):
        jax.jit(lambda o, g: o.step(g))(optimizer, grads)
    with pytest.raises(jm.StateError, match="a copy"):
        jax.tree.map(lambda x: x, optimizer).step(grads)
    optimizer.step(grads)

"""Optimizer states between torch and here: train in one, move, go on in both, stay equal."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import torch

import jaxmodule as jm
from tests.parity.oracle import assert_close, to_torch

OPTIMIZERS: list[tuple[str, dict[str, Any]]] = [
    ("SGD", {"lr": 0.1}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.3}),
    ("Adam", {"lr": 0.05}),
    ("Adam", {"lr": 0.05, "amsgrad": True}),
    ("AdamW", {"lr": 0.05}),
    ("Adamax", {"lr": 0.05}),
    ("NAdam", {"lr": 0.05}),
    ("RAdam", {"lr": 0.05}),
    ("Adagrad", {"lr": 0.05, "initial_accumulator_value": 0.1}),
    ("Adadelta", {}),
    ("RMSprop", {"momentum": 0.9, "centered": True}),
    ("Rprop", {}),
    ("ASGD", {"t0": 2, "lambd": 0.01}),
    ("Adafactor", {"weight_decay": 0.1}),
    ("Muon", {"lr": 0.02}),
]
SHAPES = {"a": (4, 3), "b": (5,), "c": (2, 2), "frozen": (3,)}


def models(name: str, dtype: str = "float32") -> tuple[Any, Any]:
    rng = np.random.default_rng(3)
    ours, theirs = jm.nn.Module(), torch.nn.Module()
    for key, shape in SHAPES.items():
        if name == "Muon" and len(shape) != 2:
            continue
        value = rng.standard_normal(shape).astype(np.float32)
        setattr(ours, key, jm.nn.Parameter(jnp.asarray(value, dtype), requires_grad=key != "frozen"))
        tensor = to_torch(value).to(getattr(torch, dtype))
        setattr(theirs, key, torch.nn.Parameter(tensor, requires_grad=key != "frozen"))
    return ours, theirs


def optimizer_of(library: Any, name: str, model: Any, kwargs: dict[str, Any]) -> Any:
    """Two groups, the later parameters first, so that an index is no position in the model."""
    list(model.parameters())  # here: tells the parameters their names
    named = dict(model.named_parameters())
    first = [named.pop("c")]
    return getattr(library, name)([{"params": first}, {"params": list(named.values())}], **kwargs)


def step(model: Any, optimizer: Any, count: int, first: int = 0) -> None:
    """`b` gets its first gradient in step 2."""
    for i in range(first, first + count):
        rng = np.random.default_rng((5, i))
        for key, shape in SHAPES.items():
            g = rng.standard_normal(shape).astype(np.float32)
            parameter = getattr(model, key, None)
            if parameter is None or key == "frozen" or (key == "b" and i < 2):
                continue
            torches = isinstance(parameter, torch.Tensor)
            parameter.grad = to_torch(g).to(parameter.dtype) if torches else jnp.asarray(g, parameter.dtype)
        optimizer.step()


def weights_to_ours(ours: Any, theirs: Any) -> None:
    ours.load_state_dict({key: value.float().numpy() for key, value in theirs.state_dict().items()})


def compare(ours: Any, theirs: Any, name: str) -> None:
    for key, parameter in theirs.named_parameters():  # Muon: bfloat16, see test_optim.py
        assert_close(getattr(ours, key), parameter, 2e-2 if name == "Muon" else 1e-5, key)


each = pytest.mark.parametrize(("name", "kwargs"), OPTIMIZERS, ids=str)
through_memory_or_a_file = pytest.mark.parametrize("through", ["memory", pytest.param("file", marks=pytest.mark.slow)])


@through_memory_or_a_file
@each
def test_a_torch_optimizer_goes_on_here(name: str, kwargs: dict[str, Any], through: str, tmp_path: Any) -> None:
    ours, theirs = models(name)
    reference = optimizer_of(torch.optim, name, theirs, kwargs)
    count = 1 if through == "file" else 4  # after one step `b` has no state yet
    step(theirs, reference, count)
    reference.param_groups[1]["lr"] = 0.02
    saved: Any = reference.state_dict()
    if through == "file":
        torch.save(saved, tmp_path / "optimizer.pt")
        saved = jm.load(tmp_path / "optimizer.pt")
    weights_to_ours(ours, theirs)
    optimizer = optimizer_of(jm.optim, name, ours, kwargs)
    optimizer.load_state_dict(saved)
    assert optimizer.param_groups[1]["lr"] == 0.02
    for model, each in ((theirs, reference), (ours, optimizer)):
        step(model, each, 6, first=count)
    compare(ours, theirs, name)
    for key, entry in optimizer.state.items():
        parameter = getattr(theirs, key)
        theirs_entry = {k: v for k, v in reference.state.get(parameter, {}).items() if v is not None}
        assert set(theirs_entry) == set(entry) - ({"step"} if name == "SGD" else set()), key
        for slot, value in theirs_entry.items():
            assert_close(jnp.asarray(entry[slot], jnp.float32), value, 2e-2 if name == "Muon" else 1e-4, slot)


@through_memory_or_a_file
@each
def test_an_optimizer_goes_on_in_torch(name: str, kwargs: dict[str, Any], through: str, tmp_path: Any) -> None:
    ours, theirs = models(name)
    optimizer = optimizer_of(jm.optim, name, ours, kwargs)
    count = 1 if through == "file" else 4
    step(ours, optimizer, count)
    optimizer.param_groups[1]["lr"] = 0.02
    if through == "file":
        jm.save(optimizer.torch_state_dict(), tmp_path / "optimizer.pt")
        saved = torch.load(tmp_path / "optimizer.pt", weights_only=True)
    else:
        saved = optimizer.torch_state_dict(torch.from_numpy)
    with torch.no_grad():
        for key, parameter in theirs.named_parameters():
            parameter.copy_(to_torch(getattr(ours, key)))
    reference = optimizer_of(torch.optim, name, theirs, kwargs)
    reference.load_state_dict(saved)
    assert reference.param_groups[1]["lr"] == pytest.approx(0.02)
    for model, each in ((theirs, reference), (ours, optimizer)):
        step(model, each, 6, first=count)
    compare(ours, theirs, name)


@pytest.mark.parametrize("into", ["here", "torch"])
def test_states_go_through_files(into: str, tmp_path: Any) -> None:
    """One of the sweep above, in every run."""
    name, kwargs = "ASGD", {"t0": 2, "lambd": 0.01}
    test = test_a_torch_optimizer_goes_on_here if into == "here" else test_an_optimizer_goes_on_in_torch
    test(name, kwargs, "file", tmp_path)


def test_what_torch_has_given_is_copied() -> None:
    """Torch writes into its tensors at its next step."""
    ours, theirs = models("Adam")
    reference = optimizer_of(torch.optim, "Adam", theirs, {})
    step(theirs, reference, 3)
    optimizer = optimizer_of(jm.optim, "Adam", ours, {})
    optimizer.load_state_dict(reference.state_dict())
    before = {slot: np.array(value) for slot, value in optimizer.state["a"].items()}
    step(theirs, reference, 3)
    for slot, value in optimizer.state["a"].items():
        np.testing.assert_array_equal(value, before[slot], err_msg=slot)


def test_what_torch_is_given_is_a_copy() -> None:
    ours, theirs = models("Adam")
    optimizer = optimizer_of(jm.optim, "Adam", ours, {})
    step(ours, optimizer, 3)
    before = np.array(optimizer.state["a"]["exp_avg"])
    reference = optimizer_of(torch.optim, "Adam", theirs, {})
    reference.load_state_dict(optimizer.torch_state_dict(torch.from_numpy))
    step(theirs, reference, 3)
    np.testing.assert_array_equal(optimizer.state["a"]["exp_avg"], before)


def test_a_bfloat16_state_of_torchs_is_kept_in_float32_here() -> None:
    ours, theirs = models("Adam", "bfloat16")
    reference = optimizer_of(torch.optim, "Adam", theirs, {})
    step(theirs, reference, 3)
    weights_to_ours(ours, theirs)
    for options, dtype in (({}, jnp.float32), ({"state_dtype": "param"}, jnp.bfloat16)):
        optimizer = optimizer_of(jm.optim, "Adam", ours, options)
        optimizer.load_state_dict(reference.state_dict())
        assert optimizer.state["a"]["exp_avg"].dtype == dtype
        assert_close(optimizer.state["a"]["exp_avg"], reference.state[theirs.a]["exp_avg"], 0)
    again = optimizer_of(torch.optim, "Adam", theirs, {})
    again.load_state_dict(optimizer.torch_state_dict(torch.from_numpy))
    assert again.state[theirs.a]["exp_avg"].dtype == torch.bfloat16


def test_master_weights_begin_with_the_parameters_where_a_state_has_none() -> None:
    ours, theirs = models("Adam", "bfloat16")
    reference = optimizer_of(torch.optim, "Adam", theirs, {})
    step(theirs, reference, 3)
    weights_to_ours(ours, theirs)
    optimizer = optimizer_of(jm.optim, "Adam", ours, {"master_weights": True})
    optimizer.load_state_dict(reference.state_dict())
    assert_close(optimizer.state["a"]["master_param"], theirs.a, 0)
    assert "master_param" not in optimizer.torch_state_dict()["state"][0]


def broken(saved: dict[str, Any], how: str) -> dict[str, Any]:
    saved = {"state": dict(saved["state"]), "param_groups": [dict(group) for group in saved["param_groups"]]}
    saved["param_groups"][0]["lr"] = 99.0
    match how:
        case "groups":
            saved["param_groups"] = saved["param_groups"][:1]
        case "size":
            saved["param_groups"][1]["params"] = [1]
        case "shape":
            saved["state"][1] = {**saved["state"][1], "exp_avg": torch.zeros(7)}
        case "stranger":
            saved["state"][17] = saved["state"][1]
        case "slots":
            saved["state"][1] = {k: v for k, v in saved["state"][1].items() if k != "exp_avg"}
    return saved


@pytest.mark.parametrize(
    ("how", "match"),
    {
        "groups": "has a different number of parameter groups",
        "size": "doesn't match the size of optimizer's group: group 1 has 1 parameters, the optimizer's 3",
        "shape": r"loaded state of 'a' has shape \(7,\), the parameter needs \(4, 3\)",
        "stranger": "state of a parameter 17 that none of its groups has",
        "slots": r"loaded state of 'a' has \['exp_avg_sq', 'step'\], Adam needs \['exp_avg', 'exp_avg_sq', 'step'\]",
    }.items(),
)
def test_a_torch_state_that_does_not_fit_changes_nothing(how: str, match: str) -> None:
    ours, theirs = models("Adam")
    reference = optimizer_of(torch.optim, "Adam", theirs, {})
    step(theirs, reference, 3)
    optimizer = optimizer_of(jm.optim, "Adam", ours, {})
    step(ours, optimizer, 2)
    before = optimizer.state_dict()
    with pytest.raises(ValueError, match=match):
        optimizer.load_state_dict(broken(reference.state_dict(), how))
    after = optimizer.state_dict()
    assert after["param_groups"] == before["param_groups"]
    np.testing.assert_array_equal(after["state"]["a"]["exp_avg"], before["state"]["a"]["exp_avg"])


def test_a_scheduler_s_own_keys_are_taken_along() -> None:
    ours, theirs = models("SGD")
    reference = optimizer_of(torch.optim, "SGD", theirs, {"lr": 0.5})
    torch.optim.lr_scheduler.StepLR(reference, 3)
    optimizer = optimizer_of(jm.optim, "SGD", ours, {})
    optimizer.load_state_dict(reference.state_dict())
    assert optimizer.param_groups[0]["initial_lr"] == 0.5
    reference.param_groups[0]["lr"] = torch.tensor(0.25)
    optimizer.load_state_dict(reference.state_dict())
    assert optimizer.param_groups[0]["lr"] == 0.25


def test_an_optimizer_over_optax_has_no_counterpart_in_torch() -> None:
    optax = pytest.importorskip("optax")
    ours, theirs = models("SGD")
    optimizer = jm.optim.Optimizer(ours.parameters(), optax.adam(0.1))
    reference = torch.optim.Adam(theirs.parameters())
    step(theirs, reference, 1)
    with pytest.raises(TypeError, match="torch has no Optimizer like this one: only states of named optimizers"):
        optimizer.load_state_dict(reference.state_dict())
    with pytest.raises(TypeError, match="torch has no Optimizer like this one"):
        optimizer.torch_state_dict()

"""The optimizers against torch's: parameters over 20 steps, arguments, defaults, errors and printing."""

from __future__ import annotations

import inspect
from types import ModuleType
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import torch

import jaxmodule as jm
from tests.parity.oracle import assert_close, to_torch

STEPS = 20
SHAPES = {"a": (4, 3), "b": (3,), "c": ()}

GRID: list[tuple[str, dict[str, Any]]] = [
    ("SGD", {}),
    ("SGD", {"lr": 0.1}),
    ("SGD", {"lr": 0.1, "momentum": 0.9}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.3}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    ("SGD", {"lr": 0.1, "weight_decay": 0.1}),
    ("SGD", {"lr": 0.1, "momentum": 0.5, "weight_decay": 0.1, "dampening": 1.0, "maximize": True}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1, "maximize": True}),
    ("Adam", {}),
    ("Adam", {"lr": 0.05}),
    ("Adam", {"lr": 0.05, "betas": (0.5, 0.9), "eps": 1e-3}),
    ("Adam", {"lr": 0.05, "betas": (0.0, 0.0)}),
    ("Adam", {"lr": 0.05, "weight_decay": 0.1}),
    ("Adam", {"lr": 0.05, "amsgrad": True}),
    ("Adam", {"lr": 0.05, "maximize": True, "weight_decay": 0.1, "amsgrad": True}),
    ("Adam", {"lr": 0.05, "weight_decay": 0.1, "decoupled_weight_decay": True}),
    ("AdamW", {}),
    ("AdamW", {"lr": 0.05}),
    ("AdamW", {"lr": 0.05, "weight_decay": 0}),
    ("AdamW", {"lr": 0.05, "weight_decay": 0.5, "amsgrad": True, "maximize": True, "betas": (0.8, 0.99)}),
]
IDS = [f"{name}({', '.join(f'{k}={v}' for k, v in kwargs.items())})" for name, kwargs in GRID]


def make_module(nn: ModuleType, dtype: str = "float32") -> Any:
    """Three parameters of different ranks, with values of a known seed."""
    rng = np.random.default_rng(1)
    module = nn.Module()
    for name, shape in SHAPES.items():
        values = rng.standard_normal(shape).astype(np.float32)
        value = jnp.asarray(values, dtype) if nn is jm.nn else to_torch(values).to(getattr(torch, dtype))
        setattr(module, name, nn.Parameter(value))
    return module


def gradients(step: int) -> dict[str, np.ndarray]:
    """Of very different sizes, some zero."""
    rng = np.random.default_rng((7, step))
    scale = {"a": 1.0, "b": 1e-4, "c": 30.0}
    return {n: np.asarray(rng.standard_normal(s) * scale[n] * (step % 5 != 3), np.float32) for n, s in SHAPES.items()}


def give(module: Any, step: int, skip: tuple[str, ...] = ()) -> None:
    """Set `.grad` of every parameter but those to skip."""
    for name, gradient in gradients(step).items():
        parameter = getattr(module, name)
        if name in skip:
            parameter.grad = None
        elif isinstance(parameter, torch.Tensor):
            parameter.grad = to_torch(gradient).to(parameter.dtype)
        else:
            parameter.grad = jnp.asarray(gradient, parameter.dtype)


def compare(ours: Any, theirs: Any, rtol: float = 1e-5) -> None:
    for name in SHAPES:
        assert_close(getattr(ours, name), getattr(theirs, name), rtol, name)


@pytest.mark.parametrize("how", ["step()", "step(grads)", "jm.jit", "jm.jit, donated"])
@pytest.mark.parametrize(("name", "kwargs"), GRID, ids=IDS)
def test_twenty_steps_are_torchs(name: str, kwargs: dict[str, Any], how: str) -> None:
    ours, theirs = make_module(jm.nn), make_module(torch.nn)
    optimizer = getattr(jm.optim, name)(ours.parameters(), **kwargs)
    reference = getattr(torch.optim, name)(theirs.parameters(), **kwargs)

    def train(model: Any, optimizer: Any, grads: Any) -> None:
        optimizer.step(grads)

    compiled = jm.jit(train, donate=how.endswith("donated"))
    for step in range(STEPS):
        give(theirs, step)
        reference.step()
        grads = {n: jnp.asarray(g) for n, g in gradients(step).items()}
        if how == "step()":
            give(ours, step)
            optimizer.step()
        elif how == "step(grads)":
            optimizer.step(grads)
        else:
            compiled(ours, optimizer, grads)
    compare(ours, theirs)


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW"])
def test_groups_skipped_and_frozen_parameters_are_torchs(name: str) -> None:
    """A parameter without a gradient keeps its step count too; a frozen one is left alone, weight decay included."""
    options = {"weight_decay": 0.1, **({"momentum": 0.9, "dampening": 0.2} if name == "SGD" else {})}
    models, optimizers = [], []
    for library, nn in ((jm.optim, jm.nn), (torch.optim, torch.nn)):
        model = make_module(nn)
        groups = [{"params": [model.a], "lr": 0.2}, {"params": [model.b, model.c], "weight_decay": 0.0, "note": "mine"}]
        models.append(model)
        optimizers.append(getattr(library, name)(groups, lr=0.01, **options))
    for step in range(STEPS):
        skip = {0: ("a",), 1: ("b",), 5: ("a", "b", "c"), 9: ("c",)}.get(step, ())
        for model, optimizer in zip(models, optimizers, strict=True):
            give(model, step, skip)
            if step == 12:
                model.a.requires_grad_(False)
                model.a.grad = None
            if step > 12:
                model.a.grad = None
            if step == 7:
                optimizer.param_groups[1]["lr"] = 0.1
                optimizer.param_groups[0]["weight_decay"] = 0.3
            optimizer.step()
    compare(*models)
    assert optimizers[0].param_groups[1]["note"] == "mine"


def test_momentum_switched_on_later_is_torchs() -> None:
    models = [make_module(jm.nn), make_module(torch.nn)]
    optimizers = [
        jm.optim.SGD(models[0].parameters(), lr=0.1),
        torch.optim.SGD(models[1].parameters(), lr=0.1),
    ]
    for step in range(STEPS):
        for model, optimizer in zip(models, optimizers, strict=True):
            if step == 5:
                optimizer.param_groups[0]["momentum"] = 0.9
            give(model, step)
            optimizer.step()
    compare(*models)


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW"])
def test_half_precision_follows_torch(name: str) -> None:
    """To a few units in the last place: torch rounds between the operations of a step, this once at its end."""
    kwargs: dict[str, Any] = {"lr": 0.05, "weight_decay": 0.1}
    ours, theirs = make_module(jm.nn, "bfloat16"), make_module(torch.nn, "bfloat16")
    optimizer = getattr(jm.optim, name)(ours.parameters(), **kwargs)
    reference = getattr(torch.optim, name)(theirs.parameters(), **kwargs)
    for step in range(STEPS):
        for model in (ours, theirs):
            give(model, step)
        optimizer.step()
        reference.step()
    assert ours.a.dtype == jnp.bfloat16
    compare(ours, theirs, rtol=0.04)


def test_several_steps_with_zero_grad_and_a_closure() -> None:
    """A torch loop, line by line, with `jm.backward` for `loss.backward()`."""
    x = np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32)
    ours, theirs = jm.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    ours.load_state_dict(theirs.state_dict())
    optimizer = jm.optim.Adam(ours.parameters(), lr=0.1)
    reference = torch.optim.Adam(theirs.parameters(), lr=0.1)

    def closure() -> Any:
        optimizer.zero_grad()
        return jm.backward(lambda m: (m(jnp.asarray(x)) ** 2).mean())(ours)

    def torch_closure() -> Any:
        reference.zero_grad()
        loss = (theirs(torch.from_numpy(x)) ** 2).mean()
        loss.backward()
        return loss

    for _ in range(STEPS):
        assert_close(optimizer.step(closure), reference.step(torch_closure))
    assert_close(ours.weight, theirs.weight)
    assert_close(ours.weight.grad, theirs.weight.grad, rtol=1e-4)  # of a loss that is almost zero


# -- arguments ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW"])
def test_arguments_and_defaults_are_torchs(name: str) -> None:
    ours = inspect.signature(getattr(jm.optim, name)).parameters
    theirs = inspect.signature(getattr(torch.optim, name)).parameters
    assert list(ours) == list(theirs)
    for key, parameter in theirs.items():
        assert (ours[key].default, ours[key].kind) == (parameter.default, parameter.kind), key


@pytest.mark.parametrize(("name", "kwargs"), GRID, ids=IDS)
def test_repr_and_groups_are_torchs(name: str, kwargs: dict[str, Any]) -> None:
    ours = getattr(jm.optim, name)(make_module(jm.nn).parameters(), **kwargs)
    theirs = getattr(torch.optim, name)(make_module(torch.nn).parameters(), **kwargs)
    assert repr(ours) == repr(theirs)
    ours_group, theirs_group = ({k: v for k, v in o.param_groups[0].items() if "params" != k} for o in (ours, theirs))
    assert {k: v for k, v in ours_group.items() if k != "names"} == theirs_group


BAD: list[tuple[str, dict[str, Any]]] = [
    ("SGD", {"lr": -1.0}),
    ("SGD", {"momentum": -0.5}),
    ("SGD", {"weight_decay": -0.5}),
    ("SGD", {"nesterov": True}),
    ("SGD", {"nesterov": True, "momentum": 0.9, "dampening": 0.1}),
    ("Adam", {"lr": -1.0}),
    ("Adam", {"eps": -1.0}),
    ("Adam", {"betas": (1.0, 0.9)}),
    ("Adam", {"betas": (0.9, -0.1)}),
    ("AdamW", {"weight_decay": -1.0}),
    ("SGD", {"nonsense": 1}),
]


def message(make: Any) -> tuple[type, str]:
    with pytest.raises(Exception, match=r".") as caught:  # compared with torch's
        make()
    return caught.type, str(caught.value)


@pytest.mark.parametrize(("name", "kwargs"), BAD, ids=str)
def test_hyper_parameters_out_of_range_raise_torchs_errors(name: str, kwargs: dict[str, Any]) -> None:
    ours = message(lambda: getattr(jm.optim, name)(make_module(jm.nn).parameters(), **kwargs))
    assert ours == message(lambda: getattr(torch.optim, name)(make_module(torch.nn).parameters(), **kwargs))


def _both(nn: ModuleType, optim: ModuleType, case: str) -> Any:
    model = make_module(nn)
    optimizer = optim.SGD([model.a], lr=0.1)
    cases = {
        "empty": lambda: optim.SGD([], lr=0.1),
        "no parameters": lambda: optim.SGD(nn.Identity().parameters(), lr=0.1),
        "one parameter": lambda: optim.SGD(model.a, lr=0.1),
        "a number": lambda: optim.SGD([1], lr=0.1),
        "a set": lambda: optim.SGD([{"params": {model.a, model.b}}], lr=0.1),
        "twice": lambda: optim.SGD([{"params": [model.a]}, {"params": [model.a]}], lr=0.1),
        "added twice": lambda: optimizer.add_param_group({"params": [model.a]}),
        "added no dict": lambda: optimizer.add_param_group([model.b]),
        "added without params": lambda: optimizer.add_param_group({"lr": 1.0}),
        "other groups": lambda: optimizer.load_state_dict(
            optim.SGD([{"params": [model.a]}, {"params": [model.b]}], lr=0.1).state_dict()
        ),
        "other number": lambda: optimizer.load_state_dict(optim.SGD([model.b, model.c], lr=0.1).state_dict()),
    }
    return cases[case]


@pytest.mark.parametrize(
    ("case", "words"),
    {
        "empty": "optimizer got an empty parameter list",
        "no parameters": "optimizer got an empty parameter list",
        "one parameter": "params argument given to the optimizer should be an iterable of",
        "a number": "optimizer can only optimize",
        "a set": "optimizer parameters need to be organized in ordered collections",
        "twice": "some parameters appear in more than one parameter group",
        "added twice": "some parameters appear in more than one parameter group",
        "added no dict": "param_group must be a dict, but got <class 'list'>",
        "added without params": "'params'",
        "other groups": "loaded state dict has a different number of parameter groups",
        "other number": "loaded state dict contains a parameter group that doesn't match the",
    }.items(),
)
def test_misuse_raises_torchs_errors(case: str, words: str) -> None:
    ours, theirs = message(_both(jm.nn, jm.optim, case)), message(_both(torch.nn, torch.optim, case))
    assert ours[0] is theirs[0]
    assert ours[1].startswith(words)
    assert theirs[1].startswith(words)


def test_a_parameter_listed_twice_in_a_group_warns() -> None:
    for nn, optim in ((jm.nn, jm.optim), (torch.nn, torch.optim)):
        model = make_module(nn)
        with pytest.warns(UserWarning, match="optimizer contains a parameter group with duplicate parameters"):
            optim.SGD([model.a, model.a], lr=0.1)

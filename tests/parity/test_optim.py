"""The optimizers against torch's: parameters over 50 steps, arguments, defaults, errors and printing."""

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

STEPS = 50
SHAPES = {"a": (4, 3), "b": (3,), "c": (), "d": (2, 3, 4)}
SCALES = {"a": 1.0, "b": 1e-4, "c": 30.0, "d": 0.1}

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
    ("Adamax", {}),
    ("Adamax", {"lr": 0.02, "weight_decay": 0.1, "maximize": True, "betas": (0.9, 0.95), "eps": 1e-6}),
    ("NAdam", {}),
    ("NAdam", {"lr": 0.05, "weight_decay": 0.1}),
    ("NAdam", {"lr": 0.05, "weight_decay": 0.1, "decoupled_weight_decay": True, "momentum_decay": 0.1}),
    ("NAdam", {"lr": 0.05, "maximize": True, "betas": (0.5, 0.9), "eps": 1e-4}),
    ("RAdam", {}),
    ("RAdam", {"lr": 0.05, "betas": (0.8, 0.9), "weight_decay": 0.1}),
    ("RAdam", {"lr": 0.05, "weight_decay": 0.1, "decoupled_weight_decay": True, "maximize": True}),
    ("RAdam", {"lr": 0.05, "betas": (0.0, 0.0)}),
    ("Adagrad", {}),
    ("Adagrad", {"lr": 0.1, "lr_decay": 0.1, "weight_decay": 0.1, "initial_accumulator_value": 0.3, "maximize": True}),
    ("Adadelta", {}),
    ("Adadelta", {"lr": 0.5, "rho": 0.5, "weight_decay": 0.1, "eps": 1e-3, "maximize": True}),
    ("RMSprop", {}),
    ("RMSprop", {"lr": 0.01, "momentum": 0.9, "weight_decay": 0.1}),
    ("RMSprop", {"alpha": 0.5, "centered": True, "maximize": True, "eps": 1e-5}),
    ("RMSprop", {"centered": True, "momentum": 0.5}),
    ("Rprop", {}),
    ("Rprop", {"lr": 0.1, "etas": (0.3, 1.5), "step_sizes": (1e-2, 0.5), "maximize": True}),
    ("ASGD", {}),
    ("ASGD", {"lr": 0.02, "lambd": 0.01, "t0": 10, "weight_decay": 0.1, "alpha": 0.5, "maximize": True}),
    ("Adafactor", {}),
    (
        "Adafactor",
        {"lr": 0.1, "weight_decay": 0.1, "beta2_decay": -0.5, "d": 2.0, "eps": (1e-6, 1e-2), "maximize": True},
    ),
    ("Muon", {}),
    ("Muon", {"lr": 0.01, "nesterov": False, "weight_decay": 0.3, "adjust_lr_fn": "match_rms_adamw"}),
    ("Muon", {"lr": 0.01, "ns_steps": 3, "ns_coefficients": (3.0, -3.2, 1.2), "momentum": 0.5}),
]
NAMES = sorted({name for name, _ in GRID})

# Muon multiplies in bfloat16, and which of two neighbouring numbers a sum rounds to depends on its order.
RTOL = {"Muon": 2e-2}


def make_module(nn: ModuleType, dtype: str = "float32", of: str = "") -> Any:
    """Four parameters of different ranks, with values of a known seed; those that optimizer `of` can move."""
    rng = np.random.default_rng(1)
    module = nn.Module()
    for name, shape in SHAPES.items():
        if of == "Muon" and len(shape) != 2:
            continue
        values = rng.standard_normal(shape).astype(np.float32)
        value = jnp.asarray(values, dtype) if nn is jm.nn else to_torch(values).to(getattr(torch, dtype))
        setattr(module, name, nn.Parameter(value))
    return module


def gradients(step: int) -> dict[str, np.ndarray]:
    """Of very different sizes, some zero."""
    rng = np.random.default_rng((7, step))
    return {n: np.asarray(rng.standard_normal(s) * SCALES[n] * (step % 5 != 3), np.float32) for n, s in SHAPES.items()}


def give(module: Any, step: int, skip: tuple[str, ...] = ()) -> None:
    """Set `.grad` of every parameter but those to skip."""
    for name, gradient in gradients(step).items():
        if name not in module._parameters:
            continue
        parameter = getattr(module, name)
        if name in skip:
            parameter.grad = None
        elif isinstance(parameter, torch.Tensor):
            parameter.grad = to_torch(gradient).to(parameter.dtype)
        else:
            parameter.grad = jnp.asarray(gradient, parameter.dtype)


def compare(ours: Any, theirs: Any, rtol: float = 1e-5) -> None:
    for name in theirs._parameters:
        assert_close(getattr(ours, name), getattr(theirs, name), rtol, name)


# Compiled for every line of the grid; the other ways for the last line of each optimizer, which has most in use.
LAST = {name: (name, kwargs) for name, kwargs in GRID}
WAYS = [
    *((name, kwargs, "jm.jit") for name, kwargs in GRID),
    *(
        pytest.param(*LAST[name], "step()", marks=[] if name in ("SGD", "AdamW", "Adafactor") else pytest.mark.slow)
        for name in NAMES
    ),
    *((*LAST[name], how) for name in ("SGD", "AdamW", "NAdam") for how in ("step(grads)", "jm.jit, donated")),
]


@pytest.mark.parametrize(("name", "kwargs", "how"), WAYS, ids=str)
def test_fifty_steps_are_torchs(name: str, kwargs: dict[str, Any], how: str) -> None:
    ours, theirs = make_module(jm.nn, of=name), make_module(torch.nn, of=name)
    optimizer = getattr(jm.optim, name)(ours.parameters(), **kwargs)
    reference = getattr(torch.optim, name)(theirs.parameters(), **kwargs)

    def train(model: Any, optimizer: Any, grads: Any) -> None:
        optimizer.step(grads)

    compiled = jm.jit(train, donate=how.endswith("donated"))
    for step in range(STEPS):
        give(theirs, step)
        reference.step()
        grads = {n: jnp.asarray(g) for n, g in gradients(step).items() if n in ours._parameters}
        if how == "step()":
            give(ours, step)
            optimizer.step()
        elif how == "step(grads)":
            optimizer.step(grads)
        else:
            compiled(ours, optimizer, grads)
    compare(ours, theirs, RTOL.get(name, 1e-5))


@pytest.mark.parametrize("name", [name for name in NAMES if name != "Muon"])
def test_groups_skipped_and_frozen_parameters_are_torchs(name: str) -> None:
    """A parameter without a gradient keeps its step count too; a frozen one is left alone, weight decay included."""
    options: dict[str, Any] = {"momentum": 0.9, "dampening": 0.2} if name == "SGD" else {}
    if name != "Rprop":
        options["weight_decay"] = 0.1
    models, optimizers = [], []
    for library, nn in ((jm.optim, jm.nn), (torch.optim, torch.nn)):
        model = make_module(nn)
        rest = {} if name == "Rprop" else {"weight_decay": 0.0}
        groups = [{"params": [model.a], "lr": 0.2}, {"params": [model.b, model.c], **rest, "note": "mine"}]
        models.append(model)
        optimizers.append(getattr(library, name)(groups, lr=0.01, **options))
    for step in range(20):
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
                optimizer.param_groups[0].update({} if name == "Rprop" else {"weight_decay": 0.3})
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


@pytest.mark.parametrize("state_dtype", [None, "param"])
@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW", "RMSprop"])
def test_half_precision_follows_torch(name: str, state_dtype: Any) -> None:
    """To a few units in the last place: torch rounds between the operations of a step, this once at its end."""
    kwargs: dict[str, Any] = {"lr": 0.05 if name != "RMSprop" else 0.005, "weight_decay": 0.1}
    ours, theirs = make_module(jm.nn, "bfloat16"), make_module(torch.nn, "bfloat16")
    optimizer = getattr(jm.optim, name)(ours.parameters(), **kwargs, state_dtype=state_dtype)
    reference = getattr(torch.optim, name)(theirs.parameters(), **kwargs)
    for step in range(20):
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
@pytest.mark.parametrize("name", [*NAMES, "LBFGS", "SparseAdam"])
def test_arguments_and_defaults_are_torchs(name: str) -> None:
    """And two of our own, by keyword only, at the end."""
    ours = inspect.signature(getattr(jm.optim, name)).parameters
    theirs = inspect.signature(getattr(torch.optim, name)).parameters
    own = [] if name in ("LBFGS", "SparseAdam") else ["state_dtype", "master_weights"]
    assert list(ours) == [*theirs, *own]
    assert all(ours[key].kind is inspect.Parameter.KEYWORD_ONLY for key in own)
    for key, parameter in theirs.items():
        assert (ours[key].default, ours[key].kind) == (parameter.default, parameter.kind), key


@pytest.mark.parametrize(("name", "kwargs"), [*GRID, ("LBFGS", {}), ("LBFGS", {"max_iter": 7})], ids=str)
def test_repr_and_groups_are_torchs(name: str, kwargs: dict[str, Any]) -> None:
    ours = getattr(jm.optim, name)(make_module(jm.nn, of=name).parameters(), **kwargs)
    theirs = getattr(torch.optim, name)(make_module(torch.nn, of=name).parameters(), **kwargs)
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
    ("SGD", {"lr": "two"}),
    ("SGD", {"fused": True, "differentiable": True}),
    ("Adam", {"fused": True, "foreach": True}),
    ("Adamax", {"betas": (0.9, 1.0)}),
    ("NAdam", {"momentum_decay": -1.0}),
    ("NAdam", {"eps": -1.0}),
    ("RAdam", {"weight_decay": -1.0}),
    ("Adagrad", {"lr_decay": -1.0}),
    ("Adagrad", {"initial_accumulator_value": -1.0}),
    ("Adagrad", {"eps": -1.0}),
    ("Adadelta", {"rho": 1.5}),
    ("Adadelta", {"lr": -1.0}),
    ("RMSprop", {"alpha": -1.0}),
    ("RMSprop", {"momentum": -1.0}),
    ("Rprop", {"etas": (1.5, 1.2)}),
    ("ASGD", {"weight_decay": -1.0}),
    ("Adafactor", {"lr": -1.0}),
    ("Adafactor", {"beta2_decay": 0.5}),
    ("Adafactor", {"eps": (-1.0, 1e-3)}),
    ("Adafactor", {"eps": (None, -1.0)}),
    ("Adafactor", {"d": 0.5}),
    ("Adafactor", {"weight_decay": -0.5}),
    ("Muon", {"lr": -1.0}),
    ("Muon", {"momentum": -1.0}),
    ("Muon", {"weight_decay": -1.0}),
    ("Muon", {"adjust_lr_fn": "nonsense"}),
    ("LBFGS", {"lr": -1.0}),
]


def message(make: Any) -> tuple[type, str]:
    with pytest.raises(Exception, match=r".") as caught:  # compared with torch's
        make()
    return caught.type, str(caught.value)


@pytest.mark.parametrize(("name", "kwargs"), BAD, ids=str)
def test_hyper_parameters_out_of_range_raise_torchs_errors(name: str, kwargs: dict[str, Any]) -> None:
    kwargs, theirs = dict(kwargs), dict(kwargs)
    if kwargs.get("lr") == "two":
        kwargs["lr"], theirs["lr"] = jnp.ones(2), torch.ones(2)
    ours = message(lambda: getattr(jm.optim, name)(make_module(jm.nn, of=name).parameters(), **kwargs))
    assert ours == message(lambda: getattr(torch.optim, name)(make_module(torch.nn, of=name).parameters(), **theirs))


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
        "no matrix": lambda: optim.Muon([model.b]),
        "two groups of LBFGS": lambda: optim.LBFGS([{"params": [model.a]}, {"params": [model.b]}]),
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
        "no matrix": "Muon only supports 2D parameters whereas we found a parameter with size",
        "two groups of LBFGS": "LBFGS doesn't support per-parameter options (parameter groups)",
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

"""The schedulers against torch's: rates and momentum over 60 steps, state dicts, resuming, errors."""

from __future__ import annotations

import inspect
import warnings
from types import ModuleType
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import torch

import jaxmodule as jm
from jaxmodule.optim import lr_scheduler as schedulers
from tests.parity.oracle import same_error

STEPS = 64
TORCH = torch.optim.lr_scheduler


def halving(step: int) -> float:
    return 0.5 ** (step // 10)


def inverse(step: Any) -> Any:
    return 1.0 / (1.0 + step)


class Decay:
    """A callable object, which state dicts have."""

    def __init__(self, rate: float) -> None:
        self.rate = rate

    def __call__(self, step: Any) -> Any:
        return self.rate**step


GRID: list[tuple[str, dict[str, Any]]] = [
    ("LambdaLR", {"lr_lambda": halving}),
    ("LambdaLR", {"lr_lambda": [inverse, Decay(0.9)]}),
    ("MultiplicativeLR", {"lr_lambda": lambda step: 0.97}),
    ("MultiplicativeLR", {"lr_lambda": [lambda step: 0.9, lambda step: 1.0 - 0.001 * step]}),
    ("StepLR", {"step_size": 7}),
    ("StepLR", {"step_size": 1, "gamma": 0.9}),
    ("MultiStepLR", {"milestones": [5, 20, 20, 40], "gamma": 0.3}),
    ("MultiStepLR", {"milestones": []}),
    ("ConstantLR", {}),
    ("ConstantLR", {"factor": 0.2, "total_iters": 31}),
    ("LinearLR", {}),
    ("LinearLR", {"start_factor": 1.0, "end_factor": 0.1, "total_iters": 50}),
    ("LinearLR", {"start_factor": 0.01, "total_iters": 1}),
    ("ExponentialLR", {"gamma": 0.93}),
    ("PolynomialLR", {}),
    ("PolynomialLR", {"total_iters": 40, "power": 2.5}),
    ("CosineAnnealingLR", {"T_max": 10}),
    ("CosineAnnealingLR", {"T_max": 25, "eta_min": 0.003}),
    ("CosineAnnealingLR", {"T_max": 100, "eta_min": 0.5}),
    ("CosineAnnealingWarmRestarts", {"T_0": 10}),
    ("CosineAnnealingWarmRestarts", {"T_0": 3, "T_mult": 2, "eta_min": 0.001}),
    ("CyclicLR", {"base_lr": 0.01, "max_lr": 0.1, "step_size_up": 5}),
    ("CyclicLR", {"base_lr": [0.01, 0.2], "max_lr": [0.1, 0.3], "step_size_up": 7, "step_size_down": 2}),
    ("CyclicLR", {"base_lr": 0.01, "max_lr": 0.1, "step_size_up": 4, "mode": "triangular2", "base_momentum": 0.7}),
    ("CyclicLR", {"base_lr": 0.01, "max_lr": 0.1, "step_size_up": 4, "mode": "exp_range", "gamma": 0.95}),
    ("CyclicLR", {"base_lr": 0.01, "max_lr": 0.1, "step_size_up": 4, "scale_fn": inverse, "cycle_momentum": False}),
    (
        "CyclicLR",
        {"base_lr": 0.01, "max_lr": 0.1, "step_size_up": 4, "scale_fn": Decay(0.9), "scale_mode": "iterations"},
    ),
    ("OneCycleLR", {"max_lr": 0.5, "total_steps": 64}),
    ("OneCycleLR", {"max_lr": [0.5, 0.1], "epochs": 10, "steps_per_epoch": 7, "anneal_strategy": "linear"}),
    ("OneCycleLR", {"max_lr": 0.5, "total_steps": 80, "three_phase": True, "pct_start": 0.2, "base_momentum": 0.6}),
    ("OneCycleLR", {"max_lr": 0.5, "total_steps": 70, "div_factor": 5.0, "final_div_factor": 10.0, "pct_start": 0.0}),
    ("OneCycleLR", {"max_lr": 0.5, "total_steps": 70, "cycle_momentum": False, "pct_start": 1.0}),
]
IDS = [f"{name}-{i}" for i, (name, _) in enumerate(GRID)]


def libraries() -> list[tuple[ModuleType, ModuleType, ModuleType, Any]]:
    return [(jm.optim, schedulers, jm.nn, jnp), (torch.optim, TORCH, torch.nn, torch)]


def optimizer(library: Any, nn: Any, arrays: Any, kind: str = "SGD") -> Any:
    """With two groups, and after one step, so that nobody warns of a missing one."""
    a, b = (nn.Parameter(arrays.ones(2)) for _ in range(2))
    options = {"momentum": 0.9} if kind == "SGD" else {}
    made = getattr(library, kind)([{"params": [a]}, {"params": [b], "lr": 0.04}], lr=0.3, **options)
    return made


def take_step(made: Any) -> None:
    for group in made.param_groups:
        for parameter in group["params"]:
            parameter.grad = parameter * 0 if isinstance(parameter, torch.Tensor) else parameter.value * 0
    made.step()


def reading(made: Any) -> list[float]:
    """What a scheduler may set."""
    found = []
    for group in made.param_groups:
        found += [group["lr"], group.get("momentum", 0.0), *group.get("betas", ())]
    return found


def run(made: Any, scheduler: Any, steps: int) -> np.ndarray:
    rows = [reading(made)]
    take_step(made)
    for _ in range(steps):
        scheduler.step()
        rows.append(reading(made))
    np.testing.assert_array_equal(scheduler.get_last_lr(), [group["lr"] for group in made.param_groups])
    return np.asarray(rows, np.float64)


def both(make: Any, kind: str = "SGD") -> list[tuple[Any, Any]]:
    """`(optimizer, scheduler)` of both libraries."""
    found = []
    for library, module, nn, arrays in libraries():
        made = optimizer(library, nn, arrays, kind)
        found.append((made, make(module, made)))
    return found


@pytest.mark.parametrize(("name", "kwargs"), GRID, ids=IDS)
def test_sixty_steps_are_torchs(name: str, kwargs: dict[str, Any]) -> None:
    (ours, mine), (theirs, reference) = both(lambda module, made: getattr(module, name)(made, **kwargs))
    np.testing.assert_allclose(run(ours, mine, STEPS), run(theirs, reference, STEPS), rtol=1e-12, atol=1e-18)


@pytest.mark.parametrize(("name", "kwargs"), [GRID[i] for i in (0, 21, 27)])
def test_beta1_is_cycled_as_torchs(name: str, kwargs: dict[str, Any]) -> None:
    (ours, mine), (theirs, reference) = both(lambda module, made: getattr(module, name)(made, **kwargs), "Adam")
    np.testing.assert_allclose(run(ours, mine, STEPS), run(theirs, reference, STEPS), rtol=1e-12, atol=1e-18)


@pytest.mark.parametrize(("name", "kwargs"), GRID, ids=IDS)
def test_state_dicts_are_torchs_and_go_on(name: str, kwargs: dict[str, Any]) -> None:
    """Ours loads torch's, and a scheduler that is made anew goes on where the first stopped."""

    def make(module: Any, made: Any) -> Any:
        return getattr(module, name)(made, **kwargs)

    (ours, mine), (theirs, reference) = both(make)
    run(ours, mine, 23)
    run(theirs, reference, 23)
    expected = reference.state_dict()
    assert mine.state_dict().keys() == expected.keys()
    for key, value in mine.state_dict().items():
        assert repr_of(value) == repr_of(expected[key]), key
    rest = run(theirs, reference, 30)
    for state in (mine.state_dict(), expected_at(make, 23)):
        again = optimizer(jm.optim, jm.nn, jnp)
        scheduler = make(schedulers, again)
        again.load_state_dict(ours.state_dict())
        scheduler.load_state_dict(state)
        np.testing.assert_allclose(run(again, scheduler, 30), rest, rtol=1e-12, atol=1e-18)


def expected_at(make: Any, steps: int) -> dict[str, Any]:
    _, (made, scheduler) = both(make)
    run(made, scheduler, steps)
    return scheduler.state_dict()


def repr_of(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.12g}"
    if isinstance(value, dict):
        return str({key: repr_of(one) for key, one in value.items()})
    return str([repr_of(one) for one in value]) if isinstance(value, list) else repr(value)


CLOSED = [(n, k) for n, k in GRID if n not in ("MultiplicativeLR", "LambdaLR", "CyclicLR", "OneCycleLR")]


@pytest.mark.parametrize(("name", "kwargs"), CLOSED, ids=[f"{n}-{i}" for i, (n, _) in enumerate(CLOSED)])
def test_a_step_to_an_epoch_is_torchs(name: str, kwargs: dict[str, Any]) -> None:
    (ours, mine), (theirs, reference) = both(lambda module, made: getattr(module, name)(made, **kwargs))
    take_step(ours)
    take_step(theirs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for epoch in (3, 17, 60, 2):
            mine.step(epoch)
            reference.step(epoch)
            np.testing.assert_allclose(reading(ours), reading(theirs), rtol=1e-12, atol=1e-18)
            mine.step()
            reference.step()
            np.testing.assert_allclose(reading(ours), reading(theirs), rtol=1e-12, atol=1e-18)


@pytest.mark.parametrize("epoch", [0.25, 2.5, 3.0, 9.75, 45.5])
def test_warm_restarts_take_fractions(epoch: float) -> None:
    for kwargs in ({"T_0": 3}, {"T_0": 3, "T_mult": 2}):
        (ours, mine), (theirs, reference) = both(lambda m, o, k=kwargs: m.CosineAnnealingWarmRestarts(o, **k))
        take_step(ours)
        take_step(theirs)
        for _ in range(2):
            mine.step(epoch)
            reference.step(epoch)
            mine.step()
            reference.step()
            assert mine.last_epoch == reference.last_epoch
            np.testing.assert_allclose(reading(ours), reading(theirs), rtol=1e-12)


COMBINED: dict[str, Any] = {
    "warm-up and cosine": lambda m, o: m.SequentialLR(
        o, [m.LinearLR(o, 0.1, total_iters=8), m.CosineAnnealingLR(o, 40, 0.001)], [8]
    ),
    "three": lambda m, o: m.SequentialLR(
        o, [m.ConstantLR(o, 0.1, 5), m.ExponentialLR(o, 0.9), m.StepLR(o, 4, 0.5)], [10, 30]
    ),
    "without a closed form": lambda m, o: m.SequentialLR(
        o, [m.MultiplicativeLR(o, lambda s: 0.95), m.CosineAnnealingWarmRestarts(o, 7), m.LambdaLR(o, inverse)], [9, 30]
    ),
    "nested": lambda m, o: m.SequentialLR(
        o, [m.ChainedScheduler([m.ConstantLR(o, 0.5, 4), m.ExponentialLR(o, 0.95)]), m.PolynomialLR(o, 20)], [20]
    ),
    "chained": lambda m, o: m.ChainedScheduler([m.ConstantLR(o, 0.1, 20), m.ExponentialLR(o, 0.9)], optimizer=o),
    "chained cosine": lambda m, o: m.ChainedScheduler(
        [m.CosineAnnealingLR(o, 20, 0.001), m.StepLR(o, 7, 0.5), m.LinearLR(o, 0.3, total_iters=10)]
    ),
}


@pytest.mark.parametrize("make", COMBINED.values(), ids=COMBINED.keys())
def test_combined_schedulers_are_torchs(make: Any) -> None:
    with warnings.catch_warnings():
        # torch's nested ones warn that they step before the optimizer, when they are made.
        warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step", module="torch")
        (ours, mine), (theirs, reference) = both(make)
    np.testing.assert_allclose(run(ours, mine, 23), run(theirs, reference, 23), rtol=1e-12)
    assert mine.state_dict().keys() == reference.state_dict().keys()
    again = optimizer(jm.optim, jm.nn, jnp)
    scheduler = make(schedulers, again)
    again.load_state_dict(ours.state_dict())
    scheduler.load_state_dict(reference.state_dict())
    np.testing.assert_allclose(run(again, scheduler, 40), run(theirs, reference, 40), rtol=1e-12)


PLATEAU: list[dict[str, Any]] = [
    {},
    {"patience": 2, "factor": 0.5},
    {"patience": 0, "factor": 0.5, "min_lr": [0.01, 0.02]},
    {"mode": "max", "patience": 3, "threshold": 0.05},
    {"mode": "max", "patience": 1, "threshold": 0.1, "threshold_mode": "abs"},
    {"patience": 1, "cooldown": 4, "threshold_mode": "abs", "eps": 0.01},
]


@pytest.mark.parametrize("kwargs", PLATEAU, ids=str)
def test_reduce_on_plateau_is_torchs(kwargs: dict[str, Any]) -> None:
    metrics = np.random.default_rng(3).random(STEPS) + np.linspace(2, 0, STEPS).round(1)
    (ours, mine), (theirs, reference) = both(lambda module, made: module.ReduceLROnPlateau(made, **kwargs))
    for i, metric in enumerate(metrics):
        mine.step(jnp.asarray(metric))
        reference.step(torch.as_tensor(np.float32(metric)))
        np.testing.assert_allclose(reading(ours), reading(theirs), rtol=1e-12)
        assert mine.num_bad_epochs == reference.num_bad_epochs
        if i == 30:
            assert mine.state_dict() == reference.state_dict()
            mine = schedulers.ReduceLROnPlateau(ours)
            mine.load_state_dict(reference.state_dict())
    assert mine.get_last_lr() == [group["lr"] for group in ours.param_groups]


@pytest.mark.parametrize("name", schedulers.__all__)
def test_signatures_are_torchs(name: str) -> None:
    if name == "WarmupCosineLR":
        assert not hasattr(TORCH, name)
        return
    ours, theirs = (inspect.signature(getattr(module, name)).parameters for module in (schedulers, TORCH))
    assert [(p.name, p.default, p.kind) for p in ours.values()] == [
        (p.name, p.default, p.kind) for p in theirs.values()
    ]


def test_every_scheduler_of_torchs_is_there() -> None:
    assert set(TORCH.__all__) <= set(schedulers.__all__)


ERRORS: dict[str, Any] = {
    "no optimizer": lambda m, o: m.StepLR(object(), 3),
    "resumed without a start": lambda m, o: m.StepLR(o, 3, last_epoch=4),
    "too few functions": lambda m, o: m.LambdaLR(o, [halving]),
    "too few factors": lambda m, o: m.MultiplicativeLR(o, [halving]),
    "no function": lambda m, o: m.MultiplicativeLR(o, 0.9),
    "factor": lambda m, o: m.ConstantLR(o, 1.5),
    "start factor": lambda m, o: m.LinearLR(o, 0.0),
    "end factor": lambda m, o: m.LinearLR(o, 0.5, 1.5),
    "T_0": lambda m, o: m.CosineAnnealingWarmRestarts(o, 0),
    "T_0 float": lambda m, o: m.CosineAnnealingWarmRestarts(o, 1.5),
    "T_mult": lambda m, o: m.CosineAnnealingWarmRestarts(o, 2, 0),
    "eta_min": lambda m, o: m.CosineAnnealingWarmRestarts(o, 2, 1, "0"),
    "negative epoch": lambda m, o: m.CosineAnnealingWarmRestarts(o, 2).step(-1),
    "cyclic mode": lambda m, o: m.CyclicLR(o, 0.1, 0.2, mode="square"),
    "cyclic lengths": lambda m, o: m.CyclicLR(o, [0.1], 0.2),
    "one cycle without steps": lambda m, o: m.OneCycleLR(o, 0.1),
    "one cycle no int": lambda m, o: m.OneCycleLR(o, 0.1, 10.0),
    "one cycle epochs": lambda m, o: m.OneCycleLR(o, 0.1, epochs=0, steps_per_epoch=3),
    "one cycle part": lambda m, o: m.OneCycleLR(o, 0.1, 10, pct_start=2.0),
    "one cycle strategy": lambda m, o: m.OneCycleLR(o, 0.1, 10, anneal_strategy="step"),
    "plateau factor": lambda m, o: m.ReduceLROnPlateau(o, factor=1.0),
    "plateau mode": lambda m, o: m.ReduceLROnPlateau(o, mode="less"),
    "plateau threshold": lambda m, o: m.ReduceLROnPlateau(o, threshold_mode="less"),
    "plateau lengths": lambda m, o: m.ReduceLROnPlateau(o, min_lr=[0.1]),
    "sequence of none": lambda m, o: m.SequentialLR(o, [], []),
    "sequence of others": lambda m, o: m.SequentialLR(o, [3], []),
    "sequence with a plateau": lambda m, o: m.SequentialLR(o, [m.ReduceLROnPlateau(o)], []),
    "too many milestones": lambda m, o: m.SequentialLR(o, [m.StepLR(o, 2)], [3]),
    "chain of none": lambda m, o: m.ChainedScheduler([]),
    "chain with a plateau": lambda m, o: m.ChainedScheduler([m.ReduceLROnPlateau(o)]),
    "get_lr": lambda m, o: m.LRScheduler(o),
}


@pytest.mark.parametrize("call", ERRORS.values(), ids=ERRORS.keys())
def test_errors_are_torchs(call: Any) -> None:
    sides = [
        lambda lib=lib, mod=mod, nn=nn, xp=xp: call(mod, optimizer(lib, nn, xp)) for lib, mod, nn, xp in libraries()
    ]
    same_error(*sides)


def test_one_cycle_ends() -> None:
    (ours, mine), (theirs, reference) = both(lambda module, made: module.OneCycleLR(made, 0.1, 5))
    run(ours, mine, 5)
    run(theirs, reference, 5)
    with pytest.raises(ValueError, match="Tried to step 6 times"):
        reference.step()
    with pytest.raises(ValueError, match="Tried to step 6 times"):
        mine.step()


def test_warnings_are_torchs() -> None:
    for made, scheduler in both(lambda module, made: module.StepLR(made, 2)):
        with pytest.warns(UserWarning, match=r"lr_scheduler.step\(\)` before `optimizer.step"):
            scheduler.step()
        with pytest.warns(UserWarning, match="get_last_lr"):
            scheduler.get_lr()
        take_step(made)
        with pytest.warns(UserWarning, match="epoch parameter"):
            scheduler.step(5)

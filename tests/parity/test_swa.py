"""Averages of weights against torch's: SWA, EMA, buffers, `update_bn`, `SWALR`."""

from __future__ import annotations

import inspect
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import torch

import jaxmodule as jm
from jaxmodule.optim import swa_utils
from tests.parity.oracle import assert_close, same_error, to_numpy

TORCH = torch.optim.swa_utils


def net(nn: Any) -> Any:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))


def pair() -> tuple[Any, Any]:
    reference = net(torch.nn)
    ours = net(jm.nn)
    ours.load_state_dict({name: jnp.asarray(to_numpy(t)) for name, t in reference.state_dict().items()})
    return ours, reference


def move(ours: Any, reference: Any, seed: int) -> None:
    """The same new values for both, running statistics included."""
    rng = np.random.default_rng(seed)
    for (name, box), tensor in zip(
        ours.state_dict(keep_vars=True).items(), reference.state_dict().values(), strict=True
    ):
        assert name
        value = rng.integers(1, 9) if tensor.ndim == 0 else rng.random(tuple(tensor.shape)).astype(np.float32)
        box.value = jnp.asarray(value, box.dtype)
        tensor.copy_(torch.as_tensor(value))


AVERAGES: dict[str, Any] = {
    "swa": lambda m: {},
    "swa, buffers": lambda m: {"use_buffers": True},
    "ema": lambda m: {"avg_fn": m.get_ema_avg_fn(0.9)},
    "ema, many": lambda m: {"multi_avg_fn": m.get_ema_multi_avg_fn(0.9)},
    "ema, many, buffers": lambda m: {"multi_avg_fn": m.get_ema_multi_avg_fn(0.3), "use_buffers": True},
    "swa, one": lambda m: {"avg_fn": m.get_swa_avg_fn()},
    "swa, many": lambda m: {"multi_avg_fn": m.get_swa_multi_avg_fn()},  # torch's fails for buffers of integers
    "own": lambda m: {"avg_fn": lambda averaged, current, n: 0.7 * averaged + 0.3 * current},
}


@pytest.mark.parametrize("kwargs", AVERAGES.values(), ids=AVERAGES.keys())
def test_averages_are_torchs(kwargs: Any) -> None:
    ours, reference = pair()
    mine = swa_utils.AveragedModel(ours, **kwargs(swa_utils))
    theirs = TORCH.AveragedModel(reference, **kwargs(TORCH))
    for step in range(6):
        move(ours, reference, step)
        mine.update_parameters(ours)
        theirs.update_parameters(reference)
        assert list(mine.state_dict()) == list(theirs.state_dict())
        for (name, value), tensor in zip(mine.state_dict().items(), theirs.state_dict().values(), strict=True):
            assert_close(value, tensor.int() if tensor.dtype == torch.int64 else tensor, 1e-6, name)
    again = swa_utils.AveragedModel(ours, **kwargs(swa_utils))
    again.load_state_dict({name: jnp.asarray(to_numpy(t)) for name, t in theirs.state_dict().items()})
    x = np.random.default_rng(0).random((5, 3)).astype(np.float32)
    assert_close(again.eval()(jnp.asarray(x)), theirs.eval()(torch.from_numpy(x)), 1e-5)


def test_update_bn_is_torchs() -> None:
    ours, reference = pair()
    batches = [np.random.default_rng(i).random((4 + i, 3)).astype(np.float32) for i in range(3)]
    swa_utils.update_bn([(jnp.asarray(b), None) for b in batches], ours)
    TORCH.update_bn([(torch.from_numpy(b), None) for b in batches], reference)
    for (name, value), tensor in zip(ours.state_dict().items(), reference.state_dict().values(), strict=True):
        assert_close(value, tensor.int() if tensor.dtype == torch.int64 else tensor, 1e-5, name)


SWALRS: list[dict[str, Any]] = [
    {"swa_lr": 0.05},
    {"swa_lr": [0.05, 0.5], "anneal_strategy": "linear", "anneal_epochs": 20},
    {"swa_lr": 0.05, "anneal_epochs": 0},
    {"swa_lr": 0.05, "anneal_epochs": 1, "anneal_strategy": "linear"},
]


@pytest.mark.parametrize("kwargs", SWALRS, ids=str)
def test_swalr_is_torchs(kwargs: dict[str, Any]) -> None:
    rates = []
    for optim, schedulers, module, nn, xp in (
        (jm.optim, jm.optim.lr_scheduler, swa_utils, jm.nn, jnp),
        (torch.optim, torch.optim.lr_scheduler, TORCH, torch.nn, torch),
    ):
        a, b = (nn.Parameter(xp.ones(2)) for _ in range(2))
        optimizer = optim.SGD([{"params": [a]}, {"params": [b], "lr": 0.01}], lr=0.3)
        first = schedulers.ExponentialLR(optimizer, 0.9)
        scheduler = module.SWALR(optimizer, **kwargs)
        a.grad = a * 0 if xp is torch else a.value * 0
        optimizer.step()
        found = []
        for step in range(40):
            (first if step < 5 else scheduler).step()
            found.append([group["lr"] for group in optimizer.param_groups])
        rates.append(found)
        keys = scheduler.state_dict().keys()
        assert keys == {"base_lrs", "last_epoch", "_step_count", "_is_initial", "_get_lr_called_within_step"} | {
            "_last_lr",
            "_anneal_strategy",
            "anneal_epochs",
        }
    np.testing.assert_allclose(*rates, rtol=1e-12)


@pytest.mark.parametrize("name", TORCH.__all__)
def test_signatures_are_torchs(name: str) -> None:
    signatures = (inspect.signature(getattr(module, name)).parameters.values() for module in (swa_utils, TORCH))
    ours, theirs = ([(p.name, p.default, p.kind) for p in parameters] for parameters in signatures)
    assert ours == theirs


ERRORS: dict[str, Any] = {
    "decay": lambda m, lib: m.get_ema_avg_fn(1.5),
    "decay of many": lambda m, lib: m.get_ema_multi_avg_fn(-0.1),
    "two functions": lambda m, lib: m.AveragedModel(
        net(lib.nn), avg_fn=m.get_swa_avg_fn(), multi_avg_fn=m.get_swa_multi_avg_fn()
    ),
    "strategy": lambda m, lib: m.SWALR(lib.optim.SGD(net(lib.nn).parameters(), 0.1), 0.1, anneal_strategy="steps"),
    "epochs": lambda m, lib: m.SWALR(lib.optim.SGD(net(lib.nn).parameters(), 0.1), 0.1, anneal_epochs=-1),
    "no int": lambda m, lib: m.SWALR(lib.optim.SGD(net(lib.nn).parameters(), 0.1), 0.1, anneal_epochs=1.5),
    "lengths": lambda m, lib: m.SWALR(lib.optim.SGD(net(lib.nn).parameters(), 0.1), [0.1, 0.2]),
}


@pytest.mark.parametrize("call", ERRORS.values(), ids=ERRORS.keys())
def test_errors_are_torchs(call: Any) -> None:
    same_error(lambda: call(swa_utils, jm), lambda: call(TORCH, torch))

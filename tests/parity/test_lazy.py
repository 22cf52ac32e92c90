"""Lazy layers against torch's: before the first call, after it, after loading, and with bad input."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest
import torch

import jaxmodule as jm
from jaxmodule import nn
from jaxmodule.nn.parameter import is_lazy
from tests.parity.oracle import assert_close, to_torch

NAMES = [name for name in dir(torch.nn) if name.startswith("Lazy")]
DIMENSIONS = {"Linear": 0, "1d": 1, "2d": 2, "3d": 3}


def arguments(name: str) -> tuple[int, ...]:
    return (4,) if name == "LazyLinear" else (4, 3) if name.startswith("LazyConv") else ()


def inputs(name: str) -> np.ndarray:
    n = next(n for suffix, n in DIMENSIONS.items() if name.endswith(suffix))
    return np.random.default_rng(0).standard_normal((2, 3, *[5] * n)).astype(np.float32)


def pair(name: str, **options: Any) -> tuple[nn.Module, torch.nn.Module]:
    return getattr(nn, name)(*arguments(name), **options), getattr(torch.nn, name)(*arguments(name), **options)


@pytest.mark.parametrize("name", NAMES)
def test_signature_is_torchs(name: str) -> None:
    def parameters(cls: type) -> list[tuple[str, Any, Any]]:
        return [(p.name, p.default, p.kind) for p in inspect.signature(cls).parameters.values()]

    assert parameters(getattr(nn, name)) == parameters(getattr(torch.nn, name))


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_first_call(name: str, compiled: bool) -> None:
    ours, theirs = pair(name)
    assert repr(ours) == repr(theirs)
    assert {k: is_lazy(v) for k, v in ours.state_dict().items()} == {
        k: torch.nn.parameter.is_lazy(v) for k, v in theirs.state_dict().items()
    }
    x = inputs(name)
    (jm.jit(ours) if compiled else ours)(x)
    theirs(to_torch(x))
    assert repr(ours) == repr(theirs)
    assert type(ours) is getattr(nn, name.removeprefix("Lazy"))
    assert not any(map(is_lazy, ours.state_dict().values()))
    ours.load_state_dict(theirs.state_dict())
    assert_close(ours(x), theirs(to_torch(x)))


@pytest.mark.parametrize("name", NAMES)
def test_loading_before_the_first_call(name: str) -> None:
    ours, theirs = pair(name)
    theirs(to_torch(inputs(name)))
    assert ours.load_state_dict(theirs.state_dict()).missing_keys == []
    assert type(ours) is getattr(nn, name)
    assert_close(ours.eval()(inputs(name)), theirs.eval()(to_torch(inputs(name))))
    assert repr(ours) == repr(theirs)


@pytest.mark.parametrize("name", [name for name in NAMES if "Norm" in name])
@pytest.mark.parametrize("options", [{"affine": False}, {"track_running_stats": False}, {"bias": False}])
def test_norms_without_parts(name: str, options: dict[str, bool]) -> None:
    ours, theirs = pair(name, **options)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    if options in ({"affine": False}, {"track_running_stats": False}) or "Batch" in name:
        assert_close(ours(inputs(name)), theirs(to_torch(inputs(name))))
        assert repr(ours) == repr(theirs)


@pytest.mark.parametrize("name", [name for name in NAMES if "Conv" in name])
def test_convolutions_with_arguments(name: str) -> None:
    options = {"stride": 2, "padding": 1, "groups": 1, "bias": False}
    ours, theirs = pair(name, **options)
    theirs(to_torch(inputs(name)))
    ours(inputs(name))
    ours.load_state_dict(theirs.state_dict())
    assert_close(ours(inputs(name)), theirs(to_torch(inputs(name))))
    for layer, x in zip(pair(name, groups=2), (inputs(name), to_torch(inputs(name))), strict=True):
        with pytest.raises(ValueError, match="in_channels must be divisible by groups"):
            layer(x)
    for layer, x in zip(pair(name), (np.zeros(5, np.float32), torch.zeros(5)), strict=True):
        with pytest.raises(RuntimeError, match=rf"input to {name}, but got input of size"):
            layer(x)


def test_a_model_of_lazy_layers_trains_after_a_dry_run() -> None:
    model = nn.Sequential(nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d(), nn.Flatten(), nn.LazyLinear(2))
    x = np.random.default_rng(0).standard_normal((6, 3, 5, 5)).astype(np.float32)
    held = dict(model.named_parameters())
    with pytest.raises(ValueError, match="uninitialized parameter"):
        jm.grad(lambda model: model(x).sum())(model)
    model(x)
    optimizer = jm.optim.SGD(model.parameters(), lr=0.1)

    @jm.jit
    def step(model: nn.Module, optimizer: Any, x: Any) -> Any:
        loss, gradients = jm.value_and_grad(lambda model: (model(x) ** 2).mean())(model)
        optimizer.step(gradients)
        return loss

    losses = [float(step(model, optimizer, x)) for _ in range(5)]
    assert losses[-1] < losses[0]
    assert all(box is held[name] for name, box in model.named_parameters())

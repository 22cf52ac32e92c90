"""The same module in both frameworks, trained side by side."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import torch

import jaxmodule as jm
from jaxmodule import nn
from tests.parity.oracle import RTOL, assert_close, to_torch


def load(ours: nn.Module, theirs: torch.nn.Module) -> None:
    """Torch's state, strictly; the names must be in torch's order."""
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict())


def assert_same_state(ours: nn.Module, theirs: torch.nn.Module, rtol: float = RTOL) -> None:
    expected = theirs.state_dict()
    assert list(ours.state_dict()) == list(expected)
    for name, value in ours.state_dict().items():
        assert_close(value, expected[name], rtol, name)
    assert [str(n) for n, _ in ours.named_parameters()] == [n for n, _ in theirs.named_parameters()]


def train_alike(
    ours: nn.Module, theirs: torch.nn.Module, shape: tuple[int, ...], *, lr: float = 0.05, rtol: float = RTOL
) -> None:
    """Load torch's state, then compare outputs, gradients and state through five steps of SGD, compiled."""
    load(ours, theirs)
    rng = np.random.default_rng(3)

    def loss(module: Any, x: Any, c: Any) -> Any:
        out = module(x)
        return jnp.sum(out * c), out

    step = jm.jit(jm.grad(loss, has_aux=True))
    for _ in range(5):
        x = rng.standard_normal(shape).astype(np.float32)
        expected = theirs(to_torch(x))
        c = rng.standard_normal(tuple(expected.shape)).astype(np.float32)
        theirs.zero_grad()
        (expected * to_torch(c)).sum().backward()
        gradients, output = step(ours, jnp.asarray(x), jnp.asarray(c))
        assert_close(output, expected, rtol)
        named = dict(theirs.named_parameters())
        assert sorted(map(str, gradients)) == sorted(named)
        for name, gradient in gradients.items():
            assert_close(gradient, named[name].grad, rtol, f"gradient of {name}")
            parameter = ours.get_parameter(name)
            parameter.value = parameter.value - lr * gradient
        with torch.no_grad():
            for parameter in theirs.parameters():
                parameter -= lr * parameter.grad
    assert_same_state(ours, theirs, rtol)

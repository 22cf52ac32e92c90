"""A row of the zoo, and inputs for one.

The constructor's arguments are the same in jaxmodule and in torch, so a row holds them once. Each property of all
layers is one test over the table: tests/test_zoo.py, and against torch tests/parity/test_layers.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import jaxmodule as jm
from jaxmodule import nn

#: From a seed, the positional arguments of the call: arrays, or tuples and lists of them.
Inputs = Callable[[int], tuple[Any, ...]]


@dataclass(frozen=True)
class Bad:
    """A use that raises: a constructor's arguments, or inputs for the row's module."""

    kind: type[Exception]
    match: str
    args: tuple[Any, ...] | None = None
    kwargs: dict[str, Any] = field(default_factory=dict)
    inputs: tuple[Any, ...] = ()
    call: dict[str, Any] = field(default_factory=dict)
    torch_raises: bool = True  # False where torch has no such error


@dataclass(frozen=True)
class Row:
    """A layer with arguments.

    `call`: keyword arguments of the call, the same each time. `variant`: another row of the layer stands for it in the
    properties that depend on little but the layer. `modes_differ`: train() and eval() compute different things.
    `random`: training draws random numbers. `rtol`: the tolerance against torch, relative to the largest value, looser
    than the default only for the `reason` beside it. `edges`: what is different from torch, and why, for an empty
    batch, a batch of one, no batch and float64 ("empty", "one", "none", "float64": a reason), which are otherwise
    compared, errors too.
    """

    layer: str
    inputs: Inputs
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    call: dict[str, Any] = field(default_factory=dict)
    variant: bool = False
    modes_differ: bool = False
    random: bool = False
    rtol: float = 1e-5
    reason: str = ""
    edges: dict[str, str] = field(default_factory=dict)
    bad: tuple[Bad, ...] = ()

    @property
    def id(self) -> str:
        """The layer and its arguments, as one writes the call."""
        shown = [_shown(a) for a in self.args] + [f"{k}={_shown(v)}" for k, v in self.kwargs.items()]
        called = [f"{k}={_shown(v)}" for k, v in self.call.items()]
        return f"{self.layer}({','.join(shown)})" + (f"({','.join(called)})" if called else "")

    def make(self, seed: int = 0) -> nn.Module:
        """The layer, with parameters drawn from `seed`."""
        jm.manual_seed(seed)
        return getattr(nn, self.layer)(*self.args, **self.kwargs)

    def make_torch(self) -> Any:
        """torch's layer of the same name and arguments."""
        import torch

        args, kwargs = tensors(self.args), tensors(self.kwargs)
        return getattr(torch.nn, self.layer)(*args, **kwargs)

    def run(self, module: nn.Module, inputs: tuple[Any, ...]) -> Any:
        """The call."""
        return module(*inputs, **self.call)

    def run_torch(self, module: Any, inputs: tuple[Any, ...]) -> Any:
        """torch's call, of arrays or tensors."""
        return module(*tensors(inputs), **tensors(self.call))


def tensors(tree: Any) -> Any:
    """The numpy arrays in tuples, lists and dicts as tensors; what else there is stays."""
    import torch

    if isinstance(tree, np.ndarray):
        return torch.from_numpy(tree.copy())
    if isinstance(tree, dict):
        return {key: tensors(value) for key, value in tree.items()}
    return type(tree)(map(tensors, tree)) if type(tree) in (tuple, list) else tree


def _shown(value: Any) -> str:
    return f"array{list(value.shape)}" if isinstance(value, np.ndarray) else repr(value).replace(" ", "")


def normal(*shape: int) -> Inputs:
    """One input from N(0, 1)."""
    return lambda seed: (np.random.default_rng((seed, *shape)).standard_normal(shape).astype(np.float32),)


def spread(*shape: int) -> Inputs:
    """One input whose channels have different means and variances."""

    def make(seed: int) -> tuple[np.ndarray, ...]:
        channels = np.arange(1, shape[1] + 1, dtype=np.float32).reshape(-1, *(1,) * (len(shape) - 2))
        return (normal(*shape)(seed)[0] * channels + channels,)

    return make


def indices(high: int, *shape: int) -> Inputs:
    """One input of integers below `high`."""
    return lambda seed: (np.random.default_rng((seed, *shape)).integers(0, high, shape, np.int32),)


def classes(logits: tuple[int, ...], *target: int) -> Inputs:
    """Logits, and the indices of their classes (int64, the only one torch takes)."""
    count = logits[0] if len(logits) == 1 else logits[1]
    return lambda seed: (*normal(*logits)(seed), indices(count, *target)(seed)[0].astype(np.int64))


def pair(*shape: int) -> Inputs:
    """An input and a target between 0 and 1."""

    def make(seed: int) -> tuple[np.ndarray, ...]:
        target = np.random.default_rng((seed, 1)).random(shape, np.float32)
        return (*normal(*shape)(seed), target)

    return make


def zeros(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    """Of this shape."""
    return np.zeros(shape, dtype)


IMAGE = normal(2, 4, 7, 6)
ROUNDING = "a gradient through batch statistics is a difference of sums that nearly cancel"
STEPS = "five steps of training add up the rounding of sums taken in another order"

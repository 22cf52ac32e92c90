"""functional_call and stack_module_state against torch.func: values, ties, strictness, and errors word for word."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import torch

import jaxmodule as jm
from tests.parity.oracle import assert_close

X = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)


def tensor(nn: ModuleType, value: Any) -> Any:
    return jnp.asarray(value) if nn is jm.nn else torch.from_numpy(np.array(value))


def tied(nn: ModuleType) -> Any:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(3, 3, bias=False)
            self.b = nn.Linear(3, 3, bias=False)
            self.b.weight = self.a.weight
            self.register_buffer("shift", tensor(nn, np.float32([1, 2, 3])))

        def forward(self, x: Any, *, scale: float = 1.0) -> Any:
            return self.b(self.a(x)) * scale + (self.shift if nn is torch.nn else self.shift.value[None])

    return Tied()


def weight(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((3, 3)).astype(np.float32)


A, B = weight(1), weight(2)
SHIFT = np.zeros(3, np.float32)
FULL = {"a.weight": A, "shift": SHIFT}

CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "one name": ({"a.weight": A}, {}),
    "the other name": ({"b.weight": A}, {}),
    "both, untied": ({"a.weight": A, "b.weight": B}, {"tie_weights": False}),
    "one, untied": ({"a.weight": A}, {"tie_weights": False}),
    "both, two values": ({"a.weight": A, "b.weight": B}, {}),
    "a buffer": ({"shift": SHIFT}, {}),
    "nothing": ({}, {}),
    "several dicts": (({"a.weight": A}, {"shift": SHIFT}), {}),
    "a list of dicts": ([{"a.weight": A}, {"shift": SHIFT}], {}),
    "a name in two dicts": (({"a.weight": A}, {"a.weight": A}), {}),
    "no dict": (3, {}),
    "a list of no dicts": ([1], {}),
    "keyword arguments": (FULL, {"kwargs": {"scale": 2.0}}),
    "strict": (FULL, {"strict": True}),
    "strict, the other name": ({"b.weight": A, "shift": SHIFT}, {"strict": True}),
    "strict, missing": ({"a.weight": A}, {"strict": True}),
    "strict, unexpected": ({**FULL, "typo": A}, {"strict": True}),
    "strict, both": ({"shift": SHIFT, "c.weight": A}, {"strict": True}),
    "strict, untied": (FULL, {"strict": True, "tie_weights": False}),
    "strict, untied, all": ({**FULL, "b.weight": B}, {"strict": True, "tie_weights": False}),
    "unexpected": ({**FULL, "typo": A}, {}),
}


def outcome(nn: ModuleType, case: str) -> Any:
    """The output, or the error's type and text."""
    given, options = CASES[case]

    def tensors(part: Any) -> Any:
        return {name: tensor(nn, value) for name, value in part.items()} if isinstance(part, dict) else part

    if nn is jm.nn:
        given = type(given)(map(tensors, given)) if isinstance(given, (list, tuple)) else tensors(given)
        call: Any = jm.functional_call
    else:
        given = type(given)(map(tensors, given)) if isinstance(given, (list, tuple)) else tensors(given)
        call = torch.func.functional_call
    model = tied(nn)
    model.load_state_dict({"a.weight": tensor(nn, B), "b.weight": tensor(nn, B), "shift": tensor(nn, SHIFT + 1)})
    try:
        return call(model, given, (tensor(nn, X),), **options)
    except Exception as error:
        return type(error), str(error)


@pytest.mark.parametrize("case", CASES)
def test_values_ties_and_errors_are_torchs(case: str) -> None:
    ours, theirs = outcome(jm.nn, case), outcome(torch.nn, case)
    if isinstance(theirs, tuple):
        assert ours == theirs
    else:
        assert_close(ours, theirs)


@pytest.mark.parametrize("args", ["tuple", "alone", "none"])
def test_arguments_are_given_as_in_torch(args: str) -> None:
    for nn, call in ((jm.nn, jm.functional_call), (torch.nn, torch.func.functional_call)):

        class Echo(nn.Module):
            def forward(self, *args: Any, **kwargs: Any) -> Any:
                return len(args), sorted(kwargs)

        x = tensor(nn, X)
        given = {"tuple": (x, x), "alone": x, "none": None}[args]
        assert call(Echo(), {}, given, {"k": 1}) == ({"tuple": 2, "alone": 1, "none": 0}[args], ["k"])


@pytest.mark.parametrize("case", ["none", "modes", "classes"])
def test_models_that_do_not_stack_raise_torchs_errors(case: str) -> None:
    def error(nn: ModuleType) -> tuple[type, str]:
        models = {
            "none": lambda: [],
            "modes": lambda: [nn.Linear(1, 1), nn.Linear(1, 1).eval()],
            "classes": lambda: [nn.Linear(1, 1), nn.Identity()],
        }[case]()
        stack = jm.stack_module_state if nn is jm.nn else torch.func.stack_module_state
        with pytest.raises(RuntimeError, match="stack_module_state: Expected") as caught:
            stack(models)
        return caught.type, str(caught.value)

    assert error(jm.nn) == error(torch.nn)


def test_stacked_states_have_torchs_names_and_shapes() -> None:
    def shapes(nn: ModuleType, stack: Any) -> Any:
        models = [nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)) for _ in range(5)]
        return [{name: tuple(value.shape) for name, value in part.items()} for part in stack(models)]

    assert shapes(jm.nn, jm.stack_module_state) == shapes(torch.nn, torch.func.stack_module_state)

"""Every public name of `torch.optim` is here, or in a list that says why not."""

from __future__ import annotations

import importlib
import inspect

import pytest
import torch

import jaxmodule as jm

MODULES = [
    *("adadelta", "adagrad", "adam", "adamax", "adamw", "asgd", "lbfgs", "nadam", "optimizer", "radam", "rmsprop"),
    *("rprop", "sgd", "sparse_adam", "lr_scheduler", "swa_utils"),
]

_FUNCTION = "the step as a function on lists of tensors that it changes in place; here the optimizer's step compiles"

MISSING = {
    f"{name}.{name}": _FUNCTION
    for name in ("adadelta", "adagrad", "adam", "adamax", "adamw", "asgd", "nadam", "radam", "rmsprop", "rprop", "sgd")
}


def test_the_names_of_torch_optim_are_here() -> None:
    assert [name for name in torch.optim.__all__ if not hasattr(jm.optim, name)] == []
    assert set(torch.optim.__all__) <= set(jm.optim.__all__)
    assert all(hasattr(jm.optim, name) for name in jm.optim.__all__)


@pytest.mark.parametrize("module", MODULES)
def test_torchs_import_paths_work(module: str) -> None:
    theirs, ours = (
        importlib.import_module(f"torch.optim.{module}"),
        importlib.import_module(f"jaxmodule.optim.{module}"),
    )
    missing = [name for name in theirs.__all__ if not hasattr(ours, name)]
    assert [f"{module}.{name}" for name in missing if f"{module}.{name}" not in MISSING] == []
    assert [name for name in MISSING if name.startswith(f"{module}.") and hasattr(ours, name.partition(".")[2])] == []


def test_the_methods_of_torchs_optimizers_are_here() -> None:
    theirs = {name for name in dir(torch.optim.AdamW) if not name.startswith("_")}
    theirs -= {"OptimizerPostHook", "OptimizerPreHook", "profile_hook_step"}  # types, and torch's own plumbing
    assert theirs - set(dir(jm.optim.AdamW)) == set()
    for name in theirs:
        method = getattr(torch.optim.Optimizer, name)
        if callable(method) and name != "step":  # ours takes gradients
            assert list(inspect.signature(getattr(jm.optim.AdamW, name)).parameters) == list(
                inspect.signature(method).parameters
            ), name

"""torch.nn.grad's functions against torch's."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as TF

from jaxmodule.nn import grad as G
from tests.parity.oracle import assert_close, same_error, to_torch

DIMENSIONS = pytest.mark.parametrize("n", [1, 2, 3])


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng((seed, *shape)).standard_normal(shape).astype(np.float32)


def tensors(arrays: Any) -> list[Any]:
    return [to_torch(a) if isinstance(a, np.ndarray) else a for a in arrays]


def test_names_and_arguments_are_torchs() -> None:
    def arguments(function: Any) -> list[tuple[str, Any, Any]]:
        return [(p.name, p.default, p.kind) for p in inspect.signature(function).parameters.values()]

    assert set(G.__all__) == {name for name in dir(torch.nn.grad) if name.startswith("conv")}
    for name in G.__all__:
        assert arguments(getattr(G, name)) == arguments(getattr(torch.nn.grad, name))


STEPS = [{}, {"stride": 2, "padding": 1}, {"stride": 2, "dilation": 2, "groups": 2}, {"padding": 1, "groups": 2}]


@DIMENSIONS
@pytest.mark.parametrize("options", STEPS, ids=str)
def test_gradients_of_convolutions(n: int, options: dict[str, int]) -> None:
    x = normal(2, 4, *(6, 7, 5)[:n])
    w = normal(6, 4 // options.get("groups", 1), *(3, 2, 2)[:n], seed=1)
    g = normal(*getattr(TF, f"conv{n}d")(*tensors((x, w)), **options).shape, seed=2)
    for what, arrays in (("input", (x.shape, w, g)), ("weight", (x, w.shape, g))):
        name = f"conv{n}d_{what}"
        assert_close(getattr(G, name)(*arrays, **options), getattr(torch.nn.grad, name)(*tensors(arrays), **options))


def test_gradients_of_convolutions_of_an_empty_batch() -> None:
    x, w, g = normal(0, 2, 5, 5), normal(3, 2, 2, 2), normal(0, 3, 4, 4)
    assert G.conv2d_input(x.shape, w, g).shape == x.shape
    assert G.conv2d_weight(x, w.shape, g).tolist() == np.zeros(w.shape).tolist()


@pytest.mark.parametrize(
    ("x", "w", "g", "options", "match"),
    [
        ((2, 5, 5), (3, 2, 2, 2), (3, 4, 4), {}, "4-dimensional input, weight and grad_output"),
        ((1, 2, 9, 9), (3, 2, 2, 2), (1, 3, 4, 4), {}, r"expected grad_output to have size \[1, 3, 8, 8\]"),
        ((2, 2, 5, 5), (3, 2, 2, 2), (1, 3, 4, 4), {}, r"expected grad_output to have size \[2, 3, 4, 4\]"),
        ((1, 3, 5, 5), (3, 2, 2, 2), (1, 3, 4, 4), {}, "fit the channels"),
        ((1, 2, 5, 5), (3, 2, 2, 2), (1, 3, 4, 4), {"groups": 0}, "fit the channels"),
        ((1, 2, 5, 5), (3, 2, 2, 2), (1, 3, 4, 4), {"stride": 0}, "non-positive stride"),
        ((1, 2, 5, 5), (3, 2, 2, 2), (1, 3, 4, 4), {"padding": -1}, "negative padding"),
        ((1, 2, 5, 5), (3, 2, 2, 2), (1, 3, 4, 4), {"padding": "same"}, "padding must be an int"),
    ],
)
@pytest.mark.parametrize("what", ["input", "weight"])
def test_errors(what: str, x: Any, w: Any, g: Any, options: dict[str, Any], match: str) -> None:
    arrays = (x, normal(*w), normal(*g)) if what == "input" else (normal(*x), w, normal(*g))
    ours, theirs = (getattr(m, f"conv2d_{what}") for m in (G, torch.nn.grad))
    same_error(lambda: ours(*arrays, **options), lambda: theirs(*tensors(arrays), **options))
    with pytest.raises(RuntimeError, match=match):
        ours(*arrays, **options)


def test_dtypes() -> None:
    x, w, g = normal(1, 2, 5, 5), normal(3, 2, 2, 2), normal(1, 3, 4, 4)
    with pytest.raises(RuntimeError, match="should be the same"):
        G.conv2d_input(x.shape, w.astype(np.float16), g)
    with pytest.raises(NotImplementedError, match="not implemented for int32"):
        G.conv2d_input(x.shape, w.astype(np.int32), g.astype(np.int32))
    half = G.conv2d_weight(x.astype(np.float16), w.shape, g.astype(np.float16))
    assert half.dtype == np.float16

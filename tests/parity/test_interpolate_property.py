"""`interpolate` against torch over drawn sizes, factors, modes and options."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch.nn.functional as TF
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from jaxmodule.nn import functional as F
from tests.parity.oracle import assert_close, to_torch

FEW = settings(max_examples=15, deadline=None, derandomize=True)
MANY = settings(max_examples=400, deadline=None, derandomize=True)

SPATIAL = {"linear": (1,), "bilinear": (2,), "trilinear": (3,), "bicubic": (2,), "lanczos": (2,)}
MODES = ["nearest", "nearest-exact", "area", *SPATIAL]
# A coordinate near 40 has 4e-6 between neighbouring floats, and torch may fuse its product and sum.
COORDINATE = 2e-5


@st.composite
def cases(draw: st.DrawFn, modes: list[str], most: int = 20) -> tuple[tuple[int, ...], dict[str, Any]]:
    mode = draw(st.sampled_from(modes))
    n = draw(st.sampled_from(SPATIAL.get(mode, (1, 2, 3))))
    spatial = draw(st.tuples(*[st.integers(1, most if n < 3 else 8)] * n))
    options: dict[str, Any] = {"mode": mode}
    inexact: list[tuple[int, int]] = []
    if draw(st.booleans()):
        size = st.integers(1, 2 * most if n < 3 else 12)
        options["size"] = draw(st.one_of(size, st.tuples(*[size] * n)))
    else:
        factor = st.one_of(st.floats(0.2, 4.0), st.integers(1, 4), st.sampled_from([1.5, 1 / 3, 2 / 3, 0.1 * 3]))
        options["scale_factor"] = draw(st.one_of(factor, st.tuples(*[factor] * n)))
        options["recompute_scale_factor"] = draw(st.sampled_from([None, True, False]))
        given_factor = options["scale_factor"]
        factors = given_factor if isinstance(given_factor, tuple) else (given_factor,) * n
        sizes = [int(size * factor) for size, factor in zip(spatial, factors, strict=True)]
        assume(min(sizes) > 0)
        inexact = [
            (out, size) for out, size, factor in zip(sizes, spatial, factors, strict=True) if out != size * factor
        ]
    if mode in ("bilinear", "bicubic", "lanczos"):
        options["antialias"] = mode == "lanczos" or draw(st.booleans())
    if options.get("antialias"):
        # Of a column of pixels torch 2.13 makes copies of the first one.
        wide = options.get("size", options.get("scale_factor"))
        width = wide[1] if isinstance(wide, tuple) else wide
        assume(spatial[1] > 1 and (width if "size" in options else int(spatial[1] * width)) > 1)
    if inexact and not options["recompute_scale_factor"]:
        # Where some of torch's CPU kernels ignore the factor, and their gradients don't (or the other way round).
        assume(mode != "nearest" or not any(out in (size, 2 * size) for out, size in inexact))
        if mode == "bicubic" or options.get("antialias"):
            assume(not any(out == size for out, size in inexact))
    if mode in SPATIAL and mode != "lanczos":
        options["align_corners"] = draw(st.sampled_from([None, True, False]))
    return (draw(st.integers(1, 2)), draw(st.integers(1, 3)), *spatial), options


def check(shape: tuple[int, ...], options: dict[str, Any]) -> None:
    x = np.random.default_rng(shape).standard_normal(shape).astype(np.float32)
    tensor = to_torch(x).requires_grad_()
    expected = TF.interpolate(tensor, **options)
    cotangent = np.random.default_rng(7).standard_normal(tuple(expected.shape)).astype(np.float32)
    expected.backward(to_torch(cotangent))

    @jax.jit
    def run(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        value, vjp = jax.vjp(lambda x: F.interpolate(x, **options), x)
        return value, vjp(jnp.asarray(cotangent))[0]

    value, gradient = run(x)
    assert_close(value, expected, COORDINATE)
    assert_close(gradient, tensor.grad, COORDINATE, "gradient")


@pytest.mark.parametrize("mode", MODES)
def test_equals_torch(mode: str) -> None:
    @FEW
    @given(cases([mode]))
    def run(case: tuple[tuple[int, ...], dict[str, Any]]) -> None:
        check(*case)

    run()


@pytest.mark.slow
@MANY
@given(cases(MODES, 60))
def test_equals_torch_on_many(case: tuple[tuple[int, ...], dict[str, Any]]) -> None:
    check(*case)

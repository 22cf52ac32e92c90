"""Pooling against torch over random ranks, shapes and arguments: values, indices and gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as TF
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxmodule.nn import functional as F
from tests.parity.oracle import assert_close, compare, same_error, to_torch

FEW = settings(max_examples=12, deadline=None, derandomize=True)
MANY = settings(max_examples=150, deadline=None, derandomize=True)

Case = tuple[int, np.ndarray, dict[str, Any]]


def raises(name: str, x: np.ndarray, *args: Any, **options: Any) -> bool:
    """Whether torch refuses this; then we do, by the same exception."""
    try:
        getattr(TF, name)(to_torch(x), *args, **options)
    except (RuntimeError, ValueError, IndexError):
        same_error(
            lambda: getattr(F, name)(x, *args, **options), lambda: getattr(TF, name)(to_torch(x), *args, **options)
        )
        return True
    return False


def check(name: str, x: np.ndarray, *args: Any, gradients: bool = True, rtol: float = 1e-5, **options: Any) -> None:
    """Values and gradients, and what `_with_indices` adds to the name."""
    compare(
        lambda x: getattr(F, name)(x, *args, **options),
        lambda x: getattr(TF, name)(x, *args, **options),
        [x],
        gradients=gradients,
        rtol=rtol,
    )
    if "max" not in name:
        return
    ours = getattr(F, f"{name}_with_indices")(x, *args, **options)
    theirs = getattr(TF, f"{name}_with_indices")(to_torch(x), *args, **options)
    for mine, other, what in zip(ours, theirs, ("maxima", "indices"), strict=True):
        assert_close(mine, other, 0.0, what)


@st.composite
def inputs(draw: st.DrawFn, n: int, size: tuple[int, ...], *, special: bool = True) -> np.ndarray:
    """An input with distinct elements, with ties, or with NaN and infinities; with and without a batch."""
    shape = (*draw(st.sampled_from([(2,), (2, 3), (1, 1)])), *size)
    seed = draw(st.integers(0, 99))
    x = np.random.default_rng((seed, *shape)).standard_normal(shape).astype(np.float32)
    kind = draw(st.sampled_from(["normal", "ties", "special"] if special else ["normal", "ties"]))
    if kind == "ties":
        return np.round(x)
    if kind == "special":
        chance = np.random.default_rng((seed, 1)).random(shape)
        x = np.where(chance < 0.05, np.nan, np.where(chance < 0.1, np.inf, np.where(chance < 0.5, -np.inf, x)))
    return x.astype(np.float32)


def each(draw: st.DrawFn, n: int, low: int, high: int) -> Any:
    """One number for all of `n` dimensions, or as many."""
    number = st.integers(low, high)
    return draw(st.one_of(number, st.tuples(*[number] * n)))


@st.composite
def windows(draw: st.DrawFn, *, dilated: bool = False, padded: bool = True, special: bool = True) -> Case:
    """A rank, an input, and arguments, of which some don't fit."""
    n = draw(st.integers(1, 3))
    large = n < 3 and draw(st.integers(0, 3)) == 0
    size = tuple(draw(st.integers(12, 30) if large else st.integers(2, 9 - n)) for _ in range(n))
    kernel = tuple(draw(st.integers(1, 22) if large else st.integers(1, 4)) for _ in range(n))
    options: dict[str, Any] = {"kernel_size": kernel, "ceil_mode": draw(st.booleans())}
    if draw(st.booleans()):
        options["stride"] = each(draw, n, 1, 24 if large else 4)
    if padded:
        options["padding"] = tuple(draw(st.integers(0, k // 2)) for k in kernel)
    if dilated:
        options["dilation"] = each(draw, n, 1, 2 if large else 3)
    return n, draw(inputs(n, size, special=special)), options


def check_max_pool(case: Case) -> None:
    n, x, options = case
    name = f"max_pool{n}d"
    if raises(name, x, **options):
        return
    # A window that sees padding alone: torch's gradient goes to an index out of range, wherever that is.
    alone = torch.isinf(getattr(TF, name)(torch.zeros(x.shape), **options)).any()
    check(name, x, **options, gradients=not alone)


def check_avg_pool(case: Case, include: bool, divisor: int | None) -> None:
    n, x, options = case
    options = {**options, "count_include_pad": include}
    if n > 1:
        options["divisor_override"] = divisor
    if not raises(f"avg_pool{n}d", x, **options):
        check(f"avg_pool{n}d", x, **options)


def check_lp_pool(case: Case, norm: float) -> None:
    n, x, options = case
    if n == 1:
        options["kernel_size"] = options["kernel_size"][0]
    if not raises(f"lp_pool{n}d", x, norm, **options):
        check(f"lp_pool{n}d", np.abs(x) if norm % 2 else x, norm, **options)


@st.composite
def cells(draw: st.DrawFn) -> tuple[int, np.ndarray, Any]:
    """A rank, an input and an output size."""
    n = draw(st.integers(1, 3))
    large = n < 3 and draw(st.booleans())
    size = tuple(draw(st.integers(1, 40 if large else 8 - n)) for _ in range(n))
    out = st.integers(1, 12 if n < 3 else 6)
    out = out if n == 1 else st.one_of(out, st.tuples(*[st.one_of(out, st.none())] * n))
    return n, draw(inputs(n, size)), draw(out)


def check_adaptive_pool(kind: str, case: tuple[int, np.ndarray, Any]) -> None:
    n, x, out = case
    check(f"adaptive_{kind}_pool{n}d", x, out)


@st.composite
def fractions(draw: st.DrawFn) -> tuple[int, np.ndarray, np.ndarray, Any, Any]:
    """A rank, an input, samples, a kernel and an output size, which may not fit."""
    n = draw(st.integers(2, 3))
    size = tuple(draw(st.integers(2, 12 if n == 2 else 7)) for _ in range(n))
    x = draw(inputs(n, size))
    planes = x.shape[:2] if x.ndim == n + 2 else (1, x.shape[0])
    u = np.random.default_rng(draw(st.integers(0, 99))).random((*planes, n)).astype(np.float32)
    return n, x, u, each(draw, n, 1, 3), each(draw, n, 1, 6)


def check_fractional_max_pool(case: tuple[int, np.ndarray, np.ndarray, Any, Any]) -> None:
    n, x, u, *args = case
    name = f"fractional_max_pool{n}d"
    indexed, u_torch = f"{name}_with_indices", to_torch(u)
    if raises(name, x, *args):
        return
    compare(
        lambda x: getattr(F, name)(x, *args, _random_samples=u),
        lambda x: getattr(TF, name)(x, *args, _random_samples=u_torch),
        [x],
    )
    ours = getattr(F, indexed)(x, *args, _random_samples=u)
    theirs = getattr(TF, indexed)(to_torch(x), *args, _random_samples=u_torch)
    for mine, other in zip(ours, theirs, strict=True):
        assert_close(mine, other, 0.0)


def check_max_unpool(case: Case, grow: int) -> None:
    n, x, options = case
    dilated_or_ceil = options.pop("ceil_mode")
    if raises(f"max_pool{n}d", x, **options, ceil_mode=dilated_or_ceil):
        return
    pooled, index = getattr(TF, f"max_pool{n}d_with_indices")(to_torch(x), **options, ceil_mode=dilated_or_ceil)
    size = tuple(s + grow for s in x.shape[-n:])
    indices = index.numpy()
    name = f"max_unpool{n}d"

    def call(G: Any, x: Any, i: Any) -> Any:
        return getattr(G, name)(x, i, **options, output_size=size)

    try:
        call(TF, pooled, index)
    except (RuntimeError, ValueError):
        same_error(lambda: call(F, pooled.numpy(), indices), lambda: call(TF, pooled, index))
        return
    repeated = any(np.unique(row).size < row.size for row in indices.reshape(-1, np.prod(indices.shape[-n:])))
    y = np.arange(pooled.numel(), dtype=np.float32).reshape(pooled.shape) + 1
    if repeated and n == 3:  # torch writes these in parallel
        y = np.ones_like(y)
    compare(lambda y: call(F, y, indices), lambda y: call(TF, y, index), [y])


NORMS = st.sampled_from([1, 2, 3, 2.5, 0.5, float("inf"), -float("inf")])
DIVISORS = st.sampled_from([None, None, 3, -2])


@FEW
@given(windows(dilated=True))
def test_max_pool(case: Case) -> None:
    check_max_pool(case)


@FEW
@given(windows(), st.booleans(), DIVISORS)
def test_avg_pool(case: Case, include: bool, divisor: int | None) -> None:
    check_avg_pool(case, include, divisor)


@FEW
@given(windows(padded=False, special=False), NORMS)
def test_lp_pool(case: Case, norm: float) -> None:
    check_lp_pool(case, norm)


@FEW
@given(cells())
def test_adaptive_max_pool(case: tuple[int, np.ndarray, Any]) -> None:
    check_adaptive_pool("max", case)


@FEW
@given(cells())
def test_adaptive_avg_pool(case: tuple[int, np.ndarray, Any]) -> None:
    check_adaptive_pool("avg", case)


@FEW
@given(fractions())
def test_fractional_max_pool(case: tuple[int, np.ndarray, np.ndarray, Any, Any]) -> None:
    check_fractional_max_pool(case)


@FEW
@given(windows(special=False), st.integers(-1, 2))
def test_max_unpool(case: Case, grow: int) -> None:
    check_max_unpool(case, grow)


@pytest.mark.slow
@MANY
@given(windows(dilated=True))
def test_max_pool_much(case: Case) -> None:
    check_max_pool(case)


@pytest.mark.slow
@MANY
@given(windows(), st.booleans(), DIVISORS)
def test_avg_pool_much(case: Case, include: bool, divisor: int | None) -> None:
    check_avg_pool(case, include, divisor)


@pytest.mark.slow
@MANY
@given(windows(padded=False, special=False), NORMS)
def test_lp_pool_much(case: Case, norm: float) -> None:
    check_lp_pool(case, norm)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["max", "avg"])
@MANY
@given(case=cells())
def test_adaptive_pool_much(kind: str, case: tuple[int, np.ndarray, Any]) -> None:
    check_adaptive_pool(kind, case)


@pytest.mark.slow
@MANY
@given(fractions())
def test_fractional_max_pool_much(case: tuple[int, np.ndarray, np.ndarray, Any, Any]) -> None:
    check_fractional_max_pool(case)


@pytest.mark.slow
@MANY
@given(windows(special=False), st.integers(-1, 2))
def test_max_unpool_much(case: Case, grow: int) -> None:
    check_max_unpool(case, grow)

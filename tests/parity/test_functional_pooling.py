"""The pooling functionals against torch: every argument, indices, dtypes, ties, NaN and infinities, exceptions.

Over random shapes they are compared in test_pooling_property.py.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as TF

import jaxmodule as jm
from jaxmodule.nn import Buffer
from jaxmodule.nn import functional as F
from tests.parity.oracle import assert_close, compare, same_error, to_torch

NAN, INF = np.nan, np.inf
SIZES = {1: (9,), 2: (7, 6), 3: (5, 4, 6)}
EVERY_N = pytest.mark.parametrize("n", [1, 2, 3])


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng((seed, *shape)).standard_normal(shape).astype(np.float32)


def ours(name: str) -> Callable[..., Any]:
    return getattr(F, name)


def theirs(name: str) -> Callable[..., Any]:
    return getattr(TF, name)


def both(
    name: str, arrays: list[np.ndarray], *args: Any, rtol: float = 1e-5, indices: bool = True, **options: Any
) -> None:
    """The value and the gradient; of maxima those of the function that also gives `indices`, and these, or without."""
    if not (indices and "max_pool" in name):
        compare(
            lambda *xs: ours(name)(*xs, *args, **options),
            lambda *xs: theirs(name)(*xs, *args, **options),
            arrays,
            rtol=rtol,
        )
        return
    name = f"{name}_with_indices"
    compare(
        lambda *xs: ours(name)(*xs, *args, **options)[0], lambda *xs: theirs(name)(*xs, *args, **options)[0], arrays
    )
    index = ours(name)(*arrays, *args, **options)[1]
    assert index.dtype == jnp.zeros((), int).dtype
    assert_close(index, theirs(name)(*map(to_torch, arrays), *args, **options)[1], what="indices")


# -- signatures -------------------------------------------------------------------------------------------------
NAMES = sorted(name for name in dir(TF) if "pool" in name and not name.startswith("_"))


def test_every_pooling_function_of_torch_is_here() -> None:
    assert len(NAMES) == 28
    assert set(NAMES) <= set(F.__all__)


@pytest.mark.parametrize("name", NAMES)
def test_arguments_are_torchs(name: str) -> None:
    signature = inspect.signature(ours(name))
    bare = signature.replace(
        parameters=[p.replace(annotation=p.empty) for p in signature.parameters.values()],
        return_annotation=inspect.Signature.empty,
    )
    documented = (theirs(name).__doc__ or "").strip().split("\n")[0].split(" -> ")[0]
    if documented.startswith(f"{name}("):  # a C function, or one that dispatches on return_indices
        assert name + str(bare) == documented
        return
    names = [(p.name, p.default, p.kind) for p in bare.parameters.values()]
    assert names == [(p.name, p.default, p.kind) for p in inspect.signature(theirs(name)).parameters.values()]


# -- windows ----------------------------------------------------------------------------------------------------
@EVERY_N
def test_defaults_tuples_and_unbatched(n: int) -> None:
    x = normal(2, 3, *SIZES[n])
    for kind in ("max", "avg"):
        name = f"{kind}_pool{n}d"
        both(name, [x], 2)
        both(name, [x[0]], (3,), stride=[2], padding=(1,))
        both(name, [x], (2,) * n, stride=())
        both(name, [x[:0]], 2)
        assert_close(ours(name)(Buffer(x), np.int64(2)), ours(name)(x, 2), 0.0)


@EVERY_N
@pytest.mark.parametrize("ceil_mode", [False, True])
def test_max_pool(n: int, ceil_mode: bool) -> None:
    x = np.round(normal(2, 2, *SIZES[n]))  # equal elements: which of them gets the gradient
    for indices in (False, True):
        args = (3, 2, 3)[-n:], (2, 1, 3)[-n:], (1, 0, 1)[-n:], (1, 2, 1)[-n:], ceil_mode
        both(f"max_pool{n}d", [x], *args, indices=indices)


@pytest.mark.parametrize("name", ["max_pool", "adaptive_max_pool", "fractional_max_pool"])
@pytest.mark.parametrize("n", [1, 2, 3])
def test_indices_three_ways(name: str, n: int) -> None:
    if (name, n) == ("fractional_max_pool", 1):
        return
    x, name = normal(2, 2, *SIZES[n]), f"{name}{n}d"
    options: dict[str, Any] = {"_random_samples": samples(x, n)} if "fractional" in name else {}
    args = (2, 2) if "fractional" in name else (2,)
    value, index = ours(f"{name}_with_indices")(x, *args, **options)
    again = ours(name)(x, *args, return_indices=True, **options)
    assert_close(again[0], value, 0.0)
    assert_close(again[1], index)
    assert_close(ours(name)(x, *args, **options), value, 0.0)
    assert isinstance(ours(f"{name}_with_indices")(x, *args, return_indices=False, **options), tuple)


LARGE = [
    ((20, 37), {"kernel_size": (17, 20), "stride": (1, 3), "padding": (3, 0)}),  # overlapping: doubling
    ((20, 37), {"kernel_size": (16, 9), "dilation": (1, 4), "stride": 2}),
    ((40, 37), {"kernel_size": (17, 18), "stride": (20, 18), "padding": (8, 1), "ceil_mode": True}),  # apart
    ((40, 37), {"kernel_size": (18, 17), "dilation": 2, "stride": 40, "padding": 1}),
    ((23, 19), {"kernel_size": (23, 19), "stride": 1}),  # global
]


@pytest.mark.parametrize(("size", "options"), LARGE)
@pytest.mark.parametrize("values", ["normal", "equal", "special", "whole"])
def test_max_pool_of_large_windows(size: tuple[int, int], options: dict[str, Any], values: str) -> None:
    x = normal(2, *size)
    if values == "equal":
        x = np.round(x)
    if values == "special":
        chance = np.random.default_rng(3).random(x.shape)
        x = np.where(chance < 0.003, NAN, np.where(chance < 0.8, -INF, x)).astype(np.float32)
    x = np.round(3 * x).astype(np.int32) if values == "whole" else x
    for indices in (False, True):
        both("max_pool2d", [x], **options, indices=indices)


@pytest.mark.parametrize("kernel", [3, 20, (1, 64), (64, 1), 64])
def test_no_nan_is_lost_in_large_arrays(kernel: Any) -> None:
    """XLA's own reductions lose some on CPU."""
    x = normal(2, 8, 64, 64)
    x = np.where(np.random.default_rng(2).random(x.shape) < 0.002, NAN, np.where(x > 0.5, -INF, x)).astype(np.float32)
    calls: list[tuple[str, Any]] = [("max_pool2d", (kernel, 3)), ("max_pool2d", (kernel,)), ("avg_pool2d", (kernel,))]
    if kernel in (3, 64):
        calls += [(f"adaptive_{kind}_pool2d", (64 // kernel,)) for kind in ("max", "avg")]
    for name, args in calls:
        found, expected = ours(name)(x, *args), theirs(name)(to_torch(x), *args)
        assert_close(found, expected)
        assert_close(
            jax.jvp(lambda x, n=name, a=args: ours(n)(x, *a), (jnp.asarray(x),), (jnp.ones(x.shape),))[0], expected
        )


def test_programs_of_large_windows_are_small() -> None:
    x = jnp.ones((1, 400, 400))
    for pool, stride, lines in ((F.max_pool2d, 1, 1200), (F.max_pool2d, None, 400), (F.avg_pool2d, 1, 400)):
        grown = jax.make_jaxpr(jax.value_and_grad(lambda x, p=pool, s=stride: jnp.sum(p(x, 200, s))))(x)
        assert str(grown).count("\n") < lines
    for pool in (F.adaptive_max_pool2d, F.adaptive_avg_pool2d):
        grown = jax.make_jaxpr(jax.value_and_grad(lambda x, p=pool: jnp.sum(p(x, (3, 177)))))(x)
        assert str(grown).count("\n") < 400


@EVERY_N
def test_max_pool_of_nan_infinity_and_integers(n: int) -> None:
    lead = (1,) * (n - 1)
    for row in ([1, NAN, NAN, 4, NAN, 3, 2], [-INF] * 7, [INF, -INF, INF, -INF, -INF, -INF, 0]):
        x = np.array(row, np.float32).reshape(1, *lead, 7)
        both(f"max_pool{n}d", [x], (*lead, 3), (*lead, 2), (*(0,) * (n - 1), 1))
    square = np.array([[[1, NAN, NAN], [3, 4, NAN], [1, 1, 1]]], np.float32)
    both("max_pool2d", [square], 2, 1, 1)
    for dtype in ("uint8", "int8", "int16", "int32"):
        whole = np.random.default_rng(n).integers(0 if dtype == "uint8" else -9, 9, (2, *SIZES[n])).astype(dtype)
        index = {"return_indices": True}  # without, torch has no one-dimensional kernel for integers
        for found, expected in zip(
            ours(f"max_pool{n}d")(whole, 3, 2, 1, **index),
            theirs(f"max_pool{n}d")(to_torch(whole), 3, 2, 1, **index),
            strict=True,
        ):
            assert_close(found, expected)


@EVERY_N
def test_windows_that_see_padding_alone(n: int) -> None:
    mixed = ((5, 4, 1)[-n:], (2, 1, 1, (1, 1, 2)[-n:]))
    for size, options in (((1,) * n, (2, 1, 1, 2)), ((5,) * n, (2, 1, 1, 6)), mixed):
        x = normal(1, *size)
        found = ours(f"max_pool{n}d")(x, *options, return_indices=True)
        for mine, other in zip(found, theirs(f"max_pool{n}d")(to_torch(x), *options, return_indices=True), strict=True):
            assert_close(mine, other)
    x = jnp.ones((1, *(5,) * n))
    assert not jax.grad(lambda x: jnp.sum(ours(f"max_pool{n}d")(x, 2, 1, 1, 6)))(x).any()


@EVERY_N
@pytest.mark.parametrize("include", [False, True])
@pytest.mark.parametrize("divisor", [None, 7, -2])
def test_avg_pool(n: int, include: bool, divisor: int | None) -> None:
    options: dict[str, Any] = {"ceil_mode": True, "count_include_pad": include}
    if n > 1:
        options["divisor_override"] = divisor
    x = normal(2, 2, *SIZES[n])
    x[0, 0].flat[1] = INF
    x[1, 1].flat[2] = NAN
    both(f"avg_pool{n}d", [x], (3, 2, 3)[-n:], (2, 1, 2)[-n:], (1, 0, 1)[-n:], **options)


def test_avg_pool_of_large_windows_and_integers() -> None:
    x = normal(2, 3, 40, 37)
    for options in ({"kernel_size": 20}, {"kernel_size": (17, 30), "stride": 5, "padding": 8, "ceil_mode": True}):
        both("avg_pool2d", [x], **options)
    for n in (1, 2, 3):
        whole = np.random.default_rng(n).integers(-9, 9, (2, *SIZES[n]))
        assert_close(ours(f"avg_pool{n}d")(whole, 2), theirs(f"avg_pool{n}d")(to_torch(whole), 2))
    # torch has no kernel for other integers; a sum of them must not overflow
    assert F.avg_pool2d(np.full((1, 4, 4), 250, np.uint8), 4).tolist() == [[[250]]]
    assert F.avg_pool2d(np.full((1, 4, 4), -100, np.int8), 4).dtype == jnp.int8


WINDOW_ERRORS: list[dict[str, Any]] = [
    {"kernel_size": 0},
    {"kernel_size": -1},
    {"kernel_size": 6},
    {"kernel_size": ()},
    {"kernel_size": 2.0},
    {"kernel_size": True},
    {"kernel_size": "2"},
    {"kernel_size": None},
    {"kernel_size": 2, "stride": 0},
    {"kernel_size": 2, "stride": -1},
    {"kernel_size": 2, "stride": 1.5},
    {"kernel_size": 2, "padding": -1},
    {"kernel_size": 3, "padding": 2},
]


@EVERY_N
@pytest.mark.parametrize("kind", ["max", "avg"])
def test_window_errors(n: int, kind: str) -> None:
    name, x = f"{kind}_pool{n}d", normal(1, 2, *(5,) * n)
    many = (1,) * (n + 1)
    cases = [*WINDOW_ERRORS, {"kernel_size": many}, *({"kernel_size": 2, k: many} for k in ("stride", "padding"))]
    if kind == "max":
        cases += [{"kernel_size": 2, "dilation": d} for d in (0, -1, many)]
        cases += [{"kernel_size": 3, "dilation": 3}]
    elif n > 1:
        cases += [{"kernel_size": 2, "divisor_override": d} for d in (0, 1.5)]
    for options in cases:
        same_error(lambda o=options: ours(name)(x, **o), lambda o=options: theirs(name)(to_torch(x), **o))
    for shape in [(4,) * (n - 1), (4,) * n, (4,) * (n + 3), (2, 0, *(4,) * n), (0, *(4,) * n), (2, *(0,) * n)]:
        x = normal(*shape)
        same_error(lambda x=x: ours(name)(x, 2), lambda x=x: theirs(name)(to_torch(x), 2))
    with pytest.raises(NotImplementedError, match="not implemented for 'bool'"):
        ours(name)(np.ones((2, *(4,) * n), bool), 2)
    with pytest.raises(NotImplementedError, match="not implemented for 'complex64'"):
        ours(name)(np.ones((2, *(4,) * n), np.complex64), 2)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"kernel_size": 6}, r"input size: \(2x5x4\). Calculated output size: \(2x0x0\). Output size is too small"),
        ({"kernel_size": (2, 3), "padding": (0, 2)}, r"at most half .* pad=\(0, 2\), kernel_size=\(2, 3\)"),
        ({"kernel_size": (1, 2, 3)}, r"a tuple of two ints, got \(1, 2, 3\)"),
        ({"kernel_size": 2, "stride": (1, 0)}, r"stride should not be zero or negative, but got \(1, 0\)"),
    ],
)
def test_window_messages(options: dict[str, Any], match: str) -> None:
    with pytest.raises(RuntimeError, match=match):
        F.max_pool2d(normal(1, 2, 5, 4), **options)


def test_avg_pool3d_wants_the_input_as_large_as_the_kernel() -> None:
    x = normal(1, 3, 4, 4)
    options = {"kernel_size": 4, "padding": 2}
    same_error(lambda: F.avg_pool3d(x, **options), lambda: TF.avg_pool3d(to_torch(x), **options))
    both("max_pool3d", [x], **options)


# -- norms of windows -------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("n", "norm"),
    [(1, 2), (3, 2), (1, INF), (3, -INF), *((2, p) for p in (1, 2, 2.0, 3, 4, 1.5, 0.5, -1, -2.0, INF, -INF))],
)
def test_lp_pool(n: int, norm: float) -> None:
    x = normal(2, 2, *SIZES[n])
    # Sums of odd powers may be negative: NaN. Some powers of a negative number are, too. One over a sum may be large.
    both(f"lp_pool{n}d", [x], norm, 2, 1, rtol=1e-4 if norm < 0 else 1e-5)
    both(f"lp_pool{n}d", [np.abs(x)], norm, 2)
    both(f"lp_pool{n}d", [np.abs(x)], norm, 2, 3, ceil_mode=True)


@pytest.mark.parametrize(("n", "norm"), [(1, 2), (3, 2), *((2, p) for p in (1, 2, 2.5, INF, -INF))])
def test_lp_pool_of_zeros_has_no_gradient(n: int, norm: float) -> None:
    x = np.zeros((2, *(4,) * n), np.float32)
    x[0].flat[0], x[1].flat[0], x[1].flat[1] = 1.0, 2.0, -2.0
    both(f"lp_pool{n}d", [x], norm, 2)
    both(f"lp_pool{n}d", [np.where(np.arange(x.size).reshape(x.shape) % 7 == 0, NAN, x).astype(np.float32)], norm, 2)


def test_lp_pool_of_integers() -> None:
    whole = np.array([[[1, 2, 2], [0, 3, 1], [2, 2, 2]]])
    for norm in (2, 2.0, 3, 1):
        found, expected = F.lp_pool2d(whole, norm, 2, 1), TF.lp_pool2d(to_torch(whole), norm, 2, 1)
        assert found.dtype == jnp.float32
        assert_close(found, expected)
    assert_close(F.lp_pool2d(-whole, INF, 2, 1), TF.lp_pool2d(to_torch(-whole), INF, 2, 1))
    assert_close(F.lp_pool2d(whole > 1, 2, 2, 1), TF.lp_pool2d(to_torch(whole > 1), 2, 2, 1))
    assert_close(
        F.lp_pool2d(np.array([[[3 + 4j]]], np.complex64), INF, 1), TF.lp_pool2d(torch.tensor([[[3 + 4j]]]), INF, 1)
    )


@EVERY_N
def test_lp_pool_errors(n: int) -> None:
    name = f"lp_pool{n}d"
    for norm in (2, INF):
        for shape in [(4,) * (n - 1), (4,) * n, (4,) * (n + 3), (2, 0, *(4,) * n), (1, 2, *(1,) * n)]:
            x = normal(*shape)
            same_error(lambda x=x, p=norm: ours(name)(x, p, 2), lambda x=x, p=norm: theirs(name)(to_torch(x), p, 2))
        x = normal(1, 2, *(5,) * n)
        for args in [(0,), (2, 0), (2, -1), ((1,) * (n + 1),)]:
            with pytest.raises((RuntimeError, ValueError)):
                theirs(name)(to_torch(x), norm, *args)
            with pytest.raises(RuntimeError):
                ours(name)(x, norm, *args)
    for zero in (0, 0.0):
        same_error(lambda z=zero: ours(name)(x, z, 2), lambda z=zero: theirs(name)(to_torch(x), z, 2))
    with pytest.raises(NotImplementedError, match="not implemented for 'complex64'"):
        ours(name)(x.astype(np.complex64), 2, 2)


# -- adaptive ---------------------------------------------------------------------------------------------------
@EVERY_N
@pytest.mark.parametrize("kind", ["max", "avg"])
def test_adaptive_pool(n: int, kind: str) -> None:
    name = f"adaptive_{kind}_pool{n}d"
    x = np.round(2 * normal(2, 2, *SIZES[n]))
    for out in (1, (2, 5, 3)[-n:], (7, 3, 9)[-n:]):
        both(name, [x], out)
    both(name, [x[0]], [4] * n, indices=False)
    both(name, [x[:0]], 2)
    if n > 1:
        both(name, [x], (None, 2, None)[-n:], indices=False)


@pytest.mark.parametrize("kind", ["max", "avg"])
@pytest.mark.parametrize("values", ["normal", "equal", "special"])
def test_adaptive_pool_to_large_cells(kind: str, values: str) -> None:
    x = normal(2, 90, 50)
    if values == "equal":
        x = np.round(x)
    if values == "special":
        x = np.where(np.random.default_rng(1).random(x.shape) < 0.003, NAN, np.where(x > 0, x, -INF)).astype(np.float32)
    for out in ((90, 3), (4, 107)):
        for indices in (False, True):
            both(f"adaptive_{kind}_pool2d", [x], out, indices=indices)


@EVERY_N
@pytest.mark.parametrize("kind", ["max", "avg"])
def test_adaptive_pool_of_nan_and_infinity(n: int, kind: str) -> None:
    for i, special in enumerate((NAN, INF, -INF)):
        x = normal(2, *SIZES[n])
        x.flat[:: 4 + i] = special
        both(f"adaptive_{kind}_pool{n}d", [x], (3, 4, 3)[-n:])
        x = np.full((1, *SIZES[n]), special, np.float32)
        both(f"adaptive_{kind}_pool{n}d", [x], 2)


@EVERY_N
@pytest.mark.parametrize("kind", ["max", "avg"])
def test_adaptive_pool_to_nothing(n: int, kind: str) -> None:
    x = normal(2, 3, *SIZES[n])
    name = f"adaptive_{kind}_pool{n}d"
    for out in (0, (0, 1, 1)[:n]):
        compare(lambda x, o=out: ours(name)(x, o), lambda x, o=out: theirs(name)(x, o), [x], gradients=False)


@EVERY_N
@pytest.mark.parametrize("kind", ["max", "avg"])
def test_adaptive_pool_errors(n: int, kind: str) -> None:
    name, x = f"adaptive_{kind}_pool{n}d", normal(2, 3, *SIZES[n])
    outs: list[Any] = [-1, None, (2,) * (n + 1), (), 2.0, "2", (2.0,) * n]
    outs += [(None,), True] if n == 1 else [(2,) * (n - 1)]
    for out in outs:
        same_error(lambda o=out: ours(name)(x, o), lambda o=out: theirs(name)(to_torch(x), o))
    shapes = [(4,) * (n - 1), (4,) * n, (4,) * (n + 3), (2, 3, *(0,) * n)]
    for shape in shapes if kind == "avg" and n < 3 else [*shapes, (2, 0, *(4,) * n)]:
        for out in (2, (2,) * n):
            y = normal(*shape)
            same_error(lambda y=y, o=out: ours(name)(y, o), lambda y=y, o=out: theirs(name)(to_torch(y), o))
    y = np.ones((2, *(4,) * n), np.int64)
    same_error(lambda: ours(name)(y, 2), lambda: theirs(name)(to_torch(y), 2))
    if kind == "avg" and n < 3:
        assert ours(name)(normal(2, 0, *SIZES[n]), 2).shape == (2, 0, *(2,) * n)
    assert ours(name)(normal(0, *SIZES[n]), 2).shape == (0, *(2,) * n)  # taken for an empty batch, as torch does


# -- fractional -------------------------------------------------------------------------------------------------
def samples(x: np.ndarray, n: int, seed: int = 0) -> np.ndarray:
    planes = (1, x.shape[0]) if x.ndim == n + 1 else x.shape[:2]
    return np.random.default_rng((seed, n)).random((*planes, n)).astype(x.dtype)


def fractional(name: str, x: np.ndarray, u: np.ndarray, *args: Any) -> None:
    def of(G: Any, *given: Any) -> Callable[..., Any]:
        function = getattr(G, f"{name}_with_indices")
        return lambda x: function(x, *args, _random_samples=given[0])

    mine, other = of(F, u), of(TF, to_torch(u))
    compare(lambda x: mine(x)[0], lambda x: other(x)[0], [x])
    for found, expected in zip(mine(x), other(to_torch(x)), strict=True):
        assert_close(found, expected, 0.0)


@pytest.mark.parametrize("n", [2, 3])
def test_fractional_max_pool(n: int) -> None:
    name, size = f"fractional_max_pool{n}d", (7, 6, 9)[-n:]
    x = normal(2, 3, *size)
    u = samples(x, n)
    fractional(name, x, u, 2, 3)
    fractional(name, np.round(x), u, (1, 2, 3)[-n:], (4, 2, 1)[-n:])
    fractional(name, x[0], samples(x[0], n), 3, 2)
    fractional(name, x, u, 2, None, (0.3, 0.45, 0.2)[-n:])
    fractional(name, x[:0], u, 2, 3)
    fractional(name, x[:1], u, 2, 3)  # more samples than planes


@pytest.mark.parametrize("n", [2, 3])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_fractional_windows_are_torchs_bit_for_bit(n: int, dtype: str) -> None:
    """The places of a ramp's maxima are the windows' ends: many samples, in the dtype's own rounding."""
    with jax.enable_x64(dtype == "float64"):
        kind = jnp.dtype(dtype)
        for size, kernel, out in ((40, 2, 23), (33, 3, 17), (50, 1, 49 if n == 2 else 40)):
            shape = (300, 1, size, *(3,) * (n - 1))
            x = np.broadcast_to(np.arange(size, dtype=np.float32).reshape(size, *(1,) * (n - 1)), shape).astype(kind)
            u = np.random.default_rng(size).random((300, 1, n)).astype(kind)
            u[:2] = np.asarray([[0.0], [0.999]]).astype(kind)[:, None]
            u = np.minimum(u, np.nextafter(np.ones((), kind), np.zeros((), kind)))
            kernels, outs = (kernel, *(1,) * (n - 1)), (out, *(2,) * (n - 1))
            index = ours(f"fractional_max_pool{n}d_with_indices")(x, kernels, outs, _random_samples=u)[1]
            tensors = to_torch(x), to_torch(u)
            expected = theirs(f"fractional_max_pool{n}d_with_indices")(
                tensors[0], kernels, outs, _random_samples=tensors[1]
            )[1]
            np.testing.assert_array_equal(np.asarray(index), expected.numpy())


@pytest.mark.parametrize("n", [2, 3])
def test_fractional_max_pool_of_nan_and_infinity(n: int) -> None:
    x = normal(2, 2, *(6,) * n)
    x.flat[::3] = -INF
    x.flat[::11] = NAN
    for y in (x, np.full_like(x, -INF)):
        fractional(f"fractional_max_pool{n}d", y, samples(y, n), 3, 2)


@pytest.mark.parametrize("n", [2, 3])
def test_fractional_max_pool_draws(n: int) -> None:
    pool = ours(f"fractional_max_pool{n}d")
    size = (30, *(5,) * (n - 1))
    x = np.broadcast_to(np.arange(30, dtype=np.float32).reshape(30, *(1,) * (n - 1)), (4, 3, *size)).copy()

    def draw(x: jax.Array) -> jax.Array:
        return pool(x, 2, (12, *(2,) * (n - 1)))

    jm.manual_seed(3)
    first, second = draw(x), draw(x)
    assert (first != second).any()
    jm.manual_seed(3)
    assert_close(jm.jit(draw)(x), first, 0.0)
    ends = np.asarray(first)[..., *(0,) * (n - 1)]  # of each plane's windows along the ramp
    assert np.unique(ends.reshape(12, 12), axis=0).shape[0] > 6
    steps = np.diff(ends, axis=-1)
    assert (steps[..., :-1] >= 2).all()
    assert (steps <= 5).all()
    assert (ends[..., 0] == 1).all()
    assert (ends[..., -1] == 29).all()
    half = pool(x.astype(np.float16), 2, 2)
    assert half.dtype == jnp.float16
    jm.manual_seed(3)
    assert draw(x[0]).shape == (3, 12, *(2,) * (n - 1))


@pytest.mark.parametrize("n", [2, 3])
def test_fractional_max_pool_errors(n: int) -> None:
    name, x = f"fractional_max_pool{n}d", normal(1, 2, *(7,) * n)
    k = n - 1  # what fits in two dimensions is refused in three where it touches the end
    for args in [
        (2,),
        (7, 2),
        (8, 1),
        (2, 7),
        (2, 6 + (n == 2)),
        (7, 1 + (n == 2)),
        (2, -1),
        (2, (2,) * k),
        ((2,) * k, 2),
    ]:
        same_error(lambda a=args: ours(name)(x, *a), lambda a=args: theirs(name)(to_torch(x), *a))
    for shape in [(7,) * n, (7,) * (n + 3), (2, 0, *(7,) * n), (1, 2, 0, *(7,) * k)]:
        y = normal(*shape)
        same_error(lambda y=y: ours(name)(y, 2, 2), lambda y=y: theirs(name)(to_torch(y), 2, 2))
    whole = np.ones((1, 2, *(7,) * n), np.int64)
    same_error(lambda: ours(name)(whole, 2, 2), lambda: theirs(name)(to_torch(whole), 2, 2))
    for shape in [(1, 3, n), (1, 2, n + 1), (2, n), (0, 2, n)]:
        u = np.zeros(shape, np.float32)
        same_error(
            lambda u=u: ours(name)(x, 2, 2, _random_samples=u),
            lambda u=u: theirs(name)(to_torch(x), 2, 2, _random_samples=to_torch(u)),
        )
    half = np.zeros((1, 2, n), np.float16)
    same_error(
        lambda: ours(name)(x, 2, 2, _random_samples=half),
        lambda: theirs(name)(to_torch(x), 2, 2, _random_samples=to_torch(half)),
    )
    with pytest.raises(ValueError, match="output_ratio"):
        ours(name)(x, 2, output_ratio=(0.5,) * (n + 1))
    with pytest.raises(RuntimeError, match="nor a window empty"):  # torch answers with minus infinity
        ours(name)(x, 0, 2)
    with pytest.raises(RuntimeError, match=r"too large relative to input \[1, 2, 7"):
        ours(name)(x, 7, 2)


# -- unpooling --------------------------------------------------------------------------------------------------
def places(x: np.ndarray, n: int, size: tuple[int, ...]) -> np.ndarray:
    draw = np.random.default_rng(5)
    count = math.prod(x.shape[-n:])
    rows = [draw.permutation(math.prod(size))[:count] for _ in range(math.prod(x.shape[:-n]))]
    return np.stack(rows).reshape(x.shape)


def unpool(n: int, x: np.ndarray, index: np.ndarray, options: dict[str, Any]) -> None:
    name, options = f"max_unpool{n}d", dict(options)
    forms: list[Any] = [None]
    if "output_size" in options:
        wanted = (options.pop("output_size"),) * n
        forms = [wanted, [9, 9, *wanted]]
    for form in forms:
        compare(
            lambda x, f=form: ours(name)(x, index, **options, output_size=f),
            lambda x, f=form: theirs(name)(x, to_torch(index), **options, output_size=f),
            [x],
        )


UNPOOL: list[tuple[dict[str, Any], int]] = [
    ({"kernel_size": 2}, 6),
    ({"kernel_size": 3, "stride": 2}, 7),
    ({"kernel_size": 3, "stride": 2, "padding": 1}, 5),
    ({"kernel_size": 2, "output_size": 7}, 7),
    ({"kernel_size": 2, "output_size": 5}, 5),
    ({"kernel_size": 3, "stride": 1}, 5),
]


@EVERY_N
@pytest.mark.parametrize(("options", "size"), UNPOOL)
def test_max_unpool(n: int, options: dict[str, Any], size: int) -> None:
    x = normal(2, 3, *(3,) * n)
    unpool(n, x, places(x, n, (size,) * n), options)
    if options == {"kernel_size": 2}:
        x = normal(2, *(3,) * n)
        unpool(n, x, places(x, n, (size,) * n), options)
        unpool(n, normal(0, 3, *(3,) * n), np.zeros((0, 3, *(3,) * n), int), options)


@EVERY_N
def test_max_unpool_undoes_max_pool(n: int) -> None:
    x = np.abs(normal(2, 2, *SIZES[n]))
    args = (3, 2, 1)

    def there_and_back(G: Any) -> Callable[..., Any]:
        def call(x: Any) -> Any:
            y, index = getattr(G, f"max_pool{n}d")(x, *args, return_indices=True)
            return getattr(G, f"max_unpool{n}d")(y, index, *args, output_size=tuple(x.shape))

        return call

    assert_close(there_and_back(F)(x), there_and_back(TF)(to_torch(x)))
    y = there_and_back(F)(x)
    assert ((y == 0) | (y == x)).all()


def test_max_unpool_of_repeated_places() -> None:
    x, index = normal(2, 3, 2, 2), np.array([3, 3, 0, 3]).reshape(2, 2) * np.ones((2, 3, 1, 1), int)
    compare(lambda x: F.max_unpool2d(x, index, 2), lambda x: TF.max_unpool2d(x, to_torch(index), 2), [x])


@EVERY_N
def test_max_unpool_takes_any_integer_dtype(n: int) -> None:
    x, index = normal(1, 2, *(2,) * n), places(normal(1, 2, *(2,) * n), n, (4,) * n)
    expected = theirs(f"max_unpool{n}d")(to_torch(x), to_torch(index), 2)
    for dtype in ("int8", "uint8", "int32", "uint32"):
        assert_close(ours(f"max_unpool{n}d")(x, index.astype(dtype), 2), expected)


def test_max_unpool_places_out_of_range_write_nothing_when_compiled() -> None:
    index = jnp.array([[[-1, 4, 2]]])
    call = jax.jit(lambda x, i: F.max_unpool1d(x, i, 1, output_size=None))
    x = jnp.array([[[1.0, 2.0, 3.0]]])
    assert call(x, index).tolist() == [[[0.0, 0.0, 3.0]]]
    assert jax.grad(lambda x: jnp.sum(call(x, index)))(x).tolist() == [[[0.0, 0.0, 1.0]]]


@EVERY_N
def test_max_unpool_errors(n: int) -> None:
    name, x = f"max_unpool{n}d", normal(1, 2, *(2,) * n)
    index = places(x, n, (2,) * n)

    def check(x: np.ndarray, index: np.ndarray, kernel: Any = 2, **options: Any) -> None:
        same_error(
            lambda: ours(name)(x, index, kernel, **options),
            lambda: theirs(name)(to_torch(x), to_torch(index), kernel, **options),
        )

    for size in (2, 6, 99):
        check(x, index, output_size=(size,) * n)
    check(x, index, output_size=(4,) * (n + 1))
    check(x, index, output_size=4)
    check(x, index, padding=3)
    check(x, index, stride=1, padding=2)
    check(x, index, -1)
    check(x, index, (2,) * (n + 1))
    check(x, index, stride=())
    if n > 1:
        check(x, index, (2,) * (n - 1))
    if n == 3:
        check(x, index, stride=0)
        check(x, index, stride=(2,) * 4)
    check(x, index + 4**n)
    check(x, index - 1)
    check(x, index[:, :1])
    check(x, index[0])
    check(x, x)
    check(x, index > 0)
    check(x.astype(np.int32), index)
    for shape in [(4,) * (n - 1), (4,) * n, (4,) * (n + 3), (2, 0, *(4,) * n), (1, 2, *(0,) * n)]:
        check(normal(*shape), np.zeros(shape, int))
    with pytest.raises(RuntimeError, match="Found an invalid max index: -1 .output volumes are of size 4"):
        ours(name)(x, index - 1, 2)


# -- dtypes -----------------------------------------------------------------------------------------------------
CALLS: dict[str, Callable[[int], tuple[Any, ...]]] = {
    "max_pool": lambda n: (2, 1),
    "avg_pool": lambda n: (3, 2, 1),
    "lp_pool": lambda n: (2, 2),
    "adaptive_max_pool": lambda n: (3,),
    "adaptive_avg_pool": lambda n: (3,),
}


@EVERY_N
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", list(CALLS))
def test_half_precision(n: int, dtype: str, name: str) -> None:
    x = np.abs(normal(2, 2, *SIZES[n])).astype(jnp.dtype(dtype))
    full, args = f"{name}{n}d", CALLS[name](n)
    # torch rounds each power and, of gradients, each partial sum to the dtype
    rtol = 4 * float(jnp.finfo(dtype).eps)
    if n == 3 and name in ("avg_pool", "lp_pool"):  # torch has no half-precision kernel on CPU
        found = ours(full)(x, *args)
        assert found.dtype == x.dtype
        assert_close(found, theirs(full)(to_torch(x).float(), *args), rtol)
        return
    compare(lambda x: ours(full)(x, *args), lambda x: theirs(full)(x, *args), [x], rtol=rtol)


@EVERY_N
@pytest.mark.parametrize("name", list(CALLS))
def test_float64(n: int, name: str) -> None:
    with jax.enable_x64(True):
        x = normal(2, 2, *SIZES[n]).astype(np.float64) / 3
        full, args = f"{name}{n}d", CALLS[name](n)
        compare(lambda x: ours(full)(x, *args), lambda x: theirs(full)(x, *args), [x], rtol=1e-12)
        if "max" in name:
            index = ours(full)(x, *args, return_indices=True)[1]
            assert index.dtype == jnp.int64
            assert_close(index, theirs(full)(to_torch(x), *args, return_indices=True)[1])
            if name == "max_pool":
                y, i = (to_torch(v) for v in theirs(full)(to_torch(x), 2, return_indices=True))
                z = ours(f"max_unpool{n}d")(np.asarray(y), np.asarray(i), 2)
                assert z.dtype == jnp.float64
                assert_close(z, theirs(f"max_unpool{n}d")(y, i, 2), 1e-15)

"""`interpolate`, `grid_sample`, `affine_grid` and the shuffles against torch: arguments, edges, dtypes, exceptions."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as TF
from jax.test_util import check_grads

from jaxmodule.nn import functional as F
from tests.parity.oracle import assert_close, compare, same_error, to_torch

DEPRECATED = "is deprecated. Use `nn.functional.interpolate` instead"
HALF = [jnp.bfloat16, jnp.float16]


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng((seed, *shape)).standard_normal(shape).astype(np.float32)


def check(name: str, arrays: list[Any], **options: Any) -> None:
    compare(lambda *a: getattr(F, name)(*a, **options), lambda *a: getattr(TF, name)(*a, **options), arrays)


# -- interpolate: a property test beside this file draws sizes, factors and options -------------------------------
@pytest.mark.parametrize("mode", ["nearest", "nearest-exact"])
@pytest.mark.parametrize("wide", [False, True])
def test_nearest_picks_torchs_pixels(mode: str, wide: bool) -> None:
    """At sizes whose ratio is no float: one rounded otherwise would be another pixel."""
    with jax.enable_x64(wide):
        for size, out in itertools.product((5, 49, 100), (3, 25, 37, 99, 141, 197)):
            x = np.arange(size, dtype=np.float64 if wide else np.float32).reshape(1, 1, size)
            ours = np.asarray(F.interpolate(x, out, mode=mode))
            assert ours.dtype == x.dtype
            np.testing.assert_array_equal(ours, TF.interpolate(to_torch(x), out, mode=mode).numpy(), err_msg=f"{size}")


@pytest.mark.parametrize("mode", ["nearest", "nearest-exact"])
@pytest.mark.parametrize("factor", [0.7, 1.3, 1 / 3, 2.0, 2.99, 3, 1.0])
def test_nearest_picks_torchs_pixels_by_a_factor(mode: str, factor: float) -> None:
    for size in (10, 37):
        x = np.arange(size, dtype=np.float32).reshape(1, 1, size)
        ours = F.interpolate(x, scale_factor=factor, mode=mode)
        np.testing.assert_array_equal(ours, TF.interpolate(to_torch(x), scale_factor=factor, mode=mode).numpy())


@pytest.mark.parametrize("recompute", [None, False, True])
def test_recompute_scale_factor(recompute: bool | None) -> None:
    """7 * 1.5 is 10, so that the step is 1 / 1.5 or else 0.7."""
    check("interpolate", [normal(1, 2, 7)], scale_factor=1.5, mode="linear", recompute_scale_factor=recompute)


def test_a_factor_that_gives_the_same_size() -> None:
    """Linear kernels take it for the identity; cubic and exact ones don't, though torch's cubic gradient does."""
    for mode in ("linear", "nearest-exact"):
        check("interpolate", [normal(1, 2, 9)], scale_factor=1.09, mode=mode)
    x = normal(1, 2, 9, 9)
    ours = F.interpolate(x, scale_factor=1.09, mode="bicubic")
    assert_close(ours, TF.interpolate(to_torch(x), scale_factor=1.09, mode="bicubic"))


@pytest.mark.parametrize("align_corners", [False, True])
def test_resizing_much(align_corners: bool) -> None:
    """Where a result has so many elements, or an element so many results, that a matrix is multiplied."""
    small, large = normal(2, 2, 1, 2), normal(1, 2, 60, 50)
    check("interpolate", [small], size=(40, 50), mode="bilinear", align_corners=align_corners)
    options = {"size": (3, 4), "mode": "bicubic", "antialias": True, "align_corners": align_corners}
    check("interpolate", [large], **options)


@pytest.mark.parametrize("mode", ["bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("size", [(23, 30), (7, 5), (16, 31)])
def test_bytes(mode: str, antialias: bool, size: tuple[int, int]) -> None:
    """Bit for bit: torch rounds after each dimension."""
    if mode == "lanczos" and not antialias:
        return
    x = np.random.default_rng(0).integers(0, 256, (2, 3, 16, 15), np.uint8)
    ours = F.interpolate(x, size, mode=mode, antialias=antialias)
    assert ours.dtype == jnp.uint8
    np.testing.assert_array_equal(ours, TF.interpolate(to_torch(x), size, mode=mode, antialias=antialias).numpy())


def test_bytes_nearest() -> None:
    x = np.random.default_rng(0).integers(0, 256, (1, 2, 6, 5), np.uint8)
    for mode in ("nearest", "nearest-exact"):
        ours = F.interpolate(x, (12, 7), mode=mode)
        np.testing.assert_array_equal(ours, TF.interpolate(to_torch(x), (12, 7), mode=mode).numpy())


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize(
    ("mode", "shape"),
    [("nearest", (1, 2, 5)), ("linear", (1, 2, 5)), ("bilinear", (1, 2, 5, 4)), ("bicubic", (1, 2, 5, 4))],
)
def test_half_precision(mode: str, shape: tuple[int, ...], dtype: Any) -> None:
    x = normal(*shape).astype(dtype)
    ours, theirs = F.interpolate(x, 7, mode=mode), TF.interpolate(to_torch(x), 7, mode=mode)
    assert ours.dtype == dtype
    # torch's kernels round the weights, too, in some of their variants.
    assert_close(ours, theirs, 4 * float(jnp.finfo(dtype).eps))


@pytest.mark.parametrize("dtype", HALF)
def test_half_precision_antialias_is_near_single(dtype: Any) -> None:
    x = normal(1, 2, 9, 8).astype(dtype)
    ours = F.interpolate(x, (4, 5), mode="bilinear", antialias=True)
    exact = F.interpolate(x.astype(np.float32), (4, 5), mode="bilinear", antialias=True)
    assert_close(ours, exact, float(jnp.finfo(dtype).eps))


def test_float64() -> None:
    with jax.enable_x64(True):
        x = np.random.default_rng(0).standard_normal((1, 2, 7, 9))
        for options in ({"mode": "bilinear"}, {"mode": "bicubic"}, {"mode": "bilinear", "antialias": True}):
            ours = F.interpolate(x, (5, 11), **options)
            assert ours.dtype == np.float64
            assert_close(ours, TF.interpolate(to_torch(x), (5, 11), **options), 1e-13)


def test_what_is_not_finite_stays_where_it_is() -> None:
    x = normal(1, 1, 6, 6)
    x[0, 0, 2, 3], x[0, 0, 5, 0] = np.inf, np.nan
    for mode in ("nearest", "bilinear", "bicubic"):
        assert_close(F.interpolate(x, (13, 4), mode=mode), TF.interpolate(to_torch(x), (13, 4), mode=mode))
    ours = F.interpolate(x, (4, 3), mode="bilinear", antialias=True)
    assert_close(ours, TF.interpolate(to_torch(x), (4, 3), mode="bilinear", antialias=True))


@pytest.mark.parametrize("mode", ["nearest", "bilinear", "bicubic", "area"])
def test_empty_batch(mode: str) -> None:
    assert F.interpolate(normal(0, 2, 4, 4), 7, mode=mode).shape == (0, 2, 7, 7)


def test_forward_and_second_derivatives() -> None:
    """The tangent is spelled by hand, for the sake of its transpose."""
    x = jnp.asarray(normal(1, 1, 3, 2))
    check_grads(lambda x: F.interpolate(x, (4, 3), mode="bicubic") ** 2, (x,), order=2, rtol=2e-2)


def test_interpolate_under_vmap() -> None:
    x = jnp.asarray(normal(3, 1, 2, 5))
    gradient = jax.grad(lambda x: jnp.sum(F.interpolate(x, 8, mode="linear") ** 2))
    # The batch is one more dimension in front of those that are resized.
    np.testing.assert_allclose(jax.jit(jax.vmap(gradient))(x)[:, 0], jax.jit(gradient)(x[:, 0]), rtol=1e-6)


INTERPOLATE_ERRORS: list[tuple[tuple[int, ...], dict[str, Any], str]] = [
    ((1, 2, 4), {}, "either size or scale_factor should be defined"),
    ((1, 2, 4), {"size": 2, "scale_factor": 2.0}, "only one of size or scale_factor"),
    ((1, 2, 4, 4), {"size": (2,)}, "same number of spatial dimensions"),
    ((1, 2, 4, 4), {"scale_factor": (2.0,)}, "same number of spatial dimensions"),
    ((1, 2, 4), {"size": (6.0,)}, "expected size to be one of int"),
    ((1, 2, 4), {"size": 6.0}, "expected size to be one of int"),
    ((1, 2, 4), {"size": "6"}, "expected size to be one of int"),
    ((1, 2, 4), {"scale_factor": "2"}, "expected scale_factor to be numbers"),
    ((1, 2, 4), {"scale_factor": float("nan")}, "without overflow"),
    ((1, 2, 4), {"size": 0}, "should be greater than 0"),
    ((1, 2, 4, 4), {"size": -1, "mode": "bilinear"}, "should be greater than 0"),
    ((1, 2, 4), {"scale_factor": 0.1}, "should be greater than 0"),
    ((1, 2, 0), {"size": 3}, "should be greater than 0"),
    ((1, 0, 4), {"size": 3, "mode": "linear"}, "Non-empty 3D data tensor"),
    ((1, 2, 4), {"size": -1, "mode": "area"}, "greater than or equal to 0"),
    ((1, 2, 0), {"size": 3, "mode": "area"}, "non-zero size for non-batch"),
    ((1, 2, 4), {"size": 6, "align_corners": False}, "align_corners option can only be set"),
    ((1, 2, 4), {"size": 6, "mode": "area", "align_corners": True}, "align_corners option can only be set"),
    ((1, 2, 4), {"size": 6, "recompute_scale_factor": True}, "not meaningful with an explicit size"),
    ((1, 2, 4, 4), {"size": 6, "antialias": True}, "Anti-alias option is restricted"),
    ((1, 2, 4), {"size": 6, "mode": "linear", "antialias": True}, "Anti-alias option is restricted"),
    ((4, 4), {"size": 6}, "Only 3D, 4D and 5D"),
    ((1, 1, 2, 2, 2, 2), {"size": 6}, "Only 3D, 4D and 5D"),
    ((1, 2, 4), {"size": 6, "mode": "foo"}, "got foo"),
    ((1, 2, 4), {"size": 6, "mode": "bilinear"}, "Got 3D input, but bilinear mode needs 4D input"),
    ((1, 2, 4), {"size": 6, "mode": "trilinear"}, "needs 5D input"),
    ((1, 2, 4, 4), {"size": 6, "mode": "linear"}, "needs 3D input"),
    ((1, 2, 4, 4), {"size": 6, "mode": "trilinear"}, "needs 5D input"),
    ((1, 2, 4, 4, 4), {"size": 6, "mode": "linear"}, "needs 3D input"),
    ((1, 2, 4, 4, 4), {"size": 6, "mode": "bilinear"}, "needs 4D input"),
    ((1, 2, 4), {"size": 6, "mode": "bicubic"}, "needs 4D input"),
    ((1, 2, 4, 4), {"size": 6, "mode": "lanczos"}, "requires antialias=True"),
    ((1, 2, 4, 4), {"size": 6, "mode": "lanczos", "align_corners": True, "antialias": True}, "does not support align"),
]


@pytest.mark.parametrize(("shape", "options", "match"), INTERPOLATE_ERRORS)
def test_interpolate_errors(shape: tuple[int, ...], options: dict[str, Any], match: str) -> None:
    same_error(lambda: F.interpolate(normal(*shape), **options), lambda: TF.interpolate(torch.ones(shape), **options))
    with pytest.raises((ValueError, RuntimeError, TypeError), match=match):
        F.interpolate(normal(*shape), **options)


@pytest.mark.parametrize("mode", ["nearest", "linear", "area"])
def test_interpolate_of_integers(mode: str) -> None:
    x = np.ones((1, 2, 4), np.int32)
    same_error(lambda: F.interpolate(x, 6, mode=mode), lambda: TF.interpolate(to_torch(x), 6, mode=mode))


def test_interpolate_takes_what_torch_takes_for_a_size() -> None:
    assert F.interpolate(normal(1, 2, 4), np.int64(6)).shape == (1, 2, 6)
    assert F.interpolate(normal(1, 2, 4, 4), [6, 3]).shape == (1, 2, 6, 3)
    assert F.interpolate(normal(1, 2, 4, 4), scale_factor=[2, 0.5]).shape == (1, 2, 8, 2)


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("upsample", (None, 1.5, "bilinear", True)),
        ("upsample", (5,)),
        ("upsample_nearest", ((3, 7),)),
        ("upsample_bilinear", (None, (2, 3))),
    ],
)
def test_deprecated_names_warn(name: str, args: tuple[Any, ...]) -> None:
    x = normal(1, 2, 4, 3)
    with pytest.warns(UserWarning, match=DEPRECATED) as caught:
        ours = getattr(F, name)(x, *args)
    assert caught[0].filename == __file__
    with pytest.warns(UserWarning, match=DEPRECATED):
        theirs = getattr(TF, name)(to_torch(x), *args)
    assert_close(ours, theirs)


# -- grid_sample --------------------------------------------------------------------------------------------------
def grids(n: int, *spatial: int, spread: float = 2.5) -> np.ndarray:
    """Positions inside and outside, on borders and between pixels."""
    grid = np.random.default_rng(spatial).uniform(-spread, spread, (n, *spatial, len(spatial))).astype(np.float32)
    flat = grid.reshape(n, -1, len(spatial))
    for i, value in enumerate((-1.0, 1.0, 0.0, -0.75)):
        flat[0, i] = value
    return grid


SAMPLING = [(m, p, a) for m in ("bilinear", "nearest") for p in ("zeros", "border", "reflection") for a in (0, 1)]


@pytest.mark.parametrize(("mode", "padding", "align"), SAMPLING)
def test_grid_sample(mode: str, padding: str, align: bool) -> None:
    arrays = [normal(2, 3, 5, 4), grids(2, 6, 5)]
    check("grid_sample", arrays, mode=mode, padding_mode=padding, align_corners=bool(align))


@pytest.mark.parametrize(("padding", "align"), [("zeros", False), ("border", True), ("reflection", False)])
def test_grid_sample_bicubic(padding: str, align: bool) -> None:
    arrays = [normal(2, 3, 5, 4), grids(2, 6, 5)]
    options = {"mode": "bicubic", "padding_mode": padding, "align_corners": align}
    compare(
        lambda *a: F.grid_sample(*a, **options),
        lambda *a: TF.grid_sample(*a, **options),
        arrays,
        rtol=2e-5,  # a position of 6 has 5e-7 between neighbouring floats, times the slope of the cubic
    )


@pytest.mark.parametrize(("mode", "padding", "align"), SAMPLING[1::2])
def test_grid_sample_of_volumes(mode: str, padding: str, align: bool) -> None:
    arrays = [normal(2, 2, 4, 3, 5), grids(2, 3, 2, 4)]
    check("grid_sample", arrays, mode=mode, padding_mode=padding, align_corners=bool(align))


@pytest.mark.parametrize("mode", ["bilinear", "nearest", "bicubic"])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
def test_grid_sample_of_positions_that_are_not_finite(mode: str, padding: str) -> None:
    nan, inf = np.nan, np.inf
    grid = np.array([[nan, 0], [0, nan], [inf, 0], [-inf, 0], [1e20, 0], [nan, nan]], np.float32).reshape(1, 1, 6, 2)
    image = np.arange(1, 10, dtype=np.float32).reshape(1, 1, 3, 3)
    ours = F.grid_sample(image, grid, mode, padding, False)
    assert_close(ours, TF.grid_sample(to_torch(image), to_torch(grid), mode, padding, False))


def test_grid_sample_of_a_volume_takes_nan_for_minus_one() -> None:
    """As torch documents; what its CPU kernel does depends on how the platform converts NaN to an integer."""
    volume = np.arange(27, dtype=np.float32).reshape(1, 1, 3, 3, 3)
    grid = np.array([np.nan, 0, 0], np.float32).reshape(1, 1, 1, 1, 3)
    first = np.array([-1, 0, 0], np.float32).reshape(1, 1, 1, 1, 3)
    for padding in ("border", "reflection"):
        found, expected = (F.grid_sample(volume, g, "bilinear", padding, True) for g in (grid, first))
        assert found.tolist() == expected.tolist()
    assert F.grid_sample(volume, grid, align_corners=False).tolist() == [[[[[0.0]]]]]


@pytest.mark.parametrize("dtype", HALF)
def test_grid_sample_in_half_precision(dtype: Any) -> None:
    x, grid = normal(1, 2, 4, 4).astype(dtype), grids(1, 3, 3, spread=1.0).astype(dtype)
    ours = F.grid_sample(x, grid, align_corners=False)
    assert ours.dtype == dtype
    exact = F.grid_sample(x.astype(np.float32), grid.astype(np.float32), align_corners=False)
    assert_close(ours, exact, float(jnp.finfo(dtype).eps))
    # torch keeps positions in half precision on the way: a pixel's 16th in bfloat16
    assert_close(ours, TF.grid_sample(to_torch(x), to_torch(grid), align_corners=False), 16 * jnp.finfo(dtype).eps)


def test_grid_sample_of_nothing() -> None:
    for x, grid in (((0, 2, 4, 4), (0, 3, 3, 2)), ((1, 0, 4, 4), (1, 3, 3, 2)), ((1, 2, 4, 4), (1, 0, 3, 2))):
        expected = TF.grid_sample(torch.ones(x), torch.ones(grid), align_corners=False).shape
        assert F.grid_sample(normal(*x), normal(*grid), align_corners=False).shape == tuple(expected)


GRID_ERRORS: list[tuple[tuple[int, ...], tuple[int, ...], dict[str, Any], str]] = [
    ((1, 2, 4), (1, 3, 2), {}, "expected 4D or 5D input"),
    ((1, 2, 4, 4), (1, 3, 3, 3, 2), {}, "same number of dimensions"),
    ((2, 2, 4, 4), (1, 3, 3, 2), {}, "same batch size"),
    ((1, 2, 4, 4), (1, 3, 3, 3), {}, "size 2 in last dimension"),
    ((1, 2, 0, 4), (1, 3, 3, 2), {}, "non-empty spatial dimensions"),
    ((1, 2, 4, 4, 4), (1, 3, 3, 3, 3), {"mode": "bicubic"}, "bicubic interpolation only supports 4D"),
    ((1, 2, 4, 4), (1, 3, 3, 2), {"mode": "foo"}, "expected mode to be"),
    ((1, 2, 4, 4), (1, 3, 3, 2), {"padding_mode": "foo"}, "expected padding_mode to be"),
]


@pytest.mark.parametrize(("x", "grid", "options", "match"), GRID_ERRORS)
def test_grid_sample_errors(x: Any, grid: Any, options: dict[str, Any], match: str) -> None:
    options = {"align_corners": False, **options}
    same_error(
        lambda: F.grid_sample(normal(*x), normal(*grid), **options),
        lambda: TF.grid_sample(torch.ones(x), torch.ones(grid), **options),
    )
    with pytest.raises((ValueError, RuntimeError), match=match):
        F.grid_sample(normal(*x), normal(*grid), **options)


def test_grid_sample_refuses_dtypes() -> None:
    x, grid = np.ones((1, 1, 2, 2), np.float32), np.zeros((1, 1, 1, 2), np.float16)
    for a, g in ((x, grid), (x.astype(np.int32), grid.astype(np.int32))):
        same_error(
            lambda a=a, g=g: F.grid_sample(a, g, align_corners=False),
            lambda a=a, g=g: TF.grid_sample(to_torch(a), to_torch(g), align_corners=False),
        )


@pytest.mark.parametrize(
    ("name", "arguments"),
    [("grid_sample", (np.ones((1, 1, 2, 2), np.float32), np.zeros((1, 1, 1, 2), np.float32)))],
)
def test_unspecified_corners_warn(name: str, arguments: tuple[np.ndarray, ...]) -> None:
    with pytest.warns(UserWarning, match="Default grid_sample and affine_grid behavior has changed") as caught:
        ours = F.grid_sample(*arguments)
    assert caught[0].filename == __file__
    assert_close(ours, TF.grid_sample(*map(to_torch, arguments), align_corners=False))
    with pytest.warns(UserWarning, match="Default grid_sample and affine_grid behavior has changed") as caught:
        ours = F.affine_grid(normal(1, 2, 3), (1, 1, 2, 2))
    assert caught[0].filename == __file__
    assert_close(ours, TF.affine_grid(to_torch(normal(1, 2, 3)), (1, 1, 2, 2), align_corners=False))


# -- affine_grid --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("size", [(2, 3, 4, 5), (2, 1, 3, 2, 4), (2, 3, 1, 5)])
def test_affine_grid(size: tuple[int, ...], align_corners: bool) -> None:
    n = len(size) - 2
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Since version 1.3.0, affine_grid behavior has changed", UserWarning)
        check("affine_grid", [normal(2, n, n + 1)], size=size, align_corners=align_corners)


def test_affine_grid_of_one_pixel_warns() -> None:
    with pytest.warns(UserWarning, match="unit-size grids when align_corners=True") as caught:
        F.affine_grid(normal(1, 2, 3), (1, 1, 1, 2), align_corners=True)
    assert caught[0].filename == __file__


@pytest.mark.parametrize("dtype", HALF)
def test_affine_grid_in_half_precision(dtype: Any) -> None:
    theta = normal(1, 2, 3).astype(dtype)
    ours = F.affine_grid(theta, (1, 1, 4, 5), align_corners=False)
    assert ours.dtype == dtype
    theirs = TF.affine_grid(to_torch(theta), (1, 1, 4, 5), align_corners=False)
    assert_close(ours, theirs, 4 * float(jnp.finfo(dtype).eps))


AFFINE_ERRORS: list[tuple[np.ndarray, tuple[int, ...], str]] = [
    (np.ones((1, 2, 3), np.int32), (1, 1, 2, 2), "floating point type, but got int32"),
    (np.ones((1, 2, 4), np.float32), (1, 1, 2, 2), "batch of 2D affine matrices of shape Nx2x3"),
    (np.ones((1, 2, 3), np.float32), (1, 1, 2, 2, 2), "batch of 3D affine matrices of shape Nx3x4"),
    (np.ones((1, 2, 3), np.float32), (1, 2, 2), "only supports 4D and 5D sizes"),
    (np.ones((1, 2, 3), np.float32), (1, 1, 0, 2), "non-zero, positive output size"),
    (np.ones((0, 2, 3), np.float32), (0, 1, 2, 2), "non-zero, positive output size"),
    (np.ones((1, 2, 3), np.float32), (2, 1, 2, 2), "Expected 2 matrices"),
]


@pytest.mark.parametrize(("theta", "size", "match"), AFFINE_ERRORS)
def test_affine_grid_errors(theta: np.ndarray, size: tuple[int, ...], match: str) -> None:
    same_error(lambda: F.affine_grid(theta, size, False), lambda: TF.affine_grid(to_torch(theta), size, False))
    with pytest.raises((ValueError, RuntimeError), match=match):
        F.affine_grid(theta, size, False)


# -- shuffles -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "shape", "factor"),
    [
        ("pixel_shuffle", (8, 3, 2), 2),
        ("pixel_shuffle", (2, 1, 9, 2, 1), 3),
        ("pixel_shuffle", (0, 4, 2, 2), 2),
        ("pixel_unshuffle", (3, 4, 6), 2),
        ("pixel_unshuffle", (2, 1, 2, 3, 6), 3),
        ("channel_shuffle", (2, 6, 3), 3),
        ("channel_shuffle", (1, 0, 4, 4), 2),
        ("native_channel_shuffle", (2, 6, 2, 3, 1), 2),
    ],
)
def test_shuffles(name: str, shape: tuple[int, ...], factor: int) -> None:
    ours, theirs = getattr(F, name), getattr(TF, name)
    # torch's native kernel has no gradient, and the others' fail where nothing is shuffled.
    differentiable = not name.startswith("native") and 0 not in shape
    compare(lambda x: ours(x, factor), lambda x: theirs(x, factor), [normal(*shape)], gradients=differentiable)
    integers = np.arange(np.prod(shape), dtype=np.int32).reshape(shape)
    assert ours(integers, factor).dtype == jnp.int32


@pytest.mark.parametrize(
    ("name", "shape", "factor"),
    [
        ("pixel_shuffle", (4, 4), 2),
        ("pixel_shuffle", (4, 4, 4), 0),
        ("pixel_shuffle", (4, 4, 4), 2.0),
        ("pixel_shuffle", (3, 3, 4), 2),
        ("pixel_unshuffle", (4, 4), 2),
        ("pixel_unshuffle", (4, 4, 4), -2),
        ("pixel_unshuffle", (4, 4, 4), 2.0),
        ("pixel_unshuffle", (3, 3, 4), 2),
        ("pixel_unshuffle", (4, 4, 3), 2),
        ("channel_shuffle", (4, 4), 2),
        ("channel_shuffle", (4, 4, 4), 0),
        ("native_channel_shuffle", (4, 3, 4), 2),
    ],
)
def test_shuffle_errors(name: str, shape: tuple[int, ...], factor: Any) -> None:
    ours: Callable[..., Any] = getattr(F, name)
    same_error(lambda: ours(normal(*shape), factor), lambda: getattr(TF, name)(torch.ones(shape), factor))

"""`grouped_mm`, `scaled_mm` and `scaled_grouped_mm` against torch: values, dtypes, exceptions."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as TF

from jaxmodule.nn import functional as F
from tests.parity.oracle import assert_close, compare, same_error, to_torch


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng((seed, *shape)).standard_normal(shape).astype(np.float32)


def f(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    return np.zeros(shape, dtype)


# -- grouped_mm ---------------------------------------------------------------------------------------------------
def offsets(*ends: int) -> np.ndarray:
    return np.array(ends, np.int32)


GROUPED = {
    "rows": ((32, 16), (3, 16, 8), offsets(8, 16, 32)),
    "rows, empty group": ((32, 16), (3, 16, 8), offsets(0, 24, 32)),
    "sum": ((16, 32), (32, 8), offsets(8, 16, 32)),
    "sum, empty group": ((16, 32), (32, 8), offsets(8, 8, 32)),
    "columns": ((3, 16, 16), (16, 32), offsets(8, 16, 32)),
    "stacks": ((3, 16, 16), (3, 16, 8), None),
}


@pytest.mark.parametrize(("a", "b", "ends"), GROUPED.values(), ids=GROUPED)
@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16], ids=["float32", "bfloat16"])
def test_grouped_mm(a: tuple[int, ...], b: tuple[int, ...], ends: np.ndarray | None, dtype: Any) -> None:
    theirs = None if ends is None else to_torch(ends)
    half = dtype == jnp.bfloat16
    compare(
        lambda a, b: F.grouped_mm(a, b, offs=ends),
        lambda a, b: TF.grouped_mm(a, b, offs=theirs),
        [np.asarray(normal(*a), dtype), np.asarray(normal(*b, seed=1), dtype)],
        rtol=1e-2 if half else 1e-5,
        gradients=not half,
    )


def test_grouped_mm_beyond_torch() -> None:
    a, b = normal(6, 4), normal(2, 4, 3)
    whole = F.grouped_mm(a, b, offs=offsets(2, 5))
    assert not np.asarray(whole[5]).any()
    added = F.grouped_mm(a, b, offs=offsets(2, 5), bias=normal(3, seed=4))
    np.testing.assert_allclose(added, np.asarray(whole) + normal(3, seed=4)[None], rtol=1e-6)
    half = F.grouped_mm(
        jnp.asarray(a, jnp.bfloat16), jnp.asarray(b, jnp.bfloat16), offs=offsets(2, 5), out_dtype=jnp.float32
    )
    assert half.dtype == jnp.float32
    np.testing.assert_allclose(half, whole, rtol=0.05, atol=0.05)
    with pytest.raises(RuntimeError, match="does not broadcast"):
        F.grouped_mm(a, b, offs=offsets(2, 5), bias=normal(4))


@pytest.mark.parametrize(
    ("a", "b", "ends", "match"),
    [
        ((8,), (3, 8, 8), offsets(8, 16, 32), "mat_a has to be 2 or 3d"),
        ((32, 16), (3, 16, 8), None, "Have to provide offsets"),
        ((3, 16, 16), (3, 16, 8), offsets(8, 16, 32), "Have to provide offsets"),
        ((32, 16), (3, 8, 8), offsets(8, 16, 32), "contraction dimension"),
        ((2, 16, 16), (3, 16, 8), None, "batched dimension has to match"),
        ((32, 16), (3, 16, 8), offsets(8, 32), "batch sizes have to match"),
        ((32, 16), (3, 16, 8), np.array([8, 16, 32], np.int16), "Offsets have to be int32"),
    ],
)
def test_grouped_mm_errors(a: tuple[int, ...], b: tuple[int, ...], ends: Any, match: str) -> None:
    same_error(
        lambda: F.grouped_mm(f(*a), f(*b), offs=ends),
        lambda: TF.grouped_mm(torch.zeros(a), torch.zeros(b), offs=None if ends is None else to_torch(ends)),
    )
    with pytest.raises(RuntimeError, match=match):
        F.grouped_mm(f(*a), f(*b), offs=ends)
    with pytest.raises(RuntimeError, match="same dtype"):
        F.grouped_mm(f(4, 4), f(1, 4, 4, dtype=np.float16), offs=offsets(4))


# -- scaled_mm ----------------------------------------------------------------------------------------------------
WHOLE, ROWS = F.ScalingType.TensorWise, F.ScalingType.RowWise


def eight(*shape: int, seed: int = 0) -> tuple[jax.Array, torch.Tensor]:
    array = jnp.asarray(normal(*shape, seed=seed)).astype(jnp.float8_e4m3fn)
    return array, torch.from_numpy(np.asarray(array.astype(jnp.float32)).copy()).to(torch.float8_e4m3fn)


def theirs_of(recipe: F.ScalingType) -> Any:
    return getattr(TF.ScalingType, recipe.name)


@pytest.mark.parametrize("recipe", [WHOLE, ROWS], ids=lambda recipe: recipe.name)
@pytest.mark.parametrize("dtype", ["bfloat16", "float32", None], ids=str)
@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("fast", [True, False])
def test_scaled_mm(recipe: F.ScalingType, dtype: str | None, biased: bool, fast: bool) -> None:
    (a, ta), (b, tb) = eight(32, 64), eight(16, 64, seed=1)
    shapes = ((1,), (1,)) if recipe == WHOLE else ((32, 1), (1, 16))
    scales = [np.abs(normal(*shape, seed=i)) * 0.2 + 0.01 for i, shape in enumerate(shapes)]
    bias = normal(16, seed=5) if biased else None
    found = F.scaled_mm(
        a,
        b.T,
        scales[0],
        recipe,
        [scales[1]],
        [recipe],
        bias=bias,
        output_dtype=None if dtype is None else jnp.dtype(dtype),
        use_fast_accum=fast,
    )
    expected = TF.scaled_mm(
        ta,
        tb.t(),
        to_torch(scales[0]),
        theirs_of(recipe),
        to_torch(scales[1]),
        theirs_of(recipe),
        bias=None if bias is None else to_torch(bias),
        output_dtype=None if dtype is None else getattr(torch, dtype),
        use_fast_accum=fast,
    )
    assert str(found.dtype) == str(expected.dtype).removeprefix("torch.")
    rtol = {"float32": 1e-5, "bfloat16": 1e-2, None: 0.15}[dtype]
    assert_close(found.astype(jnp.float32), expected.float(), rtol)


def expanded(scale: np.ndarray, rows: int, columns: int, shape: tuple[int, int]) -> np.ndarray:
    return np.repeat(np.repeat(scale, rows, 0), columns, 1)[: shape[0], : shape[1]]


@pytest.mark.parametrize("size", [16, 32, 128])
@pytest.mark.parametrize("k", [256, 200])
def test_scaled_mm_in_blocks_of_a_row(size: int, k: int) -> None:
    """torch has no kernel on CPU: the definition."""
    (a, _), (b, _) = eight(8, k), eight(6, k, seed=1)
    scales = [np.abs(normal(n, -(-k // size), seed=i)) for i, n in enumerate((8, 6))]
    recipe = F.ScalingType[f"BlockWise1x{size}"]
    wide = [
        np.asarray(x.astype(jnp.float32)) * expanded(s, 1, size, x.shape) for x, s in zip((a, b), scales, strict=True)
    ]
    found = F.scaled_mm(a, b.T, scales[0], recipe, scales[1], recipe, output_dtype=jnp.float32)
    assert_close(found, torch.from_numpy(wide[0] @ wide[1].T))
    both = F.scaled_mm(a, b.T, [scales[0], np.float32(2)], [recipe, WHOLE], scales[1], recipe, output_dtype=jnp.float32)
    assert_close(both, torch.from_numpy(2 * wide[0] @ wide[1].T))


def test_scaled_mm_in_square_blocks() -> None:
    (a, _), (b, _) = eight(130, 256), eight(256, 256, seed=1)
    of_a, of_b = np.abs(normal(130, 2)), np.abs(normal(4, 2, seed=1))  # two rows of padding, as in torch
    square, row = F.ScalingType.BlockWise128x128, F.ScalingType.BlockWise1x128
    wide_a = np.asarray(a.astype(jnp.float32)) * expanded(of_a, 1, 128, a.shape)
    wide_b = np.asarray(b.astype(jnp.float32)) * expanded(of_b[:2], 128, 128, b.shape)
    found = F.scaled_mm(a, b, of_a, row, of_b, square, output_dtype=jnp.float32)
    assert_close(found, torch.from_numpy(wide_a @ wide_b))


def test_contraction_dim() -> None:
    (a, ta), (b, tb) = eight(16, 32), eight(32, 8, seed=1)
    one = np.float32(2)
    expected = F.scaled_mm(a, b, one, WHOLE, one, WHOLE)
    assert np.array_equal(
        np.asarray(F.scaled_mm(a, b, one, WHOLE, one, WHOLE, contraction_dim=[-1, 0]).astype(jnp.float32)),
        np.asarray(expected.astype(jnp.float32)),
    )
    turned = F.scaled_mm(a.T, b.T, one, WHOLE, one, WHOLE, contraction_dim=[0, 1])
    assert np.array_equal(np.asarray(turned.astype(jnp.float32)), np.asarray(expected.astype(jnp.float32)))
    same_error(
        lambda: F.scaled_mm(a, b, one, WHOLE, one, WHOLE, contraction_dim=[0, 1]),
        lambda: TF.scaled_mm(ta, tb, *[torch.tensor(2.0), theirs_of(WHOLE)] * 2, contraction_dim=[0, 1]),
    )


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"a": normal(32, 64)}, "mat_a should be float8"),
        ({"a": eight(1, 32, 64)[0]}, "must be a matrix"),
        ({"b": eight(16, 16)[0]}, "cannot be multiplied"),
        ({"scale_a": normal(2)}, "must have one element for TensorWise"),
        ({"scale_a": np.int32(1)}, "should be floating-point"),
        ({"scale_a": normal(31, 1), "recipe_a": ROWS}, "32 elements, one a row for RowWise"),
        ({"scale_a": normal(32, 3), "recipe_a": F.ScalingType.BlockWise1x32}, r"shape \[32, 2\] for BlockWise1x32"),
        ({"scale_a": normal(2, 2), "recipe_a": F.ScalingType.BlockWise128x128}, r"shape \[1, 1\]"),
        ({"scale_a": [np.float32(1)] * 2}, "2 arrays for 1 recipes"),
        ({"bias": normal(15)}, "Bias must be size 16"),
    ],
)
def test_scaled_mm_errors(change: dict[str, Any], match: str) -> None:
    arguments = {
        "a": eight(32, 64)[0],
        "b": eight(64, 16)[0],
        "scale_a": np.float32(1),
        "recipe_a": WHOLE,
        "bias": None,
        **change,
    }
    with pytest.raises(ValueError, match=match):
        F.scaled_mm(
            arguments["a"],
            arguments["b"],
            arguments["scale_a"],
            arguments["recipe_a"],
            np.float32(1),
            WHOLE,
            bias=arguments["bias"],
        )


def test_swizzles_say_what_to_do() -> None:
    (a, _), (b, _), one = eight(32, 64), eight(64, 16), np.float32(1)
    plain, swizzled = F.SwizzleType.NO_SWIZZLE, F.SwizzleType.SWIZZLE_32_4_4
    F.scaled_mm(a, b, one, WHOLE, one, WHOLE, plain, [plain])
    for swizzles in ((swizzled, None), (None, [swizzled])):
        with pytest.raises(NotImplementedError, match="in the order of the matrix"):
            F.scaled_mm(a, b, one, WHOLE, one, WHOLE, *swizzles)
        with pytest.raises(NotImplementedError, match="in the order of the matrix"):
            F.scaled_grouped_mm(a, b[None], one, WHOLE, one, WHOLE, *swizzles, offs=offsets(32))
    for ours, theirs in ((F.ScalingType, TF.ScalingType), (F.SwizzleType, TF.SwizzleType)):
        assert [(member.name, int(member)) for member in ours] == [
            (name, int(member)) for name, member in theirs.__members__.items()
        ]


SCALED_GROUPED = {
    "rows": ((6, 32), (3, 32, 4), offsets(2, 2, 6), (6,), (3, 4), (6, 1), (3, 4, 1)),
    "stacks": ((3, 6, 32), (3, 32, 4), None, (3, 6), (3, 4), (3, 6, 1), (3, 4, 1)),
    "columns": ((3, 6, 32), (32, 8), offsets(2, 2, 8), (3, 6), (8,), (3, 6, 1), (8, 1)),
}


@pytest.mark.parametrize(
    ("a", "b", "ends", "of_a", "of_b", "block_a", "block_b"), SCALED_GROUPED.values(), ids=SCALED_GROUPED
)
def test_scaled_grouped_mm(a: Any, b: Any, ends: Any, of_a: Any, of_b: Any, block_a: Any, block_b: Any) -> None:
    """torch has no kernel on CPU: the product of the matrices times their scales."""
    (x, _), (y, _) = eight(*a), eight(*b, seed=1)
    wide_x, wide_y = (np.asarray(z.astype(jnp.float32)) for z in (x, y))
    scale_a, scale_b = np.abs(normal(*of_a)), np.abs(normal(*of_b, seed=1))
    expected = F.grouped_mm(wide_x * scale_a[..., None], wide_y * scale_b[..., None, :], offs=ends)
    found = F.scaled_grouped_mm(x, y, scale_a, ROWS, scale_b, ROWS, offs=ends, output_dtype=jnp.float32)
    assert_close(found, to_torch(expected))
    whole = F.scaled_grouped_mm(
        x, y, np.float32(3), WHOLE, np.float32(2), WHOLE, offs=ends, output_dtype=jnp.float32, contraction_dim=[-1, -2]
    )
    assert_close(whole, to_torch(6 * F.grouped_mm(wide_x, wide_y, offs=ends)))
    block = F.ScalingType.BlockWise1x32
    found = F.scaled_grouped_mm(
        x, y, scale_a.reshape(block_a), block, scale_b.reshape(block_b), block, offs=ends, output_dtype=jnp.float32
    )
    assert_close(found, to_torch(expected))
    assert F.scaled_grouped_mm(x, y, scale_a, ROWS, scale_b, ROWS, offs=ends).dtype == jnp.bfloat16


def test_scaled_grouped_mm_of_a_cut_sum() -> None:
    (x, _), (y, _) = eight(4, 32), eight(32, 5, seed=1)
    ends = offsets(8, 8, 32)
    of_a, of_b = np.abs(normal(3, 4)), np.abs(normal(3, 5, seed=1))
    expected = F.grouped_mm(*(np.asarray(z.astype(jnp.float32)) for z in (x, y)), offs=ends)
    expected = np.asarray(expected) * of_a[:, :, None] * of_b[:, None, :]
    found = F.scaled_grouped_mm(
        x, y, of_a.reshape(-1), ROWS, of_b.reshape(-1), ROWS, offs=ends, output_dtype=jnp.float32
    )
    assert_close(found, torch.from_numpy(expected))
    with pytest.raises(ValueError, match="12 elements, one a row and group"):
        F.scaled_grouped_mm(x, y, of_a[0], ROWS, of_b.reshape(-1), ROWS, offs=ends)
    block = F.ScalingType.BlockWise1x32
    with pytest.raises(NotImplementedError, match="the groups cut its blocks"):
        F.scaled_grouped_mm(x, y, of_a[0][:, None], block, of_b.reshape(-1), ROWS, offs=ends)
    with pytest.raises(ValueError, match="contraction_dim"):
        F.scaled_grouped_mm(x, y, of_a, ROWS, of_b, ROWS, offs=ends, contraction_dim=[0, 1])

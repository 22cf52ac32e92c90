"""`unfold` and `fold` against torch: every argument, dtype and error. Drawn shapes are in test_conv_property.py."""

from __future__ import annotations

import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch.nn.functional as TF
from jax.test_util import check_grads

from jaxmodule.nn import functional as F
from tests.parity.oracle import assert_close, compare, same_error, to_torch


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng((seed, *shape)).standard_normal(shape).astype(np.float32)


def compare_call(name: str, x: np.ndarray, **options: Any) -> None:
    ours, theirs = getattr(F, name), getattr(TF, name)
    compare(lambda x: ours(x, **options), lambda x: theirs(x, **options), [x])


@pytest.mark.parametrize("name", ["fold", "unfold"])
def test_arguments_are_torchs(name: str) -> None:
    ours, theirs = (inspect.signature(getattr(m, name)).parameters.values() for m in (F, TF))
    assert [(p.name, p.default, p.kind) for p in ours] == [(p.name, p.default, p.kind) for p in theirs]


ARGUMENTS = [
    {"kernel_size": 2},
    {"kernel_size": (1, 3)},
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": 2, "stride": 2},
    {"kernel_size": 2, "stride": (3, 1), "padding": (0, 2)},
    {"kernel_size": 3, "dilation": 2},
    {"kernel_size": (3, 2), "dilation": (1, 3), "padding": (1, 2), "stride": (2, 3)},
    {"kernel_size": 4, "stride": 3, "dilation": 2, "padding": 3},
    {"kernel_size": [5, 6]},
    {"kernel_size": 1, "stride": 9, "padding": 2},
]


@pytest.mark.parametrize("options", ARGUMENTS, ids=str)
@pytest.mark.parametrize("batch", [(2, 3), (3,), (0, 3)], ids=["batch", "none", "empty"])
def test_unfold_and_fold(batch: tuple[int, ...], options: dict[str, Any]) -> None:
    x = normal(*batch, 5, 6)
    compare_call("unfold", x, **options)
    columns = F.unfold(x, **options).shape
    compare_call("fold", normal(*columns), output_size=(5, 6), **options)


def test_positional_arguments_come_in_torchs_order() -> None:
    x = normal(1, 2, 7, 7)
    columns = F.unfold(x, 2, 3, 1, 2)
    assert_close(columns, TF.unfold(to_torch(x), 2, 3, 1, 2))
    assert_close(F.fold(columns, 7, 2, 3, 1, 2), TF.fold(to_torch(columns), 7, 2, 3, 1, 2))


def test_what_a_fold_drops_and_never_sees() -> None:
    """Rows behind the last block stay zero, and what falls on the padding is gone."""
    columns = jnp.ones((1, 4, 4))
    assert F.fold(columns, 5, 2, stride=2)[0, 0, 4].tolist() == [0.0] * 5
    compare_call("fold", np.asarray(columns), output_size=5, kernel_size=2, stride=2)
    compare_call("fold", np.asarray(columns), output_size=2, kernel_size=2, stride=2, padding=1)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision(dtype: str) -> None:
    rtol = {"float16": 2e-3, "bfloat16": 2e-2}[dtype]  # torch adds up in another order
    x, columns = normal(1, 2, 5, 5).astype(jnp.dtype(dtype)), normal(1, 8, 16).astype(jnp.dtype(dtype))
    compare(lambda x: F.unfold(x, 2), lambda x: TF.unfold(x, 2), [x], rtol=rtol)
    compare(lambda x: F.fold(x, 5, 2), lambda x: TF.fold(x, 5, 2), [columns], rtol=rtol)


@pytest.mark.parametrize("dtype", ["bool", "complex64"])
def test_other_dtypes(dtype: str) -> None:
    x = (normal(1, 2, 5, 5) > 0).astype(dtype)
    compare(lambda x: F.unfold(x, 2), lambda x: TF.unfold(x, 2), [x], gradients=False)
    columns = (normal(1, 8, 16) > 1).astype(dtype)
    compare(lambda x: F.fold(x, 5, 2), lambda x: TF.fold(x, 5, 2), [columns], gradients=False)


def test_float64() -> None:
    with jax.enable_x64(True):
        x = np.random.default_rng(0).standard_normal((1, 2, 5, 5))
        columns = F.unfold(x, 3, padding=1, stride=2)
        assert columns.dtype == np.float64
        np.testing.assert_array_equal(columns, TF.unfold(to_torch(x), 3, padding=1, stride=2))
        assert_close(F.fold(columns, 5, 3, 1, 1, 2), TF.fold(to_torch(columns), 5, 3, 1, 1, 2), 1e-14)


def test_nan_stays_in_its_blocks() -> None:
    x = normal(1, 1, 4, 4)
    x[0, 0, 1, 1], x[0, 0, 3, 3] = np.nan, np.inf
    compare(lambda x: F.unfold(x, 2), lambda x: TF.unfold(x, 2), [x], gradients=False)
    columns = np.array(F.unfold(x, 2))
    compare(lambda x: F.fold(x, 4, 2), lambda x: TF.fold(x, 4, 2), [columns], gradients=False)


SHARED_ERRORS = [
    ({"kernel_size": 0}, "kernel size should be greater than zero"),
    ({"kernel_size": -1}, "kernel size should be greater than zero"),
    ({"kernel_size": (2, 2, 2)}, "expected kernel_size equals to 2, but got size 3"),
    ({"kernel_size": (2,)}, "expected kernel_size equals to 2, but got size 1"),
    ({"kernel_size": ()}, "expected kernel_size equals to 2, but got size 0"),
    ({"kernel_size": 2.0}, "kernel_size must be an int"),
    ({"kernel_size": 2, "stride": 0}, "stride should be greater than zero"),
    ({"kernel_size": 2, "stride": (1,)}, "expected stride equals to 2"),
    ({"kernel_size": 2, "dilation": 0}, "dilation should be greater than zero"),
    ({"kernel_size": 2, "dilation": (1, 1, 1)}, "expected dilation equals to 2"),
    ({"kernel_size": 2, "padding": -1}, "padding should be non-negative"),
    ({"kernel_size": 2, "padding": (1,)}, "expected padding equals to 2"),
]


@pytest.mark.parametrize(("options", "match"), SHARED_ERRORS, ids=str)
@pytest.mark.parametrize("name", ["fold", "unfold"])
def test_argument_errors(name: str, options: dict[str, Any], match: str) -> None:
    if name == "fold":
        options = {"output_size": (5, 6), **options}
    x = normal(1, 8, 20) if name == "fold" else normal(1, 2, 5, 6)
    same_error(lambda: getattr(F, name)(x, **options), lambda: getattr(TF, name)(to_torch(x), **options))
    with pytest.raises((RuntimeError, TypeError), match=match):
        getattr(F, name)(x, **options)


@pytest.mark.parametrize(
    ("shape", "kernel", "match"),
    [
        ((), 2, "Expected 3D or 4D"),
        ((5, 6), 2, r"Expected 3D or 4D .* but got: \[5, 6\]"),
        ((1, 1, 2, 5, 6), 2, "Expected 3D or 4D"),
        ((0, 5, 6), 2, "Expected 3D or 4D"),
        ((1, 0, 5, 6), 2, "Expected 3D or 4D"),
        ((1, 2, 0, 6), 2, "Expected 3D or 4D"),
        ((1, 2, 5, 6), 7, r"sliding blocks as \(-1, 0\)"),
        ((0, 2, 5, 6), (2, 7), r"sliding blocks as \(4, 0\)"),
    ],
)
def test_unfold_errors(shape: tuple[int, ...], kernel: Any, match: str) -> None:
    x = normal(*shape)
    same_error(lambda: F.unfold(x, kernel), lambda: TF.unfold(to_torch(x), kernel))
    with pytest.raises((RuntimeError, IndexError), match=match):
        F.unfold(x, kernel)


@pytest.mark.parametrize(
    ("shape", "size", "match"),
    [
        ((20,), (5, 6), "Expected 2D or 3D"),
        ((1, 1, 8, 20), (5, 6), "Expected 2D or 3D"),
        ((1, 0, 20), (5, 6), "Expected 2D or 3D"),
        ((8, 0), (5, 6), "Expected 2D or 3D"),
        ((1, 7, 20), (5, 6), r"input.size.1.=7 and kernel_size=\(2, 2\)"),
        ((1, 8, 19), (5, 6), r"sliding blocks 4 \* 5 = 20, but got input.size.2.=19"),
        ((8, 19), (5, 6), r"sliding blocks 4 \* 5 = 20, but got input.size.2.=19"),
        ((1, 8, 1), (1, 1), r"sliding blocks 0 \* 0 = 0"),
        ((1, 8, 4), -1, r"sliding blocks -2 \* -2"),
        ((1, 8, 20), (5, 6, 7), "expected output_size equals to 2, but got size 3"),
        ((1, 8, 20), (5,), "expected output_size equals to 2, but got size 1"),
        ((1, 8, 20), (5.0, 6.0), "output_size must be an int"),
    ],
)
def test_fold_errors(shape: tuple[int, ...], size: Any, match: str) -> None:
    x = normal(*shape)
    same_error(lambda: F.fold(x, size, 2), lambda: TF.fold(to_torch(x), size, 2))
    with pytest.raises((RuntimeError, TypeError), match=match):
        F.fold(x, size, 2)


@pytest.mark.parametrize("dtype", [np.int32, np.uint8])
def test_integers_are_not_implemented(dtype: Any) -> None:
    x, columns = np.ones((1, 2, 5, 6), dtype), np.ones((1, 8, 20), dtype)
    same_error(lambda: F.unfold(x, 2), lambda: TF.unfold(to_torch(x), 2))
    same_error(lambda: F.fold(columns, (5, 6), 2), lambda: TF.fold(to_torch(columns), (5, 6), 2))


@pytest.mark.parametrize("options", [{"kernel_size": 3, "padding": 1}, {"kernel_size": 2, "stride": 3, "dilation": 2}])
def test_the_two_are_each_others_transpose(options: dict[str, Any]) -> None:
    x = jnp.asarray(normal(1, 2, 6, 5))
    columns, transpose = jax.vjp(lambda x: F.unfold(x, **options), x)
    cotangent = jnp.asarray(normal(*columns.shape, seed=1))
    assert_close(F.fold(cotangent, (6, 5), **options), transpose(cotangent)[0])
    check_grads(lambda x: F.unfold(x, **options) ** 2, (x,), order=2, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("name", ["fold", "unfold"])
def test_no_gather_and_no_scatter_in_either_direction(name: str) -> None:
    options = {"kernel_size": (3, 2), "stride": (2, 3), "padding": 1, "dilation": (2, 1)}
    x = jnp.ones((1, 2, 7, 7))
    if name == "fold":
        x, options = F.unfold(x, **options), {"output_size": 7, **options}
    jaxpr = jax.make_jaxpr(jax.grad(lambda x: jnp.sum(getattr(F, name)(x, **options) ** 2)))(x)
    primitives = {str(eqn.primitive) for eqn in jaxpr.eqns}
    assert not {p for p in primitives if "gather" in p or "scatter" in p or "dynamic" in p}

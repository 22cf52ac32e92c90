"""`pad` against torch: every mode, sign, dtype and error. Drawn shapes are in test_conv_property.py."""

from __future__ import annotations

import inspect
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as TF

from jaxmodule import nn
from jaxmodule.nn import functional as F
from jaxmodule.nn.functional import padding
from tests.parity.oracle import assert_close, compare, same_error, to_torch

MODES = ["reflect", "replicate", "circular"]
DTYPES = ["float32", "float16", "bfloat16", "int32", "uint8", "bool", "complex64"]


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng((seed, *shape)).standard_normal(shape).astype(np.float32)


def counted(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    return np.arange(np.prod(shape), dtype=np.int32).reshape(shape).astype(jnp.dtype(dtype))


def compare_pad(x: np.ndarray, *args: Any, **kwargs: Any) -> None:
    compare(lambda x: F.pad(x, *args, **kwargs), lambda x: TF.pad(x, *args, **kwargs), [x])


def both_raise(x: np.ndarray, *args: Any, match: str, **kwargs: Any) -> None:
    same_error(lambda: F.pad(x, *args, **kwargs), lambda: TF.pad(to_torch(x), *args, **kwargs))
    with pytest.raises((RuntimeError, TypeError), match=match):
        F.pad(x, *args, **kwargs)


def test_arguments_are_torchs() -> None:
    ours, theirs = (inspect.signature(m.pad).parameters.values() for m in (F, TF))
    assert [(p.name, p.default, p.kind) for p in ours] == [(p.name, p.default, p.kind) for p in theirs]


# -- constant ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("shape", [(5,), (3, 5), (2, 3, 5), (1, 2, 1, 2, 1, 2)])
@pytest.mark.parametrize("pads", [(), (1, 2), (1, 0, 0, 2), (-1, 2), (2, -1), (-1, -1), (0, 1, -1, 0)])
def test_constant(shape: tuple[int, ...], pads: tuple[int, ...]) -> None:
    if len(pads) > 2 * len(shape):
        both_raise(normal(*shape), pads, match="less than or equal to two times the input dimension")
    else:
        compare_pad(normal(*shape), pads, value=1.5)


def test_constant_of_a_scalar_and_of_all_dimensions_and_of_everything_cropped() -> None:
    compare_pad(np.float32(3.0).reshape(()), ())
    compare_pad(normal(2, 1, 2, 1, 2, 3), tuple(range(12)))
    compare_pad(normal(2, 5), (-5, 5))
    compare_pad(normal(2, 5), (-2, -3))
    compare_pad(normal(0, 2), (1, 1))
    compare_pad(normal(2, 0), (1, 1), "constant", 7)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [None, 0, 1.5, -2, True, np.float32(2.5), np.int64(3), float("inf"), float("nan")])
def test_values(value: Any, dtype: str) -> None:
    x = counted(3, dtype=dtype)
    try:
        expected = TF.pad(to_torch(x), (1, 1), "constant", value)
    except RuntimeError:
        both_raise(x, (1, 1), "constant", value, match=f"cannot be converted to type {dtype} without overflow")
        return
    ours = F.pad(x, (1, 1), "constant", value)
    assert ours.dtype == x.dtype
    assert_close(ours, expected)


def test_values_too_large_and_of_other_types() -> None:
    both_raise(counted(2, dtype="float16"), (1, 1), value=1e5, match="to type float16 without overflow: 100000.0")
    both_raise(counted(2), (1, 1), value=1e40, match="to type float32 without overflow")
    both_raise(counted(2, dtype="int32"), (1, 1), value=2**40, match="to type int32 without overflow")
    for value in (1j, "a", [1.0]):
        both_raise(counted(2), (1, 1), value=value, match="argument 'value' must be float, not")


def test_an_array_as_the_value() -> None:
    x = jnp.arange(3.0)
    for value in (jnp.float32(2.5), np.array(2.5), nn.Parameter(jnp.float32(2.5))):
        np.testing.assert_array_equal(F.pad(x, (1, 1), value=value), [2.5, 0, 1, 2, 2.5])
    grad = jax.grad(lambda v: F.pad(x, (1, 2), value=v).sum())(jnp.float32(1.0))
    assert float(grad) == 3.0
    for value in (jnp.ones(2), jnp.complex64(1j)):
        with pytest.raises(TypeError, match="argument 'value' must be a number, not"):
            F.pad(x, (1, 1), value=value)


def test_a_new_value_compiles_nothing() -> None:
    x = jnp.arange(3.0)
    F.pad(x, (2, 1), value=1.0)
    before = padding._pad_constant._cache_size()
    for value in (2, 3.5, np.float32(4.0), np.inf):
        F.pad(x, (2, 1), value=value)
    assert padding._pad_constant._cache_size() == before


# -- values of the input itself -----------------------------------------------------------------------------------
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("batch", [(2, 3), (3,), (0, 3)], ids=["batch", "none", "empty"])
def test_modes(mode: str, n: int, batch: tuple[int, ...]) -> None:
    compare_pad(normal(*batch, *(5, 4, 3)[:n]), (2, 1, 0, 3, 1, 2)[: 2 * n], mode)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("rank", "length"), list(itertools.product(range(1, 7), [0, 1, 2, 3, 4, 6, 8, 12])))
def test_which_ranks_which_modes_pad(mode: str, rank: int, length: int) -> None:
    x, pads = counted(*(2,) * rank), (1,) * length
    try:
        expected = TF.pad(to_torch(x), pads, mode)
    except RuntimeError as error:
        with pytest.raises(type(error), match="divisible by 2|two times the input dimension|is not supported for"):
            F.pad(x, pads, mode)
        return
    np.testing.assert_array_equal(F.pad(x, pads, mode), expected)


NEGATIVE = [(-1, 2), (-2, -2), (3, -1), (-1, -3), (4, -4), (-4, 1)]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("pads", NEGATIVE, ids=str)
def test_negative_padding(mode: str, pads: tuple[int, int]) -> None:
    if mode == "circular" and max(pads) > 5 + min(pads):  # torch gives uninitialised memory here
        with pytest.raises(RuntimeError, match="wrapping around more than once"):
            F.pad(normal(1, 2, 5), pads, mode)
        return
    compare_pad(normal(1, 2, 5), pads, mode)
    compare_pad(normal(1, 3, 5), (*pads, 1, -1), mode)


@pytest.mark.parametrize("pads", [(-5, 2), (-6, 4), (-9, 4)])
@pytest.mark.parametrize("mode", ["reflect", "replicate"])
def test_more_cropped_than_there_is(mode: str, pads: tuple[int, int]) -> None:
    x = normal(1, 2, 5)
    if 5 + sum(pads) < 1:
        both_raise(x, pads, mode, match="is too small")
    else:
        compare_pad(x, pads, mode)


@pytest.mark.parametrize("pads", [(0, 0, 0, -1), (-3, 0, 0, 0), (-4, 0, 0, 0), (-3, 0, -1, 0)], ids=str)
@pytest.mark.parametrize("mode", ["reflect", "replicate"])
def test_dimensions_with_nothing_left(mode: str, pads: tuple[int, ...]) -> None:
    x = normal(1, 1, 3)
    if min(pads) == -4 or pads.count(0) == 2:
        both_raise(x, pads, mode, match="is too small")
    else:
        compare(lambda x: F.pad(x, pads, mode), lambda x: TF.pad(x, pads, mode), [x], gradients=False)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("pads", [(5, 0), (0, 5), (6, 0), (0, 6), (4, 4)], ids=str)
def test_large_padding(mode: str, pads: tuple[int, int]) -> None:
    fits = {"reflect": max(pads) < 5, "replicate": True, "circular": max(pads) <= 5}[mode]
    if fits:
        compare_pad(normal(1, 1, 5), pads, mode)
    else:
        both_raise(normal(1, 1, 5), pads, mode, match="Padding (size should be less|value causes wrapping)")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shape", [(1, 0, 5), (0, 5), (1, 1, 0), (0, 2, 0)])
@pytest.mark.parametrize("pads", [(1, 1), (0, 0)])
def test_empty_dimensions(mode: str, shape: tuple[int, ...], pads: tuple[int, int]) -> None:
    x = normal(*shape)
    try:
        expected = TF.pad(to_torch(x), pads, mode)
    except RuntimeError:
        both_raise(x, pads, mode, match="other non-zero dimensions|wrapping around")
        return
    assert F.pad(x, pads, mode).shape == tuple(expected.shape)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_dtypes(mode: str, dtype: str) -> None:
    x = counted(1, 4, dtype=dtype)
    if dtype == "bool" and mode != "circular":
        both_raise(x, (1, 1), mode, match="not implemented for 'bool'")
        return
    rtol = {"float16": 2e-3, "bfloat16": 2e-2}.get(dtype, 1e-5)  # gradients add up in another order
    compare(lambda x: F.pad(x, (1, 2), mode), lambda x: TF.pad(x, (1, 2), mode), [x], rtol=rtol)


@pytest.mark.parametrize("mode", ["constant", *MODES])
def test_float64(mode: str) -> None:
    with jax.enable_x64(True):
        x = np.random.default_rng(0).standard_normal((1, 2, 4))
        ours = F.pad(x, (1, 2), mode)
        assert ours.dtype == np.float64
        np.testing.assert_array_equal(ours, TF.pad(to_torch(x), (1, 2), mode))


@pytest.mark.parametrize("mode", MODES)
def test_values_in_other_modes(mode: str) -> None:
    compare_pad(normal(1, 1, 5), (1, 1), mode, 0)
    compare_pad(normal(1, 1, 5), (1, 1), mode, value=0.0)
    both_raise(normal(1, 1, 5), (1, 1), mode, 1.0, match="doesn't take in value argument, but got 1.0")


def test_arguments_of_the_wrong_kind() -> None:
    x = normal(1, 1, 5)
    both_raise(x, (1, 1), mode="x", match="Unrecognised padding mode 'x'")
    both_raise(x, (1, 1), mode=None, match="'mode' must be a str")
    both_raise(x, 1, match="'pad' must be a sequence of ints, not 1")
    both_raise(x, (1.0, 1), match="'pad' must be an int or a sequence of ints")
    both_raise(x, "ab", match="'pad' must be an int or a sequence of ints")
    compare_pad(x, [1, 1])
    np.testing.assert_array_equal(F.pad(x, np.array([1, 1])), F.pad(x, (1, 1)))


@pytest.mark.parametrize("mode", MODES)
def test_padding_is_a_few_slices_and_one_concatenation_a_dimension(mode: str) -> None:
    jaxpr = jax.make_jaxpr(lambda x: F.pad(x, (1, 2, 2, 1), mode))(jnp.ones((1, 1, 4, 4)))
    primitives = [str(eqn.primitive) for eqn in jaxpr.eqns]
    assert primitives.count("concatenate") == 2
    assert set(primitives) <= {"concatenate", "slice", "rev", "broadcast_in_dim"}


# -- layers -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("rank", range(1, 7))
def test_circular_layers_check_the_rank(n: int, rank: int) -> None:
    x = counted(*(2,) * rank)
    ours, theirs = (getattr(m, f"CircularPad{n}d")(1) for m in (nn, torch.nn))
    if rank in (n + 1, n + 2):
        np.testing.assert_array_equal(ours(x), theirs(to_torch(x)))
        return
    same_error(lambda: ours(x), lambda: theirs(to_torch(x)))
    with pytest.raises(ValueError, match=f"expected {n + 1}D or {n + 2}D input .got {rank}D input"):
        ours(x)


def test_layers_take_any_sequence() -> None:
    for sizes in ((1, 2, 0, 1), [1, 2, 0, 1], range(4), np.arange(4)):
        for name in ("ReflectionPad2d", "ZeroPad2d"):
            ours, theirs = getattr(nn, name)(sizes), getattr(torch.nn, name)(sizes)
            assert repr(ours) == repr(theirs)
            assert ours.padding == theirs.padding
    assert isinstance(nn.ZeroPad2d(1), nn.ConstantPad2d)

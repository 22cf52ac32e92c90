"""Convolutions, transposed ones, unfold, fold and padding against torch over drawn shapes and arguments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as TF
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxmodule.nn import functional as F
from tests.parity.oracle import compare, to_torch

EXAMPLES = settings(max_examples=20, deadline=None, derandomize=True)
MANY = settings(max_examples=300, deadline=None, derandomize=True)

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")

Case = tuple[str, list[np.ndarray | None], dict[str, Any]]


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng((seed, *shape)).standard_normal(shape).astype(np.float32)


def each(n: int, low: int, high: int) -> st.SearchStrategy[Any]:
    """One number for all of `n` dimensions, or one for each."""
    return st.one_of(st.integers(low, high), st.tuples(*[st.integers(low, high)] * n))


@st.composite
def convolutions(draw: st.DrawFn, transposed: bool) -> Case:
    n = draw(st.sampled_from([1, 2, 2, 3]))
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    channels, out = groups * draw(st.integers(1, 3)), groups * draw(st.integers(1, 3))
    kernel = draw(st.tuples(*[st.integers(1, 4 if n < 3 else 3)] * n))
    low, high = (1, 5) if transposed else (3, 8 if n < 3 else 5)
    size = draw(st.tuples(*[st.integers(low, high)] * n))
    stride, dilation = draw(each(n, 1, 3)), draw(each(n, 1, 3))
    options = {"stride": stride, "dilation": dilation, "groups": groups, "padding": draw(each(n, 0, 3))}
    if transposed:
        options["output_padding"] = draw(st.one_of(st.just(0), each(n, 0, 2)))
    elif draw(st.booleans()):
        options["padding"] = draw(st.sampled_from(["same", "valid"]))
        options["stride"] = 1 if options["padding"] == "same" else stride
    batch = draw(st.sampled_from([(), (1,), (2,), (0,)]))
    bias = normal(out, seed=2) if draw(st.booleans()) else None
    shape = (channels, out // groups) if transposed else (out, channels // groups)
    name = f"conv_transpose{n}d" if transposed else f"conv{n}d"
    return name, [normal(*batch, channels, *size), normal(*shape, *kernel, seed=1), bias], options


@st.composite
def blocks(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, int], dict[str, Any]]:
    """Leading dimensions, an image's size and how it is cut into blocks."""
    size = draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    batch = draw(st.sampled_from([(1,), (3,), (2, 3), (0, 2)]))
    options = {"kernel_size": draw(each(2, 1, 4)), "dilation": draw(each(2, 1, 3))}
    return batch, size, {**options, "padding": draw(each(2, 0, 3)), "stride": draw(each(2, 1, 4))}


@st.composite
def paddings(draw: st.DrawFn) -> tuple[np.ndarray, list[int], str, float | None]:
    mode = draw(st.sampled_from(["constant", "reflect", "replicate", "circular"]))
    n = draw(st.integers(1, 3))
    rank = draw(st.integers(n, 5)) if mode == "constant" else n + draw(st.integers(1, 2))
    shape = [draw(st.integers(1, 2)) for _ in range(rank - n)] + [draw(st.integers(1, 5)) for _ in range(n)]
    low = -2 if mode != "circular" else 0  # see test_functional_padding.py for what torch does there
    pads = [draw(st.integers(low, 4)) for _ in range(2 * n)]
    value = draw(st.sampled_from([None, 0.0, 2.5, float("inf")])) if mode == "constant" else None
    return normal(*shape), pads, mode, value


def same(name: str, arrays: list[np.ndarray | None], match: str, **options: Any) -> None:
    """Both raise, or both give one value and the same gradients."""
    ours: Callable[..., Any] = getattr(F, name)
    theirs: Callable[..., Any] = getattr(TF, name)
    try:
        expected = theirs(*[None if a is None else to_torch(a) for a in arrays], **options)
    except RuntimeError:
        expected = None
    # one of torch's two kernels gives an empty output where the other raises
    if expected is None or (name.startswith("conv_transpose") and arrays[0].size and not expected.numel()):
        with pytest.raises(RuntimeError, match=match):
            ours(*arrays, **options)
        return
    compare(lambda *a: ours(*a, **options), lambda *a: theirs(*a, **options), arrays)


def check_conv(case: Case) -> None:
    name, arrays, options = case
    same(name, arrays, "can't be greater than actual input size", **options)


def check_conv_transpose(case: Case) -> None:
    name, arrays, options = case
    if arrays[0].shape[0] == 0 and arrays[0].ndim == arrays[1].ndim and _output_padding_is_too_large(options):
        return  # torch doesn't look at it when the batch is empty
    same(name, arrays, "Output size is too small|output padding must be smaller", **options)


def _output_padding_is_too_large(options: dict[str, Any]) -> bool:
    names = ("output_padding", "stride", "dilation")
    given = [(options[name],) * 3 if isinstance(options[name], int) else options[name] for name in names]
    return any(o >= max(s, d) for o, s, d in zip(*given, strict=False))


def check_unfold(case: tuple[tuple[int, ...], tuple[int, int], dict[str, Any]]) -> None:
    batch, size, options = case
    same("unfold", [normal(*batch, *size)], "must be at least one", **options)


def check_fold(case: tuple[tuple[int, ...], tuple[int, int], dict[str, Any]]) -> None:
    batch, size, options = case
    try:
        columns = tuple(TF.unfold(torch.zeros(*batch, *size), **options).shape)
    except RuntimeError:
        return
    same("fold", [normal(*columns)], "", output_size=size, **options)


def check_pad(case: tuple[np.ndarray, list[int], str, float | None]) -> None:
    x, pads, mode, value = case
    match = "negative output size|should be less than the corresponding|is too small|wrapping around more than once"
    same("pad", [x], match, pad=pads, mode=mode, value=value)


@EXAMPLES
@given(convolutions(transposed=False))
def test_conv(case: Case) -> None:
    check_conv(case)


@EXAMPLES
@given(convolutions(transposed=True))
def test_conv_transpose(case: Case) -> None:
    check_conv_transpose(case)


@EXAMPLES
@given(blocks())
def test_unfold(case: Any) -> None:
    check_unfold(case)


@EXAMPLES
@given(blocks())
def test_fold(case: Any) -> None:
    check_fold(case)


@settings(EXAMPLES, max_examples=40)
@given(paddings())
def test_pad(case: Any) -> None:
    check_pad(case)


@pytest.mark.slow
@MANY
@given(convolutions(transposed=False))
def test_conv_at_length(case: Case) -> None:
    check_conv(case)


@pytest.mark.slow
@MANY
@given(convolutions(transposed=True))
def test_conv_transpose_at_length(case: Case) -> None:
    check_conv_transpose(case)


@pytest.mark.slow
@MANY
@given(blocks())
def test_unfold_and_fold_at_length(case: Any) -> None:
    check_unfold(case)
    check_fold(case)


@pytest.mark.slow
@MANY
@given(paddings())
def test_pad_at_length(case: Any) -> None:
    check_pad(case)

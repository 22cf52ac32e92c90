"""CTC against torch: losses and torch's own gradient of the log-probabilities, over every argument.

Tolerances are relative to the largest value of the tensor compared; the default is 1e-5 in float32.
"""

from __future__ import annotations

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as TF
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxmodule as jm
from jaxmodule import nn
from jaxmodule.nn import functional as F
from tests.parity.oracle import assert_close, same_error, to_torch

REDUCTIONS = ["none", "mean", "sum"]
X = np.random.default_rng(0).standard_normal((6, 2, 5)).astype(np.float32)
TARGETS = np.array([[1, 2, 3], [2, 2, 4]])  # a label twice in a row needs a blank between


def gradient(f: Any, x: np.ndarray) -> tuple[Any, Any]:
    """The value, and the gradient of its elements times 1, 2, 3, ..."""

    def total(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        value = f(x)
        weights = jnp.arange(1, value.size + 1, dtype=value.dtype).reshape(value.shape)
        return jnp.sum(value * weights), value

    (_, value), found = jax.value_and_grad(total, has_aux=True)(jnp.asarray(x))
    return value, found


def torch_gradient(f: Any, x: np.ndarray) -> tuple[Any, Any]:
    tensor = to_torch(x).requires_grad_()
    value = f(tensor)
    weights = torch.arange(1, value.numel() + 1, dtype=value.dtype).reshape(value.shape)
    (value * weights).sum().backward()
    return value, tensor.grad


@functools.cache
def program(**options: Any) -> Any:
    """Compiled once for all arrays of the same shapes."""

    def run(x: jax.Array, targets: Any, inputs: Any, lengths: Any) -> tuple[Any, Any]:
        return gradient(lambda x: F.ctc_loss(x, targets, inputs, lengths, **options), x)  # pyright: ignore

    return jax.jit(run)


def check(x: np.ndarray, targets: Any, inputs: Any, lengths: Any, rtol: float = 1e-5, **options: Any) -> None:
    """Eagerly, where the lengths are known, and compiled, where they are not."""
    theirs = torch_gradient(lambda x: TF.ctc_loss(x, to_torch(targets), inputs, lengths, **options), x)
    known = gradient(lambda x: F.ctc_loss(x, targets, inputs, lengths, **options), x)
    traced = program(**options)(x, targets, np.array(inputs), np.array(lengths))
    for value, found in (known, traced):
        assert_close(value, theirs[0], rtol)
        assert_close(found, theirs[1], rtol, "gradient")


LENGTHS = [
    ((6, 5), (3, 2)),
    ((2, 6), (3, 0)),  # an infinite loss, and an empty target
    ((0, 0), (0, 1)),  # no input
    ((6, 6), (0, 0)),
    ((3, 2), (3, 2)),  # just long enough, and one too short for its repetition
]


@pytest.mark.parametrize(("inputs", "lengths"), LENGTHS)
@pytest.mark.parametrize(
    ("reduction", "zero_infinity", "concatenated"),
    [(r, z, False) for r in REDUCTIONS for z in (False, True)] + [("none", False, True), ("mean", True, True)],
)
def test_lengths(inputs: Any, lengths: Any, reduction: str, zero_infinity: bool, concatenated: bool) -> None:
    targets = np.concatenate([row[:n] for row, n in zip(TARGETS, lengths, strict=True)]) if concatenated else TARGETS
    check(X, targets, inputs, lengths, reduction=reduction, zero_infinity=zero_infinity)


@pytest.mark.parametrize("blank", [0, 2, 4])
def test_blank(blank: int) -> None:
    check(X, (TARGETS + blank) % 4 + (blank == 0), (6, 5), (3, 2), blank=blank, reduction="none")


def test_the_blank_as_a_label() -> None:
    check(X, TARGETS, (6, 6), (3, 3), blank=2, reduction="none")


def test_forms_of_lengths() -> None:
    expected = float(F.ctc_loss(X, TARGETS, (6, 5), (3, 2)))
    np_, jnp_ = (np.array([6, 5]), np.array([3, 2])), (jnp.array([6, 5]), jnp.array([3, 2]))
    boxes = tuple(nn.Buffer(array) for array in jnp_)
    for inputs, lengths in ([[6, 5], [3, 2]], np_, jnp_, boxes, (np_[0].astype(np.uint8), np_[1].astype(np.int16))):
        assert float(F.ctc_loss(X, TARGETS, inputs, lengths)) == expected
    scalars = jax.jit(lambda n: F.ctc_loss(X, TARGETS, [6, n], (n - 2, n - 3)))  # a list with a traced number
    assert abs(float(scalars(5)) - expected) < 1e-6
    assert float(F.ctc_loss(X, TARGETS.astype(np.int8), (6, 5), (3, 2))) == expected
    assert float(F.ctc_loss(X, TARGETS.astype(np.float32), (6, 5), (3, 2))) == expected  # as torch takes them


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_no_batch(reduction: str) -> None:
    for inputs, lengths in (((6,), (3,)), (np.array(6), np.array(3)), (jnp.array([6]), jnp.array([3]))):
        ours = F.ctc_loss(X[:, 0], TARGETS[0], inputs, lengths, reduction=reduction)
        theirs = TF.ctc_loss(to_torch(X[:, 0]), to_torch(TARGETS[0]), (6,), (3,), reduction=reduction)
        assert_close(ours, theirs)


def test_padding_is_never_read() -> None:
    padded = np.array([[1, 2, -1], [2, 99, 4]])
    ours = F.ctc_loss(X, padded, (6, 5), (2, 1), reduction="none")
    assert_close(ours, F.ctc_loss(X, TARGETS, (6, 5), (2, 1), reduction="none"))
    compiled = jax.jit(lambda t: F.ctc_loss(X, t, (6, 5), (2, 1), reduction="none"))(padded)
    assert_close(compiled, ours, 1e-6)


def test_a_log_probability_of_minus_infinity() -> None:
    x = np.where(np.arange(5) == 1, -np.inf, X).astype(np.float32)  # a class of the first target only
    value, found = gradient(lambda x: F.ctc_loss(x, TARGETS, (6, 5), (3, 2), reduction="none", zero_infinity=True), x)
    theirs = torch_gradient(
        lambda x: TF.ctc_loss(x, to_torch(TARGETS), (6, 5), (3, 2), reduction="none", zero_infinity=True), x
    )
    assert_close(value, theirs[0])
    assert np.isfinite(found).all()  # torch: NaN in this class
    others = [0, 2, 3, 4]
    assert_close(found[..., others], theirs[1][..., others])
    assert not found[:, :, 1].any()


def test_the_gradient_of_logits_is_the_true_one() -> None:
    def loss(x: jax.Array) -> jax.Array:
        return F.ctc_loss(F.log_softmax(x, 2), TARGETS, (6, 5), (3, 2))

    with jax.enable_x64(True):
        x = jnp.asarray(X, jnp.float64)
        direction = jnp.asarray(np.random.default_rng(1).standard_normal(X.shape))
        slope = (loss(x + 1e-5 * direction) - loss(x - 1e-5 * direction)) / 2e-5
        np.testing.assert_allclose(jnp.sum(jax.grad(loss)(x) * direction), slope, rtol=1e-8)


def test_a_long_input_is_as_exact_as_in_torch() -> None:
    generator = np.random.default_rng(0)
    x = 5 * generator.standard_normal((300, 2, 20)).astype(np.float32)
    x -= np.log(np.exp(x).sum(2, keepdims=True))
    targets = generator.integers(1, 20, (2, 60))
    check(x, targets, (300, 250), (60, 50), rtol=2e-3, reduction="sum")  # float32 sums of 300 logarithms


def test_double_and_half_precision() -> None:
    with jax.enable_x64(True):
        for target_dtype, length_dtype in itertools.product((np.int32, np.int64), repeat=2):
            lengths = np.array([6, 5], length_dtype), np.array([3, 2], length_dtype)
            ours = F.ctc_loss(X.astype(np.float64), TARGETS.astype(target_dtype), *lengths)
            assert ours.dtype == np.float64
            assert_close(ours, TF.ctc_loss(to_torch(X).double(), to_torch(TARGETS), (6, 5), (3, 2)), 1e-12)
    for dtype in (jnp.float16, jnp.bfloat16):  # torch has neither
        half = jnp.asarray(X, dtype)
        ours = F.ctc_loss(half, TARGETS, (6, 5), (3, 2))
        assert ours.dtype == dtype
        assert_close(ours, F.ctc_loss(half.astype(jnp.float32), TARGETS, (6, 5), (3, 2)), float(jnp.finfo(dtype).eps))


def test_vmap() -> None:
    xs, targets = np.stack([X, 2 * X]), np.stack([TARGETS, TARGETS[::-1]])
    lengths = np.array([[3, 2], [1, 3]])
    mapped = jax.vmap(lambda x, t, n: gradient(lambda x: F.ctc_loss(x, t, (6, 5), n, reduction="none"), x))
    for i, (value, found) in enumerate(zip(*mapped(xs, targets, lengths), strict=True)):
        expected = gradient(lambda x, i=i: F.ctc_loss(x, targets[i], (6, 5), lengths[i], reduction="none"), xs[i])
        assert_close(value, expected[0], 1e-6)
        assert_close(found, expected[1], 1e-6)


ERRORS = [
    ((6, 2, 5), TARGETS, (6, 5), (3, 2), {"blank": 5}, "blank must be in label range, but got 5 for 5 classes"),
    ((6, 2, 5), TARGETS, (6, 5), (3, 2), {"blank": -1}, "blank must be in label range"),
    ((6, 2, 5), TARGETS, (6, 5), (3, 2), {"reduction": "foo"}, "foo is not a valid value"),
    ((6, 2, 5), TARGETS, (7, 5), (3, 2), {}, "input_lengths to have value at most 6, but got value 7"),
    ((6, 2, 5), TARGETS, (-1, 5), (3, 2), {}, "input_lengths to have value at least 0, but got value -1"),
    ((6, 2, 5), TARGETS, (6, 5), (-1, 2), {}, "target_lengths to have value at least 0, but got value -1"),
    ((6, 2, 5), TARGETS, (6, 5), (4, 2), {}, "size at least 4 at dimension 1, but got size 3"),
    ((6, 2, 5), TARGETS, (6,), (3, 2), {}, r"input_lengths must be of size batch_size \(2\), but got \[1\]"),
    ((6, 2, 5), TARGETS, (6, 5), (3, 2, 1), {}, r"target_lengths must be of size batch_size"),
    ((6, 2, 5), TARGETS[:1], (6, 5), (3, 2), {}, "size 2 at dimension 0, but got size 1"),
    ((6, 2, 5), TARGETS[None], (6, 5), (3, 2), {}, "3-dimensional tensor for 'targets'"),
    ((6, 2, 5), TARGETS[0], (6, 5), (3, 2), {}, "size 5 at dimension 0, but got size 3"),
    ((0, 2, 5), TARGETS, (0, 0), (0, 0), {}, r"must not be empty, but is of shape \[0, 2, 5\]"),
    ((6, 0, 5), TARGETS[:0], (), (), {}, "must not be empty"),
    ((5,), TARGETS[0], (6,), (3,), {}, r"\(T, C\) or \(T, N, C\), but got \[5\]"),
    ((1, 6, 2, 5), TARGETS, (6, 5), (3, 2), {}, "but got"),
]


@pytest.mark.parametrize(("shape", "targets", "inputs", "lengths", "options", "match"), ERRORS)
def test_errors(shape: Any, targets: Any, inputs: Any, lengths: Any, options: Any, match: str) -> None:
    same_error(
        lambda: F.ctc_loss(np.zeros(shape, np.float32), targets, inputs, lengths, **options),
        lambda: TF.ctc_loss(torch.zeros(shape), to_torch(targets), inputs, lengths, **options),
    )
    with pytest.raises((RuntimeError, ValueError), match=match):
        F.ctc_loss(np.zeros(shape, np.float32), targets, inputs, lengths, **options)


def test_dtype_errors() -> None:
    lengths = np.array([6.0, 5.0]), np.array([3, 2])
    same_error(
        lambda: F.ctc_loss(X, TARGETS, *lengths),
        lambda: TF.ctc_loss(to_torch(X), to_torch(TARGETS), *map(to_torch, lengths)),
    )
    same_error(
        lambda: F.ctc_loss(X.astype(int), TARGETS, (6, 5), (3, 2)),
        lambda: TF.ctc_loss(to_torch(X.astype(int)), to_torch(TARGETS), (6, 5), (3, 2)),
    )


def test_a_label_that_is_no_class_raises_or_is_nan() -> None:
    for targets in (np.array([[1, 2, 5], [2, 2, 4]]), np.array([[1, 2, -1], [2, 2, 4]]), np.array([1, 2, 5, 2, 2])):
        with pytest.raises(RuntimeError, match=r"targets to be classes in \[0, 4\], but got (5|-1)"):
            F.ctc_loss(X, targets, (6, 5), (3, 2))
        losses = jax.jit(lambda t: F.ctc_loss(X, t, (6, 5), (3, 2), reduction="none"))(targets)
        assert np.isnan(losses).tolist() == [True, False]


def test_a_length_out_of_range_is_nan_when_compiled() -> None:
    run = jax.jit(lambda inputs, lengths: F.ctc_loss(X, TARGETS, inputs, lengths, reduction="none"))
    for inputs, lengths in (([7, 5], [3, 2]), ([-1, 5], [3, 2]), ([6, 5], [4, 2]), ([6, 5], [-1, 2])):
        assert np.isnan(run(np.array(inputs), np.array(lengths))).tolist() == [True, False]


def test_layer() -> None:
    layer = nn.CTCLoss(blank=4, reduction="sum", zero_infinity=True)
    targets = np.array([[1, 2, 3], [2, 2, 0]])
    expected = torch.nn.CTCLoss(4, "sum", True)(to_torch(X), to_torch(targets), (2, 5), (3, 2))
    assert_close(layer(X, targets, (2, 5), (3, 2)), expected)
    assert_close(jm.jit(layer)(X, targets, np.array([2, 5]), np.array([3, 2])), expected)


def any_case(data: st.DataObject, times: int, batch: int, classes: int, longest: int, reduction: str) -> None:
    blank = data.draw(st.sampled_from([0, classes - 1]))
    label = st.sampled_from([c for c in range(classes) if c != blank])
    rows = data.draw(st.lists(st.lists(label, max_size=longest), min_size=batch, max_size=batch))
    inputs = data.draw(st.lists(st.integers(0, times), min_size=batch, max_size=batch))
    targets = np.array([row + [0] * (longest - len(row)) for row in rows], np.int64)
    x = np.random.default_rng(data.draw(st.integers(0, 99))).standard_normal((times, batch, classes)).astype(np.float32)
    options = {"blank": blank, "reduction": reduction, "zero_infinity": data.draw(st.booleans())}
    check(x, targets, tuple(inputs), tuple(len(row) for row in rows), **options)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.data())
def test_any_lengths_and_labels(data: st.DataObject) -> None:
    any_case(data, 5, 2, 4, 3, "none")  # always of these shapes: compiling is what a test costs


@pytest.mark.slow
@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    st.data(), st.integers(1, 6), st.integers(1, 3), st.integers(2, 5), st.integers(0, 4), st.sampled_from(REDUCTIONS)
)
def test_any_shapes(data: st.DataObject, times: int, batch: int, classes: int, longest: int, reduction: str) -> None:
    any_case(data, times, batch, classes, longest, reduction)

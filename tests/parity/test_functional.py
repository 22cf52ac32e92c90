"""Every functional against torch: values, gradients, dtypes and exceptions over its arguments.

Tolerances are relative to the largest value of the tensor compared; the default is 1e-5 in float32.
"""

from __future__ import annotations

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as TF
from hypothesis import settings

from jaxmodule.nn import Buffer, Parameter
from jaxmodule.nn import functional as F
from tests.parity.oracle import assert_close, compare, same_error, to_torch

# Sums of a few hundred products in another order: a gradient of a convolution differs by about 1e-6 of its largest.
EXAMPLES = settings(max_examples=25, deadline=None, derandomize=True)
LEGACY = "ignore:size_average and reduce args will be deprecated:UserWarning"
IMPLICIT = "ignore:Implicit dimension choice:UserWarning"


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng((seed, *shape)).standard_normal(shape).astype(np.float32)


def integers(low: int, high: int, *shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng((seed, *shape)).integers(low, high, shape)


# -- linear -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("batch", [(), (5,), (2, 3), (0,)])
@pytest.mark.parametrize("bias", [None, (4,), (1,), ()])
def test_linear(batch: tuple[int, ...], bias: tuple[int, ...] | None) -> None:
    compare(F.linear, TF.linear, [normal(*batch, 3), normal(4, 3), None if bias is None else normal(*bias, seed=1)])


def test_linear_vector_weight() -> None:
    compare(F.linear, TF.linear, [normal(2, 3), normal(3)])


@pytest.mark.parametrize(
    ("shapes", "match"),
    [
        (((2, 3), (4, 5)), r"cannot be multiplied \(2x3 and 5x4\)"),
        (((2, 3), (3,), (1,)), "mat2 must be a matrix"),
        (((2, 3), (4, 3), (5,)), "must match the existing size"),
        (((), (4, 3)), "need to be at least 1D"),
        (((2, 3), (2, 4, 3)), "<= 2 dimensions"),
    ],
)
def test_linear_errors(shapes: tuple[tuple[int, ...], ...], match: str) -> None:
    arrays = [normal(*shape) for shape in shapes]
    same_error(lambda: F.linear(*arrays), lambda: TF.linear(*map(to_torch, arrays)))
    with pytest.raises(RuntimeError, match=match):
        F.linear(*arrays)


def test_linear_mixed_dtypes_are_an_error() -> None:
    with pytest.raises(RuntimeError, match="same dtype"):
        F.linear(jnp.ones((2, 3)), jnp.ones((4, 3), jnp.bfloat16))
    with pytest.raises(RuntimeError, match="same dtype"):
        F.linear(jnp.ones((2, 3)), jnp.ones((4, 3)), jnp.ones(4, jnp.bfloat16))


# -- normalisation ----------------------------------------------------------------------------------------------
# A gradient through batch statistics is a difference of sums that nearly cancel: 2e-5 covers their rounding.
STATISTICS = 2e-5


@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 5), (4, 3, 5, 2), (2, 3, 2, 2, 3)])
@pytest.mark.parametrize("affine", [(True, True), (True, False), (False, False)])
@pytest.mark.parametrize("training", [True, False])
def test_batch_norm(shape: tuple[int, ...], affine: tuple[bool, bool], training: bool) -> None:
    mean, var = normal(3, seed=3), np.abs(normal(3, seed=4)) + 0.5
    weight, bias = (normal(3, seed=5 + i) if on else None for i, on in enumerate(affine))

    def ours(x: Any, w: Any, b: Any) -> jax.Array:
        stats = (None, None) if training else (jnp.asarray(mean), jnp.asarray(var))
        return F.batch_norm(x, *stats, w, b, training, 0.2, 1e-3)

    def theirs(x: Any, w: Any, b: Any) -> torch.Tensor:
        return TF.batch_norm(x, to_torch(mean), to_torch(var), w, b, training, 0.2, 1e-3)

    compare(ours, theirs, [2.0 * normal(*shape) + 1.0, weight, bias], rtol=STATISTICS)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("stats_dtype", ["float32", "same"])
def test_batch_norm_moves_running_statistics(dtype: str, stats_dtype: str) -> None:
    x = normal(8, 3, 4).astype(jnp.dtype(dtype))
    kind = jnp.dtype(dtype if stats_dtype == "same" else stats_dtype)
    mean, var = Buffer(jnp.zeros(3, kind)), Buffer(jnp.ones(3, kind))
    t_mean, t_var = to_torch(mean.value), to_torch(var.value)
    for _ in range(3):
        y = F.batch_norm(x, mean, var, training=True, momentum=0.3)
        expected = TF.batch_norm(to_torch(x), t_mean, t_var, training=True, momentum=0.3)
    assert y.dtype == jnp.dtype(dtype)
    assert mean.dtype == kind
    half = {"float16": 2e-3, "bfloat16": 1e-2}.get(dtype, 1e-5)  # two units in the last place of the dtype
    assert_close(y, expected, half)
    assert_close(mean.value, t_mean, half, "running_mean")
    assert_close(var.value, t_var, half, "running_var")


def test_batch_norm_of_an_empty_batch_leaves_the_statistics() -> None:
    mean, var = Buffer(jnp.zeros(3)), Buffer(jnp.ones(3))
    assert F.batch_norm(jnp.zeros((0, 3, 2)), mean, var, training=True).shape == (0, 3, 2)
    assert mean.value.tolist() == [0.0] * 3
    assert var.value.tolist() == [1.0] * 3


def test_batch_norm_is_accurate_far_from_zero() -> None:
    x = normal(64, 2) + 1000.0
    y = F.batch_norm(x, None, None, training=True)
    exact = (x.astype(np.float64) - x.mean(0, np.float64)) / np.sqrt(x.var(0, dtype=np.float64) + 1e-5)
    np.testing.assert_allclose(y, exact, atol=1e-3)  # an input near 1000 has 6e-5 between neighbouring floats


@pytest.mark.parametrize(
    ("x", "stats", "affine", "training", "match"),
    [
        ((1, 3), (None, None), None, True, "Expected more than 1 value per channel when training"),
        ((2, 3), (None, None), None, False, "running_mean must be defined"),
        ((2, 3), (3, None), None, True, "both be None or neither"),
        ((2, 3), (4, 4), None, False, "running_mean should contain 3 elements not 4"),
        ((2, 3), (3, 3), 4, False, "weight should contain 3 elements not 4"),
    ],
)
def test_batch_norm_errors(x: Any, stats: Any, affine: Any, training: bool, match: str) -> None:
    arrays = [normal(*x), *[None if n is None else normal(n) for n in (*stats, affine)]]
    theirs = [None if a is None else to_torch(a) for a in arrays]
    same_error(lambda: F.batch_norm(*arrays, training=training), lambda: TF.batch_norm(*theirs, training=training))
    with pytest.raises((ValueError, RuntimeError), match=match):
        F.batch_norm(*arrays, training=training)


def test_batch_norm_refuses_statistics_it_cannot_update() -> None:
    with pytest.raises(TypeError, match=r"nn.Buffer"):
        F.batch_norm(jnp.ones((2, 3)), jnp.zeros(3), jnp.ones(3), training=True)


def test_norms_refuse_mixed_dtypes() -> None:
    x, half = jnp.ones((2, 4)), jnp.ones(4, jnp.float16)
    for call in (
        lambda: F.batch_norm(x, None, None, half, training=True),
        lambda: F.layer_norm(x, (4,), half),
        lambda: F.group_norm(x, 2, half),
    ):
        with pytest.raises(RuntimeError, match="mixed dtype: expect weight to have scalar type float32"):
            call()


@pytest.mark.parametrize(("shape", "normalized"), [((4, 6), (6,)), ((2, 3, 4), (3, 4)), ((5,), (5,)), ((0, 3), (3,))])
@pytest.mark.parametrize("affine", [(True, True), (True, False), (False, False)])
def test_layer_norm(shape: tuple[int, ...], normalized: tuple[int, ...], affine: tuple[bool, bool]) -> None:
    weight, bias = (normal(*normalized, seed=5 + i) if on else None for i, on in enumerate(affine))
    compare(
        lambda x, w, b: F.layer_norm(x, normalized, w, b, 1e-4),
        lambda x, w, b: TF.layer_norm(x, normalized, w, b, 1e-4),
        [normal(*shape), weight, bias],
        rtol=STATISTICS,
    )


@pytest.mark.parametrize(
    ("normalized", "weight", "bias", "match"),
    [
        ((4,), None, None, "expected input with shape"),
        ((2, 3, 4), None, None, "expected input with shape"),
        ((), None, None, "at least 1-dimensional"),
        ((3,), 4, None, "Expected weight to be of same shape"),
        ((3,), 3, 4, "Expected bias to be of same shape"),
        (3, None, None, "must be tuple of ints"),
    ],
)
def test_layer_norm_errors(normalized: Any, weight: int | None, bias: int | None, match: str) -> None:
    arrays = [None if n is None else normal(n) for n in (weight, bias)]
    theirs = [None if a is None else to_torch(a) for a in arrays]
    same_error(
        lambda: F.layer_norm(normal(2, 3), normalized, *arrays),
        lambda: TF.layer_norm(torch.ones(2, 3), normalized, *theirs),
    )
    with pytest.raises((RuntimeError, TypeError), match=match):
        F.layer_norm(normal(2, 3), normalized, *arrays)


@pytest.mark.parametrize("shape", [(2, 6), (2, 6, 4), (1, 6, 3, 2), (2, 6, 2, 2, 2)])
@pytest.mark.parametrize("groups", [1, 2, 3])
@pytest.mark.parametrize("affine", [True, False])
def test_group_norm(shape: tuple[int, ...], groups: int, affine: bool) -> None:
    weight, bias = (normal(6, seed=5 + i) if affine else None for i in range(2))
    compare(
        lambda x, w, b: F.group_norm(x, groups, w, b, 1e-3),
        lambda x, w, b: TF.group_norm(x, groups, w, b, 1e-3),
        [normal(*shape), weight, bias],
        rtol=STATISTICS,
    )


@pytest.mark.parametrize(
    ("shape", "groups", "weight", "match"),
    [
        ((2, 6, 4), 4, None, "divisible by num_groups"),
        ((2, 6, 4), 3, 5, "Expected weight to be a vector of size equal to the number of channels"),
        ((6,), 3, None, "at least 2 dimensions"),
        ((1, 3), 3, None, "more than 1 value per channel"),
    ],
)
def test_group_norm_errors(shape: Any, groups: int, weight: int | None, match: str) -> None:
    w = None if weight is None else normal(weight)
    same_error(
        lambda: F.group_norm(normal(*shape), groups, w),
        lambda: TF.group_norm(torch.ones(shape), groups, None if w is None else to_torch(w)),
    )
    with pytest.raises((RuntimeError, ValueError), match=match):
        F.group_norm(normal(*shape), groups, w)


# -- embedding --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("shape", [(), (4,), (2, 3)])
@pytest.mark.parametrize("options", [{}, {"padding_idx": 1}, {"padding_idx": -1}, {"scale_grad_by_freq": True}])
def test_embedding(shape: tuple[int, ...], options: dict[str, Any]) -> None:
    index = integers(0, 5, *shape)
    compare(
        lambda i, w: F.embedding(i, w, **options), lambda i, w: TF.embedding(i, w, **options), [index, normal(5, 3)]
    )


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "int32", "uint32"])
def test_embedding_takes_any_integer_dtype(dtype: str) -> None:
    assert F.embedding(np.array([0, 4], dtype), normal(5, 3)).tolist() == normal(5, 3)[[0, 4]].tolist()


@pytest.mark.parametrize("norm_type", [1.0, 2.0, 3.0, float("inf")])
def test_embedding_max_norm_rescales_the_rows_in_use(norm_type: float) -> None:
    table, index = normal(6, 4), np.array([0, 2, 2, 5])
    box, tensor = Parameter(jnp.asarray(table)), to_torch(table)
    ours = F.embedding(index, box, max_norm=1.0, norm_type=norm_type)
    assert_close(ours, TF.embedding(to_torch(index), tensor, max_norm=1.0, norm_type=norm_type))
    assert_close(box.value, tensor, what="weight")


def test_embedding_errors() -> None:
    table = jnp.ones((5, 3))
    with pytest.raises(IndexError, match=r"index out of range in self: 5 for a weight of size \[5, 3\]"):
        F.embedding(jnp.array([0, 5]), table)
    with pytest.raises(IndexError, match="index out of range in self: -1"):
        F.embedding(jnp.array([0, -1]), table)
    with pytest.raises(RuntimeError, match="integer scalar type; but got float32"):
        F.embedding(jnp.ones(2), table)
    with pytest.raises(RuntimeError, match="'weight' must be 2-D"):
        F.embedding(jnp.array([0]), jnp.ones(5))
    with pytest.raises(AssertionError, match="Padding_idx must be within num_embeddings"):
        F.embedding(jnp.array([0]), table, padding_idx=5)
    with pytest.raises(ValueError, match="sparse=False"):
        F.embedding(jnp.array([0]), table, sparse=True)
    with pytest.raises(TypeError, match=r"nn.Parameter"):
        F.embedding(jnp.array([0]), table, max_norm=1.0)


def test_embedding_out_of_range_is_nan_when_compiled() -> None:
    y = jax.jit(F.embedding)(jnp.array([0, 5, -1]), jnp.ones((5, 2)))
    assert np.isnan(np.asarray(y)).tolist() == [[False] * 2, [True] * 2, [True] * 2]


# -- dropout ----------------------------------------------------------------------------------------------------
def test_dropout_zeroes_the_share_and_scales_the_rest() -> None:
    y = np.asarray(F.dropout(jnp.ones((100, 100)), 0.3))
    np.testing.assert_allclose(np.unique(y), [0.0, 1 / 0.7], rtol=1e-6)
    assert abs((y == 0).mean() - 0.3) < 5 * np.sqrt(0.3 * 0.7 / y.size)  # five standard deviations


def test_dropout_edges() -> None:
    x = jnp.arange(4.0)
    assert F.dropout(x, 0.0) is x
    assert F.dropout(x, 0.5, training=False) is x
    assert F.dropout(x, 1.0).tolist() == [0.0] * 4
    same_error(lambda: F.dropout(x, 1.5), lambda: TF.dropout(torch.ones(3), 1.5))
    same_error(lambda: F.dropout(jnp.arange(3)), lambda: TF.dropout(torch.arange(3)))
    with pytest.raises(ValueError, match=r"has to be between 0 and 1, but got -0.5"):
        F.dropout(x, -0.5)


# -- losses -----------------------------------------------------------------------------------------------------
REDUCTIONS = ["none", "mean", "sum"]
SHAPES = [((5,), ()), ((3, 5), (3,)), ((3, 5, 4), (3, 4)), ((2, 5, 3, 2), (2, 3, 2))]


@pytest.mark.parametrize(("shape", "target"), SHAPES)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_cross_entropy_indices(shape: Any, target: Any, weighted: bool, reduction: str, smoothing: float) -> None:
    index = integers(0, 5, *target)
    if index.size > 2:
        index.flat[1] = -100
    weight = np.abs(normal(5)) if weighted else None

    def call(f: Any) -> Any:
        return lambda x, w: f(
            x,
            jnp.asarray(index) if f is F.cross_entropy else to_torch(index),
            None if weight is None else (jnp.asarray(weight) if f is F.cross_entropy else to_torch(weight)),
            reduction=reduction,
            label_smoothing=smoothing,
        )

    compare(call(F.cross_entropy), call(TF.cross_entropy), [normal(*shape), None])


@pytest.mark.parametrize("shape", [(5,), (3, 5), (2, 5, 3)])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_cross_entropy_probabilities(shape: Any, weighted: bool, reduction: str, smoothing: float) -> None:
    options = {"reduction": reduction, "label_smoothing": smoothing}
    weight = np.abs(normal(5)) if weighted else None
    compare(
        lambda x, t: F.cross_entropy(x, t, weight, **options),
        lambda x, t: TF.cross_entropy(x, t, None if weight is None else to_torch(weight), **options),
        [normal(*shape), np.abs(normal(*shape, seed=3))],
    )


def test_cross_entropy_of_large_logits() -> None:
    x = np.array([[1e4, 1e4 - 1.5, -1e4], [3e4, 0.0, 3e4]], np.float32)
    index = np.array([1, 0])
    compare(
        lambda x: F.cross_entropy(x, index, reduction="none"),
        lambda x: TF.cross_entropy(x, to_torch(index), reduction="none"),
        [x],
    )


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_cross_entropy_in_half_precision(dtype: str) -> None:
    x, index = normal(6, 9).astype(jnp.dtype(dtype)), integers(0, 9, 6)
    rtol = {"float16": 2e-3, "bfloat16": 2e-2}[dtype]  # torch rounds each log-probability to the dtype before the mean
    compare(lambda x: F.cross_entropy(x, index), lambda x: TF.cross_entropy(x, to_torch(index)), [x], rtol=rtol)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "int32", "uint32"])
def test_cross_entropy_takes_any_integer_dtype(dtype: str) -> None:
    index = integers(0, 5, 3)
    expected = TF.cross_entropy(to_torch(normal(3, 5)), to_torch(index))
    assert_close(F.cross_entropy(normal(3, 5), index.astype(dtype)), expected)


def test_cross_entropy_of_nothing_left_is_nan_as_in_torch() -> None:
    x, ignored = normal(3, 5), np.full(3, -100)
    assert np.isnan(F.cross_entropy(x, ignored))
    assert float(F.cross_entropy(x, ignored, reduction="sum")) == 0.0
    assert np.isnan(F.cross_entropy(np.zeros((0, 5), np.float32), np.zeros(0, int)))
    grad = jax.grad(lambda x: F.cross_entropy(x, jnp.array([1, -100, 2])))(jnp.asarray(x))
    assert grad[1].tolist() == [0.0] * 5


def test_a_target_out_of_range_is_nan_when_compiled() -> None:
    losses = jax.jit(lambda x, t: F.cross_entropy(x, t, reduction="none"))(jnp.ones((3, 5)), jnp.array([0, 5, -1]))
    assert np.isnan(np.asarray(losses)).tolist() == [False, True, True]


CLASS_ERRORS = [
    ((3, 5), (2,), {}, ValueError, r"Expected input batch_size \(3\) to match target batch_size \(2\)"),
    ((3, 5, 2), (3, 3), {}, RuntimeError, r"Expected target size \[3, 2\], got \[3, 3\]"),
    ((3, 5), (3,), {"weight": np.ones(4, np.float32)}, RuntimeError, "either for all 5 classes or no classes"),
    ((3, 5), (3,), {"reduction": "foo"}, ValueError, "foo is not a valid value for reduction"),
]


@pytest.mark.parametrize(("shape", "target", "options", "kind", "match"), CLASS_ERRORS)
@pytest.mark.parametrize("name", ["cross_entropy", "nll_loss"])
def test_class_loss_errors(name: str, shape: Any, target: Any, options: Any, kind: type[Exception], match: str) -> None:
    index = np.zeros(target, np.int64)
    theirs = {key: to_torch(value) if key == "weight" else value for key, value in options.items()}
    same_error(
        lambda: getattr(F, name)(normal(*shape), index, **options),
        lambda: getattr(TF, name)(torch.ones(shape), to_torch(index), **theirs),
    )
    with pytest.raises(kind, match=match):
        getattr(F, name)(normal(*shape), index, **options)


def test_class_loss_value_errors() -> None:
    x = normal(3, 5)
    for name in ("cross_entropy", "nll_loss"):
        with pytest.raises(IndexError, match=r"Target 5 is out of bounds for 5 classes"):
            getattr(F, name)(x, np.array([0, 1, 5]))
        with pytest.raises(IndexError, match=r"Target -1 is out of bounds"):
            getattr(F, name)(x, np.array([0, 1, -1]))
        with pytest.raises(RuntimeError, match="expected target dtype to be an integer one"):
            getattr(F, name)(x, normal(3))
    with pytest.raises(RuntimeError, match=r"label_smoothing must be between 0.0 and 1.0. Got: 1.5"):
        F.cross_entropy(x, np.array([0, 1, 2]), label_smoothing=1.5)
    with pytest.raises(RuntimeError, match="Expected floating point type for target"):
        F.cross_entropy(x, np.ones((3, 5), int))
    with pytest.raises(RuntimeError, match="ignore_index is not supported for floating point target"):
        F.cross_entropy(x, np.abs(x), ignore_index=2)
    with pytest.raises(RuntimeError, match="multi-target not supported"):
        F.nll_loss(x, np.zeros((3, 1), int))


@pytest.mark.parametrize(("shape", "target"), SHAPES)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_nll_loss(shape: Any, target: Any, reduction: str) -> None:
    index, weight = integers(0, 5, *target), np.abs(normal(5))
    compare(
        lambda x: F.nll_loss(x, index, weight, reduction=reduction, ignore_index=2),
        lambda x: TF.nll_loss(x, to_torch(index), to_torch(weight), reduction=reduction, ignore_index=2),
        [normal(*shape)],
    )


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_mse_loss(weighted: bool, reduction: str) -> None:
    compare(
        lambda x, t, w: F.mse_loss(x, t, reduction=reduction, weight=w),
        lambda x, t, w: TF.mse_loss(x, t, reduction=reduction, weight=w),
        [normal(4, 3), normal(4, 3, seed=1), np.abs(normal(4, 3, seed=2)) if weighted else None],
    )


def test_mse_loss_shapes() -> None:
    with pytest.warns(UserWarning, match="different to the input size"):
        assert F.mse_loss(normal(3), normal(3, 1), reduction="none").shape == (3, 3)
    with (
        pytest.warns(UserWarning, match="different to the input size"),
        pytest.raises(RuntimeError, match="must match the size of tensor b"),
    ):
        F.mse_loss(normal(3), normal(4))
    with pytest.raises(ValueError, match="Weights and input must have the same size"):
        F.mse_loss(normal(3), normal(3), weight=normal(1))
    with pytest.raises(NotImplementedError, match="mse_loss"):
        F.mse_loss(np.arange(3), np.arange(3))


@pytest.mark.parametrize("weights", list(itertools.product([None, (4, 3), (3,), (4, 1)], [None, (3,), (4, 3), (1,)])))
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_binary_cross_entropy_with_logits(weights: Any, reduction: str) -> None:
    weight, positive = (None if shape is None else np.abs(normal(*shape, seed=i)) for i, shape in enumerate(weights))
    x, target = 20 * normal(4, 3), np.abs(np.tanh(normal(4, 3, seed=1)))
    x[0, 0] = 0.0
    tensors = [None if w is None else to_torch(w) for w in (weight, positive)]  # torch has no gradient for these two
    compare(
        lambda x, t: F.binary_cross_entropy_with_logits(x, t, weight, pos_weight=positive, reduction=reduction),
        lambda x, t: TF.binary_cross_entropy_with_logits(x, t, tensors[0], pos_weight=tensors[1], reduction=reduction),
        [x, target],
    )


def test_binary_cross_entropy_errors() -> None:
    loss = F.binary_cross_entropy_with_logits
    with pytest.raises(ValueError, match="must be the same as input size"):
        loss(normal(3), normal(4))
    with pytest.raises(RuntimeError, match="must match the size of tensor b"):
        loss(normal(3), normal(3), normal(4))
    with pytest.raises(RuntimeError, match="doesn't broadcast to the input"):
        loss(normal(3), normal(3), normal(2, 3))
    with pytest.raises(RuntimeError, match="floating point target"):
        loss(normal(3), np.ones(3, int))


@pytest.mark.filterwarnings(LEGACY)
@pytest.mark.parametrize("legacy", list(itertools.product([None, True, False], [None, True, False])))
def test_legacy_reductions(legacy: tuple[bool | None, bool | None]) -> None:
    size_average, reduce = legacy
    options = {"size_average": size_average, "reduce": reduce}
    x, index = normal(3, 5), integers(0, 5, 3)
    compare(
        lambda x: F.cross_entropy(x, index, **options), lambda x: TF.cross_entropy(x, to_torch(index), **options), [x]
    )
    compare(lambda x: F.mse_loss(x, x * 2, **options), lambda x: TF.mse_loss(x, x * 2, **options), [x])


def test_legacy_reductions_warn() -> None:
    with pytest.warns(UserWarning, match="please use reduction='sum' instead"):
        F.mse_loss(normal(3), normal(3), size_average=False)


# -- second derivatives -----------------------------------------------------------------------------------------
@pytest.mark.parametrize(("stride", "padding", "dilation"), [(1, 0, 1), (2, 1, 1), (3, 1, 2)])
def test_max_pool2d_differentiates_forwards_and_twice(stride: int, padding: int, dilation: int) -> None:
    x, direction = jnp.asarray(normal(1, 6, 6)), jnp.asarray(normal(1, 6, 6, seed=1))

    def f(x: jax.Array) -> jax.Array:
        return jnp.sum(F.max_pool2d(x, 2, stride, padding, dilation) ** 2)

    value, tangent = jax.jvp(f, (x,), (direction,))
    assert_close(tangent, jnp.vdot(jax.grad(f)(x), direction), 1e-5)
    assert np.isfinite(value)
    hessian = jax.hessian(f)(x).reshape(36, 36)
    np.testing.assert_allclose(hessian, hessian.T, atol=1e-6)

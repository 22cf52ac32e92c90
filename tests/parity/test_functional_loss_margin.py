"""Margin losses and losses of embeddings against torch, at their kinks too.

Tolerances are relative to the largest value of the tensor compared; the default is 1e-5 in float32.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as TF
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxmodule import nn
from jaxmodule.nn import functional as F
from tests.parity.oracle import compare, same_error, to_torch

REDUCTIONS = ["none", "mean", "sum"]
EXAMPLES = settings(max_examples=15, deadline=None, derandomize=True)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng((seed, *shape)).standard_normal(shape).astype(np.float32)


def integers(low: int, high: int, *shape: int, seed: int = 0) -> np.ndarray:
    return np.asarray(np.random.default_rng((seed, *shape)).integers(low, high, shape))


def check(name: str, arrays: list[np.ndarray], fixed: list[Any], **options: Any) -> None:
    """`arrays` are differentiated, `fixed` come after them."""
    ours, theirs = getattr(F, name), getattr(TF, name)
    tensors = [to_torch(a) for a in fixed]
    compare(lambda *xs: ours(*xs, *fixed, **options), lambda *xs: theirs(*xs, *tensors, **options), arrays)


# -- hinge and ranking ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("margin", [1.0, 2, 0.0])
def test_hinge_embedding_loss(margin: float, reduction: str) -> None:
    # At the kink, on both sides of it, and with labels that are neither.
    x = np.array([1.0, 2.0, 1.0, 0.5, 0.3, -1.0], np.float32)
    target = np.array([-1, -1, 1, -1, 0, 1])
    check("hinge_embedding_loss", [x], [target], margin=margin, reduction=reduction)
    check("hinge_embedding_loss", [x], [target[:, None]], margin=margin, reduction=reduction)
    check("hinge_embedding_loss", [x, target.astype(np.float32)], [], margin=margin, reduction=reduction)


def test_hinge_embedding_loss_of_integers_and_errors() -> None:
    x, t = np.array([0, 3, 1, -2]), np.array([-1, 1, -1, -1])
    for margin in (1, 2.7):
        check("hinge_embedding_loss", [], [x, t], reduction="none", margin=margin)
    for y, s in ((x, t), (normal(3), normal(4)), (normal(4) + 1j, t)):
        same_error(
            lambda y=y, s=s: F.hinge_embedding_loss(y, s),
            lambda y=y, s=s: TF.hinge_embedding_loss(to_torch(y), to_torch(s)),
        )


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("margin", [0, 0.5, -0.5])
def test_margin_ranking_loss(margin: float, reduction: str) -> None:
    x = np.array([1.0, 2.0, 1.0, 0.5, 0.3], np.float32)
    y = np.array([1.0, 1.5, 3.0, 0.0, 0.3], np.float32)
    target = np.array([1, -1, -1, 1, 1])
    check("margin_ranking_loss", [x, y], [target], margin=margin, reduction=reduction)
    check("margin_ranking_loss", [x, y, target.astype(np.float32)], [], margin=margin, reduction=reduction)


@pytest.mark.parametrize("shapes", [((), (), ()), ((3, 4), (3, 1), (1, 4)), ((1, 4), (3, 1), (3, 4))])
def test_margin_ranking_loss_broadcasts(shapes: Any) -> None:
    arrays = [normal(*shape, seed=i) for i, shape in enumerate(shapes)]
    check("margin_ranking_loss", arrays, [], margin=0.1, reduction="none")


@pytest.mark.parametrize("shapes", [((3,), (3, 1), (3,)), ((3,), (4,), (3,)), ((3,), (3,), (2,))])
def test_margin_ranking_loss_errors(shapes: Any) -> None:
    same_error(
        lambda: F.margin_ranking_loss(*(normal(*s) for s in shapes)),
        lambda: TF.margin_ranking_loss(*(torch.ones(s) for s in shapes)),
    )
    with pytest.raises(RuntimeError, match=r"same dimension but got sizes: input1: \[3\]|must match the size"):
        F.margin_ranking_loss(*(normal(*s) for s in shapes))


# -- several classes --------------------------------------------------------------------------------------------
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize(("shape", "target"), [((4, 5), (4,)), ((5,), ()), ((5,), (1,)), ((), ())])
def test_multi_margin_loss(shape: Any, target: Any, p: int, weighted: bool, reduction: str) -> None:
    classes = shape[-1] if shape else 1
    weight = np.abs(normal(classes, seed=3)) if weighted else None
    theirs = None if weight is None else to_torch(weight)  # torch has no gradient of it
    index = integers(0, classes, *target)
    compare(
        lambda x: F.multi_margin_loss(x, index, p=p, margin=0.7, weight=weight, reduction=reduction),
        lambda x: TF.multi_margin_loss(x, to_torch(index), p=p, margin=0.7, weight=theirs, reduction=reduction),
        [normal(*shape)],
    )


@pytest.mark.parametrize("p", [1, 2])
def test_multi_margin_loss_at_the_kink(p: int) -> None:
    x = np.array([[0.0, 1.0, 1.0, 1.0], [1.0, 0.0, 2.0, 0.5]], np.float32)
    check("multi_margin_loss", [x], [np.array([1, 0])], p=p, reduction="none")


MULTI_MARGIN_ERRORS = [
    ((3, 4), [0, 1], {}, r"Expected target size \[3\], but got \[2\]. Input has shape \[3, 4\]"),
    ((4,), [0, 1], {}, r"Expected target size \[1\]"),
    ((1, 3, 4), [0], {}, r"vector or matrix .* got: \[1, 3, 4\]"),
    ((3, 0), [0, 1, 2], {}, r"vector or matrix .* got: \[3, 0\]"),
    ((3, 4), [0, 1, 4], {}, r"target out of range: 4 is not in \[0, 3\]"),
    ((3, 4), [0, -1, 0], {}, r"target out of range: -1 is not in \[0, 3\]"),
    ((3, 4), [0.0, 1.0, 2.0], {}, "target dtype to be an integer one"),
    ((3, 4), [0, 1, 2], {"weight": np.ones(3, np.float32)}, r"expected 4 but got \[3\]"),
    ((3, 4), [0, 1, 2], {"weight": np.ones((4, 1), np.float32)}, "weight must be one-dimensional"),
    ((3, 4), [0, 1, 2], {"weight": np.ones(4, np.float16)}, "expected scalar type float32"),
    ((3, 4), [0, 1, 2], {"p": 3}, "only p == 1 and p == 2"),
]


@pytest.mark.parametrize(("shape", "target", "options", "match"), MULTI_MARGIN_ERRORS)
def test_multi_margin_loss_errors(shape: Any, target: Any, options: dict[str, Any], match: str) -> None:
    index = np.array(target)
    index = index.astype(np.float32) if index.dtype.kind == "f" else index
    theirs = {k: to_torch(v) if isinstance(v, np.ndarray) else v for k, v in options.items()}
    same_error(
        lambda: F.multi_margin_loss(normal(*shape), index, **options),
        lambda: TF.multi_margin_loss(torch.ones(shape), to_torch(index), **theirs),
    )
    with pytest.raises((RuntimeError, ValueError), match=match):
        F.multi_margin_loss(normal(*shape), index, **options)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize(
    ("shape", "target"),
    [
        ((3, 4), [[1, 2, -1, 0], [-1, 0, 0, 0], [0, 1, 2, 3]]),
        ((2, 4), [[1, 1, -1, 0], [0, 0, 0, 0]]),  # a class that is listed twice counts twice
        ((4,), [2, 0, -1, -1]),
        ((), 0),
    ],
)
def test_multilabel_margin_loss(shape: Any, target: Any, reduction: str) -> None:
    check("multilabel_margin_loss", [normal(*shape)], [np.array(target)], reduction=reduction)


def test_multilabel_margin_loss_at_the_kink() -> None:
    x = np.array([1.0, 0.0, 0.5, 2.0], np.float32)
    check("multilabel_margin_loss", [x], [np.array([0, -1, 1, 1])])


@pytest.mark.parametrize(
    ("shape", "target", "match"),
    [
        ((1, 4), [[1, 4, -1, 0]], r"out of range: 4 is not in \[-1, 3\]"),
        ((1, 4), [[1, -1, 4, 0]], r"out of range: 4"),
        ((1, 4), [[1, -2, 3, 0]], r"out of range: -2"),
        ((1, 4), [[1, 2, 3]], r"inconsistent target size: \[1, 3\] for input of size: \[1, 4\]"),
        ((1, 1, 4), [[[1, 2, 3, 0]]], "vector or matrix"),
        ((1, 0), np.zeros((1, 0), int), "vector or matrix"),
        ((1, 4), [[1.0, 2.0, 0.0, 0.0]], "integer"),
    ],
)
def test_multilabel_margin_loss_errors(shape: Any, target: Any, match: str) -> None:
    index = np.array(target)
    same_error(
        lambda: F.multilabel_margin_loss(normal(*shape), index),
        lambda: TF.multilabel_margin_loss(torch.ones(shape), to_torch(index)),
    )
    with pytest.raises(RuntimeError, match=match):
        F.multilabel_margin_loss(normal(*shape), index)


def test_a_label_that_is_no_class_is_nan_when_compiled() -> None:
    x = jnp.asarray(normal(3, 4))
    losses = jax.jit(lambda t: F.multi_margin_loss(x, t, reduction="none"))(jnp.array([0, 4, -1]))
    assert np.isnan(losses).tolist() == [False, True, True]
    targets = jnp.array([[0, -1, 0, 0], [0, 4, -1, 0], [-2, 0, 0, 0]])
    losses = jax.jit(lambda t: F.multilabel_margin_loss(x, t, reduction="none"))(targets)
    assert np.isnan(losses).tolist() == [False, True, True]


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "int32"])
def test_labels_of_any_integer_dtype(dtype: str) -> None:
    x, index = normal(3, 4), np.array([0, 3, 1])
    assert float(F.multi_margin_loss(x, index.astype(dtype))) == float(F.multi_margin_loss(x, index))
    listed = np.array([[0, 3, 1, 2]] * 3)
    assert float(F.multilabel_margin_loss(x, listed.astype(dtype))) == float(F.multilabel_margin_loss(x, listed))


@EXAMPLES
@given(st.data(), st.integers(1, 6), st.integers(1, 4))
def test_multilabel_margin_loss_of_any_lists(data: st.DataObject, classes: int, batch: int) -> None:
    lists = st.lists(st.integers(-1, classes - 1), min_size=classes, max_size=classes)
    target = np.array(data.draw(st.lists(lists, min_size=batch, max_size=batch)))
    check("multilabel_margin_loss", [normal(batch, classes)], [target], reduction="none")


# -- embeddings -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("margin", [0, 0.5, -0.9])
def test_cosine_embedding_loss(margin: float, reduction: str) -> None:
    target = np.array([1, -1, -1, 1, 0])
    check("cosine_embedding_loss", [normal(5, 3), normal(5, 3, seed=1)], [target], margin=margin, reduction=reduction)


@pytest.mark.parametrize(
    ("first", "second", "target"),
    [((3,), (3,), ()), ((4, 3), (1, 3), (4,)), ((4, 3), (4, 3), (1,)), ((1, 3), (4, 3), (4,))],
)
def test_cosine_embedding_loss_shapes(first: Any, second: Any, target: Any) -> None:
    labels = 2 * integers(0, 2, *target) - 1
    check("cosine_embedding_loss", [normal(*first), normal(*second, seed=1)], [np.asarray(labels)], reduction="none")


def test_cosine_embedding_loss_at_the_kink_and_of_zeros() -> None:
    x, y = (
        np.array([[1.0, 0.0], [0.0, 0.0], [0.0, 0.0]], np.float32),
        np.array([[0.0, 1.0], [1.0, 2.0], [0.0, 0.0]], np.float32),
    )
    check("cosine_embedding_loss", [x, y], [np.array([-1, -1, 1])], reduction="none")


COSINE_ERRORS = [
    ((3, 4), (3, 4), (3, 1), "multi-target not supported"),
    ((4,), (4,), (1,), "1D target tensor expects 2D input"),
    ((3, 4), (3, 4), (), "0D target tensor expects 1D input"),
    ((3, 4), (4,), (3,), r"inputs with sizes \[3, 4\] and \[4\]"),
    ((3, 4), (3, 5), (3,), "must match the size"),
    ((3, 4), (3, 4), (2,), "must match the size"),
]


@pytest.mark.parametrize(("first", "second", "target", "match"), COSINE_ERRORS)
def test_cosine_embedding_loss_errors(first: Any, second: Any, target: Any, match: str) -> None:
    same_error(
        lambda: F.cosine_embedding_loss(normal(*first), normal(*second), normal(*target)),
        lambda: TF.cosine_embedding_loss(torch.ones(first), torch.ones(second), torch.ones(target)),
    )
    with pytest.raises(RuntimeError, match=match):
        F.cosine_embedding_loss(normal(*first), normal(*second), normal(*target))


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize("p", [0.5, 1, 2, 3.0, float("inf"), -1.0])
def test_triplet_margin_loss(p: float, swap: bool, reduction: str) -> None:
    arrays = [normal(4, 3, seed=i) for i in range(3)]
    check("triplet_margin_loss", arrays, [], p=p, swap=swap, reduction=reduction, margin=2, eps=1e-3)


def test_triplet_margin_loss_counts_coordinates() -> None:
    a, p, n = (np.round(normal(4, 3, seed=i)) for i in range(3))
    compare(  # torch's gradient is undefined: here it is zero
        lambda: F.triplet_margin_loss(a, p, n, p=0, eps=0.0, reduction="none"),
        lambda: TF.triplet_margin_loss(*map(to_torch, (a, p, n)), p=0, eps=0.0, reduction="none"),
        [],
    )


@pytest.mark.parametrize("shapes", [((3,),) * 3, ((2, 4, 3),) * 3, ((4, 3), (1, 3), (4, 3)), ((),) * 3])
def test_triplet_margin_loss_shapes(shapes: Any) -> None:
    check("triplet_margin_loss", [normal(*s, seed=i) for i, s in enumerate(shapes)], [], reduction="none")


TIES = [
    ([[0.0, 0.0]], [[1.0, 0.0]], [[2.0, 0.0]], 1.0, False),  # the loss is exactly 0
    ([[0.0, 0.0]], [[0.0, 0.0]], [[2.0, 0.0]], 3.0, True),  # both distances to the negative are the same
    ([[1.0, 2.0]], [[1.0, 2.0]], [[1.0, 2.0]], 1.0, True),  # all distances are 0
]


@pytest.mark.parametrize(("anchor", "positive", "negative", "margin", "swap"), TIES)
def test_triplet_margin_loss_at_ties(anchor: Any, positive: Any, negative: Any, margin: float, swap: bool) -> None:
    arrays = [np.array(x, np.float32) for x in (anchor, positive, negative)]
    check("triplet_margin_loss", arrays, [], margin=margin, swap=swap, eps=0.0)
    check("triplet_margin_with_distance_loss", arrays, [], margin=margin, swap=swap)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("swap", [False, True])
def test_triplet_margin_with_distance_loss(swap: bool, reduction: str) -> None:
    arrays = [normal(4, 3, seed=i) for i in range(3)]
    check("triplet_margin_with_distance_loss", arrays, [], swap=swap, reduction=reduction, margin=2)
    check(
        "triplet_margin_with_distance_loss",
        arrays,
        [],
        swap=swap,
        reduction=reduction,
        distance_function=lambda x, y: ((x - y) ** 2).sum(-1),
    )


@pytest.mark.parametrize("name", ["triplet_margin_loss", "triplet_margin_with_distance_loss"])
@pytest.mark.parametrize(
    ("shapes", "options", "match"),
    [
        (((4, 3), (4, 3), (3,)), {}, "anchor 2D, positive 2D, and negative 1D"),
        (((4, 3), (2, 3), (4, 3)), {}, "must match the size"),
        (((4, 3),) * 3, {"margin": 0}, "margin must be greater than 0, got 0"),
        (((4, 3),) * 3, {"reduction": "foo"}, "foo is not a valid value"),
    ],
)
def test_triplet_errors(name: str, shapes: Any, options: dict[str, Any], match: str) -> None:
    same_error(
        lambda: getattr(F, name)(*(normal(*s) for s in shapes), **options),
        lambda: getattr(TF, name)(*(torch.ones(s) for s in shapes), **options),
    )
    with pytest.raises((RuntimeError, ValueError), match=match):
        getattr(F, name)(*(normal(*s) for s in shapes), **options)


def test_the_distance_of_a_layer_may_be_a_layer_or_a_function() -> None:
    default = nn.TripletMarginWithDistanceLoss()
    assert isinstance(default.distance_function, nn.PairwiseDistance)
    owned = (
        nn.TripletMarginWithDistanceLoss(distance_function=nn.Bilinear(3, 3, 1)) if hasattr(nn, "Bilinear") else None
    )
    if owned is not None:
        assert sorted(owned.state_dict()) == ["distance_function.bias", "distance_function.weight"]
    function = nn.TripletMarginWithDistanceLoss(distance_function=lambda x, y: jnp.abs(x - y).sum(-1))
    assert list(function.children()) == []
    arrays = [normal(4, 3, seed=i) for i in range(3)]
    expected = TF.triplet_margin_with_distance_loss(
        *map(to_torch, arrays), distance_function=lambda x, y: (x - y).abs().sum(-1)
    )
    assert abs(float(function(*arrays)) - float(expected)) < 1e-5

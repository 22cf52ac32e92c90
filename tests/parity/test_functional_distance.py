"""Distances, `normalize`, `one_hot` and `bilinear` against torch: arguments, edges, dtypes, exceptions."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as TF

from jaxmodule.nn import Buffer, Parameter
from jaxmodule.nn import functional as F
from tests.parity.oracle import assert_close, compare, same_error, to_torch

P = [0, 0.5, 1, 1.5, 2, 3, math.inf, -1, -2, -math.inf, -0.5]
HALF = [jnp.bfloat16, jnp.float16]


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng((seed, *shape)).standard_normal(shape).astype(np.float32)


def kinks() -> np.ndarray:
    """Rows of nothing, of equals, with zeros, and of which two are the same."""
    rows = [[0, 0, 0], [1, -1, 0], [3, -4, 3], [0.1, 0.2, -0.3], [1, -1, 0]]
    return np.array(rows, np.float32)


def check(name: str, arrays: list[np.ndarray], *args: Any, **options: Any) -> None:
    compare(
        lambda *a: getattr(F, name)(*a, *args, **options), lambda *a: getattr(TF, name)(*a, *args, **options), arrays
    )


# -- normalize ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("p", P)
def test_normalize(p: float) -> None:
    # A norm of negative degree is 0 where a coordinate is: what is divided by eps there has a tolerance of its own.
    x = kinks() if p > 0 else kinks()[2:4]
    check("normalize", [x[1:]], p)
    check("normalize", [x], p, 0, 0.5)


def test_normalize_of_zero() -> None:
    check("normalize", [np.zeros((2, 3), np.float32)])
    check("normalize", [np.zeros((2, 3), np.float32)], eps=1.0)


@pytest.mark.parametrize(
    ("shape", "dim"),
    [((2, 3, 4), -1), ((2, 3, 4), (0, 2)), ((2, 3), ()), ((3,), 0), ((), 0), ((0, 3), 1), ((3, 0), 1)],
)
def test_normalize_dimensions(shape: tuple[int, ...], dim: Any) -> None:
    check("normalize", [normal(*shape)], dim=dim)


def test_normalize_at_the_clamp() -> None:
    """At eps itself the gradient goes through the norm, as it does above."""
    x = np.array([[3.0, 4.0]], np.float32)
    check("normalize", [x], eps=5.0)


def test_normalize_what_is_not_finite() -> None:
    x = np.array([[np.nan, 1], [np.inf, 1], [2, 1]], np.float32)
    assert_close(F.normalize(x), TF.normalize(to_torch(x)))


@pytest.mark.parametrize("kind", [Parameter, Buffer])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float16])
def test_normalize_into_a_box(kind: type, dtype: Any) -> None:
    x, box = normal(2, 3), kind(jnp.zeros((2, 3), dtype))
    assert F.normalize(x, out=box) is box
    out = torch.zeros(2, 3, dtype=torch.float16 if dtype == jnp.float16 else torch.float32)
    TF.normalize(to_torch(x), out=out)
    assert box.dtype == dtype
    assert_close(box.value, out, float(jnp.finfo(dtype).eps))


def test_normalize_refuses_an_out_that_it_cannot_write() -> None:
    x = normal(2, 3)
    with pytest.raises(TypeError, match="does not change in place: pass a box as nn.Buffer"):
        F.normalize(x, out=jnp.zeros((2, 3)))
    with pytest.raises(RuntimeError, match=r"out has size \[3, 2\], but the result has size \[2, 3\]"):
        F.normalize(x, out=Buffer(jnp.zeros((3, 2))))
    integers = Buffer(jnp.zeros((2, 3), int))
    same_error(lambda: F.normalize(x, out=integers), lambda: TF.normalize(to_torch(x), out=torch.zeros(2, 3).int()))


# -- pairs --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("p", P)
@pytest.mark.parametrize("eps", [1e-6, 0.0])
def test_pairwise_distance(p: float, eps: float) -> None:
    x, y = kinks(), normal(5, 3)
    y[1] = x[1]
    check("pairwise_distance", [x, y], p, eps)


@pytest.mark.parametrize(
    ("first", "second"), [((4, 3), (3,)), ((3,), (4, 3)), ((2, 4, 3), (4, 1)), ((3,), (3,)), ((), ()), ((0, 3), (0, 3))]
)
@pytest.mark.parametrize("keepdim", [False, True])
def test_pairwise_distance_broadcasts(first: tuple[int, ...], second: tuple[int, ...], keepdim: bool) -> None:
    check("pairwise_distance", [normal(*first), normal(*second, seed=1)], keepdim=keepdim)


def test_pairwise_distance_of_no_coordinates() -> None:
    check("pairwise_distance", [normal(3, 0), normal(3, 0)])
    for p in (math.inf, -1.0):
        same_error(
            lambda p=p: F.pairwise_distance(normal(3, 0), normal(3, 0), p),
            lambda p=p: TF.pairwise_distance(torch.ones(3, 0), torch.ones(3, 0), p),
        )


@pytest.mark.parametrize("p", [p for p in P if p >= 0])
def test_pdist(p: float) -> None:
    check("pdist", [kinks()], p)


@pytest.mark.parametrize("shape", [(0, 2), (1, 2), (2, 1), (3, 0)])
def test_pdist_of_little(shape: tuple[int, ...]) -> None:
    # Without pairs torch's backward pass ends the process.
    compare(F.pdist, TF.pdist, [normal(*shape)], gradients=shape[0] > 1)
    assert (jax.grad(lambda x: F.pdist(x).sum())(jnp.asarray(normal(*shape))) == 0).all() or shape == (2, 1)


@pytest.mark.parametrize("eps", [1e-8, 1.0, 10.0])
def test_cosine_similarity(eps: float) -> None:
    check("cosine_similarity", [kinks()[1:], normal(4, 3)], 1, eps)


def test_cosine_similarity_of_zero() -> None:
    check("cosine_similarity", [kinks()[:2], normal(2, 3)], eps=0.5)


@pytest.mark.parametrize(
    ("first", "second", "dim"),
    [
        ((4, 3), (3,), 1),
        ((2, 3), (4, 1, 3), -1),
        ((3, 2, 1), (3, 2, 4), 1),
        ((3,), (3,), 0),
        ((), (), 0),
        ((3, 0), (3, 0), 1),
    ],
)
def test_cosine_similarity_broadcasts(first: tuple[int, ...], second: tuple[int, ...], dim: int) -> None:
    check("cosine_similarity", [normal(*first), normal(*second, seed=1)], dim)


@pytest.mark.parametrize("name", ["cosine_similarity", "pairwise_distance"])
@pytest.mark.parametrize(
    ("first", "second"),
    [("float16", "float32"), ("int32", "float32"), ("bfloat16", "float16"), ("bfloat16", "bfloat16"), ("int32",) * 2],
)
def test_pairs_promote_as_torch_does(name: str, first: str, second: str) -> None:
    x, y = (4 * normal(3, 4, seed=i) for i in range(2))
    x, y = x.astype(jnp.dtype(first)), y.astype(jnp.dtype(second))
    if name == "cosine_similarity" and first == second == "int32":
        same_error(lambda: F.cosine_similarity(x, y), lambda: TF.cosine_similarity(to_torch(x), to_torch(y)))
        return
    ours, theirs = getattr(F, name)(x, y), getattr(TF, name)(to_torch(x), to_torch(y))
    assert str(ours.dtype) == str(theirs.dtype).removeprefix("torch.")
    rough = max((jnp.finfo(d).eps for d in (first, second) if d != "int32"), default=1e-6)
    assert_close(ours, theirs, 2 * float(rough))


@pytest.mark.parametrize("dtype", HALF)
def test_half_precision_is_accumulated_in_single(dtype: Any) -> None:
    x = (10 * normal(3, 200)).astype(dtype)
    for call in (F.normalize, F.pdist):
        ours = call(x)
        assert ours.dtype == dtype
        assert_close(ours, call(x.astype(np.float32)), float(jnp.finfo(dtype).eps))


def test_float64() -> None:
    with jax.enable_x64(True):
        x, y = (np.random.default_rng(i).standard_normal((3, 4)) for i in range(2))
        for name in ("cosine_similarity", "pairwise_distance"):
            ours = getattr(F, name)(x, y)
            assert ours.dtype == np.float64
            assert_close(ours, getattr(TF, name)(to_torch(x), to_torch(y)), 1e-14)
        assert_close(F.pdist(x, 1.5), TF.pdist(to_torch(x), 1.5), 1e-14)
        assert F.one_hot(np.array([0, 2])).dtype == np.int64


ERRORS: list[tuple[str, list[np.ndarray], dict[str, Any], str]] = [
    ("pairwise_distance", [normal(3, 2), normal(3, 4)], {}, r"\[3, 2\] must match the size of tensor b \[3, 4\]"),
    ("cosine_similarity", [normal(3, 2), normal(3, 4)], {}, r"\[3, 2\] must match the size of tensor b \[3, 4\]"),
    ("cosine_similarity", [normal(3), normal(3)], {}, "Dimension out of range"),
    ("pdist", [normal(3)], {}, "only supports 2D tensors, got: 1D"),
    ("pdist", [np.ones((3, 2), np.int32)], {}, "only supports floating-point dtypes, not int32"),
    ("pdist", [normal(3, 2)], {"p": -1.0}, "non-negative p values, but got -1"),
    ("pdist", [normal(3, 2)], {"p": math.nan}, "non-negative p values"),
    ("normalize", [np.ones((3, 2), np.int32)], {}, "Expected a floating point or complex tensor"),
    ("normalize", [normal(3, 2)], {"dim": 2}, "Dimension out of range"),
    ("normalize", [normal(3)], {}, "Dimension out of range"),
    ("normalize", [normal(3, 2, 2)], {"dim": (1, -2)}, "appears multiple times"),
]


@pytest.mark.parametrize(("name", "arrays", "options", "match"), ERRORS)
def test_errors(name: str, arrays: list[np.ndarray], options: dict[str, Any], match: str) -> None:
    same_error(
        lambda: getattr(F, name)(*arrays, **options), lambda: getattr(TF, name)(*map(to_torch, arrays), **options)
    )
    with pytest.raises((RuntimeError, IndexError), match=match):
        getattr(F, name)(*arrays, **options)


# -- one_hot ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("index", "classes"), [([0, 2], -1), ([0, 2], 5), ([[1], [0]], -1), (3, -1), (np.zeros((0, 2), np.int64), 4)]
)
def test_one_hot(index: Any, classes: int) -> None:
    index = np.asarray(index, np.int64)
    assert_close(F.one_hot(index, classes), TF.one_hot(to_torch(index), classes))


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int32", "uint32"])
def test_one_hot_takes_any_integers(dtype: str) -> None:
    assert F.one_hot(np.array([1, 0], dtype), 200).argmax(1).tolist() == [1, 0]


@pytest.mark.parametrize(
    ("index", "classes", "match"),
    [
        ([-1, 2], -1, "must be non-negative, but got -1"),
        ([0, 2], 2, "must be smaller than num_classes, but got 2 for 2"),
        ([0, 2], 0, "must be smaller than num_classes"),
        ([0, 2], -2, "must be smaller than num_classes"),
        ([], -1, "Can not infer total number of classes from empty tensor"),
        ([], 0, "Can not infer total number of classes from empty tensor"),
        ([0], 4.0, "argument 'num_classes' must be int, not float"),
    ],
)
def test_one_hot_errors(index: list[int], classes: Any, match: str) -> None:
    array = np.array(index, np.int64)
    same_error(lambda: F.one_hot(array, classes), lambda: TF.one_hot(to_torch(array), classes))
    with pytest.raises((RuntimeError, TypeError), match=match):
        F.one_hot(array, classes)


def test_one_hot_of_floats() -> None:
    same_error(lambda: F.one_hot(normal(2)), lambda: TF.one_hot(torch.ones(2)))


def test_one_hot_under_a_trace() -> None:
    index = jnp.array([0, 3, -1])
    with pytest.raises(ValueError, match=r"pass it, as in one_hot\(labels, num_classes=10\)"):
        jax.jit(F.one_hot)(index)
    assert jax.jit(lambda i: F.one_hot(i, 3))(index).tolist() == [[1, 0, 0], [0, 0, 0], [0, 0, 0]]


# -- bilinear -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("batch", [(), (3,), (2, 3), (0,)])
@pytest.mark.parametrize("features", [(2, 4), (4, 2)])
@pytest.mark.parametrize("bias", [True, False])
def test_bilinear(batch: tuple[int, ...], features: tuple[int, int], bias: bool) -> None:
    first, second = features
    arrays = [normal(*batch, first), normal(*batch, second, seed=1), normal(5, first, second), normal(5)]
    compare(F.bilinear, TF.bilinear, arrays if bias else arrays[:3])


@pytest.mark.parametrize("dtype", HALF)
def test_bilinear_in_half_precision(dtype: Any) -> None:
    arrays = [a.astype(dtype) for a in (normal(3, 20), normal(3, 30, seed=1), normal(5, 20, 30), normal(5))]
    ours = F.bilinear(*arrays)
    assert ours.dtype == dtype
    eps = float(jnp.finfo(dtype).eps)
    assert_close(ours, F.bilinear(*[a.astype(np.float32) for a in arrays]), eps)
    assert_close(ours, TF.bilinear(*map(to_torch, arrays)), 4 * eps)


@pytest.mark.parametrize(
    ("shapes", "match"),
    [
        (((3, 2), (2, 4), (5, 2, 4)), "batch dimensions do not match at dim 0: got 3 and 2"),
        (((3, 3, 2), (3, 4), (5, 2, 4)), "input dimensions do not match: got 3 and 2"),
        (((3, 3), (3, 4), (5, 2, 4)), "input1 size does not match weight size: got 3 but expected 2"),
        (((3, 2), (3, 3), (5, 2, 4)), "input2 size does not match weight size: got 3 but expected 4"),
        (((3, 2), (3, 4), (5, 2, 4), (4,)), "bias size does not match weight size"),
        (((3, 2), (3, 4), (5, 2)), "a weight of three"),
        (((), (), (5, 1, 1)), "inputs of one dimension at least"),
    ],
)
def test_bilinear_errors(shapes: tuple[tuple[int, ...], ...], match: str) -> None:
    arrays = [normal(*shape) for shape in shapes]
    same_error(lambda: F.bilinear(*arrays), lambda: TF.bilinear(*map(to_torch, arrays)))
    with pytest.raises((RuntimeError, IndexError), match=match):
        F.bilinear(*arrays)


def test_bilinear_refuses_mixed_dtypes() -> None:
    arrays = [normal(3, 2).astype(np.float16), normal(3, 4), normal(5, 2, 4)]
    same_error(lambda: F.bilinear(*arrays), lambda: TF.bilinear(*map(to_torch, arrays)))

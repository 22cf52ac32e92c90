"""Losses of elements against torch: regression, likelihoods, binary decisions.

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

from jaxmodule.nn import functional as F
from tests.parity.oracle import assert_close, compare, same_error, to_torch

REDUCTIONS = ["none", "mean", "sum"]
SIZES = "ignore:Using a target size:UserWarning"
KL_MEAN = "ignore:reduction. 'mean' divides:UserWarning"


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng((seed, *shape)).standard_normal(shape).astype(np.float32)


def uniform(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng((seed, *shape)).random(shape, np.float32)


def check(name: str, arrays: list[np.ndarray | None], rtol: float = 1e-5, **options: Any) -> None:
    ours, theirs = getattr(F, name), getattr(TF, name)
    compare(lambda *xs: ours(*xs, **options), lambda *xs: theirs(*xs, **options), arrays, rtol=rtol)


# -- regression -------------------------------------------------------------------------------------------------
# Differences of 0, at the kink and far from it.
GRID = np.array([[0.0, 0.5, -0.5], [1.0, -1.0, 3.0], [-3.0, 0.25, 40.0]], np.float32)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("name", ["l1_loss", "mse_loss", "huber_loss"])
@pytest.mark.parametrize("weighted", [False, True])
def test_regression(name: str, reduction: str, weighted: bool) -> None:
    if not weighted:
        check(name, [GRID, np.zeros_like(GRID)], reduction=reduction)
        return
    ours, theirs = getattr(F, name), getattr(TF, name)
    compare(
        lambda x, t, w: ours(x, t, weight=w, reduction=reduction),
        lambda x, t, w: theirs(x, t, weight=w, reduction=reduction),
        [GRID, np.ones_like(GRID), uniform(3, 3)],
    )


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize(
    ("name", "option"),
    [("smooth_l1_loss", {"beta": b}) for b in (0.0, 0.5, 1, 3.0)] + [("huber_loss", {"delta": d}) for d in (0.5, 3)],
)
def test_where_the_square_becomes_a_line(name: str, option: dict[str, float], reduction: str) -> None:
    check(name, [GRID, np.zeros_like(GRID)], reduction=reduction, **option)


@pytest.mark.parametrize("name", ["smooth_l1_loss", "huber_loss"])
def test_no_branch_that_is_not_meant_makes_the_gradient_nan(name: str) -> None:
    x = np.array([1e30, -1e30, np.inf, 1e-30], np.float32)
    option = {"beta" if name == "smooth_l1_loss" else "delta": 1e-10}
    check(name, [x, np.zeros_like(x)], reduction="none", **option)


@pytest.mark.filterwarnings(SIZES)
@pytest.mark.parametrize("name", ["l1_loss", "mse_loss", "smooth_l1_loss", "huber_loss"])
@pytest.mark.parametrize(("shape", "target"), [((2, 3), (3,)), ((3,), (2, 3)), ((2, 1), (1, 3)), ((2, 3), ())])
def test_regression_broadcasts(name: str, shape: Any, target: Any) -> None:
    check(name, [normal(*shape), normal(*target, seed=1)], reduction="none")


@pytest.mark.parametrize("name", ["l1_loss", "mse_loss", "smooth_l1_loss", "huber_loss"])
def test_broadcasting_a_regression_target_warns(name: str) -> None:
    with pytest.warns(
        UserWarning, match=r"target size \(\[3, 1\]\) that is different to the input size \(\[3\]"
    ) as seen:
        getattr(F, name)(normal(3), normal(3, 1))
    assert seen[0].filename == __file__
    with (
        pytest.warns(UserWarning, match="different to the input size"),
        pytest.raises(RuntimeError, match="must match the size of tensor b"),
    ):
        getattr(F, name)(normal(3), normal(4))


@pytest.mark.parametrize("name", ["l1_loss", "mse_loss", "huber_loss"])
def test_a_weight_has_the_inputs_size(name: str) -> None:
    for module, array in ((F, normal), (TF, torch.ones)):
        with pytest.raises(ValueError, match="Weights and input must have the same size"):
            getattr(module, name)(array(3), array(3), weight=array(2))


def test_l1_loss_of_integers() -> None:
    x, t = np.array([1, 5, 2]), np.array([4, 1, 2])
    for reduction in ("none", "sum"):
        assert_close(F.l1_loss(x, t, reduction=reduction), TF.l1_loss(to_torch(x), to_torch(t), reduction=reduction))
    same_error(lambda: F.l1_loss(x, t), lambda: TF.l1_loss(to_torch(x), to_torch(t)))
    same_error(lambda: F.l1_loss(x > 1, t > 1), lambda: TF.l1_loss(to_torch(x > 1), to_torch(t > 1)))


def test_l1_loss_of_complex_numbers() -> None:
    x, t = (normal(4, seed=s) + 1j * normal(4, seed=s + 1) for s in (0, 2))
    assert_close(F.l1_loss(x, t), TF.l1_loss(to_torch(x), to_torch(t)))


REGRESSION_ERRORS = [
    ("smooth_l1_loss", {"beta": -1.0}, "negative values for beta"),
    ("huber_loss", {"delta": 0.0}, "non-positive values for delta"),
    ("huber_loss", {"delta": -1}, "non-positive values for delta"),
    *((name, {"reduction": "foo"}, "foo is not a valid value") for name in ("l1_loss", "huber_loss", "smooth_l1_loss")),
]


@pytest.mark.parametrize(("name", "options", "match"), REGRESSION_ERRORS)
def test_regression_errors(name: str, options: dict[str, Any], match: str) -> None:
    same_error(
        lambda: getattr(F, name)(normal(3), normal(3), **options),
        lambda: getattr(TF, name)(torch.ones(3), torch.ones(3), **options),
    )
    with pytest.raises((RuntimeError, ValueError), match=match):
        getattr(F, name)(normal(3), normal(3), **options)


# -- likelihoods ------------------------------------------------------------------------------------------------
@pytest.mark.filterwarnings(KL_MEAN)
@pytest.mark.parametrize("reduction", [*REDUCTIONS, "batchmean"])
@pytest.mark.parametrize("log_target", [False, True])
@pytest.mark.parametrize("shape", [(4, 3), (3,), (2, 3, 2)])
def test_kl_div(shape: Any, reduction: str, log_target: bool) -> None:
    target = normal(*shape, seed=1) if log_target else 0.1 + uniform(*shape)
    check("kl_div", [normal(*shape), target], reduction=reduction, log_target=log_target)


def test_kl_div_of_a_target_of_zero() -> None:
    x, target = normal(3), np.array([0.0, 0.5, 0.0], np.float32)
    compare(  # the target's gradient is NaN in torch
        lambda x: F.kl_div(x, jnp.asarray(target), reduction="none"),
        lambda x: TF.kl_div(x, to_torch(target), reduction="none"),
        [x],
    )
    gradient = jax.grad(lambda t: F.kl_div(x, t, reduction="sum"))(jnp.asarray(target))
    np.testing.assert_allclose(gradient, [-x[0], np.log(0.5) + 1 - x[1], -x[2]], rtol=1e-6)


@pytest.mark.parametrize(("shape", "target"), [((), ()), ((3,), (2, 3)), ((2, 3), (3,)), ((0, 3), (0, 3))])
def test_kl_div_batchmean_divides_by_the_inputs_first_size(shape: Any, target: Any) -> None:
    check("kl_div", [normal(*shape), 0.1 + uniform(*target)], reduction="batchmean")


def test_kl_div_warns_of_mean_and_refuses_integers() -> None:
    with pytest.warns(UserWarning, match="'batchmean' divides only by the batch size") as caught:
        F.kl_div(normal(3), uniform(3))
    assert caught[0].filename == __file__
    for x, t in ((normal(3), np.ones(3, int)), (np.ones(3, int), normal(3)), (normal(3) + 1j, normal(3))):
        same_error(
            lambda x=x, t=t: F.kl_div(x, t, reduction="sum"),
            lambda x=x, t=t: TF.kl_div(to_torch(x), to_torch(t), reduction="sum"),
        )


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("log_input", [False, True])
def test_poisson_nll_loss(log_input: bool, full: bool, reduction: str) -> None:
    x, target = normal(6), np.array([0.5, 1.0, 1.5, 2.0, 7.0, 0.25], np.float32)
    x = x if log_input else np.abs(x)
    check("poisson_nll_loss", [x, target], log_input=log_input, full=full, eps=1e-3, reduction=reduction)


def test_poisson_nll_loss_of_a_count_of_zero_has_finite_gradients() -> None:
    target = jnp.array([0.0, -1.0, 1.0, 3.0])
    gradient = jax.grad(lambda t: F.poisson_nll_loss(jnp.ones(4), t, full=True, reduction="sum"))(target)
    np.testing.assert_allclose(gradient, [-1, -1, -1, -1 + np.log(3) + 0.5 / 3], rtol=1e-5)
    expected = TF.poisson_nll_loss(torch.ones(4), to_torch(target), full=True, reduction="none")
    assert_close(F.poisson_nll_loss(jnp.ones(4), target, full=True, reduction="none"), expected)


def test_poisson_nll_loss_of_integers() -> None:
    x, t = np.array([0, 1, 2]), np.array([1, 0, 5])
    assert_close(F.poisson_nll_loss(x, t), TF.poisson_nll_loss(to_torch(x), to_torch(t)))


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("of", [(4, 3), (4,), (4, 1), (1, 3)])
def test_gaussian_nll_loss(of: Any, full: bool, reduction: str) -> None:
    check(
        "gaussian_nll_loss",
        [normal(4, 3), normal(4, 3, seed=1), np.abs(normal(*of, seed=2))],
        full=full,
        eps=0.3,  # some variances are below it: their gradient is not zero
        reduction=reduction,
    )


def test_gaussian_nll_loss_of_one_variance_and_its_edges() -> None:
    x, t = normal(4, 3), normal(4, 3, seed=1)
    compare(lambda x, t: F.gaussian_nll_loss(x, t, 0.5), lambda x, t: TF.gaussian_nll_loss(x, t, 0.5), [x, t])
    check("gaussian_nll_loss", [x, t, np.zeros((4, 3), np.float32)])
    check("gaussian_nll_loss", [x[0], t[0], np.ones((), np.float32)])
    check("gaussian_nll_loss", [x, t[0], np.ones((4, 3), np.float32)], reduction="none")
    assert float(F.gaussian_nll_loss(x, t, 2)) == float(F.gaussian_nll_loss(x, t, 2.0))


@pytest.mark.parametrize("of", [(2,), (4, 2), (1, 1), (), (2, 3)])
def test_gaussian_nll_loss_errors(of: Any) -> None:
    x = normal(4, 3)
    same_error(
        lambda: F.gaussian_nll_loss(x, x, np.ones(of, np.float32)),
        lambda: TF.gaussian_nll_loss(torch.ones(4, 3), torch.ones(4, 3), torch.ones(of)),
    )
    with pytest.raises(ValueError, match="var is of incorrect size"):
        F.gaussian_nll_loss(x, x, np.ones(of, np.float32))
    for negative in (-1.0, np.full((4, 3), -1.0, np.float32)):
        with pytest.raises(ValueError, match="var has negative entry"):
            F.gaussian_nll_loss(x, x, negative)


# -- binary decisions -------------------------------------------------------------------------------------------
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("weight", [None, (3, 4), (4,), (3, 1), ()])
def test_binary_cross_entropy(weight: Any, reduction: str) -> None:
    w = None if weight is None else np.abs(normal(*weight))  # torch has no gradient of it
    compare(
        lambda x, t: F.binary_cross_entropy(x, t, w, reduction=reduction),
        lambda x, t: TF.binary_cross_entropy(x, t, None if w is None else to_torch(w), reduction=reduction),
        [0.05 + 0.9 * uniform(3, 4), uniform(3, 4, seed=1)],
    )


def test_binary_cross_entropy_at_0_and_1() -> None:
    x = np.array([0.0, 1.0, 0.0, 1.0, 1e-13, 1 - 1e-7, 1e-30], np.float32)
    t = np.array([0.0, 1.0, 1.0, 0.0, 1.0, 0.0, 0.5], np.float32)
    compare(
        lambda x: F.binary_cross_entropy(x, jnp.asarray(t), reduction="none"),
        lambda x: TF.binary_cross_entropy(x, to_torch(t), reduction="none"),
        [x],
    )
    of_target = jax.grad(lambda t: F.binary_cross_entropy(jnp.asarray(x), t, reduction="sum"))(jnp.asarray(t))
    assert of_target[:4].tolist() == [100.0, -100.0, 100.0, -100.0]  # torch: infinite


BINARY_ERRORS = [
    (normal(3) ** 0, np.ones(4, np.float32), None, ValueError),
    (np.full(3, 1.5, np.float32), np.ones(3, np.float32), None, RuntimeError),
    (np.full(3, np.nan, np.float32), np.ones(3, np.float32), None, RuntimeError),
    (np.full(3, 0.5, np.float32), np.full(3, -1, np.float32), None, RuntimeError),
    (np.full(3, 0.5, np.float32), np.ones(3, np.int64), None, RuntimeError),
    (np.full(3, 0.5, np.float32), np.ones(3, np.float16), None, RuntimeError),
    (np.ones(3, np.int64), np.ones(3, np.int64), None, NotImplementedError),
    (np.ones((2, 3), np.float32), np.ones((2, 3), np.float32), np.ones(4, np.float32), RuntimeError),
    (np.ones(3, np.float32), np.ones(3, np.float32), np.ones((2, 1), np.float32), RuntimeError),
]


@pytest.mark.parametrize(("x", "target", "weight", "kind"), BINARY_ERRORS, ids=range(len(BINARY_ERRORS)))
def test_binary_cross_entropy_errors(x: Any, target: Any, weight: Any, kind: type[Exception]) -> None:
    theirs = None if weight is None else to_torch(weight)
    same_error(
        lambda: F.binary_cross_entropy(x, target, weight),
        lambda: TF.binary_cross_entropy(to_torch(x), to_torch(target), theirs),
    )
    with pytest.raises(kind, match="size|between 0 and 1|dtype|not implemented|broadcast"):
        F.binary_cross_entropy(x, target, weight)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize(("shape", "target"), [((4, 3), (4, 3)), ((4, 3), (3,)), ((3,), ())])
def test_soft_margin_loss(shape: Any, target: Any, reduction: str) -> None:
    labels = np.sign(normal(*target, seed=1))  # torch has no gradient of them
    compare(
        lambda x: F.soft_margin_loss(x, jnp.asarray(labels), reduction=reduction),
        lambda x: TF.soft_margin_loss(x, to_torch(labels), reduction=reduction),
        [normal(*shape)],
    )


def test_soft_margin_loss_does_not_overflow() -> None:
    loss, gradient = jax.value_and_grad(lambda x: F.soft_margin_loss(x, jnp.ones(2, int), reduction="sum"))(
        jnp.array([-1e4, 1e4])
    )
    assert (float(loss), gradient.tolist()) == (1e4, [-1.0, 0.0])


def test_soft_margin_loss_errors() -> None:
    for x, t in (
        (normal(3), normal(2, 3)),
        (normal(3), normal(4)),
        (np.ones(3, np.int64), normal(3)),
    ):
        same_error(
            lambda x=x, t=t: F.soft_margin_loss(x, t), lambda x=x, t=t: TF.soft_margin_loss(to_torch(x), to_torch(t))
        )


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("weight", [None, (4,), (3, 1)])
@pytest.mark.parametrize("shape", [(3, 4), (4,), (2, 3, 4)])
def test_multilabel_soft_margin_loss(shape: Any, weight: Any, reduction: str) -> None:
    w = None if weight is None else np.abs(normal(*weight))
    check("multilabel_soft_margin_loss", [10 * normal(*shape), uniform(*shape), w], reduction=reduction)


def test_multilabel_soft_margin_loss_errors() -> None:
    for x, t in (
        (normal(3), normal(4)),
        (np.ones(3, int), normal(3)),
        (np.ones((), np.float32), np.ones((), np.float32)),
        (normal(3), np.ones(3, bool)),
    ):
        same_error(
            lambda x=x, t=t: F.multilabel_soft_margin_loss(x, t),
            lambda x=x, t=t: TF.multilabel_soft_margin_loss(to_torch(x), to_torch(t)),
        )
    same_error(
        lambda: F.multilabel_soft_margin_loss(normal(3), normal(3), reduction="foo"),
        lambda: TF.multilabel_soft_margin_loss(torch.ones(3), torch.ones(3), reduction="foo"),
    )

"""What all losses share, against torch: dtypes, empty batches, the deprecated reductions, boxes, names of weights."""

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

import jaxmodule as jm
from jaxmodule import nn
from jaxmodule.nn import functional as F
from tests.parity.oracle import assert_close, compare, to_torch

REDUCTIONS = ["none", "mean", "sum"]
KL_MEAN = "ignore:reduction. 'mean' divides:UserWarning"
LEGACY = "ignore:size_average and reduce args will be deprecated:UserWarning"


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng((seed, *shape)).standard_normal(shape).astype(np.float32)


def uniform(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng((seed, *shape)).random(shape, np.float32)


def labels(seed: int, *shape: int) -> np.ndarray:
    return np.sign(normal(*shape, seed=seed)).astype(np.int64)


#: Of each functional: its arguments in float32, whose labels are integers as a module's rows are.
CASES: dict[str, tuple[list[np.ndarray], dict[str, Any]]] = {
    "l1_loss": ([normal(4, 3), normal(4, 3, seed=1)], {}),
    "mse_loss": ([normal(4, 3), normal(4, 3, seed=1)], {}),
    "smooth_l1_loss": ([normal(4, 3), normal(4, 3, seed=1)], {}),
    "huber_loss": ([normal(4, 3), normal(4, 3, seed=1)], {}),
    "kl_div": ([normal(4, 3), uniform(4, 3) + 0.1], {}),
    "poisson_nll_loss": ([normal(4, 3), uniform(4, 3) + 0.5], {}),
    "gaussian_nll_loss": ([normal(4, 3), normal(4, 3, seed=1), uniform(4, 3) + 0.1], {}),
    "binary_cross_entropy": ([0.05 + 0.9 * uniform(4, 3), uniform(4, 3, seed=1)], {}),
    "binary_cross_entropy_with_logits": ([normal(4, 3), uniform(4, 3, seed=1)], {}),
    "soft_margin_loss": ([normal(4, 3), labels(1, 4, 3)], {}),
    "multilabel_soft_margin_loss": ([normal(4, 3), uniform(4, 3, seed=1)], {}),
    "hinge_embedding_loss": ([normal(4, 3), labels(1, 4, 3)], {}),
    "margin_ranking_loss": ([normal(4, 3), normal(4, 3, seed=2), labels(1, 4, 3)], {"margin": 0.5}),
    "multi_margin_loss": ([normal(4, 3), np.array([0, 2, 1, 1])], {}),
    "multilabel_margin_loss": ([normal(2, 3), np.array([[0, 2, -1], [1, -1, 0]])], {}),
    "cosine_embedding_loss": ([normal(4, 3), normal(4, 3, seed=2), labels(1, 4)], {}),
    "triplet_margin_loss": ([normal(4, 3, seed=i) for i in range(3)], {}),
    "nll_loss": ([normal(4, 3), np.array([0, 2, 1, 1])], {}),
    "cross_entropy": ([normal(4, 3), np.array([0, 2, 1, 1])], {}),
}
# Of these torch has no kernel for half precision; here they have.
NO_HALF = {"multi_margin_loss", "multilabel_margin_loss"}
# Of these torch's mean of nothing is memory that nothing has been written into.
UNWRITTEN = {"multi_margin_loss", "multilabel_margin_loss"}


def cast(arrays: list[np.ndarray], dtype: Any) -> list[np.ndarray]:
    return [a.astype(dtype) if a.dtype == np.float32 else a for a in arrays]


@pytest.mark.filterwarnings(KL_MEAN)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", CASES)
def test_half_precision(name: str, dtype: str) -> None:
    """Near torch's, which rounds on the way and so is itself as far from the float32 value."""
    arrays, options = CASES[name]
    half = cast(arrays, jnp.dtype(dtype))
    loss = getattr(F, name)(*half, **options)
    assert loss.dtype == dtype
    wide = [a.astype(np.float32) if a.dtype == half[0].dtype else a for a in half]
    eps = float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(float(loss), float(getattr(F, name)(*wide, **options)), rtol=eps, atol=eps)
    if name not in NO_HALF:
        rtol = 16 * eps
        compare(
            lambda *xs: getattr(F, name)(*xs, **options), lambda *xs: getattr(TF, name)(*xs, **options), half, rtol=rtol
        )


@pytest.mark.filterwarnings(KL_MEAN)
@pytest.mark.parametrize("name", CASES)
def test_double_precision(name: str) -> None:
    arrays, options = CASES[name]
    with jax.enable_x64(True):
        wide = cast(arrays, np.float64)
        ours, theirs = getattr(F, name)(*wide, **options), getattr(TF, name)(*map(to_torch, wide), **options)
        assert ours.dtype == np.float64
        assert_close(ours, theirs, 1e-12)


@pytest.mark.filterwarnings(KL_MEAN)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("name", CASES)
def test_an_empty_batch(name: str, reduction: str) -> None:
    arrays, options = CASES[name]
    nothing = [a[:0] for a in arrays]
    ours = getattr(F, name)(*nothing, **options, reduction=reduction)
    if name in UNWRITTEN and reduction != "none":
        assert np.isnan(ours) if reduction == "mean" else float(ours) == 0.0
        return
    assert_close(ours, getattr(TF, name)(*map(to_torch, nothing), **options, reduction=reduction))


@pytest.mark.filterwarnings(LEGACY)
@pytest.mark.parametrize("legacy", list(itertools.product([None, True, False], [None, True, False]))[1:])
@pytest.mark.parametrize("name", [name for name in CASES if name not in ("huber_loss", "gaussian_nll_loss")])
def test_legacy_reductions(name: str, legacy: tuple[bool | None, bool | None]) -> None:
    arrays, options = CASES[name]
    options = {**options, "size_average": legacy[0], "reduce": legacy[1]}
    with pytest.warns(UserWarning, match="please use reduction="):
        ours = getattr(F, name)(*arrays, **options)
    assert_close(ours, getattr(TF, name)(*map(to_torch, arrays), **options))


@pytest.mark.filterwarnings(LEGACY)
def test_legacy_batchmean_divides_by_the_batch_too() -> None:
    arrays = CASES["kl_div"][0]
    ours = F.kl_div(*arrays, size_average=True, reduction="batchmean")
    assert_close(ours, TF.kl_div(*map(to_torch, arrays), size_average=True, reduction="batchmean"))


@pytest.mark.filterwarnings(KL_MEAN)
@pytest.mark.parametrize("name", CASES)
def test_another_reduction_is_an_error(name: str) -> None:
    arrays, options = CASES[name]
    with pytest.raises(ValueError, match="foo is not a valid value for reduction"):
        getattr(F, name)(*arrays, **options, reduction="foo")
    with pytest.raises(ValueError, match="foo"):
        getattr(TF, name)(*map(to_torch, arrays), **options, reduction="foo")


MIXED = ["l1_loss", "mse_loss", "smooth_l1_loss", "huber_loss", "kl_div", "poisson_nll_loss", "soft_margin_loss"]
MIXED += ["multilabel_soft_margin_loss", "hinge_embedding_loss"]


@pytest.mark.filterwarnings(KL_MEAN)
@pytest.mark.parametrize(
    ("first", "second"), [("float16", "float32"), ("float32", "bfloat16"), ("bfloat16", "float16")]
)
@pytest.mark.parametrize("name", MIXED)
def test_dtypes_promote_as_in_torch(name: str, first: str, second: str) -> None:
    x, t = normal(3).astype(jnp.dtype(first)), (uniform(3) + 0.1).astype(jnp.dtype(second))
    ours = getattr(F, name)(x, t)
    expected = getattr(TF, name)(to_torch(x).to(getattr(torch, first)), to_torch(t).to(getattr(torch, second)))
    assert str(expected.dtype) == f"torch.{ours.dtype}"
    assert_close(ours, expected, 0.02)


@pytest.mark.parametrize("name", ["l1_loss", "mse_loss", "huber_loss"])
def test_a_weight_of_another_dtype_promotes(name: str) -> None:
    x, t, w = normal(3).astype(np.float16), normal(3, seed=1).astype(np.float16), uniform(3)
    expected = getattr(TF, name)(to_torch(x), to_torch(t), weight=to_torch(w))
    ours = getattr(F, name)(x, t, weight=w)
    assert str(expected.dtype) == f"torch.{ours.dtype}"
    assert_close(ours, expected, 2e-3)


@pytest.mark.filterwarnings(LEGACY)
@pytest.mark.parametrize(
    "options", [{"size_average": False}, {"reduce": False}, {"size_average": True, "reduce": True}]
)
def test_legacy_arguments_of_layers(options: dict[str, bool]) -> None:
    layers = [
        name
        for name in dir(torch.nn)
        if name.endswith("Loss") and "size_average" in inspect.signature(getattr(torch.nn, name)).parameters
    ]
    assert len(layers) == 17
    for name in layers:
        assert getattr(nn, name)(**options).reduction == getattr(torch.nn, name)(**options).reduction, name


def test_a_legacy_argument_of_a_layer_warns_where_the_layer_is_made() -> None:
    class Own(nn.modules.loss._Loss):  # torch's base class, by torch's path
        def __init__(self) -> None:
            super().__init__(size_average=False)

    for make in (Own, *(getattr(nn, name) for name in ("L1Loss", "BCELoss", "NLLLoss", "SmoothL1Loss"))):
        with pytest.warns(UserWarning, match="please use reduction='sum'") as caught:
            loss = make() if make is Own else make(size_average=False)
        assert loss.reduction == "sum"
        assert caught[0].filename == __file__
    assert issubclass(nn.NLLLoss, nn.modules.loss._WeightedLoss)


def test_weights_are_buffers_of_torchs_names() -> None:
    weight = np.ones(3, np.float32)
    for name in ("NLLLoss", "BCELoss", "CrossEntropyLoss", "MultiLabelSoftMarginLoss", "MultiMarginLoss"):
        ours, theirs = getattr(nn, name)(weight=weight), getattr(torch.nn, name)(weight=to_torch(weight))
        assert list(ours.state_dict()) == list(theirs.state_dict()) == ["weight"]
        assert isinstance(ours.weight, nn.Buffer)
        assert list(getattr(nn, name)().state_dict()) == []


def test_nll_loss_2d_warns() -> None:
    with pytest.warns(FutureWarning, match="use `NLLLoss` instead") as caught:
        loss = nn.NLLLoss2d(reduction="sum")
    assert caught[0].filename == __file__
    assert loss.reduction == "sum"


@pytest.mark.filterwarnings(KL_MEAN)
@pytest.mark.parametrize("name", CASES)
def test_a_box_and_a_list_are_arrays_too(name: str) -> None:
    arrays, options = CASES[name]
    expected = getattr(F, name)(*arrays, **options)
    boxed = [nn.Buffer(jnp.asarray(a)) for a in arrays]
    assert float(getattr(F, name)(*boxed, **options)) == float(expected)
    jitted = jm.jit(lambda *xs: getattr(F, name)(*xs, **options))(*arrays)
    assert_close(jitted, expected, 1e-6)


def test_elementwise_mean_is_the_mean_with_a_warning() -> None:
    x, y = np.array([1.0, 3.0], np.float32), np.zeros(2, np.float32)
    for run in (
        lambda: F.l1_loss(x, y, reduction="elementwise_mean"),
        lambda: TF.l1_loss(torch.from_numpy(x), torch.from_numpy(y), reduction="elementwise_mean"),
    ):
        with pytest.warns(UserWarning, match="reduction='elementwise_mean' is deprecated"):
            assert float(run()) == 2.0

"""The dropouts: their distributions, and against torch their edges, warnings and exceptions."""

from __future__ import annotations

import math
import warnings
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
from tests.parity.oracle import assert_close, same_error

NAMES = ["dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout"]
#: Of each that draws for channels, an input of many channels and how many dimensions tell them apart.
CHANNELS = [
    ("dropout1d", (50, 60, 3), 2),
    ("dropout1d", (3000, 3), 1),
    ("dropout2d", (50, 60, 3, 2), 2),
    ("dropout3d", (50, 60, 2, 1, 3), 2),
    ("dropout3d", (3000, 2, 1, 3), 1),
    ("feature_alpha_dropout", (50, 60, 3), 2),
]
SATURATION = -1.7580993408473766  # of SELU


def dropped_alpha(p: float) -> float:
    """What an element that is dropped becomes: scaled and shifted, so that mean and variance stay."""
    scale = 1 / math.sqrt((1 - p) * (1 + p * SATURATION**2))
    return scale * (SATURATION - p * SATURATION)


@pytest.mark.parametrize("p", [0.3, 0.8])
def test_alpha_dropout_keeps_mean_and_variance(p: float) -> None:
    x = jax.random.normal(jax.random.key(0), (400, 500))
    y = np.asarray(F.alpha_dropout(x, p, training=True))
    assert abs(y.mean()) < 0.01  # five standard deviations of the mean of 200,000
    assert abs(y.var() - 1) < 0.02
    share = np.isclose(y, dropped_alpha(p), atol=1e-6).mean()
    assert abs(share - p) < 0.01
    theirs = TF.alpha_dropout(torch.zeros(100), p, training=True).unique()
    assert_close(np.unique(np.asarray(F.alpha_dropout(jnp.zeros(100), p, training=True))), theirs)


@pytest.mark.parametrize(("name", "shape", "leading"), CHANNELS)
def test_whole_channels_are_dropped(name: str, shape: tuple[int, ...], leading: int) -> None:
    p = 0.3
    y = np.asarray(getattr(F, name)(jnp.ones(shape), p, training=True)).reshape(*shape[:leading], -1)
    assert (y == y[..., :1]).all()
    channels = y[..., 0]
    alpha = "alpha" in name
    low = dropped_alpha(p) if alpha else 0.0
    kept = low + (1 - SATURATION) / math.sqrt((1 - p) * (1 + p * SATURATION**2)) if alpha else 1 / (1 - p)
    values = np.unique(channels)
    np.testing.assert_allclose(values, [low, kept], rtol=1e-5)
    assert abs((channels == values[0]).mean() - p) < 0.05  # six standard deviations of 3,000 draws


@pytest.mark.parametrize("name", NAMES)
def test_the_seed_decides(name: str) -> None:
    x, drop = jnp.ones((2, 30, 2, 2)[: 3 if name == "dropout1d" else 4]), getattr(F, name)
    jm.manual_seed(3)
    first, second = drop(x, 0.5, True), drop(x, 0.5, True)
    jm.manual_seed(3)
    assert drop(x, 0.5, True).tolist() == first.tolist()
    assert jm.jit(lambda x: drop(x, 0.5, True))(x).tolist() == second.tolist()
    assert first.tolist() != second.tolist()


@pytest.mark.parametrize("name", NAMES)
def test_gradient_is_the_mask(name: str) -> None:
    x = jnp.ones((2, 30, 2, 2)[: 3 if name == "dropout1d" else 4])
    jm.manual_seed(3)
    y = getattr(F, name)(x, 0.5, True)
    jm.manual_seed(3)
    gradient = jm.grad(lambda x: getattr(F, name)(x, 0.5, True).sum())(x)
    kept = np.asarray(y) == float(y.max())
    assert ((np.asarray(gradient) != 0) == kept).all()


def inputs(name: str) -> list[tuple[int, ...]]:
    if name == "dropout1d":
        return [(2, 3), (2, 3, 4), (0, 3), (0, 3, 4)]
    return [(4,), (2, 3), (2, 3, 4), (2, 3, 4, 5), (2, 3, 4, 5, 6), (0,), (0, 3, 4)]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("p", "training"), [(0.0, True), (1.0, True), (0.5, False)])
def test_where_nothing_is_drawn(name: str, p: float, training: bool) -> None:
    """torch's values and warnings, and no draw."""
    before = jm.get_rng_state()
    for shape in inputs(name):
        with warnings.catch_warnings(record=True) as ours:
            warnings.simplefilter("always")
            found = getattr(F, name)(jnp.ones(shape), p, training)
        with warnings.catch_warnings(record=True) as theirs:
            warnings.simplefilter("always")
            expected = getattr(TF, name)(torch.ones(shape), p, training)
        assert_close(found, expected)
        assert [(w.category, str(w.message)) for w in ours] == [(w.category, str(w.message)) for w in theirs]
        assert all(w.filename == __file__ for w in ours)
    assert (jm.get_rng_state() == before).all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("shape", "dtype", "p"),
    [
        ((2, 3, 4, 5), "float32", 1.5),
        ((2, 3, 4), "float32", -0.1),
        ((2, 3), "int32", 0.5),
        ((2, 3), "float32", math.nan),
    ],
)
@pytest.mark.filterwarnings("ignore:dropout.d. Received a:UserWarning")
def test_errors(name: str, shape: tuple[int, ...], dtype: str, p: float) -> None:
    x = np.ones(shape, dtype)
    same_error(lambda: getattr(F, name)(x, p, True), lambda: getattr(TF, name)(torch.from_numpy(x), p, True))


@pytest.mark.parametrize("name", ["dropout1d", "dropout2d", "feature_alpha_dropout"])
@pytest.mark.filterwarnings("ignore:dropout2d. Received a:UserWarning")
def test_too_few_dimensions(name: str) -> None:
    same_error(lambda: getattr(F, name)(jnp.ones(4), 0.5, True), lambda: getattr(TF, name)(torch.ones(4), 0.5, True))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision(name: str, dtype: Any) -> None:
    x = jnp.ones((2, 30, 2, 2)[: 3 if name == "dropout1d" else 4], dtype)
    y = getattr(F, name)(x, 0.3, True)
    assert y.dtype == dtype
    jm.manual_seed(0)
    y = getattr(F, name)(x, 0.3, True)
    jm.manual_seed(0)
    exact = getattr(F, name)(x.astype(jnp.float32), 0.3, True)
    assert_close(y, exact, 2 * float(jnp.finfo(dtype).eps))


@pytest.mark.parametrize("name", NAMES)
def test_in_place(name: str) -> None:
    """A box is written and returned, also where nothing is drawn; an array can't change."""
    x = jnp.ones((2, 30, 2, 2)[: 3 if name == "dropout1d" else 4])
    for p, training in ((0.5, True), (1.0, True), (0.0, True), (0.5, False)):
        box = nn.Buffer(x)
        jm.manual_seed(1)
        assert getattr(F, name)(box, p, training, True) is box
        jm.manual_seed(1)
        assert box.value.tolist() == getattr(F, name)(x, p, training, True).tolist()
        assert not isinstance(getattr(F, name)(box, p, training), nn.Buffer)
    assert (x == 1).all()


def test_integers_become_zeros_with_certainty() -> None:
    x = np.ones((2, 3), np.int32)
    ours, theirs = F.dropout(x, 1.0), TF.dropout(torch.from_numpy(x), 1.0)
    assert ours.tolist() == theirs.tolist()
    assert ours.dtype == jnp.int32

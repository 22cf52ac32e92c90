"""Hand-written gradients of losses against finite differences, in float64."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jaxmodule import nn
from jaxmodule.nn import functional as F


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng((seed, *shape)).standard_normal(shape)


@pytest.mark.parametrize("order", [1, 2])
def test_binary_cross_entropy(order: int) -> None:
    with jax.enable_x64(True):
        x, target = (jnp.asarray(1 / (1 + np.exp(-normal(4, seed=s)))) for s in (0, 1))
        check_grads(lambda x, t: F.binary_cross_entropy(x, t), (x, target), order=order)


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("size", [2, 5])
def test_linear_cross_entropy_in_chunks(size: int, reduction: str) -> None:
    target = np.array([0, 3, -100, 2, 1])
    options = nn.LinearCrossEntropyOptions(batch_chunk_size=size)
    with jax.enable_x64(True):
        arrays = [jnp.asarray(a) for a in (normal(5, 3), normal(4, 3), normal(4), np.abs(normal(4, seed=1)))]

        def loss(x: Any, w: Any, b: Any, of_class: Any) -> jax.Array:
            return F.linear_cross_entropy(
                x, w, target, linear_bias=b, weight=of_class, reduction=reduction, options=options
            )

        check_grads(loss, arrays, order=1, modes=["rev"])
    check_grads(  # of a gradient too: in float32, as order 2 costs most of its time compiling
        lambda x: F.linear_cross_entropy(x, normal(4, 3).astype(np.float32), target, options=options),
        (jnp.asarray(normal(5, 3), jnp.float32),),
        order=2,
        modes=["rev"],
        rtol=2e-2,
        atol=2e-2,
    )


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("zero_infinity", [False, True])
def test_ctc_loss_of_a_log_softmax(zero_infinity: bool, reduction: str) -> None:
    # Torch's gradient of the log-probabilities alone is not their loss's: it is that of the logits.
    targets = np.array([[1, 2, 2], [3, 0, 0]])

    def loss(x: jax.Array) -> jax.Array:
        log_probs = F.log_softmax(x, 2)
        return F.ctc_loss(log_probs, targets, (6, 4), (3, 1), reduction=reduction, zero_infinity=zero_infinity)

    with jax.enable_x64(True):
        check_grads(loss, (jnp.asarray(normal(6, 2, 4)),), order=1, modes=["rev"])


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        ("smooth_l1_loss", ((4, 3), (4, 3))),
        ("huber_loss", ((4, 3), (4, 3))),
        ("l1_loss", ((4, 3), (4, 3))),
        ("multilabel_soft_margin_loss", ((4, 3), (4, 3))),
        ("triplet_margin_loss", ((4, 3),) * 3),
    ],
)
def test_forwards_and_twice(name: str, shapes: Any) -> None:
    with jax.enable_x64(True):
        arrays = [jnp.asarray(normal(*shape, seed=i)) for i, shape in enumerate(shapes)]
        check_grads(getattr(F, name), arrays, order=2)

"""The hand-written gradients of pooling against finite differences, forwards and backwards."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jaxmodule.nn import functional as F


def apart(*shape: int) -> jax.Array:
    """Elements at least 0.1 from each other, so that no step of a finite difference changes a maximum."""
    count = int(np.prod(shape))
    return jnp.asarray(np.random.default_rng(count).permutation(count).reshape(shape) / 10 - count / 25)


CASES: dict[str, tuple[tuple[int, ...], Callable[[jax.Array], Any]]] = {
    "slices": ((2, 6, 7), lambda x: F.max_pool2d(x, (3, 2), (2, 1), (1, 0), (1, 2), ceil_mode=True)),
    "slices-3d": ((1, 3, 4, 3), lambda x: F.max_pool3d(x, 2, 1, 1)),
    "slices-indices": ((2, 9), lambda x: F.max_pool1d(x, 3, 2, 1, return_indices=True)[0]),
    "laid": ((1, 40), lambda x: F.max_pool1d(x, 17, 20, 3, ceil_mode=True)),
    "laid-indices": ((1, 3, 40), lambda x: F.max_pool2d_with_indices(x, (3, 18), (2, 18))[0]),
    "doubling": ((1, 40), lambda x: F.max_pool1d(x, 19, 3, 2)),
    "doubling-indices": ((1, 45), lambda x: F.max_pool1d_with_indices(x, 18, 4, 1, 2)[0]),
    "cells-max": ((1, 7, 40), lambda x: F.adaptive_max_pool2d(x, (3, 2))),
    "cells-max-large": ((1, 41), lambda x: F.adaptive_max_pool1d(x, 2)),
    "cells-max-indices": ((1, 7, 5), lambda x: F.adaptive_max_pool2d(x, (3, 6), return_indices=True)[0]),
    "cells-avg": ((1, 7, 41), lambda x: F.adaptive_avg_pool2d(x, (3, 2))),
    "cells-avg-more": ((1, 5), lambda x: F.adaptive_avg_pool1d(x, 7)),
    "fractional": ((2, 6, 5), lambda x: F.fractional_max_pool2d(x, 2, 3, _random_samples=jnp.full((1, 2, 2), 0.4))),
    "unpool": ((2, 4), lambda x: F.max_unpool1d(x, jnp.array([[0, 7, 2, 5], [3, 1, 6, 4]]), 2)),
    "lp": ((2, 4, 4), lambda x: F.lp_pool2d(jnp.abs(x) + 1.0, 2.5, 2, 1)),
    "lp-largest": ((2, 4, 4), lambda x: F.lp_pool2d(x + 0.05, float("inf"), 2, 1)),
    "avg-large": ((1, 40), lambda x: F.avg_pool1d(x, 19, 3, 2, ceil_mode=True)),
}


TWICE = ("slices", "doubling", "cells-avg", "unpool", "lp")  # one of each way: seconds of compilation


@pytest.mark.parametrize("name", list(CASES))
def test_gradients(name: str) -> None:
    with jax.enable_x64(True):
        shape, function = CASES[name]
        x = apart(*shape)
        order = 2 if name in TWICE else 1
        check_grads(jax.jit(lambda x: function(x) ** 2), (x,), order=order, eps=1e-4)


def test_vmap_of_gradients() -> None:
    x = apart(3, 2, 24)
    for function in (lambda x: F.max_pool1d(x, 3, 2), lambda x: F.max_pool1d(x, 18, 2), lambda x: F.max_pool1d(x, 24)):
        grad = jax.grad(lambda x, f=function: jnp.sum(jnp.sin(f(x))))
        looped = jnp.stack([grad(row) for row in x])
        np.testing.assert_allclose(jax.vmap(grad)(x), looped, rtol=1e-6)

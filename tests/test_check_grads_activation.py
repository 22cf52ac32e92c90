"""Hand-written derivatives of nonlinearities against finite differences, first and second, forwards and backwards."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jaxmodule.nn import functional as F

HAND_WRITTEN = {
    "softplus": F.softplus,
    "softplus, sharper": lambda x: F.softplus(x, 2.5, 3.0),
    "softplus, negative": lambda x: F.softplus(x, -1.5),
    "logsigmoid": F.logsigmoid,
    "mish": F.mish,
    "softmax": lambda x: F.softmax(x, 1),
    "softmin": lambda x: F.softmin(x, 0),
    "log_softmax": lambda x: F.log_softmax(x, -1),
}


@pytest.mark.parametrize("name", HAND_WRITTEN)
def test_hand_written_derivatives(name: str) -> None:
    with jax.enable_x64(True):
        x = jnp.asarray(2 * np.random.default_rng(0).standard_normal((3, 4)))
        check_grads(HAND_WRITTEN[name], (x,), order=2, modes=["fwd", "rev"])


#: Away from their kinks.
PIECEWISE: dict[str, Any] = {
    "hardswish": F.hardswish,
    "hardsigmoid": F.hardsigmoid,
    "elu": lambda x: F.elu(x, 0.7),
    "celu": lambda x: F.celu(x, 1.7),
    "selu": F.selu,
    "gelu": F.gelu,
    "gelu, tanh": lambda x: F.gelu(x, "tanh"),
    "softshrink": F.softshrink,
    "glu": F.glu,
}


@pytest.mark.parametrize("name", PIECEWISE)
def test_what_a_condition_decides(name: str) -> None:
    with jax.enable_x64(True):
        x = jnp.asarray([[-4.3, -2.1, -0.9, -0.2], [0.3, 0.8, 2.2, 5.1]])
        check_grads(PIECEWISE[name], (x,), order=2, modes=["fwd", "rev"])


def test_prelu_differentiates_by_both() -> None:
    with jax.enable_x64(True):
        x = jnp.asarray([[-4.3, 2.1, -0.9], [0.3, -0.8, 2.2]])
        check_grads(F.prelu, (x, jnp.asarray([0.2, -0.5, 1.5])), order=2, modes=["fwd", "rev"])


def test_softplus_keeps_its_input_only() -> None:
    """The derivative is made from the input: through the formula it would be NaN at infinities."""
    x = jnp.array([jnp.inf, -jnp.inf, 1e30, -1e30])
    np.testing.assert_array_equal(jax.vmap(jax.grad(F.softplus))(x), [1, 0, 1, 0])
    np.testing.assert_array_equal(jax.vmap(jax.grad(F.logsigmoid))(x), [0, 1, 0, 1])
    np.testing.assert_array_equal(jax.vmap(jax.grad(jax.grad(F.softplus)))(x), 0)

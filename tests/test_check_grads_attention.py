"""The hand-written gradients of attention and of the products in groups, against finite differences."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

import jaxmodule as jm
from jaxmodule.nn import functional as F
from jaxmodule.nn.attention import SDPBackend, sdpa_kernel
from jaxmodule.nn.attention.flex_attention import AuxRequest, create_block_mask, flex_attention
from jaxmodule.nn.functional import _flash


def normal(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng((seed, *shape)).standard_normal(shape), jnp.float64)


def hidden_row(shape: tuple[int, ...]) -> jax.Array:
    """An added mask with minus infinities: one row of nothing else."""
    mask = np.random.default_rng(shape).standard_normal(shape)
    mask[..., 1, :] = -np.inf
    mask[..., 2, ::2] = -np.inf
    return jnp.asarray(mask)


@pytest.fixture
def doubled(monkeypatch: pytest.MonkeyPatch) -> Any:
    """In double precision, and in blocks small enough that a few queries and keys make several."""
    monkeypatch.setattr(_flash, "_CPU_BLOCK", (4, 3))
    jax.clear_caches()
    with jax.enable_x64(True):
        yield
    jax.clear_caches()


def attend(backend: SDPBackend, seed: int | None = None, **options: Any) -> Callable[..., jax.Array]:
    def call(*arrays: jax.Array) -> jax.Array:
        with sdpa_kernel(backend), jm.use_rng(0 if seed is None else seed):
            return F.scaled_dot_product_attention(*arrays, **options)

    return call


CASES: dict[str, tuple[tuple[tuple[int, ...], ...], tuple[int, ...] | None, dict[str, Any]]] = {
    "full": (((2, 7, 3), (2, 5, 3), (2, 5, 2)), None, {}),
    "causal": (((2, 7, 3), (2, 8, 3), (2, 8, 2)), None, {"is_causal": True}),
    "mask": (((2, 7, 3), (2, 5, 3), (2, 5, 2)), (7, 5), {}),
    "mask of rows": (((2, 7, 3), (2, 5, 3), (2, 5, 2)), (2, 7, 5), {"scale": 1.3}),
    "groups": (((4, 7, 3), (2, 5, 3), (2, 5, 2)), (4, 7, 5), {"enable_gqa": True}),
    "dropout": (((2, 7, 3), (2, 5, 3), (2, 5, 2)), None, {"dropout_p": 0.4}),
}


@pytest.mark.parametrize("backend", [SDPBackend.MATH, SDPBackend.FLASH_ATTENTION], ids=lambda b: b.name)
@pytest.mark.parametrize("name", CASES)
def test_attention(backend: SDPBackend, name: str, doubled: None) -> None:
    shapes, mask, options = CASES[name]
    arrays = [normal(*shape, seed=i) for i, shape in enumerate(shapes)]
    if mask is not None:
        arrays.append(hidden_row(mask))
    finite = [jnp.where(jnp.isfinite(a), a, 0.0) for a in arrays]

    def call(*moving: jax.Array) -> jax.Array:
        # minus infinity can't be moved by a small step
        return attend(backend, **options)(
            *(jnp.where(jnp.isfinite(a), m, a) for a, m in zip(arrays, moving, strict=True))
        )

    modes = ["rev"] if backend == SDPBackend.FLASH_ATTENTION else ["fwd", "rev"]
    check_grads(call, finite, order=1, modes=modes, atol=1e-5, rtol=1e-5)


def test_second_derivatives_of_the_formula(doubled: None) -> None:
    arrays = [normal(*shape, seed=i) for i, shape in enumerate(CASES["full"][0])]
    check_grads(attend(SDPBackend.MATH), arrays, order=2, modes=["rev"], atol=1e-4, rtol=1e-4)


def test_blocks_have_no_forward_mode(doubled: None) -> None:
    arrays = [normal(*shape, seed=i) for i, shape in enumerate(CASES["full"][0])]
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(attend(SDPBackend.FLASH_ATTENTION), arrays, arrays)


def test_flex_attention(doubled: None) -> None:
    q, k, v, bias = normal(1, 4, 9, 3), normal(1, 2, 8, 3, seed=1), normal(1, 2, 8, 2, seed=2), normal(4, 9)
    mask = create_block_mask(lambda b, h, q, k: (q >= k) & (q != 5), None, None, 9, 8, BLOCK_SIZE=4)

    def call(q: jax.Array, k: jax.Array, v: jax.Array, bias: jax.Array) -> tuple[jax.Array, jax.Array]:
        out, aux = flex_attention(
            q,
            k,
            v,
            lambda score, b, h, i, j: jnp.tanh(score) * jnp.asarray(bias)[h, i],
            mask,
            None,
            True,
            kernel_options={"BLOCK_M": 4},
            return_aux=AuxRequest(lse=True),
        )
        return out, jnp.where(jnp.isfinite(aux.lse), aux.lse, 0.0)

    check_grads(call, (q, k, v, bias), order=1, modes=["fwd", "rev"], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "shapes", [((7, 4), (3, 4, 2)), ((4, 7), (7, 2)), ((3, 4, 2), (2, 7)), ((3, 4, 2), (3, 2, 5))], ids=str
)
def test_grouped_mm(shapes: tuple[tuple[int, ...], ...], doubled: None) -> None:
    a, b = normal(*shapes[0]), normal(*shapes[1], seed=1)
    ends = None if len(shapes[0]) == len(shapes[1]) == 3 else jnp.array([2, 2, 6], jnp.int32)
    check_grads(lambda a, b: F.grouped_mm(a, b, offs=ends), (a, b), order=1, modes=["rev"], atol=1e-5, rtol=1e-5)

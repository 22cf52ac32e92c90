"""`flex_attention`, its block masks, and attention of sequences in one array, against torch."""

from __future__ import annotations

import itertools
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.attention.flex_attention as torch_flex
import torch.nn.functional as TF

import jaxmodule as jm
from jaxmodule import nn
from jaxmodule.nn.attention import flex_attention as flex
from jaxmodule.nn.attention.varlen import AuxRequest, varlen_attn, varlen_attn_out
from tests.parity.oracle import assert_close, same_error, to_torch


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng((seed, *shape)).standard_normal(shape).astype(np.float32)


def causal(b: Any, h: Any, q: Any, k: Any) -> Any:
    return q >= k


def window(b: Any, h: Any, q: Any, k: Any) -> Any:
    return (q - k < 7) & (k - q < 7)


def of_heads(b: Any, h: Any, q: Any, k: Any) -> Any:
    return (q + h) % 3 != (k + b) % 3


def nothing_for_some(b: Any, h: Any, q: Any, k: Any) -> Any:
    return (q >= k) & (q != 5)


def halved(score: Any, b: Any, h: Any, q: Any, k: Any) -> Any:
    place = (b - h + q) * k
    return score * 0.5 - 0.01 * (place.astype(jnp.float32) if isinstance(place, jax.Array) else place.float())


def of_torch(*arrays: Any, **options: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # uncompiled, it is slow, and says so
        return torch_flex.flex_attention(*(torch.as_tensor(a) for a in arrays), **options)


def gradients_by_formula(arrays: list[np.ndarray], mod: Any, mask: Any) -> list[Any]:
    """Of the sum of the squares: torch's own has no gradients on CPU."""
    q, k, v = (to_torch(a).requires_grad_() for a in arrays)
    scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    where = torch.meshgrid(*map(torch.arange, scores.shape), indexing="ij")
    scores = scores if mod is None else mod(scores, *where)
    seen = torch.ones_like(scores, dtype=torch.bool) if mask is None else mask(*where)
    weights = torch.where(seen.any(-1, keepdim=True), torch.where(seen, scores, -1e30).softmax(-1), 0.0)
    ((weights @ v) ** 2).sum().backward()
    return [t.grad for t in (q, k, v)]


SHAPES = (2, 4, 37, 8), (2, 4, 53, 8), (2, 4, 53, 6)


@pytest.mark.parametrize("mod", [None, halved], ids=["plain", "score_mod"])
@pytest.mark.parametrize("mask", [None, causal, window, of_heads, nothing_for_some], ids=lambda m: m and m.__name__)
def test_values_and_gradients(mod: Any, mask: Any) -> None:
    arrays = [normal(*shape, seed=i) for i, shape in enumerate(SHAPES)]
    sizes = (2, 4, 37, 53)
    theirs = mask and torch_flex.create_block_mask(mask, *sizes, device="cpu", BLOCK_SIZE=16)
    ours = mask and flex.create_block_mask(mask, *sizes, BLOCK_SIZE=16)

    def call(*a: jax.Array) -> jax.Array:
        return flex.flex_attention(*a, mod, ours, kernel_options={"BLOCK_M": 16})

    assert_close(jax.jit(call)(*arrays), of_torch(*arrays, score_mod=mod, block_mask=theirs))
    found = jax.jit(jax.grad(lambda *a: jnp.sum(call(*a) ** 2), argnums=(0, 1, 2)))(*arrays)
    for gradient, expected in zip(found, gradients_by_formula(arrays, mod, mask), strict=True):
        assert_close(gradient, expected, 2e-5)


def test_grouped_queries_a_scale_and_what_is_beside_the_output() -> None:
    arrays = [normal(2, 6, 9, 8), normal(2, 2, 11, 8, seed=1), normal(2, 2, 11, 8, seed=2)]
    expected, aux = of_torch(
        *arrays, enable_gqa=True, scale=0.3, return_aux=torch_flex.AuxRequest(lse=True), score_mod=halved
    )
    request = flex.AuxRequest(lse=True, max_scores=True)  # torch has no max_scores on CPU
    out, found = flex.flex_attention(*arrays, halved, enable_gqa=True, scale=0.3, return_aux=request)
    assert_close(out, expected)
    assert_close(found.lse, aux.lse)
    scores = np.einsum("bhgqe,bhke->bhgqk", arrays[0].reshape(2, 2, 3, 9, 8), arrays[1]).reshape(2, 6, 9, 11) * 0.3
    place = np.indices(scores.shape)
    assert_close(found.max_scores, (scores * 0.5 - 0.01 * (place[0] - place[1] + place[2]) * place[3]).max(-1))
    with pytest.warns(FutureWarning, match="return_lse is deprecated"):
        again, lse = flex.flex_attention(*arrays, halved, enable_gqa=True, scale=0.3, return_lse=True)
    assert jnp.array_equal(again, out)
    assert jnp.array_equal(lse, found.lse)
    assert flex.flex_attention(*arrays, enable_gqa=True, return_aux=flex.AuxRequest())[1] == (None, None)


def test_gradients_flow_through_what_a_score_mod_reads() -> None:
    q, k, v = (normal(1, 2, 5, 4, seed=i) for i in range(3))
    bias = normal(2, 5, seed=9)
    tensor = to_torch(bias).requires_grad_()
    scores = to_torch(q) @ to_torch(k).transpose(-1, -2) * 0.5 * tensor[None, :, :, None]
    ((scores.softmax(-1) @ to_torch(v)) ** 2).sum().backward()

    def loss(bias: jax.Array) -> jax.Array:
        return jnp.sum(flex.flex_attention(q, k, v, lambda s, b, h, q, k: s * bias[h, q]) ** 2)

    assert_close(jax.grad(loss)(jnp.asarray(bias)), tensor.grad)


def test_in_a_module_under_jit_with_a_mask_as_an_argument() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv = nn.Linear(8, 24)

        def forward(self, x: jax.Array, mask: flex.BlockMask) -> jax.Array:
            q, k, v = jnp.split(self.qkv(x)[:, None], 3, -1)
            return flex.flex_attention(q, k, v, block_mask=mask)

    model, x = Attention(), normal(2, 20, 8)
    mask = flex.create_block_mask(causal, None, None, 20, 20, BLOCK_SIZE=8)
    step = jm.jit(lambda model, x, mask: model(x, mask))
    np.testing.assert_allclose(step(model, x, mask), model(x, mask), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("mask", [causal, window, of_heads], ids=lambda m: m.__name__)
@pytest.mark.parametrize("full", [True, False], ids=["full apart", "together"])
def test_block_masks(mask: Any, full: bool) -> None:
    sizes = (2, 3, 40, 70)
    ours = flex.create_block_mask(mask, *sizes, BLOCK_SIZE=(8, 16), separate_full_blocks=full)
    other = torch_flex.create_block_mask(mask, *sizes, device="cpu", BLOCK_SIZE=(8, 16), separate_full_blocks=full)
    for name in ("kv_num_blocks", "full_kv_num_blocks", "q_num_blocks", "full_q_num_blocks"):
        mine, theirs_ = getattr(ours, name), getattr(other, name)
        assert (mine is None) == (theirs_ is None), name
        if mine is not None:
            assert np.array_equal(mine, theirs_.numpy()), name
    assert np.array_equal(ours.to_dense(), other.to_dense().numpy())
    assert ours.sparsity() == pytest.approx(other.sparsity())
    assert ours.shape == tuple(other.shape)
    assert ours.numel() == other.numel()
    assert ours.BLOCK_SIZE == other.BLOCK_SIZE
    cut = ours[0, 1], other[0, 1]
    assert np.array_equal(cut[0].to_dense(), cut[1].to_dense().numpy())
    leaves, tree = jax.tree.flatten(ours)
    assert np.array_equal(jax.tree.unflatten(tree, leaves).to_dense(), ours.to_dense())


def test_masks_of_functions() -> None:
    for ours, other in (
        (flex.and_masks(causal, window), torch_flex.and_masks(causal, window)),
        (flex.or_masks(causal, of_heads), torch_flex.or_masks(causal, of_heads)),
        (flex.noop_mask, torch_flex.noop_mask),
    ):
        found = flex.create_mask(ours, 2, 3, 9, 11)
        assert np.array_equal(found, torch_flex.create_mask(other, 2, 3, 9, 11, device="cpu").numpy())
    scores = flex.create_mask(halved, 2, 3, 4, 5)
    assert_close(scores, torch_flex.create_mask(halved, 2, 3, 4, 5, device="cpu"))


@pytest.mark.parametrize(
    ("shapes", "options", "match"),
    [
        (((1, 2, 3, 4), (1, 2, 3, 5), (1, 2, 3, 4)), {}, "same embedding dimension"),
        (((1, 2, 3, 4), (1, 1, 3, 4), (1, 1, 3, 4)), {}, "same number of heads"),
        (((1, 3, 3, 4), (1, 2, 3, 4), (1, 2, 3, 4)), {"enable_gqa": True}, "multiple of"),
        (((2, 3, 4), (2, 3, 4), (2, 3, 4)), {}, "4D"),
        (((3, 1, 3, 4), (2, 1, 3, 4), (2, 1, 3, 4)), {}, "[Bb]atch"),
    ],
)
def test_errors(shapes: tuple[tuple[int, ...], ...], options: dict[str, Any], match: str) -> None:
    arrays = [np.ones(shape, np.float32) for shape in shapes]
    same_error(lambda: flex.flex_attention(*arrays, **options), lambda: of_torch(*arrays, **options))
    with pytest.raises((ValueError, NotImplementedError), match=match):
        flex.flex_attention(*arrays, **options)


def test_a_mask_of_another_length_is_refused() -> None:
    arrays = [np.ones((1, 1, 20, 4), np.float32)] * 3
    short = flex.create_block_mask(causal, None, None, 10, 10, BLOCK_SIZE=8)
    with pytest.raises(ValueError, match="block_mask"):
        flex.flex_attention(*arrays, block_mask=short)


# -- sequences in one array ---------------------------------------------------------------------------------------
# torch's has a kernel for CUDA only: the oracle is its attention on each sequence.
LENGTHS_Q, LENGTHS_K = (3, 0, 5, 1), (4, 2, 5, 6)


def separate(arrays: list[np.ndarray], before: int = -1, after: int = -1, groups: int = 1) -> torch.Tensor:
    ends_q, ends_k = (np.cumsum((0, *lengths)) for lengths in (LENGTHS_Q, LENGTHS_K))
    parts = []
    for i, (n, m) in enumerate(zip(LENGTHS_Q, LENGTHS_K, strict=True)):
        q = to_torch(arrays[0][ends_q[i] : ends_q[i] + n]).transpose(0, 1)
        k, v = (to_torch(a[ends_k[i] : ends_k[i] + m]).transpose(0, 1) for a in arrays[1:])
        distance = torch.arange(m)[None] - (torch.arange(n)[:, None] + m - n)
        seen = torch.ones(n, m, dtype=torch.bool)
        seen = seen & (distance >= -before) if before >= 0 else seen
        seen = seen & (distance <= after) if after >= 0 else seen
        out = TF.scaled_dot_product_attention(q, k, v, seen, enable_gqa=groups > 1)
        parts.append(torch.where(seen.any(-1)[None, :, None], out, 0.0).transpose(0, 1))
    return torch.cat(parts)


@pytest.mark.parametrize(("before", "after"), [(-1, -1), (-1, 0), (2, 0), (1, 1)], ids=str)
@pytest.mark.parametrize("groups", [1, 2])
def test_varlen(before: int, after: int, groups: int) -> None:
    total_q, total_k = sum(LENGTHS_Q), sum(LENGTHS_K)
    arrays = [normal(total_q, 2 * groups, 8), normal(total_k, 2, 8, seed=1), normal(total_k, 2, 8, seed=2)]
    ends = [np.cumsum((0, *lengths)).astype(np.int32) for lengths in (LENGTHS_Q, LENGTHS_K)]

    @jax.jit
    def call(ends_q: jax.Array, ends_k: jax.Array, *a: jax.Array) -> Any:
        options: dict[str, Any] = {"window_size": (before, after), "enable_gqa": groups > 1}
        return varlen_attn(*a, ends_q, ends_k, max(LENGTHS_Q), max(LENGTHS_K), return_aux=AuxRequest(True), **options)

    out, lse = call(*ends, *arrays)
    assert_close(out, separate(arrays, before, after, groups))
    assert lse.shape == (2 * groups, total_q)


def test_varlen_out_writes_a_box() -> None:
    x, ends = normal(7, 2, 8), np.array([0, 3, 7], np.int32)
    out = nn.Buffer(jnp.zeros((7, 2, 8)))
    assert varlen_attn_out(out, x, x, x, ends, ends, 4, 4) is out
    assert jnp.array_equal(out.value, varlen_attn(x, x, x, ends, ends, 4, 4))


def test_varlen_pages_are_the_keys_they_hold() -> None:
    q, k, v = normal(5, 2, 8), normal(8, 2, 8, seed=1), normal(8, 2, 8, seed=2)
    ends_q, ends_k = np.array([0, 2, 5], np.int32), np.array([0, 3, 8], np.int32)
    pages = np.zeros((2, 5, 2, 2, 8), np.float32)  # of two keys each, out of order, one of them unused
    table = np.array([[3, 1, 4], [0, 2, 4]], np.int32)
    for array, held in ((k, pages[0]), (v, pages[1])):
        for i, (first, last) in enumerate(itertools.pairwise(ends_k)):
            for place, key in enumerate(range(first, last)):
                held[table[i, place // 2], place % 2] = array[key]
    table[0, 2] = 1  # not read: three keys end in the second page
    used = np.diff(ends_k)
    if used[1] > 4:  # the fifth key is in a third page
        pages[0][4, 0], pages[1][4, 0] = k[7], v[7]
    expected = varlen_attn(q, k, v, ends_q, ends_k, 3, 5)
    found = varlen_attn(q, *pages, ends_q, None, 3, 6, seqused_k=used, block_table=table)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)
    with pytest.raises(ValueError, match="seqused_k"):
        varlen_attn(q, *pages, ends_q, None, 3, 6, block_table=table)
    with pytest.raises(ValueError, match="cu_seq_k is missing"):
        varlen_attn(q, k, v, ends_q, None, 3, 5)

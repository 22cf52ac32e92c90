"""`scaled_dot_product_attention` against torch: arguments, masks, dtypes, exceptions.

Each implementation is compared: the whole matrix of scores, and blocks of it (of which the shapes here make several).
That of cuDNN is lowered, not run.
"""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.attention.bias as torch_bias
import torch.nn.functional as TF
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxmodule as jm
from jaxmodule.nn import Parameter, attention
from jaxmodule.nn import functional as F
from jaxmodule.nn.attention import SDPBackend, sdpa_kernel
from jaxmodule.nn.attention.bias import CausalBias, CausalVariant, causal_lower_right, causal_upper_left
from jaxmodule.nn.functional import _sdpa
from tests.parity.oracle import assert_close, compare, same_error, to_torch

BACKENDS = [SDPBackend.MATH, SDPBackend.FLASH_ATTENTION]
every_backend = pytest.mark.parametrize("backend", BACKENDS, ids=lambda backend: backend.name)
SDPA = F.scaled_dot_product_attention


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng((seed, *shape)).standard_normal(shape).astype(np.float32)


def mask_of(shape: tuple[int, ...], kind: str, seed: int = 0) -> np.ndarray:
    """Boolean or added, with a hidden row where there are rows."""
    rng = np.random.default_rng((seed, *shape))
    seen = rng.random(shape) < 0.7
    if shape[-2] > 2:
        seen[..., 1, :] = False
    if kind == "bool":
        return seen
    return np.where(seen, rng.standard_normal(shape), -np.inf).astype(np.float32)


def under(backend: SDPBackend, function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        with sdpa_kernel(backend):
            return function(*args, **kwargs)

    return call


def agree(backend: SDPBackend, arrays: list[np.ndarray | None], rtol: float = 1e-5, **options: Any) -> None:
    """Values and gradients, of a floating-point mask too."""
    compare(
        under(backend, lambda *a: SDPA(*a, **options)),
        lambda *a: TF.scaled_dot_product_attention(*a, **options),
        arrays,
        rtol=rtol,
    )


# -- signatures -------------------------------------------------------------------------------------------------
def test_arguments_are_torchs() -> None:
    for name in ("multi_head_attention_forward", "grouped_mm", "scaled_mm", "scaled_grouped_mm"):
        ours, theirs = (inspect.signature(getattr(library, name)).parameters.values() for library in (F, TF))
        plain = [(p.name, p.kind, None if "dtype" in p.name else p.default) for p in ours]
        assert plain == [(p.name, p.kind, None if "dtype" in p.name else p.default) for p in theirs]
    found = inspect.signature(SDPA)
    bare = found.replace(
        parameters=[p.replace(annotation=p.empty) for p in found.parameters.values()],
        return_annotation=inspect.Signature.empty,
    )
    assert str(bare) == (
        "(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, *, scale=None, enable_gqa=False)"
    )
    with pytest.raises(TypeError):  # torch's documentation does not show the star
        TF.scaled_dot_product_attention(*[torch.ones(2, 2)] * 3, None, 0.0, False, 1.0)


# -- values and gradients ---------------------------------------------------------------------------------------
SHAPES = {
    "matrices": ((5, 4), (7, 4), (7, 6)),
    "three": ((2, 5, 4), (2, 7, 4), (2, 7, 6)),
    "four": ((2, 3, 5, 4), (2, 3, 7, 4), (2, 3, 7, 6)),
    "five, broadcast": ((2, 1, 3, 5, 4), (1, 2, 3, 7, 4), (2, 1, 1, 7, 6)),
    "ranks": ((5, 4), (2, 3, 7, 4), (3, 7, 6)),
    "several blocks": ((1, 2, 300, 4), (1, 2, 530, 4), (1, 2, 530, 4)),
}


@every_backend
@pytest.mark.parametrize("shapes", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("options", [{}, {"is_causal": True, "scale": 0.7}], ids=["full", "causal"])
def test_shapes(backend: SDPBackend, shapes: tuple[tuple[int, ...], ...], options: dict[str, Any]) -> None:
    agree(backend, [normal(*shape, seed=i) for i, shape in enumerate(shapes)], 2e-5, **options)


@every_backend
@pytest.mark.parametrize("kind", ["bool", "added"])
@pytest.mark.parametrize("mask", [(5, 7), (1, 7), (3, 5, 7), (2, 1, 1, 7), (2, 3, 5, 7)], ids=str)
def test_masks(backend: SDPBackend, kind: str, mask: tuple[int, ...]) -> None:
    arrays = [normal(*shape, seed=i) for i, shape in enumerate(SHAPES["four"])]
    agree(backend, [*arrays, mask_of(mask, kind)])


@every_backend
@pytest.mark.parametrize("kind", ["bool", "added"])
@pytest.mark.parametrize("mask", [(5, 1), (1, 1, 1, 1)], ids=str)
def test_masks_of_one_number_a_row(backend: SDPBackend, kind: str, mask: tuple[int, ...]) -> None:
    """Their gradient is 0: in both it is what rounding leaves."""
    call = under(backend, SDPA)
    arrays = [*(normal(*shape, seed=i) for i, shape in enumerate(SHAPES["four"])), mask_of(mask, kind)]
    assert_close(call(*arrays), TF.scaled_dot_product_attention(*map(to_torch, arrays)))
    if kind == "added":
        gradient = jax.grad(lambda m: jnp.sum(call(*arrays[:3], m) ** 2))(jnp.asarray(arrays[3]))
        assert gradient.shape == mask
        assert float(jnp.max(jnp.abs(gradient))) < 1e-4


@every_backend
@pytest.mark.parametrize("kind", ["bool", "added"])
@pytest.mark.parametrize("mask", [(300, 530), (2, 1, 530), (1, 1, 530)], ids=str)
def test_masks_of_several_blocks(backend: SDPBackend, kind: str, mask: tuple[int, ...]) -> None:
    arrays = [normal(*shape, seed=i) for i, shape in enumerate(SHAPES["several blocks"])]
    agree(backend, [*arrays, mask_of(mask, kind)], 2e-5)


@every_backend
@pytest.mark.parametrize("heads", [(6, 2, 2), (6, 1, 1), (4, 4, 4), (6, 3, 2)], ids=str)
@pytest.mark.parametrize("mask", [None, (5, 7), (1, 1, 7), "heads"], ids=str)
def test_grouped_queries(backend: SDPBackend, heads: tuple[int, int, int], mask: Any) -> None:
    arrays = [normal(2, h, n, 4, seed=i) for i, (h, n) in enumerate(zip(heads, (5, 7, 7), strict=True))]
    shape = (2, heads[0], 5, 7) if mask == "heads" else mask
    masks = [] if shape is None else [mask_of(shape, "added")]
    agree(backend, [*arrays, *masks], enable_gqa=True)


def test_grouped_queries_with_other_leading_dimensions() -> None:
    for shapes in (((6, 5, 4), (2, 7, 4), (2, 7, 3)), ((2, 6, 5, 4), (1, 2, 7, 4), (1, 2, 7, 3))):
        agree(
            SDPBackend.MATH, [normal(*shape, seed=i) for i, shape in enumerate(shapes)], enable_gqa=True, is_causal=True
        )
    agree(
        SDPBackend.FLASH_ATTENTION,
        [normal(1, 4, 300, 4), normal(1, 2, 530, 4), normal(1, 2, 530, 3)],
        2e-5,
        enable_gqa=True,
        is_causal=True,
    )


def test_grouped_queries_do_not_repeat_keys() -> None:
    """No array in the program has the keys once a head of the query."""
    q, k = jnp.ones((8, 16, 4)), jnp.ones((2, 64, 4))
    for backend in BACKENDS:
        program = jax.make_jaxpr(under(backend, lambda q, k: SDPA(q, k, k, enable_gqa=True)))(q, k)
        assert "8,64,4" not in str(program).replace(" ", "")


@every_backend
@pytest.mark.parametrize("shape", [(0, 2, 3, 4), (2, 0, 3, 4), (2, 2, 0, 4), (2, 2, 3, 0)], ids=str)
def test_nothing(backend: SDPBackend, shape: tuple[int, ...]) -> None:
    array = np.zeros(shape, np.float32)
    compare(under(backend, SDPA), TF.scaled_dot_product_attention, [array, array, array])


def test_no_keys_and_no_features() -> None:
    q, k = normal(2, 3, 4), np.zeros((2, 0, 4), np.float32)
    assert not np.asarray(SDPA(q, k, k)).any()
    agree(SDPBackend.MATH, [np.zeros((2, 3, 0), np.float32), np.zeros((2, 5, 0), np.float32), normal(2, 5, 4)])


@every_backend
@pytest.mark.parametrize("kind", ["bool", "added"])
def test_queries_that_see_no_key(backend: SDPBackend, kind: str) -> None:
    """0, with finite gradients, in both kinds of mask; torch gives the same."""
    arrays = [normal(*shape, seed=i) for i, shape in enumerate(SHAPES["four"])]
    hidden = np.zeros((5, 7), bool) if kind == "bool" else np.full((5, 7), -np.inf, np.float32)
    agree(backend, [*arrays, hidden])
    assert not np.asarray(under(backend, SDPA)(*arrays, hidden)).any()


@every_backend
def test_values_that_are_not_finite(backend: SDPBackend) -> None:
    q, k, v = (normal(*shape, seed=i) for i, shape in enumerate(SHAPES["matrices"]))
    broken = q.copy()
    broken[0, 0] = np.nan
    added = np.zeros((5, 7), np.float32)
    added[2, 3] = np.inf
    for arrays in ([broken, k, v], [q, k, v, added]):
        expected = TF.scaled_dot_product_attention(*map(to_torch, arrays)).isnan().numpy()
        assert np.array_equal(np.isnan(np.asarray(under(backend, SDPA)(*arrays))), expected)
    seen = np.ones((5, 7), bool)
    seen[:, 2] = False
    k[2] = np.nan
    assert np.isfinite(np.asarray(under(backend, SDPA)(q, k, v, seen))).all()  # in torch it is NaN
    large = [1e4 * q, 1e4 * np.nan_to_num(k), v]
    compare(under(backend, SDPA), TF.scaled_dot_product_attention, large, gradients=False)


@every_backend
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16], ids=["bfloat16", "float16"])
def test_half_precision(backend: SDPBackend, dtype: Any) -> None:
    arrays = [jnp.asarray(normal(*shape, seed=i), dtype) for i, shape in enumerate(SHAPES["four"])]
    for added in (None, normal(5, 7), jnp.asarray(normal(5, 7), dtype), mask_of((5, 7), "bool")):
        near_single(under(backend, SDPA), arrays, added, dtype)


def near_single(call: Callable[..., Any], arrays: list[jax.Array], added: Any, dtype: Any) -> None:
    wide = [np.asarray(a, np.float32) for a in arrays]
    wide_added = added if added is None or added.dtype == bool else np.asarray(added, np.float32)
    expected = SDPA(*wide, wide_added)
    found = call(*arrays, added)
    assert found.dtype == dtype
    tolerance = 4 * float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(np.asarray(found, np.float32), np.asarray(expected), rtol=tolerance, atol=tolerance)
    gradients = jax.grad(lambda *a: jnp.sum(call(*a, added).astype(jnp.float32)), argnums=(0, 1, 2))(*arrays)
    for gradient in gradients:
        assert gradient.dtype == dtype
        assert np.isfinite(np.asarray(gradient, np.float32)).all()


@every_backend
def test_double_precision(backend: SDPBackend) -> None:
    with jax.enable_x64(True):
        arrays = [normal(*shape, seed=i).astype(np.float64) for i, shape in enumerate(SHAPES["several blocks"])]
        for added in (None, mask_of((300, 530), "added").astype(np.float64)):
            found = under(backend, SDPA)(*arrays, added, is_causal=added is None)
            expected = TF.scaled_dot_product_attention(
                *map(to_torch, arrays), None if added is None else to_torch(added), is_causal=added is None
            )
            assert found.dtype == jnp.float64
            assert_close(found, expected, 1e-12)
        # With a mask in single precision torch's CPU reads it as doubles.
        single = under(backend, SDPA)(*arrays, added.astype(np.float32))
        assert_close(single, expected, 1e-12)


@st.composite
def calls(draw: st.DrawFn) -> tuple[list[np.ndarray], dict[str, Any]]:
    lead = draw(st.sampled_from([(), (2,), (2, 3)]))
    length, keys = draw(st.integers(1, 9)), draw(st.integers(2, 9))
    size, out = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    group = draw(st.sampled_from([1, 2])) if lead else 1
    heads = (*lead[:-1], lead[-1] * group) if lead else ()
    arrays = [normal(*heads, length, size), normal(*lead, keys, size, seed=1), normal(*lead, keys, out, seed=2)]
    options: dict[str, Any] = {"scale": draw(st.sampled_from([None, 0.3, -1.0])), "enable_gqa": group > 1}
    kind = draw(st.sampled_from(["none", "causal", "bool", "added"]))
    if kind == "causal":
        options["is_causal"] = True
    elif kind != "none":
        own = [1 if draw(st.booleans()) else n for n in (*heads, length, keys)]
        own = [*own[draw(st.integers(0, len(heads))) : -1], keys]  # of a row of one number the gradient is 0
        arrays.append(mask_of(tuple(own), kind))
    return arrays, options


@every_backend
@settings(max_examples=12, deadline=None, derandomize=True)
@given(calls())
def test_calls(backend: SDPBackend, case: tuple[list[np.ndarray], dict[str, Any]]) -> None:
    arrays, options = case
    agree(backend, arrays, 2e-5, **options)


@every_backend
@pytest.mark.slow
@settings(max_examples=200, deadline=None, derandomize=True)
@given(calls())
def test_more_calls(backend: SDPBackend, case: tuple[list[np.ndarray], dict[str, Any]]) -> None:
    arrays, options = case
    agree(backend, arrays, 2e-5, **options)


# -- errors -----------------------------------------------------------------------------------------------------
def f(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    return np.zeros(shape, dtype)


Q, K, V = f(2, 2, 3, 4), f(2, 2, 5, 4), f(2, 2, 5, 6)  # of other sizes: torch's flash kernel checks less
BAD: list[tuple[list[Any], dict[str, Any], str]] = [
    ([f(4), f(5, 4), f(5, 4)], {}, "at least 2 dimensional"),
    ([Q, f(2, 2, 5, 3), K], {}, r"4 and 3: query \[2, 2, 3, 4\], key \[2, 2, 5, 3\]"),
    ([Q, K, f(2, 2, 6, 6)], {}, "differ in their length, 5 and 6"),
    ([Q, f(3, 2, 5, 4), f(3, 2, 5, 4)], {}, "leading sizes"),
    ([f(2, 6, 3, 4), K, K], {}, "give enable_gqa=True"),
    ([Q, K.astype(np.float16), K], {}, "same dtype"),
    ([x.astype(np.int32) for x in (Q, K, K)], {}, "found int32"),
    ([x.astype(np.complex64) for x in (Q, K, K)], {}, "complex64"),
    ([Q, K, V, np.ones((3, 5), bool)], {"is_causal": True}, "should not be set when is_causal=True"),
    ([Q, K, K, f(5)], {}, "attn_mask has 1 dimensions"),
    ([Q, K, K, f(3, 4)], {}, r"\[3, 4\] does not broadcast to the scores, of shape \[2, 2, 3, 5\]"),
    ([Q, K, K, f(3, 3, 5)], {}, "does not broadcast"),
    ([Q, K, K, f(1, 2, 2, 3, 5)], {}, "does not broadcast"),
    ([Q, K, K, f(3, 5, dtype=np.int32)], {}, "attn_mask.dtype: int32"),
    ([Q, K, K, f(3, 5, dtype=np.float16)], {}, "attn_mask.dtype: float16"),
    ([Q, K, K], {"dropout_p": 1.5}, "between 0 and 1, but got 1.5"),
    ([f(2, 6, 3, 4), f(2, 4, 5, 4), f(2, 4, 5, 4)], {"enable_gqa": True}, "must divide the number of heads"),
    ([f(2, 2, 3, 4), f(2, 6, 5, 4), f(2, 6, 5, 4)], {"enable_gqa": True}, "must divide the number of heads"),
    ([f(3, 4), f(5, 4), f(5, 4)], {"enable_gqa": True}, "enable_gqa takes heads"),
]


@pytest.mark.parametrize(("arrays", "options", "match"), BAD, ids=[match for _, _, match in BAD])
def test_errors(arrays: list[Any], options: dict[str, Any], match: str) -> None:
    same_error(
        lambda: SDPA(*arrays, **options), lambda: TF.scaled_dot_product_attention(*map(to_torch, arrays), **options)
    )
    with pytest.raises((RuntimeError, IndexError, NotImplementedError), match=match):
        SDPA(*arrays, **options)


# -- dropout ----------------------------------------------------------------------------------------------------
@every_backend
def test_dropout(backend: SDPBackend) -> None:
    """Of a matrix of ones the output is a row's sum of kept weights."""
    call = under(backend, SDPA)
    q, ones = np.zeros((2, 300, 4), np.float32), np.ones((2, 530, 1), np.float32)
    k = np.zeros((2, 530, 4), np.float32)
    jm.manual_seed(0)
    kept = np.asarray(call(q, k, ones, dropout_p=0.25))
    assert abs(kept.mean() - 1.0) < 0.01
    assert abs(kept.std() - (0.25 / 0.75 / 530) ** 0.5) < 0.002
    jm.manual_seed(0)
    np.testing.assert_allclose(
        jax.jit(lambda key: drawn(key, call, q, k, ones))(0), drawn(0, call, q, k, ones), rtol=1e-6
    )
    assert np.array_equal(np.asarray(call(q, k, ones, dropout_p=1.0)), np.zeros((2, 300, 1)))
    assert np.array_equal(np.asarray(call(q, k, ones, dropout_p=0.0)), np.asarray(call(q, k, ones)))


def drawn(key: Any, call: Callable[..., Any], *arrays: np.ndarray) -> jax.Array:
    with jm.use_rng(key):
        return call(*arrays, dropout_p=0.25)


@every_backend
def test_gradients_drop_what_the_value_drops(backend: SDPBackend) -> None:
    """The output is linear in the values: it is the gradient's product with them."""
    q, k, v = normal(2, 300, 4), normal(2, 530, 4, seed=1), normal(2, 530, 3, seed=2)
    weight = normal(2, 300, 3, seed=3)

    def loss(v: jax.Array) -> jax.Array:
        with jm.use_rng(7):
            return jnp.sum(under(backend, SDPA)(q, k, v, dropout_p=0.5) * weight)

    value, gradient = jax.value_and_grad(loss)(jnp.asarray(v))
    np.testing.assert_allclose(jnp.sum(gradient * v), value, rtol=1e-4, atol=1e-3)


# -- CausalBias -------------------------------------------------------------------------------------------------
@every_backend
@pytest.mark.parametrize("sizes", [(5, 7), (6, 6), (300, 530)], ids=str)
@pytest.mark.parametrize("variant", ["causal_upper_left", "causal_lower_right"])
def test_causal_bias(backend: SDPBackend, sizes: tuple[int, int], variant: str) -> None:
    length, keys = sizes
    arrays = [normal(2, length, 4), normal(2, keys, 4, seed=1), normal(2, keys, 4, seed=2)]
    ours, theirs = getattr(attention.bias, variant)(*sizes), getattr(torch_bias, variant)(*sizes)
    assert np.array_equal(np.asarray(ours.materialize()), theirs._materialize().numpy())
    assert ours.shape == sizes
    compare(
        under(backend, lambda q, k, v: SDPA(q, k, v, ours)),
        lambda q, k, v: TF.scaled_dot_product_attention(q, k, v, theirs._materialize()),
        arrays,
        rtol=2e-5,
    )


def test_a_causal_bias_with_more_queries_than_keys() -> None:
    with pytest.warns(UserWarning, match="Lower right causal bias"):
        ours = causal_lower_right(5, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = torch_bias.causal_lower_right(5, 3)
    arrays = [normal(2, 2, 5, 4), normal(2, 2, 3, 4), normal(2, 2, 3, 4, seed=1)]
    for backend in BACKENDS:
        found = under(backend, SDPA)(*arrays, ours)
        assert_close(found, TF.scaled_dot_product_attention(*map(to_torch, arrays), theirs))
        assert not np.asarray(found)[:, :, :2].any()


def test_causal_bias_errors() -> None:
    q, k = f(5, 4), f(7, 4)
    with pytest.raises(ValueError, match="should not be used with is_causal=True"):
        SDPA(q, k, k, causal_upper_left(5, 7), is_causal=True)
    with pytest.raises(RuntimeError, match="does not fit 5 queries and 7 keys"):
        SDPA(q, k, k, causal_lower_right(4, 7))
    with pytest.raises(AssertionError, match="only supports 2D"):
        causal_upper_left(4)
    with pytest.raises(TypeError, match="variant must be a CausalVariant"):
        CausalBias(1, 3, 4)  # pyright: ignore[reportArgumentType]
    assert [(v.name, int(v)) for v in CausalVariant] == [(v.name, int(v)) for v in torch_bias.CausalVariant]


# -- the choice of an implementation ----------------------------------------------------------------------------
def program(call: Callable[..., Any], *shapes: tuple[int, ...], dtype: Any = jnp.float32, platform: str = "cpu") -> str:
    arrays = [jax.ShapeDtypeStruct(shape, dtype) for shape in shapes]
    return jax.export.export(jax.jit(call), platforms=[platform])(*arrays).mlir_module()


def largest(text: str) -> int:
    """The most elements of any array in a program."""
    return max(
        int(np.prod([int(n) for n in m.split("x")[:-1]]))
        for m in re.findall(r"tensor<((?:\d+x)+)[a-z]", text)
        for m in [m + "_"]
    )


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu", "rocm"])
def test_long_sequences_never_have_all_scores(platform: str) -> None:
    shapes = ((1, 4096, 8), (1, 4096, 8), (1, 4096, 8))

    def train(q: jax.Array, k: jax.Array, v: jax.Array) -> Any:
        return jax.grad(lambda *a: jnp.sum(SDPA(*a, is_causal=True)), argnums=(0, 1, 2))(q, k, v)

    for call in (SDPA, train):
        assert largest(program(call, *shapes, platform=platform)) <= 1024 * 1024
    assert largest(program(under(SDPBackend.MATH, SDPA), *shapes, platform=platform)) == 4096 * 4096
    text = program(under(SDPBackend.FLASH_ATTENTION, SDPA), *shapes, platform="cpu")
    assert largest(text) <= 256 * 256


def test_short_sequences_and_few_queries_are_plain() -> None:
    for shapes in (((2, 64, 8),) * 3, ((2, 1, 8), (2, 9000, 8), (2, 9000, 8))):
        assert "while" not in program(SDPA, *shapes)


def test_sdpa_kernel() -> None:
    x = jnp.ones((2, 3, 4))

    def in_blocks() -> bool:
        return "custom_vjp" in str(jax.make_jaxpr(lambda x: SDPA(x, x, x))(x))

    order = [SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]
    for backends, expected in (
        (SDPBackend.MATH, False),
        (SDPBackend.EFFICIENT_ATTENTION, True),
        (order, False),  # short: the formula suits it
    ):
        with sdpa_kernel(backends):
            assert in_blocks() == expected
    with sdpa_kernel(order, set_priority=True):
        assert in_blocks()
        with sdpa_kernel(SDPBackend.MATH):
            assert not in_blocks()
        assert in_blocks()
    assert not in_blocks()


@pytest.mark.parametrize("backends", [SDPBackend.ERROR, SDPBackend.OVERRIDEABLE, SDPBackend.CUDNN_ATTENTION, [], ["x"]])
def test_no_implementation_left(backends: Any) -> None:
    arrays = [np.ones((2, 2, 3, 4), np.float32)] * 3

    def theirs() -> None:
        own = (
            [getattr(torch.nn.attention.SDPBackend, b.name) for b in backends]
            if backends not in ([], ["x"])
            else backends
        )
        with torch.nn.attention.sdpa_kernel(own):
            TF.scaled_dot_product_attention(*map(to_torch, arrays))

    listed = backends if isinstance(backends, list) else [backends]

    def ours() -> None:
        with sdpa_kernel(backends):
            SDPA(*arrays)

    backends = listed
    same_error(ours, theirs)
    with pytest.raises(RuntimeError, match="No available kernel"):
        ours()


def test_sdpa_kernel_takes_backends() -> None:
    for wrong in ("x", None, (SDPBackend.MATH,)):
        with pytest.raises(AssertionError, match="must be an instance of SDPBackend"), sdpa_kernel(wrong):  # pyright: ignore
            pass
    assert [(b.name, int(b)) for b in SDPBackend] == sorted(
        ((b.name, int(b)) for b in torch.nn.attention.SDPBackend.__members__.values()), key=lambda pair: pair[1]
    )


def test_plugging_in_kernels_says_what_to_do() -> None:
    assert attention.list_flash_attention_impls() == []
    assert attention.current_flash_attention_impl() is None
    assert attention.restore_flash_attention_impl() is None
    with pytest.raises(NotImplementedError, match="sdpa_kernel"):
        attention.activate_flash_attention_impl("FA3")
    with pytest.raises(NotImplementedError, match="pallas"):
        attention.register_flash_attention_impl("mine", register_fn=print)


# -- cuDNN: what it is given, with XLA's implementation in its place ----------------------------------------------
@pytest.fixture
def standing_in(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """jax.nn.dot_product_attention computes by XLA what it is asked of cuDNN; the calls."""
    original, asked = jax.nn.dot_product_attention, []

    def stand_in(q: Any, k: Any, v: Any, bias: Any = None, mask: Any = None, **options: Any) -> jax.Array:
        assert options.pop("implementation") == "cudnn"
        asked.append({"shapes": [x.shape for x in (q, k, v)], "bias": bias, "mask": mask, **options})
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            found = original(q, k, v, bias, mask, implementation="xla", **options)
        mark = jax.lax.population_count(jnp.int32(1))  # to be found in the program
        return found * mark.astype(found.dtype)

    monkeypatch.setattr(jax.nn, "dot_product_attention", stand_in)
    _sdpa._fused_is_accepted.cache_clear()
    jax.clear_caches()
    yield asked
    _sdpa._fused_is_accepted.cache_clear()
    jax.clear_caches()


CUDNN_CALLS: list[tuple[list[tuple[int, ...]], tuple[int, ...] | None, dict[str, Any]]] = [
    ([(2, 4, 6, 8), (2, 4, 10, 8)], None, {}),
    ([(2, 4, 6, 8), (2, 4, 10, 8)], None, {"is_causal": True, "scale": 0.3}),
    ([(2, 4, 6, 8), (2, 2, 10, 8)], (2, 1, 6, 10), {"enable_gqa": True}),
    ([(2, 4, 6, 8), (2, 2, 10, 8)], (4, 1, 10), {"enable_gqa": True}),
    ([(6, 8), (10, 8)], (6, 10), {}),
    ([(2, 3, 4, 6, 8), (2, 3, 4, 10, 8)], (3, 1, 6, 10), {}),
]


@pytest.mark.parametrize(("shapes", "mask", "options"), CUDNN_CALLS)
@pytest.mark.parametrize("kind", ["bool", "added"])
def test_cudnn_gets_the_same_problem(
    standing_in: list[dict[str, Any]],
    shapes: list[tuple[int, ...]],
    mask: tuple[int, ...] | None,
    options: dict[str, Any],
    kind: str,
) -> None:
    q, k = (jnp.asarray(normal(*shape), jnp.bfloat16) for shape in shapes)
    v = jnp.asarray(normal(*shapes[1], seed=1), jnp.bfloat16)
    masks = () if mask is None else (jnp.asarray(mask_of(mask, kind)),)
    q4, k4, v4, mask4, shape = F.attention._grouped(q, k, v, *(masks or (None,)), bool(options.get("enable_gqa")))
    band = (None, 0) if options.get("is_causal") else (None, None)
    spec = F.attention.Spec(band, options.get("scale", 8**-0.5), 0.0)
    assert _sdpa._fused_runs(q4, k4, v4, mask4, spec)
    found = _sdpa._fused(spec, q4, k4, v4, mask4).reshape(shape)
    assert all(len(s) == 4 for s in standing_in[-1]["shapes"])
    assert standing_in[-1]["is_causal"] == bool(options.get("is_causal"))
    bias = standing_in[-1]["bias"]
    assert bias is None or np.isfinite(np.asarray(bias, np.float32)).all()
    expected = under(SDPBackend.MATH, SDPA)(q, k, v, *masks, **options)
    np.testing.assert_allclose(np.asarray(found, np.float32), np.asarray(expected, np.float32), atol=0.03)


def test_cudnn_is_in_what_is_lowered_for_cuda_only(standing_in: list[dict[str, Any]]) -> None:
    def train(q: jax.Array, k: jax.Array, v: jax.Array) -> Any:
        return jax.grad(lambda *a: jnp.sum(SDPA(*a, is_causal=True).astype(jnp.float32)), argnums=(0, 1, 2))(q, k, v)

    shapes = ((2, 4, 6, 8),) * 3
    for call in (SDPA, train):
        asked = len(standing_in)
        with jax.numpy_dtype_promotion("standard"):  # what stands in mixes dtypes going back
            cuda = program(call, *shapes, dtype=jnp.bfloat16, platform="cuda")
        assert len(standing_in) > asked
        assert "popcnt" in cuda
        assert "popcnt" not in program(call, *shapes, dtype=jnp.bfloat16, platform="cpu")
    asked = len(standing_in)
    program(SDPA, *shapes, dtype=jnp.float32, platform="cuda")  # not its dtype
    program(under(SDPBackend.MATH, SDPA), *shapes, dtype=jnp.bfloat16, platform="cuda")
    assert len(standing_in) == asked
    q = jnp.asarray(normal(*shapes[0]), jnp.bfloat16)
    assert SDPA(q, q, q).dtype == jnp.bfloat16  # here, on CPU, by another
    with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
        program(SDPA, *shapes, dtype=jnp.bfloat16, platform="cuda")
        with pytest.raises(NotImplementedError, match="platform"):
            program(SDPA, (2, 4, 8, 8), (2, 4, 8, 8), (2, 4, 8, 8), dtype=jnp.bfloat16, platform="cpu")


def test_without_cudnn_half_precision_lowers_for_cuda() -> None:
    assert "__cudnn$" not in program(SDPA, *((2, 4, 6, 8),) * 3, dtype=jnp.bfloat16, platform="cuda")


# -- boxes and transforms -----------------------------------------------------------------------------------------
@every_backend
def test_boxes_numpy_and_vmap(backend: SDPBackend) -> None:
    call = under(backend, SDPA)
    q, k, v = (normal(3, *shape, seed=i) for i, shape in enumerate(SHAPES["three"]))
    whole = call(q, k, v, is_causal=True)
    assert np.array_equal(np.asarray(call(*map(Parameter, (q, k, v)), is_causal=True)), np.asarray(whole))
    mapped = jax.vmap(lambda *a: call(*a, is_causal=True))(q, k, v)
    np.testing.assert_allclose(mapped, whole, rtol=1e-6, atol=1e-6)

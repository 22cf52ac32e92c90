"""Multi-head attention and the Transformers against torch: every argument, mask, hint, warning and state_dict.

The zoo's rows (tests/zoo/attention.py) run through the properties of all layers; what those lists leave out is here.
"""

from __future__ import annotations

import itertools
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxmodule as jm
from jaxmodule import nn
from jaxmodule.nn import functional as F
from tests.parity import test_layers as layers
from tests.parity.oracle import assert_close, to_torch
from tests.zoo import Row, attention, every
from tests.zoo.attention import arrays, bias, mask
from tests.zoo.row import tensors

L, S, N, E, H = 4, 5, 2, 8, 2
CAUSAL = np.triu(np.ones((L, L), bool), 1)
ADDED = np.where(CAUSAL, -np.inf, 0.0).astype(np.float32)
NESTED = "ignore:.*nested tensor.*:UserWarning"
NOT_NESTED = "ignore:enable_nested_tensor is True:UserWarning"
MISMATCH = "ignore:Support for mismatched:UserWarning"


def randomized(module: torch.nn.Module) -> torch.nn.Module:
    """With parameters that are neither 0 nor 1."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return module


def loaded(name: str, *args: Any, **kwargs: Any) -> tuple[nn.Module, torch.nn.Module]:
    theirs = randomized(getattr(torch.nn, name)(*args, **kwargs))
    ours = getattr(nn, name)(*args, **kwargs)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def check(
    ours: nn.Module, theirs: torch.nn.Module, inputs: tuple[np.ndarray, ...], call: dict[str, Any], rtol: float = 1e-5
) -> None:
    """Outputs and gradients of parameters and of the first input, compiled; one array given is query, key and value."""
    same = isinstance(ours, nn.MultiheadAttention) and len(inputs) == 1
    first = to_torch(inputs[0]).requires_grad_()
    rest = tensors(inputs[1:]) if not same else (first, first)
    theirs.zero_grad()
    expected = theirs(first, *rest, **tensors(call))
    head = layers.first(expected)
    head.backward(torch.from_numpy(layers.cotangent(tuple(head.shape))))

    @jm.jit
    def run(module: nn.Module, first: jax.Array) -> Any:
        def loss(module: nn.Module, first: jax.Array) -> Any:
            others = inputs[1:] if not same else (first, first)
            output = module(first, *others, **call)
            return jnp.sum(layers.first(output) * layers.cotangent(layers.first(output).shape)), output

        return jm.grad(loss, argnums=(0, 1), has_aux=True)(module, first)

    (of_parameters, of_first), output = run(ours, jnp.asarray(inputs[0]))
    leaves = jax.tree.leaves(output), jax.tree.leaves(expected)
    for mine, other in zip(*leaves, strict=True):
        assert_close(mine, other, rtol)
    assert_close(of_first, first.grad, rtol, "gradient of the first input")
    for name, parameter in theirs.named_parameters():
        reference = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        assert_close(of_parameters[name], reference, rtol, f"gradient of {name}")


# -- what the zoo's STATEFUL list is for ------------------------------------------------------------------------
@every([row for row in attention.ROWS if not row.random], sweep=False)
def test_five_steps_of_training(row: Row) -> None:
    layers.test_five_steps_of_training(row)


@every(attention.MULTIHEAD + attention.LAYERS)
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32], ids=["bfloat16", "float32"])
def test_constructors_take_dtype_and_device(row: Row, dtype: Any) -> None:
    device = jax.devices()[-1]
    for place in (device, jax.sharding.SingleDeviceSharding(device)):
        module = getattr(nn, row.layer)(*row.args, **row.kwargs, device=place, dtype=dtype)
        for name, value in module.state_dict().items():
            assert value.devices() == {device}, name
            assert value.dtype == dtype, name


# -- MultiheadAttention -----------------------------------------------------------------------------------------
@st.composite
def multihead(draw: st.DrawFn) -> tuple[dict[str, Any], tuple[np.ndarray, ...], dict[str, Any]]:
    same = draw(st.booleans())
    kdim, vdim = (None, None) if same else draw(st.sampled_from([(None, None), (3, None), (6, 5)]))
    batch = draw(st.sampled_from([None, 1, N]))
    kwargs = {
        "embed_dim": E,
        "num_heads": H,
        "bias": draw(st.booleans()),
        "add_bias_kv": draw(st.booleans()),
        "add_zero_attn": draw(st.booleans()),
        "kdim": kdim,
        "vdim": vdim,
        "batch_first": draw(st.booleans()),
    }

    def shape(length: int, size: int) -> tuple[int, ...]:
        if batch is None:
            return (length, size)
        return (batch, length, size) if kwargs["batch_first"] else (length, batch, size)

    keys = L if same else S
    shapes = [shape(L, E)] if same else [shape(L, E), shape(keys, kdim or E), shape(keys, vdim or E)]
    heads = (batch or 1) * H
    make = draw(st.sampled_from([mask, bias]))
    pairs = draw(st.sampled_from([None, (L, keys), (heads, L, keys)]))
    padded = draw(st.booleans())
    call = {
        "attn_mask": None if pairs is None else make(*pairs),
        "key_padding_mask": make(*(() if batch is None else (batch,)), keys) if padded else None,
        "need_weights": draw(st.booleans()),
        "average_attn_weights": draw(st.booleans()),
    }
    return kwargs, arrays(*shapes)(draw(st.integers(0, 3))), call


@settings(max_examples=12, deadline=None, derandomize=True)
@given(multihead())
def test_multihead(case: tuple[dict[str, Any], tuple[np.ndarray, ...], dict[str, Any]]) -> None:
    kwargs, inputs, call = case
    check(*loaded("MultiheadAttention", **kwargs), inputs, call)


@pytest.mark.slow
@settings(max_examples=150, deadline=None, derandomize=True)
@given(multihead())
def test_multihead_more(case: tuple[dict[str, Any], tuple[np.ndarray, ...], dict[str, Any]]) -> None:
    kwargs, inputs, call = case
    check(*loaded("MultiheadAttention", **kwargs), inputs, call)


def test_key_and_value_that_are_one_object() -> None:
    ours, theirs = loaded("MultiheadAttention", E, H, batch_first=True)
    x, y = arrays((N, L, E), (N, S, E))(0)
    expected = theirs(*map(to_torch, (x, y, y)))
    shared = jnp.asarray(y)
    for mine, other in zip(ours(x, shared, shared), expected, strict=True):
        assert_close(mine, other)


@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("padded", [True, False])
def test_the_causal_hint(need_weights: bool, padded: bool) -> None:
    call = {
        "attn_mask": CAUSAL,
        "is_causal": True,
        "need_weights": need_weights,
        "key_padding_mask": mask(N, L) if padded else None,
    }
    check(*loaded("MultiheadAttention", E, H), arrays((L, N, E))(0), call)


def test_the_causal_hint_is_believed() -> None:
    """Where neither weights nor padding need the mask it is not read, in torch neither."""
    ours, theirs = loaded("MultiheadAttention", E, H)
    x = arrays((L, N, E))(0)[0]
    call = {"attn_mask": np.zeros((L, L), bool), "is_causal": True, "need_weights": False}
    t = to_torch(x)
    assert_close(ours(x, x, x, **call)[0], theirs(t, t, t, **tensors(call))[0])


def test_queries_that_see_no_key() -> None:
    ours, theirs = loaded("MultiheadAttention", E, H)
    x = arrays((L, N, E))(0)[0]
    t = to_torch(x)
    hidden = np.zeros((L, L), bool)
    hidden[1] = True
    for need_weights in (True, False):
        call = {"attn_mask": hidden, "need_weights": need_weights}
        expected = theirs(t, t, t, **tensors(call))[0]
        assert bool(expected.isnan().any()) == need_weights
        assert_close(ours(x, x, x, **call)[0], expected)
    check(ours, theirs, (x,), {"attn_mask": hidden, "need_weights": False})


@pytest.mark.parametrize("shapes", [((0, N, E), (S, N, E)), ((L, 0, E), (S, 0, E)), ((L, N, E), (0, N, E))])
@pytest.mark.parametrize("need_weights", [True, False])
def test_multihead_of_nothing(shapes: tuple[tuple[int, ...], ...], need_weights: bool) -> None:
    ours, theirs = loaded("MultiheadAttention", E, H)
    x, y = (np.ones(shape, np.float32) for shape in shapes)
    expected = theirs(*map(to_torch, (x, y, y)), need_weights=need_weights)
    found = ours(x, y, y, need_weights=need_weights)
    assert [None if x is None else x.shape for x in found] == [None if x is None else tuple(x.shape) for x in expected]
    assert_close(found[0], expected[0])


@pytest.mark.parametrize(("first", "second"), [(mask, bias), (bias, mask)])
def test_masks_of_two_kinds_warn_and_work(first: Any, second: Any) -> None:
    ours, theirs = loaded("MultiheadAttention", E, H)
    x = arrays((L, N, E))(0)[0]
    call = {"attn_mask": first(L, L), "key_padding_mask": second(N, L)}
    t = to_torch(x)
    with pytest.warns(UserWarning, match="Support for mismatched key_padding_mask and attn_mask is deprecated"):
        found = ours(x, x, x, **call)
    with pytest.warns(UserWarning, match="Support for mismatched key_padding_mask and attn_mask is deprecated"):
        expected = theirs(t, t, t, **tensors(call))
    for mine, other in zip(found, expected, strict=True):
        assert_close(mine, other)


def test_merge_masks() -> None:
    ours, theirs = loaded("MultiheadAttention", E, H, batch_first=True)
    x = arrays((N, L, E))(0)[0]
    t = to_torch(x)
    for pairs, keys in [(None, None), (None, bias(N, L)), (bias(L, L), None), (bias(N * H, L, L), bias(N, L))]:
        merged, kind = ours.merge_masks(pairs, keys, x)
        expected, expected_kind = theirs.merge_masks(*tensors((pairs, keys)), t)
        assert kind == expected_kind
        assert (merged is None) == (expected is None)
        if merged is not None:
            assert_close(merged, expected)
    merged, kind = ours.merge_masks(mask(L, L), mask(N, L), x)
    assert kind == 2
    assert np.array_equal(merged[:, 1], mask(L, L)[None] | mask(N, L)[:, None])


@pytest.mark.parametrize("p", [0.5, 1.0])
@pytest.mark.parametrize("need_weights", [True, False])
def test_dropout_of_weights(p: float, need_weights: bool) -> None:
    jm.manual_seed(0)
    module = nn.MultiheadAttention(E, H, dropout=p)
    x = arrays((L, 64, E))(0)[0]
    out, weights = module(x, x, x, need_weights=need_weights, average_attn_weights=False)
    if p == 1.0:
        assert not np.asarray(out).any()
        return
    clean = module.eval()(x, x, x, average_attn_weights=False)[1]
    if weights is not None:
        kept = np.asarray(weights) != 0
        assert abs(kept.mean() - 0.5) < 0.05
        np.testing.assert_allclose(np.asarray(weights)[kept], 2 * np.asarray(clean)[kept], rtol=1e-5)
    drawn = [module.train()(x, x, x, need_weights=need_weights)[0] for _ in range(2)]
    assert not np.allclose(*drawn)
    jm.manual_seed(3)
    again = [jm.jit(lambda m: m(x, x, x, need_weights=need_weights)[0])(module)]
    jm.manual_seed(3)
    again.append(module(x, x, x, need_weights=need_weights)[0])
    np.testing.assert_allclose(*again, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("need_weights", [True, False])
def test_half_precision_masks(dtype: Any, need_weights: bool) -> None:
    module = nn.MultiheadAttention(E, H, dtype=dtype)
    x = jnp.asarray(arrays((L, N, E))(0)[0], dtype)
    for added in (bias(L, L), jnp.asarray(bias(L, L), dtype), mask(L, L)):
        out, weights = module(x, x, x, attn_mask=added, need_weights=need_weights)
        assert out.dtype == dtype
        assert weights is None or weights.dtype == dtype
        assert np.isfinite(np.asarray(out, np.float32)).all()


def test_double_precision() -> None:
    with jax.enable_x64(True):
        theirs = randomized(torch.nn.MultiheadAttention(E, H, dtype=torch.float64))
        ours = nn.MultiheadAttention(E, H, dtype=jnp.float64)
        ours.load_state_dict(theirs.state_dict())
        x = arrays((L, N, E))(0)[0].astype(np.float64)
        for need_weights in (True, False):
            found = ours(x, x, x, attn_mask=CAUSAL, need_weights=need_weights)
            expected = theirs(*[to_torch(x)] * 3, attn_mask=to_torch(CAUSAL), need_weights=need_weights)
            assert found[0].dtype == jnp.float64
            assert_close(found[0], expected[0], 1e-12)


# -- multi_head_attention_forward: what the module does not reach -----------------------------------------------
def forward_arguments(seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)

    def draw(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32)

    return {
        "query": draw(L, N, E),
        "key": draw(S, N, E),
        "value": draw(S, N, E),
        "embed_dim_to_check": E,
        "num_heads": H,
        "in_proj_weight": draw(3 * E, E),
        "in_proj_bias": draw(3 * E),
        "bias_k": None,
        "bias_v": None,
        "add_zero_attn": False,
        "dropout_p": 0.0,
        "out_proj_weight": draw(E, E),
        "out_proj_bias": draw(E),
    }


@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("zero", [True, False])
@pytest.mark.parametrize("padded", [True, False])
def test_static_keys_and_values(need_weights: bool, zero: bool, padded: bool) -> None:
    rng = np.random.default_rng(5)
    static = {name: rng.standard_normal((N * H, 7, E // H)).astype(np.float32) for name in ("static_k", "static_v")}
    options = {"need_weights": need_weights, "key_padding_mask": mask(N, 7) if padded else None}
    arguments = {**forward_arguments(), "add_zero_attn": zero, **static, **options}
    found = F.multi_head_attention_forward(**arguments)
    expected = torch.nn.functional.multi_head_attention_forward(**tensors(arguments))
    for mine, other in zip(found, expected, strict=True):
        if other is not None:
            assert_close(mine, other)


def test_training_false_drops_nothing() -> None:
    arguments = {**forward_arguments(), "dropout_p": 0.9, "training": False}
    found = F.multi_head_attention_forward(**arguments)
    expected = torch.nn.functional.multi_head_attention_forward(**tensors(arguments))
    assert_close(found[0], expected[0])


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"embed_dim_to_check": 6}, "expecting embedding dimension of 6"),
        ({"num_heads": 3}, "not divisible by num_heads 3"),
        ({"in_proj_weight": None}, "in_proj_weight is None"),
        ({"use_separate_proj_weight": True}, "q_proj_weight is None"),
        ({"bias_k": np.zeros((1, 1, E), np.float32)}, "bias_k is set but bias_v is None"),
        ({"bias_v": np.zeros((1, 1, E), np.float32)}, "bias_v is set but bias_k is None"),
        ({"static_k": np.zeros((3, S, 4), np.float32)}, "static_k of 4 rows"),
        ({"static_v": np.zeros((4, S, 3), np.float32)}, "of 4 features"),
        (
            {name: np.zeros((1, 1, E), np.float32) for name in ("bias_k", "bias_v")}
            | {"static_k": np.zeros((4, S, 4), np.float32)},
            "bias cannot be added to static key",
        ),
    ],
)
def test_forward_errors(changes: dict[str, Any], match: str) -> None:
    arguments = {**forward_arguments(), **changes}
    with pytest.raises(AssertionError):
        torch.nn.functional.multi_head_attention_forward(**tensors(arguments))
    with pytest.raises(AssertionError, match=match):
        F.multi_head_attention_forward(**arguments)


# -- Transformers -----------------------------------------------------------------------------------------------
ENCODER_CALLS = [
    {},
    {"src_mask": CAUSAL},
    {"src_mask": ADDED, "is_causal": True},
    {"src_mask": bias(N * H, L, L)},
    {"src_key_padding_mask": mask(N, L)},
    {"src_mask": mask(L, L), "src_key_padding_mask": mask(N, L)},
]


@pytest.mark.parametrize("call", ENCODER_CALLS, ids=lambda call: "+".join(call) or "none")
@pytest.mark.parametrize("options", [{}, {"norm_first": True, "activation": "gelu", "batch_first": True}])
def test_encoder_layer(call: dict[str, Any], options: dict[str, Any]) -> None:
    shape = (N, L, E) if "batch_first" in options else (L, N, E)
    check(*loaded("TransformerEncoderLayer", E, H, 12, 0.0, **options), arrays(shape)(0), call, 2e-5)


# Not the mask of numbers other than 0 and minus infinity: torch's fast path makes NaN of it.
@pytest.mark.parametrize("call", ENCODER_CALLS[:3] + ENCODER_CALLS[4:], ids=lambda call: "+".join(call) or "none")
def test_evaluation_without_gradients_is_torchs_fast_path(call: dict[str, Any]) -> None:
    ours, theirs = loaded("TransformerEncoderLayer", E, H, 12, batch_first=True)
    x = arrays((N, L, E))(0)[0]
    with torch.no_grad():
        expected = theirs.eval()(to_torch(x), **tensors(call))
    assert_close(ours.eval()(x, **call), expected)


@pytest.mark.parametrize("module", ["activation", "function"])
def test_activations_that_are_callables(module: str) -> None:
    ours_f, theirs_f = (nn.SiLU(), torch.nn.SiLU()) if module == "activation" else (F.silu, torch.nn.functional.silu)
    for name, shapes in (
        ("TransformerEncoderLayer", ((L, N, E),)),
        ("TransformerDecoderLayer", ((L, N, E), (S, N, E))),
    ):
        theirs = randomized(getattr(torch.nn, name)(E, H, 12, 0.0, theirs_f))
        ours = getattr(nn, name)(E, H, 12, 0.0, ours_f)
        ours.load_state_dict(theirs.state_dict())
        assert repr(ours) == repr(theirs)
        check(ours, theirs, arrays(*shapes)(0), {}, 2e-5)


@pytest.mark.parametrize("activation", ["relu", "gelu", "silu"])
def test_activation_relu_or_gelu(activation: str) -> None:
    for ours_f, theirs_f in (
        (getattr(F, activation), getattr(torch.nn.functional, activation)),
        *(((activation, activation),) if activation != "silu" else ()),
        *(
            ((getattr(nn, name)(), getattr(torch.nn, name)()),)
            if (name := {"relu": "ReLU", "gelu": "GELU", "silu": "SiLU"}[activation])
            else ()
        ),
    ):
        ours = nn.TransformerEncoderLayer(E, H, 12, activation=ours_f)
        theirs = torch.nn.TransformerEncoderLayer(E, H, 12, activation=theirs_f)
        assert ours.activation_relu_or_gelu == theirs.activation_relu_or_gelu


def padded_at_the_end() -> np.ndarray:
    return np.arange(L)[None] >= np.array([[L], [2]])


@pytest.mark.filterwarnings(NESTED)
def test_padded_outputs_of_an_encoder() -> None:
    """torch makes nested tensors in evaluation without gradients: other numbers at padded positions only."""
    layer = torch.nn.TransformerEncoderLayer(E, H, 12, 0.0, batch_first=True)
    theirs = randomized(torch.nn.TransformerEncoder(layer, 2)).eval()
    ours = nn.TransformerEncoder(nn.TransformerEncoderLayer(E, H, 12, 0.0, batch_first=True), 2).eval()
    ours.load_state_dict(theirs.state_dict())
    x, hidden = arrays((N, L, E))(0)[0], padded_at_the_end()
    found = ours(x, src_key_padding_mask=hidden)
    assert_close(found, theirs(to_torch(x), src_key_padding_mask=to_torch(hidden)))
    with torch.no_grad():
        nested = theirs(to_torch(x), src_key_padding_mask=to_torch(hidden)).numpy()
    assert_close(np.asarray(found)[~hidden], torch.from_numpy(nested[~hidden]))
    assert not nested[hidden].any()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"batch_first": True},
        {"batch_first": True, "norm_first": True},
        {"batch_first": True, "bias": False},
        {"batch_first": True, "activation": "silu"},
        {"batch_first": True, "nhead": 1},
    ],
    ids=str,
)
def test_nested_tensor_warnings(options: dict[str, Any]) -> None:
    def made(library: Any) -> tuple[list[str], bool]:
        arguments = {"nhead": H, "dim_feedforward": 12, **options}
        if arguments.get("activation"):
            arguments["activation"] = library.functional.silu
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            encoder = library.TransformerEncoder(library.TransformerEncoderLayer(E, **arguments), 1)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            library.TransformerEncoder(library.TransformerEncoderLayer(E, **arguments), 1, enable_nested_tensor=False)
        return [str(w.message) for w in caught], encoder.use_nested_tensor

    assert made(nn) == made(torch.nn)


def test_a_layer_of_another_class() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.self_attn = nn.MultiheadAttention(E, H)

        def forward(self, src: Any, src_mask: Any, src_key_padding_mask: Any, is_causal: bool) -> Any:
            assert is_causal is True
            return src * 2.0

    with pytest.warns(UserWarning, match="encoder_layer was not TransformerEncoderLayer"):
        encoder = nn.TransformerEncoder(Own(), 3)
    assert encoder(np.ones((L, N, E), np.float32), mask=CAUSAL)[0, 0, 0] == 8.0


@pytest.mark.parametrize("kind", ["boolean", "added"])
@pytest.mark.parametrize("stack", ["TransformerEncoder", "TransformerDecoder"])
def test_a_causal_mask_is_found(kind: str, stack: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing said, the mask is looked at, if its values are known; the layers are told. The result is the same."""
    told = []
    original = nn.MultiheadAttention.forward

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        told.append(kwargs.get("is_causal", False))
        return original(self, *args, **kwargs)

    monkeypatch.setattr(nn.MultiheadAttention, "forward", forward)
    encoder = stack == "TransformerEncoder"
    layer = getattr(nn, f"{stack}Layer")(E, H, 12, 0.0, batch_first=True)
    module = getattr(nn, stack)(layer, 1)
    x, memory = arrays((N, L, E), (N, S, E))(0)
    causal = CAUSAL if kind == "boolean" else ADDED
    name = "mask" if encoder else "tgt_mask"
    hint = "is_causal" if encoder else "tgt_is_causal"

    def run(given: Any, said: bool | None) -> tuple[Any, bool]:
        told.clear()
        found = module(x, *(() if encoder else (memory,)), **{name: given, hint: said})
        return found, told[0]

    expected, flag = run(causal, False)
    assert not flag
    for said in (None, True):
        found, flag = run(causal, said)
        assert flag
        assert_close(found, to_torch(expected))
    assert not run(bias(L, L), None)[1]
    assert not run(np.repeat(causal[None], N * H, 0), None)[1]
    assert not run(None, None)[1]
    told.clear()
    traced = jm.jit(lambda module, given: module(x, *(() if encoder else (memory,)), **{name: given}))(module, causal)
    assert told[0] is False  # a traced mask has no values: it is read instead
    assert_close(traced, to_torch(expected))


DECODER_MASKS = {
    "tgt_mask": CAUSAL,
    "memory_mask": mask(L, S),
    "tgt_key_padding_mask": mask(N, L),
    "memory_key_padding_mask": mask(N, S),
}


@pytest.mark.parametrize("names", [(), *itertools.combinations(DECODER_MASKS, 1), tuple(DECODER_MASKS)], ids=str)
def test_decoder_layer(names: tuple[str, ...]) -> None:
    call = {name: DECODER_MASKS[name] for name in names}
    check(*loaded("TransformerDecoderLayer", E, H, 12, 0.0), arrays((L, N, E), (S, N, E))(0), call, 2e-5)


def test_decoder_hints() -> None:
    memory_mask = np.triu(np.ones((L, S), bool), 1)
    call = {"tgt_mask": CAUSAL, "tgt_is_causal": True, "memory_mask": memory_mask, "memory_is_causal": True}
    check(*loaded("TransformerDecoderLayer", E, H, 12, 0.0), arrays((L, N, E), (S, N, E))(0), call, 2e-5)
    with pytest.raises(RuntimeError, match="Need attn_mask"):
        loaded("TransformerDecoderLayer", E, H, 12, 0.0)[0](*arrays((L, N, E), (S, N, E))(0), tgt_is_causal=True)


@pytest.mark.filterwarnings(NOT_NESTED, MISMATCH)
@pytest.mark.parametrize("batched", [True, False])
def test_transformer_with_every_mask(batched: bool) -> None:
    shapes = ((S, N, E), (L, N, E)) if batched else ((S, E), (L, E))
    lead = (N,) if batched else ()
    call = {
        "src_mask": bias(S, S),
        "tgt_mask": ADDED,
        "memory_mask": mask(L, S),
        "src_key_padding_mask": mask(*lead, S),
        "tgt_key_padding_mask": bias(*lead, L),
        "memory_key_padding_mask": mask(*lead, S),
        "src_is_causal": None,
        "tgt_is_causal": False,
        "memory_is_causal": False,
    }
    check(*loaded("Transformer", E, H, 1, 2, 12, 0.0, "gelu"), arrays(*shapes)(0), call, 2e-5)


@pytest.mark.filterwarnings(NOT_NESTED)
def test_custom_encoder_and_decoder() -> None:
    class Encoder(nn.Module):
        def forward(self, src: Any, mask: Any, src_key_padding_mask: Any, is_causal: Any) -> Any:
            return jnp.asarray(src) * 2.0

    class Decoder(nn.Module):
        def forward(self, tgt: Any, memory: Any, **masks: Any) -> Any:
            assert sorted(masks)[:2] == ["memory_is_causal", "memory_key_padding_mask"]
            return tgt + memory.sum()

    model = nn.Transformer(E, H, custom_encoder=Encoder(), custom_decoder=Decoder())
    assert list(model.state_dict()) == []
    assert model(np.ones((1, 1, E), np.float32), np.ones((L, 1, E), np.float32))[0, 0, 0] == 1 + 2 * E


@pytest.mark.filterwarnings(NOT_NESTED)
def test_matrices_of_a_transformer_are_drawn_anew() -> None:
    """U(-k, k) with k = sqrt(6 / (rows + columns)): of in_proj_weight that is another than MultiheadAttention draws."""
    jm.manual_seed(0)
    model = nn.Transformer(32, 2, 1, 1, 64)
    for name, value in model.state_dict().items():
        if value.ndim > 1:
            k = (6 / sum(value.shape)) ** 0.5
            assert 0.95 * k < float(jnp.max(jnp.abs(value))) <= k, name


def test_layers_of_a_stack_begin_alike_and_are_apart() -> None:
    layer = nn.TransformerEncoderLayer(E, H, 12, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 2)
    first, second = (dict(layer.state_dict()) for layer in encoder.layers)
    for name in first:
        assert np.array_equal(first[name], second[name])
        assert np.array_equal(first[name], layer.state_dict()[name])
    encoder.layers[0].linear1.weight.value = jnp.zeros((12, E))
    assert np.asarray(encoder.layers[1].linear1.weight).any()
    assert np.asarray(layer.linear1.weight).any()


@pytest.mark.parametrize("dtype", [None, torch.float32, torch.float16, torch.bool])
def test_square_subsequent_mask(dtype: Any) -> None:
    expected = torch.nn.Transformer.generate_square_subsequent_mask(4, dtype=dtype)
    ours = None if dtype is None else jnp.dtype(str(dtype).removeprefix("torch."))
    found = nn.Transformer.generate_square_subsequent_mask(4, dtype=ours)
    assert str(found.dtype) == str(expected.dtype).removeprefix("torch.")
    assert np.array_equal(np.asarray(found), expected.numpy())
    device = jax.devices()[-1]
    assert nn.Transformer.generate_square_subsequent_mask(4, device=device).devices() == {device}


def test_hooks_of_sublayers_run() -> None:
    layer = nn.TransformerEncoderLayer(E, H, 12, batch_first=True).eval()
    seen = []
    layer.self_attn.register_forward_hook(lambda module, args, output: seen.append(output[0].shape))
    layer(np.ones((N, L, E), np.float32))
    assert seen == [(N, L, E)]

"""Attention and the Transformers. Masks over every argument: tests/parity/test_transformer.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

import jaxmodule as jm
from jaxmodule import nn
from tests.zoo.row import STEPS, Bad, Inputs, Row, zeros


def arrays(*shapes: tuple[int, ...]) -> Inputs:
    """Inputs of these shapes from N(0, 1)."""

    def make(seed: int) -> tuple[np.ndarray, ...]:
        rng = np.random.default_rng((seed, len(shapes)))
        return tuple(rng.standard_normal(shape).astype(np.float32) for shape in shapes)

    return make


def mask(*shape: int) -> np.ndarray:
    """Boolean, True (to ignore) in a third of the places, but not of the first key."""
    hidden = np.random.default_rng(shape).random(shape) < 1 / 3
    hidden[..., 0] = False
    return hidden


def bias(*shape: int) -> np.ndarray:
    """Floating-point, minus infinity where `mask` is True."""
    return np.where(mask(*shape), -np.inf, np.random.default_rng(shape).standard_normal(shape)).astype(np.float32)


@dataclass(frozen=True)
class Stack(Row):
    """A stack, whose first argument is a layer: its class's name and arguments."""

    def make(self, seed: int = 0) -> nn.Module:
        jm.manual_seed(seed)
        return self._of(nn)

    def make_torch(self) -> Any:
        import torch

        return self._of(torch.nn)

    def _of(self, library: Any) -> Any:
        (name, *arguments), *others = self.args
        kwargs = dict(self.kwargs)
        if "norm" in kwargs:
            kwargs["norm"] = library.LayerNorm(kwargs["norm"])
        return getattr(library, self.layer)(getattr(library, name)(*arguments), *others, **kwargs)


_QKV = arrays((4, 2, 8), (5, 2, 8), (5, 2, 8))
_CAUSAL = np.triu(np.ones((4, 4), bool), 1)
_STEPS = {"rtol": 5e-5, "reason": STEPS}
_X, _Y = zeros(4, 2, 8), zeros(5, 2, 8)

MULTIHEAD = [
    Row(
        "MultiheadAttention",
        _QKV,
        (8, 2),
        bad=(
            Bad(ValueError, "must be greater than 0, got embed_dim=0 and num_heads=2", (0, 2)),
            Bad(ValueError, "must be greater than 0", (8, 0)),
            Bad(AssertionError, "embed_dim must be divisible by num_heads, but got 8 and 3", (8, 3)),
            Bad(AssertionError, "received 4-D query tensor", inputs=(zeros(1, 4, 2, 8),) * 3),
            Bad(AssertionError, "expected `key` and `value` to be 3-D", inputs=(_X, _Y[:, 0], _Y[:, 0])),
            Bad(AssertionError, "expected `key` and `value` to be 2-D", inputs=(_X[:, 0], _Y, _Y)),
            Bad(AssertionError, "expecting embedding dimension of 8, but got 6", inputs=(zeros(4, 2, 6), _Y, _Y)),
            Bad(AssertionError, "does not match value shape", inputs=(_X, _Y, _Y[:4])),
            Bad(RuntimeError, r"5, 2, 6\] has 6 features, weight", inputs=(_X, zeros(5, 2, 6), zeros(5, 2, 6))),
            Bad(RuntimeError, "same batch size, but got 2 and 1", inputs=(_X, _Y[:, :1], _Y[:, :1])),
            Bad(RuntimeError, "Need attn_mask", inputs=(_X, _Y, _Y), call={"is_causal": True}),
            *(
                Bad(kind, match, inputs=(_X, _Y, _Y), call={name: value})
                for kind, match, name, value in (
                    (RuntimeError, r"2D attn_mask is \(4, 4\), but should be \(4, 5\)", "attn_mask", mask(4, 4)),
                    (RuntimeError, r"3D attn_mask is \(2, 4, 5\)", "attn_mask", mask(2, 4, 5)),
                    (AssertionError, "to be `None`, 2-D or 3-D but found 1-D", "attn_mask", mask(5)),
                    (AssertionError, "only bool and floating types of attn_mask", "attn_mask", np.zeros((4, 5), int)),
                    (AssertionError, "`key_padding_mask` to be `None` or 2-D", "key_padding_mask", mask(5)),
                    (AssertionError, r"shape\[1\] to be 5, but got 4", "key_padding_mask", mask(2, 4)),
                    (AssertionError, r"shape\[0\] to be 2, but got 3", "key_padding_mask", mask(3, 5)),
                    (AssertionError, "types of key_padding_mask", "key_padding_mask", np.zeros((2, 5), int)),
                )
            ),
        ),
    ),
    Row(
        "MultiheadAttention",
        arrays((2, 4, 8), (2, 5, 6), (2, 5, 3)),
        (8, 4),
        {"kdim": 6, "vdim": 3, "batch_first": True},
        {"need_weights": False, "attn_mask": bias(4, 5)},
        variant=True,
        bad=(
            Bad(
                AssertionError,
                r"expecting key weights shape of \(8, 5\), but got \(8, 6\)",
                inputs=(zeros(2, 4, 8), zeros(2, 5, 5), zeros(2, 5, 3)),
            ),
            Bad(
                AssertionError,
                r"batch dims \(5, 2\) do not match value's \(4, 2\)",
                inputs=(zeros(2, 4, 8), zeros(2, 5, 6), zeros(2, 4, 3)),
            ),
        ),
    ),
    Row(
        "MultiheadAttention",
        _QKV,
        (8, 2),
        {"bias": False, "add_bias_kv": True, "add_zero_attn": True},
        {"attn_mask": mask(4, 4, 5), "key_padding_mask": mask(2, 5), "average_attn_weights": False},
        variant=True,
    ),
    Row(
        "MultiheadAttention",
        arrays((4, 8), (5, 8), (5, 8)),
        (8, 2),
        {"add_zero_attn": True},
        {"attn_mask": bias(2, 4, 5), "key_padding_mask": bias(5)},
        variant=True,
        bad=(
            Bad(
                AssertionError,
                r"`attn_mask` shape to be \(2, 4, 5\) but got \(3, 4, 5\)",
                inputs=(zeros(4, 8), zeros(5, 8), zeros(5, 8)),
                call={"attn_mask": mask(3, 4, 5)},
            ),
        ),
    ),
    Row(
        "MultiheadAttention",
        arrays((4, 2, 8), (4, 2, 8), (4, 2, 8)),
        (8, 2),
        {"add_bias_kv": True},
        {"attn_mask": _CAUSAL, "is_causal": True, "need_weights": False},
        variant=True,
    ),
    Row("MultiheadAttention", _QKV, (8, 2, 0.5), modes_differ=True, random=True, variant=True),
]

_LAYER = {"dropout": 0.0, "batch_first": True}
LAYERS = [
    Row(
        "TransformerEncoderLayer",
        arrays((2, 4, 8)),
        (8, 2, 12),
        _LAYER,
        **_STEPS,
        bad=(
            Bad(RuntimeError, "activation should be relu/gelu, not tanh", (8, 2), {"activation": "tanh"}),
            Bad(AssertionError, "expecting embedding dimension of 8, but got 6", inputs=(zeros(2, 4, 6),)),
            Bad(
                AssertionError, "types of src_mask", inputs=(zeros(2, 4, 8),), call={"src_mask": np.zeros((4, 4), int)}
            ),
            Bad(RuntimeError, "2D attn_mask", inputs=(zeros(2, 4, 8),), call={"src_mask": mask(4, 5)}),
        ),
    ),
    Row(
        "TransformerEncoderLayer",
        arrays((4, 2, 8)),
        (8, 2, 12, 0.0, "gelu"),
        {"layer_norm_eps": 1e-3, "norm_first": True, "bias": False},
        {"src_mask": mask(4, 4), "src_key_padding_mask": mask(2, 4)},
        variant=True,
        **_STEPS,
    ),
    Row(
        "TransformerEncoderLayer",
        arrays((4, 2, 8)),
        (8, 2, 12, 0.3),
        modes_differ=True,
        random=True,
        variant=True,
        **_STEPS,
    ),
    Row(
        "TransformerDecoderLayer",
        arrays((2, 4, 8), (2, 5, 8)),
        (8, 2, 12),
        _LAYER,
        **_STEPS,
        bad=(
            Bad(RuntimeError, "activation should be relu/gelu, not tanh", (8, 2), {"activation": "tanh"}),
            Bad(AssertionError, "expecting embedding dimension of 8", inputs=(zeros(2, 4, 6), zeros(2, 5, 8))),
            Bad(
                RuntimeError,
                "2D attn_mask",
                inputs=(zeros(2, 4, 8), zeros(2, 5, 8)),
                call={"memory_mask": mask(4, 4)},
            ),
        ),
    ),
    Row(
        "TransformerDecoderLayer",
        arrays((4, 2, 8), (5, 2, 8)),
        (8, 2, 12, 0.0, "gelu"),
        {"layer_norm_eps": 1e-3, "norm_first": True, "bias": False},
        {
            "tgt_mask": _CAUSAL,
            "memory_mask": bias(4, 5),
            "tgt_key_padding_mask": mask(2, 4),
            "memory_key_padding_mask": bias(2, 5),
        },
        variant=True,
        **_STEPS,
    ),
    Row(
        "Transformer",
        arrays((2, 5, 8), (2, 4, 8)),
        (8, 2, 1, 1, 12),
        _LAYER,
        {"tgt_mask": _CAUSAL, "src_key_padding_mask": mask(2, 5), "memory_key_padding_mask": mask(2, 5)},
        **_STEPS,
        bad=(
            Bad(RuntimeError, "batch number of src and tgt must be equal", inputs=(zeros(2, 5, 8), zeros(3, 4, 8))),
            Bad(RuntimeError, "equal to d_model=8", inputs=(zeros(2, 5, 8), zeros(2, 4, 6))),
        ),
    ),
]

STACKS = [
    Stack(
        "TransformerEncoder",
        arrays((2, 4, 8)),
        (("TransformerEncoderLayer", 8, 2, 12, 0.0, "relu", 1e-5, True), 2),
        {"norm": 8},
        {"src_key_padding_mask": mask(2, 4)},
        **_STEPS,
        bad=(
            Bad(AssertionError, "types of mask", inputs=(zeros(2, 4, 8),), call={"mask": np.zeros((4, 4), int)}),
            Bad(AssertionError, "expecting embedding dimension of 8, but got 6", inputs=(zeros(2, 4, 6),)),
        ),
    ),
    Stack(
        "TransformerEncoder",
        arrays((4, 2, 8)),
        (("TransformerEncoderLayer", 8, 2, 12, 0.0), 1),
        {"enable_nested_tensor": False, "mask_check": False},
        {"mask": bias(4, 4)},
        variant=True,
        **_STEPS,
    ),
    Stack(
        "TransformerDecoder",
        arrays((2, 4, 8), (2, 5, 8)),
        (("TransformerDecoderLayer", 8, 2, 12, 0.0, "relu", 1e-5, True), 2),
        {"norm": 8},
        {"tgt_mask": _CAUSAL},
        **_STEPS,
        bad=(
            Bad(AssertionError, "expecting embedding dimension of 8", inputs=(zeros(2, 4, 6), zeros(2, 5, 8))),
            Bad(AssertionError, "`key` and `value` to be 3-D", inputs=(zeros(2, 4, 8), zeros(5, 8))),
        ),
    ),
]

ROWS = MULTIHEAD + LAYERS + STACKS
# No STATEFUL: torch gives these no public reset_parameters, and the stacks no device and dtype. What that list is for:
# tests/parity/test_transformer.py.

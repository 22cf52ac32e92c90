"""A stack of encoder layers and one of decoder layers."""

from __future__ import annotations

import copy
import warnings

import jax

from ...core.box import unbox
from ..functional._attention_masks import canonical_masks
from ..functional._common import ArrayLike
from ..module import Module
from ._transformer_layers import TransformerEncoderLayer, _detect_is_causal_mask
from .container import ModuleList

__all__ = ["TransformerDecoder", "TransformerEncoder"]


class TransformerEncoder(Module):
    """Encoder layers, one after the other, each a copy of `encoder_layer`.

    Args:
        encoder_layer: the layer to copy, a `TransformerEncoderLayer` or what is called like one.
        num_layers: how many.
        norm: a last layer, or None.
        enable_nested_tensor: for torch's signature. See Note.
        mask_check: for torch's signature. See Note.

    Shape:
        - Source and output: `(S, N, E)`, with `batch_first` in the layers `(N, S, E)`, without a batch `(S, E)`.
        - `mask`: `(S, S)` or `(N H, S, S)`; `src_key_padding_mask`: `(N, S)` or `(S)`. True, or minus infinity, hides.

    Raises:
        AssertionError: on call, ranks or sizes don't fit.
        RuntimeError: on call, a mask has another shape than it should.

    Note:
        All layers begin with the parameters of the one copied, as torch's do.
        JAX has no nested tensors: `enable_nested_tensor` and `mask_check` change nothing but torch's warning, which
        tells that it would not use them, either. Where torch does (evaluation without gradients, padding at the end),
        the outputs at padded positions, which mean nothing, are 0 before `norm`; here they are what they are in
        training.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
        >>> nn.TransformerEncoder(layer, 2)(jnp.ones((3, 5, 16))).shape
        (3, 5, 16)
    """

    def __init__(
        self,
        encoder_layer: Module,
        num_layers: int,
        norm: Module | None = None,
        enable_nested_tensor: bool = True,
        mask_check: bool = True,
    ) -> None:
        super().__init__()
        self.layers = _get_clones(encoder_layer, num_layers)
        self.num_layers = num_layers
        self.norm = norm
        self.enable_nested_tensor = enable_nested_tensor
        why_not = _why_no_nested_tensor(encoder_layer)
        self.use_nested_tensor = enable_nested_tensor and not why_not
        self.mask_check = mask_check
        if enable_nested_tensor and why_not:
            warnings.warn(
                f"enable_nested_tensor is True, but self.use_nested_tensor is False because {why_not}", stacklevel=2
            )

    def forward(
        self,
        src: ArrayLike,
        mask: ArrayLike | None = None,
        src_key_padding_mask: ArrayLike | None = None,
        is_causal: bool | None = None,
    ) -> jax.Array:
        """Apply the layers in turn.

        Args:
            src: the sequence.
            mask: pairs to ignore.
            src_key_padding_mask: keys to ignore.
            is_causal: a hint that `mask` is the causal one; None to look, which a mask of known values allows.
        """
        output = unbox(src)
        pairs, padding = unbox(mask), unbox(src_key_padding_mask)
        padding, pairs = canonical_masks(padding, "src_key_padding_mask", pairs, "mask", output.dtype)
        causal = _detect_is_causal_mask(pairs, is_causal, _get_seq_len(output, self.layers[0].self_attn.batch_first))
        for layer in self.layers:
            output = layer(output, src_mask=pairs, is_causal=causal, src_key_padding_mask=padding)
        return output if self.norm is None else self.norm(output)


class TransformerDecoder(Module):
    """Decoder layers, one after the other, each a copy of `decoder_layer`.

    Args:
        decoder_layer: the layer to copy, a `TransformerDecoderLayer` or what is called like one.
        num_layers: how many.
        norm: a last layer, or None.

    Shape:
        - Target and output: `(T, N, E)`; memory: `(S, N, E)`; with `batch_first` in the layers the batch is first, and
          it may be missing.
        - Masks: as in `Transformer`.

    Raises:
        AssertionError: on call, ranks or sizes don't fit.
        RuntimeError: on call, a mask has another shape than it should.

    Note:
        All layers begin with the parameters of the one copied, as torch's do.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> layer = nn.TransformerDecoderLayer(16, 4, 32, batch_first=True)
        >>> nn.TransformerDecoder(layer, 2)(jnp.ones((3, 5, 16)), jnp.ones((3, 7, 16))).shape
        (3, 5, 16)
    """

    def __init__(self, decoder_layer: Module, num_layers: int, norm: Module | None = None) -> None:
        super().__init__()
        self.layers = _get_clones(decoder_layer, num_layers)
        self.num_layers = num_layers
        self.norm = norm

    def forward(
        self,
        tgt: ArrayLike,
        memory: ArrayLike,
        tgt_mask: ArrayLike | None = None,
        memory_mask: ArrayLike | None = None,
        tgt_key_padding_mask: ArrayLike | None = None,
        memory_key_padding_mask: ArrayLike | None = None,
        tgt_is_causal: bool | None = None,
        memory_is_causal: bool = False,
    ) -> jax.Array:
        """Apply the layers in turn.

        Args:
            tgt: the sequence.
            memory: what the encoder gave.
            tgt_mask: pairs of `tgt` to ignore.
            memory_mask: pairs of `tgt` and `memory` to ignore.
            tgt_key_padding_mask: keys of `tgt` to ignore.
            memory_key_padding_mask: keys of `memory` to ignore.
            tgt_is_causal: a hint that `tgt_mask` is the causal one; None to look, which a mask of known values allows.
            memory_is_causal: the same of `memory_mask`.
        """
        output, pairs = unbox(tgt), unbox(tgt_mask)
        causal = _detect_is_causal_mask(
            pairs, tgt_is_causal, _get_seq_len(output, self.layers[0].self_attn.batch_first)
        )
        memory = unbox(memory)
        for layer in self.layers:
            output = layer(
                output,
                memory,
                tgt_mask=pairs,
                memory_mask=memory_mask,
                tgt_key_padding_mask=tgt_key_padding_mask,
                memory_key_padding_mask=memory_key_padding_mask,
                tgt_is_causal=causal,
                memory_is_causal=memory_is_causal,
            )
        return output if self.norm is None else self.norm(output)


def _get_clones(module: Module, N: int) -> ModuleList:
    return ModuleList([copy.deepcopy(module) for _ in range(N)])


def _get_seq_len(src: ArrayLike, batch_first: bool) -> int:
    """The length of a sequence that is with or without a batch."""
    return src.shape[1 if src.ndim > 2 and batch_first else 0]


def _why_no_nested_tensor(layer: Module) -> str:
    """Why torch would not make nested tensors for this layer; empty if it would."""
    if not isinstance(layer, TransformerEncoderLayer):
        return "encoder_layer was not TransformerEncoderLayer"
    if layer.norm_first:
        return "encoder_layer.norm_first was True"
    attention = layer.self_attn
    if not attention.batch_first:
        return "encoder_layer.self_attn.batch_first was not True(use batch_first for better inference performance)"
    if not attention._qkv_same_embed_dim:
        return "encoder_layer.self_attn._qkv_same_embed_dim was not True"
    if attention.in_proj_bias is None:
        return "encoder_layer.self_attn was passed bias=False"
    if not layer.activation_relu_or_gelu:
        return "encoder_layer.activation_relu_or_gelu was not True"
    if layer.norm1.eps != layer.norm2.eps:
        return "encoder_layer.norm1.eps was not equal to encoder_layer.norm2.eps"
    return "encoder_layer.self_attn.num_heads is odd" if attention.num_heads % 2 else ""

"""The Transformer of "Attention Is All You Need": the whole model, and its encoder and decoder."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from ...core.box import unbox
from ...core.device import place_of
from .. import functional as F
from .. import init
from ..functional._common import ArrayLike
from ..module import Module
from ._transformer_layers import (
    Activation,
    TransformerDecoderLayer,
    TransformerEncoderLayer,
    _detect_is_causal_mask,  # noqa: F401  (torch has them here)
    _get_activation_fn,  # noqa: F401
    causal_mask,
)
from ._transformer_stacks import (
    TransformerDecoder,
    TransformerEncoder,
    _get_clones,  # noqa: F401
    _get_seq_len,  # noqa: F401
)
from .normalization import LayerNorm
from .utils import Placement

__all__ = [
    "Transformer",
    "TransformerDecoder",
    "TransformerDecoderLayer",
    "TransformerEncoder",
    "TransformerEncoderLayer",
]


class Transformer(Module):
    """An encoder, and a decoder that reads what it gives (Vaswani et al., 2017).

    Args:
        d_model: the number of features `E`.
        nhead: the number of heads `H` of each attention.
        num_encoder_layers: how many encoder layers.
        num_decoder_layers: how many decoder layers.
        dim_feedforward: the hidden size of the feedforward networks.
        dropout: the probability of each dropout.
        activation: of the feedforward networks: "relu", "gelu", or a function.
        custom_encoder: take this in the place of a `TransformerEncoder`.
        custom_decoder: take this in the place of a `TransformerDecoder`.
        layer_norm_eps: added to the variances of the layer norms.
        batch_first: whether the batch is the first dimension, not the second.
        norm_first: whether the layer norms come before what they norm, inside of the residual.
        bias: whether the linear maps and layer norms have biases.
        device: where the parameters live, a device or a sharding.
        dtype: the parameters' dtype, float32 by default.

    Shape:
        - Source: `(S, N, E)`; target and output: `(T, N, E)`; with `batch_first` `(N, S, E)`, ...; without a batch
          `(S, E)`, ....
        - `src_mask`: `(S, S)` or `(N H, S, S)`; `tgt_mask`: `(T, T)` or `(N H, T, T)`; `memory_mask`: `(T, S)` or
          `(N H, T, S)`; padding masks: `(N, S)`, `(N, T)`, `(N, S)`, without a batch `(S)`, .... Boolean, True where a
          key is ignored, or added to the scores.

    Attributes:
        encoder: a `TransformerEncoder`; every matrix from U(-k, k) with `k = (6 / (rows + columns)) ** 0.5`.
        decoder: a `TransformerDecoder`, the same.

    Raises:
        RuntimeError: on call, source and target differ in their batch, or have not `d_model` features; `activation` is
            another name.
        AssertionError: on call, ranks or sizes don't fit.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> model = nn.Transformer(16, 4, 1, 1, 32, batch_first=True)
        >>> mask = nn.Transformer.generate_square_subsequent_mask(7)
        >>> model(jnp.ones((2, 5, 16)), jnp.ones((2, 7, 16)), tgt_mask=mask).shape
        (2, 7, 16)
    """

    def __init__(
        self,
        d_model: int = 512,
        nhead: int = 8,
        num_encoder_layers: int = 6,
        num_decoder_layers: int = 6,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: Activation = F.relu,
        custom_encoder: Any | None = None,
        custom_decoder: Any | None = None,
        layer_norm_eps: float = 1e-5,
        batch_first: bool = False,
        norm_first: bool = False,
        bias: bool = True,
        device: Placement | None = None,
        dtype: DTypeLike | None = None,
    ) -> None:
        super().__init__()
        shared = (d_model, nhead, dim_feedforward, dropout, activation, layer_norm_eps, batch_first, norm_first, bias)
        if custom_encoder is None:
            layer = TransformerEncoderLayer(*shared, device=device, dtype=dtype)
            norm = LayerNorm(d_model, eps=layer_norm_eps, bias=bias, device=device, dtype=dtype)
            self.encoder = TransformerEncoder(layer, num_encoder_layers, norm)
        else:
            self.encoder = custom_encoder
        if custom_decoder is None:
            layer = TransformerDecoderLayer(*shared, device=device, dtype=dtype)
            norm = LayerNorm(d_model, eps=layer_norm_eps, bias=bias, device=device, dtype=dtype)
            self.decoder = TransformerDecoder(layer, num_decoder_layers, norm)
        else:
            self.decoder = custom_decoder
        self._reset_parameters()
        self.d_model = d_model
        self.nhead = nhead
        self.batch_first = batch_first

    def _reset_parameters(self) -> None:
        for parameter in self.parameters():
            if parameter.ndim > 1:
                init.xavier_uniform_(parameter)

    def forward(
        self,
        src: ArrayLike,
        tgt: ArrayLike,
        src_mask: ArrayLike | None = None,
        tgt_mask: ArrayLike | None = None,
        memory_mask: ArrayLike | None = None,
        src_key_padding_mask: ArrayLike | None = None,
        tgt_key_padding_mask: ArrayLike | None = None,
        memory_key_padding_mask: ArrayLike | None = None,
        src_is_causal: bool | None = None,
        tgt_is_causal: bool | None = None,
        memory_is_causal: bool = False,
    ) -> jax.Array:
        """Encode `src`, and decode `tgt` beside it.

        Args:
            src: the sequence to encode.
            tgt: the sequence to decode.
            src_mask: pairs of `src` to ignore.
            tgt_mask: pairs of `tgt` to ignore.
            memory_mask: pairs of `tgt` and the encoded `src` to ignore.
            src_key_padding_mask: keys of `src` to ignore.
            tgt_key_padding_mask: keys of `tgt` to ignore.
            memory_key_padding_mask: keys of the encoded `src` to ignore.
            src_is_causal: a hint that `src_mask` is the causal one; None to look, which a mask of known values allows.
            tgt_is_causal: the same of `tgt_mask`.
            memory_is_causal: the same of `memory_mask`, where False is not to look.
        """
        source, target = unbox(src), unbox(tgt)
        axis = 0 if self.batch_first else 1
        if source.ndim == 3 and source.shape[axis] != target.shape[axis]:
            raise RuntimeError(
                "the batch number of src and tgt must be equal, but got "
                f"{source.shape[axis]} and {target.shape[axis]}: src {list(source.shape)}, tgt {list(target.shape)}"
            )
        if source.shape[-1] != self.d_model or target.shape[-1] != self.d_model:
            raise RuntimeError(
                f"the feature number of src and tgt must be equal to d_model={self.d_model}, but got "
                f"src {list(source.shape)}, tgt {list(target.shape)}"
            )
        memory = self.encoder(source, mask=src_mask, src_key_padding_mask=src_key_padding_mask, is_causal=src_is_causal)
        return self.decoder(
            target,
            memory,
            tgt_mask=tgt_mask,
            memory_mask=memory_mask,
            tgt_key_padding_mask=tgt_key_padding_mask,
            memory_key_padding_mask=memory_key_padding_mask,
            tgt_is_causal=tgt_is_causal,
            memory_is_causal=memory_is_causal,
        )

    @staticmethod
    def generate_square_subsequent_mask(
        sz: int, device: Placement | None = None, dtype: DTypeLike | None = None
    ) -> jax.Array:
        """The causal mask `(sz, sz)`: minus infinity above the diagonal, else 0.

        Args:
            sz: the length of the sequence.
            device: where the mask lives.
            dtype: its dtype, float32 by default.

        Example:
            >>> from jaxmodule import nn
            >>> nn.Transformer.generate_square_subsequent_mask(2).tolist()
            [[0.0, -inf], [0.0, 0.0]]
        """
        return _generate_square_subsequent_mask(sz, device, dtype)


def _generate_square_subsequent_mask(
    sz: int, device: Placement | None = None, dtype: DTypeLike | None = None
) -> jax.Array:
    mask = jnp.asarray(causal_mask(sz, jnp.float32 if dtype is None else jnp.dtype(dtype)))
    return mask if device is None else jax.device_put(mask, place_of(device))

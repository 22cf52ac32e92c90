"""One layer of an encoder and one of a decoder."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import jax
import numpy as np
from jax.typing import DTypeLike

from ...core.box import unbox
from ...core.context import Tracer
from .. import functional as F
from ..functional._attention_masks import canonical_masks
from ..functional._common import ArrayLike
from ..module import Module
from ._attention import MultiheadAttention
from .activation import GELU, ReLU
from .dropout import Dropout
from .linear import Linear
from .normalization import LayerNorm
from .utils import Placement

__all__ = [
    "Activation",
    "TransformerDecoderLayer",
    "TransformerEncoderLayer",
    "causal_mask",
]

Activation = str | Callable[[jax.Array], jax.Array]
Mask = ArrayLike | None


class _TransformerLayer(Module):
    """Attentions and a feedforward network, each with a dropout, a residual connection and a layer norm."""

    _attentions: ClassVar[tuple[str, ...]]
    self_attn: MultiheadAttention
    norm1: LayerNorm
    norm2: LayerNorm
    dropout1: Dropout
    dropout2: Dropout
    activation: Callable[[jax.Array], jax.Array]

    def __init__(
        self,
        d_model: int,
        nhead: int,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: Activation = F.relu,
        layer_norm_eps: float = 1e-5,
        batch_first: bool = False,
        norm_first: bool = False,
        bias: bool = True,
        device: Placement | None = None,
        dtype: DTypeLike | None = None,
    ) -> None:
        super().__init__()
        place = {"device": device, "dtype": dtype}
        blocks = range(1, len(self._attentions) + 2)
        for name in self._attentions:
            setattr(
                self,
                name,
                MultiheadAttention(d_model, nhead, dropout=dropout, bias=bias, batch_first=batch_first, **place),
            )
        self.linear1 = Linear(d_model, dim_feedforward, bias=bias, **place)
        self.dropout = Dropout(dropout)
        self.linear2 = Linear(dim_feedforward, d_model, bias=bias, **place)
        self.norm_first = norm_first
        for i in blocks:
            setattr(self, f"norm{i}", LayerNorm(d_model, eps=layer_norm_eps, bias=bias, **place))
        for i in blocks:
            setattr(self, f"dropout{i}", Dropout(dropout))
        self.activation = _get_activation_fn(activation) if isinstance(activation, str) else activation

    def _residual(self, x: jax.Array, norm: LayerNorm, block: Callable[[jax.Array], jax.Array]) -> jax.Array:
        return x + block(norm(x)) if self.norm_first else norm(x + block(x))

    def _sa_block(self, x: jax.Array, attn_mask: Mask, key_padding_mask: Mask, is_causal: bool = False) -> jax.Array:
        attended = self.self_attn(
            x,
            x,
            x,
            attn_mask=attn_mask,
            key_padding_mask=key_padding_mask,
            need_weights=False,
            is_causal=is_causal,
        )
        return self.dropout1(attended[0])

    def _feedforward(self, x: jax.Array) -> jax.Array:
        return self.linear2(self.dropout(self.activation(self.linear1(x))))


class TransformerEncoderLayer(_TransformerLayer):
    """Self-attention and a feedforward network: `x = norm(x + attention(x))`, `x = norm(x + W_2 f(W_1 x))`.

    Args:
        d_model: the number of features `E`.
        nhead: the number of heads `H`.
        dim_feedforward: the hidden size of the feedforward network.
        dropout: the probability of each dropout.
        activation: `f`: "relu", "gelu", or a function.
        layer_norm_eps: added to the variances of the layer norms.
        batch_first: whether the batch is the first dimension, not the second.
        norm_first: `x = x + attention(norm(x))`, ... (Xiong et al., 2020).
        bias: whether the linear maps and layer norms have biases.
        device: where the parameters live, a device or a sharding.
        dtype: the parameters' dtype, float32 by default.

    Shape:
        - Source and output: `(S, N, E)`, with `batch_first` `(N, S, E)`, without a batch `(S, E)`.
        - `src_mask`: `(S, S)` or `(N H, S, S)`; `src_key_padding_mask`: `(N, S)` or `(S)`. Boolean, True where a key is
          ignored, or added to the scores.

    Attributes:
        self_attn: a `MultiheadAttention`.
        linear1: `W_1`, a `Linear`.
        linear2: `W_2`, a `Linear`.
        norm1: the attention's `LayerNorm`.
        norm2: the feedforward network's `LayerNorm`.

    Raises:
        RuntimeError: `activation` is another name; on call, a mask has another shape than it should.
        AssertionError: on call, ranks or sizes don't fit.

    Note:
        There is one path for training and evaluation: the numbers of torch's "fast path" are the same.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)(jnp.ones((3, 5, 16))).shape
        (3, 5, 16)
    """

    _attentions = ("self_attn",)

    def __init__(
        self,
        d_model: int,
        nhead: int,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: Activation = F.relu,
        layer_norm_eps: float = 1e-5,
        batch_first: bool = False,
        norm_first: bool = False,
        bias: bool = True,
        device: Placement | None = None,
        dtype: DTypeLike | None = None,
    ) -> None:
        super().__init__(
            d_model,
            nhead,
            dim_feedforward,
            dropout,
            activation,
            layer_norm_eps,
            batch_first,
            norm_first,
            bias,
            device,
            dtype,
        )
        function = self.activation
        is_relu, is_gelu = function is F.relu or isinstance(function, ReLU), function is F.gelu
        self.activation_relu_or_gelu = 1 if is_relu else 2 if is_gelu or isinstance(function, GELU) else 0

    def forward(
        self, src: ArrayLike, src_mask: Mask = None, src_key_padding_mask: Mask = None, is_causal: bool = False
    ) -> jax.Array:
        """Apply the layer.

        Args:
            src: the sequence.
            src_mask: pairs to ignore.
            src_key_padding_mask: keys to ignore.
            is_causal: a hint that `src_mask`, which must be given, is the causal one.
        """
        x = unbox(src)
        padding, pairs = canonical_masks(
            unbox(src_key_padding_mask), "src_key_padding_mask", unbox(src_mask), "src_mask", x.dtype
        )
        x = self._residual(x, self.norm1, lambda x: self._sa_block(x, pairs, padding, is_causal=is_causal))
        return self._residual(x, self.norm2, self._ff_block)

    def _ff_block(self, x: jax.Array) -> jax.Array:
        return self.dropout2(self._feedforward(x))


class TransformerDecoderLayer(_TransformerLayer):
    """Self-attention, attention to a memory, and a feedforward network, each as `x = norm(x + block(x))`.

    Args:
        d_model: the number of features `E`.
        nhead: the number of heads `H`.
        dim_feedforward: the hidden size of the feedforward network.
        dropout: the probability of each dropout.
        activation: of the feedforward network: "relu", "gelu", or a function.
        layer_norm_eps: added to the variances of the layer norms.
        batch_first: whether the batch is the first dimension, not the second.
        norm_first: `x = x + block(norm(x))` (Xiong et al., 2020).
        bias: whether the linear maps and layer norms have biases.
        device: where the parameters live, a device or a sharding.
        dtype: the parameters' dtype, float32 by default.

    Shape:
        - Target and output: `(T, N, E)`; memory: `(S, N, E)`; with `batch_first` the batch is first; it may be missing.
        - Masks: as in `Transformer`.

    Attributes:
        self_attn: a `MultiheadAttention`.
        multihead_attn: the attention to the memory, another.
        linear1: the feedforward network's first `Linear`.
        linear2: its second.
        norm1: the self-attention's `LayerNorm`.
        norm2: that of the attention to the memory.
        norm3: that of the feedforward network.

    Raises:
        RuntimeError: `activation` is another name; on call, a mask has another shape than it should.
        AssertionError: on call, ranks or sizes don't fit.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> layer = nn.TransformerDecoderLayer(16, 4, 32, batch_first=True)
        >>> layer(jnp.ones((3, 5, 16)), jnp.ones((3, 7, 16))).shape
        (3, 5, 16)
    """

    _attentions = ("self_attn", "multihead_attn")
    multihead_attn: MultiheadAttention
    norm3: LayerNorm
    dropout3: Dropout

    def forward(
        self,
        tgt: ArrayLike,
        memory: ArrayLike,
        tgt_mask: Mask = None,
        memory_mask: Mask = None,
        tgt_key_padding_mask: Mask = None,
        memory_key_padding_mask: Mask = None,
        tgt_is_causal: bool = False,
        memory_is_causal: bool = False,
    ) -> jax.Array:
        """Apply the layer.

        Args:
            tgt: the sequence.
            memory: what the encoder gave.
            tgt_mask: pairs of `tgt` to ignore.
            memory_mask: pairs of `tgt` and `memory` to ignore.
            tgt_key_padding_mask: keys of `tgt` to ignore.
            memory_key_padding_mask: keys of `memory` to ignore.
            tgt_is_causal: a hint that `tgt_mask`, which must be given, is the causal one.
            memory_is_causal: the same of `memory_mask`.
        """
        x, seen = unbox(tgt), unbox(memory)

        def attend(x: jax.Array) -> jax.Array:
            return self._sa_block(x, tgt_mask, tgt_key_padding_mask, tgt_is_causal)

        def read(x: jax.Array) -> jax.Array:
            return self._mha_block(x, seen, memory_mask, memory_key_padding_mask, memory_is_causal)

        x = self._residual(x, self.norm1, attend)
        x = self._residual(x, self.norm2, read)
        return self._residual(x, self.norm3, self._ff_block)

    def _mha_block(
        self, x: jax.Array, mem: jax.Array, attn_mask: Mask, key_padding_mask: Mask, is_causal: bool = False
    ) -> jax.Array:
        attended = self.multihead_attn(
            x,
            mem,
            mem,
            attn_mask=attn_mask,
            key_padding_mask=key_padding_mask,
            need_weights=False,
            is_causal=is_causal,
        )
        return self.dropout2(attended[0])

    def _ff_block(self, x: jax.Array) -> jax.Array:
        return self.dropout3(self._feedforward(x))


def _get_activation_fn(activation: str) -> Callable[[jax.Array], jax.Array]:
    if activation not in ("relu", "gelu"):
        raise RuntimeError(f"activation should be relu/gelu, not {activation}: or give the function itself")
    return F.relu if activation == "relu" else F.gelu


def causal_mask(size: int, dtype: DTypeLike) -> np.ndarray:
    """Minus infinity (True in a boolean mask) above the diagonal, else 0."""
    return np.triu(np.full((size, size), -np.inf if np.dtype(dtype) != np.bool_ else True, dtype), 1)


def _detect_is_causal_mask(mask: Mask, is_causal: bool | None = None, size: int | None = None) -> bool:
    """Whether a mask is said or, where nothing is said and its values are known, found to be the causal one."""
    found = unbox(mask)
    if is_causal is not None or found is None:
        return is_causal is True
    rows = found.shape[-2] if size is None else size
    if found.shape != (rows, rows) or isinstance(found, Tracer) or not found.is_fully_addressable:
        return False
    return bool((np.asarray(found) == causal_mask(rows, found.dtype)).all())

"""Multi-head attention; torch has the class in its activation.py, which is where it is public here too."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from ...core.box import unbox
from .. import init
from ..functional._attention_masks import hiding
from ..functional._common import ArrayLike
from ..functional._multi_head import MHAWeights
from ..functional.multi_head_attention import mha
from ..module import Module
from ..parameter import Parameter
from .linear import NonDynamicallyQuantizableLinear
from .utils import Placement, empty_parameter

__all__ = ["MultiheadAttention"]


class MultiheadAttention(Module):
    r"""`concat(softmax(q_h k_h^T / sqrt(d)) v_h) W_o^T` over heads `h` (Vaswani et al., 2017).

    Queries, keys and values of each head are linear maps of the inputs.

    Args:
        embed_dim: the size `E` of query and output.
        num_heads: the number of heads `H`; each has size `d = E / H`.
        dropout: the probability with which a weight is dropped, when training.
        bias: whether the maps have biases.
        add_bias_kv: whether there is one more key and value, learned.
        add_zero_attn: whether there is one more key and value of zeros.
        kdim: the size `E_k` of a key, `E` by default.
        vdim: the size `E_v` of a value, `E` by default.
        batch_first: whether the batch is the first dimension, not the second.
        device: where the parameters live, a device or a sharding.
        dtype: the parameters' dtype, float32 by default.

    Shape:
        - Query: `(L, N, E)`, key: `(S, N, E_k)`, value: `(S, N, E_v)`; with `batch_first` `(N, L, E)`, ...; without a
          batch `(L, E)`, ....
        - `key_padding_mask`: `(N, S)` or `(S)`; `attn_mask`: `(L, S)` or `(N H, L, S)`. Boolean, True where a key is
          ignored, or added to the scores.
        - Output: of the query's shape, and weights `(N, L, S)`, with heads `(N, H, L, S)`; None if not needed.

    Attributes:
        in_proj_weight: `(3 E, E)`, the maps of query, key and value below each other, from
            U(-k, k) with `k = (6 / (4 E)) ** 0.5`; None where `kdim` or `vdim` differ.
        q_proj_weight: `(E, E)`, where they differ, with `k_proj_weight`: `(E, E_k)` and `v_proj_weight`: `(E, E_v)`,
            each from U(-k, k) with `k = (6 / (rows + columns)) ** 0.5`.
        in_proj_bias: `(3 E)`, 0 at first, or None.
        out_proj: the last map, a `Linear` whose bias is 0 at first.
        bias_k: `(1, 1, E)`, from N(0, `2 / (E + E)`), or None; as `bias_v`.

    Raises:
        ValueError: a size is not positive.
        AssertionError: `num_heads` doesn't divide `embed_dim`; on call, ranks or sizes don't fit.
        RuntimeError: on call, a mask has another shape than it should.

    Note:
        There is one path for training and evaluation: torch's "fast path" of evaluation without gradients gives the
        same numbers, but for queries that see no key (NaN here with `need_weights`, else 0).

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> x = jnp.ones((2, 5, 16))
        >>> y, weights = nn.MultiheadAttention(16, 4, batch_first=True)(x, x, x)
        >>> y.shape, weights.shape
        ((2, 5, 16), (2, 5, 5))
    """

    in_proj_weight: Parameter | None
    q_proj_weight: Parameter | None
    k_proj_weight: Parameter | None
    v_proj_weight: Parameter | None
    in_proj_bias: Parameter | None
    bias_k: Parameter | None
    bias_v: Parameter | None

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        add_bias_kv: bool = False,
        add_zero_attn: bool = False,
        kdim: int | None = None,
        vdim: int | None = None,
        batch_first: bool = False,
        device: Placement | None = None,
        dtype: DTypeLike | None = None,
    ) -> None:
        if embed_dim <= 0 or num_heads <= 0:
            raise ValueError(
                "embed_dim and num_heads must be greater than 0, "
                f"got embed_dim={embed_dim} and num_heads={num_heads} instead"
            )
        super().__init__()
        self.embed_dim = embed_dim
        self.kdim = embed_dim if kdim is None else kdim
        self.vdim = embed_dim if vdim is None else vdim
        self._qkv_same_embed_dim = self.kdim == self.vdim == embed_dim
        self.num_heads = num_heads
        self.dropout = dropout
        self.batch_first = batch_first
        self.head_dim = embed_dim // num_heads
        if self.head_dim * num_heads != embed_dim:
            raise AssertionError(f"embed_dim must be divisible by num_heads, but got {embed_dim} and {num_heads}")
        same = self._qkv_same_embed_dim
        shapes = {
            "q_proj_weight": None if same else (embed_dim, embed_dim),
            "k_proj_weight": None if same else (embed_dim, self.kdim),
            "v_proj_weight": None if same else (embed_dim, self.vdim),
            "in_proj_weight": (3 * embed_dim, embed_dim) if same else None,
            "in_proj_bias": (3 * embed_dim,) if bias else None,
        }
        # torch's order of registration, which is that of the state_dict
        for name in sorted(shapes, key=lambda name: shapes[name] is None):
            self.register_parameter(name, self._made(shapes[name], device, dtype))
        self.out_proj = NonDynamicallyQuantizableLinear(embed_dim, embed_dim, bias, device, dtype)
        for name in ("bias_k", "bias_v"):
            self.register_parameter(name, self._made((1, 1, embed_dim) if add_bias_kv else None, device, dtype))
        self.add_zero_attn = add_zero_attn
        self._reset_parameters()

    @staticmethod
    def _made(shape: tuple[int, ...] | None, device: Placement | None, dtype: DTypeLike | None) -> Parameter | None:
        return None if shape is None else empty_parameter(shape, device, dtype)

    def _reset_parameters(self) -> None:
        for weight in (self.in_proj_weight, self.q_proj_weight, self.k_proj_weight, self.v_proj_weight):
            if weight is not None:
                init.xavier_uniform_(weight)
        for bias in (self.in_proj_bias, self.out_proj.bias):
            if bias is not None:
                init.zeros_(bias)
        for extra in (self.bias_k, self.bias_v):
            if extra is not None:
                init.xavier_normal_(extra)

    def forward(
        self,
        query: ArrayLike,
        key: ArrayLike,
        value: ArrayLike,
        key_padding_mask: ArrayLike | None = None,
        need_weights: bool = True,
        attn_mask: ArrayLike | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[jax.Array, jax.Array | None]:
        """Attend: the output, and the weights or None.

        Args:
            query: what asks.
            key: what is compared with it; the same object for several of the three is projected once.
            value: what is averaged.
            key_padding_mask: keys to ignore.
            need_weights: whether to return the weights. Without them long sequences cost less memory.
            attn_mask: pairs to ignore.
            average_attn_weights: whether the weights are averaged over the heads.
            is_causal: a hint that `attn_mask`, which must be given, is the causal one.
        """
        weights = MHAWeights(
            in_proj=unbox(self.in_proj_weight),
            in_bias=unbox(self.in_proj_bias),
            q_proj=unbox(self.q_proj_weight),
            k_proj=unbox(self.k_proj_weight),
            v_proj=unbox(self.v_proj_weight),
            bias_k=unbox(self.bias_k),
            bias_v=unbox(self.bias_v),
            out_proj=unbox(self.out_proj.weight),
            out_bias=unbox(self.out_proj.bias),
        )
        return mha(
            (query, key, value),
            weights,
            embed_dim=self.embed_dim,
            num_heads=self.num_heads,
            add_zero_attn=self.add_zero_attn,
            dropout=self.dropout if self.training else 0.0,
            masks=(unbox(attn_mask), unbox(key_padding_mask)),
            need_weights=need_weights,
            average=average_attn_weights,
            is_causal=is_causal,
            batch_first=self.batch_first,
        )

    def merge_masks(
        self, attn_mask: ArrayLike | None, key_padding_mask: ArrayLike | None, query: ArrayLike
    ) -> tuple[jax.Array | None, int | None]:
        """Both masks as one, and which kind it is: 1 `(N, L)` of keys alone, 2 `(N, H, L, L)`, or None for no mask.

        Args:
            attn_mask: `(L, L)` or `(N H, L, L)`.
            key_padding_mask: `(N, L)`.
            query: `(N, L, E)`.
        """
        pairs, keys = unbox(attn_mask), unbox(key_padding_mask)
        if pairs is None:
            return keys, None if keys is None else 1
        batch, length, _ = unbox(query).shape
        pairs = pairs.reshape(*((1, 1) if pairs.ndim == 2 else (batch, -1)), length, length)
        pairs = jnp.broadcast_to(pairs, (batch, self.num_heads, length, length))
        if keys is None:
            return pairs, 2
        keys = keys.reshape(batch, 1, 1, length)
        if pairs.dtype == jnp.bool_ and keys.dtype == jnp.bool_:
            return pairs | keys, 2
        dtype = keys.dtype if pairs.dtype == jnp.bool_ else pairs.dtype
        return hiding(pairs, dtype) + hiding(keys, dtype).astype(dtype), 2

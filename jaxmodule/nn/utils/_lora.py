"""The parametrization of low-rank adapters.

Merged, an adapter keeps the weight with the product in it as a buffer, beside the original, which stays the base
weight: so files have the same in them, merged or not.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from ...core.context import Tracer
from ...core.errors import StateError
from .. import functional as F
from .. import init
from ..module import Module
from ..parameter import Buffer, Parameter


class LoRA(Module):
    """The parametrization `W + (alpha / r) B A`. Of a convolution's weight the dimensions but the first are one.

    Args:
        weight: the weight that it is for.
        r: the rank.
        alpha: see the formula.
        dropout: the probability with which a column of A, that is a feature of the input, is left out in training.
        dtype: of A and B.

    Shape:
        - `lora_A`: `(r, in_features)`, uniform as `nn.Linear` begins; `lora_B`: `(out_features, r)`, zeros.

    Attributes:
        merged: whether the weight with the product is kept, and read as it is.
        merged_weight: that weight, where it is.

    Source: Hu and others, "LoRA: low-rank adaptation of large language models", 2022.

    Note:
        Other implementations drop elements of the input, another choice for each row of a batch. A function of the
        weight has one choice for all rows of a call.
    """

    merged_weight: Buffer

    def __init__(
        self, weight: Any, r: int, alpha: float | None = None, dropout: float = 0.0, dtype: DTypeLike | None = None
    ) -> None:
        super().__init__()
        self.r = r
        self.alpha = r if alpha is None else alpha
        self.dropout = dropout
        self.merged = False
        kind = weight.dtype if dtype is None else jnp.dtype(dtype)
        self.lora_A = Parameter(jnp.zeros((r, math.prod(weight.shape[1:])), kind))
        self.lora_B = Parameter(jnp.zeros((weight.shape[0], r), kind))
        init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))

    def product(self, like: Any, training: bool = False) -> jax.Array:
        """`(alpha / r) B A` in the shape and dtype of `like`."""
        a, b = self.lora_A.value, self.lora_B.value
        if training and self.dropout:
            a = a * F.dropout(jnp.ones((1, a.shape[1]), a.dtype), self.dropout, training=True)
        return ((b @ a) * (self.alpha / self.r)).reshape(like.shape).astype(like.dtype)

    def merge(self, weight: Any) -> None:
        """Keep the weight with the product, as both are now."""
        value = weight.value + self.product(weight)
        if self.merged:
            self.merged_weight.value = value
        else:
            self.register_buffer("merged_weight", value, persistent=False)
            self.merged = True

    def unmerge(self) -> None:
        """Compute the product at each read again."""
        if self.merged:
            del self.merged_weight
            self.merged = False

    def forward(self, weight: jax.Array) -> jax.Array:
        """The weight with the product."""
        if not self.merged:
            return weight + self.product(weight, self.training)
        sources = weight, self.lora_A.value, self.lora_B.value
        kept = self.merged_weight.value
        return _constant(kept, *sources) if any(isinstance(x, Tracer) for x in sources) else kept

    def extra_repr(self) -> str:
        """The constructor's arguments."""
        dropout = f", dropout={self.dropout}" if self.dropout else ""
        return f"r={self.r}, alpha={self.alpha}{dropout}{', merged' if self.merged else ''}"


def merge_again(parametrizations: Any, *_: Any) -> None:
    """After a load into the originals and adapters of one weight: the merged weight is made of the new ones."""
    for adapter in parametrizations:
        if isinstance(adapter, LoRA) and adapter.merged:
            adapter.merge(parametrizations.original)


@jax.custom_jvp
def _constant(kept: jax.Array, *sources: jax.Array) -> jax.Array:
    """A merged weight; what it was made of can't be differentiated through it."""
    return kept


@_constant.defjvp
def _refuse(primals: Any, tangents: Any) -> Any:
    raise StateError(
        "a weight that is merged with its adapter was differentiated: the adapter's gradients would be zeros.",
        "Call lora.unmerge(model) before training, or freeze the adapter: model.requires_grad_(False).",
    )

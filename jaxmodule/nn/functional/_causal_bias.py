"""Causal masks that are never built: `nn.attention.bias`."""

from __future__ import annotations

import warnings
from enum import IntEnum

import jax
import jax.numpy as jnp

__all__ = ["CausalBias", "CausalVariant", "causal_lower_right", "causal_upper_left"]


class CausalVariant(IntEnum):
    """Where the diagonal of a causal mask that is not square begins.

    - `UPPER_LEFT`: query i sees the keys up to i.
    - `LOWER_RIGHT`: the last query sees all keys, the one before all but the last, and so on.

    Example:
        >>> from jaxmodule.nn.attention.bias import CausalVariant
        >>> [variant.name for variant in CausalVariant]
        ['UPPER_LEFT', 'LOWER_RIGHT']
    """

    UPPER_LEFT = 1
    LOWER_RIGHT = 2


class CausalBias:
    """A causal mask by its kind and size, for the `attn_mask` of `scaled_dot_product_attention`.

    Args:
        variant: where the diagonal begins.
        seq_len_q: the number of queries `L`.
        seq_len_kv: the number of keys `S`.

    Raises:
        TypeError: `variant` is not a `CausalVariant`.

    Note:
        Where `LOWER_RIGHT` has more queries than keys, the first ones see no key: their output is 0, as torch's is
        (which warns of NaN).

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn import functional as F
        >>> from jaxmodule.nn.attention.bias import causal_lower_right
        >>> bias = causal_lower_right(3, 4)
        >>> bias
        Array([[ True,  True, False, False],
               [ True,  True,  True, False],
               [ True,  True,  True,  True]], dtype=bool)
        >>> F.scaled_dot_product_attention(jnp.ones((3, 8)), jnp.ones((4, 8)), jnp.ones((4, 8)), bias).shape
        (3, 8)
    """

    def __init__(self, variant: CausalVariant, seq_len_q: int, seq_len_kv: int) -> None:
        if not isinstance(variant, CausalVariant):
            raise TypeError(f"variant must be a CausalVariant, got {type(variant).__name__}: {variant!r}")
        self.variant = variant
        self.seq_len_q = seq_len_q
        self.seq_len_kv = seq_len_kv
        if seq_len_q > seq_len_kv and variant == CausalVariant.LOWER_RIGHT:
            warnings.warn(
                "Lower right causal bias: with seq_len_q > seq_len_kv the first "
                f"{seq_len_q - seq_len_kv} queries see no key, and their output is 0",
                stacklevel=2,
            )

    @property
    def shape(self) -> tuple[int, int]:
        """`(L, S)`."""
        return self.seq_len_q, self.seq_len_kv

    @property
    def diagonal(self) -> int:
        """A query at i sees the keys up to `i + diagonal`."""
        return 0 if self.variant == CausalVariant.UPPER_LEFT else self.seq_len_kv - self.seq_len_q

    def materialize(self) -> jax.Array:
        """The mask, `(L, S)`: True where a query sees a key."""
        return jnp.tri(self.seq_len_q, self.seq_len_kv, self.diagonal, jnp.bool_)

    def __repr__(self) -> str:
        return repr(self.materialize())


def causal_upper_left(*size: int) -> CausalBias:
    """A causal mask whose diagonal begins in the upper left corner: what `is_causal=True` means.

    Args:
        size: the number of queries and the number of keys.

    Raises:
        AssertionError: there are not two sizes.

    Example:
        >>> from jaxmodule.nn.attention.bias import causal_upper_left
        >>> causal_upper_left(2, 3)
        Array([[ True, False, False],
               [ True,  True, False]], dtype=bool)
    """
    return CausalBias(CausalVariant.UPPER_LEFT, *_two(size, "causal_upper_left"))


def causal_lower_right(*size: int) -> CausalBias:
    """A causal mask whose diagonal ends in the lower right corner: for queries that continue a sequence.

    Args:
        size: the number of queries and the number of keys.

    Raises:
        AssertionError: there are not two sizes.

    Example:
        >>> from jaxmodule.nn.attention.bias import causal_lower_right
        >>> causal_lower_right(2, 3)
        Array([[ True,  True, False],
               [ True,  True,  True]], dtype=bool)
    """
    return CausalBias(CausalVariant.LOWER_RIGHT, *_two(size, "causal_lower_right"))


def _two(size: tuple[int, ...], name: str) -> tuple[int, int]:
    if len(size) != 2:
        raise AssertionError(f"{name} only supports 2D tensors: it takes two sizes, and got {size}")
    return size

"""The masks of `MultiheadAttention` and the Transformers: True, or minus infinity, hides a key."""

from __future__ import annotations

import warnings

import jax
import jax.numpy as jnp
import numpy as np

from ._common import is_floating

__all__ = ["canonical_masks", "hiding", "merged"]

Mask = jax.Array | None


def canonical_masks(
    padding: Mask, padding_name: str, pairs: Mask, pairs_name: str, dtype: np.dtype
) -> tuple[Mask, Mask]:
    """Both masks, checked. A boolean one beside one of floating-point numbers becomes one of those, with a warning.

    Raises:
        AssertionError: one is neither boolean nor floating-point.
    """
    for mask, name in ((padding, padding_name), (pairs, pairs_name)):
        if mask is not None and mask.dtype != jnp.bool_ and not is_floating(mask):
            raise AssertionError(f"only bool and floating types of {name} are supported, but got {mask.dtype.name}")
    if padding is None or pairs is None or padding.dtype == pairs.dtype:
        return padding, pairs
    warnings.warn(
        f"Support for mismatched {padding_name} and {pairs_name} is deprecated. Use same type for both instead.",
        UserWarning,
        stacklevel=3,
    )
    return hiding(padding, dtype), hiding(pairs, dtype)


def hiding(mask: jax.Array, dtype: np.dtype) -> jax.Array:
    """Minus infinity where a boolean mask is True; a floating-point one as it is."""
    return jnp.where(mask, -jnp.inf, 0.0).astype(dtype) if mask.dtype == jnp.bool_ else mask


def merged(attn_mask: Mask, padding: Mask, dtype: np.dtype) -> Mask:
    """Two masks of shapes that broadcast as one: boolean, True where a key is *seen*, or added to the scores."""
    masks = [mask for mask in (attn_mask, padding) if mask is not None]
    if not masks:
        return None
    if all(mask.dtype == jnp.bool_ for mask in masks):
        return ~(masks[0] | masks[-1])
    first, *others = (hiding(mask, dtype) for mask in masks)
    return first + others[0].astype(first.dtype) if others else first

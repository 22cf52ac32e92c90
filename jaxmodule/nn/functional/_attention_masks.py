"""The masks of `MultiheadAttention` and the Transformers: True, or minus infinity, hides a key."""

from __future__ import annotations

import warnings

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from ...core.box import unbox
from ._common import ArrayLike, is_floating

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
        _require_kind(mask, name)
    if padding is None or pairs is None or padding.dtype == pairs.dtype:
        return padding, pairs
    _warn_mismatch(padding_name, pairs_name)
    return hiding(padding, dtype), hiding(pairs, dtype)


def _canonical_mask(
    mask: ArrayLike | None,
    mask_name: str,
    other_type: DTypeLike | None,
    other_name: str,
    target_type: DTypeLike,
    check_other: bool = True,
) -> Mask:
    """A mask as numbers to add to the scores: minus infinity where a boolean one is True.

    Raises:
        AssertionError: it is neither boolean nor floating-point.
    """
    found = unbox(mask)
    if found is None:
        return None
    _require_kind(found, mask_name)
    if check_other and other_type is not None and found.dtype != other_type:
        _warn_mismatch(mask_name, other_name)
    return hiding(found, np.dtype(target_type))


def _require_kind(mask: Mask, name: str) -> None:
    if mask is not None and mask.dtype != jnp.bool_ and not is_floating(mask):
        raise AssertionError(f"only bool and floating types of {name} are supported, but got {mask.dtype.name}")


def _warn_mismatch(name: str, other: str) -> None:
    warnings.warn(
        f"Support for mismatched {name} and {other} is deprecated. Use same type for both instead.",
        UserWarning,
        stacklevel=4,
    )


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

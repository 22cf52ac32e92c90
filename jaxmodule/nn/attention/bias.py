"""Causal masks that are never built, for the `attn_mask` of `scaled_dot_product_attention`."""

from __future__ import annotations

from ..functional._causal_bias import CausalBias, CausalVariant, causal_lower_right, causal_upper_left

__all__ = ["CausalBias", "CausalVariant", "causal_lower_right", "causal_upper_left"]

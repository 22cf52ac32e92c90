"""How `LinearCrossEntropyLoss` divides its work."""

from __future__ import annotations

from ..functional._linear_cross_entropy_options import LinearCrossEntropyOptions

__all__ = ["LinearCrossEntropyOptions"]

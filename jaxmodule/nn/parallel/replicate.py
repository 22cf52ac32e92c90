"""`torch.nn.parallel.replicate`'s names: all raise, with the remedy."""

from __future__ import annotations

from typing import Any, NoReturn

from ._remedy import nothing_else, refuse

__all__ = ["replicate"]


def replicate(*args: Any, **kwargs: Any) -> NoReturn:
    """Raises: a sharding with no axis (`jax.P()`) replicates, as the message shows."""
    refuse("replicate")


__getattr__ = nothing_else(__name__)

"""`torch.nn.parallel.scatter_gather`'s names: all raise, with the remedy."""

from __future__ import annotations

from typing import Any, NoReturn

from ._remedy import nothing_else, refuse

__all__ = ["gather", "scatter", "scatter_kwargs"]


def gather(*args: Any, **kwargs: Any) -> NoReturn:
    """Raises: a sharded array is one array already, as the message shows."""
    refuse("gather")


def scatter(*args: Any, **kwargs: Any) -> NoReturn:
    """Raises: `jax.device_put` with a sharding scatters, as the message shows."""
    refuse("scatter")


def scatter_kwargs(*args: Any, **kwargs: Any) -> NoReturn:
    """Raises: `jax.device_put` with a sharding scatters, as the message shows."""
    refuse("scatter_kwargs")


__getattr__ = nothing_else(__name__)

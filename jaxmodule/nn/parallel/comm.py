"""`torch.nn.parallel.comm`'s names: all raise, with the remedy."""

from __future__ import annotations

from typing import Any, NoReturn

from ._remedy import nothing_else, refuse

__all__ = ["broadcast", "broadcast_coalesced", "gather", "reduce_add", "reduce_add_coalesced", "scatter"]


def broadcast(*args: Any, **kwargs: Any) -> NoReturn:
    """Raises: a sharding with no axis (`jax.P()`) replicates, as the message shows."""
    refuse("comm.broadcast")


def broadcast_coalesced(*args: Any, **kwargs: Any) -> NoReturn:
    """Raises: a sharding with no axis (`jax.P()`) replicates, as the message shows."""
    refuse("comm.broadcast_coalesced")


def gather(*args: Any, **kwargs: Any) -> NoReturn:
    """Raises: a sharded array is one array already, as the message shows."""
    refuse("comm.gather")


def reduce_add(*args: Any, **kwargs: Any) -> NoReturn:
    """Raises: a sum over a sharded axis is one sum, as the message shows."""
    refuse("comm.reduce_add")


def reduce_add_coalesced(*args: Any, **kwargs: Any) -> NoReturn:
    """Raises: a sum over a sharded axis is one sum, as the message shows."""
    refuse("comm.reduce_add_coalesced")


def scatter(*args: Any, **kwargs: Any) -> NoReturn:
    """Raises: `jax.device_put` with a sharding scatters, as the message shows."""
    refuse("comm.scatter")


__getattr__ = nothing_else(__name__)

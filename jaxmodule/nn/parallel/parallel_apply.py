"""`torch.nn.parallel.parallel_apply`'s names: all raise, with the remedy."""

from __future__ import annotations

from typing import Any, NoReturn

from ._remedy import nothing_else, refuse

__all__ = ["get_a_var", "parallel_apply"]


def get_a_var(*args: Any, **kwargs: Any) -> NoReturn:
    """Raises: a sharded array is one array already, as the message shows."""
    refuse("get_a_var")


def parallel_apply(*args: Any, **kwargs: Any) -> NoReturn:
    """Raises: spread the batch over the devices instead, as the message shows."""
    refuse("parallel_apply")


__getattr__ = nothing_else(__name__)

"""`torch.nn.parallel.data_parallel`'s names: all raise, with the remedy."""

from __future__ import annotations

from typing import Any, NoReturn

from ..modules.module import Module
from ._remedy import nothing_else, refuse

__all__ = ["DataParallel", "data_parallel"]


class DataParallel(Module):
    """Raises: spread the batch over the devices instead, as the message shows."""

    def __init__(self, module: Any, device_ids: Any = None, output_device: Any = None, dim: int = 0) -> None:
        refuse("DataParallel")


def data_parallel(*args: Any, **kwargs: Any) -> NoReturn:
    """Raises: spread the batch over the devices instead, as the message shows."""
    refuse("data_parallel")


__getattr__ = nothing_else(__name__)

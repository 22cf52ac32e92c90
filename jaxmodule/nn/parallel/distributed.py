"""`torch.nn.parallel.distributed`'s names: all raise, with the remedy."""

from __future__ import annotations

from typing import Any

from ..modules.module import Module
from ._remedy import nothing_else, refuse

__all__ = ["DistributedDataParallel"]


class DistributedDataParallel(Module):
    """Raises: spread the batch over the devices instead, as the message shows."""

    def __init__(self, module: Any, *args: Any, **kwargs: Any) -> None:
        refuse("DistributedDataParallel")


__getattr__ = nothing_else(__name__)

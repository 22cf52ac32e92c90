"""torch's memory formats of convolution weights. XLA chooses layouts itself, so there is nothing to convert."""

from __future__ import annotations

from typing import Any, TypeVar

from ..module import Module
from ..modules.conv import Conv2d, Conv3d, ConvTranspose2d, ConvTranspose3d

__all__ = ["convert_conv2d_weight_memory_format", "convert_conv3d_weight_memory_format"]

M = TypeVar("M", bound=Module)

_FORMATS = ("contiguous_format", "channels_last", "channels_last_3d")


def _check(module: Module, memory_format: Any, dims: int) -> None:
    """Raise where torch would.

    Raises:
        TypeError: it is no memory format.
        RuntimeError: it is one of other ranks.
    """
    kinds = (Conv2d, ConvTranspose2d) if dims == 2 else (Conv3d, ConvTranspose3d)
    if not any(isinstance(found, kinds) for found in module.modules()):
        return
    name = str(memory_format).removeprefix("torch.")
    if name == "preserve_format":
        raise RuntimeError("Unsupported memory format Preserve")
    if name not in _FORMATS:
        raise TypeError(
            f"memory_format must be one of {_FORMATS}, or torch's object of that name, not {memory_format!r}"
        )
    rank = {"channels_last": 4, "channels_last_3d": 5}.get(name, dims + 2)
    if rank != dims + 2:
        raise RuntimeError(f"required rank {rank} tensor to use {name} format")


def convert_conv2d_weight_memory_format(module: M, memory_format: Any) -> M:
    """Give the module back: XLA lays out a convolution's operands as is best for it, whatever torch would be told.

    Args:
        module: any module.
        memory_format: "contiguous_format" or "channels_last"; or torch's object of that name.

    Returns:
        The module.

    Raises:
        TypeError: another format, and there is a Conv2d or ConvTranspose2d in the module.
        RuntimeError: a format of another rank, likewise.

    Example:
        >>> from jaxmodule import nn
        >>> nn.utils.convert_conv2d_weight_memory_format(nn.Conv2d(1, 2, 3), "channels_last")
        Conv2d(1, 2, kernel_size=(3, 3), stride=(1, 1))
    """
    _check(module, memory_format, 2)
    return module


def convert_conv3d_weight_memory_format(module: M, memory_format: Any) -> M:
    """Give the module back, as `convert_conv2d_weight_memory_format` does, for Conv3d and ConvTranspose3d.

    Args:
        module: any module.
        memory_format: "contiguous_format" or "channels_last_3d"; or torch's object of that name.

    Returns:
        The module.

    Raises:
        TypeError: another format, and there is a Conv3d or ConvTranspose3d in the module.
        RuntimeError: a format of another rank, likewise.
    """
    _check(module, memory_format, 3)
    return module

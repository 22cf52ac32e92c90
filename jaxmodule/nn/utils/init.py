"""Modules without the work of initialising them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from ...transforms import eval_shape
from ..module import Module

__all__ = ["skip_init"]

M = TypeVar("M", bound=Module)


def skip_init(module_cls: Callable[..., M], *args: Any, **kwargs: Any) -> M:
    """Make a module whose parameters and buffers hold nothing in particular: for one that is loaded next.

    Its constructor is only traced: nothing is drawn or computed, and the random generator does not move.

    Args:
        module_cls: a Module class that takes `device`.
        args: the constructor's arguments.
        kwargs: its keyword arguments; `device` says where the memory is.

    Returns:
        The module.

    Raises:
        RuntimeError: it is no Module class, or takes no `device`.

    Note:
        The memory is zeros, for there is no other fresh memory in JAX; don't build on it.

    Example:
        >>> from jaxmodule import nn
        >>> nn.utils.skip_init(nn.Linear, 5, 1).weight.shape
        (1, 5)
    """
    if not (isinstance(module_cls, type) and issubclass(module_cls, Module)):
        raise RuntimeError(f"Expected a Module; got {module_cls}")
    if "device" not in inspect.signature(module_cls).parameters:
        raise RuntimeError("Module must support a 'device' arg to skip initialization")
    device = kwargs.pop("device", None)
    return eval_shape(module_cls, *args, **kwargs).to_empty(device=device)

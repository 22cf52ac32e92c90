"""Modules without the work of initialising them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from ...core.device import device as on_device
from ...core.errors import AbstractError
from ...random import fork_rng
from ...transforms import eval_shape
from ..module import Module

__all__ = ["skip_init"]

M = TypeVar("M", bound=Module)


def skip_init(module_cls: Callable[..., M], *args: Any, **kwargs: Any) -> M:
    """Make a module whose parameters and buffers hold nothing in particular: for one that is loaded next.

    Its constructor runs under `jm.device("meta")`, or is traced if it computes with its parameters: nothing is drawn or
    computed, and the random generator does not move.

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
    module: Any
    try:
        with fork_rng(), on_device("meta"):
            module = module_cls(*args, **kwargs)
    except (AbstractError, AttributeError, TypeError):  # it computes with what it has made: that can be traced
        module = eval_shape(module_cls, *args, **kwargs)
    return module.to_empty(device=device)

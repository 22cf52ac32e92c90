"""Which implementation `scaled_dot_product_attention` may take: the state behind `nn.attention.sdpa_kernel`."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum

__all__ = ["SDPBackend", "allowed_backends", "sdpa_kernel"]


class SDPBackend(IntEnum):
    """The implementations of `scaled_dot_product_attention`.

    - `MATH`: the formula, with the whole matrix of scores.
    - `FLASH_ATTENTION`, `EFFICIENT_ATTENTION`: blocks of queries against blocks of keys, the softmax kept as a running
      maximum and sum; the backward pass computes the scores again.
    - `CUDNN_ATTENTION`: cuDNN's fused kernel, through `jax.nn.dot_product_attention`.
    - `ERROR`, `OVERRIDEABLE`: for torch's names; there is nothing behind them.

    Example:
        >>> from jaxmodule.nn.attention import SDPBackend
        >>> SDPBackend.MATH.name
        'MATH'
    """

    ERROR = -1
    MATH = 0
    FLASH_ATTENTION = 1
    EFFICIENT_ATTENTION = 2
    CUDNN_ATTENTION = 3
    OVERRIDEABLE = 4


class _Selection(threading.local):
    """None: all of them, whichever suits; else those of the innermost `sdpa_kernel`, and whether their order counts."""

    backends: tuple[SDPBackend, ...] | None = None
    ordered: bool = False


_selection = _Selection()


def allowed_backends() -> tuple[tuple[SDPBackend, ...] | None, bool]:
    """The backends allowed here (None: all), and whether their order is one of priority."""
    return _selection.backends, _selection.ordered


@contextmanager
def sdpa_kernel(backends: list[SDPBackend] | SDPBackend, set_priority: bool = False) -> Iterator[dict[str, object]]:
    """Choose which implementations `scaled_dot_product_attention` may take in a block.

    Args:
        backends: one, or a list.
        set_priority: whether the first of the list that can run is taken; if not, whichever suits the shapes.

    Raises:
        AssertionError: `backends` is neither.
        RuntimeError: on the call in the block, none of them can run.

    Note:
        The choice is made while a function is traced: a compiled function keeps the one it was traced with. A function
        that is called with different ones takes the backend as an argument of its own.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn import functional as F
        >>> from jaxmodule.nn.attention import SDPBackend, sdpa_kernel
        >>> q = jnp.ones((1, 2, 3, 4))
        >>> with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        ...     F.scaled_dot_product_attention(q, q, q).shape
        (1, 2, 3, 4)
    """
    if not isinstance(backends, list | SDPBackend):
        raise AssertionError(
            "Backend must be an instance of SDPBackend or a list of SDPBackend instances, "
            f"got {type(backends).__name__}"
        )
    chosen = (backends,) if isinstance(backends, SDPBackend) else tuple(dict.fromkeys(backends))
    outer = allowed_backends()
    _selection.backends, _selection.ordered = chosen, set_priority
    try:
        yield {}
    finally:
        _selection.backends, _selection.ordered = outer

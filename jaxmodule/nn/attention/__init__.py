"""Which implementation attention takes, and attention with masks and scores of one's own.

`bias` holds causal masks that are never built, `flex_attention` attention with a function of the scores, `varlen`
attention of sequences of unequal length in one array.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

from ..functional._sdpa_kernel import SDPBackend, sdpa_kernel
from . import bias, flex_attention, varlen

__all__ = [
    "WARN_FOR_UNFUSED_KERNELS",
    "SDPBackend",
    "activate_flash_attention_impl",
    "bias",
    "current_flash_attention_impl",
    "flex_attention",
    "list_flash_attention_impls",
    "register_flash_attention_impl",
    "restore_flash_attention_impl",
    "sdpa_kernel",
    "varlen",
]

#: For torch's name. A program is lowered for a platform after it is traced: there is no call to warn in.
WARN_FOR_UNFUSED_KERNELS = False

_REMEDY = (
    "there are no flash attention kernels to plug in here: choose among the implementations there are with "
    "`sdpa_kernel`, or call a kernel of your own (a `jax.custom_vjp` around `jax.experimental.pallas`) in its place"
)


def register_flash_attention_impl(impl: str, *, register_fn: Callable[..., Any]) -> NoReturn:
    """For torch's name.

    Raises:
        NotImplementedError: always, with what to do.
    """
    raise NotImplementedError(f"register_flash_attention_impl({impl!r}): {_REMEDY}")


def activate_flash_attention_impl(impl: str) -> NoReturn:
    """For torch's name.

    Raises:
        NotImplementedError: always, with what to do.
    """
    raise NotImplementedError(f"activate_flash_attention_impl({impl!r}): {_REMEDY}")


def list_flash_attention_impls() -> list[str]:
    """The names of kernels that were plugged in: none."""
    return []


def current_flash_attention_impl() -> str | None:
    """The name of the kernel that was plugged in: None."""
    return None


def restore_flash_attention_impl() -> None:
    """Go back to the implementations there are, which nothing has replaced."""

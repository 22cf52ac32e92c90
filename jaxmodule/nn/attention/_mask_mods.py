"""Functions of the indices, joined and written out."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ...core.device import place_of
from ..modules.utils import Placement
from ._flex import MaskMod, ScoreMod, over_indices

__all__ = ["and_masks", "create_mask", "index_vectors", "noop_mask", "or_masks", "positional", "sliced_mask_mod"]


def noop_mask(batch: Any, head: Any, token_q: Any, token_kv: Any) -> jax.Array:
    """A `mask_mod` that hides nothing.

    Args:
        batch: index of the sample.
        head: index of the head.
        token_q: index of the query.
        token_kv: index of the key.
    """
    return jnp.ones((), jnp.bool_)


def or_masks(*mask_mods: MaskMod) -> MaskMod:
    """A `mask_mod` that shows what any of these shows.

    Args:
        mask_mods: functions of `(batch, head, query, key)`.

    Raises:
        RuntimeError: one is not a function.
    """
    return _joined(mask_mods, False, jnp.logical_or)


def and_masks(*mask_mods: MaskMod) -> MaskMod:
    """A `mask_mod` that shows what all of these show.

    Args:
        mask_mods: functions of `(batch, head, query, key)`.

    Raises:
        RuntimeError: one is not a function.
    """
    return _joined(mask_mods, True, jnp.logical_and)


def _joined(mask_mods: tuple[MaskMod, ...], start: bool, join: Callable[..., jax.Array]) -> MaskMod:
    if not all(callable(mask) for mask in mask_mods):
        raise RuntimeError(f"All inputs should be callable mask_mods: {mask_mods}")

    def joined(batch: Any, head: Any, token_q: Any, token_kv: Any) -> jax.Array:
        seen = jnp.asarray(start)
        for mask in mask_mods:
            seen = join(seen, mask(batch, head, token_q, token_kv))
        return seen

    return joined


def positional(function: Callable[..., Any]) -> int:
    """How many arguments a function must be given."""
    return sum(p.default is p.empty for p in inspect.signature(function).parameters.values())


def index_vectors(b: int | None, h: int | None, q_len: int, kv_len: int) -> tuple[jax.Array, ...]:
    return tuple(jnp.arange(n, dtype=jnp.int32) for n in (1 if b is None else b, 1 if h is None else h, q_len, kv_len))


def create_mask(
    mod_fn: ScoreMod | MaskMod, B: int | None, H: int | None, Q_LEN: int, KV_LEN: int, device: Placement | None = None
) -> jax.Array:
    """The boolean mask `(B, H, Q_LEN, KV_LEN)` of a function: True where a key is seen.

    Args:
        mod_fn: a `mask_mod` of `(batch, head, query, key)`, or a `score_mod`, which hides what it makes minus infinity.
        B: the number of samples; None is 1.
        H: the number of heads; None is 1.
        Q_LEN: the number of queries.
        KV_LEN: the number of keys.
        device: where the mask lives.

    Raises:
        AssertionError: the function takes neither four nor five arguments.

    Example:
        >>> from jaxmodule.nn.attention.flex_attention import create_mask
        >>> create_mask(lambda b, h, q, k: q >= k, None, None, 2, 3)[0, 0].tolist()
        [[True, False, False], [True, True, False]]
    """
    count = positional(mod_fn)
    if count not in (4, 5):
        raise AssertionError(f"Expected 4 or 5 positional args, got {count}")
    where = index_vectors(B, H, Q_LEN, KV_LEN)
    if count == 5:
        scores = over_indices(mod_fn, scored=True)(jnp.zeros(tuple(len(x) for x in where)), *where)
        mask = scores != -jnp.inf
    else:
        mask = over_indices(mod_fn, scored=False)(*where)
    return mask if device is None else jax.device_put(mask, place_of(device))


def sliced_mask_mod(batch: Any, head: Any, token_q: Any, token_kv: Any) -> jax.Array:
    """What a sliced mask has for a `mask_mod`: its indices would be off.

    Raises:
        RuntimeError: always.
    """
    raise RuntimeError(
        "Cannot use mask_mod from a sliced BlockMask: its indices count from the slice. Set it from the mask that was "
        "sliced: `sliced.mask_mod = with_offset(whole.mask_mod)`"
    )

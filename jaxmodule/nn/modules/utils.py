"""What the layers share in their constructors."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from ...core import fill
from ..parameter import Parameter

Placement = jax.Device | jax.sharding.Sharding

#: What a layer is made of when no dtype is given, with and without `jax_enable_x64`: torch's default.
DEFAULT_DTYPE = jnp.float32


def empty_parameter(
    shape: tuple[int, ...], device: Placement | None, dtype: DTypeLike | None, requires_grad: bool = True
) -> Parameter:
    """A parameter of this shape, for `reset_parameters` to fill.

    Raises:
        RuntimeError: a size is negative.
    """
    if min(shape, default=0) < 0:
        raise RuntimeError(f"Trying to create tensor with negative dimension {min(shape)}: {list(shape)}")
    # fill.full: a compiled jnp.empty a shape would be most of the time that constructing a large model takes
    return Parameter(fill.full(shape, 0, DEFAULT_DTYPE if dtype is None else dtype, device=device), requires_grad)


def ntuple(name: str, value: int | Sequence[int], n: int) -> tuple[int, ...]:
    """One number for each of `n` dimensions.

    Raises:
        ValueError: there is neither one number nor `n`.
    """
    values = (value,) if isinstance(value, int) else tuple(value)
    if len(values) == 1:
        return values * n
    if len(values) != n:
        raise ValueError(f"{name} must be an int or a tuple of {n} ints, but got {values}")
    return values

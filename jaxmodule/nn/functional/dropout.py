"""Random zeroing of elements."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from ...core.box import unbox
from ...random import next_key
from ._common import ArrayLike, compiled

__all__ = ["dropout"]


@compiled("p")
def _dropout(x: jax.Array, key: jax.Array, *, p: float) -> jax.Array:
    keep = jax.random.bernoulli(key, 1.0 - p, x.shape)
    return jnp.where(keep, x * (1.0 / (1.0 - p)), jnp.zeros_like(x))


def dropout(input: ArrayLike, p: float = 0.5, training: bool = True, inplace: bool = False) -> jax.Array:
    """Zero each element with probability `p` and scale the others by `1 / (1 - p)` (Srivastava et al., 2014).

    Args:
        input: any shape.
        p: the probability of zeroing.
        training: whether to do it at all; if not, the input is returned as it is.
        inplace: for torch's signature. See Note.

    Raises:
        ValueError: `p` is not in `[0, 1]`.
        RuntimeError: the input is not floating-point.

    Note:
        Arrays are immutable: `inplace` does not change the input, and has no effect on the result.
        The mask is drawn from the current default generator, one draw a call. Nothing is drawn if `p` is 0 or 1.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn import functional as F
        >>> sorted(set(F.dropout(jnp.ones(100), p=0.5).tolist()))
        [0.0, 2.0]
    """
    if p < 0.0 or p > 1.0:
        raise ValueError(f"dropout probability has to be between 0 and 1, but got {p}")
    x = unbox(input)
    if not training or p == 0.0:
        return x
    if not jnp.issubdtype(x.dtype, jnp.inexact):
        raise RuntimeError(f"result type float can't be cast to the desired output type {x.dtype.name}: dropout scales")
    if p == 1.0:
        return x * 0.0
    return _dropout(x, next_key(), p=float(p))

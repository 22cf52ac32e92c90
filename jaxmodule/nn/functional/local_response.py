"""Normalisation of each element by the channels beside its own."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from ...core.box import unbox
from ._autocast import autocasts
from ._common import ArrayLike, compiled, is_integer, shape_list
from ._pointwise import require_floating, widen

__all__ = ["local_response_norm"]


def _over_neighbours(x: jax.Array, before: int, after: int) -> jax.Array:
    """For each channel the sum from `before` channels before it to `after` channels after it."""
    channels = x.shape[1]
    total = jnp.zeros_like(x)
    for shift in range(max(-before, 1 - channels), min(after, channels - 1) + 1):
        part = lax.slice_in_dim(x, max(shift, 0), channels + min(shift, 0), axis=1)
        total += lax.pad(
            part,
            jnp.zeros((), x.dtype),
            [(max(-shift, 0), max(shift, 0), 0) if i == 1 else (0, 0, 0) for i in range(x.ndim)],
        )
    return total


@compiled("size", "alpha", "beta", "k")
def _local_response_norm(x: jax.Array, *, size: int, alpha: float, beta: float, k: float) -> jax.Array:
    wide = widen(x)
    total = _over_neighbours(lax.square(wide), size // 2, (size - 1) // 2)
    if is_integer(x):  # torch's average of integers is one
        y = x.astype(jnp.float32) / ((total // size).astype(jnp.float32) * alpha + k) ** beta
        return y
    return (wide / (total / size * alpha + k) ** beta).astype(x.dtype)


@compiled("size", "alpha", "beta", "k")
def _cross_map_lrn2d(x: jax.Array, *, size: int, alpha: float, beta: float, k: float) -> jax.Array:
    wide = widen(x)
    squares = lax.square(wide)
    reach = (size + 1) // 2
    total = _over_neighbours(squares, reach - 1, reach - 1)
    # torch slides its window by adding the channel that enters and taking off the one that leaves, but never channel 0.
    beyond = (jnp.arange(x.shape[1]) >= reach).astype(wide.dtype).reshape(1, -1, 1, 1)
    total = total + beyond * squares[:, :1]
    return (wide * (total * (alpha / size) + k) ** -beta).astype(x.dtype)


@autocasts
def local_response_norm(
    input: ArrayLike, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> jax.Array:
    """`x / (k + alpha mean(x^2))^beta`, the mean over `size` neighbouring channels (Krizhevsky et al., 2012).

    Args:
        input: the batch.
        size: the number of channels to average over: `size // 2` before the channel, itself, and the rest after it.
            Channels that don't exist count as 0.
        alpha: the weight of the mean.
        beta: the exponent.
        k: what the mean is added to.

    Shape:
        - Input and output: `(N, C, *)`, of at least three dimensions.

    Raises:
        ValueError: the input has fewer than three dimensions.
        RuntimeError: `size` is not positive.
        NotImplementedError: the input is boolean, complex or of an integer dtype other than JAX's default.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn import functional as F
        >>> F.local_response_norm(jnp.ones((1, 3, 1)), 2, alpha=2.0, beta=1.0).squeeze().tolist()
        [0.5, 0.3333333432674408, 0.3333333432674408]
    """
    x = unbox(input)
    if x.ndim < 3:
        raise ValueError(
            f"Expected 3D or higher dimensionality input (got {x.ndim} dimensions, a size of {shape_list(x)})"
        )
    if size <= 0:
        raise RuntimeError(f"local_response_norm: size should be greater than zero, but got {size}")
    if x.dtype != jnp.zeros((), int).dtype:
        require_floating(x, "local_response_norm")
    return _local_response_norm(x, size=size, alpha=float(alpha), beta=float(beta), k=float(k))


def cross_map_lrn2d(input: ArrayLike, size: int, alpha: float, beta: float, k: float) -> jax.Array:
    """What `nn.CrossMapLRN2d` computes: see there."""
    x = unbox(input)
    if x.ndim != 4:
        raise ValueError(f"CrossMapLRN2d: Expected input to be 4D, got {x.ndim}D instead (size {shape_list(x)})")
    if size == 0:
        raise ZeroDivisionError("CrossMapLRN2d divides by size, but got size=0")
    if size < 0:
        raise RuntimeError(f"CrossMapLRN2d: size should be greater than zero, but got {size}")
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise RuntimeError(f"CrossMapLRN2d: result type float can't be cast to {x.dtype.name}, the input's dtype")
    return _cross_map_lrn2d(x, size=size, alpha=float(alpha), beta=float(beta), k=float(k))

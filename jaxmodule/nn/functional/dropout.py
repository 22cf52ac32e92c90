"""Random zeroing of elements and of whole channels."""

from __future__ import annotations

import math
import warnings

import jax
import jax.numpy as jnp

from ...core.box import Box, unbox
from ...random import next_key
from ._common import ArrayLike, compiled, laid_out_like, shape_list
from ._pointwise import store

__all__ = ["alpha_dropout", "dropout", "dropout1d", "dropout2d", "dropout3d", "feature_alpha_dropout"]

# What SELU tends to at minus infinity: -scale * alpha.
_SATURATION = -1.0507009873554805 * 1.6732632423543773


@compiled("p", "shape")
def _dropout(x: jax.Array, key: jax.Array, *, p: float, shape: tuple[int, ...]) -> jax.Array:
    keep = laid_out_like(jnp.broadcast_to(jax.random.bernoulli(key, 1.0 - p, shape), x.shape), x)
    return jnp.where(keep, x * (1.0 / (1.0 - p)), jnp.zeros_like(x))


@compiled("p", "shape")
def _alpha_dropout(x: jax.Array, key: jax.Array, *, p: float, shape: tuple[int, ...]) -> jax.Array:
    keep = laid_out_like(jnp.broadcast_to(jax.random.bernoulli(key, 1.0 - p, shape), x.shape), x)
    # An affine map afterwards gives the mean 0 and the variance 1 back.
    scale = 1.0 / math.sqrt((_SATURATION**2 * p + 1.0) * (1.0 - p))
    shift = -_SATURATION * scale * p
    return jnp.where(keep, x * scale + shift, jnp.full_like(x, _SATURATION * scale + shift))


def _check(p: float) -> None:
    if p < 0.0 or p > 1.0:
        raise ValueError(f"dropout probability has to be between 0 and 1, but got {p}")
    if p != p:
        raise RuntimeError("dropout probability has to be between 0 and 1, but got nan")


def _dropped(input: ArrayLike, p: float, training: bool, inplace: bool, channels: int | None, alpha: bool) -> jax.Array:
    """One draw for each element, or for each index of the first `channels` dimensions."""
    x = unbox(input)
    if not training or p == 0.0 or x.size == 0:
        return input if inplace and isinstance(input, Box) else x
    if p == 1.0:
        return store(input, (x * 0).astype(x.dtype), inplace)
    if not jnp.issubdtype(x.dtype, jnp.inexact):
        raise RuntimeError(f"result type float can't be cast to the desired output type {x.dtype.name}: dropout scales")
    shape = x.shape if channels is None else x.shape[:channels] + (1,) * (x.ndim - channels)
    apply = _alpha_dropout if alpha else _dropout
    return store(input, apply(x, next_key(), p=float(p), shape=shape), inplace)


def dropout(input: ArrayLike, p: float = 0.5, training: bool = True, inplace: bool = False) -> jax.Array:
    """Zero each element with probability `p` and scale the others by `1 / (1 - p)` (Srivastava et al., 2014).

    Args:
        input: any shape.
        p: the probability of zeroing.
        training: whether to do it at all; if not, the input is returned as it is.
        inplace: write the result into `input` and return that, if it is a box; an array can't change.

    Raises:
        ValueError: `p` is not in `[0, 1]`.
        RuntimeError: the input is not floating-point.

    Note:
        The mask is drawn from the current default generator, one draw a call. Nothing is drawn if `p` is 0 or 1.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn import functional as F
        >>> sorted(set(F.dropout(jnp.ones(100), p=0.5).tolist()))
        [0.0, 2.0]
    """
    _check(p)
    return _dropped(input, p, training, inplace, None, alpha=False)


def alpha_dropout(input: ArrayLike, p: float = 0.5, training: bool = False, inplace: bool = False) -> jax.Array:
    """Set each element to SELU's negative saturation with probability `p`, then scale and shift all so that a mean of 0
    and a variance of 1 stay (Klambauer et al., 2017).

    Args:
        input: any shape.
        p: the probability of that.
        training: whether to do it at all; if not, the input is returned as it is.
        inplace: write the result into `input` and return that, if it is a box; an array can't change.

    Raises:
        ValueError: `p` is not in `[0, 1]`.
        RuntimeError: the input is not floating-point.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn import functional as F
        >>> [round(v, 3) for v in sorted(set(F.alpha_dropout(jnp.zeros(100), 0.5, training=True).tolist()))]
        [-0.779, 0.779]
    """
    _check(p)
    return _dropped(input, p, training, inplace, None, alpha=True)


def dropout1d(input: ArrayLike, p: float = 0.5, training: bool = True, inplace: bool = False) -> jax.Array:
    """`dropout` of whole channels of sequences: one draw a channel (Tompson et al., 2015).

    Args:
        input: the sequences.
        p: the probability of zeroing.
        training: whether to do it at all; if not, the input is returned as it is.
        inplace: write the result into `input` and return that, if it is a box; an array can't change.

    Shape:
        - Input and output: `(N, C, L)` or `(C, L)`.

    Raises:
        ValueError: `p` is not in `[0, 1]`.
        RuntimeError: the input has another rank, or is not floating-point.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn import functional as F
        >>> len(set(F.dropout1d(jnp.ones((1, 8)), 0.5)[0].tolist()))
        1
    """
    _check(p)
    x = unbox(input)
    if x.ndim not in (2, 3):
        raise RuntimeError(
            f"dropout1d: Expected 2D or 3D input, but received a {x.ndim}D input of size {shape_list(x)}. Note that "
            "dropout1d exists to provide channel-wise dropout on inputs with 1 spatial dimension, a channel dimension, "
            "and an optional batch dimension (i.e. 2D or 3D inputs)."
        )
    return _dropped(input, p, training, inplace, x.ndim - 1, alpha=False)


def dropout2d(input: ArrayLike, p: float = 0.5, training: bool = True, inplace: bool = False) -> jax.Array:
    """`dropout` of whole channels of images: one draw a channel (Tompson et al., 2015).

    Args:
        input: the images.
        p: the probability of zeroing.
        training: whether to do it at all; if not, the input is returned as it is.
        inplace: write the result into `input` and return that, if it is a box; an array can't change.

    Shape:
        - Input and output: `(N, C, H, W)`. As in torch, three dimensions are `(N, C, L)`, with a warning.

    Raises:
        ValueError: `p` is not in `[0, 1]`.
        RuntimeError: the input has fewer than two dimensions when training, or is not floating-point.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn import functional as F
        >>> len(set(F.dropout2d(jnp.ones((1, 1, 4, 4)), 0.5).reshape(-1).tolist()))
        1
    """
    _check(p)
    x = unbox(input)
    if x.ndim not in (3, 4):
        _warn_rank(2, x.ndim, "3D or 4D")
    if x.ndim == 3:
        message = (
            "dropout2d: Received a 3D input to dropout2d and assuming that channel-wise 1D dropout behavior is desired "
            "- input is interpreted as shape (N, C, L), where C is the channel dim. This behavior will change in a "
            "future release to interpret the input as one without a batch dimension, i.e. shape (C, H, W). To maintain "
            "the 1D channel-wise dropout behavior, please switch to using dropout1d instead."
        )
        warnings.warn(message, stacklevel=2)
    return _dropped(input, p, training, inplace, _channels(x, 0, p, training), alpha=False)


def dropout3d(input: ArrayLike, p: float = 0.5, training: bool = True, inplace: bool = False) -> jax.Array:
    """`dropout` of whole channels of volumes: one draw a channel (Tompson et al., 2015).

    Args:
        input: the volumes.
        p: the probability of zeroing.
        training: whether to do it at all; if not, the input is returned as it is.
        inplace: write the result into `input` and return that, if it is a box; an array can't change.

    Shape:
        - Input and output: `(N, C, D, H, W)` or `(C, D, H, W)`.

    Raises:
        ValueError: `p` is not in `[0, 1]`.
        RuntimeError: the input has no dimensions when training, or is not floating-point.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn import functional as F
        >>> len(set(F.dropout3d(jnp.ones((1, 2, 2, 2)), 0.5).reshape(-1).tolist()))
        1
    """
    _check(p)
    x = unbox(input)
    if x.ndim not in (4, 5):
        _warn_rank(3, x.ndim, "4D or 5D")
    return _dropped(input, p, training, inplace, _channels(x, int(x.ndim != 5), p, training), alpha=False)


def feature_alpha_dropout(input: ArrayLike, p: float = 0.5, training: bool = False, inplace: bool = False) -> jax.Array:
    """`alpha_dropout` of whole channels: one draw a channel.

    Args:
        input: sequences, images or volumes.
        p: the probability of setting a channel to SELU's negative saturation.
        training: whether to do it at all; if not, the input is returned as it is.
        inplace: write the result into `input` and return that, if it is a box; an array can't change.

    Shape:
        - Input and output: `(N, C, *)`.

    Raises:
        ValueError: `p` is not in `[0, 1]`.
        RuntimeError: the input has fewer than two dimensions when training, or is not floating-point.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn import functional as F
        >>> len(set(F.feature_alpha_dropout(jnp.zeros((1, 1, 9)), 0.5, training=True).reshape(-1).tolist()))
        1
    """
    _check(p)
    return _dropped(input, p, training, inplace, _channels(unbox(input), 0, p, training), alpha=True)


def _channels(x: jax.Array, missing: int, p: float, training: bool) -> int:
    """How many leading dimensions tell channels apart, where `missing` of batch and channels are not there.

    Raises:
        RuntimeError: there are too few, and something is to be drawn for them.
    """
    if x.ndim + missing < 2 and training and p not in (0.0, 1.0) and x.size:
        raise RuntimeError(
            f"Feature dropout requires at least 2 dimensions in the input, but it has size {shape_list(x)}"
        )
    return 2 - missing


def _warn_rank(n: int, ndim: int, expected: str) -> None:
    message = (
        f"dropout{n}d: Received a {ndim}-D input to dropout{n}d, which is deprecated and will result in an error in a "
        "future release. To retain the behavior and silence this warning, please use dropout instead. Note that "
        f"dropout{n}d exists to provide channel-wise dropout on inputs with {n} spatial dimensions, a channel "
        f"dimension, and an optional batch dimension (i.e. {expected} inputs)."
    )
    warnings.warn(message, stacklevel=3)

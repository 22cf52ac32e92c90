"""Moving elements between channels and pixels, and among channels."""

from __future__ import annotations

import math

import jax
import numpy as np

from ...core.box import unbox
from ._common import ArrayLike, compiled, shape_list

__all__ = ["channel_shuffle", "native_channel_shuffle", "pixel_shuffle", "pixel_unshuffle"]


@compiled("r")
def _pixel_shuffle(x: jax.Array, *, r: int) -> jax.Array:
    *batch, channels, height, width = x.shape
    x = x.reshape(math.prod(batch), channels // (r * r), r, r, height, width)
    return x.transpose(0, 1, 4, 2, 5, 3).reshape(*batch, channels // (r * r), height * r, width * r)


@compiled("r")
def _pixel_unshuffle(x: jax.Array, *, r: int) -> jax.Array:
    *batch, channels, height, width = x.shape
    x = x.reshape(math.prod(batch), channels, height // r, r, width // r, r)
    return x.transpose(0, 1, 3, 5, 2, 4).reshape(*batch, channels * r * r, height // r, width // r)


@compiled("groups")
def _channel_shuffle(x: jax.Array, *, groups: int) -> jax.Array:
    grouped = x.reshape(x.shape[0], groups, x.shape[1] // groups, *x.shape[2:])
    return grouped.swapaxes(1, 2).reshape(x.shape)


def pixel_shuffle(input: ArrayLike, upscale_factor: int) -> jax.Array:
    """Make each `r ** 2` channels one of `r` times the height and width (Shi et al., 2016).

    Args:
        input: the images.
        upscale_factor: `r`.

    Shape:
        - Input: `(*, C r^2, H, W)`.
        - Output: `(*, C, H r, W r)`.

    Raises:
        RuntimeError: the input has fewer than three dimensions, `r` is not positive, or the number of channels is not
            divisible by its square.
        TypeError: `r` is no integer.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn import functional as F
        >>> F.pixel_shuffle(jnp.arange(4.0).reshape(4, 1, 1), 2).tolist()
        [[[0.0, 1.0], [2.0, 3.0]]]
    """
    x, r = unbox(input), upscale_factor
    _check_images("pixel_shuffle", x, "upscale_factor", r)
    channels = x.shape[-3]
    if channels % (r * r):
        raise RuntimeError(
            "pixel_shuffle expects its input's 'channel' dimension to be divisible by the square of upscale_factor, "
            f"but input.size(-3)={channels} is not divisible by {r * r}: input {shape_list(x)}"
        )
    return _pixel_shuffle(x, r=int(r))


def pixel_unshuffle(input: ArrayLike, downscale_factor: int) -> jax.Array:
    """Make `r ** 2` channels of each, with the height and width divided by `r`: `pixel_shuffle` undone.

    Args:
        input: the images.
        downscale_factor: `r`.

    Shape:
        - Input: `(*, C, H r, W r)`.
        - Output: `(*, C r^2, H, W)`.

    Raises:
        RuntimeError: the input has fewer than three dimensions, or `r` is not positive or does not divide its height
            and width.
        TypeError: `r` is no integer.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn import functional as F
        >>> F.pixel_unshuffle(jnp.arange(4.0).reshape(1, 2, 2), 2).reshape(-1).tolist()
        [0.0, 1.0, 2.0, 3.0]
    """
    x, r = unbox(input), downscale_factor
    _check_images("pixel_unshuffle", x, "downscale_factor", r)
    for name, size in (("height", x.shape[-2]), ("width", x.shape[-1])):
        if size % r:
            raise RuntimeError(
                f"pixel_unshuffle expects {name} to be divisible by downscale_factor, but {size} is not divisible by "
                f"{r}: input {shape_list(x)}"
            )
    return _pixel_unshuffle(x, r=int(r))


def channel_shuffle(input: ArrayLike, groups: int) -> jax.Array:
    """Interleave the channels of `groups` groups: the first of each, then the second of each (Zhang et al., 2018).

    Args:
        input: the images.
        groups: the number of groups.

    Shape:
        - Input and output: `(N, C, *)`.

    Raises:
        RuntimeError: the input has fewer than three dimensions, or `groups` is not positive or does not divide the
            number of channels.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn import functional as F
        >>> F.channel_shuffle(jnp.arange(4.0).reshape(1, 4, 1), 2).reshape(-1).tolist()
        [0.0, 2.0, 1.0, 3.0]
    """
    x = unbox(input)
    if x.ndim < 3:
        raise RuntimeError(f"channel_shuffle expects input with > 2 dims, but got input with sizes {shape_list(x)}")
    if groups <= 0:
        raise RuntimeError(f"Number of groups to divide channels in must be positive. Value of groups:{groups}")
    if x.shape[1] % groups:
        raise RuntimeError(
            f"Number of channels must be divisible by groups. Got {x.shape[1]} channels and {groups} groups: "
            f"input {shape_list(x)}"
        )
    return _channel_shuffle(x, groups=int(groups))


def native_channel_shuffle(input: ArrayLike, groups: int) -> jax.Array:
    """`channel_shuffle`, under the name of torch's kernel.

    Args:
        input: the images.
        groups: the number of groups.

    Shape:
        - Input and output: `(N, C, *)`.

    Raises:
        RuntimeError: see `channel_shuffle`.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn import functional as F
        >>> F.native_channel_shuffle(jnp.arange(4.0).reshape(1, 4, 1), 2).reshape(-1).tolist()
        [0.0, 2.0, 1.0, 3.0]
    """
    return channel_shuffle(input, groups)


def _check_images(name: str, x: jax.Array, argument: str, factor: int) -> None:
    if x.ndim < 3:
        raise RuntimeError(
            f"{name} expects input to have at least 3 dimensions, but got input with {x.ndim} dimension(s): "
            f"{shape_list(x)}"
        )
    if not isinstance(factor, int | np.integer):
        raise TypeError(f"{name}(): argument '{argument}' must be int, not {type(factor).__name__}")
    if factor <= 0:
        raise RuntimeError(f"{name} expects a positive {argument}, but got {factor}")

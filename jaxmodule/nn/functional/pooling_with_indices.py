"""The poolings that also tell where each maximum was, under torch's names for them."""

from __future__ import annotations

import jax

from ._common import ArrayLike, IntOrTuple
from .adaptive_pooling import OutputSize, adaptive_max_pool1d, adaptive_max_pool2d, adaptive_max_pool3d
from .fractional_pooling import Ratio, fractional_max_pool2d, fractional_max_pool3d
from .max_pooling import max_pool1d, max_pool2d, max_pool3d

__all__ = [
    "adaptive_max_pool1d_with_indices",
    "adaptive_max_pool2d_with_indices",
    "adaptive_max_pool3d_with_indices",
    "fractional_max_pool2d_with_indices",
    "fractional_max_pool3d_with_indices",
    "max_pool1d_with_indices",
    "max_pool2d_with_indices",
    "max_pool3d_with_indices",
]


def max_pool1d_with_indices(
    input: ArrayLike,
    kernel_size: IntOrTuple,
    stride: IntOrTuple | None = None,
    padding: IntOrTuple = 0,
    dilation: IntOrTuple = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> tuple[jax.Array, jax.Array]:
    """The largest element of each window of a signal and its flat index in `L`.

    Args:
        input, kernel_size, stride, padding, dilation, ceil_mode: as `max_pool1d`.
        return_indices: for torch's signature; the indices are returned in any case.

    Shape: as `max_pool1d`, twice.

    Raises: as `max_pool1d`.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn import functional as F
        >>> [y.tolist() for y in F.max_pool1d_with_indices(jnp.arange(6.0).reshape(1, 1, 6), 2)]
        [[[[1.0, 3.0, 5.0]]], [[[1, 3, 5]]]]
    """
    return max_pool1d(input, kernel_size, stride, padding, dilation, ceil_mode, return_indices=True)


def max_pool2d_with_indices(
    input: ArrayLike,
    kernel_size: IntOrTuple,
    stride: IntOrTuple | None = None,
    padding: IntOrTuple = 0,
    dilation: IntOrTuple = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> tuple[jax.Array, jax.Array]:
    """The largest element of each window of an image and its flat index in `H * W`.

    Args:
        input, kernel_size, stride, padding, dilation, ceil_mode: as `max_pool2d`.
        return_indices: for torch's signature; the indices are returned in any case.

    Shape: as `max_pool2d`, twice.

    Raises: as `max_pool2d`.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn import functional as F
        >>> F.max_pool2d_with_indices(jnp.arange(16.0).reshape(1, 1, 4, 4), 2)[1][0, 0].tolist()
        [[5, 7], [13, 15]]
    """
    return max_pool2d(input, kernel_size, stride, padding, dilation, ceil_mode, return_indices=True)


def max_pool3d_with_indices(
    input: ArrayLike,
    kernel_size: IntOrTuple,
    stride: IntOrTuple | None = None,
    padding: IntOrTuple = 0,
    dilation: IntOrTuple = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> tuple[jax.Array, jax.Array]:
    """The largest element of each window of a volume and its flat index in `D * H * W`.

    Args:
        input, kernel_size, stride, padding, dilation, ceil_mode: as `max_pool3d`.
        return_indices: for torch's signature; the indices are returned in any case.

    Shape: as `max_pool3d`, twice.

    Raises: as `max_pool3d`.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn import functional as F
        >>> F.max_pool3d_with_indices(jnp.arange(64.0).reshape(1, 1, 4, 4, 4), 2)[1][0, 0, 0].tolist()
        [[21, 23], [29, 31]]
    """
    return max_pool3d(input, kernel_size, stride, padding, dilation, ceil_mode, return_indices=True)


def adaptive_max_pool1d_with_indices(
    input: ArrayLike, output_size: OutputSize, return_indices: bool = False
) -> tuple[jax.Array, jax.Array]:
    """`adaptive_max_pool1d(return_indices=True)`: the maxima and their flat indices.

    Args:
        input, output_size: as `adaptive_max_pool1d`.
        return_indices: for torch's signature; the indices are returned in any case.

    Shape: as `adaptive_max_pool1d`, twice.

    Raises: as `adaptive_max_pool1d`.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn import functional as F
        >>> [y.tolist() for y in F.adaptive_max_pool1d_with_indices(jnp.arange(5.0).reshape(1, 1, 5), 2)]
        [[[[2.0, 4.0]]], [[[2, 4]]]]
    """
    return adaptive_max_pool1d(input, output_size, return_indices=True)


def adaptive_max_pool2d_with_indices(
    input: ArrayLike, output_size: OutputSize, return_indices: bool = False
) -> tuple[jax.Array, jax.Array]:
    """`adaptive_max_pool2d(return_indices=True)`: the maxima and their flat indices.

    Args:
        input, output_size: as `adaptive_max_pool2d`.
        return_indices: for torch's signature; the indices are returned in any case.

    Shape: as `adaptive_max_pool2d`, twice.

    Raises: as `adaptive_max_pool2d`.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn import functional as F
        >>> F.adaptive_max_pool2d_with_indices(jnp.arange(6.0).reshape(1, 1, 2, 3), (1, 2))[1][0, 0].tolist()
        [[4, 5]]
    """
    return adaptive_max_pool2d(input, output_size, return_indices=True)


def adaptive_max_pool3d_with_indices(
    input: ArrayLike, output_size: OutputSize, return_indices: bool = False
) -> tuple[jax.Array, jax.Array]:
    """`adaptive_max_pool3d(return_indices=True)`: the maxima and their flat indices.

    Args:
        input, output_size: as `adaptive_max_pool3d`.
        return_indices: for torch's signature; the indices are returned in any case.

    Shape: as `adaptive_max_pool3d`, twice.

    Raises: as `adaptive_max_pool3d`.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn import functional as F
        >>> F.adaptive_max_pool3d_with_indices(jnp.arange(8.0).reshape(1, 1, 2, 2, 2), 1)[1].tolist()
        [[[[[7]]]]]
    """
    return adaptive_max_pool3d(input, output_size, return_indices=True)


def fractional_max_pool2d_with_indices(
    input: ArrayLike,
    kernel_size: IntOrTuple,
    output_size: IntOrTuple | None = None,
    output_ratio: Ratio | None = None,
    return_indices: bool = False,
    _random_samples: ArrayLike | None = None,
) -> tuple[jax.Array, jax.Array]:
    """`fractional_max_pool2d(return_indices=True)`: the maxima and their flat indices.

    Args:
        input, kernel_size, output_size, output_ratio, _random_samples: as `fractional_max_pool2d`.
        return_indices: for torch's signature; the indices are returned in any case.

    Shape: as `fractional_max_pool2d`, twice.

    Raises: as `fractional_max_pool2d`.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn import functional as F
        >>> y, index = F.fractional_max_pool2d_with_indices(jnp.ones((20, 16, 50, 32)), 3, output_size=(13, 12))
        >>> index.shape
        (20, 16, 13, 12)
    """
    return fractional_max_pool2d(
        input, kernel_size, output_size, output_ratio, return_indices=True, _random_samples=_random_samples
    )


def fractional_max_pool3d_with_indices(
    input: ArrayLike,
    kernel_size: IntOrTuple,
    output_size: IntOrTuple | None = None,
    output_ratio: Ratio | None = None,
    return_indices: bool = False,
    _random_samples: ArrayLike | None = None,
) -> tuple[jax.Array, jax.Array]:
    """`fractional_max_pool3d(return_indices=True)`: the maxima and their flat indices.

    Args:
        input, kernel_size, output_size, output_ratio, _random_samples: as `fractional_max_pool3d`.
        return_indices: for torch's signature; the indices are returned in any case.

    Shape: as `fractional_max_pool3d`, twice.

    Raises: as `fractional_max_pool3d`.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn import functional as F
        >>> y, index = F.fractional_max_pool3d_with_indices(jnp.ones((2, 3, 10, 8, 6)), 2, output_ratio=0.5)
        >>> index.shape
        (2, 3, 5, 4, 3)
    """
    return fractional_max_pool3d(
        input, kernel_size, output_size, output_ratio, return_indices=True, _random_samples=_random_samples
    )

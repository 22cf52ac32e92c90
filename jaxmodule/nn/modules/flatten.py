"""Merging of dimensions, and its reverse."""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax

from ...core.box import unbox
from ..functional._common import ArrayLike, normalize_dim, shape_list
from ..module import Module

__all__ = ["Flatten", "Unflatten"]


class Flatten(Module):
    """Merge the dimensions `start_dim` to `end_dim`, both included, into one.

    Args:
        start_dim: the first; negative counts from the back, as below.
        end_dim: the last.

    Shape:
        - Input: `(*, S_start, ..., S_end, *)`.
        - Output: `(*, S_start * ... * S_end, *)`. A scalar becomes `(1)`.

    Raises:
        IndexError: on call, the input has no such dimension.
        RuntimeError: on call, `start_dim` comes after `end_dim`.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> nn.Flatten()(jnp.ones((32, 1, 5, 5))).shape
        (32, 25)
    """

    def __init__(self, start_dim: int = 1, end_dim: int = -1) -> None:
        super().__init__()
        self.start_dim = start_dim
        self.end_dim = end_dim

    def forward(self, input: ArrayLike) -> jax.Array:
        """Merge the dimensions."""
        x = unbox(input)
        start, end = normalize_dim(self.start_dim, x.ndim), normalize_dim(self.end_dim, x.ndim)
        if start > end:
            raise RuntimeError(
                "flatten() has invalid args: start_dim cannot come after end_dim, "
                f"but start_dim={self.start_dim}, end_dim={self.end_dim} and the input has size {list(x.shape)}"
            )
        return x.reshape(*x.shape[:start], math.prod(x.shape[start : end + 1]), *x.shape[end + 1 :])

    def extra_repr(self) -> str:
        """The constructor's arguments."""
        return f"start_dim={self.start_dim}, end_dim={self.end_dim}"


class Unflatten(Module):
    """Split the dimension `dim` into several.

    Args:
        dim: the dimension; negative counts from the back.
        unflattened_size: the sizes to split it into, of which one may be -1: what remains.

    Shape:
        - Input: `(*, S, *)`.
        - Output: `(*, U_1, ..., U_n, *)`, where `S = U_1 * ... * U_n`.

    Raises:
        TypeError: the sizes are no tuple or list of ints, or `dim` is no int. Arrays have no named dimensions.
        IndexError: on call, the input has no such dimension.
        RuntimeError: on call, the sizes don't multiply up to the dimension's, or there are none.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> nn.Unflatten(1, (2, 5, -1))(jnp.ones((2, 50))).shape
        (2, 2, 5, 5)
    """

    def __init__(self, dim: int, unflattened_size: Sequence[int]) -> None:
        super().__init__()
        if not isinstance(unflattened_size, tuple | list):
            raise TypeError(
                f"unflattened_size must be a tuple of ints, but found type {type(unflattened_size).__name__}"
            )
        for position, size in enumerate(unflattened_size):
            if not isinstance(size, int):
                raise TypeError(
                    "unflattened_size must be tuple of ints, "
                    f"but found element of type {type(size).__name__} at pos {position}"
                )
        self.dim = dim
        self.unflattened_size = unflattened_size

    def forward(self, input: ArrayLike) -> jax.Array:
        """Split the dimension."""
        x, sizes = unbox(input), list(self.unflattened_size)
        if not isinstance(self.dim, int):
            raise TypeError(
                f"unflatten(): argument 'dim' must be int, not {type(self.dim).__name__}: "
                "arrays have no named dimensions"
            )
        dim = normalize_dim(self.dim, x.ndim)
        if not sizes or not x.ndim:
            raise RuntimeError(
                f"unflatten: sizes must be non-empty and for a dimension, but are {sizes} for {shape_list(x)}"
            )
        total, known = x.shape[dim], math.prod(size for size in sizes if size != -1)
        inferred = sizes.count(-1) == 1 and known > 0 and total % known == 0
        if min(sizes) < -1 or not (inferred or (-1 not in sizes and known == total)):
            raise RuntimeError(
                f"unflatten: Provided sizes {sizes} don't multiply up to the size of dim {self.dim} ({total}) "
                f"in the input tensor of size {shape_list(x)}"
            )
        sizes = [total // known if size == -1 else size for size in sizes]
        return x.reshape(*x.shape[:dim], *sizes, *x.shape[dim + 1 :])

    def extra_repr(self) -> str:
        """The constructor's arguments."""
        return f"dim={self.dim}, unflattened_size={self.unflattened_size}"

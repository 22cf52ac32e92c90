"""Parameters as one vector, and back."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ...core.box import Box, unbox
from ...core.context import Tracer
from ..functional._common import ArrayLike
from ._dtypes import common_dtype

__all__ = ["parameters_to_vector", "vector_to_parameters"]


def _check_devices(arrays: list[Any]) -> None:
    """Raise where concrete arrays are on different devices.

    Raises:
        TypeError: they are.
    """
    placed = [array.devices() for array in arrays if isinstance(array, jax.Array) and not isinstance(array, Tracer)]
    if any(devices != placed[0] for devices in placed[1:]):
        raise TypeError("Found two parameters on different devices, this is currently not supported.")


def parameters_to_vector(parameters: Iterable[ArrayLike]) -> jax.Array:
    """The values of several parameters, flattened, one after the other.

    Args:
        parameters: parameters or arrays. Different dtypes give their common one.

    Shape:
        - Output: `(n)`, the number of all elements.

    Raises:
        ValueError: there are none.
        TypeError: they are on different devices.

    Example:
        >>> from jaxmodule import nn
        >>> nn.utils.parameters_to_vector(nn.Linear(3, 2).parameters()).shape
        (8,)
    """
    arrays = [unbox(parameter) for parameter in parameters]
    if not arrays:
        raise ValueError("parameters_to_vector(): expected a non-empty list of Tensors")
    _check_devices(arrays)
    dtype = common_dtype(arrays)
    return jnp.concatenate([array.reshape(-1).astype(dtype) for array in arrays])


def vector_to_parameters(vec: ArrayLike, parameters: Iterable[Box]) -> None:
    """Write consecutive pieces of a vector into parameters. They take the vector's dtype, as in torch.

    Args:
        vec: `(n)`. What is left over is not used.
        parameters: the parameters.

    Raises:
        TypeError: `vec` is no array, or the parameters are on different devices.
        RuntimeError: it is too short; then nothing is written.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> layer = nn.Linear(3, 2)
        >>> nn.utils.vector_to_parameters(jnp.arange(8.0), layer.parameters())
        >>> layer.bias.tolist()
        [6.0, 7.0]
    """
    if not isinstance(vec, (jax.Array, Box, np.ndarray)):
        raise TypeError(f"expected torch.Tensor, but got: {type(vec).__name__}")
    vector = unbox(vec)
    boxes = list(parameters)
    _check_devices([box.value for box in boxes])
    pieces = []
    start = 0
    for box in boxes:
        size = box.size
        piece = vector[start : start + size]
        if piece.size != size:
            raise RuntimeError(f"shape '{list(box.shape)}' is invalid for input of size {piece.size}")
        pieces.append(piece.reshape(box.shape))
        start += size
    for box, piece in zip(boxes, pieces, strict=True):
        box.value = piece

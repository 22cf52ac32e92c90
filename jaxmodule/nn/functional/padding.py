"""Padding with a constant or with values of the input itself; convolutions with a padding mode use it too."""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import DTypeLike

from ...core.box import Box, unbox
from ._autocast import autocasts
from ._common import ArrayLike, compiled, require_inexact, shape_list
from ._windows import integers

__all__ = ["pad"]

Pads = tuple[tuple[int, int], ...]

_MODES = ("constant", "reflect", "replicate", "circular")


@compiled("pads", "selected")
def _pad_constant(x: jax.Array, value: jax.Array, *, pads: Pads, selected: bool) -> jax.Array:
    config = ((0, 0, 0),) * (x.ndim - len(pads)) + tuple((low, high, 0) for low, high in pads)
    if not selected:
        return lax.pad(x, value, config)
    # lax.pad has no gradient by its value alone (JAX 0.10): its rule wants the operand's too
    inside = lax.pad(jnp.ones(x.shape, jnp.bool_), np.False_, config)
    return jnp.where(inside, lax.pad(x, jnp.zeros((), x.dtype), config), value)


@compiled("pads", "mode")
def _pad_with_itself(x: jax.Array, *, pads: Pads, mode: str) -> jax.Array:
    for axis, (low, high) in enumerate(pads, x.ndim - len(pads)):
        if mode == "circular":  # what is cropped doesn't come back round the other end; elsewhere it can
            x = _crop(x, axis, low, high)
        x = _extend(x, axis, max(low, 0), max(high, 0), mode)
        if mode != "circular":
            x = _crop(x, axis, low, high)
    return x


def _crop(x: jax.Array, axis: int, low: int, high: int) -> jax.Array:
    return lax.slice_in_dim(x, max(-low, 0), x.shape[axis] - max(-high, 0), axis=axis)


def _extend(x: jax.Array, axis: int, low: int, high: int, mode: str) -> jax.Array:
    size = x.shape[axis]

    def part(start: int, stop: int) -> jax.Array:
        return lax.slice_in_dim(x, start, stop, axis=axis)

    def repeated(start: int, times: int) -> jax.Array:
        shape = (*x.shape[:axis], times, *x.shape[axis + 1 :])
        return lax.broadcast_in_dim(part(start, start + 1), shape, range(x.ndim))

    parts = [x]
    if low:
        if mode == "replicate":
            before = repeated(0, low)
        else:
            before = lax.rev(part(1, low + 1), (axis,)) if mode == "reflect" else part(size - low, size)
        parts.insert(0, before)
    if high:
        if mode == "replicate":
            behind = repeated(size - 1, high)
        else:
            behind = lax.rev(part(size - 1 - high, size - 1), (axis,)) if mode == "reflect" else part(0, high)
        parts.append(behind)
    return lax.concatenate(parts, axis) if len(parts) > 1 else x


@autocasts
def pad(
    input: ArrayLike, pad: Sequence[int], mode: str = "constant", value: float | ArrayLike | None = None
) -> jax.Array:
    """Pad the last dimensions of an array. Negative padding takes elements away.

    Args:
        input: the array.
        pad: `(left, right)` of the last dimension, then `(top, bottom)` of the one before, and so on.
        mode: "constant", "reflect" (mirrored without the border), "replicate" (the border) or "circular" (the other
            end). The last three pad the last dimension of a 2D or 3D array, the last two of a 3D or 4D array, or the
            last three of a 4D or 5D array, and no others.
        value: what "constant" pads with, a number or an array without dimensions; None is 0.

    Shape:
        - Input: any for "constant".
        - Output: `left + right` more elements in the last dimension, `top + bottom` in the one before.

    Raises:
        RuntimeError: the padding's length or sizes don't fit the input, or `value` doesn't fit its dtype or the mode.
        NotImplementedError: the mode is unknown, or doesn't pad so many dimensions of such an input or its dtype.
        TypeError: an argument has another type.

    Note:
        In "circular" mode an element that is cropped off one side is no padding for the other. torch gives
        uninitialised memory where fewer elements are left than are asked for; that is an error here.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn import functional as F
        >>> F.pad(jnp.arange(3.0), (1, 2), value=9.0).tolist()
        [9.0, 0.0, 1.0, 2.0, 9.0, 9.0]
        >>> F.pad(jnp.arange(3.0)[None], (2, 1), mode="reflect").tolist()
        [[2.0, 1.0, 0.0, 1.0, 2.0, 1.0]]
    """
    x = unbox(input)
    if not isinstance(mode, str):
        raise TypeError(f"pad(): argument 'mode' must be a str, not {type(mode).__name__}")
    if isinstance(pad, int):
        raise TypeError(f"pad(): argument 'pad' must be a sequence of ints, not {pad!r}")
    flat = integers("pad(): argument 'pad'", pad)
    if len(flat) % 2:
        raise RuntimeError(f"Padding length must be divisible by 2, but got {len(flat)}: {flat}")
    if len(flat) > 2 * x.ndim:
        raise RuntimeError(
            "Padding length should be less than or equal to two times the input dimension "
            f"but got padding length {len(flat)} and input of dimension {x.ndim} ({shape_list(x)})"
        )
    if mode not in _MODES:
        raise NotImplementedError(f"Unrecognised padding mode {mode!r}, which is one of {', '.join(_MODES)}")
    pads = tuple(zip(flat[-2::-2], flat[-1::-2], strict=True))
    if mode == "constant":
        _check_crop(x, pads)
        return _pad_constant(x, _fill(value, x.dtype), pads=pads, selected=isinstance(value, Box | jax.Array))
    if value is not None and (isinstance(value, Box | jax.Array | np.ndarray) or value != 0):
        raise RuntimeError(f'Padding mode "{mode}" doesn\'t take in value argument, but got {value}')
    if len(pads) not in (1, 2, 3) or x.ndim - len(pads) not in (1, 2):
        raise NotImplementedError(f"Padding size {len(flat)} is not supported for {x.ndim}D input {shape_list(x)}")
    _check_extent(x, pads, mode)
    return _pad_with_itself(x, pads=pads, mode=mode)


def _fill(value: object, dtype: DTypeLike) -> jax.Array | np.ndarray:
    """A value to pad with in the array's dtype, which it must fit in as torch asks."""
    dtype = jnp.dtype(dtype)
    if value is None:
        value = 0
    if isinstance(value, Box | jax.Array | np.ndarray):
        array = unbox(value)
        if array.ndim or (jnp.iscomplexobj(array) and not jnp.issubdtype(dtype, jnp.complexfloating)):
            raise TypeError(f"pad(): argument 'value' must be a number, not {array.dtype.name}{shape_list(array)}")
        return lax.convert_element_type(array, dtype)
    if not isinstance(value, bool | int | float | np.bool_ | np.integer | np.floating):
        raise TypeError(f"pad(): argument 'value' must be float, not {type(value).__name__}")
    number = value if isinstance(value, int) else float(value)
    if dtype == jnp.bool_:
        return np.asarray(bool(number))
    if jnp.issubdtype(dtype, jnp.integer):
        limits = jnp.iinfo(dtype)
        fits = math.isfinite(number) and limits.min <= int(number) <= limits.max
        number = int(number) if fits else number
    else:
        fits = not math.isfinite(number) or abs(number) <= float(jnp.finfo(dtype).max)
    if not fits:
        raise RuntimeError(f"value cannot be converted to type {dtype.name} without overflow: {value}")
    return np.asarray(number).astype(dtype)


def _sizes(x: jax.Array, pads: Pads) -> list[tuple[int, int, int]]:
    return [(n, *lo_hi) for n, lo_hi in zip(x.shape[x.ndim - len(pads) :], pads, strict=True)]


def _check_crop(x: jax.Array, pads: Pads) -> None:
    for size, low, high in _sizes(x, pads):
        if size + min(low, 0) + min(high, 0) < 0:
            raise RuntimeError(
                f"The input size {size}, plus negative padding {low} and {high}, resulted in a negative output size "
                f"(input {shape_list(x)}, padding {pads} of its last {len(pads)} dimensions)"
            )


def _check_extent(x: jax.Array, pads: Pads, mode: str) -> None:
    """That each padding is made of elements that are there."""
    n = len(pads)
    if mode == "circular":
        _check_crop(x, pads)
    elif x.dtype == jnp.bool_:
        require_inexact(x, f"{mode}_pad{n}d")
    elif 0 in x.shape[-n - 1 :]:
        raise RuntimeError(
            f"Expected {n + 1}D or {n + 2}D (batch mode) tensor with possibly 0 batch size and other non-zero "
            f"dimensions for input, but got: {shape_list(x)}"
        )
    for size, low, high in _sizes(x, pads):
        if mode == "reflect" and max(low, high) >= size:
            raise RuntimeError(
                "Padding size should be less than the corresponding input dimension, "
                f"but got: padding {(low, high)} of a dimension of size {size} of input {shape_list(x)}"
            )
        if mode == "circular" and max(low, high) > size + min(low, 0) + min(high, 0):
            raise RuntimeError(
                "Padding value causes wrapping around more than once: "
                f"padding {(low, high)} of a dimension of size {size} of input {shape_list(x)}"
            )
    left = [size + low + high for size, low, high in _sizes(x, pads)]
    if mode != "circular" and (max(left) < 1 or min(left) < 0):  # torch lets some of the sizes be 0
        raise RuntimeError(f"input {shape_list(x)} is too small: padding {pads} leaves {left} of its last dimensions")

"""What the functionals share: compilation of their pure part, argument shapes, dtypes and reductions.

A functional is two layers. The public function unboxes its arguments, checks them and raises torch's errors; the
pure part under `compiled` is plain `jax.numpy`. Eagerly the pure part is then one dispatch instead of one an
operation; inside an outer trace `inline=True` leaves the operations in the caller's program with no call between.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Sequence
from typing import Literal, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from ...core.box import Box
from ...core.context import Tracer

ArrayLike = Box | jax.Array | np.ndarray
IntOrTuple = int | Sequence[int]
Reduction = Literal["none", "mean", "sum"]
R = TypeVar("R")

HALF_DTYPES = (jnp.dtype(jnp.float16), jnp.dtype(jnp.bfloat16))


def compiled(*static: str) -> Callable[[Callable[..., R]], Callable[..., R]]:
    """Decorate a pure function: one dispatch when eager, inlined when traced; `static` names its hyper-parameters."""
    return functools.partial(jax.jit, static_argnames=static, inline=True)  # pyright: ignore[reportReturnType]


def opmath_dtype(dtype: DTypeLike) -> np.dtype:
    """The dtype torch accumulates in: float32 for float16 and bfloat16, otherwise the dtype itself."""
    dtype = jnp.dtype(dtype)
    return jnp.dtype(jnp.float32) if dtype in HALF_DTYPES else dtype


def is_floating(x: jax.Array) -> bool:
    """Whether `x` has a real floating-point dtype (bfloat16 and the float8 types included)."""
    return bool(jnp.issubdtype(x.dtype, jnp.floating))


def is_integer(x: jax.Array) -> bool:
    """Whether `x` has a signed or unsigned integer dtype (bool is not one)."""
    return bool(jnp.issubdtype(x.dtype, jnp.integer))


def signed_index(x: jax.Array) -> jax.Array:
    """An integer array in a signed dtype of at least 32 bits: an index that can be compared and moved out of range."""
    if x.dtype.itemsize < 4:
        return x.astype(jnp.int32)
    return x.astype(int) if jnp.issubdtype(x.dtype, jnp.unsignedinteger) else x


def laid_out_like(x: jax.Array, like: jax.Array) -> jax.Array:
    """`x` with the sharding of `like`, which operations on a mesh of explicit axes ask of both."""
    sharding = jax.typeof(like).sharding
    return x if all(axes is None for axes in sharding.spec) else jax.sharding.reshard(x, sharding)


def along_axis(vector: jax.Array, axis: int, ndim: int) -> jax.Array:
    """`vector` shaped to broadcast along `axis` of an `ndim`-dimensional array."""
    return vector.reshape((1,) * axis + (-1,) + (1,) * (ndim - 1 - axis))


def require_inexact(x: jax.Array, name: str) -> None:
    """Raise as torch does where an operation has no integer kernel.

    Raises:
        NotImplementedError: `x` is neither floating-point nor complex.
    """
    if not jnp.issubdtype(x.dtype, jnp.inexact):
        raise NotImplementedError(f'"{name}" not implemented for {x.dtype.name!r}: cast the input to a float dtype')


def concrete_range(x: jax.Array) -> tuple[int, int] | None:
    """The smallest and largest value of an integer array, or None where they can't be known (traced, remote, empty)."""
    if isinstance(x, Tracer) or x.size == 0 or not x.is_fully_addressable:
        return None
    host = np.asarray(x)
    return int(host.min()), int(host.max())


def shape_list(x: jax.Array) -> list[int]:
    """The shape as torch prints a size inside a message: `[2, 3]`."""
    return [int(n) for n in x.shape]


def normalize_dim(dim: int, ndim: int) -> int:
    """`dim` counted from the front. A scalar counts as one-dimensional, as in torch.

    Raises:
        IndexError: `dim` is not in `[-ndim, ndim - 1]`.
    """
    extent = max(ndim, 1)
    if not -extent <= dim < extent:
        raise IndexError(
            f"Dimension out of range (expected to be in range of [{-extent}, {extent - 1}], but got {dim})"
        )
    return dim % extent


def get_enum(reduction: str, *, stacklevel: int = 4) -> Reduction:
    """Check a reduction's name.

    Raises:
        ValueError: it is not "none", "mean" or "sum".
    """
    if reduction == "elementwise_mean":
        message = "reduction='elementwise_mean' is deprecated. Please use reduction='mean' instead."
        warnings.warn(message, UserWarning, stacklevel=stacklevel)
        return "mean"
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"{reduction} is not a valid value for reduction, which is one of 'none', 'mean' and 'sum'")
    return reduction  # pyright: ignore[reportReturnType]


def resolve_reduction(
    size_average: bool | None, reduce: bool | None, reduction: str, *, stacklevel: int = 5
) -> Reduction:
    """The reduction that torch's deprecated `size_average` and `reduce` ask for, or else `reduction`, checked."""
    if size_average is None and reduce is None:
        return get_enum(reduction, stacklevel=stacklevel)
    reduction = legacy_reduction(size_average, reduce, stacklevel=stacklevel)
    return get_enum(reduction)


def legacy_reduction(size_average: bool | None, reduce: bool | None, *, stacklevel: int = 3) -> Reduction:
    """Translate torch's deprecated `size_average` and `reduce`, with torch's warning."""
    if reduce is False:
        reduction: Reduction = "none"
    else:
        reduction = "sum" if size_average is False else "mean"
    message = f"size_average and reduce args will be deprecated, please use reduction={reduction!r} instead."
    warnings.warn(message, UserWarning, stacklevel=stacklevel)
    return reduction


def reduce_loss(loss: jax.Array, reduction: Reduction) -> jax.Array:
    """Apply a reduction over every element. The mean of nothing is NaN, as in torch."""
    if reduction == "none":
        return loss
    total = jnp.sum(loss)
    return total if reduction == "sum" else total / loss.size if loss.size else jnp.full_like(total, jnp.nan)


def broadcast_shape(a: jax.Array, b: jax.Array) -> tuple[int, ...]:
    """The shape that two arrays broadcast to.

    Raises:
        RuntimeError: they don't.
    """
    try:
        return np.broadcast_shapes(a.shape, b.shape)
    except ValueError:
        raise RuntimeError(
            f"The size of tensor a {shape_list(a)} must match the size of tensor b {shape_list(b)}: "
            "two sizes of a dimension must be equal, or one of them 1"
        ) from None

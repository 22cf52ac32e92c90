"""Distances and similarities of vectors."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from ...core.box import Box, unbox
from ...core.context import Tracer
from ._autocast import autocasts
from ._common import (
    ArrayLike,
    broadcast_shape,
    compiled,
    concrete_range,
    is_floating,
    is_integer,
    normalize_dim,
    opmath_dtype,
    shape_list,
)
from ._gradients import replaced
from ._norms import vector_norm

__all__ = ["cosine_similarity", "normalize", "one_hot", "pairwise_distance", "pdist"]


def _common_dtype(*arrays: jax.Array) -> np.dtype:
    """What torch promotes to: the widest floating-point dtype among them, float32 for two kinds of half precision."""
    kinds = {x.dtype for x in arrays if jnp.issubdtype(x.dtype, jnp.inexact)}
    if len(kinds) < 2:
        return kinds.pop() if kinds else jnp.dtype(jnp.float32)
    complexes = [k for k in kinds if jnp.issubdtype(k, jnp.complexfloating)]
    widest = max(complexes or kinds, key=lambda k: k.itemsize)
    return jnp.dtype(jnp.float32) if widest.itemsize == 2 else widest


@compiled("dim", "eps", "dtype")
def _cosine_similarity(x1: jax.Array, x2: jax.Array, *, dim: int, eps: float, dtype: DTypeLike) -> jax.Array:
    shape = broadcast_shape(x1, x2)

    def unit(x: jax.Array) -> jax.Array:
        x = jnp.broadcast_to(x, shape).astype(opmath_dtype(dtype))
        x = x if shape else x[None]
        norm = vector_norm(x, 2, (dim,))
        # torch clamps the norm in place, outside of what it differentiates.
        return x / jnp.broadcast_to(replaced(norm, jnp.maximum(norm, eps)), x.shape)

    return jnp.sum(unit(x1) * unit(x2), dim).astype(dtype)


@autocasts
def cosine_similarity(x1: ArrayLike, x2: ArrayLike, dim: int = 1, eps: float = 1e-8) -> jax.Array:
    """`x1 . x2 / (max(|x1|, eps) max(|x2|, eps))` along `dim`.

    Args:
        x1: any shape.
        x2: any shape that broadcasts with it.
        dim: the vectors' dimension, in the shape that both broadcast to. It is not in the output.
        eps: the smallest norm to divide by.

    Raises:
        RuntimeError: the shapes don't broadcast, or both are of integers.
        IndexError: there is no such dimension.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn import functional as F
        >>> F.cosine_similarity(jnp.array([[1.0, 0.0], [2.0, 0.0]]), jnp.array([[0.0, 1.0], [3.0, 0.0]])).tolist()
        [0.0, 1.0]
    """
    a, b = unbox(x1), unbox(x2)
    axis = normalize_dim(dim, len(broadcast_shape(a, b)))
    dtype = _common_dtype(a, b)
    if not (jnp.issubdtype(a.dtype, jnp.inexact) or jnp.issubdtype(b.dtype, jnp.inexact)):
        raise RuntimeError(
            f"expected common dtype to be floating point, yet common dtype is that of {a.dtype.name} and {b.dtype.name}"
        )
    return _cosine_similarity(a, b, dim=axis, eps=float(eps), dtype=dtype)


@compiled("p", "eps", "keepdim", "dtype")
def _pairwise_distance(
    x1: jax.Array, x2: jax.Array, *, p: float, eps: float, keepdim: bool, dtype: DTypeLike
) -> jax.Array:
    shape, wide = broadcast_shape(x1, x2), opmath_dtype(dtype)
    # The difference is rounded to the inputs' dtype, as in torch: in half precision eps may vanish in it.
    a, b = (jnp.broadcast_to(x, shape).astype(dtype) for x in (x1, x2))
    difference = (a - b + eps).astype(wide)
    if not shape:
        return vector_norm(difference[None], p, (0,))[0].astype(dtype)
    distance = vector_norm(difference, p, (len(shape) - 1,))
    return (distance if keepdim else distance[..., 0]).astype(dtype)


@autocasts
def pairwise_distance(
    x1: ArrayLike, x2: ArrayLike, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False
) -> jax.Array:
    """`|x1 - x2 + eps|_p` over the last dimension: the distance of each vector to its counterpart.

    Args:
        x1: any shape.
        x2: any shape that broadcasts with it.
        p: the norm's degree: 0 counts the coordinates that differ, infinities and negative numbers are allowed.
        eps: added to each coordinate of the difference.
        keepdim: keep the last dimension, with one element.

    Raises:
        RuntimeError: the shapes don't broadcast, or vectors of no coordinates where their norm is not defined.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn import functional as F
        >>> F.pairwise_distance(jnp.array([[3.0, 0.0]]), jnp.array([[0.0, 4.0]]), eps=0.0).tolist()
        [5.0]
    """
    a, b = unbox(x1), unbox(x2)
    shape = broadcast_shape(a, b)
    if shape and shape[-1] == 0 and (p < 0 or p == float("inf")):
        raise RuntimeError(
            f"linalg.vector_norm cannot compute the {p} norm on the dimension {len(shape) - 1} because this dimension "
            f"is empty and the operation does not have an identity: inputs {shape_list(a)} and {shape_list(b)}"
        )
    return _pairwise_distance(a, b, p=float(p), eps=float(eps), keepdim=bool(keepdim), dtype=_common_dtype(a, b))


@compiled("p")
def _pdist(x: jax.Array, *, p: float) -> jax.Array:
    first, second = np.triu_indices(x.shape[0], 1)
    wide = x.astype(opmath_dtype(x.dtype))
    difference = jnp.take(wide, first, axis=0, mode="clip") - jnp.take(wide, second, axis=0, mode="clip")
    if not difference.size:
        return jnp.zeros(len(first), x.dtype)
    return vector_norm(difference, p, (1,), False)[:, 0].astype(x.dtype)


@autocasts
def pdist(input: ArrayLike, p: float = 2) -> jax.Array:
    """`|x_i - x_j|_p` for each pair of rows `i < j`.

    Args:
        input: the vectors, one a row.
        p: the norm's degree, at least 0; 0 counts the coordinates that differ.

    Shape:
        - Input: `(N, M)`.
        - Output: `(N (N - 1) / 2)`, in the order of the rows of the upper triangle.

    Raises:
        RuntimeError: the input is no matrix of floating-point numbers, or `p` is negative.

    Note:
        The differences of all pairs are in memory at once. The gradient at a distance of 0 is 0.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn import functional as F
        >>> F.pdist(jnp.array([[0.0, 0.0], [3.0, 4.0], [0.0, 1.0]]))[:2].tolist()
        [5.0, 1.0]
    """
    x = unbox(input)
    if x.ndim != 2:
        raise RuntimeError(f"pdist only supports 2D tensors, got: {x.ndim}D, an input of size {shape_list(x)}")
    if not is_floating(x):
        raise RuntimeError(f"pdist only supports floating-point dtypes, not {x.dtype.name}")
    if not p >= 0:
        raise RuntimeError(f"pdist only supports non-negative p values, but got {p}")
    return _pdist(x, p=float(p))


@compiled("p", "axes", "eps", "dtype")
def _normalize(x: jax.Array, *, p: float, axes: tuple[int, ...], eps: float, dtype: DTypeLike) -> jax.Array:
    if not x.size:
        return x.astype(dtype)
    wide = (x if x.ndim else x[None]).astype(opmath_dtype(x.dtype))
    norm = vector_norm(wide, p, axes)
    norm = jnp.where(norm < eps, jnp.full_like(norm, eps), norm)
    return (wide / jnp.broadcast_to(norm, wide.shape)).reshape(x.shape).astype(dtype)


@autocasts
def normalize(
    input: ArrayLike, p: float = 2.0, dim: int | Sequence[int] = 1, eps: float = 1e-12, out: Box | None = None
) -> jax.Array:
    """`x / max(|x|_p, eps)` along `dim`.

    Args:
        input: any shape.
        p: the norm's degree.
        dim: the vectors' dimension, or several; none is all of them.
        eps: the smallest norm to divide by.
        out: a box to write the result into, which is then returned; nothing is differentiated.

    Raises:
        IndexError: there is no such dimension.
        RuntimeError: a dimension is named twice, the input is of integers, or `out` has another shape or an integer
            dtype.
        TypeError: `out` can't be written into.

    Note:
        In float16, where `eps` is 0, torch makes a vector of zeros NaN; here it stays 0.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn import functional as F
        >>> F.normalize(jnp.array([[3.0, 4.0]])).round(3).tolist()
        [[0.6..., 0.8...]]
    """
    x = unbox(input)
    dims = (dim,) if isinstance(dim, int) else tuple(dim) or tuple(range(x.ndim))
    axes = tuple(normalize_dim(d, x.ndim) for d in dims)
    if len(set(axes)) != len(axes):
        raise RuntimeError(f"a dim appears multiple times in the list of dims {dims}")
    if not jnp.issubdtype(x.dtype, jnp.inexact):
        raise RuntimeError(
            f"linalg.vector_norm: Expected a floating point or complex tensor as input. Got {x.dtype.name}"
        )
    options = {"p": float(p), "axes": axes, "eps": float(eps)}
    if out is None:
        return _normalize(x, **options, dtype=x.dtype)
    if not isinstance(out, Box):
        raise TypeError(
            f"out is a {type(out).__name__}, which does not change in place: pass a box as nn.Buffer(out), or none"
        )
    if out.shape != x.shape:
        raise RuntimeError(f"out has size {list(out.shape)}, but the result has size {shape_list(x)}")
    if not jnp.issubdtype(out.dtype, jnp.inexact):
        raise RuntimeError(f"result type {x.dtype.name} can't be cast to the desired output type {out.dtype.name}")
    out.value = _normalize(jax.lax.stop_gradient(x), **options, dtype=out.dtype)
    return out


@compiled("num_classes")
def _one_hot(index: jax.Array, *, num_classes: int) -> jax.Array:
    classes = jnp.arange(num_classes, dtype=index.dtype)
    shape = (*index.shape, num_classes)
    return (jnp.broadcast_to(index[..., None], shape) == jnp.broadcast_to(classes, shape)).astype(int)


def one_hot(tensor: ArrayLike, num_classes: int = -1) -> jax.Array:
    """A 1 at each index and 0 elsewhere, in a new last dimension.

    Args:
        tensor: the indices, of any shape and integer dtype.
        num_classes: the size of the new dimension; -1 is one more than the largest index.

    Raises:
        RuntimeError: the indices are no integers, one is negative or not below `num_classes` where they are concrete,
            or there are none to tell `num_classes` from.
        ValueError: `num_classes` is -1 for an array being traced.
        TypeError: `num_classes` is no integer.

    Note:
        The result has JAX's default integer dtype: int32, or int64 with `jax_enable_x64`. Under `jm.jit` no index can
        be checked: there one out of range gives zeros.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn import functional as F
        >>> F.one_hot(jnp.array([0, 2])).tolist()
        [[1, 0, 0], [0, 0, 1]]
    """
    index = unbox(tensor)
    if not is_integer(index):
        raise RuntimeError(f"one_hot is only applicable to index tensor of an integer type, not {index.dtype.name}")
    if not isinstance(num_classes, int | np.integer):
        raise TypeError(f"one_hot(): argument 'num_classes' must be int, not {type(num_classes).__name__}")
    if index.size == 0 and num_classes <= 0:
        raise RuntimeError(f"Can not infer total number of classes from empty tensor of size {shape_list(index)}.")
    if num_classes == -1 and isinstance(index, Tracer):
        raise ValueError(
            "one_hot cannot tell num_classes from indices that are being traced, as a shape may not depend on values: "
            "pass it, as in one_hot(labels, num_classes=10)"
        )
    extremes = concrete_range(index)
    if extremes is not None:
        low, high = extremes
        if low < 0:
            raise RuntimeError(f"Class values must be non-negative, but got {low}.")
        num_classes = high + 1 if num_classes == -1 else num_classes
        if high >= num_classes:
            raise RuntimeError(f"Class values must be smaller than num_classes, but got {high} for {num_classes}.")
    if num_classes < 0:
        raise RuntimeError(f"Class values must be smaller than num_classes, but num_classes is {num_classes}.")
    return _one_hot(index, num_classes=int(num_classes))

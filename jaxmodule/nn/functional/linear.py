"""Affine and bilinear maps of the last dimension."""

from __future__ import annotations

import jax
from jax import lax

from ...core.box import unbox
from ._autocast import autocasts
from ._common import ArrayLike, along_axis, compiled, opmath_dtype, shape_list

__all__ = ["bilinear", "linear"]


@compiled()
def _linear(x: jax.Array, weight: jax.Array, bias: jax.Array | None) -> jax.Array:
    # Contracting both last dimensions leaves the transposition of torch's (out, in) layout to XLA's matmul.
    y = lax.dot_general(x, weight, (((x.ndim - 1,), (weight.ndim - 1,)), ((), ())))
    if bias is not None:
        y = y + along_axis(bias, y.ndim - 1, y.ndim) if bias.ndim else y + lax.broadcast(bias, y.shape)
    return y


@autocasts
def linear(input: ArrayLike, weight: ArrayLike, bias: ArrayLike | None = None) -> jax.Array:
    r"""`y = x A^T + b` over the last dimension.

    Args:
        input: the array to map.
        weight: the matrix `A`; a vector gives the inner product with it, one dimension fewer.
        bias: `b`, or None for none. One element stands for all outputs.

    Shape:
        - Input: `(*, in_features)`.
        - Weight: `(out_features, in_features)` or `(in_features)`.
        - Bias: `(out_features)`, `(1)` or `()`.
        - Output: `(*, out_features)`, or `(*)` for a vector weight.

    Raises:
        RuntimeError: the feature counts or the dtypes differ, or the weight has more than two dimensions.

    Note:
        On GPUs and TPUs the precision of a float32 product is JAX's setting: see `jax.default_matmul_precision`.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn import functional as F
        >>> F.linear(jnp.ones((2, 3)), jnp.ones((4, 3)), jnp.arange(4.0)).shape
        (2, 4)
    """
    x, w, b = unbox(input), unbox(weight), unbox(bias)
    if x.ndim == 0 or w.ndim == 0:
        raise RuntimeError(f"both arguments to linear need to be at least 1D, but they are {x.ndim}D and {w.ndim}D")
    if w.ndim > 2:
        raise RuntimeError(f"linear expects a weight with <= 2 dimensions, but weight is {w.ndim}D: {shape_list(w)}")
    if x.shape[-1] != w.shape[-1]:
        rows = x.size // x.shape[-1] if x.shape[-1] else 0
        raise RuntimeError(
            f"mat1 and mat2 shapes cannot be multiplied ({rows}x{x.shape[-1]} and {w.shape[-1]}x{w.shape[0]}): "
            f"input {shape_list(x)} has {x.shape[-1]} features, weight {shape_list(w)} takes {w.shape[-1]}"
        )
    if x.dtype != w.dtype:
        raise RuntimeError(
            f"expected m1 and m2 to have the same dtype, but got: input {x.dtype.name} != weight {w.dtype.name}"
        )
    if b is not None:
        _check_bias(b, w)
    return _linear(x, w, b)


def _check_bias(bias: jax.Array, weight: jax.Array) -> None:
    if bias.dtype != weight.dtype:
        raise RuntimeError(
            f"weight and bias must have the same dtype, but got {weight.dtype.name} and {bias.dtype.name}"
        )
    if weight.ndim == 1:
        if bias.ndim:
            raise RuntimeError(
                f"mat2 must be a matrix, got 1-D tensor {shape_list(weight)} with a bias {shape_list(bias)}"
            )
    elif bias.shape not in ((), (1,), (weight.shape[0],)):
        raise RuntimeError(
            f"The expanded size of the tensor ({weight.shape[0]}) must match the existing size {shape_list(bias)} "
            f"of the bias: weight {shape_list(weight)} has {weight.shape[0]} outputs"
        )


@compiled()
def _bilinear(x1: jax.Array, x2: jax.Array, weight: jax.Array, bias: jax.Array | None) -> jax.Array:
    batch, wide = x1.shape[:-1], opmath_dtype(weight.dtype)
    x1, x2 = x1.reshape(-1, x1.shape[-1]), x2.reshape(-1, x2.shape[-1])
    # The larger input first: what is left to multiply with the other is then the smaller.
    first, second, axis = (x1, x2, 1) if x1.shape[1] >= x2.shape[1] else (x2, x1, 2)
    half = lax.dot_general(first, weight, (((1,), (axis,)), ((), ())), preferred_element_type=wide)  # (N, out, other)
    y = lax.dot_general(half, second.astype(wide), (((2,), (1,)), ((0,), (0,))))
    if bias is not None:
        y = y + along_axis(bias.astype(wide), 1, 2)
    return y.astype(weight.dtype).reshape(*batch, weight.shape[0])


@autocasts
def bilinear(input1: ArrayLike, input2: ArrayLike, weight: ArrayLike, bias: ArrayLike | None = None) -> jax.Array:
    r"""`y_o = x1^T A_o x2 + b_o` over the last dimensions.

    Args:
        input1: `x1`.
        input2: `x2`, with the same dimensions but the last.
        weight: the matrices `A`.
        bias: `b`, or None for none.

    Shape:
        - Input1: `(*, in1_features)`.
        - Input2: `(*, in2_features)`.
        - Weight: `(out_features, in1_features, in2_features)`.
        - Bias: `(out_features)`.
        - Output: `(*, out_features)`.

    Raises:
        RuntimeError: the shapes don't go together, or the dtypes differ.
        IndexError: the weight has fewer than three dimensions, or an input none.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn import functional as F
        >>> F.bilinear(jnp.ones((2, 3)), jnp.ones((2, 4)), jnp.ones((5, 3, 4))).shape
        (2, 5)
    """
    x1, x2, w, b = unbox(input1), unbox(input2), unbox(weight), unbox(bias)
    sizes = f"inputs {shape_list(x1)} and {shape_list(x2)}, weight {shape_list(w)}"
    if not x1.ndim or not x2.ndim or w.ndim < 3:
        raise IndexError(f"bilinear() takes inputs of one dimension at least and a weight of three, but got {sizes}")
    if x1.ndim != x2.ndim:
        raise RuntimeError(f"bilinear(): input dimensions do not match: got {x1.ndim} and {x2.ndim}: {sizes}")
    for i, (n1, n2) in enumerate(zip(x1.shape[:-1], x2.shape[:-1], strict=True)):
        if n1 != n2:
            raise RuntimeError(
                f"bilinear(): input batch dimensions do not match at dim {i}: got {n1} and {n2}: {sizes}"
            )
    for i, x in enumerate((x1, x2), start=1):
        if x.shape[-1] != w.shape[i]:
            raise RuntimeError(
                f"bilinear(): input{i} size does not match weight size: got {x.shape[-1]} but expected {w.shape[i]}: "
                f"{sizes}"
            )
    if b is not None and b.shape != w.shape[:1]:
        raise RuntimeError(
            f"bilinear(): bias size does not match weight size: got {shape_list(b)} but expected {w.shape[0]}: {sizes}"
        )
    dtypes = {a.dtype.name for a in (x1, x2, w, b) if a is not None}
    if len(dtypes) > 1:
        raise RuntimeError(f"All tensors must have the same dtype, got {sorted(dtypes)}")
    return _bilinear(x1, x2, w, b)

"""The affine map of the last dimension."""

from __future__ import annotations

import jax
from jax import lax

from ...core.box import unbox
from ._common import ArrayLike, along_axis, compiled, shape_list

__all__ = ["linear"]


@compiled()
def _linear(x: jax.Array, weight: jax.Array, bias: jax.Array | None) -> jax.Array:
    # Contracting both last dimensions leaves the transposition of torch's (out, in) layout to XLA's matmul.
    y = lax.dot_general(x, weight, (((x.ndim - 1,), (weight.ndim - 1,)), ((), ())))
    if bias is not None:
        y = y + along_axis(bias, y.ndim - 1, y.ndim) if bias.ndim else y + lax.broadcast(bias, y.shape)
    return y


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

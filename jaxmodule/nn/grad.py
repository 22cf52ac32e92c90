"""Gradients of convolutions by their input and by their weight, each given the shape of what it is the gradient of."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from ..core.box import unbox
from .functional._common import ArrayLike, IntOrTuple, compiled
from .functional._conv import (
    Ints,
    check_dtypes,
    check_steps,
    convolve,
    convolve_transposed,
    per_dimension,
)

__all__ = ["conv1d_input", "conv1d_weight", "conv2d_input", "conv2d_weight", "conv3d_input", "conv3d_weight"]


def conv1d_input(
    input_size: Sequence[int],
    weight: ArrayLike,
    grad_output: ArrayLike,
    stride: IntOrTuple = 1,
    padding: IntOrTuple = 0,
    dilation: IntOrTuple = 1,
    groups: int = 1,
) -> jax.Array:
    """The gradient of `conv1d` by its input.

    Args:
        input_size: the shape of the input, of which several can give one output.
        weight: the convolution's kernels.
        grad_output: the gradient by the output.
        stride, padding, dilation, groups: the convolution's.

    Shape:
        - `input_size` and the result: `(N, C_in, L)`.
        - Weight: `(C_out, C_in / groups, K)`.
        - `grad_output`: `(N, C_out, L_out)`.

    Raises:
        RuntimeError: these are not the shapes of one convolution, or of two dtypes.
        NotImplementedError: the dtype isn't a real floating-point one.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn.grad import conv1d_input
        >>> conv1d_input((1, 1, 5), jnp.ones((1, 1, 2)), jnp.ones((1, 1, 4))).tolist()
        [[[1.0, 2.0, 2.0, 2.0, 1.0]]]
    """
    return _input(1, input_size, weight, grad_output, stride, padding, dilation, groups)


def conv1d_weight(
    input: ArrayLike,
    weight_size: Sequence[int],
    grad_output: ArrayLike,
    stride: IntOrTuple = 1,
    padding: IntOrTuple = 0,
    dilation: IntOrTuple = 1,
    groups: int = 1,
) -> jax.Array:
    """The gradient of `conv1d` by its weight.

    Args:
        input: the convolution's input.
        weight_size: the shape of the kernels.
        grad_output: the gradient by the output.
        stride, padding, dilation, groups: the convolution's.

    Shape:
        - Input: `(N, C_in, L)`.
        - `weight_size` and the result: `(C_out, C_in / groups, K)`.
        - `grad_output`: `(N, C_out, L_out)`.

    Raises:
        RuntimeError: these are not the shapes of one convolution, or of two dtypes.
        NotImplementedError: the dtype isn't a real floating-point one.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn.grad import conv1d_weight
        >>> conv1d_weight(jnp.ones((1, 1, 5)), (1, 1, 2), jnp.ones((1, 1, 4))).tolist()
        [[[4.0, 4.0]]]
    """
    return _weight(1, input, weight_size, grad_output, stride, padding, dilation, groups)


def conv2d_input(
    input_size: Sequence[int],
    weight: ArrayLike,
    grad_output: ArrayLike,
    stride: IntOrTuple = 1,
    padding: IntOrTuple = 0,
    dilation: IntOrTuple = 1,
    groups: int = 1,
) -> jax.Array:
    """The gradient of `conv2d` by its input.

    Args:
        input_size: the shape of the input, of which several can give one output.
        weight: the convolution's kernels.
        grad_output: the gradient by the output.
        stride, padding, dilation, groups: the convolution's.

    Shape:
        - `input_size` and the result: `(N, C_in, H, W)`.
        - Weight: `(C_out, C_in / groups, K_H, K_W)`.
        - `grad_output`: `(N, C_out, H_out, W_out)`.

    Raises:
        RuntimeError: these are not the shapes of one convolution, or of two dtypes.
        NotImplementedError: the dtype isn't a real floating-point one.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn.grad import conv2d_input
        >>> conv2d_input((1, 1, 3, 3), jnp.ones((1, 1, 1, 2)), jnp.ones((1, 1, 3, 2)))[0, 0, 0].tolist()
        [1.0, 2.0, 1.0]
    """
    return _input(2, input_size, weight, grad_output, stride, padding, dilation, groups)


def conv2d_weight(
    input: ArrayLike,
    weight_size: Sequence[int],
    grad_output: ArrayLike,
    stride: IntOrTuple = 1,
    padding: IntOrTuple = 0,
    dilation: IntOrTuple = 1,
    groups: int = 1,
) -> jax.Array:
    """The gradient of `conv2d` by its weight.

    Args:
        input: the convolution's input.
        weight_size: the shape of the kernels.
        grad_output: the gradient by the output.
        stride, padding, dilation, groups: the convolution's.

    Shape:
        - Input: `(N, C_in, H, W)`.
        - `weight_size` and the result: `(C_out, C_in / groups, K_H, K_W)`.
        - `grad_output`: `(N, C_out, H_out, W_out)`.

    Raises:
        RuntimeError: these are not the shapes of one convolution, or of two dtypes.
        NotImplementedError: the dtype isn't a real floating-point one.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn.grad import conv2d_weight
        >>> conv2d_weight(jnp.ones((1, 1, 3, 3)), (1, 1, 1, 2), jnp.ones((1, 1, 3, 2))).tolist()
        [[[[6.0, 6.0]]]]
    """
    return _weight(2, input, weight_size, grad_output, stride, padding, dilation, groups)


def conv3d_input(
    input_size: Sequence[int],
    weight: ArrayLike,
    grad_output: ArrayLike,
    stride: IntOrTuple = 1,
    padding: IntOrTuple = 0,
    dilation: IntOrTuple = 1,
    groups: int = 1,
) -> jax.Array:
    """The gradient of `conv3d` by its input.

    Args:
        input_size: the shape of the input, of which several can give one output.
        weight: the convolution's kernels.
        grad_output: the gradient by the output.
        stride, padding, dilation, groups: the convolution's.

    Shape:
        - `input_size` and the result: `(N, C_in, D, H, W)`.
        - Weight: `(C_out, C_in / groups, K_D, K_H, K_W)`.
        - `grad_output`: `(N, C_out, D_out, H_out, W_out)`.

    Raises:
        RuntimeError: these are not the shapes of one convolution, or of two dtypes.
        NotImplementedError: the dtype isn't a real floating-point one.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn.grad import conv3d_input
        >>> conv3d_input((1, 1, 2, 3, 3), jnp.ones((1, 1, 1, 1, 2)), jnp.ones((1, 1, 2, 3, 2))).shape
        (1, 1, 2, 3, 3)
    """
    return _input(3, input_size, weight, grad_output, stride, padding, dilation, groups)


def conv3d_weight(
    input: ArrayLike,
    weight_size: Sequence[int],
    grad_output: ArrayLike,
    stride: IntOrTuple = 1,
    padding: IntOrTuple = 0,
    dilation: IntOrTuple = 1,
    groups: int = 1,
) -> jax.Array:
    """The gradient of `conv3d` by its weight.

    Args:
        input: the convolution's input.
        weight_size: the shape of the kernels.
        grad_output: the gradient by the output.
        stride, padding, dilation, groups: the convolution's.

    Shape:
        - Input: `(N, C_in, D, H, W)`.
        - `weight_size` and the result: `(C_out, C_in / groups, K_D, K_H, K_W)`.
        - `grad_output`: `(N, C_out, D_out, H_out, W_out)`.

    Raises:
        RuntimeError: these are not the shapes of one convolution, or of two dtypes.
        NotImplementedError: the dtype isn't a real floating-point one.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn.grad import conv3d_weight
        >>> conv3d_weight(jnp.ones((1, 1, 2, 3, 3)), (1, 1, 1, 1, 2), jnp.ones((1, 1, 2, 3, 2))).shape
        (1, 1, 1, 1, 2)
    """
    return _weight(3, input, weight_size, grad_output, stride, padding, dilation, groups)


def _input(
    n: int,
    size: Sequence[int],
    weight: ArrayLike,
    grad_output: ArrayLike,
    stride: IntOrTuple,
    padding: IntOrTuple,
    dilation: IntOrTuple,
    groups: int,
) -> jax.Array:
    w, grad, shape = unbox(weight), unbox(grad_output), tuple(size)
    check_dtypes(grad, w, f"conv{n}d_input")
    strides, pads, dilations = _steps(n, shape, w.shape, grad, stride, padding, dilation, groups)
    return convolve_transposed(
        grad, w, None, stride=strides, padding=pads, size=shape[2:], dilation=dilations, groups=groups
    )


def _weight(
    n: int,
    input: ArrayLike,
    size: Sequence[int],
    grad_output: ArrayLike,
    stride: IntOrTuple,
    padding: IntOrTuple,
    dilation: IntOrTuple,
    groups: int,
) -> jax.Array:
    x, grad, shape = unbox(input), unbox(grad_output), tuple(size)
    check_dtypes(x, grad, f"conv{n}d_weight")
    strides, pads, dilations = _steps(n, x.shape, shape, grad, stride, padding, dilation, groups)
    return _weight_gradient(x, grad, size=shape, stride=strides, padding=pads, dilation=dilations, groups=groups)


@compiled("size", "stride", "padding", "dilation", "groups")
def _weight_gradient(
    x: jax.Array, grad: jax.Array, *, size: Ints, stride: Ints, padding: Ints, dilation: Ints, groups: int
) -> jax.Array:
    pads = tuple((p, p) for p in padding)

    def forward(weight: jax.Array) -> jax.Array:
        return convolve(x, weight, None, stride=stride, pads=pads, dilation=dilation, groups=groups)

    return jax.linear_transpose(forward, jax.ShapeDtypeStruct(size, x.dtype))(grad)[0]


def _steps(
    n: int,
    input_size: Ints,
    weight_size: Ints,
    grad: jax.Array,
    stride: IntOrTuple,
    padding: IntOrTuple,
    dilation: IntOrTuple,
    groups: int,
) -> tuple[Ints, Ints, Ints]:
    """Stride, padding and dilation for each dimension, the shapes checked against each other."""
    shapes = f"input {list(input_size)}, weight {list(weight_size)}, grad_output {list(grad.shape)}"
    if {len(input_size), len(weight_size), grad.ndim} != {n + 2}:
        raise RuntimeError(f"Expected a {n + 2}-dimensional input, weight and grad_output, but got {shapes}")
    if not jnp.issubdtype(grad.dtype, jnp.floating):
        raise NotImplementedError(f"gradients of conv{n}d are not implemented for {grad.dtype.name}: {shapes}")
    strides, dilations = per_dimension("stride", stride, n), per_dimension("dilation", dilation, n)
    check_steps(strides, dilations)
    try:
        pads = per_dimension("padding", padding, n)
    except TypeError as error:  # torch's type for a string here
        raise RuntimeError(str(error)) from None
    if min(pads) < 0:
        raise RuntimeError(f"negative padding is not supported, but got {list(pads)}")
    if groups <= 0 or weight_size[0] % groups or input_size[1] != weight_size[1] * groups:
        raise RuntimeError(f"groups={groups} doesn't fit the channels of {shapes}")
    sizes = zip(input_size[2:], weight_size[2:], strides, pads, dilations, strict=True)
    out = tuple((size + 2 * p - d * (k - 1) - 1) // s + 1 for size, k, s, p, d in sizes)
    if tuple(grad.shape) != (input_size[0], weight_size[0], *out):
        raise RuntimeError(
            f"expected grad_output to have size {[input_size[0], weight_size[0], *out]}, but got {shapes}"
        )
    return strides, pads, dilations

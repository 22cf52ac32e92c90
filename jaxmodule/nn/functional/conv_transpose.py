"""Transposed convolutions of one, two and three dimensions in one implementation."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from ...core.box import unbox
from ._autocast import autocasts
from ._common import ArrayLike, IntOrTuple, shape_list
from ._conv import (
    check_dtypes,
    check_not_empty,
    check_ranks,
    check_steps,
    check_weight,
    convolve_transposed,
    per_dimension,
)

__all__ = ["conv_transpose1d", "conv_transpose2d", "conv_transpose3d"]


@autocasts
def conv_transpose1d(
    input: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    stride: IntOrTuple = 1,
    padding: IntOrTuple = 0,
    output_padding: IntOrTuple = 0,
    groups: int = 1,
    dilation: IntOrTuple = 1,
) -> jax.Array:
    """The transpose of `conv1d`: each `x[c, i]` adds `x[c, i] w[c, o, k]` to `y[o, i * stride + k * dilation]`.

    Args:
        input: the signal.
        weight: the kernels.
        bias: one value an output channel, or None.
        stride: how far apart the windows lie that neighbouring elements add to.
        padding: how much is cut off both ends: the padding of the convolution that this is the transpose of.
        output_padding: how much longer the output is at its end; less than `stride` or `dilation`.
        groups: into how many independent groups the channels are split.
        dilation: the step between the elements of a kernel.

    Shape:
        - Input: `(N, C_in, L)` or `(C_in, L)`.
        - Weight: `(C_in, C_out / groups, K)`; bias: `(C_out)`.
        - Output: `(N, C_out, L_out)` or `(C_out, L_out)`, where
          `L_out = (L - 1) stride - 2 padding + dilation (K - 1) + output_padding + 1`.

    Raises:
        RuntimeError: ranks, channel counts, groups or dtypes don't fit, an argument is out of range, or nothing is
            left of the output.

    Note:
        A bias of another dtype is cast to the input's, as torch does here and not in `conv1d`.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn import functional as F
        >>> F.conv_transpose1d(jnp.array([[1.0, 2.0]]), jnp.array([[[1.0, 10.0]]]), stride=2).tolist()
        [[1.0, 10.0, 2.0, 20.0]]
    """
    return _conv_transpose_nd(1, input, weight, bias, stride, padding, output_padding, groups, dilation)


@autocasts
def conv_transpose2d(
    input: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    stride: IntOrTuple = 1,
    padding: IntOrTuple = 0,
    output_padding: IntOrTuple = 0,
    groups: int = 1,
    dilation: IntOrTuple = 1,
) -> jax.Array:
    """The transpose of `conv2d`: `conv_transpose1d` over two spatial dimensions.

    Args:
        input: the images.
        weight: the kernels.
        bias: one value an output channel, or None.
        stride: how far apart neighbouring elements' windows lie: one number or `(vertical, horizontal)`, as `padding`,
            `output_padding` and `dilation`.
        padding: how much is cut off both sides.
        output_padding: how much larger the output is at its end; less than `stride` or `dilation`.
        groups: into how many independent groups the channels are split.
        dilation: the step between the elements of a kernel.

    Shape:
        - Input: `(N, C_in, H, W)` or `(C_in, H, W)`.
        - Weight: `(C_in, C_out / groups, K_H, K_W)`; bias: `(C_out)`.
        - Output: `(N, C_out, H_out, W_out)` or `(C_out, H_out, W_out)`.

    Raises:
        RuntimeError: ranks, channel counts, groups or dtypes don't fit, an argument is out of range, or nothing is
            left of the output.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn import functional as F
        >>> F.conv_transpose2d(jnp.ones((2, 4, 8, 8)), jnp.ones((4, 6, 4, 4)), stride=2, padding=1).shape
        (2, 6, 16, 16)
    """
    return _conv_transpose_nd(2, input, weight, bias, stride, padding, output_padding, groups, dilation)


@autocasts
def conv_transpose3d(
    input: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    stride: IntOrTuple = 1,
    padding: IntOrTuple = 0,
    output_padding: IntOrTuple = 0,
    groups: int = 1,
    dilation: IntOrTuple = 1,
) -> jax.Array:
    """The transpose of `conv3d`: `conv_transpose1d` over three spatial dimensions.

    Args:
        input: the volumes.
        weight: the kernels.
        bias: one value an output channel, or None.
        stride: how far apart neighbouring elements' windows lie: one number or one a dimension, as `padding`,
            `output_padding` and `dilation`.
        padding: how much is cut off both sides.
        output_padding: how much larger the output is at its end; less than `stride` or `dilation`.
        groups: into how many independent groups the channels are split.
        dilation: the step between the elements of a kernel.

    Shape:
        - Input: `(N, C_in, D, H, W)` or `(C_in, D, H, W)`.
        - Weight: `(C_in, C_out / groups, K_D, K_H, K_W)`; bias: `(C_out)`.
        - Output: `(N, C_out, D_out, H_out, W_out)` or `(C_out, D_out, H_out, W_out)`.

    Raises:
        RuntimeError: ranks, channel counts, groups or dtypes don't fit, an argument is out of range, or nothing is
            left of the output.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn import functional as F
        >>> F.conv_transpose3d(jnp.ones((1, 2, 4, 4, 4)), jnp.ones((2, 3, 2, 2, 2)), stride=2).shape
        (1, 3, 8, 8, 8)
    """
    return _conv_transpose_nd(3, input, weight, bias, stride, padding, output_padding, groups, dilation)


def _conv_transpose_nd(
    n: int,
    input: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None,
    stride: IntOrTuple,
    padding: IntOrTuple,
    output_padding: IntOrTuple,
    groups: int,
    dilation: IntOrTuple,
) -> jax.Array:
    x, w, b = unbox(input), unbox(weight), unbox(bias)
    name = f"conv_transpose{n}d"
    check_ranks(name, n, x, w)
    strides, dilations = per_dimension("stride", stride, n), per_dimension("dilation", dilation, n)
    pads, more = per_dimension("padding", padding, n), per_dimension("output_padding", output_padding, n)
    check_steps(strides, dilations)
    if min(pads) < 0:
        raise RuntimeError(f"negative padding is not supported, but got {list(pads)}")
    if min(more) < 0:
        raise RuntimeError(f"negative output_padding is not supported, but got {list(more)}")
    check_weight(x, w, b, groups, transposed=True)
    if w.shape[1] == 0:
        raise RuntimeError(f"non-empty weight expected, but got: {shape_list(w)} for input of size {shape_list(x)}")
    check_dtypes(x, w, name)
    if b is not None and jnp.iscomplexobj(b) and not jnp.iscomplexobj(x):
        raise RuntimeError(f"bias type {b.dtype.name} can't be cast to the desired output type {x.dtype.name}")
    check_not_empty(x, n)
    if any(o >= max(s, d) for o, s, d in zip(more, strides, dilations, strict=True)):
        raise RuntimeError(
            "output padding must be smaller than either stride or dilation, but got "
            f"output_padding={list(more)}, stride={list(strides)}, dilation={list(dilations)}"
        )
    size = tuple(
        (length - 1) * s - 2 * p + d * (k - 1) + o + 1
        for length, s, p, d, k, o in zip(x.shape[-n:], strides, pads, dilations, w.shape[2:], more, strict=True)
    )
    # torch lets an empty batch have an empty output
    if min(size) < (0 if x.ndim == n + 2 and x.shape[0] == 0 else 1):
        raise RuntimeError(
            f"Given input size per channel: ({' x '.join(map(str, x.shape[-n:]))}). Calculated output size per "
            f"channel: ({' x '.join(map(str, size))}). Output size is too small (input {shape_list(x)}, weight "
            f"{shape_list(w)}, stride={list(strides)}, padding={list(pads)})"
        )
    return convolve_transposed(x, w, b, stride=strides, padding=pads, size=size, dilation=dilations, groups=groups)

"""Folding a batch normalisation in eval mode into the layer before it."""

from __future__ import annotations

from copy import deepcopy
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import lax

from ...core.box import Box, unbox
from ...core.parameter import Parameter
from ..functional._common import ArrayLike, compiled
from ..module import Module
from ._dtypes import common_dtype

__all__ = ["fuse_conv_bn_eval", "fuse_conv_bn_weights", "fuse_linear_bn_eval", "fuse_linear_bn_weights"]

M = TypeVar("M", bound=Module)


def _check_eval(layer: Any, bn: Any) -> None:
    """Raise where statistics of the batch would be needed.

    Raises:
        AssertionError: they would; torch's type.
    """
    if layer.training or bn.training:
        raise AssertionError("Fusion only for eval!")
    if bn.running_mean is None or bn.running_var is None:
        raise AssertionError("bn.running_mean and bn.running_var must not be None")


def fuse_conv_bn_eval(conv: M, bn: Any, transpose: bool = False) -> M:
    """A copy of a convolution that also does the batch normalisation after it.

    Args:
        conv: the convolution, in eval mode.
        bn: the normalisation, in eval mode and with running statistics.
        transpose: the outputs are the weight's second dimension: a transposed convolution.

    Returns:
        The new convolution.

    Raises:
        AssertionError: one of them is in training mode, or there are no running statistics.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> conv, bn = nn.Conv2d(1, 4, 3).eval(), nn.BatchNorm2d(4).eval()
        >>> x = jnp.ones((2, 1, 5, 5))
        >>> bool(jnp.allclose(nn.utils.fuse_conv_bn_eval(conv, bn)(x), bn(conv(x)), atol=1e-5))
        True
    """
    _check_eval(conv, bn)
    fused: Any = deepcopy(conv)
    fused.weight, fused.bias = fuse_conv_bn_weights(
        fused.weight, fused.bias, bn.running_mean, bn.running_var, bn.eps, bn.weight, bn.bias, transpose
    )
    return fused


def fuse_conv_bn_weights(
    conv_w: ArrayLike,
    conv_b: ArrayLike | None,
    bn_rm: ArrayLike,
    bn_rv: ArrayLike,
    bn_eps: float,
    bn_w: ArrayLike | None,
    bn_b: ArrayLike | None,
    transpose: bool = False,
) -> tuple[Parameter, Parameter]:
    """The weight and the bias of `fuse_conv_bn_eval`.

    Args:
        conv_w: the convolution's weight.
        conv_b: its bias, or None.
        bn_rm: the running mean.
        bn_rv: the running variance.
        bn_eps: what is added to the variance.
        bn_w: the normalisation's weight, or None.
        bn_b: its bias, or None.
        transpose: the outputs are the weight's second dimension.

    Returns:
        New parameters with the dtypes of the convolution's and their `requires_grad` (False for a bias where there was
        none, as in torch).
    """
    return _fused(conv_w, conv_b, bn_rm, bn_rv, bn_eps, bn_w, bn_b, 1 if transpose else 0)


def fuse_linear_bn_eval(linear: M, bn: Any) -> M:
    """A copy of a Linear that also does the batch normalisation after it.

    Args:
        linear: the layer, in eval mode.
        bn: the normalisation, in eval mode and with running statistics, over the outputs or over one feature.

    Returns:
        The new layer.

    Raises:
        AssertionError: one of them is in training mode, there are no running statistics, or the numbers of features
            don't agree.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> linear, bn = nn.Linear(3, 4).eval(), nn.BatchNorm1d(4).eval()
        >>> x = jnp.ones((2, 3))
        >>> bool(jnp.allclose(nn.utils.fuse_linear_bn_eval(linear, bn)(x), bn(linear(x)), atol=1e-5))
        True
    """
    _check_eval(linear, bn)
    fused: Any = deepcopy(linear)
    if fused.out_features != bn.num_features and bn.num_features != 1:
        raise AssertionError(
            "To fuse, linear.out_features == bn.num_features or bn.num_features == 1, "
            f"got linear.out_features={fused.out_features} and bn.num_features={bn.num_features}"
        )
    fused.weight, fused.bias = fuse_linear_bn_weights(
        fused.weight, fused.bias, bn.running_mean, bn.running_var, bn.eps, bn.weight, bn.bias
    )
    return fused


def fuse_linear_bn_weights(
    linear_w: ArrayLike,
    linear_b: ArrayLike | None,
    bn_rm: ArrayLike,
    bn_rv: ArrayLike,
    bn_eps: float,
    bn_w: ArrayLike | None,
    bn_b: ArrayLike | None,
) -> tuple[Parameter, Parameter]:
    """The weight and the bias of `fuse_linear_bn_eval`; the arguments are those of `fuse_conv_bn_weights`.

    Note:
        torch has no None for `bn_w` and `bn_b` here.
    """
    return _fused(linear_w, linear_b, bn_rm, bn_rv, bn_eps, bn_w, bn_b, 0)


def _fused(
    w: Any, b: Any, mean: Any, var: Any, eps: float, bn_w: Any, bn_b: Any, dim: int
) -> tuple[Parameter, Parameter]:
    outputs, features = w.shape[dim], mean.shape[0]
    if outputs != features and features != 1:
        raise RuntimeError(
            f"The weight of shape {list(w.shape)} has {outputs} in dimension {dim}, which are the outputs "
            f"to be normalised, but the normalisation has {features} features"
        )
    arrays = [unbox(x) for x in (w, b, mean, var, bn_w, bn_b)]
    weight, bias = _fuse(*arrays, eps=eps, dim=dim)
    return Parameter(weight, _trained(w)), Parameter(bias, _trained(b))


def _trained(box: Any) -> bool:
    return box.requires_grad if isinstance(box, Box) else False


@compiled("eps", "dim")
def _fuse(
    w: jax.Array,
    b: jax.Array | None,
    mean: jax.Array,
    var: jax.Array,
    bn_w: jax.Array | None,
    bn_b: jax.Array | None,
    eps: float,
    dim: int,
) -> tuple[jax.Array, jax.Array]:
    wide = common_dtype([w, mean])
    mean, var = mean.astype(wide), var.astype(wide)
    scale = lax.rsqrt(var + eps)
    if bn_w is not None:
        scale = scale * bn_w.astype(wide)
    bias = (jnp.zeros_like(mean) if b is None else b.astype(wide)) - mean
    bias = bias * scale + (0 if bn_b is None else bn_b.astype(wide))
    along = (1,) * dim + (-1,) + (1,) * (w.ndim - 1 - dim)
    weight = w.astype(wide) * scale.reshape(along)
    bias = jnp.broadcast_to(bias, (w.shape[dim],))
    return weight.astype(w.dtype), bias.astype(w.dtype if b is None else b.dtype)

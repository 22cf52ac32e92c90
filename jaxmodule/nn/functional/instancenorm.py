"""Normalisation of each channel of each sample by itself, or by running statistics."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from ...core.box import unbox
from ._common import ArrayLike, compiled, opmath_dtype, require_inexact, shape_list
from ._statistics import (
    Moments,
    affine,
    channel_shape,
    check_channels,
    check_dtypes,
    check_statistics,
    moving_average,
    standardize,
    write_statistics,
)
from .batchnorm import normalize_by

__all__ = ["instance_norm"]


@compiled("eps")
def _instance_norm(
    x: jax.Array,
    weight: jax.Array | None,
    bias: jax.Array | None,
    running: Moments | None,
    momentum: jax.Array | float,
    *,
    eps: float,
) -> tuple[jax.Array, Moments | None]:
    wide = x.astype(opmath_dtype(x.dtype))
    y, mean, var = standardize(wide, tuple(range(2, x.ndim)), eps)
    y = affine(y, weight, bias, channel_shape(x.ndim)).astype(x.dtype)
    if running is None:
        return y, None
    count = math.prod(x.shape[2:])
    over_samples = [jnp.mean(moment.reshape(x.shape[:2]), 0) for moment in (mean, var)]
    return y, moving_average(running, (over_samples[0], over_samples[1] * (count / (count - 1))), momentum)


def instance_norm(
    input: ArrayLike,
    running_mean: ArrayLike | None = None,
    running_var: ArrayLike | None = None,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    use_input_stats: bool = True,
    momentum: float | jax.Array = 0.1,
    eps: float = 1e-5,
) -> jax.Array:
    """`(x - mean) / sqrt(var + eps) * weight + bias` for each channel of each sample (Ulyanov et al., 2016).

    Args:
        input: the batch.
        running_mean: the mean to use without `use_input_stats`; updated with it. None for none.
        running_var: the variance, likewise.
        weight: the scale of each channel, or None for 1.
        bias: the shift of each channel, or None for 0.
        use_input_stats: whether to normalise each sample by its own mean and biased variance, and to move the running
            mean and (unbiased) variance towards their average over the samples:
            `running = (1 - momentum) running + momentum average`.
        momentum: how far they move.
        eps: added to the variance.

    Shape:
        - Input: `(N, C, *)`; the others `(C)`.
        - Output: the input's.

    Raises:
        ValueError: `use_input_stats` with one value a channel, or one running statistic without the other.
        IndexError: the input has fewer than two dimensions.
        RuntimeError: another vector's size isn't `C`, there are no statistics to use, or dtypes don't fit.
        TypeError: the running statistics are to be updated, but can't be changed in place.
        NotImplementedError: the input is not floating-point.

    Note:
        With `use_input_stats` the running statistics must be boxes (`nn.Buffer`): an array can't be updated in place.
        An empty batch leaves them as they are, where torch makes them NaN.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn import functional as F
        >>> F.instance_norm(jnp.array([[[1.0, 3.0]]])).round(3).tolist()
        [[[-1.0, 1.0]]]
    """
    x, mean, var, w, b = (unbox(array) for array in (input, running_mean, running_var, weight, bias))
    if use_input_stats and math.prod(x.shape[2:]) == 1:
        raise ValueError(f"Expected more than 1 spatial element when training, got input size {shape_list(x)}")
    if x.ndim < 2:
        raise IndexError(f"instance_norm expects an input of shape (N, C, *), but got {shape_list(x)}")
    require_inexact(x, "instance_norm")
    check_statistics(mean, var)
    if not use_input_stats and mean is None:
        raise RuntimeError("Expected running_mean and running_var to be defined when use_input_stats is false")
    check_channels(x, x.shape[1], {"running_mean": mean, "running_var": var, "weight": w, "bias": b})
    check_dtypes(x, {"running_mean": mean, "running_var": var})
    check_dtypes(x, {"weight": w, "bias": b})
    if not use_input_stats:
        return normalize_by(x, w, b, mean, var, eps=float(eps))
    if x.size == 0:
        return x
    boxes = None if mean is None else write_statistics("instance_norm", running_mean, running_var)
    y, updated = _instance_norm(x, w, b, None if boxes is None else (mean, var), momentum, eps=float(eps))
    if boxes is not None and updated is not None:
        boxes[0].value, boxes[1].value = updated
    return y

"""Batch normalisation: by the batch's statistics, those of a whole mapped axis, or running ones."""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
from jax import lax

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

__all__ = ["batch_norm"]


@compiled("eps", "mapped")
def _batch_norm_train(
    x: jax.Array,
    weight: jax.Array | None,
    bias: jax.Array | None,
    running: Moments | None,
    momentum: jax.Array | float,
    *,
    eps: float,
    mapped: tuple[str, ...],
) -> tuple[jax.Array, Moments | None]:
    wide = x.astype(opmath_dtype(x.dtype))
    y, mean, var = standardize(wide, (0, *range(2, x.ndim)), eps, mapped)
    y = affine(y, weight, bias, channel_shape(x.ndim)).astype(x.dtype)
    if running is None:
        return y, None
    count = x.size // x.shape[1] * (lax.psum(1, mapped) if mapped else 1)
    return y, moving_average(running, (mean.reshape(-1), var.reshape(-1) * (count / (count - 1))), momentum)


@compiled("eps")
def normalize_by(
    x: jax.Array,
    weight: jax.Array | None,
    bias: jax.Array | None,
    mean: jax.Array,
    var: jax.Array,
    *,
    eps: float,
) -> jax.Array:
    """`(x - mean) / sqrt(var + eps) * weight + bias` with a mean and a variance for each channel."""
    wide, shape = x.astype(opmath_dtype(x.dtype)), channel_shape(x.ndim)
    scale = lax.rsqrt(var.astype(wide.dtype) + eps).reshape(shape)
    y = (wide - mean.astype(wide.dtype).reshape(shape)) * scale
    return affine(y, weight, bias, shape).astype(x.dtype)


def batch_norm(
    input: ArrayLike,
    running_mean: ArrayLike | None,
    running_var: ArrayLike | None,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    training: bool = False,
    momentum: float | jax.Array = 0.1,
    eps: float = 1e-5,
) -> jax.Array:
    """`(x - mean) / sqrt(var + eps) * weight + bias` for each channel (Ioffe and Szegedy, 2015).

    Args:
        input: the batch.
        running_mean: the mean to use when not training; updated when training. None for none.
        running_var: the variance, likewise.
        weight: the scale, or None for 1.
        bias: the shift, or None for 0.
        training: whether to normalise by the mean and biased variance of this batch, and to move the running mean
            and (unbiased) variance towards this batch's: `running = (1 - momentum) running + momentum batch`.
        momentum: how far they move.
        eps: added to the variance.

    Shape:
        - Input: `(N, C)` or `(N, C, *)`; the others `(C)`.
        - Output: the input's.

    Raises:
        ValueError: training with one value a channel or without a positive `eps`, or one running statistic without the
            other.
        IndexError: training with an input of fewer than two dimensions.
        RuntimeError: another vector's size isn't `C`, there are no statistics to use, or dtypes don't fit.
        TypeError: training with running statistics that can't be changed in place.
        NotImplementedError: the input is not floating-point.

    Note:
        When training, the running statistics must be boxes (`nn.Buffer`): an array can't be updated in place.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> from jaxmodule.nn import functional as F
        >>> mean, var = nn.Buffer(jnp.zeros(1)), nn.Buffer(jnp.ones(1))
        >>> F.batch_norm(jnp.array([[1.0], [3.0]]), mean, var, training=True).round(3).tolist()
        [[-1.0], [1.0]]
        >>> round(float(mean.value[0]), 3), round(float(var.value[0]), 3)
        (0.2, 1.1)
    """
    return sync_batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)


def sync_batch_norm(
    input: ArrayLike,
    running_mean: ArrayLike | None,
    running_var: ArrayLike | None,
    weight: ArrayLike | None,
    bias: ArrayLike | None,
    training: bool,
    momentum: float | jax.Array,
    eps: float,
    mapped: tuple[str, ...] = (),
) -> jax.Array:
    """`batch_norm`, when training by the statistics of all members of the mapped axes of these names.

    Raises:
        NameError: training where no such axis is mapped.
    """
    x, mean, var, w, b = (unbox(array) for array in (input, running_mean, running_var, weight, bias))
    require_inexact(x, "batch_norm")
    check_statistics(mean, var)
    if not training and mean is None:
        raise RuntimeError("running_mean must be defined in evaluation mode")
    if x.ndim < 2:
        raise (IndexError if training else RuntimeError)(
            f"batch_norm expects an input of shape (N, C, *), but got {shape_list(x)}"
        )
    channels = x.shape[1]
    if training:
        _check_training(x, channels, eps, _members(mapped))
    check_channels(x, channels, {"running_mean": mean, "running_var": var, "weight": w, "bias": b})
    check_dtypes(x, {"running_mean": mean, "running_var": var})
    check_dtypes(x, {"weight": w, "bias": b})
    if not training:
        return normalize_by(x, w, b, mean, var, eps=float(eps))
    if x.size == 0:  # torch leaves the statistics of an empty batch out
        return x
    boxes = None if mean is None else write_statistics("batch_norm", running_mean, running_var)
    y, updated = _batch_norm_train(
        x, w, b, None if boxes is None else (mean, var), momentum, eps=float(eps), mapped=mapped
    )
    if boxes is not None and updated is not None:
        boxes[0].value, boxes[1].value = updated
    return y


def _verify_batch_size(size: Sequence[int]) -> None:
    """Raise where a batch of this size has one value a channel.

    Raises:
        ValueError: it has.
    """
    if math.prod(size[:1]) * math.prod(size[2:]) == 1:
        raise ValueError(f"Expected more than 1 value per channel when training, got input size {list(size)}")


def _check_training(x: jax.Array, channels: int, eps: float, members: int) -> None:
    values = x.shape[0] * members
    for size in x.shape[2:]:
        values *= size
    if values == 1:
        raise ValueError(
            f"Expected more than 1 value per channel when training, got input size {shape_list(x)} "
            f"with {channels} channels"
        )
    if eps <= 0:
        raise ValueError(f"batch_norm eps must be positive during training, but got {eps}")


def _members(mapped: tuple[str, ...]) -> int:
    """How many calls share their statistics."""
    if not mapped:
        return 1
    try:
        return lax.psum(1, mapped)
    except NameError as error:
        raise NameError(
            f"batch statistics are to be shared over the mapped axes {mapped}, but not all of them are mapped here: "
            f"{error}\nCall the model inside jax.vmap(..., axis_name={mapped[0]!r}) or jax.shard_map over a mesh with "
            "that axis; or put it into eval mode; or leave process_group=None, which takes the statistics of the "
            "array it is given (under jax.jit over a sharded batch: of the whole batch)."
        ) from error

"""Averaging functions: of one array, and of a list of them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

AvgFn = Callable[[Any, Any, Any], Any]
MultiAvgFn = Callable[[list[Any], list[Any], Any], list[Any]]


@dataclass(frozen=True)
class Exponential:
    """`decay * averaged + (1 - decay) * current`; an object, so that two of one decay are equal and can be pickled."""

    decay: float

    def __call__(self, averaged: Any, current: Any, num_averaged: Any) -> Any:
        kind = _kind(averaged.dtype)
        return self.decay * averaged.astype(kind) + (1 - self.decay) * current.astype(kind)


@dataclass(frozen=True)
class Mean:
    """`averaged + (current - averaged) / (n + 1)`."""

    def __call__(self, averaged: Any, current: Any, num_averaged: Any) -> Any:
        kind = _kind(averaged.dtype)
        averaged = averaged.astype(kind)
        return averaged + (current.astype(kind) - averaged) / (num_averaged.astype(_real(kind)) + 1)


@dataclass(frozen=True)
class Several:
    """An averaging function of one array for a list of them."""

    one: AvgFn

    def __call__(self, averaged: list[Any], current: list[Any], num_averaged: Any) -> list[Any]:
        return [self.one(a, c, num_averaged) for a, c in zip(averaged, current, strict=True)]


def _kind(dtype: Any) -> Any:
    """What an average is computed in; the result is cast to the dtype that the average has."""
    half = dtype in (jnp.bfloat16, jnp.float16)
    return dtype if jnp.issubdtype(dtype, jnp.inexact) and not half else jnp.float32


def _real(dtype: Any) -> Any:
    return jnp.finfo(dtype).dtype


def _checked(decay: float) -> float:
    if not 0.0 <= decay <= 1.0:
        raise ValueError(f"Invalid decay value {decay} provided. Please provide a value in [0,1] range.")
    return decay


def get_ema_avg_fn(decay: float = 0.999) -> AvgFn:
    """The exponential moving average `decay * averaged + (1 - decay) * current`, an `avg_fn` of `AveragedModel`.

    Raises:
        ValueError: `decay` is not in [0, 1].
    """
    return Exponential(_checked(decay))


def get_swa_avg_fn() -> AvgFn:
    """The mean of all models, an `avg_fn` of `AveragedModel`."""
    return Mean()


def get_ema_multi_avg_fn(decay: float = 0.999) -> MultiAvgFn:
    """`get_ema_avg_fn` for lists, a `multi_avg_fn` of `AveragedModel`.

    Raises:
        ValueError: `decay` is not in [0, 1].
    """
    return Several(Exponential(_checked(decay)))


def get_swa_multi_avg_fn() -> MultiAvgFn:
    """`get_swa_avg_fn` for lists, a `multi_avg_fn` of `AveragedModel`."""
    return Several(Mean())

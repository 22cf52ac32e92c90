"""The softmax family."""

from __future__ import annotations

import functools
import warnings

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

from ...core.box import unbox
from ...random import next_key
from ._autocast import autocasts
from ._common import ArrayLike, compiled, normalize_dim, opmath_dtype, shape_list
from ._pointwise import require_floating, widen

__all__ = ["gumbel_softmax", "log_softmax", "softmax", "softmin"]


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _softmax_axis(x: jax.Array, axis: int) -> jax.Array:
    wide = x.astype(opmath_dtype(x.dtype))
    unnormalized = jnp.exp(wide - jnp.max(wide, axis, keepdims=True, initial=-jnp.inf))
    return (unnormalized / jnp.sum(unnormalized, axis, keepdims=True)).astype(x.dtype)


@_softmax_axis.defjvp
def _softmax_axis_jvp(axis: int, primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    # The output is the only residual, in the input's dtype: in bfloat16 half of what differentiating the float32
    # intermediates would keep.
    y = _softmax_axis(*primals, axis)
    wide = y.astype(opmath_dtype(y.dtype))
    dx = tangents[0].astype(wide.dtype)
    dy = wide * (dx - jnp.sum(wide * dx, axis, keepdims=True))
    return y, dy.astype(y.dtype)


@compiled("axis", "dtype")
def _softmax(x: jax.Array, *, axis: int, dtype: DTypeLike | None) -> jax.Array:
    x = x if dtype is None else x.astype(dtype)
    return _softmax_axis(x, axis) if x.ndim else _softmax_axis(x[None], 0)[0]


def log_softmax_axis(x: jax.Array, axis: int) -> jax.Array:
    """`x - log(sum(exp(x)))` along `axis`, shifted by the maximum so that no exponential overflows."""
    shifted = x - lax.stop_gradient(jnp.max(x, axis, keepdims=True, initial=-jnp.inf))
    return shifted - jnp.log(jnp.sum(jnp.exp(shifted), axis, keepdims=True))


@compiled("axis", "dtype")
def _log_softmax(x: jax.Array, *, axis: int, dtype: DTypeLike | None) -> jax.Array:
    x = x if dtype is None else x.astype(dtype)
    wide = x.astype(opmath_dtype(x.dtype))
    y = log_softmax_axis(wide, axis) if x.ndim else log_softmax_axis(wide[None], 0)[0]
    return y.astype(x.dtype)


@compiled("axis", "hard")
def _gumbel_softmax(x: jax.Array, key: jax.Array, tau: jax.Array | float, *, axis: int, hard: bool) -> jax.Array:
    if x.ndim == 0:
        return _gumbel_softmax(x[None], key, tau, axis=0, hard=hard)[0]
    wide = widen(x)
    noisy = wide + jax.random.gumbel(key, x.shape, wide.dtype)
    soft = _softmax_axis(noisy / jnp.asarray(tau).astype(wide.dtype), axis)
    if hard:
        chosen = jnp.argmax(soft, axis)
        one_hot = jax.nn.one_hot(chosen, x.shape[axis], axis=axis, dtype=wide.dtype)
        soft = one_hot + (soft - lax.stop_gradient(soft))  # exactly 0 and 1, with the gradient of the soft one
    return soft.astype(x.dtype)


@autocasts
def softmax(
    input: ArrayLike, dim: int | None = None, _stacklevel: int = 3, dtype: DTypeLike | None = None
) -> jax.Array:
    """`exp(x_i) / sum_j exp(x_j)` along `dim`.

    Args:
        input: any shape.
        dim: the dimension that sums to 1. None picks one from the rank, with torch's warning.
        _stacklevel: where that warning points.
        dtype: cast the input to it first.

    Raises:
        IndexError: there is no such dimension.
        NotImplementedError: what to take it of is not floating-point: the input, or `dtype` if it is given.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn import functional as F
        >>> F.softmax(jnp.zeros((2, 4)), dim=1)[0].tolist()
        [0.25, 0.25, 0.25, 0.25]
    """
    x = unbox(input)
    axis = _softmax_axis_of("softmax", x, dim, _stacklevel + 1)
    _check_softmax_dtype("softmax", x, dtype)
    return _softmax(x, axis=axis, dtype=dtype)


@autocasts
def log_softmax(
    input: ArrayLike, dim: int | None = None, _stacklevel: int = 3, dtype: DTypeLike | None = None
) -> jax.Array:
    """`x_i - log(sum_j exp(x_j))` along `dim`: the logarithm of `softmax`, without its overflow and underflow.

    Args:
        input: any shape.
        dim: the dimension whose exponentials sum to 1. None picks one from the rank, with torch's warning.
        _stacklevel: where that warning points.
        dtype: cast the input to it first.

    Raises:
        IndexError: there is no such dimension.
        NotImplementedError: what to take it of is not floating-point: the input, or `dtype` if it is given.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn import functional as F
        >>> [round(float(v), 4) for v in F.log_softmax(jnp.array([0.0, 1000.0]), dim=0)]
        [-1000.0, 0.0]
    """
    x = unbox(input)
    axis = _softmax_axis_of("log_softmax", x, dim, _stacklevel + 1)
    _check_softmax_dtype("log_softmax", x, dtype)
    return _log_softmax(x, axis=axis, dtype=dtype)


@autocasts
def softmin(
    input: ArrayLike, dim: int | None = None, _stacklevel: int = 3, dtype: DTypeLike | None = None
) -> jax.Array:
    """`exp(-x_i) / sum_j exp(-x_j)` along `dim`.

    Args:
        input: any shape.
        dim: the dimension that sums to 1. None picks one from the rank, with torch's warning.
        _stacklevel: where that warning points.
        dtype: cast the negated input to it first.

    Raises:
        IndexError: there is no such dimension.
        RuntimeError: the input is boolean.
        NotImplementedError: the input, or `dtype`, is not floating-point.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn import functional as F
        >>> F.softmin(jnp.array([0.0, 1000.0]), dim=0).tolist()
        [1.0, 0.0]
    """
    x = unbox(input)
    axis = _softmax_axis_of("softmin", x, dim, _stacklevel + 1)
    if x.dtype == jnp.bool_:
        raise RuntimeError(
            f"Negation, the `-` operator, on a bool tensor is not supported (input of size {shape_list(x)})"
        )
    _check_softmax_dtype("softmin", x, dtype)
    return _softmax(-x, axis=axis, dtype=dtype)


@autocasts
def gumbel_softmax(
    logits: ArrayLike, tau: float | ArrayLike = 1, hard: bool = False, eps: float = 1e-10, dim: int = -1
) -> jax.Array:
    """A sample of the Gumbel-softmax distribution: `softmax((logits + g) / tau)` (Jang et al., 2016).

    Args:
        logits: unnormalised log probabilities.
        tau: the temperature: towards 0, the samples become one-hot.
        hard: make the sample one-hot, with the gradient of the soft one (straight-through).
        eps: deprecated, without effect.
        dim: the dimension that sums to 1.

    Shape:
        - Input and output: `(*)`.

    Raises:
        RuntimeError: the logits are not floating-point.
        IndexError: there is no such dimension, or `hard` with a size of 0 along it.

    Note:
        `g` is drawn from the current default generator, one draw a call.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn import functional as F
        >>> F.gumbel_softmax(jnp.array([0.0, 1000.0, 0.0]), hard=True).tolist()
        [0.0, 1.0, 0.0]
    """
    if eps != 1e-10:
        warnings.warn("`eps` parameter is deprecated and has no effect.", UserWarning, stacklevel=3)
    x = unbox(logits)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise RuntimeError(f"gumbel_softmax: the dtype of logits must be a floating point, but got {x.dtype.name}")
    axis = normalize_dim(dim, x.ndim)
    if hard and x.ndim and x.shape[axis] == 0:
        raise IndexError(f"Expected dim {axis} of logits of size {shape_list(x)} to have non-zero size")
    # The temperature is no constant of the program: it is what one anneals.
    return _gumbel_softmax(x, next_key(), unbox(tau), axis=axis, hard=bool(hard))


def _softmax_axis_of(name: str, x: jax.Array, dim: int | None, stacklevel: int) -> int:
    return normalize_dim(_get_softmax_dim(name, x.ndim, stacklevel + 1) if dim is None else dim, x.ndim)


def _get_softmax_dim(name: str, ndim: int, stacklevel: int) -> int:
    """The dimension that is meant where none is said, with torch's warning."""
    message = (
        f"Implicit dimension choice for {name} has been deprecated. Change the call to include dim=X as an argument."
    )
    warnings.warn(message, UserWarning, stacklevel=stacklevel)
    return 0 if ndim in (0, 1, 3) else 1


def _check_softmax_dtype(name: str, x: jax.Array, dtype: DTypeLike | None) -> None:
    if dtype is None:
        require_floating(x, name)
    elif not jnp.issubdtype(dtype, jnp.floating):
        raise NotImplementedError(f'"{name}" not implemented for {jnp.dtype(dtype).name!r}: give a float dtype')

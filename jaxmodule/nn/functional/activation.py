"""Pointwise nonlinearities and the softmax family."""

from __future__ import annotations

import functools
import math
import warnings

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

from ...core.box import unbox
from ._common import ArrayLike, compiled, normalize_dim, opmath_dtype, require_inexact

__all__ = ["gelu", "log_softmax", "relu", "sigmoid", "silu", "softmax", "tanh"]

_relu = compiled()(jax.nn.relu)


@compiled("tanh_form")
def _gelu(x: jax.Array, *, tanh_form: bool) -> jax.Array:
    wide = x.astype(opmath_dtype(x.dtype))
    if tanh_form:
        inner = math.sqrt(2.0 / math.pi) * (wide + 0.044715 * wide * wide * wide)
        y = 0.5 * wide * (1.0 + jnp.tanh(inner))
    else:
        y = 0.5 * wide * lax.erfc(wide * -math.sqrt(0.5))
    return y.astype(x.dtype)


@compiled()
def _silu(x: jax.Array) -> jax.Array:
    wide = x.astype(opmath_dtype(x.dtype))
    return (wide * lax.logistic(wide)).astype(x.dtype)


_tanh = compiled()(jnp.tanh)
_sigmoid = compiled()(lax.logistic)


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


def relu(input: ArrayLike, inplace: bool = False) -> jax.Array:
    """`max(0, x)` elementwise; its gradient at 0 is 0.

    Args:
        input: any shape, floating-point or integer.
        inplace: for torch's signature. See Note.

    Raises:
        RuntimeError: the input is boolean.

    Note:
        Arrays are immutable: `inplace` does not change the input, and has no effect on the result.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn import functional as F
        >>> F.relu(jnp.array([-1.0, 2.0])).tolist()
        [0.0, 2.0]
    """
    x = unbox(input)
    if x.dtype == jnp.bool_:
        raise RuntimeError(f"Boolean inputs not supported for relu (input of size {list(x.shape)})")
    return _relu(x)


def gelu(input: ArrayLike, approximate: str = "none") -> jax.Array:
    """`x Phi(x)` elementwise, where `Phi` is the normal distribution function (Hendrycks and Gimpel, 2016).

    Args:
        input: any shape.
        approximate: "none" for the exact function, "tanh" for
            `0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))`.

    Raises:
        RuntimeError: `approximate` is neither.
        NotImplementedError: the input is not floating-point.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn import functional as F
        >>> round(float(F.gelu(jnp.array(1.0))), 4)
        0.8413
    """
    x = unbox(input)
    if approximate not in ("none", "tanh"):
        raise RuntimeError(f"approximate argument must be either none or tanh, but got {approximate!r}.")
    require_inexact(x, "gelu")
    return _gelu(x, tanh_form=approximate == "tanh")


def silu(input: ArrayLike, inplace: bool = False) -> jax.Array:
    """`x sigmoid(x)` elementwise, also called swish.

    Args:
        input: any shape.
        inplace: for torch's signature. See Note.

    Raises:
        NotImplementedError: the input is not floating-point.

    Note:
        Arrays are immutable: `inplace` does not change the input, and has no effect on the result.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn import functional as F
        >>> round(float(F.silu(jnp.array(1.0))), 4)
        0.7311
    """
    x = unbox(input)
    require_inexact(x, "silu")
    return _silu(x)


def tanh(input: ArrayLike) -> jax.Array:
    """`(exp(x) - exp(-x)) / (exp(x) + exp(-x))` elementwise; integers and booleans give float32.

    Args:
        input: any shape.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn import functional as F
        >>> float(F.tanh(jnp.array(0.0)))
        0.0
    """
    return _tanh(_as_inexact(unbox(input)))


def sigmoid(input: ArrayLike) -> jax.Array:
    """`1 / (1 + exp(-x))` elementwise; integers and booleans give float32.

    Args:
        input: any shape.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn import functional as F
        >>> float(F.sigmoid(jnp.array(0.0)))
        0.5
    """
    return _sigmoid(_as_inexact(unbox(input)))


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
        NotImplementedError: the input is not floating-point, and no `dtype` is given.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn import functional as F
        >>> F.softmax(jnp.zeros((2, 4)), dim=1)[0].tolist()
        [0.25, 0.25, 0.25, 0.25]
    """
    x, axis = _softmax_arguments("softmax", unbox(input), dim, _stacklevel, dtype)
    return _softmax(x, axis=axis, dtype=dtype)


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
        NotImplementedError: the input is not floating-point, and no `dtype` is given.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn import functional as F
        >>> [round(float(v), 4) for v in F.log_softmax(jnp.array([0.0, 1000.0]), dim=0)]
        [-1000.0, 0.0]
    """
    x, axis = _softmax_arguments("log_softmax", unbox(input), dim, _stacklevel, dtype)
    return _log_softmax(x, axis=axis, dtype=dtype)


def _softmax_arguments(
    name: str, x: jax.Array, dim: int | None, stacklevel: int, dtype: DTypeLike | None
) -> tuple[jax.Array, int]:
    if dim is None:
        message = (
            f"Implicit dimension choice for {name} has been deprecated. "
            "Change the call to include dim=X as an argument."
        )
        warnings.warn(message, UserWarning, stacklevel=stacklevel)
        dim = 0 if x.ndim in (0, 1, 3) else 1
    if dtype is None:
        require_inexact(x, name)
    return x, normalize_dim(dim, x.ndim)


def _as_inexact(x: jax.Array) -> jax.Array:
    return x if jnp.issubdtype(x.dtype, jnp.inexact) else x.astype(jnp.float32)

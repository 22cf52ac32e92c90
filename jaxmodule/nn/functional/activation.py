"""Smooth nonlinearities: sigmoid, tanh and their relatives."""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
from jax import lax

from ...core.box import unbox
from ._autocast import autocasts
from ._common import ArrayLike, compiled, normalize_dim, require_inexact, shape_list
from ._pointwise import as_inexact, require_floating, store, widen

__all__ = ["gelu", "glu", "logsigmoid", "mish", "sigmoid", "silu", "softplus", "softsign", "tanh"]

_tanh = compiled()(jnp.tanh)
_sigmoid = compiled()(lax.logistic)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def _softplus_of(x: jax.Array, beta: float = 1.0, threshold: float = math.inf) -> jax.Array:
    z = x * beta
    y = (jnp.maximum(z, 0) + jnp.log1p(jnp.exp(-jnp.abs(z)))) / beta
    return y if math.isinf(threshold) else jnp.where(z > threshold, x, y)


@_softplus_of.defjvp
def _softplus_jvp(
    beta: float, threshold: float, primals: tuple[jax.Array], tangents: tuple[jax.Array]
) -> tuple[jax.Array, jax.Array]:
    # From the input, so that it is finite everywhere: through the formula an infinity would give NaN.
    (x,), (dx,) = primals, tangents
    slope = jnp.where(x * beta > threshold, 1, lax.logistic(x * beta))
    return _softplus_of(x, beta, threshold), dx * slope


@compiled("tanh_form")
def _gelu(x: jax.Array, *, tanh_form: bool) -> jax.Array:
    wide = widen(x)
    if tanh_form:
        # Beyond 100 the tanh is 1 and the cube overflows.
        bounded = jnp.clip(wide, -100, 100)
        inner = math.sqrt(2.0 / math.pi) * (bounded + 0.044715 * bounded * bounded * bounded)
        y = 0.5 * wide * (1.0 + jnp.tanh(inner))
    else:
        y = 0.5 * wide * lax.erfc(wide * -math.sqrt(0.5))
    return y.astype(x.dtype)


@compiled()
def _silu(x: jax.Array) -> jax.Array:
    wide = widen(x)
    return (wide * lax.logistic(wide)).astype(x.dtype)


@compiled()
def _mish(x: jax.Array) -> jax.Array:
    wide = widen(x)
    return (wide * jnp.tanh(_softplus_of(wide))).astype(x.dtype)


@compiled("beta", "threshold")
def _softplus(x: jax.Array, *, beta: float, threshold: float) -> jax.Array:
    return _softplus_of(widen(x), beta, threshold).astype(x.dtype)


@compiled()
def _logsigmoid(x: jax.Array) -> jax.Array:
    return (-_softplus_of(-widen(x))).astype(x.dtype)


@compiled()
def _softsign(x: jax.Array) -> jax.Array:
    wide = widen(x)
    return (wide / (1 + jnp.abs(wide)).astype(wide.dtype)).astype(x.dtype)


@compiled("axis")
def _glu(x: jax.Array, *, axis: int) -> jax.Array:
    a, b = jnp.split(widen(x), 2, axis)
    return (a * lax.logistic(b)).astype(x.dtype)


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
    require_floating(x, "gelu")
    return _gelu(x, tanh_form=approximate == "tanh")


def silu(input: ArrayLike, inplace: bool = False) -> jax.Array:
    """`x sigmoid(x)` elementwise, also called swish.

    Args:
        input: any shape, floating-point or complex.
        inplace: write the result into `input` and return that, if it is a box; an array can't change.

    Raises:
        NotImplementedError: the input is integer or boolean.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn import functional as F
        >>> round(float(F.silu(jnp.array(1.0))), 4)
        0.7311
    """
    x = unbox(input)
    require_inexact(x, "silu")
    return store(input, _silu(x), inplace)


def mish(input: ArrayLike, inplace: bool = False) -> jax.Array:
    """`x tanh(softplus(x))` elementwise (Misra, 2019).

    Args:
        input: any shape.
        inplace: write the result into `input` and return that, if it is a box; an array can't change.

    Raises:
        NotImplementedError: the input is not floating-point.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn import functional as F
        >>> round(float(F.mish(jnp.array(1.0))), 4)
        0.8651
    """
    x = unbox(input)
    require_floating(x, "mish")
    return store(input, _mish(x), inplace)


@autocasts
def softplus(input: ArrayLike, beta: float = 1, threshold: float = 20) -> jax.Array:
    """`log(1 + exp(beta x)) / beta` elementwise, and `x` itself where `beta x` is greater than `threshold`.

    Args:
        input: any shape.
        beta: how sharply it bends.
        threshold: from where it is taken as linear.

    Raises:
        NotImplementedError: the input is not floating-point.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn import functional as F
        >>> [round(v, 4) for v in F.softplus(jnp.array([0.0, 30.0])).tolist()]
        [0.6931, 30.0]
    """
    x = unbox(input)
    require_floating(x, "softplus")
    return _softplus(x, beta=float(beta), threshold=float(threshold))


def logsigmoid(input: ArrayLike) -> jax.Array:
    """`log(sigmoid(x))` elementwise, without the underflow.

    Args:
        input: any shape.

    Raises:
        NotImplementedError: the input is not floating-point.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn import functional as F
        >>> [round(v, 4) for v in F.logsigmoid(jnp.array([0.0, -1000.0])).tolist()]
        [-0.6931, -1000.0]
    """
    x = unbox(input)
    require_floating(x, "logsigmoid")
    return _logsigmoid(x)


def softsign(input: ArrayLike) -> jax.Array:
    """`x / (1 + |x|)` elementwise; integers give float32.

    Args:
        input: any shape.

    Raises:
        NotImplementedError: the input is boolean.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn import functional as F
        >>> F.softsign(jnp.array([-1.0, 3.0])).tolist()
        [-0.5, 0.75]
    """
    x = unbox(input)
    if x.dtype == jnp.bool_:
        raise NotImplementedError(f"\"abs\" not implemented for 'bool' (input of size {shape_list(x)})")
    return _softsign(as_inexact(x))


def glu(input: ArrayLike, dim: int = -1) -> jax.Array:
    """`a sigmoid(b)`, where `a` and `b` are the halves of the input along `dim` (Dauphin et al., 2016).

    Args:
        input: the array.
        dim: the dimension to halve.

    Shape:
        - Input: `(*, 2 M, *)`.
        - Output: `(*, M, *)`.

    Raises:
        RuntimeError: the input is a scalar, or its size along `dim` is odd.
        IndexError: there is no such dimension.
        NotImplementedError: the input is not floating-point.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn import functional as F
        >>> F.glu(jnp.array([4.0, 0.0])).tolist()
        [2.0]
    """
    x = unbox(input)
    if x.ndim == 0:
        raise RuntimeError("glu does not support scalars because halving size must be even")
    axis = normalize_dim(dim, x.ndim)
    if x.shape[axis] % 2:
        raise RuntimeError(
            f"Halving dimension must be even, but dimension {axis} is size {x.shape[axis]}: "
            f"an input of size {shape_list(x)}"
        )
    require_floating(x, "glu")
    return _glu(x, axis=axis)


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
    return _tanh(as_inexact(unbox(input)))


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
    return _sigmoid(as_inexact(unbox(input)))

"""Exponential linear units."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from ...core.box import unbox
from ._common import ArrayLike, compiled
from ._pointwise import require_floating, store, widen

__all__ = ["celu", "celu_", "elu", "elu_", "selu", "selu_"]

# The fixed point of mean 0 and variance 1 (Klambauer et al., 2017), to the digits that torch has.
_SELU_ALPHA = 1.6732632423543772848170429916717
_SELU_SCALE = 1.0507009873554804934193349852946


@compiled("alpha", "scale", "input_scale")
def _elu(x: jax.Array, *, alpha: float, scale: float = 1.0, input_scale: float = 1.0) -> jax.Array:
    wide = widen(x)
    below = wide <= 0  # 0 too: there the gradient is that from below
    # The exponential sees no large value, whose derivative would be infinite: 0 times it, NaN.
    curve = jnp.expm1(jnp.where(below, wide, 0) * input_scale)
    return jnp.where(below, curve * (alpha * scale), wide * scale).astype(x.dtype)


def elu(input: ArrayLike, alpha: float = 1.0, inplace: bool = False) -> jax.Array:
    """`x` above 0, else `alpha (exp(x) - 1)` (Clevert et al., 2015); its gradient at 0 is `alpha`.

    Args:
        input: any shape.
        alpha: minus the limit below.
        inplace: write the result into `input` and return that, if it is a box; an array can't change.

    Raises:
        NotImplementedError: the input is not floating-point.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn import functional as F
        >>> F.elu(jnp.array([-100.0, 2.0]), alpha=0.5).tolist()
        [-0.5, 2.0]
    """
    x = unbox(input)
    require_floating(x, "elu")
    return store(input, _elu(x, alpha=float(alpha)), inplace)


def elu_(input: ArrayLike, alpha: float = 1.0) -> jax.Array:
    """`elu` in place.

    Args:
        input: a box, which is written and returned; of an array the result is returned.
        alpha: minus the limit below.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> from jaxmodule.nn import functional as F
        >>> F.elu_(nn.Buffer(jnp.array([-100.0, 2.0]))).tolist()
        [-1.0, 2.0]
    """
    return elu(input, alpha, inplace=True)


def selu(input: ArrayLike, inplace: bool = False) -> jax.Array:
    """`scale elu(x, alpha)` with the constants that keep mean 0 and variance 1 (Klambauer et al., 2017).

    `alpha` is 1.6732632423543772 and `scale` 1.0507009873554805.

    Args:
        input: any shape.
        inplace: write the result into `input` and return that, if it is a box; an array can't change.

    Raises:
        NotImplementedError: the input is not floating-point.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn import functional as F
        >>> [round(v, 4) for v in F.selu(jnp.array([-100.0, 1.0])).tolist()]
        [-1.7581, 1.0507]
    """
    x = unbox(input)
    require_floating(x, "selu")
    return store(input, _elu(x, alpha=_SELU_ALPHA, scale=_SELU_SCALE), inplace)


def selu_(input: ArrayLike) -> jax.Array:
    """`selu` in place.

    Args:
        input: a box, which is written and returned; of an array the result is returned.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> from jaxmodule.nn import functional as F
        >>> F.selu_(nn.Buffer(jnp.array([0.0]))).tolist()
        [0.0]
    """
    return selu(input, inplace=True)


def celu(input: ArrayLike, alpha: float = 1.0, inplace: bool = False) -> jax.Array:
    """`max(0, x) + min(0, alpha (exp(x / alpha) - 1))` elementwise (Barron, 2017); its gradient at 0 is 1.

    Args:
        input: any shape.
        alpha: minus the limit below.
        inplace: write the result into `input` and return that, if it is a box; an array can't change.

    Raises:
        RuntimeError: `alpha` is 0.
        NotImplementedError: the input is not floating-point.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn import functional as F
        >>> F.celu(jnp.array([-100.0, 2.0]), alpha=0.5).tolist()
        [-0.5, 2.0]
    """
    if alpha == 0:
        raise RuntimeError("ZeroDivisionError: alpha cannot be 0 for CELU")
    x = unbox(input)
    require_floating(x, "celu")
    return store(input, _elu(x, alpha=float(alpha), input_scale=1.0 / float(alpha)), inplace)


def celu_(input: ArrayLike, alpha: float = 1.0) -> jax.Array:
    """`celu` in place.

    Args:
        input: a box, which is written and returned; of an array the result is returned.
        alpha: minus the limit below.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> from jaxmodule.nn import functional as F
        >>> F.celu_(nn.Buffer(jnp.array([-100.0, 2.0]))).tolist()
        [-1.0, 2.0]
    """
    return celu(input, alpha, inplace=True)

"""Thresholds and clips: what is linear (or a parabola) between kinks.

Each is written with `where` so that its gradient is torch's at the kinks: the condition decides it.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from ...core.box import unbox
from ._common import ArrayLike, compiled, is_integer
from ._pointwise import require_floating, scalar_for, store, widen

__all__ = [
    "hardsigmoid",
    "hardswish",
    "hardtanh",
    "hardtanh_",
    "relu",
    "relu6",
    "relu_",
    "threshold",
    "threshold_",
]

_relu = compiled()(jax.nn.relu)


@compiled("limit", "value")
def _threshold(x: jax.Array, *, limit: float, value: float) -> jax.Array:
    return jnp.where(widen(x) <= limit, jnp.asarray(value, x.dtype), x)


@compiled("low", "high")
def _hardtanh(x: jax.Array, *, low: float, high: float) -> jax.Array:
    y = jnp.where(x <= low, jnp.asarray(low, x.dtype), x)
    return jnp.where(x >= high, jnp.asarray(high, x.dtype), y)


@compiled()
def _hardsigmoid(x: jax.Array) -> jax.Array:
    wide = widen(x)
    inside = (wide > -3) & (wide < 3)
    y = jnp.where(inside, wide + 3, lax.stop_gradient(jnp.clip(wide + 3, 0, 6))) / 6
    return y.astype(x.dtype)


@compiled()
def _hardswish(x: jax.Array) -> jax.Array:
    wide = widen(x)
    # The parabola sees no large value, whose derivative would be infinite: 0 times it, NaN.
    middle = jnp.where(jnp.abs(wide) < 3, wide, 0)
    y = jnp.where(wide < 3, middle * (middle + 3) / 6, wide)
    return jnp.where(wide <= -3, wide * 0, y).astype(x.dtype)


def _threshold_of(input: ArrayLike, limit: float, value: float, inplace: bool) -> jax.Array:
    x = unbox(input)
    if not is_integer(x):
        require_floating(x, "threshold")
    limit = scalar_for(x, limit) if is_integer(x) else float(limit)
    return store(input, _threshold(x, limit=limit, value=scalar_for(x, value)), inplace)


def threshold(input: ArrayLike, threshold: float, value: float, inplace: bool = False) -> jax.Array:
    """`x` where it is greater than `threshold`, elsewhere `value`.

    Args:
        input: any shape, floating-point or integer.
        threshold: what an element has to exceed. Truncated for an integer input, as `value` is.
        value: what replaces an element that doesn't.
        inplace: write the result into `input` and return that, if it is a box; an array can't change.

    Raises:
        NotImplementedError: the input is boolean or complex.
        RuntimeError: the input's dtype doesn't hold `value`.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn import functional as F
        >>> F.threshold(jnp.array([0.5, 1.0, 2.0]), 1.0, -1.0).tolist()
        [-1.0, -1.0, 2.0]
    """
    return _threshold_of(input, threshold, value, inplace)


def threshold_(input: ArrayLike, threshold: float, value: float) -> jax.Array:
    """`threshold` in place.

    Args:
        input: a box, which is written and returned; of an array the result is returned.
        threshold: what an element has to exceed.
        value: what replaces an element that doesn't.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> from jaxmodule.nn import functional as F
        >>> box = nn.Buffer(jnp.array([0.5, 2.0]))
        >>> F.threshold_(box, 1.0, 0.0) is box
        True
        >>> box.tolist()
        [0.0, 2.0]
    """
    return _threshold_of(input, threshold, value, inplace=True)


def relu(input: ArrayLike, inplace: bool = False) -> jax.Array:
    """`max(0, x)` elementwise; its gradient at 0 is 0.

    Args:
        input: any shape, floating-point or integer.
        inplace: write the result into `input` and return that, if it is a box; an array can't change.

    Raises:
        RuntimeError: the input is boolean.
        NotImplementedError: the input is complex.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn import functional as F
        >>> F.relu(jnp.array([-1.0, 2.0])).tolist()
        [0.0, 2.0]
    """
    x = unbox(input)
    if x.dtype == jnp.bool_:
        raise RuntimeError(f"Boolean inputs not supported for relu (input of size {list(x.shape)})")
    if not is_integer(x):
        require_floating(x, "relu")
    return store(input, _relu(x), inplace)


def relu_(input: ArrayLike) -> jax.Array:
    """`relu` in place.

    Args:
        input: a box, which is written and returned; of an array the result is returned.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> from jaxmodule.nn import functional as F
        >>> F.relu_(nn.Buffer(jnp.array([-1.0, 2.0]))).tolist()
        [0.0, 2.0]
    """
    return relu(input, inplace=True)


def relu6(input: ArrayLike, inplace: bool = False) -> jax.Array:
    """`min(max(0, x), 6)` elementwise; its gradient at 0 and at 6 is 0.

    Args:
        input: any shape, floating-point or integer.
        inplace: write the result into `input` and return that, if it is a box; an array can't change.

    Raises:
        RuntimeError: the input is boolean.
        NotImplementedError: the input is complex.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn import functional as F
        >>> F.relu6(jnp.array([-1.0, 2.0, 7.0])).tolist()
        [0.0, 2.0, 6.0]
    """
    return hardtanh(input, 0.0, 6.0, inplace)


def hardtanh(input: ArrayLike, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> jax.Array:
    """`min(max(min_val, x), max_val)` elementwise; its gradient at both is 0.

    Args:
        input: any shape, floating-point or integer.
        min_val: the lower limit. Truncated for an integer input, as `max_val` is.
        max_val: the upper limit.
        inplace: write the result into `input` and return that, if it is a box; an array can't change.

    Raises:
        ValueError: `min_val` is greater than `max_val`.
        RuntimeError: the input is boolean, or unsigned with a negative limit, or its dtype doesn't hold a limit.
        NotImplementedError: the input is complex.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn import functional as F
        >>> F.hardtanh(jnp.array([-3.0, 0.5, 3.0]), -2.0, 2.0).tolist()
        [-2.0, 0.5, 2.0]
    """
    if min_val > max_val:
        raise ValueError(f"min_val cannot be greater than max_val, but got {min_val} and {max_val}")
    x = unbox(input)
    if x.dtype == jnp.bool_:
        raise RuntimeError(f"Bool inputs not supported for hardtanh (input of size {list(x.shape)})")
    if not is_integer(x):
        require_floating(x, "hardtanh")
    if jnp.issubdtype(x.dtype, jnp.unsignedinteger) and min_val < 0:
        raise RuntimeError(
            f"cannot do hardtanh on an unsigned type with negative limits: {x.dtype.name}, {min_val} and {max_val}"
        )
    return store(input, _hardtanh(x, low=scalar_for(x, min_val), high=scalar_for(x, max_val)), inplace)


def hardtanh_(input: ArrayLike, min_val: float = -1.0, max_val: float = 1.0) -> jax.Array:
    """`hardtanh` in place.

    Args:
        input: a box, which is written and returned; of an array the result is returned.
        min_val: the lower limit.
        max_val: the upper limit.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> from jaxmodule.nn import functional as F
        >>> F.hardtanh_(nn.Buffer(jnp.array([-3.0, 0.5]))).tolist()
        [-1.0, 0.5]
    """
    return hardtanh(input, min_val, max_val, inplace=True)


def hardsigmoid(input: ArrayLike, inplace: bool = False) -> jax.Array:
    """`min(max(0, x + 3), 6) / 6` elementwise; its gradient at -3 and at 3 is 0.

    Args:
        input: any shape.
        inplace: write the result into `input` and return that, if it is a box; an array can't change.

    Raises:
        NotImplementedError: the input is not floating-point.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn import functional as F
        >>> F.hardsigmoid(jnp.array([-4.0, 0.0, 4.0])).tolist()
        [0.0, 0.5, 1.0]
    """
    x = unbox(input)
    require_floating(x, "hardsigmoid")
    return store(input, _hardsigmoid(x), inplace)


def hardswish(input: ArrayLike, inplace: bool = False) -> jax.Array:
    """`x hardsigmoid(x)` elementwise (Howard et al., 2019); its gradient is 0 at -3 and 1 at 3.

    Args:
        input: any shape.
        inplace: write the result into `input` and return that, if it is a box; an array can't change.

    Raises:
        NotImplementedError: the input is not floating-point.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn import functional as F
        >>> F.hardswish(jnp.array([-1.5, 0.0, 4.0])).tolist()
        [-0.375, 0.0, 4.0]
    """
    x = unbox(input)
    require_floating(x, "hardswish")
    return store(input, _hardswish(x), inplace)

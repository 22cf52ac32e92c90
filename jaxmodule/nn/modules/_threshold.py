"""Thresholds and clips as layers."""

from __future__ import annotations

import warnings

import jax

from .. import functional as F
from ..functional._common import ArrayLike
from ._inplace import InPlace


class Threshold(InPlace):
    """`x` where it is greater than `threshold`, elsewhere `value`.

    Args:
        threshold: what an element has to exceed.
        value: what replaces an element that doesn't.
        inplace: write the result into the input, if it is a box; an array can't change.

    Shape:
        - Input and output: `(*)`.

    Raises:
        NotImplementedError: on call, the input is boolean or complex.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> nn.Threshold(1.0, -1.0)(jnp.array([0.5, 2.0])).tolist()
        [-1.0, 2.0]
    """

    def __init__(self, threshold: float, value: float, inplace: bool = False) -> None:
        super().__init__(inplace)
        self.threshold = threshold
        self.value = value

    def forward(self, input: ArrayLike) -> jax.Array:
        """Apply the function."""
        return F.threshold(input, self.threshold, self.value, self.inplace)

    def extra_repr(self) -> str:
        """The constructor's arguments."""
        return self._repr_of("threshold", "value")


class ReLU(InPlace):
    """`max(0, x)` elementwise.

    Args:
        inplace: write the result into the input, if it is a box; an array can't change.

    Shape:
        - Input and output: `(*)`.

    Raises:
        RuntimeError: on call, the input is boolean.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> nn.ReLU()(jnp.array([-1.0, 2.0])).tolist()
        [0.0, 2.0]
    """

    def forward(self, input: ArrayLike) -> jax.Array:
        """Apply the function."""
        return F.relu(input, self.inplace)


class Hardtanh(InPlace):
    """`min(max(min_val, x), max_val)` elementwise.

    Args:
        min_val: the lower limit.
        max_val: the upper limit.
        inplace: write the result into the input, if it is a box; an array can't change.
        min_value: `min_val`, deprecated.
        max_value: `max_val`, deprecated.

    Shape:
        - Input and output: `(*)`.

    Raises:
        AssertionError: `max_val` is not greater than `min_val`.
        RuntimeError: on call, the input is boolean.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> nn.Hardtanh(-2, 2)(jnp.array([-3.0, 0.5, 3.0])).tolist()
        [-2.0, 0.5, 2.0]
    """

    def __init__(
        self,
        min_val: float = -1.0,
        max_val: float = 1.0,
        inplace: bool = False,
        min_value: float | None = None,
        max_value: float | None = None,
    ) -> None:
        super().__init__(inplace)
        for old, new, value in (("min_value", "min_val", min_value), ("max_value", "max_val", max_value)):
            if value is not None:
                message = f"keyword argument `{old}` is deprecated and renamed to `{new}`"
                warnings.warn(message, FutureWarning, stacklevel=2)
        self.min_val = min_val if min_value is None else min_value
        self.max_val = max_val if max_value is None else max_value
        if not self.max_val > self.min_val:
            raise AssertionError(f"max_val ({self.max_val}) must be greater than min_val ({self.min_val})")

    def forward(self, input: ArrayLike) -> jax.Array:
        """Apply the function."""
        return F.hardtanh(input, self.min_val, self.max_val, self.inplace)

    def extra_repr(self) -> str:
        """The limits."""
        return self._repr_of("min_val", "max_val")


class ReLU6(Hardtanh):
    """`min(max(0, x), 6)` elementwise.

    Args:
        inplace: write the result into the input, if it is a box; an array can't change.

    Shape:
        - Input and output: `(*)`.

    Raises:
        RuntimeError: on call, the input is boolean.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> nn.ReLU6()(jnp.array([-1.0, 2.0, 7.0])).tolist()
        [0.0, 2.0, 6.0]
    """

    def __init__(self, inplace: bool = False) -> None:
        super().__init__(0.0, 6.0, inplace)

    def extra_repr(self) -> str:
        """`inplace=True`, or nothing."""
        return self._repr_of()


class Hardsigmoid(InPlace):
    """`min(max(0, x + 3), 6) / 6` elementwise.

    Args:
        inplace: write the result into the input, if it is a box; an array can't change.

    Shape:
        - Input and output: `(*)`.

    Raises:
        NotImplementedError: on call, the input is not floating-point.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> nn.Hardsigmoid()(jnp.array([-4.0, 0.0, 4.0])).tolist()
        [0.0, 0.5, 1.0]
    """

    def forward(self, input: ArrayLike) -> jax.Array:
        """Apply the function."""
        return F.hardsigmoid(input, self.inplace)

    def extra_repr(self) -> str:
        """Nothing."""
        return ""


class Hardswish(InPlace):
    """`x hardsigmoid(x)` elementwise (Howard et al., 2019).

    Args:
        inplace: write the result into the input, if it is a box; an array can't change.

    Shape:
        - Input and output: `(*)`.

    Raises:
        NotImplementedError: on call, the input is not floating-point.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> nn.Hardswish()(jnp.array([-1.5, 0.0, 4.0])).tolist()
        [-0.375, 0.0, 4.0]
    """

    def forward(self, input: ArrayLike) -> jax.Array:
        """Apply the function."""
        return F.hardswish(input, self.inplace)

    def extra_repr(self) -> str:
        """Nothing."""
        return ""

"""Padding with a number, and what all padding layers share."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

import jax

from ...core.box import unbox
from .. import functional as F
from ..functional._common import ArrayLike, IntOrTuple, shape_list
from ..module import Module


class _PadNd(Module):
    _dimensions: ClassVar[int]
    _mode: ClassVar[str]

    def __init__(self, padding: IntOrTuple) -> None:
        super().__init__()
        sides = 2 * self._dimensions
        self.padding: tuple[int, ...] = tuple(padding) if isinstance(padding, Iterable) else (padding,) * sides

    def forward(self, input: ArrayLike) -> jax.Array:
        """Pad the input."""
        return F.pad(input, self.padding, self._mode)

    def extra_repr(self) -> str:
        """The padding."""
        return f"{self.padding}"


class _ConstantPadNd(_PadNd):
    _mode = "constant"

    def __init__(self, padding: IntOrTuple, value: float) -> None:
        super().__init__(padding)
        self.value = value

    def forward(self, input: ArrayLike) -> jax.Array:
        """Pad the input."""
        return F.pad(input, self.padding, self._mode, self.value)

    def extra_repr(self) -> str:
        """The constructor's arguments."""
        return f"padding={self.padding}, value={self.value}"


class _ReflectionPadNd(_PadNd):
    _mode = "reflect"


class _ReplicationPadNd(_PadNd):
    _mode = "replicate"


class _CircularPadNd(_PadNd):
    _mode = "circular"

    def forward(self, input: ArrayLike) -> jax.Array:
        """Pad the input."""
        n, x = self._dimensions, unbox(input)
        if x.ndim not in (n + 1, n + 2):
            raise ValueError(f"expected {n + 1}D or {n + 2}D input (got {x.ndim}D input of shape {shape_list(x)})")
        return super().forward(x)


class ConstantPad1d(_ConstantPadNd):
    """Pad a signal with a number.

    Args:
        padding: how much on each side, `(left, right)`, or one number for all;
            a negative number takes away.
        value: the number.

    Shape:
        - Input: `(*, L)`.
        - Output: `(*, L_out)`, where
          `L_out = L + left + right`.

    Raises:
        RuntimeError: on call, the input has no dimension, or more is taken away than there is.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> nn.ConstantPad1d((2, 0), 7.0)(jnp.array([[1.0, 2.0]])).tolist()
        [[7.0, 7.0, 1.0, 2.0]]
    """

    _dimensions = 1


class ConstantPad2d(_ConstantPadNd):
    """Pad an image with a number.

    Args:
        padding: how much on each side, `(left, right, top, bottom)`, or one number for all;
            a negative number takes away.
        value: the number.

    Shape:
        - Input: `(*, H, W)`.
        - Output: `(*, H_out, W_out)`, where
          `H_out = H + top + bottom` and `W_out = W + left + right`.

    Raises:
        RuntimeError: on call, the input has fewer than 2 dimensions, or more is taken away than there is.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> nn.ConstantPad2d((1, 0, 0, 1), 7.0)(jnp.array([[[1.0, 2.0]]])).tolist()
        [[[7.0, 1.0, 2.0], [7.0, 7.0, 7.0]]]
    """

    _dimensions = 2


class ConstantPad3d(_ConstantPadNd):
    """Pad a volume with a number.

    Args:
        padding: how much on each side, `(left, right, top, bottom, front, back)`, or one number for all;
            a negative number takes away.
        value: the number.

    Shape:
        - Input: `(*, D, H, W)`.
        - Output: `(*, D_out, H_out, W_out)`, where
          `D_out = D + front + back`, and so on.

    Raises:
        RuntimeError: on call, the input has fewer than 3 dimensions, or more is taken away than there is.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> nn.ConstantPad3d(1, 7.0)(jnp.ones((2, 3, 4, 5, 6))).shape
        (2, 3, 6, 7, 8)
    """

    _dimensions = 3


class ZeroPad1d(ConstantPad1d):
    """Pad a signal with zeros.

    Args:
        padding: how much on each side, `(left, right)`, or one number for all;
            a negative number takes away.

    Shape:
        - Input: `(*, L)`.
        - Output: `(*, L_out)`, where
          `L_out = L + left + right`.

    Raises:
        RuntimeError: on call, the input has no dimension, or more is taken away than there is.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> nn.ZeroPad1d((2, 0))(jnp.array([[1.0, 2.0]])).tolist()
        [[0.0, 0.0, 1.0, 2.0]]
    """

    def __init__(self, padding: IntOrTuple) -> None:
        super().__init__(padding, 0.0)

    extra_repr = _PadNd.extra_repr


class ZeroPad2d(ConstantPad2d):
    """Pad an image with zeros.

    Args:
        padding: how much on each side, `(left, right, top, bottom)`, or one number for all;
            a negative number takes away.

    Shape:
        - Input: `(*, H, W)`.
        - Output: `(*, H_out, W_out)`, where
          `H_out = H + top + bottom` and `W_out = W + left + right`.

    Raises:
        RuntimeError: on call, the input has fewer than 2 dimensions, or more is taken away than there is.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> nn.ZeroPad2d((-1, 1, 0, 1))(jnp.array([[[1.0, 2.0]]])).tolist()
        [[[2.0, 0.0], [0.0, 0.0]]]
    """

    def __init__(self, padding: IntOrTuple) -> None:
        super().__init__(padding, 0.0)

    extra_repr = _PadNd.extra_repr


class ZeroPad3d(ConstantPad3d):
    """Pad a volume with zeros.

    Args:
        padding: how much on each side, `(left, right, top, bottom, front, back)`, or one number for all;
            a negative number takes away.

    Shape:
        - Input: `(*, D, H, W)`.
        - Output: `(*, D_out, H_out, W_out)`, where
          `D_out = D + front + back`, and so on.

    Raises:
        RuntimeError: on call, the input has fewer than 3 dimensions, or more is taken away than there is.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> nn.ZeroPad3d((0, 0, 1, 1, 2, 2))(jnp.ones((2, 3, 4, 5, 6))).shape
        (2, 3, 8, 7, 6)
    """

    def __init__(self, padding: IntOrTuple) -> None:
        super().__init__(padding, 0.0)

    extra_repr = _PadNd.extra_repr

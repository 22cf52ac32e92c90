"""Padding layers: one implementation for each mode, three numbers of dimensions."""

from __future__ import annotations

from ._padding import (
    ConstantPad1d,
    ConstantPad2d,
    ConstantPad3d,
    ZeroPad1d,
    ZeroPad2d,
    ZeroPad3d,
    _CircularPadNd,
    _ConstantPadNd,  # noqa: F401  (torch has it here)
    _ReflectionPadNd,
    _ReplicationPadNd,
)

__all__ = [
    "CircularPad1d",
    "CircularPad2d",
    "CircularPad3d",
    "ConstantPad1d",
    "ConstantPad2d",
    "ConstantPad3d",
    "ReflectionPad1d",
    "ReflectionPad2d",
    "ReflectionPad3d",
    "ReplicationPad1d",
    "ReplicationPad2d",
    "ReplicationPad3d",
    "ZeroPad1d",
    "ZeroPad2d",
    "ZeroPad3d",
]


class ReflectionPad1d(_ReflectionPadNd):
    """Pad a signal with what is mirrored at its borders, the borders themselves left out.

    Args:
        padding: how much on each side, `(left, right)`, or one number for all;
            a negative number takes away.

    Shape:
        - Input: `(N, C, L)` or `(C, L)`.
        - Output: `(N, C, L_out)` or `(C, L_out)`, where
          `L_out = L + left + right`.

    Raises:
        RuntimeError: on call, a padding is not smaller than the dimension, or nothing is left.
        NotImplementedError: on call, the input has another rank, or holds bools.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> nn.ReflectionPad1d((2, 1))(jnp.array([[1.0, 2.0, 3.0]])).tolist()
        [[3.0, 2.0, 1.0, 2.0, 3.0, 2.0]]
    """

    _dimensions = 1


class ReflectionPad2d(_ReflectionPadNd):
    """Pad an image with what is mirrored at its borders, the borders themselves left out.

    Args:
        padding: how much on each side, `(left, right, top, bottom)`, or one number for all;
            a negative number takes away.

    Shape:
        - Input: `(N, C, H, W)` or `(C, H, W)`.
        - Output: `(N, C, H_out, W_out)` or `(C, H_out, W_out)`, where
          `H_out = H + top + bottom` and `W_out = W + left + right`.

    Raises:
        RuntimeError: on call, a padding is not smaller than the dimension, or nothing is left.
        NotImplementedError: on call, the input has another rank, or holds bools.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> nn.ReflectionPad2d((1, 0, 0, 1))(jnp.array([[[1.0, 2.0], [3.0, 4.0]]])).tolist()
        [[[2.0, 1.0, 2.0], [4.0, 3.0, 4.0], [2.0, 1.0, 2.0]]]
    """

    _dimensions = 2


class ReflectionPad3d(_ReflectionPadNd):
    """Pad a volume with what is mirrored at its borders, the borders themselves left out.

    Args:
        padding: how much on each side, `(left, right, top, bottom, front, back)`, or one number for all;
            a negative number takes away.

    Shape:
        - Input: `(N, C, D, H, W)` or `(C, D, H, W)`.
        - Output: `(N, C, D_out, H_out, W_out)` or `(C, D_out, H_out, W_out)`, where
          `D_out = D + front + back`, and so on.

    Raises:
        RuntimeError: on call, a padding is not smaller than the dimension, or nothing is left.
        NotImplementedError: on call, the input has another rank, or holds bools.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> nn.ReflectionPad3d(1)(jnp.ones((2, 3, 4, 5, 6))).shape
        (2, 3, 6, 7, 8)
    """

    _dimensions = 3


class ReplicationPad1d(_ReplicationPadNd):
    """Pad a signal with the values at its borders.

    Args:
        padding: how much on each side, `(left, right)`, or one number for all;
            a negative number takes away.

    Shape:
        - Input: `(N, C, L)` or `(C, L)`.
        - Output: `(N, C, L_out)` or `(C, L_out)`, where
          `L_out = L + left + right`.

    Raises:
        RuntimeError: on call, the input has an empty dimension, or nothing is left.
        NotImplementedError: on call, the input has another rank, or holds bools.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> nn.ReplicationPad1d((2, 1))(jnp.array([[1.0, 2.0, 3.0]])).tolist()
        [[1.0, 1.0, 1.0, 2.0, 3.0, 3.0]]
    """

    _dimensions = 1


class ReplicationPad2d(_ReplicationPadNd):
    """Pad an image with the values at its borders.

    Args:
        padding: how much on each side, `(left, right, top, bottom)`, or one number for all;
            a negative number takes away.

    Shape:
        - Input: `(N, C, H, W)` or `(C, H, W)`.
        - Output: `(N, C, H_out, W_out)` or `(C, H_out, W_out)`, where
          `H_out = H + top + bottom` and `W_out = W + left + right`.

    Raises:
        RuntimeError: on call, the input has an empty dimension, or nothing is left.
        NotImplementedError: on call, the input has another rank, or holds bools.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> nn.ReplicationPad2d((1, 0, 0, 1))(jnp.array([[[1.0, 2.0], [3.0, 4.0]]])).tolist()
        [[[1.0, 1.0, 2.0], [3.0, 3.0, 4.0], [3.0, 3.0, 4.0]]]
    """

    _dimensions = 2


class ReplicationPad3d(_ReplicationPadNd):
    """Pad a volume with the values at its borders.

    Args:
        padding: how much on each side, `(left, right, top, bottom, front, back)`, or one number for all;
            a negative number takes away.

    Shape:
        - Input: `(N, C, D, H, W)` or `(C, D, H, W)`.
        - Output: `(N, C, D_out, H_out, W_out)` or `(C, D_out, H_out, W_out)`, where
          `D_out = D + front + back`, and so on.

    Raises:
        RuntimeError: on call, the input has an empty dimension, or nothing is left.
        NotImplementedError: on call, the input has another rank, or holds bools.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> nn.ReplicationPad3d(1)(jnp.ones((2, 3, 4, 5, 6))).shape
        (2, 3, 6, 7, 8)
    """

    _dimensions = 3


class CircularPad1d(_CircularPadNd):
    """Pad a signal with the values at its other end.

    Args:
        padding: how much on each side, `(left, right)`, or one number for all;
            a negative number takes away.

    Shape:
        - Input: `(N, C, L)` or `(C, L)`.
        - Output: `(N, C, L_out)` or `(C, L_out)`, where
          `L_out = L + left + right`.

    Raises:
        ValueError: on call, the input has another rank.
        RuntimeError: on call, a padding is larger than the dimension.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> nn.CircularPad1d((2, 1))(jnp.array([[1.0, 2.0, 3.0]])).tolist()
        [[2.0, 3.0, 1.0, 2.0, 3.0, 1.0]]
    """

    _dimensions = 1


class CircularPad2d(_CircularPadNd):
    """Pad an image with the values at the other end of each dimension.

    Args:
        padding: how much on each side, `(left, right, top, bottom)`, or one number for all;
            a negative number takes away.

    Shape:
        - Input: `(N, C, H, W)` or `(C, H, W)`.
        - Output: `(N, C, H_out, W_out)` or `(C, H_out, W_out)`, where
          `H_out = H + top + bottom` and `W_out = W + left + right`.

    Raises:
        ValueError: on call, the input has another rank.
        RuntimeError: on call, a padding is larger than the dimension.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> nn.CircularPad2d((1, 0, 0, 1))(jnp.array([[[1.0, 2.0], [3.0, 4.0]]])).tolist()
        [[[2.0, 1.0, 2.0], [4.0, 3.0, 4.0], [2.0, 1.0, 2.0]]]
    """

    _dimensions = 2


class CircularPad3d(_CircularPadNd):
    """Pad a volume with the values at the other end of each dimension.

    Args:
        padding: how much on each side, `(left, right, top, bottom, front, back)`, or one number for all;
            a negative number takes away.

    Shape:
        - Input: `(N, C, D, H, W)` or `(C, D, H, W)`.
        - Output: `(N, C, D_out, H_out, W_out)` or `(C, D_out, H_out, W_out)`, where
          `D_out = D + front + back`, and so on.

    Raises:
        ValueError: on call, the input has another rank.
        RuntimeError: on call, a padding is larger than the dimension.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> nn.CircularPad3d(1)(jnp.ones((2, 3, 4, 5, 6))).shape
        (2, 3, 6, 7, 8)
    """

    _dimensions = 3

"""Fractional max pooling layers: one implementation, two numbers of dimensions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import jax

from .. import functional as F
from ..functional._common import ArrayLike, IntOrTuple
from ..functional.fractional_pooling import Ratio
from ..module import Module
from ..parameter import Buffer
from ._max_pooling import each

__all__ = ["FractionalMaxPool2d", "FractionalMaxPool3d"]


class _FractionalMaxPoolNd(Module):
    _dimensions: ClassVar[int]
    _function: ClassVar[Callable[..., Any]]
    _random_samples: Buffer | None

    def __init__(
        self,
        kernel_size: IntOrTuple,
        output_size: IntOrTuple | None = None,
        output_ratio: Ratio | None = None,
        return_indices: bool = False,
        _random_samples: ArrayLike | None = None,
    ) -> None:
        super().__init__()
        n, name = self._dimensions, type(self).__name__
        kernels = kernel_size if isinstance(kernel_size, Sequence) else (kernel_size,)
        if n == 3 and any(k <= 0 for k in kernels):  # torch looks at this in three dimensions only
            raise ValueError(f"kernel_size must be greater than 0, but got {kernel_size}")
        self.kernel_size = each(kernel_size, n)
        self.return_indices = return_indices
        self.register_buffer("_random_samples", _random_samples)
        self.output_size = None if output_size is None else each(output_size, n)
        self.output_ratio = None if output_ratio is None else each(output_ratio, n)
        if output_size is None and output_ratio is None:
            raise ValueError(f"{name} requires specifying either an output size, or a pooling ratio")
        if output_size is not None and output_ratio is not None:
            raise ValueError("only one of output_size and output_ratio may be specified")
        if self.output_ratio is not None and not all(0 < ratio < 1 for ratio in self.output_ratio):
            raise ValueError(f"output_ratio must be between 0 and 1 (got {output_ratio})")

    def forward(self, input: ArrayLike) -> jax.Array | tuple[jax.Array, jax.Array]:
        """Pool the input."""
        return type(self)._function(
            input,
            self.kernel_size,
            self.output_size,
            self.output_ratio,
            self.return_indices,
            _random_samples=self._random_samples,
        )


class FractionalMaxPool2d(_FractionalMaxPoolNd):
    """The largest element of windows at random steps of an image (Graham, 2014), in training and evaluation.

    Args:
        kernel_size: the window's extent, one number or `(vertical, horizontal)`.
        output_size: the number of windows, likewise.
        output_ratio: or that number as a fraction of the input's size, between 0 and 1, one or one a dimension.
        return_indices: return the maxima's flat indices in `H * W` as well, for `MaxUnpool2d`.
        _random_samples: numbers in [0, 1) that decide where the windows begin, drawn on each call if None.

    Shape:
        - Input: `(N, C, H, W)` or `(C, H, W)`.
        - Output: `(N, C, H_out, W_out)` or `(C, H_out, W_out)`.

    Attributes:
        _random_samples: `(N, C, 2)`, as given, or None.

    Raises:
        ValueError: there is neither an output size nor a ratio, or both, or a ratio out of range.
        RuntimeError: on call, the input's rank, the windows' number or the samples' shape or dtype doesn't fit.

    Note:
        Windows are drawn from the default generator: inside a raw JAX transform that is an error without
        `_random_samples`.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> nn.FractionalMaxPool2d(3, output_ratio=(0.5, 0.5))(jnp.ones((20, 16, 50, 32))).shape
        (20, 16, 25, 16)
    """

    _dimensions = 2
    _function = staticmethod(F.fractional_max_pool2d)


class FractionalMaxPool3d(_FractionalMaxPoolNd):
    """The largest element of windows at random steps of a volume (Graham, 2014), in training and evaluation.

    Args:
        kernel_size: the window's extent, one number or one a dimension.
        output_size: the number of windows, likewise.
        output_ratio: or that number as a fraction of the input's size, between 0 and 1, one or one a dimension.
        return_indices: return the maxima's flat indices in `D * H * W` as well, for `MaxUnpool3d`.
        _random_samples: numbers in [0, 1) that decide where the windows begin, drawn on each call if None.

    Shape:
        - Input: `(N, C, D, H, W)` or `(C, D, H, W)`.
        - Output: `(N, C, D_out, H_out, W_out)` or `(C, D_out, H_out, W_out)`.

    Attributes:
        _random_samples: `(N, C, 3)`, as given, or None.

    Raises:
        ValueError: there is neither an output size nor a ratio, or both, or a ratio out of range.
        RuntimeError: on call, the input's rank, the windows' number or the samples' shape or dtype doesn't fit.

    Note:
        Windows are drawn from the default generator: inside a raw JAX transform that is an error without
        `_random_samples`.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> nn.FractionalMaxPool3d(2, output_size=(4, 3, 2))(jnp.ones((2, 3, 10, 8, 6))).shape
        (2, 3, 4, 3, 2)
    """

    _dimensions = 3
    _function = staticmethod(F.fractional_max_pool3d)

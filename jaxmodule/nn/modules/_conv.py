"""The base classes of the convolution layers: one implementation for each number of dimensions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import ClassVar, Literal

import jax
from jax.typing import DTypeLike

from ...core.box import unbox
from .. import functional as F
from .. import init
from ..functional._common import ArrayLike, IntOrTuple
from ..functional._conv import same_pads
from ..module import Module
from ..parameter import Parameter
from .utils import Placement, empty_parameter, ntuple

PaddingMode = Literal["zeros", "reflect", "replicate", "circular"]


class _ConvNd(Module):
    _dimensions: ClassVar[int]
    _function: ClassVar[Callable[..., jax.Array]]
    weight: Parameter
    bias: Parameter | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: IntOrTuple,
        stride: IntOrTuple,
        padding: str | IntOrTuple,
        dilation: IntOrTuple,
        transposed: bool,
        output_padding: IntOrTuple,
        groups: int,
        bias: bool,
        padding_mode: PaddingMode,
        device: Placement | None,
        dtype: DTypeLike | None,
    ) -> None:
        super().__init__()
        # A subclass of a user's own gives tuples, as torch asks it to.
        n = self._dimensions if hasattr(type(self), "_dimensions") else len(tuple(kernel_size))  # pyright: ignore[reportArgumentType]
        if groups <= 0:
            raise ValueError(f"groups must be a positive integer, but got {groups}")
        if in_channels % groups:
            raise ValueError(f"in_channels must be divisible by groups, but got {in_channels} and {groups}")
        if out_channels % groups:
            raise ValueError(f"out_channels must be divisible by groups, but got {out_channels} and {groups}")
        if padding_mode not in ("zeros", "reflect", "replicate", "circular"):
            raise ValueError(
                "padding_mode must be one of 'zeros', 'reflect', 'replicate' and 'circular', "
                f"but got padding_mode={padding_mode!r}"
            )
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = ntuple("kernel_size", kernel_size, n)
        self.stride = ntuple("stride", stride, n)
        self.padding = padding if isinstance(padding, str) else ntuple("padding", padding, n)
        self.dilation = ntuple("dilation", dilation, n)
        self.transposed = transposed
        self.output_padding = ntuple("output_padding", output_padding, n)
        self.groups = groups
        self.padding_mode = padding_mode
        self._reversed_padding_repeated_twice = self._edges()
        shape = (in_channels, out_channels // groups) if transposed else (out_channels, in_channels // groups)
        self.weight = empty_parameter((*shape, *self.kernel_size), device, dtype)
        if bias:
            self.bias = empty_parameter((out_channels,), device, dtype)
        else:
            self.register_parameter("bias", None)
        self.reset_parameters()

    def _edges(self) -> tuple[int, ...]:
        """The padding as `F.pad` takes it."""
        if not isinstance(self.padding, str):
            pads = tuple((size, size) for size in self.padding)
        elif self.padding == "valid":
            pads = ((0, 0),) * len(self.kernel_size)
        elif self.padding != "same":
            raise ValueError(f"Invalid padding string {self.padding!r}, should be one of 'same' and 'valid'")
        elif max(self.stride) > 1:
            raise ValueError(f"padding='same' is not supported for strided convolutions (stride={self.stride})")
        else:
            pads = same_pads(self.kernel_size, self.dilation)
        return tuple(size for pair in reversed(pads) for size in pair)

    def reset_parameters(self) -> None:
        """Draw the parameters anew."""
        if self.weight.size:
            # With a = sqrt(5) He's bound is 1 / sqrt(fan_in), the one of the bias.
            init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None and self.bias.size:
            fan_in = math.prod(self.weight.shape[1:])
            bound = 1 / math.sqrt(fan_in) if fan_in > 0 else 0.0
            init.uniform_(self.bias, -bound, bound)

    def extra_repr(self) -> str:
        """The constructor's arguments, those at their default left out."""
        n = len(self.kernel_size)
        parts = [
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}",
            f"padding={self.padding}" if self.padding != (0,) * n else "",
            f"dilation={self.dilation}" if self.dilation != (1,) * n else "",
            f"output_padding={self.output_padding}" if self.output_padding != (0,) * n else "",
            f"groups={self.groups}" if self.groups != 1 else "",
            "bias=False" if self.bias is None else "",
            f"padding_mode={self.padding_mode}" if self.padding_mode != "zeros" else "",
        ]
        return ", ".join(part for part in parts if part)


class _ConvForwardNd(_ConvNd):
    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: IntOrTuple,
        stride: IntOrTuple = 1,
        padding: str | IntOrTuple = 0,
        dilation: IntOrTuple = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: PaddingMode = "zeros",
        device: Placement | None = None,
        dtype: DTypeLike | None = None,
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            False,
            0,
            groups,
            bias,
            padding_mode,
            device,
            dtype,
        )

    def forward(self, input: ArrayLike) -> jax.Array:
        """Convolve the input."""
        return self._conv_forward(input, self.weight, self.bias)

    def _conv_forward(self, input: ArrayLike, weight: ArrayLike, bias: ArrayLike | None) -> jax.Array:
        """Convolve the input with this weight: what a subclass calls, or overrides, to change the weight."""
        padding = self.padding
        if self.padding_mode != "zeros":
            input, padding = F.pad(input, self._reversed_padding_repeated_twice, mode=self.padding_mode), 0
        convolve = type(self)._function
        return convolve(input, weight, bias, self.stride, padding, self.dilation, self.groups)


class _ConvTransposeNd(_ConvNd):
    padding: tuple[int, ...]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: IntOrTuple,
        stride: IntOrTuple,
        padding: IntOrTuple,
        dilation: IntOrTuple,
        transposed: bool,
        output_padding: IntOrTuple,
        groups: int,
        bias: bool,
        padding_mode: PaddingMode,
        device: Placement | None = None,
        dtype: DTypeLike | None = None,
    ) -> None:
        if padding_mode != "zeros":
            raise ValueError(
                f'Only "zeros" padding mode is supported for {type(self).__name__}, but got {padding_mode!r}'
            )
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            transposed,
            output_padding,
            groups,
            bias,
            padding_mode,
            device,
            dtype,
        )

    def _output_padding(
        self,
        input: ArrayLike,
        output_size: Sequence[int] | None,
        stride: Sequence[int],
        padding: Sequence[int],
        kernel_size: Sequence[int],
        num_spatial_dims: int,
        dilation: Sequence[int] | None = None,
    ) -> tuple[int, ...]:
        """The `output_padding` with which the output has this size; the layer's own where none is given.

        Raises:
            ValueError: it has another number of dimensions, or no output has this size.
            IndexError: the input has too few dimensions.
        """
        if output_size is None:
            return self.output_padding
        n, shape = num_spatial_dims, tuple(input.shape)
        rank = len(shape)
        others = 2 if rank == n + 2 else 1
        if len(output_size) not in (n, n + others):
            raise ValueError(
                f"{type(self).__name__}: for {rank}D input {list(shape)}, output_size must have {n} or "
                f"{n + others} elements (got {len(output_size)})"
            )
        wanted, lengths = tuple(output_size[len(output_size) - n :]), shape[others:]
        if len(lengths) < n:  # torch's type
            raise IndexError(f"Expected {n + 1}D or {n + 2}D input where output_size is given: {list(shape)}")
        if len(lengths) > n:
            return self.output_padding  # the functional says what is wrong
        steps = zip(lengths, stride, padding, dilation or (1,) * n, kernel_size, strict=True)
        least = [(length - 1) * s - 2 * p + d * (k - 1) + 1 for length, s, p, d, k in steps]
        most = [size + s - 1 for size, s in zip(least, stride, strict=True)]
        if any(not low <= size <= high for low, size, high in zip(least, wanted, most, strict=True)):
            raise ValueError(
                f"requested an output size of {wanted}, but valid sizes range from {least} to {most} "
                f"(for an input of {list(lengths)})"
            )
        return tuple(size - low for size, low in zip(wanted, least, strict=True))


class _ConvTransposeForwardNd(_ConvTransposeNd):
    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: IntOrTuple,
        stride: IntOrTuple = 1,
        padding: IntOrTuple = 0,
        output_padding: IntOrTuple = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: IntOrTuple = 1,
        padding_mode: Literal["zeros"] = "zeros",
        device: Placement | None = None,
        dtype: DTypeLike | None = None,
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            ntuple("padding", padding, self._dimensions),
            dilation,
            True,
            output_padding,
            groups,
            bias,
            padding_mode,
            device,
            dtype,
        )

    def forward(self, input: ArrayLike, output_size: Sequence[int] | None = None) -> jax.Array:
        """Convolve the input, to an output of `output_size` where several sizes are possible."""
        if self.padding_mode != "zeros":
            raise ValueError(f'Only "zeros" padding mode is supported for {type(self).__name__}')
        x = unbox(input)
        output_padding = self._output_padding(
            x, output_size, self.stride, self.padding, self.kernel_size, self._dimensions, self.dilation
        )
        convolve = type(self)._function
        return convolve(
            x, self.weight, self.bias, self.stride, self.padding, output_padding, self.groups, self.dilation
        )

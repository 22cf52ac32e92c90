"""What lazy layers of one family share: their constructors, and how they learn their number of channels."""

from __future__ import annotations

from typing import Any

from jax.typing import DTypeLike

from ..functional._common import ArrayLike, IntOrTuple, shape_list
from ..parameter import UninitializedBuffer, UninitializedParameter
from ._conv import PaddingMode
from .lazy import LazyModuleMixin
from .utils import Placement, filled_buffer


class _LazyConvXdMixin(LazyModuleMixin):
    """A convolution whose `in_channels` is the first input's."""

    def _postpone(self, out_channels: int, bias: bool, device: Placement | None, dtype: DTypeLike | None) -> None:
        layer: Any = self
        layer.out_channels = out_channels
        layer.weight = UninitializedParameter(device=device, dtype=dtype)
        if bias:
            layer.bias = UninitializedParameter(device=device, dtype=dtype)

    def _channels(self, input: ArrayLike) -> int:
        layer: Any = self
        n = layer._dimensions
        if input.ndim not in (n + 1, n + 2):
            raise RuntimeError(
                f"Expected {n + 1}D (unbatched) or {n + 2}D (batched) input to {type(self).__name__}, "
                f"but got input of size: {shape_list(input)}"  # pyright: ignore[reportArgumentType]
            )
        return int(input.shape[-n - 1])

    def initialize_parameters(self, input: ArrayLike, *args: Any, **kwargs: Any) -> None:
        """Make the kernels for the input's channels."""
        layer: Any = self
        if not self.has_uninitialized_params():
            if not layer.in_channels:  # a file was loaded
                layer.in_channels = self._channels(input)
            return
        layer.in_channels = channels = self._channels(input)
        groups, outputs = layer.groups, layer.out_channels
        for name, count in (("in_channels", channels), ("out_channels", outputs)):
            if count % groups:
                raise ValueError(f"{name} must be divisible by groups, but got {count} and {groups}")
        shape = (channels, outputs // groups) if layer.transposed else (outputs, channels // groups)
        layer.weight.materialize((*shape, *layer.kernel_size))
        if layer.bias is not None:
            layer.bias.materialize((outputs,))
        layer.reset_parameters()


class _LazyConvForward(_LazyConvXdMixin):
    def __init__(
        self,
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
        layer: Any = super()
        layer.__init__(0, 0, kernel_size, stride, padding, dilation, groups, False, padding_mode)
        self._postpone(out_channels, bias, device, dtype)


class _LazyConvTranspose(_LazyConvXdMixin):
    def __init__(
        self,
        out_channels: int,
        kernel_size: IntOrTuple,
        stride: IntOrTuple = 1,
        padding: IntOrTuple = 0,
        output_padding: IntOrTuple = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: int = 1,
        padding_mode: PaddingMode = "zeros",
        device: Placement | None = None,
        dtype: DTypeLike | None = None,
    ) -> None:
        layer: Any = super()
        layer.__init__(0, 0, kernel_size, stride, padding, output_padding, groups, False, dilation, padding_mode)
        self._postpone(out_channels, bias, device, dtype)


class _LazyNormBase(LazyModuleMixin):
    """A normalisation whose `num_features` is the first input's number of channels."""

    def __init__(
        self,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Placement | None = None,
        dtype: DTypeLike | None = None,
        *,
        bias: bool = True,
    ) -> None:
        parent: Any = super()
        parent.__init__(0, eps, momentum, False, False)
        layer: Any = self
        layer.affine, layer.track_running_stats = affine, track_running_stats
        for name, wanted in (("weight", affine), ("bias", affine and bias)):
            if wanted:
                setattr(layer, name, UninitializedParameter(device=device, dtype=dtype))
        if track_running_stats:
            layer.running_mean = UninitializedBuffer(device=device, dtype=dtype)
            layer.running_var = UninitializedBuffer(device=device, dtype=dtype)
            layer.num_batches_tracked = filled_buffer((), 0, device, int)

    def initialize_parameters(self, input: ArrayLike) -> None:
        """Make parameters and running statistics for the input's channels."""
        layer: Any = self
        # An instance norm's input may have no batch.
        channels = int(input.shape[input.ndim - layer._no_batch if hasattr(layer, "_no_batch") else 1])
        if self.has_uninitialized_params():
            for box in (layer.weight, layer.bias, layer.running_mean, layer.running_var):
                if box is not None:
                    box.materialize((channels,))
            layer.reset_parameters()
        layer.num_features = channels

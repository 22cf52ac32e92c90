"""`torch.nn.parameter`'s names."""

from ..core.lazy import UninitializedBuffer, UninitializedParameter, UninitializedTensorMixin, is_lazy
from ..core.parameter import Buffer, Parameter

__all__ = [
    "Buffer",
    "Parameter",
    "UninitializedBuffer",
    "UninitializedParameter",
    "UninitializedTensorMixin",
    "is_lazy",
]

"""`torch.nn.parameter`'s names."""

from ..core.parameter import Buffer, Parameter

__all__ = ["Buffer", "Parameter"]

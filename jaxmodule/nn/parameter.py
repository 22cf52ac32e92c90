"""`torch.nn.parameter`'s names."""

from ..core.box import Buffer, Parameter

__all__ = ["Buffer", "Parameter"]

"""Automatic mixed precision: `torch.amp`."""

from .autocast_mode import autocast, get_autocast_dtype, is_autocast_enabled
from .grad_scaler import GradScaler
from .precision import get_float32_matmul_precision, set_float32_matmul_precision

__all__ = [
    "GradScaler",
    "autocast",
    "get_autocast_dtype",
    "get_float32_matmul_precision",
    "is_autocast_enabled",
    "set_float32_matmul_precision",
]

"""JAX's transforms for functions of Modules, optimizers and generators."""

from ._jit_report import RetraceWarning
from .branches import checkpoint, cond, remat, switch
from .grad import backward, grad, value_and_grad
from .jit import JitFunction, eval_shape, jit
from .loops import fori_loop, scan, while_loop
from .scan_layers import scan_layers
from .vmap import vmap

__all__ = [
    "JitFunction",
    "RetraceWarning",
    "backward",
    "checkpoint",
    "cond",
    "eval_shape",
    "fori_loop",
    "grad",
    "jit",
    "remat",
    "scan",
    "scan_layers",
    "switch",
    "value_and_grad",
    "vmap",
    "while_loop",
]

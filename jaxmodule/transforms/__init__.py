"""JAX's transforms for functions of Modules, optimizers and generators."""

from ._jit_report import RetraceWarning
from .accumulate import accumulate
from .branches import checkpoint, cond, remat, switch
from .custom import custom_jvp, custom_vjp
from .derivatives import hessian, jacfwd, jacrev, jvp, linearize, vjp
from .grad import backward, grad, value_and_grad
from .jit import JitFunction, eval_shape, jit
from .loops import fori_loop, scan, while_loop
from .scan_layers import scan_layers
from .shard import shard_map
from .vmap import vmap

__all__ = [
    "JitFunction",
    "RetraceWarning",
    "accumulate",
    "backward",
    "checkpoint",
    "cond",
    "custom_jvp",
    "custom_vjp",
    "eval_shape",
    "fori_loop",
    "grad",
    "hessian",
    "jacfwd",
    "jacrev",
    "jit",
    "jvp",
    "linearize",
    "remat",
    "scan",
    "scan_layers",
    "shard_map",
    "switch",
    "value_and_grad",
    "vjp",
    "vmap",
    "while_loop",
]

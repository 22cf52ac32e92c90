"""JAX's transforms for functions of Modules, optimizers and generators."""

from .grad import backward, grad, value_and_grad
from .jit import JitFunction, eval_shape, jit

__all__ = ["JitFunction", "backward", "eval_shape", "grad", "jit", "value_and_grad"]

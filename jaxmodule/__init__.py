"""jaxmodule: the contract of `torch.nn.Module` on JAX."""

from . import io, nn, optim, random
from .core.errors import ClosedOverError, EscapedError, ForeignTraceError, ImmutableError, StateError
from .func import functional_call, merge, split, stack_module_state
from .io import load, save
from .nn.capture import Capture, capture
from .nn.modes import enable_grad, is_grad_enabled, no_grad, set_grad_enabled
from .random import (
    Generator,
    default_generator,
    fork_rng,
    get_rng_state,
    initial_seed,
    manual_seed,
    next_key,
    seed,
    set_rng_state,
    use_rng,
)
from .transforms import (
    backward,
    checkpoint,
    cond,
    eval_shape,
    fori_loop,
    grad,
    jit,
    remat,
    scan,
    switch,
    value_and_grad,
    vmap,
    while_loop,
)

__version__ = "0.1.0"

__all__ = [
    "Capture",
    "ClosedOverError",
    "EscapedError",
    "ForeignTraceError",
    "Generator",
    "ImmutableError",
    "StateError",
    "backward",
    "capture",
    "checkpoint",
    "cond",
    "default_generator",
    "enable_grad",
    "eval_shape",
    "fori_loop",
    "fork_rng",
    "functional_call",
    "get_rng_state",
    "grad",
    "initial_seed",
    "io",
    "is_grad_enabled",
    "jit",
    "load",
    "manual_seed",
    "merge",
    "next_key",
    "nn",
    "no_grad",
    "optim",
    "random",
    "remat",
    "save",
    "scan",
    "seed",
    "set_grad_enabled",
    "set_rng_state",
    "split",
    "stack_module_state",
    "switch",
    "use_rng",
    "value_and_grad",
    "vmap",
    "while_loop",
]

"""jaxmodule: the contract of `torch.nn.Module` on JAX."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from . import amp, debug, io, nn, optim, random
from .amp import autocast, get_float32_matmul_precision, set_float32_matmul_precision
from .core.device import device
from .core.errors import AbstractError, ClosedOverError, EscapedError, ForeignTraceError, ImmutableError, StateError
from .func import functional_call, merge, split, stack_module_state
from .io import latest_checkpoint, list_checkpoints, load, load_checkpoint, save, save_checkpoint
from .nn.capture import Capture, capture
from .nn.modes import enable_grad, inference, is_grad_enabled, no_grad, set_grad_enabled
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
    RetraceWarning,
    accumulate,
    backward,
    checkpoint,
    cond,
    custom_jvp,
    custom_vjp,
    eval_shape,
    fori_loop,
    grad,
    hessian,
    jacfwd,
    jacrev,
    jit,
    jvp,
    linearize,
    remat,
    scan,
    scan_layers,
    shard_map,
    switch,
    value_and_grad,
    vjp,
    vmap,
    while_loop,
)

if TYPE_CHECKING:
    from . import port
    from .port import summary

__version__ = "0.1.0"

__all__ = [
    "AbstractError",
    "Capture",
    "ClosedOverError",
    "EscapedError",
    "ForeignTraceError",
    "Generator",
    "ImmutableError",
    "RetraceWarning",
    "StateError",
    "accumulate",
    "amp",
    "autocast",
    "backward",
    "capture",
    "checkpoint",
    "cond",
    "custom_jvp",
    "custom_vjp",
    "debug",
    "default_generator",
    "device",
    "enable_grad",
    "eval_shape",
    "fori_loop",
    "fork_rng",
    "functional_call",
    "get_float32_matmul_precision",
    "get_rng_state",
    "grad",
    "hessian",
    "inference",
    "initial_seed",
    "io",
    "is_grad_enabled",
    "jacfwd",
    "jacrev",
    "jit",
    "jvp",
    "latest_checkpoint",
    "linearize",
    "list_checkpoints",
    "load",
    "load_checkpoint",
    "manual_seed",
    "merge",
    "next_key",
    "nn",
    "no_grad",
    "optim",
    "port",
    "random",
    "remat",
    "save",
    "save_checkpoint",
    "scan",
    "scan_layers",
    "seed",
    "set_float32_matmul_precision",
    "set_grad_enabled",
    "set_rng_state",
    "shard_map",
    "split",
    "stack_module_state",
    "summary",
    "switch",
    "use_rng",
    "value_and_grad",
    "vjp",
    "vmap",
    "while_loop",
]


def __getattr__(name: str) -> Any:
    # `port` is for a while in a model's life, and brings rich: it is imported when it is asked for.
    if name == "port":
        return import_module(".port", __name__)
    if name == "summary":
        return import_module(".port", __name__).summary
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""`torch.nn`'s names."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from . import common_types, functional, init
from ._absent import QUANTIZATION
from .hooks import (
    register_module_backward_hook,
    register_module_buffer_registration_hook,
    register_module_forward_hook,
    register_module_forward_pre_hook,
    register_module_full_backward_hook,
    register_module_full_backward_pre_hook,
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)
from .modules import *  # noqa: F403
from .modules import __all__ as _modules
from .modules.utils import factory_kwargs
from .parameter import Buffer, Parameter, UninitializedBuffer, UninitializedParameter

if TYPE_CHECKING:
    from . import attention, grad, parallel, utils
    from .parallel import DataParallel

__all__ = [
    "Buffer",
    "DataParallel",
    "Parameter",
    "UninitializedBuffer",
    "UninitializedParameter",
    "attention",
    "common_types",
    "factory_kwargs",
    "functional",
    "grad",
    "init",
    "parallel",
    "register_module_backward_hook",
    "register_module_buffer_registration_hook",
    "register_module_forward_hook",
    "register_module_forward_pre_hook",
    "register_module_full_backward_hook",
    "register_module_full_backward_pre_hook",
    "register_module_module_registration_hook",
    "register_module_parameter_registration_hook",
    "utils",
    *_modules,
]

# Files of these names raise when they are imported, so that an import from one says why.
_ABSENT = dict.fromkeys(("intrinsic", "qat", "quantizable", "quantized"), QUANTIZATION)

# Imported when they are first asked for: `import jaxmodule` is not to cost much more than `import jax`.
_ON_DEMAND = ("attention", "grad", "parallel", "utils")


def __getattr__(name: str) -> Any:
    if name in _ON_DEMAND:
        return import_module(f".{name}", __name__)
    if name == "DataParallel":
        return import_module(".parallel", __name__).DataParallel
    why = f"it is not here: {_ABSENT[name]}" if name in _ABSENT else "torch has none either"
    raise AttributeError(f"module 'jaxmodule.nn' has no attribute {name!r}: {why}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

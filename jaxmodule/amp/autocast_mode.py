"""`autocast`: a block in which the functionals choose the dtype they compute in."""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, Self, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from ..core.context import set_ambient, tls
from ..nn.functional._autocast import Autocast

P = ParamSpec("P")
R = TypeVar("R")

#: torch's names of devices, and JAX's: the lists in use, and the dtype where none is given.
_DEVICES = {"cpu": ("cpu", jnp.bfloat16), "tpu": ("cuda", jnp.bfloat16), "xla": ("cuda", jnp.bfloat16)}
_GPUS = ("cuda", "gpu", "rocm", "xpu", "mps")
#: What makes JAX's own caches tell the blocks apart. It is there from the start: a context that is made while a program
#: is traced changes what the program is known by, and it would be compiled a second time.
_jax_context = jax.make_user_context(None)


class autocast:  # torch's name
    """In the block the functionals of torch's lists compute in a lower precision, or in float32 where that is needed.

    Products (`linear`, the convolutions, attention, the recurrent layers, ...) take their arguments in `dtype`;
    softmax, normalisations over features and losses take theirs in float32; what is in no list takes them as they come.
    Parameters stay in float32, and so do their gradients. Wrap the forward pass and the loss; there is no need to wrap
    the backward pass, which is in the dtypes of the forward pass by itself. Also a decorator of functions.

    Args:
        device_type: whose lists: "cuda" (also "gpu", "tpu", ...) or "cpu"; or the dtype, with the lists of "cuda". It
            does not say where anything runs. torch's CPU lists have the products and losses, but no softmax and no
            normalisation, which compute in float32 inside anyway.
        dtype: bfloat16 or float16. None for bfloat16; after "cuda" for float16, as in torch.
        enabled: False computes everything as it comes again, in a block inside of another.
        cache_enabled: whether torch casts a weight once in a block. XLA does in each program; it changes nothing.

    Raises:
        ValueError: an unknown device, or a dtype that is none of the two.

    Note:
        Only the functionals of `nn.functional`, and so the layers, know of it. What is written with `jax.numpy`, or as
        `x @ self.weight`, computes as it comes: `F.linear(x, self.weight)` takes part.
        With float16 scale the loss (`jm.amp.GradScaler`); with bfloat16 there is no need to.
        It is part of what a compiled program is known by, those of `jax.jit` too: each has one for inside and one for
        outside of a block.

    Example:
        >>> import jax.numpy as jnp, jaxmodule as jm
        >>> from jaxmodule import nn
        >>> from jaxmodule.nn import functional as F
        >>> model, x = nn.Linear(3, 2), jnp.ones((4, 3))
        >>> with jm.amp.autocast(jnp.bfloat16):
        ...     out = model(x)
        ...     probabilities = F.softmax(out, -1)
        >>> out.dtype.name, probabilities.dtype.name, model.weight.dtype.name
        ('bfloat16', 'float32', 'float32')
    """

    def __init__(
        self,
        device_type: Any = jnp.bfloat16,
        dtype: Any = None,
        enabled: bool = True,
        cache_enabled: bool | None = None,
    ) -> None:
        lists: Any = "cuda"
        if isinstance(device_type, str) and (device_type in _DEVICES or device_type in _GPUS):
            lists, default = _DEVICES.get(device_type, ("cuda", jnp.float16))
        elif device_type is None or dtype is None:
            default = jnp.bfloat16 if device_type is None else device_type
        else:
            raise ValueError(f"autocast: no device is called {device_type!r}; there are {[*_GPUS, *_DEVICES]}")
        self.dtype = _checked(default if dtype is None else dtype)
        self.enabled = enabled
        self._mode = Autocast(self.dtype, lists) if enabled else None
        self._outer: list[tuple[Any, Any]] = []

    def __enter__(self) -> Self:
        context = _jax_context(self._mode)
        self._outer.append((tls.autocast, context))
        context.__enter__()
        set_ambient(autocast=self._mode)
        return self

    def __exit__(self, *exc: Any) -> None:
        outer, context = self._outer.pop()
        set_ambient(autocast=outer)
        context.__exit__(*exc)

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        if not callable(function):
            raise TypeError(
                f"autocast()(function) requires a callable, but got {type(function).__name__}. Did you mean the block "
                "`with jm.autocast(): output = model(input)`?"
            )
        lists = "cuda" if self._mode is None else self._mode.lists

        @functools.wraps(function)
        def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
            with autocast(lists, self.dtype, self.enabled):
                return function(*args, **kwargs)

        return wrapper


def _checked(dtype: Any) -> np.dtype:
    try:
        found = jnp.dtype(dtype)
    except TypeError:
        raise ValueError(f"autocast: {dtype!r} is neither a device nor a dtype") from None
    if found not in (jnp.bfloat16, jnp.float16):
        raise ValueError(f"autocast: the lower precision is bfloat16 or float16, got {found.name}")
    return found


def is_autocast_enabled(device_type: str | None = None) -> bool:
    """Is this code in a block of `autocast` that is enabled?

    Args:
        device_type: as in torch; a block here is for all devices.
    """
    return tls.autocast is not None


def get_autocast_dtype(device_type: str | None = None) -> np.dtype:
    """The dtype of the innermost block of `autocast`; that of `autocast()` outside of one.

    Args:
        device_type: as in torch; a block here is for all devices.
    """
    return jnp.dtype(jnp.bfloat16) if tls.autocast is None else tls.autocast.dtype

"""Changing the dtype and the placement of a module's arrays, and the names of torch's that mean nothing here."""

from collections.abc import Callable
from typing import Any, NoReturn, Self

import jax
import jax.numpy as jnp

from ..core.box import Box, unbox
from ..core.lazy import UninitializedTensorMixin
from ..core.parameter import Parameter

_PLATFORMS = ("cpu", "gpu", "cuda", "rocm", "tpu", "METAL")


def _is_floating(dtype: Any) -> bool:
    return jnp.issubdtype(dtype, jnp.inexact)


def _as_device(what: Any) -> Any:
    """A device or sharding from what `.to` accepts: those themselves, or "cpu", "cuda", "gpu:1", ..."""
    if isinstance(what, str):
        platform, _, number = what.partition(":")
        devices = jax.devices(platform)
        if number and not (number.isdecimal() and int(number) < len(devices)):
            raise RuntimeError(f"no device {what!r}: JAX has {len(devices)} of platform {platform!r}")
        return devices[int(number or 0)]
    if isinstance(what, int) and not isinstance(what, bool):
        return jax.devices()[what]
    return what


def _is_placement(what: Any) -> bool:
    if isinstance(what, str):
        return what.partition(":")[0] in _PLATFORMS or not _is_dtype(what)
    return isinstance(what, (jax.Device, jax.sharding.Sharding, int))


def _is_dtype(name: str) -> bool:
    try:
        jnp.dtype(name)
    except TypeError:
        return False
    return True


def _parse_to(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
    """The (placement, dtype) of a call of `.to`."""
    placement, dtype = kwargs.pop("device", None), kwargs.pop("dtype", None)
    like = kwargs.pop("tensor", None)
    kwargs.pop("non_blocking", None)  # transfers are asynchronous in JAX either way
    if kwargs:
        raise TypeError(f"to() got an unexpected keyword argument {next(iter(kwargs))!r}")
    given: list[str] = []
    for arg in args:
        if isinstance(arg, bool) or arg is None:
            continue
        if isinstance(arg, (jax.Array, Box)):
            like, kind = arg, "array"
        elif _is_placement(arg):
            placement, kind = arg, "device"
        else:
            dtype, kind = arg, "dtype"
        given.append(kind)
    if given not in ([], ["dtype"], ["device"], ["device", "dtype"], ["array"]):
        raise TypeError(f"to() received an invalid combination of arguments - got ({', '.join(given)})")
    if like is not None:
        array = unbox(like)
        placement, dtype = array.sharding, array.dtype
    if dtype is not None:
        dtype = jnp.dtype(dtype)
        if not _is_floating(dtype):
            raise TypeError(
                f"nn.Module.to only accepts floating point or complex dtypes, but got desired dtype={dtype}"
            )
    return _as_device(placement), dtype


class Conversion:
    """The part of Module that converts its arrays."""

    def _apply(self, fn: Callable[[Any], Any], recurse: bool = True) -> Self:
        """Replace every parameter's, gradient's and buffer's array by `fn(array)`. A tied one is converted once."""
        module: Any = self
        boxes: dict[Box, None] = dict.fromkeys(box for _, box in module.named_parameters(recurse=recurse))
        boxes.update(dict.fromkeys(box for _, box in module.named_buffers(recurse=recurse)))
        for box in boxes:
            if isinstance(box, UninitializedTensorMixin):
                box.convert(fn)
        # All of them before the first is written.
        new = {box: fn(box.value) for box in boxes if not box._lazy}
        for box, value in new.items():
            box.value = value
            if isinstance(box, Parameter) and box.grad is not None:
                box.grad = fn(box.grad)
        return self

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Move the parameters and buffers to a device or sharding, and the floating-point ones to a dtype.

        Args: as in torch, in any of the forms
            to(dtype), to(device), to(device, dtype), to(array):
            dtype: a floating-point or complex dtype; integer arrays keep theirs.
            device: a `jax.Device`, a `jax.sharding.Sharding`, or a name such as "cpu" or "gpu:1".
            array: take dtype and sharding from it.

        Returns:
            This module.

        Raises:
            TypeError: the dtype is not floating-point or complex.

        Example:
            >>> import jax.numpy as jnp
            >>> from jaxmodule import nn
            >>> nn.Linear(2, 2).to(jnp.bfloat16).weight.dtype
            dtype(bfloat16)
        """
        placement, dtype = _parse_to(args, kwargs)

        def convert(x: Any) -> Any:
            x = x.astype(dtype) if dtype is not None and _is_floating(x.dtype) else x
            return x if placement is None else jax.device_put(x, placement)

        return self._apply(convert)

    def _cast(self, dtype: Any) -> Self:
        return self._apply(lambda x: x.astype(dtype) if _is_floating(x.dtype) else x)

    def float(self) -> Self:
        """Cast the floating-point parameters and buffers to float32."""
        return self._cast(jnp.float32)

    def double(self) -> Self:
        """Cast the floating-point parameters and buffers to float64 (x64 must be enabled)."""
        return self._cast(jnp.float64)

    def half(self) -> Self:
        """Cast the floating-point parameters and buffers to float16."""
        return self._cast(jnp.float16)

    def bfloat16(self) -> Self:
        """Cast the floating-point parameters and buffers to bfloat16."""
        return self._cast(jnp.bfloat16)

    def type(self, dst_type: Any) -> Self:
        """Cast all parameters and buffers, integer ones too, to a dtype."""
        dtype = jnp.dtype(dst_type)
        return self._apply(lambda x: x.astype(dtype))

    def cpu(self) -> Self:
        """Move the parameters and buffers to the CPU."""
        return self.to(jax.devices("cpu")[0])

    def cuda(self, device: Any = None) -> Self:
        """Move the parameters and buffers to a CUDA device.

        Args:
            device: its number, or a `jax.Device`.

        Raises:
            RuntimeError: JAX has none.
        """
        return self.to(jax.devices("cuda")[device or 0] if isinstance(device, int | None) else device)

    def to_empty(self, *, device: Any = None, recurse: bool = True) -> Self:
        """Give every parameter and buffer new memory with nothing in it, also where there are only shapes so far.

        Args:
            device: where; None is JAX's default.
            recurse: submodules too.

        Example:
            >>> import jaxmodule as jm
            >>> from jaxmodule import nn
            >>> jm.eval_shape(nn.Linear, 3, 2).to_empty().weight.shape
            (2, 3)
        """
        place = _as_device(device)
        return self._apply(lambda x: jax.device_put(jnp.empty(x.shape, x.dtype), place), recurse)

    def _unsupported(self, name: str, remedy: str) -> NoReturn:
        raise NotImplementedError(f"Module.{name} has no meaning on JAX: {remedy}")

    def share_memory(self) -> NoReturn:
        """Not supported: arrays are immutable, and processes don't share them."""
        self._unsupported("share_memory", "JAX arrays are immutable; use threads, or jax.sharding over devices.")

    def xpu(self, device: Any = None) -> NoReturn:
        """Not supported: use `.to(jax.devices(platform)[i])`."""
        self._unsupported("xpu", "use `.to(jax.devices(platform)[i])` with a platform that JAX has.")

    def ipu(self, device: Any = None) -> NoReturn:
        """Not supported: use `.to(jax.devices(platform)[i])`."""
        self._unsupported("ipu", "use `.to(jax.devices(platform)[i])` with a platform that JAX has.")

    def mtia(self, device: Any = None) -> NoReturn:
        """Not supported: use `.to(jax.devices(platform)[i])`."""
        self._unsupported("mtia", "use `.to(jax.devices(platform)[i])` with a platform that JAX has.")

"""Changing the dtype and the placement of a module's arrays, and the names of torch's that mean nothing here."""

import warnings
from collections.abc import Callable
from typing import Any, NoReturn, Self

import jax
import jax.numpy as jnp

from ..core.box import Box, strong, unbox
from ..core.device import blank, describe, device, here, is_abstract, is_meta
from ..core.device import place_of as _as_device
from ..core.lazy import UninitializedTensorMixin
from ..core.overlay import write
from ..core.parameter import Buffer, Parameter

_PLATFORMS = ("cpu", "gpu", "cuda", "rocm", "tpu", "METAL")


def _is_floating(dtype: Any) -> bool:
    return jnp.issubdtype(dtype, jnp.inexact)


def _is_placement(what: Any) -> bool:
    if isinstance(what, str):
        return what.partition(":")[0] in _PLATFORMS or not _is_dtype(what)
    return isinstance(what, (jax.Device, jax.sharding.Sharding, int, device))


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
    return placement, dtype


class _Convert:
    """What `.to` does to one array. `only_floating`: integers and bools keep their dtype."""

    def __init__(self, place: Any = None, dtype: Any = None, only_floating: bool = True) -> None:
        self.meta = is_meta(place)
        self.place = _as_device(place)
        self.dtype = dtype
        self.only_floating = only_floating

    def __call__(self, x: Any) -> Any:
        cast = self.dtype is not None and (_is_floating(x.dtype) or not self.only_floating)
        if is_abstract(x):
            place = x.sharding if self.place is None else self.place
            dtype: Any = self.dtype if cast else x.dtype
            return blank(x.shape, dtype, None if self.meta else place)
        x = x.astype(self.dtype) if cast else x
        if self.meta:
            return describe(x).update(sharding=None)
        return x if self.place is None else jax.device_put(x, self.place)


def _applied(fn: Callable[[Any], Any], x: Any) -> Any:
    """`fn(x)`, also of an abstract array."""
    if not is_abstract(x) or isinstance(fn, _Convert):
        return fn(x)
    made = jax.eval_shape(fn, x)
    return blank(made.shape, made.dtype, made.sharding or x.sharding)


def _is_kept(box: Box) -> bool:
    """Is it a buffer that no file has?"""
    return isinstance(box, Buffer) and not box.persistent


def _emptied(box: Box, place: Any) -> Any:
    """New memory for a box, for want of which zeros; the value itself where it would be lost for good."""
    old = box.value
    if _is_kept(box) and not is_abstract(old):
        return old if place is None else jax.device_put(old, place)
    if place is None:
        place = (old.sharding if is_abstract(old) else None) or here()[1]
    return jnp.zeros(old.shape, old.dtype, device=place)


class Conversion:
    """The part of Module that converts its arrays."""

    def _apply(self, fn: Callable[[Any], Any], recurse: bool = True) -> Self:
        """Replace every parameter's, gradient's and buffer's array by `fn(array)`. A tied one is converted once."""
        module: Any = self
        boxes: dict[Box, None] = dict.fromkeys(box for _, box in module.named_parameters(recurse=recurse))
        boxes.update(dict.fromkeys(box for _, box in module.named_buffers(recurse=recurse)))
        to_meta = isinstance(fn, _Convert) and fn.meta
        if to_meta:  # what no file has, and what has no memory yet, stays
            boxes = {box: None for box in boxes if not (box._lazy or _is_kept(box))}
        for box in boxes:
            if isinstance(box, UninitializedTensorMixin):
                box.convert(fn)
        # All of them before the first is written.
        new = {box: _applied(fn, box.value) for box in boxes if not box._lazy}
        for box, value in new.items():
            write(box, strong(unbox(value)))
            if isinstance(box, Parameter) and box.grad is not None:
                box.grad = None if to_meta else fn(box.grad)
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
        return self._apply(_Convert(*_parse_to(args, kwargs)))

    def _cast(self, dtype: Any) -> Self:
        return self._apply(_Convert(dtype=dtype))

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
        return self._apply(_Convert(dtype=jnp.dtype(dst_type), only_floating=False))

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
        """Give every parameter and persistent buffer new memory with nothing in it: `reset_parameters` comes next.

        Args:
            device: where ("meta" too); None is where it was meant to be (`.to(sharding)` of an abstract model), or
                JAX's default.
            recurse: submodules too.

        Note:
            Non-persistent buffers are moved and keep their values, unlike torch's: neither a file nor, as a rule,
            `reset_parameters` brings them back. One that has no value (a model of `jm.eval_shape`) is zeros then,
            with a warning.

        Example:
            >>> import jaxmodule as jm
            >>> from jaxmodule import nn
            >>> with jm.device("meta"):
            ...     layer = nn.Linear(3, 2)
            >>> layer.to_empty().reset_parameters()
            >>> layer.weight.value.shape
            (2, 3)
        """
        if is_meta(device):
            return self._apply(_Convert(device), recurse)
        place = _as_device(device)
        boxes: dict[Box, str] = {}
        module: Any = self
        for members in (module.named_parameters(recurse=recurse), module.named_buffers(recurse=recurse)):
            for name, box in members:
                if box._lazy:
                    box.convert(_Convert(place))
                else:
                    boxes.setdefault(box, str(name))
        lost = [name for box, name in boxes.items() if _is_kept(box) and is_abstract(box.value)]
        if lost:
            warnings.warn(
                f"to_empty: {', '.join(lost)} of {type(self).__name__} are zeros now. They are buffers that are not "
                "persistent: no state dict brings their values. Compute them again, or make the model under "
                "jm.device('meta') in place of jm.eval_shape, which keeps them.",
                UserWarning,
                stacklevel=2,
            )
        new = {box: _emptied(box, place) for box in boxes}
        for box, value in new.items():
            write(box, value)
            if isinstance(box, Parameter) and box.grad is not None:
                box.grad = jax.device_put(jnp.zeros(box.shape, box.dtype), place)
        return self

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

"""Where new parameters and buffers live: `device`, a context for what modules make, and "meta", which is nowhere.

*Abstract* is a box whose value is a `jax.ShapeDtypeStruct`: its shape, dtype and perhaps placement are known, and there
is neither memory nor a value. `device("meta")` makes such boxes, `eval_shape` too.

What becomes abstract is what a state dict brings back: parameters and persistent buffers. Rotary tables, masks and
other arrays that no file holds keep the values that the constructor gave them, or they would be lost for good.
"""

import threading
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Self

import jax
from jax.typing import DTypeLike

from .context import tls, trace_state
from .errors import AbstractError

__all__ = ["AbstractError", "PlacementLike", "device"]

_Place = jax.Device | jax.sharding.Sharding
Placement = _Place | None


class device:
    """A place for arrays; `with jm.device(...):` is torch's `with torch.device(...):`.

    In the block the parameters and buffers of modules are made there, and for a single device `jnp`'s new arrays too.
    Blocks nest, the innermost counts; they are a thread's own, and mean nothing inside a trace (`jm.jit`,
    `jm.eval_shape`). An explicit `device=` of a layer goes before.

    Under `device("meta")` nothing is computed, drawn from the random generator or kept in memory: parameters and
    persistent buffers hold a `jax.ShapeDtypeStruct`, until `load_state_dict`, or `to_empty` and each layer's
    `reset_parameters`, gives them values.

    Args:
        type: "meta"; a platform of JAX's with or without a number ("cpu", "gpu", "cuda:1"); a number among
            `jax.devices()`; a `jax.Device` or a `jax.sharding.Sharding` (which must suit every array made in the
            block); or another `device`.
        index: the number, where `type` is a platform.

    Attributes:
        type: "meta", or the platform.
        index: the number, None where none was given.

    Raises:
        TypeError: it is nothing of this.
        RuntimeError: JAX has no such device; raised where it is used, not where it is made.

    Note:
        Under "meta" an array that your own code has made (`nn.Parameter(jax.random.normal(...))`) is dropped for its
        shape and dtype. If such arrays are too big to be made at all, use `jm.eval_shape(Model)`: it traces the
        constructor, and makes nothing.

        Buffers with `persistent=False` and plain arrays keep their values: no file has them. In torch they are lost
        under "meta", and have to be computed again by hand.

        A layer whose shapes come with its first input (`nn.LazyLinear`) has no memory either way, and isn't abstract.

    Example:
        >>> import jaxmodule as jm
        >>> from jaxmodule import nn
        >>> with jm.device("meta"):
        ...     model = nn.Linear(4096, 4096)
        >>> model.weight.value
        ShapeDtypeStruct(shape=(4096, 4096), dtype=float32)
        >>> report = model.load_state_dict(nn.Linear(4096, 4096).state_dict())
        >>> float(model(jax.numpy.zeros(4096)).sum()) == float(model.bias.sum())
        True
    """

    __slots__ = ("_given", "index", "type")

    def __init__(self, type: "str | int | _Place | device", index: int | None = None) -> None:
        self.type: str
        self.index: int | None
        given: Any = type
        self.index = None
        if isinstance(given, device) and index is None:
            self.type, self.index, given = given.type, given.index, given._given
        elif isinstance(given, str):
            self.type, _, number = given.partition(":")
            if number and not number.isdecimal():
                raise RuntimeError(f"Invalid device string: {given!r}")
            if number and index is not None:
                raise RuntimeError(f"type (string) must not include an index because index was passed: {given}")
            self.index = int(number) if number else index
            given = None
        elif index is not None or isinstance(given, bool):
            raise TypeError(f"device() takes an index beside the name of a platform only, got {given!r}, {index!r}")
        elif isinstance(given, (int, jax.Device)):
            given = _numbered(None, given) if isinstance(given, int) else given
            self.type, self.index = given.platform, given.id
        elif isinstance(given, jax.sharding.Sharding):
            self.type = next(iter(given.device_set)).platform
        else:
            raise TypeError(
                'device() takes "meta", the name of a platform ("cpu", "cuda:0"), a number, a jax.Device or a '
                f"jax.sharding.Sharding, got {given!r}"
            )
        self._given = given

    @property
    def is_meta(self) -> bool:
        """Is it "meta"?"""
        return self.type == "meta"

    @property
    def placement(self) -> Placement:
        """What JAX takes for it: a device or a sharding; None for "meta".

        Raises:
            RuntimeError: JAX has none such.
        """
        if self._given is not None or self.is_meta:
            return self._given
        return _numbered(self.type, self.index or 0)

    def __enter__(self) -> Self:
        place = self.placement
        inner: AbstractContextManager[Any] = nullcontext()
        if isinstance(place, jax.Device) and place != _default_device():  # each other default compiles jnp anew
            inner = jax.default_device(place)
        inner.__enter__()
        _local.stack = (*_local.stack, (self, place, inner))
        return self

    def __exit__(self, *exc: Any) -> None:
        *below, (_, _, inner) = _local.stack
        _local.stack = tuple(below)
        inner.__exit__(*exc)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, device) and self._key() == other._key()

    def _key(self) -> Any:
        return (self.type, self.index, self._given if isinstance(self._given, jax.sharding.Sharding) else None)

    def __hash__(self) -> int:
        return hash(self._key())

    def __deepcopy__(self, memo: Any) -> Self:
        return self

    __copy__ = __deepcopy__  # pyright: ignore[reportAssignmentType]

    def __reduce__(self) -> Any:
        return device, (self._given,) if isinstance(self._given, jax.sharding.Sharding) else (self.type, self.index)

    def __repr__(self) -> str:
        if isinstance(self._given, jax.sharding.Sharding):
            return f"device({self._given!r})"
        index = "" if self.index is None else f", index={self.index}"
        return f"device(type={self.type!r}{index})"


def _numbered(platform: str | None, index: int) -> Any:
    found = jax.devices(platform)
    if not 0 <= index < len(found):
        name = f"{platform or 'device'}:{index}"
        raise RuntimeError(f"no device {name!r}: JAX has {len(found)} of platform {found[0].platform!r}, from 0 on")
    return found[index]


PlacementLike = str | _Place | device


class _Local(threading.local):
    #: The blocks that this thread is in: (device, its placement, JAX's own context), innermost last.
    stack: tuple[tuple[device, Placement, Any], ...] = ()


_local = _Local()


def _default_device() -> Any:
    chosen = jax.config.jax_default_device  # pyright: ignore[reportAttributeAccessIssue]
    return jax.local_devices()[0] if chosen is None else chosen


def place_of(what: Any) -> Any:
    """The device or sharding that a `device=` or `.to` argument means; None for None and for "meta"."""
    if isinstance(what, (str, int)) and not isinstance(what, bool):
        what = device(what)
    return what.placement if isinstance(what, device) else what


def is_meta(what: Any) -> bool:
    """Does a `device=` or `.to` argument mean "meta"?"""
    return what == "meta" if isinstance(what, str) else isinstance(what, device) and what.is_meta


def here() -> tuple[bool, Placement]:
    """Of the innermost block: is it "meta", and the placement; (False, None) in no block, and inside a trace."""
    if not _local.stack or trace_state() is not None:
        return False, None
    what, place, _ = _local.stack[-1]
    return what.is_meta, place


def given(what: Any) -> AbstractContextManager[Any]:
    """The block of an explicit `device=`, if there is one."""
    if what is None:
        return nullcontext()
    return what if isinstance(what, device) else device(what)


# -- abstract values ----------------------------------------------------------------------------------------------


def is_abstract(value: Any) -> bool:
    """Is it a shape and a dtype in place of an array?"""
    return isinstance(value, jax.ShapeDtypeStruct)


def blank(shape: Iterable[int], dtype: DTypeLike, place: Any = None) -> jax.ShapeDtypeStruct:
    """The description of an array; `place`: a device or sharding that it is to be on."""
    if isinstance(place, jax.Device):
        place = jax.sharding.SingleDeviceSharding(place)
    return jax.ShapeDtypeStruct(tuple(shape), jax.dtypes.canonicalize_dtype(dtype), sharding=place)


def describe(x: Any) -> jax.ShapeDtypeStruct:
    """The description of `x`, with its placement where it was chosen on purpose."""
    if is_abstract(x):
        return x
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding if x.committed else None)


def settled(x: Any, *, real: bool = False) -> Any:
    """What a new parameter or buffer holds here for the array `x`; `real`: it stays an array under "meta"."""
    if not _local.stack or trace_state() is not None or not isinstance(x, jax.Array):
        return x
    what, place, _ = _local.stack[-1]
    if what.is_meta:
        return x if real else describe(x)
    return x if x.committed else jax.device_put(x, place)


def rewritten(box: Any, x: Any) -> Any:
    """What eager code writes to `box` here for `x`: under "meta" an abstract box stays so."""
    stack = _local.stack
    if stack and stack[-1][0].is_meta and tls.overlay is None and is_abstract(box._value):
        return settled(x)
    return x


def current(box: Any) -> Any:
    """The value of a box here and now, without the checks of a read."""
    return box._value if tls.overlay is None else tls.overlay.lookup(box)


def abstract_names(named: Iterable[tuple[str, Any]]) -> list[str]:
    """The names of those boxes that are abstract here and now."""
    return [str(name) for name, box in named if is_abstract(current(box))]

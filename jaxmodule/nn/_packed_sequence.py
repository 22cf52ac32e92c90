"""`PackedSequence`: the class, how many sequences one holds, and its registration as a pytree node."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np

from ..core.box import unbox
from ..core.context import Tracer
from .conversion import _as_device, _is_placement

__all__ = ["PackedSequence", "PackedSequence_", "batch_of", "constant", "invert_permutation"]


def constant(value: Any) -> jax.Array:
    """A JAX array of what is known on the host, known inside a trace too."""
    with jax.ensure_compile_time_eval():
        return jnp.asarray(value)


def _array(x: Any) -> Any:
    return unbox(x) if x is None or hasattr(x, "__jax_array__") or isinstance(x, jax.Array) else constant(x)


_GPUS = ("gpu", "cuda", "rocm")

# How many sequences there are to the `batch_sizes` of a trace, so that `PackedSequence(f(p.data), p.batch_sizes)` has
# as many as p. By identity, and weakly: a tracer's == is elementwise, and none may outlive its trace.
_known: dict[int, tuple[weakref.ref[Any], int]] = {}


def _remember(batch_sizes: Any, count: int) -> None:
    key = id(batch_sizes)
    with suppress(TypeError):  # should a kind of tracer take no weak references
        _known[key] = (weakref.ref(batch_sizes, lambda _: _known.pop(key, None)), count)


def batch_of(batch_sizes: Any) -> int | None:
    """How many sequences there are, as far as `batch_sizes` tells: None for a tracer that isn't known."""
    if isinstance(batch_sizes, Tracer):
        found = _known.get(id(batch_sizes))
        return found[1] if found is not None and found[0]() is batch_sizes else None
    if not isinstance(batch_sizes, jax.Array) or batch_sizes.ndim != 1:  # also a placeholder of JAX's
        return None
    return int(np.asarray(batch_sizes)[0]) if batch_sizes.size else 0


def invert_permutation(permutation: Any) -> jax.Array | None:
    """The inverse of a permutation, such as `unsorted_indices` of `sorted_indices`.

    Args:
        permutation: the numbers below `N` in some order; None gives None.

    Shape:
        - Input and output: `(N)`.

    Raises:
        IndexError: it is not a vector.
        RuntimeError: it is not of integers, or one is out of range, where they are concrete.

    Example:
        >>> import numpy as np
        >>> from jaxmodule.nn.utils.rnn import invert_permutation
        >>> invert_permutation(np.array([2, 0, 1])).tolist()
        [1, 2, 0]
    """
    if permutation is None:
        return None
    p = _array(permutation)
    if p.ndim != 1:
        raise IndexError(f"a permutation is a vector, but got one of size {list(p.shape)}")
    if not jnp.issubdtype(p.dtype, jnp.integer):
        raise RuntimeError(f"Expected dtype int32/int64 for a permutation, but got {p.dtype.name}")
    if isinstance(p, Tracer):
        return jnp.zeros_like(p).at[p].set(jnp.arange(p.shape[0], dtype=p.dtype))
    host = np.asarray(p)
    if host.size and (host.min() < 0 or host.max() >= host.size):
        worst = host.min() if host.min() < 0 else host.max()
        raise RuntimeError(f"index {worst} is out of bounds for a permutation of size {host.size}")
    inverse = np.zeros_like(host)
    inverse[host] = np.arange(host.size, dtype=host.dtype)
    return constant(inverse)


class PackedSequence_(NamedTuple):  # torch's name
    """The fields of a `PackedSequence`."""

    data: jax.Array
    batch_sizes: jax.Array
    sorted_indices: jax.Array | None
    unsorted_indices: jax.Array | None


class _Counted(PackedSequence_):
    """The fields, and how many sequences they are of."""

    _count: int | None = None

    @property
    def _batch(self) -> int:
        """How many sequences there are."""
        count = self._find_count()
        if count is None:
            raise ValueError(
                "how many sequences a PackedSequence holds can't be told from batch_sizes of a trace. "
                "Write packed._replace(data=...), or give it sorted_indices"
            )
        return count

    def _find_count(self) -> int | None:
        if self._count is not None:
            return self._count
        if self.sorted_indices is not None:
            shape = getattr(self.sorted_indices, "shape", None)
            return int(shape[-1]) if shape else None
        return batch_of(self.batch_sizes)

    def _keep(self, count: int | None) -> Self:
        self._count = count
        if count is not None and isinstance(self.batch_sizes, Tracer):
            _remember(self.batch_sizes, count)
        return self

    def _replace(self, **kwargs: Any) -> Self:  # pyright: ignore[reportIncompatibleMethodOverride]
        new = super()._replace(**kwargs)
        return new._keep(None if "batch_sizes" in kwargs else self._find_count())


class PackedSequence(_Counted):
    """Sequences of different lengths without padding: what `pack_padded_sequence` and `pack_sequence` make.

    The rows are in order of time, at each step those of the sequences that are as long, the longest first. For
    sequences `abc` and `x`, `data` is `axbc` and `batch_sizes` is `[2, 1, 1]`.

    Args:
        data: the rows, or a pair of them and `batch_sizes`.
        batch_sizes: how many rows there are at each step.
        sorted_indices: the order in which the sequences fall in length, None if they came in it.
        unsorted_indices: its inverse, which is computed if it is not given.

    Shape:
        - data: `(R, *)`, `R` the sum of the lengths.
        - batch_sizes: `(T)`, `T` the greatest length.
        - sorted_indices, unsorted_indices: `(N)`.

    Raises:
        AssertionError: there is neither `batch_sizes` nor a pair.

    Note:
        It is a named tuple and a pytree node with its fields as children. A compiled function can take one made
        outside, and compiles for each `R`, `T` and `N` as for any shape.

        One compilation for all lengths takes `pack_padded_sequence` inside, with `lengths` as an argument of the
        compiled function. The shapes are then those of the most there can be, with `T` and `N` those of the padded
        input: `data` has `T N` rows, zeros behind the sequences' own; `batch_sizes` has zeros behind the greatest
        length; `sorted_indices` is always there, as whether the lengths fall can't be known. A row of `data` must be
        made from the row in its place, as `PackedSequence(f(p.data), *p[1:])` does; a sum over `data` counts the
        rows behind, unless it is masked with `jnp.arange(T * N) < p.batch_sizes.sum()`.

        `N` is kept beside the fields. Where `batch_sizes` is a new array of a trace and there are no indices it can't
        be told: `p._replace(...)`, with indices, is the way to write that.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn.utils.rnn import pack_sequence
        >>> p = pack_sequence([jnp.array([1, 2, 3]), jnp.array([4])])
        >>> p.data.tolist(), p.batch_sizes.tolist()
        ([1, 4, 2, 3], [2, 1, 1])
    """

    def __new__(
        cls, data: Any, batch_sizes: Any = None, sorted_indices: Any = None, unsorted_indices: Any = None
    ) -> Self:
        if batch_sizes is None:
            if not (isinstance(data, (list, tuple)) and len(data) == 2):
                raise AssertionError("Expected data to be a list or tuple of length 2")
            data, batch_sizes = data
        order = _array(sorted_indices)
        inverse = invert_permutation(order) if unsorted_indices is None else _array(unsorted_indices)
        return super().__new__(cls, _array(data), _array(batch_sizes), order, inverse)

    def _convert(self, convert: Callable[[jax.Array], jax.Array], place: Any = None) -> Self:
        data = convert(self.data)
        if data is self.data:
            return self
        indices = (i if i is None or place is None else jax.device_put(i, place) for i in self[2:])
        return self._replace(data=data, **dict(zip(self._fields[2:], indices, strict=True)))

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Convert `data` to a dtype, and move it and the indices to a device.

        Args: as in torch, in any of the forms
            to(dtype), to(device), to(device, dtype), to(array):
            dtype: any dtype.
            device: a `jax.Device`, a sharding, or a name such as "cpu" or "gpu:1".
            array: take dtype and sharding from it.

        Returns:
            This object if `data` is so already.

        Raises:
            TypeError: there are other arguments.
        """
        place, dtype = kwargs.pop("device", None), kwargs.pop("dtype", None)
        kwargs.pop("non_blocking", None)  # transfers are asynchronous in JAX either way
        like = kwargs.pop("other", None)
        if kwargs:
            raise TypeError(f"to() got an unexpected keyword argument {next(iter(kwargs))!r}")
        for arg in args:
            if isinstance(arg, bool) or arg is None:  # non_blocking
                continue
            if isinstance(arg, jax.Array) or hasattr(arg, "__jax_array__"):
                like = arg
            elif _is_placement(arg):
                place = arg
            else:
                dtype = arg
        if like is not None:
            place, dtype = unbox(like).sharding, unbox(like).dtype
        place = _as_device(place)

        def convert(x: jax.Array) -> jax.Array:
            if dtype is not None and x.dtype != jnp.dtype(dtype):
                x = x.astype(dtype)
            there = place is None or (not isinstance(x, Tracer) and place in (x.sharding, *x.devices()))
            return x if there else jax.device_put(x, place)

        return self._convert(convert, place)

    def cpu(self, *args: Any, **kwargs: Any) -> Self:
        """Move to the CPU; arguments as of `to`."""
        return self.to(*args, **{"device": jax.devices("cpu")[0], **kwargs})

    def cuda(self, *args: Any, **kwargs: Any) -> Self:
        """Move to the first CUDA device, or the one of the arguments, which are those of `to`."""
        if any(_is_placement(arg) for arg in args) or "device" in kwargs:
            return self.to(*args, **kwargs)
        return self.to(*args, device=jax.devices("cuda")[0], **kwargs)

    def pin_memory(self) -> Self:
        """Copy `data` and the indices to the host's page-locked memory."""

        def pin(x: Any) -> Any:
            return None if x is None else jax.device_put(x, x.sharding.with_memory_kind("pinned_host"))

        return self._replace(data=pin(self.data), **{name: pin(getattr(self, name)) for name in self._fields[2:]})

    def is_pinned(self) -> bool:
        """Whether `data` is in the host's page-locked memory."""
        return not isinstance(self.data, Tracer) and self.data.sharding.memory_kind == "pinned_host"

    @property
    def is_cuda(self) -> bool:
        """Whether `data` is on a GPU; inside a trace, whether that is JAX's default."""
        if isinstance(self.data, Tracer):
            return jax.default_backend() in _GPUS
        return all(device.platform in _GPUS for device in self.data.devices())

    def double(self) -> Self:
        """`data` in float64 (x64 must be enabled)."""
        return self.to(dtype=jnp.float64)

    def float(self) -> Self:
        """`data` in float32."""
        return self.to(dtype=jnp.float32)

    def half(self) -> Self:
        """`data` in float16."""
        return self.to(dtype=jnp.float16)

    def long(self) -> Self:
        """`data` in JAX's default integer dtype, int64 where x64 is enabled."""
        return self.to(dtype=jnp.zeros((), int).dtype)

    def int(self) -> Self:
        """`data` in int32."""
        return self.to(dtype=jnp.int32)

    def short(self) -> Self:
        """`data` in int16."""
        return self.to(dtype=jnp.int16)

    def char(self) -> Self:
        """`data` in int8."""
        return self.to(dtype=jnp.int8)

    def byte(self) -> Self:
        """`data` in uint8."""
        return self.to(dtype=jnp.uint8)


def _flatten(p: PackedSequence) -> tuple[tuple[Any, ...], Any]:
    return tuple(p), p._find_count()


def _flatten_with_keys(p: PackedSequence) -> tuple[tuple[Any, ...], Any]:
    fields = zip(p._fields, p, strict=True)
    return tuple((jax.tree_util.GetAttrKey(name), value) for name, value in fields), p._find_count()


def _unflatten(count: Any, children: Iterable[Any]) -> PackedSequence:
    return PackedSequence._make(children)._keep(count)  # not the constructor: JAX also puts placeholders here


jax.tree_util.register_pytree_with_keys(PackedSequence, _flatten_with_keys, _unflatten, _flatten)

# torch's address of them, also in a pickle; nn.utils.rnn itself is imported on demand.
PackedSequence.__module__ = invert_permutation.__module__ = "jaxmodule.nn.utils.rnn"

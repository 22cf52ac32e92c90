"""What torch's files are made of: dtypes, storages, and the tensors that are views of them."""

import math
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np

from ._pickle_machine import Budget
from .array_file import ArrayFile, FileArray
from .checksum import Checksum
from .errors import FileFormatError

__all__ = ["COMPLEX32", "DTYPES", "STORAGES", "Derived", "Storage", "StorageType", "TorchDtype", "View", "tensor"]

DTYPES: dict[str, np.dtype] = {
    "bool": np.dtype(np.bool_),
    "uint8": np.dtype(np.uint8),
    "int8": np.dtype(np.int8),
    "uint16": np.dtype(np.uint16),
    "int16": np.dtype(np.int16),
    "uint32": np.dtype(np.uint32),
    "int32": np.dtype(np.int32),
    "uint64": np.dtype(np.uint64),
    "int64": np.dtype(np.int64),
    "float8_e4m3fn": np.dtype(ml_dtypes.float8_e4m3fn),
    "float8_e4m3fnuz": np.dtype(ml_dtypes.float8_e4m3fnuz),
    "float8_e5m2": np.dtype(ml_dtypes.float8_e5m2),
    "float8_e5m2fnuz": np.dtype(ml_dtypes.float8_e5m2fnuz),
    "float8_e8m0fnu": np.dtype(ml_dtypes.float8_e8m0fnu),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float32": np.dtype(np.float32),
    "float64": np.dtype(np.float64),
    "complex64": np.dtype(np.complex64),
    "complex128": np.dtype(np.complex128),
}

# Other dtypes are written with an untyped storage.
STORAGES = {
    "BoolStorage": "bool",
    "ByteStorage": "uint8",
    "CharStorage": "int8",
    "ShortStorage": "int16",
    "IntStorage": "int32",
    "LongStorage": "int64",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "FloatStorage": "float32",
    "DoubleStorage": "float64",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
}

_MAX_DIMS = 63  # numpy's, with one more for the parts of complex32
_MAX = 2**63
_FILE_ARRAY_BYTES = 700


class TorchDtype:
    """A dtype of torch that numpy has not."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name


COMPLEX32 = TorchDtype("torch.complex32")


class StorageType:
    """What a pickle says that a storage holds; None is bytes, to be read as whatever the tensor says."""

    __slots__ = ("dtype", "name")

    def __init__(self, name: str, dtype: np.dtype | None) -> None:
        self.name = name
        self.dtype = dtype

    @property
    def itemsize(self) -> int:
        """Bytes of an element."""
        return 1 if self.dtype is None else self.dtype.itemsize


class Storage:
    """A run of elements in the file, whose place may become known after the tensors in it.

    Args:
        file: where it is.
        key: its name.
        kind: what it holds.
        numel: how many elements.
        big_endian: is that the order of their bytes?
    """

    def __init__(self, file: ArrayFile, key: str, kind: StorageType, numel: int, big_endian: bool = False) -> None:
        self.file = file
        self.key = key
        self.kind = kind
        self.numel = numel
        self.nbytes = numel * kind.itemsize
        self.big_endian = big_endian
        self.start = 0
        self.checksum: Checksum | None = None
        self.arrays: dict[Any, FileArray] = {}
        self.placed = False

    def place(self, start: int, checksum: Checksum | None = None) -> None:
        """Its first byte is `start`."""
        self.placed = True
        self.start, self.checksum = start, checksum
        for array in self.arrays.values():
            array.move(start) if isinstance(array, Derived) else _move(array, start)


def _move(array: FileArray, start: int) -> None:
    array.offset += start


class View:
    """Elements `first ... first + numel` of a storage."""

    __slots__ = ("first", "numel", "storage")

    def __init__(self, storage: Storage, first: int, numel: int) -> None:
        if not 0 <= first <= storage.numel - numel or numel < 0:
            raise FileFormatError(f"{storage.file.path!r} is damaged: a view is not inside storage {storage.key!r}")
        self.storage = storage
        self.first = first
        self.numel = numel


class Derived(FileArray):
    """An array that is computed from one in a file as it is read.

    Args:
        inner: the array in the file.
        dtype: of the result.
        shape: of the result.
        then: computes it.
    """

    __slots__ = ("inner", "then")

    def __init__(
        self, inner: FileArray, dtype: np.dtype, shape: tuple[int, ...], then: Callable[[np.ndarray], np.ndarray]
    ) -> None:
        super().__init__(inner.file, inner.offset, dtype, shape, None, inner.checksum)
        self.inner = inner
        self.then = then

    @property
    def identity(self) -> tuple[Any, ...]:
        return *self.inner.identity, self.then

    def move(self, start: int) -> None:
        """The storage that it is in begins at `start`."""
        self.offset += start
        if isinstance(self.inner, Derived):
            self.inner.move(start)
        else:
            _move(self.inner, start)

    def view(self) -> np.ndarray:
        return self.read()

    def read(self) -> np.ndarray:
        return self.then(self.inner.read())

    def __getitem__(self, index: Any) -> np.ndarray:
        return self.read()[index]


def tensor(
    budget: Budget,
    view: Any,
    offset: Any,
    size: Any,
    stride: Any,
    dtype: np.dtype | TorchDtype | None = None,
    conj: bool = False,
    neg: bool = False,
) -> FileArray:
    """The tensor of a storage's elements; the same one for the same elements."""
    if not isinstance(view, View):
        raise ValueError("a tensor without a storage")
    storage = view.storage
    path = storage.file.path
    if dtype is None:
        dtype = storage.kind.dtype or DTYPES["uint8"]
    if not isinstance(dtype, np.dtype) and dtype is not COMPLEX32:
        name = dtype.name if isinstance(dtype, TorchDtype) else "no dtype"
        raise FileFormatError(f"{path!r}: a tensor has dtype {name}, which JAX does not have; convert it with torch")
    shape, strides, offset = _layout(path, storage, offset, size, stride)
    key = (view.first, view.numel, offset, shape, strides, str(dtype), conj, neg)
    found = storage.arrays.get(key)
    if found is None:
        itemsize = 4 if isinstance(dtype, TorchDtype) else dtype.itemsize
        unit = storage.kind.itemsize
        last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
        if math.prod(shape) and (last + 1) * itemsize > view.numel * unit:
            raise FileFormatError(
                f"{path!r} is damaged: a tensor of shape {shape} is not inside its storage {storage.key!r}"
            )
        start = view.first * unit + offset * itemsize
        found = storage.arrays[key] = _array(storage, start, dtype, shape, strides, conj, neg)
        budget.spend(found.nbytes + _FILE_ARRAY_BYTES)
    return found


def _layout(path: str, storage: Storage, offset: Any, size: Any, stride: Any) -> tuple[tuple, tuple, int]:
    plain = type(size) is tuple and type(stride) is tuple and len(size) == len(stride) <= _MAX_DIMS
    # numpy counts an empty array's other dimensions too.
    if (
        not plain
        or not all(type(n) is int and 0 <= n < _MAX for n in (offset, *size, *stride))
        or math.prod(n or 1 for n in size) >= _MAX // 16
    ):
        raise FileFormatError(
            f"{path!r} is damaged: shape, strides or offset of a tensor in storage {storage.key!r} are no counts"
        )
    return size, stride, offset


def _array(
    storage: Storage,
    start: int,
    dtype: np.dtype | TorchDtype,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    conj: bool,
    neg: bool,
) -> FileArray:
    start += storage.start
    if isinstance(dtype, TorchDtype):
        half = np.dtype(np.float16)
        pairs = tuple(2 * step for step in strides)
        inner = _stored(storage, start, half, (*shape, 2), (*pairs, 1))
        out = Derived(inner, DTYPES["complex64"], shape, _widen)
    else:
        out = _stored(storage, start, dtype, shape, strides)
    if conj:
        out = Derived(out, out.dtype, shape, np.conj)
    return Derived(out, out.dtype, shape, np.negative) if neg else out


def _stored(
    storage: Storage, start: int, dtype: np.dtype, shape: tuple[int, ...], strides: tuple[int, ...]
) -> FileArray:
    stored = dtype.newbyteorder(">") if storage.big_endian and dtype.itemsize > 1 else dtype
    plain = not math.prod(shape) or _contiguous(shape, strides)
    return FileArray(storage.file, start, stored, shape, None if plain else strides, storage.checksum)


def _widen(pairs: np.ndarray) -> np.ndarray:
    return pairs.astype(np.float32).view(np.complex64).reshape(pairs.shape[:-1])


def _contiguous(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    step = 1
    for n, stride in zip(reversed(shape), reversed(strides), strict=True):
        if n != 1 and stride != step:
            return False
        step *= n
    return True

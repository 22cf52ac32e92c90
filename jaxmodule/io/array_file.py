"""Arrays that are still in their file: what every reader of a format gives, and what becomes arrays of it."""

import math
import mmap
import os
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any

import jax
import numpy as np

from ..core.fill import Placement, aligned_empty
from .checksum import Checksum, processors
from .errors import FileFormatError

__all__ = ["ArrayFile", "FileArray", "to_jax"]

_PER_THREAD = 4 << 20
_MAX_THREADS = 4
_PAGE = 1 << 21


class ArrayFile:
    """A file open for reading at any place, by several threads; it is closed when nothing refers to it any more."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._fd = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        weakref.finalize(self, os.close, self._fd)
        self.size = os.fstat(self._fd).st_size

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` (of bytes) from `offset` on."""
        threads = min(_MAX_THREADS, processors(), len(buffer) // _PER_THREAD)
        if threads < 2:
            return self._read_part(offset, buffer)
        # What takes the time is the kernel's: the copy, and giving this process the memory.
        step = -(-len(buffer) // threads // _PAGE) * _PAGE
        with ThreadPoolExecutor(threads) as pool:  # a pool that lives on would be without threads after a fork
            parts = range(0, len(buffer), step)
            list(pool.map(lambda at: self._read_part(offset + at, buffer[at : at + step]), parts))

    def _read_part(self, offset: int, buffer: memoryview) -> None:
        while len(buffer):
            # One call moves 2 GiB at most.
            n = os.preadv(self._fd, [buffer], offset)
            if n == 0:
                raise FileFormatError(f"{self.path!r} became shorter while it was read")
            offset, buffer = offset + n, buffer[n:]

    def read(self, offset: int, count: int) -> bytes:
        """`count` bytes from `offset` on; fewer only where the file ends."""
        return os.pread(self._fd, count, offset)

    def check_size(self) -> None:
        """Raise FileFormatError if the file has become shorter: touching the map there would end the process."""
        if os.fstat(self._fd).st_size < self.size:
            raise FileFormatError(f"{self.path!r} became shorter after it was opened")

    @cached_property
    def map(self) -> mmap.mmap:
        """The whole file in the address space."""
        return mmap.mmap(self._fd, 0, access=mmap.ACCESS_READ)


class FileArray:
    """An array in a file: dtype and shape are known, the values are read when they are asked for.

    What `jm.load(path, mmap=True)` gives in place of arrays. `np.asarray(a)` reads it whole, `a[index]` only the pages
    that it needs, `load_state_dict` one after the other.

    Args:
        file: where it is.
        offset: of its first element, in bytes.
        dtype: of the elements, in the file's byte order.
        shape: of the array.
        strides: in elements, None for a C-contiguous array.
        checksum: of the bytes that the array lies in, where the format has one. `read` checks it, `a[index]` does not.

    Raises:
        FileFormatError: from `read`, if the bytes are not those that the checksum was made of.

    Note:
        All of the array's bytes must be inside the file: who makes one has checked that.
    """

    __slots__ = ("checksum", "dtype", "file", "offset", "shape", "stored", "strides")

    def __init__(
        self,
        file: ArrayFile,
        offset: int,
        dtype: np.dtype,
        shape: tuple[int, ...],
        strides: tuple[int, ...] | None = None,
        checksum: Checksum | None = None,
    ) -> None:
        self.file = file
        self.offset = offset
        self.stored = dtype
        self.dtype = dtype.newbyteorder("=")
        self.shape = shape
        self.strides = strides
        self.checksum = checksum

    @property
    def identity(self) -> tuple[Any, ...]:
        """What two that are the same elements in the same form have in common."""
        return id(self.file), self.offset, self.stored, self.shape, self.strides

    @property
    def ndim(self) -> int:
        """The number of dimensions."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """The bytes of the array that `read` makes."""
        return self.size * self.dtype.itemsize

    def view(self) -> np.ndarray:
        """The file's own bytes as a read-only array, in the file's byte order; nothing is read yet."""
        if not self.size:
            return np.empty(self.shape, self.stored)
        self.file.check_size()
        steps = self.strides and tuple(step * self.stored.itemsize for step in self.strides)
        return np.ndarray(self.shape, self.stored, self.file.map, self.offset, steps)  # pyright: ignore

    def read(self) -> np.ndarray:
        """The array, in memory of its own that JAX takes over without a copy."""
        out = aligned_empty(self.size, self.dtype)
        raw = out.view(np.uint8).data
        whole = self.checksum is not None and self.checksum.covers(self.offset, len(raw))
        if self.checksum is not None and not (whole and self.strides is None):
            self.checksum.check(self.file)
        if self.strides is not None:
            out = out.reshape(self.shape)
            out[...] = self.view()
            # The pages of the mapping count as this process's memory until they are let go.
            self.file.map.madvise(mmap.MADV_DONTNEED)
            return out
        if self.checksum is not None and whole:
            self.checksum.read_into(self.file, raw)
        else:
            self.file.read_into(self.offset, raw)
        if self.stored != self.dtype:
            out.byteswap(inplace=True)
        return out.reshape(self.shape)

    def __getitem__(self, index: Any) -> np.ndarray:
        return np.array(self.view()[index], self.dtype)

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("len() of a 0-d array")
        return self.shape[0]

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[i] for i in range(len(self)))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("the values are in a file: an array of them is a copy")
        return self.read() if dtype is None else self.read().astype(dtype, copy=False)

    def __repr__(self) -> str:
        return f"FileArray({self.file.path!r}, {self.dtype}{list(self.shape)})"


def to_jax(host: np.ndarray, device: Placement = None) -> jax.Array | np.ndarray:
    """A JAX array of what `FileArray.read` gave; 64-bit values stay numpy's while JAX's x64 mode is off."""
    if jax.dtypes.canonicalize_dtype(host.dtype) != host.dtype:
        return host
    return jax.device_put(host, device)  # an aligned buffer is taken over on CPU

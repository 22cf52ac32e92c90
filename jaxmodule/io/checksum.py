"""CRC-32 checksums (zip's) of runs of bytes in a file, taken by several threads while the bytes are read."""

import os
import zlib
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Protocol

from .errors import FileFormatError

__all__ = ["Checksum"]

_STEP = 1 << 20  # is still in the processor's cache when its checksum is taken
_PER_THREAD = 4 << 20
_MAX_THREADS = 8


class _File(Protocol):
    path: str

    def read_into(self, offset: int, buffer: memoryview) -> None: ...


class Checksum:
    """The CRC-32 of a run of bytes, as whoever wrote the file took it.

    Args:
        offset: of the first byte.
        size: of the run.
        crc: its CRC-32.
        name: what the bytes are, for errors.
    """

    __slots__ = ("checked", "crc", "name", "offset", "size")

    def __init__(self, offset: int, size: int, crc: int, name: str) -> None:
        self.offset = offset
        self.size = size
        self.crc = crc
        self.name = name
        self.checked = False

    def covers(self, offset: int, size: int) -> bool:
        """Are these bytes the whole run?"""
        return (offset, size) == (self.offset, self.size)

    def read_into(self, file: _File, buffer: memoryview) -> None:
        """Fill `buffer` with the whole run, and check it."""
        self._compare(file, _read(file, self.offset, buffer))

    def check(self, file: _File) -> None:
        """Read the run and check it, once: several arrays may be parts of it."""
        if self.checked:
            return
        buffer, crc = memoryview(bytearray(min(self.size, 8 * _PER_THREAD))), 0
        for start in range(0, self.size, len(buffer) or 1):
            part = buffer[: self.size - start]
            crc = combine(crc, _read(file, self.offset + start, part), len(part))
        self._compare(file, crc)

    def _compare(self, file: _File, crc: int) -> None:
        if crc != self.crc:
            raise FileFormatError(
                f"{file.path!r} is damaged: the checksum of {self.name!r} is {crc:08x}, not {self.crc:08x} as when it "
                "was written. Get the file again from where it came from."
            )
        self.checked = True


def _read(file: _File, offset: int, buffer: memoryview) -> int:
    """Fill `buffer` and take its CRC-32; zlib's takes longer than the copy, so large buffers are shared out."""
    threads = min(_MAX_THREADS, processors(), len(buffer) // _PER_THREAD)
    if threads < 2:
        return _read_part(file, offset, buffer)
    size = -(-len(buffer) // threads)
    parts = [buffer[start : start + size] for start in range(0, len(buffer), size)]
    with ThreadPoolExecutor(threads) as pool:  # a pool that lives on would be without threads after a fork
        sums = list(pool.map(lambda i: _read_part(file, offset + i * size, parts[i]), range(len(parts))))
    crc = 0
    for part, one in zip(parts, sums, strict=True):
        crc = combine(crc, one, len(part))
    return crc


def _read_part(file: _File, offset: int, buffer: memoryview) -> int:
    crc = 0
    for start in range(0, len(buffer), _STEP):
        part = buffer[start : start + _STEP]
        file.read_into(offset + start, part)
        crc = zlib.crc32(part, crc)
    return crc


def processors() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def combine(first: int, second: int, size: int) -> int:
    """The CRC-32 of two runs on end, from that of each; the second has `size` bytes.

    Appending zeros to a run is a linear map of its CRC over the integers modulo 2, so that map's powers of two are
    enough for any size.
    """
    power = 0
    while size:
        if size & 1:
            first = _times(_zeros(power), first)
        size >>= 1
        power += 1
    return first ^ second


@cache
def _zeros(power: int) -> tuple[int, ...]:
    """What 2**power bytes of zeros do to each bit of a CRC-32."""
    if power:
        half = _zeros(power - 1)
        return tuple(_times(half, column) for column in half)
    columns = []
    for bit in range(32):
        crc = 1 << bit
        for _ in range(8):
            crc = crc >> 1 ^ (0xEDB88320 if crc & 1 else 0)
        columns.append(crc)
    return tuple(columns)


def _times(columns: tuple[int, ...], crc: int) -> int:
    out = bit = 0
    while crc:
        if crc & 1:
            out ^= columns[bit]
        crc >>= 1
        bit += 1
    return out

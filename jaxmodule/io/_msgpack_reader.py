"""Reads msgpack as flax writes it, with the arrays left in their file."""

import math
import struct
from typing import Any

import ml_dtypes
import numpy as np

from ..core.fill import aligned_empty
from .array_file import ArrayFile, FileArray
from .checks import brief, byte_count
from .errors import FileFormatError

ARRAY, COMPLEX, SCALAR = 1, 2, 3  # flax's extension types
CHUNKED = "__msgpack_chunked_array__"
MAX_DEPTH = 100
_ML = ("bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e4m3b11fnuz")
_ML_MORE = ("float8_e4m3", "float8_e3m4", "float8_e8m0fnu", "float4_e2m1fn", "int2", "int4", "uint2", "uint4")
DTYPES = {name: np.dtype(getattr(ml_dtypes, name)) for name in (*_ML, *_ML_MORE) if hasattr(ml_dtypes, name)}
for _name in ("bool", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))):
    DTYPES[_name] = np.dtype(_name)
for _name in ("float16", "float32", "float64", "complex64", "complex128"):
    DTYPES[_name] = np.dtype(_name)


class Reader:
    """Reads one object after the other; every size is checked against the file's before anything is made of it."""

    def __init__(self, file: ArrayFile) -> None:
        self.file = file
        self.at = 0
        self.end = file.size
        self._window, self._start = b"", 0
        # A list of a million numbers has one byte each in the file and many more in memory.
        self._objects = 1_000_000 + file.size // 64

    def damaged(self, what: str) -> FileFormatError:
        return FileFormatError(f"{self.file.path!r} is damaged or no msgpack file: {what}")

    def take(self, count: int) -> bytes:
        if count > self.end - self.at:
            whole = "it is cut off" if self.end == self.file.size else "an array's data is cut off"
            raise self.damaged(f"{whole}: {count} more bytes expected at {self.at}, {self.end - self.at} there")
        begin = self.at - self._start
        if begin < 0 or begin + count > len(self._window):
            if count > 1 << 16:
                if count > 1 << 30:
                    raise self.damaged(f"text or bytes of more than 1 GiB at {self.at}")
                self.at += count
                return self.file.read(self.at - count, count)
            self._window, self._start, begin = self.file.read(self.at, 1 << 17), self.at, 0
        self.at += count
        return self._window[begin : begin + count]

    def number(self, layout: str) -> Any:
        return struct.unpack(f">{layout}", self.take(struct.calcsize(layout)))[0]

    def item(self, depth: int) -> Any:
        self._objects -= 1
        if self._objects < 0:
            raise self.damaged("it has more objects than a file of its size should")
        code = self.take(1)[0]
        if code < 0x80:
            return code
        if code >= 0xE0:
            return code - 0x100
        if code < 0xA0 or code >= 0xDC:
            return self._container(code, depth + 1)
        if code < 0xC0 or code in (0xD9, 0xDA, 0xDB):
            return self._text(code)
        if code in (0xC0, 0xC2, 0xC3):
            return {0xC0: None, 0xC2: False, 0xC3: True}[code]
        if code in (0xC4, 0xC5, 0xC6):
            return self.take(self.number("BHI"[code - 0xC4]))
        if code in (0xCA, 0xCB) or 0xCC <= code <= 0xD3:
            return self.number("fdBHIQbhiq"[code - 0xCA])
        if code == 0xC1:
            raise self.damaged(f"the byte 0xc1 at {self.at - 1} has no meaning")
        size = 1 << (code - 0xD4) if code >= 0xD4 else self.number("BHI"[code - 0xC7])
        return self._extension(self.number("B"), size)

    def _text(self, code: int) -> str:
        raw = self.take(code & 0x1F if code < 0xC0 else self.number("BHI"[code - 0xD9]))
        try:
            return raw.decode()
        except UnicodeDecodeError as error:
            raise self.damaged(f"text that is not UTF-8 ends at {self.at}") from error

    def _container(self, code: int, depth: int) -> Any:
        if depth > MAX_DEPTH:
            raise self.damaged(f"it is nested more than {MAX_DEPTH} deep")
        is_map = code < 0x90 or code >= 0xDE
        size = code & 0xF if code < 0xA0 else self.number("HI"[code & 1])
        if size * (2 if is_map else 1) > self.end - self.at:
            raise self.damaged(f"{size} items in the {self.end - self.at} bytes that are left")
        if not is_map:
            return [self.item(depth) for _ in range(size)]
        out: dict[Any, Any] = {}
        for _ in range(size):
            key = self.item(depth)
            if not isinstance(key, str | int | float | bytes | None):
                raise self.damaged(f"the key {brief(key)} is no text or number")
            if key in out:
                raise self.damaged(f"{brief(key)} occurs twice in a dict")
            out[key] = self.item(depth)
        return self._join(out) if CHUNKED in out else out

    def _extension(self, kind: int, size: int) -> Any:
        begin, outer = self.at, self.end
        if size > outer - begin:
            self.take(size)
        self.end = begin + size
        if kind in (ARRAY, SCALAR):
            array = self._array()
            out = array if kind == ARRAY else self._scalar(array)
        elif kind == COMPLEX:
            parts = self.item(MAX_DEPTH - 1)
            if not isinstance(parts, list) or len(parts) != 2 or not all(isinstance(x, int | float) for x in parts):
                raise self.damaged(f"the complex number {brief(parts)}")
            out = complex(*parts)
        else:
            raise self.damaged(f"the extension type {kind} at {begin} is none of flax's")
        if self.at != self.end:
            raise self.damaged(f"{self.end - self.at} bytes too many in the extension at {begin}")
        self.end = outer
        return out

    def _array(self) -> FileArray:
        """[shape, name of the dtype, bytes], where the bytes stay in the file."""
        where = f"array at {self.at}"
        if self.take(1) != b"\x93":
            raise self.damaged(f"the {where} is not [shape, dtype, bytes]")
        shape, name = self.item(MAX_DEPTH - 1), self.item(MAX_DEPTH)
        if not isinstance(shape, list) or not isinstance(name, str | bytes):
            raise self.damaged(f"the {where} is not [shape, dtype, bytes]")
        name = name.decode("latin-1") if isinstance(name, bytes) else name
        if name not in DTYPES:
            raise self.damaged(f"the {where} has the dtype {brief(name)}")
        code = self.take(1)[0]
        if 0xA0 <= code < 0xC0:  # msgpack's old kind of bytes
            size = code & 0x1F
        elif code in (0xC4, 0xC5, 0xC6, 0xD9, 0xDA, 0xDB):
            size = self.number("BHI"[code - (0xC4 if code < 0xD0 else 0xD9)])
        else:
            raise self.damaged(f"the {where} is not [shape, dtype, bytes]")
        expected = byte_count(self.file.path, where, tuple(shape), DTYPES[name])
        if size != expected or size > self.end - self.at:
            raise self.damaged(f"the {where} of {name} {shape} has {size} bytes, not {expected}")
        self.at += size
        return FileArray(self.file, self.at - size, DTYPES[name], tuple(shape))

    def _scalar(self, array: FileArray) -> Any:
        if array.shape:
            raise self.damaged(f"a number of the shape {array.shape}")
        return array.read()[()]

    def _join(self, parts: dict[Any, Any]) -> "_Chunked":
        """An array from flax's dict of its chunks."""
        chunks, shape = (_as_list(parts.get(key)) for key in ("chunks", "shape"))
        if not chunks or shape is None or not all(type(chunk) is FileArray for chunk in chunks):
            raise self.damaged(f"an array in chunks without its {'shape' if chunks else 'chunks'}")
        size = byte_count(self.file.path, "array in chunks", tuple(shape), chunks[0].dtype)
        alike = all(chunk.ndim == 1 and chunk.dtype == chunks[0].dtype for chunk in chunks)
        if not alike or sum(chunk.nbytes for chunk in chunks) != size:
            raise self.damaged(f"the chunks of an array of {chunks[0].dtype} {shape} don't make one")
        return _Chunked(chunks, tuple(shape))


def _as_list(items: Any) -> list[Any] | None:
    """The list that flax stored as {"0": ..., "1": ...}."""
    if not isinstance(items, dict) or set(items) != {str(i) for i in range(len(items))}:
        return None
    return [items[str(i)] for i in range(len(items))]


class _Chunked(FileArray):
    """An array in several pieces of a file."""

    __slots__ = ("chunks",)

    def __init__(self, chunks: list[FileArray], shape: tuple[int, ...]) -> None:
        super().__init__(chunks[0].file, chunks[0].offset, chunks[0].dtype, shape)
        self.chunks = chunks

    def read(self) -> np.ndarray:
        out = aligned_empty(math.prod(self.shape), self.dtype)
        at = 0
        for chunk in self.chunks:
            self.file.read_into(chunk.offset, out[at : at + chunk.size].view(np.uint8).data)
            at += chunk.size
        return out.reshape(self.shape)

    def view(self) -> np.ndarray:
        return self.read()  # no one piece of memory has it

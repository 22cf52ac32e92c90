"""flax's msgpack files: what `flax.serialization.to_bytes` and `msgpack_serialize` write, byte for byte.

Nested dicts (and lists) of arrays, numbers and text; arrays are three extension types of msgpack, and an array of more
than 1 GiB is a dict of chunks. Read and written here rather than through the `msgpack` package, whose reader copies the
whole file into memory and each array once more, and whose writer wants all of it at once.

What is in the file is what comes back: nested dicts stay nested, a flat `state_dict()` stays flat. A tied weight is
stored under each of its names, as flax does.
"""

import io
import struct
from collections.abc import Mapping
from typing import Any, BinaryIO

import jax
import numpy as np

from ..core.box import Box
from ._msgpack_reader import ARRAY, CHUNKED, COMPLEX, DTYPES, MAX_DEPTH, SCALAR, Reader
from .array_file import ArrayFile, FileArray
from .atomic import Replacing
from .checks import brief
from .safetensors import is_torch, to_numpy

__all__ = ["read", "write"]

_MAX_CHUNK = 1 << 30


# -- writing ---------------------------------------------------------------------------------------------------------


def write(obj: Any, path: str) -> None:
    """Write nested dicts and lists of arrays, numbers and text to `path`, atomically."""
    _check(obj, path, "", 0)
    with Replacing(path) as file:
        _pack(obj, file)


def _check(obj: Any, path: str, where: str, depth: int) -> None:
    """Raise for what cannot be written, before anything is."""
    obj = obj.value if isinstance(obj, Box) else obj
    if depth > MAX_DEPTH:
        raise ValueError(f"{path!r}: dicts and lists are nested more than {MAX_DEPTH} deep at {brief(where)}")
    if isinstance(obj, Mapping):
        for key, value in obj.items():
            if not isinstance(key, str | int):
                raise TypeError(f"{path!r}: {key!r} in {where or 'the dict'!r} is no key; text and ints are")
            _check(value, path, f"{where}.{key}" if where else str(key), depth + 1)
    elif isinstance(obj, list):
        for i, value in enumerate(obj):
            _check(value, path, f"{where}[{i}]", depth + 1)
    elif _is_array(obj):
        if str(obj.dtype).removeprefix("torch.") not in DTYPES:
            hint = "; save its data, `jax.random.key_data(key)`" if str(obj.dtype).startswith("key<") else ""
            raise TypeError(f"{path!r}: {where!r} has dtype {obj.dtype}, which is not read back by flax{hint}")
    elif isinstance(obj, int):
        if not -(1 << 63) <= obj < 1 << 64:
            raise ValueError(f"{path!r}: {where!r} is {brief(obj)}, and msgpack has integers of 64 bits")
    elif obj is not None and not isinstance(obj, bool | float | complex | str | bytes):
        hint = "; a list is" if isinstance(obj, tuple) else ""
        raise TypeError(f"{path!r}: {where!r} is a {type(obj).__name__}, which a msgpack file does not have{hint}")


def _is_array(obj: Any) -> bool:
    return isinstance(obj, jax.Array | np.ndarray | np.generic | FileArray) or is_torch(obj)


def _pack(obj: Any, file: BinaryIO) -> None:
    obj = obj.value if isinstance(obj, Box) else obj
    if isinstance(obj, Mapping):
        _head(file, len(obj), (0x80, 16), None, 0xDE, 0xDF)
        for key, value in obj.items():
            _pack(key, file)
            _pack(value, file)
    elif isinstance(obj, list):
        _head(file, len(obj), (0x90, 16), None, 0xDC, 0xDD)
        for value in obj:
            _pack(value, file)
    elif isinstance(obj, np.generic):
        file.write(_extension(SCALAR, _array_head(np.asarray(obj)), np.asarray(obj).nbytes))
        file.write(to_numpy(obj).tobytes())
    elif _is_array(obj):
        _pack_array(obj, file)
    elif isinstance(obj, complex):
        file.write(_extension(COMPLEX, b"\x92" + struct.pack(">BdBd", 0xCB, obj.real, 0xCB, obj.imag), 0))
    elif isinstance(obj, str):
        text = obj.encode()
        _head(file, len(text), (0xA0, 32), 0xD9, 0xDA, 0xDB)
        file.write(text)
    elif isinstance(obj, bytes):
        _head(file, len(obj), None, 0xC4, 0xC5, 0xC6)
        file.write(obj)
    else:
        file.write(_atom(obj))


def _pack_array(obj: Any, file: BinaryIO) -> None:
    host = np.ascontiguousarray(to_numpy(obj)).reshape(tuple(obj.shape))
    if host.nbytes <= _MAX_CHUNK:
        file.write(_extension(ARRAY, _array_head(host), host.nbytes))
        file.write(host.reshape(-1).view(np.uint8).data)
        return
    flat, step = host.reshape(-1), max(1, _MAX_CHUNK // host.itemsize)
    chunks = [flat[i : i + step] for i in range(0, flat.size, step)]
    _head(file, 3, (0x80, 16), None, 0xDE, 0xDF)
    shape = {str(i): n for i, n in enumerate(host.shape)}
    for key, value in ((CHUNKED, True), ("shape", shape), ("chunks", {str(i): c for i, c in enumerate(chunks)})):
        _pack(key, file)
        _pack(value, file)


def _array_head(host: np.ndarray) -> bytes:
    """The payload of an array's extension up to its bytes: [shape, name of the dtype, bytes]."""
    out = io.BytesIO()
    out.write(b"\x93")
    _pack(list(host.shape), out)
    _pack(host.dtype.name, out)
    _head(out, host.nbytes, None, 0xC4, 0xC5, 0xC6)
    return out.getvalue()


def _extension(kind: int, head: bytes, more: int) -> bytes:
    size = len(head) + more
    if size in (1, 2, 4, 8, 16):
        start = bytes([0xD4 + size.bit_length() - 1])
    else:
        start = _sized(size, 0xC7, 0xC8, 0xC9)
    return start + bytes([kind]) + head


def _head(file: BinaryIO, size: int, small: tuple[int, int] | None, *codes: int | None) -> None:
    if small is not None and size < small[1]:
        file.write(bytes([small[0] | size]))
    else:
        file.write(_sized(size, *codes))


def _sized(size: int, *codes: int | None) -> bytes:
    """A code and the size after it: in 1, 2 or 4 bytes, the fewest that there is a code for."""
    for code, layout, limit in zip(codes, (">BB", ">BH", ">BI"), (1 << 8, 1 << 16, 1 << 32), strict=True):
        if code is not None and size < limit:
            return struct.pack(layout, code, size)
    raise ValueError(f"{size} bytes or items are more than msgpack can count")


def _atom(obj: Any) -> bytes:
    if obj is None or isinstance(obj, bool):
        return {None: b"\xc0", False: b"\xc2", True: b"\xc3"}[obj]
    if isinstance(obj, float):
        return struct.pack(">Bd", 0xCB, obj)
    if -32 <= obj < 128:
        return struct.pack("b" if obj < 0 else "B", obj)
    if obj > 0:
        code, layout = 0xCC, "BHIQ"
        width = next(i for i in range(4) if obj < 1 << (8 << i))
    else:
        code, layout = 0xD0, "bhiq"
        width = next(i for i in range(4) if obj >= -(1 << ((8 << i) - 1)))
    return struct.pack(f">B{layout[width]}", code + width, obj)


# -- reading ---------------------------------------------------------------------------------------------------------


def read(path: str) -> Any:
    """What is in the file, with its arrays still in it."""
    file = ArrayFile(path)
    reader = Reader(file)
    out = reader.item(0)
    if reader.at != file.size:
        raise reader.damaged(f"{file.size - reader.at} bytes follow its end")
    return out

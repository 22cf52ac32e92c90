"""numpy's .npz: a zip archive with one .npy per array, read without pickle and without unpacking it as a whole.

Stored members (`np.savez`) are arrays at a place in the file like any other. Members of `np.savez_compressed` are
unpacked when they are read. How much they may unpack to is limited to twice the file plus 256 MiB, or by `limit`: a zip
bomb and an honest array of zeros look the same.

numpy has no bfloat16 or float8: `np.savez` writes raw bytes (dtype V2, V1) for them, and forgets which they were.
`write` writes the same, and beside them a member `__jaxmodule_dtypes__` (text, JSON) with the names. `numpy.load` opens
such a file; its raw arrays become themselves by `.view(ml_dtypes.bfloat16)`.
"""

import ast
import io
import json
import math
import os
import re
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import jax
import ml_dtypes
import numpy as np

from ..core.box import Box
from ..core.fill import aligned_empty
from .array_file import ArrayFile, FileArray
from .atomic import Replacing
from .checks import brief, byte_count, read_json
from .checksum import Checksum, combine
from .errors import FileFormatError
from .safetensors import host_bytes, is_torch, to_numpy

__all__ = ["read", "write"]

_DTYPES = "__jaxmodule_dtypes__"
_CONSTANT = 256 << 20
_MAX_HEADER = 10_000  # numpy's own limit
_MAX_NAME = (1 << 16) - 1  # bytes, with the ending: a zip archive's limit
_STEP = 1 << 20


# -- writing ---------------------------------------------------------------------------------------------------------


def write(obj: Mapping[str, Any], path: str) -> None:
    """Write names and arrays to `path` as `numpy.savez` does, atomically."""
    extended: dict[str, str] = {}
    for name, value in obj.items():
        tensor = value.value if isinstance(value, Box) else value
        if not isinstance(name, str) or name == _DTYPES or "\0" in name:
            raise TypeError(f"{path!r}: {name!r} cannot be the name of an array in a .npz file")
        if len(os.fsencode(f"{name}.npy")) > _MAX_NAME:
            raise ValueError(f"{path!r}: {brief(name)} has {len(name)} characters; a .npz file has no place for them")
        if not isinstance(tensor, jax.Array | np.ndarray | np.generic | FileArray) and not is_torch(tensor):
            raise TypeError(
                f"{path!r}: {name!r} is a {type(tensor).__name__}; a .npz file holds arrays only. A .msgpack or .pt "
                "file holds nested dicts and numbers too."
            )
        known = str(tensor.dtype).removeprefix("torch.")
        if _extended(known) is not None:
            extended[name] = known
        elif known.startswith("key<"):
            raise TypeError(f"{path!r}: {name!r} is a PRNG key; save its data, `jax.random.key_data(key)`")
        elif not is_torch(tensor) and (np.dtype(tensor.dtype).kind not in "biufcUSmM" or _is_long(tensor.dtype)):
            raise TypeError(f"{path!r}: {name!r} has dtype {tensor.dtype}, which a .npz file has no place for")
    with Replacing(path) as file, zipfile.ZipFile(file, "w") as archive:
        for name, value in obj.items():
            _add(archive, name, value.value if isinstance(value, Box) else value, raw=name in extended)
        if extended:
            _add(archive, _DTYPES, np.array(json.dumps(extended)), raw=False)


def _is_long(dtype: Any) -> bool:
    """Is it C's long double, or two of them?"""
    return np.dtype(dtype).char in "gG"


def _extended(name: Any) -> np.dtype | None:
    """The dtype of this name that numpy itself does not have."""
    found = getattr(ml_dtypes, name, None) if isinstance(name, str) else None
    return np.dtype(found) if isinstance(found, type) and issubclass(found, np.generic) else None


def _add(archive: zipfile.ZipFile, name: str, tensor: Any, raw: bool) -> None:
    host = to_numpy(tensor)
    described = np.dtype(f"V{host.itemsize}") if raw else host.dtype
    head = io.BytesIO()
    shape = tuple(tensor.shape)
    fields = {"descr": np.lib.format.dtype_to_descr(described), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(head, fields)
    # zip64 where it is needed: a member's size must be known to be small before it is written without.
    with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
        member.write(head.getvalue())
        member.write(host_bytes(host))


# -- reading ---------------------------------------------------------------------------------------------------------


def read(path: str, limit: int | None = None) -> "OrderedDict[str, FileArray]":
    """The arrays of the file, still in it.

    Args:
        path: the file's name.
        limit: the most bytes that compressed arrays may unpack to in all; None for twice the file plus 256 MiB.

    Raises:
        FileFormatError: for a file that is damaged, an array that needs pickle, and more than `limit`.
    """
    file = ArrayFile(path)
    out: OrderedDict[str, FileArray] = OrderedDict()
    end, unpacked = 0, 0
    members = _members(file)
    for info in sorted(members, key=lambda info: info.header_offset):
        start = _data_start(file, info)
        if info.header_offset < end:
            raise FileFormatError(f"{path!r} is damaged: {info.filename!r} lies over the member before it")
        end = start + info.compress_size
        if end > file.size:
            raise FileFormatError(f"{path!r} is cut off: {info.filename!r} reaches past its end")
        name = info.filename.removesuffix(".npy")
        if name in out:
            raise FileFormatError(f"{path!r} is damaged: {name!r} is in it twice")
        out[name] = _array(file, info, start)
        unpacked += info.file_size if info.compress_type else 0
    most = 2 * file.size + _CONSTANT if limit is None else limit
    if unpacked > most:
        raise FileFormatError(
            f"{path!r} has {file.size} bytes and would unpack to {unpacked}, more than {most}. If you trust it, "
            f"read it with jaxmodule.io.npz.read(path, limit={unpacked})."
        )
    names = [info.filename.removesuffix(".npy") for info in members]
    return _with_dtypes(path, OrderedDict((name, out[name]) for name in names))


def _members(file: ArrayFile) -> list[zipfile.ZipInfo]:
    """The archive's directory, in its order."""
    count, size = _end_record(file)
    # 46 bytes at least for what zipfile makes 700 of.
    if size // 46 * 700 > file.size + _CONSTANT:
        raise FileFormatError(f"{file.path!r} is damaged: its directory is larger than its contents can need")
    try:
        with open(file.path, "rb") as raw, zipfile.ZipFile(raw) as archive:
            members = archive.infolist()
    except Exception as error:  # zipfile raises many kinds for what it finds in a damaged directory
        raise FileFormatError(f"{file.path!r} is cut off or damaged: {error}") from error
    if count is not None and count != len(members):
        raise FileFormatError(f"{file.path!r} is damaged: {len(members)} members of {count} in its directory")
    return members


def _end_record(file: ArrayFile) -> tuple[int | None, int]:
    """The number of members and the size of the directory that the archive's last record says."""
    start = max(0, file.size - (1 << 16) - 22)
    tail = file.read(start, file.size - start)
    at = tail.rfind(b"PK\5\6")
    if at < 0:
        return None, 0
    count, size, offset = (int.from_bytes(tail[at + i : at + j], "little") for i, j in ((10, 12), (12, 16), (16, 20)))
    if count == 0xFFFF or 0xFFFFFFFF in (size, offset):  # zip64, whose real numbers are elsewhere
        return None, min(size, file.size)
    if offset + size != start + at:
        raise FileFormatError(f"{file.path!r} is damaged: its directory does not end where its last record begins")
    return count, size


def _data_start(file: ArrayFile, info: zipfile.ZipInfo) -> int:
    """Where the data of a member begins, after its own header, which must agree with the directory."""
    path, at = file.path, info.header_offset
    local = file.read(at, 30) if 0 <= at < file.size else b""
    names = int.from_bytes(local[26:28], "little")
    name = info.orig_filename.encode("utf-8" if info.flag_bits & 0x800 else "cp437", "replace")
    if len(local) < 30 or local[:4] != b"PK\3\4" or file.read(at + 30, names) != name:
        raise FileFormatError(f"{path!r} is damaged: {brief(info.filename)} is not where its directory says")
    if info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        how = "encrypted" if info.flag_bits & 1 else f"compressed in a way (number {info.compress_type}) of no numpy"
        raise FileFormatError(f"{path!r}: {brief(info.filename)} is {how}")
    if not info.filename.endswith(".npy"):
        raise FileFormatError(f"{path!r} is no .npz file: {brief(info.filename)} in it is no .npy file")
    return at + 30 + names + int.from_bytes(local[28:30], "little")


def _array(file: ArrayFile, info: zipfile.ZipInfo, start: int) -> FileArray:
    path, name = file.path, info.filename.removesuffix(".npy")
    packed = info.compress_type == zipfile.ZIP_DEFLATED
    if not packed and info.compress_size != info.file_size:
        raise FileFormatError(f"{path!r} is damaged: {name!r} is stored with two sizes")
    head = _unpacked_head(file, start, info) if packed else file.read(start, min(info.file_size, _MAX_HEADER + 12))
    size, dtype, shape, strides = _npy_header(path, name, head)
    data = byte_count(path, name, shape, dtype)
    if size + data != info.file_size:
        raise FileFormatError(
            f"{path!r} is damaged: {name!r} of {dtype} {shape} has {info.file_size - size} bytes of data, not {data}"
        )
    if packed:
        return _Packed(file, start, info, size, dtype, shape, strides)
    # The archive's checksum is that of the header and the data.
    crc = info.CRC ^ combine(zlib.crc32(head[:size]), 0, data)
    return FileArray(file, start + size, dtype, shape, strides, Checksum(start + size, data, crc, name))


def _npy_header(path: str, name: str, head: bytes) -> tuple[int, np.dtype, tuple[int, ...], tuple[int, ...] | None]:
    """The size of a .npy's header, and the dtype, shape and strides that it tells."""
    width = {1: 2, 2: 4, 3: 4}.get(head[6] if len(head) > 7 else 0)
    if head[:6] != b"\x93NUMPY" or width is None:
        raise FileFormatError(f"{path!r} is damaged: {name!r} has no .npy header")
    size = 8 + width + int.from_bytes(head[8 : 8 + width], "little")
    if size > len(head):
        raise FileFormatError(f"{path!r} is damaged: the .npy header of {name!r} has {size} bytes")
    try:
        fields = ast.literal_eval(head[8 + width : size].decode("latin-1").strip())
        descr, fortran, shape = fields["descr"], fields["fortran_order"], fields["shape"]
        if not isinstance(descr, str) or not isinstance(fortran, bool) or not isinstance(shape, tuple):
            raise ValueError("a field of it is of the wrong kind")
        if re.fullmatch(r"[<>|=]?([biufcSUV]\d+|[?O]|[mM]8(\[\w+\])?)", descr) is None:
            raise ValueError(f"the dtype {descr!r}")
        dtype = np.dtype(descr)
        if not dtype.itemsize:
            raise ValueError("values of no bytes")
    except Exception as error:  # literal_eval raises many kinds
        raise FileFormatError(f"{path!r}: the .npy header of {name!r} cannot be read ({brief(error)})") from error
    if dtype.hasobject:
        raise FileFormatError(
            f"{path!r}: {name!r} holds Python objects, which only pickle can read, and a pickle can run any code. "
            "numpy.load(path, allow_pickle=True) does it, for a file that you trust."
        )
    if _is_long(dtype):
        raise FileFormatError(
            f"{path!r}: {name!r} has dtype {dtype}, which JAX doesn't have, and which is not the same on every "
            "machine. Save it as float64 or complex128."
        )
    strides = None
    if fortran and len(shape) > 1:
        byte_count(path, name, shape, dtype)
        strides = tuple(math.prod(shape[:i]) for i in range(len(shape)))
    return size, dtype, shape, strides


def _with_dtypes(path: str, out: "OrderedDict[str, FileArray]") -> "OrderedDict[str, FileArray]":
    """Give raw bytes the dtypes that `write` has noted."""
    noted: dict[str, Any] = {}
    if _DTYPES in out:
        note = out.pop(_DTYPES)
        if note.dtype.kind != "U" or note.shape or note.nbytes > 4 * os.path.getsize(path):
            raise FileFormatError(f"{path!r} is damaged: {_DTYPES!r} is no text")
        noted = read_json(path, _DTYPES, str(note.read()[()]))
    for name, array in out.items():
        if array.dtype.kind != "V":
            continue
        dtype = _extended(noted.get(name))
        if dtype is None or dtype.itemsize != array.dtype.itemsize:
            raise FileFormatError(
                f"{path!r}: {name!r} has raw values of {array.dtype.itemsize} bytes, and the file does not say what "
                "they are (numpy has no bfloat16 or float8). Use numpy.load, and `.view(dtype)` of each."
            )
        array.stored = array.dtype = dtype
    return out


# -- compressed members ----------------------------------------------------------------------------------------------


def _inflate(file: ArrayFile, start: int, info: zipfile.ZipInfo, count: int, out: memoryview | None = None) -> bytes:
    """The first `count` bytes of a member; into `out`, all after those that are returned, where it is given."""
    path, name = file.path, info.filename
    engine, head, crc, at, done = zlib.decompressobj(-15), b"", 0, start, 0
    pending = b""
    while not engine.eof and (out is not None or len(head) < count):
        if not pending:
            pending = file.read(at, min(_STEP, start + info.compress_size - at))
            at += len(pending)
        try:
            part = engine.decompress(pending, _STEP)
        except zlib.error as error:
            raise FileFormatError(f"{path!r} is damaged: {name!r} cannot be unpacked ({error})") from error
        if not (pending or part or engine.eof):
            raise FileFormatError(f"{path!r} is damaged: {name!r} ends too early")
        pending = engine.unconsumed_tail
        crc = zlib.crc32(part, crc)
        if len(head) < count:
            taken = count - len(head)
            head, part = head + part[:taken], part[taken:]
        if out is not None and part:
            if done + len(part) > len(out):
                raise FileFormatError(f"{path!r} is damaged: {name!r} unpacks to more than it says")
            out[done : done + len(part)] = part
            done += len(part)
    if out is not None and (done != len(out) or crc != info.CRC):
        raise FileFormatError(f"{path!r} is damaged: {name!r} unpacks to something else than was written")
    return head


def _unpacked_head(file: ArrayFile, start: int, info: zipfile.ZipInfo) -> bytes:
    return _inflate(file, start, info, min(info.file_size, _MAX_HEADER + 12))


class _Packed(FileArray):
    """An array of a compressed member."""

    __slots__ = ("head", "info", "start")

    def __init__(self, file: ArrayFile, start: int, info: zipfile.ZipInfo, head: int, *array: Any) -> None:
        super().__init__(file, start, *array)
        self.start = start
        self.info = info
        self.head = head

    def read(self) -> np.ndarray:
        flat = aligned_empty(self.size, self.stored)
        _inflate(self.file, self.start, self.info, self.head, flat.view(np.uint8).data)
        if self.stored == self.dtype and self.strides is None:
            return flat.reshape(self.shape)
        out = aligned_empty(self.size, self.dtype).reshape(self.shape)
        out[...] = flat.reshape(self.shape, order="C" if self.strides is None else "F")
        return out

    def view(self) -> np.ndarray:
        return self.read()  # there is no place in the file that has its bytes

"""PyTorch's own files, `torch.save`'s, read and written without torch.

Read are the zip files that torch writes since 1.6, the pickles before, and the tar files of 0.1. Only plain data comes
out: tensors, numbers, text, bytes and containers; a name in the file that stands for anything else ends the reading
before anything is called (`_unpickle.py`). Written are zip files that `torch.load(weights_only=True)` takes.
"""

import os
import struct
import zlib
from typing import Any, BinaryIO

from . import _torch_legacy, _torch_zip
from ._torch_pickle import Pickle
from .array_file import ArrayFile
from .atomic import Replacing
from .errors import FileFormatError
from .safetensors import host_bytes

__all__ = ["read", "write"]

_ALIGNMENT = 64
_MAX32 = 0xFFFFFFFF
_MAX16 = 0xFFFF
_DATE = 0x21  # 1980-01-01: the same content gives the same bytes


def read(path: str) -> Any:
    """The object in a file of `torch.save`, with a `FileArray` for each tensor.

    Tensors that are one (the same elements of one storage: tied weights) are one FileArray. torch.Size comes as a
    tuple, torch.device as text, a dtype as numpy's; numpy's scalars and arrays as such. A Parameter is its tensor, and
    attributes of tensors are left out. complex32 comes as complex64, which holds the same values.

    Args:
        path: the file's name.

    Raises:
        FileNotFoundError: if there is no such file.
        FileFormatError: for a file that is cut off, damaged, of another format, needs more memory than twice its size
            and 256 MiB, or holds anything but plain data: code, sparse, quantized and nested tensors.

    Note:
        Files of torch 1.6 and later have checksums, and what was altered in them is found, in a tensor's data when the
        tensor is read whole. Files of earlier versions have none: a bit that flipped in a tensor's data stays unseen.

    Example:
        >>> import os, tempfile, jax.numpy as jnp
        >>> path = os.path.join(tempfile.mkdtemp(), "a.pt")
        >>> write({"step": 7, "weight": jnp.arange(3.0)}, path)
        >>> found = read(path)
        >>> found["step"], found["weight"].read().tolist()
        (7, [0.0, 1.0, 2.0])
    """
    if os.path.isdir(path):
        if os.path.exists(os.path.join(path, ".metadata")):
            raise FileFormatError(
                f"{path!r} is a checkpoint of torch.distributed.checkpoint: make one file of it where torch is, "
                "`torch.distributed.checkpoint.format_utils.dcp_to_torch_save(folder, file)`"
            )
        raise FileFormatError(f"{path!r} is a folder, not a file of torch.save")
    file = ArrayFile(path)
    head = file.read(0, 512)
    if not head:
        raise FileFormatError(f"{path!r} is empty")
    if head[:2] == b"PK":
        return _torch_zip.read(file)
    if _torch_legacy.is_tar(head):
        return _torch_legacy.read_tar(file)
    if head[:1] == b"\x80":
        return _torch_legacy.read(file)
    raise FileFormatError(f"{path!r} is no file of torch.save: it starts with {head[:16]!r}")


def write(obj: Any, path: str) -> None:
    """Write a zip file that `torch.load(weights_only=True)` reads, whole or not at all.

    Arrays (jax, numpy, torch), Parameters and Buffers become tensors, one storage for each array however often it
    occurs. Only one of them is on the host at a time.

    Args:
        obj: arrays, numbers, text, bytes, and dicts, lists, tuples and sets of them.
        path: the file's name.

    Raises:
        TypeError: for anything else in `obj`, with its place.

    Example:
        >>> import os, tempfile, numpy as np
        >>> path = os.path.join(tempfile.mkdtemp(), "a.pt")
        >>> write({"model": {"weight": np.ones(2)}, "names": ["a", "b"]}, path)
        >>> read(path)["names"]
        ['a', 'b']
    """
    pickle = Pickle(obj, path)
    with Replacing(path) as file:
        archive = _Archive(file)
        archive.add("data.pkl", memoryview(pickle.data))
        archive.add("byteorder", memoryview(b"little"))
        for i in range(len(pickle.arrays)):
            archive.add(f"data/{i}", host_bytes(pickle.arrays[i]))
        archive.add("version", memoryview(b"3\n"))
        archive.finish()


class _Archive:
    """A zip file of records without compression, each at a multiple of 64 bytes, so that torch can map them.

    `.format_version` is left out: with it, torch would compute where records are from how its own writer lays them.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.at = 0
        self.directory = bytearray()
        self.count = 0

    def _put(self, data: bytes | bytearray | memoryview) -> None:
        self.file.write(data)
        self.at += len(data)

    def add(self, name: str, data: memoryview) -> None:
        """A record."""
        raw = f"archive/{name}".encode()
        size, crc, start = len(data), zlib.crc32(data), self.at
        large = size >= _MAX32
        wide = struct.pack("<2H2Q", 1, 16, size, size) if large else b""
        before = start + 30 + len(raw) + len(wide) + 4
        padding = -before % _ALIGNMENT
        extra = wide + b"FB" + struct.pack("<H", padding) + b"Z" * padding  # torch's name for padding
        field = _MAX32 if large else size
        version = 45 if large or start >= _MAX32 else 20
        common = (0x800, 0, 0, _DATE, crc, field, field, len(raw))
        self._put(struct.pack("<4s5H3I2H", b"PK\x03\x04", version, *common, len(extra)) + raw + extra)
        self._put(data)
        wide = struct.pack("<2Q", size, size) if large else b""
        if start >= _MAX32:
            wide += struct.pack("<Q", start)
        extra = struct.pack("<2H", 1, len(wide)) + wide if wide else b""
        place = min(start, _MAX32)
        fields = (version, version, *common, len(extra), 0, 0, 0, 0, place)
        self.directory += struct.pack("<4s6H3I5H2I", b"PK\x01\x02", *fields) + raw + extra
        self.count += 1

    def finish(self) -> None:
        """The directory, which ends the file."""
        start, size, count = self.at, len(self.directory), self.count
        self._put(self.directory)
        if start >= _MAX32 or size >= _MAX32 or count >= _MAX16:
            end = self.at
            self._put(struct.pack("<4sQ2H2I4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, count, count, size, start))
            self._put(struct.pack("<4sIQI", b"PK\x06\x07", 0, end, 1))
        short = min(count, _MAX16)
        fields = (0, 0, short, short, min(size, _MAX32), min(start, _MAX32), 0)
        self._put(struct.pack("<4s4H2IH", b"PK\x05\x06", *fields))

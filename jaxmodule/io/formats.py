"""Which format a file has: told from its first bytes, from its name only where those say nothing."""

import os
import stat
from typing import Literal

from .errors import FileFormatError
from .safetensors import MAX_HEADER

__all__ = ["Format", "by_content", "by_name"]

Format = Literal["safetensors", "sharded", "torch", "npz", "msgpack"]

INDEX = ".index.json"
_SUFFIXES: dict[str, Format] = {
    ".safetensors": "safetensors",
    ".pt": "torch",
    ".pth": "torch",
    ".bin": "torch",
    ".ckpt": "torch",
    ".npz": "npz",
    ".msgpack": "msgpack",
    ".flax": "msgpack",
}
# What else gets named like a checkpoint, and what to do about it.
_OTHERS = {
    b"version https://git-lfs": "a Git LFS pointer in place of the file: fetch the file itself, `git lfs pull`",
    b"<!DOCTYPE": "a web page: the download went wrong",
    b"<html": "a web page: the download went wrong",
    b"\x93NUMPY": "a .npy file: numpy.load reads it",
    b"\x89HDF": "an HDF5 file: h5py reads it",
    b"\x1f\x8b": "compressed with gzip: unpack it first",
    b"\x28\xb5\x2f\xfd": "compressed with zstd: unpack it first",
    b"BZh": "compressed with bzip2: unpack it first",
    b"\xfd7zXZ": "compressed with xz: unpack it first",
    b"GGUF": "a GGUF file",
}
_PROTOCOLS = (b"\2", b"\3", b"\4", b"\5")  # of pickles
_BARE = {bytes([code]) for code in (*range(0x90, 0xA0), *range(0xC7, 0xCA), *range(0xDC, 0xE0), *range(0x81, 0x90))}
# `torch.save` before 1.6: a pickle of a magic number, protocol 2 in every version.
_TORCH_LEGACY = b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19"


def by_name(path: str) -> Format | None:
    """The format that the name of a file promises, None where it promises nothing."""
    name = path.lower()
    if name.endswith(INDEX):
        return "sharded"
    return _SUFFIXES.get(os.path.splitext(name)[1])


def by_content(path: str) -> Format:
    """The format of the file at `path`, or of the folder.

    Args:
        path: an existing file or folder.

    Raises:
        FileNotFoundError: if there is none.
        FileFormatError: for an empty file, and for one whose first bytes and name are no format's.
    """
    mode = os.stat(path).st_mode
    if stat.S_ISDIR(mode):
        return "sharded"
    if not stat.S_ISREG(mode):
        raise FileFormatError(f"{path!r} is no regular file")
    with open(path, "rb") as file:
        head = file.read(512)
        found = _zip_of(head, by_name(path)) if head[:2] == b"PK" else _magic(head)
    if not head:
        raise FileFormatError(f"{path!r} is empty")
    if found is None:
        other = next((what for magic, what in _OTHERS.items() if head.startswith(magic)), None)
        if other is not None:
            raise FileFormatError(f"{path!r} is {other}")
        # A bare array or list of flax's starts like many things; a reader says best what is wrong with its own.
        found = by_name(path) or ("msgpack" if head[:1] in _BARE else None)
    if found is None:
        raise FileFormatError(
            f"{path!r} is of no format that can be read (safetensors, PyTorch's, .npz, flax msgpack): it starts with "
            f"{head[:16]!r}"
        )
    return found


def _magic(head: bytes) -> Format | None:
    if len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= MAX_HEADER:
        return "safetensors"
    if head.lstrip()[:1] == b"{" and b"\0" not in head:
        return "sharded"
    # 0x80 is msgpack's empty dict, which is all of its file, and opens every pickle.
    if head[2:14] == _TORCH_LEGACY or head[257:262] == b"ustar" or (head[:1] == b"\x80" and head[1:2] in _PROTOCOLS):
        return "torch"
    return "msgpack" if _is_msgpack(head) else None


def _is_msgpack(head: bytes) -> bool:
    """Is it a dict whose first name is text? Any text would pass for one of msgpack's numbers."""
    first = head[0] if head else 0
    name = {0xDE: 3, 0xDF: 5}.get(first, 1 if 0x81 <= first <= 0x8F else len(head))
    return head == b"\x80" or any(0xA0 <= code <= 0xBF or 0xD9 <= code <= 0xDB for code in head[name : name + 1])


def _zip_of(head: bytes, named: Format | None) -> Format | None:
    """Which of the two it is: numpy writes `name.npy` and nothing else, torch `name/data.pkl` first."""
    if head[:4] == b"PK\x05\x06":  # an archive of nothing
        return "npz"
    if head[:4] != b"PK\x03\x04":
        return None
    first = head[30 : 30 + int.from_bytes(head[26:28], "little")]
    return "npz" if first.endswith(b".npy") or (named == "npz" and not first.endswith(b"data.pkl")) else "torch"

"""Where the members of a tar file lie. Python's `tarfile` follows links, sparse maps and extensions; this does not."""

from typing import NamedTuple

from .array_file import ArrayFile
from .errors import FileFormatError

__all__ = ["Member", "members"]

_BLOCK = 512
_MAX_EXTENSION = 1 << 16


class Member(NamedTuple):
    """Bytes `start ... end` of a file."""

    start: int
    end: int


def members(file: ArrayFile, allowed: tuple[str, ...]) -> dict[str, Member]:
    """The members by their names, which must be among the allowed ones."""
    found: dict[str, Member] = {}
    at, longer = 0, {}
    while True:
        block = file.read(at, _BLOCK)
        if len(block) < _BLOCK:
            raise FileFormatError(f"{file.path!r} is cut off: its tar directory does not end")
        if not any(block):
            return found
        name, size, kind = _header(file, block)
        size = int(longer.get("size", size))
        start, at = at + _BLOCK, at + _BLOCK + -(-size // _BLOCK) * _BLOCK
        if start + size > file.size:
            raise FileFormatError(f"{file.path!r} is cut off: its member {name!r} is longer than the file")
        if kind in ("x", "g"):
            longer = _extension(file, start, size) if kind == "x" else longer
            continue
        name = str(longer.get("path", name))
        longer = {}
        if kind not in ("0", "\0") or name not in allowed:
            raise FileFormatError(
                f"{file.path!r} is refused: a tar file of torch.save has the members {', '.join(allowed)}, this one "
                f"{name[:100]!r}"
            )
        if name in found:
            raise FileFormatError(f"{file.path!r} is damaged: it has two members {name!r}")
        found[name] = Member(start, start + size)


def _header(file: ArrayFile, block: bytes) -> tuple[str, int, str]:
    """Name, size and type."""
    try:
        size = int(block[124:136].strip(b"\0 ") or b"0", 8)
        checksum = int(block[148:156].strip(b"\0 ") or b"0", 8)
        name = block[:100].split(b"\0")[0].decode()
    except ValueError:
        size, checksum, name = -1, -1, ""
    if size < 0 or checksum != sum(block[:148]) + 8 * 32 + sum(block[156:]):
        raise FileFormatError(f"{file.path!r} is damaged: a header of the tar file is")
    return name, size, chr(block[156])


def _extension(file: ArrayFile, start: int, size: int) -> dict[str, str]:
    """The records "length key=value" of a pax header; only a name and a size are of interest."""
    data, out = file.read(start, min(size, _MAX_EXTENSION)), {}
    try:
        while data:
            length = int(data.split(b" ", 1)[0])
            record = data[:length].split(b" ", 1)[1].removesuffix(b"\n").decode()
            key, _, value = record.partition("=")
            if length <= 0 or key.startswith("GNU.sparse") or (key == "size" and not value.isdecimal()):
                raise ValueError("no record of a plain file")
            out[key], data = value[:200], data[length:]
    except (ValueError, IndexError):
        raise FileFormatError(f"{file.path!r} is damaged: an extended header of the tar file is") from None
    return {key: out[key] for key in ("path", "size") if key in out}

"""The zip files that `torch.save` writes: where each record's bytes are, and the object in `data.pkl`.

The central directory is read here rather than by `zipfile`, which takes twenty times its size in memory, and asks
nothing of the local headers: records that share bytes, lie outside of the file, or differ in name are refused here.
"""

import struct
from typing import Any, NamedTuple

from ._pickle_machine import Budget
from ._torch_names import check_plain, unpickler
from ._torch_tensors import Storage, StorageType, View
from .array_file import ArrayFile
from .checksum import Checksum
from .errors import FileFormatError

__all__ = ["read"]

_END = struct.Struct("<4s4H2IH")
_END64_PLACE = struct.Struct("<4sIQI")
_END64 = struct.Struct("<4sQ2H2I4Q")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_LOCAL = struct.Struct("<4s5H3I2H")
_ENTRY_BYTES = 500
_OTHERS = {  # what other zip files have in them, and what they are
    "constants.pkl": "a TorchScript archive (torch.jit.save)",
    "extern_modules": "a package of torch.package",
    ".data/extern_modules": "a package of torch.package",
    "archive_format": "a program of torch.export",
    "serialized_exported_program.json": "a program of torch.export",
}


class _Entry(NamedTuple):
    name: str
    header: int
    size: int
    crc: int


def read(file: ArrayFile) -> Any:
    """The object in the file, with FileArrays as tensors."""
    budget = Budget(file.path, file.size)
    records = _records(file, budget)
    first = next(iter(records), "").partition("/")[0] + "/"
    records = {name.removeprefix(first): record for name, record in records.items() if name.startswith(first)}
    pickle = records.get("data.pkl")
    if pickle is None:
        raise FileFormatError(f"{file.path!r} is a zip file, but not of torch.save: it has no data.pkl")
    # `torch.serialization.set_crc32_options(False)` leaves 0 in all of them.
    checked = any(record.crc for record in records.values())
    order = records.get("byteorder")
    text = b"little" if order is None else _bytes(file, order, checked)
    if bytes(text) not in (b"little", b"big"):
        raise FileFormatError(f"{file.path!r} is damaged: its byteorder is neither little nor big")
    storages = _Storages(file, records, checked, big_endian=bytes(text) == b"big")
    data = _bytes(file, pickle, checked)
    out, end = unpickler(file, data, budget, storages.find).load(0)
    if end != len(data):
        raise FileFormatError(f"{file.path!r} is damaged: {len(data) - end} bytes follow the end of its pickle")
    check_plain(file.path, out, budget, len(data))
    return out


class _Storages:
    """Gives the storage of a persistent id."""

    def __init__(self, file: ArrayFile, records: dict[str, Checksum], checked: bool, big_endian: bool) -> None:
        self.file = file
        self.records = records
        self.checked = checked
        self.big_endian = big_endian
        self.found: dict[tuple[str, StorageType], View] = {}

    def find(self, name: Any) -> View:
        path = self.file.path
        if type(name) is not tuple or len(name) != 5 or name[0] != "storage":
            raise FileFormatError(f"{path!r} is refused: its pickle refers to something that is no storage")
        _, kind, key, _, numel = name
        if not isinstance(kind, StorageType) or type(key) is not str or type(numel) is not int or numel < 0:
            raise FileFormatError(f"{path!r} is damaged: its pickle has a storage without type, name or size")
        view = self.found.get((key, kind))
        if view is None:
            record = self.records.get(f"data/{key}")
            if record is None or numel * kind.itemsize > record.size:
                there = "is not there" if record is None else f"has {record.size} bytes, too few for the tensors in it"
                raise FileFormatError(f"{path!r} is damaged: its record {key[:100]!r} {there}")
            storage = Storage(self.file, key, kind, numel, self.big_endian)
            storage.place(record.offset, record if self.checked else None)
            view = self.found[key, kind] = View(storage, 0, numel)
        if view.numel != numel:
            raise FileFormatError(f"{path!r} is damaged: storage {key[:100]!r} has two sizes")
        return view


def _bytes(file: ArrayFile, record: Checksum, checked: bool) -> memoryview:
    # Of the mapping: a pickle can be as long as the file.
    if checked:
        record.check(file)
    return memoryview(file.map)[record.offset : record.offset + record.size]


# -- the zip file ----------------------------------------------------------------------------------------------------


def _records(file: ArrayFile, budget: Budget) -> dict[str, Checksum]:
    """Each record by its name, in the order of the central directory."""
    start, size, count = _directory(file)
    # A central header has 46 bytes at least.
    if count * _CENTRAL.size > size:
        raise FileFormatError(f"{file.path!r} is damaged: {count} records do not fit into its directory")
    budget.spend(size + count * _ENTRY_BYTES)
    entries = _entries(file, file.read(start, size), count)
    records: dict[str, Checksum] = {}
    ends = [(entry.header, _place(file, entry, start), entry) for entry in entries]
    for _, offset, entry in ends:
        if entry.name in records:
            raise FileFormatError(f"{file.path!r} is damaged: it has two records {entry.name!r}")
        records[entry.name] = Checksum(offset, entry.size, entry.crc, entry.name)
    last = 0
    for header, offset, entry in sorted(ends, key=lambda item: item[:2]):
        if header < last:
            raise FileFormatError(f"{file.path!r} is damaged: its record {entry.name!r} overlaps another")
        last = offset + entry.size
    return records


def _directory(file: ArrayFile) -> tuple[int, int, int]:
    """Where the central directory starts, its length, and the number of its entries."""
    path = file.path
    tail_start = max(0, file.size - _END.size - 0xFFFF)
    tail = file.read(tail_start, file.size - tail_start)
    at = tail.rfind(b"PK\x05\x06")
    while at >= 0:
        if len(tail) - at >= _END.size and _END.unpack_from(tail, at)[-1] == len(tail) - at - _END.size:
            break
        at = tail.rfind(b"PK\x05\x06", 0, at)
    else:
        raise FileFormatError(f"{path!r} is cut off or damaged: a zip file's directory is at its end, and is not there")
    _, disk, disk_start, here, count, size, start, _ = _END.unpack_from(tail, at)
    end = tail_start + at
    if end >= _END64_PLACE.size and file.read(end - _END64_PLACE.size, 4) == b"PK\x06\x07":
        place = file.read(end - _END64_PLACE.size, _END64_PLACE.size)
        _, disk, end, disks = _END64_PLACE.unpack(place)
        fields = file.read(end, _END64.size) if end < file.size else b""
        if len(fields) < _END64.size or fields[:4] != b"PK\x06\x06" or disks > 1:
            raise FileFormatError(f"{path!r} is damaged: its zip64 directory is not where it should be")
        _, _, _, _, disk, disk_start, here, count, size, start = _END64.unpack(fields)
    if disk or disk_start or here != count:
        raise FileFormatError(f"{path!r} is damaged, or one part of a zip file of several")
    if start + size != end:
        raise FileFormatError(f"{path!r} is damaged: its zip directory is not where it should be")
    return start, size, count


def _entries(file: ArrayFile, data: bytes, count: int) -> list[_Entry]:
    path, at, out, compressed = file.path, 0, [], None
    for _ in range(count):
        if len(data) - at < _CENTRAL.size or data[at : at + 4] != b"PK\x01\x02":
            raise FileFormatError(f"{path!r} is damaged: its zip directory has {count} entries, not all of them there")
        _, _, _, flags, method, _, _, crc, packed, size, n, m, k, disk, _, _, header = _CENTRAL.unpack_from(data, at)
        at += _CENTRAL.size
        raw, extra = data[at : at + n], data[at + n : at + n + m]
        at += n + m + k
        name = _name(path, raw)
        if flags & 1:
            raise FileFormatError(f"{path!r}: its record {name!r} is encrypted")
        compressed = name if method else compressed
        size, packed, header = _wide(path, name, extra, size, packed, header)
        if (size != packed and not method) or disk:
            raise FileFormatError(f"{path!r} is damaged: its record {name!r} has two sizes")
        out.append(_Entry(name, header, size, crc))
    if at != len(data):
        raise FileFormatError(f"{path!r} is damaged: its zip directory has more than {count} entries")
    names = {entry.name.partition("/")[2] for entry in out}
    what = next((what for name, what in _OTHERS.items() if name in names), None)
    if what is not None:
        raise FileFormatError(
            f"{path!r} is {what}, which holds code: load it with torch and save its tensors, "
            "`torch.save(model.state_dict(), path)`"
        )
    if compressed is not None:
        raise FileFormatError(
            f"{path!r}: its record {compressed!r} is compressed, which torch.save never does: unpack the file, and "
            "pack it again without compression (`zip -0 -r`)"
        )
    return out


def _name(path: str, raw: bytes) -> str:
    try:
        name = raw.decode()
    except UnicodeDecodeError:
        raise FileFormatError(f"{path!r} is damaged: the name of a record is no text") from None
    parts = name.removesuffix("/").split("/")
    if ".." in parts or "" in parts or "\\" in name or ":" in parts[0] or "\0" in name:
        raise FileFormatError(f"{path!r} is refused: a record's name, {name[:200]!r}, leads out of the file")
    return name


def _wide(path: str, name: str, extra: bytes, *fields: int) -> list[int]:
    """The fields (size, packed size, header's place); those that are 2**32 - 1 stand in the zip64 extra."""
    out, wide, at = list(fields), b"", 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, at)
        if kind == 1:
            wide = extra[at + 4 : at + 4 + length]
            break
        at += 4 + length
    for i, value in enumerate(fields):
        if value == 0xFFFFFFFF:
            if len(wide) < 8:
                raise FileFormatError(f"{path!r} is damaged: the size of its record {name!r} is not there")
            out[i], wide = int.from_bytes(wide[:8], "little"), wide[8:]
    return out


def _place(file: ArrayFile, entry: _Entry, limit: int) -> int:
    """Where the record's bytes start: behind its local header, which must agree with the directory."""
    raw = entry.name.encode()
    local = file.read(entry.header, _LOCAL.size + len(raw)) if entry.header < limit else b""
    if len(local) == _LOCAL.size + len(raw):
        signature, _, _, method, _, _, _, _, _, n, m = _LOCAL.unpack_from(local)
        start = entry.header + _LOCAL.size + n + m
        if signature == b"PK\x03\x04" and not method and local[_LOCAL.size :] == raw and n == len(raw):
            if start + entry.size <= limit:
                return start
    raise FileFormatError(
        f"{file.path!r} is cut off or damaged: its record {entry.name!r} is not where its zip directory says"
    )

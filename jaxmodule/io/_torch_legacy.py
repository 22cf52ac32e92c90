"""The formats that torch wrote before 1.6: pickles with the storages behind them, and before 0.1.10 a tar file.

Neither has checksums: a bit that flipped in a tensor's data, or in a name, is not noticed. What is damaged in the
structure is. The data of both is little-endian on every machine.
"""

import struct
from typing import Any

from ._pickle_machine import Budget, Known
from ._tar import Member, members
from ._torch_names import check_plain, unpickler
from ._torch_tensors import Storage, StorageType, View, tensor
from ._unpickle import Unpickler
from .array_file import ArrayFile, FileArray
from .errors import FileFormatError

__all__ = ["is_tar", "read", "read_tar"]

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_TAR_NAMES = ("sys_info", "pickle", "tensors", "storages")


def is_tar(head: bytes) -> bool:
    """Do these first bytes begin a tar file?"""
    return head[257:262] == b"ustar"


def read(file: ArrayFile) -> Any:
    """The object in a file of `torch.save(..., _use_new_zipfile_serialization=False)`."""
    budget = Budget(file.path, file.size)
    storages = _Storages(file)
    reader = unpickler(file, memoryview(file.map), budget, storages.find)
    magic, at = reader.load(0)
    if type(magic) is not int or magic != _MAGIC:
        raise FileFormatError(f"{file.path!r} is a pickle, but not of torch.save: save it with torch.save, or as .npz")
    protocol, at = reader.load(at)
    if type(protocol) is not int or protocol != _PROTOCOL:
        raise FileFormatError(f"{file.path!r} is damaged, or of a version of torch that is unknown")
    _, at = reader.load(at)  # of the machine; the data is little-endian on all of them
    out, at = reader.load(at)
    pickled = at
    keys, at = reader.load(at)
    if type(keys) is not list or not all(type(key) is str for key in keys) or sorted(keys) != sorted(storages.found):
        raise FileFormatError(f"{file.path!r} is damaged: the list of its storages is not that of its tensors'")
    for key in keys:
        at = _place(storages.found[key], at)
    if at != file.size:
        raise FileFormatError(f"{file.path!r} is damaged: {file.size - at} bytes follow its last storage")
    check_plain(file.path, out, budget, pickled)
    return out


def _place(storage: Storage, at: int) -> int:
    """The storage's number of elements stands at `at`, its data behind that; gives where the data ends."""
    file = storage.file
    count = int.from_bytes(file.read(at, 8), "little")
    end = at + 8 + storage.nbytes
    if end > file.size:
        raise FileFormatError(f"{file.path!r} is cut off: {end} bytes expected, {file.size} there")
    if count != storage.numel or storage.placed:
        raise FileFormatError(
            f"{file.path!r} is damaged: storage {storage.key[:100]!r} has another size, or is twice there"
        )
    storage.place(at + 8)
    return end


class _Storages:
    """Gives the storage, or part of one, of a persistent id."""

    def __init__(self, file: ArrayFile) -> None:
        self.file = file
        self.found: dict[str, Storage] = {}

    def find(self, name: Any) -> View:
        path = self.file.path
        if type(name) is tuple and name and name[0] == "module":
            raise FileFormatError(
                f"{path!r} is refused: it holds a whole model, which is code; save `model.state_dict()` with torch"
            )
        if type(name) is not tuple or len(name) != 6 or name[0] != "storage":
            raise FileFormatError(f"{path!r} is refused: its pickle refers to something that is no storage")
        _, kind, key, _, numel, part = name
        if not isinstance(kind, StorageType) or type(key) is not str or type(numel) is not int or numel < 0:
            raise FileFormatError(f"{path!r} is damaged: its pickle has a storage without type, name or size")
        storage = self.found.setdefault(key, Storage(self.file, key, kind, numel))
        if storage.kind is not kind or storage.numel != numel:
            raise FileFormatError(f"{path!r} is damaged: storage {key[:100]!r} has two sizes or types")
        if part is None:
            return View(storage, 0, numel)
        if type(part) is not tuple or len(part) != 3 or not all(type(n) is int for n in part[1:]):
            raise FileFormatError(f"{path!r} is damaged: part of storage {key[:100]!r} is nowhere")
        return View(storage, part[1], part[2])


# -- tar -------------------------------------------------------------------------------------------------------------


def read_tar(file: ArrayFile) -> Any:
    """The object in a tar file of torch 0.1."""
    found = members(file, _TAR_NAMES)
    missing = [name for name in _TAR_NAMES[1:] if name not in found]
    if missing:
        raise FileFormatError(f"{file.path!r} is a tar file, but not of torch.save: it has no {', '.join(missing)}")
    budget = Budget(file.path, file.size)
    tar = _Tar(file, budget)
    tar.read_storages(found["storages"])
    tar.read_tensors(found["tensors"])
    member = found["pickle"]
    out, at = tar.reader(member, tar.find).load(member.start)
    if at != member.end:
        raise FileFormatError(f"{file.path!r} is damaged: {member.end - at} bytes follow the end of its pickle")
    check_plain(file.path, out, budget, member.end - member.start)
    return out


class _Tar:
    """The storages and tensors of a tar file, by their numbers."""

    def __init__(self, file: ArrayFile, budget: Budget) -> None:
        self.file = file
        self.budget = budget
        self.storages: dict[int, View] = {}
        self.tensors: dict[int, FileArray] = {}

    def reader(self, member: Member, persistent: Any = None) -> Unpickler:
        data = memoryview(self.file.map)[: member.end]
        return unpickler(self.file, data, self.budget, persistent or self._nothing)

    def find(self, name: Any) -> Any:
        if type(name) is tuple:
            raise FileFormatError(
                f"{self.file.path!r} is refused: it holds a whole model, which is code; save its state_dict with torch"
            )
        text = str(name) if type(name) is int and 0 <= name < 2**64 else name
        number = int(text) if type(text) is str and text.isdecimal() and len(text) < 21 else -1
        found = self.tensors.get(number, self.storages.get(number))
        if found is None:
            self.damaged("its pickle refers to a tensor that is not there")
        return found

    def read_storages(self, member: Member) -> None:
        reader = self.reader(member)
        count, at = reader.load(member.start)
        for _ in range(self._count(count, member)):
            entry, at = reader.load(at)
            if type(entry) is not tuple or len(entry) != 3:
                self.damaged("a storage has no number")
            key, _, kind = entry
            size = int.from_bytes(self._take(member, at, 8), "little")
            if type(key) is not int or key in self.storages or not isinstance(kind, StorageType):
                self.damaged("a storage has no number, or another one's, or no type")
            storage = Storage(self.file, str(key), kind, size)
            at += 8
            if storage.nbytes > member.end - at:
                raise FileFormatError(
                    f"{self.file.path!r} is cut off or damaged: storage {key} is larger than the file"
                )
            storage.place(at)
            self.storages[key] = View(storage, 0, size)
            at += storage.nbytes
        views, at = reader.load(at)
        if at != member.end or type(views) is not list:
            self.damaged("its storages do not end where they should")
        for view in views:
            if type(view) not in (tuple, list) or len(view) != 4 or not all(type(n) is int for n in view):
                self.damaged("part of a storage is nowhere")
            key, root, offset, size = view
            if root not in self.storages or key in self.storages:
                self.damaged("part of a storage is of one that is not there")
            parent = self.storages[root]
            self.storages[key] = View(parent.storage, parent.first + offset, size)

    def read_tensors(self, member: Member) -> None:
        reader = self.reader(member)
        count, at = reader.load(member.start)
        for _ in range(self._count(count, member)):
            entry, at = reader.load(at)
            if type(entry) is not tuple or len(entry) != 3:
                self.damaged("a tensor has no number")
            key, root, kind = entry
            if type(key) is not int or key in self.tensors or not isinstance(kind, Known):
                self.damaged("a tensor has no number, or another one's, or no type")
            (dims,) = struct.unpack("<i", self._take(member, at, 4))
            if not 0 <= dims <= 64:
                self.damaged(f"a tensor has {dims} dimensions")
            fields = struct.unpack(f"<{2 * dims + 1}q", self._take(member, at + 8, 16 * dims + 8))
            at += 16 + 16 * dims
            view = self.storages.get(root) if type(root) is int else None
            if view is None:
                self.damaged("a tensor has no storage")
            shape, strides, offset = fields[:dims], fields[dims:-1], fields[-1]
            self.tensors[key] = tensor(self.budget, view, offset, shape, strides)
        if at != member.end:
            self.damaged("its tensors do not end where they should")

    def _count(self, count: Any, member: Member) -> int:
        if type(count) is not int or not 0 <= count <= member.end - member.start:
            self.damaged("the number of its storages or tensors is none")
        return count

    def _take(self, member: Member, at: int, size: int) -> bytes:
        if at + size > member.end:
            raise FileFormatError(f"{self.file.path!r} is cut off: its storages or tensors do not end")
        return self.file.read(at, size)

    def _nothing(self, _: Any) -> Any:
        self.damaged("there is a reference to a tensor where none can be")

    def damaged(self, what: str) -> Any:
        raise FileFormatError(f"{self.file.path!r} is damaged: {what}")

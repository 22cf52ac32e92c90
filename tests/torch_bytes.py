"""Files of torch made by hand: what torch cannot write, or would not."""

import io
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Mapping
from typing import Any

MAGIC = 0x1950A86A20F9469CFC6C


class Name:
    """Pickled as a reference to `module.name`, which need not exist."""

    def __init__(self, full: str) -> None:
        self.full = full


class Call:
    """Pickled as a call of a name with arguments."""

    def __init__(self, full: str, *args: Any) -> None:
        self.full = full
        self.args = args


class Persistent:
    def __init__(self, *key: Any) -> None:
        self.key = key


def dump(obj: Any) -> bytes:
    """A pickle of protocol 2, without its head and end."""
    if isinstance(obj, Name):
        module, _, name = obj.full.rpartition(".")
        return f"c{module}\n{name}\n".encode()
    if isinstance(obj, Call):
        return dump(Name(obj.full)) + dump(obj.args) + b"R"
    if isinstance(obj, Persistent):
        return dump(obj.key[0] if len(obj.key) == 1 else obj.key) + b"Q"
    if isinstance(obj, dict):
        return b"}(" + b"".join(dump(k) + dump(v) for k, v in obj.items()) + b"u"
    if isinstance(obj, list):
        return b"](" + b"".join(map(dump, obj)) + b"e"
    if isinstance(obj, tuple):
        return b"(" + b"".join(map(dump, obj)) + b"t"
    return pickle.dumps(obj, 2)[2:-1]


def whole(obj: Any) -> bytes:
    return b"\x80\x02" + dump(obj) + b"."


def tensor(
    key: str = "0",
    numel: int = 6,
    offset: int = 0,
    size: tuple[int, ...] = (6,),
    stride: tuple[int, ...] = (1,),
    kind: str = "torch.FloatStorage",
    dtype: str | None = None,
    part: tuple[Any, ...] | None = (),
    bits: Any = None,
) -> Call:
    """A tensor; with `part`, None or a view's, as the legacy format has it."""
    storage = Persistent("storage", Name(kind), key, "cpu", numel, *(() if part == () else (part,)))
    args: list[Any] = [storage, offset, size, stride, False, Call("collections.OrderedDict")]
    if dtype is not None:
        args.append(Name(dtype))
    if bits is not None:
        args.append(bits)
    return Call(f"torch._utils._rebuild_tensor_v{2 if dtype is None else 3}", *args)


def zipped(
    pickled: bytes, records: Mapping[str, bytes] | None = None, top: str = "archive", compress: int = zipfile.ZIP_STORED
) -> bytes:
    """A zip file with this `data.pkl`; a name with a / in front is taken as it is."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compress) as file:
        for name, data in {"data.pkl": pickled, "byteorder": b"little", "version": b"3\n", **(records or {})}.items():
            file.writestr(name[1:] if name.startswith("/") else f"{top}/{name}", data)
    return out.getvalue()


def legacy(obj: Any, keys: list[str], storages: Mapping[str, tuple[int, bytes]], magic: int = MAGIC) -> bytes:
    """A file of torch before 1.6: `storages` has the number of elements and the bytes of each key."""
    head = b"".join(map(whole, [magic, 1001, {"little_endian": True}, obj, keys]))
    return head + b"".join(struct.pack("<q", n) + data for n, data in (storages[key] for key in keys))


def tarred(members: Mapping[str, bytes], form: int = tarfile.PAX_FORMAT, mtime: float = 1.5) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:", format=form) as file:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(data), mtime
            file.addfile(info, io.BytesIO(data))
    return out.getvalue()


def tar_members(
    obj: Any,
    storages: Mapping[int, tuple[str, int, bytes]],
    tensors: Mapping[int, tuple[int, tuple[int, ...], tuple[int, ...], int]],
    views: tuple[tuple[int, int, int, int], ...] = (),
) -> dict[str, bytes]:
    """The members of a file of torch 0.1: storages by number (type, elements, bytes), tensors (storage, size, ...)."""
    data = whole(len(storages))
    for key, (kind, count, raw) in storages.items():
        data += whole((key, "cpu", Name(f"torch.{kind}Storage"))) + struct.pack("<q", count) + raw
    data += whole(list(views))
    table = whole(len(tensors))
    for key, (root, size, stride, offset) in tensors.items():
        table += whole((key, root, Name("torch.FloatTensor")))
        table += struct.pack(f"<ii{2 * len(size) + 1}q", len(size), 0, *size, *stride, offset)
    return {"sys_info": whole({}), "pickle": whole(obj), "tensors": table, "storages": data}

"""Several safetensors files and an index, as Hugging Face's hub has large models: one folder, or the index's path.

*Shard*: one of the files. *Index*: `name.safetensors.index.json`, which says for every tensor which shard it is in.

An index names the shards that belong to it, and it is replaced when all of them are on disk. So shards that a failed
save has left behind are never read, and a save over an earlier one gives its shards other names: until the new index is
there, the old one with all of its shards is.
"""

import json
import os
import re
import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

from . import safetensors
from .array_file import FileArray
from .atomic import Replacing, sync_folder
from .checks import brief, read_json
from .errors import FileFormatError

__all__ = ["read", "read_metadata", "shard_bytes", "write"]

_INDEX = ".safetensors.index.json"
_DEFAULT = "5GB"  # Hugging Face's
_UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}


# -- writing ---------------------------------------------------------------------------------------------------------


def write(
    obj: Mapping[str, Any],
    path: str,
    metadata: Mapping[str, str] | None = None,
    max_shard_size: int | str | None = None,
) -> None:
    """Write `obj` into the folder `path`, or beside the index `path`.

    Args:
        obj: names and arrays, as `safetensors.write` takes them.
        path: a folder, made where there is none, for `model.safetensors.index.json` in it; or the path of an index.
        metadata: text for the index.
        max_shard_size: the most bytes of tensors in a shard; a larger tensor has one to itself. A number, or text such
            as "500MB" or "2GiB".
    """
    limit = shard_bytes(_DEFAULT if max_shard_size is None else max_shard_size)
    stored, aliases = safetensors.distinct(obj, path)
    own = safetensors.own_metadata(obj, path, metadata, aliases)
    folder, index = _target(path)
    parts = _split(stored, limit)
    made = not os.path.isdir(folder)
    os.makedirs(folder, exist_ok=True)
    names = _shard_names(index, len(parts))
    written: list[str] = []
    try:
        for name, part in zip(names, parts, strict=True):
            written.append(os.path.join(folder, name))
            safetensors.write_stored(part, written[-1], {"format": "pt"})
        _write_index(index, dict(zip(names, parts, strict=True)), own)
    except BaseException:
        for file in filter(os.path.exists, written):
            os.unlink(file)
        if made and not os.listdir(folder):
            os.rmdir(folder)
        raise
    _remove_stale(index, names)


def shard_bytes(size: int | str) -> int:
    """What `max_shard_size` says, in bytes.

    Args:
        size: a positive number of bytes, or text: "500MB" (decimal, as Hugging Face counts) or "2GiB" (binary).

    Example:
        >>> shard_bytes("1.5GB"), shard_bytes("2 MiB"), shard_bytes(10)
        (1500000000, 2097152, 10)
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?) *([KMGT]i?B)", size, re.IGNORECASE) if isinstance(size, str) else None
    count = int(float(found[1]) * _UNITS[found[2].upper()]) if found else size
    if not isinstance(count, int) or isinstance(count, bool) or count <= 0:
        raise ValueError(f"max_shard_size must be a positive number of bytes or text such as '5GB', got {size!r}")
    return count


def _target(path: str) -> tuple[str, str]:
    """The folder to write to, and the path of the index in it."""
    if path.lower().endswith(".index.json") and not os.path.isdir(path):
        if not path.endswith(_INDEX):
            raise FileFormatError(f"{path!r}: the name of an index ends in {_INDEX}")
        return os.path.dirname(path) or ".", path
    alone = os.path.join(path, "model.safetensors")
    if os.path.lexists(alone):
        raise FileExistsError(
            f"{alone!r} is there already, and loaders would read it in place of shards beside it: move it away, or "
            "save to another folder"
        )
    return path, alone + ".index.json"


def _split(stored: dict[str, Any], limit: int) -> list[dict[str, Any]]:
    parts: list[dict[str, Any]] = [{}]
    room = limit
    for name, tensor in stored.items():
        size = safetensors.nbytes(tensor)
        if size > room and parts[-1]:
            parts.append({})
            room = limit
        parts[-1][name] = tensor
        room -= size
    return parts


def _shard_names(index: str, count: int) -> list[str]:
    """Names that the index in place, if there is one, does not refer to."""
    stem = os.path.basename(index).removesuffix(_INDEX)
    names = [f"{stem}-{i:05}-of-{count:05}.safetensors" for i in range(1, count + 1)]
    try:
        in_use = set(_Index(index).files)
    except (FileNotFoundError, FileFormatError):
        return names  # what is there could not be read before either
    if in_use.isdisjoint(names):
        return names
    token = os.urandom(4).hex()
    return [f"{stem}-{token}-{i:05}-of-{count:05}.safetensors" for i in range(1, count + 1)]


def _write_index(index: str, shards: dict[str, dict[str, Any]], own: dict[str, str]) -> None:
    total = sum(safetensors.nbytes(tensor) for part in shards.values() for tensor in part.values())
    text = {key: value for key, value in own.items() if key != "format"}
    weight_map = {name: file for file, part in shards.items() for name in part}
    with Replacing(index) as file:
        content = {"metadata": {**text, "total_size": total}, "weight_map": weight_map}
        file.write(json.dumps(content, indent=2, ensure_ascii=False).encode() + b"\n")


def _remove_stale(index: str, current: list[str]) -> None:
    """Remove the shards of earlier saves of the same name, finished or not."""
    folder, name = os.path.split(index)
    stem = re.escape(name.removesuffix(_INDEX))
    pattern = re.compile(rf"{stem}(-[0-9a-f]{{8}})?-\d{{5}}-of-\d{{5}}\.safetensors")
    for file in os.listdir(folder or "."):
        if pattern.fullmatch(file) and file not in current:
            os.unlink(os.path.join(folder, file))
    sync_folder(folder or ".")


# -- reading ---------------------------------------------------------------------------------------------------------


class _Index:
    """An index file, checked.

    Attributes:
        files: the shards' names.
        weight_map: for each tensor its shard's name.
        metadata: what else it says.
    """

    def __init__(self, path: str) -> None:
        if os.path.getsize(path) > safetensors.MAX_HEADER:
            raise FileFormatError(f"{path!r} is too large for an index of tensors")
        with open(path, "rb") as file:
            content = read_json(path, "index", file.read(safetensors.MAX_HEADER))
        weight_map, metadata = content.get("weight_map"), content.get("metadata") or {}
        if not isinstance(weight_map, dict) or not isinstance(metadata, dict):
            raise FileFormatError(f"{path!r} is no index of tensors: it has no 'weight_map'")
        for name, file in weight_map.items():
            # Only files beside the index: what comes from elsewhere must not choose which file is read.
            if not isinstance(file, str) or not file or re.search(r"[/\\\0:]", file) or file in (".", ".."):
                raise FileFormatError(
                    f"{path!r} says that {name!r} is in {brief(file)}, which is not the name of a file beside it"
                )
        self.files = list(dict.fromkeys(weight_map.values()))
        self.weight_map: dict[str, str] = weight_map
        self.metadata: dict[str, Any] = metadata


def read(path: str, read_file: Callable[[str], Any] = safetensors.read) -> "OrderedDict[str, FileArray]":
    """The tensors of the shards, in the order of the index.

    Args:
        path: the folder or the index.
        read_file: how to read one shard.
    """
    path, is_index = find(path)
    if not is_index:
        return read_file(path)
    index = _Index(path)
    folder = os.path.dirname(path)
    missing = [file for file in index.files if not os.path.isfile(os.path.join(folder, file))]
    if missing:
        raise FileFormatError(
            f"{path!r} is incomplete: {len(missing)} of its {len(index.files)} shards are missing: {', '.join(missing)}"
        )
    shards = {file: read_file(os.path.join(folder, file)) for file in index.files}
    out: OrderedDict[str, FileArray] = OrderedDict()
    for name, file in index.weight_map.items():
        if not isinstance(shards[file], Mapping) or name not in shards[file]:
            raise FileFormatError(f"{path!r} says that {name!r} is in {file!r}, but it is not")
        out[name] = shards[file][name]
    _check_total(path, index, out)
    text = {key: value for key, value in index.metadata.items() if isinstance(value, str)}
    return safetensors.with_own_metadata(out, path, text)


def read_metadata(path: str) -> dict[str, str]:
    """The index's metadata as text, without what `write` puts there itself."""
    path, is_index = find(path)
    if not is_index:
        return safetensors.read_metadata(path) if path.endswith(".safetensors") else {}
    found = _Index(path).metadata.items()
    return {
        key: value if isinstance(value, str) else json.dumps(value)
        for key, value in found
        if key != "total_size" and not key.startswith(safetensors.OURS)
    }


def find(path: str) -> tuple[str, bool]:
    """The index, or the only file, in a folder; a path that is no folder's as it is. And whether it is an index."""
    if not os.path.isdir(path):
        return path, True
    files = sorted(os.listdir(path))
    # In the order of Hugging Face's loaders.
    for name in ("model.safetensors", "model" + _INDEX):
        if name in files:
            return os.path.join(path, name), name.endswith(_INDEX)
    for suffix in (_INDEX, ".bin.index.json", ".safetensors"):
        found = [name for name in files if name.endswith(suffix) and not name.startswith(".")]
        if len(found) == 1:
            return os.path.join(path, found[0]), suffix.endswith(".json")
        if found:
            raise FileFormatError(
                f"{path!r} has no model.safetensors or model{_INDEX}, but several files that it could be: "
                f"{', '.join(found[:5])}. Give the path of one of them."
            )
    if "pytorch_model.bin" in files:
        return os.path.join(path, "pytorch_model.bin"), False
    raise FileFormatError(f"the folder {path!r} has no safetensors file or index of shards in it: {brief(files)}")


def _check_total(path: str, index: _Index, out: Mapping[str, FileArray]) -> None:
    stated = index.metadata.get("total_size")
    total = sum(getattr(array, "nbytes", 0) for array in {id(array): array for array in out.values()}.values())
    if stated is not None and stated != total:
        # Not an error: tools that convert models are known to leave the number of the original there.
        warnings.warn(
            f"{path!r} says that its tensors have {brief(stated)} bytes in all; they have {total}",
            UserWarning,
            stacklevel=2,
        )

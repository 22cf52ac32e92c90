"""The files of a checkpoint: written with their hashes, and told from altered ones by them.

*Block hash* of a file: the SHA-256 of the SHA-256s of its blocks of 4 MiB, so that all cores can work on one file. The
index, `checkpoint.json`, has the size and the block hash of each file, and ends with a hash of itself.
"""

import hashlib
import json
import os
import re
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from . import safetensors
from .array_file import ArrayFile
from .errors import FileFormatError

INDEX = "checkpoint.json"
FORMAT = "jaxmodule.checkpoint"
VERSION = 1
MAX_INDEX = 1 << 28  # bytes: far more than the numbers and names of a model; data belongs into arrays
BLOCK = 1 << 22
_DATA = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*\.safetensors")
_END = b',\n"sha256": "%s"}\n'


def workers() -> ThreadPoolExecutor:
    """Threads for hashing; SHA-256 runs without Python's lock."""
    return ThreadPoolExecutor(min(8, os.cpu_count() or 1), "jaxmodule-hash")


# -- files -----------------------------------------------------------------------------------------------------------


def pieces(path: str, arrays: Mapping[str, Any], versions: Any) -> Iterator[memoryview]:
    """The bytes of a safetensors file; arrays of another device are on the host one at a time."""
    state: Any = OrderedDict(arrays)
    state._metadata = versions
    stored, aliases = safetensors.distinct(state, path)
    dtypes = {name: safetensors._dtype_of(path, name, tensor) for name, tensor in stored.items()}
    order = sorted(stored, key=lambda name: -dtypes[name].itemsize)
    header: dict[str, Any] = {"__metadata__": safetensors.own_metadata(state, path, None, aliases)}
    end = 0
    for name in order:
        begin, end = end, end + safetensors.nbytes(stored[name])
        shape = list(stored[name].shape)
        header[name] = {"dtype": safetensors._NAMES[dtypes[name]], "shape": shape, "data_offsets": [begin, end]}
    blob = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    blob += b" " * (-len(blob) % 8)
    yield memoryview(len(blob).to_bytes(8, "little") + blob)
    yield from (safetensors.host_bytes(stored[name]) for name in order)


def write_file(path: str, chunks: Iterable[memoryview], pool: ThreadPoolExecutor) -> dict[str, Any]:
    """Write a file, synced; its size and block hash. They are of what is in memory, not of what the disk made of it."""
    blocks, room, size = [hashlib.sha256()], BLOCK, 0
    with open(path, "xb", buffering=1 << 20) as file:
        for chunk in chunks:
            running: list[Future[None]] = []
            data = chunk
            while len(data):
                piece, data = data[:room], data[room:]
                running.append(pool.submit(blocks[-1].update, piece))
                room -= len(piece)
                if not room:
                    blocks.append(hashlib.sha256())
                    room = BLOCK
            file.write(chunk)
            for future in running:  # a block's pieces are hashed in order, and one chunk is in memory at a time
                future.result()
            size += len(chunk)
        file.flush()
        os.fsync(file.fileno())
    return {"bytes": size, "sha256": _joined(block.digest() for block in blocks)}


def block_hash(file: ArrayFile, pool: ThreadPoolExecutor) -> str:
    """The block hash of an open file."""
    local = threading.local()

    def one(start: int) -> bytes:
        if not hasattr(local, "buffer"):
            local.buffer = memoryview(bytearray(BLOCK))
        block = local.buffer[: min(BLOCK, file.size - start)]
        file.read_into(start, block)
        return hashlib.sha256(block).digest()

    return _joined(pool.map(one, range(0, file.size + 1, BLOCK)))


def _joined(digests: Iterable[bytes]) -> str:
    return hashlib.sha256(b"".join(digests)).hexdigest()


# -- checkpoint.json ---------------------------------------------------------------------------------------------------


def write_index(folder: str, document: Mapping[str, Any]) -> None:
    """Write `checkpoint.json` with a hash of itself at its end, synced."""
    text = json.dumps(document, separators=(",\n", ": "), allow_nan=False).encode()[:-1]
    if len(text) > MAX_INDEX:
        raise ValueError(
            f"{folder!r}: what is not in arrays takes {len(text) >> 20} MiB as JSON, more than {MAX_INDEX >> 20} MiB. "
            "Give long lists of numbers as arrays."
        )
    with open(os.path.join(folder, INDEX), "xb") as file:
        file.write(text + _END % hashlib.sha256(text).hexdigest().encode())
        file.flush()
        os.fsync(file.fileno())


def read_index(folder: str, step: int) -> dict[str, Any]:
    """The contents of a checkpoint's `checkpoint.json`; everything but the trees of its contents is checked.

    Raises:
        FileFormatError: it is not as it was written, or not of this step.
        OSError: it cannot be read.
    """
    path = os.path.join(folder, INDEX)
    file = ArrayFile(path)
    if file.size > MAX_INDEX + 1000:
        raise FileFormatError(f"{path!r} is damaged: it has {file.size} bytes")
    blob = file.read(0, file.size)
    end = len(_END % (b"0" * 64))
    if blob[-end:] != _END % hashlib.sha256(blob[:-end]).hexdigest().encode():
        raise FileFormatError(f"{path!r} is cut off or was altered: its hash is not the one that it was written with")
    try:
        document = json.loads(blob)
        known = document["format"] == FORMAT
        version, found, files, contents = (document[key] for key in ("version", "step", "files", "contents"))
        if not known or not isinstance(contents, dict) or not isinstance(document.get("versions"), dict):
            raise ValueError("not the index of a checkpoint")
        if version != VERSION:
            raise FileFormatError(f"{path!r} is of format version {version!r}; this jaxmodule reads {VERSION}")
        for name, entry in files.items():
            if not _DATA.fullmatch(name) or type(entry["bytes"]) is not int or not isinstance(entry["sha256"], str):
                raise ValueError(f"its entry of the file {name[:100]!r} is none")
    except FileFormatError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise FileFormatError(f"{path!r} is damaged: {type(error).__name__}: {error}") from error
    if found != step:
        raise FileFormatError(f"{path!r} is of step {found!r}: the folder has another's name")
    return document


def check_sizes(folder: str, document: Mapping[str, Any]) -> None:
    """Raise FileFormatError or OSError unless every file is there, in its size."""
    for name, entry in document["files"].items():
        path = os.path.join(folder, name)
        size = os.stat(path).st_size
        if size != entry["bytes"]:
            what = "is cut off" if size < entry["bytes"] else "was altered"
            raise FileFormatError(f"{path!r} {what}: it was written with {entry['bytes']} bytes and has {size}")

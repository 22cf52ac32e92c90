"""Files: `save`, `load` and `load_metadata`, for safetensors, PyTorch's own files, flax's msgpack and numpy's npz."""

import os
from collections.abc import Iterator, Mapping
from typing import Any

import jax

from ..core.box import Box
from ..core.errors import AbstractError
from ..core.fill import Placement
from . import safetensors
from .array_file import FileArray, to_jax
from .checkpoint import (
    Checkpoint,
    CheckpointWarning,
    latest_checkpoint,
    list_checkpoints,
    load_checkpoint,
    save_checkpoint,
)
from .errors import FileFormatError
from .formats import Format, by_content, by_name

__all__ = [
    "Checkpoint",
    "CheckpointWarning",
    "FileArray",
    "FileFormatError",
    "latest_checkpoint",
    "list_checkpoints",
    "load",
    "load_checkpoint",
    "load_metadata",
    "save",
    "save_checkpoint",
]

_NOT_JAX = "SUmM"  # kinds of numpy's dtypes that stay numpy arrays: text and times


def save(
    obj: Any,
    path: str | os.PathLike[str],
    metadata: Mapping[str, str] | None = None,
    *,
    format: Format | None = None,
    max_shard_size: int | str | None = None,
) -> None:
    """Write a state dict to a file that PyTorch, Hugging Face, flax or numpy read too.

    The file appears whole or not at all: a failure leaves what was there before. What `obj` holds is not changed.

    Args:
        obj: `module.state_dict()`, say: a flat dict of names and arrays (jax, numpy or torch), Parameters or Buffers.
            PyTorch's format and msgpack also take nested dicts and lists, numbers and text.
        path: the file's name, or a folder for shards. Its suffix tells the format: `.safetensors`;
            `.safetensors.index.json` or a folder (safetensors in shards); `.pt`, `.pth`, `.bin`, `.ckpt` (PyTorch's);
            `.npz`; `.msgpack`, `.flax`.
        metadata: text to keep in a safetensors file, for `load_metadata`.
        format: "safetensors", "sharded", "torch", "npz" or "msgpack", for a name that does not tell.
        max_shard_size: write a folder of shards with at most so many bytes of tensors each, "5GB" say.

    Raises:
        FileFormatError: for a name that tells no format, and no `format`.
        TypeError: for a value that the format does not have.
        AbstractError: for a model that has no values yet (`jm.device("meta")`).
        ValueError: for an argument that the format has no use for.
        OSError: the disk is full, the folder may not be written to.

    Note:
        An array under two names (tied weights) is stored once in safetensors and PyTorch's format, twice in the others.

    Example:
        >>> import os, tempfile, jax.numpy as jnp
        >>> path = os.path.join(tempfile.mkdtemp(), "a.safetensors")
        >>> save({"weight": jnp.arange(3.0)}, path, {"epoch": "7"})
        >>> load(path)["weight"].tolist(), load_metadata(path)
        ([0.0, 1.0, 2.0], {'epoch': '7'})
    """
    name = os.fspath(path)
    kind = _kind_to_write(name, format, max_shard_size)
    if metadata is not None and kind not in ("safetensors", "sharded"):
        raise ValueError(f"{name!r}: a file in the format {kind!r} has no metadata; put them into a safetensors file")
    if kind not in ("torch", "msgpack") and not isinstance(obj, Mapping):
        hint = "; save its state_dict()" if hasattr(obj, "state_dict") else ""
        raise TypeError(
            f"{name!r}: the format {kind!r} holds a dict of names and arrays, not a {type(obj).__name__}{hint}"
        )
    if isinstance(obj, Mapping):
        values = {str(key): value.value if isinstance(value, Box) else value for key, value in obj.items()}
        abstract = [key for key, value in values.items() if isinstance(value, jax.ShapeDtypeStruct)]
        if abstract:
            raise AbstractError(abstract, f"{name!r} was to be written from a state dict")
    # Each format's reader is imported when it is needed: `import jaxmodule` pays for none.
    if kind == "safetensors":
        safetensors.write(obj, name, metadata)
    elif kind == "sharded":
        from . import sharded

        sharded.write(obj, name, metadata, max_shard_size)
    elif kind == "npz":
        from . import npz

        npz.write(obj, name)
    elif kind == "msgpack":
        from . import msgpack

        msgpack.write(obj, name)
    else:
        from . import torch_file

        torch_file.write(obj, name)


def _kind_to_write(path: str, kind: Format | None, max_shard_size: int | str | None) -> Format:
    named = by_name(path)
    if kind is None:
        folder = os.path.isdir(path) or (max_shard_size is not None and not os.path.splitext(path)[1])
        kind = "sharded" if folder else named
    if kind is None:
        raise FileFormatError(
            f"{path!r}: the suffix {os.path.splitext(path)[1]!r} tells no format. Give the file a name that ends in "
            ".safetensors, .pt, .npz or .msgpack, or say `format=`."
        )
    if kind not in ("safetensors", "sharded", "torch", "npz", "msgpack"):
        raise ValueError(f"format must be 'safetensors', 'sharded', 'torch', 'npz' or 'msgpack', got {kind!r}")
    if max_shard_size is not None and kind != "sharded":
        raise ValueError(
            f"{path!r}: max_shard_size splits safetensors files only: give the name of a folder, or of an index "
            "(model.safetensors.index.json)"
        )
    if kind == "sharded" and named not in ("sharded", None) and not os.path.isdir(path):
        raise ValueError(f"{path!r}: shards need the name of a folder, or of an index (model.safetensors.index.json)")
    return kind


def load(path: str | os.PathLike[str], *, device: Placement = None, mmap: bool = False) -> Any:
    """Read a file of arrays; which format it has is found from its content. No code in it is ever run.

    safetensors (one file, an index, a folder of shards), PyTorch's files (zip, the formats before 1.6), numpy's `.npz`
    and flax's msgpack.

    Args:
        path: the file's name, or a folder's.
        device: a device or sharding to put the arrays on, None for JAX's default device.
        mmap: leave the arrays in the file, as `FileArray`s: nothing is read until `load_state_dict` or numpy asks.

    Returns:
        What was saved, with jax arrays: an `OrderedDict` of names and arrays as `module.load_state_dict` takes it, for
        the formats that nest the nested dicts and lists. Where the file holds the version numbers of a module's
        `state_dict()`, they are its attribute `_metadata`. 64-bit values come as numpy arrays while JAX's x64 mode is
        off: JAX would cut them to 32 bits. Text in a `.npz` is numpy's too.

    Raises:
        FileNotFoundError: if there is no such file.
        FileFormatError: for a file that is of none of these formats, empty, cut off or damaged, names Python objects
            of other kinds than arrays and containers, or would take far more memory than it has bytes.
        ValueError: for `device` together with `mmap`.

    Example:
        >>> import os, tempfile, numpy as np
        >>> path = os.path.join(tempfile.mkdtemp(), "a.npz")
        >>> np.savez(path, weight=np.ones((2, 3), np.float32))
        >>> load(path)["weight"].shape, load(path, mmap=True)["weight"][0, :2].tolist()
        ((2, 3), [1.0, 1.0])
    """
    if mmap and device is not None:
        raise ValueError("mmap=True leaves the arrays in the file: where they go is told later, not by device=")
    found = _read(os.fspath(path))
    return found if mmap else _materialise(found, device)


def load_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """The text that `save` was given as `metadata`; {} for a format without any.

    Args:
        path: the file's name.

    Raises:
        FileNotFoundError: if there is no such file.
        FileFormatError: as `load`.
    """
    name = os.fspath(path)
    kind = by_content(name)
    if kind == "sharded":
        from . import sharded

        return sharded.read_metadata(name)
    return safetensors.read_metadata(name) if kind == "safetensors" else {}


def _read(path: str) -> Any:
    """What is in the file, with its arrays still in it."""
    kind = by_content(path)
    if kind == "safetensors":
        return safetensors.read(path)
    if kind == "sharded":
        from . import sharded

        return sharded.read(path, _read_shard)
    if kind == "npz":
        from . import npz

        return npz.read(path)
    if kind == "msgpack":
        from . import msgpack

        return msgpack.read(path)
    from . import torch_file

    return torch_file.read(path)


def _read_shard(path: str) -> Any:
    if by_content(path) == "sharded":
        raise FileFormatError(f"{path!r} is itself an index, and named as a shard of one")
    return _read(path)


def _materialise(found: Any, device: Placement) -> Any:
    """`found` with arrays in place of what is in files, one at a time, in the order of the data."""
    arrays: dict[Any, Any] = {}
    for array in sorted(_file_arrays(found), key=lambda array: (array.file.path, array.offset)):
        if array.identity not in arrays:
            host = array.read()
            arrays[array.identity] = host if host.dtype.kind in _NOT_JAX else to_jax(host, device)
            del host
    return _filled(found, arrays)


def _file_arrays(found: Any) -> Iterator[FileArray]:
    todo, seen = [found], set()
    while todo:
        item = todo.pop()
        if isinstance(item, FileArray):
            yield item
        elif isinstance(item, Mapping | list | tuple) and id(item) not in seen:
            seen.add(id(item))
            todo += item.values() if isinstance(item, Mapping) else item


def _filled(found: Any, arrays: dict[Any, Any]) -> Any:
    """Replace the leaves: in place in dicts and lists, which are the reader's own and may hold themselves."""
    seen: dict[int, Any] = {}
    todo: list[Any] = []

    def new(item: Any) -> Any:
        if isinstance(item, FileArray):
            return arrays[item.identity]
        if isinstance(item, tuple):
            parts = [new(part) for part in item]
            if all(a is b for a, b in zip(parts, item, strict=True)):
                return item
            return type(item)(*parts) if hasattr(item, "_fields") else tuple(parts)
        if isinstance(item, dict | list) and id(item) not in seen:
            seen[id(item)] = item
            todo.append(item)
        return item

    out = new(found)
    while todo:
        item = todo.pop()
        for key, value in list(item.items() if isinstance(item, dict) else enumerate(item)):
            item[key] = new(value)
    return out

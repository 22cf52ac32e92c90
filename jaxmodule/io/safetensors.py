"""The safetensors format: 8 bytes with the header's length, a JSON header (dtype, shape, place of each tensor), data.

Written and read here rather than through the `safetensors` package, so that tensors go to and from the file one by one
without a second copy: its readers give arrays that JAX copies once more (2x the file in memory), its writers want all
arrays on the host at once, and its numpy reader fails on float8. The tests read each side's files with the other.

*Alias*: a name whose tensor is stored under another name (tied weights). Aliases are in the file's metadata, so a file
without any is a plain one.
"""

import json
import math
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from ..core.box import Box
from .array_file import ArrayFile, FileArray
from .atomic import Replacing
from .checks import brief, byte_count, read_json
from .errors import FileFormatError

_DTYPES = {
    "BOOL": np.dtype(np.bool_),
    "U8": np.dtype(np.uint8),
    "I8": np.dtype(np.int8),
    "U16": np.dtype(np.uint16),
    "I16": np.dtype(np.int16),
    "U32": np.dtype(np.uint32),
    "I32": np.dtype(np.int32),
    "U64": np.dtype(np.uint64),
    "I64": np.dtype(np.int64),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "F8_E4M3FNUZ": np.dtype(ml_dtypes.float8_e4m3fnuz),
    "F8_E5M2FNUZ": np.dtype(ml_dtypes.float8_e5m2fnuz),
    "F8_E8M0": np.dtype(ml_dtypes.float8_e8m0fnu),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F32": np.dtype(np.float32),
    "F64": np.dtype(np.float64),
    "C64": np.dtype(np.complex64),
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
MAX_HEADER = 100_000_000  # the reference implementation's limit
OURS = "jaxmodule."  # what this library writes into a file's metadata for itself
_ALIASES = OURS + "aliases"
_VERSIONS = OURS + "state_dict_metadata"
# What torch's numpy bridge does not know goes through a view as bytes.
_TORCH_AS_BYTES = {
    "torch.bfloat16": _DTYPES["BF16"],
    "torch.float8_e4m3fn": _DTYPES["F8_E4M3"],
    "torch.float8_e5m2": _DTYPES["F8_E5M2"],
    "torch.float8_e4m3fnuz": _DTYPES["F8_E4M3FNUZ"],
    "torch.float8_e5m2fnuz": _DTYPES["F8_E5M2FNUZ"],
    "torch.float8_e8m0fnu": _DTYPES["F8_E8M0"],
}


# -- writing ---------------------------------------------------------------------------------------------------------


def write(obj: Mapping[str, Any], path: str, metadata: Mapping[str, str] | None = None) -> None:
    """Write `obj` to `path`, atomically."""
    stored, aliases = distinct(obj, path)
    write_stored(stored, path, own_metadata(obj, path, metadata, aliases))


def distinct(obj: Mapping[str, Any], path: str) -> tuple[dict[str, Any], dict[str, str]]:
    """The tensors to store, and the aliases: name → the name that its tensor is stored under.

    Raises for everything that cannot be saved.
    """
    aliases: dict[str, str] = {}
    stored: dict[str, Any] = {}
    first: dict[Any, str] = {}
    for name, value in obj.items():
        if not isinstance(name, str) or name == "__metadata__" or not _encodes(name):
            raise TypeError(f"{path!r}: {name!r} cannot be the name of a tensor in a safetensors file")
        tensor = value.value if isinstance(value, Box) else value
        _dtype_of(path, name, tensor)
        # Scalars are never aliases: counters often start as one shared constant, and other loaders know no aliases.
        home = first.setdefault(_identity(tensor), name) if len(tensor.shape) else name
        if home == name:
            stored[name] = tensor
        else:
            aliases[name] = home
    return stored, aliases


def write_stored(stored: Mapping[str, Any], path: str, metadata: Mapping[str, str]) -> None:
    """Write tensors that `distinct` has looked through."""
    dtypes = {name: _dtype_of(path, name, tensor) for name, tensor in stored.items()}
    # Largest elements first keeps every tensor at a multiple of its element's size, as the reference does.
    order = sorted(stored, key=lambda name: -dtypes[name].itemsize)
    offsets: dict[str, list[int]] = {}
    end = 0
    for name in order:
        begin, end = end, end + math.prod(stored[name].shape) * dtypes[name].itemsize
        offsets[name] = [begin, end]
    header: dict[str, Any] = {"__metadata__": metadata}
    for name, tensor in stored.items():
        header[name] = {"dtype": _NAMES[dtypes[name]], "shape": list(tensor.shape), "data_offsets": offsets[name]}
    blob = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    blob += b" " * (-len(blob) % 8)  # the reference implementation starts the data at a multiple of 8
    if len(blob) > MAX_HEADER:
        raise ValueError(f"{path!r}: a header of {len(blob)} bytes is more than the format has room for, {MAX_HEADER}")
    with Replacing(path) as file:
        file.write(len(blob).to_bytes(8, "little"))
        file.write(blob)
        for name in order:
            # One at a time, so that arrays on another device are on the host one at a time.
            file.write(host_bytes(stored[name]))


def own_metadata(
    obj: Mapping[str, Any], path: str, metadata: Mapping[str, str] | None, aliases: dict[str, str]
) -> dict[str, str]:
    """The user's metadata, checked, with what a reader needs besides the tensors."""
    out = {"format": "pt"}  # without it, Hugging Face's loaders refuse the file
    for key, text in (metadata or {}).items():
        if not isinstance(key, str) or not isinstance(text, str):
            raise TypeError(f"{path!r}: metadata must be a dict of str to str, got {key!r}: {text!r}")
        if key.startswith(OURS) or (key == "format" and text != "pt"):
            raise ValueError(f"{path!r}: the metadata key {key!r} is taken: {OURS}* and 'format' are written by save")
        out[key] = text
    if aliases:
        out[_ALIASES] = json.dumps(aliases)
    versions = getattr(obj, "_metadata", None)
    if versions:
        out[_VERSIONS] = json.dumps(versions)
    return out


def _encodes(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return False
    return True


def nbytes(tensor: Any) -> int:
    """The bytes of its elements in a file."""
    return math.prod(tensor.shape) * _dtype_of("", "", tensor).itemsize


def is_torch(value: Any) -> bool:
    """Is it a torch tensor? Told without importing torch."""
    return type(value).__module__.partition(".")[0] == "torch" and hasattr(value, "data_ptr")


def _identity(tensor: Any) -> Any:
    if is_torch(tensor) and tensor.numel():
        # torch's state_dict makes a new tensor object for each name.
        return (tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype)
    return id(tensor)


def _dtype_of(path: str, name: str, tensor: Any) -> np.dtype:
    if is_torch(tensor):
        known = _TORCH_AS_BYTES.get(str(tensor.dtype))
        dtype: Any = known if known is not None else str(tensor.dtype).removeprefix("torch.")
    elif isinstance(tensor, jax.Array | np.ndarray | np.generic | FileArray):
        dtype = tensor.dtype
    else:
        raise TypeError(
            f"{path!r}: {name!r} is a {type(tensor).__name__}; a safetensors file holds arrays only. Put numbers and "
            "text into `metadata`, or save other objects (such as an extra state) in a file of their own, a .pt say."
        )
    if not isinstance(dtype, str) and jnp.issubdtype(dtype, jax.dtypes.prng_key):
        raise TypeError(f"{path!r}: {name!r} is a PRNG key; save its data, `jax.random.key_data(key)`")
    try:
        found = np.dtype(dtype).newbyteorder("=")
        return _DTYPES[_NAMES[found]]
    except (KeyError, TypeError):
        raise TypeError(
            f"{path!r}: {name!r} has dtype {dtype}, which safetensors does not have; it has "
            f"{', '.join(map(str, _NAMES))}"
        ) from None


def host_bytes(tensor: Any) -> memoryview:
    """The elements of a jax, numpy or torch array as a file has them: in C order, little-endian."""
    return np.ascontiguousarray(to_numpy(tensor)).reshape(-1).view(np.uint8).data


def to_numpy(tensor: Any) -> np.ndarray:
    """A jax, numpy or torch array as a little-endian numpy array; of torch's, its own memory where that will do."""
    if not is_torch(tensor):
        array = tensor.read() if isinstance(tensor, FileArray) else np.asarray(tensor)
        return array.astype(array.dtype.newbyteorder("<"), copy=False)
    tensor = tensor.detach().cpu().contiguous()
    dtype = _TORCH_AS_BYTES.get(str(tensor.dtype))
    if dtype is None:
        return tensor.resolve_conj().resolve_neg().numpy()
    import torch  # only where the caller has torch tensors

    return tensor.reshape(-1).view(torch.uint8).numpy().view(dtype)


# -- reading ---------------------------------------------------------------------------------------------------------


def read(path: str) -> "OrderedDict[str, FileArray]":
    """The tensors of the file, aliases included, in the order of its header."""
    file = ArrayFile(path)
    start, metadata, entries = _header(file)
    out = OrderedDict(
        (name, FileArray(file, start + begin, dtype, shape)) for name, (dtype, shape, begin, _) in entries.items()
    )
    return with_own_metadata(out, path, metadata)


def with_own_metadata(
    out: "OrderedDict[str, FileArray]", path: str, metadata: Mapping[str, str]
) -> "OrderedDict[str, FileArray]":
    """`out` with the aliases and the modules' versions that `own_metadata` has written."""
    for alias, home in _aliases(path, metadata, out):
        out[alias] = out[home]
    if _VERSIONS in metadata:
        versions = read_json(path, _VERSIONS, metadata[_VERSIONS])
        out._metadata = OrderedDict(versions)  # type: ignore[attr-defined]
    return out


def read_metadata(path: str) -> dict[str, str]:
    """The file's metadata, without what `write` puts there itself."""
    _, metadata, _ = _header(ArrayFile(path))
    return {key: text for key, text in metadata.items() if key != "format" and not key.startswith(OURS)}


_Entry = tuple[np.dtype, tuple[int, ...], int, int]


def _header(file: ArrayFile) -> tuple[int, dict[str, str], dict[str, _Entry]]:
    """Where the data starts, the metadata, and (dtype, shape, begin, end) of each tensor. All of it is checked."""
    path, size = file.path, file.size
    if size == 0:
        raise FileFormatError(f"{path!r} is empty")
    if size < 8:
        raise FileFormatError(f"{path!r} is cut off: {size} bytes are less than a safetensors file's first field")
    length = int.from_bytes(file.read(0, 8), "little")
    if length > MAX_HEADER:
        raise FileFormatError(f"{path!r} is not a safetensors file: its first 8 bytes are no header length")
    if 8 + length > size:
        raise FileFormatError(f"{path!r} is cut off in its header: {8 + length} bytes expected, {size} there")
    header = read_json(path, "header", file.read(8, length))
    metadata = header.pop("__metadata__", None) or {}
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise FileFormatError(f"{path!r} is damaged: its metadata is not a dict of text")
    entries = {name: _entry(path, name, header[name]) for name in header}
    end = 0
    for name, entry in sorted(entries.items(), key=lambda item: item[1][2:]):
        if entry[2] != end:
            raise FileFormatError(f"{path!r} is damaged: the data of {name!r} starts at {entry[2]}, not at {end}")
        end = entry[3]
    if 8 + length + end != size:
        what = "cut off" if 8 + length + end > size else "damaged"
        raise FileFormatError(f"{path!r} is {what}: {8 + length + end} bytes expected, {size} there")
    return 8 + length, metadata, entries


def _entry(path: str, name: str, item: Any) -> _Entry:
    try:
        code, shape, (begin, end) = item["dtype"], tuple(item["shape"]), item["data_offsets"]
        if not isinstance(code, str) or type(begin) is not int or type(end) is not int:
            raise ValueError("no name of a dtype, or no number")
    except (TypeError, KeyError, ValueError) as error:
        raise FileFormatError(f"{path!r} is damaged: the header's entry of {name!r} is {brief(item)}") from error
    if code not in _DTYPES:
        known = ", ".join(_DTYPES)
        raise FileFormatError(f"{path!r}: {name!r} has dtype {brief(code)}, which cannot be read; {known} can")
    if end - begin != byte_count(path, name, shape, _DTYPES[code]):
        raise FileFormatError(f"{path!r} is damaged: {name!r} of {code} {shape} has {end - begin} bytes of data")
    return _DTYPES[code], shape, begin, end


def _aliases(path: str, metadata: Mapping[str, str], entries: Mapping[str, Any]) -> list[tuple[str, str]]:
    if _ALIASES not in metadata:
        # `safetensors.torch.save_model` writes the names that it leaves out as {name: name of the same tensor}.
        return [
            (alias, home)
            for alias, home in metadata.items()
            if home in entries and alias not in entries and not alias.startswith(OURS) and alias != "format"
        ]
    found = list(read_json(path, _ALIASES, metadata[_ALIASES]).items())
    for alias, home in found:
        if not isinstance(home, str) or home not in entries:
            raise FileFormatError(f"{path!r} is damaged: {alias!r} is stored as {home!r}, which is not in the file")
        if alias in entries:
            raise FileFormatError(f"{path!r} is damaged: {alias!r} is stored twice, as itself and as {home!r}")
    return found

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
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from ..core.box import Box
from .array_file import ArrayFile, FileArray
from .atomic import Replacing
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
_MAX_HEADER = 100_000_000  # the reference implementation's limit
_OURS = "jaxmodule."
_ALIASES = _OURS + "aliases"
_VERSIONS = _OURS + "state_dict_metadata"
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


def write(obj: Mapping[str, Any], path: str, metadata: Mapping[str, str] | None) -> None:
    """Write `obj` to `path`, atomically."""
    header, tensors = _plan(obj, path, metadata)
    blob = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    blob += b" " * (-len(blob) % 8)  # the reference implementation starts the data at a multiple of 8
    with Replacing(path) as file:
        file.write(len(blob).to_bytes(8, "little"))
        file.write(blob)
        for tensor in tensors:
            # One at a time, so that arrays on another device are on the host one at a time.
            file.write(np.ascontiguousarray(_to_numpy(tensor)).reshape(-1).view(np.uint8).data)


def _plan(obj: Mapping[str, Any], path: str, metadata: Mapping[str, str] | None) -> tuple[dict[str, Any], list[Any]]:
    """The header, and the tensors in the order of their data. Raises for everything that cannot be saved."""
    aliases: dict[str, str] = {}
    stored: dict[str, Any] = {}
    first: dict[Any, str] = {}
    for name, value in obj.items():
        if not isinstance(name, str) or name == "__metadata__":
            raise TypeError(f"{path!r}: {name!r} cannot be the name of a tensor in a safetensors file")
        tensor = value.value if isinstance(value, Box) else value
        _dtype_name(name, tensor)
        # Scalars are never aliases: counters often start as one shared constant, and other loaders know no aliases.
        home = first.setdefault(_identity(tensor), name) if len(tensor.shape) else name
        if home == name:
            stored[name] = tensor
        else:
            aliases[name] = home
    header: dict[str, Any] = {"__metadata__": _metadata(obj, path, metadata, aliases)}
    entries = {name: _DTYPES[_dtype_name(name, tensor)] for name, tensor in stored.items()}
    # Largest elements first keeps every tensor at a multiple of its element's size, as the reference does.
    order = sorted(stored, key=lambda name: -entries[name].itemsize)
    ends: dict[str, int] = {}
    end = 0
    for name in order:
        end += math.prod(stored[name].shape) * entries[name].itemsize
        ends[name] = end
    for name, tensor in stored.items():
        size = math.prod(tensor.shape) * entries[name].itemsize
        offsets = [ends[name] - size, ends[name]]
        header[name] = {"dtype": _NAMES[entries[name]], "shape": list(tensor.shape), "data_offsets": offsets}
    return header, [stored[name] for name in order]


def _metadata(
    obj: Mapping[str, Any], path: str, metadata: Mapping[str, str] | None, aliases: dict[str, str]
) -> dict[str, str]:
    out = {"format": "pt"}  # without it, Hugging Face's loaders refuse the file
    for key, text in (metadata or {}).items():
        if not isinstance(key, str) or not isinstance(text, str):
            raise TypeError(f"{path!r}: metadata must be a dict of str to str, got {key!r}: {text!r}")
        if key.startswith(_OURS) or (key == "format" and text != "pt"):
            raise ValueError(f"{path!r}: the metadata key {key!r} is taken: {_OURS}* and 'format' are written by save")
        out[key] = text
    if aliases:
        out[_ALIASES] = json.dumps(aliases)
    versions = getattr(obj, "_metadata", None)
    if versions:
        out[_VERSIONS] = json.dumps(versions)
    return out


def _is_torch(value: Any) -> bool:
    return type(value).__module__.partition(".")[0] == "torch" and hasattr(value, "data_ptr")


def _identity(tensor: Any) -> Any:
    if _is_torch(tensor) and tensor.numel():
        # torch's state_dict makes a new tensor object for each name.
        return (tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype)
    return id(tensor)


def _dtype_name(name: str, tensor: Any) -> str:
    if _is_torch(tensor):
        known = _TORCH_AS_BYTES.get(str(tensor.dtype))
        dtype: Any = known if known is not None else str(tensor.dtype).removeprefix("torch.")
    elif isinstance(tensor, jax.Array | np.ndarray | np.generic):
        dtype = tensor.dtype
    else:
        raise TypeError(
            f"{name!r} is a {type(tensor).__name__}; a safetensors file holds arrays only. Put numbers and text into "
            "`metadata`, or save other objects (such as an extra state) in a file of their own."
        )
    if not isinstance(dtype, str) and jnp.issubdtype(dtype, jax.dtypes.prng_key):
        raise TypeError(f"{name!r} is a PRNG key; save its data, `jax.random.key_data(key)`")
    try:
        return _NAMES[np.dtype(dtype).newbyteorder("=")]
    except (KeyError, TypeError):
        raise TypeError(
            f"{name!r} has dtype {dtype}, which safetensors does not have; it has {', '.join(map(str, _NAMES))}"
        ) from None


def _to_numpy(tensor: Any) -> np.ndarray:
    if not _is_torch(tensor):
        array = np.asarray(tensor)
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
    out: OrderedDict[str, FileArray] = OrderedDict()
    file = ArrayFile(path)
    start, metadata, entries = _header(file)
    for name, (dtype, shape, begin, _) in entries.items():
        out[name] = FileArray(file, start + begin, dtype, shape)
    for alias, home in _aliases(path, metadata, entries):
        out[alias] = out[home]
    if _VERSIONS in metadata:
        versions = _json(path, _VERSIONS, metadata[_VERSIONS])
        out._metadata = OrderedDict(versions)  # type: ignore[attr-defined]
    return out


def read_metadata(path: str) -> dict[str, str]:
    """The file's metadata, without what `write` puts there itself."""
    _, metadata, _ = _header(ArrayFile(path))
    return {key: text for key, text in metadata.items() if key != "format" and not key.startswith(_OURS)}


_Entry = tuple[np.dtype, tuple[int, ...], int, int]


def _header(file: ArrayFile) -> tuple[int, dict[str, str], dict[str, _Entry]]:
    """Where the data starts, the metadata, and (dtype, shape, begin, end) of each tensor. All of it is checked."""
    path, size = file.path, file.size
    if size == 0:
        raise FileFormatError(f"{path!r} is empty")
    if size < 8:
        raise FileFormatError(f"{path!r} is cut off: {size} bytes are less than a safetensors file's first field")
    length = int.from_bytes(file.read(0, 8), "little")
    if length > _MAX_HEADER:
        raise FileFormatError(f"{path!r} is not a safetensors file: its first 8 bytes are no header length")
    if 8 + length > size:
        raise FileFormatError(f"{path!r} is cut off in its header: {8 + length} bytes expected, {size} there")
    header = _json(path, "header", file.read(8, length))
    metadata = header.pop("__metadata__", None) or {}
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise FileFormatError(f"{path!r} is damaged: its metadata is not a dict of text")
    entries = {name: _entry(path, name, item) for name, item in header.items()}
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
        if not isinstance(code, str) or not all(type(n) is int and n >= 0 for n in (*shape, begin, end)):
            raise ValueError("no name of a dtype, or a number that is no count")
    except (TypeError, KeyError, ValueError) as error:
        raise FileFormatError(f"{path!r} is damaged: the header's entry of {name!r} is {item!r}") from error
    if code not in _DTYPES:
        raise FileFormatError(f"{path!r}: {name!r} has dtype {code!r}, which cannot be read; {', '.join(_DTYPES)} can")
    if end - begin != math.prod(shape) * _DTYPES[code].itemsize:
        raise FileFormatError(f"{path!r} is damaged: {name!r} of {code} {shape} has {end - begin} bytes of data")
    return _DTYPES[code], shape, begin, end


def _json(path: str, what: str, text: str | bytes) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        out = dict(pairs)
        if len(out) != len(pairs):
            raise ValueError("a name occurs twice")
        return out

    try:
        value = json.loads(text, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:  # also wrong UTF-8
        raise FileFormatError(f"{path!r} is damaged: its {what} is no JSON ({error})") from error
    if not isinstance(value, dict):
        raise FileFormatError(f"{path!r} is damaged: its {what} is not a JSON object")
    return value


def _aliases(path: str, metadata: dict[str, str], entries: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if _ALIASES in metadata:
        for alias, home in _json(path, _ALIASES, metadata[_ALIASES]).items():
            if home not in entries:
                raise FileFormatError(f"{path!r} is damaged: {alias!r} is stored as {home!r}, which is not in the file")
            yield alias, home
        return
    # `safetensors.torch.save_model` writes the names that it leaves out as metadata: {name: name of the same tensor}.
    for alias, home in metadata.items():
        if home in entries and alias not in entries and not alias.startswith(_OURS) and alias != "format":
            yield alias, home

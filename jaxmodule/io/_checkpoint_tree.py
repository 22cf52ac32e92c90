"""Nested state (what `state_dict()` of anything gives) as a JSON tree and a flat dict of arrays, and back, exactly.

What JSON has stands for itself. Everything else is an object with one key that starts with `$`: `$array` (with the
array's name, and what kind it was), `$tuple`, `$items` (a dict whose keys are no plain text), `$bytes`, `$complex`, and
`$float` for the numbers that JSON has no words for.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from ..core.box import Box
from ..core.context import Tracer
from .array_file import FileArray, to_jax
from .errors import FileFormatError

__all__ = ["decode", "encode", "materialized"]

_DEEPEST = 100  # levels; more is a container that holds itself

# Dtypes that safetensors does not have: stored as bytes, one axis more, under their name in the tree.
_AS_BYTES = {
    name: np.dtype(getattr(ml_dtypes, name, name))
    for name in (
        *("complex128", "int2", "int4", "uint2", "uint4", "float4_e2m1fn", "float6_e2m3fn", "float6_e3m2fn"),
        *("float8_e3m4", "float8_e4m3", "float8_e4m3b11fnuz"),
    )
    if name == "complex128" or hasattr(ml_dtypes, name)
}
_NAMES = {dtype: name for name, dtype in _AS_BYTES.items()}


# -- to JSON and arrays ----------------------------------------------------------------------------------------------


def encode(what: str, value: Any, spread: bool = False) -> tuple[Any, dict[str, Any]]:
    """The JSON tree of `value`, and its arrays by name.

    Args:
        what: how errors call the whole value.
        value: dicts, lists, tuples, numbers, text, None, arrays.
        spread: take arrays that are spread over several processes, too.

    Raises:
        TypeError: for anything else, naming its place.
    """
    encoder = _Encoder(what, spread)
    return encoder.tree(value, ()), encoder.arrays


class _Encoder:
    def __init__(self, what: str, spread: bool) -> None:
        self.what = what
        self.spread = spread
        self.arrays: dict[str, Any] = {}

    def tree(self, value: Any, path: tuple[Any, ...]) -> Any:
        kind = type(value)
        if value is None or kind is bool or kind is int:
            return value
        if isinstance(value, str):
            return str(value)
        if isinstance(value, Box | jax.Array | np.ndarray | np.generic):
            return self.array(value, path)
        if kind is jax.ShapeDtypeStruct:
            raise ValueError(f"{_place(self.what, path)} is on the meta device: it has no values that could be saved")
        if kind is float:
            return value if math.isfinite(value) else {"$float": str(value)}
        if kind is complex:
            return {"$complex": [value.real.hex(), value.imag.hex()]}
        if kind is bytes:
            return {"$bytes": value.hex()}
        if len(path) >= _DEEPEST:
            raise ValueError(f"{_place(self.what, path[:5])} is nested more than {_DEEPEST} deep, or holds itself")
        if kind is list or kind is tuple:
            items = [self.tree(item, (*path, i)) for i, item in enumerate(value)]
            return items if kind is list else {"$tuple": items}
        if isinstance(value, Mapping):
            if all(isinstance(key, str) and not key.startswith("$") for key in value):
                return {str(key): self.tree(item, (*path, key)) for key, item in value.items()}
            return {"$items": [[self.key(key, path), self.tree(item, (*path, key))] for key, item in value.items()]}
        raise TypeError(
            f"{_place(self.what, path)} is a {kind.__name__}, which a checkpoint cannot hold: it holds dicts, lists, "
            "tuples, numbers, text, bytes, None and arrays. Of other pytrees save `jax.tree.leaves(...)`; of other "
            "objects the `state_dict()`, or what their constructor needs."
        )

    def key(self, key: Any, path: tuple[Any, ...]) -> Any:
        tree, arrays = encode(self.what, key)
        if arrays:
            raise TypeError(f"{_place(self.what, path)} has an array as a key")
        return tree

    def array(self, value: Any, path: tuple[Any, ...]) -> dict[str, Any]:
        place = _place(self.what, path)
        if isinstance(value, Box):
            if value._lazy:
                raise ValueError(f"{place} has no shape yet: call the model once before it is saved")
            value = value.value
        if isinstance(value, Tracer):
            raise ValueError(f"{place} is being traced: save outside of jm.jit and the other transforms")
        out: dict[str, Any] = {}
        if isinstance(value, jax.Array):
            if not (self.spread or value.is_fully_addressable or value.is_fully_replicated):
                raise ValueError(
                    f"{place} is spread over several processes; `jaxmodule.io.orbax.save_checkpoint` saves such arrays"
                )
            if jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
                out = {"kind": "key", "impl": str(jax.random.key_impl(value))}
                value = jax.random.key_data(value)
        else:
            out = {"kind": "numpy" if isinstance(value, np.ndarray) else "scalar"}
        dtype = value.dtype.newbyteorder("=")
        if dtype in _NAMES:
            out["dtype"] = _NAMES[dtype]
            raw = np.ascontiguousarray(np.asarray(value).astype(dtype, copy=False))
            value = raw.reshape(*raw.shape, 1).view(np.uint8)
        elif dtype.kind in "OSUMmV" and not hasattr(ml_dtypes, dtype.name):
            raise TypeError(f"{place} is an array of {dtype}; a checkpoint holds numbers and booleans")
        name = base = ".".join(map(str, path)) or "value"
        n = 0
        while name in self.arrays:
            n += 1
            name = f"{base}#{n}"
        self.arrays[name] = value
        return {"$array": name, **out}


def _place(what: str, path: tuple[Any, ...]) -> str:
    return what + "".join(f"[{key!r}]" for key in path)


# -- and back --------------------------------------------------------------------------------------------------------


def decode(file: str, tree: Any, arrays: Mapping[str, Any]) -> Any:
    """The inverse of `encode`. A `FileArray` in `arrays` stays one, if it was no PRNG key and no numpy scalar.

    Args:
        file: what the tree is from, for errors.
        tree: what `encode` gave first.
        arrays: what is in the file of what `encode` gave second.

    Raises:
        FileFormatError: the tree is none that `encode` makes, or names an array that is not there.
    """
    try:
        return _decode(tree, arrays, 0)
    except (TypeError, ValueError, KeyError, AttributeError, OverflowError) as error:
        raise FileFormatError(f"{file!r} is damaged: {error}") from error


def _decode(tree: Any, arrays: Mapping[str, Any], depth: int) -> Any:
    if tree is None or isinstance(tree, bool | int | float | str):
        return tree
    if depth > 2 * _DEEPEST + 2:  # a tuple takes two levels
        raise ValueError("its contents are nested too deep")
    if isinstance(tree, list):
        return [_decode(item, arrays, depth + 1) for item in tree]
    tag = next(iter(tree), "")
    if not tag.startswith("$"):
        return {key: _decode(item, arrays, depth + 1) for key, item in tree.items()}
    content = tree[tag]
    if tag == "$array":
        return _decode_array(tree, arrays)
    if tag in ("$tuple", "$items") and not isinstance(content, list):
        raise ValueError(f"{tag} is no list")
    if tag == "$tuple":
        return tuple(_decode(item, arrays, depth + 1) for item in content)
    if tag == "$items":
        return {_decode(key, {}, depth + 1): _decode(item, arrays, depth + 1) for key, item in content}
    if tag == "$float" and content in ("nan", "inf", "-inf"):
        return float(content)
    if tag == "$bytes" and isinstance(content, str):
        return bytes.fromhex(content)
    if tag == "$complex":
        real, imag = map(float.fromhex, content)
        return complex(real, imag)
    raise ValueError(f"it has the unknown entry {str({tag: content})[:100]}")


def _decode_array(entry: dict[str, Any], arrays: Mapping[str, Any]) -> Any:
    name, kind = entry["$array"], entry.get("kind")
    if not isinstance(name, str) or name not in arrays:
        raise ValueError(f"the array {str(name)[:100]!r} is not in its file")
    array = arrays[name]
    if "dtype" in entry:
        dtype = _AS_BYTES[entry["dtype"]]
        if array.dtype != np.uint8 or array.shape[-1:] != (dtype.itemsize,):
            raise ValueError(f"the bytes of {name!r} are not those of a {dtype}")
        if isinstance(array, FileArray):
            array = FileArray(array.file, array.offset, dtype, array.shape[:-1])
        else:
            array = np.ascontiguousarray(array).view(dtype).reshape(array.shape[:-1])
    if kind == "key":
        return jax.random.wrap_key_data(jnp.asarray(_read(array)), impl=entry["impl"])
    if kind == "scalar" and not array.shape:
        return np.asarray(_read(array))[()]
    if kind == "numpy":
        in_file = isinstance(array, FileArray)
        return _HostArray(array.file, array.offset, array.stored, array.shape) if in_file else array
    if kind is not None:
        raise ValueError(f"the array {name!r} is of the unknown kind {str(kind)[:100]!r}")
    return to_jax(array) if isinstance(array, np.ndarray) else array


def _read(array: Any) -> Any:
    return array.read() if isinstance(array, FileArray) else array


class _HostArray(FileArray):
    """An array that was numpy's."""

    __slots__ = ()


def materialized(tree: Any) -> Any:
    """`tree` with arrays in the place of every `FileArray`: of the library that each was of when it was saved."""
    if isinstance(tree, _HostArray):
        return tree.read()
    if isinstance(tree, FileArray):
        return to_jax(tree.read())
    if isinstance(tree, list | tuple):
        items: Iterable[Any] = map(materialized, tree)
        return list(items) if isinstance(tree, list) else tuple(items)
    if isinstance(tree, dict):
        return {key: materialized(item) for key, item in tree.items()}
    return tree

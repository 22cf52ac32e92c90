"""The pickle in a file of torch: written with the opcodes and names that `torch.load(weights_only=True)` takes."""

import struct
from collections import Counter, OrderedDict, defaultdict
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..core.box import Box
from ..core.context import Tracer
from ._torch_tensors import DTYPES, STORAGES
from .array_file import FileArray
from .safetensors import is_torch

__all__ = ["Pickle"]

_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_TYPED = {name: storage for storage, name in STORAGES.items()}
_MAX_DEPTH = 100
_MAX_INT = 255  # bytes: torch's reader knows no longer ones


class Pickle:
    """The pickle of `obj`, and the arrays that it refers to.

    Args:
        obj: what to write.
        path: the file's name, for errors.

    Attributes:
        data: the pickle.
        arrays: one for each storage, in order.
    """

    def __init__(self, obj: Any, path: str) -> None:
        self.path = path
        self.out = bytearray(b"\x80\x02")
        self.arrays: list[Any] = []
        self._memo: dict[Any, int] = {}
        self._keys: dict[Any, int] = {}
        self._alive: list[Any] = []  # what an identity was taken of
        self._value(obj, "", 0)
        self.out += b"."
        self.data = bytes(self.out)

    def _value(self, value: Any, place: str, depth: int) -> None:
        if depth > _MAX_DEPTH:
            raise TypeError(
                f"{self.path!r}: {place[:100] + '...'!r} is nested more than {_MAX_DEPTH} deep, or inside itself"
            )
        if isinstance(value, Box):
            value = value.value
        if isinstance(value, jax.Array | np.ndarray | np.generic | FileArray | jax.ShapeDtypeStruct) or is_torch(value):
            self._tensor(value, place)
        elif isinstance(value, dict):
            self._dict(value, place, depth)
        elif type(value) in (list, tuple, set):
            self._sequence(value, place, depth)
        else:
            self._atom(value, place)

    # -- containers --

    def _dict(self, value: dict[Any, Any], place: str, depth: int) -> None:
        if isinstance(value, defaultdict):
            self._refuse(value, place, "; make it a dict")
        if isinstance(value, Counter):
            self._name("collections", "Counter")
        ordered = isinstance(value, OrderedDict)
        if ordered:
            self._name("collections", "OrderedDict")
            self.out += b")R"
        else:
            self.out += b"}"
        if value:
            self.out += b"("
            for key, item in value.items():
                inner = f"{place}[{key!r}]"
                self._key(key, inner)
                self._value(item, inner, depth + 1)
            self.out += b"u"
        if isinstance(value, Counter):
            self.out += b"\x85R"
        if ordered and getattr(value, "_metadata", None) is not None:
            self.out += b"}"
            self._text("_metadata")
            self._value(value._metadata, f"{place}._metadata", depth + 1)  # pyright: ignore
            self.out += b"sb"

    def _key(self, key: Any, place: str) -> None:
        if type(key) is tuple:
            self.out += b"("
            for part in key:
                self._key(part, place)
            self.out += b"t"
        elif type(key) in (str, int, float, bool, type(None)):
            self._atom(key, place)
        else:
            raise TypeError(f"{self.path!r}: the key {place} is a {type(key).__name__}; keys are text and numbers")

    def _sequence(self, value: Any, place: str, depth: int) -> None:
        if type(value) is set:
            self._name("__builtin__", "set")
        self.out += b"(" if type(value) is tuple else b"]("
        # Sets have no order, and a file of the same content is to have the same bytes.
        items = sorted(value, key=lambda item: (type(item).__name__, repr(item))) if type(value) is set else value
        for i, item in enumerate(items):
            self._value(item, f"{place}[{i}]", depth + 1)
        self.out += b"t" if type(value) is tuple else b"e"
        if type(value) is set:
            self.out += b"\x85R"

    # -- what holds nothing else --

    def _atom(self, value: Any, place: str) -> None:
        kind = type(value)
        if value is None:
            self.out += b"N"
        elif kind is bool:
            self.out += b"\x88" if value else b"\x89"
        elif kind is int:
            self._int(value, place)
        elif kind is float:
            self.out += b"G" + struct.pack(">d", value)
        elif kind is str:
            self._text(value)
        elif kind is complex:
            self._name("__builtin__", "complex")
            self.out += b"G" + struct.pack(">d", value.real) + b"G" + struct.pack(">d", value.imag) + b"\x86R"
        elif kind in (bytes, bytearray):
            self._bytes(value)
        elif isinstance(value, np.dtype) and value in _NAMES:
            self._name("torch", _NAMES[value])
        else:
            self._refuse(value, place, "")

    def _refuse(self, value: Any, place: str, hint: str) -> None:
        if isinstance(value, tuple):
            hint = "; make it a tuple"
        elif hasattr(value, "state_dict"):
            hint = "; save its state_dict()"
        where = f"obj{place}" if place else "it"
        raise TypeError(
            f"{self.path!r}: {where} is a {type(value).__name__}, which torch.load(weights_only=True) does not take. "
            f"Arrays, numbers, text, bytes, and dicts, lists, tuples and sets of them can be saved{hint}."
        )

    def _int(self, value: int, place: str) -> None:
        if 0 <= value < 256:
            self.out += b"K" + struct.pack("<B", value)
        elif -(2**31) <= value < 2**31:
            self.out += b"J" + struct.pack("<i", value)
        else:
            size = value.bit_length() // 8 + 1
            if size > _MAX_INT:
                raise TypeError(f"{self.path!r}: obj{place} is an integer of {size} bytes; {_MAX_INT} is the longest")
            self.out += b"\x8a" + struct.pack("<B", size) + value.to_bytes(size, "little", signed=True)

    def _text(self, value: str) -> None:
        if self._again(("text", value)):
            return
        raw = value.encode("utf-8", "surrogatepass")
        self.out += b"X" + struct.pack("<I", len(raw)) + raw
        self._remember(("text", value))

    def _bytes(self, value: bytes | bytearray) -> None:
        if isinstance(value, bytearray):
            self._name("__builtin__", "bytearray")
        self._name("_codecs", "encode")
        self._text(value.decode("latin1"))
        self._text("latin1")
        self.out += b"\x86R\x85R" if isinstance(value, bytearray) else b"\x86R"

    def _name(self, module: str, name: str) -> None:
        key = ("name", module, name)
        if not self._again(key):
            self.out += f"c{module}\n{name}\n".encode()
            self._remember(key)

    def _again(self, key: Any) -> bool:
        index = self._memo.get(key)
        if index is not None:
            self.out += b"h" + struct.pack("<B", index) if index < 256 else b"j" + struct.pack("<I", index)
        return index is not None

    def _remember(self, key: Any) -> None:
        index = self._memo[key] = len(self._memo)
        self.out += b"q" + struct.pack("<B", index) if index < 256 else b"r" + struct.pack("<I", index)

    # -- tensors --

    def _tensor(self, value: Any, place: str) -> None:
        name = self._dtype(value, place)
        shape = tuple(int(n) for n in value.shape)
        numel = 1
        strides: list[int] = []
        for n in reversed(shape):
            strides.insert(0, numel)
            numel *= n
        strides = [max(step, 1) for step in strides]
        typed = _TYPED.get(name)
        self._name("torch._utils", "_rebuild_tensor_v2" if typed else "_rebuild_tensor_v3")
        self.out += b"(("
        self._text("storage")
        self._name("torch" if typed else "torch.storage", typed or "UntypedStorage")
        self._text(str(self._storage(value)))
        self._text("cpu")
        self._int(numel if typed else numel * DTYPES[name].itemsize, place)
        self.out += b"tQK\0"
        for numbers in (shape, strides):
            self.out += b"("
            for n in numbers:
                self._int(n, place)
            self.out += b"t"
        self.out += b"\x89"
        self._name("collections", "OrderedDict")
        self.out += b")R"
        if not typed:
            self._name("torch", name)
        self.out += b"tR"

    def _storage(self, value: Any) -> int:
        """The number of the array's storage, an earlier one's where it is the same array."""
        key: Any = id(value)
        if is_torch(value):
            if value.numel():
                # torch's state_dict makes a new tensor object for each name.
                bits = (value.is_conj(), value.is_neg())
                key = (value.data_ptr(), str(value.device), tuple(value.shape), value.stride(), value.dtype, *bits)
        elif isinstance(value, np.ndarray) and value.size:
            key = (value.ctypes.data, value.shape, value.strides, value.dtype.str, str(value.dtype))
        if key not in self._keys:
            self._keys[key] = len(self.arrays)
            self.arrays.append(value)
        self._alive.append(value)
        return self._keys[key]

    def _dtype(self, value: Any, place: str) -> str:
        if isinstance(value, jax.ShapeDtypeStruct) or (is_torch(value) and value.device.type == "meta"):
            raise TypeError(f"{self.path!r}: obj{place} is a meta tensor, which has no values to save")
        if isinstance(value, Tracer):
            raise TypeError(f"{self.path!r}: obj{place} is traced: save outside of jit, with what the function returns")
        if is_torch(value):
            if str(value.layout) != "torch.strided" or value.is_quantized:
                raise TypeError(f"{self.path!r}: obj{place} is a {value.layout} or quantized tensor; make it dense")
            name = str(value.dtype).removeprefix("torch.")
        else:
            if jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
                raise TypeError(f"{self.path!r}: obj{place} is a PRNG key; save its data, `jax.random.key_data(key)`")
            name = _NAMES.get(np.dtype(value.dtype).newbyteorder("="), "")
        if name not in DTYPES:
            raise TypeError(
                f"{self.path!r}: obj{place} has dtype {value.dtype}, which cannot be saved; {', '.join(DTYPES)} can"
            )
        return name

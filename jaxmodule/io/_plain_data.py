"""What the names of Python's and numpy's in a pickle put together, each from arguments that can be anything."""

import math
from collections import Counter, OrderedDict, defaultdict
from typing import Any

import numpy as np

from ._pickle_machine import Budget, Known, hashable

__all__ = [
    "NumpyDtype",
    "counter",
    "default_dict",
    "encode",
    "fill_array",
    "make_bytearray",
    "make_complex",
    "make_set",
    "numpy_array",
    "numpy_scalar",
    "ordered_dict",
]

_NUMPY_CODES = ("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16")


def ordered_dict(budget: Budget, pairs: Any = ()) -> OrderedDict:
    """An OrderedDict of pairs."""
    budget.spend(500)
    return _fill(budget, OrderedDict(), pairs)


def counter(budget: Budget, counts: Any = ()) -> Counter:
    """A Counter of counts."""
    budget.spend(300)
    return _fill(budget, Counter(), list(counts.items()) if type(counts) is dict else counts)


def _fill(budget: Budget, out: Any, pairs: Any) -> Any:
    if type(pairs) not in (list, tuple) or not all(type(p) in (list, tuple) and len(p) == 2 for p in pairs):
        raise ValueError("a dict of no pairs")
    budget.spend(len(pairs) * 200)
    for key, value in pairs:
        if not hashable(key):
            raise ValueError("a key that is no text or number")
        out[key] = value
    return out


def default_dict(factory: Any = None) -> defaultdict:
    """A defaultdict whose values begin as one of Python's empty ones."""
    factories = {"list": list, "dict": dict, "int": int, "float": float, "str": str}
    if factory is None:
        return defaultdict()
    name = factory.name.rpartition(".")[2] if isinstance(factory, Known) else ""
    known = {**factories, "set": set, "OrderedDict": OrderedDict}.get(name)
    if known is None:
        raise ValueError("a defaultdict that begins with an unknown function")
    return defaultdict(known)


def make_set(budget: Budget, kind: type, items: Any = ()) -> Any:
    """A set of what can be in one."""
    if type(items) not in (list, tuple) or not all(hashable(item) for item in items):
        raise ValueError("a set of something that is no text or number")
    budget.spend(216 + 70 * len(items))
    return kind(items)


def encode(budget: Budget, text: Any, encoding: Any) -> bytes:
    """Bytes, as protocol 2 has them: text."""
    if type(text) is not str or encoding not in ("latin1", "latin-1"):
        raise ValueError("bytes in another encoding")
    budget.spend(len(text) + 33)
    return text.encode("latin1")


def make_bytearray(budget: Budget, data: Any = b"", encoding: Any = "latin-1") -> bytearray:
    """A bytearray of bytes, or of text."""
    raw = encode(budget, data, encoding) if type(data) is str else data
    if type(raw) is not bytes:  # bytearray(n) would be n bytes
        raise ValueError("a bytearray of no bytes")
    budget.spend(len(raw) + 60)
    return bytearray(raw)


def make_complex(real: Any, imag: Any) -> complex:
    """A complex number."""
    if type(real) is not float or type(imag) is not float:
        raise ValueError("a complex number of no numbers")
    return complex(real, imag)


class NumpyDtype:
    """A numpy dtype while it is put together: its byte order comes after it."""

    name = "numpy.dtype"

    def __init__(self, code: Any, _align: Any = False, _copy: Any = True) -> None:
        if type(code) is not str or code.lstrip("<>|=") not in _NUMPY_CODES:
            raise ValueError("a numpy dtype that is no number")
        self.dtype = np.dtype(code)

    def set_state(self, state: Any) -> None:
        """Set the byte order."""
        if type(state) is not tuple or len(state) < 2 or state[1] not in ("<", ">", "|", "="):
            raise ValueError("the state of a numpy dtype")
        order = "<" if state[1] == "=" else state[1]
        self.dtype = self.dtype.newbyteorder(order)


def numpy_scalar(kind: Any, data: Any) -> np.generic:
    """A number of numpy."""
    raw = data.encode("latin1") if type(data) is str else data
    if not isinstance(kind, NumpyDtype) or type(raw) is not bytes or len(raw) != kind.dtype.itemsize:
        raise ValueError("a numpy scalar of other bytes")
    return np.frombuffer(raw, kind.dtype).astype(kind.dtype.newbyteorder("="))[0]


def numpy_array(budget: Budget, kind: Any, _shape: Any, _code: Any) -> np.ndarray:
    """An array without elements, which `fill_array` fills."""
    if not isinstance(kind, Known) or kind.name != "numpy.ndarray":
        raise ValueError("an array of unknown class")
    budget.spend(200)
    return np.empty(0, np.uint8)  # filled in place by what comes next: others may refer to it already


def fill_array(budget: Budget, target: np.ndarray, state: Any) -> None:
    """Give an array its shape, dtype and elements."""
    _, shape, kind, fortran, data = state
    raw = data.encode("latin1") if type(data) is str else data
    if not isinstance(kind, NumpyDtype) or type(raw) is not bytes or target.size or type(fortran) is not bool:
        raise ValueError("the state of a numpy array")
    if type(shape) is not tuple or len(shape) > 32 or not all(type(n) is int and 0 <= n < 2**40 for n in shape):
        raise ValueError("the shape of a numpy array")
    if math.prod(shape) * kind.dtype.itemsize != len(raw):
        raise ValueError("a numpy array with another number of bytes")
    budget.spend(len(raw))
    array = np.frombuffer(raw, kind.dtype).reshape(shape, order="F" if fortran else "C")
    array = array.astype(kind.dtype.newbyteorder("="))
    target.__setstate__((1, shape, array.dtype, False, array.tobytes()))  # pyright: ignore

"""The names that a file of torch may use, and what each one puts together. All of them give plain data."""

from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable
from functools import partial
from itertools import chain
from typing import Any

import numpy as np

from ._pickle_machine import Budget, Known
from ._plain_data import (
    NumpyDtype,
    counter,
    default_dict,
    encode,
    fill_array,
    make_bytearray,
    make_complex,
    make_set,
    numpy_array,
    numpy_scalar,
    ordered_dict,
)
from ._torch_tensors import COMPLEX32, DTYPES, STORAGES, Derived, StorageType, TorchDtype, View, tensor
from ._unpickle import Unpickler
from .array_file import ArrayFile, FileArray
from .errors import FileFormatError

__all__ = ["check_plain", "unpickler"]

_MAX_DEPTH = 100
_QUANTIZED = ["qint8", "quint8", "qint32", "quint4x2", "quint2x4"]
_NO_DTYPES = [
    *_QUANTIZED,
    *(f"{kind}int{bits}" for kind in ("", "u") for bits in range(1, 8)),
    *("bits8", "bits16", "bits1x8", "bits2x4", "bits4x2", "float4_e2m1fn_x2"),
]
_DENSE = "save a dense one, `tensor.to_dense()`"
_REFUSED = {
    "torch._utils._rebuild_qtensor": "a quantized tensor, which JAX does not have: save `tensor.dequantize()`",
    "torch._utils._rebuild_sparse_tensor": f"a sparse tensor: {_DENSE}",
    "torch._utils._rebuild_nested_tensor": "a nested tensor: save its parts, `tensor.unbind()`",
    "torch._utils._rebuild_meta_tensor_no_storage": "a tensor on the meta device, which has no values: save a real one",
    "torch._utils._rebuild_wrapper_subclass": "a tensor of a class of its own: save a plain one",
}
_PLAIN = (type(None), bool, int, float, complex, str, bytes, bytearray, FileArray, np.ndarray, np.generic, np.dtype)
_CONTAINERS = (dict, OrderedDict, defaultdict, Counter, list, tuple, set, frozenset)


def unpickler(
    file: ArrayFile, data: memoryview, budget: Budget, persistent: Callable[[Any], Any], **names: Any
) -> Unpickler:
    """What reads the pickles of one file of torch."""
    return Unpickler(data, file.path, {**_names(budget), **names}, persistent, partial(_set_state, budget), budget)


def _names(budget: Budget) -> dict[str, Any]:
    """A table of its own for each file: what the functions make is charged to the file's budget."""
    table: dict[str, Any] = {f"torch.{name}": dtype for name, dtype in DTYPES.items()}
    table |= {f"torch.{name}": TorchDtype(f"torch.{name}") for name in _NO_DTYPES}
    table["torch.complex32"] = COMPLEX32
    for module in ("torch", "torch.cuda", "torch.storage"):
        for name, dtype in STORAGES.items():
            table[f"{module}.{name}"] = StorageType(name, DTYPES[dtype])
            plain = name.replace("Storage", "Tensor")
            table[f"{module}.{plain}"] = Known(f"{module}.{plain}")  # the types in tar files
        table[f"{module}.UntypedStorage"] = table[f"{module}._UntypedStorage"] = StorageType("UntypedStorage", None)
        for name in ("QInt8Storage", "QInt32Storage", "QUInt8Storage", "QUInt4x2Storage", "QUInt2x4Storage"):
            table[f"{module}.{name}"] = Known(name, refused=_REFUSED["torch._utils._rebuild_qtensor"])
    made: dict[str, Callable[..., Any]] = {
        "torch.Size": _size,
        "torch.device": _device,
        "torch.serialization._get_layout": lambda name: str(name),
        "torch._utils._rebuild_tensor": partial(_tensor, budget),
        "torch._utils._rebuild_tensor_v2": partial(_tensor, budget),
        "torch._utils._rebuild_tensor_v3": partial(_tensor_v3, budget),
        "torch._utils._rebuild_parameter": _parameter,
        "torch._utils._rebuild_parameter_with_state": _parameter,
        "torch._utils._rebuild_device_tensor_from_cpu_tensor": partial(_device_tensor, budget),
        "torch._utils._rebuild_device_tensor_from_numpy": partial(_device_tensor, budget),
        "torch._utils._rebuild_xla_tensor": partial(_device_tensor, budget),
        "torch._tensor._rebuild_from_type_v2": _from_type,
        "torch.nn.parameter.Parameter": _parameter,
        "torch.nn.parameter.Buffer": _parameter,
        "torch.autograd.variable.Variable": _parameter,
        "collections.OrderedDict": partial(ordered_dict, budget),
        "collections.Counter": partial(counter, budget),
        "collections.defaultdict": default_dict,
        "_codecs.encode": partial(encode, budget),
        "numpy.dtype": NumpyDtype,
    }
    for module in ("builtins", "__builtin__"):
        made[f"{module}.set"] = partial(make_set, budget, set)
        made[f"{module}.frozenset"] = partial(make_set, budget, frozenset)
        made[f"{module}.bytearray"] = partial(make_bytearray, budget)
        made[f"{module}.complex"] = make_complex
        made[f"{module}.bytes"] = lambda: b""  # how protocol 2 has no bytes
        for name in ("list", "dict", "int", "float", "str"):  # what a defaultdict begins with
            table[f"{module}.{name}"] = Known(f"{module}.{name}")
    for module in ("numpy.core.multiarray", "numpy._core.multiarray"):
        made[f"{module}.scalar"] = numpy_scalar
        made[f"{module}._reconstruct"] = partial(numpy_array, budget)
    table |= {name: Known(name, make) for name, make in made.items()}
    table |= {name: Known(name) for name in ("torch.Tensor", "torch._tensor.Tensor", "numpy.ndarray")}
    return table | {name: Known(name, refused=why) for name, why in _REFUSED.items()}


# -- tensors ---------------------------------------------------------------------------------------------------------


def _tensor(
    budget: Budget,
    storage: Any,
    offset: Any,
    size: Any,
    stride: Any,
    _requires_grad: Any = False,
    _hooks: Any = None,
    bits: Any = None,
) -> FileArray:
    return tensor(budget, storage, offset, size, stride, None, *_bits(bits))


def _tensor_v3(
    budget: Budget,
    storage: Any,
    offset: Any,
    size: Any,
    stride: Any,
    _requires_grad: Any,
    _hooks: Any,
    dtype: Any,
    bits: Any = None,
) -> FileArray:
    if not isinstance(dtype, np.dtype | TorchDtype):
        raise ValueError("a tensor of no dtype")
    return tensor(budget, storage, offset, size, stride, dtype, *_bits(bits))


def _bits(bits: Any) -> tuple[bool, bool]:
    """Are the values to be conjugated, are they to be negated?"""
    bits = bits or {}
    if type(bits) is not dict or not all(key in ("conj", "neg") and type(bits[key]) is bool for key in bits):
        raise ValueError("a tensor with unknown metadata")
    return bits.get("conj", False), bits.get("neg", False)


def _parameter(data: Any, *_: Any) -> FileArray:
    if not isinstance(data, FileArray):
        raise ValueError("a Parameter of no tensor")
    return data


def _from_type(make: Any, kind: Any, args: Any, _state: Any) -> Any:
    if not isinstance(make, Known) or make.make is None or not make.name.startswith("torch._utils._rebuild"):
        raise ValueError("a tensor that is made by no tensor function")
    if not isinstance(kind, Known) or type(args) is not tuple:
        raise ValueError("a tensor of unknown class")
    return make.make(*args)


def _device_tensor(budget: Budget, data: Any, dtype: Any, _device: Any, _requires_grad: Any) -> Any:
    if not isinstance(dtype, np.dtype) or not isinstance(data, FileArray | np.ndarray):
        raise ValueError("a tensor of no dtype or without data")
    if data.dtype == dtype:
        return data
    budget.spend(data.size * dtype.itemsize)
    if isinstance(data, np.ndarray):
        return data.astype(dtype)
    return Derived(data, dtype, data.shape, lambda array: array.astype(dtype))


def _size(size: Any) -> tuple[int, ...]:
    if type(size) is not tuple or not all(type(n) is int for n in size):
        raise ValueError("a torch.Size of no numbers")
    return size


def _device(kind: Any, index: Any = None) -> str:
    if type(kind) is not str or not (index is None or type(index) is int):
        raise ValueError("a torch.device of no text")
    return kind if index is None else f"{kind}:{index}"


def _set_state(budget: Budget, target: Any, state: Any) -> bool:
    if isinstance(target, NumpyDtype):
        target.set_state(state)
    elif isinstance(target, np.ndarray):
        fill_array(budget, target, state)
    elif not (isinstance(target, FileArray) and type(state) is tuple):  # requires_grad and hooks of a Parameter
        return False
    return True


# -- the whole -------------------------------------------------------------------------------------------------------


def check_plain(path: str, root: Any, budget: Budget, pickled: int) -> None:
    """Nothing but plain data, of a depth and size that a program can walk through without a second thought.

    A file can hold one list twice in another, that one twice in a third, and so on: a hundred bytes that are 2**20
    lists to whoever copies them. So what is counted is what a copy would have.
    """
    nodes = 0
    limit = pickled + 100_000
    above: list[Any] = [root]
    below: list[Any] = [_inside(path, root)]
    while below:
        item = next(below[-1], _NO_MORE)
        if item is _NO_MORE:
            below.pop()
            above.pop()
            continue
        nodes += 1
        if nodes > limit:
            raise FileFormatError(f"{path!r} is refused: the same few containers are in each other again and again")
        if type(item) not in _CONTAINERS:
            _inside(path, item)
            continue
        budget.spend(80)
        above.append(item)
        if len(above) > _MAX_DEPTH:
            cyclic = any(item is other for other in above[:-1])
            what = "cyclic: a container is inside itself" if cyclic else f"nested more than {_MAX_DEPTH} deep"
            raise FileFormatError(f"{path!r} is refused: its data is {what}")
        below.append(_inside(path, item))


_NO_MORE = object()


def _inside(path: str, item: Any) -> Any:
    """What a container holds, keys too; raises for what is no plain data."""
    kind = type(item)
    if kind in (list, tuple, set, frozenset):
        return iter(item)
    if kind in _CONTAINERS:
        return chain(item.keys(), item.values(), item.__dict__.values() if kind is OrderedDict else ())
    if not isinstance(item, _PLAIN):
        if isinstance(item, View):
            raise FileFormatError(f"{path!r} is refused: it holds a bare storage; save a tensor, not its storage")
        name = getattr(item, "name", kind.__name__)  # of what the table of names gives
        raise FileFormatError(f"{path!r} is refused: it holds {name} itself, which is no data")
    return iter(())

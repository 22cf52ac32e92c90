"""Sequential, ModuleList, ModuleDict, ParameterList, ParameterDict: torch's containers."""

import operator
import warnings
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Self, TypeVar, overload

import jax

from ...core.box import Box
from ...core.parameter import Parameter
from ..module import Module

__all__ = ["Container", "ModuleDict", "ModuleList", "ParameterDict", "ParameterList", "Sequential"]

T = TypeVar("T", bound=Module)


def _position(index: Any, length: int) -> int:
    """A position in a container, counted from the end if negative."""
    index = operator.index(index)
    if not -length <= index < length:
        raise IndexError(f"index {index} is out of range")
    return index % length


class Container(Module):
    """Deprecated, as in torch, which warns too: subclass `Module` instead."""

    def __init__(self, **kwargs: Any) -> None:
        warnings.warn(
            "`nn.Container` is deprecated. All of its functionality is now implemented in `nn.Module`. "
            "Subclass that instead.",
            FutureWarning,
            stacklevel=2,
        )
        super().__init__()
        for name, module in kwargs.items():
            self.add_module(name, module)


class _Ordered(Module):
    """What Sequential and ModuleList share: submodules that are named by their place."""

    def _name(self, index: Any) -> str:
        return list(self._modules)[_position(index, len(self))]

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._modules.values())

    def _renumber(self, modules: Iterable[Module]) -> None:
        self._modules.reorder((str(i), module) for i, module in enumerate(modules))  # pyright: ignore

    def __delitem__(self, index: Any) -> None:
        names = list(self._modules)[index] if isinstance(index, slice) else [self._name(index)]
        for name in names:
            del self._modules[name]
        self._renumber(list(self._modules.values()))  # pyright: ignore[reportArgumentType]

    def append(self, module: Module) -> Self:
        """Add a module at the end."""
        self.add_module(str(len(self)), module)
        return self

    def _insert(self, index: int, module: Module) -> None:
        if not -len(self) <= index <= len(self):
            raise IndexError(f"Index out of range: {index}")
        modules = list(self)
        modules.insert(index, module)
        self._renumber(modules)

    def extend(self, modules: Iterable[Module]) -> Self:
        """Add several modules at the end."""
        if not isinstance(modules, Iterable):
            what = type(modules).__name__
            raise TypeError(f"{self._get_name()}.extend should be called with an iterable, but got {what}")
        for module in list(modules):
            self.append(module)
        return self

    def pop(self, key: Any) -> Module:
        """Take a module out and return it."""
        module = self[key]  # pyright: ignore[reportIndexIssue]
        del self[key]
        return module


class Sequential(_Ordered):
    """Modules called one after another: `forward(x) = m_n(… m_1(m_0(x)))`.

    Args:
        *args: modules, or one OrderedDict from names to modules.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> model(jnp.ones((5, 3))).shape
        (5, 2)
        >>> model[1]
        ReLU()
    """

    @overload
    def __init__(self, *args: Module) -> None: ...
    @overload
    def __init__(self, arg: "OrderedDict[str, Module]", /) -> None: ...
    def __init__(self, *args: Any) -> None:
        super().__init__()
        named = args[0].items() if len(args) == 1 and isinstance(args[0], OrderedDict) else enumerate(args)
        for name, module in named:
            self.add_module(str(name), module)

    def forward(self, input: Any) -> Any:
        """Call the modules in order."""
        for module in self:
            input = module(input)
        return input

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return type(self)(OrderedDict(list(self._modules.items())[index]))  # pyright: ignore
        return self._modules[self._name(index)]

    def __setitem__(self, index: int, module: Module) -> None:
        setattr(self, self._name(index), module)

    def insert(self, index: int, module: Module) -> Self:
        """Put a module before `index`."""
        if not isinstance(module, Module):
            raise AssertionError(f"module should be of type: {Module}")  # torch's type
        self._insert(index, module)
        return self

    def __add__(self, other: "Sequential") -> "Sequential":
        if not isinstance(other, Sequential):
            raise ValueError(f"add operator supports only objects of Sequential class, but {type(other)} is given.")
        return Sequential(*self, *other)

    def __iadd__(self, other: "Sequential") -> Self:
        if not isinstance(other, Sequential):
            raise ValueError(f"add operator supports only objects of Sequential class, but {type(other)} is given.")
        return self.extend(other)

    def __mul__(self, other: int) -> "Sequential":
        _check_times(other)
        return Sequential(*[module for _ in range(other) for module in self])

    def __rmul__(self, other: int) -> "Sequential":
        return self * other

    def __imul__(self, other: int) -> Self:
        _check_times(other)
        return self.extend([module for _ in range(other - 1) for module in list(self)])


def _check_times(other: Any) -> None:
    if not isinstance(other, int):
        raise TypeError(f"unsupported operand type(s) for *: {Sequential} and {type(other)}")
    if other <= 0:
        raise ValueError(f"Non-positive multiplication factor {other} for {Sequential}")


class ModuleList(_Ordered):
    """A list of modules that are registered.

    Args:
        modules: modules to start with.

    Example:
        >>> from jaxmodule import nn
        >>> layers = nn.ModuleList(nn.Linear(2, 2) for _ in range(3))
        >>> layers
        ModuleList(
          (0-2): 3 x Linear(in_features=2, out_features=2, bias=True)
        )
    """

    def __init__(self, modules: Iterable[Module] | None = None) -> None:
        super().__init__()
        if modules is not None:
            self.extend(modules)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return type(self)(list(self)[index])
        return self._modules[self._name(index)]

    def __setitem__(self, index: int, module: Module) -> None:
        setattr(self, self._name(index), module)

    def insert(self, index: int, module: Module) -> None:
        """Put a module before `index`."""
        if not isinstance(module, Module):
            raise TypeError(f"{type(module).__name__} is not a Module subclass")
        self._insert(index, module)

    def __iadd__(self, modules: Iterable[Module]) -> Self:
        return self.extend(modules)

    def __add__(self, other: Iterable[Module]) -> "ModuleList":
        return ModuleList([*self, *other])

    def __repr__(self) -> str:
        """Runs of modules that print alike are printed once, as torch does."""
        if not len(self):
            return f"{self._get_name()}()"
        runs: list[list[Any]] = []
        for i, text in enumerate(map(repr, self)):
            if runs and runs[-1][2] == text:
                runs[-1][1] = i
            else:
                runs.append([i, i, text])
        lines = []
        for first, last, text in runs:
            times = f"({first}): " if first == last else f"({first}-{last}): {last - first + 1} x "
            lines.append("  " + times + text.replace("\n", "\n  "))
        return f"{self._get_name()}(\n" + "\n".join(lines) + "\n)"


class ModuleDict(Module):
    """A dict of modules that are registered; it keeps the order of insertion.

    Args:
        modules: a mapping, or (name, module) pairs, to start with.

    Example:
        >>> from jaxmodule import nn
        >>> heads = nn.ModuleDict({"a": nn.Linear(2, 1), "b": nn.Identity()})
        >>> list(heads)
        ['a', 'b']
    """

    def __init__(self, modules: Mapping[str, Module] | Iterable[tuple[str, Module]] | None = None) -> None:
        super().__init__()
        if modules is not None:
            self.update(modules)

    def __getitem__(self, key: str) -> Any:
        return self._modules[key]

    def __setitem__(self, key: str, module: Module) -> None:
        self.add_module(key, module)

    def __delitem__(self, key: str) -> None:
        del self._modules[key]

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[str]:
        return iter(self._modules)

    def __contains__(self, key: object) -> bool:
        return key in self._modules

    def clear(self) -> None:
        """Take all modules out."""
        self._modules.clear()

    def pop(self, key: str) -> Module:
        """Take a module out and return it."""
        module = self[key]
        del self[key]
        return module

    def keys(self) -> Any:
        """The names."""
        return self._modules.keys()

    def items(self) -> Any:
        """The (name, module) pairs."""
        return self._modules.items()

    def values(self) -> Any:
        """The modules."""
        return self._modules.values()

    def update(self, modules: Mapping[str, Module] | Iterable[tuple[str, Module]]) -> None:
        """Add or replace modules."""
        for key, module in _pairs(modules, "ModuleDict"):
            self[key] = module


def _pairs(given: Any, what: str) -> list[tuple[str, Any]]:
    """The (name, value) pairs of what torch's `update` methods accept."""
    if isinstance(given, (ModuleDict, ParameterDict, Mapping)):
        return list(given.items())
    if not isinstance(given, Iterable):
        raise TypeError(
            f"{what}.update should be called with an iterable of key/value pairs, but got {type(given).__name__}"
        )
    found = []
    for i, pair in enumerate(given):
        if not isinstance(pair, Iterable):
            raise TypeError(f"{what} update sequence element #{i} should be Iterable; is {type(pair).__name__}")
        pair = list(pair)
        if len(pair) != 2:
            raise ValueError(f"{what} update sequence element #{i} has length {len(pair)}; 2 is required")
        found.append((pair[0], pair[1]))
    return found


def _as_parameter(value: Any) -> Any:
    """An array or a Buffer becomes a Parameter, as in torch; other values are kept."""
    return Parameter(value) if isinstance(value, (jax.Array, Box)) and not isinstance(value, Parameter) else value


def _describe(named: Iterable[tuple[Any, Any]]) -> str:
    """The extra_repr of the parameter containers, with torch's extra indentation."""
    lines = []
    for name, value in named:
        what = f"Object of type: {type(value).__name__}"
        if isinstance(value, Parameter):
            what = f"Parameter containing: [{value.dtype} of size {'x'.join(map(str, value.shape))}]"
        lines.append(f"  ({name}): {what}")
    return "\n".join(lines)


class ParameterList(Module):
    """A list of parameters that are registered; other values are kept as they are.

    Args:
        values: what to start with; an array becomes a Parameter.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> scales = nn.ParameterList([jnp.ones(2), jnp.ones(3)])
        >>> [name for name, _ in scales.named_parameters()]
        ['0', '1']
    """

    def __init__(self, values: Iterable[Any] | None = None) -> None:
        super().__init__()
        self._size = 0
        if values is not None:
            self.extend(values)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return type(self)(list(self)[index])
        return getattr(self, str(_position(index, len(self))))

    def __setitem__(self, index: int, value: Any) -> None:
        setattr(self, str(_position(index, len(self))), _as_parameter(value))

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[Any]:
        return iter(self[i] for i in range(len(self)))

    def __iadd__(self, values: Iterable[Any]) -> Self:
        return self.extend(values)

    def append(self, value: Any) -> Self:
        """Add a value at the end."""
        setattr(self, str(len(self)), _as_parameter(value))
        self._size += 1
        return self

    def extend(self, values: Iterable[Any]) -> Self:
        """Add several values at the end."""
        if not isinstance(values, Iterable) or isinstance(values, (jax.Array, Box)):
            raise TypeError(f"ParameterList.extend should be called with an iterable, but got {type(values).__name__}")
        for value in list(values):
            self.append(value)
        return self

    def extra_repr(self) -> str:
        return _describe(enumerate(self))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("ParameterList should not be called.")


class _MissingKeyError(KeyError, AttributeError):
    """What a dict raises, and what torch's ParameterDict does."""


class ParameterDict(Module):
    """A dict of parameters that are registered; other values are kept as they are.

    Args:
        parameters: a mapping, or (name, value) pairs, to start with; an array becomes a Parameter. A plain dict is
            taken in the order of its sorted keys, as in torch.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> p = nn.ParameterDict({"left": jnp.ones(2)})
        >>> list(p.keys())
        ['left']
    """

    def __init__(self, parameters: Any = None) -> None:
        super().__init__()
        self._keys: tuple[str, ...] = ()
        if parameters is not None:
            self.update(parameters)

    def _attribute(self, key: Any) -> str:
        if not isinstance(key, str):
            raise TypeError(f"ParameterDict's keys are strings, got {type(key).__name__}")
        return key

    def __getitem__(self, key: str) -> Any:
        name = self._attribute(key)
        if key not in self._keys:
            raise _MissingKeyError(key)
        return getattr(self, name)

    def __setitem__(self, key: str, value: Any) -> None:
        name = self._attribute(key)
        setattr(self, name, _as_parameter(value))
        if key not in self._keys:
            self._keys = (*self._keys, key)

    def __delitem__(self, key: str) -> None:
        if key not in self._keys:
            raise KeyError(key)
        self._keys = tuple(k for k in self._keys if k != key)
        delattr(self, self._attribute(key))

    def __len__(self) -> int:
        return len(self._keys)

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __reversed__(self) -> Iterator[str]:
        return reversed(self._keys)

    def __contains__(self, key: object) -> bool:
        return key in self._keys

    def copy(self) -> "ParameterDict":
        """A new ParameterDict of the same parameters."""
        return ParameterDict(OrderedDict((key, self[key]) for key in self._keys))

    def setdefault(self, key: str, default: Any = None) -> Any:
        """The value under `key`, which is set to `default` if it is not there."""
        if key not in self:
            self[key] = default
        return self[key]

    def clear(self) -> None:
        """Take all values out."""
        for key in self._keys:
            del self[key]

    def pop(self, key: str) -> Any:
        """Take a value out and return it."""
        value = self[key]
        del self[key]
        return value

    def popitem(self) -> tuple[str, Any]:
        """Take the last (name, value) pair out and return it."""
        if not self._keys:
            raise KeyError("popitem(): ParameterDict is empty")
        key = self._keys[-1]
        return key, self.pop(key)

    def get(self, key: str, default: Any = None) -> Any:
        """The value under `key`, or `default`."""
        return self[key] if key in self else default

    def fromkeys(self, keys: Iterable[str], default: Any = None) -> "ParameterDict":
        """A new ParameterDict with `default` under each of `keys`."""
        return ParameterDict((key, default) for key in keys)

    def keys(self) -> Any:
        """The names."""
        return dict.fromkeys(self._keys).keys()

    def items(self) -> Any:
        """The (name, value) pairs."""
        return [(key, self[key]) for key in self._keys]

    def values(self) -> Any:
        """The values."""
        return [self[key] for key in self._keys]

    def update(self, parameters: Any) -> None:
        """Add or replace values."""
        pairs = _pairs(parameters, "ParameterDict")
        if isinstance(parameters, Mapping) and not isinstance(parameters, OrderedDict):
            pairs.sort(key=operator.itemgetter(0))  # torch's order, which that of optimizers' states follows
        for key, value in pairs:
            self[key] = value

    def __or__(self, other: "ParameterDict") -> "ParameterDict":
        new = self.copy()
        new.update(other)
        return new

    def __ror__(self, other: Any) -> Any:
        new = other.copy()
        new.update(self)
        return new

    def __ior__(self, other: Mapping[str, Any]) -> Self:
        self.update(other)
        return self

    def extra_repr(self) -> str:
        return _describe(self.items())

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("ParameterDict should not be called.")

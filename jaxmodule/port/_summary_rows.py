"""What a summary says of each module, as plain data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp

from ..core.box import Box
from ..core.parameter import Parameter
from ..nn.module import Module
from ._summary_trace import Call

_SHORT = {"float": "f", "bfloat": "bf", "int": "i", "uint": "u", "complex": "c"}


@dataclass
class SummaryRow:
    """One module. Counts and bytes are of the module with all that is below it.

    Attributes:
        path: its dotted name, "" for the model.
        names: all its dotted names, where there are several.
        depth: how far below the model it is.
        type: the name of its class.
        extra: its `extra_repr()`.
        training: its mode.
        calls: its calls in order; empty where it is not called, or no inputs were given.
        params, trainable, frozen: numbers of elements of its parameters. One that is tied to a parameter met before
            counts there.
        tied: for each such parameter, its name here and the name that it counts under.
        uninitialized: names of the parameters and buffers that have no shape so far.
        buffers: the number of elements of its buffers.
        param_bytes, buffer_bytes: their sizes.
        dtypes: of its parameters, each once.
        shardings: how its own parameters and buffers (not those below) are laid out, for those on several devices:
            {name: partition spec}.
        flops, flops_backward: of all its calls together; None where they are not known.
        at_least: whether a loop of unknown length is in it, of which one turn is counted.
    """

    path: str
    type: str
    extra: str
    depth: int
    training: bool
    names: tuple[str, ...] = ()
    calls: list[Call] = field(default_factory=list)
    params: int = 0
    trainable: int = 0
    frozen: int = 0
    buffers: int = 0
    param_bytes: int = 0
    buffer_bytes: int = 0
    tied: dict[str, str] = field(default_factory=dict)
    uninitialized: tuple[str, ...] = ()
    dtypes: tuple[str, ...] = ()
    shardings: dict[str, str] = field(default_factory=dict)
    flops: float | None = None
    flops_backward: float | None = None
    at_least: bool = False

    @property
    def name(self) -> str:
        """The last part of its path."""
        return self.path.rpartition(".")[2]

    def as_dict(self) -> dict[str, Any]:
        """Numbers, text, lists and dicts only, as JSON has."""
        out = {k: list(v) if isinstance(v, tuple) else v for k, v in self.__dict__.items() if k != "calls"}
        inputs = [shown(call.args, call.kwargs) for call in self.calls]
        return {**out, "inputs": inputs, "outputs": [shown((call.output,), {}) for call in self.calls]}


def rows_of(model: Module, calls: dict[str, list[Call]]) -> list[SummaryRow]:
    """A row for each module of the tree, in the order of `named_modules`."""
    every = list(model.named_modules(remove_duplicate=False))
    home: dict[Box, str] = {}
    for path, module in every:
        for name, box in _own(module):
            home.setdefault(box, f"{path}.{name}" if path else name)
    names: dict[int, list[str]] = {}
    for path, module in every:
        names.setdefault(id(module), []).append(path)
    rows = []
    for path, module in model.named_modules():
        row = SummaryRow(path, module._get_name(), module.extra_repr(), path.count(".") + bool(path), module.training)
        row.names = tuple(names[id(module)])
        row.calls = calls.get(path, [])
        _count(row, module, home)
        _sum_flops(row)
        rows.append(row)
    return rows


def _own(module: Module) -> Iterator[tuple[str, Box]]:
    for registry in (module._parameters, module._buffers):
        for name, box in registry.items():
            if box is not None:
                yield name, box


def _count(row: SummaryRow, module: Module, home: dict[Box, str]) -> None:
    prefix = f"{row.path}." if row.path else ""
    lazy: list[str] = []
    dtypes: dict[str, None] = {}
    seen: set[Box] = set()
    for path, inner in module.named_modules(prefix=row.path):
        for name, box in _own(inner):
            full = f"{path}.{name}" if path else name
            first = home[box]
            if not first.startswith(prefix):
                row.tied[full] = first
            elif first != full and box in seen:
                row.tied[full] = first
            if box in seen or not first.startswith(prefix):
                continue
            seen.add(box)
            if box._lazy:
                lazy.append(full)
                continue
            size = int(box.size)
            nbytes = size * box.dtype.itemsize
            if not isinstance(box, Parameter):
                row.buffers += size
                row.buffer_bytes += nbytes
                continue
            dtypes[short_dtype(box.dtype)] = None
            row.params += size
            row.param_bytes += nbytes
            row.trainable += size if box.requires_grad else 0
            row.frozen += 0 if box.requires_grad else size
    row.uninitialized = tuple(lazy)
    row.dtypes = tuple(dtypes)
    row.shardings = {name: spec for name, box in _own(module) if (spec := _spec(box))}


def _spec(box: Box) -> str:
    """The partition of a box's array over several devices, "" for one device."""
    sharding = None if box._lazy else getattr(box.value, "sharding", None)
    if sharding is None or len(sharding.device_set) == 1:
        return ""
    if not isinstance(sharding, jax.sharding.NamedSharding):
        return f"{type(sharding).__name__} over {len(sharding.device_set)}"
    parts = [p if p is None else "+".join(p) if isinstance(p, tuple) else str(p) for p in sharding.spec]
    return f"P({', '.join('–' if part is None else part for part in parts)})"


def _sum_flops(row: SummaryRow) -> None:
    of_calls = [call.flops for call in row.calls]
    backward = [call.flops_backward for call in row.calls]
    row.flops = sum(of_calls) if of_calls and None not in of_calls else None  # pyright: ignore
    row.flops_backward = sum(backward) if backward and None not in backward else None  # pyright: ignore
    row.at_least = any(call.at_least for call in row.calls)


# -- in few words -------------------------------------------------------------------------------------------------


def short_dtype(dtype: Any) -> str:
    """A dtype as JAX abbreviates it: f32, bf16, i64."""
    name = str(jnp.dtype(dtype)) if not jnp.issubdtype(dtype, jax.dtypes.extended) else str(dtype)
    kind = name.rstrip("0123456789")
    return _SHORT[kind] + name[len(kind) :] if kind in _SHORT else name


def shown(args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """The arguments of a call, or its output as the only one: dtypes and shapes."""
    return ", ".join([*map(_shown, args), *[f"{key}={_shown(value)}" for key, value in kwargs.items()]])


def _shown(x: Any) -> str:
    if isinstance(x, jax.ShapeDtypeStruct):
        return f"{short_dtype(x.dtype)}[{','.join(map(str, x.shape))}]"
    if isinstance(x, dict):
        return "{" + ", ".join(f"{key}: {_shown(value)}" for key, value in x.items()) + "}"
    if isinstance(x, (list, tuple)):
        inside = ", ".join(map(_shown, x))
        return f"[{inside}]" if isinstance(x, list) else f"({inside})"
    if x is None or isinstance(x, (bool, int, float, str)):
        text = repr(x)
        return text if len(text) <= 20 else type(x).__name__
    if jax.tree_util.tree_structure(x).num_leaves and not isinstance(x, Module):
        leaves = jax.tree.leaves(x)
        if not (len(leaves) == 1 and leaves[0] is x):
            return f"{type(x).__name__}({', '.join(map(_shown, leaves))})"
    return type(x).__name__


def _three(n: float) -> str:
    return f"{n:.2f}" if n < 9.995 else f"{n:.1f}" if n < 99.95 else f"{n:.0f}"


def big(n: float) -> str:
    """A count with three digits and K, M, G, T, P."""
    for unit in ("", "K", "M", "G", "T", "P"):
        if abs(n) < 999.5 or unit == "P":
            return f"{_three(n)} {unit}" if unit else f"{n:.0f}"
        n /= 1000
    return ""


def size(n: int) -> str:
    """Bytes with three digits and KiB, MiB, ..."""
    value = float(n)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB", "PiB"):
        if value < 999.5 or unit == "PiB":
            return f"{n} B" if unit == "B" else f"{_three(value)} {unit}"
        value /= 1024
    return ""

"""Why a `jm.jit` function was traced again: a record of its traces, and the warning that compares them."""

import os
import sys
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ..core.context import Tracer
from ._jit_diff import box_paths, structure_differences

_KEPT = 8  # traces to compare with
_LIMIT = 4  # the trace that warns: the third time that a function is traced again
_MOST = 6  # differences to name
_HERE = (os.path.dirname(os.path.dirname(os.path.abspath(__file__))), os.path.dirname(os.path.abspath(jax.__file__)))


class RetraceWarning(UserWarning):
    """One `jm.jit` function is traced and compiled again and again. The message says what differs between the calls."""


class Trace(NamedTuple):
    """What one trace was made for."""

    key: Any
    avals: list[Any]
    names: tuple[list[str], list[str]]


class History:
    """The last traces of one `jm.jit` function."""

    def __init__(self, label: str) -> None:
        self.label = label
        self.count = 0
        self.traces: list[Trace] = []

    def note(
        self,
        key: Any,
        names: Callable[..., tuple[list[str], list[str]]],
        treedef: Any,
        statics: Any,
        objects: list[Any],
        values: list[Any],
        leaves: list[Any],
    ) -> None:
        """Keep a trace; warn if it is one too many."""
        arrays = [*values, *leaves]
        if not all(isinstance(x, Tracer) for x in arrays):  # jax.disable_jit: a plain call
            return
        trace = Trace(key, [x.aval for x in arrays], names(treedef, objects, statics))
        before = self.traces.copy()
        self.traces = [*before, trace][-_KEPT:]
        self.count += 1
        if self.count == _LIMIT:
            found = [differences(earlier, trace) for earlier in before]
            _warn(self._message(min(reversed(found), key=len)))

    def clear(self) -> None:
        """Forget all."""
        self.count = 0
        self.traces = []

    def _message(self, found: list[str]) -> str:
        if not found:
            found = [
                "nothing in its arguments: the function changes their structure on each call, or JAX's own context "
                "differs (configuration, mesh, an outer transform, cleared caches)"
            ]
        more = [f"… and {len(found) - _MOST} more"] if len(found) > _MOST else []
        lines = "\n".join(f"  - {line}" for line in [*found[:_MOST], *more])
        return (
            f"jm.jit({self.label}) was traced {self.count} times: each trace compiles a new program. "
            f"Against the nearest earlier one this one differs in\n{lines}\n"
            "Keep that the same from call to call (pad to few shapes; pass what varies as an array), or compile a "
            "function for each. This is said once for each function."
        )


def differences(before: Trace, now: Trace) -> list[str]:
    """What differs between two traces, most telling first."""
    found = program_differences(before.key, now.key, before.names[1], now.names[1])
    if before.key[0] == now.key[0] and before.key[1] is now.key[1]:
        old, new = (list(map(described, trace.avals)) for trace in (before, now))
        return array_differences(now.key, old, new, *now.names) + found
    count = len(before.names[0])
    older, newer = (
        {name: described(aval) for name, aval in zip(reversed(t.names[0]), reversed(t.avals), strict=False)}
        for t in (before, now)
    )
    found += [
        f"{name}: {older[name]} -> {newer[name]}" for name in newer if older.get(name, newer[name]) != newer[name]
    ]
    found += [f"{name}: {older[name]} -> not there" for name in older if name not in newer]
    found += [f"{name}: not there -> {newer[name]}" for name in newer if name not in older]
    if count == len(now.names[0]) and before.key[0] != now.key[0] and not found:
        found.append(f"the containers of the arguments: {before.key[0]} -> {now.key[0]}")
    return found


def program_differences(before: Any, now: Any, roots_before: list[str], roots_now: list[str]) -> list[str]:
    """What differs between two programs' keys: static arguments, structure, and the modes around the call."""
    (_, old_structure, old_modes, old_statics), (_, new_structure, new_modes, new_statics) = before, now
    found: list[str] = []
    older, newer = (
        {name: (kind, value) for name, kind, value in statics or ()} for statics in (old_statics, new_statics)
    )
    for name in {**older, **newer}:
        if older.get(name) != newer.get(name):
            old, new = (repr(s[name][1]) if name in s else "not given" for s in (older, newer))
            found.append(f"static argument {name!r}: {old} -> {new}")
    if old_structure is not new_structure:
        found += structure_differences(old_structure.key, new_structure.key, roots_before, roots_now)
    for what, old, new in zip(
        (
            "no_grad",
            "parametrize.cached",
            "jm.autocast",
            "what jm.capture (or jm.inference, jm.debug) watches",
            "process-wide hooks",
        ),
        old_modes,
        new_modes,
        strict=True,
    ):
        if old != new:
            was, now_is = ("on" if (any(side) if isinstance(side, tuple) else side) else "off" for side in (old, new))
            found.append(f"{what}: {was} -> {now_is}" if was != now_is else what)
    return found


def array_differences(key: Any, before: list[str], now: list[str], arguments: list[str], roots: list[str]) -> list[str]:
    """The arrays of two calls of equal structure whose shapes or dtypes differ; those of boxes come first in both."""
    paths = box_paths(key[1].key, roots)
    boxes = len(now) - len(arguments)
    names = [paths[i] if i < len(paths) else "a gradient, or an array in a container" for i in range(boxes)]
    pairs = zip([*names, *arguments], before, now, strict=True)
    return sorted(
        (f"{name}: {old} -> {new}" for name, old, new in pairs if old != new),
        key=lambda line: line.split(":")[0] in paths,
    )


def described(x: Any) -> str:
    """What of an array makes programs differ, as `float32[2, 3]`."""
    dtype = getattr(x, "dtype", None)
    weak = isinstance(x, (bool, int, float, complex)) if dtype is None else getattr(x, "weak_type", False)
    dtype = jnp.result_type(x) if dtype is None else dtype
    shape = getattr(x, "shape", ())
    if not jnp.issubdtype(dtype, jax.dtypes.extended):
        dtype = jax.dtypes.canonicalize_dtype(dtype)
    return f"{dtype}{list(shape)}{' (a Python number)' if weak else ''}"


def _warn(message: str) -> None:
    """Warn at the line that called into this package: JAX's frames are in between, so no fixed number of levels is."""
    frame: Any = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_HERE):
        frame = frame.f_back
    registry = frame.f_globals.setdefault("__warningregistry__", {})
    warnings.warn_explicit(message, RetraceWarning, frame.f_code.co_filename, frame.f_lineno, registry=registry)

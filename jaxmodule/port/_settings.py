"""How two modules of the same name are configured, compared attribute by attribute."""

from typing import Any

import jax
import numpy as np

from ._tree import is_array, to_numpy

__all__ = ["LIBRARIES", "activation_name", "different_settings", "different_weights"]

LIBRARIES = ("torch", "jaxmodule")
_IGNORED = {
    "training",
    "inplace",
    "in_place",
    "call_super_init",
    "device",
    "dtype",
    "activation_relu_or_gelu",  # the same as `activation`
    "name",
    "transposed",
    "dump_patches",
    "sparse",  # how torch stores gradients
    "return_indices",
}
_MISSING = object()
_REMARKS = {
    "eps": "a different constant under the square root",
    "momentum": "only seen in training: it moves the running statistics",
    "approximate": "GELU's exact form and its tanh approximation are different functions",
    "padding_mode": "only the border differs",
    "count_include_pad": "only windows at the border differ",
    "batch_first": "the first two axes are swapped",
    "norm_first": "the norm comes before or after the residual sum",
    "align_corners": "the sampling grid is another",
    "track_running_stats": "without them, evaluation uses the batch's own statistics",
}


def library_of(module: Any) -> str:
    """The library that a module's class is from, torch or jaxmodule; "" for a class of the user's."""
    top = type(module).__module__.partition(".")[0]
    return top if top in LIBRARIES else ""


def activation_name(value: Any) -> str | None:
    """The name of a function or an activation module that is an attribute."""
    if isinstance(value, type) or not callable(value):
        return None
    name = getattr(value, "__name__", None) or type(value).__name__
    return name.lower()


def _simple(value: Any) -> Any:
    """A value that can be compared between frameworks, else `_MISSING`."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (tuple, list)):
        parts = [_simple(part) for part in value]
        if _MISSING in parts:
            return _MISSING
        return parts[0] if parts and all(part == parts[0] for part in parts) else tuple(parts)  # 3 is (3, 3)
    return _MISSING


def different_settings(theirs: Any, ours: Any) -> list[tuple[str, str, str, str]]:
    """(attribute, torch's value, the port's, remark) for each attribute that both have and that is not the same."""
    found: list[tuple[str, str, str, str]] = []
    if theirs.training != ours.training:
        modes = ["training" if m.training else "evaluation" for m in (theirs, ours)]
        found.append(("training", f"{modes[0]} mode", f"{modes[1]} mode", "does a train() of its own keep it there?"))
    kinds = type(theirs).__name__, type(ours).__name__
    of_library = library_of(theirs) and library_of(ours)
    if of_library and kinds[0] != kinds[1] and kinds != ("NonDynamicallyQuantizableLinear", "Linear"):
        found.append(("class", kinds[0], kinds[1], ""))
    for name, value in vars(theirs).items():
        if name.startswith("_") or name in _IGNORED or name not in vars(ours):
            continue
        mine = vars(ours)[name]
        if is_array(value) or is_array(mine):
            continue
        pair = _simple(value), _simple(mine)
        if _MISSING in pair:
            pair = activation_name(value), activation_name(mine)
            if None in pair:
                continue
        if pair[0] != pair[1] and not _almost(*pair):
            found.append((name, _shown(value, pair[0]), _shown(mine, pair[1]), _REMARKS.get(name, "")))
    for name, value in theirs._parameters.items():
        mine = ours._parameters.get(name, _MISSING)
        if mine is not _MISSING and (value is None) != (mine is None):
            there = ["none" if x is None else "there" for x in (value, mine)]
            found.append((name, there[0], there[1], ""))
    return found


def _almost(a: Any, b: Any) -> bool:
    numbers = isinstance(a, (int, float)) and isinstance(b, (int, float)) and bool not in (type(a), type(b))
    return numbers and abs(a - b) <= 1e-12 * max(abs(a), abs(b))


def _shown(value: Any, simple: Any) -> str:
    return repr(value) if isinstance(value, (bool, int, float, str, tuple, list, type(None))) else str(simple)


def different_weights(theirs: Any, ours: Any) -> list[tuple[str, str]]:
    """(name, what) for each parameter and buffer of the modules themselves whose values are not the same."""
    found: list[tuple[str, str]] = []
    for registry in ("_parameters", "_buffers"):
        for name, value in getattr(theirs, registry).items():
            mine = getattr(ours, registry).get(name)
            if value is None or mine is None:
                continue
            a, b = to_numpy(value), to_numpy(mine)
            if a.shape == b.shape and np.array_equal(a.astype(b.dtype), b):
                if np.dtype(jax.dtypes.canonicalize_dtype(a.dtype)).itemsize > b.dtype.itemsize:
                    found.append((name, f"torch's in a lower precision ({b.dtype}, torch {a.dtype})"))
                continue
            if a.ndim == 2 and a.T.shape == b.shape and np.array_equal(a.T.astype(b.dtype), b):
                found.append((name, "transposed"))
            elif a.shape != b.shape:
                found.append((name, f"of shape {b.shape}, torch's is {a.shape}"))
            else:
                found.append((name, "another value than torch's"))
    return found

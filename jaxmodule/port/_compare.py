"""How far two arrays are from each other: absolutely, relatively, and in units in the last place.

*Scale* of an array: its largest finite magnitude. Tolerances are relative to it rather than to each value, as values
that cancel to almost zero carry the rounding of the large ones that they came from.
"""

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

__all__ = ["Difference", "compare", "default_rtol", "ulp_distance", "wide"]

# A few hundred roundings of each type; what is more is a mistake, or rounding that float64 can tell from one.
_RTOL = {"float64": 1e-9, "complex128": 1e-9, "float32": 1e-5, "complex64": 1e-5, "float16": 5e-3, "bfloat16": 3e-2}


@dataclass(frozen=True)
class Difference:
    """What `compare` finds.

    Attributes:
        shape: torch's.
        dtype: the port's, and torch's where they are not the same but for the width of integers.
        max_abs: the largest absolute difference.
        max_rel: that, relative to the largest magnitude in torch's array.
        ulp: the largest number of representable values between two elements, in the port's dtype; None for integers.
        close: whether it is within the tolerance.
        note: what a number can't say: other shapes, NaN, dtypes.
    """

    shape: tuple[int, ...]
    dtype: str
    max_abs: float
    max_rel: float
    ulp: int | None
    close: bool
    note: str = ""


def default_rtol(dtype: Any) -> float:
    """The tolerance of torch's dtype, as far as JAX has it here: float64 counts as float32 while x64 is off."""
    return _RTOL.get(str(jax.dtypes.canonicalize_dtype(dtype)), 0.0)


def wide(array: np.ndarray) -> np.ndarray:
    """The array in float64 or complex128; integers and flags as float64."""
    return array.astype(np.complex128 if array.dtype.kind == "c" else np.float64)


def compare(
    theirs: np.ndarray, ours: np.ndarray, rtol: float | None, atol: float | None, floor: float = 0.0
) -> Difference:
    """Compare torch's array with the port's.

    Args:
        theirs, ours: the arrays.
        rtol: of torch's scale; None for the dtype's own. Integers and flags must be equal.
        atol: added to it; None for 1e-8, or nothing where `rtol` is given.
        floor: the least scale.
    """
    shape = tuple(theirs.shape)
    names = str(theirs.dtype), str(ours.dtype)
    same_kind = str(jax.dtypes.canonicalize_dtype(theirs.dtype)) == names[1] or names[0] == names[1]
    dtype = names[1] if same_kind else f"{names[1]} (torch {names[0]})"
    if shape != ours.shape:
        note = f"shape {tuple(ours.shape)} in the port"
        return Difference(shape, dtype, np.inf, np.inf, None, False, note)
    exact = theirs.dtype.kind in "iub" and ours.dtype.kind in "iub"
    a, b = wide(theirs), wide(ours)
    ulp = None if exact or not _is_real(ours.dtype) else ulp_distance(theirs.astype(ours.dtype), ours)
    if not a.size:
        return Difference(shape, dtype, 0.0, 0.0, ulp, True, "empty")
    finite = np.isfinite(a) & np.isfinite(b)
    strange = ~finite & ~((a == b) | (np.isnan(a) & np.isnan(b)))
    scale = max(float(np.max(np.abs(a), where=np.isfinite(a), initial=0.0)), floor)
    with np.errstate(invalid="ignore", over="ignore"):
        max_abs = float(np.max(np.abs(a - b), where=finite, initial=0.0))
    max_rel = max_abs / scale if scale else (np.inf if max_abs else 0.0)
    if exact:
        return Difference(shape, dtype, max_abs, max_rel, ulp, max_abs == 0.0)
    if atol is None:
        atol = 1e-8 if rtol is None else 0.0
    limit = atol + (default_rtol(theirs.dtype) if rtol is None else rtol) * scale
    note = _strange(a, b, strange) if strange.any() else ""
    if strange.any():
        max_abs = max_rel = np.inf
    elif not same_kind:
        note = f"{names[1]}, torch's is {names[0]}"
    return Difference(shape, dtype, max_abs, max_rel, ulp, max_abs <= limit, note)


def _strange(a: np.ndarray, b: np.ndarray, strange: np.ndarray) -> str:
    only = {"the port": ~np.isfinite(b) & np.isfinite(a), "torch": ~np.isfinite(a) & np.isfinite(b)}
    parts = [f"{int(where.sum())} of {a.size} values are NaN or inf in {who} only" for who, where in only.items()]
    counts = [part for part, where in zip(parts, only.values(), strict=True) if where.any()]
    return (
        "; ".join(counts)
        or f"{int(strange.sum())} values are NaN on one side, inf on the other, or inf of the other sign"
    )


def _is_real(dtype: Any) -> bool:
    return dtype.itemsize <= 8 and bool(jax.numpy.issubdtype(dtype, np.floating))


def ulp_distance(a: np.ndarray, b: np.ndarray) -> int:
    """The largest number of steps between neighbouring values from `a` to `b`; both of one floating-point dtype."""
    bits = np.dtype(f"u{a.dtype.itemsize}")
    finite = np.isfinite(wide(a)) & np.isfinite(wide(b))
    x, y = _ordered(a[finite], bits), _ordered(b[finite], bits)
    return int(np.max(np.maximum(x, y) - np.minimum(x, y), initial=0))


def _ordered(array: np.ndarray, bits: np.dtype) -> np.ndarray:
    """Unsigned integers in the order of the values; -0.0 and 0.0 are one."""
    raw = np.ascontiguousarray(array).view(bits)
    sign = bits.type(1 << (8 * bits.itemsize - 1))
    return np.where(raw & sign, sign - (raw & (sign - bits.type(1))), sign + raw).astype(bits)

"""What two arrays that differ have to do with each other: layout, scale, offset, position, precision."""

import itertools
import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..nn import functional as F
from ._compare import wide

__all__ = ["Cause", "applied", "relations"]

_LAYOUTS: dict[tuple[int, ...], str] = {
    (0, 2, 3, 1): "NHWC where torch has NCHW",
    (0, 3, 1, 2): "NCHW where torch has NHWC",
}
_MOST = 4_000_000  # elements for which orders are searched


@dataclass(frozen=True)
class Cause:
    """Something that explains a difference.

    Attributes:
        kind: one word: "settings", "class", "mode", "arguments", "weights", "layout", "scale", "offset", "mask",
            "border", "nan", "precision", "function", "calls", "order", "detached", "dtype", "structure", "unknown".
        says: what is probably wrong.
        evidence: what it was seen from.
    """

    kind: str
    says: str
    evidence: str

    def __str__(self) -> str:
        return f"{self.says} ({self.evidence})" if self.evidence else self.says


def near(a: np.ndarray, b: np.ndarray, rtol: float = 1e-5) -> bool:
    """Are they equal to `rtol` of the first's scale?"""
    if a.shape != b.shape or not a.size:
        return False
    return bool(np.max(np.abs(a - b)) <= rtol * max(np.max(np.abs(a)), 1e-30))


def relations(theirs: np.ndarray, ours: np.ndarray, rtol: float) -> list[Cause]:
    """All that is found, the most telling first."""
    if not theirs.size or not ours.size:
        return []
    a, b = wide(theirs), wide(ours)
    if a.dtype.kind == "c" or b.dtype.kind == "c":
        a, b = a.astype(np.complex128), b.astype(np.complex128)
    found = _dtype(theirs, ours)
    finite = np.isfinite(a).all() and np.isfinite(b).all()
    if finite:
        found += _layout(a, b, max(rtol, 1e-6))
    if a.shape != b.shape or found[len(_dtype(theirs, ours)) :]:
        return found
    if not finite:
        return found + _nan(a, b)
    rtol = max(rtol, 1e-6)
    return found + (_scale(a, b, rtol) or _per_channel(a, b, rtol) or _places(a, b, rtol)) + _rounded(theirs, ours, b)


def _dtype(theirs: np.ndarray, ours: np.ndarray) -> list[Cause]:
    names = str(theirs.dtype), str(ours.dtype)
    if str(jax.dtypes.canonicalize_dtype(theirs.dtype)) == names[1] or names[0] == names[1]:
        limit = np.iinfo(np.int32).max
        if names == ("int64", "int32") and theirs.size and max(abs(int(theirs.max())), abs(int(theirs.min()))) > limit:
            largest = int(theirs.max())
            return [
                Cause("precision", "64-bit integers are cut to 32 bits; set jax_enable_x64", f"torch has {largest}")
            ]
        return []
    evidence = f"the port's array is {names[1]}, torch's is {names[0]}"
    if theirs.dtype.kind == "f" and _bits(ours) < _bits(theirs):
        return [Cause("precision", f"the port computes in {names[1]}", evidence)]
    return [Cause("dtype", "the dtypes are not the same", evidence)]


def _bits(array: np.ndarray) -> int:
    return array.dtype.itemsize * 8


# -- order -----------------------------------------------------------------------------------------------------------


def _layout(a: np.ndarray, b: np.ndarray, rtol: float) -> list[Cause]:
    if a.size != b.size or a.size > _MOST:
        return []
    if a.ndim == b.ndim and 2 <= a.ndim <= 5:
        for axes in itertools.permutations(range(a.ndim)):
            if axes != tuple(range(a.ndim)) and near(a.transpose(axes), b, rtol):
                what = _LAYOUTS.get(axes, "an axis order of its own" if a.ndim > 2 else "transposed")
                return [Cause("layout", f"the port has {what}", f"its array is torch's with the axes {axes}")]
    if a.shape != b.shape:
        flat = near(a.ravel(), b.ravel(), rtol)
        evidence = f"{b.shape} in the port, {a.shape} in torch"
        if flat:
            return [Cause("layout", "the same values in another shape: a reshape is missing or too many", evidence)]
        return []
    x, y = a.ravel(), b.ravel()
    if a.dtype.kind == "c" or not near(np.sort(x), np.sort(y), rtol):
        return []
    for axis in range(a.ndim):
        if near(np.flip(a, axis), b, rtol):
            return [Cause("layout", f"axis {axis} runs backwards in the port", "its array is torch's, flipped")]
        for by in {1, -1, a.shape[axis] // 2} - {0}:
            if near(np.roll(a, by, axis), b, rtol):
                return [Cause("layout", f"axis {axis} is shifted by {by}", "its array is torch's, rolled")]
    says = (
        "the same values in another order: a reshape where torch permutes or transposes first, or the other way round"
    )
    return [Cause("layout", says, "sorted, both arrays are equal")]


# -- size ------------------------------------------------------------------------------------------------------------


def _ratio(a: np.ndarray, b: np.ndarray) -> float:
    total = float(np.sum(np.abs(a) ** 2))
    return float(np.sum(np.real(a.conj() * b))) / total if total else math.nan


def _scale(a: np.ndarray, b: np.ndarray, rtol: float) -> list[Cause]:
    if not np.any(b):
        return [Cause("scale", "the port gives zeros", f"torch's largest value is {np.max(np.abs(a)):.3g}")]
    ratio = _ratio(a, b)
    if math.isfinite(ratio) and abs(ratio - 1) > 10 * rtol and near(ratio * a, b, 10 * rtol) and a.size > 1:
        known = _known(ratio, a.shape)
        says = "the sign is the other one" if abs(ratio + 1) < 1e-4 else "a factor is missing or too many"
        return [Cause("scale", says, f"the port's values are {ratio:.6g} times torch's{known}")]
    offset = b - a
    mean = offset.mean()
    if a.size > 1 and near(np.full_like(offset, mean), offset, 1e-3) and abs(mean) > rtol * np.max(np.abs(a)):
        return [Cause("offset", "a constant is missing or too many", f"the port's values are torch's {mean.real:+.6g}")]
    return []


def _known(ratio: float, shape: tuple[int, ...]) -> str:
    for size in sorted({*shape, 2, 8, 16, 32, 64, 128, 256, 512, 768, 1024}):
        if size > 1:
            for text, value in (
                (f"√{size}", math.sqrt(size)),
                (f"1/√{size}", 1 / math.sqrt(size)),
                (f"1/{size}", 1 / size),
            ):
                if abs(ratio / value - 1) < 1e-4:
                    return f": {text}"
    if 1 < ratio <= 10:
        return f"; 1/(1-p) of a dropout with p={1 - 1 / ratio:.4g}"
    return ""


def _per_channel(a: np.ndarray, b: np.ndarray, rtol: float) -> list[Cause]:
    """One offset or factor for each index along an axis: a bias or a weight that is missing, or there twice."""
    for axis in dict.fromkeys((1, a.ndim - 1)):
        if a.ndim < 2 or axis >= a.ndim or a.size // a.shape[axis] < 3:
            continue
        x, y = (np.moveaxis(z, axis, 0).reshape(a.shape[axis], -1) for z in (a, b))
        offset = (y - x).mean(1, keepdims=True)
        if near(x + offset, y, 10 * rtol):
            says = f"an offset for each index of axis {axis}: a bias or mean is missing, or there twice"
            return [Cause("offset", says, f"the port's minus torch's is constant along the others, {_few(offset)}")]
        power = np.sum(np.abs(x) ** 2, 1, keepdims=True)
        factor = np.sum(x.conj() * y, 1, keepdims=True) / np.where(power == 0, 1, power)
        if near(x * factor, y, 10 * rtol):
            says = f"a factor for each index of axis {axis}: a weight or scale is missing, or there twice"
            return [Cause("scale", says, f"the port's values are torch's times {_few(factor)}")]
    return []


def _few(values: np.ndarray) -> str:
    shown = ", ".join(f"{x.real:.4g}" for x in values.ravel()[:3])
    return shown + (", …" if values.size > 3 else "")


# -- place -----------------------------------------------------------------------------------------------------------


def _places(a: np.ndarray, b: np.ndarray, rtol: float) -> list[Cause]:
    """Do they differ in some places only?"""
    wrong = np.abs(a - b) > rtol * np.max(np.abs(a))
    share = f"{100 * wrong.mean():.0f}% of the values differ"
    if a.ndim >= 3:
        border = wrong.copy()
        sides = range(2, a.ndim) if a.ndim > 3 else range(a.ndim - 1, a.ndim)
        width = max(1, min(a.shape[i] for i in sides) // 4)
        inside = tuple(slice(width, -width) if i in sides else slice(None) for i in range(a.ndim))
        border[inside] = False
        if all(a.shape[i] >= 3 for i in sides) and wrong.any() and not wrong[inside].any() and wrong[inside].size:
            return [
                Cause("border", "padding: what lies beyond the border is another", f"only the border differs, {share}")
            ]
    for axis in range(a.ndim):
        along = wrong.any(tuple(i for i in range(a.ndim) if i != axis))
        right = np.flatnonzero(~along)
        if a.shape[axis] < 2 or not right.size or not along.any():
            continue
        where = f"along axis {axis}"
        if right.tolist() == [a.shape[axis] - 1] and a.ndim > 1:
            says = "a mask: a causal one is missing, or too many"
            return [Cause("mask", says, f"{where} everything but the last position differs")]
        if axis < a.ndim - 1 or a.ndim == 1:
            bad = np.flatnonzero(along)
            says = "a mask, a slice or an index: only some positions differ"
            return [Cause("mask", says, f"{where} positions {_ranges(bad)} differ, the others agree")]
    if wrong.mean() < 0.5:
        negative = a[wrong & (a != b)]
        if negative.size and (b[wrong] == 0).all():
            return [Cause("mask", "a mask or a clamp: the port has zeros where torch has none", share)]
        if negative.size and (negative == 0).all():
            return [Cause("mask", "a mask or a clamp: torch has zeros where the port has none", share)]
    return []


def _ranges(places: np.ndarray) -> str:
    if places.size > 1 and (np.diff(places) == 1).all():
        return f"{places[0]} to {places[-1]}"
    return ", ".join(map(str, places[:6])) + (", …" if places.size > 6 else "")


def _nan(a: np.ndarray, b: np.ndarray) -> list[Cause]:
    for mine, other, who in ((b, a, "the port"), (a, b, "torch")):
        strange = ~np.isfinite(mine) & np.isfinite(other)
        if strange.any():
            rows = strange.reshape(-1, strange.shape[-1]) if strange.ndim else strange.reshape(1, 1)
            whole = rows.all(1).any()
            says = (
                "a softmax over a row that is masked throughout" if whole else "a division, logarithm or root of zero"
            )
            rows_note = "whole rows of the last axis" if whole else f"{int(strange.sum())} of {a.size} values"
            return [Cause("nan", f"NaN or inf in {who} only: {says}?", rows_note)]
    return [Cause("nan", "NaN and inf are in different places", "")]


# -- precision and functions -----------------------------------------------------------------------------------------


def _rounded(theirs: np.ndarray, ours: np.ndarray, b: np.ndarray) -> list[Cause]:
    """Were the port's float32 values ones of a smaller type?"""
    if ours.dtype != np.float32 or ours.size < 8:
        return []
    for name in ("bfloat16", "float16"):
        dtype = jnp.dtype(name)
        with np.errstate(over="ignore"):
            mine, other = (np.array_equal(x.astype(dtype).astype(x.dtype), x) for x in (ours, theirs))
        if mine and not other and np.any(b != np.round(b)):
            return [
                Cause("precision", f"the port computes this in {name}", f"its float32 values are all {name} numbers")
            ]
    return []


def _functions() -> dict[str, Any]:
    return {
        "nothing": lambda x: x,
        "relu": F.relu,
        "gelu (exact)": F.gelu,
        "gelu (approximate='tanh')": lambda x: F.gelu(x, approximate="tanh"),
        "silu": F.silu,
        "tanh": jnp.tanh,
        "sigmoid": F.sigmoid,
        "elu": F.elu,
        "softplus": F.softplus,
        "leaky_relu (0.01)": F.leaky_relu,
        "leaky_relu (0.2)": lambda x: F.leaky_relu(x, 0.2),
        "relu6": F.relu6,
        "hardswish": F.hardswish,
        "mish": F.mish,
        "gelu (sigmoid form)": lambda x: x * F.sigmoid(1.702 * x),
        "softmax over the last axis": lambda x: F.softmax(x, dim=-1),
        "softmax over axis 1": lambda x: F.softmax(x, dim=1),
        "log_softmax over the last axis": lambda x: F.log_softmax(x, dim=-1),
        "negation": lambda x: -x,
        "normalize over the last axis": lambda x: F.normalize(x, dim=-1),
    }


def applied(before: np.ndarray, after: np.ndarray) -> str | None:
    """The function that makes `after` of `before`, if it is one of the usual ones."""
    if before.shape != after.shape or before.dtype.kind != "f" or not np.isfinite(wide(before)).all():
        return None
    x = jnp.asarray(before)
    fits: list[tuple[float, str]] = []
    for name, function in _functions().items():
        if name.endswith("axis 1") and x.ndim < 2:
            continue
        found = wide(np.asarray(function(x)))
        error = float(np.max(np.abs(found - wide(after)), initial=0.0))
        fits.append((error, name))
    error, name = min(fits)
    return name if error <= 1e-5 * max(float(np.max(np.abs(wide(after)), initial=0.0)), 1e-30) else None

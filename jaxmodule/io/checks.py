"""What every reader asks of the numbers and the JSON in a file before it believes them."""

import json
import math
from typing import Any

import numpy as np

from .errors import FileFormatError

__all__ = ["brief", "byte_count", "read_json"]

_MAX_NDIM = 64  # numpy's


def byte_count(path: str, name: str, shape: tuple[Any, ...], dtype: np.dtype) -> int:
    """The bytes of an array whose shape comes from a file; raises for one that no array can have."""
    if len(shape) > _MAX_NDIM or not all(type(n) is int and n >= 0 for n in shape):
        raise FileFormatError(f"{path!r} is damaged: {name!r} has the shape {brief(shape)}")
    # numpy counts an empty array's other dimensions too.
    if math.prod(n or 1 for n in shape) * dtype.itemsize >= 1 << 63:
        raise FileFormatError(f"{path!r} is damaged: {name!r} has the shape {brief(shape)}, larger than any array")
    return math.prod(shape) * dtype.itemsize


def read_json(path: str, what: str, text: str | bytes) -> dict[str, Any]:
    """The JSON object that `text` is, checked for names that occur twice."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        out = dict(pairs)
        if len(out) != len(pairs):
            raise ValueError("a name occurs twice")
        return out

    try:
        if isinstance(text, bytes):
            text = text.decode()
        # A real header has a bracket every 15 bytes; objects of nothing would take 30 times the memory of their text.
        if text.count("[") + text.count("{") > 1000 + len(text) // 6:
            raise ValueError("nothing but brackets")
        value = json.loads(text, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:  # also wrong UTF-8
        raise FileFormatError(f"{path!r} is damaged: its {what} is no JSON ({error})") from error
    if not isinstance(value, dict):
        raise FileFormatError(f"{path!r} is damaged: its {what} is not a JSON object")
    return value


def brief(value: Any) -> str:
    """`repr`, cut after a line's length: what is in a damaged file may be long."""
    text = repr(value)
    return text if len(text) <= 200 else text[:200] + " ..."

"""What optimizers are given, brought into one form: groups, and names of parameters."""

import warnings
from collections.abc import Iterable, Mapping
from typing import Any

from ..core.parameter import Parameter

Groups = Any  # parameters, (name, parameter) pairs, or dicts of torch's form


def as_groups(params: Any) -> list[Any]:
    """Torch's forms of `params` as a list of group dicts."""
    given = list(params.named() if hasattr(params, "named") else params)
    if not given:
        raise ValueError("optimizer got an empty parameter list")
    return given if isinstance(given[0], Mapping) else [{"params": given}]


def pairs_of(params: Any) -> list[tuple[str, Parameter]]:
    """(name, parameter) pairs of a group, each parameter once; "" where no name is known."""
    if isinstance(params, set):
        raise TypeError(
            "optimizer parameters need to be organized in ordered collections; use a list instead of a set."
        )
    if isinstance(params, Parameter):
        params = [params]
    found: dict[Parameter, str] = {}
    for item in params.named() if hasattr(params, "named") else params:
        name, box = item if isinstance(item, tuple) else (getattr(item, "name_hint", ""), item)
        if not isinstance(box, Parameter):
            raise TypeError(f"optimizer can only optimize Parameters, but one of the params is {type(box).__name__}")
        if box in found:
            warnings.warn("optimizer contains a parameter group with duplicate parameters", UserWarning, stacklevel=4)
        found.setdefault(box, str(name))
    return [(name, box) for box, name in found.items()]


def unique(name: str, taken: Iterable[str]) -> str:
    """`name`, or `name#1`, `name#2`, … where that is taken."""
    candidate, n = name, 0
    while candidate in taken:
        n += 1
        candidate = f"{name}#{n}"
    return candidate

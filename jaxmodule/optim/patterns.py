"""Parameter groups by patterns of names: `jm.optim.groups(model, {"*.bias": dict(weight_decay=0)})`."""

from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from ..core.parameter import Parameter
from ..nn.module import Module

__all__ = ["PatternGroups", "groups"]

Patterns = Mapping[str | tuple[str, ...], Mapping[str, Any] | None]

REST = "*"


class Row(NamedTuple):
    """A line of the table."""

    pattern: str
    tensors: int
    parameters: int
    frozen: int
    options: str


class PatternGroups(list[dict[str, Any]]):
    """A list of torch's group dicts that prints as a table of what each pattern covers.

    Attributes:
        rows: the lines of the table: pattern, tensors, parameters, how many of these are frozen, and hyper-parameters.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], rows: Iterable[Row]) -> None:
        super().__init__(groups)
        self.rows = list(rows)

    def _cells(self) -> Iterator[tuple[str, ...]]:
        frozen = any(row.frozen for row in self.rows)
        yield ("pattern", "tensors", "parameters", *(("frozen",) if frozen else ()), "hyper-parameters")
        for row in self.rows:
            counts = (row.tensors, row.parameters, *((row.frozen,) if frozen else ()))
            yield (row.pattern, *(f"{count:,}" for count in counts), row.options)

    def __str__(self) -> str:
        lines = list(self._cells())
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        last = len(widths) - 1
        return "\n".join(
            "  ".join(
                cell.ljust(width) if i in (0, last) else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in lines
        )

    __repr__ = __str__

    def __rich__(self) -> Any:
        from rich.table import Table  # deferred: only needed for printing

        header, *lines = self._cells()
        table = Table()
        for i, name in enumerate(header):
            table.add_column(name, justify="left" if i in (0, len(header) - 1) else "right")
        for line in lines:
            table.add_row(*line)
        return table


def groups(model: Module | Iterable[tuple[str, Parameter]], patterns: Patterns) -> PatternGroups:
    """Parameter groups for an optimizer, by the names of the parameters.

    Args:
        model: the module, or `named_parameters()` of it.
        patterns: hyper-parameters by pattern, in the order of the groups. A pattern is a shell's: `*` stands for
            anything, dots included, `?` for one character, `[ab]` for one of these; several that share a group are a
            tuple. `"*"` is what no other pattern covers, which without it has the optimizer's defaults. None in place
            of the hyper-parameters leaves the parameters out of the optimizer.

    Returns:
        A list of group dicts, for any optimizer; printed, it is a table of what each pattern covers.

    Raises:
        ValueError: a pattern covers nothing, or two cover one parameter.

    Note:
        A tied parameter has several names: a pattern that covers one of them covers it.

    Example:
        >>> import jaxmodule as jm
        >>> from jaxmodule import nn
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 2))
        >>> groups = jm.optim.groups(model, {("*.bias", "1.*"): dict(weight_decay=0), "2.*t": dict(lr=1e-4)})
        >>> groups
        pattern    tensors  parameters  hyper-parameters
        *.bias 1.*       4          26  weight_decay=0
        2.*t             1          16  lr=0.0001
        (the rest)       1          32  the optimizer's defaults
        >>> optimizer = jm.optim.AdamW(groups, lr=1e-3)
        >>> [group["lr"] for group in optimizer.param_groups]
        [0.001, 0.0001, 0.001]
    """
    names = _names(model)
    keyed = {key: key if isinstance(key, tuple) else (key,) for key in patterns if key != REST}
    owner: dict[Parameter, Any] = {}
    found: dict[Any, list[tuple[str, Parameter]]] = {key: [] for key in (*keyed, REST)}
    for box, aliases in names.items():
        for key, globs in keyed.items():
            if any(fnmatchcase(alias, glob) for alias in aliases for glob in globs):
                if box in owner:
                    raise ValueError(
                        f"the patterns {_text(owner[box])!r} and {_text(key)!r} both cover the parameter "
                        f"{aliases[0]!r}. Make one of them narrower, or, for the same hyper-parameters, make them one "
                        f"group: {(*keyed[owner[box]], *globs)}: dict(...)."
                    )
                owner[box] = key
        found[owner.get(box, REST)].append((aliases[0], box))
    every = [alias for aliases in names.values() for alias in aliases]
    for globs in keyed.values():
        for glob in globs:
            if not any(fnmatchcase(name, glob) for name in every):
                raise ValueError(f"the pattern {glob!r} covers no parameter{_near(glob, every)}")
    if REST in patterns and not found[REST]:
        raise ValueError(f"the pattern {REST!r} covers no parameter: the others cover all {len(names)}")
    return _made(found, {**patterns, REST: patterns.get(REST, {})}, told=REST in patterns)


def _made(found: dict[Any, list[tuple[str, Parameter]]], patterns: Patterns, told: bool) -> PatternGroups:
    """The groups, in the order of the patterns, and the lines of their table."""
    made = []
    rows = []
    for key, options in patterns.items():
        named = found[key]
        if not named:
            continue
        if options is not None:
            if {"params", "names"} & options.keys():
                raise ValueError(f"the pattern {_text(key)!r}: its hyper-parameters cannot have 'params' or 'names'")
            made.append({"params": named, **options})
        text = ", ".join(f"{name}={value!r}" for name, value in options.items()) if options is not None else "left out"
        name = _text(key) if key != REST or told else "(the rest)"
        frozen = sum(p.size for _, p in named if not p.requires_grad)
        rows.append(Row(name, len(named), sum(p.size for _, p in named), frozen, text or "the optimizer's defaults"))
    return PatternGroups(made, rows)


def _names(model: Any) -> dict[Parameter, list[str]]:
    """Each parameter with all of its names."""
    if isinstance(model, Module):
        pairs = model.named_parameters(remove_duplicate=False)
    else:
        pairs = model.named() if hasattr(model, "named") else model
    names: dict[Parameter, list[str]] = {}
    for pair in pairs:
        if not (isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[1], Parameter)):
            raise TypeError(f"groups() takes a module or its named_parameters(), got {type(pair).__name__} in there")
        names.setdefault(pair[1], []).append(str(pair[0]))
    return names


def _text(key: str | tuple[str, ...]) -> str:
    return key if isinstance(key, str) else " ".join(key)


def _near(glob: str, names: list[str]) -> str:
    close = get_close_matches(glob.replace("*", ""), names, n=3, cutoff=0.4) or names[:3]
    return f"; names near it: {', '.join(map(repr, close))}" if close else ": there are none"

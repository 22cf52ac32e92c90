"""Writes docs/api/: a page for each part of the package, with a line for each public name.

    python .ci/api_pages.py [--check]

mkdocstrings makes the reference of those lines, from the docstrings. `--check` only says which pages are out of date.
"""

import argparse
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jaxmodule as jm
from jaxmodule import nn
from jaxmodule.nn import functional, init, utils

PAGES = Path(__file__).parent.parent / "docs" / "api"


def documented(owner: Any, names: Any) -> Iterator[tuple[str, Any]]:
    """The names that have a docstring of their own."""
    for name in names:
        value = getattr(owner, name)
        if (
            not inspect.ismodule(value)
            and inspect.getdoc(value)
            and getattr(value, "__module__", "").startswith("jaxmodule")
        ):
            yield name, value


def entry(value: Any) -> str:
    """The line that stands for a function or a class."""
    return f"::: {value.__module__}.{value.__qualname__}\n"


def family(value: Any) -> str:
    """The heading that a name is under: the file it is in."""
    return value.__module__.rpartition(".")[2].lstrip("_").replace("_", " ")


def page(title: str, intro: str, entries: list[Any], by_family: bool = False) -> str:
    """The text of a page."""
    parts = [f"# {title}\n", f"{intro}\n"] if intro else [f"# {title}\n"]
    seen: set[str] = set()
    groups: dict[str, list[str]] = {}
    for value in entries:
        line = entry(value)
        if line not in seen:
            seen.add(line)
            groups.setdefault(family(value) if by_family else "", []).append(line)
    for name, lines in groups.items():
        parts += [f"## {name}\n", *lines] if name else lines
    return "\n".join(parts)


def pages() -> dict[str, str]:
    """The text of each page, by name."""
    top = dict(documented(jm, jm.__all__))
    transforms = [v for v in top.values() if v.__module__.startswith("jaxmodule.transforms")]
    files = [v for v in top.values() if v.__module__.startswith("jaxmodule.io")]
    files += [v for _, v in documented(jm.io, jm.io.__all__)]
    port = [v for v in top.values() if v.__module__.startswith("jaxmodule.port")]
    rest = [v for v in top.values() if v not in transforms and v not in files and v not in port]
    layers = [v for _, v in documented(nn, dir(nn)) if inspect.isclass(v) and ".modules." in v.__module__]
    state = [nn.Module, nn.Parameter, nn.Buffer, *rest, jm.debug.nans]
    return {
        "transforms": page("Transforms", "All of them are in `jaxmodule`, as `jm.jit`.", transforms),
        "modules": page("Modules and state", "", state),
        "layers": page("Layers", "All of them are in `jaxmodule.nn`.", layers, True),
        "functional": page(
            "Functional",
            "All of them are in `jaxmodule.nn.functional`.",
            [v for _, v in documented(functional, functional.__all__)],
            True,
        ),
        "init": page(
            "Initialisers", "All of them are in `jaxmodule.nn.init`.", [v for _, v in documented(init, init.__all__)]
        ),
        "utils": page(
            "Utilities",
            "All of them are in `jaxmodule.nn.utils`.",
            [v for _, v in documented(utils, utils.__all__)],
            True,
        ),
        "optim": page(
            "Optimizers",
            "All of them are in `jaxmodule.optim`.",
            [v for _, v in documented(jm.optim, jm.optim.__all__)],
        ),
        "files": page("Files", "", files),
    }


def main() -> None:
    """Write the pages, or check them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if a page is out of date")
    check = parser.parse_args().check
    PAGES.mkdir(exist_ok=True)
    for name, text in pages().items():
        path = PAGES / f"{name}.md"
        if not check:
            path.write_text(text)
        elif not path.exists() or path.read_text() != text:
            sys.exit(f"docs/api/{name}.md is out of date: run python .ci/api_pages.py")


if __name__ == "__main__":
    main()

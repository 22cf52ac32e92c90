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

    def of(part: str) -> list[Any]:
        return [v for v in top.values() if v.__module__.startswith(f"jaxmodule.{part}")]

    def of_module(module: Any) -> list[Any]:
        return [v for _, v in documented(module, module.__all__)]

    own = [nn.Module, nn.Parameter, nn.Buffer, *of("core"), *of("nn"), *of("func"), *of("random"), jm.debug.nans]
    layers = [v for _, v in documented(nn, dir(nn)) if inspect.isclass(v) and ".modules." in v.__module__]
    optim = [*of_module(jm.optim), *of_module(jm.optim.lr_scheduler), *of_module(jm.optim.swa_utils)]
    every = "All of them are in `jaxmodule"
    return {
        "transforms": page("Transforms", f"{every}`, as `jm.jit`.", of("transforms")),
        "modules": page("Modules and state", "", own),
        "layers": page("Layers", f"{every}.nn`.", layers, True),
        "functional": page("Functional", f"{every}.nn.functional`.", of_module(functional), True),
        "init": page("Initialisers", f"{every}.nn.init`.", of_module(init)),
        "utils": page("Utilities", f"{every}.nn.utils`.", of_module(utils), True),
        "optim": page("Optimizers", "In `jaxmodule.optim`, `.lr_scheduler` and `.swa_utils`.", optim),
        "amp": page("Mixed precision", f"{every}.amp`.", of_module(jm.amp)),
        "files": page("Files", "", [*of("io"), *of_module(jm.io)]),
        "port": page("Porting", f"{every}.port`.", of_module(jm.port)),
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

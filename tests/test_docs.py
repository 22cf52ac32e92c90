"""Every example that a reader can copy runs: docstrings, README.md, docs/."""

import ast
import doctest
import importlib
import importlib.util
import pkgutil
import re
import runpy
import warnings
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmodule as jm
from jaxmodule import nn
from jaxmodule.nn import functional as F

ROOT = Path(__file__).parent.parent
ORACLE = importlib.util.find_spec("torch") is not None


def can_run(text: str) -> bool:
    """Where torch isn't installed, what imports it is left out: the other run of CI has it."""
    return ORACLE or not re.search(r"^\W*(import .*\btorch\b|from torch\b)", text, re.MULTILINE)


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^```python(?: title=\"(.*)\")?\n((?s:.*?))^```$", re.MULTILINE)
# Blocks with these titles are of another library: they run where it is installed, apart from the page's others.
OTHERS = {"PyTorch": "torch", "Equinox": "equinox"}

# What an example may use without importing it: the names that every page of the documentation uses.
NAMES = {"jax": jax, "jnp": jnp, "np": np, "jm": jm, "nn": nn, "F": F}
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def blocks(page: Path) -> Iterator[tuple[int, str | None, str]]:
    """Line, title and code."""
    text = page.read_text()
    for match in FENCE.finditer(text):
        yield text.count("\n", 0, match.start()) + 1, *match.groups()


def runs(page: Path) -> bool:
    return all(can_run(code) for _, title, code in blocks(page) if title not in OTHERS)


@pytest.mark.each
@pytest.mark.parametrize("page", [page for page in PAGES if runs(page)], ids=lambda page: str(page.relative_to(ROOT)))
def test_page(page, tmp_path, monkeypatch):
    """The blocks of a page run one after the other in one namespace, as a reader would type them in."""
    monkeypatch.chdir(tmp_path)
    namespaces: dict = {title: {"__name__": "__main__"} for title in (None, *OTHERS)}
    # What a reader has: optax.adam fails under the suite's strict promotion.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        for line, title, code in blocks(page):
            if title in OTHERS and importlib.util.find_spec(OTHERS[title]) is None:
                continue
            tree = ast.parse(code, str(page))
            ast.increment_lineno(tree, line)  # a failure points into the page
            with warnings.catch_warnings():
                if title in OTHERS:
                    warnings.simplefilter("ignore")  # what they import is not ours to mend
                exec(compile(tree, str(page), "exec"), namespaces[title if title in OTHERS else None])


def test_every_fence_of_code_is_one_that_runs():
    """`py`, `Python` or an indented fence would never be executed."""
    for page in PAGES:
        opened = re.findall(r"^[ \t]*```+[ \t]*(\w+)", page.read_text(), re.MULTILINE)
        assert set(opened) <= {"python", "bash", "text"}, page
        assert opened.count("python") == len(list(blocks(page))), page


def test_the_reference_has_every_public_name():
    found = runpy.run_path(str(ROOT / ".ci" / "api_pages.py"))["pages"]()
    for name, text in found.items():
        assert (ROOT / "docs" / "api" / f"{name}.md").read_text() == text, "run `make reference`"


def documented() -> list[doctest.DocTest]:
    absent = {f"jaxmodule.nn.{name}" for name in nn._ABSENT}  # they raise when they are imported
    names = [found.name for found in pkgutil.walk_packages(jm.__path__, "jaxmodule.") if found.name not in absent]
    finder = doctest.DocTestFinder(exclude_empty=True)
    modules = [importlib.import_module(name) for name in ["jaxmodule", *names]]
    tests = [test for module in modules for test in finder.find(module) if test.examples]
    tests = [test for test in tests if can_run(test.docstring)]
    return list({(test.filename, test.lineno, test.name): test for test in tests}.values())


@pytest.mark.each
@pytest.mark.parametrize("example", documented(), ids=lambda example: example.name)
def test_docstring(example, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert not any(doctest.SKIP in line.options for line in example.examples), "no example is skipped"
    example.globs = {**NAMES, **example.globs}
    report: list[str] = []
    doctest.DocTestRunner(optionflags=FLAGS).run(example, out=report.append)
    assert not report, "".join(report)

"""docs/coverage.md is what tests/parity/coverage.py makes of the installed torch, and nothing is missing."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from tests.parity import coverage

PAGE = Path(__file__).parents[2] / "docs" / "coverage.md"


def test_no_name_is_missing() -> None:
    assert [entry.path for entry in coverage.entries() if entry.state == "missing"] == []


def test_every_other_signature_has_its_reason() -> None:
    differing = [f"{e.path}: {e.note}" for e in coverage.entries() if e.state == "differs"]
    assert [line for line in differing if line.partition(": ")[0] not in coverage.DIFFERS] == []


def test_the_written_lists_hold_no_name_that_is_not_there() -> None:
    states = {entry.path: entry.state for entry in coverage.entries()}
    assert [path for path in coverage.ABSENT if states.get(path) != "absent"] == []
    assert [path for path in coverage.REFUSES if states.get(path) != "refuses"] == []
    assert [path for path in coverage.DIFFERS if states.get(path) != "differs"] == []


def test_no_public_method_of_a_module_is_missing() -> None:
    assert sorted(coverage.missing_methods()) == []


@pytest.mark.parametrize("path", coverage.REFUSES)
def test_what_refuses_names_the_remedy(path: str) -> None:
    place, _, name = path.rpartition(".")
    with pytest.raises(NotImplementedError, match="jax.NamedSharding"):
        getattr(importlib.import_module(f"jaxmodule.{place}"), name)(None)


@pytest.mark.parametrize("name", [path.removeprefix("nn.") for path in coverage.ABSENT if path.count(".") == 1])
def test_what_is_absent_says_why(name: str) -> None:
    nn = importlib.import_module("jaxmodule.nn")
    with pytest.raises(AttributeError, match=f"no attribute '{name}': it is not here: torch has deprecated it"):
        getattr(nn, name)


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text() == coverage.render(), "run `make coverage`"

"""A bounded number of altered files of every format; `make fuzz` goes on for as long as one likes."""

from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.corpus import seeds
from tests.fuzz.mutate import mutate
from tests.fuzz.target import Finding, check

CORPUS = seeds()
OTHERS = [seed.data for seed in CORPUS]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("fuzz"))
    for seed in CORPUS:  # what is imported late is imported now, before anybody looks
        assert check(folder, seed, seed.data, repaired=False) == "same"
    return folder


def one(folder: str, which: int, number: int, mmap: bool) -> None:
    seed = CORPUS[which]
    data, repaired = mutate(Random(number), seed.data, OTHERS)
    check(folder, seed, data, repaired, mmap=mmap)


CASES = given(which=st.integers(0, len(CORPUS) - 1), number=st.integers(0, 2**64), mmap=st.booleans())
AS_IS = {"deadline": None, "derandomize": True, "database": None, "suppress_health_check": list(HealthCheck)}


@settings(max_examples=600, **AS_IS)
@CASES
def test_altered_files(folder, which, number, mmap):
    one(folder, which, number, mmap)


@pytest.mark.slow
@settings(max_examples=20_000, **AS_IS)
@CASES
def test_many_altered_files(folder, which, number, mmap):
    one(folder, which, number, mmap)


@pytest.mark.parametrize("seed", CORPUS, ids=lambda seed: seed.name)
def test_every_length(folder, seed):
    """Cut off at every place of a small file, at some of a large one; a few lengths are files of their own."""
    step = max(1, len(seed.data) // 60)
    for size in range(0, len(seed.data), step):
        check(folder, seed, seed.data[:size], repaired=False)


def test_findings_are_found(folder, monkeypatch):
    seed = next(seed for seed in CORPUS if seed.name == "ours.pt")
    other = next(seed for seed in CORPUS if seed.name == "big.pt")
    with pytest.raises(Finding, match="another value"):
        check(folder, seed, other.data, repaired=False)

    def load(path, mmap):
        with open(path + ".new", "w"):
            pass

    monkeypatch.setattr("jaxmodule.load", load)
    with pytest.raises(Finding, match="it did open for writing"):
        check(folder, seed, seed.data, repaired=False)

    def fail(path, mmap):
        raise KeyError(path)

    monkeypatch.setattr("jaxmodule.load", fail)
    with pytest.raises(KeyError):
        check(folder, seed, seed.data, repaired=False)

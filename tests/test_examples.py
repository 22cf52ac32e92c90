"""The training scripts of examples/, with settings small enough for a test: they run, and they repeat."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


def run(script: str, *arguments: str) -> str:
    command = [sys.executable, "-W", "error", str(EXAMPLES / script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def fingerprint(output: str) -> str:
    found = re.search(r"sha256 of the weights: ([0-9a-f]{64})", output)
    assert found, output
    return found[1]


def test_digits_help():
    output = run("digits.py", "--help")
    assert all(option in output for option in ("--seed", "--epochs", "--out"))


@pytest.mark.slow
def test_digits_trains_saves_reloads_and_repeats(tmp_path):
    first = run("digits.py", "--epochs", "1", "--out", str(tmp_path / "first"))
    again = run("digits.py", "--epochs", "1", "--out", str(tmp_path / "again"))
    other = run("digits.py", "--epochs", "1", "--seed", "1", "--out", str(tmp_path / "other"))

    assert fingerprint(first) == fingerprint(again)
    assert fingerprint(first) != fingerprint(other)
    assert "the reloaded model gives the same outputs: True" in first
    assert (tmp_path / "first" / "digits.safetensors").read_bytes() == (
        tmp_path / "again" / "digits.safetensors"
    ).read_bytes()
    assert (tmp_path / "first" / "digits.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_digits_reaches_98_percent(tmp_path):
    output = run("digits.py", "--out", str(tmp_path))
    found = re.search(r"accuracy on the held-out fifth: ([0-9.]+)%", output)
    assert found, output
    assert float(found[1]) >= 98.0

"""The training scripts of examples/, with settings small enough for a test: they run, and they repeat."""

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"


def run(script: str, *arguments: str) -> str:
    command = [sys.executable, "-W", "error", str(EXAMPLES / script), *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def fingerprint(output: str) -> str:
    found = re.search(r"sha256 of the weights: ([0-9a-f]{64})", output)
    assert found, output
    return found[1]


def test_digits_seed_decides_the_held_out_digits():
    load_data = runpy.run_path(str(EXAMPLES / "digits.py"))["load_data"]
    (_, (held_out, labels)), (_, (again, _)), (_, (other, _)) = load_data(0), load_data(0), load_data(1)
    assert (held_out == again).all()
    assert not (held_out == other).all()
    assert np.bincount(labels).min() >= 34  # of 174 to 183 a digit: a fifth of each


@pytest.mark.slow
def test_digits_trains_saves_reloads_and_repeats(tmp_path):
    first = run("digits.py", "--epochs", "1", "--seed", "3", "--out", str(tmp_path / "first"))
    again = run("digits.py", "--epochs", "1", "--seed", "3", "--out", str(tmp_path / "again"))

    assert fingerprint(first) == fingerprint(again)
    assert "the reloaded model gives the same outputs: True" in first
    assert (tmp_path / "first" / "digits.safetensors").read_bytes() == (
        tmp_path / "again" / "digits.safetensors"
    ).read_bytes()
    assert (tmp_path / "first" / "digits.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_digits_reaches_98_percent(tmp_path):
    output = run("digits.py", "--out", str(tmp_path))
    found = re.search(r"final: accuracy ([0-9.]+) %", output)
    assert found, output
    assert float(found[1]) >= 98.0

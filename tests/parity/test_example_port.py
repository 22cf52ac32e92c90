"""examples/port_pytorch.py, with settings small enough for a test."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent.parent
SCRIPT = ROOT / "examples" / "port_pytorch.py"


def run(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "120"}
    command = [sys.executable, "-W", "error", str(SCRIPT), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0 or not check, done.stderr
    return done


def test_help_says_what_to_install():
    told = run("--help").stdout
    assert all(option in told for option in ("--seed", "--epochs", "--out", "--weights", "pip install torch"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [(("--epochs", "0"), "must be at least 1"), (("--weights", "no.pt"), "--weights: there is no file no.pt")],
)
def test_bad_options(arguments, message):
    done = run(*arguments, check=False)
    assert done.returncode == 2
    assert message in done.stderr


@pytest.mark.slow
def test_it_ports_fine_tunes_and_gives_back(tmp_path):
    told = " ".join(run("--epochs", "1", "--torch-epochs", "1", "--out", str(tmp_path)).stdout.split())
    assert "agrees: 17 module calls agree" in told
    assert "12 buffers agree" in told
    found = re.search(r"largest relative difference (\S+)", told)
    assert found
    assert float(found[1]) < 1e-5
    assert set(torch.load(tmp_path / "fine_tuned.pt", weights_only=True)) == set(
        torch.load(tmp_path / "original.pt", weights_only=True)["model"]
    )
    assert "final: the port agrees with PyTorch, then accuracy " in told
    assert (tmp_path / "port.png").read_bytes().startswith(b"\x89PNG")

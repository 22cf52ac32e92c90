"""The benchmarks still run, and what they compare is the same. Times are never asserted; bytes are."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from benchmarks import memory

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_dispatch_runs_and_agrees_with_raw_jax(optimizer):
    """The script itself compares the outputs, and the loss after ten steps, with those of raw JAX."""
    arguments = "--blocks 2 --frameworks jm --repeats 2 --slice 0.001 --json --markdown --optimizer".split()
    command = [sys.executable, str(ROOT / "benchmarks" / "dispatch.py"), *arguments, optimizer]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    figures, end = json.JSONDecoder().raw_decode(done.stdout)
    (result,) = figures["results"]
    assert (result["framework"], result["tensors"]) == ("jm", 12)
    assert [timing["what"] for timing in result["timings"]] == ["forward", "train step"]
    assert "`jm.jit`" in done.stdout[end:]


def test_layers_run_and_agree():
    """The script itself compares outputs and gradients of all sides."""
    arguments = ["--only", "1x1 in 4 groups", "--repeats", "1", "--slice", "0.001", "--markdown"]
    command = [sys.executable, str(ROOT / "benchmarks" / "layers.py"), *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    (row,) = [line for line in done.stdout.splitlines() if "1x1 in 4 groups" in line]
    assert row.count("|") == 9


def test_load_runs():
    command = [sys.executable, str(ROOT / "benchmarks" / "load.py"), *"--mb 1 --repeats 1 --only jm --markdown".split()]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("|") > 10


@pytest.mark.parametrize("model", ["GPT", pytest.param("ResNet-18", marks=pytest.mark.slow)])
def test_training_steps_agree(model):
    """The script itself compares the losses of five steps."""
    command = [
        sys.executable,
        str(ROOT / "benchmarks" / "training.py"),
        "--repeats",
        "1",
        "--rows",
        "2",
        "--models",
        model,
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("×") >= 2


@pytest.mark.slow
def test_models_that_are_constructed_have_all_parameters():
    """The script itself counts them."""
    command = [sys.executable, str(ROOT / "benchmarks" / "construct.py"), "--repeats", "1", "--sides", "jm meta", "nnx"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("case", memory.CASES)
def test_a_training_step_needs_the_memory_of_the_hand_written_one(case):
    # optax's Adam raises a Python float to the power of an int32 count.
    with jax.numpy_dtype_promotion("standard"):
        own, raw = memory.measure(case)["temp_size_in_bytes"]
    assert own <= 1.01 * raw

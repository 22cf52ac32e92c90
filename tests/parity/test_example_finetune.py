"""examples/finetune.py, with settings small enough for a test."""

import argparse
import os
import re
import runpy
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import jaxmodule as jm
from jaxmodule.io.checkpoint import latest_checkpoint
from jaxmodule.nn.utils import lora
from tests.test_examples import EXAMPLES, fingerprint, run

TINY = "--layers 1 1 --width 4 --pretrain-epochs 1 --shots 4 --rank 2 --batch 8".split()
LAYERS, WIDTH = [1, 1], 4


@pytest.fixture(autouse=True)
def as_a_script():
    """JAX's promotion as it is, not the suite's."""
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture(scope="module")
def finetune():
    return runpy.run_path(str(EXAMPLES / "finetune.py"))


@pytest.fixture(scope="module")
def theirs():
    """The original, with statistics of its own."""
    torch.manual_seed(0)
    model = runpy.run_path(str(EXAMPLES / "pretrain_torch.py"))["ResNet"](LAYERS, WIDTH, 5)
    model(torch.randn(16, 1, 28, 28))
    return model.eval()


@pytest.fixture
def images():
    return np.random.default_rng(0).normal(size=(8, 1, 28, 28)).astype(np.float32)


def ours(finetune, theirs, folder: Path):
    torch.save({"model": theirs.state_dict()}, folder / "original.pt")
    model = finetune["ResNet"](LAYERS, WIDTH, 5)
    report = finetune["load_backbone"](model, folder / "original.pt")
    return model, report


def settings(folder: Path, **changed) -> argparse.Namespace:
    return argparse.Namespace(**{"out": folder, "shots": 4, "steps": 3, "every": 2, "batch": 8, "seed": 0, **changed})


@pytest.mark.parametrize("form", ["plain", "model", "state_dict", "module."])
def test_the_backbone_is_the_original_s(finetune, theirs, images, tmp_path, form):
    state = theirs.state_dict()
    if form == "module.":
        state = {f"module.{name}": value for name, value in state.items()}
    torch.save({form: state} if form in ("model", "state_dict") else state, tmp_path / "x.pt")
    model = finetune["ResNet"](LAYERS, WIDTH, 5)
    report = finetune["load_backbone"](model, tmp_path / "x.pt")
    assert list(report.unexpected_keys) == ["fc.weight", "fc.bias"]
    theirs_at_the_pool = []
    handle = theirs.avgpool.register_forward_hook(lambda *args: theirs_at_the_pool.append(args[2]))
    with torch.no_grad():
        theirs(torch.from_numpy(images))
    handle.remove()
    found = finetune["features"](model.eval(), images)
    np.testing.assert_allclose(found, theirs_at_the_pool[0].flatten(1).numpy(), rtol=1e-4, atol=1e-5)
    assert len(model.avgpool._forward_hooks) == 0
    np.testing.assert_allclose(model.fc(found), model(images), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("layers", "width", "message"), [([1, 1, 1], 4, "layer3"), ([1, 1], 8, "size mismatch"), ([2, 1], 4, "layer1.1")]
)
@pytest.mark.filterwarnings("ignore:load_state_dict")
def test_a_checkpoint_of_another_network(finetune, theirs, tmp_path, layers, width, message):
    torch.save(theirs.state_dict(), tmp_path / "x.pt")
    with pytest.raises(SystemExit, match=f"(?s)x.pt is not of this ResNet, with these --layers.*{message}"):
        finetune["load_backbone"](finetune["ResNet"](layers, width, 5), tmp_path / "x.pt")


def test_what_is_no_checkpoint(finetune, tmp_path):
    (tmp_path / "x.pt").write_text("nothing")
    with pytest.raises(SystemExit, match="x.pt is not of this ResNet"):
        finetune["load_backbone"](finetune["ResNet"](LAYERS, WIDTH, 5), tmp_path / "x.pt")


@pytest.mark.parametrize("method", ["lora", "head", "all"])
def test_what_is_frozen_stays(finetune, theirs, images, tmp_path, method):
    model, _ = ours(finetune, theirs, tmp_path)
    finetune["prepare"](model, method, 2)
    before = {name: np.array(value) for name, value in model.state_dict().items()}
    rows = np.arange(len(images))
    optimizer = jm.optim.AdamW(model.parameters(), lr=0.1)
    for _ in range(2):
        finetune["train_step"](model, optimizer, images, rows % 5, rows)
    moved = {name for name, value in model.state_dict().items() if (np.array(value) != before[name]).any()}
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    statistics = {name for name, _ in model.named_buffers()}
    assert moved == (trained | statistics if method == "all" else trained)
    assert {"fc.weight", "fc.bias"} <= trained
    assert method == "all" or not any("bn" in name for name in moved)


def test_adapters_by_themselves(finetune, theirs, images, tmp_path):
    model, _ = ours(finetune, theirs, tmp_path)
    finetune["prepare"](model, "lora", 2)
    optimizer = jm.optim.AdamW(model.parameters(), lr=0.1)
    rows = np.arange(len(images))
    finetune["train_step"](model, optimizer, images, rows % 5, rows)
    adapters = lora.state_dict(model, train=finetune["HEAD"])
    assert all("lora_" in name or name.startswith("fc.") for name in adapters)

    other, _ = ours(finetune, theirs, tmp_path)
    finetune["prepare"](other, "lora", 2)
    other.load_state_dict({**other.state_dict(), **adapters})
    wanted = model.eval()(images)
    np.testing.assert_array_equal(other.eval()(images), wanted)
    lora.remove(other)
    np.testing.assert_allclose(other(images), wanted, rtol=1e-5, atol=1e-6)
    theirs.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in other.state_dict().items()})


def test_a_run_that_has_ended_is_loaded(finetune, theirs, images, tmp_path):
    rows = np.concatenate([images] * 4)
    labels = jnp.arange(len(rows)) % 5

    def weights() -> dict:
        jm.manual_seed(0)
        model, _ = ours(finetune, theirs, tmp_path)
        finetune["prepare"](model, "all", 2)
        finetune["train"]("all", model, rows, labels, settings(tmp_path))
        return {name: np.array(value) for name, value in model.state_dict().items()}

    straight, again = weights(), weights()  # the second finds the last checkpoint: nothing is left to do
    for name, value in straight.items():
        np.testing.assert_array_equal(again[name], value, err_msg=name)


def test_it_runs(tmp_path):
    output = run(
        "finetune.py", *TINY, "--steps", "3", "--every", "2", "--method", "lora", "head", "--out", str(tmp_path)
    )
    last = output.splitlines()[-1]
    assert re.fullmatch(r"final: lora \d+\.\d\d%, head \d+\.\d\d% of the digits 5 to 9, after 4 shots", last)
    assert "not fc.weight and fc.bias" in output
    assert (tmp_path / "finetune.png").read_bytes().startswith(b"\x89PNG")
    assert set(jm.load(tmp_path / "head.safetensors")) == {"weight", "bias"}
    whole = jm.load(tmp_path / "finetune.safetensors")
    assert set(whole) == {name.removeprefix("module.") for name in jm.load(tmp_path / "original.pt")["model"]}


@pytest.mark.slow
def test_it_goes_on_after_a_kill(tmp_path):
    run("finetune.py", *TINY, "--steps", "1", "--method", "head", "--out", str(tmp_path))
    common = [*TINY, "--steps", "40", "--every", "2", "--checkpoint", str(tmp_path / "original.pt"), "--method", "all"]
    straight = run("finetune.py", *common, "--out", str(tmp_path / "straight"))
    command = [sys.executable, str(EXAMPLES / "finetune.py"), *common, "--out", str(tmp_path / "killed")]
    environment = {**os.environ, "PYTHONPATH": str(EXAMPLES.parent)}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment)
    try:
        deadline = time.monotonic() + 120
        while latest_checkpoint(tmp_path / "killed" / "checkpoints" / "all") is None:
            assert process.poll() is None, "it ended before it was killed"
            assert time.monotonic() < deadline, "no checkpoint after two minutes"
            time.sleep(0.005)
    finally:
        process.kill()
        process.wait()
    resumed = run("finetune.py", *common, "--out", str(tmp_path / "killed"))
    assert "going on after step" in resumed
    assert fingerprint(resumed) == fingerprint(straight)
    assert resumed.splitlines()[-1] == straight.splitlines()[-1]


@pytest.mark.slow
def test_what_was_learnt_before_helps(tmp_path):
    output = run("finetune.py", "--method", "lora", "all", "scratch", "--out", str(tmp_path))
    adapted, whole, scratch = (float(found) for found in re.findall(r"([\d.]+)%", output.splitlines()[-1]))
    assert adapted > scratch + 4
    assert whole > scratch + 4

"""The training scripts on text, with settings small enough for a test: they run, repeat, and go on after a kill."""

import os
import re
import runpy
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmodule as jm
from jaxmodule.io.checkpoint import latest_checkpoint
from tests.test_examples import EXAMPLES, ROOT, fingerprint, run

TINY = {
    "char_gpt.py": "--width 16 --depth 2 --heads 2 --context 16 --batch 2 --dropout 0.1 --length 40".split(),
    "lstm_tagger.py": "--lines 100 --batch 4 --width 4".split(),
}
EPOCHS = "vae.py", "digits.py"


@pytest.fixture(autouse=True)
def as_a_script():
    """Where a part of a script runs in this process: JAX's promotion as it is, not the suite's."""
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


def final(output: str) -> str:
    """The last line: the figure reached, for the table of `make examples`."""
    line = output.splitlines()[-1]
    assert line.startswith("final: "), output
    return line


def killed_and_resumed(script: str, settings: list[str], folder: Path, steps: int) -> None:
    """A run that is killed when its first checkpoint is there goes on to the weights of one that was not."""
    settings = [*settings, "--epochs" if script in EPOCHS else "--steps", str(steps), "--every", "2"]
    # What the three processes compile is the same: they share it.
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    command = [sys.executable, "-W", "error", str(EXAMPLES / script), *settings, "--out"]

    def finished(out: str) -> str:
        done = subprocess.run([*command, out], capture_output=True, text=True, check=False, env=environment)
        assert done.returncode == 0, done.stderr
        return done.stdout

    straight = finished(str(folder / "straight"))
    process = subprocess.Popen([*command, str(folder / "killed")], stdout=subprocess.DEVNULL, env=environment)
    try:
        deadline = time.monotonic() + 120
        while latest_checkpoint(folder / "killed" / "checkpoints") is None:
            assert process.poll() is None, "it ended before it was killed"
            assert time.monotonic() < deadline, "no checkpoint after two minutes"
            time.sleep(0.005)
    finally:
        process.kill()
        process.wait()

    resumed = finished(str(folder / "killed"))
    found = re.search(r"going on after (?:step|epoch) ([0-9,]+) of", resumed)
    assert found, resumed
    assert 0 < int(found[1].replace(",", "")) < steps
    assert fingerprint(resumed) == fingerprint(straight)
    assert final(resumed) == final(straight)


def files_of(folder: Path, name: str) -> None:
    assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert jm.load(folder / f"{name}.safetensors")
    assert latest_checkpoint(folder / "checkpoints") is not None


def batches_are_of_the_seed_and_the_step(script: dict, *data, **options) -> list[list[np.ndarray]]:
    """The arrays of each batch: a run that goes on after three steps gets what is left of them, on the device.

    They aren't committed to it: after a step the weights would be too, and the second step would be compiled again.
    """

    def batches(step: int, seed: int = 3) -> list[list[np.ndarray]]:
        found = script["batches_from"](step, *data, SimpleNamespace(seed=seed, **options))
        found = [jax.tree.leaves(batch) for batch in found]
        assert all(isinstance(array, jax.Array) and not array.committed for batch in found for array in batch)
        return [list(map(np.asarray, batch)) for batch in found]

    def same(one, other) -> bool:
        return jax.tree.all(jax.tree.map(np.array_equal, one, other))

    whole = batches(0)
    assert same(batches(3), whole[3:])
    assert not same(batches(3, seed=4), whole[3:])
    assert not same(whole[:1], whole[1:2])
    assert batches(len(whole)) == []
    return whole


# -- char_gpt.py -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def char_gpt():
    return runpy.run_path(str(EXAMPLES / "char_gpt.py"))


def test_char_gpt_trains_and_writes(tmp_path):
    output = run("char_gpt.py", *TINY["char_gpt.py"], "--steps", "5", "--every", "2", "--out", str(tmp_path))
    assert "\ndef " in output  # the sample begins with the prompt
    assert re.fullmatch(r"final: validation loss \d\.\d{3} \(\d\.\d{3} bits per byte\) after 5 steps", final(output))
    files_of(tmp_path, "char_gpt")


def test_char_gpt_batches(char_gpt):
    text = np.arange(200, dtype=np.uint8)
    batches = batches_are_of_the_seed_and_the_step(char_gpt, text, steps=6, batch=4, context=9)
    assert len(batches) == 6
    for (window,) in batches:
        assert window.shape == (4, 10)
        assert (np.diff(window) == 1).all()


@pytest.mark.slow
def test_char_gpt_goes_on_after_a_kill(tmp_path):
    killed_and_resumed("char_gpt.py", TINY["char_gpt.py"], tmp_path, steps=100)


@pytest.mark.slow
def test_char_gpt_in_bfloat16_on_text_of_ones_own(tmp_path):
    (tmp_path / "text").write_text("to be, or not to be\n" * 100)
    settings = [*TINY["char_gpt.py"], "--data", str(tmp_path / "text"), "--dtype", "bfloat16", "--steps", "60"]
    output = run("char_gpt.py", *settings, "--lr", "3e-2", "--batch", "8", "--every", "60", "--out", str(tmp_path))
    assert float(final(output).split()[3]) < 2.0  # of 5.5 at first
    assert jm.load(tmp_path / "char_gpt.safetensors")["embed.weight"].dtype == jnp.bfloat16


def test_char_gpt_cached_logits_are_those_of_the_whole_text(char_gpt):
    model = char_gpt["GPT"](16, 3, 2, 12, 0.0).eval()
    tokens = np.random.default_rng(0).integers(256, size=(2, 12)).astype(np.int32)
    whole = model(tokens)

    model.set_cache(batch=2)
    step = jm.jit(lambda model, token, position: model(token, position))
    each = [step(model, tokens[:, i : i + 1], jnp.asarray(i))[:, 0] for i in range(12)]
    np.testing.assert_allclose(jnp.stack(each, 1), whole, atol=1e-6)

    model.set_cache(None)
    assert (model(tokens) == whole).all()


def test_char_gpt_keeps_the_prompt_and_writes_past_the_context(char_gpt):
    model = char_gpt["GPT"](16, 2, 2, 8, 0.0).eval()
    choices = {"temperature": 0, "top_k": 0, "top_p": 1.0}
    text = char_gpt["write"](model, b"import os", 30, **choices)
    assert len(text) == 39
    assert text.startswith(b"import os")

    # Without a draw: each byte is the likeliest after those that it sees, the last 4 to 7 where the context is full.
    seen = b"import os"[-4:]
    for byte in text[9:13]:
        logits = model(np.array([list(seen)], np.int32))[0, -1]
        assert byte == int(logits.argmax())
        seen += bytes([byte])


@pytest.mark.parametrize(
    ("top_k", "top_p", "possible"),
    [(0, 1.0, {0, 1, 2, 3}), (2, 1.0, {1, 3}), (0, 0.5, {3}), (0, 0.7, {1, 3}), (3, 0.95, {0, 1, 3}), (1, 0.01, {3})],
)
def test_char_gpt_draws_from_the_likeliest(char_gpt, top_k, top_p, possible):
    logits = jnp.log(jnp.array([[0.1, 0.3, 0.08, 0.52]]))
    drawn = {int(char_gpt["pick"](logits, 1.0, top_k, top_p)[0]) for _ in range(200)}
    assert drawn == possible


# -- lstm_tagger.py ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lstm_tagger():
    return runpy.run_path(str(EXAMPLES / "lstm_tagger.py"))


def test_lstm_tagger_trains_and_scores(tmp_path):
    output = run("lstm_tagger.py", *TINY["lstm_tagger.py"], "--steps", "5", "--every", "2", "--out", str(tmp_path))
    assert re.fullmatch(r"final: accuracy \d+\.\d\d% of held-out characters, macro F1 \d\.\d{3}", final(output))
    files_of(tmp_path, "lstm_tagger")


def test_lstm_tagger_batches(lstm_tagger):
    lines = np.arange(10, dtype=np.int32)
    train_set = lines[:, None] + 1, lines + 2, lines[:, None] + 3
    batches = batches_are_of_the_seed_and_the_step(lstm_tagger, train_set, steps=5, batch=4)
    assert len(batches) == 5
    assert all((a[:, 0] == lengths - 1).all() and (b[:, 0] == lengths + 1).all() for a, lengths, b in batches)
    drawn = np.concatenate([lengths for _, lengths, _ in batches])
    assert all(sorted(part) == list(range(2, 12)) for part in (drawn[:10], drawn[10:]))  # each line once, then again


@pytest.mark.slow
def test_lstm_tagger_goes_on_after_a_kill(tmp_path):
    killed_and_resumed("lstm_tagger.py", TINY["lstm_tagger.py"], tmp_path, steps=100)


def test_lstm_tagger_labels(lstm_tagger, tmp_path):
    source = 'if x >= 0x1f:  # why?\n    y = f"""a\n  b""" + name\n\n\tdel y\n' + "z" * 81 + "\n"
    (tmp_path / "source.py").write_text(source.replace("\tdel", "    del"))
    lines = lstm_tagger["tagged_lines"](tmp_path / "source.py")
    letters = {"space": " ", "comment": "c", "string": "s", "keyword": "k", "name": "n", "number": "1", "operator": "o"}
    drawn = ["".join(letters[lstm_tagger["KINDS"][kind]] for kind in kinds) for _, kinds in lines]
    assert drawn == [
        "kk n oo 1111o  cccccc",
        "    n o sssss",
        "ssssss o nnnn",
        "    kkk n",
    ]


def test_lstm_tagger_does_not_see_the_padding(lstm_tagger):
    model = lstm_tagger["Tagger"](4, 1).eval()
    lines = np.random.default_rng(0).integers(1, 128, size=(3, 80)).astype(np.int32)
    lengths = np.array([5, 80, 31], np.int32)
    other = np.where(np.arange(80) < lengths[:, None], lines, 7)
    tag = jm.jit(lambda model, lines, lengths: model(lines, lengths))
    first, second = tag(model, lines, lengths), tag(model, other, lengths)
    for row, length in enumerate(lengths):
        assert (first[row, :length] == second[row, :length]).all()
        alone = model(lines[row : row + 1, :length], lengths[row : row + 1])  # packed with known lengths
        np.testing.assert_allclose(first[row, :length], alone[0], atol=1e-6)


def test_lstm_tagger_scores(lstm_tagger):
    confusion = np.zeros((7, 7), int)
    confusion[0, 0], confusion[0, 1], confusion[1, 1] = 8, 2, 6
    precision, recall, f1 = lstm_tagger["scores"](confusion).T
    np.testing.assert_allclose(precision[:2], [1, 0.75])
    np.testing.assert_allclose(recall[:2], [0.8, 1])
    np.testing.assert_allclose(f1[:2], [16 / 18, 12 / 14])
    assert (f1[2:] == 0).all()


@pytest.mark.slow
def test_lstm_tagger_learns(tmp_path):
    output = run("lstm_tagger.py", "--lines", "3000", "--steps", "150", "--every", "150", "--out", str(tmp_path))
    found = re.search(r"accuracy ([0-9.]+)%", final(output))
    assert found, output
    assert float(found[1]) > 80  # the commonest kind is 31% of the characters


@pytest.mark.parametrize("script", TINY)
def test_help_names_the_options_and_what_to_change_for_a_gpu(script, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [script, "--help"])
    with pytest.raises(SystemExit, match="^0$"):
        runpy.run_path(str(EXAMPLES / script), run_name="__main__")
    output = capsys.readouterr().out
    assert all(option in output for option in ("--seed", "--every", "--out", "--fresh", "on a GPU"))

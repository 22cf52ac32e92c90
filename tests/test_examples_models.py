"""The scripts on numbers and small images, with tiny settings: they run, repeat, and go on after a kill."""

import re
import runpy
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import jaxmodule as jm
from tests.test_examples import EXAMPLES, run
from tests.test_examples_text import (  # noqa: F401
    as_a_script,
    batches_are_of_the_seed_and_the_step,
    files_of,
    final,
    killed_and_resumed,
)

TINY = {
    "ensemble.py": "--members 3 --width 8 --points 16 --batch 8".split(),
    "digits.py": "--width 4 --batch 256".split(),
    "vae.py": "--width 8 --latent 2 --batch 256".split(),
}


@pytest.mark.parametrize("script", TINY)
def test_help_names_the_options_and_what_to_change_for_a_gpu(script, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [script, "--help"])
    with pytest.raises(SystemExit, match="^0$"):
        runpy.run_path(str(EXAMPLES / script), run_name="__main__")
    output = capsys.readouterr().out
    assert all(option in output for option in ("--seed", "--every", "--out", "--fresh", "on a GPU"))


# -- ensemble.py -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ensemble():
    return runpy.run_path(str(EXAMPLES / "ensemble.py"))


def stacked(ensemble, count: int):
    members = [ensemble["Net"](8) for _ in range(count)]
    return members, jax.tree.map(lambda *arrays: jnp.stack(arrays), *members)


def test_ensemble_trains(tmp_path):
    output = run("ensemble.py", *TINY["ensemble.py"], "--steps", "5", "--every", "2", "--out", str(tmp_path))
    assert re.fullmatch(r"final: test NLL -?\d\.\d{3} \(a single member: -?\d\.\d{3} on average\)", final(output))
    files_of(tmp_path, "ensemble")
    assert jm.load(tmp_path / "ensemble.safetensors")["layers.0.weight"].shape == (3, 8, 1)


@pytest.mark.slow
def test_ensemble_goes_on_after_a_kill(tmp_path):
    killed_and_resumed("ensemble.py", TINY["ensemble.py"], tmp_path, steps=100)


def test_ensemble_predicts_what_each_member_does(ensemble):
    members, together = stacked(ensemble, 3)
    together.eval()
    x = np.linspace(-1, 1, 5, dtype=np.float32)
    means, variances = ensemble["predict"](together, x)
    for i, member in enumerate(members):
        mean, variance = member.eval()(x[:, None])
        np.testing.assert_allclose(means[i], mean, atol=1e-6)
        np.testing.assert_allclose(variances[i], variance, atol=1e-6)


def test_ensemble_members_learn_apart(ensemble):
    _, together = stacked(ensemble, 2)
    before = together.state_dict()
    optimizer = jm.optim.AdamW(together.parameters(), lr=1e-2, weight_decay=0.0)
    x = np.random.default_rng(0).normal(size=(4, 2, 8)).astype(np.float32)
    y = x.copy()
    y[:, 1] = np.nan  # what the second learns from must not reach the first
    ensemble["train_steps"](together, optimizer, x, y)
    after = together.state_dict()
    for name in ("layers.0.weight", "layers.6.bias"):
        assert np.isfinite(after[name][0]).all()
        assert (after[name][0] != before[name][0]).any()
        assert np.isnan(after[name][1]).all()
    means = after["layers.3.running_mean"]
    assert not (means[0] == means[1]).any()


def test_ensemble_calibration(ensemble):
    random = np.random.default_rng(0)
    y = random.normal(size=20_000).astype(np.float32)
    mean, variance = np.zeros((3, 1), np.float32), np.array([[1.0], [0.25], [4.0]], np.float32)
    right, narrow, wide = ensemble["coverage"](ensemble["cdf"](mean, variance, y))
    levels = ensemble["LEVELS"]
    np.testing.assert_allclose(right, levels, atol=0.02)
    assert (narrow < levels - 0.02).all()
    assert (wide > levels + 0.02).all()

    likelihoods = ensemble["log_likelihoods"](mean, variance, y)
    np.testing.assert_allclose(ensemble["mixture"](likelihoods), np.log(np.exp(likelihoods).mean(0)), atol=1e-5)


@pytest.mark.slow
def test_ensemble_is_better_than_its_members(tmp_path):
    output = run("ensemble.py", "--steps", "1000", "--out", str(tmp_path))
    of_ensemble, of_member = map(float, re.findall(r"-?\d\.\d{3}", final(output)))
    assert of_ensemble < of_member - 0.05
    errors = re.search(r"calibration error of the ensemble (\d\.\d+), of a single member (\d\.\d+)", output)
    assert errors, output
    assert float(errors[1]) < float(errors[2])
    apart = re.search(r"differ by σ = (\d\.\d+) where there are data, (\d\.\d+) in the gap", output)
    assert apart, output
    assert float(apart[2]) > 2 * float(apart[1])


# -- digits.py ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_digits_goes_on_after_a_kill(tmp_path):
    killed_and_resumed("digits.py", TINY["digits.py"], tmp_path, steps=100)


# -- vae.py ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def vae():
    return runpy.run_path(str(EXAMPLES / "vae.py"))


def test_vae_trains(tmp_path):
    output = run("vae.py", *TINY["vae.py"], "--epochs", "3", "--every", "2", "--out", str(tmp_path))
    found = re.fullmatch(
        r"final: ELBO (-[0-9.]+) nats an image on held-out digits \(([0-9.]+) bits per pixel\)", final(output)
    )
    assert found, output
    np.testing.assert_allclose(-float(found[1]) / np.log(2) / 64, float(found[2]), atol=1e-3)
    files_of(tmp_path, "vae")


def test_vae_batches(vae):
    counts = np.arange(10, dtype=np.float32)
    batches = batches_are_of_the_seed_and_the_step(vae, counts, batch=4, epochs=3)
    assert len(batches) == 6
    assert all(np.unique(batches[i : i + 2]).size == 8 for i in (0, 2, 4))  # none twice in an epoch


@pytest.mark.slow
def test_vae_goes_on_after_a_kill(tmp_path):
    killed_and_resumed("vae.py", TINY["vae.py"], tmp_path, steps=100)


def test_vae_likelihood_is_binomial(vae):
    model = vae["VAE"](8, 2).eval()
    random = np.random.default_rng(0)
    z = random.normal(size=(5, 2)).astype(np.float32)
    counts = random.integers(17, size=(5, 1, 8, 8)).astype(np.float32)
    wanted = scipy.stats.binom.logpmf(counts, 16, model.decode(z)).sum((1, 2, 3))
    np.testing.assert_allclose(model.log_likelihood(counts, z), wanted, rtol=1e-5)


def test_vae_draws_codes_from_the_seed(vae):
    model = vae["VAE"](8, 2).eval()
    counts = np.full((4, 1, 8, 8), 3.0, np.float32)
    jm.manual_seed(1)
    first, again = vae["evaluate"](model, counts)[0], vae["evaluate"](model, counts)[0]
    jm.manual_seed(1)
    assert vae["evaluate"](model, counts)[0] == first
    assert first != again


def test_vae_kl(vae):
    model = vae["VAE"](8, 2).eval()
    counts = np.full((1, 1, 8, 8), 3.0, np.float32)
    model.encoder.head.weight.value = jnp.zeros_like(model.encoder.head.weight)
    model.encoder.head.bias.value = jnp.array([1.0, 0.0, 0.0, np.log(0.25)], jnp.float32)
    _, kl = model(counts)
    wanted = 0.5 * (1.0 + (0.25 - 1 - np.log(0.25)))  # of N(1, 1), and of N(0, 0.25)
    np.testing.assert_allclose(kl, [wanted], rtol=1e-6)


@pytest.mark.slow
def test_vae_learns(tmp_path):
    output = run("vae.py", "--epochs", "40", "--every", "40", "--out", str(tmp_path))
    assert float(final(output).split()[2]) > -105  # of -253 for a decoder that knows only each pixel's mean

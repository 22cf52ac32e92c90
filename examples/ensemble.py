"""Train ten small nets at once under `jm.vmap`, and see where they disagree: uncertainty with a picture of it.

    python examples/ensemble.py --out out/ensemble

The data are 80 noisy points on a curve, with a gap in the middle and noise that grows to the right. Each member has
weights, BatchNorm statistics, dropout masks and a bootstrap sample of its own, and predicts a mean and a variance: its
idea of the noise. Their mixture also has what they disagree about, which is most where there are no data. The test data
are 2,000 points from where the training data are.
Killed in the middle, the same command goes on from the last checkpoint and ends with the same weights, bit for bit.
"""

import argparse
import hashlib
import math
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.text import Text

import jaxmodule as jm
from jaxmodule import nn
from jaxmodule.nn import functional as F

GAP = (-0.75, 1.25)
LEVELS = np.linspace(0.05, 0.95, 19, dtype=np.float32)
GPU = "on a GPU: --members 1000 --width 256 (the members are one batched matrix product)"
NOT_THE_RUN = ("out", "fresh")  # options that may change when it goes on


class Net(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(1, width),
            nn.Tanh(),
            nn.Linear(width, width),
            nn.BatchNorm1d(width),
            nn.Tanh(),
            nn.Dropout(0.02),
            nn.Linear(width, 2),
        )

    def forward(self, x):  # (N, 1) → mean and variance, (N) each
        mean, raw = self.layers(x).T
        return mean, F.softplus(raw) + 1e-4


@jm.jit
def train_steps(ensemble, optimizer, x, y):
    """A step for each batch of x and y, (steps, members, N): one program, with its loop inside."""

    def loss_fn(ensemble, x, y):
        def loss_of(member, x, y):
            mean, variance = member(x[:, None])
            return F.gaussian_nll_loss(mean, y, variance, full=True)

        # The members share nothing, so the gradient of the sum is each one's own.
        losses = jm.vmap(loss_of)(ensemble, x, y)
        return losses.sum(), losses

    def step(carry, batch):
        (_, losses), grads = jm.value_and_grad(loss_fn, has_aux=True)(ensemble, *batch)
        optimizer.step(grads)
        return carry, losses.mean()

    return jm.scan(step, None, (x, y))[1].mean()


@jm.jit
def predict(ensemble, x):
    """The members' means and variances, (members, N) each."""
    return jm.vmap(lambda member, x: member(x[:, None]), in_axes=(0, None))(ensemble, x)


def make_data(random: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    x = random.uniform(-3, 3 - (GAP[1] - GAP[0]), count)
    x = np.where(x < GAP[0], x, x + GAP[1] - GAP[0])
    y = curve(x) + (0.05 + 0.08 * (x + 3)) * random.normal(size=count)
    return x.astype(np.float32), y.astype(np.float32)


def curve(x):
    return np.sin(2 * x) + 0.3 * x


def log_likelihoods(mean, variance, y) -> np.ndarray:
    return np.asarray(-0.5 * (jnp.log(2 * np.pi * variance) + (y - mean) ** 2 / variance))


def mixture(likelihoods: np.ndarray) -> np.ndarray:
    """The log likelihood of the mixture, from those of the members."""
    return np.logaddexp.reduce(likelihoods, axis=0) - math.log(len(likelihoods))


def cdf(mean, variance, y) -> np.ndarray:
    """The probability that each member gives to values below y; the mixture gives their mean."""
    return np.asarray(0.5 * (1 + jax.lax.erf((y - mean) / jnp.sqrt(2 * variance))))


def coverage(u: np.ndarray) -> np.ndarray:
    """How often y is in the central intervals that are to have it with the probabilities LEVELS; u is its CDF."""
    return (abs(2 * u - 1)[..., None] <= LEVELS).mean(-2)


class Rate(ProgressColumn):
    def render(self, task):
        return Text("" if task.speed is None else f"{task.speed:.3g} steps/s")


def resume(folder: Path, run: dict[str, str], **state) -> tuple[int, dict[str, list[float]]]:
    """Load the last checkpoint, if there is one: the step it was made after, and the curves so far."""
    try:
        saved = jm.load_checkpoint(folder, generator=False)
    except FileNotFoundError:
        return 0, {"step": [], "training": [], "test": []}
    if saved.extra["run"] != run:
        raise SystemExit(f"{folder} is of another run, {saved.extra['run']}: choose another --out, or --fresh")
    jm.load_checkpoint(folder, saved.step, **state)  # and the default generator, as it was
    print(f"going on after step {saved.step:,} of {saved.path}")
    return saved.step, saved.extra["history"]


def train(ensemble, train_set, test_set, options) -> dict[str, list[float]]:
    optimizer = jm.optim.AdamW(ensemble.parameters(), lr=options.lr)
    state = {"model": ensemble, "optimizer": optimizer}
    run = {name: str(value) for name, value in vars(options).items() if name not in NOT_THE_RUN}
    start, history = resume(options.out / "checkpoints", run, **state)
    x, y = train_set
    # Each member's own sample of the points, with repetitions.
    samples = np.random.default_rng(options.seed).integers(len(x), size=(options.members, len(x)))
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Rate(), TimeRemainingColumn()
    with Progress(*columns, TextColumn("{task.fields[status]}")) as progress:
        task = progress.add_task("training", total=options.steps, completed=start, status="compiling")
        for begin in range(start, options.steps, options.every):
            # The batches of the next steps; they depend on the seed and the step alone: nothing of them is saved.
            size = (min(options.every, options.steps - begin), options.members, options.batch)
            places = np.random.default_rng((options.seed, begin)).integers(len(x), size=size)
            batches = np.take_along_axis(samples[None], places, axis=2)
            loss = float(train_steps(ensemble, optimizer, x[batches], y[batches]))
            step = begin + len(batches)

            ensemble.eval()
            test_loss = -mixture(log_likelihoods(*predict(ensemble, test_set[0]), test_set[1])).mean()
            ensemble.train()
            for values, number in zip(history.values(), (step, loss, float(test_loss)), strict=True):
                values.append(number)
            extra = {"run": run, "history": history}
            jm.save_checkpoint(options.out / "checkpoints", step, **state, extra=extra, keep=2)
            progress.update(task, completed=step, status=f"test NLL {test_loss:.3f}")
    return history


def plot(path: Path, ensemble, history, train_set, covered: np.ndarray) -> None:
    import matplotlib

    matplotlib.use("Agg")  # no display needed
    import matplotlib.pyplot as plt

    figure = plt.figure(figsize=(11, 8), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=[3, 2])
    axes = above.subplots()
    x = np.linspace(-3.5, 3.5, 400, dtype=np.float32)
    means, variances = map(np.asarray, predict(ensemble, x))
    mean, noise_part = means.mean(0), variances.mean(0)
    for deviation, label in (
        (np.sqrt(noise_part + means.var(0)), "noise and disagreement"),
        (np.sqrt(noise_part), "noise"),
    ):
        axes.fill_between(x, mean - 2 * deviation, mean + 2 * deviation, alpha=0.25, label=f"±2σ: {label}")
    axes.plot(x, means.T, color="gray", linewidth=0.5)
    axes.plot(x, mean, color="black", label="mean of the members (gray)")
    axes.plot(x, curve(x), color="red", linestyle=":", label="the curve")
    axes.plot(*train_set, ".", markersize=3, color="tab:blue", label="training data")
    axes.set(xlabel="x", ylabel="y", ylim=(-4, 4))
    axes.legend(ncols=3, loc="upper left")

    calibration, curves = below.subplots(1, 2)
    calibration.plot([0, 1], [0, 1], color="lightgray")
    calibration.plot(LEVELS, covered[1:].T, color="gray", linewidth=0.5)
    calibration.plot(LEVELS, covered[0], color="black", marker=".", label="ensemble (members: gray)")
    calibration.set(xlabel="probability of the interval", ylabel="test data in it")
    calibration.legend()
    curves.plot(history["step"], history["training"], label="training, mean of the members (with dropout)")
    curves.plot(history["step"], history["test"], label="test, ensemble")
    curves.set(xlabel="step", ylabel="negative log likelihood")
    curves.legend()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], epilog=GPU)
    add = parser.add_argument
    add("--seed", type=int, default=0, help="of the data, the weights, the batches and dropout (default 0)")
    add("--out", type=Path, default=Path("out/ensemble"), help="folder for checkpoints, weights and figure")
    add("--fresh", action="store_true", help="begin again, though there are checkpoints")
    add("--members", type=int, default=10, help="nets (default 10)")
    add("--width", type=int, default=100, help="of each net (default 100)")
    add("--points", type=int, default=80, help="to train on (default 80)")
    add("--steps", type=int, default=3000, help="batches that each member is trained on (default 3000)")
    add("--every", type=int, default=100, help="steps in one compiled loop, and to a checkpoint (default 100)")
    add("--batch", type=int, default=80, help="points in a batch (default 80)")
    add("--lr", type=float, default=1e-2, help="learning rate (default 0.01)")
    options = parser.parse_args()
    if min(options.members, options.width, options.points, options.steps, options.every) < 1 or options.batch < 2:
        parser.error("--members, --width, --points, --steps and --every must be at least 1, --batch 2")
    options.out.mkdir(parents=True, exist_ok=True)
    if options.fresh:
        shutil.rmtree(options.out / "checkpoints", ignore_errors=True)

    random = np.random.default_rng(options.seed)
    train_set, test_set = make_data(random, options.points), make_data(random, 2000)
    jm.manual_seed(options.seed)
    members = [Net(options.width) for _ in range(options.members)]
    ensemble = jax.tree.map(lambda *arrays: jnp.stack(arrays), *members)  # one Net whose arrays have the members first
    print(ensemble)
    print(f"{sum(p.size for p in ensemble.parameters()):,} parameters in {options.members} members")

    history = train(ensemble, train_set, test_set, options)
    ensemble.eval()
    weights = options.out / "ensemble.safetensors"
    jm.save(ensemble.state_dict(), weights)
    x, y = test_set
    means, variances = predict(ensemble, x)
    likelihoods, u = log_likelihoods(means, variances, y), cdf(means, variances, y)
    covered = np.stack([coverage(u.mean(0)), *coverage(u)])  # of the ensemble, then of each member
    errors = abs(covered - LEVELS).mean(1)
    print(f"calibration error of the ensemble {errors[0]:.3f}, of a single member {errors[1:].mean():.3f} on average")
    apart = [predict(ensemble, points)[0].std(0).mean() for points in (x, np.linspace(*GAP, 100, dtype=np.float32))]
    print("the members' means differ by σ = {:.3f} where there are data, {:.3f} in the gap".format(*apart))
    plot(options.out / "ensemble.png", ensemble, history, train_set, covered)
    print(f"wrote {weights} and {options.out / 'ensemble.png'}")
    print(f"sha256 of the weights: {hashlib.sha256(weights.read_bytes()).hexdigest()}")
    nll, of_members = -mixture(likelihoods).mean(), -likelihoods.mean()
    print(f"final: test NLL {nll:.3f} (a single member: {of_members:.3f} on average)")


if __name__ == "__main__":
    main()

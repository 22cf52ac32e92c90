"""Train a variational autoencoder on real handwritten digits, and let it draw new ones.

    python examples/vae.py --out out/vae

The data are the 1,797 digits of 8×8 pixels that ship inside scikit-learn; a fifth of them is held out. A pixel counts
how many of 16 dots are black, so its distribution is binomial and the bound on the log likelihood (ELBO) is that of the
data as they are. `jm.next_key()` inside `forward` draws the code: the same seed gives the same weights and the same
drawings, bit for bit, also when the run is killed in the middle and the same command goes on from the last checkpoint.
"""

import argparse
import hashlib
import itertools
import math
import shutil
from pathlib import Path

import grain
import jax
import jax.numpy as jnp
import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.text import Text
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import jaxmodule as jm
from jaxmodule import nn
from jaxmodule.nn import functional as F

DOTS = 16  # of one pixel
PIXELS = 64
GPU = "on a GPU: --width 512 --latent 16 --batch 512 --epochs 500"
NOT_THE_RUN = ("out", "fresh")  # options that may change when it goes on


class Encoder(nn.Module):
    def __init__(self, width: int, latent: int):
        super().__init__()
        self.conv1 = nn.Conv2d(1, width // 4, 3, padding=1)
        self.conv2 = nn.Conv2d(width // 4, width // 2, 3, stride=2, padding=1)
        self.drop = nn.Dropout(0.2)
        self.head = nn.Linear(width // 2 * 4 * 4, 2 * latent)

    def forward(self, x):  # (N, 1, 8, 8) shares of black → mean and log variance of the codes, (N, latent) each
        x = F.silu(self.conv2(F.silu(self.conv1(x))))
        return jnp.split(self.head(self.drop(x.reshape(len(x), -1))), 2, axis=1)


class VAE(nn.Module):
    def __init__(self, width: int, latent: int):
        super().__init__()
        self.latent = latent
        self.encoder = Encoder(width, latent)
        self.decoder = nn.Sequential(
            nn.Linear(latent, width),
            nn.SiLU(),
            nn.Linear(width, width // 2 * 4 * 4),
            nn.SiLU(),
            nn.Dropout(0.1),
            nn.Unflatten(1, (width // 2, 4, 4)),
            nn.ConvTranspose2d(width // 2, width // 4, 4, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv2d(width // 4, 1, 3, padding=1),
        )

    def forward(self, counts):
        """The ELBO of each image in nats, log p(x|z) - KL(q(z|x) || p(z)), and that KL."""
        mean, log_variance = self.encoder(counts / DOTS)
        z = mean + jnp.exp(0.5 * log_variance) * jax.random.normal(jm.next_key(), mean.shape)
        kl = 0.5 * (jnp.exp(log_variance) + mean**2 - 1 - log_variance).sum(1)
        return self.log_likelihood(counts, z) - kl, kl

    def log_likelihood(self, counts, z):
        logits = self.decoder(z)
        ways = jax.lax.lgamma(DOTS + 1.0) - jax.lax.lgamma(counts + 1) - jax.lax.lgamma(DOTS - counts + 1)
        log_p = ways + counts * F.logsigmoid(logits) + (DOTS - counts) * F.logsigmoid(-logits)
        return log_p.sum((1, 2, 3))

    def decode(self, z):  # the expected share of black
        return F.sigmoid(self.decoder(z))


@jm.jit
def train_step(model, optimizer, counts):
    def loss_fn(model):
        elbo, kl = model(counts)
        return -elbo.mean(), kl.mean()

    (loss, kl), grads = jm.value_and_grad(loss_fn, has_aux=True)(model)
    optimizer.step(grads)
    return -loss, kl


@jm.jit
def evaluate(model, counts):
    elbo, kl = model(counts)
    return elbo.mean(), kl.mean()


def load_data(seed: int) -> tuple[np.ndarray, np.ndarray]:
    images, labels = load_digits(return_X_y=True)
    counts = images.astype(np.float32).reshape(-1, 1, 8, 8)  # 0 to 16
    train_set, held_out = train_test_split(counts, test_size=0.2, stratify=labels, random_state=seed)
    return train_set, held_out


def batches_from(step: int, counts: np.ndarray, options):
    """The batches of this and the later steps; what is in them depends on the seed and the step alone."""
    rows = grain.MapDataset.range(len(counts)).seed(options.seed).shuffle()  # in another order each epoch
    # The last, smaller batch is left out: one shape, one compilation.
    batches = rows.batch(options.batch, drop_remainder=True).repeat(options.epochs)[step:]
    batches = batches.map(lambda rows: counts[rows])
    # The images are in memory: the one thread that prefetches is enough.
    batches = batches.to_iter_dataset(grain.ReadOptions(num_threads=0))
    # No device is named: batches committed to one would commit the weights too, and the second step be compiled again.
    return iter(grain.experimental.device_put(batches, None))


class Rate(ProgressColumn):
    def render(self, task):
        return Text("" if task.speed is None else f"{task.speed:.3g} steps/s")


def resume(folder: Path, run: dict[str, str], **state) -> tuple[int, dict[str, list[float]]]:
    """Load the last checkpoint, if there is one: the epochs it was made after, and the curves so far."""
    try:
        saved = jm.load_checkpoint(folder, generator=False)
    except FileNotFoundError:
        return 0, {"epoch": [], "training": [], "held out": [], "KL": []}
    if saved.extra["run"] != run:
        raise SystemExit(f"{folder} is of another run, {saved.extra['run']}: choose another --out, or --fresh")
    jm.load_checkpoint(folder, saved.step, **state)  # and the default generator, as it was
    print(f"going on after epoch {saved.step} of {saved.path}")
    return saved.step, saved.extra["history"]


def train(model, train_set, held_out, options) -> dict[str, list[float]]:
    optimizer = jm.optim.AdamW(model.parameters(), lr=options.lr, weight_decay=0.1)
    state = {"model": model, "optimizer": optimizer}
    run = {name: str(value) for name, value in vars(options).items() if name not in NOT_THE_RUN}
    start, history = resume(options.out / "checkpoints", run, **state)
    steps = len(train_set) // options.batch
    batches = batches_from(start * steps, train_set, options)
    results = []  # of each step since the last checkpoint: arrays, which nothing waits for until they are read
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Rate(), TimeRemainingColumn()
    with Progress(*columns, TextColumn("{task.fields[status]}")) as progress:
        task = progress.add_task("training", total=options.epochs * steps, completed=start * steps, status="compiling")
        for epoch in range(start, options.epochs):
            for counts in itertools.islice(batches, steps):
                results.append(train_step(model, optimizer, counts))
                # One step is computed while the next one is prepared; the bar would run ahead of more.
                jax.block_until_ready(results[-2:-1])
                progress.advance(task)
            if (epoch + 1) % options.every == 0 or epoch + 1 == options.epochs:
                model.eval()
                val_elbo, _ = evaluate(model, held_out)
                model.train()
                elbo, kl = np.mean(jax.device_get(results), axis=0).tolist()
                results.clear()
                numbers = epoch + 1, elbo, float(val_elbo), kl
                for values, number in zip(history.values(), numbers, strict=True):
                    values.append(number)
                extra = {"run": run, "history": history}
                jm.save_checkpoint(options.out / "checkpoints", epoch + 1, **state, extra=extra, keep=2)
                line = "epoch {:3d}  ELBO {:.2f} (held out {:.2f})  KL {:.2f} nats".format(*numbers)
                progress.console.print(line, highlight=False)
                progress.update(task, status=f"held-out ELBO {numbers[2]:.2f}")
    return history


def tiled(images, columns: int) -> np.ndarray:
    """One large image of many small ones, with a line between them."""
    framed = np.pad(np.asarray(images)[:, 0], ((0, 0), (1, 1), (1, 1)), constant_values=0.3)
    return np.vstack([np.hstack(row) for row in framed.reshape(-1, columns, *framed.shape[1:])])


def plot(path: Path, history, model, held_out: np.ndarray) -> None:
    import matplotlib

    matplotlib.use("Agg")  # no display needed
    import matplotlib.pyplot as plt

    decode = jm.jit(model.decode)
    samples = decode(jax.random.normal(jm.next_key(), (64, model.latent)))
    codes, _ = model.encoder(held_out[:40] / DOTS)
    pairs = np.concatenate([held_out[:32].reshape(4, 8, 1, 8, 8) / DOTS, decode(codes[:32]).reshape(4, 8, 1, 8, 8)], 1)
    share = jnp.linspace(0, 1, 8)[None, :, None]
    between = (1 - share) * codes[:8, None] + share * codes[8:16, None]

    figure, axes = plt.subplots(2, 2, figsize=(9, 9), layout="constrained")
    curves, pictures = axes.flat[0], axes.flat[1:]
    for name in ("training", "held out"):
        curves.plot(history["epoch"], history[name], label=f"ELBO, {name}")
    curves.set(xlabel="epoch", ylabel="nats per image", ylim=(np.percentile(history["held out"], 10), None))
    curves.legend()
    titles = "drawn", "held out, and below it reconstructed", "from one held-out digit to another"
    for picture, images, title in zip(
        pictures, (samples, pairs.reshape(64, 1, 8, 8), decode(between.reshape(64, -1))), titles, strict=True
    ):
        picture.imshow(tiled(images, 8), cmap="gray_r", vmin=0, vmax=1)
        picture.set_title(title)
        picture.axis("off")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], epilog=GPU)
    add = parser.add_argument
    add("--seed", type=int, default=0, help="of the split, the weights, the batches and all draws (default 0)")
    add("--out", type=Path, default=Path("out/vae"), help="folder for checkpoints, weights and figure")
    add("--fresh", action="store_true", help="begin again, though there are checkpoints")
    add("--width", type=int, default=128, help="of the layers (default 128)")
    add("--latent", type=int, default=10, help="numbers in a code (default 10)")
    add("--epochs", type=int, default=100, help="passes over the training digits (default 100)")
    add("--every", type=int, default=10, help="epochs between checkpoints (default 10)")
    add("--batch", type=int, default=64, help="digits in a batch (default 64)")
    add("--lr", type=float, default=2e-3, help="learning rate (default 0.002)")
    options = parser.parse_args()
    if min(options.epochs, options.every, options.latent, options.batch) < 1 or options.width < 4:
        parser.error("--epochs, --every, --latent and --batch must be at least 1, --width 4")
    train_set, held_out = load_data(options.seed)
    if options.batch > len(train_set):
        parser.error(f"--batch: there are only {len(train_set)} digits to train on")
    options.out.mkdir(parents=True, exist_ok=True)
    if options.fresh:
        shutil.rmtree(options.out / "checkpoints", ignore_errors=True)

    jm.manual_seed(options.seed)
    model = VAE(options.width, options.latent)
    print(model)
    print(f"{sum(p.size for p in model.parameters()):,} parameters, {len(train_set):,} digits to train on")

    history = train(model, train_set, held_out, options)
    model.eval()
    weights = options.out / "vae.safetensors"
    jm.save(model.state_dict(), weights)
    plot(options.out / "vae.png", history, model, held_out)
    print(f"wrote {weights} and {options.out / 'vae.png'}")
    print(f"sha256 of the weights: {hashlib.sha256(weights.read_bytes()).hexdigest()}")
    elbo = np.mean([float(evaluate(model, held_out)[0]) for _ in range(20)])
    print(
        f"final: ELBO {elbo:.2f} nats an image on held-out digits ({-elbo / math.log(2) / PIXELS:.3f} bits per pixel)"
    )


if __name__ == "__main__":
    main()

"""Train a convolutional net on real handwritten digits, save it, load it back, and look at what it gets wrong.

    python examples/digits.py --out out/digits

The data are the 1,797 digits of 8×8 pixels that ship inside scikit-learn; a fifth of them, with every digit in its
proportion, is held out. Nothing is downloaded. The same seed gives the same weights, bit for bit, also when the run is
killed in the middle and the same command goes on from the last checkpoint.
"""

import argparse
import hashlib
import shutil
from pathlib import Path

import jax
import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.text import Text
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import jaxmodule as jm
from jaxmodule import nn
from jaxmodule.nn import functional as F

KINDS = ("loss", "accuracy")
GPU = "on a GPU: --width 128 --batch 256 --epochs 40"
NOT_THE_RUN = ("out", "fresh")  # options that may change when it goes on


class Block(nn.Module):
    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(out_channels)

    def forward(self, x):
        return F.relu(self.norm(self.conv(x)))


class Net(nn.Module):
    def __init__(self, width: int = 32):
        super().__init__()
        self.block1 = Block(1, width)
        self.block2 = Block(width, 2 * width)
        self.pool = nn.MaxPool2d(2)
        self.block3 = Block(2 * width, 2 * width)
        self.drop = nn.Dropout(0.3)
        self.head = nn.Linear(2 * width * 4 * 4, 10)

    def forward(self, x):  # (N, 1, 8, 8), as in torch
        x = self.pool(self.block2(self.block1(x)))
        x = self.block3(x).reshape(x.shape[0], -1)
        return self.head(self.drop(x))


@jm.jit
def train_step(model, optimizer, images, labels, rows):
    # All the digits are on the device already, so the batch is taken from them there. Data that are too many for that
    # come from the host while the step before is computed: resnet.py shows how.
    x, y = images[rows], labels[rows]

    def loss_fn(model):
        logits = model(x)
        return F.cross_entropy(logits, y), logits

    (loss, logits), grads = jm.value_and_grad(loss_fn, has_aux=True)(model)
    optimizer.step(grads)  # the parameters, Adam's moments and BatchNorm's statistics are updated in the objects
    return loss, (logits.argmax(1) == y).mean()


@jm.jit
def evaluate(model, x, y):
    logits = model(x)
    return F.cross_entropy(logits, y), (logits.argmax(1) == y).mean(), logits


def load_data(seed: int):
    images, labels = load_digits(return_X_y=True)
    images = (images / 16.0).astype(np.float32).reshape(-1, 1, 8, 8)
    split = train_test_split(images, labels, test_size=0.2, stratify=labels, random_state=seed)
    x_train, x_val, y_train, y_val = jax.device_put(split)
    return (x_train, y_train), (x_val, y_val)


class Rate(ProgressColumn):
    def render(self, task):
        return Text("" if task.speed is None else f"{task.speed:.3g} steps/s")


def resume(folder: Path, run: dict[str, str], **state) -> tuple[int, dict[str, list[float]]]:
    """Load the last checkpoint, if there is one: the epochs it was made after, and the curves so far."""
    try:
        saved = jm.load_checkpoint(folder, generator=False)
    except FileNotFoundError:
        return 0, {f"{part} {kind}": [] for part in ("train", "val") for kind in KINDS}
    if saved.extra["run"] != run:
        raise SystemExit(f"{folder} is of another run, {saved.extra['run']}: choose another --out, or --fresh")
    jm.load_checkpoint(folder, saved.step, **state)  # and the default generator, as it was
    print(f"going on after epoch {saved.step} of {saved.path}")
    return saved.step, saved.extra["history"]


def train(model, train_set, val_set, options) -> dict[str, list[float]]:
    optimizer = jm.optim.AdamW(model.parameters(), lr=options.lr)
    state = {"model": model, "optimizer": optimizer}
    run = {name: str(value) for name, value in vars(options).items() if name not in NOT_THE_RUN}
    start, history = resume(options.out / "checkpoints", run, **state)
    count = len(train_set[0])
    steps = count // options.batch  # the last, smaller batch is left out: one shape, one compilation
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Rate(), TimeRemainingColumn()
    with Progress(*columns, TextColumn("{task.fields[status]}")) as progress:
        task = progress.add_task("training", total=options.epochs * steps, completed=start * steps, status="compiling")
        for epoch in range(start, options.epochs):
            model.train()
            order = np.random.default_rng((options.seed, epoch)).permutation(count)
            results = []  # of each step, its loss and accuracy: arrays, which nothing waits for until they are read
            for rows in order[: steps * options.batch].reshape(steps, -1):
                results.append(train_step(model, optimizer, *train_set, rows))
                # One step is computed while the next one is prepared; the bar would run ahead of more.
                jax.block_until_ready(results[-2:-1])
                progress.advance(task)

            model.eval()
            val_loss, val_accuracy, _ = evaluate(model, *val_set)
            numbers = *np.mean(jax.device_get(results), axis=0).tolist(), float(val_loss), float(val_accuracy)
            for values, number in zip(history.values(), numbers, strict=True):
                values.append(number)
            line = "loss {0:.3f} (held out {2:.3f})  accuracy {1:.3f} (held out {3:.3f})".format(*numbers)
            progress.console.print(f"epoch {epoch + 1:2d}  {line}", highlight=False)
            progress.update(task, status=f"held-out accuracy {numbers[3]:.3f}")
            if (epoch + 1) % options.every == 0 or epoch + 1 == options.epochs:
                extra = {"run": run, "history": history}
                jm.save_checkpoint(options.out / "checkpoints", epoch + 1, **state, extra=extra, keep=2)
    return history


def plot(path: Path, history: dict[str, list[float]], x, y, logits) -> None:
    import matplotlib

    matplotlib.use("Agg")  # no display needed
    import matplotlib.pyplot as plt

    figure = plt.figure(figsize=(11, 6.5), layout="constrained")
    curves, digits = figure.subfigures(2, 1, height_ratios=[3, 2])

    epochs = range(1, len(history["val loss"]) + 1)
    for axes, quantity in zip(curves.subplots(1, 2), KINDS, strict=True):
        axes.plot(epochs, history[f"train {quantity}"], label="training (with dropout)")
        axes.plot(epochs, history[f"val {quantity}"], label="held out")
        axes.set(xlabel="epoch", ylabel=quantity)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend()

    # The misclassified ones, then those whose true label got the lowest probability.
    x, y, probabilities = np.asarray(x), np.asarray(y), np.asarray(F.softmax(logits, dim=1))
    predicted = probabilities.argmax(1)
    certainty = probabilities[np.arange(len(y)), y]
    order = np.lexsort((certainty, predicted == y))
    digits.suptitle(f"{(predicted != y).sum()} of {len(y)} held-out digits misclassified (red); then the least certain")
    for image, axes in zip(order, digits.subplots(2, 8).flat, strict=False):
        wrong = predicted[image] != y[image]
        title = f"{y[image]} taken for {predicted[image]}" if wrong else f"{y[image]} ({certainty[image]:.1%})"
        axes.imshow(x[image, 0], cmap="gray_r")
        axes.set_title(title, fontsize=8, color="red" if wrong else "black")
        axes.axis("off")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], epilog=GPU)
    add = parser.add_argument
    add("--seed", type=int, default=0, help="of the split, the weights, the batches and dropout (default 0)")
    add("--out", type=Path, default=Path("out/digits"), help="folder for checkpoints, weights and figure")
    add("--fresh", action="store_true", help="begin again, though there are checkpoints")
    add("--width", type=int, default=32, help="channels of the first convolution (default 32)")
    add("--epochs", type=int, default=15, help="passes over the training digits (default 15)")
    add("--every", type=int, default=5, help="epochs between checkpoints (default 5)")
    add("--batch", type=int, default=64, help="digits in a batch (default 64)")
    add("--lr", type=float, default=1e-3, help="learning rate (default 0.001)")
    options = parser.parse_args()
    if min(options.width, options.epochs, options.every, options.batch) < 1:
        parser.error("--width, --epochs, --every and --batch must be at least 1")
    train_set, (x_val, y_val) = load_data(options.seed)
    if options.batch > len(train_set[0]):
        parser.error(f"--batch: there are only {len(train_set[0])} digits to train on")
    options.out.mkdir(parents=True, exist_ok=True)
    if options.fresh:
        shutil.rmtree(options.out / "checkpoints", ignore_errors=True)

    jm.manual_seed(options.seed)
    model = Net(options.width)
    print(model)
    print(f"{sum(p.size for p in model.parameters()):,} parameters, {len(train_set[0])} digits to train on")

    history = train(model, train_set, (x_val, y_val), options)
    model.eval()
    _, accuracy, logits = evaluate(model, x_val, y_val)

    weights = options.out / "digits.safetensors"
    jm.save(model.state_dict(), weights)
    reloaded = Net(options.width)
    print(reloaded.load_state_dict(jm.load(weights)))
    reloaded.eval()
    _, _, reloaded_logits = evaluate(reloaded, x_val, y_val)
    print(f"the reloaded model gives the same outputs: {bool((logits == reloaded_logits).all())}")

    figure = options.out / "digits.png"
    plot(figure, history, x_val, y_val, logits)
    print(f"wrote {weights} and {figure}")
    print(f"sha256 of the weights: {hashlib.sha256(weights.read_bytes()).hexdigest()}")
    print(f"final: accuracy {100 * float(accuracy):.2f} % on the held-out fifth")


if __name__ == "__main__":
    main()

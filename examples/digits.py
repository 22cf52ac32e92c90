"""Train a convolutional net on real handwritten digits, save it, load it back, and look at what it gets wrong.

    python examples/digits.py --out out/digits

The data are the 1,797 digits of 8×8 pixels that ship inside scikit-learn; a fifth of them, with every digit in its
proportion, is held out. Nothing is downloaded. The same seed gives the same weights, bit for bit.
"""

import argparse
import hashlib
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import jaxmodule as jm
from jaxmodule import nn
from jaxmodule.nn import functional as F

BATCH = 64
KINDS = ("loss", "accuracy")


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
def train_step(model, optimizer, x, y):
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
    x_train, x_val, y_train, y_val = map(jnp.asarray, split)
    return (x_train, y_train), (x_val, y_val)


def train(model, optimizer, train_set, val_set, epochs: int, seed: int) -> dict[str, list[float]]:
    history = {f"{part} {kind}": [] for part in ("train", "val") for kind in KINDS}
    x_train, y_train = train_set
    shuffle = np.random.default_rng(seed)
    steps = len(x_train) // BATCH  # the last, smaller batch is left out: one shape, one compilation
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, TextColumn("{task.fields[status]}")) as progress:
        task = progress.add_task("training", total=epochs * steps, status="compiling")
        for epoch in range(epochs):
            model.train()
            order = shuffle.permutation(len(x_train))
            losses, accuracies = [], []
            for step in range(steps):
                batch = order[step * BATCH : (step + 1) * BATCH]
                loss, accuracy = train_step(model, optimizer, x_train[batch], y_train[batch])
                losses.append(float(loss))
                accuracies.append(float(accuracy))
                progress.advance(task)

            model.eval()
            val_loss, val_accuracy, _ = evaluate(model, *val_set)
            train_loss, train_accuracy = sum(losses) / steps, sum(accuracies) / steps
            numbers = train_loss, train_accuracy, float(val_loss), float(val_accuracy)
            for values, number in zip(history.values(), numbers, strict=True):
                values.append(number)
            line = "loss {0:.3f} (held out {2:.3f})  accuracy {1:.3f} (held out {3:.3f})".format(*numbers)
            progress.console.print(f"epoch {epoch + 1:2d}  {line}", highlight=False)
            progress.update(task, status=f"held-out accuracy {numbers[3]:.3f}")
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


def fingerprint(model) -> str:
    """The sha256 of every array of the model, to compare two runs."""
    digest = hashlib.sha256()
    for name, array in model.state_dict().items():
        digest.update(name.encode())
        digest.update(np.asarray(array).tobytes())
    return digest.hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--seed", type=int, default=0, help="of the split, the weights, the batches, dropout (default 0)"
    )
    parser.add_argument("--epochs", type=int, default=15, help="passes over the training digits (default 15)")
    parser.add_argument("--out", type=Path, default=Path("out/digits"), help="folder for the weights and the figure")
    options = parser.parse_args()
    if options.epochs < 1:
        parser.error("--epochs must be at least 1")
    options.out.mkdir(parents=True, exist_ok=True)

    train_set, (x_val, y_val) = load_data(options.seed)
    jm.manual_seed(options.seed)
    model = Net()
    optimizer = jm.optim.AdamW(model.parameters(), lr=1e-3)
    print(model)
    print(f"{sum(p.size for p in model.parameters()):,} parameters, {len(train_set[0])} digits to train on")

    history = train(model, optimizer, train_set, (x_val, y_val), options.epochs, options.seed)
    _, accuracy, logits = evaluate(model, x_val, y_val)
    print(f"accuracy on the held-out fifth: {100 * float(accuracy):.2f}%")

    weights = options.out / "digits.safetensors"
    jm.save(model.state_dict(), weights)
    reloaded = Net()
    print(reloaded.load_state_dict(jm.load(weights)))
    reloaded.eval()
    _, _, reloaded_logits = evaluate(reloaded, x_val, y_val)
    print(f"the reloaded model gives the same outputs: {bool((logits == reloaded_logits).all())}")

    figure = options.out / "digits.png"
    plot(figure, history, x_val, y_val, logits)
    print(f"wrote {weights} and {figure}")
    print(f"sha256 of the weights: {fingerprint(reloaded)}")


if __name__ == "__main__":
    main()

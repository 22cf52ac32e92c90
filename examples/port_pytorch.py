"""Bring a trained PyTorch model over: load its checkpoint, prove that the port agrees, fine-tune it, and give it back.

    python examples/port_pytorch.py --out out/port

The model is `Net` of digits_torch.py, trained there on the 1,797 digits that ship inside scikit-learn; `Net` below is
its port. The port is fine-tuned on the same digits lying on their side, which the original can't read. Nothing is
downloaded. PyTorch is only needed for the comparison with the original: pip install torch
"""

import argparse
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.text import Text
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import jaxmodule as jm
from jaxmodule import nn, port
from jaxmodule.nn import functional as F

BATCH = 64


# What a port changes: the imports; torch's in-place operations (relu_, +=), which make new arrays; `view` and `permute`
# of tensors, which are `reshape` and `transpose` of arrays; `torch.randn`. Names, layouts and defaults are torch's.
class Block(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)

    def forward(self, x):
        y = F.relu(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        return F.relu(y + x)


class Net(nn.Module):
    def __init__(self, width: int = 32):
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, padding=1)
        self.blocks = nn.ModuleList([Block(width) for _ in range(2)])
        self.pool = nn.MaxPool2d(2)
        self.place = nn.Parameter(jnp.zeros((1, 16, width)))
        self.attend = nn.MultiheadAttention(width, 4, batch_first=True)
        self.norm = nn.LayerNorm(width)
        self.drop = nn.Dropout(0.1)
        self.head = nn.Linear(width, 10)

    def forward(self, x):  # (N, 1, 8, 8)
        x = F.gelu(self.stem(x))
        for block in self.blocks:
            x = block(x)
        x = self.pool(x)
        n, c, h, w = x.shape
        tokens = x.transpose(0, 2, 3, 1).reshape(n, h * w, c) + self.place
        query = self.norm(tokens)
        tokens = tokens + self.attend(query, query, query, need_weights=False)[0]
        return self.head(self.drop(tokens.mean(axis=1)))


@jm.jit
def train_step(model, optimizer, x, y, rows):
    # All the digits are on the device already: the batch is taken from them there, and no loader is needed.
    loss, grads = jm.value_and_grad(lambda model: F.cross_entropy(model(x[rows]), y[rows]))(model)
    optimizer.step(grads)
    return loss


@jm.jit
def predict(model, x):
    return model(x)


def accuracy(model, x, y) -> float:
    model.eval()
    return float((predict(model, x).argmax(1) == y).mean())


def load_data(seed: int):
    images, labels = load_digits(return_X_y=True)
    images = (images / 16.0).astype(np.float32).reshape(-1, 1, 8, 8)
    x_train, x_val, y_train, y_val = train_test_split(images, labels, test_size=0.2, stratify=labels, random_state=seed)
    return (x_train, y_train), (x_val, y_val)


def on_their_side(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.rot90(x, axes=(2, 3)))


class Rate(ProgressColumn):
    def render(self, task):
        return Text("" if task.speed is None else f"{task.speed:.3g} steps/s")


def fine_tune(model, train_set, val_set, epochs: int, seed: int) -> dict[str, list[float]]:
    x, y = jax.device_put(train_set)
    upright, (x_val, y_val) = val_set
    history = {"lying": [accuracy(model, x_val, y_val)], "upright": [accuracy(model, upright, y_val)]}
    optimizer = jm.optim.AdamW(model.parameters(), lr=1e-3)
    shuffle = np.random.default_rng(seed)
    steps = len(x) // BATCH  # the last, smaller batch is left out: one shape, one compilation
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Rate(), TimeRemainingColumn()
    with Progress(*columns, TextColumn("{task.fields[status]}")) as progress:
        task = progress.add_task("fine-tuning", total=epochs * steps, status="compiling")
        for epoch in range(epochs):
            model.train()
            losses = []  # arrays, which nothing waits for until they are read
            for rows in shuffle.permutation(len(x))[: steps * BATCH].reshape(steps, -1):
                losses.append(train_step(model, optimizer, x, y, rows))
                # One step is computed while the next one is prepared; the bar would run ahead of more.
                jax.block_until_ready(losses[-2:-1])
                progress.advance(task)
            history["lying"].append(accuracy(model, x_val, y_val))
            history["upright"].append(accuracy(model, upright, y_val))
            line = f"loss {np.mean(jax.device_get(losses)):.3f}  accuracy {history['lying'][-1]:.3f}"
            progress.console.print(f"epoch {epoch + 1:2d}  {line}", highlight=False)
            progress.update(task, status=line)
    return history


def plot(path: Path, report, history: dict[str, list[float]]) -> None:
    import matplotlib

    matplotlib.use("Agg")  # no display needed
    import matplotlib.pyplot as plt

    rows = [row for row in report.rows if row.section == "output"]
    figure, (bars, curves) = plt.subplots(1, 2, figsize=(11, 5), layout="constrained")
    bars.barh([row.title for row in rows], [max(row.max_rel, 1e-9) for row in rows])
    bars.axvline(1e-5, color="red", linestyle="--", label="tolerance")
    bars.set(xscale="log", xlabel="largest difference from PyTorch, relative", title="the port, module by module")
    bars.invert_yaxis()
    bars.legend()
    for name, values in history.items():
        curves.plot(range(len(values)), values, marker=".", label=f"{name} digits")
    curves.set(xlabel="epoch of fine-tuning", ylabel="accuracy on held-out digits", ylim=(0, 1.02))
    curves.xaxis.get_major_locator().set_params(integer=True)
    curves.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        epilog="Needs PyTorch beside jaxmodule[examples], for the original: pip install torch",
    )
    parser.add_argument("--weights", type=Path, help="a checkpoint of digits_torch.py (default: train one now)")
    parser.add_argument("--torch-epochs", type=int, default=5, help="passes to train that checkpoint for (default 5)")
    parser.add_argument("--epochs", type=int, default=5, help="passes of fine-tuning (default 5)")
    parser.add_argument("--seed", type=int, default=0, help="of the split, the weights and the batches (default 0)")
    parser.add_argument("--out", type=Path, default=Path("out/port"), help="folder for the weights and the figure")
    options = parser.parse_args()
    if options.epochs < 1 or options.torch_epochs < 1:
        parser.error("--epochs and --torch-epochs must be at least 1")
    if options.weights is not None and not options.weights.exists():
        parser.error(f"--weights: there is no file {options.weights}")
    try:
        import digits_torch
        import torch
    except ImportError as error:
        sys.exit(f"This example compares with the original, which runs in PyTorch: pip install torch ({error})")
    options.out.mkdir(parents=True, exist_ok=True)
    console = Console(highlight=False)
    (x_train, y_train), (x_val, y_val) = load_data(options.seed)

    checkpoint = options.weights or options.out / "original.pt"
    if options.weights is None:
        console.print(f"training the original in PyTorch for {options.torch_epochs} epochs …")
        digits_torch.train(x_train, y_train, options.torch_epochs, options.seed, str(checkpoint))

    # 1. The weights: strictly, under torch's own names. No torch is needed to read the file.
    jm.manual_seed(options.seed)
    model = Net()
    state = jm.load(checkpoint)["model"]
    console.print(f"\n{checkpoint}: {model.load_state_dict(state)}\n")

    # 2. The proof: outputs, gradients and BatchNorm's statistics agree with the original's, module by module.
    original = digits_torch.Net()
    original.load_state_dict(torch.load(checkpoint, weights_only=True)["model"])
    report = port.parity(original, model, x_val[:16])
    console.print(report)
    in_training = port.parity(original, model, x_val[:16], backward=True, train_step=True)
    console.print(f"\ngradients and a training step: {in_training.summary()}")
    if not (report.ok and in_training.ok):
        sys.exit("the port does not agree with the original")

    # 3. On with it, in JAX.
    upright = accuracy(model, x_val, y_val)
    lying = (on_their_side(x_train), y_train), (x_val, (on_their_side(x_val), y_val))
    console.print(f"\naccuracy on held-out digits: upright {upright:.3f}; now fine-tuning on digits on their side")
    history = fine_tune(model, *lying, options.epochs, options.seed)
    console.print(
        f"accuracy on digits on their side: {history['lying'][0]:.3f} before, {history['lying'][-1]:.3f} after"
    )

    # 4. And back: a file that torch.load takes, for whoever stays with PyTorch.
    fine_tuned = options.out / "fine_tuned.pt"
    model.eval()
    jm.save(model.state_dict(), fine_tuned)
    original.load_state_dict(torch.load(fine_tuned, weights_only=True))
    original.eval()
    with torch.no_grad():
        theirs = original(torch.from_numpy(on_their_side(x_val))).numpy()
    difference = np.abs(theirs - np.asarray(predict(model, on_their_side(x_val)))).max() / np.abs(theirs).max()
    console.print(f"PyTorch loads {fine_tuned} and agrees: largest relative difference {difference:.1e}")

    figure = options.out / "port.png"
    plot(figure, report, history)
    console.print(f"wrote {checkpoint}, {fine_tuned} and {figure}")
    reached = f"accuracy {100 * history['lying'][-1]:.2f} % on held-out digits on their side"
    console.print(f"final: the port agrees with PyTorch, then {reached}", soft_wrap=True)


if __name__ == "__main__":
    main()

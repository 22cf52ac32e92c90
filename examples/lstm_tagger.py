"""Teach a bidirectional LSTM to highlight Python: what is each character of a line, a name, a string, a comment?

    python examples/lstm_tagger.py --out out/lstm_tagger

The lines are those of Python's own standard library and the answers those of its tokenizer: nothing is downloaded. The
tagger sees one line at a time, so a line of a docstring has to be told from code by its words alone. A fifth of the
files is held out. Lines differ in length: they are padded into a batch, packed for the LSTM, and padded after it.
Killed in the middle, the same command goes on from the last checkpoint and ends with the same weights, bit for bit.
"""

import argparse
import hashlib
import io
import keyword
import shutil
import sysconfig
import tokenize
from pathlib import Path

import grain
import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

import jaxmodule as jm
from jaxmodule import nn
from jaxmodule.nn import functional as F
from jaxmodule.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

KINDS = ("space", "comment", "string", "keyword", "name", "number", "operator")
COLOURS = ("lightgray", "tab:green", "tab:orange", "tab:purple", "black", "tab:blue", "tab:brown")
LONGEST = 80  # characters; longer lines are left out
NONE = -100  # the kind of what is behind a line's end: cross_entropy ignores it
GPU = "on a GPU: --width 512 --layers 2 --batch 512 --lines 80000 --steps 5000"
NOT_THE_RUN = ("out", "fresh")  # options that may change when it goes on


class Tagger(nn.Module):
    def __init__(self, width: int, layers: int):
        super().__init__()
        self.embed = nn.Embedding(128, 32, padding_idx=0)
        self.lstm = nn.LSTM(32, width, layers, batch_first=True, bidirectional=True)
        self.drop = nn.Dropout(0.2)
        self.head = nn.Linear(2 * width, len(KINDS))

    def forward(self, lines, lengths):  # (N, T) characters, (N) → (N, T, kinds)
        # Packed, the direction that reads from right to left begins at each line's own end, not in its padding.
        packed = pack_padded_sequence(self.embed(lines), lengths, batch_first=True, enforce_sorted=False)
        hidden, _ = self.lstm(packed)
        padded, _ = pad_packed_sequence(hidden, batch_first=True, total_length=lines.shape[1])
        return self.head(self.drop(padded))


@jm.jit
def train_step(model, optimizer, lines, lengths, kinds):
    def loss_fn(model):
        return F.cross_entropy(model(lines, lengths).reshape(-1, len(KINDS)), kinds.reshape(-1), ignore_index=NONE)

    loss, grads = jm.value_and_grad(loss_fn)(model)
    nn.utils.clip_grad_norm_(grads, 1.0)
    optimizer.step(grads)
    return loss


@jm.jit
def evaluate(model, lines, lengths, kinds):
    """The loss, the predicted kinds, and how often each kind (row) was taken for each (column)."""
    logits = model(lines, lengths)
    loss = F.cross_entropy(logits.reshape(-1, len(KINDS)), kinds.reshape(-1), ignore_index=NONE)
    predicted = logits.argmax(-1)
    confusion = jnp.zeros((len(KINDS), len(KINDS)), int).at[kinds.clip(0), predicted].add(kinds != NONE)
    return loss, predicted, confusion


def kind_of(token: tokenize.TokenInfo) -> str:
    name = tokenize.tok_name[token.type]
    if name == "NAME":
        return "keyword" if keyword.iskeyword(token.string) else "name"
    if "STRING" in name:  # since Python 3.12 there are FSTRING_START and others
        return "string"
    return {"COMMENT": "comment", "NUMBER": "number", "OP": "operator"}.get(name, "space")


def tagged_lines(path: Path):
    """(line, kinds of its characters) of a file, blank and long lines left out."""
    with tokenize.open(path) as file:
        source = file.read()
    lines = source.split("\n")
    kinds = [np.full(len(line), KINDS.index("space"), np.int32) for line in lines]
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        kind, (first, begin), (last, end) = kind_of(token), token.start, token.end
        for row in range(first, last + 1) if kind != "space" else ():
            kinds[row - 1][begin if row == first else 0 : end if row == last else None] = KINDS.index(kind)
    return [pair for pair in zip(lines, kinds, strict=True) if pair[0].strip() and len(pair[0]) <= LONGEST]


def load_data(count: int, seed: int):
    """Lines to train on and lines held out, of other files: (characters, lengths, kinds) each."""
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    files = [files[i] for i in np.random.default_rng(seed).permutation(len(files))]
    held_out = len(files) // 5
    sets = []
    for part, wanted in ((files[held_out:], count), (files[:held_out], max(1, count // 10))):
        pairs = []
        for path in part:
            if len(pairs) < wanted:
                pairs += tagged_lines(path)
        pairs = pairs[:wanted]
        characters = np.zeros((len(pairs), LONGEST), np.int32)
        kinds = np.full((len(pairs), LONGEST), NONE, np.int32)
        for i, (line, kind) in enumerate(pairs):
            characters[i, : len(line)] = [min(ord(letter), 127) for letter in line]
            kinds[i, : len(line)] = kind
        sets.append((characters, np.array([len(line) for line, _ in pairs], np.int32), kinds))
    return sets


def batches_from(step: int, train_set, options):
    """The batches of this and the later steps; what is in them depends on the seed and the step alone."""
    rows = grain.MapDataset.range(len(train_set[0])).seed(options.seed).shuffle().repeat()  # in another order each pass
    batches = rows.batch(options.batch)[step : options.steps]
    batches = batches.map(lambda rows: tuple(array[rows] for array in train_set))
    # The arrays are in memory: the one thread that prefetches is enough.
    batches = batches.to_iter_dataset(grain.ReadOptions(num_threads=0))
    # No device is named: batches committed to one would commit the weights too, and the second step be compiled again.
    return iter(grain.experimental.device_put(batches, None))


class Rate(ProgressColumn):
    def render(self, task):
        return Text("" if task.speed is None else f"{task.speed:.3g} steps/s")


def resume(folder: Path, run: dict[str, str], **state) -> tuple[int, dict[str, list[float]]]:
    """Load the last checkpoint, if there is one: the step it was made after, and the curves so far."""
    try:
        saved = jm.load_checkpoint(folder, generator=False)
    except FileNotFoundError:
        return 0, {"step": [], "training": [], "held out": [], "accuracy": []}
    if saved.extra["run"] != run:
        raise SystemExit(f"{folder} is of another run, {saved.extra['run']}: choose another --out, or --fresh")
    jm.load_checkpoint(folder, saved.step, **state)  # and the default generator, as it was
    print(f"going on after step {saved.step:,} of {saved.path}")
    return saved.step, saved.extra["history"]


def train(model, train_set, held_out, options) -> dict[str, list[float]]:
    optimizer = jm.optim.AdamW(model.parameters(), lr=options.lr)
    state = {"model": model, "optimizer": optimizer}
    run = {name: str(value) for name, value in vars(options).items() if name not in NOT_THE_RUN}
    start, history = resume(options.out / "checkpoints", run, **state)
    losses = []  # since the last checkpoint: arrays, which nothing waits for until they are read
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Rate(), TimeRemainingColumn()
    with Progress(*columns, TextColumn("{task.fields[status]}")) as progress:
        task = progress.add_task("training", total=options.steps, completed=start, status="compiling")
        for step, batch in enumerate(batches_from(start, train_set, options), start + 1):
            losses.append(train_step(model, optimizer, *batch))
            # One step is computed while the next one is prepared; the bar would run ahead of more.
            jax.block_until_ready(losses[-2:-1])
            progress.advance(task)
            if step % options.every == 0 or step == options.steps:
                model.eval()
                loss, _, confusion = evaluate(model, *held_out)
                model.train()
                accuracy = float(confusion.trace() / confusion.sum())
                numbers = step, float(np.mean(jax.device_get(losses))), float(loss), accuracy
                for values, number in zip(history.values(), numbers, strict=True):
                    values.append(number)
                losses.clear()
                extra = {"run": run, "history": history}
                jm.save_checkpoint(options.out / "checkpoints", step, **state, extra=extra, keep=2)
                line = "step {:5,d}  loss {:.3f} (held out {:.3f})  accuracy {:.4f}".format(*numbers)
                progress.console.print(line, highlight=False)
                progress.update(task, status=f"loss {numbers[1]:.3f}")
    return history


def scores(confusion: np.ndarray) -> np.ndarray:
    """Precision, recall and F1 of each kind; 0 where it is neither there nor predicted."""
    right, true, predicted = np.diag(confusion), confusion.sum(1), confusion.sum(0)
    parts = right / np.maximum(predicted, 1), right / np.maximum(true, 1), 2 * right / np.maximum(true + predicted, 1)
    return np.stack(parts, 1)


def plot(path: Path, history, confusion: np.ndarray, held_out, predicted: np.ndarray) -> None:
    import matplotlib

    matplotlib.use("Agg")  # no display needed
    import matplotlib.pyplot as plt

    figure = plt.figure(figsize=(12, 9), layout="constrained")
    above, below = figure.subfigures(2, 1)
    curves, matrix = above.subplots(1, 2)
    for name in ("training", "held out"):
        curves.plot(history["step"], history[name], marker=".", label=name)
    curves.set(xlabel="step", ylabel="loss", yscale="log")
    curves.legend()

    share = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    matrix.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for (row, column), value in np.ndenumerate(share):
        matrix.text(column, row, f"{value:.1%}", ha="center", va="center", color="white" if value > 0.5 else "black")
    matrix.set(xlabel="predicted", ylabel="true")
    matrix.set_xticks(range(len(KINDS)), KINDS, rotation=30)
    matrix.set_yticks(range(len(KINDS)), KINDS)

    # Ten lines from all over, and the ten with the most mistakes.
    characters, lengths, kinds = held_out
    mistakes = ((predicted != kinds) & (kinds != NONE)).sum(1)
    worst = np.argsort(-mistakes, kind="stable")[:10]
    axes = below.subplots()
    axes.set(
        xlim=(0, LONGEST), ylim=(21, 0), title="predicted kinds (wrong ones underlined): ten lines, then the ten worst"
    )
    axes.axis("off")
    for row, line in enumerate([*np.linspace(0, len(kinds) - 1, 10).astype(int), *worst]):
        for column in range(lengths[line]):
            kind, wrong = predicted[line, column], predicted[line, column] != kinds[line, column]
            at = (column + 0.5, row + (row >= 10) + 0.5)
            letter = chr(characters[line, column]).replace("\t", " ").replace("\f", " ")
            axes.text(*at, letter, color=COLOURS[kind], family="monospace", fontsize=9, ha="center", va="center")
            if wrong:
                axes.plot([column, column + 1], [at[1] + 0.5] * 2, color="red")
    handles = [plt.Line2D([], [], marker="s", linestyle="", color=colour) for colour in COLOURS]
    below.legend(handles, KINDS, loc="outside lower center", ncols=len(KINDS))
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], epilog=GPU)
    add = parser.add_argument
    add("--seed", type=int, default=0, help="of the split, the weights, the batches and dropout (default 0)")
    add("--out", type=Path, default=Path("out/lstm_tagger"), help="folder for checkpoints, weights and figure")
    add("--fresh", action="store_true", help="begin again, though there are checkpoints")
    add("--lines", type=int, default=50_000, help="lines to train on; a tenth as many are held out (default 50,000)")
    add("--steps", type=int, default=1200, help="batches to train on (default 1200)")
    add("--every", type=int, default=100, help="steps between checkpoints (default 100)")
    add("--batch", type=int, default=64, help="lines in a batch (default 64)")
    add("--lr", type=float, default=3e-3, help="learning rate (default 0.003)")
    add("--width", type=int, default=64, help="of the LSTM, in each direction (default 64)")
    add("--layers", type=int, default=1, help="of the LSTM (default 1)")
    options = parser.parse_args()
    if min(options.lines, options.steps, options.every, options.batch, options.width, options.layers) < 1:
        parser.error("--lines, --steps, --every, --batch, --width and --layers must be at least 1")
    options.out.mkdir(parents=True, exist_ok=True)
    if options.fresh:
        shutil.rmtree(options.out / "checkpoints", ignore_errors=True)

    train_set, held_out = load_data(options.lines, options.seed)
    jm.manual_seed(options.seed)
    model = Tagger(options.width, options.layers)
    print(f"{sum(p.size for p in model.parameters()):,} parameters, {len(train_set[0]):,} lines to train on")

    history = train(model, train_set, held_out, options)
    model.eval()
    _, predicted, confusion = map(np.asarray, evaluate(model, *held_out))
    table = Table("kind", "characters", "precision", "recall", "F1", title="held-out lines")
    for kind, row, count in zip(KINDS, scores(confusion), confusion.sum(1), strict=True):
        table.add_row(kind, f"{count:,}", *(f"{number:.3f}" for number in row))
    Console().print(table)

    weights = options.out / "lstm_tagger.safetensors"
    jm.save(model.state_dict(), weights)
    plot(options.out / "lstm_tagger.png", history, confusion, held_out, predicted)
    print(f"wrote {weights} and {options.out / 'lstm_tagger.png'}")
    print(f"sha256 of the weights: {hashlib.sha256(weights.read_bytes()).hexdigest()}")
    accuracy, f1 = confusion.trace() / confusion.sum(), scores(confusion)[:, 2].mean()
    print(f"final: accuracy {100 * accuracy:.2f}% of held-out characters, macro F1 {f1:.3f}")


if __name__ == "__main__":
    main()

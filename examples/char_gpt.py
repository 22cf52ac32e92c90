"""Train a GPT, byte by byte, on the source text of Python's own standard library, and let it write.

    python examples/char_gpt.py --out out/char_gpt

The text is on every machine that has Python: nothing is downloaded. Its last tenth (modules late in the alphabet) is
held out. Killed in the middle, the same command goes on from the last checkpoint and ends with the same weights, bit
for bit: what a step draws depends on the seed and the step alone. After the end it only writes: try another --prompt.
"""

import argparse
import gzip
import hashlib
import math
import shutil
import sysconfig
from functools import partial
from pathlib import Path

import grain
import jax
import jax.numpy as jnp
import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.text import Text

import jaxmodule as jm
from jaxmodule import nn
from jaxmodule.nn import functional as F
from jaxmodule.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR

GPU = """on a GPU: --width 768 --depth 12 --heads 12 --context 1024 --batch 64 --steps 20000 --lr 6e-4 --dtype bfloat16,
and more text: --data FOLDER"""
# Options that may change when it goes on.
NOT_THE_RUN = ("out", "fresh", "prompt", "length", "temperature", "top_k", "top_p")


def rotate(x, positions):
    """Rotary positions: turns the pairs (x[i], x[i + half]) by angles that grow with the position, slower with i."""
    half = x.shape[-1] // 2
    angles = positions[:, None] * 10_000.0 ** (-jnp.arange(half) / half)
    cos, sin = jnp.cos(angles).astype(x.dtype), jnp.sin(angles).astype(x.dtype)
    a, b = x[..., :half], x[..., half:]
    return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], -1)


class Attention(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.proj = nn.Linear(width, width, bias=False)
        self.cache = None  # while generating: the keys and values so far, (2, N, heads, context, size)

    def forward(self, x, positions):
        n, length, width = x.shape
        q, k, v = self.qkv(x).reshape(n, length, 3, self.heads, -1).transpose(2, 0, 3, 1, 4)
        q, k = rotate(q, positions), rotate(k, positions)
        if self.cache is None:
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:  # one position
            self.cache = self.cache.at[..., positions[0], :].set(jnp.stack([k, v])[..., 0, :])
            filled = jnp.arange(self.cache.shape[3]) <= positions[0]
            y = F.scaled_dot_product_attention(q, self.cache[0], self.cache[1], attn_mask=filled[None])
        return self.proj(y.transpose(0, 2, 1, 3).reshape(n, length, width))


class Block(nn.Module):
    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        self.norm1 = nn.RMSNorm(width)
        self.attn = Attention(width, heads)
        self.norm2 = nn.RMSNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width, bias=False), nn.GELU(), nn.Linear(4 * width, width, bias=False)
        )
        self.drop = nn.Dropout(dropout)

    def forward(self, x, positions):
        x = x + self.drop(self.attn(self.norm1(x), positions))
        return x + self.drop(self.mlp(self.norm2(x)))


class GPT(nn.Module):
    def __init__(self, width: int, depth: int, heads: int, context: int, dropout: float):
        super().__init__()
        self.context = context
        self.embed = nn.Embedding(256, width)
        self.blocks = nn.ModuleList(Block(width, heads, dropout) for _ in range(depth))
        self.norm = nn.RMSNorm(width)
        self.head = nn.Linear(width, 256, bias=False)
        self.head.weight = self.embed.weight  # tied
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                into_stream = name.endswith(("attn.proj.weight", "mlp.2.weight"))
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * depth) if into_stream else 0.02)

    def forward(self, tokens, start=0):  # (N, length) bytes, the first of them at position `start`
        positions = start + jnp.arange(tokens.shape[1])
        # One loop over the blocks: a program of one block's size, at any depth. remat=True saves memory on top.
        x = jm.scan_layers(self.blocks)(self.embed(tokens), positions)
        return self.head(self.norm(x)).astype(jnp.float32)

    def set_cache(self, batch: int | None) -> None:
        """Make each attention's cache for `batch` texts; None removes them."""
        for block in self.blocks:
            attn, weight = block.attn, self.embed.weight
            shape = (2, batch, attn.heads, self.context, weight.shape[1] // attn.heads)
            attn.cache = None if batch is None else jnp.zeros(shape, weight.dtype)


def loss_fn(model, window):
    return F.cross_entropy(model(window[:, :-1]).reshape(-1, 256), window[:, 1:].reshape(-1))


@jm.jit
def train_step(model, optimizer, window):
    loss, grads = jm.value_and_grad(loss_fn)(model, window)
    nn.utils.clip_grad_norm_(grads, 1.0)
    optimizer.step(grads)
    return loss


evaluate = jm.jit(loss_fn)


def pick(logits, temperature: float, top_k: int, top_p: float):
    """Draw a byte: of the `top_k` likeliest (0 for all), and of the fewest that have the probability `top_p`."""
    if temperature == 0:
        return logits.argmax(-1)
    logits = logits / temperature
    falling = jnp.sort(logits, descending=True)
    if top_k:
        falling = jnp.where(jnp.arange(logits.shape[-1]) < top_k, falling, -jnp.inf)
    probabilities = F.softmax(falling, dim=-1)
    likelier = jnp.cumsum(probabilities, -1) - probabilities  # the likeliest has 0 here, and is always kept
    least = jnp.where((likelier < top_p) & (falling > -jnp.inf), falling, jnp.inf).min(-1, keepdims=True)
    return jax.random.categorical(jm.next_key(), jnp.where(logits < least, -jnp.inf, logits))


@partial(jm.jit, static_argnames=("temperature", "top_k", "top_p"))
def generate(model, prompt, *, temperature: float, top_k: int, top_p: float):
    """Fill in what is -1 in the bytes `prompt` (N, length), the first of them apart; returns all but the first."""

    def step(previous, now):  # what it writes to the caches is there in the next step: jm.scan carries it
        position, given = now
        token = pick(model(previous[:, None], position)[:, 0], temperature, top_k, top_p)
        token = jnp.where(given < 0, token, given)
        return token, token

    _, written = jm.scan(step, prompt[:, 0], (jnp.arange(prompt.shape[1] - 1), prompt[:, 1:].T))
    return written.T


def write(model, prompt: bytes, length: int, **choices) -> bytes:
    """`length` bytes more. Where the context is full, its later half is the prompt of another stretch."""
    text = prompt
    while len(text) < len(prompt) + length:
        seen = text[-(model.context // 2) :]
        window = np.full((1, model.context), -1, np.int32)
        window[0, : len(seen)] = list(seen)
        model.set_cache(batch=1)
        text += bytes(np.asarray(generate(model, window, **choices))[0, len(seen) - 1 :].tolist())
    model.set_cache(None)
    return text[: len(prompt) + length]


def load_text(data: Path | None) -> tuple[np.ndarray, np.ndarray]:
    if data is None:
        files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    else:
        files = sorted(path for path in data.rglob("*") if path.is_file()) if data.is_dir() else [data]
    text = np.frombuffer(b"\n".join(path.read_bytes() for path in files), np.uint8)
    cut = len(text) * 9 // 10
    return text[:cut], text[cut:]


def windows(text: np.ndarray, starts: np.ndarray, context: int) -> np.ndarray:
    return text[starts[:, None] + np.arange(context + 1)].astype(np.int32)


def batches_from(step: int, text: np.ndarray, options):
    """The batches of this and the later steps; what is in them depends on the seed and the step alone."""

    def draw(_, random: np.random.Generator) -> np.ndarray:
        return windows(text, random.integers(len(text) - options.context, size=options.batch), options.context)

    batches = grain.MapDataset.range(options.steps).seed(options.seed).random_map(draw)[step:]
    # The text is in memory: the one thread that prefetches is enough.
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
        return 0, {"step": [], "training": [], "held out": []}
    if saved.extra["run"] != run:
        raise SystemExit(f"{folder} is of another run, {saved.extra['run']}: choose another --out, or --fresh")
    jm.load_checkpoint(folder, saved.step, **state)  # and the default generator, as it was
    print(f"going on after step {saved.step:,} of {saved.path}")
    return saved.step, saved.extra["history"]


def train(model, text, held_out, options) -> dict[str, list[float]]:
    low = options.dtype == "bfloat16"  # then the optimizer keeps a float32 copy of the weights, as its moments are
    optimizer = jm.optim.AdamW(model.parameters(), options.lr, (0.9, 0.95), weight_decay=0.1, master_weights=low)
    warmup = max(1, options.steps // 20)
    rise = LinearLR(optimizer, 0.01, total_iters=warmup)
    fall = CosineAnnealingLR(optimizer, max(1, options.steps - warmup), eta_min=options.lr / 10)
    schedule = SequentialLR(optimizer, [rise, fall], [warmup])

    state = {"model": model, "optimizer": {"adamw": optimizer, "schedule": schedule}}
    run = {name: str(value) for name, value in vars(options).items() if name not in NOT_THE_RUN}
    start, history = resume(options.out / "checkpoints", run, **state)
    places = np.linspace(0, len(held_out) - options.context - 1, 256).astype(int)
    parts = np.split(windows(held_out, places, options.context), 8)
    losses = []  # since the last checkpoint: arrays, which nothing waits for until they are read
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Rate(), TimeRemainingColumn()
    with Progress(*columns, TextColumn("{task.fields[status]}")) as progress:
        task = progress.add_task("training", total=options.steps, completed=start, status="compiling")
        for step, window in enumerate(batches_from(start, text, options), start + 1):
            losses.append(train_step(model, optimizer, window))
            schedule.step()
            # One step is computed while the next one is prepared; the bar would run ahead of more.
            jax.block_until_ready(losses[-2:-1])
            progress.advance(task)
            if step % options.every == 0 or step == options.steps:
                model.eval()
                val_losses = [evaluate(model, part) for part in parts]
                model.train()
                numbers = step, *(float(np.mean(jax.device_get(values))) for values in (losses, val_losses))
                for values, number in zip(history.values(), numbers, strict=True):
                    values.append(number)
                losses.clear()
                extra = {"run": run, "history": history}
                jm.save_checkpoint(options.out / "checkpoints", step, **state, extra=extra, keep=2)
                line = "step {:5,d}  loss {:.3f} (held out {:.3f})".format(*numbers)
                progress.console.print(line, highlight=False)
                progress.update(task, status=f"loss {numbers[1]:.3f}")
    return history


def plot(path: Path, history: dict[str, list[float]], held_out: np.ndarray) -> None:
    import matplotlib

    matplotlib.use("Agg")  # no display needed
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for name in ("training", "held out"):
        axes.plot(history["step"], np.array(history[name]) / math.log(2), marker=".", label=name)
    zipped = 8 * len(gzip.compress(held_out.tobytes())) / len(held_out)
    axes.axhline(zipped, color="gray", linestyle=":", label="gzip -9 on all of the held-out text")
    axes.set(xlabel="step", ylabel="bits per byte", ylim=(0, None))
    axes.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], epilog=GPU)
    add = parser.add_argument
    add("--seed", type=int, default=0, help="of the weights, the batches, dropout and the sample (default 0)")
    add("--data", type=Path, help="a text file, or a folder of them (default: Python's standard library)")
    add("--out", type=Path, default=Path("out/char_gpt"), help="folder for checkpoints, weights and figure")
    add("--fresh", action="store_true", help="begin again, though there are checkpoints")
    add("--steps", type=int, default=900, help="batches to train on (default 900)")
    add("--every", type=int, default=100, help="steps between checkpoints (default 100)")
    add("--batch", type=int, default=16, help="stretches of text in a batch (default 16)")
    add("--lr", type=float, default=3e-3, help="learning rate after the warm-up (default 0.003)")
    add("--width", type=int, default=96, help="of what passes from block to block (default 96)")
    add("--depth", type=int, default=4, help="blocks (default 4)")
    add("--heads", type=int, default=3, help="of the attention in each block (default 3)")
    add("--context", type=int, default=128, help="bytes that it sees (default 128)")
    add("--dropout", type=float, default=0.0, help="behind attention and MLP (default 0)")
    add("--dtype", choices=("float32", "bfloat16"), default="float32", help="of the weights (default float32)")
    add("--prompt", default="def ", help="what the sample begins with (default 'def ')")
    add("--length", type=int, default=600, help="bytes to write (default 600)")
    add("--temperature", type=float, default=0.8, help="of the draws, 0 for the likeliest byte (default 0.8)")
    add("--top-k", type=int, default=0, help="draw from so many bytes, 0 for all (default 0)")
    add("--top-p", type=float, default=0.95, help="draw from the fewest that have this probability (default 0.95)")
    options = parser.parse_args()
    sizes = options.steps, options.every, options.batch, options.depth, options.heads, options.length
    if min(sizes) < 1 or not options.prompt:
        parser.error("--steps, --every, --batch, --depth, --heads and --length must be at least 1, --prompt not empty")
    if options.width % (2 * options.heads) or options.context < 2:
        parser.error("--width must be a multiple of twice --heads, --context at least 2")
    options.out.mkdir(parents=True, exist_ok=True)
    if options.fresh:
        shutil.rmtree(options.out / "checkpoints", ignore_errors=True)

    text, held_out = load_text(options.data)
    if len(held_out) <= options.context:
        parser.error(f"a tenth of the text must be longer than the context: it has {len(held_out)} bytes")
    jm.manual_seed(options.seed)
    model = GPT(options.width, options.depth, options.heads, options.context, options.dropout)
    model.to(getattr(jnp, options.dtype))
    print(f"{sum(p.size for p in model.parameters()):,} parameters, {len(text):,} bytes to train on")

    history = train(model, text, held_out, options)
    model.eval()
    weights = options.out / "char_gpt.safetensors"
    jm.save(model.state_dict(), weights)
    choices = {"temperature": options.temperature, "top_k": options.top_k, "top_p": options.top_p}
    print(write(model, options.prompt.encode(), options.length, **choices).decode(errors="replace"))
    plot(options.out / "char_gpt.png", history, held_out)
    print(f"wrote {weights} and {options.out / 'char_gpt.png'}")
    print(f"sha256 of the weights: {hashlib.sha256(weights.read_bytes()).hexdigest()}")
    loss = history["held out"][-1]
    print(f"final: validation loss {loss:.3f} ({loss / math.log(2):.3f} bits per byte) after {options.steps:,} steps")


if __name__ == "__main__":
    main()

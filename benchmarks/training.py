"""Training steps with something to compute, a GPT and a ResNet-18: `jm.jit` beside hand-written JAX, and beside torch.

    python benchmarks/training.py --markdown

`jaxmodule` and torch run the same source, with its `nn` and `F` taken from one or the other. The hand-written side has
the same weights in a dict, JAX's own operations and optax. All start from the same arrays, and their losses must agree
for five steps before anything is timed; they are timed in turns in one process, and a ratio is the median of those of
neighbours, with the middle half in brackets.
"""

import argparse
import gc
import os

# Both compute with two pools of threads; torch's would spin on the cores that JAX runs on next.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import platform
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

import jaxmodule as jm

try:
    import torch
except ImportError:  # its column is left out
    torch = None

VOCABULARY, CONTEXT, WIDTH, HEADS, DEPTH = 256, 128, 256, 4, 4  # of the GPT
CHANNELS, IMAGE, CLASSES = 32, 32, 10  # of the ResNet
RATE = 1e-3
Step = Callable[[], Any]


# -- the models, of either library ------------------------------------------------------------------------------------


def gpt(nn: Any, F: Any) -> Any:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
            self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
            self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

        def forward(self, x: Any) -> Any:
            n, length, _ = x.shape
            qkv = self.qkv(self.norm1(x)).reshape(n, length, 3, HEADS, WIDTH // HEADS)
            q, k, v = (qkv[:, :, i].swapaxes(1, 2) for i in range(3))
            seen = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.out(seen.swapaxes(1, 2).reshape(n, length, WIDTH))
            return x + self.down(F.gelu(self.up(self.norm2(x))))

    class GPT(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(VOCABULARY, WIDTH)
            self.place = nn.Embedding(CONTEXT, WIDTH)
            self.blocks = nn.Sequential(*[Block() for _ in range(DEPTH)])
            self.norm = nn.LayerNorm(WIDTH)
            self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)

        def forward(self, x: Any) -> Any:
            x = self.embed(x) + self.place.weight[: x.shape[1]][None]
            return self.head(self.norm(self.blocks(x))).reshape(-1, VOCABULARY)

    return GPT()


def resnet(nn: Any, F: Any) -> Any:
    class Block(nn.Module):
        def __init__(self, inputs: int, outputs: int, stride: int) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
            self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
            self.bn1, self.bn2 = nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)
            self.downsample = None
            if stride != 1:
                self.downsample = nn.Sequential(
                    nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
                )

        def forward(self, x: Any) -> Any:
            y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
            return F.relu(y + (x if self.downsample is None else self.downsample(x)))

    widths = [CHANNELS * 2**i for i in range(4)]
    stages = [
        nn.Sequential(Block(widths[max(0, i - 1)], width, 2 if i else 1), Block(width, width, 1))
        for i, width in enumerate(widths)
    ]
    stem = nn.Conv2d(3, CHANNELS, 3, padding=1, bias=False), nn.BatchNorm2d(CHANNELS), nn.ReLU()
    return nn.Sequential(*stem, *stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], CLASSES))


# -- the same by hand: functions of a dict of arrays, and the statistics that BatchNorm has written -------------------


def gpt_by_hand(p: dict[str, Any], x: Any) -> tuple[Any, dict[str, Any]]:
    def linear(name: str, x: Any) -> Any:
        return x @ p[f"{name}.weight"].T + p[f"{name}.bias"]

    def norm(name: str, x: Any) -> Any:
        x = x - x.mean(-1, keepdims=True)
        return x * lax.rsqrt((x * x).mean(-1, keepdims=True) + 1e-5) * p[f"{name}.weight"] + p[f"{name}.bias"]

    n, length = x.shape
    x = p["embed.weight"][x] + p["place.weight"][:length]
    for i in range(DEPTH):
        name = f"blocks.{i}"
        qkv = linear(f"{name}.qkv", norm(f"{name}.norm1", x)).reshape(n, length, 3, HEADS, -1)
        seen = jax.nn.dot_product_attention(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2], is_causal=True)
        x = x + linear(f"{name}.out", seen.reshape(n, length, WIDTH))
        y = jax.nn.gelu(linear(f"{name}.up", norm(f"{name}.norm2", x)), approximate=False)
        x = x + linear(f"{name}.down", y)
    return (norm("norm", x) @ p["head.weight"].T).reshape(-1, VOCABULARY), {}


def resnet_by_hand(p: dict[str, Any], x: Any) -> tuple[Any, dict[str, Any]]:
    written = {}

    def conv(name: str, x: Any, stride: int = 1, padding: int = 1) -> Any:
        kernel, ends = p[f"{name}.weight"], [(padding, padding)] * 2
        return lax.conv_general_dilated(x, kernel, (stride, stride), ends, dimension_numbers=("NCHW", "OIHW", "NCHW"))

    def norm(name: str, x: Any) -> Any:
        mean, count = x.mean((0, 2, 3)), x.size // x.shape[1]
        variance = ((x - mean[:, None, None]) ** 2).mean((0, 2, 3))
        for kind, now in (("mean", mean), ("var", variance * count / (count - 1))):
            key = f"{name}.running_{kind}"
            written[key] = lax.stop_gradient(0.9 * p[key] + 0.1 * now)
        scale = p[f"{name}.weight"] * lax.rsqrt(variance + 1e-5)
        return (x - mean[:, None, None]) * scale[:, None, None] + p[f"{name}.bias"][:, None, None]

    x = jax.nn.relu(norm("1", conv("0", x)))
    for stage in range(4):
        for block in range(2):
            name, stride = f"{3 + stage}.{block}", 2 if stage and not block else 1
            y = jax.nn.relu(norm(f"{name}.bn1", conv(f"{name}.conv1", x, stride)))
            y = norm(f"{name}.bn2", conv(f"{name}.conv2", y))
            if stride != 1:
                x = norm(f"{name}.downsample.1", conv(f"{name}.downsample.0", x, stride, 0))
            x = jax.nn.relu(x + y)
    return x.mean((2, 3)) @ p["9.weight"].T + p["9.bias"], written


MODELS = {
    "GPT": (gpt, gpt_by_hand, "4 layers of width 256, 8 × 128 tokens"),
    "ResNet-18": (resnet, resnet_by_hand, "32 to 256 channels, 32 images of 3×32×32"),
}


def batch_of(name: str, rows: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    if name == "GPT":
        text = random.integers(VOCABULARY, size=(rows, CONTEXT + 1)).astype(np.int32)
        return text[:, :-1], text[:, 1:].reshape(-1)
    return random.normal(size=(rows, 3, IMAGE, IMAGE)).astype(np.float32), random.integers(CLASSES, size=rows)


# -- the sides: each gives a training step that returns the loss -------------------------------------------------------


def with_jm(name: str, state: dict[str, Any], x: np.ndarray, y: np.ndarray) -> Step:
    model = MODELS[name][0](jm.nn, jm.nn.functional)
    model.load_state_dict(state)
    optimizer = jm.optim.AdamW(model.parameters(), lr=RATE)

    @jm.jit
    def step(model: Any, optimizer: Any, x: Any, y: Any) -> Any:
        loss, grads = jm.value_and_grad(lambda m: jm.nn.functional.cross_entropy(m(x), y))(model)
        optimizer.step(grads)
        return loss

    given = jnp.asarray(x), jnp.asarray(y, jnp.int32)
    return lambda: step(model, optimizer, *given).block_until_ready()


def by_hand(name: str, state: dict[str, Any], x: np.ndarray, y: np.ndarray) -> Step:
    apply = MODELS[name][1]
    params = {key: jnp.asarray(value) for key, value in state.items() if "running" not in key and "num_" not in key}
    buffers = {key: jnp.asarray(value) for key, value in state.items() if "running" in key}
    tx = optax.adamw(RATE, weight_decay=0.01)
    moments = tx.init(params)

    @jax.jit
    def step(params: Any, buffers: Any, moments: Any, x: Any, y: Any) -> Any:
        def loss_fn(params: Any) -> Any:
            logits, written = apply({**params, **buffers}, x)
            return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean(), written

        (loss, buffers_now), grads = jax.value_and_grad(loss_fn, has_aux=True)(params)
        updates, moments_now = tx.update(grads, moments, params)
        return optax.apply_updates(params, updates), buffers_now, moments_now, loss

    given = jnp.asarray(x), jnp.asarray(y, jnp.int32)

    def run() -> Any:
        nonlocal params, buffers, moments
        params, buffers, moments, loss = step(params, buffers, moments, *given)
        return loss.block_until_ready()

    return run


def with_torch(name: str, state: dict[str, Any], x: np.ndarray, y: np.ndarray) -> Step:
    model = MODELS[name][0](torch.nn, torch.nn.functional)
    model.load_state_dict({key: torch.from_numpy(np.array(value)) for key, value in state.items()})
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE)
    given, labels = torch.from_numpy(x), torch.from_numpy(y).long()

    def run() -> Any:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(given), labels)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return run


SIDES = {"jm": with_jm, "by hand": by_hand, "torch": with_torch}


def measure(name: str, rows: int, repeats: int) -> list[str]:
    jm.manual_seed(0)
    model = MODELS[name][0](jm.nn, jm.nn.functional)
    state = {key: np.asarray(value) for key, value in model.state_dict().items()}
    x, y = batch_of(name, rows)
    steps = {side: make(name, state, x, y) for side, make in SIDES.items() if side != "torch" or torch is not None}
    losses = {side: [float(step()) for _ in range(5)] for side, step in steps.items()}
    for side, found in losses.items():
        np.testing.assert_allclose(found, losses["jm"], rtol=1e-2, err_msg=side)
    times: dict[str, list[float]] = {side: [] for side in steps}
    gc.collect()
    gc.disable()
    try:
        for turn in range(repeats):
            for side in list(steps) if turn % 2 else list(steps)[::-1]:
                start = time.perf_counter()
                steps[side]()
                times[side].append(time.perf_counter() - start)
    finally:
        gc.enable()
    cells = [f"{name}: {MODELS[name][2]}", f"{1e3 * np.median(times['jm']):,.0f}"]
    for side in list(SIDES)[1:]:
        if side not in times:
            cells.append("–")
            continue
        ratios = np.array(times["jm"]) / np.array(times[side])
        low, middle, high = np.percentile(ratios, (25, 50, 75))
        cells.append(f"**{middle:.2f}×** [{low:.2f}, {high:.2f}]")
    return cells


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", choices=MODELS, nargs="+", default=list(MODELS))
    parser.add_argument("--repeats", type=int, default=31, help="turns of each side (default 31)")
    parser.add_argument("--rows", type=int, help="of a batch (default: 8 texts, 32 images)")
    parser.add_argument("--markdown", action="store_true", help="print a table for a README")
    options = parser.parse_args()
    if torch is not None:
        torch.set_num_threads(os.cpu_count() or 1)
    heads = ["AdamW step of", "`jm.jit`, ms", "to JAX by hand", "to torch, eager"]
    if options.markdown:
        print(f"| {' | '.join(heads)} |\n|---{'|--:' * 3}|")
    for name in options.models:
        cells = measure(name, options.rows or {"GPT": 8}.get(name, 32), options.repeats)
        print(f"| {' | '.join(cells)} |" if options.markdown else "  ".join(cells), flush=True)
    packages = ["jax", *(["torch"] if torch is not None else [])]
    found = ", ".join(f"{package} {version(package)}" for package in packages)
    print(f"\n{os.cpu_count()} CPU cores; python {platform.python_version()}, {found}.")


if __name__ == "__main__":
    main()

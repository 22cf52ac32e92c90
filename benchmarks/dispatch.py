"""What a warm call costs when nothing is left to compute: `jm.jit` and its peers against `jax.jit` on a dict.

    python benchmarks/dispatch.py --markdown

The net is made of blocks of two Linear and one LayerNorm of width 8, six tensors a block. Every framework starts from
the same arrays, its outputs and its losses are compared with those of raw JAX, and it runs in a process of its own,
where raw JAX is timed in turns with it: a ratio is the median of the ratios of neighbouring measurements, and the
brackets beside it hold half of them. Times are of single calls, each waited for.
"""

import argparse
import gc
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

WIDTH, BATCH, LEARNING_RATE = 8, 4, 1e-3
FRAMEWORKS = {
    "jm": "`jm.jit`",
    "nnx": "`nnx.jit`",
    "nnx-cached": "`nnx.jit` with `nnx.cached_partial`",
    "nnx-tree": "`nnx.jit(graph=False)`",
    "eqx": "`eqx.filter_jit`",
}
PACKAGES = ("jax", "jaxlib", "jaxmodule", "flax", "equinox", "optax", "numpy")


@dataclass(frozen=True)
class Calls:
    """A framework's side: a compiled forward pass and a compiled training step, both warm after their first call."""

    forward: Callable[[], Any]
    step: Callable[[], Any]


@dataclass(frozen=True)
class Timing:
    what: str
    raw_us: float
    raw_spread_us: tuple[float, float]
    us: float
    spread_us: tuple[float, float]
    ratio: float
    ratio_spread: tuple[float, float]
    fastest_ratio: float  # of the fastest tenths: what a loaded machine does to the medians it doesn't do to these
    raw_compile_s: float
    compile_s: float


@dataclass(frozen=True)
class Result:
    framework: str
    blocks: int
    tensors: int
    optimizer: str
    timings: list[Timing]


def make_arrays(blocks: int) -> dict:
    import jax.numpy as jnp
    import numpy as np

    random = np.random.default_rng(0)
    normal = lambda *shape: jnp.asarray(random.normal(0, 0.1, shape).astype(np.float32))  # noqa: E731
    arrays = {}
    for i in range(blocks):
        for name in ("fc1", "fc2"):
            arrays[f"blocks.{i}.{name}.weight"] = normal(WIDTH, WIDTH)
            arrays[f"blocks.{i}.{name}.bias"] = normal(WIDTH)
        arrays[f"blocks.{i}.norm.weight"] = 1 + normal(WIDTH)
        arrays[f"blocks.{i}.norm.bias"] = normal(WIDTH)
    return arrays


def make_batch() -> tuple:
    import jax.numpy as jnp
    import numpy as np

    random = np.random.default_rng(1)
    x, y = (jnp.asarray(random.normal(0, 1, (BATCH, WIDTH)).astype(np.float32)) for _ in range(2))
    return x, y


def transformation(optimizer: str):
    """What raw JAX and the peers use; `jm.optim`'s own is torch's, with the same arithmetic."""
    import optax

    return optax.sgd(LEARNING_RATE) if optimizer == "sgd" else optax.adamw(LEARNING_RATE, weight_decay=0.01)


def build_raw(blocks: int, optimizer: str) -> Calls:
    import jax
    import jax.numpy as jnp
    import optax

    params, (x, y), tx = make_arrays(blocks), make_batch(), transformation(optimizer)
    opt_state = tx.init(params)

    def apply(params, x):
        for i in range(blocks):
            name = f"blocks.{i}"
            # The operations of the modules, one by one: another spelling is another program (with h.var, which
            # computes the mean again, XLA took far longer to compile raw JAX's than anybody's).
            h = x @ params[f"{name}.fc1.weight"].T + params[f"{name}.fc1.bias"]
            h = h - h.mean(-1, keepdims=True)
            h = h * jax.lax.rsqrt(jnp.mean(jax.lax.square(h), -1, keepdims=True) + 1e-5)
            h = jax.nn.relu(h * params[f"{name}.norm.weight"] + params[f"{name}.norm.bias"])
            x = x + (h @ params[f"{name}.fc2.weight"].T + params[f"{name}.fc2.bias"])
        return x

    forward = jax.jit(apply)

    @jax.jit
    def train_step(params, opt_state, x, y):
        loss, grads = jax.value_and_grad(lambda p: jnp.mean((apply(p, x) - y) ** 2))(params)
        updates, opt_state = tx.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, loss

    def step():
        nonlocal params, opt_state
        params, opt_state, loss = train_step(params, opt_state, x, y)
        return loss

    return Calls(lambda: forward(params, x), step)


def build_jm(blocks: int, optimizer: str) -> Calls:
    import jaxmodule as jm
    from jaxmodule import nn
    from jaxmodule.nn import functional as F

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc1 = nn.Linear(WIDTH, WIDTH)
            self.norm = nn.LayerNorm(WIDTH)
            self.fc2 = nn.Linear(WIDTH, WIDTH)

        def forward(self, x):
            return x + self.fc2(F.relu(self.norm(self.fc1(x))))

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = nn.ModuleList([Block() for _ in range(blocks)])

        def forward(self, x):
            for block in self.blocks:
                x = block(x)
            return x

    x, y = make_batch()
    model = Net()
    model.load_state_dict(make_arrays(blocks))
    if optimizer == "sgd":
        opt = jm.optim.SGD(model.parameters(), lr=LEARNING_RATE)
    else:
        opt = jm.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.01)

    @jm.jit
    def forward(model, x):
        return model(x)

    @jm.jit
    def train_step(model, optimizer, x, y):
        loss, grads = jm.value_and_grad(lambda m: F.mse_loss(m(x), y))(model)
        optimizer.step(grads)
        return loss

    return Calls(lambda: forward(model, x), lambda: train_step(model, opt, x, y))


def build_nnx(blocks: int, optimizer: str, variant: str) -> Calls:
    import jax.numpy as jnp
    from flax import nnx

    options: dict[str, Any] = {"graph": False} if variant == "nnx-tree" else {}

    class Block(nnx.Module):
        def __init__(self, rngs):
            self.fc1 = nnx.Linear(WIDTH, WIDTH, rngs=rngs)
            self.norm = nnx.LayerNorm(WIDTH, epsilon=1e-5, use_fast_variance=False, rngs=rngs)
            self.fc2 = nnx.Linear(WIDTH, WIDTH, rngs=rngs)

        def __call__(self, x):
            return x + self.fc2(nnx.relu(self.norm(self.fc1(x))))

    class Net(nnx.Module):
        def __init__(self, rngs):
            self.blocks = nnx.List([Block(rngs) for _ in range(blocks)])

        def __call__(self, x):
            for block in self.blocks:
                x = block(x)
            return x

    model, (x, y), arrays = Net(nnx.Rngs(0)), make_batch(), make_arrays(blocks)
    for i, block in enumerate(model.blocks):
        for name in ("fc1", "fc2"):
            getattr(block, name).kernel[...] = arrays[f"blocks.{i}.{name}.weight"].T
            getattr(block, name).bias[...] = arrays[f"blocks.{i}.{name}.bias"]
        block.norm.scale[...] = arrays[f"blocks.{i}.norm.weight"]
        block.norm.bias[...] = arrays[f"blocks.{i}.norm.bias"]
    opt = nnx.Optimizer(model, transformation(optimizer), wrt=nnx.Param)

    @nnx.jit(**options)
    def forward(model, x):
        return model(x)

    @nnx.jit(**options)
    def train_step(model, optimizer, x, y):
        loss, grads = nnx.value_and_grad(lambda m: jnp.mean((m(x) - y) ** 2), **options)(model)
        optimizer.update(model, grads)
        return loss

    if variant == "nnx-cached":
        forward = nnx.cached_partial(forward, model)
        train_step = nnx.cached_partial(train_step, model, opt)
        return Calls(lambda: forward(x), lambda: train_step(x, y))
    return Calls(lambda: forward(model, x), lambda: train_step(model, opt, x, y))


def build_eqx(blocks: int, optimizer: str) -> Calls:
    import equinox as eqx
    import jax
    import jax.numpy as jnp

    class Block(eqx.Module):
        fc1: eqx.nn.Linear
        norm: eqx.nn.LayerNorm
        fc2: eqx.nn.Linear

        def __init__(self, key):
            self.fc1 = eqx.nn.Linear(WIDTH, WIDTH, key=key)
            self.norm = eqx.nn.LayerNorm(WIDTH)
            self.fc2 = eqx.nn.Linear(WIDTH, WIDTH, key=key)

        def __call__(self, x):
            return x + self.fc2(jax.nn.relu(self.norm(self.fc1(x))))

    class Net(eqx.Module):
        blocks: list[Block]

        def __call__(self, x):
            for block in self.blocks:
                x = block(x)
            return x

    x, y = make_batch()
    model = Net([Block(jax.random.key(0)) for _ in range(blocks)])
    # Our names are equinox's; its leaves come in the order in which the fields are declared.
    order = [f"blocks.{i}.{layer}.{kind}" for i in range(blocks) for layer in ("fc1", "norm", "fc2") for kind in _KINDS]
    arrays = make_arrays(blocks)
    model = jax.tree.unflatten(jax.tree.structure(model), [arrays[name] for name in order])
    tx = transformation(optimizer)
    opt_state = tx.init(eqx.filter(model, eqx.is_array))

    @eqx.filter_jit
    def forward(model, x):
        return jax.vmap(model)(x)

    @eqx.filter_jit
    def train_step(model, opt_state, x, y):
        loss, grads = eqx.filter_value_and_grad(lambda m: jnp.mean((jax.vmap(m)(x) - y) ** 2))(model)
        updates, opt_state = tx.update(grads, opt_state, eqx.filter(model, eqx.is_array))
        return eqx.apply_updates(model, updates), opt_state, loss

    def step():
        nonlocal model, opt_state
        model, opt_state, loss = train_step(model, opt_state, x, y)
        return loss

    return Calls(lambda: forward(model, x), step)


_KINDS = ("weight", "bias")


def build(framework: str, blocks: int, optimizer: str) -> Calls:
    if framework == "jm":
        return build_jm(blocks, optimizer)
    if framework == "eqx":
        return build_eqx(blocks, optimizer)
    return build_nnx(blocks, optimizer, framework)


def first_call(call: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of a first call (trace, compile, run), and what it gave."""
    import jax

    start = time.perf_counter()
    out = jax.block_until_ready(call())
    return time.perf_counter() - start, out


def per_call(call: Callable[[], Any], count: int) -> float:
    import jax

    start = time.perf_counter()
    for _ in range(count):
        jax.block_until_ready(call())
    return (time.perf_counter() - start) / count * 1e6


def quartiles(values: list[float]) -> tuple[float, tuple[float, float]]:
    import numpy as np

    low, middle, high = np.percentile(values, [25, 50, 75])
    return float(middle), (float(low), float(high))


def compare(what: str, raw: Callable[[], Any], other: Callable[[], Any], repeats: int, slice_s: float) -> Timing:
    """Times both sides in turns, each for about `slice_s` a turn, and swaps who goes first."""
    import jax
    import numpy as np

    jax.block_until_ready(jax.jit(lambda x: x + 1)(0.0))  # starting JAX is nobody's first call
    raw_compile, raw_first = first_call(raw)
    compile_, first = first_call(other)
    # The same mathematics, and a training step that really trains: its losses fall, and alike.
    np.testing.assert_allclose(np.asarray(first), np.asarray(raw_first), rtol=1e-4, atol=1e-5)
    raw_out, out = (jax.device_get([call() for _ in range(10)][-1]) for call in (raw, other))
    np.testing.assert_allclose(out, raw_out, rtol=1e-4, atol=1e-5)
    if what == "train step" and not out < first:
        raise RuntimeError(f"ten steps took the loss from {first} to {out}")

    warm = [(call, max(1, int(slice_s * 1e6 / min(per_call(call, 1) for _ in range(5))))) for call in (raw, other)]
    times: list[list[float]] = [[], []]
    gc.collect()
    gc.disable()
    try:
        for repeat in range(repeats):
            for side in (0, 1) if repeat % 2 else (1, 0):
                times[side].append(per_call(*warm[side]))
    finally:
        gc.enable()
    raw_us, raw_spread = quartiles(times[0])
    us, spread = quartiles(times[1])
    ratio, ratio_spread = quartiles([b / a for a, b in zip(*times, strict=True)])
    raw_fastest, fastest = (float(np.percentile(side, 10)) for side in times)
    return Timing(
        what, raw_us, raw_spread, us, spread, ratio, ratio_spread, fastest / raw_fastest, raw_compile, compile_
    )


def measure(framework: str, blocks: int, options: argparse.Namespace) -> Result:
    raw, other = build_raw(blocks, options.optimizer), build(framework, blocks, options.optimizer)
    timings = [compare("forward", raw.forward, other.forward, options.repeats, options.slice)]
    if not options.forward_only:
        timings.append(compare("train step", raw.step, other.step, options.repeats, options.slice))
    return Result(framework, blocks, len(make_arrays(blocks)), options.optimizer, timings)


def in_own_process(framework: str, blocks: int, options: argparse.Namespace) -> dict:
    command = [sys.executable, __file__, "--worker", framework, "--blocks", str(blocks)]
    command += ["--optimizer", options.optimizer, "--repeats", str(options.repeats), "--slice", str(options.slice)]
    command += ["--forward-only"] if options.forward_only else []
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{framework}, {blocks} blocks:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def spread(pair: list[float], digits: int) -> str:
    return f"[{pair[0]:,.{digits}f}, {pair[1]:,.{digits}f}]"


def row_of(result: dict, timing: dict) -> list[str]:
    return [
        f"{timing['us']:,.0f} {spread(timing['spread_us'], 0)}",
        f"{timing['raw_us']:,.0f}",
        f"**{timing['ratio']:.2f}×** {spread(timing['ratio_spread'], 2)}",
        f"{timing['compile_s']:.1f} / {timing['raw_compile_s']:.1f}",
    ]


def markdown(results: list[dict], where: dict[str, str]) -> str:
    lines = []
    columns = ["", "µs a call", "raw `jax.jit` beside it", "ratio", "first call, s (own / raw)"]
    for blocks in dict.fromkeys(result["blocks"] for result in results):
        for position in range(max(len(result["timings"]) for result in results)):
            chosen = [result for result in results if result["blocks"] == blocks]
            what = chosen[0]["timings"][position]["what"]
            what += f" ({chosen[0]['optimizer']})" if what == "train step" else ""
            lines += [f"**{what}, {blocks} blocks, {chosen[0]['tensors']} tensors**", ""]
            lines += [f"| {' | '.join(columns)} |", "|---|--:|--:|--:|--:|"]
            for result in chosen:
                cells = [FRAMEWORKS[result["framework"]], *row_of(result, result["timings"][position])]
                lines.append(f"| {' | '.join(cells)} |")
            lines.append("")
    software = ", ".join(f"{name} {number}" for name, number in where.items())
    lines += [f"Medians, with the middle half in brackets. {os.cpu_count()} CPU cores; {software}."]
    return "\n".join(lines)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--blocks", type=int, nargs="+", default=[24, 100], help="sizes of the net (1267: 7,602 tensors)"
    )
    parser.add_argument("--frameworks", nargs="+", choices=FRAMEWORKS, default=list(FRAMEWORKS))
    parser.add_argument("--optimizer", choices=("sgd", "adamw"), default="sgd", help="of the training step")
    parser.add_argument("--repeats", type=int, default=200, help="turns of each side")
    parser.add_argument("--slice", type=float, default=0.005, help="seconds a turn")
    parser.add_argument("--forward-only", action="store_true", help="leave out the training step")
    parser.add_argument("--json", action="store_true", help="print every figure as JSON")
    parser.add_argument("--markdown", action="store_true", help="print the table of README.md")
    parser.add_argument("--worker", choices=FRAMEWORKS, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    options = parse()
    if options.worker:
        print(json.dumps(asdict(measure(options.worker, options.blocks[0], options))))
        return
    results = []
    for blocks in options.blocks:
        for framework in options.frameworks:
            results.append(in_own_process(framework, blocks, options))
            for timing in results[-1]["timings"]:
                print(
                    f"{blocks:5d} blocks  {framework:10s}  {timing['what']:10s}  {timing['us']:10,.0f} µs ",
                    f"{timing['ratio']:7.2f}× {spread(timing['ratio_spread'], 2)}",
                    f" fastest tenths {timing['fastest_ratio']:.2f}×",
                    file=sys.stderr,
                )
    if options.json:
        print(json.dumps({"versions": versions(), "cores": os.cpu_count(), "results": results}, indent=1))
    if options.markdown:
        print(markdown(results, versions()))


if __name__ == "__main__":
    main()

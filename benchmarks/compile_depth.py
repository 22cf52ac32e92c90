"""What `jm.scan_layers` saves and costs: compile time, memory and run time of a training step by depth.

    python benchmarks/compile_depth.py

A stack of transformer blocks in three spellings: the Python loop, `scan_layers` with the weights selected (its default)
and with the weights stacked; each with and without rematerialisation. The forward pass alone, and a training step with
SGD and donated arrays, whose program has the gradient and the update of every parameter of every layer. Memory is what
XLA's `memory_analysis()` calls temporary, beside the bytes of the weights.
"""

import argparse
import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp

import jaxmodule as jm
from jaxmodule import nn
from jaxmodule.nn import functional as F

BATCH, LENGTH = 2, 64
WAYS: dict[str, dict[str, Any] | None] = {
    "loop": None,
    "scan_layers": {},
    "scan_layers, remat": {"remat": True},
    "stacked": {"weights": "stack"},
    "stacked, remat": {"weights": "stack", "remat": True},
}


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: jax.Array) -> jax.Array:
        batch, length, width = x.shape
        split = self.qkv(self.norm1(x)).reshape(batch, length, 3, self.heads, -1)
        q, k, v = jnp.moveaxis(split, (2, 3), (0, 2))
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(jnp.moveaxis(seen, 1, 2).reshape(batch, length, width))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Net(nn.Module):
    def __init__(self, depth: int, width: int, how: dict[str, Any] | None) -> None:
        super().__init__()
        self.how = how
        self.blocks = nn.ModuleList(Block(width, 4) for _ in range(depth))

    def forward(self, x: jax.Array) -> jax.Array:
        if self.how is not None:
            return jm.scan_layers(self.blocks, **self.how)(x)
        for block in self.blocks:
            x = block(x)
        return x


@jm.jit(donate=True)
def step(model: Net, x: jax.Array) -> jax.Array:
    loss, grads = jm.value_and_grad(lambda m: jnp.mean(m(x) ** 2))(model)
    for name, parameter in model.named_parameters():
        parameter.value = parameter - 1e-3 * grads[name]
    return loss


@jm.jit
def forward(model: Net, x: jax.Array) -> jax.Array:
    return jnp.mean(model(x) ** 2)


def measure(function: Any, depth: int, width: int, how: dict[str, Any] | None, repeats: int) -> dict[str, float]:
    jm.manual_seed(0)
    model, x = Net(depth, width, how), jax.random.normal(jax.random.key(0), (BATCH, LENGTH, width))
    weights = sum(p.value.nbytes for p in model.parameters())
    start = time.perf_counter()
    lowered = function.lower(model, x)
    traced = time.perf_counter()
    compiled = lowered.compile()
    done = time.perf_counter()
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        loss = jax.block_until_ready(compiled(model, x))
        times.append(time.perf_counter() - begin)
    return {
        "trace": traced - start,
        "compile": done - traced,
        "temp": compiled.memory_analysis().temp_size_in_bytes / weights,
        "run": statistics.median(times),
        "loss": float(loss),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--depths", type=int, nargs="+", default=[2, 12, 48])
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--loop-up-to", type=int, default=12, help="deeper, the loop takes minutes to compile")
    parser.add_argument("--only", choices=WAYS, nargs="+", default=list(WAYS))
    options = parser.parse_args()
    print("| layers | spelling | trace s | compile s | temporary / weights | ms |\n|---|---|---|---|---|---|")
    for depth in options.depths:
        for function in (forward, step):
            losses = []
            for name in options.only:
                if (name == "loop" and depth > options.loop_up_to) or (function is forward and "remat" in name):
                    continue
                found = measure(function, depth, options.width, WAYS[name], options.repeats)
                losses.append(found["loss"])
                figures = "{trace:.2f} | {compile:.2f} | {temp:.2f}".format(**found)
                print(f"| {depth} | {name}, {function.__name__} | {figures} | {1e3 * found['run']:.0f} |", flush=True)
            if losses and max(losses) - min(losses) > 1e-4 * abs(losses[0]):
                raise SystemExit(f"the spellings differ at depth {depth}: {losses}")


if __name__ == "__main__":
    main()

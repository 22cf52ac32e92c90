"""How long Python takes to trace a 48-block GPT, forward and backward: objects against functions on a dict.

    python benchmarks/trace_time.py

The blocks are spelled with the same operations: LayerNorm, one product for q, k and v, causal attention as a softmax of
a matrix, GELU. Each framework's trace (`eval_shape` of loss and gradients, nothing compiled) is timed in turns with
the hand-written one's; ratios are medians of those of neighbours.
"""

import argparse
import gc
import importlib.util
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

import jaxmodule as jm
from jaxmodule import nn
from jaxmodule.nn import functional as F

WIDTH, HEADS, LENGTH = 64, 4, 16


def attention(qkv: jax.Array) -> jax.Array:
    """What is not a layer, for all frameworks."""
    batch, length, _ = qkv.shape
    q, k, v = jnp.moveaxis(qkv.reshape(batch, length, 3, HEADS, -1), (2, 3), (0, 2))
    scores = jnp.einsum("bhqe,bhke->bhqk", q, k) * (q.shape[-1] ** -0.5)
    seen = jnp.tril(jnp.ones((length, length), bool))[None, None]
    weights = jax.nn.softmax(jnp.where(seen, scores, -jnp.inf))
    return jnp.moveaxis(jnp.einsum("bhqk,bhke->bhqe", weights, v), 1, 2).reshape(batch, length, WIDTH)


def by_hand(depth: int) -> Callable[[], Any]:
    def linear(p: dict[str, Any], x: jax.Array) -> jax.Array:
        return lax.dot_general(x, p["weight"], (((2,), (1,)), ((), ()))) + p["bias"][None, None]

    def norm(p: dict[str, Any], x: jax.Array) -> jax.Array:
        x = x - jnp.mean(x, -1, keepdims=True)
        x = x * lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-5)
        return x * p["weight"][None, None] + p["bias"][None, None]

    def block(p: dict[str, Any], x: jax.Array) -> jax.Array:
        x = x + linear(p["out"], attention(linear(p["qkv"], norm(p["norm1"], x))))
        return x + linear(p["down"], jax.nn.gelu(linear(p["up"], norm(p["norm2"], x)), approximate=False))

    def layer(out: int, features: int) -> dict[str, Any]:
        return {"weight": jnp.ones((out, features)), "bias": jnp.ones(out)}

    def params() -> dict[str, Any]:
        sizes = {"qkv": (3 * WIDTH, WIDTH), "out": (WIDTH, WIDTH), "up": (4 * WIDTH, WIDTH), "down": (WIDTH, 4 * WIDTH)}
        norms = {name: {"weight": jnp.ones(WIDTH), "bias": jnp.ones(WIDTH)} for name in ("norm1", "norm2")}
        return {**{name: layer(*size) for name, size in sizes.items()}, **norms}

    def loss(blocks: list[Any], x: jax.Array) -> jax.Array:
        for p in blocks:
            x = block(p, x)
        return jnp.mean(x * x)

    blocks, x = [params() for _ in range(depth)], jnp.ones((2, LENGTH, WIDTH))
    return lambda: jax.eval_shape(lambda blocks, x: jax.value_and_grad(loss)(blocks, x), blocks, x)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: jax.Array) -> jax.Array:
        x = x + self.out(attention(self.qkv(self.norm1(x))))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


def with_jm(depth: int) -> Callable[[], Any]:
    model, x = nn.Sequential(*[Block() for _ in range(depth)]), jnp.ones((2, LENGTH, WIDTH))

    def step(model: Any, x: jax.Array) -> Any:
        return jm.value_and_grad(lambda m: jnp.mean(m(x) ** 2))(model)

    return lambda: jm.eval_shape(step, model, x)


def with_nnx(depth: int) -> Callable[[], Any]:
    from flax import nnx

    class NnxBlock(nnx.Module):
        def __init__(self, rngs: Any) -> None:
            self.norm1, self.norm2 = nnx.LayerNorm(WIDTH, rngs=rngs), nnx.LayerNorm(WIDTH, rngs=rngs)
            self.qkv, self.out = nnx.Linear(WIDTH, 3 * WIDTH, rngs=rngs), nnx.Linear(WIDTH, WIDTH, rngs=rngs)
            self.up, self.down = nnx.Linear(WIDTH, 4 * WIDTH, rngs=rngs), nnx.Linear(4 * WIDTH, WIDTH, rngs=rngs)

        def __call__(self, x: jax.Array) -> jax.Array:
            x = x + self.out(attention(self.qkv(self.norm1(x))))
            return x + self.down(jax.nn.gelu(self.up(self.norm2(x)), approximate=False))

    rngs = nnx.Rngs(0)
    model, x = nnx.List([NnxBlock(rngs) for _ in range(depth)]), jnp.ones((2, LENGTH, WIDTH))
    graph, state = nnx.split(model)

    def loss(blocks: Any, x: jax.Array) -> jax.Array:
        for block in blocks:
            x = block(x)
        return jnp.mean(x * x)

    def step(state: Any, x: jax.Array) -> Any:
        value, grads = nnx.value_and_grad(loss)(nnx.merge(graph, state), x)
        return value, nnx.state(grads) if isinstance(grads, nnx.Module) else grads

    return lambda: jax.eval_shape(lambda state, x: step(state, x), state, x)


def with_equinox(depth: int) -> Callable[[], Any]:
    import equinox as eqx

    class EqxBlock(eqx.Module):
        norm1: Any
        norm2: Any
        qkv: Any
        out: Any
        up: Any
        down: Any

        def __init__(self, key: Any) -> None:
            keys = jax.random.split(key, 4)
            self.norm1, self.norm2 = eqx.nn.LayerNorm(WIDTH), eqx.nn.LayerNorm(WIDTH)
            self.qkv, self.out = eqx.nn.Linear(WIDTH, 3 * WIDTH, key=keys[0]), eqx.nn.Linear(WIDTH, WIDTH, key=keys[1])
            self.up = eqx.nn.Linear(WIDTH, 4 * WIDTH, key=keys[2])
            self.down = eqx.nn.Linear(4 * WIDTH, WIDTH, key=keys[3])

        def __call__(self, x: jax.Array) -> jax.Array:
            each = lambda layer, x: jax.vmap(jax.vmap(layer))(x)  # noqa: E731 - as its guides spell a batch
            x = x + each(self.out, attention(each(self.qkv, each(self.norm1, x))))
            return x + each(self.down, jax.nn.gelu(each(self.up, each(self.norm2, x)), approximate=False))

    keys = jax.random.split(jax.random.key(0), depth)
    arrays, static = eqx.partition([EqxBlock(key) for key in keys], eqx.is_array)
    x = jnp.ones((2, LENGTH, WIDTH))

    def loss(blocks: Any, x: jax.Array) -> jax.Array:
        for block in blocks:
            x = block(x)
        return jnp.mean(x * x)

    def step(arrays: Any, x: jax.Array) -> Any:
        return eqx.filter_value_and_grad(loss)(eqx.combine(arrays, static), x)

    return lambda: jax.eval_shape(lambda arrays, x: step(arrays, x), arrays, x)


FRAMEWORKS = {"jm": with_jm, "nnx": with_nnx, "equinox": with_equinox}


def seconds(trace: Callable[[], Any]) -> float:
    start = time.perf_counter()
    trace()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--depth", type=int, default=48)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--frameworks", choices=FRAMEWORKS, nargs="+", default=list(FRAMEWORKS))
    options = parser.parse_args()
    hand = by_hand(options.depth)
    seconds(hand)
    print("| | by hand s | s | ratio |\n|---|---|---|---|")
    for name in options.frameworks:
        if name == "equinox" and importlib.util.find_spec("equinox") is None:
            continue
        trace = FRAMEWORKS[name](options.depth)
        seconds(trace)
        gc.collect()
        gc.disable()
        pairs = [(seconds(hand), seconds(trace)) for _ in range(options.repeats)]
        gc.enable()
        raw, own = (statistics.median(column) for column in zip(*pairs, strict=True))
        ratio = statistics.median(b / a for a, b in pairs)
        print(f"| {name} | {raw:.2f} | {own:.2f} | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()

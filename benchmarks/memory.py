"""The memory of a compiled training step: `jm.jit` on objects beside `jax.jit` on hand-written pure functions.

    python benchmarks/memory.py

Both sides use the same functionals and the same optax transformation, so that what differs is the bridge between
objects and arrays alone. Figures are XLA's own, from `memory_analysis()` of the compiled step.
"""

import argparse
import json
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

import jaxmodule as jm
from jaxmodule import nn
from jaxmodule.nn import functional as F

FIELDS = ("temp_size_in_bytes", "argument_size_in_bytes", "output_size_in_bytes")


class MLP(nn.Module):
    def __init__(self, width: int = 256, depth: int = 8):
        super().__init__()
        self.linears = nn.ModuleList([nn.Linear(width, width) for _ in range(depth)])
        self.norms = nn.ModuleList([nn.LayerNorm(width) for _ in range(depth)])

    def forward(self, x):
        for linear, norm in zip(self.linears, self.norms, strict=True):
            x = x + F.gelu(linear(norm(x)))
        return x


def mlp(p: dict[str, jax.Array], x: jax.Array, depth: int = 8) -> jax.Array:
    for i in range(depth):
        h = F.layer_norm(x, x.shape[-1:], p[f"norms.{i}.weight"], p[f"norms.{i}.bias"])
        x = x + F.gelu(F.linear(h, p[f"linears.{i}.weight"], p[f"linears.{i}.bias"]))
    return x


class ConvNet(nn.Module):
    def __init__(self, width: int = 32):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, padding=1)
        self.norm1 = nn.GroupNorm(8, width)
        self.conv2 = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.norm2 = nn.GroupNorm(8, 2 * width)
        self.head = nn.Linear(2 * width, 10)

    def forward(self, x):
        x = F.relu(self.norm1(self.conv1(x)))
        x = F.relu(self.norm2(self.conv2(x)))
        return self.head(x.mean((2, 3)))


def convnet(p: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    x = F.conv2d(x, p["conv1.weight"], p["conv1.bias"], padding=1)
    x = F.relu(F.group_norm(x, 8, p["norm1.weight"], p["norm1.bias"]))
    x = F.conv2d(x, p["conv2.weight"], p["conv2.bias"], stride=2, padding=1)
    x = F.relu(F.group_norm(x, 8, p["norm2.weight"], p["norm2.bias"]))
    return F.linear(x.mean((2, 3)), p["head.weight"], p["head.bias"])


CASES: dict[str, tuple[Callable[[], nn.Module], Callable[..., jax.Array], tuple[int, ...]]] = {
    "MLP, 8 layers of 256, batch 512": (MLP, mlp, (512, 256)),
    "conv net, batch 16 of 32x32": (ConvNet, convnet, (16, 3, 32, 32)),
}


def module_step(build: Callable[[], nn.Module], x: jax.Array):
    model = build()
    optimizer = jm.optim.Optimizer(model.parameters(), optax.adamw(1e-3))

    @jm.jit
    def step(model, optimizer, x):
        loss, grads = jm.value_and_grad(lambda m: jnp.mean(m(x) ** 2))(model)
        optimizer.step(grads)
        return loss

    return step.lower(model, optimizer, x).compile().memory_analysis()


def pure_step(build: Callable[[], nn.Module], forward: Callable[..., jax.Array], x: jax.Array):
    params, _ = jm.split(build())
    tx = optax.adamw(1e-3)

    @jax.jit
    def step(params, opt_state, x):
        loss, grads = jax.value_and_grad(lambda p: jnp.mean(forward(p, x) ** 2))(params)
        updates, opt_state = tx.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, loss

    return step.lower(params, tx.init(params), x).compile().memory_analysis()


def measure(case: str) -> dict[str, tuple[int, int]]:
    """For each field: bytes of `jm.jit`, bytes of the pure function."""
    build, forward, shape = CASES[case]
    x = jnp.ones(shape)
    own, raw = module_step(build, x), pure_step(build, forward, x)
    return {field: (getattr(own, field), getattr(raw, field)) for field in FIELDS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print every figure as JSON")
    options = parser.parse_args()
    found = {case: measure(case) for case in CASES}
    if options.json:
        print(json.dumps({"jax": jax.__version__, "cases": found}, indent=1))
        return
    print(f"jax {jax.__version__}, {jax.default_backend()}\n")
    print("| bytes of a training step | | `jm.jit` | `jax.jit` | ratio |\n|---|---|--:|--:|--:|")
    for name, fields in found.items():
        for field, (own, raw) in fields.items():
            kind = field.removesuffix("_size_in_bytes")
            print(f"| {name} | {kind} | {own:,} | {raw:,} | {own / raw:.3f}× |")


if __name__ == "__main__":
    main()

"""How long a new process takes to make GPT-2 (124M parameters), initialised: objects of four libraries, in turns.

    python benchmarks/construct.py --markdown

The clock starts when the library is imported and stops when every array is there. What a library imports, and where it
compiles its initialisers, differs; the whole process is timed too. `meta` makes the model without its arrays.
"""

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from typing import Any

VOCABULARY, CONTEXT, WIDTH, DEPTH = 50257, 1024, 768, 12
LINEARS = {"qkv": (WIDTH, 3 * WIDTH), "out": (WIDTH, WIDTH), "up": (WIDTH, 4 * WIDTH), "down": (4 * WIDTH, WIDTH)}
NAMES = {
    "jm": "`jaxmodule`",
    "jm meta": "`jaxmodule`, `jm.device('meta')`",
    "torch": "PyTorch",
    "nnx": "Flax NNX",
    "eqx": "Equinox",
}


def of_torchs_contract(nn: Any) -> Any:
    """GPT-2's modules of `jaxmodule.nn` or `torch.nn`."""

    def block() -> Any:
        layers = {name: nn.Linear(*size) for name, size in LINEARS.items()}
        return nn.ModuleDict({**layers, "norm1": nn.LayerNorm(WIDTH), "norm2": nn.LayerNorm(WIDTH)})

    ends = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(CONTEXT, WIDTH), nn.LayerNorm(WIDTH)
    return nn.ModuleList([*ends, *[block() for _ in range(DEPTH)]])


def jm(meta: bool) -> int:
    import jax

    import jaxmodule as jm

    start()
    with jm.device("meta" if meta else "cpu"):
        model = of_torchs_contract(jm.nn)
    if not meta:
        jax.block_until_ready([p.value for p in model.parameters()])
    return sum(p.size for p in model.parameters())


def torch() -> int:
    import torch

    start()
    return sum(p.numel() for p in of_torchs_contract(torch.nn).parameters())


def nnx() -> int:
    import jax
    from flax import nnx

    start()
    rngs = nnx.Rngs(0)

    def block() -> Any:
        layers = {name: nnx.Linear(*size, rngs=rngs) for name, size in LINEARS.items()}
        return nnx.Dict(**layers, norm1=nnx.LayerNorm(WIDTH, rngs=rngs), norm2=nnx.LayerNorm(WIDTH, rngs=rngs))

    ends = (
        nnx.Embed(VOCABULARY, WIDTH, rngs=rngs),
        nnx.Embed(CONTEXT, WIDTH, rngs=rngs),
        nnx.LayerNorm(WIDTH, rngs=rngs),
    )
    model = nnx.List([*ends, *[block() for _ in range(DEPTH)]])
    leaves = jax.block_until_ready(jax.tree.leaves(nnx.state(model, nnx.Param)))
    return sum(leaf.size for leaf in leaves)


def eqx() -> int:
    import equinox as eqx
    import jax

    start()
    keys = iter(jax.random.split(jax.random.key(0), 2 + 4 * DEPTH))

    def block() -> dict[str, Any]:
        layers = {name: eqx.nn.Linear(*size, key=next(keys)) for name, size in LINEARS.items()}
        return {**layers, "norm1": eqx.nn.LayerNorm(WIDTH), "norm2": eqx.nn.LayerNorm(WIDTH)}

    embeddings = [eqx.nn.Embedding(n, WIDTH, key=next(keys)) for n in (VOCABULARY, CONTEXT)]
    model = [*embeddings, eqx.nn.LayerNorm(WIDTH), *[block() for _ in range(DEPTH)]]
    leaves = jax.block_until_ready([leaf for leaf in jax.tree.leaves(model) if eqx.is_array(leaf)])
    return sum(leaf.size for leaf in leaves)


SIDES = {"jm": lambda: jm(False), "jm meta": lambda: jm(True), "torch": torch, "nnx": nnx, "eqx": eqx}
PACKAGES = {"torch": "torch", "nnx": "flax", "eqx": "equinox"}
began = 0.0


def start() -> None:
    global began
    began = time.perf_counter()


def in_a_process(side: str) -> dict[str, float]:
    command = [sys.executable, __file__, "--side", side]
    clock = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return {**json.loads(done.stdout), "process": time.perf_counter() - clock}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5, help="processes of each library (default 5)")
    parser.add_argument("--sides", choices=SIDES, nargs="+", default=list(SIDES))
    parser.add_argument("--markdown", action="store_true", help="print a table for a README")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        size = SIDES[options.side]()
        print(json.dumps({"seconds": time.perf_counter() - began, "parameters": size}))
        return
    sides = [side for side in options.sides if importlib.util.find_spec(PACKAGES.get(side, "jax"))]
    runs: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
    for _ in range(options.repeats):
        for side in sides:
            runs[side].append(in_a_process(side))
    if {run["parameters"] for found in runs.values() for run in found} != {124_439_808}:
        sys.exit(f"the models differ: {runs}")
    if options.markdown:
        print("| GPT-2, 124M parameters | constructing, s | the whole process, s |\n|---|--:|--:|")
    for side in sides:
        own, whole = (statistics.median(run[key] for run in runs[side]) for key in ("seconds", "process"))
        cells = [NAMES[side], f"{own:.2f}", f"{whole:.2f}"]
        print(f"| {' | '.join(cells)} |" if options.markdown else "  ".join(cells), flush=True)
    print(f"\nMedians of {options.repeats} processes each, in turns; {os.cpu_count()} CPU cores.")


if __name__ == "__main__":
    main()

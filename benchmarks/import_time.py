"""What `import jaxmodule` adds to `import jax`, and what its peers take, in fresh processes and in turns.

python benchmarks/import_time.py
"""

import argparse
import compileall
import importlib.util
import statistics
import subprocess
import sys
from pathlib import Path

PEERS = ("flax.nnx", "equinox", "torch")
CODE = "import time; start = time.perf_counter(); import {name}; print(time.perf_counter() - start)"


def seconds(name: str) -> float:
    done = subprocess.run([sys.executable, "-c", CODE.format(name=name)], capture_output=True, text=True, check=True)
    return float(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    # As an installer leaves it: bytecode on disk, also where the environment keeps Python from writing any.
    compileall.compile_dir(Path(__file__).parent.parent / "jaxmodule", quiet=1)
    names = ["jaxmodule", *(name for name in PEERS if importlib.util.find_spec(name.partition(".")[0]))]
    times: dict[str, list[float]] = {name: [] for name in ("jax", *names)}
    for name in times:
        seconds(name)  # warms the disk cache
    for _ in range(options.repeats):
        for name, found in times.items():
            found.append(seconds(name))
    print(f"import jax: {statistics.median(times['jax']):.2f} s")
    for name in names:
        ratios = sorted(own / raw for raw, own in zip(times["jax"], times[name], strict=True))
        low, high = ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]
        print(f"import {name}: {statistics.median(times[name]):.2f} s, {statistics.median(ratios):.2f} times ", end="")
        print(f"[{low:.2f}, {high:.2f}]")


if __name__ == "__main__":
    main()

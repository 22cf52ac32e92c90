"""What `import jaxmodule` adds to `import jax`, in fresh processes and in turns.

python benchmarks/import_time.py
"""

import argparse
import compileall
import statistics
import subprocess
import sys
from pathlib import Path

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
    seconds("jaxmodule")  # warms the disk cache
    pairs = [(seconds("jax"), seconds("jaxmodule")) for _ in range(options.repeats)]
    ratios = sorted(own / raw for raw, own in pairs)
    raw, own = (statistics.median(column) for column in zip(*pairs, strict=True))
    low, high = ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]
    print(f"import jax {raw:.3f} s, import jaxmodule {own:.3f} s: {statistics.median(ratios):.2f} times ", end="")
    print(f"[{low:.2f}, {high:.2f}]")


if __name__ == "__main__":
    main()

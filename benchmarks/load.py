"""What loading a file of weights into a model costs, in time and in memory, beside reading the file and beside others.

python benchmarks/load.py --markdown
"""

import argparse
import gc
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

import jaxmodule as jm
from jaxmodule import nn

WIDTH = 768
NAMES = {
    "read": "reading the file into one buffer",
    "jm": "`load_state_dict(jm.load(path, mmap=True))` into a model of `jm.device('meta')`",
    "jm eager": "`load_state_dict(jm.load(path), assign=True)` into the same",
    "jm .pt": "the first, from PyTorch's file",
    "jm .npz": "the first, from numpy's file",
    "jm .msgpack": "the first, from flax's file",
    "torch": "`torch.load` + `load_state_dict` into a model of zeros",
    "torch meta": "`torch.load(mmap=True)` + `load_state_dict(assign=True)` into a model on `meta`",
    "safetensors.flax": "`safetensors.flax.load_file`, a dict",
    "flax": "`flax.serialization.msgpack_restore`, a dict of numpy arrays",
    "orbax": "`orbax.checkpoint.StandardCheckpointer().restore`, a dict",
}
FILES = {
    **dict.fromkeys(NAMES, "model.safetensors"),
    **dict.fromkeys(("jm .pt", "torch", "torch meta"), "model.pt"),
    **dict.fromkeys(("jm .msgpack", "flax"), "model.msgpack"),
    "jm .npz": "model.npz",
    "orbax": "orbax",
}


# -- the model --------------------------------------------------------------------------------------------------------


def shapes(megabytes: int) -> dict[str, tuple[int, ...]]:
    """The arrays of a transformer's blocks, 28 MB each."""
    width = WIDTH if megabytes >= 100 else 16
    block = {"qkv": (3 * width, width), "proj": (width, width), "up": (4 * width, width), "down": (width, 4 * width)}
    size = 4 * sum(a * b + a for a, b in block.values())
    out: dict[str, tuple[int, ...]] = {}
    for i in range(max(1, round(megabytes * 1_000_000 / size))):
        for name, shape in block.items():
            out[f"{i}.{name}.weight"] = shape
            out[f"{i}.{name}.bias"] = shape[:1]
    return out


def build(library: Any, megabytes: int) -> Any:
    """A model with these arrays, of `jaxmodule.nn` or of `torch.nn`."""
    blocks: dict[str, dict[str, Any]] = {}
    for name, shape in shapes(megabytes).items():
        block, layer, kind = name.split(".")
        if kind == "weight":
            blocks.setdefault(block, {})[layer] = library.Linear(shape[1], shape[0])
    return library.ModuleList([library.ModuleDict(layers) for layers in blocks.values()])


def write_files(folder: Path, megabytes: int, kinds: list[str]) -> None:
    rng = np.random.default_rng(0)
    state = {name: rng.standard_normal(shape, np.float32) for name, shape in shapes(megabytes).items()}
    for name in {FILES[kind] for kind in ("read", *kinds)} - {"orbax"}:
        jm.save(state, folder / name)
    if "orbax" in kinds:
        import orbax.checkpoint as ocp

        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(folder / "orbax", {name: jax.numpy.asarray(array) for name, array in state.items()})


def has_orbax() -> bool:
    import importlib.util

    return importlib.util.find_spec("orbax") is not None


# -- the sides: each is prepared, and gives a function that loads -----------------------------------------------------


def side(kind: str, path: str, megabytes: int) -> Callable[[], Any]:
    if kind == "read":
        return lambda: read(path)
    if kind.startswith("jm"):
        return ours(kind, path, megabytes)
    if kind.startswith("torch"):
        return torchs(kind, path, megabytes)
    if kind == "safetensors.flax":
        from safetensors.flax import load_file

        return lambda: load_file(path)
    if kind == "flax":
        from flax import serialization

        return lambda: serialization.msgpack_restore(Path(path).read_bytes())
    import orbax.checkpoint as ocp

    target = {name: jax.ShapeDtypeStruct(shape, np.float32) for name, shape in shapes(megabytes).items()}
    return lambda: ocp.StandardCheckpointer().restore(path, target)


def read(path: str) -> np.ndarray:
    out = np.empty(os.path.getsize(path), np.uint8)
    with open(path, "rb", buffering=0) as file:
        left = out.data
        while len(left):
            left = left[file.readinto(left) :]
    return out


def ours(kind: str, path: str, megabytes: int) -> Callable[[], Any]:
    def load() -> Any:
        with jm.device("meta"):
            model = build(nn, megabytes)
        eager = kind == "jm eager"
        model.load_state_dict(jm.load(path, mmap=not eager), assign=eager)
        return [parameter.value for parameter in model.parameters()]

    return load


def torchs(kind: str, path: str, megabytes: int) -> Callable[[], Any]:
    import torch

    torch.set_grad_enabled(False)

    def load() -> Any:
        with torch.device("meta"):
            model = build(torch.nn, megabytes)
        if kind == "torch meta":
            model.load_state_dict(torch.load(path, mmap=True), assign=True)
            return [parameter.sum() for parameter in model.parameters()]  # or nothing would have been read
        model = model.to_empty(device="cpu")
        for parameter in model.parameters():
            parameter.zero_()
        model.load_state_dict(torch.load(path))
        return model

    return load


# -- measuring --------------------------------------------------------------------------------------------------------


def peak() -> int:
    """The most memory that this process has had since `forget_peak`, in bytes."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])
    except OSError:
        return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def forget_peak() -> None:
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass  # then what the imports have needed for a moment hides a part of what follows


def warm_up(path: Path, cold: bool) -> None:
    """Bring the file into the page cache, or put it out."""
    for file in [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]:
        with open(file, "rb", buffering=0) as raw:
            while not cold and raw.read(1 << 20):
                pass
            if cold:
                os.fsync(raw.fileno())
                os.posix_fadvise(raw.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def child(kind: str, folder: Path, megabytes: int, cold: bool) -> dict[str, float]:
    """Load once in this process."""
    jax.block_until_ready(jax.device_put(np.ones(3)))
    with tempfile.TemporaryDirectory() as small:
        if kind.partition(" ")[0] in ("jm", "torch", "orbax"):  # what is imported on first use
            write_files(Path(small), 0, [kind])
            jax.block_until_ready(side(kind, f"{small}/{FILES[kind]}", 0)())
    path = folder / FILES[kind]
    load = side(kind, str(path), megabytes)
    warm_up(path, cold)
    gc.collect()
    gc.disable()
    forget_peak()
    before = peak()
    start, cpu = time.perf_counter(), time.process_time()
    found = jax.block_until_ready(load())
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    used = peak() - before
    check(found, megabytes)
    return {"seconds": seconds, "cpu": cpu, "bytes": used}


def check(found: Any, megabytes: int) -> None:
    """Everything is there."""
    arrays = found.values() if isinstance(found, Mapping) else found
    if isinstance(arrays, list) and len(arrays) != len(shapes(megabytes)):
        raise SystemExit(f"{len(arrays)} arrays instead of {len(shapes(megabytes))}")


def measure(kinds: list[str], folder: Path, options: argparse.Namespace) -> dict[str, list[dict[str, float]]]:
    found: dict[str, list[dict[str, float]]] = {kind: [] for kind in kinds}
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent), "JAX_PLATFORMS": "cpu"}
    for _ in range(options.repeats):
        for kind in kinds:
            command = [sys.executable, __file__, "--mb", str(options.mb), "--child", kind, "--folder", str(folder)]
            command += ["--cold"] if options.cold else []
            done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
            if done.returncode:
                raise SystemExit(f"{kind}: {done.stderr}")
            found[kind].append(json.loads(done.stdout.splitlines()[-1]))
    return found


def row(kind: str, found: dict[str, list[dict[str, float]]], size: int) -> tuple[str, ...]:
    ratios = sorted(own["seconds"] / raw["seconds"] for own, raw in zip(found[kind], found["read"], strict=True))
    low, high = ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]
    seconds = statistics.median(run["seconds"] for run in found[kind])
    least = {clock: [min(run[clock] for run in found[side]) for side in (kind, "read")] for clock in ("seconds", "cpu")}
    fastest, cpu = (own / raw for own, raw in least.values())
    used = statistics.median(run["bytes"] for run in found[kind]) / size
    spread = f"{statistics.median(ratios):.2f}× [{low:.2f}, {high:.2f}]"
    return NAMES[kind], f"{seconds:.3f} s", spread, f"{fastest:.2f}×", f"{cpu:.2f}×", f"{used:.2f}×"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mb", type=int, default=500, help="size of the file")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--only", nargs="*", choices=list(NAMES), help="these, and reading the file")
    parser.add_argument("--cold", action="store_true", help="with the file out of the page cache")
    parser.add_argument("--json", action="store_true", help="print every figure as JSON")
    parser.add_argument("--markdown", action="store_true", help="print a table for README.md")
    parser.add_argument("--child", choices=list(NAMES), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(child(options.child, options.folder, options.mb, options.cold)))
        return
    kinds = [kind for kind in NAMES if kind == "read" or kind in (options.only or NAMES)]
    kinds = [kind for kind in kinds if kind != "orbax" or has_orbax()]
    with tempfile.TemporaryDirectory() as folder:
        write_files(Path(folder), options.mb, kinds)
        size = os.path.getsize(Path(folder, "model.safetensors"))
        found = measure(kinds, Path(folder), options)
    if options.json:
        print(json.dumps({"jax": jax.__version__, "bytes": size, "cold": options.cold, "runs": found}, indent=1))
    rows = [row(kind, found, size) for kind in kinds]
    print(f"{size / 1e6:.0f} MB, page cache {'cold' if options.cold else 'warm'}, jax {jax.__version__}\n")
    if options.markdown:
        print("| | time | to the read beside it | fastest to fastest | CPU time, likewise | peak memory to the file |")
        print("|---|--:|--:|--:|--:|--:|")
        print("\n".join("| " + " | ".join(cells) + " |" for cells in rows))
    else:
        for name, *cells in rows:
            print(*(cell.rjust(20) for cell in cells), " ", name)


if __name__ == "__main__":
    main()

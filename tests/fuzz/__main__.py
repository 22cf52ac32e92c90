"""Fuzz `jm.load` for as long as one likes; every finding is kept as a file, with what it takes to see it again."""

import argparse
import os
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from random import Random

from tests.fuzz.corpus import seeds
from tests.fuzz.mutate import mutate
from tests.fuzz.target import check


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600, help="how long (600)")
    parser.add_argument("--cases", type=int, default=None, help="how many cases, instead of how long")
    parser.add_argument(
        "--seed", type=int, default=0, help="of the random numbers; case n is the same for the same seed"
    )
    parser.add_argument("--only", default="", help="files whose name has this in it")
    parser.add_argument("--out", default="out/fuzz", help="the folder for findings")
    args = parser.parse_args()

    corpus = [seed for seed in seeds() if args.only in seed.name]
    others = [seed.data for seed in corpus]
    outcomes: Counter[tuple[str, str]] = Counter()
    findings: dict[str, int] = {}
    start, number = time.monotonic(), 0
    with tempfile.TemporaryDirectory() as folder:
        for seed in corpus:  # everything that is imported late is imported now, before anybody looks
            check(folder, seed, seed.data, repaired=False)
        while number < args.cases if args.cases is not None else time.monotonic() - start < args.seconds:
            random = Random(f"{args.seed} {number}")
            seed = random.choice(corpus)
            data, repaired = mutate(random, seed.data, others)
            try:
                outcomes[seed.name, check(folder, seed, data, repaired, mmap=random.random() < 0.1)] += 1
            except Exception as error:
                outcomes[seed.name, "FINDING"] += 1
                _keep(args.out, seed.name, number, data, error, findings)
            number += 1
            if number % 5000 == 0:
                print(
                    f"{number} cases, {time.monotonic() - start:.0f} s, {sum(findings.values())} findings", flush=True
                )
    for name in [seed.name for seed in corpus]:
        counts = {kind: n for (where, kind), n in sorted(outcomes.items()) if where == name}
        print(f"{name:32}", *(f"{kind} {n}" for kind, n in counts.items()))
    print(
        f"{number} cases in {time.monotonic() - start:.0f} s, "
        f"{sum(findings.values())} findings of {len(findings)} kinds"
    )
    return 1 if findings else 0


def _keep(out: str, name: str, number: int, data: bytes, error: Exception, findings: dict[str, int]) -> None:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    kind = f"{type(error).__name__} at {os.path.basename(frame.filename)}:{frame.lineno}"
    if kind not in findings:
        Path(out).mkdir(parents=True, exist_ok=True)
        (Path(out) / f"{number}-{name}").write_bytes(data)
        print(f"case {number} ({name}): {kind}: {error}"[:600], file=sys.stderr, flush=True)
    findings[kind] = findings.get(kind, 0) + 1


if __name__ == "__main__":
    sys.exit(main())

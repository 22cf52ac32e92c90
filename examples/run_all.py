"""Run every example with its defaults, and write a table of what each reached: `make examples`.

    python examples/run_all.py --out out

Each runs in a process of its own and writes into a folder of its own below `--out`; the table is `examples.md` there.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

HERE = Path(__file__).parent
SCRIPTS = ("digits", "char_gpt", "resnet", "finetune", "vae", "lstm_tagger", "ensemble", "port_pytorch")


def run(script: str, out: Path, arguments: list[str]) -> tuple[float, str]:
    """Seconds, and the line behind `final:`, of one script; what it prints is passed on."""
    begin = time.perf_counter()
    command = [sys.executable, str(HERE / f"{script}.py"), "--out", str(out / script), *arguments]
    last = ""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            print(line, end="", flush=True)
            last = line.strip() or last
    seconds = time.perf_counter() - begin
    if process.returncode or not last.startswith("final: "):
        return seconds, f"FAILED with exit status {process.returncode}"
    return seconds, last.removeprefix("final: ")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for all that they write (default out)")
    parser.add_argument("--only", nargs="+", choices=SCRIPTS, default=SCRIPTS, help="these only")
    parser.add_argument("--resume", action="store_true", help="go on from checkpoints, where there are some")
    options = parser.parse_args()
    rows = []
    for script in options.only:
        print(f"\n== {script}.py", flush=True)
        fresh = [] if options.resume or script == "port_pytorch" else ["--fresh"]
        rows.append((script, *run(script, options.out, fresh)))

    table = Table("example", "seconds", "reached")
    lines = ["| example | seconds | reached |", "|---|--:|---|"]
    for script, seconds, reached in rows:
        table.add_row(f"{script}.py", f"{seconds:.0f}", reached)
        lines.append(f"| [{script}.py]({script}.py) | {seconds:.0f} | {reached} |")
    (options.out / "examples.md").write_text("\n".join(lines) + "\n")
    console = Console()
    console.print(table)
    console.print(f"wrote {options.out / 'examples.md'}")
    sys.exit(any(reached.startswith("FAILED") for _, _, reached in rows))


if __name__ == "__main__":
    main()

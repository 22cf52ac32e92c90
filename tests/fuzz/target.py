"""One case: load an altered file, and see that nothing but the two allowed things happens."""

import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np

import jaxmodule as jm
from jaxmodule.io import FileFormatError
from jaxmodule.io.array_file import FileArray
from tests.fuzz.corpus import Seed, freeze

# What a file that is read can be tricked into. Opening it is what reading is.
_FORBIDDEN = (
    "os.",
    "subprocess.",
    "pickle.find_class",
    "exec",
    "socket.",
    "shutil.",
    "ctypes.",
    "webbrowser.",
    "import",
)
_ALLOWED = ("os.listdir", "os.scandir")
_SECONDS = 60
_SLACK = 400 << 20


class Finding(AssertionError):
    """An outcome that must not be."""


class _Watch:
    """Sees what Python does while a file is read."""

    def __init__(self) -> None:
        self.on = False
        self.seen: list[str] = []
        sys.addaudithook(self)

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        if not self.on:
            return
        if event == "open" and isinstance(args[1], str) and set(args[1]) & set("wax+"):
            self.seen.append(f"open for writing {args[0]!r}")
        elif event.startswith(_FORBIDDEN) and event not in _ALLOWED:
            self.seen.append(f"{event} {args!r}"[:300])


_watch: _Watch | None = None


def watch() -> _Watch:
    """The one hook of this process: they cannot be taken off again."""
    global _watch
    _watch = _watch or _Watch()
    return _watch


def _late(*_: Any) -> None:
    raise Finding(f"it took more than {_SECONDS} s")


def check(folder: str, seed: Seed, data: bytes, repaired: bool, *, mmap: bool = False) -> str:
    """Load `data` as if it were the seed's file.

    Args:
        folder: for the file.
        seed: what it was.
        data: what it is now.
        repaired: were its checksums put right, so that it may be another value's file?
        mmap: leave the arrays in the file, and read parts of them.

    Returns:
        "same", "other" (where there are no checksums) or "refused".
    """
    path = os.path.join(folder, seed.name)
    Path(path).write_bytes(data)
    if seed.beside is not None:
        Path(folder, seed.beside[0]).write_bytes(seed.beside[1])
    seen = watch()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    old = signal.signal(signal.SIGALRM, _late)
    signal.alarm(_SECONDS)
    seen.on = True
    try:
        found = jm.load(path, mmap=mmap)
    except FileFormatError as error:
        found = error
    finally:
        seen.on = False
        signal.alarm(0)
        signal.signal(signal.SIGALRM, old)
    events, seen.seen = seen.seen, []
    if events:
        raise Finding(f"it did {events[0]}")
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10
    if grown > 2 * len(data) + _SLACK:
        raise Finding(f"it took {grown >> 20} MiB of memory for a file of {len(data)} bytes")
    try:
        if not isinstance(found, FileFormatError):
            return _parts(found) if mmap else _compare(seed, found, data, repaired)
    except FileFormatError as error:  # of an array that is read late
        found = error
    if folder not in str(found):  # of an index, the file that it names
        raise Finding(f"the error does not name the file: {found}")
    return "refused"


def _compare(seed: Seed, found: Any, data: bytes, repaired: bool) -> str:
    if data == seed.data or (seed.checked and not repaired):
        if freeze(found) != seed.want:
            raise Finding("it is another value than was saved, though the format has checksums")
        return "same"
    return "other"


def _parts(found: Any) -> str:
    """Values that no checksum has been asked about can be anything, but have to be there."""
    todo, count = [found], 0
    while todo and count < 1000:
        item = todo.pop()
        count += 1
        if isinstance(item, FileArray):
            np.asarray(item[..., :1] if item.shape else item[()])
        elif isinstance(item, dict):
            todo.extend(item.values())
        elif isinstance(item, list | tuple):
            todo.extend(item)
    return "other"

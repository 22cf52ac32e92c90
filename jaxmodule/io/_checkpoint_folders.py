"""The folders of checkpoints: each of them whole or absent.

A checkpoint is a folder `step_00000100`. It is written under a *temporary name*, synced, and renamed, so that it is
whole whenever its name is there. Where the name is taken, the folder that has it is first renamed to
`step_00000100.old`, which readers take for the step while there is nothing better. A folder that is to go is first
given a temporary name, too.

A save holds a shared lock on the checkpoints' folder (`flock`, which the system lets go when a process is killed). Who
gets the lock alone knows that no save is running, and that temporary names are those of saves that were killed.
"""

import errno
import os
import re
import shutil
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

from . import safetensors
from ._checkpoint_files import INDEX, block_hash, check_sizes, read_index, workers
from ._checkpoint_tree import decode
from .array_file import ArrayFile, FileArray
from .atomic import sync_folder
from .errors import FileFormatError

try:
    import fcntl
except ImportError:  # pragma: no cover - Windows
    fcntl = None

_OLD = ".old"
_TURNS = 100  # at giving a folder its name, while other saves do the same
_RACED = (errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST)  # another save of this step was quicker
_STEP = re.compile(r"step_([0-9]{8,18})(\.old)?")
_ATTEMPTS = 5
_TEMPORARY = re.compile(r"\.step_[0-9]{8,18}\.[0-9a-f]{12}\.tmp")


class Found(NamedTuple):
    """A checkpoint that looks whole: its files are there in the sizes that they should have.

    Attributes:
        step: the number that it was saved under.
        path: its folder.
    """

    step: int
    path: str


def folder_name(step: int) -> str:
    """The name of a step's folder."""
    return f"step_{step:08d}"


def candidates(directory: str) -> list[Found]:
    """The folders that have a checkpoint's name, newest first; whether they are whole is not looked at."""
    found = []
    for name in os.listdir(directory):
        match = _STEP.fullmatch(name)
        if match and name.removesuffix(_OLD) == folder_name(int(match[1])):
            found.append((-int(match[1]), match[2] is not None, name))
    return [Found(-step, os.path.join(directory, name)) for step, _, name in sorted(found)]


def whole(directory: str) -> list[Found]:
    """Those of `candidates` that look whole, one of each step. Only their `checkpoint.json` is read."""
    found: dict[int, Found] = {}
    for candidate in candidates(directory):
        try:
            check_sizes(candidate.path, read_index(candidate.path, candidate.step))
        except (FileFormatError, OSError):
            continue
        found.setdefault(candidate.step, candidate)
    return list(found.values())


@contextmanager
def saving(directory: str) -> Iterator[None]:
    """Hold the lock of a save; what killed saves have left is removed first, unless another save is running."""
    if fcntl is None:  # pragma: no cover - Windows
        yield
        return
    lock = os.open(directory, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
    try:
        with suppress(OSError):  # another save is running; or the file system has no locks, and nobody can know
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _tidy(directory)
        with suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_SH)
        yield
    finally:
        with suppress(OSError):  # before it is closed: a process that was forked meanwhile has it, too
            fcntl.flock(lock, fcntl.LOCK_UN)
        os.close(lock)


def _tidy(directory: str) -> None:
    for name in os.listdir(directory):
        path = os.path.join(directory, name)
        if _TEMPORARY.fullmatch(name):
            shutil.rmtree(path, ignore_errors=True)
        elif _STEP.fullmatch(name) and name.endswith(_OLD):
            if os.path.lexists(path.removesuffix(_OLD)):
                discard(path)
            else:
                os.rename(path, path.removesuffix(_OLD))


def temporary(path: str) -> str:
    """A temporary name for the folder `path`."""
    folder, name = os.path.split(path.removesuffix(_OLD))
    return os.path.join(folder, f".{name}.{os.urandom(6).hex()}.tmp")


def publish(made: str, path: str) -> None:
    """Give the finished folder `made` the name `path`, in place of what has it; on disk when this returns."""
    sync_folder(made)
    directory = os.path.dirname(path)
    replaced = ""
    for turn in range(_TURNS):
        try:
            os.rename(made, path)
            break
        except OSError:
            if os.path.islink(path) or not os.path.isdir(path) or turn == _TURNS - 1:
                raise
        replaced = path + _OLD
        try:
            if os.path.lexists(replaced):
                discard(replaced)
            os.rename(path, replaced)
        except OSError as error:
            if error.errno not in _RACED:
                raise
    sync_folder(directory)
    if replaced:
        with suppress(OSError):  # the new one is there: who saves next tries again
            discard(replaced)


def discard(path: str) -> None:
    """Remove a folder; half of it is never to be seen under its own name."""
    gone = temporary(path)
    os.rename(path, gone)
    shutil.rmtree(gone, ignore_errors=True)  # what is left goes with the next save


# -- reading -----------------------------------------------------------------------------------------------------------

_Contents = dict[str, Any]


def newest(directory: str, step: int | None) -> tuple[Found, dict[str, Any], _Contents, list[tuple[str, str]]]:
    """The newest checkpoint whose files are as they were written (or that of `step`), and what was skipped.

    Returns:
        Where it is, its index, its contents by part with arrays that are still in their files, and (path, what is
        wrong) of those that were skipped.
    """
    if not os.path.isdir(directory):
        raise FileNotFoundError(f"{directory!r}: there is no such directory of checkpoints")
    there, some, skipped = candidates(directory), [], []
    with workers() as pool:
        for _ in range(_ATTEMPTS):
            some = [found for found in there if step is None or found.step == step]
            before, skipped = _identities(there), []
            for found in some:
                try:
                    return found, *_verified(found, pool), skipped
                except (FileFormatError, OSError) as error:
                    why = str(error) if found.path in str(error) else f"{found.path!r} cannot be read: {error}"
                    skipped.append((found.path, why))
                there = candidates(directory)
                if _identities(there) != before:
                    break  # a save has replaced or removed what was being read
            else:
                break
    if not there:
        raise FileNotFoundError(f"{directory!r} has no checkpoint in it: no folder is named step_00000000 or the like")
    if not some:
        steps = ", ".join(str(found.step) for found in there[:10]) + (", …" if len(there) > 10 else "")
        raise FileNotFoundError(f"{directory!r} has no checkpoint of step {step}; it has those of {steps}")
    listed = "".join(f"\n  {path!r}: {why}" for path, why in skipped)
    which = "no checkpoint" if step is None else f"no checkpoint of step {step}"
    raise FileFormatError(f"{directory!r} has {which} that is whole:{listed}")


def _identities(there: list[Found]) -> list[Any]:
    found = []
    for each in there:
        with suppress(OSError):
            found.append((each.path, os.stat(each.path).st_ino))
    return found


def _verified(found: Found, pool: ThreadPoolExecutor) -> tuple[dict[str, Any], _Contents]:
    """The index and the contents, with arrays that are still in their files."""
    document = read_index(found.path, found.step)
    check_sizes(found.path, document)
    arrays: dict[str, Any] = {}
    for name, entry in document["files"].items():
        path = os.path.join(found.path, name)
        tensors = safetensors.read(path)
        # The file that the arrays are going to be read from: a save may put another one in its place meanwhile.
        file = next((array.file for array in tensors.values()), None) or ArrayFile(path)
        if block_hash(file, pool) != entry["sha256"]:
            raise FileFormatError(f"{path!r} was altered: its hash is not the one that it was written with")
        arrays[name.removesuffix(".safetensors")] = tensors
    contents: _Contents = {"extra": None}
    for part, tree in document["contents"].items():
        tensors: Mapping[str, FileArray] = arrays.get(part, {})
        state = decode(os.path.join(found.path, INDEX), tree, tensors)
        if hasattr(tensors, "_metadata") and isinstance(state, dict):
            state: Any = OrderedDict(state)
            state._metadata = tensors._metadata  # pyright: ignore[reportAttributeAccessIssue]
        contents[part] = state
    return document, contents

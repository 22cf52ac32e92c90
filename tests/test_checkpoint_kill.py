"""Checkpoints that are altered, and saves that are cut short: by an error, at every system call, and by `kill -9`."""

import errno
import hashlib
import json
import os
import random
import resource
import select
import shutil
import signal
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest

import jaxmodule as jm
from jaxmodule import nn
from jaxmodule.io import FileFormatError, _checkpoint_files, _checkpoint_folders
from jaxmodule.io.checkpoint import CheckpointWarning, list_checkpoints, load_checkpoint, save_checkpoint

ROOT = Path(__file__).parent.parent


class Plain:
    """Any object with a state: arrays of numpy, so that nothing here compiles."""

    def __init__(self, step: int = 0) -> None:
        self.state = {"a": np.full((3, 4), step, np.float32), "b": {"n": step, "c": np.arange(step % 7)}}

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.state = state

    def same(self, step: int) -> bool:
        return repr(self.state) == repr(Plain(step).state)


def save(directory, step: int, value: int | None = None, keep: int | None = None) -> str:
    value = step if value is None else value
    return save_checkpoint(directory, step, model=Plain(value), extra=value, generator=False, keep=keep)


def load(directory, step: int | None = None):
    """The checkpoint, whose contents are in order."""
    model = Plain(-1)
    checkpoint = load_checkpoint(directory, step, model=model, generator=False)
    assert model.same(checkpoint.extra)
    return checkpoint


def load_quietly(directory):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CheckpointWarning)
        return load(directory)


@pytest.fixture
def directory(tmp_path):
    return tmp_path / "run"


@pytest.fixture
def unsynced(monkeypatch):
    """Where no power is cut, waiting for the disk shows nothing."""
    monkeypatch.setattr(os, "fsync", lambda fd: None)


# -- altered files -----------------------------------------------------------------------------------------------------


def refused(directory, path, file: str | None = None) -> str:
    """That the newest one is skipped with a warning that says why, and refused where no other will do."""
    with pytest.warns(CheckpointWarning, match="step_00000002' was skipped: ") as caught:
        checkpoint = load(directory)
    assert checkpoint.step == 1
    [(where, why)] = checkpoint.skipped
    assert where == str(path)
    assert str(caught[0].message).endswith(why)
    assert (file or str(path)) in why
    with pytest.raises(FileFormatError, match="has no checkpoint of step 2 that is whole"):
        load(directory, 2)
    return why


@pytest.fixture
def two(directory, unsynced):
    """Two checkpoints, and the files of the newer."""
    save(directory, 1)
    path = Path(save(directory, 2))
    files = sorted(file.name for file in path.iterdir())
    assert files == ["checkpoint.json", "model.safetensors"]
    return path


@pytest.mark.parametrize("name", ["checkpoint.json", "model.safetensors"])
@pytest.mark.parametrize("every", [101, pytest.param(1, marks=pytest.mark.slow)])
def test_any_bit(two, name, every):
    file = two / name
    good = file.read_bytes()
    for bit in range(0, 8 * len(good), every):
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        file.write_bytes(bad)
        with pytest.raises(FileFormatError, match=name):
            load(two.parent, 2)
    refused(two.parent, two, name)
    file.write_bytes(good)
    assert load(two.parent).step == 2


@pytest.mark.parametrize("name", ["checkpoint.json", "model.safetensors"])
def test_cut_off_lengthened_and_gone(two, name):
    file = two / name
    good = file.read_bytes()
    for bad in (b"", good[:1], good[:-1], good[: len(good) // 2], good + b" ", b"\0" * len(good)):
        file.write_bytes(bad)
        refused(two.parent, two, name)
    file.unlink()
    assert "No such file" in refused(two.parent, two, name)
    file.mkdir()
    refused(two.parent, two)


def test_files_of_another_step(two):
    for name in ("checkpoint.json", "model.safetensors"):
        good = (two / name).read_bytes()
        shutil.copy(two.parent / "step_00000001" / name, two / name)
        refused(two.parent, two, name)
        (two / name).write_bytes(good)
    shutil.rmtree(two)
    shutil.copytree(two.parent / "step_00000001", two)
    assert "is of step 1: the folder has another's name" in refused(two.parent, two)


def test_none_is_whole(two):
    for step in (1, 2):
        (two.parent / f"step_{step:08d}" / "model.safetensors").write_bytes(b"")
    with pytest.raises(FileFormatError) as caught:
        load(two.parent)
    assert [line.split("'")[1][-13:] for line in str(caught.value).splitlines()[1:]] == [
        "step_00000002",
        "step_00000001",
    ]
    assert list_checkpoints(two.parent) == []


def test_a_file_that_cannot_be_read(two, monkeypatch):
    real = os.open

    def refuse(path, *args, **kwargs):
        if str(path).endswith("00000002/model.safetensors"):
            raise OSError(errno.EIO, "Input/output error", path)
        return real(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", refuse)
    assert "Input/output error" in refused(two.parent, two)


def rewrite(path: Path, change) -> None:
    """An index that says what `change` makes of it, with the right hash: somebody's, not an accident's."""
    document = json.loads((path / "checkpoint.json").read_bytes())
    del document["sha256"]
    document = change(document) or document
    (path / "checkpoint.json").unlink()
    _checkpoint_files.write_index(str(path), document)


def nested(levels: int):
    out: list = []
    for _ in range(levels):
        out = [out]
    return out


def setter(*keys_and_value):
    *keys, last, value = keys_and_value

    def change(document):
        for key in keys:
            document = document[key]
        document[last] = value

    return change


@pytest.mark.parametrize(
    "change",
    [
        setter("format", "other"),
        setter("version", 2),
        setter("version", None),
        setter("step", "2"),
        setter("files", []),
        setter("files", {"../step_00000001/model.safetensors": {"bytes": 1, "sha256": ""}}),
        setter("files", {"/etc/passwd": {"bytes": 1, "sha256": ""}}),
        setter("files", {"sub/model.safetensors": {"bytes": 1, "sha256": ""}}),
        setter("files", {"model.safetensors": 3}),
        setter("files", {"model.safetensors": {"bytes": "1", "sha256": ""}}),
        setter("files", {"model.safetensors": {"bytes": 1}}),
        setter("files", "model.safetensors", "sha256", 5),
        setter("files", {}),
        setter("contents", None),
        setter("contents", 3),
        setter("versions", 3),
        setter("contents", "model", {"a": {"$array": "nothing"}}),
        setter("contents", "model", {"a": {"$array": ["a"]}}),
        setter("contents", "model", {"a": {"$array": "a", "kind": "other"}}),
        setter("contents", "model", {"a": {"$array": "a", "kind": "key", "impl": "none"}}),
        setter("contents", "model", {"a": {"$array": "a", "kind": "key"}}),
        setter("contents", "model", {"a": {"$array": "a", "dtype": "int4"}}),
        setter("contents", "model", {"a": {"$array": "a", "dtype": "object"}}),
        setter("contents", "model", {"$unknown": 1}),
        setter("contents", "model", {"$tuple": 1}),
        setter("contents", "model", {"$items": [1]}),
        setter("contents", "model", {"$items": [[[], 1]]}),
        setter("contents", "model", {"$items": {"a": "b"}}),
        setter("contents", "model", {"$bytes": "xy"}),
        setter("contents", "model", {"$bytes": 1}),
        setter("contents", "model", {"$complex": ["1"]}),
        setter("contents", "model", {"$float": "1"}),
        setter("contents", "model", nested(400)),
        lambda document: [1],
    ],
)
def test_an_index_of_nonsense(two, change):
    if change.__name__ == "<lambda>":
        text = b"[1" + b" " * 5
        (two / "checkpoint.json").write_bytes(text)
    else:
        rewrite(two, change)
    refused(two.parent, two, "checkpoint.json")


def test_very_deep_and_very_large_indices(two):
    for text in (b'{"a": ' + b"[" * 200_000, b"[" * 100_000 + b"]" * 100_000, b'{"a": ' + b"9" * 10_000):
        end = _checkpoint_files._END % hashlib.sha256(text).hexdigest().encode()
        (two / "checkpoint.json").write_bytes(text + end)
        refused(two.parent, two, "checkpoint.json")
    os.truncate(two / "checkpoint.json", 1 << 40)  # takes no room: it has holes
    assert "it has 1099511627776 bytes" in refused(two.parent, two, "checkpoint.json")


def test_an_index_that_is_too_large_to_be_written(directory, monkeypatch):
    monkeypatch.setattr(_checkpoint_files, "MAX_INDEX", 1000)
    with pytest.raises(ValueError, match="Give long lists of numbers as arrays"):
        save_checkpoint(directory, 1, extra=list(range(1000)))
    assert os.listdir(directory) == []


def test_states_of_nonsense(directory):
    """What is well-formed, and no state of the object: nothing is changed."""
    model = nn.Linear(2, 2)
    optimizer, generator = jm.optim.Adam(model.parameters()), jm.Generator(3)
    values = [p.value for p in model.parameters()]
    path = Path(save_checkpoint(directory, 1, model=model, optimizer=optimizer, generator=generator))
    for change in (
        setter("contents", "generator", "impl", "none"),
        setter("contents", "generator", "state", [1]),
        setter("contents", "generator", "state", [1, -2, 3]),
        setter("contents", "generator", "state", None),
        setter("contents", "generator", "seed", "x"),
        setter("contents", "generator", 5),
        setter("contents", "optimizer", "param_groups", []),
        setter("contents", "optimizer", "state", "weight", "exp_avg", 3),
        setter("contents", "model", "weight", 3),
    ):
        good = (path / "checkpoint.json").read_bytes()
        rewrite(path, change)
        before = repr(optimizer.state_dict()), repr(generator.get_state())
        with pytest.raises((ValueError, RuntimeError)):
            load_checkpoint(directory, model=model, optimizer=optimizer, generator=generator)
        assert before == (repr(optimizer.state_dict()), repr(generator.get_state()))
        assert all(p.value is value for p, value in zip(model.parameters(), values, strict=True))
        (path / "checkpoint.json").write_bytes(good)
    load_checkpoint(directory, model=model, optimizer=optimizer, generator=generator)


def test_blocks(tmp_path, monkeypatch):
    """The hash is the same written in pieces and read in blocks, and notices blocks that have changed places."""
    monkeypatch.setattr(_checkpoint_files, "BLOCK", 16)
    seen = set()
    with _checkpoint_files.workers() as pool:
        for size in (0, 1, 15, 16, 17, 31, 32, 33, 100):
            data = np.random.default_rng(size).bytes(size)
            for cuts in ([], [1], [3, 16, 17], [16, 32]):
                path = str(tmp_path / "file")
                pieces = [memoryview(data[i:j]) for i, j in zip([0, *cuts], [*cuts, size], strict=True)]
                entry = _checkpoint_files.write_file(path, pieces, pool)
                file = _checkpoint_folders.ArrayFile(path)
                assert entry["bytes"] == len(Path(path).read_bytes())
                assert entry["sha256"] == _checkpoint_files.block_hash(file, pool)
                os.unlink(path)
            seen.add(entry["sha256"])
    assert len(seen) == 9


# -- errors while saving -----------------------------------------------------------------------------------------------

CALLS = ("mkdir", "rename", "fsync", "open", "makedirs")


def break_at(monkeypatch, n: int, error: BaseException, *, for_ever: bool) -> list[str]:
    """Let the n-th system call of a save raise (and all after it, as when a process is killed)."""
    done: list[str] = []

    def wrap(name, real):
        def call(*args, **kwargs):
            done.append(name)
            if len(done) == n or (for_ever and len(done) > n):
                raise error
            return real(*args, **kwargs)

        return call

    for name in CALLS:
        monkeypatch.setattr(os, name, wrap(name, getattr(os, name)))
    monkeypatch.setattr(_checkpoint_files, "open", wrap("create", open), raising=False)
    monkeypatch.setattr(shutil, "rmtree", wrap("rmtree", shutil.rmtree))
    return done


class Killed(BaseException):
    """In the place of SIGKILL: whatever the code does about it must fail, too."""


@pytest.mark.parametrize("again", [False, True], ids=["next", "again"])
@pytest.mark.parametrize("keep", [None, 1, 2], ids=str)
def test_killed_at_every_system_call(tmp_path, monkeypatch, unsynced, keep, again):
    step = 2 if again else 3
    n = calls = 0
    while not calls:
        n += 1
        directory = tmp_path / str(n)
        save(directory, 1)
        save(directory, 2)
        with monkeypatch.context() as patched:
            done = break_at(patched, n, Killed(), for_ever=True)
            try:
                save(directory, step, 99, keep)
                calls = len(done)
            except Killed:
                pass
        newest = load_quietly(directory)
        assert newest.skipped == ()
        assert not calls or newest.extra == 99
        assert (newest.step, newest.extra) in [(2, 2), (step, 99)]
        before = [1] if again else [2, 1]
        for earlier in before if keep is None or newest.extra == 2 else before[: keep - 1]:
            assert load(directory, earlier).extra == earlier
        save(directory, 4, keep=keep)  # which tidies up
        assert load(directory).step == 4
        names = os.listdir(directory)
        assert all(name.startswith("step_") and not name.endswith(".old") for name in names), names
    assert 10 < calls < 100


@pytest.mark.parametrize("again", [False, True], ids=["next", "again"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO], ids=["full", "io"])
def test_errors_at_every_system_call(tmp_path, monkeypatch, unsynced, code, again):
    """An error comes out, or the save has happened; earlier ones are there, and nothing is left over."""
    step, came_out = 2 if again else 3, 0
    for n in range(1, 100):
        directory = tmp_path / str(n)
        save(directory, 1)
        save(directory, 2)
        error = OSError(code, os.strerror(code))
        with monkeypatch.context() as patched:
            done = break_at(patched, n, error, for_ever=False)
            try:
                save(directory, step, 99)
                saved = True
            except OSError:
                saved = False
        newest = load_quietly(directory)
        assert load(directory, 1).extra == 1
        assert newest.extra == 99 or not saved
        assert newest.extra in (2, 99)
        came_out += not saved
        if len(done) < n:
            break
        save(directory, 5)
        assert all(name.startswith("step_") and not name.endswith(".old") for name in os.listdir(directory))
    assert came_out > 8


def test_full_disk(directory):
    """A real limit, reached while the arrays are written (Python ignores the signal that comes with it)."""
    save(directory, 1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limits[1]))
    try:
        with pytest.raises(OSError, match=f"File too large: '{directory / 'step_00000002'}'"):
            save_checkpoint(directory, 2, extra=np.ones(1 << 20), generator=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert os.listdir(directory) == ["step_00000001"]
    assert load(directory).step == 1


def test_a_directory_that_may_not_be_written_to(directory, monkeypatch):
    """The checkpoint is named, not the hidden folder in which it is made."""

    def refuse(path, *_):
        raise PermissionError(errno.EACCES, "Permission denied", path)

    directory.mkdir()
    monkeypatch.setattr(os, "mkdir", refuse)
    with pytest.raises(PermissionError, match=f"Permission denied: '{directory / 'step_00000002'}'"):
        save(directory, 2)


def test_no_directory_to_write_to(tmp_path):
    (tmp_path / "file").write_text("mine")
    for directory in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(OSError, match="file"):
            save(directory, 1)
    assert (tmp_path / "file").read_text() == "mine"
    assert os.listdir(tmp_path) == ["file"]


def test_a_name_that_is_taken_by_something_else(directory):
    directory.mkdir()
    (directory / "step_00000001").write_text("mine")
    (directory / "other").mkdir()
    (directory / "step_00000002").symlink_to("other")
    for step in (1, 2):
        with pytest.raises(OSError, match=f"step_0000000{step}"):
            save(directory, step)
    assert sorted(os.listdir(directory)) == ["other", "step_00000001", "step_00000002"]
    save(directory, 3, keep=1)
    assert sorted(os.listdir(directory)) == ["other", "step_00000001", "step_00000002", "step_00000003"]


def test_everything_is_synced_before_it_is_renamed(directory, monkeypatch):
    """What a power cut needs: the files, then their folder, then the name, then the folder of that."""
    done: list[str] = []
    fsync, rename = os.fsync, os.rename

    def synced(fd):
        done.append(os.path.basename(os.readlink(f"/proc/self/fd/{fd}")))
        fsync(fd)

    def renamed(a, b):
        done.append(f"rename {os.path.basename(b)}")
        rename(a, b)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "rename", renamed)
    save(directory, 1)
    made = done[2]
    assert made.endswith(".tmp")
    assert done == ["model.safetensors", "checkpoint.json", made, "rename step_00000001", "run"]


# -- more than one process ---------------------------------------------------------------------------------------------


def test_leftovers(directory):
    save(directory, 1)
    left = directory / ".step_00000002.0123456789ab.tmp"
    left.mkdir()
    (left / "model.safetensors").write_bytes(b"half")
    old = directory / "step_00000001.old"
    shutil.copytree(directory / "step_00000001", old)
    (directory / "step_00000005.old").mkdir()
    with pytest.warns(CheckpointWarning, match="step_00000005.old"):
        assert load(directory).path.endswith("step_00000001")
    with _checkpoint_folders.saving(str(directory)):
        pass  # nobody else is saving: it goes
    assert sorted(os.listdir(directory)) == ["step_00000001", "step_00000005"]


def test_the_old_one_counts_while_there_is_no_new_one(directory):
    save(directory, 1)
    path = save(directory, 2)
    os.rename(path, path + ".old")  # where a kill has come between two renames
    assert load(directory).step == 2
    assert list_checkpoints(directory)[0].path == path + ".old"
    save(directory, 3)
    assert load(directory, 2).path == path


def test_what_another_save_is_writing_is_left_alone(directory):
    directory.mkdir()
    with _checkpoint_folders.saving(str(directory)):
        (directory / ".step_00000002.0123456789ab.tmp").mkdir()
        save(directory, 1)
        assert len(os.listdir(directory)) == 2
    save(directory, 3)
    assert sorted(os.listdir(directory)) == ["step_00000001", "step_00000003"]


def test_without_locks(directory, monkeypatch):
    def refuse(*args):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(_checkpoint_folders.fcntl, "flock", refuse)
    save(directory, 1)
    save(directory, 1, 5)
    assert load(directory).extra == 5


def test_another_save_moves_the_old_one_away_first(directory, unsynced, monkeypatch):
    """Between the look at the name with .old and the rename to it, another save may take it."""
    save(directory, 1)
    rename, taken = os.rename, []

    def raced(a, b):
        if str(b).endswith(".old") and not taken:
            taken.append(b)
            shutil.copytree(a, b)
        rename(a, b)

    monkeypatch.setattr(os, "rename", raced)
    save(directory, 1, 5)
    assert taken
    assert load(directory, 1).extra == 5
    assert os.listdir(directory) == ["step_00000001"]


def test_many_threads(directory, unsynced):
    """Saves of all kinds at once, and a reader who never finds nothing."""
    save(directory, 0)
    errors: list[BaseException] = []
    stop = threading.Event()

    def work(i: int) -> None:
        try:
            for n in range(8):
                save(directory, n % 4 + 1, 10 * i + n, keep=3 if i else None)
        except BaseException as error:
            errors.append(error)

    def read() -> None:
        try:
            while not stop.is_set():
                assert load_quietly(directory).skipped == ()
        except BaseException as error:
            errors.append(error)

    workers = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    reader = threading.Thread(target=read)
    for thread in (*workers, reader):
        thread.start()
    for thread in workers:
        thread.join()
    stop.set()
    reader.join()
    assert errors == []
    save(directory, 9, keep=2)
    assert all(name.startswith("step_") for name in os.listdir(directory))


# -- kill -9 -----------------------------------------------------------------------------------------------------------

# A process that has imported everything forks the ones that are killed: 5 ms each instead of seconds. Nothing of JAX
# has been started in it, so that there are no threads to lose.
SERVER = """
import os, sys, time
from tests.test_checkpoint_kill import saver
for line in sys.stdin:
    directory, start, mode = line.split()
    pid = os.fork()
    if not pid:
        try:
            saver(directory, int(start), mode)
        finally:
            os._exit(1)
    print("pid", pid, flush=True)
    os.waitpid(pid, 0)
    print("dead", flush=True)
"""
MODES = {"all": None, "keep 1": 1, "keep 3": 3, "again": None}


def saver(directory: str, start: int, mode: str) -> None:
    """Save until killed; announce each save that has returned."""
    mode = mode.replace("_", " ")
    step, server = start, os.getppid()
    while os.getppid() == server:
        save(directory, 1 if mode == "again" else step, step, MODES[mode])
        os.write(1, b"saved %d\n" % step)
        step += 1


def kill_at_random(tmp_path, kills: int, seed: int) -> dict[str, int]:
    """How many saves were announced, and how many kills left something behind."""
    rng = random.Random(seed)
    counts = {"saved": 0, "interrupted": 0, "newer than announced": 0}
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "ignore", "-c", SERVER]
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env, cwd=ROOT, bufsize=0)
    last = dict.fromkeys(MODES, 0)
    try:
        for i in range(kills):
            mode = list(MODES)[i % len(MODES)]
            directory = tmp_path / mode.replace(" ", "_")
            announced = one_kill(server, directory, last[mode] + 1, mode, rng)
            counts["saved"] += announced - last[mode]
            interrupted = any(not n.startswith("step_") or n.endswith(".old") for n in os.listdir(directory))
            counts["interrupted"] += interrupted
            if not announced and not list_checkpoints(directory):
                continue  # killed before the first one
            newest = load(directory)  # with no warning: nothing is skipped
            assert newest.extra in (announced, announced + 1), mode
            counts["newer than announced"] += newest.extra > announced
            there = sorted((found.step for found in list_checkpoints(directory)), reverse=True)
            if mode == "again":
                assert there == [1]
            else:
                keep = MODES[mode] or newest.step
                assert there[:keep] == list(range(newest.step, max(newest.step - keep, 0), -1))
                assert load(directory, there[-1]).step == there[-1]
            last[mode] = newest.extra
    finally:
        server.kill()  # the one that it has forked ends by itself
        server.wait()
        server.stdin.close()
        server.stdout.close()
    return counts


def one_kill(server, directory, start: int, mode: str, rng) -> int:
    """Let a process save from `start` on, and kill it; the last one that it has announced."""
    server.stdin.write(f"{directory} {start} {mode.replace(' ', '_')}\n".encode())
    announced, pid, seen = start - 1, None, b""
    wait = None
    while True:
        ready, _, _ = select.select([server.stdout], [], [], wait)
        if not ready:
            os.kill(pid, signal.SIGKILL)
            pid, wait = None, None
            continue
        seen += os.read(server.stdout.fileno(), 1 << 16)
        *lines, seen = seen.split(b"\n")
        for line in lines:
            word, _, number = line.partition(b" ")
            if word == b"dead":
                return announced
            if word == b"pid":
                pid, wait = int(number), rng.uniform(0, 0.1)
            elif wait is not None:
                wait = rng.uniform(0, 0.1)
            if word == b"saved":
                announced = int(number)
                if wait is not None and rng.random() < 0.5:
                    wait = rng.uniform(0, 0.02)


@pytest.mark.parametrize("kills", [24, pytest.param(200, marks=pytest.mark.slow)])
def test_kill_at_random(tmp_path, kills, request):
    counts = kill_at_random(tmp_path, kills, request.config.getoption("--seed"))
    print(counts)
    assert counts["saved"] > 0

"""Formats other than one safetensors file: told by content, read from and written for their own libraries, refused."""

import errno
import json
import os
import struct
import tracemalloc
import zipfile
import zlib
from pathlib import Path
from typing import Any

import flax.serialization
import jax
import jax.numpy as jnp
import ml_dtypes
import msgpack as reference
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxmodule as jm
from jaxmodule import nn
from jaxmodule.io import FileFormatError, load, load_metadata, msgpack, npz, save, sharded
from jaxmodule.io.array_file import FileArray
from jaxmodule.io.formats import by_content

ARRAYS = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b": np.ones((), np.int32),
    "c": np.zeros((0, 2), np.bool_),
}
SUFFIXES = {"safetensors": ".safetensors", "npz": ".npz", "msgpack": ".msgpack"}
EXTENDED = ["bfloat16", "float8_e4m3fn", "float8_e5m2", "int4"]


def assert_same(found: Any, expected: Any) -> None:
    assert list(found) == list(expected)
    for name in expected:
        a, b = np.asarray(found[name]), np.asarray(expected[name])
        assert (a.dtype, a.shape) == (b.dtype, b.shape), name
        assert a.tobytes() == b.tobytes(), name


def random_bits(dtype: Any, shape: tuple[int, ...]) -> np.ndarray:
    raw = np.random.default_rng(0).integers(0, 256, int(np.prod(shape)) * np.dtype(dtype).itemsize, np.uint8)
    return raw.view(dtype).reshape(shape)


# -- which format -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SUFFIXES)
@pytest.mark.parametrize("name", ["a.safetensors", "a.pt", "a.npz", "a.msgpack", "a", "a.model.index.json"])
def test_the_content_tells_the_format(tmp_path: Path, kind: str, name: str) -> None:
    save(ARRAYS, tmp_path / "right", format=kind)  # pyright: ignore[reportArgumentType]
    (tmp_path / "right").rename(tmp_path / name)
    assert by_content(str(tmp_path / name)) == kind
    assert_same(load(tmp_path / name), ARRAYS)


@pytest.mark.parametrize("kind", SUFFIXES)
def test_the_suffix_tells_what_to_write(tmp_path: Path, kind: str) -> None:
    save(ARRAYS, tmp_path / f"a{SUFFIXES[kind].upper()}")
    assert by_content(str(tmp_path / f"a{SUFFIXES[kind].upper()}")) == kind


@pytest.mark.parametrize("kind", SUFFIXES)
def test_an_empty_dict(tmp_path: Path, kind: str) -> None:
    save({}, tmp_path / "a", format=kind)  # pyright: ignore[reportArgumentType]
    assert load(tmp_path / "a") == {}


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
        (b"<!DOCTYPE html><html>", "is a web page: the download went wrong"),
        (b"\x93NUMPY\x01\x00", "is a .npy file: numpy.load reads it"),
        (b"\x89HDF\r\n\x1a\n", "is an HDF5 file"),
        (b"\x1f\x8b\x08\x00", "is compressed with gzip"),
        (b"GGUF\x03\x00", "is a GGUF file"),
        (b"hello world", r"is of no format that can be read .*: it starts with b'hello world'"),
        (b'{"architectures": ["GPT2"]}', "is no index of tensors: it has no 'weight_map'"),
        (b"PK\x07\x08nothing", r"it starts with b'PK\\x07\\x08nothing'"),
    ],
    ids=lambda value: str(value[:8]),
)
def test_files_of_no_format(tmp_path: Path, content: bytes, match: str) -> None:
    path = tmp_path / "weights"
    path.write_bytes(content)
    with pytest.raises(FileFormatError, match=match) as caught:
        load(path)
    assert str(path) in str(caught.value)


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FileFormatError, match="'.*pipe' is no regular file"):
        load(tmp_path / "pipe")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileFormatError, match=r"the folder '.*' has no safetensors file or index of shards in it: \["):
        load(tmp_path / "empty")
    with pytest.raises(FileNotFoundError, match="nothing"):
        load(tmp_path / "nothing")


def test_arguments_of_save(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match=r"the suffix '\.model' tells no format.*or say `format=`"):
        save({}, tmp_path / "a.model")
    with pytest.raises(ValueError, match="format must be 'safetensors', .*, got 'gguf'"):
        save({}, tmp_path / "a", format="gguf")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="max_shard_size splits safetensors files only"):
        save({}, tmp_path / "a.npz", max_shard_size="1GB")
    with pytest.raises(ValueError, match="shards need the name of a folder"):
        save({}, tmp_path / "a.safetensors", format="sharded")
    with pytest.raises(ValueError, match="the format 'msgpack' has no metadata"):
        save({}, tmp_path / "a.msgpack", {"epoch": "1"})
    with pytest.raises(TypeError, match=r"holds a dict of names and arrays, not a Linear; save its state_dict\(\)"):
        save(nn.Linear(2, 2), tmp_path / "a.npz")
    with pytest.raises(ValueError, match="mmap=True leaves the arrays in the file"):
        load(tmp_path, mmap=True, device=jax.devices()[0])
    for size in ("5 apples", 0, -1, True, 1.5, "GB"):
        with pytest.raises(ValueError, match="max_shard_size must be a positive number of bytes or text"):
            save({}, tmp_path / "folder", max_shard_size=size)  # pyright: ignore[reportArgumentType]
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("kind", SUFFIXES)
def test_arrays_left_in_their_file(tmp_path: Path, kind: str) -> None:
    save({**ARRAYS, "h": jnp.ones(3, jnp.bfloat16)}, tmp_path / "a", format=kind)  # pyright: ignore[reportArgumentType]
    found = load(tmp_path / "a", mmap=True)
    assert all(isinstance(value, FileArray) for value in found.values())
    assert_same(found, {**ARRAYS, "h": np.ones(3, ml_dtypes.bfloat16)})
    assert found["a"][1, 1:].tolist() == [4, 5]
    save(found, tmp_path / "b", format=kind)  # pyright: ignore[reportArgumentType]
    assert (tmp_path / "b").read_bytes() == (tmp_path / "a").read_bytes()


@pytest.mark.parametrize("kind", SUFFIXES)
def test_a_device_and_a_sharding(tmp_path: Path, kind: str) -> None:
    save({"a": jnp.arange(8.0)}, tmp_path / "a", format=kind)  # pyright: ignore[reportArgumentType]
    sharding = jax.sharding.NamedSharding(jax.make_mesh((4,), ("x",)), jax.P("x"))
    assert load(tmp_path / "a", device=sharding)["a"].sharding == sharding


@pytest.mark.parametrize("kind", ["safetensors", "npz", "msgpack", "sharded"])
def test_a_model_goes_through_every_format(tmp_path: Path, kind: str) -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    save(model.state_dict(), tmp_path / "a", format=kind)  # pyright: ignore[reportArgumentType]
    for mmap in (False, True):
        again = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
        report = again.load_state_dict(load(tmp_path / "a", mmap=mmap))
        assert report.cast == []
        assert_same(again.state_dict(), model.state_dict())


# -- whole or not at all ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SUFFIXES)
@pytest.mark.parametrize("old", [None, b"old"])
def test_a_full_disk_leaves_what_was_there(
    tmp_path: Path, kind: str, old: bytes | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a"
    if old is not None:
        path.write_bytes(old)

    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=rf"No space left on device: '{path}'"):
        save({"a": np.ones(1000)}, path, format=kind)  # pyright: ignore[reportArgumentType]
    assert os.listdir(tmp_path) == ([] if old is None else ["a"])
    assert old is None or path.read_bytes() == old


@pytest.mark.parametrize("kind", [*SUFFIXES, "sharded"])
def test_a_file_size_limit_leaves_what_was_there(tmp_path: Path, kind: str) -> None:
    """A real failure of `write`, halfway through."""
    import resource
    import signal

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(OSError, match=rf"File too large: '{tmp_path / 'a'}(/model.*safetensors)?'"):
            save({"a": np.ones(10), "b": np.ones(50_000)}, tmp_path / "a", format=kind)  # pyright: ignore
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("kind", [*SUFFIXES, "sharded"])
def test_a_folder_that_may_not_be_written_to(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "locked"
    folder.mkdir()
    target = folder if kind == "sharded" else folder / "a"
    folder.chmod(0o555)
    if os.geteuid() == 0:  # root may write everywhere
        import builtins

        real = open

        def refuse(file: Any, mode: str = "r", *rest: Any, **more: Any) -> Any:
            if str(folder) in str(file) and mode != "rb":
                raise PermissionError(errno.EACCES, "Permission denied", str(file))
            return real(file, mode, *rest, **more)

        monkeypatch.setattr(builtins, "open", refuse)
    with pytest.raises(PermissionError, match=rf"Permission denied: '{target}(/model.*safetensors)?'"):
        save(ARRAYS, target, format=kind)  # pyright: ignore[reportArgumentType]
    folder.chmod(0o755)
    assert os.listdir(folder) == []


@pytest.mark.parametrize("kind", SUFFIXES)
def test_a_folder_that_is_not_there_and_a_folder_in_the_way(tmp_path: Path, kind: str) -> None:
    with pytest.raises(FileNotFoundError, match=rf"No such file or directory: '{tmp_path / 'no' / 'a'}'"):
        save(ARRAYS, tmp_path / "no" / "a", format=kind)  # pyright: ignore[reportArgumentType]
    (tmp_path / "a").mkdir()
    with pytest.raises(IsADirectoryError, match=rf"Is a directory: '{tmp_path / 'a'}'$"):
        save(ARRAYS, tmp_path / "a", format=kind)  # pyright: ignore[reportArgumentType]
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("letter", ["y", "ü"])
def test_a_name_as_long_as_there_may_be(tmp_path: Path, letter: str) -> None:
    path = tmp_path / (letter * ((255 - len(".npz")) // len(os.fsencode(letter))) + ".npz")
    save(ARRAYS, path)
    assert_same(load(path), ARRAYS)


@pytest.mark.parametrize("kind", ["strided", "whole"])
def test_a_file_that_is_cut_off_while_it_is_open(tmp_path: Path, kind: str) -> None:
    """Touching the map past the end of the file would kill the process."""
    values = np.ones((600, 600), np.float32)
    np.savez(tmp_path / "a.npz", a=values if kind == "whole" else np.asfortranarray(values))
    array: Any = load(tmp_path / "a.npz", mmap=True)["a"]
    assert (array[599] == 1).all()
    os.truncate(tmp_path / "a.npz", 4096)
    with pytest.raises(FileFormatError, match=r"a\.npz' became shorter"):
        array[599]
    with pytest.raises(FileFormatError, match=r"a\.npz' (became shorter|is damaged)"):
        array.read()


# -- shards -----------------------------------------------------------------------------------------------------------

BIG = {"a": np.ones((100,), np.float32), "b": np.zeros((10, 10), np.float32), "c": np.ones(7, np.float32)}


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def test_shards_and_their_index(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    save(BIG, folder, {"epoch": "3"}, max_shard_size=400)
    shards = [f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
    assert names(folder) == [*shards, "model.safetensors.index.json"]
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    assert index == {"metadata": {"epoch": "3", "total_size": 828}, "weight_map": dict(zip("abc", shards, strict=True))}
    for path in (folder, folder / "model.safetensors.index.json"):
        assert_same(load(path), BIG)
        assert load_metadata(path) == {"epoch": "3"}


def test_a_named_index(tmp_path: Path) -> None:
    save(BIG, tmp_path / "net.safetensors.index.json", max_shard_size="500B".replace("500B", "0.5KB"))
    assert names(tmp_path)[-1] == "net.safetensors.index.json"
    assert names(tmp_path)[0] == "net-00001-of-00002.safetensors"
    assert_same(load(tmp_path), BIG)
    with pytest.raises(FileFormatError, match=r"the name of an index ends in \.safetensors\.index\.json"):
        save(BIG, tmp_path / "x.index.json")


def test_ties_and_versions_go_through_shards(tmp_path: Path) -> None:
    tied = jnp.ones((10, 10))
    state = nn.Sequential(nn.BatchNorm1d(3)).state_dict()
    state["x.weight"], state["y.weight"] = tied, tied
    save(state, tmp_path / "m", max_shard_size=200)
    found = load(tmp_path / "m")
    assert found["x.weight"] is found["y.weight"]
    assert found._metadata == state._metadata
    assert load_metadata(tmp_path / "m") == {}
    assert "y.weight" not in json.loads((tmp_path / "m/model.safetensors.index.json").read_text())["weight_map"]


def test_a_save_over_an_earlier_one_keeps_that_until_it_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(BIG, tmp_path, max_shard_size=400)
    before = names(tmp_path)
    new = {name: value + 1 for name, value in BIG.items()}
    real = sharded._write_index

    def fail(*args: Any) -> None:
        assert_same(load(tmp_path), BIG)  # all new shards are there, and the old index too
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(sharded, "_write_index", fail)
    with pytest.raises(OSError, match="No space left"):
        save(new, tmp_path, max_shard_size=400)
    assert names(tmp_path) == before
    assert_same(load(tmp_path), BIG)
    monkeypatch.setattr(sharded, "_write_index", real)
    save(new, tmp_path, max_shard_size=400)
    assert_same(load(tmp_path), new)
    assert len(names(tmp_path)) == len(before)
    save({"a": BIG["a"]}, tmp_path, max_shard_size=400)  # fewer: nothing of the others is left
    assert names(tmp_path) == ["model-00001-of-00001.safetensors", "model.safetensors.index.json"]


def test_shards_of_a_save_that_was_killed_are_not_read(tmp_path: Path) -> None:
    save(BIG, tmp_path, max_shard_size=400)
    (tmp_path / "model.safetensors.index.json").unlink()
    with pytest.raises(FileFormatError, match="several files that it could be: model-00001-of-00003"):
        load(tmp_path)
    save({"a": BIG["a"]}, tmp_path, max_shard_size=400)
    assert_same(load(tmp_path), {"a": BIG["a"]})


def test_a_single_file_in_the_way(tmp_path: Path) -> None:
    save(BIG, tmp_path / "model.safetensors")
    assert_same(load(tmp_path), BIG)
    with pytest.raises(FileExistsError, match="loaders would read it in place of shards beside it"):
        save(BIG, tmp_path)
    assert names(tmp_path) == ["model.safetensors"]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"weight_map": 3}, "has no 'weight_map'"),
        ({"metadata": []}, None),
        ({"metadata": 3}, "has no 'weight_map'"),
        ({"weight_map": {"a": "../model.safetensors"}}, r"says that 'a' is in '\.\./model\.safetensors', which is not"),
        ({"weight_map": {"a": "/etc/passwd"}}, "'/etc/passwd', which is not the name of a file beside it"),
        ({"weight_map": {"a": "..\\x.safetensors"}}, "which is not the name of a file beside it"),
        ({"weight_map": {"a": ".."}}, "which is not the name of a file beside it"),
        ({"weight_map": {"a": ""}}, "which is not the name of a file beside it"),
        ({"weight_map": {"a": 3}}, "'a' is in 3, which is not"),
        ({"weight_map": {"a": "x.safetensors", "b": "y.safetensors"}}, "2 of its 2 shards are missing: x.*, y"),
        ({"weight_map": {"z": "model-00001-of-00003.safetensors"}}, "'z' is in 'model-00001.*', but it is not"),
        ({"weight_map": {"a": "model.safetensors.index.json"}}, "is itself an index, and named as a shard of one"),
    ],
    ids=str,
)
def test_a_wrong_index(tmp_path: Path, change: dict[str, Any], match: str | None) -> None:
    save(BIG, tmp_path, max_shard_size=400)
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    if match is None:
        assert_same(load(path), BIG)
        return
    with pytest.raises(FileFormatError, match=match) as caught:
        load(path)
    assert str(path) in str(caught.value)


def test_a_wrong_total_is_said(tmp_path: Path) -> None:
    save(BIG, tmp_path, max_shard_size=400)
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(path.read_text().replace("828", "829"))
    with pytest.warns(UserWarning, match="says that its tensors have 829 bytes in all; they have 828"):
        assert_same(load(path), BIG)


def test_a_damaged_shard_is_named(tmp_path: Path) -> None:
    save(BIG, tmp_path, max_shard_size=400)
    shard = tmp_path / "model-00002-of-00003.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(FileFormatError, match="model-00002-of-00003.* is cut off"):
        load(tmp_path)


# -- flax's msgpack ---------------------------------------------------------------------------------------------------

TREE = {
    "params": {"dense": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3), "bias": jnp.ones(3, jnp.bfloat16)}},
    "step": 3,
    "numbers": [0, 127, 128, 255, 256, 65535, 65536, 2**32, 2**63, -1, -32, -33, -128, -129, -(2**15) - 1, -(2**40)],
    "floats": [0.5, -1e300],
    "complex": 1 - 2j,
    "scalar": np.float32(3),
    "zero-d": np.array(7, np.int64),
    "texts": ["", "x" * 31, "x" * 32, "ä" * 200, "x" * 70_000],
    "bytes": [b"", b"x" * 255, b"x" * 256, b"x" * 70_000],
    "none": [None, True, False],
    "empty": {"a": {}, "b": [], "c": np.zeros((0, 3), np.int8)},
    "long": list(range(20)),
    "wide": {str(i): i for i in range(20)},
}


def numpys(tree: Any) -> Any:
    return jax.tree.map(lambda x: np.asarray(x) if isinstance(x, jax.Array) else x, tree)


def in_order(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: in_order(value) for key, value in tree.items()}
    return numpys(tree)


def test_msgpack_is_written_as_flax_writes_it(tmp_path: Path) -> None:
    for name, value in TREE.items():
        save({"x": value}, tmp_path / "a.msgpack")
        # In place: jax.tree.map, which it begins with otherwise, sorts the keys.
        expected = flax.serialization.msgpack_serialize({"x": in_order(value)}, in_place=True)
        assert (tmp_path / "a.msgpack").read_bytes() == expected, name


def same_tree(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same_tree(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return isinstance(b, list) and len(a) == len(b) and all(map(same_tree, a, b))
    if hasattr(a, "dtype"):
        a, b = np.asarray(a), np.asarray(b)
        return (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())
    return type(a) is type(b) and a == b


def test_msgpack_both_ways(tmp_path: Path) -> None:
    path = tmp_path / "a.msgpack"
    save(TREE, path)
    assert same_tree(flax.serialization.msgpack_restore(path.read_bytes()), numpys(TREE))
    assert same_tree(load(path), numpys(TREE))
    path.write_bytes(flax.serialization.to_bytes(numpys(TREE)))  # lists are dicts there
    assert same_tree(load(path)["params"], numpys(TREE["params"]))
    assert load(path)["floats"] == {"0": 0.5, "1": -1e300}


def test_a_tree_keeps_its_nesting_and_a_state_dict_stays_flat(tmp_path: Path) -> None:
    state = nn.Linear(3, 2).state_dict()
    save(state, tmp_path / "a.msgpack")
    assert_same(flax.serialization.msgpack_restore((tmp_path / "a.msgpack").read_bytes()), state)
    assert_same(load(tmp_path / "a.msgpack"), state)


@pytest.mark.parametrize("dtype", [*EXTENDED, "bool", "uint16", "int64", "float16", "complex64", "complex128"])
def test_msgpack_dtypes(tmp_path: Path, dtype: str) -> None:
    array = np.arange(6).reshape(2, 3).astype(dtype)
    save({"a": array}, tmp_path / "a.msgpack")
    found = load(tmp_path / "a.msgpack", mmap=True)["a"]
    assert (found.dtype, found.read().tobytes()) == (array.dtype, array.tobytes())
    if dtype not in ("int4",):  # flax writes it and does not read it
        theirs = flax.serialization.msgpack_restore((tmp_path / "a.msgpack").read_bytes())["a"]
        assert (theirs.dtype, theirs.tobytes()) == (array.dtype, array.tobytes())


def test_arrays_in_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    array = np.arange(1000, dtype=np.float32).reshape(10, 100)
    monkeypatch.setattr(msgpack, "_MAX_CHUNK", 1024)
    monkeypatch.setattr(flax.serialization, "MAX_CHUNK_SIZE", 1024)
    save({"a": array}, tmp_path / "a.msgpack")
    assert (tmp_path / "a.msgpack").read_bytes() == flax.serialization.msgpack_serialize({"a": array})
    assert_same(load(tmp_path / "a.msgpack"), {"a": array})
    left = load(tmp_path / "a.msgpack", mmap=True)["a"]
    assert_same({"a": left}, {"a": array})
    assert left[3, 5] == array[3, 5]


@pytest.mark.parametrize(
    ("value", "match"),
    [
        ({"a": (1, 2)}, "'a' is a tuple, which a msgpack file does not have; a list is"),
        ({"a": {"b": object()}}, r"'a\.b' is a object"),
        ({"a": [np.array(["x"])]}, r"'a\[0\]' has dtype <U1"),
        ({"a": jax.random.key(0)}, "is not read back by flax; save its data"),
        ({2.5: 1}, r"2\.5 in 'the dict' is no key"),
    ],
)
def test_what_msgpack_does_not_have(tmp_path: Path, value: Any, match: str) -> None:
    with pytest.raises(TypeError, match=match):
        save(value, tmp_path / "a.msgpack")
    assert os.listdir(tmp_path) == []


def test_numbers_and_depth_that_msgpack_does_not_have(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="integers of 64 bits"):
        save({"a": 2**64}, tmp_path / "a.msgpack")
    deep: Any = 1
    for _ in range(200):
        deep = {"a": deep}
    with pytest.raises(ValueError, match="nested more than 100 deep"):
        save(deep, tmp_path / "a.msgpack")
    (tmp_path / "a.msgpack").write_bytes(reference.packb(deep))
    with pytest.raises(FileFormatError, match="nested more than 100 deep"):
        load(tmp_path / "a.msgpack")


def array_ext(shape: Any = (2,), name: Any = "float32", data: Any = b"x" * 8, kind: int = 1) -> Any:
    return reference.ExtType(kind, reference.packb([shape, name, data]))


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (reference.packb({"a": 1}) + b"\xc0", "1 bytes follow its end"),
        (b"\x81\xa1a\xc1", "the byte 0xc1 at 3 has no meaning"),
        (b"\x82\xa1a\x01\xa1a\x02", "'a' occurs twice"),
        (b"\x81\xa1\xff\x01", "text that is not UTF-8"),
        (b"\xdf\xff\xff\xff\xff\xa1a", "4294967295 items in the 2 bytes"),
        (b"\x81\xa1a\xdd\xff\xff\xff\xff", "4294967295 items in the 0 bytes"),
        (b"\x81\xa1a\xdb\xff\xff\xff\xff", "it is cut off: 4294967295 more bytes expected"),
        (b"\x81\xa1a\xc9\xff\xff\xff\xff\x01", "it is cut off"),
        (b"\x82\xa1a\x01\x81\x01\x01\x01", r"the key \{1: 1\} is no text or number"),
        (reference.packb({"a": reference.ExtType(9, b"x")}), r"the extension type 9 at \d is none of flax's"),
        (reference.packb({"a": array_ext(name="object")}), "has the dtype 'object'"),
        (reference.packb({"a": array_ext(name="<f4")}), "has the dtype '<f4'"),
        (reference.packb({"a": array_ext(shape=(3,))}), r"of float32 \[3\] has 8 bytes, not 12"),
        (reference.packb({"a": array_ext(shape=(-2,))}), r"has the shape \(-2,\)"),
        (reference.packb({"a": array_ext(shape=(2**40, 2**40))}), "larger than any array"),
        (reference.packb({"a": array_ext(shape=3)}), r"is not \[shape, dtype, bytes\]"),
        (reference.packb({"a": array_ext(data=7)}), r"is not \[shape, dtype, bytes\]"),
        (reference.packb({"a": array_ext(kind=3)}), r"a number of the shape \(2,\)"),
        (reference.packb({"a": reference.ExtType(1, b"\x92\x90\x90")}), r"is not \[shape, dtype, bytes\]"),
        (reference.packb({"a": reference.ExtType(1, b"\x93\x91\x02\xa7float32\xc4\xff")}), "has 255 bytes, not 8"),
        (reference.packb({"a": reference.ExtType(2, reference.packb([1]))}), r"the complex number \[1\]"),
        (reference.packb({"a": reference.ExtType(2, reference.packb([1, 2]) + b"\xc0")}), "1 bytes too many"),
        (reference.packb({"__msgpack_chunked_array__": True}), "without its chunks"),
        (
            reference.packb({"__msgpack_chunked_array__": True, "shape": {"0": 2}, "chunks": {"0": array_ext((2,))}}),
            None,
        ),
        (
            reference.packb({"__msgpack_chunked_array__": True, "shape": {"0": 3}, "chunks": {"0": array_ext((2,))}}),
            r"the chunks of an array of float32 \[3\] don't make one",
        ),
        (
            reference.packb({"__msgpack_chunked_array__": True, "shape": {"1": 3}, "chunks": {"0": array_ext((2,))}}),
            "without its shape",
        ),
    ],
    ids=range(26),
)
def test_damaged_msgpack(tmp_path: Path, content: bytes, match: str | None) -> None:
    path = tmp_path / "a.msgpack"
    path.write_bytes(content)
    if match is None:
        load(path)
        return
    with pytest.raises(FileFormatError, match=match) as caught:
        load(path)
    assert str(path) in str(caught.value)


def test_msgpack_cut_off_anywhere(tmp_path: Path) -> None:
    save({"a": ARRAYS["a"], "n": {"x": [1, 2.5, "text"], "c": 1j, "s": np.float32(1)}}, tmp_path / "a.msgpack")
    whole = (tmp_path / "a.msgpack").read_bytes()
    for size in range(len(whole)):
        (tmp_path / "a.msgpack").write_bytes(whole[:size])
        with pytest.raises(FileFormatError, match=r"a\.msgpack"):
            load(tmp_path / "a.msgpack")


def test_a_list_of_nothing_is_refused_before_it_fills_the_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.msgpack"
    path.write_bytes(b"\x81\xa1a\xdd" + struct.pack(">I", 4_000_000) + b"\xc0" * 4_000_000)
    with pytest.raises(FileFormatError, match="more objects than a file of its size should"):
        load(path)


# -- numpy's npz ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
def test_npz_of_numpy(tmp_path: Path, write: Any) -> None:
    base = np.arange(24, dtype=np.float32).reshape(4, 6)
    arrays = {
        "plain": base,
        "fortran": np.asfortranarray(base),
        "3d": np.asfortranarray(base.reshape(2, 3, 4)),
        "big": base.astype(">f4"),
        "scalar": np.float32(3),
        "empty": np.zeros((0, 3), np.int16),
        "a/b.c": np.array([True, False]),
        "large": np.arange(300_000, dtype=np.int32),
        "complex": np.array([1j], np.complex64),
    }
    write(tmp_path / "a.npz", **arrays)
    expected = {name: np.asarray(v, v.dtype.newbyteorder("=")) for name, v in arrays.items()}
    assert_same(load(tmp_path / "a.npz"), expected)
    left = load(tmp_path / "a.npz", mmap=True)
    assert_same(left, expected)
    assert left["fortran"][1].tolist() == base[1].tolist()
    assert all(isinstance(v, jax.Array) for v in load(tmp_path / "a.npz").values())


def test_npz_keeps_what_is_numpys(tmp_path: Path) -> None:
    arrays = {"text": np.array(["a", "bc"]), "long": np.arange(3), "time": np.array(["2020-01-01"], "datetime64[D]")}
    np.savez(tmp_path / "a.npz", **arrays)
    assert_same(load(tmp_path / "a.npz"), arrays)
    save(arrays, tmp_path / "b.npz")
    assert_same(load(tmp_path / "b.npz"), arrays)


def test_npz_is_opened_by_numpy_alone(tmp_path: Path) -> None:
    arrays = {"a.weight": np.asfortranarray(ARRAYS["a"]), "b": np.float32(2), "c": np.arange(3, dtype=">i4")}
    save(arrays, tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz", allow_pickle=False) as found:
        assert_same(dict(found), {name: np.asarray(v, v.dtype.newbyteorder("=")) for name, v in arrays.items()})
    assert zipfile.ZipFile(tmp_path / "a.npz").testzip() is None


@pytest.mark.parametrize("dtype", EXTENDED)
def test_npz_of_dtypes_that_numpy_does_not_have(tmp_path: Path, dtype: str) -> None:
    array = np.arange(6).reshape(2, 3).astype(dtype)
    save({"a": array, "b": np.ones(2, np.float32)}, tmp_path / "a.npz")
    assert_same(load(tmp_path / "a.npz"), {"a": array, "b": np.ones(2, np.float32)})
    with np.load(tmp_path / "a.npz", allow_pickle=False) as found:
        raw = found["a"]
    assert (raw.view(dtype) == array).all()
    np.savez(tmp_path / "theirs.npz", a=raw)
    with pytest.raises(FileFormatError, match="'a' has raw values of . bytes, and the file does not say what they are"):
        load(tmp_path / "theirs.npz")


def test_npz_never_unpickles(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return (os.mkdir, (str(tmp_path / "trapped"),))

    np.savez(tmp_path / "a.npz", a=np.array([Trap()], object))
    with pytest.raises(FileFormatError, match="'a' holds Python objects, which only pickle can read"):
        load(tmp_path / "a.npz")
    assert not (tmp_path / "trapped").exists()


def test_a_zip_bomb(tmp_path: Path) -> None:
    """Of zeros, it looks like an honest file; so the limit can be moved."""
    path = tmp_path / "a.npz"
    header = b"\x93NUMPY\x01\x00" + struct.pack("<H", 118)
    header += f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({1 << 29},), }}".encode().ljust(117) + b"\n"
    engine = zlib.compressobj(wbits=-15)
    packed = engine.compress(header) + engine.flush(zlib.Z_FULL_FLUSH)
    packed += (1 << 9) * (engine.compress(bytes(1 << 20)) + engine.flush(zlib.Z_FULL_FLUSH)) + engine.flush()
    raw_zip(path, "a.npy", packed, 8, 0, len(header) + (1 << 29))
    tracemalloc.start()
    with pytest.raises(FileFormatError, match=r"would unpack to 536871040, more than \d+\. If you trust it"):
        load(path)
    assert tracemalloc.get_traced_memory()[1] < 4e6 + path.stat().st_size
    tracemalloc.stop()
    assert npz.read(str(path), limit=1 << 30)["a"].shape == (1 << 29,)


def raw_zip(path: Path, name: str, data: bytes, method: int, crc: int, size: int, flags: int = 0) -> None:
    """A zip of one member, with whatever numbers."""
    common = struct.pack("<HHHHHIIIHH", 20, flags, method, 0, 33, crc, len(data), size, len(name), 0)
    local = b"PK\3\4" + common + name.encode() + data
    central = b"PK\1\2" + b"\x14\0" + common + struct.pack("<HHHII", 0, 0, 0, 0, 0) + name.encode()
    end = b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, 1, 1, len(central), len(local), 0)
    path.write_bytes(local + central + end)


def npy(array: np.ndarray) -> bytes:
    import io

    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


GOOD = npy(np.arange(4, dtype=np.float32))


@pytest.mark.parametrize(
    ("name", "data", "method", "crc", "size", "match"),
    [
        ("a.txt", b"hello", 0, None, None, "'a.txt' in it is no .npy file"),
        ("a.npy", b"hello", 0, None, None, "'a' has no .npy header"),
        ("a.npy", GOOD[:-1], 0, None, None, "'a' of float32 .* has 15 bytes of data, not 16"),
        ("a.npy", GOOD, 0, 1, None, "the checksum of 'a'"),
        ("a.npy", b"\xff" * 50, 8, None, 144, "cannot be unpacked"),
        ("a.npy", zlib.compress(GOOD, wbits=-15)[:-3], 8, zlib.crc32(GOOD), 144, "ends too early"),
        ("a.npy", zlib.compress(GOOD, wbits=-15), 8, 1, 144, "unpacks to something else than was written"),
        ("a.npy", zlib.compress(GOOD + b"more", wbits=-15), 8, 1, 144, "unpacks to more than it says"),
        ("a.npy", GOOD, 12, None, None, r"compressed in a way \(number 12\) of no numpy"),
        ("a.npy", GOOD, 0, None, 100, "'a' is stored with two sizes"),
        ("a.npy", GOOD.replace(b"<f4", b"<V4"), 0, None, None, "raw values of 4 bytes"),
        ("a.npy", GOOD.replace(b"'<f4'", b"'<z4'"), 0, None, None, "the .npy header of 'a' cannot be read"),
        ("a.npy", GOOD.replace(b"(4,)", b"(-4)"), 0, None, None, "the .npy header of 'a' cannot be read"),
        ("a.npy", GOOD.replace(b"False", b"print"), 0, None, None, "the .npy header of 'a' cannot be read"),
        ("a.npy", GOOD.replace(b"\x01\x00v\x00", b"\x01\x00\xff\xff"), 0, None, None, "header of 'a' has 65545 bytes"),
        ("a.npy", GOOD.replace(b"NUMPY\x01", b"NUMPY\x09"), 0, None, None, "'a' has no .npy header"),
    ],
    ids=range(16),
)
def test_damaged_npz(
    tmp_path: Path, name: str, data: bytes, method: int, crc: int | None, size: int | None, match: str
) -> None:
    path = tmp_path / "a.npz"
    raw_zip(path, name, data, method, zlib.crc32(data) if crc is None else crc, len(data) if size is None else size)
    with pytest.raises(FileFormatError, match=match) as caught:
        load(path)
    assert str(path) in str(caught.value)


def test_encrypted_npz(tmp_path: Path) -> None:
    raw_zip(tmp_path / "a.npz", "a.npy", GOOD, 0, zlib.crc32(GOOD), len(GOOD), flags=1)
    with pytest.raises(FileFormatError, match="'a.npy' is encrypted"):
        load(tmp_path / "a.npz")


def test_members_that_lie_over_each_other(tmp_path: Path) -> None:
    """A few bytes of data under many names are a bomb too."""
    path = tmp_path / "a.npz"
    raw_zip(path, "a.npy", GOOD, 0, zlib.crc32(GOOD), len(GOOD))
    whole = path.read_bytes()
    at = whole.index(b"PK\1\2")
    central, end = whole[at : whole.index(b"PK\5\6")], whole[whole.index(b"PK\5\6") :]
    twice = central + central.replace(b"a.npy", b"b.npy")
    end = end[:8] + struct.pack("<HHI", 2, 2, len(twice)) + end[16:]
    path.write_bytes(whole[:at] + twice + end)
    with pytest.raises(FileFormatError, match="is not where its directory says|Overlapped"):
        load(path)
    twice = central + central
    path.write_bytes(whole[:at] + twice + end)
    with pytest.raises(FileFormatError, match=r"lies over|twice|Overlapped"):
        load(path)


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
def test_npz_cut_off_anywhere(tmp_path: Path, write: Any) -> None:
    path = tmp_path / "a.npz"
    write(path, a=ARRAYS["a"])
    whole = path.read_bytes()
    for size in range(0, len(whole), 3):
        path.write_bytes(whole[:size])
        with pytest.raises(FileFormatError, match=r"a\.npz"):
            load(path)


@pytest.mark.parametrize(
    ("value", "match"),
    [
        ({"a": 3}, "'a' is a int; a .npz file holds arrays only"),
        ({"a": {"b": np.ones(2)}}, r"'a' is a dict; .*A \.msgpack or \.pt file"),
        ({3: np.ones(2)}, "3 cannot be the name of an array"),
        ({"__jaxmodule_dtypes__": np.ones(2)}, "cannot be the name of an array"),
        ({"a": np.array([object()])}, "'a' has dtype object"),
        ({"a": np.ones(2, np.longdouble)}, "'a' has dtype (float128|longdouble)"),
        ({"a": jax.random.key(0)}, "'a' is a PRNG key; save its data"),
    ],
)
def test_what_npz_does_not_have(tmp_path: Path, value: Any, match: str) -> None:
    with pytest.raises(TypeError, match=match):
        save(value, tmp_path / "a.npz")
    assert os.listdir(tmp_path) == []


def test_a_name_that_npz_has_no_place_for(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a\.npz': 'x.* has 70000 characters"):
        save({"x" * 70_000: np.ones(2)}, tmp_path / "a.npz")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("dtype", [np.longdouble, np.clongdouble])
def test_npz_of_dtypes_that_jax_does_not_have(tmp_path: Path, dtype: Any) -> None:
    np.savez(tmp_path / "a.npz", b=np.ones(2, dtype))
    with pytest.raises(FileFormatError, match=r"a\.npz': 'b' has dtype \w+, which JAX doesn't have"):
        load(tmp_path / "a.npz")


# -- bits that flip ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [*SUFFIXES, "compressed"])
def test_mutated_files_load_or_are_refused(tmp_path: Path, kind: str) -> None:
    """Whatever is done to a file: arrays come out, or a FileFormatError that names it, and no more memory than it."""
    path = tmp_path / "a"
    if kind == "compressed":
        np.savez_compressed(tmp_path / "a.npz", **ARRAYS)
        (tmp_path / "a.npz").rename(path)
    else:
        save({**ARRAYS, "h": jnp.ones(3, jnp.bfloat16)}, path, format=kind)  # pyright: ignore[reportArgumentType]
    whole = path.read_bytes()

    @settings(max_examples=150, deadline=None, derandomize=True, database=None)
    @given(st.lists(st.tuples(st.integers(0, len(whole) - 1), st.binary(max_size=4), st.integers(0, 4)), max_size=3))
    def check(changes: list[tuple[int, bytes, int]]) -> None:
        content = whole
        for at, new, gone in changes:
            content = content[:at] + new + content[at + gone :]
        path.write_bytes(content)
        try:
            load(path)
        except FileFormatError as error:
            message = str(error)
        else:
            return
        assert str(path) in message

    check()


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*SUFFIXES, "compressed"])
def test_every_bit_flipped(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a"
    if kind == "compressed":
        np.savez_compressed(tmp_path / "a.npz", **ARRAYS)
        (tmp_path / "a.npz").rename(path)
    else:
        save(ARRAYS, path, format=kind)  # pyright: ignore[reportArgumentType]
    whole = path.read_bytes()
    for bit in range(8 * len(whole)):
        content = bytearray(whole)
        content[bit // 8] ^= 1 << (bit % 8)
        path.write_bytes(content)
        try:
            found, message = load(path), ""
        except FileFormatError as error:
            found, message = {}, str(error)
        if message:
            assert str(path) in message
        else:  # zip has checksums, so there what comes is what was written
            if kind in ("npz", "compressed"):
                assert_same(found, ARRAYS)


def test_the_top_level_functions(tmp_path: Path) -> None:
    jm.save(ARRAYS, tmp_path / "a.npz")
    assert_same(jm.load(tmp_path / "a.npz"), ARRAYS)

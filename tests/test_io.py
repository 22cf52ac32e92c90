"""`jm.save`, `jm.load`, `io.load_metadata`: what comes back, what is refused, and that a failure leaves nothing."""

import json
import os
import subprocess
import sys
from collections import OrderedDict

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

import jaxmodule as jm
from jaxmodule import nn
from jaxmodule.io import FileFormatError, load, load_metadata, save
from jaxmodule.io import safetensors as st

DTYPES_32 = [name for name, dtype in st._DTYPES.items() if name not in ("I64", "U64", "F64")]


def sample(name: str, shape: tuple[int, ...] = (3, 5)) -> np.ndarray:
    """Random bits of a dtype: every value, NaNs and infinities too."""
    dtype = st._DTYPES[name]
    size = int(np.prod(shape)) * dtype.itemsize
    raw = np.random.default_rng(0).integers(0, 2 if name == "BOOL" else 256, size, np.uint8)
    return raw.view(dtype).reshape(shape)


def assert_same(a, b) -> None:
    a, b = np.asarray(a), np.asarray(b)
    assert (a.dtype, a.shape) == (b.dtype, b.shape)
    assert a.tobytes() == b.tobytes()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.safetensors"


def raw_file(path, header, data=b"") -> None:
    blob = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(blob).to_bytes(8, "little") + blob + data)


# -- round trips ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DTYPES_32)
@pytest.mark.parametrize("shape", [(3, 5), (), (0,), (2, 0, 3)], ids=str)
def test_every_dtype(path, name, shape):
    array = sample(name, shape)
    save({"jax": jnp.asarray(array), "numpy": array, "box": nn.Buffer(jnp.asarray(array))}, path)
    loaded = load(path)
    assert list(loaded) == ["jax", "numpy", "box"]
    for value in loaded.values():
        assert isinstance(value, jax.Array)
        assert_same(value, array)


@pytest.mark.parametrize("name", ["I64", "U64", "F64"])
def test_64_bits_lose_nothing(path, name):
    array = sample(name)
    save({"a": array}, path)
    assert isinstance(load(path)["a"], np.ndarray)
    assert_same(load(path)["a"], array)
    with jax.enable_x64(True):
        save({"a": jnp.asarray(array)}, path)
        assert isinstance(load(path)["a"], jax.Array)
        assert_same(load(path)["a"], array)


def test_layouts(path):
    base = np.arange(24, dtype=np.float32).reshape(4, 6)
    arrays = {"t": base.T, "strided": base[::2, ::-1], "big": base.astype(">f4"), "scalar": np.float32(3)}
    save(arrays, path)
    for name, value in load(path).items():
        assert_same(value, np.asarray(arrays[name], np.float32))


def test_a_model(path):
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    state = model.state_dict()
    before = dict(state)
    save(state, path, {"epoch": "3"})
    assert list(state.items()) == list(before.items())  # the arrays themselves, not copies
    loaded = load(path)
    assert isinstance(loaded, OrderedDict)
    assert list(loaded) == list(state)
    for name, value in state.items():
        assert_same(loaded[name], value)
    assert loaded._metadata == state._metadata
    assert load_metadata(path) == {"epoch": "3"}
    nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)).load_state_dict(loaded)


def test_a_plain_dict_has_no_versions(path):
    save({"a": jnp.ones(2)}, path)
    assert not hasattr(load(path), "_metadata")
    assert load_metadata(path) == {}
    save({}, path)
    assert load(path) == {}


def test_the_top_level_names(path):
    jm.save({"a": jnp.ones(2)}, path)
    assert_same(jm.load(str(path))["a"], jnp.ones(2))


def test_device(path):
    save({"a": jnp.arange(8.0), "n": np.arange(2)}, path)
    device = jax.devices()[-1]
    assert load(path, device=device)["a"].devices() == {device}
    sharding = jax.sharding.NamedSharding(jax.make_mesh((len(jax.devices()),), ("x",)), jax.P("x"))
    save({"a": load(path, device=sharding)["a"]}, path)
    assert load(path, device=sharding)["a"].sharding == sharding
    assert_same(load(path)["a"], jnp.arange(8.0))


def test_donating_what_was_loaded(path):
    save({"a": jnp.arange(1000.0)}, path)
    out = jax.jit(lambda x: x + 1, donate_argnums=0)(load(path)["a"])
    assert_same(out, jnp.arange(1000.0) + 1)
    assert_same(load(path)["a"], jnp.arange(1000.0))


# -- tied weights -----------------------------------------------------------------------------------------------------


def test_tied_weights_are_stored_once(path):
    array, box = jnp.ones((100, 10)), nn.Parameter(jnp.zeros((100, 10)))
    save({"embed": array, "b": box, "head": array, "copy": jnp.ones((100, 10)), "c": box}, path)
    assert os.path.getsize(path) < 3 * 4000 + 1000
    loaded = load(path)
    assert set(loaded) == {"embed", "b", "head", "copy", "c"}
    assert loaded["head"] is loaded["embed"]
    assert loaded["b"] is loaded["c"]
    assert loaded["copy"] is not loaded["embed"]
    assert_same(loaded["head"], array)
    assert load_metadata(path) == {}


def test_shared_scalars_are_not_ties(path):
    zero = jnp.zeros((), jnp.int32)
    save({"a.num_batches_tracked": zero, "b.num_batches_tracked": zero}, path)
    assert st._ALIASES.encode() not in path.read_bytes()
    assert len(load(path)) == 2


# -- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "match"),
    [
        (3.0, "'x' is a float; a safetensors file holds arrays only"),
        ({"step": 1}, "'x' is a dict"),
        (None, "'x' is a NoneType"),
        (np.ones(2, np.complex128), "'x' has dtype complex128, which safetensors does not have"),
        (np.array(["a"]), "'x' has dtype <U1"),
        (np.array([object()]), "'x' has dtype object"),
        (np.ones(2, ml_dtypes.int4), "'x' has dtype int4"),
    ],
    ids=["float", "dict", "None", "complex128", "str", "object", "int4"],
)
def test_values_that_are_no_arrays(path, value, match):
    path.write_bytes(b"old")
    with pytest.raises(TypeError, match=match):
        save({"ok": np.ones(2), "x": value}, path)
    assert path.read_bytes() == b"old"


def test_prng_keys(path):
    with pytest.raises(TypeError, match=r"'key' is a PRNG key; save its data, `jax\.random\.key_data\(key\)`"):
        save({"key": jax.random.key(0)}, path)


def test_names_and_metadata(path):
    for name in (3, "__metadata__", "half \ud800"):
        with pytest.raises(TypeError, match="cannot be the name of a tensor"):
            save({name: np.ones(2)}, path)
    with pytest.raises(TypeError, match="metadata must be a dict of str to str, got 'epoch': 3"):
        save({}, path, {"epoch": 3})
    for key in ("format", "jaxmodule.aliases"):
        with pytest.raises(ValueError, match="is taken"):
            save({}, path, {key: "mine"})
    save({"ä/ü.0": np.ones(2)}, path, {"format": "pt", "ключ": "значение"})
    assert list(load(path)) == ["ä/ü.0"]
    assert load_metadata(path) == {"ключ": "значение"}


def test_a_missing_file(path):
    for call in (load, load_metadata):
        with pytest.raises(FileNotFoundError, match=r"a\.safetensors"):
            call(path)


ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    ("header", "data", "match"),
    [
        (b"{not json", b"", "its header is no JSON"),
        (b'{"\xff": 1}', b"", "its header is no JSON"),
        ('{"a": 1}'.encode("utf-16-le"), b"", "its header is no JSON"),
        (b'{"a":' * 1000, b"", "its header is no JSON"),
        (b"{}[1]", b"", "its header is no JSON"),
        (b'{"a":1,"a":2}', b"", "a name occurs twice"),
        ({"__metadata__": {"a": 1}}, b"", "its metadata is not a dict of text"),
        ({"a": 3}, b"", "the header's entry of 'a' is 3"),
        ({"a": {"dtype": "F32"}}, b"", "the header's entry of 'a'"),
        ({"a": {**ENTRY, "shape": [-2]}}, b"", r"'a' has the shape \(-2,\)"),
        ({"a": {**ENTRY, "shape": [2.5]}}, b"", r"'a' has the shape \(2.5,\)"),
        ({"a": {**ENTRY, "shape": [True, 2]}}, b"", r"'a' has the shape \(True, 2\)"),
        ({"a": {**ENTRY, "shape": [1] * 65}}, b"", r"'a' has the shape \(1, 1, "),
        ({"a": {**ENTRY, "shape": [0, 1 << 62, 4], "data_offsets": [0, 0]}}, b"", "larger than any array"),
        ({"a": {**ENTRY, "shape": [[]]}}, b"", r"'a' has the shape \(\[\],\)"),
        (b'{"a":' + b"[]," * 100_000, b"", "nothing but brackets"),
        ({"a": {**ENTRY, "dtype": []}}, b"12345678", "the header's entry of 'a'"),
        ({"a": {**ENTRY, "dtype": "F4"}}, b"12345678", "'a' has dtype 'F4', which cannot be read"),
        ({"a": {**ENTRY, "shape": [3]}}, b"12345678", r"'a' of F32 \(3,\) has 8 bytes of data"),
        ({"a": ENTRY, "b": ENTRY}, b"12345678", "the data of 'b' starts at 0, not at 8"),
        ({"a": {**ENTRY, "data_offsets": [4, 12]}}, b"1" * 12, "the data of 'a' starts at 4, not at 0"),
        ({"a": ENTRY}, b"1234567", r"is cut off: \d+ bytes expected, \d+ there"),
        ({"a": ENTRY}, b"123456789", r"is damaged: \d+ bytes expected, \d+ there"),
        ({"a": ENTRY, "__metadata__": {"jaxmodule.aliases": '{"x": "y"}'}}, b"12345678", "'x' is stored as 'y'"),
        ({"a": ENTRY, "__metadata__": {"jaxmodule.aliases": "?"}}, b"12345678", "jaxmodule.aliases is no JSON"),
        ({"a": ENTRY, "__metadata__": {"jaxmodule.aliases": '{"x": []}'}}, b"12345678", r"'x' is stored as \[\]"),
        ({"a": ENTRY, "__metadata__": {"jaxmodule.aliases": '{"a": "a"}'}}, b"12345678", "'a' is stored twice"),
    ],
    ids=str,
)
def test_damaged_files(path, header, data, match):
    raw_file(path, header, data)
    with pytest.raises(FileFormatError, match=match) as error:
        load(path)
    assert str(path) in str(error.value)


def test_cut_off_anywhere(path):
    save({"a": jnp.arange(5.0), "b": jnp.ones((), jnp.bfloat16)}, path, {"k": "v"})
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(FileFormatError, match=r"is empty|is cut off|no header length"):
            load(path)


# -- whole or not at all ----------------------------------------------------------------------------------------------


class Broken:
    """The disk is full after the first tensor."""

    def __init__(self, monkeypatch):
        real, calls = st.to_numpy, []

        def fail(tensor):
            calls.append(tensor)
            if len(calls) == 2:
                raise OSError(28, "No space left on device")
            return real(tensor)

        monkeypatch.setattr(st, "to_numpy", fail)


def test_a_failing_write_leaves_the_old_file(path, monkeypatch):
    save({"a": jnp.ones(3)}, path)
    old = path.read_bytes()
    Broken(monkeypatch)
    with pytest.raises(OSError, match="No space left"):
        save({"a": jnp.zeros(3), "b": jnp.zeros(3)}, path)
    assert path.read_bytes() == old
    assert os.listdir(path.parent) == [path.name]


def test_a_failing_first_write_leaves_nothing(path, monkeypatch):
    Broken(monkeypatch)
    with pytest.raises(OSError, match="No space left"):
        save({"a": jnp.zeros(3), "b": jnp.zeros(3)}, path)
    assert os.listdir(path.parent) == []


def test_a_failing_replace_leaves_the_old_file(path, monkeypatch):
    save({"a": jnp.ones(3)}, path)
    old = path.read_bytes()

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(PermissionError, match="Permission denied"):
        save({"a": jnp.zeros(3)}, path)
    assert path.read_bytes() == old
    assert os.listdir(path.parent) == [path.name]


def test_on_disk_before_it_is_in_place(path, monkeypatch):
    events = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, name=name, real=real: (events.append(name), real(*a))[1])
    save({"a": jnp.ones(3)}, path)
    assert events == (["fsync", "replace", "fsync"] if os.name == "posix" else ["fsync", "replace"])


def test_through_a_symbolic_link(tmp_path):
    target, link = tmp_path / "real.safetensors", tmp_path / "link.safetensors"
    save({"a": jnp.ones(3)}, target)
    link.symlink_to(target)
    save({"a": jnp.zeros(3)}, link)
    assert link.is_symlink()
    assert_same(load(target)["a"], jnp.zeros(3))


def test_import_stays_light():
    code = "import sys, jaxmodule; print([m for m in ('safetensors', 'flax', 'rich', 'torch') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

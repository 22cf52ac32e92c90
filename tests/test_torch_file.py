"""torch's files without torch, from bytes made by hand: what is read, what is refused, and that nothing runs."""

import os
import struct
import subprocess
import sys
import zipfile
from collections import Counter, OrderedDict, defaultdict, namedtuple

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

import jaxmodule as jm
from jaxmodule import nn
from jaxmodule.io import FileFormatError, _pickle_machine, torch_file
from jaxmodule.io._torch_tensors import DTYPES
from jaxmodule.io.array_file import FileArray
from tests.torch_bytes import (
    Call,
    Name,
    Persistent,
    dump,
    legacy,
    tar_members,
    tarred,
    tensor,
    whole,
    zipped,
)

SIX = np.arange(6, dtype=np.float32)
RECORD = {"data/0": SIX.tobytes()}


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "a.pt")


def put(path: str, data: bytes) -> str:
    with open(path, "wb") as file:
        file.write(data)
    return path


def get(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def read(path: str, data: bytes):
    return torch_file.read(put(path, data))


def read_all(path: str, data: bytes):
    """Everything, tensors too."""
    return jm.load(put(path, data))


def refused(path: str, data: bytes, match: str) -> None:
    with pytest.raises(FileFormatError, match=match) as error:
        read_all(path, data)
    assert path in str(error.value)


# -- what is read ------------------------------------------------------------------------------------------------------


def test_a_state_dict(path):
    pickled = whole({"step": 3, "weight": tensor(size=(2, 3), stride=(3, 1)), "t": tensor(size=(3, 2), stride=(1, 3))})
    found = read(path, zipped(pickled, RECORD))
    assert found["step"] == 3
    assert isinstance(found["weight"], FileArray)
    assert found["weight"].strides is None
    assert found["t"][1].tolist() == [1, 4]
    loaded = jm.load(path)
    np.testing.assert_array_equal(loaded["weight"], SIX.reshape(2, 3))
    np.testing.assert_array_equal(loaded["t"], SIX.reshape(2, 3).T)


def test_the_same_elements_are_one_array(path):
    pickled = whole({"a": tensor(), "b": tensor(), "c": tensor(size=(3,)), "d": tensor(offset=3, size=(3,))})
    found = read(path, zipped(pickled, RECORD))
    assert found["a"] is found["b"]
    assert found["c"].read().tolist() == [0, 1, 2]
    assert found["d"].read().tolist() == [3, 4, 5]


@pytest.mark.parametrize("name", list(DTYPES))
@pytest.mark.parametrize("order", ["little", "big"])
def test_every_dtype_in_both_orders(path, name, order):
    dtype = DTYPES[name]
    raw = np.random.default_rng(0).integers(0, 2 if name == "bool" else 256, 12 * dtype.itemsize, np.uint8)
    array = raw.view(dtype).reshape(3, 4)
    half = dtype.itemsize // 2 if dtype.kind == "c" else dtype.itemsize
    stored = raw.tobytes() if order == "little" else raw.reshape(-1, half)[:, ::-1].tobytes()
    same = {"kind": "torch.storage.UntypedStorage", "dtype": f"torch.{name}", "numel": len(stored)}
    pickled = whole([tensor(size=(3, 4), stride=(4, 1), **same), tensor(size=(4, 3), stride=(1, 4), **same)])
    found = read(path, zipped(pickled, {"data/0": stored, "byteorder": order.encode()}))
    for got, want in zip(found, (array, array.T), strict=True):
        assert got.dtype == dtype
        assert got.read().dtype == dtype
        assert got.read().tobytes() == np.ascontiguousarray(want).tobytes()
        assert got[1:].tobytes() == np.ascontiguousarray(want[1:]).tobytes()


def test_conjugate_negative_and_complex32(path):
    z = np.array([1 + 2j, 3 - 4j], np.complex64)
    half = np.array([1, 2, 3, -4], np.float16)
    complexes = {"kind": "torch.ComplexFloatStorage", "numel": 2, "size": (2,)}
    pickled = whole(
        {
            "plain": tensor(**complexes),
            "conj": tensor(**complexes, bits={"conj": True}),
            "neg": tensor(**complexes, bits={"neg": True}),
            "c32": tensor(
                key="1", kind="torch.storage.UntypedStorage", dtype="torch.complex32", numel=8, size=(2,), stride=(1,)
            ),
        }
    )
    data = zipped(pickled, {"data/0": z.tobytes(), "data/1": half.tobytes()})
    found = read(path, data)
    for name, want in {"plain": z, "conj": z.conj(), "neg": -z, "c32": z}.items():
        np.testing.assert_array_equal(found[name].read(), want)
        assert found[name][1] == want[1]
        assert found[name].dtype == want.dtype
    big = half.byteswap().tobytes()
    data = zipped(pickled, {"data/0": z.byteswap().tobytes(), "data/1": big, "byteorder": b"big"})
    np.testing.assert_array_equal(read(path, data)["c32"].read(), z)
    np.testing.assert_array_equal(read(path, data)["conj"].read(), z.conj())


def test_containers_numbers_and_text(path):
    pickled = whole(
        {
            "set": Call("__builtin__.set", [1, "a"]),
            "frozen": Call("builtins.frozenset", [2]),
            "size": Call("torch.Size", (2, 3)),
            "device": Call("torch.device", "cuda", 1),
            "dtype": Name("torch.bfloat16"),
            "complex": Call("__builtin__.complex", 1.0, -2.0),
            "bytes": Call("_codecs.encode", "\xff\0", "latin1"),
            "counter": Call("collections.Counter", {"a": 2}),
            "default": Call("collections.defaultdict", Name("__builtin__.list")),
            "ordered": Call("collections.OrderedDict", [["b", 1], ["a", None]]),
            "nested": [(), [], {}, (1, [2, {"x": (True, False, 1.5, -(2**70))}])],
            7: "key",
            (1, "a"): "pair",
        }
    )
    assert read(path, zipped(pickled)) == {
        "set": {1, "a"},
        "frozen": frozenset([2]),
        "size": (2, 3),
        "device": "cuda:1",
        "dtype": np.dtype(ml_dtypes.bfloat16),
        "complex": 1 - 2j,
        "bytes": b"\xff\0",
        "counter": Counter({"a": 2}),
        "default": defaultdict(list),
        "ordered": OrderedDict(b=1, a=None),
        "nested": [(), [], {}, (1, [2, {"x": (True, False, 1.5, -(2**70))}])],
        7: "key",
        (1, "a"): "pair",
    }


def test_numpy_scalars_and_arrays(path):
    dtype = dump(Call("numpy.dtype", "f4", False, True)) + dump((3, ">", None, None, None, -1, -1, 0)) + b"b"
    raw = "".join(map(chr, np.array([1.5, 2.5], ">f4").tobytes()))
    data = dump(Call("_codecs.encode", raw, "latin1"))
    scalar = b"cnumpy.core.multiarray\nscalar\n" + dtype + dump(Call("_codecs.encode", raw[:4], "latin1")) + b"\x86R"
    made = dump(Call("numpy._core.multiarray._reconstruct", Name("numpy.ndarray"), (0,), b"b"))
    array = made + b"(K\x01" + dump((2,)) + dtype + b"\x89" + data + b"tb"
    found = read(path, zipped(b"\x80\x02](" + scalar + array + b"e."))
    assert found[0] == 1.5
    assert found[0].dtype == found[1].dtype == np.float32
    assert found[1].tolist() == [1.5, 2.5]


def test_python_2_counts_from_one_and_has_one_type_of_text(path):
    pickled = b"\x80\x02}q\x01(U\x01aq\x02h\x02U\x02\xff\xfeh\x02u."
    assert read(path, zipped(pickled)) == {"a": "a", b"\xff\xfe": "a"}


def test_a_file_without_checksums(path):
    data = bytearray(zipped(whole({"a": tensor()}), RECORD))
    at = 0
    with zipfile.ZipFile(put(path, bytes(data))) as file:
        at = file.start_dir
    while data[at : at + 4] == b"PK\x01\x02":
        data[at + 16 : at + 20] = b"\0" * 4  # as torch.serialization.set_crc32_options(False) leaves them
        at += 46 + sum(struct.unpack_from("<3H", data, at + 28))
    assert read_all(path, bytes(data))["a"].tolist() == SIX.tolist()


def test_legacy(path):
    obj = {"a": tensor(key="77", part=None), "b": tensor(key="77", part=("78", 2, 4), numel=6, size=(4,)), "n": [1]}
    found = read_all(path, legacy(obj, ["77"], {"77": (6, SIX.tobytes())}))
    assert found["a"].tolist() == SIX.tolist()
    assert found["b"].tolist() == [2, 3, 4, 5]
    assert found["n"] == [1]


TAR = tar_members(
    {"w": Persistent("11"), "v": Persistent("12"), "lr": 0.5},
    {1: ("Float", 6, SIX.tobytes()), 2: ("Double", 1, np.float64(7).tobytes())},
    {11: (1, (3, 2), (1, 3), 0), 12: (3, (2,), (1,), 1)},
    ((3, 1, 2, 3),),
)


def test_tar(path):
    found = read_all(path, tarred(TAR))
    assert found["w"].tolist() == SIX.reshape(2, 3).T.tolist()
    assert found["v"].tolist() == [3, 4]
    assert found["lr"] == 0.5


# -- what is refused: code ---------------------------------------------------------------------------------------------

EVIL = "import os; os.mkdir('owned')"
CODE = {
    "GLOBAL": (whole(Call("os.system", "mkdir owned")), "'os.system' is needed for it, which is no plain data"),
    "posix": (whole(Call("posix.system", "mkdir owned")), "'posix.system' is needed"),
    "eval": (whole(Call("builtins.eval", EVIL)), "'builtins.eval' is needed"),
    "py2": (whole(Call("__builtin__.exec", EVIL)), "'__builtin__.exec' is needed"),
    "STACK_GLOBAL": (b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x0cmkdir owned\x85R.", "'os.system' is needed"),
    "dotted": (b"\x80\x04\x8c\x05torch\x8c\x10Size.__class__.x\x93.", "'torch.Size.__class__.x' is needed"),
    "INST": (b"\x80\x02(K\x01ios\nsystem\n.", "the opcode INST, which calls a name"),
    "OBJ": (b"(cos\nsystem\nX\x0b\0\0\0mkdir ownedo.", "'os.system' is needed"),
    "OBJ of a known name": (b"(ccollections\nOrderedDict\no.", "the opcode OBJ, which calls a name"),
    "NEWOBJ_EX": (b"\x80\x04ccollections\nOrderedDict\n)}\x92.", "the opcode NEWOBJ_EX"),
    "EXT1": (b"\x80\x02\x82\x01.", "the opcode EXT1"),
    "EXT2": (b"\x80\x02\x83\x01\0.", "the opcode EXT2"),
    "EXT4": (b"\x80\x02\x84\x01\0\0\0.", "the opcode EXT4"),
    "PERSID": (b"Pname\n.", "the opcode PERSID"),
    "a torch function": (whole(Call("torch._utils._import_dotted_name", "os.system")), "'torch._utils._import_dotted"),
    "torch.load": (whole(Call("torch.load", "x")), "'torch.load' is needed"),
    "a module": (whole(Call("torch.nn.modules.linear.Linear", 1, 1)), r"rather than the model"),
    "getattr": (whole(Call("builtins.getattr", Name("torch.Size"), "x")), "'builtins.getattr' is needed"),
    "call of a class": (whole(Call("torch.FloatStorage", 9**9)), "it calls a StorageType"),
    "call of a call": (b"\x80\x02" + dump(Call("torch.Size", (1,))) + b")R.", "it calls a tuple"),
    "list()": (whole(Call("builtins.list", [1])), "it calls a builtins.list"),
    "bytearray(n)": (whole(Call("builtins.bytearray", 10**12)), "a bytearray of no bytes"),
    "BUILD": (b"\x80\x02]}X\x0c\0\0\0__setstate__K\x01sb.", "it sets the state of a list, which has none"),
    "BUILD of a class": (b"\x80\x02ctorch\nSize\n}b.", "it sets the state of a torch.Size"),
    "BUILD over a method": (
        b"\x80\x02" + dump(Call("collections.OrderedDict")) + dump({"items": 1}) + b"b.",
        "the state of an OrderedDict",
    ),
    "a name as data": (whole([Name("torch._utils._rebuild_tensor_v2")]), "it holds torch._utils._rebuild_tensor_v2"),
    "a bare storage": (whole(Persistent("storage", Name("torch.FloatStorage"), "0", "cpu", 6)), "a bare storage"),
    "persistent text": (whole(Persistent("x")), "refers to something that is no storage"),
    "persistent module": (whole(Persistent("module", 1, 2, 3, 4)), "refers to something that is no storage"),
    "persistent list": (b"\x80\x02]Q.", "refers to something that is no storage"),
    "persistent of odd types": (whole(Persistent("storage", 1, 2, 3, 4)), "a storage without type, name or size"),
    "quantized": (whole(Call("torch._utils._rebuild_qtensor", 1)), r"quantized tensor.*dequantize"),
    "quantized storage": (whole(Name("torch.QInt8Storage")), r"quantized tensor.*dequantize"),
    "sparse": (whole(Call("torch._utils._rebuild_sparse_tensor", 1)), r"sparse tensor.*to_dense"),
    "nested": (whole(Call("torch._utils._rebuild_nested_tensor", 1)), r"nested tensor.*unbind"),
    "meta": (whole(Call("torch._utils._rebuild_meta_tensor_no_storage", 1)), r"meta device, which has no values"),
    "subclass": (whole(Call("torch._utils._rebuild_wrapper_subclass", 1)), r"a class of its own"),
    "bits8": (whole(tensor(kind="torch.UntypedStorage", dtype="torch.bits8")), "dtype torch.bits8, which JAX does not"),
    "int4": (whole(tensor(kind="torch.UntypedStorage", dtype="torch.int4")), "dtype torch.int4, which JAX does not"),
    "object array": (whole(Call("numpy.dtype", "O8", False, True)), "a numpy dtype that is no number"),
}


@pytest.mark.parametrize("name", CODE)
def test_code_is_refused(path, name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    pickled, match = CODE[name]
    refused(path, zipped(pickled, RECORD), match)
    magic = whole(0x1950A86A20F9469CFC6C) + whole(1001) + whole({})
    refused(path, magic + pickled, "is refused|is damaged|does not have|is cut off")
    assert not os.path.exists("owned")


# -- what is refused: numbers ------------------------------------------------------------------------------------------

STORAGE = "a tensor of shape .* is not inside its storage '0'"
COUNTS = "shape, strides or offset of a tensor in storage '0' are no counts"
NUMBERS = {
    "size": (tensor(size=(7,)), STORAGE),
    "offset": (tensor(offset=1), STORAGE),
    "stride": (tensor(size=(3,), stride=(3,)), STORAGE),
    "huge": (tensor(size=(2**62,) * 60, stride=(0,) * 60), COUNTS),
    "2**63": (tensor(size=(2**63,)), COUNTS),
    "negative": (tensor(size=(-1,)), COUNTS),
    "negative stride": (tensor(stride=(-1,), offset=5), COUNTS),
    "negative offset": (tensor(offset=-1), COUNTS),
    "float": (tensor(size=(2.0,)), COUNTS),
    "bool": (tensor(size=(True,)), COUNTS),
    "ranks": (tensor(size=(2, 3)), COUNTS),
    "a list": (tensor(size=[6]), COUNTS),
    "many dimensions": (tensor(size=(1,) * 65, stride=(1,) * 65), COUNTS),
    "empty and huge": (tensor(size=(0, 2**62, 2**62), stride=(1, 1, 1)), COUNTS),
    "no such storage": (tensor(key="1"), "its record '1' is not there"),
    "storage too large": (tensor(numel=7), "its record '0' has 24 bytes, too few"),
    "two sizes": ([tensor(), tensor(numel=5, size=(5,))], "storage '0' has two sizes"),
    "expanded": (tensor(size=(2**40,), stride=(0,)), r"takes more than 256 MiB of memory"),
    "unknown bits": (tensor(bits={"x": True}), "unknown metadata"),
    "no storage": (Call("torch._utils._rebuild_tensor_v2", 1, 0, (), (), False, None), "a tensor without a storage"),
    "a parameter of nothing": (Call("torch._utils._rebuild_parameter", 1, True, None), "a Parameter of no tensor"),
    "too few arguments": (Call("torch._utils._rebuild_tensor_v2"), "cannot be read at byte"),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_tensors_outside_of_their_storage(path, name):
    obj, match = NUMBERS[name]
    refused(path, zipped(whole(obj), RECORD), match)


def test_expanded_within_reason(path):
    found = read_all(path, zipped(whole(tensor(size=(1000, 6), stride=(0, 1))), RECORD))
    np.testing.assert_array_equal(found, np.broadcast_to(SIX, (1000, 6)))


def deep(n: int) -> bytes:
    return b"\x80\x02" + b"]" * n + b"a" * (n - 1) + b"."


SHAPES = {
    "100,000 lists": (deep(100_000), "nested more than 100 deep"),
    "100,000 tuples": (b"\x80\x02)" + b"\x85" * 100_000 + b".", "nested more than 100 deep"),
    "deep key": (b"\x80\x02})" + b"\x85" * 100_000 + b"K\x01s.", "a tuple is a key in it"),
    "deep element": (b"\x80\x02c__builtin__\nset\n])" + b"\x85" * 100_000 + b"a\x85R.", "a set of something"),
    "a list in itself": (b"\x80\x02]q\0h\0a.", "cyclic: a container is inside itself"),
    "a dict in itself": (b"\x80\x02}q\0K\x01]q\x01h\0as.", "cyclic"),
    "a state in itself": (
        b"\x80\x02ccollections\nOrderedDict\n)Rq\0}X\x09\0\0\0_metadatah\0sb.",
        "cyclic",
    ),
    "a list as key": (b"\x80\x02}]K\x01s.", "a list is a key in it"),
    "long text": (b"\x80\x04\x8d" + struct.pack("<Q", 2**62) + b".", "is cut off: its pickle goes on for"),
    "long integer": (b"\x80\x02\x8b\xff\xff\xff\x7f1.", "is cut off"),
    "negative integer": (b"\x80\x02\x8b\xff\xff\xff\xff1.", "is cut off"),
    "long frame": (b"\x80\x04\x95" + b"\xff" * 8 + b"N.", "a frame of its pickle is longer"),
    "memo far away": (b"\x80\x02Nr\xff\xff\xff\xff.", "memo entry 4294967295 after 0"),
    "memo of nothing": (b"\x80\x02h\0.", "no memo entry 0"),
    "no mark": (b"\x80\x02t.", "cannot be read"),
    "empty stack": (b"\x80\x02\x85.", "a tuple of more than there is"),
    "two objects": (b"\x80\x02NN.", "does not end with one object"),
    "nothing": (b"\x80\x02.", "does not end with one object"),
    "no end": (b"\x80\x02N", "its pickle does not end"),
    "more behind": (b"\x80\x02N.N.", "2 bytes follow the end of its pickle"),
    "protocol 9": (b"\x80\x09N.", "a protocol of pickle that does not exist"),
    "unknown opcode": (b"\x80\x02\xee.", "no opcode 0xee"),
    "wrong UTF-8": (b"\x80\x02X\x01\0\0\0\xff.", "cannot be read"),
    "odd items": (b"\x80\x02}(K\x01u.", "items for a dict"),
    "items for a list": (b"\x80\x02]K\x01K\x01s.", "items for a list"),
    "appended to a dict": (b"\x80\x02}K\x01a.", "items for a dict"),
}


@pytest.mark.parametrize("name", SHAPES)
def test_pickles_that_are_no_data(path, name):
    pickled, match = SHAPES[name]
    refused(path, zipped(pickled), match)


def test_a_hundred_bytes_that_would_be_a_billion_lists(path):
    pickled = b"\x80\x02]q\0"
    for i in range(60):
        pickled += b"0](h%ch%ceq%c" % (i, i, i + 1)
    refused(path, zipped(pickled + b"."), "the same few containers are in each other again and again")


def test_small_opcodes_make_no_large_objects(path, monkeypatch):
    monkeypatch.setattr(_pickle_machine, "_SLACK", 16 << 20)
    for opcode in (b"\x8f", b"]", b"}"):
        refused(path, zipped(b"\x80\x04" + opcode * 250_000), "takes more than 16 MiB of memory")


# -- what is refused: files --------------------------------------------------------------------------------------------

GOOD = zipped(whole({"a": tensor(), "n": [1, 2.5, "text"]}), RECORD)


def test_other_files(path, tmp_path):
    refused(path, b"", "is empty")
    with pytest.raises(FileFormatError, match="is no file of torch.save: it starts with"):
        read(path, b"hello, world")
    refused(path, whole([1, 2]), "is a pickle, but not of torch.save")
    refused(path, zipped(whole(1)).replace(b"data.pkl", b"dada.pkl"), "but not of torch.save: it has no data.pkl")
    refused(path, zipped(whole(1), {"constants.pkl": b"x"}), r"TorchScript.*torch\.save\(model\.state_dict\(\), path\)")
    refused(path, zipped(whole(1), {".data/extern_modules": b"x"}), "a package of torch.package")
    refused(path, zipped(whole(1), {"archive_format": b"pt2"}), "a program of torch.export")
    refused(path, zipped(whole(1), {"byteorder": b"middle"}), "its byteorder is neither little nor big")
    (tmp_path / ".metadata").write_bytes(b"x")
    with pytest.raises(FileFormatError, match="torch.distributed.checkpoint.*dcp_to_torch_save"):
        torch_file.read(str(tmp_path))
    (tmp_path / "f").mkdir()
    with pytest.raises(FileFormatError, match="is a folder"):
        torch_file.read(str(tmp_path / "f"))
    with pytest.raises(FileNotFoundError):
        torch_file.read(str(tmp_path / "none.pt"))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_zip_files_that_are_none(path):
    refused(path, zipped(whole(1), compress=zipfile.ZIP_DEFLATED), r"is compressed.*zip -0")
    bomb = zipped(whole(1), {"data/0": b"\0" * 10_000_000}, compress=zipfile.ZIP_DEFLATED)
    refused(path, bomb, r"is compressed")
    for name in ("/../evil", "/archive/../../evil", "//etc/passwd", "/archive/a\\b", "/C:/x", "/archive//x"):
        refused(path, zipped(whole(1), {name: b"x"}), "leads out of the file|not where its zip directory says")
    double = zipped(whole(1), {"data/0": b"x", "data/1": b"y"}).replace(b"data/1", b"data/0")
    refused(path, double, "it has two records 'archive/data/0'")
    refused(path, GOOD.replace(b"PK\x05\x06", b"PK\x05\x07"), "directory is at its end, and is not there")
    refused(path, GOOD + b"more", "directory is at its end, and is not there")
    refused(path, b"PK\x03\x04" + GOOD, "its zip directory is not where it should be")
    refused(path, GOOD.replace(b"PK\x03\x04", b"PK\x03\x05"), "is no file|not where its zip directory says|starts with")


def central(data: bytes, name: bytes) -> int:
    """Where a record's entry in the directory begins."""
    at = data.rfind(b"PK\x05\x06")
    at = struct.unpack_from("<I", data, at + 16)[0]
    while True:
        n, m, k = struct.unpack_from("<3H", data, at + 28)
        if data[at + 46 : at + 46 + n] == name:
            return at
        at += 46 + n + m + k


def test_a_directory_that_lies(path):
    entry = central(GOOD, b"archive/data/0")
    other = central(GOOD, b"archive/data.pkl")

    def changed(offset: int, value: bytes, start: int = entry) -> bytes:
        out = bytearray(GOOD)
        out[start + offset : start + offset + len(value)] = value
        return bytes(out)

    where = GOOD[other + 42 : other + 46]
    refused(path, changed(42, where), "not where its zip directory says")
    refused(path, changed(42, b"\xff\xff\xff\xff"), "the size of its record .* is not there")
    refused(path, changed(42, b"\xff\xff\xff\x00"), "not where its zip directory says")
    refused(path, changed(20, struct.pack("<2I", 23, 24)), "has two sizes")
    refused(path, changed(20, struct.pack("<2I", 23, 23)), "has 23 bytes, too few")
    refused(path, changed(20, struct.pack("<2I", 4000, 4000)), "not where its zip directory says")
    refused(path, changed(20, struct.pack("<2I", 60, 60), other), "its record .* overlaps another|checksum")
    refused(path, changed(8, b"\x01"), "is encrypted")
    refused(path, changed(16, b"\0\0\0\1"), r"the checksum of 'archive/data/0' is")
    refused(path, changed(16, b"\0\0\0\1", other), r"the checksum of 'archive/data.pkl' is")
    end = GOOD.rfind(b"PK\x05\x06")
    refused(path, changed(8, struct.pack("<2H", 9, 9), end), "directory has 9 entries, not all|9 records do not fit")
    refused(path, changed(8, struct.pack("<2H", 3, 3), end), "has more than 3 entries")
    refused(path, changed(8, struct.pack("<2H", 65535, 65535), end), "65535 records do not fit")
    refused(path, changed(4, b"\1", end), "one part of a zip file of several")


def test_overlapping_records(path):
    # Two local headers, the second inside the first's data.
    inner = struct.pack("<4s5H3I2H", b"PK\x03\x04", 20, 0, 0, 0, 0x21, 0, 4, 4, 14, 0) + b"archive/data/1" + b"abcd"
    data = zipped(whole(1), {"data/0": inner, "data/1": b"abcd"})
    entry = central(data, b"archive/data/1")
    out = bytearray(data)
    out[entry + 42 : entry + 46] = struct.pack("<I", data.find(inner))
    refused(path, bytes(out), "its record 'archive/data/1' overlaps another")


def test_cut_off_anywhere(path):
    for size in range(len(GOOD)):
        refused(path, GOOD[:size], r"is empty|is cut off|is damaged|is no file|of no format")


def test_legacy_cut_off_anywhere(path):
    data = legacy({"a": tensor(part=None)}, ["0"], {"0": (6, SIX.tobytes())})
    assert read_all(path, data)["a"].tolist() == SIX.tolist()
    for size in (0, *range(2, len(data))):  # one byte, 0x80, is all of an empty msgpack file
        refused(path, data[:size], r"is empty|is cut off|is damaged|is no file|is a pickle|of no format")


def test_tar_cut_off_anywhere(path):
    data = tarred(TAR)
    end = data.rstrip(b"\0")
    for size in [*range(2, 600, 3), *range(600, len(end), 11)]:
        refused(path, data[:size], "is empty|is cut off|is damaged|it has no|is no file|of no format")


def test_every_bit_of_a_zip_file(path):
    whole_value = read_all(path, GOOD)["a"].tolist()
    for at in range(0, len(GOOD) * 8, 5):
        data = bytearray(GOOD)
        data[at // 8] ^= 1 << at % 8
        try:
            found = read_all(path, bytes(data))
        except FileFormatError:
            continue
        assert found["a"].tolist() == whole_value
        assert found["n"] == [1, 2.5, "text"]
        assert set(found) == {"a", "n"}


def test_parts_of_a_damaged_record(path):
    obj = {"a": tensor(size=(3,)), "t": tensor(size=(3, 2), stride=(1, 3))}
    data = zipped(whole(obj), RECORD)
    at = data.find(RECORD["data/0"])
    found = read(path, data[: at + 23] + b"\x17" + data[at + 24 :])
    for name in ("a", "t"):
        with pytest.raises(FileFormatError, match="the checksum of 'archive/data/0'"):
            found[name].read()
    assert found["a"][0] == 0  # a part is not checked


def test_legacy_files_that_are_none(path):
    ok = {"0": (6, SIX.tobytes())}
    obj = {"a": tensor(part=None)}
    refused(path, legacy(obj, ["0"], ok, magic=7), "but not of torch.save")
    refused(path, legacy(obj, ["0", "0"], ok), "the list of its storages is not")
    refused(path, legacy(obj, ["0", "1"], {**ok, "1": (0, b"")}), "the list of its storages is not")
    refused(path, legacy(obj, [], {}), "the list of its storages is not")
    refused(path, legacy(obj, ["0"], {"0": (5, SIX.tobytes())}), "has another size")
    refused(path, legacy(obj, ["0"], {"0": (6, SIX.tobytes() + b"x")}), "1 bytes follow its last storage")
    refused(path, legacy(obj, ["0"], {"0": (6, SIX.tobytes()[:-1])}), "is cut off: ")
    refused(path, legacy({"a": Persistent("module", 1, 2, 3)}, [], {}), "it holds a whole model")
    refused(path, legacy([tensor(part=("1", 4, 3))], ["0"], ok), "a view is not inside storage '0'")
    refused(path, legacy([tensor(part=("1", -1, 3))], ["0"], ok), "a view is not inside storage '0'")
    refused(path, legacy([tensor(part=3)], ["0"], ok), "part of storage '0' is nowhere")
    two = [tensor(part=None), tensor(part=None, kind="torch.IntStorage")]
    refused(path, legacy(two, ["0"], ok), "storage '0' has two sizes or types")


def test_tar_files_that_are_none(path):
    refused(path, tarred({**TAR, "../evil": b"x"}), "has the members .* this one '../evil'")
    refused(path, tarred({"pickle": b"x"}), "it has no tensors, storages")
    refused(path, tarred(TAR)[:2560] + tarred(TAR), "two members|damaged|cut off")
    broken = bytearray(tarred(TAR))
    broken[0] ^= 1
    refused(path, bytes(broken), "a header of the tar file is")
    kinds = {1: ("Float", 6, SIX.tobytes())}
    refused(path, tarred(tar_members({"a": Persistent("9")}, kinds, {})), "a tensor that is not there")
    refused(path, tarred(tar_members({"a": Persistent(None, 1, 2)}, kinds, {})), "it holds a whole model")
    outside = tar_members({"a": Persistent("2")}, kinds, {2: (1, (7,), (1,), 0)})
    refused(path, tarred(outside), "is not inside its storage '1'")
    refused(path, tarred(tar_members({}, kinds, {2: (8, (7,), (1,), 0)})), "a tensor has no storage")
    refused(path, tarred(tar_members({}, {1: ("Float", 2**40, b"")}, {})), "storage 1 is larger than the file")
    refused(path, tarred(tar_members({}, kinds, {}, ((2, 1, 5, 5),))), "a view is not inside")
    refused(path, tarred(tar_members({}, kinds, {}, ((2, 7, 0, 1),))), "of one that is not there")
    table = whole(1) + whole((5, 1, Name("torch.FloatTensor"))) + struct.pack("<ii", 2**30, 0)
    refused(path, tarred({**TAR, "tensors": table}), "a tensor has 1073741824 dimensions")


# -- writing -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(DTYPES))
def test_round_trip_of_every_dtype(path, name):
    dtype = DTYPES[name]
    raw = np.random.default_rng(0).integers(0, 2 if name == "bool" else 256, 12 * dtype.itemsize, np.uint8)
    array = raw.view(dtype).reshape(3, 4)
    values = {
        "c": array,
        "t": array.T,
        "step": array[::2, ::-1],
        "none": array[:0],
        "scalar": array[1, 2],
        "x": array[0],
    }
    if jax.dtypes.canonicalize_dtype(dtype) == dtype:
        values["jax"] = jnp.asarray(array)
    torch_file.write(values, path)
    for key, found in torch_file.read(path).items():
        want = np.ascontiguousarray(values[key]).reshape(np.shape(values[key]))
        assert (found.dtype, found.shape) == (want.dtype, want.shape)
        assert found.read().tobytes() == want.tobytes()


def test_round_trip_of_containers(path):
    value = {
        "list": [1, -1, 2**31, -(2**40), 2**100, 0.1, "ä\ud800", b"\0\xff", bytearray(b"x"), None, True, 1j],
        "nested": ({"a": [(), {}, [], set()]}, {1, "b", (2, 3)}),
        "ordered": OrderedDict(z=1, a=2),
        "counter": Counter("aab"),
        "dtype": np.dtype(ml_dtypes.bfloat16),
        3: "three",
        (1, None, 2.5): "tuple",
        "long": "x" * 1000,
        "many": {str(i): i for i in range(1000)},
    }
    torch_file.write(value, path)
    found = torch_file.read(path)
    assert found == value
    assert [type(item) for item in found["list"]] == [type(item) for item in value["list"]]
    assert isinstance(found["ordered"], OrderedDict)
    assert isinstance(found["counter"], Counter)
    for alone in (None, 3, "text", [], np.float32(2)):
        torch_file.write(alone, path)
        got = torch_file.read(path)
        assert (got.read() if isinstance(got, FileArray) else got) == alone


def test_a_model_and_tied_weights(path):
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 3))
    model[2].weight = model[0].weight
    state = model.state_dict()
    jm.save(state, path)
    found = torch_file.read(path)
    assert found["0.weight"] is found["2.weight"]
    assert found._metadata == state._metadata
    loaded = jm.load(path)
    assert list(loaded) == list(state)
    assert loaded._metadata == state._metadata
    nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 3)).load_state_dict(loaded)
    first = get(path)
    jm.save(state, path)
    assert get(path) == first  # nothing in it of the time or the process
    jm.save(jm.load(path, mmap=True), path)  # out of the file that it replaces
    assert get(path) == first


def test_boxes_and_views(path):
    base = np.arange(12, dtype=np.float32)
    values = {"box": nn.Parameter(jnp.ones(2)), "a": base[:6], "b": base[6:], "a again": base[:6]}
    torch_file.write(values, path)
    found = torch_file.read(path)
    assert found["a"] is found["a again"]
    assert found["a"] is not found["b"]
    assert found["b"].read().tolist() == base[6:].tolist()


def test_records_are_aligned_and_the_file_is_a_zip(path):
    torch_file.write({"a": np.ones(3, np.int8), "b": np.ones((2, 5)), "c": "text"}, path)
    with zipfile.ZipFile(path) as file:
        assert file.testzip() is None
        for entry in file.infolist():
            file.fp.seek(entry.header_offset + 26)
            n, m = struct.unpack("<2H", file.fp.read(4))
            assert (entry.header_offset + 30 + n + m) % 64 == 0
    for array in ("a", "b"):
        assert torch_file.read(path)[array].offset % 64 == 0


def test_zip64(path, monkeypatch):
    monkeypatch.setattr(torch_file, "_MAX16", 4)
    monkeypatch.setattr(torch_file, "_MAX32", 500)
    value = {"a": np.arange(1000, dtype=np.int32), "b": np.arange(10, dtype=np.int32)}
    # The reader takes 2**32 - 1 for "elsewhere": write that where the real limit would.
    real = struct.pack

    def pack(form, *fields):
        if form.startswith(("<4s5H3I", "<4s6H3I", "<4s4H2I")):
            fields = tuple(0xFFFFFFFF if f == 500 else f for f in fields)
        return real(form, *fields)

    monkeypatch.setattr(torch_file.struct, "pack", pack)
    torch_file.write(value, path)
    monkeypatch.undo()
    with zipfile.ZipFile(path) as file:
        assert file.testzip() is None
    for name, array in torch_file.read(path).items():
        np.testing.assert_array_equal(array.read(), value[name])


class Odd:
    pass


Point = namedtuple("Point", "x y")


@pytest.mark.parametrize(
    ("value", "match"),
    [
        ({"a": [1, Odd()]}, r"obj\['a'\]\[1\] is a Odd, which torch.load\(weights_only=True\) does not take"),
        ({"a": defaultdict(list)}, r"obj\['a'\] is a defaultdict.*make it a dict"),
        ({"a": (frozenset([1]),)}, r"obj\['a'\]\[0\] is a frozenset"),
        ({"a": Point(1, 2)}, r"obj\['a'\] is a Point.*make it a tuple"),
        (nn.Linear(2, 2), r"it is a Linear.*save its state_dict\(\)"),
        ({Odd: 1}, r"the key \[.*Odd.*\] is a type"),
        ({"a": np.array(["x"])}, r"obj\['a'\] has dtype <U1, which cannot be saved"),
        ({"a": np.ones(2, ml_dtypes.int4)}, r"obj\['a'\] has dtype int4"),
        ({"a": 2**3000}, r"obj\['a'\] is an integer of 376 bytes"),
        ({"a": jax.random.key(0)}, r"obj\['a'\] is a PRNG key; save its data, `jax\.random\.key_data\(key\)`"),
        ({"a": jax.ShapeDtypeStruct((2,), jnp.float32)}, r"obj\['a'\] is a meta tensor"),
        ({"a": np.float32}, r"obj\['a'\] is a type"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_written(path, value, match):
    put(path, b"old")
    with pytest.raises(TypeError, match=match) as error:
        torch_file.write(value, path)
    assert path in str(error.value)
    assert get(path) == b"old"


def test_cycles_cannot_be_written(path):
    value: list = [1]
    value.append({"again": value})
    with pytest.raises(TypeError, match="is nested more than 100 deep, or inside itself"):
        torch_file.write(value, path)


def test_tracers_cannot_be_written(path):
    def save(x):
        torch_file.write({"a": x}, path)
        return x

    with pytest.raises(TypeError, match=r"obj\['a'\] is traced"):
        jax.jit(save)(jnp.ones(2))


def test_one_array_on_the_host_at_a_time(path):
    code = f"""
import resource, numpy as np, jax.numpy as jnp
from jaxmodule.io import torch_file
import jaxmodule as jm
torch_file.write({{str(i): np.full((8 << 20,), i, np.float32) for i in range(1)}}, {path!r})
arrays = {{str(i): jnp.full((8 << 20,), i, jnp.float32) for i in range(8)}}
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
torch_file.write(arrays, {path!r})
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 80  # MiB: 32 an array, 256 all of them

"""torch's files against torch: what it writes is read, what is written it reads with weights_only=True."""

import io
import warnings
import zipfile
from collections import Counter, OrderedDict

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import jaxmodule as jm
from jaxmodule import nn
from jaxmodule.io import FileFormatError, torch_file
from jaxmodule.io._torch_tensors import DTYPES
from jaxmodule.io.array_file import FileArray
from tests.torch_bytes import MAGIC, Name, dump, tar_members, tarred, whole, zipped
from tests.torch_bytes import tensor as pickled_tensor

NAMES = list(DTYPES)
FORMATS = pytest.mark.parametrize("zipfile_format", [True, False], ids=["zip", "legacy"])


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "a.pt")


def sample(dtype: torch.dtype, shape: tuple[int, ...] = (3, 4)) -> torch.Tensor:
    size = int(np.prod(shape)) * dtype.itemsize
    raw = np.random.default_rng(0).integers(0, 2 if dtype == torch.bool else 256, size, np.uint8)
    return torch.from_numpy(raw.copy()).view(dtype).reshape(shape) if size else torch.empty(shape, dtype=dtype)


def raw(tensor) -> bytes:
    if isinstance(tensor, torch.Tensor):
        tensor = tensor.detach().resolve_conj().resolve_neg().contiguous()
        return tensor.reshape(-1).view(torch.uint8).numpy().tobytes()
    array = tensor.read() if isinstance(tensor, FileArray) else np.asarray(tensor)
    return np.ascontiguousarray(array).tobytes()


def same(ours, theirs) -> None:
    """The same structure, with the same bits in it."""
    if isinstance(theirs, torch.Tensor):
        assert tuple(ours.shape) == tuple(theirs.shape)
        assert str(ours.dtype) == str(theirs.dtype).removeprefix("torch.")
        assert raw(ours) == raw(theirs)
    elif isinstance(theirs, torch.Size):
        assert ours == tuple(theirs)
    elif isinstance(theirs, torch.dtype):
        assert str(ours) == str(theirs).removeprefix("torch.")
    elif isinstance(theirs, torch.device):
        assert ours == str(theirs)
    elif isinstance(theirs, dict):
        assert type(ours) is type(theirs)
        assert list(ours) == list(theirs)
        for key in theirs:
            same(ours[key], theirs[key])
        if hasattr(theirs, "_metadata"):
            assert ours._metadata == theirs._metadata
    elif isinstance(theirs, list | tuple):
        assert type(ours) is type(theirs)
        assert len(ours) == len(theirs)
        for a, b in zip(ours, theirs, strict=True):
            same(a, b)
    elif isinstance(theirs, np.ndarray | np.generic):
        assert type(ours) is type(theirs)
        np.testing.assert_array_equal(ours, theirs)
    else:
        assert type(ours) is type(theirs)
        assert ours == theirs


def views(base: torch.Tensor) -> dict[str, torch.Tensor]:
    """Every way a tensor can lie in a storage."""
    return {
        "whole": base,
        "transposed": base.T,
        "rows": base[1:],
        "columns": base[:, 1:3],
        "steps": base[::2, ::3],
        "scalar": base[1, 2],
        "empty": base[:0],
        "empty columns": base[:, 4:],
        "expanded": base[:, :1].expand(3, 7),
        "expanded scalar": base[2, 1].expand(2, 3),
        "as strided": base.reshape(-1).as_strided((3, 3), (2, 1), 1),
        "one more dimension": base[:, None],
        "permuted": base.reshape(3, 2, 2).permute(2, 0, 1),
        "diagonal": base.diagonal(),
        "again": base[1:],
    }


# -- torch's files, read ----------------------------------------------------------------------------------------------


@FORMATS
@pytest.mark.parametrize("name", NAMES)
def test_every_dtype_and_stride(path, name, zipfile_format):
    tensors = views(sample(getattr(torch, name)))
    tensors["no dimension"] = sample(getattr(torch, name), ())
    tensors["nothing"] = sample(getattr(torch, name), (2, 0, 3))
    torch.save(tensors, path, _use_new_zipfile_serialization=zipfile_format)
    found = torch_file.read(path)
    same(found, tensors)
    assert found["again"] is found["rows"]
    for key, tensor in tensors.items():
        if tensor.ndim and tensor.shape[0]:
            assert found[key][0].tobytes() == raw(tensor[0])
    loaded = jm.load(path)
    assert loaded["again"] is loaded["rows"]
    assert {key: raw(value) for key, value in loaded.items()} == {key: raw(value) for key, value in tensors.items()}
    with jax.enable_x64(True):
        assert isinstance(jm.load(path)["whole"], jax.Array)


@FORMATS
def test_containers(path, zipfile_format):
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    optimizer = torch.optim.AdamW(model.parameters(), amsgrad=True)
    model(torch.ones(4, 2)).sum().backward()
    optimizer.step()
    value = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 2).state_dict(),
        "rng": torch.get_rng_state(),
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "buffer": torch.nn.Buffer(torch.ones(2)),
        "size": torch.ones(2, 3).shape,
        "dtype": torch.bfloat16,
        "device": [torch.device("cpu"), torch.device("cuda", 1)],
        "numbers": [0, 1, -1, 255, 256, 65536, 2**31, -(2**40), 2**100, 0.1, float("inf"), 1 + 2j, True, False, None],
        "text": ["", "ä", "\udcff", "x" * 300],
        "bytes": [b"", b"\0\xff", bytearray(b"abc")],
        "sets": [set(), {1, "a", (2, 3)}, frozenset([4])],
        "counter": Counter("aab"),
        "ordered": OrderedDict(z=1, a=torch.ones(1)),
        "numpy": [np.float32(1.5), np.int64(3), np.bool_(True), np.arange(6.0).reshape(2, 3).T, np.ones(0, np.int8)],
        "nested": [[], {}, (), (1, (2, [3, {"a": (torch.ones(2),)}]))],
        7: {(1, "a"): 2.5, None: 1},
    }
    torch.save(value, path, _use_new_zipfile_serialization=zipfile_format)
    same(torch_file.read(path), value)


@FORMATS
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_protocols_of_pickle(path, protocol, zipfile_format):
    value = {"a": torch.ones(2, 3).T, "n": [b"x", bytearray(b"y"), 2**80, {1}, frozenset([2]), (1, 2, 3, 4), "t" * 300]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save(value, path, pickle_protocol=protocol, _use_new_zipfile_serialization=zipfile_format)
    same(torch_file.read(path), value)


def test_tied_weights(path):
    embed, head = torch.nn.Embedding(5, 3), torch.nn.Linear(3, 5, bias=False)
    head.weight = embed.weight
    flat = torch.arange(10.0)
    torch.save({"e": embed.state_dict(), "h": head.state_dict(), "flat": flat, "parts": list(flat.split(4))}, path)
    found = torch_file.read(path)
    assert found["e"]["weight"] is found["h"]["weight"]
    assert [part.tolist() for part in jm.load(path)["parts"]] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    loaded = jm.load(path)
    assert loaded["e"]["weight"] is loaded["h"]["weight"]


def test_conj_and_neg_bits(path):
    z = torch.tensor([1 + 2j, 3 - 4j])
    for value in ({"z": z, "conj": z.conj(), "neg": torch._neg_view(z)}, {"i": z.conj().imag, "r": z.real}):
        torch.save(value, path)
        same(torch_file.read(path), value)
        same(jm.load(path), value)


@pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental")
def test_complex32_becomes_complex64(path):
    z = torch.tensor([1 + 2j, 3 - 4j]).to(torch.complex32)
    torch.save([z, z[1:], z.conj()], path)
    found = torch_file.read(path)
    same(found, [t.to(torch.complex64) for t in (z, z[1:], z.conj())])


def test_tensors_with_attributes(path):
    a, b = torch.ones(2), torch.nn.Parameter(torch.ones(3))
    a.note, b.note = "x", "y"
    torch.save([a, b], path)
    assert [array.read().tolist() for array in torch_file.read(path)] == [[1, 1], [1, 1, 1]]


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor", "ignore:Sparse")
@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: torch.nn.Linear(1, 1), r"'torch.nn.modules.linear.Linear' is needed.*model.state_dict"),
        (lambda: torch.ones(2).to_sparse(), "a sparse tensor"),
        (lambda: torch.ones(2, 2).to_sparse_csr(), "a sparse tensor"),
        (lambda: torch.ones(2, device="meta"), "meta device"),
        (lambda: torch.quantize_per_tensor(torch.ones(2), 1.0, 0, torch.quint8), "a quantized tensor"),
        (lambda: torch.ones(2).untyped_storage(), "a bare storage"),
        (lambda: torch.empty(2, dtype=torch.bits8), "dtype torch.bits8"),
        (lambda: torch.empty(2, dtype=torch.float4_e2m1fn_x2), "dtype torch.float4_e2m1fn_x2"),
        (lambda: slice(1, 2), r"'__builtin__.slice' is needed"),
        (lambda: np.dtype("f4"), "it holds numpy.dtype itself"),
        (lambda: torch.optim.SGD, r"'torch.optim.sgd.SGD' is needed"),
    ],
)
def test_what_is_no_plain_data(path, make, match):
    torch.save({"x": make()}, path)
    with pytest.raises(FileFormatError, match=match):
        torch_file.read(path)


def test_torchscript(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), path)
    with pytest.raises(FileFormatError, match=r"TorchScript.*torch\.save\(model\.state_dict\(\), path\)"):
        torch_file.read(path)


def test_a_whole_model_in_the_legacy_format(path):
    torch.save(torch.nn.Linear(1, 1), path, _use_new_zipfile_serialization=False)
    with pytest.raises(FileFormatError, match="'torch.nn.modules.linear.Linear' is needed|it holds a whole model"):
        torch_file.read(path)


def test_without_checksums(path):
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"a": torch.arange(5)}, path)
    finally:
        torch.serialization.set_crc32_options(before)
    assert torch_file.read(path)["a"].read().tolist() == [0, 1, 2, 3, 4]


def test_the_tar_format(path):
    """torch reads the hand-made file as well: it is what torch 0.1 wrote."""
    six = np.arange(6, dtype=np.float32)
    members = tar_members(
        {"w": _Reference("11"), "v": _Reference("12"), "lr": 0.5},
        {1: ("Float", 6, six.tobytes())},
        {11: (1, (3, 2), (1, 3), 0), 12: (3, (2,), (1,), 1)},
        ((3, 1, 2, 3),),
    )
    with open(path, "wb") as file:
        file.write(tarred(members))
    same(torch_file.read(path), torch.load(path, weights_only=False))


def _Reference(name: str):
    from tests.torch_bytes import Persistent

    return Persistent(name)


def test_hand_made_files_are_what_torch_reads(path):
    six = np.arange(6, dtype=np.float32)
    value = {"a": pickled_tensor(size=(2, 3), stride=(3, 1)), "d": Name("torch.float16")}
    data = zipped(b"\x80\x02" + dump(value) + b".", {"data/0": six.tobytes()})
    with open(path, "wb") as file:
        file.write(data)
    same(torch_file.read(path), torch.load(path, weights_only=True))
    swapped = zipped(whole(value), {"data/0": six.byteswap().tobytes(), "byteorder": b"big"})
    with open(path, "wb") as file:
        file.write(swapped)
    same(torch_file.read(path), torch.load(path, weights_only=True))
    assert MAGIC == torch.serialization.MAGIC_NUMBER


# -- files for torch --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_torch_reads_every_dtype(path, name):
    tensor = sample(getattr(torch, name))
    array = torch_file_array(tensor)
    values = {"numpy": array, "t": array.T, "steps": array[::2, ::-1], "empty": array[:0], "scalar": array[1, 2]}
    if jax.dtypes.canonicalize_dtype(array.dtype) == array.dtype:
        values["jax"] = jnp.asarray(array)
        values["box"] = nn.Buffer(jnp.asarray(array))
    values["torch"] = tensor.T
    jm.save(values, path)
    for mmap in (False, True):
        found = torch.load(path, weights_only=True, mmap=mmap)
        assert list(found) == list(values)
        for key, value in values.items():
            assert found[key].dtype == tensor.dtype
            assert tuple(found[key].shape) == tuple(value.shape)
            assert raw(found[key]) == raw(value)


def torch_file_array(tensor: torch.Tensor) -> np.ndarray:
    dtype = DTYPES[str(tensor.dtype).removeprefix("torch.")]
    return np.frombuffer(raw(tensor), dtype).reshape(tuple(tensor.shape)).copy()


def test_torch_reads_containers(path):
    shared = jnp.arange(3.0)
    value = {
        "model": nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).state_dict(),
        "numbers": [0, 255, 256, -1, 2**31 - 1, 2**31, -(2**31), -(2**31) - 1, 2**100, 2.5, 1j, True, None],
        "text": ["", "ä", "\udcff", "x" * 300, b"\0\xff", bytearray(b"abc")],
        "nested": ((), [{}], {1, "a"}, (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)),
        "counter": Counter("aab"),
        "dtype": jnp.dtype("bfloat16"),
        "a": shared,
        "b": shared,
        "c": jnp.arange(3.0),
        (1, "k"): 3,
        4: 5,
    }
    jm.save(value, path)
    found = torch.load(path, weights_only=True)
    same(value, found)
    assert found["a"].data_ptr() == found["b"].data_ptr() != found["c"].data_ptr()
    assert found["model"]._metadata == value["model"]._metadata
    with zipfile.ZipFile(path) as file:
        assert file.testzip() is None


def test_torch_tensors_are_written_too(path):
    z = torch.tensor([1 + 2j, 3 - 4j])
    base = torch.arange(6.0)
    value = {
        "parameter": torch.nn.Parameter(base.reshape(2, 3)),
        "tied": base.reshape(2, 3),
        "conj": z.conj(),
        "imag": z.conj().imag,
        "z": z,
        "bf16": torch.ones(3, dtype=torch.bfloat16)[1:],
        "float8": torch.ones(3).to(torch.float8_e5m2),
    }
    jm.save(value, path)
    found = torch.load(path, weights_only=True)
    for key in value:
        assert found[key].dtype == value[key].dtype
        assert raw(found[key]) == raw(value[key])
    assert found["parameter"].data_ptr() == found["tied"].data_ptr()
    for bad, match in [
        (torch.ones(2).to_sparse(), "sparse"),
        (torch.ones(2, device="meta"), "meta tensor"),
        (torch.ones(2, dtype=torch.complex32), "has dtype torch.complex32, which cannot be saved"),
    ]:
        with pytest.raises(TypeError, match=match):
            jm.save({"x": bad}, path)


def test_a_state_dict_there_and_back(path):
    theirs = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2))
    ours = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    torch.save(theirs.state_dict(), path)
    ours.load_state_dict(jm.load(path))
    jm.save(ours.state_dict(), path)
    again = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2))
    again.load_state_dict(torch.load(path, weights_only=True))
    for a, b in zip(theirs.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_bytes_of_a_stream(path):
    """`torch.save` into a buffer names its folder "archive", into a file after the file: both are read."""
    buffer = io.BytesIO()
    torch.save({"a": torch.ones(2)}, buffer)
    with open(path, "wb") as file:
        file.write(buffer.getvalue())
    assert torch_file.read(path)["a"].read().tolist() == [1, 1]
    torch.save({"a": torch.ones(2)}, path)
    assert torch_file.read(path)["a"].read().tolist() == [1, 1]

"""Files against their reference implementations, both ways, with torch tensors."""

import json

import flax.serialization
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.flax
import safetensors.numpy
import safetensors.torch
import torch

import jaxmodule as jm
from jaxmodule import nn
from jaxmodule.io import load, load_metadata, save

DTYPES = [
    *(torch.bool, torch.uint8, torch.int8, torch.uint16, torch.int16, torch.uint32, torch.int32, torch.uint64),
    *(torch.int64, torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64),
    *(torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz),
]
SHAPES = [(3, 5), (), (0,), (2, 0, 3)]


def sample(dtype: torch.dtype, shape: tuple[int, ...]) -> torch.Tensor:
    size = int(np.prod(shape)) * dtype.itemsize
    raw = np.random.default_rng(0).integers(0, 2 if dtype == torch.bool else 256, size, np.uint8)
    return torch.frombuffer(raw.tobytes(), dtype=dtype).reshape(shape) if size else torch.empty(shape, dtype=dtype)


def raw(tensor) -> bytes:
    if isinstance(tensor, torch.Tensor):
        return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return np.asarray(tensor).tobytes()


@pytest.mark.filterwarnings("ignore:The given buffer is not writable")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_both_ways(tmp_path, dtype):
    tensors = {str(shape): sample(dtype, shape) for shape in SHAPES}
    if dtype.is_floating_point or dtype == torch.bool:
        tensors["parameter"] = torch.nn.Parameter(sample(dtype, (4, 2)), requires_grad=dtype.is_floating_point)
    tensors["transposed"] = sample(dtype, (4, 6)).T
    ours, theirs = tmp_path / "ours.safetensors", tmp_path / "theirs.safetensors"

    save(tensors, ours, {"k": "v"})
    safetensors.torch.save_file({k: v.detach().contiguous() for k, v in tensors.items()}, theirs, {"k": "v"})
    for read in (safetensors.torch.load_file(ours), load(ours), load(theirs)):
        assert set(read) == set(tensors)
        for name, tensor in tensors.items():
            assert tuple(read[name].shape) == tuple(tensor.shape)
            assert str(read[name].dtype).removeprefix("torch.") == str(dtype).removeprefix("torch.")
            assert raw(read[name]) == raw(tensor.detach())
    assert load_metadata(theirs) == load_metadata(ours) == {"k": "v"}
    with safetensors.safe_open(ours, "pt") as file:
        assert file.metadata() == {"format": "pt", "k": "v"}


def test_mixed_dtypes_are_read_by_the_reference(tmp_path):
    path = tmp_path / "a.safetensors"
    tensors = {"a": np.ones(3, np.int8), "b": np.ones(5, np.float32), "c": np.ones((), bool), "d": np.ones(2, np.int16)}
    save(tensors, path)
    read = safetensors.numpy.load_file(path)
    assert {name: (v.dtype, v.tolist()) for name, v in read.items()} == {
        name: (v.dtype, v.tolist()) for name, v in tensors.items()
    }
    assert list(load(path)) == list("abcd")


def test_a_torch_model_and_its_versions(tmp_path):
    path = tmp_path / "a.safetensors"
    theirs = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    save(theirs.state_dict(), path)
    loaded = load(path)
    assert loaded._metadata == theirs.state_dict()._metadata
    ours = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    ours.load_state_dict(loaded)
    np.testing.assert_array_equal(np.asarray(ours[0].weight), theirs[0].weight.detach().numpy())
    save(ours.state_dict(), path)
    theirs.load_state_dict(safetensors.torch.load_file(path))


class Tied(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Embedding(5, 3)
        self.head = torch.nn.Linear(3, 5, bias=False)
        self.head.weight = self.embed.weight


def test_tied_torch_weights(tmp_path):
    ours, theirs = tmp_path / "ours.safetensors", tmp_path / "theirs.safetensors"
    model = Tied()
    save(model.state_dict(), ours)  # two tensor objects on one storage
    safetensors.torch.save_model(model, theirs)
    for path in (ours, theirs):
        loaded = load(path)
        assert set(loaded) == {"embed.weight", "head.weight"}
        assert loaded["embed.weight"] is loaded["head.weight"]
        assert raw(loaded["head.weight"]) == raw(model.head.weight.detach())
        safetensors.torch.load_model(Tied(), path)


def test_untied_torch_weights_stay_apart(tmp_path):
    path = tmp_path / "a.safetensors"
    base = torch.arange(6.0).reshape(2, 3)
    save({"a": base, "view": base[:1], "t": base.T, "none": torch.empty(0), "nothing": torch.empty(0)}, path)
    read = safetensors.torch.load_file(path)
    assert set(read) == {"a", "view", "t", "none", "nothing"}
    assert read["t"].tolist() == base.T.tolist()


def test_jax_arrays_are_read_by_torch(tmp_path):
    path = tmp_path / "a.safetensors"
    save({"a": jnp.arange(4, dtype=jnp.bfloat16), "b": nn.Parameter(jnp.ones((2, 2)))}, path)
    read = safetensors.torch.load_file(path)
    assert (read["a"].dtype, read["a"].tolist()) == (torch.bfloat16, [0, 1, 2, 3])
    assert read["b"].tolist() == [[1, 1], [1, 1]]


def test_unsupported_torch_values(tmp_path):
    with pytest.raises(TypeError, match="'x' has dtype complex128, which safetensors does not have"):
        save({"x": torch.ones(2, dtype=torch.complex128)}, tmp_path / "a.safetensors")
    conj = torch.tensor([1 + 2j], dtype=torch.complex64).conj()
    save({"x": conj}, tmp_path / "a.safetensors")
    assert load(tmp_path / "a.safetensors")["x"].tolist() == [1 - 2j]


# -- shards, and the formats of other libraries -----------------------------------------------------------------------


def hugging_face_load(folder) -> dict[str, torch.Tensor]:
    """What Hugging Face's loaders do with a folder: the index, then every shard that it names."""
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    out = {}
    for file in set(index["weight_map"].values()):
        with safetensors.safe_open(folder / file, "pt") as shard:
            assert shard.metadata().get("format") == "pt"
            out |= {name: shard.get_tensor(name) for name, at in index["weight_map"].items() if at == file}
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in out.values())
    return out


def test_shards_are_read_by_the_reference(tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(30, 40), torch.nn.BatchNorm1d(40)).to(torch.bfloat16)
    save(model.state_dict(), tmp_path, max_shard_size="1KB")
    read = hugging_face_load(tmp_path)
    assert {name: raw(value) for name, value in read.items()} == {n: raw(v) for n, v in model.state_dict().items()}
    ours = load(tmp_path)
    assert list(ours) == list(model.state_dict())
    assert {name: raw(value) for name, value in ours.items()} == {name: raw(value) for name, value in read.items()}


def test_shards_of_tied_torch_weights(tmp_path):
    model = Tied()
    save(model.state_dict(), tmp_path, max_shard_size=40)
    assert list(hugging_face_load(tmp_path)) == ["embed.weight"]
    loaded = load(tmp_path)
    assert loaded["embed.weight"] is loaded["head.weight"]
    assert loaded._metadata == model.state_dict()._metadata


def test_files_are_read_by_flax(tmp_path):
    tensors = {"a": torch.arange(6.0).reshape(2, 3).to(torch.bfloat16), "b": torch.tensor(3)}
    save(tensors, tmp_path / "a.safetensors")
    read = safetensors.flax.load_file(tmp_path / "a.safetensors")
    assert (read["a"].dtype, read["a"].tolist()) == (jnp.bfloat16, [[0, 1, 2], [3, 4, 5]])
    save(tensors, tmp_path / "a.msgpack")
    read = flax.serialization.msgpack_restore((tmp_path / "a.msgpack").read_bytes())
    assert (read["a"].dtype, read["a"].tolist()) == (jnp.bfloat16, [[0, 1, 2], [3, 4, 5]])
    assert read["b"].dtype == np.int64


@pytest.mark.filterwarnings("ignore:The given buffer is not writable")
@pytest.mark.parametrize("dtype", [dtype for dtype in DTYPES if "fnuz" not in str(dtype)], ids=str)
@pytest.mark.parametrize("suffix", ["npz", "msgpack"])
def test_torch_tensors_in_other_formats(tmp_path, dtype, suffix):
    tensors = {str(shape): sample(dtype, shape) for shape in SHAPES}
    tensors["transposed"] = sample(dtype, (4, 6)).T
    save(tensors, tmp_path / f"a.{suffix}")
    found = load(tmp_path / f"a.{suffix}")
    for name, tensor in tensors.items():
        assert tuple(found[name].shape) == tuple(tensor.shape)
        assert str(found[name].dtype) == str(dtype).removeprefix("torch.")
        assert raw(found[name]) == raw(tensor)


# -- loading torch's own values ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrap", ["module.", "_orig_mod."])
def test_a_wrapped_torch_model(wrap):
    theirs = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    outer = torch.nn.Module()
    outer.add_module(wrap[:-1], theirs)
    ours = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    report = ours.load_state_dict(outer.state_dict(), strip_prefix=wrap)
    assert report == ([], [])
    for name, tensor in theirs.state_dict().items():
        np.testing.assert_array_equal(np.asarray(ours.state_dict()[name]), tensor.numpy())


@pytest.mark.parametrize("dtype", ["model", "file"])
def test_torch_tensors_into_a_model_without_values(dtype):
    theirs = torch.nn.Linear(3, 4).to(torch.bfloat16)
    ours = jm.eval_shape(nn.Linear, 3, 4)
    ours.load_state_dict(theirs.state_dict(), dtype=dtype)
    assert ours.weight.dtype == {"model": jnp.float32, "file": jnp.bfloat16}[dtype]
    np.testing.assert_array_equal(np.asarray(ours.weight, np.float32), theirs.weight.detach().float().numpy())


def test_every_shape_mismatch_is_listed_as_torch_does():
    messages = []
    for library, ones in ((torch.nn, torch.ones), (nn, jnp.ones)):
        model = library.Sequential(library.Linear(3, 4), library.Linear(4, 2))
        state = {**model.state_dict(), "0.weight": ones((9, 3)), "1.bias": ones((3,))}
        with pytest.raises(RuntimeError, match="size mismatch") as error:
            model.load_state_dict(state)
        messages.append(str(error.value).replace("torch.Size([", "(").replace("])", ")").replace(",)", ")"))
    assert messages[0] == messages[1]


# -- PyTorch's own files: that they are told apart, and go where the others go ----------------------------------------


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("name", ["a.pt", "a.safetensors", "a.npz", "a.msgpack", "a"])
def test_torch_files_are_found_by_their_content(tmp_path, zipped, name):
    model = Tied()
    torch.save({"model": model.state_dict(), "step": 3}, tmp_path / name, _use_new_zipfile_serialization=zipped)
    found = load(tmp_path / name)
    assert found["step"] == 3
    assert raw(found["model"]["embed.weight"]) == raw(model.embed.weight.detach())
    assert found["model"]["embed.weight"] is found["model"]["head.weight"]
    left = load(tmp_path / name, mmap=True)["model"]
    ours = jm.eval_shape(nn.Embedding, 5, 3)
    ours.load_state_dict(left, rename={"embed": ""}, strict=False)
    np.testing.assert_array_equal(ours.weight, model.embed.weight.detach().numpy())


@pytest.mark.parametrize("suffix", ["pt", "pth", "bin", "ckpt"])
def test_torch_files_are_written_by_their_suffix(tmp_path, suffix):
    save(nn.Linear(3, 4).state_dict(), tmp_path / f"a.{suffix}")
    torch.nn.Linear(3, 4).load_state_dict(torch.load(tmp_path / f"a.{suffix}", weights_only=True))


def test_hugging_faces_torch_shards(tmp_path):
    state = torch.nn.Linear(3, 4).state_dict()
    for i, (name, tensor) in enumerate(state.items()):
        torch.save({name: tensor}, tmp_path / f"pytorch_model-{i}.bin")
    index = {"metadata": {}, "weight_map": {name: f"pytorch_model-{i}.bin" for i, name in enumerate(state)}}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    for path in (tmp_path, tmp_path / "pytorch_model.bin.index.json"):
        assert {name: raw(value) for name, value in load(path).items()} == {n: raw(v) for n, v in state.items()}

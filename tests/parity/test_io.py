"""safetensors files against the reference implementation, both ways, with torch tensors."""

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch

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

"""The files that are altered: of every format that `jm.load` reads, small, and made when they are needed."""

import importlib.util
import io
import json
import os
import tempfile
import warnings
from collections import Counter, OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import ml_dtypes
import numpy as np

import jaxmodule as jm
from jaxmodule import nn
from jaxmodule.io.array_file import FileArray
from tests.torch_bytes import Call, Persistent, dump, legacy, tar_members, tarred, tensor, whole, zipped

_SIX = np.arange(6, dtype=np.float32)


@dataclass(frozen=True)
class Seed:
    """One file.

    Attributes:
        name: of the file, with the suffix that it would have.
        data: its bytes.
        checked: has the format checksums, so that an altered file cannot pass for another one?
        want: what `jm.load` gives, by `freeze`.
        beside: a file that it refers to, name and bytes.
    """

    name: str
    data: bytes
    checked: bool
    want: Any
    beside: tuple[str, bytes] | None = None


def freeze(value: Any) -> Any:
    """A value to compare, bit for bit."""
    if isinstance(value, FileArray):
        value = value.read()
    if isinstance(value, dict):
        extra = getattr(value, "_metadata", None)
        pairs = [(freeze(key), freeze(item)) for key, item in value.items()]
        return type(value).__name__, pairs, freeze(extra)
    if isinstance(value, list | tuple):
        return type(value).__name__, [freeze(item) for item in value]
    if isinstance(value, set | frozenset):
        return type(value).__name__, sorted(map(repr, value))
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        array = np.asarray(value)
        return str(array.dtype), array.shape, array.tobytes()
    return type(value).__name__, repr(value)


def _model() -> Any:
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).state_dict()


def _training() -> dict[str, Any]:
    tied = jnp.arange(4.0)
    return {
        "model": _model(),
        "step": 7,
        "lr": 0.5,
        "names": ["a", "ä" * 20, b"\0\xff"],
        "nested": ({"x": [(), {}, None, True]}, 2**70),
        "a": tied,
        "b": tied,
        "bf16": jnp.ones((2, 3), jnp.bfloat16),
        "u16": np.arange(3, dtype=np.uint16),
        "empty": np.ones((0, 2), np.float32),
        "f8": np.ones(3, ml_dtypes.float8_e5m2),
    }


def _saved(folder: str, name: str, value: Any, **options: Any) -> bytes:
    path = os.path.join(folder, name)
    jm.save(value, path, **options)
    return Path(path).read_bytes()


def _by_hand() -> dict[str, tuple[bytes, bool]]:
    dtype = dump(Call("numpy.dtype", "f4", False, True)) + dump((3, "<", None, None, None, -1, -1, 0)) + b"b"
    scalar = (
        b"cnumpy.core.multiarray\nscalar\n" + dtype + dump(Call("_codecs.encode", "\0\0\x80?", "latin1")) + b"\x86R"
    )
    obj = {
        "t": tensor(size=(3, 2), stride=(1, 3)),
        "e": tensor(size=(4, 6), stride=(0, 1)),
        "s": Call("__builtin__.set", [1, 2]),
        "c": Call("collections.Counter", {"a": 2}),
        "d": Call("torch.device", "cuda", 1),
        "n": 1.5,
    }
    pickled = b"\x80\x02](" + dump(obj) + scalar + b"e."
    big = zipped(pickled, {"data/0": _SIX.byteswap().tobytes(), "byteorder": b"big"})
    old = {"a": tensor(key="77", part=None), "b": tensor(key="77", part=("78", 2, 4), size=(4,)), "n": [1, "x"]}
    tar = tar_members(
        {"w": Persistent("11"), "v": Persistent("12"), "lr": 0.5},
        {1: ("Float", 6, _SIX.tobytes())},
        {11: (1, (3, 2), (1, 3), 0), 12: (3, (2,), (1,), 1)},
        ((3, 1, 2, 3),),
    )
    return {
        "big.pt": (big, True),
        "legacy.pt": (legacy(old, ["77"], {"77": (6, _SIX.tobytes())}), False),
        "legacy2.pt": (b"".join(map(whole, [0x1950A86A20F9469CFC6C, 1001, {}, {"n": [1.5, None]}, []])), False),
        "tar.pt": (tarred(tar), False),
    }


def _by_torch() -> dict[str, tuple[bytes, bool]]:
    if importlib.util.find_spec("torch") is None:
        return {}
    import torch

    model = torch.nn.Linear(2, 3)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    value = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "view": torch.arange(12.0).reshape(3, 4).T[1:],
        "conj": torch.ones(2, dtype=torch.complex64).conj(),
        "p": torch.nn.Parameter(torch.ones(2)),
        "u16": torch.ones(3, dtype=torch.uint16),
        "meta": [Counter("aab"), OrderedDict(a=1), {1, 2}, torch.float16, torch.Size([1]), b"x", 1j, np.arange(3)],
    }
    out = {}
    for name, new, protocol in [("torch.pt", True, 2), ("torch4.pt", True, 4), ("torch_legacy.pt", False, 2)]:
        buffer = io.BytesIO()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.save(value, buffer, pickle_protocol=protocol, _use_new_zipfile_serialization=new)
        out[name] = (buffer.getvalue(), new)
    return out


def _npz(*, packed: bool) -> bytes:
    buffer = io.BytesIO()
    (np.savez_compressed if packed else np.savez)(
        buffer, a=_SIX, b=np.ones((2, 3), ">i2"), c=np.asfortranarray(np.eye(3))
    )
    return buffer.getvalue()


def seeds(folder: str | None = None) -> list[Seed]:
    """All of them."""
    with tempfile.TemporaryDirectory(dir=folder) as where:
        made: dict[str, tuple[bytes, bool]] = {
            "ours.pt": (_saved(where, "a.pt", _training()), True),
            "model.safetensors": (_saved(where, "a.safetensors", _model(), metadata={"k": "v"}), False),
            "savez.npz": (_npz(packed=False), True),
            "packed.npz": (_npz(packed=True), True),
            "ours.npz": (_saved(where, "a.npz", _model()), True),
            "flax.msgpack": (_saved(where, "a.msgpack", {"a": {"b": jnp.ones((2, 3)), "c": 1.5}, "n": 3}), False),
            **_by_hand(),
            **_by_torch(),
        }
        out = []
        for name, (data, checked) in made.items():
            path = os.path.join(where, name)
            Path(path).write_bytes(data)
            out.append(Seed(name, data, checked, freeze(jm.load(path))))
        shard = made["model.safetensors"][0]
        Path(where, "part.safetensors").write_bytes(shard)
        index = {"metadata": {}, "weight_map": dict.fromkeys(_model(), "part.safetensors")}
        path, text = os.path.join(where, "model.safetensors.index.json"), json.dumps(index)
        Path(path).write_text(text)
        want = freeze(jm.load(path))
        return [*out, Seed(os.path.basename(path), text.encode(), False, want, ("part.safetensors", shard))]

"""`load_state_dict` from real life: names from elsewhere, dtypes, models without values, arrays still in their file."""

import json
import re
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

import jaxmodule as jm
from jaxmodule import nn
from jaxmodule.io.array_file import FileArray


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


def meta_net() -> Any:
    return jm.eval_shape(net)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 3)
        self.head = nn.Linear(3, 5, bias=False)
        self.head.weight = self.embed.weight


def assert_loaded(model: nn.Module, state: Any) -> None:
    for name, value in state.items():
        np.testing.assert_array_equal(model.state_dict()[name], value, err_msg=name)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[FileArray]:
    """The arrays that are read from files, in order."""
    found: list[FileArray] = []
    real = FileArray.read

    def read(self: FileArray) -> np.ndarray:
        found.append(self)
        return real(self)

    monkeypatch.setattr(FileArray, "read", read)
    return found


# -- prefixes ---------------------------------------------------------------------------------------------------------


def wrapped(state: Any, *prefixes: str) -> Any:
    prefix = "".join(prefixes)
    out = OrderedDict((prefix + name, value) for name, value in state.items())
    if hasattr(state, "_metadata"):
        out._metadata = OrderedDict({"": {"version": 99}})  # the wrapper's own
        for path, version in state._metadata.items():
            out._metadata[(prefix + path).removesuffix(".")] = version
    return out


@pytest.mark.parametrize("given", ["module.", "module", ["module."]], ids=str)
def test_a_prefix_is_taken_off(given: Any) -> None:
    state = net().state_dict()
    model = net()
    report = model.load_state_dict(wrapped(state, "module."), strip_prefix=given)
    assert report == ([], [])
    assert report.renamed == [(f"module.{name}", name) for name in state]
    assert report.loaded == list(state)
    assert "renamed: module.0.weight → 0.weight" in repr(report)
    assert_loaded(model, state)


def test_several_prefixes_come_off_in_their_order() -> None:
    state = wrapped(net().state_dict(), "_orig_mod.", "module.")
    assert net().load_state_dict(state, strip_prefix=["_orig_mod.", "module."]) == ([], [])
    with pytest.raises(ValueError, match=r"strip_prefix='module\.' matches none of the 7 names .*'_orig_mod\.module"):
        net().load_state_dict(state, strip_prefix=["module.", "_orig_mod."])


def test_names_without_the_prefix_stay() -> None:
    state = {**wrapped(net().state_dict(), "model."), "loss.weight": np.ones(2)}
    with pytest.raises(RuntimeError, match=r'Unexpected key\(s\) in state_dict: "loss\.weight"'):
        net().load_state_dict(state, strip_prefix="model.")
    report = net().load_state_dict(state, strict=False, strip_prefix="model.")
    assert report.unexpected_keys == ["loss.weight"]
    # a prefix is of whole parts
    state = {**net().state_dict(), "modules.x": np.ones(2), "module.": np.ones(2)}
    with pytest.raises(ValueError, match="matches none"):
        net().load_state_dict(state, strip_prefix="module.")


def test_versions_go_with_their_modules() -> None:
    seen = []

    class Versioned(nn.Linear):
        _version = 7

        def _load_from_state_dict(self, state: Any, prefix: str, local_metadata: Any, *rest: Any) -> None:
            seen.append((prefix, local_metadata))
            super()._load_from_state_dict(state, prefix, local_metadata, *rest)

    model = nn.Sequential(Versioned(2, 2))
    model.load_state_dict(wrapped(model.state_dict(), "module."), strip_prefix="module.")
    rule = {"layer": "0"}
    state = model.state_dict()
    renamed = OrderedDict((name.replace("0.", "layer."), value) for name, value in state.items())
    renamed._metadata = OrderedDict({"": {"version": 1}, "layer": {"version": 7}})  # pyright: ignore
    model.load_state_dict(renamed, rename=rule)
    assert seen == [("0.", {"version": 7})] * 2


# -- rules ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rules", "names"),
    [
        ({"encoder": "0"}, ["encoder.weight", "encoder.bias"]),
        ([("encoder.", "0.")], ["encoder.weight", "encoder.bias"]),
        ({"w": "0.weight", "b": "0.bias"}, ["w", "b"]),
        ({"top.linear": "0"}, ["top.linear.weight", "top.linear.bias"]),
        ([(re.compile(r"gamma$"), "weight"), (re.compile(r"beta$"), "bias")], ["0.gamma", "0.beta"]),
        ([(re.compile(r"layer_(\d+)/"), r"\1.")], ["layer_0/weight", "layer_0/bias"]),
        ({"a": "b", "b": "0"}, ["a.weight", "a.bias"]),
        ([(re.compile("^"), "0.")], ["weight", "bias"]),
        ({"x": ""}, ["x.0.weight", "x.0.bias"]),
    ],
    ids=str,
)
def test_rules(rules: Any, names: list[str]) -> None:
    model = nn.Sequential(nn.Linear(2, 3))
    values = [np.ones((3, 2), np.float32), np.zeros(3, np.float32)]
    report = model.load_state_dict(dict(zip(names, values, strict=True)), rename=rules)
    assert report.renamed == list(zip(names, ["0.weight", "0.bias"], strict=True))
    assert (model[0].weight == 1).all()
    assert (model[0].bias == 0).all()


def test_prefixes_come_off_before_the_rules() -> None:
    model = nn.Sequential(nn.Linear(2, 3))
    state = {"module.fc.weight": np.ones((3, 2)), "module.fc.bias": np.ones(3)}
    report = model.load_state_dict(state, strip_prefix="module.", rename={"fc": "0"})
    assert report.renamed == [("module.fc.weight", "0.weight"), ("module.fc.bias", "0.bias")]


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"rename": {"nothing": "0"}}, ValueError, "the rule 'nothing' of rename matches none of the 7 names"),
        ({"rename": {"0.w": "x"}}, ValueError, r"the rule '0\.w' of rename matches none"),  # whole parts only
        ({"rename": [(re.compile("zzz"), "")]}, ValueError, "the rule 'zzz' of rename matches none"),
        ({"rename": {"0.weight": "0.bias"}}, ValueError, "'0.weight' and '0.bias' of the .* both become '0.bias'"),
        ({"rename": [(re.compile(r"\d\."), "")]}, ValueError, "would both become 'weight'"),
        ({"rename": "0"}, TypeError, r"rename takes a dict, or a list of \(pattern, replacement\), not '0'"),
        ({"rename": str.upper}, TypeError, "not <method 'upper' of 'str' objects>; for a function, load `{function"),
        ({"rename": 3}, TypeError, r"rename takes a dict, or a list of \(pattern, replacement\), not 3"),
        ({"rename": [(re.compile("0"), r"\9")]}, ValueError, r"the rule '0' of rename: its replacement '.*9' is none"),
        ({"rename": ["0"]}, TypeError, r"a rule of rename is \(pattern, replacement\), not '0'"),
        ({"rename": {"": "x"}}, TypeError, "a pattern of rename is text or re.compile"),
        ({"rename": {"0": 3}}, TypeError, r"a rule of rename is \(pattern, replacement\)"),
        ({"strip_prefix": ""}, TypeError, "strip_prefix takes text such as 'module.'"),
        ({"strip_prefix": [3]}, TypeError, "strip_prefix takes text such as 'module.'"),
        ({"dtype": "bf16"}, ValueError, r"dtype must be 'model' .* or 'file' .*, got 'bf16'"),
    ],
    ids=str,
)
def test_rules_that_are_wrong_change_nothing(arguments: Any, error: Any, match: str) -> None:
    model = net()
    before = {name: box.value for name, box in model.state_dict(keep_vars=True).items()}
    state = net().state_dict()
    names = list(state)
    with pytest.raises(error, match=match):
        model.load_state_dict(state, **arguments)
    assert all(box.value is before[name] for name, box in model.state_dict(keep_vars=True).items())
    assert list(state) == names


def test_a_name_that_is_no_text() -> None:
    with pytest.raises(TypeError, match="strip_prefix='a' needs a state dict whose keys are text; 3 is none"):
        net().load_state_dict({3: np.ones(2)}, strip_prefix="a")  # pyright: ignore[reportArgumentType]


# -- advice -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize(
    "prefix",
    ["module.", "_orig_mod.", "model.", "backbone.", "module._orig_mod.", "encoder.module.", "model._orig_mod."],
)
def test_a_failed_load_suggests_the_prefix(prefix: str, strict: bool) -> None:
    with pytest.raises(RuntimeError, match=re.escape(f"`strip_prefix={prefix!r}` takes it off")):
        net().load_state_dict(wrapped(net().state_dict(), prefix), strict=strict)


def test_other_advice() -> None:
    state = net().state_dict()
    with pytest.raises(RuntimeError, match=re.escape("load `state_dict['model']`")):
        net().load_state_dict({"model": state, "epoch": 3})
    lightning = {"epoch": 3, "state_dict": wrapped(state, "model."), "loops": {}}
    with pytest.raises(RuntimeError, match=r"under 'state_dict', its names with 'model\.' before them") as caught:
        net().load_state_dict(lightning)
    advice = re.search(r"load `(.*)`, `strip_prefix=(.*)`", str(caught.value))
    assert advice is not None
    assert net().load_state_dict(eval(advice[1], {"state_dict": lightning}), strip_prefix=eval(advice[2])) == ([], [])
    between = {name.replace("0.", "0._orig_mod."): value for name, value in state.items()}
    with pytest.raises(RuntimeError, match=re.escape("Wrappers have put names of theirs between")) as caught:
        net().load_state_dict(between)
    rule = re.search(r"rename=(\[.*\])`", str(caught.value))
    assert rule is not None
    assert net().load_state_dict(between, rename=eval(rule[1])) == ([], [])
    outer = nn.Sequential(OrderedDict(body=net()))
    with pytest.raises(RuntimeError, match="The model's names begin with 'body'") as caught:
        outer.load_state_dict(state)
    rule = re.search(r"rename=(\[.*\])`", str(caught.value))
    assert rule is not None
    assert outer.load_state_dict(state, rename=eval(rule[1])) == ([], [])
    with pytest.raises(RuntimeError, match="Missing") as caught:
        net().load_state_dict({name: value for name, value in state.items() if name != "0.bias"})
    assert "strip_prefix" not in str(caught.value)


def test_all_that_is_wrong_is_listed_at_once() -> None:
    state = net().state_dict()
    state["0.weight"], state["1.running_mean"], state["typo"] = np.ones((3, 4)), np.ones(5), np.ones(1)
    del state["1.bias"]
    with pytest.raises(RuntimeError, match="Error") as caught:
        net().load_state_dict(state)
    message = str(caught.value)
    for part in (
        'Missing key(s) in state_dict: "1.bias"',
        'Unexpected key(s) in state_dict: "typo"',
        "size mismatch for 0.weight: copying a param with shape (3, 4)",
        "size mismatch for 1.running_mean: copying a param with shape (5,)",
    ):
        assert part in message


# -- dtypes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("meta", [False, True])
@pytest.mark.parametrize("mmap", [False, True])
def test_whose_dtype(tmp_path: Path, meta: bool, mmap: bool) -> None:
    state = {"weight": np.full((4, 3), 1.5, ml_dtypes.bfloat16), "bias": np.full(4, 2, np.float32)}
    jm.save(state, tmp_path / "a.safetensors")
    build = (lambda: jm.eval_shape(nn.Linear, 3, 4)) if meta else (lambda: nn.Linear(3, 4))
    model: Any = build()
    report = model.load_state_dict(jm.load(tmp_path / "a.safetensors", mmap=mmap))
    assert (model.weight.dtype, report.retyped) == (jnp.float32, [])
    assert report.cast == [("weight", "bfloat16", "float32")]
    assert (model.weight == 1.5).all()
    model = build()
    report = model.load_state_dict(jm.load(tmp_path / "a.safetensors", mmap=mmap), dtype="file")
    assert (model.weight.dtype, model.bias.dtype, report.cast) == (jnp.bfloat16, jnp.float32, [])
    assert report.retyped == [("weight", "float32", "bfloat16")]
    assert "dtype of the file: weight (float32 → bfloat16)" in repr(report)


@pytest.mark.parametrize("given", [np.float64, np.int64])
def test_64_bits_are_said_to_be_cut(given: Any) -> None:
    model = nn.Linear(2, 2, bias=False)
    report = model.load_state_dict({"weight": np.ones((2, 2), given)}, dtype="file")
    cut = str(np.dtype(given)).replace("64", "32")
    assert report.cast == [("weight", str(np.dtype(given)), cut)]
    assert model.weight.dtype == cut


@pytest.mark.parametrize("mmap", [False, True])
@pytest.mark.parametrize("value", [2**31, -(2**40)])
def test_integers_that_have_no_place_are_refused(tmp_path: Path, value: int, mmap: bool) -> None:
    model = nn.BatchNorm1d(2)
    jm.save({**model.state_dict(), "num_batches_tracked": np.array(value)}, tmp_path / "a.safetensors")
    match = f"a value of num_batches_tracked has no place in the model: {value} is no int32; .*jax_enable_x64"
    with pytest.raises(RuntimeError, match=match):
        model.load_state_dict(jm.load(tmp_path / "a.safetensors", mmap=mmap))
    model.load_state_dict({**model.state_dict(), "num_batches_tracked": np.array(2**31 - 1)})
    assert int(model.num_batches_tracked) == 2**31 - 1


def test_casts_round_as_jax_does(tmp_path: Path) -> None:
    values = np.random.default_rng(0).standard_normal(10_000).astype(np.float32)
    jm.save({"weight": values.reshape(1, -1)}, tmp_path / "a.safetensors")
    for dtype in (jnp.bfloat16, jnp.float16):  # XLA rounds float8 twice in some versions
        model: Any = jm.eval_shape(nn.Linear, 10_000, 1, bias=False, dtype=dtype)
        model.load_state_dict(jm.load(tmp_path / "a.safetensors", mmap=True))
        expected = jnp.asarray(values).astype(dtype)
        assert np.asarray(model.weight).tobytes() == np.asarray(expected).tobytes()


def test_complex_values_into_real_ones() -> None:
    with pytest.raises(RuntimeError, match="dtype mismatch for weight: complex64 in the state dict, float32"):
        nn.Linear(1, 1, bias=False).load_state_dict({"weight": np.ones((1, 1), np.complex64)})
    model = nn.Linear(1, 1, bias=False, dtype=jnp.complex64)
    model.load_state_dict({"weight": np.ones((1, 1), np.float32)})
    assert model.weight.dtype == jnp.complex64


# -- models without values, arrays in their file ----------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["safetensors", "npz", "msgpack"])
def test_a_meta_model_is_filled_from_the_file(tmp_path: Path, suffix: str, reads: list[FileArray]) -> None:
    state = net().state_dict()
    jm.save(state, tmp_path / f"a.{suffix}")
    model = meta_net()
    report = model.load_state_dict(jm.load(tmp_path / f"a.{suffix}", mmap=True))
    assert (report.meta, report.untouched, report.cast) == ([], [], [])
    assert [array.shape for array in reads] == [value.shape for value in state.values()]
    assert_loaded(model, state)
    assert model(jnp.ones((2, 3))).shape == (2, 4)


def test_what_is_still_abstract_is_listed() -> None:
    model = meta_net()
    with pytest.warns(UserWarning, match="left these parameters of Sequential as they were: 0.bias, 1.weight, 1.bias"):
        report = model.load_state_dict({"0.weight": np.ones((4, 3), np.float32)}, strict=False)
    left = ["0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var", "1.num_batches_tracked"]
    assert report.meta == left
    assert repr(report).endswith(f"still abstract: {', '.join(left)}")
    # An old file without batch norm's count.
    state = {name: value for name, value in net().state_dict().items() if "tracked" not in name}
    assert meta_net().load_state_dict(state).meta == ["1.num_batches_tracked"]


def test_a_state_dict_without_values_is_refused() -> None:
    with pytest.raises(RuntimeError, match="the state dict has no value for 0.weight: it is of an abstract model"):
        net().load_state_dict(meta_net().state_dict())


def test_a_failed_load_leaves_a_meta_model_as_it_was(tmp_path: Path, reads: list[FileArray]) -> None:
    state = {**net().state_dict(), "0.weight": np.ones((9, 9), np.float32)}
    jm.save(state, tmp_path / "a.safetensors")
    model = meta_net()
    with pytest.raises(RuntimeError, match=r"size mismatch for 0\.weight"):
        model.load_state_dict(jm.load(tmp_path / "a.safetensors", mmap=True))
    assert all(isinstance(box.value, jax.ShapeDtypeStruct) for box in model.state_dict(keep_vars=True).values())
    assert reads == []  # nothing after the mismatch, which was in the first


def test_a_tied_parameter_is_read_once(tmp_path: Path, reads: list[FileArray]) -> None:
    source = Tied()
    jm.save(source.state_dict(), tmp_path / "a.safetensors")
    model: Any = jm.eval_shape(Tied)
    report = model.load_state_dict(jm.load(tmp_path / "a.safetensors", mmap=True))
    assert model.head.weight is model.embed.weight
    assert report.loaded == ["embed.weight", "head.weight"]
    assert len(reads) == 1
    np.testing.assert_array_equal(model.embed.weight, source.embed.weight)


def test_an_array_in_a_file_goes_where_the_model_is(tmp_path: Path) -> None:
    state = nn.Linear(8, 4).state_dict()
    jm.save(state, tmp_path / "a.safetensors")
    device = jax.devices()[1]
    model: Any = nn.Linear(8, 4).to(device)
    model.load_state_dict(jm.load(tmp_path / "a.safetensors", mmap=True))
    assert model.weight.devices() == {device}
    assert_loaded(model, state)


@pytest.mark.parametrize("mmap", [False, True])
@pytest.mark.parametrize("spec", [jax.P("x", "y"), jax.P(None, ("x", "y")), jax.P("y"), jax.P()], ids=str)
def test_each_device_reads_its_part(tmp_path: Path, spec: Any, mmap: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    state = {"weight": np.arange(32, dtype=np.float32).reshape(4, 8)}
    jm.save(state, tmp_path / "a.safetensors")
    sharding = jax.sharding.NamedSharding(jax.make_mesh((2, 2), ("x", "y")), spec)
    model: Any = jm.eval_shape(nn.Linear, 8, 4, bias=False, dtype=jnp.bfloat16)
    model.weight.value = jax.ShapeDtypeStruct((4, 8), jnp.bfloat16, sharding=sharding)
    parts = []
    real = FileArray.__getitem__

    def getitem(self: FileArray, index: Any) -> np.ndarray:
        parts.append(real(self, index).shape)
        return real(self, index)

    monkeypatch.setattr(FileArray, "__getitem__", getitem)
    model.load_state_dict(jm.load(tmp_path / "a.safetensors", mmap=mmap))
    assert (model.weight.value.sharding, model.weight.dtype) == (sharding, jnp.bfloat16)
    np.testing.assert_array_equal(np.asarray(model.weight.value, np.float32), state["weight"])
    assert (
        parts
        == ([sharding.shard_shape((4, 8))] * len({*map(repr, sharding.devices_indices_map((4, 8)).values())})) * mmap
    )


def test_a_scalar_of_one_dimension_in_a_file(tmp_path: Path) -> None:
    class Old(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(jnp.zeros(()))

    jm.save({"scale": np.array([3], np.float32)}, tmp_path / "a.safetensors")
    for model in (Old(), jm.eval_shape(Old)):
        model.load_state_dict(jm.load(tmp_path / "a.safetensors", mmap=True))
        assert (model.scale.shape, float(model.scale)) == ((), 3)


def test_a_hook_may_compute_with_what_is_in_the_file(tmp_path: Path) -> None:
    model: Any = jm.eval_shape(nn.Linear, 3, 4)

    def double(module: Any, state: Any, prefix: str, *rest: Any) -> None:
        state[f"{prefix}weight"] = jnp.add(state[f"{prefix}weight"], state[f"{prefix}weight"])

    model.register_load_state_dict_pre_hook(double)
    jm.save(nn.Linear(3, 4).state_dict(), tmp_path / "a.safetensors")
    model.load_state_dict(jm.load(tmp_path / "a.safetensors", mmap=True))
    np.testing.assert_array_equal(model.weight, 2 * jm.load(tmp_path / "a.safetensors")["weight"])


def test_lazy_parameters_take_what_is_in_the_file(tmp_path: Path) -> None:
    jm.save({"weight": np.ones((4, 3), np.float16), "bias": np.ones(4, np.float16)}, tmp_path / "a.safetensors")
    for dtype, expected in (("model", jnp.float32), ("file", jnp.float16)):
        model = nn.LazyLinear(4)
        model.load_state_dict(jm.load(tmp_path / "a.safetensors", mmap=True), dtype=dtype)  # pyright: ignore
        assert (model.weight.shape, model.weight.dtype) == ((4, 3), expected)


def test_assign_takes_a_file_as_it_is(tmp_path: Path) -> None:
    jm.save({"weight": np.ones((4, 3), np.float16)}, tmp_path / "a.safetensors")
    model: Any = jm.eval_shape(nn.Linear, 3, 4, bias=False)
    report = model.load_state_dict(jm.load(tmp_path / "a.safetensors", mmap=True), assign=True)
    assert (model.weight.dtype, report.cast) == (jnp.float16, [])
    assert report.retyped == [("weight", "float32", "float16")]


def test_a_file_that_breaks_while_it_is_loaded_leaves_the_model(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    jm.save(net().state_dict(), path)
    model = net()
    before = {name: box.value for name, box in model.state_dict(keep_vars=True).items()}
    found = jm.load(path, mmap=True)
    with open(path, "r+b") as file:
        file.truncate(path.stat().st_size - 8)
    with pytest.raises(jm.io.FileFormatError, match="became shorter while it was read"):
        model.load_state_dict(found)
    assert all(box.value is before[name] for name, box in model.state_dict(keep_vars=True).items())


_MEMORY = """
import json, sys, resource
from pathlib import Path
import jax, jax.numpy as jnp, numpy as np
import jaxmodule as jm
from jaxmodule import nn

def build():
    return nn.Sequential(*[nn.Linear(2000, 500, bias=False) for _ in range(15)])

def status(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(field)).split()[1])

path, dtype = sys.argv[1:]
small = jm.eval_shape(nn.Linear, 2, 2)
jm.save(nn.Linear(2, 2).state_dict(), path + "small")
small.load_state_dict(jm.load(path + "small", mmap=True))
model = jm.eval_shape(build)
Path("/proc/self/clear_refs").write_text("5")
before = status("VmRSS")
model.load_state_dict(jm.load(path, mmap=True), dtype=dtype)
jax.block_until_ready([p.value for p in model.parameters()])
print(json.dumps(status("VmHWM") - before))
"""


@pytest.mark.parametrize("kind", ["safetensors", "sharded", "float16"])
def test_memory_of_a_load_is_that_of_the_model(tmp_path: Path, kind: str) -> None:
    """One tensor in flight: 60 MB of weights, of 4 MB each, in no more than a tenth more than they have."""
    dtype = np.float16 if kind == "float16" else np.float32
    state = {f"{i}.weight": np.ones((500, 2000), dtype) for i in range(15)}
    path = tmp_path / "model.safetensors"
    if kind == "sharded":
        path = tmp_path / "model.safetensors.index.json"
    jm.save(state, path, max_shard_size="20MB" if kind == "sharded" else None)
    script = _MEMORY.replace('path + "small"', repr(str(tmp_path / "small.safetensors")))
    done = subprocess.run(
        [sys.executable, "-c", script, str(path), "model"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    in_flight = 2_000_000 if kind == "float16" else 0  # of the file's dtype, before it is cast
    assert json.loads(done.stdout) <= 1.1 * 60e6 + in_flight

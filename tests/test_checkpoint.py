"""`save_checkpoint` and `load_checkpoint`: resuming bit for bit, what comes back, and nothing half loaded."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest

import jaxmodule as jm
from jaxmodule import nn
from jaxmodule.io.checkpoint import (
    CheckpointWarning,
    latest_checkpoint,
    list_checkpoints,
    load_checkpoint,
    save_checkpoint,
)
from jaxmodule.nn import functional as F

ROOT = Path(__file__).parent.parent


def assert_same(a, b) -> None:
    a, b = np.asarray(a), np.asarray(b)
    assert (a.dtype, a.shape) == (b.dtype, b.shape)
    assert a.tobytes() == b.tobytes()


def assert_same_tree(a, b) -> None:
    """Equal in structure, types and bits."""
    if isinstance(a, jax.Array) and jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
        assert jax.random.key_impl(a) == jax.random.key_impl(b)
        a, b = jax.random.key_data(a), jax.random.key_data(b)
    if isinstance(a, jax.Array):
        assert isinstance(b, jax.Array)
        assert_same(a, b)
    elif isinstance(a, np.ndarray | np.generic):
        assert type(a) is type(b)
        assert_same(a, b)
    elif isinstance(a, dict):
        assert isinstance(b, dict)
        assert list(a) == list(b)
        assert [type(key) for key in a] == [type(key) for key in b]
        for key in a:
            assert_same_tree(a[key], b[key])
    elif isinstance(a, list | tuple):
        assert type(a) is type(b)
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same_tree(x, y)
    else:
        assert type(a) is type(b)
        assert repr(a) == repr(b)  # NaN and -0.0, too


def run_python(code: str) -> str:
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]),
    }
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=env)
    assert done.returncode == 0, done.stderr
    return done.stdout


class Net(nn.Module):
    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.stem = nn.Linear(4, width)
        self.norm = nn.BatchNorm1d(width)
        self.drop = nn.Dropout(0.3)
        self.head = nn.Linear(width, 3)

    def forward(self, x):
        return self.head(self.drop(F.relu(self.norm(self.stem(x)))))


def everything(model, optimizer) -> dict:
    state = {"model": dict(model.state_dict()), "optimizer": optimizer.state_dict()}
    return {**state, "random": jm.get_rng_state(), "seed": jm.initial_seed()}


@pytest.fixture
def directory(tmp_path):
    return tmp_path / "run"


# -- resuming is the same as not stopping ----------------------------------------------------------------------------


def adamw(model):
    return jm.optim.AdamW(model.parameters(), lr=1e-2)


def amsgrad_in_groups(model):
    groups = [
        {"params": model.stem.named_parameters(prefix="stem"), "lr": 3e-3, "note": ("a", 1)},
        {"params": [*model.norm.named_parameters(prefix="norm"), *model.head.named_parameters(prefix="head")]},
    ]
    return jm.optim.Adam(groups, lr=1e-2, amsgrad=True, weight_decay=0.1)


def momentum(model):
    model.stem.weight.requires_grad = False
    return jm.optim.SGD(model.parameters(), lr=1e-2, momentum=0.9, nesterov=True)


def frozen(model):
    model.head.requires_grad_(False)
    return jm.optim.Adam(model.parameters(), lr=1e-2)


def lion(model):
    return jm.optim.Optimizer(model.parameters(), optax.lion(1e-2))


def clipped(model):
    schedule = optax.cosine_decay_schedule(1e-2, 100)
    return jm.optim.Optimizer(model.parameters(), optax.chain(optax.clip_by_global_norm(0.1), optax.adam(schedule)))


MAKERS = {make.__name__: make for make in (adamw, amsgrad_in_groups, momentum, frozen, lion, clipped)}


@jm.jit
def train_step(model, optimizer, x, y):
    loss, grads = jm.value_and_grad(lambda m: F.cross_entropy(m(x), y))(model)
    optimizer.step(grads)
    for group in optimizer.param_groups:
        if "lr" in group:
            group["lr"] = group["lr"] * 0.9  # a schedule inside the program
    return loss


def train(kind: str, model, optimizer, start: int, stop: int) -> None:
    for step in range(start, stop):
        rng = np.random.default_rng(step)
        if step == 2 and optimizer.param_groups and "lr" in optimizer.param_groups[-1]:
            optimizer.param_groups[-1]["lr"] = 0.0123  # and one outside
        if step == 4 and kind == "frozen":
            model.head.requires_grad_(True)
        x, y = jnp.asarray(rng.normal(size=(16, 4)), jnp.float32), jnp.asarray(rng.integers(3, size=16))
        with jax.numpy_dtype_promotion("standard"):  # optax's adam and schedules need it
            train_step(model, optimizer, x, y)


def start(kind: str, seed: int):
    jm.manual_seed(seed)
    model = Net()
    return model, MAKERS[kind](model)


def resume(kinds: list[str], directory: str, out: str) -> None:
    """What the other process runs: the second half of each kind of training."""
    for kind in kinds:
        model, optimizer = start(kind, seed=12345)  # of which nothing may be left
        checkpoint = load_checkpoint(os.path.join(directory, kind), model=model, optimizer=optimizer)
        train(kind, model, optimizer, checkpoint.extra["next"], 6)
        save_checkpoint(os.path.join(out, kind), 0, extra=everything(model, optimizer), generator=False)


@pytest.mark.parametrize(
    "kinds", [["adamw", "momentum"], pytest.param(list(MAKERS), marks=pytest.mark.slow)], ids=["two", "all"]
)
def test_training_goes_on_in_another_process_bit_for_bit(tmp_path, kinds):
    straight = {}
    for kind in kinds:
        model, optimizer = start(kind, seed=7)
        train(kind, model, optimizer, 0, 6)
        straight[kind] = everything(model, optimizer)

        model, optimizer = start(kind, seed=7)
        train(kind, model, optimizer, 0, 3)
        save_checkpoint(tmp_path / "in" / kind, 3, model=model, optimizer=optimizer, extra={"next": 3})
    arguments = f"{kinds}, {str(tmp_path / 'in')!r}, {str(tmp_path / 'out')!r}"
    run_python(f"import tests.conftest; from tests.test_checkpoint import resume; resume({arguments})")
    for kind, expected in straight.items():
        assert_same_tree(expected, load_checkpoint(tmp_path / "out" / kind, generator=False).extra)


@pytest.mark.parametrize("kind", MAKERS)
def test_going_back_in_the_same_process(directory, kind):
    model, optimizer = start(kind, seed=7)
    train(kind, model, optimizer, 0, 3)
    flags = {name: p.requires_grad for name, p in model.named_parameters()}
    save_checkpoint(directory, 3, model=model, optimizer=optimizer)
    ends = []
    for _ in range(2):
        train(kind, model, optimizer, 3, 6)
        ends.append(everything(model, optimizer))
        load_checkpoint(directory, model=model, optimizer=optimizer)
        for name, p in model.named_parameters():
            p.requires_grad = flags[name]
    assert_same_tree(*ends)


def test_saving_changes_nothing(directory):
    model, optimizer = start("adamw", seed=0)
    before = everything(model, optimizer)
    boxes = {box: box.value for box in [*model.parameters(), *model.buffers()]}
    save_checkpoint(directory, 0, model=model, optimizer=optimizer)
    assert_same_tree(before, everything(model, optimizer))
    assert all(box.value is value for box, value in boxes.items())


def test_what_compiled_once_compiles_no_more(directory):
    model, optimizer = start("adamw", seed=0)
    train("adamw", model, optimizer, 0, 2)
    save_checkpoint(directory, 2, model=model, optimizer=optimizer)
    load_checkpoint(directory, model=model, optimizer=optimizer)
    traces = []

    @jm.jit
    def step(model, optimizer, x):
        traces.append(None)
        grads = jm.grad(lambda m: m(x).sum())(model)
        optimizer.step(grads)

    for _ in range(2):
        step(model, optimizer, jnp.ones((4, 4)))
        load_checkpoint(directory, model=model, optimizer=optimizer)
    assert len(traces) == 1


# -- what comes back ---------------------------------------------------------------------------------------------------


def rich_state() -> dict:
    shared = jnp.arange(6.0).reshape(2, 3)
    return {
        "plain": [None, True, 0, -(2**70), 1.5, -0.0, 1e-310, float("nan"), float("inf"), -float("inf"), "ä\ud800", ""],
        "tuple": (1, (2, [3, ()]), {}),
        "keys": {0: "a", True: "c", "b": 2, (3, "c"): [4], None: 5, 2.5: 6},
        "dollar": {"$array": "x", "y": {"$tuple": 1}},
        "bytes": b"\x00\xff",
        "complex": complex(float("nan"), -0.0),
        "jax": {"f32": shared, "again": shared, "bf16": jnp.ones(3, jnp.bfloat16), "empty": jnp.zeros((0, 2))},
        "scalar": jnp.int32(3),
        "numpy": [np.arange(5), np.float64(0.1), np.array(2.0), np.arange(6.0).reshape(2, 3).T, np.array([1 + 2j])],
        "small": [np.arange(-8, 8).astype(ml_dtypes.int4), jnp.arange(6, dtype=jnp.uint4).reshape(2, 3)],
        "float8": [jnp.ones(2, jnp.float8_e4m3fn), jnp.ones((2, 0, 1), jnp.float8_e4m3b11fnuz)],
        "keys of jax": [jax.random.key(3), jax.random.split(jax.random.key(1, impl="rbg"), 2)],
        "a.b": {"c": jnp.ones(1)},
        "a": {"b.c": jnp.zeros(1)},
        "python": random.Random(1).getstate(),
        "rng": np.random.default_rng(1).bit_generator.state,
        "old rng": np.random.RandomState(1).get_state(),
    }


def test_extra_comes_back_in_values_and_types(directory):
    state = rich_state()
    save_checkpoint(directory, 0, extra=state)
    assert_same_tree(state, load_checkpoint(directory).extra)
    rng = np.random.default_rng(2)
    rng.bit_generator.state = load_checkpoint(directory).extra["rng"]
    assert rng.random() == np.random.default_rng(1).random()


@pytest.mark.parametrize("extra", [None, 3, "text", [], {}, np.arange(3)], ids=str)
def test_extra_of_any_kind(directory, extra):
    save_checkpoint(directory, 0, extra=extra)
    assert_same_tree(extra, load_checkpoint(directory).extra)


def test_x64(directory):
    with jax.enable_x64(True):
        state = {"a": jnp.arange(3.0), "z": jnp.array([1j]), "i": jnp.arange(3)}
        assert state["a"].dtype == jnp.float64
        save_checkpoint(directory, 0, extra=state)
        assert_same_tree(state, load_checkpoint(directory).extra)
    back = load_checkpoint(directory).extra  # JAX would cut them to 32 bits: they stay numpy's
    for name, array in state.items():
        assert isinstance(back[name], np.ndarray)
        assert_same(back[name], array)


def test_what_is_in_the_directory(directory):
    model = Net()
    path = save_checkpoint(directory, 7, model=model, optimizer=adamw(model), extra={"epoch": 1})
    assert path == str(directory / "step_00000007")
    assert sorted(os.listdir(directory)) == ["step_00000007"]
    assert sorted(os.listdir(path)) == ["checkpoint.json", "model.safetensors", "optimizer.safetensors"]
    document = json.loads(Path(path, "checkpoint.json").read_text())
    assert document["step"] == 7
    assert document["versions"]["jax"] == jax.__version__
    assert document["contents"]["extra"] == {"epoch": 1}
    state = jm.load(os.path.join(path, "model.safetensors"))  # an ordinary state dict
    assert_same_tree(dict(model.state_dict()), dict(state))
    assert state._metadata == model.state_dict()._metadata
    checkpoint = load_checkpoint(directory, model=model)
    assert checkpoint.metadata["versions"] == document["versions"]
    assert (checkpoint.step, checkpoint.path, checkpoint.skipped) == (7, path, ())
    assert not checkpoint.report.missing_keys
    assert set(checkpoint.report.loaded) == set(model.state_dict())


def test_several_by_name(directory):
    nets = {"net": Net(), "ema": Net()}
    optimizers = {"net": adamw(nets["net"]), "other": adamw(nets["ema"])}
    generators = {"data": jm.Generator(1), "noise": jm.Generator(jax.random.key(2, impl="rbg"))}
    generators["data"].next_key()
    path = save_checkpoint(directory, 1, model=nets, optimizer=optimizers, generator=generators)
    assert {"model.net.safetensors", "optimizer.other.safetensors"} < set(os.listdir(path))
    fresh = {name: Net() for name in nets}
    others = {"net": adamw(fresh["net"]), "other": adamw(fresh["ema"])}
    new = {"data": jm.Generator(8), "noise": jm.Generator(9)}
    default = jm.get_rng_state()
    checkpoint = load_checkpoint(directory, model=fresh, optimizer=others, generator=new)
    assert set(checkpoint.report) == {"net", "ema"}
    for name in nets:
        assert_same_tree(dict(nets[name].state_dict()), dict(fresh[name].state_dict()))
    assert_same(jm.get_rng_state(), default)
    for name in new:
        assert repr(new[name]) == repr(generators[name])
        for _ in range(2):
            assert_same_tree(new[name].next_key(), generators[name].next_key())
    only = Net()
    load_checkpoint(directory, model={"ema": only}, generator=False)
    assert_same_tree(dict(nets["ema"].state_dict()), dict(only.state_dict()))


def test_the_default_generator(directory):
    jm.manual_seed(5)
    jm.next_key()
    save_checkpoint(directory, 1)
    following = jm.next_key()
    jm.manual_seed(6)
    load_checkpoint(directory)
    assert jm.initial_seed() == 5
    assert_same_tree(following, jm.next_key())
    after = jm.get_rng_state()
    load_checkpoint(directory, generator=False)
    assert_same(jm.get_rng_state(), after)
    save_checkpoint(directory, 2, generator=False)
    load_checkpoint(directory)
    assert_same(jm.get_rng_state(), after)
    with pytest.raises(KeyError, match="saved without 'generator'"):
        load_checkpoint(directory, generator=jm.Generator(0))


class Scheduler:
    """As torch's: plain numbers, and a state that is given back as it is."""

    def __init__(self) -> None:
        self.count, self.history = 0, np.zeros(2)

    def state_dict(self):
        return {"count": self.count, "history": self.history}

    def load_state_dict(self, state):
        self.count, self.history = state["count"], state["history"] + 0


def test_a_scheduler(directory):
    model = Net()
    scheduler, optimizer = Scheduler(), adamw(model)
    scheduler.count, scheduler.history = 4, np.arange(2.0)
    save_checkpoint(directory, 1, optimizer={"adamw": optimizer, "schedule": scheduler}, extra=scheduler)
    new = Scheduler()
    checkpoint = load_checkpoint(directory, optimizer={"schedule": new})
    assert_same_tree(new.state_dict(), scheduler.state_dict())
    assert_same_tree(checkpoint.extra, scheduler.state_dict())


class Counting(nn.Linear):
    def __init__(self) -> None:
        super().__init__(2, 2)
        self.seen = {"n": 0, "last": jnp.zeros(2)}

    def get_extra_state(self):
        return self.seen

    def set_extra_state(self, state):
        self.seen = state


def test_extra_state_of_modules(directory):
    model, new = nn.Sequential(Counting()), nn.Sequential(Counting())
    model[0].seen = {"n": 3, "last": jnp.ones(2)}
    save_checkpoint(directory, 1, model=model)
    load_checkpoint(directory, model=new)
    assert_same_tree(new[0].seen, model[0].seen)


def test_tied_weights(directory):
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    path = save_checkpoint(directory, 1, model=model, optimizer=adamw(model))
    new = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    new[1].weight = new[0].weight
    load_checkpoint(directory, model=new, optimizer=adamw(new))
    assert new[1].weight is new[0].weight
    assert_same(new[1].weight, model[0].weight)
    assert len(jm.load(path + "/model.safetensors")) == 4


def test_shardings_and_devices(directory):
    mesh = jax.make_mesh((4,), ("x",))
    sharding = jax.sharding.NamedSharding(mesh, jax.P("x"))
    model = nn.Linear(4, 8)
    for p in model.parameters():
        p.value = jax.device_put(p.value, sharding)
    optimizer = adamw(model)
    optimizer.step({name: jnp.ones_like(p.value) for name, p in model.named_parameters()})
    save_checkpoint(directory, 1, model=model, optimizer=optimizer)
    state = optimizer.state_dict()["state"]
    for place in (sharding, jax.sharding.SingleDeviceSharding(jax.devices()[2]), None):
        new = nn.Linear(4, 8)
        for p in new.parameters():
            p.value = p.value if place is None else jax.device_put(p.value, place)
        other = adamw(new)
        load_checkpoint(directory, model=new, optimizer=other)
        moments = other.state_dict()["state"]["weight"]["exp_avg"]
        assert_same(new.weight, model.weight)
        assert_same(moments, state["weight"]["exp_avg"])
        if place is not None:
            assert new.weight.value.sharding == place
            assert moments.sharding == place


def test_into_a_meta_model(directory):
    model = Net()
    save_checkpoint(directory, 1, model=model)
    new = jm.eval_shape(Net)
    load_checkpoint(directory, model=new)
    assert_same_tree(dict(model.state_dict()), dict(new.state_dict()))


# -- steps, keep, and what there is ------------------------------------------------------------------------------------


def steps(directory) -> list[int]:
    return [found.step for found in list_checkpoints(directory)]


def test_keep(directory):
    for step in (1, 5, 3, 12):
        save_checkpoint(directory, step, extra=step)
    assert steps(directory) == [12, 5, 3, 1]
    assert latest_checkpoint(directory) == (12, str(directory / "step_00000012"))
    save_checkpoint(directory, 13, extra=13, keep=3)
    assert steps(directory) == [13, 12, 5]
    save_checkpoint(directory, 13, extra="again", keep=1)
    assert steps(directory) == [13]
    assert load_checkpoint(directory).extra == "again"
    assert sorted(os.listdir(directory)) == ["step_00000013"]


def test_keep_leaves_newer_ones_and_damaged_ones(directory):
    for step in range(1, 6):
        save_checkpoint(directory, step, extra=np.arange(step))
    (directory / "step_00000002" / "extra.safetensors").unlink()
    save_checkpoint(directory, 3, keep=1)  # a run that was taken back to step 2
    assert steps(directory) == [5, 4, 3]
    assert "step_00000002" in os.listdir(directory)


def test_keep_leaves_what_is_not_its_own(directory):
    names = ["step_1", "step_000000001", "step_00000001.bak", "notes", ".step_00000001.tmp", "step_00000001"]
    for name in names:
        (directory / name).mkdir(parents=True)
        (directory / name / "file").write_text("mine")
    save_checkpoint(directory, 2, keep=1)
    assert sorted(os.listdir(directory)) == sorted([*names, "step_00000002"])


def test_an_old_one_that_cannot_be_removed(directory, monkeypatch):
    save_checkpoint(directory, 1)
    rename = os.rename

    def refuse(a, b):
        if "00000001" in str(a):
            raise PermissionError(13, "Permission denied", a)
        rename(a, b)

    monkeypatch.setattr(os, "rename", refuse)
    with pytest.warns(CheckpointWarning, match="step_00000001' could not be removed: .*Permission denied"):
        save_checkpoint(directory, 2, keep=1)
    assert steps(directory) == [2, 1]


def test_one_step(directory):
    for step in (1, 2, 123456789):
        save_checkpoint(directory, step, extra=step)
    assert load_checkpoint(directory, 2).extra == 2
    assert load_checkpoint(directory, np.int64(1)).step == 1
    assert load_checkpoint(directory).step == 123456789
    with pytest.raises(FileNotFoundError, match="no checkpoint of step 3; it has those of 123456789, 2, 1"):
        load_checkpoint(directory, 3)


def test_no_checkpoints(directory):
    with pytest.raises(FileNotFoundError, match=r"run'.*no such directory"):
        load_checkpoint(directory)
    assert latest_checkpoint(directory) is None
    directory.mkdir()
    (directory / "other").write_text("")
    assert list_checkpoints(directory) == []
    with pytest.raises(FileNotFoundError, match="run' has no checkpoint in it"):
        load_checkpoint(directory)


@pytest.mark.parametrize("step", [-1, 10**18, True])
def test_wrong_steps(directory, step):
    with pytest.raises(ValueError, match="step must be a number from 0 on"):
        save_checkpoint(directory, step)
    with pytest.raises(TypeError):
        save_checkpoint(directory, 1.0)
    assert not directory.exists()


@pytest.mark.parametrize("keep", [0, -1, True, 1.5])
def test_wrong_keep(directory, keep):
    with pytest.raises(ValueError, match="keep must be None or a number"):
        save_checkpoint(directory, 1, keep=keep)
    assert not directory.exists()


# -- what cannot be saved ----------------------------------------------------------------------------------------------


def in_itself():
    found: list = []
    found.append(found)
    return found


@pytest.mark.parametrize(
    ("extra", "error", "match"),
    [
        ({"a": [1, object()]}, TypeError, r"extra\['a'\]\[1\] is a object, which a checkpoint cannot hold"),
        ({"a": {1, 2}}, TypeError, r"extra\['a'\] is a set"),
        (optax.ScaleByRmsState(nu=jnp.ones(2)), TypeError, r"extra is a ScaleByRmsState.*jax\.tree\.leaves"),
        (np.array(["a"]), TypeError, "extra is an array of <U1"),
        (np.array([object()]), TypeError, "extra is an array of object"),
        (jax.ShapeDtypeStruct((2,), jnp.float32), ValueError, "extra is on the meta device"),
        (in_itself(), ValueError, r"extra\[0\]\[0\].* is nested more than 100 deep, or holds itself"),
        ({np.int64(3): 1}, TypeError, "extra has an array as a key"),
    ],
    ids=["object", "set", "namedtuple", "str", "objects", "meta", "cycle", "key"],
)
def test_extra_that_is_refused(directory, extra, error, match):
    with pytest.raises(error, match=match):
        save_checkpoint(directory, 1, extra=extra)
    assert not directory.exists()


def test_objects_that_are_refused(directory):
    model = Net()
    for arguments, match in [
        ({"model": dict(model.state_dict())}, "cannot be part of a file's name"),
        ({"model": {"a": jnp.ones(2)}}, "model.a is a ArrayImpl without state_dict"),
        ({"optimizer": 3}, "optimizer is a int without state_dict"),
        ({"generator": jax.random.key(0)}, "generator is a .*, not a Generator"),
        ({"generator": True}, "generator is a bool, not a Generator"),
        ({"model": {"../x": model}}, "'../x' cannot be part of a file's name"),
        ({"model": nn.LazyLinear(3)}, r"model\['weight'\] has no shape yet: call the model once"),
        ({"model": jm.eval_shape(Net)}, r"model\['stem.weight'\] is on the meta device"),
    ]:
        with pytest.raises((TypeError, ValueError), match=match):
            save_checkpoint(directory, 1, **arguments)
    assert not directory.exists()


def test_inside_a_trace(directory):
    @jm.jit
    def step(model):
        save_checkpoint(directory, 1, model=model)

    with pytest.raises(RuntimeError, match="save_checkpoint inside a function that is being traced"):
        step(Net())
    assert not directory.exists()


# -- all or nothing ----------------------------------------------------------------------------------------------------


def test_an_optimizer_that_does_not_match_leaves_the_model_as_it_was(directory):
    model = Net()
    save_checkpoint(directory, 1, model=model, optimizer=adamw(model))
    other = Net()
    for optimizer in (
        momentum(other),
        jm.optim.AdamW([other.stem.weight]),
        jm.optim.Adam([{"params": [p]} for p in other.parameters()]),
    ):
        before, values = everything(other, optimizer), [p.value for p in other.parameters()]
        with pytest.raises(ValueError, match="loaded state"):
            load_checkpoint(directory, model=other, optimizer=optimizer)
        assert_same_tree(before, everything(other, optimizer))
        assert all(p.value is value for p, value in zip(other.parameters(), values, strict=True))


def test_a_model_that_does_not_match_leaves_the_optimizers_as_they_were(directory):
    model = Net()
    optimizer, scheduler = adamw(model), Scheduler()
    train("adamw", model, optimizer, 0, 1)
    scheduler.count = 7
    save_checkpoint(directory, 1, model={"a": model, "b": Net(5)}, optimizer={"o": optimizer, "s": scheduler})
    new, wrong = Net(), Net(6)
    new_optimizer, new_scheduler = adamw(new), Scheduler()
    train("adamw", new, new_optimizer, 0, 2)
    before = everything(new, new_optimizer)
    with pytest.raises(RuntimeError, match="size mismatch for stem.weight"):
        load_checkpoint(directory, model={"a": new, "b": wrong}, optimizer={"o": new_optimizer, "s": new_scheduler})
    assert_same_tree(before, everything(new, new_optimizer))
    assert new_scheduler.count == 0
    load_checkpoint(directory, model={"a": new}, optimizer={"o": new_optimizer, "s": new_scheduler})
    assert new_scheduler.count == 7


def test_strict(directory):
    save_checkpoint(directory, 1, model=nn.Sequential(nn.Linear(3, 3)))
    new = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    with pytest.raises(RuntimeError, match="Missing key"):
        load_checkpoint(directory, model=new)
    with pytest.warns(UserWarning, match=r"1\.weight"):
        report = load_checkpoint(directory, model=new, strict=False).report
    assert report.missing_keys == ["1.weight", "1.bias"]


def test_a_part_that_was_not_saved(directory):
    model = Net()
    save_checkpoint(directory, 1, model=model, generator=False)
    with pytest.raises(KeyError, match=r"step_00000001' was saved without 'optimizer'; it has 'model'"):
        load_checkpoint(directory, model=model, optimizer=adamw(model))
    with pytest.raises(KeyError, match=r"saved without 'model.net'; it has 'model'"):
        load_checkpoint(directory, model={"net": model})


def test_a_frozen_parameter_has_no_state_left_of_later(directory):
    model = Net()
    optimizer = frozen(model)
    train("adamw", model, optimizer, 0, 2)
    save_checkpoint(directory, 2, model=model, optimizer=optimizer)
    model.head.requires_grad_(True)
    train("adamw", model, optimizer, 2, 4)
    load_checkpoint(directory, model=model, optimizer=optimizer)
    state = optimizer.state_dict()["state"]
    assert int(state["stem.weight"]["step"]) == 2
    assert int(state["head.weight"]["step"]) == 0
    assert not np.any(state["head.weight"]["exp_avg"])

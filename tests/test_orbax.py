"""`jaxmodule.io.orbax`: as `save_checkpoint` and `load_checkpoint`, with sharded arrays and in the background."""

import builtins
import gc
import os
import socket
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmodule as jm
from jaxmodule import nn
from jaxmodule.io import FileFormatError
from jaxmodule.io import orbax as checkpoints
from jaxmodule.io.checkpoint import CheckpointWarning
from tests.test_checkpoint import (
    ROOT,
    Counting,
    Net,
    Scheduler,
    adamw,
    amsgrad_in_groups,
    assert_same,
    assert_same_tree,
    everything,
    momentum,
    rich_state,
    train,
)

# What orbax leaves behind where it gives up: reads that end in an event loop which is closed, listings of folders.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(autouse=True)
def _collected():
    yield
    gc.collect()  # here, not in somebody else's test


@pytest.fixture
def directory(tmp_path):
    return tmp_path / "run"


def mesh_of(*shape: int) -> jax.sharding.Mesh:
    return jax.make_mesh(shape, ("x", "y")[: len(shape)])


def sharded(spec, *shape: int) -> jax.sharding.NamedSharding:
    return jax.sharding.NamedSharding(mesh_of(*shape), spec)


def sharded_model(place) -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 4))
    for p in model.parameters():
        p.value = jax.device_put(p.value, place)
    return model


@pytest.mark.parametrize("make", [adamw, amsgrad_in_groups, momentum])
def test_training_goes_on_bit_for_bit(directory, make):
    jm.manual_seed(3)
    model = Net()
    optimizer = make(model)
    train("", model, optimizer, 0, 2)
    checkpoints.save_checkpoint(directory, 2, model=model, optimizer=optimizer, extra={"next": 2})
    train("", model, optimizer, 2, 4)
    jm.manual_seed(4)
    new = Net()
    new_optimizer = make(new)
    checkpoint = checkpoints.load_checkpoint(directory, model=new, optimizer=new_optimizer)
    train("", new, new_optimizer, checkpoint.extra["next"], 4)
    assert_same_tree(everything(model, optimizer), everything(new, new_optimizer))


def test_sharded_arrays_go_to_another_sharding(directory):
    model = sharded_model(sharded(jax.P("x"), 4))
    optimizer = adamw(model)
    optimizer.step({name: jnp.ones_like(p.value) for name, p in model.named_parameters()})
    path = checkpoints.save_checkpoint(directory, 1, model=model, optimizer=optimizer)
    assert path == str(directory / "step_00000001")
    moments = optimizer.state_dict()["state"]["0.weight"]["exp_avg"]
    for place in (
        sharded(jax.P("x"), 4),
        sharded(jax.P(("x", "y")), 2, 2),
        sharded(jax.P(), 4),
        jax.sharding.SingleDeviceSharding(jax.devices()[3]),
    ):
        new = sharded_model(place)
        other = adamw(new)
        checkpoints.load_checkpoint(directory, model=new, optimizer=other)
        for name, p in new.named_parameters():
            assert p.value.sharding == place
            assert_same(p, model.get_parameter(name))
        back = other.state_dict()["state"]["0.weight"]["exp_avg"]
        assert back.sharding == place
        assert_same(back, moments)
    new = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 4))
    checkpoints.load_checkpoint(directory, model=new)
    assert_same(new[0].weight, model[0].weight)
    assert len(new[0].weight.value.devices()) == 1


def test_extra_comes_back_in_values_and_types(directory):
    state = rich_state()
    checkpoints.save_checkpoint(directory, 0, extra=state)
    assert_same_tree(state, checkpoints.load_checkpoint(directory).extra)


@pytest.mark.parametrize("extra", [None, 3, [], {}, np.arange(3), np.zeros(0)], ids=str)
def test_extra_of_any_kind(directory, extra):
    checkpoints.save_checkpoint(directory, 0, extra=extra, generator=False)
    assert_same_tree(extra, checkpoints.load_checkpoint(directory, generator=False).extra)


def test_several_by_name(directory):
    nets, scheduler = {"net": Net(), "counting": Counting()}, Scheduler()
    nets["counting"].seen, scheduler.count = {"n": 3, "last": jnp.ones(2)}, 5
    generator = jm.Generator(jax.random.key(2, impl="rbg"))
    generator.next_key()
    checkpoints.save_checkpoint(directory, 1, model=nets, optimizer={"s": scheduler}, generator=generator)
    fresh, new_scheduler, new = {"net": Net(), "counting": Counting()}, Scheduler(), jm.Generator(0)
    report = checkpoints.load_checkpoint(directory, model=fresh, optimizer={"s": new_scheduler}, generator=new).report
    assert set(report) == set(nets)
    for name in nets:
        assert_same_tree(dict(nets[name].state_dict()), dict(fresh[name].state_dict()))
    assert_same_tree(scheduler.state_dict(), new_scheduler.state_dict())
    assert_same_tree(generator.next_key(), new.next_key())
    with pytest.raises(KeyError, match=r"saved without 'model\.other'; it has 'model\.net'"):
        checkpoints.load_checkpoint(directory, model={"other": Net()}, generator=False)


def test_in_the_background(directory):
    """The arrays are those of the moment of the call, whatever happens to them while they are written."""

    @jm.jit(donate="model")
    def step(model):
        for p in model.parameters():
            p.value = p.value + 1

    model, numbers = nn.Linear(256, 256), np.zeros(1000)
    savings, expected = [], []
    for i in range(3):
        savings.append(checkpoints.save_checkpoint(directory, i, model=model, extra=numbers, wait=False))
        expected.append(np.array(model.weight))
        numbers += 1
        for _ in range(3):
            step(model)
    assert repr(savings[2]) == f"Saving(step=2, path={str(directory / 'step_00000002')!r})"
    assert [saving.wait() for saving in savings] == [saving.path for saving in savings]
    assert savings[0].wait() == savings[0].path
    for i in range(3):
        new = nn.Linear(256, 256)
        checkpoint = checkpoints.load_checkpoint(directory, i, model=new)
        assert_same(new.weight, expected[i])
        assert_same(checkpoint.extra, np.full(1000, i, np.float64))


def test_loading_waits_for_what_is_being_saved(directory):
    model = nn.Linear(64, 64)
    checkpoints.save_checkpoint(directory, 1, model=model, wait=False)
    assert checkpoints.load_checkpoint(directory, model=model).step == 1


def test_keep_and_steps(directory):
    for step in (1, 2, 3):
        checkpoints.save_checkpoint(directory, step, extra=step, keep=2)
    assert sorted(os.listdir(directory)) == ["step_00000002", "step_00000003"]
    assert checkpoints.load_checkpoint(directory, 2).extra == 2
    with pytest.raises(FileNotFoundError, match="no orbax checkpoint of step 1; it has 3, 2"):
        checkpoints.load_checkpoint(directory, 1)
    for step in (2, 3):
        with pytest.raises(ValueError, match=f"has a checkpoint of step 3, and steps must grow: {step} cannot"):
            checkpoints.save_checkpoint(directory, step)
    assert checkpoints.load_checkpoint(directory).extra == 3


def test_no_checkpoints(directory):
    with pytest.raises(FileNotFoundError, match="no such directory"):
        checkpoints.load_checkpoint(directory)
    directory.mkdir()
    with pytest.raises(FileNotFoundError, match="no orbax checkpoint; it has none"):
        checkpoints.load_checkpoint(directory)


def test_one_that_cannot_be_read_is_skipped(directory):
    for step in (1, 2):
        checkpoints.save_checkpoint(directory, step, model=Net(), extra=step)
    [data] = (directory / "step_00000002" / "arrays" / "d").iterdir()
    data.write_bytes(data.read_bytes()[:100])
    with pytest.warns(CheckpointWarning, match="step_00000002' was skipped"):
        checkpoint = checkpoints.load_checkpoint(directory, model=Net())
    assert checkpoint.extra == 1
    assert checkpoint.skipped[0][0] == str(directory / "step_00000002")
    with pytest.raises(FileFormatError, match="no orbax checkpoint that can be read:\n.*step_00000002"):
        checkpoints.load_checkpoint(directory, 2, model=Net())


def test_of_another_kind(directory):
    jm.io.checkpoint.save_checkpoint(directory, 1, model=Net())
    with pytest.raises((FileFormatError, FileNotFoundError), match="run' has no orbax checkpoint"):
        checkpoints.load_checkpoint(directory, model=Net())


def test_what_does_not_match_changes_nothing(directory):
    model = Net()
    checkpoints.save_checkpoint(directory, 1, model=model, optimizer=adamw(model))
    new = Net()
    for other, optimizer, error in ((new, momentum(new), ValueError), (Net(5), adamw(new), RuntimeError)):
        before = everything(new, optimizer)
        with pytest.raises(error):
            checkpoints.load_checkpoint(directory, model=other, optimizer=optimizer)
        assert_same_tree(before, everything(new, optimizer))


def test_without_orbax(directory, monkeypatch):
    real = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name.startswith("orbax"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    for name in [name for name in sys.modules if name.split(".")[0] == "orbax"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", refuse)
    for call in (lambda: checkpoints.save_checkpoint(directory, 1), lambda: checkpoints.load_checkpoint(directory)):
        with pytest.raises(ImportError, match="pip install orbax-checkpoint"):
            call()
    assert not directory.exists()


# -- several processes -------------------------------------------------------------------------------------------------


# Before anything starts JAX's backends, as this file does when it is imported.
TWO = """
import jax
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize("127.0.0.1:{port}", num_processes=2, process_id={process})
from tests.test_orbax import one_of_two
one_of_two({process}, {directory!r})
"""


def one_of_two(process: int, directory: str) -> None:
    """What each of two processes with two devices runs: no array is whole in either of them."""
    place = sharded(jax.P("x"), 4)

    def make(start: float) -> nn.Linear:
        model = nn.Linear(4, 8)
        for p in model.parameters():
            host = np.arange(start, start + p.size, dtype=np.float32).reshape(p.shape)
            p.value = jax.make_array_from_callback(p.shape, place, host.__getitem__)
        return model

    model, new = make(1), make(2)
    with pytest.raises(ValueError, match=r"model\['weight'\] is spread over several processes; .*orbax"):
        jm.io.checkpoint.save_checkpoint(f"{directory}-{process}", 1, model=model)
    checkpoints.save_checkpoint(directory, 1, model=model, extra={"n": 3})
    checkpoints.save_checkpoint(directory, 2, model=make(5), wait=False).wait()
    assert checkpoints.load_checkpoint(directory, 1, model=new).extra == {"n": 3}
    for name, p in new.named_parameters():
        assert p.value.sharding == place
        for a, b in zip(p.value.addressable_shards, model.get_parameter(name).value.addressable_shards, strict=True):
            assert_same(a.data, b.data)


@pytest.mark.slow
def test_two_processes(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    running = []
    for process in range(2):
        code = TWO.format(port=port, process=process, directory=str(tmp_path / "run"))
        with open(tmp_path / f"{process}.txt", "w") as log:
            running.append(subprocess.Popen([sys.executable, "-c", code], env=env, cwd=ROOT, stdout=log, stderr=log))
    try:
        codes = [process.wait(timeout=120) for process in running]
        assert codes == [0, 0], [(tmp_path / f"{process}.txt").read_text() for process in range(2)]
    finally:
        for process in running:
            process.kill()
            process.wait()

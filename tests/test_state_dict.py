"""The specification of `state_dict` and `load_state_dict`, apart from what tests/parity/test_state_dict.py compares.

What is saved is torch's; what is loaded is loaded whole or not at all, and the report says what happened.
"""

import copy
import pickle
import warnings
from collections import OrderedDict
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmodule as jm
from jaxmodule import nn


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2, bias=False))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 3)
        self.head = nn.Linear(3, 5, bias=False)
        self.head.weight = self.embed.weight


def contents(model: nn.Module) -> dict[str, np.ndarray]:
    boxes = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    return {str(name): np.asarray(box) for name, box in boxes}


def assert_same(a: dict[str, Any], b: dict[str, Any]) -> None:
    assert list(a) == list(b)
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)
        assert a[name].dtype == b[name].dtype, name


# -- saving -------------------------------------------------------------------------------------------------------
def test_a_state_dict_holds_arrays_by_dotted_name() -> None:
    """Those of the moment: training on changes the model, not the dict."""
    model = net()
    state = model.state_dict()
    assert type(state) is OrderedDict
    assert all(isinstance(value, jax.Array) for value in state.values())
    before = np.asarray(state["0.weight"])
    model[0].weight.add_(1.0)
    np.testing.assert_array_equal(state["0.weight"], before)


def test_keep_vars_gives_the_boxes() -> None:
    model = net()
    state = model.state_dict(keep_vars=True)
    assert state["0.weight"] is model[0].weight
    assert state["1.running_mean"] is model[1].running_mean


def test_a_tied_parameter_is_saved_under_every_name() -> None:
    state = Tied().state_dict()
    assert list(state) == ["embed.weight", "head.weight"]
    assert state["embed.weight"] is state["head.weight"]


def test_state_dict_under_jit_is_what_is_traced() -> None:
    model = net()
    out = jm.jit(lambda m: dict(m.state_dict()))(model)
    assert_same(out, dict(sorted(model.state_dict().items())))  # JAX sorts the keys of a dict


# -- the report ---------------------------------------------------------------------------------------------------
def test_the_report_is_torchs_named_tuple_and_says_what_happened() -> None:
    report = net().load_state_dict(net().state_dict())
    assert report == ([], [])
    missing, unexpected = report
    assert missing == unexpected == report.missing_keys == report.unexpected_keys
    assert report.loaded == [
        *("0.weight", "0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var", "1.num_batches_tracked"),
        "2.weight",
    ]
    assert report.cast == report.tied == report.untouched == []
    assert repr(report) == str(report) == "<All keys matched successfully>\n  loaded: 8"


def test_the_report_names_casts_ties_and_what_was_not_touched() -> None:
    state = {"embed.weight": np.zeros((5, 3), np.float16)}
    report = Tied().load_state_dict(state, strict=False)
    assert report.loaded == ["embed.weight"]
    assert report.cast == [("embed.weight", "float16", "float32")]
    assert report.tied == [("embed.weight", "head.weight")]
    assert report.untouched == []
    assert report.missing_keys == ["head.weight"]
    assert repr(report) == (
        "_IncompatibleKeys(missing_keys=['head.weight'], unexpected_keys=[])\n"
        "  loaded: 1\n"
        "  cast: embed.weight (float16 → float32)\n"
        "  tied: embed.weight = head.weight"
    )
    with pytest.warns(UserWarning, match="left these parameters of Linear as they were: bias"):
        report = nn.Linear(3, 2).load_state_dict({"weight": np.ones((2, 3), np.float32), "more": 1}, strict=False)
    assert report.untouched == ["bias"]
    assert report.unexpected_keys == ["more"]
    assert repr(report).endswith("loaded: 1\n  not touched: bias")


def test_a_report_survives_pickle() -> None:
    report = net().load_state_dict(net().state_dict())
    again = pickle.loads(pickle.dumps(report))
    assert again == report
    assert again.loaded == report.loaded


# -- lenient loads ------------------------------------------------------------------------------------------------
def test_a_lenient_load_that_loads_nothing_raises() -> None:
    model = net()
    before = contents(model)
    match = (
        r"strict=False\) matched nothing in Sequential: the model has \['0.weight', .*the state dict \['model.0.weight'"
    )
    with pytest.raises(RuntimeError, match=match):
        model.load_state_dict({f"model.{name}": value for name, value in model.state_dict().items()}, strict=False)
    with pytest.raises(RuntimeError, match="matched nothing"):
        model.load_state_dict({}, strict=False)
    assert_same(contents(model), before)
    assert nn.Identity().load_state_dict({}, strict=False) == ([], [])  # nothing to load is no mistake


def test_a_lenient_load_that_leaves_parameters_as_they_were_warns_with_their_names() -> None:
    model = net()
    state = {name: value for name, value in net().state_dict().items() if not name.startswith(("0", "1.running"))}
    with pytest.warns(UserWarning, match=r"left these parameters of Sequential as they were: 0\.weight, 0\.bias$"):
        report = model.load_state_dict(state, strict=False)
    assert report.untouched == ["0.weight", "0.bias", "1.running_mean", "1.running_var"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # buffers alone are left without a word
        model.load_state_dict({n: v for n, v in net().state_dict().items() if "running" not in n}, strict=False)


def test_an_old_file_keeps_batch_norms_count_and_says_so() -> None:
    model = nn.BatchNorm1d(2)
    model.num_batches_tracked.value = jnp.asarray(7)
    state = {name: value for name, value in model.state_dict().items() if name != "num_batches_tracked"}
    report = model.load_state_dict(state)  # a plain dict: no version
    assert int(model.num_batches_tracked) == 7
    assert report.loaded == list(state)
    assert report.untouched == ["num_batches_tracked"]


def test_a_lenient_load_still_raises_for_shapes() -> None:
    model = net()
    before = contents(model)
    state = {**net().state_dict(), "0.bias": np.zeros(7, np.float32)}
    with pytest.raises(RuntimeError, match=r"size mismatch for 0\.bias: .*shape \(7,\) .*current model is \(4,\)"):
        model.load_state_dict(state, strict=False)
    assert_same(contents(model), before)


# -- all or nothing -----------------------------------------------------------------------------------------------
class Raises(nn.Module):
    """Its own loading fails, after it has written to itself in every way there is."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(jnp.zeros(2))
        self.note = "before"
        self.plain = jnp.zeros(2)
        self.table = {"a": jnp.zeros(2)}

    def _load_from_state_dict(self, *args: Any) -> None:
        super()._load_from_state_dict(*args)
        self.weight.value = jnp.ones(2)
        self.note = "after"
        self.plain = jnp.ones(2)
        self.table["a"] = jnp.ones(2)
        self.extra = nn.Parameter(jnp.ones(2))
        raise OSError("disk on fire")


def test_an_override_that_raises_midway_leaves_everything_as_it_was() -> None:
    model = nn.Sequential(nn.Linear(2, 2), Raises(), nn.Linear(2, 2))
    before = contents(model)
    state = {name: np.full_like(value, 7) for name, value in before.items()}
    with pytest.raises(OSError, match="disk on fire"):
        model.load_state_dict(state)
    assert_same(contents(model), before)
    assert model[1].note == "before"
    assert (model[1].plain == 0).all()
    assert (model[1].table["a"] == 0).all()
    assert not hasattr(model[1], "extra")


@pytest.mark.parametrize("where", ["pre-hook", "post-hook"])
def test_a_hook_that_raises_leaves_everything_as_it_was(where: str) -> None:
    def fail(*args: Any) -> None:
        raise OSError("disk on fire")

    model = net()
    before = contents(model)
    if where == "pre-hook":
        model[2].register_load_state_dict_pre_hook(fail)
    else:
        model.register_load_state_dict_post_hook(fail)
    with pytest.raises(OSError, match="disk on fire"):
        model.load_state_dict({name: np.full_like(value, 7) for name, value in before.items()})
    assert_same(contents(model), before)


def test_a_failed_load_leaves_the_very_arrays_and_the_callers_dict() -> None:
    model = net()
    arrays = {name: box.value for name, box in model.state_dict(keep_vars=True).items()}
    state = {**net().state_dict(), "typo": np.zeros(3)}
    given = dict(state)
    with pytest.raises(RuntimeError, match=r'Unexpected key\(s\) in state_dict: "typo"\. '):
        model.load_state_dict(state)
    assert all(box.value is arrays[name] for name, box in model.state_dict(keep_vars=True).items())
    assert state.keys() == given.keys()
    assert all(state[name] is given[name] for name in given)


def test_what_an_override_does_is_kept_when_the_load_succeeds() -> None:
    class Notes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(jnp.zeros(2))
            self.plain = jnp.zeros(2)
            self.seen: list[Any] = []
            self.note = "before"

        def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
            self.seen.append(prefix)
            self.plain = jnp.ones(2)
            self.note = "after"
            self.late = nn.Parameter(jnp.ones(3))
            state_dict.setdefault(f"{prefix}late", jnp.full(3, 5.0))
            super()._load_from_state_dict(state_dict, prefix, *args)

    model = nn.Sequential(Notes())
    report = model.load_state_dict({"0.weight": np.full(2, 3, np.float32)})
    assert report.loaded == ["0.weight", "0.late"]
    assert (model[0].weight == 3).all()
    assert (model[0].late == 5).all()
    assert (model[0].plain == 1).all()
    assert (model[0].seen, model[0].note) == (["0."], "after")


def test_an_argument_that_is_no_dict_raises() -> None:
    with pytest.raises(TypeError, match="Expected state_dict to be dict-like, got <class 'list'>"):
        net().load_state_dict([1])  # pyright: ignore[reportArgumentType]


# -- values -------------------------------------------------------------------------------------------------------
def test_values_may_be_jax_numpy_or_boxes() -> None:
    model = nn.Linear(2, 2)
    model.load_state_dict({"weight": jnp.full((2, 2), 2.0), "bias": np.array([1, 2], np.float32)})
    assert (model.weight == 2).all()
    other = nn.Linear(2, 2)
    other.load_state_dict(model.state_dict(keep_vars=True))
    model.bias.zero_()
    np.testing.assert_array_equal(other.bias, [1, 2])


def test_changing_the_source_in_place_afterwards_changes_nothing() -> None:
    # Of a size and alignment that JAX takes over without copying where it may.
    memory = np.zeros(64 * 64 * 4 + 64, np.uint8)
    start = -memory.ctypes.data % 64
    weight = memory[start : start + 64 * 64 * 4].view(np.float32).reshape(64, 64)
    weight[:] = 1
    source = {"weight": weight, "bias": np.ones(64, np.float32)}
    for assign in (False, True):
        model = nn.Linear(64, 64)
        model.load_state_dict(source, assign=assign)
        source["weight"][:] += 1
        source["bias"][:] += 1
        assert (model.weight.value == source["weight"][0, 0] - 1).all()
        assert (model.bias.value == source["bias"][0] - 1).all()


def test_values_are_cast_to_the_models_dtype_and_assign_takes_them_as_they_are() -> None:
    state = {"weight": np.ones((2, 2), np.float16), "bias": np.array([1, 2], np.int32)}
    model = nn.Linear(2, 2)
    box = model.weight
    model.load_state_dict(state)
    assert (model.weight.dtype, model.bias.dtype) == (jnp.float32, jnp.float32)
    report = model.load_state_dict({**state, "bias": state["bias"].astype(np.float32)}, assign=True)
    assert (model.weight.dtype, model.bias.dtype) == (jnp.float16, jnp.float32)
    assert model.weight is box  # so that optimizers and ties still hold
    assert report.cast == []
    frozen = nn.Linear(2, 2).requires_grad_(False)
    frozen.load_state_dict(state, assign=True)
    assert not frozen.weight.requires_grad


def test_a_loaded_model_stays_where_it_was_put() -> None:
    device = jax.devices()[1]
    model = nn.Linear(2, 2).to(device)
    model.load_state_dict(nn.Linear(2, 2).state_dict())
    assert model.weight.devices() == {device}


def test_loading_does_not_compile_again() -> None:
    model, traces = nn.Linear(2, 2), []

    @jm.jit
    def call(model: nn.Module, x: jax.Array) -> jax.Array:
        traces.append(1)
        return model(x)

    call(model, jnp.ones((1, 2)))
    model.load_state_dict({"weight": np.zeros((2, 2), np.float32), "bias": np.full(2, 4, np.float32)})
    assert (call(model, jnp.ones((1, 2))) == 4).all()
    assert len(traces) == 1


# -- ties ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("assign", [False, True])
def test_ties_hold_through_a_load(assign: bool) -> None:
    model, source = Tied(), Tied()
    report = model.load_state_dict(source.state_dict(), assign=assign)
    assert model.head.weight is model.embed.weight
    assert report.loaded == ["embed.weight", "head.weight"]
    np.testing.assert_array_equal(model.embed.weight, source.embed.weight)


def test_one_name_of_a_tied_parameter_is_enough_when_lenient() -> None:
    model = Tied()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report = model.load_state_dict({"head.weight": np.full((5, 3), 2, np.float32)}, strict=False)
    assert (model.embed.weight == 2).all()
    assert report.missing_keys == ["embed.weight"]


# -- hooks --------------------------------------------------------------------------------------------------------
def test_hooks_on_loading_may_rename_keys_and_forgive_missing_ones() -> None:
    model = nn.Sequential(nn.Linear(2, 2))

    def rename(module: nn.Module, state: Any, prefix: str, *rest: Any) -> None:
        assert module is model[0]
        state[f"{prefix}weight"] = state.pop(f"{prefix}kernel")

    def forgive(module: nn.Module, keys: Any) -> None:
        keys.missing_keys.clear()

    with (
        model[0].register_load_state_dict_pre_hook(rename),
        model.register_load_state_dict_post_hook(forgive),
    ):
        report = model.load_state_dict({"0.kernel": np.full((2, 2), 4, np.float32)})
    assert (model[0].weight == 4).all()
    assert report.loaded == ["0.weight"]
    assert report.untouched == ["0.bias"]


def test_a_copys_load_hook_is_given_the_copy() -> None:
    model, seen = nn.Linear(2, 2), []
    model.register_load_state_dict_pre_hook(lambda module, *rest: seen.append(module))
    other = copy.deepcopy(model)
    other.load_state_dict(model.state_dict())
    assert seen[0] is other


# -- files --------------------------------------------------------------------------------------------------------
class Mixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tied = Tied()
        self.small = nn.Parameter(jnp.asarray([1.5, -2.25, 1e30], jnp.bfloat16))
        self.register_buffer("count", jnp.asarray([1, 2], jnp.int32))
        self.register_buffer("mask", jnp.asarray([True, False]))
        self.register_buffer("scratch", jnp.ones(3), persistent=False)


def test_a_model_goes_through_a_file(tmp_path: Path) -> None:
    """Tied weights stay tied and are written once; bfloat16 stays bfloat16."""
    model, again = Mixed(), Mixed()
    again.small.zero_()
    path = tmp_path / "model.safetensors"
    jm.save(model.state_dict(), path)
    report = again.load_state_dict(jm.load(path))
    assert (report.missing_keys, report.unexpected_keys, report.cast) == ([], [], [])
    assert_same(again.state_dict(), model.state_dict())
    assert again.small.dtype == jnp.bfloat16
    assert again.tied.head.weight is again.tied.embed.weight
    assert path.stat().st_size < 1000

"""state_dict and load_state_dict against torch: keys and order, versions, overrides, hooks, and the text of errors."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable
from types import ModuleType
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import torch

import jaxmodule as jm
from tests.parity.oracle import assert_close, same_error, to_numpy

LIBRARIES = (jm.nn, torch.nn)


def tensor(nn: ModuleType, values: Any) -> Any:
    array = np.asarray(values, np.float32)
    return jnp.asarray(array) if nn is jm.nn else torch.from_numpy(array.copy())


def network(nn: ModuleType) -> Any:
    """Parameters, buffers of both kinds, None entries, a tied weight, and a shared module."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("scratch", tensor(nn, [1]), persistent=False)
            self.register_buffer("steps", tensor(nn, [1, 2]))
            self.register_buffer("nothing", None)
            self.fc = nn.Linear(3, 4)
            self.scale = nn.Parameter(tensor(nn, [1, 2, 3]))
            self.register_parameter("absent", None)
            self.blocks = nn.ModuleList([nn.Sequential(nn.Linear(4, 4, bias=False), nn.BatchNorm1d(4)), nn.Identity()])
            self.gone = None
            self.add_module("none", None)
            self.head = nn.Linear(3, 4, bias=False)
            self.head.weight = self.fc.weight
            self.again = self.blocks[0]

    return Net()


def values(model: Any) -> dict[str, np.ndarray]:
    return {name: to_numpy(value) for name, value in model.state_dict().items()}


# -- saving -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("options", [{}, {"prefix": "model."}, {"keep_vars": True}], ids=str)
def test_keys_order_and_metadata_are_torchs(options: dict[str, Any]) -> None:
    ours, theirs = network(jm.nn).state_dict(**options), network(torch.nn).state_dict(**options)
    assert list(ours) == list(theirs)
    assert dict(ours._metadata) == dict(theirs._metadata)


def test_a_destination_is_filled_and_returned() -> None:
    for nn in LIBRARIES:
        destination: Any = OrderedDict(before=1)
        out = nn.Linear(2, 2).state_dict(destination=destination, prefix="fc.")
        assert out is destination
        assert list(out) == ["before", "fc.weight", "fc.bias"]
        assert not hasattr(out, "_metadata")


def versioned(nn: ModuleType, record: list[Any]) -> Any:
    class Versioned(nn.Module):
        _version = 3

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(tensor(nn, [1, 2]))
            self.note = "saved"

        def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
            record.append(("save", prefix, keep_vars))
            super()._save_to_state_dict(destination, prefix, keep_vars)
            destination[f"{prefix}note"] = self.note

        def _load_from_state_dict(
            self, state: Any, prefix: str, metadata: Any, strict: Any, missing: Any, unexpected: Any, errors: Any
        ) -> None:
            record.append(("load", prefix, dict(metadata), strict, sorted(state)))
            self.note = state.pop(f"{prefix}note", "missing")
            if metadata.get("version") != 3:
                missing.append(f"{prefix}old version")
            super()._load_from_state_dict(state, prefix, metadata, strict, missing, unexpected, errors)

    return nn.Sequential(nn.Identity(), Versioned())


def test_overrides_and_versions_work_as_in_torch() -> None:
    records: list[Any] = []
    for nn in LIBRARIES:
        record: list[Any] = []
        model = versioned(nn, record)
        model[1].note = "other"
        state = model.state_dict()
        assert state._metadata["1"] == {"version": 3}
        fresh = versioned(nn, record)
        result = fresh.load_state_dict(state, strict=False)
        record.append((list(state), fresh[1].note, list(result.missing_keys), list(result.unexpected_keys)))
        plain = fresh.load_state_dict(dict(state), strict=False)  # a plain dict has no versions
        record.append((list(plain.missing_keys), list(plain.unexpected_keys)))
        with pytest.raises(RuntimeError, match="old version"):
            fresh.load_state_dict(dict(state))
        records.append(record)
    assert records[0] == records[1]


def test_extra_state_is_saved_and_loaded_as_in_torch() -> None:
    for nn in LIBRARIES:

        class Extra(nn.Module):
            def __init__(self, extra: Any = None) -> None:
                super().__init__()
                self.extra = extra

            def get_extra_state(self) -> Any:
                return {"extra": self.extra}

            def set_extra_state(self, state: Any) -> None:
                self.extra = state["extra"]

        model = nn.Sequential(nn.Linear(1, 1), Extra("hello"))
        state = model.state_dict()
        assert list(state) == ["0.weight", "0.bias", "1._extra_state"]
        fresh = nn.Sequential(nn.Linear(1, 1), Extra())
        fresh.load_state_dict(state)
        assert fresh[1].extra == "hello"
        del state["1._extra_state"]
        with pytest.raises(RuntimeError, match=r'Missing key\(s\) in state_dict: "1\._extra_state"'):
            fresh.load_state_dict(state)
        with pytest.raises(RuntimeError, match=r'Unexpected key\(s\) in state_dict: "_extra_state"'):
            nn.Linear(1, 1).load_state_dict({**nn.Linear(1, 1).state_dict(), "_extra_state": 1})


# -- hooks --------------------------------------------------------------------------------------------------------
def test_hooks_on_saving_and_loading_are_called_as_in_torch() -> None:
    def scenario(nn: ModuleType) -> list[Any]:
        model: Any = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 1)))
        names = {id(module): name for name, module in model.named_modules()}
        record: list[Any] = []
        for module in model.modules():
            module.register_state_dict_pre_hook(
                lambda m, prefix, keep: record.append(("save pre", names[id(m)], prefix, keep))
            )
            module.register_state_dict_post_hook(
                lambda m, state, prefix, meta: record.append(
                    ("save post", names[id(m)], list(state), prefix, dict(meta))
                )
            )
            module.register_load_state_dict_pre_hook(
                lambda m, state, prefix, meta, *rest: record.append(
                    ("load pre", names[id(m)], sorted(state), prefix, dict(meta), rest)
                )
            )
            module.register_load_state_dict_post_hook(
                lambda m, keys: record.append(("load post", names[id(m)], list(keys.missing_keys), list(keys[1])))
            )
        state = model.state_dict()
        del state["0.bias"]
        state["1.0.more"] = state["0.weight"]
        with pytest.raises(RuntimeError, match="Missing"):
            model.load_state_dict(state)
        return record

    ours, theirs = map(scenario, LIBRARIES)
    assert ours == theirs
    assert {kind for kind, *_ in theirs} == {"save pre", "save post", "load pre", "load post"}


def test_a_hook_that_returns_something_raises_torchs_error() -> None:
    def outcome(nn: ModuleType, register: str, act: Callable[[Any], Any]) -> tuple[type, str]:
        model = nn.Linear(1, 1)
        getattr(model, register)(lambda *args: {})
        with pytest.raises((RuntimeError, AssertionError), match=r".") as caught:
            act(model)
        return caught.type, str(caught.value)

    for register, act in {
        "register_state_dict_post_hook": lambda model: model.state_dict(),
        "register_load_state_dict_post_hook": lambda model: model.load_state_dict(model.state_dict()),
    }.items():
        assert outcome(jm.nn, register, act) == outcome(torch.nn, register, act)


def test_torchs_private_registrations_work() -> None:
    """The older, private hook on saving may return another dict; the one on loading has no module."""
    for nn in LIBRARIES:
        model, calls = nn.Linear(1, 1), []
        with model._register_state_dict_hook(lambda m, state, prefix, meta: {"other": state}):
            assert list(model.state_dict()) == ["other"]
        with model._register_load_state_dict_pre_hook(lambda *args, calls=calls: calls.append(len(args))):
            model.load_state_dict(model.state_dict())
        assert calls == [7]

        def public(*args: Any) -> None: ...

        model.register_state_dict_post_hook(public)
        with pytest.raises(RuntimeError, match="previously registered via register_state_dict_post_hook"):
            model._register_state_dict_hook(public)


# -- loading ------------------------------------------------------------------------------------------------------
def test_a_state_dict_out_of_torch_loads_strictly() -> None:
    theirs, ours = network(torch.nn), network(jm.nn)
    with torch.no_grad():
        theirs.fc.weight.add_(1)
        theirs.blocks[0][1].running_mean.add_(2)
    report = ours.load_state_dict(theirs.state_dict())
    assert (report.missing_keys, report.unexpected_keys) == ([], [])
    for name, value in values(theirs).items():
        assert_close(ours.state_dict()[name], value.astype(ours.state_dict()[name].dtype), what=name)
    assert ours.head.weight is ours.fc.weight
    assert ours.again is ours.blocks[0]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64", "float8_e4m3fn", "float8_e5m2", "int8", "bool"])
@pytest.mark.parametrize("assign", [False, True])
def test_torch_tensors_of_every_kind_load(dtype: str, assign: bool) -> None:
    source = torch.tensor([[1.0, 0.0, 2.0], [0.0, 1.0, 3.0]]).to(getattr(torch, dtype))
    layer = jm.nn.Linear(3, 2, bias=False)
    report = layer.load_state_dict({"weight": source}, assign=assign)
    expected = source.float().numpy()
    assert_close(layer.weight.astype(jnp.float32), expected)
    assert layer.weight.dtype == (jnp.dtype({"float64": "float32"}.get(dtype, dtype)) if assign else jnp.float32)
    assert (report.cast != []) == (dtype == "float64" or not assign)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("assign", [False, True])
def test_changing_a_tensor_in_place_afterwards_changes_nothing(dtype: torch.dtype, assign: bool) -> None:
    source = {"weight": torch.ones(2, 3, dtype=dtype), "bias": torch.ones(3, 2, dtype=dtype).t()[:, 0]}
    layer = jm.nn.Linear(3, 2)
    layer.load_state_dict(source, assign=assign)
    for value in source.values():
        value.zero_()
    assert (layer.weight == 1).all()
    assert (layer.bias == 1).all()


def test_a_transposed_requires_grad_tensor_loads() -> None:
    source = torch.arange(6.0).reshape(3, 2).requires_grad_()
    layer = jm.nn.Linear(3, 2, bias=False)
    layer.load_state_dict({"weight": source.t()})
    assert_close(layer.weight, source.t().detach())


def test_a_vector_of_one_loads_into_a_scalar() -> None:
    """Files from before torch had scalars."""
    for nn in LIBRARIES:
        module = nn.Module()
        module.scale = nn.Parameter(tensor(nn, 1.0))
        module.load_state_dict({"scale": tensor(nn, [5.0])})
        assert float(module.scale.detach()) == 5
        assert tuple(module.scale.shape) == ()


# -- errors -------------------------------------------------------------------------------------------------------
def change_nothing(state: dict[str, Any]) -> None: ...


def drop(*names: str) -> Callable[[dict[str, Any]], None]:
    return lambda state: [state.pop(name) for name in names] and None


def put(**entries: Any) -> Callable[[dict[str, Any]], None]:
    return lambda state: state.update({name.replace("__", "."): value for name, value in entries.items()})


def zeros(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.float32)


MISTAKES: dict[str, list[Callable[[dict[str, Any]], None]]] = {
    "missing": [drop("fc.weight", "again.0.weight", "steps")],
    "unexpected": [put(fc__typo=zeros(1), blocks__7__weight=zeros(2), more=zeros(1), fc__deep__er=zeros(1))],
    "below None": [put(none__weight=zeros(1), absent=zeros(1), nothing=zeros(1), scratch=zeros(1), gone=zeros(1))],
    "shapes": [put(fc__bias=zeros(7), scale=zeros(3, 1), steps=zeros())],
    "kinds": [put(fc__bias=[1.0, 2.0], scale=3.5, steps=None)],
    "everything": [
        drop("head.weight", "blocks.0.1.bias"),
        put(fc__bias=zeros(7), more=zeros(1), scale="no", blocks__0__1__running_var=zeros(2)),
    ],
    "another model's": [lambda state: state.clear(), put(x=zeros(1))],
}


def same_spelling(message: str) -> str:
    return re.sub(
        r"torch\.Size\(\[([\d, ]*)\]\)", lambda m: str(tuple(map(int, filter(None, m[1].split(", "))))), message
    )


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("mistake", MISTAKES)
def test_errors_list_everything_in_torchs_words_and_change_nothing(mistake: str, strict: bool) -> None:
    messages = []
    for nn in LIBRARIES:
        model = network(nn)
        state = {name: value + 1 for name, value in model.state_dict().items()}
        for change in MISTAKES[mistake]:
            change(state)
        if nn is torch.nn:
            state = {k: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for k, v in state.items()}
        before = values(model)
        try:
            result = model.load_state_dict(state, strict=strict)
            messages.append(f"no error: {list(result[0])} {list(result[1])}")
        except RuntimeError as error:
            messages.append(str(error))
            if nn is jm.nn:
                for name, value in values(model).items():
                    np.testing.assert_array_equal(value, before[name], err_msg=name)
        except Warning:  # ours alone: a lenient load that leaves parameters as they were
            model = network(nn)
            messages.append("warned")
    ours, theirs = messages
    if not strict and mistake == "another model's":
        assert "matched nothing" in ours  # ours alone
    elif ours == "warned":
        assert not strict
        assert theirs.startswith("no error")
    else:
        assert ours == same_spelling(theirs)


def test_a_state_dict_that_is_no_mapping_raises_torchs_error() -> None:
    same_error(lambda: jm.nn.Linear(1, 1).load_state_dict([1]), lambda: torch.nn.Linear(1, 1).load_state_dict([1]))

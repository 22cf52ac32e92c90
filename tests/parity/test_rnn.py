"""Recurrent layers and packed sequences against torch: every argument, states and packed batches included."""

from __future__ import annotations

import functools
import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.nn.utils import rnn as torch_rnn

import jaxmodule as jm
from jaxmodule import nn
from jaxmodule.nn.utils import rnn
from tests.parity.oracle import assert_close, same_error, to_torch

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN:UserWarning")

T, N, WIDTH, H = 5, 3, 4, 6
KINDS = ["RNN", "LSTM", "GRU"]
ARGUMENTS = [
    ("RNN", {}),
    ("RNN", {"nonlinearity": "relu", "num_layers": 2, "bias": False}),
    ("RNN", {"bidirectional": True, "batch_first": True}),
    ("LSTM", {}),
    ("LSTM", {"num_layers": 2, "bidirectional": True}),
    ("LSTM", {"proj_size": 2, "bias": False}),
    ("LSTM", {"proj_size": 2, "num_layers": 2, "bidirectional": True, "batch_first": True}),
    ("GRU", {}),
    ("GRU", {"bias": False, "bidirectional": True}),
    ("GRU", {"num_layers": 2, "batch_first": True}),
]
IDS = [f"{kind}-{'-'.join(f'{k}={v}' for k, v in kwargs.items())}" for kind, kwargs in ARGUMENTS]
every_argument = pytest.mark.parametrize(("kind", "kwargs"), ARGUMENTS, ids=IDS)


def pair(kind: str, kwargs: dict[str, Any]) -> tuple[Any, Any]:
    ours, theirs = getattr(nn, kind)(WIDTH, H, **kwargs), getattr(torch.nn, kind)(WIDTH, H, **kwargs)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng((seed, *shape)).standard_normal(shape).astype(np.float32)


def states(kind: str, kwargs: dict[str, Any], *batch: int) -> tuple[np.ndarray, ...]:
    rows = kwargs.get("num_layers", 1) * (2 if kwargs.get("bidirectional") else 1)
    h = draw(rows, *batch, kwargs.get("proj_size") or H, seed=1)
    return (h, draw(rows, *batch, H, seed=2)) if kind == "LSTM" else (h,)


def as_hx(states: tuple[Any, ...]) -> Any:
    return states if len(states) == 2 else states[0]


def flat(output: Any) -> list[Any]:
    """The output array or padded sequences, then the last states."""
    value, last = output
    return [value, *(last if isinstance(last, tuple) else (last,))]


def weigh(outputs: list[Any]) -> Any:
    """A scalar to which every output contributes, in either framework."""
    total = 0.0
    for k, value in enumerate(outputs):
        weights = draw(*value.shape, seed=10 + k)
        total = total + (value * (torch.from_numpy(weights) if isinstance(value, torch.Tensor) else weights)).sum()
    return total


def check_same(ours: Any, theirs: Any, x: np.ndarray, hx: tuple[np.ndarray, ...] | None, mine: Any, other: Any) -> None:
    """Values, and gradients of input, states and parameters, of `mine(module, x, hx)` and `other(module, x, hx)`."""
    leaves = [torch.from_numpy(a.copy()).requires_grad_() for a in (x, *(hx or ()))]
    expected = flat(other(theirs, leaves[0], None if hx is None else as_hx(tuple(leaves[1:]))))
    theirs.zero_grad()
    weigh(expected).backward()

    def loss(module: Any, x: Any, hx: Any) -> Any:
        found = flat(mine(module, x, None if hx is None else as_hx(hx)))
        return weigh(found), found

    arrays = (jnp.asarray(x), None if hx is None else tuple(map(jnp.asarray, hx)))
    (of_parameters, *of_arrays), found = jm.jit(jm.grad(loss, argnums=(0, 1, 2), has_aux=True))(ours, *arrays)
    for a, b in zip(found, expected, strict=True):
        assert_close(a, b)
    for a, b in zip(jax.tree.leaves(of_arrays), leaves, strict=True):
        assert_close(a, b.grad, what="gradient of an input")
    for name, parameter in theirs.named_parameters():
        assert_close(of_parameters[name], parameter.grad, what=name)


def call(module: Any, x: Any, hx: Any) -> Any:
    return module(x, hx)


@every_argument
def test_states_and_gradients(kind: str, kwargs: dict[str, Any]) -> None:
    shape = (N, T, WIDTH) if kwargs.get("batch_first") else (T, N, WIDTH)
    check_same(*pair(kind, kwargs), draw(*shape), states(kind, kwargs, N), call, call)


@pytest.mark.parametrize("kind", KINDS)
def test_one_sequence_without_a_batch(kind: str) -> None:
    kwargs = {"num_layers": 2, "bidirectional": True, "batch_first": True}
    check_same(*pair(kind, kwargs), draw(T, WIDTH), states(kind, kwargs), call, call)


# -- packed -----------------------------------------------------------------------------------------------------------
def packed_call(functions: Any, lengths: Any, enforce_sorted: bool) -> Any:
    def run(module: Any, x: Any, hx: Any) -> Any:
        first = module.batch_first
        p = functions.pack_padded_sequence(x, lengths, batch_first=first, enforce_sorted=enforce_sorted)
        output, last = module(p, hx)
        return functions.pad_packed_sequence(output, batch_first=first, total_length=T)[0], last

    return run


@every_argument
def test_packed(kind: str, kwargs: dict[str, Any]) -> None:
    """Half of them in order of length and from given states, half in another and from zeros."""
    in_order = "bias" in kwargs or kwargs.get("num_layers") == 2
    lengths = [5, 3, 1] if in_order else [2, 5, 2]
    shape = (N, T, WIDTH) if kwargs.get("batch_first") else (T, N, WIDTH)
    calls = [packed_call(functions, lengths, in_order) for functions in (rnn, torch_rnn)]
    check_same(*pair(kind, kwargs), draw(*shape), states(kind, kwargs, N) if in_order else None, *calls)


@pytest.mark.parametrize("kind", KINDS)
def test_packed_with_traced_lengths(kind: str) -> None:
    kwargs = {"bidirectional": True, "bias": kind != "GRU"}
    lengths = jnp.array([2, 5, 3])

    def traced(module: Any, x: Any, hx: Any) -> Any:
        run = jax.jit(lambda x, hx, lengths: packed_call(rnn, lengths, True)(module, x, hx))
        return run(x, hx, lengths)

    ours, theirs = pair(kind, kwargs)
    hx = states(kind, kwargs, N)
    check_same(ours, theirs, draw(T, N, WIDTH), hx, traced, packed_call(torch_rnn, [2, 5, 3], False))


@pytest.mark.parametrize("lengths", [[2, 5, 3], [5, 5, 2], [1, 1, 1]])
@pytest.mark.parametrize("kind", KINDS)
def test_the_packed_output_is_torchs(kind: str, lengths: list[int]) -> None:
    ours, theirs = pair(kind, {"bidirectional": True})
    x = draw(T, N, WIDTH)
    found, last = ours(rnn.pack_padded_sequence(x, lengths, enforce_sorted=False))
    expected, wanted = theirs(torch_rnn.pack_padded_sequence(torch.from_numpy(x), lengths, enforce_sorted=False))
    assert type(found) is rnn.PackedSequence
    for name, a, b in zip(expected._fields, found, expected, strict=True):
        assert_close(a, b, what=name)
    for a, b in zip(flat((found.data, last)), flat((expected.data, wanted)), strict=True):
        assert_close(a, b)


# -- the modules' other parts -----------------------------------------------------------------------------------------
@every_argument
def test_parameters_are_torchs(kind: str, kwargs: dict[str, Any]) -> None:
    ours, theirs = pair(kind, kwargs)
    assert repr(ours) == repr(theirs)
    assert [[tuple(p.shape) for p in ps] for ps in ours.all_weights] == [
        [tuple(p.shape) for p in ps] for ps in theirs.all_weights
    ]
    assert [p for ps in ours.all_weights for p in ps] == list(ours.parameters())
    for name in ("mode", "input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout", "bidirectional"):
        assert getattr(ours, name) == getattr(theirs, name)
    assert ours.proj_size == theirs.proj_size
    assert ours.flatten_parameters() is None
    x, bound = draw(T, N, WIDTH), H**-0.5
    assert ours.get_expected_hidden_size(x, None) == theirs.get_expected_hidden_size(torch.from_numpy(x), None)
    sizes = np.array([2, 1])
    assert ours.get_expected_hidden_size(x[0], jnp.asarray(sizes)) == theirs.get_expected_hidden_size(
        torch.from_numpy(x[0]), torch.from_numpy(sizes)
    )
    for value in getattr(nn, kind)(WIDTH, H, **kwargs).parameters():
        assert float(jnp.abs(value.value).max()) <= bound


def test_projection_trains_as_torchs() -> None:
    ours, theirs = pair("LSTM", {"proj_size": 3, "bidirectional": True})
    step = jm.jit(jm.grad(lambda module, x: weigh(flat(module(x)))))
    for seed in range(5):
        x = draw(T, N, WIDTH, seed=seed)
        for name, gradient in step(ours, x).items():
            ours.get_parameter(name).value = ours.get_parameter(name).value - 0.05 * gradient
        theirs.zero_grad()
        weigh(flat(theirs(torch.from_numpy(x)))).backward()
        with torch.no_grad():
            for parameter in theirs.parameters():
                parameter -= 0.05 * parameter.grad
    for name, value in theirs.state_dict().items():
        assert_close(ours.state_dict()[name], value, what=name)


@pytest.mark.parametrize("kind", KINDS)
def test_checks_are_methods_as_in_torch(kind: str) -> None:
    kwargs = {"proj_size": 2} if kind == "LSTM" else {}
    ours, theirs = pair(kind, kwargs)
    hx = states(kind, kwargs, N)
    x, tensor = draw(T, N, WIDTH), torch.from_numpy(draw(T, N, WIDTH))
    ours.check_forward_args(x, as_hx(hx), None)
    for bad in (draw(T, N, 1), draw(N, WIDTH)):
        mine, other = functools.partial(ours.check_input, bad), functools.partial(theirs.check_input, to_torch(bad))
        same_error(lambda mine=mine: mine(None), lambda other=other: other(None))
    wrong = as_hx(tuple(h[:, :1] for h in hx))
    same_error(
        lambda: ours.check_forward_args(x, wrong, None),
        lambda: theirs.check_forward_args(tensor, jax.tree.map(to_torch, wrong), None),
    )
    order = np.array([2, 0, 1])
    moved = ours.permute_hidden(as_hx(hx), order)
    expected = theirs.permute_hidden(jax.tree.map(to_torch, as_hx(hx)), torch.from_numpy(order))
    for a, b in zip(jax.tree.leaves(moved), jax.tree.leaves(expected), strict=True):
        assert_close(a, b)
    assert ours.permute_hidden(hx, None) is hx
    if kind == "LSTM":
        assert ours.get_expected_cell_size(x, None) == theirs.get_expected_cell_size(tensor, None)


@pytest.mark.parametrize("kind", KINDS)
def test_packed_inputs_that_do_not_fit(kind: str) -> None:
    ours = getattr(nn, kind)(WIDTH, H)
    p = rnn.pack_padded_sequence(draw(T, N, WIDTH), [5, 3, 1])
    with pytest.raises(RuntimeError, match=r"Expected hidden.* size \(1, 3, 6\), got \[1, 2, 6\]"):
        ours(p, as_hx(states(kind, {}, 2)))
    with pytest.raises(RuntimeError, match="input must have 2 dimensions, got 3"):
        ours(rnn.pack_padded_sequence(draw(T, N, 2, WIDTH), [5, 3, 1]))
    with pytest.raises(RuntimeError, match="equal to input_size. Expected 4, got 2"):
        ours(rnn.pack_padded_sequence(draw(T, N, 2), [5, 3, 1]))


def test_constructors_take_positions_as_torch() -> None:
    positions = {"RNN": (3, 4, 2, "relu", False, True, 0.5, True), "LSTM": (3, 4, 2, False, True, 0.5, True, 2)}
    for kind, args in positions.items():
        assert repr(getattr(nn, kind)(*args)) == repr(getattr(torch.nn, kind)(*args))
    for kind in KINDS:
        same_error(getattr(nn, kind), getattr(torch.nn, kind))
        same_error(lambda kind=kind: getattr(nn, kind)(3), lambda kind=kind: getattr(torch.nn, kind)(3))
    for mode in ("RNN_TANH", "RNN_RELU", "LSTM", "GRU"):
        ours, theirs = nn.RNNBase(mode, 3, 4), torch.nn.RNNBase(mode, 3, 4)
        assert repr(ours) == repr(theirs)
        assert list(ours.state_dict()) == list(theirs.state_dict())
        same_error(lambda ours=ours: ours(1), lambda theirs=theirs: theirs(1))
    same_error(lambda: nn.RNNBase("FOO", 3, 4), lambda: torch.nn.RNNBase("FOO", 3, 4))
    ours, theirs = nn.RNNCellBase(3, 4, False, 2), torch.nn.RNNCellBase(3, 4, False, 2)
    assert repr(ours) == repr(theirs)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    same_error(lambda: ours(1), lambda: theirs(1))
    for name in ("RNNBase", "RNNCellBase"):
        arguments = [
            [(p.name, p.default, p.kind) for p in inspect.signature(getattr(m, name)).parameters.values()]
            for m in (nn, torch.nn)
        ]
        assert arguments[0] == arguments[1]


def test_a_cell_of_an_unknown_nonlinearity_is_made_and_does_not_run() -> None:
    ours, theirs = nn.RNNCell(3, 4, nonlinearity="x"), torch.nn.RNNCell(3, 4, nonlinearity="x")
    assert repr(ours) == repr(theirs)
    same_error(lambda: ours(draw(2, 3)), lambda: theirs(torch.zeros(2, 3)))


def test_dropout_without_a_second_layer_warns() -> None:
    for constructor in (nn.LSTM, torch.nn.LSTM):
        with pytest.warns(UserWarning, match="expects num_layers greater than 1, but got dropout=0.5") as caught:
            constructor(WIDTH, H, dropout=0.5)
    with pytest.warns(UserWarning, match="expects num_layers greater than 1") as caught:
        nn.GRU(WIDTH, H, dropout=0.5)
    assert caught[0].filename == __file__


@pytest.mark.parametrize("kind", KINDS)
def test_dropout_of_everything_is_torchs(kind: str) -> None:
    """With p = 1 there is no chance in it: layers above the first see zeros, and the first layer's states stay."""
    kwargs = {"num_layers": 2, "dropout": 1.0}
    calls = [packed_call(functions, [3, 2, 5], False) for functions in (rnn, torch_rnn)]
    check_same(*pair(kind, kwargs), draw(T, N, WIDTH), None, *calls)


@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
def test_dropout_masks(packed: bool) -> None:
    """A second layer that shows its input: relu of 1 x and no recurrence."""
    p, size = 0.25, 40
    module = nn.RNN(size, size, 3, "relu", bias=False, dropout=p)
    for name, parameter in module.named_parameters():
        parameter.value = jnp.eye(size) if "_ih" in name else jnp.zeros((size, size))
    x: Any = jnp.ones((20, 30, size))
    x = rnn.pack_padded_sequence(x, [20] * 30) if packed else x

    def run(module: Any, x: Any) -> Any:
        output = module(x)[0]
        return output.data if packed else output

    jm.manual_seed(3)
    found = run(module, x)
    scale = (1 / (1 - p)) ** 2
    values, counts = np.unique(np.asarray(found).round(4), return_counts=True)
    np.testing.assert_allclose(values, [0.0, scale], atol=1e-3)
    # Two masks, each of its own draws: kept twice with (1 - p)², over 24,000 elements.
    assert abs(counts[1] / counts.sum() - (1 - p) ** 2) < 0.015
    jm.manual_seed(3)
    np.testing.assert_array_equal(jm.jit(run)(module, x), found)
    assert bool((run(module, x) != found).any())
    np.testing.assert_array_equal(run(module.eval(), x), np.ones_like(found))


def test_float64() -> None:
    with jax.enable_x64(True):
        ours, theirs = (module.double() for module in pair("LSTM", {"proj_size": 2, "num_layers": 2}))
        ours.load_state_dict(theirs.state_dict())
        x = draw(T, N, WIDTH).astype(np.float64)
        found = ours(rnn.pack_padded_sequence(x, [2, 5, 1], enforce_sorted=False))
        expected = theirs(torch_rnn.pack_padded_sequence(torch.from_numpy(x), [2, 5, 1], enforce_sorted=False))
        assert found[0].batch_sizes.dtype == np.int64
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            assert str(a.dtype) == str(b.dtype).removeprefix("torch.")
            assert_close(a, b, 1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_packed(kind: str) -> None:
    ours, theirs = (module.bfloat16() for module in pair(kind, {}))
    ours.load_state_dict(theirs.state_dict())
    x = draw(T, N, WIDTH).astype(jnp.bfloat16)
    found, _ = ours(rnn.pack_padded_sequence(x, [5, 3, 1]))
    expected, _ = theirs(torch_rnn.pack_padded_sequence(to_torch(x), [5, 3, 1]))
    assert found.data.dtype == jnp.bfloat16
    assert_close(found.data, expected.data, 4 * float(jnp.finfo(jnp.bfloat16).eps))

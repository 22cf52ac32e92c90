"""Every layer against torch's of the same name and arguments, loaded strictly with its weights.

Outputs, gradients of inputs and parameters, and parameters and buffers after five steps of training. The tolerance is
each row's, relative to the largest value compared; the default is 1e-5.
"""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import jaxmodule as jm
from jaxmodule import nn
from tests.parity.oracle import assert_close, to_torch
from tests.zoo import BAD, BAD_IDS, ROWS, STATEFUL, Bad, Row, every
from tests.zoo.row import tensors

every_layer = every(sweep=False)
LAYERS = sorted({row.layer for row in ROWS})

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")


def pair(row: Row) -> tuple[nn.Module, torch.nn.Module]:
    ours, theirs = row.make(), row.make_torch()
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def first(output: Any) -> Any:
    """The floating-point output: pooling with indices returns two."""
    return output[0] if isinstance(output, tuple) else output


def run_torch(row: Row, module: torch.nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, list[Any], dict[str, Any]]:
    """The output, and the gradients of inputs and parameters for a fixed cotangent."""
    arrays, treedef = jax.tree.flatten(inputs)
    tensors = [to_torch(x) if isinstance(x, np.ndarray) else x for x in arrays]
    moving = [x for x in tensors if isinstance(x, torch.Tensor) and x.is_floating_point()]
    for tensor in moving:
        tensor.requires_grad_()
    module.zero_grad()
    # An in-place layer may not change a leaf.
    clones = [x.clone() if isinstance(x, torch.Tensor) else x for x in tensors]
    output = row.run_torch(module, jax.tree.unflatten(treedef, clones))
    value = first(output)
    if value.requires_grad:
        value.backward(torch.from_numpy(cotangent(tuple(value.shape))).to(value.dtype))
    of_inputs = [torch.zeros_like(t) if t.grad is None else t.grad for t in moving]
    return output, of_inputs, {name: p.grad for name, p in module.named_parameters()}


def compiled(row: Row, module: nn.Module) -> Any:
    """A function of inputs that gives what `run_torch` gives, in one compiled program."""
    programs: dict[Any, Any] = {}

    def call(inputs: tuple[Any, ...]) -> tuple[Any, list[Any], dict[str, Any]]:
        leaves, treedef = jax.tree.flatten(inputs)
        arrays = {i: jnp.asarray(x) for i, x in enumerate(leaves) if isinstance(x, np.ndarray)}
        moving = {i: x for i, x in arrays.items() if jnp.issubdtype(x.dtype, jnp.floating)}
        fixed = {i: x for i, x in arrays.items() if i not in moving}

        def loss(module: nn.Module, moving: dict[int, Any], fixed: dict[int, Any]) -> tuple[jax.Array, Any]:
            filled = [{**moving, **fixed}.get(i, x) for i, x in enumerate(leaves)]
            output = row.run(module, jax.tree.unflatten(treedef, filled))
            return jnp.sum(first(output) * cotangent(first(output).shape).astype(first(output).dtype)), output

        if treedef not in programs:
            programs[treedef] = jm.jit(jm.grad(loss, argnums=(0, 1), has_aux=True))
        (of_parameters, of_inputs), output = programs[treedef](module, moving, fixed)
        return output, list(of_inputs.values()), of_parameters

    return call


def cotangent(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(11).standard_normal(shape).astype(np.float32)


def assert_all_close(ours: Any, theirs: Any, rtol: float) -> None:
    for what, mine, other in (("input", ours[1], theirs[1]), ("parameter", ours[2], theirs[2])):
        assert len(mine) == len(other)
        names = range(len(mine)) if isinstance(mine, list) else mine
        for name in names:
            assert_close(mine[name], other[name], rtol, f"gradient of {what} {name}")
    outputs = zip(jax.tree.leaves(ours[0]), jax.tree.leaves(theirs[0]), strict=True)
    for mine, other in outputs:
        assert_close(mine, other, rtol)


# A random mask has no counterpart in torch: its distribution is tested beside the functional.
@every(modes=True, sweep=False, random=False)
def test_outputs_and_gradients(row: Row, training: bool) -> None:
    ours, theirs = pair(row)
    ours.train(training)
    theirs.train(training)
    if row.modes_differ:  # statistics other than the initial 0 and 1
        row.run_torch(theirs.train(), row.inputs(9))
        theirs.train(training)
        ours.load_state_dict(theirs.state_dict())
    assert_all_close(compiled(row, ours)(row.inputs(0)), run_torch(row, theirs, row.inputs(0)), row.rtol)


@every(STATEFUL, sweep=False)
def test_five_steps_of_training(row: Row) -> None:
    ours, theirs = pair(row)
    run = compiled(row, ours)
    for seed in range(5):
        inputs = row.inputs(seed)
        gradients = run(inputs)[2]
        run_torch(row, theirs, inputs)
        for name, gradient in gradients.items():
            parameter = ours.get_parameter(name)
            parameter.value = parameter.value - 0.05 * gradient
        with torch.no_grad():
            for parameter in theirs.parameters():
                parameter -= 0.05 * parameter.grad
    expected = theirs.state_dict()
    assert list(ours.state_dict()) == list(expected)
    for name, value in ours.state_dict().items():
        assert_close(value, expected[name], row.rtol, name)


@every_layer
def test_repr_is_torchs(row: Row) -> None:
    assert repr(row.make()) == repr(row.make_torch())


@every_layer
def test_state_dict_has_torchs_names_shapes_and_dtypes(row: Row) -> None:
    ours, theirs = row.make().state_dict(), row.make_torch().state_dict()
    integer = str(jnp.zeros((), int).dtype)
    assert {name: (tuple(v.shape), str(v.dtype)) for name, v in ours.items()} == {
        name: (tuple(v.shape), str(v.dtype).removeprefix("torch.").replace("int64", integer))
        for name, v in theirs.items()
    }


@every_layer
def test_initial_values_have_torchs_distribution(row: Row) -> None:
    ours, theirs = row.make().state_dict(), row.make_torch().state_dict()
    for name, value in ours.items():
        mine, other = np.asarray(value, np.float64), theirs[name].double().numpy()
        if np.unique(other).size <= 2:  # constants
            np.testing.assert_array_equal(mine, other, err_msg=name)
        else:  # the same scale: a distribution is told from its neighbours in tests of nn.init, with more samples
            assert np.abs(mine).max() <= 6 * np.abs(other).max(), name
            assert np.abs(mine).max() >= np.abs(other).max() / 6, name


@pytest.mark.parametrize("name", LAYERS)
def test_constructor_arguments_are_torchs(name: str) -> None:
    def arguments(cls: type) -> list[tuple[str, Any, Any]]:
        return [(p.name, default(p.default), p.kind) for p in inspect.signature(cls).parameters.values()]

    def default(value: Any) -> Any:
        return value.__name__ if callable(value) else value  # an activation: each has its own

    if not inspect.signature(getattr(nn, name)).parameters:  # torch's base class takes and refuses anything
        with pytest.raises(TypeError):
            getattr(torch.nn, name)(1)
        return
    assert arguments(getattr(nn, name)) == arguments(getattr(torch.nn, name))


@pytest.mark.parametrize(
    ("row", "bad"),
    [(r, b) for r, b in BAD if b.torch_raises],
    ids=[i for i, (_, b) in zip(BAD_IDS, BAD, strict=True) if b.torch_raises],
)
def test_torch_raises_the_same(row: Row, bad: Bad) -> None:
    def use() -> None:
        if bad.args is not None:
            getattr(torch.nn, row.layer)(*tensors(bad.args), **tensors(bad.kwargs))
        else:
            row.make_torch()(*tensors(bad.inputs), **tensors(bad.call))

    with pytest.raises(bad.kind):
        use()


@pytest.mark.filterwarnings("ignore:size_average and reduce args:UserWarning")
@pytest.mark.parametrize("name", ["CrossEntropyLoss", "MSELoss", "BCEWithLogitsLoss"])
@pytest.mark.parametrize(
    "options", [{"size_average": False}, {"reduce": False}, {"size_average": True, "reduce": True}]
)
def test_legacy_loss_arguments(name: str, options: dict[str, bool]) -> None:
    assert getattr(nn, name)(**options).reduction == getattr(torch.nn, name)(**options).reduction


def test_implicit_softmax_dimension_warns() -> None:
    for layer in (nn.Softmax(), nn.LogSoftmax()):
        with pytest.warns(UserWarning, match="Implicit dimension choice") as caught:
            layer(np.zeros((2, 3), np.float32))
        assert caught[0].filename == __file__


EDGES = {"empty": lambda x: x[:0], "one": lambda x: x[:1], "none": lambda x: x[0]}


@every()
@pytest.mark.parametrize("edge", ["empty", "none", pytest.param("one", marks=pytest.mark.slow)])
def test_batches_of_none_and_one_and_no_batch(row: Row, edge: str) -> None:
    """What torch makes of each, an error's type included, unless the row says why not."""
    if edge in row.edges or (row.random and row.make().training):
        return
    cut = EDGES[edge]
    inputs = jax.tree.map(lambda x: np.asarray(cut(x)) if isinstance(x, np.ndarray) and x.ndim else x, row.inputs(0))
    ours, theirs = pair(row)
    try:
        expected = row.run_torch(theirs, inputs)
    except Exception as error:
        with pytest.raises(type(error)):
            row.run(ours, inputs)
        return
    found, wanted = jax.tree.leaves(row.run(ours, inputs)), jax.tree.leaves(expected)
    for mine, other in zip(found, wanted, strict=True):
        assert_close(mine, other, row.rtol)


@every(half=0)
def test_float64(row: Row) -> None:
    if "float64" in row.edges:
        return
    if row.random:
        row = dataclasses.replace(row, modes_differ=True)
    wide = dataclasses.replace(row, call=in_dtype(row.call, np.float64))
    inputs = in_dtype(row.inputs(0), np.float64)
    with jax.enable_x64(True):
        ours, theirs = row.make().double(), row.make_torch().double()
        ours.load_state_dict(theirs.state_dict())
        if row.random:
            ours.eval()
            theirs.eval()
        found, expected = compiled(wide, ours)(inputs), run_torch(wide, theirs, inputs)
        assert first(found[0]).dtype == (np.float64 if first(expected[0]).dtype == torch.float64 else None)
        assert_all_close(found, expected, 1e-9)


@every()
def test_bfloat16(row: Row) -> None:
    """Near torch's: both round sums to eight bits, at places that differ."""
    half = dataclasses.replace(row, call=in_dtype(row.call, jnp.bfloat16))
    inputs = in_dtype(row.inputs(0), jnp.bfloat16)
    ours, theirs = row.make().bfloat16(), row.make_torch().bfloat16()
    ours.load_state_dict(theirs.state_dict())
    if row.random:
        ours.eval()
        theirs.eval()
    try:
        expected = first(half.run_torch(theirs, jax.tree.map(lambda x: to_torch(x), inputs)))
    except (RuntimeError, NotImplementedError) as error:
        if "not implemented for" in str(error) or "BFloat16" in str(error):
            return
        raise
    found = first(half.run(ours, inputs))
    assert found.dtype == str(expected.dtype).removeprefix("torch.")
    assert_close(found, expected, 4 * float(jnp.finfo(jnp.bfloat16).eps))


def in_dtype(tree: Any, dtype: Any) -> Any:
    """The float32 arrays of a tree in another dtype."""
    return jax.tree.map(lambda x: x.astype(dtype) if getattr(x, "dtype", None) == np.float32 else x, tree)

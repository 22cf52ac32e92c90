"""Clipping of gradients against torch's."""

import inspect

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from jax.test_util import check_grads

import jaxmodule as jm
from jaxmodule import nn
from jaxmodule.nn import utils
from tests.parity.oracle import assert_close, same_error, to_torch

THEIRS = torch.nn.utils
FUNCTIONS = [
    "clip_grad_norm",
    "clip_grad_norm_",
    "clip_grad_value_",
    "clip_grads_with_norm_",
    "get_total_norm",
    "parameters_to_vector",
    "vector_to_parameters",
]
NORMS = [2.0, 1.0, 3.5, 0, -1.0, float("inf"), -float("inf"), "inf", 2]
SHAPES = [(3, 4), (5,), (), (2, 1, 2)]


@pytest.mark.parametrize("function", FUNCTIONS)
def test_signatures(function):
    mine, other = (inspect.signature(getattr(lib, function)) for lib in (utils, THEIRS))
    assert [(p.name, p.kind, p.default) for p in mine.parameters.values()] == [
        (p.name, p.kind, p.default) for p in other.parameters.values()
    ]


def gradients(seed=0, scale=1.0):
    rng = np.random.default_rng(seed)
    return [np.asarray(scale * rng.standard_normal(shape)).astype(np.float32) for shape in SHAPES]


def parameters(arrays, dtypes=None):
    """Parameters with these gradients in both, and one without."""
    ours, theirs = [nn.Parameter(jnp.ones(2))], [torch.nn.Parameter(torch.ones(2))]
    for i, array in enumerate(arrays):
        mine, other = jnp.asarray(array), to_torch(array)
        if dtypes is not None and dtypes[i % len(dtypes)] == "bfloat16":
            mine, other = mine.astype(jnp.bfloat16), other.bfloat16()
        ours.append(nn.Parameter(jnp.zeros_like(mine)))
        ours[-1].grad = mine
        theirs.append(torch.nn.Parameter(torch.zeros_like(other)))
        theirs[-1].grad = other
    return ours, theirs


def assert_same_gradients(ours, theirs, rtol=1e-5):
    for mine, other in zip(ours, theirs, strict=True):
        assert (mine.grad is None) == (other.grad is None)
        if mine.grad is not None:
            assert str(mine.grad.dtype) == str(other.grad.dtype).removeprefix("torch.")
            assert_close(mine.grad, other.grad, rtol)


@pytest.mark.parametrize("foreach", [None, True, False])
@pytest.mark.parametrize("max_norm", [0.5, 1e4])
@pytest.mark.parametrize("norm_type", NORMS)
def test_clip_grad_norm(norm_type, max_norm, foreach):
    if foreach is not None and norm_type not in (2.0, "inf"):
        return
    ours, theirs = parameters(gradients())
    mine = utils.clip_grad_norm_(ours, max_norm, norm_type, foreach=foreach)
    other = THEIRS.clip_grad_norm_(theirs, max_norm, norm_type, foreach=foreach)
    assert mine.dtype == jnp.float32
    assert_close(mine, other)
    assert_same_gradients(ours, theirs)


@pytest.mark.parametrize("dtypes", [["bfloat16"], ["float32", "bfloat16"], ["bfloat16", "float32"]])
def test_half_precision(dtypes):
    ours, theirs = parameters(gradients(), dtypes)
    mine, other = utils.clip_grad_norm_(ours, 0.5), THEIRS.clip_grad_norm_(theirs, 0.5)
    assert str(mine.dtype) == str(other.dtype).removeprefix("torch.")
    assert_close(mine, other, 1e-2)  # a unit in the last place of bfloat16 is 2 ** -8
    assert_same_gradients(ours, theirs, 1e-2)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("norm_type", [2.0, "inf"])
def test_gradients_that_are_not_finite(bad, norm_type):
    arrays = gradients()
    arrays[1][2] = bad
    ours, theirs = parameters(arrays)
    same_error(
        lambda: utils.clip_grad_norm_(ours, 1.0, norm_type, error_if_nonfinite=True),
        lambda: THEIRS.clip_grad_norm_(theirs, 1.0, norm_type, error_if_nonfinite=True),
    )
    assert_same_gradients(ours, theirs)
    assert_close(utils.clip_grad_norm_(ours, 1.0, norm_type), THEIRS.clip_grad_norm_(theirs, 1.0, norm_type))
    assert_same_gradients(ours, theirs)


@pytest.mark.parametrize("foreach", [None, False])
def test_clip_grad_value(foreach):
    arrays = gradients(scale=3)
    arrays[0][0, 0] = float("nan")
    arrays[0][0, 1] = float("inf")
    ours, theirs = parameters(arrays, ["float32", "bfloat16"])
    utils.clip_grad_value_(ours, 0.7, foreach=foreach)
    THEIRS.clip_grad_value_(theirs, 0.7, foreach=foreach)
    assert_same_gradients(ours, theirs)
    utils.clip_grad_value_(ours[1], 0.1)
    THEIRS.clip_grad_value_(theirs[1], 0.1)
    assert_same_gradients(ours, theirs)


@pytest.mark.parametrize("norm_type", NORMS)
def test_get_total_norm(norm_type):
    arrays = gradients()
    expected = THEIRS.get_total_norm([to_torch(a) for a in arrays], norm_type)
    for given in (arrays, map(jnp.asarray, arrays), {str(i): jnp.asarray(a) for i, a in enumerate(arrays)}):
        assert_close(utils.get_total_norm(given, norm_type), expected)
    assert_close(utils.get_total_norm(arrays[0], norm_type), THEIRS.get_total_norm(to_torch(arrays[0]), norm_type))


def test_complex_gradients():
    z = (np.arange(4) + 1j * np.arange(4)[::-1]).astype(np.complex64)
    ours, theirs = nn.Parameter(jnp.asarray(z)), torch.nn.Parameter(torch.from_numpy(z))
    ours.grad, theirs.grad = jnp.asarray(z), torch.from_numpy(z.copy())
    mine, other = utils.clip_grad_norm_(ours, 1.0), THEIRS.clip_grad_norm_(theirs, 1.0)
    assert mine.dtype == jnp.float32
    assert_close(mine, other)
    np.testing.assert_allclose(np.asarray(ours.grad), theirs.grad.numpy(), rtol=1e-5)


def test_nothing_to_clip():
    empty = nn.Parameter(jnp.ones(2)), torch.nn.Parameter(torch.ones(2))
    for mine, other in (([], []), ([empty[0]], [empty[1]]), (empty[0], empty[1])):
        assert_close(utils.clip_grad_norm_(mine, 1.0), THEIRS.clip_grad_norm_(other, 1.0))
    for lib in (utils, THEIRS):
        with pytest.warns(UserWarning, match="empty generator"):
            lib.clip_grad_norm_((p for p in []), 1.0)
    with pytest.warns(UserWarning, match="empty generator"):
        utils.clip_grad_norm_(nn.ReLU().parameters(), 1.0)


def test_the_deprecated_name():
    ours, theirs = parameters(gradients())
    for lib, given in ((utils, ours), (THEIRS, theirs)):
        with pytest.warns(FutureWarning, match="clip_grad_norm_"):
            lib.clip_grad_norm(given, 0.5)
    assert_same_gradients(ours, theirs)


def test_clip_grads_with_norm():
    ours, theirs = parameters(gradients())
    utils.clip_grads_with_norm_(ours, 2.0, jnp.float32(8.0))
    THEIRS.clip_grads_with_norm_(theirs, 2.0, torch.tensor(8.0))
    assert_same_gradients(ours, theirs)
    utils.clip_grads_with_norm_(ours[1], 2.0, jnp.float32(8.0))
    THEIRS.clip_grads_with_norm_(theirs[1], 2.0, torch.tensor(8.0))
    assert_same_gradients(ours, theirs)


def test_bad_arguments():
    same_error(lambda: utils.get_total_norm([jnp.arange(3)]), lambda: THEIRS.get_total_norm([torch.arange(3)]))
    same_error(
        lambda: utils.get_total_norm([jnp.zeros(0), jnp.ones(2)], float("inf")),
        lambda: THEIRS.get_total_norm([torch.zeros(0), torch.ones(2)], float("inf")),
    )
    same_error(
        lambda: utils.clip_grad_norm_(nn.Linear(2, 2), 1.0), lambda: THEIRS.clip_grad_norm_(torch.nn.Linear(2, 2), 1.0)
    )
    assert_close(utils.get_total_norm(jnp.zeros(0)), THEIRS.get_total_norm(torch.zeros(0)))


def test_a_training_step_with_dicts_and_with_grad():
    """Five steps with clipping, three ways."""
    theirs = torch.nn.Linear(4, 3)
    by_grad, by_dict = nn.Linear(4, 3), nn.Linear(4, 3)
    by_grad.load_state_dict(theirs.state_dict())
    by_dict.load_state_dict(theirs.state_dict())

    def loss(model, x):
        return (model(x) ** 2).sum()

    @jm.jit
    def step_by_grad(model, x):
        model.zero_grad()
        jm.backward(loss)(model, x)
        norm = utils.clip_grad_norm_(model.parameters(), 1.0, error_if_nonfinite=True)
        utils.clip_grad_value_(model.parameters(), 0.3)
        for p in model.parameters():
            p.value = p.value - 0.1 * p.grad
        return norm

    @jm.jit
    def step_by_dict(model, x):
        gradients = jm.grad(loss)(model, x)
        norm = utils.clip_grad_norm_(gradients, 1.0)
        utils.clip_grad_value_(gradients, 0.3)
        for name, gradient in gradients.items():
            p = model.get_parameter(name)
            p.value = p.value - 0.1 * gradient
        return norm

    for seed in range(5):
        x = np.random.default_rng(seed).standard_normal((6, 4)).astype(np.float32)
        theirs.zero_grad()
        (theirs(to_torch(x)) ** 2).sum().backward()
        expected = THEIRS.clip_grad_norm_(theirs.parameters(), 1.0)
        THEIRS.clip_grad_value_(theirs.parameters(), 0.3)
        with torch.no_grad():
            for p in theirs.parameters():
                p -= 0.1 * p.grad
        assert_close(step_by_grad(by_grad, x), expected)
        assert_close(step_by_dict(by_dict, x), expected)
    for name, value in theirs.state_dict().items():
        assert_close(by_grad.state_dict()[name], value, what=name)
        assert_close(by_dict.state_dict()[name], value, what=name)


def test_vectors():
    arrays = gradients()
    ours, theirs = [nn.Parameter(a) for a in arrays], [torch.nn.Parameter(to_torch(a)) for a in arrays]
    vector = utils.parameters_to_vector(ours)
    assert_close(vector, THEIRS.parameters_to_vector(theirs))
    for size in (vector.size, vector.size + 3):
        new = np.arange(size, dtype=np.float32)
        assert utils.vector_to_parameters(jnp.asarray(new), iter(ours)) is None
        THEIRS.vector_to_parameters(to_torch(new), iter(theirs))
        for mine, other in zip(ours, theirs, strict=True):
            assert_close(mine, other)
    half = jnp.ones(vector.size, jnp.bfloat16), torch.ones(vector.size).bfloat16()
    utils.vector_to_parameters(half[0], ours[:1])
    THEIRS.vector_to_parameters(half[1], theirs[:1])
    assert str(ours[0].dtype) == str(theirs[0].dtype).removeprefix("torch.")
    mixed = utils.parameters_to_vector(ours), THEIRS.parameters_to_vector(theirs)
    assert str(mixed[0].dtype) == str(mixed[1].dtype).removeprefix("torch.")
    before = [np.asarray(p) for p in ours]
    for mine, other in (
        (lambda: utils.vector_to_parameters([1.0], ours), lambda: THEIRS.vector_to_parameters([1.0], theirs)),
        (
            lambda: utils.vector_to_parameters(jnp.ones(15), ours),
            lambda: THEIRS.vector_to_parameters(torch.ones(15), theirs),
        ),
        (lambda: utils.parameters_to_vector([]), lambda: THEIRS.parameters_to_vector([])),
    ):
        same_error(mine, other)
    for mine, old in zip(ours, before, strict=True):
        assert_close(mine, old)


def test_gradients_of_vectors():
    arrays = [jnp.arange(6.0).reshape(2, 3), jnp.ones(2)]
    check_grads(lambda *a: utils.parameters_to_vector(a) ** 2, arrays, 1, rtol=1e-2)

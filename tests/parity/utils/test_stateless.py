"""`stateless.functional_call` against torch's, and what both do with the names of parametrized tensors."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import jaxmodule as jm
from jaxmodule import nn
from jaxmodule.nn.utils import parametrizations, stateless
from tests.parity.oracle import assert_close, same_error, to_torch

THEIRS = torch.nn.utils.stateless


def test_signature():
    mine, other = (inspect.signature(lib.functional_call) for lib in (stateless, THEIRS))
    assert [(p.name, p.kind, p.default) for p in mine.parameters.values()] == [
        (p.name, p.kind, p.default) for p in other.parameters.values()
    ]


def test_it_warns_and_calls():
    ours, theirs = nn.Linear(3, 2), torch.nn.Linear(3, 2)
    ours.load_state_dict(theirs.state_dict())
    x = np.ones((2, 3), np.float32)
    with pytest.warns(FutureWarning, match="stateless.functional_call. is deprecated"):
        expected = THEIRS.functional_call(theirs, {"bias": torch.ones(2)}, to_torch(x))
    with pytest.warns(FutureWarning, match="stateless.functional_call. is deprecated"):
        got = stateless.functional_call(ours, {"bias": jnp.ones(2)}, x)
    assert_close(got, expected)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_strict_and_tied():
    def tied(lib):
        model = lib.Sequential(lib.Linear(2, 2), lib.Linear(2, 2))
        model[1].weight = model[0].weight
        return model

    ours, theirs = tied(nn), tied(torch.nn)
    x = jnp.ones((1, 2)), torch.ones(1, 2)
    for given in ({"nothing": np.ones(2)}, {"0.weight": np.ones((2, 2))}):
        same_error(
            lambda given=given: stateless.functional_call(ours, given, x[0], strict=True),
            lambda given=given: THEIRS.functional_call(
                theirs, {k: to_torch(v) for k, v in given.items()}, x[1], strict=True
            ),
        )
    given = {"0.weight": np.ones((2, 2), np.float32), "1.weight": np.zeros((2, 2), np.float32)}
    tensors = {k: to_torch(v) for k, v in given.items()}
    same_error(
        lambda: stateless.functional_call(ours, given, x[0]), lambda: THEIRS.functional_call(theirs, tensors, x[1])
    )
    ours.load_state_dict(theirs.state_dict())
    assert_close(
        stateless.functional_call(ours, given, x[0], tie_weights=False),
        THEIRS.functional_call(theirs, tensors, x[1], tie_weights=False),
    )


@pytest.mark.parametrize("nested", [False, True])
def test_a_value_for_a_parametrized_tensor_takes_its_place(nested):
    ours = parametrizations.weight_norm(nn.Linear(3, 2))
    theirs = torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(3, 2))
    ours.load_state_dict(theirs.state_dict())
    prefix = "0." if nested else ""
    if nested:
        ours, theirs = nn.Sequential(ours), torch.nn.Sequential(theirs)
    x, w = np.ones((2, 3), np.float32), np.arange(6, dtype=np.float32).reshape(2, 3)
    expected = torch.func.functional_call(theirs, {f"{prefix}weight": to_torch(w)}, to_torch(x))
    assert_close(jm.functional_call(ours, {f"{prefix}weight": w}, x), expected)
    assert_close(jm.jit(lambda m, w, x: jm.functional_call(m, {f"{prefix}weight": w}, x))(ours, w, x), expected)
    gradient = jax.grad(lambda w: jm.functional_call(ours, {f"{prefix}weight": w}, x).sum())(jnp.asarray(w))
    assert_close(gradient, 2 * np.ones((2, 3), np.float32))
    assert_close(ours(x), theirs(to_torch(x)))
    g = f"{prefix}parametrizations.weight.original0"
    assert_close(
        jm.functional_call(ours, {g: np.ones((2, 1), np.float32)}, x),
        torch.func.functional_call(theirs, {g: torch.ones(2, 1)}, to_torch(x)),
    )
    same_error(
        lambda: jm.functional_call(ours, {f"{prefix}weight": w}, x, strict=True),
        lambda: torch.func.functional_call(theirs, {f"{prefix}weight": to_torch(w)}, to_torch(x), strict=True),
    )

"""The notes that an exception from a forward carries: module path, class and inputs, once a level."""

from __future__ import annotations

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmodule as jm
from jaxmodule import nn


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 4), nn.Linear(5, 2))

    def forward(self, x: jax.Array, scale: float = 1.0, **options: object) -> jax.Array:
        return self.net(x) * scale


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Block(), Block()])

    def forward(self, x: jax.Array) -> jax.Array:
        return self.blocks[1](x, scale=2.0)


EXPECTED = [
    "in blocks.1.net.1: Linear(in_features=5, out_features=2, bias=True), called with float32[2, 4]",
    "in blocks.1.net: Sequential, called with float32[2, 3]",
    "in blocks.1: Block, called with float32[2, 3], scale=2.0",
    "in Net, called with float32[2, 3]",
]


@pytest.mark.parametrize("compiled", [False, True])
def test_each_level_adds_a_note_with_the_whole_path(compiled: bool) -> None:
    model = Net()
    with pytest.raises(RuntimeError, match="cannot be multiplied") as caught:
        (jm.jit(model) if compiled else model)(jnp.ones((2, 3)))
    assert [note for note in caught.value.__notes__ if note.startswith("in ")] == EXPECTED


def test_under_grad_and_in_a_compiled_module() -> None:
    model = Net()
    with pytest.raises(RuntimeError) as caught:
        jm.grad(lambda model: model(jnp.ones((2, 3))).sum())(model)
    assert caught.value.__notes__[: len(EXPECTED)] == EXPECTED
    model.compile()
    with pytest.raises(RuntimeError) as caught:
        model(jnp.ones((2, 3)))
    assert caught.value.__notes__[0] == EXPECTED[0]


def test_a_module_that_is_no_attribute_starts_a_path_of_its_own() -> None:
    hidden = (nn.Linear(3, 1),)

    class Outer(nn.Module):
        def forward(self, x: jax.Array) -> jax.Array:
            return hidden[0](x)

    with pytest.raises(RuntimeError) as caught:
        Outer()(jnp.ones(4))
    assert caught.value.__notes__ == [
        "in Linear(in_features=3, out_features=1, bias=True), called with float32[4]",
        "in Outer(), called with float32[4]",
    ]


def test_notes_of_the_user_stay_where_they_are() -> None:
    class Fails(nn.Module):
        def forward(self, x: object) -> None:
            error = ValueError("no")
            error.add_note("the user's own")
            raise error

    outer = nn.Sequential(Fails())
    with pytest.raises(ValueError, match="no") as caught:
        outer([np.zeros(2, np.int32)])
    assert caught.value.__notes__ == [
        "the user's own",
        "in 0: Fails(), called with [int32[2]]",
        "in Sequential, called with [int32[2]]",
    ]


def test_an_exception_that_is_handled_inside_leaves_nothing() -> None:
    class Retries(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(3, 2)

        def forward(self, x: jax.Array) -> jax.Array:
            try:
                return self.inner(x)
            except RuntimeError:
                return self.inner(x[:3])

    assert Retries()(jnp.ones(4)).shape == (2,)


def test_annotated_exceptions_pickle() -> None:
    with pytest.raises(RuntimeError) as caught:
        Net()(jnp.ones((2, 3)))
    assert pickle.loads(pickle.dumps(caught.value)).__notes__ == EXPECTED

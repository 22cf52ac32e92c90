"""The table of docs/porting.md: each pair of idioms gives the same values."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import jaxmodule as jm
from jaxmodule import nn
from jaxmodule.nn import functional as F

A = np.arange(24, dtype=np.float32).reshape(2, 3, 4) % 7 - 2
I = np.array([[0, 2, 1, 1]])  # noqa: E741
M = A[0] > 0

IDIOMS: list[tuple[Callable[..., Any], Callable[..., Any]]] = [
    (lambda x: x.size(), lambda x: x.shape),
    (lambda x: (x.dim(), x.numel(), len(x)), lambda x: (x.ndim, x.size, len(x))),
    (lambda x: x[0, 0, 0].item(), lambda x: x[0, 0, 0].item()),
    (lambda x: x.view(6, 4), lambda x: x.reshape(6, 4)),
    (lambda x: x.flatten(1), lambda x: x.reshape(x.shape[0], -1)),
    (lambda x: x.permute(0, 2, 1), lambda x: x.transpose(0, 2, 1)),
    (lambda x: x.transpose(1, 2), lambda x: x.swapaxes(1, 2)),
    (lambda x: x.mT, lambda x: x.mT),
    (lambda x: x[0].t(), lambda x: x[0].T),
    (lambda x: x.unsqueeze(1), lambda x: x[:, None]),
    (lambda x: x.unsqueeze(1), lambda x: jnp.expand_dims(x, 1)),
    (lambda x: x[:, :1].squeeze(1), lambda x: x[:, :1].squeeze(1)),
    (lambda x: x[0, :1].expand(5, -1), lambda x: jnp.broadcast_to(x[0, :1], (5, x.shape[2]))),
    (lambda x: x[0].repeat(2, 3), lambda x: jnp.tile(x[0], (2, 3))),
    (lambda x: x.repeat_interleave(2, 1), lambda x: x.repeat(2, 1)),
    (lambda x: torch.cat([x, x], dim=1), lambda x: jnp.concatenate([x, x], axis=1)),
    (lambda x: torch.stack([x, x]), lambda x: jnp.stack([x, x])),
    (lambda x: x.chunk(3, dim=1), lambda x: jnp.array_split(x, 3, axis=1)),
    (lambda x: x.split(3, dim=2), lambda x: jnp.split(x, list(range(3, x.shape[2], 3)), axis=2)),
    (lambda x: x[0].masked_fill(torch.from_numpy(M), 9.0), lambda x: jnp.where(M, 9.0, x[0])),
    (lambda x: x[0][torch.from_numpy(M)], lambda x: x[0][M]),
    (lambda x: x.index_fill(0, torch.tensor([1]), 5.0), lambda x: x.at[1].set(5.0)),
    (lambda x: x.index_add(0, torch.tensor([1]), x[:1]), lambda x: x.at[1].add(x[0])),
    (lambda x: x[0].gather(0, torch.from_numpy(I)), lambda x: jnp.take_along_axis(x[0], I, axis=0)),
    (lambda x: x[0].scatter(0, torch.from_numpy(I), 5.0), lambda x: jnp.put_along_axis(x[0], I, 5.0, 0, inplace=False)),
    (lambda x: x.index_select(0, torch.tensor([1, 0])), lambda x: x[np.array([1, 0])]),
    (lambda x: torch.arange(6).flip(0).topk(2), lambda x: jax.lax.top_k(jnp.arange(6)[::-1], 2)),
    (lambda x: x.sort(1)[0], lambda x: jnp.sort(x, 1)),
    (lambda x: x.max(1)[0], lambda x: x.max(1)),
    (lambda x: x.argmax(1), lambda x: x.argmax(1)),
    (lambda x: x.mean(-1, True), lambda x: x.mean(-1, keepdims=True)),
    (lambda x: (x.std(0), x.var(0)), lambda x: (x.std(0, ddof=1), x.var(0, ddof=1))),
    (lambda x: torch.einsum("nij,nkj->nik", x, x), lambda x: jnp.einsum("nij,nkj->nik", x, x)),
    (lambda x: torch.bmm(x, x.mT), lambda x: x @ x.mT),
    (lambda x: x.softmax(-1), lambda x: F.softmax(x, dim=-1)),
    (lambda x: (x.clamp(0, 1), x.clamp(min=0)), lambda x: (x.clip(0, 1), x.clip(min=0))),
    (lambda x: torch.linspace(0, 1, 5), lambda x: jnp.linspace(0, 1, 5)),
    (lambda x: torch.full((2,), 3.0), lambda x: jnp.full((2,), 3.0)),
    (lambda x: x.new_zeros(2), lambda x: jnp.zeros(2, x.dtype)),
    (lambda x: (x.long(), x.bool()), lambda x: (x.astype(int), x.astype(bool))),
    (lambda x: x.detach(), jax.lax.stop_gradient),
]


@pytest.mark.parametrize("number", range(len(IDIOMS)))
def test_an_idiom(number):
    theirs, ours = IDIOMS[number]
    expected, found = theirs(torch.from_numpy(A.copy())), ours(jnp.asarray(A))
    expected, found = (
        jax.tree.leaves(tuple(expected) if isinstance(expected, tuple) else expected),
        jax.tree.leaves(found),
    )
    assert len(expected) == len(found)
    for a, b in zip(expected, found, strict=True):
        np.testing.assert_allclose(np.asarray(b), np.asarray(a), rtol=1e-6)


def test_state_and_randomness():
    class Counts(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("n", jnp.array(0))
            self.weight = nn.Parameter(jax.random.normal(jm.next_key(), (3,)))
            self.last = jnp.zeros(3)

        def forward(self, x):
            self.n += 1
            self.last = x
            return x + jax.random.uniform(jm.next_key(), (3,)) * self.weight

    model = Counts()
    run = jm.jit(lambda model, x: model(x))
    run(model, jnp.ones(3))
    run(model, 2 * jnp.ones(3))
    assert int(model.n) == 2
    assert model.last.tolist() == [2.0, 2.0, 2.0]
    model.weight.add_(1.0).copy_(jnp.zeros(3))
    model.weight.zero_()
    assert list(model.state_dict()) == ["weight", "n"]

"""Real architectures, written once for both frameworks: a `Framework` stands for the import lines that a port changes.

`check` moves torch's weights over with `load_state_dict(strict=True)`, then compares the outputs in evaluation, the
loss of a training step, every gradient, and every parameter and buffer after it.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch

import jaxmodule as jm
from tests.parity.oracle import assert_close, to_torch

Framework = SimpleNamespace

TORCH = Framework(
    nn=torch.nn,
    F=torch.nn.functional,
    cat=torch.cat,
    reshape=torch.reshape,
    permute=torch.permute,
    zeros=torch.zeros,
    ones=torch.ones,
    arange=torch.arange,
    mean=torch.mean,
    rsqrt=torch.rsqrt,
    cos=torch.cos,
    sin=torch.sin,
    log=torch.log,
    where=torch.where,
    outer=torch.outer,
    expand=lambda x, shape: x.expand(shape),
    tril=torch.tril,
    minimum=torch.minimum,
    float=lambda x: x.float(),
    like=lambda x, y: x.to(y.dtype),
    int=lambda x: x.long(),
    bool=lambda x: x.bool(),
)
JAX = Framework(
    nn=jm.nn,
    F=jm.nn.functional,
    cat=jnp.concatenate,
    reshape=jnp.reshape,
    permute=jnp.transpose,
    zeros=jnp.zeros,
    ones=jnp.ones,
    arange=jnp.arange,
    mean=jnp.mean,
    rsqrt=jax.lax.rsqrt,
    cos=jnp.cos,
    sin=jnp.sin,
    log=jnp.log,
    where=jnp.where,
    outer=jnp.outer,
    expand=jnp.broadcast_to,
    tril=jnp.tril,
    minimum=jnp.minimum,
    float=lambda x: x.astype(jnp.float32),
    like=lambda x, y: x.astype(y.dtype),
    int=lambda x: x.astype(int),
    bool=lambda x: x.astype(bool),
)


def check(
    build: Callable[[Framework], Any],
    inputs: tuple[np.ndarray, ...],
    loss: Callable[[Framework, Any], Any],
    *,
    outputs_rtol: float = 1e-4,
    step_rtol: float = 1e-7,
    lr: float = 0.01,
) -> None:
    """Compare the model that `build` makes of either framework.

    Args:
        build: makes the model; it must draw nothing in its forward (no dropout).
        inputs: the arguments of a call.
        loss: a scalar of the framework and the model's output.
        outputs_rtol: of the outputs in float32, relative to the largest. Looser than a layer's, as rounding grows with
            depth and sums are taken in another order.
        step_rtol: of gradients and of what a step changes, in float64: in float32 a deep network with BatchNorm over
            few images magnifies the last bit until nothing can be told from a mistake.
        lr: of the step of gradient descent.
    """
    torch.manual_seed(0)
    theirs, ours = build(TORCH), build(JAX)
    assert not ours.load_state_dict(theirs.state_dict(), strict=True).untouched
    theirs.eval()
    with torch.no_grad():
        expected = leaves(theirs(*map(to_torch, inputs)))
    evaluate = jm.jit(lambda model, *inputs: model(*inputs))
    for mine, other in zip(jax.tree.leaves(evaluate(ours.eval(), *inputs)), expected, strict=True):
        assert_close(mine, other, outputs_rtol)
    with jax.enable_x64(True):
        wide = [x.astype(np.float64) if x.dtype == np.float32 else x for x in inputs]
        _check_step(ours.double().train(), theirs.double().train(), wide, loss, step_rtol, lr)


def _check_step(ours: Any, theirs: Any, inputs: list[np.ndarray], loss: Any, rtol: float, lr: float) -> None:
    @jm.jit
    def step(model: Any, *inputs: jax.Array) -> Any:
        value, gradients = jm.value_and_grad(lambda model: loss(JAX, model(*inputs)))(model)
        for name, gradient in gradients.items():
            parameter = model.get_parameter(name)
            parameter.value = parameter.value - lr * gradient
        return value, gradients

    found, gradients = step(ours, *inputs)
    value = loss(TORCH, theirs(*map(to_torch, inputs)))
    value.backward()
    assert_close(found, value, rtol, "loss")
    named = dict(theirs.named_parameters())
    assert set(gradients) == set(named)
    largest = max(float(p.grad.abs().max()) for p in named.values() if p.grad is not None)
    for name, gradient in gradients.items():
        # Some gradients are zero but for rounding (a bias before a BatchNorm): so the model's largest sets a floor.
        other = torch.zeros_like(named[name]) if named[name].grad is None else named[name].grad
        scale = max(float(other.abs().max()), 1e-3 * largest)
        np.testing.assert_allclose(gradient, other, rtol=0, atol=rtol * scale, err_msg=name)
    with torch.no_grad():
        for parameter in theirs.parameters():
            if parameter.grad is not None:
                parameter -= lr * parameter.grad
    after = theirs.state_dict()
    for name, array in ours.state_dict().items():
        assert_close(array, after[name], rtol, name)


def leaves(output: Any) -> list[Any]:
    """The tensors of torch's output, in JAX's order."""
    return [x for x in jax.tree.leaves(output) if isinstance(x, torch.Tensor)]


def cross_entropy(targets: np.ndarray) -> Callable[[Framework, Any], Any]:
    """A loss over logits."""

    def loss(fw: Framework, logits: Any) -> Any:
        return fw.F.cross_entropy(logits, to_torch(targets) if fw is TORCH else jnp.asarray(targets))

    return loss

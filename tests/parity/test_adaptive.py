"""The adaptive softmax against torch: every argument, gradients of all parameters, log_prob and predict."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import jaxmodule as jm
from jaxmodule import nn
from tests.parity.oracle import assert_close, same_error, to_torch

pytestmark = pytest.mark.filterwarnings("ignore:Initializing zero-element tensors:UserWarning")

FEATURES, CLASSES = 8, 20
ARGUMENTS = [
    {"cutoffs": [5]},
    {"cutoffs": [5, 10], "head_bias": True},
    {"cutoffs": (1, 2, 19), "div_value": 1.0},
    {"cutoffs": [5, 10], "div_value": 1.5},
    {"cutoffs": [5, 10]},  # in_features // 4 ** 2: the last tail has no features
]


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng((seed, *shape)).standard_normal(shape).astype(np.float32)


def pair(arguments: dict[str, Any]) -> tuple[nn.AdaptiveLogSoftmaxWithLoss, torch.nn.AdaptiveLogSoftmaxWithLoss]:
    ours = nn.AdaptiveLogSoftmaxWithLoss(FEATURES, CLASSES, **arguments)
    theirs = torch.nn.AdaptiveLogSoftmaxWithLoss(FEATURES, CLASSES, **arguments)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


@pytest.mark.parametrize("arguments", ARGUMENTS)
@pytest.mark.parametrize("batch", [(40,), (1,), (0,), ()])
def test_output_loss_and_gradients(arguments: dict[str, Any], batch: tuple[int, ...]) -> None:
    ours, theirs = pair(arguments)
    x, target = normal(*batch, FEATURES), np.asarray(np.random.default_rng(1).integers(0, CLASSES, batch))
    tensor = to_torch(x).requires_grad_()
    expected = theirs(tensor, to_torch(target))
    assert_close(ours(x, target).output, expected.output)

    @jm.jit
    def step(module: nn.Module, x: jax.Array, target: jax.Array) -> Any:
        def loss(module: nn.Module, x: jax.Array) -> Any:
            found = module(x, target)
            return found.loss, found

        return jm.grad(loss, argnums=(0, 1), has_aux=True)(module, x)

    (of_parameters, of_input), found = step(ours, x, target)
    assert type(found)._fields == ("output", "loss")
    assert found.output.shape == batch
    assert_close(found.output, expected.output)
    assert_close(found.loss, expected.loss)
    if not x.size:
        return
    expected.loss.backward()
    assert_close(of_input, tensor.grad)
    for name, parameter in theirs.named_parameters():
        wanted = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        assert_close(of_parameters[name], wanted, what=name)


@pytest.mark.parametrize("arguments", ARGUMENTS)
def test_log_prob_and_predict(arguments: dict[str, Any]) -> None:
    ours, theirs = pair(arguments)
    for batch in (60, 1, 0):
        x = 3 * normal(batch, FEATURES, seed=2)
        tensor = to_torch(x)
        assert_close(ours.log_prob(x), theirs.log_prob(tensor))
        assert_close(ours.predict(x), theirs.predict(tensor).int())
        assert_close(jm.jit(lambda module, x: module.predict(x))(ours, x), theirs.predict(tensor).int())


def test_predict_prefers_the_shortlist_to_a_cluster_that_is_less_probable_as_a_whole() -> None:
    ours, theirs = pair({"cutoffs": [2], "head_bias": True})
    for logits in ([1.0, 0.0, 0.9], [1.0, 0.0, 9.0]):
        for module, array in ((ours, jnp.asarray), (theirs, torch.tensor)):
            state = dict(module.state_dict())
            state["head.bias"] = array(logits)
            state["head.weight"] = 0 * state["head.weight"]
            module.load_state_dict(state)
        x = normal(4, FEATURES)
        assert_close(ours.predict(x), theirs.predict(to_torch(x)).int())


def test_probabilities_sum_to_one_and_agree_with_the_output() -> None:
    module = nn.AdaptiveLogSoftmaxWithLoss(FEATURES, CLASSES, [5, 10], 1.5)
    x, target = normal(CLASSES, FEATURES), np.arange(CLASSES)
    log_prob = module.log_prob(x)
    np.testing.assert_allclose(jnp.exp(log_prob).sum(1), 1, rtol=1e-5)
    np.testing.assert_allclose(module(x, target).output, jnp.diagonal(log_prob), rtol=1e-5, atol=1e-6)


def test_half_and_double_precision() -> None:
    ours, theirs = pair(ARGUMENTS[1])
    x, target = normal(6, FEATURES), np.arange(6) * 3
    for dtype in (jnp.float16, jnp.bfloat16):
        half = ours.to(dtype)(jnp.asarray(x, dtype), target)
        assert half.output.dtype == half.loss.dtype == dtype
        wanted = theirs(to_torch(x), to_torch(target))
        assert_close(half.output, wanted.output, 4 * float(jnp.finfo(dtype).eps))
    with jax.enable_x64(True):
        double, reference = (
            nn.AdaptiveLogSoftmaxWithLoss(FEATURES, CLASSES, [5, 10], dtype=jnp.float64),
            theirs.double(),
        )
        state = {name: value for name, value in reference.state_dict().items() if name != "head.bias"}
        double.load_state_dict(state)
        without = torch.nn.AdaptiveLogSoftmaxWithLoss(FEATURES, CLASSES, [5, 10]).double()
        without.load_state_dict(state)
        found = double(x.astype(np.float64), target)
        assert_close(found.loss, without(to_torch(x).double(), to_torch(target)).loss, 1e-12)


@pytest.mark.parametrize(
    ("shape", "target"),
    [((3, 8), (2,)), ((3, 8), ()), ((2, 3, 8), (2,)), ((8,), (8,)), ((3, 8), (3, 1)), ((3, 7), (3,))],
)
def test_errors_of_shapes(shape: Any, target: Any) -> None:
    ours, theirs = pair(ARGUMENTS[0])
    same_error(
        lambda: ours(normal(*shape), np.zeros(target, np.int64)),
        lambda: theirs(torch.ones(shape), torch.zeros(target, dtype=torch.int64)),
    )


@pytest.mark.parametrize("wrong", [-1, CLASSES])
def test_a_target_that_is_no_class(wrong: int) -> None:
    ours, theirs = pair(ARGUMENTS[0])
    x, target = normal(2, FEATURES), np.array([0, wrong])
    same_error(lambda: ours(x, target), lambda: theirs(to_torch(x), to_torch(target)))
    with pytest.raises(RuntimeError, match=r"should be in \[0, 19\], but values in range"):
        ours(x, target)
    found = jm.jit(ours)(x, target)
    assert np.isnan(found.output).tolist() == [False, True]
    assert np.isnan(found.loss)


def test_other_errors() -> None:
    ours, theirs = pair(ARGUMENTS[0])
    for method in ("log_prob", "predict"):
        same_error(lambda m=method: getattr(ours, m)(normal(8)), lambda m=method: getattr(theirs, m)(torch.ones(8)))
    same_error(lambda: ours(normal(2, 8), np.ones(2, np.float32)), lambda: theirs(torch.ones(2, 8), torch.ones(2)))


def test_hooks_of_the_parts_run() -> None:
    module, seen = nn.AdaptiveLogSoftmaxWithLoss(FEATURES, CLASSES, [5, 10]), []
    for name, part in (("head", module.head), ("tail", module.tail[1])):
        part.register_forward_hook(lambda _, args, output, name=name: seen.append((name, output.shape)))
    module(normal(3, FEATURES), np.array([0, 6, 12]))
    assert seen == [("head", (3, 7)), ("tail", (3, 10))]

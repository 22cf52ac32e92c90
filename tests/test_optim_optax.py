"""Any optax transformation works as it is."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest

import jaxmodule as jm
from jaxmodule import nn

X = jnp.asarray(np.random.default_rng(0).standard_normal((6, 3)), jnp.float32)
Y = jnp.asarray(np.random.default_rng(1).standard_normal((6, 2)), jnp.float32)


@pytest.fixture(autouse=True)
def _optax_promotes() -> Iterator[None]:
    """Optax is not made for strict dtype promotion."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


def loss(m: Any) -> jax.Array:
    return ((m(X) - Y) ** 2).mean()


def labels(params: dict[str, Any]) -> dict[str, str]:
    return {name: "bias" if name.endswith("bias") else "weight" for name in params}


TRANSFORMS = {
    "lamb": lambda: optax.lamb(0.01, weight_decay=0.1),
    "novograd": lambda: optax.novograd(0.01),
    "adafactor": lambda: optax.adafactor(0.01),
    "chain with a schedule": lambda: optax.chain(
        optax.clip_by_global_norm(0.5),
        optax.scale_by_adam(mu_dtype=jnp.bfloat16),
        optax.add_decayed_weights(0.1),
        optax.scale_by_learning_rate(optax.warmup_cosine_decay_schedule(0.0, 0.1, 2, 6)),
    ),
    "multi_transform": lambda: optax.multi_transform({"bias": optax.sgd(0.5), "weight": optax.adamw(0.01)}, labels),
    "MultiSteps": lambda: optax.MultiSteps(optax.adam(0.01), every_k_schedule=3),
    "inject_hyperparams": lambda: optax.inject_hyperparams(optax.adamw)(learning_rate=0.01, weight_decay=0.1),
    "scheduled and injected": lambda: optax.inject_hyperparams(optax.sgd)(
        learning_rate=optax.linear_schedule(0.1, 0.0, 5), momentum=0.9
    ),
    "apply_if_finite": lambda: optax.apply_if_finite(optax.sgd(0.1), 3),
    "lookahead of its own parameters": lambda: optax.contrib.schedule_free_adamw(0.01),
    "muon": lambda: optax.contrib.muon(0.01),
}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_steps_are_those_of_the_transformation(name: str) -> None:
    model, transform, traces = net(), TRANSFORMS[name](), []
    params = {str(n): p.value for n, p in model.named_parameters()}
    state = transform.init(params)
    optimizer = jm.optim.Optimizer(model.parameters(), transform)

    @jm.jit
    def step(model: Any, optimizer: Any) -> None:
        traces.append(1)
        optimizer.step(jm.grad(loss)(model))

    @jax.jit
    def reference(params: Any, state: Any) -> Any:
        grads = jax.grad(lambda p: ((jm.functional_call(model, p, (X,)) - Y) ** 2).mean())(params)
        updates, state = transform.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    for _ in range(7):
        step(model, optimizer)
        params, state = reference(params, state)
    for key, value in params.items():
        np.testing.assert_allclose(model.get_parameter(key), value, rtol=1e-5, atol=1e-6)
    assert len(traces) == 1
    again = jm.optim.Optimizer(model.parameters(), transform)
    again.load_state_dict(optimizer.state_dict())
    jax.tree.map(np.testing.assert_array_equal, again.state, optimizer.state)


def test_injected_numbers_are_read_and_set_by_name() -> None:
    model, traces = net(), []
    transform = optax.chain(optax.clip(1.0), optax.inject_hyperparams(optax.sgd)(learning_rate=0.5))
    optimizer = jm.optim.Optimizer(model.parameters(), transform)

    @jm.jit
    def step(model: Any, optimizer: Any) -> None:
        traces.append(1)
        optimizer.step({str(n): jnp.ones_like(p.value) for n, p in model.named_parameters()})

    for rate in (0.5, 0.25, 0.0):
        optimizer.hyperparams["learning_rate"] = rate
        before = model[0].bias.value
        step(model, optimizer)
        np.testing.assert_allclose(before - model[0].bias.value, rate, rtol=1e-5)
    assert len(traces) == 1
    assert dict(optimizer.hyperparams) == {"learning_rate": 0.0}
    with pytest.raises(KeyError, match="no hyper-parameter 'lr' was injected (.|\n)* only .'learning_rate'"):
        optimizer.hyperparams["lr"] = 0.1


def test_what_a_transformation_takes_besides_goes_to_the_step() -> None:
    model = net()
    transform = optax.chain(optax.sgd(0.1), optax.contrib.reduce_on_plateau(patience=1, factor=0.5))
    optimizer = jm.optim.Optimizer(model.parameters(), transform)

    @jm.jit
    def step(model: Any, optimizer: Any) -> None:
        optimizer.step(jm.grad(loss)(model), value=jnp.asarray(1.0))

    for _ in range(4):
        step(model, optimizer)
    scale = next(value for name, value in optimizer.state[""].items() if name.endswith(".scale"))
    assert float(scale) < 1
    with pytest.raises(TypeError, match=r"SGD.step\(\) takes nothing besides the gradients, got \['value'\]"):
        jm.optim.SGD(model.parameters()).step(jm.grad(loss)(model), value=1.0)


KEYED = {
    "noisy_sgd": lambda seed: optax.noisy_sgd(0.1, key=jax.random.key(seed)),
    "seed": lambda seed: optax.noisy_sgd(0.1, key=seed),
    "rbg": lambda seed: optax.noisy_sgd(0.1, key=jax.random.key(seed, impl="rbg")),
    "chain": lambda seed: optax.chain(optax.add_noise(0.1, 0.5, jax.random.key(seed)), optax.adam(0.01)),
}


@pytest.mark.parametrize("how", ["state_dict", "state", "a file", "checkpoint"])
@pytest.mark.parametrize("name", KEYED)
def test_prng_keys_in_the_state_are_saved_and_go_on(name: str, how: str, tmp_path: Any) -> None:
    model = net()
    optimizer = jm.optim.Optimizer(model.parameters(), KEYED[name](0))
    optimizer.step(jm.grad(loss)(model))
    other = net()
    again = jm.optim.Optimizer(other.parameters(), KEYED[name](7))
    other.load_state_dict(model.state_dict())
    if how == "checkpoint":
        jm.save_checkpoint(tmp_path, 1, model=model, optimizer=optimizer)
        jm.load_checkpoint(tmp_path, model=other, optimizer=again)
    elif how == "a file":
        jm.save(optimizer.state_dict(), tmp_path / "o.pt")
        again.load_state_dict(jm.load(tmp_path / "o.pt"))
    else:
        state = optimizer.state_dict() if how == "state_dict" else {**optimizer.state_dict(), "state": optimizer.state}
        again.load_state_dict(state)
    for m, o in ((model, optimizer), (other, again)):
        o.step(jm.grad(loss)(m))
    np.testing.assert_array_equal(other[0].weight, model[0].weight)


def test_a_key_of_another_kind_does_not_load() -> None:
    model = net()
    optimizers = [jm.optim.Optimizer(model.parameters(), KEYED[name](0)) for name in ("noisy_sgd", "rbg")]
    with pytest.raises(ValueError, match=r"has shape \(4,\), the parameter needs \(2,\)"):
        optimizers[0].load_state_dict(optimizers[1].state_dict())

"""The hooks of optimizers, and what of torch.optim is here."""

import copy
import pickle
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxmodule as jm
from jaxmodule import nn

pytestmark = pytest.mark.usefixtures("optimized")

GRADS = {"weight": jnp.ones((2, 3)), "bias": jnp.ones(2)}


def pair() -> tuple[Any, Any]:
    model = nn.Linear(3, 2)
    return model, jm.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def test_step_hooks_run_in_order_and_can_be_removed() -> None:
    _model, optimizer = pair()
    seen: list[Any] = []
    handles = [
        optimizer.register_step_pre_hook(lambda o, args, kwargs: seen.append(("pre", o is optimizer, len(args)))),
        optimizer.register_step_post_hook(lambda o, args, kwargs: seen.append(("post", o is optimizer, len(args)))),
    ]
    optimizer.step(GRADS)
    assert seen == [("pre", True, 2), ("post", True, 2)]
    for handle in handles:
        handle.remove()
    optimizer.step(GRADS)
    assert len(seen) == 2


def test_a_pre_hook_may_replace_the_arguments() -> None:
    model, optimizer = pair()
    before = np.asarray(model.bias)
    optimizer.register_step_pre_hook(
        lambda o, args, kwargs: ((args[0], {n: g * 3 for n, g in args[1].items()}), kwargs)
    )
    optimizer.step(GRADS)
    np.testing.assert_allclose(model.bias, before - 0.3, rtol=1e-5)
    optimizer.register_step_pre_hook(lambda o, args, kwargs: "nonsense")
    with pytest.raises(RuntimeError, match="SGD.step: a pre-hook must return None or a tuple of"):
        optimizer.step(GRADS)


def test_a_hook_added_after_compilation_is_seen() -> None:
    _, optimizer = pair()
    seen, traces = [], []

    @jm.jit
    def step(optimizer: Any) -> None:
        traces.append(1)
        optimizer.step(GRADS)

    step(optimizer)
    handle = optimizer.register_step_post_hook(lambda o, args, kwargs: seen.append(1))
    step(optimizer)
    step(optimizer)
    assert (len(traces), len(seen)) == (2, 1)  # hooks run at trace time
    handle.remove()
    step(optimizer)
    assert len(traces) == 2


def test_hooks_of_the_process_run_for_every_optimizer() -> None:
    from jaxmodule.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

    (_, one), (_, other), seen, traces = pair(), pair(), [], []

    @jm.jit
    def step(optimizer: Any) -> None:
        traces.append(1)
        optimizer.step(GRADS)

    step(one)
    with (
        register_optimizer_step_pre_hook(lambda o, args, kwargs: seen.append("pre")),
        register_optimizer_step_post_hook(lambda o, args, kwargs: seen.append("post")),
    ):
        step(one)
        other.step(GRADS)
    assert seen == ["pre", "post"] * 2
    assert len(traces) == 2
    step(one)
    assert (len(seen), len(traces)) == (4, 2)


def test_state_dict_hooks() -> None:
    _, optimizer = pair()
    calls: list[str] = []
    optimizer.register_state_dict_pre_hook(lambda o: calls.append("pre"))
    optimizer.register_state_dict_pre_hook(lambda o: calls.append("first"), prepend=True)
    optimizer.register_state_dict_post_hook(lambda o, d: d.update(note="mine"))
    optimizer.register_state_dict_post_hook(lambda o, d: {**d, "more": 1})
    saved = optimizer.state_dict()
    assert calls == ["first", "pre"]
    assert (saved["note"], saved["more"]) == ("mine", 1)


def test_load_state_dict_hooks() -> None:
    _, optimizer = pair()
    saved = optimizer.state_dict()
    kept, loaded = copy.copy(saved), []

    def rename(optimizer: Any, state_dict: dict[str, Any]) -> dict[str, Any]:
        state_dict["touched"] = True
        groups = [{**state_dict["param_groups"][0], "lr": 0.5}]
        return {**state_dict, "param_groups": groups}

    optimizer.register_load_state_dict_pre_hook(rename)
    optimizer.register_load_state_dict_post_hook(lambda o: loaded.append(o.param_groups[0]["lr"]))
    optimizer.load_state_dict(saved)
    assert loaded == [0.5]
    assert saved.keys() == kept.keys()


def test_copies_have_no_hooks() -> None:
    model, optimizer = pair()
    optimizer.register_step_pre_hook(lambda o, args, kwargs: pytest.fail("a hook of another optimizer"))
    for _, other in (copy.deepcopy((model, optimizer)), pickle.loads(pickle.dumps((model, optimizer)))):
        other.step(GRADS)
        other.register_step_post_hook(lambda o, args, kwargs: None)


# -- the rest of torch.optim --------------------------------------------------------------------------------------
def test_sparse_adam_says_what_to_use() -> None:
    with pytest.raises(RuntimeError, match="SparseAdam does not support dense gradients, please consider Adam instead"):
        jm.optim.SparseAdam(nn.Embedding(3, 2).parameters())


def test_swapping_in_parameters_says_what_to_use() -> None:
    _, optimizer = pair()
    with pytest.raises(NotImplementedError, match="swap_in_optimizer_params_and_state(.|\n)*jm.eval_shape"):
        jm.optim.swap_in_optimizer_params_and_state(optimizer, {}, {})


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("by_name", [False, True])
@pytest.mark.parametrize("kind", ["grads", "grads with aux", "backward", "backward with aux"])
def test_a_closure_trains_whatever_way_it_gives_the_gradients(kind: str, by_name: bool, compiled: bool) -> None:
    (model, optimizer), (reference, other) = pair(), pair()
    reference.load_state_dict(model.state_dict())

    def loss(m: Any) -> Any:
        return ((m(jnp.ones((4, 3))) - 1) ** 2).mean()

    def step(model: Any, optimizer: Any) -> Any:
        def closure() -> Any:
            optimizer.zero_grad()
            with_aux = kind.endswith("aux")
            transform = jm.value_and_grad if kind.startswith("grads") else jm.backward
            return transform(lambda m: (loss(m), {"seen": 1}) if with_aux else loss(m), has_aux=with_aux)(model)

        return optimizer.step(closure=closure) if by_name else optimizer.step(closure)

    result = (jm.jit(step) if compiled else step)(model, optimizer)
    value, grads = jm.value_and_grad(loss)(reference)
    other.step(grads)
    np.testing.assert_allclose(result[0] if kind == "backward with aux" else result, value, rtol=1e-5)
    np.testing.assert_allclose(model.weight, reference.weight, rtol=1e-5)


def test_closures_of_an_optimizer_over_optax() -> None:
    model = nn.Linear(3, 2)
    optimizer, before = jm.optim.Optimizer(model.parameters(), optax.sgd(0.1)), np.asarray(model.bias)
    assert float(optimizer.step(closure=lambda: (jnp.ones(()), GRADS))) == 1
    np.testing.assert_allclose(model.bias, before - 0.1, rtol=1e-5)


def test_what_a_step_does_not_take_raises_and_moves_nothing() -> None:
    model, optimizer = pair()
    plain = optax.GradientTransformation(lambda params: (), lambda updates, state, params=None: (updates, state))
    over_optax = jm.optim.Optimizer(model.parameters(), plain)
    before = np.asarray(model.bias)
    for given, own in (
        (optimizer, "SGD.step.. takes nothing besides"),
        (over_optax, "optax transformation takes noth"),
    ):
        with pytest.raises(TypeError, match=own + r"(.|\n)*clsure"):
            given.step(clsure=lambda: 0.0)  # also where no parameter has a gradient
        with pytest.raises(TypeError, match="gradients or a closure that computes them, and was given both"):
            given.step(GRADS, closure=lambda: 0.0)
        with pytest.raises(KeyError, match="the gradient 'wight' belongs to no parameter"):
            given.step(lambda: (jnp.ones(()), {"wight": jnp.ones((2, 3))}))
    np.testing.assert_array_equal(model.bias, before)


def test_lbfgs_is_called_outside_of_transforms_and_with_a_closure() -> None:
    model = nn.Linear(3, 2)
    optimizer = jm.optim.LBFGS(model.parameters())
    with pytest.raises(TypeError, match="LBFGS.step.. missing 1 required positional argument: 'closure'"):
        optimizer.step()
    with pytest.raises(TypeError, match="LBFGS.step.. needs a closure"):
        optimizer.step(GRADS)
    with pytest.raises(jm.StateError, match="LBFGS.step.. was called inside a transform(.|\n)*outside"):
        jm.jit(lambda model, optimizer: optimizer.step(lambda: (jnp.ones(()), GRADS)))(model, optimizer)


def test_lbfgs_leaves_frozen_parameters_alone_and_begins_anew_when_one_is_released() -> None:
    model = nn.Linear(3, 2)
    model.bias.requires_grad = False
    optimizer = jm.optim.LBFGS(model.parameters(), lr=0.5, history_size=5)
    before = np.asarray(model.bias)
    run = jm.value_and_grad(lambda m: ((m(jnp.ones((4, 3))) - 1) ** 2).mean())
    optimizer.step(lambda: run(model))
    np.testing.assert_array_equal(model.bias, before)
    assert optimizer.state["weight"]["d"].shape == (6,)
    assert int(optimizer.state["weight"]["n_iter"]) > 1
    model.bias.requires_grad = True
    loss = float(run(model)[0])
    optimizer.param_groups[0]["max_iter"] = 1
    optimizer.step(lambda: run(model))
    assert optimizer.state["weight"]["d"].shape == (8,)
    assert int(optimizer.state["weight"]["n_iter"]) == 1
    assert float(run(model)[0]) <= loss
    model.requires_grad_(False)
    frozen = jm.optim.LBFGS(model.parameters())
    assert float(frozen.step(lambda: (jnp.ones(()), {}))) == 1

"""The specification of hooks, apart from what tests/parity/test_hooks.py compares with torch call by call.

Hooks run wherever a module is called: eagerly on arrays, under a transform while the function is traced. They belong
to a module's structure: one that is added or removed after compilation takes effect.
"""

import copy
import gc
import pickle
import weakref
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmodule as jm
from jaxmodule import nn

X = jnp.asarray(np.random.default_rng(0).standard_normal((4, 3)), jnp.float32)


def square_sum(m: nn.Module, x: jax.Array = X) -> jax.Array:
    return (m(x) ** 2).sum()


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 5), nn.Sequential(nn.Tanh(), nn.Linear(5, 4)))


def double(module: nn.Module, args: Any, output: jax.Array) -> jax.Array:
    return 2 * output


def recorder(seen: list[Any]) -> Callable[..., None]:
    """A hook that keeps what it is called with after the module."""
    return lambda module, *rest: seen.append(rest)


class Counted:
    """A jitted call of a module that counts its traces."""

    def __init__(self, function: Callable[..., Any] = lambda m, x: m(x)) -> None:
        self.traces = 0

        def counting(*args: Any) -> Any:
            self.traces += 1
            return function(*args)

        self.jitted = jm.jit(counting)

    def __call__(self, *args: Any) -> Any:
        return self.jitted(*args)


def assert_tree_close(a: Any, b: Any) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-5, atol=1e-6), a, b)


# -- handles ------------------------------------------------------------------------------------------------------
ON_A_MODULE = [
    "register_forward_pre_hook",
    "register_forward_hook",
    "register_full_backward_pre_hook",
    "register_full_backward_hook",
    "register_state_dict_pre_hook",
    "register_state_dict_post_hook",
    "register_load_state_dict_pre_hook",
    "register_load_state_dict_post_hook",
]
OF_THE_PROCESS = [
    "register_module_forward_pre_hook",
    "register_module_forward_hook",
    "register_module_full_backward_pre_hook",
    "register_module_full_backward_hook",
    "register_module_parameter_registration_hook",
    "register_module_buffer_registration_hook",
    "register_module_module_registration_hook",
]


@pytest.mark.parametrize("register", [*ON_A_MODULE, *OF_THE_PROCESS])
def test_every_registration_gives_a_handle_that_removes_the_hook(register: str) -> None:
    """A context manager too; removing twice is harmless."""
    module = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 2))
    calls: list[Any] = []

    def exercise() -> None:
        jm.grad(lambda m: m(X).sum())(module)
        module.load_state_dict(module.state_dict())
        nn.Sequential(nn.BatchNorm1d(3))

    def hook(*args: Any) -> None:
        calls.append(args)

    def add() -> Any:
        return getattr(nn if register.startswith("register_module_") else module, register)(hook)

    handle = add()
    exercise()
    assert calls
    handle.remove()
    handle.remove()
    calls.clear()
    exercise()
    assert not calls
    with add():
        exercise()
        assert calls
    calls.clear()
    exercise()
    assert not calls


def test_removing_one_hook_leaves_the_others() -> None:
    layer, calls = nn.Identity(), []
    handles = [layer.register_forward_hook(lambda *_, name=name: calls.append(name)) for name in "abc"]
    handles[1].remove()
    layer(X)
    assert calls == ["a", "c"]


def test_a_hook_may_remove_itself() -> None:
    layer, calls = nn.Identity(), []

    def once(*args: Any) -> None:
        calls.append(1)
        handle.remove()

    handle = layer.register_forward_hook(once)
    layer(X)
    layer(X)
    assert calls == [1]


def test_hooks_before_super_init_raise() -> None:
    class Early(nn.Module):
        def __init__(self) -> None:
            self.register_forward_hook(double)

    with pytest.raises(AttributeError, match=r"has not called super\(\)\.__init__\(\)"):
        Early()


def test_deprecated_backward_hooks_are_full_ones_and_say_so() -> None:
    layer, seen = nn.Linear(3, 2), []
    with pytest.warns(FutureWarning, match="register_full_backward_hook"):
        handle = layer.register_backward_hook(recorder(seen))
    with handle, nn.register_module_backward_hook(recorder(seen)):
        jm.grad(lambda m, x: m(x).sum(), argnums=1)(layer, X)
    assert len(seen) == 2
    for grad_input, grad_output in seen:
        assert (grad_input[0].shape, grad_output[0].shape) == ((4, 3), (4, 2))


# -- copies -------------------------------------------------------------------------------------------------------
def test_hooks_survive_deepcopy_pickle_and_merge() -> None:
    """A copy has its own registries: removing the original's hook leaves the copy's."""
    layer = nn.Linear(3, 2)
    plain = layer(X)
    handle = layer.register_forward_hook(double)
    copies = [copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), jm.merge(layer), copy.copy(layer)]
    handle.remove()
    np.testing.assert_array_equal(layer(X), plain)
    for other in copies:
        np.testing.assert_array_equal(other(X), 2 * plain)
        with other.register_forward_hook(double):
            np.testing.assert_array_equal(other(X), 4 * plain)


def test_a_hook_is_given_the_module_that_is_called() -> None:
    """The object itself under `jm.jit`, the copy in a copy."""
    model, seen = mlp(), []
    model[1].register_forward_hook(lambda module, args, out: seen.append(module))
    other = copy.deepcopy(model)
    model(X)
    jm.jit(lambda m: m(X))(model)
    other(X)
    assert [module is model[1] for module in seen] == [True, True, False]
    assert seen[2] is other[1]


def test_a_structure_does_not_keep_a_hook_alive() -> None:
    class Hook:
        def __call__(self, *args: Any) -> None: ...

    model, call, hook = nn.Linear(3, 2), Counted(), Hook()
    with model.register_forward_hook(hook):
        call(model, X)
    gone = weakref.ref(hook)
    del hook
    call(model, X)
    gc.collect()
    assert gone() is None


# -- compiled calls -----------------------------------------------------------------------------------------------
def test_hooks_added_or_removed_after_compilation_take_effect() -> None:
    model, call = mlp(), Counted()
    plain = call(model, X)
    call(model, X)
    assert call.traces == 1
    handle = model[1].register_forward_hook(double)
    np.testing.assert_allclose(call(model, X), 2 * plain, rtol=1e-6)
    np.testing.assert_allclose(call(model, X), 2 * plain, rtol=1e-6)
    assert call.traces == 2
    pre = model.register_forward_pre_hook(lambda module, args: (0 * args[0],))
    assert (call(model, X)[0] == call(model, X)[1]).all()
    assert call.traces == 3
    pre.remove()
    handle.remove()
    np.testing.assert_allclose(call(model, X), plain, rtol=1e-6)
    assert call.traces == 3  # the first program again


@pytest.mark.parametrize("register", ["register_module_forward_hook", "register_module_forward_pre_hook"])
def test_global_hooks_added_or_removed_after_compilation_take_effect(register: str) -> None:
    model, call, calls = nn.Linear(3, 2), Counted(), []
    call(model, X)
    with getattr(nn, register)(lambda *args: calls.append(1)):
        call(model, X)
        call(model, X)
        assert (calls, call.traces) == ([1], 2)
    call(model, X)
    assert (calls, call.traces) == ([1], 2)


def test_the_order_of_hooks_belongs_to_the_structure() -> None:
    model, call = nn.Identity(), Counted()
    model.register_forward_hook(double)
    model.register_forward_hook(lambda module, args, out: out + 1)
    np.testing.assert_allclose(call(model, X), 2 * X + 1, rtol=1e-6)
    model.register_forward_hook(lambda module, args, out: out + 10, prepend=True)
    np.testing.assert_allclose(call(model, X), 2 * (X + 10) + 1, rtol=1e-6)


def test_backward_hooks_added_or_removed_after_compilation_take_effect() -> None:
    model = mlp()
    call = Counted(lambda m: jm.grad(square_sum)(m))
    plain = call(model)
    handle = model[1].register_full_backward_hook(lambda module, grad_input, grad_output: (2 * grad_input[0],))
    doubled = call(model)
    assert call.traces == 2
    np.testing.assert_allclose(doubled["0.weight"], 2 * plain["0.weight"], rtol=1e-5)
    np.testing.assert_allclose(doubled["1.1.weight"], plain["1.1.weight"], rtol=1e-5)
    handle.remove()
    assert_tree_close(call(model), plain)
    assert call.traces == 2


def test_a_module_that_compiles_its_call_runs_its_hooks() -> None:
    model = mlp()
    plain = model(X)
    model.compile()
    model(X)
    with model.register_forward_hook(double), model[0].register_forward_hook(lambda m, args, out: out * 0 + 1):
        doubled = model(X)
    assert (doubled[0] == doubled[1]).all()
    np.testing.assert_allclose(model(X), plain, rtol=1e-6)


def test_what_a_hook_writes_to_the_module_is_kept() -> None:
    class Count(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.calls = nn.Buffer(jnp.zeros((), jnp.int32))

        def forward(self, x: jax.Array) -> jax.Array:
            return x

    def count(module: Any, args: Any, output: Any) -> None:
        module.calls += 1

    model, call = Count(), Counted()
    model.register_forward_hook(count)
    model(X)
    call(model, X)
    call(model, X)
    jm.grad(lambda m, x: m(x).sum(), argnums=1)(model, X)
    assert int(model.calls) == 4
    assert call.traces == 1


# -- full backward hooks, in every place that differentiates ------------------------------------------------------
def reference() -> tuple[nn.Sequential, dict[str, jax.Array]]:
    """A model, and its gradients with grad_input of its second part times two, by a way without hooks."""
    model = mlp()

    @jax.custom_vjp
    def doubling(x: jax.Array) -> jax.Array:
        return x

    doubling.defvjp(lambda x: (x, None), lambda _, g: (2 * g,))
    grads = jm.grad(lambda m: (m[1](doubling(m[0](X))) ** 2).sum())(model)
    return model, {str(name): g for name, g in grads.items()}


def twice(module: nn.Module, grad_input: Any, grad_output: Any) -> Any:
    return (2 * grad_input[0],)


def by_functional_call(model: nn.Module, **how: Any) -> Any:
    params, buffers = jm.split(model)
    return jax.grad(lambda params: (jm.functional_call(model, (params, buffers), (X,)) ** 2).sum())(params)


def by_checkpoint(model: nn.Module) -> Any:
    params, _ = jm.split(model)
    call = jax.checkpoint(lambda params, x: jm.functional_call(model, params, (x,)))
    return jax.grad(lambda params: (call(params, X) ** 2).sum())(params)


def by_scan(model: nn.Module) -> Any:
    params, _ = jm.split(model)

    def loss(params: Any) -> jax.Array:
        def step(total: jax.Array, x: jax.Array) -> Any:
            return total + (jm.functional_call(model, params, (x[None],)) ** 2).sum(), None

        return jax.lax.scan(step, jnp.zeros(()), X)[0]

    return jax.grad(loss)(params)


def by_vmap(model: nn.Module) -> Any:
    params, _ = jm.split(model)
    call = jax.vmap(lambda params, x: jm.functional_call(model, params, (x,)), in_axes=(None, 0))
    return jax.grad(lambda params: (call(params, X) ** 2).sum())(params)


def by_grad_of_vmap_of_grad(model: nn.Module) -> Any:
    params, _ = jm.split(model)
    each = jax.vmap(
        jax.grad(lambda params, x: (jm.functional_call(model, params, (x,)) ** 2).sum()), in_axes=(None, 0)
    )(params, X)
    return jax.tree.map(lambda g: g.sum(0), each)


def by_raw_jax(model: nn.Module) -> Any:
    grads = jax.grad(square_sum)(model)
    return {str(name): box.value for name, box in grads.named_parameters()}


def by_backward(model: nn.Module) -> Any:
    jm.backward(square_sum)(model)
    return {str(name): box.grad for name, box in model.named_parameters()}


def rows_of(model: Any) -> jax.Array:
    return (jm.vmap(lambda x: model(x[None])[0])(X) ** 2).sum()


def in_turn(model: Any) -> Any:
    return jm.scan(lambda total, x: (total + (model(x[None]) ** 2).sum(), None), jnp.zeros(()), X)[0]


def in_turn_by_number(model: Any) -> Any:
    return jm.fori_loop(0, len(X), lambda i, total: total + (model(X[i][None]) ** 2).sum(), jnp.zeros(()))


def by_grad_in_scan(model: Any) -> Any:
    each = jm.scan(lambda c, x: (c, jm.grad(lambda m: (m(x[None]) ** 2).sum())(model)), None, X)[1]
    return {name: g.sum(0) for name, g in each.items()}


def by_vmap_of_grad(model: Any) -> Any:
    each = jm.vmap(lambda x: jm.grad(lambda m: (m(x[None]) ** 2).sum())(model))(X)
    return {name: g.sum(0) for name, g in each.items()}


def branch(model: Any) -> Any:
    return jm.cond(X.sum() > -100, square_sum, lambda m: jnp.zeros(()), model)


PLACES: dict[str, Callable[[Any], Any]] = {
    "jm.grad": jm.grad(square_sum),
    "jm.jit of jm.grad": jm.jit(lambda m: jm.grad(square_sum)(m)),
    "jm.grad of jm.jit": lambda m: jm.grad(jm.jit(square_sum))(m),
    "jm.value_and_grad": lambda m: jm.value_and_grad(square_sum)(m)[1],
    "jm.backward": by_backward,
    "jm.jit of jm.backward": jm.jit(by_backward),
    "jm.remat": jm.jit(jm.grad(lambda m: jm.remat(square_sum)(m))),
    "jm.scan": jm.jit(jm.grad(in_turn)),
    "jm.scan, eager": jm.grad(in_turn),
    "jm.fori_loop": jm.jit(jm.grad(in_turn_by_number)),
    "jm.remat in jm.scan": jm.jit(jm.grad(lambda m: in_turn(jm.remat(m)))),
    "jm.vmap": jm.jit(jm.grad(rows_of)),
    "jm.cond": jm.jit(jm.grad(branch)),
    "jm.grad in jm.scan": jm.jit(by_grad_in_scan),
    "jm.grad in jm.vmap": jm.jit(by_vmap_of_grad),
    "jm.vjp": lambda m: jm.vjp(square_sum, m)[1](jnp.ones(()))[0],
    "jax.grad of functional_call": by_functional_call,
    "jax.grad of jax.jit of functional_call": lambda m: jax.grad(
        jax.jit(lambda params: (jm.functional_call(m, params, (X,)) ** 2).sum())
    )(jm.split(m)[0]),
    "jax.jit of jax.grad of functional_call": lambda m: jax.jit(lambda _: by_functional_call(m))(0),
    "jax.grad of a module": by_raw_jax,
    "jax.jit of jm.grad": lambda m: jax.jit(lambda m: jm.grad(square_sum)(m))(m),
    "jax.checkpoint": by_checkpoint,
    "jax.lax.scan": by_scan,
    "jax.vmap": by_vmap,
    "jax.vmap of jax.grad": by_grad_of_vmap_of_grad,
}


@pytest.mark.parametrize("place", PLACES)
def test_full_backward_hooks_work_wherever_gradients_are_computed(place: str) -> None:
    model, expected = reference()
    calls: list[Any] = []
    model[1].register_full_backward_hook(twice)
    model[1].register_full_backward_pre_hook(lambda module, grad_output: calls.append(len(grad_output)))
    grads = PLACES[place](model)
    assert_tree_close({str(name): g for name, g in grads.items()}, expected)
    assert calls


def test_a_hooked_call_leaks_no_tracer() -> None:
    model, x = nn.Sequential(nn.Linear(3, 2), nn.Tanh()), X
    model[1].register_full_backward_hook(twice)
    with jax.checking_leaks():
        jm.jit(lambda m, x: jm.grad(square_sum)(m, x))(model, x)


def test_an_output_that_the_loss_does_not_use_has_a_zero_gradient() -> None:
    """Torch gives None; under a JAX transform it is not known then that nothing comes."""

    class Two(nn.Module):
        def forward(self, x: jax.Array) -> Any:
            return x * 2, x * 3

    model, seen = Two(), []
    model.register_full_backward_hook(recorder(seen))
    jm.grad(lambda m, x: m(x)[0].sum(), argnums=1)(model, X)
    ((_, (used, unused)),) = seen
    assert (used == 1).all()
    assert (unused == 0).all()


def test_a_backward_hook_sees_concrete_arrays_in_eager_code_and_tracers_under_jit() -> None:
    model, seen, calls = mlp(), [], []
    model[1].register_full_backward_hook(recorder(seen))
    model[1].register_forward_hook(lambda *args: calls.append(1))
    jm.grad(square_sum)(model)
    assert len(calls) == 1  # forward runs once
    ((grad_input, grad_output),) = seen
    assert not isinstance(grad_input[0], jax.core.Tracer)
    assert (grad_input[0].shape, grad_output[0].shape) == ((4, 5), (4, 4))
    out = model(X)
    np.testing.assert_allclose(grad_output[0], 2 * out, rtol=1e-6)
    seen.clear()
    jm.jit(lambda m: jm.grad(square_sum)(m))(model)
    assert isinstance(seen[0][0][0], jax.core.Tracer)


def test_without_a_gradient_no_backward_hook_runs() -> None:
    model, seen = mlp(), []
    model.register_full_backward_hook(recorder(seen))
    model(X)
    jm.jit(lambda m: m(X))(model)
    with jm.no_grad():
        model(X)
    assert not seen


def test_the_state_that_a_hooked_module_writes_is_kept() -> None:
    """BatchNorm's statistics, floating-point and integer, change as they do without hooks; a frozen forward too."""
    plain = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    hooked = copy.deepcopy(plain)
    seen: list[Any] = []
    hooked.register_full_backward_hook(recorder(seen))
    hooked[1].register_full_backward_hook(recorder(seen))
    compiled = jm.jit(lambda m, x: jm.grad(square_sum)(m, x))
    for run in (jm.grad(square_sum), compiled, compiled):
        assert_tree_close(run(hooked, X), run(plain, X))
    assert_tree_close(hooked.state_dict(), plain.state_dict())
    assert int(hooked[1].num_batches_tracked) == 3
    assert len(seen) == 4


def test_dropout_draws_the_same_numbers_with_and_without_backward_hooks() -> None:
    def run(hooked: bool, compiled: bool) -> Any:
        jm.manual_seed(3)
        model = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5), nn.Linear(8, 2))
        if hooked:
            model.register_full_backward_hook(twice)
            model[1].register_full_backward_hook(recorder([]))
        step = jm.jit(jm.grad(square_sum)) if compiled else jm.grad(square_sum)
        return step(model), step(model), jm.next_key()

    expected = run(False, False)
    for hooked, compiled in ((True, False), (False, True), (True, True)):
        got = run(hooked, compiled)
        assert_tree_close([dict(g) for g in got[:2]], [dict(g) for g in expected[:2]])
        assert (jax.random.key_data(got[2]) == jax.random.key_data(expected[2])).all()
    assert not np.allclose(expected[0]["0.weight"], expected[1]["0.weight"])


class Attention(nn.Module):
    """Takes keyword arguments, integers and None; returns nested containers with values that are no arrays."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 3)

    def forward(self, x: jax.Array, index: Any, *, mask: Any = None, name: str = "a") -> Any:
        y = self.fc(x)[index]
        return {"y": y if mask is None else y * mask, "extra": [index, name, 7], "none": None}


@pytest.mark.parametrize("compiled", [False, True])
def test_a_hooked_module_takes_and_returns_anything(compiled: bool) -> None:
    model, seen, mask = Attention(), [], jnp.asarray([[1.0, 0.0, 2.0]])
    index = jnp.asarray([0, 2])

    def loss(m: Any, x: jax.Array, mask: jax.Array) -> Any:
        out = m(x, index, mask=mask, name="b")
        assert out["extra"][1:] == ["b", 7]
        assert type(out["extra"][2]) is int
        assert out["none"] is None
        assert out["extra"][0].dtype == index.dtype
        return (out["y"] ** 2).sum()

    expected = jm.grad(loss, argnums=(0, 1, 2))(model, X, mask)
    model.register_full_backward_hook(recorder(seen))
    run = jm.grad(loss, argnums=(0, 1, 2))
    got = (jm.jit(run) if compiled else run)(model, X, mask)
    assert_tree_close(got, expected)
    ((grad_input, grad_output),) = seen
    assert grad_input[0].shape == (4, 3)
    assert grad_input[1] is None  # integers have no gradient, and keyword arguments are not listed
    assert len(grad_input) == 2
    # A container that is no tuple counts as its arrays, in the order of the pytree: index, then y.
    assert grad_output[0] is None
    assert grad_output[1].shape == (2, 3)


def test_none_from_a_hook_means_no_gradient_for_that_input() -> None:
    class Product(nn.Module):
        def forward(self, a: jax.Array, b: jax.Array) -> jax.Array:
            return (a * b).sum()

    model = Product()
    model.register_full_backward_hook(lambda module, grad_input, grad_output: (None, grad_input[1]))
    a, b = jm.grad(lambda a, b: model(a, b), argnums=(0, 1))(X, X + 1)
    assert (a == 0).all()
    np.testing.assert_allclose(b, X)


def test_a_module_that_uses_another_ones_weight_may_have_backward_hooks() -> None:
    """The hooked call takes every value of the surroundings that is being differentiated, whoever owns it."""

    class Decoder(nn.Module):
        def __init__(self, source: nn.Linear) -> None:
            super().__init__()
            self.weights = lambda: source.weight.value  # not registered: out of sight of the walk

        def forward(self, x: jax.Array) -> jax.Array:
            return x @ self.weights()

    class Auto(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = nn.Linear(3, 5, bias=False)
            self.decoder = Decoder(self.encoder)

        def forward(self, x: jax.Array) -> jax.Array:
            return self.decoder(self.encoder(x))

    model, seen = Auto(), []
    expected = jm.grad(square_sum)(model)
    model.decoder.register_full_backward_hook(recorder(seen))
    assert_tree_close(jm.grad(square_sum)(model), expected)
    assert_tree_close(jm.jit(lambda m: jm.grad(square_sum)(m))(model), expected)

    def by_parts(m: Auto) -> jax.Array:  # functional_call has surroundings of its own inside those of jm.grad
        return (jm.functional_call(m.decoder, {}, (m.encoder(X),)) ** 2).sum()

    assert_tree_close(jm.grad(by_parts)(model), expected)
    assert len(seen) == 3


def test_a_hooked_module_with_tied_and_frozen_parameters() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(3, 3)
            self.b = nn.Linear(3, 3)
            self.b.weight = self.a.weight
            self.b.bias.requires_grad = False

        def forward(self, x: jax.Array) -> jax.Array:
            return self.b(jnp.tanh(self.a(x)))

    model = Tied()
    expected = jm.grad(square_sum)(model)
    model.b.register_full_backward_hook(recorder([]))
    got = jm.grad(square_sum)(model)
    assert list(got) == ["a.weight", "a.bias"]
    assert_tree_close(got, expected)


def test_global_backward_hooks_see_every_module_under_jit() -> None:
    model, names = mlp(), []
    call = Counted(lambda m: jm.grad(square_sum)(m))
    call(model)
    with nn.register_module_full_backward_hook(lambda module, *gradients: names.append(type(module).__name__)):
        call(model)
        call(model)
    assert names == ["Linear", "Tanh", "Sequential", "Linear", "Sequential"]
    assert call.traces == 2
    call(model)
    assert call.traces == 2


def test_only_backward_hooks_stand_in_the_way_of_forward_mode() -> None:
    """JAX has no forward-mode derivative of a custom_vjp, so forward hooks must not make one."""
    model = nn.Linear(3, 2)
    params, _ = jm.split(model)

    def tangent() -> jax.Array:
        return jax.jvp(lambda p: jm.functional_call(model, p, (X,)), (params,), (params,))[1]

    plain = tangent()
    with nn.register_module_forward_hook(lambda *args: None), model.register_forward_hook(double):
        np.testing.assert_allclose(tangent(), 2 * plain, rtol=1e-6)
    with model.register_full_backward_hook(recorder([])), pytest.raises(TypeError, match="custom_vjp"):
        tangent()


def test_a_failing_call_of_a_hooked_module_changes_nothing() -> None:
    class Fails(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.count = nn.Buffer(jnp.zeros(()))

        def forward(self, x: jax.Array) -> jax.Array:
            self.count += 1
            raise ValueError("from forward")

    model, seen = Fails(), []
    model.register_full_backward_hook(recorder([]))
    model.register_forward_hook(lambda m, args, out: seen.append(out), always_call=True)
    with pytest.raises(ValueError, match="from forward"):
        jm.grad(lambda m, x: m(x).sum(), argnums=1)(model, X)
    assert float(model.count.value) == 0
    assert seen == [None]


# -- parameters' hooks --------------------------------------------------------------------------------------------
def test_a_parameters_hook_sees_and_replaces_its_gradient() -> None:
    layer, seen = nn.Linear(3, 2), []
    plain = jm.grad(square_sum)(layer)
    with layer.weight.register_hook(seen.append), layer.weight.register_hook(lambda g: g * 2):
        grads = jm.grad(square_sum)(layer)
        assert_tree_close(jm.jit(lambda m: jm.grad(square_sum)(m))(layer), grads)
        jm.backward(square_sum)(layer)
    np.testing.assert_allclose(seen[0], plain["weight"], rtol=1e-6)
    np.testing.assert_allclose(grads["weight"], 2 * plain["weight"], rtol=1e-6)
    np.testing.assert_allclose(grads["bias"], plain["bias"], rtol=1e-6)
    np.testing.assert_allclose(layer.weight.grad, grads["weight"], rtol=1e-6)
    assert_tree_close(jm.grad(square_sum)(layer), plain)


def test_a_parameters_hook_added_or_removed_after_compilation_takes_effect() -> None:
    layer = nn.Linear(3, 2)
    call = Counted(lambda m: jm.grad(square_sum)(m))
    call(layer)
    plain = call(layer)
    assert call.traces == 1
    first = layer.weight.register_hook(lambda g: g * 2)
    np.testing.assert_allclose(call(layer)["weight"], 2 * plain["weight"], rtol=1e-5)
    second = layer.weight.register_hook(lambda g: g * 5)
    np.testing.assert_allclose(call(layer)["weight"], 10 * plain["weight"], rtol=1e-5)
    first.remove()
    np.testing.assert_allclose(call(layer)["weight"], 5 * plain["weight"], rtol=1e-5)
    second.remove()
    assert_tree_close(call(layer), plain)
    assert call.traces == 4


def test_a_tied_parameters_hook_sees_the_whole_gradient_once() -> None:
    model, seen = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)), []
    model[1].weight = model[0].weight
    grads = jm.grad(square_sum)(model)
    with model[0].weight.register_hook(seen.append):
        jm.grad(square_sum)(model)
    (gradient,) = seen
    np.testing.assert_allclose(gradient, grads["0.weight"], rtol=1e-6)


def test_a_frozen_parameter_takes_no_hook() -> None:
    layer = nn.Linear(3, 2)
    layer.weight.requires_grad = False
    with pytest.raises(RuntimeError, match="cannot register a hook on a parameter that doesn't require grad"):
        layer.weight.register_hook(lambda g: g)


# -- on_host ------------------------------------------------------------------------------------------------------
def on_host(model: nn.Module, seen: list[Any], **options: bool) -> Any:
    def hook(module: nn.Module, args: Any, *rest: Any) -> None:
        assert all(not isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves((args, rest)))
        seen.append((module, args, rest))

    return model.register_forward_hook(hook, on_host=True, **options)


def test_a_hook_on_the_host_sees_concrete_values_of_every_execution() -> None:
    model, seen, call = nn.Linear(3, 2), [], Counted()
    with on_host(model, seen):
        outputs = [call(model, X), call(model, X + 1), model(X + 2)]
        jax.effects_barrier()
    assert call.traces == 1
    assert len(seen) == 3
    for (module, args, rest), out, i in zip(seen, outputs, range(3), strict=True):
        assert module is model
        np.testing.assert_array_equal(args[0], X + i)
        np.testing.assert_allclose(rest[0], out, rtol=1e-6)
    call(model, X)
    jax.effects_barrier()
    assert len(seen) == 3


ONCE = ["jm.grad", "jm.jit of jm.grad", "jm.cond", "jax.grad of functional_call", "jax.jit of jm.grad"]


@pytest.mark.parametrize("place", ONCE)
def test_a_hook_on_the_host_runs_once_under_differentiation(place: str) -> None:
    model, seen = mlp(), []
    with on_host(model[1], seen):
        PLACES[place](model)
        jax.effects_barrier()
    ((module, _, (out,)),) = seen
    assert module is model[1]
    np.testing.assert_allclose(out, model(X), rtol=1e-5)


@pytest.mark.parametrize("place", ["jm.scan", "jm.scan, eager", "jm.vmap", "jm.grad in jm.scan", "jm.grad in jm.vmap"])
def test_a_hook_on_the_host_sees_every_iteration_and_lane(place: str) -> None:
    model, seen = mlp(), []
    with on_host(model[1], seen):
        PLACES[place](model)
        jax.effects_barrier()
    outputs = np.sort(np.concatenate([np.asarray(out).reshape(-1) for _, _, (out,) in seen]))
    model_out = model[1](model[0](X))
    np.testing.assert_allclose(outputs, np.sort(np.asarray(model_out).reshape(-1)), rtol=1e-5)
    assert all(module is model[1] for module, _, _ in seen)


def test_a_hook_on_the_host_runs_for_the_module_that_is_called() -> None:
    """Two modules of one structure may share a compiled program, but a copied hook is the copy's."""
    first, seen, call = nn.Linear(3, 2), [], Counted()
    on_host(first, seen)
    second, third = copy.deepcopy(first), jm.merge(first)
    call(third, X)
    jax.effects_barrier()
    assert seen.pop()[0] is third
    del third
    call(first, X)
    call(second, X)
    gone = weakref.ref(first)
    del first
    jax.effects_barrier()
    assert [module is second for module, _, _ in seen] == [False, True]
    seen.clear()
    call(second, X)
    jax.effects_barrier()
    assert len(seen) == 1
    gc.collect()
    assert gone() is None  # the compiled program does not keep it


def test_a_hook_on_the_host_takes_keyword_arguments_and_values_that_are_no_arrays() -> None:
    model, seen = Attention(), []
    with on_host(model, seen, with_kwargs=True):
        jm.jit(lambda m, x: m(x, jnp.asarray([0]), name="b")["y"])(model, X)
        jax.effects_barrier()
    ((_, args, (kwargs, out)),) = seen
    assert kwargs == {"name": "b"}
    np.testing.assert_array_equal(args[0], X)
    assert out["extra"][1:] == ["b", 7]
    assert out["none"] is None


def test_a_hook_on_the_host_cannot_replace_the_output() -> None:
    model = nn.Identity()
    model.register_forward_hook(double, on_host=True)
    with pytest.raises(TypeError, match="on_host=True sees values and cannot replace them"):
        model(X)


def test_a_hook_on_the_host_survives_pickle() -> None:
    model = nn.Identity()
    model.register_forward_hook(_PICKLED.append_module, on_host=True)
    pickle.loads(pickle.dumps(model))(X)
    assert len(_PICKLED.modules) == 1


class _Pickled:
    def __init__(self) -> None:
        self.modules: list[Any] = []

    def append_module(self, module: Any, args: Any, out: Any) -> None:
        self.modules.append(module)

    def __reduce__(self) -> str:
        return "_PICKLED"


_PICKLED = _Pickled()


def test_a_hook_added_after_unpickling_does_not_replace_one_that_came_along():
    layer = nn.Identity()
    handle = layer.register_forward_hook(_times_two)
    del layer._forward_hooks[handle.id]
    layer._forward_hooks[handle.id + 1] = _times_two  # the id that this process would give next
    layer.register_forward_hook(_times_two)
    assert layer(1.0) == 4.0


def _times_two(module, args, output):
    return output * 2

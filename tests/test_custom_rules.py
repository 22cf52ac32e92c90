"""custom_vjp and custom_jvp of functions that use Modules: their gradients, state and random numbers, anywhere."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmodule as jm
from jaxmodule import nn
from jaxmodule.transforms.custom import custom_jvp, custom_vjp

X = jnp.asarray(np.random.default_rng(0).standard_normal((4, 3)), jnp.float32)


def same(a: Any, b: Any) -> None:
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5), a, b)


class Net(nn.Module):
    """Parameters, statistics, dropout, a plain array and a container."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 2)
        self.norm = nn.BatchNorm1d(2)
        self.drop = nn.Dropout(0.3)
        self.count = jnp.zeros((), jnp.int32)
        self.cache = {"last": jnp.zeros((4, 2))}

    def forward(self, x: jax.Array) -> jax.Array:
        self.count = self.count + 1
        self.cache["last"] = self.drop(self.norm(self.fc(x)))
        return self.cache["last"]


def fresh() -> Net:
    jm.manual_seed(0)
    return Net()


def state(model: Net) -> dict[str, Any]:
    return {**model.state_dict(), "count": model.count, "last": model.cache["last"], "rng": jm.get_rng_state()}


def call(model: Net, x: jax.Array) -> jax.Array:
    return model(x)


def by_vjp() -> Any:
    """Its gradients are no function's: twice the input for the weight, the cotangent's sum for the bias."""
    f = custom_vjp(call)

    def fwd(model: Net, x: jax.Array) -> Any:
        return model(x), {"x": x, "bias": model.fc.bias}

    def bwd(residuals: Any, g: jax.Array) -> Any:
        return {"fc.weight": 2 * g.T @ residuals["x"], "fc.bias": g.sum(0) + 0 * residuals["bias"]}, 3 * residuals["x"]

    f.defvjp(fwd, bwd)
    return f


def by_jvp() -> Any:
    """The same derivatives."""
    f = custom_jvp(call)

    @f.defjvp
    def rule(primals: Any, tangents: Any) -> Any:
        (model, x), (of_model, of_x) = primals, tangents
        assert isinstance(model, Net)
        y = model(x)
        # a row for each output whose cotangent is one
        return y, 2 * x @ of_model["fc.weight"].T + of_model["fc.bias"][None] + (3 * x * of_x).sum(1, keepdims=True) / 2

    return f


EXPECTED = {
    "fc.weight": 2 * jnp.stack([X.sum(0)] * 2),
    "fc.bias": jnp.full(2, 4.0),
    "norm.weight": jnp.zeros(2),
    "norm.bias": jnp.zeros(2),
}

KINDS = {"vjp": by_vjp, "jvp": by_jvp}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("jit", [False, True], ids=["eager", "jit"])
class TestAnywhere:
    def check(self, jit: bool, step: Callable[[Net], Any], calls: int = 1) -> None:
        """The gradients are the rule's; state and random numbers are those of plain calls."""
        model, plain = fresh(), fresh()
        start = jm.get_rng_state()
        for _ in range(calls):
            plain(X)
        expected = state(plain)
        jm.set_rng_state(start)
        found = (jm.jit(step) if jit else step)(model)
        same(found, jax.tree.map(lambda g: calls * g, EXPECTED))
        same(state(model), expected)

    def test_grad(self, kind: str, jit: bool) -> None:
        f = KINDS[kind]()
        self.check(jit, lambda m: jm.grad(lambda m: f(m, X).sum())(m))
        model, plain = fresh(), fresh()
        start = jm.get_rng_state()
        expected = plain(X), state(plain)
        jm.set_rng_state(start)
        same(((jm.jit(f) if jit else f)(model, x=X), state(model)), expected)
        same(jm.grad(lambda m, x: f(m, x).sum(), 1)(model, X), 3 * X)

    def test_jit_inside(self, kind: str, jit: bool) -> None:
        f = jm.jit(KINDS[kind]())
        self.check(jit, lambda m: jm.grad(lambda m: f(m, X).sum())(m))

    def test_remat(self, kind: str, jit: bool) -> None:
        f = KINDS[kind]()
        self.check(jit, lambda m: jm.grad(lambda m: jm.remat(f)(m, X).sum())(m))

    def test_scan(self, kind: str, jit: bool) -> None:
        f = KINDS[kind]()

        def loss(m: Net) -> jax.Array:
            return jm.scan(lambda total, x: (total + f(m, x).sum(), None), jnp.zeros(()), jnp.stack([X] * 3))[0]

        self.check(jit, lambda m: jm.grad(loss)(m), calls=3)

    def test_twice_and_cond(self, kind: str, jit: bool) -> None:
        f = KINDS[kind]()

        def loss(m: Net) -> jax.Array:
            return f(m, X).sum() + jm.cond(X.sum() < 1e9, lambda m: f(m, X).sum(), lambda m: jnp.zeros(()), m)

        self.check(jit, lambda m: jm.grad(loss)(m), calls=2)

    def test_vmap(self, kind: str, jit: bool) -> None:
        f, model, xs = KINDS[kind](), fresh().eval(), jnp.stack([X, 2 * X])
        model.cache, model.forward = {}, lambda x: model.norm(model.fc(x))

        def per_example(m: Net, xs: jax.Array) -> Any:
            return jm.vmap(lambda x: jm.grad(lambda m: f(m, x).sum())(m))(xs)

        def over_all(m: Net, xs: jax.Array) -> Any:
            return jm.grad(lambda m: jm.vmap(lambda x: f(m, x))(xs).sum())(m)

        wrap = jm.jit if jit else lambda g: g
        rows = wrap(per_example)(model, xs)
        same(rows["fc.weight"], jnp.stack([EXPECTED["fc.weight"], 2 * EXPECTED["fc.weight"]]))
        same(wrap(over_all)(model, xs), jax.tree.map(lambda g: g.sum(0), rows))

    def test_random_numbers_in_lanes(self, kind: str, jit: bool) -> None:
        f = {"vjp": custom_vjp, "jvp": custom_jvp}[kind](lambda x: nn.functional.dropout(x, 0.5))
        if kind == "vjp":
            f.defvjp(lambda x: (f.fun(x), None), lambda _, g: (7 * g,))
        else:
            f.defjvp(lambda p, t: (f.fun(*p), 7 * t[0]))
        drop = nn.Dropout(0.5)
        wrap = jm.jit if jit else lambda g: g
        outs = []
        for function in (drop, f):
            jm.manual_seed(3)
            outs.append((wrap(lambda x, g=function: jm.vmap(g)(x))(X), jm.get_rng_state()))
        same(*outs)
        same(wrap(lambda x: jm.grad(lambda x: jm.vmap(f)(x).sum())(x))(X), jnp.full_like(X, 7))

    def test_what_is_closed_over(self, kind: str, jit: bool) -> None:
        """Read, written and drawn from it may be; differentiated it is an error."""
        model = fresh()
        f = {"vjp": custom_vjp, "jvp": custom_jvp}[kind](lambda x: model(x))
        if kind == "vjp":
            f.defvjp(lambda x: (model(x), None), lambda _, g: (jnp.ones_like(X),))
        else:
            f.defjvp(lambda p, t: (model(*p), t[0][:, :2]))
        wrap = jm.jit if jit else lambda g: g
        found = wrap(lambda model, x: jm.grad(lambda x: f(x).sum())(x))(model, X)
        same(found, jnp.ones_like(X) if kind == "vjp" else jnp.ones_like(X).at[:, 2].set(0))
        assert int(model.count) == int(model.norm.num_batches_tracked) == 1
        with pytest.raises(jm.StateError, match=r"being differentiated, but the function closes over(.|\n)*argument"):
            wrap(lambda model: jm.grad(lambda m: f(X).sum())(model))(model)
        assert int(model.count) == 1


def test_modules_in_trees_and_residuals() -> None:
    """A tied parameter adds up; a module in the residuals has the values of the forward pass."""
    a = nn.Linear(2, 2, bias=False)

    @custom_vjp
    def f(modules: Any, scale: Any, power: int) -> jax.Array:
        return modules["a"](modules["b"](scale.value[None])) ** power

    def fwd(modules: Any, scale: Any, power: int) -> Any:
        out = f(modules, scale, power)
        return out, modules["a"]

    def bwd(a: Any, g: jax.Array) -> Any:
        return {"a": {"weight": a.weight.value}, "b": {"weight": jnp.ones((2, 2))}}, jnp.full(2, 5.0), None

    f.defvjp(fwd, bwd)
    scale = nn.Parameter(jnp.ones(2))

    def loss(modules: Any, scale: Any) -> jax.Array:
        out = f(modules, scale, 2).sum()
        modules["a"].weight.value = modules["a"].weight * 100
        return out

    before = a.weight.value
    of_modules, of_scale = jm.grad(loss, (0, 1))({"a": a, "b": a}, scale)
    same(of_modules["a"]["weight"], before + 1)
    same(of_modules["b"]["weight"], before + 1)
    same(of_scale, jnp.full(2, 5.0))
    same(a.weight.value, 100 * before)


def test_nondiff_argnums() -> None:
    f = custom_vjp(lambda how, model, x: getattr(jnp, how)(model(x)), nondiff_argnums=(0,))
    f.defvjp(lambda how, model, x: (f.fun(how, model, x), None), lambda how, _, g: ({"bias": jnp.ones(1)}, None))
    layer = nn.Linear(3, 1)
    assert float(jm.grad(lambda m: f("sum", m, X))(layer)["bias"][0]) == 1
    g = custom_jvp(lambda model, x, how: getattr(jnp, how)(model(x)), nondiff_argnums=2)
    g.defjvp(lambda how, p, t: (g(*p, how), 5 * t[0]["bias"].sum()))
    assert float(jm.jit(jm.grad(lambda m: g(m, X, "mean")))(layer)["bias"][0]) == 5


def test_defjvps() -> None:
    layer = nn.Linear(3, 1)
    f = custom_jvp(lambda model, x: model(x))
    f.defjvps(lambda t, out, model, x: t["bias"][None] * 2 + 0 * out, lambda t, out, model, x: t.sum(1, keepdims=True))
    of_model, of_x = jm.grad(lambda m, x: f(m, x).sum(), (0, 1))(layer, X)
    assert float(of_model["bias"][0]) == 8
    same(of_x, jnp.ones_like(X))
    f.defjvps(None, None)
    assert not jm.grad(lambda m: f(m, X).sum())(layer)["bias"].any()


def test_captured_values_and_frozen_parameters() -> None:
    f, model = by_vjp(), fresh()
    model.fc.weight.requires_grad = False
    with jm.capture(model, "fc") as acts:
        found = jm.grad(lambda m: f(m, X).sum())(model)
    same(acts["fc"], model.fc(X))
    assert list(found) == ["fc.bias", "norm.weight", "norm.bias"]


class TestErrors:
    def gradient(self, bwd: Callable[..., Any], fwd: Callable[..., Any] | None = None) -> Any:
        f = custom_vjp(lambda m, x: m(x))
        f.defvjp(fwd or (lambda m, x: (m(x), None)), bwd)
        return jm.grad(lambda m: f(m, X).sum())(nn.Linear(3, 1))

    def test_bwd(self) -> None:
        with pytest.raises(KeyError, match=r"bwd returns a gradient for 'bais'; Linear has \['weight', 'bias'\]"):
            self.gradient(lambda _, g: ({"bais": g}, None))
        with pytest.raises(TypeError, match="an entry for each of 2 arguments, got 1"):
            self.gradient(lambda _, g: (None,))
        with pytest.raises(TypeError, match=r"must return a dict .* for a Linear, got"):
            self.gradient(lambda _, g: (g, None))
        with pytest.raises(TypeError, match=r"fwd must return \(result, residuals\)"):
            self.gradient(lambda _, g: (None, None), lambda m, x: m(x))
        buffer = nn.Buffer(jnp.zeros(()))

        def writes(_: Any, g: jax.Array) -> Any:
            buffer.value = buffer + 1
            return None, None

        with pytest.raises(jm.StateError, match="bwd writes it"):
            self.gradient(writes)
        assert float(buffer) == 0

    def test_a_rule_that_does_more_than_the_function(self) -> None:
        counter = nn.Buffer(jnp.zeros(()))

        def fwd(m: Any, x: jax.Array) -> Any:
            counter.value = counter + 1
            return m(x), None

        f = custom_vjp(lambda m, x: m(x))
        f.defvjp(fwd, lambda _, g: (None, None))
        layer = nn.Linear(3, 1)

        def loss(m: Any) -> jax.Array:
            return jm.scan(lambda total, x: (total + f(m, x[None]).sum(), None), jnp.zeros(()), X)[0]

        with pytest.raises(jm.StateError, match="the rule writes it, and the function itself does not"):
            jm.grad(loss)(layer)

    def test_no_rule(self) -> None:
        for kind in (custom_vjp, custom_jvp):
            with pytest.raises(AttributeError, match="no rule is defined for 'call'"):
                kind(call)(fresh(), X)
        f = custom_jvp(lambda x, *, y: x)
        f.defjvps(None)
        with pytest.raises(TypeError, match="keyword-only"):
            f(X, y=1)

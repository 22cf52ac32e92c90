"""vjp, jvp, linearize, jacrev, jacfwd, hessian: what JAX's own give of the model as a function of a dict of arrays."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmodule as jm
from jaxmodule import nn
from jaxmodule.transforms.derivatives import hessian, jacfwd, jacrev, jvp, linearize, vjp

X = jnp.asarray(np.random.default_rng(0).standard_normal((4, 3)), jnp.float32)


def same(a: Any, b: Any, tolerance: float = 1e-5) -> None:
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance), plain(a), plain(b))


def plain(tree: Any) -> Any:
    """A tree with a dict's order and its keys' class out of the way."""
    return {str(k): plain(v) for k, v in sorted(tree.items())} if isinstance(tree, dict) else tree


class Net(nn.Module):
    """Two layers with a frozen one between, statistics, dropout, a counter."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 2)
        self.frozen = nn.Linear(2, 2).requires_grad_(False)
        self.norm = nn.BatchNorm1d(2)
        self.drop = nn.Dropout(0.3)
        self.last = nn.Linear(2, 2, bias=False)
        self.count = nn.Buffer(jnp.zeros((), jnp.int32))

    def forward(self, x: jax.Array) -> jax.Array:
        self.count = self.count + 1
        return jnp.tanh(self.last(self.drop(self.norm(self.frozen(self.first(x))))))


def fresh() -> Net:
    jm.manual_seed(0)
    model = Net()
    jm.manual_seed(1)
    return model


def state(model: nn.Module) -> dict[str, Any]:
    return {**model.state_dict(), "rng": jm.get_rng_state()}


def pure(model: nn.Module) -> tuple[dict[str, jax.Array], Callable[..., Any]]:
    """The trainable parameters, and the model as a function of them; every call draws the same random numbers."""
    params = {str(name): p.value for name, p in model.named_parameters() if p.requires_grad}
    rest = {name: value for name, value in model.state_dict().items() if name not in params}
    start = jm.get_rng_state()

    def call(params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        generator = jm.Generator(0)
        generator.set_state(start)
        with jm.use_rng(generator):
            return jm.functional_call(model, (params, rest), x, mutable=True)[0]

    return params, call


def forward(model: Net, x: jax.Array) -> jax.Array:
    return model(x)


def directions(params: dict[str, jax.Array]) -> dict[str, jax.Array]:
    rng = np.random.default_rng(1)
    return {name: jnp.asarray(rng.standard_normal(p.shape), p.dtype) for name, p in params.items()}


def run(jit: bool, function: Callable[..., Any], model: Any, *args: Any) -> Any:
    return (jm.jit(function) if jit else function)(model, *args)


@pytest.mark.parametrize("jit", [False, True], ids=["eager", "jit"])
class TestAgainstJax:
    def check(self, jit: bool, function: Callable[..., Any], expected: Callable[..., Any]) -> None:
        """Result, written state and random numbers: `expected` is JAX's transform of a pure function."""
        by_jax = expected(*pure(fresh()))
        plain_call = fresh()
        plain_call(X)
        model = fresh()
        same(run(jit, function, model, X), by_jax)
        same(state(model), state(plain_call))

    def test_vjp(self, jit: bool) -> None:
        g = jnp.arange(8.0).reshape(4, 2)

        def mine(model: Net, x: jax.Array) -> Any:
            y, pullback = vjp(forward, model, x)
            return y, pullback(g)

        def jaxs(params: Any, call: Any) -> Any:
            y, pullback = jax.vjp(call, params, X)
            return y, pullback(g)

        self.check(jit, mine, jaxs)

    def test_jvp(self, jit: bool) -> None:
        t = directions(pure(fresh())[0])
        self.check(
            jit,
            lambda model, x: jvp(forward, (model, x), (t, x)),
            lambda params, call: jax.jvp(call, (params, X), (t, X)),
        )

    def test_linearize(self, jit: bool) -> None:
        t = directions(pure(fresh())[0])

        def mine(model: Net, x: jax.Array) -> Any:
            y, push = linearize(forward, model, x)
            return y, push(t, x), push({}, x)

        def jaxs(params: Any, call: Any) -> Any:
            y, push = jax.linearize(call, params, X)
            return y, push(t, X), push(jax.tree.map(jnp.zeros_like, t), X)

        self.check(jit, mine, jaxs)

    @pytest.mark.parametrize("way", ["rev", "fwd"])
    def test_jacobians(self, jit: bool, way: str) -> None:
        mine, jaxs = {"rev": (jacrev, jax.jacrev), "fwd": (jacfwd, jax.jacfwd)}[way]

        def several(model: Net, x: jax.Array) -> Any:
            y = model(x)
            return {"y": y, "mean": y.mean()}

        def expected(params: Any, call: Any) -> Any:
            def whole(params: Any, x: jax.Array) -> Any:
                y = call(params, x)
                return {"y": y, "mean": y.mean()}

            return jaxs(whole, (0, 1))(params, X)

        self.check(jit, mine(several, (0, 1)), expected)

    def test_hessian(self, jit: bool) -> None:
        self.check(
            jit,
            hessian(lambda m, x: m(x).sum(), (0, 1)),
            lambda params, call: jax.hessian(lambda p, x: call(p, x).sum(), (0, 1))(params, X),
        )

    def test_aux(self, jit: bool) -> None:
        def loss(model: Net, x: jax.Array) -> Any:
            y = model(x)
            return y.sum(), {"y": y, "model": model}

        expected = fresh()(X)
        t = {"first.bias": jnp.ones(2)}
        transforms: list[Callable[..., Any]] = [
            lambda model, x: vjp(loss, model, x, has_aux=True)[2],
            lambda model, x: jvp(loss, (model, x), (t, x), has_aux=True)[2],
            lambda model, x: linearize(loss, model, x, has_aux=True)[2],
            lambda model, x: jacrev(loss, has_aux=True)(model, x)[1],
            lambda model, x: jacfwd(loss, has_aux=True)(model, x)[1],
            lambda model, x: hessian(loss, has_aux=True)(model, x)[1],
        ]
        for transform in transforms:
            model = fresh()
            aux: Any = run(jit, transform, model, X)
            assert aux["model"] is model
            same(aux["y"], expected)
            assert int(model.count) == int(model.norm.num_batches_tracked) == 1


def test_the_pullback_is_that_of_grad_and_keys_know_their_parameters() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
    _, pullback = vjp(lambda m: m(X).sum(), model)
    (found,) = pullback(jnp.ones(()))
    same(found, jm.grad(lambda m: m(X).sum())(model))
    assert list(found) == ["0.weight", "0.bias", "1.weight", "1.bias"]
    for name in found:
        assert name.box is model.get_parameter(name)


def test_hooks_of_parameters_see_gradients_and_no_jacobians() -> None:
    model = nn.Linear(3, 1)
    model.bias.register_hook(lambda g: g * 10)
    _, pullback = vjp(lambda m: m(X).sum(), model)
    assert float(pullback(jnp.ones(()))[0]["bias"][0]) == 40
    assert float(jacrev(lambda m: m(X).sum())(model)["bias"][0]) == 4


def test_a_pullback_and_a_pushforward_go_out_of_a_compiled_function() -> None:
    model = nn.Linear(3, 2)

    @jm.jit
    def both(model: nn.Linear, x: jax.Array) -> Any:
        return vjp(forward, model, x)[1], linearize(forward, model, x)[1]

    pullback, push = both(model, X)
    g = jnp.ones((4, 2))
    same(pullback(g), vjp(forward, model, X)[1](g))
    same(jax.jit(lambda pullback, g: pullback(g))(pullback, g), pullback(g))
    same(push({"bias": jnp.ones(2)}, X), linearize(forward, model, X)[1]({"bias": jnp.ones(2)}, X))


def test_under_vmap() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.Tanh())
    found = jm.vmap(lambda x: jacrev(lambda m: m(x))(model))(X)
    rows = [jacrev(lambda m, x=x: m(x))(model) for x in X]
    same(found, jax.tree.map(lambda *xs: jnp.stack(xs), *rows))
    _, pullback = vjp(forward, model, X)
    stacked = jnp.stack([jnp.ones((4, 2)), jnp.zeros((4, 2))])
    same(jax.vmap(pullback)(stacked)[0]["0.bias"][0], pullback(stacked[0])[0]["0.bias"])


def test_forward_over_reverse_is_the_hessians_product() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 1))
    t = directions({str(name): p.value for name, p in model.named_parameters()})

    def loss(m: nn.Module) -> jax.Array:
        return (m(X) ** 2).sum()

    _, product = jvp(jm.grad(loss), (model,), (t,))
    found = hessian(loss)(model)
    for name, rows in found.items():
        expected = sum(jnp.tensordot(rows[other], t[other], t[other].ndim) for other in t)
        same(product[name], expected, 1e-4)


def test_nested_arguments_parameters_and_buffers() -> None:
    layer, scale, fixed = nn.Linear(3, 2), nn.Parameter(jnp.full((2,), 2.0)), nn.Buffer(jnp.ones(2))
    args = {"layer": layer, "x": X}, scale, fixed

    def call(data: Any, scale: Any, fixed: Any) -> Any:
        return data["layer"](data["x"]) * scale.value[None] + fixed.value[None], scale

    value, pullback = vjp(call, *args)
    assert isinstance(value[1], jax.Array)  # a box in the result is its array
    of_data, of_scale, of_fixed = pullback((jnp.ones((4, 2)), jnp.zeros(2)))
    assert set(of_data["layer"]) == {"weight", "bias"}
    same(of_data["layer"]["bias"], jnp.full(2, 8.0))
    same(of_scale, layer(X).sum(0))
    assert of_fixed is None
    _, tangent = jvp(call, args, ({"layer": {}, "x": jnp.zeros_like(X)}, jnp.ones(2), None))
    same(tangent, (layer(X), jnp.ones(2)))


def test_a_tied_parameter_is_there_once() -> None:
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Tanh(), nn.Linear(2, 2, bias=False))
    model[2].weight = model[0].weight
    x, w = jnp.ones((2,)), model[0].weight.value
    found = jacrev(lambda m: m(x))(model)
    assert list(found) == ["0.weight"]
    call = lambda w: jnp.tanh(x @ w.T) @ w.T  # noqa: E731
    same(found["0.weight"], jax.jacrev(call)(w))
    same(jvp(lambda m: m(x), (model,), ({"0.weight": w},))[1], jax.jvp(call, (w,), (w,))[1])


def test_frozen_parameters_cost_nothing() -> None:
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    t = {"1.weight": jnp.ones((3, 3))}

    def products(function: Callable[..., Any]) -> int:
        return str(jax.make_jaxpr(lambda x: function(x))(X)).count("dot_general")

    full = lambda x: jvp(lambda m: m(x), (model,), ({**t, "0.weight": jnp.ones((3, 3))},))  # noqa: E731
    part = lambda x: jvp(lambda m: m(x), (model,), (t,))  # noqa: E731
    assert (products(full), products(part)) == (5, 3)
    pulled = lambda x: vjp(lambda m: m(x), model)[1](x)  # noqa: E731
    assert products(pulled) == 2 + 3
    model[0].requires_grad_(False)
    assert products(pulled) == 2 + 1
    model.requires_grad_(False)
    for transform in (jacrev, jacfwd, hessian):
        assert transform(lambda m: m(X))(model) == {}


def test_holomorphic_and_integers() -> None:
    z = nn.Parameter(jnp.asarray([1.0 + 2.0j, 0.5 - 1.0j]))
    square = lambda p: p.value**2  # noqa: E731
    for mine, jaxs in ((jacrev, jax.jacrev), (jacfwd, jax.jacfwd), (hessian, jax.hessian)):
        found = mine(square, holomorphic=True)(z)
        same(found, jaxs(lambda z: z**2, holomorphic=True)(z.value))
    whole = jacrev(lambda m, i: m(X)[i], argnums=1, allow_int=True)(nn.Linear(3, 1), jnp.asarray(1))
    assert not whole.any()
    with pytest.raises(TypeError, match="allow_int"):
        jacrev(lambda m, i: m(X)[i], argnums=1)(nn.Linear(3, 1), jnp.asarray(1))


class TestErrors:
    def test_names_of_tangents(self) -> None:
        model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
        model[0].bias.requires_grad = False
        call = lambda m: m(X)  # noqa: E731
        with pytest.raises(KeyError, match=r"'0\.wieght', which is no parameter of this Sequential; it has"):
            jvp(call, (model,), ({"0.wieght": jnp.ones((2, 3))},))
        with pytest.raises(KeyError, match=r"'0\.bias', which is frozen"):
            jvp(call, (model,), ({"0.bias": jnp.ones(2)},))
        with pytest.raises(KeyError, match="that jm.linearize returned"):
            linearize(call, model)[1]({"1.running_mean": jnp.ones(2)})
        with pytest.raises(TypeError, match=r"the tangent of a Sequential is a dict .* got ArrayImpl"):
            jvp(call, (model,), (jnp.ones(2),))

    def test_structure(self) -> None:
        model = nn.Linear(3, 2)
        with pytest.raises(ValueError, match="must have the structure of the primals"):
            jvp(forward, (model, X), ({},))
        with pytest.raises(TypeError, match="primals must be a tuple or a list, got Linear"):
            jvp(forward, model, ({},))
        with pytest.raises(ValueError, match="two tangents are given for one parameter, 'bias' of a Linear"):
            jvp(lambda a, b: a(X) + b(X), (model, model), ({"bias": jnp.ones(2)}, {"bias": jnp.ones(2)}))

    def test_results(self) -> None:
        model = nn.Linear(3, 2)
        for transform in (lambda f: vjp(f, model), lambda f: jacrev(f)(model), lambda f: jm.grad(f)(model)):
            with pytest.raises(TypeError, match="returns a Linear, which has no derivative"):
                transform(lambda m: m)
        with pytest.raises(TypeError, match=r"must return \(value, aux\)"):
            vjp(lambda m: m(X), model, has_aux=True)

    def test_a_failure_writes_nothing(self) -> None:
        model = nn.BatchNorm1d(3)

        def fails(m: nn.BatchNorm1d) -> Any:
            m(X)
            raise KeyError("here")

        for transform in (lambda: vjp(fails, model), lambda: jacfwd(fails)(model), lambda: hessian(fails)(model)):
            with pytest.raises(KeyError, match="here"):
                transform()
        assert int(model.num_batches_tracked) == 0

"""Specification of parameters, buffers and plain arrays: boxes, freezing, tying, what flows through transforms.

How they are registered and named is in test_lifecycle.py.
"""

import copy
import operator
import pickle
import warnings
from collections import namedtuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxmodule as jm
from jaxmodule import nn

X = jnp.asarray([[1.0, 2.0, 3.0], [-1.0, 0.5, 2.0]])


def names(pairs):
    return [str(name) for name, _ in pairs]


def no_tracers(*objects):
    for obj in objects:
        leaves = jax.tree.leaves(obj)
        assert leaves
        assert not any(isinstance(leaf, jax.core.Tracer) for leaf in leaves)


# -- a box ------------------------------------------------------------------------------------------------------------


def test_a_parameter_is_a_box_round_an_array():
    array = jnp.arange(3.0)
    p = nn.Parameter(array)
    assert p.value is p.data is array
    assert p.requires_grad
    assert p.grad is None
    assert p.is_leaf
    assert (p.shape, p.dtype, p.ndim, p.size) == ((3,), jnp.float32, 1, 3)
    p.value = array + 1
    assert p.tolist() == [1.0, 2.0, 3.0]
    p.data = np.zeros(2, np.float32)
    assert isinstance(p.value, jax.Array)
    assert p.shape == (2,)
    assert not nn.Parameter(array, requires_grad=False).requires_grad
    assert nn.Parameter([1.0, 2.0]).shape == (2,)
    assert nn.Parameter().shape == (0,)
    assert nn.Parameter(nn.Parameter(array)).value is array
    assert repr(p) == "Parameter containing:\nArray([0., 0.], dtype=float32)"
    assert "requires_grad=False" in repr(p.requires_grad_(False))


def test_a_buffer_is_a_box_too():
    b = nn.Buffer(jnp.arange(3), persistent=False)
    assert not b.persistent
    assert not b.requires_grad
    assert nn.Buffer(1.0).persistent
    assert repr(b) == "Buffer containing:\nArray([0, 1, 2], dtype=int32)"
    assert nn.Buffer().shape == (0,)


def test_boxes_compare_by_value_and_hash_by_identity():
    a, b = nn.Parameter(jnp.ones(2)), nn.Parameter(jnp.ones(2))
    assert (a == b).tolist() == [True, True]
    assert len({a, b, a}) == 2
    assert a in {a: 1}
    assert b not in {a: 1}


BINARY = ["add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "eq", "ne", "lt", "le", "gt", "ge"]
INTEGER = ["lshift", "rshift", "and_", "or_", "xor"]
UNARY = ["neg", "pos", "abs"]
A = jnp.asarray([[1.0, 2.0], [3.0, 4.0]])
B = jnp.asarray([[2.0, 0.5], [1.0, 3.0]])


@pytest.mark.parametrize("kind", [nn.Parameter, nn.Buffer])
@pytest.mark.parametrize("name", [*BINARY, *INTEGER])
def test_binary_operators(kind, name):
    function = getattr(operator, name)
    a, b = (A.astype(int), B.astype(int)) if name in INTEGER else (A, B)
    expected = function(a, b)
    for left, right in [
        (kind(a), kind(b)),
        (kind(a), b),
        (a, kind(b)),
        (kind(a), np.asarray(b)),
        (np.asarray(a), kind(b)),
    ]:
        got = function(left, right)
        assert isinstance(got, jax.Array)
        np.testing.assert_array_equal(got, expected)
    if name != "matmul":
        np.testing.assert_array_equal(function(kind(a), 2), function(a, 2))
        np.testing.assert_array_equal(function(2, kind(a)), function(2, a))


def test_other_operators():
    p, scalar, integer = nn.Parameter(A), nn.Parameter(2.5), nn.Parameter(jnp.asarray(3))
    for name in UNARY:
        np.testing.assert_array_equal(getattr(operator, name)(p), getattr(operator, name)(A))
    assert int(~integer) == -4
    assert (float(scalar), int(scalar), complex(scalar), bool(scalar), round(scalar)) == (2.5, 2, 2.5 + 0j, True, 2)
    assert operator.index(integer) == 3
    assert [10, 11, 12, 13][integer] == 13
    assert f"{scalar:.2f}" == "2.50"
    assert 3.0 in nn.Parameter(A[1])
    assert [float(x) for x in divmod(scalar, 2.0)] == [1.0, 0.5]
    assert [float(x) for x in divmod(7.0, scalar)] == [2.0, 2.0]
    with pytest.raises(ValueError, match="ambiguous"):
        bool(p)
    with pytest.raises(TypeError, match="integer"):
        operator.index(scalar)


@pytest.mark.parametrize(("name", "expected"), [("iadd", A + B), ("isub", A - B), ("imul", A * B), ("itruediv", A / B)])
def test_in_place_operators_keep_the_box(name, expected):
    p = same = nn.Parameter(A)
    p = getattr(operator, name)(p, B)
    assert p is same
    np.testing.assert_array_equal(p, expected)
    p = getattr(operator, name)(nn.Parameter(A), nn.Parameter(B))
    np.testing.assert_array_equal(p, expected)


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (lambda p: p.copy_(B), B),
        (lambda p: p.copy_(nn.Parameter(B)), B),
        (lambda p: p.copy_(jnp.asarray([1, 2])), jnp.asarray([[1.0, 2.0], [1.0, 2.0]])),
        (lambda p: p.fill_(3), jnp.full((2, 2), 3.0)),
        (lambda p: p.zero_(), jnp.zeros((2, 2))),
        (lambda p: p.add_(B), A + B),
        (lambda p: p.add_(B, alpha=2), A + 2 * B),
        (lambda p: p.sub_(B), A - B),
        (lambda p: p.sub_(nn.Buffer(B), alpha=3), A - 3 * B),
        (lambda p: p.mul_(2), A * 2),
        (lambda p: p.div_(B), A / B),
    ],
)
def test_in_place_methods(call, expected):
    p = nn.Parameter(A)
    assert call(p) is p
    assert p.dtype == jnp.float32
    np.testing.assert_array_equal(p, expected)


def test_iteration_length_and_indexing():
    p = nn.Parameter(A)
    assert len(p) == 2
    assert [row.tolist() for row in p] == A.tolist()
    assert p[0, 1] == 2.0
    assert p[:, 0].tolist() == [1.0, 3.0]
    assert p[nn.Buffer(jnp.asarray([1]))].tolist() == [[3.0, 4.0]]
    assert p[None].shape == (1, 2, 2)
    assert p.at[0].set(0.0)[0].tolist() == [0.0, 0.0]
    _, second = p
    assert second.tolist() == [3.0, 4.0]
    with pytest.raises(TypeError, match="does not support item assignment"):
        p[0] = 1.0
    with pytest.raises(TypeError, match="0-d|unsized"):
        len(nn.Parameter(1.0))
    with pytest.raises(TypeError, match="0-d"):
        iter(nn.Parameter(1.0))


def test_array_methods_and_numpy():
    p = nn.Parameter(A)
    for got, expected in [
        (p.sum(), A.sum()), (p.mean(0), A.mean(0)), (p.T, A.T), (p.reshape(-1), A.reshape(-1)),
        (p.astype(jnp.int32), A.astype(jnp.int32)), (p.detach(), A), (np.asarray(p), A), (np.add(p, 1), A + 1),
        (np.asarray(p, dtype=np.float16), A.astype(jnp.float16)), (np.array(p, copy=True), A), (p.max(), A.max()),
    ]:  # fmt: skip
        np.testing.assert_array_equal(got, expected)
    assert p.item is not None
    assert nn.Parameter(3.0).item() == 3.0
    assert isinstance(np.asarray(p), np.ndarray)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        p.nothing
    with pytest.raises(AttributeError, match="no attribute '__nothing__'"):
        p.__nothing__


JNP = {
    "add": lambda p: jnp.add(p, p), "dot": lambda p: jnp.dot(p, p), "matmul": lambda p: jnp.matmul(p, B),
    "einsum": lambda p: jnp.einsum("ij,jk->ik", p, B), "where": lambda p: jnp.where(p > 2, p, B),
    "stack": lambda p: jnp.stack([p, p]), "concatenate": lambda p: jnp.concatenate([p, B]),
    "sum": jnp.sum, "mean": jnp.mean, "var": jnp.var, "exp": jnp.exp, "sqrt": jnp.sqrt, "tanh": jnp.tanh,
    "reshape": lambda p: jnp.reshape(p, (4,)), "transpose": jnp.transpose, "clip": lambda p: jnp.clip(p, 1.5, 2.5),
    "linalg.norm": jnp.linalg.norm, "maximum": lambda p: jnp.maximum(p, B), "zeros_like": jnp.zeros_like,
    "asarray": jnp.asarray, "array": jnp.array, "cumsum": lambda p: jnp.cumsum(p, axis=0), "argmax": jnp.argmax,
    "take": lambda p: jnp.take(p, jnp.asarray([0]), axis=0), "pad": lambda p: jnp.pad(p, 1), "sort": jnp.sort,
    "broadcast_to": lambda p: jnp.broadcast_to(p, (3, 2, 2)), "split": lambda p: jnp.split(p, 2)[1],
    "relu": jax.nn.relu, "softmax": jax.nn.softmax, "gelu": jax.nn.gelu, "logsumexp": jax.nn.logsumexp,
    "optimization_barrier": jax.lax.stop_gradient, "vmap": lambda p: jax.vmap(jnp.sum)(jnp.asarray(p)),
}  # fmt: skip


@pytest.mark.parametrize("name", JNP)
def test_jnp_functions_take_a_parameter(name):
    got, expected = JNP[name](nn.Parameter(A)), JNP[name](A)
    np.testing.assert_array_equal(got.value if isinstance(got, nn.Parameter) else got, expected)


def test_a_box_is_a_pytree_of_one_leaf():
    p = nn.Parameter(A, requires_grad=False)
    p.mark = "x"
    assert jax.tree.leaves(p)[0] is p.value
    doubled = jax.tree.map(lambda x: 2 * x, p)
    assert type(doubled) is nn.Parameter
    assert not doubled.requires_grad
    np.testing.assert_array_equal(doubled, 2 * A)
    np.testing.assert_array_equal(jax.jit(lambda p: p + 1)(p), A + 1)
    assert type(jax.tree.map(lambda x: x, nn.Buffer(A, persistent=False))) is nn.Buffer
    assert not jax.tree.map(lambda x: x, nn.Buffer(A, persistent=False)).persistent


def test_parameters_as_arguments_of_jm_transforms():
    p, b = nn.Parameter(A), nn.Buffer(jnp.zeros(()))

    @jm.jit
    def step(p, b):
        b += 1.0
        p.mul_(2.0)
        return p.sum()

    assert float(step(p, b)) == 20.0
    np.testing.assert_array_equal(p, 2 * A)
    assert float(b) == 1.0
    gradient = jm.grad(lambda p: (p * p).sum())(p)
    np.testing.assert_array_equal(gradient, 4 * A)


@pytest.mark.parametrize("box", [nn.Parameter(A, requires_grad=False), nn.Buffer(A, persistent=False)])
def test_copies_of_a_box(box):
    for new in (copy.deepcopy(box), copy.copy(box), pickle.loads(pickle.dumps(box))):
        assert type(new) is type(box)
        assert new is not box
        np.testing.assert_array_equal(new, A)
        assert (new.requires_grad, getattr(new, "persistent", None)) == (False, getattr(box, "persistent", None))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "int8", "bool", "complex64", "float8_e4m3fn"])
def test_pickle_keeps_the_dtype(dtype):
    new = pickle.loads(pickle.dumps(nn.Buffer(jnp.ones(2).astype(dtype))))
    assert new.dtype == dtype


def test_attributes_of_a_parameter():
    p = nn.Parameter(A)
    p.group = "no_decay"
    for new in (copy.deepcopy(p), copy.copy(p), pickle.loads(pickle.dumps(p))):
        assert new.group == "no_decay"
    del p.group
    assert not hasattr(p, "group")


def test_an_attribute_of_a_parameter_is_part_of_the_structure():
    model = nn.Linear(3, 3)

    @jm.jit
    def scaled(model):
        return getattr(model.weight, "scale", 1.0) * jnp.ones(())

    assert float(scaled(model)) == 1.0
    model.weight.scale = 3.0
    assert float(scaled(model)) == 3.0
    model.weight.scale = 4.0
    assert float(scaled(model)) == 4.0
    del model.weight.scale
    assert float(scaled(model)) == 1.0


def test_grad_attribute():
    p = nn.Parameter(A)
    p.grad = B
    assert p.grad is B
    p.grad = None
    assert p.grad is None
    with pytest.raises(RuntimeError, match="assigned grad has data of a different size"):
        p.grad = jnp.zeros(3)


def test_register_hook_of_a_parameter():
    model = nn.Linear(3, 1)
    loss = jm.jit(jm.grad(lambda m: m(X).sum()))
    plain = loss(model)
    with model.weight.register_hook(lambda g: 2 * g), model.weight.register_hook(lambda g: None):
        np.testing.assert_allclose(loss(model)["weight"], 2 * plain["weight"])
    np.testing.assert_allclose(loss(model)["weight"], plain["weight"])
    with pytest.raises(RuntimeError, match="doesn't require gradient"):
        nn.Parameter(A, requires_grad=False).register_hook(print)


# -- buffers ----------------------------------------------------------------------------------------------------------


def test_buffers_and_their_persistence():
    model = nn.Module()
    model.register_buffer("kept", jnp.zeros(1))
    model.register_buffer("temporary", jnp.zeros(1), persistent=False)
    model.register_buffer("nothing", None)
    model.assigned = nn.Buffer(jnp.zeros(1))
    model.unsaved = nn.Buffer(jnp.zeros(1), persistent=False)
    assert names(model.named_buffers()) == ["kept", "temporary", "assigned", "unsaved"]
    assert list(model.state_dict()) == ["kept", "assigned"]
    model.register_buffer("temporary", jnp.ones(1))
    assert "temporary" in model.state_dict()
    model.nothing = jnp.ones(2)
    assert "nothing" in model.state_dict()


def test_buffers_are_not_differentiated_and_not_optimized():
    model = nn.BatchNorm1d(3)
    assert list(jm.grad(lambda m: (m(X) ** 2).sum())(model)) == ["weight", "bias"]
    assert not {id(b) for b in model.buffers()} & {id(p) for p in model.parameters()}


# -- freezing ---------------------------------------------------------------------------------------------------------


def net():
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2))


def dots(function, *args):
    return str(jax.make_jaxpr(function)(*args)).count("dot_general")


def loss(model):
    return (model(X) ** 2).sum()


def traced_grad(model):
    """The gradient as a function of arrays, for make_jaxpr."""
    params, buffers = jm.split(model)

    def pure(params):
        return jm.grad(lambda m: (m(X) ** 2).sum())(jm.merge(model, params, buffers))

    return pure, params


def test_requires_grad_of_a_module():
    model = net()
    assert model.requires_grad_(False) is model
    assert not any(p.requires_grad for p in model.parameters())
    model[2].requires_grad_()
    assert [str(n) for n, p in model.named_parameters() if p.requires_grad] == ["2.weight", "2.bias"]
    assert list(jm.grad(loss)(model)) == ["2.weight", "2.bias"]
    model[0].bias.requires_grad = True
    assert list(jm.grad(loss)(model)) == ["0.bias", "2.weight", "2.bias"]


def test_no_gradient_of_a_frozen_parameter_is_computed():
    counts = {}
    for frozen in ("", "0", "02", "024", "4", "024-weights"):
        model = net()
        for i in frozen.removesuffix("-weights"):
            (model[int(i)].weight if "weights" in frozen else model[int(i)]).requires_grad_(False)
        pure, params = traced_grad(model)
        counts[frozen] = dots(pure, params)
    # Three products forward. Backward: one a weight, and one into each layer that has something trainable below it.
    assert counts == {"": 3 + 3 + 2, "0": 3 + 2 + 1, "02": 3 + 1, "024": 3, "4": 3 + 2 + 2, "024-weights": 3 + 2}


def test_a_frozen_layer_still_passes_gradients_on():
    model = net()
    expected = jm.grad(loss)(model)
    model[2].requires_grad_(False)
    got = jm.grad(loss)(model)
    assert list(got) == ["0.weight", "0.bias", "4.weight", "4.bias"]
    for name in got:
        np.testing.assert_allclose(got[name], expected[name], rtol=1e-5)


def test_freezing_is_seen_by_compiled_functions():
    model = net()
    grads = jm.jit(jm.grad(loss))
    assert len(grads(model)) == 6
    model[0].requires_grad_(False)
    assert sorted(grads(model)) == ["2.bias", "2.weight", "4.bias", "4.weight"]
    model[0].weight.requires_grad = True
    assert "0.weight" in grads(model)


@pytest.mark.parametrize("raw", [jax.grad, lambda f: jax.jit(jax.grad(f))])
def test_a_frozen_parameter_has_no_gradient_in_raw_jax_either(raw):
    model = net()
    model[0].requires_grad_(False)
    gradient = raw(loss)(model)
    assert not gradient[0].weight.any()
    assert not gradient[0].bias.any()
    assert gradient[2].weight.any()


@pytest.mark.parametrize(
    "make",
    [
        lambda p: jm.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.5),
        lambda p: jm.optim.Adam(p, lr=0.1, weight_decay=0.5),
        lambda p: jm.optim.AdamW(p, lr=0.1, weight_decay=0.5),
        lambda p: jm.optim.Optimizer(p, optax.adamw(0.1, weight_decay=0.5)),
    ],
    ids=["SGD", "Adam", "AdamW", "optax"],
)
def test_optimizers_leave_frozen_parameters_alone(make):
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 1))
    model[0].requires_grad_(False)
    with jax.numpy_dtype_promotion("standard"):  # optax's own arithmetic needs it
        optimizer = make(model.parameters())

        @jm.jit
        def step(model, optimizer):
            optimizer.step(jm.grad(loss)(model))

        step(model, optimizer)
        model[1].requires_grad_(False)  # it has moments already
        before = {str(n): p.value for n, p in model.named_parameters()}
        step(model, optimizer)
        jm.backward(loss)(model)
        optimizer.step()
    for name, p in model.named_parameters():
        assert bool((p == before[name]).all()) == (name[0] in "01")


def test_backward_gives_a_frozen_parameter_no_grad():
    model = net()
    model[0].requires_grad_(False)
    jm.backward(loss)(model)
    assert model[0].weight.grad is None
    assert model[2].weight.grad is not None


# -- tied weights -----------------------------------------------------------------------------------------------------


def tied():
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Tanh(), nn.Linear(3, 3, bias=False))
    model[2].weight = model[0].weight
    return model


def is_tied(model):
    return model[0].weight is model[2].weight and names(model.named_parameters()) == ["0.weight"]


def expected_gradient(weight):
    return jax.grad(lambda w: (jnp.tanh(X @ w.T) @ w.T).sum())(weight)


class TestTied:
    def test_one_box_two_names_one_gradient(self):
        model = tied()
        assert is_tied(model)
        assert names(model.named_parameters(remove_duplicate=False)) == ["0.weight", "2.weight"]
        grads = jm.grad(lambda m: m(X).sum())(model)
        assert list(grads) == ["0.weight"]
        np.testing.assert_allclose(grads["0.weight"], expected_gradient(model[0].weight.value), rtol=1e-5)

    def test_jm_jit(self):
        model = tied()

        @jm.jit
        def write(model):
            assert is_tied(model)
            model[2].weight.mul_(2.0)
            return model[0].weight.sum()

        before = model[0].weight.value
        np.testing.assert_allclose(write(model), 2 * before.sum(), rtol=1e-5)
        assert is_tied(model)
        np.testing.assert_array_equal(model[0].weight, 2 * before)

    def test_untying_is_seen(self):
        model = tied()
        call = jm.jit(lambda m: m(X))
        call(model)
        model[2].weight = nn.Parameter(jnp.zeros((3, 3)))
        assert not call(model).any()
        model[2].weight = model[0].weight
        assert call(model).any()

    def test_raw_jax(self):
        model = tied()
        assert len(jax.tree.leaves(model)) == 1

        @jax.jit
        def call(model):
            assert is_tied(model)
            return model(X), model

        out, new = call(model)
        np.testing.assert_allclose(out, model(X), rtol=1e-5)
        assert is_tied(new)
        assert is_tied(jax.tree.map(lambda a: a + 1, model))
        gradient = jax.grad(lambda m: m(X).sum())(model)
        assert is_tied(gradient)
        np.testing.assert_allclose(gradient[0].weight, expected_gradient(model[0].weight.value), rtol=1e-5)

    @pytest.mark.parametrize(
        "how", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m)), lambda m: m.to(jnp.bfloat16)]
    )
    def test_copies_and_conversion(self, how):
        assert is_tied(how(tied()))

    def test_state_dict(self):
        model, new = tied(), tied()
        state = model.state_dict()
        assert list(state) == ["0.weight", "2.weight"]
        assert state["0.weight"] is state["2.weight"]
        new.load_state_dict(state)
        assert is_tied(new)
        np.testing.assert_array_equal(new(X), model(X))
        untied = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Tanh(), nn.Linear(3, 3, bias=False))
        untied.load_state_dict(state)
        assert not is_tied(untied)
        np.testing.assert_array_equal(untied(X), model(X))

    def test_optimizer_steps_it_once(self):
        model = tied()
        optimizer = jm.optim.SGD(model.parameters(), lr=0.1)
        before = model[0].weight.value
        grads = jm.grad(lambda m: m(X).sum())(model)
        optimizer.step(grads)
        np.testing.assert_allclose(model[0].weight, before - 0.1 * grads["0.weight"], rtol=1e-5)
        assert is_tied(model)

    def test_backward_and_split(self):
        model = tied()
        jm.backward(lambda m: m(X).sum())(model)
        np.testing.assert_allclose(model[2].weight.grad, expected_gradient(model[0].weight.value), rtol=1e-5)
        params, _ = jm.split(model)
        assert list(params) == ["0.weight"]
        assert is_tied(jm.merge(model, params))
        out = jm.functional_call(model, {"2.weight": jnp.zeros((3, 3))}, X)
        assert not out.any()

    def test_a_shared_module(self):
        layer = nn.BatchNorm1d(3)
        model = nn.Sequential(layer, layer)
        jm.jit(lambda m, x: m(x))(model, X)
        assert model[0] is model[1]
        assert int(layer.num_batches_tracked) == 2
        assert len(jax.tree.leaves(model)) == 5
        new = jax.tree.map(lambda a: a, model)
        assert new[0] is new[1]
        assert copy.deepcopy(model)[0] is not layer


# -- plain arrays on attributes ---------------------------------------------------------------------------------------


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(jnp.ones(3))
        self.last = jnp.zeros(3)
        self.count = jnp.zeros((), jnp.int32)
        self.cache = {"k": jnp.zeros((1, 3)), "steps": [], "name": "kv"}

    def forward(self, x):
        y = x * self.weight
        self.last = y
        self.count += 1
        self.cache["steps"].append(y)
        self.cache["k"] = self.cache["k"] + y[None]
        return y


ROW = jnp.asarray([1.0, 2.0, 3.0])


def test_a_plain_array_is_neither_parameter_nor_buffer():
    model = Plain()
    assert isinstance(model.last, jax.Array)
    assert names(model.named_parameters()) == ["weight"]
    assert names(model.named_buffers()) == []
    assert list(model.state_dict()) == ["weight"]
    model.to(jnp.bfloat16)
    model.to(jax.devices()[1])
    assert model.last.dtype == jnp.float32
    assert model.last.devices() == {jax.devices()[0]}


@pytest.mark.parametrize(
    "run",
    [
        lambda m: m(ROW),
        lambda m: jm.jit(lambda m, x: m(x))(m, ROW),
        lambda m: jm.grad(lambda m: m(ROW).sum())(m),
        lambda m: jm.jit(jm.grad(lambda m: m(ROW).sum()))(m),
        lambda m: jm.jit(m)(ROW),
        lambda m: (m.compile(), m(ROW)),
    ],
    ids=["eager", "jit", "grad", "jit of grad", "jit of the module", "compile"],
)
def test_plain_state_flows_through_transforms(run):
    model = Plain()
    for i in range(1, 4):
        run(model)
        no_tracers(model)
        np.testing.assert_array_equal(model.last, ROW)
        assert int(model.count) == i
        assert len(model.cache["steps"]) == i
        np.testing.assert_array_equal(model.cache["k"], i * ROW[None])
        assert model.cache["name"] == "kv"


def test_a_compiled_function_reads_the_present_value():
    model = Plain()
    read = jm.jit(lambda m: (m.last.sum(), m.cache["k"].sum()))
    assert [float(v) for v in read(model)] == [0.0, 0.0]
    model.last = ROW
    model.cache["k"] = ROW
    assert [float(v) for v in read(model)] == [6.0, 6.0]


def test_a_shape_change_of_a_plain_array_is_seen():
    model = Plain()
    size = jm.jit(lambda m: m.last.size * jnp.ones(()))
    assert float(size(model)) == 3.0
    model.last = jnp.zeros((4, 4))
    assert float(size(model)) == 16.0
    model.last = 5
    assert float(jm.jit(lambda m: m.last * jnp.ones(()))(model)) == 5.0


@pytest.mark.parametrize("transform", [jm.jit, lambda f: jm.grad(f), lambda f: jm.jit(jm.grad(f))])
def test_nothing_changes_when_the_function_raises(transform):
    model = Plain()
    model(ROW)
    before = jax.tree.leaves(model)

    def fails(model):
        model(2 * ROW)
        model.weight.mul_(2.0)
        model.new = jnp.zeros(1)
        raise ValueError("on purpose")

    with pytest.raises(ValueError, match="on purpose"):
        transform(fails)(model)
    no_tracers(model)
    assert all(a is b for a, b in zip(before, jax.tree.leaves(model), strict=True))
    assert len(model.cache["steps"]) == 1
    assert not hasattr(model, "new")


def test_plain_containers_of_other_kinds():
    Pair = namedtuple("Pair", "k v")
    model = nn.Module()
    model.pair = Pair(jnp.zeros(2), jnp.ones(2))
    model.tuple = (jnp.zeros(1), 3)
    model.nested = [{"a": [jnp.zeros(1)]}]
    model.box = [nn.Parameter(jnp.zeros(1))]  # not registered, as in torch, but it flows

    @jm.jit
    def change(model):
        model.pair = model.pair._replace(k=model.pair.v + 1)
        model.tuple = (model.tuple[0] + 1, 4)
        model.nested[0]["a"][0] += 5.0
        model.nested.append({"b": jnp.ones(1)})
        model.box[0] += 2.0

    change(model)
    no_tracers(model)
    assert isinstance(model.pair, Pair)
    assert model.pair.k.tolist() == [2.0, 2.0]
    assert model.tuple[1] == 4
    assert model.nested[0]["a"][0].tolist() == [5.0]
    assert model.nested[1]["b"].tolist() == [1.0]
    assert model.box[0].value.tolist() == [2.0]
    assert names(model.named_parameters()) == []
    change(model)
    assert len(model.nested) == 3


def test_a_kv_cache_that_is_written_in_place():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.cache = {"k": [], "v": []}

        def forward(self, x):
            self.cache["k"].append(x)
            self.cache["v"].append(2 * x)
            return sum(self.cache["v"])

    eager, compiled = Attention(), Attention()
    call = jm.jit(lambda m, x: m(x))
    for i in range(3):
        x = jnp.full(2, float(i))
        np.testing.assert_array_equal(eager(x), call(compiled, x))
    assert jax.tree.structure(eager.cache) == jax.tree.structure(compiled.cache)
    no_tracers(compiled)
    eager.cache["k"].clear()
    assert eager.cache["k"] == []


def test_a_plain_attribute_made_inside_a_compiled_function():
    model = nn.Linear(3, 3)

    @jm.jit
    def remember(model, x):
        model.activation = model(x)

    for i in range(3):
        remember(model, X * i)
        no_tracers(model)
        np.testing.assert_allclose(model.activation, model(X * i), rtol=1e-5)


def test_writing_plain_state_in_a_raw_transform_raises():
    model = Plain()
    for run in (
        lambda: jax.jit(lambda x: model(x))(ROW),
        lambda: jax.grad(lambda x: model(x).sum())(ROW),
        lambda: jax.vmap(lambda x: model(x))(ROW[None]),
    ):
        with pytest.raises(jm.ForeignTraceError, match=r"(?s)'last' of Plain\(\).*jm\.jit"):
            run()
        assert not model.last.any()
    model = nn.Linear(3, 3)
    with pytest.raises(jm.ForeignTraceError, match="raw JAX transform"):
        jax.jit(lambda x: setattr(model, "new", x))(ROW)
    assert not hasattr(model, "new")


@pytest.mark.parametrize(
    ("make", "use"), [(list, "ModuleList"), (tuple, "ModuleList"), (lambda m: {"a": m[0]}, "ModuleDict")]
)
def test_a_plain_container_of_modules_warns_once(make, use):
    class Holder(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = make([nn.Linear(2, 2)])

    with pytest.warns(
        UserWarning, match=rf"Holder.layers is a plain (list|tuple|dict) of modules.*Use nn\.{use}"
    ) as caught:
        model = Holder()
    assert len(caught) == 1
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Holder()
    assert names(model.named_parameters()) == []


def test_modules_in_a_plain_list_still_flow():
    model = type("Lister", (nn.Module,), {})()
    with pytest.warns(UserWarning, match="ModuleList"):
        model.layers = [nn.BatchNorm1d(3)]
    jm.jit(lambda m, x: m.layers[0](x))(model, X)
    assert int(model.layers[0].num_batches_tracked) == 1
    model.layers[0].eval()
    assert not jm.jit(lambda m: m.layers[0].training)(model)


# -- a Module is a pytree ---------------------------------------------------------------------------------------------


class Tree(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(jnp.ones(3))
        self.register_buffer("scale", jnp.full(3, 2.0))
        self.plain = jnp.zeros(3)
        self.fc = nn.Linear(3, 3)

    def forward(self, x):
        return self.fc(x) * self.weight[None] * self.scale[None] + self.plain.reshape(-1, 3)


def test_tree_paths_are_the_dotted_names():
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_flatten_with_path(Tree())[0]]
    assert paths == [".weight", ".scale", ".plain", ".fc.weight", ".fc.bias"]
    inside = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path({"model": nn.Linear(1, 1)})]
    assert inside == ["['model'].weight", "['model'].bias"]


def test_tree_map_gives_a_new_module():
    model = Tree()
    doubled = jax.tree.map(lambda a: 2 * a, model)
    assert type(doubled) is Tree
    assert doubled.fc.in_features == 3
    np.testing.assert_array_equal(doubled.fc.weight, 2 * model.fc.weight)
    assert float(model.weight[0]) == 1.0
    assert jax.tree.structure(doubled) == jax.tree.structure(model)
    added = jax.tree.map(jnp.add, model, doubled)
    np.testing.assert_allclose(added.fc.weight, 3 * model.fc.weight, rtol=1e-6)
    doubled.fc.weight.zero_()
    assert model.fc.weight.any()
    doubled.eval()
    assert model.training
    doubled.extra = nn.Identity()
    assert not hasattr(model, "extra")


def test_tree_map_of_two_structures_raises():
    with pytest.raises(ValueError, match="structure|prefix|aux|metadata|node"):
        jax.tree.map(jnp.add, Tree(), Tree().eval())


def test_equal_modules_have_equal_structures():
    assert jax.tree.structure(Tree()) == jax.tree.structure(Tree())
    assert hash(jax.tree.structure(Tree())) == hash(jax.tree.structure(Tree()))
    frozen = Tree()
    frozen.fc.bias.requires_grad_(False)
    assert jax.tree.structure(frozen) != jax.tree.structure(Tree())


def test_raw_jit():
    model = Tree()
    traces = []

    @jax.jit
    def call(model, x):
        traces.append(1)
        return model(x)

    np.testing.assert_allclose(call(model, X), model(X), rtol=1e-6)
    model.fc.weight.mul_(2.0)
    np.testing.assert_allclose(call(model, X), model(X), rtol=1e-6)
    call(Tree(), X)
    assert len(traces) == 1
    call(model.eval(), X)
    assert len(traces) == 2
    no_tracers(model)


def test_raw_jit_keeps_what_is_returned():
    @jax.jit
    def update(model, x):
        model.plain = model(x)
        model.scale *= 3.0
        return model

    model = Tree()
    new = update(model, X[0][None])
    np.testing.assert_allclose(new.plain, model(X[:1]), rtol=1e-6)
    assert float(new.scale[0]) == 6.0
    assert float(model.scale[0]) == 2.0
    assert model.plain.shape == (3,)
    no_tracers(model, new)
    update(new, X[0][None])


def test_raw_grad_gives_a_module_of_gradients():
    model = Tree()
    gradient = jax.grad(lambda m: m(X).sum())(model)
    assert isinstance(gradient, Tree)
    expected = jm.grad(lambda m: m(X).sum())(model)
    for name, p in gradient.named_parameters():
        np.testing.assert_allclose(p, expected[name], rtol=1e-5)
    assert gradient.plain.shape == (3,)
    no_tracers(model, gradient)
    with pytest.raises(TypeError, match="int32"):
        jax.grad(lambda m: m(X).sum())(nn.BatchNorm1d(3).eval())


def test_raw_vmap_over_a_stack_of_modules():
    models = [nn.Linear(3, 2) for _ in range(4)]
    stacked = jax.tree.map(lambda *a: jnp.stack(a), *models)
    out = jax.vmap(lambda m, x: m(x), in_axes=(0, None))(stacked, X)
    np.testing.assert_allclose(out, jnp.stack([m(X) for m in models]), rtol=1e-5)


def test_raw_scan_over_stacked_layers():
    layers = [nn.Linear(3, 3) for _ in range(4)]
    stacked = jax.tree.map(lambda *a: jnp.stack(a), *layers)
    out, _ = jax.lax.scan(lambda x, layer: (layer(x), None), X, stacked)
    np.testing.assert_allclose(out, nn.Sequential(*layers)(X), rtol=1e-5)


def test_optax_on_the_module_pytree():
    model = nn.Linear(3, 1)
    transform = optax.adam(0.1)
    state = transform.init(model)

    @jax.jit
    def step(model, state):
        value, gradient = jax.value_and_grad(lambda m: (m(X) ** 2).sum())(model)
        updates, state = transform.update(gradient, state, model)
        return optax.apply_updates(model, updates), state, value

    @jax.jit
    def pure_step(params, state):
        value, gradient = jax.value_and_grad(lambda p: ((X @ p["weight"].T + p["bias"][None]) ** 2).sum())(params)
        updates, state = transform.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, value

    params = dict(jm.split(model)[0])
    pure_state = transform.init(params)
    with jax.numpy_dtype_promotion("standard"):  # optax's own arithmetic needs it
        for _ in range(5):
            model, state, value = step(model, state)
            params, pure_state, expected = pure_step(params, pure_state)
            np.testing.assert_allclose(value, expected, rtol=1e-4)
    assert isinstance(model, nn.Linear)
    np.testing.assert_allclose(model.weight, params["weight"], rtol=1e-4)
    assert step._cache_size() == 1

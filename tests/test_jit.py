"""`jm.jit`: state is written back, exceptions roll back, objects keep their identity, nothing is left traced."""

import functools
import gc
import threading
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmodule as jm
from jaxmodule import nn
from jaxmodule.core.context import Tracer
from jaxmodule.nn import functional as F


class Counter(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("count", jnp.zeros(()))
        self.last = None
        self.seen = []
        self.cache = {"k": jnp.zeros(3)}

    def forward(self, x):
        self.count += 1
        return x * self.count


def no_tracer_in(model):
    for module in model.modules():
        for box in (*module._parameters.values(), *module._buffers.values(), *module._slots.values()):
            if box is not None:
                assert not any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(box._value))


def test_state_is_written_back():
    model = Counter()
    call = jm.jit(lambda m, x: m(x))
    assert call(model, 2.0) == 2.0
    assert call(model, 2.0) == 4.0
    assert int(model.count) == 2


def test_what_is_only_read_is_no_output():
    model = nn.Linear(3, 3)
    lowered = jm.jit(lambda m, x: m(x)).lower(model, jnp.ones((2, 3)))
    assert len(jax.tree.leaves(lowered.out_info)) == 1
    step = jm.jit(lambda m, x: m(x))
    bn = nn.BatchNorm1d(3)
    assert len(jax.tree.leaves(step.lower(bn, jnp.ones((2, 3))).out_info)) == 4  # the output and three buffers
    assert int(bn.num_batches_tracked) == 0, "lower writes nothing"


def test_an_exception_rolls_everything_back():
    model = Counter()

    @jm.jit
    def call(model, x):
        model(x)
        model.extra = nn.Linear(2, 2)
        model.seen.append(x)
        model.note = "half done"
        model.cache["k"] = x
        raise ValueError("no")

    before = model.state_dict()
    with pytest.raises(ValueError, match="no"):
        call(model, jnp.ones(3))
    assert list(model.state_dict()) == list(before)
    assert int(model.count) == 0
    assert model.seen == []
    assert not hasattr(model, "note")
    assert not hasattr(model, "extra")
    assert jnp.array_equal(model.cache["k"], jnp.zeros(3))
    no_tracer_in(model)


def test_plain_arrays_written_inside_come_out():
    model = Counter()

    @jm.jit
    def call(model, x):
        model.last = x * 2
        model.cache["k"] = x + 1
        model.cache["v"] = x
        model.seen.append(x)
        return model(x)

    for i in range(3):
        call(model, jnp.full(3, float(i)))
        assert jnp.array_equal(model.last, jnp.full(3, 2.0 * i))
        assert jnp.array_equal(model.cache["k"], jnp.full(3, i + 1.0))
        assert jnp.array_equal(model.cache["v"], jnp.full(3, float(i)))
        assert len(model.seen) == i + 1
        no_tracer_in(model)
    assert int(model.count) == 3


def test_a_static_attribute_written_inside_is_written_on_every_call():
    class Calls(nn.Module):
        def __init__(self):
            super().__init__()
            self.calls = 0

        def forward(self, x):
            self.calls += 1
            return x + self.calls

    model = Calls()
    call = jm.jit(lambda m, x: m(x))
    for i in range(1, 4):
        assert call(model, 0.0) == i
        assert model.calls == i
    model.calls = 0
    assert call(model, 0.0) == 1
    assert model.calls == 1


def test_a_module_made_lazily_inside_stays():
    class Lazy(nn.Module):
        def forward(self, x):
            if not hasattr(self, "fc"):
                self.fc = nn.Linear(x.shape[-1], 2)
            return self.fc(x)

    model = Lazy()
    traces = []

    @jm.jit
    def call(m, x):
        traces.append(1)
        return m(x)

    out = call(model, jnp.ones((1, 3)))
    assert jnp.allclose(out, model(jnp.ones((1, 3))))
    no_tracer_in(model)
    assert jnp.allclose(call(model, jnp.ones((1, 3))), out)
    call(model, jnp.ones((1, 3)))
    assert len(traces) == 2


def test_a_structural_change_inside_that_is_undone_inside_is_cached():
    traces = []

    @jm.jit
    def call(model, x):
        traces.append(1)
        model.eval()
        out = model(x)
        model.train()
        return out

    model = nn.Dropout(0.5)
    for _ in range(3):
        assert jnp.array_equal(call(model, jnp.ones(4)), jnp.ones(4))
    assert len(traces) == 1
    assert model.training


def test_objects_keep_their_identity():
    seen = []

    @jm.jit
    def call(model, pair, x):
        seen.append((model, pair["a"], model.get_parameter("weight")))
        return model(x)

    model, other = nn.Linear(2, 2), nn.Linear(2, 2)
    call(model, {"a": other}, jnp.ones((1, 2)))
    assert seen[0][0] is model
    assert seen[0][1] is other
    assert seen[0][2] is model.weight


def test_an_object_that_is_returned_is_the_object():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    out = jm.jit(lambda m: (m, m[1], m[0].weight, {"y": m[0].bias * 2}))(model)
    assert out[0] is model
    assert out[1] is model[1]
    assert out[2] is model[0].weight
    assert jnp.array_equal(out[3]["y"], model[0].bias * 2)
    twin = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    again = jm.jit(lambda m: m[1])
    assert again(model) is model[1]
    assert again(twin) is twin[1]


def test_a_module_born_inside_is_returned_whole():
    make = jm.jit(lambda: nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)))
    jm.manual_seed(1)
    model = make()
    jm.manual_seed(1)
    same = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    for name, value in same.state_dict().items():
        assert jnp.array_equal(model.state_dict()[name], value), name
    assert make() is not model
    model(jnp.ones((2, 3)))  # it lives outside of the trace
    assert int(model[1].num_batches_tracked) == 1


def test_a_module_that_escapes_its_trace_says_so():
    kept = []
    jm.jit(lambda: kept.append(nn.Linear(2, 2)))()
    with pytest.raises(jm.EscapedError, match="the trace has ended"):
        kept[0](jnp.ones((1, 2)))


def test_closing_over_a_module_is_an_error_that_names_it():
    model = nn.Sequential(nn.Linear(2, 2))
    with pytest.raises(jm.ClosedOverError, match=r"'0.weight' of Sequential.*\n.*baked into(.|\n)*as an argument"):
        jm.jit(lambda x: model(x))(jnp.ones((1, 2)))
    bn = nn.BatchNorm1d(2, affine=False)
    with pytest.raises(jm.ClosedOverError, match="num_batches_tracked"):
        jm.jit(lambda x: bn(x))(jnp.ones((3, 2)))
    g = jm.Generator(0)
    with pytest.raises(jm.ClosedOverError, match="as an argument"):
        jm.jit(lambda: g.next_key())()


def test_closing_over_a_module_in_grad_is_fine():
    model = nn.BatchNorm1d(2)
    x = jnp.array([[1.0, 2.0], [3.0, 5.0]])
    jm.grad(lambda x: (model(x) ** 2).sum())(x)
    assert int(model.num_batches_tracked) == 1


def test_modules_and_methods_and_partials_count_as_arguments():
    class Coder(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(2, 2)

        def forward(self, x):
            return self.fc(x)

        def encode(self, x, scale=1.0):
            return self.fc(x) * scale

        @jm.jit
        def compiled(self, x):
            return self.encode(x)

    model = Coder()
    x = jnp.ones((1, 2))
    for function in (
        jm.jit(model),
        jm.jit(model.encode),
        jm.jit(functools.partial(lambda m, x: m(x), model)),
        jm.jit(functools.partial(model.encode, scale=1.0)),
        model.compiled,
    ):
        assert jnp.allclose(function(x), model(x))
        model.fc.weight.value = model.fc.weight + 1  # not baked in
        assert jnp.allclose(function(x), model(x))


def test_static_arguments():
    traces = []

    @functools.partial(jm.jit, static_argnames=("times", "kind"))
    def call(model, x, times, *, kind="sum"):
        traces.append((times, kind))
        y = model(x)
        return y * times if kind == "sum" else y

    model = nn.Linear(2, 2)
    x = jnp.ones((1, 2))
    assert jnp.allclose(call(model, x, 3), model(x) * 3)
    assert jnp.allclose(call(model, x, times=3), model(x) * 3)
    assert jnp.allclose(call(model, x, 2, kind="none"), model(x))
    call(model, x, 3)
    assert traces == [(3, "sum"), (3, "sum"), (2, "none")]
    with pytest.raises(ValueError, match="hashable"):
        call(model, x, [1])
    with pytest.raises(ValueError, match="no argument named 'nope'"):
        jm.jit(lambda x: x, static_argnames="nope")
    assert jm.jit(lambda m, n: n, static_argnums=1)(model, 4) == 4
    assert jm.jit(lambda m, n: n, static_argnums=-1)(model, 4) == 4


def test_an_argument_that_is_no_array_is_named():
    with pytest.raises(TypeError, match=r"argument \[1\]\['mode'\] is a str.*\n?.*static"):
        jm.jit(lambda m, o: m)(nn.Identity(), {"mode": "x"})
    with pytest.raises(TypeError, match="needs a callable"):
        jm.jit(3)


def test_shared_objects_are_shared_inside():
    model = nn.Linear(2, 2, bias=False)

    @jm.jit
    def call(a, b):
        a.weight.value = a.weight * 2
        return b.weight.value

    before = model.weight.value
    assert jnp.array_equal(call(model, model), before * 2)
    other = nn.Linear(2, 2, bias=False)
    assert jnp.array_equal(call(model, other), other.weight.value), "another sharing is another program"


def test_jit_in_jit_and_in_grad():
    model = nn.BatchNorm1d(2)
    inner = jm.jit(lambda m, x: m(x))
    outer = jm.jit(lambda m, x: inner(m, x) + inner(m, x))
    x = jnp.array([[1.0, 2.0], [3.0, 5.0]])
    outer(model, x)
    assert int(model.num_batches_tracked) == 2
    grads = jm.grad(lambda m, x: (inner(m, x) ** 2).sum())(model, x)
    assert int(model.num_batches_tracked) == 3
    assert jnp.allclose(grads["bias"], 0, atol=1e-5)
    no_tracer_in(model)


def test_other_shapes_and_dtypes_are_other_traces_of_one_program():
    model = Counter()
    call = jm.jit(lambda m, x: m(x))
    for n in (2, 3, 2, 3):
        call(model, jnp.ones(n))
    assert int(model.count) == 4
    assert call(model, jnp.ones(2, jnp.bfloat16).astype(jnp.float32))[0] == 5


def test_donation_leaves_every_box_alive():
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    model[0].bias.requires_grad = False
    twin = nn.Parameter(model[0].weight.value)  # a second box round the same array
    model.twin = twin
    model.plain = jnp.ones(3)
    model.cache = {"k": jnp.ones(2)}
    optimizer = jm.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    @functools.partial(jm.jit, donate=True)
    def step(model, optimizer, x):
        grads = jm.grad(lambda m: (m(x) ** 2).sum())(model)
        optimizer.step(grads)

    first = model[0].weight.value
    for _ in range(3):
        step(model, optimizer, jnp.arange(8.0).reshape(2, 4))
    assert first.is_deleted()
    for name, value in model.state_dict().items():
        assert np.isfinite(np.asarray(value)).all(), name
    assert model.plain.sum() + model.cache["k"].sum() == 5
    jm.next_key()


def test_a_donated_step_needs_no_second_set_of_parameters():
    model = nn.Linear(64, 64, bias=False)

    def step(m):
        m.weight.value = m.weight * 0.5

    kept = jm.jit(step).lower(model).compile().memory_analysis()
    donated = jm.jit(step, donate=True).lower(model).compile().memory_analysis()
    assert kept.alias_size_in_bytes == 0
    assert donated.alias_size_in_bytes >= 64 * 64 * 4


def test_gradients_returned_name_the_parameters_of_their_own_model():
    call = jm.jit(lambda m, x: jm.grad(lambda m: m(x).sum())(m))
    a, b = nn.Linear(2, 2), nn.Linear(2, 2)
    x = jnp.ones((1, 2))
    for model in (a, b, a):
        grads = call(model, x)
        assert {name: name.box for name in grads} == {"weight": model.weight, "bias": model.bias}


def test_one_program_does_its_effects_to_each_model():
    @jm.jit
    def call(model, x):
        model.zero_grad()
        model.seen.clear()
        model.cache["k"] = x
        return model(x)

    a, b = Counter(), Counter()
    for model in (a, b):
        model.scale = nn.Parameter(jnp.ones(2))
        model.scale.grad = jnp.ones(2)
        model.seen.append("note")
    for model, value in ((a, 1.0), (b, 2.0)):
        call(model, jnp.full(3, value))
        assert model.scale.grad is None
        assert model.seen == []
        assert model.cache["k"][0] == value
    assert int(a.count) == int(b.count) == 1
    assert a.cache["k"][0] == 1


def test_disable_jit_runs_the_same():
    model = Counter()
    call = jm.jit(lambda m, x: m(x))
    with jax.disable_jit():
        assert call(model, 1.0) == 1
        assert call(model, 1.0) == 2
    assert int(model.count) == 2


def test_clear_cache_and_names():
    def forward_pass(m, x):
        return m(x)

    call = jm.jit(forward_pass)
    model = nn.Linear(2, 2)
    call(model, jnp.ones((1, 2)))
    call.clear_cache()
    call(model, jnp.ones((1, 2)))
    assert call.__name__ == "forward_pass"
    assert "forward_pass" in repr(call)
    assert "forward_pass" in call.lower(model, jnp.ones((1, 2))).as_text()


def test_a_compiled_function_does_not_keep_a_dead_model():
    call = jm.jit(lambda m, x: m(x))

    def make():
        model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Dropout(0.5))
        model[0].register_forward_hook(lambda m, a, o: model and None)  # a hook that holds the model
        return model

    model = make()
    call(model, jnp.ones((2, 2)))
    call(model, jnp.ones((2, 2)))
    reference = weakref.ref(model)
    array = weakref.ref(model[0].weight)
    del model
    gc.collect()
    assert reference() is None
    assert array() is None


def test_threads_trace_and_call_one_model():
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
    call = jm.jit(lambda m, x: m(x))
    expected = [model(jnp.full((i + 1, 4), float(i))) for i in range(4)]
    results = {}

    def work(i):
        for _ in range(5):
            results[i] = call(model, jnp.full((i + 1, 4), float(i)))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(4):
        assert jnp.allclose(results[i], expected[i], atol=1e-6)


def test_a_raw_transform_inside_a_compiled_function_may_read_and_not_write():
    model = nn.Linear(2, 1)
    x = jnp.ones((3, 2))
    out = jm.jit(lambda m, x: jax.vmap(lambda row: m(row))(x))(model, x)
    assert jnp.allclose(out, model(x))
    bn = nn.BatchNorm1d(2)
    with pytest.raises(jm.ForeignTraceError, match="running_mean.*raw JAX transform"):
        jm.jit(lambda m, x: jax.grad(lambda x: m(x).sum())(x))(bn, x)
    assert int(bn.num_batches_tracked) == 0


def test_a_module_as_argument_of_raw_jit_is_a_clone_whose_writes_come_back_by_returning_it():
    model = nn.BatchNorm1d(2)
    x = jnp.array([[1.0, 2.0], [3.0, 5.0]])

    @jax.jit
    def call(m, x):
        return m(x), m

    out, new = call(model, x)
    assert int(model.num_batches_tracked) == 0
    assert int(new.num_batches_tracked) == 1
    assert jnp.allclose(out, model(x))
    _, newer = call(new, x)
    assert int(newer.num_batches_tracked) == 2
    assert newer.training
    newer.eval()
    assert new.training


def test_eval_shape_computes_nothing_and_writes_nothing():
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2), nn.Dropout(0.5))
    state = jm.get_rng_state()
    out = jm.eval_shape(lambda m, x: {"y": m(x), "m": m}, model, jax.ShapeDtypeStruct((4, 3), jnp.float32))
    assert out["y"].shape == (4, 2)
    assert out["m"] is model
    assert int(model[1].num_batches_tracked) == 0
    assert jnp.array_equal(jm.get_rng_state(), state)
    shapes = jm.eval_shape(nn.Linear, 3, 2)
    assert isinstance(shapes.weight.value, jax.ShapeDtypeStruct)
    assert [tuple(p.shape) for p in shapes.parameters()] == [(2, 3), (2,)]


def test_dropout_and_losses_in_one_step():
    model = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5), nn.Linear(8, 2))
    x, y = jnp.ones((4, 3)), jnp.array([0, 1, 0, 1])

    def step(m):
        return jm.value_and_grad(lambda m: F.cross_entropy(m(x), y))(m)

    jm.manual_seed(5)
    eager, eager_grads = step(model)
    jm.manual_seed(5)
    compiled, compiled_grads = jm.jit(step)(model)
    assert jnp.allclose(eager, compiled, rtol=1e-6)
    for name, g in eager_grads.items():
        assert jnp.allclose(g, compiled_grads[name], atol=1e-6), name


def test_a_cached_property_is_state_and_holds_no_tracer():
    class Masked(nn.Module):
        sub = None

        def __init__(self):
            super().__init__()
            self.sub = nn.Identity()

        @functools.cached_property
        def mask(self):
            return jnp.tril(jnp.ones((2, 2)))

        def forward(self, x):
            return self.sub(x) * self.mask

    assert isinstance(Masked().sub, nn.Identity), "a class attribute must not hide the module"
    for transform in (jm.jit, jax.jit):
        model = Masked()
        call = transform(lambda m, x: m(x))
        for _ in range(2):
            assert call(model, jnp.ones((2, 2))).sum() == 3
        no_tracer_in(model)
        assert model.mask.sum() == 3
        assert model.mask is model.mask
    model = Masked()
    assert jax.vmap(lambda x: model(x))(jnp.ones((3, 2, 2))).sum() == 9
    no_tracer_in(model)
    assert model.mask.sum() == 3


def test_a_nested_call_sees_the_gradients_and_containers_of_the_trace_around_it():
    inner = jm.jit(lambda model, optimizer: optimizer.step())
    length = jm.jit(lambda model, x: x * len(model.seen))

    @jm.jit
    def outer(model, optimizer, x):
        jm.backward(lambda m: m(x).sum())(model)
        inner(model, optimizer)
        model.zero_grad()

    model = nn.Linear(2, 1)
    optimizer = jm.optim.SGD(model.parameters(), lr=1.0)
    inner(model, optimizer)  # a plan for the model as it is outside: without gradients
    before = model.bias.value
    outer(model, optimizer, jnp.ones((1, 2)))
    assert jnp.allclose(model.bias, before - 1)
    assert model.weight.grad is None
    inner(model, optimizer)
    assert jnp.allclose(model.bias, before - 1), "the layout of the trace must not be used outside of it"

    counter = Counter()
    assert length(counter, 1.0) == 0

    @jm.jit
    def grow(model, x):
        model.seen.append(x)
        return length(model, x)

    assert grow(counter, 1.0) == 1
    assert length(counter, 1.0) == 1

"""`jm.jit`'s shardings, donation of single arguments, and ahead-of-time compilation."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxmodule as jm
from jaxmodule import nn


@pytest.fixture(params=[AxisType.Auto, AxisType.Explicit], ids=["auto", "explicit"])
def mesh(request):
    return jax.make_mesh((4,), ("x",), axis_types=(request.param,))


def deleted(module):
    return [name for name, box in module.named_parameters() if box._value.is_deleted()]


# -- shardings --------------------------------------------------------------------------------------------------------
def test_one_sharding_for_all_arguments(mesh):
    everywhere = NamedSharding(mesh, P())
    model = nn.Linear(4, 8)
    out = jm.jit(lambda m, x: m(x), in_shardings=everywhere)(model, jnp.ones((4, 4)))
    assert len(out.sharding.device_set) == 4
    assert len(model.weight.value.sharding.device_set) == 1, "only read: the object's array stays where it is"


def test_a_tuple_of_shardings_and_patterns_for_an_object(mesh):
    rows, everywhere = NamedSharding(mesh, P("x")), NamedSharding(mesh, P())

    def step(model, x):
        model.weight.value = model.weight + 1.0
        model.bias.value = model.bias + 1.0
        return model(x)

    model, plain = nn.Linear(4, 8), nn.Linear(4, 8)
    plain.load_state_dict(model.state_dict())
    compiled = jm.jit(step, in_shardings=({"weig*": rows, "b*": everywhere}, everywhere))
    out = compiled(model, jnp.ones((2, 4)))
    assert jnp.allclose(out, step(plain, jnp.ones((2, 4))))
    assert model.weight.value.sharding.is_equivalent_to(rows, 2), "what is written stays sharded"
    assert model.bias.value.sharding.is_equivalent_to(everywhere, 1)
    assert jnp.allclose(compiled(model, jnp.ones((2, 4))), step(plain, jnp.ones((2, 4))))


def test_none_leaves_an_array_where_it_is(mesh):
    rows = NamedSharding(mesh, P("x"))
    model, x = nn.Linear(4, 8), jax.device_put(jnp.ones((4, 4)), rows)
    assert jm.jit(lambda m, x: x * 2, in_shardings=(None, None))(model, x).sharding.is_equivalent_to(rows, 2)
    out = jm.jit(lambda m, batch: batch["x"] * 2, in_shardings=(None, {"x": rows}))(model, {"x": jnp.ones((4, 4))})
    assert out.sharding.is_equivalent_to(rows, 2)


def test_static_arguments_have_no_entry(mesh):
    rows = NamedSharding(mesh, P("x"))
    call = jm.jit(lambda n, x: x * n, static_argnums=0, in_shardings=(rows,))
    assert call(2, jnp.ones(4)).sharding.is_equivalent_to(rows, 1)


def test_a_module_is_made_sharded(mesh):
    rows = NamedSharding(mesh, P("x"))
    jm.manual_seed(0)
    model = jm.jit(lambda: nn.Linear(4, 8), out_shardings={"weight": rows})()
    assert model.weight.value.sharding.is_equivalent_to(rows, 2)
    jm.manual_seed(0)
    assert jnp.array_equal(model.weight.value, nn.Linear(4, 8).weight.value)


def test_out_shardings_are_a_prefix_of_the_output(mesh):
    rows, everywhere = NamedSharding(mesh, P("x")), NamedSharding(mesh, P())
    model = nn.Linear(4, 8)
    a, (b, c) = jm.jit(lambda m, x: (x, (x + 1, m)), out_shardings=(rows, everywhere))(model, jnp.ones(4))
    assert a.sharding.is_equivalent_to(rows, 1)
    assert b.sharding.is_equivalent_to(everywhere, 1)
    assert c is model
    assert model.weight.value.sharding.is_equivalent_to(everywhere, 2), "an object that is returned is sharded too"


@pytest.mark.parametrize(
    ("options", "args", "match"),
    [
        ({"in_shardings": (None,)}, "mx", r"in_shardings must have the structure.*tuple of 1 against tuple of 2"),
        ({"in_shardings": ({"wieght": None}, None)}, "mx", "pattern 'wieght'.*there are: weight, bias"),
        ({"in_shardings": (None, {"a": None})}, "mx", r"in_shardings\[1\] is dict, and there is an array"),
        ({"out_shardings": (None, None)}, "mx", r"out_shardings is tuple, and there is an array"),
        ({"donate_argnums": 0, "static_argnums": 0}, "sx", "argument 0 is static"),
        ({"donate_argnames": "missing"}, "mx", "no argument named 'missing'"),
    ],
)
def test_what_does_not_fit_is_refused(options, args, match):
    values = {"m": nn.Linear(4, 8), "x": jnp.ones((2, 4)), "s": 3}
    with pytest.raises(ValueError, match=match):
        jm.jit(lambda m, x: m(x) if isinstance(m, nn.Module) else x * m, **options)(*[values[a] for a in args])


def test_in_shardings_speak_of_positional_arguments():
    with pytest.raises(ValueError, match=r"in_shardings.*\['x'\] came by name"):
        jm.jit(lambda m, x: m(x), in_shardings=(None, None))(nn.Linear(2, 2), x=jnp.ones((1, 2)))


# -- donation ---------------------------------------------------------------------------------------------------------
def scale(model, other, x):
    model.weight.value = model.weight * 2.0
    return other(model(x))


@pytest.mark.parametrize("options", [{"donate_argnums": 0}, {"donate_argnames": "model"}, {"donate_argnums": (0, 2)}])
def test_single_arguments_are_donated(options):
    model, other, x = nn.Linear(3, 3), nn.Linear(3, 3), jnp.ones((2, 3))
    held = [model.weight.value, model.bias.value, other.weight.value, x]
    expected = other(model(x))
    step = jm.jit(scale, **options)
    out = step(model, other, x)
    assert out.shape == expected.shape
    assert [a.is_deleted() for a in held] == [True, True, False, options.get("donate_argnums") == (0, 2)]
    assert not deleted(model), "what is donated and not written comes back"
    assert step(model, other, jnp.ones((2, 3))).shape == (2, 3)


def test_donation_by_name_and_of_a_parameter():
    model = nn.Linear(3, 3)
    weight, bias = model.weight.value, model.bias.value
    jm.jit(lambda w, m: w + m.bias[None], donate_argnames="w")(m=model, w=model.weight)
    assert weight.is_deleted()
    assert not bias.is_deleted()
    assert not deleted(model)


def test_an_array_that_is_donated_and_kept_is_copied():
    model, other = nn.Linear(3, 3), nn.Linear(3, 3)
    other.load_state_dict(model.state_dict())
    jm.jit(scale, donate_argnums=0)(model, other, jnp.ones((2, 3)))
    assert not deleted(model)
    assert not deleted(other)


def test_donating_everything_and_an_array():
    model, x = nn.Linear(3, 3), jnp.ones((2, 3))
    held = model.weight.value
    jm.jit(lambda m, x: x * 2, donate=True, donate_argnums=1)(model, x)
    assert held.is_deleted()
    assert x.is_deleted()


# -- ahead of time ----------------------------------------------------------------------------------------------------
def test_a_compiled_call_writes_state_back_and_never_traces():
    traces = []

    def step(model, x, *, scale):
        traces.append(1)
        return model(x) * scale

    model, twin = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    x = jax.random.normal(jax.random.key(0), (4, 3))
    compiled = jm.jit(step, static_argnames="scale").lower(model, x, scale=2).compile()
    assert int(model.num_batches_tracked) == 0
    for _ in range(2):
        assert jnp.allclose(compiled(model, x, scale=2), twin(x) * 2, atol=1e-6)
    assert int(model.num_batches_tracked) == 2
    assert jnp.allclose(model.running_mean.value, twin.running_mean.value)
    other = nn.BatchNorm1d(3)  # another object of the same structure
    compiled(other, x, scale=2)
    assert int(other.num_batches_tracked) == 1
    assert len(traces) == 1


def test_it_draws_from_the_default_generator():
    model, x = nn.Dropout(0.5), jnp.ones(100)
    compiled = jm.jit(lambda m, x: m(x)).lower(model, x).compile()
    jm.manual_seed(3)
    a, b = compiled(model, x), compiled(model, x)
    jm.manual_seed(3)
    assert jnp.array_equal(a, model(x))
    assert jnp.array_equal(b, model(x))


@pytest.mark.parametrize(
    ("change", "x", "match"),
    [
        (lambda m: m, (5, 3), r"x: float32\[4, 3\] -> float32\[5, 3\]"),
        (lambda m: m.eval(), (4, 3), "model: train mode -> eval mode"),
        (lambda m: setattr(m[1], "p", 0.25), (4, 3), r"model.1.p: 0.5 -> 0.25"),
        (lambda m: m.to(jnp.bfloat16), (4, 3), r"model.0.weight: float32\[3, 3\] -> bfloat16\[3, 3\]"),
        (lambda m: m[0].requires_grad_(False), (4, 3), "model.0.weight: requires_grad=True -> requires_grad=False"),
    ],
)
def test_a_compiled_call_with_other_arguments_says_what_differs(change, x, match):
    model = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5))
    compiled = jm.jit(lambda model, x: model(x)).lower(model, jnp.ones((4, 3))).compile()
    change(model)
    with pytest.raises(TypeError, match=match):
        compiled(model, jnp.ones(x))


def test_lowering_from_shapes_alone():
    model = jm.eval_shape(nn.Linear, 3, 2)
    compiled = jm.jit(lambda m, x: m(x)).lower(model, jax.ShapeDtypeStruct((4, 3), jnp.float32)).compile()
    real = nn.Linear(3, 2)
    assert jnp.allclose(compiled(real, jnp.ones((4, 3))), real(jnp.ones((4, 3))))


def test_lowering_changes_no_structure():
    class Lazy(nn.Module):
        def forward(self, x):
            if not hasattr(self, "fc"):
                self.fc = nn.Linear(x.shape[-1], 2)
            return self.fc(x)

    model = Lazy()
    step = jm.jit(lambda m, x: m(x))
    compiled = step.lower(model, jnp.ones((1, 3))).compile()
    assert not hasattr(model, "fc")
    with pytest.raises(TypeError, match="changes the structure of its arguments"):
        compiled(model, jnp.ones((1, 3)))
    out = step(model, jnp.ones((1, 3)))
    assert jnp.allclose(out, model.fc(jnp.ones((1, 3))))


def test_donation_and_shardings_ahead_of_time(mesh):
    rows, everywhere = NamedSharding(mesh, P("x")), NamedSharding(mesh, P())
    model, other = nn.Linear(4, 4), nn.Linear(4, 4)
    lowered = jm.jit(scale, donate_argnums=0, in_shardings=(everywhere, everywhere, rows)).lower(
        model, other, jnp.ones((4, 4))
    )
    compiled = lowered.compile()
    if mesh.axis_types == (AxisType.Auto,):
        model, other = (jax.device_put(m, everywhere) for m in (model, other))
        x = jax.device_put(jnp.ones((4, 4)), rows)
        held = model.weight.value
        assert compiled(model, other, x).shape == (4, 4)
        assert held.is_deleted()
        assert not deleted(model)


def test_what_lowered_and_compiled_tell():
    model = nn.Linear(3, 2)
    lowered = jm.jit(lambda m, x: m(x)).lower(model, jnp.ones((4, 3)))
    assert "stablehlo" in lowered.as_text()
    assert len(jax.tree.leaves(lowered.out_info)) == 1
    assert len(jax.tree.leaves(lowered.args_info)) == 4  # two parameters, the generator, x
    assert lowered.compiler_ir() is not None
    assert lowered.cost_analysis() is not None
    compiled = lowered.compile()
    assert "fusion" in compiled.as_text() or "dot" in compiled.as_text()
    assert compiled.memory_analysis().argument_size_in_bytes > 0
    assert compiled.cost_analysis() is not None
    assert compiled.in_tree == lowered.in_tree
    assert "lambda" in repr(compiled)
    assert "lambda" in repr(lowered)

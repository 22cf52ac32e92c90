"""`jm.device`: modules made nowhere ("meta") or on a device of one's choice, and what an abstract model can do."""

import copy
import pickle
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmodule as jm
from jaxmodule import nn
from jaxmodule.core.errors import AbstractError
from jaxmodule.nn.utils import parametrizations, parametrize
from tests.zoo import STATEFUL, Row, every

Struct = jax.ShapeDtypeStruct


def is_struct(x) -> bool:
    return isinstance(x, Struct)


class Rotary(nn.Module):
    """A model with what no file has: a table as a non-persistent buffer, and a mask as a plain array."""

    def __init__(self, width: int = 8, length: int = 6) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, width, padding_idx=0)
        self.norm = nn.BatchNorm1d(width)
        self.head = nn.Linear(width, 11)
        self.gain = nn.Parameter(jax.random.normal(jax.random.key(0), (width,)) * 2)
        angles = jnp.arange(length, dtype=jnp.float32)[:, None] * 10.0 ** -jnp.arange(width, dtype=jnp.float32)[None]
        self.register_buffer("cos", jnp.cos(angles), persistent=False)
        self.register_buffer("steps", jnp.zeros((), jnp.int32))
        self.mask = jnp.tril(jnp.ones((length, length), bool))
        for name, parameter in self.named_parameters():
            if name.endswith("weight"):
                nn.init.normal_(parameter, std=0.02)

    def forward(self, ids):
        x = self.embed(ids) * self.cos[None, : ids.shape[1]] * self.gain[None, None]
        x = jnp.einsum("ts,nsd->ntd", self.mask.astype(x.dtype), x)
        return self.head(self.norm(x.swapaxes(1, 2)).swapaxes(1, 2))


IDS = jnp.array([[1, 2, 3, 4, 5, 6], [3, 2, 1, 0, 9, 10]], jnp.int32)


def meta(*args, **kwargs) -> Rotary:
    with jm.device("meta"):
        return Rotary(*args, **kwargs)


# -- making ----------------------------------------------------------------------------------------------------------


@every(STATEFUL)
def test_every_layer(row: Row):
    """Same names, shapes, dtypes and flags; nothing drawn; and after loading the same state."""
    real = row.make()
    jm.manual_seed(7)
    before = jm.get_rng_state()
    with jm.device("meta"):
        abstract = getattr(nn, row.layer)(*row.args, **row.kwargs)
    np.testing.assert_array_equal(jm.get_rng_state(), before)
    assert repr(abstract) == repr(real)
    for kind in ("named_parameters", "named_buffers"):
        ours, theirs = dict(getattr(abstract, kind)()), dict(getattr(real, kind)())
        assert list(ours) == list(theirs)
        for name, box in ours.items():
            assert is_struct(box.value), name
            assert (box.shape, box.dtype, box.requires_grad) == (
                theirs[name].shape,
                theirs[name].dtype,
                theirs[name].requires_grad,
            )
    abstract.load_state_dict(real.state_dict())
    for name, value in abstract.state_dict().items():
        np.testing.assert_array_equal(value, real.state_dict()[name])


def test_the_memory_is_not_there():
    with jm.device("meta"):
        layer = nn.Linear(1 << 20, 1 << 20)  # 4 TiB
    assert layer.weight.nbytes == 1 << 42
    assert layer.weight.size == 1 << 40
    assert layer.weight.is_meta
    assert layer.weight.device == jm.device("meta")


def test_what_a_file_has_is_abstract_and_what_it_has_not_is_real():
    model = meta()
    assert all(is_struct(value) for value in model.state_dict().values())
    assert is_struct(model.gain.value)
    assert not model.cos.is_meta
    assert isinstance(model.mask, jax.Array)
    real = Rotary()
    model.load_state_dict(real.state_dict())
    np.testing.assert_array_equal(model.eval()(IDS), real.eval()(IDS))
    assert not any(box.is_meta for box in [*model.parameters(), *model.buffers()])


def test_from_a_file(tmp_path):
    real, path = Rotary(), tmp_path / "a.safetensors"
    jm.save(real.state_dict(), path)
    model = meta()
    model.load_state_dict(jm.load(path))
    np.testing.assert_array_equal(model.eval()(IDS), real.eval()(IDS))


def test_to_empty_and_reset_parameters_is_the_usual_initialisation():
    model = meta()
    table = model.cos.value
    assert model.to_empty() is model
    np.testing.assert_array_equal(model.cos, table)
    assert not any(box.is_meta for box in [*model.parameters(), *model.buffers()])
    jm.manual_seed(3)
    for module in model.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    jm.manual_seed(3)
    expected = [nn.Embedding(11, 8, padding_idx=0), nn.BatchNorm1d(8), nn.Linear(8, 11)]
    for mine, other in zip((model.embed, model.norm, model.head), expected, strict=True):
        for name, value in mine.state_dict().items():
            np.testing.assert_array_equal(value, other.state_dict()[name])


def test_to_empty_names_what_is_lost():
    model = jm.eval_shape(Rotary)
    with pytest.warns(UserWarning, match=r"to_empty: cos of Rotary are zeros now\. .*jm\.device\('meta'\)"):
        model.to_empty()


def test_an_argument_of_a_layer_goes_before():
    cpu = jax.devices("cpu")
    assert is_struct(nn.Linear(3, 2, device="meta").weight.value)
    assert nn.BatchNorm2d(3, device=jm.device("meta")).running_var.is_meta
    with jm.device("meta"):
        layer, norm = nn.Linear(3, 2, device="cpu:1"), nn.BatchNorm1d(3, device=cpu[2])
        table = nn.Embedding.from_pretrained(jnp.ones((3, 2)))
    assert layer.weight.devices() == layer.bias.devices() == {cpu[1]}
    assert norm.running_mean.devices() == norm.num_batches_tracked.devices() == {cpu[2]}
    assert table.weight.is_meta
    with jm.device("cpu:1"):
        assert nn.Linear(3, 2, device="meta").weight.is_meta


def test_skip_init():
    class Layer(Rotary):
        def __init__(self, width, device=None):
            super().__init__(width)

    before = jm.get_rng_state()
    layer = nn.utils.skip_init(Layer, 4)
    np.testing.assert_array_equal(jm.get_rng_state(), before)
    np.testing.assert_array_equal(layer.cos, Rotary(4).cos)
    assert not layer.head.weight.is_meta


def test_arrays_that_the_user_makes_and_writes():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(2, 2)
            self.a.weight.value = jax.random.normal(jax.random.key(0), (2, 2))
            self.a.bias.fill_(3).mul_(2).add_(1)
            self.a.bias += 1
            self.a.bias.copy_(jnp.ones(2))
            self.b = nn.Parameter(np.ones(3, np.float32), requires_grad=False)
            self.c = nn.Buffer(jnp.ones(2))
            self.d = nn.Buffer(jnp.ones(2), persistent=False)
            self.register_buffer("e", None, persistent=False)
            self.e = jnp.ones(4)

    with jm.device("meta"):
        net = Net()
    assert {name: box.is_meta for name, box in [*net.named_parameters(), *net.named_buffers()]} == {
        **{"b": True, "a.weight": True, "a.bias": True},
        **{"c": True, "d": False, "e": False},
    }
    assert not net.b.requires_grad
    net.b.copy_(2.0)  # outside of the block real values are taken
    assert net.b.tolist() == [2, 2, 2]


def test_initialisation_of_what_is_abstract():
    weight = nn.Linear(4, 4, device="meta").weight
    before = jm.get_rng_state()
    for name in (*("uniform_", "normal_", "trunc_normal_", "ones_", "zeros_", "eye_", "orthogonal_"),):
        assert getattr(nn.init, name)(weight) is weight
    for name in ("xavier_uniform_", "xavier_normal_", "kaiming_uniform_", "kaiming_normal_"):
        assert getattr(nn.init, name)(weight) is weight
    assert nn.init.sparse_(weight, 0.5) is nn.init.constant_(weight, 3.0) is weight
    kernel = nn.Conv1d(2, 2, 3, device="meta").weight
    assert nn.init.dirac_(kernel) is kernel
    np.testing.assert_array_equal(jm.get_rng_state(), before)
    assert weight.is_meta
    with pytest.raises(ValueError, match="Fan in and fan out"):
        nn.init.xavier_uniform_(nn.Linear(2, 2, device="meta").bias)


def test_lazy_layers():
    with jm.device("meta"):
        layer = nn.LazyLinear(3)
    assert layer(jnp.ones((2, 4))).shape == (2, 3)
    with jm.device("cpu:1"):
        layer = nn.LazyBatchNorm1d()
    layer(jnp.ones((2, 4)))
    assert layer.weight.devices() == layer.num_batches_tracked.devices() == {jax.devices()[1]}


def test_a_lazy_layer_can_be_traced_twice():
    layer = nn.LazyLinear(3)
    for _ in range(2):
        assert jm.eval_shape(layer, Struct((2, 5), jnp.float32)).shape == (2, 3)


# -- what an abstract model can do -----------------------------------------------------------------------------------


def test_conversions():
    sharding = jax.NamedSharding(jax.make_mesh((4,), ("x",)), jax.P())
    model = meta().half()
    assert model.head.weight.dtype == model.cos.dtype == jnp.float16
    assert model.steps.dtype == jnp.int32
    assert model.bfloat16().embed.weight.value == Struct((11, 8), jnp.bfloat16)
    model.float().to(sharding)
    assert model.head.weight.value.sharding == model.cos.sharding == sharding
    assert model.to(dtype=jnp.bfloat16).head.weight.value.sharding == sharding
    model.to_empty()
    assert model.head.weight.sharding == model.steps.sharding == sharding
    model.to("meta")
    assert model.head.weight.value.sharding is None
    assert not model.cos.is_meta
    assert model.to_empty(device="cpu:2").steps.devices() == {jax.devices()[2]}
    assert model.to_empty(device="meta").head.weight.is_meta
    layer = nn.Linear(2, 3, device="meta")
    layer._apply(lambda x: jnp.stack([x, x]))
    assert layer.bias.shape == (2, 3)


def test_conversion_inside_the_block():
    with jm.device("meta"):
        assert nn.Linear(2, 2).to_empty(device="cpu").weight.value.shape == (2, 2)
        layer = nn.Linear(2, 2)
        layer.load_state_dict({"weight": np.ones((2, 2), np.float32), "bias": np.ones(2, np.float32)})
    assert layer(jnp.ones(2)).tolist() == [3, 3]


def test_a_model_that_was_real_can_give_up_its_memory():
    model = Rotary()
    jm.backward(lambda model: model(IDS).sum())(model)
    model.to("meta")
    assert model.head.weight.is_meta
    assert model.head.weight.grad is None


@pytest.mark.parametrize("copied", [copy.deepcopy, copy.copy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies(copied):
    model = copied(meta().to(jax.devices()[1]))
    assert model.head.weight.is_meta
    assert not model.cos.is_meta
    assert [name for name, _ in model.named_parameters()] == [name for name, _ in Rotary().named_parameters()]


def test_shapes_without_values():
    model = meta()
    before = repr(model)
    assert jm.eval_shape(model, IDS) == Struct((2, 6, 11), jnp.float32)
    assert jax.eval_shape(lambda model, x: model(x)[0], model, IDS) == Struct((6, 11), jnp.float32)
    assert repr(model) == before
    assert model.steps.is_meta
    compiled = jm.jit(lambda model, x: model(x)).lower(model, IDS).compile()
    real = Rotary()
    np.testing.assert_allclose(compiled(real, IDS), Rotary.forward(real, IDS), rtol=1e-5, atol=1e-6)


def test_functional_call_with_values():
    real, model = Rotary(), meta()
    state = {**jm.split(real)[0], **jm.split(real)[1]}
    out, _ = jm.functional_call(model, state, IDS, mutable=True)
    np.testing.assert_array_equal(out, real(IDS))
    assert model.head.weight.is_meta


@pytest.mark.parametrize("kind", [parametrizations.weight_norm, parametrizations.spectral_norm])
def test_parametrizations(kind):
    with jm.device("meta"):
        layer = kind(nn.Linear(3, 4))
    assert layer.weight.shape == (4, 3)
    assert all(is_struct(value) for value in layer.state_dict().values())
    real = kind(nn.Linear(3, 4)).eval()
    layer.eval().load_state_dict(real.state_dict())
    x = jnp.ones((2, 3))
    np.testing.assert_array_equal(layer(x), real(x))


def test_a_parametrization_of_ones_own():
    class Symmetric(nn.Module):
        def forward(self, a):
            return (a + a.T) / 2

    with jm.device("meta"):
        layer = parametrize.register_parametrization(nn.Linear(3, 3), "weight", Symmetric())
    assert jm.eval_shape(layer, jnp.ones((2, 3))).shape == (2, 3)


# -- what it cannot --------------------------------------------------------------------------------------------------

GIVE_VALUES = r"(?s)load_state_dict\(jm\.load\(path, mmap=True\)\).*to_empty\(device=\.\.\.\).*reset_parameters"
X = jnp.ones((2, 3))


def small() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4, device="meta"), nn.ReLU(), nn.Linear(4, 2, device="meta"))


@pytest.mark.parametrize(
    ("use", "who"),
    [
        (lambda m: m(X), "Sequential was called with"),
        (lambda m: jm.jit(m)(X), "a compiled function was called"),
        (lambda m: jm.jit(lambda m, x: m(x))(m, X), "a compiled function was called"),
        (lambda m: jm.grad(lambda m: m(X).sum())(m), "a model was to be differentiated"),
        (lambda m: jm.backward(lambda m: m(X).sum())(m), "a model was to be differentiated"),
        (lambda m: jm.vmap(lambda x: m(x))(X), "Sequential was called with"),
        (lambda m: jm.scan(lambda c, x: (c, m(x)), 0, X), "Sequential was called with"),
        (lambda m: jm.remat(m)(X), "Sequential was called with"),
        (lambda m: jm.optim.AdamW(m.parameters()), "AdamW was to train"),
    ],
)
def test_uses_that_need_values(use, who):
    with pytest.raises(AbstractError, match=GIVE_VALUES) as caught:
        use(small())
    assert str(caught.value).startswith(who)
    assert {"0.weight", "2.bias"} <= set(caught.value.names)
    assert "0.weight, " in str(caught.value)


@pytest.mark.parametrize("file", ["a.safetensors", "a.pt", "a.npz", "a.msgpack", "folder/"])
def test_saving_what_has_no_values(file, tmp_path):
    with jm.device("meta"):
        model = nn.Linear(3, 2, bias=False)
    (tmp_path / "folder").mkdir()
    with pytest.raises(jm.AbstractError, match="was to be written .*only a shape and a dtype.*: weight"):
        jm.save(model.state_dict(), tmp_path / file)
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_only_what_is_abstract_is_named():
    model = small()
    model[0].load_state_dict(nn.Linear(3, 4).state_dict())
    with pytest.raises(AbstractError) as caught:
        model(X)
    assert caught.value.names == ["2.weight", "2.bias"]
    assert isinstance(caught.value, jm.StateError)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


@pytest.mark.parametrize("use", [lambda w: w * 2, lambda w: 1 + w, np.asarray, float, list, lambda w: w[0], bool])
def test_computing_with_a_parameter(use):
    with pytest.raises(AbstractError, match=r"a Parameter of shape \(4, 3\) was used in a computation"):
        use(small()[0].weight)


def test_methods_of_arrays_that_are_not_there():
    weight = small()[0].weight
    assert not hasattr(weight, "at")
    with pytest.raises(AttributeError, match="no attribute 'sum' while it is abstract"):
        weight.sum()


def test_other_errors_stay_themselves():
    with pytest.raises((TypeError, RuntimeError, ValueError)) as caught:
        jm.eval_shape(small(), jnp.ones((2, 5)))
    assert not isinstance(caught.value, AbstractError)
    with pytest.raises((TypeError, RuntimeError, ValueError)) as caught:
        nn.Linear(3, 4)(jnp.ones((2, 5)))
    assert not isinstance(caught.value, AbstractError)


# -- devices ---------------------------------------------------------------------------------------------------------


def test_arrays_are_made_on_the_device():
    second = jax.devices()[1]
    with jm.device("cpu:1") as entered:
        assert entered == jm.device(second)
        model = Rotary()
        temporary = jnp.zeros(3)
    assert temporary.devices() == {second}
    assert {d for box in [*model.parameters(), *model.buffers()] for d in box.devices()} == {second}
    assert jnp.zeros(3).devices() == {jax.devices()[0]}
    assert model(jax.device_put(IDS, second)).devices() == {second}


def test_the_same_numbers_on_every_device():
    jm.manual_seed(0)
    here = nn.Linear(3, 4).weight.value
    jm.manual_seed(0)
    with jm.device(jax.devices()[3]):
        np.testing.assert_array_equal(nn.Linear(3, 4).weight.value, here)


def test_a_sharding():
    mesh = jax.make_mesh((4,), ("x",))
    sharding = jax.NamedSharding(mesh, jax.P("x"))
    with jm.device(sharding):
        layer = nn.Linear(3, 4)
    assert layer.weight.sharding.is_equivalent_to(sharding, 2)
    assert layer.bias.sharding == sharding


def test_blocks_nest_and_end_with_an_exception():
    with jm.device("meta"):
        with jm.device("cpu:1"):
            assert nn.Linear(1, 1).weight.devices() == {jax.devices()[1]}
            with pytest.raises(KeyError), jm.device("cpu:2"):
                raise KeyError
            assert nn.Linear(1, 1).weight.devices() == {jax.devices()[1]}
        assert nn.Linear(1, 1).weight.is_meta
    place = jm.device("meta")
    with place, place:
        pass
    assert not nn.Linear(1, 1).weight.is_meta


def test_a_block_is_its_threads_own():
    found = []
    with jm.device("meta"):
        thread = threading.Thread(target=lambda: found.append(nn.Linear(1, 1).weight.is_meta))
        thread.start()
        thread.join()
        assert nn.Linear(1, 1).weight.is_meta
    assert found == [False]


def test_it_means_nothing_inside_a_trace():
    with jm.device("meta"):
        assert jm.eval_shape(lambda: nn.Linear(3, 2)(jnp.ones((4, 3)))).shape == (4, 2)
        out = jm.jit(lambda x: nn.Linear(3, 2)(x))(jnp.ones((4, 3)))
    assert out.shape == (4, 2)


def test_the_object():
    first = jm.device("cpu", 1)
    assert (first.type, first.index, repr(first)) == ("cpu", 1, "device(type='cpu', index=1)")
    assert repr(jm.device("meta")) == "device(type='meta')"
    assert first == jm.device("cpu:1") == jm.device(jax.devices()[1]) == jm.device(1) == jm.device(first)
    assert first != jm.device("cpu")
    assert len({first, jm.device("cpu:1"), jm.device("meta")}) == 2
    assert copy.deepcopy(first) is first
    assert pickle.loads(pickle.dumps(first)) == first
    assert jm.device("meta").placement is None
    assert nn.Linear(2, 2).to(first).weight.devices() == {jax.devices()[1]}
    sharding = jax.NamedSharding(jax.make_mesh((4,), ("x",)), jax.P())
    assert jm.device(sharding) == jm.device(sharding)
    assert "NamedSharding" in repr(jm.device(sharding))


@pytest.mark.parametrize(
    ("make", "kind", "match"),
    [
        (lambda: jm.device("cpu:x"), RuntimeError, "Invalid device string: 'cpu:x'"),
        (lambda: jm.device("cpu:1", 1), RuntimeError, "must not include an index"),
        (lambda: jm.device(None), TypeError, "device\\(\\) takes"),
        (lambda: jm.device(True), TypeError, "device\\(\\) takes"),
        (lambda: jm.device(jax.devices()[0], 1), TypeError, "device\\(\\) takes an index beside"),
        (lambda: jm.device("cpu:9").__enter__(), RuntimeError, "no device 'cpu:9': JAX has 4"),
        (lambda: jm.device("nowhere").__enter__(), RuntimeError, "nowhere"),
        (lambda: nn.Linear(2, 2, device="nowhere"), RuntimeError, "nowhere"),
        (lambda: nn.Linear(2, 2).to("cpu:9"), RuntimeError, "no device 'cpu:9'"),
    ],
)
def test_what_is_no_device(make, kind, match):
    with pytest.raises(kind, match=match):
        make()
    assert not nn.Linear(1, 1).weight.is_meta


def test_warm_calls_do_not_look_for_abstract_parameters(monkeypatch):
    """An eager call looks at the boxes only once something has gone wrong."""
    from jaxmodule.nn import notes

    looked = []
    monkeypatch.setattr(notes, "abstract_names", lambda named: looked.append(1) or [])
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    step = jm.jit(lambda model, x: model(x))
    for _ in range(2):
        model(X), step(model, X)
    assert looked == []

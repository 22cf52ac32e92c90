"""Specification of a Module's life: made, named, changed, listed, printed, copied, converted, compiled.

The containers are in test_containers.py, parameters in test_parameters.py, modes in test_modes.py; the same operations
side by side with torch are in parity/test_module_contract.py.
"""

import copy
import pickle
import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmodule as jm
from jaxmodule import nn


class Net(nn.Module):
    """Something of each kind: parameters, one None, buffers of both kinds, submodules, a static, a plain array."""

    def __init__(self, width=3):
        super().__init__()
        self.width = width
        self.scale = nn.Parameter(jnp.ones(width))
        self.register_parameter("shift", None)
        self.register_buffer("offset", jnp.arange(3.0))
        self.register_buffer("steps", jnp.zeros((), jnp.int32), persistent=False)
        self.fc = nn.Linear(width, width)
        self.norm = nn.BatchNorm1d(width)
        self.plain = jnp.full((2,), 7.0)

    def forward(self, x):
        return self.norm(self.fc(x)) * self.scale.value[None] + self.offset.value[None]


X = jnp.asarray([[1.0, 2.0, 3.0], [-1.0, 0.5, 2.0]])


def names(pairs):
    return [str(name) for name, _ in pairs]


# -- construction -----------------------------------------------------------------------------------------------------


class _Early(nn.Module):
    def __init__(self, value):
        self.early = value
        super().__init__()


@pytest.mark.parametrize(
    ("value", "what"),
    [(partial(nn.Parameter, 1.0), "parameters"), (nn.Identity, "module"), (partial(nn.Buffer, 1.0), "buffer")],
)
def test_assignment_before_init_raises(value, what):
    with pytest.raises(AttributeError, match=rf"cannot assign {what} before Module\.__init__\(\) call"):
        _Early(value())


@pytest.mark.parametrize("method", ["register_parameter", "register_buffer", "register_module", "add_module"])
def test_registration_before_init_raises(method):
    with pytest.raises(AttributeError, match=r"before Module\.__init__\(\) call"):
        getattr(nn.Module.__new__(nn.Module), method)("name", None)


class _NoInit(nn.Module):
    def __init__(self):
        self.width = 3  # no super().__init__()

    def forward(self, x):
        return x


@pytest.mark.parametrize(
    "use",
    [
        lambda m: m(X),
        lambda m: list(m.parameters()),
        lambda m: list(m.modules()),
        lambda m: m.state_dict(),
        lambda m: m.train(),
        repr,
        lambda m: m.register_forward_hook(print),
        jax.tree.leaves,
        jm.jit(lambda m: 0),
    ],
    ids=["call", "parameters", "modules", "state_dict", "train", "repr", "hook", "leaves", "jit"],
)
def test_a_module_that_never_called_init_says_so(use):
    with pytest.raises(AttributeError, match=r"super\(\).__init__\(\)"):
        use(_NoInit())


def test_subclass_without_init():
    class Double(nn.Module):
        def forward(self, x):
            return 2 * x

    assert float(Double()(3.0)) == 6.0
    assert Double().training
    assert repr(Double()) == "Double()"


def test_init_takes_no_arguments_unless_the_class_says_so():
    with pytest.raises(TypeError, match=r"got an unexpected keyword argument 'width'"):
        nn.Module(width=3)
    with pytest.raises(TypeError, match=r"takes 1 positional argument but 2 were given"):
        nn.Module(3)


def test_call_super_init_passes_arguments_on():
    class Named:
        def __init__(self, name):
            self.name = name

    class Both(nn.Module, Named):
        call_super_init = True

        def __init__(self, name):
            super().__init__(name)

    class OnlyModule(nn.Module, Named):
        def __init__(self):
            super().__init__()

    assert Both("a").name == "a"
    assert not hasattr(OnlyModule(), "name")


def test_a_module_without_forward():
    with pytest.raises(NotImplementedError, match='Module \\[Module\\] is missing the required "forward" function'):
        nn.Module()(X)


def test_the_call_passes_everything_to_forward():
    class Join(nn.Module):
        def forward(self, a, *rest, end, **named):
            return a, rest, end, named

    assert Join()(1, 2, 3, end=4, x=5) == (1, (2, 3), 4, {"x": 5})
    with pytest.raises(TypeError, match="missing 1 required keyword-only argument: 'end'"):
        Join()(1)


# -- names and kinds --------------------------------------------------------------------------------------------------

REGISTER = {
    "register_parameter": lambda: nn.Parameter(jnp.zeros(1)),
    "register_buffer": lambda: jnp.zeros(1),
    "register_module": nn.Identity,
    "add_module": nn.Identity,
}


@pytest.mark.parametrize("method", REGISTER)
class TestNames:
    def test_dotted(self, method):
        with pytest.raises(KeyError, match=r'name can\\?\'t contain "\.", got: a\.b'):
            getattr(Net(), method)("a.b", REGISTER[method]())

    def test_empty(self, method):
        with pytest.raises(KeyError, match='name can\\\\?\'t be empty string ""'):
            getattr(Net(), method)("", REGISTER[method]())

    @pytest.mark.parametrize("taken", ["forward", "width", "scale", "offset", "fc", "plain", "training"])
    def test_taken(self, method, taken):
        own = {"scale": "register_parameter", "offset": "register_buffer", "fc": "register_module"}.get(taken)
        model = Net()
        if own is not None and (own == method or (own == "register_module" and method == "add_module")):
            getattr(model, method)(taken, None)  # its own kind is replaced
            assert getattr(model, taken) is None
            return
        before = getattr(model, taken)
        with pytest.raises(KeyError, match=f"attribute '{taken}' already exists"):
            getattr(model, method)(taken, REGISTER[method]())
        assert getattr(model, taken) is before or taken == "forward"

    def test_not_a_string(self, method):
        with pytest.raises(TypeError, match="name should be a string. Got int"):
            getattr(Net(), method)(3, REGISTER[method]())

    def test_wrong_kind(self, method):
        with pytest.raises(TypeError, match="str"):
            getattr(Net(), method)("new", "a string")
        assert not hasattr(Net(), "new")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("scale", jnp.zeros(3), r"cannot assign '.*' as parameter 'scale' \(nn.Parameter or None expected\)"),
        ("scale", 3.0, "cannot assign 'float' as parameter 'scale'"),
        ("shift", jnp.zeros(3), "as parameter 'shift'"),
        ("fc", 3, r"cannot assign 'int' as child module 'fc' \(nn.Module or None expected\)"),
        ("offset", "x", "cannot assign 'str' as buffer 'offset'"),
        ("offset", 1.0, "cannot assign 'float' as buffer 'offset'"),
    ],
)
def test_assigning_the_wrong_kind(name, value, message):
    with pytest.raises(TypeError, match=message):
        setattr(Net(), name, value)


def test_registering_an_array_as_a_parameter():
    with pytest.raises(TypeError, match=r"object to parameter 'p' \(nn.Parameter or None required\)"):
        Net().register_parameter("p", jnp.zeros(3))


# -- attributes -------------------------------------------------------------------------------------------------------


def test_a_name_moves_between_the_kinds():
    model = Net()
    model.thing = 3
    model.thing = nn.Identity()
    assert "thing" in names(model.named_children())
    model.thing = nn.Parameter(jnp.ones(2))
    assert "thing" not in names(model.named_children())
    assert "thing" in names(model.named_parameters())
    model.steps = nn.Parameter(jnp.ones(2))
    assert "steps" not in names(model.named_buffers())
    assert "steps" in model.state_dict()
    model.offset = nn.Identity()
    assert "offset" not in names(model.named_buffers())
    assert "offset" in names(model.named_children())


def test_only_none_gives_up_a_parameter_or_a_module_for_another_kind():
    model = Net()
    for name in ("scale", "shift"):
        with pytest.raises(TypeError, match=f"cannot assign 'Identity' as parameter '{name}'"):
            setattr(model, name, nn.Identity())
        with pytest.raises(TypeError, match=f"cannot assign 'Buffer' as parameter '{name}'"):
            setattr(model, name, nn.Buffer(jnp.zeros(1)))
    with pytest.raises(TypeError, match="cannot assign 'Buffer' as child module 'fc'"):
        model.fc = nn.Buffer(jnp.zeros(1))
    for name in ("width", "plain"):
        with pytest.raises(KeyError, match=f"attribute '{name}' already exists"):
            setattr(model, name, nn.Buffer(jnp.zeros(1)))


def test_a_buffer_that_replaces_another_brings_its_persistence():
    model = Net()
    model.steps = nn.Buffer(jnp.zeros(()))
    assert "steps" in model.state_dict()
    model.steps = nn.Buffer(jnp.zeros(()), persistent=False)
    assert "steps" not in model.state_dict()


@pytest.mark.parametrize("name", ["width", "scale", "shift", "offset", "steps", "fc", "plain", "training"])
def test_del(name):
    model = Net()
    delattr(model, name)
    assert name not in dir(model) or name == "training"
    with pytest.raises(AttributeError, match=name):
        getattr(model, name)
    with pytest.raises(AttributeError, match=name):
        delattr(model, name)
    assert name not in names(model.named_parameters()) + names(model.named_buffers()) + names(model.named_children())
    assert not any(key.startswith(name) for key in model.state_dict())


def test_del_forgets_that_a_buffer_was_not_persistent():
    model = Net()
    del model.steps
    model.register_buffer("steps", jnp.zeros(()))
    assert "steps" in model.state_dict()


def test_missing_attribute():
    with pytest.raises(AttributeError, match="'Net' object has no attribute 'nothing'"):
        Net().nothing
    assert not hasattr(Net(), "nothing")
    assert getattr(Net(), "nothing", 3) == 3


def test_none_takes_a_place_and_is_not_listed():
    model = Net()
    assert model.shift is None
    assert "shift" not in names(model.named_parameters())
    model.shift = nn.Parameter(jnp.zeros(3))
    assert "shift" in names(model.named_parameters())
    model.shift = None
    model.offset = None
    model.fc = None
    assert model.shift is model.offset is model.fc is None
    assert [*names(model.named_parameters()), *names(model.named_buffers())] == [
        "scale", "norm.weight", "norm.bias",
        "steps", "norm.running_mean", "norm.running_var", "norm.num_batches_tracked",
    ]  # fmt: skip
    assert not {"shift", "offset"} & set(model.state_dict())
    model.offset = jnp.ones(3)  # the place is a buffer's still
    assert isinstance(model.offset, nn.Buffer)
    assert "(fc): None" in repr(model)


def test_assigning_an_array_writes_into_the_buffer():
    model = Net()
    box = model.offset
    model.offset = jnp.full(3, 2.0)
    assert model.offset is box
    assert box.value.tolist() == [2.0, 2.0, 2.0]
    model.offset = np.zeros(3, np.float32)
    assert isinstance(box.value, jax.Array)
    assert box.value.tolist() == [0.0, 0.0, 0.0]


def test_dynamic_attributes():
    model = Net()
    for value in (1, "x", None, (1, 2), [1], {"a": 1}, print, np.float32(3)):
        model.dynamic = value
        assert model.dynamic == value
    model.__dict__["direct"] = 5
    assert model.direct == 5


def test_property_and_class_attributes():
    class Sized(nn.Module):
        kind = "sized"

        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(jnp.zeros((2, 3)))

        @property
        def size(self):
            return self.weight.shape

        @size.setter
        def size(self, shape):
            self.weight = nn.Parameter(jnp.zeros(shape))

    model = Sized()
    model.size = (4,)
    assert model.size == (4,)
    assert model.kind == "sized"
    with pytest.raises(KeyError, match="attribute 'size' already exists"):
        model.register_parameter("size", None)


def test_state_under_the_name_of_a_class_attribute():
    class Cached(nn.Module):
        cache = None
        steps: list = []
        generator = None

        def forward(self, x):
            self.cache = x if self.cache is None else self.cache + x
            return self.cache

    class Child(Cached):
        pass

    for cls in (Cached, Child):
        model, other = cls(), cls()
        for i in range(1, 4):
            np.testing.assert_array_equal(model(X), i * X)
        np.testing.assert_array_equal(jm.jit(lambda m, x: m(x))(model, X), 4 * X)
        np.testing.assert_array_equal(model.cache, 4 * X)
        np.testing.assert_array_equal(copy.deepcopy(model).cache, 4 * X)
        model.steps = [1]
        model.generator = jm.Generator(0)
        assert model.steps == [1]
        assert isinstance(model.generator, jm.Generator)
        assert other.cache is other.generator is cls.cache is None
        assert other.steps == cls.steps == []
        model.cache = 3
        assert model.cache == 3
        del model.cache
        assert model.cache is None


def test_a_descriptor_of_the_class_takes_the_assignment():
    class Positive:
        def __get__(self, obj, owner=None):
            return self if obj is None else obj.__dict__["_positive"]

        def __set__(self, obj, value):
            obj.__dict__["_positive"] = abs(value)

    class Model(nn.Module):
        rate = Positive()

    model = Model()
    model.rate = -3
    assert model.rate == 3


def test_an_error_inside_a_property_keeps_its_message():
    class Broken(nn.Module):
        @property
        def size(self):
            return self.not_there

    with pytest.raises(AttributeError, match="not_there"):
        Broken().size


def test_dir_names_everything():
    listed = dir(Net())
    assert {"scale", "shift", "offset", "steps", "fc", "norm", "plain", "width", "forward", "training"} <= set(listed)
    assert listed == sorted(listed)
    assert not any(name[0].isdigit() for name in dir(nn.Sequential(nn.Identity())))


# -- the tree ---------------------------------------------------------------------------------------------------------


def tree():
    """A tree with one shared layer, one shared parameter and a None child."""
    shared = nn.Linear(2, 2, bias=False)
    model = nn.Sequential(shared, nn.Sequential(nn.ReLU(), shared), nn.Linear(2, 2))
    model[2].weight = shared.weight
    model.add_module("none", None)
    return model, shared


def test_children_and_modules():
    model, shared = tree()
    assert names(model.named_children()) == ["0", "1", "2"]
    assert list(model.children()) == [shared, model[1], model[2]]
    assert names(model.named_modules()) == ["", "0", "1", "1.0", "2"]
    assert list(model.modules()) == [m for _, m in model.named_modules()]
    again = nn.Sequential(shared, shared)
    assert names(again.named_children()) == ["0"]


def test_named_modules_options():
    model, shared = tree()
    assert names(model.named_modules(prefix="net")) == ["net", "net.0", "net.1", "net.1.0", "net.2"]
    assert names(model.named_modules(remove_duplicate=False)) == ["", "0", "1", "1.0", "1.1", "2"]
    memo = {shared}
    assert names(model.named_modules(memo)) == ["", "1", "1.0", "2"]
    assert memo == set(model.modules())
    assert names(model.named_modules(memo)) == []


def test_named_parameters_options():
    model, _ = tree()
    assert names(model.named_parameters()) == ["0.weight", "2.bias"]
    assert names(model.named_parameters(prefix="net")) == ["net.0.weight", "net.2.bias"]
    assert names(model.named_parameters(remove_duplicate=False)) == ["0.weight", "1.1.weight", "2.weight", "2.bias"]
    assert names(model.named_parameters(recurse=False)) == []
    assert names(model[2].named_parameters("x", recurse=False)) == ["x.weight", "x.bias"]
    assert list(model.parameters()) == [model[0].weight, model[2].bias]
    assert list(model.parameters(recurse=False)) == []


def test_named_buffers_options():
    norm = nn.BatchNorm1d(2)
    model = nn.Sequential(norm, nn.ReLU(), norm)
    own = ["running_mean", "running_var", "num_batches_tracked"]
    assert names(model.named_buffers()) == [f"0.{n}" for n in own]
    assert names(model.named_buffers(prefix="p")) == [f"p.0.{n}" for n in own]
    assert names(model.named_buffers(remove_duplicate=False)) == [f"{i}.{n}" for i in (0, 2) for n in own]
    assert names(model.named_buffers(recurse=False)) == []
    assert list(model.buffers()) == [getattr(norm, n) for n in own]
    assert list(model.buffers(recurse=False)) == []


def test_apply_goes_children_first():
    model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.ReLU()))
    seen = []
    assert model.apply(seen.append) is model
    assert seen == [model[0], model[1][0], model[1], model]


def test_get_submodule():
    model, shared = tree()
    assert model.get_submodule("") is model
    assert model.get_submodule("1.1") is shared
    with pytest.raises(AttributeError, match="Sequential has no attribute `7`"):
        model.get_submodule("1.7")
    with pytest.raises(AttributeError, match="`weight` is not an nn.Module"):
        model.get_submodule("0.weight")
    with pytest.raises(AttributeError, match="`weight` is not an nn.Module"):
        model.get_submodule("0.weight.deeper")


def test_set_submodule():
    model, _ = tree()
    new = nn.Identity()
    model.set_submodule("1.0", new)
    assert model[1][0] is new
    model.set_submodule("1.extra", new)
    assert model.get_submodule("1.extra") is new
    with pytest.raises(AttributeError, match="Sequential has no attribute `other`"):
        model.set_submodule("1.other", new, strict=True)
    with pytest.raises(AttributeError, match="Sequential has no attribute `nowhere`"):
        model.set_submodule("nowhere.x", new)
    with pytest.raises(AttributeError, match="`weight` is not an nn.Module"):
        model.set_submodule("0.weight", new)
    with pytest.raises(ValueError, match="Cannot set the submodule without a target name"):
        model.set_submodule("", new)
    with pytest.raises(ValueError, match="`module` is not an nn.Module, found <class 'int'>"):
        model.set_submodule("0", 3)


def test_get_parameter_and_get_buffer():
    model = nn.Sequential(nn.BatchNorm1d(2))
    assert model.get_parameter("0.weight") is model[0].weight
    assert model.get_buffer("0.running_mean") is model[0].running_mean
    assert Net().get_parameter("scale").shape == (3,)
    for method, target, message in [
        ("get_parameter", "0.running_mean", "`running_mean` is not an nn.Parameter"),
        ("get_parameter", "0.nothing", "BatchNorm1d has no attribute `nothing`"),
        ("get_parameter", "1.weight", "Sequential has no attribute `1`"),
        ("get_buffer", "0.weight", "`weight` is not a buffer"),
        ("get_buffer", "0.nothing", "BatchNorm1d has no attribute `nothing`"),
        ("get_buffer", "0.weight.x", "`weight` is not an nn.Module"),
    ]:
        with pytest.raises(AttributeError, match=message):
            getattr(model, method)(target)


def test_changing_the_tree_while_compiled_is_seen():
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    call = jm.jit(lambda model, x: model(x))
    call(model, X)
    model.set_submodule("1", nn.Identity())
    np.testing.assert_allclose(call(model, X), model[0](X), rtol=1e-6)
    del model[1]
    model.append(nn.Linear(3, 2))
    assert call(model, X).shape == (2, 2)


# -- printing ---------------------------------------------------------------------------------------------------------


def test_repr():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(2, 3)
            self.inner = nn.Sequential(nn.ReLU())

        def extra_repr(self):
            return "kind=a,\nlevel=2"

    assert repr(Block()) == (
        "Block(\n"
        "  kind=a,\n"
        "  level=2\n"
        "  (fc): Linear(in_features=2, out_features=3, bias=True)\n"
        "  (inner): Sequential(\n"
        "    (0): ReLU()\n"
        "  )\n"
        ")"
    )
    assert str(nn.Linear(2, 3)) == "Linear(in_features=2, out_features=3, bias=True)"
    assert repr(nn.Module()) == "Module()"


# -- copies -----------------------------------------------------------------------------------------------------------


def hook_times_two(module, args, output):
    return output * 2


def tied():
    """Two layers with one weight, a hook, a frozen bias, and some of each other kind of state."""
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 3))
    model[2].weight = model[0].weight
    model[0].bias.requires_grad_(False)
    model[0].weight.mark = "decay"
    model.plain = jnp.arange(2.0)
    model.cache = {"k": jnp.zeros(2), "n": [1, 2]}
    model.static = ("a", 1)
    model.register_forward_hook(hook_times_two)
    model(X)  # BatchNorm's statistics move
    return model.eval()


COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "pickle protocol 2": lambda model: pickle.loads(pickle.dumps(model, protocol=2)),
}


@pytest.mark.parametrize("how", COPIES)
class TestCopies:
    def test_same_values_in_other_arrays(self, how):
        model = tied()
        new = COPIES[how](model)
        assert list(new.state_dict()) == list(model.state_dict())
        for a, b in zip(jax.tree.leaves(model), jax.tree.leaves(new), strict=True):
            np.testing.assert_array_equal(a, b)
            assert a is not b
            assert a.unsafe_buffer_pointer() != b.unsafe_buffer_pointer()
        np.testing.assert_array_equal(model(X), new(X))
        assert type(new[1].running_mean) is nn.Buffer

    def test_writing_to_the_copy_leaves_the_original(self, how):
        model = tied()
        before = model(X)
        new = COPIES[how](model)
        new[0].weight.zero_()
        new.plain = new.plain + 1
        new.cache["k"] = jnp.ones(2)
        new.cache["n"].append(3)
        new[1].running_mean.fill_(5)
        np.testing.assert_array_equal(model(X), before)
        assert model.plain.tolist() == [0.0, 1.0]
        assert model.cache["k"].tolist() == [0.0, 0.0]
        assert model.cache["n"] == [1, 2]

    def test_tied_stay_tied_and_apart_from_the_original(self, how):
        model = tied()
        new = COPIES[how](model)
        assert new[2].weight is new[0].weight
        assert new[0].weight is not model[0].weight
        assert names(new.named_parameters()) == names(model.named_parameters())

    def test_flags_statics_and_hooks_are_kept(self, how):
        model = tied()
        new = COPIES[how](model)
        assert type(new) is nn.Sequential
        assert not new.training
        assert [p.requires_grad for p in new.parameters()] == [p.requires_grad for p in model.parameters()]
        assert new[0].weight.mark == "decay"
        assert new.static == ("a", 1)
        assert list(new._forward_hooks.values()) == [hook_times_two]
        new._forward_hooks.clear()
        np.testing.assert_array_equal(model(X), 2 * new(X))

    def test_the_copy_can_be_changed_and_compiled(self, how):
        model = tied()
        call = jm.jit(lambda m, x: m(x))
        np.testing.assert_allclose(call(model, X), model(X), rtol=1e-6)
        new = COPIES[how](model)
        new[2] = nn.Linear(3, 5)
        new.register_buffer("extra", jnp.zeros(1))
        assert call(new, X).shape == (2, 5)
        assert call(model, X).shape == (2, 3)

    def test_gradients(self, how):
        model = nn.Linear(3, 1)
        jm.backward(lambda m: m(X).sum())(model)
        new = COPIES[how](model)
        assert new.bias.grad is None  # as in torch
        assert model.bias.grad is not None


def test_deepcopy_of_a_module_that_holds_itself_through_an_attribute():
    model = nn.Linear(2, 2)
    model.method = model.extra_repr
    new = copy.deepcopy(model)
    assert new.method.__self__ is new
    new.in_features = 9
    assert "9" in new.method()


def test_a_parameter_hook_stays_behind_in_a_deepcopy():
    model = nn.Linear(3, 1)
    model.weight.register_hook(lambda g: g * 0)
    new = copy.deepcopy(model)
    assert jm.grad(lambda m: m(X).sum())(new)["weight"].any()
    assert not jm.grad(lambda m: m(X).sum())(model)["weight"].any()


def test_shallow_copy_shares_the_boxes_but_not_the_registries():
    model = tied()
    new = copy.copy(model)
    assert new is not model
    assert new[0] is model[0]
    new[0] = nn.Identity()
    new.static = "changed"
    new.own = nn.Parameter(jnp.zeros(1))
    new.train()
    assert isinstance(model[0], nn.Linear)
    assert model.static == ("a", 1)
    assert not hasattr(model, "own")
    assert not model.training
    linear = nn.Linear(2, 2)
    twin = copy.copy(linear)
    assert twin.weight is linear.weight
    twin.weight.zero_()
    assert not linear.weight.any()


def test_a_deepcopy_survives_donation_of_the_original():
    model = nn.Linear(3, 3)
    new = copy.deepcopy(model)

    @partial(jm.jit, donate=True)
    def step(model):
        model.weight *= 2.0

    step(model)
    assert new.weight.value.sum().shape == ()


def test_state_from_an_older_pickle_is_read():
    model = Net()
    state = model.__getstate__()
    new = Net.__new__(Net)
    new.__setstate__(state)
    new.eval()
    model.eval()
    np.testing.assert_array_equal(new(X), model(X))


# -- conversion -------------------------------------------------------------------------------------------------------


def dtypes(model):
    return {str(name): str(a.dtype) for name, a in [*model.named_parameters(), *model.named_buffers()]}


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("by", ["method", "to", "keyword"])
def test_floating_point_conversion(dtype, by):
    model = Net()
    jm.backward(lambda m: m(X).sum())(model)
    boxes = list(model.parameters())
    if by == "method":
        result = {"float16": model.half, "bfloat16": model.bfloat16, "float32": model.float}[dtype]()
    else:
        result = model.to(jnp.dtype(dtype)) if by == "to" else model.to(dtype=dtype)
    assert result is model
    found = dtypes(model)
    integer = {"steps", "norm.num_batches_tracked"}
    assert {found[name] for name in integer} == {"int32"}
    assert {found[name] for name in found.keys() - integer} == {dtype}
    assert all(a is b for a, b in zip(model.parameters(), boxes, strict=True))
    assert all(p.grad.dtype == dtype for p in model.parameters())
    assert model.plain.dtype == jnp.float32  # a plain array is not moved


def test_type_casts_everything():
    model = Net().type(jnp.float16)
    assert set(dtypes(model).values()) == {"float16"}
    assert set(dtypes(Net().type("bfloat16")).values()) == {"bfloat16"}


def test_complex():
    model = nn.Linear(2, 2).to(jnp.complex64)
    assert set(dtypes(model).values()) == {"complex64"}


def test_double_needs_x64():
    with pytest.warns(UserWarning, match="float64"):
        assert nn.Linear(2, 2).double().weight.dtype == jnp.float32
    with jax.enable_x64(True):
        model = Net().double()
        found = dtypes(model)
        assert found["scale"] == found["norm.running_var"] == "float64"
        assert found["norm.num_batches_tracked"] == "int64"
        assert model.float().scale.dtype == jnp.float32
        assert model.to(jnp.float64).scale.dtype == jnp.float64


def test_to_device_sharding_and_array():
    device = jax.devices()[1]
    model = Net()
    assert model.to(device) is model
    assert {a.devices().pop() for a in jax.tree.leaves(jm.split(model))} == {device}
    assert model.plain.devices() == {jax.devices()[0]}
    model.to("cpu:2")
    assert model.scale.devices() == {jax.devices()[2]}
    model.to(3)
    assert model.fc.weight.devices() == {jax.devices()[3]}
    model.to("cpu")
    assert model.fc.weight.devices() == {jax.devices()[0]}
    model.to(device=device, dtype=jnp.bfloat16)
    assert model.scale.devices() == {device}
    assert model.scale.dtype == jnp.bfloat16
    model.to(jax.devices()[0], jnp.float32, non_blocking=True)
    assert model.scale.devices() == {jax.devices()[0]}
    assert model.scale.dtype == jnp.float32
    model.to(jax.device_put(jnp.zeros(1, jnp.float16), device))
    assert (model.scale.devices(), model.scale.dtype) == ({device}, jnp.float16)
    model.to(nn.Parameter(jnp.zeros(1)))
    assert (model.scale.devices(), model.scale.dtype) == ({jax.devices()[0]}, jnp.float32)
    model.cpu()
    assert model.scale.devices() == {jax.devices("cpu")[0]}


@pytest.mark.parametrize("count", [1, 4])
def test_to_sharding(count):
    mesh = jax.make_mesh((count,), ("d",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:count])
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    model = Net().to(sharding)
    assert all(a.sharding == sharding for a in jax.tree.leaves(jm.split(model)))
    assert jm.jit(lambda m, x: m(x))(model.eval(), jax.device_put(X, sharding)).sharding.device_set == set(mesh.devices)


def test_to_moves_a_tied_parameter_once_and_gradients_along():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[1].weight = model[0].weight
    jm.backward(lambda m: m(jnp.ones((1, 2))).sum())(model)
    model.to(jax.devices()[1], jnp.bfloat16)
    assert model[1].weight is model[0].weight
    assert model[0].weight.dtype == jnp.bfloat16
    assert model[0].weight.grad.dtype == jnp.bfloat16
    assert model[0].weight.grad.devices() == {jax.devices()[1]}


def test_to_refuses():
    with pytest.raises(TypeError, match="only accepts floating point or complex dtypes, but got desired dtype=int32"):
        nn.Linear(2, 2).to(jnp.int32)
    with pytest.raises(TypeError, match="only accepts floating point or complex dtypes, but got desired dtype=int8"):
        nn.Linear(2, 2).to(jnp.zeros(1, jnp.int8))
    with pytest.raises(TypeError, match="unexpected keyword argument 'divice'"):
        nn.Linear(2, 2).to(divice="cpu")
    with pytest.raises(RuntimeError, match="banana"):
        nn.Linear(2, 2).to("banana")
    with pytest.raises(RuntimeError, match="no device 'cpu:99': JAX has 4 of platform 'cpu'"):
        nn.Linear(2, 2).to("cpu:99")
    with pytest.raises(TypeError, match="to\\(\\) received an invalid combination of arguments"):
        nn.Linear(2, 2).to(jnp.float16, jax.devices()[0], jnp.float32)


def test_to_that_fails_changes_nothing():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))

    def failing(array):
        if array.ndim == 1:
            raise RuntimeError("no bias")
        return array.astype(jnp.bfloat16)

    with pytest.raises(RuntimeError, match="no bias"):
        model._apply(failing)
    assert set(dtypes(model).values()) == {"float32"}


@pytest.mark.skipif(any(d.platform == "gpu" for d in jax.devices()), reason="there is a GPU")
def test_cuda_where_there_is_none():
    for use in (lambda m: m.cuda(), lambda m: m.cuda(1), lambda m: m.to("cuda"), lambda m: m.to("gpu:0")):
        with pytest.raises(RuntimeError, match="cuda|gpu"):
            use(nn.Linear(2, 2))


def test_to_empty():
    model = jm.eval_shape(Net)
    assert isinstance(model.scale.value, jax.ShapeDtypeStruct)
    with pytest.warns(UserWarning, match="steps of Net are zeros now"):  # not persistent: no file has it
        assert model.to_empty(device=jax.devices()[1]) is model
    assert model.fc.weight.shape == (3, 3)
    assert model.fc.weight.devices() == {jax.devices()[1]}
    assert model.norm.num_batches_tracked.dtype == jnp.int32
    outer = nn.Sequential(nn.Linear(2, 2))
    outer.own = nn.Parameter(jnp.ones(2))
    before = outer[0].weight.value
    outer.to_empty(recurse=False)
    assert outer[0].weight.value is before


@pytest.mark.parametrize("name", ["share_memory", "xpu", "ipu", "mtia"])
def test_names_that_mean_nothing_say_what_to_use(name):
    with pytest.raises(NotImplementedError, match=rf"Module\.{name} .*use "):
        getattr(nn.Linear(2, 2), name)()


def test_conversion_inside_a_compiled_function():
    model = nn.Linear(3, 3)
    jm.jit(lambda m: m.to(jnp.bfloat16) and None)(model)
    assert model.weight.dtype == jnp.bfloat16


# -- compile ----------------------------------------------------------------------------------------------------------


class Counted(nn.Module):
    """Counts how often forward's Python runs."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 3)
        self.norm = nn.BatchNorm1d(3)
        self.drop = nn.Dropout(0.5)

    def forward(self, x, *, double=False):
        TRACES.append(1)
        y = self.drop(self.norm(self.fc(x)))
        return 2 * y if double else y


TRACES: list[int] = []


@pytest.fixture
def compiled():
    TRACES.clear()
    model = Counted()
    assert model.compile() is None
    return model


def test_a_compiled_module_traces_once_and_keeps_its_state(compiled):
    plain = copy.deepcopy(compiled)
    jm.manual_seed(3)
    a = [compiled(X) for _ in range(3)]
    assert len(TRACES) == 1
    jm.manual_seed(3)
    b = [plain(X) for _ in range(3)]
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(compiled.norm.running_mean, plain.norm.running_mean, rtol=1e-6)
    assert int(compiled.norm.num_batches_tracked) == 3
    assert not isinstance(compiled.norm.running_mean.value, jax.core.Tracer)


def test_flags_and_sizes_in_a_compiled_call():
    class Repeat(nn.Module):
        def forward(self, x, times=1, *, mode="add", scale=1.0):
            TRACES.append(1)
            y = jnp.zeros_like(x) if mode == "add" else jnp.ones_like(x)
            for _ in range(times):
                y = y + x if mode == "add" else y * x
            return y * scale

    model = Repeat()
    model.compile()
    TRACES.clear()
    for _ in range(2):
        np.testing.assert_allclose(model(X, 3), 3 * X, rtol=1e-6)
        np.testing.assert_allclose(model(X, times=2, mode="mul"), X * X, rtol=1e-6)
        np.testing.assert_allclose(model(X, scale=0.5), 0.5 * X, rtol=1e-6)
        np.testing.assert_allclose(model(X, scale=0.25), 0.25 * X, rtol=1e-6)  # a float is an array's value
    assert len(TRACES) == 3
    model(X, True)
    assert len(TRACES) == 4  # True is not 1
    with pytest.raises(TypeError, match=r"compiled call of Repeat takes arrays.*given \['set'\]"):
        model(X, times={1})


def test_a_compiled_module_sees_changes(compiled):
    compiled(X)
    compiled.eval()
    assert (compiled(X) == compiled(X)).all()
    assert len(TRACES) == 2
    compiled.fc.weight.zero_()
    compiled.fc.bias.zero_()
    mean = compiled.norm.running_mean
    expected = jnp.broadcast_to(-mean / jnp.sqrt(compiled.norm.running_var + 1e-5), (2, 3))
    np.testing.assert_allclose(compiled(X), expected, rtol=1e-5)
    assert len(TRACES) == 2
    compiled.train()
    compiled(X)
    assert int(compiled.norm.num_batches_tracked) == 2


def test_hooks_of_a_compiled_module(compiled):
    compiled.eval()
    base = compiled(X)
    seen = []
    with compiled.register_forward_hook(lambda module, args, output: seen.append(module) or output * 2):
        np.testing.assert_allclose(compiled(X), 2 * base, rtol=1e-6)
        compiled(X)
    assert seen == [compiled]  # once: hooks run while it is traced
    np.testing.assert_allclose(compiled(X), base, rtol=1e-6)
    with compiled.register_forward_pre_hook(lambda module, args: (args[0] * 0,)):
        np.testing.assert_allclose(compiled(X)[0], compiled(X)[1], rtol=1e-6)
    with compiled.fc.register_forward_hook(lambda module, args, output: output * 0):
        np.testing.assert_allclose(compiled(X)[0], compiled(X)[1], rtol=1e-6)


@pytest.mark.parametrize("how", [*COPIES, "copy"])
def test_copies_of_a_compiled_module(compiled, how):
    compiled.eval()
    expected = compiled(X)
    new = copy.copy(compiled) if how == "copy" else COPIES[how](compiled)
    np.testing.assert_allclose(new(X), expected, rtol=1e-6)
    TRACES.clear()
    new(X), new(X)
    assert len(TRACES) == 2  # as in torch the copy is not compiled
    new.compile()
    TRACES.clear()
    new(X), new(X)
    assert len(TRACES) == 1


def test_a_compiled_module_inside_transforms(compiled):
    compiled.eval()
    expected = jm.grad(lambda m: (m(X) ** 2).sum())(copy.deepcopy(compiled))
    for grads in (
        jm.grad(lambda m: (m(X) ** 2).sum())(compiled),
        jm.jit(jm.grad(lambda m: (m(X) ** 2).sum()))(compiled),
    ):
        assert sorted(grads) == sorted(expected)
        for name in expected:
            np.testing.assert_allclose(grads[name], expected[name], rtol=1e-4, atol=1e-6)
    raw = jax.jit(lambda m, x: m(x))(compiled, X)
    np.testing.assert_allclose(raw, compiled(X), rtol=1e-6)


def test_compile_options_and_submodules(compiled):
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    model[0].compile()
    np.testing.assert_allclose(model(X), jax.nn.relu(model[0](X)), rtol=1e-6)
    model.compile()
    assert model(X).shape == (2, 3)
    with pytest.raises(TypeError, match="unexpected keyword argument 'mode'"):
        model.compile(mode="max-autotune")
    model.compile(donate=True)
    assert model(X).shape == model(X).shape


def test_compile_is_no_part_of_the_structure():
    model = nn.Linear(3, 3)
    before = jax.tree.structure(model)
    model.compile()
    assert jax.tree.structure(model) == before


# -- in a process of its own ------------------------------------------------------------------------------------------


def test_a_pickle_is_read_by_another_process(tmp_path):
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    model[0].bias.requires_grad_(False)
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps(model.eval()))
    code = (
        "import pickle, sys, jax.numpy as jnp\n"
        f"model = pickle.load(open({str(path)!r}, 'rb'))\n"
        "print(float(model(jnp.ones((1, 3))).sum()), model.training, model[0].bias.requires_grad)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert abs(float(out[0]) - float(model(jnp.ones((1, 3))).sum())) < 1e-5
    assert out[1:] == ["False", "False"]

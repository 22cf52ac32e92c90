"""A compiled call sees every change of structure, and nothing else makes it compile again."""

import argparse
import copy
import dataclasses
import types
from collections import OrderedDict, deque

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmodule as jm
from jaxmodule import nn
from jaxmodule.core.structure import layout_of


@dataclasses.dataclass
class Config:
    scale: float = 1.0
    widths: list = dataclasses.field(default_factory=lambda: [1, 2])


class Part(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(jnp.ones(3))
        self.bias = nn.Parameter(jnp.zeros(3))
        self.register_buffer("count", jnp.zeros(3))
        self.factor = 2
        self.rate = 0.5
        self.widths = [1, 2, 3]
        self.options = {"a": 1, "nested": {"b": [1, 2]}}
        self.tags = {"x", "y"}
        self.recent = deque([1], maxlen=3)
        self.table = np.arange(3.0)
        self.config = Config()
        self.space = types.SimpleNamespace(depth=1)
        self.args = argparse.Namespace(depth=1)
        self.cache = jnp.zeros(2)
        self.caches = {"k": jnp.zeros(2)}
        self.activation = jnp.tanh

    def forward(self, x):
        return x * self.weight if getattr(self, "bias", None) is None else x * self.weight + self.bias


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = Part()
        self.second = Part()

    def forward(self, x):
        return self.second(self.first(x))

    def other(self, x):
        return x


def _hook(*args):
    return None


def _tie(m):
    m.second.weight = m.first.weight


def _reorder(m):
    first = m._modules.pop("first")
    m._modules["first"] = first


CHANGES = {
    "eval": lambda m: m.eval(),
    "eval of a part": lambda m: m.second.eval(),
    "training attribute": lambda m: setattr(m.first, "training", False),
    "freeze": lambda m: setattr(m.first.weight, "requires_grad", False),
    "freeze in place": lambda m: m.first.weight.requires_grad_(False),
    "freeze a module": lambda m: m.first.requires_grad_(False),
    "static int": lambda m: setattr(m.first, "factor", 3),
    "int becomes bool": lambda m: setattr(m.first, "factor", True) or setattr(m.first, "factor", True),
    "int becomes float": lambda m: setattr(m.first, "factor", 2.0),
    "static float": lambda m: setattr(m.first, "rate", 0.25),
    "negative zero": lambda m: setattr(m.first, "rate", -0.0),
    "static function": lambda m: setattr(m.first, "activation", jnp.sin),
    "bound method": lambda m: setattr(m, "activation", m.other),
    "new attribute": lambda m: setattr(m.first, "extra", 1),
    "attribute None": lambda m: setattr(m.first, "rate", None),
    "deleted attribute": lambda m: delattr(m.first, "rate"),
    "list in place": lambda m: m.first.widths.append(4),
    "list item": lambda m: m.first.widths.__setitem__(0, 9),
    "list item of another type": lambda m: m.first.widths.__setitem__(0, True),
    "dict in place": lambda m: m.first.options.update(c=2),
    "nested list in place": lambda m: m.first.options["nested"]["b"].append(3),
    "set in place": lambda m: m.first.tags.add("z"),
    "deque in place": lambda m: m.first.recent.append(2),
    "numpy array in place": lambda m: m.first.table.__setitem__(0, 5.0),
    "dataclass in place": lambda m: setattr(m.first.config, "scale", 2.0),
    "list in a dataclass": lambda m: m.first.config.widths.append(3),
    "namespace in place": lambda m: setattr(m.first.space, "depth", 2),
    "argparse namespace": lambda m: setattr(m.first.args, "depth", 2),
    "array becomes static": lambda m: setattr(m.first, "cache", 3),
    "static becomes array": lambda m: setattr(m.first, "factor", jnp.ones(2)),
    "container grows": lambda m: m.first.caches.update(v=jnp.zeros(2)),
    "container loses": lambda m: m.first.caches.pop("k"),
    "register_parameter": lambda m: m.first.register_parameter("p", nn.Parameter(jnp.ones(1))),
    "parameter attribute": lambda m: setattr(m.first, "p", nn.Parameter(jnp.ones(1))),
    "parameter None": lambda m: setattr(m.first, "bias", None),
    "delete a parameter": lambda m: delattr(m.first, "bias"),
    "registry of parameters": lambda m: m.first._parameters.update(bias=None),
    "registry popped": lambda m: m.first._parameters.pop("bias"),
    "registry set to None": lambda m: m.first._parameters.__setitem__("bias", None),
    "register_buffer": lambda m: m.first.register_buffer("b", jnp.ones(1)),
    "buffer None": lambda m: setattr(m.first, "count", None),
    "delete a buffer": lambda m: delattr(m.first, "count"),
    "add_module": lambda m: m.add_module("third", Part()),
    "module attribute": lambda m: setattr(m, "third", nn.Identity()),
    "replace by another class": lambda m: setattr(m, "second", nn.Identity()),
    "set_submodule": lambda m: m.set_submodule("second", nn.Identity()),
    "delete a module": lambda m: m._modules.__delitem__("second") or setattr(m, "second", nn.Identity()),
    "module None": lambda m: setattr(m, "third", None),
    "order of modules": _reorder,
    "tie": _tie,
    "share a module": lambda m: setattr(m, "second", m.first),
    "forward hook": lambda m: m.first.register_forward_hook(_hook),
    "forward pre-hook": lambda m: m.first.register_forward_pre_hook(_hook),
    "backward hook": lambda m: m.first.register_full_backward_hook(_hook),
    "backward pre-hook": lambda m: m.first.register_full_backward_pre_hook(_hook),
    "parameter hook": lambda m: m.first.weight.register_hook(_hook),
    "mark on a parameter": lambda m: setattr(m.first.weight, "no_decay", True),
    "gradient appears": lambda m: setattr(m.first.weight, "grad", jnp.ones(3)),
    "forward replaced on the object": lambda m: setattr(m.first, "forward", m.other),
}


def compiled():
    traces = []

    @jm.jit
    def call(model, x):
        traces.append(1)
        return model(x)

    return call, traces


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_between_two_calls_is_seen(name):
    model, (call, traces) = Net(), compiled()
    x = jnp.arange(3.0)
    call(model, x)
    call(model, x)
    assert len(traces) == 1
    CHANGES[name](model)
    expected = model(x)
    assert jnp.array_equal(call(model, x), expected)
    assert len(traces) == 2, f"{name}: the program of the old structure was used"
    call(model, x)
    assert len(traces) == 2, f"{name}: a structure that stays must not be traced again"


@pytest.mark.parametrize("name", CHANGES)
def test_raw_jit_sees_it_too(name):
    model, x, traces = Net(), jnp.arange(3.0), []

    @jax.jit
    def call(model, x):
        traces.append(1)
        return x

    call(model, x)
    call(model, x)
    assert len(traces) == 1
    CHANGES[name](model)
    call(model, x)
    # hooks of a parameter and gradients are not part of what raw JAX is given
    assert len(traces) == 2
    call(model, x)
    assert len(traces) == 2


SAME = {
    "the same value": lambda m: setattr(m.first, "factor", 2),
    "the same string twice": lambda m: setattr(m.first, "rate", 0.5),
    "train when training": lambda m: m.train(),
    "freeze and release": lambda m: m.requires_grad_(False).requires_grad_(True),
    "eval and train": lambda m: m.eval().train(),
    "a new value of a parameter": lambda m: setattr(m.first.weight, "value", jnp.full(3, 2.0)),
    "a new value of a buffer": lambda m: setattr(m.first, "count", jnp.ones(3)),
    "a new value of a plain array": lambda m: setattr(m.first, "cache", jnp.ones(2)),
    "a new value in a container": lambda m: m.first.caches.update(k=jnp.ones(2)),
    "an equal list": lambda m: setattr(m.first, "widths", [1, 2, 3]),
    "an equal dataclass": lambda m: setattr(m.first, "config", Config()),
    "a hook added and removed": lambda m: m.first.register_forward_hook(_hook).remove(),
    "a list changed and changed back": lambda m: (m.first.widths.append(1), m.first.widths.pop()),
    "load_state_dict": lambda m: m.load_state_dict(m.state_dict()),
    "another model made": lambda m: Net(),
}


@pytest.mark.parametrize("name", SAME)
def test_what_is_no_change_compiles_nothing(name):
    model, (call, traces) = Net(), compiled()
    x = jnp.arange(3.0)
    call(model, x)
    SAME[name](model)
    assert jnp.array_equal(call(model, x), model(x))
    assert len(traces) == 1


def test_a_copy_uses_the_same_program():
    model, (call, traces) = Net(), compiled()
    x = jnp.ones(3)
    call(model, x)
    twin = copy.deepcopy(model)
    twin.first.weight.value = jnp.zeros(3)
    assert jnp.array_equal(call(twin, x), twin(x))
    assert len(traces) == 1


def test_going_back_to_a_structure_uses_its_program():
    model, (call, traces) = Net(), compiled()
    for _ in range(3):
        call(model.train(), jnp.ones(3))
        call(model.eval(), jnp.ones(3))
    assert len(traces) == 2


def test_a_model_born_before_another_dies_is_not_confused_with_it():
    call, traces = compiled()
    for i in range(20):  # ids are reused
        model = Net()
        model.first.factor = i % 2
        model.first.weight.value = jnp.full(3, float(i))
        assert jnp.array_equal(call(model, jnp.ones(3)), model(jnp.ones(3)))
        del model
    assert len(traces) == 2


# -- what a warm call costs: counts, not times ----------------------------------------------------------------------
def python_calls(function):
    """The names of the Python functions that run in `function()`."""
    import sys

    names = []

    def profile(frame, event, arg):
        if event == "call":
            names.append(frame.f_code.co_name)

    sys.setprofile(profile)
    try:
        function()
    finally:
        sys.setprofile(None)
    return names


class Stack(nn.Sequential):
    def __init__(self, blocks):
        super().__init__(*[nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)) for _ in range(blocks)])


@pytest.mark.parametrize("raw", [False, True], ids=["jm.jit", "jax.jit"])
def test_a_warm_call_runs_no_python_for_each_leaf(raw):
    call = (jax.jit if raw else jm.jit)(lambda model, x: model(x))
    counts = []
    for blocks in (1, 12):
        model = Stack(blocks)
        for _ in range(3):
            call(model, jnp.ones((2, 4)))
        x = jnp.ones((2, 4))
        counts.append(len(python_calls(lambda model=model, x=x: call(model, x))))
    assert counts[0] == counts[1]
    assert counts[0] < 30, "JAX's dispatch in C++ was not used"


def test_a_warm_training_step_runs_no_python_for_each_leaf():
    @jm.jit
    def step(model, optimizer, x):
        loss, grads = jm.value_and_grad(lambda m: m(x).sum())(model)
        optimizer.step(grads)
        return loss

    counts = []
    for blocks in (1, 12):
        model = Stack(blocks)
        optimizer = jm.optim.AdamW(model.parameters())
        for _ in range(3):
            step(model, optimizer, jnp.ones((2, 4)))
        x = jnp.ones((2, 4))
        counts.append(len(python_calls(lambda m=model, o=optimizer, x=x: step(m, o, x))))
    assert counts[0] == counts[1]
    assert counts[0] < 30, "JAX's dispatch in C++ was not used"


def test_the_flatten_is_flat():
    model = Stack(3)
    leaves, treedef = jax.tree_util.tree_flatten(model)
    assert len(leaves) == 12
    assert treedef.num_nodes == 13, "one node, whatever the depth"
    paths = [jax.tree_util.keystr(path, simple=True) for path, _ in jax.tree_util.tree_flatten_with_path(model)[0]]
    assert paths == list(model.state_dict())


def test_layouts_are_kept_while_nothing_changes():
    model = Net()
    first = layout_of(model)
    assert layout_of(model) is first
    nn.Linear(2, 2).eval()  # another object's life is no business of this one
    assert layout_of(model) is first
    model.first.factor = 7
    assert layout_of(model) is not first


def test_structures_are_compared_with_types():
    a, b = Part(), Part()
    a.options, b.options = OrderedDict(x=1), {"x": 1}
    assert layout_of(a).structure is not layout_of(b).structure
    b.options = OrderedDict(x=1)
    assert layout_of(a).structure is layout_of(b).structure

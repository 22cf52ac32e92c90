"""The machinery of parametrizations against torch's: names, values, assignment, removal, errors."""

import copy
import inspect

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.nn.utils import parametrize as theirs_p

from jaxmodule import nn
from jaxmodule.nn.utils import parametrize as ours_p
from tests.parity.oracle import assert_close, same_error, to_torch
from tests.parity.utils.training import assert_same_state, load, train_alike


class Ours:
    nn = nn
    parametrize = ours_p
    triu = staticmethod(jnp.triu)
    exp = staticmethod(jnp.exp)
    log = staticmethod(jnp.log)
    abs = staticmethod(jnp.abs)
    array = staticmethod(jnp.asarray)
    half = jnp.float16

    @staticmethod
    def cast(x, dtype):
        return x.astype(dtype)


class Theirs:
    nn = torch.nn
    parametrize = theirs_p
    triu = staticmethod(torch.triu)
    exp = staticmethod(torch.exp)
    log = staticmethod(torch.log)
    abs = staticmethod(torch.abs)
    array = staticmethod(lambda x: torch.from_numpy(np.array(x)))
    half = torch.float16

    @staticmethod
    def cast(x, dtype):
        return x.to(dtype)


def make(lib, kind, *args):
    """The parametrizations of these tests, written for either library."""

    class Symmetric(lib.nn.Module):
        def forward(self, x):
            return lib.triu(x) + lib.triu(x, 1).T

        def right_inverse(self, a):
            return lib.triu(a)

    class Exp(lib.nn.Module):
        def forward(self, x):
            return lib.exp(x)

        def right_inverse(self, y):
            return lib.log(lib.abs(y))

    class OneWay(lib.nn.Module):
        def forward(self, x):
            return 2 * x

    class Scaled(lib.nn.Module):
        """With a parameter of its own."""

        def __init__(self):
            super().__init__()
            self.scale = lib.nn.Parameter(lib.array(np.full(1, 3.0, np.float32)))

        def forward(self, x):
            return x * self.scale[0]

    class Sum(lib.nn.Module):
        """Of two originals."""

        def forward(self, x, y):
            return lib.exp(x) + y

        def right_inverse(self, z):
            return 0 * z, z - 1

    class Refuses(lib.nn.Module):
        def forward(self, x):
            return x

        def right_inverse(self, x):
            raise NotImplementedError("no")

    class Returns(lib.nn.Module):
        """Whatever it is told to, from forward or from its inverse."""

        def __init__(self, forward=None, inverse=None):
            super().__init__()
            self.functions = (forward, inverse)

        def forward(self, *x):
            return x[0] if self.functions[0] is None else self.functions[0](x[0])

        def right_inverse(self, x):
            return x if self.functions[1] is None else self.functions[1](x)

    return locals()[kind](*args)


def layers(features=3):
    ours, theirs = nn.Linear(features, features), torch.nn.Linear(features, features)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def register(pair, name, kind, *args, **options):
    for lib, module in zip((Ours, Theirs), pair, strict=True):
        lib.parametrize.register_parametrization(module, name, make(lib, kind, *args), **options)


@pytest.mark.parametrize("function", [name for name in theirs_p.__all__ if name != "cached"])
def test_signatures(function):
    mine, other = (inspect.signature(getattr(lib, function)) for lib in (ours_p, theirs_p))
    assert [(p.name, p.kind, p.default) for p in mine.parameters.values()] == [
        (p.name, p.kind, p.default) for p in other.parameters.values()
    ]


def test_names():
    assert sorted(ours_p.__all__) == sorted(theirs_p.__all__)


STACKS = [
    ("Symmetric",),
    ("Exp",),
    ("OneWay",),
    ("Scaled",),
    ("Sum",),
    ("Refuses",),
    ("Symmetric", "Exp"),
    ("Sum", "Scaled"),
]


@pytest.mark.parametrize("kinds", STACKS, ids="-".join)
def test_values_names_and_training(kinds):
    ours, theirs = pair = layers()
    for kind in kinds:
        register(pair, "weight", kind)
    assert repr(ours) == repr(theirs)
    assert_same_state(ours, theirs)
    assert_close(ours.weight, theirs.weight)
    train_alike(ours, theirs, (4, 3))


@pytest.mark.parametrize("kinds", STACKS, ids="-".join)
def test_assignment(kinds):
    ours, theirs = pair = layers()
    for kind in kinds:
        register(pair, "weight", kind)
    value = np.random.default_rng(0).standard_normal((3, 3)).astype(np.float32)
    if any(kind in ("OneWay", "Scaled", "Refuses") for kind in kinds):
        same_error(lambda: setattr(ours, "weight", value), lambda: setattr(theirs, "weight", to_torch(value)))
    else:
        ours.weight = value
        theirs.weight = to_torch(value)
    assert_same_state(ours, theirs)
    same_error(
        lambda: setattr(ours, "weight", nn.Parameter(value)),
        lambda: setattr(theirs, "weight", torch.nn.Parameter(to_torch(value))),
    )
    same_error(lambda: delattr(ours, "weight"), lambda: delattr(theirs, "weight"))
    assert_same_state(ours, theirs)


@pytest.mark.parametrize("leave", [True, False])
@pytest.mark.parametrize("kinds", STACKS, ids="-".join)
def test_removal(kinds, leave):
    ours, theirs = pair = layers()
    for kind in kinds:
        register(pair, "weight", kind)
    if kinds[0] == "Sum" and not leave:
        same_error(
            lambda: ours_p.remove_parametrizations(ours, "weight", leave_parametrized=False),
            lambda: theirs_p.remove_parametrizations(theirs, "weight", leave_parametrized=False),
        )
    else:
        ours_p.remove_parametrizations(ours, "weight", leave_parametrized=leave)
        theirs_p.remove_parametrizations(theirs, "weight", leave_parametrized=leave)
        assert type(ours) is nn.Linear
    assert repr(ours) == repr(theirs)
    assert_same_state(ours, theirs)
    x = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
    assert_close(ours(x), theirs(to_torch(x)))


def test_what_comes_of_frozen_parameters_and_of_buffers():
    for kind, frozen in (("Sum", True), ("Sum", False), ("Exp", True)):
        ours, theirs = pair = layers()
        for module in pair:
            module.weight.requires_grad_(not frozen)
        register(pair, "weight", kind)
        assert [p.requires_grad for p in ours.parameters()] == [p.requires_grad for p in theirs.parameters()]
        for lib, module in zip((Ours, Theirs), pair, strict=True):
            lib.parametrize.remove_parametrizations(module, "weight")
        assert_same_state(ours, theirs)
        assert [str(n) for n, _ in ours.named_buffers()] == [n for n, _ in theirs.named_buffers()]


@pytest.mark.parametrize("kind", ["Exp", "Sum"])
def test_buffers(kind):
    ours, theirs = pair = nn.BatchNorm1d(3), torch.nn.BatchNorm1d(3)
    register(pair, "running_var", kind)
    assert_same_state(ours, theirs)
    train_alike(ours.eval(), theirs.eval(), (4, 3))
    for lib, module in zip((Ours, Theirs), pair, strict=True):
        lib.parametrize.remove_parametrizations(module, "running_var")
    assert_same_state(ours, theirs)
    assert [str(n) for n, _ in ours.named_buffers()] == [n for n, _ in theirs.named_buffers()]


def test_two_tensors_of_one_module():
    ours, theirs = pair = layers()
    register(pair, "weight", "Symmetric")
    register(pair, "bias", "Exp")
    assert repr(ours) == repr(theirs)
    train_alike(ours, theirs, (4, 3))
    for name in ("weight", "bias"):
        for lib, module in zip((Ours, Theirs), pair, strict=True):
            lib.parametrize.remove_parametrizations(module, name)
            assert lib.parametrize.is_parametrized(module) == (name == "weight")
        assert repr(ours) == repr(theirs)
    assert_same_state(ours, theirs)


@pytest.mark.parametrize("name", [None, "weight"])
@pytest.mark.parametrize("kinds", [("Symmetric", "Exp"), ("Sum",)], ids="-".join)
def test_transfer(kinds, name):
    pair, to = layers(), layers()
    for kind in kinds:
        register(pair, "weight", kind)
    register(pair, "bias", "Exp")
    for lib, source, target in zip((Ours, Theirs), pair, to, strict=True):
        assert lib.parametrize.transfer_parametrizations_and_params(source, target, name) is target
    assert_same_state(*to)
    shared = [len({id(p) for m in (a, b) for p in m.parameters()}) for a, b in zip(pair, to, strict=True)]
    assert shared[0] == shared[1]
    train_alike(*to, (4, 3))
    assert_same_state(*pair)


def test_transfer_to_a_module_that_lacks_the_tensor_and_from_one_without_parametrizations():
    pair = layers()
    register(pair, "weight", "Symmetric")
    to = nn.Identity(), torch.nn.Identity()
    for lib, source, target in zip((Ours, Theirs), pair, to, strict=True):
        lib.parametrize.transfer_parametrizations_and_params(source, target)
    assert repr(to[0]) == repr(to[1])
    assert_same_state(*to)
    assert ours_p.transfer_parametrizations_and_params(nn.Identity(), pair[0]) is pair[0]


def test_the_training_mode_is_taken_over():
    pair = layers()
    pair[0].eval()
    pair[1].eval()
    register(pair, "weight", "Exp")
    assert pair[0].parametrizations.weight[0].training is pair[1].parametrizations.weight[0].training is False


def test_copies():
    ours, theirs = pair = layers()
    register(pair, "weight", "Exp")
    copies = copy.deepcopy(ours), copy.deepcopy(theirs)
    assert_same_state(*copies)
    train_alike(*copies, (4, 3))
    assert_same_state(ours, theirs)
    assert repr(copies[0]) == repr(copies[1])


def cast(lib):
    return lambda x: lib.cast(x, lib.half)


@pytest.mark.parametrize("first", [True, False], ids=["the first", "a further one"])
@pytest.mark.parametrize(
    ("what", "options"),
    [
        (lambda lib: (cast(lib), None), {}),
        (lambda lib: (lambda x: x[:2], None), {}),
        (lambda lib: (lambda x: "text", None), {}),
        (lambda lib: (None, cast(lib)), {}),
        (lambda lib: (None, cast(lib)), {"unsafe": True}),
        (lambda lib: (None, lambda x: 3), {}),
        (lambda lib: (None, lambda x: x[:2]), {}),
        (lambda lib: (None, lambda x: [x, 3]), {}),
        (lambda lib: (None, lambda x: {"a": x}), {}),
    ],
)
def test_parametrizations_that_are_refused(first, what, options):
    ours, theirs = pair = layers()
    if not first:
        register(pair, "weight", "Exp")
    before = [str(n) for n, _ in ours.named_parameters()]

    def attempt(lib, module):
        parametrization = make(lib, "Returns", *what(lib))
        return lambda: lib.parametrize.register_parametrization(module, "weight", parametrization, **options)

    if not first and options:  # not checked then
        attempt(Ours, ours)()
        attempt(Theirs, theirs)()
        return
    same_error(attempt(Ours, ours), attempt(Theirs, theirs))
    assert [str(n) for n, _ in ours.named_parameters()] == before


def test_unsafe_parametrizations_may_change_shape_and_dtype():
    ours, theirs = pair = layers()
    register(pair, "weight", "Returns", lambda x: x[:2], unsafe=True)
    register(pair, "bias", "Returns", lambda x: x[:2], unsafe=True)
    train_alike(ours, theirs, (4, 3))
    for lib, module in zip((Ours, Theirs), pair, strict=True):
        lib.parametrize.remove_parametrizations(module, "weight")
    assert_same_state(ours, theirs)


@pytest.mark.parametrize(
    "what",
    [
        lambda lib, m: lib.parametrize.register_parametrization(m, "nothing", make(lib, "Exp")),
        lambda lib, m: lib.parametrize.register_parametrization(m, "weight", lambda x: x),
        lambda lib, m: lib.parametrize.register_parametrization(
            lib.nn.Linear(2, 2, bias=False), "bias", make(lib, "Exp")
        ),
        lambda lib, m: lib.parametrize.remove_parametrizations(m, "weight"),
        lambda lib, m: lib.parametrize.ParametrizationList([], m.weight),
    ],
)
def test_bad_arguments(what):
    ours, theirs = layers()
    same_error(lambda: what(Ours, ours), lambda: what(Theirs, theirs))
    assert repr(ours) == repr(theirs)


def test_inverses_that_change_their_mind():
    """A right_inverse that gives something else than it gave when it was registered."""
    for good, bad in [
        (lambda lib, x: x, lambda lib, x: 3),
        (lambda lib, x: x, lambda lib, x: lib.cast(x, lib.half)),
        (lambda lib, x: (x, x), lambda lib, x: x),
        (lambda lib, x: (x, x), lambda lib, x: (x, x, x)),
        (lambda lib, x: (x, x), lambda lib, x: (x, 3)),
        (lambda lib, x: (x, x), lambda lib, x: (x, lib.cast(x, lib.half))),
    ]:
        errors = []
        for lib, module, value in zip((Ours, Theirs), layers(), (jnp.ones((3, 3)), torch.ones(3, 3)), strict=True):
            now = [good]
            inverse = make(lib, "Returns", None, lambda x, lib=lib, now=now: now[0](lib, x))
            lib.parametrize.register_parametrization(module, "weight", inverse)
            now[0] = bad
            errors.append(lambda module=module, value=value: setattr(module, "weight", value))
        same_error(*errors)


def test_loading():
    ours, theirs = pair = layers()
    register(pair, "weight", "Sum")
    load(ours, theirs)
    plain = torch.nn.Linear(3, 3).state_dict()
    same_error(lambda: ours.load_state_dict(plain), lambda: theirs.load_state_dict(plain))

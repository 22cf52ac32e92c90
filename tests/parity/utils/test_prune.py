"""Pruning against torch's."""

import inspect

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.nn.utils import prune as theirs_p

from jaxmodule import nn
from jaxmodule.nn.utils import prune as ours_p
from tests.parity.oracle import assert_close, same_error, to_torch
from tests.parity.utils.training import assert_same_state, load, train_alike

METHODS = [
    "BasePruningMethod",
    "PruningContainer",
    "Identity",
    "RandomUnstructured",
    "L1Unstructured",
    "RandomStructured",
    "LnStructured",
    "CustomFromMask",
]
FUNCTIONS = [
    "identity",
    "random_unstructured",
    "l1_unstructured",
    "random_structured",
    "ln_structured",
    "global_unstructured",
    "custom_from_mask",
    "remove",
    "is_pruned",
]
INF = float("inf")


def parameters_of(function):
    return [(p.name, p.kind, p.default) for p in inspect.signature(function).parameters.values()]


@pytest.mark.parametrize("name", [*METHODS, *FUNCTIONS])
def test_signatures(name):
    mine, other = getattr(ours_p, name), getattr(theirs_p, name)
    assert parameters_of(mine) == parameters_of(other)
    if name in METHODS:
        for method in ("apply", "prune", "remove", "apply_mask", "compute_mask"):
            assert parameters_of(getattr(mine, method)) == parameters_of(getattr(other, method)), method
        assert getattr(mine, "PRUNING_TYPE", None) == getattr(other, "PRUNING_TYPE", None)
    assert sorted(ours_p.__all__) == sorted([*METHODS, *FUNCTIONS])


def conv(lib):
    return lib.Conv2d(3, 4, 2)


def linear(lib):
    return lib.Linear(4, 5)


def pair(make):
    ours, theirs = make(nn), make(torch.nn)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


SHAPES = {conv: (2, 3, 3, 3), linear: (2, 4)}
SCORES = np.random.default_rng(4).standard_normal((5, 4)).astype(np.float32)


def prune(ours, theirs, function, *args, **kwargs):
    def as_tensor(x):
        return to_torch(x) if isinstance(x, np.ndarray) else x

    assert getattr(ours_p, function)(ours, *args, **kwargs) is ours
    tensors = [as_tensor(a) for a in args], {k: as_tensor(v) for k, v in kwargs.items()}
    getattr(theirs_p, function)(theirs, *tensors[0], **tensors[1])


CASES = [
    (linear, "identity", "weight", {}),
    (linear, "l1_unstructured", "weight", {"amount": 7}),
    (linear, "l1_unstructured", "weight", {"amount": 0}),
    (linear, "l1_unstructured", "weight", {"amount": 20}),
    (linear, "l1_unstructured", "weight", {"amount": 0.3}),
    (linear, "l1_unstructured", "bias", {"amount": 0.5}),
    (linear, "l1_unstructured", "weight", {"amount": 3, "importance_scores": SCORES}),
    (conv, "l1_unstructured", "weight", {"amount": 0.4}),
    *[(conv, "ln_structured", "weight", {"amount": 2, "n": n, "dim": 0}) for n in (1, 2, 3.5, INF, -INF)],
    (conv, "ln_structured", "weight", {"amount": 0.5, "n": 2, "dim": 1}),
    (conv, "ln_structured", "weight", {"amount": 1, "n": 2, "dim": -1}),
    (conv, "ln_structured", "weight", {"amount": 0, "n": 2, "dim": 0}),
    (linear, "ln_structured", "weight", {"amount": 2, "n": 2, "dim": 1, "importance_scores": SCORES}),
    (linear, "custom_from_mask", "bias", {"mask": np.array([0, 1, 1, 0, 1])}),
]


@pytest.mark.parametrize(("make", "function", "name", "options"), CASES)
def test_values_names_and_training(make, function, name, options):
    ours, theirs = pair(make)
    prune(ours, theirs, function, name, **options)
    assert repr(ours) == repr(theirs)
    assert ours_p.is_pruned(ours)
    assert_same_state(ours, theirs)
    assert_close(getattr(ours, name), getattr(theirs, name))
    train_alike(ours, theirs, SHAPES[make])
    assert_close(getattr(ours, name)[getattr(ours, f"{name}_mask").value == 0].sum(), np.zeros((), np.float32))
    parameter = getattr(ours, f"{name}_orig")
    ours_p.remove(ours, name)
    theirs_p.remove(theirs, name)
    assert getattr(ours, name) is parameter
    assert not ours_p.is_pruned(ours)
    assert_same_state(ours, theirs)


def test_norms_of_matrices():
    t = np.random.default_rng(0).standard_normal((4, 3, 5)).astype(np.float32)
    for n in ("nuc", "fro", 0, 2):
        for dim in (0, 1, -1):
            mine = ours_p.LnStructured(amount=2, n=n, dim=dim).compute_mask(jnp.asarray(t), jnp.ones_like(t))
            other = theirs_p.LnStructured(amount=2, n=n, dim=dim).compute_mask(to_torch(t), torch.ones(t.shape))
            if n != 0:  # all channels have as many elements: which of them go is anybody's choice
                assert_close(mine, other)
            assert float(mine.sum()) == float(other.sum())
    same_error(
        lambda: ours_p.ln_structured(conv(nn), "weight", amount=1, n="nuc", dim=0),
        lambda: theirs_p.ln_structured(conv(torch.nn), "weight", amount=1, n="nuc", dim=0),
    )


STEPS = [
    [("l1_unstructured", {"amount": 5}), ("l1_unstructured", {"amount": 0.5})],
    [("ln_structured", {"amount": 1, "n": 2, "dim": 0}), ("ln_structured", {"amount": 1, "n": 1, "dim": 1})],
    [("ln_structured", {"amount": 1, "n": 2, "dim": 0}), ("ln_structured", {"amount": 0.5, "n": 1, "dim": 0})],
    [("ln_structured", {"amount": 2, "n": 2, "dim": -1}), ("l1_unstructured", {"amount": 3})],
    [
        ("l1_unstructured", {"amount": 5}),
        ("custom_from_mask", {"mask": np.tril(np.ones((5, 4), np.float32))}),
        ("identity", {}),
        ("l1_unstructured", {"amount": 2}),
    ],
]


@pytest.mark.parametrize("steps", STEPS)
def test_pruning_again(steps):
    ours, theirs = pair(linear)
    for function, options in steps:
        prune(ours, theirs, function, "weight", **options)
        assert_same_state(ours, theirs)
    (hook,), (other,) = ours._forward_pre_hooks.values(), theirs._forward_pre_hooks.values()
    assert [type(method).__name__ for method in hook] == [type(method).__name__ for method in other]
    assert len(hook) == len(other) == len(steps)
    assert type(hook[0]).__name__ == type(other[0]).__name__
    train_alike(ours, theirs, (2, 4))
    prune(ours, theirs, "l1_unstructured", "bias", amount=1)
    assert_same_state(ours, theirs)
    for name in ("weight", "bias"):
        ours_p.remove(ours, name)
        theirs_p.remove(theirs, name)
    assert_same_state(ours, theirs)


@pytest.mark.parametrize("amount", [4, 0.4])
@pytest.mark.parametrize("scored", [False, True])
def test_global(amount, scored):
    def model(lib):
        return lib.Sequential(lib.Linear(4, 5), lib.ReLU(), lib.Linear(5, 2))

    ours, theirs = pair(model)
    scores = {}
    for _ in range(2):  # the second time on top of the first
        for lib, module in ((ours_p, ours), (theirs_p, theirs)):
            pairs = [(module[0], "weight"), (module[2], "weight"), (module[2], "bias")]
            if scored:
                given = SCORES if lib is ours_p else to_torch(SCORES)
                scores = {(module[0], "weight"): given}
            method = lib.L1Unstructured
            assert (
                lib.global_unstructured(iter(pairs) if lib is ours_p else pairs, method, scores, amount=amount) is None
            )
        assert_same_state(ours, theirs)
    train_alike(ours, theirs, (2, 4))


@pytest.mark.parametrize(
    ("function", "options", "per"),
    [
        ("random_unstructured", {"amount": 6}, None),
        ("random_unstructured", {"amount": 0.3}, None),
        ("random_structured", {"amount": 2, "dim": 0}, 0),
        ("random_structured", {"amount": 0.5, "dim": -1}, 1),
        ("random_structured", {"amount": 0, "dim": 1}, 1),
        ("random_structured", {"amount": 4, "dim": 1}, 1),
    ],
)
def test_random(function, options, per):
    """As many as torch prunes, in the same kind of places; again, the same share of what is left."""
    ours, theirs = pair(linear)
    for _ in range(2):
        try:
            prune(ours, theirs, function, "weight", **options)
        except ValueError:  # more than are left: both say so
            return
        mine, other = np.asarray(ours.weight_mask), theirs.weight_mask.numpy()
        assert set(np.unique(mine)) <= {0, 1}
        assert mine.sum() == other.sum()
        if per is not None:
            assert sorted(mine.sum(1 - per)) == sorted(other.sum(1 - per))


def test_random_masks_are_uniform():
    masks = [ours_p.RandomUnstructured(2).compute_mask(jnp.ones(4), jnp.ones(4)) for _ in range(300)]
    share = np.mean(masks, 0)
    assert np.all(abs(share - 0.5) < 0.12), share  # four standard deviations


def test_methods_alone():
    t = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)
    mask = np.tril(np.ones((5, 4), np.float32))
    for name, options in (("L1Unstructured", {"amount": 3}), ("LnStructured", {"amount": 2, "n": 2}), ("Identity", {})):
        mine, other = getattr(ours_p, name)(**options), getattr(theirs_p, name)(**options)
        assert_close(mine.prune(t), other.prune(to_torch(t)))
        assert_close(mine.prune(t, mask, SCORES), other.prune(to_torch(t), to_torch(mask), to_torch(SCORES)))
        same_error(
            lambda mine=mine: mine.prune(t, importance_scores=t[:2]),
            lambda other=other: other.prune(to_torch(t), importance_scores=to_torch(t[:2])),
        )


def custom(lib, zeros):
    """A method of the user's."""

    class EveryOther(lib.BasePruningMethod):
        PRUNING_TYPE = "unstructured"

        def compute_mask(self, t, default_mask):
            return zeros(default_mask)

    return EveryOther


def test_a_method_of_ones_own():
    def their_zeros(mask):
        mask = mask.clone()
        mask.view(-1)[::2] = 0
        return mask

    mine = custom(ours_p, lambda mask: mask.reshape(-1).at[::2].set(0).reshape(mask.shape))
    other = custom(theirs_p, their_zeros)
    ours, theirs = pair(linear)
    for _ in range(2):
        mine.apply(ours, "weight")
        other.apply(theirs, "weight")
        assert_same_state(ours, theirs)
    train_alike(ours, theirs, (2, 4))


@pytest.mark.parametrize(
    "what",
    [
        lambda p, m, a: p.l1_unstructured(m, "weight", amount=1.5),
        lambda p, m, a: p.l1_unstructured(m, "weight", amount=-1),
        lambda p, m, a: p.l1_unstructured(m, "weight", amount=-0.5),
        lambda p, m, a: p.l1_unstructured(m, "weight", amount=100),
        lambda p, m, a: p.l1_unstructured(m, "weight", amount="much"),
        lambda p, m, a: p.l1_unstructured(m, "nothing", amount=1),
        lambda p, m, a: p.random_unstructured(m, "weight", amount=100),
        lambda p, m, a: p.ln_structured(m, "bias", amount=1, n=2, dim=0),
        lambda p, m, a: p.ln_structured(m, "weight", amount=1, n=2, dim=2),
        lambda p, m, a: p.ln_structured(m, "weight", amount=1, n=2, dim=-3),
        lambda p, m, a: p.ln_structured(m, "weight", amount=10, n=2, dim=0),
        lambda p, m, a: p.random_structured(m, "weight", amount=1, dim=2),
        lambda p, m, a: p.random_structured(m, "weight", amount=1, dim=-3),
        lambda p, m, a: p.custom_from_mask(m, "weight", a(np.ones((2, 2)))),
        lambda p, m, a: p.l1_unstructured(m, "weight", amount=1, importance_scores=a(np.ones((2, 2)))),
        lambda p, m, a: p.global_unstructured(3, p.L1Unstructured),
        lambda p, m, a: p.global_unstructured([(m, "weight")], p.L1Unstructured, importance_scores=3, amount=1),
        lambda p, m, a: p.global_unstructured([(m, "weight")], p.LnStructured, amount=1, n=2),
        lambda p, m, a: p.remove(m, "weight"),
        lambda p, m, a: p.PruningContainer(3),
        lambda p, m, a: p.BasePruningMethod(),
    ],
)
def test_bad_arguments(what):
    ours, theirs = pair(linear)
    same_error(lambda: what(ours_p, ours, jnp.asarray), lambda: what(theirs_p, theirs, torch.from_numpy))
    assert list(ours.state_dict()) == ["weight", "bias"]
    assert not ours._forward_pre_hooks


def test_containers():
    for lib in (theirs_p, ours_p):
        first, second = lib.Identity(), lib.Identity()
        first._tensor_name, second._tensor_name = "a", "b"
        container = lib.PruningContainer(first)
        for bad, error in ((second, ValueError), (3, TypeError)):
            with pytest.raises(error, match="b'|not a BasePruningMethod"):
                container.add_pruning_method(bad)
        assert list(container) == [first]
        second._tensor_name = "a"
        container.add_pruning_method(second)
        assert (len(container), container[1]) == (2, second)
    assert len(ours_p.PruningContainer(first, second)) == 2  # in torch an AttributeError


@pytest.mark.parametrize("kind", ["structured", "unknown"])
def test_types_that_a_container_does_not_know(kind):
    def method(lib):
        class Method(lib.BasePruningMethod):
            PRUNING_TYPE = kind

            def compute_mask(self, t, default_mask):
                return default_mask

        return Method

    def twice(lib, module):
        method(lib).apply(module, "weight")
        method(lib).apply(module, "weight")

    ours, theirs = pair(linear)
    same_error(lambda: twice(ours_p, ours), lambda: twice(theirs_p, theirs))


def test_loading():
    ours, theirs = pair(linear)
    prune(ours, theirs, "random_unstructured", "weight", amount=0.5)
    load(ours, theirs)
    assert_close(ours.weight, theirs.weight)

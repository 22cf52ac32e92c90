"""The hook-based `weight_norm` and `spectral_norm` against torch's."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from jaxmodule import nn
from jaxmodule.nn import utils
from tests.parity.oracle import assert_close, same_error
from tests.parity.utils.training import assert_same_state, load, train_alike

THEIRS = torch.nn.utils
LAYERS = {
    "linear": (lambda lib: lib.Linear(4, 3), (5, 4)),
    "conv": (lambda lib: lib.Conv2d(2, 3, 2), (2, 2, 4, 4)),
    "transposed": (lambda lib: lib.ConvTranspose1d(2, 3, 2), (2, 2, 4)),
}

pytestmark = pytest.mark.filterwarnings("ignore:.torch.nn.utils.weight_norm. is deprecated:FutureWarning")


@pytest.mark.parametrize("function", ["weight_norm", "remove_weight_norm", "spectral_norm", "remove_spectral_norm"])
def test_signatures(function):
    mine, other = (inspect.signature(getattr(lib, function)) for lib in (utils, THEIRS))
    assert [(p.name, p.kind, p.default) for p in mine.parameters.values()] == [
        (p.name, p.kind, p.default) for p in other.parameters.values()
    ]


def pair(layer, function, *args, **kwargs):
    make, shape = LAYERS[layer]
    ours = getattr(utils, function)(make(nn), *args, **kwargs)
    theirs = getattr(THEIRS, function)(make(torch.nn), *args, **kwargs)
    return ours, theirs, shape


@pytest.mark.filterwarnings("default::FutureWarning")
def test_weight_norm_warns():
    for lib, layer in ((utils, nn.Linear(2, 2)), (THEIRS, torch.nn.Linear(2, 2))):
        with pytest.warns(
            FutureWarning, match="is deprecated in favor of .torch.nn.utils.parametrizations.weight_norm"
        ):
            lib.weight_norm(layer)


@pytest.mark.parametrize(
    ("layer", "options"),
    [
        ("linear", {}),
        ("linear", {"dim": 1}),
        ("linear", {"dim": None}),
        ("linear", {"name": "bias", "dim": None}),
        ("conv", {"dim": 0}),
        ("conv", {"dim": 1}),
        ("conv", {"dim": 3}),
    ],
)
def test_weight_norm(layer, options):
    ours, theirs, shape = pair(layer, "weight_norm", **options)
    name = options.get("name", "weight")
    assert repr(ours) == repr(theirs)
    train_alike(ours, theirs, shape)
    utils.remove_weight_norm(ours, name)
    THEIRS.remove_weight_norm(theirs, name)
    assert_same_state(ours, theirs)
    assert not ours._forward_pre_hooks
    train_alike(ours, theirs, shape)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("layer", "options"),
    [
        ("linear", {}),
        ("linear", {"n_power_iterations": 3, "dim": 1}),
        ("linear", {"name": "bias"}),
        ("conv", {"eps": 1e-3}),
        ("transposed", {}),
    ],
)
def test_spectral_norm(layer, options, training):
    ours, theirs, shape = pair(layer, "spectral_norm", **options)
    name = options.get("name", "weight")
    assert repr(ours) == repr(theirs)
    ours.train(training)
    theirs.train(training)
    with torch.no_grad():  # near the singular vectors, or the norm without training is next to nothing
        hook = next(iter(theirs._forward_pre_hooks.values()))
        for _ in range(20):
            hook.compute_weight(theirs, do_power_iteration=True)
    train_alike(ours, theirs, shape, lr=0.005)
    theirs.eval()(torch.zeros(shape))  # torch's weight is that of the last call, before the last step
    assert_close(getattr(ours, name), getattr(theirs, name))
    utils.remove_spectral_norm(ours, name)
    THEIRS.remove_spectral_norm(theirs, name)
    assert_same_state(ours, theirs)
    assert not ours._forward_pre_hooks
    assert not ours._state_dict_hooks
    assert not ours._load_state_dict_pre_hooks


def test_spectral_norm_reads_files_from_before_there_was_a_v():
    # A tall weight: of a wide one torch inverts a singular matrix.
    ours, theirs = utils.spectral_norm(nn.Linear(3, 6)), THEIRS.spectral_norm(torch.nn.Linear(3, 6))
    theirs(torch.ones(5, 3))
    state = theirs.state_dict()
    state["weight"] = theirs.weight.detach()
    del state["weight_v"]
    state._metadata[""].pop("spectral_norm")
    theirs.load_state_dict(state.copy())
    ours.load_state_dict(state)
    assert_same_state(ours, theirs, 1e-4)  # v comes out of a pseudo-inverse
    del state["weight"]
    same_error(lambda: ours.load_state_dict(state), lambda: theirs.load_state_dict(state))


def test_spectral_norm_writes_its_version_and_reads_plain_dicts():
    ours, theirs, _ = pair("linear", "spectral_norm")
    assert ours.state_dict()._metadata[""] == theirs.state_dict()._metadata[""]
    plain = {name: value.numpy() for name, value in theirs.state_dict().items()}
    report = ours.load_state_dict(plain)
    assert not report.missing_keys
    assert_same_state(ours, theirs)


@pytest.mark.parametrize(
    "what",
    [
        lambda lib, u: u.remove_weight_norm(lib.Linear(2, 2)),
        lambda lib, u: u.remove_spectral_norm(lib.Linear(2, 2)),
        lambda lib, u: u.weight_norm(u.weight_norm(lib.Linear(2, 2))),
        lambda lib, u: u.spectral_norm(u.spectral_norm(lib.Linear(2, 2))),
        lambda lib, u: u.weight_norm(lib.Linear(2, 2), "nothing"),
        lambda lib, u: u.spectral_norm(lib.Linear(2, 2), "nothing"),
        lambda lib, u: u.weight_norm(lib.Linear(2, 2, bias=False), "bias"),
        lambda lib, u: u.spectral_norm(lib.Linear(2, 2, bias=False), "bias"),
        lambda lib, u: u.spectral_norm(lib.Linear(2, 2), dim=3),
        lambda lib, u: u.weight_norm(lib.Linear(2, 2), dim=3),
        lambda lib, u: u.spectral_norm(lib.Linear(2, 2), n_power_iterations=0),
        lambda lib, u: u.weight_norm(lib.LazyLinear(2)),
        lambda lib, u: u.spectral_norm(lib.LazyLinear(2)),
    ],
)
def test_bad_arguments(what):
    same_error(lambda: what(nn, utils), lambda: what(torch.nn, THEIRS))


def test_double_precision_and_half():
    with jax.enable_x64(True):
        for function in ("weight_norm", "spectral_norm"):
            ours = getattr(utils, function)(nn.Linear(4, 3, dtype=jnp.float64)).eval()
            theirs = getattr(THEIRS, function)(torch.nn.Linear(4, 3, dtype=torch.float64)).eval()
            load(ours, theirs)
            x = np.ones((1, 4))
            np.testing.assert_allclose(
                np.asarray(ours(x)), theirs(torch.from_numpy(x)).detach().numpy(), rtol=1e-10, atol=1e-10
            )
    ours, theirs, _ = pair("linear", "weight_norm")
    load(ours.bfloat16(), theirs.bfloat16())
    theirs(torch.ones(1, 4).bfloat16())
    assert ours.weight.dtype == jnp.bfloat16
    assert_close(ours.weight, theirs.weight, 1e-2)  # a unit in the last place of bfloat16 is 2 ** -8

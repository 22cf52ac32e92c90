"""`weight_norm`, `spectral_norm` and `orthogonal` as parametrizations against torch's."""

import inspect
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.nn.utils import parametrizations as theirs_p
from torch.nn.utils import parametrize as their_parametrize

from jaxmodule import nn
from jaxmodule.nn.utils import parametrizations as ours_p
from jaxmodule.nn.utils import parametrize
from tests.parity.oracle import assert_close, same_error, to_numpy, to_torch
from tests.parity.utils.training import assert_same_state, load, train_alike

LAYERS = {
    "linear": (lambda lib: lib.Linear(4, 3), (5, 4)),
    "tall": (lambda lib: lib.Linear(3, 5), (5, 3)),
    "square": (lambda lib: lib.Linear(3, 3, bias=False), (5, 3)),
    "conv": (lambda lib: lib.Conv2d(2, 3, 2), (2, 2, 4, 4)),
}
RECURRENT = [
    ("weight_norm", {"name": "weight_hh_l0"}),
    ("spectral_norm", {"name": "weight_ih_l0"}),
    ("orthogonal", {"name": "weight_hh_l0"}),
]


def pair(layer, function, *args, **kwargs):
    make, shape = LAYERS[layer]
    ours = getattr(ours_p, function)(make(nn), *args, **kwargs)
    theirs = getattr(theirs_p, function)(make(torch.nn), *args, **kwargs)
    return ours, theirs, shape


@pytest.mark.parametrize("function", ours_p.__all__)
def test_signatures(function):
    mine, other = (inspect.signature(getattr(lib, function)) for lib in (ours_p, theirs_p))
    assert [(p.name, p.kind, p.default) for p in mine.parameters.values()] == [
        (p.name, p.kind, p.default) for p in other.parameters.values()
    ]


@pytest.mark.parametrize(
    ("layer", "dim"),
    [
        ("linear", 0),
        ("linear", 1),
        ("linear", None),
        ("linear", -1),
        ("linear", -2),
        ("conv", 0),
        ("conv", 2),
        ("conv", 3),
    ],
)
def test_weight_norm(layer, dim):
    ours, theirs, shape = pair(layer, "weight_norm", dim=dim)
    assert repr(ours) == repr(theirs)
    train_alike(ours, theirs, shape)
    ours.load_state_dict(theirs.state_dict())
    ours_value = jnp.asarray(np.random.default_rng(0).standard_normal(ours.weight.shape).astype(np.float32))
    ours.weight = ours_value
    theirs.weight = to_torch(ours_value)
    assert_same_state(ours, theirs)
    parametrize.remove_parametrizations(ours, "weight")
    their_parametrize.remove_parametrizations(theirs, "weight")
    assert repr(ours) == repr(theirs)
    assert_same_state(ours, theirs)


@pytest.mark.parametrize("dim", [0, 1, None])
def test_weight_norm_reads_the_files_of_the_hook(dim):
    ours, _, _ = pair("conv", "weight_norm", dim=dim)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        old = torch.nn.utils.weight_norm(torch.nn.Conv2d(2, 3, 2), dim=dim)
    nested, nested_old = nn.Sequential(ours), torch.nn.Sequential(old)
    report = nested.load_state_dict(nested_old.state_dict())
    assert not report.missing_keys
    assert not report.unexpected_keys
    x = np.random.default_rng(0).standard_normal((2, 2, 4, 4)).astype(np.float32)
    assert_close(ours(x), old(to_torch(x)))
    assert_close(ours.parametrizations.weight.original1, old.weight_v)


def test_weight_norm_of_half_precision():
    ours, theirs, _ = pair("linear", "weight_norm")
    load(ours.bfloat16(), theirs.bfloat16())
    assert ours.weight.dtype == jnp.bfloat16
    assert_close(ours.weight, theirs.weight, 1e-2)  # a unit in the last place of bfloat16 is 2 ** -8


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("layer", "options"),
    [
        ("linear", {}),
        ("linear", {"n_power_iterations": 2, "dim": 1}),
        ("linear", {"n_power_iterations": 5, "dim": -1}),
        ("linear", {"name": "bias"}),
        ("conv", {"eps": 1e-3}),
        ("conv", {"dim": 1}),
    ],
)
def test_spectral_norm(layer, options, training):
    ours, theirs, shape = pair(layer, "spectral_norm", **options)
    assert repr(ours) == repr(theirs)
    load(ours, theirs)
    # Small steps: with fixed vectors the norm comes near zero, where the gradient is as large as you like.
    train_alike(ours.train(training), theirs.train(training), shape, lr=0.005)
    parametrize.remove_parametrizations(ours, options.get("name", "weight"))
    their_parametrize.remove_parametrizations(theirs, options.get("name", "weight"))
    assert_same_state(ours, theirs)


def test_spectral_norm_starts_near_the_singular_vectors():
    ours, _, _ = pair("linear", "spectral_norm")
    norm = float(jnp.linalg.norm(ours.eval().weight, 2))
    assert abs(norm - 1) < 1e-2


def test_spectral_norm_of_a_zero_bias_is_zero_with_torchs_gradient():
    layers = [lib.Linear(2, 3) for lib in (nn, torch.nn)]
    nn.init.zeros_(layers[0].bias)
    torch.nn.init.zeros_(layers[1].bias)
    ours, theirs = ours_p.spectral_norm(layers[0], "bias"), theirs_p.spectral_norm(layers[1], "bias")
    theirs.bias.sum().backward()
    original = ours.parametrizations.bias.original

    def total(x):
        return ours.parametrizations.bias[0](x).sum()

    assert_close(jax.grad(total)(original.value), theirs.parametrizations.bias.original.grad)


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_spectral_norm_of_transposed_convolutions(dims):
    name = f"ConvTranspose{dims}d"
    ours = ours_p.spectral_norm(getattr(nn, name)(2, 3, 2))
    theirs = theirs_p.spectral_norm(getattr(torch.nn, name)(2, 3, 2))
    assert ours.parametrizations.weight[0]._u.shape == tuple(theirs.parametrizations.weight[0]._u.shape) == (3,)


@pytest.mark.parametrize(("function", "options"), RECURRENT)
def test_recurrent_layers(function, options):
    class First:
        """The output without the final state."""

        def forward(self, x):
            return self.rnn(x)[0]

    def model(lib):
        class Net(First, lib.Module):
            def __init__(self):
                super().__init__()
                self.rnn = lib.RNN(3, 4)

        return Net()

    ours, theirs = model(nn), model(torch.nn)
    getattr(ours_p, function)(ours.rnn, **options)
    getattr(theirs_p, function)(theirs.rnn, **options)
    if function == "spectral_norm":  # in training torch's RNN reads each weight more than once, which iterates
        ours.eval()
        theirs.eval()
    # Five time steps and five of training amplify the last digit of the exponential.
    train_alike(ours, theirs, (5, 2, 3), lr=0.02, rtol=5e-5)


MAPS = ["matrix_exp", "cayley", "householder"]


@pytest.mark.parametrize("trivial", [True, False])
@pytest.mark.parametrize(
    ("layer", "orthogonal_map"),
    [
        ("linear", None),
        ("linear", "cayley"),
        ("tall", "matrix_exp"),
        ("tall", "householder"),
        ("square", None),
        ("square", "cayley"),
        ("square", "householder"),
    ],
)
def test_orthogonal(layer, orthogonal_map, trivial):
    ours, theirs, shape = pair(layer, "orthogonal", orthogonal_map=orthogonal_map, use_trivialization=trivial)
    assert repr(ours) == repr(theirs)
    load(ours, theirs)
    assert_close(ours.weight, theirs.weight)
    train_alike(ours, theirs, shape)
    q = np.random.default_rng(1).standard_normal(ours.weight.shape).astype(np.float32)
    if not trivial and orthogonal_map != "householder" and (orthogonal_map or layer == "square"):
        same_error(lambda: setattr(ours, "weight", jnp.asarray(q)), lambda: setattr(theirs, "weight", to_torch(q)))
        return
    ours.weight = jnp.asarray(q)
    theirs.weight = to_torch(q)
    if not trivial or layer == "square":  # else the base is completed at random
        assert_same_state(ours, theirs)
    assert_close(ours.weight, theirs.weight)
    parametrize.remove_parametrizations(ours, "weight")
    their_parametrize.remove_parametrizations(theirs, "weight")
    assert_same_state(ours, theirs)


@pytest.mark.parametrize("orthogonal_map", MAPS)
def test_an_orthogonal_matrix_stays_what_it_is(orthogonal_map):
    q = np.linalg.qr(np.random.default_rng(1).standard_normal((4, 4)))[0].astype(np.float32)
    q = q * np.array([1, -1, 1, 1], np.float32)
    layer = nn.Linear(4, 4)
    layer.weight.value = jnp.asarray(q)
    ours_p.orthogonal(layer, orthogonal_map=orthogonal_map)
    assert_close(layer.weight, q)


@pytest.mark.parametrize(
    ("shape", "orthogonal_map"),
    [
        ((2, 3, 4), "matrix_exp"),
        ((2, 4, 3), "cayley"),
        ((2, 2, 3, 3), "cayley"),
        ((2, 3, 4), "householder"),
        ((2, 2, 4, 3), "householder"),
    ],
)
def test_orthogonal_of_a_batch(shape, orthogonal_map):
    class Ours(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(jnp.zeros(shape))

    class Theirs(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.w = torch.nn.Parameter(torch.zeros(shape))

    start = np.random.default_rng(5).standard_normal(shape).astype(np.float32)
    ours, theirs = Ours(), Theirs()
    ours.w.value = jnp.asarray(start)
    theirs.w.data = to_torch(start)
    ours_p.orthogonal(ours, "w", orthogonal_map)
    theirs_p.orthogonal(theirs, "w", orthogonal_map)
    load(ours, theirs)
    move = np.random.default_rng(6).standard_normal(shape).astype(np.float32)
    box, other = ours.parametrizations.w.original, theirs.parametrizations.w.original
    box.value = box.value + move
    with torch.no_grad():
        other += to_torch(move)
    assert_close(ours.w, theirs.w)
    cotangent = np.random.default_rng(7).standard_normal(shape).astype(np.float32)
    (theirs.w * to_torch(cotangent)).sum().backward()
    gradient = jax.grad(lambda x: jnp.sum(ours.parametrizations.w[0](x) * cotangent))(box.value)
    # Householder's diagonal is a sign, and its gradient nothing.
    assert_close(gradient, other.grad, 2e-5)  # the exponential's series differ between the two


@pytest.mark.parametrize("orthogonal_map", ["matrix_exp", "cayley"])
@pytest.mark.parametrize("trivial", [True, False])
def test_unitary(orthogonal_map, trivial):
    rng = np.random.default_rng(8)
    start = (rng.standard_normal((3, 3)) + 1j * rng.standard_normal((3, 3))).astype(np.complex64)

    def layer(lib, array):
        module = lib.Module()
        module.w = lib.Parameter(array)
        return module

    ours, theirs = layer(nn, jnp.asarray(start)), layer(torch.nn, torch.from_numpy(start))
    ours_p.orthogonal(ours, "w", orthogonal_map, use_trivialization=trivial)
    theirs_p.orthogonal(theirs, "w", orthogonal_map, use_trivialization=trivial)
    load(ours, theirs)
    np.testing.assert_allclose(np.asarray(ours.w), theirs.w.detach().numpy(), atol=1e-5)
    np.testing.assert_allclose(np.asarray(ours.w.conj().T @ ours.w), np.eye(3), atol=1e-5)
    same_error(
        lambda: ours_p.orthogonal(layer(nn, jnp.asarray(start)), "w", "householder"),
        lambda: theirs_p.orthogonal(layer(torch.nn, torch.from_numpy(start)), "w", "householder"),
    )


def test_double_precision():
    with jax.enable_x64(True):
        for function in ours_p.__all__:
            ours = getattr(ours_p, function)(nn.Linear(4, 3, dtype=jnp.float64))
            theirs = getattr(theirs_p, function)(torch.nn.Linear(4, 3, dtype=torch.float64))
            ours.load_state_dict(theirs.state_dict())
            assert ours.weight.dtype == jnp.float64
            np.testing.assert_allclose(np.asarray(ours.eval().weight), to_numpy(theirs.eval().weight), rtol=1e-12)


@pytest.mark.parametrize(
    ("function", "args", "options"),
    [
        ("weight_norm", ("nothing",), {}),
        ("weight_norm", ("weight",), {"dim": 2}),
        ("spectral_norm", ("nothing",), {}),
        ("spectral_norm", ("weight",), {"dim": 2}),
        ("spectral_norm", ("weight",), {"dim": -3}),
        ("spectral_norm", ("weight",), {"n_power_iterations": 0}),
        ("orthogonal", ("nothing",), {}),
        ("orthogonal", ("bias",), {}),
        ("orthogonal", ("weight", "exp"), {}),
    ],
)
def test_bad_arguments(function, args, options):
    ours, theirs = nn.Linear(2, 3), torch.nn.Linear(2, 3)
    same_error(
        lambda: getattr(ours_p, function)(ours, *args, **options),
        lambda: getattr(theirs_p, function)(theirs, *args, **options),
    )
    assert list(ours.state_dict()) == ["weight", "bias"]
    assert repr(ours) == "Linear(in_features=2, out_features=3, bias=True)"


@pytest.mark.parametrize("function", ours_p.__all__)
def test_uninitialized_parameters(function):
    ours, theirs = nn.LazyLinear(3), torch.nn.LazyLinear(3)
    same_error(lambda: getattr(ours_p, function)(ours), lambda: getattr(theirs_p, function)(theirs))


def test_assigning_a_matrix_of_another_shape_is_an_error():
    ours, theirs, _ = pair("linear", "orthogonal")
    same_error(lambda: setattr(ours, "weight", jnp.zeros((2, 2))), lambda: setattr(theirs, "weight", torch.zeros(2, 2)))

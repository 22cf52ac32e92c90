"""`nn.init` against `torch.nn.init`: formulas, what is deterministic, signatures, errors."""

import inspect
import math
import re
import warnings

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.nn import init as torch_init

from jaxmodule import nn
from jaxmodule.nn import init

NAMES = sorted(
    name
    for name, value in vars(torch_init).items()
    if inspect.isfunction(value) and value.__module__ == torch_init.__name__ and not name.startswith("_")
)


def test_every_name_is_there():
    assert sorted(init.__all__) == NAMES


@pytest.mark.parametrize("name", [name for name in NAMES if name.endswith("_") or name == "calculate_gain"])
def test_signatures(name):
    def plain(function):
        return [(p.name, p.kind, p.default) for p in inspect.signature(function).parameters.values()]

    assert plain(getattr(init, name)) == plain(getattr(torch_init, name))


@pytest.mark.parametrize(
    "args",
    [
        *((n,) for n in ("linear", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d")),
        *((n,) for n in ("conv_transpose3d", "sigmoid", "tanh", "relu", "leaky_relu", "selu")),
        ("leaky_relu", 0.2),
        ("leaky_relu", 1),
        ("relu", 5),
    ],
    ids=str,
)
def test_calculate_gain(args):
    assert init.calculate_gain(*args) == torch_init.calculate_gain(*args)


@pytest.mark.parametrize(
    ("name", "shape", "args"),
    [
        ("constant_", (2, 3), (0.3,)),
        ("constant_", (), (-1,)),
        ("ones_", (2, 3), ()),
        ("zeros_", (2, 3), ()),
        ("eye_", (3, 3), ()),
        ("eye_", (2, 5), ()),
        ("eye_", (5, 2), ()),
        ("dirac_", (4, 4, 3), ()),
        ("dirac_", (6, 2, 4), (3,)),
        ("dirac_", (4, 6, 3, 5), (2,)),
        ("dirac_", (6, 1, 2, 3, 4), (2,)),
        ("dirac_", (8, 3, 1, 1), (2,)),
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", ["float32", "int32", "bool"])
def test_deterministic(name, shape, args, dtype):
    ours = getattr(init, name)(nn.Parameter(jnp.ones(shape, dtype)), *args)
    theirs = getattr(torch_init, name)(torch.ones(shape, dtype=getattr(torch, dtype)), *args)
    np.testing.assert_array_equal(np.asarray(ours), theirs.numpy())


CASES = [
    ("uniform_", {"a": -0.3, "b": 1.2}),
    ("normal_", {"mean": 0.4, "std": 2.0}),
    ("trunc_normal_", {"mean": 0.2, "std": 0.7, "a": -0.5, "b": 1.0}),
    ("trunc_normal_", {"std": 0.02}),
    ("trunc_normal_", {"mean": 0.0, "std": 1.0, "a": 1.5, "b": 3.0}),
    ("xavier_uniform_", {"gain": 1.3}),
    ("xavier_normal_", {"gain": 1.3}),
    *(
        (f"kaiming_{kind}_", {"a": 0.3, "mode": mode, "nonlinearity": nonlinearity})
        for kind in ("uniform", "normal")
        for mode in ("fan_in", "fan_out", "FAN_OUT")
        for nonlinearity in ("leaky_relu", "relu", "selu", "tanh")
    ),
    ("orthogonal_", {"gain": 0.6}),
]


@pytest.mark.parametrize(("name", "kwargs"), CASES, ids=str)
@pytest.mark.parametrize("shape", [(200, 100), (40, 60, 3, 3)], ids=str)
def test_moments(name, kwargs, shape):
    ours = np.asarray(getattr(init, name)(nn.Parameter(jnp.zeros(shape)), **kwargs))
    theirs = getattr(torch_init, name)(torch.zeros(shape), **kwargs).numpy()
    # 20,000 samples each: the spread of a mean is std / 141, that of a std less; 5 sigma of a difference.
    assert math.isclose(ours.std(), theirs.std(), rel_tol=0.05)
    assert abs(ours.mean() - theirs.mean()) < 0.05 * theirs.std()
    if "uniform" in name or ("trunc" in name and "a" in kwargs):
        for bound in ("min", "max"):
            assert abs(getattr(ours, bound)() - getattr(theirs, bound)()) < 0.02 * np.ptp(theirs)


def test_sparse_counts():
    for sparsity in (0.0, 0.3, 1.0, 1.1, -0.5):
        ours = np.asarray(init.sparse_(nn.Parameter(jnp.zeros((11, 4))), sparsity))
        theirs = torch_init.sparse_(torch.zeros(11, 4), sparsity).numpy()
        np.testing.assert_array_equal((ours == 0).sum(0), (theirs == 0).sum(0))


@pytest.mark.parametrize(
    ("name", "shape", "args"),
    [
        ("uniform_", (3,), (1.0, 0.0)),
        ("normal_", (3,), (0.0, -1.0)),
        ("trunc_normal_", (3,), (0.0, 0.0)),
        ("trunc_normal_", (3,), (0.0, 1.0, 2.0, -2.0)),
        ("xavier_uniform_", (3,), ()),
        ("xavier_normal_", (3,), ()),
        ("xavier_uniform_", (0, 0), ()),
        ("xavier_uniform_", (3, 3), (-1.0,)),
        ("kaiming_uniform_", (3,), ()),
        ("kaiming_normal_", (3,), ()),
        ("kaiming_normal_", (3, 3), (0, "Neither")),
        ("kaiming_normal_", (3, 3), (0, "fan_in", "gelu")),
        ("kaiming_normal_", (3, 3), (True,)),
        ("kaiming_uniform_", (3, 3), ("x",)),
        ("eye_", (3,), ()),
        ("dirac_", (3, 3), ()),
        ("dirac_", (5, 3, 3), (2,)),
        ("orthogonal_", (3,), ()),
        ("sparse_", (3,), (0.1,)),
    ],
    ids=str,
)
def test_errors(name, shape, args):
    with pytest.raises((RuntimeError, ValueError, ZeroDivisionError)) as theirs:
        getattr(torch_init, name)(torch.zeros(shape), *args)
    with pytest.raises(theirs.type, match=f"^{re.escape(str(theirs.value))}$"):
        getattr(init, name)(nn.Parameter(jnp.zeros(shape)), *args)


@pytest.mark.parametrize("name", ["uniform_", "normal_", "kaiming_normal_"])
def test_integers(name):
    with pytest.raises(NotImplementedError, match="not implemented for"):
        getattr(torch_init, name)(torch.zeros((3, 3), dtype=torch.int32))
    with pytest.raises(NotImplementedError, match="not implemented for"):
        getattr(init, name)(nn.Parameter(jnp.zeros((3, 3), jnp.int32)))


@pytest.mark.parametrize(
    ("name", "shape", "args"),
    [
        ("kaiming_uniform_", (0, 3), ()),
        ("kaiming_normal_", (3, 0), ()),
        ("trunc_normal_", (3,), (10.0,)),
        *(
            (name, (4, 4, 3) if name == "dirac" else (4, 4), (0.5,) if name in ("constant", "sparse") else ())
            for name in NAMES
            if not name.endswith("_") and name != "calculate_gain"
        ),
    ],
    ids=str,
)
def test_warnings(name, shape, args):
    def caught(function, tensor):
        with warnings.catch_warnings(record=True) as records:
            warnings.simplefilter("always")
            function(tensor, *args)
        return [(record.category, str(record.message)) for record in records]

    ours = caught(getattr(init, name), nn.Parameter(jnp.zeros(shape)))
    assert ours == caught(getattr(torch_init, name), torch.zeros(shape))
    assert ours

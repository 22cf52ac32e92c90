"""Folding of batch normalisations, `skip_init` and memory formats against torch's."""

import inspect

import jax.numpy as jnp
import numpy as np
import pytest
import torch

from jaxmodule import nn
from jaxmodule.nn import utils
from tests.parity.oracle import assert_close, same_error, to_torch

THEIRS = torch.nn.utils
FUNCTIONS = [
    *["fuse_conv_bn_eval", "fuse_conv_bn_weights", "fuse_linear_bn_eval", "fuse_linear_bn_weights"],
    *["skip_init", "convert_conv2d_weight_memory_format", "convert_conv3d_weight_memory_format"],
]


@pytest.mark.parametrize("function", FUNCTIONS)
def test_signatures(function):
    mine, other = (inspect.signature(getattr(lib, function)) for lib in (utils, THEIRS))
    assert [(p.name, p.kind, p.default) for p in mine.parameters.values()] == [
        (p.name, p.kind, p.default) for p in other.parameters.values()
    ]


def test_all():
    assert set(utils.__all__) - {"lora", "tie"} == set(THEIRS.__all__)


def pair(make_layer, make_norm, dtype=None):
    """A layer and a normalisation with statistics, in both, in eval mode."""
    rng = np.random.default_rng(0)
    theirs = make_layer(torch.nn), make_norm(torch.nn)
    for name, tensor in theirs[1].state_dict().items():
        if tensor.is_floating_point():
            with torch.no_grad():
                tensor.copy_(torch.from_numpy(rng.uniform(0.5, 2, tuple(tensor.shape)).astype(np.float32)))
        assert name
    ours = make_layer(nn), make_norm(nn)
    for mine, other in zip(ours, theirs, strict=True):
        mine.load_state_dict(other.state_dict())
        mine.eval()
        other.eval()
    if dtype is not None:
        ours[0].bfloat16()
        theirs[0].bfloat16()
    return ours, theirs


def assert_same_layer(mine, other, rtol=1e-5):
    assert repr(mine) == repr(other)
    assert list(mine.state_dict()) == list(other.state_dict())
    for name, value in other.state_dict().items():
        assert str(mine.state_dict()[name].dtype) == str(value.dtype).removeprefix("torch.")
        assert_close(mine.state_dict()[name], value, rtol, name)
    assert [p.requires_grad for p in mine.parameters()] == [p.requires_grad for p in other.parameters()]


CONVOLUTIONS = {
    "1d": (lambda lib: lib.Conv1d(3, 4, 2), lambda lib: lib.BatchNorm1d(4), (2, 3, 5)),
    "2d": (lambda lib: lib.Conv2d(3, 4, 2), lambda lib: lib.BatchNorm2d(4, eps=0.1), (2, 3, 5, 5)),
    "3d": (lambda lib: lib.Conv3d(3, 4, 2), lambda lib: lib.BatchNorm3d(4), (2, 3, 3, 3, 3)),
    "no bias": (lambda lib: lib.Conv2d(3, 4, 2, bias=False), lambda lib: lib.BatchNorm2d(4), (2, 3, 5, 5)),
    "not affine": (lambda lib: lib.Conv2d(3, 4, 2), lambda lib: lib.BatchNorm2d(4, affine=False), (2, 3, 5, 5)),
    "groups": (lambda lib: lib.Conv2d(4, 4, 2, groups=2), lambda lib: lib.BatchNorm2d(4), (2, 4, 5, 5)),
}


@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_convolutions(kind):
    make_layer, make_norm, shape = CONVOLUTIONS[kind]
    ours, theirs = pair(make_layer, make_norm)
    fused, other = utils.fuse_conv_bn_eval(*ours), THEIRS.fuse_conv_bn_eval(*theirs)
    assert_same_layer(fused, other)
    x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    assert_close(fused(x), ours[1](ours[0](x)))
    assert fused is not ours[0]


@pytest.mark.parametrize("bias", [True, False])
def test_transposed_convolutions(bias):
    ours, theirs = pair(lambda lib: lib.ConvTranspose2d(3, 4, 2, bias=bias), lambda lib: lib.BatchNorm2d(4))
    fused, other = utils.fuse_conv_bn_eval(*ours, transpose=True), THEIRS.fuse_conv_bn_eval(*theirs, transpose=True)
    assert_same_layer(fused, other)
    x = np.random.default_rng(1).standard_normal((2, 3, 4, 4)).astype(np.float32)
    assert_close(fused(x), other(to_torch(x)))
    same_error(lambda: utils.fuse_conv_bn_eval(*ours), lambda: THEIRS.fuse_conv_bn_eval(*theirs))


@pytest.mark.parametrize("bias", [True, False])
def test_linear(bias):
    ours, theirs = pair(lambda lib: lib.Linear(3, 4, bias=bias), lambda lib: lib.BatchNorm1d(4))
    fused = utils.fuse_linear_bn_eval(*ours)
    assert_same_layer(fused, THEIRS.fuse_linear_bn_eval(*theirs))
    x = np.random.default_rng(1).standard_normal((5, 3)).astype(np.float32)
    assert_close(fused(x), ours[1](ours[0](x)))


def test_a_linear_with_one_feature_to_normalise():
    ours, theirs = pair(lambda lib: lib.Linear(3, 4), lambda lib: lib.BatchNorm1d(1))
    assert_same_layer(utils.fuse_linear_bn_eval(*ours), THEIRS.fuse_linear_bn_eval(*theirs))


@pytest.mark.parametrize("frozen", [True, False])
def test_dtypes_and_frozen_parameters(frozen):
    ours, theirs = pair(lambda lib: lib.Conv2d(3, 4, 2), lambda lib: lib.BatchNorm2d(4), "bfloat16")
    for layer in (ours[0], theirs[0]):
        layer.requires_grad_(not frozen)
    # One unit in the last place of bfloat16.
    assert_same_layer(utils.fuse_conv_bn_eval(*ours), THEIRS.fuse_conv_bn_eval(*theirs), 1e-2)


def test_weights():
    rng = np.random.default_rng(0)
    arrays = [rng.uniform(0.5, 2, shape).astype(np.float32) for shape in [(4, 3, 2, 2), (4,), (4,), (4,), (4,), (4,)]]
    w, b, mean, var, bn_w, bn_b = arrays
    for conv_b in (b, None):
        for weight, bias in ((bn_w, bn_b), (None, None), (bn_w, None)):
            given = (w, conv_b, mean, var, 1e-3, weight, bias)
            mine = utils.fuse_conv_bn_weights(*given)
            other = THEIRS.fuse_conv_bn_weights(*[to_torch(a) if isinstance(a, np.ndarray) else a for a in given])
            for a, t in zip(mine, other, strict=True):
                assert isinstance(a, nn.Parameter)
                assert a.requires_grad == t.requires_grad
                assert_close(a, t)
    given = (w[:, :, 0, 0], b, mean, var, 1e-3, bn_w, bn_b)
    other = THEIRS.fuse_linear_bn_weights(*[to_torch(a) if isinstance(a, np.ndarray) else a for a in given])
    for a, t in zip(utils.fuse_linear_bn_weights(*given), other, strict=True):
        assert_close(a, t)


@pytest.mark.parametrize(
    "what",
    [
        lambda lib, u: u.fuse_conv_bn_eval(lib.Conv1d(2, 3, 1), lib.BatchNorm1d(3).eval()),
        lambda lib, u: u.fuse_conv_bn_eval(lib.Conv1d(2, 3, 1).eval(), lib.BatchNorm1d(3)),
        lambda lib, u: u.fuse_conv_bn_eval(
            lib.Conv1d(2, 3, 1).eval(), lib.BatchNorm1d(3, track_running_stats=False).eval()
        ),
        lambda lib, u: u.fuse_conv_bn_eval(lib.Conv1d(2, 3, 1).eval(), lib.BatchNorm1d(4).eval()),
        lambda lib, u: u.fuse_linear_bn_eval(lib.Linear(2, 3), lib.BatchNorm1d(3).eval()),
        lambda lib, u: u.fuse_linear_bn_eval(lib.Linear(2, 3).eval(), lib.BatchNorm1d(4).eval()),
        lambda lib, u: u.fuse_linear_bn_eval(
            lib.Linear(2, 3).eval(), lib.BatchNorm1d(3, track_running_stats=False).eval()
        ),
        lambda lib, u: u.skip_init(list),
        lambda lib, u: u.skip_init(lib.ReLU),
        lambda lib, u: u.convert_conv2d_weight_memory_format(lib.Conv2d(1, 1, 1), "nhwc"),
        lambda lib, u: u.convert_conv2d_weight_memory_format(lib.Conv2d(1, 1, 1), torch.channels_last_3d),
        lambda lib, u: u.convert_conv3d_weight_memory_format(lib.Conv3d(1, 1, 1), torch.channels_last),
        lambda lib, u: u.convert_conv2d_weight_memory_format(lib.Conv2d(1, 1, 1), torch.preserve_format),
    ],
)
def test_bad_arguments(what):
    same_error(lambda: what(nn, utils), lambda: what(torch.nn, THEIRS))


def test_skip_init():
    for args, kwargs in (((5, 1), {}), ((), {"in_features": 6, "out_features": 1, "bias": False})):
        mine, other = utils.skip_init(nn.Linear, *args, **kwargs), THEIRS.skip_init(torch.nn.Linear, *args, **kwargs)
        assert repr(mine) == repr(other)
        mine.load_state_dict(other.state_dict())
        assert mine(jnp.ones((2, mine.in_features))).shape == (2, 1)


@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
def test_memory_formats(memory_format):
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU())
    before = model.state_dict()
    assert utils.convert_conv2d_weight_memory_format(model, memory_format) is model
    assert utils.convert_conv3d_weight_memory_format(model, torch.channels_last_3d) is model
    assert all(model.state_dict()[name] is value for name, value in before.items())

"""`jm.device` and `jm.summary` beside torch: the "meta" device, and counts of parameters of real architectures."""

import numpy as np
import pytest
import torch

import jaxmodule as jm
from jaxmodule import nn
from tests.parity.architectures import test_gpt, test_llama, test_resnet
from tests.parity.architectures.framework import JAX, TORCH
from tests.zoo import STATEFUL, Row, every

MODELS = {
    "gpt": lambda fw: test_gpt.build(fw, 2, 48, 4, 101, 32),
    "gpt2 124M": lambda fw: test_gpt.build(fw, 12, 768, 12, 50257, 1024),
    "llama": lambda fw: test_llama.build(fw, 2, 48, 6, 2, 64, 101),
    "resnet-18": lambda fw: test_resnet.build(fw, (2, 2, 2, 2), False, 1000),
    "small resnet": lambda fw: test_resnet.build(fw, (1, 1, 1, 1), False, 10),
}


@every(STATEFUL)
def test_a_layer_on_meta(row: Row):
    """The same names, shapes and flags as torch's, and neither library's generator moves."""
    jm.manual_seed(0)
    states = jm.get_rng_state(), torch.get_rng_state()
    with jm.device("meta"):
        ours = getattr(nn, row.layer)(*row.args, **row.kwargs)
    with torch.device("meta"):
        theirs = row.make_torch()
    np.testing.assert_array_equal(jm.get_rng_state(), states[0])
    assert torch.equal(torch.get_rng_state(), states[1])
    for kind in ("named_parameters", "named_buffers"):
        mine = [(str(n), tuple(b.shape), b.requires_grad, b.is_meta) for n, b in getattr(ours, kind)()]
        assert mine == [(n, tuple(b.shape), b.requires_grad, b.is_meta) for n, b in getattr(theirs, kind)()]
    assert [(n, tuple(v.shape)) for n, v in ours.state_dict().items()] == [
        (n, tuple(v.shape)) for n, v in theirs.state_dict().items()
    ]


@pytest.mark.parametrize("name", MODELS)
def test_counts_of_parameters(name):
    with jm.device("meta"):
        ours = MODELS[name](JAX)
    with torch.device("meta"):
        theirs = MODELS[name](TORCH)
    found = jm.summary(ours)
    assert found.total_params == found.trainable == sum(p.numel() for p in theirs.parameters())
    assert found.buffers == sum(b.numel() for b in theirs.buffers())
    assert found.rows[0].param_bytes == sum(p.numel() * p.element_size() for p in theirs.parameters())
    rows = {row.path: row for row in found.rows}
    for path, module in theirs.named_modules():
        mine = rows[path].params + sum(ours.get_parameter(tied).size for tied in rows[path].tied)
        assert mine == sum(p.numel() for p in module.parameters()) or not path
    if name == "gpt2 124M":
        assert found.total_params == 124_439_808
    if name == "resnet-18":
        assert found.total_params == 11_689_512


@pytest.mark.parametrize("name", ["gpt", "llama", "small resnet"])
def test_torchs_weights_into_a_model_on_meta(name):
    """Also what no file has (the rotary frequencies): the same outputs as the model that was made the ordinary way."""
    torch.manual_seed(0)
    theirs, ours = MODELS[name](TORCH).eval(), MODELS[name](JAX).eval()
    with jm.device("meta"):
        abstract = MODELS[name](JAX)
    for model in (ours, abstract):
        model.load_state_dict(theirs.state_dict())
    assert not any(box.is_meta for box in [*abstract.parameters(), *abstract.buffers()])
    rng = np.random.default_rng(0)
    images = name == "small resnet"
    x = rng.standard_normal((1, 3, 32, 32), np.float32) if images else rng.integers(0, 101, (2, 12))
    forward = jm.jit(lambda model, x: model(x))
    np.testing.assert_array_equal(forward(abstract.eval(), x), forward(ours, x))


def multiplications(model: torch.nn.Module, x: torch.Tensor) -> int:
    """Twice the multiply-adds of the convolutions without padding and of the linear layers, by torch's shapes."""
    found = 0

    def count(module: torch.nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        nonlocal found
        if isinstance(module, torch.nn.Linear):
            found += 2 * output.numel() * module.in_features
        elif isinstance(module, torch.nn.modules.conv._ConvNd):
            weight = module.weight
            found += 2 * (args[0] if module.transposed else output).numel() * (weight.numel() // weight.shape[0])

    for module in model.modules():
        module.register_forward_hook(count)
    model(x)
    return found


@pytest.mark.parametrize(
    ("layer", "args", "kwargs", "shape"),
    [
        ("Linear", (7, 11), {"bias": False}, (3, 5, 7)),
        ("Conv1d", (4, 6, 3), {"bias": False, "stride": 2}, (2, 4, 17)),
        ("Conv2d", (4, 6, 3), {"bias": False, "groups": 2}, (2, 4, 9, 9)),
        ("Conv2d", (4, 8, 3), {"bias": False, "groups": 4, "dilation": 2}, (2, 4, 9, 9)),
        ("Conv2d", (8, 6, 1), {"bias": False}, (2, 8, 5, 5)),
        ("Conv3d", (2, 3, 2), {"bias": False}, (1, 2, 4, 5, 6)),
    ],
)
def test_flops_are_twice_the_multiply_adds(layer, args, kwargs, shape):
    theirs = getattr(torch.nn, layer)(*args, **kwargs)
    with jm.device("meta"):
        ours = getattr(nn, layer)(*args, **kwargs)
    assert jm.summary(ours, shape).flops == multiplications(theirs, torch.zeros(shape))


def test_flops_of_a_whole_model():
    """Near the products: what is normalised, added and activated comes to it, products with padding's zeros go."""
    with jm.device("meta"):
        ours = MODELS["resnet-18"](JAX)
    products = multiplications(MODELS["resnet-18"](TORCH).eval(), torch.zeros(1, 3, 224, 224))
    assert products == 2 * 1_814_073_344  # the paper's 1.8 billion multiply-adds
    assert 0.9 * products < jm.summary(ours, (1, 3, 224, 224)).flops < products

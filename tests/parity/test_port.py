"""`jm.port.parity`: real architectures agree, and a port that is wrong in one place is told so, with the reason."""

import json
from collections import OrderedDict
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import jaxmodule as jm
from jaxmodule import nn
from jaxmodule.nn import functional as F
from jaxmodule.port import ParityReport, assert_parity, parity
from tests.parity.architectures import test_gpt, test_lstm_tagger, test_resnet, test_vit
from tests.parity.architectures.framework import JAX, TORCH

T = torch.nn
TF = torch.nn.functional


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def module(base: type, children: dict[str, Any], forward: Any, **attributes: Any) -> Any:
    """A module of either framework with these children and this forward."""

    class Net(base):
        def __init__(self) -> None:
            super().__init__()
            for name, child in children.items():
                setattr(self, name, child)
            for name, value in attributes.items():
                setattr(self, name, value)

        def forward(self, *args: Any, **kwargs: Any) -> Any:
            return forward(self, *args, **kwargs)

    return Net()


def kinds(report: ParityReport) -> list[str]:
    return [cause.kind for cause in report.causes]


def fails(report: ParityReport, path: str, *words: str) -> None:
    """It names this module, and among its causes are these words."""
    assert not report.ok
    assert report.first is not None
    assert report.first.path == path, str(report)
    told = "\n".join(map(str, report.causes))
    for word in words:
        assert word in told, told


# -- ports that are right --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "inputs"),
    [
        pytest.param(
            lambda fw: test_resnet.build(fw, (1, 1, 1, 1), bottleneck=False),
            (normal(2, 3, 32, 32),),
            marks=pytest.mark.slow,
        ),
        (lambda fw: test_gpt.build(fw, 2, 32, 4, 61, 16), (np.arange(24).reshape(2, 12) % 61,)),
    ],
    ids=["resnet", "gpt"],
)
def test_an_architecture_agrees(build, inputs):
    report = assert_parity(build(TORCH), build(JAX), *inputs, backward=True)
    assert report.first is None
    assert report.causes == []
    assert {row.section for row in report.rows} == {"output", "gradient"}
    assert {row.status for row in report.rows} <= {"ok", "rounding"}
    assert not report.loaded.untouched


def test_vit_agrees_and_its_report_is_a_table():
    report = assert_parity(test_vit.build(TORCH, 1, 16, 2, 32), test_vit.build(JAX, 1, 16, 2, 32), normal(1, 3, 32, 32))
    text = str(report)
    assert "agrees: " in text
    assert "(model)" in text
    assert json.dumps(report.to_json(), allow_nan=False)
    assert repr(report) == f"ParityReport(ok=True, {len(report.rows)} rows)"
    assert "<pre>" in report._repr_html_()


@pytest.mark.slow
def test_packed_sequences():
    lengths = np.array([3, 7, 1, 5])
    words = np.where(np.arange(7) >= lengths[:, None], 0, np.random.default_rng(0).integers(1, 20, (4, 7)))
    build = test_lstm_tagger.build
    report = assert_parity(build(TORCH, None), build(JAX, None), words, lengths, backward=True)
    assert "lstm.weight_ih_l0" in {row.path for row in report.rows}


def test_recurrent_layers_return_tuples():
    report = assert_parity(T.LSTM(3, 4, 2), nn.LSTM(3, 4, 2), normal(5, 2, 3), backward=True)
    assert "weight_ih_l1" in {row.path for row in report.rows}
    assert_parity(T.GRU(3, 4), nn.GRU(3, 4), normal(5, 2, 3), normal(1, 2, 4))


class Outputs(NamedTuple):
    logits: Any
    hidden: Any


class Found(dict):
    """Hugging Face's outputs are dicts whose entries are attributes too."""

    __getattr__ = dict.__getitem__


@pytest.mark.parametrize(
    "kind", [Outputs, lambda a, b: {"logits": a, "hidden": b}, lambda a, b: Found(logits=a, hidden=b)]
)
def test_outputs_of_other_forms(kind):
    def forward(self, x):
        hidden = self.body(x)
        return kind(self.head(hidden), [hidden, None, (hidden,)])

    def build(nn):
        return module(nn.Module, {"body": nn.Linear(3, 4), "head": nn.Linear(4, 2)}, forward)

    report = assert_parity(build(T), build(nn), normal(5, 3), backward=True)
    assert report.rows[2].path == ""


def test_a_module_that_is_called_twice_has_a_row_for_each_call():
    def build(nn, twice):
        def forward(self, x):
            return self.head(self.body(self.body(x)) * twice)

        return module(nn.Module, {"body": nn.Linear(3, 3), "head": nn.Linear(3, 2)}, forward)

    report = assert_parity(build(T, 1.0), build(nn, 1.0), normal(5, 3), backward=True)
    assert [(row.path, row.call) for row in report.rows[:4]] == [("body", 0), ("body", 1), ("head", 0), ("", 0)]
    assert "body #2" in str(report)
    fails(
        parity(build(T, 1.0), build(nn, 1.5), normal(5, 3)),
        "",
        "between the call of body #2 and the call of head",
        "1.5",
    )


def test_tied_weights():
    def build(nn):
        net = nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 4), nn.Linear(4, 7, bias=False))
        net[2].weight = net[0].weight
        return net

    report = assert_parity(build(T), build(nn), np.arange(6), backward=True)
    assert report.loaded.tied == [("0.weight", "2.weight")]
    assert "0.weight" in {row.path for row in report.rows}


def test_integer_outputs_are_compared_exactly():
    def build(nn, off, what):
        return module(nn.Module, {"body": nn.Linear(3, 4)}, lambda self, x: what(self.body(x)) + off)

    x = normal(9, 3)
    argmax = lambda fw: lambda y: fw.argmax(y, 1)  # noqa: E731
    assert_parity(build(T, 0, argmax(torch)), build(nn, 0, argmax(jnp)), x)
    report = parity(build(T, 0, argmax(torch)), build(nn, 1, argmax(jnp)), x, rtol=10.0)
    fails(report, "", "+1")
    assert report.first.ulp is None


def test_nan_in_the_same_places_agrees_and_elsewhere_does_not():
    def build(nn, fw, shift):
        return module(nn.Module, {"body": nn.Linear(3, 4)}, lambda self, x: fw.log(self.body(x) * 0 + shift(x)))

    x = normal(4, 3)
    assert_parity(build(T, torch, lambda x: x[:, :1]), build(nn, jnp, lambda x: x[:, :1]), x)
    report = parity(build(T, torch, lambda x: x[:, :1]), build(nn, jnp, lambda x: x[:, :1] - 1), x)
    assert kinds(report)[1] == "nan"
    assert report.first.to_json()["max_abs"] is None


# -- ports that are wrong in one place -------------------------------------------------------------------------------


def images(nn: Any, **change: Any) -> Any:
    """A net of usual layers; `change` replaces some."""
    layers = {
        "conv1": lambda: nn.Conv2d(3, 6, 3, padding=1, padding_mode="reflect"),
        "norm": lambda: nn.BatchNorm2d(6),
        "act": lambda: nn.GELU(),
        "pool": lambda: nn.AvgPool2d(3, stride=2, padding=1),
        "conv2": lambda: nn.Conv2d(6, 4, 3),
        "flat": lambda: nn.Flatten(),
        "head": lambda: nn.Linear(4 * 16, 5),
    } | change
    return nn.Sequential(OrderedDict((name, make()) for name, make in layers.items()))


def trained(model: Any) -> Any:
    """Running statistics as after some training: fresh ones make BatchNorm the identity."""
    for _ in range(3):
        model(torch.from_numpy(normal(4, 3, 12, 12, seed=7)) * 2 + 1)
    return model


@pytest.mark.parametrize(
    ("name", "make", "words"),
    [
        ("norm", lambda: nn.BatchNorm2d(6, eps=1e-3), ("eps is 1e-05 in torch, 0.001 in the port",)),
        ("act", lambda: nn.GELU(approximate="tanh"), ("approximate is 'none' in torch, 'tanh' in the port",)),
        ("act", lambda: nn.SiLU(), ("the class is GELU in torch, SiLU in the port", "torch computes gelu (exact)")),
        ("conv1", lambda: nn.Conv2d(3, 6, 3, padding=1), ("padding_mode is 'reflect'", "only the border differs")),
        ("conv2", lambda: nn.Conv2d(6, 4, 3, dilation=2, padding=1), ("padding is (0, 0) in torch", "dilation")),
        (
            "pool",
            lambda: nn.AvgPool2d(3, stride=2, padding=1, count_include_pad=False),
            ("count_include_pad", "border"),
        ),
        ("pool", lambda: nn.MaxPool2d(3, stride=2, padding=1), ("the class is AvgPool2d in torch, MaxPool2d",)),
    ],
    ids=["eps", "gelu", "activation", "padding_mode", "dilation", "count_include_pad", "pool"],
)
def test_a_layer_that_is_configured_otherwise(name, make, words):
    theirs = trained(images(T))
    fails(parity(theirs, images(nn, **{name: make}), normal(2, 3, 12, 12)), name, *words)


def test_a_momentum_shows_in_a_training_step_and_is_noted_before():
    theirs = trained(images(T))
    wrong = images(nn, norm=lambda: nn.BatchNorm2d(6, momentum=0.01))
    report = assert_parity(theirs, wrong, normal(2, 3, 12, 12))
    assert any("momentum is 0.1 in torch, 0.01 in the port" in note for note in report.notes)
    report = parity(theirs, wrong, normal(2, 3, 12, 12), train_step=True)
    fails(report, "norm.running_mean", "momentum is 0.1 in torch, 0.01 in the port", "0.1 times as far")
    assert_parity(theirs, images(nn), normal(2, 3, 12, 12), train_step=True, backward=True)


def test_a_momentum_that_is_hidden_in_a_function():
    class Norm(nn.BatchNorm2d):
        def forward(self, x):
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, self.training, 0.05)

    report = parity(trained(images(T)), images(nn, norm=lambda: Norm(6)), normal(2, 3, 12, 12), train_step=True)
    fails(report, "norm.running_mean", "0.5 times as far")


def test_a_mode_of_its_own():
    class Frozen(nn.BatchNorm2d):
        def train(self, mode=True):
            return super().train(False)

    class Eager(nn.BatchNorm2d):
        def train(self, mode=True):
            return super().train(True)

    x = normal(2, 3, 12, 12)
    report = parity(trained(images(T)), images(nn, norm=lambda: Frozen(6)), x, train_step=True)
    fails(report, "norm", "training mode in torch, evaluation mode in the port")
    assert kinds(report)[0] == "mode"
    fails(parity(trained(images(T)), images(nn, norm=lambda: Eager(6)), x), "norm", "evaluation mode in torch")


def test_a_transposed_layout():
    def build(nn, permuted):
        def forward(self, x):
            y = self.conv(x)
            return self.head(y.permute(0, 2, 3, 1)) if permuted else self.head(y.transpose(0, 3, 2, 1))

        return module(nn.Module, {"conv": nn.Conv2d(3, 4, 1), "head": nn.Linear(4, 2)}, forward)

    report = parity(build(T, True), build(nn, False), normal(2, 3, 5, 5))
    fails(report, "", "between the call of conv and the call of head", "axes (0, 2, 1, 3)")
    assert "layout" in kinds(report)


def test_heads_that_are_split_by_reshape_alone():
    def build(nn, right):
        def forward(self, x):
            y = self.qkv(x).reshape(2, 6, 3, 4)
            y = (y.permute(0, 2, 1, 3) if nn is T else y.transpose(0, 2, 1, 3)) if right else y.reshape(2, 3, 6, 4)
            return self.out(y)

        return module(nn.Module, {"qkv": nn.Linear(5, 12), "out": nn.Linear(4, 2)}, forward)

    assert_parity(build(T, True), build(nn, True), normal(2, 6, 5))
    fails(parity(build(T, True), build(nn, False), normal(2, 6, 5)), "", "the same values in another order")


def test_an_output_in_nhwc():
    def build(nn, forward):
        return module(nn.Module, {"conv": nn.Conv2d(3, 4, 3)}, forward)

    wrong = build(nn, lambda self, x: self.conv(x).transpose(0, 2, 3, 1))
    report = parity(build(T, lambda self, x: self.conv(x)), wrong, normal(2, 3, 8, 7))
    fails(report, "", "NHWC where torch has NCHW")
    assert report.first.note == "shape (2, 6, 5, 4) in the port"


def attention(nn: Any, causal: bool) -> Any:
    F = nn.functional

    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv, self.out = nn.Linear(8, 24), nn.Linear(8, 8)

        def forward(self, x: Any) -> Any:
            q, k, v = (self.qkv(x)[..., i : i + 8] for i in (0, 8, 16))
            return self.out(F.scaled_dot_product_attention(q, k, v, is_causal=causal))

    return nn.Sequential(nn.Linear(4, 8), Attention(), nn.Linear(8, 3))


def test_a_mask_that_is_missing():
    assert_parity(attention(T, True), attention(nn, True), normal(2, 7, 4))
    report = parity(attention(T, True), attention(nn, False), normal(2, 7, 4))
    fails(report, "1", "Attention.forward itself", "a causal one is missing", "everything but the last position")
    assert "mask" in kinds(report)


def test_a_mask_that_is_not_passed_on():
    def build(nn, passes):
        def forward(self, x, mask):
            return self.attn(x, x, x, attn_mask=mask if passes else None, need_weights=False)[0]

        return module(nn.Module, {"attn": nn.MultiheadAttention(8, 2, batch_first=True)}, forward)

    mask = np.triu(np.ones((5, 5), bool), 1)
    assert_parity(build(T, True), build(nn, True), normal(2, 5, 8), mask)
    report = parity(build(T, True), build(nn, False), normal(2, 5, 8), mask)
    fails(report, "", "only torch passes attn_mask bool[5, 5] to attn")


@pytest.mark.parametrize("factor", [1.0, 8**0.5])
def test_a_scale_that_is_missing(factor):
    def build(nn, scale):
        def forward(self, x):
            return self.out(self.query(x) / scale)

        return module(nn.Module, {"query": nn.Linear(8, 8), "out": nn.Linear(8, 3)}, forward)

    report = parity(build(T, 8**0.5), build(nn, factor), normal(4, 8))
    if factor == 1.0:
        fails(report, "", "between the call of query and the call of out", "torch gives out 0.3536 × query's output")
    else:
        assert report.ok


def block(nn: Any, forward: Any) -> Any:
    return nn.Sequential(
        nn.Linear(4, 6), module(nn.Module, {"norm": nn.LayerNorm(6), "mlp": nn.Linear(6, 6)}, forward), nn.Linear(6, 2)
    )


def test_a_residual_of_the_wrong_array():
    def right(self, x):
        return x + self.mlp(self.norm(x))

    def wrong(self, x):
        y = self.norm(x)
        return y + self.mlp(y)

    assert_parity(block(T, right), block(nn, right), normal(3, 4))
    report = parity(block(T, right), block(nn, wrong), normal(3, 4))
    fails(report, "1", "torch returns its input args[0] + mlp's output, the port norm's output + mlp's output")
    assert kinds(report)[0] == "function"


def test_an_order_that_is_swapped():
    report = parity(block(T, lambda s, x: s.norm(s.mlp(x))), block(nn, lambda s, x: s.mlp(s.norm(x))), normal(3, 4))
    fails(report, "1", "torch calls 1.mlp, 1.norm; the port 1.norm, 1.mlp")
    assert "order" in kinds(report)


def test_a_function_between_two_modules():
    def build(nn, function):
        def forward(self, x):
            return self.out(function(self.body(x)))

        return module(nn.Module, {"body": nn.Linear(8, 8), "out": nn.Linear(8, 3)}, forward)

    report = parity(build(T, TF.gelu), build(nn, lambda x: F.gelu(x, approximate="tanh")), 3 * normal(9, 8))
    text = "torch gives out gelu (exact) of body's output, the port gelu (approximate='tanh') of body's output"
    fails(report, "", text)
    fails(parity(build(T, TF.relu), build(nn, lambda x: x), normal(9, 8)), "", "torch gives out relu of body's output")


def test_a_part_in_half_precision():
    def build(nn, cast):
        def forward(self, x):
            return self.out(cast(self.body(x)))

        return module(nn.Module, {"body": nn.Linear(8, 8), "out": nn.Linear(8, 3)}, forward)

    wrong = build(nn, lambda x: x.astype(jnp.bfloat16).astype(jnp.float32))
    fails(parity(build(T, lambda x: x), wrong, normal(9, 8)), "", "the port computes this in bfloat16")


def test_a_port_in_bfloat16():
    theirs, ours = T.Linear(8, 4), nn.Linear(8, 4).bfloat16()
    report = parity(theirs, ours, normal(5, 8))
    fails(
        report, "", "weight is torch's in a lower precision (bfloat16, torch float32)", "the port computes in bfloat16"
    )
    assert report.first.dtype == "bfloat16 (torch float32)"
    assert_parity(
        T.Linear(8, 4).bfloat16(), nn.Linear(8, 4).bfloat16(), normal(5, 8).astype(jnp.bfloat16), backward=True
    )


def test_weights_that_were_not_loaded_or_are_transposed():
    theirs, ours = T.Sequential(T.Linear(4, 4), T.ReLU()), nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    fails(parity(theirs, ours, normal(3, 4), load=False), "0", "weight is another value than torch's")
    ours.load_state_dict({**theirs.state_dict(), "0.weight": theirs.state_dict()["0.weight"].T.contiguous()})
    fails(parity(theirs, ours, normal(3, 4), load=False), "0", "weight is transposed")


def test_a_bias_that_is_added_twice():
    class Twice(nn.Linear):
        def forward(self, x):
            return super().forward(x) + self.bias.value[None]

    fails(parity(T.Linear(4, 3), Twice(4, 3), normal(9, 4)), "", "an offset for each index of axis 1")


def test_the_innermost_is_named_and_what_differs_besides():
    def build(nn, eps, slope):
        inner = nn.Sequential(nn.Linear(6, 6), nn.LayerNorm(6, eps=eps))
        return nn.Sequential(nn.Sequential(nn.Linear(4, 6), inner), nn.LeakyReLU(slope), nn.Linear(6, 2))

    report = parity(build(T, 1e-5, 0.01), build(nn, 0.1, 0.2), normal(5, 4))
    fails(report, "0.1.1", "eps is 1e-05 in torch, 0.1 in the port")
    status = [(row.path, row.status) for row in report.rows]
    assert status[:3] == [("0.0", "ok"), ("0.1.0", "ok"), ("0.1.1", "differs")]
    assert status[3:] == [("0.1", "follows"), ("0", "follows"), ("1", "differs"), ("2", "follows"), ("", "follows")]
    assert "given torch's own inputs, these differ too: 1" in report.summary()


def test_modules_that_only_one_side_has():
    def build(nn, function):
        children = {"body": nn.Linear(4, 4)} | ({} if function else {"act": nn.ReLU()})
        act = nn.functional.relu if function else lambda x: net.act(x)
        net = module(nn.Module, children, lambda self, x: act(self.body(x)))
        return net

    report = assert_parity(build(T, False), build(nn, True), normal(3, 4))
    assert {row.path: row.status for row in report.rows} == {"body": "ok", "act": "torch only", "": "ok"}
    report = assert_parity(build(T, True), build(nn, False), normal(3, 4))
    assert {row.path: row.status for row in report.rows} == {"body": "ok", "act": "port only", "": "ok"}
    left_out = module(nn.Module, {"body": nn.Linear(4, 4)}, lambda self, x: self.body(x))
    fails(
        parity(build(T, False), left_out, normal(3, 4)),
        "",
        "torch returns act's output, the port body's output",
        "calls act (ReLU)",
    )


# -- gradients -------------------------------------------------------------------------------------------------------


def test_a_gradient_that_is_stopped():
    def build(nn, stop):
        def forward(self, x):
            return self.head(stop(self.body(x)))

        return module(nn.Module, {"body": nn.Linear(4, 4), "head": nn.Linear(4, 2)}, forward)

    report = parity(build(T, lambda x: x), build(nn, jax.lax.stop_gradient), normal(3, 4), backward=True)
    assert not report.ok
    assert {row.status for row in report.rows if row.section == "output"} == {"ok"}
    assert "detached" in kinds(report)
    report = parity(build(T, lambda x: x.detach()), build(nn, lambda x: x), normal(3, 4), backward=True)
    assert "stop_gradient" in str(report.causes[0])


def test_a_gradient_of_a_module_of_its_own():
    @jm.custom_vjp
    def wrong(x):
        return jnp.tanh(x)

    wrong.defvjp(lambda x: (jnp.tanh(x), x), lambda x, g: (g * 0.5,))

    class Tanh(nn.Module):
        def forward(self, x):
            return wrong(x)

    theirs, ours = (n.Sequential(n.Linear(4, 4), act(), n.Linear(4, 2)) for n, act in ((T, T.Tanh), (nn, Tanh)))
    report = parity(theirs, ours, normal(3, 4), backward=True)
    fails(report, "1")
    assert report.first.section == "gradient"
    differ = [row.path for row in report.rows if row.status in ("differs", "follows")]
    assert differ == ["1", "0", "0.weight", "0.bias", "", "input [0]"]


def test_losses_of_ones_own():
    build = lambda n: n.Sequential(n.Linear(4, 4), n.Tanh())  # noqa: E731
    assert_parity(build(T), build(nn), normal(3, 4), backward=True, loss=lambda y: (y * y).mean())
    losses = (lambda y: TF.mse_loss(y, torch.ones_like(y)), lambda y: F.mse_loss(y, jnp.ones_like(y)))
    assert_parity(build(T), build(nn), normal(3, 4), backward=True, loss=losses)


def test_frozen_parameters_in_place_operations_and_unused_outputs():
    def build(n):
        net = n.Sequential(n.ReLU(inplace=True), n.Linear(4, 4), n.BatchNorm1d(4), n.ReLU(inplace=True), n.Linear(4, 2))
        for p in net[1].parameters():
            p.requires_grad = False
        return net

    report = assert_parity(build(T), build(nn), normal(3, 4), backward=True, train_step=True)
    assert "1.weight" not in {row.path for row in report.rows}


# -- what it leaves behind -------------------------------------------------------------------------------------------


def test_everything_is_as_it_was():
    def build(nn):
        return nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.3), nn.Linear(4, 2))

    theirs, ours = build(T), build(nn)
    theirs[1].eval()
    ours[2].eval()
    theirs(torch.ones(3, 4)).sum().backward()
    before = {name: p.grad.clone() for name, p in theirs.named_parameters()}
    buffers = {name: b.clone() for name, b in theirs.named_buffers()}
    states = torch.get_rng_state(), jm.get_rng_state()
    report = assert_parity(theirs, ours, normal(3, 4), backward=True, train_step=True)
    assert "2.p" in report.notes[0]
    assert (theirs[2].p, ours[2].p) == (0.3, 0.3)
    assert [m.training for m in theirs.modules()] == [True, True, False, True, True]
    assert [m.training for m in ours.modules()] == [True, True, True, False, True]
    assert all(torch.equal(p.grad, before[name]) for name, p in theirs.named_parameters())
    assert all(torch.equal(b, buffers[name]) for name, b in theirs.named_buffers())
    assert int(ours[1].num_batches_tracked) == 0
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (jm.get_rng_state() == states[1]).all()
    assert not any(m._forward_hooks or m._forward_pre_hooks for model in (theirs, ours) for m in model.modules())
    assert (ours[0].weight.value == jnp.asarray(theirs[0].weight.detach().numpy())).all()


def test_an_error_of_the_port_says_how_far_it_came():
    ours = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), module(nn.Module, {}, lambda self, x: x @ jnp.ones((3, 3))))
    theirs = T.Sequential(T.Linear(4, 4), T.ReLU(), T.Linear(4, 3))
    with pytest.raises(TypeError) as caught:
        parity(theirs, ours, normal(3, 4), load=False)
    ours.load_state_dict(theirs.state_dict(), strict=False)
    with pytest.raises(TypeError) as caught:
        parity(theirs, ours, normal(3, 4), load=False)
    assert "the 2 module calls that the port had ended before agree" in "\n".join(caught.value.__notes__)
    assert not ours[0]._forward_hooks


def test_an_error_that_follows_from_another_shape():
    wrong = images(nn, conv2=lambda: nn.Conv2d(6, 4, 3, padding=1))
    with pytest.raises(RuntimeError, match="cannot be multiplied") as caught:
        parity(images(T), wrong, normal(2, 3, 12, 12))
    told = "\n".join(caught.value.__notes__)
    assert "first to differ: conv2 (Conv2d): shape (2, 4, 6, 6) in the port" in told
    assert "padding is (0, 0) in torch, (1, 1) in the port" in told


def test_weights_that_do_not_fit():
    with pytest.raises(RuntimeError, match="size mismatch for weight"):
        parity(T.Linear(4, 3), nn.Linear(4, 2), normal(1, 4))


def test_the_models_must_be_given_in_order():
    with pytest.raises(TypeError, match="first argument is the PyTorch model"):
        parity(nn.Linear(2, 2), T.Linear(2, 2), normal(1, 2))
    with pytest.raises(TypeError, match="second argument is the port.*got torch.nn.modules.linear.Linear"):
        parity(T.Linear(2, 2), T.Linear(2, 2), normal(1, 2))


# -- rounding and tolerances -----------------------------------------------------------------------------------------


def test_rounding_is_told_from_mistakes_in_float64():
    class Sum(nn.Module):
        """A sum in an order of its own, of values that cancel."""

        def forward(self, x):
            return (x[:, ::-1] * 1.0).cumsum(1)[:, -1:]

    theirs = T.Sequential(T.Identity(), module(T.Module, {}, lambda self, x: x.sum(1, keepdim=True)))
    x = np.concatenate([normal(4, 2000) * 1e3, normal(4, 1)], 1)
    x = np.concatenate([x, -x[:, :2000]], 1).astype(np.float32)
    report = parity(theirs, nn.Sequential(nn.Identity(), Sum()), x)
    if report.rows[1].max_rel > 1e-3:
        fails(report, "1")
    else:
        assert report.ok
        assert any("are rounding: in float64 both agree" in note for note in report.notes)
    assert parity(theirs, nn.Sequential(nn.Identity(), Sum()), x, double=True).ok


def test_double_finds_what_float32_hides():
    theirs, ours = T.Sequential(T.LayerNorm(8)), nn.Sequential(nn.LayerNorm(8, eps=1.1e-5))
    report = assert_parity(theirs, ours, normal(4, 8))
    assert any("eps is 1e-05 in torch, 1.1e-05 in the port" in note for note in report.notes)
    report = parity(theirs, ours, normal(4, 8), double=True, backward=True)
    fails(report, "0", "eps")
    assert report.double
    assert report.first.dtype == "float64"
    assert ours[0].weight.dtype == jnp.float32
    assert theirs[0].weight.dtype == torch.float32


def test_tolerances_are_the_callers():
    wrong = nn.GELU(approximate="tanh")
    assert not parity(T.GELU(), wrong, normal(4, 8)).ok
    assert parity(T.GELU(), wrong, normal(4, 8), rtol=1e-3).ok
    assert parity(T.GELU(), wrong, normal(4, 8), rtol=0.0, atol=1e-3).ok


def test_assert_parity_tells_the_first_and_why():
    with pytest.raises(AssertionError, match=r"(?s)first to differ: 1 \(GELU\).*approximate is 'none' in torch"):
        assert_parity(
            T.Sequential(T.Linear(4, 4), T.GELU()), nn.Sequential(nn.Linear(4, 4), nn.GELU("tanh")), normal(9, 4)
        )


def test_a_port_that_uses_transforms_inside():
    def build(n, forward):
        return module(n.Module, {"body": n.Linear(4, 4), "head": n.Linear(4, 2)}, forward)

    inside = build(nn, lambda self, x: self.head(jm.remat(lambda m, x: m(x))(self.body, x)))
    report = assert_parity(build(T, lambda self, x: self.head(self.body(x))), inside, normal(3, 4), backward=True)
    assert {row.path: row.status for row in report.rows if row.section == "output"}["body"] in ("not seen", "ok")


def test_the_report_is_short_where_the_model_is_long():
    def build(n):
        return n.Sequential(*[n.Linear(3, 3) if i % 2 == 0 else n.Tanh() for i in range(80)])

    ours = build(nn)
    ours[41] = nn.ReLU()
    report = parity(build(T), ours, normal(2, 3))
    lines = str(report).splitlines()
    assert len(lines) < 40
    assert any(" more …" in line for line in lines)
    assert any("41" in line and "FIRST" in line for line in lines)
    assert isinstance(report, ParityReport)

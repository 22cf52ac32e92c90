"""`jm.port.parity` with inputs, results and states of kinds that need care: 64 bits, plain numbers, complex numbers,
forward methods that write into their inputs or assign buffers anew."""

from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from jaxmodule import nn
from jaxmodule.nn import functional as F
from jaxmodule.port import assert_parity, parity
from jaxmodule.port._run import to_torch

T = torch.nn


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def net(framework: Any, forward: Any, **attributes: Any) -> Any:
    """A linear layer `body`, these attributes, and this forward."""

    class Net(framework.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = framework.Linear(3, 3)
            for name, value in attributes.items():
                setattr(self, name, value)

        def forward(self, *args: Any) -> Any:
            return forward(self, *args)

    return Net()


def both(theirs: Any, ours: Any) -> tuple[Any, Any]:
    return net(T, theirs), net(nn, ours)


# -- inputs -----------------------------------------------------------------------------------------------------------


def test_torch_is_given_numpy_arrays_as_they_are():
    seen = []

    def forward(self, ids, x):
        seen.extend([ids.dtype, x.dtype])
        return self.body(torch.nn.functional.one_hot(ids, 3).float()) + x.float()

    models = both(forward, lambda self, ids, x: self.body(F.one_hot(ids, 3).astype("float32")) + x)
    assert_parity(*models, np.array([0, 2]), normal(2, 3).astype(np.float64))
    assert seen == [torch.int64, torch.float64]
    assert to_torch(np.array([2**40, -1])).tolist() == [2**40, -1]
    assert to_torch(np.array([1.0, 2.0], ">f4")).tolist() == [1.0, 2.0]


@pytest.mark.parametrize("name", ["bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e8m0fnu"])
def test_dtypes_that_numpy_has_not(name):
    found = to_torch(np.array([1.0, 2.0], jnp.dtype(name)))
    assert str(found.dtype) == f"torch.{name}"
    assert found.float().tolist() == [1.0, 2.0]


def test_a_forward_that_writes_into_its_inputs():
    def forward(self, x, ids):
        x.mul_(2)
        ids += 1
        return self.body(x) * ids[:, None].float()

    def ported(self, x, ids):
        return self.body(2 * x) * (ids + 1)[:, None].astype(jnp.float32)

    models = both(forward, ported)
    x, ids = torch.from_numpy(normal(4, 3)), torch.arange(4)
    assert_parity(*models, x, ids, backward=True)
    assert torch.equal(x, torch.from_numpy(normal(4, 3)))
    assert torch.equal(ids, torch.arange(4))


# -- results ----------------------------------------------------------------------------------------------------------

RESULTS = {
    "number": lambda x: float(x.sum()),
    "namespace": lambda x: SimpleNamespace(logits=x),
    "numbers": lambda x: {"kind": "sum", "values": [float(x.sum()), 3]},
}


@pytest.mark.parametrize("kind", RESULTS)
def test_numbers_and_namespaces_are_compared(kind):
    def build(framework, factor):
        return net(framework, lambda self, x: RESULTS[kind](factor * self.body(x)))

    theirs = build(T, 1)
    assert_parity(theirs, build(nn, 1), normal(4, 3))
    report = parity(theirs, build(nn, 2), normal(4, 3))
    assert not report.ok
    assert report.first is not None
    assert report.first.path == ""
    assert report.first.max_rel == pytest.approx(1.0, rel=1e-4)


def test_a_number_agrees_with_an_array():
    assert_parity(*both(lambda s, x: float(s.body(x).sum()), lambda s, x: s.body(x).sum()), normal(4, 3))


def test_numbers_of_one_side_are_no_difference():
    assert_parity(*both(lambda s, x: (s.body(x), 3), lambda s, x: (s.body(x), None)), normal(4, 3))


def test_gradients_of_a_namespace():
    build = lambda n: net(n, lambda s, x: SimpleNamespace(a=s.body(x), n=3))  # noqa: E731
    report = assert_parity(build(T), build(nn), normal(4, 3), backward=True)
    assert "body.weight" in {row.path for row in report.rows}


@pytest.mark.parametrize("kind", [lambda x: {object()}, lambda x: None, lambda x: "three", lambda x: iter([x])])
def test_a_result_in_which_nothing_can_be_compared(kind):
    models = both(lambda s, x: kind(s.body(x)), lambda s, x: kind(s.body(x)))
    report = parity(*models, normal(4, 3))
    assert not report.ok
    assert report.first is not None
    assert (report.first.path, report.first.status) == ("", "not compared")
    assert "nothing to compare" in report.summary()
    with pytest.raises(AssertionError, match="nothing in the model's result can be compared"):
        assert_parity(*models, normal(4, 3))


# -- state ------------------------------------------------------------------------------------------------------------


def test_a_buffer_that_is_assigned_anew_is_put_back():
    def build(framework, zeros):
        def forward(self, x):
            self.n = self.n + 1
            self.count += 1
            return self.body(x) * self.n * self.count

        model = net(framework, forward, count=0)
        model.register_buffer("n", zeros)
        return model

    theirs, ours = build(T, torch.zeros(1, 1)), build(nn, jnp.zeros((1, 1)))
    before = theirs.n
    assert_parity(theirs, ours, normal(4, 3), backward=True)
    assert_parity(theirs, ours, normal(4, 3), backward=True, train_step=True)
    assert theirs.n is before
    assert (theirs.n.item(), ours.n.item()) == (0.0, 0.0)
    assert (theirs.count, ours.count) == (0, 0)


def test_lazy_modules_stay_as_they_have_become():
    theirs, ours = T.LazyLinear(2), nn.LazyLinear(2)
    theirs(torch.zeros(4, 3))
    assert_parity(theirs, ours, normal(4, 3), backward=True)
    assert theirs.in_features == ours.in_features == 3


# -- complex numbers --------------------------------------------------------------------------------------------------


def spectral(framework: Any, forward: Any) -> Any:
    model = net(framework, forward)
    values = np.random.default_rng(1).standard_normal((2, 3, 3)).astype(np.float32)
    weight = (values[0] + 1j * values[1]).astype(np.complex64)
    if framework is T:
        model.weight = T.Parameter(torch.from_numpy(weight))
    else:
        model.weight = nn.Parameter(jnp.zeros((3, 3), jnp.complex64))
    return model


FORWARDS = {
    "parameter": lambda n: lambda s, x: abs(wide(n, s.body(x)) @ s.weight),
    "output": lambda n: lambda s, x: wide(n, s.body(x)) @ s.weight,
    "input": lambda n: lambda s, x: s.body((x @ s.weight).imag),
}


def wide(framework: Any, x: Any) -> Any:
    return x.to(torch.complex64) if framework is T else x.astype(jnp.complex64)


@pytest.mark.parametrize("kind", FORWARDS)
def test_complex_gradients_agree(kind):
    x = normal(4, 3)
    x = (x + 1j * x[::-1]).astype(np.complex64) if kind == "input" else x
    theirs, ours = (spectral(n, FORWARDS[kind](n)) for n in (T, nn))
    report = assert_parity(theirs, ours, x, backward=True)
    seen = {row.path for row in report.rows if row.section == "gradient"}
    assert {"weight", "body.weight", "input [0]"} <= seen
    assert {row.status for row in report.rows} == {"ok"}


def test_the_imaginary_part_of_a_gradient_is_compared():
    def forward(s, x):
        weight = jax.lax.complex(s.weight.value.real, jax.lax.stop_gradient(s.weight.value.imag))
        return jnp.abs(wide(nn, s.body(x)) @ weight)

    report = parity(spectral(T, FORWARDS["parameter"](T)), spectral(nn, forward), normal(4, 3), backward=True)
    assert not report.ok
    assert report.first is not None
    assert (report.first.section, report.first.path) == ("gradient", "weight")


# -- parameters and rounding ------------------------------------------------------------------------------------------


def test_a_parameter_that_the_port_has_under_another_name_has_no_zero_gradient():
    with pytest.warns(FutureWarning, match="weight_norm"):
        theirs = T.utils.weight_norm(T.Linear(3, 2))
    ours = nn.utils.parametrizations.weight_norm(nn.Linear(3, 2))
    report = assert_parity(theirs, ours, normal(4, 3), backward=True)
    status = {row.path: row.status for row in report.rows if row.kind == "parameter"}
    assert status == {"weight_g": "torch only", "weight_v": "torch only", "bias": "ok"}


def test_a_frozen_parameter_of_the_port_has_one():
    ours = nn.Linear(3, 2)
    ours.weight.requires_grad_(False)
    report = parity(T.Linear(3, 2), ours, normal(4, 3), backward=True)
    assert not report.ok
    assert "requires_grad=False" in str(report.causes[0])


@pytest.mark.parametrize("seed", range(3))
def test_a_wrong_momentum_is_told_though_a_gradient_is_rounding(seed):
    def build(n, momentum):
        return n.Sequential(n.Conv2d(3, 4, 3), n.BatchNorm2d(4, momentum=momentum), n.ReLU())

    torch.manual_seed(seed)
    images = np.random.default_rng(seed).random((2, 3, 8, 8)).astype(np.float32)
    report = parity(build(T, 0.1), build(nn, 0.2), images, train_step=True, backward=True)
    assert report.first is not None
    assert (report.first.section, report.first.path) == ("buffer", "1.running_mean")
    assert "momentum" in str(report.causes[0])
    assert {row.status for row in report.rows if row.section == "gradient"} <= {"ok", "rounding"}
    assert parity(build(T, 0.1), build(nn, 0.1), images, train_step=True, backward=True).ok

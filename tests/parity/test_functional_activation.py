"""The nonlinearities against torch: values, gradients, dtypes and exceptions over their arguments.

Tolerances are relative to each element here: the kinks and the extremes stand beside each other in one array.
"""

from __future__ import annotations

import inspect
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as TF

import jaxmodule as jm
from jaxmodule import nn
from jaxmodule.nn import functional as F
from tests.parity.oracle import assert_close, compare, same_error, to_numpy, to_torch

pytestmark = pytest.mark.usefixtures("optimized")

INF, NAN = float("inf"), float("nan")

#: name, arguments after the input, where the function or its gradient has a kink
POINTWISE: list[tuple[str, dict[str, Any], tuple[float, ...]]] = [
    ("threshold", {"threshold": 0.5, "value": 7.0}, (0.5,)),
    ("threshold", {"threshold": -1.0, "value": -2.5}, (-1.0,)),
    ("relu", {}, ()),
    ("relu6", {}, (6.0,)),
    ("hardtanh", {}, (-1.0, 1.0)),
    ("hardtanh", {"min_val": -2.0, "max_val": 0.5}, (-2.0, 0.5)),
    ("hardtanh", {"min_val": 1.0, "max_val": 1.0}, (1.0,)),
    ("hardsigmoid", {}, (-3.0, 3.0)),
    ("hardswish", {}, (-3.0, 3.0)),
    ("hardshrink", {}, (-0.5, 0.5)),
    ("hardshrink", {"lambd": 0.0}, ()),
    ("hardshrink", {"lambd": -1.0}, (-1.0, 1.0)),
    ("softshrink", {}, (-0.5, 0.5)),
    ("softshrink", {"lambd": 2.0}, (-2.0, 2.0)),
    ("tanhshrink", {}, ()),
    ("leaky_relu", {}, ()),
    ("leaky_relu", {"negative_slope": -0.5}, ()),
    ("leaky_relu", {"negative_slope": 0.0}, ()),
    ("rrelu", {}, ()),
    ("rrelu", {"lower": -0.5, "upper": 0.1}, ()),
    ("rrelu", {"lower": 0.25, "upper": 0.25, "training": True}, ()),
    ("elu", {}, ()),
    ("elu", {"alpha": 0.5}, ()),
    ("elu", {"alpha": -1.5}, ()),
    ("elu", {"alpha": 0.0}, ()),
    ("selu", {}, ()),
    ("celu", {}, ()),
    ("celu", {"alpha": 2.5}, ()),
    ("celu", {"alpha": -1.5}, ()),
    ("gelu", {}, ()),
    ("gelu", {"approximate": "tanh"}, ()),
    ("silu", {}, ()),
    ("mish", {}, ()),
    ("softplus", {}, (20.0,)),
    ("softplus", {"beta": 2.5, "threshold": 1.0}, (0.4,)),
    ("softplus", {"beta": -1.5}, ()),
    ("softplus", {"beta": 0.5, "threshold": 1000.0}, ()),
    ("logsigmoid", {}, ()),
    ("softsign", {}, ()),
    ("tanh", {}, ()),
    ("sigmoid", {}, ()),
]
IDS = [f"{name}-{'-'.join(map(str, options.values()))}" for name, options, _ in POINTWISE]
NAMES = sorted({name for name, _, _ in POINTWISE})

every_function = pytest.mark.parametrize(("name", "options", "kinks"), POINTWISE, ids=IDS)


def first_options(name: str) -> dict[str, Any]:
    return next(options for n, options, _ in POINTWISE if n == name)


def value_and_slope(f: Any, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of jaxmodule's function, compiled."""

    def call(x: jax.Array) -> jax.Array:
        with jm.use_rng(0):
            return f(x)

    @jax.jit
    def run(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        y, vjp = jax.vjp(call, x)
        return y, vjp(jnp.ones_like(y))[0]

    y, slope = run(jnp.asarray(x))
    return to_numpy(y), to_numpy(slope)


def torch_value_and_slope(f: Any, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    # One element at a time: torch's vectorised and its scalar loops differ at infinities, and the scalar one is right.
    pairs = []
    for value in x:
        tensor = to_torch(value.reshape(1)).requires_grad_()
        y = f(tensor)
        y.backward(torch.ones_like(y))
        pairs.append((to_numpy(y)[0], to_numpy(tensor.grad)[0]))
    y, slope = zip(*pairs, strict=True)
    return np.array(y), np.array(slope)


def assert_elements_close(ours: Any, theirs: Any, rtol: float, atol: float, what: str) -> None:
    np.testing.assert_allclose(ours, theirs, rtol=rtol, atol=atol, err_msg=what)


# -- signatures -------------------------------------------------------------------------------------------------
BUILTINS = {  # torch's C functions have no signature to inspect: as their documentation gives it
    "gelu": "(input, approximate='none')",
    "logsigmoid": "(input)",
    "hardshrink": "(input, lambd=0.5)",
    "softshrink": "(input, lambd=0.5)",
    "softplus": "(input, beta=1, threshold=20)",
    "prelu": "(input, weight)",
    "relu_": "(input)",
    "threshold_": "(input, threshold, value)",
    "hardtanh_": "(input, min_val=-1.0, max_val=1.0)",
    "elu_": "(input, alpha=1.0)",
    "selu_": "(input)",
    "celu_": "(input, alpha=1.0)",
    "leaky_relu_": "(input, negative_slope=0.01)",
    "rrelu_": "(input, lower=0.125, upper=0.3333333333333333, training=False)",
}
OTHERS = ["glu", "softmax", "log_softmax", "softmin", "gumbel_softmax"]


@pytest.mark.parametrize("name", sorted({*NAMES, *BUILTINS, *OTHERS}))
def test_arguments_are_torchs(name: str) -> None:
    ours = inspect.signature(getattr(F, name))
    bare = ours.replace(
        parameters=[p.replace(annotation=p.empty) for p in ours.parameters.values()],
        return_annotation=inspect.Signature.empty,
    )
    if name in BUILTINS:
        assert str(bare) == BUILTINS[name]
        return
    theirs = inspect.signature(getattr(TF, name))
    names = [(p.name, p.default, p.kind) for p in bare.parameters.values()]
    assert names == [(p.name, p.default, p.kind) for p in theirs.parameters.values()]


# -- values and gradients ---------------------------------------------------------------------------------------
@every_function
def test_values_and_gradients(name: str, options: dict[str, Any], kinks: tuple[float, ...]) -> None:
    x = np.array([*kinks, 0.0, -0.0, *np.linspace(-7.3, 7.1, 41), 1e-6, -1e-6, 21.0, -21.0], np.float32)
    y, slope = value_and_slope(lambda x: getattr(F, name)(x, **options), x)
    expected_y, expected_slope = torch_value_and_slope(lambda x: getattr(TF, name)(x, **options), x)
    # Absolutely, as a difference like 1 - tanh has the rounding of 1, times x.
    assert_elements_close(y, expected_y, 2e-6, 3e-7, "value")
    assert_elements_close(slope, expected_slope, 5e-6, 2e-6, "gradient")


#: What torch's rounding makes of the extremes, where ours is exact or finite.
BETTER_THAN_TORCH = {
    ("gelu", 3e38): "torch's x (1 + erf) overflows before it is halved",
    ("gelu-tanh", -1e20): "torch's cube overflows and its gradient is 0 times infinity",
    ("gelu-tanh", -3e38): "likewise",
    ("gelu-tanh", 1e20): "likewise",
    ("gelu-tanh", 3e38): "likewise",
    ("softplus-1000", 1000.0): "torch's exponential overflows below its threshold",
    ("hardswish", 3e38): "torch's 6 x overflows before it is divided",
}


@every_function
def test_extremes(name: str, options: dict[str, Any], kinks: tuple[float, ...]) -> None:
    x = np.array([100.0, -100.0, 1000.0, -1000.0, 1e20, -1e20, 3e38, -3e38], np.float32)
    y, slope = value_and_slope(lambda x: getattr(F, name)(x, **options), x)
    expected_y, expected_slope = torch_value_and_slope(lambda x: getattr(TF, name)(x, **options), x)
    ident = "gelu-tanh" if "approximate" in options else "softplus-1000" if 1000.0 in options.values() else name
    better = np.array([any((ident, v) == key for key in BETTER_THAN_TORCH) for v in map(float, x.astype(str))])
    finite_in_torch = np.isfinite(expected_slope) | better
    assert np.isfinite(slope[finite_in_torch]).all(), "gradient"
    assert_elements_close(y[~better], expected_y[~better], 2e-6, 2e-7, "value")
    assert_elements_close(slope[~better], expected_slope[~better], 5e-6, 1e-6, "gradient")


@every_function
def test_infinities_and_nan(name: str, options: dict[str, Any], kinks: tuple[float, ...]) -> None:
    x = np.array([INF, -INF, NAN], np.float32)
    y, slope = value_and_slope(lambda x: getattr(F, name)(x, **options), x)
    expected_y, expected_slope = torch_value_and_slope(lambda x: getattr(TF, name)(x, **options), x)
    assert_elements_close(y, expected_y, 2e-6, 2e-7, "value")
    if name == "relu":  # jax.nn.relu's gradient at NaN is 0, torch's 1
        expected_slope[2] = 0.0
    finite = np.isfinite(expected_slope)  # where torch's gradient is NaN, ours may be finite
    assert_elements_close(slope[finite], expected_slope[finite], 5e-6, 1e-6, "gradient")


@pytest.mark.parametrize("shape", [(), (0, 3), (2, 0), (2, 3)])
@pytest.mark.parametrize("name", NAMES)
def test_shapes(name: str, shape: tuple[int, ...]) -> None:
    options = first_options(name)
    x = np.linspace(-2, 2, int(np.prod(shape)), dtype=np.float32).reshape(shape)
    assert_close(getattr(F, name)(x, **options), getattr(TF, name)(to_torch(x), **options))


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int8", "int16", "int32", "float16", "bfloat16", "complex64"])
@pytest.mark.parametrize("name", [*NAMES, "glu", "softmax", "log_softmax", "softmin"])
def test_dtypes(name: str, dtype: str) -> None:
    options = {"dim": 0} if name not in NAMES else dict(first_options(name))
    if name == "threshold":
        options = {"threshold": 1.0, "value": 7.0}
    x = torch.tensor([0, 1, 2, 3, 5, 7]).to(getattr(torch, dtype))
    array = jnp.asarray(to_numpy(x)).astype(dtype)
    try:
        expected = getattr(TF, name)(x, **options)
    except Exception as error:
        with pytest.raises(type(error)):
            getattr(F, name)(array, **options)
        return
    got = getattr(F, name)(array, **options)
    assert str(got.dtype) == str(expected.dtype).removeprefix("torch.")
    # torch computes softsign and tanhshrink in the half dtype itself, one rounding an operation.
    rtol = {"float16": 2e-3, "bfloat16": 1.6e-2}.get(dtype, 1e-5)
    assert_close(got, expected, rtol)


@every_function
def test_float64(name: str, options: dict[str, Any], kinks: tuple[float, ...]) -> None:
    x = np.array([*kinks, *np.linspace(-7.3, 7.1, 17)])
    with jax.enable_x64(True):
        y, slope = value_and_slope(lambda x: getattr(F, name)(x, **options), x)
    expected_y, expected_slope = torch_value_and_slope(lambda x: getattr(TF, name)(x, **options), x)
    assert y.dtype == np.float64
    assert_elements_close(y, expected_y, 1e-12, 1e-14, "value")
    # torch's derivative of hardsigmoid has 1/6 in float32.
    assert_elements_close(slope, expected_slope, 1e-7 if name == "hardsigmoid" else 1e-10, 1e-12, "gradient")


def test_numpy_and_lists_and_boxes_are_taken() -> None:
    for x in (np.array([-1.0, 2.0], np.float32), nn.Buffer(jnp.array([-1.0, 2.0])), [-1.0, 2.0]):
        assert F.elu(x).shape == (2,)


# -- integers and limits ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", ["int8", "int32"])
def test_limits_are_truncated_for_integers(dtype: str) -> None:
    x = np.array([-2, -1, 0, 1, 2], dtype)
    for call in (
        lambda f, x: f.threshold(x, -0.5, 2.7),
        lambda f, x: f.hardtanh(x, -0.5, 1.5),
        lambda f, x: f.hardtanh(x, -1.5, 1.5),
        lambda f, x: f.relu6(x),
    ):
        ours = call(F, x)
        assert ours.dtype == x.dtype
        assert ours.tolist() == call(TF, to_torch(x)).tolist()


def test_unsigned_integers_wrap_as_in_torch() -> None:
    x = np.array([0, 2, 254, 255], np.uint8)
    assert F.threshold(x, 1, -1).tolist() == TF.threshold(to_torch(x), 1, -1).tolist()
    assert F.threshold(x, -1, 1).tolist() == TF.threshold(to_torch(x), -1, 1).tolist()


LIMIT_ERRORS = [
    (lambda f, x: f.threshold(x("int8"), 1, 300), RuntimeError, "cannot be converted to type int8 without overflow"),
    (lambda f, x: f.threshold(x("uint8"), -300, 1), RuntimeError, "cannot be converted to type uint8"),
    (lambda f, x: f.threshold(x("int32"), INF, 1), RuntimeError, "cannot be converted to type int32"),
    (lambda f, x: f.threshold(x("float16"), 1.0, 1e9), RuntimeError, "cannot be converted to type float16"),
    (lambda f, x: f.hardtanh(x("float16"), -1e9, 1e9), RuntimeError, "cannot be converted to type float16"),
    (lambda f, x: f.hardtanh(x("uint8")), RuntimeError, "unsigned type with negative limits"),
    (lambda f, x: f.hardtanh(x("float32"), 2.0, 1.0), ValueError, "min_val cannot be greater than max_val"),
    (lambda f, x: f.hardshrink(x("float16"), 1e9), RuntimeError, "cannot be converted to type float16"),
    (lambda f, x: f.softshrink(x("float32"), -0.5), RuntimeError, r"in range \[0, 3.40282e\+38\].*found -0.5"),
    (lambda f, x: f.softshrink(x("float32"), NAN), RuntimeError, "found nan"),
    (lambda f, x: f.softshrink(x("float16"), 1e9), RuntimeError, r"in range \[0, 65504\]"),
    (lambda f, x: f.celu(x("float32"), 0.0), RuntimeError, "alpha cannot be 0 for CELU"),
    (
        lambda f, x: f.gelu(x("float32"), approximate="x"),
        RuntimeError,
        "approximate argument must be either none or tanh",
    ),
    (lambda f, x: f.rrelu(x("float32"), 0.5, 0.1), RuntimeError, "less than or equal to the upper bound"),
    (lambda f, x: f.rrelu(x("float32"), -INF, 0.1), RuntimeError, "lower bound must be finite"),
    (lambda f, x: f.rrelu(x("float32"), 0.1, INF, True), RuntimeError, "upper bound must be finite"),
    (lambda f, x: f.rrelu(x("int32"), training=True), NotImplementedError, "not implemented for 'int32'"),
    (lambda f, x: f.glu(x("float32")), RuntimeError, "Halving dimension must be even, but dimension 0 is size 3"),
    (lambda f, x: f.glu(x("float32")[0]), RuntimeError, "glu does not support scalars"),
    (lambda f, x: f.glu(x("float32"), 1), IndexError, "but got 1"),
    (lambda f, x: f.softmin(x("bool"), 0, dtype=None), RuntimeError, "Negation"),
    (lambda f, x: f.gumbel_softmax(x("int32")), RuntimeError, "must be a floating point"),
    (lambda f, x: f.gumbel_softmax(x("float32"), dim=1), IndexError, "but got 1"),
    (lambda f, x: f.gumbel_softmax(x("float32")[:0], hard=True), IndexError, "non-zero size"),
]


@pytest.mark.parametrize(("call", "kind", "match"), LIMIT_ERRORS)
def test_errors(call: Any, kind: type[Exception], match: str) -> None:
    def x(dtype: str) -> np.ndarray:
        return np.ones(3, dtype)

    same_error(lambda: call(F, x), lambda: call(TF, lambda dtype: to_torch(x(dtype))))
    with pytest.raises(kind, match=match):
        call(F, x)


# -- in place ---------------------------------------------------------------------------------------------------
IN_PLACE = {
    "threshold": (0.5, -1.0),
    "relu": (),
    "relu6": (),
    "hardtanh": (-0.5, 0.5),
    "hardsigmoid": (),
    "hardswish": (),
    "leaky_relu": (0.5,),
    "rrelu": (0.1, 0.3),
    "elu": (0.5,),
    "selu": (),
    "celu": (0.5,),
    "silu": (),
    "mish": (),
}


@pytest.mark.parametrize("name", IN_PLACE)
def test_in_place_writes_a_box_and_returns_it(name: str) -> None:
    x, args = jnp.array([-2.0, -0.1, 0.3, 5.0]), IN_PLACE[name]
    expected = getattr(F, name)(x, *args)
    calls = [lambda a: getattr(F, name)(a, *args, inplace=True)]
    if hasattr(TF, f"{name}_"):
        calls.append(lambda a: getattr(F, f"{name}_")(a, *args))
    for call in calls:
        box = nn.Parameter(x)
        assert call(box) is box
        assert box.tolist() == expected.tolist()
        assert call(x).tolist() == expected.tolist()  # an array can't change
        assert x.tolist() == jnp.array([-2.0, -0.1, 0.3, 5.0]).tolist()


def test_in_place_in_a_compiled_call() -> None:
    class Clip(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.state = nn.Buffer(jnp.array([-1.0, 2.0]))

        def forward(self, x: jax.Array) -> jax.Array:
            return x * F.relu_(self.state)

    module = Clip()
    assert jm.jit(lambda module, x: module(x))(module, jnp.ones(2)).tolist() == [0.0, 2.0]
    assert module.state.tolist() == [0.0, 2.0]
    assert nn.ReLU(inplace=True)(module.state) is module.state


# -- prelu ------------------------------------------------------------------------------------------------------
PRELU_SHAPES = [
    ((3,), (1,)),
    ((2, 3), (3,)),
    ((2, 3), (1,)),
    ((2, 3), ()),
    ((2, 3, 4), (3,)),
    ((), ()),
    ((), (1,)),
    ((0, 3), (3,)),
    ((2, 1, 3), (1,)),
]


@pytest.mark.parametrize(("shape", "weight"), PRELU_SHAPES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_prelu(shape: tuple[int, ...], weight: tuple[int, ...], dtype: str) -> None:
    rng = np.random.default_rng(0)
    x = np.round(2 * rng.standard_normal(shape)).astype(jnp.dtype(dtype))  # with zeros, where the gradient jumps
    w = np.asarray(rng.standard_normal(weight)).astype(jnp.dtype(dtype))
    # Half precision: torch sums the slope's gradient in another order of roundings.
    compare(F.prelu, TF.prelu, [x, w], rtol=1e-5 if dtype == "float32" else 1e-2)


def test_prelu_of_infinities() -> None:
    compare(F.prelu, TF.prelu, [np.array([INF, 0.0, -1.0], np.float32), np.array([-3.0], np.float32)])


PRELU_ERRORS = [
    ((3,), (3,), "parameter numbers = 3 and channel size = 1"),
    ((2, 3), (2,), "parameter numbers = 2 and channel size = 3"),
    ((2, 3), (0,), "parameter numbers = 0 and channel size = 3"),
    ((), (2,), "zero-dim input"),
    ((2, 3), (1, 1), "ndim = 2"),
]


@pytest.mark.parametrize(("shape", "weight", "match"), PRELU_ERRORS)
def test_prelu_errors(shape: Any, weight: Any, match: str) -> None:
    x, w = np.ones(shape, np.float32), np.ones(weight, np.float32)
    same_error(lambda: F.prelu(x, w), lambda: TF.prelu(to_torch(x), to_torch(w)))
    with pytest.raises(RuntimeError, match=match):
        F.prelu(x, w)


def test_prelu_dtype_errors() -> None:
    for kinds, error in ((("float16", "float32"), RuntimeError), (("int32", "int32"), NotImplementedError)):
        x, w = np.ones((2, 3), kinds[0]), np.ones(3, kinds[1])
        same_error(lambda x=x, w=w: F.prelu(x, w), lambda x=x, w=w: TF.prelu(to_torch(x), to_torch(w)))
        with pytest.raises(error, match="Type promoting not supported|not implemented"):
            F.prelu(x, w)


# -- rrelu ------------------------------------------------------------------------------------------------------
def test_rrelu_draws_a_slope_for_each_element() -> None:
    x = -np.ones(20_000, np.float32)
    slopes = -np.asarray(F.rrelu(x, 0.2, 0.8, training=True))
    assert slopes.min() >= 0.2
    assert slopes.max() <= 0.8
    assert abs(slopes.mean() - 0.5) < 0.01
    assert abs(slopes.std() - 0.6 / np.sqrt(12)) < 0.01
    assert not np.array_equal(slopes, -np.asarray(F.rrelu(x, 0.2, 0.8, training=True)))
    assert F.rrelu(np.array([0.0, 3.0, INF, NAN], np.float32), training=True)[:3].tolist() == [0.0, 3.0, INF]


def test_rrelu_gradient_is_the_slope() -> None:
    x = jnp.array([-2.0, -0.5, 0.0, 1.0])

    def loss(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        y = F.rrelu(x, training=True)
        return y.sum(), y

    grad, y = jm.grad(loss, has_aux=True)(x)
    np.testing.assert_allclose(grad[:2], y[:2] / x[:2], rtol=1e-6)
    assert 0.125 <= float(grad[2]) <= 1 / 3  # torch's: at 0 a slope too
    assert float(grad[3]) == 1.0


# -- glu --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("shape", "dim"), [((4,), -1), ((2, 6), 1), ((4, 3), 0), ((2, 4, 3), -2), ((0, 4), 1), ((2, 0), 1)]
)
def test_glu(shape: tuple[int, ...], dim: int) -> None:
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    compare(lambda x: F.glu(x, dim), lambda x: TF.glu(x, dim), [x])


def test_glu_of_extremes() -> None:
    x = np.array([[1.0, INF], [1.0, -INF], [3e38, 1.0], [1.0, 1e30], [1.0, -1e30]], np.float32)
    compare(F.glu, TF.glu, [x])


# -- the softmax family -----------------------------------------------------------------------------------------
FAMILY = ["softmax", "log_softmax", "softmin"]
IMPLICIT = "ignore:Implicit dimension choice:UserWarning"


@pytest.mark.filterwarnings(IMPLICIT)
@pytest.mark.parametrize("name", FAMILY)
@pytest.mark.parametrize(
    ("shape", "dim"),
    [((), 0), ((), None), ((5,), None), ((3, 5), None), ((2, 3, 4), None), ((2, 3, 4), -2), ((0, 3), 0), ((2, 0), 1)],
)
def test_softmax(name: str, shape: tuple[int, ...], dim: int | None) -> None:
    x = 3 * np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    compare(lambda x: getattr(F, name)(x, dim), lambda x: getattr(TF, name)(x, dim), [np.asarray(x, np.float32)])


@pytest.mark.parametrize("name", FAMILY)
def test_softmax_of_extremes(name: str) -> None:
    for row in (
        [1000.0, 0.0, -1000.0],
        [-INF, 0.0, 1.0],
        [INF, 0.0, 1.0],
        [-INF, -INF, -INF],
        [NAN, 0.0, 1.0],
        [3e38, -3e38, 0.0],
    ):
        x = np.array(row, np.float32)
        y, slope = value_and_slope(lambda x: getattr(F, name)(x, 0) * jnp.array([1.0, 2.0, 3.0]), x)
        tensor = to_torch(x).requires_grad_()
        expected = getattr(TF, name)(tensor, 0) * torch.tensor([1.0, 2.0, 3.0])
        expected.sum().backward()
        assert_elements_close(y, to_numpy(expected), 1e-5, 1e-6, f"value of {row}")
        assert_elements_close(slope, to_numpy(tensor.grad), 1e-5, 1e-6, f"gradient of {row}")


@pytest.mark.parametrize("name", FAMILY)
def test_softmax_casts_to_dtype_first(name: str) -> None:
    ours, theirs = getattr(F, name), getattr(TF, name)
    for of, to in (("int32", "float32"), ("int32", "float16"), ("uint8", "float32"), ("float16", "float32")):
        x = np.array([0, 1, 2, 3]).astype(of)
        expected = theirs(to_torch(x), 0, dtype=getattr(torch, to))
        got = ours(x, 0, dtype=getattr(jnp, to))
        assert str(got.dtype) == to
        assert_close(got, expected, 1e-3 if to == "float16" else 1e-5)
    compare(
        lambda x: ours(x, 1, dtype=jnp.float32),
        lambda x: theirs(x, 1, dtype=torch.float32),
        [np.random.default_rng(0).standard_normal((3, 4)).astype(jnp.bfloat16)],
        rtol=1e-2,  # the gradient is rounded to bfloat16
    )
    for to in ("int32", "complex64"):
        x = np.ones(3, np.float32)
        same_error(
            lambda x=x, to=to: ours(x, 0, dtype=getattr(jnp, to)),
            lambda x=x, to=to: theirs(to_torch(x), 0, dtype=getattr(torch, to)),
        )


@pytest.mark.parametrize("name", FAMILY)
def test_implicit_dimension_warns_where_it_is_chosen(name: str) -> None:
    with pytest.warns(UserWarning, match=f"Implicit dimension choice for {name} has been deprecated") as caught:
        getattr(F, name)(np.zeros((2, 3), np.float32))
    assert caught[0].filename == __file__

    def elsewhere() -> None:
        getattr(F, name)(np.zeros((2, 3), np.float32), None, 4)

    with pytest.warns(UserWarning, match="Implicit dimension choice") as caught:
        elsewhere()
    assert caught[0].lineno > elsewhere.__code__.co_firstlineno + 1
    layer = {"softmax": nn.Softmax, "log_softmax": nn.LogSoftmax, "softmin": nn.Softmin}[name]()
    with pytest.warns(UserWarning, match="Implicit dimension choice") as caught:
        layer(np.zeros((2, 3), np.float32))
    assert caught[0].filename == __file__


def test_log_softmax_and_logsigmoid_in_half_precision_are_rounded_once() -> None:
    x = np.linspace(-8, 8, 33).astype(jnp.bfloat16)
    wide = x.astype(np.float64)
    exact = -np.logaddexp(0.0, -wide)
    np.testing.assert_array_equal(np.asarray(F.logsigmoid(x)), exact.astype(np.float32).astype(jnp.bfloat16))


# -- gumbel_softmax ---------------------------------------------------------------------------------------------
def test_gumbel_softmax_is_a_sample() -> None:
    logits = np.log(np.array([0.1, 0.2, 0.7], np.float32))
    many = np.broadcast_to(logits, (20_000, 3))
    soft = np.asarray(F.gumbel_softmax(many, tau=0.7))
    np.testing.assert_allclose(soft.sum(1), 1.0, rtol=1e-5)
    hard = np.asarray(F.gumbel_softmax(many, hard=True))
    assert set(np.unique(hard)) == {0.0, 1.0}
    np.testing.assert_allclose(hard.mean(0), [0.1, 0.2, 0.7], atol=0.02)
    theirs = TF.gumbel_softmax(torch.from_numpy(many.copy()), tau=0.7).numpy()
    np.testing.assert_allclose(soft.mean(0), theirs.mean(0), atol=0.02)
    np.testing.assert_allclose(soft.std(0), theirs.std(0), atol=0.02)


@pytest.mark.parametrize("dim", [0, 1, -1])
def test_gumbel_softmax_hard_has_the_gradient_of_the_soft(dim: int) -> None:
    x, weights = jnp.asarray(np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)), jnp.arange(12.0)

    def loss(x: jax.Array, hard: bool) -> jax.Array:
        with jm.use_rng(3):
            return jnp.sum(F.gumbel_softmax(x, 0.5, hard, dim=dim) * weights.reshape(3, 4))

    np.testing.assert_array_equal(jax.grad(loss)(x, True), jax.grad(loss)(x, False))
    with jm.use_rng(3):
        hard = F.gumbel_softmax(x, 0.5, True, dim=dim)
    with jm.use_rng(3):
        soft = F.gumbel_softmax(x, 0.5, dim=dim)
    np.testing.assert_array_equal(np.argmax(hard, dim), np.argmax(soft, dim))
    np.testing.assert_array_equal(np.asarray(hard).sum(dim), 1.0)


def test_gumbel_softmax_edges() -> None:
    with pytest.warns(UserWarning, match="`eps` parameter is deprecated"):
        F.gumbel_softmax(np.zeros(3, np.float32), eps=1e-5)
    assert float(F.gumbel_softmax(np.zeros((), np.float32), hard=True)) == 1.0
    assert F.gumbel_softmax(np.zeros((3, 0), np.float32)).shape == (3, 0)
    assert F.gumbel_softmax(np.zeros((0, 3), np.float32), hard=True).shape == (0, 3)
    assert F.gumbel_softmax(jnp.zeros(3, jnp.bfloat16)).dtype == jnp.bfloat16


def test_gumbel_softmax_takes_a_temperature_that_changes() -> None:
    traces = []

    @jm.jit
    def run(generator: jm.Generator, x: jax.Array, tau: jax.Array) -> jax.Array:
        traces.append(1)
        with jm.use_rng(generator):
            return F.gumbel_softmax(x, tau)

    for tau in (1.0, 0.5, 0.1):
        run(jm.Generator(0), jnp.zeros(3), jnp.float32(tau))
    assert len(traces) == 1


# -- modules' deprecated arguments ------------------------------------------------------------------------------
def test_hardtanh_takes_its_old_argument_names() -> None:
    for layer in (nn.Hardtanh, torch.nn.Hardtanh):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            module = layer(min_value=-2.0, max_value=3.0)
        assert (module.min_val, module.max_val) == (-2.0, 3.0)
        assert [w.category for w in caught] == [FutureWarning, FutureWarning]
        assert [str(w.message).split("`")[1] for w in caught] == ["min_value", "max_value"]


def test_module_kinds_are_torchs() -> None:
    assert issubclass(nn.ReLU6, nn.Hardtanh)
    assert (nn.ReLU6().min_val, nn.ReLU6().max_val) == (0.0, 6.0)

"""Convolutions and transposed convolutions against torch, over every argument and at the edges.

Drawn shapes and arguments are in test_conv_property.py.
"""

from __future__ import annotations

import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as TF
from jax.test_util import check_grads

from jaxmodule import nn
from jaxmodule.nn import functional as F
from tests.parity.oracle import assert_close, compare, same_error, to_torch

DIMENSIONS = pytest.mark.parametrize("n", [1, 2, 3])
HALF = {"float16": 2e-3, "bfloat16": 2e-2}  # one or two units in the last place of the sums


def normal(*shape: int, seed: int = 0, dtype: Any = np.float32) -> np.ndarray:
    return np.random.default_rng((seed, *shape)).standard_normal(shape).astype(dtype)


def tensors(arrays: Any) -> list[Any]:
    return [to_torch(a) if isinstance(a, np.ndarray) else a for a in arrays]


def compare_call(name: str, arrays: Any, *, rtol: float = 1e-5, gradients: bool = True, **options: Any) -> None:
    ours, theirs = getattr(F, name), getattr(TF, name)
    compare(lambda *a: ours(*a, **options), lambda *a: theirs(*a, **options), arrays, rtol=rtol, gradients=gradients)


def both_raise(name: str, arrays: Any, match: str, **options: Any) -> None:
    same_error(lambda: getattr(F, name)(*arrays, **options), lambda: getattr(TF, name)(*tensors(arrays), **options))
    with pytest.raises(Exception, match=match):
        getattr(F, name)(*arrays, **options)


# -- signatures -------------------------------------------------------------------------------------------------
# torch's C functions have no signature to inspect: as their documentation gives it, conv_tbc's as it accepts it
DOCUMENTED = {
    **{f"conv{n}d": "(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1)" for n in (1, 2, 3)},
    **{
        f"conv_transpose{n}d": "(input, weight, bias=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1)"
        for n in (1, 2, 3)
    },
    "conv_tbc": "(input, weight, bias, pad=0)",
}


def bare(function: Any) -> str:
    signature = inspect.signature(function)
    parameters = [p.replace(annotation=p.empty) for p in signature.parameters.values()]
    return str(signature.replace(parameters=parameters, return_annotation=inspect.Signature.empty))


def test_arguments_are_torchs() -> None:
    for name, documented in DOCUMENTED.items():
        assert bare(getattr(F, name)) == documented


# -- the spellings for CPU ----------------------------------------------------------------------------------------
# input, weight, arguments: depthwise (one output a channel, and two), windows that don't overlap, groups (few, many),
# three dimensions, and what is XLA's own
SPELLED = {
    "depthwise1d": ((2, 3, 9), (3, 1, 4), {"groups": 3, "stride": 2, "padding": 1}),
    "depthwise2d": ((2, 3, 7, 6), (6, 1, 3, 2), {"groups": 3, "stride": (2, 1), "padding": 2, "dilation": (1, 2)}),
    "depthwise3d": ((1, 2, 4, 5, 4), (2, 1, 2, 3, 2), {"groups": 2, "padding": 1, "stride": (1, 2, 3)}),
    "large depthwise": ((1, 2, 13, 13), (2, 1, 12, 12), {"groups": 2, "padding": 1}),
    "1x1": ((2, 3, 4, 5), (4, 3, 1, 1), {}),
    "1x1, stride": ((2, 4, 5, 5), (6, 2, 1, 1), {"groups": 2, "stride": (2, 3), "padding": (1, 0), "dilation": 2}),
    "patches": ((2, 3, 7, 8), (4, 3, 2, 3), {"stride": (2, 4)}),
    "padded patches": ((1, 4, 5, 4, 3), (4, 2, 2, 1, 2), {"stride": 2, "padding": 1, "groups": 2}),
    "groups": ((1, 6, 5, 4), (9, 2, 3, 3), {"groups": 3, "padding": 1, "stride": 2}),
    "many groups": ((1, 24, 3), (12, 2, 2), {"groups": 12}),
    "very many groups": ((2, 74, 4), (37, 2, 3), {"groups": 37, "stride": 2, "padding": 1}),
    "wide groups": ((1, 64, 4), (68, 32, 3), {"groups": 2, "stride": 2, "dilation": 1}),
    "3d": ((2, 2, 4, 5, 3), (3, 2, 3, 2, 2), {"stride": (2, 1, 2), "padding": (1, 0, 1), "dilation": (1, 2, 1)}),
    "3d, groups": ((1, 4, 4, 3, 3), (6, 2, 3, 2, 2), {"groups": 2, "padding": 1}),
    "dense": ((1, 2, 5, 5), (3, 2, 3, 3), {"stride": 2, "padding": 1}),
    "dense, end cut off": ((2, 3, 7, 8), (4, 3, 2, 3), {"stride": (3, 2), "padding": (0, 3), "dilation": (2, 1)}),
    "dense1d": ((2, 2, 9), (3, 2, 4), {"stride": 2, "dilation": 2}),
}


def conv_of(shape: tuple[int, ...], **options: Any) -> Any:
    return lambda x, w: getattr(F, f"conv{len(shape) - 2}d")(x, w, **options)


@pytest.mark.parametrize("case", SPELLED)
def test_spellings_for_cpu(case: str) -> None:
    x, w, options = SPELLED[case]
    compare_call(f"conv{len(x) - 2}d", [normal(*x), normal(*w, seed=1)], rtol=2e-5, **options)


@pytest.mark.parametrize(
    "case", ["depthwise2d", "padded patches", "groups", "very many groups", "3d", "dense, end cut off"]
)
def test_other_platforms_compute_the_same(case: str) -> None:
    """What they run is only lowered there, so all three forms of it are compared here with the spelling for CPU."""
    from jaxmodule.nn.functional import _conv_cpu, _conv_xla

    x, w, options = SPELLED[case]
    arrays = jnp.asarray(normal(*x)), jnp.asarray(normal(*w, seed=1))
    program = jax.make_jaxpr(conv_of(x, **options))(*arrays)
    (params,) = [e.params for e in program.eqns if e.primitive.name == "jaxmodule_convolution"]
    geometry, operands = params["geometry"], dict(enumerate((*arrays, conv_of(x, **options)(*arrays))))
    for wanted in (_conv_xla.OUTPUT, _conv_xla.INPUT, _conv_xla.WEIGHT):
        a, b = (operand for slot, operand in operands.items() if slot != wanted)
        by_xla = jax.jit(lambda a, b, i=wanted: _conv_xla.by_xla(a, b, wanted=i, geometry=geometry, precision=None))
        assert_close(jax.jit(lambda a, b, i=wanted: _conv_cpu.spelled(i, a, b, geometry))(a, b), by_xla(a, b))


@pytest.mark.parametrize("case", ["depthwise1d", "1x1, stride", "many groups", "dense1d"])
def test_spellings_have_derivatives_in_both_modes(case: str) -> None:
    x, w, options = SPELLED[case]
    arrays = jnp.asarray(normal(*x)), jnp.asarray(normal(*w, seed=1))
    convolve = jax.jit(conv_of(x, **options))
    check_grads(convolve, arrays, order=2, rtol=2e-2, atol=2e-2)
    hessian = jax.hessian(lambda w: jnp.sum(jnp.square(convolve(arrays[0], w))))(arrays[1])
    assert hessian.shape == 2 * w
    value, linear = jax.linearize(convolve, *arrays)
    assert_close(linear(*arrays), 2 * value)


@pytest.mark.parametrize("axes", [(0, None), (None, 1), (2, 0)], ids=str)
@pytest.mark.parametrize("case", ["depthwise1d", "groups"])
def test_vmap_of_spellings(case: str, axes: tuple[int | None, int | None]) -> None:
    x, w, options = SPELLED[case]
    shapes = [s if axis is None else (*s[:axis], 3, *s[axis:]) for s, axis in zip((x, w), axes, strict=True)]
    arrays = [jnp.asarray(normal(*shape, seed=i)) for i, shape in enumerate(shapes)]
    convolve = conv_of(x, **options)

    def train(x: jax.Array, w: jax.Array) -> Any:
        y, pull = jax.vjp(convolve, x, w)
        return y, *pull(jnp.cos(y))

    mapped = jax.jit(jax.vmap(train, axes))(*arrays)
    for i in range(3):
        one = jax.jit(train)(
            *(a if axis is None else jnp.take(a, i, axis) for a, axis in zip(arrays, axes, strict=True))
        )
        for got, expected in zip(mapped, one, strict=True):
            assert_close(got[i], expected)


def test_gpus_and_tpus_get_xlas_convolution() -> None:
    x, w, options = SPELLED["depthwise2d"]
    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in (x, w)]
    traced = jax.jit(conv_of(x, **options)).trace(*shapes)
    for platform in ("cuda", "tpu"):
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        assert "stablehlo.convolution" in text
        assert "feature_group_count = 3" in text
    assert "stablehlo.convolution" not in traced.lower(lowering_platforms=("cpu",)).as_text()
    train = jax.jit(jax.grad(lambda x, w: jnp.sum(conv_of(w.shape, **options)(x, w)), (0, 1)))
    everywhere = jax.export.export(train, platforms=["cpu", "cuda", "tpu"])(*shapes)
    arrays = jnp.asarray(normal(*x)), jnp.asarray(normal(*w, seed=1))
    for got, expected in zip(everywhere.call(*arrays), train(*arrays), strict=True):
        assert_close(got, expected)
    with jax.default_matmul_precision("highest"):
        inside = jax.jit(conv_of(x, **options)).trace(*shapes)
    assert "HIGHEST" in inside.lower(lowering_platforms=("tpu",)).as_text()


def test_dense_convolutions_have_channels_last_on_cpu() -> None:
    """XLA finds that layout itself, except in the body of a loop, where it is 10 to 30 times slower without."""
    x, w, options = SPELLED["dense"]
    train = jax.jit(jax.grad(lambda x, w: jnp.sum(jnp.square(conv_of(w.shape, **options)(x, w))), (0, 1)))
    text = train.lower(jnp.ones(x), jnp.ones(w)).as_text()
    assert text.count("stablehlo.convolution(") == 3
    assert text.count("[b, 0, 1, f]x[0, 1, i, o]->[b, 0, 1, f]") == 3


@pytest.mark.parametrize("checked", [True, False])
def test_convolutions_in_a_shard_map(checked: bool) -> None:
    x, w, options = SPELLED["depthwise2d"]
    arrays = jnp.asarray(normal(*x)), jnp.asarray(normal(*w, seed=1))

    def loss(x: jax.Array, w: jax.Array) -> jax.Array:
        return jnp.sum(jnp.square(conv_of(w.shape, **options)(x, w)))

    def part(x: jax.Array, w: jax.Array) -> Any:
        by_input, by_weight = jax.grad(loss, (0, 1))(x, w)
        return by_input, by_weight if checked else jax.lax.psum(by_weight, "data")  # unchecked, it is the part's own

    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spec, same = jax.sharding.PartitionSpec("data"), jax.sharding.PartitionSpec()
    sharded = jax.shard_map(part, mesh=mesh, in_specs=(spec, same), out_specs=(spec, same), check_vma=checked)
    for got, expected in zip(jax.jit(sharded)(*arrays), jax.grad(loss, (0, 1))(*arrays), strict=True):
        assert_close(got, expected)


# -- convolutions -----------------------------------------------------------------------------------------------
def conv_arrays(n: int, transposed: bool = False, batch: tuple[int, ...] = (2,), dtype: Any = np.float32) -> list[Any]:
    x, w = normal(*batch, 2, *(5,) * n), normal(*((2, 3) if transposed else (3, 2)), *(2,) * n, seed=1)
    return [a.astype(dtype) for a in (x, w, normal(3, seed=2))]


@DIMENSIONS
@pytest.mark.parametrize("name", ["conv{}d", "conv_transpose{}d"])
@pytest.mark.parametrize("batch", [(), (0,), (1,)], ids=["none", "empty", "one"])
def test_batches(name: str, n: int, batch: tuple[int, ...]) -> None:
    transposed = "transpose" in name
    compare_call(name.format(n), conv_arrays(n, transposed, batch), stride=2, padding=1)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", ["conv2d", "conv_transpose2d"])
@pytest.mark.parametrize("options", [{}, {"stride": 2}], ids=["dense", "strided"])
def test_half_precision(name: str, dtype: str, options: dict[str, int]) -> None:
    arrays = conv_arrays(2, name != "conv2d", dtype=jnp.dtype(dtype))
    compare_call(name, arrays, rtol=HALF[dtype], **options)


def test_half_precision_is_rounded_once() -> None:
    x, w = (normal(*shape, seed=1).astype(jnp.bfloat16) for shape in ((1, 8, 6), (8, 2, 9)))
    exact = F.conv_transpose1d(x.astype(np.float32), w.astype(np.float32), stride=2)
    np.testing.assert_array_equal(F.conv_transpose1d(x, w, stride=2), exact.astype(jnp.bfloat16))


@DIMENSIONS
@pytest.mark.parametrize("name", ["conv{}d", "conv_transpose{}d"])
def test_integers(name: str, n: int) -> None:
    with jax.enable_x64(True):  # torch's transposed ones take no other integers than int64
        arrays = [np.round(9 * a).astype(np.int64) for a in conv_arrays(n, "transpose" in name)]
        ours, theirs = (
            getattr(m, name.format(n))(*a, stride=2, padding=1) for m, a in ((F, arrays), (TF, tensors(arrays)))
        )
        assert_close(ours, theirs)
        assert ours.dtype == np.int64


@DIMENSIONS
@pytest.mark.parametrize("name", ["conv{}d", "conv_transpose{}d"])
def test_complex_numbers(name: str, n: int) -> None:
    arrays = [(a + 1j * a[::-1]).astype(np.complex64) for a in conv_arrays(n, "transpose" in name)]
    compare_call(name.format(n), arrays, stride=2, padding=1, gradients=False)


@pytest.mark.parametrize("name", ["conv2d", "conv_transpose2d"])
def test_float64(name: str) -> None:
    with jax.enable_x64(True):
        arrays = [np.asarray(a, np.float64) for a in conv_arrays(2, name != "conv2d")]
        compare_call(name, arrays, stride=2, dilation=2, padding=1, rtol=1e-12)


@pytest.mark.parametrize("name", ["conv2d", "conv_transpose2d"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_and_infinity_reach_what_torchs_reach(name: str, bad: float) -> None:
    arrays = conv_arrays(2, name != "conv2d", (1,))
    arrays[0][0, 0, 2, 2] = bad
    compare_call(name, arrays, stride=2, gradients=False)


def test_a_sequence_of_one_number_stands_for_all_dimensions() -> None:
    x, w = conv_arrays(2)[:2]
    one = F.conv2d(x, w, None, [2], (1,), np.array([1]))
    np.testing.assert_array_equal(one, F.conv2d(x, w, None, 2, 1, 1))
    np.testing.assert_array_equal(one, F.conv2d(x, w, None, np.int64(2), np.int32(1)))


def test_kernels_without_input_channels() -> None:
    # torch gives no output channels here; the sum over no input channels is 0, and the bias is added.
    y = F.conv2d(normal(1, 0, 5, 5), normal(3, 0, 2, 2), np.arange(3, dtype=np.float32))
    assert y.shape == (1, 3, 4, 4)
    assert y[0, :, 0, 0].tolist() == [0.0, 1.0, 2.0]


def test_an_empty_batch_of_empty_images() -> None:
    compare_call("conv2d", [normal(0, 2, 5, 0), normal(3, 2, 2, 2)], padding=1)
    compare_call("conv_transpose2d", [normal(0, 2, 5, 0), normal(2, 3, 2, 2)])
    compare_call("conv_transpose2d", [normal(0, 2, 2, 2), normal(2, 3, 1, 1)], padding=1)


X, W, WT = (1, 2, 5, 5), (3, 2, 2, 2), (2, 3, 2, 2)
SHARED_ERRORS = [
    ((5, 5), None, None, {}, r"Expected 3D .unbatched. or 4D .batched. input to conv"),
    ((1, 1, 2, 5, 5), None, None, {}, r"Expected 3D .unbatched. or 4D .batched. input to conv"),
    (X, (2, 2, 2, 2, 2), None, {}, "to match the convolution dimensions"),
    (X, (2, 2, 2), None, {}, "to match the convolution dimensions"),
    ((1, 4, 5, 5), None, None, {}, "to have 2 channels, but got 4"),
    ((4, 5, 5), None, None, {}, "to have 2 channels, but got 4"),
    (X, None, (4,), {}, "bias to be 1-dimensional with 3 elements, but got bias of size .4."),
    (X, None, (1,), {}, "bias to be 1-dimensional with 3 elements, but got bias of size .1."),
    (X, None, (3, 1), {}, "bias to be 1-dimensional with 3 elements, but got bias of size .3, 1."),
    (X, None, None, {"stride": 0}, "non-positive stride"),
    (X, None, None, {"stride": (1, -1)}, "non-positive stride"),
    (X, None, None, {"stride": (1, 1, 1)}, "list of 2 values"),
    (X, None, None, {"stride": ()}, "list of 2 values"),
    (X, None, None, {"stride": 1.0}, "stride must be an int or a sequence of ints, but got 1.0"),
    (X, None, None, {"stride": True}, "stride must be an int"),
    (X, None, None, {"padding": -1}, "negative padding"),
    (X, None, None, {"padding": (1, 1, 1)}, "list of 2 values"),
    (X, None, None, {"dilation": 0}, "dilation should be greater than zero"),
    (X, None, None, {"dilation": (1, 1, 1)}, "list of 2 values"),
    (X, None, None, {"groups": 0}, "non-positive groups"),
    (X, None, None, {"groups": -1}, "non-positive groups"),
    (X, None, None, {"groups": 5}, "at least 5"),
    ((1, 2, 5, 0), None, None, {"padding": 1}, "Only zero batch or zero channel inputs are supported"),
]


@pytest.mark.parametrize(("x", "w", "b", "options", "match"), SHARED_ERRORS)
@pytest.mark.parametrize("name", ["conv2d", "conv_transpose2d"])
def test_errors(name: str, x: Any, w: Any, b: Any, options: dict[str, Any], match: str) -> None:
    w = w or (W if name == "conv2d" else WT)
    both_raise(name, [normal(*x), normal(*w), None if b is None else normal(*b)], match, **options)


@pytest.mark.parametrize(
    ("x", "w", "options", "match"),
    [
        (X, (3, 2, 6, 2), {}, r"padded input size per channel: \(5 x 5\). Kernel size: \(6 x 2\)"),
        (X, (3, 2, 2, 2), {"dilation": 5}, r"Kernel size: \(6 x 6\)"),
        ((0, 2, 5, 5), (3, 2, 6, 6), {}, "can't be greater than actual input size"),
        (X, (0, 2, 2, 2), {}, "at least 1"),
        (X, (3, 2, 0, 2), {}, "kernel size should be greater than zero"),
        (X, (3, 1, 2, 2), {"groups": 2}, "divisible by 2 at dimension 0"),
        (X, W, {"padding": "foo"}, "Invalid padding string: 'foo'"),
        (X, W, {"padding": "same", "stride": 2}, "not supported for strided"),
    ],
)
def test_conv_errors(x: Any, w: Any, options: dict[str, Any], match: str) -> None:
    both_raise("conv2d", [normal(*x), normal(*w)], match, **options)


@pytest.mark.parametrize(
    ("x", "w", "options", "match"),
    [
        (X, WT, {"output_padding": 1}, r"output_padding=.1, 1., stride=.1, 1., dilation=.1, 1."),
        (X, WT, {"output_padding": (0, 2), "stride": 2}, "output padding must be smaller"),
        (X, WT, {"output_padding": 2, "dilation": 2}, "output padding must be smaller"),
        (X, WT, {"output_padding": -1, "stride": 2}, "negative output_padding"),
        (X, WT, {"output_padding": (1, 1, 1)}, "list of 2 values"),
        (X, WT, {"padding": "same"}, "padding must be an int"),
        (X, WT, {"padding": 3}, r"Calculated output size per channel: \(0 x 0\). Output size is too small"),
        ((0, 2, 5, 5), WT, {"padding": 4}, "Output size is too small"),
        (X, (2, 0, 2, 2), {}, "non-empty"),
        ((1, 0, 5, 5), (0, 3, 2, 2), {}, "at least 1"),
        (X, (2, 3, 0, 2), {"stride": 2}, "kernel size should be greater than zero"),
        ((1, 3, 5, 5), (3, 2, 2, 2), {"groups": 2}, "divisible by 2 at dimension 0"),
    ],
)
def test_conv_transpose_errors(x: Any, w: Any, options: dict[str, Any], match: str) -> None:
    both_raise("conv_transpose2d", [normal(*x), normal(*w)], match, **options)


@pytest.mark.parametrize("name", ["conv2d", "conv_transpose2d"])
def test_dtypes(name: str) -> None:
    x, w, b = conv_arrays(2, name != "conv2d")
    half = np.float16
    both_raise(name, [x.astype(half), w], r"Input type .float16. and weight type .float32. should be the same")
    both_raise(name, [x.astype(np.complex64), w], r"Input type .complex64. and weight type .float32.")
    both_raise(name, [x.astype(bool), w.astype(bool)], "not implemented for bool")
    both_raise(name, [x, w, b.astype(np.complex64)], "bias type .?complex64")
    if name == "conv2d":
        both_raise(name, [x, w, b.astype(half)], r"Input type .float32. and bias type .float16. should be the same")
    else:  # torch casts the bias
        wide = [x.astype(half), w.astype(half), b]
        compare_call(name, wide, rtol=HALF["float16"], gradients=False)


# -- transposed convolutions ------------------------------------------------------------------------------------
ARGUMENTS = [
    {},
    {"stride": 3},
    {"stride": 2, "padding": 1, "output_padding": 1},
    {"groups": 2, "stride": 2},
    {"groups": 2, "padding": 1},
    {"dilation": 2, "output_padding": 1},
    {"stride": 2, "dilation": 3, "padding": 2},
    {"stride": 3, "dilation": 2, "padding": 3, "output_padding": 2},
    {"stride": 5, "padding": 4},  # more cut off than the kernel has: a negative padding of the dilated input
]


@DIMENSIONS
@pytest.mark.parametrize("options", ARGUMENTS, ids=str)
def test_conv_transpose(n: int, options: dict[str, Any]) -> None:
    w = normal(4, 3, *(3, 2, 1)[:n], seed=1)
    bias = normal(3 * options.get("groups", 1), seed=2)
    compare_call(f"conv_transpose{n}d", [normal(2, 4, *(3, 4, 3)[:n]), w, bias], **options)


def test_conv_transpose_arguments_of_each_dimension() -> None:
    options = {"stride": (1, 3, 2), "padding": [0, 2, 1], "output_padding": (0, 2, 1), "dilation": (2, 1, 1)}
    compare_call("conv_transpose3d", [normal(1, 2, 3, 2, 2), normal(2, 3, 2, 3, 2, seed=1)], **options)


def test_depthwise_conv_transpose() -> None:
    compare_call("conv_transpose2d", [normal(2, 4, 3, 3), normal(4, 2, 4, 4, seed=1)], groups=4, stride=2, padding=1)


@pytest.mark.parametrize(
    "options", [{"stride": 2, "padding": 1}, {"padding": 1}, {"groups": 2, "dilation": 2}], ids=str
)
def test_conv_transpose_differentiates_twice_in_both_modes(options: dict[str, Any]) -> None:
    x, w = jnp.asarray(normal(1, 2, 3)), jnp.asarray(normal(2, 2, 2, seed=1))
    check_grads(jax.jit(lambda x, w: F.conv_transpose1d(x, w, **options)), (x, w), order=2, rtol=1e-2, atol=1e-2)


def test_conv_transpose_under_vmap_of_its_weight() -> None:
    x, w = jnp.asarray(normal(3, 1, 2, 3, 3)), jnp.asarray(normal(3, 2, 2, 2, 2, seed=1))
    mapped = jax.vmap(lambda x, w: F.conv_transpose2d(x, w, stride=2))(x, w)
    for i in range(3):
        assert_close(mapped[i], F.conv_transpose2d(x[i], w[i], stride=2))


def test_conv_transpose_is_the_input_gradient_of_conv() -> None:
    x, w = jnp.asarray(normal(2, 2, 8, 8)), jnp.asarray(normal(3, 2, 3, 3, seed=1))
    y, vjp = jax.vjp(lambda x: F.conv2d(x, w, stride=2, padding=1), x)
    assert_close(F.conv_transpose2d(y, w, stride=2, padding=1, output_padding=1), vjp(y)[0])


# -- ConvTranspose's output_size, and Conv's padding modes --------------------------------------------------------
OUTPUT_SIZES = [
    ((1, 2, 5, 5), (9, 9)),
    ((1, 2, 5, 5), [10, 9]),
    ((1, 2, 5, 5), (7, 7, 10, 10)),  # what stands for batch and channels is not looked at
    ((2, 5, 5), (9, 10)),
    ((2, 5, 5), (1, 9, 10)),
    ((1, 2, 5, 5), np.array([10, 9])),
]


@pytest.mark.parametrize(("shape", "size"), OUTPUT_SIZES, ids=str)
def test_output_size(shape: tuple[int, ...], size: Any) -> None:
    theirs = torch.nn.ConvTranspose2d(2, 3, 3, stride=2, padding=1)
    ours = nn.ConvTranspose2d(2, 3, 3, stride=2, padding=1)
    ours.load_state_dict(theirs.state_dict())
    x = normal(*shape)
    assert_close(ours(x, size), theirs(to_torch(x), to_torch(size) if isinstance(size, np.ndarray) else size))
    assert_close(ours(x, output_size=size), ours(x, size))


BAD_OUTPUT_SIZES = [
    ((1, 2, 5, 5), (11, 9), r"valid sizes range from \[9, 9\] to \[10, 10\]"),
    ((1, 2, 5, 5), (9, 8), r"valid sizes range from \[9, 9\] to \[10, 10\]"),
    ((1, 2, 5, 5), (3, 9, 9), r"must have 2 or 4 elements \(got 3\)"),
    ((2, 5, 5), (1, 3, 9, 9), r"must have 2 or 3 elements \(got 4\)"),
    ((1, 2, 5, 5), (), r"must have 2 or 4 elements \(got 0\)"),
    ((1, 2, 5, 5), 9, "has no len"),
    ((1, 2, 5, 5), (9.0, 9.0), "output_padding must be an int"),
    ((1, 4, 5, 5), (9, 9), "to have 2 channels"),
]


@pytest.mark.parametrize(("shape", "size", "match"), BAD_OUTPUT_SIZES, ids=str)
def test_output_size_errors(shape: tuple[int, ...], size: Any, match: str) -> None:
    ours, theirs = (m.ConvTranspose2d(2, 3, 3, stride=2, padding=1) for m in (nn, torch.nn))
    same_error(lambda: ours(normal(*shape), size), lambda: theirs(torch.zeros(shape), size))
    with pytest.raises(Exception, match=match):
        ours(normal(*shape), size)


def test_output_size_of_an_input_of_the_wrong_rank() -> None:
    with pytest.raises(RuntimeError, match=r"Expected 3D .unbatched. or 4D .batched. input to conv_transpose2d"):
        nn.ConvTranspose2d(2, 3, 3)(normal(1, 1, 2, 5, 5), (9, 9))
    with pytest.raises(IndexError, match=r"Expected 3D or 4D input where output_size is given: \[5, 5\]"):
        nn.ConvTranspose2d(2, 3, 3)(normal(5, 5), (9, 9))


def test_a_padding_mode_set_later_is_refused() -> None:
    module = nn.ConvTranspose2d(2, 3, 3)
    module.padding_mode = "reflect"
    with pytest.raises(ValueError, match='Only "zeros" padding mode is supported for ConvTranspose2d'):
        module(normal(1, 2, 5, 5))


def test_public_attributes_are_torchs() -> None:
    for args in ((2, 4, 3), (2, 4, 3, 2, 1)):
        for name in ("Conv1d", "Conv3d", "ConvTranspose2d"):
            ours, theirs = getattr(nn, name)(*args), getattr(torch.nn, name)(*args)
            for attribute in (*torch.nn.Conv2d.__constants__, "transposed", "_reversed_padding_repeated_twice"):
                assert getattr(ours, attribute) == getattr(theirs, attribute), (name, attribute)


@pytest.mark.parametrize(
    ("mode", "padding"),
    [("reflect", "valid"), ("circular", "same"), ("replicate", 1), ("reflect", (2, 0)), ("circular", -1)],
    ids=str,
)
@pytest.mark.parametrize(
    "shape", [(2, 4, 5), (0, 2, 4, 5), (1, 3, 4, 5), (4, 5), (1, 1, 2, 4, 5), (1, 2, 1, 1)], ids=str
)
def test_padding_modes(mode: Any, padding: Any, shape: tuple[int, ...]) -> None:
    kwargs = {"padding": padding, "padding_mode": mode}
    ours, theirs = nn.Conv2d(2, 3, 2, **kwargs), torch.nn.Conv2d(2, 3, 2, **kwargs)
    ours.load_state_dict(theirs.state_dict())
    x = normal(*shape)
    try:
        expected = theirs(to_torch(x))
    except (RuntimeError, ValueError):
        same_error(lambda: ours(x), lambda: theirs(to_torch(x)))
        return
    assert_close(ours(x), expected)


# -- conv_tbc ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("pad", [0, 2, 7, -1])
@pytest.mark.parametrize("kernel", [0, 1, 3])
def test_conv_tbc(pad: int, kernel: int) -> None:
    arrays = [normal(6, 2, 3), normal(kernel, 3, 4, seed=1), normal(4, seed=2)]
    compare(lambda x, w, b: F.conv_tbc(x, w, b, pad), lambda x, w, b: TF.conv_tbc(x, w, b, pad), arrays)


@pytest.mark.parametrize("shape", [(6, 0, 3), (3, 2, 0), (2, 2, 3)])
def test_conv_tbc_of_nothing(shape: tuple[int, ...]) -> None:
    compare_call("conv_tbc", [normal(*shape), normal(3, shape[2], 4, seed=1), normal(4)])


@pytest.mark.parametrize(
    ("x", "w", "b", "pad", "match"),
    [
        ((6, 3), (2, 3, 4), (4,), 0, "Input must have 3 dims"),
        ((6, 2, 3), (3, 4), (4,), 0, "Weight tensor must have 3 dims"),
        ((6, 2, 3), (2, 3, 4), (4, 1), 0, "Bias must be 1-D"),
        ((6, 2, 3), (2, 2, 4), (4,), 0, "input channels"),
        ((6, 2, 3), (2, 3, 4), (1,), 0, "Bias size must equal"),
        ((2, 2, 3), (5, 3, 4), (4,), 0, "negative dimension"),
        ((6, 2, 3), (2, 3, 4), (4,), -4, "negative dimension"),
        ((6, 2, 3), (2, 3, 4), (4,), (1,), "'pad' must be an int"),
        ((6, 2, 3), (2, 3, 4), None, 0, "'bias' must be an array, not None"),
    ],
)
def test_conv_tbc_errors(x: Any, w: Any, b: Any, pad: Any, match: str) -> None:
    both_raise("conv_tbc", [normal(*x), normal(*w), None if b is None else normal(*b)], match, pad=pad)


def test_conv_tbc_dtypes() -> None:
    x, w, b = normal(4, 2, 3), normal(2, 3, 4), normal(4)
    both_raise("conv_tbc", [x, w.astype(np.float16), b], "should be the same")
    both_raise("conv_tbc", [x.astype(bool), w.astype(bool), b.astype(bool)], "not implemented for bool")
    whole = [np.round(9 * a).astype(np.int32) for a in (x, w, b)]
    assert F.conv_tbc(*whole).tolist() == TF.conv_tbc(*tensors(whole)).tolist()
    for dtype, rtol in HALF.items():
        compare_call("conv_tbc", [a.astype(jnp.dtype(dtype)) for a in (x, w, b)], rtol=rtol, pad=1)

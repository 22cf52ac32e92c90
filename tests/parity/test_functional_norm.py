"""The normalisations against torch: values, gradients, running statistics, dtypes and exceptions."""

from __future__ import annotations

import inspect
import itertools
import warnings
from collections import OrderedDict
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as TF
from jax.test_util import check_grads

from jaxmodule import nn
from jaxmodule.nn import Buffer
from jaxmodule.nn import functional as F
from tests.parity.oracle import assert_close, compare, same_error, to_numpy, to_torch

# A gradient through statistics is a difference of sums that nearly cancel: 2e-5 covers their rounding.
STATISTICS = 2e-5
HALF = {"float16": 2e-3, "bfloat16": 1.6e-2}  # two units in the last place


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng((seed, *shape)).standard_normal(shape).astype(np.float32)


def theirs(array: Any) -> Any:
    return None if array is None else to_torch(array)


@pytest.mark.parametrize(
    "name", ["batch_norm", "instance_norm", "layer_norm", "group_norm", "rms_norm", "local_response_norm"]
)
def test_arguments_are_torchs(name: str) -> None:
    def arguments(f: Any) -> list[tuple[str, Any, Any]]:
        return [(p.name, p.default, p.kind) for p in inspect.signature(f).parameters.values()]

    assert arguments(getattr(F, name)) == arguments(getattr(TF, name))


# -- instance_norm ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("shape", [(2, 3, 5), (1, 3, 4), (2, 3, 4, 3), (2, 3, 2, 2, 3)])
@pytest.mark.parametrize("affine", [(True, True), (True, False), (False, True), (False, False)])
@pytest.mark.parametrize("by_input", [True, False])
def test_instance_norm(shape: tuple[int, ...], affine: tuple[bool, bool], by_input: bool) -> None:
    mean, var = normal(3, seed=3), np.abs(normal(3, seed=4)) + 0.5
    weight, bias = (normal(3, seed=5 + i) if on else None for i, on in enumerate(affine))
    stats = (None, None) if by_input else (mean, var)
    compare(
        lambda x, w, b: F.instance_norm(x, *stats, w, b, by_input, 0.2, 1e-3),
        lambda x, w, b: TF.instance_norm(x, *map(theirs, stats), w, b, by_input, 0.2, 1e-3),
        [2.0 * normal(*shape) + 1.0, weight, bias],
        rtol=STATISTICS,
    )


@pytest.mark.parametrize("momentum", [0.1, 0.7, 0.0, 1.0])
def test_instance_norm_moves_running_statistics(momentum: float) -> None:
    mean, var = Buffer(normal(3)), Buffer(np.abs(normal(3, seed=1)))
    t_mean, t_var = to_torch(mean.value), to_torch(var.value)
    for seed in range(3):
        x = 2.0 * normal(4, 3, 5, 2, seed=seed) + 1.0
        y = F.instance_norm(x, mean, var, momentum=momentum)
        expected = TF.instance_norm(to_torch(x), t_mean, t_var, momentum=momentum)
        assert_close(y, expected)
    assert_close(mean.value, t_mean, what="running_mean")
    assert_close(var.value, t_var, what="running_var")


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("of_vectors", ["float32", "same"])
def test_instance_norm_in_half_precision(dtype: str, of_vectors: str) -> None:
    kind = jnp.dtype(dtype if of_vectors == "same" else of_vectors)
    x = (2 * normal(3, 4, 6) + 1).astype(jnp.dtype(dtype))
    mean, var = Buffer(jnp.zeros(4, kind)), Buffer(jnp.ones(4, kind))
    t_mean, t_var = to_torch(mean.value), to_torch(var.value)
    weight, bias = normal(4).astype(kind), normal(4, seed=1).astype(kind)
    y = F.instance_norm(x, mean, var, weight, bias)
    expected = TF.instance_norm(to_torch(x), t_mean, t_var, to_torch(weight), to_torch(bias))
    assert str(y.dtype) == dtype
    assert_close(y, expected, HALF[dtype])
    assert mean.dtype == var.dtype == kind
    rtol = HALF[dtype] if of_vectors == "same" else 1e-5
    assert_close(mean.value, t_mean, rtol)
    assert_close(var.value, t_var, rtol)
    # torch's weight gradient is rounded for each sample in half precision.
    compare(F_instance, TF_instance, [x, weight, bias], rtol=3 * HALF[dtype])


def F_instance(x: Any, w: Any, b: Any) -> Any:
    return F.instance_norm(x, None, None, w, b)


def TF_instance(x: Any, w: Any, b: Any) -> Any:
    return TF.instance_norm(x, None, None, w, b)


@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 3, 0), (2, 0, 4)])
def test_instance_norm_of_nothing(shape: tuple[int, ...]) -> None:
    assert F.instance_norm(np.zeros(shape, np.float32)).shape == TF.instance_norm(torch.zeros(shape)).shape
    mean, var = Buffer(jnp.zeros(shape[1])), Buffer(jnp.ones(shape[1]))
    assert F.instance_norm(np.zeros(shape, np.float32), mean, var).shape == shape
    assert mean.tolist() == [0.0] * shape[1]  # torch: NaN after an empty batch
    assert var.tolist() == [1.0] * shape[1]
    assert F.instance_norm(np.zeros(shape, np.float32), mean, var, use_input_stats=False).shape == shape


INSTANCE_ERRORS = [
    ((2, 3), {}, ValueError, r"more than 1 spatial element when training, got input size \[2, 3\]"),
    ((2, 3, 1), {}, ValueError, "more than 1 spatial element"),
    ((0, 3, 1), {}, ValueError, "more than 1 spatial element"),
    ((3,), {"running_mean": 3, "running_var": 3, "use_input_stats": False}, IndexError, "an input of shape"),
    ((2, 3, 4), {"use_input_stats": False}, RuntimeError, "to be defined when use_input_stats is false"),
    ((2, 3, 4), {"running_mean": 3}, ValueError, "both be None or neither"),
    ((2, 3, 4), {"running_mean": 4, "running_var": 4}, RuntimeError, "running_mean should contain 3 elements not 4"),
    ((2, 3, 4), {"weight": 4}, RuntimeError, "weight should contain 3 elements not 4"),
    ((2, 3, 4), {"bias": 2}, RuntimeError, "bias should contain 3 elements not 2"),
]


@pytest.mark.parametrize(("shape", "options", "kind", "match"), INSTANCE_ERRORS)
def test_instance_norm_errors(shape: Any, options: Any, kind: type[Exception], match: str) -> None:
    mine = {k: v if isinstance(v, bool) else Buffer(normal(v)) for k, v in options.items()}
    other = {k: v if isinstance(v, bool) else torch.ones(v) for k, v in options.items()}
    same_error(lambda: F.instance_norm(normal(*shape), **mine), lambda: TF.instance_norm(torch.ones(shape), **other))
    with pytest.raises(kind, match=match):
        F.instance_norm(normal(*shape), **mine)


def test_instance_norm_refuses_statistics_it_cannot_update() -> None:
    with pytest.raises(TypeError, match=r"instance_norm updates .* nn.Buffer"):
        F.instance_norm(jnp.ones((2, 3, 4)), jnp.zeros(3), jnp.ones(3))


# -- rms_norm ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("shape", "over"),
    [((4, 6), (6,)), ((2, 3, 4), (3, 4)), ((5,), (5,)), ((0, 3), (3,)), ((2, 0), (0,))],
)
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("eps", [None, 1e-2, 0.0])
def test_rms_norm(shape: tuple[int, ...], over: tuple[int, ...], weighted: bool, eps: float | None) -> None:
    compare(
        lambda x, w: F.rms_norm(x, over, w, eps),
        lambda x, w: TF.rms_norm(x, over, w, eps),
        [normal(*shape), normal(*over, seed=5) if weighted else None],
        rtol=STATISTICS,
    )


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_rms_norm_default_epsilon(dtype: str) -> None:
    x = np.array([[1e-4, 2e-4, -1e-4], [0.0, 0.0, 0.0]]).astype(jnp.dtype(dtype))
    with jax.enable_x64(dtype == "float64"):
        got = F.rms_norm(x, (3,))
        gradient = jax.grad(lambda x: F.rms_norm(x, (3,)).sum())(jnp.asarray(x))
    expected = TF.rms_norm(to_torch(x).requires_grad_(), (3,))
    assert str(got.dtype) == dtype
    rtol = HALF.get(dtype, 1e-5)
    assert_close(got, expected, rtol)
    assert np.isfinite(to_numpy(gradient)).all()
    tensor = to_torch(x).requires_grad_()
    TF.rms_norm(tensor, (3,)).sum().backward()
    assert_close(gradient, tensor.grad, 10 * rtol)


@pytest.mark.parametrize(
    ("dtype", "of_weight"), [("float16", "float32"), ("bfloat16", "float32"), ("float32", "float16")]
)
@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight:UserWarning")
def test_rms_norm_takes_a_weight_of_another_dtype(dtype: str, of_weight: str) -> None:
    x, w = normal(4, 6).astype(jnp.dtype(dtype)), normal(6, seed=1).astype(jnp.dtype(of_weight))
    rtol = max(HALF.get(dtype, 0), HALF.get(of_weight, 0))
    compare(lambda x, w: F.rms_norm(x, (6,), w), lambda x, w: TF.rms_norm(x, (6,), w), [x, w], rtol=rtol)


def test_rms_norm_of_complex() -> None:
    x = (normal(3, 4) + 1j * normal(3, 4, seed=1)).astype(np.complex64)
    assert_close(F.rms_norm(x, (4,)), TF.rms_norm(torch.from_numpy(x), (4,)).numpy())


RMS_ERRORS = [
    ((2, 3), (4,), None, RuntimeError, r"expected input with shape \[\*, 4\], but got input of size\[2, 3\]"),
    ((2, 3), (), None, RuntimeError, "at least 1-dimensional"),
    ((2, 3), 3, None, TypeError, "must be tuple of ints, not int"),
    ((2, 3), (3,), 4, RuntimeError, r"weight of shape \[4\] and normalized_shape = \[3\]"),
    ((3,), (2, 3), None, ValueError, "at least 2 dimensions, but got 1"),
]


@pytest.mark.parametrize(("shape", "over", "weight", "kind", "match"), RMS_ERRORS)
def test_rms_norm_errors(shape: Any, over: Any, weight: int | None, kind: type[Exception], match: str) -> None:
    w = None if weight is None else normal(weight)
    same_error(lambda: F.rms_norm(normal(*shape), over, w), lambda: TF.rms_norm(torch.ones(shape), over, theirs(w)))
    with pytest.raises(kind, match=match):
        F.rms_norm(normal(*shape), over, w)


# -- local responses --------------------------------------------------------------------------------------------
@pytest.mark.parametrize("shape", [(2, 5, 4), (1, 3, 2, 4), (2, 4, 2, 1, 2), (1, 3, 2, 1, 2, 2), (0, 3, 4), (2, 0, 4)])
@pytest.mark.parametrize("size", [1, 2, 3, 4, 7, 12])
def test_local_response_norm(shape: tuple[int, ...], size: int) -> None:
    compare(
        lambda x: F.local_response_norm(x, size, 0.8, 0.6, 1.5),
        lambda x: TF.local_response_norm(x, size, 0.8, 0.6, 1.5),
        [normal(*shape)],
    )


@pytest.mark.parametrize("options", [{}, {"alpha": 2.0}, {"beta": 2.0}, {"beta": -1.0}, {"k": 0.0}, {"alpha": 0.0}])
def test_local_response_norm_arguments(options: dict[str, float]) -> None:
    compare(
        lambda x: F.local_response_norm(x, 3, **options),
        lambda x: TF.local_response_norm(x, 3, **options),
        [10 * normal(2, 5, 3)],
    )


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_local_response_norm_in_half_precision(dtype: str) -> None:
    x = normal(2, 5, 4).astype(jnp.dtype(dtype))
    compare(
        lambda x: F.local_response_norm(x, 3, 0.5),
        lambda x: TF.local_response_norm(x, 3, 0.5),
        [x],
        rtol=2 * HALF[dtype],  # torch rounds the sum, the power and the quotient
    )


def test_local_response_norm_of_other_dtypes() -> None:
    x = np.arange(12).reshape(1, 6, 2)
    got = F.local_response_norm(x, 3, 0.5, 0.75, 2.0)
    assert_close(got, TF.local_response_norm(to_torch(x), 3, 0.5, 0.75, 2.0))
    assert got.dtype == np.float32
    for dtype in ("bool", "uint8", "int16", "complex64"):
        y = x.astype(dtype)
        same_error(lambda y=y: F.local_response_norm(y, 3), lambda y=y: TF.local_response_norm(torch.from_numpy(y), 3))
    with jax.enable_x64(True):
        wide = normal(2, 5, 3).astype(np.float64)
        assert_close(F.local_response_norm(wide, 3, 0.5), TF.local_response_norm(to_torch(wide), 3, 0.5), 1e-12)


@pytest.mark.parametrize(
    ("shape", "size", "kind", "match"),
    [
        ((2, 3), 3, ValueError, "Expected 3D or higher dimensionality"),
        ((2, 3, 4), 0, RuntimeError, "greater than zero, but got 0"),
        ((2, 3, 4), -2, RuntimeError, "greater than zero, but got -2"),
    ],
)
def test_local_response_norm_errors(shape: Any, size: int, kind: type[Exception], match: str) -> None:
    same_error(
        lambda: F.local_response_norm(normal(*shape), size), lambda: TF.local_response_norm(torch.ones(shape), size)
    )
    with pytest.raises(kind, match=match):
        F.local_response_norm(normal(*shape), size)


@pytest.mark.parametrize("channels", [1, 2, 5, 9])
@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 8, 11])
def test_cross_map_lrn(channels: int, size: int) -> None:
    from torch.nn.modules.normalization import CrossMapLRN2d

    x = normal(2, channels, 2, 3)
    module = nn.CrossMapLRN2d(size, 0.8, 0.6, 1.5)
    compare(
        module,
        CrossMapLRN2d(size, 0.8, 0.6, 1.5),
        [x],
        # torch's backward is an error for size 1, and the gradient of something else unless every channel sees all
        gradients=size > 1 and (size + 1) // 2 >= channels and size >= 2 * channels - 1 + (channels > 1),
    )
    with jax.enable_x64(True):
        check_grads(module, (jnp.asarray(x[:1], jnp.float64),), order=1, modes=["rev"])


def test_cross_map_lrn_errors() -> None:
    from torch.nn.modules.normalization import CrossMapLRN2d

    for size, x in ((0, normal(1, 2, 2, 2)), (3, normal(2, 2, 2)), (3, np.ones((1, 2, 2, 2), np.int64))):
        same_error(lambda s=size, x=x: nn.CrossMapLRN2d(s)(x), lambda s=size, x=x: CrossMapLRN2d(s)(to_torch(x)))
    with pytest.raises(RuntimeError, match="greater than zero, but got -1"):
        nn.CrossMapLRN2d(-1)(normal(1, 2, 2, 2))
    half = normal(1, 4, 2, 2).astype(np.float16)
    assert_close(nn.CrossMapLRN2d(3, 0.5)(half), CrossMapLRN2d(3, 0.5)(to_torch(half)), 2e-3)


# -- what batch, layer and group norm share ---------------------------------------------------------------------
def call(f: Any, name: str, x: Any, w: Any, b: Any) -> Any:
    if name == "batch_norm":
        return f.batch_norm(x, None, None, w, b, True)
    if name == "layer_norm":
        return f.layer_norm(x, x.shape[1:], w, b)
    return f.group_norm(x, 2, w, b)


def vectors_shape(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape[1:] if name == "layer_norm" else shape[1:2]


NORMS = ["batch_norm", "layer_norm", "group_norm"]


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("of_vectors", ["float32", "same"])
def test_half_precision(name: str, dtype: str, of_vectors: str) -> None:
    shape, kind = (6, 4, 5), jnp.dtype(dtype if of_vectors == "same" else of_vectors)
    x = (2 * normal(*shape) + 1).astype(jnp.dtype(dtype))
    vectors = [normal(*vectors_shape(name, shape), seed=i).astype(kind) for i in (1, 2)]
    compare(lambda *a: call(F, name, *a), lambda *a: call(TF, name, *a), [x, *vectors], rtol=3 * HALF[dtype])


@pytest.mark.parametrize("name", NORMS)
def test_float64(name: str) -> None:
    shape = (6, 4, 5)
    x = (2 * normal(*shape) + 100).astype(np.float64)
    vectors = [normal(*vectors_shape(name, shape), seed=i).astype(np.float64) for i in (1, 2)]
    with jax.enable_x64(True):
        compare(lambda *a: call(F, name, *a), lambda *a: call(TF, name, *a), [x, *vectors], rtol=1e-11)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("batch_norm", (0, 4)),
        ("batch_norm", (0, 4, 3)),
        ("batch_norm", (3, 4, 0)),
        ("layer_norm", (0, 4)),
        ("layer_norm", (3, 0)),
        ("group_norm", (0, 4)),
        ("group_norm", (0, 4, 3)),
    ],
)
def test_nothing(name: str, shape: tuple[int, ...]) -> None:
    vectors = [normal(*vectors_shape(name, shape), seed=i) for i in (1, 2)]
    compare(lambda *a: call(F, name, *a), lambda *a: call(TF, name, *a), [normal(*shape), *vectors], rtol=STATISTICS)


def test_group_norm_of_no_pixels() -> None:
    x, w = normal(3, 4, 0), normal(4)
    assert F.group_norm(x, 2, w, w).shape == TF.group_norm(to_torch(x), 2, to_torch(w), to_torch(w)).shape
    assert jax.grad(lambda w: F.group_norm(x, 2, w, w).sum())(jnp.asarray(w)).tolist() == [0.0] * 4  # torch: NaN


@pytest.mark.parametrize(
    ("name", "shape"),
    [("layer_norm", (3, 1)), ("layer_norm", (3, 1, 1)), ("group_norm", (3, 2)), ("group_norm", (3, 2, 1))],
)
def test_groups_of_one_element(name: str, shape: tuple[int, ...]) -> None:
    x, w, b = normal(*shape), *[normal(*vectors_shape(name, shape), seed=i) for i in (1, 2)]
    compare(lambda *a: call(F, name, *a), lambda *a: call(TF, name, *a), [x, w, b], gradients=False)
    # The input has no influence; torch's gradient by it is what its rounding leaves, up to 1e-4.
    gradients = jax.grad(lambda *a: jnp.sum(call(F, name, *a) ** 2), argnums=(0, 1, 2))(*map(jnp.asarray, (x, w, b)))
    np.testing.assert_allclose(gradients[0], 0.0, atol=1e-6)
    np.testing.assert_allclose(gradients[1], 0.0, atol=1e-6)
    np.testing.assert_allclose(gradients[2], 2 * len(x) * b, rtol=1e-5)


def test_rms_norm_of_one_element() -> None:
    x = np.array([[2.0], [-3.0], [0.0]], np.float32)
    compare(lambda x: F.rms_norm(x, (1,)), lambda x: TF.rms_norm(x, (1,)), [x], gradients=False)
    slope = jax.grad(lambda x: F.rms_norm(x, (1,)).sum())(jnp.asarray(x))
    exact = 2.0**-23 / (x.astype(np.float64) ** 2 + 2.0**-23) ** 1.5
    np.testing.assert_allclose(slope, exact, rtol=1e-5, atol=1e-6)  # a difference of two halves


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("kinds", list(itertools.product([None, "same", "other"], repeat=2)))
def test_mixed_dtypes(name: str, dtype: str, kinds: tuple[str | None, str | None]) -> None:
    other = {"bfloat16": "float32", "float32": "bfloat16"}[dtype]
    x = normal(3, 4).astype(jnp.dtype(dtype))
    vectors = [
        None if kind is None else normal(4, seed=i).astype(jnp.dtype(dtype if kind == "same" else other))
        for i, kind in enumerate(kinds)
    ]
    try:
        expected = call(TF, name, to_torch(x), *map(theirs, vectors))
    except RuntimeError:
        with pytest.raises(RuntimeError, match="mixed dtype: expect (weight|bias) to have scalar type"):
            call(F, name, x, *vectors)
        return
    got = call(F, name, x, *vectors)
    assert str(got.dtype) == dtype
    assert_close(got, expected, HALF.get(dtype, 1e-5))


def test_batch_norm_mixed_statistics() -> None:
    x = normal(3, 4).astype(jnp.bfloat16)
    for kinds in (("float32", "bfloat16"), ("bfloat16", "float32"), ("float16", "float16")):
        stats = [np.ones(4, jnp.dtype(kind)) for kind in kinds]
        same_error(lambda s=stats: F.batch_norm(x, *s), lambda s=stats: TF.batch_norm(to_torch(x), *map(to_torch, s)))


@pytest.mark.parametrize("momentum", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("shape", [(5, 3), (4, 3, 2), (2, 3, 2, 2)])
def test_batch_norm_momentum(momentum: float, shape: tuple[int, ...]) -> None:
    mean, var = Buffer(normal(3)), Buffer(np.abs(normal(3, seed=1)))
    t_mean, t_var = to_torch(mean.value), to_torch(var.value)
    for seed in range(2):
        x = 2 * normal(*shape, seed=seed) + 1
        F.batch_norm(x, mean, var, training=True, momentum=momentum)
        TF.batch_norm(to_torch(x), t_mean, t_var, training=True, momentum=momentum)
    assert_close(mean.value, t_mean)
    assert_close(var.value, t_var)


MORE_ERRORS = [
    (lambda f, o: f.batch_norm(o(2, 3), None, None, training=True, eps=0.0), ValueError, "eps must be positive"),
    (lambda f, o: f.batch_norm(o(1, 0), None, None, training=True), ValueError, "more than 1 value per channel"),
    (lambda f, o: f.batch_norm(o(3), None, None, training=True), IndexError, "an input of shape"),
    (lambda f, o: f.batch_norm(o(3), o(3), o(3)), RuntimeError, "an input of shape"),
    (lambda f, o: f.group_norm(o(2, 4), 0), ZeroDivisionError, "num_groups=0"),
    (lambda f, o: f.group_norm(o(2, 4), -2), RuntimeError, "greater than 0, got -2"),
    (lambda f, o: f.group_norm(o(1, 2), 2), ValueError, "more than 1 value per channel"),
    (lambda f, o: f.layer_norm(o(), (1,)), RuntimeError, r"expected input with shape \[\*, 1\]"),
]


@pytest.mark.parametrize(("use", "kind", "match"), MORE_ERRORS)
def test_more_errors(use: Any, kind: type[Exception], match: str) -> None:
    same_error(lambda: use(F, normal), lambda: use(TF, lambda *shape: torch.ones(shape)))
    with pytest.raises(kind, match=match):
        use(F, normal)


@pytest.mark.parametrize("name", NORMS)
def test_extremes_are_torchs(name: str) -> None:
    for value in (np.inf, np.nan, 1e15):
        x = normal(3, 4)
        x[1, 2] = value
        assert_close(call(F, name, x, None, None), call(TF, name, to_torch(x), None, None))


# -- layers -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("n", [1, 2, 3])
def test_instance_norm_warns_of_features_it_does_not_use(n: int) -> None:
    shape = (4, *[3] * n)
    for layers, x in ((nn, normal), (torch.nn, lambda *s: torch.ones(s))):
        module = getattr(layers, f"InstanceNorm{n}d")(3)
        for dim, size in ((0, shape), (1, (2, *shape))):
            with pytest.warns(UserWarning, match=f"input's size at dim={dim} does not match num_features") as caught:
                assert tuple(module(x(*size)).shape) == size
            assert layers is torch.nn or caught[0].filename == __file__


def test_instance_norm_with_statistics_refuses_other_features() -> None:
    for layers, x in ((nn, normal(2, 4, 5)), (torch.nn, torch.ones(2, 4, 5))):
        module = layers.InstanceNorm1d(3, track_running_stats=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with pytest.raises(RuntimeError, match="running_mean should contain"):
                module(x)


def test_instance_norm_momentum_none_keeps_the_statistics() -> None:
    for layers, x in ((nn, normal(2, 3, 5)), (torch.nn, torch.from_numpy(normal(2, 3, 5)))):
        module = layers.InstanceNorm1d(3, momentum=None, track_running_stats=True)
        module(x)
        assert module.running_mean.tolist() == [0.0] * 3
        assert int(module.num_batches_tracked) == 0


def old_file(**arrays: Any) -> OrderedDict[str, Any]:
    """A state dict from before version 2."""
    return OrderedDict(arrays)


@pytest.mark.parametrize("layers", [nn, torch.nn], ids=["jaxmodule", "torch"])
def test_instance_norm_explains_statistics_of_an_old_file(layers: Any) -> None:
    def array(value: float) -> Any:
        return torch.full((3,), value) if layers is torch.nn else jnp.full(3, value)

    names = old_file(running_mean=array(0.0), running_var=array(1.0))
    message = r"Unexpected running stats buffer\(s\) .running_mean. and .running_var. for InstanceNorm1d with"
    with pytest.raises(RuntimeError, match=message) as caught:
        layers.InstanceNorm1d(3).load_state_dict(names)
    assert "Unexpected key(s)" not in str(caught.value)
    nested = old_file(**{"0.running_mean": array(0.0)})
    with pytest.raises(RuntimeError, match=r"Unexpected running stats buffer\(s\) .0.running_mean. for"):
        layers.Sequential(layers.InstanceNorm1d(3)).load_state_dict(nested)
    new = old_file(running_mean=array(0.0), running_var=array(1.0))
    new._metadata = {"": {"version": 2}}
    with pytest.raises(RuntimeError, match=r"Unexpected key\(s\) in state_dict: .running_mean., .running_var."):
        layers.InstanceNorm1d(3).load_state_dict(new)
    tracked = layers.InstanceNorm1d(3, track_running_stats=True)
    tracked.load_state_dict(old_file(running_mean=array(2.0), running_var=array(3.0)))
    assert tracked.running_mean.tolist() == [2.0] * 3
    assert int(tracked.num_batches_tracked) == 0


def test_norms_take_numpys_integers() -> None:
    assert nn.RMSNorm(np.int64(3)).normalized_shape == (3,)
    assert nn.LayerNorm(np.int64(3)).normalized_shape == (3,)
    assert repr(nn.RMSNorm((2, 3), 1e-3, False)) == repr(torch.nn.RMSNorm((2, 3), 1e-3, False))

"""`linear_cross_entropy` against torch's reference, in chunks and not; its options, and the memory it takes."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as TF
from torch.nn import LinearCrossEntropyOptions as TorchOptions

import jaxmodule as jm
from jaxmodule import nn
from jaxmodule.nn import LinearCrossEntropyOptions
from jaxmodule.nn import functional as F
from tests.parity.oracle import assert_close, compare, same_error, to_torch

REDUCTIONS = ["none", "mean", "sum"]
N, C, D = 7, 5, 3


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng((seed, *shape)).standard_normal(shape).astype(np.float32)


def indices(*shape: int, seed: int = 0) -> np.ndarray:
    return np.asarray(np.random.default_rng((seed, *shape)).integers(0, C, shape))


def check(arrays: list[np.ndarray | None], target: np.ndarray, options: Any = None, **arguments: Any) -> None:
    """Input, weight and bias; `options` are ours only: torch's reference is what both should equal."""
    theirs = {k: to_torch(v) if isinstance(v, np.ndarray) else v for k, v in arguments.items()}
    compare(
        lambda x, w, b: F.linear_cross_entropy(x, w, target, linear_bias=b, options=options, **arguments),
        lambda x, w, b: TF.linear_cross_entropy(x, w, to_torch(target), linear_bias=b, **theirs),
        arrays,
    )


# -- the whole at once ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize(
    ("shape", "features", "target"),
    [((N, D), (), (N,)), ((D,), (), ()), ((N, D), (2,), (N, 2)), ((N, D), (2, 1), (N, 2, 1))],
)
def test_reference_of_indices(shape: Any, features: Any, target: Any, reduction: str) -> None:
    weight = np.abs(normal(C, seed=4))
    check(
        [normal(*shape), normal(C, *features, D), normal(C, *features)],
        indices(*target),
        weight=weight,
        reduction=reduction,
        ignore_index=1,
        label_smoothing=0.1,
    )


@pytest.mark.parametrize(
    ("shape", "features", "target"), [((N, D), (), (N, C)), ((D,), (), (C,)), ((N, D), (2,), (N, C, 2))]
)
def test_reference_of_probabilities(shape: Any, features: Any, target: Any) -> None:
    check([normal(*shape), normal(C, *features, D), None], np.abs(normal(*target)), label_smoothing=0.1)


# -- in chunks --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("size", [1, 3, 7, 100])
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("full", [False, True])
def test_chunks(full: bool, reduction: str, size: int) -> None:
    target = indices(N)
    target[2] = -100
    check(
        [normal(N, D), normal(C, D), normal(C) if full else None],
        target,
        LinearCrossEntropyOptions(batch_chunk_size=size),
        weight=np.abs(normal(C, seed=4)) if full else None,
        reduction=reduction,
    )


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_chunks_without_batch_and_of_one(reduction: str) -> None:
    options = LinearCrossEntropyOptions()
    for shape in ((D,), (1, D)):
        check([normal(*shape), normal(C, D), normal(C)], indices(*shape[:-1]), options, reduction=reduction)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_an_empty_batch_and_nothing_left(reduction: str) -> None:
    options = LinearCrossEntropyOptions()
    check([normal(0, D), normal(C, D), normal(C)], indices(0), options, reduction=reduction)
    ignored = np.full(N, 4)
    chosen = {"ignore_index": 4, "options": options, "reduction": reduction}
    ours, gradient = jax.value_and_grad(lambda x: F.linear_cross_entropy(x, normal(C, D), ignored, **chosen).sum())(
        jnp.asarray(normal(N, D))
    )
    assert not gradient.any()
    theirs = TF.linear_cross_entropy(
        to_torch(normal(N, D)),
        to_torch(normal(C, D)),
        to_torch(ignored),
        ignore_index=4,
        options=TorchOptions(),
        reduction=reduction,
    )
    assert_close(ours, theirs.sum())


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_one_gradient_is_the_same_as_all(reduction: str) -> None:
    arrays = [jnp.asarray(a) for a in (normal(N, D), normal(C, D), normal(C), np.abs(normal(C, seed=4)))]
    target, options = indices(N), LinearCrossEntropyOptions(batch_chunk_size=3)

    def loss(options: Any, x: Any, w: Any, b: Any, of_class: Any) -> jax.Array:
        losses = F.linear_cross_entropy(
            x, w, target, linear_bias=b, weight=of_class, reduction=reduction, options=options
        )
        return jnp.sum(losses * jnp.arange(1, losses.size + 1, dtype=losses.dtype).reshape(losses.shape))

    every = jax.grad(lambda *xs: loss(None, *xs), argnums=(0, 1, 2, 3))(*arrays)
    for i in range(4):  # the class weights too, which torch doesn't differentiate
        one = jax.jit(jax.grad(lambda *xs: loss(options, *xs), argnums=i))(*arrays)
        assert_close(one, every[i], 2e-6, f"argument {i}")


def test_vmap_and_a_gradient_of_a_gradient() -> None:
    xs, w, target = jnp.asarray(normal(2, N, D)), jnp.asarray(normal(C, D)), indices(N)

    def loss(options: Any, x: jax.Array, w: jax.Array) -> jax.Array:
        return F.linear_cross_entropy(x, w, target, options=options)

    chunked, whole = (
        jax.vmap(jax.value_and_grad(lambda x, w, o=options: loss(o, x, w), argnums=(0, 1)), (0, None))(xs, w)
        for options in (LinearCrossEntropyOptions(batch_chunk_size=3), None)
    )
    jax.tree.map(lambda a, b: assert_close(a, b, 2e-6), chunked, whole)
    twice, expected = (
        jax.grad(lambda x, o=options: jnp.sum(jax.grad(lambda x: loss(o, x, w))(x) ** 2))(xs[0])
        for options in (LinearCrossEntropyOptions(batch_chunk_size=3), None)
    )
    assert_close(twice, expected)


@pytest.mark.parametrize("policy", ["accurate", "balanced", "compact"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision(dtype: str, policy: str) -> None:
    """No farther from the gradients of float64 than torch's are."""
    x, w = (normal(64, 16).astype(jnp.dtype(dtype)), normal(96, 16, seed=1).astype(jnp.dtype(dtype)))
    target = np.random.default_rng(0).integers(0, 96, 64)
    exact = [to_torch(a).double().requires_grad_() for a in (x, w)]
    TF.linear_cross_entropy(*exact, to_torch(target)).backward()
    theirs = [to_torch(a).to(getattr(torch, dtype)).requires_grad_() for a in (x, w)]
    accumulated = {"acc_policy": policy, "batch_chunk_size": 16, "chunking_method": None}
    TF.linear_cross_entropy(
        *theirs, to_torch(target), options=TorchOptions(**accumulated, acc_dtype=torch.float32)
    ).backward()
    options = LinearCrossEntropyOptions(**accumulated, acc_dtype=jnp.float32)
    for reduction in ("mean", "none"):
        ours = jax.grad(
            lambda x, w, r=reduction: F.linear_cross_entropy(x, w, target, options=options, reduction=r).mean(),
            argnums=(0, 1),
        )(jnp.asarray(x), jnp.asarray(w))
        for mine, other, true in zip(ours, theirs, exact, strict=True):
            assert mine.dtype == dtype
            scale = float(true.grad.abs().max())
            error = float(np.abs(np.asarray(mine, np.float64) - true.grad.numpy()).max()) / scale
            of_torch = float((other.grad.double() - true.grad).abs().max()) / scale
            assert error <= max(1.5 * of_torch, 2 * float(jnp.finfo(dtype).eps))


def test_what_is_kept_in_which_dtype() -> None:
    """Each option changes the program: the products' operands, and the sums over chunks."""
    x, w = jnp.ones((8, 4), jnp.bfloat16), jnp.ones((6, 4), jnp.bfloat16)

    def program(**chosen: Any) -> str:
        options = LinearCrossEntropyOptions(batch_chunk_size=2, **chosen)
        loss = jax.grad(lambda x, w: F.linear_cross_entropy(x, w, jnp.zeros(8, int), options=options), argnums=(0, 1))
        return str(jax.make_jaxpr(loss)(x, w))

    accurate, balanced, compact = (
        program(acc_policy=policy, acc_dtype=jnp.float32) for policy in ("accurate", "balanced", "compact")
    )
    assert "bf16[2,6] = convert" not in accurate
    assert "bf16[2,6] = convert" in balanced
    assert "bf16[6,4] = broadcast_in_dim" not in balanced
    assert "bf16[6,4] = broadcast_in_dim" in compact
    # acc_dtype is the input's unless the policy is "auto".
    assert "preferred_element_type=float32" not in program(acc_policy="compact")
    assert "preferred_element_type=float32" in program()


def test_float64() -> None:
    with jax.enable_x64(True):
        x, w, target = normal(N, D).astype(np.float64), normal(C, D).astype(np.float64), indices(N)
        ours = F.linear_cross_entropy(x, w, target, options=LinearCrossEntropyOptions(batch_chunk_size=2))
        assert ours.dtype == np.float64
        assert_close(ours, TF.linear_cross_entropy(to_torch(x), to_torch(w), to_torch(target)), 1e-14)


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_all_logits_never_exist_at_once(reduction: str) -> None:
    rows, classes, features = 512, 2048, 16
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((rows, features), (classes, features))]
    target = jax.ShapeDtypeStruct((rows,), jnp.int32)
    all_logits = 4 * rows * classes

    def temporary(options: Any, differentiate: bool) -> int:
        def loss(x: jax.Array, w: jax.Array, t: jax.Array) -> jax.Array:
            return F.linear_cross_entropy(x, w, t, reduction=reduction, options=options).sum()

        run = jax.grad(loss, argnums=(0, 1)) if differentiate else loss
        return jax.jit(run).lower(*arguments, target).compile().memory_analysis().temp_size_in_bytes

    for differentiate in (False, True):
        assert temporary(None, differentiate) >= all_logits
        # A chunk's logits, once for their softmax and gradient each, and the gradient of the weights.
        chunk, weights = all_logits * 16 // rows, 4 * classes * features
        taken = temporary(LinearCrossEntropyOptions(batch_chunk_size=16), differentiate)
        assert taken <= 3 * chunk + 3 * weights
        assert taken < all_logits / 5


# -- options ----------------------------------------------------------------------------------------------------
def test_options_are_torchs() -> None:
    ours, theirs = dataclasses.fields(LinearCrossEntropyOptions), dataclasses.fields(TorchOptions)
    assert [(f.name, f.default) for f in ours] == [(f.name, f.default) for f in theirs]
    assert repr(LinearCrossEntropyOptions()) == repr(TorchOptions())
    with pytest.raises(dataclasses.FrozenInstanceError):
        LinearCrossEntropyOptions().acc_policy = "auto"


@pytest.mark.parametrize(
    "options",
    [
        {"acc_policy": "exact"},
        {"chunking_method": "square"},
        {"chunking_method": "aspect_ratio:0"},
        {"chunking_method": "aspect_ratio:"},
        {"chunking_method": "aspect_ratio:x"},
        {"batch_chunk_size": 0},
        {"batch_chunk_size": 2.0},
        {"acc_dtype": "nonsense"},
    ],
)
def test_option_errors(options: dict[str, Any]) -> None:
    same_error(lambda: LinearCrossEntropyOptions(**options), lambda: TorchOptions(**options))
    with pytest.raises(ValueError, match="acc_policy|chunking_method|batch_chunk_size|acc_dtype"):
        LinearCrossEntropyOptions(**options)
    with pytest.raises(ValueError, match="acc_dtype must be None or one of"):
        LinearCrossEntropyOptions(acc_dtype=jnp.int32)


SHAPES = [(7, 3, 5), (2048, 64, 8192), (1, 8, 8), (0, 4, 9), (100, 512, 10), (1000, 16, 1000)]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_plan_is_torchs(shape: tuple[int, int, int], dtype: str) -> None:
    methods = ("auto", "aspect_ratio", "aspect_ratio:4", None)
    for policy, method in itertools.product(("auto", "balanced"), methods):
        chosen = {"acc_policy": policy, "chunking_method": method}
        plan = LinearCrossEntropyOptions(**chosen)._adjust(*shape, dtype, "cpu")
        theirs = TorchOptions(**chosen)._adjust(*shape, getattr(torch, dtype), torch.device("cpu"))
        assert plan.batch_chunk_size == theirs.batch_chunk_size
        assert plan.acc_policy == theirs.acc_policy
        assert f"torch.{plan.acc_dtype}" == str(theirs.acc_dtype)


def test_options_that_contradict_each_other() -> None:
    x, w, target = normal(N, D), normal(C, D), indices(N)

    def ours(**options: Any) -> Any:
        return F.linear_cross_entropy(x, w, target, options=LinearCrossEntropyOptions(**options))

    def theirs(**options: Any) -> Any:
        return TF.linear_cross_entropy(*map(to_torch, (x, w, target)), options=TorchOptions(**options))

    both = {"batch_chunk_size": 1, "chunking_method": "aspect_ratio"}
    same_error(lambda: ours(**both), lambda: theirs(**both))
    with pytest.raises(ValueError, match="give different chunk sizes"):
        ours(**both)
    same_error(lambda: ours(acc_dtype=jnp.float16), lambda: theirs(acc_dtype=torch.float16))
    with pytest.raises(RuntimeError, match="got float16 acc_dtype and float32 inputs"):
        ours(acc_dtype=jnp.float16)


@pytest.mark.parametrize("arguments", [{"label_smoothing": 0.1}, {"probabilities": True}, {"features": (2,)}])
def test_options_that_do_not_apply_warn(arguments: dict[str, Any]) -> None:
    features = arguments.pop("features", ())
    target = np.abs(normal(N, C)) if arguments.pop("probabilities", False) else indices(N, *features)
    x, w = normal(N, D), normal(C, *features, D)
    with pytest.warns(UserWarning, match="``options`` ignored") as caught:
        ours = F.linear_cross_entropy(x, w, target, options=LinearCrossEntropyOptions(), **arguments)
    assert caught[0].filename == __file__
    assert_close(ours, TF.linear_cross_entropy(*map(to_torch, (x, w, target)), **arguments))


# -- errors -----------------------------------------------------------------------------------------------------
ERRORS = [
    ((), (C, D), (), {}, "dimensionality 1 or 2, got 0"),
    ((2, N, D), (C, D), (N,), {}, "dimensionality 1 or 2, got 3"),
    ((N, D), (D,), (N,), {}, "dimensionality at least 2, got 1"),
    ((N, D), (C, D + 1), (N,), {}, r"got 3 and 4, respectively \(input \[7, 3\], linear_weight \[5, 4\]\)"),
    ((N, D), (C, D), (N,), {"linear_bias": np.ones(4, np.float32)}, r"linear_bias shape \(5,\), got \(4,\)"),
    ((D,), (C, 2, D), (2,), {}, "requires batched input"),
    ((N, D), (C, D), (N, C), {"ignore_index": 1}, "ignore_index cannot be specified"),
    ((N, D), (C, D), (N - 1,), {}, "to match target batch_size"),
    ((N, D), (C, D), (N,), {"weight": np.ones(4, np.float32)}, "weight tensor should be defined"),
    ((N, D), (C, D), (N,), {"reduction": "foo"}, "foo is not a valid value"),
]


@pytest.mark.parametrize(("shape", "weight", "target", "options", "match"), ERRORS)
def test_errors(shape: Any, weight: Any, target: Any, options: dict[str, Any], match: str) -> None:
    theirs = {k: to_torch(v) if isinstance(v, np.ndarray) else v for k, v in options.items()}
    same_error(
        lambda: F.linear_cross_entropy(normal(*shape), normal(*weight), indices(*target), **options),
        lambda: TF.linear_cross_entropy(torch.ones(shape), torch.ones(weight), to_torch(indices(*target)), **theirs),
    )
    with pytest.raises((RuntimeError, ValueError), match=match):
        F.linear_cross_entropy(normal(*shape), normal(*weight), indices(*target), **options)


def test_errors_in_chunks() -> None:
    x, w, options = normal(N, D), normal(C, D), LinearCrossEntropyOptions()
    for target in (indices(N - 1), np.full(N, C), np.full(N, -1)):
        same_error(
            lambda t=target: F.linear_cross_entropy(x, w, t, options=options),
            lambda t=target: TF.linear_cross_entropy(*map(to_torch, (x, w, t)), options=TorchOptions()),
        )
    same_error(
        lambda: F.linear_cross_entropy(x, w.astype(np.float16), indices(N), options=options),
        lambda: TF.linear_cross_entropy(to_torch(x), to_torch(w).half(), to_torch(indices(N)), options=TorchOptions()),
    )
    with pytest.raises(RuntimeError, match=r"expected weight shape \(5,\)"):  # torch reads what is behind the weight
        F.linear_cross_entropy(x, w, indices(N), weight=np.ones(4, np.float32), options=options)


def test_a_target_that_is_no_class_is_nan_when_compiled() -> None:
    x, w, options = normal(3, D), normal(C, D), LinearCrossEntropyOptions(batch_chunk_size=2)
    for reduction, expected in (("none", [False, True, True]), ("mean", True)):
        run = jax.jit(lambda t, r=reduction: F.linear_cross_entropy(x, w, t, reduction=r, options=options))
        assert np.isnan(run(np.array([0, C, -1]))).tolist() == expected


# -- the layer --------------------------------------------------------------------------------------------------
def test_layer_with_every_argument() -> None:
    weight = np.abs(normal(C))
    arguments = {"out_features": (2,), "bias": True, "reduction": "sum", "ignore_index": 1, "label_smoothing": 0.2}
    ours = nn.LinearCrossEntropyLoss(D, C, **arguments, weight=weight)
    theirs = torch.nn.LinearCrossEntropyLoss(D, C, **arguments, weight=to_torch(weight))
    assert list(ours.state_dict()) == list(theirs.state_dict()) == ["weight", "linear.weight", "linear.bias"]
    assert repr(ours) == repr(theirs)
    ours.load_state_dict(theirs.state_dict())
    x, target = normal(N, D), indices(N, 2)
    assert_close(ours(x, target), theirs(to_torch(x), to_torch(target)))
    assert_close(jm.jit(ours)(x, target), theirs(to_torch(x), to_torch(target)))


def test_the_options_class_has_torchs_import_paths() -> None:
    from jaxmodule.nn.modules.linear_cross_entropy_options import LinearCrossEntropyOptions as by_path
    from jaxmodule.nn.modules.loss import LinearCrossEntropyLoss as loss_by_path

    assert by_path is nn.LinearCrossEntropyOptions
    assert loss_by_path is nn.LinearCrossEntropyLoss

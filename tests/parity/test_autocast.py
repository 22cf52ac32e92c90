"""`jm.amp` against torch: the dtype that each functional gives under autocast, its values, and the gradient scale."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import jaxmodule as jm
from jaxmodule.amp import GradScaler, autocast
from jaxmodule.nn.functional import _autocast
from tests.parity.oracle import to_numpy

F = torch.nn.functional
LABELS = np.array([1, 0, 3, 2])
SIGNS = np.array([1, -1, 1, -1])


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng((seed, *shape)).standard_normal(shape).astype(np.float32)


def positive(*shape: int) -> np.ndarray:
    return np.abs(normal(*shape)) * 0.2 + 0.1


X, Y, W = normal(4, 8), normal(4, 8, seed=1), normal(5, 8)
IMAGE = {d: normal(2, 4, *(6,) * d) for d in (1, 2, 3)}
KERNEL = {d: normal(4, 4, *(3,) * d, seed=2) * 0.2 for d in (1, 2, 3)}

# name: the functional's arguments. Integer arrays stay as they are; the others are given in float32 and bfloat16.
CALLS: dict[str, tuple[str, tuple[Any, ...], dict[str, Any]]] = {
    "linear": ("linear", (X, W, normal(5)), {}),
    "bilinear": ("bilinear", (X, Y, normal(3, 8, 8)), {}),
    **{f"conv{d}d": (f"conv{d}d", (IMAGE[d], KERNEL[d], normal(4)), {}) for d in (1, 2, 3)},
    **{f"conv_transpose{d}d": (f"conv_transpose{d}d", (IMAGE[d], KERNEL[d], normal(4)), {}) for d in (1, 2, 3)},
    "prelu": ("prelu", (X, positive(1)), {}),
    "attention": ("scaled_dot_product_attention", (X[None, None], Y[None, None], X[None, None]), {}),
    "masked attention": (
        "scaled_dot_product_attention",
        (X[None, None], Y[None, None], X[None, None], normal(4, 4)),
        {},
    ),
    "affine_grid": ("affine_grid", (normal(2, 2, 3), (2, 1, 3, 3)), {"align_corners": False}),
    **{
        name: (name, (X,), {})
        for name in ("relu", "gelu", "silu", "softplus", "sigmoid", "tanh", "elu", "mish", "logsigmoid", "glu", "celu")
    },
    "softmax": ("softmax", (X, -1), {}),
    "softmax, dtype": ("softmax", (X, -1), {"dtype": "bfloat16"}),
    "log_softmax": ("log_softmax", (X, -1), {}),
    "softmin": ("softmin", (X, -1), {}),
    "layer_norm": ("layer_norm", (X, (8,), positive(8), normal(8)), {}),
    "rms_norm": ("rms_norm", (X, (8,), positive(8)), {}),
    "group_norm": ("group_norm", (X, 2, positive(8), normal(8)), {}),
    "batch_norm": ("batch_norm", (X, None, None, positive(8), normal(8), True), {}),
    "instance_norm": ("instance_norm", (IMAGE[1],), {}),
    **{f"local_response_norm {d}d": ("local_response_norm", (IMAGE[d], 2), {}) for d in (1, 2)},
    "normalize": ("normalize", (X,), {}),
    "cosine_similarity": ("cosine_similarity", (X, Y), {}),
    "pairwise_distance": ("pairwise_distance", (X, Y), {}),
    "pdist": ("pdist", (X,), {}),
    **{name: (name, (X, Y), {}) for name in ("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss")},
    "cross_entropy": ("cross_entropy", (X, LABELS), {}),
    "cross_entropy of probabilities": ("cross_entropy", (X, positive(4, 8)), {}),
    "nll_loss": ("nll_loss", (X, LABELS), {}),
    "nll_loss, 2d": ("nll_loss", (IMAGE[2], np.ones((2, 6, 6), int)), {}),
    "bce with logits": ("binary_cross_entropy_with_logits", (X, positive(4, 8)), {}),
    "bce": ("binary_cross_entropy", (positive(4, 8), positive(4, 8)), {}),
    "kl_div": ("kl_div", (X, positive(4, 8)), {"reduction": "batchmean"}),
    "poisson_nll_loss": ("poisson_nll_loss", (X, positive(4, 8)), {}),
    "gaussian_nll_loss": ("gaussian_nll_loss", (X, Y, positive(4, 8)), {}),
    "hinge_embedding_loss": ("hinge_embedding_loss", (X[:, 0], SIGNS), {}),
    "soft_margin_loss": ("soft_margin_loss", (X[:, 0], SIGNS), {}),
    "multi_margin_loss": ("multi_margin_loss", (X, LABELS), {}),
    "multilabel_margin_loss": ("multilabel_margin_loss", (X, np.zeros((4, 8), int)), {}),
    "multilabel_soft_margin_loss": ("multilabel_soft_margin_loss", (X, np.ones((4, 8), np.float32)), {}),
    "cosine_embedding_loss": ("cosine_embedding_loss", (X, Y, SIGNS), {}),
    "margin_ranking_loss": ("margin_ranking_loss", (X[:, 0], Y[:, 0], SIGNS), {}),
    "triplet_margin_loss": ("triplet_margin_loss", (X, Y, X + 1), {}),
    "triplet with distance": ("triplet_margin_with_distance_loss", (X, Y, X + 1), {}),
    "linear_cross_entropy": ("linear_cross_entropy", (X, W, LABELS), {}),
    **{f"max_pool{d}d": (f"max_pool{d}d", (IMAGE[d], 2), {}) for d in (1, 2, 3)},
    **{f"avg_pool{d}d": (f"avg_pool{d}d", (IMAGE[d], 2), {}) for d in (1, 2, 3)},
    **{f"lp_pool{d}d": (f"lp_pool{d}d", (IMAGE[d], 2.0, 2), {}) for d in (1, 2, 3)},
    **{f"adaptive_avg_pool{d}d": (f"adaptive_avg_pool{d}d", (IMAGE[d], 2), {}) for d in (1, 2, 3)},
    **{f"adaptive_max_pool{d}d": (f"adaptive_max_pool{d}d", (IMAGE[d], 2), {}) for d in (1, 2, 3)},
    **{
        f"interpolate {d}d, {mode}": ("interpolate", (IMAGE[d],), {"scale_factor": 2, "mode": mode})
        for d, mode in ((1, "nearest"), (1, "linear"), (2, "bilinear"), (2, "bicubic"), (2, "area"), (3, "trilinear"))
    },
    **{
        f"pad {d}d, {mode}": ("pad", (IMAGE[d], (1, 1) * d), {"mode": mode})
        for d in (1, 2, 3)
        for mode in ("constant", "reflect", "replicate", "circular")
    },
    "grid_sample": ("grid_sample", (IMAGE[2], normal(2, 3, 3, 2).clip(-1, 1)), {"align_corners": False}),
    "unfold": ("unfold", (IMAGE[2], 2), {}),
    "pixel_shuffle": ("pixel_shuffle", (IMAGE[2], 2), {}),
    "embedding": ("embedding", (LABELS, W), {}),
}
PATTERNS = ("float32", "bfloat16", "mixed")


@contextmanager
def cuda_autocast() -> Iterator[None]:
    """torch's autocast of CUDA on a machine without it: dtypes of tensors that have no values."""
    before, dtype = torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")
    torch.set_autocast_enabled("cuda", True)
    torch.set_autocast_dtype("cuda", torch.bfloat16)
    try:
        yield
    finally:
        torch.set_autocast_enabled("cuda", before)
        torch.set_autocast_dtype("cuda", dtype)


def kinds(args: tuple[Any, ...], pattern: str) -> list[str | None]:
    """The dtype of each argument that has one to choose."""
    found: list[str | None] = []
    for i, arg in enumerate(args):
        floating = isinstance(arg, np.ndarray) and arg.dtype.kind == "f"
        found.append(None if not floating else "float32" if pattern == "mixed" and i else pattern)
        if found[-1] == "mixed":
            found[-1] = "bfloat16"
    return found


def theirs(lists: str, case: str, pattern: str) -> Any:
    name, args, kwargs = CALLS[case]
    tensors = []
    for arg, kind in zip(args, kinds(args, pattern), strict=True):
        tensor = torch.from_numpy(arg.copy()) if isinstance(arg, np.ndarray) else arg
        tensors.append(tensor if kind is None else tensor.to(getattr(torch, kind)))
    kwargs = {k: torch.bfloat16 if v == "bfloat16" else v for k, v in kwargs.items()}
    if lists == "cpu":
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return getattr(F, name)(*tensors, **kwargs)
    with FakeTensorMode(allow_non_fake_inputs=True), cuda_autocast():
        there = [t.to("cuda") if isinstance(t, torch.Tensor) else t for t in tensors]
        return getattr(F, name)(*there, **kwargs)


def ours(lists: str, case: str, pattern: str, values: bool = True) -> Any:
    """Without `values` it compiles nothing."""
    name, args, kwargs = CALLS[case]
    arrays = []
    for arg, kind in zip(args, kinds(args, pattern), strict=True):
        array = jnp.asarray(arg) if isinstance(arg, np.ndarray) else arg
        arrays.append(array if kind is None else array.astype(kind))
    dynamic = [i for i, array in enumerate(arrays) if isinstance(array, jax.Array)]

    def call(given: list[jax.Array]) -> jax.Array:
        full = [given[dynamic.index(i)] if i in dynamic else array for i, array in enumerate(arrays)]
        return getattr(jm.nn.functional, name)(*full, **kwargs)

    with autocast(lists, jnp.bfloat16):
        run = call if values else (lambda given: jax.eval_shape(call, given))
        return run([arrays[i] for i in dynamic])


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("case", CALLS)
@pytest.mark.parametrize("lists", ["cpu", "cuda"])
def test_dtypes_and_values_are_torchs(lists: str, case: str, pattern: str) -> None:
    compare(lists, case, pattern, values=lists == "cpu" and pattern == "float32")


@pytest.mark.slow
@pytest.mark.parametrize("pattern", ["bfloat16", "mixed"])
@pytest.mark.parametrize("case", CALLS)
def test_values_of_half_precision_are_torchs(case: str, pattern: str) -> None:
    compare("cpu", case, pattern, values=True)


def compare(lists: str, case: str, pattern: str, values: bool) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            expected = theirs(lists, case, pattern)
        except (RuntimeError, NotImplementedError) as error:
            if "unsafe to autocast" in str(error):
                with pytest.raises(RuntimeError, match="unsafe to autocast"):
                    ours(lists, case, pattern)
            return
        with jax.numpy_dtype_promotion("standard"):  # torch's, where autocasting leaves dtypes mixed
            got = ours(lists, case, pattern, values)
    assert str(got.dtype) == str(expected.dtype).removeprefix("torch.")
    assert got.shape == expected.shape
    if values:
        scale = max(float(expected.abs().max()), 1e-3)
        np.testing.assert_allclose(to_numpy(got), to_numpy(expected), rtol=2e-2, atol=2e-2 * scale)


LAYERS: dict[str, Callable[[Any], tuple[Any, Any]]] = {
    "RNN": lambda nn: (nn.RNN(8, 3), X[:, None]),
    "LSTM": lambda nn: (nn.LSTM(8, 3, 2, bidirectional=True), X[:, None]),
    "GRU": lambda nn: (nn.GRU(8, 3), X[:, None]),
    "RNNCell": lambda nn: (nn.RNNCell(8, 3), X),
    "LSTMCell": lambda nn: (nn.LSTMCell(8, 3), X),
    "GRUCell": lambda nn: (nn.GRUCell(8, 3), X),
    "attention": lambda nn: (nn.MultiheadAttention(8, 2), X[:, None]),
    "encoder": lambda nn: (nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True), X[None]),
    "convolutions": lambda nn: (
        nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2)),
        IMAGE[2],
    ),
    "normalised": lambda nn: (nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.GELU(), nn.Linear(8, 2)), X),
}


def under_torchs_autocast(reference: Any, inputs: list[Any]) -> Any:
    """Its outputs. For some processors oneDNN has no LSTM in bfloat16, and torch raises: there, what it would round."""
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return reference(*inputs)
    except RuntimeError as error:
        if "could not create a primitive descriptor" not in str(error):
            raise
        return jax.tree.map(lambda x: x.bfloat16(), reference(*[x.float() for x in inputs]))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("case", LAYERS)
def test_layers_are_torchs_on_cpu(case: str, dtype: str) -> None:
    """Parameters in float32, the input in either."""
    (mine, x), (reference, _) = LAYERS[case](jm.nn), LAYERS[case](torch.nn)
    mine.load_state_dict({name: jnp.asarray(to_numpy(t)) for name, t in reference.state_dict().items()})
    inputs = torch.from_numpy(x.copy()).to(getattr(torch, dtype))
    expected = under_torchs_autocast(reference, [inputs] * (3 if case == "attention" else 1))
    with autocast("cpu"), jax.numpy_dtype_promotion("standard"):
        got = mine(*[jnp.asarray(x, dtype)] * (3 if case == "attention" else 1))
    left, right = jax.tree.leaves(got), torch.utils._pytree.tree_leaves(expected)
    for a, b in zip(left, right, strict=True):
        assert str(a.dtype) == str(b.dtype).removeprefix("torch.")
        np.testing.assert_allclose(to_numpy(a), to_numpy(b), rtol=4e-2, atol=4e-2)


def test_the_lists_are_torchs() -> None:
    """Every functional that a list of torch's CUDA backend names is in ours."""
    from pathlib import Path

    header = (Path(torch.__file__).parent / "include/ATen/autocast_mode.h").read_text()
    lists = {
        "AT_FORALL_LOWER_PRECISION_FP": "lower",
        "AT_FORALL_FP32": "float32",
        "AT_FORALL_FP32_SET_OPT_DTYPE": "float32",
        "AT_FORALL_PROMOTE": "promote",
    }
    for macro, policy in lists.items():
        body = header.split(f"#define {macro}(_)")[1].split("\n#")[0].split("\n\n")[0]
        names = {part.split(")")[0].split(",")[0] for part in body.split("_(")[1:]}
        for name in sorted(names & set(jm.nn.functional.__all__)):
            found = _autocast.LISTS["cuda"][name]
            assert found == policy or callable(found), name


def test_binary_cross_entropy_is_banned() -> None:
    with autocast(), pytest.raises(RuntimeError, match="unsafe to autocast"):
        jm.nn.functional.binary_cross_entropy(jnp.ones(3), jnp.ones(3))


SCALERS: list[dict[str, Any]] = [
    {"init_scale": 8.0, "growth_interval": 3},
    {"init_scale": 2.0**120, "growth_interval": 1, "growth_factor": 16.0},
    {"init_scale": 3.0, "growth_interval": 2, "growth_factor": 1.5, "backoff_factor": 0.3},
]


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("kwargs", SCALERS, ids=str)
def test_the_scale_and_the_skipped_steps_are_torchs(kwargs: dict[str, Any], compiled: bool) -> None:
    start = np.array([1.0, 2.0], np.float32)
    p, q = jm.nn.Parameter(jnp.asarray(start)), torch.nn.Parameter(torch.from_numpy(start.copy()))
    mine, reference = jm.optim.SGD([p], lr=0.1, momentum=0.9), torch.optim.SGD([q], lr=0.1, momentum=0.9)
    scaler, expected = GradScaler("cpu", **kwargs), torch.amp.GradScaler("cpu", **kwargs)

    def train(p: Any, optimizer: Any, scaler: Any, x: jax.Array) -> Any:
        scaled = jm.backward(lambda p: scaler.scale((p.value * x).sum()))(p)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        return scaled

    run = jm.jit(train) if compiled else train
    for step in range(14):
        x = np.array([1.0, np.inf if step in (4, 5, 9) else 0.5], np.float32)
        run(p, mine, scaler, jnp.asarray(x))
        expected.scale((q * torch.from_numpy(x)).sum()).backward()
        expected.step(reference)
        expected.update()
        reference.zero_grad()
        np.testing.assert_allclose(p.value, q.detach().numpy(), rtol=1e-6)
        assert scaler.state_dict() == pytest.approx(expected.state_dict(), rel=1e-6)  # torch's product is in float64
    again = GradScaler("cpu")
    again.load_state_dict(expected.state_dict())
    assert again.state_dict() == expected.state_dict()


@pytest.mark.parametrize(
    ("kind", "shape"), [("float16", ()), ("float16", (3,)), ("bfloat16", ()), ("float32", (2,)), ("bfloat16", (2, 2))]
)
def test_scale_gives_torchs_dtypes(kind: str, shape: tuple[int, ...]) -> None:
    value = np.full(shape, 0.25)
    expected = torch.amp.GradScaler("cpu").scale(torch.full(shape, 0.25, dtype=getattr(torch, kind)))
    got = GradScaler().scale(jnp.asarray(value, kind))
    assert str(got.dtype) == str(expected.dtype).removeprefix("torch.")
    np.testing.assert_array_equal(to_numpy(got), to_numpy(expected))


def test_scaler_errors_are_torchs() -> None:
    for Scaler, optim, parameter in (
        (GradScaler, jm.optim, jm.nn.Parameter(jnp.ones(2))),
        (torch.amp.GradScaler, torch.optim, torch.nn.Parameter(torch.ones(2))),
    ):
        scaler, optimizer = Scaler("cpu"), optim.SGD([parameter], lr=0.1)
        one = jnp.ones(()) if Scaler is GradScaler else torch.ones(())
        parameter.grad = parameter * 0 + 1 if Scaler is GradScaler else torch.ones(2)
        scaler.scale(one)
        with pytest.raises(AssertionError, match="No inf checks"):
            scaler.update()
        scaler.unscale_(optimizer)
        with pytest.raises(RuntimeError, match="has already been called"):
            scaler.unscale_(optimizer)
        scaler.step(optimizer)
        with pytest.raises(RuntimeError, match="already been called since"):
            scaler.step(optimizer)
        with pytest.raises(RuntimeError, match="after step"):
            scaler.unscale_(optimizer)
        scaler.update()
        optimizer.zero_grad()
        scaler.scale(one)
        with pytest.raises(AssertionError, match="No inf checks were recorded for this optimizer"):
            scaler.step(optimizer)
        with pytest.raises(AssertionError, match="No inf checks were recorded prior to update"):
            scaler.update()
        with pytest.raises(RuntimeError, match="Closure use"):
            scaler.step(optimizer, closure=lambda: None)
        with pytest.raises(ValueError, match="outputs must be"):
            scaler.scale(3)
        with pytest.raises(RuntimeError, match="source state dict is empty"):
            scaler.load_state_dict({})
        with pytest.raises(AssertionError, match="growth factor"):
            Scaler("cpu", growth_factor=1.0)
        with pytest.raises(AssertionError, match="backoff factor"):
            Scaler("cpu", backoff_factor=1.0)
        off = Scaler("cpu", enabled=False)
        assert off.scale(one) is one
        assert off.state_dict() == {}
        assert off.get_scale() == 1.0

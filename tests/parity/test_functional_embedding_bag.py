"""`embedding_bag` against torch: arguments, divisions into bags, edges, dtypes, exceptions."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as TF
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxmodule import nn
from jaxmodule.nn import functional as F
from tests.parity.oracle import assert_close, compare, same_error, to_torch

MODES = ["sum", "mean", "max"]
EXAMPLES = settings(max_examples=25, deadline=None, derandomize=True)


def table(rows: int = 6, columns: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, columns)).astype(np.float32)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def check(index: np.ndarray, offsets: np.ndarray | None, factors: np.ndarray | None = None, **options: Any) -> None:
    """Compiled with traced indices and offsets, values and gradients by table and factors."""
    compare(
        lambda i, w, o, f: F.embedding_bag(i, w, o, per_sample_weights=f, **options),
        lambda i, w, o, f: TF.embedding_bag(i, w, o, per_sample_weights=f, **options),
        [index, table(), offsets, factors],
    )


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("padding_idx", [None, 2, -1])
@pytest.mark.parametrize("shape", [(2, 4), (1, 1), (0, 3)])
def test_bags_of_one_size(mode: str, padding_idx: int | None, shape: tuple[int, int]) -> None:
    check(np.random.default_rng(1).integers(0, 6, shape), None, mode=mode, padding_idx=padding_idx)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("padding_idx", [None, 2, -1])
@pytest.mark.parametrize(
    ("offsets", "last"),
    [((0, 3), False), ((0, 0, 2, 2, 8), False), ((0, 3, 8), True), ((0,), False)],
)
def test_bags_by_offsets(mode: str, padding_idx: int | None, offsets: tuple[int, ...], last: bool) -> None:
    index = ints(1, 2, 2, 5, 0, 5, 5, 2)
    check(index, ints(*offsets), mode=mode, padding_idx=padding_idx, include_last_offset=last)


@st.composite
def divisions(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    index = draw(st.lists(st.integers(0, 5), max_size=12))
    cuts = sorted(draw(st.lists(st.integers(0, len(index)), max_size=5)))
    padding_idx = draw(st.sampled_from([None, 0, 3, -2]))
    last = draw(st.booleans())
    cuts = [*cuts, len(index)] if last else cuts
    options = {"mode": draw(st.sampled_from(MODES)), "padding_idx": padding_idx, "include_last_offset": last}
    return ints(*index), ints(0, *cuts), options


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("padding_idx", [None, 2])
def test_the_last_bag_may_end_before_the_indices(mode: str, padding_idx: int | None) -> None:
    """As torch documents; some of its kernels take what follows for the last bag's."""
    options = {"mode": mode, "padding_idx": padding_idx, "include_last_offset": True}
    index = ints(1, 2, 2, 5, 0, 5, 5, 2)
    compare(
        lambda i, w, o: F.embedding_bag(i, w, o, **options),
        lambda i, w, o: TF.embedding_bag(i[:5], w, o, **options),
        [index, table(), ints(0, 2, 5)],
    )


@pytest.mark.parametrize("mode", MODES)
def test_no_bags(mode: str) -> None:
    """Not against torch, which ends the process here in some modes."""
    for offsets, last in ((ints(), False), (ints(0), True)):
        for index in (ints(1, 2), ints()):
            ours = F.embedding_bag(index, table(), offsets, mode=mode, include_last_offset=last)
            assert ours.shape == (0, 3)


@EXAMPLES
@given(divisions())
def test_any_division(case: tuple[np.ndarray, np.ndarray, dict[str, Any]]) -> None:
    index, offsets, options = case
    check(index, offsets, **options)


@pytest.mark.parametrize("padding_idx", [None, 2])
def test_factors(padding_idx: int | None) -> None:
    factors = np.random.default_rng(0).standard_normal(8).astype(np.float32)
    index = ints(1, 2, 2, 5, 0, 5, 5, 2)
    check(index, ints(0, 3, 3), factors, mode="sum", padding_idx=padding_idx)
    check(index.reshape(2, 4), None, factors.reshape(2, 4), mode="sum", padding_idx=padding_idx)


@pytest.mark.parametrize("mode", ["sum", "mean"])
@pytest.mark.parametrize("padding_idx", [None, 2])
def test_scale_grad_by_freq(mode: str, padding_idx: int | None) -> None:
    """Against torch's `embedding`: its CPU kernel for bags looks the frequency up under another index."""
    index = ints(1, 2, 2, 5, 0, 5, 5, 2).reshape(2, 4)
    options = {"padding_idx": padding_idx, "scale_grad_by_freq": True}

    def theirs(index: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        rows = TF.embedding(index, weight, **options)
        counts = torch.ones(2, 4) if padding_idx is None else (index != padding_idx).float()
        total = (rows * counts[..., None]).sum(1)
        return total / counts.sum(1, keepdim=True) if mode == "mean" else total

    compare(lambda i, w: F.embedding_bag(i, w, mode=mode, **options), theirs, [index, table()])
    # What repeats is the largest index alone: there torch's kernel is right.
    check(ints(1, 5, 0, 5, 3, 5), ints(0, 2), mode=mode, **options)


def test_the_first_of_equals_gets_the_gradient() -> None:
    weight = np.array([[1, 5], [5, 2], [3, 1], [3, 1]], np.float32)
    for offsets, index in ((ints(0, 2), ints(0, 1, 3, 2, 3, 2)), (None, ints(0, 1, 3, 2, 3, 2).reshape(2, 3))):
        compare(
            lambda i, w, o: F.embedding_bag(i, w, o, mode="max"),
            lambda i, w, o: TF.embedding_bag(i, w, o, mode="max"),
            [index, weight, offsets],
        )


def test_max_of_what_is_not_finite() -> None:
    """A NaN is the maximum if it is the bag's first, and else is none; -inf is one over a row left out."""
    nan, inf = np.nan, np.inf
    weight = np.array([[1, nan], [nan, 2], [3, 1], [-inf, -inf], [inf, -inf]], np.float32)
    for offsets, index in ((ints(0, 3, 5), ints(0, 1, 2, 3, 3, 0, 4)), (None, ints(0, 1, 2, 1, 0, 4).reshape(2, 3))):
        for padding_idx in (None, 0):
            ours = F.embedding_bag(index, weight, offsets, mode="max", padding_idx=padding_idx)
            theirs = TF.embedding_bag(
                to_torch(index),
                to_torch(weight),
                None if offsets is None else to_torch(offsets),
                mode="max",
                padding_idx=padding_idx,
            )
            assert_close(ours, theirs)


@pytest.mark.parametrize("norm_type", [1.0, 2.0])
@pytest.mark.parametrize("offsets", [None, (0, 1)])
def test_max_norm_rescales_the_rows_in_use(norm_type: float, offsets: tuple[int, ...] | None) -> None:
    index = ints(1, 1, 4) if offsets else ints(1, 1, 4)[None]
    starts = ints(*offsets) if offsets else None
    box, tensor = nn.Parameter(jnp.asarray(3 * table())), 3 * to_torch(table())
    ours = F.embedding_bag(index, box, starts, max_norm=1.0, norm_type=norm_type)
    theirs = TF.embedding_bag(
        to_torch(index), tensor, None if starts is None else to_torch(starts), max_norm=1.0, norm_type=norm_type
    )
    assert_close(ours, theirs)
    assert_close(box.value, tensor)


def test_an_error_leaves_the_table_as_it_was() -> None:
    box = nn.Parameter(jnp.asarray(3 * table()))
    for options in ({"offsets": ints(1)}, {"offsets": ints(0), "padding_idx": 9}):
        with pytest.raises(RuntimeError):
            F.embedding_bag(ints(1, 2), box, max_norm=1.0, **options)
    assert (box.value == 3 * table()).all()


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("mode", MODES)
def test_half_precision(mode: str, dtype: Any) -> None:
    index, weight = np.random.default_rng(0).integers(0, 6, (2, 40)), table().astype(dtype)
    ours = F.embedding_bag(index, weight, mode=mode)
    assert ours.dtype == dtype
    eps = float(jnp.finfo(dtype).eps)
    assert_close(ours, F.embedding_bag(index, weight.astype(np.float32), mode=mode), eps)
    assert_close(ours, TF.embedding_bag(to_torch(index), to_torch(weight), mode=mode), 4 * eps)


def test_float64_and_integer_dtypes() -> None:
    with jax.enable_x64(True):
        weight = np.random.default_rng(0).standard_normal((6, 3))
        ours = F.embedding_bag(ints(1, 2, 5), weight, ints(0, 1))
        assert ours.dtype == np.float64
        assert_close(ours, TF.embedding_bag(to_torch(ints(1, 2, 5)), to_torch(weight), to_torch(ints(0, 1))), 1e-14)
    for dtype in ("uint8", "int16", "uint32"):
        found = F.embedding_bag(np.array([1, 5], dtype), table(), np.array([0, 1], dtype))
        np.testing.assert_array_equal(found, table()[[1, 5]])


def test_one_program_serves_all_divisions() -> None:
    traces = []

    @jax.jit
    def bags(index: jax.Array, offsets: jax.Array) -> jax.Array:
        traces.append(1)
        return F.embedding_bag(index, table(), offsets, mode="sum")

    index = jnp.array([1, 2, 3, 4])
    for offsets in ((0, 1), (0, 4), (0, 2)):
        expected = TF.embedding_bag(to_torch(index), to_torch(table()), torch.tensor(offsets), mode="sum")
        assert_close(bags(index, jnp.array(offsets)), expected)
    assert len(traces) == 1


def test_under_a_trace_rows_outside_of_bags_are_left_out() -> None:
    bags = jax.jit(lambda i, o: F.embedding_bag(i, jnp.ones((6, 1)), o, mode="sum", include_last_offset=True))
    assert bags(jnp.array([1, 2, 3, 4, 5]), jnp.array([1, 2, 4])).tolist() == [[1.0], [2.0]]
    assert np.isnan(bags(jnp.array([1, 9, -1]), jnp.array([0, 1, 3]))[:, 0]).tolist() == [False, True]


def test_under_vmap() -> None:
    index, offsets = np.random.default_rng(0).integers(0, 6, (3, 7)), np.array([[0, 2], [0, 0], [0, 7]])
    for mode in MODES:
        call = lambda i, o, mode=mode: F.embedding_bag(i, table(), o, mode=mode)  # noqa: E731
        mapped = jax.vmap(call)(index, offsets)
        looped = jnp.stack([call(i, o) for i, o in zip(index, offsets, strict=True)])
        np.testing.assert_allclose(mapped, looped, rtol=1e-6)


def test_the_old_order_of_arguments_warns() -> None:
    with pytest.warns(UserWarning, match="Argument order of nn.functional.embedding_bag was changed") as caught:
        ours = F.embedding_bag(table(), ints(1, 2), ints(0))
    assert caught[0].filename == __file__
    assert_close(ours, F.embedding_bag(ints(1, 2), table(), ints(0)))


ERRORS: list[tuple[tuple[Any, ...], dict[str, Any], str]] = [
    ((ints(1, 2), table(), ints(1)), {}, r"offsets\[0\] has to be 0"),
    ((ints(1, 2), table(), ints(0, 3)), {}, r"offsets\[-1\] can not be greater than input's length 2"),
    ((ints(1, 2), table(), ints()), {"include_last_offset": True}, "number of offset should be at least 1"),
    ((ints(1, 6), table(), ints(0)), {}, "takes value 6 which is not in the valid range"),
    ((ints(1, -1), table(), ints(0)), {"mode": "max"}, "takes value -1 which is not in the valid range"),
    ((np.ones(2, np.float32), table(), ints(0)), {}, "'indices' to have an integer scalar type"),
    ((ints(1, 2), table(), np.zeros(1, np.float32)), {}, "'offsets' to have an integer scalar type"),
    ((ints(1, 2), table().astype(np.int64), ints(0)), {}, "'weight' to have a float scalar type"),
    ((ints(1, 2), table(), ints(0)), {"padding_idx": 6}, "must be within the number of embeddings, -6 through 5"),
    ((ints(1, 2), table(), None), {}, "1D Tensor but got None"),
    ((ints(1, 2), table(), ints(0)[None]), {}, "1D Tensor but got one of size"),
    ((ints(1, 2)[None], table(), ints(0)), {}, "offsets has to be None"),
    ((ints(1, 2)[None, None], table()), {}, "1D or 2D Tensor, but got Tensor of dimension 3"),
    ((ints().reshape(2, 0), table()), {}, "step must be nonzero"),
    ((ints(1, 2), table()[0], ints(0)), {}, "weight has to be a 2D Tensor"),
    ((ints(1, 2), table(), ints(0)), {"mode": "foo"}, "mode has to be one of"),
    ((ints(1, 2), table(), ints(0)), {"mode": "max", "scale_grad_by_freq": True}, "does not support scaling"),
    ((ints(1, 2), table(), ints(0)), {"mode": "max", "sparse": True}, "does not support sparse"),
    ((ints(1, 2), table(), ints(0)), {"per_sample_weights": np.ones(3, np.float32), "mode": "sum"}, "same shape"),
    ((ints(1, 2), table(), ints(0)), {"per_sample_weights": np.ones(2, np.float32)}, "only supported for mode='sum'"),
    ((ints(1, 2), table(), ints(0)), {"per_sample_weights": np.ones(2), "mode": "sum"}, "to have the same type"),
]


@pytest.mark.parametrize(("args", "options", "match"), ERRORS)
def test_errors(args: tuple[Any, ...], options: dict[str, Any], match: str) -> None:
    factors = options.get("per_sample_weights")
    if factors is not None and factors.dtype == np.float64:  # which JAX makes float32 of
        options = {**options, "per_sample_weights": factors.astype(np.float16)}
    theirs = {name: to_torch(v) if isinstance(v, np.ndarray) else v for name, v in options.items()}
    same_error(
        lambda: F.embedding_bag(*args, **options),
        lambda: TF.embedding_bag(*[to_torch(a) if isinstance(a, np.ndarray) else a for a in args], **theirs),
    )
    with pytest.raises((ValueError, RuntimeError, NotImplementedError), match=match):
        F.embedding_bag(*args, **options)


def test_what_torch_does_not_refuse() -> None:
    with pytest.raises(RuntimeError, match="offsets must not decrease"):
        F.embedding_bag(ints(1, 2), table(), ints(0, 2, 1))
    with pytest.raises(ValueError, match="Use sparse=False"):
        F.embedding_bag(ints(1, 2), table(), ints(0), sparse=True)
    with pytest.raises(TypeError, match="pass nn.Parameter"):
        F.embedding_bag(ints(1, 2), table(), ints(0), max_norm=1.0)


def test_module_from_pretrained() -> None:
    frozen = nn.EmbeddingBag.from_pretrained(table(), padding_idx=-1, mode="sum")
    assert not frozen.weight.requires_grad
    assert frozen.padding_idx == 5
    assert (frozen.weight.value == table()).all()  # the padding row is kept as given
    assert nn.EmbeddingBag.from_pretrained(table(), freeze=False).weight.requires_grad
    with pytest.raises(AssertionError, match="expected to be 2-dimensional"):
        nn.EmbeddingBag.from_pretrained(np.zeros(3, np.float32))
    assert nn.EmbeddingBag(4, 3, padding_idx=1).weight[1].tolist() == [0.0] * 3

"""The functions of `nn.utils.rnn` against torch's: values, dtypes, errors, signatures."""

from __future__ import annotations

import functools
import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.utils import rnn as torch_rnn

from jaxmodule.nn.utils import rnn
from tests.parity.oracle import assert_close, same_error, to_torch

T, N = 5, 3


def draw(*shape: int) -> np.ndarray:
    return np.random.default_rng(shape).standard_normal(shape).astype(np.float32)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(st.data())
def test_any_lengths_in_one_program(data: st.DataObject) -> None:
    lengths = data.draw(st.lists(st.integers(1, T), min_size=N, max_size=N))
    batch_first, enforce_sorted = data.draw(st.booleans()), data.draw(st.booleans())
    lengths = sorted(lengths, reverse=True) if enforce_sorted else lengths
    x = draw(N, T, 2) if batch_first else draw(T, N, 2)
    ours, theirs = (
        f.pack_padded_sequence(array, lengths, batch_first, enforce_sorted)
        for f, array in ((rnn, x), (torch_rnn, torch.from_numpy(x)))
    )
    for a, b in zip(ours, theirs, strict=True):
        assert (a is None) == (b is None)
        if b is not None:
            assert_close(a, b)
    padded, count = _pack_and_pad(x, np.array(lengths, np.int32), batch_first)
    expected, wanted = torch_rnn.pad_packed_sequence(theirs, batch_first, -1.0, T)
    assert_close(padded, expected)
    assert_close(count, wanted)


@functools.partial(jax.jit, static_argnums=2)
def _pack_and_pad(x: jax.Array, lengths: jax.Array, batch_first: bool) -> tuple[jax.Array, jax.Array]:
    return rnn.pad_packed_sequence(rnn.pack_padded_sequence(x, lengths, batch_first), batch_first, -1.0)


@pytest.mark.parametrize("name", sorted(torch_rnn.__all__))
def test_signatures_are_torchs(name: str) -> None:
    def arguments(function: Any) -> list[tuple[str, Any, Any]]:
        return [(p.name, p.default, p.kind) for p in inspect.signature(function).parameters.values()]

    assert arguments(getattr(rnn, name)) == arguments(getattr(torch_rnn, name))


def test_names_are_torchs() -> None:
    assert sorted(rnn.__all__) == sorted(torch_rnn.__all__)


def same(ours: Any, theirs: Any) -> None:
    """Equal in structure, dtypes and values."""
    if theirs is None:
        assert ours is None
    elif isinstance(theirs, (tuple, list)):
        assert len(ours) == len(theirs)
        for a, b in zip(ours, theirs, strict=True):
            same(a, b)
    else:
        assert str(ours.dtype) == str(theirs.dtype).removeprefix("torch.").replace("int64", "int32")
        np.testing.assert_array_equal(np.asarray(ours), theirs.numpy())


WHOLE = np.arange(24, dtype=np.float32).reshape(3, 2, 4)
A, B = np.arange(3), np.arange(10, 12)


def both(function: Any) -> None:
    """`function(module, to_array)` gives the same in both."""
    same(function(rnn, jnp.asarray), function(torch_rnn, to_torch))


@pytest.mark.parametrize("dtype", [np.float32, np.int32, np.bool_, np.float16])
@pytest.mark.parametrize("lengths", [[3, 1], [2, 1], [3.7, 2.2], np.array([3, 2]), np.array([3, 2], np.int32)])
def test_pack_padded_sequence(lengths: Any, dtype: Any) -> None:
    def pack(functions: Any, array: Any) -> Any:
        counts = array(lengths) if isinstance(lengths, np.ndarray) else lengths
        return functions.pack_padded_sequence(array(WHOLE.astype(dtype)), counts)

    both(pack)


@pytest.mark.parametrize(
    "use",
    [
        lambda f, a: f.pack_padded_sequence(a(WHOLE[:, :, 0]), [1, 3], enforce_sorted=False),
        lambda f, a: f.pack_padded_sequence(a(WHOLE), [2, 1, 2], batch_first=True, enforce_sorted=False),
        lambda f, a: f.pad_packed_sequence(f.pack_padded_sequence(a(WHOLE), [2, 3], enforce_sorted=False)),
        lambda f, a: f.pad_packed_sequence(f.pack_padded_sequence(a(WHOLE), [3, 2]), True, -1.5, 5),
        lambda f, a: f.pad_packed_sequence(f.pack_padded_sequence(a(WHOLE.astype(np.int32)), [3, 2]), True, -1.5),
        lambda f, a: f.pad_packed_sequence(f.pack_padded_sequence(a(WHOLE > 3), [3, 2]), padding_value=True),
        lambda f, a: f.pack_sequence([a(A), a(B)]),
        lambda f, a: f.pack_sequence([a(B), a(A)], enforce_sorted=False),
        lambda f, a: f.unpack_sequence(f.pack_sequence([a(B), a(A)], enforce_sorted=False)),
        lambda f, a: f.pad_sequence([a(B), a(A)]),
        lambda f, a: f.pad_sequence([a(B), a(A)], True, -1),
        lambda f, a: f.pad_sequence([a(B), a(A)], batch_first=True, padding_value=7, padding_side="left"),
        lambda f, a: f.pad_sequence((x for x in [a(B), a(A)]), padding_value=1.5),
        lambda f, a: f.pad_sequence(a(WHOLE)),
        lambda f, a: f.pad_sequence([a(WHOLE[0]), a(WHOLE[0, :1])], padding_side="left"),
        lambda f, a: f.pad_sequence([a(A), a(B.astype(np.float32) + 0.5)]),
        lambda f, a: f.pad_sequence([a(WHOLE[:, 0]), a(WHOLE[:2, 1, :1])]),
        lambda f, a: f.pad_sequence([a(WHOLE[:0, 0])]),
        lambda f, a: f.unpad_sequence(a(WHOLE), a(np.array([3, 1]))),
        lambda f, a: f.unpad_sequence(a(WHOLE), a(np.array([1, 2, 0])), batch_first=True),
        lambda f, a: f.unpad_sequence(a(WHOLE), a(np.array([9, -1, 2])), batch_first=True),
        lambda f, a: f.unpad_sequence(a(WHOLE), a(np.array([1.5, 1, 0])), batch_first=True),
        lambda f, a: f.invert_permutation(a(np.array([2, 0, 1]))),
        lambda f, a: f.invert_permutation(None),
        lambda f, a: f.PackedSequence(a(A), a(np.array([2, 1]))),
        lambda f, a: f.PackedSequence((a(A), a(np.array([2, 1])))),
        lambda f, a: f.PackedSequence(a(A), a(np.array([2, 1])), a(np.array([1, 0]))),
        lambda f, a: f.pack_sequence([a(A)]).long(),
        lambda f, a: f.pack_sequence([a(A)]).int(),
        lambda f, a: f.pack_sequence([a(A)]).short(),
        lambda f, a: f.pack_sequence([a(A)]).char(),
        lambda f, a: f.pack_sequence([a(A)]).byte(),
        lambda f, a: f.pack_sequence([a(A)]).float(),
        lambda f, a: f.pack_sequence([a(A)]).half(),
    ],
)
def test_the_same_as_torch(use: Any) -> None:
    both(use)


def test_many_sequences_of_few_lengths_keep_their_order() -> None:
    """torch's sort is stable for few; with more it has ties in some order, and the same sequences either way."""
    lengths = np.random.default_rng(0).integers(1, 4, 40).tolist()
    p = rnn.pack_padded_sequence(jnp.zeros((3, 40)), lengths, enforce_sorted=False)
    assert p.sorted_indices.tolist() == sorted(range(40), key=lambda k: -lengths[k])
    x = draw(3, 40)
    both(lambda f, a: f.unpack_sequence(f.pack_padded_sequence(a(x), lengths, enforce_sorted=False)))


@pytest.mark.parametrize(
    "use",
    [
        lambda f, a: f.pack_padded_sequence(a(WHOLE), [2, 3]),
        lambda f, a: f.pack_padded_sequence(a(WHOLE), [3, 0]),
        lambda f, a: f.pack_padded_sequence(a(WHOLE), [3, -1]),
        lambda f, a: f.pack_padded_sequence(a(WHOLE), [3, 2, 1]),
        lambda f, a: f.pack_padded_sequence(a(WHOLE), [3]),
        lambda f, a: f.pack_padded_sequence(a(WHOLE), []),
        lambda f, a: f.pack_padded_sequence(a(WHOLE), a(np.array([[3, 2]]))),
        lambda f, a: f.pack_padded_sequence(a(WHOLE), 3),
        lambda f, a: f.pack_padded_sequence(a(WHOLE[:, 0, 0]), [3]),
        lambda f, a: f.pack_padded_sequence(a(WHOLE[:0]), [3, 2]),
        lambda f, a: f.pack_padded_sequence(a(WHOLE[:, :0]), []),
        lambda f, a: f.pad_packed_sequence(f.pack_padded_sequence(a(WHOLE), [3, 2]), total_length=2),
        lambda f, a: f.pad_packed_sequence(f.PackedSequence(a(A), a(np.array([2, 2])))),
        lambda f, a: f.pad_packed_sequence(a(WHOLE)),
        lambda f, a: f.PackedSequence(a(A)),
        lambda f, a: f.pad_sequence([]),
        lambda f, a: f.pad_sequence(3),
        lambda f, a: f.pad_sequence([a(A)], padding_side="up"),
        lambda f, a: f.pad_sequence([a(WHOLE[0]), a(WHOLE[0, :, :3])]),
        lambda f, a: f.pad_sequence([a(np.array(3))]),
        lambda f, a: f.pack_sequence([]),
        lambda f, a: f.pack_sequence([a(B), a(A)]),
        lambda f, a: f.pack_sequence([a(A), a(B[:0])]),
        lambda f, a: f.unpad_sequence(a(WHOLE), a(np.array([3])), True),
        lambda f, a: f.unpad_sequence(a(WHOLE), a(np.array(3)), True),
        lambda f, a: f.unpad_sequence(a(A), a(np.array([3])), True),
        lambda f, a: f.invert_permutation(a(np.array([3, 0, 1]))),
        lambda f, a: f.invert_permutation(a(np.array([[0, 1]]))),
        lambda f, a: f.invert_permutation(a(np.array([0.0, 1.0], np.float32))),
    ],
)
def test_bad_use_raises_as_in_torch(use: Any) -> None:
    same_error(lambda: use(rnn, jnp.asarray), lambda: use(torch_rnn, to_torch))


def test_a_length_beyond_the_input() -> None:
    """torch makes a packed sequence of it whose fields don't fit."""
    with pytest.raises(RuntimeError, match="a length of 4 is greater than the 3 time steps"):
        rnn.pack_padded_sequence(WHOLE, [4, 2])

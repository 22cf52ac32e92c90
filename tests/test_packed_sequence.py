"""PackedSequence: a named tuple, a pytree node, and one program for all lengths."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmodule as jm
from jaxmodule import nn
from jaxmodule.nn.utils.rnn import (
    PackedSequence,
    invert_permutation,
    pack_padded_sequence,
    pack_sequence,
    pad_packed_sequence,
    pad_sequence,
    unpack_sequence,
    unpad_sequence,
)

T, N, WIDTH = 4, 3, 2
LENGTHS = [[4, 1, 3], [2, 2, 2], [1, 4, 4], [3, 2, 1]]
X = np.random.default_rng(0).standard_normal((T, N, WIDTH)).astype(np.float32)


def packed(in_order: bool = True) -> PackedSequence:
    return pack_padded_sequence(X, [4, 3, 1] if in_order else [1, 4, 3], enforce_sorted=in_order)


def assert_same(a: Any, b: Any) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(x, y)


# -- a named tuple ----------------------------------------------------------------------------------------------------
def test_it_is_a_named_tuple() -> None:
    p = packed(in_order=False)
    data, batch_sizes, sorted_indices, unsorted_indices = p
    assert isinstance(p, tuple)
    assert (p[0] is data, p.batch_sizes is batch_sizes, len(p)) == (True, True, 4)
    assert batch_sizes.tolist() == [3, 2, 2, 1]
    assert sorted_indices.tolist() == [1, 2, 0]
    assert unsorted_indices.tolist() == [2, 0, 1]
    assert repr(packed()).startswith("PackedSequence(data=Array([[")
    assert repr(packed()).endswith("sorted_indices=None, unsorted_indices=None)")


def test_numpy_fields_and_parameters_become_arrays() -> None:
    p = PackedSequence(nn.Parameter(X[0]), np.array([2, 1]), np.array([1, 0]))
    assert all(isinstance(field, jax.Array) for field in p)
    assert p.unsorted_indices.tolist() == [1, 0]


@pytest.mark.parametrize("in_order", [True, False])
@pytest.mark.parametrize(
    "duplicate", [copy.copy, copy.deepcopy, lambda p: pickle.loads(pickle.dumps(p))], ids=["copy", "deepcopy", "pickle"]
)
def test_copies(duplicate: Any, in_order: bool) -> None:
    p = packed(in_order)
    q = duplicate(p)
    assert type(q) is PackedSequence
    assert_same(q, p)
    assert b"jaxmodule.nn.utils.rnn" in pickle.dumps(p)


def test_to() -> None:
    p = packed(in_order=False)
    assert p.to(jnp.float16).data.dtype == jnp.float16
    assert p.to("float16", non_blocking=True).data.dtype == jnp.float16
    assert p.to(jnp.zeros(1, jnp.bfloat16)).data.dtype == jnp.bfloat16
    assert p.to(jnp.float32) is p
    assert p.float() is p
    assert p.cpu() is p
    device = jax.devices()[-1]
    there = p.to(device, jnp.float16)
    assert all(field.devices() == {device} for field in (there.data, there.sorted_indices, there.unsorted_indices))
    assert there.data.dtype == jnp.float16
    assert there.to(device) is there
    assert there.cpu().data.devices() == {jax.devices("cpu")[0]}
    with pytest.raises(TypeError, match="unexpected keyword argument 'copy'"):
        p.to(jnp.float32, copy=True)
    assert p.is_cuda == (jax.default_backend() == "gpu")
    assert jax.jit(lambda p: jnp.array(p.is_cuda))(p) == p.is_cuda
    with jax.enable_x64(True):
        assert p.double().data.dtype == jnp.float64
        assert p.long().data.dtype == jnp.int64


def test_memory_of_the_host() -> None:
    p = packed(in_order=False)
    assert not p.is_pinned()
    pinned = p.pin_memory()
    assert pinned.is_pinned()
    assert_same(pinned, p)


# -- a pytree node ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("in_order", [True, False])
def test_pytree(in_order: bool) -> None:
    p = packed(in_order)
    leaves, treedef = jax.tree.flatten(p)
    assert len(leaves) == (2 if in_order else 4)
    assert_same(jax.tree.unflatten(treedef, leaves), p)
    assert type(jax.tree.map(lambda x: x, p)) is PackedSequence
    names = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(p)]
    assert names == [".data", ".batch_sizes", ".sorted_indices", ".unsorted_indices"][: len(leaves)]
    assert jax.tree.map(lambda x: None, p).data is None
    assert jax.eval_shape(lambda p: p, p).data.shape == p.data.shape


@pytest.mark.parametrize("jit", [jm.jit, jax.jit], ids=["jm", "jax"])
@pytest.mark.parametrize("in_order", [True, False])
def test_one_made_outside_goes_through_a_compiled_function(jit: Any, in_order: bool) -> None:
    p = packed(in_order)
    assert_same(jit(lambda p: p)(p), p)
    expected = pad_packed_sequence(PackedSequence(p.data * 2, *p[1:]))
    for rebuild in (
        lambda p: PackedSequence(p.data * 2, *p[1:]),
        lambda p: PackedSequence(p.data * 2, p.batch_sizes),
        lambda p: p._replace(data=p.data * 2),
    ):
        found = jit(lambda p, rebuild=rebuild: pad_packed_sequence(rebuild(p)._replace(unsorted_indices=p[3])))(p)
        assert_same(found, expected)


def test_the_number_of_sequences_is_part_of_the_structure() -> None:
    a = PackedSequence(jnp.arange(5), jnp.array([2, 2, 1]))
    b = PackedSequence(jnp.arange(5), jnp.array([3, 1, 1]))
    run = jax.jit(lambda p: pad_packed_sequence(p)[0])
    assert (run(a).shape, run(b).shape) == ((3, 2), (3, 3))


def test_an_unknown_number_of_sequences_is_an_error_that_says_what_to_write() -> None:
    p = packed()
    with pytest.raises(ValueError, match=r"Write packed._replace\(data=...\)"):
        jax.jit(lambda p: pad_packed_sequence(PackedSequence(p.data, p.batch_sizes + 0)))(p)


def test_as_the_carry_of_a_loop() -> None:
    for in_order in (True, False):
        p = packed(in_order)
        found, _ = jax.lax.scan(lambda p, _: (p._replace(data=p.data + 1), None), p, None, length=3)
        np.testing.assert_allclose(found.data, p.data + 3, rtol=1e-6)
        assert_same(pad_packed_sequence(found)[1], pad_packed_sequence(p)[1])


def test_on_an_attribute_of_a_module() -> None:
    class Holder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.kept = packed()

        def forward(self) -> jax.Array:
            self.kept = self.kept._replace(data=self.kept.data + 1)
            return pad_packed_sequence(self.kept)[0]

    module = Holder()
    run = jm.jit(lambda module: module())
    first, second = run(module), run(module)
    assert second.shape == (T, N, WIDTH)
    np.testing.assert_allclose(second[0], first[0] + 1, rtol=1e-6)


# -- lengths that are traced ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("batch_first", [False, True])
def test_one_program_for_all_lengths(batch_first: bool) -> None:
    module = nn.LSTM(WIDTH, 3, bidirectional=True, batch_first=batch_first)
    x = np.swapaxes(X, 0, 1) if batch_first else X
    traces = []

    @jm.jit
    def run(module: nn.Module, x: jax.Array, lengths: jax.Array) -> Any:
        traces.append(1)
        p = pack_padded_sequence(x, lengths, batch_first)
        q, last = module(PackedSequence(p.data * 2, p.batch_sizes, p.sorted_indices, p.unsorted_indices))
        return pad_packed_sequence(q, batch_first, padding_value=-1.0), last

    for lengths in LENGTHS:
        p = pack_padded_sequence(x * 2, lengths, batch_first, enforce_sorted=False)
        q, last = module(p)
        expected = pad_packed_sequence(q, batch_first, padding_value=-1.0, total_length=T), last
        found = run(module, x, jnp.array(lengths))
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            assert a.dtype == b.dtype
            np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)
    assert len(traces) == 1


def test_the_fields_have_room_for_the_most_there_can_be() -> None:
    p = jax.jit(pack_padded_sequence)(X, jnp.array([2, 4, 1]))
    exact = pack_padded_sequence(X, [2, 4, 1], enforce_sorted=False)
    rows = exact.data.shape[0]
    assert p.data.shape == (T * N, WIDTH)
    np.testing.assert_array_equal(p.data[:rows], exact.data)
    assert not p.data[rows:].any()
    assert_same(p[1:], exact[1:])
    short = jax.jit(pack_padded_sequence)(X, jnp.array([2, 1, 1]))
    assert short.batch_sizes.tolist() == [3, 1, 0, 0]
    assert_same(pad_packed_sequence(short)[1], jnp.array([2, 1, 1]))


def test_lengths_out_of_range_are_clipped_and_a_length_of_zero_keeps_the_state() -> None:
    module = nn.GRU(WIDTH, 3, bidirectional=True)
    h = jnp.asarray(np.random.default_rng(1).standard_normal((2, N, 3)), jnp.float32)

    @jax.jit
    def run(lengths: jax.Array) -> Any:
        output, last = module(pack_padded_sequence(X, lengths), h)
        return *pad_packed_sequence(output), last

    output, lengths, last = run(jnp.array([9, 0, -2]))
    assert lengths.tolist() == [T, 0, 0]
    np.testing.assert_array_equal(last[:, 1:], h[:, 1:])
    assert not output[:, 1:].any()
    alone, _ = module(X[:, :1], h[:, :1])
    np.testing.assert_allclose(output[:, :1], alone, rtol=1e-6, atol=1e-6)


def test_a_list_of_traced_lengths() -> None:
    found = jax.jit(lambda a, b: pad_packed_sequence(pack_padded_sequence(X[:, :2], [a, b])))(2, 3)
    assert found[1].tolist() == [2, 3]


def test_known_lengths_stay_known_inside_a_trace() -> None:
    @jax.jit
    def run(x: jax.Array) -> jax.Array:
        p = pack_padded_sequence(x, [1, 4, 3], enforce_sorted=False)
        assert p.data.shape == (8, WIDTH)
        assert p.batch_sizes.tolist() == [3, 2, 2, 1]
        assert [s.shape[0] for s in unpack_sequence(p)] == [1, 4, 3]
        return p.data

    np.testing.assert_array_equal(run(X), packed(in_order=False).data)


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_vmap(kind: str) -> None:
    module = getattr(nn, kind)(WIDTH, 3, bidirectional=True).eval()
    xs = np.random.default_rng(2).standard_normal((len(LENGTHS), T, N, WIDTH)).astype(np.float32)

    def run(x: jax.Array, lengths: Any) -> Any:
        output, last = module(pack_padded_sequence(x, lengths, enforce_sorted=False))
        return pad_packed_sequence(output, total_length=T), last

    mapped = jax.vmap(run)(xs, jnp.array(LENGTHS))
    for k, lengths in enumerate(LENGTHS):
        for a, b in zip(jax.tree.leaves(mapped), jax.tree.leaves(run(xs[k], lengths)), strict=True):
            np.testing.assert_allclose(a[k], b, rtol=1e-6, atol=1e-6)


def test_vmap_over_packed_sequences() -> None:
    stacked = jax.vmap(lambda x: pack_padded_sequence(x, [4, 3, 1]))(jnp.stack([X, 2 * X]))
    assert stacked.data.shape == (2, 8, WIDTH)
    for p in (stacked, stacked._replace(data=stacked.data)):  # how many sequences there are is in no field's shape
        padded = jax.vmap(lambda p: pad_packed_sequence(p)[0])(p)
        np.testing.assert_array_equal(padded[1], 2 * padded[0])


def test_padding_has_no_part_in_values_and_gradients() -> None:
    """NaN behind the sequences' ends, where torch's packed rows have nothing."""
    module, lengths = nn.LSTM(WIDTH, 3, bidirectional=True), jnp.array([4, 1, 3])
    behind = jnp.arange(T)[:, None, None] >= lengths[None, :, None]

    def loss(module: nn.Module, x: jax.Array, lengths: Any) -> jax.Array:
        output, _ = module(pack_padded_sequence(x, lengths, enforce_sorted=False))
        return jnp.sum(pad_packed_sequence(output)[0] ** 2)

    gradient = jm.grad(loss, argnums=(0, 1))
    known = jm.jit(lambda module, x: gradient(module, x, [4, 1, 3]))
    for run in (known, lambda module, x: jm.jit(gradient)(module, x, lengths)):
        expected, found = run(module, jnp.asarray(X)), run(module, jnp.where(behind, jnp.nan, X))
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
        assert not jnp.where(behind, found[1], 0).any()


def test_lists_of_sequences_need_known_lengths() -> None:
    with pytest.raises(TypeError, match="the lengths are traced.*keep the padded array"):
        jax.jit(unpad_sequence)(X, jnp.array([4, 1, 3]))
    with pytest.raises(TypeError, match="the lengths are traced"):
        jax.jit(unpack_sequence)(packed())


# -- padding under a trace --------------------------------------------------------------------------------------------
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_is_the_same_under_a_trace(side: str) -> None:
    sequences = [jnp.arange(3.0), jnp.arange(2, dtype=jnp.int32), jnp.arange(0.0)]

    def pad(sequences: Any) -> jax.Array:
        return pad_sequence(sequences, padding_value=-1.5, padding_side=side)

    assert_same(jax.jit(pad)(sequences), pad(sequences))


def test_padding_stays_where_the_sequences_are() -> None:
    device = jax.devices()[-1]
    sequences = [jax.device_put(jnp.arange(n), device) for n in (3, 2)]
    assert pad_sequence(sequences).devices() == {device}


def test_a_gradient_through_lists() -> None:
    def loss(a: jax.Array, b: jax.Array) -> jax.Array:
        return sum(
            (k + 1) * s.sum() for k, s in enumerate(unpack_sequence(pack_sequence([a, b], enforce_sorted=False)))
        )

    found = jax.grad(loss, argnums=(0, 1))(jnp.ones(2), jnp.ones(3))
    assert_same(found, (jnp.ones(2), 2 * jnp.ones(3)))


def test_inverse_under_a_trace() -> None:
    assert jax.jit(invert_permutation)(jnp.array([2, 0, 1])).tolist() == [1, 2, 0]

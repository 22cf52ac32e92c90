"""Random and constant arrays without a compilation for each shape.

*Chunked fill*: under JAX's partitionable threefry the bits of an element depend only on the key and on the element's
flat index. One program that makes a fixed number of elements from an offset therefore fills an array of any shape, and
the result is bit for bit that of `jax.random` on the whole shape. Eager `jax.random` compiles for every new shape: 50
million float32 in 10 shapes take 3.3 s in a new process and 0.7 s in a warm one; here 0.7 s and 0.1 s (two cores).

*Draw dtype*: normals of a dtype below 32 bits are drawn in float32 and rounded. `jax.random.normal` in bfloat16 has 128
distinct values and ends at 2.4 standard deviations.

Inside a trace, for other generators than threefry, and for other dtypes than those in `_DTYPES`, the functions call
`jax.random` itself. The values are the same either way.
"""

import math
from collections import deque
from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike, DTypeLike

from .context import Tracer, trace_state

__all__ = ["aligned_empty", "full", "normal", "truncated_normal", "uniform"]

_Kind = Literal["uniform", "normal", "truncated_normal"]
Placement = jax.Device | jax.sharding.Sharding | None

# Powers of two, so that with offsets that are multiples of the size the low counter word never wraps inside a chunk.
# The small one serves biases and small layers, the large one amortises the dispatch.
_CHUNKS = (1 << 14, 1 << 18)
_IN_FLIGHT = 3
_ALIGNMENT = 64  # what JAX's CPU backend wants of a host buffer to take it over without a copy
_DTYPES = ("float16", "bfloat16", "float32", "float64")
_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))


def uniform(
    key: jax.Array,
    shape: tuple[int, ...],
    dtype: DTypeLike = jnp.float32,
    low: ArrayLike = 0.0,
    high: ArrayLike = 1.0,
    *,
    device: Placement = None,
) -> jax.Array:
    """Samples of U(low, high): the bits of `jax.random.uniform(key, shape, dtype, low, high)`.

    Args:
        key: a JAX PRNG key.
        shape: the shape of the result.
        dtype: a floating-point dtype.
        low: the lower bound, inclusive.
        high: the upper bound, exclusive up to rounding.
        device: a device or sharding to put the result on, `None` for that of the key. No effect inside a trace.

    Example:
        >>> key = jax.random.key(0)
        >>> bool((uniform(key, (3, 5)) == jax.random.uniform(key, (3, 5))).all())
        True
    """
    return _fill("uniform", key, shape, dtype, (low, high), device)


def normal(
    key: jax.Array,
    shape: tuple[int, ...],
    dtype: DTypeLike = jnp.float32,
    mean: ArrayLike = 0.0,
    std: ArrayLike = 1.0,
    *,
    device: Placement = None,
) -> jax.Array:
    """Samples of N(mean, std²): `mean + std * jax.random.normal(key, shape)` in the draw dtype, rounded to `dtype`.

    Args:
        key: a JAX PRNG key.
        shape: the shape of the result.
        dtype: a floating-point dtype.
        mean: the mean.
        std: the standard deviation.
        device: a device or sharding to put the result on, `None` for that of the key. No effect inside a trace.

    Example:
        >>> key = jax.random.key(0)
        >>> bool((normal(key, (3, 5)) == jax.random.normal(key, (3, 5))).all())
        True
    """
    return _fill("normal", key, shape, dtype, (mean, std), device)


def truncated_normal(
    key: jax.Array,
    shape: tuple[int, ...],
    dtype: DTypeLike = jnp.float32,
    lower: ArrayLike = -2.0,
    upper: ArrayLike = 2.0,
    mean: ArrayLike = 0.0,
    std: ArrayLike = 1.0,
    low: ArrayLike = -math.inf,
    high: ArrayLike = math.inf,
    *,
    device: Placement = None,
) -> jax.Array:
    """`clip(mean + std * T, low, high)`, where T is standard normal conditioned on `lower < T < upper`.

    T is `jax.random.truncated_normal` in the draw dtype. It is accurate while T has a fair chance to fall between the
    cuts; far out in a tail the error function runs out of digits.

    Args:
        key: a JAX PRNG key.
        shape: the shape of the result.
        dtype: a floating-point dtype.
        lower: the lower cut, in standard deviations from the mean.
        upper: the upper cut, likewise.
        mean: added to the samples.
        std: multiplied into the samples before.
        low: the bound that rounding may not cross, in units of the result.
        high: likewise.
        device: a device or sharding to put the result on, `None` for that of the key. No effect inside a trace.

    Example:
        >>> key = jax.random.key(0)
        >>> bool((truncated_normal(key, (3, 5)) == jax.random.truncated_normal(key, -2, 2, (3, 5))).all())
        True
    """
    return _fill("truncated_normal", key, shape, dtype, (lower, upper, mean, std, low, high), device)


def full(shape: tuple[int, ...], value: Any, dtype: DTypeLike, *, device: Placement = None) -> jax.Array:
    """`jnp.full(shape, value, dtype)`; outside a trace made on the host, where it needs no program of its own.

    Example:
        >>> full((2, 2), 3, jnp.int32).tolist()
        [[3, 3], [3, 3]]
    """
    dtype = jax.dtypes.canonicalize_dtype(dtype)
    if trace_state() is not None or isinstance(value, jax.Array):
        return jnp.full(shape, value, dtype, device=device)
    host = aligned_empty(math.prod(shape), dtype)
    host[:] = value
    return jax.device_put(host.reshape(shape), device)


def _fill(
    kind: _Kind,
    key: jax.Array,
    shape: tuple[int, ...],
    dtype: DTypeLike,
    scalars: tuple[ArrayLike, ...],
    device: Placement,
) -> jax.Array:
    shape = tuple(shape)
    dtype = jax.dtypes.canonicalize_dtype(dtype)
    draw = np.dtype(np.float32) if kind != "uniform" and dtype.itemsize < 4 else dtype
    numbers = tuple(s.astype(draw) if isinstance(s, jax.Array) else np.asarray(s, draw) for s in scalars)
    if kind == "truncated_normal":
        # A program of its own: inside a trace XLA would fold erf of a known number, with another last bit.
        known = not any(isinstance(n, Tracer) for n in numbers[:2])
        with jax.ensure_compile_time_eval() if known else nullcontext():
            numbers = (*_erf_of_cuts(*numbers[:2]), *numbers)
    if trace_state() is not None:
        return _whole(kind, key, numbers, shape, draw, dtype)
    if device is None and key.committed:
        device = key.sharding
    if not _chunkable(key, draw):
        return jax.device_put(_whole(kind, key, numbers, shape, draw, dtype), device)
    flat = _in_chunks(kind, key, math.prod(shape), numbers, draw, dtype)
    return jax.device_put(flat.reshape(shape), device)


def _chunkable(key: jax.Array, dtype: np.dtype) -> bool:
    partitionable = jax.config.jax_threefry_partitionable  # pyright: ignore[reportAttributeAccessIssue]
    if not partitionable or dtype.name not in _DTYPES or not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        return False
    return key.shape == () and str(jax.random.key_impl(key)) == "threefry2x32"


def _plan(total: int) -> Iterator[tuple[int, int]]:
    """(offset, chunk size) pairs that cover `total` elements; the last chunk may reach past the end."""
    small, large = _CHUNKS
    offset = 0
    while offset < total:
        # Up to four small chunks for a tail: a large one that is mostly thrown away costs as much.
        size = large if total - offset > 4 * small else small
        yield offset, size
        offset += size


def _in_chunks(
    kind: _Kind,
    key: jax.Array,
    total: int,
    numbers: tuple[jax.Array | np.ndarray, ...],
    draw: np.dtype,
    dtype: np.dtype,
) -> np.ndarray:
    """The flat result, on the host."""
    out = aligned_empty(total, dtype)
    running: deque[tuple[int, jax.Array]] = deque()

    def store() -> None:
        offset, chunk = running.popleft()
        part = out[offset : offset + chunk.shape[0]]
        part[:] = np.asarray(chunk)[: part.shape[0]]

    for offset, size in _plan(total):
        words = np.array([offset >> 32, offset & 0xFFFFFFFF], np.uint32)
        running.append((offset, _chunk(kind, key, words, numbers, size, draw, dtype)))
        if len(running) == _IN_FLIGHT:
            store()
    while running:
        store()
    return out


def aligned_empty(total: int, dtype: np.dtype) -> np.ndarray:
    """A flat host buffer that `jax.device_put` takes over without a copy on CPU. Nobody may write it after that."""
    size = total * dtype.itemsize
    raw = np.empty(size + _ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % _ALIGNMENT
    return raw[start : start + size].view(dtype)


@partial(jax.jit, static_argnums=(0, 4, 5, 6))
def _chunk(
    kind: _Kind,
    key: jax.Array,
    offset: jax.Array,
    numbers: tuple[jax.Array, ...],
    size: int,
    draw: np.dtype,
    dtype: np.dtype,
) -> jax.Array:
    """Elements `offset ... offset + size` of the flat result; `offset` as its high and low 32-bit words."""
    words = jax.random.key_data(key)
    bits = _threefry(words[0], words[1], offset[0], offset[1] + lax.iota(np.uint32, size))
    if kind == "uniform":
        return _to_uniform(*bits, draw, *numbers)
    if kind == "normal":
        mean, std = numbers
        # The open end keeps erf_inv finite.
        above = np.nextafter(np.array(-1, draw), np.array(0, draw), dtype=draw)
        sample = lax.erf_inv(_to_uniform(*bits, draw, above, np.array(1, draw))) * np.array(np.sqrt(2), draw)
        return (sample * std + mean).astype(dtype)
    low, high, *rest = numbers
    return _truncate(_to_uniform(*bits, draw, low, high), *rest, dtype=dtype)


@jax.jit
def _erf_of_cuts(lower: jax.Array, upper: jax.Array) -> tuple[jax.Array, jax.Array]:
    sqrt2 = np.array(np.sqrt(2), lower.dtype)
    return lax.erf(lower / sqrt2), lax.erf(upper / sqrt2)


def _truncate(
    u: jax.Array,
    lower: jax.Array,
    upper: jax.Array,
    mean: jax.Array,
    std: jax.Array,
    low: jax.Array,
    high: jax.Array,
    *,
    dtype: np.dtype,
) -> jax.Array:
    """The inverse distribution function of the truncated normal, then clip, scaling, rounding and clip."""
    sample = lax.erf_inv(u) * np.array(np.sqrt(2), u.dtype)
    inf = np.array(np.inf, u.dtype)
    sample = jnp.clip(sample, lax.nextafter(lower, inf), lax.nextafter(upper, -inf))
    return jnp.clip((sample * std + mean).astype(dtype), low.astype(dtype), high.astype(dtype))


def _threefry(k0: jax.Array, k1: jax.Array, x0: jax.Array, x1: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The Threefry-2x32 hash with 20 rounds (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3").

    Spelled out rather than through `jax.extend.random.threefry2x32_p`, which on CPU lowers to a loop that goes through
    memory five times, and takes longer to compile.
    """
    schedule = (k0, k1, k0 ^ k1 ^ np.uint32(0x1BD11BDA))
    x0, x1 = x0 + k0, x1 + k1
    for i in range(5):
        for distance in _ROTATIONS[i % 2]:
            x0 = x0 + x1
            x1 = (x1 << np.uint32(distance)) | (x1 >> np.uint32(32 - distance))
            x1 = x0 ^ x1
        x0 = x0 + schedule[(i + 1) % 3]
        x1 = x1 + (schedule[(i + 2) % 3] + np.uint32(i + 1))
    return x0, x1


def _to_uniform(
    high_bits: jax.Array, low_bits: jax.Array, dtype: np.dtype, low: ArrayLike, high: ArrayLike
) -> jax.Array:
    """Random mantissa bits under the exponent of 1, moved to [low, high) in the order of operations of `jax.random`."""
    info = jnp.finfo(dtype)
    word = np.dtype(f"uint{info.bits}")
    drawn = 8 if info.nmant < 8 else info.bits  # as jax.random: bfloat16 from a byte
    if info.bits == 64:
        bits = (high_bits.astype(word) << np.array(32, word)) | low_bits.astype(word)
    else:
        bits = (high_bits ^ low_bits).astype(f"uint{drawn}").astype(word)
    one = np.array(1, dtype)
    mantissa = (bits >> np.array(drawn - info.nmant, word)) | one.view(word)
    unit = lax.bitcast_convert_type(mantissa, dtype) - one
    return jnp.maximum(low, unit * (jnp.asarray(high) - jnp.asarray(low)) + low)


@partial(jax.jit, static_argnums=(0, 3, 4, 5))
def _whole(
    kind: _Kind,
    key: jax.Array,
    numbers: tuple[jax.Array, ...],
    shape: tuple[int, ...],
    draw: np.dtype,
    dtype: np.dtype,
) -> jax.Array:
    """All of the result at once, through `jax.random`."""
    if kind == "uniform":
        return jax.random.uniform(key, shape, draw, *numbers)
    if kind == "normal":
        mean, std = numbers
        return (jax.random.normal(key, shape, draw) * std + mean).astype(dtype)
    low, high, *rest = numbers
    return _truncate(jax.random.uniform(key, shape, draw, low, high), *rest, dtype=dtype)

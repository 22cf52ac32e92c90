"""The arithmetic of weight and spectral normalisation."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ...core import fill
from ...random import next_key
from ..functional._common import compiled, normalize_dim, opmath_dtype
from ..module import Module
from ..modules.conv import ConvTranspose1d, ConvTranspose2d, ConvTranspose3d


def _squares(x: jax.Array) -> jax.Array:
    return (x * x.conj()).real if jnp.iscomplexobj(x) else x * x


def _norm_dims(ndim: int, dim: int) -> tuple[int, ...] | None:
    """The dimensions that a norm is taken over; None for all of them, which torch writes as dim=-1."""
    return None if dim == -1 else tuple(d for d in range(ndim) if d != normalize_dim(dim, ndim))


def norm_except_dim(v: jax.Array, dim: int) -> jax.Array:
    """The Euclidean norm over all dimensions but `dim`, which are kept with size 1; over all, a scalar, if it is -1.

    Raises:
        IndexError: there is no such dimension.
    """
    return _norm(v, _norm_dims(v.ndim, dim))


@compiled("dims")
def _norm(v: jax.Array, dims: tuple[int, ...] | None) -> jax.Array:
    squares = _squares(v.astype(opmath_dtype(v.dtype)))
    norm = jnp.sqrt(jnp.sum(squares, dims, keepdims=dims is not None))
    return norm.astype(v.dtype) if norm.dtype != v.dtype and not jnp.iscomplexobj(v) else norm


def weight_norm(v: jax.Array, g: jax.Array, dim: int) -> jax.Array:
    """`v * (g / norm(v))`, the norm as `norm_except_dim` takes it."""
    return _weight_norm(v, g, _norm_dims(v.ndim, dim))


@compiled("dims")
def _weight_norm(v: jax.Array, g: jax.Array, dims: tuple[int, ...] | None) -> jax.Array:
    wide = opmath_dtype(v.dtype)
    x = v.astype(wide)
    norm = jnp.sqrt(jnp.sum(_squares(x), dims, keepdims=dims is not None))
    scale = g.astype(wide) / norm.astype(wide)
    return (x * scale).astype(v.dtype)


@compiled("eps")
def unit(x: jax.Array, eps: float) -> jax.Array:
    """`x / max(norm(x), eps)` of a vector. The gradient of the norm at zero is zero, as torch's."""
    total = jnp.sum(_squares(x))
    positive = total > 0
    norm = jnp.where(positive, jnp.sqrt(jnp.where(positive, total, 1)), 0)
    return x / jnp.maximum(norm, eps).astype(x.dtype)


def as_matrix(weight: jax.Array, dim: int) -> jax.Array:
    """`dim` first, everything else flattened."""
    return jnp.moveaxis(weight, dim, 0).reshape(weight.shape[dim], -1)


def random_unit(size: int, dtype: Any, eps: float) -> jax.Array:
    """A random direction."""
    if jnp.issubdtype(dtype, jnp.complexfloating):
        return unit(jax.random.normal(next_key(), (size,), dtype), eps)
    return unit(fill.normal(next_key(), (size,), dtype), eps)


def power_iterations(
    matrix: jax.Array, u: jax.Array, v: jax.Array, eps: float, n: int, u_first: bool
) -> tuple[jax.Array, jax.Array]:
    """Move `u` and `v` towards the first singular vectors of `matrix`: n times `u = unit(W v)`, `v = unit(W^H u)`."""
    matrix = lax.stop_gradient(matrix)

    def step(_: Any, uv: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        u, v = uv
        if u_first:
            u = unit(matrix @ v, eps)
        v = unit(matrix.conj().T @ u, eps)
        return (u, v) if u_first else (unit(matrix @ v, eps), v)

    uv = (lax.stop_gradient(u), lax.stop_gradient(v))
    if n > 2:  # a loop of the program, or its size would grow with n
        return lax.fori_loop(0, n, step, uv)
    for i in range(n):
        uv = step(i, uv)
    return uv


@compiled("dim", "eps", "n", "u_first")
def spectral_directions(
    weight: jax.Array, u: jax.Array, v: jax.Array, dim: int, eps: float, n: int, u_first: bool = True
) -> tuple[jax.Array, jax.Array]:
    """`power_iterations` of a weight as a matrix."""
    return power_iterations(as_matrix(weight, dim), u, v, eps, n, u_first)


@compiled("dim")
def spectral_scaled(weight: jax.Array, u: jax.Array, v: jax.Array, dim: int) -> jax.Array:
    """`weight / (u^H W v)`, with W the weight as a matrix. As in torch, u and v count as constants."""
    return weight / jnp.vdot(u, as_matrix(weight, dim) @ v)


def output_dim(module: Module, dim: int | None) -> int:
    """The dimension of a weight that stands for the outputs."""
    if dim is not None:
        return dim
    return 1 if isinstance(module, (ConvTranspose1d, ConvTranspose2d, ConvTranspose3d)) else 0

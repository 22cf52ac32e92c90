"""Maps onto orthogonal (unitary) matrices, and the parametrization made of them."""

from __future__ import annotations

from enum import Enum, auto
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ...core import fill
from ...core.box import unbox
from ...random import next_key
from ..functional._common import compiled
from ..module import Module


class OrthogonalMap(Enum):
    """How a matrix becomes an orthogonal one."""

    matrix_exp = auto()
    cayley = auto()
    householder = auto()


def _adjoint(x: jax.Array) -> jax.Array:
    return jnp.swapaxes(x, -1, -2).conj()


def _eye(x: jax.Array, n: int, k: int) -> jax.Array:
    return jnp.broadcast_to(jnp.eye(n, k, dtype=x.dtype), (*x.shape[:-2], n, k))


@compiled("cayley")
def _exponential(x: jax.Array, cayley: bool) -> jax.Array:
    """The exponential or the Cayley map of the skew-symmetric matrix that the lower triangle of x makes."""
    n, k = x.shape[-2:]
    lower = jnp.tril(x)
    if n != k:
        lower = jnp.concatenate([lower, jnp.zeros((*x.shape[:-1], n - k), x.dtype)], axis=-1)
    skew = lower - _adjoint(lower)
    if cayley:
        identity = _eye(skew, n, n)
        q = jnp.linalg.solve(identity - 0.5 * skew, identity + 0.5 * skew)
    else:
        q = jax.scipy.linalg.expm(skew)
    return q[..., :k]


@compiled()
def _householder(x: jax.Array) -> jax.Array:
    """The product of the reflectors under the diagonal of x, its columns with the signs on the diagonal.

    H_1 ⋯ H_k = I - V T V^T with T^-1 = diag(1/τ) + triu(V^T V, 1): products and one triangular solve, which are
    differentiable; LAPACK's product of reflectors is not in JAX.
    """
    n, k = x.shape[-2:]
    below = jnp.tril(x, -1)
    inverse_tau = 0.5 * (1 + jnp.sum(below * below, axis=-2))
    v = below + _eye(x, n, k)
    gram = jnp.triu(jnp.swapaxes(v, -1, -2) @ v, 1)
    t_inverse = gram + inverse_tau[..., None, :] * _eye(x, k, k)
    top = jnp.swapaxes(v[..., :k, :], -1, -2)
    q = _eye(x, n, k) - v @ lax.linalg.triangular_solve(t_inverse, top, left_side=True)
    signs = jnp.diagonal(x, axis1=-2, axis2=-1).astype(jnp.int32).astype(x.dtype)
    return q * signs[..., None, :]


@compiled()
def _orthogonalized(a: jax.Array) -> jax.Array:
    """The Q of a = Q R with a positive diagonal of R."""
    q, r = jnp.linalg.qr(a)
    signs = jnp.sign(jnp.diagonal(r, axis1=-2, axis2=-1))
    return q * signs[..., None, :]


@compiled()
def _closest(q: jax.Array) -> jax.Array:
    """A square matrix itself if it is orthogonal up to rounding, else orthogonalized."""
    n = q.shape[-1]
    tolerance = 10.0 * n * float(jnp.finfo(q.dtype).eps)
    is_orthogonal = jnp.allclose(_adjoint(q) @ q, _eye(q, n, n), atol=tolerance)
    return jnp.where(is_orthogonal, q, _orthogonalized(q))


@compiled()
def _reflectors(q: jax.Array) -> jax.Array:
    """What `_householder` makes the orthogonalized q of."""
    raw, tau = jnp.linalg.qr(q, mode="raw")
    x = jnp.swapaxes(raw, -1, -2)
    signs = jnp.sign(jnp.diagonal(x, axis1=-2, axis2=-1))
    signs = jnp.where(tau == 0, -signs, signs)  # LAPACK's zero: this column is not reflected
    return jnp.tril(x, -1) + jnp.triu(x, 1) + signs[..., None, :] * _eye(x, *x.shape[-2:])


class _Orthogonal(Module):
    """The parametrization of `orthogonal`."""

    base: Any  # a Buffer, once there is a value

    def __init__(self, weight: Any, orthogonal_map: OrthogonalMap, *, use_trivialization: bool = True) -> None:
        super().__init__()
        if jnp.iscomplexobj(unbox(weight)) and orthogonal_map is OrthogonalMap.householder:
            raise ValueError("The householder parametrization does not support complex tensors.")
        self.shape = tuple(weight.shape)
        self.orthogonal_map = orthogonal_map
        self.use_trivialization = use_trivialization
        if use_trivialization:
            self.register_buffer("base", None)

    def forward(self, x: jax.Array) -> jax.Array:
        wide = x.shape[-2] < x.shape[-1]
        if wide:
            x = jnp.swapaxes(x, -1, -2)
        if self.orthogonal_map is OrthogonalMap.householder:
            q = _householder(x)
        else:
            q = _exponential(x, self.orthogonal_map is OrthogonalMap.cayley)
        if self.use_trivialization:
            q = unbox(self.base) @ q
        return jnp.swapaxes(q, -1, -2) if wide else q

    def right_inverse(self, q: jax.Array) -> jax.Array:
        """The matrix that gives q; with a base, the base takes q and the matrix is -1 on the diagonal."""
        if q.shape != self.shape:
            raise ValueError(
                f"Expected a matrix or batch of matrices of shape {self.shape}. Got a tensor of shape {q.shape}."
            )
        wide = q.shape[-2] < q.shape[-1]
        tall = jnp.swapaxes(q, -1, -2) if wide else q
        n, k = tall.shape[-2:]
        if self.use_trivialization:
            if n == k:
                self.base = _closest(tall)
            else:
                more = _normal((*tall.shape[:-1], n - k), tall.dtype)
                self.base = _orthogonalized(jnp.concatenate([tall, more], axis=-1))
            return -_eye(q, *q.shape[-2:])
        if self.orthogonal_map is not OrthogonalMap.householder:
            raise NotImplementedError(
                "It is not possible to assign to the matrix exponential or the Cayley parametrizations "
                "when use_trivialization=False."
            )
        x = _reflectors(tall)
        return jnp.swapaxes(x, -1, -2) if wide else x


def _normal(shape: tuple[int, ...], dtype: Any) -> jax.Array:
    if jnp.issubdtype(dtype, jnp.complexfloating):
        return jax.random.normal(next_key(), shape, dtype)
    return fill.normal(next_key(), shape, dtype)

"""Identities whose gradient is another: what torch does in place under `no_grad` between two differentiable steps."""

from __future__ import annotations

import jax


@jax.custom_jvp
def scaled_gradient(x: jax.Array, scale: jax.Array) -> jax.Array:
    """`x`, with its gradient times `scale`."""
    del scale
    return x


@scaled_gradient.defjvp
def _scaled_gradient_jvp(
    primals: tuple[jax.Array, jax.Array], tangents: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    x, scale = primals
    return x, tangents[0] * scale


@jax.custom_jvp
def replaced(x: jax.Array, new: jax.Array) -> jax.Array:
    """The value of `new` with the gradient of `x`."""
    del x
    return new


@replaced.defjvp
def _replaced_jvp(
    primals: tuple[jax.Array, jax.Array], tangents: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    return primals[1], tangents[0]

"""Cross entropy of a linear map's output, whose logits exist for one chunk of the batch at a time.

The loss of a chunk needs its logits, and so do the gradients; what is left of them is as large as the input and the
weights. A scalar loss therefore computes its gradients with itself, three products a chunk, and the backward pass
scales them. The unreduced loss doesn't know the weights of its elements yet: its backward pass repeats the logits.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import CustomVJPPrimal, SymbolicZero

from ._linear_cross_entropy_options import Plan


class _Wanted(NamedTuple):
    """Which gradients are asked for."""

    input: bool
    weight: bool
    bias: bool


class _Found(NamedTuple):
    """Losses (N), and the gradients of the sum of all, each times its scale: None where not asked for."""

    losses: jax.Array
    input: jax.Array | None
    weight: jax.Array | None
    bias: jax.Array | None


def _logits(x: jax.Array, weight: jax.Array, bias: jax.Array | None, plan: Plan) -> jax.Array:
    logits = lax.dot_general(x, weight, (((1,), (1,)), ((), ())), preferred_element_type=plan.acc_dtype)
    return logits if bias is None else logits + bias.astype(plan.acc_dtype)[None, :]


def _chunk(
    x: jax.Array,
    target: jax.Array,
    scale: jax.Array,
    weight: jax.Array,
    bias: jax.Array | None,
    wanted: _Wanted,
    plan: Plan,
) -> _Found:
    """One chunk, with gradients in the accumulation dtype."""
    logits = _logits(x, weight, bias, plan)
    shifted = logits - jnp.max(logits, 1, keepdims=True)
    unnormalized = jnp.exp(shifted)
    total = jnp.sum(unnormalized, 1)
    mine = lax.broadcasted_iota(target.dtype, logits.shape, 1) == target[:, None]
    losses = jnp.log(total) - jnp.sum(jnp.where(mine, shifted, 0.0), 1)
    if not any(wanted):
        return _Found(losses, None, None, None)
    gradient = (unnormalized / total[:, None] - mine.astype(plan.acc_dtype)) * scale[:, None]
    by_bias = jnp.sum(gradient, 0) if wanted.bias else None
    if plan.acc_policy != "accurate":
        gradient = gradient.astype(x.dtype)
    elif x.dtype != plan.acc_dtype:
        x, weight = x.astype(plan.acc_dtype), weight.astype(plan.acc_dtype)

    def product(a: jax.Array, b: jax.Array, contracted: int) -> jax.Array:
        dimensions = (((contracted,), (0,)), ((), ()))
        return lax.dot_general(a, b, dimensions, preferred_element_type=plan.acc_dtype)

    by_input = product(gradient, weight, 1) if wanted.input else None
    by_weight = product(gradient, x, 0) if wanted.weight else None
    return _Found(losses, by_input, by_weight, by_bias)


def _all_chunks(
    x: jax.Array,
    weight: jax.Array,
    bias: jax.Array | None,
    target: jax.Array,
    scale: jax.Array,
    wanted: _Wanted,
    plan: Plan,
) -> _Found:
    """Every chunk, one after the other."""
    rows, size = x.shape[0], plan.batch_chunk_size
    # The sums are not yet divided by the number of elements: float16 hasn't the range to keep them.
    narrow = plan.acc_policy == "compact" and weight.dtype != jnp.float16
    sums = weight.dtype if narrow else plan.acc_dtype
    count = -(-rows // size)
    padding = count * size - rows

    def chunked(array: jax.Array) -> jax.Array:
        # An element that fills up the last chunk has scale 0, and so no part in any sum.
        array = jnp.pad(array, ((0, padding), *((0, 0),) * (array.ndim - 1))) if padding else array
        return array.reshape(count, size, *array.shape[1:])

    def add(total: jax.Array | None, part: jax.Array | None) -> jax.Array | None:
        if total is None or part is None:
            return None
        return (total.astype(plan.acc_dtype) + part).astype(total.dtype)

    def step(
        totals: tuple[jax.Array | None, jax.Array | None], part: tuple[jax.Array, jax.Array, jax.Array]
    ) -> tuple[tuple[jax.Array | None, jax.Array | None], tuple[jax.Array, jax.Array | None]]:
        rows_of, target_of, scale_of = part
        found = _chunk(rows_of, target_of, scale_of, weight, bias, wanted, plan)
        by_input = None if found.input is None else found.input.astype(x.dtype)
        return (add(totals[0], found.weight), add(totals[1], found.bias)), (found.losses, by_input)

    by_weight = jnp.zeros(weight.shape, sums) if wanted.weight else None
    by_bias = jnp.zeros(weight.shape[:1], plan.acc_dtype) if wanted.bias else None
    parts = chunked(x), chunked(target), chunked(scale)
    (by_weight, by_bias), (losses, by_input) = lax.scan(step, (by_weight, by_bias), parts)
    if by_input is not None:
        by_input = by_input.reshape(-1, x.shape[1])[:rows]
    return _Found(losses.reshape(-1)[:rows], by_input, by_weight, by_bias)


def chunked_losses(
    x: jax.Array,
    weight: jax.Array,
    bias: jax.Array | None,
    target: jax.Array,
    scale: jax.Array,
    reduce: bool,
    plan: Plan,
) -> jax.Array:
    """`scale * -log(softmax(x weight^T + bias)[target])`, or their sum: x (N, F), weight (C, F), target and scale (N).

    Computed and returned in the accumulation dtype, which `scale` has; an element with a scale of 0 has no loss.
    """
    dtypes = x.dtype, weight.dtype, None if bias is None else bias.dtype

    def scaled(losses: jax.Array, scale: jax.Array) -> jax.Array:
        losses = jnp.where(scale == 0, 0.0, losses * scale)
        return jnp.sum(losses) if reduce else losses

    def found(args: tuple[Any, ...], wanted: _Wanted) -> _Found:
        x, weight, bias, target, scale = args
        return _all_chunks(x, weight, bias, target, scale, wanted, plan)

    @jax.custom_vjp
    def call(*args: Any) -> jax.Array:
        return scaled(found(args, _Wanted(False, False, False)).losses, args[-1])

    def forward(*primals: Any) -> tuple[jax.Array, Any]:
        args = jax.tree.map(lambda primal: primal.value, primals, is_leaf=_is_primal)
        input, weight, bias = (primal is not None and primal.perturbed for primal in primals[:3])
        wanted = _Wanted(input, weight, bias) if reduce else _Wanted(False, False, False)
        losses, *gradients = found(args, wanted)
        # An empty tuple or None says in the structure of the residuals what is wanted: a bool would be an array.
        kept = gradients if reduce else (args, tuple(() if each else None for each in (input, weight, bias)))
        return scaled(losses, args[-1]), (kept, losses)

    def backward(residuals: Any, cotangent: Any) -> tuple[Any, ...]:
        kept, losses = residuals
        if isinstance(cotangent, SymbolicZero):
            return (None,) * 5
        gradients = kept
        if not reduce:
            args, marks = kept
            input, weight, bias = (mark is not None for mark in marks)
            _, *gradients = found((*args[:4], args[4] * cotangent), _Wanted(input, weight, bias))

        def finished(gradient: jax.Array | None, dtype: Any) -> jax.Array | None:
            if gradient is None:
                return None
            return (gradient.astype(plan.acc_dtype) * cotangent if reduce else gradient).astype(dtype)

        return *map(finished, gradients, dtypes), None, losses * cotangent

    call.defvjp(forward, backward, symbolic_zeros=True)
    return jnp.asarray(call(x, weight, bias, target, scale))


def _is_primal(node: Any) -> bool:
    return isinstance(node, CustomVJPPrimal)

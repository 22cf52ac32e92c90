"""Clipping gradients: those in parameters' `.grad`, and those in the dicts that `jm.grad` returns."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ...core.box import Box, unbox
from ...core.context import Tracer
from ...core.parameter import Parameter
from ..functional._common import ArrayLike, compiled, opmath_dtype
from ._dtypes import common_dtype

__all__ = ["clip_grad_norm", "clip_grad_norm_", "clip_grad_value_", "clip_grads_with_norm_", "get_total_norm"]

Gradients = dict[Any, Any]
Parameters = Box | Iterable[Box] | Gradients


def get_total_norm(
    tensors: ArrayLike | Iterable[ArrayLike] | Gradients,
    norm_type: float | str = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> jax.Array:
    """The norm of several arrays as if they were one vector: `(sum |x|^p)^(1/p)`.

    Args:
        tensors: arrays, one array, or a dict of arrays as `jm.grad` returns it.
        norm_type: p; "inf" for the largest absolute value.
        error_if_nonfinite: raise if it is NaN or infinite. In a compiled function it is the running program that
            raises: a `jax.errors.JaxRuntimeError`, which is a RuntimeError, with this text in it. On CPU nothing has
            been written to the objects then; where programs run asynchronously it comes when results are waited for.
        foreach: None and True compute all norms in one program, False in one program each, which compiles less where
            the arrays are many and their shapes few. The same in a compiled function.

    Returns:
        A scalar of the arrays' common dtype; float32 zero without arrays.

    Raises:
        RuntimeError: `error_if_nonfinite`, an array of integers, or the infinity norm of an empty array.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> float(nn.utils.get_total_norm([jnp.array([3.0]), jnp.array([4.0])]))
        5.0
    """
    arrays = _arrays(tensors)
    power = float(norm_type)
    if not arrays:
        return jnp.zeros((), jnp.float32)
    for array in arrays:
        if not jnp.issubdtype(array.dtype, jnp.inexact):
            raise RuntimeError(
                f"get_total_norm: expected a floating point or complex tensor as input. Got {array.dtype}"
            )
        if not array.size and power == math.inf:
            raise RuntimeError(
                "get_total_norm cannot compute the infinity norm on an empty tensor because the operation does not "
                "have an identity"
            )
    total = _total([*_each(partial(_norms, power=power), arrays, foreach)], power)
    if error_if_nonfinite:
        if isinstance(total, Tracer):
            jax.debug.callback(partial(_require_finite, power=power), total)
        else:
            _require_finite(total, power)
    return total


def clip_grads_with_norm_(
    parameters: Parameters, max_norm: float, total_norm: ArrayLike, foreach: bool | None = None
) -> None:
    """Scale gradients by `min(max_norm / (total_norm + 1e-6), 1)`.

    Args:
        parameters: parameters, one parameter, or a dict of gradients as `jm.grad` returns it. Arrays cannot change:
            the parameters' `.grad`, or the entries of the dict, are replaced.
        max_norm: the norm that they may have.
        total_norm: the norm that they have.
        foreach: as in `get_total_norm`.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> grads = {"weight": jnp.array([6.0, 8.0])}
        >>> nn.utils.clip_grads_with_norm_(grads, 5.0, jnp.array(10.0))
        >>> [round(x, 3) for x in grads["weight"].tolist()]
        [3.0, 4.0]
    """
    arrays, put = _gradients(parameters)
    if arrays:
        total = unbox(total_norm)
        limit = max_norm if isinstance(max_norm, (float, int)) else unbox(max_norm).astype(total.dtype)
        put(_each(partial(_scaled, limit=limit, total=total), arrays, foreach))


def clip_grad_norm_(
    parameters: Parameters,
    max_norm: float,
    norm_type: float | str = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> jax.Array:
    """Scale gradients so that their total norm is at most `max_norm`.

    Args:
        parameters: parameters, one parameter, or a dict of gradients as `jm.grad` returns it. Arrays cannot change:
            the parameters' `.grad`, or the entries of the dict, are replaced.
        max_norm: the norm that they may have.
        norm_type: as in `get_total_norm`.
        error_if_nonfinite: as in `get_total_norm`; the gradients stay as they are then.
        foreach: as in `get_total_norm`.

    Returns:
        The total norm before.

    Raises:
        RuntimeError: `error_if_nonfinite`, and the norm is not finite.

    Note:
        torch has no form for dicts.

    Example:
        >>> import jax.numpy as jnp, jaxmodule as jm
        >>> from jaxmodule import nn
        >>> model = nn.Linear(3, 1)
        >>> grads = jm.grad(lambda model: model(jnp.ones((2, 3))).sum())(model)
        >>> float(nn.utils.clip_grad_norm_(grads, 1.0))
        4.0
        >>> grads["bias"].round(3)
        Array([0.5], dtype=float32)
    """
    if not isinstance(parameters, (dict, Box)):
        is_iterator = isinstance(parameters, Iterator)
        parameters = list(parameters)
        if is_iterator and not parameters:
            warnings.warn(
                "`parameters` is an empty generator, no gradient clipping will occur.", UserWarning, stacklevel=2
            )
    arrays, _ = _gradients(parameters)
    total = get_total_norm(arrays, norm_type, error_if_nonfinite, foreach)
    clip_grads_with_norm_(parameters, max_norm, total, foreach)
    return total


def clip_grad_norm(
    parameters: Parameters,
    max_norm: float,
    norm_type: float | str = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> jax.Array:
    """Deprecated in torch: `clip_grad_norm_` after a FutureWarning."""
    warnings.warn(
        "`torch.nn.utils.clip_grad_norm` is now deprecated in favor of `torch.nn.utils.clip_grad_norm_`.",
        FutureWarning,
        stacklevel=2,
    )
    return clip_grad_norm_(parameters, max_norm, norm_type, error_if_nonfinite, foreach)


def clip_grad_value_(parameters: Parameters, clip_value: float, foreach: bool | None = None) -> None:
    """Clip the elements of gradients to `[-clip_value, clip_value]`.

    Args:
        parameters: parameters, one parameter, or a dict of gradients as `jm.grad` returns it. Arrays cannot change:
            the parameters' `.grad`, or the entries of the dict, are replaced.
        clip_value: the largest absolute value.
        foreach: as in `get_total_norm`.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> grads = {"weight": jnp.array([-3.0, 0.5])}
        >>> nn.utils.clip_grad_value_(grads, 1.0)
        >>> grads["weight"]
        Array([-1. ,  0.5], dtype=float32)
    """
    arrays, put = _gradients(parameters)
    put(_each(partial(_clipped, limit=float(clip_value)), arrays, foreach))


# torch's fully sharded training calls them so
_get_total_norm = get_total_norm
_clip_grads_with_norm_ = clip_grads_with_norm_


# -- what is clipped --------------------------------------------------------------------------------------------------


def _arrays(tensors: Any) -> list[Any]:
    if isinstance(tensors, (jax.Array, Box, np.ndarray)):
        return [unbox(tensors)]
    return [unbox(x) for x in (tensors.values() if isinstance(tensors, dict) else tensors) if x is not None]


def _gradients(parameters: Any) -> tuple[list[Any], Callable[[list[Any]], None]]:
    """The gradients that there are, and what puts others in their places."""
    if isinstance(parameters, dict):
        names = [name for name, gradient in parameters.items() if gradient is not None]

        def put_entries(new: list[Any]) -> None:
            parameters.update(zip(names, new, strict=True))

        return [unbox(parameters[name]) for name in names], put_entries
    boxes = [parameters] if isinstance(parameters, Box) else list(parameters)
    for box in boxes:
        if not isinstance(box, Box):
            raise TypeError(
                "expected parameters, whose .grad is clipped, or the dict that jm.grad returns; "
                f"got {type(box).__name__}"
            )
    having = [box for box in boxes if isinstance(box, Parameter) and box.grad is not None]

    def put(new: list[Any]) -> None:
        for box, gradient in zip(having, new, strict=True):
            box.grad = gradient

    return [box.grad for box in having], put


def _each(program: Callable[..., list[Any]], arrays: list[Any], foreach: bool | None) -> list[Any]:
    """`program(arrays)` for the arrays of each device, or with `foreach=False` for each array."""
    groups: dict[Any, list[int]] = {}
    for i, array in enumerate(arrays):
        place = None if isinstance(array, Tracer) else frozenset(array.devices())
        groups.setdefault((place, i if foreach is False else None), []).append(i)
    found: list[Any] = [None] * len(arrays)
    for (place, _), members in groups.items():
        chosen = [arrays[i] for i in members]
        several = len({key[0] for key in groups}) > 1
        results = program(chosen, like=chosen[0] if several and place is not None else None)
        for i, result in zip(members, results, strict=True):
            found[i] = result
    return found


def _beside(x: Any, like: Any) -> Any:
    """A scalar where the array `like` is."""
    return x if like is None or not isinstance(x, jax.Array) else jax.device_put(x, _home(like))


def _home(array: jax.Array) -> Any:
    """Where a scalar that goes with an array belongs: on all its devices."""
    sharding = array.sharding
    if isinstance(sharding, jax.sharding.NamedSharding):
        return jax.sharding.NamedSharding(sharding.mesh, jax.sharding.PartitionSpec())
    return sharding


# -- arithmetic -------------------------------------------------------------------------------------------------------


def _norms(arrays: list[Any], power: float, like: Any) -> list[Any]:
    return _norms_program(arrays, power=power)


@compiled("power")
def _norms_program(arrays: list[jax.Array], power: float) -> list[jax.Array]:
    return [_vector_norm(array, power) for array in arrays]


def _vector_norm(x: jax.Array, power: float) -> jax.Array:
    real = jnp.finfo(x.dtype).dtype
    wide = jnp.abs(x.astype(opmath_dtype(x.dtype))).reshape(-1)
    return jnp.linalg.norm(wide, power).astype(real)


def _total(norms: list[Any], power: float) -> jax.Array:
    first = norms[0]
    if not isinstance(first, Tracer) and any(
        not isinstance(norm, Tracer) and norm.devices() != first.devices() for norm in norms
    ):
        norms = [_beside(norm, first) for norm in norms]
    return _total_program(norms, power=power)


@compiled("power")
def _total_program(norms: list[jax.Array], power: float) -> jax.Array:
    dtype = common_dtype(norms)
    return _vector_norm(jnp.stack([norm.astype(dtype) for norm in norms]), power)


def _scaled(arrays: list[Any], limit: Any, total: Any, like: Any) -> list[Any]:
    return _scaled_program(arrays, _beside(limit, like), _beside(total, like))


@compiled()
def _scaled_program(arrays: list[jax.Array], limit: Any, total: jax.Array) -> list[jax.Array]:
    coefficient = jnp.minimum(limit / (total + 1e-6), 1.0)
    return [
        (x.astype(opmath_dtype(x.dtype)) * coefficient.astype(opmath_dtype(x.dtype))).astype(x.dtype) for x in arrays
    ]


def _clipped(arrays: list[Any], limit: float, like: Any) -> list[Any]:
    return _clipped_program(arrays, limit)


@compiled()
def _clipped_program(arrays: list[jax.Array], limit: Any) -> list[jax.Array]:
    return [jnp.minimum(jnp.maximum(x, -limit), limit) for x in arrays]


def _require_finite(total: Any, power: float) -> None:
    if not np.isfinite(np.asarray(total).astype(np.float32)):
        raise RuntimeError(
            f"The total norm of order {power} for gradients from `parameters` is non-finite, so it cannot be clipped. "
            "To disable this error and scale the gradients by the non-finite norm anyway, "
            "set `error_if_nonfinite=False`"
        )

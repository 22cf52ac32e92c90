"""Batch normalisation by the statistics of a batch that is spread over a mapped axis."""

from __future__ import annotations

from typing import Any

import jax
from jax.typing import DTypeLike

from ..functional.batchnorm import sync_batch_norm
from ..module import Module
from ..parameter import Buffer
from ._norm_base import _BatchNorm
from .utils import Placement


class SyncBatchNorm(_BatchNorm):
    """Batch normalisation over every member of a mapped axis: `BatchNorm` of the whole batch, each seeing its part.

    Args:
        num_features: the number of channels `C`.
        eps: added to the variance.
        momentum: how far the running statistics move towards a batch's; None for the average of all batches.
        affine: whether there is a weight, and a bias.
        track_running_stats: whether to keep running statistics and use them in `eval()`.
        process_group: the name of the mapped axis, or a tuple of names, whose members share their statistics: of
            `jax.vmap(..., axis_name=)`, or of the mesh of a `jax.shard_map`. None for none. See Note.
        device: where parameters and buffers live, a device or a sharding.
        dtype: the dtype of parameters and running statistics, float32 by default.
        bias: whether there is a bias, if affine.

    Shape:
        - Input and output: `(N, C, *)`, of at least two dimensions.

    Attributes:
        weight: `(C)`, 1 at first, or None; `bias`, `running_mean`, `running_var` and `num_batches_tracked` as in
            `BatchNorm1d`. The running statistics are the same on every member.

    Raises:
        TypeError: `process_group` is neither a name, names nor None.
        ValueError: on call, the input has fewer than two dimensions, no channels, or in all one value a channel when
            training.
        NameError: on call when training, no axis of that name is mapped.

    Note:
        A process group of torch is a mapped axis here. Under `jax.jit` over an array that is sharded over several
        devices nothing needs to be said: the statistics of the array are those of the whole batch, so `BatchNorm` and
        `process_group=None` do it.

    Example:
        >>> import jax, jax.numpy as jnp, jaxmodule as jm
        >>> from jaxmodule import nn
        >>> norm = nn.SyncBatchNorm(1, process_group="batch")
        >>> params, buffers = jm.split(norm)
        >>> def step(part):
        ...     return jm.functional_call(norm, (params, buffers), part, mutable=True)
        >>> parts = jnp.array([[[1.0]], [[3.0]]])  # two members, one sample each
        >>> y, written = jax.vmap(step, out_axes=(0, None), axis_name="batch")(parts)
        >>> y.round(3).tolist(), round(float(written["running_mean"][0]), 3)
        ([[[-1.0]], [[1.0]]], 0.2)
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        process_group: Any | None = None,
        device: Placement | None = None,
        dtype: DTypeLike | None = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype, bias=bias)
        _axis_names(process_group)
        self.process_group = process_group

    def _check_input_dim(self, input: jax.Array) -> None:
        if input.ndim < 2:
            raise ValueError(f"expected at least 2D input (got {input.ndim}D input of size {list(input.shape)})")
        if input.shape[1] == 0:
            raise ValueError(
                f"SyncBatchNorm number of input channels should be non-zero (input of size {list(input.shape)})"
            )

    def _normalize(
        self, x: jax.Array, mean: Buffer | None, var: Buffer | None, by_batch: bool, momentum: float | jax.Array
    ) -> jax.Array:
        shared = _axis_names(self.process_group) if self.training else ()
        return sync_batch_norm(x, mean, var, self.weight, self.bias, by_batch, momentum, self.eps, shared)

    @classmethod
    def convert_sync_batchnorm(cls, module: Module, process_group: Any | None = None) -> Module:
        """Replace every batch normalisation in a module by one that shares its statistics.

        The new layers hold the parameters and buffers of the old ones.

        Args:
            module: changed in place; if it is a batch normalisation itself, it is not.
            process_group: what the new layers are made with.

        Returns:
            The module, or the layer that takes its place.

        Example:
            >>> from jaxmodule import nn
            >>> net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
            >>> nn.SyncBatchNorm.convert_sync_batchnorm(net, "batch")[1].process_group
            'batch'
        """
        return _converted(module, process_group, {})


def _converted(module: Module, process_group: Any, done: dict[int, Module]) -> Module:
    if id(module) in done:  # one layer under two names stays one
        return done[id(module)]
    new = module
    if isinstance(module, _BatchNorm):
        new = SyncBatchNorm(
            module.num_features,
            module.eps,
            module.momentum,
            module.affine,
            module.track_running_stats,
            process_group,
            bias=module.bias is not None,
        )
        new.weight, new.bias = module.weight, module.bias
        new.running_mean, new.running_var = module.running_mean, module.running_var
        new.num_batches_tracked = module.num_batches_tracked
        new.training = module.training
    done[id(module)] = new
    for name, child in list(module._modules.items()):
        if child is not None:
            new.add_module(name, _converted(child, process_group, done))
    return new


def _axis_names(process_group: Any) -> tuple[str, ...]:
    if process_group is None:
        return ()
    names = (process_group,) if isinstance(process_group, str) else process_group
    if not isinstance(names, tuple) or not all(isinstance(name, str) for name in names):
        raise TypeError(
            "process_group is the name of a mapped axis, a tuple of names, or None (a process group of torch has no "
            f"counterpart), but got {process_group!r}"
        )
    return names

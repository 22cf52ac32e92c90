"""`torch.nn.parallel`'s names. Torch copies a model to every device; in JAX one program runs on arrays that are spread.

The classes are here for `isinstance` and for imports; making one, and calling a function, raises with the remedy.
"""

from __future__ import annotations

from typing import Any, NoReturn

from ..modules.module import Module

__all__ = [
    "DataParallel",
    "DistributedDataParallel",
    "data_parallel",
    "gather",
    "parallel_apply",
    "replicate",
    "scatter",
]

_REMEDY = (
    "has no counterpart: a compiled JAX program spans devices by itself. Spread the batch, and keep the model on all:\n"
    "    mesh = jax.make_mesh((jax.device_count(),), ('data',))\n"
    "    model.to(jax.NamedSharding(mesh, jax.P()))\n"
    "    batch = jax.device_put(batch, jax.NamedSharding(mesh, jax.P('data')))\n"
    "and call the step under jm.jit as before."
)


def _refuse(name: str) -> NoReturn:
    raise NotImplementedError(f"nn.parallel.{name} {_REMEDY}")


class DataParallel(Module):
    """Raises: spread the batch over the devices instead, as the message shows."""

    def __init__(self, module: Any, device_ids: Any = None, output_device: Any = None, dim: int = 0) -> None:
        _refuse("DataParallel")


class DistributedDataParallel(Module):
    """Raises: spread the batch over the devices instead, as the message shows."""

    def __init__(self, module: Any, *args: Any, **kwargs: Any) -> None:
        _refuse("DistributedDataParallel")


def data_parallel(*args: Any, **kwargs: Any) -> NoReturn:
    """Raises: spread the batch over the devices instead, as the message shows."""
    _refuse("data_parallel")


def parallel_apply(*args: Any, **kwargs: Any) -> NoReturn:
    """Raises: spread the batch over the devices instead, as the message shows."""
    _refuse("parallel_apply")


def replicate(*args: Any, **kwargs: Any) -> NoReturn:
    """Raises: a sharding with no axis (`jax.P()`) replicates, as the message shows."""
    _refuse("replicate")


def scatter(*args: Any, **kwargs: Any) -> NoReturn:
    """Raises: `jax.device_put` with a sharding scatters, as the message shows."""
    _refuse("scatter")


def gather(*args: Any, **kwargs: Any) -> NoReturn:
    """Raises: a sharded array is one array already, as the message shows."""
    _refuse("gather")

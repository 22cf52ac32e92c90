"""What everything of `torch.nn.parallel` raises here: how JAX does the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

_REMEDY = (
    "has no counterpart: a compiled JAX program spans devices by itself. Spread the batch, and keep the model on all:\n"
    "    mesh = jax.make_mesh((jax.device_count(),), ('data',))\n"
    "    model.to(jax.NamedSharding(mesh, jax.P()))\n"
    "    batch = jax.device_put(batch, jax.NamedSharding(mesh, jax.P('data')))\n"
    "and call the step under jm.jit as before."
)


def refuse(name: str) -> NoReturn:
    """Raise for a class or function that is used.

    Raises:
        NotImplementedError: always.
    """
    raise NotImplementedError(f"nn.parallel.{name} {_REMEDY}")


def nothing_else(module: str) -> Callable[[str], Any]:
    """A `__getattr__` for a module of which no other name is here."""

    def __getattr__(name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        # `from module import name` would replace an AttributeError with an ImportError that says nothing.
        raise ImportError(f"{module}.{name} {_REMEDY}", name=name)

    return __getattr__

"""The compiled call of a module: what `Module.compile` puts in the place of the plain one."""

from typing import Any

import jax
import numpy as np

from ..core.structure import flatten_args, unflatten_args
from ..transforms import jit

_TRACED = (jax.Array, np.ndarray, np.generic, float, complex)


class CompiledCall:
    """`jm.jit` round a module's call. Arguments that no program can take as arrays (bool, int, str, …) are compiled in.

    So flags and sizes work as they do under `torch.compile`, at the price of one program for each of their values.
    """

    __slots__ = ("_all_arrays", "_with_statics")

    def __init__(self, donate: bool = False) -> None:
        self._all_arrays = jit(_call, donate=donate)
        self._with_statics = jit(_call_with_statics, donate=donate, static_argnames="static")

    def __call__(self, module: Any, *args: Any, **kwargs: Any) -> Any:
        """The module's call with these arguments."""
        leaves, treedef, objects = flatten_args((args, kwargs))
        places = [i for i, leaf in enumerate(leaves) if not isinstance(leaf, _TRACED)]
        if not places:
            return self._all_arrays(module, *args, **kwargs)
        # With their types, as 1, 1.0 and True are equal.
        statics = tuple((i, type(leaves[i]), leaves[i]) for i in places)
        try:
            hash(statics)
        except TypeError:
            kinds = sorted({kind.__name__ for _, kind, _ in statics})
            raise TypeError(
                f"the compiled call of {type(module).__name__} takes arrays, objects with state and hashable values; "
                f"it was given {kinds}"
            ) from None
        arrays = [leaf for leaf in leaves if isinstance(leaf, _TRACED)]
        return self._with_statics(module, arrays, objects, static=(treedef, statics))


def _call(module: Any, *args: Any, **kwargs: Any) -> Any:
    return module._call(args, kwargs)


def _call_with_statics(module: Any, arrays: list[Any], objects: list[Any], *, static: Any) -> Any:
    treedef, statics = static
    leaves = list(arrays)
    for i, _, leaf in statics:
        leaves.insert(i, leaf)
    args, kwargs = unflatten_args(treedef, leaves, objects)
    return module._call(args, kwargs)

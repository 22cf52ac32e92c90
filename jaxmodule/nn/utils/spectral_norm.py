"""Spectral normalisation by a hook: torch's older form, with `weight_orig`, `weight_u` and `weight_v`."""

from __future__ import annotations

from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from ...core.box import unbox
from ...core.parameter import Parameter
from ..derived import Derived, pre_hooks
from ..module import Module
from ..parameter import is_lazy
from . import _weights

__all__ = [
    "SpectralNorm",
    "SpectralNormLoadStateDictPreHook",
    "SpectralNormStateDictHook",
    "remove_spectral_norm",
    "spectral_norm",
]

M = TypeVar("M", bound=Module)
_STATE_HOOKS = ("_state_dict_hooks", "_load_state_dict_pre_hooks")


class SpectralNorm(Derived):
    """The hook of `spectral_norm`.

    Args:
        name, n_power_iterations, dim, eps: as there.

    Raises:
        ValueError: there are no iterations.
    """

    _version = 1  # torch's: before it there was no `_v`

    def __init__(self, name: str = "weight", n_power_iterations: int = 1, dim: int = 0, eps: float = 1e-12) -> None:
        if n_power_iterations <= 0:
            raise ValueError(
                f"Expected n_power_iterations to be positive, but got n_power_iterations={n_power_iterations}"
            )
        self.name = name
        self.dim = dim
        self.n_power_iterations = n_power_iterations
        self.eps = eps

    @property
    def _derived_name(self) -> str:
        return self.name

    def _derive(self, module: Any) -> jax.Array:
        return self.compute_weight(module, do_power_iteration=False)

    def reshape_weight_to_matrix(self, weight: jax.Array) -> jax.Array:
        """`dim` against everything else."""
        return _weights.as_matrix(unbox(weight), self.dim)

    def compute_weight(self, module: Module, do_power_iteration: bool) -> jax.Array:
        """The normalised weight, after power iterations if asked for."""
        weight: Any = unbox(module._parameters[self.name + "_orig"])
        u_box: Any = module._buffers[self.name + "_u"]
        v_box: Any = module._buffers[self.name + "_v"]
        u, v = u_box.value, v_box.value
        if do_power_iteration:
            n = self.n_power_iterations
            u, v = _weights.spectral_directions(weight, u, v, self.dim, self.eps, n, u_first=False)
            u_box.value, v_box.value = u, v
        return _weights.spectral_scaled(weight, u, v, self.dim)

    @staticmethod
    def apply(module: Module, name: str, n_power_iterations: int, dim: int, eps: float) -> SpectralNorm:
        """Put the hook on a module, and `_orig`, `_u`, `_v` in the place of the parameter."""
        for hook in pre_hooks(module).values():
            if isinstance(hook, SpectralNorm) and hook.name == name:
                raise RuntimeError(f"Cannot register two spectral_norm hooks on the same parameter {name}")
        fn = SpectralNorm(name, n_power_iterations, dim, eps)
        weight = module._parameters[name]
        if weight is None:
            raise ValueError(f"`SpectralNorm` cannot be applied as parameter `{name}` is None")
        if is_lazy(weight):
            raise ValueError(
                "The module passed to `SpectralNorm` can't have uninitialized parameters. "
                "Make sure to run the dummy forward before applying spectral normalization"
            )
        if not -weight.ndim <= dim < weight.ndim:
            raise RuntimeError(f"`{name}` of shape {list(weight.shape)} has no dimension {dim}")
        height, width = fn.reshape_weight_to_matrix(weight).shape
        u = _weights.random_unit(height, weight.dtype, eps)
        v = _weights.random_unit(width, weight.dtype, eps)
        del module._parameters[name]
        module.register_parameter(name + "_orig", weight)
        module.register_buffer(name + "_u", u)
        module.register_buffer(name + "_v", v)
        module.register_forward_pre_hook(fn)
        module._register_state_dict_hook(SpectralNormStateDictHook(fn))
        module._register_load_state_dict_pre_hook(SpectralNormLoadStateDictPreHook(fn))
        return fn

    def remove(self, module: Module) -> None:
        """Make the weight, as it is now, the one parameter again."""
        weight = self.compute_weight(module, do_power_iteration=False)
        self._forget_assigned(module)
        del module._parameters[self.name + "_orig"]
        delattr(module, self.name + "_u")
        delattr(module, self.name + "_v")
        module._parameters[self.name] = Parameter(weight)

    def __call__(self, module: Module, inputs: Any) -> None:
        self._forget_assigned(module)
        if module.training:
            self.compute_weight(module, do_power_iteration=True)

    def _solve_v_and_rescale(self, matrix: jax.Array, u: jax.Array, target_sigma: jax.Array) -> jax.Array:
        """The v with `u = unit(W v)` and `u^T W v = target_sigma`: for files from before v was saved."""
        v = jnp.linalg.pinv(matrix.T @ matrix) @ (matrix.T @ u)
        return v * (target_sigma / jnp.dot(u, matrix @ v))


class SpectralNormLoadStateDictPreHook:
    """Make `_v` where a file from before there was one is loaded."""

    def __init__(self, fn: SpectralNorm) -> None:
        self.fn = fn

    def __call__(
        self,
        state_dict: Any,
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        key = prefix + self.fn.name
        version = local_metadata.get("spectral_norm", {}).get(f"{self.fn.name}.version")
        if version is not None and version >= 1:
            return
        # A plain dict (or a safetensors file) has no versions: the names tell.
        if version is None and key not in state_dict and all(key + end in state_dict for end in ("_orig", "_u", "_v")):
            return
        missing = [key + end for end in ("_orig", "", "_u") if key + end not in state_dict]
        if missing:
            missing_keys.extend(missing if strict else [])
            return
        original, u = unbox(state_dict[key + "_orig"]), unbox(state_dict[key + "_u"])
        sigma = jnp.mean(original / unbox(state_dict.pop(key)))
        matrix = self.fn.reshape_weight_to_matrix(original)
        state_dict[key + "_v"] = self.fn._solve_v_and_rescale(matrix, u, sigma)


class SpectralNormStateDictHook:
    """Write the version into the metadata of a state dict."""

    def __init__(self, fn: SpectralNorm) -> None:
        self.fn = fn

    def __call__(self, module: Module, state_dict: Any, prefix: str, local_metadata: dict[str, Any]) -> None:
        versions = local_metadata.setdefault("spectral_norm", {})
        key = f"{self.fn.name}.version"
        if key in versions:
            raise RuntimeError(f"Unexpected key in metadata['spectral_norm']: {key}")
        versions[key] = self.fn._version


def spectral_norm(
    module: M, name: str = "weight", n_power_iterations: int = 1, eps: float = 1e-12, dim: int | None = None
) -> M:
    """Divide a weight by its largest singular value, by a hook. Newer: `parametrizations.spectral_norm`.

    Args:
        module: the module.
        name: the parameter.
        n_power_iterations: how many on each call in training mode.
        eps: a smaller norm counts as this.
        dim: the dimension of the outputs; None for 1 in ConvTranspose1d, 2d, 3d and 0 elsewhere.

    Returns:
        The module, with the parameter `<name>_orig` and the buffers `<name>_u` and `<name>_v`.

    Raises:
        RuntimeError: it has that hook already.
        ValueError: the parameter is None or not initialized, or there are no iterations.
        KeyError: there is no such parameter.

    Note:
        `module.<name>` is computed when it is read, from the vectors as they are; torch's is that of the last call.

    Example:
        >>> from jaxmodule import nn
        >>> layer = nn.utils.spectral_norm(nn.Linear(20, 40))
        >>> list(layer.state_dict())
        ['bias', 'weight_orig', 'weight_u', 'weight_v']
    """
    SpectralNorm.apply(module, name, n_power_iterations, _weights.output_dim(module, dim), eps)
    return module


def remove_spectral_norm(module: M, name: str = "weight") -> M:
    """Undo `spectral_norm`: the weight as it is now becomes one parameter again.

    Raises:
        ValueError: the module has no such hook.
    """
    found = [h for h in pre_hooks(module).values() if isinstance(h, SpectralNorm) and h.name == name]
    if not found:
        raise ValueError(f"spectral_norm of '{name}' not found in {module}")
    found[0].remove(module)
    for registry in (pre_hooks(module), *[module.__dict__[name] for name in _STATE_HOOKS]):
        for key, hook in list(registry.items()):
            if getattr(hook, "fn", hook) is found[0]:
                del registry[key]
    return module

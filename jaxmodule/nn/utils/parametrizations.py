"""The parametrizations that come with the library: `weight_norm`, `spectral_norm`, `orthogonal`."""

from __future__ import annotations

from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from ...core.box import Box, unbox
from ...core.device import is_abstract
from ...transforms import eval_shape
from ..module import Module
from ..parameter import Buffer, is_lazy
from . import _weights
from ._orthogonal import OrthogonalMap, _Orthogonal
from .parametrize import register_parametrization

__all__ = ["orthogonal", "spectral_norm", "weight_norm"]

M = TypeVar("M", bound=Module)


def _tensor(module: Module, name: str) -> Any:
    """The parameter or buffer of this name, or its array if it is parametrized.

    Raises:
        ValueError: there is none.
    """
    found = getattr(module, name, None)
    if not isinstance(found, (Box, jax.Array)):
        raise ValueError(f"Module '{module}' has no parameter or buffer with name '{name}'")
    return found


def orthogonal(
    module: M, name: str = "weight", orthogonal_map: str | None = None, *, use_trivialization: bool = True
) -> M:
    """Keep a matrix orthogonal (complex: unitary): `Q^H Q = I`, or `Q Q^H = I` where it has more columns than rows.

    Args:
        module: the module.
        name: the parameter, `(*, m, n)`.
        orthogonal_map: "matrix_exp" (`exp(A)` of the skew-symmetric matrix A that the original's lower triangle makes),
            "cayley" (`(I + A/2)(I - A/2)^-1`) or "householder" (a product of reflectors); None for matrix_exp where
            the matrix is square or complex and householder otherwise.
        use_trivialization: multiply by a fixed matrix, the buffer `parametrizations.<name>.0.base`, which starts at the
            parameter's value (orthogonalised if need be). Trivializations for Gradient-Based Optimization on Manifolds,
            Casado 2019.

    Returns:
        The module.

    Raises:
        ValueError: no such parameter, fewer than two dimensions, an unknown map, or householder of a complex one.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> from jaxmodule.nn.utils import parametrizations
        >>> layer = parametrizations.orthogonal(nn.Linear(20, 40))
        >>> bool(jnp.allclose(layer.weight.T @ layer.weight, jnp.eye(20), atol=1e-5))
        True
    """
    weight = unbox(_tensor(module, name))
    if weight.ndim < 2:
        raise ValueError(f"Expected a matrix or batch of matrices. Got a tensor of {weight.ndim} dimensions.")
    if orthogonal_map is None:
        is_free = weight.shape[-2] == weight.shape[-1] or jnp.iscomplexobj(weight)
        orthogonal_map = "matrix_exp" if is_free else "householder"
    if orthogonal_map not in OrthogonalMap.__members__:
        raise ValueError(
            f'orthogonal_map has to be one of "matrix_exp", "cayley", "householder". Got: {orthogonal_map}'
        )
    parametrization = _Orthogonal(weight, OrthogonalMap[orthogonal_map], use_trivialization=use_trivialization)
    return register_parametrization(module, name, parametrization, unsafe=True)


class _WeightNorm(Module):
    """The parametrization of `weight_norm`."""

    def __init__(self, dim: int | None = 0) -> None:
        super().__init__()
        self.dim = -1 if dim is None else dim

    def forward(self, weight_g: jax.Array, weight_v: jax.Array) -> jax.Array:
        return _weights.weight_norm(weight_v, weight_g, self.dim)

    def right_inverse(self, weight: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The norm and the weight itself."""
        return _weights.norm_except_dim(weight, self.dim), weight


class _OldKeys:
    """A load hook that takes the names that the hook-based `weight_norm` gives."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, state_dict: Any, prefix: str, *others: Any) -> None:
        old = [f"{prefix}{self.name}_g", f"{prefix}{self.name}_v"]
        if all(key in state_dict for key in old):
            for i, key in enumerate(old):
                state_dict[f"{prefix}parametrizations.{self.name}.original{i}"] = state_dict.pop(key)


def weight_norm(module: M, name: str = "weight", dim: int | None = 0) -> M:
    """`w = g v / ||v||`: learn a weight's length and direction apart (Salimans and Kingma, 2016).

    Args:
        module: the module.
        name: the parameter.
        dim: there is one length for each index of this dimension; None (or -1, as in torch) for one in all.

    Returns:
        The module, with the parameters `parametrizations.<name>.original0` (g) and `original1` (v). It also loads state
        dicts with the names `<name>_g` and `<name>_v`, which the hook-based `utils.weight_norm` gives.

    Raises:
        ValueError: no such parameter.
        IndexError: it has no such dimension.

    Example:
        >>> from jaxmodule import nn
        >>> from jaxmodule.nn.utils import parametrizations
        >>> layer = parametrizations.weight_norm(nn.Linear(20, 40))
        >>> layer
        ParametrizedLinear(
          in_features=20, out_features=40, bias=True
          (parametrizations): ModuleDict(
            (weight): ParametrizationList(
              (0): _WeightNorm()
            )
          )
        )
        >>> layer.parametrizations.weight.original0.shape
        (40, 1)
    """
    register_parametrization(module, name, _WeightNorm(dim), unsafe=True)
    module._register_load_state_dict_pre_hook(_OldKeys(name))
    return module


class _SpectralNorm(Module):
    """The parametrization of `spectral_norm`."""

    _u: Buffer
    _v: Buffer

    def __init__(self, weight: jax.Array, n_power_iterations: int = 1, dim: int = 0, eps: float = 1e-12) -> None:
        super().__init__()
        ndim = weight.ndim
        if not -ndim <= dim < ndim:
            raise IndexError(f"Dimension out of range (expected to be in range of [-{ndim}, {ndim - 1}] but got {dim})")
        if n_power_iterations <= 0:
            raise ValueError(
                f"Expected n_power_iterations to be positive, but got n_power_iterations={n_power_iterations}"
            )
        self.dim = dim % ndim
        self.eps = eps
        if ndim > 1:  # the norm of a vector needs no approximation
            self.n_power_iterations = n_power_iterations
            height, width = _weights.as_matrix(weight, self.dim).shape
            self.register_buffer("_u", _weights.random_unit(height, weight.dtype, eps))
            self.register_buffer("_v", _weights.random_unit(width, weight.dtype, eps))
            self._iterate(weight, 15)  # torch's number, to start from something reasonable

    def _iterate(self, weight: jax.Array, n: int) -> None:
        u, v = _weights.spectral_directions(weight, self._u.value, self._v.value, self.dim, self.eps, n)
        self._u.value, self._v.value = u, v

    def forward(self, weight: jax.Array) -> jax.Array:
        if weight.ndim == 1:
            return _weights.unit(weight, self.eps)
        if self.training:
            self._iterate(weight, self.n_power_iterations)
        return _weights.spectral_scaled(weight, self._u.value, self._v.value, self.dim)

    def right_inverse(self, value: jax.Array) -> jax.Array:
        """The value as it is."""
        return value


def spectral_norm(
    module: M, name: str = "weight", n_power_iterations: int = 1, eps: float = 1e-12, dim: int | None = None
) -> M:
    """Divide a weight by its largest singular value (a vector by its length): Miyato et al., 2018.

    The weight counts as a matrix of `dim` against the rest. Its first singular vectors are the buffers
    `parametrizations.<name>.0._u` and `_v`; power iterations improve them whenever it is read in training mode.

    Args:
        module: the module.
        name: the parameter.
        n_power_iterations: how many on each reading.
        eps: a smaller norm counts as this.
        dim: the dimension of the outputs; None for 1 in ConvTranspose1d, 2d, 3d and 0 elsewhere.

    Returns:
        The module.

    Raises:
        ValueError: no such parameter, or no iterations.
        IndexError: it has no such dimension.

    Note:
        Removing it in training mode iterates once more, as in torch.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> from jaxmodule.nn.utils import parametrizations
        >>> layer = parametrizations.spectral_norm(nn.Linear(20, 40), n_power_iterations=50)
        >>> round(float(jnp.linalg.norm(layer.weight, 2)), 2)
        1.0
    """
    weight = _tensor(module, name)
    if is_lazy(weight):
        _ = weight.shape  # raises, and says that there is none yet
    arguments = unbox(weight), n_power_iterations, _weights.output_dim(module, dim), eps
    abstract = is_abstract(arguments[0])  # jm.device("meta")
    parametrization = eval_shape(_SpectralNorm, *arguments) if abstract else _SpectralNorm(*arguments)
    return register_parametrization(module, name, parametrization)

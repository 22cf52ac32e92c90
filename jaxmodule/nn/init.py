"""`torch.nn.init`: functions that fill a parameter in place, with torch's names, arguments, distributions and errors.

Each takes a `Parameter` or `Buffer`, writes it (shape, dtype and placement stay as they are) and returns it. The random
numbers come from the default generator (`jm.manual_seed`) or from the `generator` argument; the distributions are
torch's, the numbers are not. A box that is abstract (`jm.device("meta")`) is left alone and nothing is drawn for it, as
in torch.
"""

import functools
import math
import warnings
from collections.abc import Callable
from typing import Any, Literal, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..core import fill
from ..core.box import Box, unbox
from ..core.context import Tracer
from ..core.device import is_abstract
from ..random import Generator, next_key

__all__ = [
    "calculate_gain",
    "constant",
    "constant_",
    "dirac",
    "dirac_",
    "eye",
    "eye_",
    "kaiming_normal",
    "kaiming_normal_",
    "kaiming_uniform",
    "kaiming_uniform_",
    "normal",
    "normal_",
    "ones_",
    "orthogonal",
    "orthogonal_",
    "sparse",
    "sparse_",
    "trunc_normal_",
    "uniform",
    "uniform_",
    "xavier_normal",
    "xavier_normal_",
    "xavier_uniform",
    "xavier_uniform_",
    "zeros_",
]

_B = TypeVar("_B", bound=Box)
_P = ParamSpec("_P")
_R = TypeVar("_R")

FanMode = Literal["fan_in", "fan_out"]
Nonlinearity = Literal[
    "linear",
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
    "sigmoid",
    "tanh",
    "relu",
    "leaky_relu",
    "selu",
]

_GAIN_ONE = (*(f"conv{t}{n}d" for t in ("", "_transpose") for n in (1, 2, 3)), "linear", "sigmoid")
_NO_OP = "Initializing zero-element tensors is a no-op"


# -- what every function does with its argument ----------------------------------------------------------------------


def _box(tensor: Any, name: str) -> Any:
    if not isinstance(tensor, Box):
        raise TypeError(
            f"nn.init.{name} writes into its argument, which must be a Parameter or a Buffer; got "
            f"{type(tensor).__name__}, and arrays are immutable.\n"
            f"Give it the box, `nn.init.{name}(module.weight)`, or make one: `nn.init.{name}(nn.Parameter(x)).value`."
        )
    return tensor


def _floating(tensor: Any, name: str) -> Any:
    if not jnp.issubdtype(_box(tensor, name).dtype, jnp.inexact):
        raise NotImplementedError(
            f'"nn.init.{name}" not implemented for {tensor.dtype}, only for floating-point dtypes'
        )
    return tensor


def _placement(array: jax.Array) -> jax.sharding.Sharding | None:
    """Where a new value goes; None inside a trace and for an array that JAX may place as it likes."""
    return array.sharding if not isinstance(array, Tracer) and array.committed else None


def _key(generator: Generator | None) -> jax.Array:
    return next_key() if generator is None else generator.next_key()


def _draw_dtype(dtype: np.dtype) -> np.dtype:
    return np.dtype(np.float32) if dtype.itemsize < 4 else dtype


def _put(box: Box, array: jax.Array) -> None:
    device = _placement(box.value)
    box.value = array if device is None else jax.device_put(array, device)


def _draw_uniform(box: Any, low: float, high: float, generator: Generator | None) -> Any:
    if low > high:
        raise RuntimeError(f"uniform_ expects to return a [from, to) range, but found from={low:g} > to={high:g}")
    old = box.value
    if is_abstract(old):
        return box
    if jnp.issubdtype(old.dtype, jnp.complexfloating):
        real = np.empty(0, old.dtype).real.dtype
        parts = [fill.uniform(_key(generator), old.shape, real, low, high) for _ in range(2)]
        _put(box, lax.complex(*parts))
    else:
        box.value = fill.uniform(_key(generator), old.shape, old.dtype, low, high, device=_placement(old))
    return box


def _draw_normal(box: Any, mean: float, std: float, generator: Generator | None) -> Any:
    if std < 0:
        raise RuntimeError(f"normal expects std >= 0.0, but found std {std:g}")
    old = box.value
    if is_abstract(old):
        return box
    box.value = fill.normal(_key(generator), old.shape, old.dtype, mean, std, device=_placement(old))
    return box


# -- fans and gains --------------------------------------------------------------------------------------------------


def calculate_gain(nonlinearity: Nonlinearity, param: float | None = None) -> float:
    """The factor on the standard deviation that keeps a layer's outputs at unit scale before this nonlinearity.

    1 for linear and convolution layers and sigmoid, 5/3 for tanh, sqrt(2) for relu, sqrt(2 / (1 + slope²)) for
    leaky_relu, 3/4 for selu.

    Args:
        nonlinearity: the name of the function in `nn.functional`.
        param: the negative slope of leaky_relu, 0.01 if None.

    Raises:
        ValueError: for another name, or a slope that is no number.

    Example:
        >>> from jaxmodule import nn
        >>> round(nn.init.calculate_gain("leaky_relu", 0.2), 4)
        1.3868
    """
    if nonlinearity in _GAIN_ONE:
        return 1
    if nonlinearity == "tanh":
        return 5.0 / 3
    if nonlinearity == "relu":
        return math.sqrt(2.0)
    if nonlinearity == "leaky_relu":
        slope = 0.01 if param is None else param
        if isinstance(slope, bool) or not isinstance(slope, int | float):
            raise ValueError(f"negative_slope {param} not a valid number")
        return math.sqrt(2.0 / (1 + slope**2))
    if nonlinearity == "selu":
        return 3.0 / 4
    raise ValueError(f"Unsupported nonlinearity {nonlinearity}")


def _calculate_fan_in_and_fan_out(tensor: Any) -> tuple[int, int]:
    shape = tensor.shape
    if len(shape) < 2:
        raise ValueError("Fan in and fan out can not be computed for tensor with fewer than 2 dimensions")
    receptive_field = math.prod(shape[2:])
    return shape[1] * receptive_field, shape[0] * receptive_field


def _calculate_correct_fan(tensor: Any, mode: FanMode) -> int:
    modes = ["fan_in", "fan_out"]
    if mode.lower() not in modes:
        raise ValueError(f"Mode {mode.lower()} not supported, please use one of {modes}")
    return _calculate_fan_in_and_fan_out(tensor)[modes.index(mode.lower())]


# -- the functions ---------------------------------------------------------------------------------------------------


def uniform_(tensor: _B, a: float = 0.0, b: float = 1.0, generator: Generator | None = None) -> _B:
    """Fill with samples of U(a, b).

    Args:
        tensor: a Parameter or Buffer.
        a: the lower bound.
        b: the upper bound.
        generator: where the random numbers come from, None for the default generator.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> w = nn.init.uniform_(nn.Parameter(jnp.empty((3, 5))), -1, 1)
        >>> bool((abs(w) <= 1).all())
        True
    """
    return _draw_uniform(_floating(tensor, "uniform_"), a, b, generator)


def normal_(tensor: _B, mean: float = 0.0, std: float = 1.0, generator: Generator | None = None) -> _B:
    """Fill with samples of N(mean, std²).

    Args:
        tensor: a Parameter or Buffer.
        mean: the mean.
        std: the standard deviation.
        generator: where the random numbers come from, None for the default generator.
    """
    return _draw_normal(_floating(tensor, "normal_"), mean, std, generator)


def trunc_normal_(
    tensor: _B,
    mean: float = 0.0,
    std: float = 1.0,
    a: float = -2.0,
    b: float = 2.0,
    generator: Generator | None = None,
) -> _B:
    """Fill with samples of N(mean, std²) conditioned on a <= x <= b.

    Args:
        tensor: a Parameter or Buffer.
        mean: the mean before the truncation.
        std: the standard deviation before the truncation.
        a: the smallest value, in units of the samples, not of std.
        b: the largest value.
        generator: where the random numbers come from, None for the default generator.
    """
    box = _floating(tensor, "trunc_normal_")
    if mean < a - 2 * std or mean > b + 2 * std:
        warnings.warn(
            "mean is more than 2 std from [a, b] in nn.init.trunc_normal_. "
            "The distribution of values may be incorrect.",
            stacklevel=2,
        )
    if a > b:
        raise RuntimeError(f"uniform_ expects to return a [from, to) range, but found from={a:g} > to={b:g}")
    if std < 0:
        raise RuntimeError(f"normal expects std >= 0.0, but found std {std:g}")
    lower, upper = (a - mean) / std, (b - mean) / std
    inside = (math.erf(upper / math.sqrt(2)) - math.erf(lower / math.sqrt(2))) / 2
    old = box.value
    if is_abstract(old):
        return tensor
    key = _key(generator)
    # 0.3 is torch's threshold too. Below it the cuts may lie in a tail, where float32's erf has no digits left.
    if inside > 0.3:
        box.value = fill.truncated_normal(
            key, old.shape, old.dtype, lower, upper, mean, std, a, b, device=_placement(old)
        )
    else:
        numbers = tuple(np.asarray(x, _draw_dtype(old.dtype)) for x in (mean, 1 / std, a, b))
        _put(box, _truncated_by_rejection(key, numbers, old.shape, old.dtype))
    return tensor


@functools.partial(jax.jit, static_argnums=(2, 3))
def _truncated_by_rejection(
    key: jax.Array, numbers: tuple[jax.Array, ...], shape: tuple[int, ...], dtype: Any
) -> jax.Array:
    """Propose from U(a, b), accept with the density relative to its largest value in [a, b], until all are accepted."""
    mean, precision, a, b = numbers  # 1 / std: XLA turns a division by a known number into this, one by an unknown not
    draw = mean.dtype
    peak = ((jnp.clip(mean, a, b) - mean) * precision) ** 2

    def propose(state: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
        i, pending, out = state
        proposal_key, accept_key = jax.random.split(jax.random.fold_in(key, i))
        proposal = jax.random.uniform(proposal_key, shape, draw, a, b)
        density = jnp.exp((peak - ((proposal - mean) * precision) ** 2) / 2)
        accept = jax.random.uniform(accept_key, shape, draw) < density
        return i + 1, pending & ~accept, jnp.where(pending & accept, proposal, out)

    start = (jnp.int32(0), jnp.ones(shape, bool), jnp.full(shape, a, draw))
    _, _, out = lax.while_loop(lambda state: state[1].any(), propose, start)
    return jnp.clip(out.astype(dtype), a.astype(dtype), b.astype(dtype))


def constant_(tensor: _B, val: float) -> _B:
    """Fill with the value `val`.

    Args:
        tensor: a Parameter or Buffer.
        val: the value.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> nn.init.constant_(nn.Parameter(jnp.empty(2)), 0.5).tolist()
        [0.5, 0.5]
    """
    return _constant(tensor, val, "constant_")


def ones_(tensor: _B) -> _B:
    """Fill with 1.

    Args:
        tensor: a Parameter or Buffer.
    """
    return _constant(tensor, 1, "ones_")


def zeros_(tensor: _B) -> _B:
    """Fill with 0.

    Args:
        tensor: a Parameter or Buffer.
    """
    return _constant(tensor, 0, "zeros_")


def _constant(tensor: Any, value: Any, name: str) -> Any:
    old = _box(tensor, name).value
    if is_abstract(old):
        return tensor
    value = unbox(value) if isinstance(value, Box) else value
    tensor.value = fill.full(old.shape, value, old.dtype, device=_placement(old))
    return tensor


def eye_(tensor: _B) -> _B:
    """Fill a matrix with the identity: ones on the diagonal, as many as fit, zeros elsewhere.

    Args:
        tensor: a Parameter or Buffer with 2 dimensions.

    Raises:
        ValueError: for another number of dimensions.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> nn.init.eye_(nn.Parameter(jnp.empty((2, 3)))).tolist()
        [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
    """
    old = _box(tensor, "eye_").value
    if old.ndim != 2:
        raise ValueError("Only tensors with 2 dimensions are supported")
    if not is_abstract(old):
        _put(tensor, jnp.eye(*old.shape, dtype=old.dtype))
    return tensor


def dirac_(tensor: _B, groups: int = 1) -> _B:
    """Fill a convolution's weight with the delta function, so that as many channels as fit pass through unchanged.

    Args:
        tensor: a Parameter or Buffer with 3, 4 or 5 dimensions.
        groups: the number of groups of the convolution; each passes its own channels.

    Shape:
        - tensor: `(C_out, C_in / groups, k, ...)`.

    Raises:
        ValueError: for another number of dimensions, or where `groups` does not divide `C_out`.
    """
    old = _box(tensor, "dirac_").value
    if old.ndim not in (3, 4, 5):
        raise ValueError("Only tensors with 3, 4, or 5 dimensions are supported")
    out_channels, in_channels, *kernel = old.shape
    if out_channels % groups != 0:
        raise ValueError("dim 0 must be divisible by groups")
    if is_abstract(old):
        return tensor
    per_group = out_channels // groups
    passed = np.arange(min(per_group, in_channels))
    out = (np.arange(groups)[:, None] * per_group + passed).ravel()
    index = (out, np.tile(passed, groups), *(size // 2 for size in kernel))
    _put(tensor, jnp.zeros(old.shape, old.dtype).at[index].set(jnp.ones((), old.dtype)))
    return tensor


def xavier_uniform_(tensor: _B, gain: float = 1.0, generator: Generator | None = None) -> _B:
    """Fill with samples of U(-a, a), a = gain · sqrt(6 / (fan_in + fan_out)) (Glorot and Bengio 2010).

    Args:
        tensor: a Parameter or Buffer with at least 2 dimensions.
        gain: a factor on the bound.
        generator: where the random numbers come from, None for the default generator.

    Raises:
        ValueError: for fewer dimensions.
    """
    fan_in, fan_out = _calculate_fan_in_and_fan_out(_floating(tensor, "xavier_uniform_"))
    bound = math.sqrt(3.0) * gain * math.sqrt(2.0 / (fan_in + fan_out))
    return _draw_uniform(tensor, -bound, bound, generator)


def xavier_normal_(tensor: _B, gain: float = 1.0, generator: Generator | None = None) -> _B:
    """Fill with samples of N(0, std²), std = gain · sqrt(2 / (fan_in + fan_out)) (Glorot and Bengio 2010).

    Args:
        tensor: a Parameter or Buffer with at least 2 dimensions.
        gain: a factor on the standard deviation.
        generator: where the random numbers come from, None for the default generator.

    Raises:
        ValueError: for fewer dimensions.
    """
    fan_in, fan_out = _calculate_fan_in_and_fan_out(_floating(tensor, "xavier_normal_"))
    return _draw_normal(tensor, 0.0, gain * math.sqrt(2.0 / (fan_in + fan_out)), generator)


def kaiming_uniform_(
    tensor: _B,
    a: float = 0,
    mode: FanMode = "fan_in",
    nonlinearity: Nonlinearity = "leaky_relu",
    generator: Generator | None = None,
) -> _B:
    """Fill with samples of U(-b, b), b = gain · sqrt(3 / fan) (He et al. 2015).

    Args:
        tensor: a Parameter or Buffer with at least 2 dimensions.
        a: the negative slope, for `nonlinearity="leaky_relu"`.
        mode: the fan to take: "fan_in" keeps the variance in the forward pass, "fan_out" in the backward pass.
        nonlinearity: what follows the layer, see `calculate_gain`.
        generator: where the random numbers come from, None for the default generator.

    Raises:
        ValueError: for fewer dimensions, or another mode or nonlinearity.
    """
    std = _kaiming_std(_floating(tensor, "kaiming_uniform_"), a, mode, nonlinearity)
    return tensor if std is None else _draw_uniform(tensor, -math.sqrt(3.0) * std, math.sqrt(3.0) * std, generator)


def kaiming_normal_(
    tensor: _B,
    a: float = 0,
    mode: FanMode = "fan_in",
    nonlinearity: Nonlinearity = "leaky_relu",
    generator: Generator | None = None,
) -> _B:
    """Fill with samples of N(0, std²), std = gain / sqrt(fan) (He et al. 2015).

    Args:
        tensor: a Parameter or Buffer with at least 2 dimensions.
        a: the negative slope, for `nonlinearity="leaky_relu"`.
        mode: the fan to take: "fan_in" keeps the variance in the forward pass, "fan_out" in the backward pass.
        nonlinearity: what follows the layer, see `calculate_gain`.
        generator: where the random numbers come from, None for the default generator.

    Raises:
        ValueError: for fewer dimensions, or another mode or nonlinearity.
    """
    std = _kaiming_std(_floating(tensor, "kaiming_normal_"), a, mode, nonlinearity)
    return tensor if std is None else _draw_normal(tensor, 0.0, std, generator)


def _kaiming_std(tensor: Any, a: float, mode: FanMode, nonlinearity: Nonlinearity) -> float | None:
    """Return gain / sqrt(fan), or None after a warning where there is nothing to fill."""
    if 0 in tensor.shape:
        warnings.warn(_NO_OP, stacklevel=3)
        return None
    fan = _calculate_correct_fan(tensor, mode)
    return calculate_gain(nonlinearity, a) / math.sqrt(fan)


def orthogonal_(tensor: _B, gain: float = 1, generator: Generator | None = None) -> _B:
    """Fill with a (semi-)orthogonal matrix, uniformly distributed, times `gain` (Saxe et al. 2013).

    Dimensions after the first count as one: the matrix has shape `(d_0, d_1 · d_2 · ...)`.

    Args:
        tensor: a Parameter or Buffer with at least 2 dimensions.
        gain: a factor on the matrix.
        generator: where the random numbers come from, None for the default generator.

    Raises:
        ValueError: for fewer dimensions.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> w = nn.init.orthogonal_(nn.Parameter(jnp.empty((2, 3)))).value
        >>> bool(jnp.allclose(w @ w.T, jnp.eye(2), atol=1e-5))
        True
    """
    old = _box(tensor, "orthogonal_").value
    if old.ndim < 2:
        raise ValueError("Only tensors with 2 or more dimensions are supported")
    if old.size == 0:
        return tensor
    _floating(tensor, "orthogonal_")
    if is_abstract(old):
        return tensor
    rows = old.shape[0]
    size = (rows, old.size // rows)
    draw = _draw_dtype(old.dtype)  # LAPACK knows no half precision
    sample = fill.normal(_key(generator), (max(size), min(size)), draw)
    _put(tensor, _orthonormalise(sample, np.asarray(gain, draw), old.shape, old.dtype))
    return tensor


@functools.partial(jax.jit, static_argnums=(2, 3))
def _orthonormalise(tall: jax.Array, gain: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    q, r = jnp.linalg.qr(tall)
    # Without the signs of R's diagonal Q is not uniformly distributed (Mezzadri 2006).
    q = q * jnp.sign(jnp.diagonal(r))[None, :]
    q = q.T if shape[0] < math.prod(shape[1:]) else q
    return (q.reshape(shape) * gain).astype(dtype)


def sparse_(tensor: _B, sparsity: float, std: float = 0.01, generator: Generator | None = None) -> _B:
    """Fill a matrix with samples of N(0, std²), then set a part of each column to zero (Martens 2010).

    Args:
        tensor: a Parameter or Buffer with 2 dimensions.
        sparsity: the part of each column that is zero; `ceil(sparsity · rows)` elements.
        std: the standard deviation of the others.
        generator: where the random numbers come from, None for the default generator.

    Raises:
        ValueError: for another number of dimensions.
    """
    box = _floating(tensor, "sparse_")
    if box.ndim != 2:
        raise ValueError("Only tensors with 2 dimensions are supported")
    if is_abstract(box.value):
        return tensor
    zeros = math.ceil(sparsity * box.shape[0])
    _draw_normal(box, 0.0, std, generator)
    _put(box, _zero_in_columns(_key(generator), box.value, zeros))
    return tensor


@functools.partial(jax.jit, static_argnums=2)
def _zero_in_columns(key: jax.Array, matrix: jax.Array, zeros: int) -> jax.Array:
    order = jnp.argsort(jax.random.bits(key, matrix.shape), axis=0)
    return matrix.at[order[:zeros], jnp.arange(matrix.shape[1])[None, :]].set(jnp.zeros((), matrix.dtype))


# -- the names without underscore ------------------------------------------------------------------------------------


def _deprecated(function: Callable[_P, _R]) -> Callable[_P, _R]:
    new, old = function.__name__, function.__name__[:-1]

    @functools.wraps(function)
    def deprecated(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        warnings.warn(f"`nn.init.{old}` is now deprecated in favor of `nn.init.{new}`.", FutureWarning, stacklevel=2)
        return function(*args, **kwargs)

    deprecated.__name__ = deprecated.__qualname__ = old
    deprecated.__doc__ = f"Deprecated: the former name of `{new}`."
    return deprecated


uniform = _deprecated(uniform_)
normal = _deprecated(normal_)
constant = _deprecated(constant_)
eye = _deprecated(eye_)
dirac = _deprecated(dirac_)
xavier_uniform = _deprecated(xavier_uniform_)
xavier_normal = _deprecated(xavier_normal_)
kaiming_uniform = _deprecated(kaiming_uniform_)
kaiming_normal = _deprecated(kaiming_normal_)
orthogonal = _deprecated(orthogonal_)
sparse = _deprecated(sparse_)


# timm's and others' initialisers call torch's functions under these names.
_no_grad_uniform_ = uniform_
_no_grad_normal_ = normal_
_no_grad_trunc_normal_ = trunc_normal_
_no_grad_fill_ = constant_
_no_grad_zero_ = zeros_

"""Recurrent cells: one step of one layer."""

from __future__ import annotations

import math

import jax
from jax.typing import DTypeLike

from ...core.box import unbox
from ...core.context import tls
from .. import init
from ..functional._common import ArrayLike, shape_list
from ..functional._recurrent import Layer, Mode, State, cell
from ..module import Module
from ..parameter import Parameter
from .utils import Placement, empty_parameter

__all__ = ["GRUCell", "LSTMCell", "RNNCell", "RNNCellBase"]

_MODES: dict[str, Mode] = {"tanh": "RNN_TANH", "relu": "RNN_RELU"}


class RNNCellBase(Module):
    """What RNNCell, LSTMCell and GRUCell share; it has no `forward`.

    Args:
        input_size: the size of the input's last dimension.
        hidden_size: the size of the state.
        bias: whether there are biases.
        num_chunks: how many gates there are.
        device: where the parameters live, a device or a sharding.
        dtype: the parameters' dtype, float32 by default.

    Example:
        >>> from jaxmodule import nn
        >>> nn.RNNCellBase(10, 20, True, 4).weight_ih.shape
        (80, 10)
    """

    weight_ih: Parameter
    weight_hh: Parameter
    bias_ih: Parameter | None
    bias_hh: Parameter | None

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool,
        num_chunks: int,
        device: Placement | None = None,
        dtype: DTypeLike | None = None,
    ) -> None:
        super().__init__()
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.bias = bias
        rows = num_chunks * hidden_size
        self.weight_ih = empty_parameter((rows, input_size), device, dtype)
        self.weight_hh = empty_parameter((rows, hidden_size), device, dtype)
        if bias:
            self.bias_ih = empty_parameter((rows,), device, dtype)
            self.bias_hh = empty_parameter((rows,), device, dtype)
        else:
            self.register_parameter("bias_ih", None)
            self.register_parameter("bias_hh", None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the parameters anew."""
        bound = 1 / math.sqrt(self.hidden_size) if self.hidden_size > 0 else 0.0
        for parameter in self.parameters():
            init.uniform_(parameter, -bound, bound)

    def extra_repr(self) -> str:
        """The constructor's arguments, those at their default left out."""
        nonlinearity = getattr(self, "nonlinearity", "tanh")
        parts = [
            f"{self.input_size}, {self.hidden_size}",
            f"bias={self.bias}" if self.bias is not True else "",
            f"nonlinearity={nonlinearity}" if nonlinearity != "tanh" else "",
        ]
        return ", ".join(part for part in parts if part)

    def _step(self, mode: Mode, input: ArrayLike, states: tuple[ArrayLike, ...] | None) -> State:
        x = unbox(input)
        name = type(self).__name__
        if x.ndim not in (1, 2):
            raise ValueError(f"{name}: Expected input to be 1D or 2D, got {x.ndim}D instead (size {shape_list(x)})")
        hx = None if states is None else tuple(unbox(state) for state in states)
        for k, state in enumerate(hx or ()):
            if state.ndim not in (1, 2):
                what = "hidden" if len(hx or ()) == 1 else f"hx[{k}]"
                raise ValueError(f"{name}: Expected {what} to be 1D or 2D, got {state.ndim}D instead")
        weights = [self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh]
        layer = Layer(*[unbox(weight) for weight in weights])
        self._check(x, hx, layer.weight_ih)
        return cell(x, hx, layer, mode=mode)

    def _check(self, x: jax.Array, states: State | None, weight: jax.Array) -> None:
        if x.shape[-1] != self.input_size:
            raise RuntimeError(
                f"input has inconsistent input_size: got {x.shape[-1]} expected {self.input_size} "
                f"(input of size {shape_list(x)})"
            )
        for k, state in enumerate(states or ()):
            sizes = f"(input of size {shape_list(x)}, hidden{k} of size {shape_list(state)})"
            if x.shape[:-1] != state.shape[:-1]:
                raise RuntimeError(f"Input batch size doesn't match hidden{k} batch size {sizes}")
            if state.shape[-1] != self.hidden_size:
                expected = f"got {state.shape[-1]}, expected {self.hidden_size}"
                raise RuntimeError(f"hidden{k} has inconsistent hidden_size: {expected} {sizes}")
        for what, array in (("input", x), *((f"hidden{k}", state) for k, state in enumerate(states or ()))):
            if array.dtype != weight.dtype and tls.autocast is None:
                raise RuntimeError(
                    f"{what} and weight must have the same dtype, but got {array.dtype.name} and {weight.dtype.name}"
                )


class RNNCell(RNNCellBase):
    """An Elman cell: `h' = tanh(W_ih x + b_ih + W_hh h + b_hh)`.

    Args:
        input_size: the size of the input's last dimension.
        hidden_size: the size of the state.
        bias: whether there are biases.
        nonlinearity: "tanh", or "relu" in place of it.
        device: where the parameters live, a device or a sharding.
        dtype: the parameters' dtype, float32 by default.

    Shape:
        - Input: `(N, I)` or `(I)`.
        - hx: `(N, H)` or `(H)`; zeros if it is not given.
        - Output: `(N, H)` or `(H)`.

    Attributes:
        weight_ih: `(H, I)`, from U(-k, k) with `k = H ** -0.5`, as all parameters.
        weight_hh: `(H, H)`.
        bias_ih: `(H)`, or None.
        bias_hh: `(H)`, or None.

    Raises:
        ValueError: on call, the input or the state has more than two dimensions.
        RuntimeError: on call, sizes or dtypes don't fit, or the nonlinearity is neither of the two.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> cell, h = nn.RNNCell(10, 20), None
        >>> for x in jnp.ones((6, 3, 10)):
        ...     h = cell(x, h)
        >>> h.shape
        (3, 20)
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: str = "tanh",
        device: Placement | None = None,
        dtype: DTypeLike | None = None,
    ) -> None:
        super().__init__(input_size, hidden_size, bias, 1, device, dtype)
        self.nonlinearity = nonlinearity

    def forward(self, input: ArrayLike, hx: ArrayLike | None = None) -> jax.Array:
        """The next state."""
        if self.nonlinearity not in _MODES:
            raise RuntimeError(f"Unknown nonlinearity: {self.nonlinearity}")
        return self._step(_MODES[self.nonlinearity], input, None if hx is None else (hx,))[0]


class LSTMCell(RNNCellBase):
    """A cell with a memory (Hochreiter and Schmidhuber, 1997): `c' = f c + i g`, `h' = o tanh(c')`.

    `i`, `f` and `o` are `sigmoid(W_ih x + b_ih + W_hh h + b_hh)`, each of its own rows of the parameters, and `g` is
    tanh of the same.

    Args:
        input_size: the size of the input's last dimension.
        hidden_size: the size of the state.
        bias: whether there are biases.
        device: where the parameters live, a device or a sharding.
        dtype: the parameters' dtype, float32 by default.

    Shape:
        - Input: `(N, I)` or `(I)`.
        - hx: `(h, c)`, each `(N, H)` or `(H)`; zeros if they are not given.
        - Output: `(h', c')`, each `(N, H)` or `(H)`.

    Attributes:
        weight_ih: `(4 H, I)`: rows of i, f, g, o. From U(-k, k) with `k = H ** -0.5`, as all parameters.
        weight_hh: `(4 H, H)`.
        bias_ih: `(4 H)`, or None.
        bias_hh: `(4 H)`, or None.

    Raises:
        ValueError: on call, the input or a state has more than two dimensions.
        RuntimeError: on call, sizes or dtypes don't fit, or there are not two states.
        TypeError: on call, `hx` is no tuple.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> cell, state = nn.LSTMCell(10, 20), None
        >>> for x in jnp.ones((6, 3, 10)):
        ...     state = cell(x, state)
        >>> state[0].shape, state[1].shape
        ((3, 20), (3, 20))
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: Placement | None = None,
        dtype: DTypeLike | None = None,
    ) -> None:
        super().__init__(input_size, hidden_size, bias, 4, device, dtype)

    def forward(self, input: ArrayLike, hx: tuple[ArrayLike, ArrayLike] | None = None) -> tuple[jax.Array, jax.Array]:
        """The next state."""
        if hx is not None and not isinstance(hx, (tuple, list)):
            raise TypeError(f"lstm_cell(): argument 'hx' must be a tuple of arrays, not {type(hx).__name__}")
        if hx is not None and len(hx) != 2:
            raise RuntimeError(f"lstm_cell expects two hidden states, but got {len(hx)}")
        h, c = self._step("LSTM", input, None if hx is None else tuple(hx))
        return h, c


class GRUCell(RNNCellBase):
    """A gated cell (Cho et al., 2014): `h' = (1 - z) n + z h`, `n = tanh(W_in x + b_in + r (W_hn h + b_hn))`.

    `r` and `z` are `sigmoid(W_ih x + b_ih + W_hh h + b_hh)`, each of its own rows of the parameters.

    Args:
        input_size: the size of the input's last dimension.
        hidden_size: the size of the state.
        bias: whether there are biases.
        device: where the parameters live, a device or a sharding.
        dtype: the parameters' dtype, float32 by default.

    Shape:
        - Input: `(N, I)` or `(I)`.
        - hx: `(N, H)` or `(H)`; zeros if it is not given.
        - Output: `(N, H)` or `(H)`.

    Attributes:
        weight_ih: `(3 H, I)`: rows of r, z, n. From U(-k, k) with `k = H ** -0.5`, as all parameters.
        weight_hh: `(3 H, H)`.
        bias_ih: `(3 H)`, or None.
        bias_hh: `(3 H)`, or None.

    Raises:
        ValueError: on call, the input or the state has more than two dimensions.
        RuntimeError: on call, sizes or dtypes don't fit.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> cell, h = nn.GRUCell(10, 20), None
        >>> for x in jnp.ones((6, 3, 10)):
        ...     h = cell(x, h)
        >>> h.shape
        (3, 20)
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: Placement | None = None,
        dtype: DTypeLike | None = None,
    ) -> None:
        super().__init__(input_size, hidden_size, bias, 3, device, dtype)

    def forward(self, input: ArrayLike, hx: ArrayLike | None = None) -> jax.Array:
        """The next state."""
        return self._step("GRU", input, None if hx is None else (hx,))[0]

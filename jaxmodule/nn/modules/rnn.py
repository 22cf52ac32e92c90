"""Recurrent layers: stacks that run over time. What they share is in `_rnn_base.py`, cells are in `_rnn_cell.py`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, overload

import jax
from jax.typing import DTypeLike

from ...core.box import unbox
from .._packed_sequence import PackedSequence
from ..functional._common import ArrayLike
from ..functional._recurrent import State
from ._rnn_base import RNNBase, permute
from ._rnn_cell import GRUCell, LSTMCell, RNNCell, RNNCellBase
from .utils import Placement

__all__ = ["GRU", "LSTM", "RNN", "GRUCell", "LSTMCell", "RNNBase", "RNNCell", "RNNCellBase"]

_NO_PROJECTION = "proj_size argument is only supported for LSTM, not RNN or GRU"


class RNN(RNNBase):
    r"""An Elman network: `h_t = tanh(W_ih x_t + b_ih + W_hh h_(t-1) + b_hh)`, layer upon layer.

    Args:
        input_size: the size of the input's last dimension.
        hidden_size: the size of the state.
        num_layers: how many layers there are, each running over the outputs of the one before.
        nonlinearity: "tanh", or "relu" in place of it.
        bias: whether there are biases.
        batch_first: whether input and output are `(N, T, *)`, not `(T, N, *)`. The states are the same either way.
        dropout: the probability of zeroing an element of the outputs of every layer but the last, in training mode.
        bidirectional: whether every layer also runs from the end to the beginning.
        device: where the parameters live, a device or a sharding.
        dtype: the parameters' dtype, float32 by default.

    Shape: with `D` 2 if bidirectional and 1 if not, `L` layers
        - Input: `(T, N, I)`, with `batch_first` `(N, T, I)`; or `(T, I)`; or a `PackedSequence` of `(R, I)`.
        - hx: `(D L, N, H)`, or `(D L, H)` for one sequence; zeros if it is not given.
        - Output: as the input with `D H` in the place of `I`; and the last states, as hx.

    Attributes:
        weight_ih_l[k]: `(H, I)`, or `(H, D H)` of layers above the first. From U(-b, b) with `b = H ** -0.5`, as all.
        weight_hh_l[k]: `(H, H)`.
        bias_ih_l[k]: `(H)`.
        bias_hh_l[k]: `(H)`.
        weight_ih_l[k]_reverse, …: the same of the reverse direction.

    Raises:
        ValueError: an argument is out of range; on call, the input's rank or dtype doesn't fit.
        TypeError: an argument is of the wrong type.
        RuntimeError: on call, the input's or the state's size doesn't fit.

    Note:
        Of a `PackedSequence` each sequence ends, and in reverse begins, at its own end. Called outside of a compiled
        function, each greatest length `T` compiles a program: lengths that vary belong inside one, see there.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> output, h = nn.RNN(10, 20, 2)(jnp.ones((5, 3, 10)))
        >>> output.shape, h.shape
        ((5, 3, 20), (2, 3, 20))
    """

    if TYPE_CHECKING:

        def __init__(
            self,
            input_size: int,
            hidden_size: int,
            num_layers: int = 1,
            nonlinearity: str = "tanh",
            bias: bool = True,
            batch_first: bool = False,
            dropout: float = 0.0,
            bidirectional: bool = False,
            device: Placement | None = None,
            dtype: DTypeLike | None = None,
        ) -> None: ...

    else:  # torch's signature

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            if "proj_size" in kwargs:
                raise ValueError(_NO_PROJECTION)
            if len(args) > 3:
                nonlinearity, args = args[3], args[:3] + args[4:]
            else:
                nonlinearity = kwargs.pop("nonlinearity", "tanh")
            if nonlinearity not in ("tanh", "relu"):
                raise ValueError(f"Unknown nonlinearity '{nonlinearity}'. Select from 'tanh' or 'relu'.")
            super().__init__(f"RNN_{nonlinearity.upper()}", *args, **kwargs)
            self.nonlinearity = nonlinearity

    @overload
    def forward(self, input: PackedSequence, hx: ArrayLike | None = None) -> tuple[PackedSequence, jax.Array]: ...
    @overload
    def forward(self, input: ArrayLike, hx: ArrayLike | None = None) -> tuple[jax.Array, jax.Array]: ...
    def forward(self, input: Any, hx: ArrayLike | None = None) -> tuple[Any, jax.Array]:
        """The outputs at all time steps, and the last state of every layer and direction."""
        output, (h,) = self._run(input, None if hx is None else (hx,))
        return output, h


class LSTM(RNNBase):
    r"""Layers with a memory (Hochreiter and Schmidhuber, 1997): `c_t = f c_(t-1) + i g`, `h_t = o tanh(c_t)`.

    `i`, `f` and `o` are `sigmoid(W_ih x_t + b_ih + W_hh h_(t-1) + b_hh)`, each of its own rows of the parameters, and
    `g` is tanh of the same. With `proj_size`, `h_t = W_hr (o tanh(c_t))` (Sak et al., 2014).

    Args:
        input_size: the size of the input's last dimension.
        hidden_size: the size of the state.
        num_layers: how many layers there are, each running over the outputs of the one before.
        bias: whether there are biases.
        batch_first: whether input and output are `(N, T, *)`, not `(T, N, *)`. The states are the same either way.
        dropout: the probability of zeroing an element of the outputs of every layer but the last, in training mode.
        bidirectional: whether every layer also runs from the end to the beginning.
        proj_size: the size to which `h` is projected, 0 for no projection.
        device: where the parameters live, a device or a sharding.
        dtype: the parameters' dtype, float32 by default.

    Shape: with `D` 2 if bidirectional and 1 if not, `L` layers, and `P` for `proj_size`, or `H` if that is 0
        - Input: `(T, N, I)`, with `batch_first` `(N, T, I)`; or `(T, I)`; or a `PackedSequence` of `(R, I)`.
        - hx: `(h, c)`, `(D L, N, P)` and `(D L, N, H)`, without `N` for one sequence; zeros if they are not given.
        - Output: as the input with `D P` in the place of `I`; and the last states, as hx.

    Attributes:
        weight_ih_l[k]: `(4 H, I)`, or `(4 H, D P)` of layers above the first: rows of i, f, g, o. From U(-b, b) with
            `b = H ** -0.5`, as all.
        weight_hh_l[k]: `(4 H, P)`.
        bias_ih_l[k]: `(4 H)`.
        bias_hh_l[k]: `(4 H)`.
        weight_hr_l[k]: `(P, H)`, where there is a projection.
        weight_ih_l[k]_reverse, …: the same of the reverse direction.

    Raises:
        ValueError: an argument is out of range; on call, the input's rank or dtype doesn't fit.
        TypeError: an argument is of the wrong type; on call, `hx` is no tuple.
        RuntimeError: on call, the input's or a state's size doesn't fit.

    Note:
        Of a `PackedSequence` each sequence ends, and in reverse begins, at its own end. Called outside of a compiled
        function, each greatest length `T` compiles a program: lengths that vary belong inside one, see there.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> output, (h, c) = nn.LSTM(10, 20, 2)(jnp.ones((5, 3, 10)))
        >>> output.shape, h.shape, c.shape
        ((5, 3, 20), (2, 3, 20), (2, 3, 20))
    """

    if TYPE_CHECKING:

        def __init__(
            self,
            input_size: int,
            hidden_size: int,
            num_layers: int = 1,
            bias: bool = True,
            batch_first: bool = False,
            dropout: float = 0.0,
            bidirectional: bool = False,
            proj_size: int = 0,
            device: Placement | None = None,
            dtype: DTypeLike | None = None,
        ) -> None: ...

    else:  # torch's signature

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__("LSTM", *args, **kwargs)

    def get_expected_cell_size(self, input: ArrayLike, batch_sizes: ArrayLike | None) -> tuple[int, ...]:
        """The size that `c_0` must have for this input."""
        return self._state_sizes(self._batch(input, batch_sizes))[1]

    def _pair(self, hx: Any) -> State:
        if not isinstance(hx, (tuple, list)):
            raise TypeError(f"LSTM: hx is the pair (h_0, c_0), but got {type(hx).__name__}")
        if len(hx) != 2:
            raise IndexError(f"LSTM: hx is the pair (h_0, c_0), but got {len(hx)} arrays")
        return tuple(hx)

    def check_forward_args(self, input: ArrayLike, hidden: Any, batch_sizes: ArrayLike | None) -> None:
        """Raise where the input, or the pair of states for it, doesn't fit."""
        self.check_input(input, batch_sizes)
        self._check_states(self._pair(hidden), self._state_sizes(self._batch(input, batch_sizes)), unbox(input))

    def permute_hidden(self, hx: Any, permutation: ArrayLike | None) -> Any:
        """The pair of states with their sequences in another order; None leaves them as they are."""
        return hx if permutation is None else (permute(hx[0], permutation), permute(hx[1], permutation))

    @overload
    def forward(
        self, input: PackedSequence, hx: tuple[ArrayLike, ArrayLike] | None = None
    ) -> tuple[PackedSequence, tuple[jax.Array, jax.Array]]: ...
    @overload
    def forward(
        self, input: ArrayLike, hx: tuple[ArrayLike, ArrayLike] | None = None
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]: ...
    def forward(
        self, input: Any, hx: tuple[ArrayLike, ArrayLike] | None = None
    ) -> tuple[Any, tuple[jax.Array, jax.Array]]:
        """The outputs at all time steps, and the last states of every layer and direction."""
        output, (h, c) = self._run(input, None if hx is None else self._pair(hx))
        return output, (h, c)


class GRU(RNNBase):
    r"""Gated layers (Cho et al., 2014): `h_t = (1 - z) n + z h_(t-1)`.

    `n = tanh(W_in x_t + b_in + r (W_hn h_(t-1) + b_hn))`; `r` and `z` are `sigmoid(W_ih x_t + b_ih + W_hh h_(t-1) +
    b_hh)`, each of its own rows of the parameters.

    Args:
        input_size: the size of the input's last dimension.
        hidden_size: the size of the state.
        num_layers: how many layers there are, each running over the outputs of the one before.
        bias: whether there are biases.
        batch_first: whether input and output are `(N, T, *)`, not `(T, N, *)`. The states are the same either way.
        dropout: the probability of zeroing an element of the outputs of every layer but the last, in training mode.
        bidirectional: whether every layer also runs from the end to the beginning.
        device: where the parameters live, a device or a sharding.
        dtype: the parameters' dtype, float32 by default.

    Shape: with `D` 2 if bidirectional and 1 if not, `L` layers
        - Input: `(T, N, I)`, with `batch_first` `(N, T, I)`; or `(T, I)`; or a `PackedSequence` of `(R, I)`.
        - hx: `(D L, N, H)`, or `(D L, H)` for one sequence; zeros if it is not given.
        - Output: as the input with `D H` in the place of `I`; and the last states, as hx.

    Attributes:
        weight_ih_l[k]: `(3 H, I)`, or `(3 H, D H)` of layers above the first: rows of r, z, n. From U(-b, b) with
            `b = H ** -0.5`, as all.
        weight_hh_l[k]: `(3 H, H)`.
        bias_ih_l[k]: `(3 H)`.
        bias_hh_l[k]: `(3 H)`.
        weight_ih_l[k]_reverse, …: the same of the reverse direction.

    Raises:
        ValueError: an argument is out of range; on call, the input's rank or dtype doesn't fit.
        TypeError: an argument is of the wrong type.
        RuntimeError: on call, the input's or the state's size doesn't fit.

    Note:
        Of a `PackedSequence` each sequence ends, and in reverse begins, at its own end. Called outside of a compiled
        function, each greatest length `T` compiles a program: lengths that vary belong inside one, see there.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> output, h = nn.GRU(10, 20, 2, bidirectional=True)(jnp.ones((5, 3, 10)))
        >>> output.shape, h.shape
        ((5, 3, 40), (4, 3, 20))
    """

    if TYPE_CHECKING:

        def __init__(
            self,
            input_size: int,
            hidden_size: int,
            num_layers: int = 1,
            bias: bool = True,
            batch_first: bool = False,
            dropout: float = 0.0,
            bidirectional: bool = False,
            device: Placement | None = None,
            dtype: DTypeLike | None = None,
        ) -> None: ...

    else:  # torch's signature

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            if "proj_size" in kwargs:
                raise ValueError(_NO_PROJECTION)
            super().__init__("GRU", *args, **kwargs)

    @overload
    def forward(self, input: PackedSequence, hx: ArrayLike | None = None) -> tuple[PackedSequence, jax.Array]: ...
    @overload
    def forward(self, input: ArrayLike, hx: ArrayLike | None = None) -> tuple[jax.Array, jax.Array]: ...
    def forward(self, input: Any, hx: ArrayLike | None = None) -> tuple[Any, jax.Array]:
        """The outputs at all time steps, and the last state of every layer and direction."""
        output, (h,) = self._run(input, None if hx is None else (hx,))
        return output, h

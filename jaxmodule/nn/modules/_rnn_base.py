"""What the recurrent layers share: parameters, checks and the call."""

from __future__ import annotations

import math
import numbers
import warnings
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from ...core.box import unbox
from ...core.context import tls
from ...random import next_key
from .. import init
from .._packed_sequence import PackedSequence, batch_of
from ..functional._common import ArrayLike, shape_list
from ..functional._packed import lengths_of, pack_rows, unpack_rows
from ..functional._recurrent import Layer, Mode, State, recurrent
from ..module import Module
from ..parameter import Parameter
from .utils import Placement, empty_parameter

__all__ = ["RNNBase"]

_GATES: dict[str, int] = {"RNN_TANH": 1, "RNN_RELU": 1, "LSTM": 4, "GRU": 3}


def _check_dropout(dropout: Any, num_layers: int) -> float:
    if isinstance(dropout, bool) or not isinstance(dropout, numbers.Real) or not 0 <= float(dropout) <= 1:
        raise ValueError(
            "dropout should be a number in range [0, 1] representing the probability of an element being zeroed, "
            f"but got {dropout!r}"
        )
    if float(dropout) > 0 and num_layers == 1:
        warnings.warn(
            "dropout option adds dropout after all but last recurrent layer, so non-zero dropout expects num_layers "
            f"greater than 1, but got dropout={dropout} and num_layers={num_layers}",
            stacklevel=4,  # who constructs an RNN, LSTM or GRU
        )
    return float(dropout)


def _check_sizes(bias: Any, batch_first: Any, proj_size: int, **sizes: Any) -> None:
    for name, flag in (("bias", bias), ("batch_first", batch_first)):
        if not isinstance(flag, bool):
            raise TypeError(f"{name} should be of type bool, got: {type(flag).__name__}")
    for name, size in sizes.items():
        if not isinstance(size, int):
            raise TypeError(f"{name} should be of type int, got: {type(size).__name__}")
        if size <= 0:
            raise ValueError(f"{name} must be greater than zero, but got {size}")
    if proj_size < 0:
        raise ValueError(f"proj_size should be a positive integer or zero to disable projections, but got {proj_size}")
    if proj_size >= sizes["hidden_size"]:
        raise ValueError(
            f"proj_size has to be smaller than hidden_size, but got {proj_size} and {sizes['hidden_size']}"
        )


def permute(state: Any, permutation: ArrayLike | None) -> Any:
    """A state with its sequences in another order; None leaves them as they are."""
    return state if permutation is None else jnp.take(unbox(state), unbox(permutation), axis=1, mode="clip")


class RNNBase(Module):
    """What RNN, LSTM and GRU share; it has no `forward`.

    Args:
        mode: "RNN_TANH", "RNN_RELU", "LSTM" or "GRU".
        input_size: the size of the input's last dimension.
        hidden_size: the size of the state.
        num_layers: how many layers there are, each running over the outputs of the one before.
        bias: whether there are biases.
        batch_first: whether input and output are `(N, T, *)`, not `(T, N, *)`. The states are the same either way.
        dropout: the probability of zeroing an element of the outputs of every layer but the last, in training mode.
        bidirectional: whether every layer also runs from the end to the beginning.
        proj_size: the size to which an LSTM's `h` is projected, 0 for no projection.
        device: where the parameters live, a device or a sharding.
        dtype: the parameters' dtype, float32 by default.

    Attributes:
        all_weights: the parameters, a list for each layer and direction.

    Raises:
        ValueError: a size or the probability is out of range, or the mode is not one of the four.
        TypeError: an argument is of the wrong type.

    Example:
        >>> from jaxmodule import nn
        >>> nn.RNNBase("GRU", 10, 20, bidirectional=True)
        RNNBase(10, 20, bidirectional=True)
    """

    def __init__(
        self,
        mode: str,
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
    ) -> None:
        super().__init__()
        _check_sizes(
            bias, batch_first, proj_size, input_size=input_size, hidden_size=hidden_size, num_layers=num_layers
        )
        if mode not in _GATES:
            raise ValueError(f"Unrecognized RNN mode: {mode}")
        self.mode: Mode = mode  # pyright: ignore[reportAttributeAccessIssue]
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.bias = bias
        self.batch_first = batch_first
        self.dropout = _check_dropout(dropout, num_layers)
        self.bidirectional = bidirectional
        self.proj_size = proj_size
        rows, size = _GATES[mode] * hidden_size, proj_size or hidden_size
        for layer in range(num_layers):
            columns = input_size if layer == 0 else size * self._directions
            shapes = {"weight_ih": (rows, columns), "weight_hh": (rows, size)}
            if bias:
                shapes |= {"bias_ih": (rows,), "bias_hh": (rows,)}
            if proj_size:
                shapes["weight_hr"] = (proj_size, hidden_size)
            for suffix in self._suffixes(layer):
                for name, shape in shapes.items():
                    setattr(self, name + suffix, empty_parameter(shape, device, dtype))
        self.reset_parameters()

    @property
    def _directions(self) -> int:
        return 2 if self.bidirectional else 1

    def _suffixes(self, layer: int) -> list[str]:
        return [f"_l{layer}", f"_l{layer}_reverse"][: self._directions]

    def _layer(self, suffix: str) -> dict[str, Any]:
        """The parameters of one layer and direction by their names in `Layer`."""
        return {name: getattr(self, name + suffix) for name in self._kinds}

    @property
    def _kinds(self) -> list[str]:
        names = ["weight_ih", "weight_hh", *(["bias_ih", "bias_hh"] if self.bias else [])]
        return names + (["weight_hr"] if self.proj_size else [])

    @property
    def _all_weights(self) -> list[list[str]]:
        """The parameters' names, a list for each layer and direction."""
        suffixes = [suffix for layer in range(self.num_layers) for suffix in self._suffixes(layer)]
        return [[name + suffix for name in self._kinds] for suffix in suffixes]

    @property
    def _flat_weights_names(self) -> list[str]:
        return [name for names in self._all_weights for name in names]

    @property
    def _flat_weights(self) -> list[Parameter]:
        """The parameters in one list: made when it is asked for, writing to it changes no parameter's place."""
        return [getattr(self, name) for name in self._flat_weights_names]

    @property
    def all_weights(self) -> list[list[Parameter]]:
        """The parameters, a list for each layer and direction."""
        return [[getattr(self, name) for name in names] for names in self._all_weights]

    def flatten_parameters(self) -> None:
        """Do nothing: in torch it moves the parameters into one piece of memory for cuDNN, and XLA places arrays."""

    def reset_parameters(self) -> None:
        """Draw the parameters anew."""
        bound = 1 / math.sqrt(self.hidden_size)
        for parameter in self.parameters():
            init.uniform_(parameter, -bound, bound)

    # -- checks ---------------------------------------------------------------------------------------------------
    def check_input(self, input: ArrayLike, batch_sizes: ArrayLike | None) -> None:
        """Raise where an input of `(T, N, *)` or `(N, T, *)`, or with `batch_sizes` of `(R, *)`, doesn't fit.

        Raises:
            ValueError: its dtype is not the weights'.
            RuntimeError: it has other dimensions, or not `input_size` features.
        """
        self._check_features(unbox(input), 3 if batch_sizes is None else 2)

    def _check_features(self, x: jax.Array, ndim: int) -> None:
        dtype = self._layer("_l0")["weight_ih"].dtype
        if x.dtype != dtype and tls.autocast is None:
            raise ValueError(
                f"RNN input dtype ({x.dtype.name}) does not match weight dtype ({dtype.name}). "
                f"Convert input: input.astype({dtype.name!r}), or convert model: model.to({x.dtype.name!r})"
            )
        if x.ndim != ndim:
            raise RuntimeError(f"input must have {ndim} dimensions, got {x.ndim} (size {shape_list(x)})")
        if x.shape[-1] != self.input_size:
            raise RuntimeError(
                f"input.size(-1) must be equal to input_size. Expected {self.input_size}, got {x.shape[-1]} "
                f"(size {shape_list(x)})"
            )

    def _state_sizes(self, *batch: int) -> list[tuple[int, ...]]:
        """The expected sizes of the states: of h, and of an LSTM's c."""
        sizes = [self.proj_size or self.hidden_size, *([self.hidden_size] if self.mode == "LSTM" else [])]
        return [(self.num_layers * self._directions, *batch, size) for size in sizes]

    def _batch(self, input: ArrayLike, batch_sizes: ArrayLike | None) -> int:
        if batch_sizes is None:
            return input.shape[0 if self.batch_first else 1]
        batch = batch_of(unbox(batch_sizes))
        if batch is None:
            raise ValueError("how many sequences there are can't be told from batch_sizes of a trace")
        return batch

    def get_expected_hidden_size(self, input: ArrayLike, batch_sizes: ArrayLike | None) -> tuple[int, ...]:
        """The size that `h_0` must have for this input."""
        return self._state_sizes(self._batch(input, batch_sizes))[0]

    def check_hidden_size(
        self, hx: ArrayLike, expected_hidden_size: tuple[int, ...], msg: str = "Expected hidden size {}, got {}"
    ) -> None:
        """Raise a RuntimeError with a message of these two sizes where they differ."""
        if tuple(hx.shape) != tuple(expected_hidden_size):
            raise RuntimeError(msg.format(tuple(expected_hidden_size), list(hx.shape)))

    def check_forward_args(self, input: ArrayLike, hidden: Any, batch_sizes: ArrayLike | None) -> None:
        """Raise where the input, or the states for it, don't fit."""
        self.check_input(input, batch_sizes)
        self._check_states((hidden,), self._state_sizes(self._batch(input, batch_sizes)), unbox(input))

    def _check_states(self, states: tuple[Any, ...], expected: list[tuple[int, ...]], x: jax.Array) -> None:
        for k, (state, size) in enumerate(zip(states, expected, strict=True)):
            name = "hidden" if len(expected) == 1 else f"hidden[{k}]"
            self.check_hidden_size(state, size, f"Expected {name} size {{}}, got {{}}")
            if state.dtype != x.dtype and tls.autocast is None:
                raise RuntimeError(
                    f"input and {name} must have the same dtype, but got {x.dtype.name} and {state.dtype.name}"
                )

    def permute_hidden(self, hx: Any, permutation: ArrayLike | None) -> Any:
        """The states with their sequences in another order; None leaves them as they are."""
        return permute(hx, permutation)

    # -- the call -------------------------------------------------------------------------------------------------
    def _run(self, input: Any, states: tuple[Any, ...] | None) -> tuple[Any, State]:
        """The output and the last states, for an array or a PackedSequence."""
        states = None if states is None else tuple(unbox(state) for state in states)
        if isinstance(input, PackedSequence):
            return self._run_packed(input, states)
        x = unbox(input)
        if x.ndim not in (2, 3):
            kind = self.mode.partition("_")[0]
            raise ValueError(f"{kind}: Expected input to be 2D or 3D, got {x.ndim}D instead (size {shape_list(x)})")
        if states is not None:
            self._check_ranks(states, x.ndim)
        self._check_features(x, x.ndim)
        batched = x.ndim == 3
        if x.shape[1 if batched and self.batch_first else 0] == 0:
            raise RuntimeError(f"Expected sequence length to be larger than 0 in RNN, got size {shape_list(x)}")
        if states is not None:
            self._check_states(states, self._state_sizes(*([self._batch(x, None)] if batched else [])), x)
        return self._compute(x, states, None, self.batch_first)

    def _check_ranks(self, states: State, ndim: int) -> None:
        ranks = [state.ndim for state in states]
        if ranks == [ndim] * len(ranks):
            return
        what = "batched 3-D" if ndim == 3 else "unbatched 2-D"
        if len(ranks) == 1:
            raise RuntimeError(f"For {what} input, hx should also be {ndim}-D but got {ranks[0]}-D tensor")
        found = ", ".join(f"{rank}-D" for rank in ranks)
        raise RuntimeError(f"For {what} input, hx and cx should also be {ndim}-D but got ({found}) tensors")

    def _run_packed(self, packed: PackedSequence, states: State | None) -> tuple[PackedSequence, State]:
        data, sizes, order, inverse = packed
        batch = packed._batch
        self._check_features(data, 2)
        if states is not None:
            self._check_states(states, self._state_sizes(batch), data)
            states = tuple(permute(state, order) for state in states)
        x = unpack_rows(data, sizes, batch=batch)
        y, states = self._compute(x, states, lengths_of(sizes, batch=batch), False)
        rows = pack_rows(y, sizes, count=data.shape[0])
        return packed._replace(data=rows), tuple(permute(state, inverse) for state in states)

    def _compute(
        self, x: jax.Array, states: State | None, lengths: jax.Array | None, batch_first: bool
    ) -> tuple[jax.Array, State]:
        layers = []
        for layer in range(self.num_layers):
            for suffix in self._suffixes(layer):
                layers.append(Layer(**{name: unbox(value) for name, value in self._layer(suffix).items()}))
        dropping = self.training and self.dropout > 0
        return recurrent(
            x,
            states,
            layers,
            lengths,
            tuple(next_key() for _ in range(self.num_layers - 1)) if dropping else (),
            mode=self.mode,
            bidirectional=self.bidirectional,
            batch_first=batch_first,
            dropout=self.dropout,
        )

    def extra_repr(self) -> str:
        """The constructor's arguments, those at their default left out."""
        parts = [
            f"{self.input_size}, {self.hidden_size}",
            f"proj_size={self.proj_size}" if self.proj_size != 0 else "",
            f"num_layers={self.num_layers}" if self.num_layers != 1 else "",
            f"bias={self.bias}" if self.bias is not True else "",
            f"batch_first={self.batch_first}" if self.batch_first is not False else "",
            f"dropout={self.dropout}" if self.dropout != 0 else "",
            f"bidirectional={self.bidirectional}" if self.bidirectional is not False else "",
        ]
        return ", ".join(part for part in parts if part)

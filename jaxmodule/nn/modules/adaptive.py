"""The adaptive softmax as a layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
from jax.typing import DTypeLike

from ...core.box import unbox
from ..functional._adaptive import adaptive_log_prob, adaptive_log_softmax_with_loss, adaptive_predict
from ..functional._common import ArrayLike, concrete_range, is_integer, shape_list
from ..module import Module
from .container import ModuleList, Sequential
from .linear import Linear
from .utils import Placement

__all__ = ["AdaptiveLogSoftmaxWithLoss"]


class _ASMoutput(NamedTuple):
    output: jax.Array
    loss: jax.Array


class AdaptiveLogSoftmaxWithLoss(Module):
    """`-log p(target | input)` over many classes, of which rare ones share a few features (Grave et al., 2016).

    Classes are sorted by frequency. The first have logits of their own in the head; the others are in clusters, each
    with one logit in the head and a tail that tells its classes apart, `in_features / div_value ** i` features wide.

    Args:
        in_features: the size of the input's last dimension.
        n_classes: how many classes there are.
        cutoffs: where each cluster begins.
        div_value: by how much narrower each tail is than the one before.
        head_bias: whether the head adds a bias.
        device: where the parameters live, a device or a sharding.
        dtype: the parameters' dtype, float32 by default.

    Shape:
        - Input: `(N, in_features)` or `(in_features)`; target: `(N)` or `()`.
        - Output: a tuple of the targets' log-probabilities, `(N)` or `()`, and of the loss, minus their mean, `()`.

    Attributes:
        head: a `Linear` to `cutoffs[0] + len(cutoffs)` outputs.
        tail: a `ModuleList` of a `Sequential` of two `Linear` without bias for each cluster.

    Raises:
        ValueError: the cutoffs are none, or no increasing numbers between 1 and `n_classes - 1`.
        RuntimeError: on call, the sizes don't fit, or a target is no class, where targets are concrete; compiled, its
            output is NaN.

    Note:
        Every tail is computed for all inputs, where torch leaves out those of other clusters: under `jm.jit` no shape
        may depend on the targets.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> module = nn.AdaptiveLogSoftmaxWithLoss(16, 1000, cutoffs=[10, 100])
        >>> output, loss = module(jnp.ones((4, 16)), jnp.array([1, 20, 300, 999]))
        >>> output.shape, module.log_prob(jnp.ones((4, 16))).shape
        ((4,), (4, 1000))
    """

    def __init__(
        self,
        in_features: int,
        n_classes: int,
        cutoffs: Sequence[int],
        div_value: float = 4.0,
        head_bias: bool = False,
        device: Placement | None = None,
        dtype: DTypeLike | None = None,
    ) -> None:
        super().__init__()
        cutoffs = list(cutoffs)
        if not cutoffs:
            raise ValueError("cutoffs should be a sequence of length larger than 0")
        increasing = all(a < b for a, b in zip([0, *cutoffs], [*cutoffs, n_classes], strict=True))
        if not increasing or any(int(c) != c for c in cutoffs):
            raise ValueError(
                "cutoffs should be a sequence of unique, positive integers sorted in an increasing order, where each "
                f"value is between 1 and n_classes-1, but got {cutoffs} for {n_classes} classes"
            )
        self.in_features = in_features
        self.n_classes = n_classes
        self.cutoffs = [*cutoffs, n_classes]
        self.div_value = div_value
        self.head_bias = head_bias
        self.shortlist_size = self.cutoffs[0]
        self.n_clusters = len(self.cutoffs) - 1
        self.head_size = self.shortlist_size + self.n_clusters
        self.head = Linear(in_features, self.head_size, bias=head_bias, device=device, dtype=dtype)
        self.tail = ModuleList()
        for i in range(self.n_clusters):
            hidden = int(in_features // div_value ** (i + 1))
            classes = self.cutoffs[i + 1] - self.cutoffs[i]
            self.tail.append(
                Sequential(
                    Linear(in_features, hidden, bias=False, device=device, dtype=dtype),
                    Linear(hidden, classes, bias=False, device=device, dtype=dtype),
                )
            )

    def reset_parameters(self) -> None:
        """Draw the parameters anew."""
        self.head.reset_parameters()
        for projection in self.tail:
            for layer in projection.children():
                layer.reset_parameters()

    def forward(self, input_: ArrayLike, target_: ArrayLike) -> _ASMoutput:
        """The log-probability of each target, and the loss."""
        x, target = unbox(input_), unbox(target_)
        self._check(x, target)
        rows, targets = (x, target) if target.ndim else (x[None], target[None])
        cutoffs = tuple(self.cutoffs)
        output, loss = adaptive_log_softmax_with_loss(*self._logits(rows), targets, cutoffs=cutoffs)
        return _ASMoutput(output if target.ndim else output[0], loss)

    def log_prob(self, input: ArrayLike) -> jax.Array:
        """The log-probability of every class, `(N, n_classes)`.

        Args:
            input: `(N, in_features)`.

        Raises:
            IndexError: the input has another number of dimensions.
        """
        return adaptive_log_prob(*self._logits(self._matrix(input)))

    def predict(self, input: ArrayLike) -> jax.Array:
        """The most probable class of each input, `(N)`: of the shortlist, unless a cluster is more probable than it.

        Args:
            input: `(N, in_features)`.

        Raises:
            IndexError: the input has another number of dimensions.
        """
        return adaptive_predict(*self._logits(self._matrix(input)))

    def _logits(self, x: jax.Array) -> tuple[jax.Array, list[jax.Array]]:
        return self.head(x), [projection(x) for projection in self.tail]

    def _matrix(self, input: ArrayLike) -> jax.Array:
        x = unbox(input)
        if x.ndim != 2:
            raise IndexError(
                f"Dimension out of range: expected an input (N, {self.in_features}), but got {shape_list(x)}"
            )
        return x

    def _check(self, x: jax.Array, target: jax.Array) -> None:
        sizes = f"input {shape_list(x)}, target {shape_list(target)}"
        if target.ndim > 1:
            raise RuntimeError(f"0D or 1D target tensor expected, multi-target not supported: {sizes}")
        if target.ndim and (not x.ndim or x.shape[0] != target.shape[0]):
            raise RuntimeError(f"Input and target should have the same size in the batch dimension: {sizes}")
        if x.ndim != target.ndim + 1:
            raise RuntimeError(
                f"{target.ndim}D target tensor expects {target.ndim + 1}D input tensors, but found inputs with size "
                f"{shape_list(x)}"
            )
        if not is_integer(target):
            raise RuntimeError(f"expected target dtype to be an integer one, but got {target.dtype.name}")
        found = concrete_range(target)
        if found is not None and not (found[0] >= 0 and found[1] < self.n_classes):
            raise RuntimeError(
                f"Target values should be in [0, {self.n_classes - 1}], but values in range [{found[0]}, {found[1]}] "
                f"were found: {sizes}"
            )

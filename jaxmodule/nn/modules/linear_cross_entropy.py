"""The cross entropy of a linear map as a layer that owns the map. Its public name is in `loss`, as torch's."""

from __future__ import annotations

import math

import jax
import numpy as np
from jax.typing import DTypeLike

from ...core.box import unbox
from .. import functional as F
from ..functional._common import ArrayLike
from ._loss_base import _WeightedLoss
from .linear import Linear
from .linear_cross_entropy_options import LinearCrossEntropyOptions
from .utils import Placement


class LinearCrossEntropyLoss(_WeightedLoss):
    """`cross_entropy(linear(input), target)`: the last layer of a classifier together with its loss.

    Args:
        in_features: the size of the input's last dimension.
        num_classes: how many classes `C` there are.
        out_features: the further dimensions of a K-dimensional loss, each position with a map of its own.
        bias: whether the map adds a bias.
        device: where the parameters live, a device or a sharding.
        dtype: the parameters' dtype, float32 by default.
        reduction: "none", "mean" or "sum".
        weight: a factor for each class. With class indices, the mean is weighted by it.
        ignore_index: a class index that is left out of the loss and of the mean, -100 by default.
        label_smoothing: the share of the uniform distribution in the target, in `[0, 1]`.
        options: in which chunks to compute, so that never all logits exist at once; None for all at once.

    Shape:
        - Input: `(N, in_features)` or `(in_features)`.
        - Target: indices `()`, `(N)` or `(N, *out_features)`; or probabilities `(C)` or `(N, C, *out_features)`.
        - Output: `()`, or with "none" the shape of indices.

    Attributes:
        linear: the map, whose outputs are all classes of the first position, then of the next; see `Linear`.
        weight: a buffer `(C)`, or None.

    Raises:
        RuntimeError: the weight has another size, or `label_smoothing` is out of range; on call, sizes or dtypes don't
            fit.
        ValueError: on call, the batch sizes differ, `reduction` is another word, or the options contradict each other.
        IndexError: on call, a target is no class, where targets are concrete; compiled, its loss is NaN.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> loss = nn.LinearCrossEntropyLoss(16, 100, options=nn.LinearCrossEntropyOptions(batch_chunk_size=4))
        >>> loss(jnp.ones((8, 16)), jnp.arange(8)).shape
        ()
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        *,
        out_features: tuple[int, ...] = (),
        bias: bool = False,
        device: Placement | None = None,
        dtype: DTypeLike | None = None,
        reduction: str = "mean",
        weight: ArrayLike | None = None,
        ignore_index: int | None = None,
        label_smoothing: float = 0.0,
        options: LinearCrossEntropyOptions | None = None,
    ) -> None:
        if weight is not None and np.shape(weight) != (num_classes,):
            raise RuntimeError(f"expected weight shape to be {(num_classes,)}, got {np.shape(weight)}")
        if not 0.0 <= label_smoothing <= 1.0:
            raise RuntimeError(f"expected label_smoothing to be in range [0, 1], got {label_smoothing}")
        super().__init__(weight, None, None, reduction)
        self.num_classes = num_classes
        self.out_features = out_features
        self.ignore_index = ignore_index
        self.label_smoothing = label_smoothing
        outputs = math.prod(out_features, start=num_classes)
        self.linear = Linear(in_features, outputs, bias=bias, device=device, dtype=dtype)
        self.options = options

    def reset_parameters(self) -> None:
        """Draw the parameters anew."""
        self.linear.reset_parameters()

    def forward(self, input: ArrayLike, target: ArrayLike) -> jax.Array:
        """The loss of the logits of `input` against `target`."""
        shape = (self.num_classes, *self.out_features)
        bias = unbox(self.linear.bias)
        return F.linear_cross_entropy(
            input,
            unbox(self.linear.weight).reshape(*shape, self.linear.in_features),
            target,
            linear_bias=None if bias is None else bias.reshape(shape),
            weight=self.weight,
            reduction=self.reduction,
            ignore_index=self.ignore_index,
            label_smoothing=self.label_smoothing,
            options=self.options,
        )

    def extra_repr(self) -> str:
        """The constructor's arguments."""
        return (
            f"in_features={self.linear.in_features}, num_classes={self.num_classes}, out_features={self.out_features}, "
            f"bias={self.linear.bias is not None}, reduction={self.reduction}, ignore_index={self.ignore_index}, "
            f"label_smoothing={self.label_smoothing}, options={self.options}"
        )

"""How `linear_cross_entropy` divides its work."""

from __future__ import annotations

import dataclasses
from typing import Literal, NamedTuple, cast

import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from ._common import HALF_DTYPES

__all__ = ["LinearCrossEntropyOptions", "Plan"]

_ACC_POLICIES = ("auto", "accurate", "balanced", "compact")
_ACC_DTYPES = ("float16", "bfloat16", "float32", "float64")
_HALF_NAMES = tuple(dtype.name for dtype in HALF_DTYPES)


class Plan(NamedTuple):
    """Options with every choice made, for one call."""

    batch_chunk_size: int
    acc_policy: str
    acc_dtype: np.dtype


@dataclasses.dataclass(slots=True, frozen=True)
class LinearCrossEntropyOptions:
    """The chunks in which `linear_cross_entropy` takes the batch, and their precision.

    With options, logits exist for one chunk of the batch at a time. That pays where there are more classes than
    features and no fewer elements than features, as at the head of a language model.

    Args:
        allow_retain_graph: whether torch's backward may run twice. See Note.
        batch_chunk_size: how many elements are a chunk; None for all of them, or what `chunking_method` says.
        chunking_method: "aspect_ratio" makes the logits of a chunk about as large as the input; "aspect_ratio:N" makes
            a chunk N times smaller than that; "auto" is the first for half precision on CPU and else the second with 2,
            unless `batch_chunk_size` is given; None for neither.
        acc_policy: what is kept in `acc_dtype`. "accurate": everything until the gradients are done; "balanced": the
            softmax is rounded to the input's dtype before its products, whose sums over chunks are kept; "compact":
            these too are in the input's dtype; "auto": "accurate" for half precision on CPU, else "compact".
        acc_dtype: float32 for a half-precision input, or the input's dtype. None is the input's, but float32 for half
            precision if the policy is "auto".

    Raises:
        ValueError: an argument has no such value.

    Note:
        Arrays are immutable: a gradient can be taken any number of times, whatever `allow_retain_graph` says.

    Example:
        >>> from jaxmodule import nn
        >>> nn.LinearCrossEntropyOptions(batch_chunk_size=128).acc_policy
        'auto'
    """

    allow_retain_graph: bool = False
    batch_chunk_size: int | None = None
    chunking_method: str | None = "auto"
    acc_policy: Literal["accurate", "balanced", "compact", "auto"] = "auto"
    acc_dtype: DTypeLike | None = None

    def __post_init__(self) -> None:
        if self.acc_policy not in _ACC_POLICIES:
            raise ValueError(f"invalid acc_policy: {self.acc_policy!r}, which is one of {_ACC_POLICIES}")
        if self.chunking_method not in (None, "auto"):
            name, colon, factor = cast(str, self.chunking_method).partition(":")
            if name != "aspect_ratio" or (colon and not (factor.isdigit() and int(factor) > 0)):
                raise ValueError(f"invalid chunking_method: {self.chunking_method!r}")
        size = self.batch_chunk_size
        if size is not None and not (isinstance(size, int) and size > 0):
            raise ValueError(f"batch_chunk_size must be positive int or None, got {size!r}")
        if self.acc_dtype is not None:
            try:
                known = jnp.dtype(self.acc_dtype).name in _ACC_DTYPES
            except TypeError:
                known = False
            if not known:
                raise ValueError(f"acc_dtype must be None or one of {_ACC_DTYPES}, got {self.acc_dtype!r}")

    def _adjust(
        self, num_batches: int, in_features: int, num_classes: int, dtype: DTypeLike, platform: str | None = None
    ) -> Plan:
        """The choices for one call.

        Raises:
            ValueError: a chunk size and a method are given that differ.
            RuntimeError: the accumulation dtype doesn't go with the input's.
        """
        dtype = jnp.dtype(dtype)
        half = dtype.name in _HALF_NAMES
        emulated = half and platform == "cpu"  # where a half-precision product is one of float32 anyway
        policy = self.acc_policy
        if policy == "auto":
            policy = "accurate" if emulated else "compact"
        if self.acc_dtype is not None:
            acc_dtype = jnp.dtype(self.acc_dtype)
        else:
            acc_dtype = jnp.dtype(jnp.float32) if half and self.acc_policy == "auto" and platform else dtype
        if acc_dtype != dtype and not (half and acc_dtype == jnp.float32):
            raise RuntimeError(
                "linear_cross_entropy supports float32 acc_dtype with float16/bfloat16 inputs, but got "
                f"{acc_dtype.name} acc_dtype and {dtype.name} inputs."
            )
        method = self.chunking_method
        if method == "auto":
            method = "aspect_ratio" if emulated else "aspect_ratio:2"
            method = None if self.batch_chunk_size is not None else method
        given = self.batch_chunk_size
        if method is None:
            return Plan(max(1, min(given or num_batches, num_batches)), policy, acc_dtype)
        size = _aspect_ratio_chunk(num_batches, in_features, num_classes, int(method.partition(":")[2] or 1))
        if given is not None and given != size:
            raise ValueError(
                f"batch_chunk_size (={given}) and chunking_method ('{method}') give different chunk sizes ({given} vs "
                f"{size}); pass only one."
            )
        return Plan(max(1, size), policy, acc_dtype)


def _aspect_ratio_chunk(num_batches: int, in_features: int, num_classes: int, factor: int) -> int:
    """So many elements that their logits are about as large as the whole input, rounded up to a power of 2."""
    ratio = max(1, -(-num_classes // max(1, in_features)))
    rows = -(-num_batches // ratio)
    return min((1 << max(0, rows - 1).bit_length()) // factor, num_batches)

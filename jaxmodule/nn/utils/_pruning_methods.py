"""The methods of pruning that come with the library: how each makes its mask."""

from __future__ import annotations

import math
import numbers

import jax
import jax.numpy as jnp

from ...core.box import Slot, unbox
from ...random import next_key
from ..functional._common import ArrayLike, along_axis
from ..module import Module
from ._pruning import BasePruningMethod


class Identity(BasePruningMethod):
    """Prune nothing."""

    PRUNING_TYPE = "unstructured"

    def compute_mask(self, t: jax.Array, default_mask: jax.Array) -> jax.Array:
        return default_mask

    @classmethod
    def apply(cls, module: Module, name: str) -> BasePruningMethod:  # pyright: ignore[reportIncompatibleMethodOverride]
        return super().apply(module, name)


class _ByAmount(BasePruningMethod):
    """What the methods that prune an amount share."""

    amount: float

    def __init__(self, amount: float) -> None:
        if not isinstance(amount, numbers.Real):
            raise TypeError(f"Invalid type for amount: {amount}. Must be int or float.")
        most = math.inf if isinstance(amount, numbers.Integral) else 1
        if not 0 <= amount <= most:
            raise ValueError(f"amount={amount} should either be a float in the range [0, 1] or a non-negative integer")
        self.amount = amount

    def _count(self, size: int) -> int:
        """How many of `size` to prune."""
        if not isinstance(self.amount, numbers.Integral):
            return round(self.amount * size)
        if self.amount > size:
            raise ValueError(f"amount={self.amount} should be smaller than the number of parameters to prune={size}")
        return int(self.amount)


class _Unstructured(_ByAmount):
    PRUNING_TYPE = "unstructured"

    def _importance(self, t: jax.Array) -> jax.Array:
        raise NotImplementedError

    def compute_mask(self, t: jax.Array, default_mask: jax.Array) -> jax.Array:
        lowest = jnp.argsort(self._importance(t).reshape(-1))[: self._count(t.size)]
        return default_mask.reshape(-1).at[lowest].set(0).reshape(default_mask.shape)


class RandomUnstructured(_Unstructured):
    """Prune elements at random.

    Args:
        amount: how many, or which part of them.
    """

    def __init__(self, amount: float) -> None:
        super().__init__(amount)

    def _importance(self, t: jax.Array) -> jax.Array:
        return jax.random.uniform(next_key(), t.shape)

    @classmethod
    def apply(  # pyright: ignore[reportIncompatibleMethodOverride]
        cls, module: Module, name: str, amount: float
    ) -> BasePruningMethod:
        return super().apply(module, name, amount=amount)


class L1Unstructured(_Unstructured):
    """Prune the elements with the smallest absolute values.

    Args:
        amount: how many, or which part of them.
    """

    def __init__(self, amount: float) -> None:
        super().__init__(amount)

    def _importance(self, t: jax.Array) -> jax.Array:
        return jnp.abs(t)

    @classmethod
    def apply(  # pyright: ignore[reportIncompatibleMethodOverride]
        cls, module: Module, name: str, amount: float, importance_scores: ArrayLike | None = None
    ) -> BasePruningMethod:
        return super().apply(module, name, amount=amount, importance_scores=importance_scores)


class _Structured(_ByAmount):
    PRUNING_TYPE = "structured"
    dim: int

    def _importance(self, t: jax.Array) -> jax.Array:
        """One number for each channel."""
        raise NotImplementedError

    def compute_mask(self, t: jax.Array, default_mask: jax.Array) -> jax.Array:
        if t.ndim <= 1:
            raise ValueError(
                "Structured pruning can only be applied to multidimensional tensors. "
                f"Found tensor of shape {t.shape} with {t.ndim} dims"
            )
        if not -t.ndim <= self.dim < t.ndim:
            raise IndexError(f"Invalid index {self.dim} for tensor of size {t.shape}")
        dim = self.dim % t.ndim
        lowest = jnp.argsort(self._importance(t))[: self._count(t.shape[dim])]
        kept = jnp.ones(t.shape[dim], default_mask.dtype).at[lowest].set(0)
        return default_mask * along_axis(kept, dim, t.ndim)


class RandomStructured(_Structured):
    """Prune channels at random.

    Args:
        amount: how many, or which part of them.
        dim: the dimension of the channels.
    """

    def __init__(self, amount: float, dim: int = -1) -> None:
        super().__init__(amount)
        self.dim = dim

    def _importance(self, t: jax.Array) -> jax.Array:
        return jax.random.uniform(next_key(), (t.shape[self.dim],))

    @classmethod
    def apply(  # pyright: ignore[reportIncompatibleMethodOverride]
        cls, module: Module, name: str, amount: float, dim: int = -1
    ) -> BasePruningMethod:
        return super().apply(module, name, amount=amount, dim=dim)


class LnStructured(_Structured):
    """Prune the channels with the smallest norms.

    Args:
        amount: how many, or which part of them.
        n: the norm: a number, `inf`, `-inf`, "fro" or "nuc".
        dim: the dimension of the channels.
    """

    def __init__(self, amount: float, n: float | str, dim: int = -1) -> None:
        super().__init__(amount)
        self.n = n
        self.dim = dim

    def _importance(self, t: jax.Array) -> jax.Array:
        channels = jnp.moveaxis(t, self.dim, 0)
        if isinstance(self.n, str):
            if channels.ndim != 3:
                raise RuntimeError(
                    f"the norm {self.n!r} is one of matrices; a channel has the shape {channels.shape[1:]}"
                )
            return jnp.linalg.norm(channels, self.n, axis=(1, 2))
        return jnp.linalg.norm(channels.reshape(channels.shape[0], -1), self.n, axis=1)

    @classmethod
    def apply(  # pyright: ignore[reportIncompatibleMethodOverride]
        cls,
        module: Module,
        name: str,
        amount: float,
        n: float | str,
        dim: int,
        importance_scores: ArrayLike | None = None,
    ) -> BasePruningMethod:
        return super().apply(module, name, amount=amount, n=n, dim=dim, importance_scores=importance_scores)


class CustomFromMask(BasePruningMethod):
    """Prune what a mask says, and what is pruned already.

    Args:
        mask: 0 for what is pruned and 1 for the rest.
    """

    PRUNING_TYPE = "global"

    def __init__(self, mask: ArrayLike) -> None:
        self._mask = Slot(unbox(mask))  # a box, so that pruning inside a trace leaves no tracer behind

    @property
    def mask(self) -> jax.Array:
        """The mask."""
        return self._mask.value

    def compute_mask(self, t: jax.Array, default_mask: jax.Array) -> jax.Array:
        if default_mask.shape != self.mask.shape:
            raise AssertionError(
                f"default_mask shape {default_mask.shape} must match self.mask shape {self.mask.shape}"
            )
        return default_mask * self.mask.astype(default_mask.dtype)

    @classmethod
    def apply(  # pyright: ignore[reportIncompatibleMethodOverride]
        cls, module: Module, name: str, mask: ArrayLike
    ) -> BasePruningMethod:
        return super().apply(module, name, mask=mask)

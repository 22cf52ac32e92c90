"""Bags of an embedding table's rows."""

from __future__ import annotations

from typing import Self

import jax
from jax.typing import DTypeLike

from ...core.box import unbox
from .. import functional as F
from .. import init
from ..functional._common import ArrayLike
from ..functional._table import SPARSE_MESSAGE
from ..module import Module
from ..parameter import Parameter
from ._table import clear_padding, given_table, matrix_shape, padding_row
from .utils import Placement, empty_parameter


class EmbeddingBag(Module):
    """The sum, mean or maximum of the rows that each bag of indices names.

    Args:
        num_embeddings: the number of rows.
        embedding_dim: the size of a row.
        max_norm: before each look-up, scale the rows in question down to this norm, in the table itself.
        norm_type: the `p` of that norm.
        scale_grad_by_freq: divide a row's gradient by how often the row is looked up in the call; not for "max".
        mode: "sum", "mean" or "max".
        sparse: must be False: JAX's arrays have no sparse gradients.
        _weight: the table to start from.
        include_last_offset: whether the last offset is where the last bag ends.
        padding_idx: the index of a row that is left out of its bags, starts as zeros and gets no gradient.
        device: where the table lives, a device or a sharding.
        dtype: its dtype, float32 by default.

    Shape:
        - Input: `(B, N)`, or `(M)` with offsets, of any integer dtype.
        - Offsets: `(B)`: where each bag begins, the first at 0; or `(B + 1)` with the last one.
        - Per_sample_weights: as the input; a factor for each row, only for "sum".
        - Output: `(B, embedding_dim)`; a bag of nothing gives 0.

    Attributes:
        weight: `(num_embeddings, embedding_dim)`, from N(0, 1).

    Raises:
        AssertionError: `padding_idx` is no row, or `_weight` has another shape.
        ValueError: `sparse` is True; on call, an argument has another rank or shape.
        RuntimeError: on call, an index or offset is out of range, where they are concrete. See Note.

    Note:
        Under `jm.jit` neither indices nor offsets can be checked: there a row of NaN stands for one out of range.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> bags = nn.EmbeddingBag(10, 3, mode="sum")
        >>> bags(jnp.array([1, 2, 4, 5, 4, 3, 2, 9]), jnp.array([0, 4])).shape
        (2, 3)
    """

    weight: Parameter

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        mode: str = "mean",
        sparse: bool = False,
        _weight: ArrayLike | None = None,
        include_last_offset: bool = False,
        padding_idx: int | None = None,
        device: Placement | None = None,
        dtype: DTypeLike | None = None,
    ) -> None:
        super().__init__()
        if sparse:
            raise ValueError(SPARSE_MESSAGE)
        self.num_embeddings = num_embeddings
        self.embedding_dim = embedding_dim
        self.max_norm = max_norm
        self.norm_type = norm_type
        self.scale_grad_by_freq = scale_grad_by_freq
        self.padding_idx = padding_row(padding_idx, num_embeddings)
        if _weight is None:
            self.weight = empty_parameter((num_embeddings, embedding_dim), device, dtype)
            self.reset_parameters()
        else:
            self.weight = given_table(_weight, (num_embeddings, embedding_dim), device, dtype)
        self.mode = mode
        self.sparse = sparse
        self.include_last_offset = include_last_offset

    def reset_parameters(self) -> None:
        """Draw the table anew, with zeros at `padding_idx`."""
        init.normal_(self.weight)
        self._fill_padding_idx_with_zero()

    def _fill_padding_idx_with_zero(self) -> None:
        clear_padding(self.weight, self.padding_idx)

    def forward(
        self, input: ArrayLike, offsets: ArrayLike | None = None, per_sample_weights: ArrayLike | None = None
    ) -> jax.Array:
        """Look the bags up."""
        return F.embedding_bag(
            input,
            self.weight,
            offsets,
            self.max_norm,
            self.norm_type,
            self.scale_grad_by_freq,
            self.mode,
            self.sparse,
            per_sample_weights,
            self.include_last_offset,
            self.padding_idx,
        )

    def extra_repr(self) -> str:
        """The constructor's arguments, those at their default left out."""
        parts = [
            f"{self.num_embeddings!r}, {self.embedding_dim!r}",
            f"max_norm={self.max_norm!r}" if self.max_norm is not None else "",
            f"norm_type={self.norm_type!r}" if self.norm_type != 2 else "",
            f"scale_grad_by_freq={self.scale_grad_by_freq!r}" if self.scale_grad_by_freq is not False else "",
            f"mode={self.mode!r}",
            f"padding_idx={self.padding_idx!r}" if self.padding_idx is not None else "",
        ]
        return ", ".join(part for part in parts if part)

    @classmethod
    def from_pretrained(
        cls,
        embeddings: ArrayLike,
        freeze: bool = True,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        mode: str = "mean",
        sparse: bool = False,
        include_last_offset: bool = False,
        padding_idx: int | None = None,
    ) -> Self:
        """A layer round an existing table.

        Args:
            embeddings: the table, `(num_embeddings, embedding_dim)`. Its row `padding_idx` is kept as it is.
            freeze: whether it is not to be trained.
            max_norm: see the class.
            norm_type: see the class.
            scale_grad_by_freq: see the class.
            mode: see the class.
            sparse: see the class.
            include_last_offset: see the class.
            padding_idx: see the class.

        Raises:
            AssertionError: the table is not a matrix.

        Example:
            >>> import jax.numpy as jnp
            >>> from jaxmodule import nn
            >>> nn.EmbeddingBag.from_pretrained(jnp.array([[1.0, 2.5], [4.0, 5.5]]))(jnp.array([[1, 0]])).tolist()
            [[2.5, 4.0]]
        """
        table = unbox(embeddings)
        rows, columns = matrix_shape(table)
        bags = cls(
            rows,
            columns,
            max_norm=max_norm,
            norm_type=norm_type,
            scale_grad_by_freq=scale_grad_by_freq,
            mode=mode,
            sparse=sparse,
            _weight=table,
            include_last_offset=include_last_offset,
            padding_idx=padding_idx,
        )
        bags.weight.requires_grad = not freeze
        return bags

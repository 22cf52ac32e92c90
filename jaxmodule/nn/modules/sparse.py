"""The embedding table, looked up in rows or in bags of them."""

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
from ._embedding_bag import EmbeddingBag
from ._table import clear_padding, given_table, matrix_shape, padding_row
from .utils import Placement, empty_parameter

__all__ = ["Embedding", "EmbeddingBag"]


class Embedding(Module):
    """`weight[input]`: a learned row for each index.

    Args:
        num_embeddings: the number of rows.
        embedding_dim: the size of a row.
        padding_idx: the index of a row that starts as zeros and gets no gradient; negative counts from the back.
        max_norm: before each look-up, scale the rows in question down to this norm, in the table itself.
        norm_type: the `p` of that norm.
        scale_grad_by_freq: divide a row's gradient by how often the row is looked up in the call.
        sparse: must be False: JAX's arrays have no sparse gradients.
        _weight: the table to start from.
        _freeze: whether the table is not to be trained.
        device: where the table lives, a device or a sharding.
        dtype: its dtype, float32 by default.

    Shape:
        - Input: `(*)`, of any integer dtype.
        - Output: `(*, embedding_dim)`.

    Attributes:
        weight: `(num_embeddings, embedding_dim)`, from N(0, 1).

    Raises:
        AssertionError: `padding_idx` is no row, or `_weight` has another shape.
        ValueError: `sparse` is True.
        IndexError: on call, an index is no row, where indices are concrete. See Note.

    Note:
        Under `jm.jit` no index can be checked: there a row of NaN stands for one out of range.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule import nn
        >>> table = nn.Embedding(10, 3, padding_idx=0)
        >>> table(jnp.array([[0, 2, 0, 5]])).shape
        (1, 4, 3)
    """

    weight: Parameter

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        sparse: bool = False,
        _weight: ArrayLike | None = None,
        _freeze: bool = False,
        device: Placement | None = None,
        dtype: DTypeLike | None = None,
    ) -> None:
        super().__init__()
        if sparse:
            raise ValueError(SPARSE_MESSAGE)
        self.num_embeddings = num_embeddings
        self.embedding_dim = embedding_dim
        self.padding_idx = padding_row(padding_idx, num_embeddings)
        self.max_norm = max_norm
        self.norm_type = norm_type
        self.scale_grad_by_freq = scale_grad_by_freq
        self.sparse = sparse
        if _weight is None:
            self.weight = empty_parameter((num_embeddings, embedding_dim), device, dtype, requires_grad=not _freeze)
            self.reset_parameters()
        else:
            self.weight = given_table(
                _weight, (num_embeddings, embedding_dim), device, dtype, requires_grad=not _freeze
            )

    def reset_parameters(self) -> None:
        """Draw the table anew, with zeros at `padding_idx`."""
        init.normal_(self.weight)
        self._fill_padding_idx_with_zero()

    def _fill_padding_idx_with_zero(self) -> None:
        clear_padding(self.weight, self.padding_idx)

    def forward(self, input: ArrayLike) -> jax.Array:
        """Look the rows up."""
        return F.embedding(
            input,
            self.weight,
            self.padding_idx,
            self.max_norm,
            self.norm_type,
            self.scale_grad_by_freq,
            self.sparse,
        )

    def extra_repr(self) -> str:
        """The constructor's arguments, those at their default left out."""
        parts = [
            f"{self.num_embeddings}, {self.embedding_dim}",
            f"padding_idx={self.padding_idx}" if self.padding_idx is not None else "",
            f"max_norm={self.max_norm}" if self.max_norm is not None else "",
            f"norm_type={self.norm_type}" if self.norm_type != 2 else "",
            f"scale_grad_by_freq={self.scale_grad_by_freq}" if self.scale_grad_by_freq is not False else "",
        ]
        return ", ".join(part for part in parts if part)

    @classmethod
    def from_pretrained(
        cls,
        embeddings: ArrayLike,
        freeze: bool = True,
        padding_idx: int | None = None,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        sparse: bool = False,
    ) -> Self:
        """A layer round an existing table.

        Args:
            embeddings: the table, `(num_embeddings, embedding_dim)`. Its row `padding_idx` is kept as it is.
            freeze: whether it is not to be trained.
            padding_idx: see the class.
            max_norm: see the class.
            norm_type: see the class.
            scale_grad_by_freq: see the class.
            sparse: see the class.

        Raises:
            AssertionError: the table is not a matrix.

        Example:
            >>> import jax.numpy as jnp
            >>> from jaxmodule import nn
            >>> nn.Embedding.from_pretrained(jnp.array([[1.0, 2.5], [4.0, 5.5]]))(jnp.array(1)).tolist()
            [4.0, 5.5]
        """
        table = unbox(embeddings)
        rows, columns = matrix_shape(table)
        return cls(
            rows,
            columns,
            padding_idx=padding_idx,
            max_norm=max_norm,
            norm_type=norm_type,
            scale_grad_by_freq=scale_grad_by_freq,
            sparse=sparse,
            _weight=table,
            _freeze=freeze,
        )

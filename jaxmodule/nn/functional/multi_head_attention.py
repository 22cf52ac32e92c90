"""Attention of many heads with its projections: what `MultiheadAttention` computes."""

from __future__ import annotations

import jax

from ...core.box import unbox
from ...random import next_key
from ._attention_masks import canonical_masks
from ._autocast import autocasts
from ._common import ArrayLike, shape_list
from ._multi_head import MHAOptions, MHAWeights, run_heads
from ._sdpa_kernel import allowed_backends

__all__ = ["multi_head_attention_forward"]

Array = jax.Array | None


def multi_head_attention_forward(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    embed_dim_to_check: int,
    num_heads: int,
    in_proj_weight: ArrayLike | None,
    in_proj_bias: ArrayLike | None,
    bias_k: ArrayLike | None,
    bias_v: ArrayLike | None,
    add_zero_attn: bool,
    dropout_p: float,
    out_proj_weight: ArrayLike,
    out_proj_bias: ArrayLike | None,
    training: bool = True,
    key_padding_mask: ArrayLike | None = None,
    need_weights: bool = True,
    attn_mask: ArrayLike | None = None,
    use_separate_proj_weight: bool = False,
    q_proj_weight: ArrayLike | None = None,
    k_proj_weight: ArrayLike | None = None,
    v_proj_weight: ArrayLike | None = None,
    static_k: ArrayLike | None = None,
    static_v: ArrayLike | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[jax.Array, jax.Array | None]:
    r"""`concat(softmax(q_h k_h^T / sqrt(d)) v_h) W_o^T` over heads `h`, of linear maps of query, key and value.

    Args:
        query: what asks.
        key: what is compared with it. The same object for key and value, or for all three, is projected once.
        value: what is averaged.
        embed_dim_to_check: the size `E` that the query must have.
        num_heads: the number of heads `H`, of size `d = E / H` each.
        in_proj_weight: the maps of query, key and value, below each other.
        in_proj_bias: their biases.
        bias_k: a further key, with `bias_v` as its value.
        bias_v: see `bias_k`.
        add_zero_attn: whether a key and value of zeros are added.
        dropout_p: the probability with which a weight is dropped, when training.
        out_proj_weight: the last map `W_o`.
        out_proj_bias: its bias.
        training: whether to drop weights.
        key_padding_mask: keys to ignore: boolean, True to ignore; or floating-point, added to the scores.
        need_weights: whether the weights are returned, too. Without them the scores need never be whole.
        attn_mask: pairs to ignore: boolean, True to ignore (`scaled_dot_product_attention` has it the other way
            round); or floating-point, added to the scores.
        use_separate_proj_weight: take the three weights below in the place of `in_proj_weight`.
        q_proj_weight: the map of the query.
        k_proj_weight: the map of the key.
        v_proj_weight: the map of the value.
        static_k: keys of all heads in the place of the projected ones.
        static_v: values of all heads in the place of the projected ones.
        average_attn_weights: whether the weights returned are the mean over heads.
        is_causal: a hint that `attn_mask`, which must be given, is the causal one: where the weights aren't needed and
            no key is padding, that is then computed and the mask is not read.

    Shape:
        - Query: `(L, N, E)` or `(L, E)`; key: `(S, N, E_k)` or `(S, E_k)`; value: `(S, N, E_v)` or `(S, E_v)`.
        - Weights: `(3 E, E)`, or `(E, E)`, `(E, E_k)`, `(E, E_v)`; bias: `(3 E)`; `bias_k`, `bias_v`: `(1, 1, E)`.
        - Key padding mask: `(N, S)` or `(S)`; mask: `(L, S)` or `(N H, L, S)`; static: `(N H, S, d)`.
        - Output: `(L, N, E)` or `(L, E)`, and weights `(N, L, S)` or `(L, S)`, with heads `(N, H, L, S)` or
          `(H, L, S)`; None if not needed.

    Raises:
        AssertionError: ranks, sizes or a mask's dtype don't fit.
        RuntimeError: a mask or weight has another shape than it should, or `is_causal` comes without a mask.

    Note:
        A query that sees no key gives NaN with `need_weights` and 0 without, as in torch.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmodule.nn import functional as F
        >>> x, w = jnp.ones((5, 2, 8)), jnp.ones((24, 8))
        >>> y, weights = F.multi_head_attention_forward(x, x, x, 8, 2, w, None, None, None, False, 0.0, w[:8], None)
        >>> y.shape, weights.shape
        ((5, 2, 8), (2, 5, 5))
    """
    if not use_separate_proj_weight and in_proj_weight is None:
        raise AssertionError("use_separate_proj_weight is False but in_proj_weight is None")
    weights = (
        None if use_separate_proj_weight else in_proj_weight,
        in_proj_bias,
        *((q_proj_weight, k_proj_weight, v_proj_weight) if use_separate_proj_weight else (None, None, None)),
        bias_k,
        bias_v,
        out_proj_weight,
        out_proj_bias,
    )
    return mha(
        (query, key, value),
        MHAWeights(*map(unbox, weights)),
        embed_dim=embed_dim_to_check,
        num_heads=num_heads,
        add_zero_attn=add_zero_attn,
        dropout=dropout_p if training else 0.0,
        masks=(unbox(attn_mask), unbox(key_padding_mask)),
        need_weights=need_weights,
        average=average_attn_weights,
        is_causal=is_causal,
        static=(unbox(static_k), unbox(static_v)),
    )


@autocasts
def mha(
    operands: tuple[ArrayLike, ArrayLike, ArrayLike],
    weights: MHAWeights,
    *,
    embed_dim: int,
    num_heads: int,
    add_zero_attn: bool,
    dropout: float,
    masks: tuple[Array, Array],
    need_weights: bool,
    average: bool,
    is_causal: bool,
    static: tuple[Array, Array] = (None, None),
    batch_first: bool = False,
) -> tuple[jax.Array, jax.Array | None]:
    """`multi_head_attention_forward`, with the batch in the first or second place."""
    query, key, value = operands
    q, k, v = (unbox(x) for x in operands)
    attn_mask, padding = masks
    batched = _mha_shape_check(q, k, v, padding, attn_mask, num_heads)
    padding, attn_mask = canonical_masks(padding, "key_padding_mask", attn_mask, "attn_mask", q.dtype)
    if is_causal and attn_mask is None:
        raise RuntimeError(
            "Need attn_mask if specifying the is_causal hint. You may use the Transformer module method "
            "`generate_square_subsequent_mask` to create this mask."
        )
    by_hint = is_causal and padding is None and not need_weights
    attn_mask = None if by_hint else attn_mask
    if not batched:
        q, k, v = (x[:, None] for x in (q, k, v))
        padding = None if padding is None else padding[None]
    elif batch_first:
        q, k, v = (x.swapaxes(0, 1) for x in (q, k, v))
    _check_sizes(q, k, v, weights, embed_dim, num_heads)
    _check_masks(attn_mask, padding, q, k, num_heads, static)
    _check_extras(weights, static, q.shape[1] * num_heads, embed_dim // num_heads)
    backends, ordered = allowed_backends()
    options = MHAOptions(
        num_heads=num_heads,
        same_key_value=key is value,
        same_query_key=query is key,
        add_zero_attn=add_zero_attn,
        dropout=float(dropout),
        need_weights=need_weights,
        average=average,
        band=(None, 0) if by_hint else (None, None),
        backends=backends,
        ordered=ordered,
    )
    drop_key = next_key() if 0.0 < dropout < 1.0 else None
    out, of_heads = run_heads(q, k, v, weights, static, attn_mask, padding, drop_key, options=options)
    if not batched:
        return out[:, 0], None if of_heads is None else of_heads[0]
    return out.swapaxes(0, 1) if batch_first else out, of_heads


def _mha_shape_check(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    key_padding_mask: ArrayLike | None,
    attn_mask: ArrayLike | None,
    num_heads: int,
) -> bool:
    """Whether there is a batch, of which the query's rank decides.

    Raises:
        AssertionError: a rank, or the shape of a mask for each head, doesn't fit.
    """
    q, k, v, padding, mask = (unbox(x) for x in (query, key, value, key_padding_mask, attn_mask))
    if q.ndim not in (2, 3):
        raise AssertionError(
            f"query should be unbatched 2D or batched 3D tensor but received {q.ndim}-D query tensor {shape_list(q)}"
        )
    what = f"For {'batched' if q.ndim == 3 else 'unbatched'} ({q.ndim}-D) `query`, expected"
    if k.ndim != q.ndim or v.ndim != q.ndim:
        raise AssertionError(
            f"{what} `key` and `value` to be {q.ndim}-D but found {k.ndim}-D and {v.ndim}-D tensors respectively: "
            f"query {shape_list(q)}, key {shape_list(k)}, value {shape_list(v)}"
        )
    if padding is not None and padding.ndim != q.ndim - 1:
        raise AssertionError(
            f"{what} `key_padding_mask` to be `None` or {q.ndim - 1}-D but found {padding.ndim}-D tensor instead: "
            f"{shape_list(padding)} for key {shape_list(k)}"
        )
    if mask is not None:
        if mask.ndim not in (2, 3):
            raise AssertionError(
                f"{what} `attn_mask` to be `None`, 2-D or 3-D but found {mask.ndim}-D tensor instead: "
                f"{shape_list(mask)} for query {shape_list(q)}"
            )
        expected = (num_heads, q.shape[0], k.shape[0])
        if q.ndim == 2 and mask.ndim == 3 and mask.shape != expected:
            raise AssertionError(f"Expected `attn_mask` shape to be {expected} but got {mask.shape}")
    return q.ndim == 3


def _check_sizes(q: jax.Array, k: jax.Array, v: jax.Array, weights: MHAWeights, embed_dim: int, num_heads: int) -> None:
    size = q.shape[-1]
    if size != embed_dim:
        raise AssertionError(f"was expecting embedding dimension of {embed_dim}, but got {size}: query {shape_list(q)}")
    if size % num_heads:
        raise AssertionError(f"embed_dim {size} not divisible by num_heads {num_heads}")
    if weights.in_proj is not None:
        if k.shape != v.shape:
            raise AssertionError(f"key shape {k.shape} does not match value shape {v.shape}")
    else:
        if k.shape[:2] != v.shape[:2]:
            raise AssertionError(f"key's sequence and batch dims {k.shape[:2]} do not match value's {v.shape[:2]}")
        for name, x, w in (("query", q, weights.q_proj), ("key", k, weights.k_proj), ("value", v, weights.v_proj)):
            if w is None:
                raise AssertionError(f"use_separate_proj_weight is True but {name[0]}_proj_weight is None")
            if w.shape != (size, x.shape[-1]):
                raise AssertionError(f"expecting {name} weights shape of {(size, x.shape[-1])}, but got {w.shape}")
    if k.shape[1] != q.shape[1]:
        raise RuntimeError(
            f"query and key must have the same batch size, but got {q.shape[1]} and {k.shape[1]} "
            f"(shapes with the batch second: {shape_list(q)} and {shape_list(k)})"
        )


def _check_masks(
    attn_mask: Array, padding: Array, q: jax.Array, k: jax.Array, num_heads: int, static: tuple[Array, Array]
) -> None:
    (length, batch, _), keys = q.shape, k.shape[0]
    if attn_mask is not None:
        expected = (length, keys) if attn_mask.ndim == 2 else (batch * num_heads, length, keys)
        if attn_mask.shape != expected:
            raise RuntimeError(
                f"The shape of the {attn_mask.ndim}D attn_mask is {attn_mask.shape}, but should be {expected}."
            )
    if static[0] is not None:
        if attn_mask is not None and static[0].shape[1] != keys:
            raise RuntimeError(
                f"attn_mask {shape_list(attn_mask)} is for {keys} keys, and static_k {shape_list(static[0])} has others"
            )
        keys = static[0].shape[1]
    for axis, size in enumerate((batch, keys)):
        if padding is not None and padding.shape[axis] != size:
            raise AssertionError(
                f"Expected key_padding_mask.shape[{axis}] to be {size}, but got {padding.shape[axis]}: "
                f"key_padding_mask {shape_list(padding)} for key {shape_list(k)} (with the batch second)"
            )


def _check_extras(weights: MHAWeights, static: tuple[Array, Array], rows: int, head_dim: int) -> None:
    if (weights.bias_k is None) != (weights.bias_v is None):
        given, missing = ("bias_k", "bias_v") if weights.bias_v is None else ("bias_v", "bias_k")
        raise AssertionError(f"{given} is set but {missing} is None")
    for name, array in (("key", static[0]), ("value", static[1])):
        if array is None:
            continue
        if weights.bias_k is not None:
            raise AssertionError(f"bias cannot be added to static {name}.")
        if array.shape[0] != rows or array.shape[2] != head_dim:
            raise AssertionError(
                f"expecting static_{name[0]} of {rows} rows (batch and heads) of {head_dim} features, "
                f"but got {shape_list(array)}"
            )

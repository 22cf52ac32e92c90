"""Automatic mixed precision: which functional computes in which dtype under `jm.autocast`.

The lists are torch's, one for its CUDA and one for its CPU backend, by the names of the functionals that the operations
in them belong to. `autocasts` marks a functional that is in a list; without `jm.autocast` it costs one test.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from ...core.box import Box
from ...core.context import set_ambient, tls

P = ParamSpec("P")
R = TypeVar("R")

#: What a list says of a functional. "lower": its floating-point arguments in the dtype of the autocast; "inside": so
#: too, with results in the widest dtype of the arguments; "float32": in float32; "promote": in the widest of their
#: dtypes; "banned": not at all; "asis": as they come, like those that are in no list.
Policy = Literal["lower", "inside", "float32", "promote", "banned", "asis"]


class Autocast(NamedTuple):
    """What `jm.autocast` sets: the lower dtype, and the backend whose lists are in use."""

    dtype: Any
    lists: Literal["cuda", "cpu"]


def autocasts(function: Callable[P, R]) -> Callable[P, R]:
    """Let a functional take part in autocasting, as the lists have it."""
    name = function.__name__
    if not any(name in policies for policies in LISTS.values()):
        raise KeyError(f"{name} is in no list of functional/_autocast.py")
    # Closed over, as the wrapper has the function's own globals: doctest knows a module's functions by them.
    state, call, prepare, switch, finish = tls, function, _prepare, set_ambient, _finish

    # One frame of the stack in both cases: warnings point past it.
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        mode = state.autocast
        if mode is None:
            return call(*args, **kwargs)
        policy, wide, args, kwargs = prepare(mode, name, args, kwargs)
        if policy == "asis":
            return call(*args, **kwargs)
        switch(autocast=None)  # as in torch, an operation that casts its arguments casts nothing inside
        try:
            out = call(*args, **kwargs)
        finally:
            switch(autocast=mode)
        return finish(out, wide) if policy == "inside" else out

    owner = getattr(function, "__wrapped__", function).__globals__
    made: Any = types.FunctionType(wrapper.__code__, owner, name, None, wrapper.__closure__)
    return functools.update_wrapper(made, function)


def _prepare(mode: Autocast, name: str, args: Any, kwargs: Any) -> Any:
    """What is done with a functional, the widest dtype of its arguments, and these in the dtypes it takes."""
    policy: Any = LISTS[mode.lists].get(name, "asis")
    if callable(policy):
        policy = policy(*args, **kwargs)
    if policy == "banned":
        raise RuntimeError(_BANNED[name])
    if policy == "asis":
        return policy, None, args, kwargs
    leaves, tree = jax.tree.flatten((args, kwargs), is_leaf=_is_box)
    wide = _widest(jax.tree.leaves(args[:2], is_leaf=_is_box) if policy == "inside" else leaves)  # input and state
    dtype = np.dtype(np.float32) if policy == "float32" else wide if policy == "promote" else mode.dtype
    done: dict[int, Any] = {}  # one object stays one object: attention asks whether key and value are the same
    args, kwargs = jax.tree.unflatten(tree, [done.setdefault(id(x), _cast(x, dtype)) for x in leaves])
    return policy, wide, args, kwargs


def _finish(out: Any, dtype: Any) -> Any:
    return jax.tree.map(lambda x: _cast(x, dtype), out)


def _is_box(x: Any) -> bool:
    return isinstance(x, Box)


def _eligible(x: Any) -> bool:
    """Is it an array that autocasting casts? In torch float64 is left alone."""
    return isinstance(x, (jax.Array, Box, np.ndarray)) and x.dtype in _CASTABLE


def _cast(x: Any, dtype: Any) -> Any:
    if not _eligible(x) or x.dtype == dtype:
        return x
    return jnp.asarray(x.value if isinstance(x, Box) else x).astype(dtype)


def _widest(leaves: list[Any]) -> Any:
    dtypes = {np.dtype(x.dtype) for x in leaves if _eligible(x)}
    return dtypes.pop() if len(dtypes) == 1 else np.dtype(np.float32)


_CASTABLE = tuple(np.dtype(kind) for kind in (jnp.float32, jnp.bfloat16, jnp.float16))

_BANNED = {
    "binary_cross_entropy": (
        "nn.functional.binary_cross_entropy and nn.BCELoss are unsafe to autocast.\n"
        "Many models use a sigmoid layer right before the binary cross entropy layer. In this case, combine the two "
        "layers using nn.functional.binary_cross_entropy_with_logits or nn.BCEWithLogitsLoss, which are safe to "
        "autocast."
    )
}

# -- the lists --------------------------------------------------------------------------------------------------------

_LOWER = (
    *[f"conv{d}d" for d in (1, 2, 3)],
    *[f"conv_transpose{d}d" for d in (1, 2, 3)],
    "affine_grid",  # a product of matrices inside
    "conv_tbc",
    "linear",
    "mha",  # of multi_head_attention_forward
    "prelu",
    "recurrent",
    "scaled_dot_product_attention",
)
_LOSSES = (
    "binary_cross_entropy_with_logits",
    "cosine_embedding_loss",
    "cross_entropy",
    "ctc_loss",
    "hinge_embedding_loss",
    "huber_loss",
    "kl_div",
    "l1_loss",
    "margin_ranking_loss",
    "mse_loss",
    "multi_margin_loss",
    "multilabel_margin_loss",
    "nll_loss",
    "poisson_nll_loss",
    "smooth_l1_loss",
    "soft_margin_loss",
    "triplet_margin_loss",
)


def _interpolate(*args: Any, **kwargs: Any) -> Policy:
    mode = kwargs.get("mode", args[3] if len(args) > 3 else "nearest")
    return "asis" if mode == "area" else "float32"


def _softmax(*args: Any, **kwargs: Any) -> Policy:
    """Not where a dtype is asked for, as torch's `fp32_set_opt_dtype`."""
    given = kwargs.get("dtype", args[3] if len(args) > 3 else None)
    return "float32" if given is None else "asis"


def _pad(*args: Any, **kwargs: Any) -> Policy:
    """Of torch's kernels for CPU, all but that of the reflection in three dimensions."""
    amounts = kwargs.get("pad", args[1] if len(args) > 1 else ())
    mode = kwargs.get("mode", args[2] if len(args) > 2 else "constant")
    return "float32" if mode == "replicate" or (mode == "reflect" and len(amounts) < 6) else "asis"


def _local_response_norm(input: Any, *args: Any, **kwargs: Any) -> Policy:
    """It averages with `avg_pool2d` or, which is in the list for CPU, `avg_pool3d`."""
    return "asis" if input.ndim == 3 else "float32"


def _cell(*args: Any, **kwargs: Any) -> Policy:
    """Of the cells of LSTM and GRU torch's CPU backend has only the products in its list."""
    return "lower" if kwargs["mode"].startswith("RNN") else "inside"


def _recurrent(*args: Any, **kwargs: Any) -> Policy:
    return "inside" if kwargs["mode"] == "GRU" else "lower"


LISTS: dict[str, dict[str, Policy | Callable[..., Policy]]] = {
    "cuda": {
        **dict.fromkeys((*_LOWER, "cell"), "lower"),
        **dict.fromkeys(
            (
                *_LOSSES,
                "cosine_similarity",
                "gaussian_nll_loss",
                "group_norm",
                "layer_norm",
                "local_response_norm",  # a power inside, as in those of p-norms
                *[f"lp_pool{d}d" for d in (1, 2, 3)],
                "multilabel_soft_margin_loss",
                "normalize",
                "pairwise_distance",
                "pdist",
                "rms_norm",
                "softplus",
            ),
            "float32",
        ),
        **dict.fromkeys(("gumbel_softmax", "log_softmax", "softmax", "softmin"), "float32"),
        **dict.fromkeys(("log_softmax", "softmax", "softmin"), _softmax),
        **dict.fromkeys(("bilinear", "grid_sample"), "promote"),
        "interpolate": _interpolate,
        "binary_cross_entropy": "banned",
    },
    "cpu": {
        **dict.fromkeys(_LOWER, "lower"),
        **dict.fromkeys(
            (
                *_LOSSES,
                *[f"adaptive_{kind}_pool3d" for kind in ("avg", "max")],
                *[f"{kind}_pool3d" for kind in ("avg", "lp", "max")],
                *[f"fractional_max_pool{d}d" for d in (2, 3)],
                *[f"max_unpool{d}d" for d in (1, 2, 3)],
                "binary_cross_entropy",
                "grid_sample",
            ),
            "float32",
        ),
        "local_response_norm": _local_response_norm,
        "pad": _pad,
        "recurrent": _recurrent,
        "cell": _cell,
    },
}

"""Low-rank adapters: a frozen weight plus a product of two small matrices that are trained, as a parametrization.

`apply(model, r"attn")` gives every weight whose name matches an adapter and freezes the rest; the weight is then
`W + (alpha / r) B A` wherever it is read. `merge` computes that once, for inference; `unmerge` goes back, bit for bit;
`remove` makes an ordinary model of it. Files have W, A and B in them, merged or not.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from ...core.box import unbox
from ..module import Module
from ..parameter import Parameter, is_lazy
from ._lora import LoRA, merge_again
from .parametrize import is_parametrized, register_parametrization, remove_parametrizations

__all__ = ["LoRA", "adapters", "apply", "load", "merge", "remove", "state_dict", "unmerge"]

M = TypeVar("M", bound=Module)
Patterns = str | Sequence[str]


def apply(
    model: M,
    pattern: Patterns,
    r: int = 8,
    alpha: float | None = None,
    dropout: float = 0.0,
    *,
    train: Patterns | None = None,
    dtype: DTypeLike | None = None,
) -> M:
    """Give weights of a model adapters, and freeze all else.

    Args:
        model: the model; it is changed in place.
        pattern: a regular expression that is searched for in the weights' names (`blocks.0.attn.qkv.weight`), and in
            those of their modules; or several. Biases and other vectors have no adapters, and are passed over.
        r: the rank.
        alpha: the product is multiplied by `alpha / r`; `r` if None.
        dropout: see `LoRA`.
        train: a regular expression or several, for parameters that are trained beside the adapters: a new head, biases.
        dtype: of the adapters; that of each weight if None. float32 beside a bfloat16 weight is a good choice.

    Returns:
        The model. Tied weights share an adapter; adapters of an earlier call go on being trained.

    Raises:
        ValueError: a pattern matches no weight, one has an adapter or another parametrization already or no shape yet,
            `r` is no positive int, or a pattern is no regular expression. Nothing has changed then.
        TypeError: a pattern is no text.

    Note:
        The weight is made anew where it is read: of use where it is small beside the activations. Its gradient, which A
        and B have theirs from, has the size of the weight for as long as one layer's backward pass takes.

    Example:
        >>> import jaxmodule as jm
        >>> from jaxmodule import nn
        >>> from jaxmodule.nn.utils import lora
        >>> model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> _ = lora.apply(model, r"^0", r=2, train=r"^2")
        >>> [str(name) for name, p in model.named_parameters() if p.requires_grad]
        ['0.parametrizations.weight.0.lora_A', '0.parametrizations.weight.0.lora_B', '2.weight', '2.bias']
        >>> list(lora.adapters(model))
        ['0.weight']
    """
    if not isinstance(r, int) or isinstance(r, bool) or r < 1:
        raise ValueError(f"lora.apply: the rank r is a positive int, got {r!r}")
    if not 0 <= dropout < 1:
        raise ValueError(f"lora.apply: dropout is a probability less than 1, got {dropout}")
    weights, also = _compiled(pattern, "pattern"), _compiled(train, "train")
    chosen = _chosen(model, weights)
    kept = {p for adapter in _loras(model) for p in adapter.parameters()}
    shared: dict[Any, LoRA] = {}
    for parameter, _, _ in chosen:
        shared.setdefault(parameter, LoRA(parameter.value, r, alpha, dropout, dtype))
    for name, parameter in model.named_parameters():
        parameter.requires_grad = parameter in kept or bool(_found(also, name))
    for parameter, module, name in chosen:
        register_parametrization(module, name, shared[parameter], unsafe=True)
        parametrizations: Any = module.parametrizations._modules[name]  # pyright: ignore
        parametrizations.register_load_state_dict_post_hook(merge_again)
    return model


def _compiled(given: Patterns | None, what: str) -> list[re.Pattern[str]]:
    if given is None:
        return []
    found = []
    for pattern in [given] if isinstance(given, (str, re.Pattern)) else list(given):
        if not isinstance(pattern, (str, re.Pattern)):
            raise TypeError(
                f"lora.apply: {what} is a regular expression or a list of them, got {type(pattern).__name__} in there"
            )
        try:
            found.append(re.compile(pattern))
        except re.error as error:
            raise ValueError(f"lora.apply: {what}={pattern!r} is no regular expression: {error}") from None
    return found


def _found(patterns: list[re.Pattern[str]], *names: str) -> set[re.Pattern[str]]:
    """The patterns that are in one of the names."""
    return {pattern for pattern in patterns if any(map(pattern.search, names))}


def _chosen(model: Module, weights: list[re.Pattern[str]]) -> list[tuple[Parameter, Module, str]]:
    """The weights that match: the parameter, and where it is."""
    chosen: list[tuple[Parameter, Module, str]] = []
    there: list[str] = []
    used: set[re.Pattern[str]] = set()
    for path, module in model.named_modules():
        if ".parametrizations." in f".{path}.":
            continue
        own = {**module._parameters, **dict.fromkeys(_parametrized(module))}
        for name, parameter in own.items():
            full = f"{path}.{name}" if path else name
            if parameter is None and not is_parametrized(module, name):
                continue
            matches = _found(weights, full, path) if name == "weight" else _found(weights, full)
            if parameter is None:
                if matches:
                    raise ValueError(f"lora.apply: {full} has an adapter or another parametrization already")
                continue
            if is_lazy(parameter):
                if matches:
                    raise ValueError(f"lora.apply: {full} has no shape yet: call the model once before")
                continue
            if parameter.ndim < 2 or not jnp.issubdtype(parameter.dtype, jnp.floating):
                continue
            there.append(full)
            used |= matches
            if matches:
                chosen.append((parameter, module, name))
    unused = [repr(pattern.pattern) for pattern in weights if pattern not in used]
    if unused or not chosen:
        some = ", ".join(there[:8]) + (", …" if len(there) > 8 else "")
        who = ", ".join(unused) or "no pattern"
        raise ValueError(f"lora.apply: {who} matches none of the model's weights, which are {some or 'none'}")
    return chosen


def _parametrized(module: Module) -> list[str]:
    return list(module.parametrizations._modules) if is_parametrized(module) else []  # pyright: ignore


def _loras(model: Module) -> list[LoRA]:
    return [module for module in model.modules() if isinstance(module, LoRA)]


def _sites(model: Module) -> Iterator[tuple[str, Module, str, LoRA]]:
    """Where adapters are: the weight's full name, its module, its own name, the adapter."""
    for path, module in model.named_modules():
        for name in _parametrized(module):
            for found in module.parametrizations._modules[name]:  # pyright: ignore
                if isinstance(found, LoRA):
                    yield (f"{path}.{name}" if path else name), module, name, found


def adapters(model: Module) -> dict[str, LoRA]:
    """The adapters of a model by the names of their weights.

    Example:
        >>> from jaxmodule import nn
        >>> from jaxmodule.nn.utils import lora
        >>> lora.adapters(lora.apply(nn.Linear(3, 4), "weight", r=2))
        {'weight': LoRA(r=2, alpha=2)}
    """
    return {full: adapter for full, _, _, adapter in _sites(model)}


def merge(model: M) -> M:
    """Keep the weights with the products in them, so that reading a weight computes nothing.

    The old weights stay beside, and are what files get. A load into a merged model merges again.

    Returns:
        The model.

    Raises:
        ValueError: a weight has another parametrization beside the adapter. Nothing has changed then.

    Note:
        A merged model is for inference: to differentiate it with respect to the adapters or their weights raises a
        `StateError`. What is written into those by hand is seen after `unmerge`.
    """
    for original, adapter in _originals(model):
        if not adapter.merged:
            adapter.merge(original)
    return model


def unmerge(model: M) -> M:
    """Go back to the weights that were there before `merge`, bit for bit, and their adapters.

    Returns:
        The model.
    """
    for adapter in _loras(model):
        adapter.unmerge()
    return model


def remove(model: M, merge: bool = True) -> M:
    """Make ordinary parameters of the weights again, under their old names; they stay frozen.

    Args:
        model: the model.
        merge: with the products in them; False for the weights as they were.

    Returns:
        The model.

    Example:
        >>> from jaxmodule import nn
        >>> from jaxmodule.nn.utils import lora
        >>> lora.remove(lora.apply(nn.Linear(3, 4), "weight", r=2))
        Linear(in_features=3, out_features=4, bias=True)
    """
    unmerge(model)
    if merge:
        for original, adapter in _originals(model):
            original.value = original.value + adapter.product(original)
    for _, module, name, _ in list(_sites(model)):
        remove_parametrizations(module, name, leave_parametrized=False)
    return model


def _originals(model: Module) -> list[tuple[Any, LoRA]]:
    """Each weight once, with its adapter."""
    found: dict[Any, LoRA] = {}
    for full, module, name, adapter in _sites(model):
        parametrizations: Any = module.parametrizations._modules[name]  # pyright: ignore
        if not parametrizations.is_tensor or len(parametrizations) > 1:
            raise ValueError(f"lora: {full} has another parametrization beside the adapter, and can't be merged")
        found[parametrizations.original] = adapter
    return list(found.items())


# -- files ------------------------------------------------------------------------------------------------------------


def state_dict(model: Module, train: Patterns | None = None) -> dict[str, jax.Array]:
    """The adapters' part of `model.state_dict()`.

    Args:
        model: the model.
        train: a regular expression or several, as for `apply`: what else was trained, and is to be saved.

    Raises:
        ValueError: there is no adapter.
    """
    also = _compiled(train, "train")
    names = _names(model)
    state = model.state_dict()
    return {name: x for name, x in state.items() if name in names or _found(also, name)}


def load(model: Module, state: Mapping[str, Any]) -> None:
    """Load what `state_dict` gave into a model with the same adapters. The arrays take the dtypes that are there.

    A merged model is merged again.

    Raises:
        ValueError: there is no adapter, an adapter is missing, `state` has names that the model does not have, or a
            shape differs, as where the rank is another. Nothing has changed then.
    """
    boxes = model.state_dict(keep_vars=True)
    missing, unexpected = sorted(_names(model) - state.keys()), sorted(state.keys() - boxes.keys())
    if missing or unexpected:
        raise ValueError(
            f"lora.load: the state lacks {missing[:5]} and has {unexpected[:5]} besides: apply the adapters with the "
            "same pattern first"
        )
    given = {name: unbox(value) for name, value in state.items()}
    for name, value in given.items():
        if value.shape != boxes[name].shape:
            raise ValueError(
                f"lora.load: {name} has shape {list(value.shape)} in the state and {list(boxes[name].shape)} in the "
                "model: apply the adapters with the same rank"
            )
    for name, value in given.items():
        boxes[name].copy_(value)
    for _, module, name, _ in _sites(model):
        merge_again(module.parametrizations._modules[name])  # pyright: ignore


def _names(model: Module) -> set[str]:
    boxes = {p for adapter in _loras(model) for p in adapter.parameters()}
    if not boxes:
        raise ValueError("lora: the model has no adapters: lora.apply(model, pattern) first")
    return {name for name, p in model.named_parameters(remove_duplicate=False) if p in boxes}

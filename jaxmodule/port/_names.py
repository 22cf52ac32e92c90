"""The names of modules under the rules that `load_state_dict` renames tensors by."""

from collections.abc import Callable
from typing import Any

from ..nn.renaming import rename

__all__ = ["renaming"]

_END = ".\0"  # what a module's path is the beginning of: no tensor is called so


def renaming(model: Any, strip_prefix: Any, rules: Any) -> Callable[[str], str]:
    """From the name of a module or tensor in torch's model to the port's.

    Args:
        model: torch's model.
        strip_prefix, rules: as `load_state_dict` takes them.
    """
    if strip_prefix is None and rules is None:
        return lambda name: name
    paths = [path for path, _ in model.named_modules(remove_duplicate=False) if path]
    tensors = [name for part in (model.named_parameters, model.named_buffers) for name, _ in part()]
    names = dict.fromkeys([*tensors, *(path + _END for path in paths)])
    new = {old: new.removesuffix(_END[1:]).removesuffix(".") for old, new in rename(names, strip_prefix, rules)[1]}
    changed = {old.removesuffix(_END): name for old, name in new.items()}
    if "" in changed.values():
        changed[""] = _END  # a wrapper: what it wraps is the model
    return lambda name: changed.get(name, name)

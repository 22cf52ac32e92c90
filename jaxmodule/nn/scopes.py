"""Module paths in programs: while anything is traced, a module call is a `jax.named_scope`.

The scope is called as the module is in the tree of the module that calls it, so that nested scopes spell the path: an
operation of the first layer of the second block of a `Net` is `Net/blocks.1/fc/dot_general` in HLO and in profiles. A
module that no module calls, or that is not in its caller's tree, goes by its class.
"""

import threading
import weakref
from typing import Any

import jax

from ..core.context import epoch, tls
from ..core.overlay import meet


class _Calling(threading.local):
    """The module whose forward is being traced in this thread."""

    module: Any = None


_calling = _Calling()
#: For a module the token of the epoch in which its tree was last listed, and the names in it.
_names: "weakref.WeakKeyDictionary[Any, tuple[Any, dict[int, str]]]" = weakref.WeakKeyDictionary()


def call_in_scope(function: Any, module: Any, args: Any, kwargs: Any) -> Any:
    """`function(*args, **kwargs)`, the forward of `module`, in its scope."""
    if tls.overlay is not None:
        meet(module)
    outer = _calling.module
    _calling.module = module
    try:
        with jax.named_scope(name_for(outer, module)):
            return function(*args, **kwargs)
    finally:
        _calling.module = outer


def name_for(caller: Any, module: Any) -> str:
    """What `module` is called in a call from `caller`."""
    if caller is not None:
        token, names = _names.get(caller, (None, {}))
        name = names.get(id(module))
        if name is None or not _is_at(caller, name, module):
            if token is not epoch.token:
                names = {id(found): name for name, found in caller.named_modules() if name}
                _names[caller] = (epoch.token, names)
            name = names.get(id(module))
        if name is not None:
            return name
    return type(module).__name__


def _is_at(caller: Any, name: str, module: Any) -> bool:
    """Is `module` still at `name`? An id may be another object's by now, and a tree may have changed."""
    found = caller
    for part in name.split("."):
        found = found._modules.get(part)
        if found is None:
            return False
    return found is module

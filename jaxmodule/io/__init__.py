"""Files: `save`, `load` and `load_metadata`. The format is chosen by the suffix; so far it is safetensors."""

import os
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from ..core.fill import Placement
from . import safetensors
from .array_file import to_jax
from .errors import FileFormatError

__all__ = ["FileFormatError", "load", "load_metadata", "save"]


def save(obj: Mapping[str, Any], path: str | os.PathLike[str], metadata: Mapping[str, str] | None = None) -> None:
    """Write a state dict to a `.safetensors` file, which PyTorch's and Hugging Face's loaders read too.

    The file appears whole or not at all: a failure leaves what was there before. An array under two names (tied
    weights) is stored once. What `obj` holds is not changed.

    Args:
        obj: a flat dict of names and arrays (jax, numpy or torch), Parameters or Buffers: `module.state_dict()`, say.
        path: the file's name, which must end in `.safetensors`.
        metadata: text to keep in the file, for `load_metadata`.

    Raises:
        FileFormatError: for another suffix.
        TypeError: for a value that is no array, or of a dtype that the format does not have.

    Example:
        >>> import os, tempfile, jax.numpy as jnp
        >>> path = os.path.join(tempfile.mkdtemp(), "a.safetensors")
        >>> save({"weight": jnp.arange(3.0)}, path, {"epoch": "7"})
        >>> load(path)["weight"].tolist(), load_metadata(path)
        ([0.0, 1.0, 2.0], {'epoch': '7'})
    """
    safetensors.write(obj, _checked(path), metadata)


def load(path: str | os.PathLike[str], *, device: Placement = None) -> dict[str, Any]:
    """Read a `.safetensors` file into a dict of names and arrays, as `module.load_state_dict` takes it.

    Args:
        path: the file's name.
        device: a device or sharding to put the arrays on, None for JAX's default device.

    Returns:
        An `OrderedDict` of jax arrays. Where the file holds the version numbers of a module's `state_dict()`, they are
        its attribute `_metadata`. 64-bit values come as numpy arrays while JAX's x64 mode is off: JAX would cut them
        to 32 bits.

    Raises:
        FileNotFoundError: if there is no such file.
        FileFormatError: for another suffix, and for a file that is empty, cut off or damaged.
    """
    found = safetensors.read(_checked(path))
    arrays: dict[int, Any] = {}
    # In the order of the data: one pass over the file.
    for array in sorted(found.values(), key=lambda array: array.offset):
        if id(array) not in arrays:
            arrays[id(array)] = to_jax(array.read(), device)
    out = OrderedDict((name, arrays[id(array)]) for name, array in found.items())
    if hasattr(found, "_metadata"):
        out._metadata = found._metadata  # pyright: ignore[reportAttributeAccessIssue]
    return out


def load_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """The text that `save` was given as `metadata`.

    Args:
        path: the file's name.

    Raises:
        FileNotFoundError: if there is no such file.
        FileFormatError: as `load`.
    """
    return safetensors.read_metadata(_checked(path))


def _checked(path: str | os.PathLike[str]) -> str:
    name = os.fspath(path)
    suffix = os.path.splitext(name)[1]
    if suffix.lower() != ".safetensors":
        raise FileFormatError(
            f"{name!r}: only .safetensors files are supported yet, not {suffix!r}. Give the file a name that ends in "
            ".safetensors; convert others with the library that wrote them."
        )
    return name

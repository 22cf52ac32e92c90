"""The objects of a checkpoint: their names, their states, and loading all of them or none.

What checkpoints of our own and orbax's have in common.
"""

import operator
import re
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..core.context import tls
from ..core.overlay import overlaid, write
from ..nn.module import Module
from ..random import Generator, default_generator
from ._checkpoint_tree import materialized
from .array_file import FileArray
from .errors import FileFormatError

__all__ = [
    "Checkpoint",
    "CheckpointWarning",
    "apply",
    "check_eager",
    "check_keep",
    "checked_step",
    "collect",
    "states",
    "versions",
]

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*")  # part of a file's name


class CheckpointWarning(UserWarning):
    """A checkpoint was skipped because it is not whole, or an old one could not be removed."""


@dataclass(frozen=True)
class Checkpoint:
    """What `load_checkpoint` returns.

    Attributes:
        step: the number that it was saved under.
        path: its folder.
        extra: what was saved as `extra`.
        metadata: the versions of the libraries that wrote it, and size and hash of its files.
        skipped: newer ones that were not whole: (path, what is wrong).
        report: what `load_state_dict` of the model returned; a dict of those where several models were given.
    """

    step: int
    path: str
    extra: Any = None
    metadata: dict[str, Any] = field(default_factory=dict, repr=False)
    skipped: tuple[tuple[str, str], ...] = ()
    report: Any = field(default=None, repr=False)


def checked_step(step: Any) -> int:
    """A step's number as an int; ValueError or TypeError for what is none."""
    number = None if isinstance(step, bool) else operator.index(step)
    if number is None or not 0 <= number < 10**18:
        raise ValueError(f"step must be a number from 0 on, got {step!r}")
    return number


def check_keep(keep: Any) -> None:
    """Raise ValueError for a `keep` that is no number of checkpoints."""
    if keep is not None and (not isinstance(keep, int) or isinstance(keep, bool) or keep < 1):
        raise ValueError(f"keep must be None or a number of checkpoints from 1 on, got {keep!r}")


def check_eager(what: str) -> None:
    """Raise where a function is being traced: there are no values."""
    if tls.overlay is not None:
        raise RuntimeError(f"{what} inside a function that is being traced: call it outside of jm.jit")


def versions() -> dict[str, str]:
    """The versions of what writes a checkpoint, for whoever wonders later."""
    try:
        own = metadata.version("jaxmodule")
    except metadata.PackageNotFoundError:
        own = "unknown"
    return {"jaxmodule": own, "jax": jax.__version__, "numpy": np.__version__}


def collect(model: Any, optimizer: Any, generator: Any) -> dict[str, Any]:
    """The objects by part name: `model`, or `model.ema` where several were given."""
    if generator is None:
        generator = default_generator()
    found: dict[str, Any] = {}
    for kind, given in (("model", model), ("optimizer", optimizer), ("generator", generator)):
        if given is None or (kind == "generator" and given is False):
            continue
        if isinstance(given, Mapping):
            for name in given:
                if not isinstance(name, str) or not _NAME.fullmatch(name):
                    raise ValueError(
                        f"{kind}: {name!r} cannot be part of a file's name; use letters, digits, '_' and '-'"
                    )
            found.update({f"{kind}.{name}": each for name, each in given.items()})
        else:
            found[kind] = given
    for part, each in found.items():
        if part.partition(".")[0] == "generator":
            if not isinstance(each, Generator):
                raise TypeError(f"{part} is a {type(each).__name__}, not a Generator (or False, to save none)")
        elif not (hasattr(each, "state_dict") and hasattr(each, "load_state_dict")):
            raise TypeError(
                f"{part} is a {type(each).__name__} without state_dict and load_state_dict; give the object itself, or "
                "a dict of such objects by name; other data belongs into `extra`"
            )
    return found


def states(parts: Mapping[str, Any], extra: Any) -> dict[str, Any]:
    """The state of each part, and `extra`."""
    found = {part: _generator_state(x) if isinstance(x, Generator) else x.state_dict() for part, x in parts.items()}
    return {**found, "extra": extra.state_dict() if hasattr(extra, "state_dict") else extra}


def _generator_state(generator: Generator) -> dict[str, Any]:
    return {
        "impl": generator._impl,
        "seed": generator.__dict__["_initial"],
        "state": np.asarray(generator.get_state()).tolist(),
    }


def _generator_of(path: str, part: str, state: Any) -> Generator:
    """A new generator in a state of `_generator_state`."""
    try:
        impl, seed, words = state["impl"], state["seed"], np.array(state["state"], np.uint32)
        if not isinstance(impl, str) or not (seed is None or type(seed) is int):
            raise ValueError(f"impl {impl!r}, seed {seed!r}")
        new = Generator(jax.random.wrap_key_data(jnp.asarray(words[:-1]), impl=impl))
        new.set_state(jnp.asarray(words))
    except (TypeError, ValueError, KeyError, IndexError, OverflowError) as error:
        raise FileFormatError(f"{path!r}: its {part} is no state of a Generator: {error}") from error
    new.__dict__["_initial"] = seed
    return new


def apply(path: str, parts: Mapping[str, Any], contents: Mapping[str, Any], strict: bool) -> tuple[Any, Any]:
    """Load `contents` into `parts`: all or none.

    Returns:
        `extra`, and the report of the model, or of the models by name.
    """
    lacking = ", ".join(repr(part) for part in parts if part not in contents)
    if lacking:
        there = ", ".join(repr(part) for part in contents if part != "extra") or "nothing but `extra`"
        raise KeyError(f"{path!r} was saved without {lacking}; it has {there}")
    extra = materialized(contents["extra"])
    new = {part: _generator_of(path, part, contents[part]) for part, x in parts.items() if isinstance(x, Generator)}
    modules = {part: x for part, x in parts.items() if isinstance(x, Module)}
    others = {part: x for part, x in parts.items() if part not in modules and part not in new}
    reports: dict[str, Any] = {}
    undo = []
    try:
        # Those that can only be undone by hand first. The modules' new values stay in the overlay until all is well.
        for part, each in others.items():
            undo.append(_undo(each))
            reports[part] = each.load_state_dict(_for_optimizer(each, contents[part]))
        with overlaid({}, closed=False) as overlay:
            for part, module in modules.items():
                reports[part] = module.load_state_dict(_for_module(contents[part]), strict=strict)
            overlay.settle()
            written = {box: overlay.values[box] for box in overlay.written}
    except BaseException:
        for restore in reversed(undo):
            restore()
        raise
    for box, value in written.items():
        write(box, value)
    for part, generator in new.items():
        parts[part]._become(generator)
    reports = {part: report for part, report in reports.items() if part.partition(".")[0] == "model"}
    if "model" in parts:
        return extra, reports["model"]
    return extra, {part.removeprefix("model."): report for part, report in reports.items()} or None


def _for_optimizer(each: Any, state: Any) -> Any:
    """The arrays of an optimizer's own state are read one by one as they are taken; other objects get arrays."""
    if hasattr(each, "_snapshot") and isinstance(state, dict):
        return {key: item if key == "state" else materialized(item) for key, item in state.items()}
    return materialized(state)


def _for_module(state: Any) -> Any:
    """Likewise: what a module has besides arrays (`_extra_state`) may have arrays in it."""
    if not isinstance(state, dict):
        return state
    out: Any = OrderedDict()
    for key, item in state.items():
        plain = isinstance(item, FileArray) and not key.endswith("_extra_state")
        out[key] = item if plain else materialized(item)
    if hasattr(state, "_metadata"):
        out._metadata = state._metadata  # pyright: ignore[reportAttributeAccessIssue]
    return out


def _undo(each: Any) -> Any:
    """A function that puts an object back to where it is now."""
    if hasattr(each, "_snapshot"):  # an Optimizer
        before = each._snapshot()
        return lambda: each._restore(before)
    state = each.state_dict()
    return lambda: each.load_state_dict(state)

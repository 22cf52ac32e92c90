"""Checkpoints through orbax-checkpoint, for arrays and runs that have outgrown one machine.

The same calls as in `jaxmodule.io.checkpoint`. What differs: arrays that are spread over devices or processes are
written and read by those that have them, without being gathered; a save can go on in the background (`wait=False`); all
processes of a run must call it. There are no hashes of files, and steps must grow.

Orbax is imported by the first call, and is not among jaxmodule's dependencies: `pip install orbax-checkpoint`.
"""

import math
import os
import warnings
from collections.abc import Mapping
from types import ModuleType
from typing import Any, Literal, overload

import jax
import jax.numpy as jnp
import numpy as np

from . import _checkpoint_parts as parts
from ._checkpoint_parts import Checkpoint, CheckpointWarning
from ._checkpoint_tree import decode, encode
from .errors import FileFormatError

__all__ = ["Saving", "load_checkpoint", "save_checkpoint"]

_FORMAT = "jaxmodule.orbax"
_VERSION = 1


def _orbax() -> ModuleType:
    try:
        import orbax.checkpoint as ocp
    except ImportError as error:
        raise ImportError(
            "jaxmodule.io.orbax needs orbax-checkpoint, which is not installed: pip install orbax-checkpoint"
        ) from error
    return ocp


def _manager(directory: str, **options: Any) -> Any:
    ocp = _orbax()
    options = {"step_prefix": "step", "step_format_fixed_length": 8, **options}
    return ocp.CheckpointManager(directory, options=ocp.CheckpointManagerOptions(**options))


# -- saving ----------------------------------------------------------------------------------------------------------


class Saving:
    """A save that goes on in the background.

    Attributes:
        step: the number that it is saved under.
        path: the checkpoint's folder, which is there when the save is done.
    """

    def __init__(self, step: int, path: str, manager: Any) -> None:
        self.step = step
        self.path = path
        self._manager = manager

    def wait(self) -> str:
        """Return the path when the checkpoint is on disk; raises what has gone wrong meanwhile."""
        if self._manager is not None:
            manager, self._manager = self._manager, None
            try:
                manager.wait_until_finished()
            finally:
                manager.close()
        return self.path

    def __repr__(self) -> str:
        return f"Saving(step={self.step}, path={self.path!r})"


_running: dict[str, Saving] = {}


@overload
def save_checkpoint(
    directory: str | os.PathLike[str],
    step: int,
    *,
    model: Any = None,
    optimizer: Any = None,
    generator: Any = None,
    extra: Any = None,
    keep: int | None = None,
    wait: Literal[True] = True,
) -> str: ...
@overload
def save_checkpoint(
    directory: str | os.PathLike[str],
    step: int,
    *,
    model: Any = None,
    optimizer: Any = None,
    generator: Any = None,
    extra: Any = None,
    keep: int | None = None,
    wait: Literal[False],
) -> Saving: ...
def save_checkpoint(
    directory: str | os.PathLike[str],
    step: int,
    *,
    model: Any = None,
    optimizer: Any = None,
    generator: Any = None,
    extra: Any = None,
    keep: int | None = None,
    wait: bool = True,
) -> str | Saving:
    """Save the state of a training run as an orbax checkpoint in `directory/step_00000100`.

    Args:
        directory: the folder of the run's checkpoints; made where there is none.
        step: how far the training is; more than that of any checkpoint that is there.
        model: as in `jm.save_checkpoint`.
        optimizer: likewise.
        generator: likewise.
        extra: likewise.
        keep: how many checkpoints are left, this one included.
        wait: False returns as soon as the arrays may be changed (or donated), and writes them in the background. The
            next save in this directory waits for this one.

    Returns:
        The checkpoint's folder; with `wait=False` a `Saving`, whose `wait()` returns it. Call that before the process
        ends.

    Raises:
        ImportError: orbax-checkpoint is not installed.
        ValueError: there is a checkpoint of this or a later step.
        TypeError: something in the state is neither plain data nor an array; the message names its place.

    Example:
        >>> import tempfile
        >>> from jaxmodule import nn
        >>> directory, model = tempfile.mkdtemp(), nn.Linear(3, 2)
        >>> saving = save_checkpoint(directory, 100, model=model, wait=False)
        >>> path = saving.wait()
        >>> load_checkpoint(directory, model=model).step
        100
    """
    directory, step = os.path.abspath(os.fspath(directory)), parts.checked_step(step)
    parts.check_keep(keep)
    parts.check_eager("save_checkpoint")
    ocp = _orbax()
    found = parts.states(parts.collect(model, optimizer, generator), extra)
    document, arrays = _document(step, found, copied=not wait)
    if directory in _running:
        _running.pop(directory).wait()
    manager = _manager(directory, max_to_keep=keep, enable_async_checkpointing=not wait, cleanup_tmp_directories=True)
    saving = Saving(step, _path(directory, step), manager)
    try:
        latest = manager.latest_step()
        if latest is not None and latest >= step:
            raise ValueError(
                f"{directory!r} has a checkpoint of step {latest}, and steps must grow: {step} cannot be saved. Remove "
                "the later ones, or save to another directory."
            )
        items = {"contents": ocp.args.JsonSave(document)}
        if arrays:
            items["arrays"] = ocp.args.PyTreeSave(arrays)
        manager.save(step, args=ocp.args.Composite(**items), force=True)
    except BaseException:
        manager.close()
        raise
    if wait:
        return saving.wait()
    _running[directory] = saving
    return saving


def _document(step: int, found: dict[str, Any], copied: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """What goes into JSON, and the arrays by part and name."""
    contents: dict[str, Any] = {}
    shapes: dict[str, dict[str, Any]] = {}
    arrays: dict[str, dict[str, Any]] = {}
    for part, state in found.items():
        contents[part], named = encode(part, state, spread=True)
        shapes[part] = {name: [list(array.shape), array.dtype.name] for name, array in named.items()}
        for name, array in named.items():
            if math.prod(array.shape):  # orbax writes no empty arrays
                own = np.array(array) if copied and not isinstance(array, jax.Array) else array
                arrays.setdefault(part, {})[name] = own
    return {
        "format": _FORMAT,
        "version": _VERSION,
        "step": step,
        "versions": {**parts.versions(), "orbax-checkpoint": _orbax().__version__},
        "contents": contents,
        "arrays": shapes,
    }, arrays


# -- loading ---------------------------------------------------------------------------------------------------------


def load_checkpoint(
    directory: str | os.PathLike[str],
    step: int | None = None,
    *,
    model: Any = None,
    optimizer: Any = None,
    generator: Any = None,
    strict: bool = True,
) -> Checkpoint:
    """Take back what `save_checkpoint` of this module saved: the newest checkpoint that can be read, or that of `step`.

    Arrays come with the shardings that the model and the optimizer have now, whatever they had when they were saved.
    All of the objects are loaded, or, if one does not fit, none.

    Args:
        directory: the folder of the run's checkpoints.
        step: take this one and no other.
        model: as in `jm.load_checkpoint`.
        optimizer: likewise.
        generator: likewise.
        strict: likewise.

    Returns:
        A `Checkpoint`.

    Raises:
        ImportError: orbax-checkpoint is not installed.
        FileNotFoundError: there is no such directory, or no checkpoint in it, or not the one of `step`.
        FileFormatError: none can be read, or not the one of `step`.
        KeyError, RuntimeError, ValueError: it does not match, as in `jm.load_checkpoint`.
    """
    directory = os.path.abspath(os.fspath(directory))
    parts.check_eager("load_checkpoint")
    _orbax()
    wanted = parts.collect(model, optimizer, generator)
    number = None if step is None else parts.checked_step(step)
    if not os.path.isdir(directory):
        raise FileNotFoundError(f"{directory!r}: there is no such directory of checkpoints")
    if directory in _running:
        _running.pop(directory).wait()
    found, document, contents, skipped = _newest(directory, number, wanted)
    path = _path(directory, found)
    for where, why in skipped:
        warnings.warn(f"the checkpoint {where!r} was skipped: {why}", CheckpointWarning, stacklevel=2)
    if generator is None and "generator" not in contents:
        del wanted["generator"]
    result, report = parts.apply(path, wanted, contents, strict)
    return Checkpoint(found, path, result, {"versions": document["versions"]}, tuple(skipped), report)


_Skipped = list[tuple[str, str]]


def _newest(
    directory: str, step: int | None, wanted: Mapping[str, Any]
) -> tuple[int, dict[str, Any], dict[str, Any], _Skipped]:
    """The step, the document and the contents of the newest checkpoint that can be read, and what was skipped."""
    skipped: _Skipped = []
    with _manager(directory, create=False) as manager:
        steps = sorted(manager.all_steps(), reverse=True)
        some = [each for each in steps if step is None or each == step]
        for each in some:
            try:
                return each, *_restored(manager, each, _path(directory, each), wanted), skipped
            except MemoryError:
                raise
            except Exception as error:  # what is wrong with a file reaches us as anything
                skipped.append((_path(directory, each), f"{type(error).__name__}: {error}"))
    if not some:
        which, there = "" if step is None else f" of step {step}", ", ".join(map(str, steps[:10])) or "none"
        raise FileNotFoundError(f"{directory!r} has no orbax checkpoint{which}; it has {there}")
    listed = "".join(f"\n  {path!r}: {why}" for path, why in skipped)
    raise FileFormatError(f"{directory!r} has no orbax checkpoint that can be read:{listed}")


def _restored(manager: Any, step: int, path: str, wanted: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    ocp = _orbax()
    document = manager.restore(step, args=ocp.args.Composite(contents=ocp.args.JsonRestore()))["contents"]
    if document.get("format") != _FORMAT or document.get("version") != _VERSION or document.get("step") != step:
        raise FileFormatError(f"{path!r} was not written by jaxmodule.io.orbax, or by a newer one")
    item: dict[str, Any] = {}
    how: dict[str, Any] = {}
    arrays: dict[str, dict[str, Any]] = {}
    for part in (*wanted, "extra"):
        places = _places(wanted[part]) if part in wanted else {}
        for name, (shape, dtype) in document["arrays"].get(part, {}).items():
            if not math.prod(shape):
                arrays.setdefault(part, {})[name] = np.zeros(shape, jnp.dtype(dtype))
                continue
            place = places.get((name, tuple(shape)))
            kind = ocp.RestoreArgs(restore_type=np.ndarray) if place is None else ocp.ArrayRestoreArgs(sharding=place)
            item.setdefault(part, {})[name] = 0
            how.setdefault(part, {})[name] = kind
    if item:
        restore = ocp.args.PyTreeRestore(item=item, restore_args=how, partial_restore=True)
        for part, named in manager.restore(step, args=ocp.args.Composite(arrays=restore))["arrays"].items():
            arrays.setdefault(part, {}).update(named)
    contents = dict(document["contents"])
    for part in contents.keys() & {*wanted, "extra"}:
        contents[part] = decode(path, contents[part], arrays.get(part, {}))
    return document, contents


def _places(each: Any) -> dict[tuple[str, tuple[int, ...]], Any]:
    """Where the arrays of an object are now, by name and shape, if that was said on purpose."""
    if not hasattr(each, "state_dict"):
        return {}
    found: dict[tuple[str, tuple[int, ...]], Any] = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(each.state_dict())[0]:
        sharding = getattr(leaf, "sharding", None)
        if sharding is not None and (isinstance(leaf, jax.ShapeDtypeStruct) or leaf.committed):
            keys = (getattr(key, "key", getattr(key, "idx", "")) for key in path)
            found[".".join(map(str, keys)), tuple(leaf.shape)] = sharding
    return found


def _path(directory: str, step: int) -> str:
    return os.path.join(directory, f"step_{step:08d}")

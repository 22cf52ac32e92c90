"""Checkpoints of training: `save_checkpoint`, `load_checkpoint`, and what a directory has of them.

*Part*: one object of a checkpoint (`model`, `optimizer`, or `model.ema` where several were given by name), with its
arrays in a `.safetensors` file and everything else in `checkpoint.json`. `_checkpoint_folders` says how they are kept
safe.
"""

import os
import shutil
import warnings
from typing import Any

from . import _checkpoint_files as files
from . import _checkpoint_folders as folders
from . import _checkpoint_parts as parts
from ._checkpoint_folders import Found
from ._checkpoint_parts import Checkpoint, CheckpointWarning
from ._checkpoint_tree import encode
from .atomic import naming

__all__ = [
    "Checkpoint",
    "CheckpointWarning",
    "Found",
    "latest_checkpoint",
    "list_checkpoints",
    "load_checkpoint",
    "save_checkpoint",
]


# -- saving ----------------------------------------------------------------------------------------------------------


def save_checkpoint(
    directory: str | os.PathLike[str],
    step: int,
    *,
    model: Any = None,
    optimizer: Any = None,
    generator: Any = None,
    extra: Any = None,
    keep: int | None = None,
) -> str:
    """Save the state of a training run as the folder `directory/step_00000100`.

    It appears whole or not at all, and is on disk when this returns: whatever happens meanwhile (`kill -9`, a full
    disk, a power cut), the earlier checkpoints are there. A step that was saved before is replaced in the same way.

    Args:
        directory: the folder of the run's checkpoints; made where there is none.
        step: how far the training is.
        model: a module, or a dict of several by name.
        optimizer: an optimizer, a scheduler, anything else with `state_dict` and `load_state_dict`, or a dict of
            several.
        generator: a `Generator`, or a dict of several; None for the default generator, False for none.
        extra: anything made of dicts, lists, tuples, numbers, text, bytes, None and arrays. Of an object with a
            `state_dict`, that is saved.
        keep: remove older checkpoints when this one is on disk, so that at most `keep` are left, this one included.
            Newer ones (of a run that was taken back) and damaged ones stay and are not counted.

    Returns:
        The checkpoint's folder.

    Raises:
        TypeError: something in the state is neither plain data nor an array; the message names its place.
        ValueError: a wrong step, `keep` or name, or a value that is not there (a meta model, a lazy parameter).
        OSError: the disk is full, or the folder cannot be written.

    Note:
        The model's file is an ordinary state dict, for `jm.load(path + "/model.safetensors")` and PyTorch's loaders.
        Not saved, as in torch, are non-persistent buffers, `requires_grad`, the mode of `train()` and `eval()`, and
        `.grad`. An array that is spread over several processes is refused: see `jaxmodule.io.orbax`.

    Example:
        >>> import tempfile, jaxmodule as jm
        >>> from jaxmodule import nn
        >>> directory, model = tempfile.mkdtemp(), nn.Linear(3, 2)
        >>> optimizer = jm.optim.AdamW(model.parameters())
        >>> path = save_checkpoint(directory, 100, model=model, optimizer=optimizer, extra={"epoch": 3})
        >>> checkpoint = load_checkpoint(directory, model=model, optimizer=optimizer)
        >>> checkpoint.step, checkpoint.extra
        (100, {'epoch': 3})
    """
    directory, step = os.path.abspath(os.fspath(directory)), parts.checked_step(step)
    parts.check_keep(keep)
    parts.check_eager("save_checkpoint")
    found = parts.states(parts.collect(model, optimizer, generator), extra)
    encoded = {name: encode(name, state) for name, state in found.items()}
    os.makedirs(directory, exist_ok=True)
    path = os.path.join(directory, folders.folder_name(step))
    with folders.saving(directory):
        made = folders.temporary(path)
        try:
            with naming(path):
                os.mkdir(made)
                _write(made, step, encoded, {name: getattr(state, "_metadata", None) for name, state in found.items()})
                folders.publish(made, path)
        except BaseException:
            shutil.rmtree(made, ignore_errors=True)
            raise
        if keep is not None:
            _prune(directory, step, keep)
    return path


def _write(folder: str, step: int, encoded: dict[str, tuple[Any, dict[str, Any]]], modules: dict[str, Any]) -> None:
    entries = {}
    with files.workers() as pool:
        for part, (_, arrays) in encoded.items():
            if arrays:
                name = f"{part}.safetensors"
                path = os.path.join(folder, name)
                entries[name] = files.write_file(path, files.pieces(path, arrays, modules[part]), pool)
    document = {
        "format": files.FORMAT,
        "version": files.VERSION,
        "step": step,
        "versions": parts.versions(),
        "files": entries,
        "contents": {part: tree for part, (tree, _) in encoded.items()},
    }
    files.write_index(folder, document)


def _prune(directory: str, step: int, keep: int) -> None:
    """Remove what is older than the `keep` newest up to `step`."""
    for found in [found for found in folders.whole(directory) if found.step <= step][keep:]:
        try:
            folders.discard(found.path)
        except OSError as error:
            warnings.warn(f"the old checkpoint {found.path!r} could not be removed: {error}", CheckpointWarning, 3)


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
    """Take back what `save_checkpoint` saved: the newest checkpoint that is whole, or the one of `step`.

    Every file is compared with its hash before anything is loaded. One that was cut off or altered is named in a
    warning, and the next older one is taken. Then all of the objects are loaded, or, if one does not fit, none.

    Args:
        directory: the folder of the run's checkpoints.
        step: take this one and no other.
        model: where to load the model: a module, or a dict of several by name, as it was saved.
        optimizer: likewise.
        generator: likewise; None for the default generator, if the checkpoint has one, False to leave it alone.
        strict: as in `load_state_dict` of a module.

    Returns:
        A `Checkpoint`: its `step`, `path`, `extra`, and what was `skipped`.

    Raises:
        FileNotFoundError: there is no such directory, or no checkpoint in it, or not the one of `step`.
        FileFormatError: none is whole (the message says what is wrong with each), or not the one of `step`.
        KeyError: it was saved without one of the objects that are to be loaded.
        RuntimeError: the model does not match.
        ValueError: the optimizer does not match.

    Note:
        Training that goes on from here is, bit for bit, what it would have been without the break: the default
        generator is set back, too. What a run has besides (how far its data is, Python's or numpy's random numbers)
        belongs into `extra`.

    Example:
        >>> import os, tempfile, warnings
        >>> from jaxmodule import nn
        >>> directory, model = tempfile.mkdtemp(), nn.Linear(3, 2)
        >>> for step in (1, 2):
        ...     path = save_checkpoint(directory, step, model=model)
        >>> os.truncate(path + "/model.safetensors", 100)
        >>> with warnings.catch_warnings(action="ignore"):
        ...     checkpoint = load_checkpoint(directory, model=model)
        >>> checkpoint.step, checkpoint.skipped[0][1]
        (1, "'.../step_00000002/model.safetensors' is cut off: it was written with ... bytes and has 100")
    """
    directory = os.path.abspath(os.fspath(directory))
    parts.check_eager("load_checkpoint")
    wanted = parts.collect(model, optimizer, generator)
    number = None if step is None else parts.checked_step(step)
    found, document, contents, skipped = folders.newest(directory, number)
    for path, why in skipped:
        warnings.warn(f"the checkpoint {path!r} was skipped: {why}", CheckpointWarning, stacklevel=2)
    if generator is None and "generator" not in contents:
        del wanted["generator"]
    extra, report = parts.apply(found.path, wanted, contents, strict)
    details = {key: document[key] for key in ("versions", "files")}
    return Checkpoint(found.step, found.path, extra, details, tuple(skipped), report)


# -- what there is ---------------------------------------------------------------------------------------------------


def list_checkpoints(directory: str | os.PathLike[str]) -> list[Found]:
    """The checkpoints of a directory that look whole, newest first; none if there is no such directory.

    Names and sizes of the files are checked, not their contents; `load_checkpoint` does that.

    Args:
        directory: the folder of the run's checkpoints.

    Example:
        >>> import tempfile
        >>> directory = tempfile.mkdtemp()
        >>> for step in (1, 2, 3):
        ...     path = save_checkpoint(directory, step, extra="anything", keep=2)
        >>> [found.step for found in list_checkpoints(directory)]
        [3, 2]
    """
    directory = os.path.abspath(os.fspath(directory))
    return folders.whole(directory) if os.path.isdir(directory) else []


def latest_checkpoint(directory: str | os.PathLike[str]) -> Found | None:
    """The newest of `list_checkpoints`, or None.

    Args:
        directory: the folder of the run's checkpoints.

    Example:
        >>> latest_checkpoint("no such directory") is None
        True
    """
    return next(iter(list_checkpoints(directory)), None)

"""`python -m jaxmodule.port parity ...`: the comparison as a command.

Exit status: 0 if everything agrees, 1 if something differs, 2 if the two could not be compared.
"""

import argparse
import contextlib
import importlib
import importlib.util
import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import jax.numpy as jnp
import numpy as np

from ..io import load
from ..nn.module import Module
from ..nn.renaming import prefix_of
from ..random import manual_seed
from ._parity import ParityReport, parity
from ._run import to_torch
from ._tree import is_array, mapped

__all__ = ["main"]

_STATES = ("state_dict", "model_state_dict", "model", "module", "net", "params")
_EXAMPLE = """
examples:
  python -m jaxmodule.port parity net_torch:build net_jax:build --weights net.pt --input 1,3,224,224
  python -m jaxmodule.port parity gpt_torch.py:GPT gpt_jax.py:GPT --input 2,64 --dtype int32 --high 50257 --backward
  python -m jaxmodule.port parity old:Net new:Net --input x.npy --rename encoder=backbone --json > report.json
"""


class _Refused(Exception):
    """What stands in the way of a comparison; its text is the message."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: of the command line; None for this process's.

    Returns:
        The exit status.
    """
    options = _parser().parse_args(arguments)
    try:
        return _compared(options)
    except _Refused as refusal:
        text = str(refusal)
    except SystemExit as error:  # a status of theirs would be taken for one of ours
        text = f"a model, or what makes it, ended the program: SystemExit({error.code!r})"
    except Exception as error:
        text = _told(error)
    print(f"error: {text}", file=sys.stderr)
    return 2


def _compared(options: argparse.Namespace) -> int:
    """Compare and print; the exit status."""
    # With --json nothing else may be on stdout, whatever the models print.
    with contextlib.redirect_stdout(sys.stderr) if options.json else contextlib.nullcontext():
        report = _run(options)
    try:
        _print(report, options)
        sys.stdout.flush()
    except BrokenPipeError:  # `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0 if report.ok else 1


def _print(report: ParityReport, options: argparse.Namespace) -> None:
    if options.json:
        print(json.dumps(report.to_json(), indent=1, allow_nan=False))
    else:
        from rich.console import Console

        from ._table import rendered

        Console(highlight=False).print(rendered(report, options.all))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m jaxmodule.port", description="Bring a PyTorch model over to jaxmodule."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    one = commands.add_parser(
        "parity",
        help="does a port compute what its PyTorch original computes?",
        description=(
            "Load the weights into a PyTorch model and its port, run both on the same inputs, and show\n"
            "what every module returns. The first module that differs is named, with what probably\n"
            "causes it. Exit status: 0 all agrees, 1 something differs, 2 they could not be compared."
        ),
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = one.add_argument
    add("torch_model", help="package.module:name or path.py:name of a function or class that makes the PyTorch model")
    add("jax_model", help="the same of the port")
    add("--weights", metavar="FILE", help="a checkpoint, .pt or .safetensors (default: torch's initial weights)")
    add("--key", help="where in a nested checkpoint the weights are, such as 'model'")
    add("--input", action="append", required=True, metavar="SHAPE", help="such as 1,3,224,224, or a .npy; repeatable")
    add("--dtype", action="append", help="of the inputs (default float32); once for all, or once for each input")
    add("--high", action="append", type=int, help="integer inputs are drawn below this (default 2); as --dtype")
    add("--seed", type=int, default=0, help="of the inputs and of initial weights (default 0)")
    add("--backward", action="store_true", help="compare gradients too")
    add("--train-step", action="store_true", help="run in training mode and compare buffers too")
    add("--double", action="store_true", help="run both in float64: what is left are mistakes")
    add("--rtol", type=float, help="relative to each tensor's largest value (default: by dtype, float32 1e-5)")
    add("--atol", type=float, help="added to it")
    add("--strip-prefix", action="append", metavar="PREFIX", help="take this off torch's names; repeatable")
    add("--rename", action="append", metavar="OLD=NEW", help="change the beginning of torch's names; repeatable")
    add(
        "--rename-regex",
        action="append",
        metavar="PATTERN=TEXT",
        help="change torch's names as re.sub does; repeatable",
    )
    add("--json", action="store_true", help="print the report as JSON, and nothing else, to stdout")
    add("--all", action="store_true", help="show every row of a long table")
    return parser


def _run(options: argparse.Namespace) -> ParityReport:
    try:
        import torch
    except ImportError:
        raise _Refused("PyTorch is not installed, and the original runs in it: pip install torch") from None
    inputs = _inputs(options)
    torch.manual_seed(options.seed)
    manual_seed(options.seed)
    theirs = _built(options.torch_model)
    ours = _built(options.jax_model)
    for model, wanted, text in (
        (theirs, torch.nn.Module, f"{options.torch_model} gives a {type(theirs).__name__}, not a torch.nn.Module"),
        (ours, Module, f"{options.jax_model} gives a {type(ours).__name__}, not a jaxmodule.nn.Module"),
    ):
        if not isinstance(model, wanted):
            raise _Refused(text)
    if options.weights:
        _load_torch(theirs, options.weights, options.key)
    rules: list[Any] = [_rule(text, "--rename") for text in options.rename or ()]
    patterns = [_rule(text, "--rename-regex") for text in options.rename_regex or ()]
    try:
        rules += [(re.compile(pattern), text) for pattern, text in patterns]
    except re.error as error:
        raise _Refused(f"--rename-regex {error.pattern!r} is no regular expression: {error}") from None
    try:
        return parity(
            theirs,
            ours,
            *inputs,
            backward=options.backward,
            train_step=options.train_step,
            double=options.double,
            rtol=options.rtol,
            atol=options.atol,
            strip_prefix=options.strip_prefix,
            rename=rules or None,
        )
    except Exception as error:
        raise _Refused(_told(error)) from error


def _told(error: BaseException) -> str:
    notes = getattr(error, "__notes__", [])
    return "\n  ".join([f"{type(error).__name__}: {error}", *notes])


def _rule(text: str, option: str) -> tuple[str, str]:
    pattern, equals, replacement = text.partition("=")
    if not equals:
        raise _Refused(f"{option} {text!r} has no '='; write OLD=NEW, such as encoder=backbone")
    return pattern, replacement


def _inputs(options: argparse.Namespace) -> list[np.ndarray]:
    rng = np.random.default_rng(options.seed)
    found = []
    for i, text in enumerate(options.input):
        if text.endswith(".npy"):
            try:
                found.append(np.load(text, allow_pickle=False))
            except (OSError, ValueError) as error:
                raise _Refused(f"--input {text}: {error}") from error
            continue
        try:
            shape = tuple(int(part) for part in text.split(",") if part)
            if min(shape, default=1) < 0:
                raise ValueError("a negative size")
        except ValueError:
            raise _Refused(f"--input {text!r} is no shape; write sizes with commas, such as 1,3,224,224") from None
        name = _for(options.dtype, i, "float32", len(options.input), "--dtype")
        high = _for(options.high, i, 2, len(options.input), "--high")
        found.append(_drawn(rng, shape, name, high))
    return found


def _drawn(rng: np.random.Generator, shape: tuple[int, ...], name: str, high: int) -> np.ndarray:
    """Random numbers: normal ones, or integers from 0 to `high`."""
    try:
        dtype = np.dtype(name)
    except TypeError:
        raise _Refused(f"--dtype {name!r} is no dtype of numpy, such as float32 or int32") from None
    if jnp.issubdtype(dtype, np.complexfloating):
        return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(dtype)
    if jnp.issubdtype(dtype, np.floating):
        return rng.standard_normal(shape).astype(dtype)
    if dtype.kind not in "iub":
        raise _Refused(f"--dtype {name!r}: there are no random inputs of it; give numbers, such as float32 or int32")
    largest = 1 if dtype.kind == "b" else int(np.iinfo(dtype).max)
    if not 0 < high <= largest + 1:
        raise _Refused(f"--high {high}: {name} inputs are drawn from 0 on and below it, so it is 1 to {largest + 1}")
    return rng.integers(0, high, shape, np.uint64 if high > 2**63 - 1 else np.int64).astype(dtype)


def _for(given: list[Any] | None, i: int, default: Any, count: int, what: str) -> Any:
    if not given:
        return default
    if len(given) not in (1, count):
        raise _Refused(f"{what} is given {len(given)} times for {count} inputs; give it once, or once for each")
    return given[0] if len(given) == 1 else given[i]


def _built(reference: str) -> Any:
    """What `package.module:name` or `path.py:name` makes."""
    place, colon, name = reference.rpartition(":")
    if not colon or not place:
        raise _Refused(f"{reference!r} names no model; write package.module:name or path.py:name")
    try:
        found: Any = _imported(place)
    except FileNotFoundError:
        raise _Refused(f"{reference!r}: there is no file {place}") from None
    except Exception as error:
        raise _Refused(f"{reference!r} can't be imported: {_told(error)}") from error
    for part in name.split("."):
        if not hasattr(found, part):
            raise _Refused(f"{reference!r}: {place} has no {part!r}")
        found = getattr(found, part)
    if hasattr(found, "state_dict") and not isinstance(found, type):
        return found
    if not callable(found):
        raise _Refused(f"{reference!r} is a {type(found).__name__}, neither a model nor something that makes one")
    try:
        return found()
    except Exception as error:
        raise _Refused(f"{reference}() failed: {_told(error)}") from error


def _imported(place: str) -> Any:
    if not place.endswith(".py"):
        if os.getcwd() not in sys.path:
            sys.path.insert(0, os.getcwd())
        return importlib.import_module(place)
    path = os.path.abspath(place)
    if not os.path.exists(path):
        raise FileNotFoundError(path)
    if os.path.dirname(path) not in sys.path:
        sys.path.insert(0, os.path.dirname(path))  # its own imports of files beside it
    name = os.path.splitext(os.path.basename(path))[0]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# -- weights ---------------------------------------------------------------------------------------------------------


def _load_torch(model: Any, path: str, key: str | None) -> None:
    """Load a checkpoint into the PyTorch model; the port takes its weights from there."""
    try:
        found: Any = load(path)
    except FileNotFoundError:
        raise _Refused(f"there is no file {path}") from None
    except Exception as error:
        raise _Refused(_told(error)) from error
    state = _state(found, path, key)
    prefix = prefix_of(state, model.state_dict())  # of DistributedDataParallel, torch.compile, Lightning
    if prefix and all(name.startswith(prefix) for name in state):
        print(f"note: {path}: every name begins with {prefix!r}; taken off for the model", file=sys.stderr)
        state = {name.removeprefix(prefix): value for name, value in state.items()}
    kept = {name: x for name, x in state.items() if is_array(x) or name.rpartition(".")[2] == "_extra_state"}
    try:
        model.load_state_dict(mapped(kept, to_torch))
    except Exception as error:
        raise _Refused(f"{path} doesn't fit the PyTorch model: {error}") from error


def _state(found: Any, path: str, key: str | None) -> Mapping[str, Any]:
    """The state dict in what a file held."""
    if key is not None:
        for part in key.split("."):
            if not isinstance(found, Mapping) or part not in found:
                _no_state(found, path, f"has no {part!r}")
            found = found[part]
    elif isinstance(found, Mapping) and not any(is_array(value) for value in found.values()):
        inner = next((name for name in _STATES if isinstance(found.get(name), Mapping)), None)
        found = found if inner is None else found[inner]
    if not isinstance(found, Mapping) or not any(is_array(value) for value in found.values()):
        _no_state(found, path, "holds no weights there")
    return found


def _no_state(found: Any, path: str, what: str) -> NoReturn:
    there = ", ".join(map(repr, list(found)[:8])) if isinstance(found, Mapping) else f"a {type(found).__name__}"
    raise _Refused(f"{path} {what}; there is: {there}. Name the entry with the weights by --key")

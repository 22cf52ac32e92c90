"""The table of docs/coverage.md: every public name of torch.nn, and whether jaxmodule has it with the same signature.

`python -m tests.parity.coverage` prints it; `make coverage` writes it. tests/parity/test_coverage.py holds it to what
is installed.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator
from types import ModuleType
from typing import Any, NamedTuple, TypeVar

import torch

PLACES = (
    "nn",
    "nn.functional",
    "nn.init",
    "nn.parameter",
    "nn.grad",
    "nn.utils",
    "nn.utils.clip_grad",
    "nn.utils.convert_parameters",
    "nn.utils.fusion",
    "nn.utils.init",
    "nn.utils.memory_format",
    "nn.utils.parametrizations",
    "nn.utils.parametrize",
    "nn.utils.prune",
    "nn.utils.rnn",
    "nn.utils.spectral_norm",
    "nn.utils.stateless",
    "nn.utils.weight_norm",
    "nn.attention",
    "nn.attention.bias",
    "nn.attention.flex_attention",
    "nn.attention.varlen",
    "nn.parallel",
    "nn.parallel.comm",
    "nn.parallel.data_parallel",
    "nn.parallel.distributed",
    "nn.parallel.parallel_apply",
    "nn.parallel.replicate",
    "nn.parallel.scatter_gather",
    "nn.common_types",
    "nn.modules",
    *(
        f"nn.modules.{file}"
        for file in (
            "activation adaptive batchnorm channelshuffle container conv distance dropout flatten fold instancenorm "
            "lazy linear loss module normalization padding pixelshuffle pooling rnn sparse transformer upsampling utils"
        ).split()
    ),
)

_MACHINERY = "torch's own machinery for `__torch_function__` and TorchScript"
_AO = "deprecated in torch in favour of torch.ao"
_KERNEL = "chooses among the CUDA kernels that torch ships; XLA's are not chosen by name"
#: Public names that are not here, and why. Beside these everything must be.
ABSENT = {
    "nn.intrinsic": _AO,
    "nn.qat": _AO,
    "nn.quantizable": _AO,
    "nn.quantized": _AO,
    "nn.functional.assert_int_or_pair": _MACHINERY,
    "nn.functional.boolean_dispatch": _MACHINERY,
    "nn.functional.handle_torch_function": _MACHINERY,
    "nn.functional.has_torch_function": _MACHINERY,
    "nn.functional.has_torch_function_unary": _MACHINERY,
    "nn.functional.has_torch_function_variadic": _MACHINERY,
}
#: Names that are here and raise when they are used, with the remedy.
REFUSES = {
    f"nn.{place}.{name}": "raises: one compiled program runs on all devices; the message shows the sharding"
    for place, names in (
        ("parallel", "DataParallel DistributedDataParallel data_parallel gather parallel_apply replicate scatter"),
        ("parallel.comm", "broadcast broadcast_coalesced gather reduce_add reduce_add_coalesced scatter"),
        ("parallel.data_parallel", "DataParallel data_parallel"),
        ("parallel.distributed", "DistributedDataParallel"),
        ("parallel.parallel_apply", "get_a_var parallel_apply"),
        ("parallel.replicate", "replicate"),
        ("parallel.scatter_gather", "gather scatter scatter_kwargs"),
    )
    for name in names.split()
}
REFUSES["nn.DataParallel"] = REFUSES["nn.parallel.DataParallel"]
#: Signatures that differ on purpose.
DIFFERS = {
    "nn.functional.scaled_dot_product_attention": "torch's docstring leaves out the `*` that its function has",
    "nn.functional.scaled_mm": "the default dtype is JAX's of that name",
    "nn.functional.scaled_grouped_mm": "the default dtype is JAX's of that name",
    "nn.attention.restore_flash_attention_impl": "torch's argument is a private one",
}

# What torch's files import and do not own.
_FOREIGN = frozenset(
    "ABC Any BroadcastingList1 BroadcastingList2 BroadcastingList3 Callable DType Generic Iterable Iterator Literal "
    "Optional ParamSpec Sequence T TYPE_CHECKING Tensor TypeVar Union abstractmethod deepcopy inspect math numbers "
    "torch warnings".split()
)


class Entry(NamedTuple):
    """One line of the table."""

    place: str
    name: str
    state: str  # "same", "differs", "refuses", "absent" or "missing"
    note: str

    @property
    def path(self) -> str:
        return f"{self.place}.{self.name}"


def public_names(place: str) -> list[str]:
    """The public names of one of torch's modules."""
    module = importlib.import_module(f"torch.{place}")
    if place == "nn.common_types":
        return ["Tensor"]
    if place in ("nn", "nn.functional") or not hasattr(module, "__all__"):
        names = [name for name in vars(module) if not name.startswith("_") and name not in _FOREIGN]
        keep_modules = place == "nn"
        return sorted(
            name
            for name in names
            if callable(getattr(module, name))
            or (keep_modules and name not in ("modules", "parameter") and f"torch.nn.{name}" in _importable())
        )
    return sorted(module.__all__)


def _importable() -> set[str]:
    return {f"torch.nn.{name}" for name in vars(torch.nn)}


Argument = tuple[str, Any, str]


def signature(value: Any) -> list[Argument] | None:
    """(name, default, kind) of each argument, from the signature or torch's docstring; None where neither tells."""
    documented = inspect.getdoc(value) or ""
    try:
        found = [(p.name, p.default, p.kind.name) for p in inspect.signature(value).parameters.values()]
    except (TypeError, ValueError):
        return _documented(value, documented)
    if [name for name, _, _ in found] == ["args", "kwargs"]:
        return _documented(value, documented)
    return found


def _documented(value: Any, text: str) -> list[Argument] | None:
    name = getattr(value, "__name__", "")
    match = re.search(rf"^{re.escape(name)}\((.*?)\)\s*->", text, re.S | re.M) or re.search(
        rf"\A{re.escape(name)}\((.*?)\)\s*$", text.split("\n\n")[0].replace("\n", " ").strip()
    )
    if match is None or match.group(1) == "...":
        return None
    arguments, kind = [], "POSITIONAL_OR_KEYWORD"
    for part in match.group(1).replace("\n", " ").split(","):
        name, _, default = (piece.strip() for piece in part.partition("="))
        if name in ("*", "/"):
            kind = "KEYWORD_ONLY"
            continue
        value = eval(default, {}) if default else inspect.Parameter.empty
        arguments.append((name.partition(":")[0], value, kind))
    return arguments


def _same_default(a: Any, b: Any) -> bool:
    if type(a) in (int, float) and type(b) in (int, float):
        return a == b
    return type(a).__name__ == type(b).__name__ and (a == b or repr(a) == repr(b) or callable(a))


def _shown(arguments: list[Argument]) -> str:
    shown, keyword = [], False
    for name, default, kind in arguments:
        if kind == "KEYWORD_ONLY" and not keyword:
            keyword = True
            shown.append("*")
        star = {"VAR_POSITIONAL": "*", "VAR_KEYWORD": "**"}.get(kind, "")
        shown.append(f"{star}{name}" if default is inspect.Parameter.empty else f"{name}={default!r}")
    return f"({', '.join(shown)})"


def difference(ours: Any, theirs: Any) -> str:
    """How two signatures differ, or nothing."""
    a, b = signature(ours), signature(theirs)
    if a is None or b is None:
        return ""
    same = len(a) == len(b) and all(
        x[0] == y[0] and x[2] == y[2] and _same_default(x[1], y[1]) for x, y in zip(a, b, strict=True)
    )
    return "" if same else f"`{_shown(a)}`, torch's `{_shown(b)}`"


def entries() -> Iterator[Entry]:
    """Every line."""
    for place in PLACES:
        theirs = importlib.import_module(f"torch.{place}")
        try:
            ours: Any = importlib.import_module(f"jaxmodule.{place}")
        except ModuleNotFoundError:
            ours = None
        for name in public_names(place):
            yield _entry(place, name, ours, getattr(theirs, name, None))


def _entry(place: str, name: str, ours: Any, theirs: Any) -> Entry:
    path = f"{place}.{name}"
    if not hasattr(ours, name):
        return Entry(place, name, *(("absent", ABSENT[path]) if path in ABSENT else ("missing", "")))
    if path in REFUSES:
        return Entry(place, name, "refuses", REFUSES[path])
    mine = getattr(ours, name)
    if not callable(theirs) or isinstance(theirs, ModuleType) or place.startswith("nn.modules"):
        return Entry(place, name, "same", "")  # the signatures of modules are compared where they are in nn
    found = difference(mine, theirs)
    if not found:
        return Entry(place, name, "same", "")
    return Entry(place, name, "differs", f"{found}: {DIFFERS[path]}" if path in DIFFERS else found)


def missing_methods() -> Iterator[str]:
    """`Class.method` of torch's public methods that a class of ours doesn't have."""
    nn = importlib.import_module("jaxmodule.nn")
    for name in public_names("nn"):
        theirs, ours = getattr(torch.nn, name), getattr(nn, name, None)
        if not (isinstance(theirs, type) and issubclass(theirs, torch.nn.Module)) or f"nn.{name}" in REFUSES:
            continue
        for cls in theirs.__mro__:
            if cls.__module__.startswith("torch.nn"):
                annotated = vars(cls).get("__annotations__", {})  # TorchScript's constants
                for method, value in list(vars(cls).items()):
                    if method.startswith("_") or method in annotated or isinstance(value, TypeVar):
                        continue
                    if not hasattr(ours, method):
                        yield f"{name}.{method}"


_HEAD = """\
# What of torch.nn is here

Made by `make coverage` from the installed torch {version}; a test fails when it is out of date or a name is missing.
{counts}

A name is here with torch's signature (names, order, defaults and kinds of the arguments) unless a note says otherwise.
Annotations are not compared: ours are JAX's.

Names that begin with an underscore are torch's own, are not counted, and are here only where ports of PyTorch code
commonly use them: `nn.modules.conv._ConvNd`, `nn.modules.utils._pair`, `F._in_projection_packed` and their like.
"""


def render() -> str:
    """The whole page."""
    found = list(entries())
    count = {
        state: sum(e.state == state for e in found) for state in ("same", "differs", "refuses", "absent", "missing")
    }
    counts = (
        f"{len(found)} public names: {count['same']} with the same signature, {count['differs']} with another, "
        f"{count['refuses']} that raise with the remedy, {count['absent']} not here, {count['missing']} missing."
    )
    lines = [_HEAD.format(version=torch.__version__.partition("+")[0], counts=counts)]
    noted = [e for e in found if e.state != "same"]
    lines.append("## What differs\n\n| name | here | why, or the arguments that differ |\n|---|---|---|")
    label = {"differs": "yes", "refuses": "raises", "absent": "no", "missing": "**missing**"}
    lines += [f"| `{e.path}` | {label[e.state]} | {e.note.replace('|', chr(92) + '|')} |" for e in noted]
    for place in PLACES:
        names = [e for e in found if e.place == place and e.state == "same"]
        lines.append(f"\n## torch.{place}\n")
        lines.append(", ".join(f"`{e.name}`" for e in names) if names else "(see above)")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(render(), end="")
